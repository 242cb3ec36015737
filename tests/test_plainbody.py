"Features without weights: gradients and colours as slow loops count them, and worth more than raw pixels"
import copy, math, pickle
import numpy as np
import pytest, torch
from fastai.vision.core import TensorImage
from fastrobust.inference.analytic import AnalyticHead
from fastrobust.inference.plainbody import PlainBody, colours, oriented
from fastrobust.samples import sample_data

def images(n=3, c=3, h=24, w=24, seed=1):
    "Smooth random images in [0,1]"
    g = torch.Generator().manual_seed(seed)
    return resized_to(torch.rand(n, c, 6, 6, generator=g), h, w)

def resized_to(x, h, w): return torch.nn.functional.interpolate(x, size=(h, w), mode='bicubic').clamp(0, 1)

def maps(x, bins=9, cells=4): return oriented(x, cells, bins)

# --- loops in float64 ------------------------------------------------------------------------------------------------
def slow_line(a, b):
    "Weights (b,a) of a triangle as wide as a new pixel, or as an old one where those are wider"
    W,wide = np.zeros((b, a)),max(a/b, 1)
    for i in range(b):
        for j in range(a): W[i, j] = max(0, 1-abs(j+.5 - (i+.5)*a/b)/wide)
        W[i] /= W[i].sum()
    return W

def slow_resize(img, s):
    "(c,h,w) -> (c,s,s)"
    R,C = (slow_line(n, s) for n in img.shape[1:])
    return np.stack([R@o@C.T for o in img])

def tent(i, cell, width): return max(0, 1-abs(i+.5 - (cell+.5)*width)/width)

def slow_cells(img, cells, vote, k):
    "Weighted mean in each cell of votes {bin: weight} of the pixels (y,x)"
    s = img.shape[1]
    total,weight = np.zeros((k, cells, cells)),np.zeros((cells, cells))
    for y in range(s):
        for x in range(s):
            votes = vote(y, x)
            for i in range(cells):
                for j in range(cells):
                    t = tent(y, i, s/cells)*tent(x, j, s/cells)
                    if not t: continue
                    weight[i, j] += t
                    for b,v in votes.items(): total[b, i, j] += t*v
    return total/weight

def shared(u, v, n, circle):
    "Votes of weight `v` at position `u` among `n` bins"
    low,part = math.floor(u),u-math.floor(u)
    votes = {}
    for b,w in ((low, 1-part), (low+1, part)):
        b = b % n if circle else min(b, n-1)
        votes[b] = votes.get(b, 0) + v*w
    return votes

def slow_oriented(img, cells, bins):
    s = img.shape[1]
    def vote(y, x):
        best = 0,0
        for o in img:
            gx = o[y, min(x+1, s-1)] - o[y, max(x-1, 0)]
            gy = o[min(y+1, s-1), x] - o[max(y-1, 0), x]
            if math.hypot(gx, gy) > math.hypot(*best): best = gx,gy
        return shared(math.atan2(best[1], best[0])/(2*math.pi)*2*bins, math.hypot(*best), 2*bins, True)
    S = slow_cells(img, cells, vote, 2*bins)
    U = S[:bins]+S[bins:]
    inside = lambda i: min(max(i, 0), cells-1)
    out = np.zeros((3*bins+4, cells, cells))
    for i in range(cells):
        for j in range(cells):
            both = np.concatenate([S[:, i, j], U[:, i, j]])
            for k,(a,b) in enumerate(((-1, -1), (-1, 0), (0, -1), (0, 0))):    # upper left of each square of four
                e = sum((U[:, inside(i+a+p), inside(j+b+q)]**2).sum() for p in (0, 1) for q in (0, 1))
                v = np.minimum(both/math.sqrt(e + 1e-4), .2)
                out[:3*bins, i, j] += v/4
                out[3*bins+k, i, j] = v[2*bins:].mean()
    return out

def slow_colours(img, cells):
    def vote(y, x):
        px = img[:, y, x]
        value = shared(px.max()*3, 1., 4, False)
        if len(px) == 1: return value
        chroma = px.max()-px.min()
        saturation = shared(chroma/px.max()*2, 1., 3, False)
        votes = {3*a+b: v*w for a,v in value.items() for b,w in saturation.items()}
        r,g,b = px
        hue = math.atan2(math.sqrt(3)*(g-b), 2*r-g-b)/(2*math.pi)*8
        return votes | {12+k: v for k,v in shared(hue, chroma, 8, True).items()}
    return np.sqrt(slow_cells(img, cells, vote, 4 if len(img) == 1 else 20))

def slow_body(img, sizes=(32, 64), cells=4, bins=9):
    img = img.double().numpy()
    parts = [slow_oriented(slow_resize(np.sqrt(img), s), cells, bins) for s in sizes]
    return np.concatenate([o.ravel() for o in (*parts, slow_colours(slow_resize(img, 32), cells))])

@pytest.mark.parametrize('c,h,w,kw', [(1, 28, 28, {}), (3, 20, 45, {}),
                                      (3, 40, 17, dict(sizes=(17, 24), cells=3, bins=6))])
def test_as_slow_loops_count(c, h, w, kw):
    x = images(2, c, h, w)
    body = PlainBody(c, **kw)
    f = body(x)
    assert f.shape == (2, body.d) and f.dtype == torch.float32
    np.testing.assert_allclose(f[1].numpy(), slow_body(x[1], **kw), atol=2e-5)

# --- gradients -------------------------------------------------------------------------------------------------------
def test_a_ramp_is_one_direction():
    ramp = torch.linspace(0, 1, 32).expand(1, 1, 32, 32)
    turned = dict(right=(ramp, 0), left=(ramp.flip(3), 9), down=(ramp.mT, 4.5), up=(ramp.mT.flip(2), 13.5))
    for x,k in turned.values():
        f = maps(x)[0, :18].sum((1, 2))
        want = torch.zeros(18)
        for b,w in {int(k): 1-k%1, math.ceil(k): k%1 or 1}.items(): want[b] = w
        torch.testing.assert_close(f/f.sum(), want, atol=1e-5, rtol=0)
    # which side is light is no matter for an edge
    torch.testing.assert_close(maps(ramp)[:, 18:27], maps(ramp.flip(3))[:, 18:27].flip(3))
    assert not maps(torch.full((1, 3, 32, 32), .7)).any()

def test_turned_images_have_turned_bins():
    x = images(2, 3, 32, 32)
    f,g = maps(x, 8),maps(x.rot90(-1, (2, 3)), 8)      # by a quarter, clockwise, as angles run where y goes down
    want = f.rot90(-1, (2, 3))
    torch.testing.assert_close(g[:, :16], want[:, :16].roll(4, 1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(g[:, 16:24], want[:, 16:24].roll(4, 1), atol=1e-5, rtol=1e-4)
    m = maps(x.flip(2), 8)
    back = [-k % 16 for k in range(16)]
    torch.testing.assert_close(m[:, :16], f.flip(2)[:, back], atol=1e-5, rtol=1e-4)

def test_the_channel_that_changes_most_counts():
    g = torch.linspace(0, 1, 32).expand(32, 32)
    x = torch.stack([.3*g, g.mT, torch.zeros(32, 32)])[None]
    torch.testing.assert_close(maps(x), maps(g.mT[None, None]))

def test_contrast_hardly_matters_but_nothing_is_made_of_noise():
    x = images(4, 1, 32, 32)
    f,dim = maps(x),maps(.3*x)
    assert (f-dim).abs().max() < .02 < f.max()
    noise = .5 + 1e-4*torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert maps(noise).max() < .01
    assert f[:, :27].max() <= .2+1e-6

def test_grey_as_three_channels_is_grey():
    x = images(3, 1, 30, 26)
    a,b = PlainBody(1, colour=False),PlainBody(3, colour=False)
    assert a.d == b.d
    torch.testing.assert_close(a(x), b(x.repeat(1, 3, 1, 1)), atol=1e-6, rtol=0)

# --- colours ---------------------------------------------------------------------------------------------------------
def one_colour(*rgb): return torch.tensor(rgb).view(1, -1, 1, 1).expand(1, len(rgb), 32, 32)

def test_histograms_of_colours_sum_to_what_they_count():
    x = images(4, 3, 32, 32)
    h = colours(x, 4).pow(2)
    assert h.shape == (4, 20, 4, 4)
    torch.testing.assert_close(h[:, :12].sum(1), torch.ones(4, 4, 4))
    chroma = x.amax(1)-x.amin(1)
    grey = colours(x[:, :1], 4).pow(2)
    torch.testing.assert_close(grey.sum(1), torch.ones(4, 4, 4))
    flat = h[:, 12:].sum(1).mean((1, 2))
    torch.testing.assert_close(flat, chroma.mean((1, 2)), atol=.05, rtol=0)     # pixels near cells' borders count alike

@pytest.mark.parametrize('rgb,bins', [((1., 0., 0.), {11: 1, 12: 1}), ((0., 0., 1.), {11: 1, 17: 2/3, 18: 1/3}),
                                      ((0., .5, .5), {5: .5, 8: .5, 16: .5}), ((1/3, 1/3, 1/3), {3: 1}),
                                      ((0., 0., 0.), {0: 1}), ((.05, 0., 0.), {2: .85, 5: .15, 12: .05}),
                                      ((1., 1., 1.), {9: 1})])
def test_one_colour(rgb, bins):
    h = colours(one_colour(*rgb), 2).pow(2)
    want = torch.zeros(20)
    for k,v in bins.items(): want[k] = v
    for cell in h[0].flatten(1).T: torch.testing.assert_close(cell, want, atol=2e-6, rtol=0)

def test_brightness_of_grey_images():
    h = colours(one_colour(.5), 2).pow(2)
    torch.testing.assert_close(h[0, :, 0, 0], torch.tensor([0., .5, .5, 0.]))

# --- the module ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('h,w', [(4, 8), (16, 16), (17, 33), (28, 28), (64, 64), (100, 37), (224, 224)])
@pytest.mark.parametrize('c', [1, 3])
def test_any_size(c, h, w):
    body = PlainBody(c)
    f = body(images(2, c, h, w))
    assert f.shape == (2, body.d) == (2, 1056 if c == 1 else 1312)
    assert f.isfinite().all() and (f[0] != f[1]).any()

def test_the_same_image_at_another_size_is_much_the_same():
    body = PlainBody(3)
    x = images(4, 3, 64, 64)
    small,large,other = body(x),body(resized_to(x, 160, 160)),body(images(4, 3, 64, 64, seed=2))
    assert (small-large).norm() < .15*(small-other).norm()

def test_the_batch_is_no_matter_nor_the_random_stream():
    body,x = PlainBody(3),images(7)
    before = torch.get_rng_state()
    f = body(x)
    assert torch.equal(torch.get_rng_state(), before) and torch.equal(PlainBody(3)(x), f)
    one_by_one = torch.cat([body(o) for o in x.split(1)])
    torch.testing.assert_close(one_by_one, f, atol=1e-6, rtol=1e-5)
    assert body(x[:0]).shape == (0, body.d)

def test_any_floats_any_layout():
    body,x = PlainBody(3),images(3)
    f = body(x)
    torch.testing.assert_close(body(x.to(memory_format=torch.channels_last)), f)
    torch.testing.assert_close(body(x.double()), f)
    torch.testing.assert_close(body(x.bfloat16()), body(x.bfloat16().float()))
    with torch.autocast('cpu', torch.bfloat16): assert torch.equal(body(x), f)
    assert type(body(TensorImage(x))) is torch.Tensor
    torch.set_default_dtype(torch.float64)
    try:
        f = body(images(3, h=23))       # a size that nothing was kept for yet
        assert torch.equal(f, body(images(3, h=23).float())) and f.dtype == torch.float32
    finally: torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(body(x - 5e-4), body((x - 5e-4).clamp(0, 1)))    # rounding

def test_nothing_learns():
    body = PlainBody(3)
    x = images(3).requires_grad_()
    assert not list(body.parameters()) and not body.state_dict() and not body(x).requires_grad
    for twin in (copy.deepcopy(body), pickle.loads(pickle.dumps(body)), body.train(), body.half()):
        assert torch.equal(twin(x), PlainBody(3)(x))
    assert repr(body).startswith('PlainBody(n_in=3, sizes=(32, 64)') and 'd=1312' in repr(body)
    with torch.inference_mode(): f = PlainBody(3, sizes=(21,))(x)
    assert torch.equal(PlainBody(3, sizes=(21,))(x), f)     # what was kept then serves now

@pytest.mark.parametrize('kw', [dict(colour=False), dict(sizes=()), dict(sizes=(16,), cells=2, bins=4), dict(cells=5)])
def test_d_is_the_length(kw):
    for c in (1, 3): assert PlainBody(c, **kw)(images(2, c)).shape[1] == PlainBody(c, **kw).d

def test_refusals():
    body = PlainBody(3)
    for bad,err,match in [(images().mul(255).byte(), TypeError, r'torch.uint8 \(3, 3, 24, 24\).*255'),
                          (images()[0], TypeError, r'\(3, 24, 24\)'), (np.zeros((1, 3, 24, 24)), TypeError, 'ndarray'),
                          (images(c=1), ValueError, 'of 3 channels, got 1'),
                          (images(c=4), ValueError, 'of 3 channels, got 4. Convert them, or'),
                          (images(h=3), ValueError, 'got 3x24. Resize'),
                          (images()*2-1, ValueError, 'before Normalize'), (images()*torch.nan, ValueError, 'nan')]:
        with pytest.raises(err, match=match): body(bad)
    for kw,match in [(dict(n_in=2), 'n_in=2. Convert'), (dict(n_in=0), 'n_in'), (dict(n_in=True), 'n_in'),
                     (dict(cells=1), 'cells'), (dict(bins=1), 'bins'), (dict(sizes=(3,)), 'sizes'),
                     (dict(sizes=(), colour=False), 'neither')]:
        with pytest.raises(ValueError, match=match): PlainBody(**kw)
    with pytest.raises(TypeError, match='sizes'): PlainBody(sizes=64)

# --- what it is for --------------------------------------------------------------------------------------------------
def left_out(f, y):
    "Leave-one-out scores, columns by class number"
    head = AnalyticHead(f.shape[1], intercept=True).fit(f, y)
    return head.loo(f, y)[:, np.argsort(head.classes)]

def judged(f, given, wrong):
    "Accuracy on the labels that are right, and the share of wrong-right pairs in which the wrong one is doubted more"
    z,y = left_out(f, given),torch.as_tensor(given)
    own = z.gather(1, y[:, None])[:, 0]
    doubt = z.scatter(1, y[:, None], -torch.inf).amax(1) - own
    pairs = doubt[wrong][:, None] > doubt[~wrong]
    return (z.argmax(1) == y)[~wrong].double().mean().item(),pairs.double().mean().item()

def planted(x, y, n, seed):
    rng = np.random.default_rng(seed)
    i = rng.permutation(len(y))[:n]
    y,wrong = y[i].copy(),torch.zeros(n, dtype=torch.bool)
    wrong[:n//10] = True
    y[:n//10] = (y[:n//10] + rng.integers(1, 10, n//10)) % 10
    return torch.as_tensor(x[i]).float()[:, None],y,wrong

def test_better_than_raw_pixels_on_digits():
    digits = pytest.importorskip('sklearn.datasets').load_digits()
    x,given,wrong = planted(digits.images/16, digits.target, 400, 0)
    x = torch.nn.functional.interpolate(x, size=32, mode='bilinear')
    raw,plain = judged(x.flatten(1), given, wrong),judged(PlainBody(1)(x), given, wrong)
    assert plain[0] > .93 and plain[0] > raw[0]+.03
    assert plain[1] > .99 and 1-plain[1] < .5*(1-raw[1])

def test_finds_wrong_labels_of_clothes():
    X,y,*_ = sample_data('fashion')
    x,given,wrong = planted(X/255, y, 600, 0)
    raw,plain = judged(x.flatten(1), given, wrong),judged(PlainBody(1)(x), given, wrong)
    assert plain[0] > .79 and plain[0] > raw[0]+.01
    assert plain[1] > .975 and plain[1] > raw[1]+.01
