"Every score on every set of unknown images, in one picture"
import numpy as np, pandas as pd
from matplotlib.colors import Normalize as Scale
from matplotlib.figure import Figure
from fastrobust.basics import nearest
from fastrobust.reporting.style import new_figure
from fastrobust.ood.charts import of_report, three_digits

__all__ = ['plot_ood_heatmap']

# --- all scores -----------------------------------------------------------------------------------
_METRICS = dict(AUROC=('max', 'Blues'), FPR95=('min', 'YlOrBr'), AUPR=('max', 'Blues'))

def metric_blocks(report, metric='AUROC'):
    "Tables (scores x sets) of near and far sets, and of their means; the groups there are"
    _,_,sets = of_report(report)
    if metric not in _METRICS:
        raise ValueError(f"expected `metric` as a column of the report, got {metric!r}. "
                         f"{nearest(metric, _METRICS)}")
    t = report.table[report.table.set.isin(list(sets))].pivot(index='score', columns='set', values=metric)
    t = t.loc[list(report.scores), list(sets)].astype(float)
    near = [k for k in sets if k in report.near]
    blocks = {'near sets': t[near], 'far sets': t.drop(columns=near)}
    blocks = {k: b for k,b in blocks.items() if b.shape[1]}
    if len(sets) > 1:
        blocks['mean'] = pd.DataFrame({k.split()[0]: b.mean(axis=1) for k,b in blocks.items()})
    return blocks

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
    n,r = sum(b.shape[1] for b in blocks.values()),len(report.scores)
    fig = new_figure(figsize or (max(5., .95*n+2.6), .38*r+2.3))
    axs = fig.subplots(1, len(blocks), squeeze=False, width_ratios=[b.shape[1] for b in blocks.values()])[0]
    every = np.concatenate([b.to_numpy() for b in blocks.values()], axis=1)
    lo,hi = (np.floor(10*np.nanmin(every))/10, 1.) if best == 'max' else (0., np.ceil(10*np.nanmax(every))/10)
    scale = Scale(lo, hi if hi > lo else lo+.1)
    for i,(ax,(name,b)) in enumerate(zip(axs, blocks.items())):
        v = b.to_numpy().round(3)       # what reads the same is equally good
        im = ax.imshow(v, cmap=cmap, norm=scale, aspect='auto')
        for j,k in np.ndindex(v.shape):
            top = v[j, k] == getattr(np, f'nan{best}')(v[:, k]) and r > 1
            ax.text(k, j, '–' if np.isnan(v[j, k]) else three_digits(v[j, k]), ha='center', va='center', fontsize=9,
                    weight='bold' if top else 'normal', color='#ffffff' if scale(v[j, k]) > .62 else '#000000')
        ax.set_yticks(range(r), b.index if i == 0 else ['']*r)
        ax.set_xticks(range(b.shape[1]), b.columns, rotation=30, ha='right', rotation_mode='anchor')
        ax.set_title(name, fontsize=10)
        ax.tick_params(length=0), ax.spines[:].set_visible(False)
    fig.colorbar(im, ax=list(axs), label=f"{metric} ({'higher' if best == 'max' else 'lower'} is better)", aspect=30)
    side = dict(id='known', ood='unknown')[report.positive]
    fig.suptitle(title or f'{metric} of every score on every unknown set\n(positive: the {side})')
    return fig
