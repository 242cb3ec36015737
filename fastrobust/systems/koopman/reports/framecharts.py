"The frames of one field beside those predicted: lines as pictures of space and time, planes at a few steps"
import numpy as np
from fastrobust.reporting.style import DARK, PALE, bare, new_figure
from fastrobust.systems.koopman.data.fieldshow import field_look

__all__ = []

ROWS = 'truth','{}','error'

def _looks(true, error):
    "The scale of the truth for both, and one about 0 for the error, which what runs away does not stretch"
    shared = field_look([true])
    size = np.abs(error[np.isfinite(error)])
    m = min(size.max(initial=0.), 2*np.nanmax(np.abs(true))) or 1.
    return [shared, shared, dict(cmap='PuOr', vmin=-m, vmax=m)]

def _bars(fig, axes):
    "A colour bar for each of the two scales, pointed where something is beyond"
    axes = np.asarray(axes).reshape(3, -1)
    for rows,label in ((axes[:2], 'field'), (axes[2:], 'prediction - truth')):
        images = [ax.images[0] for ax in rows.flat]
        lo,hi = images[0].get_clim()
        values = np.ma.concatenate([o.get_array().ravel() for o in images])
        beyond = values.min() < lo or values.max() > hi
        look = dict(aspect=12*len(rows), pad=.02, extend='both' if beyond else 'neither')
        bar = fig.colorbar(images[0], ax=list(rows.flat), **look)
        bar.set_label(label, fontsize=9)
        bar.ax.tick_params(labelsize=8)
        bar.ax.locator_params(nbins=5)
        bar.outline.set_visible(False)

def _lines(rows, names, looks, known, figsize):
    "Fields on a line: steps to the right, places upward"
    steps = rows[1].shape[0]
    fig = new_figure(figsize or (7.5, 5.6))
    axes = fig.subplots(3, 1, sharex=True, sharey=True)
    for ax,a,name,look in zip(axes, rows, names, looks):
        look = dict(look, extent=(.5, steps+.5, 0, 1), interpolation='nearest')
        ax.imshow(a.T, aspect='auto', origin='lower', **look)
        ax.set_facecolor(PALE)      # where there is no number
        ax.set_title(name, fontsize=10)
        ax.set_ylabel('place', fontsize=9)
        if known < steps: ax.axvline(known+.5, color=DARK, lw=1, ls=':')
    axes[-1].set_xlabel('step')
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    _bars(fig, axes)
    return fig

def _planes(rows, names, looks, at, figsize):
    "Fields on a plane: a column for each step"
    h,w = rows[0].shape[1:]
    side = 1.9
    tall = min(max(side*h/w, .9), 3.)
    fig = new_figure(figsize or (side*len(at) + 1.1, 3*tall + .5))
    axes = fig.subplots(3, len(at), squeeze=False)
    for line,a,name,look in zip(axes, rows, names, looks):
        for ax,step in zip(line, at):
            bare(ax).imshow(a[step-1], **look)
            ax.set_facecolor(PALE)
        line[0].set_ylabel(name, fontsize=10)
    for ax,step in zip(axes[0], at): ax.set_title(f'step {step}', fontsize=10)
    _bars(fig, axes)
    return fig

def draw_frames(
    true,       # Frames (steps,*grid), NaN where there is no truth
    pred,       # Predicted ones
    name,       # By whom
    steps,      # Steps shown of planes, from 1 on; None: five
    known,      # Last step that has a truth
    title,      # Above all
    figsize=None    # In inches
):              # Figure
    "Truth above, prediction in its colours, the error below"
    finite = np.where(np.isfinite(pred), pred, np.nan)
    error = finite-true
    names = [o.format(name) for o in ROWS]
    rows,looks = (true, finite, error),_looks(true, error)
    if true.ndim == 2: fig = _lines(rows, names, looks, known, figsize)
    else:
        if steps is None:
            spread = np.linspace(1, len(true), 5)
            if known < len(true):       # three that have a truth
                spread = [*np.linspace(1, known, 3), *np.linspace(known, len(true), 3)]
            steps = sorted(set(np.round(spread).astype(int)))
        fig = _planes(rows, names, looks, list(steps), figsize)
    fig.suptitle(title, fontsize=11)
    return fig
