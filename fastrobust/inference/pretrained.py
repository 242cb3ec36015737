"What a network has learned: weights by name or in a file, the statistics they want, colours for other channels"
from collections import OrderedDict
from pathlib import Path
import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights
from fastai.vision.core import imagenet_stats
from fastcore.foundation import L
from fastai.vision.learner import _update_first_layer
from fastrobust.basics import nearest

__all__ = []

def arch_name(arch):
    "What to call the function, class or partial `arch`"
    return getattr(getattr(arch, 'func', arch), '__name__', type(arch).__name__)

# --- weights --------------------------------------------------------------------------------------
def is_file(weights):
    "Whether `weights` is the path of a file"
    return isinstance(weights, Path) or isinstance(weights, str) and weights.endswith(('.pt', '.pth'))

def _is_state(o): return isinstance(o, dict) and all(isinstance(v, Tensor) for v in o.values())

def state_of(path):
    "The state_dict in a file, also where it is saved beside others, as `learn.save` does"
    # what fastai keeps the settings of an optimizer in
    with torch.serialization.safe_globals([L]): state = torch.load(path, map_location='cpu', weights_only=True)
    for k in ('model', 'state_dict'):
        if isinstance(state, dict) and _is_state(state.get(k)): state = state[k]
    if not state or not _is_state(state):
        raise ValueError(f"expected a state_dict in {path}, got a {type(state).__name__}. Save one: "
                         "torch.save(net.state_dict(), path).")
    return state

def load_fitting(net, state):
    "Load of `state` what fits `net`; names of all else on either side"
    own = net.state_dict()
    fits = OrderedDict((k, v) for k,v in state.items() if k in own and own[k].shape == v.shape)
    # versions of the layers, which some ask for
    fits._metadata = getattr(state, '_metadata', None)      # type: ignore[attr-defined]
    net.load_state_dict(fits, strict=False)
    counts = 'num_batches_tracked'      # older files have none
    return tuple(k for k in {**own, **state} if k not in fits and not k.endswith(counts))

def torchvision_weights(arch, weights):
    "A member of the weights of the torchvision function `arch`"
    kinds = get_model_weights(getattr(arch, 'func', arch))
    if isinstance(weights, kinds): return weights
    name = str(weights).split('.')[-1]
    if name not in kinds.__members__ or not isinstance(weights, str):
        raise ValueError(f"expected `weights` of {arch_name(arch)} or the path of a .pt or .pth "
                         f"file, got {str(weights)!r}. {nearest(name, kinds.__members__)}")
    return kinds[name]

def torchvision_facts(arch, weights):
    "Statistics and sizes that come with `weights` of a torchvision function; None: with its default ones"
    if weights is None: weights = get_model_weights(getattr(arch, 'func', arch)).DEFAULT
    t = weights.transforms()
    stats = getattr(t, 'mean', None),getattr(t, 'std', None)
    if None in stats: stats = imagenet_stats
    size,small = t.crop_size[0],weights.meta.get('min_size', (1, 1))
    return stats,f"It needs {small[0]}x{small[1]} pixels at least: item_tfms=Resize({size})."

# --- channels -------------------------------------------------------------------------------------
def _first_conv(net):
    "(parent, name, layer) of the first convolution of `net`"
    for k,m in net.named_modules():
        if not k or not isinstance(m, nn.Conv2d): continue
        parent,_,name = k.rpartition('.')
        return net.get_submodule(parent),name,m
    return None

def with_channels(
    net,        # A network of torchvision's or yours
    n_in,       # Channels of the images
    pretrained, # Keep what the first convolution has learned of colours?
    name        # Of the network, for errors
):
    "Change the first convolution of `net` to `n_in` channels as fastai does; whether it was another number"
    found = _first_conv(net)
    if found is None: return False
    parent,k,conv = found
    if conv.in_channels == n_in: return False
    if conv.in_channels != 3:
        raise ValueError(f"expected {name} to take images of 3 channels, which can be adapted to "
                         f"{n_in}, got {conv.in_channels}. Build it for {n_in} channels yourself.")
    box = nn.Sequential(conv)
    _update_first_layer(box, n_in, pretrained)
    new = box[0]
    if pretrained and conv.bias is not None:
        # fastai draws it anew
        new.bias.data = conv.bias.data.clone()
    setattr(parent, k, new.to(conv.weight.device))
    return True

def stats_for(stats, n_in):
    "`stats` for images of `n_in` channels: where those are others, the averages for each"
    if stats is None or len(stats[0]) == n_in: return stats
    m,s = (sum(o)/len(o) for o in stats)
    return [m]*n_in,[s]*n_in
