"FPR at TPR, AUROC and AUPR: the specification's example, loops over all thresholds, scikit-learn, properties"
from fractions import Fraction
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from fastrobust.ood.metrics import auroc, aupr, fpr_at_tpr, ood_metrics, threshold_at_tpr

ID = [.99, .95, .9, .85, .8, .7, .65, .6, .55, .5, .97, .93, .88, .83, .78, .73, .68, .63, .58, .4]
OOD = [.96, .75, .45, .35, .3, .2, .6, .1]
FEW = dict(derandomize=True, deadline=None, max_examples=80)
tied = st.lists(st.integers(0, 6), min_size=1, max_size=30)

def slow_fpr(pos, neg, tpr):
    "(FPR, threshold): down from the highest score to the first threshold that keeps every positive; the last best wins"
    best,tpr = None,Fraction(str(tpr))          # as it is written: .95 is 19/20
    for t in sorted(set(pos) | set(neg), reverse=True):
        recall = Fraction(sum(p >= t for p in pos), len(pos))
        away = abs(recall-tpr)
        if best is None or away <= best[0]: best = away,sum(n >= t for n in neg)/len(neg),t
        if recall == 1: break
    return best[1:]

# --- by hand ---------------------------------------------------------------------------------------------------------
def test_example_of_the_specification():
    "Section 6, both conventions; a rule that looked for the best threshold of recall .95 would say .375"
    assert fpr_at_tpr(ID, OOD) == .5 and threshold_at_tpr(ID, OOD) == .45
    assert fpr_at_tpr(ID, OOD, positive='ood') == .9 and threshold_at_tpr(ID, OOD, positive='ood') == .96
    assert auroc(ID, OOD) == pytest.approx(.790625, abs=1e-12)
    assert aupr(ID, OOD) == pytest.approx(.8693495, abs=5e-8)
    assert aupr(ID, OOD, 'ood') == pytest.approx(.7622806, abs=5e-8)
    assert ood_metrics(ID, OOD) == dict(fpr95=.5, auroc=auroc(ID, OOD), aupr=aupr(ID, OOD))
    assert ood_metrics(ID, OOD, positive='ood') == dict(fpr95=.9, auroc=auroc(ID, OOD), aupr=aupr(ID, OOD, 'ood'))

def test_the_lower_of_thresholds_with_the_same_recall():
    "Of 4 known two are above 2.5: thresholds 3, 2.5 and 2 keep half of them, and 2 costs most"
    known,unknown = [4., 3., 1., 0.],[2.5, 2., -1.]
    assert threshold_at_tpr(known, unknown, .5) == 2. and fpr_at_tpr(known, unknown, .5) == pytest.approx(2/3)
    # but below the lowest known image no threshold is looked at
    assert threshold_at_tpr(known, unknown, 1.) == 0. and fpr_at_tpr(known, unknown, 1.) == pytest.approx(2/3)

def test_as_many_below_as_above():
    "Recall 1/2 and 1 are as far from 3/4: the lower threshold"
    assert threshold_at_tpr([3., 1.], [2., 0.], .75) == 1. and fpr_at_tpr([3., 1.], [2., 0.], .75) == .5

@pytest.mark.parametrize('n', [10, 30, 50, 70, 90, 110, 990, 10_010])
def test_two_equally_near_recalls_of_any_number(n):
    "Of n = 10 mod 20 images 19n/20 is a half: floats find one of the two neighbours nearer, now this, now that one"
    known = np.arange(n, dtype=float)
    for m in (0, 7):                            # beside other thresholds, too
        unknown = np.r_[np.arange(m)+.5, known-.25]
        kept = -(-19*n//20)                     # the lower threshold keeps more
        t = threshold_at_tpr(known, unknown)
        assert (known >= t).sum() == kept and abs(Fraction(kept, n)-Fraction(19, 20)) == Fraction(1, 2*n)
        assert fpr_at_tpr(known, unknown) == (unknown >= t).mean()
        if n < 200: assert (fpr_at_tpr(known, unknown), t) == slow_fpr(known.tolist(), unknown.tolist(), .95)
    assert threshold_at_tpr(-known, -known, positive='ood') == -threshold_at_tpr(known, known)

@pytest.mark.parametrize('tpr,share', [(.95, '19/20'), (np.float32(.95), '19/20'), (.9, '9/10'), (1/3, '1/3'),
                                       (.975, '39/40'), (Fraction(1, 7), '1/7'), (1, '1')])
def test_a_share_is_the_one_that_is_meant(tpr, share):
    for n in (7, 20, 40, 130, 200):
        want = Fraction(share)
        best = min(range(1, n+1), key=lambda k: (abs(Fraction(k, n)-want), -k))
        known = np.arange(n, dtype=float)
        assert (known >= threshold_at_tpr(known, known, tpr)).sum() == best

def test_perfect_hopeless_and_tied():
    up,down = np.arange(10., 20),np.arange(10.)
    assert ood_metrics(up, down) == pytest.approx(dict(fpr95=0., auroc=1., aupr=1.), abs=1e-15)
    assert fpr_at_tpr(down, up) == 1. and auroc(down, up) == 0.
    same = ood_metrics(np.ones(30), np.ones(10))
    assert same == dict(fpr95=1., auroc=.5, aupr=.75)
    assert aupr(np.ones(30), np.ones(10), 'ood') == .25

def test_threshold_is_the_one_that_was_counted():
    g = np.random.default_rng(0)
    for _ in range(20):
        known,unknown = g.normal(1, 1, 137).round(1),g.normal(0, 1, 61).round(1)
        t = threshold_at_tpr(known, unknown, .9)
        assert fpr_at_tpr(known, unknown, .9) == (unknown >= t).mean()
        t = threshold_at_tpr(known, unknown, .9, 'ood')
        assert fpr_at_tpr(known, unknown, .9, 'ood') == (known <= t).mean()

# --- against loops and scikit-learn ----------------------------------------------------------------------------------
@settings(**FEW)
@given(tied, tied, st.sampled_from([.05, .5, .8, .9, .95, 1.]))
def test_against_a_loop(known, unknown, tpr):
    assert (fpr_at_tpr(known, unknown, tpr), threshold_at_tpr(known, unknown, tpr)) == slow_fpr(known, unknown, tpr)
    flip = [-o for o in unknown],[-o for o in known]
    fpr,cut = slow_fpr(*flip, tpr)
    assert (fpr_at_tpr(known, unknown, tpr, 'ood'), threshold_at_tpr(known, unknown, tpr, 'ood')) == (fpr, -cut)
    pairs = [(k > u)+(k == u)/2 for k in known for u in unknown]
    assert auroc(known, unknown) == pytest.approx(np.mean(pairs))

def slow_ap(pos, neg):
    "Precision at each threshold, weighted by the recall it adds"
    ap = last = 0
    for t in np.unique(np.r_[pos, neg])[::-1]:
        hit,all_ = (pos >= t).sum(),(pos >= t).sum()+(neg >= t).sum()
        ap,last = ap + (hit/len(pos)-last)*hit/all_,hit/len(pos)
    return ap

@pytest.mark.parametrize('digits', [1, 8])
def test_against_counting_and_the_roc_curve(digits):
    m = pytest.importorskip('sklearn.metrics')
    g = np.random.default_rng(1)
    known,unknown = g.normal(.7, 1, 700).round(digits),g.normal(0, 1.5, 300).round(digits)
    s,is_id = np.r_[known, unknown],np.r_[np.ones(700), np.zeros(300)]
    above,tied = (known[:, None] > unknown).mean(),(known[:, None] == unknown).mean()
    assert auroc(known, unknown) == pytest.approx(above+tied/2, abs=1e-12)
    assert aupr(known, unknown) == pytest.approx(slow_ap(known, unknown), abs=1e-12)
    assert aupr(known, unknown, 'ood') == pytest.approx(slow_ap(-unknown, -known), abs=1e-12)
    fpr,tpr,cuts = m.roc_curve(is_id, s, drop_intermediate=False)
    at = np.flatnonzero(tpr == tpr[np.abs(tpr-.95).argmin()])
    assert fpr_at_tpr(known, unknown) == fpr[at[-1]] and threshold_at_tpr(known, unknown) == cuts[at[-1]]

# --- properties ------------------------------------------------------------------------------------------------------
@settings(**FEW)
@given(tied, tied, st.randoms())
def test_properties(known, unknown, rnd):
    assert auroc(known, unknown) == pytest.approx(1-auroc(unknown, known))                 # the sides swapped
    neg = lambda o: [-v for v in o]
    for f in (fpr_at_tpr, aupr):                                                           # 'ood' = negated scores
        assert f(known, unknown, positive='ood') == f(neg(unknown), neg(known), positive='id')
    k,u = list(known),list(unknown)
    rnd.shuffle(k), rnd.shuffle(u)
    want = ood_metrics(known, unknown)
    assert ood_metrics(k, u) == pytest.approx(want)
    assert ood_metrics(np.exp(known), np.exp(unknown)) == pytest.approx(want)              # any monotone map
    more = ood_metrics(known*3, unknown*2)
    assert more['fpr95'] == want['fpr95'] and more['auroc'] == pytest.approx(want['auroc'])    # however many there are

def test_tensors_arrays_lists_and_half_precision():
    want = ood_metrics(ID, OOD)
    assert ood_metrics(np.array(ID), tuple(OOD)) == want
    assert ood_metrics(torch.tensor(ID).double().requires_grad_(), torch.tensor(OOD).double()) == \
        ood_metrics(np.float32(ID), np.float32(OOD))
    assert ood_metrics(torch.tensor(ID, dtype=torch.float64), torch.tensor(OOD, dtype=torch.float64)) == want
    for t in (torch.bfloat16, torch.float16):
        half = torch.tensor(ID, dtype=t),torch.tensor(OOD, dtype=t)
        assert ood_metrics(*half) == ood_metrics(*(o.double().tolist() for o in half))
    a,b = np.array([3, 2], dtype=np.uint8),np.array([1, 2], dtype=np.uint8)
    assert ood_metrics(a, b, positive='ood')['auroc'] == .875
    assert set(ood_metrics(ID, OOD, tpr=.8)) == {'fpr80', 'auroc', 'aupr'}

# --- refused ---------------------------------------------------------------------------------------------------------
def test_bad_input():
    for f in (fpr_at_tpr, threshold_at_tpr, auroc, aupr, ood_metrics):
        for a,b,side in (([], OOD, 'known'), (ID, [], 'unknown'), (ID, torch.zeros(0), 'unknown')):
            with pytest.raises(ValueError, match=f'per {side} image.*got .*both needed'): f(a, b)
        with pytest.raises(ValueError, match=r'got \(2, 1\)'): f(np.zeros((2, 1)), OOD)
        with pytest.raises(ValueError, match=r'got \(\)'): f(ID, 1.)
        with pytest.raises(ValueError, match='finite scores as `id_scores`, got NaN or infinity in 1 of 2. Look'):
            f([float('nan'), 1.], OOD)
        with pytest.raises(ValueError, match='finite scores as `ood_scores`'): f(ID, torch.tensor([-torch.inf]))
        with pytest.raises(TypeError, match='expected numbers as `id_scores`, got'): f(['a', 'b'], OOD)
    for f in (fpr_at_tpr, threshold_at_tpr, aupr, ood_metrics):
        with pytest.raises(ValueError, match="must be 'id' or 'ood', got 'odd'. Did you mean 'ood'"):
            f(ID, OOD, positive='odd')
    for f in (fpr_at_tpr, threshold_at_tpr, ood_metrics):
        for tpr in (0, -1, 1.01, 95):
            with pytest.raises(ValueError, match=r'lie in \(0,1\], got'): f(ID, OOD, tpr=tpr)
        with pytest.raises(TypeError, match='`tpr` must be a number'): f(ID, OOD, tpr='95')
