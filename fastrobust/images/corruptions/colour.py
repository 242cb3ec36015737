"Brightness, contrast and saturation"
# Every function takes pixels x (b,c,h,w) in [0,1], the parameters of its severity and draws it has
# no use for. The authors go to HSV and back (scikit-image); the way there and back is written out
# here, pixel by pixel the same: a new value V' scales a pixel by V'/V, a new saturation S' scales
# its distance V-x to its largest channel by S'/S. A pixel without colour has hue 0, so where S' >
# 0 it turns red, in the published images too. Grey images (c=1) get a shift of their value as
# brightness, and as `saturate` they stay as they are: that is what the authors' code makes of
# them.
import torch

__all__ = []

def brightness(x, p, _r=None):
    "V + p of HSV"
    if x.shape[1] == 1:
        return (x+p[0]).clamp_(0, 1)
    v = x.amax(1, keepdim=True)
    new = (v+p[0]).clamp_(0, 1)
    scale = new/v.clamp_min(1e-3)
    return torch.where(v > 0, x*scale, new)

def saturate(x, p, _r=None):
    "p[0] S + p[1] of HSV"
    if x.shape[1] == 1: return x
    v = x.amax(1, keepdim=True)
    gap = v - x.amin(1, keepdim=True)
    s = gap/v.clamp_min(1e-3)
    new = s*p[0] + p[1]
    new = new.clamp_(0, 1)
    scale = new/s.clamp_min(1e-3)
    out = v - (v-x)*scale
    if p[1] == 0: return out
    rest = v*(1-new)
    red = torch.cat([v, rest, rest], 1)
    return torch.where(gap > 0, out, red)

def contrast(x, p, _r=None):
    "Closer to the mean of each channel"
    mean = x.mean((2, 3), keepdim=True, dtype=torch.float64)
    mean = mean.float()
    return (x-mean).mul_(p[0]).add_(mean)

COLOURS = dict(brightness=brightness, contrast=contrast, saturate=saturate)
