"Charts of operators: error by mesh; error, energy and spectrum of roll-outs"
import math
import numpy as np, pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatterSciNotation, NullLocator
from fastrobust.reporting.style import (
    DARK, DASHES, GREY, INK, LEARNERS, MARKERS, new_figure, tidy, whole_numbers)

__all__ = []

RING = dict(ls='', marker='o', ms=11, mfc='none', mec=INK, mew=1.3)     # around a training mesh
CROSS = dict(ls='', marker='X', ms=10, mec='white')                     # where a field diverges
SOLID = '-','--',':'

def _below(fig, handles):
    "One legend under all axes"
    n = len(handles)
    rows = math.ceil(n*1.9/fig.get_figwidth())
    fig.legend(handles=handles, loc='outside lower center', frameon=False, fontsize=9,
               ncols=math.ceil(n/rows), handlelength=2.6)

class _Plain(LogFormatterSciNotation):
    "0.2 rather than 2 x 10^-1, at the ticks that a log scale names"
    def __call__(self, x, pos=None): return f'{x:.4g}' if super().__call__(x, pos) else ''

def _log_y(ax, values):
    "A log scale, unless there is nothing above 0"
    v = np.asarray(values, float)
    v = v[np.isfinite(v) & (v > 0)]
    if not len(v):
        ax.set_ylim(-.05, 1)
        return
    ax.set_yscale('log')
    if 1e-3 < v.min() and v.max() < 1e3:
        ax.yaxis.set_major_formatter(_Plain())
        ax.yaxis.set_minor_formatter(_Plain(minor_thresholds=(1, .4)))

# --- meshes ---------------------------------------------------------------------------------------
def _mesh_looks(t):
    "(data, learner) -> colour and marker by learner, dashes by data"
    sets,who = (list(dict.fromkeys(t[k])) for k in ('data', 'learner'))
    return {(d, k): dict(color=LEARNERS[j%6], marker=MARKERS[j%6], ls=DASHES[i%4])
            for i,d in enumerate(sets) for j,k in enumerate(who)}

def _mesh_line(ax, t, column, look, shift, se=None):
    "One learner on one data set, on the meshes that have a value above 0"
    v = t[column].to_numpy(float)
    ok = np.isfinite(v) & (v > 0)
    if not ok.any(): return
    x = shift*t.nodes.to_numpy()[ok]
    ax.plot(x, v[ok], lw=1.8, ms=5, **look)
    if se is None: return
    half = 2*np.nan_to_num(se.to_numpy(float)[ok])
    low = np.minimum(half, .9*v[ok])        # a log scale has no 0
    ax.errorbar(x, v[ok], [low, half], fmt='none', ecolor=look['color'], elinewidth=1, capsize=2)
    at = t.training.to_numpy()[ok]
    ax.plot(x[at], v[ok][at], zorder=4, **RING)

def draw_meshes(
    rep,            # Result of `mesh_report`
    figsize=None    # In inches
):                  # Axes
    "Error by mesh, training meshes ringed; beside it how far each mesh is from the finest at shared nodes"
    t = rep.table.reset_index()
    t['nodes'] = [s[0] for s in rep.sizes]
    looks = _mesh_looks(t)
    who = list(dict.fromkeys(t.learner))
    fig = new_figure(figsize or (9.4, 4.2))
    left,right = axes = fig.subplots(1, 2, sharex=True)
    for i,(at,part) in enumerate(t.groupby(['data', 'learner'], sort=False)):
        shift = 1.03**(i-(len(looks)-1)/2)      # so that their error bars stand beside each other
        _mesh_line(left, part, 'error', looks[at], shift, part.se)
        _mesh_line(right, part, 'difference', looks[at], shift)
    gone = t[t.said == 'refused'].drop_duplicates(['nodes', 'learner'])
    for at,part in gone.groupby(['data', 'learner'], sort=False):
        look = dict(color=looks[at]['color'], ls='', marker='x', mew=1.8)
        high = .03 + .05*who.index(at[1])
        for ax in axes:
            foot = ax.get_xaxis_transform()
            ax.plot(part.nodes, [high]*len(part), transform=foot, **look)
    for ax,k in zip(axes, ('error', 'difference')):
        _log_y(ax, t[k])
        tidy(ax, 'both', behind=False)
        ax.set_xscale('log')
        names = dict(zip(t.nodes, t.mesh))
        ax.set_xticks(list(names), [str(o) for o in names.values()], fontsize=9)
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xlabel('nodes along a side' if pd.api.types.is_integer_dtype(t.mesh) else 'mesh')
    left.set_title('Error, ± 2 standard errors', fontsize=11)
    right.set_title('Difference to the finest mesh', fontsize=11)
    left.set_ylabel('relative L2')
    several = t['data'].nunique() > 1
    handles = []
    for (d,k),o in looks.items():
        name = f'{k}, {d}' if several else k
        handles.append(Line2D([], [], label=name, lw=1.8, ms=5, **o))
    if t.training.any(): handles.append(Line2D([], [], label='training mesh', **RING))
    if len(gone):
        handles.append(Line2D([], [], ls='', marker='x', color=DARK, mew=1.8, label='refused'))
    _below(fig, handles)
    return axes

# --- roll-outs ------------------------------------------------------------------------------------
def _rollout_looks(rep):
    "Name -> colour, dashes, width"
    out = {'true': dict(color=INK, ls='-', lw=2.2)}
    for i,k in enumerate(o for o in rep.names if o != 'persistence'):
        out[k] = dict(color=LEARNERS[i%6], ls=SOLID[i//2%3], lw=1.8)
    return out | {'persistence': dict(color=GREY, ls='--', lw=1.5)}

def _cross(ax, rep, name, v, look):
    "Where the first field diverged, on the line of `v` by step or at the top"
    first = rep.diverged[name].min() if name in rep.diverged else np.nan
    if np.isnan(first): return
    if first > v.index[-1]: return
    before = v[np.isfinite(v) & (v.index <= first)]
    y = ax.get_ylim()[1]
    if len(before): y = min(y, before.iloc[-1])
    ax.plot([first], [y], color=look['color'], zorder=5, clip_on=False, **CROSS)

def _curve(ax, steps, v, look):
    ok = np.isfinite(v)
    marker = 'o' if ok.sum() == 1 else None
    ax.plot(steps[ok], v[ok], marker=marker, ms=5, **look)

def _errors(ax, rep, looks):
    t = rep.table.loc[:rep.known]
    steps = t.index.to_numpy()
    _log_y(ax, t['error'].to_numpy())
    for k in rep.names:
        v,se = (t[o,k].to_numpy(float) for o in ('error', 'se'))
        _curve(ax, steps, v, looks[k])
        ok = np.isfinite(v) & np.isfinite(se) & (v > 0)
        if not ok.any(): continue
        low = np.maximum(v-2*se, .1*v)      # a log scale has no 0
        color = looks[k]['color']
        ax.fill_between(steps[ok], low[ok], (v+2*se)[ok], color=color, alpha=.18, lw=0)
    finite = t['error'].to_numpy()
    finite = finite[np.isfinite(finite) & (finite > 0)]
    if len(finite):
        top = min(1.6*finite.max(), 1e3)
        ax.set_ylim(finite.min()/1.6, top)
    for k in rep.names: _cross(ax, rep, k, t['error',k], looks[k])
    ax.set(ylabel='relative L2', xlabel='step', title='Error, ± 2 standard errors')

def _energies(ax, rep, looks):
    t,steps = rep.table,rep.table.index.to_numpy()
    names = [k for k in looks if k != 'persistence']
    for k in names: _curve(ax, steps, t['energy',k].to_numpy(float), looks[k])
    v = t['energy'][names].to_numpy(float)
    v = v[np.isfinite(v) & (v > 0)]
    # what runs away is seen to leave
    top = min(v.max(), 10*rep.blowup*t['energy','true'].max())
    if top > 30*v.min():
        ax.set_yscale('log')
        ax.set_ylim(max(v.min()/1.6, 1e-12*top), 1.6*top)
    else: ax.set_ylim(0, 1.12*top)
    for k in names: _cross(ax, rep, k, t['energy',k], looks[k])
    if len(steps) > rep.known: ax.axvline(rep.known, color=DARK, lw=1, ls=':')
    ax.set(ylabel='mean square', xlabel='step', title='Energy')

def _spectra(ax, rep, looks):
    s = rep.spectrum
    names = [k for k in looks if k != 'persistence']
    top = s['true'].max()
    if s['true'][0] < 1e-12*top: s = s.drop(index=0)       # fields without a mean
    for k in names:
        v = s[k].to_numpy()
        _curve(ax, s.index.to_numpy(), np.where(v > 0, v, np.nan), looks[k])
    v = s[names].to_numpy()
    v = v[np.isfinite(v) & (v > 1e-12*top)]
    ax.set_yscale('log')
    ax.set_ylim(v.min()/2, min(3*v.max(), 1e3*top))
    if len(s) > 50:
        ax.set_xscale('log')
        ax.set_xlim(left=.9)
    ax.set(ylabel='energy', xlabel='Fourier mode |k|', title=f'Spectrum at step {rep.known}')

def draw_rollout(
    rep,            # Result of `rollout_report`
    figsize=None    # In inches
):                  # Axes
    "Error and energy by step, the spectrum at the last step that has a truth; crosses where something diverges"
    looks = _rollout_looks(rep)
    fig = new_figure(figsize or (11.5, 3.9))
    axes = fig.subplots(1, 3)
    for ax,draw in zip(axes, (_errors, _energies, _spectra)):
        draw(ax, rep, looks)
        tidy(ax, 'both', behind=False)
        ax.title.set_fontsize(11)
    for ax in axes[:2]: whole_numbers(ax.xaxis)
    names = {'true': 'truth'}
    handles = [Line2D([], [], label=names.get(k, k), **o) for k,o in looks.items()]
    if rep.diverged.notna().any(axis=None):
        handles.append(Line2D([], [], color=DARK, label='first field diverges', **CROSS))
    if len(rep.table) > rep.known:
        handles.append(Line2D([], [], color=DARK, lw=1, ls=':', label='the truth ends'))
    _below(fig, handles)
    return axes
