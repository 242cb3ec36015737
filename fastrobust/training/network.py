"Does a network fit its data: channels of the images, outputs for the classes; told before training"
# Its layers say so at no cost. Where they look odd, one pass of two images at rest says whether
# they are: a convolution may be first in the list and not in the network, a head one of several.
# Where neither tells, nothing is said.
import math
import torch
from torch import nn
from torch.nn import functional as F
from fastai.losses import FocalLoss, LabelSmoothingCrossEntropy
from fastrobust.basics import robust_warn
from fastrobust.losses import RobustLoss
from fastrobust.pixels import item_shape, peek_images
from fastrobust.resting import at_rest

__all__ = []

_LAYERS = nn.Conv2d,nn.Linear
_OURS = 'fastai','fastrobust'

# --- what the data ask for ------------------------------------------------------------------------
def _inside(loss): return getattr(loss, 'func', getattr(loss, 'fn', loss))

def _chooses(loss):
    "Whether a loss takes one class of as many as the network has outputs"
    if isinstance(loss, RobustLoss): return True
    f = _inside(loss)
    kinds = nn.CrossEntropyLoss,nn.NLLLoss,LabelSmoothingCrossEntropy,FocalLoss
    return isinstance(f, kinds) or f in (F.cross_entropy, F.nll_loss)

def _marks(loss, dls):
    "Whether a loss takes a yes or no for each class, of data that have them"
    own = getattr(getattr(dls, 'train_ds', None), 'loss_func', None)
    return all(isinstance(_inside(o), nn.BCEWithLogitsLoss) for o in (loss, own))

def _classes(dls):
    "How many classes there are; None where the loaders do not say, or there is none to choose from"
    c = getattr(dls, 'c', None)
    return c if isinstance(c, int) and c > 1 else None

# --- what the network takes and gives -------------------------------------------------------------
def _plain(model):
    "The network inside a wrapper of torch's"
    if hasattr(model, '_orig_mod'): return _plain(model._orig_mod)
    parallel = nn.DataParallel,nn.parallel.DistributedDataParallel
    return model.module if isinstance(model, parallel) else model

def _changed(cbs):
    "Whether a callback of the user's may change what the network is given, or what it gave"
    def mine(cb): return type(cb).__module__.split('.')[0] not in _OURS
    events = 'before_batch','after_pred'
    return any(mine(cb) and any(hasattr(cb, o) for o in events) for cb in cbs)

def _hooked(model):
    "Whether a pass would do more than give outputs: hooks of the user's, and of torch's lazy layers"
    return any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())

def _takes(layer, shape):
    "Whether a layer takes images (c,h,w) of this shape, the linear one as a row of pixels"
    if isinstance(layer, nn.Conv2d): return layer.in_channels == shape[0]
    return layer.in_features == math.prod(shape)

def _outputs(layer):
    if isinstance(layer, nn.Conv2d): return layer.out_channels
    return layer.out_features

def _ends(model):
    "The first convolution (linear layer where there is none) and the last linear layer, as listed"
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    both = [*convs, *linear]
    return both[:1],(linear or convs)[-1:]

def _try(model, x):
    "(what the network makes of `x`, None if it fails; the layers it reached, and with what shape)"
    reached = []
    def note(m, args): reached.append((m, tuple(args[0].shape)))
    p = next(model.parameters())
    hooks = [m.register_forward_pre_hook(note) for m in model.modules() if isinstance(m, _LAYERS)]
    try:
        with at_rest(model): return model(x.to(p.device, p.dtype)),reached
    except Exception: return None,reached
    finally:
        for h in hooks: h.remove()

# --- the verdict ----------------------------------------------------------------------------------
def _need_channels(layer, shape, c):
    "Refuse a network whose first layer `layer` takes other images than those of the data"
    n,h,w = shape
    if isinstance(layer, nn.Linear):
        raise ValueError(f"expected a network for images of {n}x{h}x{w}, {n*h*w} values, got one "
                         f"whose first layer takes {layer.in_features}. Build it for {n*h*w}.")
    read = {1: ", or read them in grey: ImageBlock(PILImageBW)",
            3: ", or read them in colour: ImageBlock"}.get(layer.in_channels, '')
    raise ValueError(f"expected a network for images of {n} channel(s), as in these data, got one "
                     f"whose first convolution takes {layer.in_channels}. Build it for {n}, as "
                     f"small_cnn({c or 10}, {n}) or, without `n_in`, robust_learner(dls, resnet18)"
                     f"{read}.")

def _need_outputs(k, c, n, more, exact):
    "Refuse fewer outputs than classes; warn of more, unless they were asked for"
    if k < c or exact:
        raise ValueError(f"expected a network with an output for each of the {c} classes, got one "
                         f"with {k}. Build it for {c}, as small_cnn({c}, {n}) or, without `n_out`, "
                         "robust_learner(dls, resnet18); leave classes that never occur out of the "
                         "vocab.")
    if more: return
    robust_warn(f"the network has {k} outputs for {c} classes: where one of the other {k-c} is the "
                "largest, the prediction is no class. If they have no purpose, build it for "
                f"{c}.")

def check_network(
    model,      # The network
    dls,        # Its data
    loss,       # Loss that trains it
    cbs=(),     # Callbacks of the learner
    more=False  # Were more outputs than classes asked for?
):
    "Refuse a network that cannot be trained on these data, if that can be told; it stays as it is"
    model = _plain(model)
    first,last = _ends(model)
    if not first or _changed(cbs): return
    shape = item_shape(dls)
    if shape is None: return
    exact = _marks(loss, dls)
    c = _classes(dls) if exact or _chooses(loss) else None
    if _takes(first[0], shape) and (c is None or _outputs(last[0]) == c): return

    x = None if _hooked(model) else peek_images(dls)
    if x is None: return
    x = x[:2].as_subclass(torch.Tensor)
    out,reached = _try(model, x)
    if out is None and len(reached) == 1:
        layer,given = reached[0]
        images = given[1:] == tuple(x.shape[1:]) or given[1:] == (x[0].numel(),)
        if images and not _takes(layer, x.shape[1:]): _need_channels(layer, x.shape[1:], c)
    if c is None or not isinstance(out, torch.Tensor) or out.ndim != 2: return
    if out.shape[1] != c: _need_outputs(out.shape[1], c, x.shape[1], more, exact)
