"Pictures that explain a technique on one image; each returns a matplotlib Figure"
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch
from torch import Tensor
from fastrobust.images.augmixing import apply_augmix, draw_augmix
from fastrobust.images.ops import AUGMIX_OPS, apply_ops, check_images
from fastrobust.pixels import PixelSpace
from fastrobust.reporting.style import (BLUE, GREEN, ORANGE, PALE, PURPLE, SKY, VERMILION, bare,
                                        new_figure)

__all__ = ['show_augmix']

_COLORS = [BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE]     # of the chains
_units = dict(posterize='{:.0f} bits', rotate='{:.0f}°', solarize='from {:.0f}',
              shear_x='{:.2f}', shear_y='{:.2f}', translate_x='{:.0f} px', translate_y='{:.0f} px',
              autocontrast='', equalize='')

def one_image(img):
    "`img` as uint8 (1,c,h,w): PIL image, array (h,w[,c]), tensor (h,w), (c,h,w) or (1,c,h,w)"
    if not isinstance(img, Tensor):
        img = torch.from_numpy(np.array(img))
        if img.ndim == 3: img = img.permute(2, 0, 1)
    x = img.as_subclass(Tensor).cpu()
    if x.ndim == 2: x = x[None]
    if x.ndim == 3: x = x[None]
    if x.is_floating_point():
        x = PixelSpace().to_uint8(x, 'show_augmix')
    x = check_images(x, 'img')
    if len(x) != 1:
        raise ValueError(f"`img` must be one image, got a batch of {len(x)}. Pick one: `x[0]`.")
    return x

def _paint(ax, x, title, color='#444444'):
    a = x[0].permute(1, 2, 0).numpy()
    white = 255 if a.dtype == np.uint8 else 1
    gray = a.shape[2] == 1
    ax.imshow(a[..., 0] if gray else a, cmap='gray', vmin=0, vmax=white)
    bare(ax).set_title(title, fontsize=9)
    for s in ax.spines.values():
        s.set(color=color, linewidth=2)
    return ax

def _arrow(fig, a, b, color):
    where = dict(coordsA='axes fraction', coordsB='axes fraction', axesA=a, axesB=b)
    look = dict(arrowstyle='->', color=color, lw=1.5, shrinkA=3, shrinkB=3)
    arrow = ConnectionPatch((1, .5), (0, .5), **where, **look)
    fig.add_artist(arrow)

def _told(name, level):
    "An operation and its level, in words"
    if level == 0: level = abs(level)       # not -0
    unit = _units.get(name, '× {:.2f}')
    return f"{name.replace('_', ' ')} {unit.format(level)}"

def _chain(fig, grid, x, clean, d, i, color):
    "Chain `i` step by step, with arrows, on a row of the grid; returns the axes of its last image"
    last = clean
    for t in range(d.op.shape[2]):
        op = d.op[:, i, t]
        arg = d.arg[:, i, t]
        if op.item() < 0: break
        x = apply_ops(x, op, arg)
        name = AUGMIX_OPS[op.item()]
        ax = fig.add_subplot(grid[i, 1+t])
        _paint(ax, x, _told(name, arg.item()), color)
        _arrow(fig, last, ax, color)
        last = ax
    return last

def _weight(ax, w, color):
    "The weight of a chain as a bar"
    ax.bar([0], [w], color=color, width=1)
    ax.set(ylim=(0, 1), xlim=(-.5, .5), xticks=[], yticks=[], box_aspect=2.4)
    ax.spines[:].set_color(PALE)
    ax.set_title(f'weight {w:.2f}', fontsize=9)

def show_augmix(
    img,               # One image: PIL, array (h,w[,c]) or tensor (c,h,w); uint8, or float in [0,1]
    severity:float=3,  # Upper end of the level of an operation, in [0.1,10]
    width:int=3,       # Chains
    depth:int=-1,      # Operations per chain; -1: 1 to 3
    alpha:float=1.,    # Of the Dirichlet and Beta weights
    all_ops:bool=False,# Also colour, contrast, brightness, sharpness
    generator=None     # torch.Generator on the CPU; None: torch's own
)->Figure:
    "What AugMix does to one image: every chain step by step, the chains' weights, their mix, and the view"
    x = one_image(img)
    size = tuple(x.shape[-2:])
    d = draw_augmix(1, severity, width, depth, alpha, all_ops, generator, size=size)
    k,n = d.op.shape[1:]

    fig = new_figure((1.8*(n+4), 1.85*k + .2))
    fig.set_layout_engine('constrained', wspace=.12, hspace=.06)
    widths = [1.2, *[1]*n, .5, 1.2, 1.2]
    grid = fig.add_gridspec(k, n+4, width_ratios=widths)
    clean = fig.add_subplot(grid[:, 0])
    mixed = fig.add_subplot(grid[:, -2])
    view = fig.add_subplot(grid[:, -1])

    _paint(clean, x, 'clean')
    mix = apply_augmix(x, d._replace(m=torch.ones(1)))
    _paint(mixed, mix, 'mix of the chains')
    m = d.m[0].item()
    _paint(view, apply_augmix(x, d), f'view = {1-m:.2f} clean + {m:.2f} mix')
    _arrow(fig, mixed, view, '#444444')

    for i in range(k):
        color = _COLORS[i%len(_COLORS)]
        last = _chain(fig, grid, x, clean, d, i, color)
        bar = fig.add_subplot(grid[i, n+1])
        _weight(bar, d.w[0, i].item(), color)
        _arrow(fig, last, bar, color)
        _arrow(fig, bar, mixed, color)
    return fig
