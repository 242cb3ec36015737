"Confident learning: which labels are doubtful, from out-of-sample probabilities alone; functions of numpy arrays"
# Paper: Northcutt et al., Confident Learning, arxiv.org/abs/1911.00068. The tests hold every function equal to cleanlab
# 2.9 (Apache-2.0), whose rules and tolerances these are; the code is ours.
# Axes: a joint Q (c,c) has rows = given label, columns = true label, as in cleanlab. A noise matrix T (transition.py)
# has rows = true label and rows that sum to 1: the transpose of cleanlab's.
import numpy as np
from fastrobust.basics import nearest, robust_warn
from fastrobust.predictions import as_array, need_probs
from fastrobust.labels.outofsample import warn_in_sample

__all__ = ['confident_joint', 'find_label_issues']

_EPS = 1e-6     # probabilities nearer than this count as equal
_RULES = {'pbnr': 'pbnr', 'prune_by_noise_rate': 'pbnr', 'pbc': 'pbc', 'prune_by_class': 'pbc', 'both': 'both',
          'confident_learning': 'confident_learning', 'predicted_neq_given': 'predicted_neq_given',
          'low_self_confidence': 'low_self_confidence', 'low_normalized_margin': 'low_margin',
          'low_margin': 'low_margin'}
_SCORES = {'margin': 'margin', 'normalized_margin': 'margin', 'self_confidence': 'self_confidence',
           'entropy': 'entropy', 'confidence_weighted_entropy': 'entropy'}

def _known(name, what, table):
    if name in table: return table[name]
    raise ValueError(f"expected `{what}` to be a known name, got {name!r}. {nearest(name, table)}")

def _chunks(p, size=2**22):
    "Slices of rows of about `size` numbers: thousands of classes need no second copy of all probabilities"
    step = max(1, size//p.shape[1])
    return (slice(i, i+step) for i in range(0, len(p), step))

# --- the confident joint ---------------------------------------------------------------------------------------------
def _thresholds(y, p):
    n = np.bincount(y, minlength=p.shape[1])
    mean = np.bincount(y, weights=p[np.arange(len(y)), y], minlength=p.shape[1])/np.maximum(n, 1)
    return np.where(n > 0, np.maximum(mean, 2*_EPS), 2.)

def confident_thresholds(
    y,      # Given labels (n,), columns of `probs`
    probs   # Out-of-sample probabilities (n,c)
)->np.ndarray: # (c,); 2, which nothing reaches, for a class without items
    "Mean probability of each class over the items given that label: above it an item counts as that class"
    return _thresholds(*need_probs(y, probs))

def _guess(y, p, collision):
    "True class of every item as far as it is confident, else -1"
    if collision not in ('masked', 'cleanlab'):
        raise ValueError(f"`collision` must be 'masked' (the paper) or 'cleanlab', got {collision!r}.")
    t,res = _thresholds(y, p)-_EPS,np.empty(len(y), np.int64)
    for s in _chunks(p):
        q,sure = p[s],p[s] >= t
        k = np.where(sure, q, -1).argmax(1)
        if collision == 'cleanlab': k = np.where(sure.sum(1) > 1, q.argmax(1), k)
        res[s] = np.where(sure.any(1), k, -1)
    return res

def _round_rows(m):
    "Whole numbers near `m`, row totals kept: what is missing goes where rounding took the most"
    res = np.rint(m)
    gaps = np.rint(m.sum(1)) - res.sum(1)
    for i in np.flatnonzero(gaps):
        order = np.argsort(m[i]-res[i])
        k = int(abs(gaps[i]))
        res[i, order[-k:] if gaps[i] > 0 else order[:k]] += np.sign(gaps[i])
    return res.astype(np.int64)

def _calibrated(Qt, counts):
    "Integer joint, rows = given, of counts with rows = true (in cleanlab's order of operations, so equal to the bit)"
    Qt = Qt/np.maximum(Qt.sum(0), 1e-100)
    Qt *= counts
    Qt /= max(Qt.sum(), 1e-100)
    Qt *= counts.sum()
    res = np.empty(Qt.shape, np.int64)
    for i in range(0, len(Qt), 256): res[i:i+256] = _round_rows(np.ascontiguousarray(Qt[:, i:i+256].T))
    return res

def calibrate_joint(
    joint,  # Counts (c,c), rows = given, columns = true
    y       # Given labels (n,)
)->np.ndarray: # int64 (c,c): row sums are the counts of `y`, the total is n
    "Scale the rows of a joint of counted items to all items, in whole numbers"
    joint,y = np.asarray(joint),as_array(y)
    c = len(joint)
    if joint.shape != (c, c) or (joint < 0).any() or y.ndim != 1 or y.min() < 0 or y.max() >= c:
        raise ValueError(f"expected counts (c,c), none negative, and labels (n,) in 0..c-1, got shapes {joint.shape} "
                         f"and {y.shape}. Take the joint from `confident_joint`.")
    return _calibrated(np.ascontiguousarray(joint.T), np.bincount(y, minlength=c))

def _joint(y, p, guess, calibrate=True):
    c,on = p.shape[1],guess >= 0
    Qt = np.bincount(guess[on]*c + y[on], minlength=c*c).reshape(c, c)      # rows = true, for now
    np.fill_diagonal(Qt, np.maximum(Qt.diagonal(), 1))                      # no class without a right label
    return _calibrated(Qt, np.bincount(y, minlength=c)) if calibrate else Qt.T

def confident_joint(
    y,                      # Given labels (n,), columns of `probs`
    probs,                  # Out-of-sample probabilities (n,c)
    *,
    collision:str='masked', # Several classes above their threshold: 'masked' takes the most probable of those (the
                            # paper), 'cleanlab' the most probable of all, even one below its threshold
    calibrate:bool=True     # Scale to all items? Else the count of confident items
)->np.ndarray: # int64 (c,c), rows = given label, columns = true label
    "How many items given as i are confidently j (https://arxiv.org/abs/1911.00068); model error counts as noise"
    y,p = need_probs(y, probs)
    return _joint(y, p, _guess(y, p, collision), calibrate)

# --- scores ----------------------------------------------------------------------------------------------------------
def _best_other(y, p, bonus=-np.inf):
    "Most probable class of every item with `bonus` on the given one, and how probable it is"
    arg,top = np.empty(len(y), np.int64),np.empty(len(y), p.dtype)
    for s in _chunks(p):
        q,i = p[s].copy(),np.arange(len(y[s]))
        q[i, y[s]] += q.dtype.type(bonus)
        arg[s] = q.argmax(1)
        top[s] = q[i, arg[s]]
    return arg,top

def _quality(y, p, method):
    own = p[np.arange(len(y)), y]
    if method == 'self_confidence': return own
    if method == 'margin': return (own - _best_other(y, p)[1] + 1)/2
    ent = np.concatenate([-(p[s]*np.log(np.where(p[s] > 0, p[s], 1))).sum(1) for s in _chunks(p)])/np.log(p.shape[1])
    r = ent/np.maximum(own, _EPS)
    return np.log(r+1)/np.maximum(r, _EPS)

def label_quality(
    y,                  # Given labels (n,), columns of `probs`
    probs,              # Out-of-sample probabilities (n,c)
    method:str='margin', # 'margin', best for confused classes; 'self_confidence', for odd images; 'entropy'
    *,
    adjust:bool=False   # Take each class's threshold off first, for imbalanced data
)->np.ndarray: # (n,) in [0,1], low = doubtful
    "How well each label fits: normalised margin (p_y - max of the others + 1)/2, p_y, or entropy weighted by p_y"
    (y,p),method = need_probs(y, probs),_known(method, 'method', _SCORES)
    if adjust and method == 'entropy':
        raise ValueError("expected 'margin' or 'self_confidence' with adjust=True, got 'entropy', which is not defined "
                         "on adjusted probabilities. Choose one of the two.")
    if adjust:
        t = _thresholds(y, p)
        p = p - t + t.max()
        p /= p.sum(1, keepdims=True)
    return _quality(y, p, method)

# --- the six rules ---------------------------------------------------------------------------------------------------
def _classes(y, c): return np.split(np.argsort(y, kind='stable'), np.bincount(y, minlength=c).cumsum()[:-1])

def _prune_counts(Q):
    "Items to flag by (given, true): `Q` with at least 1 on the diagonal, taken evenly from the rest of the row"
    d = Q.diagonal()
    lack = np.maximum(d, 1) - d
    res = np.maximum(Q - (lack/np.maximum((Q != 0).sum(1)-1, 1))[:, None], 0).astype(np.int64)
    np.fill_diagonal(res, d+lack)
    return res

def _pruned(y, p, Q, rule):
    "Flag as many items as the joint says; of a class with a single item none. Sorted as in cleanlab, ties and all"
    counts,mask = _prune_counts(Q),np.zeros(len(y), bool)
    for k,ids in enumerate(_classes(y, p.shape[1])):
        if len(ids) < 2: continue
        if rule == 'pbc':
            n = max(0, len(ids)-counts[k, k])
            mask[ids[np.argsort(p[ids, k])[:n]]] = True
            continue
        q = p[ids]
        for j in np.flatnonzero(counts[k]):
            if j != k: mask[ids[np.argsort(q[:, k]-q[:, j])[:counts[k, j]]]] = True
    return mask

def find_label_issues(
    y,                      # Given labels (n,), columns of `probs`
    probs,                  # Out-of-sample probabilities (n,c), as of `cross_val_preds`
    rule:str='pbnr',        # 'pbnr', 'pbc', 'both', 'confident_learning', 'predicted_neq_given', 'low_self_confidence',
                            # 'low_normalized_margin', or cleanlab's longer names; its default too is pbnr
    *,
    collision:str='masked', # As in `confident_joint`; 'cleanlab' for its very numbers
    joint=None              # A calibrated joint (c,c) in place of the confident joint, for pbnr, pbc and both
)->np.ndarray: # bool (n,), True = doubtful
    "Labels that are probably wrong; except by the `low_` rules, none that the network predicts itself"
    warn_in_sample(y, probs)
    (y,p),name,rule = need_probs(y, probs),rule,_known(rule, 'rule', _RULES)
    c,pruning = p.shape[1],rule in ('pbnr', 'pbc', 'both')
    if joint is not None and (not pruning or np.shape(joint) != (c, c)):
        raise ValueError(f"expected `joint` of shape ({c},{c}) with rule 'pbnr', 'pbc' or 'both', got shape "
                         f"{np.shape(joint)} with {name!r}. Choose such a rule, or leave `joint` out.")
    agree = _best_other(y, p, bonus=_EPS)[0] == y
    if rule == 'predicted_neq_given': return ~agree
    guess = _guess(y, p, collision)
    if pruning:
        if lone := np.flatnonzero(np.bincount(y, minlength=c) == 1).tolist():
            robust_warn(f"classes {lone[:10]} have a single item, which {name!r} never flags. Look at it yourself, or "
                        "use another rule.")
        Q = _joint(y, p, guess) if joint is None else np.asarray(joint)
        mask = np.logical_and.reduce([_pruned(y, p, Q, o) for o in (('pbnr', 'pbc') if rule == 'both' else (rule,))])
        return mask & ~agree
    mask = (guess >= 0) & (guess != y) & ~agree
    if rule == 'confident_learning': return mask
    worst = np.argsort(_quality(y, p, rule[4:]))[:mask.sum()]
    return np.isin(np.arange(len(y)), worst)

def suggest_labels(
    y,              # Given labels (n,), columns of `probs`
    probs,          # Out-of-sample probabilities (n,c)
    issues=None,    # Mask (n,) of items whose given label is ruled out, e.g. of `find_label_issues`
    *,
    collision:str='masked' # As in `confident_joint`
): # (codes (n,), their probability (n,))
    "The confident class of every item, else its most probable one; where `issues`, the best but the given one"
    y,p = need_probs(y, probs)
    res = _guess(y, p, collision)
    res = np.where(res < 0, p.argmax(1), res)
    if issues is not None:
        issues = np.asarray(issues)
        if issues.shape != y.shape or issues.dtype != bool:
            raise ValueError(f"expected `issues` as a mask of the {len(y)} items, got {issues.dtype} of shape "
                             f"{issues.shape}. Take it from `find_label_issues`.")
        res = np.where(issues & (res == y), _best_other(y, p)[0], res)
    return res,p[np.arange(len(y)), res]

def rank_label_issues(
    y,              # Given labels (n,), columns of `probs`
    probs,          # Out-of-sample probabilities (n,c)
    issues=None,    # Mask (n,) of the items to rank; None: all
    *,
    method:str='margin' # As in `label_quality`
)->np.ndarray: # Positions, most doubtful first
    "Items in the order a reviewer should look at them"
    score = label_quality(y, probs, method)
    ids = np.arange(len(score)) if issues is None else np.flatnonzero(issues)
    return ids[np.argsort(score[ids], kind='stable')]
