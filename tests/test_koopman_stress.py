"Operators under stress: disturbances against loops, and the same ones for all"
import copy
import numpy as np
import pytest
import torch
from scipy import signal
from torch import nn
from fastai.torch_core import get_random_states
from fastrobust.systems.koopman.equations.burgers import burgers_data
from fastrobust.systems.koopman.reports.disturbing import coarsened, dropped_out, noisy
from fastrobust.systems.koopman.fieldmetrics import l2_of_each
from fastrobust.systems.koopman.data.fields import field_dls
from fastrobust.systems.koopman.learner import koopman_learner
from fastrobust.systems.koopman.reports.stress import field_stress_report

def waves(*shape, seed=0): return torch.as_tensor(np.random.default_rng(seed).normal(size=shape))

# --- noise -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('p', [2, np.inf])
def test_noise_is_in_its_ball(p):
    "of each variable for itself, over all its frames"
    u = waves(40, 3, 2, 16)*torch.tensor([1., 100.])[:, None]
    size = lambda x: torch.linalg.vector_norm(x.transpose(1, 2).flatten(2), p, dim=2)
    share = size(noisy(u, p, .3, 0)-u)/(.3*size(u))
    assert share.shape == (40, 2) and (share <= 1+1e-9).all() and share.max() > .97
    assert share.min() > .5 and share.std() > 1e-4      # uniform in the ball: near its sphere, but not on it
    d = [noisy(u, p, eps, 0)-u for eps in (.1, .4)]
    assert torch.allclose(4*d[0], d[1]) and torch.equal(d[0], noisy(u, p, .1, 0)-u)
    assert not torch.allclose(d[0], noisy(u, p, .1, 1)-u)

@pytest.mark.parametrize('p', [2, np.inf])
def test_noise_is_uniform_in_the_ball(p):
    "Radii: P(r <= x) = x^d; of the largest value too"
    u = torch.ones(4000, 1, 1, 2, dtype=torch.float64)
    size = lambda x: torch.linalg.vector_norm(x.flatten(1), p, dim=1)
    r = size(noisy(u, p, 1., 0)-u)/size(u)
    for x in (.3, .6, .9): assert (r <= x).double().mean() == pytest.approx(x**2, abs=.03)

# --- sensors that fail -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize('wraps', [True, False])
def test_a_line_is_filled_linearly(wraps):
    u = waves(6, 2, 2, 20)
    new = dropped_out(u, .6, 0, (wraps,))
    for a,b in zip(u, new):
        gone = (a != b).any((0, 1)).numpy()
        assert gone.sum() == 12
        kept = np.flatnonzero(~gone)
        for i in np.ndindex(2, 2):      # the same sensors in all frames and variables
            want = np.interp(np.arange(20), kept, a[i][kept], period=20 if wraps else None)
            assert np.allclose(b[i], want)

def test_more_fail_with_a_larger_share():
    u = waves(5, 1, 1, 30)
    few,many = [(dropped_out(u, o, 3, (True,)) != u) for o in (.2, .5)]
    assert (few <= many).all() and few.sum() == 30 and many.sum() == 75
    assert not torch.equal(few[0], few[1]) and (dropped_out(u, .5, 4, (True,)) != u).sum() == 75
    assert (dropped_out(u, .001, 0, (True,)) != u).sum() == 5       # one of each at least
    assert torch.allclose(dropped_out(u, .999, 0, (True,)).std(3), torch.zeros(1, dtype=torch.float64))

@pytest.mark.parametrize('wraps', [(True, True), (False, True)])
def test_a_plane_is_filled_by_the_nearest(wraps):
    u = waves(3, 2, 1, 6, 8)
    new = dropped_out(u, .5, 0, wraps)
    for a,b in zip(u, new):
        gone = (a != b).any(0)[0].numpy()
        assert gone.sum() == 24
        kept = np.argwhere(~gone)
        for i,j in np.argwhere(gone):
            d = abs(kept-[i, j])/np.array([6, 8])
            d = np.where(wraps, np.minimum(d, 1-d), d)
            far = np.hypot(*d.T)
            near = kept[far < far.min()+1e-9]
            assert any(torch.equal(b[:, 0, i, j], a[:, 0, k, l]) for k,l in near)

# --- sensors far apart -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize('S,k', [(24, 2), (24, 4), (30, 2), (27, 3)])
def test_between_sensors_it_is_fourier_interpolation(S, k):
    u = waves(3, 2, 1, S)
    want = signal.resample(u.numpy()[..., ::k], S, axis=-1)
    assert np.allclose(coarsened(u, k, (True,)), want)
    x = torch.arange(S)/S*2*np.pi
    smooth = (torch.sin(2*x)+torch.cos(x)).double()[None, None, None]
    assert torch.allclose(coarsened(smooth, k, (True,)), smooth, atol=1e-6)

def test_planes_and_sides_with_ends():
    u = waves(2, 1, 1, 9, 8)
    want = signal.resample(u.numpy()[..., ::2, ::2], 8, axis=-1)
    at = np.arange(9)
    want = np.apply_along_axis(lambda v: np.interp(at, at[::2], v), 3, want)
    assert np.allclose(coarsened(u, 2, (False, True)), want)

# --- the report ------------------------------------------------------------------------------------------------------
class Damp(nn.Module):
    "Heat equation, frame by frame"
    def __init__(self, nu=.02):
        super().__init__()
        self.nu = nn.Parameter(torch.tensor(nu))
    def forward(self, u):
        y = torch.fft.rfft(u)
        return torch.fft.irfft(y*torch.exp(-self.nu*torch.arange(y.shape[-1])**2), n=u.shape[-1])

def learner_of(u, y=None, nu=.02, **kw):
    return koopman_learner(field_dls(u, y, device='cpu', bs=4, **kw), Damp(nu), scale=False)

@pytest.fixture(scope='module')
def burgers(): return burgers_data(60, 64, T=.2)
@pytest.fixture(scope='module')
def learners(burgers):
    u,y = (o[:20] for o in burgers)
    return {'one': learner_of(u, y), 'other': learner_of(u, y, .05)}

def test_the_table(learners, burgers):
    u,y = (o[20:] for o in burgers)
    rep = field_stress_report(learners, u, y, seed=3)
    t = rep.table
    kinds = dict.fromkeys(t.index.get_level_values(0))
    assert list(kinds) == ['none', 'L2 noise', 'Linf noise', 'dropped', 'coarser'] and len(t) == 1+4+4+3+2
    U,Y = (torch.as_tensor(o).float()[:, None] for o in (u, y))
    net = learners['one'].model
    def errors(v):
        with torch.no_grad(): return l2_of_each(net(v).double(), Y.double()).numpy()
    plain,lossy = errors(U),errors(noisy(U.double()[:, :, None], 2, .2, 3)[:, :, 0].float())
    row = t.loc[('L2 noise', .2)]
    assert t.one.iloc[0] == pytest.approx(plain.mean(), rel=1e-5) and np.isnan(t['one change'].iloc[0])
    assert row.one == pytest.approx(lossy.mean(), rel=1e-5)
    assert row['one se'] == pytest.approx(lossy.std(ddof=1)/40**.5, rel=1e-4)
    assert row['one change'] == pytest.approx((lossy-plain).mean(), rel=1e-3)
    assert row['one change se'] == pytest.approx((lossy-plain).std(ddof=1)/40**.5, rel=1e-3)
    d = rep.errors['other'][3]-rep.errors['one'][3]
    assert row['other - one'] == pytest.approx(d.mean())
    assert row['other - one se'] == pytest.approx(d.std(ddof=1)/40**.5)
    assert .19 < row['input moved'] <= .2 and t['input moved'].iloc[0] == 0
    assert rep.summary['one L2 noise'] == pytest.approx(t.one.loc['L2 noise'].mean())

def test_all_see_the_same_and_stay_as_they_are(learners, burgers):
    u,y = (o[20:40] for o in burgers)
    same = {'a': learners['one'], 'b': learners['one']}
    states,before = get_random_states(),copy.deepcopy(learners['one'].model.state_dict())
    learners['one'].model.train()
    rep = field_stress_report(same, u, y)
    assert (rep.table['b - a'] == 0).all() and learners['one'].model.training
    after = get_random_states()
    assert torch.equal(states['torch_state'], after['torch_state']) and states['random_state'] == after['random_state']
    assert all((states['numpy_state'][1] == after['numpy_state'][1]))
    assert all(torch.equal(v, before[k]) for k,v in learners['one'].model.state_dict().items())
    again,other = [field_stress_report(learners['one'], u, y, seed=s, dropped=None, coarser=None) for s in (0, 1)]
    assert np.array_equal(again.errors['Damp'][:9], rep.errors['a'][:9])
    assert not np.allclose(other.table.Damp.iloc[1:], again.table.Damp.iloc[1:])
    few = field_stress_report(learners['one'], u, y, noise=.1, dropped=.5, coarser=4)
    assert few.table.index.tolist() == [('none', 0.), ('L2 noise', .1), ('Linf noise', .1), ('dropped', .5),
                                        ('coarser', 4)]
    assert few.table.Damp.iloc[4] == rep.table.loc[('coarser', 4), 'a']

def test_other_fields(learners, burgers):
    "Field by field where the starts are the same, with a standard error of two samples where not"
    u,y = (o[20:40] for o in burgers)
    v,w = burgers_data(25, 64, T=.2, nu=.05, seed=7)
    none = dict(noise=None, dropped=None, coarser=None)
    rep = field_stress_report(learners, u, y, others={'same starts': (u, 1.1*y), 'others': (v, w)}, **none)
    e,(a,b,c) = rep.table,rep.errors['one']
    assert e['one change se'].iloc[1] == pytest.approx((b-a).std(ddof=1)/20**.5)
    assert e['one change se'].iloc[2] == pytest.approx(np.hypot(a.std(ddof=1)/20**.5, c.std(ddof=1)/5))
    assert e['one change'].iloc[2] == pytest.approx(c.mean()-a.mean()) and len(c) == 25
    assert np.isnan(e['input moved'].iloc[1]) and any('other fields' in o for o in rep.notes)

def test_pictures_and_files(learners, burgers, tmp_path):
    u,y = (o[20:30] for o in burgers)
    rep = field_stress_report(learners, u, y, others={'weaker': (u, y)})
    assert [o.name for o in rep.save(tmp_path)] == ['field_stress.csv', 'field_stress_summary.csv', 'field_stress.png']
    titles = [o.get_title() for o in rep.plot().axes if o.get_visible()]
    assert titles == ['L2 noise', 'Linf noise', 'dropped', 'coarser', 'other fields'] and ' ± ' in repr(rep)
    none = field_stress_report(learners, u, y, noise=None, dropped=None, coarser=None)
    assert len(none.table) == 1 and [o.get_title() for o in none.plot().axes] == ['undisturbed']

def test_histories_on_planes():
    "Two frames of two variables, roll-outs of two steps, a side with ends"
    u = np.random.default_rng(0).normal(size=(12, 4, 2, 5, 8)).astype(np.float32)
    learn = learner_of(u[:8], t_in=2, t_out=2, periodic=(False, True))
    rep = field_stress_report(learn, u[8:, :2], u[8:, 2:], coarser=2)
    assert np.isfinite(rep.table[['Damp', 'Damp se']]).all().all() and len(rep.errors['Damp'][0]) == 4

def test_times_are_given():
    class Timed(Damp):
        def forward(self, u, t): return super().forward(u)*t.view(-1, 1, 1)
    u = np.random.default_rng(0).normal(size=(30, 16)).astype(np.float32)
    learn = koopman_learner(field_dls(u[:20], u[:20], times=np.ones(20), scale=([0.], [1.]), device='cpu', bs=4),
                            Timed(), scale=False)
    t = np.linspace(.5, 1, 10)
    rep = field_stress_report(learn, u[20:], u[20:], t=t, others={'half': (u[20:], .5, u[20:])})
    with torch.no_grad(): p = learn.model(torch.as_tensor(u[20:, None]), torch.as_tensor(t).float())
    assert np.allclose(rep.errors['Timed'][0], l2_of_each(p, torch.as_tensor(u[20:, None])), rtol=1e-5)
    with pytest.raises(ValueError, match=r'got none. Give t=\.\.'): field_stress_report(learn, u, u)

def test_what_diverges_is_not_averaged_away(burgers):
    u,y = (o[20:30] for o in burgers)
    class Blown(Damp):
        def forward(self, u): return super().forward(u)/(u.abs().amax(2, keepdim=True) < 3)
    learn = koopman_learner(field_dls(u, y, device='cpu', bs=4), Blown(), scale=False)
    rep = field_stress_report(learn, u, y, noise=50., dropped=None, coarser=None)
    assert np.isfinite(rep.table.Blown.iloc[0]) and np.isinf(rep.table.Blown.iloc[1]) and rep.plot() is not None

@pytest.mark.parametrize('kw,says', [
    (dict(noise=0.), '`noise` must be above 0'), (dict(noise=[.1, -1]), '`noise` must be above 0'),
    (dict(dropped=1.), '`dropped` must be above 0 and below 1'), (dict(dropped='x'), '`dropped` must be a number'),
    (dict(coarser=3), 'divide the nodes of the grid'), (dict(coarser=1), '`coarser` must be a whole number from 2'),
    (dict(coarser=64), 'leave 2'), (dict(seed=-1), '`seed`'), (dict(others=[1]), '`others` as a dict'),
    (dict(others={'a': 3}), "under 'a' of `others`"), (dict(t=.1), 'expected no time')])
def test_what_does_not_go(learners, burgers, kw, says):
    u,y = (o[20:30] for o in burgers)
    with pytest.raises((ValueError, TypeError), match=says): field_stress_report(learners, u, y, **kw)

def test_fields_that_do_not_go(learners, burgers):
    u,y = (o[20:30] for o in burgers)
    with pytest.raises(ValueError, match='with the 10 fields of `u`'): field_stress_report(learners, u, y[:5])
    with pytest.raises(ValueError, match='NaN'): field_stress_report(learners, u*np.nan, y)
    with pytest.raises(ValueError, match='not 0 everywhere'): field_stress_report(learners, u, y*0)
    with pytest.raises(TypeError, match='expected a Learner'): field_stress_report({'a': 3}, u, y)
    with pytest.raises(ValueError, match=r"of `others\['a'\]`"):
        field_stress_report(learners, u, y, others={'a': (u, y[:3])})
