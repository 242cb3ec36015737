"Pictures that explain a technique on one image; each returns a matplotlib Figure"
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch
from torch import Tensor
from fastrobust.images.augmixing import apply_augmix, draw_augmix
from fastrobust.pixels import PixelSpace
from fastrobust.images.ops import AUGMIX_OPS, apply_ops, check_images
from fastrobust.reporting.style import BLUE, GREEN, ORANGE, PALE, PURPLE, SKY, VERMILION, bare, new_figure

__all__ = ['show_augmix']

_COLORS = [BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE]     # of the chains
_units = dict(posterize='{:.0f} bits', rotate='{:.0f}°', solarize='from {:.0f}', shear_x='{:.2f}', shear_y='{:.2f}',
              translate_x='{:.0f} px', translate_y='{:.0f} px', autocontrast='', equalize='')

def one_image(img):
    "`img` as uint8 (1,c,h,w): PIL image, array (h,w[,c]), tensor (h,w), (c,h,w) or (1,c,h,w)"
    if not isinstance(img, Tensor):
        a = np.array(img)
        img = torch.from_numpy(a).permute(2, 0, 1) if a.ndim == 3 else torch.from_numpy(a)
    x = img.as_subclass(Tensor).cpu()
    x = x[None] if x.ndim == 2 else x
    x = x[None] if x.ndim == 3 else x
    if x.is_floating_point(): x = PixelSpace().to_uint8(x, 'show_augmix')
    x = check_images(x, 'img')
    if len(x) != 1:
        raise ValueError(f"`img` must be one image, got a batch of {len(x)}. Pick one: `x[0]`.")
    return x

def _paint(ax, x, title, color='#444444'):
    a = x[0].permute(1, 2, 0).numpy()
    ax.imshow(a[..., 0] if a.shape[2] == 1 else a, cmap='gray', vmin=0, vmax=255 if a.dtype == np.uint8 else 1)
    bare(ax).set_title(title, fontsize=9)
    for s in ax.spines.values(): s.set(color=color, linewidth=2)
    return ax

def _arrow(fig, a, b, color):
    where = dict(coordsA='axes fraction', coordsB='axes fraction', axesA=a, axesB=b)
    look = dict(arrowstyle='->', color=color, lw=1.5, shrinkA=3, shrinkB=3)
    fig.add_artist(ConnectionPatch((1, .5), (0, .5), **where, **look))

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
    d = draw_augmix(1, severity, width, depth, alpha, all_ops, generator, size=tuple(x.shape[-2:]))
    k,n = d.op.shape[1:]
    fig = new_figure((1.8*(n+4), 1.85*k + .2))
    fig.get_layout_engine().set(wspace=.12, hspace=.06)
    grid = fig.add_gridspec(k, n+4, width_ratios=[1.2, *[1]*n, .5, 1.2, 1.2])
    clean = _paint(fig.add_subplot(grid[:, 0]), x, 'clean')
    mixed = _paint(fig.add_subplot(grid[:, -2]), apply_augmix(x, d._replace(m=torch.ones(1))), 'mix of the chains')
    m = d.m[0].item()
    view = _paint(fig.add_subplot(grid[:, -1]), apply_augmix(x, d), f'view = {1-m:.2f} clean + {m:.2f} mix')
    _arrow(fig, mixed, view, '#444444')
    for i in range(k):
        color,cur,last = _COLORS[i%len(_COLORS)],x,clean
        for t in range(n):
            o,a = d.op[0, i, t].item(),d.arg[0, i, t].item()
            if o < 0: break
            cur,name = apply_ops(cur, d.op[:, i, t], d.arg[:, i, t]),AUGMIX_OPS[o]
            title = f"{name.replace('_', ' ')} {_units.get(name, '× {:.2f}').format(abs(a) if a == 0 else a)}"
            ax = _paint(fig.add_subplot(grid[i, 1+t]), cur, title, color)
            _arrow(fig, last, ax, color); last = ax
        bar,w = fig.add_subplot(grid[i, n+1]),d.w[0, i].item()
        bar.bar([0], [w], color=color, width=1)
        bar.set(ylim=(0, 1), xlim=(-.5, .5), xticks=[], yticks=[], box_aspect=2.4)
        bar.spines[:].set_color(PALE), bar.set_title(f'weight {w:.2f}', fontsize=9)
        _arrow(fig, last, bar, color), _arrow(fig, bar, mixed, color)
    return fig
