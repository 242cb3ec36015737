"The kinds of label noise: each a function that draws given labels, or images, from true ones"
# Symmetric and pair: Co-teaching, https://arxiv.org/abs/1804.06872
# Asymmetric maps: F-correction, https://arxiv.org/abs/1609.03683
# A kind: function (noise, y, c, X, rng, vocab) -> (given labels, T or None[, more of the record])
import copy
import numpy as np
from fastrobust.basics import robust_warn
from fastrobust.noise import instance
from fastrobust.noise.classmaps import MATRIX_KINDS, switch
from fastrobust.noise.human import match_record
from fastrobust.noise.matrices import noise_matrix

__all__ = []

def _happens(p, u):
    "Whether what has probability `p` happens at the uniform draw `u`: the rarer side is where `u` is large"
    return u <= p if p > .5 else u > 1-p

def _categorical(p, rng):
    "A draw from the probabilities `p`, class by class among what is left, as `rng.multinomial` before numpy 2.5"
    left = 1.
    for k,pk in enumerate(p[:-1]):
        # numpy 2.5 spends a draw on the impossible, and so gives other labels from the same seed
        if pk > 0 and _happens(pk/left, rng.random_sample()): return k
        left -= pk
    return len(p)-1

def _bernoulli(y, T, rng):
    "One multinomial draw per sample, in order: with seed 0 bit for bit the labels of the Co-teaching and JoCoR code"
    rows = T.tolist()
    return np.array([_categorical(rows[k], rng) for k in y], dtype=np.int64)

def _apportion(n, p):
    "`n` split in whole parts as near to `n*p` as can be (largest remainders)"
    q = np.floor(n*p + 1e-9).astype(int)
    left = n-q.sum()
    q[np.argsort(q - n*p, kind='stable')[:left]] += 1
    return q

def _switching(noise, y, c, _X, rng, vocab):
    "Choose samples, then switch their labels by W"
    T = noise_matrix(noise.kind, c, noise.rate, inclusive=noise.inclusive, mapping=noise.mapping,
                     vocab=vocab)
    if noise.sampling == 'bernoulli': return _bernoulli(y, T, rng), T
    # the vocab is for names in a mapping; without one it would warn a second time
    names = None if noise.mapping is None else vocab
    W = switch(noise.kind, c, noise.inclusive, noise.mapping, names)
    chosen = instance.choose(noise, y, c, rng)
    out = y.copy()
    for k in range(c):
        i = chosen[y[chosen]==k]
        out[i] = rng.choice(c, len(i), p=W[k])
    return out, T

def _matrix(noise, y, c, _X, rng, _vocab):
    "Within each class, whole counts nearest to n_k*T[k]"
    T = noise_matrix('matrix', c, T=noise.T)
    if noise.sampling == 'bernoulli': return _bernoulli(y, T, rng), T
    out = y.copy()
    for k in range(c):
        i = rng.permutation(np.flatnonzero(y==k))
        out[i] = np.repeat(np.arange(c), _apportion(len(i), T[k]))
    return out, T

def _law_of_rest(noise, n, n_rest):
    "The closed law: its share of all `n` samples, drawn among the `n_rest` that keep their image"
    if noise.closed.rate is None: return noise.closed
    law = copy.copy(noise.closed)
    k = int(law.rate*n)
    if k > n_rest:
        raise ValueError(f"expected open and closed rates of at most 1 together, got {noise!r}.")
    if not k: law.rate = 0.
    elif law.sampling == 'exact': law.rate = min(1, (k+.5)/n_rest)
    else: law.rate = min(1, law.rate*n/n_rest)
    return law

def _open(noise, y, c, X, rng, vocab):
    "Foreign images for the chosen samples, whose labels stay; the closed law for some of the others"
    i = instance.choose(noise, y, c, rng)
    m = len(noise.images)
    if len(i) > m:
        robust_warn(f"open noise: {m} foreign images for {len(i)} samples: each stands in for "
                    "several.")
    order = rng.permutation(m)
    open_from = np.full(len(y), -1)
    open_from[i] = order[np.arange(len(i)) % m]
    out,more = y.copy(),dict(open_from=open_from)
    if noise.closed is None: return out, None, more

    rest = np.flatnonzero(open_from < 0)
    law = _law_of_rest(noise, len(y), len(rest))
    if len(rest):
        X_rest = None if X is None else X[rest]
        out[rest] = NOISE_KINDS[law.kind](law, y[rest], c, X_rest, rng, vocab)[0]
    closed_rate = noise.closed.rate or float(np.mean(out != y))
    more.update(kind=f'open+{law.kind}', nominal_rate=noise.rate + closed_rate)
    return out, None, more

def _human(noise, y, c, _X, _rng, _vocab):
    rec = match_record(noise.source, y, noise.rows, c)
    more = dict(kind=rec.kind, nominal_rate=rec.realised_rate, sampling=rec.sampling)
    return rec.y_noisy, None, more

NOISE_KINDS = {**dict.fromkeys(MATRIX_KINDS, _switching), 'matrix': _matrix,
               'instance': instance.instance, 'dependent': instance.dependent,
               'model': instance.model, 'open': _open, 'human': _human}
