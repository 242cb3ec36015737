"What every part of fastrobust leans on: warnings, checks, pixel space, sample ids"
import difflib, warnings
from numbers import Integral, Real
import torch

__all__ = ['RobustWarning', 'PixelSpace', 'pixel_space', 'epoch_idxs', 'batch_idxs']

class RobustWarning(UserWarning):
    "Something legal but odd: it runs, and the message says why you may not want it"

def robust_warn(msg, stacklevel=3): warnings.warn(msg, RobustWarning, stacklevel=stacklevel)

def nearest(name, names):
    "`names` for an error message, the nearest to `name` first"
    near = difflib.get_close_matches(str(name), [str(o) for o in names], n=3, cutoff=.4)
    hint = f"Did you mean {' or '.join(repr(o) for o in near)}? " if near else ''
    return f"{hint}Known: {', '.join(map(str, names))}."

def need_number(name, v):
    "Refuse what is no number, before a comparison fails obscurely"
    if isinstance(v, bool) or not isinstance(v, Real):
        raise TypeError(f"`{name}` must be a number, got {v!r}. Give one such as 1.")

def check_weight(name, v, off='leave the technique out'):
    "`v`, a positive number or a schedule of `pct_train`; a plain 0 would be a silent no-op and is refused"
    if callable(v): return v
    need_number(name, v)
    if not 0 < v < float('inf'):
        raise ValueError(f"`{name}` must be positive and finite, got {v}. To switch it off, {off}.")
    return v

def weight_at(v, pct):
    "The value at `pct` of training of a number or of a schedule"
    return v(pct) if callable(v) else v

# --- warm-ups: papers count epochs, a notebook trains for five -------------------------------------------------------
def check_length(name, v):
    "`v`, the length of a warm-up: an int >= 0 (epochs) or a float in (0,1] (share of the fit under way)"
    if isinstance(v, bool) or not isinstance(v, Real):
        raise TypeError(f"`{name}` must be an int (epochs) or a float (share of a fit), got {v!r}. Pass e.g. 10 or .3.")
    if isinstance(v, Integral):
        if v >= 0: return int(v)
    elif 0 < v <= 1: return float(v)
    raise ValueError(f"`{name}` must be an int >= 0 (epochs over the technique's life) or a float in (0,1] (share of "
                     f"each fit), got {v!r}. Pass e.g. 10 or .3.")

def progress(length, epochs, pct):
    "How far a warm-up is, in [0,1], after `epochs` of a technique's life and `pct` of this fit"
    at = epochs if isinstance(length, Integral) else pct
    return 1. if length == 0 or at >= length else at/length

def warn_unfinished(t, name, learn):
    "Say before a fit that it will end inside the warm-up `name` of technique `t`"
    length,n = getattr(t, name),learn.n_epoch
    frozen = getattr(getattr(learn, 'opt', None), 'frozen_idx', 0)      # the short first half of fine_tune
    no_fit = learn.lock.locked() or hasattr(learn, 'lr_finder')         # `validate` and `get_preds` hold the lock
    if no_fit or frozen or not isinstance(length, Integral) or t.epochs + n > length: return
    robust_warn(f"this fit ends after epoch {t.epochs+n}, inside the {length} epochs of `{name}` of {t.name}, so the "
                f"technique never acts in full. Give a share of the fit instead, e.g. {name}=.3.", 6)

def as_f32(x):
    "Half and bfloat16 to float32, everything else as it is"
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x

# --- pixel space -----------------------------------------------------------------------------------------------------
def _is_normalize(t): return hasattr(t, 'mean') and hasattr(t, 'std') and hasattr(t, 'axes')

class PixelSpace:
    "Between the normalised images a model sees and their pixels in [0,1]"
    def __init__(self,
        mean=None,      # Mean of the dls' Normalize, shape (1,c,1,1); None: no Normalize
        std=None,       # Its standard deviation
        loose=False     # A later transform (RandomErasing) may leave [0,1]: such values are clamped, not refused
    ): self.mean,self.std,self.loose = mean,std,loose

    def _stats(self, x): return self.mean.to(x.device, x.dtype), self.std.to(x.device, x.dtype)

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
            raise ValueError(f"{who} expected images with pixels in [0,1] before Normalize, got [{lo:.3g}, {hi:.3g}]. "
                             "Were they normalised outside the dls, or not divided by 255? Let the DataBlock do both "
                             "(IntToFloatTensor and Normalize among its batch_tfms).")
        return px.clamp(0, 1)

    def to_uint8(self, x, who='this technique'):
        "Normalised `x` to uint8 pixels, rounded (truncating would change 2 % of them)"
        return self.check(self.decode(x.float()), who).mul(255).round_().to(torch.uint8)

def plain_dl(dl):
    "The loader with the transforms: fastai's DistributedDL, there during a fit on several ranks, has it inside"
    return plain_dl(dl.dl) if 'dl' in vars(dl) else dl

def peek_images(dls):
    "Images (b,c,h,w) of one batch, None for other inputs; looking leaves every random stream as it was"
    from fastai.torch_core import get_random_states, set_random_states
    states = get_random_states()
    try: b = dls.valid.one_batch() if len(dls.loaders) > 1 and len(dls.valid_ds) else dls.train.one_batch()
    finally: set_random_states(**states)
    x = b[0] if isinstance(b, (list, tuple)) else b
    return x if isinstance(x, torch.Tensor) and x.ndim == 4 else None

def pixel_space(dls):
    "The `PixelSpace` of the training loader's Normalize"
    fs = list(getattr(getattr(plain_dl(dls.train), 'after_batch', None), 'fs', []) or [])
    norms = [t for t in fs if _is_normalize(t)]
    if not norms: return PixelSpace()
    t = norms[-1]
    as_t = lambda v: torch.as_tensor(v).as_subclass(torch.Tensor).float()
    return PixelSpace(as_t(t.mean), as_t(t.std), loose=any(getattr(o, 'order', 0) > t.order for o in fs))

# --- sample ids ------------------------------------------------------------------------------------------------------
def epoch_idxs(dl):
    "The order in which `dl` walks its dataset this epoch, as positions; None where no such list exists"
    # private to fastai; kept in the main process for any number of workers
    idxs = getattr(dl, '_DataLoader__idxs', None)
    return idxs if hasattr(idxs, '__len__') and hasattr(idxs, '__getitem__') else None    # SortedDL has an iterator

def batch_idxs(dl, i, n, idxs=None):
    "Positions in `dl.dataset` of the `n` items of batch `i`; `idxs`: the epoch's order captured at batch 0"
    idxs = epoch_idxs(dl) if idxs is None else idxs
    bs = getattr(dl, 'bs', None)
    if idxs is None or bs is None: return None
    ids = torch.as_tensor(list(idxs[i*bs : i*bs+n]), dtype=torch.long)
    if len(ids) != n:
        raise ValueError(f"expected {n} sample ids for batch {i}, got {len(ids)}: the loader skipped items, so they "
                         "cannot be told apart. Use a dataset that returns every item.")
    return ids

def target_vocab(dls):
    "Classes of the one target of `dls`, in the order of its codes, as they are"
    vocab = list(dls.vocab)
    return list(vocab[-1]) if vocab and isinstance(vocab[0], (list, tuple)) else vocab

def n_classes(dls):
    "Number of classes of single-label `dls`"
    c = getattr(dls, 'c', None)
    if isinstance(c, int) and c > 1: return c
    vocab = getattr(dls, 'vocab', None)
    if vocab is None:
        raise ValueError("expected single-label classification dls with a vocab, got dls without one. Build them with "
                         "a CategoryBlock, or set `dls.c` to the number of classes.")
    return len(target_vocab(dls))
