"Tiny data and learners every test file may use"
import gc, warnings
import matplotlib
import pytest
import torch
from torch import nn

matplotlib.use('Agg')
torch.set_num_threads(1)    # two threads only get in each other's way on tensors this small
warnings.filterwarnings('ignore', category=DeprecationWarning)

from fastai.callback.core import CancelEpochException, CancelFitException, CancelTrainException
from fastai.torch_core import set_seed
from fastrobust.training.surgery import AuxOut, Surgery, wrap_each
from fastrobust.training.technique import Technique
from fastrobust.testing import tiny
from fastrobust.testing.tiny import Raise, live, params, tiny_arrays, tiny_dls  # noqa: F401

@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    "The whole suite runs on all cores; what is named or picked with -k runs in one process, which starts sooner"
    o = config.option
    whole = config.args == config.getini('testpaths') and not o.keyword and not o.collectonly
    if not whole or not hasattr(o, 'numprocesses') or hasattr(config, 'workerinput'): return
    if o.numprocesses is None and not o.usepdb: o.numprocesses,o.dist = 'auto','worksteal'

def pytest_collection_finish():
    "What is loaded by now stays: the collector need not walk through torch and fastai at every fold and fit"
    gc.collect()
    gc.freeze()

def tiny_learner(*args, **kwargs):
    "`fastrobust.testing.tiny_learner` that says before a fit what it trains with, as learners do"
    learn = tiny.tiny_learner(*args, **kwargs)
    learn.logger = lambda *a: None
    return learn

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
