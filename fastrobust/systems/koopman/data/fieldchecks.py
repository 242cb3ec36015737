"Numbers that fields are made of, their grid and its sides: checked, and brought to float32"
import numpy as np
import torch
from fastrobust.basics import is_whole

__all__ = []

def need_real(dtype, what):
    "Refuse what is no array of floats; logical values are fields of 0 and 1"
    kind = np.dtype(dtype).kind
    if kind in 'fb': return
    names = np.dtype(dtype).names or ()     # MATLAB's complex numbers in HDF5 have two
    if kind == 'c' or names[:1] in (('real',), ('r',)):
        raise TypeError(f"expected real fields in {what}, got complex ones ({dtype}). Give real "
                        "and imaginary part as two variables c: np.stack([u.real, u.imag], 2).")
    raise TypeError(f"expected fields of floats in {what}, got {dtype}. If these are values in "
                    "physical units, `.astype('float32')`; codes and packed integers are none.")

def need_finite(u, what, first=0):
    "Refuse NaN and infinity in float32 items `u` (n,..), whose first has the number `first`"
    if torch.isfinite(u.sum()): return     # the sum of large fields may overflow: look again
    bad = ~torch.isfinite(u).flatten(1).all(1)
    bad = bad.nonzero().flatten()
    if not len(bad): return
    items = (bad[:5]+first).tolist()
    raise ValueError(f"expected finite fields in {what}, got NaN or infinity in {len(bad)} of "
                     f"{len(u)} items, first {items}. Leave these items out, or fill in what is "
                     "missing (land, sensors that failed).")

def _sub_of(sub, dim, what):
    subs = tuple(sub) if isinstance(sub, (tuple, list)) else (sub,)*dim
    if len(subs) != dim or not all(is_whole(o) and o > 0 for o in subs):
        raise ValueError(f"expected `sub` as a whole number from 1 on, or {dim} of them for the "
                         f"{dim} sides of {what}, got {sub!r}. sub=4 takes every fourth point.")
    return tuple(map(int, subs))

def strides(sub, grid, periodic, what):
    "Steps along each side of `grid`; on a periodic side they must meet its end"
    subs = _sub_of(sub, len(grid), what)
    for s,n,wraps in zip(subs, grid, periodic):
        if s > n: raise ValueError(f"expected `sub` up to {n}, the points of a side of {what}, got "
                                   f"{s}.")
        if not wraps or n % s == 0: continue
        raise ValueError(f"expected `sub` to divide the {n} points of a periodic side of {what}, "
                         f"got {s}: the points left would be unevenly spaced where the side "
                         f"closes. Take a divisor of {n}; if the last point repeats the first, cut "
                         "it off; or say periodic=False.")
    return tuple(slice(None, None, s) for s in subs)

def picked(a, picks):
    "Every so many-th point of the last axes"
    ix = ...,*picks
    return a[ix]

def as_numpy(t):
    "A tensor on any device as numpy array; of bfloat16, which numpy lacks, as float32"
    t = t.detach().cpu()
    return (t.float() if t.dtype == torch.bfloat16 else t).numpy()

def as_float32(a):
    "A copy of a numpy array as float32 tensor; what is too large for it becomes infinity"
    with np.errstate(over='ignore'): a = np.array(a, dtype=np.float32, order='C')
    return torch.from_numpy(a)

def sides(
    periodic,   # True, False, one of them for each side, or None
    dim,        # Sides
    globe=False # Are these fields on a sphere, whose rows do not wrap?
):
    "For each side whether it is periodic; None: all are, on a sphere x alone"
    if globe and dim < 2:
        raise ValueError("expected fields on two sides (y, x) beside `latitude`, got one side. Leave it "
                         "out, or say `axes`.")
    if periodic is None: return (not globe, True)[-dim:]
    if isinstance(periodic, (bool, np.bool_)): return (bool(periodic),)*dim
    periodic = tuple(periodic)
    if len(periodic) == dim and all(isinstance(o, (bool, np.bool_)) for o in periodic):
        return tuple(map(bool, periodic))
    raise ValueError(f"expected `periodic` as True, False or one of them for each of {dim} sides "
                     f"(y, x), got {periodic}. For a global field: (False, True).")
