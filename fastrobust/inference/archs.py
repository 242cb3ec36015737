"A network from whatever names its architecture: a function, a timm name; with its weights, for images of any channels"
import inspect
from difflib import get_close_matches
from typing import NamedTuple
import torchvision
from torch import nn
from torchvision.models import GoogLeNet, Inception3, SqueezeNet
from fastai.vision.core import imagenet_stats
from fastai.vision.learner import model_meta
from fastrobust.basics import shown
from fastrobust.inference.pretrained import (arch_name, is_file, load_fitting, state_of, stats_for,
                                             torchvision_facts, torchvision_weights, with_channels)

__all__ = []

# tasks of torchvision.models whose networks return no logits of an image, or no float ones
OTHER_TASKS = {'detection', 'segmentation', 'optical_flow', 'video', 'quantization'}

class Arch(NamedTuple):
    "A network that is not cut yet"
    net:nn.Module
    name:str
    # (mean, std) that its pretrained weights want images normalised with
    stats:tuple|None = None
    # Names, as prefixes, of heads that are left out in any case
    spare:tuple = ()
    sizes:str = ''      # Which images it wants, a sentence for errors
    odd:tuple = ()      # Names of the weights that a file does not have, or has otherwise

def family(arch):
    "Module of `torchvision.models` in which the function `arch` is written, None if in none"
    if isinstance(arch, type): return None
    home = getattr(getattr(arch, 'func', arch), '__module__', None) or ''
    return home.partition('torchvision.models.')[2] or None

def _without_heads(net):
    "Take off what is more than one linear layer at the end, in place; the prefixes of its weights"
    if isinstance(net, (GoogLeNet, Inception3)):
        net.aux_logits = False
        gone = [k for k in ('aux1', 'aux2', 'AuxLogits') if hasattr(net, k)]
        for k in gone: setattr(net, k, None)
        return tuple(k+'.' for k in gone)
    if isinstance(net, SqueezeNet):
        net.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1))     # it was a convolution
        return ('classifier.',)
    return ()

def _need_classifier(arch):
    task = (family(arch) or '').split('.')[0]
    if task in OTHER_TASKS:
        other = "Clips have video_learner(dls, 'r3d_18'). " if task == 'video' else ''
        raise TypeError("expected an architecture that classifies images, got torchvision.models."
                        f"{task}.{arch_name(arch)}. {other}Give one of torchvision.models itself, "
                        "such as resnet18.")

def _call(arch, pretrained, weights):
    "What a function that is not torchvision's returns, and whether that has learned anything; None: it does not say"
    takes = inspect.signature(arch).parameters
    if weights is not None and 'weights' not in takes:
        raise ValueError(f"{arch_name(arch)} takes no `weights`, got {weights!r}. Give the path of "
                         "a .pt or .pth file, or none.")
    if weights is not None: return arch(weights=weights),True
    if 'pretrained' in takes: return arch(pretrained=pretrained),pretrained
    if 'weights' not in takes: return arch(),None
    if pretrained: return arch(weights='DEFAULT'),True
    return arch(weights=None),False

def _build(arch, pretrained, weights):
    "(network, whether it has learned, statistics, sizes) of a function; `weights` is no file"
    if family(arch) is None: return *_call(arch, pretrained, weights),imagenet_stats,''
    if weights is None and pretrained: weights = 'DEFAULT'
    if weights is not None: weights = torchvision_weights(arch, weights)
    return arch(weights=weights),weights is not None,*torchvision_facts(arch, weights)

def _from_function(arch, n_in, pretrained, weights):
    "`Arch` of a torchvision, fastai or user-written function, or class"
    _need_classifier(arch)
    name,state = arch_name(arch),None
    if is_file(weights):
        state = state_of(weights)
        pretrained,weights = False,None
    elif weights is None and pretrained:
        weights = getattr(arch, 'keywords', {}).get('weights')     # of a partial
    net,learned,stats,sizes = _build(arch, pretrained, weights)
    if not isinstance(net, nn.Module):
        raise TypeError(f"expected {name} to return a network, got a {type(net).__name__}. Give a "
                        "function such as resnet18, or the network itself.")
    stats = model_meta.get(arch, {}).get('stats', stats)
    px = getattr(net, 'image_size', None)
    if px: sizes = f"It takes {px}x{px} pixels alone: item_tfms=Resize({px})."

    odd = () if state is None else load_fitting(net, state)
    keep = learned is not False or state is not None
    if with_channels(net, n_in, keep, name) and odd:
        # the file may be of a network for as many channels
        again = load_fitting(net, state)
        odd = tuple(k for k in odd if k in again)
    if state is not None and hasattr(net, 'transform_input'):
        # torchvision's functions say so only with weights of their own
        net.transform_input = True
    if n_in != 3 and getattr(net, 'transform_input', False):
        # it turned ImageNet's statistics into these
        net.transform_input = False
        stats = [.5]*3,[.5]*3
    if not learned and state is None: stats = None
    return Arch(net, name, stats_for(stats, n_in), _without_heads(net), sizes, odd)

def _torchvisions(): return torchvision.models.list_models(module=torchvision.models)

def _alike(name, timm_names):
    "What was meant by `name`, of timm's architectures and of torchvision's, a sentence; '' if nothing is like it"
    own = _torchvisions()
    if name in own: return f"Give torchvision's function: torchvision.models.{name}, without quotes. "
    known = {k: f'torchvision.models.{k}' for k in own} | {k: repr(k) for k in timm_names}
    near = get_close_matches(name.lower(), known, n=3, cutoff=.6)
    if not near and name: near = [k for k in known if k.startswith(name.lower())][:3]
    return f"Did you mean {' or '.join(known[k] for k in near)}? " if near else ''

def timm_for(
    name    # Of an architecture
):
    "timm, which knows the architecture `name`"
    try: import timm
    except ImportError as e:
        other = name if name in _torchvisions() else 'resnet18'
        raise ImportError(f"expected timm, which builds the architecture {name!r}, got none. "
                          "`pip install timm`, or give a function such as "
                          f"torchvision.models.{other}.") from e
    # 'timm/resnet18.a1_in1k' names one of the hub's, 'hf-hub:..' says where else to look
    if ':' in name or timm.is_model(name.split('/')[-1]): return timm
    raise ValueError(f"expected the name of a timm architecture, got {name!r}. "
                     f"{_alike(name, timm.list_models())}All: timm.list_models().")

def _from_timm(name, n_in, pretrained, weights):
    "`Arch` of a timm name"
    file = is_file(weights)
    if weights is not None and not file:
        raise ValueError(f"expected `weights` of {name!r} to be the path of a .pt or .pth file, got "
                         f"{weights!r}. The name says which of timm's: 'resnet18.a1_in1k'.")
    timm = timm_for(name)
    net = timm.create_model(name, pretrained=pretrained and not file, num_classes=0, in_chans=n_in)
    odd = load_fitting(net, state_of(weights)) if file else ()
    cfg = net.default_cfg
    heads = cfg.get('classifier') or ()
    if isinstance(heads, str): heads = (heads,)
    spare = tuple(k+'.' for k in heads)
    stats = None
    if pretrained or file: stats = stats_for((list(cfg['mean']), list(cfg['std'])), n_in)
    size = cfg['input_size'][-1]
    sizes = f"It is made for {size}x{size} pixels: item_tfms=Resize({size})."
    return Arch(net, name, stats, spare, sizes, odd)

def build_arch(
    arch,               # Function, class or timm name
    n_in,               # Channels of the images
    pretrained=True,    # With the weights that come with it?
    weights=None        # Member or name of torchvision's weights, or the path of a state_dict
)->Arch:
    "The network of an architecture, whole but for auxiliary heads"
    if isinstance(arch, str): return _from_timm(arch, n_in, pretrained, weights)
    if callable(arch): return _from_function(arch, n_in, pretrained, weights)
    raise TypeError("expected an architecture such as resnet18, a timm name, an nn.Module or a "
                    f"Learner, got {shown(arch)}. Give one of these.")

def given_net(
    net,            # A network of the user's, to be changed
    weights=None    # Path of a state_dict
)->Arch:
    "`Arch` of a network that is there"
    name,odd = type(net).__name__,()
    if weights is not None and not is_file(weights):
        raise ValueError(f"expected `weights` of your {name} to be the path of a .pt or .pth file, "
                         f"got {weights!r}. Leave them out if it is trained.")
    if weights is not None: odd = load_fitting(net, state_of(weights))
    return Arch(net, name, spare=_without_heads(net), odd=odd)
