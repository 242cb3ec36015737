"How doubtful labels look: margins of the given ones, of all that could be planted, and the ratio of their lower tails"
# Margin of a label: m = (p_label - max of the others + 1)/2, low = doubtful. F(t): share of labels
# with margin <= t.
# Given labels are a mixture, F_given = (1-r) F_right + r F_wrong, so r <= F_given(t)/F_wrong(t)
# for every t: a bound on a mixture proportion (Blanchard et al., Semi-supervised novelty
# detection, JMLR 2010), close where right labels are rare, in the lower tail. Planted labels stand
# for F_wrong. No network saw the label of an item it predicts, so what *every* other label of
# *every* item would have looked like, had it been planted, is known from the same probabilities:
# n(c-1) plants in place of a few hundred. The labels really planted check that this holds
# (`plant_check`).
from typing import NamedTuple
import numpy as np
from fastrobust.labels.channel import row_slices, some_rows
from fastrobust.labels.planting import law_of
from fastrobust.predictions import need_probs

__all__ = []

# --- margins --------------------------------------------------------------------------------------
def _two_best(p):
    "Best class of each row, its probability and that of the next"
    at = np.arange(len(p))
    top = p.argmax(1)
    rest = p.copy()
    rest[at, top] = -1
    return top,p[at, top],rest.max(1)

def own_margins(
    y,      # Given labels (n,)
    probs   # Out-of-sample probabilities (n,c)
)->np.ndarray: # (n,)
    "Normalised margin of the given labels"
    y,p = need_probs(y, probs)
    m = np.empty(len(y), p.dtype)
    for s in row_slices(*p.shape):
        top,best,second = _two_best(p[s])
        own = p[s][np.arange(len(top)), y[s]]
        m[s] = (own - np.where(top == y[s], second, best) + 1)/2
    return m

def rival_margins(
    y,      # Given labels (n,)
    probs   # Out-of-sample probabilities (n,c)
): # ((n,), (n,c) masked: NaN at the given label)
    "Normalised margin of the given label, and those that each of the other labels would have in its place"
    y,p = need_probs(y, probs)
    at = np.arange(len(y))
    top,best,second = _two_best(p)
    m = (p - best[:, None] + 1)/2
    m[at, top] = (best - second + 1)/2
    own = m[at, y]
    m[at, y] = np.nan
    return own,m

# --- tails ----------------------------------------------------------------------------------------
class Tail(NamedTuple):
    "Upper bound of the noise rate from the lower tail of the margins; `se` is its sampling error"
    rate:float
    se:float
    threshold:float # Margin where the tail ends
    given:float     # Share of the given labels in the tail
    planted:float   # Share of the planted ones

class Tails:
    "Margins of the given labels and of all plants on these items, or on as many as make 8 million"
    def __init__(self,
        y,          # Given labels (n,)
        probs,      # Out-of-sample probabilities (n,c)
        use=None    # Mask (n,) of given labels to judge; None: all. Plants are put on every item
    ):
        y,p = need_probs(y, probs)
        self.c = p.shape[1]
        self.own = own_margins(y, p)
        if use is not None: self.own = self.own[use]
        i = some_rows(len(y), self.c)
        self.y,self.p = y[i],p[i]
        riv = rival_margins(self.y, self.p)[1]
        self._others = ~np.isnan(riv)
        v = riv[self._others]
        self._order = np.argsort(v)
        self.rivals = v[self._order]    # sorted
        self._cum:dict = {}

    def cumulated(self, law):
        "Share of the plants of `law` up to each of `rivals`"
        if law not in self._cum:
            cum = law.weights(self.y, self.p)[self._others][self._order].cumsum()
            self._cum[law] = cum/cum[-1]
        return self._cum[law]

    def tail(self,
        q,              # The tail holds this share of plants
        kind='symmetric' # 'symmetric', 'confusion' or a `PlantLaw`
    )->Tail:
        "F_given/F_planted up to the margin that a share of `q` of the plants stay below"
        law = law_of(kind)
        if not 0 < q <= 1:
            raise ValueError(f"`q` must be a share of plants in (0,1], got {q}. Try .4.")
        cum = self.cumulated(law)
        t = self.rivals[min(np.searchsorted(cum, q), len(cum)-1)]
        given = float((self.own <= t).mean())
        planted = float(cum[np.searchsorted(self.rivals, t, 'right')-1])
        n = len(self.own)
        se = np.sqrt(max(given*(1-given), 1/n)/n)/planted
        bound = given/planted
        # r/(c-1) of the plants drawn evenly are right labels
        bound /= 1 + bound*law.spread/(self.c-1)
        return Tail(float(min(bound, 1)), float(se), float(t), given, planted)

def planted_tail(
    y,                  # Given labels (n,)
    probs,              # Out-of-sample probabilities (n,c)
    q:float=.4,         # The tail holds this share of plants: less misses confusable errors, more meets model errors
    *,
    kind='symmetric',   # Plants as in `plant_labels`
    use=None            # Mask (n,) of given labels to judge; the plants are of all items
)->Tail:
    "Noise rate as F_given/F_planted in the lower tail; on symmetric plants a symmetric plant may have hit the truth"
    return Tails(y, probs, use).tail(q, kind)

# --- do plants look as computed? ------------------------------------------------------------------
class PlantCheck(NamedTuple):
    "Do labels really planted look as computed? `p` is the chance of a difference this large if they do"
    distance:float  # Largest difference of the two distributions (Kolmogorov-Smirnov)
    p:float
    n:int           # Labels planted
    shift:float     # Their mean margin minus that of those computed

def _distance(seen, v, w):
    "Largest distance between the distributions of `seen`, sorted, and of `v` with weights `w`"
    o = np.argsort(v, kind='stable')
    v = v[o]
    cum = w[o].cumsum()
    cum /= cum[-1]
    F = np.append(0, cum)
    below = F[np.searchsorted(v, seen, 'left')]
    upto = F[np.searchsorted(v, seen, 'right')]
    steps = np.arange(len(seen)+1)/len(seen)
    return float(max((steps[1:]-below).max(), (upto-steps[:-1]).max(), 0))

def _ks_p(d, n):
    "Chance of a distance of `d` or more between `n` values and their own distribution"
    z = (np.sqrt(n) + .12 + .11/np.sqrt(n))*d
    if z < .3: return 1.
    tail = 2*sum((-1)**(j-1)*np.exp(-2*j*j*z*z) for j in range(1, 101))
    return float(min(max(tail, 0), 1))

def plant_check(
    y,              # Given labels (n,), before planting
    probs,          # Probabilities (n,c) of the items before planting, or of networks trained on the planted labels
    plants,         # `Plants`
    kind='symmetric' # Their kind
)->PlantCheck:
    "Compare margins of planted labels with those of all possible plants: copies across folds, or peeking, differ"
    law = law_of(kind)
    if not len(plants.items):
        raise ValueError("expected at least one planted label, got none. `plant_labels` of "
                         "this module makes them.")
    seen = np.sort(own_margins(plants.labels, plants.probs))
    # of many plants the others' labels on some of the items tell as much
    i = plants.items[some_rows(len(plants.items), np.shape(probs)[1])]
    y,p = np.asarray(y)[i],np.asarray(probs)[i]
    v = rival_margins(y, p)[1]
    others = ~np.isnan(v)
    v,w = v[others],law.weights(y, p)[others]
    d = _distance(seen, v, w)
    return PlantCheck(d, _ks_p(d, len(seen)), len(seen), float(seen.mean()-(v*w).sum()/w.sum()))
