"A sample stratified by suspicion: strata, an order to look in, limits of what is found"
from typing import NamedTuple
import numpy as np

__all__ = []

FEWEST = 2      # Items drawn of each stratum at least
_PARTS = 2, 4, 2    # Strata of the flagged items, the others, others that cannot be judged
_SMALLEST = 5   # Items in a stratum, where there are so many
_SURE = .07     # No network is surer than this: what a wrong one can cost is bounded
_FLAGGED = .2   # Share of the sample that the flagged items get at least, to judge the list by
_Z = 1.959964   # Normal quantile of 95 %

class Strata(NamedTuple):
    "Groups of items of like suspicion, the most suspicious flagged ones first"
    members:list        # Positions of the items of each (H arrays)
    share:np.ndarray    # Of the sample that each gets (H,)
    flagged:np.ndarray  # Are its items flagged? (H,) bool
    @property
    def size(self):
        "Number of items of each (H,)"
        return np.array([len(o) for o in self.members])
    @property
    def of(self):
        "Stratum of each item (n,)"
        res = np.zeros(self.size.sum(), int)
        for h,o in enumerate(self.members): res[o] = h
        return res

# --- who is looked at -----------------------------------------------------------------------------
def _lists(flagged, judged):
    "Masks of the flagged, the other and the not judged items"
    judged = judged | flagged
    if not judged[~flagged].any(): judged = np.ones(len(flagged), bool)
    return flagged, judged & ~flagged, ~judged

def strata_of(
    suspicion,  # Chance that each label is wrong (n,); a bad estimate, or the mere order, will do
    flagged,    # Is it called wrong? (n,) bool
    judged      # Can the network judge it? (n,) bool
)->Strata:
    "Cut each list by rank into parts of equal sums of sqrt(p(1-p)), Neyman's numbers to draw"
    # what a CSV rounds is no other rank
    suspicion = np.round(suspicion, 9)
    p = np.clip(suspicion, _SURE, 1-_SURE)
    spread = np.where(judged | flagged, np.sqrt(p*(1-p)), .5)
    members = []
    for own,parts in zip(_lists(flagged, judged), _PARTS):
        i = np.flatnonzero(own)
        i = i[np.argsort(-suspicion[i], kind='stable')]
        k = max(min(parts, len(i)//_SMALLEST), 1)
        at = spread[i].cumsum()-spread[i]/2
        part = (at/max(spread[i].sum(), 1e-9)*k).astype(int)
        members += [i[part == j] for j in range(k) if (part == j).any()]
    share = np.array([spread[o].sum() for o in members])
    of_flagged = np.array([flagged[o[0]] for o in members])
    return Strata(members, _at_least(share/share.sum(), of_flagged), of_flagged)

def _at_least(share, flagged):
    "Shares with no less than `_FLAGGED` for the flagged, where there are others"
    now = share[flagged].sum()
    if not 0 < now < _FLAGGED or flagged.all(): return share
    return np.where(flagged, share*_FLAGGED/now, share*(1-_FLAGGED)/(1-now))

def turns(
    strata, # `Strata`
    n       # Length of the sample
)->np.ndarray: # (n,)
    "Which stratum is drawn from next: the furthest behind its share (Sainte-Lague), `FEWEST` of each first"
    size = strata.size
    count = np.zeros(len(size), int)
    res = []
    for _ in range(n):
        urge = strata.share/(2*count+1)
        urge[count < FEWEST] += 1
        urge[count >= size] = -1
        h = urge.argmax()
        count[h] += 1
        res.append(h)
    return np.array(res, int)

def drawn(
    strata, # `Strata`
    n,      # Length of the sample
    seed    # Of the draw
)->np.ndarray: # (n,)
    "Positions of the items in the order to look: random within a stratum, longer samples begin alike"
    turn = turns(strata, n)
    res = np.zeros(n, int)
    for h,own in enumerate(strata.members):
        order = np.random.default_rng([seed, h]).permutation(np.sort(own))
        mine = turn == h
        res[mine] = order[:mine.sum()]
    return res

# --- what they say --------------------------------------------------------------------------------
# The estimate is sum(w*x/m), w = N_h/N: of Horvitz and Thompson (1952), every answer stands for
# N_h/m_h items (Cochran, Sampling Techniques, ch. 5). Its limits are the shares t that a test would
# just not reject: |estimate-t| <= z sd(t), with the variance under the shares p_h that fit the
# answers best among those with sum(w*p) = t (Miettinen and Nurminen 1985; one stratum: Wilson 1927).
# The sd of the sample itself is no good: 0 wrong of 12 makes it 0. Further:
# - finite population: (N_h-m_h)/(N_h-1) of the variance; a stratum seen whole is known;
# - fitted shares take away variance: m/(m-k) for the k strata with answers of both kinds;
# - few wrong ones are skew: z becomes z + skewness (z^2-1)/6 (Cornish-Fisher; Gart and Nam 1988,
#   Laud 2017), half of it where that narrows: with all, 0 wrong of m reach up to 2.8/m, and 95 %
#   take 3/m.
# Where several t are just not rejected, the outermost counts.
_STEPS = np.concatenate([[0], np.geomspace(1e-5, .3, 30), np.linspace(.33, .97, 16),
                         1-np.geomspace(.02, 1e-5, 8)])

def _pulled(x, m, pull):
    "Shares that fit `x` of `m` best under a pull up (> 0) or down: the root p in [0,1] of pull p^2 + (m-pull) p = x"
    b = m-pull
    root = np.sqrt(np.maximum(b*b+4*pull*x, 0))
    with np.errstate(divide='ignore', invalid='ignore'):
        p = np.where(b > 0, 2*x/(b+root), (root-b)/(2*pull))
    return np.clip(p, 0, 1)

def _limit(side, x, m, size, w):
    "The outermost share on one side (1: above, -1: below) that is not rejected"
    share = x/m
    left = (size-m)/(size-1)
    mixed = (x > 0) & (x < m)
    loss = m.sum()/(m.sum()-mixed.sum())
    third = left*(size-2*m)/np.maximum(size-2, 1)/m**2

    def tried(pull):
        p = _pulled(x/left, m/left, pull[:, None]*w)
        far = side*((w*(p-share)).sum(1))
        pq = p*(1-p)
        v = loss*(w*w*pq*left/m).sum(1)
        skew = (w**3*pq*(1-2*p)*third).sum(1)
        # far <= (z - side*skewness*(z^2-1)/6)*sd, times the variance
        bend = side*skew*(_Z*_Z-1)/6
        bend = np.where(bend > 0, bend/2, bend)
        near = far*v <= _Z*v**1.5 - bend
        return far,np.where(v > 0, near, far <= 0)

    goal = max(side, 0)
    p = share + (goal-share)*_STEPS[:, None]
    with np.errstate(divide='ignore', invalid='ignore'):
        pull = np.abs((m*p-x)/(left*p*(1-p)*w))
    pull = side*np.sort(pull[np.isfinite(pull)])
    if not len(pull): return 0.
    for _ in range(3):      # three times finer around the last that passes
        far,ok = tried(pull)
        k = np.flatnonzero(ok).max(initial=0)
        end = min(k+1, len(pull)-1)
        pull = np.linspace(pull[k], pull[end], 50)
    return side*far[end]

def share_of(
    x,      # Wrong labels found in each stratum (H,)
    m,      # Labels decided in each, > 0
    size    # Items in each
)->tuple: # (share, low, high) of all its items
    "Share of wrong labels in all strata together, unbiased, with its 95 % interval"
    total = size.sum()
    w = size/total
    point = float((size*x/m).sum()/total)
    some = m < size
    if not some.any(): return point,point,point
    args = [np.asarray(o, float)[some] for o in (x, m, size, w)]
    half = .5/total         # a share of items is a multiple of 1/n
    lo = point+_limit(-1, *args)-half
    hi = point+_limit(1, *args)+half
    return point,float(max(lo, x.sum()/total)),float(min(hi, 1-(m-x).sum()/total))

def ratio_of(
    a,      # (estimate, low, high) of a share of all items
    b,      # Of another, from other items
    total   # Number of all items
)->tuple: # (a/(a+b), low, high)
    "Part that the first is of both, limits by MOVER (Donner and Zou 2012); of nothing: anything"
    a,a_lo,a_hi = a
    b,b_lo,b_hi = b
    if a+b == 0: return np.nan,0.,1.
    if a_lo == a_hi and b_lo == b_hi: return (float(a/(a+b)),)*3
    r = np.linspace(0, 1, 2001)
    gap = (1-r)*a - r*b
    above = np.hypot((1-r)*(a_hi-a), r*(b-b_lo))
    below = np.hypot((1-r)*(a-a_lo), r*(b_hi-b))
    half = .5/total/(a+b)   # of an item, as in `share_of`
    lo = r[gap <= below].min()-half
    hi = r[gap >= -above].max()+half
    return float(a/(a+b)),float(max(lo, 0)),float(min(hi, 1))
