"Checks of what the equations are given: fields, times, constants"
import numpy as np
from fastrobust.basics import need_number, shown

__all__ = []

_SHAPES = {'line': '(n, s)', 'square': '(n, s, s)', 'water': '(n, 2, s)', 'any': '(n, *grid)'}
_AXES = {'line': 2, 'square': 3, 'water': 3}

def _real_array(name, u):
    "`u`, an array or tensor of real numbers, as float64"
    if hasattr(u, 'detach'): u = u.detach().cpu().numpy()
    try: u = np.asarray(u)
    except ValueError:
        raise TypeError(f"`{name}` must be one array, got rows of several lengths. Give one "
                        "grid.") from None
    if u.dtype.kind == 'c':
        raise TypeError(f"`{name}` must hold real numbers, got {u.dtype}. Give its `.real`, or the "
                        "inverse transform of what are coefficients.")
    if u.dtype.kind not in 'fiu':
        raise TypeError(f"`{name}` must be an array of real numbers, got one of {u.dtype}. Give e.g. "
                        "what a GaussianField draws.")
    return u.astype(float)

def need_field(name, u, shape):
    "`u` as float64 of a `shape` named in `_SHAPES`: real, finite, at least 8 points an axis"
    u = _real_array(name, u)
    axes = _AXES.get(shape, max(2, u.ndim))
    wrong = u.ndim != axes or shape == 'water' and u.shape[1] != 2
    if wrong:
        fix = "Index the axes that are too many, or reshape."
        if shape == 'water': fix = "Stack height and discharge: np.stack([h, hu], 1)."
        elif u.ndim == axes-1: fix = f"One field alone: {name}[None]."
        raise ValueError(f"`{name}` must be of shape {_SHAPES[shape]}, got {u.shape}. {fix}")
    if shape == 'square' and u.shape[1] != u.shape[2]:
        raise ValueError(f"`{name}` must have as many points along x as along y, got {u.shape}. "
                         "Interpolate it to a square grid.")
    grid = u.shape[2:] if shape == 'water' else u.shape[1:]
    if not len(u) or min(grid) < 8:
        raise ValueError(f"`{name}` must hold at least one field of 8 or more points an axis, got "
                         f"{u.shape}. Give more.")
    bad = ~np.isfinite(u).reshape(len(u), -1).all(1)
    if bad.any():
        raise ValueError(f"`{name}` must be finite, got NaN or infinity in {bad.sum()} of {len(u)} "
                         f"fields, the first of them field {bad.argmax()}. Leave those out.")
    return u

def need_times(T):
    "Times (t,) of one number or several, and whether it was one"
    single = np.ndim(T) == 0
    if single: need_number('T', T)
    try: times = np.atleast_1d(np.asarray(T, float))
    except (TypeError, ValueError):
        raise TypeError(f"`T` must be a time or several, got {shown(T)}. Give e.g. 1. or "
                        "[.5, 1.].") from None
    listed = times.ndim == 1 and len(times) > 0 and np.isfinite(times).all()
    if not listed or (np.diff(times) <= 0).any() or times[0] < 0 or times[-1] <= 0:
        raise ValueError(f"`T` must be a finite time above 0, or several that grow from 0 on, got "
                         f"{T}. Give e.g. 1. or [0, .5, 1.].")
    return times,single

def need_positive(name, v, zero=False):
    "`v` as a float above 0, or with `zero` from 0 on"
    need_number(name, v)
    if zero and v == 0: return 0.
    if not 0 < v < np.inf:
        least = '0 or more' if zero else 'positive'
        raise ValueError(f"`{name}` must be {least} and finite, got {v}. Give e.g. .01.")
    return float(v)

def need_finite(name, v):
    "`v` as a finite float of any sign"
    need_number(name, v)
    if not np.isfinite(v): raise ValueError(f"`{name}` must be finite, got {v}. Give e.g. 1.")
    return float(v)
