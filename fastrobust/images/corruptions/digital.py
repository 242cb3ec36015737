"Elastic deformation, pixelation, JPEG"
# Every function takes pixels x (b,c,h,w) in [0,1] holding k/255, the parameters of its severity
# and the draws.
# Elastic deformation is the authors': an affine map of three random points, then a smoothed random
# displacement, each with bilinear samples. Its lengths are shares of the image side: of 32 for
# CIFAR-C, of 244 (a typo, kept) for a side of 224 in ImageNet-C; for other sizes they grow with
# the shorter side. The `imagecorruptions` package has another elastic deformation (no affine map,
# other strengths), so there the two differ on purpose.
# JPEG is the codec itself, Pillow's as in the published files, on the CPU for any input.
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
    m = gaussian_filter1d(np.eye(n), sigma, axis=0, mode='reflect', truncate=3)
    return torch.from_numpy(m)

def _sample(x, u, v, mirror):
    "Bilinear samples at columns `u` and rows `v` (b,h,w); `mirror`: the edge itself is not repeated"
    h,w = x.shape[-2:]
    def unit(o, n):
        if mirror: return o*(2/max(n-1, 1)) - 1
        return (o*2 + 1)/n - 1
    at = torch.stack([unit(u, w), unit(v, h)], -1)
    return grid_sample(x, at, 'bilinear', 'reflection', align_corners=mirror)

def _affine(x, far, r):
    "Three points of the image move by up to `far` pixels along each axis, and the image with them"
    b,_,h,w = x.shape
    mid = torch.tensor([w//2, h//2])
    corners = torch.tensor([[1, 1], [1, -1], [-1, -1]])
    at = mid + min(h, w)//3*corners
    at = at.double().to(x.device)
    to = at + (2*r.rand(3, 2)-1)*far
    to = torch.cat([to, torch.ones_like(to[..., :1])], -1)
    # factors of column, row and 1 (b,3,2), for the column and the row to look at
    a = torch.linalg.solve(to, at.expand(b, 3, 2)).float()
    i = torch.arange(h, device=x.device, dtype=x.dtype)
    j = torch.arange(w, device=x.device, dtype=x.dtype)
    def moved(a):
        down = a[:, 1, None]*i + a[:, 2, None]
        return a[:, 0, None, None]*j + down[..., None]
    u,v = (moved(o) for o in a.unbind(-1))
    return _sample(x, u, v, True)

def elastic_transform(x, p, r):
    h,w = x.shape[-2:]
    side = min(h, w)*p[3]
    strength,sigma,far = (o*side for o in p[:3])
    x = _affine(x, far, r)
    if strength == 0: return x
    # float64: matrix products then round alike for every batch size
    d = (2*r.rand(2, h, w) - 1).double()
    rows = _smoother(w, sigma).to(x.device)
    cols = _smoother(h, sigma).to(x.device)
    d = cols @ d @ rows.T
    i = torch.arange(h, device=x.device, dtype=torch.float64)
    j = torch.arange(w, device=x.device, dtype=torch.float64)
    u = d[:, 0]*strength + j
    v = d[:, 1]*strength + i[:, None]
    return _sample(x, u.float(), v.float(), False)

@lru_cache(64)
def _box(n, m):
    "Which of `n` pixels are averaged into each of `m` <= n: 0/1 (n,m); and which of the `m` each of the `n` shows"
    scale = n/m
    mid = (np.arange(m)+.5)*scale
    lo = (mid - scale/2 + .5).astype(int).clip(0, n)
    hi = (mid + scale/2 + .5).astype(int).clip(0, n)
    i = np.arange(n)
    j = i[:, None]
    at = (j - mid + .5)/scale
    w = (j >= lo) & (j < hi) & (at > -.5) & (at <= .5)
    shown = (i+.5)*(m/n)
    shown = shown.astype(int).clip(0, m-1)
    return torch.from_numpy(w).float(),torch.from_numpy(shown)

def pixelate(x, p, _r=None):
    "Fewer, larger pixels: Pillow's BOX filter down and up again, rows first, rounding after each axis as it does"
    def down(x, w):     # sums of whole numbers below 2^24: exact in float32
        n = w.sum(0)
        sums = x @ w
        return (sums*2 + n).div_(2*n).floor_()
    def box(n):
        m = max(int(n*p[0]), 1)
        return [o.to(x.device) for o in _box(n, m)]
    h,w = x.shape[-2:]
    wy,y = box(h)
    wx,j = box(w)
    small = down((x*255).round_(), wx)
    small = down(small.mT, wy).mT
    return small.index_select(-2, y).index_select(-1, j).div_(255)

def jpeg_compression(x, p, _r=None):
    u8 = (x*255).round_().to(torch.uint8)
    u8 = u8.permute(0, 2, 3, 1).cpu().contiguous().numpy()
    for i,a in enumerate(u8): u8[i] = _through_jpeg(a, p[0])
    y = torch.from_numpy(u8).permute(0, 3, 1, 2)
    return y.to(x.device, x.dtype).div_(255)

def _through_jpeg(a, quality):
    "One image (h,w,c), uint8, written and read again"
    buf = io.BytesIO()
    px = a[..., 0] if a.shape[2] == 1 else a
    Image.fromarray(px).save(buf, 'JPEG', quality=quality)
    return np.asarray(Image.open(buf)).reshape(a.shape)

DIGITAL = dict(elastic_transform=elastic_transform, pixelate=pixelate,
               jpeg_compression=jpeg_compression)
