"Long tails: sizes of the specification, loaders and splitters, counts, the complementary prior, groups"
import pickle, warnings
import numpy as np, pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings, strategies as st
from PIL import Image
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.transforms import ColReader, IndexSplitter, RandomSplitter, get_image_files, parent_label
from fastai.vision.data import ImageBlock
from fastrobust.basics import RobustWarning
from fastrobust.data.fromarrays import array_dls
from fastrobust.data.longtail import (LongTailSplitter, class_counts, complementary, head_mid_tail, long_tail,
                                      long_tail_dls)
from fastrobust.noise.laws import NoisyLabels
from fastrobust.noise.block import add_label_noise
from fastrobust.samples import sample_dls
from fastrobust.data.weighting import weighted_dls
from conftest import tiny_dls

prop = settings(max_examples=60, deadline=None, derandomize=True)
LT100 = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]    # CIFAR-10, 100:1

# --- sizes -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('ir,total10,total100', [(10, 20431, 19573), (50, 13996, 12608), (100, 12406, 10847),
                                                 (200, 11203, 9502)])
def test_totals_of_cifar(ir, total10, total100):
    "Specification §9.16"
    assert len(long_tail(np.arange(50000) % 10, 1/ir)) == total10
    assert len(long_tail(np.arange(50000) % 100, 1/ir)) == total100

def test_sizes_of_cifar():
    n = lambda c, *a: np.bincount(np.arange(50000)[long_tail(np.arange(50000) % c, *a)] % c).tolist()
    assert n(10, .01) == LT100 and -(-sum(LT100)//128) == 97
    assert n(10, .02) == [5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100]
    assert n(10, .1) == [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500]
    assert n(100, .01, 'step') == [500]*50+[5]*50

@pytest.mark.parametrize('c', [1, 2, 3, 5, 7, 9])
def test_odd_numbers_of_classes_lose_none(c):
    y = np.arange(100*c) % c
    n = np.bincount(y[long_tail(y, .1, 'step')], minlength=c)
    assert n.tolist() == ([100]*(c//2)+[10]*(c-c//2) if c > 1 else [100])
    e = np.bincount(y[long_tail(y, .1)], minlength=c)
    assert e[0] == 100 and (c == 1 or e[-1] == 10) and (np.diff(e) <= 0).all()

def test_classes_of_unequal_size():
    "Enough of each: the very profile; too few of one: the same profile, smaller, and a warning where it costs much"
    y = np.repeat([0, 1, 2], [900, 500, 100])
    assert np.bincount(y[long_tail(y, .04)]).tolist() == [500, 100, 20]
    y = np.repeat([0, 1, 2], [1400, 30, 70])
    with pytest.warns(RobustWarning, match=r'class 1 has fewer .* \(1 such\), so the largest class keeps 150 and not'):
        idx = long_tail(y, .04)
    assert np.bincount(y[idx]).tolist() == [150, 30, 6] and len(np.unique(idx)) == 186
    y = np.repeat([0, 2], [70, 80])
    with pytest.warns(RobustWarning, match='class 1 has no samples'): idx = long_tail(y, .5)
    assert np.bincount(y[idx]).tolist() == [50, 0, 25]

@pytest.mark.filterwarnings('error::fastrobust.basics.RobustWarning')
@prop
@given(st.integers(2, 12), st.floats(.05, 1), st.sampled_from(['exp', 'step']), st.integers(0, 1000))
def test_a_random_split_of_equal_classes_keeps_the_shape(c, imb, kind, seed):
    "No class is short of what the shape wants, whichever drew too few, and at most 10 % go without a warning"
    g = np.random.default_rng(seed)
    y = g.permutation(np.arange(1000*c) % c)[:800*c]
    n,m = np.bincount(y[long_tail(y, imb, kind)], minlength=c),800
    share = [imb**(k/(c-1)) if kind == 'exp' else 1 if k < c//2 else imb for k in range(c)]
    assert .9*m <= n[0] <= m and np.allclose(n, n[0]*np.array(share), atol=2)

# --- loaders ---------------------------------------------------------------------------------------------------------
def test_loaders_with_a_long_tail():
    dls = sample_dls()
    before,valid = class_counts(dls),len(dls.valid_ds)
    new = long_tail_dls(dls, .05, seed=1)
    want = [int(400*.05**(k/9)+1e-9) for k in range(10)]
    assert class_counts(new).tolist() == want and class_counts(new).dtype == np.int64
    assert (class_counts(dls) == before).all() and (before == 400).all() and len(new.valid_ds) == valid
    assert new.valid is dls.valid and new.train is not dls.train and not hasattr(new, 'noise')
    rows = new.train_ds.items.rows.numpy()
    assert (rows == long_tail(dls.train_ds.items.y.numpy(), .05, seed=1)).all()
    assert set(rows) != set(long_tail_dls(dls, .05, seed=2).train_ds.items.rows.tolist())
    step = long_tail_dls(dls, .1, 'step')
    assert class_counts(step).tolist() == [400]*5+[40]*5
    assert sum(len(y) for _,y in step.train) == 2200//64*64

def test_making_loaders_moves_no_stream():
    dls = tiny_dls(n=90, bs=8)
    torch.manual_seed(1); np.random.seed(1)
    a = torch.rand(1),np.random.rand()
    torch.manual_seed(1); np.random.seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')     # a class is small
        long_tail_dls(dls, .5)
    assert (torch.rand(1),np.random.rand()) == a

def test_noise_after_the_tail_and_before_it():
    dls = sample_dls()
    tail = add_label_noise(long_tail_dls(dls, .1), NoisyLabels('symmetric', .4))
    true = np.bincount(tail.noise.y_clean)
    assert true.tolist() == class_counts(long_tail_dls(dls, .1)).tolist()
    assert class_counts(tail).tolist() == np.bincount(tail.noise.y_noisy).tolist() != true.tolist()
    noisy = add_label_noise(dls, NoisyLabels('symmetric', .4))
    with pytest.warns(RobustWarning, match='noisy already.*true labels to 400, 3.*; as given they have .*make it last'):
        new = long_tail_dls(noisy, .1)
    assert np.bincount(new.noise.y_clean).tolist() == true.tolist()
    assert class_counts(new).tolist() == np.bincount(new.noise.y_noisy).tolist() != true.tolist()

def test_counts_are_of_given_labels_not_of_the_loader():
    dls = tiny_dls(n=50, c=4, bs=16)
    y = dls.train_ds.items.y.numpy()
    want = [int((y == k).sum()) for k in range(4)]
    assert class_counts(dls).tolist() == want == class_counts(weighted_dls(dls, 'balanced')).tolist()
    X = np.zeros((6, 4, 4), np.uint8)
    gap = array_dls(X, [0, 0, 2, 0, 0, 2], valid=(X, [1]*6), bs=2, vocab=['a', 'b', 'c', 'd'], device='cpu')
    assert class_counts(gap).tolist() == [4, 0, 2, 0]
    with pytest.raises(TypeError, match='expected DataLoaders, got ndarray'): class_counts(y)

# --- a splitter ------------------------------------------------------------------------------------------------------
def names(n=60): return [f"{'abc'[i % 3]}/{i}.png" for i in range(n)]
def letter(o): return o[0]
def quarter(items): return list(range(15, len(items))),list(range(15))

def test_splitter_by_hand():
    s = LongTailSplitter(letter, .2, splitter=quarter, seed=4)
    train,valid = s(names())
    assert valid == list(range(15)) and all(type(i) is int and i >= 15 for i in train) and train == sorted(train)
    y = np.array([i % 3 for i in range(15, 60)])
    assert (np.array(train)-15 == long_tail(y, .2, seed=4)).all()
    assert np.bincount([i % 3 for i in train]).tolist() == [15, 6, 3]
    back = pickle.loads(pickle.dumps(s))
    assert back(names()) == (train, valid) and back.seed == 4
    step = LongTailSplitter(letter, .2, 'step', splitter=quarter)(names())[0]
    assert np.bincount([i % 3 for i in step]).tolist() == [15, 3, 3]

def test_splitter_by_itself():
    torch.manual_seed(3)
    a = torch.rand(1)
    torch.manual_seed(3)
    s = LongTailSplitter(letter, .2)
    train,valid = pickle.loads(pickle.dumps(s))(names(300))
    assert torch.rand(1) == a, 'the global stream is left alone'
    assert len(valid) == 60 and not set(train) & set(valid) and (train, valid) == s(names(300))
    assert LongTailSplitter(letter, .2, seed=1)(names(300))[1] != valid
    n = np.bincount([i % 3 for i in train])
    assert n[0] == 80 and n[2] == 16

def test_splitter_in_a_datablock(tmp_path):
    for k in 'abc':
        (tmp_path/k).mkdir()
        for i in range(16): Image.fromarray(np.full((8, 8, 3), 9*i, np.uint8)).save(tmp_path/k/f'{i}.png')
    block = DataBlock((ImageBlock, CategoryBlock), get_items=get_image_files, get_y=parent_label,
                      splitter=LongTailSplitter(parent_label, .25, splitter=RandomSplitter(.25, seed=1)))
    dls = block.dataloaders(tmp_path, bs=4, num_workers=0, device='cpu')
    n = class_counts(dls)
    files = get_image_files(tmp_path)
    have = np.bincount(['abc'.index(parent_label(files[i])) for i in RandomSplitter(.25, seed=1)(files)[0]])
    m = min(12, *(have/[1, .5, .25]))
    assert n.tolist() == [int(m), int(m/2), int(m/4)] and min(n) > 1
    assert len(dls.valid_ds) == 12 and list(dls.vocab) == ['a', 'b', 'c']

def test_splitter_on_a_table():
    df = pd.DataFrame(dict(f=names(), label=[o[0] for o in names()]), index=range(100, 160))
    train,valid = LongTailSplitter(ColReader('label'), .2, splitter=IndexSplitter(list(range(15))))(df)
    assert np.bincount([i % 3 for i in train]).tolist() == [15, 6, 3] and sorted(valid) == list(range(15))

@pytest.mark.parametrize('args,err,match', [
    ((3,), TypeError, '`get_y` must be a function, got 3'),
    ((letter, 0), ValueError, r'`imb` must lie in \(0,1\]'), ((letter, .1, 'expo'), ValueError, "got 'expo'")])
def test_splitters_that_are_refused(args, err, match):
    with pytest.raises(err, match=match): LongTailSplitter(*args)
    with pytest.raises(TypeError, match='`splitter` must be a function'): LongTailSplitter(letter, .1, splitter=4)

# --- the complementary prior -----------------------------------------------------------------------------------------
def close(a, b): assert np.allclose(a, b, atol=6e-7), np.abs(np.asarray(a)-b).max()

def test_prior_of_the_specification():
    "Specification §9.13"
    g = complementary(LT100)
    close(g, [.001313, .053893, .085420, .104295, .115635, .122408, .126477, .128918, .130388, .131254])
    assert g.dtype == np.float64 and g.sum() == pytest.approx(1, abs=1e-15)
    close(complementary(LT100, .4070611), g)
    low = [0, .05328, .085226, .104352, .115843, .122706, .126829, .129303, .130792, .13167]
    close(complementary(LT100, 'minimal'), low)
    assert complementary(LT100, 'minimal')[0] == 0
    close(complementary(LT100, 1.)[[0, -1]], [.06633, .110663])
    assert complementary(LT100, 10.)[0] == pytest.approx(.096939, abs=5e-7)

def test_balanced_prior_levels_all_classes():
    g = complementary(LT100, 'balanced', n_aux=50000)
    close((np.array(LT100)+50000*g)/62406, np.full(10, .1))
    close(g, complementary(LT100, .5030308))
    assert complementary(LT100, 'balanced', n_aux=37594)[0] == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match=r'`n_aux` >= 37594 .*got 37593. Take more'):
        complementary(LT100, 'balanced', n_aux=37593)

@pytest.mark.parametrize('alpha,want', [(None, (1.162802, 2.176368, 2.115407)),
                                        (float('inf'), (1, np.log(10), np.log(10)))])
def test_floors_that_identify_the_variant(alpha, want):
    "K sum Gamma^2, H(Gamma) and H(q), q prop. to Gamma^2 (specification §4.2)"
    g = complementary(LT100, alpha)
    h = lambda p: -(p*np.log(np.maximum(p, 1e-300))).sum()
    close((10*(g**2).sum(), h(g), h(g**2/(g**2).sum())), want)

def test_floors_on_digits():
    g = complementary([120, 77, 50, 32, 21, 13, 8, 5, 3, 2])
    h = lambda p: -(p*np.log(p)).sum()
    assert h(g) == pytest.approx(2.1744, abs=5e-5) and h(g**2/(g**2).sum()) == pytest.approx(2.0993, abs=5e-5)

@prop
@given(st.lists(st.integers(1, 5000), min_size=2, max_size=30), st.floats(0, 5), st.sampled_from(['a', 't', 'l']))
def test_prior_is_one_and_turns_the_order_round(n, more, kind):
    beta = np.array(n)/sum(n)
    g = complementary(torch.tensor(n) if kind == 't' else n if kind == 'l' else np.array(n), beta.max()+more)
    assert g.sum() == pytest.approx(1) and (g >= 0).all()
    assert (np.diff(g[np.argsort(beta, kind='stable')]) <= 1e-12).all()
    assume(more > 1e-3)
    alpha = beta.max()+more
    assert np.allclose(g, [(alpha-b)/(len(n)*alpha-1) for b in beta])

def test_equal_classes_get_an_equal_prior():
    for alpha in (None, 'minimal', .25, float('inf')): assert complementary([7]*4, alpha).tolist() == [.25]*4

@pytest.mark.parametrize('args,kw,match', [
    (([3, 0, 1],), {}, 'at least one training item of every class, got none of 1, first class 1'),
    (([3],), {}, 'at least two classes'), (([3, -1],), {}, 'whole numbers'), (([.5, .5],), {}, 'whole numbers'),
    (([[1, 2]],), {}, 'whole numbers'), (([0, 0],), {}, 'whole numbers'), (([1, float('nan')],), {}, 'whole numbers'),
    (([3, 1], .7), {}, r'at least the largest class frequency 0.75, got 0.7, which makes.*None takes'),
    (([3, 1], float('nan')), {}, 'at least the largest'),
    (([3, 1], 'balance'), {}, "got 'balance'. Did you mean 'balanced'"),
    (([3, 1], 'balanced'), {}, "`n_aux` with alpha='balanced' and only there, got None"),
    (([3, 1], .9), dict(n_aux=5), "only there, got 5 with 0.9")])
def test_priors_that_are_refused(args, kw, match):
    with pytest.raises(ValueError, match=match): complementary(*args, **kw)

def test_alpha_of_another_kind():
    with pytest.raises(TypeError, match='`alpha` must be a number'): complementary([3, 1], [1])
    assert complementary([3, 1], .75*(1-1e-12)).tolist() == [0, 1]      # rounding is no error

# --- groups ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('c,sizes', [(2, (1, 0, 1)), (3, (1, 1, 1)), (4, (1, 2, 1)), (5, (1, 3, 1)), (10, (3, 4, 3)),
                                     (100, (33, 34, 33))])
def test_thirds(c, sizes):
    n = np.random.default_rng(0).permutation(c)*3+1
    g = head_mid_tail(n)
    assert list(g) == ['head', 'mid', 'tail'] and tuple(map(len, g.values())) == sizes
    ids = np.concatenate(list(g.values()))
    assert (np.diff(n[ids]) < 0).all() and sorted(ids) == list(range(c))

def test_groups_by_size_and_ties():
    g = head_mid_tail([0, 20, 101, 100, 19, 500], (100, 20))
    assert {k: v.tolist() for k,v in g.items()} == dict(head=[5, 2], mid=[3, 1], tail=[4, 0])
    assert head_mid_tail([4, 9, 4, 4])['tail'].tolist() == [3]
    assert head_mid_tail([200, 300], (100, 20))['tail'].tolist() == []
    with pytest.warns(RobustWarning, match='all classes are of one size'): head_mid_tail([5, 5, 5])

@pytest.mark.parametrize('groups', ['third', (20, 100), (100,), 5, (100, 0)])
def test_groups_that_are_refused(groups):
    with pytest.raises(ValueError, match=r'expected `groups` as .thirds. or a pair.*Pass e.g. \(100, 20\)'):
        head_mid_tail([5, 1], groups)

def test_several_labels_an_item_have_no_sizes():
    with pytest.raises(ValueError, match='one label an item'):
        LongTailSplitter(lambda o: ['a', 'b'][:o % 2+1])(list(range(20)))
    with pytest.raises(ValueError, match='a pair'): head_mid_tail([5, 3, 1], ('a', 3))
