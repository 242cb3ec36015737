"Spectra of operators on planes: |H| over all wave vectors, the exact one, how far they are apart"
import numpy as np
from matplotlib.ticker import MaxNLocator
from fastrobust.reporting.style import PALE, axes_on

__all__ = []

SIZES = dict(cmap='viridis', vmin=0)
FAR = dict(cmap='magma_r', vmin=0)
ANGLES = dict(cmap='twilight', vmin=-np.pi, vmax=np.pi)
TIMES = 'factor in one step'

def whole_plane(
    H   # Of waves with kx >= 0, complex (2m-1,kx)
):      # Of all, (2m-1,2kx-1)
    "H of (-ky,-kx) is the conjugate of that of (ky,kx)"
    return np.concatenate([H[::-1, :0:-1].conj(), H], 1)

def _image(ax, v, title, labels=True, **look):
    "Numbers over all wave vectors: ky upward, kx to the right; grey where there is none"
    top,right = len(v)//2+.5,v.shape[1]//2+.5
    ax.set_facecolor(PALE)
    ax.imshow(v, origin='lower', extent=(-right, right, -top, top), interpolation='nearest', **look)
    ax.set_title(title, fontsize=10)
    ax.set_xlabel('kx, along the second side', fontsize=9)
    if labels: ax.set_ylabel('ky, along the first side', fontsize=9)
    for axis in (ax.xaxis, ax.yaxis): axis.set_major_locator(MaxNLocator(7, integer=True))
    ax.tick_params(labelsize=8, labelleft=labels)
    ax.spines[['top', 'right', 'left', 'bottom']].set_visible(False)

def _bar(axs, label):
    bar = axs[0].figure.colorbar(axs[0].images[0], ax=list(axs), shrink=.7, aspect=20, pad=.02)
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)

def _largest(values): return max((float(np.nanmax(o, initial=0.)) for o in values), default=0.)

def draw_sizes(
    ax,         # Axes; None: those of a new figure
    H,          # Complex (2m-1,kx)
    exact=None  # The same of the equation: as lines
):
    "|H| over the wave vectors"
    ax = axes_on(ax, (5, 4.2))
    size = abs(whole_plane(H))
    _image(ax, size, '|H|', **SIZES, vmax=max(1., _largest([size])))
    _bar([ax], TIMES)
    if exact is None: return ax
    want = abs(whole_plane(np.asarray(exact)))
    if np.ptp(want) == 0: return ax
    ky,kx = (np.arange(n)-n//2 for n in want.shape)
    lines = ax.contour(kx, ky, want, colors='white', linewidths=1)
    ax.clabel(lines, fontsize=8)
    ax.set_title('|H|; lines: the exact one', fontsize=10)
    return ax

def draw_planes(
    fig,        # Figure, or part of one
    planes,     # Name -> complex (2m-1,kx), all of one shape
    exact=None, # Complex (2m-1,kx), or None
    unseen=()   # Name -> true where the training fields have no such wave (2m-1,kx): left out
):              # Axes
    "|H| of operators, the exact one first; how far each is from it, or else the angle of each"
    hidden = dict(unseen)
    def kept(name, H): return np.where(hidden[name], np.nan, H) if name in hidden else H
    all_waves = {k: whole_plane(kept(k, np.asarray(H))) for k,H in planes.items()}
    sizes,more = {k: abs(H) for k,H in all_waves.items()},{}
    if exact is None: more = {k: np.angle(H) for k,H in all_waves.items()}
    else:
        mu = whole_plane(exact)
        sizes = {'exact': abs(mu)} | sizes
        more = {k: abs(H-mu) for k,H in all_waves.items()}
    axs = fig.subplots(1, len(sizes)+len(more), squeeze=False)[0]
    n,top = len(sizes),max(1., _largest(sizes.values()))
    for i,(name,v) in enumerate(sizes.items()):
        _image(axs[i], v, f'{name}: |H|', not i, **SIZES, vmax=top)
    _bar(axs[:n], TIMES)
    if exact is None: what,look,unit = 'angle of H',ANGLES,'turn in one step, radians'
    else:
        what,unit = '|H - exact|','distance in the complex plane'
        look = dict(FAR, vmax=_largest(more.values()) or 1.)
    for ax,(name,v) in zip(axs[n:], more.items()): _image(ax, v, f'{name}: {what}', False, **look)
    _bar(axs[n:], unit)
    return axs
