"How alike two clips look: the structural similarity of their frames"
# Wang, Bovik, Sheikh, Simoncelli, Image quality assessment: from error visibility to structural
# similarity, IEEE TIP 2004, https://doi.org/10.1109/TIP.2003.819861; written from the equations.
import torch
from torch.nn import functional as F

__all__ = []

_SIGMA,_SIDE = 1.5,11       # the paper's window
_C1,_C2 = .01**2,.03**2     # of pixels in [0,1]
_ROOM = 2**22               # pixels at once

def window(
    side,       # Pixels, odd
    dtype=torch.float32
):              # (side,), sums to 1
    "The Gaussian weights of one side of the window"
    x = torch.arange(side, dtype=torch.float64) - side//2
    w = (-x.square()/(2*_SIGMA**2)).exp()
    return (w/w.sum()).to(dtype)

def _means(x, w):
    "Weighted means in windows that lie inside the frame"
    x = F.conv2d(x, w[None, None, :, None])
    return F.conv2d(x, w[None, None, None, :])

def _of_planes(a, b, w):
    "Structural similarity of pairs of planes (m,1,h,w): (m,)"
    ma,mb = _means(a, w),_means(b, w)
    va = _means(a*a, w) - ma*ma
    vb = _means(b*b, w) - mb*mb
    cov = _means(a*b, w) - ma*mb
    light = (2*ma*mb + _C1)/(ma*ma + mb*mb + _C1)
    rest = (2*cov + _C2)/(va + vb + _C2)
    return (light*rest).mean((1, 2, 3))

def clip_ssim(
    a,      # Clips (n,c,t,h,w), pixels in [0,1]
    b       # The same, changed
):          # float64 (n,), at most 1
    "Structural similarity (https://doi.org/10.1109/TIP.2003.819861), mean over frames, channels and windows"
    if a.shape != b.shape or a.ndim != 5:
        raise ValueError(f"expected two sets of clips (n,c,t,h,w) of one shape, got {tuple(a.shape)} and "
                         f"{tuple(b.shape)}.")
    n,*_,h,w = a.shape
    # small frames: the largest odd window that fits
    side = min(_SIDE, h, w)
    side -= 1 - side%2
    weights = window(side, torch.float64).to(a.device)
    pairs = [o.reshape(-1, 1, h, w) for o in (a, b)]
    step = max(1, _ROOM//(h*w))
    chunks = zip(*(o.split(step) for o in pairs))
    found = [_of_planes(u.double(), v.double(), weights) for u,v in chunks]
    return torch.cat(found).view(n, -1).mean(1).cpu()
