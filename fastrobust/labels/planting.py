"The planted-error audit: labels made wrong on purpose tell how wrong labels look to this network on these data"
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
from fastrobust.basics import need_number, need_whole
from fastrobust.labels.channel import LabelChannel, label_channel
from fastrobust.predictions import need_probs

__all__ = []

KINDS = ('symmetric', 'confusion')

def _kind(kind):
    if kind not in KINDS:
        raise ValueError(f"plants must be 'symmetric' or 'confusion', got {kind!r}. The first are "
                         "drawn evenly from the other classes, the second as the network confuses "
                         "them.")

# --- making labels wrong --------------------------------------------------------------------------
def plant_labels(
    y,                      # Given labels (n,), ints 0..c-1; never written to
    n_classes:int,          # c
    share:float=.05,        # Share of the labels to change, in (0,.5]; the audit's 5 % costs the network little
    seed:int=0,             # Of an own random stream
    *,
    kind:str='symmetric',   # New label: 'symmetric', any other alike; 'confusion', by `probs` of the others
    probs=None              # confusion: probabilities (n,c)
): # (labels with the planted ones (n,) int64, mask of the planted (n,) bool)
    "Change `round(share*n)` labels, each to one it was not"
    _kind(kind)
    c = n_classes
    y = np.array(y)
    ints = y.ndim == 1 and y.dtype.kind in 'iu' and len(y)
    if not ints or y.min() < 0 or y.max() >= c or c < 2:
        raise ValueError(f"expected labels (n,) as ints in 0..{c-1} of at least 2 classes, got "
                         f"{y.dtype} of shape {y.shape}. Take them from `given_labels(dls)`.")
    need_number('share', share)
    k = round(share*len(y))
    if not 0 < share <= .5 or k < 1:
        raise ValueError(f"`share` must be in (0,.5] and change at least one of the {len(y)} "
                         f"labels, got {share}. Try .05.")
    need_whole('seed', seed, 0)
    if (kind == 'confusion') != (probs is not None):
        raise ValueError("expected `probs` with kind='confusion' and only there, got "
                         f"kind={kind!r}. Give out-of-sample probabilities, or leave both out.")

    # the folds are dealt by `seed` alone
    rng = np.random.default_rng([seed, 1])
    i = np.sort(rng.permutation(len(y))[:k])
    if kind == 'symmetric': new = (y[i] + rng.integers(1, c, k))%c
    else:
        _,p = need_probs(y, probs)
        w = _weights(y, p, kind)[i].cumsum(1)
        new = (rng.random((k, 1))*w[:, -1:] < w).argmax(1)

    mask = np.zeros(len(y), bool)
    mask[i] = True
    y = y.astype(np.int64)
    y[i] = new
    return y,mask

# --- what planted labels look like ----------------------------------------------------------------
def rival_margins(
    y,      # Given labels (n,)
    probs   # Out-of-sample probabilities (n,c)
): # ((n,), (n,c) masked: NaN at the given label)
    "Normalised margin of the given label, and those that each of the other labels would have in its place"
    y,p = need_probs(y, probs)
    at = np.arange(len(y))
    top = p.argmax(1)
    best = p[at, top]
    rest = p.copy()
    rest[at, top] = -1

    m = (p - best[:, None] + 1)/2
    m[at, top] = (best - rest.max(1) + 1)/2
    own = m[at, y]
    m[at, y] = np.nan
    return own,m

def _weights(y, p, kind):
    "Chance of each label to be planted (n,c), rows sum to 1; never the given one"
    if kind == 'symmetric': w = np.ones(p.shape)
    else: w = p.astype(np.float64)+1e-9
    w[np.arange(len(y)), y] = 0
    return w/w.sum(1, keepdims=True)

def _quantile(v, w, q):
    o = np.argsort(v)
    at = w[o].cumsum()
    return v[o][np.searchsorted(at, q*at[-1])]

class Tail(NamedTuple):
    "Upper bound of the noise rate from the lower tail of the margins; `se` is its sampling error"
    rate:float
    se:float
    threshold:float # Margin where the tail ends
    given:float     # Share of the given labels in the tail
    planted:float   # Share of the planted ones

def planted_tail(
    y,                  # Given labels (n,)
    probs,              # Out-of-sample probabilities (n,c)
    q:float=.4,         # The tail holds this share of plants: less misses confusable errors, more meets model errors
    *,
    kind:str='symmetric', # Plants as in `plant_labels`
    use=None            # Mask (n,) of given labels to judge; the plants are of all items
)->Tail:
    "Noise rate as F_given/F_planted in the lower tail; on symmetric plants a symmetric plant may have hit the truth"
    _kind(kind)
    y,p = need_probs(y, probs)
    if not 0 < q <= 1: raise ValueError(f"`q` must be a share of plants in (0,1], got {q}. Try .4.")
    own,rivals = rival_margins(y, p)
    if use is not None: own = own[use]
    others = ~np.isnan(rivals)
    v = rivals[others]
    w = _weights(y, p, kind)[others]

    t = _quantile(v, w, q)
    given = float((own <= t).mean())
    planted = float(w[v <= t].sum()/w.sum())
    bound = given/planted
    se = np.sqrt(max(given*(1-given), 1/len(own))/len(own))/planted
    if kind == 'symmetric':
        bound /= 1 + bound/(p.shape[1]-1)       # r/(c-1) of the plants are right labels
    return Tail(float(min(bound, 1)), float(se), float(t), given, planted)

class PlantCheck(NamedTuple):
    "Do labels really planted look as computed? `p` is the chance of a difference this large if they do"
    distance:float  # Largest difference of the two distributions (Kolmogorov-Smirnov)
    p:float
    n:int           # Labels planted

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
    probs,          # Probabilities (n,c) of networks trained on the planted labels
    planted,        # Labels with the planted ones (n,)
    mask,           # Which they are (n,)
    kind:str='symmetric' # Their kind
)->PlantCheck:
    "Compare margins of planted labels with those of all possible plants: copies across folds, or peeking, differ"
    _kind(kind)
    y,p = need_probs(y, probs)
    mask = np.asarray(mask)
    if not mask.any():
        raise ValueError("expected at least one planted label, got none. `plant_labels` of "
                         "this module makes them.")
    _,rivals = rival_margins(y, p)
    v = rivals[mask]
    new = np.asarray(planted)[mask]
    seen = np.sort(v[np.arange(len(v)), new])

    others = ~np.isnan(v)
    v = v[others]
    w = _weights(y, p, kind)[mask][others]
    d = _distance(seen, v, w)
    return PlantCheck(d, _ks_p(d, len(seen)), len(seen))

# --- the rate -------------------------------------------------------------------------------------
class NoiseRate(NamedTuple):
    "Share of wrong labels: point and interval, and the estimates they are made of"
    rate:float
    lo:float
    hi:float
    tail:Tail
    channel:LabelChannel
    far:Tail        # A shorter tail, where neither model errors nor confusable errors reach

def noise_rate(
    y,          # Given labels (n,)
    probs,      # Out-of-sample probabilities (n,c)
    use=None,   # Mask (n,) of labels to judge; the audit leaves out those it planted over
    *,
    q:float=.4, # As in `planted_tail`
    far:float=.1 # Share of plants in the shorter tail
)->NoiseRate:
    """The smaller of two estimates, tail and channel, both of which err upwards where the network errs. The interval
    holds sampling error and a tenth of the rate (+.01) for the model, and reaches to the far tail and to the tail"""
    tail = planted_tail(y, probs, q, use=use)
    short = planted_tail(y, probs, far, use=use)
    channel = label_channel(y, probs)

    r = min(tail.rate, channel.rate)
    se = np.sqrt(r*(1-r)/len(channel.wrong))
    half = np.hypot(1.96*max(tail.se, se), .01+.1*r)
    lo = min(r-half, short.rate-short.se)
    hi = max(r+half, tail.rate+tail.se)
    return NoiseRate(r, float(max(lo, 0)), float(min(hi, 1)), tail, channel, short)
