"Fields from files and arrays: one array from every kind of file, loaders as fastai's, splits, scales, refusals"
import pickle, re
from contextlib import nullcontext
import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.io
import torch
from torch import nn

from fastai.data.block import DataBlock
from fastai.data.transforms import IndexSplitter, ItemGetter
from fastai.interpret import Interpretation
from fastai.learner import Learner, load_learner
from fastai.losses import MSELossFlat
from fastai.torch_core import set_seed
from fasttransform import Transform
from fastrobust.basics import RobustWarning
from fastrobust.systems.koopman.data import fieldsource
from fastrobust.systems.koopman.files import arrayfiles
from fastrobust.systems.koopman.data.fieldblock import FieldBlock, describe_fields, field_items
from fastrobust.systems.koopman.data.fields import field_dls
from fastrobust.systems.koopman.data.fieldshow import TensorField
from fastrobust.systems.koopman.files.fieldaxes import guessed_axes, parse_axes
from fastrobust.systems.koopman.files.readers import FieldFile, open_fields

def fields(n=10, t=6, c=None, grid=(8, 12), seed=0):
    "Random histories float32 (n,t,[c,]*grid)"
    shape = (n, t, *grid) if c is None else (n, t, c, *grid)
    return np.random.default_rng(seed).standard_normal(shape).astype('float32')

U = fields()
CPU = dict(device='cpu', bs=4)

def dls_of(*args, **kw): return field_dls(*args, **{**CPU, **kw})

# --- files ----------------------------------------------------------------------------------------
def need(*packages):
    return [pytest.importorskip(o, reason=f'needs {o}: pip install ".[fields]"') for o in packages]

def write_mat73(path, **arrays):
    "As MATLAB does: a block of 512 bytes before the HDF5 file, the axes in the opposite order"
    h5py, = need('h5py')
    with h5py.File(path, 'w', userblock_size=512) as f:
        for k,a in arrays.items():
            ds = f.create_dataset(k, data=np.ascontiguousarray(a.T))
            ds.attrs['MATLAB_class'] = np.bytes_('single')
    head = b'MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon Nov 30 2026 HDF5 schema 1.00 .'
    with open(path, 'r+b') as f: f.write(head.ljust(124) + bytes(4))

def npy(path):
    np.save(path/'u.npy', U)
    return path/'u.npy',{}

def npz(path):
    np.savez(path/'u.npz', u=U, t=np.arange(6.))
    return path/'u.npz',{}

def npz_packed(path):
    np.savez_compressed(path/'u.npz', u=U)
    return path/'u.npz',{}

def pt(path):
    torch.save({'x': torch.tensor(U), 'note': 'of no use'}, path/'u.pt')
    return path/'u.pt',{}

def mat5(path):
    scipy.io.savemat(path/'u.mat', dict(u=U.transpose(0, 2, 3, 1), t=np.arange(6.)))
    return path/'u.mat',dict(axes='n y x t')

def mat73(path):
    write_mat73(path/'u.mat', u=U.transpose(0, 2, 3, 1), t=np.arange(6.)[None])
    return path/'u.mat',dict(axes='n y x t')

def hdf5(path):
    h5py, = need('h5py')
    with h5py.File(path/'u.h5', 'w') as f:
        f['tensor'],f['x-coordinate'],f['other'] = U,np.arange(12.),U+1
    return path/'u.h5',{}

def groups(path):
    h5py, = need('h5py')
    with h5py.File(path/'u.h5', 'w') as f:
        for i,u in enumerate(U):
            g = f.create_group(f'{i:04}')
            g['data'],g['grid/x'] = u[..., None],np.arange(12.)
    return path/'u.h5',{}

def dataset():
    xr,*_ = need('xarray')
    dims = 'sample','time','lat','lon'
    coords = dict(lat=np.linspace(80, -80, 8), lon=np.arange(12.)*30)
    return xr.Dataset({'z': (dims, U), 'mask': (dims[2:], U[0,0])}, coords)

def netcdf(path):
    need('h5netcdf')
    dataset().to_netcdf(path/'u.nc', engine='h5netcdf')
    return path/'u.nc',dict(key='z')

def zarr(path):
    need('zarr', 'xarray')
    dataset().to_zarr(path/'u.zarr', consolidated=False)
    return path/'u.zarr',dict(key='z')

def zarr_bare(path):
    z, = need('zarr')
    z.save_group(str(path/'u.zarr'), u=U)
    return path/'u.zarr',{}

KINDS = [npy, npz, npz_packed, pt, mat5, mat73, hdf5, groups, netcdf, zarr, zarr_bare]

@pytest.mark.filterwarnings('ignore:Consolidated')
@pytest.mark.parametrize('kind', KINDS, ids=lambda o: o.__name__)
def test_one_array_from_every_kind_of_file(kind, tmp_path):
    path,how = kind(tmp_path)
    f = open_fields(path, **how)
    last = (1,) if kind is groups else ()       # PDEBench keeps its variables in a last axis
    want = U.reshape(10, 6, *last, 8, 12)
    assert f.shape == want.shape and len(f) == 10 and f.dtype == np.float32
    for i in (3, -1, slice(2, 7, 2), [4, 0], np.arange(10) > 7, slice(None)):
        got = f[i]
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, want[i])
    np.testing.assert_array_equal(f[2, 1:4], want[2, 1:4])
    np.testing.assert_array_equal(f[1:3, :2], want[1:3, :2])
    g = pickle.loads(pickle.dumps(f))
    np.testing.assert_array_equal(g[9], want[9])
    with pytest.raises(IndexError, match='item in 0..9'): f[10]
    f.close()
    with f: np.testing.assert_array_equal(f[0], want[0])
    assert f._store is None and path.name in repr(f)

    # and the same batches, held or left in the file
    for lazy in (False, True):
        with pytest.warns(RobustWarning, match='scattered') if kind is mat73 and lazy else nullcontext():
            a = dls_of(path, **how, t_in=2, t_out=3, lazy=lazy, shuffle=False)
        b = dls_of(U, t_in=2, t_out=3, shuffle=False)
        for (x,y),(x2,y2) in zip([*a.train, *a.valid], [*b.train, *b.valid]):
            assert torch.equal(x, x2) and torch.equal(y, y2) and type(x) is type(y) is TensorField
        torch.testing.assert_close(a.scale, b.scale)

def test_several_variables_become_channels(tmp_path):
    h5py, = need('h5py')
    V = fields(seed=1)
    with h5py.File(tmp_path/'u.h5', 'w') as f: f['Vx'],f['Vy'],f['inner/p'] = U,V,U*V
    f = open_fields(tmp_path/'u.h5', key=['Vx', 'Vy', 'inner/p'])
    want = np.stack([U, V, U*V], 2)
    assert f.shape == want.shape and f.letters == 'ntcyx'
    np.testing.assert_array_equal(f[3], want[3])
    np.testing.assert_array_equal(f[1:4, 2:3], want[1:4, 2:3])

def test_files_say_what_they_hold(tmp_path):
    np.savez(tmp_path/'u.npz', a=U, sol=U, t=np.arange(6.))
    with pytest.raises(ValueError, match=r"got 'soll'. It holds a \(10, 6, 8, 12\), sol .*Did you mean 'sol'"):
        open_fields(tmp_path/'u.npz', 'soll')
    with pytest.raises(ValueError, match=r"expected `key`.*holds a \(10, 6, 8, 12\), sol"):
        open_fields(tmp_path/'u.npz')
    with pytest.raises(FileNotFoundError, match='nothing at'): open_fields(tmp_path/'v.npz')
    (tmp_path/'u.csv').write_text('1,2')
    with pytest.raises(ValueError, match='expected a file of .npy'): open_fields(tmp_path/'u.csv')
    with pytest.raises(ValueError, match='of one shape'): open_fields(tmp_path/'u.npz', ['a', 't'])

def test_axes(tmp_path):
    np.save(tmp_path/'u.npy', U[:, :, 0].transpose(0, 2, 1))
    f = open_fields(tmp_path/'u.npy', axes='n x t')
    np.testing.assert_array_equal(f[:], U[:, :, 0])
    for axes,say in [('n t', 'with an x'), ('n t q x', 'different letters'), ('n n x', 'different letters'),
                     ('n t y x', r'one letter per axis.*\(10, 12, 6\)')]:
        with pytest.raises(ValueError, match=say): open_fields(tmp_path/'u.npy', axes=axes)
    np.save(tmp_path/'s.npy', np.zeros((3, 8, 8, 5)))       # FNO's: a square, then times
    with pytest.raises(ValueError, match="axes='n y x t'"): open_fields(tmp_path/'s.npy')
    assert open_fields(tmp_path/'s.npy', axes='nyxt').shape == (3, 5, 8, 8)
    shapes = {(9, 5, 2, 30): 'ntcx', (9, 5, 8, 30): 'ntyx', (9, 5, 8, 8, 2): 'ntcyx', (9, 5, 3, 8, 8): 'ntcyx'}
    for shape,letters in shapes.items():
        np.save(tmp_path/'v.npy', np.zeros(shape))
        assert open_fields(tmp_path/'v.npy').letters == letters
    np.save(tmp_path/'v.npy', np.zeros(5))
    with pytest.raises(ValueError, match=r'got shape \(5,\)'): open_fields(tmp_path/'v.npy')

ODD = [
    ((6, 8, 8, 3), False, "axes='n y x t', or 'n t y x'"),      # FNO's
    ((6, 12, 16, 5), False, "side of 5 points.*axes='n y x t'"),
    ((6, 12, 16, 5), True, "axes='n y x t', 'n y x c'.*or 'n c y x'"),
    ((6, 8, 8, 1), True, "axis of one point.*axes='n y x t'"),
    ((6, 8, 1), True, "axis of one point.*'n x c'"),
    ((6, 64, 3), False, "side of 3 points.*axes='n x t', or 'n t x'"),
    ((6, 64, 3), True, "side of 3 points.*'n x c', or 'n y x'"),
    ((6, 5, 64, 3), False, "side of 3 points.*axes='n t x c', or 'n t y x'"),
    ((6, 3, 8, 1), False, 'axis of one point'),
]

@pytest.mark.parametrize('shape,pair,say', ODD, ids=range(len(ODD)))
def test_other_layouts_are_not_guessed(shape, pair, say, tmp_path):
    u = np.random.default_rng(0).standard_normal(shape).astype('float32')
    np.save(tmp_path/'u.npy', u)
    for o in (u, torch.tensor(u), tmp_path/'u.npy'):
        with pytest.raises(ValueError, match=say): dls_of(o, o if pair else None)
    with pytest.raises(ValueError, match='axes'): DataBlock((FieldBlock(), FieldBlock())).dataloaders([u[0]]*6)
    if shape[-1] > 1 and len(shape) == 4: assert dls_of(u, axes='n y x t').grid == shape[1:-1]

@pytest.mark.parametrize('shape,pair,grid', [
    ((6, 20, 8, 8), False, (8, 8)), ((6, 4, 6, 6), False, (6, 6)), ((6, 8, 12, 6), False, (12, 6)),
    ((6, 10, 64), False, (64,)), ((6, 200, 16), False, (16,)), ((6, 3, 3, 64), False, (64,)),
    ((6, 9, 16), True, (9, 16)), ((6, 1, 16), True, (16,)), ((6, 5, 1, 16), False, (16,)),
    ((6, 8, 16, 16, 2), False, (16, 16)), ((6, 1, 8, 16), True, (8, 16)), ((6, 30, 8, 16), True, (8, 16)),
    # as many items as times, as points, as all
    ((20, 20, 64), False, (64,)), ((6, 16, 16), False, (16,)), ((8, 8, 8, 8), False, (8, 8)),
    ((6, 16, 16), True, (16, 16))])
def test_usual_layouts_are_guessed(shape, pair, grid):
    u = np.random.default_rng(0).standard_normal(shape).astype('float32')
    assert dls_of(u, u if pair else None).grid == grid

def test_dimensions_without_known_names(tmp_path):
    xr,_ = need('xarray', 'h5netcdf')
    xr.Dataset({'u': (('a', 'b', 'lon'), U[0])}).to_netcdf(tmp_path/'u.nc', engine='h5netcdf')
    with pytest.raises(ValueError, match="names such as sample, time.*got a, b, lon"): open_fields(tmp_path/'u.nc')
    assert open_fields(tmp_path/'u.nc', axes='t y x').shape == (6, 8, 12)

def test_packed_numbers_are_decoded(tmp_path):
    xr,_ = need('xarray', 'h5netcdf')
    u = U.round(2)
    how = {'u': dict(dtype='int16', scale_factor=.01, _FillValue=-32768)}
    xr.Dataset({'u': (('n', 't', 'y', 'x'), u)}).to_netcdf(tmp_path/'u.nc', engine='h5netcdf', encoding=how)
    np.testing.assert_allclose(open_fields(tmp_path/'u.nc')[:], u, atol=1e-6)

@pytest.mark.parametrize('package,name', [('h5py', 'u.h5'), ('xarray', 'u.nc'), ('zarr', 'u.zarr')])
def test_a_missing_package_names_the_extra(package, name, tmp_path, monkeypatch):
    if package == 'zarr': (tmp_path/name).mkdir()
    else: (tmp_path/name).write_bytes(b'x')
    monkeypatch.setitem(__import__('sys').modules, package, None)
    with pytest.raises(ImportError, match=rf'the package {package} to read {name}.*pip install "\.\[fields\]"'):
        open_fields(tmp_path/name)

# --- laziness, workers ----------------------------------------------------------------------------
@pytest.mark.parametrize('kind', [npy, hdf5], ids=lambda o: o.__name__)
def test_only_what_is_asked_for_is_read(kind, tmp_path, monkeypatch):
    path,how = kind(tmp_path)
    seen,read = [],FieldFile._read
    def spy(self, picked):
        got = read(self, picked)
        seen.append((picked.get('n'), got.size))
        return got
    monkeypatch.setattr(FieldFile, '_read', spy)
    dls = dls_of(path, **how, lazy=True, valid=[8, 9], t_in=1, t_out=1, scale=([0.], [1.]), shuffle=False)
    assert {i for i,_ in seen} <= {0}       # one item, of which fastai sees the types
    seen.clear()
    next(iter(dls.train))
    assert seen == [(i, 2*8*12) for i in range(4)]      # two frames of each, at once
    seen.clear()
    dls_of(path, **how, lazy=True, valid=[8, 9], t_in=1, t_out=1)
    assert seen[:8] == [(i, 2*8*12) for i in range(8)] and len(seen) <= 9   # the scale: what trains, once

def test_members_of_an_npz_are_mapped(tmp_path):
    path,_ = npz(tmp_path)
    assert isinstance(arrayfiles.Npz(path).names()['u'], np.memmap)
    np.savez_compressed(path, u=U)
    assert not isinstance(arrayfiles.Npz(path).names()['u'], np.memmap)
    np.savez(path, u=np.asfortranarray(U), names=np.array(['a', None]), size=3)
    np.testing.assert_array_equal(open_fields(path)[3], U[3])
    np.savez_compressed(path, u=U, names=np.array(['a', None]))     # what is not asked for is not read
    np.testing.assert_array_equal(open_fields(path)[3], U[3])
    torch.save(torch.tensor(U).bfloat16(), tmp_path/'u.pt')
    assert open_fields(tmp_path/'u.pt')[:].dtype == np.float32

@pytest.mark.filterwarnings('ignore:.*fork')
@pytest.mark.parametrize('kind', [npy, hdf5, netcdf, zarr, zarr_bare], ids=lambda o: o.__name__)
def test_workers_reopen_the_file(kind, tmp_path):
    path,how = kind(tmp_path)
    a = dls_of(path, **how, lazy=True, t_in=2, t_out=2, shuffle=False, num_workers=2)
    a.train.dataset[0]                      # open here, before the workers are forked
    b = dls_of(U, t_in=2, t_out=2, shuffle=False)
    got,want = list(a.train),list(b.train)
    assert len(got) == len(want) == 2
    for (x,y),(x2,y2) in zip(got, want): assert torch.equal(x, x2) and torch.equal(y, y2) and type(x) is TensorField

def test_small_files_are_held_large_ones_left(tmp_path, monkeypatch):
    path,_ = npy(tmp_path)
    assert isinstance(dls_of(path).train_ds.x, fieldsource.Held)
    monkeypatch.setattr(fieldsource, 'SMALL', U.nbytes-1)
    assert isinstance(dls_of(path).train_ds.x, fieldsource.OnDisk)
    assert isinstance(dls_of(path, sub=2).train_ds.x, fieldsource.Held)

# --- loaders --------------------------------------------------------------------------------------
def test_batches_are_frames_as_channels():
    u = fields(c=2)
    dls = dls_of(u, t_in=3, t_out=2, shuffle=False, valid=[1, 7])
    rows = [0, 2, 3, 4, 5, 6, 8, 9]
    x,y = dls.train.one_batch()
    np.testing.assert_array_equal(x, u[rows[:4], :3].reshape(4, 6, 8, 12))
    np.testing.assert_array_equal(y, u[rows[:4], 3:5].reshape(4, 4, 8, 12))
    assert x.dtype == torch.float32 and type(x) is TensorField
    xv,yv = dls.valid.one_batch()
    np.testing.assert_array_equal(xv, u[[1, 7], :3].reshape(2, 6, 8, 12))
    assert (dls.t_in, dls.t_out, dls.n_vars, dls.grid, dls.periodic) == (3, 2, 2, (8, 12), (True, True))
    assert dls.weights is None and len(dls.train) == 2 and len(dls.valid) == 1 and dls.n_inp == 1
    same = [torch.equal(a, b) for a,b in zip(dls.train_ds[2], (x[2], y[2]))]
    assert all(same) and len(list(dls.train_ds)) == 8

def test_data_are_copied_and_any_float_will_do():
    u = U.astype('float64')
    dls = dls_of(u, shuffle=False)
    first = dls.one_batch()[0].clone()
    u[:] = 0
    assert torch.equal(dls.one_batch()[0], first)
    assert torch.equal(dls_of(torch.tensor(U), shuffle=False).one_batch()[0], first)
    assert dls_of(U > 0).one_batch()[0].unique().tolist() == [0., 1.]      # two phases

def test_windows_never_cross_the_split():
    n,t = 10,9
    u = np.arange(n*t, dtype='float32').reshape(n, t, 1, 1)*np.ones((8, 8), 'float32')     # each frame its number
    dls = dls_of(u, t_in=2, t_out=2, every=1, valid=.3)
    rows = [{int(v)//t for b in dl for o in b for v in o.flatten().unique()} for dl in (dls.train, dls.valid)]
    assert len(rows[1]) == 3 and not rows[0] & rows[1] and len(dls.train_ds) == 7*6 and len(dls.valid_ds) == 3*6
    assert {len(dls_of(u, t_in=2, t_out=2, every=k).train_ds) for k in (2, 5)} == {8*3, 8*2}
    x,y = dls.valid_ds[4]
    assert x[:, 0, 0].tolist() == [x[0, 0, 0], x[0, 0, 0]+1] and y[0, 0, 0] == x[1, 0, 0]+1
    again = dls_of(u, t_in=2, t_out=2, every=1, valid=.3)
    other = dls_of(u, t_in=2, t_out=2, every=1, valid=.3, seed=1)
    rows_of = lambda o: o.valid_ds.index[:, 0].unique().tolist()
    assert rows_of(dls) == rows_of(again) != rows_of(other)

def test_one_history_is_cut_in_time():
    u = np.arange(40, dtype='float32').reshape(1, 40, 1, 1)*np.ones((8, 8), 'float32')
    dls = dls_of(u, t_in=3, t_out=2, every=1, valid=.25)
    frames = [{int(v) for b in dl for o in b for v in o.flatten().unique()} for dl in (dls.train, dls.valid)]
    assert frames[1] == set(range(30, 40)) and max(frames[0]) < 30
    assert frames[0] <= set(range(30)) and len(dls.train_ds) == 26 and len(dls.valid_ds) == 6
    with pytest.warns(RobustWarning, match='every=1'): dls_of(u, valid=.25, drop_last=False)
    with pytest.raises(ValueError, match='expected 5 frames or more on either side'):
        dls_of(u, t_in=3, t_out=2, every=1, valid=.05)

def test_one_history_without_an_axis_of_items(tmp_path):
    xr,_ = need('xarray', 'h5netcdf')
    u = fields(1, 40)[0]
    coords = dict(latitude=np.linspace(60, -60, 8))
    xr.Dataset({'t2m': (('time', 'latitude', 'longitude'), u)}, coords).to_netcdf(tmp_path/'u.nc', engine='h5netcdf')
    for lazy in (True, False):
        dls = dls_of(tmp_path/'u.nc', every=1, t_in=2, valid=.25, lazy=lazy, latitude=True, shuffle=False)
        x,y = dls.one_batch()
        np.testing.assert_array_equal(x[2], u[2:4])
        np.testing.assert_array_equal(y[2, 0], u[4])
        assert len(dls.train_ds) == 28 and len(dls.valid_ds) == 8
        np.testing.assert_allclose(dls.scale[1], u[:30].std(), rtol=1e-5)

def test_validation_fields_of_their_own(tmp_path):
    V = fields(4, seed=1)
    dls = dls_of(U, valid=V)
    np.testing.assert_array_equal(dls.valid.one_batch()[0][:, 0], V[:, 0])
    assert len(dls.train_ds) == 10
    np.save(tmp_path/'v.npy', V)
    assert len(dls_of(U, valid=tmp_path/'v.npy').valid_ds) == 4
    with pytest.raises(ValueError, match=r'`valid` of 1 variables on the grid \(8, 12\).*\(8, 6\)'):
        dls_of(U, valid=V[..., :6])

def test_scale_is_of_the_training_frames_alone():
    u = fields(20, c=2)*np.array([1., 30.])[:, None, None] + np.array([5., 1e4])[:, None, None]
    u[3] += 1e6                             # held out, and seen by nobody
    dls = dls_of(u, valid=[3, 4], t_in=2, t_out=2)
    rows = [i for i in range(20) if i not in (3, 4)]
    seen = u[rows, :4].astype('float32').astype('float64')      # of one window a history: no later frames
    mean,std = dls.scale
    np.testing.assert_allclose(mean, seen.mean((0, 1, 3, 4)), rtol=1e-6)
    np.testing.assert_allclose(std, seen.std((0, 1, 3, 4)), rtol=1e-6)
    all_frames = u[rows].astype('float32').astype('float64').std((0, 1, 3, 4))
    np.testing.assert_allclose(dls_of(u, valid=[3, 4], every=1).scale[1], all_frames, rtol=1e-6)
    given = dls_of(u, scale=([0., 1.], [2., 3.])).scale
    assert [o.tolist() for o in given] == [[0., 1.], [2., 3.]]
    with pytest.raises(ValueError, match='each of 2 variables'): dls_of(u, scale=(0., 1.))
    with pytest.warns(RobustWarning, match=r'variable \[0\].* constant'):
        assert dls_of(np.ones_like(U)*7).scale[1] == 1

def test_targets_of_nothing_are_told_of(tmp_path):
    u,y = fields(10, 1, grid=(12,))[:, 0],fields(10, 1, grid=(12,), seed=1)[:, 0] + 2
    y[[2, 9]] = 0
    path = tmp_path/'y.npy'
    for target in (y, 'file', y[:, None].repeat(2, 1)):
        if isinstance(target, str): np.save(path, y)
        kw = dict(lazy=True, valid=[9]) if isinstance(target, str) else dict(valid=[9])
        with pytest.warns(RobustWarning, match=r'^1 of 9 training targets.* items \[2\] .*are 0 or .*say nothing'):
            dls_of(u, path if isinstance(target, str) else target, **kw)
    with pytest.warns(RobustWarning, match='^1 of 9'): dls_of(u, y, valid=[9], scale=([0.], [1.]))
    y[2] = 2
    with pytest.warns(RobustWarning, match='^1 of 9'): dls_of(u, y, valid=[9], scale=([2.], [1.]))
    two = fields(5, 6, 2, (12,))
    two[1, 3:, 1] = 0       # of windows 0-2, 1-3, .. the targets from frame 3 on
    with pytest.warns(RobustWarning, match=r'^2 of 16 .*items \[1\] .* everywhere in variable \[1\]'):
        dls_of(two, axes='n t c x', t_out=2, every=1, valid=[0], shuffle=False)

def test_no_other_target_is(recwarn):
    u = fields(10, 4, grid=(12,))
    u[0, 0] = 0             # an input
    u[9] = 0                # held out
    u[1, 1, :11] = 0
    dls_of(u, valid=[9], t_out=2)
    dls_of(u[:, 0], u[:, 3], valid=[9])
    assert not [w for w in recwarn if w.category is RobustWarning]

def test_batches_of_part_sums_give_the_same_scale(monkeypatch):
    want = dls_of(U, every=1).scale
    monkeypatch.setattr(fieldsource, 'PART', 1)
    torch.testing.assert_close(dls_of(U, every=1).scale, want)

def test_sub():
    dls = dls_of(U, sub=2, shuffle=False, valid=[9])
    np.testing.assert_array_equal(dls.one_batch()[0][:, 0], U[:4, 0, ::2, ::2])
    assert dls.grid == (4, 6) and dls_of(U, sub=(1, 3)).grid == (8, 4)
    with pytest.raises(ValueError, match='divide the 8 points of a periodic side'): dls_of(U, sub=5)
    odd = fields(grid=(9, 13))
    assert dls_of(odd, sub=4, periodic=False).grid == (3, 4)      # both ends stay
    assert dls_of(odd, sub=(4, 1), periodic=(False, True)).periodic == (False, True)
    for sub in (0, 1.5, (1, 2, 3)):
        with pytest.raises(ValueError, match='expected `sub`'): dls_of(U, sub=sub)
    with pytest.raises(ValueError, match='`sub` up to 8'): dls_of(U, sub=24)

def test_pairs():
    a,u = fields(12, grid=(16,))[:, 0],fields(12, grid=(16,), seed=1)[:, 0]*.01
    for dls in (dls_of(a, u, shuffle=False), dls_of((a, u), shuffle=False)):
        x,y = dls.one_batch()
        assert x.shape == y.shape == (4, 1, 16) and len(dls.train_ds) == 10 and len(dls.valid_ds) == 2
        rows = dls.train_ds.index[:4, 0]
        np.testing.assert_array_equal(y[:, 0], u[rows])
        np.testing.assert_allclose(dls.y_scale[1], u[dls.train_ds.index[:, 0]].std(), rtol=1e-5)
        np.testing.assert_allclose(dls.scale[1], a[dls.train_ds.index[:, 0]].std(), rtol=1e-5)
    dls = dls_of(U, U[:, 3:], t_in=6, t_out=3)      # frames in the place of variables
    assert (dls.n_vars, dls.t_in, dls.t_out) == (1, 6, 3) and dls.one_batch()[1].shape == (4, 3, 8, 12)
    assert dls_of(U, U[:, :2], sub=2).n_vars == 6
    dls = dls_of(a, u, valid=(a[:3], u[:3]))
    assert len(dls.valid_ds) == 3 and len(dls.train_ds) == 12
    for args,say in [((a, u[:5]), 'as many targets as inputs, got 12 of `data` and 5'), ((a, u[:, ::2]), 'one grid')]:
        with pytest.raises(ValueError, match=say): dls_of(*args)
    with pytest.raises(TypeError, match=r'fields \(x, y\)'): dls_of(a, u, valid=a)
    with pytest.raises(ValueError, match='histories alone'): dls_of(a, u, every=1)

def test_pairs_of_one_file(tmp_path):
    a,u = fields(12, grid=(16, 16))[:, 0],fields(12, grid=(16, 16), seed=1)[:, :2]
    torch.save(dict(x=torch.tensor(a) > 0, y=torch.tensor(u)), tmp_path/'darcy.pt')     # as neuralop's Darcy
    dls = dls_of(tmp_path/'darcy.pt', key='x', y_key='y', shuffle=False)
    assert dls.one_batch()[0].shape == (4, 1, 16, 16) and dls.one_batch()[1].shape == (4, 2, 16, 16)
    dls = dls_of(tmp_path/'darcy.pt', key='x', y_key='y', axes='n y x', y_axes='n t y x', t_out=2, lazy=True)
    assert (dls.t_out, dls.one_batch()[1].shape) == (2, (4, 2, 16, 16))

class Timed(nn.Module):
    "A model of u and t"
    def __init__(self): super().__init__(); self.c = nn.Conv1d(1, 1, 3, padding=1, padding_mode='circular')
    def forward(self, u, t): return self.c(u)*(1+t.view(-1, 1, 1))

def test_times(tmp_path):
    u = fields(10, 8, grid=(16,))
    dls = dls_of(u, times=.05, lead=(1, 2, 4), shuffle=False, valid=[9])
    x,t,y = dls.one_batch()
    assert dls.n_inp == 2 and len(dls.train_ds) == 27 and t.shape == (4,)
    torch.testing.assert_close(t, torch.tensor([.05, .1, .2, .05]))
    np.testing.assert_array_equal(y[:3, 0], u[0, [1, 2, 4]])
    dls = dls_of(u, times=np.arange(8)**2, t_in=2, t_out=2, shuffle=False)
    assert dls.one_batch()[1].tolist() == [[3, 8]]*4     # frames 2 and 3 after frame 1
    a,b = u[:, 0],u[:, 1]
    dls = dls_of(a, b, times=np.arange(10.), shuffle=False, valid=[0, 5])
    assert dls.one_batch()[1].tolist() == [1, 2, 3, 4] and dls.valid.one_batch()[1].tolist() == [0, 5]
    dls = dls_of(a, b, times=np.arange(10.), valid=(a[:2], b[:2], [7., 8.]))
    assert dls.valid.one_batch()[1].tolist() == [7, 8]
    learn = Learner(dls, Timed(), nn.MSELoss(), path=tmp_path)
    learn.logger = lambda *_: None
    learn.fit(1)
    learn.show_results()
    dls.show_batch()
    got = learn.predict((a[0], 3.))[2]
    learn.export()
    with pytest.warns(UserWarning): again = load_learner(tmp_path/'export.pkl')
    torch.testing.assert_close(again.predict((a[0], 3.))[2], got)
    with pytest.raises(ValueError, match=r'items \(x, t\)'): learn.predict(a[0])
    for kw,say in [(dict(lead=(1, 2)), '`times` beside several leads'), (dict(times=[1., 2.]), 'those of the 8 frames'),
                   (dict(times=np.zeros(8)), 'that rise'), (dict(lead=0), 'from 1 on'),
                   (dict(lead=8), '9 frames or more')]:
        with pytest.raises(ValueError, match=say): dls_of(u, **kw)

def test_latitudes(tmp_path):
    lat = np.linspace(-80, 80, 8)
    w = dls_of(U, latitude=lat).weights
    c = np.cos(np.deg2rad(lat))
    np.testing.assert_allclose(w[:, 0], c/c.mean(), rtol=1e-6)
    assert w.shape == (8, 1) and w.mean() == pytest.approx(1)
    dls = dls_of(U, latitude=True)
    c = np.cos(np.deg2rad((np.arange(8)+.5)*22.5-90))
    np.testing.assert_allclose(dls.weights[:, 0], c/c.mean(), rtol=1e-6)
    assert dls.periodic == (False, True)
    c = np.cos(np.deg2rad(lat[::4]))
    np.testing.assert_allclose(dls_of(U, latitude=lat, sub=4).weights[:, 0], c/c.mean(), rtol=1e-6)
    assert dls_of(fields(grid=(9, 8)), latitude=True).weights[0] == pytest.approx(0, abs=1e-6)    # with the poles
    with pytest.raises(ValueError, match='`latitude` as True or as degrees'): dls_of(U, latitude=lat*2)
    with pytest.raises(ValueError, match='got one side'): dls_of(fields(grid=(16,)), latitude=True)
    path,how = netcdf(tmp_path)
    for lazy in (True, False):
        w = dls_of(path, **how, latitude=True, lazy=lazy).weights
        c = np.cos(np.deg2rad(np.linspace(80, -80, 8)))
        np.testing.assert_allclose(w[:, 0], c/c.mean(), rtol=1e-6)

# --- as fastai's loaders --------------------------------------------------------------------------
def learner(dls, path, t_in=2, t_out=2, conv=nn.Conv2d):
    learn = Learner(dls, conv(t_in, t_out, 3, padding=1, padding_mode='circular'), nn.MSELoss(), path=path)
    learn.logger = lambda *_: None
    return learn

def test_a_learner_from_end_to_end(tmp_path):
    dls = dls_of(U, t_in=2, t_out=2)
    learn = learner(dls, tmp_path)
    learn.fit(1)
    p,y = learn.get_preds()
    assert p.shape == y.shape == (2, 2, 8, 12)
    np.testing.assert_array_equal(y, U[dls.valid_ds.index[:, 0], 2:4])
    dec,_,raw = learn.predict(U[0, :2])
    assert type(dec) is TensorField and raw.shape == (2, 8, 12)
    torch.testing.assert_close(raw, learn.model(torch.tensor(U[:1, :2]))[0].detach())
    torch.testing.assert_close(learn.predict(U[0])[2], raw)               # later frames are not looked at
    learn.export()
    assert (tmp_path/'export.pkl').stat().st_size < 60_000                # no fields in it
    with pytest.warns(UserWarning): again = load_learner(tmp_path/'export.pkl')
    torch.testing.assert_close(again.predict(U[0, :2])[2], raw)
    assert len(again.dls.train_ds) == 0 and again.dls.n_vars == 1 and again.dls.grid == (8, 12)
    torch.testing.assert_close(again.dls.scale, dls.scale)
    many = again.dls.test_dl(U[:, :2])
    torch.testing.assert_close(again.get_preds(dl=many)[0][0], raw)

def test_new_fields():
    dls = dls_of(U, t_in=2, t_out=2)
    assert [len(o) for o in dls.test_dl(U[:5, :2])] == [1, 1]             # inputs alone, two batches
    x,y = dls.test_dl(U, with_labels=True).one_batch()
    np.testing.assert_array_equal(y, U[:4, 2:4])
    fine = dls.test_dl(list(fields(3, grid=(16, 24))))                    # another grid
    assert fine.one_batch()[0].shape == (3, 2, 16, 24)
    two = dls_of(fields(c=3))
    assert two.test_dl(fields(2, 1, c=3)).one_batch()[0].shape == (2, 3, 8, 12)
    assert two.test_dl(fields(2, 3)).one_batch()[0].shape == (2, 3, 8, 12)        # frames and variables in one axis
    for items,say in [(U[:, :1], 'expected 2 frames an item'), ([], 'got none'), ([U[0], U[1, :, ::2]], 'of one shape'),
                      (np.full_like(U, np.nan), 'NaN or infinity in 10 of 10'), (U[0, 0, :, 0], '2 frames or more')]:
        with pytest.raises(ValueError, match=say): dls.test_dl(items)
    pairs = dls_of(U[:, 0], U[:, 1])
    x,y = pairs.test_dl(list(zip(U[:, 2], U[:, 3])), with_labels=True).one_batch()
    np.testing.assert_array_equal(y[:, 0], U[:4, 3])
    with pytest.raises(ValueError, match=r'items \(x, y\)'): pairs.test_dl(U[:, 2], with_labels=True)

def test_tta_is_get_preds_where_nothing_is_random(tmp_path):
    learn = learner(dls_of(U), tmp_path, 1, 1)
    (p,y),(q,z) = learn.tta(n=2),learn.get_preds()
    torch.testing.assert_close(p, q)
    assert torch.equal(y, z) and learn.dls.valid_ds.split_idx == 1
    class Noise(Transform):
        split_idx = 0
        def encodes(self, o:TensorField): return o + 1
    noisy = learner(dls_of(U, after_batch=Noise()), tmp_path, 1, 1)
    assert not torch.allclose(noisy.tta(n=1)[0], noisy.get_preds()[0])

def test_interpretation_picks_items(tmp_path):
    dls = dls_of(U, t_in=2, t_out=2, valid=.4)
    learn = Learner(dls, nn.Conv2d(2, 2, 3, padding=1), MSELossFlat(), path=tmp_path)
    interp = Interpretation.from_learner(learn)
    losses,at = interp.top_losses(2)
    x,p,y,*_ = interp[at]
    np.testing.assert_array_equal(y, U[dls.valid_ds.index[at, 0], 2:4])
    torch.testing.assert_close((p-y).square().flatten(1).mean(1), losses)
    interp.show_results(at)
    assert len(dls.train_ds[1:4]) == 3 and torch.equal(dls.train_ds[[2]][0][0], dls.train_ds[2][0])

def test_a_path_as_new_fields(tmp_path):
    path,_ = npy(tmp_path)
    x, = dls_of(U, U[:, :2], t_in=6).test_dl(path).one_batch()
    np.testing.assert_array_equal(x, U[:4])
    with pytest.raises(ValueError, match='expected 2 variables in u.npy, got 1'):
        dls_of(fields(c=2)).test_dl(path)
    x, = dls_of(U, t_in=2, t_out=2).test_dl(path).one_batch()
    np.testing.assert_array_equal(x, U[:4, :2])

def test_order_and_copies():
    def order():
        set_seed(3)
        return [dls_of(U).train.get_idxs() for _ in range(2)]
    assert order() == order() and order()[0] != list(range(8))
    dls = dls_of(U, bs=3)
    assert len(dls.train) == 2 and len(list(dls.train)) == 2              # 8 items, the last two are dropped
    assert len(dls_of(U, bs=3, drop_last=False).train) == 3 and len(dls_of(U, bs=3, shuffle=False).train) == 3
    assert len(dls_of(U, bs=100).train) == 1                              # no full batch: nothing to drop
    new = dls.train.new(shuffle=False, drop_last=False)
    assert torch.equal(torch.cat([x for x,_ in new]), dls.train_ds.batch(torch.arange(8))[0])
    assert len(dls.new_empty().train) == 0 and dls.new_empty().t_out == 1
    assert dls.to('cpu').train.device == torch.device('cpu')
    with pytest.raises(ValueError, match='one batch of 100'): dls_of(U, bs=100, drop_last=True)

class Twice(Transform):
    def encodes(self, x: TensorField): return x*2

def test_item_by_item_where_a_transform_asks_for_it():
    dls = dls_of(U, shuffle=False)
    dls.add_tfms([Twice()], 'after_item', 'train')
    assert not dls.train._whole() and dls.valid._whole()
    np.testing.assert_array_equal(dls.train.one_batch()[0], 2*dls.train_ds.batch(torch.arange(4))[0])

@pytest.mark.parametrize('grid,c', [((16,), 1), ((16,), 2), ((8, 12), 2)])
def test_pictures(grid, c, tmp_path):
    u = fields(c=c, grid=grid)
    dls = dls_of(u, t_in=2, t_out=2, axes='n t c x' if len(grid) == 1 else None)
    conv = nn.Conv1d if len(grid) == 1 else nn.Conv2d
    learn = learner(dls, tmp_path, 2*c, 2*c, conv)
    for draw in (dls.show_batch, learn.show_results, lambda: learn.show_results(max_n=1, var=c-1, frame=0)):
        plt.close('all')
        draw()
        fig = plt.gcf()
        fig.canvas.draw()
        assert len(plt.get_fignums()) == 1 and fig.axes
    if len(grid) == 2:      # target and prediction in one scale, the error in its own
        x,y,p,e = [ax.images[0] for ax in fig.axes[:4]]
        assert x.get_clim() == y.get_clim() == p.get_clim() != e.get_clim() and e.get_cmap() != y.get_cmap()
        lo,hi = y.get_clim()
        assert lo == -hi
    with pytest.raises(IndexError, match='expected `var`'): dls.show_batch(var=c)
    dls.test_dl(u).show_batch(max_n=2)

@pytest.mark.parametrize('grid,kind', [
    ((16,), 'histories'), ((16,), 'timed'), ((8, 12), 'histories'), ((8, 12), 'pairs')])
def test_pictures_of_the_top_losses(grid, kind, tmp_path):
    from fastrobust.systems.koopman.learner import koopman_learner
    u = fields(c=2, grid=grid)
    of = dict(axes='n t c x') if len(grid) == 1 else {}
    if kind == 'pairs': dls = dls_of(u[:, 0], u[:, 1], valid=range(5, 10), axes='n c y x')
    else: dls = dls_of(u, t_in=2, valid=range(5, 10), **of, **dict(times=.1) if kind == 'timed' else {})
    n = 2*dls.t_in
    learn = koopman_learner(dls, Linear(n, 2), path=tmp_path)
    learn.logger = lambda *_: None
    plt.close('all')
    interp = Interpretation.from_learner(learn)
    interp.plot_top_losses(3, var=1)
    fig = plt.gcf()
    p,y = (o.as_subclass(torch.Tensor).double() for o in learn.get_preds())
    mean,std = (o.double().view(-1, *[1]*len(grid)) for o in dls.y_scale)
    off = lambda o: ((o/std)**2).flatten(1).sum(1).sqrt()
    losses = off(p-y)/off(y-mean)
    worst = losses.argsort(descending=True)[:3].tolist()
    said = [f'loss {losses[i]:.3g}' for i in worst]
    if len(grid) == 1:
        tops = fig.axes[:3]
        assert [ax.get_title() for ax in tops] == said
        drawn = [[line.get_ydata() for line in ax.lines[1:3]] for ax in tops]
    else:
        rows = np.array(fig.axes[:12]).reshape(3, 4)
        assert [r[3].get_xlabel() for r in rows] == said
        drawn = [[ax.images[0].get_array() for ax in r[1:3]] for r in rows]
    for i,(target,prediction) in zip(worst, drawn):
        np.testing.assert_array_equal(target, y[i, 1])
        np.testing.assert_allclose(prediction, p[i, 1], rtol=1e-5, atol=1e-6)

class Linear(nn.Module):
    "Any operator, with or without a time"
    def __init__(self, n, c):
        super().__init__()
        self.w = nn.Parameter(torch.randn(c, n, generator=torch.Generator().manual_seed(0)))
    def forward(self, u, *t): return torch.einsum('oc,bc...->bo...', self.w, u)

def test_one_legend_is_true_of_every_panel():
    x = fields(3, grid=(16,))[:, 0]
    y = -x*np.array([[1.], [1.], [.01]], dtype='float32')    # one input would flatten its target, two would not
    dls = dls_of(x, y, bs=2, shuffle=False, valid=[2])
    for a,b,right in [(x, y, True), (x[:2], y[:2], False)]:
        plt.close('all')
        dls.train.show_batch((torch.tensor(a[:, None]), torch.tensor(b[:, None])))
        fig = plt.gcf()
        names = [o.get_text() for o in fig.legends[0].get_texts()]
        assert names == ['input (right)' if right else 'input', 'target']
        panels = [ax for ax in fig.axes if ax.axison]
        drawn = lambda ax, o: any(np.array_equal(line.get_ydata(), o) for line in ax.lines)
        holds = lambda o, panels=panels, drawn=drawn: [ax for ax in panels if drawn(ax, o)]
        assert len(panels) == (1+right)*len(a)
        for o,z in zip(a, b): assert (holds(o) == holds(z)) == (not right) and len(holds(o)) == len(holds(z)) == 1

def test_loaders_say_what_they_hold():
    assert repr(dls_of(U, t_in=2, t_out=3)) == (
        'FieldLoaders: 8 training and 2 validation items in batches of 4 on cpu\n'
        '2 frames of 1 variable to 3 frames of 1 variable, on 8 x 12 points')
    u = fields(c=2, grid=(16,))
    dls = dls_of(u, axes='n t c x', times=.1)
    assert repr(dls).endswith('1 frame of 2 variables and a time to 1 frame of 2 variables, on 16 points')
    assert repr(dls_of(U[:, :2].reshape(10, 2, 96), U[:, 0].reshape(10, 96), axes='n c x', y_axes='n x')).endswith(
        '1 frame of 2 variables to 1 frame of 1 variable, on 96 points')
    assert '0 training and 0 validation items' in repr(dls.new_empty())

# --- DataBlock ------------------------------------------------------------------------------------
def test_blocks_of_rows_and_of_files(tmp_path):
    path,_ = npy(tmp_path)
    for i,u in enumerate(U): np.save(tmp_path/f'item{i}.npy', u)
    files = [tmp_path/f'item{i}.npy' for i in range(10)]
    block = DataBlock((FieldBlock(slice(0, 2)), FieldBlock(slice(2, 3))), splitter=IndexSplitter([8, 9]))
    for items in (field_items(path), files, list(U)):
        dls = describe_fields(block.dataloaders(items, bs=4, shuffle=False, num_workers=0, device='cpu'))
        x,y = dls.one_batch()
        assert type(x) is TensorField
        np.testing.assert_array_equal(x, U[:4, :2])
        np.testing.assert_array_equal(y, U[:4, 2:3])
        assert (dls.t_in, dls.t_out, dls.n_vars, dls.grid) == (2, 1, 1, (8, 12))
        np.testing.assert_allclose(dls.scale[1], U[:8, :3].std(), rtol=1e-5)
    learn = learner(dls, tmp_path, 2, 1)
    learn.fit(1)
    learn.show_results()
    dls.show_batch()
    assert learn.predict(U[0])[0].shape == (1, 8, 12)

def test_blocks_draw_what_they_hold(tmp_path):
    u = fields(c=2)
    block = DataBlock((FieldBlock(slice(0, 2)), FieldBlock(slice(2, 3))), splitter=IndexSplitter([8, 9]))
    dls = describe_fields(block.dataloaders(list(u), bs=4, num_workers=0, device='cpu'), n_vars=2)
    learn = learner(dls, tmp_path, 4, 2)
    learn.loss_func = MSELossFlat()
    interp = Interpretation.from_learner(learn)
    for draw in (lambda: interp.plot_top_losses(2, var=0), lambda: learn.show_results(var=0)):
        plt.close('all')
        draw()
        shown = [ax.images[0].get_array() for ax in plt.gcf().axes[1:8:4]]
        at = interp.top_losses(2)[1] if 'loss' in plt.gcf().axes[3].get_xlabel() else (0, 1)
        for a,i in zip(shown, at): np.testing.assert_array_equal(a, u[8+i, 2, 0])

def test_blocks_refuse():
    make = lambda items, **kw: DataBlock((FieldBlock(**kw), FieldBlock(**kw))).dataloaders(items, num_workers=0)
    with pytest.raises(TypeError, match='a path, an array'): make([{}]*4)
    with pytest.raises(ValueError, match='frames slice'): make(list(U), frames=slice(9, 12))
    with pytest.raises(TypeError, match='got int64'): make(list(np.zeros((4, 3, 8), int)))

def test_blocks_know_what_reports_ask():
    from fastrobust.systems.koopman.learner import koopman_learner
    from fastrobust.systems.koopman.networks.kno import KNO1d
    from fastrobust.systems.koopman.reports.bands import conformal_bands
    from fastrobust.systems.koopman.reports.meshreport import mesh_report
    from fastrobust.systems.koopman.reports.rolloutreport import rollout_report
    from fastrobust.systems.koopman.reports.stress import field_stress_report
    u = fields(40, 1, grid=(16,))[:, 0]
    y = 3*np.roll(u, 1, -1) + 1
    block = DataBlock((FieldBlock(axes='x'), FieldBlock(axes='x')), get_x=ItemGetter(0), get_y=ItemGetter(1),
                      splitter=IndexSplitter(range(20, 40)))
    loaders = block.dataloaders(list(zip(u, y)), bs=4, num_workers=0, device='cpu')
    dls,pairs = describe_fields(loaders, pair=True),dls_of(u, y, valid=range(20, 40))
    for k in ('t_in', 't_out', 'n_vars', 'grid', 'periodic', 'pair', 'weights', 'leads', 'timed', 'times'):
        assert getattr(dls, k) == getattr(pairs, k), k
    for a,b in zip((*dls.scale, *dls.y_scale), (*pairs.scale, *pairs.y_scale)): assert torch.equal(a, b)
    assert describe_fields(loaders).y_scale is loaders.scale and not loaders.pair
    learn = koopman_learner(dls, KNO1d(o=4, m=4))
    u,y = u[20:],y[20:]
    conformal_bands(learn, (u, y), .8)
    mesh_report(learn, (u, y))
    rollout_report(learn, u[:, None], y[:, None])
    field_stress_report(learn, u, y)

def test_blocks_refuse_uneven_points():
    make = lambda **kw: DataBlock((FieldBlock(**kw), FieldBlock(**kw))).dataloaders(list(U), num_workers=0, bs=2)
    with pytest.raises(ValueError, match='to divide the 12 points of a periodic side'): make(sub=(2, 5))
    assert make(sub=(2, 5), periodic=(True, False)).one_batch()[0].shape == (2, 6, 4, 3)
    assert make(sub=4).one_batch()[0].shape == (2, 6, 2, 3)

# --- refusals -------------------------------------------------------------------------------------
def broken(v):
    u = U.copy()
    u[3, 1, 2, 2] = v
    return u

BAD = [
    (U, dict(t_in=5, t_out=2), ValueError, r'expected 7 frames or more \(t_in=5, t_out=2\).*got 6'),
    (broken(np.nan), {}, ValueError, r'NaN or infinity in 1 of 10 items, first \[3\]'),
    (broken(np.inf), {}, ValueError, r'first \[3\]'),
    (np.full_like(U, 1e300, dtype='f8'), {}, ValueError, 'NaN or infinity'),
    (U.astype(complex), {}, TypeError, 'expected real fields.*complex'),
    (U.astype(int), {}, TypeError, r"got int64.*astype\('float32'\)"),
    (U.astype(str), {}, TypeError, 'expected fields of floats'),
    (U[:0], {}, ValueError, r'got shape \(0, 6, 8, 12\)'),
    (U[0, 0, 0], {}, ValueError, r'got shape \(12,\)'),
    ([1, 2, 3], {}, TypeError, 'as an array, a tensor or the path'),
    (U, dict(axes='n x'), ValueError, 'one letter per axis'),
    (U, dict(axes=3), TypeError, 'expected `axes` as a string'),
    (U, dict(valid=0.), ValueError, 'share in'),
    (U, dict(valid=.01), ValueError, 'both sides'),
    (U, dict(valid=[10]), ValueError, 'positions in 0..9'),
    (U, dict(valid=[1, 1]), ValueError, 'different positions'),
    (U, dict(valid=range(10)), ValueError, 'leave some to train on'),
    (U, dict(t_in=0), ValueError, '`t_in` must be'),
    (U, dict(every=0), ValueError, '`every` must be'),
    (U, dict(bs=2.5), ValueError, '`bs` must be'),
    (U, dict(periodic='both'), ValueError, '`periodic` as True'),
    (U, dict(periodic=(True,)), ValueError, 'each of 2 sides'),
    (U, dict(t_inn=3), TypeError, r"unknown 't_inn'. Did you mean 't_in'"),
    (U, dict(key='u'), ValueError, 'expected `key`.*beside its path'),
]

@pytest.mark.parametrize('data,kw,kind,say', BAD, ids=range(len(BAD)))
def test_bad_input(data, kw, kind, say):
    with pytest.raises(kind, match=say): dls_of(data, **kw)

def test_bad_items_of_a_file_are_named_when_they_are_read(tmp_path):
    np.save(tmp_path/'u.npy', broken(np.nan))
    with pytest.raises(ValueError, match=r'u.npy.*first \[3\]'): dls_of(tmp_path/'u.npy', lazy=True)
    dls = dls_of(tmp_path/'u.npy', lazy=True, scale=([0.], [1.]), valid=[9], shuffle=False)
    with pytest.raises(ValueError, match=r'u.npy.*first \[3\]'): list(dls.train)
    np.save(tmp_path/'u.npy', U.astype('complex64'))
    with pytest.raises(TypeError, match='complex'): dls_of(tmp_path/'u.npy', lazy=True)

def test_batches_of_a_file_are_contiguous(tmp_path):
    path,_ = npy(tmp_path)
    for o in dls_of(path, lazy=True, t_in=2, t_out=2).one_batch(): assert o.is_contiguous()

# --- advice that can be followed -------------------------------------------------------------------------------------
@pytest.mark.parametrize('kind,shape', [
    ('pairs', (50, 4)), ('pairs', (50, 1)), ('pairs', (50, 32, 3)), ('pairs', (50, 3, 4)), ('pairs', (50, 2, 32, 3)),
    ('pairs', (50, 30, 32, 1)), ('pairs', (6, 2, 3, 3, 3)), ('histories', (50, 4)), ('histories', (50, 30, 4)),
    ('histories', (50, 30, 1)), ('histories', (20, 5, 2, 4)), ('histories', (20, 5, 32, 3)), ('item', (30, 4)),
    ('item', (30, 1)), ('item', (5, 32, 3)), ('item', (5, 2, 3)), ('item', (4, 6, 3, 3))])
def test_axes_that_are_advised_are_taken(kind, shape):
    with pytest.raises(ValueError, match='expected `axes`') as e: guessed_axes(shape, 'it', kind)
    advised = re.findall("'([ntcyx ]+)'", str(e.value))
    assert advised
    for axes in advised: assert len(parse_axes(axes, shape, 'it')) == len(shape)

def test_advice_for_pairs_makes_loaders():
    for shape in ((50, 4), (50, 2, 32, 3), (50, 32, 3)):
        u = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        with pytest.raises(ValueError, match='expected `axes`') as e: field_dls(u, u)
        axes = re.search("axes='([ntcyx ]+)'", str(e.value))[1]
        assert len(field_dls(u, u, axes=axes, bs=2, device='cpu').train.dataset)

def test_loaders_say_what_they_are_with_one_or_none():
    dls = dls_of(fields())
    assert 'none' in repr(type(dls)()) and 'validation' not in repr(type(dls)(dls.train))
    assert repr(type(dls)(dls.train)).startswith('FieldLoaders: 8 training items in batches of')

@pytest.mark.parametrize('kw,n', [(dict(max_n=1), 1), (dict(nrows=1), 2), (dict(nrows=2, ncols=1), 2), ({}, 2)])
def test_top_losses_with_fastai_s_arguments(kw, n):
    from fastrobust.systems.koopman.learner import koopman_learner
    learn = koopman_learner(dls_of(fields(grid=(16,))), Linear(1, 1))
    learn.logger = lambda *_: None
    Interpretation.from_learner(learn).plot_top_losses(2, **kw)
    assert sum(ax.get_title().startswith('loss') for ax in plt.gcf().axes) == n
    plt.close('all')
