"What the operations of AugMix do to uint8 images, each by the cheapest exact means"
# A kernel takes (n,c,h,w) uint8 and a parameter per image (n,), float64 on the CPU, and gives
# uint8 of that shape. Posterize and solarize are byte arithmetic; autocontrast and equalize a
# table of 256 entries per channel; a translation by whole pixels is a copy; a shear moves every
# row (or column) by its own amount: interpolation along one axis; only a rotation needs the full
# grid, and images that turn by the same angle share it.
# Coordinates are float64 in Pillow's order of operations, then truncated: so even ties come out as
# in Pillow.
import math
from functools import lru_cache
import torch

__all__ = []

# The first 9 are AugMix's default set; the last 4 resemble corruptions of ImageNet-C
AUGMIX_OPS = ('autocontrast', 'equalize', 'posterize', 'rotate', 'solarize',
              'shear_x', 'shear_y', 'translate_x', 'translate_y',
              'color', 'contrast', 'brightness', 'sharpness')

@lru_cache(maxsize=64)
def _centres(size, device):
    return torch.arange(size, device=device, dtype=torch.float64) + .5

def _within(u, size): return (u >= 0).logical_and_(u < size)

def _per_image(arg, x): return arg.to(x.device).view(-1, 1, 1, 1)
def _byte_per_image(arg, x): return _per_image(arg, x).to(torch.uint8)
def _bytes(d):
    # floats -> uint8 by way of int32: truncates, vectorised
    return d.to(torch.int32).to(torch.uint8)

# --- bytes ----------------------------------------------------------------------------------------
def posterize(x, bits):
    mask = 256 - 2**(8 - bits.long())
    return x & _byte_per_image(mask, x)

def solarize(x, threshold):
    t = threshold.ceil().clamp(0, 256)
    low = _byte_per_image(t.clamp(max=255), x)
    # 255 where x >= low, which torch does not vectorise
    invert = -(torch.maximum(x, low) == x).view(torch.uint8)
    on = 255*(t < 256)
    return x ^ (invert & _byte_per_image(on, x))

# --- tables ---------------------------------------------------------------------------------------
def _lookup(x, lut):
    i = x.flatten(2).long()
    return lut.gather(2, i).view_as(x)

def _ramp(x): return torch.arange(256, device=x.device)

def autocontrast(x, _):
    flat = x.flatten(2)
    lo = flat.amin(2, keepdim=True).double()
    hi = flat.amax(2, keepdim=True).double()
    same = hi == lo
    gap = (hi-lo).masked_fill_(same, 255.)
    # never `255./gap`: torch would take a rounded reciprocal times 255
    scale = torch.full_like(gap, 255.)/gap
    lo.masked_fill_(same, 0.)
    lut = (_ramp(x)*scale).add_(-lo*scale)
    return _lookup(x, _bytes(lut.clamp_(0, 255)))

def _histograms(flat):
    "How often each value occurs in the channels of `flat` (n,c,pixels): (n,c,256)"
    n,c = flat.shape[:2]
    channel = torch.arange(n*c, device=flat.device).view(n, c, 1)
    i = flat.long().add_(256*channel)
    h = torch.bincount(i.flatten(), minlength=n*c*256)
    return h.view(n, c, 256)

def equalize(x, _):
    flat = x.flatten(2)
    h = _histograms(flat)
    top = flat.amax(2, keepdim=True).long()
    last = h.gather(2, top)
    step = (h.sum(2, keepdim=True) - last)//255
    below = step//2 + h.cumsum(2) - h
    # counts < 2^53: the quotient's whole part is exact
    lut = below.double().div_(step.clamp(min=1))
    lut = _bytes(lut.clamp_(max=255))
    same = _ramp(x).to(torch.uint8)
    return _lookup(x, torch.where(step > 0, lut, same))

# --- along one axis -------------------------------------------------------------------------------
def _runs(arg):
    "Start, end and value of every run of equal parameters"
    v,n = torch.unique_consecutive(arg, return_counts=True)
    ends = n.cumsum(0).tolist()
    starts = [0]+ends[:-1]
    return zip(starts, ends, v.tolist())

def _copies(x, t, dim):
    "Move by whole pixels, one copy for each distance"
    out = torch.zeros_like(x)
    for a,b,k in _runs(t):
        k = int(k)
        n = x.shape[dim] - abs(k)
        if n <= 0: continue
        src = x[a:b].narrow(dim, max(k, 0), n)
        out[a:b].narrow(dim, max(-k, 0), n).copy_(src)
    return out

def _laid(line, dim):
    "Numbers `line` (size,) beside the pixels along `dim` (2 or 3)"
    return line if dim == 3 else line[:, None]

def _taps(x, move, dim):
    "Pixels of `x` to interpolate between, moved by whole ones: one more along `dim`, float64"
    n,c,h,w = x.shape
    size = x.shape[dim]
    i = _laid(torch.arange(size+1, device=x.device), dim)
    i = (i + move.long()).clamp_(0, size-1)
    if dim == 3: return x.gather(3, i.expand(n, c, h, w+1)).double()
    i = i*w + torch.arange(w, device=x.device)
    i = i.view(n, 1, -1).expand(n, c, (h+1)*w)
    return x.flatten(2).gather(2, i).view(n, c, h+1, w).double()

def _slide(x, move, dim):
    "Interpolate along `dim` (2 or 3) at pixel centre + `move` (n,1,h,1) or (n,1,1,w), black outside"
    size = x.shape[dim]
    line = _laid(_centres(size, x.device), dim)
    start = move.floor()
    # Pillow's coordinate of every pixel (n,1,h,w)
    u = line + move
    inside = _within(u, size).view(torch.uint8)
    # how far from the left tap, in [0,1]
    part = u.sub_(.5).sub_((line-.5) + start)
    g = _taps(x, start, dim)
    left = g.narrow(dim, 0, size)
    right = g.narrow(dim, 1, size)
    return _bytes((right-left).mul_(part).add_(left)).mul_(inside)

def _along(dim):
    def translate(x, t):
        if (t == t.round()).all(): return _copies(x, t, dim)
        return _slide(x, _per_image(t, x), dim)
    def shear(x, s):
        other = 5-dim
        far = _laid(_centres(x.shape[other], x.device), other)
        return _slide(x, _per_image(s, x)*far, dim)
    return shear,translate

shear_x,translate_x = _along(3)
shear_y,translate_y = _along(2)

# --- the full grid --------------------------------------------------------------------------------
def rotation(deg, h, w):
    "(a,b,c,d,e,f): centre of an output pixel -> point of the input; Pillow's rounding"
    a = -math.radians(deg%360.)
    cos = round(math.cos(a), 15)
    sin = round(math.sin(a), 15)
    # the centre stays
    c = cos*(-w/2) + sin*(-h/2) + w/2
    f = -sin*(-w/2) + cos*(-h/2) + h/2
    return cos,sin,c,-sin,cos,f

def _grid(deg, h, w, device):
    "Of every pixel (hw,): position of its upper left tap in the padded image, its parts across and down, is it inside"
    a,b,c,d,e,f = rotation(deg, h, w)
    px = _centres(w, device)
    py = _centres(h, device)[:, None]
    u = (a*px + b*py).add_(c)
    v = (d*px + e*py).add_(f)
    inside = _within(u, w).logical_and_(_within(v, h))
    # what lies farther out is black anyway
    u = u.sub_(.5).clamp_(-1, w)
    v = v.sub_(.5).clamp_(-1, h)
    i,j = u.floor(),v.floor()
    first = (j+1).mul_(w+3).add_(i+1)
    first = first.to(torch.int32).long()
    parts = first,u.sub_(i),v.sub_(j),inside.view(torch.uint8)
    return tuple(o.flatten() for o in parts)

_small_grid = lru_cache(maxsize=64)(_grid) # at 64 px about 200 kB each

def _grids(deg, h, w, device):
    "`_grid` for every image (n,1,hw); where all turn by the same angle, one for all (hw,)"
    grid = _small_grid if h*w <= 64*64 else _grid
    runs = list(_runs(deg))
    grids = [grid(o, h, w, device) for _,_,o in runs]
    if len(grids) == 1: return grids[0]
    counts = torch.tensor([b-a for a,b,_ in runs], device=device)
    def spread(o):
        o = torch.stack(o).repeat_interleave(counts, 0, output_size=len(deg))
        return o[:, None]
    return tuple(spread(o) for o in zip(*grids))

def _framed(x):
    "`x` (n,c,h,w) whose border repeats; w+3 wide, h+3 high: (n,c,(h+3)*(w+3))"
    left,right = x[..., :1],x[..., -1:]
    x = torch.cat([left, x, right, right], 3)
    top,low = x[:, :, :1],x[:, :, -1:]
    return torch.cat([top, x, low, low], 2).flatten(2)

def rotate(x, deg):
    n,c,h,w = x.shape
    edge = _framed(x)
    first,du,dv,inside = _grids(deg, h, w, x.device)
    first = first.expand(n, c, h*w)
    size = (h+2)*(w+3)-1
    def at(k): return edge.narrow(2, k, size).gather(2, first).double()
    def mix(lo, hi, t): return hi.sub_(lo).mul_(t).add_(lo)
    top = mix(at(0), at(1), du)
    low = mix(at(w+3), at(w+4), du)
    return _bytes(mix(top, low, dv)).mul_(inside).view_as(x)

# --- blends ---------------------------------------------------------------------------------------
def _grey(x):
    r,g,b = x.int().unbind(1)
    grey = 19595*r + 38470*g + 7471*b + 32768 >> 16
    return grey[:, None]

def _blend(g, x, f):
    g = g.float()
    f = _per_image(f, x).float()
    mix = (x.float() - g).mul_(f).add_(g)
    return _bytes(mix.clamp_(0, 255))

def color(x, f):
    if x.shape[1] == 1: return x
    return _blend(_grey(x), x, f)

def contrast(x, f):
    n = x.shape[2]*x.shape[3]
    grey = x if x.shape[1] == 1 else _grey(x)
    s = grey.sum((1, 2, 3), keepdim=True)
    mean = (2*s + n)//(2*n) # int(mean + 1/2)
    return _blend(mean, x, f)

def brightness(x, f):
    black = torch.zeros((), device=x.device)
    return _blend(black, x, f)

def sharpness(x, f):
    h,w = x.shape[2:]
    if min(h, w) < 3: return x
    i = x.int()
    # a window of 3x3 ones, 5 in the middle
    s = 4*i[..., 1:-1, 1:-1]
    for r in range(3):
        for q in range(3): s += i[..., r:h-2+r, q:w-2+q]
    s = (2*s + 13)//26 # sum/13, to the nearest
    smooth = x.clone()
    smooth[..., 1:-1, 1:-1] = s.to(torch.uint8)
    return _blend(smooth, x, f)
