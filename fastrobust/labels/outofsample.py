"Labels and out-of-sample probabilities, checked before anything is concluded from them"
import numpy as np
from fastrobust.basics import robust_warn

__all__ = ['need_probs', 'warn_in_sample']

def as_array(o):
    "A tensor, list or table as an array; a learner is no evidence of anything"
    if hasattr(o, 'get_preds'):
        raise TypeError("expected out-of-sample probabilities (n,c), got a learner. What it says of the items it was "
                        "trained on is no evidence: use `cross_val_preds(make_learner, dls)`.")
    return o.detach().cpu().numpy() if hasattr(o, 'detach') else np.asarray(o)

def need_probs(
    y,      # Given labels (n,), ints 0..c-1; not every class need have items
    probs,  # Out-of-sample probabilities (n,c): array, tensor, table or `OutOfFold`
    n_classes=None # c, where it is known
): # (labels int64 (n,), probabilities float32 or float64 (n,c))
    "Labels and probabilities as arrays, refused unless finite, in [0,1], with rows that sum to 1 within .001"
    if isinstance(probs, tuple) and len(probs) and getattr(probs[0], 'ndim', 0) == 2:
        raise ValueError(f"expected probabilities (n,c), got a tuple of {len(probs)}, as from `get_preds`. Take the "
                         "first, if it is of items the network was not trained on.")
    y,p = as_array(y),as_array(probs)
    if p.ndim != 2 or not len(p) or p.shape[1] < 2 or p.dtype.kind not in 'fiub':
        raise ValueError(f"expected probabilities (n,c) of at least one item and two classes, got {p.dtype} of shape "
                         f"{p.shape}. Give one row per item and one column per class.")
    if n_classes not in (None, p.shape[1]):
        raise ValueError(f"expected probabilities (n,c) of shape ({len(as_array(y))},{n_classes}), one column per "
                         f"class of the vocab, got shape {p.shape}. Take them from a network with {n_classes} outputs.")
    if p.dtype not in (np.float32, np.float64): p = p.astype(np.float32 if p.dtype == np.float16 else np.float64)
    if y.ndim == 2: raise ValueError(f"expected labels (n,), got shape {y.shape}. Of one-hot labels take `.argmax(1)`.")
    if y.shape != p.shape[:1]:
        raise ValueError(f"expected as many labels as rows of probabilities, got {y.shape} and {p.shape}. Select both "
                         "alike, in the order of the training set.")
    if y.dtype.kind not in 'iub':
        raise TypeError(f"expected labels as ints 0..{p.shape[1]-1}, the columns of `probs`, got {y.dtype}. Names: "
                        "take their positions in `dls.vocab`; whole numbers kept as floats: `y.astype(int)`.")
    y = y.astype(np.int64)
    if y.min() < 0 or y.max() >= p.shape[1]:
        raise ValueError(f"expected labels in 0..{p.shape[1]-1}, one column of `probs` each, got {y.min()} to "
                         f"{y.max()}. Give a column to every class of the vocab, and drop items without a label.")
    lo,hi = p.min(),p.max()
    if not (np.isfinite(lo) and np.isfinite(hi)):
        bad = np.flatnonzero(~np.isfinite(p).all(1))
        raise ValueError(f"expected finite probabilities, got NaN or inf in {len(bad)} rows, first {bad[:3].tolist()}. "
                         "Did the training diverge? Lower its learning rate.")
    if lo < -1e-6 or hi > 1+1e-3:
        raise ValueError(f"expected probabilities in [0,1], got [{lo:.3g}, {hi:.3g}]. These look like logits: take "
                         "their softmax over the classes first.")
    sums = p.sum(1)
    if np.abs(sums-1).max() > 1e-3:
        raise ValueError(f"expected rows of probabilities that sum to 1, got {sums.min():.4g} to {sums.max():.4g}. "
                         "Take the softmax over the classes (axis 1), or divide each row by its sum.")
    return y,p

def warn_in_sample(
    y,      # Given labels (n,)
    probs   # Probabilities (n,c)
)->bool:
    "Warn where practically every label is predicted as given, as a network does with items it has memorised"
    if getattr(probs, 'out_of_sample', False): return False
    y,p = need_probs(y, probs)
    share = (p.argmax(1) == y).mean()
    if len(y) < 100 or share < .99: return False
    robust_warn(f"{share:.1%} of the labels are predicted as they are given. Either the labels are clean and the task "
                "is easy, or the network was trained on these items: then its probabilities are no evidence. Take "
                "them from `cross_val_preds(make_learner, dls)`.", stacklevel=4)
    return True
