"KNO, FNO, the semigroup KNO and ViT-KNO: against loops in float64, against neuraloperator, and what they must satisfy"
import copy, itertools, math, pickle, subprocess, sys
import pytest, torch
from fastai.optimizer import Adam
from torch import nn
from fastrobust.systems.koopman.networks.fno import FNO1d, FNO2d
from fastrobust.systems.koopman.networks.kno import KNO1d, KNO2d
from fastrobust.systems.koopman.networks.semigroup import SemigroupKNO
from fastrobust.systems.koopman.networks.spectral import (
    CircularConv, Pointwise, SpectralConv, field_of, hermitian, kept_modes, wave_numbers, waves)
from fastrobust.systems.koopman.networks.vitkno import AFNO, ViTKNO

@pytest.fixture(autouse=True)
def seed(): torch.manual_seed(0)

def n_params(model): return sum(p.numel() for p in model.parameters())
def tiny_vit(**kw): return ViTKNO((16, 24), **(dict(patch=4, dim=8, depth=2, blocks=2, mlp=2.) | kw))

def noise(*shape, dtype=torch.float64):
    "White noise: the roughest field"
    return torch.randn(*shape, dtype=dtype)

def smooth(S, dim=1, dtype=torch.float32):
    "u = .5 sin 2 pi x + .3 cos(6 pi x + .4), in two dimensions with waves along y too, on S nodes an axis"
    x = torch.arange(S, dtype=torch.float64)/S
    u = .5*torch.sin(2*math.pi*x) + .3*torch.cos(6*math.pi*x + .4)
    if dim == 2: u = u[:, None]*torch.cos(2*math.pi*x) + .2*torch.sin(2*math.pi*(x[:, None] + 2*x))
    return u[None, None].to(dtype)

MODELS = {
    'kno1d': lambda **kw: KNO1d(2, o=4, m=4, r=3, **kw), 'kno2d': lambda **kw: KNO2d(2, o=4, m=3, r=3, **kw),
    'fno1d': lambda **kw: FNO1d(2, width=4, m=4, layers=2, **kw),
    'fno2d': lambda **kw: FNO2d(2, width=4, m=3, layers=2, hidden=8, **kw),
    'semigroup1d': lambda **kw: SemigroupKNO(1, 2, o=5, m=4, **kw),
    'semigroup2d': lambda **kw: SemigroupKNO(2, 2, o=5, m=3, **kw),
    'vitkno': lambda **kw: tiny_vit(t_in=2, **kw)}
def batch(name, dtype=torch.float32): return noise(3, 2, *([12] if '1d' in name else [16, 24]), dtype=dtype)
def outputs(out): return out if isinstance(out, tuple) else (out,)

# --- a loop, written differently: sums instead of fft, float64 -------------------------------------------------------
def dft(h):
    "c_k of all k in (-S/2, S/2], one k of one channel at a time, of h (c,*grid)"
    out = {}
    grid = h.shape[1:]
    x = torch.meshgrid(*[torch.arange(S, dtype=torch.float64)/S for S in grid], indexing='ij')
    ranges = [range(-((S-1)//2), S//2+1) for S in grid]
    ks = [(k,) for k in ranges[0]] if len(grid) == 1 else [(k, l) for k in ranges[0] for l in ranges[1]]
    for k in ks:
        phase = sum(a*b for a,b in zip(k, x))
        wave = torch.polar(torch.ones_like(phase), -2*math.pi*phase)
        out[k] = (h*wave).flatten(1).sum(1)
    return out,x

def loop_spectral(h, W, m):
    """Re of the sum over kept k of twice W c_k e^{2 pi i k x}, once for k = 0 and the mode of every second node of the
    last axis: what irfft makes of modes >= 0 of that axis. W: k -> (o,i), k with every kx in [-m,m) and ky in [0,m)"""
    c,x = dft(h)
    S = h.shape[-1]
    out = 0
    for k,ck in c.items():
        if not 0 <= k[-1] < m: continue
        kx = k[0]
        if len(k) == 2 and kx == h.shape[1]//2 and h.shape[1] == 2*m: kx = -m
        if len(k) == 2 and not -m <= kx < m: continue
        phase = sum(a*b for a,b in zip(k, x))
        wave = torch.polar(torch.ones_like(phase), 2*math.pi*phase)
        twice = 1 if k[-1] == 0 or 2*k[-1] == S else 2
        y = W[(kx, *k[1:])] @ ck
        out = out + twice*(y.view(-1, *[1]*len(x))*wave).real
    return out/h[0].numel()

def loop_kno(model, u):
    "One item: E, K, w0 and D node by node and mode by mode"
    K,m,grid = torch.view_as_complex(model.K.detach()),model.m,u.shape[1:]
    # K is (in, out, modes)
    if model.dim == 1: W = {(k,): K[:, :, k].T for k in range(m)}
    else: W = {(kx, ky): K[:, :, kx % m, ky].T for kx in range(-m, m) for ky in range(m)}
    def each(layer, h):
        out = [layer.weight @ col + layer.bias for col in h.flatten(1).T]
        return torch.stack(out, 1).view(-1, *grid)
    z = h = torch.tanh(each(model.encoder, u))
    for _ in range(model.r):
        h = h + loop_spectral(h, W, m)
        if not model.linear: h = torch.tanh(h)
    return each(model.decoder, torch.tanh(each(model.w0, z)+h)),each(model.decoder, z)

@pytest.mark.parametrize('linear', [True, False])
@pytest.mark.parametrize('cls,m,grid', [(KNO1d, 3, (8,)), (KNO1d, 3, (7,)), (KNO1d, 4, (6,)), (KNO1d, 1, (3,)),
                                        (KNO2d, 2, (6, 5)), (KNO2d, 2, (5, 6)), (KNO2d, 2, (4, 4)), (KNO2d, 3, (6, 4))])
def test_kno_against_a_loop(cls, m, grid, linear):
    "Odd and even, square and not, down to the smallest grid, where mode m-1 is that of every second node"
    model = cls(2, o=3, m=m, r=3, linear=linear).double()
    u = noise(2, 2, *grid)
    pred,rec = model(u)
    for i in range(2):
        with torch.no_grad(): want,want_rec = loop_kno(model, u[i])
        assert (pred[i]-want).abs().max() < 1e-12 and (rec[i]-want_rec).abs().max() < 1e-12

@pytest.mark.parametrize('m,grid', [(3, (8,)), (3, (7,)), (4, (6,)), (2, (6, 5)), (2, (5, 6)), (2, (4, 4)),
                                    (3, (6, 4))])
def test_spectral_conv_against_a_loop(m, grid):
    conv = SpectralConv(2, 3, m, len(grid)).double()
    x = noise(2, 2, *grid)
    W = torch.view_as_complex(conv.W.detach())
    if len(grid) == 1: by_k = {(k,): W[:, :, k].T for k in range(m)}
    else: by_k = {(kx, ky): W[:, :, int(kx < 0), kx % m, ky].T for kx in range(-m, m) for ky in range(m)}
    want = torch.stack([loop_spectral(o, by_k, m) for o in x])
    assert (conv(x)-want).abs().max() < 1e-12

@pytest.mark.parametrize('m,grid', [(4, (9,)), (4, (6,)), (3, (7, 8)), (3, (6, 7)), (3, (8, 4)), (3, (6, 4)),
                                    (1, (2, 3))])
def test_hermitian_is_there_and_back(m, grid):
    like = kept_modes(noise(2, 3, *grid), m)
    y = torch.randn_like(like)
    assert (hermitian(y, grid) - kept_modes(field_of(y, grid), m)).abs().max() < 1e-13
    diff = (hermitian(like, grid)-like).abs()
    if len(grid) == 2: diff[:, :, 1, 0, [0, -1]] = 0    # kx = -m: its partner is not kept
    assert diff.max() < 1e-13

# --- numbers of parameters -------------------------------------------------------------------------------------------
@pytest.mark.parametrize('make,n', [
    (lambda: KNO2d(10, o=32, m=16), 526_026), (lambda: KNO1d(1, o=32, m=16), 33_921), (lambda: KNO1d(), 8_513),
    (lambda: KNO2d(10, o=16, m=8), 33_386), (lambda: KNO1d(bn=True), 8_513+32), (lambda: FNO1d(), 7_801),
    (lambda: FNO1d(width=11, m=16, layers=2), 8_458), (lambda: FNO2d(), 926_357), (lambda: SemigroupKNO(), 9_231),
    (lambda: ViTKNO(), 171_456), (lambda: ViTKNO(decoder='conv'), 183_681)])
def test_parameters(make, n):
    "Section 6, number 7, complex ones counted twice; the others so that a change is noticed"
    with torch.device('meta'): assert n_params(make()) == n

def test_vitkno_of_era5():
    "720 x 1440, 20 variables, patches of 8, 768 channels, 10 layers, 16 blocks: 73.5 million parameters"
    with torch.device('meta'):
        model = ViTKNO((720, 1440), t_in=20, patch=8, dim=768, depth=10, blocks=16, mlp=4.)
        assert n_params(model) == 73_512_704
        assert n_params(ViTKNO((720, 1440), 20, 8, 768, 10, 16, 4., 'conv')) == 76_460_564
    assert model.places.shape == (1, 90, 180, 768)

# --- neuraloperator as oracle ----------------------------------------------------------------------------------------
def its_weights(W):
    "Ours as neuraloperator's: kx = -m..m-1 in one axis"
    W = torch.view_as_complex(W.detach())
    return W if W.ndim == 3 else torch.cat([W[:, :, 1], W[:, :, 0]], 2)

def n_modes(m, dim): return (2*m-2,) if dim == 1 else (2*m, 2*m-2)

@pytest.mark.parametrize('m,grid', [(4, (16,)), (5, (8,)), (14, (64,)), (14, (63,)), (14, (256,)), (4, (16, 12)),
                                    (4, (8, 9)), (12, (64, 64))])
def test_spectral_conv_against_neuraloperator(m, grid):
    "On even numbers of nodes along x: for odd ones neuraloperator 2.0.0 shifts by `fftshift` where `ifftshift` is due"
    theirs = pytest.importorskip('neuralop.layers.spectral_convolution')
    dim = len(grid)
    ours = SpectralConv(3, 5, m, dim)
    conv = theirs.SpectralConv(3, 5, n_modes(m, dim), bias=False)
    with torch.no_grad(): conv.weight.tensor.copy_(its_weights(ours.W))
    x = noise(2, 3, *grid, dtype=torch.float32)
    with torch.no_grad(): assert (ours(x)-conv(x)).abs().max() < 1e-5

@pytest.mark.parametrize('make,grid', [(lambda: FNO1d(), (64,)), (lambda: FNO1d(3, t_out=2, grid=False), (51,)),
                                       (lambda: FNO2d(), (32, 40)), (lambda: FNO2d(2, 6, 4, 3, hidden=12), (64, 33))])
def test_fno_against_neuraloperator(make, grid):
    "The whole network with its weights"
    models = pytest.importorskip('neuralop.models')
    ours,dim = make(),len(grid)
    width,hidden = ours.lift.out_features,ours.project[0].out_features
    theirs = models.FNO(n_modes(ours.m, dim), ours.t_in, ours.project[2].out_features, width, len(ours.local),
                        lifting_channel_ratio=0, projection_channel_ratio=hidden/width, use_channel_mlp=False,
                        positional_embedding='grid' if ours.grid else None, fno_skip='linear')
    # 2.0.0 has gelu twice after each block that is without an MLP of its own: once here
    calls = itertools.cycle([nn.functional.gelu, nn.Identity()])
    theirs.fno_blocks.non_linearity = lambda x: next(calls)(x)
    def give(conv, layer):
        conv.weight.copy_(layer.weight[..., None])
        conv.bias.copy_(layer.bias)
    with torch.no_grad():
        give(theirs.lifting.fcs[0], ours.lift)
        give(theirs.projection.fcs[0], ours.project[0])
        give(theirs.projection.fcs[1], ours.project[2])
        for i,(spectral,local) in enumerate(zip(ours.spectral, ours.local)):
            theirs.fno_blocks.convs[i].weight.tensor.copy_(its_weights(spectral.W))
            theirs.fno_blocks.convs[i].bias.copy_(local.bias.view(-1, *[1]*dim))
            theirs.fno_blocks.fno_skips[i].conv.weight.copy_(local.weight[..., None])
        assert n_params(theirs) == n_params(ours) - sum(s.W.numel()//2 for s in ours.spectral)  # complex counted once
        u = noise(2, ours.t_in, *grid, dtype=torch.float32)
        assert (ours(u)-theirs(u)).abs().max() < 1e-5

# --- P1 meshes, P2 shifts --------------------------------------------------------------------------------------------
@pytest.mark.parametrize('S', [32, 64, 96, 128, 256, 512, 1024, 2048, 4096])
def test_mesh_consistency(S):
    "Section 6, number 8"
    model = KNO1d().eval()
    with torch.no_grad(): (fine,_),(out,_) = model(smooth(3072)),model(smooth(S))
    n = math.gcd(S, 3072)
    diff = (fine[..., ::3072//n]-out[..., ::S//n]).abs().max()
    assert diff < (1e-6 if S == 32 else 1.5e-7)

@pytest.mark.parametrize('make', [lambda: KNO1d(linear=False), lambda: KNO1d(bn=True), lambda: FNO1d(),
                                  lambda: SemigroupKNO()])
def test_mesh_consistency_of_the_others(make):
    "In float64; what is left is what tanh and gelu alias"
    model = make().double().eval()
    with torch.no_grad(): fine,out = (outputs(model(smooth(S, dtype=torch.float64)))[0] for S in (512, 128))
    assert (fine[..., ::4]-out).abs().max() < (1e-3 if isinstance(model, FNO1d) else 1e-9)

@pytest.mark.parametrize('make', [lambda: KNO2d(1, o=6, m=4), lambda: KNO2d(1, o=6, m=4, linear=False),
                                  lambda: FNO2d(1, 6, 4, 2, grid=False), lambda: SemigroupKNO(2, o=6, m=4)])
def test_mesh_consistency_2d(make):
    model = make().double().eval()
    with torch.no_grad(): fine,out = (outputs(model(smooth(S, 2, torch.float64)))[0] for S in (96, 48))
    assert (fine[..., ::2, ::2]-out).abs().max() < 1e-8

@pytest.mark.parametrize('make,grid', [
    (lambda: KNO1d(), (64,)), (lambda: KNO1d(linear=False, bn=True), (63,)), (lambda: KNO1d(coder='conv'), (64,)),
    (lambda: KNO2d(1, m=8), (32, 32)), (lambda: KNO2d(1, m=4, coder='conv', kernel=3), (17, 24)),
    (lambda: FNO1d(grid=False), (64,)), (lambda: FNO2d(1, 6, 4, grid=False), (17, 24)), (lambda: SemigroupKNO(), (64,)),
    (lambda: SemigroupKNO(2, o=6, m=4), (17, 24))])
def test_a_shift_of_the_field_shifts_the_output(make, grid):
    model = make()
    by,dims = (5, 9)[:len(grid)],(2, 3)[:len(grid)]
    u = noise(2, 1, *grid, dtype=torch.float32)
    with torch.no_grad():
        for a,b in zip(outputs(model(u.roll(by, dims))), outputs(model(u))):
            assert (a - b.roll(by, dims)).abs().max() < 2e-6

def test_coordinates_undo_it():
    u = noise(1, 1, 64, dtype=torch.float32)
    with torch.no_grad(): assert (FNO1d()(u.roll(5, 2)) - FNO1d()(u).roll(5, 2)).abs().max() > 1e-3

# --- P3 powers, P4 K = 0, P5 high modes ------------------------------------------------------------------------------
@pytest.mark.parametrize('cls,grid', [(KNO1d, (20,)), (KNO1d, (19,)), (KNO2d, (14, 16)), (KNO2d, (15, 13))])
def test_r_steps_are_a_power(cls, grid):
    "3.3(1): (I+K)^r, of mode 0 I + Re K; in 2-d the line ky = 0 likewise"
    model = cls(1, o=4, m=5, r=6).double()
    z = noise(3, 4, *grid)
    before,after = (kept_modes(o, 5).flatten(2).detach() for o in (z, model.steps(z)))
    M = model.multiplier()
    power = torch.linalg.matrix_power(M, 6)
    want = torch.einsum('koi,bik->bok', power, before)
    k = model.wave_numbers()
    assert M.shape == (len(k), 4, 4) and M.dtype == torch.complex128 and (M[0].imag == 0).all()
    assert (after-want).abs().max() < 1e-12*after.abs().max()
    naive = M + 0
    naive[0] = torch.eye(4) + torch.view_as_complex(model.K.detach()).flatten(2)[..., 0].T
    off = torch.einsum('koi,bik->bok', torch.linalg.matrix_power(naive, 6), before)[..., 0] - after[..., 0]
    assert off.abs().max() > 1e-3       # Im K_0 does not act

@pytest.mark.parametrize('linear', [True, False])
@pytest.mark.parametrize('cls,S', [(KNO1d, 16), (KNO2d, 8)])
def test_without_K_every_node_is_on_its_own(cls, S, linear):
    model = cls(1, o=4, m=3, r=2, linear=linear).double()
    with torch.no_grad(): model.K.zero_()
    u = noise(2, 1, *[S]*model.dim)
    order = torch.randperm(u[0].numel())
    def mixed(o): return o.flatten(2)[..., order].view(o.shape)
    for a,b in zip(model(mixed(u)), model(u)): assert (a-mixed(b)).abs().max() < 1e-14
    if linear: assert (model.steps(model.observables(u))-model.observables(u)).abs().max() < 1e-14

def test_high_modes_stay():
    z = noise(2, 4, 31)
    h = KNO1d(1, o=4, m=5).double().steps(z)
    F_z,F_h = torch.fft.rfft(z),torch.fft.rfft(h)
    assert (F_z-F_h)[..., 5:].abs().max() < 1e-13 and (F_z-F_h)[..., :5].abs().max() > .1

def test_high_modes_stay_2d():
    "But for kx = m, ky = 0, the conjugate of kx = -m, which is kept"
    z = noise(2, 4, 16, 15)
    h = KNO2d(1, o=4, m=4).double().steps(z)
    diff = (torch.fft.rfft2(h)-torch.fft.rfft2(z)).abs().amax((0, 1))
    changed = {tuple(o) for o in (diff > 1e-12).nonzero().tolist()}
    assert changed == {(kx % 16, ky) for kx,ky in wave_numbers(4, 2).tolist()} | {(4, 0)}

# --- P9 batches, P10 import ------------------------------------------------------------------------------------------
@pytest.mark.parametrize('name', MODELS)
def test_items_of_a_batch_are_apart(name):
    model,u = MODELS[name]().eval().double(),batch(name, torch.float64)
    with torch.no_grad():
        for whole,*parts in zip(outputs(model(u)), *(outputs(model(o)) for o in u.split(1))):
            assert whole.shape[0] == 3 and whole.shape[2:] == u.shape[2:]
            assert (whole-torch.cat(parts)).abs().max() < 1e-13

@pytest.mark.slow
def test_import_leaves_everything_as_it_was():
    code = ("import torch, random, numpy as np\n"
            "def state(): return (torch.get_rng_state().tolist(), random.getstate(), torch.get_default_dtype(),\n"
            "    np.random.get_state()[1].tolist(), torch.is_grad_enabled(), torch.backends.cuda.matmul.allow_tf32,\n"
            "    torch.backends.cudnn.allow_tf32, torch.are_deterministic_algorithms_enabled(),\n"
            "    torch.get_num_threads())\n"
            "import fastrobust.basics\nbefore = state()\n"
            "from fastrobust.systems.koopman.networks import kno, fno, semigroup, vitkno\nassert state() == before\n")
    subprocess.run([sys.executable, '-c', code], check=True, timeout=120)

# --- P7 real storage, optimisers -------------------------------------------------------------------------------------
def pairs(model):
    "The weights that are pairs of a real and an imaginary part"
    found = dict(K=nn.Parameter, W=nn.Parameter, w1=nn.Parameter, w2=nn.Parameter, C=nn.Parameter)
    return [p for n,p in model.named_parameters() if n.split('.')[-1] in found]

@pytest.mark.parametrize('name', MODELS)
def test_both_parts_of_a_weight_move(name):
    model,u = MODELS[name](),batch(name)
    assert not any(p.is_complex() for p in model.parameters()) and pairs(model)
    before = [p.detach().clone() for p in pairs(model)]
    opt = Adam(model.parameters(), lr=1e-2)
    out = outputs(model(u))
    sum(o.square().mean() for o in out).backward()
    assert all(p.grad is not None for p in model.parameters())
    opt.step()
    for a,b in zip(before, pairs(model)):
        moved = (a-b).detach().abs().flatten(0, -2).amax(0)
        assert b.shape[-1] == 2 and (moved > 1e-3).all()

class ComplexWeight(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(n, dtype=torch.cfloat))
    def forward(self, X): return X @ self.w

class RealPair(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(n, 2))
    def forward(self, X): return X @ torch.view_as_complex(self.w)

def test_why_weights_are_real_pairs():
    "Section 6, number 12: fastai's Adam on 50 complex weights goes up, on their pairs it converges"
    X,w = torch.randn(200, 50, dtype=torch.cfloat),torch.randn(50, dtype=torch.cfloat)/7
    last = {}
    for cls in (ComplexWeight, RealPair):
        model = cls(50)
        opt = Adam(model.parameters(), lr=1e-2, wd=0.)
        for _ in range(300):
            loss = (model(X) - X @ w).abs().square().mean()
            loss.backward()
            opt.step()
            opt.zero_grad()
        last[cls] = loss.item()
    assert last[RealPair] < 1e-6 and not last[ComplexWeight] < .5

@pytest.mark.parametrize('make', [lambda: KNO1d(o=8, m=6, r=3), lambda: FNO1d(width=6, m=6, layers=2),
                                  lambda: SemigroupKNO(o=6, m=6)])
def test_fits_a_shift_with_fastais_adam(make):
    "u -> u moved by an eighth and damped, of 5 modes: relative L2"
    model = make()
    c = torch.randn(64, 1, 6, dtype=torch.cfloat)/(1+torch.arange(6))
    k = torch.arange(6)
    u,y = (torch.fft.irfft(o, n=16)*16/3 for o in (c, c*torch.exp(-.05*k - .25j*math.pi*k)))
    opt = Adam(model.parameters(), lr=.02)
    for _ in range(150):
        pred = outputs(model(u))[0]
        loss = (pred-y).flatten(1).norm(dim=1).div(y.flatten(1).norm(dim=1)).mean()
        loss.backward()
        opt.step()
        opt.zero_grad()
    assert loss.item() < .1

# --- variants --------------------------------------------------------------------------------------------------------
def test_batchnorm_is_on_the_high_frequencies():
    model = KNO1d(bn=True)
    u = noise(4, 1, 40, dtype=torch.float32)*3
    seen = []
    model.bn.register_forward_hook(lambda _,x,y: seen.append((x[0], y)))
    model(u)
    (x,y), = seen
    assert torch.equal(x, model.w0(model.observables(u)))
    assert y.mean((0, 2)).abs().max() < 1e-5 and (y.var((0, 2), unbiased=False)-1).abs().max() < 1e-2
    assert KNO2d(1, bn=True, m=3)(noise(2, 1, 8, 9, dtype=torch.float32))[0].shape == (2, 1, 8, 9)

@pytest.mark.parametrize('cls,S', [(KNO1d, 24), (KNO2d, 12)])
def test_conv_coders(cls, S):
    "A kernel that is zero beside its middle is the layer of every node alone"
    conv,mlp = cls(2, o=4, m=3, coder='conv', kernel=3),cls(2, o=4, m=3)
    assert isinstance(conv.encoder, CircularConv) and isinstance(mlp.decoder, Pointwise)
    state = mlp.state_dict()
    for name in ('encoder', 'decoder'):
        w = state.pop(f'{name}.weight')
        wide = w.new_zeros(*w.shape, *[3]*conv.dim)
        wide[(..., *[1]*conv.dim)] = w
        state |= {f'{name}.conv.weight': wide, f'{name}.conv.bias': state.pop(f'{name}.bias')}
    conv.load_state_dict(state)
    u = noise(2, 2, *[S]*conv.dim, dtype=torch.float32)
    with torch.no_grad():
        for a,b in zip(conv(u), mlp(u)): assert (a-b).abs().max() < 1e-6

def test_next_frame_and_shapes():
    u = noise(2, 10, 33, 40, dtype=torch.float32)
    assert [o.shape for o in KNO2d()(u)] == [u.shape]*2
    assert FNO2d(t_out=3, width=4, m=4)(u).shape == (2, 3, 33, 40)
    assert FNO1d(2, t_out=4)(noise(2, 2, 27, dtype=torch.float32)).shape == (2, 4, 27)
    pred,rec = ViTKNO()(noise(2, 1, 64, 128, dtype=torch.float32))
    assert pred.shape == rec.shape == (2, 1, 64, 128)

@pytest.mark.parametrize('name', MODELS)
def test_copies(name, tmp_path):
    model,u = MODELS[name]().eval(),batch(name)
    again = MODELS[name]().eval()
    again.load_state_dict(model.state_dict())
    torch.save(model, tmp_path/'m.pth')
    loaded = torch.load(tmp_path/'m.pth', weights_only=False)
    with torch.no_grad():
        want = outputs(model(u))[0]
        for o in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), again, loaded):
            assert torch.equal(outputs(o(u))[0], want)

@pytest.mark.parametrize('name', MODELS)
def test_double_precision(name):
    model,u = MODELS[name]().eval(),batch(name)
    with torch.no_grad():
        single = outputs(model(u))[0]
        double = outputs(model.double()(u.double()))[0]
    assert double.dtype == torch.float64 and (single-double).abs().max() < 1e-5

@pytest.mark.parametrize('make,shape', [
    (lambda: KNO1d(1, o=2, m=2, r=2), (1, 1, 5)), (lambda: KNO1d(1, o=2, m=3, r=2, linear=False), (1, 1, 4)),
    (lambda: KNO2d(1, o=2, m=2, r=2), (1, 1, 4, 3)), (lambda: FNO1d(width=2, m=2, layers=1, hidden=2), (1, 1, 5)),
    (lambda: SemigroupKNO(o=2, m=2), (1, 1, 4)), (lambda: SemigroupKNO(2, o=2, m=2), (1, 1, 4, 3))])
def test_gradients(make, shape):
    model = make().double()
    names,values = zip(*((n, p.detach().clone().requires_grad_()) for n,p in model.named_parameters()))
    def f(u, *values): return torch.func.functional_call(model, dict(zip(names, values)), (u,))
    assert torch.autograd.gradcheck(f, (noise(*shape).requires_grad_(), *values))

# --- the semigroup ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('dim,grid', [(1, (16,)), (1, (7,)), (2, (9, 8)), (2, (7, 12)), (2, (10, 7))])
def test_semigroup(dim, grid):
    "M(s) M(t) = M(s+t), M(0) = 1, real, and never longer than before, on rough fields and any grid"
    model = SemigroupKNO(dim, o=5, m=4).double()
    z = noise(3, 5, *grid)
    with torch.no_grad():
        s,t = .3,torch.tensor([.2, 1.1, 0.], dtype=torch.float64)
        both = model.evolve(model.evolve(z, s), t)
        assert (both-model.evolve(z, s+t)).abs().max() < 1e-12
        assert (both-model.evolve(model.evolve(z, t), s)).abs().max() < 1e-12
        assert (model.evolve(z, 0.)-z).abs().max() < 1e-13 and both.dtype == torch.float64
        norms = [model.evolve(z, t).flatten(1).norm(dim=1) for t in (0., .1, .5, 2., 500.)]
        assert all((b < a).all() for a,b in zip(norms, norms[1:])) and (norms[-1] < 1e-10*norms[0]).all()

@pytest.mark.parametrize('dim,grid', [(1, (9,)), (2, (7, 8))])
def test_semigroup_against_a_loop(dim, grid):
    "exp(t A_k) on the coefficients of every k and its conjugate on -k, decay above, by sums"
    model = SemigroupKNO(dim, o=3, m=3).double()
    z,t = noise(3, *grid),.7
    with torch.no_grad():
        A = {tuple(k.tolist()): a for k,a in zip(model.k, model.generators())}
        g = nn.functional.softplus(model.g)
        c,x = dft(z)
        out = 0
        for k,ck in c.items():
            minus = tuple(-a for a in k)
            if k in A: y = torch.matrix_exp(t*A[k]) @ ck
            elif minus in A: y = torch.matrix_exp(t*A[minus]).conj() @ ck
            else: y = torch.exp(-t*g*(1+sum(a*a for a in k)))*ck
            phase = sum(a*b for a,b in zip(k, x))
            out = out + y.view(-1, *[1]*dim)*torch.polar(torch.ones_like(phase), 2*math.pi*phase)
        out = out/z[0].numel()
        # Nyquist modes are their own partner: the sum is real as it stands
        assert out.imag.abs().max() < 1e-12 and (model.evolve(z[None], t)[0]-out.real).abs().max() < 1e-12

@pytest.mark.parametrize('dim,n', [(1, 16), (2, 16+15*31)])
def test_every_eigenvalue_decays(dim, n):
    model = SemigroupKNO(dim, m=16, step=.1)
    e = model.eigenvalues()
    assert e.shape == (n, 16) and e.is_complex() and e.real.max() < 0
    assert e.imag.abs().max() > 1 and (torch.linalg.eigvals(model.generators()[0]).conj().imag.sum().abs() < 1e-4)
    with torch.no_grad():   # whatever the parameters are
        model.C.normal_(0, 3)
        model.d.uniform_(-8, 5)
    assert model.double().eigenvalues().real.max() < 0
    A = model.generators()
    d = nn.functional.softplus(model.d)
    assert (A + A.mH + 2*torch.diag_embed(d)).abs().max() < 1e-12

def test_semigroup_before_training_and_times():
    model = SemigroupKNO(t_in=2, o=6, step=.5)
    u = noise(3, 2, 40, dtype=torch.float32)
    with torch.no_grad():
        pred,rec = model(u, 0)
        assert (rec-u).abs().max() < 1e-6 and (pred-u).abs().max() < 1e-5
        one = torch.stack([model(u, t)[0][i] for i,t in enumerate((.1, .5, .1))])
        assert (model(u, torch.tensor([.1, .5, .1]))[0]-one).abs().max() < 1e-6
        assert torch.equal(model(u)[0], model(u, .5)[0]) and torch.equal(model(u, torch.tensor(2))[0], model(u, 2.)[0])
    decay = -model.generators().diagonal(dim1=1, dim2=2).real
    assert torch.allclose(decay, .2*(1+torch.arange(16.)**2)[:, None].expand(-1, 6))
    for step in (1e-3, 50.):
        assert torch.allclose(nn.functional.softplus(SemigroupKNO(step=step).g), torch.tensor(.1/step))

# --- ViT-KNO ---------------------------------------------------------------------------------------------------------
def test_afno_against_a_loop():
    "Mode by mode and block by block"
    filter = AFNO(6, 2, .01).double()
    with torch.no_grad():
        for p in filter.parameters(): p.mul_(20)
    x = noise(1, 4, 6, 6)
    y = torch.fft.fft2(x, dim=(1, 2), norm='ortho')[0]
    w1,w2,b1,b2 = (torch.view_as_complex(o.detach()) for o in (filter.w1, filter.w2, filter.b1, filter.b2))
    soft = lambda v: v.sign()*(v.abs()-.01).clamp_min(0)
    out = torch.zeros(4, 4, 6, dtype=torch.complex128)
    for i in range(4):
        for j in range(4):
            for n in range(2):
                h = y[i, j, 3*n:3*n+3] @ w1[n] + b1[n]
                h = torch.complex(h.real.clamp_min(0), h.imag.clamp_min(0)) @ w2[n] + b2[n]
                out[i, j, 3*n:3*n+3] = torch.complex(soft(h.real), soft(h.imag))
    want = torch.fft.irfft2(out, s=(4, 6), dim=(0, 1), norm='ortho')
    assert (filter(x)[0]-want).abs().max() < 1e-12 and filter(x).shape == x.shape

@pytest.mark.parametrize('patch', [1, 2, 3, 4])
@pytest.mark.parametrize('decoder', ['linear', 'conv'])
def test_vitkno_of_any_patch(patch, decoder):
    model = ViTKNO((12, 24), t_in=3, patch=patch, dim=8, depth=1, blocks=2, decoder=decoder)
    u = noise(2, 3, 12, 24, dtype=torch.float32)
    assert [o.shape for o in model(u)] == [u.shape]*2

def test_conv_decoder_has_no_seams():
    "A token reaches half a patch into its neighbours, around the sides too"
    model = ViTKNO((16, 16), patch=4, dim=8, depth=1, blocks=2, decoder='conv')
    z = torch.zeros(1, 4, 4, 8)
    z[0, 0, 0] = 1
    with torch.no_grad(): seen = (model.decoder(z) - model.decoder(z*0))[0, 0] != 0
    rows = [0, 1, 2, 3, 4, 5, 14, 15]
    assert seen.any(1).nonzero().flatten().tolist() == rows == seen.any(0).nonzero().flatten().tolist()

# --- refused ---------------------------------------------------------------------------------------------------------
def zeros(*shape, dtype=torch.float32): return torch.zeros(*shape, dtype=dtype)

@pytest.mark.parametrize('call,says', [
    (lambda: KNO1d()(zeros(1, 1, 29)), r"at least 30 nodes along x for KNO1d with m=16 modes, got a grid of \(29,\)"),
    (lambda: KNO1d()(zeros(1, 1, 29)), r"a model of at most m=15 modes"),
    (lambda: KNO2d(1)(zeros(1, 1, 31, 40)), r"at least 32 nodes along x for KNO2d with m=16 .* a grid of \(31, 40\)"),
    (lambda: KNO2d(1)(zeros(1, 1, 40, 29)), r"at least 30 nodes along y"),
    (lambda: FNO1d()(zeros(1, 1, 25)), "at least 26 nodes along x for FNO1d"),
    (lambda: FNO2d(1)(zeros(1, 1, 23, 24)), "at least 24 nodes along x for FNO2d"),
    (lambda: SemigroupKNO()(zeros(1, 1, 30)), "at least 31 nodes along x for SemigroupKNO"),
    (lambda: SemigroupKNO(2, m=4)(zeros(1, 1, 8, 6)), "at least 7 nodes along y for SemigroupKNO"),
    (lambda: KNO1d(m=1, coder='conv')(zeros(1, 1, 4)), "at least 5 nodes along x for KNO1d with kernel=5"),
    (lambda: KNO2d(1)(zeros(1, 1, 64)), r"KNO2d expected fields \(b, t_in, x, y\), got 1-d data on a 2-d model"),
    (lambda: KNO2d(1)(zeros(1, 64, 64)), r"a single frame its axis, u\[:, None\]"),
    (lambda: KNO1d()(zeros(1, 1, 64, 64)), "got 2-d data on a 1-d model, shape .* Take the 2-d model"),
    (lambda: FNO1d()(zeros(64)), "got 1 axes, shape .* Bring it to 3 axes"),
    (lambda: KNO2d()(zeros(1, 1, 64, 64)), "KNO2d expected t_in=10 frames on axis 1 .* got 1, .* with t_in=1"),
    (lambda: FNO1d(2)(zeros(1, 3, 64)), "FNO1d expected t_in=2 frames on axis 1"),
    (lambda: KNO1d()(zeros(1, 1, 64, dtype=torch.cfloat)), "KNO1d expected real fields, got torch.complex64"),
    (lambda: KNO1d()(zeros(1, 1, 64, dtype=torch.half)), r"ComplexHalf.*u.float\(\)"),
    (lambda: KNO1d().half()(zeros(1, 1, 64, dtype=torch.half)), "got torch.float16. .*ComplexHalf"),
    (lambda: FNO1d()(zeros(1, 1, 64, dtype=torch.bfloat16)), "FNO1d expected float32 or float64, got torch.bfloat16"),
    (lambda: KNO1d()(zeros(1, 1, 64, dtype=torch.double)), "of its parameters, torch.float32, got torch.float64"),
    (lambda: KNO1d()(zeros(1, 1, 64, dtype=torch.long)), "got torch.int64"),
    (lambda: tiny_vit()(zeros(1, 1, 16, 20)), r"its size \(16, 24\), got \(16, 20\)\. Resample .* KNO2d takes any"),
    (lambda: tiny_vit()(zeros(1, 2, 16, 24)), "ViTKNO expected t_in=1 frames"),
    (lambda: ViTKNO((60, 128)), r"a size that patches of 8 nodes fill, got \(60, 128\)"),
    (lambda: ViTKNO((4, 128)), "a size that patches of 8 nodes fill"),
    (lambda: ViTKNO(64), r"`size` must be two whole numbers, .* got 64"),
    (lambda: ViTKNO((64, 64, 8)), "`size` must be two whole numbers"),
    (lambda: ViTKNO(dim=66), "`dim` as a multiple of `blocks`, got dim=66, blocks=4. Give dim=64"),
    (lambda: ViTKNO(decoder='mlp'), "`decoder` must be 'linear' or 'conv', got 'mlp'"),
    (lambda: ViTKNO(mlp=0), "`mlp` must be positive"), (lambda: ViTKNO(shrink=-1.), "`shrink` must be finite"),
    (lambda: ViTKNO(depth=0), "`depth` must be a whole number from 1 on"),
    (lambda: KNO1d(m=0), r"`m` must be a whole number from 1 on \(modes\), got 0"),
    (lambda: KNO1d(r=0), "`r` must be a whole number"), (lambda: KNO2d(o=2.5), "`o` must be a whole number"),
    (lambda: KNO1d(coder='cnn'), "`coder` must be 'mlp' .* or 'conv' .*, got 'cnn'"),
    (lambda: KNO1d(coder='conv', kernel=4), "`kernel` must be odd, .* got 4. Give 5"),
    (lambda: FNO1d(layers=0), "`layers` must be"), (lambda: FNO2d(t_out=0), "`t_out` must be"),
    (lambda: SemigroupKNO(3), "`dim`"),
    (lambda: SemigroupKNO(t_in=3, o=3), "`o` must be .* Give at least 4"),
    (lambda: SemigroupKNO(step=0.), "`step` must be positive"),
    (lambda: SemigroupKNO()(zeros(1, 1, 64), -.1), "`t` must be finite and not below 0, got -0.1 .* backwards"),
    (lambda: SemigroupKNO()(zeros(2, 1, 64), torch.tensor([.1, -.1])), "not below 0, got -0.1 to 0.1"),
    (lambda: SemigroupKNO()(zeros(1, 1, 64), math.inf), "must be finite"),
    (lambda: SemigroupKNO()(zeros(1, 1, 64), math.nan), "must be finite"),
    (lambda: SemigroupKNO()(zeros(2, 1, 64), torch.zeros(3)), r"each of the 2 fields, shape \(2,\), got shape \(3,\)"),
])
def test_refused(call, says):
    with pytest.raises(ValueError, match=f'(?s){says}'): call()

def test_no_tensor_is_refused():
    with pytest.raises(TypeError, match="KNO1d expected a tensor of fields, got a list"): KNO1d()([[[0.]*64]])

@pytest.mark.parametrize('name', MODELS)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_is_refused(name, dtype):
    with torch.autocast('cpu', dtype), pytest.raises(ValueError, match=r"outside autocast.*ComplexHalf.*to_fp16\(\)"):
        MODELS[name]()(batch(name))

def test_the_smallest_grids_are_taken():
    KNO1d()(zeros(1, 1, 30)), KNO1d(m=15)(zeros(1, 1, 29)), KNO2d(1)(zeros(1, 1, 32, 30)), FNO1d()(zeros(1, 1, 26))
    FNO2d(1)(zeros(1, 1, 24, 22)), SemigroupKNO()(zeros(1, 1, 31)), SemigroupKNO(2, m=4)(zeros(1, 1, 8, 7))
    KNO1d(m=1)(zeros(1, 1, 1))

CONSERVING = {
    'KNO1d': lambda: KNO1d(4, o=8, m=4, conserve=True), 'KNO2d': lambda: KNO2d(4, o=8, m=3, conserve=True),
    'FNO1d': lambda: FNO1d(4, width=4, m=4, t_out=2, conserve=True),
    'FNO2d': lambda: FNO2d(4, width=4, m=3, t_out=2, hidden=8, conserve=True),
    'SemigroupKNO': lambda: SemigroupKNO(1, 4, o=8, m=4, conserve=True)}

@pytest.mark.parametrize('scaled', [False, True])
@pytest.mark.parametrize('name', CONSERVING)
def test_the_mean_is_kept(name, scaled):
    "Of two frames of two variables, on any grid, after training, in a roll-out, alone and in the scale of the data"
    from fastrobust.systems.koopman.rolling import Scaled, roll
    torch.manual_seed(0)
    net = CONSERVING[name]()
    if scaled: net = Scaled(net, [.5, -1.], [2., .3])
    grid,axes = ((9, 8), (2, 3)) if '2d' in name else ((17,), (2,))
    opt = torch.optim.Adam(net.parameters(), 1e-2)
    u = torch.randn(6, 4, *grid) + torch.randn(6, 4, *[1]*len(grid))
    for _ in range(5):
        pred = net(u)
        pred = pred[0] if isinstance(pred, tuple) else pred
        opt.zero_grad()
        (pred[:, -2:] - 1.5*u.roll(3, -1)[:, -2:]).square().mean().backward()
        opt.step()
    assert (pred[:, -2:]-u[:, -2:]).abs().max() > .1      # it moves, and the last frame of the two is what stays
    for S in ((10, 9), (8, 12)) if '2d' in name else ((16,), (31,)):
        u = torch.randn(3, 4, *S) + torch.randn(3, 4, *[1]*len(S))
        with torch.no_grad():
            one,many = roll(net, u, 1, 2),roll(net, u, 6, 2)
        want = u[:, -2:].double().mean(axes)
        assert (one.double().mean(axes) - want).abs().max() < 1e-6
        assert (many[:, -2:].double().mean(axes) - want).abs().max() < 1e-6

def test_the_mean_is_let_go_of_by_default():
    u = torch.randn(2, 1, 32)
    for net in (KNO1d(1), FNO1d(1), SemigroupKNO(1)):
        assert not vars(net).pop('conserve')      # as in a file of a version without it
        out = net(u)
        out = out[0] if isinstance(out, tuple) else out
        assert (out.mean(2) - u.mean(2)).abs().min() > 1e-4
    with pytest.raises(ValueError, match='`t_out` up to t_in=1 with `conserve`.*got 2'):
        FNO1d(1, t_out=2, conserve=True)

def test_waves():
    assert waves(6, True, zeros(1)).tolist() == [0, 1, 2, 3] and waves(5, False, zeros(1)).tolist() == [0, 1, 2, -2, -1]
    assert wave_numbers(2, 2).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [-2, 0], [-2, 1], [-1, 0], [-1, 1]]
