"Multipliers of an equation, as a user gives them: of waves along one side, or in all directions"
import inspect
import numpy as np
from fastrobust.basics import shown
from fastrobust.systems.koopman.reports.spectrum import plane_axes

__all__ = []

def _asks_for(f):
    "How many wave numbers a function must be given"
    try: given = inspect.signature(f).parameters.values()
    except (TypeError, ValueError): return 1
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(o.kind in by_place and o.default is inspect.Parameter.empty for o in given)

def _of_directions(exact): return _asks_for(exact) > 1 if callable(exact) else np.ndim(exact) == 2

def _numbers(mu): return mu.dtype.kind in 'fic' and np.isfinite(mu).all()

def _refuse(exact, modes, mu):
    raise ValueError(f"expected `exact` as {modes} finite multipliers of the modes "
                     f"0..{modes-1}, or a function of the wave numbers, got {shown(exact)} of "
                     f"shape {mu.shape}. For example partial(advection_multiplier, T=.1); of "
                     f"planes a function of (ky, kx), or an array ({2*modes-1},{modes}).")

def exact_waves(
    exact,  # As `spectrum_report` takes it
    modes,  # |k| < modes
    sides   # Nodes along each side
):          # Complex (modes,) and (2 modes-1,kx), None for what is not known
    "Multipliers of waves along the first side, and of those in all directions"
    if exact is None: return None,None
    axes = plane_axes(modes, sides) if len(sides) == 2 else None
    if axes is None or not _of_directions(exact):
        mu = np.asarray(exact(np.arange(modes)) if callable(exact) else exact)
        if not _numbers(mu) or mu.ndim != 1 or len(mu) < modes: _refuse(exact, modes, mu)
        return mu[:modes].astype(complex),None
    shape = tuple(map(len, axes))
    mu = np.asarray(exact(*np.meshgrid(*axes, indexing='ij')) if callable(exact) else exact)
    if not _numbers(mu) or mu.shape != shape: _refuse(exact, modes, mu)
    plane = mu.astype(complex)
    return plane[modes-1:, 0],plane
