"`wise_ft`: the weights between a pretrained network and its fine-tuned self, which may hold better on changed images"
# Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022, https://arxiv.org/abs/2109.01903
# (WiSE-FT): theta = (1-alpha) theta_0 + alpha theta_1, each number by itself, no training. There
# theta_0 is CLIP, whose head answers by itself; a body pretrained on other classes has no such
# head, so that by default the fine-tuned head serves all alphas. The statistics of BatchNorm, which
# CLIP's transformers have not, are mixed like the weights, as the authors' code mixes whole state
# dicts: estimated anew on the training images, alpha .5 erred more under corruptions in 9 of 12
# settings, by up to .26, and less only where the body had moved most (nbs/benchmarks/shifted.py).
import copy
import torch
from torch import nn
from fastai.learner import Learner
from fastrobust.basics import need_learner, need_number, robust_warn
from fastrobust.calibration.temperature import temperature_of, untemper
from fastrobust.inference.archs import Arch
from fastrobust.inference.bodies import last_linear
from fastrobust.inference.pretrained import is_file, state_of
from fastrobust.inference.startweights import pretrained_state
from fastrobust.pixels import peek_images
from fastrobust.training.surgery import Surgery, has_surgery, kept_results, unwrap

__all__ = ['wise_ft']

_ALIKE = .5     # Cosine of weights below which one is not fine-tuned from the other: there it is > .9

# --- a learner, copied ----------------------------------------------------------------------------
# what fastai leaves of the last batch
_OF_A_BATCH = {'opt', 'dl', 'xb', 'yb', 'pred', 'loss', 'loss_grad'}

def _can_copy(cb, memo):
    try: copy.deepcopy(cb, dict(memo))
    except Exception: return False
    return True

def _copy_learner(learn):
    "A learner with a network, loss and callbacks of its own, on the same data; its optimiser is yet to be made"
    new = type(learn).__new__(type(learn))
    same = [learn.dls, *learn.dls.loaders, *(getattr(dl, 'dataset', None) for dl in learn.dls.loaders)]
    memo = {id(learn): new, **{id(o): o for o in same}, **kept_results(learn.model)}
    state = {k: v for k,v in learn.__getstate__().items() if k not in _OF_A_BATCH}
    try: new.__setstate__(copy.deepcopy(state, dict(memo)))
    except Exception as e:
        bad = next((cb for cb in learn.cbs if not _can_copy(cb, memo)), None)
        if bad is None: raise
        raise TypeError(f"expected callbacks that can be copied, got {type(bad).__name__}, which cannot be "
                        f"({e}). Leave it out meanwhile, `with learn.removed_cbs(learn.{bad.name}): new = "
                        "wise_ft(learn)`, or give it a `__deepcopy__`.") from e
    new.opt = None
    new._end_cleanup()
    heal = getattr(getattr(new, 'objective', None), 'heal', None)
    if heal: heal()
    return new

# --- weights by name ------------------------------------------------------------------------------
def _plain_nets(model):
    "The network, or each of two, inside what techniques put around it; its tensors are those of `model`"
    if not has_surgery(model): return [model]
    shared = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    memo = {**kept_results(model), **shared}
    two = any(isinstance(m, Surgery) and hasattr(m, 'nets') for m in model.modules())
    return [unwrap(copy.deepcopy(model, dict(memo)), i=i) for i in range(1+two)]

def _states(base):
    "State dicts of what was given as `base`, one for each network"
    if isinstance(base, Learner): base = base.model
    if isinstance(base, nn.Module): return [net.state_dict() for net in _plain_nets(base)]
    if isinstance(base, dict): return [base]
    raise TypeError("expected `base` as a network, a Learner, a state_dict or the path of one (.pt, .pth), "
                    f"got a {type(base).__name__}. Give a copy of the network before fine-tuning, "
                    "deepcopy(learn.model).")

def _inside(base, model):
    "`base`, or the network it makes where it is a state of `model` with all that techniques put around it"
    state = state_of(base) if is_file(base) else base
    if not isinstance(state, dict) or not has_surgery(model): return state
    if state.keys() != model.state_dict().keys(): return state
    whole = copy.deepcopy(model, kept_results(model))
    whole.load_state_dict(state)
    return whole

def _last_layer(net, dls):
    "The linear layer that gives the logits of a network, None if none is known to"
    x = peek_images(dls) if len(dls.train_ds) else None
    if x is not None:
        p = next(net.parameters(), x)
        return last_linear(Arch(net, type(net).__name__), x[:2].to(p.device, p.dtype))[0]
    end = net       # a loaded learner has no images to send through
    while isinstance(end, nn.Sequential) and len(end): end = end[-1]
    return end if isinstance(end, nn.Linear) else None

def _head(net, dls):
    "How the names of the head begin: the second part of fastai's networks, the last linear layer of others"
    body_and_head = isinstance(net, nn.Sequential) and len(net) == 2
    if body_and_head and next(net[0].parameters(), None) is not None: return '1.'
    layer = _last_layer(net, dls)
    if layer is not None: return next(k for k,m in net.named_modules() if m is layer)+'.'
    raise ValueError("expected a network of two parts, body and head, or one of images that ends in a linear "
                     f"layer, got a {type(net).__name__}. Give head=True if `base` knows the whole of it.")

def _names(net, base, head):
    "Names of the numbers to mix; `head`: how the names begin of those that stay, None: none does"
    own = net.state_dict()
    names = [k for k,v in own.items() if v.is_floating_point() and not (head and k.startswith(head))]
    odd = [k for k in names if k not in base or base[k].shape != own[k].shape]
    if not odd: return names
    raise ValueError("expected weights of the same names and shapes as the fine-tuned ones, got others for "
                     f"{len(odd)} of {len(names)}: {', '.join(odd[:3])}. Give what this very network began "
                     "from.")

def _need_finite(base, names):
    "Refuse weights of which any mixture would be NaN"
    bad = [k for k in names if not torch.isfinite(base[k]).all()]
    if not bad: return
    raise ValueError("expected finite weights before fine-tuning, got NaN or infinite ones in "
                     f"{len(bad)} of {len(names)}: {', '.join(bad[:3])}. Give those that this network "
                     "began from.")

def _warn_distance(own, base, names):
    "Say if the fine-tuned weights have not moved, or do not come from these"
    def flat(state): return [state[k].cpu().double().flatten() for k in names]
    pairs = list(zip(flat(own), flat(base)))
    if all(torch.equal(a, b) for a,b in pairs):
        robust_warn("the body has not moved from `base`, so that every alpha gives the same weights. Is it "
                    "frozen, or is `base` the fine-tuned network itself? Copy it before: "
                    "deepcopy(learn.model).")
        return
    # without the scales and variances of normalisation, which are above 0 in any network
    products = [torch.stack([a @ b, a @ a, b @ b]) for k,(a,b) in zip(names, pairs) if own[k].ndim > 1]
    dot,aa,bb = sum(products, torch.zeros(3, dtype=torch.float64)).tolist()
    if dot < _ALIKE*(aa*bb)**.5:
        robust_warn(f"the two sets of weights have little in common (cosine {dot/(aa*bb)**.5:.2f}): this "
                    "network was not fine-tuned from `base`, and what lies between two trainings is worse "
                    "than either. Give the weights that it began from.")

@torch.no_grad()
def _mix(own, base, names, alpha):
    "Set the numbers of `own`, a state dict, to their mixture with those of `base`"
    mixed = {}      # all before any is set: some are there under two names
    for k in names:
        v = own[k]
        exact = torch.promote_types(v.dtype, torch.float32)
        mixed[k] = (1-alpha)*base[k].to(v.device, exact) + alpha*v.to(exact)
    for k,v in mixed.items(): own[k].copy_(v)

# --- the learner ----------------------------------------------------------------------------------
def _check(alpha, base, weights):
    "`alpha` as a number, where all three are as they should be"
    ndim = getattr(alpha, 'ndim', None)     # of a tensor or an array
    if isinstance(alpha, (list, tuple)) or ndim:
        raise TypeError(f"expected one `alpha`, got {alpha}. Write [wise_ft(learn, a) for a in {alpha}].")
    if ndim == 0: alpha = alpha.item()
    need_number('alpha', alpha)
    if not 0 <= alpha <= 1:
        raise ValueError(f"expected `alpha` in [0,1], the share of the fine-tuned weights, got {alpha}. Try .5.")
    if base is not None and weights is not None:
        raise ValueError("expected `base` or `weights`, got both. `weights` are those of the architecture, "
                         "`base` those of this network.")
    return alpha

def wise_ft(
    learn:Learner,  # A fine-tuned Learner; it stays as it is
    alpha:float=.5, # Share of the fine-tuned weights in [0,1]; the paper's where nothing is known of the change to come
    # Weights before fine-tuning: a network, Learner, state_dict or file of `learn.save`; None: those
    # that come with the architecture
    base=None,
    *,
    # Of the architecture: member or name of torchvision's weights, or the path of a state_dict
    # (.pt, .pth); None: those that fastai loads
    weights=None,
    head=False      # Mix the head too? Only for a `base` whose head has learned these classes
)->Learner:
    """A new learner with weights between pretrained and fine-tuned, (1-alpha)*before + alpha*after, and all else of the
    given one: loss, techniques, data. alpha=1: the same predictions; 0: the pretrained body, the fine-tuned head.
    Measured (nbs/benchmarks/RESULTS.md): beside `KeepBN` it gains nothing or harms, and clean accuracy can fall"""
    need_learner(learn)
    alpha = _check(alpha, base, weights)
    bases = [pretrained_state(learn, weights)] if base is None else _states(_inside(base, learn.model))
    new = _copy_learner(learn)
    nets = _plain_nets(new.model)
    for i,net in enumerate(nets):
        own,b = net.state_dict(),bases[min(i, len(bases)-1)]
        names = _names(net, b, None if head else _head(net, new.dls))
        _need_finite(b, names)
        _warn_distance(own, b, names)
        if alpha < 1: _mix(own, b, names, alpha)
    if alpha == 1: return new

    if temperature_of(new) is not None:
        robust_warn("the temperature was fitted for the fine-tuned weights: the new learner has none. Fit "
                    "it anew, temperature_scale(new).")
        untemper(new)
    return new
