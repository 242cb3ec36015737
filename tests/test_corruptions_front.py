"Names, severities, random streams, `corrupt` itself for all 19, and the training transform"
import math
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from scipy import stats
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.transforms import IntToFloatTensor, Normalize
from fastai.torch_core import set_seed
from fastai.vision.core import TensorImage
from fastai.vision.data import ImageBlock
from fastrobust.images.corruptions import front
from fastrobust.images.corruptions.draws import Draws, stream_keys
from fastrobust.images.corruptions.front import corrupt
from fastrobust.images.corruptions.tables import CORRUPTIONS, EXTRA_CORRUPTIONS, GROUPS, PARAMS, table_for
from fastrobust.samples import sample_data
from fastrobust.techniques.corruption import CorruptionTransform

ALL = CORRUPTIONS + EXTRA_CORRUPTIONS
M32,M64 = (1 << 32) - 1,(1 << 64) - 1

def images(b=5, c=3, h=32, w=32, seed=0):
    "Waves with an edge, and a little noise"
    g = np.random.default_rng(seed)
    y,x = np.mgrid[:h, :w]
    waves = [[127 + 110*np.sin(g.normal()*x/5 + g.normal()*y/5)*(x > w//3) for _ in range(c)] for _ in range(b)]
    return torch.from_numpy((np.array(waves) + g.integers(0, 15, (b, c, h, w))).clip(0, 255).astype(np.uint8))

# --- tables ----------------------------------------------------------------------------------------------------------
def test_names_and_tables():
    assert len(CORRUPTIONS) == 15 and len(EXTRA_CORRUPTIONS) == 4 and len(set(ALL)) == 19
    assert CORRUPTIONS[0] == 'gaussian_noise' and CORRUPTIONS[7] == 'snow' and CORRUPTIONS[-1] == 'jpeg_compression'
    assert sorted(o for v in GROUPS.values() for o in v) == sorted(ALL)
    for t in PARAMS.values():
        assert set(t) == set(ALL)
        for v in t.values(): assert len(v) == 5 and all(isinstance(o, tuple) for o in v) and len(set(map(len, v))) == 1
    assert sorted([*front._KERNELS, *front.ON_BYTES]) == sorted(ALL)

@pytest.mark.parametrize('name,cifar,tiny,imagenet', [
    ('gaussian_noise', .08, .12, .18), ('shot_noise', 100, 50, 12), ('impulse_noise', .03, .05, .09),
    ('speckle_noise', .12, .25, .35), ('brightness', .15, .3, .3), ('contrast', .4, .2, .2), ('saturate', 1.5, 2, 2),
    ('jpeg_compression', 58, 50, 15), ('pixelate', .85, .7, .4), ('elastic_transform', .08, .1, .05),
    ('fog', .75, 1, 2.5), ('frost', .9, .8, .7), ('snow', .15, .15, .55), ('spatter', .65, .65, .65),
    ('gaussian_blur', .7, 1, 3), ('glass_blur', .4, .6, 1), ('defocus_blur', .5, 1.5, 6), ('motion_blur', 6, 10, 15),
    ('zoom_blur', 1.15, 1.15, 1.2)])
def test_severity_3_as_published(name, cifar, tiny, imagenet):
    assert {k: v[name][2][0] for k,v in PARAMS.items()} == dict(cifar=cifar, tiny=tiny, imagenet=imagenet)

# --- random streams --------------------------------------------------------------------------------------------------
def splitmix(z):
    z = (z + 0x9E3779B97F4A7C15) & M64
    z = (z ^ z >> 30)*0xBF58476D1CE4E5B9 & M64
    z = (z ^ z >> 27)*0x94D049BB133111EB & M64
    return z ^ z >> 31

def bits(key, i):
    "The same with Python's own unbounded integers, one number"
    i = i*0x9E3779B9 & M32
    i ^= i >> 16
    x = (i*0x21F0AAAD & M32) ^ (key & M32)
    x ^= x >> 16
    x = (x*0x7FEB352D + (key >> 32 & M32)) & M32
    x ^= x >> 15
    x = x*0x846CA68B & M32
    return x ^ x >> 16

def test_streams_against_unbounded_integers():
    import zlib
    keys = stream_keys(7, [0, 1, 49999], 'fog', 4)
    for k,i in zip(keys.tolist(), [0, 1, 49999]):
        z = 7
        for o in (zlib.crc32(b'fog'), 4, i): z = splitmix(z ^ o)
        assert k & M64 == z
    r = Draws(keys)
    u,n,i = r.rand(2, 3),r.randn(5),r.randint(-3, 4, 7)
    for row,k in enumerate(keys.tolist()):
        at = lambda j, k=k: bits(k & M64, j)
        f = lambda j, at=at: (at(j) >> 8)/2**24
        np.testing.assert_array_equal(u[row].flatten().numpy(), np.float32([f(j) for j in range(6)]))
        want = [math.sqrt(-2*math.log(1-f(6+j)))*t(2*math.pi*f(9+j)) for t in (math.cos, math.sin) for j in range(3)]
        np.testing.assert_allclose(n[row].numpy(), want[:5], atol=2e-6)
        assert i[row].tolist() == [(at(12+j)*7 >> 32) - 3 for j in range(7)]

def test_numbers_follow_their_distributions():
    r = Draws(stream_keys(0, torch.arange(40), 'snow', 1))
    u,n,i = r.rand(50, 50).double(),r.randn(49, 51).double(),r.randint(2, 13, 2500)
    assert u.shape == (40, 50, 50) and n.shape == (40, 49, 51) and i.shape == (40, 2500) and i.dtype == torch.int64
    assert 0 <= u.min() and u.max() < 1
    assert stats.kstest(u.flatten().numpy(), 'uniform').pvalue > 1e-3
    assert stats.kstest(n.flatten().numpy(), 'norm').pvalue > 1e-3
    assert stats.chisquare(torch.bincount(i.flatten(), minlength=13)[2:].numpy()).pvalue > 1e-3
    for a in (u-.5, n):    # neither images, nor neighbouring numbers, have anything to do with each other
        a = a.flatten(1)
        off = torch.corrcoef(a)[~torch.eye(40, dtype=bool)]
        assert off.abs().max() < 6/50 and (a[:, 1:]*a[:, :-1]).mean().abs() < 5*a.var()/len(a.flatten())**.5
    kl = stats.kurtosis(n.flatten().numpy())
    assert abs(kl) < 5*(24/n.numel())**.5

def test_keys_are_distinct_and_each_part_counts():
    ids = torch.arange(3000)
    keys = torch.cat([stream_keys(s, ids, n, v) for s in (0, 1) for n in ('fog', 'snow') for v in (1, 5)])
    assert len(keys.unique()) == len(keys) == 24000
    assert len((keys & M32).unique()) > 23990         # the low half is well mixed too
    flips = [(bin((a ^ b) & M64).count('1')) for a,b in zip(keys[:2999].tolist(), keys[1:3000].tolist())]
    assert abs(np.mean(flips) - 32) < .5              # an id one higher turns half of the bits
    assert stream_keys(-5, [1], 'fog', 1) != stream_keys(5, [1], 'fog', 1)
    assert stream_keys(2**80+3, [1], 'fog', 1) == stream_keys(3, [1], 'fog', 1)

@settings(derandomize=True, deadline=None, max_examples=20)
@given(st.integers(1, 9), st.integers(0, 700), st.integers(0, 8))
def test_a_stream_does_not_see_its_batch(b, m, i):
    keys = stream_keys(3, torch.arange(b), 'frost', 2)
    i %= b
    a,one = Draws(keys),Draws(keys[i:i+1])
    for f in (lambda r: r.rand(m), lambda r: r.randn(m), lambda r: r.randint(0, 5, m), lambda r: r.rand(1, m)):
        x = f(a)
        assert torch.equal(x[i:i+1], f(one))
    again = Draws(keys).rand(m)
    assert m == 0 or torch.equal(again, Draws(keys).rand(m)) and not torch.equal(again, a.rand(m))

def test_long_streams_are_cut_into_pieces_without_a_seam():
    key = stream_keys(0, [5], 'fog', 1)
    r,q = Draws(key),Draws(key)
    whole = r.rand(2**18 + 1000)
    assert torch.equal(whole[0, :1000], q.rand(1000)[0])
    q.n = 2**18 - 10
    assert torch.equal(whole[0, 2**18-10:2**18+90], q.rand(100)[0])

# --- corrupt ---------------------------------------------------------------------------------------------------------
every = pytest.mark.parametrize('name', ALL)

@every
@pytest.mark.parametrize('c,h,w,table,severity', [(3, 32, 32, 'auto', 3), (1, 28, 28, 'cifar', 5),
                                                  (3, 37, 50, 'imagenet', 2), (1, 48, 33, 'imagenet', 5)])
def test_an_image_is_corrupted_alike_in_every_batch(name, c, h, w, table, severity):
    x = images(5, c, h, w)
    keep = x.clone()
    state,npstate = torch.random.get_rng_state(),np.random.get_state()[1].copy()
    y = corrupt(x, name, severity, table, seed=11)
    assert torch.equal(state, torch.random.get_rng_state()) and (npstate == np.random.get_state()[1]).all()
    assert y.dtype == torch.uint8 and y.shape == x.shape and torch.equal(x, keep)
    grey_stays = name == 'saturate' and c == 1
    assert torch.equal(x, y) == grey_stays
    for i in (0, 3): assert torch.equal(corrupt(x[i:i+1], name, severity, table, 11, ids=[i])[0], y[i])
    some = torch.tensor([4, 1])
    assert torch.equal(corrupt(x[some], name, severity, table, 11, ids=some), y[some])
    f = corrupt(x.float()/255, name, severity, table, 11)
    assert f.dtype == torch.float32 and torch.equal(f, y.float()/255)

RANDOM = {*GROUPS['noise'], 'speckle_noise', 'glass_blur', 'motion_blur', 'snow', 'frost', 'fog', 'spatter',
          'elastic_transform'}
@every
def test_seeds_ids_and_severities(name):
    x = images(1).repeat(2, 1, 1, 1)
    a = corrupt(x, name, 2)
    assert torch.equal(a, corrupt(x, name, 2, seed=0)) and torch.equal(a, corrupt(x, name, 2, 'cifar', 0, ids=[0, 1]))
    if name in RANDOM: assert not torch.equal(a, corrupt(x, name, 2, seed=1)) and not torch.equal(a[0], a[1])
    else: assert torch.equal(a, corrupt(x, name, 2, seed=1)) and torch.equal(a[0], a[1])
    b = corrupt(x, name, 4)      # 1 and 2 of saturate are in both tables
    assert not torch.equal(a, b) and not torch.equal(b, corrupt(x, name, 4, 'imagenet'))

def test_table_by_size():
    for sz,table in ((1, 'cifar'), (45, 'cifar'), (46, 'tiny'), (64, 'tiny'), (119, 'tiny'), (120, 'imagenet'),
                     (500, 'imagenet')):
        x = images(1, 3, sz, sz+20)
        for o in (x, x.mT): assert torch.equal(corrupt(o, 'contrast', 3), corrupt(o, 'contrast', 3, table)), sz
        near = min((32, 64, 224), key=lambda n: max(n/sz, sz/n))
        assert (sz, table_for(sz, sz+20)) == (sz, {32: 'cifar', 64: 'tiny', 224: 'imagenet'}[near]) == (sz, table)

def test_other_dtypes_layouts_and_no_images():
    x = images(3)
    y = corrupt(x, 'fog', 2)
    h = corrupt(x.half()/255, 'fog', 2)
    assert h.dtype == torch.float16 and torch.equal((h*255).round().byte(), y)
    last = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    for n in ('gaussian_noise', 'saturate', 'jpeg_compression', 'pixelate', 'elastic_transform', 'glass_blur'):
        assert torch.equal(corrupt(last, n, 2), corrupt(x, n, 2)), n
    assert corrupt(x[:0], 'snow').shape == (0, 3, 32, 32) and corrupt(x[:0].float(), 'snow').dtype == torch.float32
    t = corrupt(TensorImage(x.float()/255), 'fog', 2)
    assert torch.equal(t.as_subclass(torch.Tensor), y.float()/255)

def test_levels_are_cut_down_not_rounded():
    x = torch.tensor([[0, 255], [255, 0]], dtype=torch.uint8).expand(1, 3, 2, 2)
    y = corrupt(x, 'contrast', 1, 'cifar')           # .5 -+ .375: 31.875 and 223.125
    assert y.unique().tolist() == [31, 223]
    k = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(corrupt(k, 'brightness', 4, 'cifar').flatten(), (k.flatten().int()+51).clamp(max=255).byte())
    up = corrupt(k.repeat(1, 3, 1, 1), 'brightness', 4, 'cifar')        # in colour a quotient is rounded on the way
    assert torch.equal(up[0, 0].flatten(), (k.flatten().int()+51).clamp(max=255).byte())
    for v in range(256):                             # a flat image has no contrast to lose
        flat = torch.full((1, 3, 5, 5), v, dtype=torch.uint8)
        assert torch.equal(corrupt(flat, 'contrast', 3), flat)

def test_large_batches_go_through_in_pieces(monkeypatch):
    seen = []
    def spy(x, _p, _r): seen.append(x.numel()); return x
    monkeypatch.setitem(front._KERNELS, 'fog', spy)
    x = torch.arange(256, dtype=torch.uint8).repeat(300*3*4).view(300, 3, 32, 32)
    assert torch.equal(corrupt(x, 'fog', 1), x) and len(seen) > 1 and max(seen) <= 2**19 and sum(seen) == x.numel()
    y = corrupt(x, 'gaussian_noise', 1)
    for i in (0, 170, 171, 299): assert torch.equal(corrupt(x[i:i+1], 'gaussian_noise', 1, ids=[i])[0], y[i])
    seen.clear()
    big = torch.zeros(2, 3, 500, 500, dtype=torch.uint8)
    assert torch.equal(corrupt(big, 'fog', 1), big) and seen == [750000]*2

BAD = [(dict(name='gausian_noise'), ValueError, "Did you mean 'gaussian_noise'"),
       (dict(severity=0), ValueError, '1 to 5, got .*leave `corrupt` out'), (dict(severity=6), ValueError, 'got 6'),
       (dict(severity=2.5), ValueError, '2.5'), (dict(severity=True), ValueError, 'True'),
       (dict(table='imagnet'), ValueError, "Did you mean 'imagenet'"), (dict(seed=1.5), TypeError, 'whole number'),
       (dict(ids=[1]), ValueError, 'one whole number for each of 2'), (dict(ids=[.5, 1.]), ValueError, 'float32'),
       (dict(x=torch.randn(2, 3, 32, 32)), ValueError, 'before Normalize'),
       (dict(x=torch.rand(2, 3, 32, 32)*255), ValueError, 'not divided by 255'),
       (dict(x=torch.zeros(2, 3, 32, 32).long()), TypeError, 'uint8'),
       (dict(x=torch.zeros(3, 32, 32)), ValueError, 'x\\[None\\]'),
       (dict(x=torch.zeros(2, 4, 32, 32)), ValueError, 'c=1 or 3'),
       (dict(x=np.zeros((2, 3, 32, 32))), TypeError, 'must be a tensor')]
@pytest.mark.parametrize('kw,error,match', BAD, ids=[f'{i}' for i in range(len(BAD))])
def test_bad_input(kw, error, match):
    with pytest.raises(error, match=match): corrupt(**{'x': images(2), 'name': 'fog', **kw})

@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
@every
def test_a_gpu_gives_the_same(name):
    x = images(16, 3, 48, 40)
    for s in (1, 5):
        a,b = corrupt(x, name, s),corrupt(x.cuda(), name, s)
        off = (a.int() - b.cpu().int()).abs()
        assert b.is_cuda and (off > 1).float().mean() < 1e-3 and (off > 0).float().mean() < .01

# --- the training transform ------------------------------------------------------------------------------------------
def test_transform_gives_each_image_its_own():
    x = images(1).repeat(400, 1, 1, 1)
    t = CorruptionTransform(['contrast', 'brightness'], [1, 5], table='imagenet')
    set_seed(1)
    y = t(TensorImage(x.float()/255), split_idx=0)
    assert isinstance(y, TensorImage) and y.dtype == torch.float32
    found = torch.zeros(400)
    for n in t.names:
        for s in t.severity:
            same = (y.as_subclass(torch.Tensor) == corrupt(x[:1], n, s, 'imagenet').float()/255).flatten(1).all(1)
            assert 60 < same.sum() < 140          # a quarter of them
            found += same
    assert (found == 1).all()
    set_seed(1)
    assert torch.equal(t(TensorImage(x.float()/255), split_idx=0), y)
    assert not torch.equal(t(TensorImage(x.float()/255), split_idx=0), y)
    assert t.overlaps == {'contrast', 'brightness'} and CorruptionTransform('fog').overlaps == {'fog'}

def test_transform_spares_a_share_and_validation():
    x = TensorImage(images(200).float()/255)
    y = CorruptionTransform('gaussian_noise', range(1, 6), p=.3)(x, split_idx=0)
    hit = (y != x).flatten(1).any(1)
    assert 35 < hit.sum() < 85 and len({o.sum().item() for o in y[hit]}) == hit.sum()
    t = CorruptionTransform('gaussian_noise')
    assert t(x, split_idx=1) is x and not torch.equal(t(x, split_idx=0), t(x, split_idx=0))     # new noise each epoch
    b = CorruptionTransform('fog')(TensorImage(images(3).bfloat16()/255), split_idx=0)
    assert b.dtype == torch.bfloat16
    with pytest.raises(ValueError, match='CorruptionTransform expected images with pixels'):
        CorruptionTransform('fog')(x*2-1.5, split_idx=0)

def test_transform_in_a_datablock():
    X,y = sample_data()[:2]
    mean = ([.3], [.35])
    def dls(*tfms):
        blk = DataBlock((ImageBlock, CategoryBlock), get_x=lambda i: X[i], get_y=lambda i: int(y[i]),
                        batch_tfms=[*tfms, Normalize.from_stats(*mean, cuda=False)])
        return blk.dataloaders(list(range(40)), bs=16, device='cpu')
    a,b = CorruptionTransform('fog'),CorruptionTransform(['snow', 'frost'])
    d = dls(a)
    names = [type(o).__name__ for o in d.train.after_batch.fs]
    order = [names.index(type(o).__name__) for o in (IntToFloatTensor(), a, Normalize.from_stats(*mean, cuda=False))]
    assert order == sorted(order)
    xb,_ = d.train.one_batch()
    px = d.train.after_batch.fs[order[2]].decode(xb)*255
    assert (px - px.round()).abs().max() < 1e-3
    both = [o for o in dls(a, b).train.after_batch.fs if isinstance(o, CorruptionTransform)]
    assert len(both) == 1 and both[0].overlaps == {'snow', 'frost'}        # as the docstring warns

@pytest.mark.parametrize('kw,error,match', [
    (dict(names='fogg'), ValueError, "Did you mean 'fog'"), (dict(names=[]), ValueError, 'at least one'),
    (dict(severity=[]), ValueError, 'at least one'), (dict(severity=[1, 6]), ValueError, 'got 6'),
    (dict(severity=0), ValueError, 'got 0'),
    (dict(table='x'), ValueError, 'table'), (dict(p=0), ValueError, r'\(0,1\]'), (dict(p=1.1), ValueError, '1.1'),
    (dict(p='x'), TypeError, 'number')])
def test_bad_transform(kw, error, match):
    with pytest.raises(error, match=match): CorruptionTransform(**{'names': 'fog', **kw})

def test_mixed_precision_around_it_changes_nothing():
    x = torch.randint(0, 256, (4, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for name in ('gaussian_blur', 'defocus_blur', 'zoom_blur', 'elastic_transform', 'fog'):
        want = corrupt(x, name, 3)
        with torch.autocast('cpu', dtype=torch.bfloat16): assert torch.equal(corrupt(x, name, 3), want), name
