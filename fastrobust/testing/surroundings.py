"Clauses on what stands around the training: evaluation, data of other shapes, fastai's habits, files, docs"
import copy, inspect, tempfile
from pathlib import Path
import numpy as np
import torch
from torch import nn
from fastcore.docments import docments
from fastai.callback import schedule    # noqa: F401 (patches Learner)
from fastai.callback.core import Callback
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.progress import CSVLogger
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.transforms import ToTensor
from fastai.interpret import ClassificationInterpretation
from fastai.learner import Learner, load_learner
from fastrobust.losses import GCELoss
from fastrobust.stripping import strip
from fastrobust.testing.case import refused, train
from fastrobust.testing.tiny import params, tiny_arrays, tiny_dls
from fastrobust.training.objective import Objective
from fastrobust.training.stages import own

__all__ = []

# --- what is seen ---------------------------------------------------------------------------------
def evaluation(case):
    "Predictions, validation and interpretation see the plain network and the plain loss"
    learn = train(case)
    p,y,l = learn.get_preds(with_loss=True)
    z = torch.cat([learn.model.eval()(b[0]) for b in learn.dls.valid]).detach()
    assert torch.allclose(p, z.softmax(1), atol=1e-5)
    assert torch.allclose(p.sum(1), torch.ones(len(p)), atol=1e-5)
    want = nn.functional.cross_entropy(z, y.long(), reduction='none')
    assert torch.allclose(l, want, atol=1e-4)
    assert abs(learn.validate()[0] - l.mean().item()) < 1e-4
    label,_,probs = learn.predict(tiny_arrays()[0][0])
    assert label in map(str, learn.dls.vocab) and abs(probs.sum().item()-1) < 1e-5
    with learn.no_bar(), learn.no_logging():
        interp = ClassificationInterpretation.from_learner(learn)
        assert interp.confusion_matrix().sum() == 24 and len(interp.top_losses(3)[0]) == 3
    assert learn.get_preds(ds_idx=0)[0].shape == (48, 3)

def mixup(case):
    "MixUp and CutMix work, or are refused where items are judged by their one label, or images by what they show"
    picky = case.T.remembers or own(case.make(), 'weights') or own(case.make(), 'sample_loss')
    for mix in (MixUp, CutMix):
        learn = case.learner(case.make())
        if picky:
            with refused(ValueError, 'one label'): learn.fit(1, cbs=mix())
            continue
        if not case.T.mixes:
            with refused(ValueError, 'mixes the student'): learn.fit(1, cbs=mix())
            continue
        learn.fit(1, cbs=mix())
        assert isinstance(learn.loss_func, Objective) and torch.isfinite(params(learn)).all()

# --- data -----------------------------------------------------------------------------------------
def shapes(case):
    "Three channels, a last batch of one, batches of one"
    train(case, dls=tiny_dls(channels=3), make=case.colour)
    train(case, dls=tiny_dls(n=37, bs=12, drop_last=False))
    assert torch.isfinite(params(train(case, dls=tiny_dls(bs=1)))).all()

class _TwoInputs(Callback):
    order = -5
    def before_batch(self): self.learn.xb = (self.x, self.x)

class _First(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net
    def forward(self, a, b): return self.net(a)

def two_inputs(case):
    "Networks of two inputs train, or are refused where images are added to the batch"
    learn = case.learner(case.make())
    learn.model = _First(learn.model)
    if own(case.make(), 'rows'):
        with refused(ValueError, 'expects one input, got 2'): learn.fit(1, cbs=_TwoInputs())
    else: learn.fit(1, cbs=_TwoInputs())

def fastais_loader(case):
    "It trains on fastai's own TfmdDL too"
    base = tiny_dls()
    def plain(dl):
        return TfmdDL(dl.dataset, bs=16, shuffle=dl is base.train, after_item=[ToTensor()],
                      num_workers=0, after_batch=list(base.train.after_batch.fs), device='cpu')
    dls = DataLoaders(*map(plain, base.loaders))
    learn = case.learner(case.make(), dls=dls, loss_func=GCELoss())
    learn.fit(1)
    assert torch.isfinite(params(learn)).all()

# --- habits ---------------------------------------------------------------------------------------
def _halves(net):
    "Its parameters in two groups"
    ps = list(net.parameters())
    return [ps[:len(ps)//2], ps[len(ps)//2:]]

def habits(case):
    "fine_tune, one cycle, SaveModel, EarlyStopping, CSVLogger, save and load, a deep copy"
    with tempfile.TemporaryDirectory() as d:
        learn = case.learner(case.make(), path=Path(d), splitter=_halves)
        learn.fine_tune(1)
        log = Path(d)/'log.csv'
        cbs = [SaveModelCallback(), EarlyStoppingCallback(), CSVLogger(fname=log)]
        learn.fit_one_cycle(1, cbs=cbs)
        header = log.read_text().splitlines()[0].split(',')
        assert header[:4] == ['epoch', 'train_loss', 'valid_loss', 'accuracy'], header
        assert header[-1] == 'time', header
        t = case.of(learn)
        if own(t, 'penalty'):
            value = learn.recorder.values[-1][header.index(t.column)-1]
            assert np.isfinite(value)
        learn.save('m')
        learn.load('m')
        copy.deepcopy(learn).fit(1)

def _can_strip(case):
    "Are the layers of its network not of fastrobust? Only they load without it"
    if case.net is None: return True
    return not any(type(m).__module__.split('.')[0] == 'fastrobust' for m in case.net(3, 1).modules())

def files(case):
    "An export predicts what the learner predicts; so does the plain Learner of `strip`, but for one of two networks"
    x = tiny_arrays()[0][:5]
    def probs(learn): return learn.get_preds(dl=learn.dls.test_dl(x))[0]
    with tempfile.TemporaryDirectory() as d:
        learn = train(case, make=case.plain, path=Path(d), loss_func=GCELoss())
        learn.export('whole.pkl')
        with learn.no_bar(): want = probs(learn)
        if _can_strip(case):
            plain = strip(learn)
            assert type(plain) is Learner and isinstance(learn.loss_func, Objective)
            with plain.no_bar(): stripped = probs(plain)
            one_of_two = case.T.surgery is not None and case.plain is case.make
            assert one_of_two or torch.allclose(stripped, want, atol=1e-5)
        back = load_learner(Path(d)/'whole.pkl')
        with back.no_bar(): assert torch.allclose(probs(back), want, atol=1e-5)

# --- words ----------------------------------------------------------------------------------------
def names(case):
    "Its name is an attribute of the learner; its repr says the class"
    t = case.make()
    assert t.name.isidentifier() and t.name == t.name.lower() and not hasattr(case.learner(), t.name)
    assert case.T.__name__ in repr(t)

def docs(case):
    "A docstring whose first line says it all, a comment beside each parameter, the paper's address in its file"
    try: described = docments(case.T.__init__)
    except OSError: return 'it was typed at a prompt: there is no source to read'
    missing = [k for k in inspect.getfullargspec(case.T.__init__).args[1:] if not described.get(k)]
    assert not missing, f'no comment beside {missing}'
    first,_,rest = (case.T.__doc__ or '').strip().partition('\n')
    assert first, 'no docstring'
    assert not rest or rest[0] == '\n', 'no empty line after the first of the docstring'
    file = inspect.getsourcefile(case.T)
    assert file is None or not file.endswith('.py') or 'arxiv.org' in Path(file).read_text()
    return None
