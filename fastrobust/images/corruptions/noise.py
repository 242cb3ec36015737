"Noise: Gaussian, shot, impulse, and speckle noise, drawn anew for every channel of every pixel"
# Every function takes pixels x (b,c,h,w) in [0,1], holding k/255, the parameters of its severity
# and the draws. Sums may leave [0,1]: the front clips, as the authors do. Shot noise is drawn from
# the Poisson distribution itself: an image holds 256 values, so 256 tables by Walker's alias method
# give a count from one column and one coin, exact to 2^-24, on every device alike. Counts above
# lambda are one case, since they are all clipped to white.
from functools import lru_cache
import torch

__all__ = []

def gaussian_noise(x, p, r): return r.randn(*x.shape[1:]).mul_(p[0]).add_(x)

def speckle_noise(x, p, r): return r.randn(*x.shape[1:]).mul_(p[0]).mul_(x).add_(x)

def impulse_noise(x, p, r):
    "A share of the entries turns black or white, as likely the one as the other"
    u,half = r.rand(*x.shape[1:]),p[0]/2
    return x.add(u >= 1-half).sub_((u < half).float())

def _alias(p):
    "Tables of Walker's method for the distributions in the rows of `p` (n,k): keep column j if u < keep, else go to"
    n,k = p.shape
    left,keep,to = p*k,torch.ones_like(p),torch.arange(k).repeat(n, 1)
    rows = torch.arange(n)
    # the emptiest column is filled up from the fullest one, and is done
    for _ in range(k):
        small,big = left.argmin(1),left.argmax(1)
        gap = (1-left[rows, small]).clamp_min(0)
        todo = gap > 1e-12
        keep[rows, small] = torch.where(todo, 1-gap, keep[rows, small])
        to[rows, small] = torch.where(todo, big, to[rows, small])
        left[rows, big] -= gap
        left[rows, small] = left[rows, small].clamp_min(1)
    return keep,to

@lru_cache(16)
def _photons(lam):
    "Alias tables of min(Poisson(lam k/255), lam) for k=0..255, as brightness: flat, float32, `lam`+1 columns each"
    mean,k = torch.arange(256, dtype=torch.float64)[:, None]*(lam/255),torch.arange(lam, dtype=torch.float64)
    p = (torch.xlogy(k, mean) - mean - torch.lgamma(k+1)).exp()
    keep,to = _alias(torch.cat([p, (1 - p.sum(1, keepdim=True)).clamp_min(0)], 1))
    return keep.float().flatten(),(to/lam).float().flatten()

def shot_noise(x, p, r):
    "Count photons: Poisson(x lam)/lam"
    lam = p[0]
    # its whole part is the column, the rest the coin
    u = r.rand(*x.shape[1:]).mul_(lam+1)
    j = u.floor()
    i = (x*255).round_().mul_(lam+1).add_(j).int().flatten()
    keep,to = (o.to(x.device).index_select(0, i).view_as(x) for o in _photons(lam))
    return torch.where(u.sub_(j) < keep, j.div_(lam), to)

NOISES = dict(gaussian_noise=gaussian_noise, shot_noise=shot_noise, impulse_noise=impulse_noise,
              speckle_noise=speckle_noise)
