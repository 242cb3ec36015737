"Wrong labels on purpose: noise matrices and the laws that draw given labels from true ones"
# Symmetric and pair: Co-teaching, https://arxiv.org/abs/1804.06872
# Asymmetric maps: F-correction, https://arxiv.org/abs/1609.03683
import math
from numbers import Integral, Real
import numpy as np
from fastrobust.basics import nearest, robust_warn
from fastrobust.data.noiserecord import NoiseRecord, int_labels

__all__ = ['noise_matrix', 'NoisyLabels', 'NOISE_KINDS', 'CLASS_MAPS']

CLASS_MAPS = dict(                                  # by index
    cifar10={9:1, 2:0, 4:7, 3:5, 5:3},              # truck->automobile, bird->airplane, deer->horse, cat<->dog
    mnist={7:1, 2:7, 3:8, 5:6, 6:5})
_CIFAR10 = 'airplane automobile bird cat deer dog frog horse ship truck'.split()
_SAMPLING = ('exact', 'bernoulli', 'per_class')

# --- matrices --------------------------------------------------------------------------------------------------------
def _check_rate(kind, rate):
    if rate is None: raise ValueError(f"kind={kind!r} needs a `rate` in [0,1], got none. Pass e.g. rate=.4.")
    if isinstance(rate, (bool, np.bool_)) or not isinstance(rate, Real):
        raise TypeError(f"`rate` must be a number in [0,1], got {rate!r}. Pass e.g. rate=.4.")
    if not 0 <= rate <= 1:
        raise ValueError(f"`rate` must lie in [0,1], got {rate}. It is a share of the labels: for 40 % pass .4.")
    return float(rate)

def _check_T(T, n=None):
    "A row-stochastic float64 copy of `T`"
    T = np.array(T.detach().cpu() if hasattr(T, 'detach') else T, dtype=np.float64)
    if T.ndim != 2 or T.shape[0] != T.shape[1] or not len(T):
        raise ValueError(f"`T` must be a square matrix (c,c), got shape {T.shape}. Give one row for each true class.")
    if n is not None and len(T) != n:
        raise ValueError(f"`T` must be ({n},{n}), one row per class, got {T.shape}. Order both as the vocab.")
    s = T.sum(1)
    bad = ~np.isfinite(T).all(1) | (T < 0).any(1) | ~(abs(s-1) <= 1e-6)
    if bad.any():
        i = int(bad.argmax())
        transposed = (T >= 0).all() and np.allclose(T.sum(0), 1)
        cure = "Its columns sum to 1, cleanlab's convention: pass T.T." if transposed else "Divide each row by its sum."
        raise ValueError(f"`T` must be >= 0 with rows that sum to 1, got row {i} = {T[i]} (sum {s[i]:.6g}). {cure}")
    return T / s[:,None] if (abs(s-1) > 1e-12).any() else T

def _warn_T(T, kind):
    off = T - np.diag(np.full(len(T), np.inf))
    bad = np.flatnonzero(np.diag(T) <= off.max(1)) if len(T) > 1 else []
    if len(bad):
        names = ', '.join(map(str, bad[:5])) + (' ..' if len(bad) > 5 else '')
        robust_warn(f"{kind} noise: for class {names} the true label is no longer the most frequent given one (T is "
                    "not diagonally dominant), so the labels alone cannot tell which class is meant.", 4)
    elif (cond := np.linalg.cond(T)) > 50: robust_warn(f"{kind} noise: T is nearly singular (condition {cond:.3g}).", 4)

def _class_map(mapping, n, vocab=None):
    "dict index -> index from `mapping`: a name, or a dict of indices or of class names"
    if mapping is None:
        mapping = 'cifar10'
        if vocab is not None and n == 10 and [str(v) for v in vocab] != _CIFAR10:
            robust_warn(f"asymmetric noise uses the papers' CIFAR-10 map on {list(vocab)}. Pass your own `mapping`.", 6)
    if isinstance(mapping, str):
        if mapping not in CLASS_MAPS:
            raise ValueError(f"unknown mapping {mapping!r}. {nearest(mapping, CLASS_MAPS)} Or pass a dict.")
        if n == 10: return dict(CLASS_MAPS[mapping])
        raise ValueError(f"mapping {mapping!r} is for 10 classes, got {n}. Pass a dict of indices or names.")
    if not isinstance(mapping, dict) or not mapping:
        raise TypeError(f"`mapping` must be a name or a non-empty dict, got {mapping!r}. Pass e.g. {{'cat': 'dog'}}.")
    o2i = {} if vocab is None else {str(v): i for i,v in enumerate(vocab)}
    def idx(o):
        if isinstance(o, Integral) and not isinstance(o, bool) and 0 <= o < n: return int(o)
        if isinstance(o, str) and o in o2i: return o2i[o]
        hint = nearest(o, o2i) if o2i else f"Pass indices in [0,{n}); names need the `vocab`."
        raise ValueError(f"`mapping` expected classes among the {n} known ones, got {o!r}. {hint}")
    return {idx(k): idx(v) for k,v in mapping.items()}

def _switch(kind, n, inclusive=False, mapping=None, vocab=None):
    "W (n,n): law of the new label of a chosen sample; T = (1-rate)*I + rate*W"
    if n < 2 and not (kind == 'symmetric' and inclusive):
        raise ValueError(f"{kind} noise needs at least 2 classes to switch between, got n_classes={n}. "
                         "Pass the size of the vocab as n_classes.")
    if kind == 'symmetric': return np.full((n,n), 1/n) if inclusive else (1-np.eye(n))/(n-1)
    if kind == 'pair':      return np.roll(np.eye(n), 1, axis=1)
    m = _class_map(mapping, n, vocab)
    return np.eye(n)[[m.get(i, i) for i in range(n)]]

def noise_matrix(
    kind:str,               # 'symmetric', 'asymmetric', 'pair' or 'matrix'
    n_classes:int=None,     # c; None: the size of `T`
    rate:float=None,        # Share of samples chosen, in [0,1]; not for 'matrix'
    inclusive:bool=False,   # symmetric: may a chosen sample draw its own class again (DivideMix)? No: JoCoR, LogitClip
    mapping=None,           # asymmetric: 'cifar10' (default; 10 classes), 'mnist', or a dict of indices or names
    vocab=None,             # Class names, for a `mapping` by name
    T=None                  # matrix: (c,c), rows >= 0 that sum to 1
):
    "T (c,c), T[i,j] = P(given j | true i): rows are true classes and sum to 1 (cleanlab uses the transpose)"
    if kind not in _MATRIX_KINDS: raise ValueError(f"unknown noise matrix {kind!r}. {nearest(kind, _MATRIX_KINDS)}")
    _check_n(n_classes)
    if kind == 'matrix':
        if T is None: raise ValueError("kind='matrix' needs `T`, got none. Pass a row-stochastic (c,c) matrix.")
        if rate is not None: raise ValueError(f"kind='matrix' has its rates in `T`, got rate={rate}. Leave `rate` out.")
        T = _check_T(T, n_classes)
    else:
        rate = _check_rate(kind, rate)
        if n_classes is None: raise ValueError(f"{kind!r} noise needs `n_classes`, got none. Pass the vocab's size.")
        T = (1-rate)*np.eye(n_classes) + rate*_switch(kind, n_classes, inclusive, mapping, vocab)
    _warn_T(T, kind)
    return T

def _check_n(n):
    if n is not None and (isinstance(n, bool) or not isinstance(n, Integral) or n < 1):
        raise ValueError(f"`n_classes` must be a positive int, got {n!r}. Pass the size of the vocab.")

# --- samplers: a kind is a function (noise, y, c, X, rng, vocab) -> (given labels, T or None) ------------------------
def _bernoulli(y, T, rng):
    "One multinomial draw per sample, in order: with seed 0 bit for bit the labels of the Co-teaching and JoCoR code"
    return np.array([rng.multinomial(1, T[k]).argmax() for k in y], dtype=np.int64)

def _apportion(n, p):
    "`n` split in whole parts as near to `n*p` as can be (largest remainders)"
    q = np.floor(n*p + 1e-9).astype(int)
    q[np.argsort(q - n*p, kind='stable')[:n-q.sum()]] += 1
    return q

def _switching(noise, y, c, X, rng, vocab):
    "Choose samples, then switch their labels by W"
    T = noise_matrix(noise.kind, c, noise.rate, noise.inclusive, noise.mapping, vocab)
    if noise.sampling == 'bernoulli': return _bernoulli(y, T, rng), T
    W = _switch(noise.kind, c, noise.inclusive, noise.mapping, None if noise.mapping is None else vocab)
    r,out,idxs = noise.rate,y.copy(),[np.flatnonzero(y==k) for k in range(c)]
    if noise.sampling == 'exact': chosen = rng.permutation(len(y))[:int(r*len(y))]
    else: chosen = np.concatenate([rng.permutation(i)[:math.ceil(r*len(i) - 1e-8)] for i in idxs])
    for k in range(c):
        i = chosen[y[chosen]==k]
        out[i] = rng.choice(c, len(i), p=W[k])
    return out, T

def _matrix(noise, y, c, X, rng, vocab):
    "Within each class, whole counts nearest to n_k*T[k]"
    T,out = noise_matrix('matrix', c, T=noise.T),y.copy()
    if noise.sampling == 'bernoulli': return _bernoulli(y, T, rng), T
    for k in range(c):
        i = rng.permutation(np.flatnonzero(y==k))
        out[i] = np.repeat(np.arange(c), _apportion(len(i), T[k]))
    return out, T

_MATRIX_KINDS = ('symmetric', 'asymmetric', 'pair', 'matrix')
NOISE_KINDS = {'symmetric': _switching, 'asymmetric': _switching, 'pair': _switching, 'matrix': _matrix}

class NoisyLabels:
    "A law of label noise: what kind, how much, from which seed. `apply` draws the labels; same seed, same labels"
    def __init__(self,
        kind:str='symmetric',   # 'symmetric', 'asymmetric' (by map), 'pair' (i -> i+1) or 'matrix'
        rate:float=None,        # Nominal rate: share of samples chosen, in [0,1]; papers: .2 to .8; not for matrix
        seed:int=0,             # Seed of an own random stream; the global ones are neither read nor moved
        sampling:str='exact',   # 'exact': int(rate*n) samples of all, as LogitClip; 'bernoulli': each draws from T[y],
                                # as JoCoR; 'per_class': ceil(rate*n_k) of class k. asymmetric: the chosen may be of an
                                # unmapped class and then stay; matrix: 'exact' and 'per_class' both round n_k*T[k]
        inclusive:bool=False,   # symmetric: may a chosen sample keep its class? The realised rate is then rate*(1-1/c)
        T=None,                 # matrix: (c,c) row-stochastic, rows = true class
        features:str='unit',    # Scaling of the images, for kinds that depend on them; refused for kinds that do not
        noisy_valid=False,      # False: validation stays clean; True: same law, another stream; 'both': and acc_true
        mapping=None            # asymmetric: 'cifar10' (default; 10 classes), 'mnist', or a dict of indices or names
    ):
        if kind not in NOISE_KINDS: raise ValueError(f"unknown noise kind {kind!r}. {nearest(kind, NOISE_KINDS)}")
        if sampling not in _SAMPLING: raise ValueError(f"unknown sampling {sampling!r}. {nearest(sampling, _SAMPLING)}")
        if noisy_valid not in (False, True, 'both'):
            raise ValueError(f"`noisy_valid` must be False, True or 'both', got {noisy_valid!r}. False: clean ones.")
        if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed < 2**32:
            raise ValueError(f"`seed` must be an int in [0, 2**32), got {seed!r}. Pass e.g. seed=0.")
        for nm,given,of in (('T', T is not None, 'matrix'), ('mapping', mapping is not None, 'asymmetric'),
                            ('inclusive', inclusive, 'symmetric'), ('features', features != 'unit', 'instance')):
            if given and kind != of: raise ValueError(f"`{nm}` expects kind={of!r}, got kind={kind!r}. Leave it out.")
        if kind != 'matrix': rate = _check_rate(kind, rate)
        elif T is None or rate is not None: noise_matrix('matrix', rate=rate, T=T)      # raises
        else: T = _check_T(T)
        self.kind,self.rate,self.seed,self.sampling,self.inclusive,self.T = kind,rate,int(seed),sampling,inclusive,T
        self.features,self.noisy_valid,self.mapping = features,noisy_valid,mapping

    def apply(self,
        y,              # Clean labels (n,): ints in [0,n_classes); never written to
        n_classes=None, # c; None: the size of `T` or of `vocab`, else max(y)+1
        X=None,         # Images, for kinds that depend on them
        vocab=None,     # Class names, for a mapping by name and for plots
        stream:int=0    # 0: training; 1: validation (same law, independent draws)
    ):
        "`NoiseRecord` of true and given labels"
        _check_n(n_classes)
        if n_classes is None and self.T is not None: n_classes = len(self.T)
        if n_classes is None and vocab is not None:  n_classes = len(vocab)
        y = int_labels(y, n_classes)
        c = int(y.max())+1 if n_classes is None else int(n_classes)
        rng = np.random.RandomState(self.seed if stream == 0 else [self.seed, stream])   # the same in every numpy
        given,T = NOISE_KINDS[self.kind](self, y, c, X, rng, vocab)
        rate = self.rate if self.rate is not None else float(1 - np.diag(T)[y].mean())
        return NoiseRecord(y, given, self.kind, rate, T, self.seed, vocab=vocab, sampling=self.sampling)

    def __repr__(self):
        rate = '' if self.rate is None else f", rate {self.rate:g}{' inclusive' if self.inclusive else ''}"
        return f"NoisyLabels({self.kind}{rate}, {self.sampling}, seed {self.seed}, noisy_valid={self.noisy_valid!r})"
