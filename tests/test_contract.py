"Every technique through the same gauntlet (design C1-C14); one without an entry here fails"
import copy, importlib, inspect, itertools, subprocess, sys
from pathlib import Path
import numpy as np
import pytest
import torch
from fastcore.docments import docments
from fastai.callback.core import Callback
from fastai.callback.fp16 import MixedPrecision, to_bf16  # noqa: F401  (patches Learner)
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.progress import CSVLogger
from fastai.callback.schedule import fine_tune, fit_one_cycle, lr_find  # noqa: F401
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.transforms import ToTensor
from fastai.interpret import ClassificationInterpretation
from fastai.learner import Learner
from fastai.optimizer import SGD
from fastai.torch_core import set_seed, to_float
import fastrobust.all as fr
from conftest import CANCELS, MiniTwin, Raise, params, tiny_arrays, tiny_dls, tiny_learner
from fastrobust.techniques.bases.memory import SampleMemory
from fastrobust.techniques.bases.selection import Selection
from fastrobust.techniques.bases.twonetworks import TwoNetworks
from fastrobust.losses import GCELoss
from fastrobust.training.callback import ObjectiveCallback
from fastrobust.training.technique import Technique
from fastrobust.training.objective import Objective
from fastrobust.training.stages import has_penalty, own
from fastrobust.stripping import strip

# Each technique's own test file has its CONTRACT, class -> settings. make: a fresh one; plain: one that strip can
# write; weight: its weight's name; deterministic: nothing random, samples alone (C5); colour: one for 3 channels
def collected():
    found = {}
    for p in sorted(Path(__file__).parent.glob('test_*.py')):
        if '\nCONTRACT = ' in p.read_text(): found.update(importlib.import_module(p.stem).CONTRACT)
    return found
SETTINGS = collected()

BASES = {Selection, TwoNetworks, SampleMemory}      # nothing to use by themselves
def subclasses(c): return {s for d in c.__subclasses__() for s in {d, *subclasses(d)}}
ALL = sorted((t for t in subclasses(Technique)-BASES if t.__module__.split('.')[0] == 'fastrobust'),
             key=lambda t: t.__name__)

def test_every_technique_has_an_entry(): assert set(ALL) == set(SETTINGS), set(ALL) ^ set(SETTINGS)

each = pytest.mark.parametrize('T', ALL, ids=lambda t: t.__name__)
def make(T, **kw): return SETTINGS[T]['make'](**kw)

@each
def test_C1_doors_second_fit_removal(T):
    learn = tiny_learner(make(T))
    learn.fit(1); learn.fit(1)
    t = make(T)
    assert learn.cbs.filter(lambda o: isinstance(o, T))
    learn.remove_cb(T)
    assert not [c for c in learn.cbs if isinstance(c, (T, ObjectiveCallback))]
    assert not isinstance(learn.loss_func, Objective)
    start = copy.deepcopy(learn.model.state_dict())
    learn.fit(1, cbs=t)
    assert not isinstance(learn.loss_func, Objective)
    learn.add_cb(make(T)); learn.fit(1); learn.remove_cb(T)
    plain = tiny_learner()
    for o in (learn, plain):
        o.model.load_state_dict(start); o.opt = None; o.dls = tiny_dls()
        set_seed(4); o.fit(1)
    assert torch.equal(params(learn), params(plain))

@each
@pytest.mark.parametrize('ex', [KeyboardInterrupt, *CANCELS], ids=lambda e: e.__name__)
def test_C2_one_loss_whatever_happens(T, ex):
    learn = tiny_learner(make(T))
    obj = learn.loss_func
    for event in ('after_pred', 'after_loss'):
        try: learn.fit(1, cbs=Raise(ex(), event))
        except KeyboardInterrupt: assert ex is KeyboardInterrupt
        assert learn.loss_func is obj
    learn.fit(1)
    assert learn.loss_func is obj and torch.isfinite(params(learn)).all()

@each
def test_C3_evaluation_is_plain(T):
    learn = tiny_learner(make(T))
    learn.fit(1)
    p,y,l = learn.get_preds(with_loss=True)
    z = torch.cat([learn.model.eval()(b[0]) for b in learn.dls.valid]).detach()
    assert torch.allclose(p, z.softmax(1), atol=1e-5) and torch.allclose(p.sum(1), torch.ones(len(p)), atol=1e-5)
    assert torch.allclose(l, torch.nn.functional.cross_entropy(z, y.long(), reduction='none'), atol=1e-4)
    assert abs(learn.validate()[0] - l.mean().item()) < 1e-4
    lab,i,pr = learn.predict(tiny_arrays()[0][0])
    assert lab in [str(o) for o in learn.dls.vocab] and abs(pr.sum().item()-1) < 1e-5
    with learn.no_bar(), learn.no_logging():
        interp = ClassificationInterpretation.from_learner(learn)
        assert interp.confusion_matrix().sum() == 24 and len(interp.top_losses(3)[0]) == 3
    assert learn.get_preds(ds_idx=0)[0].shape == (48, 3)

@each
def test_C4_what_is_recorded_is_what_trains(T):
    got = []
    class Spy(Callback):
        order = 45
        def after_loss(self): got.append((self.loss.item(), self.loss_grad.item())) if self.training else None
    tiny_learner(make(T)).fit(1, cbs=Spy())
    assert len(got) == 3 and all(abs(a-b) < 1e-5*max(1, abs(a)) for a,b in got)

@each
def test_C5_gradient_accumulation(T):
    if SETTINGS[T].get('deterministic'):
        ends = []
        for bs in (4, 16):
            learn = tiny_learner(make(T), dls=tiny_dls(bs=bs, shuffle=False), opt_func=SGD, wd=0.)
            learn.fit(1, .05, cbs=GradientAccumulation(16) if bs == 4 else None)
            ends.append(params(learn))
        assert torch.allclose(*ends, atol=1e-5)
    else:
        got = []
        class Spy(Callback):
            order = 7
            def after_loss(self): got.append((self.loss_grad/self.loss).item()) if self.training else None
        tiny_learner(make(T)).fit(1, cbs=[GradientAccumulation(32), GradientClip(.5), Spy()])
        assert np.allclose(got, .5, atol=1e-5)

class CpuBf16(Callback):
    "fastai's MixedPrecision, whose autocast is CUDA's alone, on the CPU"
    order = MixedPrecision.order
    def before_batch(self):
        self.autocast = torch.autocast('cpu', dtype=torch.bfloat16)
        self.autocast.__enter__()
    def after_pred(self): self.learn.pred = to_float(self.pred)
    def after_loss(self): self.autocast.__exit__(None, None, None)

@each
def test_C6_bf16_is_finite_and_leaves_no_autocast(T):
    learn = tiny_learner(make(T)).to_bf16()
    seen,low = [],[]
    class Spy(Callback):
        order = 5.5
        def after_loss(self):
            if self.training: seen.append((torch.is_autocast_enabled('cpu'), self.loss_grad.dtype))
    conv = next(m for m in learn.model.modules() if isinstance(m, torch.nn.Conv2d))
    conv.register_forward_hook(lambda m, i, o: low.append(o.dtype))
    learn.fit(1, cbs=[CpuBf16(), Spy()])
    assert torch.isfinite(params(learn)).all() and np.isfinite(learn.recorder.values[0]).all()
    assert set(seen) == {(True, torch.float32)} and torch.bfloat16 in low
    assert not torch.is_autocast_enabled('cpu') and not torch.is_autocast_enabled('cuda')

def state_of(t):
    def freeze(v):
        if isinstance(v, torch.Tensor): return v.tolist()
        if hasattr(v, '__dict__') and not callable(v): return {k: freeze(o) for k,o in vars(v).items() if k != '_it'}
        return repr(v)
    return {k: freeze(v) for k,v in t.__dict__.items() if k != '_learn'}

@each
def test_C7_lr_find_leaves_everything(T, tmp_path):
    learn = tiny_learner(make(T), path=tmp_path)
    learn.fit(1)
    t = next(c for c in learn.cbs if isinstance(c, T))
    before,sd = state_of(t),copy.deepcopy(learn.model.state_dict())
    learn.lr_find(num_it=12, show_plot=False)
    assert state_of(t) == before and all(torch.equal(v, sd[k]) for k,v in learn.model.state_dict().items())
    learn.fit(1)

def test_C8_export_load_strip(tmp_path):
    "All techniques exported, and stripped; one process loads the first, one without fastrobust the second"
    sizes = {}
    plain = tiny_learner(path=tmp_path); plain.fit(1); plain.export('plain.pkl')
    for T in ALL:
        dls = tiny_dls(batch_tfms=[fr.AugMixTransform()])
        t = SETTINGS[T].get('plain', SETTINGS[T]['make'])()
        learn = tiny_learner(t, path=tmp_path, loss_func=GCELoss(), dls=dls)
        learn.fit(1)
        learn.export(f'{T.__name__}.pkl')
        sizes[T] = (tmp_path/f'{T.__name__}.pkl').stat().st_size
        s = strip(learn)
        assert type(s) is Learner and s.model is not learn.model and isinstance(learn.loss_func, Objective)
        s.fit(1) if T is ALL[0] else None
        s = strip(learn)
        s.export(f'{T.__name__}_stripped.pkl')
        x = tiny_arrays()[0][:5]
        torch.save(learn.get_preds(dl=learn.dls.test_dl(x))[0], tmp_path/f'{T.__name__}.pt')
        torch.save(s.get_preds(dl=s.dls.test_dl(x))[0], tmp_path/f'{T.__name__}_stripped.pt')
    n = (tmp_path/'plain.pkl').stat().st_size
    assert all(v < n*(2.2 if T.surgery else 1.2) + 20_000 for T,v in sizes.items()), sizes
    code = f'''
import sys, warnings; warnings.simplefilter('ignore')
import torch, numpy as np
from pathlib import Path
if sys.argv[1] == '_stripped':
    class Block:
        def find_spec(self, name, path=None, target=None):
            if name.split('.')[0] == 'fastrobust': raise ImportError('fastrobust is blocked')
    sys.meta_path.insert(0, Block())
from fastai.vision.all import load_learner, PILImageBW
d = Path({str(tmp_path)!r})
x = np.random.default_rng(0).integers(0, 256, (48, 8, 8), dtype=np.uint8)[:5]
for n in {[T.__name__ for T in ALL]}:
    learn = load_learner(d/f'{{n}}{{sys.argv[1]}}.pkl')
    want = torch.load(d/f'{{n}}{{sys.argv[1]}}.pt')
    if sys.argv[1]: got = torch.stack([learn.predict(o)[2] for o in x])
    else: got = learn.get_preds(dl=learn.dls.test_dl(x))[0]
    assert torch.allclose(got, want, atol=1e-5), n
assert ('fastrobust' in sys.modules) == (sys.argv[1] == '')
'''
    run = lambda kind: subprocess.Popen([sys.executable, '-c', code, kind], stderr=subprocess.PIPE, text=True)
    for r in [run(''), run('_stripped')]:
        err = r.communicate()[1]
        assert r.returncode == 0, err[-3000:]

def test_strip_refuses_what_it_cannot_write():
    learn = tiny_learner(MiniTwin())
    learn.fit(1)
    with pytest.raises(ValueError, match='learn.export'): strip(learn, 'ensemble')
    for w,i in (('a', 0), ('b', 1)):
        s = strip(learn, w)
        assert torch.equal(params(s), torch.cat([p.flatten() for p in learn.model.nets[i].parameters()]))
    with pytest.raises(ValueError, match='two networks'): strip(tiny_learner(fr.LogitClip(1.)), 'b')

@each
def test_C9_same_seed_same_numbers_and_zero_weights(T):
    ends = []
    for _ in range(2):
        learn = tiny_learner(make(T)); set_seed(8); learn.fit(1); ends.append(params(learn))
    assert torch.equal(*ends)
    w = SETTINGS[T].get('weight')
    if w is None: return
    for bad in (0, -1., float('nan')):
        with pytest.raises(ValueError, match=f'`{w}` must be positive'): make(T, **{w: bad})
    with pytest.raises(TypeError): make(T, **{w: '1'})
    kw = dict(loss_func=GCELoss())      # AugLoss: the same base in both
    a,b = tiny_learner(make(T, **{w: lambda pct: 0.}), **kw),tiny_learner(**kw)
    for o in (a, b): set_seed(8); o.fit(1)
    assert torch.equal(params(a)[:len(params(b))], params(b))     # auxiliary heads come after
    on = tiny_learner(make(T, **{w: lambda pct: 2*pct}), **kw); set_seed(8); on.fit(1)
    assert not torch.equal(params(on)[:len(params(b))], params(b))

@each
@pytest.mark.parametrize('mix', [MixUp, CutMix], ids=lambda m: m.__name__)
def test_C10_mixup_works_or_is_refused(T, mix):
    learn = tiny_learner(make(T))
    picky = T.remembers or own(make(T), 'weights') or own(make(T), 'sample_loss')
    if picky:
        with pytest.raises(ValueError, match='one label'): learn.fit(1, cbs=mix())
    else:
        learn.fit(1, cbs=mix())
        assert isinstance(learn.loss_func, Objective) and torch.isfinite(params(learn)).all()

@each
def test_C10_shapes(T):
    colour = SETTINGS[T].get('colour', SETTINGS[T]['make'])
    tiny_learner(colour(), dls=tiny_dls(channels=3)).fit(1)
    tiny_learner(make(T), dls=tiny_dls(n=37, bs=12, drop_last=False)).fit(1)     # a last batch of 1
    learn = tiny_learner(make(T), dls=tiny_dls(bs=1))
    learn.fit(1)
    assert torch.isfinite(params(learn)).all()

@each
def test_C10_two_inputs(T):
    learn = tiny_learner(make(T))
    class Two(Callback):
        order = -5
        def before_batch(self): self.learn.xb = (self.x, self.x)
    class Net(torch.nn.Module):
        def __init__(self, net): super().__init__(); self.net = net
        def forward(self, a, b): return self.net(a)
    learn.model = Net(learn.model)
    if own(make(T), 'rows'):
        with pytest.raises(ValueError, match='expects one input, got 2'): learn.fit(1, cbs=Two())
    else: learn.fit(1, cbs=Two())

@each
def test_C11_names(T):
    t = make(T)
    assert not hasattr(tiny_learner(), t.name) and t.name.isidentifier() and t.name == t.name.lower()
    assert T.__name__ in repr(t)

@each
def test_C12_docs(T):
    docs = docments(T.__init__)
    missing = [k for k in inspect.getfullargspec(T.__init__).args[1:] if not docs.get(k)]
    assert not missing, missing
    assert T.__doc__ and '\n' not in T.__doc__.strip()
    assert 'arxiv.org' in inspect.getsource(inspect.getmodule(T))

@each
def test_habits_of_fastai(T, tmp_path):
    split = lambda m: [list(m[:3].parameters()), list(m[3:].parameters())]
    learn = tiny_learner(make(T), path=tmp_path, splitter=split)
    learn.fine_tune(1)
    learn.fit_one_cycle(1, cbs=[SaveModelCallback(), EarlyStoppingCallback(), CSVLogger(fname=tmp_path/'log.csv')])
    header = (tmp_path/'log.csv').read_text().splitlines()[0].split(',')
    t = next(c for c in learn.cbs if isinstance(c, T))
    assert header[:4] == ['epoch', 'train_loss', 'valid_loss', 'accuracy'] and header[-1] == 'time'
    if own(t, 'penalty'): assert t.column in header and np.isfinite(learn.recorder.values[-1][header.index(t.column)-1])
    learn.save('m'); learn.load('m')
    copy.deepcopy(learn).fit(1)

@each
def test_on_fastais_own_loader(T):
    base = tiny_dls()
    plain = DataLoaders(*(TfmdDL(dl.dataset, bs=16, shuffle=dl is base.train, after_item=[ToTensor()], num_workers=0,
                                 after_batch=list(base.train.after_batch.fs), device='cpu') for dl in base.loaders))
    set_seed(3)
    learn = Learner(plain, fr.small_cnn(3, 1, 8, norm=None, depth=2), loss_func=GCELoss(), cbs=make(T))
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert torch.isfinite(params(learn)).all()

@pytest.mark.parametrize('A,B', list(itertools.combinations(ALL, 2)), ids=lambda t: t.__name__)
def test_pairs_train_or_say_why(A, B, recwarn):
    "They combine, or one says why not; what only one can do, its class declares"
    a,b = make(A),make(B)
    why = None
    if A.surgery is B.surgery is not None: why = f'both wrap the network in {A.surgery.__name__}'
    elif A.exclusive and A.exclusive == B.exclusive: why = f'both {A.exclusive}'
    elif has_penalty(a) and has_penalty(b) and a.column == b.column: why = f'both add the term `{a.column}`'
    if why:
        with pytest.raises(ValueError, match=why): tiny_learner([a, b]).fit(1)
        return
    learn = tiny_learner([a, b])
    learn.fit(1)
    said = [w for w in recwarn if issubclass(w.category, fr.RobustWarning) and 'both change' in str(w.message)]
    sizes = all(own(t, 'logits') and t.scales for t in (a, b))
    assert bool(said) == sizes and torch.isfinite(params(learn)).all()
