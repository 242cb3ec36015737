"Measures that several problems share, as pure functions of arrays: ranking, gaps between confidence and accuracy"
import numpy as np
from torch import Tensor

__all__ = ['roc_auc', 'average_precision']

# --- ranking ---------------------------------------------------------------------------------------------------------
def pair(a, b):
    a,b = (np.asarray(o.detach().cpu() if isinstance(o, Tensor) else o) for o in (a, b))
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"expected one value per item in both, (n,) and (n,), got {a.shape} and {b.shape}. Select "
                         "both alike.")
    return a,b

def _ranked(score, positive):
    "Scores ascending and the positives in that order; NaN counts as the lowest score"
    s,pos = pair(score, positive)
    s = np.where(np.isnan(s.astype(float)), -np.inf, s)
    order = np.argsort(s, kind='stable')
    return s[order],pos.astype(bool)[order]

def roc_auc(
    score,      # High where an item is thought positive (n,); NaN counts as lowest
    positive    # Which are, bool (n,): for detection `is_noisy`
)->float:
    "Chance that a positive scores higher than a negative, ties counted half; NaN without one of the two"
    s,pos = _ranked(score, positive)
    n = pos.sum()
    if n in (0, len(pos)): return float('nan')
    _,first,tied = np.unique(s, return_index=True, return_counts=True)
    rank = np.repeat(first + (tied+1)/2, tied)
    return float((rank[pos].sum() - n*(n+1)/2)/(n*(len(pos)-n)))

def average_precision(
    score,      # High where an item is thought positive (n,); NaN counts as lowest
    positive    # Which are, bool (n,)
)->float:
    "Mean precision at each positive, tied scores taken together; the base rate is what guessing gets; NaN without any"
    s,pos = _ranked(score, positive)
    if not pos.any(): return float('nan')
    hits,n = np.cumsum(pos[::-1]),np.arange(1, len(pos)+1)
    last = np.flatnonzero(np.r_[np.diff(s[::-1]) != 0, True])   # where a group of ties ends
    gain = np.diff(np.r_[0, hits[last]])/hits[-1]
    return float((gain*hits[last]/n[last]).sum())

# --- confidence, bin by bin ------------------------------------------------------------------------------------------
def need_bins(n_bins):
    "Refuse all but whole numbers from 2 on: a single bin compares the means of everything, and hides what it averages"
    if isinstance(n_bins, bool) or not isinstance(n_bins, (int, np.integer)) or n_bins < 2:
        raise ValueError(f"`n_bins` must be a whole number from 2 on, got {n_bins!r}. 15 is usual.")

def width_bins(conf, n_bins):
    "Number of the equally wide bin (0,1/n], (1/n,2/n] .. of each confidence; 0 is in the first"
    need_bins(n_bins)
    return np.clip(np.ceil(np.asarray(conf, dtype=np.float64)*n_bins).astype(int)-1, 0, n_bins-1)

def gap_of(bins, conf, right, n_bins, power=1):
    "(sum over bins of share x |accuracy - mean confidence|^power)^(1/power)"
    n = np.bincount(bins, minlength=n_bins)
    gap = np.abs(np.bincount(bins, right-conf, n_bins))/np.maximum(n, 1)
    return float(((n/len(conf))*gap**power).sum()**(1/power))

def binned_gap(conf, right, n_bins, power):
    "`gap_of` over equally wide bins"
    conf,right = np.asarray(conf, dtype=np.float64),np.asarray(right, dtype=np.float64)
    return gap_of(width_bins(conf, n_bins), conf, right, n_bins, power)
