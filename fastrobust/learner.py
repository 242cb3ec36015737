"`robust_learner`: a loss and techniques on a standard fastai learner, in one call that you could write in four lines"
import copy, inspect
from torch import nn
from fastcore.meta import delegates
from fastai.callback.core import Callback
from fastai.data.transforms import Normalize
from fastai.learner import Learner
from fastai.vision.learner import model_meta, vision_learner, _default_meta
from fastrobust.basics import nearest, robust_warn
from fastrobust.pixels import peek_images
from fastrobust.training.checks import check
from fastrobust.training.technique import Technique
from fastrobust.training.callback import ensure_objective
from fastrobust.recipes import get_recipe

__all__ = ['robust_learner']

def _known(cls=Technique):
    return sorted({n for c in cls.__subclasses__() for n in {c.__name__, *_known(c)}})

def _as_list(techniques):
    ts = list(techniques) if isinstance(techniques, (list, tuple)) else [] if techniques is None else [techniques]
    for t in ts:
        if isinstance(t, Callback): continue
        if isinstance(t, type) and issubclass(t, Callback):
            raise TypeError(f"expected techniques with their settings, got the class {t.__name__}. "
                            f"Write {t.__name__}(...).")
        raise TypeError(f"expected techniques such as AugMix() or LogitClip(1.), got {t!r}. "
                        + (nearest(t, _known()) if isinstance(t, str) else ''))
    return ts

def _grey_stats(dls, arch, n_in):
    "A pretrained net for colour on `n_in` channels: fastai adds no Normalize then, we add the averaged statistics"
    stats = model_meta.get(arch, _default_meta).get('stats') if not isinstance(arch, str) else None
    have = any(isinstance(t, Normalize) for t in dls.train.after_batch.fs)
    if stats is None or have or n_in == len(stats[0]): return
    m,s = (sum(o)/len(o) for o in stats)
    dls.add_tfms([Normalize.from_stats([m]*n_in, [s]*n_in, cuda=False)], 'after_batch')
    robust_warn(f"pretrained on colour images, used on {n_in} channel(s): added Normalize with the "
                f"averaged statistics ({m:.3f}, {s:.3f}).")

@delegates(vision_learner)
def robust_learner(
    dls,                    # DataLoaders
    arch=None,              # torchvision function, timm name, or an nn.Module (then a plain Learner)
    techniques=None,        # A Technique or a list of them, added to the recipe's
    recipe=None,            # Name in RECIPES, or a function (dls, **kw) -> (loss, techniques)
    loss_func=None,         # Loss; beats the recipe's. None: the recipe's, else that of the dls
    aux=None,               # Open-set images for recipes that want them
    learner_func=vision_learner, # What makes the learner: vision_learner, tabular_learner, Learner, ...
    **kwargs
) -> Learner:
    "A fastai Learner with a recipe's or your own loss and techniques"
    loss,ts = None,[]
    if recipe is not None:
        recipe = get_recipe(recipe)
        takes = inspect.signature(recipe).parameters
        if aux is not None and 'aux' not in takes and not any(p.kind is p.VAR_KEYWORD for p in takes.values()):
            raise ValueError(f"the recipe {getattr(recipe, '__name__', recipe)} takes no `aux` "
                             "images, got some. Give them to a technique: ODNL(aux).")
        made = recipe(dls, **({} if aux is None else dict(aux=aux)))
        if not (isinstance(made, (tuple, list)) and len(made) == 2):
            raise TypeError(f"expected a recipe to return (loss, techniques), got {made!r}. "
                            "Return (loss, []) for a loss alone.")
        loss,ts = made
    elif aux is not None:
        raise ValueError("`aux` images are for recipes, got no recipe. Give them to a technique: ODNL(aux).")
    ts = _as_list(ts) + _as_list(techniques)
    twice = sorted({type(t).__name__ for t in ts if sum(type(o) is type(t) for o in ts) > 1})
    if twice:
        raise ValueError(f"expected each technique once in recipe and `techniques` together, got "
                         f"{', '.join(twice)} twice. Leave one out.")
    loss = copy.copy(loss) if loss_func is None else loss_func
    if isinstance(loss, type):
        raise TypeError(f"expected a loss, got the class {loss.__name__}. Write {loss.__name__}(...).")
    if arch is None and learner_func is vision_learner:
        raise TypeError("expected an architecture such as resnet18, a timm name or an nn.Module, got none.")
    if inspect.isfunction(arch) and 'n_out' in inspect.signature(arch).parameters:
        raise TypeError("expected a network or a torchvision architecture, got the function "
                        f"{arch.__name__}. Write {arch.__name__}({getattr(dls, 'c', 10)}).")
    if isinstance(arch, nn.Module):
        unknown = [k for k in kwargs if k not in inspect.signature(Learner.__init__).parameters]
        if unknown:
            raise ValueError(f"a plain Learner on your {type(arch).__name__} does not take "
                             f"{', '.join(unknown)}: these are for architectures that "
                             "vision_learner builds. Leave them out.")
        learn = Learner(dls, arch, loss_func=loss, **kwargs)
    else:
        takes = inspect.signature(learner_func).parameters
        if 'n_in' in takes and kwargs.get('n_in') is None:
            x = peek_images(dls)
            n = 3 if x is None else x.shape[1]
            if n != 3:
                kwargs['n_in'] = n
                if kwargs.get('pretrained', True) and kwargs.get('normalize', True):
                    _grey_stats(dls, arch, n)
        learn = learner_func(dls, *([] if arch is None else [arch]), loss_func=loss, **kwargs)
    noise = getattr(dls, 'noise', None)
    learn.add_cbs(ts + [cb for cb in (noise.cbs() if hasattr(noise, 'cbs') else [])
                        if not any(isinstance(o, type(cb)) for o in learn.cbs)])
    if recipe is not None:
        ensure_objective(learn)     # a recipe says at every fit what it does, be it a loss alone
    if any(isinstance(t, Technique) for t in learn.cbs): check(learn)
    return learn
