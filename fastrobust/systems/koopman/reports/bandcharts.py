"Pictures of conformal bands: a field in its band, errors, coverage by level"
import numpy as np
from scipy import stats
from fastrobust.reporting.style import (
    BLUE, DARK, GREY, INK, PALE, SKY, VERMILION, bare, new_figure, tidy)
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

def _images(axs, y, pred, r):
    "A field on a plane: what came, and its error in half widths of the band"
    look = field_look([y, pred])
    bare(axs[0]).imshow(y, **look)
    axs[0].set_title('what came', fontsize=10)
    shown = bare(axs[1]).imshow((pred-y)/r, cmap='PuOr', vmin=-1, vmax=1)
    axs[1].set_title('error of the prediction', fontsize=10)
    bar = axs[1].figure.colorbar(shown, ax=axs[1], shrink=.7, pad=.03, aspect=18)
    bar.set_label('in half widths of the band', fontsize=8)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)

def _histogram(ax, rep):
    "Scores of the fields calibrated on and of the new ones, and q"
    b = rep.bands
    old,new = b.calibration,rep.scores[np.isfinite(rep.scores)]
    old = old[np.isfinite(old)]
    bins = np.linspace(0, max(old.max(), new.max(initial=0)), 31)
    ax.hist(old, bins, density=True, color=PALE, label=f'calibrated on ({b.n})')
    label = f'new fields ({len(rep.scores)})'
    ax.hist(new, bins, density=True, histtype='step', color=BLUE, lw=1.6, label=label)
    ax.axvline(b.q, color=VERMILION, lw=1.5, ls='--', label=f'q = {b.q:.3g} at level {b.level:g}')
    what = 'largest error' if b.kind == 'sup' else 'root mean square error'
    unit = 'of the predicted rms' if b.scaled else 'units of the data'
    ax.set(xlabel=f'{what} of a field\n({unit})', yticks=[], title='errors')
    ax.title.set_fontsize(10)
    ax.legend(frameon=False, fontsize=8)
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
                label='new fields, 95 %')
    at = min(levels.min(), t.low.min())-.04
    ax.set(xlim=(at, 1), ylim=(at, 1.005), title='coverage')
    ax.set(xlabel='level', ylabel='share of fields inside')
    ax.title.set_fontsize(10)
    ax.legend(frameon=False, fontsize=8, loc='upper left')
    tidy(ax, 'both')

def draw_bands(rep, figsize=None):
    "The picture of the report of conformal bands"
    y,pred,r = rep.example
    kind = rep.bands.kind
    n = y.ndim
    fig = new_figure(figsize or (4.2+3.9*(n+1), 3.9))
    axs = fig.subplots(1, n+2)
    if n == 1:
        _line(axs[0], y, pred, r, kind)
        off = float(np.sqrt(np.mean((pred-y)**2)))
        title = 'a field in its band'
        if kind != 'sup': title = f'a field: rms error {off:.3g}, radius {r:.3g}'
        axs[0].set_title(title, fontsize=10)
    else: _images(axs[:2], y, pred, r)
    _histogram(axs[n], rep)
    _by_level(axs[n+1], rep)
    return fig
