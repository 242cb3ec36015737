"Noise matrices estimated from out-of-sample probabilities: by the confident joint, by anchors, and dual-T"
# Every T here has rows = true class and columns = given class, and its rows sum to 1: T[i,j] =
# P(given j | true i). A joint Q has rows = given, columns = true (as in cleanlab, whose noise
# matrix is the transpose of our T).
import numpy as np
from fastrobust.basics import need_number, robust_warn
from fastrobust.labels.confident import confident_joint
from fastrobust.predictions import need_probs

__all__ = ['estimate_T']

def _need_joint(joint):
    Q = np.asarray(joint, dtype=np.float64)
    square = Q.ndim == 2 and Q.shape[0] == Q.shape[1] > 1
    if not square or not np.isfinite(Q).all() or (Q < 0).any() or not Q.any():
        raise ValueError("expected a joint (c,c) of counts or shares, rows = given, columns = "
                         f"true, got shape {Q.shape} or values that are negative, NaN or all 0. "
                         "Take it from `confident_joint`.")
    return Q

def _rows(m):
    "Rows of `m` divided by their sum; an empty row stays where it is, on the diagonal"
    s = m.sum(1, keepdims=True)
    some = s > 0
    return np.where(some, m/np.where(some, s, 1), np.eye(len(m)))

def noise_rate_from_joint(
    joint   # Counts or shares (c,c) of `confident_joint`
)->float:
    "Share of the joint off its diagonal; of a confident joint this counts model error as noise"
    Q = _need_joint(joint)
    return float(1-np.trace(Q)/Q.sum())

def T_from_joint(
    joint   # Counts or shares (c,c), rows = given label, columns = true label
)->np.ndarray: # (c,c), rows = true class, summing to 1; a class that no item truly is keeps its label
    "Noise matrix of a joint: P(given j | true i)"
    return _rows(_need_joint(joint).T)

def _anchors(p, q):
    "Position of each class's anchor: the item with the highest probability, or at the `q` quantile of probabilities"
    if q == 1: return p.argmax(0)
    k = int(q*(len(p)-1))
    return np.argpartition(p, k, axis=0)[k]

def _anchor_T(p, q):
    at = _anchors(p, q)
    T = p[at].astype(np.float64)        # a copy: nothing is zeroed in the probabilities themselves
    if alien := np.flatnonzero(T.argmax(1) != np.arange(len(T))).tolist():
        robust_warn(f"no anchor for classes {alien[:10]}: even the item most probably given that "
                    "label looks more like another class, so these rows of T are guesses. Train "
                    "better, or use how='joint'.")
    return _rows(np.maximum(T, 0))

def estimate_T(
    y,                      # Given labels (n,), columns of `probs`
    probs,                  # Out-of-sample probabilities (n,c) of the *given* label, as a net trained on those learns
    how:str='joint',        # 'joint' (confident joint), 'anchor' (Patrini et al.), 'dual' (Yao et al.)
    *,
    # Quantile of P(class) at which its anchor stands, in (0,1]; 1 is the maximum, Patrini's; below,
    # outliers are passed over, but 1-q must stay far below a class's share
    q:float=1.,
    collision:str='masked'  # As in `confident_joint`, for 'joint'
)->np.ndarray: # float64 (c,c), rows = true class, columns = given class, rows sum to 1
    "Noise matrix by the confident joint, by anchors (https://arxiv.org/abs/1609.03683) or as T♣T♠ (arXiv 2006.07805)"
    y,p = need_probs(y, probs)
    need_number('q', q)
    if not 0 < q <= 1:
        raise ValueError(f"`q` must be a quantile in (0,1], got {q}. 1 takes the most probable "
                         "item.")
    if how == 'joint': return T_from_joint(confident_joint(y, p, collision=collision))
    if how not in ('anchor', 'dual'):
        raise ValueError(f"`how` must be 'joint', 'anchor' or 'dual', got {how!r}.")
    if 1-q >= 1/p.shape[1]:
        robust_warn(f"q={q} looks for anchors below the top {1-q:.0%}, but a class has about "
                    f"{1/p.shape[1]:.0%} of the items: these are no anchors. Use a larger `q`.")

    club = _anchor_T(p, q)
    if how == 'anchor': return club
    # from predicted to given class, by counting
    spade = np.zeros((p.shape[1], p.shape[1]))
    np.add.at(spade, (p.argmax(1), y), 1)
    return club @ _rows(spade)

def true_prior(
    T,      # Noise matrix (c,c), rows = true class, rows sum to 1
    given   # Given labels (n,), or their shares (c,) as floats
)->np.ndarray: # (c,), sums to 1
    "Shares of the true classes, T^-T (shares of the given ones); negative shares are cut to 0"
    T = np.asarray(T, dtype=np.float64)
    given = np.asarray(given)
    square = T.ndim == 2 and T.shape[0] == T.shape[1]
    if not square or (T < -1e-9).any() or not np.allclose(T.sum(1), 1, atol=1e-6):
        raise ValueError("expected a noise matrix (c,c) with rows = true class that sum to 1, got "
                         f"shape {T.shape}. Of cleanlab's matrices take the transpose.")
    labels = given.dtype.kind in 'iu' and given.ndim == 1 and len(given)
    if labels and 0 <= given.min() and given.max() < len(T):
        given = np.bincount(given, minlength=len(T))/len(given)
    if given.shape != (len(T),) or given.dtype.kind != 'f' or not np.isclose(given.sum(), 1):
        raise ValueError(f"expected labels in 0..{len(T)-1}, or {len(T)} shares that sum to 1, got "
                         f"{given.dtype} of shape {given.shape}. Pass the given labels.")
    if np.linalg.cond(T) > 1e4:
        robust_warn("this noise matrix is nearly singular: some classes cannot be told apart by "
                    "their labels, and the prior is one of many that fit. Use a prior you know.")
    prior = np.maximum(np.linalg.lstsq(T.T, given, rcond=None)[0], 0)
    return prior/prior.sum()
