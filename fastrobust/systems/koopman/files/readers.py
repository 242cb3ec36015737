"`open_fields`: fields of a file as one lazy array, its axes in the order n t c y x"
import os
from pathlib import Path
import numpy as np
from fastrobust.basics import is_whole, nearest
from fastrobust.systems.koopman.files.fieldaxes import (
    guessed_axes, in_order, named_axes, ordered, parse_axes)
from fastrobust.systems.koopman.files.formats import open_store

__all__ = ['open_fields']

# --- which variable -------------------------------------------------------------------------------
def _listing(names):
    "Variables and their shapes, for messages"
    return ', '.join(f'{k} {tuple(o.shape)}' for k,o in names.items()) or 'nothing'

def _only_fields(names):
    "The variables that may be fields: numbers in two axes or more, no column or row of coordinates"
    def is_field(o):
        if o.dtype.kind not in 'fciub' or len(o.shape) < 2: return False
        return len(o.shape) > 2 or 1 not in o.shape
    return [k for k,o in names.items() if is_field(o)]

def _keys(key, names, path):
    "Names of the variables to read, as a tuple; several become the variables c"
    if key is None:
        found = _only_fields(names)
        for k in ('tensor', 'data'):    # PDEBench's names
            if k in found: return (k,)
        if len(found) == 1: return tuple(found)
        if len(names) == 1: return tuple(names)
        name = [*names, *found][-1:] or ['u']
        raise ValueError(f"expected `key`, the name of a variable, as {path.name} holds "
                         f"{_listing(names)}. For example key={name[0]!r}.")
    keys = (key,) if isinstance(key, str) else tuple(key)
    for k in keys:
        if k in names: continue
        raise ValueError(f"expected a variable of {path.name}, got {k!r}. It holds "
                         f"{_listing(names)}. {nearest(k, names)}")
    shapes = {tuple(names[k].shape) for k in keys}
    if len(shapes) > 1:
        raise ValueError("expected variables of one shape, got "
                         f"{_listing({k: names[k] for k in keys})}. Read them one by one.")
    return keys

# --- the array ------------------------------------------------------------------------------------
class FieldFile:
    "Fields of a file, read where indexed: `f[3]` an item, `f[3, :10]` its first frames, `f[:]` all"
    def __init__(self,
        path,       # File, or folder of a zarr store
        key=None,   # Variable, or a list of them that become variables c; None: as `open_fields` says
        axes=None,  # Axes as they are in the file; None: by their names, or as `open_fields` says
        kind='histories'    # Of what, for a guess: see `guessed_axes`
    ):
        self.path = Path(path)
        self._store,self._names,self._pid = None,{},None
        try:
            names = self._open()
            self.keys = _keys(key, names, self.path)
            first = names[self.keys[0]]
            self._describe(first, axes, kind)
            coords = getattr(first, 'coords', {}).items()
            self.coords = {str(k): np.asarray(o) for k,o in coords}
        finally: self.close()

    def _describe(self, first, axes, kind):
        "Letters, shape and dtype of what indexing gives"
        what = f'{self.keys[0]} of {self.path.name}'
        dims,letters = getattr(first, 'named', None),getattr(first, 'letters', None)
        if axes is not None: letters = parse_axes(axes, first.shape, what)
        elif dims is not None: letters = named_axes(dims, what)
        elif letters is None or len(letters) != len(first.shape):
            letters = guessed_axes(first.shape, what, kind)
        self.in_file,self.dtype = letters,first.dtype
        sizes = dict(zip(letters, first.shape))
        k = len(self.keys)
        if k > 1: sizes['c'] = k*sizes.get('c', 1)
        self.letters = ordered(sizes)
        self.shape = tuple(sizes[o] for o in self.letters)
        # an item is scattered over the file where n is not first on the disk
        disk = getattr(first, 'disk', letters)
        if disk == 'reversed': disk = letters[::-1]
        self.slow = 'n' in disk and disk[0] != 'n'

    ndim = property(lambda self: len(self.shape))
    @property
    def nbytes(self): return int(np.prod(self.shape))*self.dtype.itemsize
    def __len__(self): return self.shape[0]
    def __repr__(self):
        axes,shape = ' '.join(self.letters),' '.join(map(str, self.shape))
        what = f"{', '.join(self.keys)} of {self.path.name}"
        return f'FieldFile: {what}, {axes} = {shape}, {self.dtype}'

    def _open(self):
        "The variables of the file, which is open now; an open file belongs to one process"
        mine = self._pid == os.getpid()
        if self._store is not None and self._store.own and not mine: self._store = None
        if self._store is None:
            self._store,self._pid = open_store(self.path),os.getpid()
            self._names = self._store.names()
        return self._names

    def close(self):
        "Close the file; indexing opens it again"
        if self._store is not None and self._pid == os.getpid(): self._store.close()
        self._store,self._names = None,{}
    def __enter__(self): return self
    def __exit__(self, *_): self.close()
    def __getstate__(self): return vars(self) | dict(_store=None, _names={})

    def _read(self, picked):
        "The part `picked`, a dict from letters to whole numbers or slices, of all variables in one"
        ix = tuple(picked.get(o, slice(None)) for o in self.in_file)
        left = [o for o,i in zip(self.in_file, ix) if not is_whole(i)]
        names = self._open()
        parts = [in_order(np.asarray(names[k][ix]), left) for k in self.keys]
        if len(parts) == 1: return parts[0]
        at = len(set(left) & set('nt'))
        if 'c' in left: return np.concatenate(parts, at)
        return np.stack(parts, at)

    def __getitem__(self, i):
        i,*more = i if isinstance(i, tuple) else (i,)
        framed = self.letters[1:2] == 't'
        if len(more) > 1 or any(not framed or not isinstance(o, slice) for o in more):
            raise IndexError("expected an item, and perhaps a slice of its frames where it has some, "
                             "such as f[3, :10], got more. Index what it gives.")
        picked = dict(zip(self.letters[1:], more))
        first,n = self.letters[0],self.shape[0]
        if isinstance(i, slice):
            lo,hi,step = i.indices(n)
            if step > 0: return self._read({first: slice(lo, hi, step), **picked})
            i = range(lo, hi, step)
        if not is_whole(i):
            if getattr(i, 'dtype', None) == bool: i = np.flatnonzero(i)
            at = [(int(j), *more) for j in i]
            if not at: return self._read({first: slice(0, 0), **picked})
            return np.stack([self[o] for o in at])
        if not -n <= i < n:
            raise IndexError(f"expected an item in 0..{n-1} of {self.path.name}, got {i}.")
        return self._read({first: int(i) % n, **picked})

    def __array__(self, dtype=None, copy=None):
        return np.array(self[:], dtype=dtype, copy=copy)

def open_fields(
    path,       # .npy .npz .mat (any version) .pt .h5 .nc .zarr; layouts of PDEBench and The Well among them
    # Variable; a list of several that become variables c. None: the only one, or `tensor` or `data` of PDEBench
    key=None,
    # The order of the axes in the file: n items, t times, c variables, y and x space, such as
    # 'n y x t' of FNO's .mat files. None: by the names that NetCDF and zarr give them; else 'n x',
    # 'n t x', 'n t y x' ('n t c x' where that side has up to four points), 'n t c y x' ('n t y x c'
    # where the last is the smallest of three); what looks like another order is refused
    axes=None
)->FieldFile:
    """Fields of a file as a lazy array (n,t,c,*grid) of the axes that it has. Version 5 to 7 of .mat and
    compressed .npz are read whole, all else in part"""
    return FieldFile(path, key, axes)
