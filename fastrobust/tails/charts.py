"Class accuracy by frequency: how many training items above, how often each class is recognised below"
import numpy as np
from matplotlib.figure import Figure
from fastrobust.metrics import wilson_interval
from fastrobust.reporting.style import BLUE, GREEN, LEARNERS, MARKERS, VERMILION, figure_legend, new_figure, tidy

__all__ = ['plot_tails']

GROUP_COLORS = dict(head=BLUE, mid=GREEN, tail=VERMILION)

def plot_tails(
    reports,            # Result of `tail_report`, or a dict from name of a learner to its result
    *,
    figsize=(9, 5.5),   # Size in inches
    title=None          # Above the picture
)->Figure:
    "Training items per class as bars (log scale), and below the accuracy of each with its 95 % interval"
    fig = new_figure(figsize)
    draw_tails(fig, reports, title)
    return fig

def draw_tails(fig, reports, title=None):
    "`plot_tails` on an empty figure; returns the lower axes"
    many = isinstance(reports, dict)
    reports = reports if many else {'': reports}
    if not reports or not all(hasattr(r, 'groups') for r in reports.values()):
        raise TypeError("expected a result of tail_report, or a dict of at least one, got "
                        f"{[type(r).__name__ for r in reports.values()]}. Pass tail_report(learn).")
    first = next(iter(reports.values()))
    t,c = first.table,len(first.table)
    for name,r in reports.items():
        if list(r.table.index) != list(t.index) or (r.table.training != t.training).any():
            raise ValueError("expected reports of learners trained on the same classes and counts, "
                             f"got others in {name!r}. Draw them apart.")
    xs,names,few = np.arange(c),[str(o) for o in t.index],c <= 25
    up,ax = fig.subplots(2, 1, sharex=True, height_ratios=[1, 2.2])
    size = t.training.to_numpy()
    up.bar(xs, np.maximum(size, .5), width=.8, color='#8c8c8c' if many else [GROUP_COLORS[g] for g in t.group])
    up.set_yscale('log')
    up.set(ylabel='training items', ylim=(.5, 4*max(size)))
    fig.suptitle(title or 'Class accuracy by frequency')
    for x,n in zip(xs, size):
        if few:
            up.annotate(f'{n:,}', (x, max(n, .5)), (0, 2), textcoords='offset points', ha='center', fontsize=8)
    for g in dict.fromkeys(t.group):
        mine = xs[(t.group == g).to_numpy()]
        for a in (up, ax):
            a.axvspan(mine[0]-.5, mine[-1]+.5, color=GROUP_COLORS[g], alpha=.07, lw=0, zorder=0)
        mean = '' if many else f" {first.summary[f'{g}_accuracy']:.2f}"
        ax.annotate(g+mean, (mine.mean(), 1), (0, 3), xycoords=ax.get_xaxis_transform(), textcoords='offset points',
                    ha='center', va='bottom', color=GROUP_COLORS[g])
        if not many:
            ax.hlines(first.summary[f'{g}_accuracy'], mine[0]-.5, mine[-1]+.5, color=GROUP_COLORS[g], lw=1.2,
                      ls='--')
    step = min(.2, .7/len(reports))
    for j,(name,r) in enumerate(reports.items()):
        acc,at = r.table.accuracy.to_numpy(dtype=float),xs + (j-(len(reports)-1)/2)*step
        lo,hi = wilson_interval(acc, r.table.images)
        colors = [LEARNERS[j%6]]*c if many else [GROUP_COLORS[g] for g in t.group]
        ax.vlines(at, lo, hi, colors=colors, lw=1.3)
        ax.scatter(at, acc, c=colors, marker=MARKERS[j%6], s=34 if few else 12, label=name, zorder=3)
    if few:
        long = max(map(len, names)) > 3
        ax.set_xticks(xs, names, fontsize=9, rotation=40*long, ha='right' if long else 'center', rotation_mode='anchor')
    ax.set(ylabel='accuracy, 95 % interval', xlim=(-.6, c-.4), ylim=(-.03, 1.03),
           xlabel=f"{'class' if few else 'rank of the class'}, most frequent in training first")
    for a in (up, ax): tidy(a)
    if many: figure_legend(fig, ax, ncols=min(len(reports), 4))
    return ax
