"Superclass, image-dependent, model-made and open-set noise, matrix builders, long tails, and all of them in loaders"
import copy, pickle, random, warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from torch import nn

from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.transforms import ColReader, RandomSplitter, get_image_files, parent_label
from fastai.interpret import ClassificationInterpretation
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.vision.augment import FlipItem, RandomResizedCrop, Resize
from fastai.vision.data import ImageBlock
import fastai.vision.learner                                         # noqa: F401  plot_top_losses for images

from fastrobust.basics import RobustWarning, batch_idxs
from fastrobust.data.fromarrays import array_dls
from fastrobust.data.editing import split_items, take_items, with_labels
from fastrobust.noise.averaging import AverageProbs, mean_probs
from fastrobust.noise.instance import _rates, _systematic, pmd_rows, truncated_normal
from fastrobust.data.longtail import long_tail
from fastrobust.noise.classmaps import CIFAR100_COARSE, SUPERCLASS_MAPS
from fastrobust.noise.matrices import (T_dirichlet, T_from_confusion, T_trace, learnable,
                                       noise_matrix)
from fastrobust.noise.laws import NoisyLabels
from fastrobust.noise.record import NoiseRecord
from fastrobust.noise.block import NoisyDataBlock, add_label_noise
from fastrobust.data.openset import aux_images
from fastrobust.data.reading import images
from fastrobust.samples import sample_data

from conftest import params, tiny_dls, tiny_learner

prop = settings(derandomize=True, deadline=None, max_examples=30)
quiet = pytest.mark.filterwarnings('ignore::fastrobust.basics.RobustWarning')
y1000 = np.arange(1000) % 10
def pixels(n, seed=0, c=3, size=6):
    return np.random.RandomState(seed).randint(0, 256, (n, size, size, c)).astype(np.uint8)
X1000 = pixels(1000)

# --- superclasses ----------------------------------------------------------------------------------------------------
def test_true_superclasses_and_the_legacy_blocks():
    "Spec check 3 and the two groups it spells out"
    assert np.bincount(CIFAR100_COARSE).tolist() == [5]*20
    group = lambda k: [i for i in range(100) if CIFAR100_COARSE[i] == k]
    assert group(0) == [4,30,55,72,95] and group(1) == [1,32,67,73,91]
    nxt = lambda m: noise_matrix('superclass', 100, 1., mapping=m).argmax(1)
    with pytest.warns(RobustWarning, match='diagonally'): true,block = nxt(None),nxt('cifar100_block5')
    coarse = np.array(CIFAR100_COARSE)
    assert (coarse[true] == coarse).all() and sorted(true) == list(range(100)) and (true != np.arange(100)).all()
    assert np.flatnonzero(coarse[block] == coarse).tolist() == [6,19,42,63,86,89]
    assert true[[4,30,55,72,95]].tolist() == [30,55,72,95,4] and block[:6].tolist() == [1,2,3,4,0,6]
    assert list(SUPERCLASS_MAPS) == ['cifar100_superclass', 'cifar100_block5']
    np.testing.assert_array_equal(noise_matrix('superclass', 7, .3, mapping='next_class'), noise_matrix('pair', 7, .3))

@prop
@given(st.lists(st.integers(0, 3), min_size=4, max_size=9), st.floats(0, .4), st.integers(0, 50))
def test_superclass_noise_stays_inside_any_grouping(groups, r, seed):
    c = len(groups)
    if max(np.bincount(groups)) < 2: return
    y = np.random.RandomState(seed).randint(0, c, 200)
    rec = NoisyLabels('superclass', r, seed=seed, mapping=dict(enumerate(groups))).apply(y, c)
    g = np.array(groups)
    assert (g[rec.y_noisy] == g[y]).all() and (rec.is_noisy.sum() <= int(r*200))
    alone = np.bincount(g, minlength=4)[g] == 1
    assert not rec.is_noisy[alone[y]].any()

def test_superclasses_by_name_and_their_errors():
    voc = ['cat', 'car', 'dog', 'bus', 'cow']
    m = dict(cat='animal', dog='animal', cow='animal', car='vehicle', bus='vehicle')
    T = noise_matrix('superclass', 5, .2, mapping=m, vocab=voc)
    assert [(voc[i], voc[int(np.argsort(T[i])[-2])]) for i in range(5)] == [
        ('cat','dog'), ('car','bus'), ('dog','cow'), ('bus','car'), ('cow','cat')]
    for kw,err,msg in ((dict(), ValueError, 'for 100 classes, got 5'),
                       (dict(mapping='cifar100_block'), ValueError, "Did you mean 'cifar100_block5'"),
                       (dict(mapping={'cat': 0, 'dgo': 0}, vocab=voc), ValueError, "'dgo'.*Did you mean 'dog'"),
                       (dict(mapping={0: 'a', 1: 'b'}), ValueError, "of one.*asymmetric"),
                       (dict(mapping={}), TypeError, 'non-empty dict')):
        with pytest.raises(err, match=msg): noise_matrix('superclass', 5, .2, **kw)
    with pytest.warns(RobustWarning, match="CIFAR-100's grouping on other"):
        noise_matrix('superclass', 100, .2, vocab=list(range(100)))
    with pytest.raises(ValueError, match="`mapping` expects kind='asymmetric' or 'superclass'"):
        NoisyLabels('symmetric', .2, mapping='next_class')

# --- matrices of one's own -------------------------------------------------------------------------------------------
def test_dirichlet_matrix():
    T = T_dirichlet(4, .3, 1., seed=0)      # spec check 18
    np.testing.assert_allclose(T[0,1:], [.118639,.177905,.003456], atol=1e-6)
    np.testing.assert_allclose(T[3,:3], [.194461,.105498,.000041], atol=1e-6)
    np.testing.assert_allclose(T.sum(1), 1)
    np.testing.assert_allclose(T_dirichlet(5, .4, 1e7), noise_matrix('symmetric', 5, .4), atol=1e-3)
    assert (np.sort(T_dirichlet(6, .4, .001), 1)[:,-2] > .3).all()          # one target takes it all
    np.testing.assert_allclose(np.diag(T_dirichlet(3, [.1,.2,.3])), [.9,.8,.7])
    rec = NoisyLabels('matrix', T=T).apply(np.arange(4000) % 4)
    assert abs(rec.realised_rate - .3) < 1e-3 and rec.nominal_rate == pytest.approx(.3)

@pytest.mark.parametrize('c,trace', [(2, 1.05), (4, 1.3), (10, 1.2), (10, 6.), (10, 10.), (50, 20.)])
def test_trace_matrix(c, trace):
    for seed in range(3):
        T = T_trace(c, trace, seed)
        assert np.trace(T) == pytest.approx(trace) and T.min() >= 0 and learnable(T)
        np.testing.assert_allclose(T.sum(1), 1)
    assert c == 10 and trace == 10 or (T_trace(c, trace, 0) != T).any()

def test_matrix_from_two_label_vectors():
    a,b = np.array([0,0,0,0,1,1]),np.array([0,0,0,1,1,0])
    np.testing.assert_array_equal(T_from_confusion(a, b), [[.75,.25], [.5,.5]])     # by a row vector: wrong here
    with pytest.warns(RobustWarning, match='class 2'): T = T_from_confusion(a, b, 3)
    assert T[2].tolist() == [0,0,1]
    rec = NoisyLabels('pair', .3, seed=1).apply(y1000, 10)
    np.testing.assert_array_equal(T_from_confusion(rec.y_clean, rec.y_noisy), rec.T_empirical)
    with pytest.raises(ValueError, match='got 6 and 5'): T_from_confusion(a, b[:5])

@prop
@given(st.integers(2, 6), st.floats(0, 1), st.floats(.05, 5), st.integers(0, 999))
def test_learnable_is_cleanlabs(c, r, conc, seed):
    valid = pytest.importorskip('cleanlab.benchmarking.noise_generation').noise_matrix_is_valid
    T,py = T_dirichlet(c, r, conc, seed=seed),np.random.default_rng(seed).dirichlet(np.ones(c))
    if abs((py[:,None]*T).sum(0)*py - py*np.diag(T)).min() < 1e-9: return
    assert learnable(T, py) == bool(valid(T.T, py))

def test_learnability_warnings():
    T = np.array([[.5,.4,.1], [.1,.5,.4], [.2,.2,.6]])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        noise_matrix('matrix', T=T)         # learnable for classes of one size
    # by hand, sizes .9, .1: P(given 1) = .9*.45 + .1*.5 = .455 < .5, but with .45 -> .6 it is .59 > .5
    T = np.array([[.55,.45], [.5,.5]])
    assert learnable(T, [90,10]) and not learnable([[.4,.6], [.5,.5]], [90,10])
    T3 = np.array([[.4,.6,0], [.45,.55,0], [0,0,1]])        # P(given 1) = (.6+.55)/3 < .55, but .552 if class 2 is rare
    assert learnable(T3) and not learnable(T3, [48,48,4]) and learnable(T3, [0,48,4])
    with pytest.warns(RobustWarning, match='classes of these sizes'):
        NoisyLabels('matrix', T=T3).apply(np.repeat([0,1,2], [48,48,4]))
    with pytest.warns(RobustWarning, match='not learnable'):    # diagonally dominant and yet
        noise_matrix('matrix', T=[[.36,.32,.32], [.39,.41,.2], [.39,.2,.41]])

@pytest.mark.parametrize('f,msg', [
    (lambda: T_dirichlet(1, .3), 'at least 2 classes'), (lambda: T_dirichlet(3, 1.3), r'\[0,1\]'),
    (lambda: T_dirichlet(3, .3, 0), '`conc` must be positive'), (lambda: T_trace(4, 1.), r'\(1,4\]'),
    (lambda: T_trace(4, 5), r'\(1,4\]'), (lambda: learnable([[1.,.5],[0,1]]), 'row 0')])
def test_bad_matrices(f, msg):
    with pytest.raises(ValueError, match=msg): f()

# --- truncated normal and fixed-size draws ---------------------------------------------------------------------------
def test_truncated_normal_means():
    "Spec check 15, and quantiles against a plain rejection sampler"
    u = (np.arange(200000)+.5)/200000
    for r,m in ((.05,.100916), (.1,.128760), (.2,.205525), (.4,.400013), (.5,.5), (.9,1-.128760)):
        assert truncated_normal(u, r).mean() == pytest.approx(m, abs=2e-6)
    g = np.random.default_rng(0).normal(.1, .1, 400000)
    g = g[(g >= 0) & (g <= 1)]
    p = np.array([.1,.5,.9,.99])
    np.testing.assert_allclose(truncated_normal(p, .1), np.quantile(g, p), atol=2e-3)
    far = truncated_normal(u, -3.)
    assert far.min() >= 0 and np.isfinite(far).all() and .002 < far.mean() < .005

@prop
@given(st.floats(0, 1), st.integers(1, 60), st.integers(0, 999))
def test_rates_have_the_mean_asked_for(target, n, seed):
    u = np.random.RandomState(seed).random_sample(n)
    q = _rates(u, target) if 0 < target < 1 else np.full(n, target)
    assert q.min() >= 0 and q.max() <= 1 and (np.diff(q[u.argsort()]) >= -1e-12).all()
    if n > 20: assert q.mean() == pytest.approx(target, abs=1e-6)

def test_systematic_draws_keep_the_probabilities():
    rng,q = np.random.RandomState(0),np.array([.9,.5,.1,.25,.25,0,1.,0])
    hits = [_systematic(q, 3, rng) for _ in range(4000)]
    assert all(len(set(h)) == 3 for h in hits)
    np.testing.assert_allclose(np.bincount(np.concatenate(hits), minlength=8)/4000, q, atol=.03)
    pairs = [tuple(sorted(_systematic(np.full(8, .25), 2, rng))) for _ in range(600)]
    assert len(set(pairs)) == 28        # all pairs occur, neighbours as well

# --- instance --------------------------------------------------------------------------------------------------------
def slow_pmd(y, X, c, q, seed, features, shared):
    "Loops, one image at a time"
    x = X.astype(np.float64)
    if features != 'raw':
        for k in range(x.shape[-1]): x[...,k] = (x[...,k]-x[...,k].mean())/x[...,k].std()
    rng,Ws = np.random.RandomState([seed,1,1]),[]
    for _ in range(c): Ws.append(Ws[0] if shared and Ws else rng.standard_normal((x[0].size, c)))
    rows = []
    for i in range(len(y)):
        f = x[i].ravel()
        if features == 'unit': f = f/np.sqrt((f**2).sum())
        s = [sum(f*Ws[y[i]][:,j]) for j in range(c)]
        top = max(s[j] for j in range(c) if j != y[i])
        e = [0 if j == y[i] else np.exp(s[j]-top) for j in range(c)]
        rows.append([1-q[i] if j == y[i] else q[i]*e[j]/sum(e) for j in range(c)])
    return np.array(rows)

@pytest.mark.parametrize('features', ['unit', 'norm', 'raw'])
@pytest.mark.parametrize('shared', [False, True])
def test_pmd_rows_against_a_loop(features, shared):
    y,X = np.random.RandomState(1).randint(0, 4, 40),pixels(40)
    P = pmd_rows(y, X, 4, .3, seed=5, features=features, shared=shared)
    q = 1-P[np.arange(40), y]
    np.testing.assert_allclose(P, slow_pmd(y, X, 4, q, 5, features, shared), rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(P.sum(1), 1)
    assert q.mean() == pytest.approx(.3) and .05 < q.std() < .15
    legacy = 1-pmd_rows(y, X, 4, .3, seed=5, solve=False)[np.arange(40), y]
    np.testing.assert_allclose(legacy, truncated_normal(np.random.RandomState(5).random_sample(40), .3))
    x = torch.from_numpy(X.transpose(0,3,1,2).copy())       # as fastai holds them: another order of pixels
    assert pmd_rows(y, x, 4, .3, seed=5, features=features).shape == (40,4)
    assert (pmd_rows(y, X, 4, 0., features=features)[np.arange(40), y] == 1).all()

def test_tensor_and_array_features_are_scaled_alike():
    X = pixels(30) // np.array([1,2,8], dtype=np.uint8)
    from fastrobust.noise.instance import _scaler
    a = _scaler(X, 'norm', -1)(np.arange(30)).reshape(30,6,6,3).transpose(0,3,1,2)
    b = _scaler(X.transpose(0,3,1,2).copy(), 'norm', 1)(np.arange(30)).reshape(30,3,6,6)
    np.testing.assert_allclose(a, b)
    np.testing.assert_allclose(b.mean((0,2,3)), 0, atol=1e-12)
    np.testing.assert_allclose(b.std((0,2,3)), 1)
    np.testing.assert_allclose(np.linalg.norm(_scaler(X, 'unit', -1)(np.arange(30)), axis=1), 1)
    assert np.array_equal(_scaler(X, 'raw', -1)(np.array([3])), X[[3]].reshape(1,-1))
    flat = np.zeros((5,4))
    assert np.isfinite(_scaler(flat, 'unit', -1)(np.arange(5))).all()

@quiet
@pytest.mark.parametrize('kind', ['instance', 'dependent'])
@pytest.mark.parametrize('r', [0., .05, .3, .8, 1.])
def test_image_noise_realises_the_rate(kind, r):
    rec = NoisyLabels(kind, r, seed=2).apply(y1000, 10, X=X1000)
    assert rec.is_noisy.sum() == int(r*1000) and rec.T is None and rec.kind == kind
    per = NoisyLabels(kind, r, sampling='per_class').apply(y1000, 10, X=X1000)
    assert all(per.is_noisy[y1000==k].sum() == int(np.ceil(r*100 - 1e-8)) for k in range(10))
    free = NoisyLabels(kind, r, sampling='bernoulli').apply(y1000, 10, X=X1000)
    mean = {.05: .100916}.get(r, r) if kind == 'instance' else r
    if r == 1 and kind == 'instance': mean = truncated_normal((np.arange(1e5)+.5)/1e5, 1.).mean()
    assert abs(free.realised_rate - mean) < .05

def test_fashion_instance_noise_is_within_half_a_point():
    X,y,*_ = sample_data()
    targets = []
    for seed in range(3):
        rec = NoisyLabels('instance', .3, seed=seed).apply(y, 10, X=X)
        assert abs(rec.realised_rate - .3) <= .005
        targets.append(rec.T_empirical)
    assert abs(targets[0]-targets[1]).max() > .05           # another seed, another W
    unit = pmd_rows(y, X, 10, .3)
    raw  = pmd_rows(y, X, 10, .3, features='raw')
    top = lambda P: np.median((P/(1-P[np.arange(4000), y])[:,None] * (np.arange(10) != y[:,None])).max(1))
    assert top(unit) < .45 and top(raw) > .99               # graded against decided

def test_image_noise_depends_on_the_image_and_the_seed_alone():
    a = NoisyLabels('instance', .4, seed=1).apply(y1000, 10, X=X1000)
    b = NoisyLabels('instance', .4, seed=1).apply(y1000, 10, X=X1000.copy())
    other = NoisyLabels('instance', .4, seed=1).apply(y1000, 10, X=pixels(1000, 9))
    assert (a.y_noisy == b.y_noisy).all() and (a.y_noisy != other.y_noisy).any()
    assert (NoisyLabels('instance', .4, seed=1, shared_W=True).apply(y1000, 10, X=X1000).y_noisy != a.y_noisy).any()
    P = pmd_rows(y1000, X1000, 10, .4, seed=1)               # validation: same W, other draws
    v = NoisyLabels('instance', .4, seed=1).apply(y1000, 10, X=X1000, stream=1)
    assert (v.y_noisy != a.y_noisy).any()
    got = np.mean([P[i,v.y_noisy[i]]/(1-P[i,y1000[i]]) for i in np.flatnonzero(v.is_noisy)])
    law = np.mean([((P[i]/(1-P[i,y1000[i]]))**2).sum() - (P[i,y1000[i]]/(1-P[i,y1000[i]]))**2 for i in range(1000)])
    assert abs(got-law) < .05 and law > .15                  # 1/9 if W were another

def test_dependent_chooses_blindly_and_switches_by_the_image():
    noise = NoisyLabels('dependent', .4, seed=3)
    a,b = noise.apply(y1000, 10, X=X1000),noise.apply(y1000, 10, X=pixels(1000, 7))
    assert (a.is_noisy == b.is_noisy).all() and (a.y_noisy != b.y_noisy).any()
    assert set(np.flatnonzero(a.is_noisy)) == set(np.random.RandomState(3).permutation(1000)[:400])

# --- model -----------------------------------------------------------------------------------------------------------
def test_model_noise_by_hand():
    y = [0,0,1,1]
    probs = np.array([[.6,.3,.1], [.2,.1,.7], [.1,.8,.1], [.45,.5,.05]])
    flips = lambda r, **kw: NoisyLabels('model', r, probs=probs, **kw).apply(y, 3).y_noisy.tolist()
    assert flips(.25) == [0,2,1,1] and flips(.5) == [0,2,1,0] and flips(.75) == [1,2,1,0]
    assert flips(0) == y                                     # argsort(..)[-0:] would take all
    assert flips(.5, sampling='per_class') == [0,2,1,0] and flips(.3, sampling='per_class') == [0,2,1,0]
    # means: .45 .45 .1 / .15 .15 .7 / .45 .45 .1 / .475 .475 .05: items 1 and 3 have the largest wrong scores
    want = [0,2,1,0]
    assert NoisyLabels('model', .5, probs=[probs, probs[:,[1,0,2]]]).apply(y, 3).y_noisy.tolist() == want

@quiet
@prop
@given(st.floats(0, 1), st.integers(2, 5), st.integers(1, 60), st.integers(0, 999))
def test_model_noise_takes_the_hardest(r, c, n, seed):
    rng = np.random.default_rng(seed)
    y,p = rng.integers(0, c, n),rng.dirichlet(np.ones(c), n)
    rec = NoisyLabels('model', r, probs=p).apply(y, c)
    assert rec.is_noisy.sum() == int(r*n)
    wrong = np.array([max(p[i,j] for j in range(c) if j != y[i]) for i in range(n)])
    if 0 < rec.is_noisy.sum() < n: assert wrong[rec.is_noisy].min() >= wrong[~rec.is_noisy].max()
    assert all(p[i,rec.y_noisy[i]] == wrong[i] for i in np.flatnonzero(rec.is_noisy))

def test_probabilities_averaged_over_epochs_without_touching_the_training():
    plain = tiny_learner()
    plain.fit(2, .1)
    learn = tiny_learner(cbs=AverageProbs())
    one = tiny_learner()
    learn.fit(2, .1)
    assert torch.equal(params(learn), params(plain)) and learn.average_probs.n == 2
    one.fit(1, .1)      # another schedule of the same constant rate: the first epoch of both
    first,last = mean_probs(one),mean_probs(plain)
    np.testing.assert_allclose(mean_probs(learn), (first+last)/2, atol=1e-6)
    p = plain.get_preds(dl=plain.dls.train.new(shuffle=False, drop_last=False))[0].numpy()
    np.testing.assert_allclose(last, p, atol=1e-6)
    nd = add_label_noise(learn.dls, NoisyLabels('model', .25, probs=learn))
    assert nd.noise.is_noisy.sum() == 12 and nd.noise.kind == 'model'
    learn.fit(1, .1)
    assert learn.average_probs.n == 1                        # a new fit, a new average

def test_an_average_of_no_epoch_is_none_whatever_the_network_calls_n():
    "fastai would look for the callback's `n` in the network"
    learn = tiny_learner(cbs=AverageProbs())
    learn.model.n = 5
    np.testing.assert_allclose(mean_probs(learn).sum(1), 1, atol=1e-6)

def test_probabilities_of_a_table():
    from fastai.tabular.core import Categorify
    from fastai.tabular.data import TabularDataLoaders
    from fastai.tabular.learner import tabular_learner
    df = pd.DataFrame(dict(a=np.arange(60.), k=list('ab')*30, y=list('pqr')*20))
    dls = TabularDataLoaders.from_df(df, y_names='y', cat_names=['k'], cont_names=['a'], valid_idx=list(range(20)),
                                     y_block=CategoryBlock(), bs=8, device='cpu', procs=[Categorify])
    learn = tabular_learner(dls, layers=[4])
    mode = learn.model.training
    p = mean_probs(learn)
    assert p.shape == (40,3) and abs(p.sum(1)-1).max() < 1e-6 and learn.model.training == mode
    with learn.no_bar(): want = learn.get_preds(dl=dls.train.new(shuffle=False, drop_last=False))[0].numpy()
    np.testing.assert_allclose(p, want, atol=1e-6)

# --- open ------------------------------------------------------------------------------------------------------------
FOREIGN = aux_images('blob', 50, 6, 3, seed=1)
@pytest.mark.parametrize('r', [0., .2, .35, 1.])
def test_open_noise_marks_images_and_keeps_labels(r):
    X = aux_images('blob', 1200, 4, 3)
    rec = NoisyLabels('open', r, images=X).apply(y1000, 10)
    assert rec.open_rate == int(r*1000)/1000 and rec.realised_rate == 0 and rec.nominal_rate == r
    assert ((rec.open_from >= 0) == rec.is_open).all()
    used = rec.open_from[rec.is_open]
    assert len(set(used)) == len(used)                      # each foreign image once, as long as there are enough
    assert not r or used.max() >= 1000                      # from all of them
    assert r in (0, 1) or f'open-set {r:.4f}' in repr(rec)

def test_too_few_foreign_images_repeat_evenly():
    with pytest.warns(RobustWarning, match='50 foreign images for 120'):
        rec = NoisyLabels('open', .12, images=FOREIGN).apply(y1000, 10)
    assert set(np.bincount(rec.open_from[rec.is_open], minlength=50)) == {2,3}

@quiet
@pytest.mark.parametrize('law', [NoisyLabels('symmetric', .3), NoisyLabels('pair', .3, sampling='bernoulli'),
                                 NoisyLabels('instance', .3), NoisyLabels('matrix', T=noise_matrix('pair', 10, .4))])
def test_open_and_closed_together(law):
    noise = NoisyLabels('open', .2, images=FOREIGN, closed=law)
    rec = noise.apply(y1000, 10, X=X1000)
    assert rec.open_rate == .2 and not (rec.is_noisy & rec.is_open).any() and rec.kind == f'open+{law.kind}'
    if law.kind == 'matrix': assert abs(rec.realised_rate - .4*.8) < .01
    elif law.sampling == 'exact': assert rec.is_noisy.sum() == 300 and rec.nominal_rate == pytest.approx(.5)
    else: assert abs(rec.realised_rate - .3) < .05
    assert noise.closed.rate == law.rate and noise.needs_X == (law.kind == 'instance')

@quiet
@prop
@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 80))
def test_open_and_closed_counts(a, b, n):
    if a+b > 1: return
    y = np.arange(n) % 3
    rec = NoisyLabels('open', a, images=FOREIGN, closed=NoisyLabels('symmetric', b)).apply(y, 3)
    assert rec.is_open.sum() == int(a*n) and rec.is_noisy.sum() == int(b*n)

VOCAB = ['cat', 'coat', 'dog']
@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    d,rng = tmp_path_factory.mktemp('ims'),np.random.RandomState(0)
    for k,c in enumerate(VOCAB):
        (d/c).mkdir()
        for i in range(16):
            Image.fromarray((rng.randint(0, 40, (8,8,3)) + 70*k).astype(np.uint8)).save(d/c/f'{c}_{i}.png')
    return d

def files(d): return sorted(get_image_files(d))
def block(cls=DataBlock, **kw):
    kw = dict(get_items=files, get_y=parent_label, splitter=RandomSplitter(.25, seed=1), **kw)
    return cls((ImageBlock, CategoryBlock), **kw)
def get_dls(d, workers=0, **kw): return block(**kw).dataloaders(d, bs=8, num_workers=workers)
def learner(dls):
    torch.manual_seed(0)
    return Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), loss_func=CrossEntropyLossFlat())
def labels(ds): return [int(ds[i][1]) for i in range(len(ds))]

GREEN = np.zeros((40,8,8,3), np.uint8)
GREEN[...,1] = np.arange(40)[:,None,None]*4 + 60
OPEN = NoisyLabels('open', .3, images=GREEN, seed=4)

def is_green(x): return (x[0].sum() == 0) and (x[2].sum() == 0) and (x[1] > 0).all()
def check_images(dls, rec, n_epochs=1):
    "Each training image is its own or the foreign one the record names, labels as given, epoch after epoch"
    for _ in range(n_epochs):
        for i,(x,y) in enumerate(dls.train):
            for k,im,t in zip(batch_idxs(dls.train, i, len(y)).tolist(), x, y):
                assert bool(is_green(im)) == bool(rec.is_open[k]) and t == rec.y_noisy[k]
                if rec.is_open[k]:
                    np.testing.assert_allclose(im[1].numpy(), (rec.open_from[k]*4+60)/255, atol=1e-6)
    for x,_ in dls.valid: assert not any(is_green(im) for im in x)

@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('make', ['add', 'block'])
def test_open_images_of_files(folder, make, workers):
    if make == 'add':
        clean = get_dls(folder, workers)
        nd = add_label_noise(clean, OPEN)
        assert not any(is_green(x) for b in clean.train for x in b[0])
    else: nd = block(NoisyDataBlock, noise=OPEN).dataloaders(folder, bs=8, num_workers=workers)
    rec = nd.noise
    assert rec.is_open.sum() == int(.3*36) and rec.realised_rate == 0
    check_images(nd, rec, 2 if workers == 0 else 1)

def test_open_images_of_arrays():
    X,y = pixels(60, size=8),np.arange(60) % 3
    dls = array_dls(X, y, valid=(X[:20], y[:20]), bs=16, vocab=VOCAB, normalize=False)
    nd = add_label_noise(dls, NoisyLabels('open', .3, images=GREEN, closed=NoisyLabels('symmetric', .2)))
    assert nd.noise.is_open.sum() == 18 and nd.noise.is_noisy.sum() == 12 and nd.train._whole()
    check_images(nd, nd.noise, 2)
    assert (dls.train_ds.items.x.numpy() == X.transpose(0,3,1,2)).all()
    with pytest.raises(ValueError, match=r'\(3, 8, 8\) in `images`'):
        add_label_noise(dls, NoisyLabels('open', .3, images=GREEN[:,:4]))
    with pytest.raises(ValueError, match=r'\(3, 8, 8\) in `images`'):
        add_label_noise(dls, NoisyLabels('open', .3, images=GREEN[...,1]))

def test_open_items_travel_with_interpretation_test_sets_and_parts(folder):
    nd = add_label_noise(get_dls(folder), OPEN)
    rec,items = nd.noise,nd.train_ds.items
    shown = lambda dl: [bool(is_green(im)) for b in dl for im in b[0]]
    assert shown(nd.test_dl(items, with_labels=True)) == rec.is_open.tolist()
    assert not any(shown(nd.test_dl(list(items)))) and not any(shown(nd.test_dl(files(folder)[:9])))
    part = take_items(nd, np.arange(0, 36, 2))
    check_images(part, rec.take(np.arange(0, 36, 2)))
    assert (part.noise.is_open == rec.is_open[::2]).all() and (part.noise.open_from == rec.open_from[::2]).all()
    folds = split_items(nd, np.arange(20), np.arange(20, 36))
    assert shown(folds.valid) == rec.is_open[20:].tolist()
    check_images(with_labels(nd, (rec.y_noisy+1) % 3), rec.relabelled((rec.y_noisy+1) % 3))
    learn = learner(nd)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
        interp = ClassificationInterpretation.from_learner(learn, ds_idx=0)
        ids = np.r_[np.flatnonzero(rec.is_open)[:2], np.flatnonzero(~rec.is_open)[:2]].tolist()
        assert [bool(is_green(im)) for im in interp[ids][0]] == [True,True,False,False]
        interp.plot_top_losses(4)
    nd.show_batch(max_n=8)
    import matplotlib.pyplot as plt
    titles = [ax.get_title() for ax in plt.gcf().axes]
    assert sum('none of them' in t for t in titles) == rec.is_open[batch_idxs(nd.train, 0, 8).numpy()].sum()
    for dls in (copy.deepcopy(nd), pickle.loads(pickle.dumps(nd))): check_images(dls, rec)

def test_open_images_in_data_frames_and_other_sizes(folder):
    fs = files(folder)
    df = pd.DataFrame(dict(name=[str(f) for f in fs], label=[parent_label(f) for f in fs]), index=range(100, 148))
    db = DataBlock((ImageBlock, CategoryBlock), get_x=ColReader('name'), get_y=ColReader('label'), item_tfms=Resize(8),
                   splitter=RandomSplitter(.25, seed=1))
    noise = NoisyLabels('open', .3, images=GREEN.repeat(2, 1).repeat(2, 2), seed=4)
    nd = add_label_noise(db.dataloaders(df, bs=8, num_workers=0), noise)
    check_images(nd, nd.noise)
    with nd.test_dl(nd.train_ds.items, with_labels=True).fake_l.no_multiproc():
        got = [bool(is_green(im)) for b in nd.test_dl(nd.train_ds.items, with_labels=True) for im in b[0]]
    assert got == nd.noise.is_open.tolist() and list(df.columns) == ['name', 'label']

def test_open_export_is_clean(folder, tmp_path):
    nd = add_label_noise(get_dls(folder), OPEN)
    learn = learner(nd)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    learn.export(tmp_path/'e.pkl')
    assert b'fastrobust' not in (tmp_path/'e.pkl').read_bytes()
    again = load_learner(tmp_path/'e.pkl')
    f = files(folder)[0]
    with learn.no_bar(), again.no_bar(): assert torch.allclose(learn.predict(f)[2], again.predict(f)[2])

@pytest.mark.parametrize('k,rest', [(15, 22), (13, 23), (31, 39), (23, 43)])
def test_a_closed_count_does_not_lose_an_item_to_rounding(k, rest):
    n = rest+5
    assert int(k/rest*rest) == k-1      # what floats make of the plain share
    noise = NoisyLabels('open', (5.5)/n, images=FOREIGN, closed=NoisyLabels('symmetric', (k+.5)/n))
    rec = noise.apply(np.arange(n)%3, 3)
    assert rec.is_open.sum() == 5 and rec.is_noisy.sum() == k

def test_images_of_some_items_of_arrays():
    ds = tiny_dls().train_ds
    some = images(ds, [], [5, 0])
    assert torch.equal(some, images(ds, [])[[5, 0]]) and some.dtype == torch.uint8

def test_open_records_need_their_images(folder, tmp_path):
    dls = get_dls(folder)
    nd = add_label_noise(dls, OPEN)
    nd.noise.save(tmp_path/'o.csv', items=nd.train_ds.items)
    rec = NoiseRecord.load(tmp_path/'o.csv')
    assert (rec.open_from == nd.noise.open_from).all() and rec.images is None and rec.open_rate == nd.noise.open_rate
    with pytest.raises(ValueError, match='set `record.images`'): add_label_noise(dls, rec)
    rec.images = nd.noise.images
    check_images(add_label_noise(dls, rec), nd.noise)
    both = add_label_noise(nd, NoisyLabels('symmetric', .25, seed=8), compound=True)
    assert both.noise.kind == 'open+symmetric' and both.noise.is_noisy.sum() == 9
    check_images(both, both.noise)
    with pytest.raises(ValueError, match='a second on top'): add_label_noise(nd, OPEN, compound=True)
    late = add_label_noise(add_label_noise(dls, NoisyLabels('symmetric', .25)), OPEN, compound=True)
    check_images(late, late.noise)
    assert late.noise.is_noisy.sum() == 9 and late.noise.open_rate == nd.noise.open_rate

# --- image noise in loaders ------------------------------------------------------------------------------------------
@pytest.mark.parametrize('kind', ['instance', 'dependent'])
def test_image_noise_of_files_by_both_ways_and_without_moving_streams(folder, kind):
    noise = NoisyLabels(kind, .3, seed=3, noisy_valid=True)
    tfms = [RandomResizedCrop(6, min_scale=.5), FlipItem(.5)]
    dls = get_dls(folder, item_tfms=tfms)
    np.random.seed(1), random.seed(1), torch.manual_seed(1)
    before = np.random.get_state()[1].copy(),random.getstate(),torch.get_rng_state()
    nd = add_label_noise(dls, noise)
    assert (np.random.get_state()[1] == before[0]).all() and random.getstate() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert nd.noise.is_noisy.sum() == int(.3*36) and nd.noise.valid.is_noisy.sum() == int(.3*12)
    again = block(NoisyDataBlock, noise=noise, item_tfms=tfms).datasets(folder).noise
    assert (again.y_noisy == nd.noise.y_noisy).all() and (again.valid.y_noisy == nd.noise.valid.y_noisy).all()
    seen = torch.cat([x for x, in dls.test_dl(list(dls.train_ds.items))])       # as in validation: the middle
    assert torch.equal(images(dls.train_ds, dls.train.after_item), (seen*255).round().byte())
    plain = get_dls(folder)
    X = np.stack([np.asarray(Image.open(f)) for f in plain.train_ds.items])
    want = noise.apply(nd.noise.y_clean, 3, X=torch.from_numpy(X.transpose(0,3,1,2).copy()))
    assert (add_label_noise(plain, noise).noise.y_noisy == want.y_noisy).all()

def test_image_noise_of_arrays_and_of_large_files(tmp_path):
    dls = tiny_dls(n=60)
    noise = NoisyLabels('instance', .3, noisy_valid=True)
    nd = add_label_noise(dls, noise)
    want = noise.apply(nd.noise.y_clean, 3, X=dls.train_ds.items.x)
    assert (nd.noise.y_noisy == want.y_noisy).all() and nd.noise.valid.is_noisy.sum() == int(.3*24)
    for i in range(4): Image.fromarray(np.full((64,96,3), i*50, np.uint8)).save(tmp_path/f'{"ab"[i % 2]}_{i}.png')
    db = DataBlock((ImageBlock, CategoryBlock), get_items=files, get_y=lambda f: f.name[0])
    ds = db.datasets(tmp_path)
    x = images(ds, db.item_tfms)
    assert x.shape == (4,3,32,32) and x.dtype == torch.uint8 and x[:,0,0,0].tolist() == [0,100,50,150]
    Image.fromarray(np.zeros((20,20,3), np.uint8)).save(tmp_path/'a_9.png')
    with pytest.raises(ValueError, match='Add a Resize'): images(db.datasets(tmp_path), db.item_tfms)

# --- long tails ------------------------------------------------------------------------------------------------------
def test_long_tail_counts():
    "Spec check 14"
    y10,y100 = np.arange(50000) % 10,np.arange(50000) % 100
    n = lambda y, *a: np.bincount(y[long_tail(y, *a)])
    assert n(y10, .01).tolist() == [5000,2997,1796,1077,645,387,232,139,83,50]
    assert [n(y10, m).sum() for m in (.1, .02)] == [20431,13996] and n(y100, .01).sum() == 10847
    assert n(y10, .01, 'step').tolist() == [5000]*5 + [50]*5
    assert n(np.arange(700) % 7, .1, 'step').tolist() == [100]*3 + [10]*4       # odd: none is dropped
    idx = long_tail(y10, .1, seed=3)
    assert (np.diff(idx) > 0).all() and (idx == long_tail(y10, .1, seed=3)).all()
    assert set(idx) != set(long_tail(y10, .1, seed=4)) and len(long_tail(y10, 1.)) == 50000

@quiet
@prop
@given(st.integers(1, 8), st.floats(.005, 1), st.sampled_from(['exp', 'step']), st.integers(8, 300))
def test_long_tail_is_monotone(c, imb, kind, n):
    y = np.arange(n) % c
    k = np.bincount(y[long_tail(y, imb, kind)], minlength=c)
    assert (np.diff(k) <= 0).all() and k.min() >= 1 and k.max() <= -(-n//c)
    if c > 1: assert k[-1] == max(1, int(n/c*imb + 1e-9))

def test_long_tail_warnings_and_errors():
    with pytest.warns(RobustWarning, match='less than one sample'): idx = long_tail(y1000, .001)
    assert np.bincount(y1000[idx])[-1] == 1
    with pytest.warns(RobustWarning, match='class 0 has fewer'): long_tail(np.repeat([0,1], [5,95]), .5)
    for kw,err,msg in ((dict(imb=0), ValueError, r'\(0,1\]'), (dict(imb='a'), TypeError, 'number'),
                       (dict(kind='expo'), ValueError, "got 'expo'")):
        with pytest.raises(err, match=msg): long_tail(y1000, **kw)

def test_long_tail_first_noise_after():
    X,y,Xv,yv,vocab = sample_data()
    idx = long_tail(y, .1)
    dls = add_label_noise(array_dls(X[idx], y[idx], valid=(Xv, yv), vocab=vocab), NoisyLabels('symmetric', .4))
    n = np.bincount(dls.noise.y_clean, minlength=10)
    assert n[0] == 400 and n[-1] == 40 and (np.diff(n) < 0).all()               # sizes of the true classes
    assert dls.noise.is_noisy.sum() == int(.4*len(idx)) and (dls.noise.y_clean == y[idx]).all()
    assert np.bincount(dls.noise.y_noisy)[-1] > 80                              # given ones are flatter
    assert np.array_equal(dls.train_ds.items[17][0], X[idx[17]])

# --- all kinds -------------------------------------------------------------------------------------------------------
def laws(r):
    probs = np.random.default_rng(0).dirichlet(np.ones(10), 1000)
    return [NoisyLabels('superclass', r, mapping={k: k//5 for k in range(10)}), NoisyLabels('instance', r),
            NoisyLabels('dependent', r), NoisyLabels('model', r, probs=probs),
            NoisyLabels('open', r, images=FOREIGN, closed=NoisyLabels('pair', r))]

@quiet
def test_every_kind_keeps_the_common_contract():
    for noise in laws(0.):
        rec = noise.apply(y1000, 10, X=X1000)
        assert rec.realised_rate == 0 and rec.open_rate == 0
    for noise,again in zip(laws(.3), laws(.3)):
        y = y1000.copy()
        np.random.seed(5), torch.manual_seed(5)
        a,t = np.random.get_state()[1].copy(),torch.get_rng_state()
        rec = noise.apply(y, 10, X=X1000)
        assert (np.random.get_state()[1] == a).all() and torch.equal(torch.get_rng_state(), t)
        assert (y == y1000).all() and (rec.y_clean == y).all() and not np.shares_memory(rec.y_clean, rec.y_noisy)
        assert (again.apply(y, 10, X=X1000).y_noisy == rec.y_noisy).all() and rec.is_noisy.sum() == 300
        assert rec.y_noisy.dtype == np.int64 and 0 <= rec.y_noisy.min() and rec.y_noisy.max() < 10
        assert noise.kind in repr(noise) and noise.kind in rec.kind

@pytest.mark.parametrize('kw,err,msg', [
    (dict(kind='instance'), ValueError, 'needs a `rate`'),
    (dict(kind='instance', rate=.3, features='row'), ValueError, "Did you mean 'raw'"),
    (dict(kind='pair', rate=.3, features='raw'), ValueError, "`features` expects kind='instance' or 'dependent'"),
    (dict(kind='pair', rate=.3, shared_W=True), ValueError, '`shared_W` expects'),
    (dict(kind='pair', rate=.3, images=FOREIGN), ValueError, "`images` expects kind='open'"),
    (dict(kind='pair', rate=.3, closed=OPEN), ValueError, "`closed` expects kind='open'"),
    (dict(kind='pair', rate=.3, probs=np.eye(2)), ValueError, "`probs` expects kind='model'"),
    (dict(kind='pair', rate=.3, source='a.csv'), ValueError, "`source` expects kind='human'"),
    (dict(kind='model', rate=.3), ValueError, 'needs `probs`'),
    (dict(kind='model', rate=.3, probs=np.ones((4,2))), ValueError, 'that sum to 1, got 2 in row 0'),
    (dict(kind='model', rate=.3, probs=np.eye(2), sampling='bernoulli'), ValueError, 'hardest'),
    (dict(kind='model', rate=.3, probs=np.eye(2), noisy_valid=True), ValueError, 'noisy_valid=False'),
    (dict(kind='open', rate=.3), ValueError, 'needs `images`'),
    (dict(kind='open', rate=.3, images=FOREIGN, noisy_valid='both'), ValueError, 'noisy_valid=False'),
    (dict(kind='open', rate=.3, images=FOREIGN, closed='pair'), TypeError, "got 'pair'"),
    (dict(kind='open', rate=.3, images=FOREIGN, closed=OPEN), TypeError, 'must be NoisyLabels of a kind drawn'),
    (dict(kind='open', rate=.6, images=FOREIGN, closed=NoisyLabels('pair', .45)), ValueError, 'at most 1 together'),
    (dict(kind='open', rate=.3, images=np.zeros((3,4))), ValueError, 'shape'),
])
def test_bad_laws(kw, err, msg):
    with pytest.raises(err, match=msg): NoisyLabels(**kw)

@pytest.mark.parametrize('noise,kw,msg', [
    (NoisyLabels('instance', .3), {}, 'got none. Pass `X`'),
    (NoisyLabels('dependent', .3), dict(X=X1000[:9]), 'one image for each of the 1000 labels, got 9'),
    (NoisyLabels('model', .3, probs=np.eye(10)), {}, r'\(1000,10\), one row per label, got \(10, 10\)'),
])
def test_bad_apply(noise, kw, msg):
    with pytest.raises(ValueError, match=msg): noise.apply(y1000, 10, **kw)

@pytest.mark.parametrize('kind', ['instance', 'dependent', 'model'])
def test_one_class_is_refused(kind):
    kw = dict(probs=np.ones((3,1))) if kind == 'model' else {}
    noise = NoisyLabels(kind, .3, **kw)
    with pytest.raises(ValueError, match='at least 2 classes'): noise.apply([0,0,0], 1, X=X1000[:3])

def test_open_noise_needs_images_to_replace(folder):
    two = DataBlock((ImageBlock, ImageBlock, CategoryBlock), n_inp=2, get_items=files, get_x=[lambda f: f]*2,
                    get_y=parent_label).dataloaders(folder, bs=8, num_workers=0)
    with pytest.raises(ValueError, match='got 2 inputs'): add_label_noise(two, OPEN)
    from fastai.data.core import Datasets
    from fastai.data.transforms import Categorize
    ds = Datasets(list(range(20)), tfms=[[lambda i: torch.tensor([float(i)])], [lambda i: VOCAB[i % 3], Categorize]],
                  splits=[list(range(15)), list(range(15, 20))])
    dls = ds.dataloaders(bs=4, num_workers=0)
    with pytest.raises(ValueError, match='open-set noise replaces images, got inputs of type Tensor'):
        add_label_noise(dls, OPEN)
    with pytest.raises(TypeError, match='draw a record'): add_label_noise(dls, NoisyLabels('instance', .3))
    assert add_label_noise(dls, NoisyLabels('instance', .4).apply(np.arange(15) % 3, 3, X=np.random.rand(15, 4))
                           ).noise.is_noisy.sum() == 6
