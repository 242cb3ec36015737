"Spectra in the complex plane: with the unit circle and, where they are known, the exact points"
import numpy as np
from matplotlib.ticker import MaxNLocator
from fastrobust.reporting.style import (
    DARK, GREY, INK, LEARNERS, MARKERS, PALE, axes_on, figure_legend, new_figure, tidy)
from fastrobust.systems.koopman.reports.planecharts import draw_planes

__all__ = []

EXACT = dict(marker='o', ms=11, mfc='none', mec=INK, mew=1.1, ls='none', zorder=4)

def _plane(ax, reach):
    "Axes of the complex plane up to `reach`, with the unit circle"
    at = np.linspace(0, 2*np.pi, 361)
    ax.axhline(0, color=PALE, lw=.8, zorder=0)
    ax.axvline(0, color=PALE, lw=.8, zorder=0)
    ax.plot(np.cos(at), np.sin(at), color=DARK, lw=1, ls=':', zorder=1)
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect='equal')
    ax.set(xlabel='real part', ylabel='imaginary part')
    for axis in (ax.xaxis, ax.yaxis): axis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    tidy(ax, None)

def _reach(*values):
    "How far from 0 axes have to go"
    far = [abs(np.asarray(o)).max() for o in values if o is not None and np.size(o)]
    return 1.12*max(1., *far)

def _number(ax, k, z, reach, side=None):
    "`k` beside the point `z`: away from the middle, or on the `side` given"
    if side is not None: away = side
    else: away = z/abs(z) if abs(z) > 1e-3 else 1.
    at = z + .075*reach*away
    ax.text(at.real, at.imag, str(k), fontsize=8, color=DARK, ha='center', va='center', zorder=5)

def draw_plane(
    ax,         # Axes; None: those of a new figure
    spectra,    # Name -> complex (modes,)
    exact=None, # Complex (modes,), or None
    unknown=()  # Name -> modes that the training fields did not have: in grey
):
    "H_k of several operators in one plane; the numbers are k"
    ax = axes_on(ax, (5, 5))
    reach = _reach(exact, *spectra.values())
    _plane(ax, reach)
    if exact is not None:
        ax.plot(exact.real, exact.imag, label='exact', **EXACT)
    grey = []
    for i,(name,H) in enumerate(spectra.items()):
        hidden = np.isin(np.arange(len(H)), list(dict(unknown).get(name, ())))
        # the smaller ones on top: operators that agree lie on each other
        look = dict(marker=MARKERS[i % len(MARKERS)], ms=max(8-2.5*i, 3), ls='none', zorder=3)
        color = LEARNERS[i % len(LEARNERS)]
        ax.plot(H[~hidden].real, H[~hidden].imag, color=color, label=name, **look)
        if hidden.any(): grey.append((H[hidden].real, H[hidden].imag, look))
    for i,(x,y,look) in enumerate(grey):    # last in the legend, and there once
        label = None if i else 'not determined by the training fields'
        ax.plot(x, y, color=GREY, mfc='none', label=label, **look)
    named = next(iter(spectra.values())) if exact is None else exact
    # points on a line: by turns above and below, those that say nothing on the other side
    flat = abs(np.imag(named)).max() < .1*reach
    grey = () if exact is not None else dict(unknown).get(next(iter(spectra)), ())
    for k,z in enumerate(named):
        side = (1j, -1j)[(k + (k in grey)) % 2] if flat else None
        _number(ax, k, z, reach, side)
    return ax

def _shaded(ax, x, y):
    "Points (modes,o) in shades by mode"
    k = np.repeat(np.arange(len(x)), x.shape[1])
    points = ax.scatter(x, y, c=k, s=11, cmap='viridis', zorder=3)
    step = -(-len(x)//8)
    ticks = range(0, len(x), step)
    bar = ax.figure.colorbar(points, ax=ax, shrink=.7, aspect=22, pad=.02, ticks=ticks)
    bar.set_label('k', fontsize=9)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)

def draw_raw(ax, name, values):
    "Eigenvalues of I + K, complex (modes,o), in shades by mode"
    _plane(ax, _reach(values))
    _shaded(ax, values.real, values.imag)
    ax.set_title(f'{name}: eigenvalues of I + K\nmisleading: one part of the map only', fontsize=10)

def draw_rates(ax, name, values, exact=None, dt=None):
    "Eigenvalues of the generators, complex (modes,o) in 1/time, and the rates of exact multipliers"
    if exact is not None and dt is not None:
        there = abs(exact) > 0
        mu = exact[there]
        ax.plot(np.log(abs(mu))/dt, np.angle(mu)/(2*np.pi*dt), **EXACT)
    _shaded(ax, values.real, values.imag/(2*np.pi))
    ax.axvline(0, color=DARK, lw=1, ls=':')
    ax.set(xlabel='growth, 1/time', ylabel='frequency, cycles/time')
    ax.xaxis.set_major_locator(MaxNLocator(6))
    title = f'{name}: eigenvalues of its generators\nmostly as `step` set them: no measured spectrum'
    ax.set_title(title, fontsize=10)
    tidy(ax, 'both')

def draw_spectra(rep, figsize=None):
    "The picture of a `spectrum_report`"
    panels = [('raw', *o) for o in rep.raw.items()] + [('rates', *o) for o in rep.rates.items()]
    n = 1+len(panels)
    if not rep.planes:
        fig = new_figure(figsize or (4.6*n + .2, 5.1))
        top = fig
    else:
        images = 2*len(rep.planes) + (rep.exact_plane is not None)
        width = max(4.6*n + .2, 2.9*images + 1.8)
        tall = max(3.2, (width-1.8)/images + .5)
        fig = new_figure(figsize or (width, 5.1+tall))
        top,below = fig.subfigures(2, 1, height_ratios=[5.1, tall])
        draw_planes(below, rep.planes, rep.exact_plane, rep.unseen)
    axs = top.subplots(1, n, squeeze=False)[0]
    draw_plane(axs[0], rep.spectra, rep.exact, rep.unknown)
    title = 'linearised transfer function H_k'
    if rep.planes: title += '\nwaves along the first side'
    axs[0].set_title(title, fontsize=10)
    for ax,(kind,name,values) in zip(axs[1:], panels):
        if kind == 'raw': draw_raw(ax, name, values)
        else: draw_rates(ax, name, values, rep.exact, rep.dt)
    figure_legend(top, axs[0], ncols=min(6, 3+len(rep.spectra)), fontsize=9)
    return fig
