"Label noise that depends on the image: random projections (PMD, LogitClip's 'dependent') and a model's own confusions"
# PMD: Xia et al., Part-dependent Label Noise, https://arxiv.org/abs/2006.07836. Dependent:
# LogitClip's official code. Model: Chen et al., Beyond Class-Conditional Assumption (SEAL),
# https://arxiv.org/abs/2012.05458
import math
import numpy as np
import torch
from fastai.callback.core import Callback
from fastrobust.noise.classmaps import check_rate
from fastrobust.data.reading import int_labels
from fastrobust.predictions import as_array, need_distributions
from fastrobust.inference.passes import training_probs
from fastrobust.training.recording import fit_starts

__all__ = []

FEATURES = ('unit', 'norm', 'raw')

# --- images as numbers ----------------------------------------------------------------------------
def _check_X(X, n, kind):
    if X is None:
        raise ValueError(f"{kind} noise depends on the images, got none. Pass `X` (n,..), or use add_label_noise.")
    if len(X) != n:
        raise ValueError(f"expected one image for each of the {n} labels, got {len(X)}. Select both alike.")
    return X.detach().cpu().numpy() if isinstance(X, torch.Tensor) else np.asarray(X)

def _step(X): return max(1, 2**22 // max(1, X[0].size))    # items held as float64 at once: 32 MB

def _scaler(X, features, channel):
    "A function of positions: rows (k,S) of float64 features"
    axis = [i for i in range(X.ndim) if X.ndim < 4 or i != channel % X.ndim]
    shape = [1 if i in axis else s for i,s in enumerate(X.shape)]
    parts = [X[i:i+_step(X)] for i in range(0, len(X), _step(X))]
    s = sum(o.sum(tuple(axis), dtype=np.float64) for o in parts)
    n = X.size/np.size(s)
    mean = (s/n).reshape(shape)
    std = np.sqrt(sum(np.square(o-mean).sum(tuple(axis)) for o in parts)/n).reshape(shape).clip(1e-12)
    def rows(i):
        f = X[i].astype(np.float64)
        if features != 'raw': f = (f-mean)/std
        f = f.reshape(len(i), -1)
        return f if features != 'unit' else f/np.linalg.norm(f, axis=1, keepdims=True).clip(1e-12)
    return rows

def projections(y, X, c, seed, features='unit', shared=False, kind='instance', channel=None):
    "Scores (n,c) of the wrong classes, `x_i @ W[y_i]`, -inf at `y_i`; W ~ N(0,1) depends on the seed alone"
    if channel is None: channel = 1 if isinstance(X, torch.Tensor) else -1
    X = _check_X(X, len(y), kind)
    rng,rows = np.random.RandomState([seed, 1, 1]),_scaler(X, features, channel)
    s,S = np.full((len(y), c), -np.inf),int(np.prod(X.shape[1:]))
    W = None
    for k in range(c):          # one class at a time, in pieces: the memory stays small
        if W is None or not shared: W = rng.standard_normal((S, c))
        idxs = np.flatnonzero(y==k)
        for i in range(0, len(idxs), _step(X)): s[idxs[i:i+_step(X)]] = rows(idxs[i:i+_step(X)]) @ W
    s[np.arange(len(y)), y] = -np.inf
    return s

def _softmax(s):
    p = np.exp(s-s.max(1, keepdims=True))
    return p/p.sum(1, keepdims=True)

def _pick(P, rng):
    "One column of each row of `P`, by inverse transform"
    return (P.cumsum(1)[:,:-1] <= rng.random_sample(len(P))[:,None]*P.sum(1, keepdims=True)).sum(1)

# --- rates of single items ------------------------------------------------------------------------
def truncated_normal(u, loc, sd=.1):
    "Quantiles at `u` of the normal with mode `loc`, cut to [0,1]"
    if loc > .5: return 1-truncated_normal(1-u, 1-loc, sd)
    u,edge = torch.as_tensor(u, dtype=torch.float64),torch.tensor([loc, loc-1], dtype=torch.float64)
    # shares above 0 and 1; exact far out, where ndtr gives 0
    s0,s1 = torch.special.erfc(-edge/sd/2**.5)/2
    return (loc - sd*torch.special.ndtri(s0 - u*(s0-s1))).clamp(0, 1).numpy()

def _rates(u, target, sd=.1):
    "Truncated normal rates at quantiles `u` whose mean is `target`: bisection for the location"
    if target > .5: return 1-_rates(1-u, 1-target, sd)
    lo,hi = -3.5,1.5
    for _ in range(50):
        mid = (lo+hi)/2
        lo,hi = (mid, hi) if truncated_normal(u, mid, sd).mean() < target else (lo, mid)
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
    rate,y = check_rate('instance', rate),int_labels(y, n_classes)
    _,q,P = _pmd(y, X, n_classes, rate, np.random.RandomState(seed), seed, features, shared, solve)
    P *= q[:,None]
    P[np.arange(len(y)), y] = 1-q
    return P

def _pmd(y, X, c, rate, rng, seed, features, shared, solve):
    P = _softmax(projections(y, X, c, seed, features, shared))
    u = rng.random_sample(len(y))
    q = _rates(u, rate) if solve and rate else np.zeros(len(y)) if not rate else truncated_normal(u, rate)
    return u,q,P

# --- samplers -------------------------------------------------------------------------------------
def choose(noise, y, c, rng):
    "Positions of the samples whose label is to be drawn anew"
    r = noise.rate
    if noise.sampling == 'bernoulli': return np.flatnonzero(rng.random_sample(len(y)) < r)
    if noise.sampling == 'exact': return rng.permutation(len(y))[:int(r*len(y))]
    return np.concatenate([rng.permutation(i)[:math.ceil(r*len(i) - 1e-8)]
                           for i in (np.flatnonzero(y==k) for k in range(c))])

def need_two(kind, c):
    if c < 2:
        raise ValueError(f"{kind} noise needs at least 2 classes to switch between, got "
                         f"n_classes={c}. Pass the size of the vocab as n_classes.")

def instance(noise, y, c, X, rng, vocab):
    "PMD; 'exact' and 'per_class' flip whole numbers of items, 'bernoulli' draws as the published codes do"
    need_two('instance', c)
    legacy,out = noise.sampling == 'bernoulli',y.copy()
    u,q,P = _pmd(y, X, c, noise.rate, rng, noise.seed, noise.features, noise.shared_W, not legacy)
    if legacy: i = np.flatnonzero(rng.random_sample(len(y)) < q)
    elif noise.sampling == 'exact': i = _exactly(u, int(noise.rate*len(y)), rng)
    else:
        ks = [np.flatnonzero(y==k) for k in range(c)]
        i = np.concatenate([k[_exactly(u[k], math.ceil(noise.rate*len(k) - 1e-8), rng)] for k in ks])
    out[i] = _pick(P[i], rng)
    return out, None

def _exactly(u, k, rng):
    return _systematic(_rates(u, k/len(u)), k, rng) if k else np.zeros(0, dtype=int)

def dependent(noise, y, c, X, rng, vocab):
    "LogitClip's and ODNL's: samples chosen blindly, the new label by the image"
    need_two('dependent', c)
    i,out = choose(noise, y, c, rng),y.copy()
    P = _softmax(projections(y, X, c, noise.seed, noise.features, noise.shared_W, 'dependent'))
    out[i] = _pick(P[i], rng)
    return out, None

def model(noise, y, c, X, rng, vocab):
    "Chen et al.: flip those whose best wrong class scores highest, to that class"
    need_two('model', c)
    p = noise.probs
    if p.shape != (len(y), c):
        raise ValueError(f"model noise expected `probs` of shape ({len(y)},{c}), one row per "
                         f"label, got {p.shape}. Use the probabilities of these very items in this "
                         "order.")
    p,out = p.copy(),y.copy()
    p[np.arange(len(y)), y] = -1
    score = p.max(1)
    groups = [np.arange(len(y))] if noise.sampling == 'exact' else [np.flatnonzero(y==k) for k in range(c)]
    for g in groups:
        k = int(noise.rate*len(g)) if noise.sampling == 'exact' else math.ceil(noise.rate*len(g) - 1e-8)
        # [:0] takes none, the published [-0:] all
        i = g[np.argsort(-score[g], kind='stable')[:k]]
        out[i] = p[i].argmax(1)
    return out, None

# --- a model's probabilities ----------------------------------------------------------------------
class AverageProbs(Callback):
    "Averages the probabilities of the training items over the epochs, one more pass each: `.probs` (n,c) by position"
    remove_on_fetch = True
    def before_fit(self):
        self.on = fit_starts(self.learn) and not hasattr(self.learn, 'lr_finder')
        if self.on: self.probs,self.n = 0.,0

    def after_epoch(self):
        if not self.on: return
        self.probs,self.n = (self.probs*self.n + training_probs(self.learn, 'AverageProbs'))/(self.n+1),self.n+1

def mean_probs(
    source  # A fitted Learner (with `AverageProbs`: over its epochs; else as it is), an array (n,c) or a list of them
) -> np.ndarray: # (n,c) float64, rows sum to 1, by position in the training set
    "Averaged probabilities for model-based noise"
    if hasattr(source, 'dls'):
        cb = next((o for o in source.cbs if isinstance(o, AverageProbs) and getattr(o, 'n', 0)), None)
        return training_probs(source, 'model noise') if cb is None else cb.probs.copy()
    ps = source if isinstance(source, (list, tuple)) and np.ndim(source[0]) == 2 else [source]
    p = np.mean([as_array(o).astype(np.float64) for o in ps], axis=0)
    if p.ndim != 2 or not p.size:
        raise ValueError(f"expected probabilities (n,c), one row per item, got shape {p.shape}. "
                         "Pass the softmax of the logits, or the Learner itself.")
    need_distributions(p)
    return p
