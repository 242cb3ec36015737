"Misspelt or wrong things at the door: each is refused before anything is built or trained, in words that help"
import copy, inspect, random, re, warnings
from functools import cache, partial
from numbers import Real
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import mobilenet_v2, resnet18
from fasttransform import Transform
from fastai.callback.core import Callback
from fastai.callback.mixup import MixUp
from fastai.data.block import CategoryBlock, DataBlock, MultiCategoryBlock, RegressionBlock
from fastai.data.core import DataLoaders
from fastai.data.transforms import RandomSplitter
from fastai.interpret import ClassificationInterpretation
from fastai.learner import Learner
from fastai.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat, FocalLossFlat, LabelSmoothingCrossEntropyFlat
from fastai.metrics import accuracy
from fastai.tabular.data import TabularDataLoaders
from fastai.tabular.core import Categorify
from fastai.tabular.learner import tabular_learner
from fastai.vision.core import PILImage, PILImageBW
from fastai.vision.data import (BBoxBlock, BBoxLblBlock, ImageBlock, ImageDataLoaders, PointBlock,
                                SegmentationDataLoaders)
import fastrobust.all as fr
from conftest import params, tiny_dls, tiny_learner
from fastrobust.basics import RobustWarning
from fastrobust.data.openset import aux_images
from fastrobust.inference import archs
from fastrobust.learner import robust_learner
from fastrobust.losses import CrossEntropy, FuncLoss, GCELoss
from fastrobust.nets import small_cnn
from fastrobust.pixels import item_shape
from fastrobust.recipes import RECIPES
from fastrobust.techniques.alasca import ALASCA
from fastrobust.techniques.augmix import AugMix
from fastrobust.techniques.bases.openset import OpenSetRows
from fastrobust.techniques.jocor import JoCoR
from fastrobust.techniques.logitclip import LogitClip
from fastrobust.training.network import check_network
from fastrobust.training.technique import Technique

CE = CrossEntropyLossFlat()
def net(c=3, n=1): return small_cnn(c, n, 8, norm='bn', depth=2)

def refused(err, *says):
    "Within `with`: what raises `err` with these words, in this order"
    return pytest.raises(err, match='.*'.join(map(re.escape, says)))

# --- the architecture ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('name,says', [
    ('resnet19', "expected the name of a timm architecture, got 'resnet19'. Did you mean 'resnet18' or"),
    ('ResNet18', "got 'ResNet18'. Did you mean 'resnet18' or"),
    ('efficientnet-b0', "Did you mean 'efficientnet_b0' or"),
    ('googlenet', "Give torchvision's function: torchvision.models.googlenet, without quotes."),
    ('shufflenet_v2_x1_1', "Did you mean torchvision.models.shufflenet_v2_x"),
    ('vit', "Did you mean torchvision.models.vit_"),
    ('qqqq', "got 'qqqq'. All: timm.list_models()."),
    ('', "got ''. All: timm.list_models().")])
def test_a_misspelt_architecture(name, says):
    pytest.importorskip('timm')
    with refused(ValueError, says): robust_learner(tiny_dls(), name, pretrained=False)

def test_names_that_timm_knows_stay():
    pytest.importorskip('timm')
    assert isinstance(robust_learner(tiny_dls(size=32), 'resnet10t', pretrained=False), Learner)
    for name in ('resnet18.a1_in1k', 'timm/resnet18.a1_in1k', 'hf-hub:timm/resnet18.a1_in1k'):
        assert archs.timm_for(name).__name__ == 'timm'

def test_without_timm(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'timm', None)
    for name,other in (('resnet34', 'resnet34'), ('resnet10t', 'resnet18')):
        with pytest.raises(ImportError, match=f"'{name}', got none. `pip install timm`.*models.{other}."):
            robust_learner(tiny_dls(), name)

@pytest.mark.parametrize('arch,says', [
    (None, 'got none. Give one of these.'), (18, 'got 18. Give one of these.'),
    ('noisy_labels', "got 'noisy_labels'. That is a recipe: write recipe='noisy_labels'."),
    (LogitClip(1.), r'got a LogitClip. Techniques come after it: robust_learner(dls, resnet18, AugMix()).'),
    (LogitClip, 'got the class LogitClip. Techniques come after it'),
    ([LogitClip(1.)], 'got a list. Techniques come after it')])
def test_something_else_in_the_place_of_the_architecture(arch, says):
    with refused(TypeError, 'expected an architecture such as resnet18, a timm name or an nn.Module, ' + says):
        robust_learner(tiny_dls(), arch)

def test_a_learner_or_a_function_in_its_place():
    learn = tiny_learner()
    with pytest.raises(TypeError, match="got a Learner. A learner's network is learn.model."):
        robust_learner(learn.dls, learn)
    with pytest.raises(TypeError, match=r'got the function small_cnn. Write small_cnn\(3, 1\).'):
        robust_learner(tiny_dls(), small_cnn)
    for dls,got in ((learn, 'a Learner'), (None, 'None'), ('images', "'images'"), (resnet18, 'the function resnet18')):
        with pytest.raises(TypeError, match=f'expected DataLoaders, got {got}. The data come first'):
            robust_learner(dls, net())
    with pytest.raises(TypeError, match="`learner_func` as a function that makes a learner, got 'vision_learner'"):
        robust_learner(tiny_dls(), resnet18, learner_func='vision_learner')
    with pytest.raises(TypeError, match='expected `learner_func` to return a Learner, got a Sequential. Write return'):
        robust_learner(tiny_dls(), learner_func=lambda dls, **kw: net())
    with pytest.raises(TypeError, match=r"expected a loss, got 'gce'. Give one such as GCELoss\(.7\)."):
        robust_learner(tiny_dls(), net(), loss_func='gce')

# --- keywords --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('arch', [resnet18, mobilenet_v2, 'resnet10t', 'module'])
@pytest.mark.parametrize('word,meant', [('recepie', 'recipe'), ('tecniques', 'techniques'), ('technique', 'techniques'),
                                        ('metric', 'metrics'), ('cb', 'cbs'), ('loss_fun', 'loss_func'),
                                        ('lossfunc', 'loss_func'), ('learner_fn', 'learner_func')])
def test_a_misspelt_keyword(arch, word, meant):
    with pytest.raises(TypeError) as e: robust_learner(tiny_dls(), net() if arch == 'module' else arch, **{word: None})
    assert str(e.value) == f"expected a keyword that robust_learner knows, got `{word}`. Did you mean `{meant}`?"

@pytest.mark.parametrize('arch', [resnet18, mobilenet_v2, 'module'])
def test_keywords_of_others_and_of_nobody(arch):
    arch = net() if arch == 'module' else arch
    def says(**kw):
        with pytest.raises(TypeError) as e: robust_learner(tiny_dls(), arch, **kw)
        return str(e.value)
    assert 'Did you mean `pretrained`?' in says(pretraind=False) and 'Did you mean `n_out`?' in says(nout=3)
    assert 'got `qqqq`. Known: techniques, recipe, loss_func, aux, learner_func, metrics, cbs, ' in says(qqqq=3)
    assert 'recipe=partial(RECIPES[name], q=..)' in says(recipe='noisy_labels', q=.5)

def test_keywords_that_somebody_takes_go_on():
    pytest.importorskip('timm')
    learn = robust_learner(tiny_dls(size=32), 'resnet10t', pretrained=False, drop_path_rate=.1, wd=.1, ps=.2)
    assert learn.wd == .1
    got = {}
    def make(dls, arch=None, loss_func=None, metric=None, **kw):        # noqa: ARG001
        got.update(kw, metric=metric)
        return Learner(dls, net(), loss_func=loss_func)
    robust_learner(tiny_dls(), learner_func=make, metric=1, recepie=2)
    assert got == dict(metric=1, recepie=2)     # it takes whatever comes
    def closed(dls, loss_func=None, cb=None): return Learner(dls, net(), loss_func=loss_func, cbs=cb)
    robust_learner(tiny_dls(), learner_func=closed, cb=[])
    with pytest.raises(TypeError, match='got `recepie`. Did you mean `recipe`'):
        robust_learner(tiny_dls(), learner_func=closed, recepie='noisy_labels')

# --- a network that does not fit -------------------------------------------------------------------------------------
FEWER = 'expected a network with an output for each of the 10 classes, got one with 7. Build it for 10, as small_cnn('

@pytest.mark.parametrize('loss', [None, CE, GCELoss(), CrossEntropy(), nn.CrossEntropyLoss(), F.cross_entropy,
                                  partial(F.cross_entropy, label_smoothing=.1), FuncLoss(F.cross_entropy),
                                  FocalLossFlat(), LabelSmoothingCrossEntropyFlat()], ids=lambda o: type(o).__name__)
def test_too_few_outputs(loss):
    with refused(ValueError, FEWER + '10, 1) or, without `n_out`, robust_learner(dls, resnet18)'):
        robust_learner(tiny_dls(c=10), net(7), loss_func=loss)

def test_too_few_outputs_by_other_doors():
    pytest.importorskip('timm')
    dls = tiny_dls(c=10, channels=3, size=32)
    for arch in (resnet18, mobilenet_v2, 'resnet10t'):
        with refused(ValueError, FEWER): robust_learner(dls, arch, pretrained=False, n_out=7)
    for make in (lambda: [ALASCA()], lambda: [JoCoR(.2)], lambda: LogitClip(1.)):
        with refused(ValueError, FEWER): robust_learner(dls, net(7, 3), cbs=make())
        with refused(ValueError, FEWER): robust_learner(dls, net(7, 3), make())
    learn = tiny_learner(dls=dls)
    learn.model = net(7, 3)
    learn.add_cb(LogitClip(1.))
    before = params(learn)
    with refused(ValueError, FEWER): learn.fit(1)
    assert torch.equal(params(learn), before)

def test_more_outputs_than_classes_train_with_a_warning():
    with pytest.warns(RobustWarning, match='has 12 outputs for 10 classes: where one of the other 2 is the largest'):
        learn = robust_learner(tiny_dls(c=10), net(12))
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    with warnings.catch_warnings():
        warnings.simplefilter('error', RobustWarning)
        dls = tiny_dls(c=10, channels=3, size=32)
        learn = robust_learner(dls, resnet18, LogitClip(1.), pretrained=False, n_out=12)     # asked for
        with learn.no_bar(), learn.no_logging(): learn.fit(1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        learn = tiny_learner(LogitClip(1.), dls=tiny_dls(c=10))
        learn.model = net(12)
        for _ in range(2): learn.fit(1)
    assert len([o for o in said if '12 outputs' in str(o.message)]) == 1

GREY = 'for images of 3 channel(s), as in these data, got one whose first convolution takes 1. Build it for 3'
COLOUR = 'for images of 1 channel(s), as in these data, got one whose first convolution takes 3. Build it for 1'

def test_channels():
    grey,colour = tiny_dls(size=32),tiny_dls(size=32, channels=3)
    for dls,m,says,read in ((colour, net(3, 1), GREY, 'or read them in grey: ImageBlock(PILImageBW).'),
                            (grey, net(3, 3), COLOUR, 'or read them in colour: ImageBlock.')):
        for kw in (dict(), dict(techniques=LogitClip(1.)), dict(cbs=ALASCA())):
            with refused(ValueError, says, read): robust_learner(dls, m, **kw)
        learn = Learner(dls, m, loss_func=CE, cbs=LogitClip(1.))
        with refused(ValueError, says): learn.fit(1)
    for dls,n,says in ((colour, 1, GREY), (grey, 3, COLOUR)):
        with refused(ValueError, says): robust_learner(dls, resnet18, pretrained=False, n_in=n)
    with pytest.raises(ValueError, match='expected a network for images of 3x32x32, 3072 values, got one whose first '
                                         'layer takes 1024. Build it for 3072.'):
        robust_learner(colour, nn.Sequential(nn.Flatten(), nn.Linear(1024, 3)))

def multi_dls(c=4):
    image = lambda i: PILImage.create(np.random.default_rng(i).integers(0, 255, (8, 8, 3), dtype=np.uint8))
    return DataBlock((ImageBlock, MultiCategoryBlock), get_x=image, get_y=lambda i: [str(i%c), str((i+1)%c)],
                     splitter=RandomSplitter(.25, 0)).dataloaders(list(range(24)), bs=6, device='cpu', num_workers=0)

@pytest.mark.parametrize('c', [3, 5])
def test_outputs_for_several_labels(c):
    dls = multi_dls()
    with pytest.raises(ValueError, match=f'for each of the 4 classes, got one with {c}'): robust_learner(dls, net(c, 3))
    learn = robust_learner(dls, net(4, 3))
    assert isinstance(learn.loss_func, BCEWithLogitsLossFlat)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)

class Several(nn.Module):
    "Two heads, of which the last listed is not the one that is trained alone"
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                                  nn.Flatten(), nn.Dropout(.5))
        self.head,self.aux = nn.Linear(8, 10),nn.Linear(8, 4)
    def forward(self, x): f = self.body(x); return self.head(f) + self.aux(f).mean()

class Tuple(Several):
    def forward(self, x): f = self.body(x); return self.head(f),self.aux(f)

class Odd(Several):
    "Its first convolution is not the first that runs, and grey images become coloured"
    def __init__(self):
        super().__init__()
        self.body[0] = nn.Conv2d(5, 8, 3)
        self.first = nn.Conv2d(3, 5, 1)
    def forward(self, x): return self.head(self.body(self.first(x.repeat(1, 3, 1, 1))))

class Counts(nn.Module):
    "Fails for a reason of its own"
    def __init__(self): super().__init__(); self.conv = nn.Conv2d(3, 4, 3)
    def forward(self, x): raise RuntimeError(f'mine, for {x.shape}')

def legal():
    lazy = nn.Sequential(nn.LazyConv2d(8, 3), nn.Flatten(), nn.LazyLinear(10))
    conv = nn.Sequential(nn.Conv2d(1, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    hooked = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4*36, 7))
    hooked[0].register_forward_hook(lambda *a: 1/0)
    grid = nn.Sequential(nn.Linear(8, 5), nn.Flatten(), nn.Linear(40, 10))      # on rows of pixels
    inner = nn.Sequential(nn.Linear(8, 5), nn.Flatten(), nn.Linear(99, 10))     # wrong, but in itself
    return dict(inner=inner, several=Several(), tuple=Tuple(), odd=Odd(), lazy=lazy, conv=conv, hooked=hooked,
                fails=Counts(), grid=grid, none=nn.Flatten(), parallel=nn.DataParallel(net(10)), bn=net(10),
                compiled=torch.compile(net(10)))

@pytest.mark.parametrize('kind', legal())
def test_what_is_legal_or_cannot_be_told_is_left_alone(kind):
    m,dls = legal()[kind],tiny_dls(c=10)
    lazy = kind == 'lazy'
    state = None if lazy else copy.deepcopy(m.state_dict())
    modes = [o.training for o in m.modules()]
    hooks = [len(o._forward_pre_hooks) for o in m.modules()]
    streams = random.getstate(),np.random.get_state()[1].copy(),torch.get_rng_state(),dls.train.rng.getstate()
    with warnings.catch_warnings():
        warnings.simplefilter('error', RobustWarning)
        check_network(m, dls, CE)
    assert [o.training for o in m.modules()] == modes and [len(o._forward_pre_hooks) for o in m.modules()] == hooks
    if lazy: assert any(nn.parameter.is_lazy(p) for p in m.parameters())
    else: assert all(torch.equal(v, state[k]) for k,v in m.state_dict().items())
    now = random.getstate(),np.random.get_state()[1],torch.get_rng_state(),dls.train.rng.getstate()
    assert now[0] == streams[0] and (now[1] == streams[1]).all()
    assert torch.equal(now[2], streams[2]) and now[3] == streams[3]
    assert all(p.grad is None for p in m.parameters())

def test_other_losses_and_callbacks_of_the_users_are_left_alone():
    dls = tiny_dls(c=10)
    ordinal = lambda z, y: ((z.sigmoid().sum(1)-y)**2).mean()
    check_network(net(9), dls, ordinal)
    check_network(net(1), dls, BCEWithLogitsLossFlat())
    class Grey(Callback):
        def before_batch(self): self.learn.xb = (self.xb[0].mean(1, keepdim=True),)
    class Pick(Callback):
        def after_pred(self): self.learn.pred = torch.cat([self.pred, self.pred], 1)
    grey = robust_learner(tiny_dls(channels=3), net(), cbs=Grey())
    pick = robust_learner(tiny_dls(c=6), net(3), cbs=Pick())
    for learn in (grey, pick):
        with learn.no_bar(), learn.no_logging(): learn.fit(1)
    with refused(ValueError, GREY): robust_learner(tiny_dls(channels=3), net(), cbs=MixUp())

def test_a_network_that_fits_is_not_run_and_no_batch_is_loaded(monkeypatch):
    def never(*args): raise AssertionError(f'a batch was loaded, {args}')
    dls = tiny_dls(c=10)
    monkeypatch.setattr('fastrobust.training.network.peek_images', never)
    m = net(10)
    m.register_forward_pre_hook(never)
    robust_learner(dls, m, LogitClip(1.))
    calls = []
    monkeypatch.setattr('fastrobust.training.network.item_shape', lambda dls: calls.append(1))
    learn = tiny_learner(LogitClip(1.), dls=dls)
    for _ in range(3): learn.fit(1)
    assert len(calls) == 1      # once for each network

def test_the_shape_of_an_item(folder):
    dls = DataBlock((ImageBlock(PILImageBW), CategoryBlock), get_y=lambda f: f.name[0],
                    splitter=RandomSplitter(.25, seed=1)).dataloaders(files(folder), **QUICK)
    assert item_shape(dls) == (1, 16, 16) and item_shape(tiny_dls(channels=3)) == (3, 8, 8)
    pairs = torch.utils.data.DataLoader([(torch.zeros(3, 4, 4), 1)]*4, batch_size=2)
    assert item_shape(DataLoaders(pairs, pairs)) is None and item_shape(table()) is None

# --- labels ----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    d,g = tmp_path_factory.mktemp('imgs'),np.random.default_rng(0)
    for i in range(24): PILImage.create(g.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(d/f'{i}.png')
    (d/'masks').mkdir()
    for i in range(24): PILImage.create(g.integers(0, 2, (16, 16), dtype=np.uint8)).save(d/'masks'/f'{i}.png')
    return d

def frame(**columns):
    d = pd.DataFrame(dict(f=[f'{i}.png' for i in range(24)], y=[str(i%3) for i in range(24)],
                          tags=['a b', 'b', 'a']*8, v=np.arange(24.), val=[i%4 == 0 for i in range(24)]))
    return d.assign(**columns)

QUICK = dict(bs=4, num_workers=0, device='cpu')
def of_frame(folder, d, label='y', **kwargs):
    return ImageDataLoaders.from_df(d, folder, fn_col='f', label_col=label, valid_col='val', **QUICK, **kwargs)

def table(y=None):
    d = pd.DataFrame(dict(a=np.arange(40.), k=list('xyzw')*10, y=list('ab')*20 if y is None else y))
    return TabularDataLoaders.from_df(d, procs=[Categorify], cat_names=['k'], cont_names=['a'], y_names='y', bs=8,
                                      y_block=CategoryBlock(), valid_idx=list(range(30, 40)), device='cpu')

def files(folder): return [folder/f'{i}.png' for i in range(24)]
def block(folder, *blocks, **kwargs):
    kwargs.setdefault('get_y', lambda f: [[1., 2.], [3., 4.]])
    return DataBlock(blocks, splitter=RandomSplitter(.25, 0), **kwargs).dataloaders(files(folder), **QUICK)

OTHERS = dict(
    several=(lambda d: of_frame(d, frame(), 'tags', label_delim=' '), 'several labels an item (MultiCategoryBlock)'),
    encoded=(lambda d: of_frame(d, frame(a=1, b=0), ['a', 'b'], y_block=MultiCategoryBlock(True, ['a', 'b'])),
             'several labels an item (MultiCategoryBlock)'),
    numbers=(lambda d: of_frame(d, frame(), 'v', y_block=RegressionBlock), 'numbers (RegressionBlock)'),
    masks=(lambda d: SegmentationDataLoaders.from_label_func(d, files(d), lambda f: d/'masks'/f.name,
                                                             codes=['x', 'y'], **QUICK), 'masks (MaskBlock)'),
    points=(lambda d: block(d, ImageBlock, PointBlock), 'points (PointBlock)'),
    boxes=(lambda d: block(d, ImageBlock, BBoxBlock, BBoxLblBlock, n_inp=1, get_y=[lambda f: [[1., 2., 3., 4.]],
                                                                                  lambda f: ['a']]),
           'boxes (BBoxBlock)'),
    two=(lambda d: block(d, ImageBlock, CategoryBlock, CategoryBlock, n_inp=1, get_y=[lambda f: len(f.name)]*2),
         '2 targets'),
    images=(lambda d: block(d, ImageBlock, ImageBlock, get_y=lambda f: f), 'images (ImageBlock)'))

class Anything(LogitClip):
    "Says that it does with any target"
    tasks = None
    @property
    def name(self): return 'anything'

@pytest.mark.parametrize('kind', OTHERS)
def test_targets_that_are_no_single_label(folder, kind):
    make,got = OTHERS[kind]
    dls = make(folder)
    c = getattr(dls, 'c', None) or 4
    if not isinstance(c, int) or c < 2: c = 4
    def says(*args, arch=None, **kw):
        with pytest.raises(ValueError, match='single-label') as e: robust_learner(dls, arch or net(c, 3), *args, **kw)
        return str(e.value)
    words = lambda who: (f"expected single-label data (CategoryBlock) for {who}, got {got}. Without {who} "
                         "robust_learner(dls, arch) is fastai's own learner.")
    for name in RECIPES: assert says(recipe=name) == words(f'the recipe {name!r}')
    assert says(LogitClip(1.)) == says(cbs=LogitClip(1.)) == words('LogitClip')
    assert says([AugMix(), JoCoR(.2)]) == words('AugMix and JoCoR')
    assert says(loss_func=GCELoss()) == words('GCELoss')
    assert says(LogitClip(1.), arch=resnet18, pretrained=False) == words('LogitClip')
    assert says(recipe=lambda dls: (GCELoss(), [LogitClip(1.)])) == words('GCELoss and LogitClip')

    loss = None if kind in ('several', 'encoded', 'numbers', 'masks', 'points') else nn.MSELoss()
    for t in (None, Anything(1.)):
        learn = robust_learner(dls, net(c, 3), t, loss_func=loss)
        assert isinstance(learn, Learner)
    if kind != 'several': return
    with learn.no_bar(), learn.no_logging(): learn.fit(1)

def test_one_label_is_taken(folder):
    for dls,n in ((of_frame(folder, frame()), 3), (tiny_dls(), 1)):
        robust_learner(dls, net(3, n), [LogitClip(1.), AugMix()], loss_func=GCELoss())
        robust_learner(dls, net(3, n), recipe='noisy_labels')
    bag = torch.utils.data.DataLoader([(torch.zeros(3, 4, 4), 1)]*4, batch_size=2)
    robust_learner(DataLoaders(bag, bag), net(3, 3), LogitClip(1.), loss_func=CE)

@pytest.mark.parametrize('kw', [dict(), dict(techniques=LogitClip(1.)), dict(recipe='corruption')], ids=''.join)
@pytest.mark.parametrize('arch', ['module', 'function'])
def test_items_without_a_label(folder, kw, arch):
    m = net(3, 3) if arch == 'module' else resnet18
    if arch == 'function': kw = dict(kw, pretrained=False)
    missing = frame()
    missing.loc[[5, 7], 'y'] = np.nan
    with refused(ValueError, (
        "expected a class of the vocab for every item of the training set, got 2 of 18 without one (NaN, or a class it "
        "lacks), first rows [5, 7]. Drop these rows, df.dropna(subset=['y']), or give CategoryBlock a vocab with their "
        "class, before you build the dls.")): robust_learner(of_frame(folder, missing), m, **copy.deepcopy(kw))
    only = frame()
    only.loc[4, 'y'] = 'new'
    with refused(ValueError, 'of the validation set, got 1 of 6', 'rows [4]. Drop these rows or give CategoryBlock'):
        robust_learner(of_frame(folder, only), m, **copy.deepcopy(kw))

    names = [str(f) for f in files(folder)]
    y = [np.nan if i in (5, 7) else str(i%3) for i in range(24)]
    dls = ImageDataLoaders.from_lists(folder, names, y, seed=3, **QUICK)
    with refused(ValueError, '2 of 20 without one', "/5.png', nan)"): robust_learner(dls, m, **copy.deepcopy(kw))

def test_a_table_without_a_label():
    y = pd.Series(list('ab')*20)
    y[[3, 5]] = np.nan
    with pytest.raises(ValueError, match=r"training set, got 2 of 30 without one .*df.dropna\(subset=\['y'\]\)"):
        robust_learner(table(y), layers=[8], learner_func=tabular_learner)
    robust_learner(table(), layers=[8], learner_func=tabular_learner, metrics=accuracy)

def test_labels_that_are_read_otherwise_are_left_alone(folder, monkeypatch):
    "Nobody opens items for it; '#na#' is a class where fastai was told so"
    opened = []
    def label(f): opened.append(f); return f.name[0]
    dls = ImageDataLoaders.from_path_func(folder, files(folder), label, **QUICK)
    n = len(opened)
    robust_learner(dls, net(3, 3), loss_func=nn.MSELoss())
    assert len(opened)-n <= 1       # for the shape of one image
    missing = frame()
    missing.loc[5, 'y'] = np.nan
    robust_learner(of_frame(folder, missing, y_block=CategoryBlock(add_na=True)), net(4, 3))
    dls = tiny_dls()
    monkeypatch.setattr('fastrobust.data.arrays.ArrayItems.__getitem__', lambda *a: 1/0)
    robust_learner(dls, net(), LogitClip(1.))

# --- something else than a learner -----------------------------------------------------------------------------------
UNKNOWN = np.zeros((4, 8, 8), np.uint8)
TAKE_LEARNERS = dict(
    calibration_report=fr.calibration_report, closed_form_head=fr.closed_form_head, tail_report=fr.tail_report,
    corruption_report=fr.corruption_report, ensure_objective=fr.ensure_objective, find_tau=fr.find_tau,
    lp_report=fr.lp_report, show_masked=fr.show_masked, ood_report=lambda o: fr.ood_report(o, UNKNOWN),
    strip=fr.strip, untemper=fr.untemper, video_report=fr.video_report,
    show_unknowns=lambda o: fr.show_unknowns(o, UNKNOWN), temperature_scale=fr.temperature_scale,
    wise_ft=lambda o: fr.wise_ft(o, .5), RobustInterpretation=fr.RobustInterpretation.from_learner)
MAKERS = dict(
    noise_report=lambda o: fr.noise_report(o, tiny_dls()), cross_val_preds=lambda o: fr.cross_val_preds(o, tiny_dls()),
    estimate_tau=lambda o: fr.estimate_tau(o, tiny_dls()), advise=lambda o: fr.advise(tiny_dls(), make_learner=o),
    gmm=lambda o: fr.estimate_tau(o, tiny_dls(), method='gmm'),
    compare=lambda o: fr.compare(o, dict(a=None), epochs=1))

def test_every_function_of_a_learner_is_looked_at():
    fields = {'conformal_bands', 'mesh_report', 'rollout_report', 'spectrum_report', 'field_stress_report'}
    known = {*TAKE_LEARNERS, *MAKERS, *fields, 'RobustInterpretation', 'robust_learner'}
    for k,f in vars(fr).items():
        if k[0] == '_' or not callable(f) or inspect.isclass(f): continue
        first = next(iter(inspect.signature(f).parameters), '')
        assert first not in ('learn', 'make_learner') or k in known, k

@pytest.mark.parametrize('who', TAKE_LEARNERS)
def test_something_else_than_a_learner(who):
    def make(dls): return Learner(dls, net())
    for o,says in ((net(), 'got a Sequential. Give the learner; a model alone: Learner(dls, model).'),
                   (None, 'got None. `fit` and `fine_tune` return none: make it first, learn = robust_learner(dls, '),
                   (tiny_dls(), 'got a DataLoaders. Make one of them: learn = robust_learner(dls, resnet18).'),
                   ('export.pkl', "got 'export.pkl'. Load it first: load_learner(path)."),
                   (make, 'got the function make. Call it, if it makes learners, and give what it returns.'),
                   (Learner, 'got the class Learner.'), (3, 'got 3. Give what robust_learner or vision_learner made.')):
        with refused(TypeError, 'expected a fastai Learner, ' + says): TAKE_LEARNERS[who](o)

@pytest.mark.parametrize('who', MAKERS)
def test_something_else_than_a_maker_of_learners(who):
    for o,says in ((net(), 'got a Sequential'), (tiny_dls(), 'got a DataLoaders'), ('learn', "got 'learn'"),
                   (3, 'got 3'), (resnet18, ' resnet18. '), (tiny_learner(), 'builds a new Learner, got a Learner')):
        with refused(TypeError, 'expected', says, 'lambda'): MAKERS[who](o)

def test_interpretation_stays_fastais():
    learn = tiny_learner()
    i = fr.RobustInterpretation.from_learner(learn)
    want = ClassificationInterpretation.from_learner(learn)
    assert torch.equal(i.losses, want.losses) and len(fr.RobustInterpretation.from_learner(learn, 0).losses) == 48

# --- number arguments ------------------------------------------------------------------------------------------------
AUX = aux_images('blob', 32, 8, 1)
# what a constructor must be given, by name; what is annotated as a number gets .5
NEEDS = dict(tau=.3, aux=AUX, base=GCELoss(), names='fog', w='balanced', counts=[5, 3, 2],
             teacher=fr.tiny_vit(8, 2, 16, 2, 2, 1))
BAD = ['2', None, True, float('nan'), [1.], 1j]
KINDS = (Technique, Transform, nn.Module, Callback)

def _numeric(p):
    if p.annotation in (int, float, 'int', 'float'): return True
    return isinstance(p.default, Real) and not isinstance(p.default, bool)

def _params(make):
    ps = inspect.signature(make).parameters.values()
    return [p for p in ps if p.name not in ('self', 'dls') and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]

@cache
def _constructors():
    found = {k: v for k,v in vars(fr).items() if isinstance(v, type) and issubclass(v, KINDS)}
    dls = tiny_dls(c=3)
    recipes = {f'recipe {k}': (r, partial(r, dls)) for k,r in RECIPES.items()}
    return {**{k: (v, v) for k,v in found.items()}, 'OpenSetRows': (OpenSetRows, OpenSetRows), **recipes}

def _heads(k): return k.endswith('AnalyticHead')      # of no training

CASES = [(k, p.name) for k,(of,_) in _constructors().items() if not _heads(k) for p in _params(of) if _numeric(p)]

def _refusal(k, name, v):
    "What a constructor says of a number argument that is none; None if it takes it"
    of,make = _constructors()[k]
    given = {p.name: NEEDS.get(p.name, .5) for p in _params(of) if p.default is p.empty or p.name in ('aux', 'counts')}
    try: make(**{**given, name: v})
    except (TypeError, ValueError) as e: return str(e)
    return None

SAYS = dict(
    JoCoR=('tau', '0.2', "`tau` must be a number in [0,1) or the result of estimate_tau, got '0.2'. Pass e.g. .4."),
    AugMix=('views', '2', "`views` must be a whole number from 1 on, got '2'. Without views: AugMixTransform."),
    GCELoss=('q', '.7', "`q` must be a number, got '.7'. Give one such as 1."),
    LogitNorm=('min_norm', float('nan'), "`min_norm` must be finite and at least 0, got nan. 0 is the paper's form."))

@pytest.mark.parametrize('k', SAYS)
def test_numbers_in_quotes(k):
    name,v,says = SAYS[k]
    assert _refusal(k, name, v) == says

def test_all_techniques_and_recipes_are_there():
    names = {k for k,_ in CASES}
    assert len(CASES) > 60 and {'AugMix', 'JoCoR', 'ALASCA', 'GCELoss', 'CorruptionTransform', 'LabelWave'} <= names
    assert {f'recipe {k}' for k in RECIPES} <= names

@pytest.mark.parametrize('k,name', CASES, ids=str)
def test_a_number_argument_that_is_none_is_refused_by_name(k, name):
    default = next(p.default for p in _params(_constructors()[k][0]) if p.name == name)
    for v in BAD:
        if v is None and default is None: continue
        says = _refusal(k, name, v)
        assert says is not None, f'{k} takes {name}={v!r}'
        assert f'`{name}`' in says, f'{k}({name}={v!r}): {says}'
