"Charts of errors under distribution shift: by severity, by corruption and learner, by noise and corruption"
import numpy as np, pandas as pd
from matplotlib.colors import Normalize as Scale
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from fastrobust.images.corruptions.tables import CORRUPTIONS, GROUPS
from fastrobust.reporting.style import INK, LEARNERS, HATCHES, PALE, figure_legend, new_figure, tidy

__all__ = ['plot_corruption_fan', 'plot_corruption_bars', 'plot_shift_heatmap']

GROUP_COLORS = dict(noise='#0072B2', blur='#D55E00', weather='#009E73', digital='#AA4499', extra='#666666',
                     other='#8B6B00')
GROUP_OF = {name: group for group,names in GROUPS.items() for name in names}

def spoken(name): return str(name).replace('_', ' ')

def _table(report, what='`report`'):
    "Table and severities of a report, and the rows of its mean: those of the benchmark's 15, without them all"
    t = getattr(report, 'table', None)
    sev = [c for c in t.columns if isinstance(c, (int, np.integer))] if isinstance(t, pd.DataFrame) else []
    if not sev or not {'mean', 'group'} <= set(t.columns) or not len(t):
        raise TypeError(f"expected {what} from corruption_report, got {type(report).__name__}. "
                        "Pass `corruption_report(learn)`.")
    core = t.index[t.index.isin(CORRUPTIONS)]
    return t,sev,core if len(core) else t.index

def _color(group): return GROUP_COLORS.get(group, GROUP_COLORS['other'])
def _dash(group): return '--' if group in ('extra', 'other') else '-'

def _apart(ys, gap):
    "Heights for labels near `ys`, at least `gap` from each other"
    order,ys = np.argsort(ys),np.asarray(ys, dtype=float)
    pos = ys[order].copy()
    for _ in range(500):
        d = np.diff(pos)
        if (d >= gap-1e-9).all(): break
        push = np.clip(gap-d, 0, None)/2
        pos[:-1] -= push; pos[1:] += push
    res = np.empty_like(pos)
    res[order] = pos
    return res

def plot_corruption_fan(
    report,         # Result of `corruption_report`
    *,
    figsize=(9, 6), # Size in inches
    title=None      # Above the picture
)->Figure:
    "Accuracy by severity, a line per corruption in the colour of its group, the mean in bold; severity 0 is clean"
    fig = new_figure(figsize)
    draw_fan(fig, report, title)
    return fig

def draw_fan(fig, report, title=None):
    "`plot_corruption_fan` on an empty figure; returns the axes"
    t,sev,core = _table(report)
    clean,xs = 1-float(report.clean),[0, *sev]
    acc = 1-t[sev].astype(float)
    ax = fig.add_subplot()
    for name in t.index:
        look = dict(color=_color(t.group[name]), ls=_dash(t.group[name]), lw=1.2, alpha=.75)
        ax.plot(xs, [clean, *acc.loc[name]], label=name, **look)
    mean = [clean, *acc.loc[core].mean()]
    ax.plot(xs, mean, color=INK, lw=3.5, marker='o', label=f'mean of {len(core)}')
    lo,hi = min(acc.min().min(), clean),max(acc.max().max(), clean)
    pad = .04*max(hi-lo, .02)
    ends,names = [*acc[sev[-1]], mean[-1]],[*t.index, f'mean of {len(core)}']
    # a line of text, of the height
    gap = min(max(1/24, .14/max(fig.get_figheight()-1, 1)), 1/len(names))
    at = _apart(ends, (hi-lo+2*pad)*gap)
    for name,y,lab in zip(names, ends, at):
        mine = name in t.index
        color = _color(t.group[name]) if mine else INK
        ax.plot([sev[-1], sev[-1]+.12*len(sev)/5], [y, lab], color=color, lw=.6, clip_on=False)
        ax.text(sev[-1]+.15*len(sev)/5, lab, f'{spoken(name)} {y:.2f}', color=color, va='center', fontsize=8.5,
                weight='normal' if mine else 'bold')
    shown = [g for g in GROUP_COLORS if g in set(t.group)]
    ax.legend([Line2D([], [], color=_color(g), lw=2, ls=_dash(g)) for g in shown], shown, loc='lower left',
              frameon=False, fontsize=9)
    ax.set(xlabel='severity (0: clean)', ylabel='accuracy', title=title or 'How accuracy falls with severity',
           xticks=xs, xlim=(0, sev[-1]), ylim=(min(lo, at.min())-pad, max(hi, at.max())+pad))
    return tidy(ax, behind=False)

def plot_corruption_bars(
    reports,            # dict from name of a learner to its `corruption_report`; or one report
    *,
    figsize=(10, 4.6),  # Size in inches
    title=None          # Above the picture
)->Figure:
    "Error per corruption, learners beside each other, grouped by kind, their mean at the right, ± 1 standard error"
    fig = new_figure(figsize)
    draw_bars(fig, reports, title)
    return fig

def draw_bars(fig, reports, title=None):
    "`plot_corruption_bars` on an empty figure; returns the axes"
    reports = reports if isinstance(reports, dict) else {'': reports}
    if not reports:
        raise ValueError("expected at least one report, got none. Pass {'plain': "
                         "corruption_report(learn)}.")
    tables = {k: _table(r, f'`reports[{k!r}]`') for k,r in reports.items()}
    first,sev,core = next(iter(tables.values()))
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
    order = [o for names in GROUPS.values() for o in names if o in first.index]
    order += [o for o in first.index if o not in order]
    x,at = {},0.
    for i,name in enumerate(order):
        at += 1 + .6*(i > 0 and first.group[name] != first.group[order[i-1]])
        x[name] = at
    k = len(reports)
    # the bars of the mean carry numbers
    ax,width,wide = fig.add_subplot(),.84/k,1 + .4*(k > 1)
    middle = at+1.4+wide/2
    for j,(label,(t,_,_)) in enumerate(tables.items()):
        off = (j-(k-1)/2)*width
        look = dict(color=LEARNERS[j%6], hatch=HATCHES[j%6], edgecolor='white', linewidth=0)
        at,height = [x[o]+off for o in order],t.loc[order, 'mean'].astype(float)
        mean = t.loc[core, 'mean'].astype(float).mean()
        ax.bar(at, height, width=width*.94, label=label, **look)
        ax.bar(middle+off*wide, mean, width=width*wide*.94, **look)
        se = getattr(reports[label], 'summary', {}).get('mean_corruption_error_se', float('nan'))
        if 'se' in t:
            ax.errorbar([*at, middle+off*wide], [*height, mean], [*t.loc[order, 'se'].astype(float), se], fmt='none',
                        ecolor=INK, elinewidth=1, capsize=1.5)
        top = mean + (se if se == se else 0)
        ax.annotate(f'{mean:.3f}'.lstrip('0'), (middle+off*wide, top), (0, 2), textcoords='offset points',
                    ha='center', va='bottom', fontsize=8, rotation=90*(k > 2))
    ax.set_xticks([*x.values(), middle], [*map(spoken, order), f'mean of {len(core)}'], rotation=40, ha='right',
                  rotation_mode='anchor', fontsize=9)
    labels = ax.get_xticklabels()
    for name,lab in zip(order, labels): lab.set_color(_color(first.group[name]))
    labels[-1].set_weight('bold')
    for group in dict.fromkeys(first.group[o] for o in order):
        mine = [x[o] for o in order if first.group[o] == group]
        ax.text((mine[0]+mine[-1])/2, 1., group, transform=ax.get_xaxis_transform(), ha='center', va='bottom',
                color=_color(group), fontsize=10)
    ax.axvline(middle-wide/2-.45, color=PALE, lw=1)
    span = f'{sev[0]} to {sev[-1]}' if len(sev) > 2 and sev == [*range(sev[0], sev[-1]+1)] else ', '.join(map(str, sev))
    of = 'severity' if len(sev) == 1 else 'mean of severities'
    ax.set(ylabel=f'error, {of} {span}', xlim=(.3, middle+wide/2+.2), ylim=(0, None))
    ax.set_title(title or 'Error under each corruption', pad=20)
    ax.tick_params(axis='x', length=0)
    if list(reports) != ['']: figure_legend(fig, ax, ncols=min(k, 4))
    return tidy(ax)

# --- a table as a heat map ------------------------------------------------------------------------
def _label(o):
    if isinstance(o, tuple): return ' · '.join(map(_label, o))
    return f'{o:g}' if isinstance(o, float) else spoken(o)

def plot_shift_heatmap(
    table,              # DataFrame of numbers: rows such as noise rates or methods, columns such as corruptions; or a
                        # dict from name to such tables, all with the same rows and columns: one panel each
    *,
    fmt:str='.2f',      # Format of the numbers
    what:str='error',   # What the numbers are, under the colours
    best=None,          # 'min' or 'max': in bold, the best of each column; of each cell where there are several tables
    figsize=None,       # Size in inches; None: by the size of the table
    title=None          # Above the picture
)->Figure:
    "Tables as heat maps on one scale of colours, with the numbers in the cells"
    tables = table if isinstance(table, dict) else {'': table}
    if not tables or not all(isinstance(t, pd.DataFrame) and t.size for t in tables.values()):
        raise TypeError("expected `table` as a DataFrame with rows and columns, or a dict of them, "
                        f"got {table!r:.80}. Put the numbers in a pandas DataFrame.")
    if best not in (None, 'min', 'max'):
        raise ValueError(f"expected `best` as 'min', 'max' or None, got {best!r}. Of errors the best is the 'min'.")
    first = next(iter(tables.values()))
    for k,t in tables.items():
        if not (t.index.equals(first.index) and t.columns.equals(first.columns)):
            raise ValueError(f"expected the same rows and columns in every table, got others in {k!r}. Reindex them.")
    # (tables, rows, columns)
    v = np.stack([t.to_numpy(dtype=float) for t in tables.values()])
    k,r,c = v.shape
    scale = Scale(np.nanmin(v), np.nanmax(v) if np.nanmax(v) > np.nanmin(v) else np.nanmin(v)+1)
    pick = None if best is None else np.nanmin if best == 'min' else np.nanmax
    top = None if best is None else pick(v, axis=0 if k > 1 else 1, keepdims=True)
    side = min(max(.62, 8/c), 1.1) if figsize is None else 0
    if figsize is None: figsize = (side*c + 2.2, k*(.42*r + .9) + .9)
    fig = new_figure(figsize)
    axs = fig.subplots(k, 1, squeeze=False, sharex=True)[:, 0]
    for i,(ax,name) in enumerate(zip(axs, tables)):
        im = ax.imshow(v[i], cmap='YlOrBr', norm=scale, aspect='auto')
        for a in range(r):
            for b in range(c):
                x = v[i, a, b]
                bold = top is not None and x == np.broadcast_to(top, v.shape)[i, a, b]
                ax.text(b, a, '–' if np.isnan(x) else format(x, fmt), ha='center', va='center', fontsize=9,
                        weight='bold' if bold else 'normal',
                        color='#ffffff' if not np.isnan(x) and scale(x) > .62 else '#000000')
        ax.set_yticks(range(r), [_label(o) for o in first.index], fontsize=9)
        ax.set_ylabel(_label(first.index.name) if first.index.name else '')
        ax.set_title(name, fontsize=10, loc='left')
        ax.tick_params(length=0), ax.spines[:].set_visible(False)
    axs[-1].set_xticks(range(c), [_label(o) for o in first.columns], rotation=35 if c > 5 else 0, fontsize=9,
                       ha='right' if c > 5 else 'center', rotation_mode='anchor' if c > 5 else 'default')
    if first.columns.name: axs[-1].set_xlabel(_label(first.columns.name))
    fig.colorbar(im, ax=list(axs), label=what, shrink=.8, aspect=30)
    if title: fig.suptitle(title)
    return fig
