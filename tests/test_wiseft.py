"wise_ft by hand, entry by entry; whatever built the network, with techniques; and what it refuses"
import copy, threading, warnings
from urllib.error import URLError
import numpy as np
import pytest, torch
import torchvision
from torch import nn
from torchvision.models import resnet18
from fastai.callback.core import Callback
from fastai.callback.mixup import MixUp
from fastai.learner import Learner, load_learner
from fastai.torch_core import get_random_states
from fastai.vision.learner import vision_learner
from fastrobust.basics import RobustWarning
from fastrobust.calibration.temperature import temper, temperature_of
from fastrobust.inference.passes import shifted_preds
from fastrobust.learner import robust_learner
from fastrobust.nets import small_cnn
from fastrobust.stripping import strip
from fastrobust.techniques.alasca import ALASCA
from fastrobust.techniques.augmix import AugMix
from fastrobust.techniques.elr import ELR
from fastrobust.techniques.jocor import JoCoR
from fastrobust.techniques.logitclip import LogitClip
from fastrobust.wiseft import wise_ft
from conftest import MiniAux, MiniTwin, tiny_dls, tiny_learner
from test_shifted import snapshot

TECHNIQUES = [lambda: AugMix(), lambda: LogitClip(1.), lambda: JoCoR(.2), lambda: ELR(), lambda: MiniAux(),
              lambda: ALASCA(), lambda: MixUp()]

def tuned(cbs=None, norm='bn', epochs=2, lr=1e-2, **kw):
    "A learner after a fit, and a copy of its network before: with statistics of its own, and a little apart"
    learn = tiny_learner(cbs, dls=tiny_dls(channels=3, **kw), norm=norm)
    learn.model.train()(torch.rand(40, 3, 8, 8))
    before = copy.deepcopy(learn.model)
    learn.fit(epochs, lr)
    return learn,before

def state(model): return {k: v.clone() for k,v in model.state_dict().items()}
def logits(learn): return shifted_preds(learn)[0]

def is_mix(new, before, after, alpha, head):
    "Whether each number is between those of two state dicts; of the head as after"
    for k,v in new.items():
        w = after[k]
        if v.is_floating_point() and not k.startswith(head): w = (1-alpha)*before[k].double() + alpha*w.double()
        torch.testing.assert_close(v.double(), w.double(), atol=1e-6, rtol=1e-6)

# --- numbers ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('alpha', [0, .25, .5, 1])
@pytest.mark.parametrize('norm', ['bn', 'gn', None])
def test_every_number_by_hand(alpha, norm):
    learn,before = tuned(norm=norm)
    a,b = state(before),state(learn.model)
    last = max(int(k.split('.')[0]) for k in b)
    new = wise_ft(learn, alpha, before)
    is_mix(state(new.model), a, b, alpha, f'{last}.')
    moved = [k for k in b if b[k].ndim and not torch.equal(a[k], b[k])]
    assert len(moved) >= 6
    if alpha == 1:
        for k,v in new.model.state_dict().items(): assert torch.equal(v, b[k])
        assert torch.equal(logits(new), logits(learn))
    if alpha == 0:
        with torch.no_grad():
            for k,v in before.state_dict().items():
                if k.startswith(f'{last}.'): v.copy_(b[k])
        learn.model = before
        assert torch.equal(logits(new), logits(learn))      # the body before, the head after

def test_the_head_too_where_the_base_knows_the_classes():
    learn,before = tuned()
    a,b = state(before),state(learn.model)
    new = wise_ft(learn, .3, before, head=True)
    is_mix(state(new.model), a, b, .3, 'none')

def test_base_in_every_form(tmp_path):
    learn,before = tuned()
    learn.path = tmp_path
    want = params_of(wise_ft(learn, .4, before))
    other = copy.deepcopy(learn)
    other.model = before
    file = other.save('before', with_opt=False)
    torch.save(copy.deepcopy(before).half().state_dict(), tmp_path/'half.pth')
    for base in (other, file, str(file), torch.load(file, weights_only=True)):
        assert torch.equal(params_of(wise_ft(learn, .4, base)), want)
    assert torch.allclose(params_of(wise_ft(learn, .4, tmp_path/'half.pth')), want, atol=1e-3)

def test_base_is_what_save_writes_with_its_optimizer(tmp_path):
    learn,_ = tuned()
    learn.path = tmp_path
    file = learn.save('tuned')
    want = params_of(learn)
    learn.fit(1)
    assert torch.allclose(params_of(wise_ft(learn, 0, file, head=True)), want)

@pytest.mark.parametrize('technique', [JoCoR(.2), ALASCA(warmup=0)])
def test_base_is_the_state_of_this_very_network_under_techniques(technique, tmp_path):
    learn = tiny_learner(technique)
    learn.path = tmp_path
    learn.fit(1)
    before,file = copy.deepcopy(learn.model.state_dict()),learn.save('before')
    learn.fit(1)
    own,k = learn.model.state_dict(),next(k for k,v in learn.model.state_dict().items() if v.ndim > 1)
    for base in (before, file):
        new = wise_ft(learn, .5, base).model.state_dict()
        assert torch.allclose(new[k], (before[k]+own[k])/2, atol=1e-6) and not torch.equal(before[k], own[k])

def test_weights_that_torchvision_does_not_have():
    learn = vision_learner(tiny_dls(channels=3, size=32), resnet18, pretrained=False, n_out=3)
    learn.pretrained = True
    with pytest.raises(ValueError, match="`weights` of resnet18 by their name in torchvision, .*got 'nope'"):
        wise_ft(learn, .5, weights='nope')

def test_what_normalises_in_front_is_no_body():
    learn,before = tuned()
    class Norm(nn.Module):
        def forward(self, x): return x-.5
    net,base = nn.Sequential(Norm(), learn.model),nn.Sequential(Norm(), before)
    wrapped = Learner(learn.dls, net, loss_func=learn.loss_func)
    a,b = state(base),state(net)
    mixed = state(wise_ft(wrapped, .5, base).model)
    k = next(k for k,v in a.items() if v.ndim > 1)
    assert torch.allclose(mixed[k], (a[k]+b[k])/2, atol=1e-6) and not torch.equal(a[k], b[k])

def params_of(learn): return torch.cat([p.detach().flatten() for p in learn.model.parameters()])

def test_tied_and_half_weights():
    "A number under two names is mixed once; half precision is rounded once"
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(12, 12)
            self.b,self.end = nn.Linear(12, 12),nn.Linear(12, 3)
            self.b.weight = self.a.weight
        def forward(self, x): return self.end(self.b(self.a(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))))
    learn,_ = tuned()
    learn.model = Tied()
    before = copy.deepcopy(learn.model)
    with torch.no_grad(): learn.model.a.weight.add_(.1)
    new = wise_ft(learn, .5, before)
    torch.testing.assert_close(new.model.a.weight, before.a.weight+.05)
    assert new.model.b.weight is new.model.a.weight
    learn.model.to(torch.bfloat16)
    new = wise_ft(learn, .5, before)
    assert new.model.a.weight.dtype == torch.bfloat16
    torch.testing.assert_close(new.model.a.weight.float(), before.a.weight+.05, atol=5e-3, rtol=1e-2)

# --- the learner -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('alpha', [.5, 1])
@pytest.mark.parametrize('make', [lambda: None, *TECHNIQUES])
def test_the_argument_stays_and_the_new_one_works(make, alpha, tmp_path):
    start = tiny_learner(make(), dls=tiny_dls(channels=3, size=16), norm='bn', path=tmp_path)
    before = copy.deepcopy(start.model)
    start.fit(2, 1e-2)
    keep,mine = snapshot(start),[id(o) for o in start.cbs]
    step = start.opt.state_dict()['state'][0]['step']
    new = wise_ft(start, alpha, before)
    after = snapshot(start)
    for k in keep: assert keep[k] == after[k], k
    assert [type(o) for o in new.cbs] == [type(o) for o in start.cbs] and not {id(o) for o in new.cbs} & {*mine}
    assert all(o.learn is new for o in new.cbs) and all(o.learn is start for o in start.cbs)
    assert new.dls is start.dls and new.loss_func is not start.loss_func and new.model is not start.model
    assert not {p.data_ptr() for p in new.model.parameters()} & {p.data_ptr() for p in start.model.parameters()}
    if alpha == 1: assert torch.equal(logits(new), logits(start))
    else: assert not torch.equal(logits(new), logits(start))

    with new.no_bar():
        p = new.get_preds()[0]
        new.export('new.pkl')
        x = start.dls.valid_ds.items[0][0]
        loaded = load_learner(tmp_path/'new.pkl')
        with loaded.no_bar(): assert torch.allclose(loaded.predict(x)[2], p[0], atol=1e-6)
        new.fit(1, 1e-2)
    assert not torch.equal(logits(new), logits(start))
    moving = ('random', 'numpy', 'torch', 'rngs')   # the data are shared, and so is what shuffles them
    for k,v in snapshot(start).items(): assert k in moving or v == keep[k], k
    assert start.opt.state_dict()['state'][0]['step'] == step

def test_two_networks_each():
    learn,before = tuned(MiniTwin())
    new = wise_ft(learn, .25, before)
    for i in (0, 1):
        a,b,c = (state(m.nets[i]) for m in (before, learn.model, new.model))
        last = max(int(k.split('.')[0]) for k in b)
        is_mix(c, a, b, .25, f'{last}.')
    one = before.nets[0].state_dict()       # of one network: for both
    new = wise_ft(learn, 0, one)
    assert torch.equal(new.model.nets[1][0].weight, one['0.weight'])

def test_names_are_those_without_wrappers():
    learn,before = tuned(MiniAux())
    new = wise_ft(learn, 0, before.net.state_dict())
    assert torch.equal(new.model.net[0].weight, before.net[0].weight)
    assert torch.equal(new.model.head.weight, learn.model.head.weight)
    assert torch.equal(wise_ft(learn, 0, before).model.net[0].weight, before.net[0].weight)
    plain = strip(learn)
    assert torch.equal(wise_ft(plain, 0, before).model[0].weight, before.net[0].weight)

def test_after_an_interrupt_and_without_images(tmp_path):
    learn,before = tuned()
    def loss(*_): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        old,learn.loss_func = learn.loss_func,loss
        learn.fit(1)
    learn.loss_func = old
    assert learn.pred is not None and not learn.pred.is_leaf
    assert wise_ft(learn, .5, before).pred is None
    body = nn.Sequential(small_cnn(6, 3, width=8, depth=2), nn.Linear(6, 3))
    learn = Learner(learn.dls, body, loss_func=learn.loss_func, path=tmp_path)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    learn.export('e.pkl')
    loaded,was = load_learner(tmp_path/'e.pkl'),copy.deepcopy(body)
    with torch.no_grad(): was[0][0].weight.mul_(.9)
    new = wise_ft(loaded, 0, was)
    assert torch.equal(new.model[0][0].weight, was[0][0].weight) and torch.equal(new.model[1].weight, body[1].weight)
    learn,before = tuned(bs=8)
    learn.path = tmp_path
    learn.export('e.pkl')
    new = wise_ft(load_learner(tmp_path/'e.pkl'), 0, before)    # without images its last layer is the head
    assert torch.equal(new.model[-1].weight, learn.model[-1].weight)
    assert torch.equal(new.model[0].weight, before[0].weight)

def test_random_streams_stay():
    learn,before = tuned()
    a = get_random_states()
    wise_ft(learn, .5, before)
    b = get_random_states()
    assert a['random_state'] == b['random_state'] and torch.equal(a['torch_state'], b['torch_state'])
    assert (a['numpy_state'][1] == b['numpy_state'][1]).all()

def test_a_temperature_stays_behind():
    learn,before = tuned()
    temper(learn, 2.)
    with pytest.warns(RobustWarning, match='the temperature was fitted for the fine-tuned weights'):
        new = wise_ft(learn, .5, before)
    assert temperature_of(new) is None and temperature_of(learn) == 2.
    with warnings.catch_warnings():
        warnings.simplefilter('error', RobustWarning)
        assert temperature_of(wise_ft(learn, 1, before)) == 2.

# --- pretrained weights as they are loaded ---------------------------------------------------------------------------
def nudged(learn):
    "As if it had been fine-tuned"
    with torch.no_grad():
        for p in learn.model.parameters(): p.add_(.01*torch.randn_like(p))
    return learn

@pytest.fixture
def offline(monkeypatch):
    "`torch.hub` finds weights drawn here, of any torchvision function"
    made = {}
    def load(self, *_a, **_k):
        name = self.url.split('/')[-1].split('-')[0]
        torch.manual_seed(1)
        if name not in made:
            net = getattr(torchvision.models, name)(weights=None)
            with torch.no_grad():
                for p in net.parameters(): p.add_(.02*torch.randn_like(p))
            made[name] = net.state_dict()
        return made[name]
    monkeypatch.setattr(torchvision.models._api.WeightsEnum, 'get_state_dict', load)
    return made

@pytest.mark.slow
@pytest.mark.parametrize('name,channels', [('resnet18', 3), ('resnet18', 1), ('mobilenet_v2', 3), ('mobilenet_v2', 1),
                                           ('squeezenet1_1', 3), ('regnet_y_400mf', 3)])
def test_of_torchvision(offline, name, channels, tmp_path):
    arch = getattr(torchvision.models, name)
    learn = robust_learner(tiny_dls(channels=channels, size=32, normalize=False), arch)
    before = state(learn.model)
    nudged(learn)
    keep = get_random_states()['torch_state']
    new = wise_ft(learn, 0)
    assert torch.equal(get_random_states()['torch_state'], keep)
    got = state(new.model)
    for k,v in got.items():
        want = before[k] if k.startswith('0.') else learn.model.state_dict()[k]
        assert torch.equal(v, want), k
    torch.save(offline[name], tmp_path/'file.pth')
    from_file = state(wise_ft(learn, 0, weights=tmp_path/'file.pth').model)
    for k,v in from_file.items(): assert torch.equal(v, got[k]), k
    which = wise_ft(learn, 0, weights='IMAGENET1K_V1')
    for k,v in which.model.state_dict().items(): assert torch.equal(v, got[k]), k

@pytest.mark.usefixtures('offline')
def test_of_fastai_alone_and_of_timm(tmp_path):
    learn = vision_learner(tiny_dls(channels=3, size=32), resnet18, normalize=False)
    before = learn.model[0][0].weight.detach().clone()
    assert torch.equal(wise_ft(nudged(learn), 0).model[0][0].weight, before)
    timm = pytest.importorskip('timm')
    learn = robust_learner(tiny_dls(channels=3, size=32), 'resnet10t', pretrained=False)
    net = timm.create_model('resnet10t')
    torch.save(net.state_dict(), tmp_path/'timm.pth')
    with pytest.warns(RobustWarning, match='little in common'):
        new = wise_ft(learn, 0, weights=tmp_path/'timm.pth')
    assert torch.equal(new.model[0].model.conv1[0].weight, net.conv1[0].weight)

def test_a_function_of_the_users_own(tmp_path):
    file = tmp_path/'own.pth'
    torch.save(resnet18().state_dict(), file)
    def own(pretrained=True):
        net = resnet18()
        if pretrained: net.load_state_dict(torch.load(file, weights_only=True))
        return net
    learn = robust_learner(tiny_dls(channels=3, size=32, normalize=False), own, normalize=False)
    before = learn.model[0][0].weight.detach().clone()
    assert torch.equal(wise_ft(nudged(learn), 0).model[0][0].weight, before)

def test_weights_that_cannot_be_had(offline, tmp_path, monkeypatch):
    learn = nudged(robust_learner(tiny_dls(channels=3, size=32, normalize=False), resnet18))
    bad = {k: v for k,v in offline['resnet18'].items() if not k.startswith('layer2.0')}
    torch.save(bad, tmp_path/'bad.pth')
    with pytest.raises(ValueError, match='file with the weights of resnet18, got one in which .*layer2.0.conv1.weight'):
        wise_ft(learn, .5, weights=tmp_path/'bad.pth')
    def refuse(*_a, **_k): raise URLError('no net')
    monkeypatch.setattr(torchvision.models._api.WeightsEnum, 'get_state_dict', refuse)
    with pytest.raises(OSError, match="weights of resnet18, got URLError.*weights='resnet18.pth', or `base`"):
        wise_ft(learn, .5)
    learn.pretrained = False
    with pytest.raises(ValueError, match='began from pretrained weights, got pretrained=False'): wise_ft(learn, .5)
    with pytest.raises(ValueError, match='vision_learner or robust_learner.*got one of a Sequential.*`base`'):
        wise_ft(tuned()[0], .5)

# --- said and refused ------------------------------------------------------------------------------------------------
def test_what_has_not_moved_or_is_of_another_training():
    learn,_ = tuned()
    with pytest.warns(RobustWarning, match='has not moved from `base`'): wise_ft(learn, .5, learn.model)
    other = tiny_learner(dls=learn.dls, norm='bn', seed=9).model
    with pytest.warns(RobustWarning, match='little in common .cosine'): wise_ft(learn, .5, other)
    learn,before = tuned()
    with warnings.catch_warnings():
        warnings.simplefilter('error', RobustWarning)
        wise_ft(learn, .5, before)

@pytest.mark.parametrize('alpha,error,match', [
    (-.1, ValueError, r'`alpha` in \[0,1\].*got -0.1'), (1.01, ValueError, 'got 1.01'),
    (float('nan'), ValueError, 'got nan'), ('half', TypeError, "`alpha` must be a number, got 'half'"),
    (True, TypeError, 'got True'),
    (torch.tensor(1.5), ValueError, 'got 1.5'), (torch.tensor(True), TypeError, '`alpha` must be a number, got True'),
    (torch.linspace(0, 1, 2), TypeError, r'expected one `alpha`, got tensor\(\[0., 1.\]\). Write'),
    (np.array([.5]), TypeError, r'expected one `alpha`, got \[0.5\]. Write'),
    ([0, .5], TypeError, r'expected one `alpha`, got \[0, 0.5\]. Write \[wise_ft\(learn, a\) for a in')])
def test_alphas_that_are_refused(alpha, error, match):
    learn,before = tuned()
    with pytest.raises(error, match=match): wise_ft(learn, alpha, before)

@pytest.mark.parametrize('alpha', [torch.tensor(.25, requires_grad=True), torch.tensor(.25).double(), np.array(.25),
                                   np.float32(.25)])
def test_a_number_in_a_tensor_or_an_array_is_one(alpha):
    learn,before = tuned()
    assert torch.equal(params_of(wise_ft(learn, alpha, before)), params_of(wise_ft(learn, .25, before)))

@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_a_base_that_is_not_finite_is_refused_by_name(bad):
    learn,before = tuned()
    a = state(before)
    a['0.weight'][0, 0, 0, 0] = a['1.running_var'][1] = bad
    with pytest.raises(ValueError, match=r'NaN or infinite ones in 2 of \d+: 0.weight, 1.running_var. Give'):
        wise_ft(learn, .5, a)
    last = max(int(k.split('.')[0]) for k in a)
    with torch.no_grad(): before.state_dict()[f'{last}.weight'][0] = bad
    assert torch.isfinite(params_of(wise_ft(learn, .5, before))).all()      # of the head nothing is taken

def test_a_callback_that_cannot_be_copied_is_named():
    class Locked(Callback):
        def __init__(self): self.key = threading.Lock()
    learn,before = tuned()
    learn.add_cb(Locked())
    match = (r"callbacks that can be copied, got Locked, which cannot be \(cannot pickle .*lock.*"
             r"with learn.removed_cbs\(learn.locked\): new = wise_ft\(learn\)`, or give")
    with pytest.raises(TypeError, match=match): wise_ft(learn, .5, before)
    with learn.removed_cbs(learn.locked): new = wise_ft(learn, .5, before)
    assert learn.locked.learn is learn and not hasattr(new, 'locked')
    learn.remove_cb(Locked)
    learn.mine = threading.Lock()       # no callback's: as deepcopy says it
    with pytest.raises(TypeError, match='^cannot pickle'): wise_ft(learn, .5, before)

def test_bases_that_are_refused():
    learn,before = tuned()
    with pytest.raises(TypeError, match='expected a fastai Learner'): wise_ft(learn.model, .5, before)
    with pytest.raises(TypeError, match='`base` as a network.*got a int'): wise_ft(learn, .5, 3)
    with pytest.raises(ValueError, match='`base` or `weights`, got both'): wise_ft(learn, .5, before, weights='a.pth')
    wide = small_cnn(3, 3, width=16, norm='bn', depth=2)
    with pytest.raises(ValueError, match=r'same names and shapes.*got others for \d+ of \d+: 0.weight, 1.weight'):
        wise_ft(learn, .5, wide)
    lost = {k: v for k,v in before.state_dict().items() if k != '1.running_var'}
    with pytest.raises(ValueError, match='got others for 1 of .*: 1.running_var'): wise_ft(learn, .5, lost)
    learn.model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ValueError, match='ends in a linear layer, got a Seq.*head=True'): wise_ft(learn, .5, before)
    with pytest.warns(RobustWarning, match='little in common'):
        wise_ft(learn, .5, nn.Sequential(nn.Conv2d(3, 3, 3)), head=True)
