"What the operations of AugMix do to uint8 images, each by the cheapest exact means"
# A kernel takes (n,c,h,w) uint8 and a parameter per image (n,), float64 on the CPU, and gives uint8
# of that shape. Posterize and solarize are byte arithmetic; autocontrast and equalize a table of
# 256 entries per channel; a translation by whole pixels is a copy; a shear moves every row (or
# column) by its own amount: interpolation along one axis; only a rotation needs the full grid, and
# images that turn by the same angle share it. Coordinates are float64 in Pillow's order of
# operations, then truncated: so even ties come out as in Pillow.
import math
from functools import lru_cache
import torch

__all__ = []

@lru_cache(maxsize=64)
def _centres(size, device): return torch.arange(size, device=device, dtype=torch.float64) + .5

def _per_image(arg, x): return arg.to(x.device).view(-1, 1, 1, 1)
def _bytes(d):
    # float64 -> uint8 by way of int32: truncates, vectorised
    return d.to(torch.int32).to(torch.uint8)

# --- bytes ----------------------------------------------------------------------------------------
def posterize(x, bits): return x & _per_image(256 - 2**(8 - bits.long()), x).to(torch.uint8)

def solarize(x, threshold):
    t = threshold.ceil().clamp(0, 256)
    low = _per_image(t.clamp(max=255), x).to(torch.uint8)
    # 255 where x >= low, which torch does not vectorise
    invert = -(torch.maximum(x, low) == x).view(torch.uint8)
    return x ^ (invert & _per_image(255*(t < 256), x).to(torch.uint8))

# --- tables ---------------------------------------------------------------------------------------
def _lookup(x, lut): return lut.gather(2, x.flatten(2).long()).view_as(x)
def _ramp(x): return torch.arange(256, device=x.device)

def autocontrast(x, _):
    lo,hi = (f(x.flatten(2), 2, keepdim=True).double() for f in (torch.amin, torch.amax))
    flat = hi == lo
    gap = (hi-lo).masked_fill_(flat, 255.)
    # never `255./gap`: torch would take a rounded reciprocal times 255
    scale = torch.full_like(gap, 255.)/gap
    lo.masked_fill_(flat, 0.)
    return _lookup(x, _bytes((_ramp(x)*scale).add_(-lo*scale).clamp_(0, 255)))

def equalize(x, _):
    n,c = x.shape[:2]
    i = x.flatten(2).long().add_(256*torch.arange(n*c, device=x.device).view(n, c, 1))
    h = torch.bincount(i.flatten(), minlength=n*c*256).view(n, c, 256)
    last = h.gather(2, x.flatten(2).amax(2, keepdim=True).long())
    step = (h.sum(2, keepdim=True) - last)//255
    # counts < 2^53: the quotient's
    lut = (step//2 + h.cumsum(2) - h).double().div_(step.clamp(min=1)).clamp_(max=255)
    # whole part is exact
    return _lookup(x, torch.where(step > 0, _bytes(lut), _ramp(x).to(torch.uint8)))

# --- along one axis -------------------------------------------------------------------------------
def _runs(arg):
    "Start, end and value of every run of equal parameters"
    v,n = torch.unique_consecutive(arg, return_counts=True)
    ends = n.cumsum(0).tolist()
    return zip([0]+ends[:-1], ends, v.tolist())

def _copies(x, t, dim):
    "Move by whole pixels, one copy for each distance"
    out,size = torch.zeros_like(x),x.shape[dim]
    for a,b,k in _runs(t):
        k = int(k)
        if (n := size - abs(k)) > 0:
            out[a:b].narrow(dim, max(-k, 0), n).copy_(x[a:b].narrow(dim, max(k, 0), n))
    return out

def _slide(x, move, dim):
    "Interpolate along `dim` (2 or 3) at pixel centre + `move` (n,1,h,1) or (n,1,1,w), black outside"
    size,w = x.shape[dim],x.shape[3]
    line,start = _centres(size, x.device),move.floor()
    line = line if dim == 3 else line[:, None]
    # Pillow's coordinate of every pixel (n,1,h,w)
    u = line + move
    inside = (u >= 0).logical_and_(u < size).view(torch.uint8)
    # how far from the left tap, in [0,1]
    part = u.sub_(.5).sub_((line-.5) + start)
    taps = torch.arange(size+1, device=x.device)
    i = ((taps if dim == 3 else taps[:, None]) + start.long()).clamp_(0, size-1)
    if dim == 3: g = x.gather(3, i.expand(*x.shape[:3], size+1))
    else:
        i = (i*w + torch.arange(w, device=x.device)).view(len(x), 1, -1)
        g = x.flatten(2).gather(2, i.expand(*x.shape[:2], (size+1)*w)).view(*x.shape[:2], size+1, w)
    g = g.double()
    left = g.narrow(dim, 0, size)
    return _bytes((g.narrow(dim, 1, size) - left).mul_(part).add_(left)).mul_(inside)

def _along(dim):
    def translate(x, t):
        if (t == t.round()).all(): return _copies(x, t, dim)
        return _slide(x, _per_image(t, x), dim)
    def shear(x, s):
        other = _centres(x.shape[5-dim], x.device)
        return _slide(x, _per_image(s, x)*(other[:, None] if dim == 3 else other), dim)
    return shear,translate

shear_x,translate_x = _along(3)
shear_y,translate_y = _along(2)

# --- the full grid --------------------------------------------------------------------------------
def _rotation(deg, h, w):
    "(a,b,c,d,e,f): centre of an output pixel -> point of the input; Pillow's rounding"
    a = -math.radians(deg%360.)
    cos,sin = round(math.cos(a), 15),round(math.sin(a), 15)
    # the centre stays
    return cos,sin,cos*(-w/2) + sin*(-h/2) + w/2,-sin,cos,-sin*(-w/2) + cos*(-h/2) + h/2

def _grid(deg, h, w, device):
    "Of every pixel (hw,): position of its upper left tap in the padded image, its parts across and down, is it inside"
    a,b,c,d,e,f = _rotation(deg, h, w)
    px,py = _centres(w, device),_centres(h, device)[:, None]
    u,v = (a*px + b*py).add_(c),(d*px + e*py).add_(f)
    inside = (u >= 0).logical_and_(u < w).logical_and_(v >= 0).logical_and_(v < h).view(torch.uint8)
    # what lies farther out is black anyway
    u,v = u.sub_(.5).clamp_(-1, w),v.sub_(.5).clamp_(-1, h)
    i,j = u.floor(),v.floor()
    first = (j+1).mul_(w+3).add_(i+1).to(torch.int32).long()
    return first.flatten(),u.sub_(i).flatten(),v.sub_(j).flatten(),inside.flatten()

_small_grid = lru_cache(maxsize=64)(_grid) # at 64 px about 200 kB each

def rotate(x, deg):
    n,c,h,w = x.shape
    # the border repeats; w+3 wide, h+3 high
    edge = torch.cat([x[..., :1], x, x[..., -1:], x[..., -1:]], 3)
    edge = torch.cat([edge[:, :, :1], edge, edge[:, :, -1:], edge[:, :, -1:]], 2).flatten(2)
    runs = list(_runs(deg))
    grids = [(_small_grid if h*w <= 64*64 else _grid)(o, h, w, x.device) for _,_,o in runs]
    counts = torch.tensor([b-a for a,b,_ in runs], device=x.device)
    first,du,dv,inside = (torch.stack(g).repeat_interleave(counts, 0, output_size=n)[:, None] if len(g) > 1 else g[0]
                          for g in zip(*grids))
    size = (h+2)*(w+3)-1
    at = lambda k: edge.narrow(2, k, size).gather(2, first.expand(n, c, h*w)).double()
    mix = lambda lo, hi, t: hi.sub_(lo).mul_(t).add_(lo)
    top,low = mix(at(0), at(1), du),mix(at(w+3), at(w+4), du)
    return _bytes(mix(top, low, dv)).mul_(inside).view_as(x)

# --- blends ---------------------------------------------------------------------------------------
def _grey(x):
    r,g,b = x.int().unbind(1)
    return (19595*r + 38470*g + 7471*b + 32768 >> 16)[:, None]

def _blend(g, x, f):
    g,f = g.float(),_per_image(f, x).float()
    return ((x.float() - g).mul_(f).add_(g)).clamp_(0, 255).to(torch.int32).to(torch.uint8)

def color(x, f): return x if x.shape[1] == 1 else _blend(_grey(x), x, f)

def contrast(x, f):
    n = x.shape[2]*x.shape[3]
    s = (x if x.shape[1] == 1 else _grey(x)).sum((1, 2, 3), keepdim=True)
    return _blend((2*s + n)//(2*n), x, f) # int(mean + 1/2)

def brightness(x, f): return _blend(torch.zeros((), device=x.device), x, f)

def sharpness(x, f):
    if min(x.shape[2:]) < 3: return x
    i,h,w = x.int(),x.shape[2],x.shape[3]
    s = sum(i[..., r:h-2+r, q:w-2+q] for r in range(3) for q in range(3)) + 4*i[..., 1:-1, 1:-1]
    smooth = x.clone()
    smooth[..., 1:-1, 1:-1] = ((2*s + 13)//26).to(torch.uint8) # sum/13, to the nearest
    return _blend(smooth, x, f)
