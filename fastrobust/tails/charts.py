"Class accuracy by frequency: how many training items above, how often each class is recognised below"
import numpy as np
from matplotlib.figure import Figure
from fastrobust.metrics import wilson_interval
from fastrobust.reporting.style import (BLUE, GREEN, LEARNERS, MARKERS, VERMILION, figure_legend,
                                        new_figure, tidy)

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
    if not many: reports = {'': reports}
    t = _need_alike(reports)
    c = len(t)
    few = c <= 25
    up,ax = fig.subplots(2, 1, sharex=True, height_ratios=[1, 2.2])
    fig.suptitle(title or 'Class accuracy by frequency')
    _sizes(up, t, many, few)
    facts = None if many else next(iter(reports.values())).summary
    _groups(up, ax, t, facts)

    step = min(.2, .7/len(reports))
    size = 34 if few else 12
    for j,(name,r) in enumerate(reports.items()):
        offset = (j-(len(reports)-1)/2)*step
        at = np.arange(c) + offset
        colors = [LEARNERS[j%6]]*c if many else _group_colors(t)
        _accuracies(ax, at, r.table, colors, marker=MARKERS[j%6], s=size, label=name)

    if few: _class_names(ax, [str(o) for o in t.index])
    what = 'class' if few else 'rank of the class'
    ax.set(ylabel='accuracy, 95 % interval', xlim=(-.6, c-.4), ylim=(-.03, 1.03),
           xlabel=f"{what}, most frequent in training first")
    for a in (up, ax): tidy(a)
    if many: figure_legend(fig, ax, ncols=min(len(reports), 4))
    return ax

def _need_alike(reports):
    "The table of the first report; refuses what are no reports, or not of the same classes and counts"
    if not reports or not all(hasattr(r, 'groups') for r in reports.values()):
        got = [type(r).__name__ for r in reports.values()]
        raise TypeError("expected a result of tail_report, or a dict of at least one, got "
                        f"{got}. Pass tail_report(learn).")
    t = next(iter(reports.values())).table
    for name,r in reports.items():
        same = list(r.table.index) == list(t.index)
        if not same or (r.table.training != t.training).any():
            raise ValueError("expected reports of learners trained on the same classes and counts, "
                             f"got others in {name!r}. Draw them apart.")
    return t

def _sizes(ax, t, many, few):
    "Training items of each class, as bars on a log scale"
    xs = np.arange(len(t))
    size = t.training.to_numpy()
    seen = np.maximum(size, .5)
    color = '#8c8c8c' if many else _group_colors(t)
    ax.bar(xs, seen, width=.8, color=color)
    ax.set_yscale('log')
    ax.set(ylabel='training items', ylim=(.5, 4*max(size)))
    if not few: return
    for x,n in zip(xs, size):
        top = x,max(n, .5)
        ax.annotate(f'{n:,}', top, (0, 2), textcoords='offset points', ha='center', fontsize=8)

def _group_colors(t): return [GROUP_COLORS[g] for g in t.group]

def _groups(up, ax, t, facts):
    "A ground for the classes of each group, its name, and its mean where there are `facts` of one learner"
    xs = np.arange(len(t))
    for g in dict.fromkeys(t.group):
        mine = xs[(t.group == g).to_numpy()]
        left,right = mine[0]-.5,mine[-1]+.5
        color = GROUP_COLORS[g]
        for a in (up, ax):
            a.axvspan(left, right, color=color, alpha=.07, lw=0, zorder=0)

        mean = None if facts is None else facts[f'{g}_accuracy']
        text = g if mean is None else f"{g} {mean:.2f}"
        top = ax.get_xaxis_transform()
        ax.annotate(text, (mine.mean(), 1), (0, 3), xycoords=top, textcoords='offset points',
                    ha='center', va='bottom', color=color)
        if mean is not None:
            ax.hlines(mean, left, right, color=color, lw=1.2, ls='--')

def _accuracies(ax, at, t, colors, **points):
    "Accuracy of each class as a point at `at`, and its interval"
    acc = t.accuracy.to_numpy(dtype=float)
    lo,hi = wilson_interval(acc, t.images)
    ax.vlines(at, lo, hi, colors=colors, lw=1.3)
    ax.scatter(at, acc, c=colors, zorder=3, **points)

def _class_names(ax, names):
    xs = np.arange(len(names))
    long = max(map(len, names)) > 3
    ha = 'right' if long else 'center'
    ax.set_xticks(xs, names, fontsize=9, rotation=40*long, ha=ha, rotation_mode='anchor')
