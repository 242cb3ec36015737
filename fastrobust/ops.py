"Thirteen image operations on uint8 batches, equal to Pillow bit for bit, each image with its own parameter"
# Batches are (b,c,h,w) uint8, c=1 (Pillow's mode 'L') or 3 ('RGB'), any h and w, any device; uint8 of that shape back.
# Three families, one kernel each: look-up tables, affine maps (bilinear, black outside), blends with another image.
# Pillow truncates where one would expect rounding; so do we. Reach the functions as `ops.rotate(x, 10)`: words like
# `color` stay out of `__all__`. `color` leaves grey images alone: Pillow blends them with their own grey version.
import math
import torch
from torch import Tensor

__all__ = ['AUGMIX_OPS', 'apply_ops']

# The first 9 are AugMix's default set; the last 4 resemble corruptions of ImageNet-C
AUGMIX_OPS = ('autocontrast', 'equalize', 'posterize', 'rotate', 'solarize', 'shear_x', 'shear_y', 'translate_x',
              'translate_y', 'color', 'contrast', 'brightness', 'sharpness')

def _histogram(x):
    n,c = x.shape[:2]
    i = x.flatten(2).long() + 256*torch.arange(n*c, device=x.device).view(n, c, 1)
    return torch.bincount(i.flatten(), minlength=n*c*256).view(n, c, 256)

def _ramp(x): return torch.arange(256, device=x.device)

def _autocontrast(x, _):
    full = (_histogram(x) > 0).long()
    lo,hi = full.argmax(2, keepdim=True),255 - full.flip(2).argmax(2, keepdim=True)
    gap = (hi-lo).clamp(min=1).double()
    scale = torch.full_like(gap, 255.)/gap # never `255./gap`: torch would take a rounded reciprocal times 255
    lut = (_ramp(x)*scale + -lo*scale).trunc().clamp(0, 255).long()
    return torch.where(hi > lo, lut, _ramp(x))

def _equalize(x, _):
    h = _histogram(x)
    hi = 255 - (h > 0).long().flip(2).argmax(2, keepdim=True)
    step = (h.sum(2, keepdim=True) - h.gather(2, hi))//255
    lut = (step//2 + h.cumsum(2) - h)//step.clamp(min=1)
    return torch.where(step > 0, lut.clamp(max=255), _ramp(x))

def _posterize(x, bits): return _ramp(x) & (256 - 2**(8 - bits.long()))

def _solarize(x, threshold): return torch.where(_ramp(x) < threshold, _ramp(x), 255 - _ramp(x))

def _lookup(x, lut): return lut.to(torch.uint8).gather(2, x.flatten(2).long()).view_as(x)

def _rotation(deg, h, w):
    a = [-math.radians(o%360.) for o in deg.tolist()]
    cos,sin = (deg.new_tensor([round(f(o), 15) for o in a]) for f in (math.cos, math.sin)) # torch's round differs at 45
    c,f = cos*(-w/2) + sin*(-h/2) + w/2,-sin*(-w/2) + cos*(-h/2) + h/2 # the centre stays where it is
    return cos,sin,c,-sin,cos,f

_luts = dict(autocontrast=_autocontrast, equalize=_equalize, posterize=_posterize, solarize=_solarize)
_maps = dict(rotate     =_rotation, # (a,b,c,d,e,f): centre of an output pixel -> point of the input
             shear_x    =lambda s, h, w: (1., s,  0., 0., 1., 0.), shear_y    =lambda s, h, w: (1., 0., 0., s,  1., 0.),
             translate_x=lambda t, h, w: (1., 0., t,  0., 1., 0.), translate_y=lambda t, h, w: (1., 0., 0., 0., 1., t))

def _affine(x, m):
    "Bilinear samples at the points `m` (n,6) gives for the pixel centres, in float64, then truncated"
    n,c,h,w = x.shape
    px,py = (torch.arange(s, device=x.device, dtype=torch.float64) + .5 for s in (w, h))
    m,py = m.to(x.device).view(n, 6, 1, 1),py[:, None]
    u,v = m[:, 0]*px + m[:, 1]*py + m[:, 2],m[:, 3]*px + m[:, 4]*py + m[:, 5]
    inside = (u >= 0) & (u < w) & (v >= 0) & (v < h)
    u,v = u-.5,v-.5
    i,j = u.floor(),v.floor()
    du,dv = (u-i)[:, None],(v-j)[:, None]
    cols,rows = ([(o.long()+k).clamp(0, s-1) for k in (0, 1)] for o,s in ((i, w), (j, h)))
    flat = x.flatten(2)
    def at(r, q): return flat.gather(2, (r*w + q).view(n, 1, h*w).expand(n, c, h*w)).view(x.shape).double()
    a,b = (at(r, cols[0]) + (at(r, cols[1]) - at(r, cols[0]))*du for r in rows)
    return (a + (b-a)*dv).mul(inside[:, None]).to(torch.uint8)

def _grey(x):
    r,g,b = x.int().unbind(1)
    return (19595*r + 38470*g + 7471*b + 32768 >> 16)[:, None]

def _color(x): return x if x.shape[1] == 1 else _grey(x).to(torch.uint8).expand_as(x)

def _contrast(x):
    n = x.shape[2]*x.shape[3]
    s = (x if x.shape[1] == 1 else _grey(x)).long().sum((1, 2, 3), keepdim=True)
    return ((2*s + n)//(2*n)).to(torch.uint8).expand_as(x) # int(mean + 1/2)

def _sharpness(x):
    if min(x.shape[2:]) < 3: return x
    i,h,w = x.int(),x.shape[2],x.shape[3]
    s = sum(i[..., r:h-2+r, q:w-2+q] for r in range(3) for q in range(3)) + 4*i[..., 1:-1, 1:-1]
    out = x.clone()
    out[..., 1:-1, 1:-1] = ((2*s + 13)//26).to(torch.uint8) # sum/13, to the nearest
    return out

_degenerates = dict(color=_color, contrast=_contrast, brightness=torch.zeros_like, sharpness=_sharpness)

def _blend(g, x, f):
    g,x = g.float(),x.float()
    return (g + f.float().view(-1, 1, 1, 1)*(x-g)).clamp(0, 255).to(torch.uint8)

def check_images(x, name='x'):
    "`x` as a plain Tensor if it is a uint8 batch (b,1|3,h,w), else an error that says what to do"
    if not isinstance(x, Tensor) or x.dtype != torch.uint8:
        got = getattr(x, 'dtype', type(x).__name__)
        if isinstance(x, Tensor) and x.numel(): got = f'{got} in [{x.min():.3g}, {x.max():.3g}]'
        raise TypeError(f"`{name}` must be a uint8 tensor with pixels 0-255, got {got}. Pixels in [0,1]: pass "
                        "`(x*255).round().byte()`; normalised images: `pixel_space(dls).to_uint8(x)`.")
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ValueError(f"`{name}` must have the shape (b,c,h,w) with c=1 or 3, got {tuple(x.shape)}. One image: "
                         "`x[None]`; channels last: `x.permute(0,3,1,2)`.")
    return x.as_subclass(Tensor)

@torch.no_grad()
def apply_ops(
    x:Tensor,   # Images (b,c,h,w), uint8
    op:Tensor,  # Which operation for each image (b,), positions in `AUGMIX_OPS`; -1 leaves the image as it is
    arg:Tensor, # Its parameter (b,): bits, degrees, threshold, shear, pixels, factor; the first two have none
)->Tensor:      # Images (b,c,h,w), uint8
    "Give every image of the batch its own operation: three kernels however many operations are asked for"
    x,(h,w) = check_images(x),x.shape[-2:]
    out,op,arg = x.clone(),op.cpu(),arg.cpu().double()
    def rows(names): # per operation of a family that occurs: name, row numbers
        return [(o,r) for o in names if len(r := (op == AUGMIX_OPS.index(o)).nonzero()[:, 0])]
    def family(names, kernel):
        if not (todo := rows(names)): return
        i = torch.cat([r for _,r in todo]).to(x.device)
        out[i] = kernel(todo, x[i])
    def luts(todo, xi):
        ls = [_luts[o](x[r.to(x.device)], arg[r].to(x.device)[:, None, None]) for o,r in todo]
        return _lookup(xi, torch.cat([l.expand(-1, x.shape[1], -1) for l in ls]))
    def maps(todo, xi):
        ms = [torch.stack(torch.broadcast_tensors(*map(torch.as_tensor, _maps[o](arg[r], h, w))), 1) for o,r in todo]
        return _affine(xi, torch.cat([m.double().view(-1, 6) for m in ms]))
    def blends(todo, xi):
        gs = [_degenerates[o](x[r.to(x.device)]) for o,r in todo]
        return _blend(torch.cat(gs), xi, torch.cat([arg[r] for _,r in todo]).to(x.device))
    family(_luts, luts), family(_maps, maps), family(_degenerates, blends)
    return out

def _one(x, name, arg=0.):
    arg = torch.as_tensor(arg, dtype=torch.float64).cpu()
    if arg.ndim > 1 or arg.numel() not in (1, len(check_images(x))):
        raise ValueError(f"`ops.{name}` needs one number or one per image ({len(x)}), got shape {tuple(arg.shape)}. "
                         "Pass a (b,) tensor.")
    return apply_ops(x, torch.full((len(x),), AUGMIX_OPS.index(name)), arg.expand(len(x)))

def autocontrast(x:Tensor)->Tensor: # Images (b,c,h,w), uint8
    "Stretch each channel until its darkest value is 0 and its brightest 255"
    return _one(x, 'autocontrast')

def equalize(x:Tensor)->Tensor: # Images (b,c,h,w), uint8
    "Spread each channel's values so that its histogram becomes nearly flat"
    return _one(x, 'equalize')

def posterize(
    x:Tensor, # Images (b,c,h,w), uint8
    bits,     # Highest bits kept, 1-8: a number or one per image (b,)
)->Tensor:
    "Keep the `bits` highest bits of every value"
    b = torch.as_tensor(bits)
    if b.numel() and not (b.min() >= 1 and b.max() <= 8):
        raise ValueError(f"`bits` must be in 1-8, got {bits}. 8 keeps the image as it is.")
    return _one(x, 'posterize', bits)

def solarize(
    x:Tensor,  # Images (b,c,h,w), uint8
    threshold, # First value that is inverted, 0-256 (256: none): a number or one per image (b,)
)->Tensor:
    "Invert all values from `threshold` on"
    return _one(x, 'solarize', threshold)

def rotate(
    x:Tensor, # Images (b,c,h,w), uint8
    degrees,  # Counter-clockwise angle: a number or one per image (b,)
)->Tensor:
    "Rotate about the centre; size kept, black outside"
    return _one(x, 'rotate', degrees)

def shear_x(
    x:Tensor, # Images (b,c,h,w), uint8
    s,        # Columns moved per row: a number or one per image (b,)
)->Tensor:
    "Move row y by `s`*y columns to the left"
    return _one(x, 'shear_x', s)

def shear_y(
    x:Tensor, # Images (b,c,h,w), uint8
    s,        # Rows moved per column: a number or one per image (b,)
)->Tensor:
    "Move column x by `s`*x rows up"
    return _one(x, 'shear_y', s)

def translate_x(
    x:Tensor, # Images (b,c,h,w), uint8
    t,        # Pixels, negative: to the right: a number or one per image (b,)
)->Tensor:
    "Move the image by `t` pixels to the left, black comes in"
    return _one(x, 'translate_x', t)

def translate_y(
    x:Tensor, # Images (b,c,h,w), uint8
    t,        # Pixels, negative: down: a number or one per image (b,)
)->Tensor:
    "Move the image by `t` pixels up, black comes in"
    return _one(x, 'translate_y', t)

def color(
    x:Tensor, # Images (b,c,h,w), uint8
    factor,   # 0 grey, 1 unchanged, above 1 more colourful: a number or one per image (b,)
)->Tensor:
    "Blend with the grey version; a grey image stays as it is"
    return _one(x, 'color', factor)

def contrast(
    x:Tensor, # Images (b,c,h,w), uint8
    factor,   # 0 flat, 1 unchanged, above 1 more contrast: a number or one per image (b,)
)->Tensor:
    "Blend with the flat image of the mean grey level"
    return _one(x, 'contrast', factor)

def brightness(
    x:Tensor, # Images (b,c,h,w), uint8
    factor,   # 0 black, 1 unchanged, above 1 brighter: a number or one per image (b,)
)->Tensor:
    "Blend with black"
    return _one(x, 'brightness', factor)

def sharpness(
    x:Tensor, # Images (b,c,h,w), uint8
    factor,   # 0 smoothed, 1 unchanged, above 1 sharpened: a number or one per image (b,)
)->Tensor:
    "Blend with the image smoothed by a 3x3 window"
    return _one(x, 'sharpness', factor)
