"Class-incremental phases: who comes when, exact counts, loaders of a phase; arrays, folders, frames, tables, noise"
import random
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.core import DataLoaders
from fastai.data.transforms import RandomSplitter, get_image_files, parent_label
from fastai.tabular.core import Categorify, Normalize
from fastai.tabular.data import TabularDataLoaders
from fastai.vision.data import ImageBlock, ImageDataLoaders
from conftest import tiny_arrays, tiny_learner
from fastrobust.basics import RobustWarning
from fastrobust.data.editing import given_labels, take_items
from fastrobust.data.fromarrays import array_dls
from fastrobust.data.phases import class_phases
from fastrobust.data.reading import codes
from fastrobust.data.weighting import weighted_dls
from fastrobust.noise.block import add_label_noise
from fastrobust.noise.laws import NoisyLabels

NAMES = ['ant', 'bee', 'cat', 'dog', 'eel', 'fox', 'gnu']

def arrays(c=7, per=6, vocab=None, bs=4, **kwargs):
    "`per` training and 2 validation images of each class, mixed"
    y = np.arange(c*per) % c
    X = tiny_arrays(len(y))[0]
    yv = np.arange(2*c) % c
    return array_dls(X, y, valid=(tiny_arrays(len(yv))[0], yv), vocab=vocab or list('abcdefg'[:c]), bs=bs, device='cpu',
                     **kwargs)

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    d = tmp_path_factory.mktemp('imgs')
    for i,x in enumerate(tiny_arrays(70)[0]):
        (d/NAMES[i%7]).mkdir(exist_ok=True)
        Image.fromarray(x).save(d/NAMES[i%7]/f'{i:02d}.jpg')
    return d

def blocks(d):
    return DataBlock((ImageBlock, CategoryBlock), get_items=get_image_files, get_y=parent_label,
                     splitter=RandomSplitter(.2, seed=1)).dataloaders(d, bs=4, num_workers=0, device='cpu')

def frame(d):
    fs = sorted(get_image_files(d))
    df = pd.DataFrame(dict(name=[str(f.relative_to(d)) for f in fs], label=[f.parent.name for f in fs]))
    return ImageDataLoaders.from_df(df, d, valid_pct=.2, seed=1, bs=4, num_workers=0, device='cpu')

def table():
    df = pd.DataFrame(dict(u=np.arange(70.), v=list('xy'*35), y=NAMES*10))
    return TabularDataLoaders.from_df(df, procs=[Categorify, Normalize], cat_names=['v'], cont_names=['u'], y_names='y',
                                      valid_idx=list(range(49, 70)), bs=4, device=torch.device('cpu'))

KINDS = ['arrays', 'folder', 'frame', 'table', 'noisy arrays', 'noisy folder']
@pytest.fixture(params=KINDS)
def dls(request, folder):
    noisy,_,kind = request.param.rpartition(' ')
    dls = dict(arrays=arrays, folder=lambda: blocks(folder), frame=lambda: frame(folder), table=table)[kind]()
    return add_label_noise(dls, NoisyLabels('symmetric', .3, noisy_valid='both')) if noisy else dls

def pixels(ds, ids):
    if hasattr(ds, 'tls'): return [np.asarray(ds[int(i)][0]).tolist() for i in ids]
    return ds.items.iloc[ids].drop(columns=ds.y_names).to_numpy().tolist()

# --- who comes when ---------------------------------------------------------------------------------------------------
def test_sizes_and_order():
    dls = arrays(vocab=NAMES)
    p = class_phases(dls, base=2, phases=3, order='vocab')
    assert p.groups == [[0, 1], [2, 3], [4, 5], [6]] and p.n_phases == 3 and p.vocab == NAMES
    assert p.names(0) == ['ant', 'bee'] and p.names(3) == ['gnu']
    given = [6, 'ant', 'eel', 3, 'bee', 'fox', 2]
    assert class_phases(dls, .4, 2, order=given).groups == [[6, 0, 4], [3, 1], [5, 2]]
    assert class_phases(dls, ['fox', 0], 2, order='vocab').groups == [[5, 0], [1, 2, 3], [4, 6]]
    assert class_phases(dls, phases=0, order='vocab').groups == [[*range(7)]]
    assert class_phases(dls, phases=[['gnu', 1], [0]], order='vocab').groups == [[2, 3, 4, 5], [6, 1], [0]]
    assert class_phases(dls, base=[5, 4, 3, 2], phases=[['gnu', 1], [0]]).groups == [[5, 4, 3, 2], [6, 1], [0]]
    assert class_phases(dls, base=4, phases=[['gnu', 1], [0]], order='vocab').groups[0] == [2, 3, 4, 5]

@pytest.mark.parametrize('phases,want', [(7, [8]+[7]*6), (50, [1]*50), (1, [50]), (5, [10]*5), (49, [2]+[1]*48)])
def test_no_class_is_dropped(phases, want):
    y = np.arange(100)
    dls = array_dls(np.zeros((100, 4, 4), np.uint8), y, valid=(np.zeros((1, 4, 4), np.uint8), [0]), bs=4, device='cpu')
    p = class_phases(dls, phases=phases)
    assert [len(o) for o in p.groups] == [50, *want] and sorted(sum(p.groups, [])) == list(range(100))

def test_numbers_are_names_where_the_vocab_has_numbers():
    dls = arrays(c=4, vocab=[3, 2, 1, 0])
    p = class_phases(dls, base=[3], phases=[[np.int64(2)], [0, 1]])
    assert p.groups == [[0], [1], [3, 2]] and p.names(2) == [0, 1]

def test_the_seed_draws_and_nothing_global_moves():
    dls = arrays()
    random.seed(3); torch.manual_seed(3); np.random.seed(3)
    before = random.getstate(),torch.get_rng_state(),np.random.get_state()[1].copy()
    a,b,c = (class_phases(dls, 2, 3, seed=s, blurry=.5) for s in (0, 0, 1))
    a.loaders(1)
    assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[1])
    assert (np.random.get_state()[1] == before[2]).all()
    assert a.groups == b.groups != c.groups and (a.phase_of == b.phase_of).all()
    same = class_phases(dls, 2, 3, order=sum(a.groups, []), seed=0, blurry=.5)
    assert same.groups == a.groups and (same.phase_of == a.phase_of).all()

def test_phases_follow_the_given_labels(dls):
    p = class_phases(dls, 3, 2)
    y = given_labels(dls)
    for k,group in enumerate(p.groups):
        assert p.train_ids(k).tolist() == [i for i,o in enumerate(y) if o in group]
        assert p.seen(k) == sum(p.groups[:k+1], [])
    assert np.bincount(p.phase_of).sum() == len(dls.train_ds)
    yv = codes(dls.valid_ds, 'it')
    assert p.valid_ids(0).tolist() == [i for i,o in enumerate(yv) if o in p.groups[0]]
    assert len(p.valid_ids(2)) == len(dls.valid_ds) > len(p.valid_ids(0)) > 0

# --- loaders of a phase -----------------------------------------------------------------------------------------------
def test_loaders_hold_the_items_of_the_phase(dls):
    p = class_phases(dls, 3, 2)
    y,yv = given_labels(dls),codes(dls.valid_ds, 'it')
    n = len(dls.train_ds),len(dls.valid_ds)
    for k in range(3):
        d,a,b = p.loaders(k),p.train_ids(k),p.valid_ids(k)
        assert isinstance(d, DataLoaders) and list(d.vocab) == list(dls.vocab)
        assert (given_labels(d) == y[a]).all() and (codes(d.valid_ds, 'it') == yv[b]).all()
        if hasattr(dls.train_ds, 'tls'):
            assert pixels(d.train_ds, range(len(a))) == pixels(dls.train_ds, a)
            assert pixels(d.valid_ds, range(len(b))) == pixels(dls.valid_ds, b)
        got = np.concatenate([o[-1].flatten().numpy() for o in d.valid])
        assert (got == yv[b]).all()
    assert n == (len(dls.train_ds),len(dls.valid_ds)) and (given_labels(dls) == y).all()

def test_loaders_keep_their_settings(folder):
    dls = blocks(folder)
    d = class_phases(dls, 3, 2).loaders(1)
    assert d.train.bs == 4 and d.train.shuffle and d.train.drop_last and not d.valid.shuffle
    assert d.train_ds.split_idx == 0 and d.valid_ds.split_idx == 1
    assert type(d.train) is type(dls.train) and d.path == dls.path
    few = class_phases(arrays(per=1, bs=4), 3, 4).loaders(1)      # fewer than a batch
    assert sum(len(o[1]) for o in few.train) == 1
    w = np.linspace(1, 2, 42)
    d = class_phases(weighted_dls(arrays(), w), 3, 2)
    assert np.allclose(d.loaders(2).train.wgts, w[d.train_ids(2)]/w[d.train_ids(2)].sum())

def test_records_of_noise_follow():
    dls = add_label_noise(arrays(), NoisyLabels('symmetric', .3, noisy_valid='both'))
    p = class_phases(dls, 3, 2)
    d,a,b = p.loaders(1),p.train_ids(1),p.valid_ids(1)
    assert (d.noise.y_clean == dls.noise.y_clean[a]).all() and (d.noise.y_noisy == dls.noise.y_noisy[a]).all()
    assert (d.noise.valid.y_clean == dls.noise.valid.y_clean[b]).all() and d.valid_ds.noise is d.noise.valid
    assert len(dls.noise.valid) == len(dls.valid_ds) and len(dls.noise) == len(dls.train_ds)
    d.show_batch(); d.valid.show_batch()
    learn = tiny_learner(dls=d, cbs=d.noise.cbs())
    learn.fit(1)

def test_without_validation():
    base = arrays()
    dls = DataLoaders(base.train)
    p = class_phases(dls, 3, 2)
    assert len(p.valid_ids(2)) == 0 and len(p.loaders(1).loaders) == 1
    held = array_dls(np.zeros((6, 4, 4), np.uint8), list('aabbcc'), valid=(np.zeros((2, 4, 4), np.uint8), ['c', 'c']),
                     bs=2, device='cpu')
    d = class_phases(held, 1, 2, order='vocab').loaders(0)       # no validation item of class a
    assert len(d.valid_ds) == 0
    tiny_learner(dls=d).fit(1)

def test_parts_have_phases_too():
    dls = take_items(arrays(), np.arange(21))
    p = class_phases(dls, 3, 2)
    assert len(p.phase_of) == 21 and [len(p.train_ids(k)) for k in range(3)] == [9, 6, 6]

# --- items out of turn ------------------------------------------------------------------------------------------------
def test_blurry_counts_are_exact():
    dls = arrays(c=7, per=50, bs=8)
    p = class_phases(dls, 3, 4, blurry=.3)
    home = np.zeros(7, int)
    for k,group in enumerate(p.groups): home[group] = k
    away = p.phase_of != home[p.y]
    assert np.bincount(p.y[away], minlength=7).tolist() == [15]*7
    assert set(p.phase_of) == set(range(5)) and sum(len(p.train_ids(k)) for k in range(5)) == 350
    # all other phases, alike: 105 draws over four phases
    step = np.bincount((p.phase_of-home[p.y])[away] % 5, minlength=5)
    assert step[0] == 0 and step[1:].min() > 12 and step.sum() == 105
    floor = class_phases(arrays(c=2, per=100), 1, 1, blurry=.29)     # .29*100 is a hair below 29
    assert (floor.phase_of != np.array([floor.groups.index([0]), floor.groups.index([1])])[floor.y]).sum() == 58

def test_blurry_classes_are_seen_when_they_first_come():
    p = class_phases(arrays(per=30), 2, 3, order='vocab', blurry=.9)
    there = [sorted({int(o) for o in p.y[p.train_ids(k)]}) for k in range(4)]
    assert there[0] == list(range(7)) and p.seen(0) == list(range(7)) and len(p.valid_ids(0)) == 14
    q = class_phases(arrays(per=3), 2, 3, order=[6, 5, 4, 3, 2, 1, 0], seed=1, blurry=.4)
    for k in range(4):
        have = {int(o) for o in q.y[q.phase_of <= k]}
        assert set(q.seen(k)) == have and q.seen(k)[:len(q.seen(max(k-1, 0)))] == q.seen(max(k-1, 0))
        assert set(q.groups[k]) <= have
    assert q.seen(0)[:2] == [6, 5]
    lone = class_phases(arrays(per=2), 2, 3, blurry=.99)      # one of two leaves: no class without its own phase
    assert all(set(lone.groups[k]) <= set(lone.y[lone.train_ids(k)]) for k in range(4))
    with pytest.warns(RobustWarning, match='moves no item'): class_phases(arrays(per=2), 2, 3, blurry=.2)

# --- said -------------------------------------------------------------------------------------------------------------
def test_what_it_prints():
    lines = repr(class_phases(arrays(vocab=NAMES), 2, 3, order='vocab')).splitlines()
    assert lines == ['base: 2 classes, 12 items: ant, bee', 'phase 1: 2 classes, 12 items: cat, dog',
                     'phase 2: 2 classes, 12 items: eel, fox', 'phase 3: 1 classes, 6 items: gnu']
    assert repr(class_phases(arrays(vocab=NAMES), phases=0, order='vocab')).endswith('eel, fox, .. (7)')

@pytest.mark.parametrize('kw,match', [
    (dict(base=0), 'base of 1 to 6 of the 7 classes, got 0'), (dict(base=7), 'got 7'), (dict(base=-2), 'got 0'),
    (dict(base=1.), r'share in \(0,1\)'), (dict(base=.01), 'got 0'), (dict(base=.99), 'got 7'),
    (dict(base=NAMES), 'got 7'), (dict(base=[]), 'got 0'), (dict(base=float('nan')), r'share in \(0,1\)'),
    (dict(base=['ant', 'ant']), "once in `base`, got ant"), (dict(base=['foxx']), "Did you mean 'fox'"),
    (dict(base=[7]), 'vocab in `base`, got 7'), (dict(base=[['ant']]), r"got \['ant'\]"),
    (dict(base=5, phases=3), 'each of the 2 classes after a base of 5, got phases=3'),
    (dict(phases=-1), 'from 0 on'), (dict(phases=1.5), 'whole number'), (dict(phases=True), 'whole number'),
    (dict(phases='abc'), 'whole number'), (dict(phases=[['ant'], []]), r'none in phases\[1\]'),
    (dict(phases=[['ant'], ['bee', 'ant']]), 'once in `phases`, got ant'), (dict(phases=[['bea']]), "mean 'bee'"),
    (dict(phases=[NAMES]), 'got all 7 in `phases`'), (dict(base=3, phases=[['ant']]), '6 classes that `phases` leaves'),
    (dict(base=NAMES[:2], phases=[NAMES[2:6]]), 'without gnu'), (dict(base=NAMES[:2], phases=[NAMES[1:]]), 'got bee'),
    (dict(base=3, phases=0), 'leaves, got 3'), (dict(base=NAMES[:6], phases=0), 'without gnu'),
    (dict(order='alphabet'), "'vocab' or a list"), (dict(order=NAMES[:6]), 'all 7 classes in `order`, got 6'),
    (dict(order=[*NAMES, 'ant']), 'once in `order`'), (dict(seed=-1), '`seed`'),
    (dict(blurry=1.), r'in \[0,1\)'), (dict(blurry=-.1), r'in \[0,1\)'),
    (dict(blurry=.1, phases=0), 'blurry=0.1 with none'),
])
def test_refused(kw, match):
    with pytest.raises(ValueError, match=match): class_phases(arrays(vocab=NAMES), **{'phases': 2, **kw})

@pytest.mark.parametrize('kw', [dict(base='ant'), dict(base=True), dict(base=None), dict(phases=['ant', 'bee']),
                                dict(blurry='a'), dict(order=3)])
def test_wrong_types(kw):
    with pytest.raises(TypeError): class_phases(arrays(vocab=NAMES), **{'phases': 2, **kw})

def test_refused_data():
    X,y = tiny_arrays(40, 3)
    empty = array_dls(X, y, valid=.2, vocab=[0, 1, 2, 8, 9], bs=4, device='cpu')
    with pytest.raises(ValueError, match='none of 8, 9'): class_phases(empty)
    with pytest.raises(TypeError, match='DataLoaders'): class_phases(empty.train)
    p = class_phases(arrays(), 2, 3)
    for bad in (-1, 4, 1.):
        with pytest.raises(ValueError, match='`k` must be a whole number from 0 to 3'): p.loaders(bad)

def test_labels_are_read_without_opening_images(folder, monkeypatch):
    dls = blocks(folder)
    def opened(*_, **__): raise AssertionError('an image was opened')
    monkeypatch.setattr(Image, 'open', opened)
    p = class_phases(dls, 3, 2)
    p.loaders(1)
    with pytest.raises(AssertionError, match='was opened'): dls.train_ds[0]
