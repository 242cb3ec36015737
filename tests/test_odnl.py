"ODNL and its images: fresh labels, joint statistics, the training loader's own pipeline, nothing silent"
import copy, math, pickle
from functools import partial
import numpy as np
from pathlib import Path
import pytest
import torch
from PIL import Image
from torch import nn, tensor
from torch.nn import functional as F
from fastai.callback.core import Callback
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.transforms import Normalize, get_image_files, parent_label
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import SGD
from fastai.torch_core import set_seed
from fastai.vision.data import ImageBlock
from fastai.vision.core import PILImageBW
from conftest import MiniTwin, params, tiny_arrays, tiny_dls, tiny_learner
from fastrobust.data.fromarrays import array_dls
from fastrobust.data.auxrows import AuxRows, OpenSet
from fastrobust.data.openset import aux_images, blurred
from fastrobust.learner import robust_learner
from fastrobust.nets import small_cnn
from fastrobust.training.stages import HeadLogits
from fastrobust.techniques.odnl import ODNL

AUX = aux_images('blob', 40, 8, 1)

# what test_contract.py runs every technique through
CONTRACT = {ODNL: dict(make=lambda **kw: ODNL(AUX, **kw), weight='eta',
                       colour=lambda: ODNL(aux_images('blob', 40, 8, 3)))}
def names(learn): return list(learn.recorder.metric_names)
def column(learn, name): return [v[names(learn).index(name)-1] for v in learn.recorder.values]

class Watch(Callback):
    "Rows the model sees, by mode"
    order = 40
    def before_fit(self): self.seen = dict(train=[], valid=[])
    def after_pred(self): self.seen['train' if self.training else 'valid'].append(len(self.x))

# --- the term --------------------------------------------------------------------------------------------------------
def fresh_labels(z, seed):
    "Labels the penalty drew for rows `z`, read off its gradient (softmax - onehot)/n"
    t,z = ODNL(AUX),z.clone().requires_grad_()
    torch.manual_seed(seed)
    l = t.penalty(z, z)
    g, = torch.autograd.grad(l, z)
    return l.item(),g*len(z),(z.softmax(1)-g*len(z)).argmax(1).detach()

def test_expectation_is_the_uniform_target():
    "CE(z,u) over u has mean 2.7421 and mean gradient softmax - 1/K: Outlier Exposure plus noise of mean zero"
    z = tensor([1., -2, .5, 0, 3], dtype=torch.float64)
    uniform = F.cross_entropy(z[None], torch.full((1, 5), .2, dtype=torch.float64)).item()
    assert uniform == pytest.approx(2.7421186184, abs=1e-9)
    n = 100_000
    l,g,_ = fresh_labels(z.repeat(n, 1), 0)
    sd = np.std([F.cross_entropy(z[None], tensor([k])).item() for k in range(5)])
    assert abs(l-uniform) < 4*sd/n**.5
    want = [-.0937668, -.1947105, -.1355663, -.1609190, .5849631]
    assert g.mean(0).tolist() == pytest.approx(want, abs=4*.4/n**.5)
    cov = torch.cov(g.T)
    assert torch.allclose(cov, torch.eye(5).double()*.2 - .04, atol=.004)

def test_labels_are_uniform_and_fresh_at_every_step():
    from scipy.stats import chisquare
    z = torch.zeros(1, 5, dtype=torch.float64)
    steps = [fresh_labels(z, s)[2].item() for s in range(1000)]     # one image, 1000 steps
    counts = np.bincount(steps, minlength=5)
    assert chisquare(counts).pvalue > 1e-3
    many = lambda s: fresh_labels(z.repeat(64, 1), s)[2]
    assert torch.equal(many(1), many(1)) and not torch.equal(many(1), many(2))

def test_aux_loss_stays_at_its_floor():
    "40 images with fixed random labels would be learned by heart (loss < .5); with fresh ones nobody beats ln K"
    def train(cbs, dls, n=60):
        learn = tiny_learner(cbs, dls=dls, norm='bn', opt_func=SGD)
        learn.fit(n, .2)
        return learn
    learn = train(ODNL(AUX, eta=5., bs=40), tiny_dls(n=16))
    assert min(column(learn, 'odnl')[-10:]) > math.log(3)-.1
    assert column(learn, 'odnl_floor') == [pytest.approx(math.log(3))]*60
    y = np.random.default_rng(0).integers(0, 3, 40)
    fixed = train(None, array_dls(AUX, y, valid=(AUX, y), bs=40, device='cpu', vocab=[0, 1, 2]), 120)
    assert fixed.recorder.values[-1][0] < .5

def digits_mlp(cb, X, y, w=128, **kw):
    "An MLP with BatchNorm on 8x8 digits"
    dls = array_dls(X, y, valid=(X[:32], y[:32]), device='cpu', vocab=list(range(10)), **kw)
    set_seed(0)
    layers = [o for a,b in ((64, w), (w, w)) for o in (nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU())]
    learn = Learner(dls, nn.Sequential(nn.Flatten(), *layers, nn.Linear(w, 10)), loss_func=CrossEntropyLossFlat(),
                    cbs=cb, opt_func=partial(SGD, mom=.9))
    learn.remove_cb(learn.progress); learn.logger = lambda *a: None
    return learn

@pytest.mark.filterwarnings('ignore:techniques add')
def test_dynamic_labels_cannot_be_learned_and_fixed_ones_are():
    "spec 9.10 on 1,297 images: the loss on them stays >= 2.29, or goes <= .5; only the first has a floor"
    from sklearn.datasets import load_digits
    d = load_digits()
    X,y,aux = (d.images[:320]*15).astype(np.uint8),d.target[:320],aux_images('gaussian', 1297, 8, 1)
    losses = {}
    for dynamic in (True, False):
        learn = digits_mlp(ODNL(aux, bs=512, dynamic=dynamic), X, y, 256, bs=32)
        learn.fit(12, .1)
        losses[dynamic] = np.mean(column(learn, 'odnl')[-3:])
        assert ('odnl_floor' in names(learn)) == dynamic
    assert losses[True] >= 2.29 and losses[False] <= .5

def test_a_fixed_label_stays_with_its_image_over_fits_and_each_network_has_its_own():
    t,used = ODNL(AUX, dynamic=False),[]
    learn = tiny_learner([MiniTwin(), t])
    class Spy(Callback):
        def after_batch(self): used.append(t.aux.ids.clone()) if self.training else None
    learn.add_cb(Spy())
    learn.fit(1)
    first = {h: u.clone() for h,u in t._fixed.items()}
    learn.fit(2)
    assert set(first) == {0, 1} and all(torch.equal(t._fixed[h], first[h]) for h in first)
    assert len(first[0]) == 40 and not torch.equal(first[0], first[1]) and len(torch.cat(used).unique()) == 40
    assert not pickle.loads(pickle.dumps(t.aux)).loaders and t.__getstate__()['_fixed'] == {}
    z = torch.randn(16, 3, dtype=torch.float64)
    want = F.cross_entropy(z, first[1][t.aux.ids])
    assert torch.equal(t.penalty_of(HeadLogits(1, z, z)), want)

def test_raw_logits_and_weight():
    "Of the loss that trains, the term is eta times the recorded one"
    got = []
    class Spy(Callback):
        order = 45
        def after_loss(self):
            if self.training: got.append((self.loss.item()-F.cross_entropy(self.pred, self.y.long()).item()))
    learn = tiny_learner([ODNL(AUX, eta=2.5), Spy()])
    learn.fit(1, 0.)
    assert np.mean(got) == pytest.approx(2.5*column(learn, 'odnl')[0], rel=1e-4)

# --- one forward pass, one epoch -------------------------------------------------------------------------------------
def constant(*levels): return np.stack([np.full((4, 4), v, np.uint8) for v in levels])

class Levels(nn.Module):
    "Grey levels 0-255 of images in [0,1]"
    def forward(self, x): return x.mean((2, 3))*255

def bn_learner(cbs, momentum=1.):
    dls = array_dls(constant(0, 2), [0, 1], valid=(constant(100, 200), [0, 1]), bs=2, normalize=False, device='cpu')
    net = nn.Sequential(Levels(), nn.BatchNorm1d(1, momentum=momentum), nn.Linear(1, 2))
    learn = Learner(dls, net, loss_func=CrossEntropyLossFlat(), cbs=cbs)
    learn.remove_cb(learn.progress); learn.logger = lambda *a: None
    return learn

def test_batch_norm_sees_images_and_open_set_together():
    "Mean 6, variance 34.667 of [0,2,10,12]; two forward passes would give 11 and 2, and validation changes nothing"
    learn = bn_learner(ODNL(constant(10, 12)))
    learn.fit(1, 0.)
    bn = learn.model[1]
    assert bn.running_mean.item() == pytest.approx(6, rel=1e-5)
    assert bn.running_var.item() == pytest.approx(104/3, rel=1e-4)
    before = copy.deepcopy(learn.model.state_dict())
    learn.validate(); learn.get_preds()
    assert all(torch.equal(v, before[k]) for k,v in learn.model.state_dict().items())

@pytest.mark.parametrize('joint,mean,var', [(True, .6, 4.366667), (False, 1.19, 1.19)])
def test_statistics_of_batch_norm_common_or_apart(joint, mean, var):
    "spec 9.11, momentum .1: one pass over [0,2,10,12], or [0,2] and then [10,12]"
    learn = bn_learner(ODNL(constant(10, 12), joint_bn=joint), .1)
    learn.fit(1, 0.)
    bn = learn.model[1]
    assert bn.running_mean.item() == pytest.approx(mean, abs=1e-6)
    assert bn.running_var.item() == pytest.approx(var, abs=1e-5)
    assert bn.num_batches_tracked == (1 if joint else 2)

def test_apart_the_network_sees_no_more_rows_and_takes_as_many_as_the_batch_has():
    "Also beside a technique that adds rows: open-set images are as many as the batch, not as the tall one"
    from fastrobust.techniques.augmix import AugMix
    w,sizes = Watch(),[]
    learn = tiny_learner([ODNL(AUX, joint_bn=False), AugMix(), w])
    h = learn.model.register_forward_hook(lambda m, i, o: sizes.append(len(o)))
    learn.fit(1)
    h.remove()
    assert w.seen['train'] == [48]*3 and sizes[:6] == [48, 16]*3

def test_an_aux_loader_of_three_batches_does_not_shorten_the_epoch():
    "spec 9.12: ten optimiser steps, where the authors' zip takes three"
    aux = array_dls(AUX, np.zeros(40, int), valid=(AUX[:2], [0, 0]), bs=16, drop_last=False, device='cpu').train
    steps = []
    class Steps(Callback):
        def after_step(self): steps.append(self.n_iter)
    tiny_learner([ODNL(aux), Steps()], dls=tiny_dls(n=160)).fit(1)
    assert len(aux) == 3 and steps == [10]*10

@pytest.mark.parametrize('n_aux', [5, 12, 40, 500])
def test_an_epoch_is_the_training_loaders(n_aux):
    w = Watch()
    learn = tiny_learner([ODNL(aux_images('gaussian', n_aux, 8, 1)), w], dls=tiny_dls(n=160))
    learn.fit(2)
    assert w.seen['train'] == [32]*20 and w.seen['valid'] == [16, 8]*2

def test_rows_a_step_and_short_batches():
    for bs,want in ((None, [32, 32, 10]), (7, [23, 23, 12])):
        w = Watch()
        tiny_learner([ODNL(AUX, bs=bs), w], dls=tiny_dls(n=37, drop_last=False)).fit(1)
        assert w.seen['train'] == want

@pytest.mark.parametrize('n', [7, 16, 40])
def test_every_image_comes_once_before_any_comes_again(n):
    a = AuxRows(torch.arange(n, dtype=torch.uint8)[:, None, None].expand(n, 2, 2))
    got = torch.cat([a.next(5) for _ in range(2*n)])[:, 0, 0, 0].tolist()
    rounds = [got[i*n:(i+1)*n] for i in range(10)]
    assert all(sorted(r) == list(range(n)) for r in rounds) and len({tuple(r) for r in rounds}) > 1

def test_schedule_switches_rows_off():
    w = Watch()
    learn = tiny_learner([ODNL(AUX, eta=lambda pct: float(pct >= .5)), w])
    learn.fit(2)
    assert w.seen['train'] == [16]*3+[32]*3 and math.isnan(column(learn, 'odnl')[0]) and column(learn, 'odnl')[1] > 0

# --- the training loader's pipeline ----------------------------------------------------------------------------------
def rows_of(learn, n):
    t,learn.pct_train = next(cb for cb in learn.cbs if isinstance(cb, ODNL)),0.
    b = learn.dls.train.one_batch()[0].as_subclass(torch.Tensor)
    torch.manual_seed(5)
    return torch.cat([t.rows(b[:1]).as_subclass(torch.Tensor) for _ in range(n)])

def test_arrays_are_normalised_as_the_training_images():
    learn = tiny_learner(ODNL(AUX))
    norm = next(t for t in learn.dls.train.after_batch.fs if isinstance(t, Normalize))
    got = rows_of(learn, 40)
    torch.manual_seed(5)
    g = torch.Generator().manual_seed(torch.randint(2**31, ()).item())
    u8 = torch.from_numpy(AUX)[torch.randperm(40, generator=g)][:, None]
    want = (u8.float()/255 - norm.mean.as_subclass(torch.Tensor))/norm.std.as_subclass(torch.Tensor)
    assert torch.allclose(got, want, atol=1e-6) and norm.mean.item() > .4

@pytest.mark.parametrize('form', ['float', 'nchw', 'nhwc', 'tensor', 'float64'])
def test_every_form_gives_the_same_rows(form):
    a = {'float': AUX.astype(np.float32)/255, 'nchw': AUX[:, None], 'nhwc': AUX[..., None],
         'tensor': torch.from_numpy(AUX), 'float64': AUX/255}[form]
    got = []
    for aux in (AUX, a):
        learn = tiny_learner(ODNL(aux))
        got.append(rows_of(learn, 40))
    assert torch.equal(*got)

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    p = tmp_path_factory.mktemp('aux')
    for i in range(12):
        d = p/('ab'[i%2]); d.mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8), 20*i, np.uint8)).save(d/f'{i}.png')
    return p

def test_a_loader_gives_its_images_without_labels_through_our_pipeline(folder):
    "Its own Normalize (other numbers) is undone by never being done"
    block = DataBlock((ImageBlock(PILImageBW), CategoryBlock), get_items=get_image_files, get_y=parent_label,
                      batch_tfms=Normalize.from_stats([.9], [.05], cuda=False))
    aux = block.dataloaders(folder, bs=5, num_workers=0, device='cpu').train
    n,first = len(aux.dataset),aux.one_batch()[0]
    learn = tiny_learner(ODNL(aux), dls=tiny_dls(c=3))
    norm = next(t for t in learn.dls.train.after_batch.fs if isinstance(t, Normalize))
    got = rows_of(learn, 2*n)
    levels = sorted(int(np.asarray(Image.open(f))[0, 0]) for f in aux.dataset.items)
    want = (tensor(levels).float()[:, None, None, None].expand(n, 1, 8, 8)/255 - norm.mean)/norm.std
    for half in got.split(n):
        assert torch.allclose(half[half[:, 0, 0, 0].argsort()], want.as_subclass(torch.Tensor), atol=1e-6)
    assert first.min() < -5 and len(aux.after_batch.fs) == 2, 'the given loader stays as it was'
    learn.fit(1)

def test_several_loaders_take_turns():
    kw = dict(valid=(constant(0), [0]), bs=2, drop_last=False, device='cpu')
    make = lambda v: array_dls(constant(*[v]*5), [0]*4+[1], **kw)
    dls = [make(v).train for v in (1, 9)]
    a = AuxRows(dls)
    assert len(a) == 10 and sorted(a.next(10)[:, 0, 0, 0].tolist()) == [1]*5+[9]*5

# --- beside others ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('joint', [True, False])
def test_both_networks_of_a_twin_feel_it(joint, monkeypatch):
    drawn,real = [],torch.randint
    def spy(*a, **k):
        if a[-1] == (): return real(*a, **k)    # a seed
        drawn.append(real(*a, **k)); return drawn[-1]
    learn = tiny_learner([MiniTwin(), ODNL(AUX, eta=2., joint_bn=joint)])
    monkeypatch.setattr(torch, 'randint', spy)
    before = [p.clone() for p in learn.model.nets[1].parameters()]
    learn.fit(1, 1e-2)
    assert len(drawn) == 6 and not torch.equal(drawn[0], drawn[1]), 'labels of their own for each network, each step'
    assert not any(torch.equal(a, b) for a,b in zip(before, learn.model.nets[1].parameters()))
    assert column(learn, 'odnl')[0] > math.log(3)-.05

def test_with_logitclip_the_open_set_term_stays_raw():
    from fastrobust.techniques.logitclip import LogitClip
    ends = []
    for cbs in ([ODNL(AUX, 1.)], [ODNL(AUX, 1.), LogitClip(1e-6)]):
        learn = tiny_learner(cbs)
        with torch.no_grad(): learn.model[-1].weight.mul_(30)
        set_seed(1); learn.fit(1, 0.)
        ends.append(column(learn, 'odnl')[0])
    assert ends[0] == pytest.approx(ends[1], rel=1e-6) and ends[0] > 1.2

def test_validation_and_prediction_are_plain():
    w = Watch()
    learn = tiny_learner([ODNL(AUX), w])
    learn.fit(1)
    z = torch.cat([learn.model.eval()(b[0]) for b in learn.dls.valid]).as_subclass(torch.Tensor).detach()
    y = torch.cat([b[1] for b in learn.dls.valid]).as_subclass(torch.Tensor).long()
    assert learn.validate()[0] == pytest.approx(F.cross_entropy(z, y).item(), rel=1e-5)

def test_images_are_no_part_of_an_export(tmp_path):
    big = aux_images('gaussian', 4000, 8, 1)
    learn = tiny_learner(ODNL(big), path=tmp_path)
    learn.fit(1); learn.export()
    assert (tmp_path/'export.pkl').stat().st_size < 100_000 and len(pickle.dumps(AuxRows(big))) < 1000
    back = load_learner(tmp_path/'export.pkl')
    x = tiny_arrays()[0][:3]
    assert torch.allclose(back.get_preds(dl=back.dls.test_dl(x))[0], learn.get_preds(dl=learn.dls.test_dl(x))[0],
                          atol=1e-6)
    back.dls = tiny_dls()
    with pytest.raises(ValueError, match='not part of an exported learner'), back.no_bar(), back.no_logging():
        back.fit(1)

@pytest.mark.filterwarnings('ignore::fastrobust.basics.RobustWarning')
@pytest.mark.parametrize('recipe', ['ood', 'open_world'])
def test_the_textures_of_a_recipe_are_made_again(recipe, tmp_path):
    "No pixel of them is exported: the same ones are drawn when a loaded learner trains, also if it was exported twice"
    dls = tiny_dls()
    learn = robust_learner(dls, small_cnn(3, 1, 8, norm=None, depth=2), recipe=recipe, path=tmp_path)
    imgs = learn.odnl.aux.imgs
    learn.export()
    assert (tmp_path/'export.pkl').stat().st_size < 64_000 == imgs.numel()
    for _ in range(2):
        back = load_learner(tmp_path/'export.pkl')
        assert back.odnl.aux.imgs is None
        back.export(tmp_path/'export.pkl')
    back.dls = dls
    with back.no_bar(), back.no_logging():
        back.lr_find(num_it=2, show_plot=False, suggest_funcs=None)
        back.fit(1)
    assert torch.equal(back.odnl.aux.imgs, imgs) and back.odnl.aux.source.classes == ['generated textures']
    assert back.trained_open_sets.classes == ['generated textures'] and math.isfinite(column(back, 'odnl')[0])

@pytest.mark.parametrize('aux', [
    OpenSet(aux_images('textures', 40, 8, 1, seed=1), ['generated textures']), OpenSet(AUX, ['generated textures']),
    OpenSet(aux_images('textures', 40, 8, 1), ['clouds']), aux_images('textures', 40, 8, 1),
    array_dls(AUX, np.zeros(40, int), valid=(AUX[:2], [0, 0]), vocab=['generated textures'], device='cpu')])
def test_other_images_stay_dropped_whatever_they_are_called(aux):
    t = pickle.loads(pickle.dumps(ODNL(aux)))
    assert t.aux.imgs is None
    with pytest.raises(ValueError, match='not part of an exported learner'): tiny_learner(t).fit(1)

def test_new_images_take_the_place_of_textures():
    t = pickle.loads(pickle.dumps(ODNL(OpenSet(aux_images('textures', 40, 8, 1), ['generated textures']))))
    t.aux = AuxRows(AUX)
    tiny_learner(t).fit(1)
    assert torch.equal(t.aux.imgs[:, 0], torch.from_numpy(AUX))
    again = pickle.loads(pickle.dumps(t.clone()))
    with pytest.raises(ValueError, match='not part of an exported'): tiny_learner(again).fit(1)

def test_copies_share_images_and_have_their_own_order():
    a = AuxRows(AUX)
    a.next(3)
    b = copy.deepcopy(a)
    assert b.imgs is a.imgs and b._it is None and len(a.next(50)) == len(b.next(50)) == 50

# --- refusals --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('kw,err,msg', [
    (dict(eta=0), ValueError, '`eta` must be positive and finite, got 0. To switch it off, leave the technique out'),
    (dict(eta=-1.), ValueError, '`eta` must be positive'), (dict(bs=8.), ValueError, 'whole number from 1 on, got 8.0'),
    (dict(bs=0), ValueError, '`bs` must be a whole number from 1 on, got 0'),
    (dict(eta='2'), TypeError, '`eta` must be a number')])
def test_bad_settings(kw, err, msg):
    with pytest.raises(err, match=msg): ODNL(AUX, **kw)

@pytest.mark.parametrize('aux,err,msg', [
    (np.zeros((0, 8, 8), np.uint8), ValueError, r'n >= 1.*got shape \(0'), ([], TypeError, 'got a list of nothing'),
    (AUX.astype(np.float32), ValueError, r'expected float open-set images in \[0,1\], got \[0, 2\d\d\]'),
    (AUX/127.5-1, ValueError, r'got \[-1, 0.\d+\].*Do not normalise them'),
    (AUX.astype(np.int64), TypeError, 'uint8 or float'),
    (np.full((3, 8, 8), np.nan), ValueError, r'in \[0,1\], got \[nan'),
    (np.zeros((3, 8, 8, 2), np.uint8), ValueError, '1 or 3 channels'),
    ([AUX[0], AUX[1]], TypeError, 'np.stack'), (np.zeros((8, 8), np.uint8), ValueError, 'got shape')])
def test_bad_images(aux, err, msg):
    with pytest.raises(err, match=msg): ODNL(aux)

@pytest.mark.parametrize('aux,msg', [(aux_images('blob', 40, 8, 3),
                                      r'of 1 channel\(s\) like the training images, got 3'),
                                     (aux_images('blob', 40, 9, 1),
                                      r'size \(8, 8\) like the training images, got \(9, 9\). Resize')])
def test_images_that_do_not_match_are_refused_and_nothing_changes(aux, msg):
    learn = tiny_learner(ODNL(aux))
    before = params(learn)
    with pytest.raises(ValueError, match=msg): learn.fit(1)
    assert torch.equal(params(learn), before)
    learn.remove_cb(ODNL); learn.fit(1)

# --- images for those who have none ----------------------------------------------------------------------------------
KINDS = ('gaussian', 'rademacher', 'blob', 'textures')

@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('size,c', [(8, 1), (28, 1), (32, 3), ((12, 20), 3), (2, 1)])
def test_aux_images_shapes(kind, size, c):
    a = aux_images(kind, 6, size, c)
    h,w = (size, size) if isinstance(size, int) else size
    assert a.shape == ((6, h, w) if c == 1 else (6, h, w, 3)) and a.dtype == np.uint8 and a.flags['C_CONTIGUOUS']

@pytest.mark.parametrize('kind', KINDS)
def test_aux_images_are_deterministic_and_leave_the_streams_alone(kind):
    state,ns = torch.get_rng_state(),np.random.get_state()[1].copy()
    a,b,c = aux_images(kind, 9, 16, 3, seed=4),aux_images(kind, 9, 16, 3, seed=4),aux_images(kind, 9, 16, 3, seed=5)
    assert np.array_equal(a, b) and not np.array_equal(a, c)
    assert torch.equal(torch.get_rng_state(), state) and np.array_equal(np.random.get_state()[1], ns)
    flat = a.reshape(9, -1)
    assert len(np.unique(flat, axis=0)) == 9

def test_gaussian_statistics():
    "N(0,.5) clipped to [-1,1]: standard deviation .47972, 4.55 % clipped"
    a = aux_images('gaussian', 200, 32, 3).astype(float)/127.5-1
    assert abs(a.mean()) < .003 and a.std() == pytest.approx(.47972, abs=.002)
    assert (abs(a) > .9999).mean() == pytest.approx(.0463, abs=.002)   # 4.55 % + what rounds to the last level

def test_rademacher_is_two_values_in_halves():
    a = aux_images('rademacher', 200, 32, 3)
    assert set(np.unique(a)) == {0, 255} and (a == 255).mean() == pytest.approx(.5, abs=.004)

def test_blobs_are_a_thresholded_blur():
    from scipy.ndimage import gaussian_filter
    a = aux_images('blob', 100, 32, 1)
    assert set(np.unique(a)) <= {0, *range(191, 256)} and .1 < (a > 0).mean() < .5
    x = torch.rand(2, 3, 24, 17, dtype=torch.float64)
    want = np.stack([[gaussian_filter(c, 1.5, mode='mirror', truncate=4) for c in im] for im in x.numpy()])
    assert np.allclose(blurred(x, 1.5).numpy(), want, atol=1e-6)
    g = torch.Generator().manual_seed(0)
    raw = (torch.rand(100, 1, 32, 32, generator=g) < .7).double().numpy()[:, 0]
    ref = np.stack([gaussian_filter(o, 1.5, mode='mirror') for o in raw])
    ref = np.rint(((np.where(ref < .75, 0, ref)*2-1).clip(-1, 1)+1)*127.5).astype(int)
    assert (abs(a.astype(int)-ref) > 1).mean() < 1e-3                  # pixels at the threshold may fall on either side

def test_textures_have_a_falling_spectrum_and_differ_in_grain():
    a = aux_images('textures', 200, 32, 1).astype(float)
    f = abs(np.fft.rfft2(a-a.mean((1, 2), keepdims=True)))**2
    low,high = f[:, :4, :4].mean((1, 2)),f[:, 12:20, 12:].mean((1, 2))
    ratio = np.log10(low/high)
    assert (ratio > 0).mean() > .9 and ratio.min() < .7 and ratio.max() > 3    # from grain to clouds

@pytest.mark.parametrize('kw,msg', [
    (dict(kind='blobs'), "got 'blobs'. Did you mean 'blob'"), (dict(n=0), 'n >= 1'), (dict(size=1), 'sides >= 2'),
    (dict(channels=2), '1 or 3 channels')])
def test_bad_aux_images(kw, msg):
    with pytest.raises(ValueError, match=msg): aux_images(**{**dict(kind='blob', n=4, size=8, channels=1), **kw})

def test_training_images_normalised_elsewhere_are_refused():
    "Auxiliary images would be of another range than they, which the network could tell apart"
    class Elsewhere(Callback):
        order = -1
        def before_batch(self): self.learn.xb = (self.x*4,)
    with pytest.raises(ValueError, match=r'ODNL expected images with pixels in \[0,1\]'):
        tiny_learner(ODNL(aux_images('blob', 20, 8, 1))).fit(1, cbs=Elsewhere())

def test_loaders_of_torch_and_wrong_kinds_of_aux():
    with pytest.raises(TypeError, match='got a PosixPath|got a WindowsPath'): ODNL(Path('images'))
    with pytest.raises(TypeError, match='got a NoneType'): ODNL(None)
    assert len(ODNL(tiny_dls()).aux) == 48        # DataLoaders: their training images
