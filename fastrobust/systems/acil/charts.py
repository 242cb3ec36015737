"Pictures of phases: accuracy from phase to phase, and what is left of each phase's classes"
import numpy as np
from fastrobust.reporting.style import DASHES, INK, LEARNERS, MARKERS, legend_below, new_figure, tidy

__all__ = []

_NAMES = dict(accuracy='closed form', joint='all items at once', NCM='nearest class mean', SGD='linear layer, Adam')

def _lines(ax, table):
    x = np.arange(len(table))
    for i,k in enumerate(k for k in _NAMES if k in table):
        look = dict(color=LEARNERS[i], ls=DASHES[i], marker=MARKERS[i], ms=4)
        if k == 'joint': look = dict(color=INK, ls=':', marker='o', ms=9, mfc='none')
        ax.plot(x, table[k], label=_NAMES[k], **look)
    ax.set_xticks(x, table.index)
    ax.set(xlabel='after phase', ylabel='accuracy, all classes so far', ylim=(0, 1.02))
    legend_below(ax, ncols=2, fontsize=9)
    tidy(ax)

def _matrix(ax, m):
    v = m.to_numpy(dtype=float)
    ax.imshow(np.ma.masked_invalid(v), cmap='Blues', vmin=0, vmax=1, aspect='auto')
    if v.size <= 150:
        for (a,b),x in np.ndenumerate(v):
            if np.isnan(x): continue
            ax.text(b, a, f'{x:.2f}', ha='center', va='center', fontsize=8, color='white' if x > .6 else 'black')
    ax.set_xticks(range(v.shape[1]), m.columns)
    ax.set_yticks(range(v.shape[0]), m.index)
    ax.set(xlabel='classes that came with', ylabel='accuracy after phase')
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)

def draw_phases(rep, figsize=(11, 4.2)):
    fig = new_figure(figsize)
    a,b = fig.subplots(1, 2)
    _lines(a, rep.table)
    _matrix(b, rep.matrix)
    return fig
