"Every score on every set of unknown images, in one picture"
import numpy as np, pandas as pd
from matplotlib.colors import Normalize as Scale
from matplotlib.figure import Figure
from fastrobust.basics import nearest
from fastrobust.ood.charts import of_report, three_digits
from fastrobust.reporting.style import new_figure

__all__ = ['plot_ood_heatmap']

_METRICS = dict(AUROC=('max', 'Blues'), FPR95=('min', 'YlOrBr'), AUPR=('max', 'Blues'))

def metric_blocks(report, metric='AUROC'):
    "Tables (scores x sets) of near and far sets, and of their means; the groups there are"
    _,_,sets = of_report(report)
    if metric not in _METRICS:
        raise ValueError(f"expected `metric` as a column of the report, got {metric!r}. "
                         f"{nearest(metric, _METRICS)}")
    rows = report.table[report.table.set.isin(list(sets))]
    t = rows.pivot(index='score', columns='set', values=metric)
    t = t.loc[list(report.scores), list(sets)].astype(float)

    near = [k for k in sets if k in report.near]
    blocks = {}
    if near:
        blocks['near sets'] = t[near]
    if len(near) < len(sets):
        blocks['far sets'] = t.drop(columns=near)
    if len(sets) > 1:
        means = {k.removesuffix(' sets'): b.mean(axis=1) for k,b in blocks.items()}
        blocks['mean'] = pd.DataFrame(means)
    return blocks

def _scale(tables, best):
    "Colours from a round tenth beyond the worst number to the best there can be"
    every = np.concatenate([b.to_numpy() for b in tables], axis=1)
    lo,hi = 0.,1.
    if best == 'max': lo = np.floor(10*np.nanmin(every))/10
    else: hi = np.ceil(10*np.nanmax(every))/10
    if not hi > lo: hi = lo+.1
    return Scale(lo, hi)

def _draw_block(ax, table, best, cmap, scale):
    "Colours and numbers of a table, the best of each column in bold; returns the colours' image"
    v = table.to_numpy().round(3)       # what reads the same is equally good
    im = ax.imshow(v, cmap=cmap, norm=scale, aspect='auto')
    find_best = np.nanmax if best == 'max' else np.nanmin
    rows,cols = v.shape
    for i,j in np.ndindex(rows, cols):
        o = v[i, j]
        top = o == find_best(v[:, j]) and rows > 1
        said = '–' if np.isnan(o) else three_digits(o)
        weight = 'bold' if top else 'normal'
        color = '#ffffff' if scale(o) > .62 else '#000000'
        ax.text(j, i, said, ha='center', va='center',
                fontsize=9, weight=weight, color=color)
    ax.set_xticks(range(cols), table.columns,
                  rotation=30, ha='right', rotation_mode='anchor')
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return im

def plot_ood_heatmap(
    report,         # Result of `ood_report`
    metric='AUROC', # 'AUROC', 'FPR95' or 'AUPR'
    *,
    figsize=None,   # Size in inches; None: by the number of scores and sets
    title=None      # Above the picture
)->Figure:
    "Every score on every unknown set, near and far sets apart, then their means; the best of each column in bold"
    blocks = metric_blocks(report, metric)
    best,cmap = _METRICS[metric]
    scale = _scale(blocks.values(), best)
    rows = len(report.scores)
    cols = [table.shape[1] for table in blocks.values()]
    if not figsize:
        figsize = max(5., .95*sum(cols)+2.6),.38*rows+2.3
    fig = new_figure(figsize)
    axs = fig.subplots(1, len(blocks), squeeze=False, width_ratios=cols)[0]

    labels = list(report.scores)        # of the rows, once on the left
    for ax,(name,table) in zip(axs, blocks.items()):
        im = _draw_block(ax, table, best, cmap, scale)
        ax.set_yticks(range(rows), labels)
        ax.set_title(name, fontsize=10)
        labels = ['']*rows

    better = 'higher' if best == 'max' else 'lower'
    fig.colorbar(im, ax=list(axs), label=f'{metric} ({better} is better)', aspect=30)
    side = dict(id='known', ood='unknown')[report.positive]
    fig.suptitle(title or f'{metric} of every score on every unknown set\n(positive: the {side})')
    return fig
