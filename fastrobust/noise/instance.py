"Label noise that depends on the image: random projections (PMD, LogitClip's 'dependent') and a model's own confusions"
# PMD: Xia et al., Part-dependent Label Noise, https://arxiv.org/abs/2006.07836. Dependent:
# LogitClip's official code.
# Model: Chen et al., Beyond Class-Conditional Assumption (SEAL), https://arxiv.org/abs/2012.05458
import math
import numpy as np
import torch
from fastrobust.data.reading import int_labels
from fastrobust.noise.classmaps import check_rate

__all__ = []

FEATURES = ('unit', 'norm', 'raw')

# --- images as numbers ----------------------------------------------------------------------------
def _check_X(X, n, kind):
    if X is None:
        raise ValueError(f"{kind} noise depends on the images, got none. Pass `X` (n,..), or use "
                         "add_label_noise.")
    if len(X) != n:
        raise ValueError(f"expected one image for each of the {n} labels, got {len(X)}. Select "
                         "both alike.")
    if isinstance(X, torch.Tensor): return X.detach().cpu().numpy()
    return np.asarray(X)

def _step(X):
    # items held as float64 at once: 32 MB
    return max(1, 2**22 // max(1, X[0].size))

def _mean_std(X, channel):
    "Mean and deviation by channel of images, else of all values together, in shapes that fit `X`"
    axes = [i for i in range(X.ndim) if X.ndim < 4 or i != channel % X.ndim]
    shape = [1 if i in axes else s for i,s in enumerate(X.shape)]
    axes,step = tuple(axes),_step(X)
    parts = [X[i:i+step] for i in range(0, len(X), step)]
    s = sum(o.sum(axes, dtype=np.float64) for o in parts)
    n = X.size/np.size(s)
    mean = (s/n).reshape(shape)
    ss = sum(np.square(o-mean).sum(axes) for o in parts)
    std = np.sqrt(ss/n).reshape(shape).clip(1e-12)
    return mean,std

def _scaler(X, features, channel):
    "A function of positions: rows (k,S) of float64 features"
    mean,std = _mean_std(X, channel)
    def rows(i):
        f = X[i].astype(np.float64)
        if features != 'raw': f = (f-mean)/std
        f = f.reshape(len(i), -1)
        if features != 'unit': return f
        return f/np.linalg.norm(f, axis=1, keepdims=True).clip(1e-12)
    return rows

def projections(y, X, c, seed, features='unit', shared=False, kind='instance', channel=None):
    "Scores (n,c) of the wrong classes, `x_i @ W[y_i]`, -inf at `y_i`; W ~ N(0,1) depends on the seed alone"
    if channel is None: channel = 1 if isinstance(X, torch.Tensor) else -1
    X = _check_X(X, len(y), kind)
    rows,step = _scaler(X, features, channel),_step(X)
    rng = np.random.RandomState([seed, 1, 1])
    S = int(np.prod(X.shape[1:]))
    s = np.full((len(y), c), -np.inf)
    W = None
    for k in range(c):          # one class at a time, in pieces: the memory stays small
        if W is None or not shared: W = rng.standard_normal((S, c))
        idxs = np.flatnonzero(y==k)
        for i in range(0, len(idxs), step):
            part = idxs[i:i+step]
            s[part] = rows(part) @ W
    s[np.arange(len(y)), y] = -np.inf
    return s

def _softmax(s):
    p = np.exp(s-s.max(1, keepdims=True))
    return p/p.sum(1, keepdims=True)

def _pick(P, rng):
    "One column of each row of `P`, by inverse transform"
    u = rng.random_sample(len(P))[:,None]*P.sum(1, keepdims=True)
    return (P.cumsum(1)[:,:-1] <= u).sum(1)

# --- rates of single items ------------------------------------------------------------------------
def truncated_normal(u, loc, sd=.1):
    "Quantiles at `u` of the normal with mode `loc`, cut to [0,1]"
    if loc > .5: return 1-truncated_normal(1-u, 1-loc, sd)
    u = torch.as_tensor(u, dtype=torch.float64)
    edge = torch.tensor([loc, loc-1], dtype=torch.float64)
    # shares above 0 and 1; exact far out, where ndtr gives 0
    s0,s1 = torch.special.erfc(-edge/sd/2**.5)/2
    q = loc - sd*torch.special.ndtri(s0 - u*(s0-s1))
    return q.clamp(0, 1).numpy()

def _rates(u, target, sd=.1):
    "Truncated normal rates at quantiles `u` whose mean is `target`: bisection for the location"
    if target > .5: return 1-_rates(1-u, 1-target, sd)
    lo,hi = -3.5,1.5
    for _ in range(50):
        mid = (lo+hi)/2
        if truncated_normal(u, mid, sd).mean() < target: lo = mid
        else: hi = mid
    q = truncated_normal(u, hi, sd)
    return (q*(target/q.mean())).clip(0, 1)

def _systematic(q, k, rng):
    "Exactly `k` positions, each with its own probability `q` (sum k): equal steps through items in random order"
    order = rng.permutation(len(q))
    cum = np.concatenate([[0.], q[order].cumsum()])
    cum *= k/cum[-1]
    cum[-1] = k
    hit = np.floor(cum + rng.random_sample())
    return order[np.diff(hit) > 0]

def pmd_rows(
    y,                  # True labels (n,)
    X,                  # Images or features (n,..): arrays (n,h,w[,c]) or (n,d), tensors (n,c,h,w)
    n_classes:int,      # c
    rate:float,         # Mean share of wrong labels, in [0,1]
    *,
    seed:int=0,         # Of the projections and the rates
    features:str='unit', # 'unit', 'norm' or 'raw', as in `NoisyLabels`
    shared:bool=False,  # One projection for all classes, as in the code of ALASCA and CIFAR-10N? Else one each
    solve:bool=True     # Solve for the location so that the mean is `rate`? Else the mode is `rate`, as in the codes
) -> np.ndarray: # (n,c) float64; row i: 1-q_i at y_i, q_i softmax(x_i W[y_i]) elsewhere
    "The law of PMD noise for each image, q_i from a normal about `rate` with deviation .1, cut to [0,1]"
    rate = check_rate('instance', rate)
    y = int_labels(y, n_classes)
    rng = np.random.RandomState(seed)
    _,q,P = _pmd(y, X, n_classes, rate, rng, seed, features, shared, solve)
    P *= q[:,None]
    P[np.arange(len(y)), y] = 1-q
    return P

def _pmd(y, X, c, rate, rng, seed, features, shared, solve):
    "Quantiles and rates of the items (n,), and the law of their wrong labels (n,c)"
    P = _softmax(projections(y, X, c, seed, features, shared))
    u = rng.random_sample(len(y))
    if not rate: q = np.zeros(len(y))
    elif solve: q = _rates(u, rate)
    else: q = truncated_normal(u, rate)
    return u,q,P

# --- samplers -------------------------------------------------------------------------------------
def _groups(noise, y, c):
    "Positions of items that are counted together: all of them ('exact'), or those of each class"
    if noise.sampling == 'exact': return [np.arange(len(y))]
    return [np.flatnonzero(y==k) for k in range(c)]

def _how_many(noise, n):
    "How many of such a group of `n` are chosen; of a class rounded up"
    if noise.sampling == 'exact': return int(noise.rate*n)
    return math.ceil(noise.rate*n - 1e-8)

def choose(noise, y, c, rng):
    "Positions of the samples whose label is to be drawn anew"
    if noise.sampling == 'bernoulli':
        return np.flatnonzero(rng.random_sample(len(y)) < noise.rate)
    parts = []
    for g in _groups(noise, y, c):
        k = _how_many(noise, len(g))
        parts.append(rng.permutation(g)[:k])
    return np.concatenate(parts)

def need_two(kind, c):
    if c < 2:
        raise ValueError(f"{kind} noise needs at least 2 classes to switch between, got "
                         f"n_classes={c}. Pass the size of the vocab as n_classes.")

def instance(noise, y, c, X, rng, _vocab):
    "PMD; 'exact' and 'per_class' flip whole numbers of items, 'bernoulli' draws as the published codes do"
    need_two('instance', c)
    legacy = noise.sampling == 'bernoulli'
    u,q,P = _pmd(y, X, c, noise.rate, rng, noise.seed, noise.features, noise.shared_W, not legacy)
    if legacy: i = np.flatnonzero(rng.random_sample(len(y)) < q)
    else:
        parts = []
        for g in _groups(noise, y, c):
            k = _how_many(noise, len(g))
            parts.append(g[_exactly(u[g], k, rng)])
        i = np.concatenate(parts)
    out = y.copy()
    out[i] = _pick(P[i], rng)
    return out, None

def _exactly(u, k, rng):
    if not k: return np.zeros(0, dtype=int)
    return _systematic(_rates(u, k/len(u)), k, rng)

def dependent(noise, y, c, X, rng, _vocab):
    "LogitClip's and ODNL's: samples chosen blindly, the new label by the image"
    need_two('dependent', c)
    i = choose(noise, y, c, rng)
    s = projections(y, X, c, noise.seed, noise.features, noise.shared_W, 'dependent')
    out = y.copy()
    out[i] = _pick(_softmax(s)[i], rng)
    return out, None

def model(noise, y, c, _X, _rng, _vocab):
    "Chen et al.: flip those whose best wrong class scores highest, to that class"
    need_two('model', c)
    p = noise.probs
    if p.shape != (len(y), c):
        raise ValueError(f"model noise expected `probs` of shape ({len(y)},{c}), one row per "
                         f"label, got {p.shape}. Use the probabilities of these very items in this "
                         "order.")
    p = p.copy()
    p[np.arange(len(y)), y] = -1
    score = p.max(1)
    out = y.copy()
    for g in _groups(noise, y, c):
        k = _how_many(noise, len(g))
        # [:0] takes none, the published [-0:] all
        i = g[np.argsort(-score[g], kind='stable')[:k]]
        out[i] = p[i].argmax(1)
    return out, None
