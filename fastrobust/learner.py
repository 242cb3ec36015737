"`robust_learner`: a loss and techniques on a standard fastai learner, in one call that you could write in four lines"
import copy, inspect
from torch import nn
from fastcore.foundation import L
from fastcore.meta import delegates
from fastai.learner import Learner
from fastai.vision.learner import model_meta, vision_learner, _default_meta
from fastrobust.basics import shown
from fastrobust.data.reading import need_known_labels
from fastrobust.doors import (as_list, need_arch, need_dls, need_keywords, need_loss, need_new,
                              need_one_label)
from fastrobust.inference.anyarch import add_norm, body_learner, needs_body
from fastrobust.inference.pretrained import stats_for
from fastrobust.pixels import peek_images
from fastrobust.recipes import get_recipe
from fastrobust.training.callback import ensure_objective
from fastrobust.training.checks import check
from fastrobust.training.network import check_network
from fastrobust.training.objective import inner_loss
from fastrobust.training.surgery import looks_trained
from fastrobust.training.technique import Technique

__all__ = ['robust_learner']

def _asks_for_body(recipe):
    "Does a recipe want to know whether the body is trained already?"
    return 'pretrained' in inspect.signature(recipe).parameters and 'pretrained' not in getattr(recipe, 'keywords', {})

def _from_recipe(recipe, dls, aux, **settings):
    "(loss, techniques) that the recipe makes of the data"
    takes = inspect.signature(recipe).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in takes.values())
    if aux is not None and 'aux' not in takes and not takes_all:
        raise ValueError(f"the recipe {getattr(recipe, '__name__', recipe)} takes no `aux` "
                         "images, got some. Give them to a technique: ODNL(aux).")
    if aux is not None: settings['aux'] = aux
    made = recipe(dls, **settings)
    if not (isinstance(made, (tuple, list)) and len(made) == 2):
        raise TypeError(f"expected a recipe to return (loss, techniques), got {made!r}. "
                        "Return (loss, []) for a loss alone.")
    return made

def _grey_stats(dls, arch, n_in):
    "A pretrained net for colour on `n_in` channels: fastai adds no Normalize then, we add the averaged statistics"
    meta = {} if isinstance(arch, str) else model_meta.get(arch, _default_meta)
    stats = meta.get('stats')
    if stats is None or n_in == len(stats[0]): return
    add_norm(dls, stats_for(stats, n_in), averaged=True)

def _with_channels(kwargs, dls, arch, learner_func):
    "`kwargs` for `learner_func`, with `n_in` where the images are not in colour"
    takes = inspect.signature(learner_func).parameters
    if 'n_in' not in takes or kwargs.get('n_in') is not None: return kwargs
    x = peek_images(dls)
    if x is None or x.shape[1] == 3: return kwargs
    n = x.shape[1]
    if kwargs.get('pretrained', True) and kwargs.get('normalize', True): _grey_stats(dls, arch, n)
    return {**kwargs, 'n_in': n}

def _plain_learner(dls, net, loss, kwargs):
    "fastai's Learner on a network of the user's"
    takes = inspect.signature(Learner.__init__).parameters
    unknown = [k for k in kwargs if k not in takes]
    if unknown:
        raise ValueError(f"a plain Learner on your {type(net).__name__} does not take "
                         f"{', '.join(unknown)}: these are for architectures that "
                         "vision_learner builds. Leave them out.")
    judge = loss or getattr(dls.train_ds, 'loss_func', None)
    check_network(net, dls, judge, L(kwargs.get('cbs')))    # before techniques change it
    return Learner(dls, net, loss_func=loss, **kwargs)

def _made_learner(dls, arch, loss, learner_func, kwargs):
    "What `learner_func` makes of an architecture, if it fits the data"
    learn = _of_arch(dls, arch, loss, learner_func, kwargs)
    if not isinstance(learn, Learner):
        raise TypeError(f"expected `learner_func` to return a Learner, got {shown(learn)}. Write "
                        "return Learner(dls, model, loss_func=loss_func).")
    asked = hasattr(learn, 'n_out')     # vision_learner counts classes, or does what `n_out` says
    check_network(learn.model, learn.dls, inner_loss(learn.loss_func), learn.cbs, asked)
    return learn

def _of_arch(dls, arch, loss, learner_func, kwargs):
    "What `learner_func` makes of an architecture; of one that vision_learner cannot cut, `body_learner`"
    if learner_func is vision_learner and needs_body(arch):
        return body_learner(dls, arch, loss_func=loss, **kwargs)
    kw = _with_channels(kwargs, dls, arch, learner_func)
    args = [dls] if arch is None else [dls, arch]
    try: return learner_func(*args, loss_func=loss, **kw)
    except (StopIteration, AssertionError):
        # create_body found no pooling layer or no first convolution where it looks for them
        if learner_func is not vision_learner: raise
    return body_learner(dls, arch, loss_func=loss, **kwargs)

@delegates(vision_learner)
def robust_learner(
    dls,                    # DataLoaders
    arch=None,              # torchvision function, timm name or nn.Module (then a plain Learner)
    techniques=None,        # A Technique or a list of them, added to the recipe's
    recipe=None,            # Name in RECIPES, or a function (dls, **kw) -> (loss, techniques)
    loss_func=None,         # Loss; beats the recipe's. None: the recipe's, else that of the dls
    aux=None,               # Open-set images for recipes that want them
    learner_func=vision_learner, # Makes the learner: vision_learner, tabular_learner, Learner, ...
    **kwargs
) -> Learner:
    "A fastai Learner with a recipe's or your own loss and techniques"
    if recipe is not None: recipe = get_recipe(recipe)
    elif aux is not None:
        raise ValueError("`aux` images are for recipes, got no recipe. Give them to a technique: "
                         "ODNL(aux).")
    techniques = as_list(techniques)
    need_keywords(kwargs, arch, learner_func, recipe)
    need_dls(dls)
    need_arch(arch, learner_func, dls)
    need_known_labels(dls)
    need_one_label(dls, recipe)

    loss,ts = None,[]
    if recipe is not None: loss,ts = _from_recipe(recipe, dls, aux)
    ts = as_list(ts) + techniques
    need_new(ts)
    loss = copy.copy(loss) if loss_func is None else loss_func
    need_loss(loss)
    need_one_label(dls, loss, *ts, *L(kwargs.get('cbs')))

    if isinstance(arch, nn.Module): learn = _plain_learner(dls, arch, loss, kwargs)
    else: learn = _made_learner(dls, arch, loss, learner_func, kwargs)
    if recipe is not None and _asks_for_body(recipe) and looks_trained(learn.model):
        _,ts = _from_recipe(recipe, dls, aux, pretrained=True)
        ts = as_list(ts) + techniques

    noise = getattr(dls, 'noise', None)
    watchers:list = getattr(noise, 'cbs', list)()
    ts += [cb for cb in watchers if not any(isinstance(o, type(cb)) for o in learn.cbs)]
    learn.add_cbs(ts)
    if recipe is not None:
        ensure_objective(learn, stays=True)     # a recipe says at every fit what it does, be it a loss alone
    if any(isinstance(t, Technique) for t in learn.cbs): check(learn)
    return learn
