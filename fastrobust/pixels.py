"Between the normalised images that a network sees and their pixels in [0,1]; and a look at what a batch holds"
from contextlib import contextmanager
import torch
from fastrobust.basics import plain_dl
from fastrobust.resting import keep_random

__all__ = []

def is_normalize(t): return hasattr(t, 'mean') and hasattr(t, 'std') and hasattr(t, 'axes')

def turns_clips(t):
    "Whether the transform puts the channels of clips before their frames"
    return getattr(type(t), 'turns_clips', False)

def holds_clips(dls):
    "Whether the batches of `dls` are clips, as those of `video_dls`"
    if not len(dls.loaders): return False
    pipe = getattr(plain_dl(dls.train), 'after_batch', None)
    return any(map(turns_clips, getattr(pipe, 'fs', None) or []))

class PixelSpace:
    "Between the normalised images a model sees and their pixels in [0,1]"
    def __init__(self,
        mean=None,      # Mean of the dls' Normalize, (1,c,1,1), of clips (1,c,1,1,1); None: none
        std=None,       # Its standard deviation
        loose=False     # A later transform (RandomErasing) may leave [0,1]: such values are clamped, not refused
    ): self.mean,self.std,self.loose = mean,std,loose

    def _stats(self, x):
        like_x = lambda v: v.to(x.device, x.dtype)
        return like_x(self.mean),like_x(self.std)

    def decode(self, x):
        "Pixels of normalised `x`"
        if self.mean is None: return x
        m,s = self._stats(x)
        return x*s + m

    def encode(self, px):
        "Normalised form of pixels in [0,1]"
        if self.mean is None: return px
        m,s = self._stats(px)
        return (px-m)/s

    def check(self, px, who='this technique', tol=1e-3):
        "`px` clamped to [0,1]; values further out mean that these are no pixels"
        if self.loose: return px.clamp(0, 1)
        lo,hi = px.min().item(),px.max().item()
        if not (lo >= -tol and hi <= 1+tol):
            raise ValueError(f"{who} expected images with pixels in [0,1] before Normalize, got "
                             f"[{lo:.3g}, {hi:.3g}]. Were they normalised outside the dls, or not "
                             "divided by 255? Let the DataBlock do both (IntToFloatTensor and "
                             "Normalize among its batch_tfms).")
        return px.clamp(0, 1)

    def to_uint8(self, x, who='this technique'):
        "Normalised `x` to uint8 pixels, rounded (truncating would change 2 % of them)"
        px = self.check(self.decode(x.float()), who)
        return px.mul(255).round_().to(torch.uint8)

def pixel_space(dls):
    "The `PixelSpace` of the training loader's Normalize"
    pipe = getattr(plain_dl(dls.train), 'after_batch', None)
    fs = list(getattr(pipe, 'fs', []) or [])
    norms = [t for t in fs if is_normalize(t)]
    if not norms: return PixelSpace()
    t = norms[-1]
    as_t = lambda v: torch.as_tensor(v).as_subclass(torch.Tensor).float()
    mean,std = as_t(t.mean),as_t(t.std)
    later = [o for o in fs if getattr(o, 'order', 0) > t.order]
    turned = [o for o in later if turns_clips(o)]
    # the network sees (b,c,t,h,w), Normalize (b,t,c,h,w)
    if turned: mean,std = mean.transpose(1, 2),std.transpose(1, 2)
    loose = len(later) > len(turned)
    return PixelSpace(mean, std, loose)

# --- a look at the data ---------------------------------------------------------------------------
def _seen_loader(dls):
    "The loader to look into: of validation if there is any"
    if len(dls.loaders) > 1 and len(dls.valid): return dls.valid
    return dls.train

def some_batch(dls):
    "One batch of `dls`, of validation if there is any; the loader stays as it was, torch's random stream goes on"
    dl = _seen_loader(dls)
    with _keep_rng(dl):
        if hasattr(dl, 'one_batch'): return dl.one_batch()
        return next(iter(dl))

def peek(dls):
    "`some_batch`, and random streams stay where they were too"
    with keep_random(): return some_batch(dls)

@contextmanager
def _keep_rng(dl):
    "The loader's own random stream goes on from where it was"
    rng = getattr(dl, 'rng', None)
    if rng is not None: state = rng.getstate()
    try: yield
    finally:
        if rng is not None:
            rng.setstate(state)
            dl.rng = rng

def peek_images(dls):
    "Images (b,c,h,w) of one batch, None for other inputs"
    x = peek(dls)
    if isinstance(x, (list, tuple)): x = x[0]
    images = isinstance(x, torch.Tensor) and x.ndim == 4
    return x if images else None

def item_shape(dls):
    "(c,h,w) of one image of `dls` before the batch transforms; None for other inputs, and where it cannot be told"
    dl = plain_dl(_seen_loader(dls))
    shape = getattr(dl, 'im_shape', None)
    if shape: return tuple(shape)
    try:
        with keep_random(), _keep_rng(dl): x = dl.do_item(0)
    except Exception: return None   # what is wrong with the item, the first batch will say
    if isinstance(x, (list, tuple)): x = x[0]
    return tuple(x.shape) if isinstance(x, torch.Tensor) and x.ndim == 3 else None
