"Scores of logits alone, higher for what looks more in-distribution, and what every score has in common"
# z: raw logits (n,c), never those a training loss normalised. All is computed in float64, for a
# float32 softmax of large logits returns exactly 1.0 again and again, and the ties cost AUROC.
import torch
from torch import Tensor
from fastrobust.basics import need_number, need_whole
from fastrobust.resting import at_rest

__all__ = ['OODScore', 'MSP', 'MaxLogit', 'Energy', 'ODIN', 'GEN']

# --- the equations --------------------------------------------------------------------------------
def _positive(name, v):
    need_number(name, v)
    if not 0 < v < float('inf'):
        raise ValueError(f"`{name}` must be positive and finite, got {v}. The default is the "
                         "paper's.")
    return float(v)

def _by_rows(score, z):
    "`score` of the rows of `z` in float64, some at a time: no second copy of a large `z`"
    if not isinstance(z, Tensor) or not z.is_floating_point():
        raise TypeError("expected logits as a float tensor, got "
                        f"{getattr(z, 'dtype', type(z).__name__)}. Predicted classes and numpy "
                        "arrays are none: collect raw logits.")
    z = z.detach().as_subclass(Tensor)
    if z.ndim != 2 or z.shape[1] < 2:
        raise ValueError(f"expected logits (n,c) with c >= 2, got {tuple(z.shape)}. Give a yes/no "
                         "task two outputs.")
    bad = int((~z.isfinite()).any(1).sum())
    if bad:
        raise ValueError(f"expected finite logits, got NaN or infinity in {bad} of {len(z)} rows. "
                         "Did training diverge, or half precision overflow? Look at these images "
                         "in float32.")
    n = max(1, 2**20//z.shape[1])
    return torch.cat([score(o.double()) for o in z.split(n)])

def _log_odds(z):
    "Log odds of the largest probability: -logsumexp over the others of z_j - z_k"
    top,k = z.max(1, keepdim=True)
    return -(z-top).scatter(1, k, float('-inf')).logsumexp(1)

def msp_score(
    z   # Logits (n,c), c >= 2, any float type
)->Tensor: # float64 (n,)
    """Maximum softmax probability (Hendrycks & Gimpel, https://arxiv.org/abs/1610.02136) as its log odds, which rank
    alike and do not saturate; sigmoid of it is the probability"""
    return _by_rows(_log_odds, z)

def maxlogit_score(
    z   # Logits (n,c), c >= 2, any float type
)->Tensor: # float64 (n,)
    "The largest logit (Hendrycks et al., https://arxiv.org/abs/1911.11132)"
    return _by_rows(lambda z: z.amax(1), z)

def energy_score(
    z,          # Logits (n,c), c >= 2, any float type
    T:float=1.  # Temperature; 1 in the paper. Neither that of a training loss nor that of calibration
)->Tensor:      # float64 (n,)
    "Negative energy T logsumexp(z/T) (Liu et al., NeurIPS 2020, https://arxiv.org/abs/2010.03759)"
    T = _positive('T', T)
    return _by_rows(lambda z: T*(z/T).logsumexp(1), z)

def odin_score(
    z,              # Logits (n,c), c >= 2, any float type
    T:float=1000.   # Temperature; 1000 in the paper
)->Tensor:          # float64 (n,)
    "Maximum softmax probability of z/T, as its log odds (Liang et al., https://arxiv.org/abs/1706.02690)"
    T = _positive('T', T)
    return _by_rows(lambda z: _log_odds(z/T), z)

def _gen(z, gamma, M):
    logp = z.log_softmax(1)
    top,k = logp.max(1, keepdim=True)
    # ln(1-p) of the largest p, however near 1
    rest = logp.scatter(1, k, float('-inf')).logsumexp(1, keepdim=True)
    # the others are at most 1/2
    lognot = (-logp.exp()).log1p().scatter(1, k, rest)
    top,at = logp.topk(min(M, z.shape[1]), 1)
    return -(gamma*(top+lognot.gather(1, at))).exp().sum(1)

def gen_score(
    z,              # Logits (n,c), c >= 2, any float type
    gamma:float=.1, # Power, in (0,1) in the paper; its value
    M:int=None      # How many of the largest probabilities count; None: 100, the paper's for ImageNet, or all of fewer
)->Tensor:          # float64 (n,), in [-M,0]
    """Negative generalised entropy, -sum p^gamma (1-p)^gamma over the M largest p
    (Liu, Lochman & Zach, CVPR 2023, https://github.com/XixiLiu95/GEN)"""
    gamma = _positive('gamma', gamma)
    if M is None: M = 100
    else: M = need_whole('M', M, 1, what='largest probabilities')
    return _by_rows(lambda z: _gen(z, gamma, M), z)

# --- scores as objects ----------------------------------------------------------------------------
class OODScore:
    "A score of `Outputs`, higher for what looks more in-distribution; subclass it for one of your own"
    name = 'score'      # In tables and of `OOD_SCORES`
    features = False    # Does it need `Outputs.f` and the training features?

    def fit(self,
        train,      # `Outputs` of known images, those of training
        head=None   # `LinearHead`, the last linear layer
    ):              # Itself
        "Learn what known images look like; nothing to learn from logits alone"
        return self

    def __call__(self,
        out     # `Outputs` of n images
    )->Tensor:  # float64 (n,)
        "One score per image"
        raise TypeError(f"expected {type(self).__name__} to define `__call__(self, out)`, got a "
                        "score without it. Return one number per row of `out.z`, higher for known "
                        "images.")

    def input_step(self,
        model,  # The network
        x       # A batch as it sees it, normalised
    ):          # The changed batch, or None: nothing is changed, so that no further pass is needed
        "Change of the images before they are scored"

    def __repr__(self):
        settings = {k: v for k,v in vars(self).items() if not k.startswith('_') and k != 'name'}
        own = ', '.join(f'{k}={v!r}' for k,v in settings.items())
        return f'{type(self).__name__}({own})'

class MSP(OODScore):
    "Maximum softmax probability, in log space"
    name = 'msp'
    def __call__(self, out): return msp_score(out.z)

class MaxLogit(OODScore):
    "The largest logit"
    name = 'maxlogit'
    def __call__(self, out): return maxlogit_score(out.z)

class Energy(OODScore):
    "Negative energy"
    name = 'energy'
    def __init__(self,
        T:float=1. # Temperature; 1 in the paper
    ): self.T = _positive('T', T)

    def __call__(self, out): return energy_score(out.z, self.T)

class ODIN(OODScore):
    "Maximum softmax probability at a high temperature, if wanted of images moved towards their prediction"
    name = 'odin'
    def __init__(self,
        T:float=1000., # Temperature; 1000 in the paper
        eps:float=0.   # Step in units of the normalised images; above 0 it costs two forward passes and one backward
    ):
        need_number('eps', eps)
        if not 0 <= eps < float('inf'):
            raise ValueError(f"`eps` must be >= 0 and finite, got {eps}. 0 is no step.")
        self.T,self.eps = _positive('T', T),float(eps)

    def __call__(self, out): return odin_score(out.z, self.T)

    def input_step(self, model, x):
        "x + eps sign(d ln max softmax(z/T) / dx): the score rises, more so for known images; None for eps = 0"
        if not self.eps: return None
        with at_rest(model), torch.inference_mode(False), torch.enable_grad():
            x = x.detach().clone().requires_grad_()
            z = model(x.clone())            # a layer that writes in place may not write into a leaf
            if isinstance(z, (tuple, list)): z = z[0]
            score = (z.float()/self.T).log_softmax(1).amax(1)
            # of it the sign counts
            grad, = torch.autograd.grad(self.T*score.sum(), x)
        return x.detach() + self.eps*grad.sign()

class GEN(OODScore):
    "Negative generalised entropy of the largest probabilities"
    name = 'gen'
    def __init__(self,
        gamma:float=.1, # Power; the paper's
        M:int=None      # How many of the largest probabilities count; None: 100, or all of fewer
    ):
        self.gamma = _positive('gamma', gamma)
        self.M = None if M is None else need_whole('M', M, 1, what='largest probabilities')

    def __call__(self, out): return gen_score(out.z, self.gamma, self.M)
