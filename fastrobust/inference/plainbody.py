"Features that need no weights: oriented gradients at two scales, and colours, by place"
# Gradients as Dalal & Triggs (HOG, CVPR 2005) count them, in cells as Felzenszwalb, Girshick,
# McAllester & Ramanan (PAMI 2010) normalise them. Resizing and pooling are products with small
# matrices, which every device has, and which give the same numbers whatever else is in the batch.
import math
from functools import lru_cache
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from fastrobust.basics import need_whole
from fastrobust.pixels import PixelSpace

__all__ = []

SMALLEST = 4        # Pixels that a side of an image must have; of fewer than 16 there is little to count
_EPS = .01          # Gradients (pixels in [0,1]) this weak are noise, which no cell blows up
_CLIP = .2          # Of a normalised cell: no edge outshouts the rest. As Dalal & Triggs
_COLOUR_SIZE = 32   # Pixels at which colours are counted
_HUES,_SATURATIONS,_VALUES = 8,3,4

# --- matrices that resize and pool ----------------------------------------------------------------
@lru_cache(64)
def _resizing(a, b, device):
    "Matrix (b,a) that resizes a line of `a` pixels to `b`, by antialiased interpolation"
    eye = torch.eye(a, dtype=torch.float32, device='cpu')[None, None]
    r = F.interpolate(eye, size=(b, a), mode='bilinear', antialias=True, align_corners=False)
    return r[0, 0].to(device)

@lru_cache(64)
def _pooling(size, cells, device):
    "Matrix (cells,size) of means over a line: a pixel counts for the two cells nearest to it"
    width = size/cells
    pixel,cell = (torch.arange(n, dtype=torch.float64, device='cpu') + .5 for n in (size, cells))
    part = 1 - (pixel/width - cell[:, None]).abs()
    part = part.clamp(min=0)
    return (part/part.sum(1, keepdim=True)).float().to(device)

def resized(
    x,      # Images (b,c,h,w), float32
    size    # Pixels of each side afterwards
):
    "`x` as squares of `size` pixels, the whole of it"
    h,w = x.shape[2:]
    return _resizing(h, size, x.device) @ x @ _resizing(w, size, x.device).T

def pooled(
    v,      # Maps (b,k,s,s), float32
    cells   # Cells along each side
):
    "Mean of each map in each cell (b,k,cells,cells), neighbours overlap by half"
    p = _pooling(v.shape[2], cells, v.device)
    return p @ v @ p.T

# --- soft counts ----------------------------------------------------------------------------------
def _shared(u, weight, bins, low, high):
    "`weight` in maps (b,bins,h,w), shared by the bins `low` and `high` around `u`, all (b,h,w)"
    part = u - u.floor()
    out = u.new_zeros(len(u), bins, *u.shape[1:])
    out.scatter_(1, low[:, None], (weight*(1-part))[:, None])
    return out.scatter_add_(1, high[:, None], (weight*part)[:, None])

def around(
    turn,   # Angles (b,h,w) in turns, any real number; bin k is centred at k/bins
    weight, # What each pixel counts, (b,h,w)
    bins    # Bins on the circle, >= 2
):
    "Soft counts (b,bins,h,w) of angles: each pixel in the two nearest bins, around the circle"
    u = turn*bins
    low = u.floor().long()
    return _shared(u, weight, bins, low % bins, (low+1) % bins)

def along(
    v,      # Values (b,h,w) in [0,1]
    bins    # Bins, >= 2, centred from 0 to 1
):
    "Soft counts (b,bins,h,w) of values: each pixel in the two nearest bins"
    u = v.clamp(0, 1)*(bins-1)
    low = u.floor().long()
    return _shared(u, torch.ones_like(u), bins, low, (low+1).clamp(max=bins-1))

# --- oriented gradients ---------------------------------------------------------------------------
def gradients(
    x   # Images (b,c,h,w), float
):
    "Central differences across and down (b,h,w), those of the channel that changes most"
    p = F.pad(x, (1, 1, 1, 1), mode='replicate')
    gx = p[:, :, 1:-1, 2:] - p[:, :, 1:-1, :-2]
    gy = p[:, :, 2:, 1:-1] - p[:, :, :-2, 1:-1]
    most = (gx**2 + gy**2).argmax(1, keepdim=True)
    return gx.gather(1, most)[:, 0],gy.gather(1, most)[:, 0]

def _energies(c):
    "How much is in each 2x2 neighbourhood of each cell of `c` (b,k,n,n): four maps (b,1,n,n)"
    n = c.shape[2]
    e = F.pad(c.pow(2).sum(1, keepdim=True), (1, 1, 1, 1), mode='replicate')
    e = F.avg_pool2d(e, 2, 1)
    corners = [(i, j) for i in (0, 1) for j in (0, 1)]
    return [(4*e[..., i:i+n, j:j+n] + _EPS**2).sqrt() for i,j in corners]

def oriented(
    x,      # Images (b,c,s,s), float32, square
    cells,  # Cells along each side
    bins    # Orientations of edges; as many again of each direction
):
    "By direction, by orientation, and strength beside neighbours: (b,3*bins+4,cells,cells)"
    gx,gy = gradients(x)
    turn = torch.atan2(gy, gx)/(2*math.pi)
    size = (gx**2 + gy**2).sqrt()
    signed = pooled(around(turn, size, 2*bins), cells)
    # light to dark or dark to light is one edge
    edges = signed[:, :bins] + signed[:, bins:]
    both = torch.cat([signed, edges], 1)
    shares = [(both/e).clamp(max=_CLIP) for e in _energies(edges)]
    texture = [o[:, 2*bins:].mean(1, keepdim=True) for o in shares]
    return torch.cat([sum(shares)/4, *texture], 1)

# --- colours --------------------------------------------------------------------------------------
def _hue(x):
    "Angle on the circle of colours in turns, (b,h,w): red 0, green 1/3, blue 2/3"
    r,g,b = x.unbind(1)
    return torch.atan2(math.sqrt(3)*(g-b), 2*r-g-b)/(2*math.pi)

def colours(
    x,      # Images (b,c,h,w) in [0,1], float32; c 1 or 3
    cells   # Cells along each side
):
    "Roots of soft histograms (b,k,cells,cells): brightness by saturation, and hue times chroma"
    top,low = x.amax(1),x.amin(1)
    value = along(top, _VALUES)
    if x.shape[1] == 1: return pooled(value, cells).sqrt()
    chroma = top-low
    saturation = along(chroma/top.clamp(min=1e-3), _SATURATIONS)
    both = (value[:, :, None]*saturation[:, None]).flatten(1, 2)
    hue = around(_hue(x), chroma, _HUES)
    return pooled(torch.cat([both, hue], 1), cells).sqrt()

# --- the body -------------------------------------------------------------------------------------
class PlainBody(nn.Module):
    """Features of images by counting alone: nothing is learned or downloaded, no gradient flows, the same images always
    give the same numbers. For what a frozen pretrained network would be used for where none can be had"""
    def __init__(self,
        n_in=3,             # Channels of the images: 1 or 3
        sizes=(32, 64),     # Pixels of a side at which gradients are counted, each >= `cells`
        cells=4,            # Cells along each side, >= 2: where in the image, in a 4x4 grid
        bins=9,             # Orientations of edges, >= 2, as Dalal & Triggs
        colour=True         # Histograms of colours (of brightness for grey images) too?
    ):
        super().__init__()
        self.n_in = need_whole('n_in', n_in, 1, what='channels', fix='Give 1 or 3.')
        if n_in not in (1, 3):
            raise ValueError(f"expected images of 1 or 3 channels, got n_in={n_in}. Convert them.")
        self.cells = need_whole('cells', cells, 2, what='cells along each side')
        self.bins = need_whole('bins', bins, 2, what='orientations')
        if not isinstance(sizes, (tuple, list)):
            raise TypeError(f"expected `sizes` as a tuple, got {sizes!r}. Give e.g. (32, 64).")
        self.sizes = tuple(need_whole('sizes', s, self.cells, what='pixels') for s in sizes)
        self.colour = bool(colour)
        if not self.sizes and not colour:
            raise ValueError("expected `sizes` or `colour`, got neither: there would be no features. "
                             "Give sizes=(32, 64).")

    @property
    def d(self):
        "Length of the features"
        k = (3*self.bins + 4)*len(self.sizes)
        if self.colour: k += _VALUES if self.n_in == 1 else _VALUES*_SATURATIONS + _HUES
        return k*self.cells**2

    def extra_repr(self):
        return f'n_in={self.n_in}, sizes={self.sizes}, cells={self.cells}, bins={self.bins}, d={self.d}'

    def _checked(self, x):
        if not isinstance(x, Tensor) or x.ndim != 4 or not x.is_floating_point():
            got = f'{x.dtype} {tuple(x.shape)}' if isinstance(x, Tensor) else f'a {type(x).__name__}'
            raise TypeError(f"PlainBody expected images (b,c,h,w) as floats in [0,1], got {got}. Of "
                            "uint8 images: x.float()/255.")
        c,h,w = x.shape[1:]
        if c != self.n_in:
            raise ValueError(f"PlainBody expected images of {self.n_in} channels, got {c}. Convert them, "
                             "or build it for theirs, n_in=1 or n_in=3.")
        if min(h, w) < SMALLEST:
            raise ValueError(f"PlainBody expected images of at least {SMALLEST}x{SMALLEST} pixels, got "
                             f"{h}x{w}. Resize them: item_tfms=Resize(32).")
        x = x.as_subclass(Tensor).float()
        return PixelSpace().check(x, 'PlainBody') if len(x) else x

    @torch.no_grad()
    def forward(self,
        x   # Images (b,c,h,w) in [0,1], floats, before Normalize; each side >= 4 pixels
    )->Tensor: # float32 (b,d)
        "Features of each image, whatever else is in the batch"
        x = self._checked(x)
        # mixed precision would round what is counted
        with torch.autocast(x.device.type, enabled=False):
            light = x.sqrt()
            parts = [oriented(resized(light, s), self.cells, self.bins) for s in self.sizes]
            if self.colour: parts.append(colours(resized(x, _COLOUR_SIZE), self.cells))
        return torch.cat([o.flatten(1) for o in parts], 1)
