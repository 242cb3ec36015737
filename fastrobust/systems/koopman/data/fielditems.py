"Items of fields, (x, y) or (x, t, y): windows of histories, pairs, and new fields like those of training"
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
import numpy as np
import torch
from fastcore.basics import GetAttr
from fastrobust.basics import is_whole
from fastrobust.systems.koopman.data.fieldchecks import as_float32, as_numpy, need_finite, need_real
from fastrobust.systems.koopman.data.fieldshow import TensorField
from fastrobust.systems.koopman.data.fieldsource import Held, OnDisk, as_source
from fastrobust.systems.koopman.files.readers import FieldFile

__all__ = []

def rows_index(
    rows    # Long tensor (m,)
):          # Row, start, lead (m,3)
    "The index of items that are whole rows"
    return torch.stack([rows, torch.zeros_like(rows), torch.ones_like(rows)], 1)

def windows_of(
    segments,   # (row, first frame, frame after the last) of each history, or of a part of it
    f,          # `Facts`: t_in, t_out, leads
    every=None  # Steps between starts; None: the first alone
):              # Long tensor (m,3) of row, start, lead
    "All windows that lie inside their segments"
    out = []
    for row,lo,hi in segments:
        for lead in f.leads:
            last = hi - (f.t_in-1+lead+f.t_out)
            if last < lo: continue
            starts = [lo] if every is None else range(lo, last+1, every)
            out += [(row, s, lead) for s in starts]
    return torch.tensor(sorted(out), dtype=torch.long).reshape(-1, 3)

class FieldItems(GetAttr):
    "Items (x, y) or (x, t, y): x (t_in*c,*grid), y (t_out*c,*grid), t the time of the target"
    _default = 'facts'
    def __init__(self,
        x,          # `Held` or `OnDisk`, or None where there are no items
        index,      # Row, start and lead of each item, long tensor (m,3)
        facts,      # `Facts`
        y=None,     # Targets of pairs, `Held` or `OnDisk`
        labelled=True,  # Have the items targets?
        ts=None,    # Times of the targets (m,), where they are no frames with times of their own
        split_idx=0 # 0 training, 1 validation: for random transforms
    ):
        self.x,self.y,self.index,self.facts = x,y,index,facts
        self.labelled,self.ts,self.split_idx = labelled,ts,split_idx
        self.first,self.target = self._places()

    n_inp = property(lambda self: 2 if self.timed else 1)
    @property
    def held(self):
        "Whether all is in memory"
        return not any(isinstance(o, OnDisk) for o in (self.x, self.y))

    def __len__(self): return len(self.index)
    def __repr__(self): return f'FieldItems: {len(self)} of {self.x}'
    def __iter__(self): return (self[i] for i in range(len(self)))

    def new_empty(self): return type(self)(None, self.index[:0], self.facts, split_idx=1)
    def decode(self, o, **_): return o

    @contextmanager
    def set_split_idx(self, i):
        "As fastai's `Datasets`, for `Learner.tta`"
        old,self.split_idx = self.split_idx,i
        try: yield self
        finally: self.split_idx = old

    def _places(self):
        "Number of the first frame of each item among all frames, and of the first of its target"
        rows,starts,leads = self.index.unbind(1)
        if self.y is not None: return rows*self.x.frames,rows*self.y.frames
        if self.x is None: return rows,rows
        first = rows*self.x.frames + starts
        return first,first + self.t_in-1 + leads

    def _times(self, i):
        "Time of the targets of the items `i`, (b,), or (b,t_out) of several"
        if self.ts is not None: return self.ts[i].float()
        _,starts,leads = self.index[i].unbind(1)
        now = starts + self.t_in - 1
        to = (now + leads)[:, None] + torch.arange(self.t_out)
        dt = (self.times[to] - self.times[now][:, None]).float()
        return dt[:, 0] if self.t_out == 1 else dt

    def batch(self,
        i   # Positions of items, long tensor (b,)
    ):
        "The items `i` as a batch"
        f = self.facts
        ts = [self._times(i)] if f.timed else []
        if self._stretch:
            u = self.x.windows(self.first[i], f.t_in+f.t_out)
            parts = u.split([f.t_in*f.n_vars, f.t_out*f.n_vars], 1)
            x,y = (o.contiguous() for o in parts)
        else:
            x,y = self.x.windows(self.first[i], f.t_in),None
            if self.labelled: y = (self.y or self.x).windows(self.target[i], f.t_out)
        x = x.as_subclass(TensorField)
        return (x, *ts) if y is None else (x, *ts, y.as_subclass(TensorField))

    @property
    def _stretch(self):
        "Whether input and target of an item are one stretch of a file, which is read once"
        own = self.labelled and self.y is None
        return own and self.leads == (1,) and not self.held

    items = iloc = property(lambda self: self)      # what fastai's Interpretation picks items from
    def __getitem__(self, i):
        if not is_whole(i):
            at = torch.arange(len(self))[i if isinstance(i, slice) else list(i)]
            ts = None if self.ts is None else self.ts[at]
            part = type(self)(self.x, self.index[at], self.facts, self.y, self.labelled, ts)
            part.split_idx = self.split_idx
            return part
        if not -len(self) <= i < len(self):
            raise IndexError(f"expected an item in 0..{len(self)-1}, got {i}.")
        return tuple(o[0] for o in self.batch(torch.tensor([int(i)])))

# --- new items ------------------------------------------------------------------------------------
def _frames(o, f, what):
    "One item as float32 frames (t,c,*grid); it comes so, or as (t*c,*grid), or as (*grid)"
    o = as_numpy(o) if isinstance(o, torch.Tensor) else np.asarray(o)
    need_real(o.dtype, what)
    u = as_float32(o)
    dim,c = len(f.grid),f.n_vars
    if u.ndim == dim+2 and u.shape[1] == c: return u
    if u.ndim == dim and c == 1: return u[None, None]
    # frames and variables in one axis, as a model takes them; or more frames of one variable
    if u.ndim == dim+1 and u.shape[0] % c == 0:
        return u.unflatten(0, (-1, c))
    raise ValueError(f"expected {what} as fields of {f.t_in} frames or more, {c} variables and "
                     f"{dim} sides, got shape {tuple(o.shape)}. As in training: (t,c,*grid), or "
                     "(t,*grid) of one variable.")

def _stacked(items, f, what):
    frames = [_frames(o, f, what) for o in items]
    shapes = {tuple(o.shape) for o in frames}
    if len(shapes) > 1:
        raise ValueError(f"expected {what} of one shape, got {sorted(shapes)[:3]}. Make a loader "
                         "for each.")
    if not frames: raise ValueError(f"expected {what}, got none. Look how they were selected.")
    u = torch.stack(frames).contiguous()
    need_finite(u, what)
    return Held(u, what)

def new_items(
    # Array (n,..), list of arrays, path; list of tuples (x, t), (x, y), (x, t, y) where they have more
    items,
    facts,      # Those of training
    labelled    # Have they targets?
):
    "`FieldItems` of new fields as a loader of training makes them"
    if isinstance(items, FieldItems): return items
    f,y,ts = facts,None,None
    if isinstance(items, (str, Path, FieldFile)):
        x = as_source(items, 'items', pair=f.pair, periodic=f.periodic)
        if f.pair: x.regroup(f.t_in, 't_in')
        if x.c != f.n_vars:
            raise ValueError(f"expected {f.n_vars} variables in {x.what}, got {x.c}. Choose them: "
                             "open_fields(path, key).")
    else:
        items = list(items)
        if items and isinstance(items[0], (tuple, list)):
            columns = [list(o) for o in zip(*items)]
            items = columns[0]
            if labelled and f.pair and len(columns) > 1:
                like_y = replace(f, n_vars=len(f.y_scale[0]))
                y = _stacked(columns[-1], like_y, 'targets')
            if f.timed and len(columns) > 1 + (y is not None):
                ts = torch.as_tensor(columns[1]).double()
        x = _stacked(items, f, 'items')
    _need_enough(x, f, labelled, y)
    if f.timed and ts is None and (f.pair or not labelled):
        raise ValueError("expected items (x, t), as the model takes the time of the target, got "
                         "fields alone. Give [(x, t), ..].")
    if labelled and not f.pair:
        index = windows_of([(i, 0, x.frames) for i in range(x.n)], f)
    else: index = rows_index(torch.arange(x.n))
    return FieldItems(x, index, f, y, labelled, ts, split_idx=1)

def _need_enough(x, f, labelled, y):
    need = f.t_in
    if labelled and not f.pair: need += f.leads[-1]-1 + f.t_out
    if x.frames < need or (f.pair and x.frames != need):
        raise ValueError(f"expected {need} frames an item, as in training, got {x.frames}. Models "
                         "of other lengths are trained with other t_in, t_out.")
    if labelled and f.timed and not f.pair and x.frames > len(f.times):
        raise ValueError(f"expected up to {len(f.times)} frames an item, whose times are known, "
                         f"got {x.frames}. Give those alone.")
    if labelled and f.pair and y is None:
        raise ValueError("expected items (x, y) with their targets, got fields alone. Give "
                         "list(zip(x, y)).")
