"Charts of how well a score tells known from unknown: histograms with the FPR95 line, ROC curves"
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from matplotlib.transforms import ScaledTranslation
from fastrobust.basics import nearest
from fastrobust.ood.metrics import auroc, fpr_at_tpr, threshold_at_tpr
from fastrobust.reporting.style import (BLUE, GREEN, GREY, INK, ORANGE, PURPLE, SKY, VERMILION,
                                        axes_on, new_figure, tidy)

__all__ = ['plot_ood']

KNOWN = INK
_SETS = [BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, '#8B6B00', '#777777']
_DASHES = ['-', '--', '-.', ':', (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)), (0, (3, 1))]

def set_look(i):
    "Colour and dashes of the i-th unknown set"
    return dict(color=_SETS[i%8], ls=_DASHES[i%8])

def three_digits(v): return f'{v:.3f}'

# --- what is drawn --------------------------------------------------------------------------------
def _one(v, what):
    "Scores as float64 (n,)"
    if isinstance(v, torch.Tensor):
        v = v.detach().double().cpu().numpy()
    else:
        v = np.asarray(v, dtype=float)
    if v.ndim != 1 or not len(v):
        raise ValueError(f"expected a score for each image (n,), n >= 1, of the {what} ones, got "
                         f"shape {v.shape}. Without both sides there is nothing to tell apart.")
    bad = int((~np.isfinite(v)).sum())
    if bad:
        raise ValueError(f"expected finite scores of the {what} images, got NaN or infinity in "
                         f"{bad} of {len(v)}. Has the training diverged? Look at the logits.")
    return v

def _sides(id_scores, ood_scores):
    "Scores of the known images, and a dict of those of the unknown sets"
    sets = ood_scores if isinstance(ood_scores, dict) else {'unknown': ood_scores}
    if not sets:
        raise ValueError("expected scores of at least one set of unknown images, got an empty "
                         "dict. Give {'name': scores}.")
    known = _one(id_scores, 'known')
    sets = {str(k): _one(v, repr(k)) for k,v in sets.items()}
    return known,sets

def of_report(report, score=None):
    "Name of a score, scores of the known, dict of those of the unknown sets"
    scores = getattr(report, 'scores', None)
    if not isinstance(scores, dict) or not scores or not hasattr(report, 'positive'):
        raise TypeError(f"expected `report` from ood_report, got {type(report).__name__}. Pass "
                        "`ood_report(learn, {'name': images})`.")
    if score is None: score = next(iter(scores))
    if score not in scores:
        raise ValueError(f"expected `score` as one of the report's, got {score!r}. "
                         f"{nearest(score, scores)}")
    sets = dict(scores[score])
    known = sets.pop('id')
    return score,known,sets

def _legend(ax, n):
    "Under the axis labels, in one column or two"
    room = .55 + .17*ax.get_xlabel().count('\n')        # inches
    below = ScaledTranslation(0, -room, ax.figure.dpi_scale_trans)
    ncols = 1 if n <= 5 else 2
    ax.legend(loc='upper center', bbox_to_anchor=(.5, 0), bbox_transform=ax.transAxes + below,
              ncols=ncols, frameon=False, fontsize=8.5, handlelength=2.6, columnspacing=1.2,
              borderpad=0)

def _called(k, near): return f'{k} (near)' if k in near else k

# --- histograms -----------------------------------------------------------------------------------
def _range(known, sets, lines):
    "Limits that show the bulk of everything, but are ruled by the known: a few huge norms must not squeeze the rest"
    ends = [np.quantile(v, [.005, .995]) for v in (known, *sets)]
    los,his = zip(*ends)
    a,b = los[0],his[0]
    wide = b-a if b > a else max(his)-min(los)
    lo = max(min(*los, *lines), a-2*wide)
    hi = min(max(*his, *lines), b+2*wide)
    pad = .02*(hi-lo) if hi > lo else .5
    return lo-pad,hi+pad

def _bars(sets):
    "As many bars as the smallest of `sets` of scores can fill"
    fewest = min(map(len, sets))
    return int(np.clip(2*fewest**.5, 12, 60))

def _draw_lines(ax, thresholds, tpr, positive):
    "The FPR95 line; where the unknown are positive, one for each set"
    share = f'{100*tpr:g}'
    look = dict(lw=1.3, ls=(0, (4, 2)))
    if positive == 'id':
        label = f'FPR{share} line: {share} % of the known are above'
        ax.axvline(thresholds[0], color=KNOWN, label=label, **look)
        return
    label = f'FPR{share} lines: {share} % of a set are below'
    for i,t in enumerate(thresholds):
        ax.axvline(t, color=_SETS[i%8], label=label, **look)
        label = None        # one line of the legend for all

def draw_hist(ax, id_scores, ood_scores, positive='id', tpr=.95,
              name='score', near=(), bins=None):
    "`plot_score_hist` on given axes"
    known,sets = _sides(id_scores, ood_scores)
    thresholds = [threshold_at_tpr(known, v, tpr, positive) for v in sets.values()]
    lo,hi = _range(known, sets.values(), thresholds)
    if bins is None: bins = _bars([known, *sets.values()])
    edges = np.linspace(lo, hi, bins+1)
    peaks,inside = [],[]

    def density(v):
        bars,_ = np.histogram(np.clip(v, lo, hi), edges, density=True)
        return bars

    def stairs(v, **kwargs):
        d = density(v)
        # those beyond pile up in the outermost bars, which set no scale
        peaks.append((d.max(), d[1:-1].max()))
        ax.stairs(d, edges, **kwargs)
        shown = (lo <= v) & (v <= hi)
        inside.append(shown.mean())

    stairs(known, fill=True, color=KNOWN, alpha=.13, lw=0)
    ax.stairs(density(known), edges, color=KNOWN, lw=1.6, label=f'known ({len(known):,})')
    for i,(k,v) in enumerate(sets.items()):
        fpr = fpr_at_tpr(known, v, tpr, positive)
        label = f'{_called(k, near)} ({len(v):,}): FPR{100*tpr:g} {three_digits(fpr)}'
        stairs(v, lw=1.7, label=label, color=_SETS[i%8])
    _draw_lines(ax, thresholds, tpr, positive)

    whole,inner = map(max, zip(*peaks))
    beyond = bool(1-min(inside) > .02)
    top = min(whole, 2*inner) if beyond else whole
    xlabel = f'{name} (higher: more like the known)'
    if beyond: xlabel += '\nthe outermost bars hold everything beyond'
    ax.set(xlim=(lo, hi), ylim=(0, 1.06*top),
           ylabel='density', xlabel=xlabel)
    ax.ticklabel_format(axis='x', style='sci', scilimits=(-3, 4))
    _legend(ax, len(sets)+2)
    return ax

def plot_score_hist(
    id_scores,      # Scores of known images (n,), higher for what looks more in-distribution
    ood_scores,     # Those of unknown images (m,), or a dict from name to them
    *,
    positive='id',  # Which side FPR and TPR call positive: the known ('id') or the unknown ('ood')
    tpr:float=.95,  # Share of the positive side above (or below) the line, in (0,1]
    name='score',   # What it is, under the axis
    near=(),        # Names of sets near to the known, for the legend
    bins=None,      # Number of bars; None: by the number of images, at most 60
    ax=None,        # Axes to draw on
    figsize=(6.5, 5), # Size in inches
    title=None      # Above the picture
)->Figure:
    "Histograms of a score, the known against each unknown set, with the threshold of FPR95"
    ax = tidy(axes_on(ax, figsize))
    draw_hist(ax, id_scores, ood_scores, positive, tpr, name, near, bins)
    ax.set_title(title or 'Scores of known and unknown images')
    return ax.figure

# --- ROC ------------------------------------------------------------------------------------------
def roc_points(id_scores, ood_scores, positive='id'):
    "False and true positive rates at every threshold, from (0,0) to (1,1); equal scores are one step"
    pos,neg = id_scores,ood_scores
    if positive != 'id': pos,neg = -ood_scores,-id_scores
    t = np.unique(np.concatenate([pos, neg]))[::-1]
    def rate(v):
        called = np.searchsorted(np.sort(-v), -t, side='right')     # at or above each threshold
        return np.concatenate([[0.], called/len(v)])
    return rate(neg),rate(pos)

def draw_roc(ax, id_scores, ood_scores, positive='id', tpr=.95, near=()):
    "`plot_roc` on given axes"
    known,sets = _sides(id_scores, ood_scores)
    for i,(k,v) in enumerate(sets.items()):
        fpr = fpr_at_tpr(known, v, tpr, positive)
        label = f'{_called(k, near)}: AUROC {three_digits(auroc(known, v))}'
        x,y = roc_points(known, v, positive)
        ax.plot(x, y, lw=1.8, label=label, **set_look(i))
        at = threshold_at_tpr(known, v, tpr, positive)
        found = known >= at if positive == 'id' else v <= at
        dot = dict(marker='o', ms=6, mec='white', ls='')
        ax.plot([fpr], [found.mean()], color=_SETS[i%8], zorder=4, clip_on=False, **dot)
    dotted = dict(color=GREY, lw=1, ls=':')
    ax.axhline(tpr, **dotted)
    label = f'chance: AUROC 0.500; dots: FPR{100*tpr:g}'
    ax.plot([0, 1], [0, 1], label=label, **dotted)

    a,b = 'known images taken for unknown','unknown images found'
    if positive == 'id': a,b = 'unknown images taken for known','known images recognised'
    ax.set(xlim=(0, 1), ylim=(0, 1.01),
           xlabel=f'{a} (FPR)', ylabel=f'{b} (TPR)')
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1, 0))
    _legend(ax, len(sets)+2)
    return ax

def plot_roc(
    id_scores,      # Scores of known images (n,), higher for what looks more in-distribution
    ood_scores,     # Those of unknown images (m,), or a dict from name to them
    *,
    positive='id',  # Which side is found (TPR): the known ('id') or the unknown ('ood')
    tpr:float=.95,  # Where the dots are, in (0,1]
    near=(),        # Names of sets near to the known, for the legend
    ax=None,        # Axes to draw on
    figsize=(5.5, 5), # Size in inches
    title=None      # Above the picture
)->Figure:
    "ROC curve of each unknown set against the known, with its AUROC"
    ax = tidy(axes_on(ax, figsize))
    draw_roc(ax, id_scores, ood_scores, positive, tpr, near)
    ax.set_title(title or 'Known against unknown, at every threshold')
    return ax.figure

# --- both, of a report ----------------------------------------------------------------------------
def draw_ood(fig, report, score=None, title=None):
    "`plot_ood` on an empty figure; returns its two axes"
    score,known,sets = of_report(report, score)
    near = getattr(report, 'near', ())
    axs = fig.subplots(1, 2, width_ratios=[1.25, 1])
    draw_hist(tidy(axs[0]), known, sets, report.positive,
              name=f'{score} score', near=near)
    draw_roc(tidy(axs[1]), known, sets, report.positive, near=near)
    side = dict(id='known', ood='unknown')[report.positive]
    fig.suptitle(title or f'Known and unknown by their {score} score (positive: the {side})')
    return axs

def plot_ood(
    report,         # Result of `ood_report`
    score=None,     # Name of one of its scores; None: the first
    *,
    figsize=None,   # Size in inches; None: a notebook's width, higher for more sets
    title=None      # Above the picture
)->Figure:
    "One score of a report: histograms with the FPR95 line and ROC curves, a colour for each unknown set"
    n = len(of_report(report, score)[2])
    rows = n+2 if n <= 3 else (n+3)//2      # of the legend
    fig = new_figure(figsize or (11.5, 4.2 + .2*rows))
    draw_ood(fig, report, score, title)
    return fig
