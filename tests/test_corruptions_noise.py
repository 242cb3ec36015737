"The four noises: their distributions, by scipy and by hand, and the oracle's change of real photos"
import numpy as np, pytest, torch
from PIL import Image
from scipy import stats
from fastrobust.images.corruptions.draws import Draws, stream_keys
from fastrobust.images.corruptions.front import corrupt
from fastrobust.images.corruptions.noise import NOISES, _alias, _photons
from fastrobust.images.corruptions.tables import PARAMS
from fastrobust.samples import sample_data

def draws(b=1, seed=0): return Draws(stream_keys(seed, torch.arange(b), 'test', 1))
def flat(v, *shape): return torch.full(shape, v/255)

def photos(size=224):
    "Two photos, and two pieces of clothing in grey: uint8 (4,3,size,size)"
    from sklearn.datasets import load_sample_images
    ims = [Image.fromarray(o) for o in load_sample_images().images]
    ims = [o.crop((0, 0, 427, 427)) for o in ims] + [Image.fromarray(o).convert('RGB') for o in sample_data()[0][:2]]
    ims = np.stack([np.array(o.resize((size, size), Image.BICUBIC)) for o in ims])
    return torch.from_numpy(ims).permute(0, 3, 1, 2)

def oracle_change(x, name, severity, n, many=1):
    "Mean and sd of the change by `imagecorruptions`, and by ours, over `n` rounds of all images (`many` of ours)"
    oracle = pytest.importorskip('imagecorruptions', reason='the oracle (pip install imagecorruptions-imaug) is absent')
    np.random.seed(0)
    theirs = np.stack([oracle.corrupt(o, severity, name) for o in x.permute(0, 2, 3, 1).numpy() for _ in range(n)])
    theirs = theirs.astype(float) - x.permute(0, 2, 3, 1).repeat_interleave(n, 0).numpy()
    rep = x.repeat_interleave(n*many, 0)
    ours = corrupt(rep, name, severity, 'imagenet', seed=3).double() - rep.double()
    return (theirs.mean(), theirs.std()),(ours.mean().item(), ours.std().item())

def test_gaussian_is_added():
    x = flat(100, 20, 3, 32, 32)
    for table in PARAMS:
        for p in PARAMS[table]['gaussian_noise']:
            e = (NOISES['gaussian_noise'](x, p, draws(20)) - 100/255).double().flatten()
            assert stats.kstest((e/p[0]).numpy(), 'norm').pvalue > 1e-3

def test_speckle_is_multiplied():
    u = torch.arange(256.).div(255).view(1, 1, 16, 16)
    z = draws().randn(1, 16, 16)
    np.testing.assert_allclose(NOISES['speckle_noise'](u, (.35,), draws()), u*(1 + .35*z), atol=1e-6)
    assert corrupt(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), 'speckle_noise', 5).max() == 0    # black has none

def test_impulse_is_salt_and_pepper_per_channel():
    x = flat(100, 30, 3, 40, 40)
    for p in PARAMS['imagenet']['impulse_noise']:
        y = NOISES['impulse_noise'](x, p, draws(30)).clamp(0, 1)
        n = y.numel()
        salt,pepper = (y == 1).sum().item(),(y == 0).sum().item()
        assert ((y == 0) | (y == 1) | (y == 100/255)).all()
        for k in (salt, pepper): assert stats.binomtest(k, n, p[0]/2).pvalue > 1e-3
        hit = (y != x).double()
        whole = hit.prod(1).mean().item()        # all three channels of a pixel at once: only by chance
        assert stats.binomtest(round(whole*n/3), n//3, p[0]**3).pvalue > 1e-4
    a = NOISES['impulse_noise'](torch.tensor([0., 1.]).view(1, 1, 1, 2).repeat(1, 1, 200, 200), (.5,), draws())
    assert abs((a.clamp(0, 1)[..., 0] == 1).float().mean() - .25) < .02     # half of the hits leave black black

@pytest.mark.parametrize('lam', [500, 50, 60, 3])
@pytest.mark.parametrize('level', [0, 1, 100, 255])
def test_shot_noise_is_poisson(lam, level):
    x = flat(level, 40, 3, 50, 50)
    k = NOISES['shot_noise'](x, (lam,), draws(40)).double().flatten()*lam
    assert (k - k.round()).abs().max() < 1e-3 and k.max() <= lam + 1e-3 and k.min() >= 0
    if level == 0: assert k.max() == 0; return
    q = stats.poisson.pmf(np.arange(lam), level/255*lam)
    q,n = np.append(q, 1-q.sum()),np.bincount(k.round().long().numpy(), minlength=lam+1)
    big = q*len(k) > 8
    assert n[~big].sum() < 8*(lam+1)                 # where hardly any are due, hardly any are
    got,due = np.append(n[big], n[~big].sum()),np.append(q[big], q[~big].sum())*len(k)
    got,due = (got, due) if due[-1] > 1 else (got[:-1], due[:-1]*got[:-1].sum()/due[:-1].sum())
    assert stats.chisquare(got, due*got.sum()/due.sum()).pvalue > 1e-4

@pytest.mark.parametrize('lam', [500, 250, 60, 12, 3])
def test_photon_tables_hold_the_exact_probabilities(lam):
    keep,to = (o.view(256, -1).double().numpy() for o in _photons(lam))
    got = keep/(lam+1)
    np.add.at(got, (np.arange(256)[:, None], np.round(to*lam).astype(int)), (1-keep)/(lam+1))
    q = stats.poisson.pmf(np.arange(lam), np.arange(256)[:, None]/255*lam)
    np.testing.assert_allclose(got, np.c_[q, 1-q.sum(1)], atol=1e-7)

def test_alias_tables_of_any_distribution():
    p = torch.from_numpy(np.random.default_rng(0).dirichlet([.2]*13, 50))
    p[0],p[1] = 1/13,torch.eye(13, dtype=p.dtype)[4]
    keep,to = _alias(p)
    got = (keep/13).scatter_add(1, to, (1-keep)/13)
    np.testing.assert_allclose(got, p, atol=1e-12)
    assert keep.min() >= 0 and keep.max() <= 1

def test_channels_and_pixels_are_independent():
    x = flat(128, 1, 3, 100, 100)
    for name,f in NOISES.items():
        e = (f(x, PARAMS['imagenet'][name][3], draws()) - x)[0].double().flatten(1)
        assert (torch.corrcoef(e)[~torch.eye(3, dtype=bool)].abs() < .04).all(), name
        z = e - e.mean()
        assert abs((z[:, 1:]*z[:, :-1]).mean()/z.var()) < .03, name

@pytest.mark.parametrize('severity', range(1, 6))
@pytest.mark.parametrize('name', NOISES)
def test_photos_change_as_much_as_by_the_oracle(name, severity):
    # 600,000 numbers each: standard errors of the mean are below .1 levels, of the sd below .3 %
    (m,s),(m2,s2) = oracle_change(photos(), name, severity, 1)
    assert abs(m-m2) < .45 and abs(s2/s - 1) < .012, (m, m2, s, s2)
