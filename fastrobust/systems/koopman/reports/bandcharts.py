"Pictures of conformal bands: a field in its band, errors, coverage by level"
import numpy as np
from scipy import stats
from fastrobust.reporting.style import (
    BLUE, DARK, GREY, INK, PALE, SKY, VERMILION, bare, new_figure, tidy, whole_numbers)
from fastrobust.systems.koopman.data.fieldshow import field_look, places

__all__ = []

def _line(ax, y, pred, r, kind):
    "A field on a line, in its band"
    x = places(len(y))
    if kind == 'sup': ax.fill_between(x, pred-r, pred+r, color=SKY, alpha=.35, lw=0, label='band')
    ax.plot(x, pred, color=BLUE, lw=1.6, label='prediction')
    ax.plot(x, y, color=INK, lw=1.2, ls='--', label='what came')
    ax.legend(frameon=False, fontsize=8)
    ax.set_xlabel('x')
    tidy(ax, 'both')

def _images(axs, y, pred, r, kind, which):
    "A field on a plane: what came, and its error in half widths of the band, or in radii"
    look = field_look([y, pred])
    bare(axs[0]).imshow(y, **look)
    axs[0].set_title(f'what came{which}', fontsize=10)
    far,unit = (1, 'half widths of the band') if kind == 'sup' else (3, 'radii')
    shown = bare(axs[1]).imshow((pred-y)/r, cmap='PuOr', vmin=-far, vmax=far)
    axs[1].set_title('error of the prediction', fontsize=10)
    _bar(axs[0], axs[0].images[0], 'field')
    _bar(axs[1], shown, f'in {unit}')

def _bar(ax, image, label):
    bar = ax.figure.colorbar(image, ax=ax, shrink=.8, pad=.03, aspect=18)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)

def _legend(ax, loc, room):
    "A legend in a place of its own: axes from 0 up to `room` times where they end"
    ax.set_ylim(0, room*ax.get_ylim()[1])
    ax.legend(loc=loc, fontsize=8, frameon=True, framealpha=.85, edgecolor='none', borderpad=.2)

def _histogram(ax, rep):
    "Scores of the fields calibrated on and of the new ones, and q"
    b = rep.bands
    old,new = b.calibration,rep.scores[np.isfinite(rep.scores)]
    old = old[np.isfinite(old)]
    bins = np.linspace(0, max(old.max(), new.max(initial=0)), 31)
    ax.hist(old, bins, density=True, color=PALE, label=f'calibrated on ({b.n} {b.what})')
    label = f'new {rep.new} ({len(rep.scores)})'
    ax.hist(new, bins, density=True, histtype='step', color=BLUE, lw=1.6, label=label)
    ax.axvline(b.q, color=VERMILION, lw=1.5, ls='--', label=f'q = {b.q:.3g} at level {b.level:g}')
    what = 'largest error' if b.kind == 'sup' else 'root mean square error'
    unit = 'in rms of the predicted field' if b.scaled else 'in units of the data'
    if b.growth is not None: unit = 'of any frame, in mean errors of the frame'
    one = dict(fields='a field', histories='a history')[rep.new]
    ax.set(xlabel=f'{what} of {one}\n({unit})', yticks=[], title='errors')
    ax.title.set_fontsize(10)
    _legend(ax, 'upper right', 1.35)
    tidy(ax, None)

def _by_level(ax, rep):
    "Coverage on new fields by level"
    t,n = rep.table,rep.bands.n
    levels = t.index.to_numpy(float)
    k = np.ceil((n+1)*levels - 1e-9)
    lo,hi = stats.beta.ppf([[.025], [.975]], k, n+1-k)
    chance = 'by the chance of calibration'
    ax.fill_between(levels, lo, hi, color=GREY, alpha=.25, lw=0, label=chance)
    ax.plot([0, 1], [0, 1], color=DARK, lw=1, ls=':')
    err = np.clip([t.coverage-t.low, t.high-t.coverage], 0, None)
    ax.errorbar(levels, t.coverage, err, fmt='o', ms=5, color=BLUE, capsize=2, lw=1.2,
                label=f'new {rep.new}, 95 %')
    at = min(levels.min(), t.low.min())-.04
    ax.set(xlim=(levels.min()-.04, 1), ylim=(at, 1.005), title='coverage')
    ax.set(xlabel='level', ylabel=f'share of {rep.new} inside')
    ax.title.set_fontsize(10)
    ax.legend(frameon=False, fontsize=8, loc='upper left')
    tidy(ax, 'both')

def _by_frame(ax, rep):
    "Half width of the bands, and errors of new fields, by frame"
    t,b = rep.frames,rep.bands
    steps = t.index.to_numpy()
    ax.fill_between(steps, 0, t['half width'], color=SKY, alpha=.35, lw=0)
    far = 'half width' if b.kind == 'sup' else 'radius'
    ax.plot(steps, t['half width'], color=SKY, lw=1.8, label=f'{far} at {b.level:g}')
    look = dict(color=BLUE, lw=1.4)
    ax.plot(steps, t[t.columns[2]], ls='--', label=f'{b.level:g} of the new fields below', **look)
    ax.plot(steps, t['median error'], label='half of them below', **look)
    unit = 'in rms of the predicted field' if b.scaled else 'in units of the data'
    what = 'largest error' if b.kind == 'sup' else 'root mean square error'
    ax.set(xlabel='frame', ylabel=f'{what}\n({unit})', title='by frame')
    ax.title.set_fontsize(10)
    whole_numbers(ax.xaxis)
    _legend(ax, 'upper left', 1.4)
    tidy(ax, 'both', behind=False)

def _example(axs, rep):
    "A field that is in the middle by its score"
    y,pred,r = rep.example
    b = rep.bands
    which = ', last frame' if b.steps > 1 else ''
    w = b.weights(y.shape)
    off = float(np.sqrt(np.average((pred-y)**2, weights=w)))
    if y.ndim == 2: _images(axs, y, pred, r, b.kind, which)
    else: _line(axs[0], y, pred, r, b.kind)
    title = f'a field in its band{which}'
    if b.kind != 'sup': title = f'a field{which}: rms error {off:.3g}, radius {r:.3g}'
    if y.ndim == 1: axs[0].set_title(title, fontsize=10)
    elif b.kind != 'sup': axs[1].set_title(f'error: rms {off:.3g}, radius {r:.3g}', fontsize=10)

def draw_bands(rep, figsize=None):
    "The picture of the report of conformal bands"
    planar = rep.example[0].ndim == 2
    several = rep.bands.steps > 1 and rep.frames is not None
    charts = 2+several
    if planar:          # the field above, the charts below
        fig = new_figure(figsize or (.3+3.9*charts, 7.4))
        above,below = fig.subfigures(2, 1)
        field,axs = above.subplots(1, 2),below.subplots(1, charts)
    else:
        fig = new_figure(figsize or (.3+3.9*(charts+1), 3.9))
        field,*axs = fig.subplots(1, charts+1)
        field = [field]
    _example(field, rep)
    if several: _by_frame(axs[0], rep)
    _histogram(axs[-2], rep)
    _by_level(axs[-1], rep)
    return fig
