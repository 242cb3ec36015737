"Filters of the blurs and the weather: band matrices where they are separable, shifted sums or an FFT where not"
# A filter along one axis is a matrix, borders included, and only a band of it is not 0.
# Multiplying 32 rows at a time with the columns they need costs much less than a depthwise
# convolution on a CPU, whatever the filter's length.
import math
from functools import lru_cache
import torch
from torch.nn import functional as F

__all__ = []

ROWS = 32   # of a matrix at a time

def fold(i, n, border):
    "Positions `i` brought into 0..n-1: 'edge' repeats the border pixel, 'mirror' reflects about it"
    if border == 'edge' or n == 1: return i.clamp(0, n-1)
    i = i.abs() % (2*n-2)
    return torch.minimum(i, 2*n-2 - i)

def mirrored(x, r, q):
    "`x` (b,c,h,w) grown by `r` rows above and below and `q` columns left and right, reflected"
    h,w = x.shape[-2:]
    if r < h and q < w:
        return F.pad(x, (q, q, r, r), mode='reflect')
    i = torch.arange(-r, h+r, device=x.device)
    j = torch.arange(-q, w+q, device=x.device)
    x = x.index_select(-2, fold(i, h, 'mirror'))
    return x.index_select(-1, fold(j, w, 'mirror'))

# --- separable filters ----------------------------------------------------------------------------
def _bell(i, sigma): return torch.exp(-i**2/(2*sigma**2))

def gaussian_taps(sigma, radius):
    i = torch.arange(-radius, radius+1, dtype=torch.float64)
    k = _bell(i, sigma)
    return k/k.sum()

def filter_matrix(n, taps, border):
    "Matrix (n,n) that filters a line of `n` pixels with `taps` (2r+1,), float64"
    r = len(taps)//2
    i = torch.arange(n)[:, None]
    i = fold(i + torch.arange(-r, r+1), n, border)
    m = torch.zeros(n, n, dtype=torch.float64)
    return m.scatter_add_(1, i, taps.expand(n, -1))

def zoom_matrix(n, zoom):
    "Matrix (n,n) that enlarges the middle of a line of `n` pixels: cut out, interpolate linearly, cut to `n` again"
    small = math.ceil(n/zoom)
    big = round(small*zoom)
    # the end pixels stay the end pixels
    at = torch.arange(big, dtype=torch.float64)
    at = at*(small-1)/max(big-1, 1)
    i = at.floor().clamp(max=max(small-2, 0))
    f = (at-i)[:, None]
    i = i.long()[:, None] + (n-small)//2
    # one column to spare where small is 1
    m = torch.zeros(big, n+1, dtype=torch.float64)
    m.scatter_(1, i, 1-f).scatter_(1, i+1, f)
    top = (big-n)//2
    return m[top:, :n][:n]

def blocks(m, device, dtype=torch.float32, rows=ROWS):
    "A band matrix as its rows, so many at a time, each with the range of columns it needs"
    out = []
    for part in m.split(rows):
        at = part.any(0).nonzero()
        lo = at.min().item()
        hi = at.max().item()+1
        part = part[:, lo:hi].contiguous()
        out.append((part.to(device, dtype), lo, hi))
    return out

@lru_cache(maxsize=32)
def gaussian_blocks(n, sigma, device):
    # cut at 4 sigma, border repeated: the rule of SciPy and scikit-image
    taps = gaussian_taps(sigma, int(4*sigma + .5))
    return blocks(filter_matrix(n, taps, 'edge'), device)

@lru_cache(maxsize=128)
def zoom_blocks(n, zoom, device):
    return blocks(zoom_matrix(n, zoom), device, rows=16)    # two taps each: a narrow band

@lru_cache(maxsize=8)
def box_blocks(n, device):
    taps = torch.full((3,), 1/3, dtype=torch.float64)
    return blocks(filter_matrix(n, taps, 'mirror'), device)

def joined(parts, dim):
    "As torch.cat, without a copy of a single one"
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)

def columns_filtered(x, bands):
    "Every column of `x` (...,h,w) through the matrix whose `blocks` are `bands`"
    return joined([m @ x[..., lo:hi, :] for m,lo,hi in bands], -2)

def rows_filtered(x, bands):
    "Every row of `x` (...,h,w) through the matrix whose `blocks` are `bands`"
    return joined([x[..., lo:hi] @ m.mT for m,lo,hi in bands], -1)

def separable(x, make, *args):
    "Rows and columns of `x` (...,h,w) through the matrices `make(n, *args, device)`"
    h,w = x.shape[-2:]
    x = columns_filtered(x, make(h, *args, x.device))
    return rows_filtered(x, make(w, *args, x.device))

def gaussian(x, sigma):
    "Gaussian blur of `x` (...,h,w)"
    if sigma < .125: return x   # the cut leaves one tap
    return separable(x, gaussian_blocks, sigma)

def zoomed(x, zoom):
    "The middle of `x` (...,h,w), enlarged to its size"
    if zoom == 1: return x
    return separable(x, zoom_blocks, zoom)

def summed_zooms(x, zooms):
    "Sum of `zoomed(x, z)` for all `zooms`, columns added up block by block"
    b,c,h,w = x.shape
    sums = None
    for z in zooms:
        y = columns_filtered(x, zoom_blocks(h, z, x.device))
        y = y.view(-1, w)
        bands = zoom_blocks(w, z, x.device)
        if sums is None: sums = [y.new_zeros(len(y), len(m)) for m,_,_ in bands]
        for s,(m,lo,hi) in zip(sums, bands):
            s.addmm_(y[:, lo:hi], m.mT)
    return torch.cat(sums, -1).view(b, c, h, w)

# --- other filters --------------------------------------------------------------------------------
def correlate(x, k):
    "Every channel of `x` (b,c,h,w) with the kernel `k` (odd, odd), a CPU tensor; border mirrored"
    h,w = x.shape[-2:]
    r,q = (o//2 for o in k.shape)
    x = mirrored(x, r, q)
    taps = k.nonzero().tolist()
    if len(taps) > 40:
        y = _convolved(x, k.flip(0, 1))
        return y[..., 2*r:2*r+h, 2*q:2*q+w]
    # as many shifted copies, added up
    out = torch.zeros_like(x[..., :h, :w])
    for i,j in taps:
        tap = k[i, j].item()
        out.add_(x[..., i:i+h, j:j+w], alpha=tap)
    return out

def _convolved(x, k):
    "Circular convolution of `x` (...,h,w), padded with 0, and `k`"
    size = [-(-o//16)*16 for o in x.shape[-2:]] # powers of 2 inside: fast
    k = torch.fft.rfft2(k.to(x), s=size)
    x = torch.fft.rfft2(x, s=size)
    return torch.fft.irfft2(x*k, s=size)

def _line_taps(radius, sigma):
    "Half a Gaussian of 2*`radius`+1 taps, without those that are nearly 0: a list"
    i = torch.arange(2*radius+1, dtype=torch.float64)
    k = _bell(i, sigma)
    k = k[k > 1e-6]
    return (k/k.sum()).tolist()

def _span(o):
    "How far `o` reaches below and above 0"
    lo,hi = o.min().item(),o.max().item()
    return -min(lo, 0),max(hi, 0)

def motion(x, radius, sigma, angles):
    "`x` (b,c,h,w) blurred along a line, each image in its own direction `angles` (b,), degrees; border repeated"
    # Half a Gaussian of 2*radius+1 taps, each a copy moved by whole pixels: the rule of
    # ImageMagick. The copies are slices, image by image: picking pixels by index for all images at
    # once takes six times as long on a CPU.
    h,w = x.shape[-2:]
    taps = _line_taps(radius, sigma)
    i = torch.arange(len(taps))
    a = torch.deg2rad(angles.double().cpu())[:, None]
    dy = (i*torch.sin(a) - .5).ceil().long()
    dx = (i*torch.cos(a) - .5).ceil().long()
    top,bottom = _span(dy)
    left,right = _span(dx)
    x = F.pad(x, (left, right, top, bottom), mode='replicate')

    out = x.new_zeros(*x.shape[:2], h, w)
    starts = zip((dy+top).tolist(), (dx+left).tolist())
    for src,dst,(ys,xs) in zip(x, out, starts):
        for v,i,j in zip(taps, ys, xs):
            dst.add_(src[:, i:i+h, j:j+w], alpha=v)
    return out
