"A learner on architectures that fastai's vision_learner cannot cut: `Body` up to the vector, fastai's head on it"
from torch import nn
from fastcore.basics import store_attr
from fastai.data.transforms import get_c
from fastai.data.transforms import Normalize
from fastai.learner import Learner
from fastai.vision.learner import add_head, default_split, model_meta
from fastrobust.basics import robust_warn
from fastrobust.inference.archs import family
from fastrobust.inference.bodies import body_of
from fastrobust.inference.pretrained import arch_name
from fastrobust.pixels import is_normalize, peek_images

__all__ = []

# Families of torchvision.models that fastai cuts not at all or elsewhere. Their children have no
# pooling layer, or shufflenetv2's first is at the start, or the forward pass does more than they
UNCUT = {'mobilenetv2', 'mnasnet', 'vision_transformer', 'shufflenetv2', 'maxvit', 'googlenet',
         'inception'}
HEAD = ('init', 'lin_ftrs', 'ps', 'first_bn', 'bn_final', 'lin_first', 'y_range')

def needs_body(
    arch    # What `vision_learner` takes
):
    "Whether fastai cannot cut the torchvision function `arch`; what is in fastai's `model_meta` it can"
    if isinstance(arch, (str, nn.Module)) or arch in model_meta: return False
    return family(arch) in UNCUT

def add_norm(
    dls,        # DataLoaders; they get the transform
    stats,      # (mean, std) of a pretrained network, None if there are none
    averaged    # Were they averaged over the colours?
):
    "Add Normalize with the statistics of a pretrained network, if `dls` have none"
    have = any(is_normalize(t) for t in dls.train.after_batch.fs)
    if stats is None or have: return
    t = Normalize.from_stats(*stats, cuda=False)
    device = getattr(dls, 'device', None)
    t.mean,t.std = t.mean.to(device),t.std.to(device)
    dls.add_tfms([t], 'after_batch')
    if not averaged: return
    m,s = stats[0][0],stats[1][0]
    robust_warn(f"pretrained on colour images, used on {len(stats[0])} channel(s): added Normalize "
                f"with the averaged statistics ({m:.3f}, {s:.3f}).")

def _images(dls, n_in):
    "Images of `dls`, which have `n_in` channels if that is not None"
    x = peek_images(dls)
    if x is None:
        raise TypeError("expected dls whose first input is a batch of images (b,c,h,w), got others. "
                        "Give learner_func, or a network of your own.")
    if n_in is not None and n_in != x.shape[1]:
        raise ValueError(f"expected n_in={x.shape[1]}, the channels of the images, got {n_in}. "
                         "Leave it out.")
    return x

def body_learner(
    dls,                # DataLoaders with images
    arch,               # torchvision function or one like it
    normalize=True,     # Add Normalize with the statistics of pretrained weights?
    n_out=None,         # Outputs; None: the classes of `dls`
    pretrained=True,    # With pretrained weights, frozen?
    weights=None,       # Which: a member or name of torchvision's, or the path of a state_dict
    n_in=None,          # Channels of the images; None: look
    cut=None,           # None: this way there is one place to cut
    custom_head=None,   # A network on the vectors (b,d); None: fastai's `create_head`
    splitter=None,      # None: body and head
    **kwargs            # More for `create_head` and Learner
):
    "`vision_learner` for networks it cannot cut: the plain network up to its features and a head"
    if cut is not None:
        raise ValueError(f"{arch_name(arch)} is cut before its last linear layer, got {cut=}. Leave "
                         "`cut` out, or give your own nn.Module.")
    n_out = n_out or get_c(dls)
    if not n_out:
        raise ValueError("expected the number of outputs, got none from the dls. Give n_out, or set "
                         "`dls.c`.")
    x = _images(dls, n_in)
    head = {k: kwargs.pop(k) for k in HEAD if k in kwargs}
    for k in ('pool', 'concat_pool'): kwargs.pop(k, None)       # the vectors are pooled
    body = body_of(arch, x, pretrained, weights)
    model = add_head(body.net, body.d, n_out, head=custom_head, pool=False, **head)
    if normalize: add_norm(dls, body.stats, x.shape[1] != 3)
    learn = Learner(dls, model, splitter=splitter or default_split, **kwargs)
    if pretrained: learn.freeze()
    # for loggers, as vision_learner
    store_attr('arch,normalize,n_out,pretrained', self=learn)
    return learn
