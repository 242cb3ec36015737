"The picture of a stress report: error against severity, a panel for each kind of disturbance"
import math
from fastrobust.reporting.style import DASHES, LEARNERS, MARKERS, figure_legend, new_figure, tidy

__all__ = []

LABELS = {'L2 noise': "radius, share of the field's L2 norm",
          'Linf noise': "radius, share of the field's largest value",
          'dropped': 'share of the sensors that fail', 'coarser': 'nodes from sensor to sensor'}

def _look(i):
    return dict(color=LEARNERS[i % len(LEARNERS)], marker=MARKERS[i % len(MARKERS)])

def _curve(ax, t, start, name, i):
    "Error of one learner by level, from the undisturbed one on"
    x = [start, *map(float, t.index.get_level_values(1)[1:])]
    m,se = t[name].to_numpy(float),t[f'{name} se'].to_numpy(float)
    look = _look(i)
    ax.plot(x, m, ls=DASHES[i % len(DASHES)], ms=5, lw=1.8, label=name, **look)
    ax.fill_between(x, m-2*se, m+2*se, color=look['color'], alpha=.2, lw=0)

def _points(ax, t, names):
    "Other fields have no order: a place for each"
    labels = ['as before', *map(str, t.index.get_level_values(1)[1:])]
    for i,name in enumerate(names):
        x = [j + .14*(i-(len(names)-1)/2) for j in range(len(labels))]
        ax.errorbar(x, t[name], 2*t[f'{name} se'], ls='none', ms=5.5, capsize=2, label=name,
                    **_look(i))
    ax.set_xticks(range(len(labels)), labels)
    ax.set_xlim(-.5, len(labels)-.5)

def draw_stress(rep, figsize=None):
    "Error against severity, ± 2 standard errors; each panel has a scale of its own, from 0 on"
    t,names = rep.table,rep.learners
    kinds = [k for k in dict.fromkeys(t.index.get_level_values(0)) if k != 'none']
    panels = kinds or ['none']
    cols = 2 if len(panels) == 4 else min(3, len(panels))
    rows = math.ceil(len(panels)/cols)
    fig = new_figure(figsize or (3.7*cols, 2.9*rows + .4))
    axs = fig.subplots(rows, cols, squeeze=False)
    for ax,kind in zip(axs.flat, panels):
        part = t[t.index.get_level_values(0).isin(['none', kind])]
        start = 1. if kind == 'coarser' else 0.
        if kind in ('other', 'none'): _points(ax, part, names)
        else:
            for i,name in enumerate(names): _curve(ax, part, start, name, i)
        ax.set_title({'other': 'other fields', 'none': 'undisturbed'}.get(kind, kind), fontsize=10)
        ax.set_xlabel(LABELS.get(kind, ''), fontsize=9)
        if kind == 'coarser': ax.set_xticks([1, *map(float, part.index.get_level_values(1)[1:])])
        ax.set_ylim(bottom=0)
        tidy(ax, 'both', behind=False)
    for ax in axs.flat[len(panels):]: ax.set_visible(False)
    for ax in axs[:, 0]: ax.set_ylabel('relative L2 error', fontsize=9)
    figure_legend(fig, axs[0, 0], ncols=min(6, len(names)))
    return fig
