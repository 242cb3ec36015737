"Multipliers of an equation, as a user gives them: of waves along one side, or in all directions"
import inspect
import numpy as np
from fastrobust.basics import shown
from fastrobust.systems.koopman.reports.spectrum import plane_axes

__all__ = []

def _asks_for(f):
    "How many wave numbers a function must be given; None: any number of them"
    f = getattr(f, 'pyfunc', f)         # what np.vectorize was given
    try: given = inspect.signature(f).parameters.values()
    except (TypeError, ValueError): return 1
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    n = sum(o.kind in by_place and o.default is inspect.Parameter.empty for o in given)
    any_number = any(o.kind is inspect.Parameter.VAR_POSITIONAL for o in given)
    return None if any_number and n < 2 else n

def _of_directions(exact, planar):
    "Is it of waves in all directions?"
    if not callable(exact): return np.ndim(exact) == 2
    n = _asks_for(exact)
    if n is None and planar:
        raise ValueError("expected `exact` as a function of k, or of (ky, kx), got one of any number of arguments. "
                         "Say which: lambda ky, kx: f(ky, kx).")
    return n is not None and n > 1

def _numbers(mu): return mu.dtype.kind in 'fic' and np.isfinite(mu).all()

def _values(exact, ks):
    "Multipliers at wave numbers `ks`; a function may give one for all"
    if not callable(exact): return np.asarray(exact)
    try: mu = np.asarray(exact(*ks))
    except TypeError as e:
        many = 'k alone' if len(ks) == 1 else '(ky, kx)'
        raise ValueError(f"expected `exact` as a function of {many}, arrays of whole numbers, got {shown(exact)}, "
                         f"which says: {e}. For example partial(advection_multiplier, T=.1).") from e
    return mu if mu.ndim else np.broadcast_to(mu, ks[0].shape)

def _refuse(exact, modes, mu, shape):
    also = '' if shape is None else f"; of planes a function of (ky, kx), or an array ({shape[0]},{shape[1]})"
    raise ValueError(f"expected `exact` as {modes} finite multipliers of the modes "
                     f"0..{modes-1}, or a function of the wave numbers, got {shown(exact)} of "
                     f"shape {mu.shape}. For example partial(advection_multiplier, T=.1){also}.")

def exact_waves(
    exact,  # As `spectrum_report` takes it
    modes,  # |k| < modes
    sides   # Nodes along each side
):          # Complex (modes,) and (2 modes-1,kx), None for what is not known
    "Multipliers of waves along the first side, and of those in all directions"
    if exact is None: return None,None
    axes = plane_axes(modes, sides) if len(sides) == 2 else None
    shape = None if axes is None else tuple(map(len, axes))
    wide = _of_directions(exact, axes is not None)
    if wide and axes is None:
        raise ValueError("expected `exact` of k alone, as the operator is taken to be on a line, got one of (ky, kx). "
                         "Give a function of k; if it is a function of planes, say so: size=(64, 64).")
    if not wide:
        mu = _values(exact, [np.arange(modes)])
        if not _numbers(mu) or mu.ndim != 1 or len(mu) < modes: _refuse(exact, modes, mu, shape)
        return mu[:modes].astype(complex),None
    mu = _values(exact, np.meshgrid(*axes, indexing='ij'))
    if not _numbers(mu) or mu.shape != shape: _refuse(exact, modes, mu, shape)
    plane = mu.astype(complex)
    return plane[modes-1:, 0],plane
