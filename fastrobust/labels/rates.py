"How many labels are wrong: a point and an interval, from tails and channel"
# Random errors, planted evenly, are easier to see than those that people make: a truck called a car
# leaves less of a trace than a truck called a frog. So the errors that were found are asked first
# whether they are spread evenly over the classes or go where the network would confuse them
# (`errors_spread`), and labels are then planted alike. A network's own errors make any such estimate
# too high, errors between look-alikes make it too low; the interval holds both.
from typing import NamedTuple
import numpy as np
from fastrobust.labels.channel import LabelChannel, label_channel, row_slices, tempered
from fastrobust.labels.planting import PlantLaw
from fastrobust.labels.tails import Tail, Tails
from fastrobust.predictions import need_probs

__all__ = []

# Shares of plants in the tails. Chosen on Fashion-MNIST and CIFAR-10N, as `_MORE` (RESULTS.md)
_NEAR,_FAR,_WIDE = .3,.05,.6
_MORE = 1.35        # Times the channel's rate: how far look-alikes may hide
_DOUBT = .25        # Labels contradicted beyond the rate: so many errors of its own may be all there is

def errors_spread(
    y,      # Given labels (n,)
    p,      # Out-of-sample probabilities (n,c)
    channel # `LabelChannel` of these
)->float:   # In [0,1]; 1 of two classes
    "Share of the errors found that is spread evenly over the other classes, the rest goes where the network confuses"
    c = p.shape[1]
    if c == 2: return 1.
    confused = np.empty(len(y))
    for s in row_slices(*p.shape):
        v = tempered(p[s], channel.temperature)
        at = np.arange(len(v))
        confused[s] = v[at, y[s]]/np.maximum(1-v[at, channel.other[s]], 1e-12)
    w = channel.wrong
    k = .5
    for _ in range(200):
        even = k/(c-1)
        k = float((even/(even + (1-k)*confused)*w).sum()/max(w.sum(), 1e-12))
    return k

def _own_errors(y, p, use):
    "Share of the labels that the judge contradicts"
    wrong = p.argmax(1) != y
    return float(wrong.mean() if use is None else wrong[use].mean())

class NoiseRate(NamedTuple):
    "Share of wrong labels: point and interval, and the estimates they are made of"
    rate:float
    lo:float
    hi:float
    tail:Tail       # Of plants like the errors found
    channel:LabelChannel
    far:Tail        # A shorter tail, where neither model errors nor confusable errors reach
    wide:Tail       # A longer one, which meets errors that hide, and model errors
    law:PlantLaw    # The plants: like the errors found
    tails:Tails

def noise_rate(
    y,          # Given labels (n,)
    probs,      # Out-of-sample probabilities (n,c)
    use=None    # Mask (n,) of labels to judge; the audit leaves out those it planted over
)->NoiseRate:
    """The smaller of tail and channel, which both err upwards where the network errs, less half the sampling error of
    the tail (all of it where the far tail shows nothing). The interval holds sampling error and a tenth of the rate
    (+.01) for the model, and reaches down to the far tail and up to the wide one; down to 0 where the judge
    contradicts over a quarter of the labels beyond the rate"""
    y,p = need_probs(y, probs)
    channel = label_channel(y, p)
    law = PlantLaw(errors_spread(y, p, channel), channel.temperature)
    tails = Tails(y, p, use)
    tail,far,wide = (tails.tail(q, law) for q in (_NEAR, _FAR, _WIDE))

    # errors that show in the far tail too are there
    off = tail.se/2 if far.rate > far.se else tail.se
    r = max(min(tail.rate, channel.rate)-off, 0)
    se = np.sqrt(r*(1-r)/len(tails.own))
    half = np.hypot(1.96*max(tail.se, se), .01+.1*r)
    lo = min(r-half, far.rate-far.se)
    if _own_errors(y, p, use)-r > _DOUBT: lo = 0.
    most = max(_MORE*channel.rate + .02 + .5/np.sqrt(len(tails.own)), tail.rate)
    hi = max(r+half, min(wide.rate, most)+wide.se)
    return NoiseRate(r, float(max(lo, 0)), float(min(hi, 1)), tail, channel, far, wide, law, tails)
