"Does a confidence of .9 mean right nine times in ten? Calibration errors and proper scores as pure functions"
# probs: probabilities (n,c); y: true labels (n,). All in float64 on the CPU, whatever comes in.
import numpy as np, pandas as pd
import torch
from torch import Tensor
from fastrobust.metrics import binned_gap, gap_of, need_bins, width_bins

__all__ = ['ece', 'ece_mass', 'classwise_ece', 'rms_calibration_error', 'brier', 'nll', 'reliability_bins']

# --- checks ----------------------------------------------------------------------------------------------------------
_SLACK = {torch.float16: .01, torch.bfloat16: .05}      # how far the sum of a row may be from 1, by its rounding

def as_tensor(o):
    "A plain CPU tensor of a tensor, array, series or list"
    if isinstance(o, Tensor): return o.detach().cpu().as_subclass(Tensor)
    a = np.array(o, order='C')
    if a.dtype.kind not in 'biuf':
        raise TypeError(f"expected numbers, got {a.dtype} ({str(o)[:40]}). Give labels as class numbers, not names.")
    return torch.from_numpy(a)

def rows_and_labels(a, y, what='probabilities', fix='Select both alike.'):
    "`a` (n,c) and labels (n,) as tensors, float64 and int64, refused unless one label in 0..c-1 belongs to each row"
    a,y = as_tensor(a),as_tensor(y)
    if a.ndim != 2 or a.shape[1] < 2 or y.shape != a.shape[:1] or not len(y):
        raise ValueError(f"expected {what} (n,c), c >= 2, with labels (n,), n >= 1, got {tuple(a.shape)} and "
                         f"{tuple(y.shape)}. {fix}")
    if y.is_floating_point() or y.is_complex():
        raise ValueError(f"expected labels as whole class numbers, got {y.dtype}. Soft labels have no one right class.")
    a,y = a.double(),y.long()
    if y.min() < 0 or y.max() >= a.shape[1]:
        raise ValueError(f"expected labels in 0..{a.shape[1]-1}, a column of {what} each, got {y.min()} to {y.max()}. "
                         "Compare vocab and model; leave out items of unknown class.")
    return a,y

def probs_and_labels(probs, y):
    "Probabilities float64 (n,c) and labels int64 (n,) as arrays, checked"
    slack = _SLACK.get(as_tensor(probs).dtype, 2e-3)
    p,y = rows_and_labels(probs, y, fix='Select both alike; of a single output p take the columns 1-p and p.')
    lo,hi = p.min().item(),p.max().item()
    if not (lo >= -1e-6 and hi <= 1+slack):
        raise ValueError(f"expected probabilities in [0,1], got [{lo:.3g}, {hi:.3g}]. Of logits take the softmax over "
                         "the classes first.")
    off = (p.sum(1)-1).abs()
    if off.max() > slack:
        i = int(off.argmax())
        raise ValueError(f"expected rows of probabilities that sum to 1, got {p[i].sum():.4g} in row {i}. Divide each "
                         "row by its sum; several labels per item (sigmoid) have no top-1.")
    return p.numpy(),y.numpy()

# --- bins ------------------------------------------------------------------------------------------------------------
def mass_bins(conf, n_bins):
    """Number of the bin of each confidence, bins of n/n_bins items in order of confidence. Equal confidences stay
    together, in the bin of their middle one: the order of the items does not matter, and some bins may be empty"""
    need_bins(n_bins)
    _,which,k = np.unique(conf, return_inverse=True, return_counts=True)
    middle = np.cumsum(k)-k + (k-1)/2
    return np.floor(middle*n_bins/len(conf)).astype(int)[which.reshape(-1)]

def top(probs, y):
    "Confidence in the predicted class (n,), and whether it is right"
    p,y = probs_and_labels(probs, y)
    return p.max(1),p.argmax(1) == y

# --- the numbers -----------------------------------------------------------------------------------------------------
def ece(
    probs,          # Probabilities (n,c)
    y,              # True labels (n,)
    n_bins:int=15   # Equally wide bins of confidence, 2 or more; 15 is usual
)->float:           # In [0,1]; of few items above 0 by chance alone, see `calibration_report`
    "Expected calibration error of the predicted class: mean distance of confidence and accuracy over bins"
    return binned_gap(*top(probs, y), n_bins, 1)

def ece_mass(
    probs,          # Probabilities (n,c)
    y,              # True labels (n,)
    n_bins:int=15   # Bins of equally many items, 2 or more; equal confidences share one, so there may be fewer
)->float:           # In [0,1]
    "`ece` over bins of equally many items instead of equally wide ones"
    conf,right = top(probs, y)
    return gap_of(mass_bins(conf, n_bins), conf, right, n_bins)

def classwise_ece(
    probs,          # Probabilities (n,c)
    y,              # True labels (n,)
    n_bins:int=15   # Equally wide bins of each class's probability, 2 or more
)->float:           # In [0,1]; with many classes small, for most probabilities are near 0 and right to be
    "Mean over classes of the calibration error of that class's probability, over all items"
    p,y = probs_and_labels(probs, y)
    return float(np.mean([binned_gap(p[:, k], y == k, n_bins, 1) for k in range(p.shape[1])]))

def rms_calibration_error(
    probs,          # Probabilities (n,c)
    y,              # True labels (n,)
    n_bins:int=100  # Equally wide bins of confidence, 2 or more; 100 in the code of Siedel et al.
)->float:           # In [0,1]; never below `ece` of the same bins
    "Root of the mean squared distance of confidence and accuracy over bins, of the predicted class"
    return binned_gap(*top(probs, y), n_bins, 2)

def brier_rows(p, y):
    "Squared distance of each row of probabilities (n,c) to its label, summed over classes (n,)"
    return (p**2).sum(1) + 1 - 2*p[np.arange(len(y)), y]

def brier(
    probs,  # Probabilities (n,c)
    y       # True labels (n,)
)->float:   # In [0,2]; of two classes twice what scikit-learn's `brier_score_loss` gives
    "Brier score: squared distance of probabilities and one-hot label, summed over classes, mean over items"
    return float(brier_rows(*probs_and_labels(probs, y)).mean())

def logits_and_labels(z, y):
    "Logits float64 (n,c) and labels int64 (n,) as tensors, checked"
    z,y = rows_and_labels(z, y, 'logits')
    if not torch.isfinite(z).all():
        raise ValueError(f"expected finite logits, got NaN or inf in {int((~torch.isfinite(z)).any(1).sum())} of "
                         f"{len(z)} rows. Has the training diverged? In mixed precision try `learn.to_fp32()`.")
    return z,y

def nll_rows(z, y):
    "-ln p of the label of each row of logits (n,)"
    return torch.nn.functional.cross_entropy(z, y, reduction='none').numpy()

def nll(
    z,          # Raw logits (n,c); of probabilities give `p.log()`
    y,          # True labels (n,)
    T:float=1.  # Temperature the logits are divided by
)->float:       # In nats, 0 or more
    "Negative log-likelihood of the labels, mean over items, in log space: logits of 1e4 are no problem"
    if not T > 0: raise ValueError(f"`T` must be positive, got {T}. 1 leaves the logits as they are.")
    z,y = logits_and_labels(z, y)
    return float(nll_rows(z/T, y).mean())

def reliability_bins(
    probs,          # Probabilities (n,c)
    y,              # True labels (n,)
    n_bins:int=15,  # How many, 2 or more
    mass:bool=False # Bins of equally many items (only those that have any) instead of equally wide ones
)->pd.DataFrame:    # Columns lo, hi, n, confidence, accuracy, se; empty bins have NaN in the last three
    "Mean confidence and accuracy of each bin; se: standard error of the accuracy, of (right+1)/(n+2), so never 0"
    return bins_table(*top(probs, y), n_bins, mass)

def bins_table(conf, right, n_bins, mass=False):
    "`reliability_bins` from confidences (n,) and correctness (n,)"
    b = (mass_bins if mass else width_bins)(conf, n_bins)
    n = np.bincount(b, minlength=n_bins)
    mean = lambda v: np.where(n > 0, np.bincount(b, v, n_bins)/np.maximum(n, 1), np.nan)
    acc = mean(np.asarray(right, dtype=np.float64))
    a = (acc*n + 1)/(n+2)
    t = pd.DataFrame(dict(lo=np.arange(n_bins)/n_bins, hi=(np.arange(n_bins)+1)/n_bins, n=n, confidence=mean(conf),
                          accuracy=acc, se=np.sqrt(a*(1-a)/np.maximum(n, 1))), pd.RangeIndex(n_bins, name='bin'))
    if not mass: return t
    t['lo'],t['hi'] = ([f(conf[b == i]) if n[i] else np.nan for i in range(n_bins)] for f in (np.min, np.max))
    return t[t.n > 0].reset_index(drop=True).rename_axis('bin')
