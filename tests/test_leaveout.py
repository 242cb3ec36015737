"Leave-one-out without refitting is a refit: single items, copies, planted labels; and the scores as probabilities"
import warnings
import numpy as np
import pytest, torch
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn.linear_model import Ridge
from fastrobust.inference import leaveout as module
from fastrobust.inference.fitting import fit_scores
from fastrobust.inference.copies import ALIKE, MANY, copies_of
from fastrobust.inference.leaveout import LeaveOut

def data(n=120, d=12, c=4, seed=0, noise=.5):
    "Features float32 and labels that follow the first of them"
    g = np.random.default_rng(seed)
    f = g.normal(0, 1, (n, d)).astype(np.float32)
    y = (f[:, :c] + noise*g.normal(0, 1, (n, c))).argmax(1)
    y[:c] = np.arange(c)
    return f,y

def refit(f, y, c, gamma, out, ask):
    "Scores (k,c) of items by scikit-learn's Ridge, learned on all but those of `out`; scaled as all items together"
    f = np.asarray(f, np.float64)
    std = f.std(0)
    Z = (f-f.mean(0))/np.where(std < 1e-9, 1, std)
    keep = np.setdiff1d(np.arange(len(f)), out)
    return Ridge(gamma, solver='cholesky').fit(Z[keep], np.eye(c)[y[keep]]).predict(Z[ask]).reshape(-1, c)

def scores(out, items=None, y=None, head=None):
    "Scores (k,c) of items without each of them, columns by class"
    items = np.arange(len(out.y)) if items is None else np.asarray(items)
    head = head or out.head
    z = np.zeros((len(items), out.c))
    z[:, head.classes] = out._scores(head, out.y if y is None else y, items)
    return z

def of_scores(out, z):
    "Probabilities of scores (k,c) whose classes all have items"
    b = np.zeros(out.c)
    b[out.head.classes] = out.b
    z = z/out.T + b
    return np.exp(z - logsumexp(z, 1, keepdims=True))

def with_copies(f, y, groups):
    "Copies of the first item of each group at its other positions, with the labels that are there"
    for g in groups: f[g] = f[g[0]]
    return f,y

# --- single items ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('n,d,c', [(120, 12, 4), (40, 90, 2), (60, 300, 3), (9, 2, 2)])
def test_each_item_as_in_a_refit_without_it(n, d, c):
    f,y = data(n, d, min(c, d))
    out = LeaveOut(torch.tensor(f), y, c)
    z,p = scores(out),out.probs()
    assert p.dtype == np.float32 and p.shape == (n, c)
    for i in range(min(n, 20)):
        want = refit(f, y, c, out.gamma, [i], [i])
        np.testing.assert_allclose(z[i], want[0], atol=1e-8)
        np.testing.assert_allclose(p[i], of_scores(out, want)[0], atol=1e-6)

def test_constant_columns_say_nothing():
    f,y = data()
    g = np.concatenate([f, np.full((120, 2), 7, np.float32), np.zeros((120, 1), np.float32)], 1)
    np.testing.assert_allclose(LeaveOut(g, y, 4).probs(), LeaveOut(f, y, 4).probs(), atol=1e-6)

def test_halves_and_arrays_are_taken():
    f,y = data()
    p = LeaveOut(f, y, 4).probs()
    assert np.array_equal(p, LeaveOut(torch.tensor(f), torch.tensor(y), 4).probs())
    half = LeaveOut(torch.tensor(f).half(), y, 4).probs()
    np.testing.assert_allclose(half, LeaveOut(torch.tensor(f).half().float(), y, 4).probs(), atol=1e-7)

@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_what_is_not_finite_is_refused_with_its_rows(bad):
    f,y = data()
    f[[3, 7], 2] = bad
    with pytest.raises(ValueError, match=r'finite features.*2 of 120 rows, first \[3, 7\]'): LeaveOut(f, y, 4)

def test_all_alike_and_blocks(monkeypatch):
    "Features that say nothing give the shares of the classes; more blocks change nothing"
    y = np.repeat([0, 1], [30, 10])
    p = LeaveOut(np.ones((40, 3), np.float32), y, 2).probs()
    assert abs(p[:, 1].mean()-.25) < .06 and np.ptp(p[y == 0], 0).max() < 1e-6
    f,y = data()
    want = LeaveOut(f, y, 4).probs()
    monkeypatch.setattr('fastrobust.inference.rows._NUMBERS', 100)
    np.testing.assert_allclose(LeaveOut(f, y, 4).probs(), want, atol=1e-6)

def test_only_some_items_tell_the_temperature(monkeypatch):
    f,y = data(400)
    whole = LeaveOut(f, y, 4)
    monkeypatch.setattr(module, '_ASKED', 150)
    some = LeaveOut(f, y, 4)
    assert some.T != whole.T and some.T == pytest.approx(whole.T, rel=.5)
    assert np.array_equal(scores(some), scores(whole))

# --- classes ---------------------------------------------------------------------------------------------------------
def test_classes_without_items_have_no_probability():
    f,y = data(c=3)
    p = LeaveOut(f, np.array([1, 4, 6])[y], 8).probs()
    assert (p[:, [0, 2, 3, 5, 7]] == 0).all() and np.allclose(p.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(p[:, [1, 4, 6]], LeaveOut(f, y, 3).probs(), atol=1e-6)

def test_the_only_item_of_a_class_is_judged_by_who_never_saw_the_class():
    f,y = data(c=3)
    y[y == 2] = 0
    y[50] = 2
    out = LeaveOut(f, y, 3)
    z = scores(out)
    assert abs(z[50, 2]) < 1e-9 and out.probs()[50, 2] < .05
    np.testing.assert_allclose(z[50], refit(f, y, 3, out.gamma, [50], [50])[0], atol=1e-8)

# --- copies ----------------------------------------------------------------------------------------------------------
def test_copies_are_found_by_their_keys():
    keys = np.array([5, 3, 5, 2**64-1, 3, 5, 0], np.uint64)
    assert [i.tolist() for i in copies_of(keys)] == [[1, 4], [0, 2, 5]]
    assert copies_of(keys[[0, 1, 3]]) == [] and copies_of(keys[:0]) == []

@pytest.mark.parametrize('groups', [[[5, 9]], [[5, 9, 30]], [[5, 9, 30, 31, 80]], [[5, 9], [70, 2, 90]]])
def test_copies_are_left_out_together(groups):
    f,y = with_copies(*data(), groups)
    y[[5, 9]] = 0,1
    out = LeaveOut(f, y, 4, [np.array(g) for g in groups])
    z,p = scores(out),out.probs()
    for g in groups:
        want = refit(f, y, 4, out.gamma, g, g)
        np.testing.assert_allclose(z[g], want, atol=1e-8)
        np.testing.assert_allclose(p[g], of_scores(out, want), atol=1e-6)
        assert np.abs(scores(LeaveOut(f, y, 4))[g]-z[g]).max() > 1e-3    # a copy alone tells
    rest = np.setdiff1d(np.arange(120), np.concatenate(groups))[:20]
    for i in rest: np.testing.assert_allclose(z[i], refit(f, y, 4, out.gamma, [i], [i])[0], atol=1e-8)

def test_some_of_the_copies_asked_for_are_judged_without_the_others():
    f,y = with_copies(*data(), [[5, 9, 30]])
    out = LeaveOut(f, y, 4, [np.array([5, 9, 30])])
    np.testing.assert_allclose(scores(out, [30, 4]), scores(out)[[30, 4]], atol=1e-12)

def test_a_class_of_nothing_but_copies():
    f,y = data(c=3)
    y[y == 2] = 0
    g = np.array([7, 8, 60])
    f[g],y[g] = f[7],2
    out = LeaveOut(f, y, 3, [g])
    z,p = scores(out),out.probs()
    assert np.abs(z[g, 2]).max() < 1e-9 and (p[g, 2] < .1).all() and np.allclose(p.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(z[g], refit(f, y, 3, out.gamma, g, g), atol=1e-8)

def test_more_copies_than_are_left_out_at_once(monkeypatch):
    monkeypatch.setattr(module, '_COPIES', 4)
    g = np.arange(10, 80, 7)
    f,y = with_copies(*data(), [g])
    y[g] = np.arange(len(g))%4
    out = LeaveOut(f, y, 4, [g, np.array([2, 3])])
    want = refit(f, y, 4, out.gamma, g, g)
    np.testing.assert_allclose(scores(out)[g], want, atol=1e-8)
    np.testing.assert_allclose(out.probs()[g], of_scores(out, want), atol=1e-6)
    assert np.ptp(out.probs()[g], 0).max() < 1e-5       # copies get the same, whatever they are called

@pytest.mark.parametrize('most', [2, 1000])
def test_a_large_group_may_take_a_class_with_it(monkeypatch, most):
    monkeypatch.setattr(module, '_COPIES', most)
    f,y = data(c=3)
    y[y == 2] = 0
    g = np.array([7, 8, 60, 61])
    f[g],y[g] = f[7],2
    out = LeaveOut(f, y, 3, [g])
    np.testing.assert_allclose(scores(out)[g], refit(f, y, 3, out.gamma, g, g), atol=1e-8)

@pytest.mark.parametrize('most', [3, 1000])
def test_where_all_items_are_one(monkeypatch, most):
    monkeypatch.setattr(module, '_COPIES', most)
    p = LeaveOut(np.ones((8, 3), np.float32), [0, 1, 1, 1]*2, 2, [np.arange(8)]).probs()
    assert np.isfinite(p).all() and np.allclose(p.sum(1), 1) and np.ptp(p, 0).max() < 1e-6 and (p[:, 1] > .5).all()

# --- planted labels --------------------------------------------------------------------------------------------------
def by_refit(out, f, y, c, items, labels, without=lambda i: [i]):
    new = y.copy()
    new[items] = labels
    z = np.concatenate([refit(f, new, c, out.gamma, without(i), [i]) for i in items])
    return of_scores(out, z)

def test_planted_labels_are_learned_by_all_but_their_items():
    f,y = data()
    out = LeaveOut(f, y, 4)
    before = out.probs()
    items = np.array([3, 17, 50, 51, 90])
    labels = (y[items]+1)%4
    p = out.planted(items, labels)
    np.testing.assert_allclose(p, by_refit(out, f, y, 4, items, labels), atol=1e-6)
    every = out.planted(items, labels, every=True)
    np.testing.assert_allclose(every[items], p, atol=1e-6)
    assert np.abs(every-before).max() > 1e-3 and np.array_equal(out.probs(), before)

def test_near_copies_are_found_by_features():
    rng = np.random.default_rng(0)
    f = rng.normal(size=(300, 40)).astype(np.float32)
    f[100] = f[7] + .05*rng.normal(size=40)                     # nearly one image, and another pair
    f[200:202] = f[8] + .05*rng.normal(size=(2, 40))
    f[250] = f[9] + .6*rng.normal(size=40)                      # alike, no copy
    keys = np.arange(300, dtype=np.uint64)
    keys[[50, 60]] = 3                                          # equal pixels, whatever the features
    keys[3] = 999
    y = np.arange(300)%3
    groups = lambda f, y=y: sorted(map(list, copies_of(keys, torch.tensor(f), y)))
    assert groups(f) == [[7, 100], [8, 200, 201], [50, 60]]
    Z = (f-f.mean(0))/f.std(0)                                  # by hand
    cos = (Z@Z.T)/np.linalg.norm(Z, axis=1)/np.linalg.norm(Z, axis=1)[:, None]
    assert cos[7, 100] > ALIKE > cos[9, 250] > .7
    kind = f.copy()
    kind[:MANY+5] = kind[0] + .01*rng.normal(size=(MANY+5, 40)) # a class that looks all alike is not one item
    assert groups(kind) == [[50, 60], [200, 201]]
    few = np.where(np.isin(np.arange(300), [8, 200, 201, 17, 18]), 3, y)     # nor is a good part of a class
    assert groups(f, few) == [[7, 100], [50, 60]]
    assert copies_of(keys[:1], torch.tensor(f[:1]), y[:1]) == []

def test_a_planted_label_and_the_copies_of_its_item():
    g = np.array([5, 9, 30])
    f,y = with_copies(*data(), [g])
    out = LeaveOut(f, y, 4, [g])
    items,labels = np.array([9, 40]),(y[[9, 40]]+2)%4
    want = by_refit(out, f, y, 4, items, labels, lambda i: g if i == 9 else [i])
    np.testing.assert_allclose(out.planted(items, labels), want, atol=1e-6)

def test_a_class_that_goes_with_the_plants():
    f,y = data(c=3)
    y[y == 2] = 0
    y[[20, 21]] = 2
    out = LeaveOut(f, y, 3)
    p = out.planted([20, 21], [0, 1], every=True)
    assert (p[:, 2] == 0).all() and np.allclose(p.sum(1), 1, atol=1e-6)

def test_a_class_that_comes_with_the_plants():
    f,y = data(c=3)
    out = LeaveOut(f, y, 5)
    p = out.planted([20, 21], [4, 4])
    new = y.copy()
    new[[20, 21]] = 4
    z = np.concatenate([refit(f, new, 5, out.gamma, [i], [i]) for i in (20, 21)])
    b = np.zeros(5)
    b[out.head.classes] = out.b
    z = (z/out.T + b)[:, [0, 1, 2, 4]]
    np.testing.assert_allclose(p[:, [0, 1, 2, 4]], np.exp(z-logsumexp(z, 1, keepdims=True)), atol=1e-6)
    assert (p[:, 3] == 0).all()

def test_plants_on_more_features_than_items():
    f,y = data(50, 200, 3, noise=0)
    f[:, :3] += 6*np.eye(3)[y]                          # nearly separable: a small penalty
    out = LeaveOut(f, y, 3)
    items = np.array([1, 8, 30])
    labels = (y[items]+1)%3
    np.testing.assert_allclose(out.planted(items, labels), by_refit(out, f, y, 3, items, labels), atol=1e-6)

def test_it_tells_wrong_labels():
    f,y = data(300)
    f[:, :4] += 4*np.eye(4, dtype=np.float32)[y]
    wrong = np.arange(0, 300, 10)
    y[wrong] = (y[wrong]+1)%4
    p = LeaveOut(f, y, 4).probs()[np.arange(300), y]
    assert np.isin(np.argsort(p)[:30], wrong).mean() > .9

# --- scores as probabilities -----------------------------------------------------------------------------------------
def loss(z, y, T, b, ridge=1e-3):
    s = z/T + b
    return (logsumexp(s, 1)-s[np.arange(len(y)), y]).mean() + ridge*(b**2).sum()

def scored(n=300, c=4, seed=0, shares=None):
    g = np.random.default_rng(seed)
    y = g.choice(c, n, p=shares)
    return .3*g.normal(0, 1, (n, c)) + .5*np.eye(c)[y],y

@pytest.mark.parametrize('shares', [None, [.7, .2, .07, .03]])
def test_the_constants_are_the_best_there_are(shares):
    z,y = scored(shares=shares)
    T,b = fit_scores(z, y)
    f = lambda v: loss(z, y, np.exp(v[0]), v[1:])
    best = minimize(f, np.zeros(5), tol=1e-10)
    at = f(np.r_[np.log(T), b.numpy()])
    assert b.dtype == torch.float64 and at <= best.fun + 1e-6 and T == pytest.approx(np.exp(best.x[0]), rel=1e-2)
    g = np.random.default_rng(1)
    for _ in range(30): assert at <= f(np.r_[np.log(T), b.numpy()] + .05*g.normal(size=5)) + 1e-9

def test_the_constants_raise_a_rare_class():
    f,y = data(600, c=2, noise=.3)
    keep = np.flatnonzero((y == 0) | (np.arange(600)%15 == 0))
    f,y = f[keep],y[keep]
    out = LeaveOut(f, y, 2)
    b = dict(zip(out.head.classes, out.b.tolist()))
    plain = scores(out).argmax(1)
    p = out.probs()
    assert b[1] > b[0] and p[:, 1].mean() == pytest.approx((y == 1).mean(), abs=.01)
    assert (p.argmax(1)[y == 1] == 1).mean() > (plain[y == 1] == 1).mean()

def test_scores_that_say_nothing_or_all():
    y = np.repeat([0, 1], [60, 20])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        T,b = fit_scores(np.ones((80, 2)), y)
        assert np.isfinite(T) and T > 0 and torch.softmax(b, 0)[1] == pytest.approx(.25, abs=.01)
        T,b = fit_scores(np.eye(2)[y], y)               # all right
        assert T > 0 and torch.isfinite(b).all() and loss(np.eye(2)[y], y, T, b.numpy()) < .05
        T,b = fit_scores(1-np.eye(2)[y], y)             # all wrong
        assert T > 0 and torch.isfinite(b).all()

def test_many_rows_are_thinned_and_gradients_may_be_off():
    z,y = scored(2000)
    with torch.no_grad(): some = fit_scores(z, y, rows=500)
    want = fit_scores(z[::4], y[::4])
    assert some[0] == want[0] and torch.equal(some[1], want[1])
    with pytest.raises(ValueError, match='finite logits'): fit_scores(z*np.nan, y)
