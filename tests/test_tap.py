"The last linear layer of any network is found, z = f W' + b holds for all images, and no hook stays"
import copy
import pytest, torch
from torch import nn
from torch.nn import functional as F
from fastai.imports import noop
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.vision.learner import vision_learner
from fastrobust.inference.collect import collect
from fastrobust.inference.tap import LinearHead
from fastrobust.inference.tap import FeatureTap, feature_tap
from fastrobust.training.surgery import Twin
from fastrobust.nets import small_cnn
from fastrobust.techniques.alasca import ALASCA
from conftest import MiniAux, MiniTwin, tiny_dls, tiny_learner
from test_shifted import snapshot

def hooks(model): return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

def learner(net, size=8, channels=1):
    learn = tiny_learner(dls=tiny_dls(size=size, channels=channels))
    learn.model = net
    return learn

def holds(learn, tap):
    "z = f W' + b for all validation images, z those of fastai, in float64"
    out = collect(learn, learn.dls.valid, tap=tap)
    want = torch.as_tensor(learn.get_preds(act=noop)[0]).double()
    torch.testing.assert_close(out.z.double(), want, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.f.double() @ tap.head.W.double().T + tap.head.b.double(), want, atol=1e-4, rtol=1e-4)
    assert out.f.dtype == out.z.dtype == torch.float32 and len(out.f) == 24 and out.y is None and want.std() > 0
    assert hooks(learn.model) == 0
    return out

class Net(nn.Module):
    "Features of 5 and a head; `end` works on the head's output"
    def __init__(self, head, end=lambda z: z, again=None):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU())
        self.head,self.end,self.again = head,end,again
    def forward(self, x):
        f = self.body(x)
        z = self.end(self.head(f))
        if self.again is not None: self.again(f)        # called later, and of no matter
        return z

class Cosine(nn.Linear):
    def forward(self, x): return F.linear(F.normalize(x), F.normalize(self.weight))

# --- found -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('net', [
    lambda: small_cnn(3, width=8, depth=2), lambda: small_cnn(3, width=8, depth=2, norm=None),
    lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), lambda: Net(nn.Linear(5, 3, bias=False)),
    lambda: Net(nn.Sequential(nn.Dropout(.5), nn.Linear(5, 3), nn.Identity())),
    lambda: Net(nn.Linear(5, 3), lambda z: z.view(-1, 3, 1).flatten(1)),
    lambda: Net(nn.Linear(5, 3), lambda z: (z, 'more')), lambda: Net(nn.Linear(5, 3), again=nn.Linear(5, 3)),
    lambda: nn.utils.parametrizations.weight_norm(nn.Linear(64, 3))])
def test_networks_with_a_linear_head(net):
    torch.manual_seed(0)
    net = net()
    if isinstance(net, nn.Linear): net = nn.Sequential(nn.Flatten(), net)
    learn = learner(net)
    tap = feature_tap(learn)
    assert isinstance(tap, FeatureTap) and isinstance(tap.head, LinearHead) and len(tap.layers) == 1
    if isinstance(net, Net) and isinstance(net.end(torch.ones(1, 3)), tuple):
        out = collect(learn, learn.dls.valid, tap=tap)
        torch.testing.assert_close(out.f @ tap.head.W.T + tap.head.b, out.z)
        return
    f = holds(learn, tap).f
    if isinstance(net, Net):
        with torch.no_grad(): want = net.eval().body(learn.dls.valid.one_batch()[0][:8])
        torch.testing.assert_close(f[:8], want.as_subclass(torch.Tensor))

def test_what_the_head_holds():
    net = Net(nn.Linear(5, 3), again=nn.Linear(5, 3))
    tap = feature_tap(learner(net))
    assert tap.layers == [net.head] and not tap.head.W.requires_grad
    assert torch.equal(tap.head.W, net.head.weight) and torch.equal(tap.head.b, net.head.bias)
    no_bias = feature_tap(learner(Net(nn.Linear(5, 3, bias=False))))
    assert no_bias.head.b.tolist() == [0, 0, 0]

def test_of_two_that_fit_the_last():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Linear(3, 3))
    with torch.no_grad(): net[2].weight.copy_(torch.eye(3)); net[2].bias.zero_()
    assert feature_tap(learner(net)).layers == [net[2]]

def test_vision_learner_and_timm():
    torch.manual_seed(0)
    from torchvision.models import resnet18
    learn = vision_learner(tiny_dls(size=32, channels=3), resnet18, pretrained=False, loss_func=CrossEntropyLossFlat())
    learn.remove_cb(learn.progress)
    tap = feature_tap(learn)
    assert tap.head.W.shape == (3, 512) and tap.layers == [learn.model[1][-1]]
    holds(learn, tap)
    timm = pytest.importorskip('timm')
    learn = learner(timm.create_model('resnet10t', num_classes=3), 32, 3)
    assert holds(learn, feature_tap(learn)).f.shape == (24, 512)

def test_two_networks_are_one_linear_layer():
    torch.manual_seed(0)
    a,b = small_cnn(3, width=8, depth=2),Net(nn.Linear(5, 3))
    learn = learner(Twin(a, b))
    tap = feature_tap(learn)
    assert torch.equal(tap.head.W, torch.cat([a[-1].weight/2, b.head.weight/2], 1))
    torch.testing.assert_close(tap.head.b, (a[-1].bias+b.head.bias)/2)
    out = holds(learn, tap)
    fa,fb = (collect(l, l.dls.valid, tap=feature_tap(l)).f for l in (learner(a), learner(b)))
    assert torch.equal(out.f, torch.cat([fa, fb], 1))

@pytest.mark.parametrize('cbs', [MiniTwin, MiniAux, lambda: [MiniTwin(), MiniAux()]])
def test_networks_under_surgery(cbs):
    learn = tiny_learner(cbs())
    learn.fit(1)
    tap = feature_tap(learn)
    assert len(tap.layers) == (1 if cbs is MiniAux else 2)
    holds(learn, tap)

def test_auxiliary_heads():
    make = lambda how: tiny_learner(ALASCA(predict=how), dls=tiny_dls(size=32))
    learn = make('main')
    assert holds(learn, feature_tap(learn)).f.shape == (24, 8)
    assert feature_tap(make('main+aux')) is None

@pytest.mark.parametrize('half', ['float16', 'bfloat16'])
def test_half_precision(half):
    learn = learner(Net(nn.Linear(5, 3)).to(getattr(torch, half)))
    tap = feature_tap(learn)
    assert tap.head.W.dtype == torch.float32 and collect(learn, learn.dls.valid, tap=tap).f.dtype == torch.float32

# --- none ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('net', [
    lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 3, 1), nn.Flatten()),
    lambda: Net(Cosine(5, 3)), lambda: Net(nn.Linear(5, 3), lambda z: 1.1*z), lambda: Net(nn.Linear(5, 3), torch.tanh),
    lambda: Net(nn.Linear(5, 3), lambda z: z.mul_(2)), lambda: Net(nn.Linear(5, 6), lambda z: z[:, :3])])
def test_networks_without_one(net):
    learn = learner(net())
    assert feature_tap(learn) is None and hooks(learn.model) == 0

# --- nothing stays ---------------------------------------------------------------------------------------------------
def test_hooks_live_as_long_as_the_block():
    learn = learner(Net(nn.Linear(5, 3)))
    tap,x = feature_tap(learn),learn.dls.valid.one_batch()[0]
    with tap:
        assert hooks(learn.model) == 1
        learn.model(x)
        assert tap.features(len(x)).shape == (len(x), 5)
        with pytest.raises(ValueError, match=r'expected features of 3 images .* got \[\(16, 5\)\]'): tap.features(3)
    assert hooks(learn.model) == hooks(copy.deepcopy(learn.model)) == 0
    with pytest.raises(ValueError, match=r'got \[None\]'): tap.features(3)

@pytest.mark.parametrize('ex', [KeyboardInterrupt, RuntimeError])
def test_nothing_stays_after_an_exception(ex):
    def end(_z): raise ex('stop')
    learn = learner(Net(nn.Linear(5, 3)))
    learn.fit(1)
    tap = feature_tap(learn)
    learn.model.end = end
    learn.model.train()
    before = snapshot(learn)
    with pytest.raises(ex): feature_tap(learn)
    with pytest.raises(ex): collect(learn, learn.dls.valid, tap=tap)
    assert hooks(learn.model) == 0 and snapshot(learn) == before and not tap.given

def test_an_interrupt_while_hooks_are_set():
    learn = learner(Net(nn.Linear(5, 3)))
    tap = feature_tap(learn)
    class Bad(nn.Linear):
        def register_forward_pre_hook(self, *a, **k): raise KeyboardInterrupt
    tap.layers = [*tap.layers, Bad(2, 2)]
    with pytest.raises(KeyboardInterrupt):
        with tap: pass
    assert hooks(learn.model) == 0

def test_learner_streams_and_loaders_stay():
    learn = tiny_learner(norm='bn')
    learn.fit(1)
    learn.model.train()
    before = snapshot(learn)
    feature_tap(learn); feature_tap(learn, learn.dls.train)
    assert snapshot(learn) == before

def test_exported(tmp_path):
    learn = tiny_learner(path=tmp_path)
    learn.fit(1)
    learn.export('l.pkl')
    new = load_learner(tmp_path/'l.pkl')
    with pytest.raises(ValueError, match='with images, got an empty one. An exported learner has lost'):
        feature_tap(new)
    it = learn.dls.valid_ds.items
    tap = feature_tap(new, new.dls.test_dl([x for x,_ in it]))
    assert torch.equal(tap.head.W, feature_tap(learn).head.W)
    with pytest.raises(TypeError, match='feature_tap expected a fastai loader, got a DataLoaders'):
        feature_tap(learn, learn.dls)

def test_plain_learner_of_fastai():
    dls = tiny_dls()
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), loss_func=CrossEntropyLossFlat())
    assert feature_tap(learn).head.W.shape == (3, 64)
