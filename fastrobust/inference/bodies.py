"A network up to the vector that its last linear layer is given, whatever names the network"
from collections import Counter
import torch
from torch import Tensor, nn
from fastai.learner import Learner
from fastrobust.inference.archs import build_arch, given_net
from fastrobust.pixels import pixel_space
from fastrobust.resting import at_rest
from fastrobust.training.surgery import Surgery, copy_net, unwrap

__all__ = []

class Body(nn.Module):
    "A network up to the vector that its last linear layer is given"
    def __init__(self,
        net,            # The network, that layer replaced by nn.Identity
        d,              # Length of the vector
        name,           # Of the architecture
        stats=None,     # (mean, std) that its pretrained weights want images normalised with
        left_out=None   # The layer; None: it has none
    ):
        super().__init__()
        self.net,self.d,self.name,self.stats = net,d,name,stats
        self._left_out = (left_out,)    # not among the body's own layers

    @property
    def left_out(self):
        "The last linear layer: `left_out(body(x))` are the network's logits"
        return self._left_out[0]

    def forward(self, x): return _first(self.net(x)).flatten(1).float()

def _first(z):
    "The logits, whatever a network returns beside them"
    return z[0] if isinstance(z, (tuple, list)) and len(z) else z

# --- one forward pass -----------------------------------------------------------------------------
def _need_images(x):
    if isinstance(x, Tensor) and x.ndim == 4 and len(x) and x.is_floating_point(): return
    got = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
    raise TypeError(f"expected a batch of images as the network gets them, floats (b,c,h,w), got "
                    f"{got}. Give one such as `learn.dls.one_batch()[0]`.")

def _run(a, x):
    "Row of outputs per image of the network of `Arch` `a` in evaluation mode"
    try:
        with at_rest(a.net): z = _first(a.net(x))
    except Exception as e:
        fix = a.sizes or "Give a batch as the network gets it."
        raise ValueError(f"expected images that {a.name} can take, got (c,h,w) {tuple(x.shape[1:])}: "
                         f"{type(e).__name__}, {str(e).strip('. ')}. {fix}") from e
    if isinstance(z, Tensor) and z.ndim > 1 and len(z) == len(x) and z[0].numel() == z.shape[1]:
        return z
    got = tuple(z.shape) if isinstance(z, Tensor) else f"a {type(z).__name__}"
    raise ValueError(f"expected a vector per image from {a.name}, ({len(x)},d), got {got}. Of a "
                     "network that ends in feature maps: nn.Sequential(body, "
                     "nn.AdaptiveAvgPool2d(1), nn.Flatten()).")

def last_linear(
    a,  # `Arch` of the network
    x   # A few images, as the network gets them
):
    "The nn.Linear whose output is the network's, None if none is; and that output"
    outs,calls,hooks = {},Counter(),[]
    def keep(layer, _args, out):
        outs[layer] = out,out._version
        calls[layer] += 1

    linear = [m for m in a.net.modules() if isinstance(m, nn.Linear)]
    try:
        for m in linear: hooks.append(m.register_forward_hook(keep))
        z = _run(a, x)
    finally:
        for h in hooks: h.remove()
    for layer,(out,version) in reversed(outs.items()):
        # what is changed in place afterwards is another output
        same = out._version == version and torch.equal(out.flatten(), z.flatten())
        if same and calls[layer] == 1: return layer,z
    return None,z

# --- the cut --------------------------------------------------------------------------------------
def _without(net, layer):
    "`net` with `layer` replaced by nn.Identity in place; its names"
    if net is layer: return nn.Identity(),['']
    names = [k for k,m in net.named_modules(remove_duplicate=False) if m is layer]
    for k in names:
        parent,_,name = k.rpartition('.')
        setattr(net.get_submodule(parent), name, nn.Identity())
    return net,names

def _need_weights(a, names):
    "Refuse a file that does not hold the weights of all that is left"
    spare = tuple(f'{k}.' for k in names) + a.spare
    odd = [k for k in a.odd if not k.startswith(spare)]
    if not odd: return
    raise ValueError(f"expected a file with the weights of {a.name}, got one in which {len(odd)} are "
                     f"missing, of another shape or not {a.name}'s: {', '.join(odd[:3])}. Give the "
                     "state_dict of that architecture.")

def _features(a, x, layer, z):
    "What the network of `a` gives without `layer`, which must make `z` of that"
    why = None
    try:
        f = _run(a, x)
        with torch.no_grad(): back = layer(f.flatten(1))
        if torch.allclose(back.flatten(), z.flatten(), 1e-3, 1e-4, equal_nan=True): return f
    except (RuntimeError, ValueError) as e: why = e
    raise ValueError(f"expected {a.name} to end in its last linear layer, got a forward pass that "
                     f"needs the layer's {layer.out_features} outputs afterwards. Give the network "
                     "up to its features as nn.Module.") from why

def _cut(a, x):
    "`Body` of an `Arch`, whose network is changed"
    p = next(a.net.parameters(), x)
    x = x[:2].detach().as_subclass(Tensor).to(p.device, p.dtype)
    layer,f = last_linear(a, x)
    names = []
    if layer is not None:
        net,names = _without(a.net, layer)
        a = a._replace(net=net)
    _need_weights(a, names)
    if layer is not None: f = _features(a, x, layer, f)
    if not torch.isfinite(f).all():
        raise ValueError(f"expected finite features from {a.name}, got NaN or inf. Are the images "
                         "finite? Has its training diverged?")
    net = a.net
    if f.ndim > 2: net = nn.Sequential(net, nn.Flatten())
    return Body(net, f.flatten(1).shape[1], a.name, a.stats, layer)

# --- from whatever names it -----------------------------------------------------------------------
def _of_learner(learn, weights):
    "`Arch` of a learner's network, without what techniques put around it"
    twins = [m for m in learn.model.modules() if isinstance(m, Surgery) and hasattr(m, 'nets')]
    if twins:
        raise ValueError(f"expected a learner with one network, got the two of a "
                         f"{type(twins[0]).__name__}. Take one: strip(learn, which='a').")
    a = given_net(unwrap(copy_net(learn.model)), weights)
    px = pixel_space(learn.dls)
    if px.mean is None: return a
    return a._replace(stats=(px.mean.flatten().tolist(), px.std.flatten().tolist()))

def body_of(
    # torchvision function or one like it, timm name, nn.Module or fitted Learner; the last two are
    # copied
    arch,
    x,                  # Batch of images (b,c,h,w), as the network gets them
    pretrained=True,    # With the weights that come with a function or name?
    # Member or name of a torchvision function's weights, or the path of a state_dict (.pt, .pth);
    # they beat `pretrained`
    weights=None
)->Body:
    "The network that `arch` names, up to the vector its last linear layer is given; all of it if it has none"
    _need_images(x)
    if isinstance(arch, Learner): a = _of_learner(arch, weights)
    elif isinstance(arch, nn.Module): a = given_net(copy_net(arch), weights)
    else: a = build_arch(arch, x.shape[1], pretrained, weights)
    return _cut(a, x)
