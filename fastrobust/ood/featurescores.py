"Scores that compare the features of an image with those of the training images"
# f: features (n,d), what the last linear layer z = f W' + b is given. Fits and distances are in
# float64.
import numpy as np
import torch
from torch.nn.functional import normalize
from fastrobust.basics import need_number, need_whole, robust_warn
from fastrobust.ood.logitscores import OODScore, energy_score

__all__ = ['Mahalanobis', 'KNN', 'ViM', 'ReAct', 'FDBD']

def _finite(f, what):
    bad = int((~f.isfinite()).any(1).sum())
    if bad:
        raise ValueError(f"expected finite {what}, got NaN or infinity in {bad} of {len(f)} rows. "
                         "Did training diverge, or half precision overflow? Look at these images "
                         "in float32.")
    return f

def _spread(x, size):
    "Eigenvalues, ascending, and eigenvectors of x'x/n; and which are more than rounding of features as large as `size`"
    eig,vec = torch.linalg.eigh(x.T @ x/len(x))
    noise = (torch.finfo(torch.float32).eps*size)**2
    rounding = len(eig)*torch.finfo(eig.dtype).eps*eig[-1]
    return eig,vec,eig > torch.maximum(noise, rounding)

class _FeatureScore(OODScore):
    "What all of them share: their inputs, checked"
    features = True
    _d = None       # Features per image; None before `fit`
    _wide = 1       # Numbers per image that scoring takes, where these are more than its features

    def fit(self,
        train,      # `Outputs` of known images with features, those of training; of mahalanobis with labels
        head=None   # `LinearHead` that the features go into; mahalanobis and knn need none
    ):              # Itself
        "Learn what the features of known images look like"
        self._d = None
        f = self._f(train).double()
        if not f.numel():
            raise ValueError(f"expected training images for `{self.name}`, got none. Give "
                             "`fit_dl=`.")
        self._learn(f, train, head)
        self._d = f.shape[1]
        return self

    def _f(self, out):
        "Features of `out`, checked"
        if out.f is None:
            raise ValueError(f"expected features for `{self.name}`, got outputs of a model without "
                             "a last linear layer. Take the scores of logits alone: msp, maxlogit, "
                             "energy, odin, gen.")
        other = out.f.ndim != 2 or len(out.f) != len(out.z)
        if other or (self._d and out.f.shape[1] != self._d):
            raise ValueError(f"expected features ({len(out.z)},{self._d or 'd'}) for "
                             f"`{self.name}`, got {tuple(out.f.shape)}. Collect both of the same "
                             "images, from the network of the fit.")
        return _finite(out.f.detach(), 'features')

    def _rows(self, out, room=2**22):
        "Features of images to score, float64, as many at a time as `room` has numbers for"
        if self._d is None:
            raise ValueError(f"expected a fitted score, got `{self.name}` without training "
                             "features. Call `.fit(train, head)` first.")
        n = max(1, room//max(self._d, self._wide))
        return (o.double() for o in self._f(out).split(n))

    def _head(self, head, d):
        "Weight and bias of the last layer, float64"
        if head is None or head.W.shape[1] != d:
            got = 'none' if head is None else tuple(head.W.shape)
            raise ValueError(f"expected the last layer, weights (c,{d}), for `{self.name}`, got "
                             f"{got}. Give the `LinearHead` whose input the features are; "
                             "mahalanobis and knn need none.")
        return head.W.detach().double(),head.b.detach().double()

class Mahalanobis(_FeatureScore):
    """Minus the squared Mahalanobis distance to the nearest class mean, one covariance for all classes
    (Lee et al., https://arxiv.org/abs/1807.03888). Directions in which no class varies (dead units) do not count"""
    name = 'mahalanobis'
    def __init__(self,
        normalised:bool=False # Features scaled to length 1, which is Mahalanobis++ (https://arxiv.org/abs/2505.18032)?
    ):
        if not isinstance(normalised, bool):
            raise TypeError(f"`normalised` must be True or False, got {normalised!r}. True scales "
                            "features to length 1.")
        self.normalised = normalised
        if normalised: self.name = 'mahalanobis++'

    def _scaled(self, f): return normalize(f) if self.normalised else f

    def _learn(self, f, train, head):
        f,y = self._scaled(f),train.y
        if y is None or y.shape != f.shape[:1]:
            got = 'none' if y is None else tuple(y.shape)
            raise ValueError(f"expected a label for each of {len(f)} training images for "
                             f"`{self.name}`, got {got}. Fit on labelled images; knn needs no "
                             "labels.")
        # a class without images has no mean
        _,y = y.unique(return_inverse=True)
        total = f.new_zeros(int(y.max())+1, f.shape[1])
        total.index_add_(0, y, f)
        mean = total/y.bincount()[:,None]
        eig,vec,ok = _spread(f-mean[y], f.abs().max())
        if not ok.any():
            raise ValueError(f"expected features that vary within classes for `{self.name}`, got "
                             f"{len(f)} that do not. Fit on more images than classes.")
        # pseudo-inverse, no shrinkage
        self._origin = mean.mean(0)
        self._white = vec[:,ok]/eig[ok].sqrt()
        self._means = (mean-self._origin) @ self._white

    def __call__(self, out):
        return torch.cat([self._nearest(f) for f in self._rows(out)])

    def _nearest(self, f):
        far = torch.cdist((self._scaled(f)-self._origin) @ self._white, self._means)
        return -far.amin(1)**2

class KNN(_FeatureScore):
    """Minus the distance to the k-th nearest of all training features, scaled to length 1
    (Sun et al., https://proceedings.mlr.press/v162/sun22d.html)"""
    name = 'knn'
    def __init__(self,
        k:int=50 # Which neighbour; the paper's for CIFAR-10, more for more classes
    ): self.k = need_whole('k', k, 1, what='neighbours')

    def _learn(self, f, train, head):
        if self.k > len(f):
            raise ValueError(f"expected at least k={self.k} training images for `knn`, got "
                             f"{len(f)}. Fit on more, or take KNN(k) with k <= {len(f)}.")
        # a row of distances, and nine candidates
        self._bank = normalize(f)
        self._wide = len(f)+9*f.shape[1]

    def __call__(self, out):
        rows = self._rows(out)
        bank = self._bank.float()
        return torch.cat([self._kth(normalize(f), bank) for f in rows])

    def _kth(self, f, bank, pad=4):
        "float32 finds the candidates, four ranks either side of the k-th; float64 says how far they are"
        n = min(self.k+pad, len(bank))
        near = (f.float() @ bank.T).topk(n, 1).indices
        near = near[:,max(0, self.k-1-pad):]
        d = (self._bank[near]-f[:,None]).norm(dim=2).sort(1).values
        return -d[:,min(self.k-1, pad)]

def _principal(d, rank):
    "Dimensions of the principal space: the authors' number, or half of what there is where that leaves nothing over"
    dim = 1000 if d >= 2048 else 512
    return dim if dim < rank else rank//2

class ViM(_FeatureScore):
    """Energy minus the virtual logit: how far features lie outside the principal space of the training features, times
    alpha (Wang et al., https://arxiv.org/abs/2203.10807)"""
    name = 'vim'
    def __init__(self,
        dim:int=None # Of the principal space; None: 1000 if d >= 2048 else 512 (the authors' code), half of fewer
    ): self.dim = None if dim is None else need_whole('dim', dim, 1, what='dimensions')

    def _learn(self, f, train, head):
        W,b = self._head(head, f.shape[1])
        # W was float32
        rtol = max(W.shape)*torch.finfo(torch.float32).eps
        self._origin = -torch.linalg.pinv(W, rtol=rtol) @ b
        x = f-self._origin
        d = f.shape[1]
        _,vec,ok = _spread(x, f.abs().max())
        rank = int(ok.sum())
        dim = self.dim or _principal(d, rank)
        if not 0 < dim < rank:
            raise ValueError(f"expected `dim` of ViM below {rank}, the dimensions of {d} that the "
                             f"training features fill, got {dim}. Give ViM(dim) less, or fit on "
                             "more images.")
        self._outside = vec[:,:d-dim]
        size = float(train.z.double().amax(1).mean())
        if size <= 0:
            raise ValueError("expected largest logits above 0 on average for `vim`, got "
                             f"{size:.3g}: alpha would reward what is far from the training "
                             "images. Take other scores for this network.")
        self._alpha = size/float(self._norm(x).mean())      # as large on average

    def _norm(self, x): return (x @ self._outside).norm(dim=1)

    def __call__(self, out):
        far = torch.cat([self._norm(f-self._origin) for f in self._rows(out)])
        return energy_score(out.z)-self._alpha*far

class ReAct(_FeatureScore):
    "Energy of features clipped from above (Sun et al., https://arxiv.org/abs/2111.12797)"
    name = 'react'
    def __init__(self,
        percentile:float=90 # Of all training activations, in (0,100); 90 in the paper
    ):
        need_number('percentile', percentile)
        if not 0 < percentile < 100:
            raise ValueError(f"`percentile` must lie in (0,100), got {percentile}. 90 is the "
                             "paper's; at 100 nothing is clipped and energy is left.")
        self.percentile = percentile

    def _learn(self, f, train, head):
        self._W,self._b = self._head(head, f.shape[1])
        self._clip = float(np.percentile(f.cpu().numpy(), self.percentile))
        if self._clip <= f.min():
            robust_warn(f"{self.percentile} % of the training activations are {self._clip:.3g}, "
                        "their lowest value: ReAct clips all there is, and its scores are all the "
                        "same. Give it a higher percentile.")

    def _clipped(self, f):
        "Logits of clipped features"
        return f.clamp(max=self._clip) @ self._W.T + self._b

    def __call__(self, out):
        return torch.cat([energy_score(self._clipped(f)) for f in self._rows(out)])

class FDBD(_FeatureScore):
    """fDBD: mean distance of the features to the boundaries between their class and each other one, over their distance
    to the mean of the training features (Liu & Qin, https://arxiv.org/abs/2312.11536)"""
    name = 'fdbd'

    def _learn(self, f, train, head):
        W,b = self._head(head, f.shape[1])
        c = len(W)
        # nearer than that, two rows are one: no boundary lies between their classes
        self._same = 1e-6*float(W.norm(dim=1).max())
        if (W-W[:1]).norm(dim=1).max() <= self._same:
            raise ValueError("expected a last layer that tells classes apart for `fdbd`, got equal "
                             f"weights of all {c}, so no boundary. Train the head first.")
        self._W,self._b = W-W.mean(0),b     # what is common to all tells none apart
        self._wide = 3*c
        self._mean = f.mean(0)
        self._least = torch.finfo(torch.float32).eps*float(f.abs().max())
        if (f-self._mean).norm(dim=1).max() <= self._least:
            raise ValueError("expected training features that differ for `fdbd`, got "
                             f"{len(f)} that do not. Fit on more images.")

    def __call__(self, out):
        return torch.cat([self._apart(f) for f in self._rows(out)])

    def _apart(self, f):
        "A class without a boundary does not count; at the mean itself the distance to it is the least of float32"
        z = f @ self._W.T + self._b
        top,k = z.max(1, keepdim=True)
        ks,which = k[:,0].unique(return_inverse=True)
        rows = torch.cdist(self._W[ks], self._W)[which]     # |w_k - w_c| (b,c)
        other = rows > self._same
        far = torch.where(other, (top-z)/rows, 0.)
        mean = far.sum(1)/other.sum(1).clamp(min=1)
        return mean/(f-self._mean).norm(dim=1).clamp(min=self._least)
