"What a list of suspects is worth: which classes can be judged, which labels are called wrong, how many of them are"
from typing import NamedTuple
import numpy as np
from fastrobust.labels.channel import row_slices, some_rows, wrong_if_given
from fastrobust.labels.planting import CONFUSION, SYMMETRIC

__all__ = []

NEVER = .1      # Times as often as it is given must a class be predicted, or nothing is said about it
_HIDDEN = .6    # Of the recall of plants that follow the network's confusions: what people's errors reach at the least
_SHOWN = .5     # Share of the rate that its low end must reach for chances of single labels to be told

def judged_classes(
    y,      # Given labels (n,)
    p       # Out-of-sample probabilities (n,c)
)->np.ndarray: # bool (c,)
    "Classes that are predicted now and then; to a judge that never predicts a class all of its items look wrong"
    c = p.shape[1]
    given = np.bincount(y, minlength=c)
    said = np.bincount(p.argmax(1), minlength=c)
    return (given > 1) & (said > 0) & (said >= NEVER*given)

class Share(NamedTuple):
    "A share and its interval"
    value:float
    lo:float
    hi:float

NOTHING = Share(np.nan, np.nan, np.nan)

class Listed(NamedTuple):
    "The labels that are called wrong, and what that is worth"
    flagged:np.ndarray      # bool (n,)
    cut:float               # Chance above which a label is called wrong
    recall:Share            # Of the wrong labels, those that are flagged
    precision:Share         # Of the flagged, those that are wrong

def _cut(wrong, rate):
    "Chance above which a label is called wrong: .5, or what leaves no more than the rate"
    k = round(rate*len(wrong))
    if k >= len(wrong): return .5
    return max(.5, np.sort(wrong)[::-1][k])

def _recalls(y, p, est, cut):
    "Share of plants that would be flagged: spread evenly, like the errors found, and as the network confuses"
    i = some_rows(*p.shape)
    laws = SYMMETRIC,est.law,CONFUSION._replace(temperature=est.law.temperature)
    found = np.zeros(3)
    for s in row_slices(len(i), p.shape[1]):
        rows = i[s]
        hit = wrong_if_given(est.channel, p[rows]) > cut
        found += [(law.weights(y[rows], p[rows])*hit).sum() for law in laws]
    return found/len(i)

def _recall(y, p, est, cut, n):
    "`Share` of all wrong labels that are flagged: between errors as the network confuses and errors spread evenly"
    even,alike,confused = _recalls(y, p, est, cut)
    expected = max(est.rate*n, 10)
    se = lambda v: 1.96*np.sqrt(max(v*(1-v), .02)/expected)
    # the more the errors found are spread, the more can they stand for the others
    sure = max(0, 2*est.law.spread-1)
    low = sure*alike + (1-sure)*_HIDDEN*confused
    high = max(even, alike)
    return Share(float(alike), float(max(low-se(low), 0)), float(min(high+se(high)+.03, 1)))

def _precision(est, flagged, recall, wrong):
    "`Share` of the flagged that are wrong: rate times recall over what is flagged, with the intervals of both"
    share = flagged.mean()
    if not share: return NOTHING
    mean = wrong[flagged].mean()
    per = lambda rate, found: float(min(rate*found/share, 1))
    lo = per(est.lo, recall.value)
    hi = min(per(est.hi, recall.hi), mean+.15)
    value = min(per(est.rate, recall.value), mean)
    return Share(max(value, lo), lo, float(max(hi, lo, value)))

def listed(
    y,      # Given labels (n,)
    p,      # Out-of-sample probabilities (n,c)
    est,    # `NoiseRate` of these
    use     # Mask (n,) of labels that were given, not planted
)->Listed:
    "Labels that are probably wrong, but no more than the rate; and how many of the wrong ones that finds"
    wrong = est.channel.wrong
    cut = _cut(wrong, est.rate)
    flagged = wrong > cut
    recall = _recall(y, p, est, cut, int(use.sum()))
    return Listed(flagged, float(cut), recall, _precision(est, flagged, recall, wrong))

def sureness(est):
    """What a chance of the channel is worth, NaN: nothing. Where the low end of the rate is under half of it, a judge's
    errors cannot be told from wrong labels. Else the rate and its low end are weighed three to one"""
    if not est.rate or est.lo < _SHOWN*est.rate: return np.nan
    return (3+min(est.lo/est.rate, 1))/4
