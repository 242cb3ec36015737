"Stores of HDF5, MATLAB 7.3, NetCDF and zarr files, which can be read in part"
# A store is opened and closed by `FieldFile`. `own`: an open file that a forked loader worker must
# not share with its parent; memory maps, and what is read whole, it may.
from contextlib import contextmanager
from pathlib import Path
import numpy as np

__all__ = []

def missing(package, path):
    "The error for a file whose package is not there"
    return ImportError(f"expected the package {package} to read {Path(path).name}, found none. "
                       'Install the extra: pip install ".[fields]".')

@contextmanager
def needs(package, path):
    "An import of `package`, without which the file at `path` cannot be read"
    try: yield
    except ImportError: raise missing(package, path) from None

# --- HDF5 -----------------------------------------------------------------------------------------
class Reversed:
    "A variable as MATLAB sees it: HDF5 files of MATLAB have the axes in the opposite order"
    disk = 'reversed'
    def __init__(self, a):
        self.a = a
        self.shape,self.dtype = a.shape[::-1],a.dtype

    def __getitem__(self, i): return np.asarray(self.a[i[::-1]]).T

class Grouped:
    "Datasets of one name in many groups, one group an item, as in PDEBench's shallow water"
    letters = 'ntyxc'
    def __init__(self, file, groups, name):
        self.file,self.groups,self.name = file,groups,name
        first = file[groups[0]][name]
        self.shape,self.dtype = (len(groups), *first.shape),first.dtype

    def __getitem__(self, i):
        one = isinstance(i[0], (int, np.integer))
        picked = [self.groups[i[0]]] if one else self.groups[i[0]]
        parts = [self.file[g][self.name][i[1:]] for g in picked]
        return parts[0] if one else np.stack(parts)

def _datasets(group, at=''):
    for k,v in group.items():
        if getattr(v, 'shape', None) is not None: yield at+k,v
        elif hasattr(v, 'items') and not k.startswith('#'): yield from _datasets(v, f'{at}{k}/')

class Hdf5:
    "An HDF5 file; also a .mat file of version 7.3, whose axes come reversed"
    own = True
    def __init__(self, path):
        with needs('h5py', path): import h5py
        self.file = h5py.File(path, 'r')
        self.matlab = _is_matlab(path)

    def names(self):
        top = list(self.file)
        if len(top) > 1 and all(o.isdigit() for o in top):
            groups = sorted(top, key=int)
            inside = dict(_datasets(self.file[groups[0]]))
            return {k: Grouped(self.file, groups, k) for k in inside}
        found = dict(_datasets(self.file))
        return {k: Reversed(v) for k,v in found.items()} if self.matlab else found

    def close(self): self.file.close()

def _is_matlab(path):
    with open(path, 'rb') as f: return f.read(10) == b'MATLAB 7.3'

# --- xarray ---------------------------------------------------------------------------------------
class Named:
    "A variable of xarray: read where it is indexed, scale factors and fill values decoded"
    def __init__(self, v, dataset):
        self.v,self.named = v,v.dims
        self.shape,self.dtype = v.shape,v.dtype
        self.coords = {k: dataset.coords[k] for k in v.dims if k in dataset.coords}

    def __getitem__(self, i): return self.v[i].values

class Xarray:
    "A NetCDF file or a zarr store by xarray"
    own = True
    def __init__(self, path):
        with needs('xarray', path): import xarray as xr
        folder = Path(path).is_dir()
        if folder:
            with needs('zarr', path): import zarr   # noqa: F401  (xarray needs it)
        # None: xarray takes the engine that is installed. Times as stored: no date is too far then
        how = dict(engine='zarr', consolidated=False) if folder else dict(engine=None)
        try: self.ds = xr.open_dataset(path, decode_times=False, **how)
        except ValueError as e:
            if 'engine' not in str(e): raise
            raise missing('h5netcdf', path) from None

    def names(self):
        found = self.ds.data_vars.items()
        return {k: Named(v.variable, self.ds) for k,v in found}
    def close(self): self.ds.close()

def _arrays(group, at=''):
    for k,v in group.arrays(): yield at+k,v
    for k,v in group.groups(): yield from _arrays(v, f'{at}{k}/')

class Zarr:
    "A zarr store whose axes have no names, so that xarray cannot read it"
    own = False
    def __init__(self, path):
        with needs('zarr', path): import zarr
        o = zarr.open(path, mode='r')
        if hasattr(o, 'shape'): self.a = {'array': o}
        else: self.a = dict(_arrays(o))

    def names(self): return self.a
    def close(self): self.a = {}
