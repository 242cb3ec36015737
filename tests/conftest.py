"Tiny data and learners every test file may use"
import warnings
import matplotlib
import numpy as np
import pytest
import torch
from torch import nn

matplotlib.use('Agg')
torch.set_num_threads(1)    # two threads only get in each other's way on tensors this small
warnings.filterwarnings('ignore', category=DeprecationWarning)

from fastai.callback.core import Callback, CancelEpochException, CancelFitException, CancelTrainException  # noqa: E402
from fastai.learner import Learner  # noqa: E402
from fastai.losses import CrossEntropyLossFlat  # noqa: E402
from fastai.metrics import accuracy  # noqa: E402
from fastai.torch_core import set_seed  # noqa: E402
from fastrobust.data.fromarrays import array_dls  # noqa: E402
from fastrobust.training.surgery import AuxOut, Surgery, wrap_each
from fastrobust.nets import small_cnn  # noqa: E402
from fastrobust.training.technique import Technique  # noqa: E402
from fastrobust.training.stages import Batch  # noqa: E402

@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    "The whole suite runs on all cores; what is named or picked with -k runs in one process, which starts sooner"
    o = config.option
    whole = config.args == config.getini('testpaths') and not o.keyword and not o.collectonly
    if not whole or not hasattr(o, 'numprocesses') or hasattr(config, 'workerinput'): return
    if o.numprocesses is None and not o.usepdb: o.numprocesses,o.dist = 'auto','worksteal'

def tiny_arrays(n=48, c=3, size=8, channels=1, seed=0):
    g = np.random.default_rng(seed)
    shape = (n, size, size) if channels == 1 else (n, size, size, channels)
    return g.integers(0, 256, shape, dtype=np.uint8),g.integers(0, c, n)

def tiny_dls(n=48, c=3, size=8, channels=1, bs=16, **kw):
    set_seed(7)     # a loader draws its own stream when it is made
    X,y = tiny_arrays(n, c, size, channels)
    Xv,yv = tiny_arrays(24, c, size, channels, seed=1)
    y[:c],yv[:c] = np.arange(c),np.arange(c)
    return array_dls(X, y, valid=(Xv, yv), bs=bs, device='cpu', **kw)

def tiny_learner(cbs=None, dls=None, norm=None, seed=3, loss_func=None, path=None, **kw):
    "A learner that prints nothing, its seed set last"
    dls = tiny_dls() if dls is None else dls
    set_seed(seed, reproducible=True)
    net = small_cnn(len(dls.vocab), dls.train.one_batch_shape if hasattr(dls.train, 'one_batch_shape') else
                    dls.train.dataset.items.x.shape[1], width=8, norm=norm, depth=2)
    learn = Learner(dls, net, loss_func=loss_func or CrossEntropyLossFlat(), metrics=accuracy, cbs=cbs, **kw)
    if path: learn.path = path
    learn.remove_cb(learn.progress)
    learn.logger = lambda *a: None
    return learn

def params(learn): return torch.cat([p.detach().flatten() for p in learn.model.parameters()])

def live(obj, *techniques):
    "`obj` as it is between prediction and loss of a training batch with these techniques"
    obj.stages,obj.batch = techniques,Batch(1)
    obj.batch.live,obj.batch.heads = True,[None]
    return obj.train()

class Raise(Callback):
    "Raises `ex` in training batch 1, at `event`"
    order = 40
    def __init__(self, ex, event='after_loss'):
        super().__init__()
        setattr(self, event, self.go)
        self.ex = ex
    def go(self):
        if self.training and self.iter == 1: raise self.ex

# two small surgeries: the later two-network and auxiliary-head techniques stand on what they prove
class TwinNet(Surgery):
    def __init__(self, a, b): super().__init__(); self.nets = nn.ModuleList([a, b])
    def inner(self, i=0): return self.nets[i]
    def forward(self, x):
        zs = tuple(net(x) for net in self.nets)
        return zs if self.training else (zs[0]+zs[1])/2
    def groups(self, split): return [list(a)+list(b) for a,b in zip(split(self.nets[0]), split(self.nets[1]))]

class MiniTwin(Technique):
    surgery = TwinNet
    def prepare(self, learn):
        import copy
        b = copy.deepcopy(learn.model)
        with torch.no_grad():
            for p in b.parameters(): p.add_(torch.randn_like(p)*.1)
        learn.model = TwinNet(learn.model, b)
    def heads(self, pred): return list(pred)

class AuxNet(Surgery):
    def __init__(self, net, d, c): super().__init__(); self.net,self.head = net,nn.Linear(d, c)
    def forward(self, x):
        z = self.net(x)
        return AuxOut(z, (self.head(x.flatten(1)),)) if self.training else z
    def groups(self, split):
        gs = [list(g) for g in split(self.net)]
        return gs[:-1] + [gs[-1] + list(self.head.parameters())]

class MiniAux(Technique):
    surgery = AuxNet
    def __init__(self, lam=1.): self.lam = lam
    def prepare(self, learn):
        x = learn.dls.train.dataset.items.x
        learn.model = wrap_each(learn.model, lambda net: AuxNet(net, x[0].numel(), len(learn.dls.vocab)))
    def penalty_of(self, head):
        y = self.learn.y.long()
        return torch.stack([nn.functional.cross_entropy(a, y) for a in head.aux]).mean()

CANCELS = [CancelFitException, CancelEpochException, CancelTrainException]

@pytest.fixture(autouse=True)
def _quiet_and_seeded():
    set_seed(0)
    yield
    import matplotlib.pyplot as plt
    plt.close('all')
