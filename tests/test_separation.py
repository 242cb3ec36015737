"The distance between classes against loops in float64, duplicates, other norms, bad input"
import math
import numpy as np, pytest, torch
from fastrobust.basics import RobustWarning
from fastrobust.samples import sample_data
from fastrobust.shift.separation import class_separation
from conftest import tiny_arrays, tiny_dls

def slow(X, y, p, X2=None, y2=None):
    "Distances one by one"
    X2,y2 = (X, y) if X2 is None else (X2, y2)
    r,at = [],[]
    for a,k in zip(X, y):
        best = (math.inf, -1)
        for j,(b,l) in enumerate(zip(X2, y2)):
            if k == l: continue
            v = np.abs(a.astype(np.float64).ravel() - b.astype(np.float64).ravel())
            d = v.max() if p == math.inf else (v > 0).mean()*255 if p == 0 else (v**p).sum()**(1/p)
            best = min(best, (d/255, j))
        r.append(best[0]); at.append(best[1])
    return np.array(r),np.array(at)

@pytest.mark.parametrize('p', [0, .5, 1, 2, 3, math.inf])
@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('bs', [7, 1024])
def test_against_loops(p, channels, bs):
    X,y = tiny_arrays(40, 3, 4, channels)
    s = class_separation(X, y, p, bs=bs)
    r,at = slow(X, y, p)
    assert np.allclose(s.r, r, rtol=1e-6)
    assert (s.min, s.mean) == pytest.approx((r.min(), r.mean()), rel=1e-6)
    assert s.r[s.pair[0]] == s.min and y[s.pair[0]] != y[s.pair[1]] and s.duplicates == [] and s.p == p
    if p not in (0, math.inf): assert (s.nearest.numpy() == at).all()      # those two have ties
    f = class_separation(torch.from_numpy(X).double()/255, y, p, bs=bs)
    assert np.allclose(f.r, r, rtol=1e-5)

@pytest.mark.parametrize('p', [1, 2, math.inf])
def test_two_sets_and_names_as_labels(p):
    (X,y),(X2,y2) = tiny_arrays(30, 3, 4),tiny_arrays(20, 3, 4, seed=1)
    names = np.array(['cat', 'dog', 'owl'])
    s = class_separation(X, names[y], p, X2=X2, y2=names[y2])
    r,at = slow(X, y, p, X2, y2)
    assert np.allclose(s.r, r, rtol=1e-6) and len(s.r) == 30 and s.nearest.max() < 20
    assert s.pair == (r.argmin(), s.nearest[r.argmin()])

def test_half_of_it_keeps_the_balls_apart():
    a,b = np.zeros((1, 1, 2), np.uint8),np.array([[[255, 0]]], np.uint8)
    X,y = np.concatenate([a, b]),[0, 1]
    assert [class_separation(X, y, p).eps_min for p in (1, 2, math.inf)] == [.5]*3
    # below p=1 the p-th power is the distance: points of norm r/4 (p=.5) on the segment between them would meet
    assert class_separation(X, y, .5).eps_min == .25
    X[1] = 255
    s = class_separation(X, y, .5)
    assert s.min == pytest.approx(4) and s.eps_min == pytest.approx(1)      # (1,0) lies at distance 1 from both
    assert class_separation(X, y, 0).min == 1

@pytest.mark.parametrize('p', [.5, 1, 2, math.inf])
@pytest.mark.parametrize('as_float', [False, True])
def test_equal_images_of_different_classes_are_named(p, as_float):
    X,y = tiny_arrays(30, 3, 6)
    X[4],X[20] = X[11],X[2]
    y[4],y[11],y[20],y[2] = 0,1,2,2
    X = X.astype(np.float32)/255 if as_float else X
    with pytest.warns(RobustWarning, match=r'1 pair.* of equal images .* at \(4, 11\)'): s = class_separation(X, y, p)
    assert s.min == s.eps_min == 0 and s.duplicates == [(4, 11)] and set(s.pair) == {4, 11} and s.mean > 0
    with pytest.warns(RobustWarning, match='different labels'):
        s = class_separation(X[:10], y[:10], p, X2=X[10:], y2=y[10:])
    assert s.duplicates == [(4, 1)]

def test_a_loader_of_arrays():
    dls = tiny_dls()
    items = dls.train.dataset.items
    s,t = class_separation(dls.train, p=2),class_separation(items.x, items.y, 2)
    assert torch.equal(s.r, t.r) and len(class_separation(dls.valid, X2=dls.train).r) == 24

def test_fashion():
    X,y,*_ = sample_data('fashion')
    s = class_separation(X[:600], y[:600], 2)
    r,_ = slow(X[:600][:5], y[:5], 2, X[:600], y[:600])
    assert np.allclose(s.r[:5], r, rtol=1e-9) and s.min > 0 and s.eps_min == s.min/2

def U(n): return np.zeros((n, 2), np.uint8)

@pytest.mark.parametrize('args,err,match', [
    (([[1, 2]], None), ValueError, 'expected labels'), ((U(3), [0, 1]), ValueError, 'one label each'),
    ((U(3).astype(int), [0, 1, 0]), TypeError, 'uint8'), ((np.full((2, 2), 3.), [0, 1]), ValueError, r'\[0,1\]'),
    ((U(3), [1, 1, 1]), ValueError, 'at least two classes'), ((U(0), []), ValueError, 'at least two'),
    ((U(2), [0, 1], -1), ValueError, '`p` must'), ((U(2), [0, 1], 'inf'), TypeError, '`p` must be a number'),
    ((U(2), [0, 1], 2, dict(X2=np.zeros((2, 3), np.uint8), y2=[0, 1])), ValueError, 'one size'),
    ((U(2), [0, 1], 2, dict(X2=U(2)/255, y2=[0, 1])), ValueError, 'convert both')])
def test_bad_input(args, err, match):
    *args,kw = args if isinstance(args[-1], dict) else (*args, {})
    with pytest.raises(err, match=match): class_separation(*args, **kw)

def test_bad_block():
    with pytest.raises(ValueError, match='`bs`'): class_separation(np.zeros((2, 2), np.uint8), [0, 1], bs=0)
