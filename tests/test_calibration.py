"Calibration errors and proper scores against loops, scikit-learn and hand-computed cases"
import math
import numpy as np, pandas as pd, pytest, torch
from hypothesis import given, settings, strategies as st
from sklearn.metrics import brier_score_loss, log_loss
from fastrobust.calibration.charts import plot_reliability
from fastrobust.calibration.metrics import (brier, classwise_ece, ece, ece_mass, mass_bins, nll, reliability_bins,
                                               rms_calibration_error)

EVERY = [ece, ece_mass, classwise_ece, rms_calibration_error, reliability_bins]

def some(seed=0, n=150, c=4):
    rng = np.random.default_rng(seed)
    return rng.dirichlet([.6]*c, n),rng.integers(0, c, n)

# --- by hand, against loops ------------------------------------------------------------------------------------------
def slow(conf, right, n, power=1):
    "Bin by bin in plain Python"
    total = 0.
    for b in range(n):
        rows = [i for i in range(len(conf)) if b/n < conf[i] <= (b+1)/n or (b == 0 and conf[i] == 0)]
        if not rows: continue
        total += len(rows)/len(conf)*abs(sum(right[i]-conf[i] for i in rows)/len(rows))**power
    return total**(1/power)

def slow_top(p, y): return [max(r) for r in p],[r.index(max(r)) == k for r,k in zip(p, y)]

def slow_mass(conf, right, n):
    "Groups of equal confidences in order, each to the bin of its middle item"
    groups,at = {},0
    for v in sorted(set(conf)):
        k = conf.count(v)
        groups.setdefault(math.floor((at+(k-1)/2)*n/len(conf)), []).extend(i for i in range(len(conf)) if conf[i] == v)
        at += k
    return sum(len(g)/len(conf)*abs(sum(right[i]-conf[i] for i in g)/len(g)) for g in groups.values())

def test_by_hand():
    p = torch.tensor([[.9, .1], [.9, .1], [.35, .65], [.45, .55]])
    y = torch.tensor([0, 1, 1, 1])      # bins of .1: (.8,.9] half right: gap .4, twice; gaps .35 and .45
    assert ece(p, y, 10) == pytest.approx((2*.4+.35+.45)/4, abs=1e-6)
    assert rms_calibration_error(p, y, 10) == pytest.approx(math.sqrt((2*.16+.1225+.2025)/4), abs=1e-6)
    assert ece_mass(p, y, 2) == pytest.approx((2*.4+2*(1-.6))/4, abs=1e-6)          # {.55, .65} and {.9, .9}
    # class 0: (.2,.4] .35 wrong, (.4,.6] .45 wrong, (.8,1] .9 half right; class 1 has the same gaps mirrored
    assert classwise_ece(p, y, 5) == pytest.approx((.35+.45+2*.4)/4, abs=1e-6)
    assert brier(p, y) == pytest.approx(2*(.01+.81+.1225+.2025)/4, abs=1e-6)
    assert nll(p.log(), y) == pytest.approx(-np.log([.9, .1, .65, .55]).mean(), abs=1e-6)
    sure = np.eye(3)[[0, 1, 2]]
    for f in (ece, ece_mass, rms_calibration_error):
        assert f(sure, [0, 1, 2]) == 0 and f(sure, np.array([1, 2, 0])) == 1
    assert brier(sure, [0, 1, 2]) == 0 and brier(sure, [1, 2, 0]) == 2
    assert classwise_ece(sure, [1, 2, 0]) == pytest.approx(2/3)

@pytest.mark.parametrize('n_bins', [2, 7, 15, 100])
def test_against_loops(n_bins):
    p,y = some(n_bins)
    conf,right = slow_top(p.tolist(), y.tolist())
    t = torch.from_numpy(p)
    for f,power in ((ece, 1), (rms_calibration_error, 2)):
        got = f(t, torch.from_numpy(y), n_bins)
        assert got == pytest.approx(slow(conf, right, n_bins, power), abs=1e-9)
        assert f(p.astype(np.float32), y, n_bins) == pytest.approx(got, abs=.03)
    assert ece_mass(t, y, n_bins) == pytest.approx(slow_mass(conf, right, n_bins), abs=1e-9)
    by_class = [slow(p[:, k].tolist(), (y == k).tolist(), n_bins) for k in range(4)]
    assert classwise_ece(p, y, n_bins) == pytest.approx(sum(by_class)/4, abs=1e-9)
    assert ece(p, y, n_bins) <= rms_calibration_error(p, y, n_bins)+1e-12
    for mass,f in ((False, ece), (True, ece_mass)):
        b = reliability_bins(p, y, n_bins, mass=mass)
        b = b[b.n > 0]
        assert (b.n/150*(b.accuracy-b.confidence).abs()).sum() == pytest.approx(f(p, y, n_bins)) and b.n.sum() == 150
        assert ((b.lo <= b.confidence) & (b.confidence <= b.hi)).all()

def test_against_scikit_learn():
    p,y = some(3, c=2)
    assert brier(p, y) == pytest.approx(2*brier_score_loss(y, p[:, 1]))
    p,y = some(4, c=6)
    assert nll(np.log(p), y) == pytest.approx(log_loss(y, p, labels=range(6)))
    want = sum((p[i, k]-(k == y[i]))**2 for i in range(150) for k in range(6))/150
    assert brier(p, y) == pytest.approx(want)

def test_a_confidence_on_a_border_belongs_to_the_bin_below():
    p = np.array([[.5, .3, .2], [.375, .325, .3]])                          # with two bins: both in (0,.5]
    assert ece(p, [0, 1], 2) == pytest.approx(abs(.5-.4375))
    assert reliability_bins(p, [0, 1], 2).n.tolist() == [2, 0]

def test_default_bins():
    p,y = some(0, 300)
    for f in (ece, ece_mass, classwise_ece): assert f(p, y) == f(p, y, 15) != f(p, y, 14)
    assert rms_calibration_error(p, y) == rms_calibration_error(p, y, 100) and len(reliability_bins(p, y)) == 15

def test_reliability_table():
    p = np.array([[.6, .4]]*3 + [[.9, .1]]*2)
    b = reliability_bins(p, [0, 0, 1, 0, 0], 10)
    assert list(b.columns) == ['lo', 'hi', 'n', 'confidence', 'accuracy', 'se'] and len(b) == 10
    row = b.iloc[5]                         # (.5,.6]; its accuracy 2/3, its standard error of 3/5
    assert row.tolist() == pytest.approx([.5, .6, 3, .6, 2/3, math.sqrt(.6*.4/3)])
    assert b.se[8] == pytest.approx(math.sqrt(.75*.25/2)) and b[b.n == 0][['confidence', 'accuracy']].isna().all().all()
    m = reliability_bins(p, [0, 0, 1, 0, 0], 4, mass=True)
    assert m.n.tolist() == [3, 2] and m.lo.tolist() == m.hi.tolist() == [.6, .9]

# --- properties ------------------------------------------------------------------------------------------------------
@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(2, 7), st.integers(2, 20), st.booleans())
def test_properties(seed, n, c, n_bins, ties):
    p,y = some(seed, n, c)
    if ties: p = np.round(p*4)+.5; p /= p.sum(1, keepdims=True)
    perm = np.random.default_rng(seed).permutation(n)
    for f in (ece, ece_mass, classwise_ece, rms_calibration_error):
        assert 0 <= f(p, y, n_bins) <= 1 and f(p[perm], y[perm], n_bins) == pytest.approx(f(p, y, n_bins))
    names = np.random.default_rng(seed).permutation(c)                      # class k is called names[k]
    assert classwise_ece(p[:, np.argsort(names)], names[y]) == pytest.approx(classwise_ece(p, y))
    assert 0 <= brier(p, y) <= 2 and nll(np.log(p+1e-300), y) >= 0
    b = mass_bins(p.max(1), n_bins)
    assert (np.diff(b[np.argsort(p.max(1), kind='stable')]) >= 0).all() and 0 <= b.min() and b.max() < n_bins

@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.integers(2, 50), st.integers(1, 8), st.integers(0, 99))
def test_equal_mass_bins_have_equal_mass(n_bins, k, seed):
    conf = np.random.default_rng(seed).random(n_bins*k)
    assert (np.bincount(mass_bins(conf, n_bins), minlength=n_bins) == k).all()

@pytest.mark.parametrize('c', [2, 10, 1000])
def test_labels_drawn_from_the_probabilities_are_calibrated(c):
    rng,n = np.random.default_rng(c),6000
    z = torch.from_numpy(rng.normal(size=(n, c))*3)
    p = z.softmax(1)
    y = torch.multinomial(p, 1, generator=torch.Generator().manual_seed(c))[:, 0]
    bound = 1.5*math.sqrt(15*.25/n)         # 15 bins, each gap about sqrt(.25/n_b): by Cauchy-Schwarz their mean
    assert ece(p, y) < bound and ece_mass(p, y) < bound
    assert ece((2*z).softmax(1), y) > bound and ece_mass((2*z).softmax(1), y) > bound       # too sure
    assert nll(z, y) < min(nll(z, y, .5), nll(z, y, 2)) and brier(p, y) < brier((2*z).softmax(1), y)
    assert nll(z, y, 2) == pytest.approx(nll(z/2, y))

# --- numbers that break naive code -----------------------------------------------------------------------------------
@pytest.mark.parametrize('dtype,tol', [(torch.float16, .005), (torch.bfloat16, .03)])
@pytest.mark.parametrize('c', [10, 1000])
def test_half_precision(dtype, tol, c):
    z = torch.randn(400, c, generator=torch.Generator().manual_seed(0))*3
    y = z.argmax(1) % (c//2)
    p,q = z.softmax(1),z.to(dtype).float().softmax(1).to(dtype)
    for f in (ece_mass, brier, classwise_ece): assert f(q, y) == pytest.approx(f(p, y), abs=tol)
    assert ece(q, y, 2) == pytest.approx(ece(p, y, 2), abs=tol)     # of many bins items change, and the gap jumps
    assert nll(z.to(dtype), y) == pytest.approx(nll(z, y), abs=10*tol)

def test_large_logits_and_sure_probabilities():
    z = torch.tensor([[1e4, 0.], [0., 1e4], [1e4, 0.]])
    y = torch.tensor([0, 1, 1])
    assert nll(z, y) == pytest.approx(1e4/3) and nll(z, y, 1e4) == pytest.approx(math.log(1+math.exp(-1))+1/3)
    assert nll(z.half(), y) == pytest.approx(1e4/3)
    p = z.softmax(1)
    assert ece(p, y) == pytest.approx(1/3) == ece_mass(p, y) and brier(p, y) == pytest.approx(2/3)
    assert reliability_bins(p, y, mass=True).n.tolist() == [3]

def test_what_comes_in_stays_and_may_be_of_many_kinds():
    p,y = some()
    t = torch.from_numpy(p).requires_grad_()
    before = p.copy()
    for f in (ece, brier, ece_mass, classwise_ece):
        assert f(t, torch.from_numpy(y)) == f(p.tolist(), y.tolist()) == f(pd.DataFrame(p), pd.Series(y))
        assert f(p, y.astype(np.uint8)) == f(p, y)
    assert (p == before).all()

# --- refused ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('f', EVERY+[brier])
def test_refused_probabilities(f):
    p,y = np.full((4, 2), .5),np.zeros(4, int)
    with pytest.raises(ValueError, match=r'probabilities in \[0,1\], got \[-2, 3\].*softmax'):
        f(np.array([[-2., 3.]]), np.array([0]))
    with pytest.raises(ValueError, match=r'with labels \(n,\), n >= 1, got \(4, 2\) and \(3,\)'): f(p, y[:3])
    with pytest.raises(ValueError, match='n >= 1'): f(p[:0], y[:0])
    with pytest.raises(ValueError, match=r'got \(4,\) and.*1-p and p'): f(p[:, 0], y)
    with pytest.raises(ValueError, match='c >= 2'): f(p[:, :1]*2, y)
    with pytest.raises(ValueError, match=r'probabilities in \[0,1\], got \[nan'): f(p*float('nan'), y)
    with pytest.raises(ValueError, match='sum to 1, got 0.9 in row 2. Divide'): f(p*[[1], [1], [.9], [1]], y)
    with pytest.raises(ValueError, match='sum to 1, got 1.6 in row 0.*sigmoid'): f(np.full((4, 2), .8), y)
    with pytest.raises(ValueError, match=r'labels in 0..1.*got 0 to 2. Compare vocab'): f(p, [0, 1, 2, 0])
    with pytest.raises(ValueError, match='got -1 to 0.*unknown class'): f(p, [0, -1, 0, 0])
    with pytest.raises(TypeError, match='whole class numbers 0..1, got float32.*Soft'): f(p, torch.zeros(4))
    with pytest.raises(TypeError, match='whole class numbers 0..1, got <U1. Names'): f(p, ['a', 'b', 'a', 'b'])
    with pytest.raises(ValueError, match='the other way round.*predictions first, as in the metrics of fastai'): f(y, p)

@pytest.mark.parametrize('f', EVERY)
@pytest.mark.parametrize('bad', [1, 0, -3, 2.5, True, '3', None])
def test_refused_bins(f, bad):
    with pytest.raises(ValueError, match='`n_bins` must be a whole number from 2 on'): f(*some(), bad)

def test_refused_logits():
    with pytest.raises(ValueError, match='finite logits, got NaN or inf in 2 of 3 rows.*to_fp32'):
        nll(torch.tensor([[1., float('inf')], [0, 0], [float('nan'), 0]]), [0, 0, 0])
    with pytest.raises(ValueError, match=r'expected logits \(n,c\)'): nll(torch.zeros(3), [0, 0, 0])

# --- the picture -----------------------------------------------------------------------------------------------------
def bars(ax): return [p for p in ax.patches if p.get_width() > 0]

def test_picture_shows_the_bins():
    p,y = some(1, 400)
    fig = plot_reliability(p, y, 10)
    up,down = fig.axes
    b = reliability_bins(p, y, 10)
    b = b[b.n > 0]
    k = len(b)
    assert [o.get_height() for o in bars(up)[:k]] == pytest.approx(b.accuracy.tolist())
    gaps = bars(up)[k:]
    assert [o.get_height() for o in gaps] == pytest.approx((b.accuracy-b.confidence).abs().tolist())
    assert [o.get_y() for o in gaps] == pytest.approx(np.minimum(b.accuracy, b.confidence).tolist())
    assert [o.get_height() for o in bars(down)] == b.n.tolist()
    assert f'ECE {ece(p, y, 10):.3f}' in up.get_title() and '400 images, 10 bins' in down.get_xlabel()
    lines = sorted(l.get_xdata()[0] for l in down.lines)
    assert lines == pytest.approx(sorted([p.max(1).mean(), (p.argmax(1) == y).mean()]))
    labels = [t.get_text() for t in fig.legends[0].get_texts()]
    assert {'accuracy = confidence', 'accuracy', '± 1 se'} <= set(labels)
    assert len(plot_reliability({'a': p, 'b': p}, y, title='T').axes) == 4
    assert plot_reliability(p, y, figsize=(3, 3)).get_size_inches().tolist() == [3, 3]

def test_pictures_refused():
    p,y = some()
    with pytest.raises(TypeError, match='labels `y`.*plot_reliability.probs, y'): plot_reliability(p)
    with pytest.raises(ValueError, match='expected probabilities, got none'): plot_reliability({}, y)
    with pytest.raises(ValueError, match='`n_bins` must be'): plot_reliability(p, y, 1)
