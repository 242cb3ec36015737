"Confident learning and noise matrices: slow references, cleanlab 2.9 as oracle, the spec's numbers, refusals"
import warnings
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from fastrobust.basics import RobustWarning
from fastrobust.labels.confident import calibrate_joint, confident_joint, confident_thresholds
from fastrobust.labels.issues import (find_label_issues, label_quality, rank_label_issues,
                                      suggest_labels)
from fastrobust.predictions import need_probs
from fastrobust.labels.outofsample import warn_in_sample
from fastrobust.labels.transition import T_from_joint, estimate_T, noise_rate_from_joint, true_prior

pytestmark = pytest.mark.filterwarnings('ignore::fastrobust.basics.RobustWarning', 'ignore:May not flag')
RULES = {'pbnr': 'prune_by_noise_rate', 'pbc': 'prune_by_class', 'both': 'both',
         'confident_learning': 'confident_learning', 'predicted_neq_given': 'predicted_neq_given',
         'low_self_confidence': 'low_self_confidence', 'low_normalized_margin': 'low_normalized_margin'}
quick = settings(derandomize=True, deadline=None, max_examples=60)

def softmax(z):
    e = np.exp(z-z.max(1, keepdims=True))
    return e/e.sum(1, keepdims=True)

def data(seed, kind='plain', n=None):
    "Labels and probabilities; imbalanced, a class absent, ties, one-hot, float32"
    g = np.random.default_rng(seed)
    n,c = n or int(g.integers(30, 700)),int(g.integers(2, 30))
    share = g.dirichlet(np.full(c, .3 if kind == 'imbalanced' else 10))
    t = g.choice(c, n, p=share)
    y = np.where(g.random(n) < .6*g.random(), g.integers(0, c, n), t)
    z = g.normal(size=(n, c))*g.choice([.5, 1, 3])
    z[np.arange(n), t] += g.choice([0, 1, 3, 8])
    p = softmax(z)
    if kind == 'absent' and c > 2: y[y == c-2] = 0
    if kind == 'ties':  p = np.round(p, 1)+1e-9; p /= p.sum(1, keepdims=True)
    if kind == 'onehot': p = np.eye(c)[p.argmax(1)]
    if kind == 'float32': p = p.astype(np.float32)
    y[:2] = 0,1
    return y,p

def spec_data():
    "Spec 14.13"
    g,n,c = np.random.RandomState(0),2000,5
    t = g.randint(0, c, n)
    T = np.full((c, c), .3/(c-1)); np.fill_diagonal(T, .7)
    s = np.array([g.choice(c, p=T[i]) for i in t])
    z = g.normal(size=(n, c))
    z[np.arange(n), t] += 3
    return s,t,softmax(z) @ T

# --- slow references -------------------------------------------------------------------------------------------------
def slow_joint(y, p, collision):
    n,c = p.shape
    t = [np.mean([p[i, k] for i in range(n) if y[i] == k]) if (y == k).any() else 2. for k in range(c)]
    Q = np.zeros((c, c), int)
    for i in range(n):
        sure = [k for k in range(c) if p[i, k] >= max(t[k], 2e-6)-1e-6]
        if not sure: continue
        among = sure if collision == 'masked' or len(sure) == 1 else range(c)
        Q[y[i], max(among, key=lambda k: (p[i, k], -k))] += 1
    for k in range(c): Q[k, k] = max(1, Q[k, k])
    return Q

@pytest.mark.parametrize('collision', ['masked', 'cleanlab'])
@pytest.mark.parametrize('kind', ['plain', 'imbalanced', 'absent', 'onehot'])
def test_joint_against_a_loop(collision, kind):
    for seed in range(4):
        y,p = data(seed, kind, n=150)
        assert (confident_joint(y, p, collision=collision, calibrate=False) == slow_joint(y, p, collision)).all()

def test_joint_by_hand():
    y = np.array([0, 0, 0, 1, 1])
    p = np.array([[.9, .1], [.8, .2], [.1, .9], [.2, .8], [.4, .6]])
    np.testing.assert_allclose(confident_thresholds(y, p), [.6, .7])
    assert confident_joint(y, p, calibrate=False).tolist() == [[2, 1], [0, 1]]
    assert confident_joint(y, p).tolist() == [[2, 1], [0, 2]]
    assert find_label_issues(y, p).tolist() == [False, False, True, False, False]

def test_collision_masked_stays_among_the_confident():
    "The last item is confidently 1 and 2; its most probable class 0 is far below its own threshold"
    y = np.array([0]*10 + [1]*10 + [2]*11)
    p = np.vstack([np.repeat([[.9, .05, .05], [.4, .3, .3], [.4, .3, .3]], 10, 0), [[.36, .33, .31]]])
    assert ((p[-1] >= confident_thresholds(y, p)) == [False, True, True]).all()
    m,k = (confident_joint(y, p, collision=o, calibrate=False) for o in ('masked', 'cleanlab'))
    assert m[2].tolist() == [0, 11, 1] and k[2].tolist() == [1, 10, 1] and (m[:2] == k[:2]).all()

def test_calibration_keeps_counts_and_total():
    for seed in range(20):
        y,p = data(seed, 'absent')
        Q,c = confident_joint(y, p),p.shape[1]
        assert Q.sum() == len(y) and (Q.sum(1) == np.bincount(y, minlength=c)).all() and (Q >= 0).all()
        assert (calibrate_joint(confident_joint(y, p, calibrate=False), y) == Q).all()
    with pytest.raises(ValueError, match='expected counts'): calibrate_joint(np.ones((2, 3)), y)
    with pytest.raises(ValueError, match='expected counts'): calibrate_joint(np.ones((2, 2)), [0, 2])

def test_rounding_gives_to_the_largest_remainder():
    assert calibrate_joint([[1, 1, 1], [0, 1, 0], [0, 0, 1]], [0, 0, 0, 0, 0, 1, 2])[0].sum() == 5
    assert calibrate_joint([[6, 3, 1], [0, 1, 0], [0, 0, 1]], [0]*7+[1, 2])[0].tolist() == [4, 2, 1]    # 4.2 2.1 .7
    assert calibrate_joint([[9, 3, 1], [0, 1, 0], [0, 0, 1]], [0]*2+[1, 2])[0].tolist() == [1, 1, 0]    # 1.38 .46 .15

# --- properties ------------------------------------------------------------------------------------------------------
@quick
@given(st.integers(0, 10**6))
def test_permuting_samples_permutes_the_mask(seed):
    y,p = data(seed, n=80)
    i = np.random.default_rng(seed).permutation(len(y))
    for rule in RULES: assert (find_label_issues(y, p, rule)[i] == find_label_issues(y[i], p[i], rule)).all()

@quick
@given(st.integers(0, 10**6))
def test_perfect_probabilities_give_no_issues(seed):
    y,p = data(seed, n=60)
    for rule in RULES: assert not find_label_issues(y, np.eye(p.shape[1])[y], rule).any()
    assert noise_rate_from_joint(confident_joint(y, np.eye(p.shape[1])[y])) == 0

@quick
@given(st.integers(0, 10**6))
def test_masked_is_cleanlab_where_at_most_one_class_is_confident(seed):
    y,p = data(seed, n=80)
    ok = (p >= confident_thresholds(y, p)-1e-6).sum(1) <= 1
    y,p = np.concatenate([y[ok], y[~ok]]),np.vstack([p[ok], np.eye(p.shape[1])[y[~ok]]])    # thresholds only rise
    assert ((p >= confident_thresholds(y, p)-1e-6).sum(1) <= 1).all()
    assert (confident_joint(y, p) == confident_joint(y, p, collision='cleanlab')).all()
    for rule in RULES:
        assert (find_label_issues(y, p, rule) == find_label_issues(y, p, rule, collision='cleanlab')).all()

@quick
@given(st.integers(0, 10**6))
def test_rules_keep_what_they_promise(seed):
    y,p = data(seed, 'imbalanced', n=120)
    m = {r: find_label_issues(y, p, r) for r in RULES}
    assert (m['both'] == (m['pbnr'] & m['pbc'])).all()
    for r in ('pbnr', 'pbc', 'confident_learning', 'predicted_neq_given'): assert not m[r][p.argmax(1) == y].any()
    for r in ('low_self_confidence', 'low_normalized_margin'): assert m[r].sum() == m['confident_learning'].sum()
    s = label_quality(y, p, 'self_confidence')
    if m['low_self_confidence'].any() and not m['low_self_confidence'].all():
        assert s[m['low_self_confidence']].max() <= s[~m['low_self_confidence']].min()
    Q = confident_joint(y, p)
    n = np.bincount(y, minlength=p.shape[1])
    for k in np.flatnonzero(n > 1):
        assert m['pbc'][y == k].sum() <= n[k]-Q[k, k] and m['pbnr'][y == k].sum() <= Q[k].sum()-Q[k, k]

def test_pbnr_and_pbc_against_loops():
    y,p = data(5, n=200)
    Q,agree = confident_joint(y, p),p.argmax(1) == y
    a,b = set(),set()
    for k in range(len(Q)):
        ids = [i for i in range(len(y)) if y[i] == k]
        a |= set(sorted(ids, key=lambda i: p[i, k])[:len(ids)-Q[k, k]])
        for j in range(len(Q)):
            if j != k: b |= set(sorted(ids, key=lambda i: p[i, k]-p[i, j])[:Q[k, j]])
    assert (Q.diagonal() > 0).all() and a and b
    assert set(np.flatnonzero(find_label_issues(y, p, 'pbc'))) == {i for i in a if not agree[i]}
    assert set(np.flatnonzero(find_label_issues(y, p, 'pbnr'))) == {i for i in b if not agree[i]}

# --- cleanlab 2.9 as the oracle --------------------------------------------------------------------------------------
@pytest.mark.parametrize('kind', ['plain', 'imbalanced', 'absent', 'ties', 'onehot', 'float32'])
def test_equal_to_cleanlab(kind):
    pytest.importorskip('cleanlab')
    from cleanlab.count import compute_confident_joint, estimate_latent, get_confident_thresholds
    from cleanlab.filter import find_label_issues as theirs
    from cleanlab.rank import get_label_quality_scores
    flagged = 0
    for seed in range(8):
        y,p = data(seed+100, kind)
        np.testing.assert_allclose(confident_thresholds(y, p), get_confident_thresholds(y, p), atol=1e-6)
        for calibrate in (True, False):
            Q = confident_joint(y, p, collision='cleanlab', calibrate=calibrate)
            assert (Q == compute_confident_joint(y, p, calibrate=calibrate)).all()
        for ours,name in RULES.items():
            mask = find_label_issues(y, p, ours, collision='cleanlab')
            flagged += mask.sum()
            assert mask.dtype == bool and (mask == theirs(y, p, filter_by=name, n_jobs=1)).all()
            assert (mask == find_label_issues(y, p, name, collision='cleanlab')).all()
        for m in ('self_confidence', 'normalized_margin', 'confidence_weighted_entropy'):
            np.testing.assert_allclose(label_quality(y, p, m), get_label_quality_scores(y, p, method=m), atol=2e-6)
            if m == 'confidence_weighted_entropy': continue
            np.testing.assert_allclose(label_quality(y, p, m, adjust=True), atol=2e-6,
                                       desired=get_label_quality_scores(y, p, method=m, adjust_pred_probs=True))
        if kind in ('plain', 'float32'):
            noise = estimate_latent(confident_joint(y, p, collision='cleanlab'), y)[1]        # columns = true
            counts = confident_joint(y, p, collision='cleanlab').sum(0) > 0
            got = T_from_joint(confident_joint(y, p, collision='cleanlab'))
            np.testing.assert_allclose(got[counts], noise.T[counts], atol=1e-4)
    assert flagged

def test_a_joint_of_ones_own_as_in_cleanlab():
    pytest.importorskip('cleanlab')
    from cleanlab.filter import find_label_issues as theirs
    y,p = data(3)
    c = p.shape[1]
    Q = calibrate_joint(np.bincount(y*c + p.argmax(1), minlength=c*c).reshape(c, c), y)
    for rule in ('pbnr', 'pbc', 'both'):
        ours = find_label_issues(y, p, rule, joint=Q)
        assert (ours == theirs(y, p, filter_by=RULES[rule], confident_joint=Q, n_jobs=1)).all()
    assert (find_label_issues(y, p) != find_label_issues(y, p, joint=Q)).any()
    with pytest.raises(ValueError, match='leave `joint` out'):
        find_label_issues(y, p, 'confident_learning', joint=Q)
    with pytest.raises(ValueError, match='expected `joint` of shape'): find_label_issues(y, p, joint=Q[1:])

@pytest.mark.parametrize('collision', ['masked', 'cleanlab'])
def test_the_numbers_of_the_spec(collision):
    s,t,p = spec_data()
    wrong = s != t
    assert wrong.sum() == 593
    Q = confident_joint(s, p, collision=collision, calibrate=False)
    assert Q.sum()-Q.trace() == 526
    Q = confident_joint(s, p, collision=collision)
    assert Q.sum()-Q.trace() == 608 and noise_rate_from_joint(Q) == pytest.approx(.304)
    for rule,n,prec,rec in (('pbnr', 582, .9639, .9460), ('pbc', 607, .944, .9663), ('both', 577, .9653, .9393),
                            ('confident_learning', 526, .9677, .8583), ('predicted_neq_given', 655, .8992, .9933),
                            ('low_self_confidence', 526, .9886, .8769)):
        m = find_label_issues(s, p, rule, collision=collision)
        assert m.sum() == n
        assert wrong[m].mean() == pytest.approx(prec, abs=6e-5) and m[wrong].mean() == pytest.approx(rec, abs=6e-5)

# --- scores, suggestions, order --------------------------------------------------------------------------------------
def test_quality_by_hand():
    y,p = np.array([0, 2]),np.array([[.7, .2, .1], [.5, .3, .2]])
    np.testing.assert_allclose(label_quality(y, p), [(.7-.2+1)/2, (.2-.5+1)/2])
    np.testing.assert_allclose(label_quality(y, p, 'self_confidence'), [.7, .2])
    r = -(p*np.log(p)).sum(1)/np.log(3)/[.7, .2]
    np.testing.assert_allclose(label_quality(y, p, 'entropy'), np.log(r+1)/r)
    with pytest.raises(ValueError, match='not defined on adjusted'): label_quality(y, p, 'entropy', adjust=True)
    with pytest.raises(ValueError, match="Did you mean 'margin'"): label_quality(y, p, 'margins')

def test_suggestions_are_confident_classes_and_never_a_label_ruled_out():
    y = np.array([0]*4 + [1]*4 + [0, 1])
    p = np.array([[.9, .1]]*4 + [[.4, .6]]*4 + [[.52, .48], [.55, .45]])
    t = confident_thresholds(y, p)      # .824, .57
    np.testing.assert_allclose(t, [.824, .57])
    codes,conf = suggest_labels(y, p)
    assert codes.tolist() == [0]*4 + [1]*4 + [0, 0] and conf[-1] == .55
    codes,conf = suggest_labels(y, p, issues=np.arange(10) == 8)
    assert codes[8] == 1 and conf[8] == .48 and codes[9] == 0
    y2,p2 = np.array([0, 0, 1, 1, 0]),np.array([[.9, .1], [.9, .1], [.6, .4], [.6, .4], [.55, .45]])
    assert suggest_labels(y2, p2)[0].tolist() == [0, 0, 1, 1, 1]  # .45 is a lot for 1, .55 little for 0
    for bad in (np.arange(5), np.zeros(4, bool)):
        with pytest.raises(ValueError, match='as a mask'): suggest_labels(y2, p2, bad)

def test_ranking():
    y,p = data(1)
    m = find_label_issues(y, p)
    ids,score = rank_label_issues(y, p, m),label_quality(y, p)
    assert set(ids) == set(np.flatnonzero(m)) and (np.diff(score[ids]) >= 0).all()
    assert sorted(rank_label_issues(y, p, method='self_confidence')) == list(range(len(y)))

# --- size ------------------------------------------------------------------------------------------------------------
def test_many_classes_in_chunks(monkeypatch):
    from fastrobust.labels import confident as fc, issues as fi
    y,p = data(2)
    want = [confident_joint(y, p), find_label_issues(y, p), label_quality(y, p), label_quality(y, p, 'entropy')]
    chunks = fc.chunks
    for o in (fc, fi): monkeypatch.setattr(o, 'chunks', lambda p: chunks(p, size=7*p.shape[1]))
    for a,b in zip(want, [confident_joint(y, p), find_label_issues(y, p), label_quality(y, p),
                          label_quality(y, p, 'entropy')]): assert (a == b).all()
    c,n = 2000,3000
    g = np.random.default_rng(0)
    t = g.integers(0, c, n)
    y = np.where(g.random(n) < .2, g.integers(0, c, n), t)
    p = g.random((n, c), dtype=np.float32)
    p[np.arange(n), t] += c
    p /= p.sum(1, keepdims=True)
    Q = confident_joint(y, p)
    assert Q.shape == (c, c) and Q.sum() == n
    m = find_label_issues(y, p, 'predicted_neq_given')
    assert (m == (y != t)).all()

# --- what is refused -------------------------------------------------------------------------------------------------
Y,P = np.array([0, 1, 1]),np.array([[.9, .1], [.2, .8], [.6, .4]])
@pytest.mark.parametrize('y,p,error,match', [
    (Y, P*2, ValueError, 'softmax'), (Y, np.log(P), ValueError, 'look like logits'),
    (Y, P*.9, ValueError, 'rows of probabilities that sum to 1, got 0.9'),
    (Y, np.where(P == .8, np.nan, P), ValueError, r'NaN or inf in 1 rows, first \[1\]'),
    (Y, np.where(P == .8, np.inf, P), ValueError, 'Did the training diverge'),
    (Y[:2], P, ValueError, 'as many labels as rows'), (np.eye(2)[Y], P, ValueError, r'argmax\(1\)'),
    (Y+1, P, ValueError, r'labels in 0..1, one column of probabilities each, got 1 to 2'),
    (Y-1, P, ValueError, 'drop items without a label'), (Y.astype(float), P, TypeError, r'astype\(int\)'),
    (['a', 'b', 'b'], P, TypeError, 'dls.vocab'), (Y, P[:, :1], ValueError, 'two classes'),
    (Y, P[0], ValueError, r'probabilities \(n,c\)'), (Y[:0], P[:0], ValueError, 'at least one item'),
    (Y, (torch.tensor(P), torch.tensor(Y)), ValueError, 'Take the first'),
    (Y, P.astype(str), ValueError, 'one row per item'),
    (P, Y, ValueError, 'the other way round: .*labels first, as in cleanlab')])
def test_refusals(y, p, error, match):
    for f in (confident_joint, find_label_issues, label_quality, suggest_labels, confident_thresholds, estimate_T):
        with pytest.raises(error, match=match): f(y, p)

def test_a_learner_is_no_evidence():
    class L: get_preds = None
    with pytest.raises(TypeError, match=r'got a learner.*cross_val_preds\(make_learner, dls\)'):
        find_label_issues(Y, L())

def test_unknown_names():
    with pytest.raises(ValueError, match="Did you mean 'pbnr'"): find_label_issues(Y, P, 'pbn')
    with pytest.raises(ValueError, match="'masked' .* or 'cleanlab', got 'none'"):
        confident_joint(Y, P, collision='none')

def test_kinds_of_arrays():
    want = find_label_issues(Y, P)
    tensors = torch.tensor(Y),torch.tensor(P, requires_grad=True)
    for y,p in (tensors, (Y.tolist(), P.tolist()), (Y.astype(np.uint8), P.astype(np.float32)),
                (Y, P.astype(np.float16))):
        assert (find_label_issues(y, p) == want).all()
    assert need_probs(Y, P.astype(np.float16))[1].dtype == np.float32
    assert need_probs(Y == 1, np.eye(2, dtype=int)[Y])[1].dtype == np.float64

def test_inputs_are_left_alone():
    y,p = data(4)
    y0,p0 = y.copy(),p.copy()
    for r in RULES: find_label_issues(y, p, r)
    label_quality(y, p, adjust=True); suggest_labels(y, p)
    for how in ('joint', 'anchor', 'dual'): estimate_T(y, p, how, q=.97)
    assert (y == y0).all() and (p == p0).all()

def test_memorised_labels_are_warned_of():
    y = np.arange(200)%4
    p = np.full((200, 4), .02); p[np.arange(200), y] = .94
    with pytest.warns(RobustWarning, match=r'100.0% of the labels are predicted .* no evidence'):
        find_label_issues(y, p)
    class Own(np.ndarray): out_of_sample = True
    with warnings.catch_warnings():
        warnings.simplefilter('error', RobustWarning)
        assert not warn_in_sample(y, p.view(Own))
        assert not warn_in_sample(y[:99], p[:99])
        q = p.copy(); q[[0, 4, 8]] = .24,.26,.25,.25       # 98.5 %
        assert not warn_in_sample(y, q)
        find_label_issues(y, q)

def test_a_class_with_one_item():
    y,p = np.array([0]*5 + [1]*5 + [2]),np.array([[.8, .1, .1]]*5 + [[.1, .8, .1]]*5 + [[.9, .1, 0]])
    for rule in ('pbnr', 'pbc', 'both'):
        with pytest.warns(RobustWarning, match=r'classes \[2\] have a single item'): m = find_label_issues(y, p, rule)
        assert not m.any()
        assert not find_label_issues(y, p, rule, joint=[[5, 0, 0], [0, 5, 0], [3, 0, 1]]).any()
    assert find_label_issues(y, p, 'predicted_neq_given').tolist() == [False]*10 + [True]

# --- noise matrices --------------------------------------------------------------------------------------------------
TRUE = np.array([[.7, .2, .1], [.05, .9, .05], [.3, .1, .6]])

def anchored(n=600, seed=0):
    "Exact P(given|x) of items, some with a certain true class (the anchors)"
    g = np.random.default_rng(seed)
    post = g.dirichlet([1, 1, 1], n)
    post[:30] = np.eye(3)[np.arange(30)%3]
    t = np.array([g.choice(3, p=o) for o in post])
    return t,np.array([g.choice(3, p=TRUE[i]) for i in t]),post @ TRUE

def test_anchors_are_exact_where_they_exist():
    t,y,p = anchored()
    np.testing.assert_allclose(estimate_T(y, p, 'anchor'), TRUE, atol=1e-12)

def test_anchor_quantile_against_a_sort():
    t,y,p = anchored()
    T = estimate_T(y, p, 'anchor', q=.95)
    for k in range(3): np.testing.assert_allclose(T[k], p[np.argsort(p[:, k])[int(.95*599)]])
    assert (T != TRUE).any()
    out = p.copy(); out[100] = 0,1,0        # an outlier takes the maximum, not the quantile
    assert estimate_T(y, out, 'anchor')[1].tolist() == [0, 1, 0]
    np.testing.assert_allclose(estimate_T(y, out, 'anchor', q=.995), TRUE, atol=1e-12)      # ten anchors each

def test_joint_T_with_perfect_probabilities_is_the_empirical_matrix():
    t,y,_ = anchored()
    C = np.array([[((t == i) & (y == j)).sum() for j in range(3)] for i in range(3)])
    np.testing.assert_allclose(T_from_joint(C.T), C/C.sum(1, keepdims=True))
    # thresholds are the shares of right labels, a one-hot vote is above them all
    np.testing.assert_allclose(estimate_T(y, np.eye(3)[t]), C/C.sum(1, keepdims=True), atol=1e-12)
    assert noise_rate_from_joint(confident_joint(y, np.eye(3)[t])) == pytest.approx((t != y).mean())

def test_dual_T_against_loops():
    t,y,p = anchored()
    spade = np.zeros((3, 3))
    for a,b in zip(p.argmax(1), y): spade[a, b] += 1
    spade /= spade.sum(1, keepdims=True)
    np.testing.assert_allclose(estimate_T(y, p, 'dual'), TRUE @ spade, atol=1e-12)
    hard = np.eye(3)[t]     # a network certain of the true class: the first factor is I, the second counts
    C = np.array([[((t == i) & (y == j)).sum() for j in range(3)] for i in range(3)])
    np.testing.assert_allclose(estimate_T(y, hard, 'dual'), C/C.sum(1, keepdims=True))

@pytest.mark.parametrize('how', ['joint', 'anchor', 'dual'])
def test_T_has_rows_that_sum_to_one(how):
    for seed in range(6):
        T = estimate_T(*data(seed, 'absent'), how)
        np.testing.assert_allclose(T.sum(1), 1)
        assert (T >= 0).all() and T.dtype == np.float64

def test_empty_classes_keep_their_label():
    assert T_from_joint([[4, 0, 1], [1, 0, 0], [0, 0, 2]])[1].tolist() == [0, 1, 0]
    assert T_from_joint([[4, 0, 1], [1, 0, 0], [0, 0, 2]])[0].tolist() == [.8, .2, 0]

def test_T_refusals_and_warnings():
    t,y,p = anchored()
    with pytest.raises(ValueError, match=r'quantile in \(0,1\], got 0'): estimate_T(y, p, 'anchor', q=0)
    with pytest.raises(TypeError, match='`q` must be a number'): estimate_T(y, p, 'anchor', q='max')
    with pytest.raises(ValueError, match="'joint', 'anchor' or 'dual', got 'fold'"): estimate_T(y, p, 'fold')
    with pytest.warns(RobustWarning, match='these are no anchors'): estimate_T(y, p, 'anchor', q=.5)
    blind = np.tile([.5, .3, .2], (len(y), 1))
    with pytest.warns(RobustWarning, match=r'no anchor for classes \[1, 2\]'): estimate_T(y, blind, 'anchor')
    for bad in (np.ones((2, 3)), -np.eye(3), np.zeros((3, 3)), np.full((2, 2), np.nan), [[1.]]):
        with pytest.raises(ValueError, match='expected a joint'): noise_rate_from_joint(bad)
        with pytest.raises(ValueError, match='expected a joint'): T_from_joint(bad)

def test_true_prior_inverts_the_noise():
    prior = np.array([.5, .2, .3])
    np.testing.assert_allclose(true_prior(TRUE, prior @ TRUE), prior)
    y = np.repeat([0, 1, 2], [50, 20, 30])
    np.testing.assert_allclose(true_prior(np.eye(3), y), prior)
    res = true_prior(TRUE, np.array([0, 0, 1.]))        # impossible under T: cut to the simplex
    assert (res >= 0).all() and res.sum() == pytest.approx(1)
    with pytest.warns(RobustWarning, match='nearly singular'): true_prior(np.full((3, 3), 1/3), y)
    with pytest.raises(ValueError, match='take the transpose'): true_prior(TRUE.T, y)
    with pytest.raises(ValueError, match='Pass the given labels'): true_prior(TRUE, y+1)
    with pytest.raises(ValueError, match='Pass the given labels'): true_prior(TRUE, np.array([.5, .5]))
