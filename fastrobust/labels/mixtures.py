"Two Gaussians under the losses of a training set: rightly labelled items on the left, wrongly labelled on the right"
# DivideMix, https://arxiv.org/abs/2002.07394, takes the posterior of the low-mean Gaussian for the
# chance that a label is right. Two Gaussians can be laid under any losses, so the result says
# whether there really are two groups.
import warnings
from typing import NamedTuple
import numpy as np
from fastrobust.basics import robust_warn

__all__ = []

_MIN_ITEMS = 20     # a class with fewer is judged by the fit to all classes

def _log_joint(x, means, stds, weights):
    "log(weight * density) of each component (n,2)"
    x = np.asarray(x, dtype=float)
    z = (x[..., None]-means)/stds
    with np.errstate(divide='ignore'):
        return np.log(weights) - np.log(stds) - .5*z**2 - .5*np.log(2*np.pi)

def _two_means(x):
    "Which of the sorted values `x` are in the upper group of the best split into two (exact 2-means)"
    n = np.arange(1, len(x))
    s = np.cumsum(x)
    total,low = s[-1],s[:-1]
    between = low**2/n + (total-low)**2/(len(x)-n)
    return np.arange(len(x)) > between.argmax()

def gaussian_mixture(
    x,              # Values (n,), not all equal
    *,
    max_iter=1000,  # Steps of EM at most; scikit-learn has 100, DivideMix 10, too few where the groups overlap
    tol=1e-6,       # Stop when the mean log-likelihood gains less; scikit-learn 1e-3, DivideMix 1e-2
    reg=5e-4        # Added to the variances; DivideMix's, for values in [0,1]
):
    """Means, standard deviations and weights (2,) of two Gaussians fitted to `x` by EM, the lower mean first: that of
    scikit-learn, begun at the best split in two, so that nothing is left to chance"""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture
    x = np.sort(np.asarray(x, dtype=float))
    if x.ndim != 1 or not len(x) or not np.isfinite(x).all() or x[0] == x[-1]:
        raise ValueError("expected at least two different finite values (n,), got shape "
                         f"{x.shape}. Constant losses have no two groups.")
    up = _two_means(x)
    groups = x[~up],x[up]
    weights = np.array([len(g)/len(x) for g in groups])
    means = np.array([g.mean() for g in groups])
    stds = np.array([g.std() for g in groups])
    variances = stds**2 + reg

    if max_iter > 1:        # the groups were the first step
        em = GaussianMixture(2, covariance_type='spherical', tol=tol, reg_covar=reg,
                             max_iter=max_iter-1, weights_init=weights,
                             means_init=means[:, None], precisions_init=1/variances)
        with warnings.catch_warnings():
            # `max_iter` steps were asked for
            warnings.simplefilter('ignore', ConvergenceWarning)
            em.fit(x[:, None])
        weights,means,variances = em.weights_,em.means_[:, 0],em.covariances_

    order = np.argsort(means)
    return means[order],np.sqrt(variances[order]),weights[order]

class SmallLossSplit(NamedTuple):
    "Losses split in two groups; `clean[i]` where the chance that item i is in the group of small losses exceeds `p`"
    means:np.ndarray        # Of the two groups (2,), in units of the losses, small losses first
    stds:np.ndarray         # Their standard deviations (2,)
    weights:np.ndarray      # Their shares (2,): the second estimates the share of wrong labels
    # Chance of being in the group of small losses (n,); NaN where the loss is
    posterior:np.ndarray
    threshold:float         # Loss between the means where that chance is `p`; NaN if it is nowhere
    separated:bool          # Whether there really are two groups
    p:float                 # Chance from which an item counts as clean
    classes:dict            # Class -> its own split, if each class was split by itself
    @property
    def clean(self): return self.posterior > self.p
    @property
    def separation(self): return separation(self.means, self.stds, self.weights)

    def density(self, x):
        "Density of the two groups at losses `x`, each with its share (len(x),2)"
        return np.exp(_log_joint(x, self.means, self.stds, self.weights))

def separation(means, stds, weights):
    "Distance of the means in pooled standard deviations"
    return float((means[1]-means[0])/np.sqrt((weights*stds**2).sum()))

def _two_humps(means, stds, weights):
    "Whether the density dips between the means, to below .9 of the lower hump"
    # embedded Fashion-MNIST, 12 epochs: .92 to 1 on true labels, .58 to .86 with 20 or 40 %
    # symmetric noise; heavy tails alone can be two pooled standard deviations apart
    x = np.linspace(*means, 200)
    d = np.exp(_log_joint(x, means, stds, weights)).sum(1)
    return bool(d.min() < .9*min(d[0], d[-1]))

def _threshold(means, stds, weights, p):
    "Value between the means where the chance of the lower group falls to `p`, by bisection; NaN if it does not"
    def at(v):
        low,up = _log_joint(v, means, stds, weights)
        return low - up - np.log(p/(1-p))

    lo,hi = means
    if not at(lo) > 0 > at(hi): return float('nan')
    for _ in range(60):
        mid = (lo+hi)/2
        if at(mid) > 0: lo = mid
        else: hi = mid
    return float((lo+hi)/2)

def _fit(l, p, **kw):
    "Split of finite losses `l`: clipped at their 99.9 % quantile and scaled to [0,1] for the fit, scaled back after it"
    lo,hi = l.min(),np.quantile(l, .999)
    if hi <= lo: hi = l.max()
    if hi <= lo:
        means,stds,weights = np.array([lo, lo]),np.zeros(2),np.array([1., 0.])
        post = np.ones(len(l))
        return SmallLossSplit(means, stds, weights, post, float('nan'), False, p, {})

    k = hi-lo
    x = np.clip((l-lo)/k, 0, 1)
    means,stds,weights = gaussian_mixture(x, **kw)
    low,up = _log_joint(x, means, stds, weights).T
    post = np.exp(low-np.logaddexp(low, up))
    ok = separation(means, stds, weights) >= 2 and _two_humps(means, stds, weights)
    at = _threshold(means, stds, weights, p)
    return SmallLossSplit(lo+k*means, k*stds, weights, post, float(lo+k*at), ok, p, {})

def _warn_one_group(res):
    why = "all losses are equal"
    if res.stds.any():
        why = (f"the means are {res.separation:.1f} pooled standard deviations apart (2 make two "
               "groups) or the density does not dip between them")
    robust_warn(f"no separation: {why}. The chances of being clean mean little here: few labels "
                "are wrong, or the network has not learned enough yet, or has memorised the wrong "
                "labels already.")

def small_loss_split(
    losses,         # Loss of each item (n,); NaN: not measured
    labels=None,    # Given labels (n,): split each class by itself (imbalance, easy and hard classes); None: all as one
    *,
    p:float=.5,     # Items with a larger chance count as clean; DivideMix .5, .6 at 90 % noise
    warn:bool=True, # Warn where there are no two groups?
    **kwargs        # `max_iter`, `tol`, `reg` of `gaussian_mixture`
)->SmallLossSplit:
    "The losses as a mixture of a clean and a noisy Gaussian; constant losses are all clean, with a warning"
    if hasattr(losses, 'detach'): losses = losses.detach().cpu()
    l = np.asarray(losses, dtype=float)
    seen = ~np.isnan(l)
    if l.ndim != 1 or not seen.any() or np.isinf(l).any():
        raise ValueError("expected one finite loss per item (n,), NaN where it is unknown, got "
                         f"shape {l.shape} with {int(seen.sum())} known and "
                         f"{int(np.isinf(l).sum())} infinite. Did training diverge?")
    if not 0 < p < 1: raise ValueError(f"`p` must lie in (0,1), got {p}. .5 is DivideMix's.")

    res = _fit(l[seen], p, **kwargs)
    if warn and not res.separated: _warn_one_group(res)
    post = np.full(len(l), np.nan)
    post[seen] = res.posterior
    if labels is None: return res._replace(posterior=post)

    y = np.asarray(labels)
    if y.shape != l.shape:
        raise ValueError(f"expected one label per loss, ({len(l)},), got shape {y.shape}. Select "
                         "both alike.")
    parts = {}
    for k in np.unique(y[seen]):
        own = seen & (y == k)
        if own.sum() < _MIN_ITEMS: continue
        part = _fit(l[own], p, **kwargs)
        parts[k.item()] = part
        post[own] = part.posterior
    return res._replace(posterior=post, classes=parts)
