"Laws of label noise, their record, and noisy labels in fastai's loaders"
import copy, os, pickle, random, subprocess, sys, warnings

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from torch import nn

from fastai.callback.data import WeightedDL
from fastai.callback.progress import CSVLogger
from fastai.callback.tracker import SaveModelCallback
from fastai.data.block import CategoryBlock, DataBlock, MultiCategoryBlock, RegressionBlock
from fastai.data.core import DataLoaders, Datasets, TfmdDL
from fastai.data.transforms import (ColReader, IndexSplitter, Normalize, RandomSplitter, get_image_files,
                                    parent_label)
from fastai.interpret import ClassificationInterpretation
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.vision.core import PILImage
from fastai.vision.data import ImageBlock, ImageDataLoaders
import fastai.vision.learner                                         # noqa: F401  plot_top_losses for images

from fastrobust.basics import RobustWarning, batch_idxs
from fastrobust.data.fromarrays import array_dls
from fastrobust.noise.classmaps import CLASS_MAPS
from fastrobust.noise.matrices import noise_matrix
from fastrobust.noise.kinds import NOISE_KINDS
from fastrobust.noise.laws import NoisyLabels
from fastrobust.noise.record import NoiseRecord, TrueAccuracy
from fastrobust.noise.block import NoisyDataBlock, add_label_noise
from fastrobust.noise.show import WrongCategory

matplotlib.use('Agg')
import matplotlib.pyplot as plt

prop = settings(derandomize=True, deadline=None, max_examples=40)
KINDS = [('symmetric', {}), ('symmetric', dict(inclusive=True)), ('pair', {}), ('asymmetric', {})]
y1000 = np.arange(1000) % 10
quiet = pytest.mark.filterwarnings('ignore::fastrobust.basics.RobustWarning')

# --- matrices --------------------------------------------------------------------------------------------------------
def slow_matrix(kind, c, r, inclusive=False, m=None):
    T = [[0.]*c for _ in range(c)]
    for i in range(c):
        for j in range(c):
            if kind == 'symmetric' and inclusive: T[i][j] = r/c + (1-r if i == j else 0)
            elif kind == 'symmetric': T[i][j] = 1-r if i == j else r/(c-1)
            elif kind == 'pair': T[i][j] = (1-r if j == i else 0) + (r if j == (i+1) % c else 0)
            else:
                to = m.get(i, i)
                T[i][j] = (1-r if j == i else 0) + (r if j == to else 0)
    return np.array(T)

@quiet
@pytest.mark.parametrize('kind,kw', KINDS)
@pytest.mark.parametrize('r', [0., .2, .45, 1.])
def test_matrix_is_the_textbook_one(kind, kw, r):
    T = noise_matrix(kind, 10, r, **kw)
    np.testing.assert_allclose(T, slow_matrix(kind, 10, r, m=CLASS_MAPS['cifar10'], **kw), atol=1e-12)
    np.testing.assert_allclose(T.sum(1), 1, atol=1e-12)

@pytest.mark.parametrize('kind,c,r,cond', [('symmetric', 10, .2, 1.285714), ('symmetric', 10, .5, 2.25),
                                           ('symmetric', 10, .8, 9.), ('symmetric', 100, .8, 5.210526),
                                           ('pair', 10, .45, 10.)])
def test_condition_numbers(kind, c, r, cond):
    assert np.linalg.cond(noise_matrix(kind, c, r)) == pytest.approx(cond, rel=1e-3)

def test_maps_by_index_and_by_name():
    T = noise_matrix('asymmetric', 10, .4)
    assert [(i, int(np.argsort(T[i])[-2])) for i in range(10) if T[i,i] < 1] == [(2,0), (3,5), (4,7), (5,3), (9,1)]
    voc = ['ant', 'bee', 'cat']
    want = [[1,0,0], [0,1,0], [.3,0,.7]]
    np.testing.assert_allclose(noise_matrix('asymmetric', 3, .3, mapping={'cat':'ant'}, vocab=voc), want)
    np.testing.assert_allclose(noise_matrix('asymmetric', 3, .3, mapping={2:0}), want)
    assert CLASS_MAPS['mnist'] == {7:1, 2:7, 3:8, 5:6, 6:5}

def test_warns_where_the_true_label_is_lost():
    for kw in (dict(kind='pair', n_classes=10, rate=.5), dict(kind='symmetric', n_classes=10, rate=.9),
               dict(kind='matrix', T=[[.4,.6], [.1,.9]])):
        with pytest.warns(RobustWarning, match='diagonally'): noise_matrix(**kw)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for kind,r,inclusive in (('pair', .48, False), ('symmetric', .85, False), ('symmetric', .95, True)):
            noise_matrix(kind, 10, r, inclusive=inclusive)
    with pytest.warns(RobustWarning, match=r'singular \(condition 90'): noise_matrix('symmetric', 10, .89)
    with pytest.warns(RobustWarning, match='CIFAR-10 map'): noise_matrix('asymmetric', 10, .4, vocab=list('abcdefghij'))

def test_T_is_copied_and_normalised():
    T0 = np.array([[.9, .1+5e-7], [.2, .8]])
    T = noise_matrix('matrix', T=T0)
    assert not np.shares_memory(T, T0) and abs(T.sum(1)-1).max() < 1e-15

# --- samplers --------------------------------------------------------------------------------------------------------
def test_bernoulli_is_the_published_generator():
    "Spec check 2: RandomState(0), one multinomial per sample"
    r = NoisyLabels('symmetric', .5, sampling='bernoulli').apply(y1000, 10)
    assert (r.is_noisy.sum(), r.y_noisy[:10].tolist(), r.y_noisy.sum()) == (503, [0,6,0,3,6,0,8,7,8,5], 4527)
    r = NoisyLabels('pair', .45, sampling='bernoulli').apply(y1000, 10)
    assert (r.is_noisy.sum(), r.y_noisy[:10].tolist(), r.y_noisy.sum()) == (441, [0,2,2,3,5,6,6,8,9,0], 4551)

@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) >= '2.5.0',
                    reason='numpy 2.5 draws otherwise from the same seed')
def test_a_draw_is_that_of_numpy_before_2_5():
    from fastrobust.noise.kinds import _categorical
    g = np.random.default_rng(0)
    rows = [g.dirichlet(np.full(c, a)) for c in (2, 3, 10) for a in (.05, .5, 5) for _ in range(20)]
    rows += [noise_matrix(k, 10, r)[3] for k in ('symmetric', 'pair') for r in (.1, .45, .5)]
    rows += [np.array(o) for o in ([1., 0, 0], [0, 1., 0], [0, 0, 1.], [.5, .5, 0], [0, .5, .5], [.1]*10)]
    for p in rows:
        a,b = np.random.RandomState(1),np.random.RandomState(1)
        assert [_categorical(p.tolist(), a) for _ in range(50)] == [b.multinomial(1, p).argmax() for _ in range(50)]
        assert a.random_sample() == b.random_sample()       # as many draws spent

@quiet
@prop
@given(st.floats(0, 1), st.integers(2, 7), st.integers(1, 200), st.integers(0, 2**32-1))
def test_exact_changes_exactly_int_rate_n(r, c, n, seed):
    y = np.random.RandomState(seed).randint(0, c, n)
    for kind in ('symmetric', 'pair'):
        rec = NoisyLabels(kind, r, seed=seed).apply(y, c)
        assert rec.is_noisy.sum() == int(r*n) and rec.realised_rate == int(r*n)/n
        assert rec.y_noisy.min() >= 0 and rec.y_noisy.max() < c
    if r: assert (rec.y_noisy[rec.is_noisy] == (y[rec.is_noisy]+1) % c).all()
    rec = NoisyLabels('symmetric', r, seed=seed, inclusive=True).apply(y, c)
    assert rec.is_noisy.sum() <= int(r*n)

@quiet
@prop
@given(st.floats(0, 1), st.integers(2, 6), st.integers(0, 99))
def test_per_class_takes_the_ceiling_of_each_class(r, c, seed):
    y = np.random.RandomState(seed).randint(0, c, 120)
    rec = NoisyLabels('pair', r, seed=seed, sampling='per_class').apply(y, c)
    for k in range(c): assert rec.is_noisy[y==k].sum() == int(np.ceil(r*(y==k).sum() - 1e-8))

def test_asymmetric_exact_chooses_among_all_classes():
    y = np.arange(50000) % 10
    rec = NoisyLabels('asymmetric', .4).apply(y, 10)
    assert abs(rec.is_noisy.sum() - 10000) < 4*(50000*.4*.6*.25)**.5+60       # half of the 20,000 chosen have a target
    for a,b in CLASS_MAPS['cifar10'].items():
        moved = rec.y_noisy[(y==a) & rec.is_noisy]
        assert (moved == b).all() and abs(len(moved)/5000 - .4) < .03
    assert not rec.is_noisy[np.isin(y, [0,1,6,7,8])].any()

def test_matrix_exact_follows_T_as_closely_as_counts_allow():
    T = np.array([[.7,.2,.1], [0,1,0], [.15,.25,.6]])
    y = np.repeat([0,1,2], [13,7,10])
    rec = NoisyLabels('matrix', T=T).apply(y)
    assert abs(rec.counts - np.array([13,7,10])[:,None]*T).max() < 1 and (rec.counts.sum(1) == [13,7,10]).all()
    assert rec.nominal_rate == pytest.approx((13*.3 + 10*.4)/30) and rec.counts[1].tolist() == [0,7,0]
    best = min((abs(np.array([a,b,13-a-b]) - 13*T[0]).sum(), (a,b,13-a-b)) for a in range(14) for b in range(14-a))[1]
    assert rec.counts[0].tolist() == list(best)

@quiet
@pytest.mark.parametrize('kind,kw', KINDS + [('matrix', dict(T=[[.6,.3,.1]+[0]*7] + np.eye(10)[1:].tolist()))])
@pytest.mark.parametrize('sampling', ['exact', 'bernoulli', 'per_class'])
def test_realised_matrix_within_four_sigma(kind, kw, sampling):
    y = np.arange(20000) % 10
    rec = NoisyLabels(kind, None if 'T' in kw else .3, seed=3, sampling=sampling, **kw).apply(y, 10)
    sigma = np.sqrt(rec.T*(1-rec.T)/2000)
    assert (abs(rec.T_empirical - rec.T) <= 4*sigma + 1e-3).all()

@pytest.mark.parametrize('kind,kw', KINDS)
@pytest.mark.parametrize('sampling', ['exact', 'bernoulli', 'per_class'])
def test_rate_zero_changes_nothing(kind, kw, sampling):
    rec = NoisyLabels(kind, 0, sampling=sampling, **kw).apply(y1000, 10)
    assert (rec.y_noisy == y1000).all() and rec.realised_rate == 0

def test_inclusive_keeps_one_in_c():
    rec = NoisyLabels('symmetric', .8, inclusive=True).apply(np.arange(50000) % 10, 10)
    assert abs(rec.realised_rate - .72) < .006 and rec.nominal_rate == .8

def test_seed_alone_decides_and_global_streams_stay():
    np.random.seed(1), random.seed(1), torch.manual_seed(1)
    before = np.random.get_state()[1].copy(),random.getstate(),torch.get_rng_state()
    draw = lambda seed, stream: NoisyLabels('symmetric', .4, seed=seed).apply(y1000, 10, stream=stream).y_noisy
    a,b,c,v = draw(5, 0),draw(5, 0),draw(6, 0),draw(5, 1)
    assert (a == b).all() and (a != c).any() and (a != v).any()
    assert (np.random.get_state()[1] == before[0]).all() and random.getstate() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])

@pytest.mark.parametrize('make', [np.asarray, torch.from_numpy, np.ndarray.tolist, np.uint8, lambda y: y[:]])
def test_clean_labels_are_never_written_nor_shared(make):
    y = y1000.copy()
    src = make(y)
    rec = NoisyLabels('symmetric', .5).apply(src, 10)
    assert (y == y1000).all() and (rec.y_clean == y1000).all() and rec.is_noisy.sum() == 500
    assert not np.shares_memory(rec.y_clean, y) and not np.shares_memory(rec.y_clean, rec.y_noisy)
    assert rec.y_noisy.dtype == np.int64 and rec.is_open.sum() == 0

def test_a_new_kind_is_one_function(monkeypatch):
    monkeypatch.setitem(NOISE_KINDS, 'zero', lambda noise, y, c, X, rng, vocab: (np.zeros_like(y), None))
    rec = NoisyLabels('zero', .9).apply(y1000, 10)
    assert rec.realised_rate == .9 and rec.T is None and 'zero' in repr(rec)

# --- bad input -------------------------------------------------------------------------------------------------------
T2 = [[.8,.2], [.3,.7]]
@pytest.mark.parametrize('kw,err,msg', [
    (dict(kind='symetric', rate=.4), ValueError, "symetric.*Did you mean 'symmetric'"),
    (dict(kind='bayes', rate=.4), ValueError, 'Known: symmetric'),
    (dict(kind='symmetric'), ValueError, 'needs a `rate`'),
    (dict(kind='symmetric', rate=40), ValueError, r'got 40.*\.4'),
    (dict(kind='symmetric', rate=-.1), ValueError, r'\[0,1\]'),
    (dict(kind='symmetric', rate=float('nan')), ValueError, 'got nan'),
    (dict(kind='symmetric', rate='half'), TypeError, "got 'half'"),
    (dict(kind='pair', rate=.4, sampling='exactly'), ValueError, "Did you mean 'exact'"),
    (dict(kind='pair', rate=.4, seed=-1), ValueError, 'got -1'),
    (dict(kind='pair', rate=.4, seed=.5), ValueError, r'got 0\.5'),
    (dict(kind='pair', rate=.4, noisy_valid='yes'), ValueError, "got 'yes'"),
    (dict(kind='pair', rate=.4, inclusive=True), ValueError, "`inclusive` expects kind='symmetric'"),
    (dict(kind='pair', rate=.4, T=T2), ValueError, "`T` expects kind='matrix'"),
    (dict(kind='pair', rate=.4, mapping='mnist'), ValueError, "`mapping` expects kind='asymmetric'"),
    (dict(kind='pair', rate=.4, features='raw'), ValueError, '`features`'),
    (dict(kind='matrix'), ValueError, 'needs `T`'),
    (dict(kind='matrix', T=T2, rate=.2), ValueError, 'Leave `rate` out'),
    (dict(kind='matrix', T=[[.8,.3], [.3,.7]]), ValueError, r'row 0 .*1\.1'),
    (dict(kind='matrix', T=np.array([[.8,.3], [.2,.7]])), ValueError, r'cleanlab.*T\.T'),
    (dict(kind='matrix', T=[[1.2,-.2], [.3,.7]]), ValueError, 'row 0'),
    (dict(kind='matrix', T=[[.5,.5], [np.nan,1]]), ValueError, 'row 1'),
    (dict(kind='matrix', T=[[.5,.5]]), ValueError, 'square'),
])
def test_bad_noise(kw, err, msg):
    with pytest.raises(err, match=msg): NoisyLabels(**kw)

@pytest.mark.parametrize('noise,y,n,err,msg', [
    (dict(kind='symmetric', rate=.4), [0,1,2], 2, ValueError, r'\[0,2\), got 0 to 2'),
    (dict(kind='symmetric', rate=.4), [-1,1], 2, ValueError, 'got -1 to 1'),
    (dict(kind='symmetric', rate=.4), [0.,1.], 2, TypeError, 'float64'),
    (dict(kind='symmetric', rate=.4), [0.,np.nan], 2, TypeError, 'NaN'),
    (dict(kind='symmetric', rate=.4), ['a','b'], 2, TypeError, 'vocab'),
    (dict(kind='symmetric', rate=.4), np.eye(3, dtype=int), 3, ValueError, '1-d'),
    (dict(kind='symmetric', rate=.4), np.array([], dtype=int), 3, ValueError, 'non-empty'),
    (dict(kind='symmetric', rate=.4), [0,0], 1, ValueError, 'at least 2 classes'),
    (dict(kind='pair', rate=.4), [0,0], 1, ValueError, 'at least 2 classes'),
    (dict(kind='pair', rate=.4), [0,0], 0, ValueError, '`n_classes` must be a whole number from 1 on, got 0'),
    (dict(kind='matrix', T=T2), [0,1,2], 3, ValueError, r'must be \(3,3\)'),
    (dict(kind='asymmetric', rate=.4), [0,1,2], 3, ValueError, 'for 10 classes, got 3'),
    (dict(kind='asymmetric', rate=.4, mapping='cifar'), [0,1,2], 3, ValueError, "Did you mean 'cifar10'"),
    (dict(kind='asymmetric', rate=.4, mapping={0:3}), [0,1,2], 3, ValueError, 'got 3'),
    (dict(kind='asymmetric', rate=.4, mapping={}), [0,1,2], 3, TypeError, 'non-empty dict'),
    (dict(kind='asymmetric', rate=.4, mapping={'cat':'dog'}), [0,1,2], 3, ValueError, 'need the `vocab`'),
])
def test_bad_labels(noise, y, n, err, msg):
    with pytest.raises(err, match=msg): NoisyLabels(**noise).apply(y, n)

def test_misspelt_class_name_gets_the_nearest():
    with pytest.raises(ValueError, match="'coaat'.*Did you mean 'coat'"):
        NoisyLabels('asymmetric', .4, mapping={'coaat':'shirt'}).apply([0,1], vocab=['coat','shirt'])

# --- the record ------------------------------------------------------------------------------------------------------
FIELDS = 'kind nominal_rate seed sampling vocab log_true realised_rate n_classes'.split()
def same(a, b):
    assert (a is None) == (b is None)
    if a is None: return
    for k in FIELDS: assert getattr(a, k) == getattr(b, k), k
    for k in ('y_clean', 'y_noisy', 'is_open', 'is_noisy'): np.testing.assert_array_equal(getattr(a, k), getattr(b, k))
    if a.T is None: assert b.T is None
    else: np.testing.assert_array_equal(a.T, b.T)
    same(a.valid, b.valid)

def test_save_load_round_trip(tmp_path):
    noise = NoisyLabels('symmetric', 1/3, seed=7)
    rec = noise.apply(y1000, vocab=['a,"b', 'é', *'cdefghij'])
    rec.save(tmp_path/'a.csv')
    same(rec, NoiseRecord.load(tmp_path/'a.csv'))
    rec.valid,rec.log_true,rec.is_open[3] = noise.apply(y1000[:50], 10, stream=1),True,True
    rec.save(tmp_path/'b.csv', items=[f'im,{i}.png' for i in range(1000)])
    same(rec, NoiseRecord.load(tmp_path/'b.csv'))
    df = pd.read_csv(tmp_path/'b.csv', comment='#')
    assert list(df.columns[:3]) == ['item', 'label', 'label_noisy'] and df['item'][2] == 'im,2.png' and len(df) == 1050
    with pytest.raises(ValueError, match='expected 1000 items, got 2'): rec.save(tmp_path/'c.csv', items=['a', 'b'])
    (tmp_path/'d.csv').write_text('item,label\n1,2\n')
    with pytest.raises(ValueError, match='Save the record again'): NoiseRecord.load(tmp_path/'d.csv')

def test_rates_and_empirical_matrix_on_unbalanced_classes():
    clean,noisy = [0]*8+[1]*2, [0]*6+[1]*2+[1,0]
    rec = NoiseRecord(clean, noisy, 'x', .4, vocab=['a','b','c'])
    assert rec.realised_rate == .3 and rec.counts.tolist() == [[6,2,0], [1,1,0], [0,0,0]]
    np.testing.assert_array_equal(rec.T_empirical, [[.75,.25,0], [.5,.5,0], [np.nan]*3])
    assert 'nominal rate 0.4, realised 0.3000 (3 wrong)' in repr(rec)

def test_plot_tells_counts_names_and_both_rates():
    rec = NoisyLabels('pair', .45).apply(y1000, vocab=list('abcdefghij'))
    ax = rec.plot().axes[0]
    texts = {(t.get_position()): t.get_text() for t in ax.texts}
    assert texts[(0,0)] == str(rec.counts[0,0]) and texts[(1,0)] == str(rec.counts[0,1]) and len(texts) == 20
    assert '0.45' in ax.get_title() and '0.4500' in ax.get_title()
    assert [t.get_text() for t in ax.get_yticklabels()] == list('abcdefghij')
    plt.close('all')

# --- loaders ---------------------------------------------------------------------------------------------------------
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
def get_dls(d, workers=0, bs=8, **kw): return block().dataloaders(d, bs=bs, num_workers=workers, **kw)
def net(c=3): return nn.Sequential(nn.Flatten(), nn.Linear(192, c))
def learner(dls, **kw):
    torch.manual_seed(0)
    learn = Learner(dls, net(), loss_func=CrossEntropyLossFlat(), metrics=accuracy, **kw)
    return learn
def labels(ds): return [int(ds[i][1]) for i in range(len(ds))]
def truth(dls): return [VOCAB.index(parent_label(f)) for f in dls.train_ds.items]
SYM = NoisyLabels('symmetric', .4, seed=3)

def fingerprint(dls):
    return [(list(map(str, dl.dataset.items)), labels(dl.dataset), dl.rng.getstate()) for dl in dls.loaders]

@pytest.mark.parametrize('workers', [0, 2])
def test_each_item_keeps_its_one_label_through_epochs_and_workers(folder, workers):
    dls = get_dls(folder, workers)
    nd = add_label_noise(dls, SYM)
    assert nd.noise.is_noisy.sum() == int(.4*36) and (nd.noise.y_clean == truth(dls)).all()
    orders = set()
    for _ in range(3):
        seen = {}
        for i,(_,y) in enumerate(nd.train):
            for k,v in zip(batch_idxs(nd.train, i, len(y)).tolist(), y.tolist()): seen[k] = v
        orders.add(tuple(seen))
        assert all(nd.noise.y_noisy[k] == v for k,v in seen.items()) and len(seen) == 32       # drop_last
    assert len(orders) == 3
    for i,(_,y) in enumerate(nd.valid):
        assert y.tolist() == [VOCAB.index(parent_label(f)) for f in nd.valid_ds.items[i*8:i*8+8]]

def test_images_stay_with_their_labels(folder):
    "The picture of position i comes with the given label of position i"
    nd = add_label_noise(get_dls(folder), SYM)
    for i,(x,y) in enumerate(nd.train):
        for k,im,t in zip(batch_idxs(nd.train, i, len(y)).tolist(), x, y):
            want = np.asarray(PILImage.create(nd.train_ds.items[k])).transpose(2,0,1)/255
            np.testing.assert_allclose(im.numpy(), want, atol=1e-6)
            assert t == nd.noise.y_noisy[k]

def test_the_given_dls_stay_as_they_were(folder):
    dls = get_dls(folder)
    before,loaders,dicts = fingerprint(dls),list(dls.loaders),[set(vars(dl)) for dl in dls.loaders]
    nd = add_label_noise(dls, NoisyLabels('pair', .5-1e-9, noisy_valid=True))
    nd.add_tfms([Normalize.from_stats([.5]*3, [.5]*3, cuda=False)], 'after_batch')
    for _ in nd.train: pass
    nd.show_batch()
    plt.close('all')
    nd.device = torch.device('cpu')
    assert fingerprint(dls) == before and dls.loaders == loaders and [set(vars(dl)) for dl in dls.loaders] == dicts
    assert not hasattr(dls, 'noise') and len(dls.train.after_batch.fs) < len(nd.train.after_batch.fs)
    nd.train.after_item.fs.clear()
    assert len(dls.train.after_item.fs) == 1
    assert type(dls.train_ds) is Datasets and type(nd) is type(dls)

def test_same_batches_as_the_clean_loader(folder):
    "Pairs: the noisy loader shuffles as the clean one would have"
    dls = get_dls(folder)
    nd = add_label_noise(dls, SYM)
    a,b = [x for x,_ in dls.train],[x for x,_ in nd.train]
    assert all(torch.equal(p, q) for p,q in zip(a, b))

def test_already_noisy_and_compound(folder):
    dls = get_dls(folder)
    n1 = add_label_noise(dls, SYM)
    with pytest.raises(ValueError, match='compound=True'): add_label_noise(n1, SYM)
    n2 = add_label_noise(n1, NoisyLabels('pair', 1/3, seed=9), compound=True)
    assert (n2.noise.y_clean == n1.noise.y_clean).all() and (n2.noise.y_noisy != n1.noise.y_noisy).sum() == 12
    assert labels(n2.train_ds) == n2.noise.y_noisy.tolist() and labels(n1.train_ds) == n1.noise.y_noisy.tolist()
    np.testing.assert_allclose(n2.noise.T, n1.noise.T @ noise_matrix('pair', 3, 1/3))
    assert n2.noise.kind == 'symmetric+pair' and n2.noise.seed == [3, 9]
    n3 = add_label_noise(add_label_noise(dls, NoisyLabels('pair', .3, noisy_valid='both')), SYM, compound=True)
    assert labels(n3.valid_ds) == n3.noise.valid.y_noisy.tolist()
    assert n3.noise.log_true and n3.noise.valid.is_noisy.any()

def test_a_saved_record_gives_the_same_labels_again(folder, tmp_path):
    dls = get_dls(folder)
    nd = add_label_noise(dls, NoisyLabels('symmetric', .4, noisy_valid='both'))
    nd.noise.save(tmp_path/'n.csv', items=nd.train_ds.items)
    again = add_label_noise(dls, NoiseRecord.load(tmp_path/'n.csv'))
    same(nd.noise, again.noise)
    assert labels(again.train_ds) == labels(nd.train_ds) and labels(again.valid_ds) == labels(nd.valid_ds)
    other = block(DataBlock)
    other.splitter = RandomSplitter(.25, seed=2)
    odls = other.dataloaders(folder, bs=8)
    with pytest.raises(ValueError, match='other true labels'): add_label_noise(odls, nd.noise)

@pytest.mark.parametrize('bad,err,msg', [('symmetric', TypeError, "got 'symmetric'"), (None, TypeError, 'got None')])
def test_bad_noise_argument(folder, bad, err, msg):
    dls = get_dls(folder)
    with pytest.raises(err, match=msg): add_label_noise(dls, bad)
    with pytest.raises(err, match=msg): block(NoisyDataBlock, noise=bad)

def test_wrong_targets_and_loaders(folder):
    many = lambda f: [parent_label(f)]
    multi = DataBlock((ImageBlock, MultiCategoryBlock), get_items=files, get_y=many).dataloaders(folder, bs=8)
    with pytest.raises(ValueError, match='single-label.*OneHotEncode'): add_label_noise(multi, SYM)
    enc = MultiCategoryBlock(encoded=True, vocab=VOCAB)
    enc = DataBlock((ImageBlock, enc), get_items=files, get_y=lambda f: [1.,0.,1.]).dataloaders(folder, bs=8)
    with pytest.raises(ValueError, match='single-label.*EncodedMultiCategorize'): add_label_noise(enc, SYM)
    reg = DataBlock((ImageBlock, RegressionBlock), get_items=files, get_y=lambda f: 1.).dataloaders(folder, bs=8)
    with pytest.raises(ValueError, match='single-label.*RegressionSetup'): add_label_noise(reg, SYM)
    raw = torch.utils.data.DataLoader([(torch.zeros(2), 0)]*4)
    with pytest.raises(TypeError, match='TfmdDL'): add_label_noise(DataLoaders(raw, raw), SYM)
    bare = TfmdDL([(torch.zeros(2), torch.tensor(0))]*4, bs=2)
    with pytest.raises(TypeError, match='Datasets'): add_label_noise(DataLoaders(bare, bare), SYM)
    two = DataBlock((ImageBlock, CategoryBlock, CategoryBlock), n_inp=1, get_items=files, get_y=[parent_label]*2)
    with pytest.raises(ValueError, match='2 targets'): add_label_noise(two.dataloaders(folder, bs=8), SYM)
    dls = get_dls(folder)
    before = fingerprint(dls)
    with pytest.raises(ValueError, match=r'\(3,3\)'): add_label_noise(dls, NoisyLabels('matrix', T=T2))
    only = block()
    only.splitter = lambda o: (list(range(len(o))), [])
    with pytest.raises(ValueError, match='validation items, got none'):
        add_label_noise(only.dataloaders(folder, bs=8), NoisyLabels('pair', .3, noisy_valid=True))
    assert fingerprint(dls) == before
    with pytest.raises(ValueError, match='new dls'): add_label_noise(dls, SYM).train_ds.items = []

@quiet
def test_mapping_by_class_name_uses_the_vocab(folder):
    nd = add_label_noise(get_dls(folder), NoisyLabels('asymmetric', 1., mapping={'cat':'coat'}))
    assert nd.noise.counts[0].tolist()[0] == 0 and not nd.noise.is_noisy[nd.noise.y_clean != 0].any()

def test_weighted_loader_keeps_its_weights(folder):
    ds = block().datasets(folder)
    w = np.zeros(36)
    w[[2,5,30]] = 1
    b = block()
    dls = ds.weighted_dataloaders(w, bs=8, num_workers=0, after_item=b.item_tfms, after_batch=b.batch_tfms)
    nd = add_label_noise(dls, SYM)
    assert isinstance(nd.train, WeightedDL)
    for i,(_,y) in enumerate(nd.train):
        ids = batch_idxs(nd.train, i, len(y)).numpy()
        assert set(ids) <= {2,5,30} and (nd.noise.y_noisy[ids] == y.numpy()).all()

def test_after_show_batch_unique_the_copy_has_its_own_order(folder):
    dls = get_dls(folder)
    dls.show_batch(unique=True)                 # leaves a bound method of this loader on it
    plt.close('all')
    nd = add_label_noise(dls, SYM)
    state = dls.train.rng.getstate()
    for _ in nd.train: pass
    assert dls.train.rng.getstate() == state

# --- learner ---------------------------------------------------------------------------------------------------------
def test_predictions_and_interpretation_use_the_given_labels(folder):
    nd = add_label_noise(get_dls(folder), NoisyLabels('symmetric', .4, noisy_valid=True))
    learn = learner(nd)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
        for i,rec in ((0, nd.noise), (1, nd.noise.valid)):
            p,t,l = learn.get_preds(ds_idx=i, with_loss=True)
            assert t.tolist() == rec.y_noisy.tolist()
            np.testing.assert_allclose(l, -p[range(len(t)), t].log(), rtol=1e-4)
            interp = ClassificationInterpretation.from_learner(learn, ds_idx=i)
            loss,ix = interp.top_losses(7)
            inp,pred,targ,dec,ls = interp[ix]
            assert targ.tolist() == rec.y_noisy[ix.numpy()].tolist()
            np.testing.assert_allclose(ls, -pred[range(7), targ].log(), rtol=1e-4)
            assert interp.confusion_matrix().sum(1).tolist() == np.bincount(rec.y_noisy, minlength=3).tolist()
            interp.plot_top_losses(4)
            plt.close('all')
        assert learn.predict(nd.train_ds.items[0])[0] in VOCAB
        learn.show_results(ds_idx=0)
        learn.show_results()
        plt.close('all')

def test_test_dl_gives_true_labels_for_files_and_given_ones_for_training_items(folder):
    nd = add_label_noise(get_dls(folder), SYM)
    plain = [f for f in nd.train_ds.items]
    y = [int(v) for _,b in nd.test_dl(plain, with_labels=True) for v in b]
    assert y == nd.noise.y_clean.tolist()
    y = [int(v) for _,b in nd.test_dl(nd.train_ds.items, with_labels=True) for v in b]
    assert y == nd.noise.y_noisy.tolist()
    assert len(nd.test_dl(plain[:5]).one_batch()) == 1

def test_data_frames(folder):
    fs = files(folder)
    df = pd.DataFrame(dict(name=[str(f) for f in fs], label=[parent_label(f) for f in fs]), index=range(100, 148))
    db = DataBlock((ImageBlock, CategoryBlock), get_x=ColReader('name'), get_y=ColReader('label'),
                   splitter=RandomSplitter(.25, seed=1))
    nd = add_label_noise(db.dataloaders(df, bs=8, num_workers=0), SYM)
    assert labels(nd.train_ds) == nd.noise.y_noisy.tolist() and list(df.columns) == ['name', 'label']
    learn = learner(nd)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
        interp = ClassificationInterpretation.from_learner(learn, ds_idx=0)
        assert interp[[3,17,4]][2].tolist() == nd.noise.y_noisy[[3,17,4]].tolist()
        assert learn.predict(df.iloc[0])[0] in VOCAB

def test_image_data_loaders_and_array_dls(folder):
    idls = ImageDataLoaders.from_folder(folder, valid_pct=.25, seed=1, bs=8, num_workers=0)
    nd = add_label_noise(idls, SYM)
    assert type(nd) is type(idls) and labels(nd.train_ds) == nd.noise.y_noisy.tolist()
    rng = np.random.RandomState(0)
    X,y = rng.randint(0, 255, (60,8,8,3)).astype('uint8'),rng.randint(0, 3, 60)
    dls = array_dls(X, y, valid=(X[:20], y[:20]), bs=16, vocab=VOCAB)
    nd = add_label_noise(dls, NoisyLabels('symmetric', .4, noisy_valid='both'))
    assert (nd.noise.y_clean == y).all() and labels(dls.train_ds) == y.tolist() and type(nd.train) is type(dls.train)
    assert nd.train._whole() and nd.valid._whole()
    for i,(_,yb) in enumerate(nd.train):
        assert (nd.noise.y_noisy[batch_idxs(nd.train, i, len(yb)).numpy()] == yb.numpy()).all()
    learn = learner(nd, cbs=nd.noise.cbs())
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
        assert learn.get_preds(ds_idx=1)[1].tolist() == nd.noise.valid.y_noisy.tolist()
        interp = ClassificationInterpretation.from_learner(learn, ds_idx=0)
        assert interp[[3,17,4]][2].tolist() == nd.noise.y_noisy[[3,17,4]].tolist()
    n2 = add_label_noise(nd, NoisyLabels('pair', .2), compound=True)
    assert labels(n2.train_ds) == n2.noise.y_noisy.tolist() and (n2.noise.y_clean == y).all()

@pytest.mark.slow
def test_export_carries_no_record_and_loads_where_we_are_not_installed(folder, tmp_path):
    "Labels of the training set must not leave the house; a fresh process without fastrobust loads and predicts"
    y,rng = np.arange(30000) % 3,np.random.RandomState(0)
    X = rng.randint(0, 255, (1,8,8,3)).repeat(30000, 0).astype('uint8')
    sizes = []
    for noise in (None, SYM):
        dls = get_dls(folder)
        if noise: dls = add_label_noise(dls, noise)
        learn = learner(dls)
        with learn.no_bar(), learn.no_logging(): learn.fit(1)
        learn.export(tmp_path/'e.pkl')
        sizes.append(os.path.getsize(tmp_path/'e.pkl'))
    assert b'fastrobust' not in (tmp_path/'e.pkl').read_bytes() and abs(sizes[1]-sizes[0]) < 2000
    code = ("import sys, warnings; warnings.simplefilter('ignore'); sys.modules['fastrobust'] = None\n"
            "from fastai.learner import load_learner\n"
            f"l = load_learner({str(tmp_path/'e.pkl')!r}); f = {str(files(folder)[0])!r}\n"
            "with l.no_bar(): print('got', l.predict(f)[0], len(l.get_preds(dl=l.dls.test_dl([f]*3))[0]))")
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=tmp_path)
    with learn.no_bar(): want = learn.predict(files(folder)[0])[0]
    assert f'got {want} 3' in out.stdout, out.stderr[-2000:]
    adls = array_dls(X, y, valid_pct=.2, bs=1000, vocab=VOCAB)
    adls = add_label_noise(adls, NoisyLabels('pair', .4, noisy_valid='both'))
    learn = learner(adls, cbs=adls.noise.cbs())
    learn.export(tmp_path/'a.pkl')
    assert os.path.getsize(tmp_path/'a.pkl') < 60_000                                  # 30,000 labels would be 240,000
    assert load_learner(tmp_path/'a.pkl').dls.vocab == VOCAB

def test_deepcopy_and_pickle(folder):
    nd = add_label_noise(get_dls(folder), SYM)
    for dls in (copy.deepcopy(nd), pickle.loads(pickle.dumps(nd))):
        assert labels(dls.train_ds) == nd.noise.y_noisy.tolist() and dls.noise.is_noisy.sum() == nd.noise.is_noisy.sum()
        assert dls.train.show_batch.args[0] is dls.train

def test_get_preds_on_a_new_loader_of_the_same_data(folder):
    nd = add_label_noise(get_dls(folder), SYM)
    dl = nd.train.new(shuffle=False, drop_last=False, bs=5)
    assert [int(v) for _,y in dl for v in y] == nd.noise.y_noisy.tolist()

# --- noisy validation ------------------------------------------------------------------------------------------------
def test_noisy_valid_same_law_other_stream(folder):
    dls = get_dls(folder)
    assert add_label_noise(dls, SYM).noise.valid is None and add_label_noise(dls, SYM).noise.cbs() == []
    nd = add_label_noise(dls, NoisyLabels('symmetric', .5, noisy_valid=True))
    v = nd.noise.valid
    assert labels(nd.valid_ds) == v.y_noisy.tolist() and v.is_noisy.sum() == 6 and nd.noise.cbs() == []
    assert v.y_clean.tolist() == [VOCAB.index(parent_label(f)) for f in nd.valid_ds.items]
    a,b = NoisyLabels('symmetric', .5).apply(y1000, 10),NoisyLabels('symmetric', .5).apply(y1000, 10, stream=1)
    assert .15 < (a.is_noisy & b.is_noisy).mean() < .35              # 1/4 if independent, 1/2 if the same draw

def test_both_logs_accuracy_against_given_and_true_labels(folder, tmp_path):
    nd = add_label_noise(get_dls(folder), NoisyLabels('symmetric', .5, noisy_valid='both'))
    rec = nd.noise.valid
    learn = learner(nd, cbs=nd.noise.cbs(), path=tmp_path)
    for _ in range(2):
        with learn.no_bar(), learn.no_logging():
            learn.fit(3, .1, cbs=[CSVLogger(tmp_path/'h.csv'), SaveModelCallback(monitor='acc_true')])
            p,t = learn.recorder.values[-1],learn.recorder.metric_names
            assert list(t) == ['epoch', 'train_loss', 'valid_loss', 'accuracy', 'acc_true', 'time']
            assert len(learn.recorder.values) == 3
        h = pd.read_csv(tmp_path/'h.csv')
        assert list(h.columns) == list(t) and h.acc_true.iloc[-1] == pytest.approx(p[3])
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, .05)
        vals = learn.recorder.values[-1]
        preds = learn.get_preds()[0].argmax(1).numpy()
        assert vals[3] == pytest.approx((preds == rec.y_clean).mean())
        assert vals[2] == pytest.approx((preds == rec.y_noisy).mean())
        assert vals[2] != vals[3]
        loss,acc = learn.validate()[:2]
        assert acc == pytest.approx(vals[2])
        bare = Learner(nd, net(), loss_func=CrossEntropyLossFlat(), cbs=nd.noise.cbs())
        with bare.no_bar(), bare.no_logging(): bare.fit(1)
        assert list(bare.recorder.metric_names)[3:5] == ['acc_given', 'acc_true']

def test_true_accuracy_where_there_is_nothing_to_do(folder):
    dls = get_dls(folder)
    learn = learner(dls, cbs=TrueAccuracy())
    with learn.no_bar(), learn.no_logging(), pytest.raises(ValueError, match='add_label_noise'): learn.fit(1)
    learn = learner(add_label_noise(dls, SYM), cbs=TrueAccuracy())
    with learn.no_bar(), learn.no_logging(), pytest.warns(RobustWarning, match='true ones'): learn.fit(1)
    assert list(learn.recorder.metric_names) == ['epoch', 'train_loss', 'valid_loss', 'accuracy', 'time']

# --- show_batch ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('which', ['train', 'valid'])
def test_show_batch_tells_given_from_true(folder, which):
    nd = add_label_noise(get_dls(folder), NoisyLabels('symmetric', .5, noisy_valid=True))
    dl,rec = getattr(nd, which),nd.noise if which == 'train' else nd.noise.valid
    (nd if which == 'train' else dl).show_batch(max_n=8)
    ids = batch_idxs(dl, 0, 8).numpy()
    axs = plt.gcf().axes[:8]
    assert rec.is_noisy[ids].any() and not rec.is_noisy[ids].all()
    for ax,i in zip(axs, ids):
        im = np.asarray(ax.get_images()[0].get_array())
        np.testing.assert_array_equal(im, np.asarray(PILImage.create(dl.dataset.items[i])))
        g,t = VOCAB[rec.y_noisy[i]],VOCAB[rec.y_clean[i]]
        assert ax.get_title() == (g if g == t else f'given: {g}\ntrue: {t}')
        assert ax.title.get_color() == ('black' if g == t else WrongCategory._show_args['color'])
    plt.close('all')
    dl.show_batch(b=dl.one_batch())                                  # a batch from anywhere: its labels, no guesses
    assert not any('true' in ax.get_title() for ax in plt.gcf().axes)
    dl.show_batch(unique=True)
    dl.show_batch(max_n=4, nrows=1, figsize=(8,2))
    plt.close('all')

# --- NoisyDataBlock --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('noisy_valid', [False, True, 'both'])
def test_noisy_data_block(folder, noisy_valid):
    noise = NoisyLabels('symmetric', .4, seed=3, noisy_valid=noisy_valid)
    db,clean = block(NoisyDataBlock, noise=noise),block().datasets(folder)
    ds,dls = db.datasets(folder),db.dataloaders(folder, bs=8, num_workers=0)
    other = add_label_noise(get_dls(folder), noise)
    same(ds.noise, dls.noise)
    same(ds.noise, other.noise)
    want = [ds.noise.y_noisy.tolist(), labels(clean.valid) if not noisy_valid else ds.noise.valid.y_noisy.tolist()]
    assert [labels(ds.train), labels(ds.valid)] == want
    assert [labels(dls.train_ds), labels(dls.valid_ds)] == want and (labels(clean.train) == ds.noise.y_clean).all()
    full = labels(ds)
    assert [full[i] for i in ds.splits[0]] == want[0] and [full[i] for i in ds.splits[1]] == want[1]
    assert [int(o[1]) for o in ds[[0,5,-1]]] == [full[0], full[5], full[-1]] and ds.train[:3] is not None
    assert len(dls.noise.cbs()) == (noisy_valid == 'both')
    learn = learner(dls, cbs=dls.noise.cbs())
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
        assert learn.get_preds(ds_idx=0)[1].tolist() == want[0]
        interp = ClassificationInterpretation.from_learner(learn, ds_idx=0)
        assert interp[[4,2]][2].tolist() == [want[0][4], want[0][2]]

def test_noisy_data_block_summary_and_weights(folder, capsys):
    db = block(NoisyDataBlock, noise=SYM)
    db.summary(folder, bs=4)
    assert 'Building one batch' in capsys.readouterr().out
    w = np.zeros(48)
    w[db.datasets(folder).splits[0][:3]] = 1
    dls = db.weighted_dataloaders(folder, w, bs=8, num_workers=0)
    x,y = dls.one_batch()
    ids = batch_idxs(dls.train, 0, 8).numpy()
    assert set(ids) <= {0,1,2} and (dls.noise.y_noisy[ids] == y.numpy()).all()

def test_noisy_data_block_split_by_index_and_errors(folder):
    db = DataBlock
    kw = dict(get_items=files, get_y=parent_label, splitter=IndexSplitter(list(range(0, 48, 4))))
    ds = NoisyDataBlock((ImageBlock, CategoryBlock), noise=NoisyLabels('pair', .5-1e-9), **kw).datasets(folder)
    clean = db((ImageBlock, CategoryBlock), **kw).datasets(folder)
    diff = [i for i in range(48) if int(ds[i][1]) != int(clean[i][1])]
    assert len(diff) == 17 and not set(diff) & set(range(0, 48, 4))
    with pytest.raises(ValueError, match='single-label'):
        many = dict(get_items=files, get_y=lambda f: [parent_label(f)])
        NoisyDataBlock((ImageBlock, MultiCategoryBlock), noise=SYM, **many).datasets(folder)
    with pytest.raises(TypeError, match='invalid keyword'): block(NoisyDataBlock, noise=SYM, nose=1)
