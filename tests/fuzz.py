"Random configurations: each trains and leaves the learner whole, or is refused in words that name who refuses"
# python tests/fuzz.py 0 500 runs the numbers 0 to 499 and counts; python tests/fuzz.py 37 shows one
# and runs it. A configuration follows from its number alone; test_fuzz.py holds the first 500.
import copy, pickle, re, sys, tempfile, traceback, warnings
from collections import Counter
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
import numpy as np
import torch
from torch import nn
from fastai.callback import schedule    # noqa: F401 (patches Learner)
from fastai.callback.core import (CancelBatchException, CancelEpochException, CancelFitException,
                                  CancelStepException, CancelTrainException, Callback)
from fastai.callback.hook import summary        # noqa: F401 (patches Learner)
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.progress import CSVLogger, ProgressCallback
from fastai.callback.tracker import (EarlyStoppingCallback, ReduceLROnPlateau, SaveModelCallback,
                                     TerminateOnNaNCallback)
from fastai.callback.training import BnFreeze, GradientAccumulation, GradientClip
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.transforms import ToTensor
from fastai.imports import noop
from fastai.interpret import ClassificationInterpretation
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat, FocalLossFlat, LabelSmoothingCrossEntropy
from fastai.metrics import accuracy
from fastai.optimizer import SGD, Adam
from fastai.torch_core import set_seed, trainable_params
from fastai.vision.augment import Flip, RandomErasing
import fastrobust.all as fr
from fastrobust.calibration.temperature import temperature_scale, untemper
from fastrobust.learner import robust_learner
from fastrobust.stripping import strip
from fastrobust.techniques.bases.openset import OpenSetRows
from fastrobust.testing.fits import CpuBf16
from fastrobust.testing.tiny import params
from fastrobust.training.objective import Objective
from fastrobust.training.surgery import has_surgery
from fastrobust.training.technique import Technique
from fastrobust.wiseft import wise_ft

# --- what there is to draw -------------------------------------------------------------------------------------------
def rising(pct): return 2*pct
def early(pct): return float(pct < .4)

class Drawer:
    "Draws from a stream that follows from the configuration's number"
    def __init__(self, number): self.g = np.random.default_rng(number)
    def of(self, *options): return options[self.g.integers(len(options))]
    def often(self, p): return bool(self.g.random() < p)
    def between(self, lo, hi): return float(self.g.uniform(lo, hi))
    def whole(self, lo, hi): return int(self.g.integers(lo, hi+1))
    def some(self, options, most):
        k = min(self.whole(0, most), len(options))
        return [options[i] for i in self.g.permutation(len(options))[:k]]

def tau(d): return d.of(.2, .4, .9, (.3, .1))
def length(d): return d.of(0, 1, 2, 10, .5, 1.)
def weight(d, hi): return d.of(d.between(.05, hi), d.between(.05, hi), rising, early)
def two(d): return dict(second=d.of(None, None, 'net'))
def rows(d): return dict(bs=d.of(None, None, 3, 20), dynamic=d.often(.8), joint_bn=d.often(.7))

# name -> settings; what stands in quotes is made from the data in `build`
TECHNIQUES = dict(
    LogitClip=lambda d: dict(tau=d.between(.2, 5), p=d.of(1., 2., float('inf'))),
    LogitNorm=lambda d: dict(tau=d.of(.04, .1, .5), min_norm=d.of(0., .1)),
    LogitAdjust=lambda d: dict(tau=d.between(.2, 2)),
    AugMix=lambda d: dict(lam=weight(d, 12), severity=d.of(1, 3), views=d.of(1, 2), all_ops=d.often(.3)),
    AugLoss=lambda d: dict(base='loss', lam=weight(d, 5), views=d.of(1, 2)),
    ODNL=lambda d: dict(aux='aux', eta=weight(d, 3), **rows(d)),
    OpenSampling=lambda d: dict(aux='aux', lam=weight(d, 2), alpha=d.of(None, 'minimal', 'balanced'), **rows(d)),
    OpenSetRows=lambda d: dict(aux='aux', lam=weight(d, 2), labels=d.of(None, 'prior', 'prior', 'short'),
                               class_weight=d.of(None, 'prior'), **rows(d)),
    ALASCA=lambda d: dict(lam=weight(d, 3), w=d.of(0., .7), t=d.of(1/3, 1.), warmup=length(d),
                          predict=d.of('main', 'main+aux'), memory=d.of('logits', 'label', None),
                          spread=d.of('others', 'all')),
    ELR=lambda d: dict(lam=weight(d, 4), beta=d.of(0., .7)),
    SmallLoss=lambda d: dict(tau=tau(d), gradual=length(d)),
    JoCoR=lambda d: dict(tau=tau(d), lam=d.of(0., .5, .9), gradual=length(d), **two(d)),
    CoTeaching=lambda d: dict(tau=tau(d), gradual=length(d), **two(d)),
    CoTeachingPlus=lambda d: dict(tau=tau(d), gradual=length(d), warmup=length(d), **two(d)),
    Decoupling=lambda d: dict(warmup=length(d), **two(d)),
    SampleWeights=lambda d: dict(w=d.of('balanced', 'weights', 'weights', 'few')))

LOSSES = dict(
    default=lambda c: None, ce=lambda c: CrossEntropyLossFlat(),
    weighted=lambda c: CrossEntropyLossFlat(weight=torch.linspace(.5, 2, c)),
    torch=lambda c: nn.CrossEntropyLoss(), smooth=lambda c: nn.CrossEntropyLoss(label_smoothing=.1),
    smoothing=lambda c: LabelSmoothingCrossEntropy(), focal=lambda c: FocalLossFlat(),
    function=lambda c: nn.functional.cross_entropy, func=lambda c: fr.FuncLoss(nn.functional.cross_entropy),
    gce=lambda c: fr.GCELoss(.7), mae=lambda c: fr.MAELoss(), sce=lambda c: fr.SCELoss(),
    nce=lambda c: fr.NCEandRCE(), alpha=lambda c: fr.AlphaLoss(2.), taylor=lambda c: fr.TaylorCELoss(),
    cross=lambda c: fr.CrossEntropy(), bootstrap=lambda c: fr.BootstrapLoss())

def files(d): return SaveModelCallback(**d.of({}, dict(at_end=True), dict(every_epoch=True), dict(with_opt=True)))
CALLBACKS = dict(
    MixUp=lambda d: MixUp(), CutMix=lambda d: CutMix(), SaveModelCallback=files,
    EarlyStoppingCallback=lambda d: EarlyStoppingCallback(), ReduceLROnPlateau=lambda d: ReduceLROnPlateau(),
    GradientAccumulation=lambda d: GradientAccumulation(d.of(8, 32)), GradientClip=lambda d: GradientClip(.5),
    TerminateOnNaNCallback=lambda d: TerminateOnNaNCallback(), CSVLogger=lambda d: 'csv', BnFreeze=lambda d: BnFreeze(),
    CpuBf16=lambda d: CpuBf16(), KeepBN=lambda d: fr.KeepBN(), SampleHistory=lambda d: fr.SampleHistory(),
    Memorisation=lambda d: 'memorisation', LogitNorms=lambda d: fr.LogitNorms(), LabelWave=lambda d: fr.LabelWave(1, 1))

STOPS = dict(interrupt=KeyboardInterrupt, error=ZeroDivisionError, cancel_fit=CancelFitException,
             cancel_epoch=CancelEpochException, cancel_train=CancelTrainException, cancel_batch=CancelBatchException,
             cancel_step=CancelStepException)
AFTER = ('fit', 'fine_tune', 'get_preds', 'with_loss', 'tta', 'validate', 'predict', 'export', 'pickle', 'deepcopy',
         'summary', 'lr_find', 'save', 'freeze', 'strip', 'readd', 'interpret', 'temper', 'wise_ft', 'other',
         'new_data')

AUX = 'array','array','loader','openset','few','array','loader','other','train'

def config(number):
    "What is drawn for this number, as plain values"
    d = Drawer(number)
    data = dict(n=d.of(24, 40, 41, 12), c=d.of(2, 3, 4), channels=d.of(1, 1, 3), bs=d.of(4, 8, 8, 16, 12, 1),
                drop_last=d.of(None, None, False), kind=d.of('arrays', 'arrays', 'fastai', 'drawn'),
                labels=d.of('even', 'tail', 'noisy', 'even'), tfm=d.of(None, None, None, 'AugMixTransform', 'LpNoise',
                'CorruptionTransform', 'Flip', 'RandomErasing', 'unnormalised'))
    if data['bs'] == 1: data['n'] = 12
    names = d.some(list(TECHNIQUES), 3)
    conf = dict(number=number, data=data, net=d.of('plain', 'plain', 'bn', 'dropout', 'deep', 'linear'),
                opt=d.of('Adam', 'SGD'), groups=d.often(.4), frozen=d.often(.15),
                techniques={k: TECHNIQUES[k](d) for k in names}, aux=d.of(*AUX),
                doors=[d.of('learner', 'add', 'fit', 'fit') for _ in names], one_door=d.often(.6))
    if conf.pop('one_door'): conf['doors'] = conf['doors'][:1]*len(names)
    conf['recipe'] = d.of(*fr.RECIPES) if d.often(.2) else None
    conf['recipe_aux'] = d.often(.5)
    conf['loss'] = d.of(*LOSSES)
    often = ['MixUp', 'CutMix', 'SaveModelCallback']
    conf['callbacks'] = list(dict.fromkeys(d.some([*CALLBACKS, *often, *often], 3)))
    conf['callback_door'] = d.of('learner', 'fit', 'fit')
    conf['turned'] = d.often(.6) and len(names) > 1 and len(set(conf['doors'])) == 1
    conf['method'] = d.of('fit', 'fit', 'fit_one_cycle', 'fine_tune', 'fit_flat_cos')
    conf['epochs'] = d.of(1, 1, 2)
    conf['stop'] = d.of(*STOPS) if d.often(.3) else None
    conf['stop_at'] = d.of('before_batch', 'after_pred', 'after_loss', 'before_backward', 'before_step')
    if conf['stop'] == 'cancel_step': conf['stop_at'] = 'before_step'
    conf['after'] = d.some(AFTER, 3)
    leave_out_what_fastai_cannot(conf)
    return conf

def leave_out_what_fastai_cannot(conf):
    "Plain fastai fails at these by itself"
    data,stop = conf['data'],conf['stop']
    bad,steps = set(),set()
    alone = data['bs'] == 1 or data['drop_last'] is False and data['n']%data['bs'] == 1
    if alone and conf['net'] in ('bn', 'deep'): conf['net'] = 'plain'   # torch's BatchNorm needs two
    odd = conf['loss'] in ('torch', 'smooth', 'function', 'func')       # does not say that its labels are whole
    broken = stop == 'cancel_epoch' or not conf['techniques'] and not conf['recipe']    # nothing to heal it
    if alone or odd or stop and broken: bad |= {'MixUp', 'CutMix'}
    if odd: steps.add('interpret')      # no probabilities
    if stop or 'lr_find' in conf['after']: steps.add('deepcopy')        # a gradient's graph is left behind
    # no epoch, nothing to track
    if stop in ('interrupt', 'error', 'cancel_fit', 'cancel_epoch', 'cancel_train'):
        bad |= {'CSVLogger', 'SaveModelCallback', 'EarlyStoppingCallback', 'ReduceLROnPlateau'}
        if data['kind'] == 'fastai': steps.add('pickle')    # of a loader that was left half way
    if 'MixUp' in conf['callbacks']: bad.add('CutMix')      # each takes the other's loss for the learner's
    conf['callbacks'] = [k for k in conf['callbacks'] if k not in bad]
    if 'CSVLogger' in conf['callbacks']: conf['callback_door'] = 'fit'  # it cannot be pickled
    if 'TerminateOnNaNCallback' in conf['callbacks']: steps |= {'with_loss', 'interpret'}   # more losses than one
    conf['after'] = [k for k in conf['after'] if k not in steps]

# --- building it -----------------------------------------------------------------------------------------------------
def arrays(n, c, channels, seed, tail=False):
    g = np.random.default_rng(seed)
    shape = (n, 8, 8) if channels == 1 else (n, 8, 8, 3)
    y = g.integers(0, c, n)
    if tail: y = np.minimum(g.geometric(.6, n)-1, c-1)
    y[:c] = range(c)
    return g.integers(0, 256, shape, dtype=np.uint8),y

TFMS = dict(AugMixTransform=lambda: fr.AugMixTransform(), LpNoise=lambda: fr.LpNoise(),
            CorruptionTransform=lambda: fr.CorruptionTransform(['gaussian_noise', 'contrast'], table='cifar'),
            Flip=lambda: Flip(), RandomErasing=lambda: RandomErasing())

OURS = 'AugMixTransform','LpNoise','CorruptionTransform'

def make_dls(conf):
    o = conf['data']
    X,y = arrays(o['n'], o['c'], o['channels'], 0, o['labels'] == 'tail')
    valid = arrays(10, o['c'], o['channels'], 1)
    tfms = [TFMS[o['tfm']]()] if o['tfm'] in TFMS else None
    dls = fr.array_dls(X, y, valid, bs=o['bs'], device='cpu', drop_last=o['drop_last'], batch_tfms=tfms,
                       normalize=o['tfm'] != 'unnormalised')
    if o['labels'] == 'noisy': dls = fr.add_label_noise(dls, fr.NoisyLabels('symmetric', .3, seed=1))
    if o['kind'] == 'drawn': dls = fr.weighted_dls(dls, np.linspace(.5, 2, o['n']))
    if o['kind'] == 'fastai':
        noise = getattr(dls, 'noise', None)
        def plain(dl):
            return TfmdDL(dl.dataset, bs=o['bs'], shuffle=dl is dls.train, drop_last=dl.drop_last, num_workers=0,
                          after_item=[ToTensor()], after_batch=list(dls.train.after_batch.fs), device='cpu')
        dls = DataLoaders(*map(plain, dls.loaders))
        if noise is not None: dls.noise = noise
    return dls

def make_net(conf):
    o = conf['data']
    if conf['net'] == 'linear':
        return nn.Sequential(nn.Flatten(), nn.Linear(64*o['channels'], 6), nn.ReLU(), nn.Linear(6, o['c']))
    norm = 'bn' if conf['net'] in ('bn', 'deep') else None
    net = fr.small_cnn(o['c'], o['channels'], 4, norm=norm, depth=3 if conf['net'] == 'deep' else 2)
    return nn.Sequential(*net[:-1], nn.Dropout(.3), net[-1]) if conf['net'] == 'dropout' else net

def make_aux(conf):
    o = conf['data']
    channels = 4-o['channels'] if conf['aux'] == 'other' else o['channels']
    X,_ = arrays(6 if conf['aux'] == 'few' else 30, 2, channels, 2)
    if conf['aux'] == 'train': return arrays(o['n'], o['c'], o['channels'], 0, o['labels'] == 'tail')[0]
    if conf['aux'] == 'openset': return fr.OpenSet(X, ['others'])
    if conf['aux'] != 'loader': return X
    return fr.array_dls(X, ['a', 'b']*15, (X[:4], ['a', 'b', 'a', 'b']), bs=8, device='cpu').train

def make_technique(name, settings, conf):
    c,n = conf['data']['c'],conf['data']['n']
    parts = dict(aux=lambda: make_aux(conf), loss=lambda: LOSSES[conf['loss']](c) or CrossEntropyLossFlat(),
                 net=lambda: lambda: make_net(conf), weights=lambda: np.linspace(.2, 3, n),
                 few=lambda: np.linspace(.2, 3, n-1), short=lambda: np.full(c-1, 1/(c-1)) if c > 2 else [.2, .3, .5],
                 prior=lambda: np.arange(1, c+1)/np.arange(1, c+1).sum())
    def made(v): return parts[v]() if isinstance(v, str) and v in parts else v
    kw = {k: made(v) for k,v in settings.items()}
    return (OpenSetRows if name == 'OpenSetRows' else getattr(fr, name))(**kw)

def make_callback(name, d, path, dls):
    cb = CALLBACKS[name](d)
    if cb == 'csv': return CSVLogger(fname=str(path/'log.csv'))
    if cb == 'memorisation': return fr.Memorisation() if hasattr(dls, 'noise') else fr.SampleHistory()
    return cb

def halves(m):
    "A splitter: body and head"
    layers = list(m.children())
    return [[p for l in layers[:-1] for p in l.parameters()], list(layers[-1].parameters())]

class Stop(Callback):
    "Raises in the second training batch, or in the first of one"
    order = 40
    def __init__(self, ex, event):
        super().__init__()
        self.ex,self.left = ex,1
        setattr(self, event, self.go)
    def go(self):
        if self.training and self.left and (self.iter == 1 or self.n_iter == 1):
            self.left = 0
            raise self.ex

def named(conf):
    "Words by which a refusal may say who refuses"
    words = [*conf['techniques'], *conf['callbacks'], 'SampleHistory', 'Memorisation']
    loss = LOSSES[conf['loss']](conf['data']['c'])
    words += [getattr(loss, '__name__', type(loss).__name__), 'loss']
    if conf['recipe']: words += ['recipe', conf['recipe'], 'AugLoss', 'AugMix', 'ODNL', 'OpenSampling', 'LogitAdjust']
    if conf['data']['tfm'] in TFMS: words.append(conf['data']['tfm'])
    return words

# torch's, numpy's and fastai's own words
RAW = ('size mismatch', 'mat1 and mat2', 'expected all tensors', 'has no attribute', 'nonetype', 'out of range',
       'out of bounds', 'shape mismatch', 'must match the size', 'unexpected keyword', 'positional argument',
       'keyerror', 'not subscriptable', 'not iterable', 'broadcast', 'missing key', 'unexpected key',
       'dtype', 'conversion')

# --- running it ------------------------------------------------------------------------------------------------------
@contextmanager
def quiet():
    with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        warnings.simplefilter('ignore')
        yield

def state_of(learn):
    "What must be the same when everything of ours has left"
    return dict(model=id(learn.model), keys=list(learn.model.state_dict()), dls=id(learn.dls),
                loss=id(learn.loss_func), splitter=id(learn.splitter), logger=id(learn.logger),
                batch=[type(f).__name__ for f in learn.dls.train.after_batch.fs], metrics=list(map(id, learn.metrics)),
                cbs=sorted(type(c).__name__ for c in learn.cbs if type(c).__name__ != 'TrainedOpenSets'),
                names=sorted(k for k in vars(learn) if k not in PASSING))

# what fastai sets in the course of a fit, and what our techniques leave on purpose
PASSING = {'opt', 'n_epoch', 'epoch', 'loss', 'loss_grad', 'smooth_loss', 'pred', 'xb', 'yb', 'dl', 'iter', 'n_iter',
           'train_iter', 'pct_train', 'final_record', 'training', 'trained_open_sets', 'log', 'create_mbar'}

def finite(learn): return bool(torch.isfinite(params(learn)).all())

def check_whole(learn, before, requires, where):
    "Nothing is left of a fit, whatever its end"
    if hasattr(learn, 'objective'): learn.objective.heal()      # of what MixUp leaves; as the next look at it would
    now = state_of(learn)
    for k,v in before.items(): assert now[k] == v, f'{where}: {k} was {v}, is {now[k]}'
    assert not has_surgery(learn.model), where
    got = [p.requires_grad for p in learn.model.parameters()]
    if requires is not None: assert got == requires, f'{where}: requires_grad {got}, was {requires}'
    for m in learn.model.modules():
        hooks = [m._forward_hooks, m._forward_pre_hooks, m._backward_hooks, m._load_state_dict_pre_hooks,
                 m._state_dict_hooks]
        assert not any(hooks), f'{where}: hooks on {m}'
    if learn.opt is not None:
        mine = {id(p) for p in learn.model.parameters()}
        theirs = {id(p) for g in learn.opt.param_lists for p in g}
        assert theirs <= mine, f'{where}: the optimizer trains parameters that are not the model\'s'
    check_quiet(learn, where)

def check_quiet(learn, where):
    "Nothing of the process is left in another state"
    assert not learn.lock.locked() and torch.is_grad_enabled(), where
    assert not torch.is_autocast_enabled('cpu') and not torch.is_autocast_enabled('cuda'), where

def shown(learn):
    with learn.no_bar(), learn.no_logging(): p,_ = learn.get_preds()
    assert p.ndim == 2 and len(p) == len(learn.dls.valid_ds)
    if finite(learn): assert torch.isfinite(p).all()
    assert not any(m.training for m in learn.model.modules())
    return p

class Run:
    "One configuration, from its parts to the end of its life"
    losses:tuple = ()       # of its training batches
    def __init__(self, conf, path, plain=False):
        path.mkdir(exist_ok=True)
        self.conf,self.path,self.plain = conf,path,plain
        self.d = Drawer([conf['number'], 1])
        set_seed(conf['number'] % 2**31)
        self.dls = make_dls(conf)
        self.net = make_net(conf)

    def techniques(self):
        "Those of each door"
        made = dict(learner=[], add=[], fit=[])
        if self.plain: return made
        for door,(k,v) in zip(self.conf['doors'], self.conf['techniques'].items()):
            made[door].append(make_technique(k, v, self.conf))
        return made

    def callbacks(self):
        ours = {'KeepBN', 'SampleHistory', 'Memorisation', 'LogitNorms', 'LabelWave'}
        names = [k for k in self.conf['callbacks'] if not (self.plain and k in ours)]
        return [make_callback(k, self.d, self.path, self.dls) for k in names]

    def learner(self, ts):
        conf = self.conf
        kw = dict(opt_func=dict(Adam=Adam, SGD=SGD)[conf['opt']], metrics=accuracy, path=self.path,
                  splitter=halves if conf['groups'] else trainable_params)
        loss = LOSSES[conf['loss']](conf['data']['c'])
        recipe = None if self.plain else conf['recipe']
        cbs = ts + (self.callbacks() if conf['callback_door'] == 'learner' else [])
        if recipe is None: learn = Learner(self.dls, self.net, loss_func=loss, cbs=cbs, **kw)
        else:
            takes = recipe in ('ood', 'long_tail', 'open_world') and conf['recipe_aux']
            learn = robust_learner(self.dls, self.net, recipe=recipe, aux=make_aux(conf) if takes else None,
                                   loss_func=loss if conf['loss'] != 'default' else None, cbs=cbs, **kw)
        learn.remove_cbs([c for c in learn.cbs if isinstance(c, ProgressCallback)])
        learn.logger = noop
        if conf['frozen'] and conf['groups']: learn.freeze()
        return learn

    def train(self, learn, ts):
        "The fit with its accident: whether that came"
        conf = self.conf
        stop = None
        if conf['stop'] and 'CpuBf16' not in conf['callbacks']:     # its autocast outlives a batch that ends so (T9)
            stop = Stop(STOPS[conf['stop']]('as asked'), conf['stop_at'])
        cbs = self.callbacks() if conf['callback_door'] == 'fit' else []
        cbs = ts + cbs
        if stop: cbs = [*cbs, stop]
        try:
            if conf['method'] == 'fine_tune': learn.fine_tune(conf['epochs'], 1e-3, cbs=cbs)
            else: getattr(learn, conf['method'])(conf['epochs'], 1e-3, cbs=cbs)
        except (KeyboardInterrupt, ZeroDivisionError):
            if stop is None or stop.left: raise
        self.losses = tuple(o.item() for o in learn.recorder.losses)
        return 'trained' if stop is None or stop.left else 'stopped'

def again(learn, run):
    "One more fit"
    learn.fit(1, 1e-3)

def whole_export(learn, run):
    want = shown(learn)
    learn.export('e.pkl')
    back = load_learner(run.path/'e.pkl')
    with back.no_bar(), back.no_logging():
        p,_ = back.get_preds(dl=back.dls.test_dl(arrays(10, run.conf['data']['c'], run.conf['data']['channels'], 1)[0]))
    assert torch.allclose(p, want, atol=1e-4, equal_nan=True), 'an export predicts something else'

def round_trip(learn, run):
    want = shown(learn)
    back = pickle.loads(pickle.dumps(learn))
    assert torch.allclose(shown(back), want, atol=1e-5, equal_nan=True)

def saved(learn, run):
    want = params(learn)
    learn.save('mine')
    with torch.no_grad():
        for p in learn.model.parameters(): p.add_(1.)
    learn.load('mine')
    assert torch.equal(params(learn).nan_to_num(), want.nan_to_num())

def stripped(learn, run):
    try: plain = strip(learn)
    except ValueError as e:
        assert 'learn.export()' in str(e), e
        return
    assert not any(isinstance(c, Technique) for c in plain.cbs)
    plain.logger = noop
    shown(plain)
    with plain.no_bar(): plain.fit(1, 1e-3)

def readd(learn, run):
    "Every technique leaves and comes back"
    for t in [c for c in learn.cbs if isinstance(c, Technique)]:
        learn.remove_cb(t)
        learn.add_cb(t)
    learn.fit(1, 1e-3)

def find(learn, run):
    before = params(learn)
    learn.lr_find(num_it=12, show_plot=False, suggest_funcs=None)
    assert torch.equal(params(learn).nan_to_num(), before.nan_to_num())

def frozen(learn, run):
    learn.freeze()
    learn.fit(1, 1e-3)
    learn.unfreeze()

def interpreted(learn, run):
    with learn.no_bar(), learn.no_logging():
        interp = ClassificationInterpretation.from_learner(learn)
        assert interp.confusion_matrix().sum() == 10 and len(interp.top_losses(3)[0]) == 3

def tempered(learn, run):
    "A temperature comes and goes"
    temperature_scale(learn)
    shown(learn)
    learn.fit(1, 1e-3)
    untemper(learn)
    learn.validate()

def wise(learn, run):
    new = wise_ft(learn, .5, base=learn.model)
    new.fit(1, 1e-3)
    assert new.model is not learn.model

def other(learn, run):
    "Another learner on the same data is a plain one"
    new = Learner(run.dls, make_net(run.conf), metrics=accuracy, path=run.path)
    assert not isinstance(new.loss_func, Objective)
    with new.no_bar(), new.no_logging(): new.fit(1, 1e-3)

def new_data(learn, run):
    "The learner goes to other data, and back"
    old = learn.dls
    learn.dls = make_dls(dict(run.conf, data=dict(run.conf['data'], n=28)))
    try: learn.fit(1, 1e-3)
    finally: learn.dls = old

STEPS = dict(fit=again, fine_tune=lambda learn, run: learn.fine_tune(1, 1e-3),
             get_preds=lambda learn, run: shown(learn),
             with_loss=lambda learn, run: learn.get_preds(with_loss=True), tta=lambda learn, run: learn.tta(),
             validate=lambda learn, run: learn.validate(), export=whole_export, pickle=round_trip, save=saved,
             predict=lambda learn, run: learn.predict(run.dls.valid.dataset.items[0][0]),
             deepcopy=lambda learn, run: copy.deepcopy(learn).fit(1, 1e-3),
             summary=lambda learn, run: learn.summary(), lr_find=find, freeze=frozen, strip=stripped, readd=readd,
             interpret=interpreted, temper=tempered, wise_ft=wise, other=other, new_data=new_data)

def techniques_of(learn): return [c for c in learn.cbs if isinstance(c, Technique)]

def leave(learn, run, before, requires, where):
    "All techniques go: what is left is the learner as it was, which trains, predicts and exports"
    # where a batch ends in an error, these stay open
    if 'CSVLogger' in run.conf['callbacks']: learn.logger = noop
    if 'CpuBf16' in run.conf['callbacks']: torch.set_autocast_enabled('cpu', False)
    learn.remove_cbs(techniques_of(learn))
    check_whole(learn, before, requires, where)
    if where == 'refused':  # a callback of the learner may refuse again
        try: learn.fit(1, 1e-3)
        except (ValueError, TypeError): return
    else: learn.fit(1, 1e-3)
    shown(learn)
    learn.export('plain.pkl')
    check_whole(learn, before, requires, f'{where}, then trained')
    back = load_learner(run.path/'plain.pkl')
    assert torch.equal(params(back).nan_to_num(), params(learn).nan_to_num())

def life(run):
    "A configuration from its parts to the end of its life: what became of it"
    conf = run.conf
    try:
        ts = run.techniques()
        learn = run.learner(ts['learner'])
    except (ValueError, TypeError) as e: return e
    inside = techniques_of(learn)
    learn.remove_cbs(inside)
    moves = {'fine_tune', 'freeze'} & {conf['method'], *conf['after']}
    requires = None if moves else [p.requires_grad for p in learn.model.parameters()]
    before = state_of(learn)
    if 'temper' in conf['after']: before.pop('loss')    # a copy that has had a temperature
    refused = None
    try:
        learn.add_cbs(inside)
        learn.add_cbs(ts['add'])
        how = run.train(learn, ts['fit'])
        if not techniques_of(learn): check_whole(learn, before, requires, 'fitted')
        for step in conf['after']:
            STEPS[step](learn, run)
            check_quiet(learn, step)
    except (ValueError, TypeError) as e:
        if run.plain: raise
        refused = e
    leave(learn, run, before, requires, 'refused' if refused else how)
    return refused or how

_WRAPPED = re.compile(r'Exception occured in `\w+` when calling event `\w+`:\s*')

def judge(conf, e):
    "Who refused, from the exception; an AssertionError where it does not say so"
    text = _WRAPPED.sub('', str(e))
    low = text.lower()
    raw = [k for k in RAW if k in low]
    who = [k for k in named(conf) if k.lower() in low]
    assert who and not raw, f'{type(e).__name__} in words of another ({raw}): {text}'
    SAID.append(text)
    return f'refused by {min(who, key=lambda k: low.index(k.lower()))}'

def outcome(number):
    "'trained', 'stopped', 'refused by ..', or 'as plain fastai'; an AssertionError of what is broken"
    conf = config(number)
    with quiet(), tempfile.TemporaryDirectory() as d:
        run,words = Run(conf, Path(d)/'a'),''
        try:
            broken = life(run)
            if conf['turned']: same_turned(conf, Path(d)/'c', broken, run.losses)
        except Exception as e: broken = e
        if isinstance(broken, str): return broken
        if isinstance(broken, (ValueError, TypeError)):
            try: return judge(conf, broken)
            except AssertionError as e: words = str(e)
        try: end = life(Run(plain_of(conf), Path(d)/'b', plain=True))
        except Exception as e: end = e
    trace = ''.join(traceback.format_exception(broken))
    if SHOW: print(trace)
    SAID.append(trace)
    if type(end) is type(broken): return f'as plain fastai: {type(end).__name__}'
    raise AssertionError(f'configuration {number}: {words or broken}\n{conf}\n{trace}')

def same_turned(conf, path, end, losses):
    "The techniques in reversed order: the same end, the same losses"
    back = dict(reversed(conf['techniques'].items()))
    run = Run(dict(conf, techniques=back), path)
    other = life(run)
    if isinstance(end, Exception): assert isinstance(other, Exception), f'{end} turned: {other}'
    else: assert other == end and run.losses == losses, f'{end} {losses} turned: {other} {run.losses}'

def plain_of(conf):
    data = dict(conf['data'], tfm=None if conf['data']['tfm'] in OURS else conf['data']['tfm'])
    return dict(conf, data=data)

SHOW,SAID = False,[]
def main(args):
    global SHOW
    if len(args) == 1:
        SHOW = True
        print(config(int(args[0])))
        print(outcome(int(args[0])))
        return
    counts = Counter()
    for i in range(*map(int, args)):
        try:
            end = outcome(i)
            counts[end] += 1
            if end.startswith('as plain'): print(i, end, SAID[-1][-400:], flush=True)
            if end.startswith('refused'): print(i, SAID[-1], flush=True)
        except AssertionError as e:
            counts['broken'] += 1
            print(i, str(e), '\n', flush=True)
    for k,v in counts.most_common(): print(f'{v:5} {k}')

if __name__ == '__main__': main(sys.argv[1:])
