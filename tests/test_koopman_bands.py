"Conformal bands of operators: ranks by hand, the promise over many draws, other meshes, and what is refused"
import copy, pickle
import numpy as np
import pytest
import torch
from torch import nn
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.torch_core import get_random_states
from fastrobust.systems.koopman.reports.bands import conformal_bands
from fastrobust.systems.koopman.reports.framewidths import draws_of, set_apart
from fastrobust.systems.koopman.equations.burgers import burgers_data
from fastrobust.systems.koopman.data.fields import field_dls
from fastrobust.systems.koopman.learner import koopman_learner
from fastrobust.systems.koopman.reports.quantiles import conformal_quantile, coverage_of, rank_of

class Damp(nn.Module):
    "Heat equation in one or two dimensions: a cheap operator for any mesh, frames and variables, a little wrong"
    def __init__(self, nu=.02, n_last=None):
        super().__init__()
        self.nu,self.n_last = nn.Parameter(torch.tensor(nu)),n_last
    def forward(self, u, t=None):
        y = torch.fft.rfft(u)
        k2 = torch.arange(y.shape[-1])**2
        rate = self.nu*k2 if t is None else 5*self.nu*k2*t.view(-1, *[1]*(u.ndim-1))
        y = torch.fft.irfft(y*torch.exp(-rate), n=u.shape[-1])
        return y if self.n_last is None else y[:, -self.n_last:]

def fields(n, S=16, seed=0): return np.random.default_rng(seed).normal(size=(n, S)).astype(np.float32)

def learner_of(data, y=None, net=None, **kw):
    return koopman_learner(field_dls(data, y, device='cpu', **(dict(bs=4) | kw)), net or Damp(), scale=False)

@pytest.fixture(scope='module')
def burgers(): return burgers_data(440, 256, T=.2)

@pytest.fixture(scope='module')
def learn(burgers):
    u,y = (o[:40, ::4] for o in burgers)
    return learner_of(u, y)

# --- the quantile ----------------------------------------------------------------------------------------------------
def test_ranks_by_hand():
    assert [rank_of(n, .9) for n in (9, 10, 19, 20, 99, 100)] == [9, 10, 18, 19, 90, 91]
    assert [rank_of(9, o) for o in (.1, .3, .7, .5)] == [1, 3, 7, 5] and rank_of(8, .9) == 9
    for level in np.arange(1, 100):     # of 99 scores each hundredth is one of them
        assert rank_of(99, level/100) == level
    scores = np.random.default_rng(0).permutation(99)
    assert conformal_quantile(scores, .9) == 89 and conformal_quantile(scores, .001) == 0
    with pytest.raises(ValueError, match=r'at least 9 fields .* level 0.9, got 8. .* up to 0.889'):
        conformal_quantile(scores[:8], .9)
    with pytest.raises(ValueError, match='at least 99 '): conformal_quantile(scores[:98], .99)
    assert conformal_quantile(scores, .99) == 98 and conformal_quantile(scores[:9], .9) == max(scores[:9])

@pytest.mark.parametrize('n,level', [(19, .9), (25, .9), (50, .8), (9, .5)])
def test_the_promise(n, level):
    "Exchangeable scores: over draws coverage is k/(n+1), the level or a little more"
    g = np.random.default_rng(n)
    draws = 8000
    scores = g.lognormal(size=(draws, n+1)) + g.normal(size=(draws, 1))     # exchangeable, not independent
    inside = np.mean([s[-1] <= conformal_quantile(s[:-1], level) for s in scores])
    want = rank_of(n, level)/(n+1)
    assert level-1e-9 <= want < level+1/(n+1) and abs(inside-want) < 4*np.sqrt(want*(1-want)/draws)

def test_intervals():
    c = coverage_of(np.arange(200) < 180)
    assert (c.share, c.inside, c.n) == (.9, 180, 200) and c.low == pytest.approx(.8507, abs=2e-4)
    assert c.high == pytest.approx(.9344, abs=2e-4) and '0.900 [0.851, 0.934]' in repr(c)

# --- scores and bands ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('kind', ['sup', 'l2'])
@pytest.mark.parametrize('scaled', [True, False])
def test_scores_are_a_loop(learn, burgers, kind, scaled):
    u,y = (o[40:100, ::4] for o in burgers)
    b = conformal_bands(learn, (u, y), .8, kind, scaled)
    want = []
    for v,w in zip(u, y):
        k = np.arange(33)
        p = np.fft.irfft(np.fft.rfft(v)*np.exp(-.02*k**2), n=64)
        e = abs(p-w).max() if kind == 'sup' else np.sqrt(np.mean((p-w)**2))
        want.append(e/np.sqrt(np.mean(p**2)) if scaled else e)
    assert np.allclose(b.calibration, np.sort(want), rtol=1e-4)
    assert b.n == 60 and b.q == b.calibration[48] and (b.level, b.kind) == (.8, kind)      # ceil(61*.8) = 49
    assert np.allclose(b.scores(u[:5], y[:5]), want[:5], rtol=1e-4)
    c = b.coverage(u, y)
    assert c.inside == 49 and c.n == 60
    pred,r = b.radius(u)
    assert pred.shape == (60, 1, 64) and r.shape == (60, 1, 1, 1) and (r > 0).all()
    off = (pred[:, 0]-torch.as_tensor(y)).abs()
    e = off.amax(1) if kind == 'sup' else off.square().mean(1).sqrt()
    assert (e <= r.flatten()*(1+1e-6)).sum() == 49
    assert scaled or (r == r[0]).all()

def test_bands_hold_what_coverage_counts(learn, burgers):
    u,y = (o[40:, ::4] for o in burgers)
    b = conformal_bands(learn, (u[:200], y[:200]))
    pred,low,high = b.bands(u[200:])
    inside = ((low[:, 0] <= torch.as_tensor(y[200:])) & (torch.as_tensor(y[200:]) <= high[:, 0])).all(1)
    c = b.coverage(u[200:], y[200:])
    assert int(inside.sum()) == c.inside and torch.allclose((low+high)/2, pred, atol=1e-6)
    assert c.low <= .9 <= c.high, c
    with pytest.raises(ValueError, match="expected kind='sup' for bands"):
        conformal_bands(learn, (u[:200], y[:200]), kind='l2').bands(u)

@pytest.mark.parametrize('kind', ['sup', 'l2'])
def test_the_same_q_on_a_finer_mesh(learn, burgers, kind):
    u,y = (o[40:] for o in burgers)
    b = conformal_bands(learn, (u[:200, ::4], y[:200, ::4]), kind=kind)
    coarse,fine = b.coverage(u[200:, ::4], y[200:, ::4]),b.coverage(u[200:], y[200:])
    assert fine.share >= .85 and abs(fine.share-coarse.share) < .03

def test_a_width_for_each_variable():
    "One a thousand times larger than the other"
    g = np.random.default_rng(0)
    u = g.normal(size=(60, 3, 2, 16)).astype(np.float32)*np.array([1., 1000.], np.float32)[:, None]
    learn = learner_of(u[:20], t_in=2)
    b = conformal_bands(learn, (u[20:, :2], u[20:, 2:]))
    _,r = b.radius(u[20:, :2])
    assert r.shape == (40, 1, 2, 1) and 300 < r[:, 0, 1].mean()/r[:, 0, 0].mean() < 3000
    pred,low,high = b.bands(u[20:, :2])
    assert pred.shape == low.shape == (40, 2, 16)

def test_roll_outs_and_times():
    u = fields(40*4).reshape(40, 4, 16)
    learn = learner_of(u[:20], t_out=3)
    b = conformal_bands(learn, (u[20:, :1], u[20:, 1:]), .5)
    pred,low,high = b.bands(u[20:, 0])
    one = learn.model(torch.as_tensor(u[20:, :1]))
    two = learn.model(one)
    assert pred.shape == (20, 3, 16) and torch.allclose(pred[:, :2], torch.cat([one, two], 1), atol=1e-6)
    with pytest.raises(ValueError, match='targets of 3 frames, as calibrated on, got 2'):
        b.coverage(u[20:, :1], u[20:, 1:3])
    timed = learner_of(u[:20, 0], u[:20, 1], times=np.linspace(.1, 1, 20))
    t = torch.linspace(.1, 1, 20)
    b = conformal_bands(timed, (u[20:, 0], t, u[20:, 1]))
    assert torch.allclose(b.radius(u[20:, 0], t)[0], timed.model(torch.as_tensor(u[20:, :1]), t), atol=1e-6)
    assert b.coverage(u[20:, 0], u[20:, 1], t).n == 20 and conformal_bands(timed, timed.dls.valid, .5).n == 4
    with pytest.raises(ValueError, match='expected the time of a step'): b.bands(u[20:, 0])

def test_loaders_and_arrays_are_alike(learn, burgers):
    u,y = (o[40:100, ::4] for o in burgers)
    want = conformal_bands(learn, (u, y)).calibration
    dl = learn.dls.test_dl(list(zip(u.astype(np.float32), y.astype(np.float32))), with_labels=True)
    assert np.allclose(conformal_bands(learn, dl).calibration, want, rtol=1e-5)
    shuffled = dl.new(shuffle=True, drop_last=True, bs=7)
    assert np.allclose(conformal_bands(learn, shuffled).calibration, want, rtol=1e-5)

def test_nothing_is_left_behind(learn, burgers):
    u,y = (o[40:100, ::4] for o in burgers)
    before,states = copy.deepcopy(learn.model.state_dict()),get_random_states()
    learn.model.train()
    b = conformal_bands(learn, learn.dls.valid, .5)
    b.report(u, y)
    after = get_random_states()
    assert learn.model.training and torch.equal(states['torch_state'], after['torch_state'])
    assert states['random_state'] == after['random_state'] and torch.is_grad_enabled()
    assert all(torch.equal(v, before[k]) for k,v in learn.model.state_dict().items())

# --- the report ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('kind', ['sup', 'l2'])
def test_the_report(learn, burgers, kind, tmp_path):
    u,y = (o[40:, ::4] for o in burgers)
    b = conformal_bands(learn, (u[:15], y[:15]), .8, kind)
    rep = b.report(u[15:], y[15:])
    assert rep.table.index.tolist() == [.5, .6, .7, .8, .9]     # .95 needs 19 fields
    assert rep.table.coverage.is_monotonic_increasing and rep.table.q.is_monotonic_increasing
    at = rep.table.loc[.8]
    c = b.coverage(u[15:], y[15:])
    assert (at.coverage, at.low, at.high) == c[:3] and rep.summary.share == c.share
    assert rep.summary.calibration == 15 and rep.summary.inside == c.inside
    if kind == 'sup':
        pred,low,high = b.bands(u[15:])
        inside = ((low[:, 0] <= torch.as_tensor(y[15:])) & (torch.as_tensor(y[15:]) <= high[:, 0])).double().mean()
        assert at['nodes inside'] == pytest.approx(inside.item(), abs=1e-3) and inside > at.coverage
    assert [o.name for o in rep.save(tmp_path)] == ['bands.csv', 'bands_summary.csv', 'bands.png']
    assert 'Wilson' in repr(rep) and len(rep.plot().axes) == 3

def test_the_report_of_planes():
    u = fields(30, 48).reshape(30, 6, 8)
    learn = learner_of(u[:10], u[:10])
    rep = conformal_bands(learn, (u[10:20], u[10:20])).report(u[20:], u[20:], levels=(.5,))
    assert rep.table.index.tolist() == [.5, .9] and len(rep.plot().axes) == 6 and rep.example[0].shape == (6, 8)

# --- what is refused -------------------------------------------------------------------------------------------------
def test_what_was_trained_on_is_refused(learn, burgers, tmp_path):
    u,y = (o[:, ::4] for o in burgers)
    says = 'not trained on, got'
    with pytest.raises(ValueError, match=f'{says} the training set'): conformal_bands(learn, learn.dls.train)
    with pytest.raises(ValueError, match=f'{says} the training set'): conformal_bands(learn, learn.dls.train.new(bs=3))
    with pytest.raises(ValueError, match=rf'{says} \d+ of 60 that are'): conformal_bands(learn, (u[:60], y[:60]))
    assert conformal_bands(learn, learn.dls.valid, .5).notes == []
    trajectories = fields(40*6).reshape(10, 24, 16)
    path = tmp_path/'u.npy'
    np.save(path, trajectories)
    lazy = learner_of(path, t_out=1, every=2, lazy=True)
    assert len(conformal_bands(lazy, lazy.dls.valid, .6).notes) == 1       # 24 windows of 2 histories
    again = field_dls(path, every=2, lazy=True, device='cpu', bs=4, valid=[0])      # the file anew
    with pytest.raises(ValueError, match='frames of training'):
        conformal_bands(lazy, again.train)
    arrays = conformal_bands(lazy, (fields(20, seed=1), fields(20, seed=2)))
    assert 'cannot be told' in arrays.notes[0]

def test_one_history_is_no_promise():
    u = fields(60)[None]
    learn = learner_of(u, valid=.3, every=1)
    assert any('not exchangeable' in o for o in conformal_bands(learn, learn.dls.valid, .5).notes)
    with pytest.raises(ValueError, match='at least 9 histories .* got 1 .*count as one'):
        conformal_bands(learn, learn.dls.valid)

# --- windows of histories --------------------------------------------------------------------------------------------
def histories(n, frames=6, S=16, seed=0):
    "Each with an error of its own, the same in all its windows but for a little"
    g = np.random.default_rng(seed)
    off = g.lognormal(size=(n, 1, 1))*g.normal(size=(n, 1, S))
    return (off*np.arange(frames)[:, None] + .1*g.normal(size=(n, frames, S))).astype(np.float32)

def windows(u): return u[:, :-1].reshape(-1, u.shape[-1]),u[:, 1:].reshape(-1, u.shape[-1])

def test_a_history_counts_once():
    "by the largest error of its windows; of a loader, and of arrays whose histories are given"
    u = histories(30)
    learn = learner_of(u, valid=list(range(10, 30)), every=1)
    b = conformal_bands(learn, learn.dls.valid, scaled=False)
    x,y = windows(u[10:])
    each = b.scores(x, y)
    assert len(each) == 100 and np.allclose(b.calibration, np.sort(each.reshape(20, 5).max(1)), rtol=1e-5)
    assert b.n == 20 and '20 histories' in repr(b)
    assert any('100 windows of 20 histories' in o for o in b.notes)
    of = np.repeat([f'run {i}' for i in range(20)], 5)
    named = conformal_bands(learn, (x, y), scaled=False, histories=of)
    assert np.allclose(named.calibration, b.calibration, rtol=1e-5)
    c = b.coverage(x, y, histories=of)
    assert (c.inside, c.n) == (19, 20) and '19 of 20 histories' in repr(c) and b.coverage(x, y).n == 100
    rep = b.report(x, y, levels=(.5,), histories=of)
    assert rep.summary.n == 20 and rep.table.coverage[.9] == .95 and len(rep.scores) == 20
    assert rep.plot() is not None and not any('one by one' in o for o in rep.notes)
    alone = b.report(x, y, levels=(.5,))
    assert alone.summary.n == 100 and any('New fields count one by one' in o for o in alone.notes)
    told = conformal_bands(learn, (x, y)).notes
    assert any('of one history cannot be told' in o for o in told)
    with pytest.raises(ValueError, match=r'`histories` as one number or name for each of the 100'):
        b.coverage(x, y, histories=of[:7])
    with pytest.raises(ValueError, match='at least 9 histories'):
        conformal_bands(learn, (x[:40], y[:40]), histories=of[:40])

def test_the_promise_for_histories():
    "Over draws of 9 histories of 20 windows: a new history is inside with all its windows 9 times in 10"
    learn = learner_of(histories(4, 21), every=1, valid=[0])
    inside,single = [],[]
    for i in range(60):
        u = histories(9+40, 21, seed=100+i)
        (x,y),(new,to) = windows(u[:9]),windows(u[9:])
        b = conformal_bands(learn, (x, y), scaled=False, histories=np.repeat(np.arange(9), 20))
        inside.append(b.coverage(new, to, histories=np.repeat(np.arange(40), 20)).share)
        one_by_one = conformal_bands(learn, (x, y), scaled=False)
        single.append(one_by_one.coverage(new, to, histories=np.repeat(np.arange(40), 20)).share)
    assert abs(np.mean(inside)-.9) < 4*np.std(inside)/60**.5
    assert np.mean(single) < np.mean(inside)-.05        # windows that pass for fields

# --- widths by frame -------------------------------------------------------------------------------------------------
def drifting(n, steps=6, S=8, seed=0):
    "Starts, and what comes of them: errors that grow with each frame, of fields that are harder and easier"
    g = np.random.default_rng(seed)
    u = g.normal(size=(n, 1, S))
    hard = g.lognormal(sigma=.5, size=(n, 1, 1))
    off = np.cumsum(g.normal(size=(n, steps, S)), 1)*np.arange(1, steps+1)[:, None]
    return u.astype(np.float32),(u + .05*hard*off).astype(np.float32)

def quarter(u, y, which=None):
    "Which fields say how errors grow"
    if which is None: which = np.arange(len(u))
    return set_apart(which, draws_of(torch.as_tensor(u), torch.as_tensor(y)))

@pytest.fixture(scope='module')
def still():
    "An operator that leaves a field as it is, in roll-outs of six frames"
    u,y = drifting(10, seed=99)
    return learner_of(np.concatenate([u, y], 1), net=Damp(0.), t_out=6)

@pytest.mark.parametrize('kind', ['sup', 'l2'])
@pytest.mark.parametrize('scaled', [True, False])
def test_widths_by_frame_are_a_loop(still, kind, scaled):
    u,y = drifting(44)
    b = conformal_bands(still, (u, y), .8, kind, scaled)
    e = np.zeros((44, 6))
    for i in range(44):
        for t in range(6):
            off = abs(y[i, t].astype(float)-u[i, 0])
            e[i, t] = off.max() if kind == 'sup' else np.sqrt((off**2).mean())
            if scaled: e[i, t] /= np.sqrt((u[i, 0].astype(float)**2).mean())
    apart = quarter(u, y)
    s = e[apart].mean(0)
    scores = [max(e[i]/s) for i in range(44) if not apart[i]]
    assert np.allclose(b.growth, s, rtol=1e-4) and np.allclose(b.calibration, np.sort(scores), rtol=1e-4)
    assert b.n == 33 and b.q == b.calibration[27] and np.allclose(b.widths, b.q*s, rtol=1e-4)      # ceil(34*.8) = 28
    pred,r = b.radius(u[:5])
    assert pred.shape == (5, 6, 8) and r.shape == (5, 6, 1, 1)
    size = np.sqrt((u[:5, 0].astype(float)**2).mean(1, keepdims=True)) if scaled else np.ones((5, 1))
    assert np.allclose(r[:, :, 0, 0], b.widths*size, rtol=1e-4)
    assert np.allclose(b.scores(u, y), (e/s).max(1), rtol=1e-4)
    # the field that is q itself may round to either side
    least,most = ((e <= b.q*s*o).all(1).sum() for o in (.999999, 1.000001))
    assert least <= b.coverage(u, y).inside <= most <= least+1
    assert f'{b.widths[0]:.4g} in the first frame to {b.widths[-1]:.4g} in the last' in repr(b)
    if kind == 'sup':
        _,low,high = b.bands(u)
        inside = ((low <= torch.as_tensor(y)) & (torch.as_tensor(y) <= high)).flatten(1).all(1)
        assert int(inside.sum()) == b.coverage(u, y).inside

@pytest.mark.parametrize('n,level', [(25, .8), (24, .9), (50, .7)])
def test_the_promise_for_all_frames_together(still, n, level):
    "Over draws a new roll-out is inside in all frames k/(n+1) of the time, n being those that are left"
    left = n - -(-n//4)
    k = rank_of(left, level)
    want = k/(left+1)
    inside,ratio = [],[]
    for i in range(100):
        (u,y),(new,to) = drifting(n, seed=1000+i),drifting(60, seed=5000+i)
        b = conformal_bands(still, (u, y), level)
        one = conformal_bands(still, (u, y), level, by_frame=False)
        assert b.n == left and one.n == n
        inside.append(b.coverage(new, to).share)
        ratio.append(b.widths/one.widths)
    se = np.std(inside)/100**.5
    assert level <= want < level + 1/left and abs(np.mean(inside)-want) < 4*se
    ratio = np.mean(ratio, 0)
    # the first frames are several times closer, for a last one that is a little wider
    assert ratio[0] < .25 and ratio[2] < .65 and 1 < ratio[-1] < 2 and (np.diff(ratio) > 0).all()

@pytest.mark.parametrize('order', [1, -1])
def test_the_promise_in_sorted_files(still, order):
    "As in a file sorted by how hard its fields are; the fields set apart are drawn, not taken by place"
    inside = []
    for i in range(250):
        (u,y),(new,to) = drifting(12, seed=7000+i),drifting(60, seed=8000+i)
        at = np.argsort(order*abs(y-u).max((1, 2)))
        inside.append(conformal_bands(still, (u[at], y[at]), scaled=False).coverage(new, to).share)
    assert abs(np.mean(inside)-.9) < 3*np.std(inside)/250**.5       # 9 of 12 are left: 9/10

def test_the_same_fields_make_the_same_bands(still):
    "In any order, and without a look at the random streams"
    u,y = drifting(40)
    before = get_random_states()
    a,b = conformal_bands(still, (u, y)),conformal_bands(still, (u[::-1], y[::-1]))
    assert np.allclose(a.widths, b.widths, rtol=1e-6) and np.allclose(a.calibration, b.calibration, rtol=1e-6)
    after = get_random_states()
    assert before['random_state'] == after['random_state']
    assert torch.equal(before['torch_state'], after['torch_state'])
    assert (before['numpy_state'][1] == after['numpy_state'][1]).all()
    places = [np.flatnonzero(quarter(*drifting(20, seed=i))) for i in range(40)]
    counts = np.bincount(np.concatenate(places), minlength=20)
    assert all(len(o) == 5 for o in places) and counts.min() >= 2 and counts.max() <= 20        # 10 on average

def test_when_widths_are_by_frame(still):
    u,y = drifting(13)
    few = conformal_bands(still, (u[:11], y[:11]))              # 8 left would not do for .9
    assert few.growth is None and few.n == 11 and any('One width for all frames' in o for o in few.notes)
    assert (few.widths == few.q).all() and few.widths.shape == (6,)
    enough = conformal_bands(still, (u, y))
    assert enough.growth is not None and enough.n == 9 and any('(a quarter, ' in o for o in enough.notes)
    with pytest.raises(ValueError, match='at least 9 fields .* got 8, beside the quarter'):
        conformal_bands(still, (u[:11], y[:11]), by_frame=True)
    with pytest.raises(ValueError, match='at least 1 fields .* got 0, beside the quarter'):
        conformal_bands(still, (u[:1], y[:1]), .5, by_frame=True)
    assert conformal_bands(still, (u, y), by_frame=False).growth is None
    alone = learner_of(u[:, 0], y[:, 0], Damp(0.))
    one = conformal_bands(alone, drifting(20, 1, seed=5), by_frame=True)
    assert one.growth is None and one.n == 20 and len(one.widths) == 1

def test_histories_are_set_apart_whole(still):
    "a quarter of them, whatever their names"
    u,y = drifting(80)
    of = np.repeat([f'run {(7*i) % 16}' for i in range(16)], 5)
    b = conformal_bands(still, (u, y), .8, 'sup', False, histories=of)
    e = abs(y.astype(float)-u).max(2).reshape(16, 5, 6)
    apart = quarter(u, y, np.arange(80)//5).reshape(16, 5)
    assert (apart.all(1) == apart.any(1)).all() and apart[:, 0].sum() == 4
    s = e[apart[:, 0]].mean((0, 1))
    left = ~apart[:, 0]
    assert np.allclose(b.growth, s, rtol=1e-4) and b.n == 12
    assert np.allclose(b.calibration, np.sort((e[left]/s).max((1, 2))), rtol=1e-4)
    assert any('over 4 histories' in o for o in b.notes) and any('60 windows of 12' in o for o in b.notes)

def test_frames_that_break_or_have_no_error():
    class Breaks(Damp):
        def forward(self, u): return u/(u.amax(2, keepdim=True) < 50)
    g = np.random.default_rng(0)
    u = g.normal(size=(40, 1, 8)).astype(np.float32)
    y = np.repeat(u, 3, 1)
    learn = learner_of(np.concatenate([u, y], 1)[:10], net=Breaks(0.), t_out=3)
    exact = conformal_bands(learn, (u[10:], y[10:]))
    assert (exact.widths == 0).all() and exact.coverage(u[10:], y[10:]).share == 1 and exact.n == 22
    with pytest.raises(ValueError, match='infinity for all of 8 in frame 1'):
        conformal_bands(learn, (100+u[10:], y[10:]))

def test_the_report_by_frame(still, tmp_path):
    (u,y),(new,to) = drifting(60),drifting(80, seed=3)
    rep = conformal_bands(still, (u, y)).report(new, to)
    b,f = rep.bands,rep.frames
    assert f.index.tolist() == [1, 2, 3, 4, 5, 6] and np.allclose(f['half width'], b.widths)
    size = np.sqrt((new.astype(float)**2).mean(2))
    e = abs(to.astype(float)-new).max(2)/size
    assert np.allclose(f.inside, (e <= b.widths*(1+1e-9)).mean(0)) and (f.inside >= rep.summary.share).all()
    assert np.allclose(f['error at 0.9'], np.sort(e, 0)[71], rtol=1e-4)        # the 72nd of 80
    assert np.allclose(f['median error'], np.sort(e, 0)[39], rtol=1e-4)
    assert 'in all 6 frames' in rep.title and len(rep.plot().axes) == 4
    assert [o.name for o in rep.save(tmp_path)] == ['bands.csv', 'bands_summary.csv', 'bands_frames.csv', 'bands.png']
    assert np.isclose(rep.example[2]/b.widths[-1], np.sqrt((rep.example[1]**2).mean()), rtol=1e-4)
    nodes = ((b.bands(new)[1] <= torch.as_tensor(to)) & (torch.as_tensor(to) <= b.bands(new)[2])).double().mean()
    assert rep.table['nodes inside'][.9] == pytest.approx(nodes.item(), abs=1e-3)

# --- places of different weight --------------------------------------------------------------------------------------
def test_latitudes_count_by_their_weight():
    "in root mean squares, of the error as of the prediction's size; on every second node too"
    g = np.random.default_rng(0)
    u,y = g.normal(size=(2, 60, 8, 12)).astype(np.float32)
    lat = np.linspace(-80, 80, 8)
    w = np.cos(np.radians(lat))[:, None]
    y[:, 0] += 30       # near a pole, where it hardly counts
    learn = learner_of(u[:20], y[:20], Damp(0.), latitude=lat)
    plain = learner_of(u[:20], y[:20], Damp(0.), periodic=False)
    for scaled in (True, False):
        b = conformal_bands(learn, (u[20:], y[20:]), .8, 'l2', scaled)
        for step in (1, 2):
            v,to,ww = u[20:, ::step, ::step],y[20:, ::step, ::step],w[::step]
            size = np.sqrt(((v**2*ww).sum((1, 2)))/(ww.sum()*v.shape[2])) if scaled else 1
            want = np.sqrt((((v-to)**2*ww).sum((1, 2)))/(ww.sum()*v.shape[2]))/size
            assert np.allclose(b.scores(v, to), want, rtol=1e-4)
        assert b.q < .8*conformal_bands(plain, (u[20:], y[20:]), .8, 'l2', scaled).q
        assert np.allclose(conformal_bands(learn, (u[20:], y[20:]), .8, 'sup', scaled).calibration,
                           conformal_bands(plain, (u[20:], y[20:]), .8, 'sup', scaled).calibration)
    with pytest.raises(ValueError, match=r"grid \(8, 12\) of the loader's weights, .* got \(16, 24\)"):
        b.scores(*[o[:2].repeat(2, 1).repeat(2, 2) for o in (u, y)])

def words(rep):
    "All that a picture says"
    out = []
    for ax in rep.plot().axes:
        out += [ax.get_title(), ax.get_xlabel(), ax.get_ylabel()]
        if ax.get_legend(): out += [o.get_text() for o in ax.get_legend().get_texts()]
    return ' | '.join(out)

def test_the_picture_says_what_is_counted():
    u = histories(30)
    learn = learner_of(u, valid=list(range(10, 30)), every=1)
    b = conformal_bands(learn, learn.dls.valid, scaled=False)
    x,y = windows(u[10:])
    said = words(b.report(x, y, histories=np.repeat(np.arange(20), 5)))
    for o in ('calibrated on (20 histories)', 'new histories (20)', 'error of a history', 'new histories, 95 %',
              'share of histories inside'): assert o in said
    assert 'new fields' not in said
    alone = words(b.report(x, y))
    for o in ('calibrated on (20 histories)', 'new fields (100)', 'share of fields inside'): assert o in alone

@pytest.mark.parametrize('kw,says', [(dict(level=1.), r'`level` must be in \(0,1\)'),
                                     (dict(level=90), '`level` must be'),
                                     (dict(kind='L2'), "`kind` must be 'sup' or 'l2', got 'L2'. Did you mean 'l2'")])
def test_what_does_not_go(learn, burgers, kw, says):
    u,y = (o[40:100, ::4] for o in burgers)
    with pytest.raises(ValueError, match=says): conformal_bands(learn, (u, y), **kw)

@pytest.mark.parametrize('name', ['by_frame', 'scaled'])
def test_a_text_is_no_truth_value(learn, burgers, name):
    u,y = (o[40:100, ::4] for o in burgers)
    with pytest.raises(TypeError, match=f"`{name}` must be True or False.*got 'auto'"):
        conformal_bands(learn, (u, y), **{name: 'auto'})

def test_data_that_does_not_go(learn, burgers):
    u,y = (o[40:100, ::4] for o in burgers)
    with pytest.raises(TypeError, match='loader with targets, .* got a ndarray'): conformal_bands(learn, u)
    with pytest.raises(TypeError, match='expected a Learner'): conformal_bands(learn.model, (u, y))
    with pytest.raises(ValueError, match='at least 9 fields'): conformal_bands(learn, (u[:5], y[:5]))
    alone = learn.dls.test_dl(list(u.astype(np.float32)))
    with pytest.raises(ValueError, match='without'): conformal_bands(learn, alone)
    with pytest.raises(ValueError, match='60 fields'): conformal_bands(learn, (u, y[:40]))
    class Blown(Damp):
        def forward(self, u): return super().forward(u)/(u.amax(2, keepdim=True) < 50)
    blown = learner_of(u[:20], y[:20], Blown())
    with pytest.raises(ValueError, match='finite predictions .* NaN or infinity for .* of 40'):
        conformal_bands(blown, (100*u[20:], y[20:]))

def test_a_learner_of_your_own():
    "Without `field_dls`, giving all frames at once"
    u = torch.as_tensor(fields(40))[:, None]
    loader = lambda o: DataLoader(list(zip(o, o)), bs=8)
    learn = Learner(DataLoaders(loader(u[:20]), loader(u[20:])), Damp(), nn.MSELoss())
    b = conformal_bands(learn, learn.dls.valid)
    assert b.n == 20 and 'cannot be told' in b.notes[0] and b.coverage(u, u).n == 40

def without(o, *names):
    "As a file of a version that did not know these"
    for k in names: o.__dict__.pop(k)
    return pickle.loads(pickle.dumps(o))

def test_bands_and_reports_of_earlier_versions(still, tmp_path):
    u,y = drifting(30)
    b = conformal_bands(still, (u, y), by_frame=False)
    want = b.coverage(u, y)
    rep = b.report(u, y)
    del b.op.__dict__['step']
    old = without(b, 'growth', 'by_frame')
    assert old.coverage(u, y) == want and (old.widths == b.q).all() and '30 fields' in repr(old)
    assert old.report(u, y).frames is not None
    rep = without(rep, 'frames', 'new')
    assert len(rep.plot().axes) == 3
    assert [o.name for o in rep.save(tmp_path)] == ['bands.csv', 'bands_summary.csv', 'bands.png']

# --- what is told -----------------------------------------------------------------------------------------------------
def test_targets_that_are_not_finite_are_told(learn, burgers):
    u,y = (o[40:100, ::4].copy() for o in burgers)
    good = conformal_bands(learn, (u, y))
    y[3, 5],y[7, 0] = np.nan,np.inf
    for f in (lambda: conformal_bands(learn, (u, y)), lambda: good.coverage(u, y), lambda: good.report(u, y)):
        with pytest.raises(ValueError, match=r'finite fields in `y`, got NaN or infinity in 2 of 60 .* \[3, 7\]'): f()

@pytest.mark.parametrize('none', [np.nan, None])
def test_histories_without_a_name_are_told(learn, burgers, none):
    u,y = (o[40:100, ::4] for o in burgers)
    for names,n in (([none]*60, 60), ([*'ab'*29, none, none], 2)):
        with pytest.raises(ValueError, match=f'for each of the 60 fields, got NaN or None for {n}'):
            conformal_bands(learn, (u, y), histories=names)

def test_no_level_of_0_is_advised(still):
    u,y = drifting(1)
    with pytest.raises(ValueError, match='got 0, beside the quarter that the width by frame is from. Give more.$'):
        conformal_bands(still, (u, y), .5, by_frame=True)

def test_histories_that_differ_from_the_loader_s_are_told():
    u = histories(30)
    learn = learner_of(u, valid=list(range(10, 30)), every=1)
    valid = learn.dls.valid
    n = len(valid.dataset)
    rows = valid.dataset.index[:, 0].numpy()
    said = lambda of: ' '.join(conformal_bands(learn, valid, histories=of).notes)
    assert f'given, {n}, are others than the 20 that the loader knows' in said(np.arange(n))
    assert 'are others' not in said([f'run {o}' for o in rows]) and 'are others' not in said(None)
    assert 'given, 20, are others than the 20' in said(np.arange(n) % 20)       # as many, but cut otherwise

def test_bands_of_fields_reported_by_histories(learn, burgers):
    u,y = (o[40:100, ::4] for o in burgers)
    b = conformal_bands(learn, (u, y))
    told = 'Calibrated on single fields, and reported by histories'
    said = lambda **kw: ' '.join(b.report(u, y, **kw).notes)
    assert told in said(histories=np.arange(60)//3)
    assert told not in said() and told not in said(histories=np.arange(60))
