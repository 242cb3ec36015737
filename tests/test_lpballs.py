"Lp noise: the laws of the ball and the sphere, the specification's numbers, norms, L0, dtypes, seeds, errors"
import math
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from scipy import stats
from fastai.torch_core import set_seed
from fastrobust.basics import RobustWarning
from fastrobust.images import lpdraws
from fastrobust.images.lpballs import lp_delta, lp_noise, lp_std
from fastrobust.images.lpdraws import Random, power
from fastrobust.images.lpsets import LP_EPS, LpSet, as_lp_set, lp_sets

inf = math.inf
NORMS = [.3, .5, 1, 1.5, 2, 5, 10, 50, 200, inf]
def gen(seed=0): return torch.Generator().manual_seed(seed)
def grey(b, c=3, h=32, w=32, v=.5): return torch.full((b, c, h, w), v)
def images(b=8, c=3, h=16, w=12, seed=0): return torch.rand(b, c, h, w, generator=gen(seed))
def norms(d, p):
    d = d.double().flatten(1)
    top = d.abs().amax(1, keepdim=True).clamp_min(1e-300)       # 35**200 would overflow
    return torch.linalg.vector_norm(d/top, ord=p, dim=1)*top[:, 0]

def drawn(p, m, seed, dtype=torch.float32, logs=False):
    return Random(gen(seed), torch.device('cpu'), dtype).accepted(p, m, logs)

# --- laws ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('p', NORMS)
def test_radius_in_the_ball(p):
    r = norms(lp_delta(grey(20000, 1, 3, 4), p, .7, generator=gen(1)), p)/.7
    assert stats.kstest((r**12).numpy(), 'uniform').pvalue > .01

@pytest.mark.parametrize('p', [o for o in NORMS if o != 200])    # there Gamma(1/p) underflows even in float64
@pytest.mark.parametrize('kind', ['ball', 'sphere'])
def test_coordinates_against_a_textbook_sampler_in_float64(p, kind):
    "Gamma(1/p) of NumPy, radius U^(1/d): written the other way"
    d,n,g = 5,20000,np.random.default_rng(2)
    xi = g.uniform(-1, 1, (n, d)) if p == inf else g.gamma(1/p, size=(n, d))**(1/p)*g.choice([-1, 1], (n, d))
    a = np.abs(xi)
    ref = xi/(a.max(1, keepdims=True) if p == inf else (a**p).sum(1, keepdims=True)**(1/p))
    if kind == 'ball': ref *= g.uniform(size=(n, 1))**(1/d)
    got = lp_delta(grey(n, 1, 1, d), p, 1., kind, gen(3)).flatten(1).double().numpy()
    for f in (lambda a: a[:, 0], lambda a: np.abs(a).max(1), lambda a: a[:, 0]*a[:, 1]):    # the joint law too
        assert stats.ks_2samp(f(got).round(5), f(ref).round(5)).pvalue > .01

@pytest.mark.parametrize('p', [.5, 1, 2, 5, 50, 200, inf])
def test_against_rejection_in_three_dimensions(p):
    c = np.random.default_rng(4).uniform(-1, 1, (300000, 3))
    keep = np.abs(c).max(1) <= 1 if p == inf else (np.abs(c)**p).sum(1) <= 1
    ref = c[keep][:20000]
    got = lp_delta(grey(20000, 3, 1, 1), p, 1., generator=gen(5)).flatten(1).numpy()
    for f in (lambda a: a[:, 1], lambda a: np.abs(a).sum(1), lambda a: a[:, 0]*a[:, 2]):
        assert stats.ks_2samp(f(got), f(ref)).pvalue > .01

@pytest.mark.parametrize('p,eps,std,mean', [
    (.5, 25000, .007249, None), (1, 25, .011503, .008135), (2, .5, .009018, .007196), (2, 1, .018036, None),
    (5, .1, .015767, None), (10, .03, .009486, None), (50, .02, .010524, None), (200, .05, .028392, .024587),
    (inf, .01, .005774, None)])
def test_numbers_of_the_specification(p, eps, std, mean):
    d = lp_delta(grey(64), p, eps, generator=gen(6))
    assert lp_std(p, eps, 3072) == pytest.approx(std, abs=1e-6)
    assert d.std().item() == pytest.approx(std, rel=.01)
    if mean: assert d.abs().mean().item() == pytest.approx(mean, rel=.01)
    r = norms(d, p)/eps
    assert r.mean().item() == pytest.approx(.9996746, abs=2e-4) and r.max() <= 1+1e-5

def test_lp_std_in_two_dimensions_by_hand():
    assert lp_std(2, 1, 2) == pytest.approx(.5)             # E x^2 over the disk is 1/4
    assert [lp_std(o, 1, 1) for o in (1, 7)] == pytest.approx([1/math.sqrt(3)]*2)  # one dimension: U(-1,1) for any p
    assert lp_std(1, 1, 2) == pytest.approx(math.sqrt(1/6)) # the diamond

@pytest.mark.parametrize('p,want', [(200, .4986), (50, .4947), (10, .4826), (5, .4832)])
def test_no_underflow_for_large_p(p, want):
    x,t = drawn(p, 200000, seed=7)
    xi = x.abs()*(2/3+1/p)**(1/p)
    assert xi.mean().item() == pytest.approx(want, abs=.003)
    assert len(xi.unique()) > .9*xi.numel() or p > 100      # no atom; a Gamma(1/200) sampler has 65 % in one value
    d = lp_delta(grey(50), p, .1, generator=gen(8))
    assert len(d.abs().unique()) > .5*d.numel()

@pytest.mark.slow
@pytest.mark.parametrize('p', [.1, .25, .5, .7, 1.3, 1.5, 3, 4, 10, 50, 200])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_draws_are_generalised_normal(p, dtype):
    x,t = drawn(p, 200000, seed=9, dtype=dtype)
    k = 2/3 + 1/p
    xi = x.double().numpy()*k**(1/p)
    def cdf(o):     # about 0 the power underflows in scipy's, and the density is flat
        flat = .5 + o/2/math.gamma(1+1/p)
        return np.where(p*np.log(np.abs(o)) < -600, flat, stats.gennorm(p).cdf(o))
    assert x.dtype == dtype and stats.kstest(xi, cdf).pvalue > .01
    if p < 50: assert stats.kstest(np.abs(xi)**p, stats.gamma(1/p).cdf).pvalue > .01
    assert np.allclose(t, x.double().abs()**p, rtol=1e-4)
    # fifty values are expected in either tail, and two hundred about 0
    far = stats.gennorm(p).ppf(.99975)
    for o in (xi, -xi): assert abs((o > far).sum() - 50) < 30
    assert abs((np.abs(cdf(xi) - .5) < 5e-4).sum() - 200) < 60
    assert abs(np.corrcoef(xi[:-1], xi[1:])[0, 1]) < .012 and not (xi == 0).any()

@pytest.mark.parametrize('p', [.02, .09])
def test_the_draws_by_logarithms(p):
    sign,t = drawn(p, 100000, seed=10, dtype=torch.float64, logs=True)
    assert stats.kstest((t.exp()*(2/3+1/p)).numpy(), stats.gamma(1/p).cdf).pvalue > .01
    assert abs(sign.sign().mean()) < .015 and abs(np.corrcoef(sign.numpy(), t.numpy())[0, 1]) < .015

def test_refused_draws_are_replaced_however_few_are_left_over(monkeypatch):
    monkeypatch.setattr(lpdraws, 'spare', lambda p, m: 4 + m%2)
    x,_ = drawn(4, 50001, seed=11)
    assert len(x) == 50001 and stats.kstest(x.numpy()*(2/3+1/4)**.25, stats.gennorm(4).cdf).pvalue > .01

@pytest.mark.parametrize('p', [.5, 1.5, 5, .1])
def test_parts_of_a_batch_and_one_image(p, monkeypatch):
    "Images of one part are each other's equals; norms hold at the seams"
    monkeypatch.setattr(lpdraws, '_part', 500)
    d = lp_delta(grey(41, 1, 9, 13), p, .7, 'sphere', gen(12))
    assert torch.allclose(norms(d, p), torch.full((41,), .7, dtype=torch.float64), rtol=1e-5)
    assert len({o.sum().item() for o in d}) == 41
    std = lp_delta(grey(4000, 1, 3, 5), p, 1., generator=gen(13)).double().std()
    assert std.item() == pytest.approx(lp_std(p, 1, 15), rel=.03 if p > .2 else .5)

@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('p', [50, 200, 1e5])
@pytest.mark.parametrize('d', [1, 2, 5])
def test_large_p_in_few_dimensions(p, d, dtype):
    x = grey(3000, 1, 1, d).to(dtype)
    r = norms(lp_delta(x, p, .3, 'sphere', gen(17)), p)
    assert torch.allclose(r, torch.full_like(r, .3), rtol=1e-5)
    inside = (norms(lp_delta(x, p, .3, generator=gen(18)), p)/.3)**d
    assert stats.kstest(inside.numpy(), 'uniform').pvalue > .01

@pytest.mark.parametrize('p,eps', [(.1, 1e40), (.12, 1e36), (.2, 1e18)])
def test_sphere_for_small_p_in_many_dimensions(p, eps):
    assert torch.allclose(norms(lp_delta(grey(4, h=128, w=128), p, eps, 'sphere', gen(16)), p)/eps,
                          torch.ones(4, dtype=torch.float64), rtol=1e-5)

@pytest.mark.parametrize('p', [.5, 1, 1.5, 2, 2.5, 3, 4, 7, 10, 200, .7, 1.3, 1e4])
def test_power(p):
    x = torch.linspace(.5, 1, 1000)
    want = x.double()**p
    assert torch.allclose(power(x.clone(), p, torch.empty(1000)).double(), want, rtol=max(p, 1)*3e-7)

@pytest.mark.parametrize('kind', ['ball', 'sphere'])
def test_the_draws_of_p_1_2_and_inf_for_a_seed(kind):
    "The stream of the generator in order: numbers of a seed stay as they were"
    for p in (1, 2, inf):
        got,g = lp_delta(grey(4), p, .7, kind, gen(14)).flatten(1).double(),gen(14)
        e = -(1-torch.rand(4, 1, generator=g).double()).log() if kind == 'ball' else torch.zeros(4, 1)
        if p == 2: xi = torch.randn(4, 3072, generator=g).double()/math.sqrt(2)
        else: xi = 2*torch.rand(4, 3072, generator=g).double() - 1 + 2**-24
        if p == 1: xi = xi.sign()*-(1-xi.abs()).log()
        if p == inf: want = .7*(xi if kind == 'ball' else xi/xi.abs().amax(1, keepdim=True))
        else: want = .7*xi/((xi.abs()**p).sum(1, keepdim=True) + e)**(1/p)
        assert torch.allclose(got, want, rtol=1e-4, atol=1e-8)

@pytest.mark.parametrize('p,eps,shape', [
    (.5, 1.2e7, (4, 3, 64, 64)), (.05, 2.8e68, (4, 3, 32, 32)), (.02, 1e170, (2, 3, 32, 32)), (1000, .1, (50, 1, 1, 2)),
    (200, .1, (200, 1, 1, 1)), (2, .1, (1, 1, 1, 1))])
@pytest.mark.parametrize('kind', ['ball', 'sphere'])
def test_extreme_norms_stay_finite(p, eps, shape, kind):
    x = grey(*shape)
    d,y = lp_delta(x, p, eps, kind, gen(10)),lp_noise(x, p, eps, kind, gen(10))
    assert torch.isfinite(d).all() and torch.isfinite(y).all() and 0 <= y.min() and y.max() <= 1 and (d != 0).any()

# --- properties ------------------------------------------------------------------------------------------------------
@settings(derandomize=True, deadline=None, max_examples=60)
@given(p=st.sampled_from([.1, *NORMS]), eps=st.floats(1e-3, 50), b=st.integers(1, 5), c=st.sampled_from([1, 3]),
       h=st.integers(1, 9), w=st.integers(1, 9), kind=st.sampled_from(['ball', 'sphere']), seed=st.integers(0, 99))
def test_norm_bounds_before_and_after_the_clip(p, eps, b, c, h, w, kind, seed):
    x = images(b, c, h, w, seed)
    d,y = lp_delta(x, p, eps, kind, gen(seed)),lp_noise(x, p, eps, kind, gen(seed))
    r = norms(d, p)
    assert (r <= eps*(1+1e-5)).all() and y.shape == x.shape and y.dtype == x.dtype and 0 <= y.min() and y.max() <= 1
    if kind == 'sphere': assert torch.allclose(r, torch.full_like(r, eps), rtol=1e-5)
    assert torch.allclose(y, (x+d).clamp(0, 1), atol=1e-6)
    assert (norms(y.double()-x, p) <= eps*(1+1e-5) + 1e-6*(c*h*w)**max(1/p, 1)).all()   # rounding of x+d

@pytest.mark.parametrize('p', NORMS)
def test_signs_and_images_are_independent(p):
    d = lp_delta(grey(40), p, 1., generator=gen(11)).flatten(1).double()
    assert abs(d.mean()) < 4*d.std()/math.sqrt(d.numel())
    a = np.corrcoef(d.abs().numpy())
    assert np.abs(a - np.eye(40)).max() < .12          # official code: 1 inside a minibatch of 8
    s = np.corrcoef(d.sign().numpy())
    assert np.abs(s - np.eye(40)).max() < .1

def test_rotation_invariance_for_p_2():
    q = torch.linalg.qr(torch.randn(6, 6, generator=gen(12)))[0]
    d = lp_delta(grey(20000, 1, 2, 3), 2, 1., generator=gen(13)).flatten(1)
    other = lp_delta(grey(20000, 1, 2, 3), 2, 1., generator=gen(14)).flatten(1) @ q
    assert stats.ks_2samp(d[:, 0].numpy(), other[:, 0].numpy()).pvalue > .01
    one = lp_delta(grey(20000, 1, 2, 3), 1, 1., generator=gen(13)).flatten(1)
    assert stats.ks_2samp(one[:, 0].numpy(), (one @ q)[:, 0].numpy()).pvalue < 1e-6     # the test can tell

@pytest.mark.parametrize('p', [0, *NORMS])
def test_eps_zero_is_the_identity(p):
    x = images()
    assert torch.equal(lp_noise(x, p, 0), x) and not lp_delta(x, p, 0).any()
    eps = torch.tensor([0., .3]*4)
    y = lp_noise(x, p, eps)
    assert torch.equal(y[::2], x[::2]) and (y[1::2] != x[1::2]).flatten(1).any(1).all()

@pytest.mark.parametrize('p', [.5, 1, 2, 5, inf])
def test_one_size_per_image(p):
    eps = torch.tensor([.1, .5, 1., 7.])
    assert torch.allclose(norms(lp_delta(grey(4), p, eps, 'sphere', gen(15)), p).float(), eps, rtol=1e-5)

# --- L0 --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('eps,k', [(.005, 15), (.01, 30), (.03, 92), (.12, 368), (1., 3072)])
@pytest.mark.parametrize('kind', ['ball', 'sphere'])
def test_l0_replaces_exactly_k(eps, k, kind):
    x = grey(30, v=.3)
    y = lp_noise(x, 0, eps, kind, gen(16))
    changed = (y != x).flatten(1).sum(1)
    assert (changed == k).all()         # .3 is neither 0 nor 1, and U(0,1) hits it with probability 0
    new = y[y != x]
    if kind == 'sphere': assert ((new == 0) | (new == 1)).all() and abs(new.mean()-.5) < 4*.5/math.sqrt(len(new))
    else: assert stats.kstest(new.numpy(), 'uniform').pvalue > .01
    assert torch.allclose(lp_delta(x, 0, eps, kind, gen(16)), y-x)

def test_l0_may_keep_a_value_and_counts_fractions_rightly():
    y = lp_noise(grey(50, v=1.), 0, .1, 'sphere', gen(17))
    n = (y != 1).flatten(1).sum(1)
    assert (n <= 307).all() and (n < 307).all() and abs(n.float().mean()-153.5) < 6
    assert (lp_noise(grey(3, 1, 10, 10, .3), 0, .29) != .3).sum() == 3*29     # .29*100 is 28.999999

def test_l0_positions_are_uniform_and_each_images_own():
    y = lp_noise(grey(4000, 1, 4, 5, .3), 0, .25, 'ball', gen(18))
    at = (y != .3).flatten(1)
    assert (at.sum(1) == 5).all()
    assert stats.chisquare(at.sum(0).numpy()).pvalue > .01
    assert len({tuple(o.tolist()) for o in at[:200]}) > 190
    both = (at[:, 0] & at[:, 1]).float().mean().item()
    assert both == pytest.approx(.25*4/19, abs=.01)     # without replacement: not .0625

def test_l0_one_fraction_per_image():
    y = lp_noise(grey(4, v=.3), 0, torch.tensor([0., .01, .1, 1.]), 'ball', gen(19))
    assert (y != .3).flatten(1).sum(1).tolist() == [0, 30, 307, 3072]

def test_l0_below_one_value_says_so():
    with pytest.warns(RobustWarning, match='less than one value'): y = lp_noise(grey(2, 1, 3, 3), 0, .1)
    assert torch.equal(y, grey(2, 1, 3, 3))

# --- dtypes, devices, seeds ------------------------------------------------------------------------------------------
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize('p', [0, .1, .5, 1, 2, 5, inf])
def test_dtypes(p, dtype):
    x = images().to(dtype)
    y = lp_noise(x, p, .2, generator=gen(20))
    assert y.dtype == dtype and torch.isfinite(y).all() and 0 <= y.min() and y.max() <= 1
    if dtype != torch.float64: assert torch.equal(y, lp_noise(x.float(), p, .2, generator=gen(20)).to(dtype))

@pytest.mark.parametrize('p', [0, .5, 1, 2, 5, inf])
def test_seeds_and_streams(p):
    x = images()
    x0 = x.clone()
    assert torch.equal(lp_noise(x, p, .2, generator=gen(21)), lp_noise(x, p, .2, generator=gen(21)))
    assert not torch.equal(lp_noise(x, p, .2, generator=gen(21)), lp_noise(x, p, .2, generator=gen(22)))
    state = torch.get_rng_state()
    lp_noise(x, p, .2, generator=gen(21))
    assert torch.equal(state, torch.get_rng_state()) and torch.equal(x, x0)
    set_seed(5); a = lp_noise(x, p, .2)
    set_seed(5); b = lp_noise(x, p, .2)
    assert torch.equal(a, b) and not torch.equal(a, lp_noise(x, p, .2))

@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('p', [0, .1, .5, 1, 2, 5, 200, inf])
@pytest.mark.parametrize('kind', ['ball', 'sphere'])
def test_cpu_and_cuda_agree(p, kind):
    x,eps = images(),torch.linspace(.01, .5, 8)
    a,b = (lp_noise(x.to(d), p, eps, kind, gen(23)) for d in ('cpu', 'cuda'))
    assert b.device.type == 'cuda' and torch.allclose(a, b.cpu(), atol=1e-5)
    own = lambda: lp_noise(x.cuda(), p, .2, kind, torch.Generator('cuda').manual_seed(1))
    assert torch.equal(own(), own()) and torch.isfinite(lp_noise(x.cuda(), p, .2, kind)).all()
    with pytest.raises(ValueError, match='generator'): lp_noise(x, p, .2, kind, torch.Generator('cuda'))

@pytest.mark.parametrize('p', [0, .5, 2, inf])
def test_no_image_and_no_pixel(p):
    assert lp_noise(torch.zeros(0, 3, 8, 8), p, .1).shape == (0, 3, 8, 8)
    assert lp_delta(torch.zeros(2, 3, 0, 8), p, .1).shape == (2, 3, 0, 8)

def test_any_memory_format_and_no_gradient():
    x = images().to(memory_format=torch.channels_last).requires_grad_()
    y = lp_noise(x, 2, .5, generator=gen(24))
    assert not y.requires_grad and torch.equal(y, lp_noise(x.detach().contiguous(), 2, .5, generator=gen(24)))

# --- errors ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('kw,err,match', [
    (dict(p=-1), ValueError, r'`p` must be in \(0,inf\]'), (dict(p=math.nan), ValueError, '`p` must be'),
    (dict(p='2'), TypeError, '`p` must be a number'), (dict(p=True), TypeError, '`p` must be a number'),
    (dict(eps=-.1), ValueError, '`eps` must be finite and not negative'), (dict(eps=inf), ValueError, '`eps` must'),
    (dict(eps=math.nan), ValueError, '`eps` must be finite'), (dict(eps=None), TypeError, '`eps` must be a number'),
    (dict(eps=torch.zeros(3)), ValueError, r'one per image, shape \(8,\)'),
    (dict(p=0, eps=1.5), ValueError, 'fraction of values replaced'),
    (dict(kind='spere'), ValueError, "Did you mean 'sphere'"), (dict(kind='max'), ValueError, "'ball' .inside"),
    (dict(x=torch.zeros(2, 3, 8, 8, dtype=torch.uint8)), TypeError, r'x.float\(\)/255'),
    (dict(x=np.zeros((2, 3, 8, 8))), TypeError, 'float tensor'),
    (dict(x=torch.zeros(3, 8, 8)), ValueError, 'One image'),
    (dict(x=torch.randn(2, 3, 8, 8)), ValueError, 'before Normalize'),
    (dict(x=torch.full((2, 3, 8, 8), 255.)), ValueError, 'not divided by 255'),
    (dict(x=torch.full((1, 1, 2, 2), math.nan)), ValueError, r'\[0,1\]')])
@pytest.mark.parametrize('f', [lp_noise, lp_delta])
def test_bad_input(f, kw, err, match):
    with pytest.raises(err, match=match): f(**{**dict(x=images(), p=2, eps=.1), **kw})

def test_lp_std_errors():
    with pytest.raises(ValueError, match='depends on the image'): lp_std(0, .1, 3072)

# --- sets ------------------------------------------------------------------------------------------------------------
def test_presets_of_the_paper():
    c1,c2,c3 = (lp_sets(o) for o in ('C1', 'C2', 'C3'))
    assert (len(c1), len(c2), len(c3)) == (90, 30, 45) and set(c2) < set(c1) and set(c3) < set(c1)
    assert {s.p for s in c2} == {0, 2, inf} and {s.p for s in c1} == {inf, .5, 1, 2, 5, 10, 50, 200, 0}
    assert all((s.kind == 'sphere') == (s.p == 0) for s in c1)
    assert max(s.eps for s in c3 if s.p == 2) == 1.5 and max(s.eps for s in c1 if s.p == .5) == 4e5
    assert all(list(v) == sorted(v) for t in LP_EPS.values() for v in t.values())
    tiny = lp_sets('C1', (3, 64, 64))
    assert len(tiny) == 89 and LpSet(1., 1500., 'ball') in tiny and LpSet(.5, 1.2e7, 'ball') in tiny
    assert tiny == lp_sets('C1', (3, 64, 64), table='tiny', scale=None) and lp_sets('C1', (3, 64, 48)) != tiny

def test_scaled_sets_have_the_same_noise_per_value():
    for s,o in zip(lp_sets('C1', (1, 28, 28)), lp_sets('C1')):
        if s.p: assert lp_std(s.p, s.eps, 784) == pytest.approx(lp_std(o.p, o.eps, 3072), rel=4e-3)
        else: assert s == o
    assert lp_sets('C1', (1, 28, 28), scale=None) == lp_sets('C1')
    assert lp_sets('modern', (3, 64, 64))[1].eps == pytest.approx((0, 20))
    assert [s.eps for s in lp_sets('modern')] == [(0, .3), (0, 10), (0, .24)]
    assert lp_sets('imperceptible')[0] == LpSet(inf, .01) and len(lp_sets('imperceptible', (3, 64, 64))) == 6

@pytest.mark.parametrize('kw,match', [
    (dict(preset='C4'), "Did you mean 'C"), (dict(preset='modren'), "Did you mean 'modern'"),
    (dict(table='cifar10'), "Did you mean 'cifar'"), (dict(scale='pixels'), "'dim' or None")])
def test_unknown_presets(kw, match):
    with pytest.raises(ValueError, match=match): lp_sets(**kw)

@pytest.mark.parametrize('o,err,match', [
    (3, TypeError, r'\(p, eps\)'), ((2,), TypeError, r'\(p, eps\)'), ((-2, 1), ValueError, '`p` must'),
    ((2, (1, .5)), ValueError, 'lo <= hi'), ((2, -1), ValueError, '`eps`'), ((2, 1, 'cube'), ValueError, '`kind`'),
    ((0, (0, 2)), ValueError, 'fraction')])
def test_bad_sets(o, err, match):
    with pytest.raises(err, match=match): as_lp_set(o)
    assert as_lp_set((2, [0, 1])) == LpSet(2., (0, 1)) and as_lp_set((0, .1, 'sphere')).kind == 'sphere'
