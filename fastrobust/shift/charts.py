"Charts of errors under distribution shift: by severity, by corruption and learner"
import numpy as np, pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from fastrobust.images.clips import TEMPORAL
from fastrobust.images.corruptions.tables import CORRUPTIONS, GROUPS
from fastrobust.reporting.style import (BLUE, BROWN, DARK, GREEN, HATCHES, INK, LEARNERS, ORANGE, PALE,
                                        VERMILION, WINE, figure_legend, new_figure, tidy)

__all__ = ['plot_corruption_fan', 'plot_corruption_bars']

GROUP_COLORS = dict(noise=BLUE, blur=VERMILION, weather=GREEN, digital=WINE, extra=DARK,
                    temporal=ORANGE, other=BROWN)
GROUP_OF = {name: group for group,names in GROUPS.items() for name in names}
GROUP_OF |= dict.fromkeys(TEMPORAL, 'temporal')

# BatchNorm by the statistics of each batch, where a report has measured it
BY_BATCH = 'mean, BN by the batch'
_MARK = dict(marker='D', markersize=5, markerfacecolor='white', markeredgecolor=INK)

def spoken(name): return str(name).replace('_', ' ')

def _table(report, what='`report`'):
    "Table and severities of a report, and the rows of its mean: those of the benchmark's 15, without them all"
    t = getattr(report, 'table', None)
    sev = []
    if isinstance(t, pd.DataFrame):
        sev = [c for c in t.columns if isinstance(c, (int, np.integer))]
    if not sev or not {'mean', 'group'} <= set(t.columns) or not len(t):
        raise TypeError(f"expected {what} from corruption_report, got {type(report).__name__}. "
                        "Pass `corruption_report(learn)`.")
    core = t.index[t.index.isin(CORRUPTIONS)]
    return t,sev,core if len(core) else t.index

def _color(group): return GROUP_COLORS.get(group, GROUP_COLORS['other'])
def _dash(group): return '--' if group in ('extra', 'other') else '-'

def _apart(ys, gap):
    "Heights for labels near `ys`, at least `gap` from each other"
    order = np.argsort(ys)
    pos = np.asarray(ys, dtype=float)[order]
    for _ in range(500):
        d = np.diff(pos)
        if (d >= gap-1e-9).all(): break
        push = np.clip(gap-d, 0, None)/2
        pos[:-1] -= push
        pos[1:] += push
    return pos[np.argsort(order)]

def plot_corruption_fan(
    report,         # Result of `corruption_report`
    *,
    figsize=(9, 6), # Size in inches
    title=None      # Above the picture
)->Figure:
    "Accuracy by severity, a line per corruption in the colour of its group, the mean in bold; severity 0 is clean"
    return draw_fan(new_figure(figsize), report, title).figure

def draw_fan(fig, report, title=None):
    "`plot_corruption_fan` on an empty figure; returns the axes"
    t,sev,core = _table(report)
    clean = 1-float(report.clean)
    acc = 1-t[sev].astype(float)
    xs = [0, *sev]
    ax = fig.add_subplot()
    for name in t.index:
        group = t.group[name]
        look = dict(color=_color(group), ls=_dash(group), lw=1.2, alpha=.75)
        ax.plot(xs, [clean, *acc.loc[name]], label=name, **look)
    means = {f'mean of {len(core)}': [clean, *acc.loc[core].mean()]}
    ax.plot(xs, *means.values(), color=INK, lw=3.5, marker='o', label=[*means][0])
    by_batch = getattr(report, 'errors_bn', None)
    if by_batch:
        errors = np.mean([by_batch[k] for k in core], axis=0)
        means[BY_BATCH] = [1-float(report.clean_bn), *(1-errors)]
        ax.plot(xs, means[BY_BATCH], color=INK, lw=2, ls=':', label=BY_BATCH, **_MARK)

    shown = np.concatenate([acc.to_numpy().ravel(), *means.values()])
    lo,hi = shown.min(),shown.max()
    pad = .04*max(hi-lo, .02)
    ends = [*acc[sev[-1]], *(m[-1] for m in means.values())]
    # a line of text, of the height
    gap = min(max(1/24, .14/max(fig.get_figheight()-1, 1)), 1/len(ends))
    at = _apart(ends, (hi-lo+2*pad)*gap)
    near,far = (sev[-1]+o*len(sev)/5 for o in (.12, .15))
    for name,y,height in zip([*t.index, *means], ends, at):
        color,weight = INK,'bold'
        if name in t.index: color,weight = _color(t.group[name]),'normal'
        ax.plot([sev[-1], near], [y, height], color=color, lw=.6, clip_on=False)
        ax.text(far, height, f'{spoken(name)} {y:.2f}', color=color, va='center', fontsize=8.5,
                weight=weight)

    shown = [g for g in GROUP_COLORS if g in set(t.group)]
    lines = [Line2D([], [], color=_color(g), lw=2, ls=_dash(g)) for g in shown]
    ax.legend(lines, shown, loc='lower left', frameon=False, fontsize=9)
    ax.set(xlabel='severity (0: clean)', ylabel='accuracy',
           title=title or 'How accuracy falls with severity', xticks=xs, xlim=(0, sev[-1]),
           ylim=(min(lo, at.min())-pad, max(hi, at.max())+pad))
    return tidy(ax, behind=False)

def plot_corruption_bars(
    reports,            # dict from name of a learner to its `corruption_report`; or one report
    *,
    figsize=(10, 4.6),  # Size in inches
    title=None          # Above the picture
)->Figure:
    "Error per corruption, learners beside each other, grouped by kind, their mean at the right, ± 1 standard error"
    return draw_bars(new_figure(figsize), reports, title).figure

def _need_alike(reports, tables):
    first,sev,_ = next(iter(tables.values()))
    for k,(t,s,_) in tables.items():
        if set(t.index) != set(first.index) or s != sev:
            raise ValueError("expected reports of the same corruptions and severities, got "
                             f"{len(t)} x {s} for {k!r} beside {len(first)} x {sev}. Run "
                             "corruption_report alike for all.")
    facts = [getattr(r, 'facts', {}) for r in reports.values()]
    for key in ('source', 'table', 'labels'):
        if len({str(f.get(key)) for f in facts}) > 1:
            raise ValueError("expected reports of the same images and corruptions, got different "
                             f"{key!r}. Published files and corruptions computed in memory are not "
                             "the same ones: draw each apart.")

def _places(group):
    "Name -> x, in the order of the benchmark, with a gap between groups; `group`: name -> group"
    order = [o for o in GROUP_OF if o in group.index]
    order += [o for o in group.index if o not in order]
    x,at = {},0.
    for i,name in enumerate(order):
        begins = i > 0 and group[name] != group[order[i-1]]
        at += 1.6 if begins else 1
        x[name] = at
    return x

def _name_bars(ax, x, middle, group, core):
    "Names under the bars, those of the groups above them"
    ax.set_xticks([*x.values(), middle], [*map(spoken, x), f'mean of {len(core)}'], rotation=40,
                  ha='right', rotation_mode='anchor', fontsize=9)
    labels = ax.get_xticklabels()
    for name,lab in zip(x, labels): lab.set_color(_color(group[name]))
    labels[-1].set_weight('bold')
    for g in dict.fromkeys(group[o] for o in x):
        mine = [x[o] for o in x if group[o] == g]
        ax.text((mine[0]+mine[-1])/2, 1., g, transform=ax.get_xaxis_transform(), ha='center',
                va='bottom', color=_color(g), fontsize=10)

def _span(sev):
    whole = len(sev) > 2 and sev == [*range(sev[0], sev[-1]+1)]
    return f'{sev[0]} to {sev[-1]}' if whole else ', '.join(map(str, sev))

def draw_bars(fig, reports, title=None):
    "`plot_corruption_bars` on an empty figure; returns the axes"
    if not isinstance(reports, dict): reports = {'': reports}
    if not reports:
        raise ValueError("expected at least one report, got none. Pass {'plain': "
                         "corruption_report(learn)}.")
    tables = {k: _table(r, f'`reports[{k!r}]`') for k,r in reports.items()}
    _need_alike(reports, tables)
    first,sev,core = next(iter(tables.values()))
    x = _places(first.group)
    k = len(reports)
    width = .84/k
    wide = 1 + .4*(k > 1)       # the bars of the mean carry numbers
    middle = max(x.values())+1.4+wide/2

    ax = fig.add_subplot()
    for j,(label,(t,_,_)) in enumerate(tables.items()):
        off = (j-(k-1)/2)*width
        look = dict(color=LEARNERS[j%6], hatch=HATCHES[(j+j//6)%6], edgecolor='white', linewidth=0)
        at,mean_at = [v+off for v in x.values()],middle+off*wide
        height = t.loc[list(x), 'mean'].astype(float)
        mean = t.loc[core, 'mean'].astype(float).mean()
        ax.bar(at, height, width=width*.94, label=label, **look)
        ax.bar(mean_at, mean, width=width*wide*.94, **look)
        summary = getattr(reports[label], 'summary', {})
        se = summary.get('mean_corruption_error_se', float('nan'))
        if 'se' in t:
            ses = [*t.loc[list(x), 'se'].astype(float), se]
            ax.errorbar([*at, mean_at], [*height, mean], ses, fmt='none', ecolor=INK,
                        elinewidth=1, capsize=1.5)
        if 'error_bn' in t:
            marks = [*t.loc[list(x), 'error_bn'], t.loc[core, 'error_bn'].mean()]
            ax.plot([*at, mean_at], marks, ls='none', **_MARK)
        top = mean if np.isnan(se) else mean+se
        ax.annotate(f'{mean:.3f}'.lstrip('0'), (mean_at, top), (0, 2), textcoords='offset points',
                    ha='center', va='bottom', fontsize=8, rotation=90*(k > 2))

    _name_bars(ax, x, middle, first.group, core)
    ax.axvline(middle-wide/2-.45, color=PALE, lw=1)
    of = 'severity' if len(sev) == 1 else 'mean of severities'
    ax.set(ylabel=f'error, {of} {_span(sev)}', xlim=(.3, middle+wide/2+.2), ylim=(0, None))
    ax.set_title(title or 'Error under each corruption', pad=20)
    ax.tick_params(axis='x', length=0)
    by_batch = any('error_bn' in t for t,_,_ in tables.values())
    if by_batch: ax.plot([], [], ls='none', label='BatchNorm by the batch', **_MARK)
    if by_batch or list(reports) != ['']: figure_legend(fig, ax, ncols=min(k+by_batch, 4))
    return tidy(ax)
