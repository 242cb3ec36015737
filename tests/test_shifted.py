"Predictions on changed images: fastai's own where nothing is changed, and nothing moves but the pixels"
import random
import numpy as np, pytest, torch
from PIL import Image
from torch import nn
from fastai.callback.core import Callback
from fastai.callback.fp16 import MixedPrecision
from fastai.data.block import CategoryBlock, DataBlock, MultiCategoryBlock, RegressionBlock
from fastai.data.load import DataLoader
from fastai.data.transforms import GrandparentSplitter, Normalize, get_image_files, parent_label
from fastai.imports import noop
from fastai.learner import Learner
from fastai.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat
from fastai.torch_core import TensorImage, get_random_states, to_cpu
from fastai.vision.augment import RandomErasing, RandomResizedCrop, aug_transforms
from fastai.vision.core import PILImage
from fastai.vision.data import ImageBlock
from fasttransform import Transform
from fastrobust.basics import RobustWarning
from fastrobust.data.fromarrays import array_dls
from fastrobust.nets import small_cnn
from fastrobust.inference.passes import passes, shifted_preds
from fastrobust.techniques.augmix import AugMix
from conftest import MiniAux, MiniTwin, Raise, tiny_arrays, tiny_dls, tiny_learner

def negative(x, _ids=None): return ((1-x)*255).round()/255       # exact on the 256 levels

def same_as_get_preds(learn, dl=None):
    "Clean pass against fastai's own; both before and after, as get_preds may move something"
    z,y = shifted_preds(learn, dl)
    p,t = learn.get_preds(dl=dl, act=noop)
    assert type(z) is torch.Tensor and type(y) is torch.Tensor and z.dtype == torch.float32 and y.dtype == torch.int64
    assert torch.equal(z, to_cpu(p)) and torch.equal(y, t.as_subclass(torch.Tensor).long()) and z.std() > 0
    return z,y

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Colour files, PNG, not square: train/valid x a/b; beside them the same, negative"
    root = tmp_path_factory.mktemp('files')
    rng = np.random.default_rng(0)
    for split in ('train', 'valid'):
        for i in range(14):
            a = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            for where,b in (('plain', a), ('negative', 255-a)):
                d = root/where/split/'ab'[i%2]
                d.mkdir(parents=True, exist_ok=True)
                Image.fromarray(b).save(d/f'{i:02}.png')
    return root

def file_learner(root, workers=0, item_tfms=None, batch_tfms=None, n=3, bs=4):
    block = DataBlock((ImageBlock, CategoryBlock), get_items=lambda p: sorted(get_image_files(p)), get_y=parent_label,
                      splitter=GrandparentSplitter(), item_tfms=item_tfms, batch_tfms=batch_tfms)
    dls = block.dataloaders(root, bs=bs, num_workers=workers, device='cpu')
    torch.manual_seed(0)
    learn = Learner(dls, small_cnn(2, n, width=8, depth=2), loss_func=CrossEntropyLossFlat())
    learn.remove_cb(learn.progress)
    return learn

# --- equal to get_preds ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('normalize', [True, False])
def test_clean_is_get_preds_on_arrays(channels, normalize):
    learn = tiny_learner(dls=tiny_dls(channels=channels, normalize=normalize), norm='bn')
    learn.fit(1)
    z,y = same_as_get_preds(learn)
    assert z.shape == (24, 3) and y.tolist() == learn.dls.valid_ds.items.y.tolist()
    X,t = tiny_arrays(21, channels=channels, seed=5)
    same_as_get_preds(learn, learn.dls.test_dl([(x, int(k)) for x,k in zip(X, t)], with_labels=True))

@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('norm', [True, False])
def test_clean_is_get_preds_on_files(folder, workers, norm):
    tfms = aug_transforms(size=8) + ([Normalize.from_stats([.5]*3, [.2]*3, cuda=False)] if norm else [])
    learn = file_learner(folder/'plain', workers, RandomResizedCrop(10), tfms)
    same_as_get_preds(learn)
    same_as_get_preds(learn, learn.dls.test_dl(sorted(get_image_files(folder/'plain'/'valid')), with_labels=True))

@pytest.mark.parametrize('cbs', [MiniTwin, MiniAux, AugMix])
def test_clean_is_get_preds_with_techniques(cbs):
    learn = tiny_learner(cbs())
    learn.fit(1)
    same_as_get_preds(learn)

@pytest.mark.parametrize('to', ['to_fp16', 'to_bf16'])
def test_clean_is_get_preds_in_mixed_precision(to):
    learn = getattr(tiny_learner(), to)()
    same_as_get_preds(learn)
    cb = next(cb for cb in learn.cbs if isinstance(cb, MixedPrecision))
    assert cb.autocast is None

def test_autocast_is_entered_where_there_is_cuda_and_not_around_the_change(monkeypatch):
    "Without a GPU: the precision that is asked of torch, and when"
    inside,asked = [],[]
    class Fake:
        def __init__(self, device, dtype): asked.append((device, dtype))
        def __enter__(self): inside.append(1)
        def __exit__(self, *a): inside.pop()
    import fastrobust.inference.passes as m
    monkeypatch.setattr(m.torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(m.torch, 'autocast', Fake)
    learn = tiny_learner(cbs=MixedPrecision('bf16'))
    seen = []
    learn.model.register_forward_hook(lambda *a: seen.append(len(inside)))
    logits = lambda: m.AtRest(learn).logits(torch.rand(2, 1, 8, 8))
    z = logits()
    learn.remove_cb(MixedPrecision); learn.add_cb(MixedPrecision('fp16'))
    logits()
    assert seen == [1, 1] and not inside and z.dtype == torch.float32
    assert asked == [('cuda', torch.bfloat16), ('cuda', torch.float16)]
    learn.remove_cb(MixedPrecision)
    logits()
    assert len(asked) == 2

def test_training_set_without_augmentation_or_shuffling():
    dls = tiny_dls(batch_tfms=aug_transforms())
    learn = tiny_learner(dls=dls)
    it = dls.train_ds.items
    plain = dls.valid.new(array_dls(it.x, it.y, valid=(it.x, it.y), vocab=it.vocab, device='cpu').valid_ds)
    p,t = learn.get_preds(dl=plain, act=noop)
    z,y = shifted_preds(learn, dls.train)
    assert len(z) == 48 and torch.equal(z, to_cpu(p)) and torch.equal(y, torch.as_tensor(it.y))
    assert dls.train_ds.split_idx == 0

@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('to', [None, 'to_fp16', 'to_bf16'])
def test_clean_is_get_preds_on_a_gpu(to):
    X,y = tiny_arrays(24, channels=3)
    dls = array_dls(X, y, valid=(X, y), bs=16, vocab=[0, 1, 2], device='cuda')
    learn = Learner(dls, small_cnn(3, 3, width=8, depth=2), loss_func=CrossEntropyLossFlat())
    learn.remove_cb(learn.progress)
    if to: getattr(learn, to)()
    same_as_get_preds(learn)
    seen = []
    shifted_preds(learn, None, lambda x, ids: seen.append((x.device.type, x.dtype, torch.is_autocast_enabled())) or x)
    assert set(seen) == {('cuda', torch.float32, False)}

# --- a known change --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('normalize', [True, False])
def test_change_is_that_of_images_changed_beforehand(channels, normalize):
    dls = tiny_dls(channels=channels, normalize=normalize)
    learn = tiny_learner(dls=dls)
    it,u8 = dls.valid_ds.items,[]
    other = learn.dls.test_dl([(255-x, y) for x,y in it], with_labels=True)
    p,t = learn.get_preds(dl=other, act=noop)
    def change(x, _ids):
        u8.append((x*255).round().byte()); assert x.dtype == torch.float32 and type(x) is torch.Tensor
        return negative(x)
    z,y = shifted_preds(learn, None, change)
    assert torch.equal(z, to_cpu(p)) and torch.equal(torch.cat(u8), it.x)
    assert not torch.equal(z, shifted_preds(learn)[0])

def test_change_on_files(folder):
    tfms = [Normalize.from_stats([.4]*3, [.3]*3, cuda=False)]
    learn = file_learner(folder/'plain', 2, None, tfms)
    p,_ = file_learner(folder/'negative', 0, None, tfms).get_preds(act=noop)
    assert torch.equal(shifted_preds(learn, None, negative)[0], to_cpu(p))

def test_ids_are_positions_whatever_the_batches():
    learn,seen = tiny_learner(),[]
    def change(x, ids): seen.append(ids); return x
    shifted_preds(learn, learn.dls.valid.new(bs=7, shuffle=True, drop_last=True), change)
    assert [len(o) for o in seen] == [7, 7, 7, 3] and torch.cat(seen).tolist() == list(range(24))
    assert seen[0].dtype == torch.int64
    by_id = lambda x, ids: (x*(1+ids.view(-1, 1, 1, 1))/30).clamp(0, 1)
    a,b = (shifted_preds(learn, learn.dls.valid.new(bs=k), by_id)[0] for k in (5, 24))
    torch.testing.assert_close(a, b)

def test_several_changes_in_one_pass(folder):
    ticks,loads = [],[]
    def count(x:PILImage): loads.append(1); return x
    learn = file_learner(folder/'plain', 0, count)
    loads.clear()
    changes = [None, negative, lambda x, ids: x*.5]
    (a,b,c),y = passes(learn, None, changes, 'me', lambda: ticks.append(1))
    assert len(ticks) == 3*4 and len(loads) == 14       # each file is read once
    for z,change in zip((a, b, c), changes): assert torch.equal(z, shifted_preds(learn, None, change)[0])

def test_the_first_of_two_normalizes_and_what_follows_it():
    "Pixels are pixels before the first; later transforms of the batch still run, those of training alone do not"
    class Plus(Transform):
        order = 200
        def encodes(self, x:TensorImage): return x+1
    two = [Normalize.from_stats([m], [s], cuda=False) for m,s in ((.1, 2.), (1., .5))]
    dls = tiny_dls(batch_tfms=[*two, RandomErasing(p=1., max_count=5), Plus()])
    learn = tiny_learner(dls=dls)
    same_as_get_preds(learn)
    z,_ = shifted_preds(learn, None, lambda x, ids: torch.full_like(x, .5))
    with torch.no_grad(): want = learn.model.eval()(torch.full((1, 1, 8, 8), ((.5-.1)/2-1)/.5+1))
    torch.testing.assert_close(z, want.expand_as(z), atol=1e-6, rtol=1e-5)

# --- nothing moves ---------------------------------------------------------------------------------------------------
def snapshot(learn):
    s = get_random_states()
    rec = learn.recorder
    return dict(random=s['random_state'], numpy=s['numpy_state'][1].tolist(), torch=s['torch_state'].tolist(),
                modes=[m.training for m in learn.model.modules()], cbs=[id(cb) for cb in learn.cbs],
                state={k: v.tolist() for k,v in learn.model.state_dict().items()}, values=[list(v) for v in rec.values],
                losses=[float(o) for o in rec.losses], log=list(rec.log), rngs=[dl.rng.getstate() for dl in learn.dls],
                fs=[[id(f) for f in dl.after_batch.fs] for dl in learn.dls], grad=torch.is_grad_enabled(),
                split=[(dl.dataset.split_idx, dl.after_batch.split_idx) for dl in learn.dls], attrs=sorted(vars(learn)),
                loss=id(learn.loss_func), dls=[id(o) for o in learn.dls.loaders], opt=id(learn.opt))

class Stop(Exception): pass

@pytest.mark.parametrize('which', ['train', 'valid', 'test'])
@pytest.mark.parametrize('error', [None, KeyboardInterrupt, Stop])
def test_everything_is_left_as_it_was(which, error):
    learn = tiny_learner(dls=tiny_dls(batch_tfms=aug_transforms()), norm='bn')
    learn.fit(1)
    learn.model.train(); list(learn.model.modules())[1].eval()      # a mixed state: one part frozen
    items = [(x, int(k)) for x,k in zip(*tiny_arrays(20))]
    dl = learn.dls.test_dl(items, with_labels=True) if which == 'test' else learn.dls[which == 'valid']
    def change(x, ids):
        random.random(); np.random.rand(); torch.rand(1); x.mul_(.9)
        assert not torch.is_grad_enabled() and not any(m.training for m in learn.model.modules())
        if error is not None and ids[0] > 0: raise error('stop')
        return x
    before = snapshot(learn)
    if error is None: shifted_preds(learn, dl, change)
    else:
        with pytest.raises(error): shifted_preds(learn, dl, change)
    after = snapshot(learn)
    for k in before: assert before[k] == after[k], k
    same_as_get_preds(learn)

def test_a_callback_that_acts_in_validation_is_named():
    class Dark(Callback):
        def before_batch(self): self.learn.xb = (self.xb[0]*0,)
    learn = tiny_learner(cbs=Dark())
    with pytest.warns(RobustWarning, match='Dark has before_batch'): shifted_preds(learn)
    class Logs(Callback):
        run_valid = False
        def before_batch(self): pass
    learn = tiny_learner(cbs=[Logs(), AugMix(), Raise(Stop())])
    import warnings
    with warnings.catch_warnings():
        warnings.simplefilter('error', RobustWarning)
        shifted_preds(learn)

# --- refused ---------------------------------------------------------------------------------------------------------
def test_pixels_must_lie_between_0_and_1():
    X = np.random.default_rng(0).normal(size=(20, 1, 8, 8)).astype(np.float32)
    items = [(TensorImage(x), i%3) for i,x in enumerate(X)]
    learn = tiny_learner()
    dl = DataLoader(items, bs=4)
    assert shifted_preds(learn, dl)[0].shape == (20, 3)                 # unchanged they pass
    with pytest.raises(ValueError, match=r'pixels in \[0,1\] before Normalize, got \[-'):
        shifted_preds(learn, dl, negative)
    dl = DataLoader([(TensorImage((x > 0).byte()), y) for x,y in items], bs=4)
    with pytest.raises(ValueError, match='got torch.uint8. Put IntToFloatTensor'):
        shifted_preds(learn, dl, negative)
    dl = DataLoader([(TensorImage(x.abs()*100), y) for x,y in items], bs=4)
    with pytest.raises(ValueError, match='not divided by 255'): shifted_preds(learn, dl, negative)
    dl = DataLoader([(TensorImage(x.sigmoid()), y) for x,y in items], bs=4)
    z,y = shifted_preds(learn, dl, negative)
    assert z.shape == (20, 3) and y.tolist() == [i%3 for i in range(20)]

@pytest.mark.parametrize('change,match', [(lambda x, ids: x[:, :, :4], r'\(16, 1, 4, 8\)'),
                                          (lambda x, ids: None, 'NoneType'),
                                          (lambda x, ids: (x*255).byte(), 'torch.uint8')])
def test_change_must_return_pixels(change, match):
    with pytest.raises(ValueError, match='`change` must return float pixels.*got.*'+match):
        shifted_preds(tiny_learner(), None, change)

def test_loaders_that_are_refused():
    learn = tiny_learner()
    with pytest.raises(ValueError, match='loader with labels, got one of images alone.*with_labels=True'):
        shifted_preds(learn, learn.dls.test_dl(list(tiny_arrays(5)[0])))
    for dl in (learn.dls.valid.new([]), DataLoader([], bs=4)):
        with pytest.raises(ValueError, match='got an empty one'): shifted_preds(learn, dl)
    for dl in (torch.utils.data.DataLoader([(torch.rand(1, 8, 8), 0)]), learn.dls, [1]):
        with pytest.raises(TypeError, match='expected a fastai loader, got a'): shifted_preds(learn, dl)
    with pytest.raises(TypeError, match='one input of images'):
        shifted_preds(learn, DataLoader([(torch.rand(5), 0)]*4, bs=2))
    learn.model = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    with pytest.raises(ValueError, match=r'at least two logits per image, \(16,c\), from the model, got \(16, 1\)'):
        shifted_preds(learn)

@pytest.mark.parametrize('block,label,match', [
    (MultiCategoryBlock, lambda o: ['a', 'b'] if o['v'] else ['c'], r'torch.float32 \(4, 3\)'),
    (RegressionBlock, lambda o: float(o['v']), 'torch.float32')])
def test_targets_that_are_refused(block, label, match):
    import pandas as pd
    df = pd.DataFrame(dict(v=[0, 1]*8))
    blk = DataBlock((ImageBlock, block), get_x=lambda o: np.zeros((8, 8, 3), np.uint8), get_y=label)
    dls = blk.dataloaders(df, bs=4, num_workers=0, device='cpu')
    learn = Learner(dls, small_cnn(3, 3, width=8, depth=2), loss_func=BCEWithLogitsLossFlat())
    with pytest.raises(ValueError, match='one whole class number per image.*got '+match):
        shifted_preds(learn, dls.train)
