"Histories in memory or in a file as (n,t,c,*grid): checked, and cut into windows of frames"
import math
from pathlib import Path
import numpy as np
import torch
from fastcore.basics import chunked
from fastprogress.fastprogress import progress_bar
from fastrobust.basics import robust_warn, shown
from fastrobust.systems.koopman.files.fieldaxes import guessed_axes, in_order, ordered, parse_axes
from fastrobust.systems.koopman.data.fieldchecks import (
    as_float32, as_numpy, need_finite, need_real, picked, sides, strides)
from fastrobust.systems.koopman.files.readers import FieldFile

__all__ = []

SMALL = 512*2**20   # Bytes of float32, up to which a file is read into memory once
PART = 2**22        # Numbers that a mean reads and turns to float64 at once

# --- sources --------------------------------------------------------------------------------------
class Source:
    "Histories (n,t,c,*grid) by windows of frames; the checks of their form are done"
    def __init__(self, n, frames, c, grid, what):
        self.n,self.frames,self.c = n,frames,c
        self.grid,self.what = tuple(grid),what
        self.full,self.picks,self.coords = self.grid,(),{}      # of the grid as it was given

    def regroup(self, t, name):
        "Take the variables as `t` frames of fewer, where there is but one frame"
        if self.frames > 1 and t in (1, self.frames): return
        if self.frames > 1 or self.c % t:
            raise ValueError(f"expected `{name}` to divide the {self.frames*self.c} channels of "
                             f"{self.what}, got {t}. Channels are frames, of each its variables.")
        self.frames,self.c = t,self.c//t

    def short(self, spans):
        "(row, lo, hi) cut into parts of up to `PART` numbers"
        k = max(1, PART//(self.c*math.prod(self.grid)))
        out = []
        for row,lo,hi in spans:
            out += [(row, i, min(i+k, hi)) for i in range(lo, hi, k)]
        return out

    def parts(self, spans):
        "Fields (k,c,*grid) of the frames lo..hi of rows, (row, lo, hi) each, some at a time"
        for _,u in self.placed(spans): yield u

    def __repr__(self):
        sizes = f'{self.n} histories of {self.frames} frames, {self.c} variables on {self.grid}'
        return f'{type(self).__name__}: {sizes}'

class Held(Source):
    "Histories in memory, float32 (n,t,c,*grid)"
    def __init__(self, u, what):
        super().__init__(*u.shape[:3], u.shape[3:], what)
        self._hold(u)

    def _hold(self, u): self.u,self.flat = u,u.flatten(0, 1)

    def read(self, i, lo, hi): return self.u[i, lo:hi]

    def regroup(self, t, name):
        super().regroup(t, name)
        self._hold(self.u.view(self.n, self.frames, self.c, *self.grid))

    def placed(self, spans):
        "As `parts`, and the numbers (k,) of those frames among all"
        rows: dict = {}
        for row,*frames in self.short(spans):
            rows.setdefault(tuple(frames), []).append(row)
        for (lo,hi),of in rows.items():
            size = max(1, PART//self.u[0, lo:hi].numel())
            for some in chunked(of, size):
                at = torch.tensor(some)[:, None]*self.frames + torch.arange(lo, hi)
                yield at.flatten(),self.u[some, lo:hi].flatten(0, 1)

    def windows(self, at, k):
        "`k` frames from each of the frames `at` of all histories on, (b,k*c,*grid)"
        if k > 1: at = (at[:, None] + torch.arange(k)).flatten()
        if at.device != self.u.device: at = at.to(self.u.device)
        return self.flat.index_select(0, at).view(-1, k*self.c, *self.grid)

class OnDisk(Source):
    "Histories of a `FieldFile`, each read when it is asked for and checked then"
    def __init__(self, file, picks):
        sizes = dict(zip(file.letters, file.shape))
        dim = len(picks)
        full = file.shape[-dim:]
        grid = [len(range(n)[s]) for n,s in zip(full, picks)]
        n,frames,c = (sizes.get(o, 1) for o in 'ntc')
        super().__init__(n, frames, c, grid, file.path.name)
        self.file,self.picks = file,picks

    def read(self, i, lo, hi):
        f = self.file
        ix = ()
        if 'n' in f.letters: ix = (int(i),)
        if 't' in f.letters: ix += (slice(int(lo), int(hi)),)
        if not ix: ix = (slice(None),)      # one field alone: there is no item to choose
        a = picked(np.asarray(f[ix]), self.picks)
        need_real(a.dtype, self.what)
        u = as_float32(a).view(-1, self.c, *self.grid)
        need_finite(u[None], self.what, int(i))
        return u

    def placed(self, spans):
        "As `parts`, and the numbers (k,) of those frames among all"
        spans = self.short(spans)
        if len(spans) > 100: spans = progress_bar(spans, leave=False)
        for row,lo,hi in spans: yield row*self.frames + torch.arange(lo, hi),self.read(row, lo, hi)

    def windows(self, at, k):
        "`k` frames from each of the frames `at` of all histories on, (b,k*c,*grid)"
        out = []
        for o in at.tolist():
            row,lo = divmod(o, self.frames)
            out.append(self.read(row, lo, lo+k).flatten(0, 1))
        return torch.stack(out)

# --- from what was given --------------------------------------------------------------------------
def _canonical(a, letters, picks):
    "Numpy array with its axes in order and all of them there, float32, sub-sampled, a copy"
    a = in_order(a, letters)
    there = ordered(letters)
    for at,o in enumerate('ntc'):
        if o not in there: a = np.expand_dims(a, at)
    return as_float32(picked(a, picks))

def as_source(
    data,       # Array, tensor, path or `FieldFile`
    what,       # Its name, for messages
    *,
    key=None,   # Variable of a file
    axes=None,  # Of an array or file
    pair=False, # Fields (n,c,*grid) without times, rather than histories?
    sub=1,      # Steps along the sides
    periodic=None,  # For each side, whether it is periodic; one truth value for all; None: all are
    globe=False,    # Are these fields on a sphere?
    lazy=None,  # Leave a file where it is? None: from 512 MiB on
    device=None # Where to hold arrays; None: CPU
):
    "`data` as `Held` or `OnDisk`"
    kind = 'pairs' if pair else 'histories'
    if isinstance(data, (str, Path)): data = FieldFile(data, key, axes, kind)
    if isinstance(data, FieldFile): shape,letters,what = data.shape,data.letters,data.path.name
    else:
        if not isinstance(data, (np.ndarray, torch.Tensor)):
            raise TypeError(f"expected `{what}` as an array, a tensor or the path of a file, got "
                            f"{shown(data)}. Of a list of fields: np.stack(them).")
        if isinstance(data, torch.Tensor): data = as_numpy(data)
        shape,what = data.shape,f'`{what}`'
        letters = guessed_axes(shape, what, kind) if axes is None else parse_axes(axes, shape, what)
    need_real(data.dtype, what)
    if 0 in shape:
        raise ValueError(f"expected fields in {what}, got shape {tuple(shape)}. Look how they were "
                         "selected.")
    dim = 2 if 'y' in letters else 1
    sizes = dict(zip(letters, shape))
    grid = [sizes[o] for o in 'yx'[-dim:]]
    picks = strides(sub, grid, sides(periodic, dim, globe), what)
    src = _on_disk(data, picks, lazy) if isinstance(data, FieldFile) else None
    if src is None:
        if isinstance(data, FieldFile): data,letters,coords = data[:],data.letters,data.coords
        else: coords = {}
        need_real(data.dtype, what)
        u = _canonical(data, letters, picks)
        need_finite(u, what)
        src = Held(u if device is None else u.to(device), what)
        src.coords = coords
    src.full,src.picks = tuple(grid),picks
    return src

def _on_disk(file, picks, lazy):
    "`file` as it lies there, None where it is small enough to be held"
    src = OnDisk(file, picks)
    if lazy is None: lazy = 4*src.n*src.frames*src.c*math.prod(src.grid) > SMALL
    if not lazy: return None
    if file.slow:
        robust_warn(f"the items of {src.what} lie scattered over the whole file, as their axis is "
                    "not its first, and are slow to read. Write it once the other way, "
                    "np.save('fields.npy', open_fields(path)), and use that.")
    src.coords = file.coords
    return src
