"The temperature that fits labelled logits best, alone or with a constant a class: convex, so surely found"
import warnings
import numpy as np
import torch
import torch.nn.functional as F
from fastrobust.basics import RobustWarning, robust_warn
from fastrobust.data.editing import stratified_folds
from fastrobust.predictions import need_logits

__all__ = []

_ROWS = 2**22       # Numbers held in float64 at once

def _slope(d, b):
    "First and second derivative by b = 1/T of the mean NLL of softmax(b z); d = z - z_y: E_p[d], and its variance"
    g,h = 0.,0.
    for r in d.split(max(1, _ROWS//d.shape[1])):
        p = (b*r).softmax(1)
        m = (p*r).sum(1, keepdim=True)
        g = g + m.sum().item()
        h = h + (p*(r-m)**2).sum().item()
    return g/len(d),h/len(d)

def _root(f, lo, hi, b):
    "Where increasing f = (value, slope) crosses 0 in [lo,hi]: Newton, halved geometrically where it leaves the bracket"
    for _ in range(200):
        g,h = f(b)
        lo,hi = (b, hi) if g < 0 else (lo, b)
        new = b - g/h if h > 0 else hi
        if not lo < new < hi: new = (lo*hi)**.5
        if g == 0 or abs(new-b) <= 1e-13*b: break
        b = new
    return b

def _all_right(d, hi):
    "1/T where the likelihood has no maximum: as it is, or sharper, up to a mean confidence of (n+1)/(n+2)"
    sure = (len(d)+1)/(len(d)+2)
    def more(b):
        conf = (b*d).softmax(1).amax(1)
        return conf.mean().item()-sure,0.

    if more(1.)[0] >= 0: b = 1.
    elif more(hi)[0] <= 0: b = hi
    else: b = _root(more, 1., hi, 1.)
    robust_warn(f"all {len(d)} labels have the largest logit: the likelihood grows for ever as T "
                f"falls. T = {1/b:.4g}, no smaller than what brings the mean confidence to "
                "(n+1)/(n+2): so many right answers show no more. Fit on more items, and not on "
                "those trained on.")
    return b

def fit_temperature(
    z,      # Raw logits (n,c), of items the network was not trained on
    y       # True labels int (n,)
)->float:   # Above 0; with a warning where there is no minimum, or none from 1/1000 to 1000 times the logits' range
    "The T that minimises the negative log-likelihood of softmax(z/T), in float64; convex in 1/T, so surely found"
    z,y = need_logits(z, y)
    d = z - z.gather(1, y[:, None])
    spread = (z.amax(1)-z.amin(1)).pow(2).mean().sqrt().item()
    if spread == 0:
        robust_warn("the logits of each item are all the same, so no temperature changes anything: "
                    "T = 1.")
        return 1.

    lo,hi = min(1e-3/spread, 1.),max(1e3/spread, 1.)
    if d.max() <= 0: return 1/_all_right(d, hi)

    slope = lambda b: _slope(d, b)
    if slope(lo)[0] >= 0:
        robust_warn(f"the logits say nothing, or the wrong thing, about these {len(d)} labels: the "
                    f"likelihood grows with T without end. T = {1/lo:.4g}. Are the classes in the "
                    "order of the training?")
        return 1/lo
    if slope(hi)[0] <= 0:
        robust_warn(f"nearly all {len(d)} labels have the largest logit: the best T is below "
                    f"{1/hi:.4g}, which is taken. Fit on more items, and not on those trained on.")
        return 1/hi
    return 1/_root(slope, lo, hi, (lo*hi)**.5)

def cross_fit_logits(z, y, n_folds=2, seed=0):
    "(T by which each fold is divided (n_folds,), z/T float64 (n,c)), T of a fold fitted on the other folds"
    z,y = need_logits(z, y)
    fold = stratified_folds(y.numpy(), n_folds, seed)
    T = np.array([fit_temperature(z[fold != k], y[fold != k]) for k in range(n_folds)])
    return T,z/torch.from_numpy(T[fold])[:, None]

def cross_fit(
    z,              # Raw logits (n,c)
    y,              # True labels int (n,)
    n_folds:int=2,  # Parts, 2 to n, stratified by label
    *,
    seed:int=0      # Of the parts; a generator of its own
)->tuple:           # (T of each fold (n_folds,), probabilities float64 (n,c))
    "Calibrated probabilities of every item, with a T that was fitted without it: on the other folds"
    T,z = cross_fit_logits(z, y, n_folds, seed)
    return T,z.softmax(1)

# --- with a constant a class ----------------------------------------------------------------------
def fit_scores(
    z,      # Scores (n,c) of items by who has not seen them
    y,      # Their labels int (n,)
    rows=20_000, # Items that are asked; more change the third digit
    ridge=1e-3 # Penalty on b^2: of a class with few items little is known
)->tuple:   # (T, b float64 (c,)): softmax(z/T + b) are probabilities
    """The temperature and constants that make the labels most likely. Least squares on one-hot labels give a rare class
    scores that are too low, the constants make up for it"""
    z = torch.as_tensor(z)
    step = -(-len(z)//min(rows, max(2*_ROWS//z.shape[1], 1)))
    z,y = need_logits(z[::step], y[::step])
    with warnings.catch_warnings():
        # where all are right or all alike, that of the edge is as good as any
        warnings.simplefilter('ignore', RobustWarning)
        T = fit_temperature(z, y)
    z = z/T
    slope = torch.ones((), dtype=torch.float64, requires_grad=True)
    b = torch.zeros(z.shape[1], dtype=torch.float64, requires_grad=True)
    opt = torch.optim.LBFGS([slope, b], max_iter=100, line_search_fn='strong_wolfe')
    def loss():
        opt.zero_grad()
        l = F.cross_entropy(slope*z + b, y) + ridge*(b**2).sum()
        l.backward()
        return l

    with torch.enable_grad(): opt.step(loss)
    factor,b = slope.item(),b.detach()
    # scores that say nothing keep their T
    if not (factor > 0 and torch.isfinite(b).all()): return T,torch.zeros_like(b)
    return T/factor,b
