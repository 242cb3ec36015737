"strip on loaders of every kind keeps the labels that were given"
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from fastai.callback.data import WeightedDL
from fastai.data.core import DataLoaders
from fastai.data.transforms import ToTensor
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.vision.data import ImageDataLoaders
from conftest import tiny_dls, tiny_learner
from fastrobust.basics import RobustWarning
from fastrobust.data.holdout import hold_out
from fastrobust.noise.laws import NoisyLabels
from fastrobust.noise.block import add_label_noise
from fastrobust.stripping import strip
from fastrobust.techniques.logitclip import LogitClip

def folder(path, n=20):
    g = np.random.default_rng(0)
    for c in 'abc':
        (path/c).mkdir()
        for i in range(n): Image.fromarray(g.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path/c/f'{i}.png')
    return ImageDataLoaders.from_folder(path, valid_pct=.2, seed=0, bs=8, num_workers=0, device='cpu')

def labels(dls): return [int(dls.train_ds[i][1]) for i in range(len(dls.train_ds))]
def net(): return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 3))

def test_given_labels_stay_given_on_folders(tmp_path):
    dls = add_label_noise(folder(tmp_path), NoisyLabels('symmetric', .4))
    learn = Learner(dls, net(), loss_func=CrossEntropyLossFlat(), cbs=LogitClip(1.), path=tmp_path)
    s = strip(learn)
    assert labels(s.dls) == dls.noise.y_noisy.tolist() != dls.noise.y_clean.tolist()
    parts = [type(o) for o in (s.dls.train_ds, *s.dls.train_ds.tls)]
    assert not [m for m in parts if m.__module__.startswith('fastrobust')]
    with s.no_bar(), s.no_logging(): s.fit(1)
    img = sorted((tmp_path/'a').iterdir())[0]
    with s.no_bar(): assert s.predict(img)[0] in 'abc'

def test_given_labels_stay_given_on_arrays():
    dls = add_label_noise(tiny_dls(), NoisyLabels('symmetric', .5))
    assert labels(strip(tiny_learner(LogitClip(1.), dls=dls)).dls) == dls.noise.y_noisy.tolist()

def test_loaders_of_torch_are_kept():
    ds = [(torch.rand(3, 8, 8), i % 3) for i in range(12)]
    dl = torch.utils.data.DataLoader(ds, batch_size=4)
    dls = DataLoaders(dl, dl)
    dls.c = 3
    learn = Learner(dls, net(), loss_func=CrossEntropyLossFlat(), cbs=LogitClip(1.))
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert strip(learn).dls.train is dl

def test_wrong_arguments():
    with pytest.raises(TypeError, match='expected a fastai Learner, got a Sequential'): strip(net())
    with pytest.raises(ValueError, match="'a' or 'b'"): strip(tiny_learner(), 'c')

def test_hold_out_keeps_the_weights_of_a_sampler(tmp_path):
    dls = folder(tmp_path)
    n = len(dls.train_ds)
    w = np.arange(1., n+1)
    train = WeightedDL(dls.train_ds, wgts=w, bs=8, device='cpu', after_item=[ToTensor()])
    held = hold_out(DataLoaders(train, dls.valid), .25, seed=1)
    kept = np.sort(np.random.default_rng(1).permutation(n)[round(n*.25):])
    assert np.allclose(held.train.wgts, w[kept]/w[kept].sum())

def test_sample_weights_of_array_loaders_are_lost_aloud():
    learn = tiny_learner(LogitClip(1.))
    learn.dls.train.wgts = np.ones(48)
    with pytest.warns(RobustWarning, match='sample weights stay behind'): strip(learn)
