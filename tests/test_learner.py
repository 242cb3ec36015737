"robust_learner, recipes and hold_out: what goes in, what is refused, what stays as it was"
import copy, inspect, math, pickle, random, warnings, zipfile
from functools import partial
from types import SimpleNamespace
import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn
from torchvision import models as tv
from torchvision.models import VisionTransformer, resnet18
from fastcore.basics import noop
from fastcore.docments import docments
from fastai.callback.core import Callback
from fastai.callback.schedule import fine_tune, fit_one_cycle  # noqa: F401 (patch Learner)
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.data.transforms import ColReader, Normalize, RandomSplitter, get_image_files, parent_label
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.optimizer import SGD
from fastai.vision.core import PILImageBW
from fastai.vision.data import ImageBlock
from fastai.vision.learner import create_body, create_head, default_split, model_meta, vision_learner
from conftest import params, tiny_arrays, tiny_dls
from fastrobust.basics import RobustWarning
from fastrobust.data.fromarrays import array_dls
from fastrobust.data.holdout import hold_out
from fastrobust.noise.laws import NoisyLabels
from fastrobust.noise.block import NoisyDataBlock, add_label_noise
from fastrobust.data.openset import aux_images
from fastrobust.data.weighting import weighted_dls
from fastrobust.inference.anyarch import UNCUT, needs_body
from fastrobust.inference.archs import family
from fastrobust.learner import robust_learner
from fastrobust.losses import BalancedGCELoss, CrossEntropy, GCELoss
from fastrobust.nets import small_cnn
from fastrobust.training.technique import Technique
from fastrobust.recipes import RECIPES, get_recipe, noisy_labels
from fastrobust.training.objective import Objective
from fastrobust.techniques.augloss import AugLoss
from fastrobust.techniques.augmix import AugMix
from fastrobust.techniques.logitclip import LogitClip
from fastrobust.techniques.logitnorm import LogitNorm
from fastrobust.stripping import strip
from fastrobust.techniques.odnl import ODNL

def net(): return small_cnn(3, 1, 8, norm='bn', depth=2)
def names(learn): return sorted(t.name for t in learn.cbs if isinstance(t, Technique))
def quiet(learn, n=1):
    with learn.no_bar(), learn.no_logging(): learn.fit(n)
    return learn

# --- what makes the learner ------------------------------------------------------------------------------------------
def test_a_module_gets_a_plain_learner():
    m,splitter = net(),lambda m: [list(m.parameters())]
    learn = robust_learner(tiny_dls(), m, LogitClip(1.), metrics=accuracy, opt_func=SGD, lr=.3, wd=.01,
                           splitter=splitter)
    assert type(learn) is Learner and learn.model is m and learn.opt_func is SGD and (learn.lr, learn.wd) == (.3, .01)
    assert names(learn) == ['logitclip'] and isinstance(learn.loss_func, Objective) and learn.splitter is splitter
    assert np.isfinite(quiet(learn).recorder.values[0]).all()

def test_without_recipe_and_techniques_it_is_plain_fastai():
    dls = tiny_dls()
    learn = robust_learner(dls, net(), metrics=accuracy)
    assert not isinstance(learn.loss_func, Objective) and isinstance(learn.loss_func, CrossEntropyLossFlat)
    assert len(learn.cbs) == len(Learner(dls, net()).cbs)

def test_a_function_goes_to_vision_learner_with_the_channels_of_the_data():
    learn = robust_learner(tiny_dls(), resnet18, pretrained=False)
    first = next(m for m in learn.model.modules() if isinstance(m, nn.Conv2d))
    assert first.in_channels == 1 and learn.model[-1][-1].out_features == 3 and names(learn) == []
    quiet(learn)
    colour = robust_learner(tiny_dls(channels=3), resnet18, pretrained=False)
    assert next(m for m in colour.model.modules() if isinstance(m, nn.Conv2d)).in_channels == 3
    given = robust_learner(tiny_dls(channels=3), resnet18, pretrained=False, n_in=3, lin_ftrs=[16], ps=.1)
    assert [m.out_features for m in given.model.modules() if isinstance(m, nn.Linear)] == [16, 3]

def test_another_maker():
    got = []
    def make(dls, arch, loss_func=None, wide=1):
        got.append((arch, wide)); return Learner(dls, net(), loss_func=loss_func)
    learn = robust_learner(tiny_dls(), 'some arch', LogitClip(1.), learner_func=make, wide=3)
    assert got == [('some arch', 3)] and names(learn) == ['logitclip']
    bare = robust_learner(tiny_dls(), learner_func=partial(Learner, model=net()), loss_func=GCELoss())
    assert isinstance(bare.loss_func, GCELoss)

def test_looking_at_the_channels_leaves_every_stream():
    dls = tiny_dls()
    state = random.getstate(),np.random.get_state()[1].copy(),torch.get_rng_state(),dls.train.rng.getstate()
    got = {}
    def make(dls, n_in=3, loss_func=None):
        got.update(n_in=n_in, same=random.getstate() == state[0] and (np.random.get_state()[1] == state[1]).all()
                   and torch.equal(torch.get_rng_state(), state[2]) and dls.train.rng.getstate() == state[3])
        return Learner(dls, net(), loss_func=loss_func)
    robust_learner(dls, learner_func=make)
    assert got == dict(n_in=1, same=True)

def weights_from_nowhere(monkeypatch):
    sd = resnet18(weights=None).state_dict()
    monkeypatch.setattr(torchvision.models._api, 'load_state_dict_from_url', lambda *a, **k: sd)

@pytest.mark.parametrize('channels,own', [(1, False), (1, True), (3, False)])
def test_pretrained_colour_weights_on_grey_images_get_averaged_statistics(monkeypatch, channels, own):
    weights_from_nowhere(monkeypatch)
    dls = tiny_dls(channels=channels, normalize=own)
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter('always')
        learn = robust_learner(dls, resnet18)
    said = [str(o.message) for o in w if issubclass(o.category, RobustWarning)]
    norms = [t for t in learn.dls.train.after_batch.fs if isinstance(t, Normalize)]
    assert len(norms) == 1 and bool(said) == (channels == 1 and not own)
    mean = norms[0].mean.flatten().tolist()
    if channels == 3: assert mean == pytest.approx([.485, .456, .406])          # fastai's own
    elif own: assert mean != pytest.approx([(.485+.456+.406)/3], abs=1e-3)
    else:
        assert mean == pytest.approx([(.485+.456+.406)/3]) and norms[0].std.item() == pytest.approx((.229+.224+.225)/3)
        assert 'used on 1 channel(s)' in said[0] and '(0.449, 0.226)' in said[0]
    assert learn.opt.frozen_idx == 2
    quiet(learn)
    assert torch.allclose(learn.dls.train.one_batch()[0].mean(), torch.tensor(0.), atol=3)

@pytest.mark.parametrize('kw', [dict(pretrained=False), dict(normalize=False)], ids=str)
def test_no_statistics_where_none_are_wanted(monkeypatch, kw):
    weights_from_nowhere(monkeypatch)
    dls = tiny_dls(normalize=False)
    robust_learner(dls, resnet18, **kw)
    assert not [t for t in dls.train.after_batch.fs if isinstance(t, Normalize)]

# --- loss and techniques ---------------------------------------------------------------------------------------------
def test_one_technique_or_a_list_or_a_recipe_with_more():
    dls = tiny_dls()
    assert names(robust_learner(dls, net(), LogitClip(1.))) == ['logitclip']
    assert names(robust_learner(dls, net(), (LogitClip(1.), AugMix()))) == ['augmix', 'logitclip']
    mine = lambda dls: (GCELoss(.5), [AugMix(lam=3.)])
    learn = robust_learner(dls, net(), LogitNorm(), recipe=mine)
    assert names(learn) == ['augmix', 'logitnorm'] and learn.loss_func.base.q == .5 and learn.augmix.lam == 3.

def test_a_callback_that_is_no_technique_is_added():
    class Other(Callback): pass
    assert robust_learner(tiny_dls(), net(), [Other()]).other

def test_your_loss_beats_the_recipes():
    learn = robust_learner(tiny_dls(), net(), recipe='noisy_labels', loss_func=CrossEntropy())
    assert isinstance(getattr(learn.loss_func, 'base', learn.loss_func), CrossEntropy)

def test_learners_do_not_share_a_loss_or_change_a_shared_one():
    one = GCELoss(.3)
    a,b = (robust_learner(tiny_dls(), net(), LogitClip(1.), recipe=lambda dls: (one, [])) for _ in range(2))
    quiet(a); quiet(b)
    assert a.loss_func.base is not b.loss_func.base and a.loss_func.base is not one

def test_cbs_work_beside_techniques():
    learn = robust_learner(tiny_dls(), net(), LogitClip(1.), cbs=AugMix())
    assert names(learn) == ['augmix', 'logitclip']

def test_aux_goes_to_a_recipe_that_takes_it():
    aux,got = aux_images('blob', 20, 8, 1),[]
    def open_set(_dls, aux=None): got.append(aux); return None,[ODNL(aux)]
    learn = robust_learner(tiny_dls(), net(), recipe=open_set, aux=aux)
    assert got[0] is aux and names(learn) == ['odnl'] and isinstance(learn.loss_func.base, CrossEntropyLossFlat)
    assert names(robust_learner(tiny_dls(), net(), recipe=lambda dls, **kw: (None, [ODNL(**kw)]), aux=aux)) == ['odnl']
    with pytest.raises(ValueError, match='takes no `aux` images'):
        robust_learner(tiny_dls(), net(), recipe=partial(noisy_labels, q=.5), aux=aux)

def test_the_noise_of_the_data_adds_its_callbacks():
    dls = add_label_noise(tiny_dls(), NoisyLabels('symmetric', .4, noisy_valid='both'))
    learn = robust_learner(dls, net(), metrics=accuracy)
    quiet(learn)
    assert 'acc_true' in learn.recorder.metric_names

# --- recipes ---------------------------------------------------------------------------------------------------------
@pytest.mark.filterwarnings('ignore::fastrobust.basics.RobustWarning')
def test_noisy_labels_trains_on_really_noisy_images_exports_and_predicts(tmp_path):
    dls = add_label_noise(tiny_dls(), NoisyLabels('symmetric', .4))
    learn = robust_learner(dls, net(), recipe='noisy_labels', metrics=accuracy, path=tmp_path)
    quiet(learn, 2)
    learn.export()
    x = tiny_arrays()[0][:4]
    back = load_learner(tmp_path/'export.pkl')
    assert torch.allclose(back.get_preds(dl=back.dls.test_dl(x))[0], learn.get_preds(dl=learn.dls.test_dl(x))[0],
                          atol=1e-6)
    assert not hasattr(back.dls, 'noise') and back.predict(x[0])[0] in '012'

@pytest.mark.parametrize('name', RECIPES)
def test_a_recipe_says_what_it_is(name):
    r,lines = RECIPES[name],repr(RECIPES[name]).splitlines()
    assert lines[0] == f"Recipe {name!r}" and r.__name__ == name and r.__doc__ == r.make.__doc__
    assert [o.split()[0] for o in lines[1:]] == ['use', 'what', 'settings', 'epochs', 'cost']
    params = inspect.signature(r).parameters            # what robust_learner looks at
    assert list(params) == list(inspect.signature(r.make).parameters) and next(iter(params)) == 'dls'
    assert all(f'{k}=' in lines[3] for k in list(params)[1:]) and f'{r.epochs},' in lines[4] and r.cost in lines[5]
    assert pickle.loads(pickle.dumps(r)).make is r.make
    assert all(docments(r)[k] for k in params) and type(r).__doc__.startswith('What to do about a problem')

def test_noisy_labels_is_a_function_you_could_have_written():
    loss,ts = noisy_labels(tiny_dls())
    assert all(isinstance(t, Technique) for t in ts) and len(ts) <= 1 and not any(isinstance(t, AugMix) for t in ts)
    known = RECIPES['noisy_labels']
    assert known.epochs == int(known.epochs) > 0 and known.make is noisy_labels
    assert type(known(tiny_dls())[0]) is type(loss)
    a,b = noisy_labels(tiny_dls())[0],noisy_labels(tiny_dls())[0]
    assert robust_learner(tiny_dls(), net(), recipe=partial(noisy_labels, q=.5)).loss_func.base.q == .5
    assert a is not b and get_recipe(noisy_labels) is noisy_labels and get_recipe('noisy_labels') is known

@pytest.mark.parametrize('c,q', [(2, .7), (10, .7), (26, .7*math.log(10)/math.log(26)), (1000, .7/3)])
def test_of_many_classes_an_unknown_item_counts_as_among_ten(c, q):
    dls = SimpleNamespace(c=c)
    (gce,_),(own,_) = noisy_labels(dls),noisy_labels(dls, q=.5)
    assert gce.q == pytest.approx(q) and own.q == .5
    if c >= 10: assert c**-gce.q == pytest.approx(10**-.7)      # the weight p^q where all p = 1/c

@pytest.mark.parametrize('steps,want', [(63, 8), (57, 9), (50, 10), (43, 12), (40, 12), (1, 12), (500, 8)])
@pytest.mark.parametrize('name', RECIPES)
def test_where_an_epoch_has_few_steps_the_recipe_says_more(name, steps, want):
    r = RECIPES[name]
    n = 4*steps
    dls = array_dls(np.zeros((n+4, 4, 4), np.uint8), np.arange(n+4)%2, valid_pct=4/(n+4), bs=4)
    grows = name in ('noisy_labels', 'open_world')
    assert len(dls.train) == steps
    assert r.epochs_for(dls) == (want if grows else r.epochs) and ('up to 12' in repr(r)) == grows

@pytest.mark.parametrize('name,first,body', [('corruption', 12., 3.), ('noisy_labels+corruption', 3., 1.)])
def test_the_divergence_weighs_less_on_a_pretrained_body(monkeypatch, name, first, body):
    dls = array_dls(np.zeros((16, 32, 32, 3), np.uint8), np.arange(16)%2, valid_pct=.25, bs=4)
    net = resnet18()
    net.bn1.num_batches_tracked += 1    # as of weights that come with it
    monkeypatch.setattr(tv._api, 'load_state_dict_from_url', lambda *a, **kw: net.state_dict())
    def scratch(pretrained=True): return small_cnn(2, 3) if pretrained else None
    def lam(arch, recipe=name, **kw):
        learn = robust_learner(dls, arch, recipe=recipe, **kw)
        return next(t for t in learn.cbs if isinstance(t, AugMix)).lam
    assert lam(resnet18) == body and lam(resnet18, pretrained=False) == lam(small_cnn(2, 3)) == first
    assert lam(nn.Sequential(net, nn.Linear(1000, 2))) == body and lam(scratch) == first
    assert lam(None, learner_func=lambda dls, loss_func: vision_learner(dls, resnet18, loss_func=loss_func)) == body
    assert lam(resnet18, recipe=partial(RECIPES[name], lam=5.)) == 5.
    assert lam(small_cnn(2, 3), recipe=partial(RECIPES[name], pretrained=True)) == body
    assert lam(None, learner_func=lambda dls, loss_func: Learner(dls, small_cnn(2, 3), loss_func)) == first

def test_epochs_of_a_stream():
    r = RECIPES['noisy_labels']
    assert r.epochs_for(SimpleNamespace(train=iter([]))) == r.epochs

@pytest.mark.parametrize('name', ['noisy_labels', 'open_world', 'noisy_labels+corruption'])
def test_where_classes_differ_in_size_the_loss_knows_their_sizes(name):
    X = np.zeros((64, 8, 8), np.uint8)
    def loss(y, w=None):
        dls = array_dls(X, y, valid=(X[:4], y[:4]), bs=8, vocab=[0, 1, 2])
        if w is not None: dls = weighted_dls(dls, w)
        made,ts = RECIPES[name](dls)
        return made or ts[0].base_loss
    tail = np.repeat([0, 1, 2], [40, 20, 4])
    assert loss(tail).counts == [40, 20, 4] and loss(tail).q == .7
    assert type(loss(np.repeat([0, 1], [40, 24]))) is GCELoss   # of a class that training lacks nothing is known
    assert loss(np.repeat([0, 1], [60, 4])).counts == [60, 4, 32]
    assert type(loss(np.repeat([0, 1, 2], [27, 20, 17]))) is GCELoss    # a draw by chance
    assert type(loss(tail, 'balanced')) is GCELoss                      # the loader has levelled them
    doubted = np.where(np.arange(64) == 0, .5, 1.)                      # one item is drawn half as often
    np.testing.assert_allclose(loss(tail, doubted).counts, np.array([39.5, 20, 4])*64/63.5, atol=.01)
    half = np.where(tail == 2, .2, 1.)
    np.testing.assert_allclose(np.divide(loss(tail, half).counts[0], loss(tail, half).counts), [1, 2, 50], rtol=.01)

@pytest.mark.parametrize('name,loss', [('ood', None), ('open_world', (GCELoss, BalancedGCELoss))])
def test_without_images_of_other_things_textures_are_made(name, loss):
    import warnings
    dls = tiny_dls()
    aux = aux_images('blob', 70, 8, 1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        made,(t,) = RECIPES[name](dls)
    assert len(t.aux) == 1000 and (made is None if loss is None else isinstance(made, loss))
    assert any("'open_world' got no `aux`" in str(o.message) for o in said) == (name == 'open_world')
    own,(o,) = RECIPES[name](dls, aux=aux)
    assert len(o.aux) == 70 and type(t) is type(o) is ODNL and t.eta == o.eta == .1 and type(own) is type(made)

def test_textures_are_grey_or_in_colour(monkeypatch):
    monkeypatch.setattr('fastrobust.recipes.peek_images', lambda dls: torch.zeros(2, 4, 8, 8))
    with pytest.raises(ValueError, match="1 or 3 channels for the textures that the recipe 'ood' generates, got 4"):
        RECIPES['ood'](tiny_dls())

# --- refusals --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('kw,err,msg', [
    (dict(recipe='noisy_label'), ValueError, "expected a recipe, got 'noisy_label'. Did you mean 'noisy_labels'"),
    (dict(recipe=3), ValueError, 'expected a recipe, got 3'),
    (dict(techniques='logitclip'), TypeError, "got 'logitclip'. Did you mean 'LogitClip'"),
    (dict(techniques=[LogitClip]), TypeError, r'got the class LogitClip. Write LogitClip\(...\)'),
    (dict(techniques=GCELoss()), TypeError, 'expected techniques such as AugMix'),
    (dict(techniques=5), TypeError, 'expected techniques such as AugMix.*got 5'),
    (dict(techniques=[AugMix(), AugMix()]), ValueError, 'each technique once.* got AugMix twice'),
    (dict(techniques=[AugMix()], recipe=lambda dls: (None, [AugMix()])), ValueError,
     'each technique once.* got AugMix twice'),
    (dict(aux=aux_images('blob', 4, 8, 1)), ValueError, r'`aux` images are for recipes, got no.*ODNL\(aux\)'),
    (dict(aux=aux_images('blob', 4, 8, 1), recipe=lambda dls: (None, [])), ValueError, 'takes no `aux` images'),
    (dict(pretrained=True, n_in=1), ValueError, 'plain Learner on your Sequential does not take pretrained, n_in'),
    (dict(lin_ftrs=[4]), ValueError, 'does not take lin_ftrs.*Leave them out')])
def test_refused_by_name_before_anything_is_built(kw, err, msg):
    dls,m = tiny_dls(),net()
    before,n = copy.deepcopy(m.state_dict()),len(dls.train.after_batch.fs)
    with pytest.raises(err, match=msg): robust_learner(dls, m, **kw)
    assert all(torch.equal(v, before[k]) for k,v in m.state_dict().items()) and len(dls.train.after_batch.fs) == n

def test_a_doubled_technique_between_cbs_and_techniques_is_refused():
    with pytest.raises(ValueError, match='the learner already has AugMix'):
        robust_learner(tiny_dls(), net(), AugMix(), cbs=AugMix())

def test_odd_company_warns_when_the_learner_is_made():
    with pytest.warns(RobustWarning, match='both change the logits'):
        robust_learner(tiny_dls(), net(), [LogitClip(1.), LogitNorm()])

def test_unknown_keywords_of_vision_learner():
    with pytest.raises(TypeError, match='widht'): robust_learner(tiny_dls(), resnet18, pretrained=False, widht=3)

def test_signature_and_docs_of_vision_learner_show_through():
    ps = inspect.signature(robust_learner).parameters
    assert list(ps)[:7] == ['dls', 'arch', 'techniques', 'recipe', 'loss_func', 'aux', 'learner_func']
    assert 'pretrained' in ps and 'wd' in ps
    assert inspect.signature(vision_learner).parameters['pretrained'].default == ps['pretrained'].default

# --- hold_out --------------------------------------------------------------------------------------------------------
def pixels(ds): return [np.asarray(o[0]).tobytes() for o in ds]
def labels(ds): return [int(o[1]) for o in ds]

def check_split(dls, pct, seed, n, given=None):
    "Disjoint, complete, labels as given, the original untouched"
    before = pixels(dls.train_ds),labels(dls.train_ds),len(dls.valid_ds)
    state = random.getstate(),np.random.get_state()[1].copy(),torch.get_rng_state()
    new = hold_out(dls, pct, seed=seed)
    assert random.getstate() == state[0] and (np.random.get_state()[1] == state[1]).all()
    assert torch.equal(torch.get_rng_state(), state[2])
    a,b = pixels(new.train_ds),pixels(new.valid_ds)
    assert len(b) == n and not set(a) & set(b) and sorted(a+b) == sorted(before[0])
    want = dict(zip(before[0], before[1] if given is None else given))
    assert all(want[p] == k for ds in (new.train_ds, new.valid_ds) for p,k in zip(pixels(ds), labels(ds)))
    assert (pixels(dls.train_ds), labels(dls.train_ds), len(dls.valid_ds)) == before and dls.train is not new.train
    assert new.train.bs == dls.train.bs and not new.valid.shuffle and new.train.shuffle
    assert list(new.vocab) == list(dls.vocab)
    return new

def test_arrays():
    dls = tiny_dls()
    new = check_split(dls, .25, 0, 12)
    assert type(new.train) is type(dls.train) and type(new.valid) is type(dls.valid)
    same = lambda o: pixels(hold_out(dls, .25, seed=o).valid_ds)
    assert same(0) == same(0) != same(1)
    quiet(Learner(new, net(), loss_func=CrossEntropyLossFlat()))

def test_noisy_arrays_keep_their_given_labels():
    dls = add_label_noise(tiny_dls(), NoisyLabels('symmetric', .5))
    new = check_split(dls, .25, 3, 12, dls.noise.y_noisy)
    assert set(labels(new.valid_ds)) <= {0, 1, 2}
    for b in new.valid: assert sorted(b[1].tolist()) == sorted(labels(new.valid_ds))

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    p,g = tmp_path_factory.mktemp('imgs'),np.random.default_rng(0)
    for i in range(40):
        d = p/('abc'[i%3]); d.mkdir(exist_ok=True)
        Image.fromarray(g.integers(0, 256, (8, 8), dtype=np.uint8)).save(d/f'{i}.png')
    return p

SPLIT = dict(get_items=get_image_files, get_y=parent_label, splitter=RandomSplitter(.25, seed=1))
BLOCKS = ImageBlock(PILImageBW), CategoryBlock

def test_image_folders(folder):
    dls = DataBlock(BLOCKS, **SPLIT).dataloaders(folder, bs=4, num_workers=0, device='cpu')
    new = check_split(dls, .2, 0, 6)
    quiet(Learner(new, net(), loss_func=CrossEntropyLossFlat()))

@pytest.mark.parametrize('how', ['add_label_noise', 'NoisyDataBlock'])
def test_noisy_image_folders(folder, how):
    law = NoisyLabels('symmetric', .5, seed=2)
    if how == 'NoisyDataBlock':
        dls = NoisyDataBlock(BLOCKS, noise=law, **SPLIT).dataloaders(folder, bs=4, num_workers=0, device='cpu')
    else: dls = add_label_noise(DataBlock(BLOCKS, **SPLIT).dataloaders(folder, bs=4, num_workers=0, device='cpu'), law)
    new = check_split(dls, .2, 0, 6, dls.noise.y_noisy)
    true = {p: 'abc'.index(f.parent.name) for p,f in zip(pixels(dls.train_ds), dls.train_ds.tls[0].items)}
    wrong = [true[p] != k for ds in (new.train_ds, new.valid_ds) for p,k in zip(pixels(ds), labels(ds))]
    assert sum(wrong) == 15

def test_data_frames(folder):
    fs = get_image_files(folder)
    df = pd.DataFrame(dict(f=[str(f) for f in fs], y=[f.parent.name for f in fs]))
    block = DataBlock(BLOCKS, get_x=ColReader('f'), get_y=ColReader('y'), splitter=RandomSplitter(.25, seed=1))
    dls = block.dataloaders(df, bs=4, num_workers=0, device='cpu')
    check_split(dls, .2, 0, 6)
    noisy = add_label_noise(dls, NoisyLabels('symmetric', .5))
    check_split(noisy, .2, 0, 6, noisy.noise.y_noisy)

def test_few_items_still_train():
    dls = tiny_dls(n=18, bs=16)
    new = hold_out(dls, .4)
    assert len(new.train_ds) == 11 and sum(len(b[1]) for b in new.train) == 11 and dls.train.drop_last

@pytest.mark.parametrize('pct', [0, 1, -.1, 1.5, .001, .999, float('nan')])
def test_bad_share(pct):
    msg = r'expected `pct` in \(0,1\) that leaves items on both sides, got .* of 48 items'
    with pytest.raises(ValueError, match=msg): hold_out(tiny_dls(), pct)

def test_other_loaders_are_refused():
    dl = DataLoader([1, 2, 3], bs=1)
    with pytest.raises(TypeError, match='expected dls over a fastai `Datasets`.*got list'):
        hold_out(DataLoaders(dl, dl))

def test_classes_as_architectures_and_as_losses():
    class Net(nn.Sequential):
        def __init__(self): super().__init__(nn.Flatten(), nn.Linear(64, 3))
    make = lambda dls, arch, **kw: Learner(dls, arch(), **kw)       # as text learners take AWD_LSTM
    learn = robust_learner(tiny_dls(), Net, learner_func=make, recipe='noisy_labels')
    assert isinstance(learn.model, Net) and isinstance(learn.loss_func.base, (GCELoss, BalancedGCELoss))
    with pytest.raises(TypeError, match='expected a loss, got the class GCELoss'):
        robust_learner(tiny_dls(), Net(), loss_func=GCELoss)
    with pytest.raises(TypeError, match='Write small_cnn'): robust_learner(tiny_dls(), small_cnn)
    with pytest.raises(TypeError, match='expected an architecture'): robust_learner(tiny_dls())
    with pytest.raises(TypeError, match='return .loss, techniques.'):
        robust_learner(tiny_dls(), Net(), recipe=lambda dls: GCELoss())

def test_the_recipe_takes_a_rate():
    "With a rate, or an estimate of it, the recipe trains two networks that choose"
    from functools import partial
    from fastrobust.recipes import noisy_labels
    from fastrobust.techniques.jocor import JoCoR
    learn = robust_learner(tiny_dls(), small_cnn(3, 1, 8, norm=None, depth=2),
                           recipe=partial(noisy_labels, tau=(.3, .2, .4)))
    assert isinstance(learn.jocor, JoCoR) and learn.jocor.tau == .3 and len(learn.model.nets) == 2
    assert isinstance(learn.loss_func.base, type(learn.dls.train_ds.loss_func))

# --- recipes against the shift ---------------------------------------------------------------------------------------
def shaped_dls(size, c=1):
    X = np.random.default_rng(0).integers(0, 256, (24, size, size, *([3] if c == 3 else [])), dtype=np.uint8)
    return array_dls(X, np.arange(24)%3, valid=(X[:8], np.arange(8)%3), bs=8)

@pytest.mark.parametrize('size,c,severity', [(16, 1, 3), (64, 3, 3), (80, 3, 1)])
def test_recipes_against_the_shift_take_the_papers_severity_for_the_size(size, c, severity):
    from fastrobust.recipes import corruption, noisy_labels_corruption
    dls = shaped_dls(size, c)
    state = torch.get_rng_state()
    loss,(t,) = corruption(dls)
    assert torch.equal(state, torch.get_rng_state())
    assert loss is None and type(t) is AugMix and (t.lam, t.severity, t.views) == (12., severity, 2)
    assert noisy_labels_corruption(dls)[1][0].lam == 3
    _,(t,) = noisy_labels_corruption(dls, q=.5, lam=6., severity=2, views=1)
    assert type(t) is AugLoss and (t.lam, t.severity, t.views, t.base_loss.q) == (6., 2, 1, .5)

@pytest.mark.slow
def test_the_recipe_of_both_trains_on_gce_and_validates_on_the_plain_loss():
    dls = shaped_dls(16)
    learn = robust_learner(dls, small_cnn(3, 1, 8, norm=None, depth=2), recipe='noisy_labels+corruption',
                           metrics=accuracy)
    assert set(RECIPES) >= {'noisy_labels', 'corruption', 'noisy_labels+corruption'}
    quiet(learn)
    assert 'jsd' in learn.recorder.metric_names and isinstance(learn.augloss.base_loss, GCELoss)
    z,y = learn.get_preds(act=noop)
    assert abs(learn.validate()[0] - torch.nn.functional.cross_entropy(z, y.long()).item()) < 1e-5
    with pytest.raises(ValueError, match='data set of images'): get_recipe('corruption')(SimpleNamespace(
        loaders=[0], train=SimpleNamespace(one_batch=lambda: (torch.zeros(4, 5), torch.zeros(4)))))

# --- architectures that vision_learner cannot cut --------------------------------------------------------------------
SMALL = ('mobilenet_v2', 'mnasnet0_5', 'shufflenet_v2_x0_5', 'googlenet', 'inception_v3', 'maxvit_t', 'vit_b_32',
         'alexnet', 'vgg11', 'resnet18', 'wide_resnet50_2', 'mobilenet_v3_small', 'efficientnet_b0', 'densenet121',
         'squeezenet1_1', 'convnext_tiny', 'regnet_x_400mf', 'swin_t')
SIZE = dict(alexnet=63, inception_v3=75, maxvit_t=224, vit_b_32=224)

def colour_dls(size=32, n=8, bs=4, **kw): return tiny_dls(n=n, size=size, channels=3, bs=bs, **kw)
def linear(m): return [o.out_features for o in m.modules() if isinstance(o, nn.Linear)]
def vector_weights(monkeypatch, arch):
    "A download gives the weights of this network"
    m = arch()
    monkeypatch.setattr(torchvision.models._api, 'load_state_dict_from_url', lambda *a, **k: m.state_dict())
    return m

def fastai_cuts(net, x):
    "Whether fastai's body does what the network does up to its pooling, and no convolution is lost"
    given = {}
    try: body = create_body(copy.deepcopy(net), 3, False).eval()
    except StopIteration: return False
    rest = list(net.children())[len(body):]
    hook = rest[0].register_forward_pre_hook(lambda m, args: given.update(x=args[0]))
    with torch.no_grad():
        net(x)
        try: out = body(x)
        except (RuntimeError, NotImplementedError): return False
        finally: hook.remove()
    lost = any(isinstance(o, nn.Conv2d) for r in rest for o in r.modules())
    return out.shape == given['x'].shape and torch.equal(out, given['x']) and not lost

@pytest.mark.parametrize('name', [o for o in SMALL if o != 'densenet121'])
def test_fastai_keeps_what_it_cuts_rightly_and_nothing_else(name):
    arch = getattr(tv, name)
    if arch in model_meta: assert not needs_body(arch); return
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        net = arch(weights=None).eval()
    x = torch.rand(2, 3, *[SIZE.get(name, 32)]*2)
    assert needs_body(arch) == needs_body(partial(arch, progress=False)) == (not fastai_cuts(net, x))

def test_every_family_of_torchvision_was_looked_at(monkeypatch):
    every = {family(tv.get_model_builder(o)) for o in tv.list_models(module=tv)}
    assert {family(getattr(tv, o)) for o in SMALL} == every and {family(getattr(tv, o)) for o in SMALL[:7]} == UNCUT
    others = 'resnet10t',net(),None,partial(small_cnn, 3),nn.Sequential,tv.MobileNetV2
    assert not any(map(needs_body, others))
    monkeypatch.setitem(model_meta, tv.mobilenet_v2, dict(cut=-1, split=default_split))     # the user says where
    assert not needs_body(tv.mobilenet_v2)

@pytest.mark.parametrize('name', ['resnet18', 'mobilenet_v3_small', 'regnet_x_400mf', 'densenet121'])
def test_where_fastai_works_it_is_fastais_learner(name):
    arch,state = getattr(tv, name),torch.get_rng_state()
    learn = robust_learner(colour_dls(), arch, pretrained=False, lin_ftrs=[8])
    torch.set_rng_state(state)
    want = vision_learner(colour_dls(), arch, pretrained=False, lin_ftrs=[8])
    a,b = learn.model.state_dict(),want.model.state_dict()
    assert list(a) == list(b) and all(torch.equal(v, b[k]) for k,v in a.items()) and learn.splitter is want.splitter

@pytest.mark.parametrize('name,channels', [('mobilenet_v2', 3), ('mnasnet0_5', 1), ('shufflenet_v2_x0_5', 1),
                                           ('googlenet', 3)])
def test_trains_exports_and_strips(name, channels, tmp_path):
    dls = tiny_dls(n=8, size=32, channels=channels, bs=4)
    learn = robust_learner(dls, getattr(tv, name), LogitClip(1.), pretrained=False, lin_ftrs=[8], metrics=accuracy,
                           path=tmp_path)
    assert type(learn) is Learner and learn.splitter is default_split and not learn.opt
    assert 'fastrobust' not in str({type(m) for m in learn.model.modules()})
    body,head = learn.model
    assert linear(body) == [] and linear(head) == [8, 3] and learn.arch is getattr(tv, name) and learn.n_out == 3
    assert next(m for m in body.modules() if isinstance(m, nn.Conv2d)).in_channels == channels
    before = params(learn).clone()
    quiet(learn)
    assert np.isfinite(learn.recorder.values[0]).all() and not torch.equal(before, params(learn))
    x = tiny_arrays(4, size=32, channels=channels)[0]
    probs = lambda o: o.get_preds(dl=o.dls.test_dl(x))[0]
    learn.export()
    torch.testing.assert_close(probs(load_learner(tmp_path/'export.pkl')), probs(learn))
    plain = strip(learn)
    torch.testing.assert_close(probs(plain), probs(learn))
    assert plain.splitter is default_split
    plain.export('plain.pkl')
    with zipfile.ZipFile(tmp_path/'plain.pkl') as z: assert b'fastrobust' not in z.read('plain/data.pkl')

@pytest.mark.parametrize('name', ['inception_v3', 'vit_b_32', 'maxvit_t'])
def test_networks_for_large_images(name):
    size = SIZE[name]
    learn = robust_learner(colour_dls(size, n=3, bs=3), getattr(tv, name), pretrained=False, lin_ftrs=[])
    x = torch.rand(2, 3, size, size)
    with torch.no_grad(): z = learn.model.eval()(x)
    assert z.shape == (2, 3) and linear(learn.model[1]) == [3]
    if name != 'inception_v3': return
    learn.model.train()
    assert learn.model(x).shape == (2, 3)
    with pytest.raises(ValueError, match='vit_b_32 can take.*224x224 pixels alone'):
        robust_learner(colour_dls(), tv.vit_b_32, pretrained=False)

def test_pretrained_it_is_frozen_and_normalised_as_fastais(monkeypatch):
    was = vector_weights(monkeypatch, tv.mobilenet_v2)
    dls = colour_dls(normalize=False)
    with warnings.catch_warnings():
        warnings.simplefilter('error', RobustWarning)
        learn = robust_learner(dls, tv.mobilenet_v2)
    norms = [t for t in dls.train.after_batch.fs if isinstance(t, Normalize)]
    assert len(norms) == 1 and norms[0].mean.flatten().tolist() == pytest.approx([.485, .456, .406])
    assert len([t for t in dls.valid.after_batch.fs if isinstance(t, Normalize)]) == 1
    assert learn.opt.frozen_idx == 1 and len(learn.opt.param_lists) == 2
    conv = learn.model[0].features[0][0].weight
    assert torch.equal(conv, was.features[0][0].weight)
    quiet(learn)
    assert torch.equal(conv, was.features[0][0].weight) and not conv.requires_grad
    with learn.no_bar(), learn.no_logging(): learn.fine_tune(1, freeze_epochs=0)
    assert not torch.equal(conv, was.features[0][0].weight)
    learn.unfreeze()
    learn.opt.set_hyper('lr', slice(1e-6, 1e-2))
    assert [h['lr'] for h in learn.opt.hypers] == pytest.approx([1e-6, 1e-2])
    again = robust_learner(dls, tv.mobilenet_v2)
    assert len([t for t in again.dls.train.after_batch.fs if isinstance(t, Normalize)]) == 1

@pytest.mark.parametrize('kw', [dict(pretrained=False), dict(normalize=False)], ids=str)
def test_no_statistics_for_a_body_where_none_are_wanted(monkeypatch, kw):
    vector_weights(monkeypatch, tv.mobilenet_v2)
    learn = robust_learner(colour_dls(normalize=False), tv.mobilenet_v2, **kw)
    assert not [t for t in learn.dls.train.after_batch.fs if isinstance(t, Normalize)]
    if 'pretrained' in kw: assert learn.opt is None         # nothing is frozen
    else: assert learn.opt.frozen_idx == 1

def test_a_pretrained_body_on_grey_images_gets_averaged_statistics(monkeypatch):
    vector_weights(monkeypatch, tv.mobilenet_v2)
    dls = tiny_dls(size=32, normalize=False)
    with pytest.warns(RobustWarning, match=r'used on 1 channel\(s\).*\(0.449, 0.226\)'):
        robust_learner(dls, tv.mobilenet_v2)
    t = dls.train.after_batch.fs[-1]
    assert isinstance(t, Normalize) and t.mean.shape == (1, 1, 1, 1) and t.std.item() == pytest.approx(.226, abs=1e-3)

def test_the_head_of_a_body_takes_fastais_settings(tmp_path):
    dls,kw = colour_dls(),dict(pretrained=False)
    bare = robust_learner(dls, tv.mobilenet_v2, **kw).model[1]
    want = create_head(1280, 3, pool=False)
    assert str(bare) == str(want)
    assert all((m.bias == 0).all() for m in bare.modules() if isinstance(m, nn.Linear) and m.bias is not None)
    settings = dict(lin_ftrs=[16], ps=.1, bn_final=True, lin_first=True, first_bn=False, y_range=(0, 1))
    learn = robust_learner(dls, tv.mobilenet_v2, n_out=5, concat_pool=False, pool=True, n_in=3, **settings, **kw,
                           opt_func=SGD, lr=.3, wd=.01, moms=(.9, .8, .9))
    assert str(learn.model[1]) == str(create_head(1280, 5, pool=False, **settings)) and learn.n_out == 5
    assert (learn.opt_func, learn.lr, learn.wd, learn.moms) == (SGD, .3, .01, (.9, .8, .9))
    head,split = nn.Linear(1280, 3),lambda m: [list(m.parameters())]
    learn = robust_learner(dls, tv.mobilenet_v2, custom_head=head, init=None, splitter=split, **kw)
    assert learn.model[1] is head and learn.splitter is split
    m = tv.mobilenet_v2(num_classes=2)
    torch.save(m.state_dict(), tmp_path/'w.pth')
    learn = robust_learner(dls, tv.mobilenet_v2, weights=tmp_path/'w.pth')
    assert torch.equal(learn.model[0].features[0][0].weight, m.features[0][0].weight)

class Vit(VisionTransformer):
    def __init__(self): super().__init__(32, 8, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=32)

def my_vit(pretrained=True): return Vit()       # noqa: ARG001
def my_resnet(pretrained=True): return resnet18(weights=None)      # noqa: ARG001
def my_stop(pretrained=True): raise StopIteration('mine')       # noqa: ARG001

@pytest.mark.parametrize('channels', [1, 3])
def test_functions_of_the_user_that_fastai_cannot_cut(channels):
    learn = robust_learner(tiny_dls(n=8, size=32, channels=channels, bs=4), my_vit, pretrained=False, lin_ftrs=[])
    assert isinstance(learn.model[0], Vit) and learn.model[0].conv_proj.in_channels == channels
    quiet(learn)
    assert type(robust_learner(colour_dls(), my_resnet, pretrained=False).model[0]) is nn.Sequential

def test_another_makers_errors_are_its_own():
    def make(dls, arch, loss_func=None): raise StopIteration('mine')        # noqa: ARG001
    with pytest.raises(StopIteration, match='mine'): robust_learner(colour_dls(), my_vit, learner_func=make)
    plain = lambda dls, arch, loss_func: Learner(dls, small_cnn(3, 3))
    learn = robust_learner(colour_dls(), tv.mobilenet_v2, learner_func=plain)
    assert isinstance(learn.model, nn.Sequential) and linear(learn.model) == [3]

@pytest.mark.parametrize('kw,err,msg', [
    (dict(cut=-1), ValueError, 'mobilenet_v2 is cut before its last linear layer, got cut=-1. Leave'),
    (dict(n_in=1), ValueError, 'expected n_in=3, the channels of the images, got 1'),
    (dict(widht=3), TypeError, 'widht')])
def test_refused_for_a_body(kw, err, msg):
    with pytest.raises(err, match=msg): robust_learner(colour_dls(), tv.mobilenet_v2, pretrained=False, **kw)
    with pytest.raises(ValueError, match='expected the number of outputs'):
        robust_learner(SimpleNamespace(loaders=[], c=None), tv.mobilenet_v2)
