"Pictures of a video report: how many clips are fooled by how many questions, and at what cost"
import numpy as np
from matplotlib.ticker import PercentFormatter
from fastrobust.metrics import wilson_interval
from fastrobust.reporting.style import BLUE, BROWN, GREEN, ORANGE, PURPLE, SKY, VERMILION, WINE
from fastrobust.reporting.style import DASHES, INK, MARKERS, figure_legend, new_figure, tidy
from fastrobust.systems.video.reportrows import reach

__all__ = []

# the attack first
_COLORS = VERMILION,BLUE,ORANGE,GREEN,PURPLE,SKY,WINE,BROWN

def curve_of(
    success,    # Whether each clip was fooled (n,)
    queries     # Questions each took (n,)
):              # (queries, share of all n clips fooled by then), from (0, 0) on
    "Fooling rate by queries, a step where a clip was fooled"
    fooled = np.asarray(success, dtype=bool)
    at,times = np.unique(np.asarray(queries)[fooled], return_counts=True)
    share = times.cumsum()/max(1, len(success))
    return np.r_[0, at],np.r_[0., share]

def _look(i):
    "How the i-th row is drawn"
    color,marker,ls = (o[i % len(o)] for o in (_COLORS, MARKERS, DASHES))
    return dict(color=color, ls=ls),marker

def _curves(ax, rep):
    "A stair a row; the band is of the attack alone, the bound a line"
    most = rep.budget
    for i,row in enumerate(rep.rows):
        look,_ = _look(i)
        if not row.asks:
            ax.axhline(row.success.mean(), color=INK, ls=':', lw=1.5, label=row.name)
            continue
        q,share = curve_of(row.success, row.queries)
        # where all are fooled no question could change that; else the line ends with the last question
        end = most if row.success.all() else row.queries.max()
        q = np.r_[q, end]
        share = np.r_[share, share[-1]]
        width = 1.2 if i else 2.4
        ax.step(q, share, where='post', lw=width, label=row.name, **look)
        if i: continue
        band = wilson_interval(share, np.full(len(share), len(row.success)))
        ax.fill_between(q, *band, step='post', color=look['color'], alpha=.15, lw=0)
    ax.set(xlabel='clips asked about', ylabel='clips fooled')
    ax.set(xlim=(0, most), ylim=(-.02, 1.02))
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    tidy(ax, behind=False)

def _costs(ax, rep):
    "A point a row: fooling rate and perturbation of the fooled, with 95 % intervals"
    t = rep.table
    for i,row in enumerate(rep.rows):
        r = t.loc[row.name]
        look,marker = _look(i)
        if np.isnan(r.change_fooled): continue
        # at 0 and 1 rounding puts an end of the interval inside
        down,up = max(0., r.fooled-r.low),max(0., r.high-r.fooled)
        across = np.nan_to_num(reach(row.success.sum())*r.change_fooled_se)
        color = look['color'] if row.asks else INK
        ax.errorbar(r.change_fooled, r.fooled, [[down], [up]], across, fmt=marker, color=color,
                    ms=7, mec='white', elinewidth=1, alpha=.9)
    ax.set(xlabel='mean change of a fooled clip (of 255)', ylabel='clips fooled', ylim=(-.02, 1.02))
    ax.set_xlim(left=0)
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    tidy(ax, 'both', behind=False)

def draw_report(rep, figsize=(10, 4.4)):
    "Curves of fooling rate by queries, and fooling rate against perturbation"
    fig = new_figure(figsize)
    a,b = fig.subplots(1, 2, width_ratios=(3, 2))
    _curves(a, rep)
    _costs(b, rep)
    figure_legend(fig, a, ncols=4, fontsize=9)
    return fig
