"Predictions and labels of the same items: one check for everything that is concluded from them"
# Each function keeps the order of its neighbours: labels first where cleanlab has them first,
# predictions first where fastai's metrics have them. A call the other way round is told so.
import numpy as np
import torch

__all__ = []

# how far the sum of a row may be from 1, by its rounding
_SLACK = {'float16': .01, 'bfloat16': .05}
LABELS_FIRST      = 'labels first, as in cleanlab'
PREDICTIONS_FIRST = 'predictions first, as in the metrics of fastai'

# --- arrays ---------------------------------------------------------------------------------------
def kind_of(o):
    "The type of the numbers of a tensor or array, by its short name"
    return str(getattr(o, 'dtype', '')).removeprefix('torch.')

def as_array(o):
    "A tensor, list or table as an array; a learner is no evidence of anything"
    if hasattr(o, 'get_preds'):
        raise TypeError("expected out-of-sample probabilities (n,c), got a learner. What it says "
                        "of the items it was trained on is no evidence: use "
                        "`cross_val_preds(make_learner, dls)`.")
    if hasattr(o, 'detach'):
        o = o.detach().cpu()
        if kind_of(o) == 'bfloat16': o = o.float()      # unknown to numpy
        return o.numpy()
    return np.asarray(o)

def _swapped(a, y):
    "Would these be rows of predictions and labels, the other way round?"
    shapes = a.ndim == 1 and y.ndim == 2 and len(a) == len(y)
    return shapes and a.dtype.kind in 'iub' and y.dtype.kind == 'f'

# --- rows and their labels ------------------------------------------------------------------------
def need_rows(
    a,                          # Predictions (n,c), array
    y,                          # Labels (n,), ints 0..c-1, array; not every class need have items
    what='probabilities',       # What `a` holds
    order=PREDICTIONS_FIRST     # Which of the two comes first in the function that was called
): # Labels, int64 (n,)
    "Refuse all but one label in 0..c-1 for each row"
    if _swapped(a, y):
        raise ValueError(f"expected {what} (n,c) and labels (n,), got the other way round: labels "
                         f"of shape {y.shape} and {what} of shape {a.shape}. This function takes "
                         f"{order}.")
    both = f"expected {what} (n,c), c >= 2, with labels (n,), n >= 1, got {a.shape} and {y.shape}"
    if a.ndim != 2 or not len(a) or a.shape[1] < 2 or a.dtype.kind not in 'fiub':
        fix = ''
        if what == 'probabilities': fix = '; of a single output p take the columns 1-p and p'
        raise ValueError(f"{both} of {a.dtype}. Give at least one item and two classes, one row "
                         f"per item and one column per class{fix}.")
    if y.ndim == 2: raise ValueError(f"{both}. Of one-hot labels take `.argmax(1)`.")
    if y.shape != a.shape[:1]:
        raise ValueError(f"{both}: not as many labels as rows. Select both alike, in one order.")
    if y.dtype.kind not in 'iub':
        raise TypeError(f"expected labels as whole class numbers 0..{a.shape[1]-1}, got {y.dtype}. "
                        "Names: take their positions in `dls.vocab`; whole numbers kept as floats: "
                        "`y.astype(int)`. Soft labels have no one right class.")
    if y.min() < 0 or y.max() >= a.shape[1]:
        raise ValueError(f"expected labels in 0..{a.shape[1]-1}, one column of {what} each, got "
                         f"{y.min()} to {y.max()}. Compare vocab and model; drop items without a "
                         "label or of unknown class.")
    return y.astype(np.int64)

# --- probabilities --------------------------------------------------------------------------------
def need_distributions(
    p,          # Array (n,c) of floats
    slack=2e-3  # How far a sum may be from 1
):
    "Refuse rows that are not finite, in [0,1] and of sum 1"
    lo,hi = p.min(),p.max()
    if not (np.isfinite(lo) and np.isfinite(hi)):
        bad = np.flatnonzero(~np.isfinite(p).all(1))
        raise ValueError(f"expected finite probabilities in [0,1], got [{lo:.3g}, {hi:.3g}], NaN "
                         f"or inf in {len(bad)} rows, first {bad[:3].tolist()}. Did the training "
                         "diverge? Lower its learning rate; in mixed precision try "
                         "`learn.to_fp32()`.")
    if lo < -1e-6 or hi > 1+slack:
        raise ValueError(f"expected probabilities in [0,1], got [{lo:.3g}, {hi:.3g}]. These look "
                         "like logits: take their softmax over the classes first.")
    off = np.abs(p.sum(1, dtype=np.float64)-1)
    if off.max() > slack:
        i = int(off.argmax())
        raise ValueError("expected rows of probabilities that sum to 1, got "
                         f"{p[i].sum(dtype=np.float64):.4g} in row {i}. Divide each row by its "
                         "sum, or take the softmax over the classes (axis 1); several labels per "
                         "item (sigmoid) have no one right class.")

def need_probs(
    y,              # Labels (n,), ints 0..c-1: array, tensor or list
    probs,          # Probabilities (n,c): array, tensor, table or `OutOfFold`
    n_classes=None, # c, where it is known
    order=LABELS_FIRST # Which of the two comes first in the function that was called
): # (labels int64 (n,), probabilities float32 or float64 (n,c))
    "Labels and probabilities as arrays, refused unless finite, in [0,1], with rows that sum to 1 up to rounding"
    if isinstance(probs, tuple) and len(probs) and getattr(probs[0], 'ndim', 0) == 2:
        raise ValueError(f"expected probabilities (n,c), got a tuple of {len(probs)}, as from "
                         "`get_preds`. Take the first, if it is of items the network was not "
                         "trained on.")
    slack = _SLACK.get(kind_of(probs), 2e-3)
    y = as_array(y)
    p = as_array(probs)
    if n_classes is not None and p.shape[1:] and n_classes != p.shape[1]:
        raise ValueError(f"expected probabilities (n,c) of shape ({y.size},{n_classes}), one "
                         f"column per class of the vocab, got shape {p.shape}. Take them from a "
                         f"network with {n_classes} outputs.")
    y = need_rows(p, y, 'probabilities', order)
    if p.dtype == np.float16: p = p.astype(np.float32)
    elif p.dtype not in (np.float32, np.float64): p = p.astype(np.float64)
    need_distributions(p, slack)
    return y,p

# --- logits ---------------------------------------------------------------------------------------
def need_logits(
    z,  # Logits (n,c): array, tensor or table
    y   # Labels (n,), ints 0..c-1
): # (logits float64 (n,c), labels int64 (n,)), CPU tensors
    "Logits and labels as tensors, refused unless finite"
    z = as_array(z)
    y = need_rows(z, as_array(y), 'logits')
    z = z.astype(np.float64)
    bad = ~np.isfinite(z).all(1)
    if bad.any():
        raise ValueError(f"expected finite logits, got NaN or inf in {bad.sum()} of {len(z)} rows. "
                         "Has the training diverged? In mixed precision try `learn.to_fp32()`.")
    return torch.from_numpy(z),torch.from_numpy(y)
