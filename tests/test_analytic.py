"The closed-form head: the spec's numbers on digits, constants of the first block, merging, unlearning, files, devices"
import copy, io, math, pickle
import numpy as np
import pytest, torch
from torch import nn
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from fastrobust.inference.analytic import AnalyticHead
from fastrobust.inference.buffers import GaussianBuffer, RandomBuffer
from fastrobust.inference.dual import DualAnalyticHead
from fastrobust.inference.recursion import woodbury_step
from fastrobust.inference.ridge import RidgeStats
from test_ridge import by_qr, rows

@pytest.fixture(scope='module')
def digits():
    "1347 and 450 digits of 8x8 pixels in [0,1], as rows"
    X,y = load_digits(return_X_y=True)
    a,b,ya,yb = train_test_split(X/16, y, test_size=450, stratify=y, random_state=0)
    return torch.tensor(a),torch.tensor(ya),torch.tensor(b),torch.tensor(yb)

def accuracy(head, Xv, yv):
    "Per cent, of the classes it has learned"
    codes = torch.tensor(head.classes)
    mine = torch.isin(yv, codes)
    return round(100*(codes[head(Xv[mine]).argmax(1)] == yv[mine]).double().mean().item(), 2)

def in_phases(head, digits, groups):
    "Accuracy after each phase"
    X,y,Xv,yv = digits
    found = []
    for o in groups:
        mine = torch.isin(y, torch.tensor(o))
        head.fit(X[mine], y[mine])
        found.append(accuracy(head, Xv, yv))
    return found

BASE = [0, 1, 2, 3, 4]
FIVE,ONE = [BASE, [5], [6], [7], [8], [9]],[BASE, [5, 6, 7, 8, 9]]

# --- digits, 5 + 5: the numbers of the spec --------------------------------------------------------------------------
def test_digits_in_five_phases(digits):
    heads = [AnalyticHead(64, 512, .1, standardise=False) for _ in range(3)]
    assert in_phases(heads[0], digits, FIVE) == [100, 100, 100, 99.72, 98.52, 98.22]
    assert in_phases(heads[1], digits, ONE) == [100, 98.22]
    joint = heads[2].fit(*digits[:2])
    Xv = digits[2]
    picks = [torch.tensor(h.classes)[h(Xv).argmax(1)] for h in heads]
    assert torch.equal(picks[0], picks[1]) and torch.equal(picks[0], picks[2])
    order = [joint.classes.index(k) for k in heads[0].classes]
    torch.testing.assert_close(joint.W[:, order], heads[0].W, atol=1e-10, rtol=0)

@pytest.mark.parametrize('kw,want', [
    (dict(m=128, gamma=.1), 95.11), (dict(m=2048, gamma=.1), 99.11), (dict(m=512, gamma=1e-3), 97.56),
    (dict(m=512, gamma=10.), 97.11), (dict(m=512, gamma=1000.), 89.56),
    (dict(m=GaussianBuffer(256, 1.5), gamma=.1), 96.44)])
def test_digits_with_other_settings(digits, kw, want):
    assert in_phases(AnalyticHead(64, standardise=False, **kw), digits, FIVE)[-1] == want

@pytest.mark.parametrize('C,want', [(0, 98.22), (1., 98.44)])
def test_digits_of_ds_al(digits, C, want):
    assert in_phases(DualAnalyticHead(64, 512, .1, C, .1, standardise=False), digits, FIVE)[-1] == want

def test_the_gamma_it_chooses(digits):
    "Near the best of a grid on right labels, and far above it on wrong ones (40 %, five draws), where .1 fails"
    X,y,Xv,yv = digits
    assert accuracy(AnalyticHead(64, 512, standardise=False).fit(X, y), Xv, yv) >= 98.22
    found = {g: [] for g in ('auto', .1)}
    for s in range(5):
        g = np.random.default_rng(s)
        wrong = g.permutation(len(y))[:round(.4*len(y))]
        t = y.clone()
        t[wrong] = (y[wrong] + torch.tensor(g.integers(1, 10, len(wrong)))) % 10
        for k,v in found.items():
            head = AnalyticHead(64, 512, k, standardise=False, seed=s).fit(X, t)
            v.append(accuracy(head, Xv, yv))
    assert np.mean(found['auto']) >= 94 and np.mean(found[.1]) <= 88

# --- constants -------------------------------------------------------------------------------------------------------
def test_scaling_is_of_the_first_block():
    Z,y = rows(relu=False)
    Z[:, 3] = 7.        # a feature that never changes
    head = AnalyticHead(12, 30, .1, seed=5).fit(Z[:100], y[:100]).fit(Z[100:], y[100:])
    std = Z[:100].std(0, unbiased=False)
    std[3] = 1
    f = (Z-Z[:100].mean(0))/std
    g = torch.Generator().manual_seed(5)
    B = torch.empty(12, 30, dtype=torch.float64).uniform_(-1, 1, generator=g)/math.sqrt(12)
    np.testing.assert_allclose(head.W, by_qr((f@B).relu(), y, .1, head.classes), atol=1e-9)
    torch.testing.assert_close(head(Z), (f@B).relu() @ head.W)
    given = AnalyticHead(12, 30, .1, seed=5, standardise=(Z[:100].mean(0).numpy(), std.float())).fit(Z, y)
    order = [given.classes.index(k) for k in head.classes]
    torch.testing.assert_close(given.W[:, order], head.W, atol=1e-6, rtol=0)
    assert AnalyticHead(12, standardise=False).fit(Z, y).scaling is None

def test_random_layers():
    f = torch.randn(20, 400, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for act,want in (('relu', torch.relu), ('tanh', torch.tanh), ('none', lambda z: z), (None, lambda z: z)):
        b = RandomBuffer(400, 50, act, 'normal', seed=2)
        torch.testing.assert_close(b(f), want(f @ b.B))
    assert torch.equal(RandomBuffer(400, 50, seed=2).B, RandomBuffer(400, 50, seed=2).B)
    assert not torch.equal(RandomBuffer(400, 50, seed=2).B, RandomBuffer(400, 50, seed=3).B)
    B = RandomBuffer(400, 500).B
    assert B.abs().max() <= 1/20 and B.std() == pytest.approx(1/20/3**.5, rel=.01)
    assert RandomBuffer(400, 500, init='normal').B.std() == pytest.approx(1/20, rel=.01)
    assert RandomBuffer(400, 50)(f.half().float()).dtype == torch.float32

def test_kernel_features():
    f = torch.randn(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    b = GaussianBuffer(8, sigma=2., seed=1).fitted(f)
    assert all((b.C[i] == f).all(1).any() for i in range(8)) and len(b.C.unique(dim=0)) == 8
    want = torch.tensor([[math.exp(-sum((u-v)**2 for u,v in zip(r, c))/8) for c in b.C.tolist()] for r in f.tolist()])
    torch.testing.assert_close(b(f), want.double(), atol=1e-7, rtol=0)
    more = GaussianBuffer(30, seed=1).fitted(f)
    drawn = more.C[20:]
    assert more.C.shape == (30, 4) and (drawn.amax(0) <= f.amax(0)).all() and (drawn.amin(0) >= f.amin(0)).all()
    assert more.sigma == pytest.approx(torch.pdist(more.C).median().item())
    assert GaussianBuffer(2).fitted(f[:1]*0).sigma == 1
    head = AnalyticHead(4, GaussianBuffer(8)).fit(f, [0, 1]*10)
    assert head.empty().fit(f[:5]+9, [0]*5).buffer.C is head.buffer.C      # the centres stay those of the first block

# --- merged, unlearned, left out: as the sums are --------------------------------------------------------------------
def head_of(parts, **kw):
    h = AnalyticHead(12, 30, .1, **kw)
    for Z,y in parts: h.fit(Z, y)
    return h

def test_parts_of_one_head():
    Z,y = rows()
    first = head_of([(Z[:60], y[:60])])
    whole = head_of([(Z[:60], y[:60]), (Z[60:], y[60:])])
    rest = first.empty().fit(Z[60:150], y[60:150]) + first.empty().fit(Z[150:], y[150:])
    both = first + rest
    assert both.stats.n == 240 and first.stats.n == 60
    order = [both.classes.index(k) for k in whole.classes]
    torch.testing.assert_close(both.W[:, order], whole.W, atol=1e-12, rtol=0)
    torch.testing.assert_close(both(Z)[:, order], whole(Z), atol=1e-11, rtol=0)
    torch.testing.assert_close(first(Z[:5]).shape, (5, len(first.classes)))

def test_forgotten_and_left_out():
    Z,y = rows()
    h = head_of([(Z, y)], intercept=True)
    loo,seven = h.loo(Z, y),torch.arange(240) != 7
    h.forget(Z[7:8], y[7:8])
    torch.testing.assert_close(h(Z[7:8]), loo[7:8], atol=1e-10, rtol=0)
    f = h.expand(Z)
    np.testing.assert_allclose(np.r_[h.W, h.b[None]], by_qr(f[seven], y[seven], .1, h.classes, True), atol=1e-9)
    assert h.stats.n == 239 and h.forget(Z[:0], []).stats.n == 239

def test_what_may_not_be_added():
    Z,y = rows()
    a = head_of([(Z[:60], y[:60])])
    for b,says in [(head_of([(Z[60:], y[60:])]), 'same scaling'), (AnalyticHead(12, 31), 'm=30 and d=12, m=31'),
                   (AnalyticHead(12, 30, seed=1, standardise=a.scaling).fit(Z, y), 'same buffer'),
                   (AnalyticHead(12, 30, act='tanh', standardise=a.scaling).fit(Z, y), 'same buffer')]:
        with pytest.raises(ValueError, match=says): a + b
    cats,dogs = (head_of([(Z, y)], vocab=v) for v in (['cat', 'cow'], ['dog', 'cow', 'hen']))
    with pytest.raises(ValueError, match="code 0 as 'cat' and as 'dog'"): cats + dogs
    more = cats.empty()
    more.vocab = ['cat', 'cow', 'hen']
    assert (cats + more).vocab == ['cat', 'cow', 'hen'] and cats.vocab == ['cat', 'cow']
    with pytest.raises(TypeError): a + 1

# --- as a module -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('make', [
    lambda: AnalyticHead(12, 30), lambda: AnalyticHead(12, GaussianBuffer(20), .1, balance=True),
    lambda: AnalyticHead(12, intercept=True, vocab=list('abcd')), lambda: DualAnalyticHead(12, 30)])
def test_saved_in_the_middle_and_gone_on(make):
    Z,y = rows()
    mine = make().fit(Z[:60], y[:60])
    file = io.BytesIO()
    torch.save(nn.Sequential(nn.Linear(3, 12), mine).state_dict(), file)
    file.seek(0)
    again = make()
    nn.Sequential(nn.Linear(3, 12), again).load_state_dict(torch.load(file, weights_only=True))
    for h in (again, pickle.loads(pickle.dumps(mine)), copy.deepcopy(mine)):
        h.fit(Z[60:], y[60:])
        whole = make().fit(Z[:60], y[:60]).fit(Z[60:], y[60:])
        assert h.classes == whole.classes and h.vocab == whole.vocab
        torch.testing.assert_close(h(Z), whole(Z), atol=1e-12, rtol=0)
    assert mine.stats.n == 60

def test_states_of_other_heads():
    state = AnalyticHead(12, 30).state_dict()
    with pytest.raises(ValueError, match='d=12, m=31, got one with d=12, m=30'):
        AnalyticHead(12, 31).load_state_dict(state)

def test_half_precision_leaves_it_alone():
    "`half()` and `to` would spoil float64 buffers; there are none"
    Z,y = rows()
    h = AnalyticHead(12, 30).fit(Z, y)
    want = h(Z)
    net = nn.Sequential(nn.Linear(12, 12), h).half()
    torch.testing.assert_close(net[1](Z), want, atol=0, rtol=0)
    assert not list(h.parameters()) and not list(h.buffers())
    z = h(Z.half())
    assert z.dtype == torch.float16 and (z.double()-want).abs().max() < .02
    with torch.autocast('cpu', dtype=torch.bfloat16): torch.testing.assert_close(h(Z), want, atol=0, rtol=0)

def test_scores_follow_what_is_learned():
    Z,y = rows()
    h = AnalyticHead(12, gamma=.1).fit(Z[:100], y[:100])
    before = h(Z)
    assert not torch.allclose(h.fit(Z[100:], y[100:])(Z)[:, :4], before)
    now = h(Z)
    h.gamma = 10.
    assert not torch.allclose(h(Z), now) and h.gamma_ == 10
    I = torch.eye(12, dtype=torch.float64)
    torch.testing.assert_close(h.R @ (h.stats.G + 10*I), I)

@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_on_a_gpu():
    Z,y = rows(n=2000)
    want = AnalyticHead(12, 30, .1).fit(Z, y)
    h = AnalyticHead(12, 30, .1, device='cuda', dtype=torch.float32).fit(Z.float().cuda(), y.cuda())
    got = h(Z.float().cuda())
    assert got.device.type == 'cuda' and (got.cpu()-want(Z)).abs().max() < 1e-3

def test_predict_takes_what_fit_takes():
    Z,y = rows()
    h = AnalyticHead(12, 30).fit(np.asarray(Z), y.tolist())
    got = h.predict(np.asarray(Z))
    assert torch.equal(got, torch.tensor(h.classes)[h(Z).argmax(1)]) and (got == y).double().mean() > .7

# --- rare classes ----------------------------------------------------------------------------------------------------
def test_balance_helps_rare_classes(digits):
    "Ten times fewer of five digits: mean accuracy of the classes, AIR's weights against none (the same gamma)"
    X,y,Xv,yv = digits
    g = np.random.default_rng(0)
    keep = torch.tensor((y.numpy() < 5) | (g.random(len(y)) < .04))
    def balanced(h):
        hit = torch.tensor(h.classes)[h(Xv).argmax(1)] == yv
        return np.mean([hit[yv == k].double().mean() for k in range(10)])
    plain,even = (AnalyticHead(64, 256, 1., balance=b).fit(X[keep], y[keep]) for b in (False, True))
    assert balanced(even) > balanced(plain) + .02

# --- refused at the door ---------------------------------------------------------------------------------------------
def test_bad_heads():
    Z,y = rows()
    with pytest.raises(ValueError, match='got an empty one'): AnalyticHead(12)(Z)
    with pytest.raises(ValueError, match='at least two rows'): AnalyticHead(12).fit(Z[:1], y[:1])
    for kw,err,says in [(dict(gamma=0), ValueError, '`gamma`'), (dict(gamma='best'), TypeError, '`gamma`'),
                        (dict(m=0), ValueError, '`m` must'), (dict(m='many'), ValueError, '`m` must'),
                        (dict(m=5, act='sin'), ValueError, 'relu, tanh, none'),
                        (dict(m=5, init='gauss'), ValueError, 'GaussianBuffer'),
                        (dict(standardise=3), TypeError, 'standardise'),
                        (dict(standardise=(np.zeros(12), np.zeros(12))), ValueError, 'positive std'),
                        (dict(standardise=(np.zeros(3), np.ones(3))), ValueError, 'each of 12')]:
        with pytest.raises(err, match=says): AnalyticHead(12, **kw)
    for kw,says in [(dict(m=0), '`m`'), (dict(m=3, sigma=0), '`sigma`'), (dict(m=3, sigma='wide'), '`sigma`'),
                    (dict(m=3, sigma=True), '`sigma`')]:
        with pytest.raises(ValueError, match=says): GaussianBuffer(**kw)
    for kw,err,says in [(dict(C=-1), ValueError, '`C`'), (dict(C='1'), TypeError, '`C`'),
                        (dict(intercept=True), ValueError, 'without `intercept`'),
                        (dict(m=GaussianBuffer(3)), TypeError, 'number of random features')]:
        with pytest.raises(err, match=says): DualAnalyticHead(12, **{'m': 5, **kw})

def test_a_failed_first_block_leaves_no_constants():
    Z,y = rows()
    h = AnalyticHead(12, GaussianBuffer(5))
    bad = Z.clone()
    bad[200, 0] = np.nan
    with pytest.raises(ValueError, match='first .200.'): h.fit(bad, y)
    with pytest.raises(ValueError, match='one class number'): h.fit(Z, y[:-1])
    class Stop(GaussianBuffer):
        def fitted(self, f): return self
        def __call__(self, f): raise KeyboardInterrupt
    stopped = AnalyticHead(12, Stop(5))
    with pytest.raises(KeyboardInterrupt): stopped.fit(Z, y)
    for o in (h, stopped): assert o.scaling is None and o.stats.n == 0 and o.classes == []
    assert h.buffer.C is None

# --- DS-AL -----------------------------------------------------------------------------------------------------------
def test_ds_al_by_its_equations():
    "Two phases by hand: main stream, then the residue in the columns of the new classes, on tanh of the same layer"
    Z,y = rows()
    h = DualAnalyticHead(12, 30, .1, C=.7, gamma2=.2, standardise=False)
    parts = [(y < 2).nonzero()[:, 0], (y >= 2).nonzero()[:, 0]]
    for p in parts: h.fit(Z[p], y[p])
    main,B = RidgeStats(30),h.buffer.B
    G,Q,old = torch.zeros(30, 30, dtype=torch.float64),torch.zeros(30, 4, dtype=torch.float64),0
    for p in parts:
        M,T = (Z[p]@B).relu(),(Z[p]@B).tanh()
        W = main.add(M, y[p]).solve(.1)
        c = W.shape[1]
        E = (y[p][:, None] == torch.tensor(main.classes)).double() - M@W
        E[:, :old] = 0
        G,Q[:, :c],old = G + T.T@T,Q[:, :c] + T.T@E,c
    W2 = torch.linalg.solve(G + .2*torch.eye(30, dtype=torch.float64), Q)
    torch.testing.assert_close(h(Z), (Z@B).relu()@main.solve(.1) + .7*(Z@B).tanh()@W2, atol=1e-9, rtol=0)
    for f in (lambda: h.forget(Z, y), lambda: h + h):
        with pytest.raises(ValueError, match='Use AnalyticHead'): f()
    assert h.empty().fit(Z[:0], []).stats.n == 0 and h.stats.n == 240

def test_ds_al_learns_a_phase_or_nothing(monkeypatch):
    Z,y = rows()
    h = DualAnalyticHead(12, 30).fit(Z[:100], y[:100])
    want = h(Z)
    monkeypatch.setattr(DualAnalyticHead, 'expand2', lambda self, f: 1/0)
    with pytest.raises(ZeroDivisionError): h.fit(Z[100:], y[100:])
    monkeypatch.undo()
    torch.testing.assert_close(h(Z), want, atol=1e-12, rtol=0)
    assert h.stats.n == 100

def test_ds_al_that_fails_at_once_has_no_constants(monkeypatch):
    Z,y = rows()
    h = DualAnalyticHead(12, 30)
    monkeypatch.setattr(DualAnalyticHead, 'expand2', lambda self, f: 1/0)
    with pytest.raises(ZeroDivisionError): h.fit(Z, y)
    assert h.scaling is None and h.stats.n == 0
    monkeypatch.undo()
    want = DualAnalyticHead(12, 30).fit(Z[100:], y[100:])
    torch.testing.assert_close(h.fit(Z[100:], y[100:])(np.asarray(Z)), want(Z), atol=1e-12, rtol=0)

# --- the spec's numeric checks 2 to 4 --------------------------------------------------------------------------------
def test_the_recursion_loses_digits_in_large_blocks_and_the_sums_do_not():
    "600 x 256, ten classes, gamma .1: one block of 300 rows costs the recursion three digits or more"
    g = torch.Generator().manual_seed(0)
    Z = torch.randn(600, 256, dtype=torch.float64, generator=g).relu()
    y = torch.randint(10, (600,), generator=g)
    Y = torch.eye(10, dtype=torch.float64)[y]
    want = by_qr(Z, y, .1, range(10))
    def off(n):
        R,W = torch.eye(256, dtype=torch.float64)/.1,torch.zeros(256, 0, dtype=torch.float64)
        for i in range(0, 600, n): R,W = woodbury_step(R, W, Z[i:i+n], Y[i:i+n])
        return np.abs(W.numpy()-want).max()
    assert off(7) < 1e-11 and off(60) < 1e-9 and off(300) > 100*off(7)
    s = RidgeStats(256)
    for i in range(0, 600, 300): s.add(Z[i:i+300], y[i:i+300])
    order = [s.classes.index(k) for k in range(10)]
    assert np.abs(s.solve(.1)[:, order].numpy()-want).max() < 1e-13

def test_three_items_that_a_loader_drops_are_seen(digits):
    X,y = digits[:2]
    whole,part = (AnalyticHead(64, 512, .1, standardise=False).fit(X[:n], y[:n]) for n in (1347, 1344))
    order = [part.classes.index(k) for k in whole.classes]
    assert (whole.W-part.W[:, order]).abs().max() > 1e-2

def test_what_the_sums_take():
    s = RidgeStats(1024)
    assert s.G.element_size()*s.G.numel() == 8*1024**2
