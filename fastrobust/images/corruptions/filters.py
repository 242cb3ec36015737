"Filters of the blurs and the weather: band matrices where they are separable, shifted sums or an FFT where not"
# A filter along one axis is a matrix, borders included, and only a band of it is not 0. Multiplying
# 32 rows at a time with the columns they need costs much less than a depthwise convolution on a
# CPU, whatever the filter's length.
import math
from functools import lru_cache
import torch
from torch.nn import functional as F

__all__ = []

def fold(i, n, border):
    "Positions `i` brought into 0..n-1: 'edge' repeats the border pixel, 'mirror' reflects about it"
    if border == 'edge' or n == 1: return i.clamp(0, n-1)
    i = i.abs() % (2*n-2)
    return torch.minimum(i, 2*n-2 - i)

def mirrored(x, r, q):
    "`x` (b,c,h,w) grown by `r` rows above and below and `q` columns left and right, reflected"
    if r < x.shape[-2] and q < x.shape[-1]: return F.pad(x, (q, q, r, r), mode='reflect')
    i,j = (fold(torch.arange(-m, n+m, device=x.device), n, 'mirror') for n,m in zip(x.shape[-2:], (r, q)))
    return x.index_select(-2, i).index_select(-1, j)

# --- separable filters ----------------------------------------------------------------------------
def gaussian_taps(sigma, radius):
    k = torch.exp(-torch.arange(-radius, radius+1, dtype=torch.float64)**2/(2*sigma**2))
    return k/k.sum()

def filter_matrix(n, taps, border):
    "Matrix (n,n) that filters a line of `n` pixels with `taps` (2r+1,), float64"
    r = len(taps)//2
    i = fold(torch.arange(n)[:, None] + torch.arange(-r, r+1), n, border)
    return torch.zeros(n, n, dtype=torch.float64).scatter_add_(1, i, taps.expand(n, -1))

def zoom_matrix(n, zoom):
    "Matrix (n,n) that enlarges the middle of a line of `n` pixels: cut out, interpolate linearly, cut to `n` again"
    small = math.ceil(n/zoom)
    big = round(small*zoom)
    # the end pixels stay the end pixels
    at = torch.arange(big, dtype=torch.float64)*(small-1)/max(big-1, 1)
    i = at.floor().clamp(max=max(small-2, 0))
    # one column to spare where small is 1
    m = torch.zeros(big, n+1, dtype=torch.float64)
    i,f = i.long()[:, None] + (n-small)//2,(at-i)[:, None]
    m.scatter_(1, i, 1-f).scatter_(1, i+1, f)
    return m[(big-n)//2:, :n][:n]

def blocks(m, device):
    "A band matrix as its rows, 32 at a time, each with the range of columns it needs"
    out = []
    for part in m.split(32):
        at = part.any(0).nonzero()
        lo,hi = at.min().item(),at.max().item()+1
        out.append((part[:, lo:hi].float().contiguous().to(device), lo, hi))
    return out

@lru_cache(maxsize=32)
def gaussian_blocks(n, sigma, device): # cut at 4 sigma, border repeated: the rule of SciPy and scikit-image
    return blocks(filter_matrix(n, gaussian_taps(sigma, int(4*sigma + .5)), 'edge'), device)

@lru_cache(maxsize=128)
def zoom_blocks(n, zoom, device): return blocks(zoom_matrix(n, zoom), device)

@lru_cache(maxsize=8)
def box_blocks(n, device):
    return blocks(filter_matrix(n, torch.full((3,), 1/3, dtype=torch.float64), 'mirror'), device)

def separable(x, make, *args):
    "Rows and columns of `x` (...,h,w) through the matrices `make(n, *args, device)`"
    x = torch.cat([m @ x[..., lo:hi, :] for m,lo,hi in make(x.shape[-2], *args, x.device)], -2)
    return torch.cat([x[..., lo:hi] @ m.mT for m,lo,hi in make(x.shape[-1], *args, x.device)], -1)

def gaussian(x, sigma):
    "Gaussian blur of `x` (...,h,w)"
    # below, the cut leaves one tap
    return x if sigma < .125 else separable(x, gaussian_blocks, sigma)

def zoomed(x, zoom):
    "The middle of `x` (...,h,w), enlarged to its size"
    return x if zoom == 1 else separable(x, zoom_blocks, zoom)

def summed_zooms(x, zooms):
    "Sum of `zoomed(x, z)` for all `zooms`, columns added up block by block"
    (b,c,h,w),sums = x.shape,None
    for z in zooms:
        rows = torch.cat([m @ x[..., lo:hi, :] for m,lo,hi in zoom_blocks(h, z, x.device)], -2).view(-1, w)
        cols = zoom_blocks(w, z, x.device)
        if sums is None: sums = [rows.new_zeros(len(rows), len(m)) for m,_,_ in cols]
        for s,(m,lo,hi) in zip(sums, cols): s.addmm_(rows[:, lo:hi], m.mT)
    return torch.cat(sums, -1).view(b, c, h, w)

# --- other filters --------------------------------------------------------------------------------
def correlate(x, k):
    "Every channel of `x` (b,c,h,w) with the kernel `k` (odd, odd), a CPU tensor; border mirrored"
    (h,w),(r,q) = x.shape[-2:],(o//2 for o in k.shape)
    x,taps = mirrored(x, r, q),k.nonzero().tolist()
    if len(taps) <= 40: # as many shifted copies, added up
        out = torch.zeros_like(x[..., :h, :w])
        for i,j in taps: out.add_(x[..., i:i+h, j:j+w], alpha=k[i, j].item())
        return out
    size = [-(-o//16)*16 for o in x.shape[-2:]] # powers of 2 inside: fast
    k = torch.fft.rfft2(k.flip(0, 1).to(x), s=size)
    return torch.fft.irfft2(torch.fft.rfft2(x, s=size)*k, s=size)[..., 2*r:2*r+h, 2*q:2*q+w]

def motion(x, radius, sigma, angles):
    "`x` (b,c,h,w) blurred along a line, each image in its own direction `angles` (b,), degrees; border repeated"
    # Half a Gaussian of 2*radius+1 taps, each a copy moved by whole pixels: the rule of
    # ImageMagick. The copies are slices, image by image: picking pixels by index for all images at
    # once takes six times as long on a CPU.
    (h,w),a = x.shape[-2:],torch.deg2rad(angles.double().cpu())[:, None]
    k = torch.exp(-torch.arange(2*radius+1, dtype=torch.float64)**2/(2*sigma**2))
    k = k[k > 1e-6]
    i,k = torch.arange(len(k)),(k/k.sum()).tolist()
    dy,dx = ((i*f(a) - .5).ceil().long() for f in (torch.sin, torch.cos))
    (top,bottom),(left,right) = ((-min(o.min().item(), 0), max(o.max().item(), 0)) for o in (dy, dx))
    x = F.pad(x, (left, right, top, bottom), mode='replicate')
    out = x.new_zeros(*x.shape[:2], h, w)
    for src,dst,ys,xs in zip(x, out, (dy+top).tolist(), (dx+left).tolist()):
        for v,y0,x0 in zip(k, ys, xs): dst.add_(src[:, y0:y0+h, x0:x0+w], alpha=v)
    return out
