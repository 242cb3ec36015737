"Clauses on the training itself: ways in and out, accidents, what is recorded, repeated, rounded"
import copy, tempfile
from pathlib import Path
import numpy as np
import torch
from torch import nn
from fastai.callback import schedule    # noqa: F401 (patches Learner)
from fastai.callback.core import (Callback, CancelEpochException, CancelFitException,
                                  CancelTrainException)
from fastai.callback.fp16 import MixedPrecision, to_bf16  # noqa: F401 (patches Learner)
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.optimizer import SGD
from fastai.torch_core import set_seed, to_float
from fastrobust.losses import GCELoss
from fastrobust.testing.case import refused, train
from fastrobust.testing.tiny import Raise, params, tiny_dls
from fastrobust.training.callback import ObjectiveCallback
from fastrobust.training.objective import Objective

__all__ = []

# --- doors and accidents --------------------------------------------------------------------------
def doors(case):
    "It enters by `cbs=`, `add_cb`, `fit(cbs=)`, fits twice, and after it is gone training is plain fastai's"
    learn = train(case)
    learn.fit(1)
    assert case.of(learn) in learn.cbs
    learn.remove_cb(case.T)
    assert not [c for c in learn.cbs if isinstance(c, (case.T, ObjectiveCallback))]
    assert not isinstance(learn.loss_func, Objective)
    start = copy.deepcopy(learn.model.state_dict())
    learn.fit(1, cbs=case.make())
    assert not isinstance(learn.loss_func, Objective)
    learn.add_cb(case.make())
    learn.fit(1)
    learn.remove_cb(case.T)
    plain = case.learner()
    for o in (learn, plain):
        o.model.load_state_dict(start)
        o.opt = None
        o.dls = tiny_dls()
        set_seed(4)
        o.fit(1)
    assert torch.equal(params(learn), params(plain))

STOPS = KeyboardInterrupt,CancelFitException,CancelEpochException,CancelTrainException

def accidents(case):
    "Ctrl-C and fastai's cancel exceptions leave one loss, and training goes on"
    for ex in STOPS:
        learn = case.learner(case.make())
        obj = learn.loss_func
        for event in ('after_pred', 'after_loss'):
            try: learn.fit(1, cbs=Raise(ex(), event))
            except KeyboardInterrupt: assert ex is KeyboardInterrupt
            assert learn.loss_func is obj
        learn.fit(1)
        assert learn.loss_func is obj and torch.isfinite(params(learn)).all()

def lr_find(case):
    "`lr_find` leaves the technique and the network as they were"
    with tempfile.TemporaryDirectory() as d:
        learn = case.learner(case.make(), path=Path(d))
        learn.fit(1)
        before = _state(case.of(learn))
        weights = copy.deepcopy(learn.model.state_dict())
        learn.lr_find(num_it=12, show_plot=False)
        assert _state(case.of(learn)) == before
        assert all(torch.equal(v, weights[k]) for k,v in learn.model.state_dict().items())
        learn.fit(1)

def _state(t):
    def freeze(v):
        if isinstance(v, torch.Tensor): return v.tolist()
        if not hasattr(v, '__dict__') or callable(v): return repr(v)
        return {k: freeze(o) for k,o in vars(v).items() if k != '_it'}
    return {k: freeze(v) for k,v in vars(t).items() if k != '_learn'}

# --- the numbers ----------------------------------------------------------------------------------
def recorded(case):
    "The loss that is recorded is the one that trains"
    got = []
    class Spy(Callback):
        order = 45
        def after_loss(self):
            if self.training: got.append((self.loss.item(), self.loss_grad.item()))
    train(case, cbs=Spy())
    assert len(got) == 3 and all(abs(a-b) < 1e-5*max(1, abs(a)) for a,b in got), got

def accumulation(case):
    "Gradient accumulation divides all of the loss; what is deterministic trains as with the large batch"
    if case.deterministic:
        ends = []
        for bs in (4, 16):
            learn = case.learner(case.make(), dls=tiny_dls(bs=bs, shuffle=False), opt_func=SGD, wd=0.)
            learn.fit(1, .05, cbs=GradientAccumulation(16) if bs == 4 else None)
            ends.append(params(learn))
        assert torch.allclose(*ends, atol=1e-5)
        return
    got = []
    class Spy(Callback):
        order = 7
        def after_loss(self):
            if self.training: got.append((self.loss_grad/self.loss).item())
    train(case, cbs=[GradientAccumulation(32), GradientClip(.5), Spy()])
    assert np.allclose(got, .5, atol=1e-5), got

class CpuBf16(Callback):
    "fastai's MixedPrecision, whose autocast is CUDA's alone, on the CPU"
    order = MixedPrecision.order
    def before_batch(self):
        self.autocast = torch.autocast('cpu', dtype=torch.bfloat16)
        self.autocast.__enter__()
    def after_pred(self): self.learn.pred = to_float(self.pred)
    def after_loss(self): self.autocast.__exit__(None, None, None)

def half_precision(case):
    "In bfloat16 losses are float32 and finite, and no autocast stays open"
    learn = case.learner(case.make()).to_bf16()
    seen,low = set(),set()
    class Spy(Callback):
        order = 5.5
        def after_loss(self):
            if self.training: seen.add((torch.is_autocast_enabled('cpu'), self.loss_grad.dtype))
    conv = next(m for m in learn.model.modules() if isinstance(m, nn.Conv2d))
    conv.register_forward_hook(lambda m, i, o: low.add(o.dtype))
    learn.fit(1, cbs=[CpuBf16(), Spy()])
    assert seen == {(True, torch.float32)} and torch.bfloat16 in low, (seen, low)
    assert torch.isfinite(params(learn)).all() and np.isfinite(learn.recorder.values[0]).all()
    assert not torch.is_autocast_enabled('cpu') and not torch.is_autocast_enabled('cuda')

def repeats(case):
    "The same seed gives the same weights"
    ends = []
    for _ in range(2):
        learn = case.learner(case.make())
        set_seed(8)
        learn.fit(1)
        ends.append(params(learn))
    assert torch.equal(*ends)

def weights(case):
    "A weight is positive or a schedule; a schedule of 0 is plain training, one that rises is not"
    w = case.weight
    if w is None: return "no weight was named (weight='lam')"
    for bad in (0, -1., float('nan')):
        with refused(ValueError, w): case.make(**{w: bad})
    with refused(TypeError, w): case.make(**{w: '1'})
    def after(*cbs):
        learn = case.learner([*cbs], loss_func=GCELoss())
        set_seed(8)
        learn.fit(1)
        return params(learn)
    plain = after()
    off = after(case.make(**{w: lambda pct: 0.}))
    on = after(case.make(**{w: lambda pct: 2*pct}))
    n = len(plain)      # auxiliary heads come after
    assert torch.equal(off[:n], plain) and not torch.equal(on[:n], plain)
    return None
