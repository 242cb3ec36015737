"How well a score tells known from unknown images, as pure functions of two lists of scores"
# A score is higher for what looks more in-distribution (ID), everywhere. `positive` only says
# which side is called positive: of 'ood' the scores are negated. FPR and AUPR depend on it, AUROC
# does not.
from fractions import Fraction
import numpy as np
from torch import Tensor
from fastrobust.basics import nearest, need_number
from fastrobust.predictions import as_array

__all__ = ['fpr_at_tpr', 'auroc', 'aupr']

# --- checks ---------------------------------------------------------------------------------------
def _scores(v, name, whose, nan='refuse'):
    "Scores as float64 (n,)"
    if nan not in ('refuse', 'lowest'):
        raise ValueError(f"`nan` must be 'refuse' or 'lowest', got {nan!r}. "
                         f"{nearest(nan, ['refuse', 'lowest'])}")
    if isinstance(v, Tensor): a = v.detach().double().cpu().numpy()
    else: a = np.asarray(v)
    if a.dtype.kind not in 'fiu' and a.size:
        raise TypeError(f"expected numbers as `{name}`, got {a.dtype}. Give one score per image.")
    if a.ndim != 1 or not a.size and nan == 'refuse':
        raise ValueError(f"expected one score per {whose} image as `{name}`, (n,) with n >= 1, got "
                         f"{a.shape}. Known and unknown images are both needed: a score is judged "
                         "by how it tells them apart.")
    a = a.astype(np.float64)
    if nan == 'lowest': return np.where(np.isnan(a), -np.inf, a)
    bad = int((~np.isfinite(a)).sum())
    if bad:
        raise ValueError(f"expected finite scores as `{name}`, got NaN or infinity in {bad} of "
                         f"{len(a)}. Look at the logits and features of these images.")
    return a

def _are_labels(a, b):
    "Would `a` be labels of the scores `b`?"
    a,b = as_array(a),as_array(b)
    whole = a.dtype.kind in 'iub' and b.dtype.kind == 'f'
    return whole and len(a) > 1 and a.shape == b.shape and set(a.ravel().tolist()) == {0, 1}

def _sides(id_scores, ood_scores, positive, nan='refuse'):
    "Scores of positives and negatives, high for the positive side"
    if _are_labels(id_scores, ood_scores):
        raise ValueError("expected scores of known images, then of unknown ones, got labels 0 and "
                         "1 and a score for each, as scikit-learn takes them. Part the scores by "
                         "the labels: (scores[y==1], scores[y==0]).")
    known = _scores(id_scores, 'id_scores', 'known', nan)
    unknown = _scores(ood_scores, 'ood_scores', 'unknown', nan)
    if positive not in ('id', 'ood'):
        raise ValueError(f"`positive` must be 'id' or 'ood', got {positive!r}. "
                         f"{nearest(positive, ['id', 'ood'])}")
    return (known,unknown) if positive == 'id' else (-unknown,-known)

def _cut(pos, neg, tpr):
    "The threshold whose recall is nearest to `tpr`; of several the lowest that still loses no recall for nothing"
    need_number('tpr', tpr)
    if not 0 < tpr <= 1:
        raise ValueError(f"`tpr` must lie in (0,1], got {tpr}. Give a share of the positives such "
                         "as .95.")
    # ascending, so that the first of equals is the lowest
    cuts = np.unique(np.r_[pos, neg])
    # below the lowest positive recall stays 1 and only FPR grows
    cuts = cuts[cuts >= pos.min()]
    # positives at or above each
    kept = len(pos) - np.searchsorted(np.sort(pos), cuts)
    # in whole numbers, for of floats .9 is nearer to .95 than 1 is
    share = Fraction(float(tpr)).limit_denominator(10**6)
    away = np.abs(kept*share.denominator - len(pos)*share.numerator)
    return cuts[np.argmin(away)]

# --- measures -------------------------------------------------------------------------------------
def fpr_at_tpr(
    id_scores,          # Scores of known images (n,), higher = more in-distribution; tensor, array or list
    ood_scores,         # Scores of unknown images (m,)
    tpr:float=.95,      # Share of positives to be kept, in (0,1]; .95 is usual: FPR95
    positive:str='id'   # Side called positive: 'id' or 'ood'
)->float:               # In [0,1]
    "Share of negatives called positive at the threshold whose recall is nearest to `tpr`, the lower one on ties"
    pos,neg = _sides(id_scores, ood_scores, positive)
    return float((neg >= _cut(pos, neg, tpr)).mean())

def threshold_at_tpr(
    id_scores,          # Scores of known images (n,), higher = more in-distribution; tensor, array or list
    ood_scores,         # Scores of unknown images (m,)
    tpr:float=.95,      # Share of positives to be kept, in (0,1]
    positive:str='id'   # Side called positive: 'id' or 'ood'
)->float:               # In units of the scores
    "The score behind `fpr_at_tpr`: known from it upwards ('id'), unknown from it downwards ('ood')"
    pos,neg = _sides(id_scores, ood_scores, positive)
    cut = float(_cut(pos, neg, tpr))
    return cut if positive == 'id' else -cut

def _ranked(pos, neg):
    "Which of the scores are positive, and whole numbers in their order, equal where they are"
    positive = np.arange(len(pos)+len(neg)) < len(pos)
    _,rank = np.unique(np.r_[pos, neg], return_inverse=True)
    return positive,rank

def auroc(
    id_scores,      # Scores of known images (n,), higher = more in-distribution; tensor, array or list
    ood_scores,     # Scores of unknown images (m,)
    # Of detection in general, `id_scores` those of what is to be found: 'lowest' takes items
    # without a score for the least suspicious, and gives NaN where one side is empty
    nan='refuse'
)->float:           # In [0,1]; .5 is what guessing gets
    "Chance that a known image scores higher than an unknown one, ties counted half; the same for both `positive`"
    from sklearn.metrics import roc_auc_score
    known,unknown = _sides(id_scores, ood_scores, 'id', nan)
    if not len(known) or not len(unknown): return float('nan')
    return float(roc_auc_score(*_ranked(known, unknown)))

def aupr(
    id_scores,          # Scores of known images (n,), higher = more in-distribution; tensor, array or list
    ood_scores,         # Scores of unknown images (m,)
    positive:str='id',  # Side called positive: 'id' or 'ood'
    *,
    nan='refuse'        # As in `auroc`
)->float:               # In (0,1]; guessing gets the share of positives
    "Average precision of finding the positive side, tied scores taken together"
    from sklearn.metrics import average_precision_score
    pos,neg = _sides(id_scores, ood_scores, positive, nan)
    if not len(pos): return float('nan')
    return float(average_precision_score(*_ranked(pos, neg)))

def ood_metrics(
    id_scores,          # Scores of known images (n,), higher = more in-distribution; tensor, array or list
    ood_scores,         # Scores of unknown images (m,)
    *,
    positive:str='id',  # Side called positive: 'id' or 'ood'
    tpr:float=.95       # Share of positives to be kept, in (0,1]
)->dict:                # Names to fractions: fpr95 (named after `tpr`), auroc, aupr
    "FPR at `tpr`, AUROC and AUPR of one score on one set of unknown images"
    sides = id_scores,ood_scores
    fpr = fpr_at_tpr(*sides, tpr, positive)
    return {f'fpr{100*tpr:g}': fpr, 'auroc': auroc(*sides), 'aupr': aupr(*sides, positive)}
