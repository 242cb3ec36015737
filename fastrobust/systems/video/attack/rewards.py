"What the two agents are paid for: what the model answers after a step, and what the clip shows"
# Wei, Wang, Yan, AstFocus: Efficient Robustness Assessment via Adversarial Spatial-Temporal Focus
# on Videos, https://arxiv.org/abs/2301.00896
import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = []

SMALLEST = 1e-3     # of |s|, by which a change is divided: between two classes it is 0
LONGEST = 64        # side of the frames whose saliency is computed, in pixels; Hou and Zhang's
GREY = .299,.587,.114

# --- the common reward ----------------------------------------------------------------------------
def others_best(
    probs,  # Probabilities (k,)
    y       # Class that is left out
):          # Of the most likely other class
    "Probability of the runner-up, or of the winner where `y` is not it"
    rest = probs.clone()
    rest[int(y)] = -1
    return rest.max()

def untargeted_score(
    probs,  # Probabilities (k,)
    y       # Class of the clip
):          # Above 0 where the victim is wrong
    "s = exp(p of the best other class) - exp(p_y)"
    return float(others_best(probs, y).exp() - probs[int(y)].exp())

def targeted_score(
    probs,  # Probabilities (k,)
    y,      # Class of the clip
    target  # Class that it shall be taken for
):          # From 1/e to e
    "v = exp(p_target - p_y)"
    return float((probs[int(target)] - probs[int(y)]).exp())

def attack_reward(
    before,     # Probabilities (k,) of the victim before a step
    after,      # And after it
    y,          # Class of the clip
    target=None # Class that it shall be taken for; None: any other
)->float:       # 0 where nothing changed, positive where the step helped
    "(s' - s)/(2|s|), |s| >= .001, or to a target (v' - v)/v: https://arxiv.org/abs/2301.00896"
    before,after = before.double(),after.double()
    if target is None:
        old,new = untargeted_score(before, y),untargeted_score(after, y)
        return (new-old)/(2*max(abs(old), SMALLEST))
    old,new = targeted_score(before, y, target),targeted_score(after, y, target)
    return (new-old)/old

class Baseline:
    "b <- .9 b + .1 mean of all rewards so far; an advantage is a reward above the b before it"
    def __init__(self): self.b,self.total,self.n = 0.,0.,0

    def advantage(self,
        r   # Reward of a step
    ):      # r - b
        "How much better than usual; then the reward counts as usual"
        gain = r-self.b
        self.total += r
        self.n += 1
        self.b = .9*self.b + .1*self.total/self.n
        return gain

def count_penalty(
    n,      # Frames that were chosen
    wanted, # Frames that there should be
    t       # Frames of the clip
):          # In [0,1]
    "((n - wanted)/t)^2"
    return ((n-wanted)/t)**2

# --- rewards of each frame, from the clip alone ---------------------------------------------------
def saliency(
    clip    # (c,t,h,w) in [0,1]
)->Tensor:  # (t,h,w), of each frame non-negative and of sum 1; a flat frame is 1/(hw) everywhere
    """Where each frame differs from what its spectrum leads one to expect: the spectral residual of
    Hou and Zhang (CVPR 2007). It stands in for EdgeBoxes' objectness, whose model cannot be had here"""
    h,w = clip.shape[-2:]
    grey = clip.detach().float().cpu()
    weights = torch.tensor(GREY) if len(grey) == 3 else torch.full((len(grey),), 1/len(grey))
    grey = torch.einsum('c,cthw->thw', weights, grey)[:, None]
    small = (min(h, LONGEST),min(w, LONGEST))
    if small != (h, w): grey = F.interpolate(grey, small, mode='area')
    spectrum = torch.fft.fft2(grey)
    log_size = (spectrum.abs() + 1e-8).log()
    usual = F.avg_pool2d(F.pad(log_size, (1, 1, 1, 1), mode='circular'), 3, 1)
    residual = torch.polar((log_size-usual).exp(), spectrum.angle())
    seen = blur(torch.fft.ifft2(residual).abs()**2)
    flat = grey.amax((-2, -1), keepdim=True) - grey.amin((-2, -1), keepdim=True) < 1e-6
    seen = torch.where(flat, torch.ones_like(seen), seen)
    if small != (h, w): seen = F.interpolate(seen, (h, w), mode='nearest')
    return (seen/seen.sum((-2, -1), keepdim=True))[:, 0]

def blur(
    x   # (n,1,h,w)
):      # Of the same shape
    "By a Gaussian of 2.5 pixels, reflected at the border"
    at = torch.arange(-4, 5, dtype=x.dtype)
    line = (-at**2/(2*2.5**2)).exp()
    line = line/line.sum()
    for axis in (0, 1):
        size,pad = [1, 1],[0, 0, 0, 0]
        size[axis] = 9
        side = x.shape[2+axis]
        first = 2-2*axis    # F.pad counts from the last axis
        pad[first:first+2] = 4,4
        mode = 'reflect' if side > 4 else 'replicate'
        x = F.conv2d(F.pad(x, pad, mode=mode), line.view(1, 1, *size))
    return x

def box_rewards(
    seen,   # Saliency (t,h,w), of each frame of sum 1
    boxes   # bool (k,h,w), the boxes of the grid
)->Tensor:  # (t,k), in [0,1]
    "Share of a frame's saliency that lies in each box"
    return torch.einsum('thw,khw->tk', seen, boxes.to(seen.dtype))

def representativeness(
    feats   # Features (t,d) of the frames
)->Tensor:  # (t,), in (0,1]
    "(1/t) sum_i exp(-|f_i - f_j|/t) of each frame j: near 1 where the others look like it"
    t = len(feats)
    return (-torch.cdist(feats, feats)/t).exp().mean(0)
