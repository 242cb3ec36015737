"mesh_report and rollout_report: operators made by hand against loops, exact cases, what diverges, what is refused"
import copy, warnings
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback   # noqa: F401 (gives Learner its no_bar)
from fastai.learner import Learner
from fastai.torch_core import set_seed
from fastrobust.systems.koopman.fieldmetrics import RelL2Loss
from fastrobust.systems.koopman.data.fields import field_dls
from fastrobust.systems.koopman.networks.fno import FNO1d
from fastrobust.systems.koopman.networks.kno import KNO1d, KNO2d
from fastrobust.systems.koopman.learner import koopman_learner
from fastrobust.systems.koopman.reports.meshreport import mesh_report
from fastrobust.systems.koopman.reports.rolloutreport import rollout_report
from fastrobust.systems.koopman.networks.semigroup import SemigroupKNO
from fastrobust.systems.koopman.networks.vitkno import ViTKNO

class Shift(nn.Module):
    "Moves the newest frame on by a share of the line, whatever its mesh"
    def __init__(self, share=1/16, times=1., c=1):
        super().__init__()
        self.w,self.share,self.c = nn.Parameter(torch.tensor(float(times))),share,c
    def forward(self, u): return self.w*u[:, -self.c:].roll(round(self.share*u.shape[-1]), -1)

def noise(*shape): return np.random.default_rng(0).normal(size=shape).astype(np.float32)
def moved(u0, frames, by=1): return np.stack([np.roll(u0, by*i, -1) for i in range(frames)], 1)
def smooth(n, size):
    "Fields of the waves 1 to 4, the same on every mesh"
    x = np.arange(size)/size
    a = np.random.default_rng(1).normal(size=(n, 2, 4, 1))
    k = 2*np.pi*np.arange(1, 5)[:, None]*x
    return (a[:, 0]*np.sin(k) + a[:, 1]*np.cos(k)).sum(1).astype(np.float32)

def learner(model, data=None, scaled=False, **kwargs):
    "Unscaled ones do not round; errors are counted from 0 as they are"
    if data is None: data = noise(8, 3, 16)
    c = data.shape[2] if data.ndim == 5 or data.ndim == 4 and 'axes' not in kwargs else 1
    kwargs = dict(scale=([0.]*c, [1.]*c)) | kwargs
    return koopman_learner(field_dls(data, bs=2, **kwargs), model, scale=scaled)

# --- meshes ----------------------------------------------------------------------------------------------------------
def test_errors_by_mesh_are_a_loop():
    set_seed(0)
    net = FNO1d(1, width=4, m=3, layers=2)
    learn = learner(net, scaled=True, scale=([.5], [2.]))
    u,y = noise(7, 32),noise(14, 32)[7:]
    rep = mesh_report(learn, (u, y), bs=3)
    assert list(rep.table.index.get_level_values('mesh')) == [32, 16, 8, 4, 2]
    net.eval()
    fine = None
    for size in (32, 16, 8, 4):
        errs,diffs = [],[]
        for i in range(7):
            a,b = u[i, ::32//size],y[i, ::32//size]
            with torch.no_grad(): p = net((torch.as_tensor(a)[None, None]-.5)/2)[0, 0].numpy()*2 + .5
            errs.append(np.linalg.norm(p-b)/np.linalg.norm(b-.5))
            if size == 32: fine = [*(fine or []), p]
            f = fine[i][::32//size]
            diffs.append(np.linalg.norm(p-f)/np.linalg.norm(f-.5))
        row = rep.table.loc['fields', size, 'FNO1d']
        assert row.error == pytest.approx(np.mean(errs), rel=1e-5)
        assert row.se == pytest.approx(np.std(errs, ddof=1)/7**.5, rel=1e-4)
        assert row.difference == pytest.approx(np.mean(diffs), rel=1e-4, abs=1e-7)
        assert row.training == (size == 16) and row.said == ''
    t = rep.table
    assert t.loc['fields', 2, 'FNO1d'].said == 'refused' and np.isnan(t.loc['fields', 2, 'FNO1d'].error)
    assert any('refuses the mesh 2 of fields: expected at least 4 nodes' in o for o in rep.notes)
    e = t.error.dropna()
    assert rep.summary.spread_all == pytest.approx((e.max()-e.min())/e.min())
    assert rep.summary.spread_finer == pytest.approx((e[:2].max()-e[:2].min())/e[:2].min())
    assert rep.summary.training_error == e.iloc[1]
    assert 'training mesh' in repr(rep) and 'refused' in repr(rep)

def test_an_exact_operator_is_exact_on_every_mesh():
    u = noise(5, 64)
    rep = mesh_report(learner(Shift(1/8)), (u, moved(u, 4, 8)[:, 1:]), [64, 16, 8])    # three frames of roll-out
    assert (rep.table.error == 0).all() and (rep.table.difference == 0).all()
    assert rep.summary.spread_all == 0
    rep.plot()

@pytest.mark.parametrize('meshes,want', [([16, 24], ['24', '16']), (48, ['48'])])
def test_meshes_that_share_only_some_nodes(meshes, want):
    u = noise(3, 48)
    rep = mesh_report(learner(Shift(1/8)), (u, np.roll(u, 6, 1)), meshes)
    assert [str(o) for o in rep.table.index.get_level_values('mesh')] == want
    assert (rep.table.difference == 0).all() and (rep.table.error == 0).all()

def test_kno_computes_one_function_of_smooth_fields():
    "P1: to rounding, from 4 times the band on; rough fields fold down"
    set_seed(0)
    learn = learner(KNO1d(o=8, m=8, r=3), smooth(10, 32)[:, None].repeat(2, 1))
    u = smooth(6, 256)*.2
    rough = noise(6, 256)
    rep = mesh_report(learn, {'smooth': (u, u), 'rough': (rough, rough)}, [256, 128, 64])
    t = rep.table.difference
    assert (t['smooth'] < 1e-5).all() and (t['rough'][1:] > 1e-3).all()
    assert rep.summary['smooth KNO1d spread_all'] < 1e-4 < rep.summary['rough KNO1d spread_all']
    assert rep.spread.shape == (2, 4) and rep.summary['smooth fields'] == 6

def test_planes_and_bound_models():
    u = noise(12, 2, 16, 24)
    dls = field_dls(u, bs=2)
    ls = {'KNO': koopman_learner(dls, KNO2d(1, o=4, m=3, r=2)),
          'ViT': koopman_learner(dls, ViTKNO((16, 24), patch=4, dim=8, depth=1, blocks=2))}
    x = noise(4, 32, 48)
    rep = mesh_report(ls, (x, x))
    t = rep.table.said
    assert list(rep.table.index.get_level_values('mesh').unique()) == ['32x48', '16x24', '8x12', '4x6']
    assert t.loc['fields', '32x48', 'ViT'] == 'refused' and t.loc['fields', '8x12', 'KNO'] == ''
    row = rep.table.loc['fields', '16x24', 'ViT']
    assert row.said == '' and row.difference == 0 and row.training      # to the finest that it takes
    assert mesh_report(ls['KNO'], (x, x), [16, (8, 12)]).table.shape == (2, 5)
    rep.plot()

def test_ends_of_sides_that_do_not_wrap_stay():
    learn = learner(Shift(0), noise(8, 2, 17), periodic=False)
    rep = mesh_report(learn, (noise(3, 33), noise(3, 33)))
    assert list(rep.table.index.get_level_values('mesh')) == [33, 17, 9, 5, 3]
    assert rep.table.training.tolist() == [False, True, False, False, False]
    assert rep.summary.training_error == pytest.approx(0, abs=1e-6)

def test_weights_and_times():
    lat = np.linspace(-67.5, 67.5, 4)
    learn = learner(Shift(0, 2.), noise(8, 2, 4, 8), latitude=lat, axes='n t y x')
    u,y = noise(3, 4, 8),noise(6, 4, 8)[3:]
    w = np.cos(np.deg2rad(lat))[:, None]
    size = lambda x: np.sqrt((w*x**2).sum((1, 2)))
    want = (size(2*u-y)/size(y)).mean()
    assert mesh_report(learn, (u, y), 4).table.error.item() == pytest.approx(want, rel=1e-5)
    assert rollout_report(learn, u, y).table['error', 'Shift'][1] == pytest.approx(want, rel=1e-5)
    fine = mesh_report(learn, (np.tile(u, (1, 2, 1)), np.tile(y, (1, 2, 1))))
    assert any('All places count alike' in o for o in fine.notes)
    given = mesh_report(learn, (u, y), 4, weights=np.ones((4, 1))).table.error.item()
    assert given == pytest.approx((np.linalg.norm((2*u-y).reshape(3, -1), axis=1)
                                   / np.linalg.norm(y.reshape(3, -1), axis=1)).mean(), rel=1e-5)
    class Timed(nn.Module):
        def __init__(self):
            super().__init__()
            self.none = nn.Parameter(torch.zeros(()))
        def forward(self, u, t): return u*t.view(-1, 1, 1)
    x,t = noise(8, 16),np.arange(1, 9)/4
    dls = field_dls(x, x*t[:, None].astype(np.float32), times=t, bs=2)
    timed = koopman_learner(dls, Timed(), scale=False)
    assert mesh_report(timed, (x, t, x*t[:, None])).table.error.max() < 1e-6
    y = x[:, None]*(2.**np.arange(1, 4))[:, None]
    assert rollout_report(timed, x, y, t=2).table['error', 'Timed'].max() < 1e-6
    dls = field_dls(noise(8, 2, 16), bs=2)      # beside one that takes no time
    both = rollout_report({'a': koopman_learner(dls, Shift(0., 2.), scale=False), 'b': timed}, x, y, t=2)
    assert both.table['error'][['a', 'b']].max(axis=None) < 1e-6
    with pytest.raises(ValueError, match='time of a step, which Timed takes, got none. Give t='):
        rollout_report(timed, x, y)
    with pytest.raises(ValueError, match=r'one for each of the 8 fields, got shape \(3,\)'):
        rollout_report(timed, x, y, t=t[:3])
    with pytest.raises(ValueError, match='Give \\(u, t, y\\)'): mesh_report(timed, (x, x))
    with pytest.raises(ValueError, match='no time, as Shift was trained without'): mesh_report(learn, (u, 1., u))

def test_a_network_that_gives_all_frames_at_once():
    "A plain Learner, without Rollout"
    class Three(nn.Module):
        def __init__(self): super().__init__(); self.w = nn.Parameter(torch.ones(()))
        def forward(self, u): return self.w*torch.cat([u, 2*u, 3*u], 1)
    dls = field_dls(noise(8, 4, 16), t_in=1, t_out=3, bs=2)
    plain = Learner(dls, Three(), RelL2Loss())
    u = noise(4, 16)
    assert mesh_report(plain, (u, np.stack([u, 2*u, 3*u], 1))).table.error.max() == 0
    with pytest.raises(ValueError, match='of the 3 channels that Three gives, got 2'):
        mesh_report(plain, (u, noise(4, 2, 16)))
    with pytest.raises(ValueError, match='next frame, got a learner of 3 frames at once'):
        rollout_report(plain, u, np.stack([u, u], 1))

# --- roll-outs -------------------------------------------------------------------------------------------------------
def test_a_travelling_wave():
    "An exact operator has no error; persistence of sin has 2 |sin(pi c i)| after i steps"
    x = np.arange(32)/32
    wave = np.sin(2*np.pi*x).astype(np.float32)[None].repeat(3, 0)
    y = moved(wave, 11)
    rep = rollout_report(learner(Shift(1/32)), y[:, :1], y[:, 1:])
    assert (rep.table['error', 'Shift'] == 0).all() and (rep.table['se', 'Shift'] == 0).all()
    want = 2*np.abs(np.sin(np.pi*np.arange(1, 11)/32))
    assert np.allclose(rep.table['error', 'persistence'], want, atol=1e-5)
    assert np.allclose(rep.table['energy', 'true'], .5, atol=1e-6)
    assert np.allclose(rep.table['energy', 'Shift'], .5, atol=1e-6)
    assert rep.spectrum['true'][1] == pytest.approx(.5, abs=1e-6) and rep.spectrum['Shift'].sum() == pytest.approx(.5)
    assert rep.summary['Shift diverges at'] is None and not any('diverge' in o for o in rep.notes)
    rep.plot()

@pytest.mark.parametrize('c,t_in', [(1, 1), (1, 3), (2, 2)])
def test_a_roll_out_is_single_calls(c, t_in):
    "P6, in batches, with the errors and energies of a loop"
    set_seed(0)
    shape = (16,) if c == 1 else (c, 16)
    learn = learner(KNO1d(t_in*c, o=4, m=3, r=2), noise(8, t_in+1, *shape), t_in=t_in)
    u,y = noise(5, t_in, *shape),noise(10, 70, *shape)[5:]
    rep = rollout_report(learn, u, y, bs=2, keep=5)
    w = torch.as_tensor(u).reshape(5, t_in*c, 16)
    model = learn.model.eval()
    with torch.no_grad():
        for s in range(70):
            new = model(w)[0][:, -c:]
            w = torch.cat([w[:, c:], new], 1)
            assert torch.allclose(rep.frames['KNO1d'][:, s], new, atol=1e-5)
            if s not in (0, 1, 64, 69): continue
            p,true = new.double().numpy(),y[:, s].reshape(5, c, 16).astype(float)
            errs = [np.linalg.norm(p[i]-true[i])/np.linalg.norm(true[i]) for i in range(5)]
            assert rep.table['error', 'KNO1d'][s+1] == pytest.approx(np.mean(errs), rel=1e-4)
            assert rep.table['se', 'KNO1d'][s+1] == pytest.approx(np.std(errs, ddof=1)/5**.5, rel=1e-3)
            assert rep.table['energy', 'KNO1d'][s+1] == pytest.approx((p**2).mean(), rel=1e-4)
            still = u[:, -1].reshape(5, c, 16)
            errs = [np.linalg.norm(still[i]-true[i])/np.linalg.norm(true[i]) for i in range(5)]
            assert rep.table['error', 'persistence'][s+1] == pytest.approx(np.mean(errs), rel=1e-5)
    assert torch.equal(rep.frames['true'].flatten(), torch.as_tensor(y).flatten())
    assert rep.spectrum['KNO1d'].sum() == pytest.approx(rep.table['energy', 'KNO1d'][70]*c, rel=1e-4)     # Parseval
    whole = rollout_report(learn, torch.as_tensor(u), torch.as_tensor(y))
    pd.testing.assert_frame_equal(whole.table, rep.table, rtol=1e-4)

def test_others_stand_beside():
    u = noise(4, 16)
    y = moved(u, 5)[:, 1:]
    others = {'frames': y, 'function': lambda o: np.stack([o]*4, 1), 'long': moved(u, 7)[:, 1:]}
    rep = rollout_report({'a': learner(Shift()), 'b': learner(Shift(2/16))}, u, y, others=others, steps=6)
    t = rep.table
    assert list(t['error']) == rep.names == ['a', 'b', 'frames', 'function', 'long', 'persistence']
    assert (t['error', 'a'][:4] == 0).all() and (t['error', 'frames'][:4] == 0).all()
    assert (t['error', 'b'][:4] > 0).all()
    assert np.allclose(t['error', 'function'][:4], t['error', 'persistence'][:4])
    assert t['error'][4:].isna().all(axis=None)             # energy only
    e = t['energy'].loc[5:]
    assert e[['true', 'frames']].isna().all(axis=None) and np.allclose(e[['a', 'b', 'long']], t['energy', 'true'][1])
    assert any('truth ends at step 4' in o for o in rep.notes)
    assert len(rollout_report(learner(Shift()), u, y, steps=2).table) == 2
    rep.plot()

class Breaks(Shift):
    "Gives NaN for fields whose first node is as large as `at`, from its `after`-th call on"
    def __init__(self, after, bad): super().__init__(0.); self.calls,self.after,self.bad = 0,after,bad
    def forward(self, u):
        self.calls += 1
        p = super().forward(u)
        return torch.where((u[:, :, :1] > 1.5) & (self.calls > self.after), self.bad, p)

@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_what_ends_as_nan_is_said(bad):
    u = noise(6, 16)*.1
    u[4, 0] = 2.
    y = u[:, None].repeat(8, 1)
    # koopman_learner calls it once, the report's door once
    rep = rollout_report({'net': learner(Breaks(5, bad))}, u, y)
    t = rep.table
    assert (t['error', 'net'][:3] == 0).all() and np.isinf(t['error', 'net'][3:]).all()
    assert t['se', 'net'][3:].isna().all()
    assert np.isinf(t['energy', 'net'][3:]).all() and t['diverged', 'net'].tolist() == [0]*3 + [1]*5
    note, = [o for o in rep.notes if 'diverges' in o]
    assert note.startswith('net diverges at step 4: field 4, NaN or infinity; 1 of 6 fields by step 8')
    assert rep.diverged['net'].tolist()[4] == 4 and rep.diverged['net'].notna().sum() == 1
    assert any('spectrum of net is of the 5 of 6 fields' in o for o in rep.notes)
    assert rep.summary['net diverges at'] == 4 and rep.summary['net diverged'] == 1
    rep.plot()
    rollout_report({'net': learner(Breaks(5, bad))}, u, y, keep=6).show_field(4)

def test_what_grows_is_said():
    "Twice as large at every step: 4**i of the energy, over 10 times at the second, over 100 at the fourth"
    u = noise(4, 16)
    y = u[:, None].repeat(3, 1)
    learn = learner(Shift(0., 2.))
    rep = rollout_report(learn, u, y, steps=6)
    assert any(o.startswith('Shift diverges at step 2: field 0, over 10 times the largest energy') for o in rep.notes)
    assert np.allclose(rep.table['energy', 'Shift']/rep.table['energy', 'true'][1], 4.**np.arange(1, 7), rtol=1e-5)
    assert rollout_report(learn, u, y, steps=6, blowup=100).summary['Shift diverges at'] == 4     # beyond the truth
    assert rollout_report(learn, u, y, steps=3, blowup=100).summary['Shift diverges at'] is None
    # against what the truth has had: one that only fails to fade does not diverge
    faded = u[:, None]*(.1**np.arange(1, 5)[:, None])
    still = rollout_report(learner(Shift(0.)), u, faded)
    assert still.summary['Shift diverges at'] is None
    assert any('Shift is no better than persistence from step 1 on' in o for o in still.notes)

def test_arrays_that_are_no_tensors_yet():
    u = noise(4, 16)
    odd = np.asarray(u[:, ::-1], '>f8')[:, ::-1]
    odd.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        rep = rollout_report(learner(Shift()), odd, moved(odd, 3)[:, 1:])
    assert (rep.table['error', 'Shift'] == 0).all()
    with pytest.raises(ValueError, match='finite fields in `u`'): rollout_report(learner(Shift()), 1e39*odd, odd)

def test_nothing_is_finite():
    u = np.abs(noise(3, 16)) + 2
    rep = rollout_report({'net': learner(Breaks(2, float('nan')))}, u, u[:, None].repeat(3, 1))
    assert 'net has no spectrum: none of its fields is finite at step 3.' in rep.notes
    rep.plot()
    rep.show_field(0)

# --- both ------------------------------------------------------------------------------------------------------------
def test_learners_stay_as_they_are():
    learn = learner(KNO1d(o=4, m=3, r=2, bn=True))
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    learn.model.train()
    learn.model.bn.eval()
    before = copy.deepcopy(learn.model.state_dict())
    modes = [m.training for m in learn.model.modules()]
    dls,cbs,values = learn.dls,list(learn.cbs),copy.deepcopy(learn.recorder.values)
    rng,valid = torch.get_rng_state(),learn.dls.train.rng.getstate()
    u = noise(3, 16)
    mesh_report(learn, (u, u))
    rollout_report(learn, u, u[:, None].repeat(3, 1))
    assert [m.training for m in learn.model.modules()] == modes
    assert all(torch.equal(v, before[k]) for k,v in learn.model.state_dict().items())
    assert learn.dls is dls and list(learn.cbs) == cbs and learn.recorder.values == values
    assert torch.equal(torch.get_rng_state(), rng) and learn.dls.train.rng.getstate() == valid
    assert all(p.grad is None or not p.grad.isnan().any() for p in learn.model.parameters())
    with pytest.raises(ValueError, match='mesh of .fields. that KNO1d takes'):
        mesh_report(learn, (noise(3, 2), noise(3, 2)))
    assert [m.training for m in learn.model.modules()] == modes
    class Odd(Callback):
        def before_batch(self): pass
    learn.add_cb(Odd())
    with pytest.warns(UserWarning, match='Odd has before_batch'): mesh_report(learn, (u, u))

def test_random_streams_go_on():
    class Draws(Shift):
        def forward(self, u): return super().forward(u) + torch.rand(1) + np.random.rand()
    learn = learner(Draws())
    set_seed(1)
    want = torch.rand(1),np.random.rand()
    set_seed(1)
    mesh_report(learn, (U, U))
    rollout_report({'a': learn, 'b': learn}, U, Y)
    assert (torch.rand(1),np.random.rand()) == want

def test_exported_and_double_and_plain_loaders(tmp_path):
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader
    from fastai.learner import load_learner
    learn = learner(Shift())
    learn.path = tmp_path
    learn.export('k.pkl')
    u = noise(3, 16)
    y = moved(u, 3)[:, 1:]
    assert rollout_report(load_learner(tmp_path/'k.pkl'), u, y).table['error', 'Shift'].max() == 0
    learn.model.double()
    assert rollout_report(learn, u, y).table['error', 'Shift'].max() == 0
    items = [(torch.as_tensor(o)[None],)*2 for o in u]
    dls = DataLoaders(DataLoader(items, bs=2, shuffle=True), DataLoader(items, bs=2))
    state = dls.train.rng.getstate(),dls.valid.rng.getstate()
    plain = Learner(dls, Shift(), RelL2Loss())
    rep = mesh_report(plain, (u, y[:, 0]))
    assert rep.summary.training_error == 0 and rollout_report(plain, u, y).table['error', 'Shift'].max() == 0
    assert (dls.train.rng.getstate(),dls.valid.rng.getstate()) == state
    plain.dls = DataLoaders(DataLoader([], bs=2), DataLoader([], bs=2))
    with pytest.raises(ValueError, match='dls that say what its fields are, got empty ones'): mesh_report(plain, (u, u))

def test_reports_are_saved_and_drawn(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        learn = learner(KNO1d(o=4, m=3, r=2))
        u = noise(4, 16)
        rep = mesh_report({'a': learn, 'b': learn}, {'x': (u, u), 'y': (2*u, u)})
        paths = rep.save(tmp_path)
        assert {o.name for o in paths} == {'mesh.csv', 'mesh_summary.csv', 'mesh_spread.csv', 'mesh.png'}
        back = pd.read_csv(tmp_path/'mesh.csv', index_col=[0, 1, 2])
        assert np.allclose(back.error, rep.table.error, equal_nan=True)
        assert back.index.names == ['data', 'mesh', 'learner']
        assert len(rep.formatted()) == len(rep.table) and rep._repr_html_().startswith('<b>Error by mesh')
        mesh_report(learn, (u, u), [16]).save(tmp_path/'one')
        y = noise(8, 40, 16)[4:]
        rep = rollout_report({'a': learn}, u, y, steps=50)
        names = {'rollout.csv', 'rollout_summary.csv', 'rollout_spectrum.csv', 'rollout_diverged.csv', 'rollout.png'}
        assert {o.name for o in rep.save(tmp_path)} == names and all((tmp_path/o).stat().st_size for o in names)
        back = pd.read_csv(tmp_path/'rollout.csv', header=[0, 1], index_col=0)
        assert np.allclose(back['energy', 'a'].astype(float), rep.table['energy', 'a'])
        assert 5 < len(rep.formatted()) < 20 and 40 in rep.formatted().index
        for ax in rep.plot().axes: assert ax.get_title()
        fig = rep.show_field(3)
        assert [ax.get_title() for ax in fig.axes[:3]] == ['truth', 'a', 'error']
        top,mid = (ax.images[0].get_clim() for ax in fig.axes[:2])
        assert top == mid
        single = rollout_report(learn, u[:1], y[:1, :1])
        assert np.isnan(single.table['se', 'KNO1d'][1])
        single.save(tmp_path/'single')
        p = noise(3, 4, 2, 8, 8)
        plane = rollout_report(learner(Shift(c=2), noise(8, 2, 2, 8, 8)), p[:, :1], p[:, 1:])
        plane.show_field(1, 'persistence', var=1, steps=[1, 3])
        plane.show_field(1).savefig(tmp_path/'plane.png')
        assert any('over all 2 variables' in o for o in plane.notes)
    with pytest.raises(ValueError, match='from 0 to 3 .4 are kept., got 4. Keep more'): rep.show_field(4)
    with pytest.raises(ValueError, match="got 'A'. Did you mean 'a'|got 'A'. Known"): rep.show_field(0, 'A')
    with pytest.raises(ValueError, match='`var`'): rep.show_field(0, var=1)
    with pytest.raises(ValueError, match='`steps`'): rep.show_field(0, steps=[51])

def test_bars_while_they_work_and_none_under_no_bar(capsys, monkeypatch):
    "Long work shows how far it is; `learn.no_bar()` of any of the learners silences all of it"
    from fastrobust.systems.koopman.reports import banderrors
    from fastrobust.systems.koopman.reports.bands import conformal_bands
    from fastrobust.systems.koopman.reports.spectrumreport import spectrum_report
    from fastrobust.systems.koopman.reports.stress import field_stress_report
    u,y = noise(80, 16)[40:],noise(80, 3, 16)[40:]
    one,two = learner(Shift()),learner(KNO1d(o=3, m=4, r=2))
    both = {'one': one, 'two': two}
    monkeypatch.setattr(banderrors, 'ROOM', 10*3*16)
    work = dict(mesh=lambda: mesh_report(both, (u, y[:, 0])), rollout=lambda: rollout_report(both, u, y),
                stress=lambda: field_stress_report(both, u, y), spectrum=lambda: spectrum_report(both).plot(),
                bands=lambda: conformal_bands(one, (u, y), .5).report(u, y).plot())
    frames = learner(KNO1d(2, o=3, m=4, r=2), noise(8, 4, 16), t_in=2)
    work['frames'] = lambda: spectrum_report({'one': frames, 'two': one})
    of = dict(bands=[one], frames=[frames])     # whose bars would be shown
    for name,f in work.items():
        capsys.readouterr()
        f()
        said = capsys.readouterr().out
        assert ('%' in said) == (name != 'spectrum'), name      # which is done at once
        for learn in of.get(name, (one, two)):
            with learn.no_bar(): f()
            assert capsys.readouterr() == ('', ''), name

def test_what_pictures_say_can_be_read():
    "Errors as plain numbers; of planes frames with a truth first; a flat spectrum's numbers apart"
    u = noise(80, 16)[40:]
    fig = mesh_report(learner(Shift(0., .9)), (u, u)).plot()
    fig.canvas.draw()
    ax = fig.axes[0]
    said = [o.get_text() for o in (*ax.get_yticklabels(), *ax.get_yticklabels(minor=True)) if o.get_text()]
    assert said and all(float(o) > 0 for o in said)
    far = mesh_report(learner(Shift(0., 1-1e-5)), (u, u)).plot()
    far.canvas.draw()
    assert any('10^' in o.get_text() for o in far.axes[0].get_yticklabels())
    p = noise(3, 4, 8, 8)
    rep = rollout_report(learner(Shift(), noise(8, 2, 8, 8), axes='n t y x'), p[:, 0], p[:, 1:], steps=9)
    assert [ax.get_title() for ax in rep.show_field(0).axes[:5]] == [f'step {o}' for o in (1, 2, 3, 6, 9)]
    whole = rollout_report(learner(Shift(), noise(8, 2, 8, 8), axes='n t y x'), p[:, 0], p[:, 1:])
    assert [ax.get_title() for ax in whole.show_field(0).axes[:3]] == ['step 1', 'step 2', 'step 3']

# --- refusals --------------------------------------------------------------------------------------------------------
U,Y = noise(4, 16),noise(4, 3, 16)
NAN = U.copy()
NAN[2, 3] = np.nan
ZERO = Y.copy()
ZERO[1, 2] = 0

@pytest.mark.parametrize('u,y,err,says', [
    (U[:0], Y[:0], ValueError, 'at least one field in `u`, got none'),
    (noise(4, 2, 16), Y, ValueError, 't_in=1 frames of 1 variables, as Shift was trained, got 2'),
    (noise(16), Y, ValueError, r'shape \(n,t_in,\*grid\) with fields on one side'),
    (NAN, Y, ValueError, r'finite fields in `u`, got NaN or infinity in 1 of 4 items, first \[2\]'),
    (U, NAN[:, None], ValueError, 'finite fields in `y`'),
    (U, Y[:3], ValueError, r'with the 4 fields of `u` on its grid \(16,\)'),
    (U, Y[..., :8], ValueError, r'`y` of shape \(n,steps,\*grid\)'),
    (U, ZERO, ValueError, 'not 0 everywhere, got 1 that are, first frame 3 of field 1'),
    (U.tolist(), Y, TypeError, '`?u`? as an array or a tensor, got a list'),
    (U+1j, Y, TypeError, 'real fields in `?u`?, got complex'),
    (U, Y.astype(int), TypeError, 'fields of floats in `?y`?')],
    ids=['none', 'frames', 'axes', 'nan', 'nan_y', 'number', 'grid', 'zero', 'list', 'complex', 'ints'])
def test_fields_that_do_not_fit_are_refused(u, y, err, says):
    learn = learner(Shift())
    with pytest.raises(err, match=says): rollout_report(learn, u, y)
    if 'first frame 3' in says: return      # one zero frame of several has an error all the same
    with pytest.raises(err, match=says): mesh_report(learn, (u, y))

@pytest.mark.parametrize('learn,err,says', [
    (None, TypeError, 'got None'),
    (Shift(), TypeError, 'got a Shift. Give what koopman_learner made'),
    ({}, TypeError, 'got an empty dict'),
    ({'a': 1}, TypeError, 'got 1')], ids=['none', 'network', 'empty', 'number'])
def test_what_is_no_learner_is_refused(learn, err, says):
    says = ' expected a Learner, or a dict from name to Learner, '+says
    with pytest.raises(err, match='mesh_report'+says): mesh_report(learn, (U, U))
    with pytest.raises(err, match='rollout_report'+says): rollout_report(learn, U, Y)

def test_learners_of_other_fields_are_refused():
    ls = {'a': learner(Shift()), 'b': learner(Shift(), t_in=2)}
    with pytest.raises(ValueError, match="'a' takes 1 frames of 1 variables on 1 sides, 'b' takes 2 frames"):
        mesh_report(ls, (U, U))
    class Flat(Shift):
        def forward(self, u): return u.flatten(1) if u.shape[-1] != 16 else super().forward(u)
    learn = learner(Flat())
    t = mesh_report(learn, (noise(2, 32), noise(2, 32)), [32, 16]).table
    assert t.said.tolist() == ['refused', '']
    with pytest.raises(ValueError, match=r'of Flat fields of at least 1 channels on the grid \(32,\), got \(1, 32\)'):
        rollout_report(learn, noise(2, 32), noise(2, 1, 32))
    with pytest.raises(ValueError, match='mesh of .fields. that Flat takes, got 8, 4, 2. It says'):
        mesh_report(learn, (noise(2, 8), noise(2, 8)))

@pytest.mark.parametrize('data,kw,err,says', [
    (U, {}, TypeError, r'`data` as \(u, y\)'),
    ({}, {}, ValueError, 'at least one data set, got an empty dict'),
    ((U, U), dict(meshes=[16, 12]), ValueError,
     r"divide the finest one of 'fields', \(16,\), got 12. For example 16, 8, 4, 2"),
    ((U, U), dict(meshes=[0]), ValueError, 'got 0'),
    ((U, U), dict(meshes=[(8, 8)]), ValueError, r'got \(8, 8\)'),
    ((U, U), dict(meshes=['8']), ValueError, "got '8'"),
    ((U, U), dict(meshes=[]), ValueError, 'at least one size in `meshes`, got none'),
    ((U, U), dict(bs=0), ValueError, '`bs`'),
    ((U, 0*U), {}, ValueError, 'not 0 everywhere'),
    ((U, U), dict(weights=np.ones(5)), ValueError, r'`weights` from 0 on.*grid \(16,\), got shape \(5,\)')],
    ids=['array', 'empty', '12', '0', 'tuple', 'text', 'none', 'bs', 'zero', 'weights'])
def test_meshes_that_do_not_fit_are_refused(data, kw, err, says):
    with pytest.raises(err, match=says): mesh_report(learner(Shift()), data, **kw)

@pytest.mark.parametrize('kw,err,says', [
    (dict(others=[Y]), TypeError, '`others` as a dict'),
    (dict(others={'a': Y[:, :2]}), ValueError, r"others\['a'\] of 3 steps, as y has, got 2"),
    (dict(others={'a': Y[:3]}), ValueError, r"`others\['a'\]` of shape"),
    (dict(others={'a': lambda u: None}), TypeError, r"others\['a'\] as an array"),
    (dict(others={'Shift': Y}), ValueError, "'Shift' twice"),
    (dict(others={'true': Y}), ValueError, "'true' twice"),
    (dict(steps=0), ValueError, '`steps`'),
    (dict(steps=2.5), ValueError, '`steps`'),
    (dict(keep=0), ValueError, '`keep`'),
    (dict(blowup=1), ValueError, '`blowup` must be over 1'),
    (dict(blowup='x'), TypeError, '`blowup`'),
    (dict(t=.1), ValueError, 'no time, as Shift was trained without')],
    ids=['list', 'short', 'few', 'nothing', 'name', 'true', 'zero', 'half', 'keep', 'one', 'word', 'time'])
def test_what_else_does_not_fit_is_refused(kw, err, says):
    with pytest.raises(err, match=says): rollout_report(learner(Shift()), U, Y, **kw)

def test_learners_are_no_others():
    learn = learner(Shift())
    with pytest.raises(TypeError, match='got a Learner. Put it into `learn`'):
        rollout_report(learn, U, Y, others={'a': learn})

def test_a_semigroup_rolls_out_by_time():
    set_seed(0)
    x = noise(8, 4, 16)
    learn = learner(SemigroupKNO(1, 1, o=4, m=4), x, times=.5)
    rep = rollout_report(learn, x[:, 0], x[:, 1:], t=.5)
    with torch.no_grad(): want = learn.model.eval()(torch.as_tensor(x[:4, :1]), torch.full((4,), .5))[0]
    assert torch.allclose(rep.frames['SemigroupKNO'][:, 0], want, atol=1e-6)

def test_no_better_than_persistence_from_where_it_never_is_again():
    "An operator that is worse at step 1 alone, and one that is worse from step 3 on"
    u = np.arange(1, 4, dtype=np.float32)[:, None, None]*np.cos(2*np.pi*np.arange(16)/16).astype(np.float32)
    y = np.concatenate([u*(1+.1*i) for i in range(1, 6)], 1)
    off = np.array([.3, .001, .001, .001, .001])[:, None]
    fades = np.array([.001, .001, .4, .5, .6])[:, None]
    rep = rollout_report(learner(Shift()), u, y, others=dict(first=y+off*u, fades=y+fades*u))
    assert rep.summary['first no better than persistence from'] is None
    assert rep.summary['fades no better than persistence from'] == 3
    assert not any('first is no better' in o for o in rep.notes)
