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
_PRIOR = .3
_EVEN,_PAIRED = 4.,.5   # How far, and up to which share of pairs, single labels are judged as if errors were even
FIT = 2**23         # Numbers that are worked on at once: so many rows tell as much as all
_BLOCK = 2**21      # Numbers in float64 at once, where something is asked of every row

class LabelChannel(NamedTuple):
    "Estimated law of the given labels; `wrong[i]` is the probability that label i is wrong"
    rate:float          # Share of wrong labels
    T:np.ndarray        # Noise matrix (c,c), rows = true class, rows sum to 1
    M:np.ndarray        # The same, nearer to symmetric noise where it shows no pairs: by it single labels are judged
    temperature:float   # Of the probabilities: above 1 the network is too sure
    wrong:np.ndarray    # (n,) in [0,1]
    # Most probable true class (n,), the given label taken into account, and its probability (n,)
    likely:np.ndarray
    chance:np.ndarray
    other:np.ndarray    # (n,) the most probable of the classes that are not given
    chance_other:np.ndarray # (n,) its probability
    mass:np.ndarray     # Items of each true class, as expected (c,)

# --- blocks of rows -------------------------------------------------------------------------------
def some_rows(
    n,      # Rows
    c       # Numbers in each
)->np.ndarray: # Positions, sorted: all, or as many as make 8 million numbers
    "Rows to look at where all would be too many: a fixed draw"
    k = max(1, FIT//c)
    if n <= k: return np.arange(n)
    return np.sort(np.random.default_rng(0).permutation(n)[:k])

def row_slices(n, c):
    "Slices of `n` rows of `c` numbers, 2 million numbers at a time"
    step = max(1, _BLOCK//c)
    return [slice(i, min(i+step, n)) for i in range(0, n, step)]

def _softmax(z):
    z = np.exp(z-z.max(1, keepdims=True))
    return z/z.sum(1, keepdims=True)

def logs(p):
    "Logarithms of probabilities, float64, bounded"
    return np.log(np.maximum(p.astype(np.float64), _FLOOR))

def tempered(p, temperature):
    "Probabilities (n,c) at another temperature, float64"
    return _softmax(logs(p)/temperature)

# --- the fit --------------------------------------------------------------------------------------
def _symmetric(r, c): return (1-r)*np.eye(c) + r/(c-1)*(1-np.eye(c))

def _newton_step(beta, log, pure, true):
    "1/temperature that fits the chances `true` of the classes better, by a factor of 1.5 at most"
    mean = (pure*log).sum(1)
    slope = (true*log).sum() - mean.sum()
    curve = (pure*(log-mean[:, None])**2).sum()
    new = beta + slope/max(curve, 1e-12)
    return float(np.clip(new, beta/1.5, beta*1.5).clip(.1, 10))

def _fit(y, p, max_iter, tol):
    "(T, 1/temperature, expected items of each class, rate) by EM"
    n,c = p.shape
    log = logs(p)
    T = _symmetric(.2, c)
    rate,beta = .2,1.
    of = [np.flatnonzero(y == k) for k in range(c)]
    for _ in range(max_iter):
        pure = _softmax(beta*log)
        # E: who could have been given this label
        true = pure*T[:, y].T
        true /= true.sum(1, keepdims=True)
        N = np.stack([true[i].sum(0) for i in of], 1)
        old_rate,old_beta = rate,beta
        rate = float(1-np.trace(N)/n)
        # M: the channel; a Newton step on 1/temperature
        T = N + _PRIOR*N.sum(1, keepdims=True)*_symmetric(rate, c)
        T /= np.maximum(T.sum(1, keepdims=True), 1e-12)
        beta = _newton_step(beta, log, pure, true)
        if abs(rate-old_rate) < tol and abs(np.log(beta/old_beta)) < tol: break
    return T,beta,N.sum(1),rate

def pairs(T, mass):
    "Share of the errors that go to one class of each class, above what even errors have; 1: pair noise"
    c = len(T)
    off = T*(1-np.eye(c))*mass[:, None]
    top = off.max(1).sum()/max(off.sum(), 1e-12)
    return 1. if c == 2 else float((top-1/(c-1))/(1-1/(c-1)))

def _judging(T, mass, rate):
    "Matrix to judge single labels by: small entries of T are mostly chance, which costs the order of the suspects"
    towards = _EVEN*np.clip((_PAIRED-pairs(T, mass))/.1, 0, 1)
    return (T + towards*_symmetric(rate, len(T)))/(1+towards)

def _read(y, p, T, beta, mass, rate):
    "What the channel says of every item, block by block"
    n,c = p.shape
    M = _judging(T, mass, rate)
    wrong,chance,chance_other = np.empty(n),np.empty(n),np.empty(n)
    likely,other = np.empty(n, np.int64),np.empty(n, np.int64)
    mass = np.zeros(c)
    for s in row_slices(n, c):
        true = tempered(p[s], 1/beta)*M[:, y[s]].T
        true /= true.sum(1, keepdims=True)
        at = np.arange(len(true))
        mass += true.sum(0)
        likely[s] = true.argmax(1)
        chance[s] = true[at, likely[s]]
        own = true[at, y[s]]
        wrong[s] = 1-own
        true[at, y[s]] = -1
        other[s] = true.argmax(1)
        chance_other[s] = true[at, other[s]]
    return LabelChannel(rate, T, M, 1/beta, wrong, likely, chance, other, chance_other, mass)

def label_channel(
    y,              # Given labels (n,), columns of `probs`
    probs,          # Out-of-sample probabilities (n,c)
    *,
    max_iter=500,   # Steps of EM at most
    tol=1e-5        # Stop when rate and log-temperature move less
)->LabelChannel:
    "Fit noise matrix and temperature to the given labels by EM; the matrix is drawn a little towards symmetric noise"
    y,p = need_probs(y, probs)
    i = some_rows(*p.shape)
    return _read(y, p, *_fit(y[i], p[i], max_iter, tol))

def wrong_if_given(
    channel,    # `LabelChannel`
    probs       # Out-of-sample probabilities (n,c) of any rows
)->np.ndarray: # (n,c)
    "How probably wrong each label would be on each item, had it been given: `channel.wrong` at the given ones"
    pure = tempered(np.asarray(probs), channel.temperature)
    return 1 - pure*np.diag(channel.M)/np.maximum(pure @ channel.M, 1e-12)
