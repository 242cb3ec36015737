"Networks of clips: the tiny one by loops, torchvision's with other ends, weights from a file on disk"
from functools import partial
import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet18
from torchvision.models.video import R3D_18_Weights, mc3_18, mvit_v2_s, r3d_18, s3d
from fastrobust.systems.video.networks import FittingPool, tiny_c3d, video_arch, with_clip_channels

def size(net): return sum(p.numel() for p in net.parameters())

def answers(net, *shape):
    net.eval()
    with torch.no_grad(): return net(torch.rand(*shape, generator=torch.Generator().manual_seed(1)))

# --- tiny_c3d -------------------------------------------------------------------------------------
def test_tiny_has_as_many_parameters_as_its_specification_says():
    assert size(tiny_c3d()) == 17796
    c,channels,n_out = 3,2,7
    convs = sum(27*a*b + b for a,b in ((channels, c), (c, 2*c), (2*c, 4*c)))
    norms = 2*(c + 2*c + 4*c)
    assert size(tiny_c3d(c, channels, n_out)) == convs + norms + 4*c*n_out + n_out

def conv_by_loops(x, w, b):
    "(c,t,h,w) with a border of zeros, window by window"
    p = np.pad(x, [(0, 0), (1, 1), (1, 1), (1, 1)])
    out = np.zeros((len(w), *x.shape[1:]))
    for o in range(len(w)):
        for i in np.ndindex(*x.shape[1:]):
            window = tuple(slice(k, k+3) for k in i)
            out[(o, *i)] = (w[o]*p[(slice(None), *window)]).sum() + b[o]
    return out

def pool_by_loops(x, size):
    "Maxima of boxes, the last ones smaller where the sides do not divide"
    shape = [-(-n//k) for n,k in zip(x.shape[1:], size)]
    out = np.zeros((len(x), *shape))
    for i in np.ndindex(*shape):
        box = tuple(slice(k*s, k*s+s) for k,s in zip(i, size))
        out[(slice(None), *i)] = x[(slice(None), *box)].max((1, 2, 3))
    return out

def test_tiny_by_loops_in_double():
    torch.manual_seed(0)
    net = tiny_c3d(2, 3, 5).double()
    x = torch.randn(4, 3, 3, 5, 4, dtype=torch.float64)
    net(x)      # the norms move
    net.eval()
    assert len(list(net)) == 3*4 + 2
    a,pools = x[0].numpy(),iter([(1, 2, 2), (2, 2, 2)])
    state = {k: v.numpy() for k,v in net.state_dict().items()}
    for k in (0, 4, 8):
        a = conv_by_loops(a, state[f'{k}.weight'], state[f'{k}.bias'])
        scale,shift,mean,var = (state[f'{k+1}.{o}'] for o in ('weight', 'bias', 'running_mean', 'running_var'))
        a = np.stack([s*(o-m)/np.sqrt(v+1e-5) + b for o,s,b,m,v in zip(a, scale, shift, mean, var)])
        a = np.maximum(a, 0)
        if k < 8: a = pool_by_loops(a, next(pools))
    want = state['13.weight'] @ a.mean((1, 2, 3)) + state['13.bias']
    assert np.allclose(net(x)[0].detach().numpy(), want, atol=1e-10)

@pytest.mark.parametrize('t,h,w', [(1, 1, 1), (1, 24, 24), (7, 9, 5), (16, 16, 16)])
def test_tiny_takes_clips_of_any_size(t, h, w): assert answers(tiny_c3d(2), 2, 1, t, h, w).shape == (2, 4)

def test_tiny_sees_the_order_of_frames():
    torch.manual_seed(0)
    net = tiny_c3d(2).eval()
    x = torch.rand(1, 1, 6, 8, 8)
    assert not torch.allclose(net(x), net(x.flip(2)), atol=1e-5)

@pytest.mark.parametrize('kw', [dict(c=0), dict(channels=1.5), dict(n_out=0), dict(c=True)])
def test_tiny_refuses_what_is_no_number_of_channels(kw):
    with pytest.raises(ValueError, match=f'`{next(iter(kw))}` must be a whole number'): tiny_c3d(**kw)

# --- torchvision's --------------------------------------------------------------------------------
@pytest.mark.parametrize('name,shape', [('r3d_18', (4, 32, 32)), ('mc3_18', (2, 16, 16)), ('r2plus1d_18', (4, 32, 32)),
                                        ('s3d', (8, 32, 32)), ('s3d', (5, 17, 17)), ('swin3d_t', (4, 32, 32))])
def test_names_for_any_channels_and_classes(name, shape):
    for n_in,n_out in ((1, 3), (3, 7)):
        a = video_arch(name, n_out, n_in)
        assert answers(a.net, 2, n_in, *shape).shape == (2, n_out)
        assert a.name == name and a.stats is None and not a.new_head
        head = a.net.get_submodule(a.head)
        assert head.weight.shape[0] == n_out

@pytest.mark.slow
@pytest.mark.parametrize('arch', ['mvit_v2_s', mvit_v2_s])
def test_mvit_takes_its_size_alone(arch):
    a = video_arch(arch, 3, 1)
    assert answers(a.net, 1, 1, 16, 224, 224).shape == (1, 3)
    assert a.sizes == 'mvit_v2_s takes clips of 16 frames of 224x224 alone: VideoBlock(n=16, size=224).'
    with pytest.raises(RuntimeError): answers(a.net, 1, 1, 16, 112, 112)

@pytest.mark.slow
def test_s3d_is_torchvisions_where_that_works():
    torch.manual_seed(0)
    want = s3d()
    a = video_arch('s3d', 400, 3)
    a.net.load_state_dict(want.state_dict())
    for shape in ((16, 224, 224), (32, 224, 256)):
        assert torch.equal(answers(a.net, 1, 3, *shape), answers(want, 1, 3, *shape))

def test_the_pool_shrinks_with_the_clip():
    pool,plain = FittingPool((2, 3, 3)),nn.AvgPool3d((2, 3, 3), stride=1)
    for shape in ((2, 3, 3), (4, 5, 3)):
        x = torch.rand(2, 3, *shape)
        assert torch.equal(pool(x), plain(x))
    x = torch.rand(2, 3, 1, 2, 3)
    assert torch.allclose(pool(x), x.mean((2, 3, 4), keepdim=True))

def test_a_first_layer_that_is_kept_makes_the_same_of_greys():
    torch.manual_seed(0)
    grey = torch.rand(2, 1, 3, 6, 6)
    net = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1))
    want = net(grey.expand(2, 3, 3, 6, 6))
    for n in (1, 2, 5, 3):
        with_clip_channels(net, '0', n, keep=True)
        assert net[0].weight.shape[1] == n
        assert torch.allclose(net(grey.expand(2, n, 3, 6, 6)), want, atol=1e-5)

def test_a_first_layer_that_is_drawn_anew_has_the_spread_of_the_old():
    torch.manual_seed(0)
    net = r3d_18()
    old = net.stem[0].weight.detach().clone()
    with_clip_channels(net, 'stem.0', 1, keep=False)
    new = net.stem[0].weight
    assert new.shape == (64, 1, 3, 7, 7) and net.stem[0].bias is None
    assert new.std().item() == pytest.approx(old.std().item(), rel=.05)
    assert not torch.allclose(new, old.mean(1, keepdim=True))

# --- weights on disk ------------------------------------------------------------------------------
@pytest.fixture(scope='module')
def kinetics(tmp_path_factory):
    "(a network of 400 classes, the file of its state)"
    torch.manual_seed(0)
    net = mc3_18().eval()
    path = tmp_path_factory.mktemp('weights')/'mc3.pth'
    torch.save(net.state_dict(), path)
    return net,path

def test_a_file_gives_all_but_a_head_for_other_classes(kinetics):
    net,path = kinetics
    a = video_arch('mc3_18', 5, 3, weights=path)
    have = a.net.state_dict()
    for k,v in net.state_dict().items():
        if not k.startswith('fc.'): assert torch.equal(have[k], v), k
    assert a.new_head and a.head == 'fc' and have['fc.weight'].shape == (5, 512)
    assert a.stats == ([.43216, .394666, .37645], [.22803, .22145, .216989])

def test_a_file_for_as_many_classes_gives_its_head(kinetics):
    net,path = kinetics
    a = video_arch(mc3_18, 400, 3, weights=str(path))
    assert not a.new_head
    assert torch.equal(answers(a.net, 2, 3, 2, 16, 16), answers(net, 2, 3, 2, 16, 16))

def test_a_file_of_colours_on_greys(kinetics):
    net,path = kinetics
    a = video_arch('mc3_18', 400, 1, weights=path)
    a.net.eval()
    grey = torch.rand(2, 1, 2, 16, 16)
    with torch.no_grad(): assert torch.allclose(a.net(grey), net(grey.expand(2, 3, 2, 16, 16)), atol=1e-4)
    mean,std = a.stats
    assert len(mean) == len(std) == 1 and mean[0] == pytest.approx((.43216+.394666+.37645)/3)

def test_pretrained_takes_what_torchvision_downloads(monkeypatch):
    torch.manual_seed(0)
    state,asked = r3d_18().state_dict(),[]
    def download(url, **_):
        asked.append(url)
        return state
    monkeypatch.setattr('torchvision.models._api.load_state_dict_from_url', download)
    for kw in (dict(pretrained=True), dict(weights='DEFAULT'), dict(weights='KINETICS400_V1'),
               dict(weights=R3D_18_Weights.KINETICS400_V1)):
        a = video_arch('r3d_18', 6, 3, **kw)
        assert asked.pop() == R3D_18_Weights.KINETICS400_V1.url
        assert torch.equal(a.net.layer3[0].conv1[0].weight, state['layer3.0.conv1.0.weight'])
        assert a.new_head and a.stats[0] == [.43216, .394666, .37645]

def test_a_file_of_a_tiny_net_with_other_ends(tmp_path):
    torch.manual_seed(0)
    path = tmp_path/'tiny.pt'
    net = tiny_c3d(4, 3, 9)
    torch.save(dict(model=net.state_dict()), path)      # as learn.save writes it
    a = video_arch(partial(tiny_c3d, 4), 2, 1, weights=path)
    assert a.new_head and a.stats is None
    assert torch.equal(a.net[4].weight, net[4].weight)
    assert torch.allclose(a.net[0].weight, net[0].weight.sum(1, keepdim=True))
    b = video_arch(partial(tiny_c3d, 4), 9, 3, weights=path)
    assert torch.equal(answers(b.net, 2, 3, 4, 8, 8), answers(net, 2, 3, 4, 8, 8)) and not b.new_head

def test_files_that_do_not_fit_are_refused(kinetics, tmp_path):
    with pytest.raises(ValueError, match="expected a file with the weights of r3d_18, got one in which"):
        video_arch('r3d_18', 5, 3, weights=kinetics[1])
    path = tmp_path/'no.pt'
    torch.save(tiny_c3d(4).state_dict(), path)
    with pytest.raises(ValueError, match='weights of tiny_c3d, got one in which 19'):
        video_arch('tiny_c3d', 4, 1, weights=path)
    net = tiny_c3d(8)
    with pytest.raises(ValueError, match='weights of your Sequential'): video_arch(net, 4, 1, weights=path)

# --- what names a network -------------------------------------------------------------------------
def test_functions_of_yours():
    def mine(num_classes): return nn.Sequential(nn.Flatten(), nn.Linear(8, num_classes))
    a = video_arch(mine, 3, 1)
    assert a.net[1].out_features == 3 and a.head == '1' and not a.new_head
    a = video_arch(partial(tiny_c3d, c=2), 3, 2)
    assert answers(a.net, 1, 2, 3, 4, 4).shape == (1, 3)

def test_a_network_stays_as_it_is():
    net = tiny_c3d(2)
    before = {k: v.clone() for k,v in net.state_dict().items()}
    a = video_arch(net, 4, 1)
    assert a.net is net and a.head == '13'
    assert all(torch.equal(v, before[k]) for k,v in net.state_dict().items())
    assert video_arch(net, 5, 1).head is None       # its last layer gives no 5 outputs: is it the head?

@pytest.mark.parametrize('arch,kw,error,match', [
    ('r3d_81', {}, ValueError, "Did you mean 'r3d_18'"),
    (resnet18, {}, TypeError, 'expected a network of clips, got torchvision.models.resnet18'),
    (7, {}, TypeError, 'expected an architecture such as'),
    (lambda n_out: n_out, {}, TypeError, 'to return a network, got a int'),
    ('tiny_c3d', dict(pretrained=True), ValueError, 'expected pretrained=False for tiny_c3d'),
    ('tiny_c3d', dict(weights='DEFAULT'), ValueError, "to be the path of a .pt or .pth file, got 'DEFAULT'"),
    (nn.Linear(1, 1), dict(pretrained=True), ValueError, 'expected pretrained=False for your Linear'),
    (nn.Linear(1, 1), dict(weights='DEFAULT'), ValueError, 'of your Linear to be the path'),
    ('r3d_18', dict(weights='KINETICS400'), ValueError, "Did you mean 'KINETICS400_V1'"),
])
def test_what_is_no_architecture_is_refused(arch, kw, error, match):
    with pytest.raises(error, match=match): video_arch(arch, 4, 1, **kw)
