"Two Gaussians under losses: spec values, the oracle, a slow reference; and the measures of selection and detection"
import math
from functools import partial
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.special import logsumexp
from scipy.stats import norm

from fastrobust.basics import RobustWarning
from fastrobust.ood.metrics import auroc, aupr
from fastrobust.labels.metrics import label_precision_recall, precision_at
from fastrobust.labels.mixtures import SmallLossSplit, gaussian_mixture, small_loss_split

def bimodal(seed=0, n=600, m=400):
    r = np.random.RandomState(seed)
    x = np.concatenate([np.maximum(r.normal(.15, .05, n), 0), r.normal(.7, .1, m)])
    return (x-x.min())/(x.max()-x.min()),np.arange(n+m) >= n

# --- the fit ---------------------------------------------------------------------------------------------------------
def test_values_of_spec_14_19():
    x,wrong = bimodal()
    s = small_loss_split(x)
    assert s.means == pytest.approx([.150887, .714108], abs=2e-3) and s.weights == pytest.approx([.6, .4], abs=1e-3)
    assert s.separated and s.clean.sum() == 600 and (s.clean == ~wrong).all() and s.separation > 7

def test_closed_form_of_spec_14_19():
    from fastrobust.labels.mixtures import _log_joint
    j = np.exp(_log_joint(np.array([.4, .3]), np.array([.1, .7]), np.array([.1, .1]), np.array([.5, .5])))
    assert j[:,0]/j.sum(1) == pytest.approx([.5, .997527], abs=1e-6)

def em(x, steps, reg=5e-4):
    "EM in logarithms, by scipy's densities, from the two halves about the mean: another start, the same end"
    r = np.stack([x <= x.mean(), x > x.mean()]).astype(float)
    for _ in range(steps):
        w = r.sum(1)
        m = (r @ x)/w
        s = np.sqrt((r*(x-m[:,None])**2).sum(1)/w + reg)
        log = np.stack([np.log(w[k]/len(x)) + norm.logpdf(x, m[k], s[k]) for k in (0, 1)])
        r = np.exp(log-logsumexp(log, axis=0))
    return m,s,w/len(x),r

@pytest.mark.parametrize('seed', [0, 1, *(pytest.param(o, marks=pytest.mark.slow) for o in (2, 3))])
def test_against_an_em_of_its_own(seed):
    r = np.random.RandomState(seed)
    x = np.concatenate([r.beta(2, 20, 700), r.normal(.6, .15, 300)])
    rm,rs,rw,_ = em(x, 2000)
    m,s,w = gaussian_mixture(x, max_iter=2000, tol=1e-9)
    assert m == pytest.approx(rm, abs=1e-4) and w == pytest.approx(rw, abs=1e-4) and s == pytest.approx(rs, abs=1e-4)
    xn = np.clip((x-x.min())/(np.quantile(x, .999)-x.min()), 0, 1)
    split = small_loss_split(x, warn=False, max_iter=2000, tol=1e-9)
    assert split.posterior == pytest.approx(em(xn, 2000)[3][0], abs=1e-3)

def slow_em(x, cut, steps, reg):
    "EM by loops from the groups below and above `cut`"
    r = [[1., 0.] if v <= cut else [0., 1.] for v in x]
    for _ in range(steps):
        ms,vs,ws = [],[],[]
        for k in (0, 1):
            n = sum(p[k] for p in r)
            ms.append(sum(p[k]*v for p,v in zip(r, x))/n)
            vs.append(sum(p[k]*(v-ms[k])**2 for p,v in zip(r, x))/n + reg)
            ws.append(n/len(x))
        dens = [[w*math.exp(-(v-m)**2/(2*s))/math.sqrt(2*math.pi*s) for m,s,w in zip(ms, vs, ws)] for v in x]
        r = [[d/sum(ds) for d in ds] for ds in dens]
    return ms,[s**.5 for s in vs],ws

def test_against_a_loop():
    x = [.05, .1, .12, .2, .3, .5, .55, .6, .9, 1.]
    cost = lambda c: sum(np.var(g)*len(g) for g in ([v for v in x if v <= c], [v for v in x if v > c]))
    cut = min(x[:-1], key=cost)     # 2-means by trying every cut
    m,s,w = gaussian_mixture(np.random.RandomState(0).permutation(x), max_iter=7, tol=0)
    rm,rs,rw = slow_em(x, cut, 7, 5e-4)
    assert m == pytest.approx(rm) and s == pytest.approx(rs) and w == pytest.approx(rw)

@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.floats(.01, 100), st.floats(-5, 50))
def test_scale_shift_and_order_of_items_change_nothing(seed, k, b):
    r = np.random.RandomState(seed)
    x = np.concatenate([r.gamma(2, .1, 120), r.normal(2, .4, 60)])
    a,p = small_loss_split(x, warn=False),r.permutation(len(x))
    c = small_loss_split((k*x+b)[p], warn=False)
    assert c.posterior == pytest.approx(a.posterior[p], abs=1e-5)
    assert c.means == pytest.approx(k*a.means+b, rel=1e-5, abs=1e-5) and c.stds == pytest.approx(k*a.stds, rel=1e-5)
    assert a.separated == c.separated

@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.integers(0, 10**6))
def test_posterior_falls_between_the_means_and_the_threshold_is_where_it_passes_p(seed):
    r = np.random.RandomState(seed)
    x = np.concatenate([r.gamma(1.5, .2, 300), r.normal(3, .7, 100)])
    s = small_loss_split(x, p=.6, warn=False)
    mid = np.sort(x[(x > s.means[0]) & (x < s.means[1])])
    post = s.posterior[np.argsort(x)][np.isin(np.sort(x), mid)]
    assert (np.diff(post) <= 1e-12).all() and s.means[0] < s.threshold < s.means[1]
    assert (post[mid < s.threshold] > .6).all() and (post[mid > s.threshold] < .6).all()
    d = s.density(s.threshold)
    assert d[0]/d.sum() == pytest.approx(.6, abs=1e-6)

def test_one_huge_loss_does_not_squeeze_the_others():
    x,wrong = bimodal(n=1200, m=800)
    s = small_loss_split(np.append(x, 1e4))
    assert s.separated and (s.clean[:-1] == ~wrong).all() and not s.clean[-1]

# --- one group, or none ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize('law', ['normal', 'exponential'])
def test_one_group_is_no_separation(law):
    x = getattr(np.random.RandomState(1), law)(size=3000)
    with pytest.warns(RobustWarning, match='no separation'): s = small_loss_split(x)
    assert not s.separated and 0 <= np.nanmin(s.posterior) and np.nanmax(s.posterior) <= 1

def test_two_groups_do_not_warn(recwarn):
    assert small_loss_split(bimodal()[0]).separated
    assert not [w for w in recwarn if issubclass(w.category, RobustWarning)]

def test_constant_losses_are_all_clean():
    with pytest.warns(RobustWarning, match='all losses are equal'): s = small_loss_split(np.full(9, .7))
    assert s.clean.all() and not s.separated and (s.means == .7).all() and math.isnan(s.threshold)
    assert np.isfinite(s.posterior).all()
    few = np.zeros(5000); few[:3] = 1.      # the 99.9 % quantile equals the minimum
    assert small_loss_split(few, warn=False).clean.sum() == 4997

def test_unknown_losses_stay_unknown():
    x,_ = bimodal()
    s = small_loss_split(np.concatenate([x, [np.nan]*5]))
    assert np.isnan(s.posterior[-5:]).all() and not s.clean[-5:].any()
    assert s.posterior[:-5] == pytest.approx(small_loss_split(torch.tensor(x)).posterior, abs=1e-6)

def test_classes_by_themselves():
    "an easy class and a hard one: all at once calls the whole hard class noisy"
    r = np.random.RandomState(0)
    x = np.concatenate([r.normal(.1, .02, 200), r.normal(.5, .02, 100), r.normal(2., .1, 150), r.normal(4, .1, 50)])
    y,wrong = np.repeat([3, 3, 7, 7], [200, 100, 150, 50]),np.repeat([False, True, False, True], [200, 100, 150, 50])
    s = small_loss_split(x, y, warn=False)
    assert (s.clean == ~wrong).all() and set(s.classes) == {3, 7} and isinstance(s.classes[3], SmallLossSplit)
    whole = small_loss_split(x, warn=False)
    assert (whole.clean != ~wrong).sum() >= 100 and (s.means == whole.means).all()
    y[:5] = 9                               # five items are too few to fit: judged by the fit to all
    rare = small_loss_split(x, y, warn=False)
    assert 9 not in rare.classes and rare.posterior[:5] == pytest.approx(whole.posterior[:5])

def test_errors():
    for bad in ([], [[1., 2.]], [np.nan]*3, [1., np.inf]):
        with pytest.raises(ValueError, match='one finite loss per item'): small_loss_split(bad)
    for p in (0, 1, 2):
        with pytest.raises(ValueError, match='`p` must lie in'): small_loss_split([1., 2., 3.], p=p)
    with pytest.raises(ValueError, match='one label per loss'): small_loss_split([1., 2., 3.], [0, 1], warn=False)
    for bad in ([2., 2.], [], [[1.]], [1., np.nan]):
        with pytest.raises(ValueError, match='two different finite'): gaussian_mixture(bad)

# --- selection and detection -----------------------------------------------------------------------------------------
def test_selection_of_spec_14_21():
    noisy = np.array([0, 1, 2, 0, 1]) != np.array([0, 2, 2, 1, 0])
    S = np.isin(np.arange(5), [0, 2, 3])
    assert label_precision_recall(S, noisy) == pytest.approx((2/3, 1))
    assert label_precision_recall(torch.tensor(S), torch.tensor(noisy)) == label_precision_recall(S, noisy)
    assert math.isnan(label_precision_recall(~S & S, noisy).precision)
    assert math.isnan(label_precision_recall(S, noisy | True).recall)

@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.lists(st.booleans(), min_size=5, max_size=60), st.floats(.05, .9))
def test_bounds_of_a_selection(noisy, tau):
    "no selection of a share 1-tau is cleaner than (1-n)/(1-tau) or keeps more than (1-tau)/(1-n)"
    noisy = np.array(noisy)
    k = max(1, round((1-tau)*len(noisy)))
    best = np.zeros(len(noisy), bool); best[np.argsort(noisy, kind='stable')[:k]] = True
    right,share = (~noisy).mean(),k/len(noisy)
    q = label_precision_recall(best, noisy)
    assert q.precision == pytest.approx(min(1, right/share))
    if right: assert q.recall == pytest.approx(min(1, share/right))

scored = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=40)

@settings(derandomize=True, deadline=None, max_examples=80)
@given(scored)
def test_detection_against_loops(rows):
    s,pos = np.array([r[0] for r in rows])/5,np.array([r[1] for r in rows])
    area,ap_of = (partial(f, s[pos], s[~pos], nan='lowest') for f in (auroc, aupr))
    if not pos.any() or pos.all():
        assert math.isnan(area())
        if not pos.any(): assert math.isnan(ap_of())
        else: assert ap_of() == 1
        return
    pairs = [(a > b) + .5*(a == b) for a in s[pos] for b in s[~pos]]
    assert area() == pytest.approx(sum(pairs)/len(pairs)) and area() == auroc(s[pos], s[~pos])
    ap,last = 0,0
    for t in sorted(set(s), reverse=True):
        recall = pos[s >= t].sum()/pos.sum()
        ap,last = ap + (recall-last)*pos[s >= t].mean(),recall
    assert ap_of() == pytest.approx(ap) and ap_of() == aupr(s[pos], s[~pos])

def test_unknown_scores_count_as_lowest_and_errors():
    s,pos = np.array([.9, np.nan, .2]),np.array([True, False, False])
    for f in (auroc, aupr):
        assert f(s[pos], s[~pos], nan='lowest') == 1 and f(s[[1]], s[[0]], nan='lowest') < 1
        assert f(s[[1, 2]], s[[1]], nan='lowest') == (.75 if f is auroc else pytest.approx(5/6))    # unscored are tied
        with pytest.raises(ValueError, match='expected finite scores'): f(s[pos], s[~pos])
        with pytest.raises(ValueError, match="Did you mean 'lowest'"): f(s[pos], s[~pos], nan='low')
    assert precision_at(s, pos, 1) == 1 and precision_at(s, pos, 3) == pytest.approx(1/3)
    assert precision_at(np.array([np.nan, .1]), np.array([True, False]), 1) == 0
    for k in (0, 4):
        with pytest.raises(ValueError, match='must lie in 1..3'): precision_at(s, pos, k)
    with pytest.raises(ValueError, match='Select both alike'): label_precision_recall(s, pos[:2])

def test_a_spike_in_a_broad_group_is_no_second_group():
    "Two humps, but less than two pooled deviations apart: wrong labels do not look like that"
    g = np.random.default_rng(0)
    losses = np.r_[g.normal(0, .06, 1800), g.normal(1.1, .8, 4200)]
    s = small_loss_split(losses, warn=False)
    x = s.density(np.linspace(*s.means, 200)).sum(1)
    assert x.min() < .9*min(x[0], x[-1]) and 1.5 < s.separation < 2 and not s.separated
