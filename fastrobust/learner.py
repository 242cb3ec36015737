"`robust_learner`: a loss and techniques on a standard fastai learner, in one call that you could write in four lines"
import copy, inspect
from torch import nn
from fastcore.meta import delegates
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastai.vision.learner import model_meta, vision_learner, _default_meta
from fastrobust.basics import nearest
from fastrobust.inference.anyarch import add_norm, body_learner, needs_body
from fastrobust.inference.pretrained import stats_for
from fastrobust.pixels import peek_images
from fastrobust.recipes import RECIPES, get_recipe
from fastrobust.training.callback import ensure_objective
from fastrobust.training.checks import check
from fastrobust.training.technique import Technique

__all__ = ['robust_learner']

def _known(cls=Technique):
    "Names of the techniques, without the bases they are built on"
    names = set()
    for c in cls.__subclasses__():
        names |= set(_known(c))
        if '.bases.' not in c.__module__: names.add(c.__name__)
    return sorted(names)

def _hint(name):
    "What was meant by a technique that is a string"
    if name in RECIPES: return f"That is a recipe: write recipe={name!r}."
    if name in _known(): return f"Write {name}(...)."
    return nearest(name, _known())

def _need_dls(dls):
    if hasattr(dls, 'loaders'): return
    raise TypeError(f"expected DataLoaders, got a {type(dls).__name__}. The data come first: "
                    "robust_learner(dls, resnet18).")

def _as_list(techniques):
    if techniques is None: return []
    ts = list(techniques) if isinstance(techniques, (list, tuple)) else [techniques]
    for t in ts:
        if isinstance(t, Callback): continue
        if isinstance(t, type) and issubclass(t, Callback):
            raise TypeError(f"expected techniques with their settings, got the class {t.__name__}. "
                            f"Write {t.__name__}(...).")
        hint = _hint(t) if isinstance(t, str) else ''
        raise TypeError(f"expected techniques such as AugMix() or LogitClip(1.), got {t!r}. {hint}")
    return ts

def _need_new(ts):
    "Refuse two techniques of one class"
    names = [type(t).__name__ for t in ts if sum(type(o) is type(t) for o in ts) > 1]
    if names:
        raise ValueError(f"expected each technique once in recipe and `techniques` together, got "
                         f"{', '.join(sorted(set(names)))} twice. Leave one out.")

def _from_recipe(recipe, dls, aux):
    "(loss, techniques) that the recipe makes of the data"
    takes = inspect.signature(recipe).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in takes.values())
    if aux is not None and 'aux' not in takes and not takes_all:
        raise ValueError(f"the recipe {getattr(recipe, '__name__', recipe)} takes no `aux` "
                         "images, got some. Give them to a technique: ODNL(aux).")
    made = recipe(dls) if aux is None else recipe(dls, aux=aux)
    if not (isinstance(made, (tuple, list)) and len(made) == 2):
        raise TypeError(f"expected a recipe to return (loss, techniques), got {made!r}. "
                        "Return (loss, []) for a loss alone.")
    return made

def _check_arch(arch, learner_func, dls):
    "Refuse none where one is needed, and a function such as `small_cnn` in place of its network"
    if arch is None and learner_func is vision_learner:
        raise TypeError("expected an architecture such as resnet18, a timm name or an nn.Module, "
                        "got none.")
    if inspect.isfunction(arch) and 'n_out' in inspect.signature(arch).parameters:
        raise TypeError("expected a network or a torchvision architecture, got the function "
                        f"{arch.__name__}. Write {arch.__name__}({getattr(dls, 'c', 10)}).")

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
    return Learner(dls, net, loss_func=loss, **kwargs)

def _made_learner(dls, arch, loss, learner_func, kwargs):
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
    loss,ts = None,[]
    if recipe is not None:
        loss,ts = _from_recipe(get_recipe(recipe), dls, aux)
    elif aux is not None:
        raise ValueError("`aux` images are for recipes, got no recipe. Give them to a technique: "
                         "ODNL(aux).")
    ts = _as_list(ts) + _as_list(techniques)
    _need_new(ts)
    loss = copy.copy(loss) if loss_func is None else loss_func
    if isinstance(loss, type):
        raise TypeError(f"expected a loss, got the class {loss.__name__}. Write "
                        f"{loss.__name__}(...).")
    _need_dls(dls)
    _check_arch(arch, learner_func, dls)

    if isinstance(arch, nn.Module):
        learn = _plain_learner(dls, arch, loss, kwargs)
    else: learn = _made_learner(dls, arch, loss, learner_func, kwargs)

    noise = getattr(dls, 'noise', None)
    watchers:list = getattr(noise, 'cbs', list)()
    ts += [cb for cb in watchers if not any(isinstance(o, type(cb)) for o in learn.cbs)]
    learn.add_cbs(ts)
    if recipe is not None:
        ensure_objective(learn)     # a recipe says at every fit what it does, be it a loss alone
    if any(isinstance(t, Technique) for t in learn.cbs): check(learn)
    return learn
