"A body is its network up to the last linear layer, exactly; from functions, timm names, modules and learners"
import copy, importlib.util, sys
from functools import partial
import pytest
import torch
import torchvision
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d
from torchvision import models as tv
from torchvision.models import MobileNet_V2_Weights, ResNet18_Weights, VisionTransformer
from fastai.learner import Learner
from fastai.torch_core import set_seed
from fastai.vision.core import imagenet_stats
from fastai.vision.learner import default_split, model_meta
from fastai.vision.models.xresnet import xresnet18
from conftest import MiniAux, TwinNet, tiny_dls, tiny_learner
from fastrobust.inference.bodies import Body, body_of
from fastrobust.losses import CrossEntropy
from fastrobust.nets import small_cnn
from fastrobust.stripping import strip
from fastrobust.techniques.jocor import JoCoR
from fastrobust.techniques.logitclip import LogitClip
from fastrobust.training.surgery import has_surgery

def images(n=2, c=3, size=32): return torch.randn(n, c, size, size, generator=torch.Generator().manual_seed(1))

def out(net, x):
    with torch.no_grad(): return net.eval()(x)

def tiny_vit():
    return VisionTransformer(image_size=32, patch_size=8, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=32,
                             num_classes=7)

def feature_net(): return nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU())

# --- every family, cut exactly ---------------------------------------------------------------------------------------
FAMILIES = dict(alexnet=(4096, 63), vgg11=(4096, 32), vgg11_bn=(4096, 32), resnet18=(512, 32),
                resnext50_32x4d=(2048, 32), mobilenet_v2=(1280, 32), mobilenet_v3_small=(1024, 32),
                efficientnet_b0=(1280, 32), efficientnet_v2_s=(1280, 33), densenet121=(1024, 32), googlenet=(1024, 32),
                inception_v3=(2048, 75), convnext_tiny=(768, 32), regnet_x_400mf=(400, 32), regnet_y_400mf=(440, 32),
                shufflenet_v2_x0_5=(1024, 32), mnasnet0_5=(1280, 32), swin_t=(768, 32), swin_v2_t=(768, 32),
                maxvit_t=(512, 224), vit_b_32=(768, 224))

@pytest.mark.slow
@pytest.mark.parametrize('name', FAMILIES)
def test_body_and_left_out_layer_are_the_network(name):
    arch,(d,size) = getattr(tv, name),FAMILIES[name]
    x = images(size=size)
    set_seed(5)
    body = body_of(arch, x, pretrained=False)
    set_seed(5)
    net = arch(weights=None)        # nothing else was drawn
    f = out(body, x)
    assert type(body) is Body and body.name == name and body.d == d and body.stats is None
    assert f.shape == (2, d) and f.dtype == torch.float32 and body.left_out.out_features == 1000
    torch.testing.assert_close(out(body.left_out, f), out(net, x))
    assert not any(m is body.left_out for m in body.modules())
    plain = out(body.net, x)        # what a learner is built on
    assert torch.equal(plain, f) and type(body.net) is type(net)

@pytest.mark.parametrize('name', ['mobilenet_v2', 'googlenet', 'inception_v3', 'shufflenet_v2_x0_5'])
def test_in_training_it_gives_a_vector_with_gradients_too(name):
    x = images(4, size=FAMILIES[name][1])
    body = body_of(getattr(tv, name), x, pretrained=False)
    assert body.training and all(m.training for m in body.modules())
    f = body(x)
    assert f.shape == (4, body.d) and isinstance(body.net(x), torch.Tensor)
    f.sum().backward()
    assert all(p.grad is not None for p in body.parameters())       # no auxiliary head is left

def test_squeezenet_ends_in_a_convolution():
    x = images()
    body = body_of(tv.squeezenet1_1, x, pretrained=False)
    assert body.left_out is None and body.d == 512
    want = adaptive_avg_pool2d(out(body.net.features, x), 1).flatten(1)
    assert torch.equal(out(body, x), want)

@pytest.mark.slow
@pytest.mark.parametrize('name', FAMILIES)
def test_any_number_of_channels(name):
    if name in ('vgg11_bn', 'resnext50_32x4d', 'swin_v2_t', 'maxvit_t'): pytest.skip('as its sisters')
    d,size = FAMILIES[name]
    body = body_of(getattr(tv, name), images(c=1, size=size), pretrained=False)
    assert body.d == d and out(body, images(3, c=1, size=size)).shape == (3, d)

# --- modules and learners --------------------------------------------------------------------------------------------
class Odd(nn.Module):
    "Logits as a view, a hidden linear layer of as many outputs, a layer that is only called before"
    def __init__(self):
        super().__init__()
        self.last,self.flat = nn.Linear(6, 6),nn.Flatten()
        self.body,self.hidden = nn.Linear(48, 6),nn.Linear(6, 6)
    def forward(self, x):
        z = self.body(self.flat(adaptive_avg_pool2d(x, 4)))
        return self.last(torch.tanh(self.hidden(z))[:, None]).view(len(x), -1)

def test_the_last_layer_called_and_not_the_last_written():
    x,net = images(),Odd()
    before = copy.deepcopy(net.state_dict())
    z = out(net, x)
    net.train()
    body = body_of(net, x)
    assert (body.d, body.name) == (6, 'Odd') and body.stats is None
    assert torch.equal(body.left_out.weight, net.last.weight) and type(body.net.last) is nn.Identity
    torch.testing.assert_close(out(body.left_out, out(body, x)), z)
    assert type(net.last) is nn.Linear and net.training and not net._forward_hooks
    assert not any(m._forward_hooks for m in [*net.modules(), *body.modules(), body.left_out])
    assert all(torch.equal(v, before[k]) for k,v in net.state_dict().items())
    with torch.no_grad(): next(body.parameters()).zero_()
    assert torch.equal(next(net.parameters()), before['last.weight'])

def test_of_two_layers_with_the_same_output_the_later_is_left_out():
    same = nn.Linear(5, 5)
    with torch.no_grad(): same.weight.copy_(torch.eye(5)); same.bias.zero_()
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5), same)
    body = body_of(net, images())
    assert body.d == 5 and type(body.net[3]) is nn.Identity

@pytest.mark.parametrize('end', [nn.ReLU(inplace=True), nn.ReLU(), nn.LogSoftmax(1), nn.BatchNorm1d(5)], ids=str)
def test_what_goes_on_after_its_linear_layer_is_used_whole(end):
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5), end)
    if isinstance(end, nn.BatchNorm1d): end.running_mean.fill_(.5)
    x = images(5)
    body = body_of(net, x)
    assert body.left_out is None and body.d == 5
    assert torch.equal(out(body, x), out(net, x))

def test_without_a_linear_layer_pixels_of_one_are_a_vector():
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1))
    body = body_of(net, images())
    assert body.left_out is None and body.d == 5 and out(body, images()).shape == (2, 5)
    assert out(body.net, images()).shape == (2, 5) and 'fastrobust' not in str({type(m) for m in body.net.modules()})

def test_a_layer_that_is_called_twice_stays():
    class Twice(nn.Module):
        def __init__(self): super().__init__(); self.fc = nn.Linear(3, 3)
        def forward(self, x): return self.fc(self.fc(x.mean((2, 3))))
    net = Twice()
    body = body_of(net, images())
    assert body.left_out is None and torch.equal(out(body, images()), out(net, images()))

def test_a_layer_under_two_names_is_left_out_under_both():
    net = small_cnn(4, 3, 8, depth=1)
    net.also = net[-1]
    class Net(nn.Module):
        def __init__(self): super().__init__(); self.net,self.head = net,net[-1]
        def forward(self, x): return self.head(self.net[:-2](x))
    body = body_of(Net(), images())
    assert body.d == 8 and type(body.net.head) is nn.Identity
    assert not any(isinstance(m, nn.Linear) for m in body.modules())

def test_a_network_that_needs_its_logits_later_is_refused():
    class Net(nn.Module):
        def __init__(self): super().__init__(); self.fc = nn.Linear(3, 4)
        def forward(self, x): return self.fc(x.mean((2, 3))).view(-1, 4)
    with pytest.raises(ValueError, match="Net to end in its last linear layer") as e: body_of(Net(), images())
    assert 'shape' in str(e.value.__cause__)

@pytest.mark.parametrize('d', [3, 4])
def test_a_layer_that_cannot_be_replaced_is_refused(d):
    class Listed(nn.Module):
        def __init__(self): super().__init__(); self.fc = nn.Linear(d, 4); self.all = [self.fc]
        def forward(self, x): return self.all[0](x.mean((2, 3)))
    with pytest.raises(ValueError, match='expected Listed to end in its last linear layer.*4 outputs afterwards. Give'):
        body_of(Listed(), images(c=d))

def test_first_of_a_tuple():
    class Net(nn.Module):
        def __init__(self): super().__init__(); self.fc = nn.Linear(3, 4)
        def forward(self, x): return self.fc(x.mean((2, 3))),x
    body = body_of(Net(), images())
    assert body.d == 3 and torch.equal(out(body, images()), images().mean((2, 3)))

def test_random_streams_and_modes_stay():
    net = small_cnn(4, 3, 8, depth=1).train()
    net[1].eval()
    state = torch.get_rng_state()
    body = body_of(nn.Sequential(net, nn.Dropout()), images())
    assert torch.equal(state, torch.get_rng_state())
    assert [m.training for m in body.net[0].children()] == [m.training for m in net.children()]
    assert net[1].num_batches_tracked.item() == 0

def test_half_precision_gives_float_vectors():
    net = small_cnn(4, 3, 8, depth=1).to(torch.bfloat16)
    body = body_of(net, images())
    assert out(body, images().to(torch.bfloat16)).dtype == torch.float32

@pytest.mark.parametrize('make,normalize', [(lambda: LogitClip(1.), True), (lambda: LogitClip(1.), False),
                                            (MiniAux, True)])
def test_a_learner_gives_its_network_without_what_techniques_put_around_it(make, normalize):
    dls = tiny_dls(normalize=normalize)
    learn = tiny_learner(make(), dls=dls)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    x = dls.one_batch()[0]
    body = body_of(learn, x)
    torch.testing.assert_close(out(body.left_out, out(body, x)), out(learn.model, x))
    assert body.d == 8 and type(body.net) is nn.Sequential and not has_surgery(body)
    assert has_surgery(learn.model) == (make is MiniAux) and not set(body.modules()) & set(learn.model.modules())
    assert any(isinstance(m, nn.Linear) and m.in_features == 8 for m in learn.model.modules())
    if not normalize: assert body.stats is None
    else: assert body.stats[0] == pytest.approx(dls.train.after_batch.fs[-1].mean.flatten().tolist())

def test_of_two_networks_one_must_be_taken():
    learn = tiny_learner(JoCoR(.2))
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    x = learn.dls.one_batch()[0]
    with pytest.raises(ValueError, match=r"got the two of a Twin. Take one: strip\(learn, which='a'\)"):
        body_of(learn, x)
    one = strip(learn, which='b')
    torch.testing.assert_close(body_of(one, x).left_out.weight, one.model[-1].weight)
    learn = Learner(tiny_dls(), TwinNet(small_cnn(3, 1, 8), small_cnn(3, 1, 8)), loss_func=CrossEntropy())
    with pytest.raises(ValueError, match='two of a TwinNet'): body_of(learn, x)

# --- functions and their weights -------------------------------------------------------------------------------------
def from_nowhere(monkeypatch, arch):
    "Weights of `arch` as a download would give them"
    set_seed(11)
    net = arch(weights=None)
    monkeypatch.setattr(torchvision.models._api, 'load_state_dict_from_url', lambda *a, **k: net.state_dict())
    return net

@pytest.mark.parametrize('weights', [None, 'DEFAULT', 'IMAGENET1K_V1', 'MobileNet_V2_Weights.IMAGENET1K_V2',
                                     MobileNet_V2_Weights.IMAGENET1K_V1])
def test_weights_of_torchvision(monkeypatch, weights):
    net,x = from_nowhere(monkeypatch, tv.mobilenet_v2),images()
    for arch in (tv.mobilenet_v2, partial(tv.mobilenet_v2, width_mult=1.)):
        body = body_of(arch, x, weights=weights)
        assert body.name == 'mobilenet_v2' and body.stats == ([.485, .456, .406], [.229, .224, .225])
        torch.testing.assert_close(out(body.left_out, out(body, x)), out(net, x))

def test_statistics_are_those_of_the_weights(monkeypatch):
    from_nowhere(monkeypatch, tv.resnet18)
    class Ours:
        mean,std,crop_size = [.1, .2, .3],[.4, .5, .6],[224]
    monkeypatch.setattr(ResNet18_Weights.DEFAULT.value, 'transforms', Ours)
    assert body_of(partial(tv.resnet18, progress=False), images()).stats == (Ours.mean, Ours.std)
    m,s = body_of(partial(tv.resnet18, progress=False), images(c=1)).stats
    assert m == pytest.approx([.2]) and s == pytest.approx([.5])
    assert body_of(tv.resnet18, images(), pretrained=False).stats is None
    del Ours.mean
    assert body_of(partial(tv.resnet18, progress=False), images()).stats == imagenet_stats

def test_weights_fixed_in_a_partial_are_kept(monkeypatch):
    got = []
    def load(url, *_a, **_k): got.append(url); return tv.mobilenet_v2().state_dict()
    monkeypatch.setattr(torchvision.models._api, 'load_state_dict_from_url', load)
    V1 = MobileNet_V2_Weights.IMAGENET1K_V1
    assert V1 is not MobileNet_V2_Weights.DEFAULT
    body_of(partial(tv.mobilenet_v2, weights=V1), images())
    body_of(partial(tv.mobilenet_v2, weights=V1), images(), pretrained=False)
    body_of(tv.mobilenet_v2, images())
    assert got == [V1.url, MobileNet_V2_Weights.DEFAULT.url]

@pytest.mark.parametrize('name', ['mobilenet_v2', 'alexnet', 'swin_t'])
def test_pretrained_colour_weights_on_other_channels(monkeypatch, name):
    "One channel sees the sum of the three, further channels are not seen: fastai's rule; a bias is kept"
    arch,size = getattr(tv, name),FAMILIES[name][1]
    net,x = from_nowhere(monkeypatch, arch),images(c=4, size=size)
    net.eval()
    grey,more = body_of(arch, x[:, :1]),body_of(arch, x)
    close = partial(torch.testing.assert_close, rtol=1e-3, atol=1e-4)
    close(out(grey.left_out, out(grey, x[:, :1])), out(net, x[:, :1].repeat(1, 3, 1, 1)))
    close(out(more.left_out, out(more, x)), out(net, x[:, :3]))
    assert grey.stats[0] == pytest.approx([.449], abs=1e-3) and len(more.stats[1]) == 4

def test_googlenet_turns_imagenets_statistics_into_its_own(monkeypatch):
    net,px = from_nowhere(monkeypatch, partial(tv.googlenet, init_weights=True)),images(c=1).sigmoid()
    net.transform_input = True
    body = body_of(tv.googlenet, images())
    assert body.net.transform_input and body.stats[0] == [.485, .456, .406]
    m,s = (torch.tensor(o).view(1, 3, 1, 1) for o in body.stats)
    grey = body_of(tv.googlenet, px)
    assert grey.stats == ([.5], [.5]) and not grey.net.transform_input
    z = out(net, (px.repeat(1, 3, 1, 1)-m)/s)
    torch.testing.assert_close(out(grey.left_out, out(grey, (px-.5)/.5)), z, rtol=1e-3, atol=1e-4)

def users(**signature):
    "A function of the user's, and what it was called with"
    got = []
    def mine(**kw): got.append(kw); return tv.mobilenet_v2()
    if signature == dict(both=1):
        def fn(weights=None, pretrained=True): return mine(weights=weights, pretrained=pretrained)
    elif signature == dict(pretrained=1):
        def fn(pretrained=False): return mine(pretrained=pretrained)
    elif signature == dict(weights=1):
        def fn(weights=None): return mine(weights=weights)
    else:
        def fn(): return mine()
    return fn,got

@pytest.mark.parametrize('takes,pretrained,weights,call,stats', [
    ('both', True, None, dict(weights=None, pretrained=True), imagenet_stats),
    ('both', False, None, dict(weights=None, pretrained=False), None),
    ('both', False, 'mine', dict(weights='mine', pretrained=True), imagenet_stats),
    ('pretrained', True, None, dict(pretrained=True), imagenet_stats),
    ('pretrained', False, None, dict(pretrained=False), None),
    ('weights', True, None, dict(weights='DEFAULT'), imagenet_stats),
    ('weights', False, None, dict(weights=None), None),
    ('nothing', True, None, {}, None)])
def test_functions_of_the_user(takes, pretrained, weights, call, stats):
    fn,got = users(**{takes: 1})
    body = body_of(fn, images(), pretrained, weights)
    assert got == [call] and body.stats == stats and body.d == 1280 and body.name == 'fn'
    if takes in ('pretrained', 'nothing'):
        with pytest.raises(ValueError, match="fn takes no `weights`, got 'V1'"): body_of(fn, images(), weights='V1')

def test_what_model_meta_says_of_a_function(monkeypatch):
    fn,_ = users(both=1)
    monkeypatch.setitem(model_meta, fn, dict(cut=-1, split=default_split, stats=([.1]*3, [.2]*3)))
    assert body_of(fn, images()).stats == ([.1]*3, [.2]*3)
    assert body_of(fn, images(), pretrained=False).stats is None
    body = body_of(xresnet18, images(), pretrained=False)           # fastai's own
    assert body.d == 512 and body.left_out.out_features == 1000 and body.stats is None
    assert body_of(partial(tiny_vit), images(c=1), pretrained=False).net.conv_proj.in_channels == 1
    assert body_of(tv.MobileNetV2, images()).d == 1280              # a class

# --- weights in a file -----------------------------------------------------------------------------------------------
@pytest.fixture
def saved(tmp_path):
    "A network of 9 classes, its weights in a file"
    net = tv.mobilenet_v2(num_classes=9)
    torch.save(net.state_dict(), tmp_path/'net.pth')
    return net.eval(),tmp_path/'net.pth'

@pytest.mark.parametrize('form', ['path', 'str', 'saved by a learner', 'without classifier'])
@pytest.mark.parametrize('pretrained', [True, False])
def test_weights_in_a_file(monkeypatch, saved, form, pretrained):
    def no(*_a, **_k): raise AssertionError('downloads')
    monkeypatch.setattr(torchvision.models._api, 'load_state_dict_from_url', no)
    (net,path),x = saved,images()
    state = net.state_dict()
    if form == 'saved by a learner': torch.save(dict(model=state, opt={'lr': [.1]}), path)
    if form == 'without classifier': torch.save({k: v for k,v in state.items() if 'classifier' not in k}, path)
    body = body_of(tv.mobilenet_v2, x, pretrained, weights=str(path) if form == 'str' else path)
    want = adaptive_avg_pool2d(out(net.features, x), 1).flatten(1)
    assert torch.equal(out(body, x), want) and list(body.stats[0]) == [.485, .456, .406]

def test_a_file_of_colour_or_grey_weights_for_grey_images(saved, tmp_path):
    net,path = saved
    x = images(c=1)
    body = body_of(tv.mobilenet_v2, x, weights=path)
    want = adaptive_avg_pool2d(out(net.features, x.repeat(1, 3, 1, 1)), 1).flatten(1)
    torch.testing.assert_close(out(body, x), want, rtol=1e-3, atol=1e-4)
    net.features[0][0] = nn.Conv2d(1, 32, 3, 2, 1, bias=False)
    torch.save(net.state_dict(), tmp_path/'grey.pt')
    body = body_of(tv.mobilenet_v2, x, weights=tmp_path/'grey.pt')
    assert torch.equal(out(body.net.features, x), out(net.features, x))
    with pytest.raises(ValueError, match=r'got one in which 1 are.*features.0.0.weight'):
        body_of(tv.mobilenet_v2, images(), weights=tmp_path/'grey.pt')

@pytest.mark.parametrize('name', ['mnasnet0_5', 'googlenet', 'squeezenet1_1'])
def test_a_file_of_a_whole_network_with_versions_and_heads_of_its_own(name, tmp_path):
    net = getattr(tv, name)(num_classes=9)
    torch.save(net.state_dict(), tmp_path/'net.pt')
    body = body_of(getattr(tv, name), images(), weights=tmp_path/'net.pt')
    own = net.state_dict()
    assert all(torch.equal(v, own[k]) for k,v in body.net.state_dict().items())
    if name != 'googlenet': return
    assert body.net.transform_input and list(body.stats[0]) == [.485, .456, .406]      # as with its download
    assert body_of(tv.googlenet, images(c=1), weights=tmp_path/'net.pt').stats == ([.5], [.5])

def test_a_file_into_a_network(tmp_path):
    a,b = small_cnn(4, 3, 8, depth=1),small_cnn(4, 3, 8, depth=1)
    torch.save(a.state_dict(), tmp_path/'a.pt')
    body = body_of(b, images(), weights=tmp_path/'a.pt')
    torch.testing.assert_close(out(body.left_out, out(body, images())), out(a, images()))
    assert not torch.equal(a[0].weight, b[0].weight) and body.stats is None
    with pytest.raises(ValueError, match="`weights` of your Sequential.*got 'DEFAULT'"):
        body_of(b, images(), weights='DEFAULT')

def test_a_file_that_does_not_fit(saved):
    _,path = saved
    with pytest.raises(ValueError, match=r'weights of mnasnet0_5, got one in which \d+ are missing, .* of that arch'):
        body_of(tv.mnasnet0_5, images(), weights=path)
    state = tv.mobilenet_v2().state_dict()
    torch.save({k: v for k,v in state.items() if k != 'features.1.conv.0.0.weight'}, path)
    with pytest.raises(ValueError, match=r'in which 1 are missing.*: features.1.conv.0.0.weight. Give'):
        body_of(tv.mobilenet_v2, images(), weights=path)
    torch.save({**state, 'more.weight': torch.ones(1)}, path)
    with pytest.raises(ValueError, match='in which 1 are.*: more.weight. Give'):
        body_of(tv.mobilenet_v2, images(), weights=path)
    torch.save({k: v for k,v in state.items() if 'num_batches' not in k}, path)    # as before torch 0.4.1
    assert body_of(tv.mobilenet_v2, images(), weights=path).d == 1280
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match='expected a state_dict in .*got a list'):
        body_of(tv.mobilenet_v2, images(), weights=path)
    with pytest.raises(FileNotFoundError, match='nowhere.pt'): body_of(tv.resnet18, images(), weights='nowhere.pt')

# --- timm ------------------------------------------------------------------------------------------------------------
needs_timm = pytest.mark.skipif(importlib.util.find_spec('timm') is None, reason='no timm')

@needs_timm
@pytest.mark.parametrize('name,size', [('resnet10t', 32), ('test_vit', 160), ('test_efficientnet', 32),
                                       ('test_convnext', 32)])
@pytest.mark.parametrize('c', [1, 3])
def test_timm(name, size, c):
    import timm
    x = images(c=c, size=size)
    set_seed(3)
    body = body_of(name, x, pretrained=False)
    set_seed(3)
    net = timm.create_model(name, num_classes=0, in_chans=c)
    assert (body.name, body.left_out, body.stats) == (name, None, None) and body.d == net.num_features
    assert torch.equal(out(body, x), out(net, x))

@needs_timm
def test_timm_weights_in_a_file_and_statistics(tmp_path):
    import timm
    net = timm.create_model('test_vit', num_classes=5)
    torch.save(net.state_dict(), tmp_path/'vit.pt')
    x = images(size=160)
    assert body_of('test_vit', x, False, tmp_path/'vit.pt').stats is not None
    body = body_of('test_vit', x, weights=tmp_path/'vit.pt')
    torch.testing.assert_close(net.head(out(body, x)), out(net, x))
    assert body.stats == (list(net.default_cfg['mean']), list(net.default_cfg['std']))
    with pytest.raises(ValueError, match=r"weights of test_resnet, got one in which"):
        body_of('test_resnet', x, weights=tmp_path/'vit.pt')
    with pytest.raises(ValueError, match="`weights` of 'test_vit' to be the path"):
        body_of('test_vit', x, weights='DEFAULT')

@needs_timm
def test_names_timm_does_not_know():
    with pytest.raises(ValueError, match="timm architecture, got 'resnet1O0t'. Did you mean 'resnet1"):
        body_of('resnet1O0t', images())
    with pytest.raises(ValueError, match='torchvision.models.mobilenet_v2, without quotes'):
        body_of('mobilenet_v2', images())
    with pytest.raises(ValueError, match=r"'qqqqq'. All: timm.list_models\(\)"): body_of('qqqqq', images())

def test_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, 'timm', None)
    with pytest.raises(ImportError, match="expected timm.*'resnet10t', got none. `pip install timm`"):
        body_of('resnet10t', images())

# --- refusals --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('arch,x,err,msg', [
    (tv.vit_b_32, images(), ValueError, r'vit_b_32 can take, got \(c,h,w\) \(3, 32, 32\): .*224x224 pixels alone'),
    (tv.alexnet, images(), ValueError, r'alexnet can take, got .*32.*needs 63x63 pixels at least: .*Resize\(224\)'),
    (tv.inception_v3, images(), ValueError, r'75x75 pixels at least: item_tfms=Resize\(299\)'),
    (small_cnn(3, 3), images(c=1), ValueError, r'Sequential can take, got \(c,h,w\) \(1, 32, 32\).*Give a batch'),
    (feature_net(), images(), ValueError, r'from Sequential, \(2,d\), got \(2, 5, 30, 30\). .*nn.AdaptiveAvgPool2d'),
    (tv.detection.fasterrcnn_resnet50_fpn, images(), TypeError, 'got torchvision.models.detection.faster'),
    (tv.segmentation.fcn_resnet50, images(), TypeError, 'got torchvision.models.segmentation.fcn_resnet50. Give'),
    (tv.quantization.resnet18, images(), TypeError, 'got torchvision.models.quantization.resnet18'),
    (lambda: 3, images(), TypeError, 'to return a network, got a int'),
    (5, images(), TypeError, 'expected an architecture such as resnet18.*got 5'),
    (partial(small_cnn, 3, n_in=2), images(), ValueError, 'small_cnn to take images of 3 channels.*got 2'),
    (tv.resnet18, images()[0], TypeError, r'batch of images.*got torch.float32 \(3, 32, 32\)'),
    (tv.resnet18, images().byte(), TypeError, 'got torch.uint8'),
    (tv.resnet18, images()[:0], TypeError, r'got torch.float32 \(0, 3'),
    (tv.resnet18, 'x', TypeError, 'got a str')], ids=lambda o: getattr(o, '__name__', None))
def test_refused(arch, x, err, msg):
    with pytest.raises(err, match=msg): body_of(arch, x, pretrained=False)

def test_refused_weights():
    for w in ('IMAGENET1K_V3', MobileNet_V2_Weights.DEFAULT, 3):
        with pytest.raises(ValueError, match='of resnet18 or the path .*, got .*Known: IMAGENET1K_V1, DEF'):
            body_of(tv.resnet18, images(), weights=w)

def test_features_that_are_no_numbers():
    net = small_cnn(3, 3, 8, depth=1)
    with torch.no_grad(): net[0].weight.fill_(float('nan'))
    with pytest.raises(ValueError, match='expected finite features from Sequential, got NaN or inf'):
        body_of(net, images())
