"Confident learning: which labels are doubtful, from out-of-sample probabilities alone; functions of numpy arrays"
# Paper: Northcutt et al., Confident Learning, arxiv.org/abs/1911.00068. The tests hold every
# function equal to cleanlab 2.9 (Apache-2.0), whose rules and tolerances these are; the code is
# ours.
# Axes: a joint Q (c,c) has rows = given label, columns = true label, as in cleanlab. A noise
# matrix T (transition.py) has rows = true label and rows that sum to 1: the transpose of
# cleanlab's.
import numpy as np
from fastrobust.predictions import as_array, need_probs

__all__ = ['confident_joint']

EPS = 1e-6     # probabilities nearer than this count as equal

def chunks(p, size=2**22):
    "Slices of rows of about `size` numbers: thousands of classes need no second copy of all probabilities"
    step = max(1, size//p.shape[1])
    return (slice(i, i+step) for i in range(0, len(p), step))

# --- the confident joint --------------------------------------------------------------------------
def thresholds(y, p):
    c = p.shape[1]
    own = p[np.arange(len(y)), y]
    n = np.bincount(y, minlength=c)
    mean = np.bincount(y, weights=own, minlength=c)/np.maximum(n, 1)
    return np.where(n > 0, np.maximum(mean, 2*EPS), 2.)

def confident_thresholds(
    y,      # Given labels (n,), columns of `probs`
    probs   # Out-of-sample probabilities (n,c)
)->np.ndarray: # (c,); 2, which nothing reaches, for a class without items
    "Mean probability of each class over the items given that label: above it an item counts as that class"
    return thresholds(*need_probs(y, probs))

def confident_guess(y, p, collision):
    "True class of every item as far as it is confident, else -1"
    if collision not in ('masked', 'cleanlab'):
        raise ValueError("`collision` must be 'masked' (the paper) or 'cleanlab', got "
                         f"{collision!r}.")
    t = thresholds(y, p)-EPS
    res = np.empty(len(y), np.int64)
    for s in chunks(p):
        q = p[s]
        sure = q >= t
        k = np.where(sure, q, -1).argmax(1)
        if collision == 'cleanlab': k = np.where(sure.sum(1) > 1, q.argmax(1), k)
        res[s] = np.where(sure.any(1), k, -1)
    return res

def _round_rows(m):
    "Whole numbers near `m`, row totals kept: what is missing goes where rounding took the most"
    res = np.rint(m)
    gaps = np.rint(m.sum(1)) - res.sum(1)
    for i in np.flatnonzero(gaps):
        gap = gaps[i]
        k = int(abs(gap))
        order = np.argsort(m[i]-res[i])
        cells = order[-k:] if gap > 0 else order[:k]
        res[i, cells] += np.sign(gap)
    return res.astype(np.int64)

def _calibrated(Qt, counts):
    "Integer joint, rows = given, of counts with rows = true (in cleanlab's order of operations, so equal to the bit)"
    Qt = Qt/np.maximum(Qt.sum(0), 1e-100)
    Qt *= counts
    Qt /= max(Qt.sum(), 1e-100)
    Qt *= counts.sum()
    res = np.empty(Qt.shape, np.int64)
    for i in range(0, len(Qt), 256):
        rows = np.ascontiguousarray(Qt[:, i:i+256].T)
        res[i:i+256] = _round_rows(rows)
    return res

def calibrate_joint(
    joint,  # Counts (c,c), rows = given, columns = true
    y       # Given labels (n,)
)->np.ndarray: # int64 (c,c): row sums are the counts of `y`, the total is n
    "Scale the rows of a joint of counted items to all items, in whole numbers"
    joint,y = np.asarray(joint),as_array(y)
    c = len(joint)
    counts = joint.shape == (c, c) and not (joint < 0).any()
    if not counts or y.ndim != 1 or y.min() < 0 or y.max() >= c:
        raise ValueError("expected counts (c,c), none negative, and labels (n,) in 0..c-1, got "
                         f"shapes {joint.shape} and {y.shape}. Take the joint from "
                         "`confident_joint`.")
    return _calibrated(np.ascontiguousarray(joint.T), np.bincount(y, minlength=c))

def joint_of(y, p, guess, calibrate=True):
    c = p.shape[1]
    on = guess >= 0
    cells = guess[on]*c + y[on]
    Qt = np.bincount(cells, minlength=c*c).reshape(c, c)    # rows = true, for now
    # no class without a right label
    np.fill_diagonal(Qt, np.maximum(Qt.diagonal(), 1))
    if not calibrate: return Qt.T
    return _calibrated(Qt, np.bincount(y, minlength=c))

def confident_joint(
    y,                      # Given labels (n,), columns of `probs`
    probs,                  # Out-of-sample probabilities (n,c)
    *,
    # Several classes above their threshold: 'masked' takes the most probable of those (the paper),
    # 'cleanlab' the most probable of all, even one below its threshold
    collision:str='masked',
    calibrate:bool=True     # Scale to all items? Else the count of confident items
)->np.ndarray: # int64 (c,c), rows = given label, columns = true label
    "How many items given as i are confidently j (https://arxiv.org/abs/1911.00068); model error counts as noise"
    y,p = need_probs(y, probs)
    return joint_of(y, p, confident_guess(y, p, collision), calibrate)
