"`FieldBlock`: fields in fastai's DataBlock, an item a file, a row of a file, or an array"
from pathlib import Path
import numpy as np
import torch
from fastcore.foundation import L
from fastai.data.block import TransformBlock
from fastai.data.core import DataLoaders
from fasttransform import Transform
from fastrobust.basics import shown
from fastrobust.systems.koopman.files.fieldaxes import guessed_axes, in_order, ordered, parse_axes
from fastrobust.systems.koopman.data.fieldchecks import (
    as_float32, as_numpy, need_finite, need_real, picked, sides, strides)
from fastrobust.systems.koopman.data.fieldloader import ShownDL
from fastrobust.systems.koopman.data.fieldscale import latitude_weights, latitudes, running_stats
from fastrobust.systems.koopman.data.fieldshow import TensorField
from fastrobust.systems.koopman.files.readers import FieldFile, open_fields

__all__ = ['FieldBlock', 'field_items', 'describe_fields']

class FieldRow:
    "A history of a file, of which nothing is read yet"
    def __init__(self, file, row): self.file,self.row = file,row
    def __repr__(self): return f'item {self.row} of {self.file.path.name}'

class OpenField(Transform):
    "A path, a row of a `FieldFile` or an array as a `TensorField` (t*c,*grid)"
    def __init__(self, frames, key, axes, sub, periodic=None):
        super().__init__()
        self.frames,self.key,self.axes = frames,key,axes
        self.sub,self.periodic = sub,periodic

    def encodes(self, o):
        a,letters,what = self._array(o)
        need_real(a.dtype, what)
        a = in_order(a, letters)
        letters = ordered(letters)
        if 'n' in letters:
            if a.shape[0] != 1:
                raise ValueError(f"expected one history in {what}, got {a.shape[0]}. Its rows as items: "
                                 "field_items(path).")
            a,letters = a[0],letters[1:]
        if 't' not in letters: a = a[None]
        if self.frames is not None: a = a[self.frames]
        if not len(a):
            raise ValueError(f"expected frames {self.frames} in {what}, got none. Look at how many there are.")
        dim = 2 if 'y' in letters else 1
        grid = a.shape[-dim:]
        a = picked(a, strides(self.sub, grid, sides(self.periodic, dim), what))
        u = as_float32(a).reshape(-1, *a.shape[-dim:])
        need_finite(u[None], what)
        return u.as_subclass(TensorField)

    def _array(self, o):
        "Numpy array, letters of its axes, its name"
        if isinstance(o, FieldRow):
            f = o.file
            return np.asarray(f[o.row]),f.letters[1:],repr(o)
        if isinstance(o, (str, Path)):
            with FieldFile(o, self.key, self.axes, kind='item') as f:
                return np.asarray(f[:]),f.letters,f.path.name
        if isinstance(o, torch.Tensor): o = as_numpy(o)
        if not isinstance(o, np.ndarray):
            raise TypeError(f"expected an item as a path, an array, or as field_items makes them, got {shown(o)}. "
                            "Say how to get it, `get_x`.")
        what = f'an item of shape {o.shape}'
        if self.axes is not None: return o,parse_axes(self.axes, o.shape, what),what
        return o,guessed_axes(o.shape, what, 'item'),what

def FieldBlock(
    frames=None,    # Which frames, a slice or a list: slice(0, 10) of inputs, slice(10, 20) of targets; None: all
    key=None,       # Variable of a file, or several that become variables c
    axes=None,      # Order of the axes; None: by their names, else 't x', 't y x', 't c y x'
    sub=1,          # Every so many-th point of the sides, one number or one a side
    periodic=None   # Sides that wrap, of which `sub` must meet the end: True, False, or each (y, x); None: all
)->TransformBlock:
    "A `TransformBlock` of fields (t*c,*grid); `describe_fields(dls)` gives its loaders what `field_dls` knows"
    return TransformBlock(type_tfms=OpenField(frames, key, axes, sub, periodic), dl_type=ShownDL)

def field_items(
    path,       # File, see `open_fields`
    key=None,   # Variable
    axes=None   # Order of the axes
)->L:
    "Items for `DataBlock.dataloaders`, one a history, of which nothing is read yet"
    f = open_fields(path, key, axes)
    if f.letters[0] != 'n':
        raise ValueError(f"expected a file of several histories, got {f}. Its path is an item.")
    return L(FieldRow(f, i) for i in range(len(f)))

def _frames(ds, n_vars, which):
    "Inputs 0 and targets -1 of all items as frames (t,c,*grid)"
    for i in range(len(ds)):
        item = ds[i]
        for j in which: yield item[j].as_subclass(torch.Tensor).unflatten(0, (-1, n_vars))

def describe_fields(
    dls,            # DataLoaders of fields (x, y)
    n_vars=1,       # Variables c of a frame
    periodic=None,  # Sides that wrap: True, False, or each (y, x); None: all, with `latitude` only x
    latitude=False, # Degrees of the rows y; True: of a global grid
    pair=False      # Fields to other fields, rather than histories? Then `y_scale` is of the targets alone
)->DataLoaders:
    "`dls` with `scale`, read from its training items, and what else a learner and reports ask of `field_dls`"
    ds = dls.train_ds
    x,y = ds[0][0],ds[0][-1]
    if len(x) % n_vars or len(y) % n_vars:
        raise ValueError(f"expected whole frames of {n_vars} variables, got {len(x)} and {len(y)} channels. Give "
                         "`n_vars`.")
    dim = x.ndim-1
    globe = latitude is not False
    dls.n_vars,dls.grid = n_vars,tuple(x.shape[1:])
    dls.periodic = sides(periodic, dim, globe)
    dls.t_in,dls.t_out = len(x)//n_vars,len(y)//n_vars
    dls.pair,dls.timed = pair,len(ds[0]) > 2
    dls.leads,dls.times,dls.weights = (1,),None,None
    if pair: dls.scale,dls.y_scale = (running_stats(_frames(ds, n_vars, [j])) for j in (0, -1))
    else: dls.scale = dls.y_scale = running_stats(_frames(ds, n_vars, (0, -1)))
    for dl in dls.loaders: dl.look = dict(n_vars=n_vars, y_vars=len(dls.y_scale[0]), pair=pair)
    if globe:
        lat = latitudes(latitude, x.shape[1], slice(None))
        dls.weights = latitude_weights(lat)
    return dls
