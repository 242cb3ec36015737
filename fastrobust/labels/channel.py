"The channel between true and given labels, from out-of-sample probabilities: noise matrix, rate, what is wrong where"
# A mixture fitted by EM: item x has true class t with probability softmax(log p(x)/temperature)_t,
# and label j is given to class t with probability T[t,j]. The temperature makes up for networks
# too sure or, trained on noise, too unsure of themselves: the model's own mistakes are expected
# where it is unsure, wrong labels show where it is sure. The channel is the noise adaptation layer
# of Goldberger & Ben-Reuven (2017), fitted after training; the temperature is ours.
from typing import NamedTuple
import numpy as np
from fastrobust.predictions import need_probs

__all__ = []

_FLOOR = 1e-9       # no network is surer than this
# pseudo-items per item, spread as symmetric noise: without them model errors pass for noise
_PRIOR = .1

class LabelChannel(NamedTuple):
    "Estimated law of the given labels; `wrong[i]` is the probability that label i is wrong"
    rate:float          # Share of wrong labels, the mean of `wrong`
    T:np.ndarray        # Noise matrix (c,c), rows = true class, rows sum to 1
    temperature:float   # Of the probabilities: above 1 the network is too sure
    wrong:np.ndarray    # (n,) in [0,1]
    # Probability of each class to be the true one (n,c), the given label taken into account
    true:np.ndarray

def _softmax(z):
    z = np.exp(z-z.max(1, keepdims=True))
    return z/z.sum(1, keepdims=True)

def _symmetric(r, c): return (1-r)*np.eye(c) + r/(c-1)*(1-np.eye(c))

def _newton_step(beta, log, pure, true):
    "1/temperature that fits the chances `true` of the classes better, by a factor of 1.5 at most"
    mean = (pure*log).sum(1)
    slope = (true*log).sum() - mean.sum()
    curve = (pure*(log-mean[:, None])**2).sum()
    new = beta + slope/max(curve, 1e-12)
    return float(np.clip(new, beta/1.5, beta*1.5).clip(.1, 10))

def label_channel(
    y,              # Given labels (n,), columns of `probs`
    probs,          # Out-of-sample probabilities (n,c)
    *,
    max_iter=500,   # Steps of EM at most
    tol=1e-5        # Stop when rate and log-temperature move less
)->LabelChannel:
    "Fit noise matrix and temperature to the given labels by EM; the matrix is drawn a little towards symmetric noise"
    y,p = need_probs(y, probs)
    n,c = p.shape
    log = np.log(np.maximum(p.astype(np.float64), _FLOOR))
    T = _symmetric(.2, c)
    rate = .2
    beta = 1.       # 1/temperature
    for _ in range(max_iter):
        pure = _softmax(beta*log)
        # E: who could have been given this label
        true = pure*T[:, y].T
        true /= true.sum(1, keepdims=True)
        N = np.stack([np.bincount(y, weights=true[:, k], minlength=c) for k in range(c)])
        old_rate,old_beta = rate,beta
        rate = float(1-np.trace(N)/n)
        # M: the channel; a Newton step on 1/temperature
        T = N + _PRIOR*N.sum(1, keepdims=True)*_symmetric(rate, c)
        T /= np.maximum(T.sum(1, keepdims=True), 1e-12)
        beta = _newton_step(beta, log, pure, true)
        if abs(rate-old_rate) < tol and abs(np.log(beta/old_beta)) < tol: break

    wrong = 1-true[np.arange(n), y]
    return LabelChannel(float(wrong.mean()), T, 1/beta, wrong, true)

def wrong_if_given(
    channel,    # `LabelChannel`
    probs       # Out-of-sample probabilities (n,c), those it was fitted to
)->np.ndarray: # (n,c)
    "How probably wrong each label would be on each item, had it been given: `channel.wrong` at the given ones"
    p = np.asarray(probs, dtype=np.float64)
    log = np.log(np.maximum(p, _FLOOR))
    pure = _softmax(log/channel.temperature)
    return 1 - pure*np.diag(channel.T)/(pure @ channel.T)
