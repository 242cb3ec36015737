"Images, labels and classes in memory: any accepted form, checked and brought to one"
import numpy as np, pandas as pd
import torch
from fastrobust.basics import robust_warn

__all__ = []

def _grey_levels(a, what):
    "Floats in [0,1] as 256 grey levels"
    lo,hi = float(a.min()),float(a.max())
    if not (lo >= 0 and hi <= 1):
        raise ValueError(f"expected float pixels in [0,1] in `{what}`, got [{lo:.4g}, {hi:.4g}]. "
                         "Give the images as they were before normalisation, uint8 or divided by "
                         "255, without NaN.")
    px = np.multiply(a, 255, dtype=np.float32)
    res = np.empty(a.shape, np.uint8)
    np.rint(px, out=res, casting='unsafe')
    if np.abs(px-res).max() > .05:
        robust_warn(f"`{what}` has values between the 256 levels of an image file: rounded to "
                    "uint8.")
    return res

def as_pixels(X, what):
    "A copy of the images `X` as one contiguous uint8 tensor (n,c,h,w)"
    is_t = isinstance(X, torch.Tensor)
    if is_t:
        a = X.detach().cpu().numpy()
        chan,layout = 1,'tensor (n,h,w) or (n,c,h,w)'
    else:
        a = np.asarray(X)
        chan,layout = -1,'array (n,h,w) or (n,h,w,c)'

    if a.dtype != np.uint8 and a.dtype.kind != 'f':
        raise TypeError(f"expected `{what}` as uint8 or as floats in [0,1], got {a.dtype}. "
                        "Other integers: `.astype('uint8')`, if they are within 0..255.")
    if a.ndim == 3: a = np.expand_dims(a, chan)
    if a.ndim != 4 or a.shape[chan] not in (1, 3):
        raise ValueError(f"expected `{what}` as an {layout} with 1 or 3 channels, got shape "
                         f"{a.shape}. NumPy arrays have their channels last, torch tensors first: "
                         "transpose, or choose 1 or 3 of the channels.")
    if not a.size:
        raise ValueError(f"expected images in `{what}`, got shape {a.shape}. Look how they were "
                         "selected.")

    if a.dtype != np.uint8: a = _grey_levels(a, what)
    if not is_t: a = a.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.array(a, order='C', copy=True))

def as_labels(y, n, what):
    "Labels as a list of ints or strings"
    if isinstance(y, torch.Tensor): y = y.detach().cpu().numpy()
    # a list with NaN keeps its other labels
    dtype = y.dtype if isinstance(y, np.ndarray) else object
    a = np.asarray(y, dtype=dtype)
    if a.shape != (n,):
        raise ValueError(f"expected one label per image, `{what}` of shape ({n},), got {a.shape}. "
                         "Select images and labels alike; of one-hot or soft labels take "
                         "`.argmax(1)`.")
    missing = np.flatnonzero(pd.isna(a))
    if len(missing):
        raise ValueError(f"expected a label for every image, got {len(missing)} missing (NaN, "
                         f"None) in `{what}`, first at {missing[:3].tolist()}. Drop those images.")

    res = [o.item() if hasattr(o, 'item') else o for o in a.tolist()]
    kinds = {type(o) for o in res}
    strings = all(issubclass(k, str) for k in kinds)
    if not (strings or kinds <= {int, bool}):
        got = ', '.join(sorted(k.__name__ for k in kinds))
        raise TypeError(f"expected `{what}` as ints or strings, got {got}. Whole numbers kept as "
                        "floats: `y.astype(int)`.")
    return res

def as_vocab(vocab, labels):
    if vocab is None: return sorted(set(labels))
    is_array = isinstance(vocab, (np.ndarray, torch.Tensor))
    vocab = vocab.tolist() if is_array else list(vocab)
    if not vocab or len(set(vocab)) < len(vocab):
        raise ValueError(f"expected `vocab` as a list of different classes, got {vocab}. Left out, "
                         "it comes from `y`.")
    return vocab

def codes_in(labels, vocab, what):
    "Positions of `labels` in `vocab`; ints are positions already where the vocab has names"
    named = isinstance(labels[0], int) and not any(isinstance(o, int) for o in vocab)
    if named:
        o2i = {i: i for i in range(len(vocab))}
    else:
        o2i = {o: i for i,o in enumerate(vocab)}
    unknown = sorted(set(labels) - set(o2i), key=str)
    if unknown:
        have = f"labels of the vocab {vocab[:10]}"
        if named: have = f"positions 0..{len(vocab)-1} in the vocab"
        raise ValueError(f"expected {have} in `{what}`, got {unknown[:5]}. Give all classes as "
                         "`vocab=`, or drop these images.")
    return torch.tensor([o2i[o] for o in labels])

def check_like(got, shape, what, strict=False):
    "Images of (c,h,w) `got` beside training images of `shape`"
    if shape is None or tuple(got) == tuple(shape): return
    if strict or got[0] != shape[0]:
        raise ValueError(f"expected images of (channels, height, width) {tuple(shape)} in "
                         f"`{what}`, as in training, got {tuple(got)}. Convert or resize them "
                         "first.")
    robust_warn(f"`{what}` are {tuple(got)[1:]} pixels, the training images {tuple(shape)[1:]}: "
                "used as they are.")
