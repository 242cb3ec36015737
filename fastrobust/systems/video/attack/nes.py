"A gradient from answers alone: natural evolution strategies with antithetic pairs, within a mask"
# Ilyas et al., Black-box Adversarial Attacks with Limited Queries and Information,
# https://arxiv.org/abs/1804.08598
# Ranks for scores as in AstFocus, https://arxiv.org/abs/2301.00896, here with ties shared
import torch
from torch import Tensor
from fastrobust.basics import need_number, need_truth, need_whole, shown

__all__ = ['nes_gradient']

# --- what is raised -------------------------------------------------------------------------------
def log_score(
    p,          # Probabilities (n,k)
    y,          # Class of the clip
    target=None # Class that it shall be taken for; None: any other
)->Tensor:      # (n,); without a target > 0 where the answer is not `y`
    "Untargeted log p(best other) - log p(y), targeted .9 log p(target) - .1 log p(y)"
    # the smallest float32: a probability of 0 is no reason for infinity
    z = p.clamp_min(torch.finfo(torch.float32).tiny).log()
    if target is not None: return .9*z[:, target] - .1*z[:, y]
    other = z.clone()
    other[:, y] = -torch.inf
    return other.amax(1) - z[:, y]

# --- weights --------------------------------------------------------------------------------------
def rank_weights(
    s       # Scores (n,)
)->Tensor:  # (n,), of sum n/2
    "Ranks from 0 on by n-1: 0 for the lowest score, 1 for the highest; equal scores share their mean"
    _,group,sizes = torch.unique(s, return_inverse=True, return_counts=True)
    last = sizes.cumsum(0)
    mean = last - (sizes+1)/2       # of ranks from 0 on
    return mean[group].to(s)/(len(s)-1)

# --- the estimate ---------------------------------------------------------------------------------
def need_pairs(n):
    "`n`, an even number from 2 on"
    n = need_whole('n', n, 2, what='samples')
    if n % 2:
        raise ValueError(f"`n` must be even, as samples come in pairs x+u, x-u, got {n}. Give "
                         f"{n+1}.")
    return n

def need_sigma(sigma):
    "`sigma`, positive and finite"
    need_number('sigma', sigma)
    if 0 < sigma < float('inf'): return float(sigma)
    raise ValueError(f"`sigma` must be positive and finite, got {sigma}. Give e.g. .02, in pixels "
                     "of [0,1].")

def _need_mask(mask, x):
    "`mask` in the shape of `x`"
    if mask is None: return torch.ones_like(x, dtype=torch.bool)
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        got = mask.dtype if isinstance(mask, Tensor) else shown(mask)
        raise TypeError(f"`mask` must be a tensor of True and False, got {got}. Take `mask > 0`.")
    try: full = mask.to(x.device).expand_as(x)
    except RuntimeError:
        raise ValueError(f"expected a mask that fits {tuple(x.shape)}, got {tuple(mask.shape)}. "
                         "Give (t,h,w) for a clip (c,t,h,w).") from None
    if not full.any():
        raise ValueError("expected a mask with a pixel in it, got one without. Nothing could "
                         "change.")
    return full

def _noise(m, x, mask, gen):
    "`m` draws of unit variance in the shape of `x`, 0 outside of the mask; drawn there alone"
    drawn = torch.randn(m, int(mask.sum()), generator=gen, dtype=x.dtype)
    u = x.new_zeros(m, x.numel())
    u[:, mask.flatten()] = drawn.to(x.device)
    return u.view(m, *x.shape)

def _generator(seed):
    "A `torch.Generator` of a seed, or itself"
    if isinstance(seed, torch.Generator): return seed
    return torch.Generator().manual_seed(need_whole('seed', seed, fix='Or give a torch.Generator.'))

def nes_gradient(
    score,      # Function of samples (n, *x.shape) -> scores (n,), to be raised
    x,          # Where: a float tensor of any shape; not changed
    mask=None,  # bool, of a shape that broadcasts to x: where it may change; None: everywhere
    n=60,       # Samples, even: n/2 pairs x+u, x-u; AstFocus'
    sigma=.02,  # Standard deviation of u, in units of x; AstFocus' .001 gives ties on probabilities
    rank=True,  # Ranks for scores? Outliers then weigh no more than others, and the scale is known
    seed=0      # Of the noise: a whole number, or a torch.Generator on the CPU
)->Tensor:      # Like x, 0 outside of the mask
    """Direction in which `score` rises near `x`, from `n` questions

    With `rank` the sum over samples of noise of unit variance times rank/(n-1), as AstFocus takes its
    steps: where `score` says nothing its standard deviation is 2.29 a pixel for n=60. Without, the
    gradient of the score as such: the sum of noise times score by n sigma."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else shown(x)
        raise TypeError(f"`x` must be a float tensor, got {got}. Pixels: clip.float()/255.")
    n,sigma,rank = need_pairs(n),need_sigma(sigma),need_truth('rank', rank)
    x = x.as_subclass(Tensor).detach()
    u = _noise(n//2, x, _need_mask(mask, x), _generator(seed))
    s = score(torch.cat([x + sigma*u, x - sigma*u]))
    if not isinstance(s, Tensor) or s.shape != (n,):
        got = tuple(s.shape) if isinstance(s, Tensor) else type(s).__name__
        raise ValueError(f"expected a score for each of {n} samples, ({n},), got {got}. Return a "
                         "tensor of one number a sample.")
    if not s.isfinite().all():
        raise ValueError("expected finite scores, got NaN or infinity. Keep probabilities above "
                         "0 before their log.")
    s = s.detach().to(x.device, x.dtype)
    w = rank_weights(s) if rank else s/(n*sigma)
    plus,minus = w.chunk(2)
    return torch.tensordot(plus-minus, u, 1)
