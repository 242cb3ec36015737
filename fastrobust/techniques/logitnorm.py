"LogitNorm: train on the direction of the logits alone, so that their norm stays a sign of the known"
# Paper: Wei et al., Mitigating Neural Network Overconfidence with Logit Normalization,
# arxiv.org/abs/2205.09310
# Stage: logits. Open sets and confidence, not label noise; not with LogitClip (the later undoes
# the earlier).
import math
import torch
from fastrobust.basics import as_f32, n_classes, need_number, robust_warn
from fastrobust.training.checks import smoothing
from fastrobust.training.technique import Technique

__all__ = ['normalize_logits', 'LogitNorm']

def _check(tau):
    need_number('tau', tau)
    if not tau > 0:
        raise ValueError(f"`tau` must be positive, got {tau}. The usual range is 0.01 to 0.1.")

def normalize_logits(
    z,              # Logits (bs,c)
    tau:float,      # Temperature, > 0: the logits get norm 1/tau
    eps:float=1e-7, # Added to the norm, as in the paper's code
    *,
    min_norm:float=0.   # Rows of a smaller norm are divided by this one; then no gradient passes 1.42/(tau min_norm)
):
    "z / (tau (||z||_2 + eps)) (arXiv 2205.09310)"
    _check(tau)
    z = as_f32(z)
    # the norm of a zero row has no gradient; the smallest float under the root makes it 0 instead
    # of NaN
    n = (z*z).sum(1, keepdim=True).clamp_min(torch.finfo(z.dtype).tiny).sqrt()
    return z/(tau*(n+eps).clamp_min(min_norm))

def norm_floor(n_classes, tau):
    "Smallest cross-entropy normalised logits can reach: log(1+(K-1)exp(-sqrt(K/(K-1))/tau))"
    if n_classes < 2:
        raise ValueError(f"`n_classes` must be at least 2, got {n_classes}. Count the outputs.")
    return math.log1p((n_classes-1)*math.exp(-math.sqrt(n_classes/(n_classes-1))/tau))

class LogitNorm(Technique):
    """Train on normalised logits (https://arxiv.org/abs/2205.09310); predictions and scores use the raw ones

    No safe choice against unknown images: on small networks it cost accuracy and the AUROC of near ones, and that of
    far ones rose or fell with the data and the score (nbs/benchmarks/RESULTS.md). The recipe 'ood' does without it."""
    against = 'unknown images'
    direction_only = True
    def __init__(self,
        tau:float=.04,      # Temperature; OpenOOD's default for CIFAR-10, smaller for more classes (.0085 for 100)
        *,
        min_norm:float=.1   # Rows of a smaller norm are divided by this one, so that a head of zeros can start; >= 0
    ):
        _check(tau)
        need_number('min_norm', min_norm)
        if not 0 <= min_norm < math.inf:
            raise ValueError(f"`min_norm` must be finite and at least 0, got {min_norm}. 0 is the paper's "
                             "form.")
        self.tau,self.min_norm = tau,min_norm

    def logits(self, z): return normalize_logits(z, self.tau, min_norm=self.min_norm)

    def check(self, learn):
        k = n_classes(learn.dls)
        if norm_floor(k, self.tau) > .05:
            robust_warn(f"LogitNorm(tau={self.tau}) with {k} classes cannot bring the loss below "
                        f"{norm_floor(k, self.tau):.3f}, so it may underfit. Take a smaller tau "
                        "(0.04 up to about 20 classes, 0.01 for 100).")
        self.check_smoothing(learn, k)

    def check_smoothing(self, learn, k):
        "Say where smoothing wants logits closer together than their norm: a common shift takes up the rest"
        eps = smoothing(learn)
        if not eps: return
        want = math.log1p(k*(1-eps)/eps)
        if want >= math.sqrt(k/(k-1))/self.tau: return
        robust_warn(f"LogitNorm expected a loss without label smoothing, got {eps:.3g} of it: the "
                    f"label's logit should be only {want:.1f} above the others, and the rest of the "
                    f"fixed norm ({1/self.tau:.3g}) goes into a shift that all classes share, so "
                    "the norm says little about classes. Leave the smoothing out.")
