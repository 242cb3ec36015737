"Where a network's grid shrinks, the heads put there, and that nothing else of it changes"
import copy, pickle, subprocess, sys
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from fastai.torch_core import get_random_states
from fastai.vision.learner import create_vision_model
from conftest import tiny_dls
from fastrobust.training.auxheads import AuxHeads, add_aux_heads, aux_head, find_stages
from fastrobust.training.surgery import AuxOut, SurgeonSplit, Twin, unwrap
from fastrobust.nets import small_cnn

def grids(net, size=64, c=3):
    return [(s.name, s.channels, *s.grid) for s in find_stages(net, torch.rand(2, c, size, size))]
def image(c=1, size=28, n=4): return torch.rand(n, c, size, size)

# --- stages ----------------------------------------------------------------------------------------------------------
def test_a_flat_net_ends_each_stage_after_its_relu():
    assert grids(small_cnn(10), 28, 1) == [('2', 32, 14, 14), ('5', 32, 7, 7), ('8', 32, 4, 4), ('11', 32, 2, 2)]
    assert grids(small_cnn(10, depth=6, norm=None), 28, 1)[-1] == ('11', 32, 2, 2)     # the last two keep the grid

def test_a_resnet_has_its_four_layers_by_any_builder():
    want = [('relu', 64, 32, 32), ('layer1', 64, 16, 16), ('layer2', 128, 8, 8), ('layer3', 256, 4, 4),
            ('layer4', 512, 2, 2)]
    assert grids(torchvision.models.resnet18(weights=None)) == want
    body = grids(create_vision_model(torchvision.models.resnet18, 10, pretrained=False))
    assert [o[0] for o in body] == ['0.2', '0.4', '0.5', '0.6', '0'] and [o[1:] for o in body] == [o[1:] for o in want]

@pytest.mark.parametrize('name,channels', [
    ('resnet10t', [64, 64, 128, 256, 512]), ('seresnet18', [64, 64, 128, 256, 512]),
    ('mobilenetv3_small_050', [16, 8, 16, 24, 288]),    # a convolution behind its global pooling
    ('convnext_atto', [40, 80, 160, 320])])
def test_timm(name, channels):
    timm = pytest.importorskip('timm')
    assert [s[1] for s in grids(timm.create_model(name, pretrained=False, num_classes=5))] == channels

def test_torchvision_mobilenet_and_densenet():
    assert [s[1:3] for s in grids(torchvision.models.mobilenet_v2(weights=None))] == [
        (16, 32), (24, 16), (32, 8), (96, 4), (1280, 2)]
    assert [s[1:3] for s in grids(torchvision.models.densenet121(weights=None))] == [
        (64, 32), (256, 16), (512, 8), (1024, 4), (1024, 2)]

class Odd(nn.Module):
    "One ReLU everywhere, functional pooling, a gate beside the main path, an unpadded convolution"
    def __init__(self):
        super().__init__()
        self.a,self.b,self.c = nn.Conv2d(1, 4, 3, padding=1),nn.Conv2d(4, 6, 3),nn.Conv2d(6, 8, 3, padding=1)
        self.relu,self.gate,self.fc = nn.ReLU(),nn.Conv2d(6, 6, 1),nn.Linear(8, 3)
    def forward(self, x):
        x = F.max_pool2d(self.relu(self.a(x)), 2)           # 16 -> 8
        x = self.relu(self.b(x))                            # 6: three quarters of 8, no stage of its own before pooling
        x = x*self.gate(x.mean((2, 3), keepdim=True)).sigmoid()
        x = self.relu(self.c(F.max_pool2d(x, 2)))           # 3
        return self.fc(x.mean((2, 3)))

def test_functional_nets_with_a_shared_relu():
    x = image(1, 16)
    assert [tuple(s) for s in find_stages(Odd(), x)] == [('relu', 0, 4, (16, 16)), ('relu', 1, 6, (6, 6)),
                                                         ('relu', 2, 8, (3, 3))]
    net = AuxHeads(Odd(), x)
    z,feats = net._run((x,), net.taps)
    a = net.net.a(x).relu()
    b = net.net.b(F.max_pool2d(a, 2)).relu()
    assert torch.allclose(feats[0], a) and torch.allclose(feats[1], b) and torch.allclose(z, net.net(x))

def test_looking_changes_nothing():
    net = torchvision.models.mobilenet_v2(weights=None, num_classes=3)
    net.features[3].eval()
    modes,sd,x = [m.training for m in net.modules()],copy.deepcopy(net.state_dict()),image(3, 32)
    states = get_random_states()
    find_stages(net, x)
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(v, sd[k]) for k,v in net.state_dict().items())
    assert torch.equal(get_random_states()['torch_state'], states['torch_state'])
    with pytest.raises(RuntimeError): find_stages(net, image(1, 32))        # 3 channels expected
    assert [m.training for m in net.modules()] == modes
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())

# --- heads -----------------------------------------------------------------------------------------------------------
count = lambda m: sum(p.numel() for p in m.parameters())

def test_parameters_of_the_heads_of_a_cifar_resnet34():
    "spec 14.11: the numbers of the authors' heads"
    net = torchvision.models.resnet34(weights=None, num_classes=10)
    net.conv1,net.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False),nn.Identity()
    aux = AuxHeads(net, image(3, 32, 2))
    assert aux.taps == [('layer1', 0), ('layer2', 0), ('layer3', 0)]
    assert [count(h) for h in aux.heads] == [1129738, 351498, 171274]
    assert [h[3].kernel_size for h in aux.heads] == [(8, 8), (4, 4), (2, 2)]

def test_heads_land_on_the_last_grid_in_both_directions():
    net = nn.Sequential(nn.Conv2d(1, 8, 3, stride=(1, 2), padding=1), nn.ReLU(), nn.Conv2d(8, 24, 3, 2, 1), nn.ReLU(),
                        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 2))
    aux = AuxHeads(net, torch.rand(2, 1, 12, 20))
    f = torch.rand(2, 8, 12, 10)
    assert aux.heads[0][3].kernel_size == (2, 2) and aux.heads[0][:9](f).shape == (2, 24, 6, 5)
    assert aux_head(8, 24, 2, k=(3, 1))[3].stride == (3, 1)

@pytest.mark.parametrize('c,m', [(512, 128), (64, 16), (32, 16), (8, 8), (1, 1)])
def test_the_bottleneck_is_a_quarter_but_not_tiny(c, m): assert aux_head(4, c, 10)[0].out_channels == m

def test_nets_without_batch_norm_stay_without():
    for norm,want in (('bn', nn.BatchNorm2d), ('gn', nn.GroupNorm), (None, nn.GroupNorm)):
        aux = AuxHeads(small_cnn(3, norm=norm, width=16), image())
        assert {type(m) for m in aux.heads.modules() if hasattr(m, 'eps')} == {want}
    tiny = AuxHeads(small_cnn(3, norm=None, width=16), image()).train()
    assert torch.isfinite(tiny(image(n=1)).aux[0]).all()        # a batch of one, the last grid 2 x 2

def test_outputs():
    net = small_cnn(5)
    aux = AuxHeads(net, image())
    x = image()
    out = aux.train()(x)
    assert isinstance(out, AuxOut) and out.main.shape == (4, 5) and [o.shape for o in out.aux] == [(4, 5)]*3
    aux.eval()
    f = net[:9](x)
    assert torch.allclose(aux(x), (net(x) + aux.heads[2](f))/2, atol=1e-6)
    assert len(AuxHeads(small_cnn(5), image(), n_heads=2).heads) == 2
    plain = AuxHeads(net, image(), predict='main').eval()
    assert torch.equal(plain(x), net.eval()(x)) and plain.plain and not aux.plain

def test_no_hook_outlives_a_forward_pass():
    aux = AuxHeads(small_cnn(5), image())
    twin = copy.deepcopy(aux)
    for o in (aux, twin, pickle.loads(pickle.dumps(aux))):
        assert len(o.train()(image()).aux) == 3
        assert not any(m._forward_hooks for m in o.modules())
    with pytest.raises(RuntimeError): aux(image(3))
    assert not any(m._forward_hooks for m in aux.modules())
    a,b = aux.eval()(image(n=2)),twin.eval()(image(n=2))
    assert a.shape == b.shape

def test_groups_freeze_and_unwrap():
    net = small_cnn(5)
    split = SurgeonSplit(lambda m: [list(m[:6].parameters()), list(m[6:].parameters())])
    aux = AuxHeads(net, image())
    gs = split(aux)
    assert len(gs) == 2 and sum(map(len, gs)) == len(list(aux.parameters()))
    assert {id(p) for p in aux.heads.parameters()} | {id(p) for p in net[6:].parameters()} == {id(p) for p in gs[1]}
    assert unwrap(aux) is net

# --- on loaders ------------------------------------------------------------------------------------------------------
def test_installation_moves_no_random_stream_and_no_loader():
    dls = tiny_dls()
    nets = [small_cnn(3, width=8, depth=2) for _ in range(2)]
    rngs,states = [dl.rng.getstate() for dl in dls.loaders],get_random_states()
    for net,d in zip(nets, (dls, type(dls)(dls.train))):
        aux = add_aux_heads(net, d)
        assert [dl.rng.getstate() for dl in dls.loaders] == rngs and len(aux.heads) == 1
    now = get_random_states()
    assert torch.equal(now['torch_state'], states['torch_state']) and now['random_state'] == states['random_state']
    assert (now['numpy_state'][1] == states['numpy_state'][1]).all()

def test_two_networks_get_heads_of_their_own():
    net = lambda: small_cnn(3, width=8, depth=2)
    a,b = add_aux_heads(Twin(net(), net()), tiny_dls()).nets
    class Ensemble(nn.Module):      # a user's own, whose forward needs its members as they are
        def __init__(self): super().__init__(); self.nets = nn.ModuleList([net(), net()])
        def forward(self, x): return sum(o(x) for o in self.nets)/2
    assert isinstance(add_aux_heads(Ensemble(), tiny_dls()), AuxHeads)
    assert isinstance(a, AuxHeads) and not torch.equal(a.heads[0][0].weight, b.heads[0][0].weight)

def test_what_has_no_shrinking_grid_is_refused():
    dls = tiny_dls(size=32, channels=3)
    mlp = nn.Sequential(nn.Flatten(), nn.Linear(3*32*32, 3))
    with pytest.raises(ValueError, match='Sequential without convolution over images. Use a ResNet'):
        add_aux_heads(mlp, dls)
    flat = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(ValueError, match=r'net whose grid shrinks.*maps of \[\(32, 32\)\]'): add_aux_heads(flat, dls)
    vit = torchvision.models.VisionTransformer(32, 8, 1, 2, 16, 32, num_classes=3)
    with pytest.raises(ValueError, match='net whose grid shrinks'): add_aux_heads(vit, dls)
    maps = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 3, 3, 2))
    with pytest.raises(ValueError, match='an output of shape'): add_aux_heads(maps, dls)

@pytest.mark.slow
def test_it_loads_in_a_fresh_process(tmp_path):
    aux = AuxHeads(small_cnn(5), image()).eval()
    x = image()
    torch.save((aux, x, aux(x).detach()), tmp_path/'aux.pt')
    code = (f"import torch\nm,x,z = torch.load({str(tmp_path/'aux.pt')!r}, weights_only=False)\n"
            "assert torch.allclose(m(x), z)")
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert r.returncode == 0, r.stderr[-1000:]
