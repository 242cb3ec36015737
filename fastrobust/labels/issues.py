"Which labels are doubtful, by the rules of confident learning; which first, and what would be right"
import numpy as np
from fastrobust.basics import nearest, robust_warn
from fastrobust.labels.confident import EPS, chunks, confident_guess, joint_of, thresholds
from fastrobust.labels.outofsample import warn_in_sample
from fastrobust.predictions import need_probs

__all__ = ['find_label_issues']

_RULES = {'pbnr': 'pbnr', 'prune_by_noise_rate': 'pbnr', 'pbc': 'pbc', 'prune_by_class': 'pbc',
          'both': 'both',
          'confident_learning': 'confident_learning', 'predicted_neq_given': 'predicted_neq_given',
          'low_self_confidence': 'low_self_confidence', 'low_normalized_margin': 'low_margin',
          'low_margin': 'low_margin'}
_SCORES = {'margin': 'margin', 'normalized_margin': 'margin', 'self_confidence': 'self_confidence',
           'entropy': 'entropy', 'confidence_weighted_entropy': 'entropy'}

def _known(name, what, table):
    if name in table: return table[name]
    raise ValueError(f"expected `{what}` to be a known name, got {name!r}. {nearest(name, table)}")

# --- scores ---------------------------------------------------------------------------------------
def _best_other(y, p, bonus=-np.inf):
    "Most probable class of every item with `bonus` on the given one, and how probable it is"
    arg = np.empty(len(y), np.int64)
    top = np.empty(len(y), p.dtype)
    for s in chunks(p):
        q = p[s].copy()
        i = np.arange(len(q))
        q[i, y[s]] += q.dtype.type(bonus)
        arg[s] = q.argmax(1)
        top[s] = q[i, arg[s]]
    return arg,top

def _entropy(p):
    "Of each row (n,), in chunks"
    res = []
    for s in chunks(p):
        q = p[s]
        log = np.log(np.where(q > 0, q, 1))
        res.append(-(q*log).sum(1))
    return np.concatenate(res)

def _quality(y, p, method):
    own = p[np.arange(len(y)), y]
    if method == 'self_confidence': return own
    if method == 'margin':
        _,other = _best_other(y, p)
        return (own - other + 1)/2
    r = _entropy(p)/np.log(p.shape[1])/np.maximum(own, EPS)
    return np.log(r+1)/np.maximum(r, EPS)

def label_quality(
    y,                  # Given labels (n,), columns of `probs`
    probs,              # Out-of-sample probabilities (n,c)
    method:str='margin', # 'margin', best for confused classes; 'self_confidence', for odd images; 'entropy'
    *,
    adjust:bool=False   # Take each class's threshold off first, for imbalanced data
)->np.ndarray: # (n,) in [0,1], low = doubtful
    "How well each label fits: normalised margin (p_y - max of the others + 1)/2, p_y, or entropy weighted by p_y"
    y,p = need_probs(y, probs)
    method = _known(method, 'method', _SCORES)
    if adjust and method == 'entropy':
        raise ValueError("expected 'margin' or 'self_confidence' with adjust=True, got 'entropy', "
                         "which is not defined on adjusted probabilities. Choose one of the two.")
    if adjust:
        t = thresholds(y, p)
        p = p - t + t.max()
        p /= p.sum(1, keepdims=True)
    return _quality(y, p, method)

# --- the six rules --------------------------------------------------------------------------------
def _classes(y, c):
    "Positions of the items of each class"
    ends = np.bincount(y, minlength=c).cumsum()
    return np.split(np.argsort(y, kind='stable'), ends[:-1])

def _prune_counts(Q):
    "Items to flag by (given, true): `Q` with at least 1 on the diagonal, taken evenly from the rest of the row"
    d = Q.diagonal()
    lack = np.maximum(d, 1) - d
    others = (Q != 0).sum(1)-1
    take = lack/np.maximum(others, 1)
    res = np.maximum(Q - take[:, None], 0).astype(np.int64)
    np.fill_diagonal(res, d+lack)
    return res

def _pruned(y, p, Q, rule):
    "Flag as many items as the joint says; of a class with a single item none. Sorted as in cleanlab, ties and all"
    counts = _prune_counts(Q)
    mask = np.zeros(len(y), bool)
    for k,ids in enumerate(_classes(y, p.shape[1])):
        if len(ids) < 2: continue
        if rule == 'pbc':
            n = max(0, len(ids)-counts[k, k])
            worst = np.argsort(p[ids, k])[:n]
            mask[ids[worst]] = True
            continue
        q = p[ids]
        for j in np.flatnonzero(counts[k]):
            if j == k: continue
            worst = np.argsort(q[:, k]-q[:, j])[:counts[k, j]]
            mask[ids[worst]] = True
    return mask

def find_label_issues(
    y,                      # Given labels (n,), columns of `probs`
    probs,                  # Out-of-sample probabilities (n,c), as of `cross_val_preds`
    # 'pbnr', 'pbc', 'both', 'confident_learning', 'predicted_neq_given', 'low_self_confidence',
    # 'low_normalized_margin', or cleanlab's longer names; its default too is pbnr
    rule:str='pbnr',
    *,
    collision:str='masked', # As in `confident_joint`; 'cleanlab' for its very numbers
    joint=None              # A calibrated joint (c,c) in place of the confident joint, for pbnr, pbc and both
)->np.ndarray: # bool (n,), True = doubtful
    "Labels that are probably wrong; except by the `low_` rules, none that the network predicts itself"
    warn_in_sample(y, probs)
    y,p = need_probs(y, probs)
    c = p.shape[1]
    name,rule = rule,_known(rule, 'rule', _RULES)
    pruning = rule in ('pbnr', 'pbc', 'both')
    if joint is not None and (not pruning or np.shape(joint) != (c, c)):
        raise ValueError(f"expected `joint` of shape ({c},{c}) with rule 'pbnr', 'pbc' or 'both', "
                         f"got shape {np.shape(joint)} with {name!r}. Choose such a rule, or leave "
                         "`joint` out.")

    agree = _best_other(y, p, bonus=EPS)[0] == y
    if rule == 'predicted_neq_given': return ~agree
    guess = confident_guess(y, p, collision)
    if pruning:
        if lone := np.flatnonzero(np.bincount(y, minlength=c) == 1).tolist():
            robust_warn(f"classes {lone[:10]} have a single item, which {name!r} never flags. Look "
                        "at it yourself, or use another rule.")
        Q = joint_of(y, p, guess) if joint is None else np.asarray(joint)
        rules = ('pbnr', 'pbc') if rule == 'both' else (rule,)
        mask = np.logical_and.reduce([_pruned(y, p, Q, o) for o in rules])
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
    res = confident_guess(y, p, collision)
    res = np.where(res < 0, p.argmax(1), res)
    if issues is not None:
        issues = np.asarray(issues)
        if issues.shape != y.shape or issues.dtype != bool:
            raise ValueError(f"expected `issues` as a mask of the {len(y)} items, got "
                             f"{issues.dtype} of shape {issues.shape}. Take it from "
                             "`find_label_issues`.")
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
