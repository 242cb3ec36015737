"The thirteen operations against Pillow itself, image by image: not one pixel may differ"
import numpy as np, pytest, torch
from PIL import Image, ImageEnhance, ImageOps
from hypothesis import given, settings, strategies as st
from fastai.vision.core import TensorImage
from fastrobust.images import engine, ops
from fastrobust.images.ops import AUGMIX_OPS, apply_ops

@pytest.fixture(scope='module', autouse=True, params=['numba', 'torch'])
def _by(request):
    "All of it twice: by the compiled loops and by torch"
    if request.param == 'numba' and engine.compiled_loops() is None: pytest.skip('numba is not installed')
    with pytest.MonkeyPatch.context() as m:
        m.setenv('FASTROBUST_NUMBA', str(int(request.param == 'numba')))
        yield

SHAPES = [(3, 32, 32), (3, 40, 48), (1, 28, 28), (3, 33, 17)]
AFFINE = dict(shear_x=lambda s: (1, s, 0, 0, 1, 0), shear_y=lambda s: (1, 0, 0, s, 1, 0),
              translate_x=lambda t: (1, 0, t, 0, 1, 0), translate_y=lambda t: (1, 0, 0, 0, 1, t))
SMOOTH = Image.Resampling.BILINEAR

def pil(o): return Image.fromarray(o.permute(1, 2, 0).numpy() if len(o) == 3 else o[0].numpy())

def unpil(im):
    a = torch.from_numpy(np.array(im))
    return a.permute(2, 0, 1) if a.ndim == 3 else a[None]

def pil_op(im, name, arg):
    "What Pillow does: one image, one operation"
    if name in AFFINE: return im.transform(im.size, Image.Transform.AFFINE, AFFINE[name](arg), resample=SMOOTH)
    if name == 'rotate': return im.rotate(arg, resample=SMOOTH)
    if name == 'posterize': return ImageOps.posterize(im, int(arg))
    if name == 'solarize': return ImageOps.solarize(im, arg)
    if name in ('autocontrast', 'equalize'): return getattr(ImageOps, name)(im)
    return getattr(ImageEnhance, name.title())(im).enhance(arg)

def images(c, h, w, n=208, seed=0):
    "A quarter each: noise, noise within narrow bounds, smooth waves and edges, few-valued or constant images"
    rng = np.random.default_rng(seed)
    y,x = np.mgrid[:h, :w]
    out = []
    for i in range(n):
        if i%4 == 0: a = rng.integers(0, 256, (c, h, w))
        elif i%4 == 1:
            lo = rng.integers(0, 255); a = rng.integers(lo, rng.integers(lo+1, 257), (c, h, w))
        elif i%4 == 2:
            waves = [np.sin(rng.normal()*x/4 + rng.normal()*y/4 + k) for k in range(c)]
            a = np.stack([127 + 127*o*(x > rng.integers(0, w)) for o in waves])
        else: a = rng.choice(rng.integers(0, 256, rng.integers(1, 4)), (c, h, w))
        out.append(a)
    return torch.from_numpy(np.stack(out).astype(np.uint8))

def args(name, n, seed=1):
    "AugMix's range and far beyond it"
    u = np.random.default_rng(seed).random(n)
    lo,hi = dict(posterize=(1, 9), rotate=(-45, 45), solarize=(0, 257), shear_x=(-.5, .5), shear_y=(-.5, .5),
                 translate_x=(-20, 20), translate_y=(-20, 20)).get(name, (0, 2.5))
    a = lo + (hi-lo)*u
    if name in ('posterize', 'solarize', 'translate_x', 'translate_y'): a = np.floor(a)
    if name == 'rotate': a[::2] = np.round(a[::2])
    if name in ('color', 'contrast', 'brightness', 'sharpness'): a[:3] = np.array([0, 1, 2])[:n]
    return torch.from_numpy(a)

def call(name, x, a): return getattr(ops, name)(x) if name in ('autocontrast', 'equalize') else getattr(ops, name)(x, a)

@pytest.mark.parametrize('shape', SHAPES, ids=str)
@pytest.mark.parametrize('name', AUGMIX_OPS)
def test_equals_pillow(name, shape):
    x = images(*shape); a = args(name, len(x))
    want = torch.stack([unpil(pil_op(pil(o), name, float(p))) for o,p in zip(x, a)])
    got = call(name, x, a)
    assert got.dtype == torch.uint8 and got.shape == x.shape
    assert (got != want).sum() == 0
    assert name == 'color' and shape[0] == 1 or (got != x).any() # and something happened

def test_every_pair_of_values_for_autocontrast():
    "All 255 spans: a rounded reciprocal is one level off in 54 of them"
    lo,hi = torch.triu_indices(256, 256, 1)
    keep = (lo%5 == 0) | (hi == 255)
    lo,hi = lo[keep],hi[keep]
    v = lo[:, None] + torch.arange(256)[None]
    x = torch.minimum(v, hi[:, None]).view(-1, 1, 16, 16).byte()
    got = ops.autocontrast(x)
    scale = 255./(hi-lo).numpy()
    want = (x.view(len(x), -1).numpy()*scale[:, None] + (-lo.numpy()*scale)[:, None]).astype(int).clip(0, 255)
    assert (got.view(len(x), -1).numpy() != want).sum() == 0

@pytest.mark.parametrize('hw', [(32, 32), (20, 31)], ids=str)
def test_every_degree(hw):
    x = images(1, *hw, n=1).expand(361, 1, *hw).contiguous(); d = torch.arange(-180, 181)
    want = torch.stack([unpil(pil_op(pil(o), 'rotate', float(p))) for o,p in zip(x, d)])
    assert (ops.rotate(x, d) != want).sum() == 0

@pytest.mark.parametrize('name', ['translate_x', 'translate_y'])
def test_translation_by_parts_of_a_pixel(name):
    x,t = images(3, 20, 31, n=41),torch.arange(-20, 21)/4.
    want = torch.stack([unpil(pil_op(pil(o), name, float(p))) for o,p in zip(x, t)])
    assert (call(name, x, t) != want).sum() == 0

@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]), st.integers(0, 12), st.integers(0, 10**6))
def test_tiny_images(h, w, c, k, seed):
    x = torch.randint(0, 256, (2, c, h, w), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    name = AUGMIX_OPS[k]; a = args(name, 2, seed)
    assert torch.equal(call(name, x, a), torch.stack([unpil(pil_op(pil(o), name, float(p))) for o,p in zip(x, a)]))

@pytest.mark.parametrize('c', [1, 3])
def test_mixed_batch_is_the_rows_one_by_one(c):
    "Grouping by operation changes nothing, whatever the order; -1 leaves a row alone; the input is untouched"
    x = images(c, 20, 24, n=120); x0 = x.clone()
    op = torch.randint(-1, 13, (120,), generator=torch.Generator().manual_seed(3))
    a = torch.stack([args(AUGMIX_OPS[o], 120)[i] for i,o in enumerate(op)])
    got = apply_ops(x, op, a)
    for i,o in enumerate(op.tolist()):
        want = x[i] if o < 0 else unpil(pil_op(pil(x[i]), AUGMIX_OPS[o], float(a[i])))
        assert torch.equal(got[i], want), AUGMIX_OPS[o]
    assert torch.equal(x, x0) and set(op.tolist()) == set(range(-1, 13))

def test_by_hand():
    x = torch.tensor([[10, 20], [30, 60]], dtype=torch.uint8)[None, None]
    def flat(o): return o.flatten().tolist()
    assert flat(ops.autocontrast(x)) == [0, 51, 102, 255]
    assert flat(ops.posterize(x, 4)) == [0, 16, 16, 48]
    assert flat(ops.solarize(x, 25)) == [10, 20, 225, 195]
    assert flat(ops.translate_x(x, 1)) == [20, 0, 60, 0]
    assert flat(ops.translate_y(x, -1)) == [0, 0, 10, 20]
    assert flat(ops.brightness(x, .25)) == [2, 5, 7, 15]        # truncated, not rounded
    assert flat(ops.contrast(x, 0.)) == [30]*4                 # int(mean 30 + 1/2)
    assert flat(ops.contrast(x, .5)) == [20, 25, 30, 45]
    assert flat(ops.equalize(x)) == [10, 20, 30, 60]           # under 255 pixels: a step of 0, the image itself

def test_scalar_equals_per_image():
    x = images(3, 32, 32, n=8)
    assert torch.equal(ops.rotate(x, 7), ops.rotate(x, torch.full((8,), 7.)))
    assert torch.equal(ops.color(x, .3), torch.cat([ops.color(o[None], .3) for o in x]))

def test_empty_batch():
    assert ops.rotate(torch.zeros(0, 3, 8, 8, dtype=torch.uint8), torch.zeros(0)).shape == (0, 3, 8, 8)

@pytest.mark.parametrize('bad,err,match', [
    (torch.rand(2, 3, 8, 8), TypeError, r'uint8.*float32 in \[.*round\(\)'),
    (TensorImage(torch.rand(2, 3, 8, 8)), TypeError, r'uint8.*float32 in \[.*round\(\)'),
    (torch.zeros(2, 8, 8, 3, dtype=torch.uint8), ValueError, r'c=1 or 3, got \(2, 8, 8, 3\).*channels last'),
    (torch.zeros(3, 8, 8, dtype=torch.uint8), ValueError, r'x\[None\]'),
    (np.zeros((2, 3, 8, 8), np.uint8), TypeError, 'uint8 tensor')])
def test_refuses(bad, err, match):
    with pytest.raises(err, match=match): ops.equalize(bad)

def test_refuses_arguments():
    x = images(1, 8, 8, n=4)
    with pytest.raises(ValueError, match='one per image'): ops.rotate(x, torch.zeros(3))
    with pytest.raises(ValueError, match='1-8'): ops.posterize(x, 9)

@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here')
@pytest.mark.parametrize('c', [1, 3])
def test_same_on_the_gpu(c):
    x = images(c, 32, 40, n=260)
    op = torch.arange(13).repeat(20)
    a = torch.stack([args(AUGMIX_OPS[o], 260)[i] for i,o in enumerate(op)])
    got = apply_ops(x.cuda(), op, a)
    assert got.is_cuda and torch.equal(got.cpu(), apply_ops(x, op, a))
