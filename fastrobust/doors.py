"What `robust_learner` is given, looked at before anything is built"
import difflib, inspect
from torch import nn
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastai.vision.learner import vision_learner
from fastrobust.basics import nearest, shown
from fastrobust.data.reading import no_single_label
from fastrobust.inference.archs import timm_for
from fastrobust.losses import RobustLoss
from fastrobust.pixels import holds_clips, item_shape
from fastrobust.recipes import RECIPES, Recipe
from fastrobust.training.technique import Technique

__all__ = []

# --- techniques -----------------------------------------------------------------------------------
def known_techniques(cls=Technique):
    "Names of the techniques, without the bases they are built on"
    names = set()
    for c in cls.__subclasses__():
        names |= set(known_techniques(c))
        if '.bases.' not in c.__module__: names.add(c.__name__)
    return sorted(names)

def _hint(name):
    "What was meant by a technique that is a string"
    if name in RECIPES: return f"That is a recipe: write recipe={name!r}."
    if name in known_techniques(): return f"Write {name}(...)."
    return nearest(name, known_techniques())

def as_list(techniques):
    "Techniques as a list, each with its settings"
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

def need_new(ts):
    "Refuse two techniques of one class"
    names = [type(t).__name__ for t in ts if sum(type(o) is type(t) for o in ts) > 1]
    if names:
        raise ValueError(f"expected each technique once in recipe and `techniques` together, got "
                         f"{', '.join(sorted(set(names)))} twice. Leave one out.")

# --- keywords -------------------------------------------------------------------------------------
OWN = ['techniques', 'recipe', 'loss_func', 'aux', 'learner_func', 'metrics', 'cbs']

def _takes(f):
    "(names that `f` takes, whether it takes any other too)"
    try: ps = inspect.signature(f).parameters
    except (TypeError, ValueError): return set(),True
    return set(ps),any(p.kind is p.VAR_KEYWORD for p in ps.values())

def _taken(arch, learner_func):
    "(names of keywords that go on from `robust_learner`, whether there may be others)"
    if isinstance(arch, nn.Module):
        # what is for architectures alone is refused in words of its own
        return _takes(Learner.__init__)[0] | _takes(vision_learner)[0],False
    names,any_other = _takes(learner_func)
    # what else the constructors of timm take is not known
    return names,any_other or (learner_func is vision_learner and isinstance(arch, str))

def need_keywords(
    kwargs,         # Those that `robust_learner` does not have itself
    arch,           # Its architecture
    learner_func,   # Who takes them
    recipe=None     # The recipe, a function, or None
):
    "Refuse keywords that nobody takes, and name the one that was meant"
    names,others = _taken(arch, learner_func)
    if others and learner_func is not vision_learner: return
    known = list(OWN)
    if not others: known += sorted(names - {*OWN, 'self', 'kwargs', 'model', 'dls', 'arch'})
    for k in kwargs:
        near = difflib.get_close_matches(k, known, n=1, cutoff=.75 if others else .6)
        if k in names or (others and not near): continue
        fix = f"Did you mean `{near[0]}`?" if near else f"Known: {', '.join(known)}."
        if recipe is not None and k in _takes(recipe)[0]:
            fix = f"A setting of the recipe goes into it: recipe=partial(RECIPES[name], {k}=..)."
        raise TypeError(f"expected a keyword that robust_learner knows, got `{k}`. {fix}")

# --- data, architecture, loss ---------------------------------------------------------------------
def need_dls(dls):
    "Refuse anything but loaders"
    if hasattr(dls, 'loaders'): return
    raise TypeError(f"expected DataLoaders, got {shown(dls)}. The data come first: "
                    "robust_learner(dls, resnet18).")

def _misplaced(arch):
    "What something else in the place of the architecture is, a sentence; '' if it may be one"
    if isinstance(arch, str) and arch in RECIPES:
        return f"That is a recipe: write recipe={arch!r}."
    is_cb = issubclass(arch, Callback) if isinstance(arch, type) else isinstance(arch, Callback)
    if is_cb or isinstance(arch, (list, tuple)):
        return "Techniques come after it: robust_learner(dls, resnet18, AugMix())."
    if isinstance(arch, Learner): return "A learner's network is learn.model."
    if isinstance(arch, str) or callable(arch): return ''
    return "Give one of these."

def _need_no_clips(dls):
    "Refuse to build a network of images for clips"
    if not holds_clips(dls): return
    raise TypeError("expected dls of images for a network that vision_learner builds, got clips. "
                    "Write robust_learner(dls, 'r3d_18', learner_func=video_learner), or "
                    "video_learner(dls, 'r3d_18', cbs=techniques).")

def need_arch(arch, learner_func, dls):
    "Refuse what is no architecture, and a function such as `small_cnn` in place of its network"
    if not callable(learner_func):
        raise TypeError("expected `learner_func` as a function that makes a learner, got "
                        f"{shown(learner_func)}. For example learner_func=vision_learner.")
    if learner_func is vision_learner and not isinstance(arch, nn.Module):
        _need_no_clips(dls)
        fix = _misplaced(arch)
        if fix:
            got = 'none' if arch is None else shown(arch)
            raise TypeError("expected an architecture such as resnet18, a timm name or an "
                            f"nn.Module, got {got}. {fix}")
        if isinstance(arch, str): timm_for(arch)
    takes = inspect.signature(arch).parameters if inspect.isfunction(arch) else {}
    if 'n_out' in takes:
        shape = item_shape(dls) if 'n_in' in takes else None
        args = [getattr(dls, 'c', 10), *(shape or ())[:1]]
        raise TypeError("expected a network or a torchvision architecture, got the function "
                        f"{arch.__name__}. Write {arch.__name__}({', '.join(map(str, args))}).")

def need_loss(loss):
    "Refuse a class of losses, and what cannot be called"
    if isinstance(loss, type):
        raise TypeError(f"expected a loss, got the class {loss.__name__}. Write "
                        f"{loss.__name__}(...).")
    if loss is not None and not callable(loss):
        raise TypeError(f"expected a loss, got {shown(loss)}. Give one such as GCELoss(.7).")

# --- labels ---------------------------------------------------------------------------------------
def need_one_label(
    dls,        # DataLoaders
    *parts      # Recipe, loss, techniques and other callbacks
):
    "Refuse targets for which one of the parts is not defined"
    names = []
    for o in parts:
        picky = isinstance(o, RobustLoss) or (isinstance(o, Technique) and o.tasks)
        if isinstance(o, Recipe): names.append(f'the recipe {o.name!r}')
        elif picky: names.append(type(o).__name__)
    other = no_single_label(dls) if names else None
    if other is None: return
    who = ' and '.join(names)
    raise ValueError(f"expected single-label data (CategoryBlock) for {who}, got {other}. Without "
                     f"{who} robust_learner(dls, arch) is fastai's own learner.")
