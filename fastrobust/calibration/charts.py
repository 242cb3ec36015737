"Reliability diagrams: accuracy against confidence bin by bin, and below them how many images are in each bin"
import numpy as np, pandas as pd
from matplotlib.figure import Figure
from fastrobust.calibration.metrics import bins_table, top
from fastrobust.metrics import need_bins
from fastrobust.reporting.style import (BLUE, GREY, INK, SKY, VERMILION, figure_legend, new_figure,
                                        tidy)

__all__ = ['plot_reliability']

_ACC,_GAP = SKY,VERMILION

def _panel(bins):
    "Numbers a panel needs, from a table of equally wide bins"
    t = bins[bins.n > 0]
    w = t.n/t.n.sum()
    gap = (t.accuracy-t.confidence).abs()
    mean = lambda v: float((w*v).sum())
    return dict(bins=t, n=int(t.n.sum()), ece=mean(gap), accuracy=mean(t.accuracy),
                confidence=mean(t.confidence), n_bins=len(bins))

def panels_of(what, y, n_bins):
    "Name -> panel of a report, of probabilities, or of several of them by name"
    bins = getattr(what, 'bins', None)
    if isinstance(bins, pd.DataFrame):
        if y is not None:
            raise TypeError("expected a calibration_report alone, got labels too. Its bins are "
                            "made already.")
        return {k: _panel(bins.loc[k]) for k in bins.index.unique(0)}
    if y is None:
        raise TypeError("expected a calibration_report, or probabilities (n,c) with labels `y` "
                        f"(n,), got a {type(what).__name__} without labels. Pass "
                        "`plot_reliability(probs, y)`.")
    need_bins(n_bins)
    several = what if isinstance(what, dict) else {'': what}
    if not several:
        raise ValueError("expected probabilities, got none. Pass {'plain': probs}, or probs.")
    panels = {}
    for k,p in several.items():
        conf,right = top(p, y)
        panels[k] = _panel(bins_table(conf, right, n_bins))
    return panels

def plot_reliability(
    probs_or_report,# Result of `calibration_report`; or probabilities (n,c); or a dict from name to such probabilities
    y=None,         # True labels (n,), with probabilities
    n_bins:int=15,  # Equally wide bins of confidence, 2 or more; a report has its own
    *,
    figsize=None,   # Size in inches; None: by the number of panels
    title=None      # Above the picture
)->Figure:
    "Accuracy and confidence of each bin, the gap between them, ± 1 standard error; below, images per bin"
    panels = panels_of(probs_or_report, y, n_bins)
    fig = new_figure(figsize or size_of(panels))
    draw_reliability(fig, panels, title)
    return fig

def size_of(panels):
    width = max(4.6, 3.7*len(panels)+.4)
    height = 5.4 if len(panels) > 1 else 5.8
    return width,height

def draw_reliability(fig, panels, title=None):
    "`plot_reliability` on an empty figure, of name -> panel; returns the axes (2,panels)"
    axs = fig.subplots(2, len(panels), height_ratios=[3, 1], squeeze=False, sharex=True,
                       sharey='row')
    for (up,down),(name,p) in zip(axs.T, panels.items()):
        _diagram(up, name, p)
        _counts(down, p)
    axs[0, 0].set_ylabel('accuracy of the bin')
    axs[1, 0].set_ylabel('images')
    ncols = 2 if len(panels) == 1 else 4
    figure_legend(fig, axs[0, 0], ncols=ncols, fontsize=9)
    fig.suptitle(title or 'How often is it right when it says so?')
    return axs

def _diagram(ax, name, p):
    t = p['bins']
    middle = (t.lo+t.hi)/2
    width = .94*(1/p['n_bins'])
    ax.bar(middle, t.accuracy, width=width, color=_ACC, label='accuracy')
    gap = (t.confidence-t.accuracy).abs()
    lower = np.minimum(t.accuracy, t.confidence)
    ax.bar(middle, gap, bottom=lower, width=width, facecolor='none', edgecolor=_GAP, hatch='///',
           linewidth=1, label='gap to the mean confidence')

    # of few images, but no accuracy leaves [0,1]
    reach = np.minimum([t.se, t.se], [t.accuracy, 1-t.accuracy])
    ax.errorbar(middle, t.accuracy, reach, fmt='none', ecolor=INK, elinewidth=1, capsize=2,
                label='± 1 se')
    ax.plot([0, 1], [0, 1], color=INK, lw=1.2, ls='--', label='accuracy = confidence')
    title = f"{name}\nECE {p['ece']:.3f}".strip()
    ax.set(xlim=(0, 1), ylim=(0, 1.03), title=title)
    tidy(ax)

def _counts(ax, p):
    t = p['bins']
    c,a = p['confidence'],p['accuracy']
    middle = (t.lo+t.hi)/2
    ax.bar(middle, t.n, width=.94/p['n_bins'], color=GREY)
    ax.axvline(a, color=BLUE, lw=2)
    ax.axvline(c, color=_GAP, lw=2, ls='--')
    ax.set_title(f'mean confidence {c:.3f} (dashed), accuracy {a:.3f}', fontsize=8.5, loc='left')
    ax.set(xlabel=f"confidence ({p['n']} images, {p['n_bins']} bins)", xlim=(0, 1))
    tidy(ax)
