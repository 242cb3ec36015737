"Thirteen image operations on uint8 batches, equal to Pillow bit for bit, each image with its own parameter"
# Batches are (b,c,h,w) uint8, c=1 (Pillow's mode 'L') or 3 ('RGB'), any h and w, any device; uint8
# of that shape back. What each operation does to the bytes is in kernels.py (torch) and loops.py
# (numba), who computes in engine.py; here is who gets which operation. Pillow truncates where one
# would expect rounding; so do we. Reach the functions as `ops.rotate(x, 10)`: words like `color`
# stay out of `__all__`. `color` leaves grey images alone: Pillow blends them with their own grey
# version.
import torch
from torch import Tensor
from fastrobust.images import engine, kernels
from fastrobust.images.kernels import AUGMIX_OPS

__all__ = []

def check_images(x, name='x'):
    "`x` as a plain Tensor if it is a uint8 batch (b,1|3,h,w), else an error that says what to do"
    if not isinstance(x, Tensor) or x.dtype != torch.uint8:
        got = getattr(x, 'dtype', type(x).__name__)
        if isinstance(x, Tensor) and x.numel():
            got = f'{got} in [{x.min().item():.3g}, {x.max().item():.3g}]'
        raise TypeError(f"`{name}` must be a uint8 tensor with pixels 0-255, got {got}. Pixels in "
                        "[0,1]: pass `(x*255).round().byte()`; normalised images: "
                        "`fastrobust.pixels.pixel_space(dls).to_uint8(x)`.")
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ValueError(f"`{name}` must have the shape (b,c,h,w) with c=1 or 3, got "
                         f"{tuple(x.shape)}. One image: `x[None]`; channels last: "
                         "`x.permute(0,3,1,2)`.")
    return x.as_subclass(Tensor)

# values that a kernel takes at once: what it computes in float64 then stays in the cache
_block = 2**17

def _at_once(x):
    "How many images of `x` a kernel takes at once"
    if x.device.type != 'cpu': return len(x)
    return max(1, _block//max(1, x[:1].numel()))

def _shares(op):
    "Each operation's kernel and its part of the ordered `op`: (kernel, start, end)"
    starts = torch.searchsorted(op, torch.arange(len(AUGMIX_OPS)+1)).tolist()
    ops = [getattr(kernels, name) for name in AUGMIX_OPS]
    return zip(ops, starts, starts[1:])

def run_ops(x, op, arg):
    "`apply_ops` with torch's kernels, those of one operation together, block after block; may write into `x`"
    order = arg.argsort()
    order = order[op[order].argsort(stable=True)]      # by operation, then by parameter
    shares = _shares(op[order])
    n = _at_once(x)

    if n <= 1:  # image by image, where they are
        for kernel,a,b in shares:
            for i in order[a:b].tolist():
                one = slice(i, i+1)
                x[one] = kernel(x[one], arg[one])
        return x

    x = x.index_select(0, order.to(x.device))
    arg = arg[order]
    for kernel,a,b in shares:
        for i in range(a, b, n):
            j = min(i+n, b)
            x[i:j] = kernel(x[i:j], arg[i:j])
    return x.index_select(0, order.argsort().to(x.device))

@torch.no_grad()
def apply_ops(
    x:Tensor,   # Images (b,c,h,w), uint8
    # Which operation for each image (b,), positions in `AUGMIX_OPS`; -1 leaves the image as it is
    op:Tensor,
    # Its parameter (b,): bits, degrees, threshold, shear, pixels, factor; the first two have none
    arg:Tensor,
)->Tensor:      # Images (b,c,h,w), uint8
    "Give every image of the batch its own operation"
    x = check_images(x)
    if not op.shape == arg.shape == x.shape[:1]:
        raise ValueError(f"`op` and `arg` must have a number for each of {len(x)} images, got the "
                         f"shapes {tuple(op.shape)} and {tuple(arg.shape)}.")
    op = op.cpu()
    arg = arg.cpu().double()
    loops = engine.loops_for(x)
    if loops: return engine.run(loops.each, x, op, arg, torch.uint8)
    return run_ops(x.clone(), op, arg)

def _one(x, name, arg=0.):
    arg = torch.as_tensor(arg, dtype=torch.float64).cpu()
    if arg.ndim > 1 or arg.numel() not in (1, len(check_images(x))):
        raise ValueError(f"`ops.{name}` needs one number or one per image ({len(x)}), got shape "
                         f"{tuple(arg.shape)}. Pass a (b,) tensor.")
    op = torch.full((len(x),), AUGMIX_OPS.index(name))
    return apply_ops(x, op, arg.expand(len(x)))

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
