"LogitClip against the numbers of its specification, its gradients and bounds, and the experiment it must win"
import math, warnings
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn, tensor
from torch.nn import functional as F
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import SGD
from functools import partial
from conftest import tiny_learner
from fastrobust.basics import RobustWarning
from fastrobust.losses import CrossEntropy, GCELoss
from fastrobust.techniques.logitclip import LogitClip, clip_bounds, clip_logits
from fastrobust.techniques.logitnorm import normalize_logits

# what test_contract.py runs every technique through
CONTRACT = {LogitClip: dict(make=lambda: LogitClip(.5), deterministic=True)}

INF = float('inf')
Z = tensor([[2, -1, .5, 0], [.1, .2, -.1, .05], [8, 0, -8, 4], [0, 0, 0, 0]], dtype=torch.float64)
Y = tensor([0, 3, 2, 1])

def clip_loop(z, tau, p):
    "The paper's definition, one row at a time, float64"
    out = []
    for row in z.double().tolist():
        n = max(map(abs, row)) if p == INF else sum(abs(v)**p for v in row)**(1/p)
        out.append([v*tau/n for v in row] if n >= tau else row)
    return tensor(out, dtype=torch.float64)

# --- values ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('p,want,ce', [(2, [.6, .8, 0], 1.01892472), (1, [3/7, 4/7, 0], 1.03140498),
                                       (INF, [.75, 1, 0], 1.01392257)])
def test_three_four_zero(p, want, ce):
    z = clip_logits(tensor([[3., 4., 0.]], dtype=torch.float64), 1., p)
    assert torch.allclose(z, tensor([want], dtype=torch.float64), atol=1e-12)
    assert F.cross_entropy(z, tensor([0])).item() == pytest.approx(ce, abs=1e-8)
    if p == 2: assert F.cross_entropy(z, tensor([2])).item() == pytest.approx(1.61892472, abs=1e-8)

@pytest.mark.parametrize('tau,ce', [(2.5, 1.05495692), (10, 1.32656264)])
def test_other_bounds(tau, ce):
    z = tensor([[3., 4., 0.]], dtype=torch.float64)
    assert F.cross_entropy(clip_logits(z, tau), tensor([0])).item() == pytest.approx(ce, abs=1e-8)
    assert tau < 5 or torch.equal(clip_logits(z, tau), z)

TABLE = {(None, 2): [.34234958, 1.40457949, 16.01847941, 1.38629436],
         (1., 2):   [.79180595, 1.40457949, 2.24703895, 1.38629436],
         (2/3, 2):  [.96428583, 1.40457949, 1.93727051, 1.38629436],
         (1., 1):   [.97097966, 1.40457949, 1.87785833, 1.38629436],
         (1., INF): [.72434355, 1.40457949, 2.74656727, 1.38629436]}
@pytest.mark.parametrize('tau,p', TABLE, ids=str)
def test_fixed_batch(tau, p):
    z = Z if tau is None else clip_logits(Z, tau, p)
    assert F.cross_entropy(z, Y, reduction='none').tolist() == pytest.approx(TABLE[tau, p], abs=1e-8)

@pytest.mark.parametrize('tau,want', [(2/3, [.5, 2/3, 2/3, 2/3, 2/3, 2/3]), (2., [.5, .7, 1., 1.499, 1.5, 2.])])
def test_threshold_and_target_are_the_same_tau(tau, want):
    "The published code compares with 1/tau: rows between escape, or are blown up"
    d = F.normalize(tensor([[1., -2., .5]], dtype=torch.float64))
    z = torch.cat([n*d for n in (.5, .7, 1., 1.499, 1.5, 10.)])
    assert clip_logits(z, tau).norm(dim=1).tolist() == pytest.approx(want, abs=1e-9)

def test_continuous_at_the_boundary():
    d = F.normalize(tensor([[1., -2., .5]], dtype=torch.float64))
    for tau in (1.5, 2/3):
        a,b = clip_logits((tau-1e-6)*d, tau),clip_logits((tau+1e-6)*d, tau)
        assert (a-b).abs().max() < 1e-6 and torch.equal(a, (tau-1e-6)*d)

@given(st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3), min_size=1, max_size=6),
       st.floats(.05, 50), st.sampled_from([1., 1.5, 2., 3., INF]))
@settings(derandomize=True, deadline=None, max_examples=80)
def test_against_a_loop_and_properties(rows, tau, p):
    z = tensor(rows, dtype=torch.float64)
    c = clip_logits(z, tau, p)
    assert torch.allclose(c, clip_loop(z, tau, p), rtol=1e-9, atol=1e-12)
    n,m = (torch.linalg.vector_norm(o, p, dim=1) for o in (z, c))
    assert (m <= tau*(1+1e-9)).all() and (m <= n*(1+1e-12)).all()
    assert torch.equal(c[n <= tau], z[n <= tau]), 'rows inside the ball keep their value'
    assert torch.allclose(clip_logits(c, tau, p), c, rtol=1e-9), 'clipping twice is clipping once'
    assert torch.equal(clip_logits(z.flip(0), tau, p), c.flip(0)) and (c*z >= 0).all()
    assert torch.equal(z.gather(1, c.argmax(1)[:, None]), z.amax(1, keepdim=True)), 'no row changes its prediction'

def test_projection_is_1_lipschitz_for_p2():
    g = torch.Generator().manual_seed(0)
    a,b = (torch.randn(2000, 5, generator=g, dtype=torch.float64)*torch.rand(2000, 1, generator=g)*8 for _ in range(2))
    assert ((clip_logits(a, 1.)-clip_logits(b, 1.)).norm(dim=1) <= (a-b).norm(dim=1) + 1e-12).all()

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('p', [1., 2., 3., INF])
def test_half_precision(dtype, p):
    "Ten logits of 300: their squares are beyond float16, and the loss needs float32 anyway"
    z = torch.full((2, 10), 300., dtype=dtype)
    z[1] = tensor([1e-3]*10)
    c = clip_logits(z, 1., p)
    assert c.dtype == torch.float32 and torch.isfinite(c).all()
    assert torch.linalg.vector_norm(c[0], p).item() == pytest.approx(1, abs=1e-5) and torch.equal(c[1], z[1].float())

def test_extremes_are_finite():
    z = tensor([[1e30, -1e30, 0], [0, 0, 0], [1e-30, 0, 0]], dtype=torch.float64, requires_grad=True)
    c = clip_logits(z, 1.)
    F.cross_entropy(c, tensor([1, 1, 1]), reduction='sum').backward()
    assert torch.isfinite(c).all() and torch.isfinite(z.grad).all() and torch.equal(c[1:], z[1:])

# --- gradients -------------------------------------------------------------------------------------------------------
def grad(z, y, tau=None, p=2.):
    z = z.clone().requires_grad_()
    F.cross_entropy(z if tau is None else clip_logits(z, tau, p), y, reduction='sum').backward()
    return z.grad

def test_gradient_norms_of_the_fixed_batch():
    assert grad(Z, Y).norm(dim=1).tolist() == pytest.approx([.34587886, .87285911, 1.40144175, .8660254], abs=1e-7)
    assert grad(Z, Y, 1.).norm(dim=1).tolist() == pytest.approx([.18283331, .87285911, .03387334, .8660254], abs=1e-7)

@pytest.mark.parametrize('p', [1., 2., 3., INF])
def test_gradient_of_a_clipped_row_is_tangential_and_shrinks_with_its_norm(p):
    z = tensor([[2., -1., .5, 0]], dtype=torch.float64)
    gs = [grad(s*z, Y[:1], .5, p) for s in (1., 2., 4., 8.)]
    assert all(abs((s*z*g).sum()) < 1e-12 for s,g in zip((1, 2, 4, 8), gs)), 'z . dL/dz = 0'
    assert all(torch.allclose(gs[0], g*s) for s,g in zip((1, 2, 4, 8), gs)) and gs[0].norm() > .05

def test_gradient_of_the_wrong_label_against_its_numbers():
    "Row 3 of the fixed batch, mislabelled, at norms 1, 2, 4 and 8 times its first"
    z = tensor([[8., 0, -8, 4]], dtype=torch.float64)/8
    got = [grad(s*z, tensor([2]), 1.).norm().item() for s in (1, 2, 4, 8)]
    assert got == pytest.approx([.03387334*8/s for s in (1, 2, 4, 8)], abs=1e-6)

def test_gradient_against_the_jacobian_and_finite_differences():
    z = tensor([[3., 4., 0.], [1., -2., 2.]], dtype=torch.float64)
    for row,y in zip(z, (2, 0)):
        n,s = row.norm(),F.softmax(row/row.norm(), 0)
        J = (torch.eye(3, dtype=torch.float64) - torch.outer(row, row)/n**2)/n
        want = J @ (s - F.one_hot(tensor(y), 3))
        assert torch.allclose(grad(row[None], tensor([y]), 1.)[0], want, atol=1e-12)
    for p in (1., 1.5, 2., 3., INF):
        assert torch.autograd.gradcheck(lambda z, p=p: clip_logits(z, 1.7, p), (z.clone().requires_grad_(),))

def test_gradient_inside_the_ball_and_at_zero():
    z = torch.zeros(1, 10, dtype=torch.float64)
    for p in (1., 2., INF):
        want = torch.full((1, 10), .1, dtype=torch.float64); want[0, 4] = -.9
        assert torch.allclose(grad(z, tensor([4]), .5, p), want, atol=1e-12)
    assert torch.equal(grad(Z[1:2], Y[1:2], 1.), grad(Z[1:2], Y[1:2]))

# --- bounds ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('K,tau,lo,hi', [
    (2, 1, .126928, 2.126928), (10, .2, 1.950596, 2.669061), (10, .5, 1.461150, 3.237287),
    (10, 2/3, 1.215617, 3.559426), (10, 1, .796614, 4.212150), (10, 2, .152584, 6.199258),
    (100, 1, 2.667103, 6.596486), (100, 2, 1.034340, 8.595305)])
def test_bounds_table(K, tau, lo, hi):
    assert clip_bounds(K, tau) == pytest.approx((lo, hi), abs=1e-6)
    assert clip_bounds(K, tau) == pytest.approx([math.log(1+(K-1)*math.exp(s*2*tau)) for s in (-1, 1)], rel=1e-12)

def test_bounds_do_not_overflow():
    lo,hi = clip_bounds(10, 1000.)
    assert 0 <= lo < 1e-300 and hi == pytest.approx(2000 + math.log(9))

@pytest.mark.parametrize('p', [1., 2., 3., INF])
def test_no_loss_leaves_the_bounds(p):
    g = torch.Generator().manual_seed(int(p) if p < INF else 9)
    z = torch.randn(10_000, 10, generator=g, dtype=torch.float64)*10**(torch.rand(10_000, 1, generator=g)*6-3)
    for tau in (.2, 1., 2.):
        l = F.cross_entropy(clip_logits(z, tau, p), torch.randint(10, (10_000,), generator=g), reduction='none')
        lo,hi = clip_bounds(10, tau)
        assert lo <= l.min() and l.max() <= hi

def test_bounds_are_attained_for_inf_and_the_tight_ones_for_2():
    z = torch.full((1, 10), 50., dtype=torch.float64); z[0, 3] = -50
    ce = lambda z, p: F.cross_entropy(clip_logits(z, 1., p), tensor([3])).item()
    assert ce(z, INF) == pytest.approx(clip_bounds(10, 1.)[1], abs=1e-12)
    assert ce(-z, INF) == pytest.approx(clip_bounds(10, 1.)[0], abs=1e-12)
    got = []
    for sign in (1, -1):
        w = torch.randn(16, 10, dtype=torch.float64, requires_grad=True)
        opt = torch.optim.Adam([w], lr=.1)
        for _ in range(150):
            l = F.cross_entropy(clip_logits(w*20, 1.), torch.full((16,), 3), reduction='none')
            opt.zero_grad(); (-sign*l.sum()).backward(); opt.step()
        got.append((l*sign).max().item()*sign)
    assert got == pytest.approx([3.289309, 1.419869], abs=2e-5)

# --- what is refused -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('make', [lambda **kw: LogitClip(**kw), lambda **kw: clip_logits(Z, **kw)],
                         ids=['technique', 'function'])
def test_bad_settings(make):
    for tau in (0, -1., float('nan')):
        with pytest.raises(ValueError, match='`tau` must be positive, got'): make(tau=tau)
    for p in (0, .5, -2, float('nan')):
        with pytest.raises(ValueError, match='`p` must be a norm, 1 <= p <= inf, got'): make(tau=1., p=p)
    with pytest.raises(TypeError, match='tau'): LogitClip()

def test_bad_bounds():
    with pytest.raises(ValueError, match='`n_classes` must be at least 2, got 1'): clip_bounds(1, 1.)
    with pytest.raises(ValueError, match='`tau` must be positive, got 0'): clip_bounds(10, 0)

def test_warns_where_clipping_can_hurt():
    "A bounded loss with batch norm: the clip brought memorisation back (nbs/benchmarks/RESULTS.md)"
    def warned(loss, norm):
        learn = tiny_learner(LogitClip(1.), loss_func=loss, norm=norm)
        with warnings.catch_warnings(record=True) as w:
            warnings.simplefilter('always')
            learn.fit(1)
        return [str(o.message) for o in w if issubclass(o.category, RobustWarning)]
    assert 'memorisation back' in warned(GCELoss(), 'bn')[0]
    assert not warned(GCELoss(), None) and not warned(GCELoss(), 'gn') and not warned(CrossEntropy(), 'bn')

# --- in a learner ----------------------------------------------------------------------------------------------------
def test_trains_on_clipped_logits_and_predicts_raw_ones():
    learn = tiny_learner(LogitClip(.1))
    with torch.no_grad(): learn.model[-1].weight.mul_(40)
    learn.fit(3, .05)
    train = [v[0] for v in learn.recorder.values]
    lo,hi = clip_bounds(3, .1)
    assert all(lo <= v <= hi for v in train) and hi-lo < .4
    z = torch.cat([learn.model.eval()(b[0]) for b in learn.dls.valid]).detach().as_subclass(torch.Tensor)
    y = torch.cat([b[1] for b in learn.dls.valid]).as_subclass(torch.Tensor).long()
    assert z.norm(dim=1).min() > .1
    assert learn.validate()[0] == pytest.approx(F.cross_entropy(z, y).item(), rel=1e-5)
    assert torch.allclose(learn.get_preds()[0], z.softmax(1), atol=1e-6)

def digits():
    "Protocol P: 1,297 + 500 digits of scikit-learn"
    from sklearn.datasets import load_digits
    d = load_digits()
    i = np.random.RandomState(0).permutation(len(d.target))
    x,y = tensor(d.data[i]/16, dtype=torch.float32),d.target[i]
    return x[:1297],y[:1297],x[-500:],tensor(y[-500:])

def noisy(y, rate, seed):
    r,out = np.random.RandomState(100+seed),y.copy()
    for i in r.permutation(len(y))[:int(rate*len(y))]: out[i] = (y[i]+r.randint(1, 10))%10
    return tensor(out)

def mlp(seed, norm=nn.Identity):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 256), norm(256), nn.ReLU(), nn.Linear(256, 256), norm(256), nn.ReLU(),
                         nn.Linear(256, 10))

def test_a_learner_with_the_technique_is_the_protocol_in_plain_torch():
    "Batch for batch the same network: what the slow test below shows of the function holds of the technique"
    x,y,_,_ = digits()
    yn = noisy(y, .5, 0)
    batches = [(x[i:i+64], yn[i:i+64]) for i in range(0, 1280, 64)]
    a,b,c = mlp(0),mlp(0),mlp(0)
    opt = torch.optim.SGD(b.parameters(), lr=.1, momentum=.9, weight_decay=5e-4)
    for _ in range(4):
        for xb,yb in batches:
            opt.zero_grad(); F.cross_entropy(clip_logits(b(xb), .5), yb).backward(); opt.step()
    def train(net, cbs):
        dl = DataLoader(batches, bs=None)
        learn = Learner(DataLoaders(dl, dl, device='cpu'), net, loss_func=CrossEntropyLossFlat(), cbs=cbs, wd=5e-4,
                        wd_bn_bias=True, train_bn=True,
                        opt_func=partial(SGD, mom=.9, decouple_wd=False))
        with learn.no_bar(), learn.no_logging(): learn.fit(4, .1)
    train(a, LogitClip(.5)); train(c, None)
    diff = lambda m, n: max((p-q).abs().max().item() for p,q in zip(m.parameters(), n.parameters()))
    assert diff(a, b) < 2e-5 < .05 < diff(a, c)

def protocol(rate, seed, transform, norm=nn.Identity, lr=.1, epochs=60, drops=(24, 42)):
    "Mean test accuracy of the last 5 epochs, and the largest norm of the transformed logits"
    x,y,xv,yv = digits()
    yn,net,accs = noisy(y, rate, seed),mlp(seed, norm),[]
    opt = torch.optim.SGD(net.parameters(), lr=lr, momentum=.9, weight_decay=5e-4)
    for e in range(epochs):
        for g in opt.param_groups: g['lr'] = lr*.1**sum(e >= o for o in drops)
        for i in torch.randperm(len(x))[:1280].split(64):
            opt.zero_grad(); F.cross_entropy(transform(net(x[i])), yn[i]).backward(); opt.step()
        net.eval()
        if e >= epochs-5:
            with torch.no_grad(): accs.append((net(xv).argmax(1) == yv).float().mean().item())
        net.train(e < epochs-1)
    with torch.no_grad(): return np.mean(accs), transform(net(x)).norm(dim=1).max().item()

WAYS = dict(ce=lambda z: z, clip1=lambda z: clip_logits(z, 1.), clip05=lambda z: clip_logits(z, .5),
            norm=lambda z: normalize_logits(z, 1.))

@pytest.mark.slow
def test_protocol_P():
    "50 % symmetric noise on digits, 5 seeds: the clip wins, and normalising every row would be found out"
    runs = {k: [protocol(.5, s, f) for s in range(5)] for k,f in WAYS.items()}
    acc = {k: np.array([o[0] for o in v]) for k,v in runs.items()}
    print({k: (v.mean().round(4), v.std(ddof=1).round(4), v.min().round(4)) for k,v in acc.items()})
    assert .74 <= acc['ce'].mean() <= .86
    for k,tau in (('clip1', 1.), ('clip05', .5)):
        assert acc[k].mean() >= .90 and (acc[k]-acc['ce'] >= .05).all(), (k, acc[k], acc['ce'])
        assert max(o[1] for o in runs[k]) <= tau*(1+1e-5)
    assert acc['norm'].mean() <= .78

@pytest.mark.slow
def test_with_batch_norm_and_long_training_it_forbids_nothing():
    "The same network with batch norm, 100 epochs: all is memorised, clipped or not (a limit the docs must name)"
    kw = dict(norm=nn.BatchNorm1d, lr=.05, epochs=100, drops=(40, 70))
    acc = {k: np.mean([protocol(.5, s, WAYS[k], **kw)[0] for s in range(2)]) for k in ('ce', 'clip1', 'clip05')}
    print(acc)
    assert .52 < acc['ce'] < .68 and all(abs(acc[k]-acc['ce']) < .05 for k in ('clip1', 'clip05'))
