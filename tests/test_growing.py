"Loaders with a longer vocab, seen by everything that encodes, decodes and shows; items of a folder of classes"
import pickle, shutil
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from fastai.data.block import CategoryBlock, DataBlock, MultiCategoryBlock
from fastai.data.core import DataLoaders
from fastai.data.transforms import RandomSplitter, ToTensor, get_image_files, parent_label
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.tabular.data import TabularDataLoaders
from fastai.vision.core import PILImage
from fastai.vision.data import ImageBlock
from conftest import tiny_arrays, tiny_dls
from fastrobust.basics import RobustWarning
from fastrobust.data.arrays import ArrayDL
from fastrobust.data.editing import given_labels, take_items, with_labels
from fastrobust.data.fromarrays import array_dls
from fastrobust.data.growing import folder_items, with_vocab
from fastrobust.data.reading import codes
from fastrobust.data.weighting import weighted_dls
from fastrobust.noise.block import add_label_noise
from fastrobust.noise.laws import NoisyLabels
from fastrobust.noise.record import NoiseRecord

def save(d, names, n=3):
    for k,name in enumerate(names):
        (d/name).mkdir(parents=True, exist_ok=True)
        for i,x in enumerate(tiny_arrays(n, channels=3, seed=k)[0]): Image.fromarray(x).save(d/name/f'{i}.jpg')
    return d

@pytest.fixture(scope='module')
def folder(tmp_path_factory): return save(tmp_path_factory.mktemp('imgs'), 'abc', 6)

@pytest.fixture(scope='module')
def newer(tmp_path_factory): return save(tmp_path_factory.mktemp('more'), 'de')

def files(d, **kwargs):
    return DataBlock((ImageBlock, CategoryBlock(**kwargs)), get_items=get_image_files, get_y=parent_label,
                     splitter=RandomSplitter(.3, seed=1)).dataloaders(d, bs=4, num_workers=0, device='cpu')

def arrays(vocab=None):
    X,codes = tiny_arrays(24)
    codes[:3] = 0,1,2
    return array_dls(X, codes, valid=(X[:12], codes[:12]), vocab=vocab, bs=4, device='cpu')

class Always(nn.Module):
    "Predicts class `k` of `c`"
    def __init__(self, k, c):
        super().__init__()
        self.k,self.c = k,c
        self.w = nn.Parameter(torch.zeros(1))
    def forward(self, x): return nn.functional.one_hot(torch.full((len(x),), self.k), self.c)*9.+self.w

def learner(dls, k, c, **kwargs):
    learn = Learner(dls, Always(k, c), loss_func=CrossEntropyLossFlat(), **kwargs)
    learn.remove_cb(learn.progress)
    return learn

KINDS = ['arrays', 'numbers', 'files', 'noisy', 'noisy files', 'open', 'weighted', 'part']
@pytest.fixture(params=KINDS)
def dls(request, folder):
    law = NoisyLabels('symmetric', .4, noisy_valid='both')
    names = dict(vocab=['a', 'b', 'c'])
    return dict(
        arrays=lambda: arrays(**names), numbers=arrays, files=lambda: files(folder),
        noisy=lambda: add_label_noise(arrays(**names), law),
        open=lambda: add_label_noise(arrays(**names), NoisyLabels('open', .4, images=tiny_arrays(9, seed=5)[0])),
        weighted=lambda: weighted_dls(arrays(**names), 'balanced'), part=lambda: take_items(arrays(**names), range(9)),
        **{'noisy files': lambda: add_label_noise(files(folder), law)})[request.param]()

def more(dls): return [3, 4] if isinstance(dls.vocab[0], int) else ['d', 'e']

# --- with_vocab -------------------------------------------------------------------------------------------------------
def test_all_see_the_new_classes_and_the_old_object_none(dls):
    old,y,yv = list(dls.vocab),given_labels(dls),codes(dls.valid_ds, 'it')
    want = [*old, *more(dls)]
    new = with_vocab(dls, want)
    for o in (new, new.train, new.valid, new.train_ds, new.valid_ds, new.train_ds.tls[-1]):
        assert list(o.vocab) == want and o.c == 5
    for o in (new.train_ds, *new.train_ds.tls): assert o.dataloaders.__self__ is o
    if type(dls.train) is ArrayDL:
        assert list(new.train_ds.dataloaders(bs=2, num_workers=0, after_item=[ToTensor()]).vocab) == want
    assert (given_labels(new) == y).all() and (codes(new.valid_ds, 'it') == yv).all()
    assert type(new.train) is type(dls.train) and type(new.train_ds) is type(dls.train_ds)
    b = new.one_batch()
    shown = new.decode_batch((b[0][:2], torch.tensor([0, 4])))
    assert [str(o[1]) for o in shown] == [str(old[0]), str(want[4])]
    for o in (dls, dls.train, dls.valid, dls.train_ds, dls.valid_ds, dls.train_ds.tls[-1]):
        assert list(o.vocab) == old and o.c == 3
    with pytest.raises(KeyError): dls.train_ds.tls[-1].tfms.fs[-1](want[4])
    assert list(with_vocab(new, [*want, more(dls)[1]*2]).vocab)[5] == more(dls)[1]*2
    assert list(with_vocab(dls, old).vocab) == old

def test_items_and_batches_are_the_same(dls):
    new = with_vocab(dls, [*dls.vocab, *more(dls)])
    for i in (0, 3):
        assert np.array_equal(np.asarray(new.train_ds[i][0]), np.asarray(dls.train_ds[i][0]))
    for a,b in zip(new.valid, dls.valid):
        assert torch.equal(torch.as_tensor(a[0]), torch.as_tensor(b[0])) and torch.equal(a[1], b[1])
    for tls,i in ((new.train_ds.tls, 0), (new.valid_ds.tls, 1)): assert [o.tfms.split_idx for o in tls] == [i, i]
    if isinstance(dls.train, ArrayDL): assert new.train._whole() == dls.train._whole()
    new.train.after_batch.fs.clear()
    assert len(dls.train.after_batch.fs)

def test_it_is_shown_predicted_and_pickled(dls):
    want = [*dls.vocab, *more(dls)]
    new = with_vocab(dls, want)
    new = pickle.loads(pickle.dumps(new))
    learn = learner(new, 4, 5)
    new.show_batch(); learn.show_results()
    with learn.no_bar(), learn.no_logging():
        item = new.train_ds.items[0]
        name,code,p = learn.predict(item[0] if isinstance(item, tuple) else item)
    assert name == str(want[4]) and code == 4 and p.shape == (5,)

def test_test_loaders_take_new_names(newer, folder):
    new = with_vocab(files(folder), list('abcde'))
    fs,names = folder_items(newer)
    dl = new.test_dl(fs, with_labels=True)
    assert torch.cat([b[1] for b in dl]).tolist() == ['abcde'.index(o) for o in names] == [3]*3+[4]*3
    assert len(new.test_dl(fs).one_batch()) == 1
    X = tiny_arrays(2)[0]
    for vocab,y in ((list('abcde'), 'ed'), (range(5), [4, 3])):
        new = with_vocab(arrays(vocab[:3]), vocab)
        assert new.test_dl(list(zip(X, y)), with_labels=True).one_batch()[1].tolist() == [4, 3]

def test_labels_may_become_new_ones():
    new = with_vocab(arrays(vocab=list('abc')), list('abcde'))
    y = np.arange(24) % 5
    again = with_labels(new, y)
    assert (given_labels(again) == y).all() and [again.train_ds.items[i][1] for i in range(5)] == list('abcde')

@pytest.mark.parametrize('kind', ['arrays', 'files', 'noisy'])
def test_after_load_learner(kind, folder, newer, tmp_path):
    dls = files(folder) if kind == 'files' else arrays(vocab=list('abc'))
    if kind == 'noisy': dls = add_label_noise(dls, NoisyLabels('symmetric', .4))
    learn = learner(dls, 4, 5, path=tmp_path)
    learn.export('m.pkl')
    learn = load_learner(tmp_path/'m.pkl')
    empty = learn.dls
    learn.dls = with_vocab(empty, list('abcde'))
    assert list(learn.dls.vocab) == list('abcde') and learn.dls.c == 5 and list(empty.vocab) == list('abc')
    if kind == 'files': items = folder_items(newer)[0][2:4]
    else: items = list(zip(tiny_arrays(2)[0], 'de'))
    dl = learn.dls.test_dl(items, with_labels=True, num_workers=0)
    assert dl.one_batch()[1].tolist() == [3, 4]
    with learn.no_bar(), learn.no_logging():
        assert learn.predict(items[0] if kind == 'files' else items[0][0])[0] == 'e'
    learn.export('n.pkl')
    assert list(load_learner(tmp_path/'n.pkl').dls.vocab) == list('abcde')

def test_records_of_noise_know_the_new_classes():
    dls = add_label_noise(arrays(vocab=list('abc')), NoisyLabels('symmetric', .4, noisy_valid='both'))
    new = with_vocab(dls, list('abcde'))
    assert isinstance(new.noise, NoiseRecord) and new.noise.n_classes == 5 == new.train_ds.noise.valid.n_classes
    assert np.allclose(new.noise.T[:3,:3], dls.noise.T) and (new.noise.T[3:] == np.eye(5)[3:]).all()
    assert new.noise.vocab == list('abcde') and dls.noise.vocab == list('abc') and dls.noise.T.shape == (3, 3)
    assert (new.noise.y_noisy == dls.noise.y_noisy).all() and new.noise.counts.shape == (5, 5)
    new.show_batch(); dls.show_batch()

def test_other_loaders_and_settings(folder):
    dls = files(folder)
    images = dls.test_dl(get_image_files(folder)[:3])
    three = DataLoaders(dls.train, dls.valid, images)
    three.c = 3
    new = with_vocab(three, list('abcd'))
    assert new.c == 4 and three.c == 3 and new.loaders[2] is images
    na = with_vocab(files(folder, add_na=True), ['#na#', *'abcd'])
    cat = na.train_ds.tls[-1].tfms.fs[-1]
    assert cat('d') == 4 and cat('unheard of') == 0
    assert len(with_vocab(DataLoaders(dls.train), list('abcd')).loaders) == 1

@pytest.mark.parametrize('vocab,match', [
    (list('ab'), r"got \[\] at 2 instead of 'c'"), (list('acbd'), r"got \['c'\] at 1 instead of 'b'"),
    (['d', *'abc'], 'starts with the 3 classes'), (list('abcdd'), r"\['d'\] more than once"),
    (list('abca'), r"\['a'\] more than once")])
def test_refused(vocab, match):
    with pytest.raises(ValueError, match=match): with_vocab(arrays(vocab=list('abc')), vocab)

def test_refused_kinds(folder):
    for vocab in ([*'abc', 3], [*'abc', None], [*'abc', ('d', 'e')]):
        with pytest.raises(TypeError, match='type of the old ones'): with_vocab(arrays(vocab=list('abc')), vocab)
    with pytest.raises(TypeError, match='type of the old ones'): with_vocab(arrays(), [0, 1, 2, 'd'])
    with pytest.raises(TypeError, match='DataLoaders'): with_vocab(arrays().train, [0])
    df = pd.DataFrame(dict(u=np.arange(8.), y=list('ab'*4)))
    table = TabularDataLoaders.from_df(df, cont_names=['u'], y_names='y', valid_idx=[6, 7], bs=2)
    with pytest.raises(TypeError, match='fastai `Datasets`'): with_vocab(table, list('abc'))
    multi = DataBlock((ImageBlock, MultiCategoryBlock), get_items=get_image_files, get_y=lambda o: [parent_label(o)]
                      ).dataloaders(folder, bs=2, num_workers=0)
    with pytest.raises(ValueError, match='single-label'): with_vocab(multi, list('abcd'))
    a,b = tiny_dls(c=3),tiny_dls(c=4)
    with pytest.raises(ValueError, match='one vocab in all'): with_vocab(DataLoaders(a.train, b.valid), range(5))

# --- folder_items -----------------------------------------------------------------------------------------------------
def test_files_and_names(tmp_path):
    save(tmp_path, ['dog', 'cat'], 12)
    (tmp_path/'cat'/'notes.txt').write_text('x')
    (tmp_path/'.cache').mkdir()
    fs,names = folder_items(str(tmp_path))
    assert names == ['cat']*12+['dog']*12
    assert [str(f.relative_to(tmp_path)) for f in fs] == [f'{k}/{i}.jpg' for k in ('cat', 'dog')
                                                     for i in sorted(map(str, range(12)))]
    assert PILImage.create(fs[0]).size == (8, 8)

def test_empty_class_folders_are_named(tmp_path):
    save(tmp_path, ['dog'])
    (tmp_path/'bird').mkdir()
    with pytest.warns(RobustWarning, match='no images in bird'): assert folder_items(tmp_path)[1] == ['dog']*3

def test_folders_refused(tmp_path):
    with pytest.raises(ValueError, match='does not exist'): folder_items(tmp_path/'x')
    with pytest.raises(ValueError, match='none in 0 folders'): folder_items(tmp_path)
    save(tmp_path, ['dog'])
    with pytest.raises(ValueError, match='in none, first 0.jpg'): folder_items(tmp_path/'dog')
    with pytest.raises(ValueError, match='a file'): folder_items(tmp_path/'dog'/'0.jpg')
    save(tmp_path/'train', ['cat'])
    with pytest.raises(ValueError, match=r"inside of the class folders, got 'train.cat.0.jpg' \(3 such\)"):
        folder_items(tmp_path)
    (tmp_path/'dog'/'0.jpg').rename(tmp_path/'loose.jpg')
    with pytest.raises(ValueError, match='got 1 in none, first loose.jpg'): folder_items(tmp_path)
    (tmp_path/'loose.jpg').unlink()
    shutil.rmtree(tmp_path/'train')
    (tmp_path/'dog'/'5.jpg').write_bytes(b'no image')
    with pytest.raises(ValueError, match='1 of 3 that cannot, first .*5.jpg'): folder_items(tmp_path)
