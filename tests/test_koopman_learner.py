"Operators on a fastai learner: roll-outs against single calls, scales against NumPy, losses against loops"
import copy, pickle, warnings
from functools import partial
import numpy as np
import pytest
import torch
from torch import nn
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback   # noqa: F401 (gives Learner its no_bar)
from fastai.callback.training import GradientAccumulation
from fastai.learner import Learner, load_learner
from fastai.optimizer import SGD
from fastai.torch_core import set_seed
from fastrobust.systems.koopman.equations.burgers import burgers_data
from fastrobust.systems.koopman.fieldmetrics import BandL2, KoopmanLoss, RelL2Loss, in_modes, rel_l2
from fastrobust.systems.koopman.data.fields import field_dls
from fastrobust.systems.koopman.networks.fno import FNO1d
from fastrobust.basics import RobustWarning
from fastrobust.systems.koopman.networks.kno import KNO1d, KNO2d
from fastrobust.systems.koopman.networks.semigroup import SemigroupKNO
from fastrobust.systems.koopman.learner import Rollout, koopman_learner
from fastrobust.systems.koopman.rolling import Scaled, roll

class Shift(nn.Module):
    "Moves every field on by one place, and reconstructs it"
    def __init__(self): super().__init__(); self.w = nn.Parameter(torch.ones(()))
    def forward(self, u): return self.w*u.roll(1, 2),self.w*u

def waves(n=12, frames=6, c=0, s=16):
    g = np.random.default_rng(0)
    shape = (n, frames, c, s) if c else (n, frames, s)
    return g.normal(size=shape).astype(np.float32)

def quiet(learn, *args, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit(*args, **kwargs)
    return learn

# --- metrics ---------------------------------------------------------------------------------------------------------
def test_relative_l2_is_a_loop():
    g = torch.Generator().manual_seed(0)
    p,y = torch.randn(5, 2, 6, 4, generator=g).double(),torch.randn(5, 2, 6, 4, generator=g).double()
    want = np.mean([np.linalg.norm((p-y)[i].ravel())/np.linalg.norm(y[i].ravel()) for i in range(5)])
    assert rel_l2(p, y).item() == pytest.approx(want, abs=1e-12)
    w = torch.rand(6, 1, generator=g).double()
    sizes = [np.sqrt((w*x.square()).sum((1, 2, 3))) for x in (p-y, y)]
    assert rel_l2(p, y, w).item() == pytest.approx(np.mean(sizes[0].numpy()/sizes[1].numpy()), abs=1e-12)
    assert rel_l2(3*p, 3*y) == pytest.approx(rel_l2(p, y).item(), abs=1e-12)
    each = RelL2Loss(w, reduction='none')(p, y)
    assert each.shape == (5,) and RelL2Loss(w, reduction='sum')(p, y) == pytest.approx(each.sum().item())
    with pytest.raises(ValueError, match=r'shape of the targets \(5, 2, 6, 4\)'): rel_l2(p[:, :1], y)

@pytest.mark.parametrize('shape', [(16,), (15,), (8, 8), (6, 10)])
def test_energies_of_the_modes_make_the_whole(shape):
    x = torch.randn(3, 2, *shape, dtype=torch.double)
    dims = tuple(range(2, x.ndim))
    assert torch.allclose(in_modes(x).sum(-1), x.square().mean(dims))   # Parseval

def test_the_error_of_a_band():
    s = torch.arange(32)/32*2*np.pi
    low,high = torch.cos(2*s)[None, None],.3*torch.cos(9*s)[None, None]
    assert BandL2(0, 8)(low+high, low) == pytest.approx(0, abs=1e-6)
    assert BandL2(8)(low+.5*high, low+high) == pytest.approx(.5, abs=1e-5)
    assert BandL2(1, 4)(1.2*low+high, low) == pytest.approx(.2, abs=1e-5)
    assert BandL2(8).__name__ == 'l2_k8-' and BandL2(0, 8).__name__ == 'l2_k0-7'
    with pytest.raises(ValueError, match='hi'): BandL2(4, 4)

def test_the_paper_s_loss():
    g = torch.Generator().manual_seed(1)
    p,r,y,u = torch.randn(4, 3, 2, 8, generator=g)
    f = KoopmanLoss()
    want = 5*((p-y)**2).mean() + .5*((r-u)**2).mean()
    assert torch.allclose(f((p, r), y, u), want) and torch.allclose(f(p, y), 5*((p-y)**2).mean())
    halves = [f((p[i:i+2], r[i:i+2]), y[i:i+2], u[i:i+2]) for i in (0, 1)]     # P9: of two, and of one each
    ones = [f((p[i:i+1], r[i:i+1]), y[i:i+1], u[i:i+1]) for i in range(3)]
    assert torch.allclose(halves[0], (ones[0]+ones[1])/2) and torch.allclose(halves[1], (ones[1]+ones[2])/2)
    with pytest.raises(ValueError, match='`rec`'): KoopmanLoss(1., -1.)

@pytest.mark.parametrize('mean,std', [([0.], [1.]), ([300.], [2.]), ([5., -40.], [.1, 700.])])
def test_no_mean_and_no_unit_hides_errors(mean, std):
    "A prediction that is off by a third of a deviation is off by a third, each variable alone and together"
    g = torch.Generator().manual_seed(0)
    m,s = (torch.tensor(o).repeat(2).view(1, -1, 1).double() for o in (mean, std))
    z,off = torch.randn(2, 3, m.shape[1], 4000, generator=g).double()
    y,p = z*s + m,(z + off/3)*s + m
    for var in [None, *range(len(mean))]:
        f = RelL2Loss(scale=(mean, std), var=var)
        assert f(p, y).item() == pytest.approx(1/3, rel=.05)
        assert f.__name__ == ('rel_l2' if var is None else f'rel_l2_{var}')
    one = p.clone()
    one[:, ::len(mean)] = m[:, 0]       # the first variable untrained
    assert RelL2Loss(scale=(mean, std), var=0)(one, y).item() == pytest.approx(1, rel=.05)

def test_fields_of_nothing_and_perfect_ones_spoil_no_gradient():
    y = torch.zeros(2, 1, 16)
    y[1] = torch.randn(1, 16)
    p = y.clone().requires_grad_()
    l = RelL2Loss(scale=([0.], [1.]))(p, y)
    l.backward()
    assert l == 0 and torch.isfinite(p.grad).all()
    assert RelL2Loss(scale=([0.], [1.]))(y+.01, y)*2 < 1.2       # counted as .01 of a deviation
    with pytest.raises(ValueError, match='l2_k9-.*modes up to 8'): BandL2(9)(y, y)

# --- rolling ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('c', [1, 2])
def test_a_roll_out_is_single_calls(c):
    "P6"
    set_seed(0)
    net = KNO1d(t_in=3*c, o=4, m=3, r=2)
    u = torch.randn(2, 3*c, 12)
    x,frames,pairs = u,[],[]
    for _ in range(5):
        p,r = net(x)
        pairs.append((r, x))
        frames.append(p[:, -c:])
        x = torch.cat([x[:, c:], p[:, -c:]], 1)
    seen = []
    assert torch.equal(roll(net, u, 5, c, seen=seen), torch.cat(frames, 1))
    assert all(torch.equal(a, b) for s,w in zip(seen, pairs) for a,b in zip(s, w)) and len(seen) == 5
    assert torch.equal(roll(net, u, 5, c, first=net(u)), torch.cat(frames, 1))

def test_gradients_go_as_far_back_as_they_are_let():
    def grad(detach):
        net = Shift()
        roll(net, torch.ones(1, 1, 8), 4, detach=detach)[:, -1].sum().backward()
        return net.w.grad.item()
    assert grad(None) == 8*4 and grad(1) == 8 and grad(2) == 16     # of w**4 at 1

SIDES = [((), (12,)), ((True, False), (9, 12)), ((False, False), (8, 11)), ((False,), (10,))]
@pytest.mark.parametrize('periodic,sizes', SIDES)
def test_the_scale_comes_off_again(periodic, sizes):
    seen = []
    class Look(nn.Module):
        def forward(self, u): seen.append(u); return u,u
    mean,std = torch.tensor([1., -2.]),torch.tensor([3., .5])
    u = torch.randn(2, 4, *sizes)*2 + 5
    m,s = (o.repeat(2).view(1, 4, *[1]*len(sizes)) for o in (mean, std))
    pred,rec = Scaled(Look(), mean, std, periodic)(u)
    assert torch.allclose(pred, u, atol=1e-5) and torch.allclose(rec, u, atol=1e-5)
    z = seen[0]
    assert torch.allclose(z[(..., *map(slice, sizes))], (u-m)/s)
    wraps = periodic or (True,)*len(sizes)
    assert z.shape[2:] == tuple(n if w else n + -(-n//8) for n,w in zip(sizes, wraps))
    for axis,n in enumerate(sizes, 2):                      # behind it a straight line to where it began
        if z.shape[axis] == n: continue
        line = torch.cat([z, z.narrow(axis, 0, 1)], axis).narrow(axis, n-1, z.shape[axis]-n+2)
        assert np.allclose(np.diff(line, 2, axis-line.ndim), 0, atol=1e-5)
    with pytest.raises(ValueError, match='frames of 2 variables, got 3 channels'): Scaled(Look(), mean, std)(u[:, :3])
    with pytest.raises(ValueError, match='positive deviation'): Scaled(Look(), [0.], [0.])

# --- the learner -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('loss', ['rel_l2', 'paper'])
@pytest.mark.parametrize('c', [0, 2])
def test_a_step_is_that_written_by_hand(loss, c):
    set_seed(0)
    dls = field_dls(waves(c=c), t_in=2, t_out=3, valid=.25, bs=9)
    k = c or 1
    net = KNO1d(t_in=2*k, o=4, m=3, r=2)
    by_hand = Scaled(copy.deepcopy(net), *dls.scale)
    learn = koopman_learner(dls, net, loss, lr=.1, opt_func=SGD, wd=0.)
    class Keep(Callback):
        order = 90
        def after_loss(self):
            if self.training: self.b,self.l,self.p = self.learn.xb+self.learn.yb,self.loss_grad.item(),self.pred
    quiet(learn, 1, cbs=(keep := Keep()))
    u,y = (o.as_subclass(torch.Tensor) for o in keep.b)
    pairs = []
    p = roll(by_hand, u, 3, k, seen=pairs)
    assert y.shape == p.shape == (9, 3*k, 16) and torch.allclose(p, keep.p, atol=1e-6)
    if loss == 'rel_l2':
        m,s = (o.repeat(3).view(1, -1, 1) for o in dls.scale)
        l = (((p-y)/s).flatten(1).norm(dim=1)/((y-m)/s).flatten(1).norm(dim=1)).mean()
    else: l = 5*(p-y).square().mean() + .5*sum((r-x).square().mean() for r,x in pairs)
    assert l.item() == pytest.approx(keep.l, rel=1e-5)
    l.backward()
    for a,b in zip(by_hand.parameters(), learn.model.parameters()):
        assert torch.allclose(a-.1*a.grad, b, atol=1e-6)

def test_numbers_are_in_the_units_of_the_data():
    "A field moved by one place is the next frame, whatever the mean and the scale"
    u = np.stack([np.roll(waves(frames=1, s=16)[:, 0], i, 1) for i in range(5)], 1)*7 + 100
    dls = field_dls(u, t_in=1, t_out=4, valid=.25, bs=3)
    learn = koopman_learner(dls, Shift())
    with learn.no_bar(), learn.no_logging():
        assert learn.validate()[1] == pytest.approx(0, abs=1e-5)
        p,y = learn.get_preds()
    assert torch.allclose(p, y, atol=1e-3) and p.shape == (3, 4, 16) and p.mean() > 90

def test_pairs_of_other_variables_each_have_their_scale():
    "Two variables in, one out, of which a network gives three frames at once"
    class Sum(nn.Module):
        def __init__(self): super().__init__(); self.w = nn.Parameter(torch.ones(()))
        def forward(self, u): self.u = u; return self.w*(u[:, :1]+u[:, 1:]).repeat(1, 3, 1)/2**.5
    g = np.random.default_rng(0)
    x = (g.normal(size=(12, 2, 16))*[[1.], [9.]] + [[5.], [-2.]]).astype(np.float32)
    z = (x-x.mean((0, 2), keepdims=True))/x.std((0, 2), keepdims=True)
    y = np.stack([z.sum(1)*7 + 40]*3, 1).astype(np.float32)
    net = Sum()
    dls = field_dls(x, y, t_out=3, valid=[0], bs=4)
    learn = koopman_learner(dls, net)
    with learn.no_bar(), learn.no_logging(): p,t = learn.get_preds()
    assert abs(net.u.mean()) < .5 and p.shape == t.shape == (1, 3, 16)
    assert rel_l2(p, t) < .05       # off by what one item of twelve does to mean and deviation

def test_it_learns_burgers_and_travels(tmp_path):
    u0,uT = burgers_data(120, 32, nu=.1, T=.2, seed=0)
    set_seed(0)
    dls = field_dls(u0, uT, valid=.2, bs=16)
    learn = koopman_learner(dls, KNO1d(o=8, m=8, r=3), path=tmp_path, cbs=GradientAccumulation(16))
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(12, 1e-2)
        p,y = learn.get_preds()
        got = learn.validate()[1]
    assert got == pytest.approx(rel_l2(p, y).item(), rel=.01) and got < .25     # of mean 0
    learn.export('k.pkl')
    back = load_learner(tmp_path/'k.pkl')
    new = np.asarray(u0[:3], np.float32)
    with back.no_bar(), back.no_logging(): q = back.get_preds(dl=back.dls.test_dl(new))[0]
    with torch.no_grad(): want = learn.model(torch.as_tensor(new)[:, None])[0]
    assert torch.allclose(q, want, atol=1e-6)
    assert torch.allclose(torch.as_tensor(np.asarray(back.predict(new[0])[0])).flatten(), want[0].flatten(), atol=1e-5)
    assert torch.allclose(pickle.loads(pickle.dumps(learn)).model(torch.as_tensor(new)[:, None])[0], want)

def test_a_ctrl_c_leaves_a_learner_that_travels(tmp_path):
    class Stop(Callback):
        def before_backward(self): raise KeyboardInterrupt
    learn = koopman_learner(field_dls(waves(), t_in=1, t_out=2, bs=4), KNO1d(o=4, m=3, r=2), 'paper', path=tmp_path)
    with pytest.raises(KeyboardInterrupt): quiet(learn, 1, cbs=Stop())
    learn.export('k.pkl')
    quiet(learn, 1)
    quiet(copy.deepcopy(learn), 1)

def test_a_model_with_a_time_is_told_it():
    class Timed(Shift):
        def forward(self, u, t): self.t = t; return self.w*u*t.view(-1, 1, 1)
    u0 = waves(frames=1)[:, 0]
    t = np.arange(1, 13)/4
    dls = field_dls(u0, u0*t[:, None].astype(np.float32), times=t, valid=.25, bs=3)
    learn = koopman_learner(dls, Timed(), scale=False)
    with learn.no_bar(), learn.no_logging(): assert learn.validate()[1] == pytest.approx(0, abs=1e-6)

# --- refusals --------------------------------------------------------------------------------------------------------
def test_variables_have_a_column_each():
    u = waves(c=2)*np.array([1., 1e3])[:, None] + 7
    learn = quiet(koopman_learner(field_dls(u.astype(np.float32), t_in=1, bs=4), KNO1d(2, o=4, m=3, r=2)), 1)
    assert learn.recorder.metric_names[3:6] == ['rel_l2', 'rel_l2_0', 'rel_l2_1']
    assert learn.recorder.values[-1][1] == pytest.approx(learn.recorder.values[-1][2])     # the loss itself

def test_a_network_without_parameters_is_told_what_it_lacks():
    "Persistence: refused as it is, and with the parameter that the message names judged like any"
    class Stay(nn.Module):
        def forward(self, u): return u
    u = waves()
    dls = field_dls(u, t_in=1, t_out=1, valid=[3], bs=4)
    with pytest.raises(ValueError, match='got Stay without any.*self.none = nn.Parameter'): koopman_learner(dls, Stay())
    net = Stay()
    net.none = nn.Parameter(torch.zeros(()))
    learn = koopman_learner(dls, net)
    with learn.no_bar(), learn.no_logging():
        p,y = learn.get_preds()
        got = learn.validate()[1]
    assert np.allclose(p[0], u[3, :1], atol=1e-6) and np.allclose(y[0], u[3, 1:2])
    z = u[3, 1]-dls.scale[0].item()
    assert got == pytest.approx(np.linalg.norm(u[3, 0]-u[3, 1])/np.linalg.norm(z), rel=1e-5)

def test_what_a_network_cannot_take_is_said():
    u0,t = waves(frames=1)[:, 0],np.arange(1, 13)/4
    with pytest.raises(ValueError, match='takes a time beside the fields.*SemigroupKNO'):
        koopman_learner(field_dls(u0, u0, times=t, bs=3), Shift())
    class Fixed(nn.Module):
        def __init__(self): super().__init__(); self.l = nn.Linear(16, 16)
        def forward(self, u): return self.l(u)
    dls = field_dls(u0, u0, periodic=False, bs=3)
    with pytest.raises(ValueError, match='any_grid = False'): koopman_learner(dls, Fixed())
    net = Fixed()
    net.any_grid = False
    quiet(koopman_learner(dls, net), 1)

@pytest.mark.parametrize('model,kw,err,says', [
    (KNO2d(t_in=1, o=4, m=3, r=1), {}, ValueError, '2'),
    (KNO1d(t_in=3, o=4, m=3, r=1), {}, ValueError, 't_in'),
    (KNO1d(t_in=1, o=4, m=12, r=1), {}, ValueError, 'm'),
    (nn.Flatten(), {}, ValueError, r'fields of at least 1 channels on the grid \(16,\)'),
    ('KNO1d', {}, TypeError, 'koopman_learner'),
    (Shift(), dict(loss='papr'), ValueError, "Did you mean 'paper'"),
    (Shift(), dict(cbs=Rollout(5)), ValueError, 'targets of 5 frames, got 2.*t_out=5')],
    ids=['2d', 'frames', 'modes', 'flat', 'name', 'loss', 'steps'])
def test_what_does_not_fit_is_refused(model, kw, err, says):
    dls = field_dls(waves(), t_in=1, t_out=2, bs=4)
    with pytest.raises(err, match=says): quiet(koopman_learner(dls, model, **kw), 1)

def test_the_data_s_streams_stay_as_they_are():
    set_seed(3)
    dls = field_dls(waves(), t_in=1, t_out=2, bs=4)
    a = torch.get_rng_state()
    koopman_learner(dls, Shift())
    assert torch.equal(torch.get_rng_state(), a)
    plain = Learner(dls, FNO1d(t_in=1, width=4, m=3, layers=1), RelL2Loss(), metrics=partial(rel_l2), cbs=Rollout())
    quiet(plain, 1)

def test_the_papers_loss_by_item():
    "What Interpretation asks a loss for"
    g = torch.Generator().manual_seed(0)
    p,y,r,u = (torch.randn(3, 2, 8, generator=g) for _ in range(4))
    loss = KoopmanLoss(2., .5, reduction='none')
    each = [2*((p[i]-y[i])**2).mean() + .5*((r[i]-u[i])**2).mean() for i in range(3)]
    assert torch.allclose(loss((p, r), y, u), torch.stack(each))
    for how in ('mean', 'sum'):
        loss.reduction = how
        assert torch.allclose(loss((p, r), y, u), getattr(torch.stack(each), how)())

def test_a_step_far_from_the_times_is_told():
    u = torch.randn(8, 16).numpy()
    dls = field_dls((u, .9*u), times=.02, device='cpu', bs=4)
    with pytest.warns(RobustWarning, match=r"`step` is 1, the times of the data are 0.02 to 0.02.*step=0.02"):
        koopman_learner(dls, SemigroupKNO(o=3, m=3))
    with warnings.catch_warnings():
        warnings.simplefilter('error', RobustWarning)
        koopman_learner(dls, SemigroupKNO(o=3, m=3, step=.02))
        koopman_learner(dls, SemigroupKNO(o=3, m=3, step=.05))

class Timed(nn.Module):
    def __init__(self, step):
        super().__init__()
        self.w = nn.Parameter(torch.ones(()))
        if step is not None: self.step = step
    def forward(self, u, t): return self.w*u*torch.exp(-t).view(-1, 1, 1)

@pytest.mark.parametrize('step', [None, 'euler', len, True, 0, -1., float('nan')])
def test_a_step_of_another_kind_is_none(step):
    u = torch.randn(8, 16).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter('error', RobustWarning)
        koopman_learner(field_dls((u, .9*u), times=50., device='cpu', bs=4), Timed(step))

def test_a_time_of_0_hides_no_other():
    u = torch.randn(10, 16).numpy()
    dls = field_dls((u, .9*u), times=[0., 50.]*5, device='cpu', bs=4, valid=range(6, 10))
    with pytest.warns(RobustWarning, match=r"`step` is 1, the times of the data are 50 to 50"):
        koopman_learner(dls, Timed(1.))

def test_reductions_that_are_none():
    for make in (KoopmanLoss, RelL2Loss):
        with pytest.raises(ValueError, match=r"`reduction` must be .* got 'maen'.* Did you mean 'mean'"):
            make(reduction='maen')
        with pytest.raises(ValueError, match='`reduction` must be'): make(reduction=None)
    old = KoopmanLoss()
    del old.__dict__['reduction']           # as in a file of a version without it
    y = torch.ones(2, 1, 8)
    assert pickle.loads(pickle.dumps(old))(0*y, y) == 5
