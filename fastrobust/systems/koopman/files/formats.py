"The store of a file by its suffix: what variables it has, one of them without reading it, close"
from pathlib import Path
from fastrobust.systems.koopman.files.arrayfiles import Mat5, Npy, Npz, Torch
from fastrobust.systems.koopman.files.gridfiles import Hdf5, Xarray, Zarr

__all__ = []

def _mat(path):
    with open(path, 'rb') as f: head = f.read(520)
    new = b'MATLAB 7.3' in head[:128] or b'\x89HDF' in (head[:4], head[512:516])
    return Hdf5(path) if new else Mat5(path)

def _zarr(path):
    try:
        store = Xarray(path)
        if store.names(): return store
        store.close()
    except (KeyError, ValueError): pass     # arrays without names of axes, or no group at all
    return Zarr(path)

KINDS = {'.npy': Npy, '.npz': Npz, '.pt': Torch, '.pth': Torch, '.mat': _mat, '.zarr': _zarr,
         '.h5': Hdf5, '.hdf5': Hdf5, '.hdf': Hdf5, '.nc': Xarray, '.nc4': Xarray, '.cdf': Xarray}

def open_store(
    path        # File, or folder of a zarr store
):
    "The open store of `path` by its suffix"
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"expected a file of fields, found nothing at {path}. Look at the "
                                "spelling and the folder.")
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"expected a file of {' '.join(KINDS)}, got {path.name}. Rename it if it "
                         "is one of them, or read it yourself and give the array.")
    return kind(path)
