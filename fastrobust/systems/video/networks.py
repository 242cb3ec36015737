"Networks of clips (b,c,t,h,w): a tiny one, torchvision's by name, each with a head for the data"
# Tran, Bourdev, Fergus, Torresani, Paluri, C3D, https://arxiv.org/abs/1412.0767
# Tran, Wang, Torresani, Ray, LeCun, Paluri, R(2+1)D and its kin, https://arxiv.org/abs/1711.11248
import inspect
from typing import NamedTuple
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import get_model_builder, get_model_weights, list_models
from torchvision.models import video as torchvision_video
from torchvision.models.video import S3D, MViT
from fastrobust.basics import nearest, need_whole, shown
from fastrobust.inference.archs import family
from fastrobust.inference.pretrained import (arch_name, is_file, load_fitting, state_of, stats_for,
                                             torchvision_weights)

__all__ = ['tiny_c3d']

# what functions call the outputs and the channels that they build a network for
_OUTPUTS,_CHANNELS = ('n_out', 'num_classes'),('channels', 'n_in')
_LAYERS = nn.Linear,nn.Conv3d

def tiny_c3d(
    c=8,        # Channels of the first convolution; the next have 2c and 4c
    channels=1, # Of the clips: 1 of greys, 3 in colour
    n_out=4     # Number of classes; the default is that of `moving_shapes`
)->nn.Sequential:
    """Three 3-d convolutions on clips (b,channels,t,h,w) of any size, after C3D

    https://arxiv.org/abs/1412.0767. 17,796 parameters; a CPU takes a second for an epoch of 320 clips
    of 8x24x24."""
    for k,v in dict(c=c, channels=channels, n_out=n_out).items(): need_whole(k, v, 1)
    widths = channels,c,2*c,4*c
    # the first pool leaves the frames alone, as the paper's; each pool takes a single frame too
    pools = [nn.MaxPool3d((1, 2, 2), ceil_mode=True), nn.MaxPool3d(2, ceil_mode=True),
             nn.AdaptiveAvgPool3d(1)]
    layers:list[nn.Module] = []
    for n_in,n,pool in zip(widths, widths[1:], pools):
        layers += [nn.Conv3d(n_in, n, 3, padding=1), nn.BatchNorm3d(n), nn.ReLU(), pool]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4*c, n_out))

class VideoArch(NamedTuple):
    "A network for the classes and channels of some data"
    net:nn.Module
    name:str
    stats:tuple|None = None     # (mean, std) that its weights want clips normalised with
    head:str|None = None        # Name of its last layer; None: it cannot be told
    new_head:bool = False       # Is that layer untrained on top of trained ones?
    sizes:str = ''              # Which clips it wants, a sentence for errors

class FittingPool(nn.Module):
    "Average pooling of stride 1 whose window shrinks to clips that are smaller"
    def __init__(self,
        size    # (t,h,w) of the window
    ):
        super().__init__()
        self.size = tuple(size)

    def forward(self, x):
        window = [min(pair) for pair in zip(self.size, x.shape[2:])]
        return F.avg_pool3d(x, window, stride=1)

# --- its two ends ---------------------------------------------------------------------------------
def _layers(net, kinds):
    "(name, layer) of those inside `net` of some kinds"
    return [(k, m) for k,m in net.named_modules() if k and isinstance(m, kinds)]

def _put(net, name, layer):
    parent,_,last = name.rpartition('.')
    setattr(net.get_submodule(parent), last, layer)

def outputs_of(
    layer   # nn.Linear, or nn.Conv3d of 1x1x1
):
    "How many outputs a last layer has"
    if isinstance(layer, nn.Linear): return layer.out_features
    return layer.out_channels

def with_head(
    net,    # A network, changed in place
    name,   # Of its last layer
    n_out   # Outputs that it shall have
):
    "A new last layer where the old one has another number of outputs; whether it is new"
    old = net.get_submodule(name)
    if outputs_of(old) == n_out: return False
    if isinstance(old, nn.Linear): new = nn.Linear(old.in_features, n_out)
    else: new = nn.Conv3d(old.in_channels, n_out, 1)
    _put(net, name, new.to(old.weight.device))
    return True

def with_clip_channels(
    net,    # A network, changed in place
    name,   # Of its first convolution
    n_in,   # Channels of the clips
    keep    # Spread what it has learned over the new channels? Else it is drawn anew
):
    "The first convolution for `n_in` channels: what it makes of greys stays the same if it is kept"
    old = net.get_submodule(name)
    if old.in_channels == n_in: return
    new = nn.Conv3d(n_in, old.out_channels, old.kernel_size, old.stride, old.padding,
                    bias=old.bias is not None)
    w = old.weight.detach()
    with torch.no_grad():
        if keep: new.weight.copy_(w.sum(1, keepdim=True).expand_as(new.weight)/n_in)
        else: new.weight.normal_(w.mean(), w.std())
        if old.bias is not None: new.bias.copy_(old.bias)
    _put(net, name, new.to(w.device))

# --- weights --------------------------------------------------------------------------------------
def _load(net, name, weights, first, head):
    "Load a file, for whose channels and classes the ends of `net` are changed if need be"
    state = state_of(weights)
    ends = [state.get(f'{k}.weight') for k in (first, head)]
    if all(o is not None and o.ndim > 1 for o in ends):
        with_clip_channels(net, first, ends[0].shape[1], keep=False)
        with_head(net, head, len(ends[1]))
    _need_all(load_fitting(net, state), name)

def _need_all(odd, name):
    if not odd: return
    raise ValueError(f"expected a file with the weights of {name}, got one in which {len(odd)} are "
                     f"missing, of another shape or not {name}'s: {', '.join(odd[:3])}. Give the "
                     "state_dict of that architecture.")

def _need_file(name, weights):
    if weights is None or is_file(weights): return
    raise ValueError(f"expected `weights` of {name} to be the path of a .pt or .pth file, got "
                     f"{weights!r}. Only torchvision's networks come with weights by name.")

def _need_untrained(name, pretrained):
    if not pretrained: return
    raise ValueError(f"expected pretrained=False for {name}, with which no weights come, got "
                     f"{pretrained}. Give a file of your own as `weights`.")

# --- from whatever names it -----------------------------------------------------------------------
def _names(): return list_models(module=torchvision_video)

def _function(arch):
    "The function of a name"
    if arch == 'tiny_c3d': return tiny_c3d
    if arch in _names(): return get_model_builder(arch)
    raise ValueError(f"expected the name of a network of clips, got {arch!r}. "
                     f"{nearest(arch, ['tiny_c3d', *_names()])}")

def _is_torchvisions(arch):
    "Whether a function is one of torchvision's networks of clips; those of images are refused"
    home = family(arch)
    if home is None: return False
    if home.split('.')[0] == 'video': return True
    raise TypeError(f"expected a network of clips, got torchvision.models.{arch_name(arch)}, which "
                    "takes images. Give one of torchvision.models.video, such as 'r3d_18'.")

def _plain(arch): return getattr(arch, 'func', arch)

def _member(arch, pretrained, weights):
    "Which of the weights of a torchvision function are asked for by name; None: none"
    if is_file(weights): return None
    if weights is None and pretrained: weights = 'DEFAULT'
    if weights is None: return None
    kinds = get_model_weights(_plain(arch))
    return kinds.DEFAULT if weights == 'DEFAULT' else torchvision_weights(arch, weights)

def _sizes(net, name):
    "Which clips a network wants, a sentence; '' where it takes any"
    if isinstance(net, S3D): return f"{name} needs 5 frames of 17x17 pixels at least."
    if not isinstance(net, MViT): return ''
    pos = net.pos_encoding
    t,h,w = (n*s for n,s in zip((pos.temporal_size, *pos.spatial_size), net.conv_proj.stride))
    return f"{name} takes clips of {t} frames of {h}x{w} alone: VideoBlock(n={t}, size={h})."

def _from_torchvision(arch, n_out, n_in, pretrained, weights):
    name,member = arch_name(arch),_member(arch, pretrained, weights)
    net = arch(weights=member)
    if isinstance(net, S3D): net.avgpool = FittingPool(net.avgpool.kernel_size)
    stats = None
    if member is not None or is_file(weights):
        t = (member or get_model_weights(_plain(arch)).DEFAULT).transforms()
        stats = stats_for((list(t.mean), list(t.std)), n_in)
    return _fitted(net, name, n_out, n_in, member is not None, weights, stats)

def _fitted(net, name, n_out, n_in, learned, weights, stats=None):
    "`VideoArch` of a network whose ends are changed to the data"
    first = _layers(net, nn.Conv3d)[0][0]
    head = _layers(net, _LAYERS)[-1][0]
    if is_file(weights):
        _load(net, name, weights, first, head)
        learned = True
    with_clip_channels(net, first, n_in, keep=learned)
    new = with_head(net, head, n_out)
    return VideoArch(net, name, stats, head, new and learned, _sizes(net, name))

def _call(arch, n_out, n_in):
    "What a function of the user's makes for these outputs and channels, which it takes by name"
    takes = inspect.signature(arch).parameters
    asked = {}
    for names,v in ((_OUTPUTS, n_out), (_CHANNELS, n_in)):
        asked |= {k: v for k in names if k in takes}
    net = arch(**asked)
    if isinstance(net, nn.Module): return net
    raise TypeError(f"expected {arch_name(arch)} to return a network, got a {type(net).__name__}. "
                    "Give a function such as tiny_c3d, or the network itself.")

def _given(net, n_out, weights):
    "`VideoArch` of a network as it is"
    name = f'your {type(net).__name__}'
    _need_file(name, weights)
    if weights is not None: _need_all(load_fitting(net, state_of(weights)), name)
    last = _layers(net, _LAYERS)[-1:]
    head = last[0][0] if last and outputs_of(last[0][1]) == n_out else None
    return VideoArch(net, name, head=head)

def video_arch(
    # 'tiny_c3d', a name or function of torchvision.models.video, a function of yours (which may
    # take `n_out` and `channels`), or a network, which stays as it is
    arch,
    n_out,              # Number of classes
    n_in,               # Channels of the clips
    pretrained=False,   # With the weights that torchvision has for it?
    # Which: 'DEFAULT', a member or name of torchvision's, or the path of a state_dict (.pt, .pth)
    weights=None
)->VideoArch:
    "The network of an architecture for the classes and channels of the data"
    if isinstance(arch, str): arch = _function(arch)
    if isinstance(arch, nn.Module):
        _need_untrained(f'your {type(arch).__name__}', pretrained)
        return _given(arch, n_out, weights)
    if not callable(arch):
        raise TypeError("expected an architecture such as 'r3d_18' or 'tiny_c3d', a function that "
                        f"makes a network, or an nn.Module, got {shown(arch)}. Give one of these.")
    if _is_torchvisions(arch): return _from_torchvision(arch, n_out, n_in, pretrained, weights)
    _need_untrained(arch_name(arch), pretrained)
    _need_file(arch_name(arch), weights)
    net = _call(arch, n_out, n_in)
    if weights is None or not _layers(net, nn.Conv3d): return _given(net, n_out, weights)
    return _fitted(net, arch_name(arch), n_out, n_in, False, weights)
