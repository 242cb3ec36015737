"Noise: Gaussian, shot, impulse, and speckle noise, drawn anew for every channel of every pixel"
# Every function takes pixels x (b,c,h,w) in [0,1], holding k/255, the parameters of its severity
# and the draws.
# Sums may leave [0,1]: the front clips, as the authors do. Shot noise is drawn from the Poisson
# distribution itself: an image holds 256 values, so 256 tables by Walker's alias method give a
# count from one column and one coin, exact to 2^-24, on every device alike. Counts above lambda
# are one case, since they are all clipped to white.
from functools import lru_cache
import torch

__all__ = []

def gaussian_noise(x, p, r):
    z = r.randn(*x.shape[1:])
    return z.mul_(p[0]).add_(x)

def speckle_noise(x, p, r):
    z = r.randn(*x.shape[1:])
    return z.mul_(p[0]).mul_(x).add_(x)

def impulse_noise(x, p, r):
    "A share of the entries turns black or white, as likely the one as the other"
    u = r.rand(*x.shape[1:])
    half = p[0]/2
    y = x.add(u >= 1-half)
    return y.sub_((u < half).float())

def _alias(p):
    "Tables of Walker's method for the distributions in the rows of `p` (n,k): keep column j if u < keep, else go to"
    n,k = p.shape
    left = p*k
    keep = torch.ones_like(p)
    to = torch.arange(k).repeat(n, 1)
    rows = torch.arange(n)
    # the emptiest column is filled up from the fullest one, and is done
    for _ in range(k):
        small = rows,left.argmin(1)
        big = rows,left.argmax(1)
        gap = (1-left[small]).clamp_min(0)
        todo = gap > 1e-12
        keep[small] = torch.where(todo, 1-gap, keep[small])
        to[small] = torch.where(todo, big[1], to[small])
        left[big] -= gap
        left[small] = left[small].clamp_min(1)
    return keep,to

@lru_cache(16)
def _photons(lam):
    "Alias tables of min(Poisson(lam k/255), lam) for k=0..255, as brightness: flat, float32, `lam`+1 columns each"
    levels = torch.arange(256, dtype=torch.float64)[:, None]
    mean = levels*(lam/255)
    k = torch.arange(lam, dtype=torch.float64)
    log_p = torch.xlogy(k, mean) - mean - torch.lgamma(k+1)
    p = log_p.exp()
    more = 1 - p.sum(1, keepdim=True)
    p = torch.cat([p, more.clamp_min(0)], 1)
    keep,to = _alias(p)
    to = to/lam
    return keep.float().flatten(),to.float().flatten()

def shot_noise(x, p, r):
    "Count photons: Poisson(x lam)/lam"
    lam = p[0]
    # its whole part is the column, the rest the coin
    u = r.rand(*x.shape[1:]).mul_(lam+1)
    j = u.floor()
    i = (x*255).round_().mul_(lam+1).add_(j)
    i = i.int().flatten()
    def look(table): return table.to(x.device).index_select(0, i).view_as(x)
    keep,to = (look(o) for o in _photons(lam))
    coin = u.sub_(j)
    return torch.where(coin < keep, j.div_(lam), to)

NOISES = dict(gaussian_noise=gaussian_noise, shot_noise=shot_noise, impulse_noise=impulse_noise,
              speckle_noise=speckle_noise)
