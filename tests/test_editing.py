"New loaders out of old ones: labels by position, parts, splits; for arrays, files, tables and weights"
import random
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.core import DataLoaders
from fastai.callback.data import weighted_dataloaders  # noqa: F401
from fastai.data.transforms import ColReader, IndexSplitter, RandomSplitter, ToTensor, get_image_files, parent_label
from fastai.tabular.core import Categorify, Normalize
from fastai.tabular.data import TabularDataLoaders
from fastai.tabular.learner import tabular_learner
from fastai.vision.data import ImageBlock
from conftest import tiny_arrays, tiny_dls, tiny_learner
from fastrobust.basics import batch_idxs
from fastrobust.data.editing import given_labels, split_items, take_items, with_labels
from fastrobust.data.holdout import hold_out
from fastrobust.noise.laws import NoisyLabels
from fastrobust.noise.block import add_label_noise
from fastrobust.stripping import strip

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    d = tmp_path_factory.mktemp('imgs')
    X,y = tiny_arrays(30)
    for i,(x,k) in enumerate(zip(X, y)):
        (d/'abc'[k]).mkdir(exist_ok=True)
        Image.fromarray(x).save(d/'abc'[k]/f'{i:02d}.png')
    return d

def files(d):
    return DataBlock((ImageBlock, CategoryBlock), get_items=get_image_files, get_y=parent_label,
                     splitter=RandomSplitter(.2, seed=1)).dataloaders(d, bs=8, num_workers=0, device='cpu')

def table():
    g = np.random.default_rng(0)
    df = pd.DataFrame(dict(u=g.normal(size=60), v=g.integers(0, 4, 60).astype(str), y=list('abc'*20)))
    return TabularDataLoaders.from_df(df, procs=[Categorify, Normalize], cat_names=['v'], cont_names=['u'], y_names='y',
                                      valid_idx=list(range(45, 60)), bs=8, device=torch.device('cpu'))

KINDS = ['arrays', 'files', 'table']
@pytest.fixture(params=KINDS)
def dls(request, folder): return dict(arrays=tiny_dls, files=lambda: files(folder), table=table)[request.param]()

def by_position(dl):
    "Position -> label, from the batches"
    got = {}
    for i,b in enumerate(dl):
        y = b[-1].flatten().tolist()
        got.update(zip(batch_idxs(dl, i, len(y)).tolist(), y))
    return got

def test_labels_are_read_and_replaced_by_position(dls):
    y = given_labels(dls)
    assert len(y) == len(dls.train_ds) and all(y[i] == k for i,k in by_position(dls.train).items())
    new_y = (y+1) % 3
    new = with_labels(dls, new_y)
    assert (given_labels(new) == new_y).all() and (given_labels(dls) == y).all()
    for _ in range(2): assert all(new_y[i] == k for i,k in by_position(new.train).items())
    assert by_position(new.valid) == by_position(dls.valid) and list(new.vocab) == list(dls.vocab)
    again = with_labels(new, y)
    assert all(y[i] == k for i,k in by_position(again.train).items())

def test_parts_keep_labels_and_validation(dls):
    y = (given_labels(dls)+1) % 3
    noisy = with_labels(dls, y)
    ids = np.array([9, 2, 17, 3, 11, 5, 20, 1, 0, 14])
    part = take_items(noisy, ids)
    assert (given_labels(part) == y[ids]).all() and all(y[ids][i] == k for i,k in by_position(part.train).items())
    assert by_position(part.valid) == by_position(dls.valid) and len(noisy.train_ds) == len(y)
    mask = np.zeros(len(y), bool); mask[ids] = True
    assert (given_labels(take_items(noisy, mask)) == y[mask]).all()

def test_splits_validate_on_given_labels(dls):
    y = (given_labels(dls)+1) % 3
    a,b = np.arange(0, 16),np.arange(16, 24)
    new = split_items(with_labels(dls, y), a, b)
    assert isinstance(new, DataLoaders) and (given_labels(new) == y[a]).all()
    assert by_position(new.valid) == dict(enumerate(y[b])) and list(new.vocab) == list(dls.vocab)
    assert len(new.train) == 16//new.train.bs and sum(len(o[-1]) for o in new.valid) == 8
    x = torch.cat([o[0] for o in new.valid]).float()
    if not hasattr(dls.train_ds, 'items') or not isinstance(dls.train_ds.items, pd.DataFrame):
        want = torch.stack([ToTensor()(dls.train_ds[int(i)][0]).float().flatten() for i in b])
        assert torch.corrcoef(torch.stack([x.flatten(), want.flatten()]))[0,1] > .99    # the same images, in order

def test_nothing_global_moves(dls):
    random.seed(3); torch.manual_seed(3); np.random.seed(3)
    before = random.getstate(),torch.get_rng_state(),np.random.get_state()[1].copy()
    y = given_labels(dls)
    take_items(with_labels(dls, y), range(10)); split_items(dls, range(8), range(8, 12))
    assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[1])
    assert (np.random.get_state()[1] == before[2]).all()

def test_the_record_of_true_labels_follows():
    dls = add_label_noise(tiny_dls(), NoisyLabels('symmetric', .5, noisy_valid='both'))
    rec = dls.noise
    y = rec.y_noisy.copy(); y[:4] = rec.y_clean[:4]
    new = with_labels(dls, y)
    assert (new.noise.y_clean == rec.y_clean).all() and (new.noise.y_noisy == y).all() and 'edited' in new.noise.kind
    assert new.noise.T is None and new.noise.valid is rec.valid and (dls.noise.y_noisy == rec.y_noisy).all()
    part = take_items(new, [5, 1, 30])
    assert (part.noise.y_clean == rec.y_clean[[5, 1, 30]]).all() and (part.noise.y_noisy == y[[5, 1, 30]]).all()
    tiny_learner(dls=part).fit(1)
    assert with_labels(dls, rec.y_noisy).noise.kind == rec.kind     # nothing edited

def test_edited_loaders_train_export_and_strip(tmp_path):
    dls = tiny_dls()
    new = take_items(with_labels(dls, (given_labels(dls)+1) % 3), range(40))
    learn = tiny_learner(dls=new, path=tmp_path)
    learn.fit(1); learn.export('m.pkl'); strip(learn).fit(1)
    assert getattr(new, 'noise', None) is None

def test_a_table_trains():
    dls = table()
    y = (given_labels(dls)+1) % 3
    learn = tabular_learner(split_items(with_labels(dls, y), range(30), range(30, 45)), layers=[8])
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    p,t = learn.get_preds()
    assert (t.flatten().numpy() == y[30:]).all() and p.shape == (15, 3)

def test_weights_of_a_weighted_loader_follow():
    base = tiny_dls()
    w = np.arange(1., 49)
    kw = dict(bs=8, device='cpu', num_workers=0, after_item=[ToTensor()])
    dls = DataLoaders(base.train_ds.weighted_dataloaders(w, **kw).train, base.valid)
    part = take_items(dls, [3, 40, 8])
    assert np.allclose(part.train.wgts, w[[3, 40, 8]]/w[[3, 40, 8]].sum())

def test_small_parts_are_not_dropped():
    new = split_items(tiny_dls(bs=16), range(5), range(5, 9))
    assert sum(len(b[-1]) for b in new.train) == 5

def test_hold_out_is_a_split(folder):
    for dls in (tiny_dls(), files(folder), table()):
        h = hold_out(dls, .25)
        assert len(h.train_ds)+len(h.valid_ds) == len(dls.train_ds) and len(h.valid_ds) == round(len(dls.train_ds)/4)

def test_errors():
    dls = tiny_dls()
    with pytest.raises(TypeError, match='DataLoaders'): given_labels(dls.train)
    with pytest.raises(ValueError, match='one label for each of the 48'): with_labels(dls, np.zeros(3, int))
    with pytest.raises(ValueError, match='lie in'): with_labels(dls, np.full(48, 3))
    with pytest.raises(ValueError, match='common items, got 2'): split_items(dls, [1, 2, 3], [2, 3, 4])
    for bad in ([], [48], [-1], [1, 1], [.5], np.ones(7, bool)):
        with pytest.raises(ValueError, match='positions|each once'): take_items(dls, bad)
    from fastai.tabular.core import TabularPandas
    df = pd.DataFrame(dict(u=np.arange(20.), y=np.arange(20.)))
    reg = TabularPandas(df, procs=[Normalize], cont_names=['u'], y_names='y', splits=[[*range(15)], [*range(15, 20)]])
    with pytest.raises(ValueError, match='single-label'): given_labels(reg.dataloaders(bs=4))

@pytest.mark.parametrize('get_y', [ColReader('y'), ColReader(1), lambda r: r['y']])
def test_missing_labels_are_named_with_the_remedy(folder, get_y):
    names = sorted(get_image_files(folder))
    df = pd.DataFrame(dict(file=names, y=[o.parent.name for o in names]), index=[f'r{i}' for i in range(30)])
    def of(df, **kw):
        return DataBlock((ImageBlock, CategoryBlock(**kw)), get_x=ColReader('file'), get_y=get_y,
                         splitter=IndexSplitter([0, 2])).dataloaders(df, bs=8, num_workers=0, device='cpu')
    bad = df.copy()
    bad.loc[['r2', 'r5', 'r6', 'r7', 'r8', 'r9', 'r29'], 'y'] = np.nan
    drop = r"\(subset=\['y'\]\)" if isinstance(get_y, ColReader) else r'\(\)'
    match = rf"training set, got 6 of 28 without one.*first rows \['r5', 'r6', 'r7', 'r8', 'r9'\].*df.dropna{drop}"
    for f in (given_labels, lambda dls: add_label_noise(dls, NoisyLabels('symmetric', .1))):
        with pytest.raises(ValueError, match=match): f(of(bad))
    assert len(given_labels(of(bad.dropna(subset=['y'])))) == 21
    with pytest.raises(ValueError, match='got 11 of 28 without one .NaN, or a class it'):
        given_labels(of(df, vocab=list('ab')))

def test_missing_labels_of_files_and_tables(folder):
    names = sorted(get_image_files(folder))
    block = DataBlock((ImageBlock, CategoryBlock(vocab=list('ab'))), get_y=parent_label, splitter=IndexSplitter([0]))
    dls = block.dataloaders(names, bs=8, num_workers=0, device='cpu')
    with pytest.raises(ValueError, match=r"first \['.*png'.*Leave these items out or give"): given_labels(dls)
    df = pd.DataFrame(dict(u=np.arange(20.), y=list('abcd'*5)))
    df.loc[[4, 6], 'y'] = None
    dls = TabularDataLoaders.from_df(df, cont_names=['u'], y_names='y', y_block=CategoryBlock(), valid_idx=[0], bs=4)
    with pytest.raises(ValueError, match=r"got 2 of 19.*rows \[4, 6\].*subset=\['y'\]"): given_labels(dls)

def test_noise_on_a_table():
    "As on images: by position, the truth kept, validation clean or noisy, the given dls untouched"
    dls = table()
    y,yv = given_labels(dls),by_position(dls.valid)
    noisy = add_label_noise(dls, NoisyLabels('symmetric', .4))
    assert (noisy.noise.y_clean == y).all() and noisy.noise.realised_rate == .4 and list(noisy.vocab) == list('abc')
    assert all(noisy.noise.y_noisy[i] == k for i,k in by_position(noisy.train).items())
    assert by_position(noisy.valid) == yv and (given_labels(dls) == y).all() and getattr(dls, 'noise', None) is None
    both = add_label_noise(dls, NoisyLabels('pair', .4, noisy_valid=True))
    assert by_position(both.valid) == dict(enumerate(both.noise.valid.y_noisy)) != yv
    with pytest.raises(ValueError, match='noisy ones'): add_label_noise(noisy, NoisyLabels('pair', .1))
    again = add_label_noise(dls, noisy.noise)
    assert (given_labels(again) == noisy.noise.y_noisy).all()
    for law in (NoisyLabels('instance', .3), NoisyLabels('open', .3, images=tiny_arrays()[0])):
        with pytest.raises(TypeError, match='a table'): add_label_noise(dls, law)
    learn = tabular_learner(noisy, layers=[8])
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    noisy.show_batch()
