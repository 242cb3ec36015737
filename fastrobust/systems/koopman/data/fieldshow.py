"Pictures of fields, lines or images: target and prediction in one scale, the error in its own"
import numpy as np
import torch
from fastai.torch_basics import dispatch
from fastai.torch_core import TensorBase
from fastrobust.reporting.style import (
    BLUE, DARK, VERMILION, axes_on, bare, figure_legend, new_figure, tidy)

__all__ = ['TensorField']

class TensorField(TensorBase):
    "Fields (..,t*c,*grid): frames one after the other, of each its c variables"
    def show(self, ctx=None, n_vars=1, var=0, frame=-1, title=None, **kwargs):
        "One frame of one variable, on the axes `ctx`"
        a = frame_of(self, n_vars, var, frame)
        ax = axes_on(ctx, (4, 3))
        if a.ndim == 1: ax.plot(places(len(a)), a, **kwargs)
        else: bare(ax).imshow(a, **field_look([a]), **kwargs)
        if title: ax.set_title(title)
        return ax

# --- one frame, and how it looks ------------------------------------------------------------------
def frame_of(
    u,      # Field (t*c,*grid)
    n_vars, # Variables c
    var,    # Which
    frame   # Which frame; -1: the last
):          # Numpy (*grid)
    "One frame of one variable"
    u = u.detach().as_subclass(torch.Tensor).float().cpu()
    n = u.shape[0]//n_vars
    if not (0 <= var < n_vars and -n <= frame < n):
        raise IndexError(f"expected `var` in 0..{n_vars-1} and `frame` in {-n}..{n-1}, got var={var}, "
                         f"frame={frame}. Frames count from 0, -1 is the last.")
    return u.unflatten(0, (n, n_vars))[frame, var].numpy()

def places(n): return np.arange(n)/n

def field_look(fields):
    "One scale for all: about zero in two colours where they have both signs, else from least to most"
    lo = min(float(np.nanmin(o)) for o in fields)
    hi = max(float(np.nanmax(o)) for o in fields)
    # a few small values below zero are no second sign
    if lo < 0 < hi and min(-lo, hi) > .05*max(-lo, hi):
        m = max(-lo, hi)
        return dict(cmap='RdBu_r', vmin=-m, vmax=m)
    return dict(cmap='viridis', vmin=lo, vmax=hi if hi > lo else lo+1)

def _error_look(errors):
    m = max(float(np.nanmax(np.abs(o))) for o in errors) or 1.
    return dict(cmap='PuOr', vmin=-m, vmax=m)

def _error_text(row, loss):
    "Loss of a row of input, target, prediction, error, or if that is None its relative L2 error"
    if loss is not None: return f'loss {float(loss):.3g}'
    size = float(np.linalg.norm(row[1]))
    if not size: return ''
    return f'relative L2 {float(np.linalg.norm(row[3]))/size:.3g}'

# --- images ---------------------------------------------------------------------------------------
def _bar(axes, label, wide=False):
    axes = list(axes)
    fig,im = axes[0].figure,axes[0].images[0]
    aspect = 30 if wide else 14
    bar = fig.colorbar(im, ax=axes, location='bottom', shrink=.8, aspect=aspect, pad=.02)
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=8)
    bar.ax.locator_params(nbins=aspect//5)
    bar.outline.set_visible(False)

def _images(rows, names, pair, figsize, losses):
    "Rows of input, target and perhaps prediction and error; a colour bar under each scale"
    k = len(names)
    first = int(pair)       # whose input may be another quantity
    h,w = rows[0][1].shape
    side = 2.3
    tall = min(max(side*h/w, 1.), 4.)
    fig = new_figure(figsize or (side*k, tall*len(rows) + .9))
    axes = fig.subplots(len(rows), k, squeeze=False)
    shared = field_look([o for r in rows for o in r[first:3]])
    looks = [shared]*3
    if pair: looks[0] = field_look([r[0] for r in rows])
    if k > 3: looks.append(_error_look([r[3] for r in rows]))
    for at,r,loss in zip(axes, rows, losses):
        for ax,o,look in zip(at, r, looks): bare(ax).imshow(o, **look)
        if k > 3: at[3].set_xlabel(_error_text(r, loss), fontsize=9)
    for ax,name in zip(axes[0], names): ax.set_title(name, fontsize=10)
    if pair: _bar(axes[:,0], 'input')
    alone = pair and k < 3
    label = 'target' if alone else 'field'
    _bar(axes[:,first:3].flatten(), label, wide=not alone)
    if k > 3: _bar(axes[:,3], 'prediction - target')
    return axes.flatten()

# --- lines ----------------------------------------------------------------------------------------
_LINES = [dict(color=DARK, ls=':', lw=1.3),         # input
          dict(color=BLUE, ls='-', lw=1.8),         # target
          dict(color=VERMILION, ls='--', lw=1.5)]   # prediction

def _apart(row):
    "Whether the input of a pair would flatten what is drawn beside it"
    seen,*others = (float(np.ptp(o)) for o in row[:3])
    return not max(others)/3 <= seen <= 3*max(others)

def _one_item(top, low, row, names, right, loss):
    ax = top.twinx() if right else top
    for o,name,look in zip(row, names, _LINES):
        (ax if name == names[0] else top).plot(places(len(o)), o, **look)
    if ax is not top:       # the input has its scale on the right
        ax.spines[['top', 'left', 'bottom']].set_visible(False)
        ax.tick_params(colors=DARK)
    tidy(top, behind=False)
    if low is None: return
    top.set_title(_error_text(row, loss), fontsize=9)
    tidy(low, behind=False).axhline(0, color=DARK, lw=.6)
    low.plot(places(len(row[3])), row[3], color=VERMILION, lw=1.2)

def _lines(rows, names, pair, figsize, losses):
    "A panel an item: input, target and prediction as lines, the error below"
    cols = min(len(rows), 4)
    lines = -(-len(rows)//cols)
    heights = [3, 1.2] if len(names) > 3 else [3]
    fig = new_figure(figsize or (3.1*cols + .4, .75*sum(heights)*lines + .4))
    k = len(heights)
    axes = fig.subplots(k*lines, cols, squeeze=False, sharex=True, height_ratios=heights*lines)
    axes = axes.reshape(lines, k, cols).swapaxes(1, 2).reshape(-1, k)      # item, panels
    for at in axes[len(rows):]:
        for ax in at: ax.set_axis_off()
    right = pair and any(map(_apart, rows))     # of all panels, as they share a legend
    for i,(at,row,loss) in enumerate(zip(axes, rows, losses)):
        low = at[1] if k > 1 else None
        _one_item(at[0], low, row, names, right, loss)
        if low is not None and i % cols == 0: low.set_ylabel('error', fontsize=9)
        if i + cols >= len(rows): at[-1].tick_params(labelbottom=True)     # nothing stands below
    if right: names = [f'{names[0]} (right)', *names[1:]]
    for name,look in zip(names, _LINES):
        axes[0,0].plot([], [], label=name, **look)      # for the legend
    figure_legend(fig, axes[0,0], ncols=3)
    return axes.flatten()

# --- what of a batch is drawn ---------------------------------------------------------------------
def _rows(samples, outs, sizes, var, frame):
    "Of each item the last frame that was seen, its target, its prediction and the error"
    n_vars,y_vars = sizes
    y_var = min(var, y_vars-1)
    rows = []
    for i,s in enumerate(samples):
        y = frame_of(s[-1], y_vars, y_var, frame)
        row = [frame_of(s[0], n_vars, min(var, n_vars-1), -1), y]
        if outs is not None:
            p = frame_of(outs[i][-1], y_vars, y_var, frame)
            row += [p, p-y]
        rows.append(row)
    return rows

def _names(sample, outs, sizes, frame):
    "What stands above the pictures"
    n_vars,y_vars = sizes
    which = ''
    if sample[-1].shape[0] > y_vars: which = ', last frame' if frame == -1 else f', frame {frame}'
    seen = 'input, last frame' if sample[0].shape[0] > n_vars else 'input'
    if outs is None: return [seen, f'target{which}']
    return [seen, f'target{which}', f'prediction{which}', 'error']

def draw_fields(
    samples,        # Items (x, y) or (x, t, y)
    outs=None,      # Of each a tuple whose last is the prediction, or None
    max_n=4,        # Items; None: all
    n_vars=1,       # Variables c of the inputs
    y_vars=None,    # Of the targets; None: as many
    pair=False,     # Fields to other fields? Then inputs have a colour scale of their own
    var=0,          # Which variable
    frame=-1,       # Which frame of the target; -1: the last
    figsize=None,   # In inches; None: by number and shape of the fields
    losses=None     # Of each item, shown instead of its relative L2 error
):                  # Axes, a flat array
    "A row or a panel for each item"
    samples = list(samples)[:max_n]
    y_vars = n_vars if y_vars is None else y_vars
    if not 0 <= var < max(n_vars, y_vars):
        raise IndexError(f"expected `var` in 0..{max(n_vars, y_vars)-1}, got {var}. Variables count "
                         "from 0.")
    if len(samples[0]) == 1:        # no targets
        if outs is None:
            return [s[0].show(n_vars=n_vars, var=var) for s in samples]
        samples = [(s[0], o[-1]) for s,o in zip(samples, outs)]
        outs = None
    sizes = n_vars,y_vars
    rows = _rows(samples, outs, sizes, var, frame)
    names = _names(samples[0], outs, sizes, frame)
    draw = _lines if rows[0][0].ndim == 1 else _images
    return draw(rows, names, pair, figsize, [None]*len(rows) if losses is None else losses)

def _drawn(samples, *args, nrows=None, ncols=None, **kwargs):     # noqa: ARG001
    "As `draw_fields`, with what a `ShownDL` says of its samples; rows and columns are as these need them"
    return draw_fields(samples, *args, **getattr(samples, 'look', {}) | kwargs)

# --- fastai's doors -------------------------------------------------------------------------------
# `ctxs` are not asked for: the pictures of an item share scales with all others
# mypy: disable-error-code="no-redef"
@dispatch
def show_batch(x:TensorField, y, samples, ctxs=None, max_n=4, **kwargs):        # noqa: ARG001
    return _drawn(samples, max_n=max_n, **kwargs)

@dispatch
def show_batch(x:tuple, y:TensorField, samples, ctxs=None, max_n=4, **kwargs):  # noqa: ARG001,F811
    return _drawn(samples, max_n=max_n, **kwargs)

@dispatch
def show_results(x:TensorField, y, samples, outs, ctxs=None, max_n=4, **kwargs):    # noqa: ARG001
    return _drawn(samples, outs, max_n, **kwargs)

@dispatch
def show_results(x:tuple, y:TensorField, samples, outs, ctxs=None, max_n=4, **kwargs):  # noqa: ARG001,F811
    return _drawn(samples, outs, max_n, **kwargs)

@dispatch
def plot_top_losses(x:TensorField, y, samples, outs, raws, losses, max_n=None, **kwargs):   # noqa: ARG001
    return _drawn(samples, outs, max_n, losses=losses, **kwargs)

@dispatch
def plot_top_losses(x:tuple, y:TensorField, samples, outs, raws, losses, max_n=None, **kwargs):     # noqa: ARG001,F811
    return _drawn(samples, outs, max_n, losses=losses, **kwargs)
