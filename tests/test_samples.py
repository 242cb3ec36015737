"The embedded images: what is in them, and that they are one's own to change"
from importlib.resources import files
import numpy as np
import pytest
import torch

from fastai.torch_core import set_seed
from fastrobust.data.arrays import ArrayDL
from fastrobust.samples import sample_data, sample_dls

def test_fashion():
    X,y,Xv,yv,vocab = sample_data()
    assert X.shape == (4000, 28, 28) and Xv.shape == (1000, 28, 28) and X.dtype == Xv.dtype == np.uint8
    assert y.dtype == yv.dtype == np.int64
    assert np.bincount(y).tolist() == [400]*10 and np.bincount(yv).tolist() == [100]*10
    assert y[:8].tolist() == [5, 8, 3, 4, 9, 4, 8, 0] and yv[:8].tolist() == [9, 1, 0, 5, 7, 2, 2, 8]
    assert X.sum(dtype=np.int64) == 228866887 and Xv.sum(dtype=np.int64) == 57650451
    assert vocab[0] == 'T-shirt/top' and vocab[9] == 'Ankle boot' and len(set(vocab)) == 10

def test_labels_belong_to_the_images():
    X,y,Xv,yv,_ = sample_data()
    means = np.stack([X[y == k].mean(0) for k in range(10)]).reshape(10, -1)
    d = ((Xv.reshape(1000, 1, -1)-means)**2).sum(-1)
    assert (d.argmin(1) == yv).mean() > .6              # nearest class mean; labels out of step give .1

def test_no_image_is_in_both_parts():
    X,_,Xv,_,_ = sample_data()
    assert not {o.tobytes() for o in X} & {o.tobytes() for o in Xv}
    assert len({o.tobytes() for o in X}) > 3990

def test_quickdraw_is_split_by_class():
    X,y,Xv,yv,vocab = sample_data('quickdraw')
    assert X.shape == Xv.shape == (500, 28, 28) and X.dtype == np.uint8 and len(vocab) == 10 and vocab[0] == 'airplane'
    assert set(y) == {0, 1, 2, 3, 4} and set(yv) == {5, 6, 7, 8, 9} and not set(y) & set(yv)
    assert np.bincount(y).tolist() == [100]*5 and np.bincount(yv)[5:].tolist() == [100]*5
    assert X.sum(dtype=np.int64) == 14814347 and Xv.sum(dtype=np.int64) == 14629580
    assert not {o.tobytes() for o in X} & {o.tobytes() for o in Xv}

@pytest.mark.parametrize('name', ['fashion', 'quickdraw'])
def test_the_cache_cannot_be_corrupted(name):
    before = [np.copy(o) for o in sample_data(name)[:4]]
    got = sample_data(name)
    for o in got[:4]: o[:] = 7
    got[4].append('x')
    after = sample_data(name)
    assert all(np.array_equal(a, b) for a,b in zip(before, after)) and len(after[4]) == 10

@pytest.mark.parametrize('name,near', [('fashon', 'fashion'), ('quick-draw', 'quickdraw')])
def test_unknown_name(name, near):
    with pytest.raises(ValueError, match=f"got '{name}'.*Did you mean '{near}'"): sample_data(name)
    with pytest.raises(ValueError, match='Known: fashion, quickdraw'): sample_data(None)

def test_sample_dls():
    set_seed(0)
    dls = sample_dls(bs=100, normalize=False, shuffle=False)
    X,y,Xv,yv,vocab = sample_data()
    x,t = dls.one_batch()
    assert isinstance(dls.train, ArrayDL) and list(dls.vocab) == vocab
    assert len(dls.train_ds) == 4000 and len(dls.valid_ds) == 1000
    assert np.array_equal((x[:, 0]*255).round().numpy().astype(np.uint8), X[:100]) and t.tolist() == y[:100].tolist()
    assert torch.cat([b[1] for b in dls.valid]).tolist() == yv.tolist()

def test_sample_dls_with_noise():
    from fastrobust.noise.laws import NoisyLabels
    dls = sample_dls(NoisyLabels('symmetric', .4, seed=1), shuffle=False)
    _,y,_,yv,_ = sample_data()
    given = torch.cat([b[1] for b in dls.train]).numpy()
    assert np.array_equal(dls.noise.y_clean, y) and np.array_equal(given, dls.noise.y_noisy)
    assert (given != y).mean() == pytest.approx(.4, abs=.03) and dls.train._whole()
    assert torch.cat([b[1] for b in dls.valid]).tolist() == yv.tolist()
    assert torch.cat([b[1] for b in sample_dls(shuffle=False).train]).tolist() == y.tolist()

def test_licences_are_beside_the_files():
    d = files('fastrobust.data')/'files'
    assert 'Copyright (c) 2017 Zalando SE' in (d/'LICENSE-fashion-mnist.txt').read_text()
    assert 'CC BY 4.0' in (d/'CREDITS.md').read_text() and 'Google' in (d/'CREDITS.md').read_text()
