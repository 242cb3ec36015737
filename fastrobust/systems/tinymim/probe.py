"How much a vision transformer's features tell: the accuracy of a linear head on them, solved in one pass"
# The probe of MAE (https://arxiv.org/abs/2111.06377, A.1) in closed form, with no rate and no epochs to choose.
from typing import NamedTuple
import torch
from torch import Tensor
from fastcore.basics import noop
from fastai.learner import Learner
from fastrobust.basics import is_whole, n_classes, need_truth, plain_dl
from fastrobust.inference.analytic import AnalyticHead
from fastrobust.inference.features import Rows, fill
from fastrobust.inference.normal import need_gamma
from fastrobust.inference.rows import scaling_of
from fastrobust.metrics import wilson_interval
from fastrobust.pixels import pixel_space
from fastrobust.systems.tinymim.attending import Enough, Hooked
from fastrobust.systems.tinymim.distilling import plain_net
from fastrobust.systems.tinymim.inside import Unlabelled
from fastrobust.systems.tinymim.vitfiles import need_images
from fastrobust.systems.tinymim.vits import ViT
from fastrobust.training.surgery import copy_net

__all__ = ['linear_probe']

_ME = 'linear_probe'
_POOLS = 'mean','class'

class Probe(NamedTuple):
    "What `linear_probe` found; `float` of it is the accuracy"
    accuracy:float  # Of the validation images
    low:float       # 95 % interval over such images (Wilson); another training of the network differs more
    high:float
    n:int           # Training images
    n_valid:int     # Validation images
    d:int           # Features
    layer:str       # Which, in words
    gamma:float     # Penalty

    def __float__(self): return self.accuracy
    def __repr__(self):
        return (f'linear probe: accuracy {self.accuracy:.3f} ({self.low:.3f} to {self.high:.3f}) of {self.n_valid} '
                f'images, head on {self.n}, {self.d} features of {self.layer}, gamma={self.gamma:.4g}')

# --- tokens ---------------------------------------------------------------------------------------
class Pooled(Hooked):
    "Function of a batch -> features (b,d): the tokens of one place of a vision transformer, pooled"
    def __init__(self,
        vit,    # `ViT`
        layer,  # 'last', 'norm', or position of a block, whose input is read
        pool    # 'mean' of the patches, or 'class', the first token
    ):
        self.vit,self.pool = vit,pool
        self.ends,self.seen = layer == 'norm',None
        if not self.ends: self.block = vit.at(-1 if layer == 'last' else layer, 'layer')
        elif vit.norm is None:
            raise ValueError(f"expected {vit.who} with a normalisation after its blocks for layer='norm', found none. "
                             "Take layer='last'.")
        has = getattr(vit.net, 'has_class_token', vit.prefix > 0)
        if pool == 'class' and not has:
            raise ValueError(f"expected {vit.who} with a class token for pool='class', found none. Take pool='mean'.")

    def __str__(self):
        tokens = 'the mean patch' if self.pool == 'mean' else 'the class token'
        if self.ends: return f'{tokens} after the last norm'
        return f'{tokens} that goes into block {self.block} of {self.vit.depth}'

    def _put(self):
        if self.ends: yield self.vit.norm.register_forward_hook(self._out)
        else: yield self.vit.blocks[self.block].register_forward_pre_hook(self._into, with_kwargs=True)

    def _into(self, module, args, kwargs):
        self.seen = args[0] if args else next(iter(kwargs.values()))
        raise Enough    # the rest is not needed

    def _out(self, module, args, out): self.seen = out

    def __call__(self, x):
        with self:
            try: self.vit.net(x)
            except Enough: pass
        t,self.seen = self.seen,None
        # some networks pool before their norm
        if self.ends and self.pool == 'mean' and isinstance(t, Tensor) and t.ndim == 2: return t
        if not isinstance(t, Tensor) or t.ndim != 3 or len(t) != len(x):
            got = tuple(t.shape) if isinstance(t, Tensor) else type(t).__name__
            raise ValueError(f"expected tokens ({len(x)},n,d) of {len(x)} images at this layer, got {got}. Take "
                             "layer='last'.")
        return t[:, 0] if self.pool == 'class' else t[:, self.vit.prefix:].mean(1)

# --- the probe ------------------------------------------------------------------------------------
def need_layer(layer):
    "Refuse what names no tokens of any network"
    if isinstance(layer, str) and layer in ('last', 'norm'): return
    if is_whole(layer): return
    raise ValueError("`layer` must be 'last' (what goes into the last block), 'norm' (after the last norm) or the "
                     f"position of a block, got {layer!r}.")

def _check(dls, layer, pool, gamma):
    if not hasattr(dls, 'loaders'):
        raise TypeError(f"expected `dls` as DataLoaders with labels, got {type(dls).__name__}. Make them with "
                        "ImageDataLoaders or array_dls.")
    need_layer(layer)
    if pool not in _POOLS:
        raise ValueError(f"`pool` must be 'mean' (of the patches) or 'class' (the class token), got {pool!r}.")
    if not (isinstance(gamma, str) and gamma == 'auto'): need_gamma(gamma)
    if len(dls.loaders) < 2 or not len(dls.valid.dataset):
        raise ValueError("expected dls with validation images, on which the accuracy is measured, got none. Make them "
                         "with a share held out: valid_pct=.2.")
    if not len(plain_dl(dls.train).dataset): raise ValueError("expected dls with training images, got none.")
    n_classes(dls)

def _placed(net, dls):
    "The network where the images are: itself, or a copy"
    p = next(net.parameters(), None)
    device = getattr(dls, 'device', None)
    if p is None or device is None: return net
    # fastai's loaders keep the name they were given
    device = torch.device(device)
    return net if p.device.type == device.type else copy_net(net).to(device)

def _stats(space):
    "What a `PixelSpace` normalises by"
    if space.mean is None: return None
    return space.mean.flatten().tolist(),space.std.flatten().tolist()

def as_learned(
    model,  # A Learner, or a network
    dls     # DataLoaders
):
    "Function of images of `dls`: as a Learner's own loaders normalise them; for a network alone they stay as they are"
    if not isinstance(model, Learner): return noop
    mine,its = pixel_space(dls),pixel_space(model.dls)
    if _stats(mine) == _stats(its): return noop
    return lambda x: its.encode(mine.decode(x))

def _need_fit(net, x):
    "Refuse images that the network does not take, before torch and timm do it in words of their own"
    c,h,w = x.shape[1:]
    try: need_images(net, (c, h, w), 'the network')
    except ValueError as e:
        # what to do is another thing with labelled images
        said = str(e).partition('. ')[0]
        raise ValueError(f"{said}. Make `dls` as it learned, with item_tfms=Resize(..) and ImageBlock (colours) or "
                         "ImageBlock(PILImageBW), or a network for these images: vit_of(name, "
                         f"size={h}, channels={c}).") from None

def _rows(learn, body, dl):
    "Features and labels of a loader"
    dl = plain_dl(dl)
    return fill(Rows(len(dl.dataset)), learn, body, dl, who=_ME)

def linear_probe(
    model,          # A vision transformer of timm's or torchvision's, `tiny_vit`, or a Learner of one; stays as it is
    # DataLoaders of images and labels: the head is solved on `train`, measured on `valid`. A Learner's network sees
    # them normalised as its own loaders do it, a network alone as they are here
    dls,
    *,
    # Tokens that are read: 'last', those that go into the last block; a position, from 0 or from the end: into that
    # block; 'norm': those after the last norm
    layer='last',
    pool='mean',    # Of the tokens: 'mean' over patches, or 'class', that of the class alone
    gamma='auto',   # Penalty > 0 on standardised features; 'auto': by generalised cross-validation
    verbose=True    # Show a bar?
)->Probe:
    """Accuracy of a linear head on a frozen network's features, ridge regression in one pass over `dls.train`, not
    augmented. By default they are what goes into the last block, as TinyMIM leaves the rest of that block untrained:
    on digits one to five points more, by teacher, than after the last norm; features distilled from a teacher tell more
    there (nbs/benchmarks/RESULTS.md). A Learner's images are normalised as in its training, whether `dls` normalise or
    not; to a network alone give dls that do"""
    _check(dls, layer, pool, gamma)
    verbose = need_truth('verbose', verbose)
    net = _placed(plain_net(model, 'model'), dls)
    pooled,look = Pooled(ViT(net, 'the network'), layer, pool),as_learned(model, dls)
    def body(x):
        _need_fit(pooled.vit.net, x)
        return pooled(look(x))
    learn = Learner(dls, net, loss_func=Unlabelled())
    if not verbose: learn.remove_cb(learn.progress)
    train = _rows(learn, body, dls.train)
    head = AnalyticHead(train.f.shape[1], None, gamma, standardise=scaling_of(train.f), intercept=True)
    head.fit(train.f, train.y)

    valid = _rows(learn, body, dls.valid)
    right = sum(int((head.predict(f) == y).sum()) for f,y in valid.blocks())
    accuracy = right/valid.n
    low,high = (float(o) for o in wilson_interval(accuracy, valid.n))
    return Probe(accuracy, low, high, train.n, valid.n, head.d, str(pooled), float(head.gamma_))
