"ArrayDL against fastai's own loader, through every fastai feature, and its error messages"
import subprocess, sys
from pathlib import Path
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from fastai.callback.data import PartialDL, WeightedDL
from fastai.callback.schedule import lr_find  # noqa: F401  (patches Learner)
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.core import DataLoaders, Datasets, TfmdDL, TfmdLists
from fastai.data.transforms import Categorize, IntToFloatTensor, ItemGetter, Normalize, ToTensor
from fastai.interpret import ClassificationInterpretation
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.torch_core import TensorCategory, TensorImage, TensorImageBW, set_seed
from fastai.vision.augment import Flip, aug_transforms
from fastai.vision.core import PILImage, PILImageBW
from fastai.vision.data import ImageBlock
import fastai.vision.learner  # noqa: F401  (show_results and plot_top_losses of images)
from fastrobust.basics import RobustWarning, batch_idxs
from fastrobust.data.arrays import ArrayDL, ArrayItems
from fastrobust.data.fromarrays import array_dls

ROOT = Path(__file__).parent.parent
CPU = torch.device('cpu')

def images(n=40, c=None, sz=8, seed=0):
    "Random uint8 images, whose first pixel is their number"
    x = np.random.default_rng(seed).integers(0, 256, (n, sz, sz) if c is None else (n, sz, sz, c), dtype=np.uint8)
    x.reshape(n, -1)[:, 0] = np.arange(n)
    return x

def data(n=40, nv=12, c=None, k=3):
    X,Xv = images(n, c),images(nv, c, seed=1)
    return X,np.arange(n) % k,Xv,np.arange(nv) % k

def small(n=40, nv=12, c=None, k=3, bs=8, **kw):
    X,y,Xv,yv = data(n, nv, c, k)
    return array_dls(X, y, valid=(Xv, yv), bs=bs, device=CPU, **kw)

def net(c=1, k=3):
    body = nn.Conv2d(c, 4, 3),nn.BatchNorm2d(4),nn.ReLU(),nn.AdaptiveAvgPool2d(2)
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(16, k))

def learner(dls, tmp_path, c=1, **kw):
    set_seed(7)
    return Learner(dls, net(c, dls.c), loss_func=CrossEntropyLossFlat(), metrics=accuracy, path=tmp_path, **kw)

@pytest.fixture
def quiet(tmp_path):
    learn = learner(small(), tmp_path)
    with learn.no_bar(), learn.no_logging(): yield learn

def item_dls(X, y, Xv, yv, folder, stats, bs=8):
    "fastai's item loader over the same images as PNG files"
    folder.mkdir()
    items = []
    for i,(a,l) in enumerate(zip(np.concatenate([X, Xv]), np.concatenate([y, yv]))):
        Image.fromarray(a).save(folder/f'{i:04}.png')
        items.append((folder/f'{i:04}.png', int(l)))
    blk = ImageBlock(PILImageBW if X.ndim == 3 else PILImage)
    db = DataBlock((blk, CategoryBlock(vocab=[0, 1, 2])), get_x=ItemGetter(0), get_y=ItemGetter(1),
                   splitter=lambda o: (list(range(len(X))), list(range(len(X), len(o)))),
                   batch_tfms=[Normalize.from_stats(*stats)])
    return db.dataloaders(items, bs=bs, num_workers=0, device=CPU)

def state(dls):
    n = [t for t in dls.after_batch.fs if isinstance(t, Normalize)][0]
    return n.mean.flatten().tolist(),n.std.flatten().tolist()

# --- the batches -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('c', [None, 1, 3])
def test_batch_is_what_the_arrays_hold(c):
    dls = small(c=c, normalize=False, shuffle=False)
    X,y,Xv,yv = data(c=c)
    x,t = dls.one_batch()
    chw = X.reshape(40, 8, 8, -1).transpose(0, 3, 1, 2)
    assert isinstance(x, TensorImage) and isinstance(x, TensorImageBW) == (c != 3) and type(t) is TensorCategory
    assert x.dtype == torch.float32 and x.shape == (8, 3 if c == 3 else 1, 8, 8) and t.dtype == torch.int64
    assert np.array_equal((x*255).round().numpy().astype(np.uint8), chw[:8]) and t.tolist() == y[:8].tolist()
    assert [len(b[0]) for b in dls.valid] == [8, 4]
    assert np.array_equal(torch.cat([b[1] for b in dls.valid]).numpy(), yv)

def test_uint8_until_the_batch_transform():
    dls = small()
    seen = []
    dls.train.new(after_batch=lambda o: seen.append(o.dtype) or o).one_batch()
    assert seen == [torch.uint8, torch.int64] and dls.train_ds.items.x.dtype == torch.uint8

def test_statistics_are_those_of_the_training_images():
    X,y,Xv,yv = data(c=3)
    mean,std = state(array_dls(X, y, valid=(Xv, yv), bs=8))
    f = X.astype(np.float64).reshape(-1, 3)/255
    assert mean == pytest.approx(f.mean(0), abs=1e-6) and std == pytest.approx(f.std(0), abs=1e-6)
    own = array_dls(X, y, valid=(Xv, yv), bs=8, batch_tfms=Normalize.from_stats([.5]*3, [.25]*3, cuda=False))
    assert state(own)[0] == [.5]*3 and [type(f) for f in own.after_batch.fs] == [IntToFloatTensor, Normalize]
    fs = array_dls(X, y, bs=8, normalize=False, batch_tfms=[IntToFloatTensor()]).after_batch.fs
    assert [type(f) for f in fs] == [IntToFloatTensor]

def test_every_image_form_gives_the_same_pixels():
    X,y,*_ = data(c=3)
    t = torch.tensor(X).permute(0, 3, 1, 2)
    forms = [X, X/255, (X/255).astype(np.float32), list(X), t, t/255, t.double()/255]
    ref = array_dls(X, y, bs=8).train_ds.items.x
    for o in forms: assert torch.equal(array_dls(o, y, bs=8).train_ds.items.x, ref)
    g,gt = images(),torch.tensor(images())
    ref = array_dls(g, y, bs=8).train_ds.items.x
    for o in (g[..., None], gt, gt[:, None]): assert torch.equal(array_dls(o, y, bs=8).train_ds.items.x, ref)

def test_floats_between_grey_levels_are_rounded_and_said():
    x = np.full((10, 4, 4), .5); x[0, 0, 0] = 1.
    with pytest.warns(RobustWarning, match='rounded'): d = array_dls(x, np.arange(10) % 2, bs=4, valid_pct=.5)
    assert set(torch.cat([d.train_ds.items.x, d.valid_ds.items.x]).unique().tolist()) == {128, 255}

def test_arrays_are_copied():
    X,y,Xv,yv = data()
    for wrap in (lambda a: a, torch.from_numpy):
        dls = array_dls(wrap(X), wrap(y), valid=(Xv, yv), bs=8)
        before = dls.train_ds.items.x.clone()
        X[:] = 0; y[:] = 0
        assert torch.equal(dls.train_ds.items.x, before) and dls.train_ds.items.y.sum() > 0
        X,y,*_ = data()
    X.setflags(write=False); array_dls(X, y, bs=8)
    im,_ = dls.train_ds.items[3]; im[:] = 0
    assert dls.train_ds.items[3][0].any()

# --- against fastai's item loader ------------------------------------------------------------------------------------
@pytest.mark.parametrize('c', [None, 3])
def test_trains_bitwise_as_the_item_loader(c, tmp_path):
    X,y,Xv,yv = data(c=c)
    stats = state(small(c=c))
    res = []
    for make in (lambda: item_dls(X, y, Xv, yv, tmp_path/'png', stats), lambda: small(c=c)):
        set_seed(3)
        dls = make()
        learn = Learner(dls, net(c or 1), loss_func=CrossEntropyLossFlat(), metrics=accuracy, path=tmp_path)
        with learn.no_bar(), learn.no_logging(): learn.fit(2, 1e-2)
        res.append((learn.model.state_dict(), learn.recorder.values))
    (sa,va),(sb,vb) = res
    assert va == vb
    for k in sa: assert torch.equal(sa[k], sb[k]), k
    assert not torch.equal(sa['0.weight'], (set_seed(3), net(c or 1))[1].state_dict()['0.weight'])

def test_order_is_that_of_a_plain_loader():
    dls = small()
    res = []
    for cls in (ArrayDL, TfmdDL):
        set_seed(5)
        dl = cls(dls.train_ds, bs=8, shuffle=True, drop_last=True, num_workers=0, after_item=ToTensor())
        res.append((dl.get_idxs(), [b[1].tolist() for b in dl], [b[1].tolist() for b in dl]))
    assert res[0] == res[1] and sorted(res[0][0]) == list(range(40)) != res[0][0] and res[0][1] != res[0][2]

def test_augmentation_acts_in_training_only():
    dls = small(normalize=False, batch_tfms=Flip(p=1.), shuffle=False)
    X,_,Xv,_ = data()
    px = lambda b: (b[0][:, 0]*255).round().numpy().astype(np.uint8)
    assert np.array_equal(px(dls.train.one_batch()), X[:8, :, ::-1])
    assert np.array_equal(px(dls.valid.one_batch()), Xv[:8])
    assert small(c=3, batch_tfms=aug_transforms(size=6)).one_batch()[0].shape == (8, 3, 6, 6)

@pytest.mark.parametrize('n_workers', [0, 2])
def test_sample_ids(n_workers):
    dls = small(normalize=False, num_workers=n_workers)
    for _ in range(2):
        seen = []
        for i,(x,y) in enumerate(dls.train):
            ids = batch_idxs(dls.train, i, len(x))
            assert (x[:, 0, 0, 0]*255).round().int().tolist() == ids.tolist()   # the first pixel is the image's number
            assert y.tolist() == (ids % 3).tolist()
            seen += ids.tolist()
        assert sorted(seen) == list(range(40))

# --- the loader's own features ---------------------------------------------------------------------------------------
def test_drop_last():
    assert [len(b[0]) for b in small(n=20).train] == [8, 8]
    assert [len(b[0]) for b in small(n=20, drop_last=False).train] == [8, 8, 4]
    assert [len(b[0]) for b in small(n=20, shuffle=False).train] == [8, 8, 4]
    assert [len(b[0]) for b in small(n=5).train] == [5]         # never an epoch without a batch
    assert len(small(n=20, val_bs=3).valid) == 4
    with pytest.raises(ValueError, match='at least one batch of 8 training images, got 5.*smaller `bs`'):
        small(n=5, drop_last=True)

def test_new_keeps_the_kind_and_takes_changes():
    dl = small().train
    for new in (dl.new(), dl.new(shuffle=False, bs=5), dl.new(get_idxs=lambda: [4, 2, 9])):
        assert type(new) is ArrayDL and new._whole() and new.im_shape == (1, 8, 8)
    assert dl.new(get_idxs=lambda: [4, 2, 9], drop_last=False).one_batch()[1].tolist() == [1, 2, 0]
    assert len(dl.new(bs=5, drop_last=False)) == 8 and len(dl.new(n=16, shuffle=False)) == 2

def test_weighted_and_partial_loaders():
    dls = small()
    w = np.zeros(40); w[[3, 6]] = 1
    for cls in (WeightedDL, type('WeightedArrayDL', (ArrayDL, WeightedDL), {})):
        dl = dls.train.new(cls=cls, wgts=w)
        assert set(torch.cat([b[1] for b in dl]).tolist()) == {0} and sum(len(b[0]) for b in dl) == 40
    for cls in (PartialDL, type('PartialArrayDL', (ArrayDL, PartialDL), {})):
        assert sum(len(b[0]) for b in dls.train.new(cls=cls, partial_n=16)) == 16
    weighted = dls.train_ds.weighted_dataloaders(w, bs=8, after_item=ToTensor(), num_workers=0)
    assert weighted.one_batch()[1].unique().tolist() == [0]

def test_a_step_per_item_is_not_skipped():
    dls = small(normalize=False, shuffle=False)
    def black(o): return o*0 if isinstance(o, TensorImage) else o
    black.order = 20
    for kw in (dict(after_item=[ToTensor(), black]), dict(before_batch=lambda b: [(o[0]*0, o[1]) for o in b])):
        dl = dls.train.new(**kw)
        assert not dl._whole() and dl.one_batch()[0].abs().sum() == 0
        assert dl.one_batch()[1].tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert dls.train._whole() and dls.train.one_batch()[0].abs().sum() > 0
    own = dls.train.new(create_item=lambda i: (PILImageBW.create(np.zeros((8, 8), np.uint8)), TensorCategory(2)))
    assert not own._whole() and own.one_batch()[1].tolist() == [2]*8

def test_item_way_gives_the_same_batches():
    for c in (None, 3):
        dl = small(c=c, shuffle=False).train
        for a,b in zip(dl, dl.new(before_batch=lambda b: b)):
            assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) and type(a[0]) is type(b[0])

@pytest.mark.parametrize('codes', [None, np.full(40, 2), np.full(40, -1)])
def test_a_label_list_in_place_of_ours_is_asked(codes):
    class Given(TfmdLists):
        def __getitem__(self, i): return TensorCategory(2) if isinstance(i, int) else super().__getitem__(i)
    dls = small(shuffle=False)
    tl = dls.train_ds.tls[1]
    given = Given(tl.items, tl.tfms, do_setup=False, split_idx=0)
    if codes is not None: given.codes = codes
    dl = dls.train.new(Datasets(tls=[dls.train_ds.tls[0], given]))
    assert dl._whole() and dl.one_batch()[1].tolist() == [2]*8 and dls.train.one_batch()[1].tolist() != [2]*8

def test_items_are_a_sequence():
    items = small(c=3).train_ds.items
    X,y,*_ = data(c=3)
    assert len(items) == 40 and np.array_equal(items[5][0], X[5]) and items[5][1] == 2 and items[np.int64(-1)][1] == 0
    for idx in ([3, 1], np.array([3, 1]), torch.tensor([3, 1])): assert [o[1] for o in items[idx]] == [0, 1]
    assert items[2:4].rows.tolist() == [2, 3] and len(items[np.arange(40) < 7]) == 7 and len(items[[]]) == 0
    assert [o[1] for o in items] == y.tolist()
    with pytest.raises(IndexError): items[40]

# --- the rest of fastai ----------------------------------------------------------------------------------------------
def test_get_preds_in_dataset_order(quiet):
    x = quiet.dls.train_ds.items.x/255.
    m,s = [t.view(1, -1, 1, 1) for t in map(torch.tensor, state(quiet.dls))]
    quiet.model.eval()
    with torch.no_grad(): want = quiet.model((x-m)/s).softmax(1)
    for dl in (quiet.dls.train, quiet.dls.train.new(shuffle=False)):
        p,t,l = quiet.get_preds(dl=dl, with_loss=True)
        assert torch.allclose(p.as_subclass(torch.Tensor), want, atol=1e-5) and l.shape == (40,)
        assert t.tolist() == (np.arange(40) % 3).tolist()

def test_lr_find_show_and_interpretation(quiet):
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    quiet.lr_find(num_it=5, show_plot=False)
    quiet.fit(1)
    for dl in (quiet.dls.train, quiet.dls.valid): dl.show_batch(max_n=4)
    quiet.dls.show_batch(unique=True, max_n=4)
    x,y,its = quiet.dls.train.show_batch(show=False, max_n=4)
    assert len(its) == 4 and its[0][1] in ('0', '1', '2')
    quiet.show_results(max_n=4)
    interp = ClassificationInterpretation.from_learner(quiet)
    losses,idxs,items = interp.top_losses(5, items=True)
    assert interp.confusion_matrix().sum() == 12
    assert np.array_equal(items[0][0], quiet.dls.valid_ds.items[int(idxs[0])][0])
    inps,preds,targs,_,ls = interp[idxs]
    assert targs.tolist() == (idxs % 3).tolist() and torch.allclose(-preds.log()[range(5), targs], ls, atol=1e-5)
    interp.plot_top_losses(4); interp.plot_confusion_matrix(); interp.show_results([0, 3])
    assert torch.equal(ClassificationInterpretation.from_learner(quiet, ds_idx=0)[[7]][2], TensorCategory([1]))
    plt.close('all')

def test_test_dl_on_new_arrays(quiet):
    X,y,Xv,yv = data()
    want,*_ = quiet.get_preds(dl=quiet.dls.valid)
    forms = dict(array=Xv, channel=Xv[..., None], floats=Xv/255, tensor=torch.tensor(Xv), list=list(Xv),
                 pil=[Image.fromarray(o) for o in Xv], rgb=[Image.fromarray(o).convert('RGB') for o in Xv])
    for k,o in forms.items():
        dl = quiet.dls.test_dl(o)
        assert type(dl) is ArrayDL and dl._whole() and len(dl.one_batch()) == 1, k
        assert torch.equal(quiet.get_preds(dl=dl)[0], want), k
    labelled = quiet.dls.test_dl(list(zip(Xv, yv)), with_labels=True)
    assert labelled._whole() and quiet.get_preds(dl=labelled)[1].tolist() == yv.tolist()
    assert quiet.validate(dl=labelled) == quiet.validate()
    assert torch.equal(quiet.get_preds(dl=quiet.dls.test_dl(quiet.dls.valid_ds.items))[0], want)
    assert torch.equal(quiet.get_preds(dl=quiet.dls.test_dl([o for o in quiet.dls.valid_ds.items]))[0], want)
    with pytest.raises(ValueError, match=r'\(1, 8, 8\).*test_items.*\(3, 8, 8\).*Convert'):
        quiet.dls.test_dl(images(4, 3))
    with pytest.warns(RobustWarning, match=r'\(9, 9\) pixels'): quiet.dls.test_dl(images(4, sz=9))
    with pytest.raises(ValueError, match='test_items.*got \\[7\\]'): quiet.dls.test_dl([(Xv[0], 7)], with_labels=True)

def test_files_go_the_item_way(quiet, tmp_path):
    X,_,Xv,_ = data()
    fs = [tmp_path/f'{i}.png' for i in range(3)]
    for f,o in zip(fs, Xv): Image.fromarray(o).save(f)
    dl = quiet.dls.test_dl(fs)
    assert not dl._whole() and torch.equal(quiet.get_preds(dl=dl)[0], quiet.get_preds()[0][:3])

def test_predict(quiet):
    X,y,*_ = data()
    want = quiet.get_preds(dl=quiet.dls.test_dl(X[5:6]))[0][0]
    for o in (X[5], X[5][..., None], X[5]/255, torch.tensor(X[5]), torch.tensor(X[5])[None], PILImageBW.create(X[5]),
              Image.fromarray(X[5]), Image.fromarray(X[5]).convert('RGB')):
        cat,idx,p = quiet.predict(o)
        assert torch.equal(p, want) and int(idx) == int(want.argmax()) and str(cat) == str(quiet.dls.vocab[int(idx)])

def test_predict_colour(tmp_path):
    learn = learner(small(c=3), tmp_path, c=3)
    X,*_ = data(c=3)
    with learn.no_bar(), learn.no_logging():
        want = learn.get_preds(dl=learn.dls.train.new(shuffle=False))[0][5]
        for o in (X[5], torch.tensor(X[5]).permute(2, 0, 1), PILImage.create(X[5])):
            assert torch.allclose(learn.predict(o)[2], want, atol=1e-6)
        assert learn.predict(Image.fromarray(X[5][..., 0]))[2].shape == (3,)

@pytest.mark.slow
def test_export_is_small_and_works_in_a_fresh_process(tmp_path):
    y = np.arange(2000) % 3
    X = np.random.default_rng(0).integers(0, 256, (2000, 28, 28), dtype=np.uint8)
    learn = learner(array_dls(X, y, vocab=['a', 'b', 'c'], bs=64, device=CPU), tmp_path)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
        p = learn.predict(X[0])[2]
        preds = learn.get_preds(dl=learn.dls.test_dl(X[:9]))[0]
    learn.export('l.pkl')
    torch.save(learn.model.state_dict(), tmp_path/'m.pth')
    np.save(tmp_path/'x.npy', X[:9]); np.save(tmp_path/'p.npy', preds.numpy())
    size,model = (tmp_path/'l.pkl').stat().st_size,(tmp_path/'m.pth').stat().st_size
    assert size < model + 60_000      # the images alone are 1.6 MB, their labels and order more than 30 KB
    assert len(learn.dls.train_ds) == 1600 and learn.dls.train._whole()
    code = f'''
import numpy as np, warnings; warnings.simplefilter('ignore')
from fastai.learner import load_learner
from PIL import Image
l = load_learner(r'{tmp_path}/l.pkl'); x,p = np.load(r'{tmp_path}/x.npy'),np.load(r'{tmp_path}/p.npy')
with l.no_bar(), l.no_logging():
    dl = l.dls.test_dl(x)
    assert type(dl).__name__ == 'ArrayDL' and dl._whole()
    assert np.allclose(l.get_preds(dl=dl)[0].numpy(), p, atol=1e-6)
    dl = l.dls.test_dl(list(zip(x, 'abcabcabc')), with_labels=True)
    assert l.get_preds(dl=dl)[1].tolist() == [0, 1, 2]*3
    for o in (x[0], Image.fromarray(x[0])):
        c,i,q = l.predict(o)
        assert np.allclose(q.numpy(), p[0], atol=1e-6) and c == 'abc'[int(i)]
    try: l.dls.test_dl(np.zeros((2, 28, 28, 3), np.uint8)); assert False
    except ValueError as e: assert '(1, 28, 28)' in str(e)
print('fine')'''
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert r.stdout.strip().endswith('fine'), r.stderr[-2000:]
    assert torch.allclose(preds[0], p, atol=1e-6)
    plain = load_learner(tmp_path/'l.pkl')
    assert not [f for tl in plain.dls.valid_ds.tls for f in tl.tfms.fs if type(f).__module__.startswith('fastrobust')]

# --- labels, vocab, split --------------------------------------------------------------------------------------------
def test_vocab_and_labels():
    X,y,Xv,yv = data()
    names = np.array(['cat', 'ant', 'bee'])
    d = array_dls(X, names[y], valid=(Xv, names[yv]), bs=8, shuffle=False)
    first3 = lambda dl: dl.one_batch()[1][:3].tolist()
    assert list(d.vocab) == ['ant', 'bee', 'cat'] and d.c == 3 and d.n_inp == 1 and first3(d) == [2, 0, 1]
    d = array_dls(X, y, valid=(Xv, yv), vocab=names, bs=8, shuffle=False)          # ints beside names are positions
    assert list(d.vocab) == ['cat', 'ant', 'bee'] and first3(d) == [0, 1, 2] and d.train_ds.items[1][1] == 'ant'
    d = array_dls(X, names[y], valid=(Xv, yv), vocab=['cat', 'ant', 'bee', 'dog'], bs=8, shuffle=False)
    assert d.c == 4 and first3(d) == [0, 1, 2] and first3(d.valid) == [0, 1, 2]
    d = array_dls(X, y*5+5, bs=8)
    assert list(d.vocab) == [5, 10, 15] and d.one_batch()[1].max() <= 2 and d.train_ds[0][1] in (0, 1, 2)
    for form in (y.tolist(), torch.tensor(y), pd.Series(y), y.astype(np.uint8), names[y].tolist(), pd.Series(names[y])):
        assert array_dls(X, form, valid=(Xv, form[:12]), bs=8).c == 3

def test_valid_pct():
    X,y,*_ = data()
    a,b = array_dls(X, y, bs=8, valid_pct=.25),array_dls(X, y, .25, bs=8)
    ra,rv = a.train_ds.items.rows,a.valid_ds.items.rows
    assert len(rv) == 10 and torch.equal(rv, b.valid_ds.items.rows)
    assert sorted([*ra.tolist(), *rv.tolist()]) == list(range(40))
    assert all(np.array_equal(a.train_ds.items[i][0], X[r]) for i,r in enumerate(ra))
    assert a.train_ds.items.y.tolist() == y[ra].tolist()
    assert not torch.equal(rv, array_dls(X, y, .25, bs=8, seed=1).valid_ds.items.rows)
    assert len(array_dls(X, y, bs=8).valid_ds) == 8
    set_seed(1); u = torch.rand(1); set_seed(1); array_dls(X, y, bs=8)
    assert torch.equal(torch.rand(1), u)          # the split does not touch the global generator

BAD = [
    (dict(X=images()[:0], y=[]), ValueError, r'images in `X`.*\(0, 8, 8, 1\).*selected'),
    (dict(X=images()[:, 0, :]), ValueError, r'`X` as an array \(n,h,w\).*\(40, 8\)'),
    (dict(X=images(c=4)), ValueError, r'1 or 3 channels.*\(40, 8, 8, 4\).*channels last'),
    (dict(X=torch.tensor(images(c=3))), ValueError, r'tensor \(n,h,w\) or \(n,c,h,w\).*tensors first'),
    (dict(X=images().astype(int)), TypeError, r'uint8 or as floats.*int64.*astype'),
    (dict(X=images().astype(float)), ValueError, r'\[0,1\] in `X`, got \[0, 255\].*normalisation'),
    (dict(X=images()/255-.5), ValueError, r'got \[-0.5, 0.5\]'),
    (dict(X=np.full((40, 8, 8), np.nan)), ValueError, r'got \[nan, nan\].*without NaN'),
    (dict(X='images.npy'), TypeError, r'uint8 or as floats'),
    (dict(y=np.zeros(39, int)), ValueError, r'shape \(40,\), got \(39,\).*alike'),
    (dict(y=np.eye(40)), ValueError, r'\(40, 40\).*argmax'),
    (dict(y=np.array([np.nan]*2 + [1.]*38)), ValueError, r'2 missing.*`y`, first at \[0, 1\].*Drop'),
    (dict(y=['a', None]*20), ValueError, r'20 missing'),
    (dict(y=['a', float('nan')]*20), ValueError, r'20 missing'),
    (dict(y=np.arange(40)/2), TypeError, r'ints or strings, got float.*astype'),
    (dict(y=['a', 1]*20), TypeError, r'got int, str'),
    (dict(valid=(images(4, 3), [0]*4)), ValueError, r'\(1, 8, 8\) in `Xv`.*got \(3, 8, 8\).*Convert or resize'),
    (dict(valid=(images(4, sz=9), [0]*4)), ValueError, r'\(1, 8, 8\) in `Xv`.*got \(1, 9, 9\)'),
    (dict(valid=(images(4), [0, 1, 2, 3])), ValueError, r'labels of the vocab \[0, 1, 2\] in `yv`, got \[3\].*vocab='),
    (dict(valid=(images(4), [0]*3)), ValueError, r'`yv` of shape \(4,\)'),
    (dict(valid=(images()[:0], [])), ValueError, r'images in `Xv`'),
    (dict(valid=images(4)), TypeError, r'pair \(Xv, yv\), got ndarray'),
    (dict(valid=(images(4), [0]*4), valid_pct=.2), ValueError, r'`valid` or `valid_pct`.*Leave one out'),
    (dict(valid_pct=1.5), ValueError, r'in \(0,1\).*got 1.5 of 40'),
    (dict(valid_pct=.001), ValueError, r'left on both sides'),
    (dict(vocab=['a', 'b']), ValueError, r'positions 0..1 in the vocab in `y`, got \[2\]'),
    (dict(vocab=['a', 'b', 'a']), ValueError, r'different classes'),
    (dict(vocab=[]), ValueError, r'different classes'),
    (dict(y=['x', 'y']*20, vocab=['x', 'z']), ValueError, r"got \['y'\]"),
]
@pytest.mark.parametrize('kw,err,match', BAD, ids=range(len(BAD)))
def test_bad_input(kw, err, match):
    with pytest.raises(err, match=match): array_dls(**{'X': images(), 'y': np.arange(40) % 3, 'bs': 8, **kw})

@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
def test_arrays_on_the_gpu(tmp_path):
    X,y,Xv,yv = data()
    dls = array_dls(X, y, valid=(Xv, yv), bs=8, device='cuda')
    assert dls.train_ds.items.x.is_cuda and next(dls.train.create_batches(range(8)))[0].is_cuda
    learn = learner(dls, tmp_path)
    with learn.no_bar(), learn.no_logging(): learn.fit(1); learn.predict(X[0])

def test_returns_fastai_dataloaders():
    dls = small()
    assert [type(o) for o in (dls, dls.train_ds, dls.train)] == [DataLoaders, Datasets, ArrayDL] and dls.device == CPU
    assert isinstance(dls.train_ds.items, ArrayItems) and type(dls.train_ds.tls[1].tfms.fs[-1]) is Categorize
    assert 'ArrayItems: 40 images' in repr(dls.train_ds.items)

# --- keywords --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('kw, says', [
    (dict(stats=None), "array_dls got an unknown 'stats'. Whether images are normalised, .* is `normalize`"),
    (dict(normalise=False), "unknown 'normalise'. Did you mean 'normalize'"),
    (dict(batch_size=8), "unknown 'batch_size'. It is `bs`"),
    (dict(item_tfms=[]), "unknown 'item_tfms'. Images come as they are"),
    (dict(after_batch=[]), 'array_dls sets after_batch itself'),
    (dict(dataset=3, after_item=[]), 'array_dls sets dataset, after_item itself')])
def test_keywords_that_fastai_would_drop_are_refused(kw, says):
    X,y,Xv,yv = data()
    with pytest.raises(TypeError, match=says): array_dls(X, y, (Xv, yv), **kw)

def test_keywords_of_loaders_reach_them():
    X,y,Xv,yv = data()
    kept = []
    dls = array_dls(X, y, (Xv, yv), bs=8, device='cpu', before_batch=[lambda b: kept.append(len(b)) or b], n=16)
    assert dls.train.n == 16 and len(list(dls.train)) == 2 and kept
