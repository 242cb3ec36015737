"`corrupt`: any of the 19 common corruptions for a batch of images, seeded image by image"
# Images leave as uint8 levels, cut down rather than rounded, as those of CIFAR-C,
# Tiny-ImageNet-C and ImageNet-C.
# What lies less than a thousandth of a level below a whole level counts as that level, so that
# rounding errors of float32 decide nothing.
# These are the benchmark's corruptions recomputed, not its files: results on them are not results
# on CIFAR-10-C.
import torch
from torch import Tensor
from fastrobust.basics import nearest, need_whole
from fastrobust.images.corruptions.blur import BLURS
from fastrobust.images.corruptions.colour import COLOURS
from fastrobust.images.corruptions.digital import DIGITAL, ON_BYTES
from fastrobust.images.corruptions.draws import Draws, stream_keys
from fastrobust.images.corruptions.noise import NOISES
from fastrobust.images.corruptions.tables import (CORRUPTIONS, EXTRA_CORRUPTIONS, PARAMS,
                                                  table_for)
from fastrobust.images.corruptions.weather import WEATHER
from fastrobust.images.ops import check_images
from fastrobust.pixels import PixelSpace

__all__ = ['corrupt']

_KERNELS = {**NOISES, **BLURS, **WEATHER, **COLOURS, **DIGITAL}

def check_corruption(name, severity, table):
    "Refuse unknown names and tables, and severities other than 1, 2, 3, 4, 5"
    names = CORRUPTIONS + EXTRA_CORRUPTIONS
    if not isinstance(name, str):
        raise TypeError(f"expected the name of a corruption, got a {type(name).__name__}. The "
                        "images come first: corrupt(x, 'fog').")
    if name not in names:
        raise ValueError(f"expected the name of a corruption, got {name!r}. {nearest(name, names)}")
    need_whole('severity', severity, 1, 5, fix='Clean images: leave `corrupt` out.')
    if table not in ('auto', *PARAMS):
        raise ValueError(f"expected the name of a severity table, got {table!r}. "
                         f"{nearest(table, ['auto', *PARAMS])}")

def _levels(x):
    "Pixels as uint8 (b,c,h,w)"
    if not isinstance(x, Tensor):
        raise TypeError(f"`x` must be a tensor, got {type(x).__name__}. Use `tensor(x)`.")
    if not x.is_floating_point(): return check_images(x)
    if not x.numel(): return check_images(x.to(torch.uint8))
    return check_images(PixelSpace().to_uint8(x, 'corrupt'))

def _corrupted(u8, name, p, keys):
    "Images `u8` under a corruption of parameters `p`: uint8"
    if name in ON_BYTES: return ON_BYTES[name](u8, p)
    y = _KERNELS[name](u8.float().div_(255), p, Draws(keys, u8.device))
    return y.mul_(255).add_(1e-3).clamp_(0, 255).to(torch.uint8)

@torch.no_grad()
def corrupt(
    x:Tensor,         # Images (b,c,h,w), c=1 or 3: uint8, or float in [0,1], before Normalize
    name:str,         # One of `CORRUPTIONS` or `EXTRA_CORRUPTIONS`
    severity:int=3,   # 1 to 5
    # Severities made for 32 px ('cifar'), 64 px ('tiny', Tiny-ImageNet-C) or 224 px ('imagenet');
    # 'auto': by the shorter side, 'tiny' from 46 to 119
    table:str='auto',
    # Of all that is random; None: 0. The global streams are neither read nor moved
    seed:int=None,
    *,
    # Positions of the images in their set (b,), on which their randomness depends, so that batches
    # do not matter; None: 0 to b-1, so that every batch repeats the same draws
    ids:Tensor=None
)->Tensor:            # Images of the same shape, device and dtype; floats hold k/255
    "Corrupt images as CIFAR-C and ImageNet-C do (https://arxiv.org/abs/1903.12261); same seed and id, same draws"
    check_corruption(name, severity, table)
    u8 = _levels(x)
    b = len(x)
    if seed is None: seed = 0
    need_whole('seed', seed)
    ids = torch.arange(b) if ids is None else torch.as_tensor(ids)
    if ids.shape != (b,) or ids.is_floating_point():
        raise ValueError(f"`ids` must hold one whole number for each of {b} images, got "
                         f"{ids.dtype} of shape {tuple(ids.shape)}. Without a set to point into: "
                         "ids=None.")
    if table == 'auto': table = table_for(*x.shape[-2:])
    p = PARAMS[table][name][severity-1]
    keys = stream_keys(seed, ids, name, severity)

    # a piece at a time: bounded memory, and on the CPU the numbers of a piece stay in its cache
    piece = 2**19 if x.device.type == 'cpu' else 2**25
    if name in ON_BYTES: piece *= 4
    step = max(piece//max(u8[:1].numel(), 1), 1)
    out = torch.empty_like(u8)
    with torch.autocast(x.device.type, enabled=False):
        for i in range(0, b, step):
            s = slice(i, i+step)
            out[s] = _corrupted(u8[s], name, p, keys[s])
    if x.dtype == torch.uint8: return out
    return out.to(x.dtype).div_(255)
