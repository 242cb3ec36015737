"Arrays of fields that reports are given: as a loader would hold them, refused where they do not fit; means of errors"
import numpy as np
import torch
from torch import Tensor
from fastrobust.basics import shown
from fastrobust.systems.koopman.fieldmetrics import l2_of_each
from fastrobust.systems.koopman.data.fieldsource import need_finite, need_real

__all__ = []

def as_fields(
    x,      # Array or tensor (n,..)
    what    # What it is, for messages
):          # float32, on the CPU
    "Fields as a plain tensor in the precision of a loader; anything else than real floats is refused"
    if not isinstance(x, (np.ndarray, Tensor)):
        raise TypeError(f"expected {what} as an array or a tensor, got {shown(x)}. Give one array "
                        "(n,..) of n fields.")
    need_real(str(x.dtype).removeprefix('torch.'), what)
    if isinstance(x, Tensor): return x.detach().cpu().as_subclass(Tensor).float()
    # a copy: what is read-only, or of another byte order, is no tensor
    with np.errstate(over='ignore'): return torch.from_numpy(np.array(x, np.float32, order='C'))

def start_frames(
    u,      # Array (n,*grid), (n,t_in,*grid) or (n,t_in,c,*grid)
    op,     # Operator that shall move them on
    what='u'
):          # (n,t_in*c,*grid)
    "What an operator sees at first"
    u,dim = as_fields(u, what),op.dim
    shape = '(n,t_in,*grid)' if op.n_vars == 1 else '(n,t_in,c,*grid)'
    sides = 'one side' if dim == 1 else f'{dim} sides'
    if not 1 <= u.ndim-dim <= 3:
        raise ValueError(f"expected `{what}` of shape {shape} with fields on {sides}, as "
                         f"{op.name} was trained, got {tuple(u.shape)}. Bring the axes into that order.")
    if not len(u): raise ValueError(f"expected at least one field in `{what}`, got none, shape "
                                    f"{tuple(u.shape)}. Look how they were selected.")
    need_finite(u, f'`{what}`')
    grid = u.shape[u.ndim-dim:]
    u = u.reshape(len(u), -1, *grid)
    if u.shape[1] != op.t_in*op.n_vars:
        raise ValueError(f"expected `{what}` of shape {shape} with t_in={op.t_in} frames of "
                         f"{op.n_vars} variables, as {op.name} was trained, got {u.shape[1]} in "
                         f"shape {(len(u), u.shape[1], *grid)}. Give the last {op.t_in}.")
    return u

def true_frames(
    y,      # Array (n,*grid), (n,steps,*grid) or (n,steps,c,*grid)
    u,      # Start frames (n,t_in*c,*grid), which it must go with
    n_vars, # Variables c
    what='y',
    beside='u'
):          # (n,steps,c,*grid)
    "The frames that should come after `u`"
    y = as_fields(y, what)
    dim = u.ndim-2
    grid = tuple(u.shape[2:])
    shape = '(n,steps,*grid)' if n_vars == 1 else '(n,steps,c,*grid)'
    fits = 1 <= y.ndim-dim <= 3 and len(y) == len(u) and tuple(y.shape[y.ndim-dim:]) == grid
    if fits:
        flat = y.reshape(len(y), -1, *grid)
        fits = flat.shape[1] > 0 and flat.shape[1] % n_vars == 0
    if not fits:
        raise ValueError(f"expected `{what}` of shape {shape} with the {len(u)} fields of `{beside}` on "
                         f"its grid {grid}, of {n_vars} variables, got {tuple(y.shape)}. Take both "
                         "from the same trajectories.")
    return flat.unflatten(1, (-1, n_vars))

def need_sizes(
    y,      # Frames (n,steps,c,*grid)
    what='y'
):
    "Refuse true frames that are not finite or zero everywhere: no error is relative to these"
    need_finite(y, f'`{what}`')
    zero = (y == 0).flatten(2).all(2).nonzero()
    if not len(zero): return
    i,step = zero[0].tolist()
    raise ValueError(f"expected frames in `{what}` that are not 0 everywhere, got {len(zero)} that "
                     f"are, first frame {step+1} of field {i}: no error is relative to it. Leave "
                     "these fields out.")

def need_time(
    t,      # None, a number, or of each field (n,)
    n,      # Fields
    ops,    # Operators
    how     # Where to give it, for messages
):          # None or (n,)
    "Time of a step for the operators that take one"
    timed = [op.name for op in ops if op.timed]
    if t is None:
        if timed: raise ValueError(f"expected the time of a step, which {timed[0]} takes, got none. "
                                   f"Give {how}.")
        return None
    if not timed:
        raise ValueError(f"expected no time, as {ops[0].name} was trained without, got "
                         f"{shown(t)}. Leave it out.")
    t = torch.as_tensor(t, dtype=torch.float32)
    if t.ndim == 0: t = t.expand(n)
    if t.shape != (n,) or not t.isfinite().all():
        raise ValueError(f"expected the time of a step as one finite number or one for each of the "
                         f"{n} fields, got shape {tuple(t.shape)}. Give {how}.")
    return t.clone()

# --- numbers --------------------------------------------------------------------------------------
def errors_of(
    pred,       # Fields (b,k,*grid)
    y,          # What they should be
    weights=None,   # Of the places of the grid
    scale=None  # (mean, std) of each variable, in which it is counted
):              # float64 (b,); infinite where a field is not finite
    "Relative L2 error of each item"
    e = l2_of_each(pred.double(), y.double(), weights, scale)
    return torch.where(e.isnan(), torch.inf, e)

def mean_se(
    v       # Numpy (n,..); infinite where something is not finite
):
    "Mean over fields and its standard error; nothing that is not finite is averaged away"
    n = len(v)
    with np.errstate(all='ignore'):
        mean = v.mean(0)
        if n < 2: return mean,np.full_like(mean, np.nan)
        return mean,v.std(0, ddof=1)/n**.5

def plus_minus(
    mean,   # NaN: nothing to say
    se      # Standard error; NaN: unknown
):
    "A mean and its standard error in a cell of a table"
    if np.isnan(mean): return ''
    if np.isnan(se): return f'{mean:.3g}'
    return f'{mean:.3g} ± {se:.2g}'
