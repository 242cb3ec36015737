"Snow, frost, fog and spatter against slow references, SciPy, OpenCV where it is there, and an oracle on photographs"
import numpy as np
import pytest
import torch
from scipy import ndimage
from test_corruptions_blur import changes, draws, oracle, oracle_images, pixels, slow_motion, slow_zoom

from fastrobust.images.corruptions import plasma, water, weather
from fastrobust.images.corruptions.tables import PARAMS
from fastrobust.images.corruptions.weather import WEATHER

TABLES = ('cifar', 'tiny', 'imagenet')

# --- fog -------------------------------------------------------------------------------------------------------------
def slow_plasma(n, decay, r):
    "Midpoint displacement point by point; the neighbours beyond a border are those of the other side"
    m,step,amp = np.zeros((n, n)),n,1e4
    r.rand(1, 1)
    while step > 1:
        half,k = step//2,n//step
        u = (2*r.rand(3, k, k)[0].double().numpy() - 1)*amp
        def put(y, x, near, v): m[y % n, x % n] = sum(m[(y+a) % n, (x+b) % n] for a,b in near)/4 + v
        cells = [(i, j) for i in range(k) for j in range(k)]
        for i,j in cells:
            put(i*step+half, j*step+half, [(a, b) for a in (-half, half) for b in (-half, half)], u[0, i, j])
        cross = [(-half, 0), (half, 0), (0, -half), (0, half)]
        for i,j in cells: put(i*step, j*step+half, cross, u[1, i, j])
        for i,j in cells: put(i*step+half, j*step, cross, u[2, i, j])
        step,amp = half,amp/decay**2
    return (m-m.min())/(m.max()-m.min())

@pytest.mark.parametrize('n,decay', [(2, 3), (16, 1.4), (32, 1.75)])
def test_plasma_point_by_point(n, decay):
    np.testing.assert_allclose(plasma.plasma(n, decay, draws(1))[0].numpy(), slow_plasma(n, decay, draws(1)), atol=1e-5)

def test_plasma_fills_its_range_and_gets_rougher_with_less_decay():
    rough = []
    for decay in (1.4, 2, 3):
        m = plasma.plasma(64, decay, draws(20))
        assert (m.amin((1, 2)) == 0).all() and (m.amax((1, 2)) == 1).all()
        rough.append((m - m.roll(1, 2)).abs().mean())
    assert rough[0] > 1.5*rough[1] > 1.5*rough[2]

@pytest.mark.parametrize('c', [1, 3])
def test_fog_adds_clouds_and_keeps_the_brightest_pixel_in_range(c):
    x = pixels(3, c, 20, 50)*.8
    y = weather.fog(x, (1.5, 2), draws(3))
    clouds = plasma.plasma(64, 2, draws(3))[:, None, :20, :50]
    for i in range(3):
        top = x[i].max()
        torch.testing.assert_close(y[i], (x[i] + 1.5*clouds[i])*top/(top + 1.5))
        assert y[i].max() <= top + 1e-6
    assert (weather.fog(torch.zeros(1, c, 32, 32), (1.5, 2), draws(1)) == 0).all()

# --- snow ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('c', [1, 3])
@pytest.mark.parametrize('table', TABLES)
def test_snow_step_by_step(table, c):
    x = pixels(2, c, 33, 40)
    for p in PARAMS[table]['snow']:
        mean,sd,zoom,least,radius,sigma,share = p
        r = draws(2)
        noise,got = r.randn(1, 33, 40).double().numpy()*sd + mean,weather.snow(x, p, draws(2)).numpy()
        angles = (r.rand().double()*90 - 135).tolist()
        for im,n,a,g in zip(x.double().numpy(), noise, angles, got):
            flakes = n[0] if zoom == 1 else slow_zoom(n[0], zoom)
            if (np.abs(flakes-least) < 1e-5).any(): continue     # float32 may fall to either side
            flakes = slow_motion(np.clip(np.where(flakes < least, 0, flakes), 0, 1)[None], radius, sigma, a)
            grey = im if c == 1 else (im*np.array([.299, .587, .114])[:, None, None]).sum(0)
            want = share*im + (1-share)*np.maximum(im, 1.5*grey + .5) + flakes + flakes[:, ::-1, ::-1]
            np.testing.assert_allclose(g, want, atol=2e-5)

def test_snow_falls_and_whitens():
    x = pixels(4, 3, 64, 64)*.5
    y = weather.snow(x, PARAMS['imagenet']['snow'][4], draws(4)).clamp(0, 1)
    assert (y >= x-1e-6).all() and (y-x).mean() > .3

# --- frost -----------------------------------------------------------------------------------------------------------
def test_the_sheets_have_the_photographs_mean_and_contrast():
    s = plasma.frost_sheets(torch.device('cpu')).double()
    assert s.shape == (5, plasma.SIDE, plasma.SIDE, 3)
    np.testing.assert_allclose(s.mean((1, 2)), plasma.PHOTOS[:, 0], atol=1)     # 1 and 2 are clipped a little at white
    np.testing.assert_allclose(s.std((1, 2)), plasma.PHOTOS[:, 1], rtol=.08)
    assert (s[..., 2].mean((1, 2)) > s[..., 0].mean((1, 2))).all()              # bluish
    g = s.mean(3).flatten(1)
    assert torch.corrcoef(g).triu(1).abs().max() < .4                           # five different ones

def test_the_sheets_are_smooth_and_structured_like_frost():
    g = plasma.frost_sheets(torch.device('cpu')).double().mean(3)
    g = (g - g.mean((1, 2), keepdim=True))/g.std((1, 2), keepdim=True)
    for lag,lo,hi in ((1, .75, .95), (8, .4, .8), (64, 0, .5)):                 # photographs: .80-.87, .45-.67, .25-.43
        r = (g*g.roll(lag, 2)).mean((1, 2))
        assert (r > lo).all() and (r < hi).all(), (lag, r)
    skew = (g**3).mean((1, 2))
    assert (skew > -.2).all()                                                   # bright crystals on a darker ground

def test_frost_is_a_weighted_sum_with_a_part_of_a_sheet():
    x = pixels(6, 3, 70, 90)
    ice = plasma.frost_part(70, 90, 5, draws(6))
    torch.testing.assert_close(weather.frost(x, (.7, .6, 5), draws(6)), .7*x + .6*ice)
    g = weather.frost(x[:, :1], (.7, .6, 5), draws(6))
    grey = (ice*torch.tensor([.299, .587, .114]).view(3, 1, 1)).sum(1, keepdim=True)
    torch.testing.assert_close(g, .7*x[:, :1] + .6*grey)

@pytest.mark.parametrize('h,w,step', [(32, 32, 5), (64, 200, 5), (64, 64, 1), (65, 600, 1)])
def test_parts_come_from_anywhere_and_wrap_around(h, w, step, monkeypatch):
    n = plasma.SIDE
    k,y,x = torch.meshgrid(torch.arange(5), torch.arange(n), torch.arange(n), indexing='ij')
    coded = torch.stack([k + 8*(y >> 8) + 16*(x >> 8), y & 255, x & 255], 3).byte()     # each pixel says where it is
    monkeypatch.setattr(plasma, 'frost_sheets', lambda device: coded)
    a,b,c = (plasma.frost_part(h, w, step, draws(40))*255).round().long().unbind(1)
    k,y,x = a & 7,(a >> 3 & 1)*256 + b,(a >> 4)*256 + c
    assert (k == k[:, :1, :1]).all() and k.unique().tolist() == [0, 1, 2, 3, 4]
    assert (y == (y[:, :1, :1] + step*torch.arange(h)[:, None]) % n).all()
    assert (x == (x[:, :1, :1] + step*torch.arange(w)) % n).all()
    for o in (y, x): assert len(o[:, 0, 0].unique()) > 30 and o[:, 0, 0].min() < 64 and o[:, 0, 0].max() > n-64

@pytest.mark.parametrize('h,w', [(64, 64), (31, 170)])
def test_parts_of_shrunken_sheets_are_linear_samples_and_opencvs_resize(h, w):
    "Made 10/3 times smaller for Tiny-ImageNet-C, as cv2.resize with fx=.3 does: samples at (i+.5)/.3 - .5"
    got,r = plasma.frost_part(h, w, 10/3, draws(5)).mul(255).round().numpy().astype(int),draws(5)
    assert len({o.tobytes() for o in got}) == 5
    draw = zip(r.randint(0, 5, 1, 1).flatten().tolist(), r.randint(0, plasma.SIDE, 2, 1)[..., 0].tolist())
    sheets = plasma.frost_sheets(torch.device('cpu')).numpy()
    for g,(k,(y,x)) in zip(got, draw):
        from_y,from_x = ((np.arange(n)+.5)/.3 - .5 - 1 + at for n,at in ((h, y), (w, x)))
        assert from_y[0] % 1 == pytest.approx(1/6)
        at = np.meshgrid(from_y, from_x, indexing='ij')
        want = [ndimage.map_coordinates(sheets[k, ..., c] + 0., at, order=1, mode='grid-wrap') for c in range(3)]
        assert np.abs(g - np.stack(want)).max() < .5 + 1e-6
    cv2 = pytest.importorskip('cv2', reason='OpenCV is not installed')
    wide = np.pad(np.roll(sheets[k], (1-y, 1-x), (0, 1)), ((0, 100), (0, 100), (0, 0)), 'wrap')
    small = cv2.resize(wide, (0, 0), fx=.3, fy=.3)[:h, :w].transpose(2, 0, 1).astype(int)
    assert np.abs(g - small).max() <= 1 and (g != small).mean() < .2        # it rounds in fixed point

# --- spatter ---------------------------------------------------------------------------------------------------------
def liquid(b=4, h=60, w=80, sigma=2., sd=.3, seed=0):
    z = np.random.default_rng(seed).normal(.65, sd, (b, h, w))
    z = ndimage.gaussian_filter(z, (0, sigma, sigma), mode='nearest')
    return np.where(z < .68, 0, z)

def levels(z): return np.clip(np.floor(z*255), 0, 255).astype(np.uint8)

@pytest.mark.parametrize('kind', ['drops', 'hills', 'noise'])
def test_canny_is_opencvs(kind):
    cv2 = pytest.importorskip('cv2', reason='OpenCV is not installed')
    g = np.random.default_rng(1)
    if kind == 'drops': u = levels(liquid())
    elif kind == 'noise': u = g.integers(0, 256, (4, 41, 33), dtype=np.uint8)
    else: u = (ndimage.gaussian_filter(g.normal(size=(4, 70, 50)), (0, 4, 4))*1500 + 128).clip(0, 255).astype(np.uint8)
    got = water.canny(torch.from_numpy(u)[:, None].float(), 50, 150)[:, 0].numpy()
    want = np.stack([cv2.Canny(o, 50, 150) > 0 for o in u])
    assert .01 < want.mean() < .6
    np.testing.assert_array_equal(got, want)

def test_canny_by_hand():
    x = torch.zeros(1, 1, 6, 8)
    x[..., 4:] = 200                                        # one upright step
    e = water.canny(x, 50, 150)[0, 0]
    assert e[:, 3].all() and e.sum() == 6                   # of two equal columns the left one
    assert not water.canny(x/10, 50, 150).any()             # gradient 80: weak, and nothing strong beside it
    x[..., :3, 4:] = 20                                     # now the lower half of the step is strong
    assert water.canny(x, 50, 150)[0, 0, 0, 3]              # and the weak half hangs on to it

@pytest.mark.parametrize('share', [0, .001, .02, .5])
def test_edge_distance_is_the_euclidean_one_cut_at_20(share):
    e = np.random.default_rng(2).random((5, 47, 66)) < share
    got = water.edge_distance(torch.from_numpy(e)[:, None])[:, 0].numpy()
    for o,d in zip(e, got):
        want = np.minimum(ndimage.distance_transform_edt(~o), 20) if o.any() else np.full(o.shape, 20)
        np.testing.assert_allclose(d, want, atol=1e-5)

def test_equalised_by_hand_and_by_opencv():
    x = torch.tensor([[3., 3, 3, 3], [5., 5, 9, 20]]).view(1, 1, 2, 4)
    want = torch.tensor([[0., 0, 0, 0], [128, 128, 191, 255]])              # 2/4, 3/4 and 4/4 of 255 above the darkest
    assert torch.equal(water.equalised(x)[0, 0], want)
    assert torch.equal(water.equalised(torch.full((1, 1, 2, 2), 20.)), torch.full((1, 1, 2, 2), 20.))
    cv2 = pytest.importorskip('cv2', reason='OpenCV is not installed')
    u = np.random.default_rng(3).integers(0, 21, (5, 30, 20), dtype=np.uint8)**2//20
    got = water.equalised(torch.from_numpy(u)[:, None].float())[:, 0].numpy()
    np.testing.assert_array_equal(got, np.stack([cv2.equalizeHist(o) for o in u]))

@pytest.mark.parametrize('sigma', [1., 2., 4.])
def test_ripples_are_near_those_of_opencv(sigma):
    cv2 = pytest.importorskip('cv2', reason='OpenCV is not installed')
    z = liquid(6, 120, 150, sigma, .3 if sigma > 1 else .2)
    got,ker = water.ripples(torch.from_numpy(z).float()[:, None])[:, 0].numpy(),water.RELIEF.numpy()
    for u,g in zip(levels(z), got):
        d = np.minimum(cv2.distanceTransform(255 - cv2.Canny(u, 50, 150), cv2.DIST_L2, 5), 20)
        d = cv2.equalizeHist(cv2.blur(d, (3, 3)).astype(np.uint8))
        m = u*cv2.blur(cv2.filter2D(d, cv2.CV_8U, ker), (3, 3)).astype(np.float32)
        m /= m.max()
        assert g.max() == pytest.approx(1) and (g[u == 0] == 0).all()
        wet = u > 0
        assert np.abs(g-m)[wet].mean() < .06 and np.corrcoef(g[wet], m[wet])[0, 1] > .95    # distances 2 % apart
        assert abs(g[wet].mean() - m[wet].mean()) < .05

def test_dry_images_stay_as_they_are():
    assert (water.ripples(torch.zeros(2, 1, 20, 20)) == 0).all()
    x = pixels(2)
    for mud in (0, 1): assert torch.equal(weather.spatter(x, (0, .1, 1, .7, .6, mud), draws(2)), x)

@pytest.mark.parametrize('c', [1, 3])
def test_mud_covers_with_its_own_colour(c):
    x = pixels(2, c, 64, 64)
    p = PARAMS['imagenet']['spatter'][3]
    y = weather.spatter(x, p, draws(2))
    z = draws(2).randn(1, 64, 64).double().numpy()*p[1] + p[0]
    z = ndimage.gaussian_filter(z, (0, 0, p[2], p[2]), mode='nearest') > p[3]
    m = ndimage.gaussian_filter(z.astype(float), (0, 0, p[4], p[4]), mode='nearest')
    m = np.where(m < .8, 0, m)
    brown = np.array([63, 42, 20])/255
    brown = brown if c == 3 else brown @ [[.299], [.587], [.114]]
    np.testing.assert_allclose(y.numpy(), x.numpy()*(1-m) + m*brown[:, None, None], atol=1e-5)
    assert .01 < (m > 0).mean() < .5

def test_water_only_brightens_and_is_turquoise():
    x = torch.zeros(3, 3, 80, 80)
    y = weather.spatter(x, PARAMS['imagenet']['spatter'][2], draws(3))
    assert (y >= 0).all() and y.amax((1, 2, 3)).sub(.5*238/255).abs().max() < 1e-5
    torch.testing.assert_close(y[:, 0]*238, y[:, 1]*175)
    torch.testing.assert_close(y[:, 1], y[:, 2])

# --- all -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('name', WEATHER)
@pytest.mark.parametrize('table,size', [('cifar', (32, 32)), ('tiny', (64, 64)), ('imagenet', (67, 90))])
def test_weather_is_each_images_own_and_does_not_depend_on_the_batch(name, table, size):
    x = pixels(5, 3, *size)
    before = torch.get_rng_state(),np.random.get_state()[1].tolist()
    for s in (1, 3, 5):
        p = PARAMS[table][name][s-1]
        whole = WEATHER[name](x, p, draws(5))
        assert whole.shape == x.shape and whole.dtype == torch.float32 and whole.isfinite().all()
        parts = [WEATHER[name](x[i:j], p, draws(j-i, first=i)) for i,j in ((0, 1), (1, 4), (4, 5))]
        torch.testing.assert_close(torch.cat(parts), whole, atol=2e-6, rtol=0)
        same = WEATHER[name](x[:1].expand_as(x).contiguous(), p, draws(5))
        assert len({tuple(o.flatten().tolist()) for o in same}) == 5
        assert not torch.equal(WEATHER[name](x, p, draws(5, seed=1)), whole)
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == np.random.get_state()[1].tolist()

@pytest.mark.parametrize('name', WEATHER)
def test_grey_is_the_grey_version_of_colour(name):
    x,w = pixels(3, 1, 40, 33),torch.tensor([.299, .587, .114]).view(3, 1, 1)
    for p in PARAMS['cifar'][name]:
        colour = WEATHER[name](x.expand(-1, 3, -1, -1).contiguous(), p, draws(3))
        torch.testing.assert_close(WEATHER[name](x, p, draws(3)), (colour*w).sum(1, keepdim=True), atol=3e-6, rtol=0)

@pytest.mark.parametrize('size', [(1, 1), (1, 6), (5, 3), (9, 40)])
@pytest.mark.parametrize('name', WEATHER)
def test_small_images_are_no_trouble(name, size):
    x = pixels(2, 3, 40, 40)[:, :, :size[0], :size[1]].contiguous()
    for p in (p for t in TABLES for p in PARAMS[t][name]):
        y = WEATHER[name](x, p, draws(2))
        assert y.shape == x.shape and y.isfinite().all()

# --- the oracle ------------------------------------------------------------------------------------------------------
# tolerance of mean and of standard deviation of the change, pixels in [0,1]; about three standard errors of the draws.
# Measured: snow .001 and .002, spatter .0006 and .001, fog .013 and .011 (clouds differ much from draw to draw)
@pytest.mark.parametrize('name,n,tol', [('snow', 5, .008), ('fog', 16, .035), ('spatter', 6, .004)])
def test_mean_and_sd_of_the_change_are_the_oracles(name, n, tol):
    for s in range(1, 6):
        theirs,ours = changes(name, s, n)
        assert np.abs((ours-theirs).mean(0)).max() < tol, (s, theirs.mean(0), ours.mean(0))

def test_frost_changes_photographs_as_the_oracles_does(monkeypatch):
    "The oracle draws from six photographs, the published files from the first five, as ours: the sixth is left out"
    one,ims = oracle(),oracle_images()
    randint,x = np.random.randint,torch.from_numpy(np.stack(ims)).permute(0, 3, 1, 2)
    for s,p in enumerate(PARAMS['imagenet']['frost'], 1):
        photo = iter(np.arange(40) % 5)
        monkeypatch.setattr(np.random, 'randint', lambda *a, photo=photo: next(photo) if a == (6,) else randint(*a))
        theirs = [one(o, corruption_name='frost', severity=s)/255 - o/255. for _ in range(5) for o in ims]
        ours = [weather.frost(x.float()/255, p, draws(4, seed=k)).clamp(0, 1) - x/255. for k in range(25)]
        theirs,ours = np.stack(theirs),torch.cat(ours).double()
        mean = abs(theirs.mean() - ours.mean().item())
        within = abs(theirs.std((1, 2, 3)).mean() - ours.std((1, 2, 3)).mean().item())
        assert mean < .03 and within < .015, (s, mean, within)
