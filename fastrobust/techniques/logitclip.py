"LogitClip: bound the norm of the logits, so that no label, right or wrong, pulls without limit"
# Paper: Wei et al., Mitigating Memorization of Noisy Labels by Clipping the Model Prediction,
# arxiv.org/abs/2212.04055
# Stage: logits. Combines with every base loss, AugMix, ODNL, two networks; not with LogitNorm,
# which undoes it.
import math
import torch
from torch import nn
from fastrobust.basics import as_f32, need_number, robust_warn
from fastrobust.training.technique import Technique

__all__ = ['clip_logits', 'clip_bounds', 'LogitClip']

def _check(tau, p):
    need_number('tau', tau)
    need_number('p', p)
    if not tau > 0:
        raise ValueError(f"`tau` must be positive, got {tau}. A large tau (100) leaves all logits "
                         "alone.")
    if not p >= 1: raise ValueError(f"`p` must be a norm, 1 <= p <= inf, got {p}.")

def clip_logits(
    z,          # Logits (bs,c)
    tau:float,  # Bound on the norm, > 0
    p:float=2.  # Which norm, 1 to inf; the paper's default is 2
):
    "Scale rows of `z` whose `p`-norm exceeds `tau` back onto the ball: z min(1, tau/||z||_p) (arXiv 2212.04055)"
    _check(tau, p)
    z = as_f32(z)
    n = torch.linalg.vector_norm(z, ord=p, dim=1, keepdim=True)
    # nothing is added to the norm (that would move the ball), and rows inside keep their value and
    # their gradient
    outside = n > tau
    scale = tau/torch.where(outside, n, torch.ones_like(n))
    return torch.where(outside, z*scale, z)

def clip_bounds(
    n_classes:int,  # Number of classes K
    tau:float       # Bound on the norm, any p >= 1
):
    "Bounds of cross-entropy on clipped logits: log(1+(K-1)e^-2tau) to log(1+(K-1)e^2tau), since |z_i| <= tau"
    _check(tau, 2)
    if n_classes < 2: raise ValueError(f"`n_classes` must be at least 2, got {n_classes}.")
    # log(1+(K-1)e^a) as a softplus, which does not overflow
    def log1p_exp(a):
        x = torch.tensor(math.log(n_classes-1)+a, dtype=torch.float64)
        return float(nn.functional.softplus(x))
    return log1p_exp(-2*tau),log1p_exp(2*tau)

class LogitClip(Technique):
    "Train on clipped logits (https://arxiv.org/abs/2212.04055); predictions and validation see the raw ones"
    against = 'wrong labels'
    def __init__(self,
        tau:float,      # Norm bound; the paper tunes 1/tau in 0.1 .. 5 on held-out noisy labels: see `find_tau`
        p:float=2.      # Which norm; the paper's default
    ):
        _check(tau, p)
        self.tau,self.p = tau,p

    def logits(self, z): return clip_logits(z, self.tau, self.p)

    def check(self, learn):
        base = learn.objective.loss_obj.base
        if not getattr(base, 'bounded', False): return
        bn = nn.modules.batchnorm._BatchNorm
        if any(isinstance(m, bn) for m in learn.model.modules()):
            robust_warn(f"LogitClip on the bounded {base} with batch norm: the loss forgives "
                        "already, and clipping can bring the memorisation back. Compare with and "
                        "without (`compare`).")
