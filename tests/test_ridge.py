"Sums of rows solve ridge regression: against QR least squares, the paper's recursion, scikit-learn, refits, by hand"
import copy, pickle
import numpy as np
import pytest, torch
from hypothesis import given, settings, strategies as st
from scipy.linalg import solve_triangular
from sklearn.linear_model import Ridge, RidgeCV
from fastrobust.inference import memory, rows as rows_module
from fastrobust.inference.recursion import woodbury_step
from fastrobust.inference.ridge import RidgeStats
from fastrobust.inference.rows import need_codes, need_features, row_blocks

GAMMAS = [1e-6, 1e-3, .1, 10.]

def rows(n=240, d=12, c=4, seed=0, relu=True):
    "Features with a mean, and labels that they tell something about"
    g = torch.Generator().manual_seed(seed)
    Z = torch.randn(n, d, dtype=torch.float64, generator=g)
    y = (Z[:, :c] + .5*torch.randn(n, c, dtype=torch.float64, generator=g)).argmax(1)
    return (Z.relu() if relu else Z+1),y

def by_qr(Z, y, gamma, classes, intercept=False, w=None):
    "argmin by QR of the augmented rows, which forms no Z'Z; the constant is the last row"
    Z,y = np.asarray(Z),np.asarray(y)
    Y = (y[:, None] == np.array(classes)).astype(float)
    pen = np.sqrt(gamma)*np.eye(Z.shape[1])
    if intercept:
        Z = np.c_[Z, np.ones(len(Z))]
        pen = np.c_[pen, np.zeros(len(pen))]
    v = np.sqrt(np.ones(len(Z)) if w is None else w)[:, None]
    q,r = np.linalg.qr(np.r_[v*Z, pen])
    return solve_triangular(r, q.T @ np.r_[v*Y, np.zeros((len(pen), Y.shape[1]))])

def solution(s, gamma):
    W = s.solve(gamma)
    return torch.cat([W, s.offset(gamma)[None]]).numpy() if s.intercept else W.numpy()

# --- one solution, whatever the way ----------------------------------------------------------------------------------
@pytest.mark.parametrize('gamma', GAMMAS)
@pytest.mark.parametrize('intercept', [False, True])
@pytest.mark.parametrize('balance', [False, True])
def test_equals_least_squares(gamma, intercept, balance):
    Z,y = rows()
    s = RidgeStats(12, intercept=intercept, balance=balance).add(Z, y)
    w = None
    if balance: w = len(y)/(4*np.bincount(y)[y])        # each class weighs n/c together
    want = by_qr(Z, y, gamma, s.classes, intercept, w)
    np.testing.assert_allclose(solution(s, gamma), want, atol=1e-10)
    s.gcv()                                             # afterwards it solves by the band
    s.normal._solved = {}
    np.testing.assert_allclose(solution(s, gamma), want, atol=1e-10)

@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(0, 240), max_size=6), seed=st.integers(0, 99), gamma=st.sampled_from(GAMMAS),
       intercept=st.booleans())
def test_any_split_and_order(cuts, seed, gamma, intercept):
    "Empty blocks, single rows, classes that appear late and again: one head"
    Z,y = rows()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    s = RidgeStats(12, intercept=intercept)
    edges = [0, *sorted(cuts), 240]
    for a,b in zip(edges, edges[1:]): s.add(Z[order[a:b]], y[order[a:b]])
    assert sorted(s.classes) == [0, 1, 2, 3] and s.n == 240 and s.classes == list(dict.fromkeys(y[order].tolist()))
    np.testing.assert_allclose(solution(s, gamma), by_qr(Z, y, gamma, s.classes, intercept), atol=1e-8)

@pytest.mark.parametrize('gamma,tol', [(1e-3, 1e-7), (.1, 1e-10), (10., 1e-12)])
def test_the_papers_recursion(gamma, tol):
    Z,y = rows()
    I = torch.eye(12, dtype=torch.float64)
    R,W = I/gamma,torch.zeros(12, 0, dtype=torch.float64)
    s = RidgeStats(12)
    groups = [(y < 2).nonzero()[:, 0], (y == 2).nonzero()[:, 0], (y == 3).nonzero()[:, 0], torch.zeros(0, dtype=int)]
    for keep in [b for o in groups for b in o.split(8)]:        # large blocks cost it its digits
        s.add(Z[keep], y[keep])
        Y = (y[keep][:, None] == torch.tensor(s.classes)).double()
        before = R.trace()
        R,W = woodbury_step(R, W, Z[keep], Y)
        torch.testing.assert_close(W, s.solve(gamma), atol=tol, rtol=tol)
        torch.testing.assert_close(R @ (s.G + gamma*I), I, atol=tol, rtol=0)
        assert R.trace() <= before and torch.linalg.eigvalsh(R).min() > 0
        torch.testing.assert_close(R, R.T, atol=tol, rtol=tol)

def test_by_hand():
    "spec: z = (1,2) of class 0, then (1,-1) of class 1; gamma 1"
    s = RidgeStats(2).add(torch.tensor([[1., 2]]), [0])
    torch.testing.assert_close(s.solve(1.)*6, torch.tensor([[1.], [2]], dtype=torch.float64))
    s.add(torch.tensor([[1., -1]]), [1])
    torch.testing.assert_close(s.solve(1.)*17, torch.tensor([[4., 7], [5, -4]], dtype=torch.float64))
    assert s.G.tolist() == [[2, 1], [1, 5]] and s.Q.tolist() == [[1, 1], [2, -1]] and s.counts.tolist() == [1, 1]
    R,W = torch.eye(2, dtype=torch.float64),torch.zeros(2, 0, dtype=torch.float64)
    z,t = torch.tensor([[1., 2]], dtype=torch.float64),torch.ones(1, 1, dtype=torch.float64)
    R,W = woodbury_step(R, W, z, t)
    torch.testing.assert_close(R*6, torch.tensor([[5., -2], [-2, 2]], dtype=torch.float64))
    z,t = torch.tensor([[1., -1]], dtype=torch.float64),torch.tensor([[0., 1]], dtype=torch.float64)
    R,W = woodbury_step(R, W, z, t)
    torch.testing.assert_close(R*17, torch.tensor([[6., -1], [-1, 3]], dtype=torch.float64))
    torch.testing.assert_close(W, s.solve(1.))

@pytest.mark.parametrize('intercept', [False, True])
def test_scikit_learns_ridge(intercept):
    Z,y = rows()
    s = RidgeStats(12, intercept=intercept).add(Z, y)
    Y = (y[:, None] == torch.tensor(s.classes)).double()
    r = Ridge(alpha=.3, fit_intercept=intercept).fit(Z, Y)
    np.testing.assert_allclose(s.solve(.3).numpy(), r.coef_.T, atol=1e-10)
    if intercept: np.testing.assert_allclose(s.offset(.3).numpy(), r.intercept_, atol=1e-10)

def test_more_features_than_rows():
    "Beyond its rank G knows gamma alone: the digits that float64 leaves, and no more"
    Z,y = rows(n=30, d=80)
    s = RidgeStats(80).add(Z, y)
    for gamma,tol in ((1e-3, 1e-9), (.1, 1e-11), (10., 1e-12)):
        np.testing.assert_allclose(solution(s, gamma), by_qr(Z, y, gamma, s.classes), atol=tol)

def test_a_penalty_without_end():
    Z,y = rows()
    s = RidgeStats(12).add(Z, y)
    size = [s.solve(g).abs().max().item() for g in (1., 1e3, 1e6, 1e12)]
    assert size == sorted(size, reverse=True) and size[-1] < 1e-9

# --- the penalty that needs no held-out rows -------------------------------------------------------------------------
@pytest.mark.parametrize('intercept', [False, True])
@pytest.mark.parametrize('n,d', [(240, 12), (40, 60)])
def test_gcv_by_its_formula(intercept, n, d):
    Z,y = rows(n=n, d=d)
    s = RidgeStats(d, intercept=intercept).add(Z, y)
    Y = np.eye(4)[y][:, s.classes]
    Zt = np.c_[Z, np.ones(n)] if intercept else Z.numpy()
    grid = np.logspace(-3, 4, 29)
    found = []
    for g in grid:
        pen = g*np.eye(Zt.shape[1])
        if intercept: pen[-1, -1] = 0
        H = Zt @ np.linalg.solve(Zt.T@Zt + pen, Zt.T)
        found.append(n*((Y-H@Y)**2).sum()/(n-np.trace(H))**2)
    np.testing.assert_allclose([s.normal._error(g) for g in grid], found, rtol=1e-6)
    assert s.gcv(grid) == pytest.approx(grid[np.argmin(found)])
    own = s.gcv()
    assert s.normal._error(own) <= min(found)*1.02 and s.gcv() == own

def test_gcv_is_near_leave_one_out():
    Z,y = rows()
    s = RidgeStats(12).add(Z, y)
    grid = np.logspace(-2, 4, 25)
    Y = (y[:, None] == torch.tensor(s.classes)).double().numpy()
    loo = RidgeCV(grid, fit_intercept=False).fit(Z, Y).alpha_
    assert abs(np.log10(s.gcv(grid)/loo)) <= .5

def test_gcv_asks_for_more_where_labels_are_wrong():
    Z,y = rows(n=1000, relu=False)
    g = np.random.default_rng(0)
    noisy = torch.where(torch.tensor(g.random(1000) < .6), torch.tensor(g.integers(0, 4, 1000)), y)
    clean,wrong = (RidgeStats(12).add(Z, t).gcv() for t in (y, noisy))
    assert wrong > 1.5*clean

def test_gcv_where_there_is_nothing_to_choose():
    assert RidgeStats(3).add(torch.zeros(5, 3), [0, 1, 0, 1, 1]).gcv() == 1
    one = RidgeStats(3).add(torch.ones(1, 3), [0])
    assert one.gcv() > 1        # every penalty is as good: the largest
    Z = torch.eye(6, dtype=torch.float64)
    assert np.isfinite(RidgeStats(6).add(Z, [0, 1, 2, 0, 1, 2]).gcv())

# --- merged, unlearned, left out -------------------------------------------------------------------------------------
@pytest.mark.parametrize('balance', [False, True])
def test_merged(balance):
    Z,y = rows()
    whole = RidgeStats(12, balance=balance, intercept=True).add(Z, y)
    parts = [RidgeStats(12, balance=balance, intercept=True).add(Z[i::4], y[i::4]) for i in range(4)]
    parts[1] = parts[1] + RidgeStats(12, balance=balance, intercept=True)
    a = parts[0] + parts[1] + parts[2] + parts[3]
    order = [a.classes.index(k) for k in whole.classes]
    torch.testing.assert_close(a.solve(.1)[:, order], whole.solve(.1), atol=1e-12, rtol=0)
    assert a.n == 240 and parts[0].n == 60 and a.counts[order].tolist() == whole.counts.tolist()

@pytest.mark.parametrize('gamma', GAMMAS)
@pytest.mark.parametrize('balance', [False, True])
def test_forgotten_rows_were_never_there(gamma, balance):
    Z,y = rows()
    gone = torch.arange(240) % 7 == 3
    s = RidgeStats(12, intercept=True, balance=balance).add(Z, y)
    s.forget(Z[gone], y[gone])
    w = None
    if balance: w = len(y[~gone])/(4*np.bincount(y[~gone])[y[~gone]])
    np.testing.assert_allclose(solution(s, gamma), by_qr(Z[~gone], y[~gone], gamma, s.classes, True, w), atol=1e-8)
    s.forget(Z[~gone & (y == 1)], y[~gone & (y == 1)])
    assert sorted(s.classes) == [0, 2, 3] and s.Q.shape == (12, 3)
    keep = ~gone & (y != 1)
    if balance: w = len(y[keep])/(3*np.bincount(y[keep], minlength=4)[y[keep]])
    np.testing.assert_allclose(solution(s, gamma), by_qr(Z[keep], y[keep], gamma, s.classes, True, w), atol=1e-8)

def test_all_is_forgotten_exactly():
    Z,y = rows()
    s = RidgeStats(12).add(Z, y).forget(Z, y)
    assert s.n == 0 and s.classes == [] and s.G.abs().max() == 0
    with pytest.raises(ValueError, match='expected rows to solve for, got none'): s.solve(1.)
    np.testing.assert_allclose(s.add(Z, y).solve(1.).numpy(), by_qr(Z, y, 1., s.classes), atol=1e-12)

@pytest.mark.parametrize('intercept', [False, True])
@pytest.mark.parametrize('gamma', GAMMAS)
def test_leave_one_out_is_refitting(intercept, gamma):
    Z,y = rows()
    s = RidgeStats(12, intercept=intercept).add(Z, y)
    found = s.loo(Z, y, gamma)
    for i in range(0, 240, 12):
        keep = torch.arange(240) != i
        W = by_qr(Z[keep], y[keep], gamma, s.classes, intercept)
        z = np.r_[Z[i], 1.] if intercept else Z[i].numpy()
        np.testing.assert_allclose(found[i], z@W, atol=1e-8)

def test_leave_one_out_with_fixed_weights():
    "Balanced: the row goes, the weights of the others stay"
    Z,y = rows()
    s = RidgeStats(12, balance=True, intercept=True).add(Z, y)
    w = 240/(4*np.bincount(y)[y])
    found = s.loo(Z, y, .5)
    for i in (0, 17, 100):
        keep = np.arange(240) != i
        W = by_qr(Z[keep], y[keep], .5, s.classes, True, w[keep])
        np.testing.assert_allclose(found[i], np.r_[Z[i], 1.]@W, atol=1e-8)

# --- whole or not at all ---------------------------------------------------------------------------------------------
def test_a_block_that_fails_leaves_nothing_behind():
    Z,y = rows()
    s = RidgeStats(12).add(Z[:50], y[:50])
    before = copy.deepcopy(s.state())
    bad = Z[50:60].clone()
    bad[3, 4] = np.nan
    with pytest.raises(ValueError, match='NaN or inf in 1 of 10 rows, first'):
        s.add_blocks([(Z[60:70], y[60:70]), (bad, y[50:60])])
    def stopped():
        yield Z[60:70],y[60:70]
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): s.add_blocks(stopped())
    after = s.state()
    assert after['classes'] == before['classes'] and torch.equal(after['counts'], before['counts'])
    assert torch.equal(after['Q'], before['Q']) and torch.equal(after['grams'][0], before['grams'][0])

def test_blocks_of_memory_do_not_matter(monkeypatch):
    Z,y = rows()
    whole = RidgeStats(12).add(Z, y)
    monkeypatch.setattr(rows_module, '_NUMBERS', 12*7)
    assert [len(o[0]) for o in row_blocks(Z, y, width=12)][:2] == [7, 7]
    parts = RidgeStats(12).add(Z, y)
    torch.testing.assert_close(parts.solve(.1), whole.solve(.1), atol=1e-12, rtol=0)
    torch.testing.assert_close(parts.loo(Z, y, .1), whole.loo(Z, y, .1), atol=1e-12, rtol=0)

def test_the_state_is_of_one_size():
    "No row is kept"
    Z,y = rows(n=2000)
    small,large = (len(pickle.dumps(RidgeStats(12).add(Z[:n], y[:n]))) for n in (100, 2000))
    assert abs(small-large) < 32

def test_float32_sums():
    "What MPS gets: near enough, and solved in float64"
    Z,y = rows(n=2000, d=64)
    exact = RidgeStats(64).add(Z, y).solve(.1)
    s = RidgeStats(64, dtype=torch.float32).add(Z, y)
    assert s.G.dtype == torch.float32 and s.solve(.1).dtype == torch.float64
    assert (s.solve(.1)-exact).abs().max() < 2e-5*exact.abs().max()

def test_changes_are_seen():
    Z,y = rows()
    s = RidgeStats(12).add(Z[:100], y[:100])
    W,g = s.solve(.1),s.gcv()
    s.add(Z[100:], y[100:])
    assert not torch.allclose(s.solve(.1), W) and s.gcv() == RidgeStats(12).add(Z, y).gcv() and g > 0
    again = pickle.loads(pickle.dumps(s))
    assert torch.equal(again.solve(.1), s.solve(.1)) and again.__dict__['_normal'] is not s._normal

# --- refused at the door ---------------------------------------------------------------------------------------------
def test_bad_rows():
    s = RidgeStats(3).add(torch.zeros(2, 3), [0, 1])
    for Z,y,says in [(torch.zeros(2, 4), [0, 1], 'expected rows of 3 features, got 4'),
                     (torch.zeros(2, 3, dtype=torch.int), [0, 1], 'Convert them'),
                     (torch.zeros(2, 3, 1), [0, 1], 'Pool a map'), (torch.zeros(2, 3), [0], 'for each of 2 rows'),
                     (torch.zeros(2, 3), [.5, 1.], 'one class number'),
                     (torch.zeros(2, 3), [-1, 0], 'from 0 on, got -1'), (torch.zeros(2, 3), torch.eye(2), 'argmax'),
                     (torch.full((2, 3), np.inf), [0, 1], 'in 2 of 2 rows')]:
        with pytest.raises(ValueError, match=says): s.add(Z, y)
    assert s.n == 2
    with pytest.raises(ValueError, match='2 classes learned so far, got class 5'): s.forget(torch.zeros(1, 3), [5])
    with pytest.raises(ValueError, match='got class 5'): s.loo(torch.zeros(1, 3), [5], 1.)
    with pytest.raises(ValueError, match='got 1 too many of class 0'): s.forget(torch.zeros(2, 3), [0, 0])

def test_rows_that_were_never_learned():
    s = RidgeStats(2).add(torch.eye(2), [0, 1]).add(torch.eye(2), [0, 1])
    with pytest.raises(ValueError, match='got some that were not'): s.forget(3*torch.eye(2), [0, 1])
    assert s.n == 4 and torch.equal(s.G, 2*torch.eye(2, dtype=torch.float64))
    s.grams[0] -= 9*torch.eye(2)
    with pytest.raises(ValueError, match='rows forgotten that had never been learned'): s.solve(.1)

def test_one_feature():
    g = torch.Generator().manual_seed(0)
    Z,y = torch.randn(20, 1, dtype=torch.float64, generator=g),torch.arange(20) % 2
    s = RidgeStats(1, intercept=True).add(Z, y)
    gamma = s.gcv()
    np.testing.assert_allclose(solution(s, gamma), by_qr(Z, y, gamma, s.classes, True), atol=1e-12)

def test_balanced_sums_ask_for_memory(monkeypatch):
    s = RidgeStats(100, balance=True)
    monkeypatch.setattr(memory, 'free_memory', lambda: 10**6)
    with pytest.raises(ValueError, match='for each class.*Leave `balance` out'): s.add(torch.randn(20, 100), range(20))

def test_arrays_of_any_make():
    Z,y = rows()
    want = RidgeStats(12).add(Z, y)
    got = RidgeStats(12).add(np.asarray(Z)[::-1], np.asarray(y)[::-1])
    torch.testing.assert_close(got.G, want.G, atol=1e-9, rtol=0)
    with pytest.raises(TypeError, match='Of names take'): RidgeStats(12).add(Z[:2], ['a', 'b'])

@pytest.mark.parametrize('gamma,err', [
    (0, ValueError), (-1, ValueError), (np.inf, ValueError), ('1', TypeError), (True, TypeError)])
def test_bad_gamma(gamma, err):
    s = RidgeStats(2).add(torch.eye(2), [0, 1])
    with pytest.raises(err, match='`gamma` must be'): s.solve(gamma)
    with pytest.raises(err, match='`gamma` must be'): s.gcv([1., gamma])

def test_bad_settings(monkeypatch):
    with pytest.raises(ValueError, match='`d` must be a whole number'): RidgeStats(0)
    with pytest.raises(ValueError, match='Half precision'): RidgeStats(2, dtype=torch.float16)
    with pytest.raises(ValueError, match='expected penalties'): RidgeStats(2).add(torch.eye(2), [0, 1]).gcv([])
    with pytest.raises(ValueError, match='sums of one kind, got d 2 and 3'): RidgeStats(2) + RidgeStats(3)
    with pytest.raises(ValueError, match='intercept True and False'): RidgeStats(2, intercept=True) + RidgeStats(2)
    with pytest.raises(TypeError): RidgeStats(2) + 1
    monkeypatch.setattr(memory, 'free_memory', lambda: 10**9)
    with pytest.raises(ValueError, match=r'expected 8.0 GiB of free memory for sums of 16384 x 16384.*got 0.9 GiB'):
        RidgeStats(16384)
    monkeypatch.setattr(memory, 'free_memory', lambda: None)        # a system that does not say
    assert RidgeStats(8).n == 0

def test_free_memory(tmp_path, monkeypatch):
    got = memory.free_memory()
    assert got is None or 2**20 < got < 2**50
    class Here(type(tmp_path)):
        def read_text(self): raise OSError
    monkeypatch.setattr(memory, 'Path', Here)
    assert memory.free_memory() is None

def test_what_rows_may_be():
    for y in ([1, 0], np.array([1, 0], np.uint8), torch.tensor([1, 0], dtype=torch.int32)):
        got = need_codes(y, 2)
        assert got.dtype == torch.int64 and got.tolist() == [1, 0]
    assert need_codes([], 0).shape == (0,)
    assert need_features(np.zeros((2, 3), np.float16), 3).shape == (2, 3)
    s = RidgeStats(3).add(np.ones((2, 3), np.float32), np.array([4, 4]))
    assert s.classes == [4] and s.add(torch.zeros(0, 3), []).n == 2 and '2 rows of 1 classes' in repr(s)
