"Does a confidence of .9 mean right nine times in ten? Calibration errors and proper scores as pure functions"
# probs: probabilities (n,c); y: true labels (n,). All in float64 on the CPU, whatever comes in.
import numpy as np, pandas as pd
import torch
from fastrobust.metrics import binned_gap, gap_of, need_bins, width_bins
from fastrobust.predictions import PREDICTIONS_FIRST, need_logits, need_probs

__all__ = ['ece', 'brier', 'nll']

# --- bins -----------------------------------------------------------------------------------------
def mass_bins(conf, n_bins):
    """Number of the bin of each confidence, bins of n/n_bins items in order of confidence. Equal confidences stay
    together, in the bin of their middle one: the order of the items does not matter, and some bins may be empty"""
    need_bins(n_bins)
    _,which,k = np.unique(conf, return_inverse=True, return_counts=True)
    middle = np.cumsum(k)-k + (k-1)/2
    bins = np.floor(middle*n_bins/len(conf)).astype(int)
    return bins[which.reshape(-1)]

def _probs(probs, y):
    "Labels and probabilities, in float64"
    y,p = need_probs(y, probs, order=PREDICTIONS_FIRST)
    return y,p.astype(np.float64, copy=False)

def top(probs, y)->tuple[np.ndarray, np.ndarray]:
    "Confidence in the predicted class (n,), and whether it is right"
    y,p = _probs(probs, y)
    return p.max(1),p.argmax(1) == y

# --- the numbers ----------------------------------------------------------------------------------
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
    y,p = _probs(probs, y)
    gaps = [binned_gap(p[:, k], y == k, n_bins, 1) for k in range(p.shape[1])]
    return float(np.mean(gaps))

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
    y,p = _probs(probs, y)
    return float(brier_rows(p, y).mean())

def nll_rows(z, y):
    "-ln p of the label of each row of logits (n,)"
    return torch.nn.functional.cross_entropy(z, y, reduction='none').numpy()

def nll(
    z,          # Raw logits (n,c); of probabilities give `p.log()`
    y,          # True labels (n,)
    T:float=1.  # Temperature the logits are divided by
)->float:       # In nats, 0 or more
    "Negative log-likelihood of the labels, mean over items, in log space: logits of 1e4 are no problem"
    if not T > 0:
        raise ValueError(f"`T` must be positive, got {T}. 1 leaves the logits as they are.")
    z,y = need_logits(z, y)
    return float(nll_rows(z/T, y).mean())

def reliability_bins(
    probs,          # Probabilities (n,c)
    y,              # True labels (n,)
    n_bins:int=15,  # How many, 2 or more
    *,
    mass:bool=False # Bins of equally many items (only those that have any) instead of equally wide ones
)->pd.DataFrame:    # Columns lo, hi, n, confidence, accuracy, se; empty bins have NaN in the last three
    "Mean confidence and accuracy of each bin; se: standard error of the accuracy, of (right+1)/(n+2), so never 0"
    return bins_table(*top(probs, y), n_bins, mass)

def bins_table(conf, right, n_bins, mass=False):
    "`reliability_bins` from confidences (n,) and correctness (n,)"
    b = mass_bins(conf, n_bins) if mass else width_bins(conf, n_bins)
    n = np.bincount(b, minlength=n_bins)
    some = np.maximum(n, 1)
    mean = lambda v: np.where(n > 0, np.bincount(b, v, n_bins)/some, np.nan)
    acc = mean(np.asarray(right, dtype=np.float64))
    a = (acc*n + 1)/(n+2)
    se = np.sqrt(a*(1-a)/some)

    i = np.arange(n_bins)
    t = pd.DataFrame(dict(lo=i/n_bins, hi=(i+1)/n_bins, n=n, confidence=mean(conf), accuracy=acc,
                          se=se), pd.RangeIndex(n_bins, name='bin'))
    if not mass: return t

    inside = [conf[b == k] for k in range(n_bins)]
    t['lo'] = [np.min(o) if len(o) else np.nan for o in inside]
    t['hi'] = [np.max(o) if len(o) else np.nan for o in inside]
    return t[t.n > 0].reset_index(drop=True).rename_axis('bin')
