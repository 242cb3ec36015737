"Elastic deformation, pixelation, JPEG"
# Every function takes pixels x (b,c,h,w) in [0,1] holding k/255, the parameters of its severity and
# the draws. Elastic deformation is the authors': an affine map of three random points, then a
# smoothed random displacement, each with bilinear samples. Its lengths are shares of the image
# side: of 32 for CIFAR-C, of 244 (a typo, kept) for a side of 224 in ImageNet-C; for other sizes
# they grow with the shorter side. The `imagecorruptions` package has another elastic deformation
# (no affine map, other strengths), so there the two differ on purpose. JPEG is the codec itself,
# Pillow's as in the published files, on the CPU for any input.
import io
from functools import lru_cache
import numpy as np
import torch
from PIL import Image
from torch.nn.functional import grid_sample

__all__ = []

@lru_cache(32)
def _smoother(n, sigma):
    "Matrix (n,n) that blurs a line of `n` points: Gaussian to 3 sigma, mirrored at the edges"
    from scipy.ndimage import gaussian_filter1d
    return torch.from_numpy(gaussian_filter1d(np.eye(n), sigma, axis=0, mode='reflect', truncate=3))

def _sample(x, u, v, mirror):
    "Bilinear samples at columns `u` and rows `v` (b,h,w); `mirror`: the edge itself is not repeated"
    h,w = x.shape[-2:]
    def unit(o, n): return o*(2/max(n-1, 1)) - 1 if mirror else (o*2 + 1)/n - 1
    return grid_sample(x, torch.stack([unit(u, w), unit(v, h)], -1), 'bilinear', 'reflection', align_corners=mirror)

def _affine(x, far, r):
    "Three points of the image move by up to `far` pixels along each axis, and the image with them"
    b,_,h,w = x.shape
    mid,s = torch.tensor([w//2, h//2]),min(h, w)//3
    at = (mid + s*torch.tensor([[1, 1], [1, -1], [-1, -1]])).double().to(x.device)
    to = at + (2*r.rand(3, 2)-1)*far
    a = torch.linalg.solve(torch.cat([to, torch.ones_like(to[..., :1])], -1), at.expand(b, 3, 2)).float()
    i,j = (torch.arange(n, device=x.device, dtype=x.dtype) for n in (h, w))
    u,v = (a[:, 0, k, None, None]*j + (a[:, 1, k, None]*i + a[:, 2, k, None])[..., None] for k in (0, 1))
    return _sample(x, u, v, True)

def elastic_transform(x, p, r):
    h,w = x.shape[-2:]
    side = min(h, w)*p[3]
    strength,sigma,far = (o*side for o in p[:3])
    x = _affine(x, far, r)
    if strength == 0: return x
    # float64: matrix products then round alike for every batch size
    d = (2*r.rand(2, h, w) - 1).double()
    d = _smoother(h, sigma).to(x.device) @ d @ _smoother(w, sigma).to(x.device).T
    i,j = (torch.arange(n, device=x.device, dtype=torch.float64) for n in (h, w))
    u,v = (d[:, 0]*strength + j).float(),(d[:, 1]*strength + i[:, None]).float()
    return _sample(x, u, v, False)

@lru_cache(64)
def _box(n, m):
    "Which of `n` pixels are averaged into each of `m` <= n: 0/1 (n,m); and which of the `m` each of the `n` shows"
    scale,i = n/m,np.arange(m)
    lo,hi = (((i+.5)*scale + k*scale/2 + .5).astype(int).clip(0, n) for k in (-1, 1))
    at = (np.arange(n)[:, None] - (i+.5)*scale + .5)/scale
    w = (np.arange(n)[:, None] >= lo) & (np.arange(n)[:, None] < hi) & (at > -.5) & (at <= .5)
    return torch.from_numpy(w).float(),torch.from_numpy(((np.arange(n)+.5)*(m/n)).astype(int).clip(0, m-1))

def pixelate(x, p, r=None):
    "Fewer, larger pixels: Pillow's BOX filter down and up again, rows first, rounding after each axis as it does"
    def down(x, w):     # sums of whole numbers below 2^24: exact in float32
        n = w.sum(0)
        return ((x @ w)*2 + n).div_(2*n).floor_()
    (wy,y),(wx,j) = ([o.to(x.device) for o in _box(n, max(int(n*p[0]), 1))] for n in x.shape[-2:])
    small = down(down((x*255).round_(), wx).mT, wy).mT
    return small.index_select(-2, y).index_select(-1, j).div_(255)

def jpeg_compression(x, p, r=None):
    u8 = (x*255).round_().to(torch.uint8).permute(0, 2, 3, 1).cpu().contiguous().numpy()
    for i,a in enumerate(u8):
        buf = io.BytesIO()
        Image.fromarray(a[..., 0] if a.shape[2] == 1 else a).save(buf, 'JPEG', quality=p[0])
        u8[i] = np.asarray(Image.open(buf)).reshape(a.shape)
    return torch.from_numpy(u8).permute(0, 3, 1, 2).to(x.device, x.dtype).div_(255)

DIGITAL = dict(elastic_transform=elastic_transform, pixelate=pixelate, jpeg_compression=jpeg_compression)
