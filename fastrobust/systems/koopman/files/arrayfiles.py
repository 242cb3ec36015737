"Stores of .npy, .npz, .pt and older .mat files: memory-mapped, or read whole when first asked for"
# A store is opened and closed by `FieldFile`. `own`: an open file that a forked loader worker must
# not share with its parent; memory maps, and what is read whole, it may.
import zipfile
import numpy as np
import torch

__all__ = []

# --- numpy, torch ---------------------------------------------------------------------------------
class Npy:
    "A .npy file, memory-mapped"
    own,only = False,'array'
    def __init__(self, path): self.a = np.load(path, mmap_mode='r')
    def names(self): return {self.only: self.a}
    def close(self): self.a = None

class Later:
    "A variable that is read whole when it is first asked for"
    disk = ''
    def __init__(self, shape, dtype, read):
        self.shape,self.dtype,self._read,self.a = tuple(shape),dtype,read,None

    def __getitem__(self, i):
        if self.a is None: self.a = self._read()
        return self.a[i]

def _npy_header(f):
    "Shape, whether Fortran's order, dtype of an open .npy file, which stands at its numbers afterwards"
    version = np.lib.format.read_magic(f)
    if version == (1, 0): return np.lib.format.read_array_header_1_0(f)
    return np.lib.format.read_array_header_2_0(f)

def _member(path, info, name):
    "An .npy inside a zip: memory-mapped, or where the zip compresses it, read when it is asked for"
    def read():
        with np.load(path, allow_pickle=False) as z: return z[name]
    with zipfile.ZipFile(path) as z, z.open(info) as f:
        shape,fortran,dtype = _npy_header(f)
    if info.compress_type != zipfile.ZIP_STORED or dtype.hasobject or 0 in shape:
        return Later(shape, dtype, read)
    with open(path, 'rb') as f:
        f.seek(info.header_offset + 26)     # two lengths, after which the name and an extra field stand
        lengths = np.frombuffer(f.read(4), '<u2')
        f.seek(info.header_offset + 30 + int(lengths.sum()))
        _npy_header(f)
        return np.memmap(path, dtype, 'r', f.tell(), shape, 'F' if fortran else 'C')

class Npz:
    "An .npz file: members of `np.savez` memory-mapped, those of `np.savez_compressed` read whole"
    own = False
    def __init__(self, path):
        with zipfile.ZipFile(path) as z: infos = z.infolist()
        self.a = {}
        for o in infos:
            name,_,suffix = o.filename.rpartition('.')
            if suffix == 'npy': self.a[name] = _member(path, o, name)

    def names(self): return self.a
    def close(self): self.a = {}

def _numpy(t):
    "numpy has no bfloat16"
    t = t.detach()
    if t.dtype == torch.bfloat16: t = t.float()
    return t.numpy()

def _flat(o, at=''):
    "Tensors and arrays of nested dicts by their path"
    if isinstance(o, dict):
        parts = [_flat(b, f'{at}/{a}' if at else str(a)) for a,b in o.items()]
        return {k: v for part in parts for k,v in part.items()}
    if isinstance(o, torch.Tensor): return {at or 'tensor': _numpy(o)}
    return {at or 'array': o} if isinstance(o, np.ndarray) else {}

class Torch:
    "A .pt file of a tensor or a dict of tensors, memory-mapped where torch can"
    own = False
    def __init__(self, path):
        try: o = torch.load(path, 'cpu', weights_only=True, mmap=True)
        except RuntimeError:    # an old file, from before torch 1.6
            o = torch.load(path, 'cpu', weights_only=True)
        self.a = _flat(o)

    def names(self): return self.a
    def close(self): self.a = {}

# --- MATLAB to version 7 --------------------------------------------------------------------------
_INTS = 'int8 uint8 int16 uint16 int32 uint32 int64 uint64'.split()
_MATLAB = {o: np.dtype(o) for o in _INTS}
_MATLAB.update(single=np.dtype('f4'), double=np.dtype('f8'), logical=np.dtype('?'))

class Mat5:
    "A .mat file up to version 7, which has no way to read a part of a variable"
    own = False
    def __init__(self, path):
        import scipy.io
        def reader(k):
            return lambda: scipy.io.loadmat(path, variable_names=[k], mat_dtype=True)[k]
        kinds = scipy.io.whosmat(path)
        self.a = {}
        for k,shape,kind in kinds:
            dtype = _MATLAB.get(kind, np.dtype(object))
            self.a[k] = Later(shape, dtype, reader(k))

    def names(self): return self.a
    def close(self): self.a = {}
