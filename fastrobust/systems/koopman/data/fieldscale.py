"What a learner must know of fields: mean and deviation of variables, weights by latitude, times"
from dataclasses import dataclass
from typing import Any
import numpy as np
import torch
from fastrobust.basics import is_whole, robust_warn

__all__ = []

FLAT = 1e-6     # Share of the deviation, up to which a field counts as constant

@dataclass
class Facts:
    "Of the fields of a loader; a learner and the pictures read them as `dls.n_vars` and so on"
    t_in: int           # Frames a model sees
    t_out: int          # Frames it shall give
    n_vars: int         # Variables c of an input frame
    grid: tuple         # Points along the sides
    periodic: tuple     # For each side, whether it is periodic
    pair: bool          # Fields to other fields, rather than histories?
    weights: Any = None # (ny,1), mean 1, or None
    scale: Any = None   # (mean, std) of the inputs, float32 tensors (c,)
    y_scale: Any = None # Of the targets; those of `scale` in histories
    leads: tuple = (1,) # Frames from the last seen to the first target
    timed: bool = False # Does the model get the time of the target?
    times: Any = None   # Of frames (t,), float64, or None

# --- mean and deviation ---------------------------------------------------------------------------
def _merge(a, n, mean, m2):
    "Chan's update of (count, mean, sum of squared deviations)"
    if a is None: return n,mean,m2
    n0,mean0,m20 = a
    d = mean - mean0
    total = n0 + n
    return total,mean0 + d*n/total,m20 + m2 + d.square()*(n0*n/total)

def running_stats(
    parts       # Iterable of fields (k,c,*grid)
):              # (mean, std), float32 tensors (c,)
    "Mean and standard deviation of each variable, in float64, one part after the other"
    acc = None
    for u in parts:
        v = u.double().transpose(0, 1).flatten(1).cpu()
        mean = v.mean(1)
        m2 = (v - mean[:, None]).square().sum(1)
        acc = _merge(acc, v.shape[1], mean, m2)
    n,mean,m2 = acc
    std = (m2/n).sqrt()
    flat = std <= 1e-7*mean.abs()       # what float32 leaves of a constant
    if flat.any():
        robust_warn(f"variable {flat.nonzero().flatten().tolist()} of the training fields is "
                    "constant: its deviation is taken as 1. Leave it out if it tells nothing.")
        std[flat] = 1.
    return mean.float(),std.float()

def given_scale(scale, c):
    "The pair (mean, std) that was given instead"
    try: mean,std = (torch.as_tensor(o, dtype=torch.float32).flatten() for o in scale)
    except (TypeError, ValueError): mean = std = torch.zeros(0)
    finite = mean.isfinite().all() and std.isfinite().all()
    fits = len(mean) == len(std) == c
    if fits and finite and (std > 0).all(): return mean,std
    raise ValueError(f"expected `scale` as (mean, std) of each of {c} variables, std > 0, got "
                     f"{scale!r}. None: of the training fields.")

# --- targets of nothing ---------------------------------------------------------------------------
class Ranges:
    "Least and largest value of each variable of the frames that pass"
    def __init__(self,
        src     # Source
    ):
        self.lo = torch.full((src.n*src.frames, src.c), torch.inf)
        self.hi = -self.lo

    def watch(self, placed):
        "The fields (k,c,*grid) of pairs (numbers of frames, fields), looked at"
        for at,u in placed:
            lo,hi = u.flatten(2).aminmax(dim=2)
            self.lo[at],self.hi[at] = lo.cpu(),hi.cpu()
            yield u

    def flat(self,
        at,     # Frames of each target (m,t)
        scale   # (mean, std) of each variable
    ):          # (m,c)
        "Which targets are constant, at 0 or at the mean, in which variables"
        mean,std = (o.cpu() for o in scale)
        off = lambda v: torch.maximum((self.hi[at]-v).abs(), (self.lo[at]-v).abs()).amax(1) <= FLAT*std
        return off(mean) | off(0.)

def warn_flat(
    flat,   # Which training targets are constant, in which variables (m,c)
    rows    # Their rows in the data (m,)
):
    "Warn of targets to which no error is relative"
    any_var = flat.any(1)
    if not any_var.any(): return
    first = rows[any_var].unique()[:5].tolist()
    of = f' in variable {flat.any(0).nonzero().flatten().tolist()}' if flat.shape[1] > 1 else ''
    robust_warn(f"{int(any_var.sum())} of {len(flat)} training targets, first those of items {first} of the data, "
                f"are 0 or the training mean everywhere{of}: relative errors of such fields say "
                "nothing. Leave them out, or judge by another loss.")

# --- latitude -------------------------------------------------------------------------------------
_ROWS = 'lat','latitude'

def latitudes(
    given,      # True: of a global grid; or degrees (ny,)
    ny,         # Rows before `sub`
    pick,       # The slice that `sub` takes of them
    coords=None # Coordinates of the file, by name
):
    "Degrees of the rows; True: of the file, else of a global grid, with poles if their number is odd"
    if isinstance(given, (bool, np.bool_)):
        found = [o for k,o in (coords or {}).items() if k.lower() in _ROWS and len(o) == ny]
        edge = 90. if ny % 2 else 90. - 90./ny
        lat = found[0] if found else np.linspace(-edge, edge, ny)
        lat = np.asarray(lat, dtype=float)
    else: lat = np.asarray(given, dtype=float)
    rows = len(range(ny)[pick])
    fits = lat.shape in ((ny,), (rows,))
    if not fits or not (np.abs(lat) <= 90+1e-6).all():
        span = f' from {lat.min():g} to {lat.max():g}' if lat.size else ''
        raise ValueError(f"expected `latitude` as True or as degrees in [-90,90] of the {ny} rows, got "
                         f"shape {lat.shape}{span}. Rows are the axis y.")
    return lat if len(lat) == rows else lat[pick]

def latitude_weights(
    lat     # Degrees (ny,)
):          # float32 (ny,1), mean 1
    "Cosine of the latitude: the area that a point of a regular grid stands for"
    w = torch.as_tensor(np.cos(np.deg2rad(lat))).clamp_min(0)
    if not w.sum() > 0:
        raise ValueError("expected latitudes other than the poles, got none. Give degrees.")
    return (w/w.mean()).float()[:, None]

# --- times ----------------------------------------------------------------------------------------
def frame_times(
    times,      # Time between two frames, or of each (t,); of pairs: of the targets, one or (n,)
    n,          # How many there should be
    pair        # Fields to other fields?
):              # float64 tensor (n,)
    "Times as a tensor, refused where they do not fit"
    what = f'the {n} targets' if pair else f'the {n} frames'
    t = torch.as_tensor(times, dtype=torch.float64)
    if t.ndim == 0: t = t*(torch.ones(n) if pair else torch.arange(n))
    if t.shape != (n,) or not t.isfinite().all():
        raise ValueError(f"expected `times` as one number or as those of {what}, got shape "
                         f"{tuple(t.shape)}. One number is "
                         f"{'the time of every target' if pair else 'that between two frames'}.")
    if not pair and n > 1 and not (t.diff() > 0).all():
        raise ValueError("expected `times` of frames that rise, got some that do not. Sort the "
                         "frames, or give the time between two of them.")
    return t

def lead_frames(
    lead,   # Frames from the last that is seen to the first target: a number or several
    times   # None, or times of frames
):
    "Leads as a list; several need times, by which a model tells them apart"
    leads = [lead] if is_whole(lead) else list(lead)
    if not leads or not all(is_whole(o) and o > 0 for o in leads):
        raise ValueError(f"expected `lead` as whole numbers of frames from 1 on, got {lead!r}. 1 "
                         "is the next frame.")
    if len(leads) > 1 and times is None:
        raise ValueError(f"expected `times` beside several leads, got none for lead={lead}. "
                         "Without the time a model cannot tell them apart; times=.1 is that "
                         "between two frames.")
    return sorted(set(map(int, leads)))
