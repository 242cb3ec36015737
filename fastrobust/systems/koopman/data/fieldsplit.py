"Which histories train and which are held out, as items; no history, and no frame, is in both"
from numbers import Real
import numpy as np
import torch
from fastrobust.basics import is_whole, robust_warn
from fastrobust.systems.koopman.data.fielditems import FieldItems, rows_index, windows_of
from fastrobust.systems.koopman.data.fieldscale import frame_times

__all__ = []

# --- which histories are held out -----------------------------------------------------------------
def is_share(valid):
    "A number, of which True and False are none?"
    return isinstance(valid, Real) and not isinstance(valid, bool)

def is_positions(valid):
    "Whole numbers, rather than fields?"
    if isinstance(valid, range): return True
    if not isinstance(valid, (list, tuple, np.ndarray, torch.Tensor)): return False
    if isinstance(valid, (list, tuple)):
        return len(valid) > 0 and all(map(is_whole, valid))
    return valid.ndim == 1 and str(valid.dtype).removeprefix('torch.').startswith(('int', 'uint'))

def _split(n, valid, seed):
    "Rows of training and of validation, as sorted lists"
    if is_share(valid):
        k = round(n*valid)
        if not (0 < valid < 1 and 0 < k < n):
            raise ValueError("expected `valid` as a share in (0,1) that leaves histories on both "
                             f"sides, got {valid} of {n}. Choose another share, or give positions, "
                             "or fields of their own.")
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        order = order.tolist()
        return sorted(order[k:]),sorted(order[:k])
    held = [int(i) for i in valid]
    there = len({i % n for i in held if -n <= i < n})     # -1 is the last
    if there < len(held) or not 0 < there < n:
        raise ValueError(f"expected `valid` as different positions in 0..{n-1} that leave some to "
                         f"train on, got {len(held)} of {n}: {held[:5]}.")
    held = sorted({i % n for i in held})
    return sorted(set(range(n)) - set(held)),held

def _cut(frames, valid, span):
    "(row, first frame, frame after the last) of the only history's first frames, and of its last"
    if not is_share(valid) or not 0 < valid < 1:
        raise ValueError("expected `valid` as a share in (0,1) of the frames of the one history, "
                         f"got {valid!r}. Or give another history: valid=array.")
    cut = frames - round(frames*valid)
    if min(cut, frames-cut) < span:
        raise ValueError(f"expected {span} frames or more on either side of the split in time, got "
                         f"{cut} to train and {frames-cut} to validate. Choose another `valid`, "
                         "fewer frames, or give `valid=array`.")
    return [(0, 0, cut)],[(0, cut, frames)]

# --- checks ---------------------------------------------------------------------------------------
def _need_alike(new, old, what):
    if (new.c, new.grid) == (old.c, old.grid): return
    raise ValueError(f"expected {what} of {old.c} variables on the grid {old.grid}, as in "
                     f"training, got {new.c} on {new.grid}. Other grids are for "
                     "`dls.test_dl(fields)`.")

def need_pairs(x, y):
    "Refuse inputs and targets that do not belong together"
    if x.n != y.n:
        raise ValueError(f"expected as many targets as inputs, got {x.n} of {x.what} and {y.n} of "
                         f"{y.what}. Select both alike.")
    if x.grid != y.grid:
        raise ValueError(f"expected inputs and targets on one grid, got {x.grid} of {x.what} and "
                         f"{y.grid} of {y.what}. If an axis is no side of the grid, say so: "
                         "axes='n c x'.")

def _need_span(src, f):
    span = f.t_in + f.leads[-1]-1 + f.t_out
    if src.frames >= span: return span
    more = '' if f.leads == (1,) else f', lead={f.leads[-1]}'
    raise ValueError(f"expected {span} frames or more (t_in={f.t_in}, t_out={f.t_out}{more}) in "
                     f"{src.what}, got {src.frames}. Lower t_in or t_out; or say which axis holds "
                     "the times, such as axes='n t y x'; or give pairs of fields: "
                     "field_dls(u0, uT).")

def used_frames(
    index,      # Row, start and lead of windows (m,3)
    f           # `Facts`: t_in, t_out
):
    "(row, first frame, frame after the last) of each row of the windows"
    spans: dict = {}
    for row,start,lead in index.tolist():
        end = start + f.t_in-1 + lead + f.t_out
        lo,hi = spans.get(row, (start, end))
        spans[row] = min(lo, start),max(hi, end)
    return [(row, *span) for row,span in spans.items()]

# --- items ----------------------------------------------------------------------------------------
def split_histories(
    x,          # Source
    valid,      # Share, positions or fields
    seed,       # Of the share
    every,      # Steps between the starts of windows, or None
    facts,      # `Facts`
    get         # Function of fields that makes a source
):              # Two `FieldItems`
    "Training and validation windows of histories"
    span = _need_span(x, facts)
    windows = lambda segments: windows_of(segments, facts, every)
    whole = lambda rows, src: [(i, 0, src.frames) for i in rows]
    xv = x
    if not is_share(valid) and not is_positions(valid):
        xv = get(valid, 'valid')
        _need_alike(xv, x, '`valid`')
        _need_span(xv, facts)
        if facts.timed and xv.frames > len(facts.times):
            raise ValueError(f"expected `valid` of up to {len(facts.times)} frames, whose `times` "
                             f"are known, got {xv.frames}. Give the times of all.")
        a,b = whole(range(x.n), x),whole(range(xv.n), xv)
    elif x.n == 1:
        a,b = _cut(x.frames, valid, span)
        if every is None:
            robust_warn("one history and no `every` make one item to train on. every=1 takes a "
                        "window from every frame on.")
    else: a,b = (whole(rows, x) for rows in _split(x.n, valid, seed))
    return FieldItems(x, windows(a), facts),FieldItems(xv, windows(b), facts, split_idx=1)

def split_pairs(
    x,          # Source of inputs
    y,          # Source of targets
    valid,      # Share, positions or (x, y), (x, y, times)
    seed,       # Of the share
    times,      # Of the targets, one number or (n,), or None
    facts,      # `Facts`
    get         # Function of fields and a name that makes a source
):              # Two `FieldItems`
    "Training and validation pairs"
    need_pairs(x, y)
    ts = None if times is None else frame_times(times, x.n, pair=True)
    xv,yv,tv = x,y,ts
    if is_share(valid) or is_positions(valid): a,b = _split(x.n, valid, seed)
    else:
        own_times = times is not None and np.ndim(times) == 1
        if not isinstance(valid, (tuple, list)) or len(valid) != 2+own_times:
            more = ', times' if own_times else ''
            raise TypeError("expected `valid` as a share, as positions, or as fields (x, "
                            f"y{more}), got {type(valid).__name__}. Give both sides of the pairs.")
        xv,yv = get(valid[0], 'valid', 0),get(valid[1], 'valid', 1)
        need_pairs(xv, yv)
        _need_alike(xv, x, 'inputs of `valid`')
        _need_alike(yv, y, 'targets of `valid`')
        own = valid[2] if own_times else times
        if ts is not None: tv = frame_times(own, xv.n, pair=True)
        a,b = range(x.n),range(xv.n)

    def items(rows, x, y, ts, split_idx):
        rows = torch.as_tensor(list(rows))
        if ts is not None: ts = ts[rows]
        return FieldItems(x, rows_index(rows), facts, y, ts=ts, split_idx=split_idx)
    return items(a, x, y, ts, 0),items(b, xv, yv, tv, 1)
