"AugMix and AugLoss: the pipeline against Pillow, the draws against their laws, the techniques in a learner"
import math, random
import numpy as np, pytest, torch, torch.nn.functional as F
from torch import nn, tensor
from PIL import Image, ImageEnhance, ImageOps
from hypothesis import given, settings, strategies as st
from fastcore.basics import noop
from fastai.callback.mixup import MixUp
from fastai.callback.training import GradientAccumulation
from fastai.data.core import DataLoaders, Datasets, TfmdDL
from fastai.data.transforms import IntToFloatTensor, Normalize, ToTensor
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.torch_core import TensorCategory, set_seed
from fastai.vision.core import PILImage, PILImageBW, TensorImage
from fastrobust.images import augmixing, engine, ops
from fastrobust.images.augmixing import AugMixDraw, apply_augmix, augmix, draw_augmix
from fastrobust.losses import AlphaLoss, GCELoss, NCEandRCE
from fastrobust.lossfunctions import jsd
from fastrobust.images.ops import AUGMIX_OPS, apply_ops
from fastrobust.shift.augmixpicture import show_augmix
from fastrobust.techniques import augmix as M
from fastrobust.techniques.augloss import AugLoss
from fastrobust.techniques.augmix import AugMix, AugMixTransform

# what test_contract.py runs every technique through
CONTRACT = {AugMix: dict(make=lambda **kw: AugMix(**kw), weight='lam'),
            AugLoss: dict(make=lambda **kw: AugLoss(GCELoss(), **kw), weight='lam')}

def gen(seed=0): return torch.Generator().manual_seed(seed)
def noise(b=6, c=3, h=32, w=32, seed=0):
    return torch.randint(0, 256, (b, c, h, w), generator=gen(seed), dtype=torch.uint8)

def pictures(b, c, h, w, seed=0):
    "Half noise, half waves with an edge"
    y,x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing='ij')
    f = torch.rand(b, c, 2, 1, 1, generator=gen(seed))
    wave = 127 + 120*torch.sin(f[:, :, 0]*x + f[:, :, 1]*y)*(x > w//3)
    return torch.where(torch.arange(b)[:, None, None, None]%2 == 0, noise(b, c, h, w, seed), wave.byte())

@pytest.fixture(scope='module', params=['numba', 'torch'])
def both(request):
    "By the compiled loops and by torch"
    if request.param == 'numba' and engine.compiled_loops() is None: pytest.skip('numba is not installed')
    with pytest.MonkeyPatch.context() as m:
        m.setenv('FASTROBUST_NUMBA', str(int(request.param == 'numba')))
        yield

# --- the pipeline, given the same draws ------------------------------------------------------------------------------
def pil_affine(img, m):
    return img.transform(img.size, Image.Transform.AFFINE, m, resample=Image.Resampling.BILINEAR)

def pil_chain(img, names, params):
    for o,a in zip(names, params):
        if   o in ('autocontrast', 'equalize'): img = getattr(ImageOps, o)(img)
        elif o == 'posterize':   img = ImageOps.posterize(img, int(a))
        elif o == 'solarize':    img = ImageOps.solarize(img, int(a))
        elif o == 'rotate':      img = img.rotate(a, resample=Image.Resampling.BILINEAR)
        elif o == 'shear_x':     img = pil_affine(img, (1, a, 0, 0, 1, 0))
        elif o == 'shear_y':     img = pil_affine(img, (1, 0, 0, a, 1, 0))
        elif o == 'translate_x': img = pil_affine(img, (1, 0, a, 0, 1, 0))
        elif o == 'translate_y': img = pil_affine(img, (1, 0, 0, 0, 1, a))
        else: img = getattr(ImageEnhance, o.capitalize())(img).enhance(a)
    return np.asarray(img).astype(np.float64)

def pil_augmix(x, d):
    "The paper's algorithm 1 on one image after another, float64"
    out = []
    for i in range(len(x)):
        a = x[i].permute(1, 2, 0).numpy() if x.shape[1] == 3 else x[i, 0].numpy()
        mix = 0.
        for j in range(d.op.shape[1]):
            steps = [(AUGMIX_OPS[o], float(p)) for o,p in zip(d.op[i, j], d.arg[i, j]) if o >= 0]
            mix = mix + float(d.w[i, j])*pil_chain(Image.fromarray(a), *zip(*steps))
        o = torch.from_numpy((1-float(d.m[i]))*a + float(d.m[i])*mix)
        out.append(o.permute(2, 0, 1) if o.ndim == 3 else o[None])
    return torch.stack(out)

@pytest.mark.slow
@pytest.mark.parametrize('shape', [(3, 32, 32), (1, 28, 28), (3, 40, 48), (1, 20, 36)], ids=str)
@pytest.mark.parametrize('all_ops', [False, True])
@pytest.mark.parametrize('severity', [1, 3, 10])
@pytest.mark.usefixtures('both')
def test_pipeline_equals_pillow(severity, all_ops, shape):
    x = pictures(24, *shape)
    d = draw_augmix(24, severity, all_ops=all_ops, generator=gen(5), size=shape[1:])
    got = apply_augmix(x, d)*255
    assert (got.double() - pil_augmix(x, d)).abs().max() < 1e-4
    assert (got - x).abs().max() > 20

@pytest.mark.parametrize('width,depth,alpha', [(1, 1, 1.), (4, 5, .3), (2, -1, 3.)])
@pytest.mark.usefixtures('both')
def test_pipeline_other_widths(width, depth, alpha):
    x = pictures(12, 3, 24, 30)
    d = draw_augmix(12, 3, width, depth, alpha, generator=gen(1), size=(24, 30))
    assert d.op.shape == (12, width, 3 if depth < 0 else depth)
    assert (apply_augmix(x, d).double()*255 - pil_augmix(x, d)).abs().max() < 1e-4

def test_blocks_change_nothing(monkeypatch):
    "Large images go one by one, small ones in blocks, the mix in its own: the same bytes whatever the blocks hold"
    monkeypatch.setenv('FASTROBUST_NUMBA', '0')
    x = pictures(20, 3, 40, 24); d = draw_augmix(20, 5, all_ops=True, generator=gen(3), size=(40, 24))
    want = apply_augmix(x, d)
    for block,mixed in ((1, 1), (3*40*24*2, 3*40*24*7), (10**9, 10**9)):
        monkeypatch.setattr(ops, '_block', block); monkeypatch.setattr(augmixing, '_chains', mixed)
        assert torch.equal(apply_augmix(x, d), want)

@pytest.mark.usefixtures('both')
def test_large_images_equal_pillow():
    x = pictures(2, 3, 200, 230); d = draw_augmix(2, 5, 4, 4, all_ops=True, generator=gen(6), size=(200, 230))
    assert x[0].numel() > ops._block and (apply_augmix(x, d).double()*255 - pil_augmix(x, d)).abs().max() < 1e-4

@pytest.mark.usefixtures('both')
def test_augmix_is_draw_then_apply():
    x = noise(8, 3, 24, 40)
    d = draw_augmix(8, 2, 4, -1, .7, True, gen(9), size=(24, 40))
    assert torch.equal(augmix(x, 2, 4, -1, .7, True, gen(9)), apply_augmix(x, d))
    set_seed(4); a = augmix(x)
    set_seed(4); assert torch.equal(a, augmix(x)) and not torch.equal(a, augmix(x))     # None: torch's own generator

# --- properties (spec 1.8) -------------------------------------------------------------------------------------------
@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.integers(1, 5), st.sampled_from([1, 3]), st.integers(1, 40), st.integers(1, 40), st.floats(.1, 10),
       st.integers(1, 4), st.booleans(), st.integers(0, 10**6))
@pytest.mark.usefixtures('both')
def test_p1_shape_type_range(b, c, h, w, s, k, all_ops, seed):
    o = augmix(noise(b, c, h, w, seed), s, k, all_ops=all_ops, generator=gen(seed))
    assert o.shape == (b, c, h, w) and o.dtype == torch.float32 and o.min() >= 0 and o.max() <= 1

@pytest.mark.usefixtures('both')
def test_p2_constant_images():
    x = torch.arange(256, dtype=torch.uint8)[:, None, None, None].expand(256, 3, 32, 32)
    assert torch.equal(ops.autocontrast(x), x) and torch.equal(ops.equalize(x), x)
    t = ops.translate_x(x, 3)
    assert torch.equal(t[..., :-3], x[..., :-3]) and not t[..., -3:].any()

@pytest.mark.usefixtures('both')
def test_p3_severity_1():
    d = draw_augmix(20000, 1, generator=gen())
    t = d.arg[(d.op == 7) | (d.op == 8)]
    assert abs((t == 0).double().mean() - .9306) < 4*(.9306*.0694/len(t))**.5 and set(t.abs().tolist()) == {0., 1.}
    assert (d.arg[d.op == 2] == 4).all()
    x = noise(4)
    for o in (ops.translate_x(x, 0), ops.rotate(x, 0), ops.solarize(x, 256)): assert torch.equal(o, x)

@pytest.mark.usefixtures('both')
def test_p4_one_chain_p5_clean():
    x = noise(5); d = draw_augmix(5, 3, generator=gen(2))
    one = AugMixDraw(d.op, d.arg, tensor([[0., 1, 0]]*5).double(), torch.ones(5).double())
    chain = x
    for t in range(3): chain = apply_ops(chain, d.op[:, 1, t], d.arg[:, 1, t])
    assert torch.equal(apply_augmix(x, one), chain.float()/255)
    assert torch.equal(apply_augmix(x, d._replace(m=torch.zeros(5).double())), x.float()/255)

@pytest.mark.usefixtures('both')
def test_p6_normalising_commutes():
    x = noise(6); d = draw_augmix(6, 3, generator=gen(2))
    only = lambda i: AugMixDraw(d.op[:, [i]], d.arg[:, [i]], torch.ones(6, 1), torch.ones(6))
    parts = [apply_augmix(x, only(i)) for i in range(3)]
    n = lambda o: (o-.47)/.23
    m = d.m[:, None, None, None]
    late = (1-m)*n(x/255.) + m*sum(d.w[:, i, None, None, None]*n(o) for i,o in enumerate(parts))
    assert (n(apply_augmix(x, d)) - late).abs().max() < 1e-5

def test_p7_every_image_its_own():
    d = draw_augmix(400, 3, generator=gen())
    assert (d.op[:, :, 0].unique(dim=0).shape[0]) > 250                 # of 729 triples
    x = noise(1).expand(64, -1, -1, -1)
    assert augmix(x, generator=gen()).flatten(1).unique(dim=0).shape[0] == 64

@pytest.mark.usefixtures('both')
def test_p10_channels_permute():
    x = noise(60); p = [2, 0, 1]
    op = torch.arange(60)%9
    arg = torch.stack([augmixing.operation_args(tensor(5.).double(), tensor(1.).double(), (32, 32))[o] for o in op])
    assert torch.equal(apply_ops(x[:, p], op, arg), apply_ops(x, op, arg)[:, p])
    assert not torch.equal(ops.color(x[:, p], .2), ops.color(x, .2)[:, p])

@pytest.mark.parametrize('alpha', [1., .4])
def test_p11_seed_and_splitting(alpha):
    x = noise(9); a = dict(alpha=alpha, all_ops=True)
    g = gen(3); whole = augmix(x, generator=g, **a)
    assert torch.equal(whole, augmix(x, generator=gen(3), **a))
    assert not torch.equal(whole, augmix(x, generator=gen(4), **a))
    h = gen(3); assert torch.equal(whole, torch.cat([augmix(o, generator=h, **a) for o in x.split([2, 4, 3])]))
    assert torch.equal(torch.rand(3, generator=g), torch.rand(3, generator=h))

# --- the laws of the draws (spec 1.2, check 27) ----------------------------------------------------------------------
N = 60000
def draws(s, **kw): return draw_augmix(N, s, generator=gen(11), **kw)

def assert_pmf(v, pmf):
    "Observed shares within 4.5 standard errors, and nothing else observed"
    v = v.abs(); n = len(v)
    assert set(v.unique().tolist()) == set(pmf), (sorted(v.unique().tolist()), pmf)
    assert abs(sum(pmf.values()) - 1) < 1e-3
    for k,p in pmf.items(): assert abs((v == k).double().mean().item() - p) < 4.5*(p*(1-p)/n)**.5 + 5e-5, k

def test_pmf_severity_3():
    d = draws(3)
    of = lambda name: d.arg[d.op == AUGMIX_OPS.index(name)]
    assert_pmf(of('rotate'), {0: .0805, **{k: .1149 for k in range(1, 9)}})
    assert_pmf(of('posterize'), {4: .8276, 3: .1724})
    for o in ('translate_x', 'translate_y'): assert_pmf(of(o), {0: .2888, 1: .3233, 2: .3233, 3: .0647})
    s = of('solarize'); assert s.min() == 180 and s.max() == 254
    for o in (of('shear_x'), of('shear_y')):
        assert .0899 < o.max() <= .09 and -.09 <= o.min() < -.0899 and o.abs().min() >= .003
    for o in ('rotate', 'shear_x', 'translate_y'):
        v = of(o)[of(o) != 0]; assert abs((v > 0).double().mean() - .5) < 4*(.25/len(v))**.5

def test_pmf_severity_1_and_10():
    d = draws(1)
    assert_pmf(d.arg[d.op == 3], {0: .2593, 1: .3704, 2: .3704})
    s = d.arg[d.op == 4]; assert s.min() == 231 and s.max() == 254
    d = draws(10, all_ops=True)
    assert set(d.arg[d.op == 2].tolist()) == {1, 2, 3, 4} and d.arg[d.op == 3].abs().max() == 29
    assert d.arg[d.op == 4].min() == 1 and d.arg[d.op == 7].abs().max() == 10
    f = d.arg[d.op >= 9]; assert .118 <= f.min() < .12 and 1.89 < f.max() <= 1.9

def test_translation_follows_its_own_side():
    d = draw_augmix(20000, 10, generator=gen(), size=(30, 90))
    assert d.arg[d.op == 7].abs().max() == 29 and d.arg[d.op == 8].abs().max() == 9        # x: width, y: height
    d = draw_augmix(20000, 1, generator=gen(), size=(224, 224))
    assert set(d.arg[d.op == 8].abs().tolist()) == set(range(8))

def test_operations_and_depth_are_uniform():
    d = draws(3, all_ops=True)
    assert_pmf(d.op[d.op >= 0].double(), {k: 1/13 for k in range(13)})
    assert_pmf((d.op >= 0).sum(-1).flatten().double(), {1: 1/3, 2: 1/3, 3: 1/3})
    assert ((d.op >= 0).int().diff(dim=-1) <= 0).all() and abs((d.op >= 0).sum((1, 2)).double().mean() - 6) < .05
    long = (d.op >= 0).sum(-1)
    assert abs((long[:, 0] == long[:, 1]).double().mean() - 1/3) < .01                     # each chain its own depth
    assert draws(3).op.max() == 8
    assert abs((d.op[:, 0, 0] == d.op[:, 1, 0]).double().mean() - 1/13) < .006             # chains independent
    assert (draw_augmix(50, depth=5).op >= 0).all()

@pytest.mark.parametrize('alpha', [.2, 1., 4.])
@pytest.mark.parametrize('k', [2, 3])
def test_weights(alpha, k):
    "Dirichlet and Beta moments: Var w = (k-1)/(k^2 (k alpha + 1)), Var m = 1/(4 (2 alpha + 1)); finite at tiny alpha"
    d = draws(3, width=k, depth=1, alpha=alpha)
    assert torch.allclose(d.w.sum(1), torch.ones(N).double()) and d.w.min() >= 0 and d.m.min() >= 0 and d.m.max() <= 1
    assert (d.w.mean(0) - 1/k).abs().max() < .008 and abs(d.m.mean() - .5) < .008
    assert (d.w.var(0)/((k-1)/(k*k*(k*alpha+1))) - 1).abs().max() < .04 and abs(d.m.var()*4*(2*alpha+1) - 1) < .04
    if alpha == 1 and k == 3: assert abs((d.w**2).sum(1).mean() - .5) < .005
    assert abs(torch.corrcoef(torch.stack([d.m, d.w[:, 0]]))[0, 1]) < .02
    assert draw_augmix(1000, alpha=1e-3).w.isfinite().all()

@pytest.mark.parametrize('s,mean,se', [(3, .0388, .0003), (1, .0141, .00015)])
def test_sawtooth_statistic(s, mean, se):
    "Mean |x_aug - x| of a fixed image, measured with the official operations on 12,000 samples (check 28)"
    x = sawtooth().expand(1500, 3, 32, 32)
    v = (augmix(x, s, generator=gen(8)) - x/255.).abs().flatten(1).mean(1).double()
    assert abs(v.mean() - mean) < 3*(se**2 + v.var()/len(v))**.5

def pil_view(a, rng, severity):
    "One view by the paper's recipe and Pillow alone, its own draws; float64 in [0,255]"
    mix = 0.
    for w in rng.dirichlet([1]*3):
        names = rng.choice(AUGMIX_OPS[:9], rng.integers(1, 4)).tolist(); params = []
        for o in names:
            l,sign = rng.uniform(.1, severity),rng.choice([-1, 1])
            size = dict(translate_x=a.shape[1], translate_y=a.shape[0])
            params.append(sign*int(l*size[o]/30) if o in size else sign*.03*l if 'shear' in o else
                          dict(posterize=4-int(.4*l), rotate=sign*int(3*l), solarize=256-int(25.6*l)).get(o))
        mix = mix + w*pil_chain(Image.fromarray(a), names, params)
    m = rng.beta(1, 1)
    return (1-m)*a + m*mix

def sawtooth():
    i,j,c = torch.arange(32)[:, None],torch.arange(32),torch.arange(3)[:, None, None]
    return ((7*i + 5*j + 60*c)%256).byte()

@pytest.mark.slow
def test_same_law_as_pillow_and_not_torchvision():
    "12,000 views: Kolmogorov-Smirnov and means agree with Pillow; the same test rejects shared operations and bins"
    from scipy.stats import ks_2samp
    from torchvision.transforms import v2
    n,x = 12000,sawtooth(); a = x.permute(1, 2, 0).numpy(); rng = np.random.default_rng(0)
    def change(views): return (views.double() - x.double()/255).abs().flatten(1).mean(1)
    g,many = gen(1),x.expand(1000, -1, -1, -1)
    ours = torch.cat([change(augmix(many, generator=g)) for _ in range(n//1000)])
    pil = tensor([np.abs(pil_view(a, rng, 3) - a).mean()/255 for _ in range(n)])
    set_seed(2)
    tv = v2.AugMix(severity=3, all_ops=False)
    shared = torch.cat([change(tv(x.expand(100, -1, -1, -1))/255) for _ in range(n//100)])
    binned = torch.cat([change(tv(x[None])/255) for _ in range(n)])
    def z(v): return ((v.mean() - pil.mean())/(v.var()/n + pil.var()/n)**.5).abs().item()
    def p(v): return ks_2samp(v.numpy(), pil.numpy()).pvalue
    assert p(ours) > .01 and z(ours) < 3, (p(ours), z(ours))
    assert p(shared) < 1e-6 and p(binned) < 1e-6, (p(shared), p(binned))

@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here')
@pytest.mark.parametrize('shape', [(3, 32, 32), (1, 28, 28), (3, 70, 90)], ids=str)
def test_same_on_the_gpu(shape):
    "Draws come from the CPU, so one seed gives the same views on both"
    x = pictures(40, *shape)
    a,b = augmix(x.cuda(), all_ops=True, generator=gen(2)),augmix(x, all_ops=True, generator=gen(2))
    assert a.is_cuda and (a.cpu() - b).abs().max() < 1e-6

# --- refusals --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('kw,match', [
    (dict(severity=11), r'severity.*\[0.1,10\], got 11'), (dict(severity=0), 'severity'), (dict(width=0), 'width'),
    (dict(width=1.5), 'width'), (dict(depth=0), 'depth'), (dict(depth=-2), 'depth'), (dict(alpha=0), 'alpha'),
    (dict(alpha=math.nan), 'alpha'), (dict(width=math.inf), 'width'), (dict(depth=math.inf), 'depth')])
def test_refuses_settings(kw, match):
    for f in (lambda: augmix(noise(), **kw), lambda: AugMix(**kw), lambda: AugMixTransform(**kw)):
        with pytest.raises(ValueError, match=match): f()

def test_refuses_images():
    with pytest.raises(TypeError, match=r'x_u8.*uint8.*torch.float32.*to_uint8'): augmix(torch.randn(2, 3, 8, 8))
    with pytest.raises(ValueError, match='channels last'): augmix(torch.zeros(2, 8, 8, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match='for 3 images, got 2'): apply_augmix(noise(2), draw_augmix(3))
    with pytest.raises(ValueError, match='views'): AugMix(views=0)
    for bad in (0, 0., -1): pytest.raises(ValueError, AugMix, bad).match('lam.*AugMixTransform')
    with pytest.raises(TypeError, match='lam'): AugMix('12')
    with pytest.raises(TypeError, match='reduction.*GCELoss'): AugLoss(lambda z, y: z)

# --- in a learner ----------------------------------------------------------------------------------------------------
MEAN,STD = [.4, .5, .3],[.2, .25, .3]

class Items(list): split_idx = None    # where TfmdDL looks whether it feeds training (0) or validation (1)

def make_dls(tfms=(), normalize=True, c=3, bs=8, n=20, items=None):
    "Twenty noise images, all in training and all in validation; `items` makes them floats"
    xs = [o if items is None else items(o/255.) for o in noise(n, c, 16, 20)]
    ds = [(TensorImage(o), TensorCategory(i%3)) for i,o in enumerate(xs)]
    norm = [Normalize.from_stats(MEAN[:c], STD[:c], cuda=False)] if normalize else []
    def loader(split):
        d = Items(ds); d.split_idx = split
        return TfmdDL(d, bs=bs, after_batch=[*([] if items else [IntToFloatTensor()]), *tfms, *norm], num_workers=0)
    dls = DataLoaders(loader(0), loader(1), device='cpu'); dls.c = 3
    return dls

def net(c=3):
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(c, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))

def learner(dls=None, cbs=None, loss=None, c=3, model=None, **kw):
    return Learner(dls or make_dls(c=c), model or net(c), loss_func=loss or CrossEntropyLossFlat(), cbs=cbs, **kw)

def quiet_fit(learn, n=1):
    with learn.no_bar(), learn.no_logging(): learn.fit(n, 1e-2)

def ref_jsd(zs):
    ps = [torch.softmax(z.double(), 1) for z in zs]
    m = (sum(ps)/len(ps)).clamp(1e-7, 1)
    return sum((p*(p.log() - m.log())).sum(1) for p in ps).mean()/len(ps)

class Watch(nn.Module):
    "The net, remembering its inputs and outputs"
    def __init__(self, m): super().__init__(); self.m,self.seen = m,[]
    def forward(self, x):
        z = self.m(x); self.seen.append((self.training, x.detach().clone(), z)); return z

def watched(cbs, c=3, lr=0., **kw):
    learn = learner(cbs=cbs, model=Watch(net(c)), c=c, **kw)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, lr)
    return learn, learn.model.seen

@pytest.mark.parametrize('views', [1, 2, 3])
@pytest.mark.parametrize('c', [1, 3])
def test_rows_are_views_of_the_same_images(views, c):
    learn,seen = watched(AugMix(views=views), c=c)
    train = [(x, z) for t,x,z in seen if t]
    assert [len(x) for x,_ in train] == [8*(1+views), 8*(1+views), 4*(1+views)]
    assert [len(x) for t,x,_ in seen if not t] == [8, 8, 4]
    m,s = (tensor(o[:c]).view(1, c, 1, 1) for o in (MEAN, STD))
    px = train[0][0]*s + m
    assert px.min() > -1e-5 and px.max() < 1+1e-5
    clean,*vs = px.chunk(1+views)
    assert (clean*255 - noise(20, c, 16, 20)[:8]).abs().max() < 1e-3
    for i,v in enumerate(vs): # nearer to its own image than to any other one, and not the same view twice
        near = torch.cdist(v.flatten(1), clean.flatten(1)).argmin(1)
        assert (near == torch.arange(8)).float().mean() > .7
        if i: assert not torch.equal(v, vs[0])

def test_rows_round_and_keep_order(monkeypatch):
    "With augmix replaced by the identity the views are the images themselves, to the last uint8"
    got = []
    def fake(u8, *_a, **_k): got.append(u8); return u8.float()/255
    monkeypatch.setattr(M, 'augmix', fake)
    learn,seen = watched(AugMix())
    assert torch.equal(got[0], noise(20, 3, 16, 20)[:8].repeat(2, 1, 1, 1))
    assert learn.recorder.values[0][learn.recorder.metric_names[1:].index('jsd')] < 1e-6

def test_loss_is_clean_ce_plus_12_jsd():
    "Eq. 2-3: cross-entropy sees the clean third only; recorded column = unweighted mean of the batches"
    learn,seen = watched(AugMix())
    ces,js,i = [],[],0
    for t,_,z in seen:
        if not t: continue
        z0,z1,z2 = z.chunk(3); y = (torch.arange(20)%3)[i:i+len(z0)]; i += len(z0)
        ces.append(F.cross_entropy(z0, y).item()); js.append(ref_jsd([z0, z1, z2]).item())
    want = [a + 12*b for a,b in zip(ces, js)]
    assert np.allclose(learn.recorder.losses, smooth(want), rtol=1e-5)
    col = dict(zip(learn.recorder.metric_names[1:], learn.recorder.values[0]))
    assert abs(col['jsd'] - np.mean(js)) < 1e-6 and 0 < col['jsd'] < math.log(3)

def smooth(v, beta=.98):
    "fastai's AvgSmoothLoss over a list"
    out,val,k = [],0.,0
    for o in v:
        k += 1; val = val*beta + o*(1-beta)
        out.append(val/(1-beta**k))
    return out

def test_p8_penalty_invariants():
    a = AugMix(); z = [torch.randn(16, 5, generator=gen(i))*4 for i in range(3)]
    learn = learner(cbs=a)
    p = lambda *z: a.penalty(z[0], torch.cat(z[1:]))
    assert abs(p(*z) - ref_jsd(z)) < 1e-6 and abs(p(z[2], z[0], z[1]) - p(*z)) < 1e-6 and 0 < p(*z) < math.log(3)
    assert p(z[0], z[0], z[0]) < 1e-6
    far = [20*F.one_hot(torch.full((4,), k), 3).float() for k in range(3)]
    assert abs(p(*far) - math.log(3)) < 1e-5
    hs = [o.clone().requires_grad_() for o in z]
    p(*hs).backward(); assert all(h.grad.abs().max() > 1e-4 for h in hs)             # nothing detached
    assert p(*[o.half() for o in z]).dtype == torch.float32
    assert learn.objective is not None

def test_penalty_sees_mapped_logits():
    from fastrobust.training.technique import Technique
    class Tenth(Technique):
        def logits(self, z): return z/10
    learn,seen = watched([Tenth(), AugMix()])
    js = [ref_jsd([o/10 for o in z.chunk(3)]).item() for t,x,z in seen if t]
    assert abs(dict(zip(learn.recorder.metric_names[1:], learn.recorder.values[0]))['jsd'] - np.mean(js)) < 1e-7

def test_p9_validation_untouched():
    plain = learner(); aug = learner(cbs=AugMix())
    with plain.no_bar(), aug.no_bar():
        assert plain.validate()[0] == aug.validate()[0]
        p,y,l = aug.get_preds(with_loss=True); q,_,k = plain.get_preds(with_loss=True)
    assert torch.equal(p, q) and torch.equal(l, k)

def test_schedule_at_zero_is_no_technique():
    "Bitwise the same weights and random stream; a schedule that leaves 0 half-way acts only then"
    def run(cbs):
        set_seed(3); learn = learner(cbs=cbs); set_seed(7); quiet_fit(learn)
        return learn.model.state_dict(), torch.rand(3), random.random()
    (a,ra,pa),(b,rb,pb),(c,rc,_) = run(None),run(AugMix(lam=lambda t: 0.)),run(AugMix(lam=lambda t: 12.))
    assert all(torch.equal(a[k], b[k]) for k in a) and torch.equal(ra, rb) and pa == pb
    assert any(not torch.equal(a[k], c[k]) for k in a) and not torch.equal(ra, rc)
    _,seen = watched(AugMix(lam=lambda t: 0 if t < .5 else 3.))
    assert [len(x) for t,x,_ in seen if t] == [8, 8, 12]       # pct_train 0, 1/3, 2/3

def test_no_normalize_and_already_normalised():
    learn = learner(make_dls(normalize=False), cbs=AugMix()); quiet_fit(learn)
    bad = learner(make_dls(normalize=False, items=lambda o: (o-.5)/.25), cbs=AugMix())
    with pytest.raises(ValueError, match=r'(?s)augmix expected.*\[0,1\].*got \[-2.*normalised outside'): quiet_fit(bad)

def test_needs_images():
    ds = [(torch.rand(5), TensorCategory(i%3)) for i in range(8)]
    dls = DataLoaders(TfmdDL(ds, bs=4, num_workers=0), TfmdDL(ds, bs=4, num_workers=0), device='cpu'); dls.c = 3
    learn = Learner(dls, nn.Linear(5, 3), loss_func=CrossEntropyLossFlat(), cbs=AugMix())
    with pytest.raises(ValueError, match=r'(?s)augmix expected images \(b,c,h,w\), got.*\(4, 5\)'): quiet_fit(learn)

def test_with_mixup_and_accumulation():
    learn = learner(cbs=[AugMix(), MixUp(.4), GradientAccumulation(16)]); quiet_fit(learn, 2)
    assert np.isfinite(learn.recorder.values).all()

# --- the batch transform ---------------------------------------------------------------------------------------------
def test_transform_acts_in_training_only_before_normalize():
    dls = make_dls([AugMixTransform(severity=5)])
    m,s = (tensor(o).view(1, 3, 1, 1) for o in (MEAN, STD))
    xb,_ = dls.train.one_batch()
    px = xb*s + m
    assert isinstance(xb, TensorImage) and px.min() > -1e-5 and px.max() < 1+1e-5
    clean = noise(20, 3, 16, 20)[:8]
    assert (px*255 - clean).abs().amax((1, 2, 3)).gt(1).float().mean() > .7
    assert ((dls.valid.one_batch()[0]*s + m)*255 - clean).abs().max() < 1e-3
    quiet_fit(learner(dls))

@pytest.mark.parametrize('c', [1, 3])
def test_as_an_item_transform(c):
    "In item_tfms, after ToTensor: bytes to bytes, the view rounded; in loader workers too, each image its own"
    x = noise(1, c, 20, 24)[0]; t = AugMixTransform(severity=4)
    set_seed(1); got = t(TensorImage(x), split_idx=0)
    set_seed(1); want = augmix(x[None], 4)[0]
    assert type(got) is TensorImage and got.dtype == torch.uint8
    assert torch.equal(got.as_subclass(torch.Tensor), (want*255).round().byte())
    assert torch.equal(t(TensorImage(x), split_idx=1), TensorImage(x))
    mode = PILImageBW if c == 1 else PILImage
    img = mode.create(x[0].numpy() if c == 1 else x.permute(1, 2, 0).numpy())
    ds = Datasets([img]*12, [[noop], [lambda o: 0]], splits=[range(12), [0]]).train
    dl = TfmdDL(ds, bs=6, after_item=[ToTensor, t], after_batch=[IntToFloatTensor()], num_workers=2)
    xs = torch.cat([b[0].as_subclass(torch.Tensor) for b in dl])
    assert xs.shape == (12, c, 20, 24) and 0 <= xs.min() and xs.max() <= 1
    assert xs.flatten(1).unique(dim=0).shape[0] == 12          # neither image nor worker shares its draws

@pytest.mark.parametrize('num_workers', [0, 2])
def test_what_loader_workers_share_is_made_before_they_are_forked(monkeypatch, num_workers):
    "Numba's import and the compiled loops: once, not in every worker of every epoch"
    made = []
    monkeypatch.setattr('fastrobust.techniques.augmix.augmix', lambda x: made.append((x.shape[1], torch.rand(1))))
    ds = Datasets([PILImage.create(noise(1, 3, 8, 8)[0].permute(1, 2, 0).numpy())]*4, [[noop], [lambda o: 0]])
    set_seed(1); want = torch.rand(3)
    set_seed(1); dl = TfmdDL(ds, bs=2, after_item=[ToTensor, AugMixTransform()], num_workers=num_workers)
    assert [c for c,_ in made] == ([1, 3] if num_workers else []) and torch.equal(torch.rand(3), want)
    assert dl.fake_l.num_workers == num_workers

def test_transform_equals_augmix_and_refuses():
    t = AugMixTransform(severity=2, width=2, depth=2, alpha=.5, all_ops=True); x = noise(5)
    set_seed(1); a = t(TensorImage(((x.float()+.3)/255).clamp(max=1)), split_idx=0)  # rounded
    set_seed(1); assert torch.equal(a, TensorImage(augmix(x, 2, 2, 2, .5, True)))
    assert type(a) is TensorImage and torch.equal(t(TensorImage(x.float()), split_idx=1), TensorImage(x.float()))
    for bad in (x.float(), torch.randn(2, 3, 8, 8)):
        with pytest.raises(ValueError, match=r'AugMixTransform expected.*\[0,1\]'): t(TensorImage(bad), split_idx=0)
    assert IntToFloatTensor.order < t.order < Normalize.order and 'severity' in repr(t)

# --- AugLoss ---------------------------------------------------------------------------------------------------------
BASES = [GCELoss(.3), AlphaLoss(4.), NCEandRCE(), CrossEntropyLossFlat(), nn.CrossEntropyLoss()]

@pytest.mark.parametrize('base', BASES, ids=lambda o: type(o).__name__)
def test_augloss_trains_on_base_and_validates_on_its_own(base):
    learn,seen = watched(AugLoss(base, lam=3., views=1))
    y = torch.arange(20)%3; want,i = [],0
    for t,_,z in seen:
        if not t: continue
        z0,z1 = z.chunk(2)
        want.append((base(z0, y[i:i+len(z0)]) + 3*ref_jsd([z0, z1])).item()); i += len(z0)
    assert np.allclose(learn.recorder.losses, smooth(want), rtol=1e-5)
    z = torch.cat([z for t,_,z in seen if not t])
    assert abs(learn.recorder.values[0][1] - F.cross_entropy(z, y).item()) < 1e-5
    assert base.reduction == 'mean'

def test_augloss_labels_touch_only_the_base():
    "Other labels change the training loss by the change of the base loss, exactly: the divergence never sees y"
    def losses(shift):
        set_seed(5); dls = make_dls(bs=20)
        for dl in dls.loaders: dl.dataset[:] = [(x, TensorCategory((int(y)+shift)%3)) for x,y in dl.dataset]
        l,seen = watched(AugLoss(GCELoss()), dls=dls)
        z0 = next(z for t,_,z in seen if t)[:20]
        return l.recorder.losses[0].item(), GCELoss()(z0, (torch.arange(20)+shift)%3).item()
    (a,la),(b,lb) = losses(0),losses(1)
    assert abs((a-b) - (la-lb)) < 1e-5 and abs(la-lb) > 1e-4

def test_augloss_restores_reduction_after_an_error():
    base = GCELoss(reduction='sum'); t = AugLoss(base)
    with pytest.raises(ValueError, match=r'got \(torch.int64, 5\)'): t.base(torch.randn(4, 3), torch.zeros(5).long())
    assert base.reduction == 'sum'
    assert t.base(torch.randn(4, 3), torch.zeros(4).long()).shape == (4,) and base.reduction == 'sum'

def test_augloss_is_augmix_with_its_settings():
    t = AugLoss(GCELoss(), lam=2., severity=1, views=1)
    assert isinstance(t, AugMix) and (t.lam, t.severity, t.views, t.column) == (2., 1, 1, 'jsd')
    with pytest.raises(TypeError): AugLoss(GCELoss(), sevrity=1)
    assert AugMix().lam == 12 and abs(float(jsd([torch.eye(3)*50]*2))) < 1e-6

# --- the picture -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('make', [lambda: noise(1)[0], lambda: noise(1, 1)[0, 0].numpy(), lambda: noise(1)[0]/255.,
    lambda: Image.fromarray(noise(1)[0].permute(1, 2, 0).numpy()), lambda: TensorImage(noise(1, 1))])
def test_picture_draws_what_was_drawn(make, tmp_path):
    fig = show_augmix(make(), severity=5, generator=gen(3)); d = draw_augmix(1, 5, generator=gen(3))
    steps = int((d.op >= 0).sum())
    assert len([a for a in fig.axes if a.images]) == steps + 3 and len(fig.axes) == steps + 6
    for i,o in ((1, d._replace(m=torch.ones(1))), (2, d)):                       # the mix, the view
        got = fig.axes[i].images[0].get_array()
        want = apply_augmix(noise(1) if got.ndim == 3 else noise(1, 1), o)[0]
        assert np.array_equal(got, want.permute(1, 2, 0).numpy() if got.ndim == 3 else want[0].numpy())
    titles = ' '.join(a.get_title() for a in fig.axes)
    assert all(AUGMIX_OPS[o].replace('_', ' ') in titles for o in d.op[d.op >= 0]) and f'{d.m[0]:.2f} mix' in titles
    fig.savefig(tmp_path/'a.png'); assert (tmp_path/'a.png').stat().st_size > 5000

def test_picture_refuses():
    with pytest.raises(ValueError, match='one image, got a batch of 4'): show_augmix(noise(4))
    with pytest.raises(ValueError, match='show_augmix expected'): show_augmix(torch.randn(3, 8, 8))
