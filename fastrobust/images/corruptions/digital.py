"Elastic deformation, pixelation, JPEG"
# `elastic_transform` takes pixels x (b,c,h,w) in [0,1] holding k/255, the parameters of its severity
# and the draws; the two others, in `ON_BYTES`, take and give the bytes themselves and draw nothing.
# Elastic deformation is the authors': an affine map of three random points, then a smoothed random
# displacement, each with bilinear samples. Its lengths are shares of the image side: of 32 for
# CIFAR-C, 64 for Tiny-ImageNet-C, of 244 (a typo, kept) for a side of 224 in ImageNet-C; for other
# sizes they grow with the shorter side. The `imagecorruptions` package has another elastic deformation (no affine map,
# other strengths), so there the two differ on purpose.
# JPEG is the codec itself, Pillow's as in the published files, on the CPU for any input.
import io
from functools import lru_cache
import numpy as np
import torch
from PIL import Image
from torch.nn.functional import grid_sample
from fastrobust.images.corruptions.engine import in_threads
from fastrobust.images.corruptions.filters import (ROWS, blocks, columns_filtered,
                                                   rows_filtered, separable)

__all__ = []

@lru_cache(32)
def _smoother(n, sigma, device):
    "`blocks` of the matrix that blurs a line of `n` points: Gaussian to 3 sigma, mirrored at the edges"
    from scipy.ndimage import gaussian_filter1d
    m = gaussian_filter1d(np.eye(n), sigma, axis=0, mode='reflect', truncate=3)
    rows = ROWS if 12*sigma < n else n      # a wide band is multiplied at once
    return blocks(torch.from_numpy(m), device, torch.float64, rows)

def _sample(x, u, v, mirror):
    "Bilinear samples at columns `u` and rows `v` (b,h,w), used up; `mirror`: the edge itself is not repeated"
    h,w = x.shape[-2:]
    def unit(o, n):
        if mirror: return o.mul_(2/max(n-1, 1)).sub_(1)
        return o.mul_(2).add_(1).div_(n).sub_(1)
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
    d = r.rand(2, h, w).mul_(2).sub_(1).double()
    d = separable(d, _smoother, sigma)
    i = torch.arange(h, device=x.device, dtype=torch.float64)
    j = torch.arange(w, device=x.device, dtype=torch.float64)
    u = d[:, 0].mul_(strength).add_(j)
    v = d[:, 1].mul_(strength).add_(i[:, None])
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
    return w,shown

@lru_cache(64)
def _boxes(n, m, device):
    "Of `_box`: `blocks` of the sums, how many each of the `m` has, and what is shown"
    w,shown = (torch.from_numpy(o) for o in _box(n, m))
    w = w.double().mT
    return blocks(w, device),w.sum(1).float().to(device),shown.to(device)

def pixelate(x, p):
    "Fewer, larger pixels: Pillow's BOX filter down and up again, rows first, rounding after each axis as it does"
    h,w = x.shape[-2:]
    def box(n): return _boxes(n, max(int(n*p[0]), 1), x.device)
    def rounded(sums, n): return sums.mul_(2).add_(n).div_(2*n).floor_()
    (down,many,i),(across,wide,j) = box(h),box(w)
    # sums of whole numbers below 2^24: exact in float32
    y = x.float()
    y = rounded(rows_filtered(y, across), wide)
    y = rounded(columns_filtered(y, down), many[:, None])
    y = y.to(torch.uint8)
    return y.index_select(-1, j).index_select(-2, i)

def jpeg_compression(x, p):
    "Written and read again"
    u8 = x.permute(0, 2, 3, 1).cpu().contiguous().numpy()
    out = np.empty(x.shape, np.uint8)
    def one(i):
        buf = io.BytesIO()
        px = u8[i, ..., 0] if u8.shape[3] == 1 else u8[i]
        Image.fromarray(px).save(buf, 'JPEG', quality=p[0])
        px = np.asarray(Image.open(buf, formats=['JPEG']))
        out[i] = px.reshape(u8.shape[1:]).transpose(2, 0, 1)
    # of a small image most is Python's work, which threads do not share
    in_threads(one, len(x), u8[:1].size >= 2**15)
    return torch.from_numpy(out).to(x.device)

DIGITAL = dict(elastic_transform=elastic_transform)
ON_BYTES = dict(pixelate=pixelate, jpeg_compression=jpeg_compression)
