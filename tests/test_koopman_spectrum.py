"Spectra of operators: against impulses, dense Jacobians and equations whose multipliers are known"
import copy, pickle
from functools import partial
import numpy as np
import pytest
import torch
from fastai.callback.progress import ProgressCallback   # noqa: F401 (gives Learner its no_bar)
from fastai.torch_core import get_random_states, set_seed
from fastrobust.systems.koopman.data.fields import field_dls
from fastrobust.systems.koopman.networks.fno import FNO1d, FNO2d
from fastrobust.systems.koopman.networks.kno import KNO1d, KNO2d
from fastrobust.systems.koopman.learner import koopman_learner
from fastrobust.systems.koopman.equations.linear import advection_data, advection_multiplier, solve_advection
from fastrobust.systems.koopman.networks.semigroup import SemigroupKNO
from fastrobust.systems.koopman.networks.vitkno import ViTKNO
from fastrobust.systems.koopman.reports.spectrum import operator_spectrum
from fastrobust.systems.koopman.reports.anyoperator import AnyOperator
from fastrobust.systems.koopman.reports.seenwaves import seen_modes
from fastrobust.systems.koopman.reports.spectrumreport import spectrum_report
from fastrobust.systems.koopman.rolling import Scaled

@pytest.fixture(autouse=True)
def seed(): torch.manual_seed(0)

def prediction(out): return out[0] if isinstance(out, tuple) else out

def impulse(f, dim, modes, eps, size):
    "FFT of the response to a small impulse at place 0, by a central difference"
    u = torch.zeros(1, 1, *[size]*dim, dtype=torch.float64)
    u[(..., *[0]*dim)] = eps
    with torch.no_grad(): r = (prediction(f(u)) - prediction(f(-u)))[0, -1]/(2*eps)
    H = np.fft.fftn(r.numpy())
    return H[:modes] if dim == 1 else H[:modes, 0]

def solver(u, **kw): return torch.as_tensor(solve_advection(u[:, 0].numpy(), .1, **kw))[:, None]

# --- what it is ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('name,make', [('kno', lambda: KNO1d(o=4, m=6, r=2)),
                                       ('conv', lambda: KNO1d(o=4, m=6, coder='conv')),
                                       ('fno', lambda: FNO1d(width=4, m=6, grid=False)),
                                       ('kno2', lambda: KNO2d(1, o=3, m=4, r=2)),
                                       ('fno2', lambda: FNO2d(1, 3, 4, 2, hidden=4, grid=False))])
def test_it_is_the_transform_of_the_response_to_an_impulse(name, make):
    "of operators that commute with shifts"
    f,dim = make().double().eval(),2 if name.endswith('2') else 1
    H = operator_spectrum(f, 7, eps=1e-4, size=16)
    want = impulse(f, dim, 7, 1e-4, 16)
    assert H.shape == (7,) and H.dtype == np.complex128 and abs(H-want).max() < 1e-7
    assert H.elsewhere.max() < 1e-6 and H.every.shape == (7, 1)

def test_of_a_linear_operator_to_float_error():
    g = torch.randn(16, dtype=torch.float64)
    f = lambda u: torch.fft.irfft(torch.fft.rfft(u)*torch.fft.rfft(g), n=16)
    assert abs(operator_spectrum(f, 9, size=16)-impulse(f, 1, 9, .05, 16)).max() < 1e-13
    assert abs(operator_spectrum(f, 9, about=torch.randn(16))-np.fft.rfft(g.numpy())).max() < 1e-13

@pytest.mark.parametrize('make', [lambda: KNO1d(o=4, m=6, r=2), lambda: FNO1d(width=4, m=6)])
def test_about_a_field_it_is_the_diagonal_of_the_jacobian(make):
    f,u = make().double().eval(),torch.randn(1, 1, 16, dtype=torch.float64)
    J = torch.autograd.functional.jacobian(lambda v: prediction(f(v[None, None]))[0, -1], u[0, 0]).numpy()
    F = np.fft.fft(np.eye(16), norm='ortho')
    dense = F @ J @ F.conj().T
    H = operator_spectrum(f, 9, about=u[0], eps=1e-4)
    assert abs(H-np.diag(dense)[:9]).max() < 1e-7
    off = abs(dense)**2
    np.fill_diagonal(off, 0)
    want = np.sqrt(off.sum(0)/(abs(dense)**2).sum(0))[:9]
    assert want.min() > .01 and abs(H.elsewhere-want).max() < 1e-6
    assert abs(operator_spectrum(f, 9, about=u[0, 0].float().numpy(), eps=1e-4)-H).max() < 1e-6

def test_with_places_as_a_channel_it_is_the_mean_over_places_of_the_impulse():
    f = FNO1d(width=4, m=6).double().eval()
    for p in f.parameters(): p.data *= 3
    want = [impulse(lambda u, i=i: prediction(f(u.roll(i, -1))).roll(-i, -1), 1, 9, 1e-4, 16) for i in range(16)]
    assert abs(operator_spectrum(f, 9, eps=1e-4, size=16)-np.mean(want, 0)).max() < 1e-6
    assert np.std(want, 0).max() > .01*abs(np.mean(want, 0)).max()

# --- equations -------------------------------------------------------------------------------------------------------
def test_the_solver_has_the_exact_multipliers():
    mu = advection_multiplier(np.arange(8), .1)
    u = torch.randn(64, dtype=torch.float64)
    for about in (0., 3., u): assert abs(operator_spectrum(solver, about=about)-mu).max() < 1e-12
    other = operator_spectrum(partial(solver, nu=.05, c=-2.), size=32)
    assert abs(other-advection_multiplier(np.arange(8), .1, -2., .05)).max() < 1e-12

def test_of_several_frames_it_is_the_largest_eigenvalue_of_the_roll_out():
    "AR(2): z^2 = 1.1 z - .5, next = 1.1 last - .5 first"
    f = lambda u: (1.1*u[:, 1:] - .5*u[:, :1])
    H = operator_spectrum(f, 3, about=torch.zeros(2, 8))
    want = np.roots([1, -1.1, .5])
    assert np.allclose(np.sort(H.every[2].imag), np.sort(want.imag)) and np.allclose(abs(H), abs(want[0]))

def test_of_several_variables_it_knows_them_all():
    "The wave equation h_t = -q_x, q_t = -h_x: two waves, exp(-+2 pi i k T)"
    S,T = 16,.03
    k = torch.fft.rfftfreq(S, 1/S, dtype=torch.float64)
    def f(u):
        a,b = [torch.fft.rfft(o) for o in (u[:, 0]+u[:, 1], u[:, 0]-u[:, 1])]
        turn = torch.exp(-2j*np.pi*k*T)
        a,b = torch.fft.irfft(a*turn, n=S),torch.fft.irfft(b*turn.conj(), n=S)
        return torch.stack([a+b, a-b], 1)/2
    H = operator_spectrum(f, 6, size=S, n_vars=2)
    want = np.exp(-2j*np.pi*np.arange(6)*T)
    assert np.allclose(abs(H), 1) and H.every.shape == (6, 2)
    for e,w in zip(H.every, want): assert abs(np.sort(e.imag)-np.sort([w.imag, -w.imag])).max() < 1e-12

def test_of_a_time_that_is_asked_for():
    f = SemigroupKNO(o=3, m=5).double().eval()
    H = operator_spectrum(f, 5, eps=1e-4, size=16, time=.3)
    assert abs(H-impulse(lambda u: f(u, .3), 1, 5, 1e-4, 16)).max() < 1e-7
    assert np.allclose(operator_spectrum(f, 5, eps=1e-4, size=16, time=0.), 1, atol=1e-6) and abs(H-1).max() > .01

# --- planes ----------------------------------------------------------------------------------------------------------
def drift(ky, kx, T=.1, c=(1., -.5), nu=(.01, .002)):
    "Multiplier of u_t + c.grad u = nu_1 u_yy + nu_2 u_xx, another along each side"
    a,b = 2*np.pi*np.asarray(ky, float),2*np.pi*np.asarray(kx, float)
    return np.exp(-(nu[0]*a**2 + nu[1]*b**2 + 1j*(c[0]*a + c[1]*b))*T)

def solve_drift(u):
    "float64, by the full FFT of the plane"
    k = np.meshgrid(*(np.fft.fftfreq(s, 1/s) for s in u.shape[2:]), indexing='ij')
    mu = drift(*k)
    for ks in k:            # real fields have no phase at the last wave of an even side
        here = -ks == ks.max()+1
        mu[here] = mu[here].real
    return torch.as_tensor(np.fft.ifft2(np.fft.fft2(u.numpy())*mu).real)

def of_drift(modes, kx): return drift(*np.meshgrid(np.arange(1-modes, modes), np.arange(kx), indexing='ij'))

def test_all_directions_of_a_known_plane():
    "Anisotropic advection-diffusion, known wave by wave; sides may differ"
    for size,modes,kx in (((16, 16), 6, 6), ((12, 20), 5, 5), ((20, 7), 8, 4)):
        H = operator_spectrum(solve_drift, modes, size=size, plane=True)
        want = of_drift(modes, kx)
        assert H.shape == (2*modes-1, kx) and H.dtype == np.complex128 and H.elsewhere.max() < 1e-7
        assert abs(H-want).max() < 1e-12 and abs(abs(want)-abs(want[::-1])).max() < 1e-12
        line = operator_spectrum(solve_drift, modes, size=size)
        assert abs(H[modes-1:, 0]-line).max() < 1e-13 and abs(H.first_side()-line).max() < 1e-13
        assert line.first_side() is line
        assert H.every.shape == (2*modes-1, kx, 1) and H.first_side().every.shape == (modes, 1)
    about = torch.randn(16, 16, dtype=torch.float64)
    assert abs(operator_spectrum(solve_drift, 4, about=about[None], plane=True)-of_drift(4, 4)).max() < 1e-12

def test_all_directions_of_a_network_are_the_transform_of_its_impulse():
    f = FNO2d(1, 3, 4, 2, hidden=4, grid=False).double().eval()
    u = torch.zeros(1, 1, 16, 16, dtype=torch.float64)
    u[0, 0, 0, 0] = 1e-4
    with torch.no_grad(): r = ((f(u)-f(-u))[0, 0]/2e-4).numpy()
    F = np.fft.fft2(r)
    H = operator_spectrum(f, 5, eps=1e-4, size=16, plane=True)
    for i,ky in enumerate(range(-4, 5)):
        for kx in range(5): assert abs(H[i, kx]-F[ky, kx]) < 1e-7
    assert abs(H-H[::-1]).max() > .01*abs(H).max()

def test_a_few_waves_at_a_time(monkeypatch):
    whole = operator_spectrum(solve_drift, 4, size=(12, 16), plane=True)
    monkeypatch.setattr('fastrobust.systems.koopman.reports.spectrum.HELD', 5*2*12*16)
    assert np.array_equal(operator_spectrum(solve_drift, 4, size=(12, 16), plane=True), whole)

def planar(S=16, n=24, net=None):
    "A learner of drifting planes whose fields have waves up to ky = 3, kx = 2"
    g = np.random.default_rng(0)
    f = np.zeros((n, S, S), complex)
    for ky in range(-3, 4):
        for kx in range(3): f[:, ky, kx] = g.normal(size=(n, 2)) @ [1, 1j]
    f[:, 0, 0] = 0
    u = np.fft.ifft2(f).real
    y = solve_drift(torch.as_tensor(u)[:, None])[:, 0].numpy()
    return koopman_learner(field_dls((u/u.std(), y/u.std()), device='cpu', bs=4), net or KNO2d(1, o=3, m=4, r=2),
                          scale=net is None)

class Own(torch.nn.Module):
    "A network that has nothing to learn, but a parameter, which tells its device"
    def __init__(self):
        super().__init__()
        self.none = torch.nn.Parameter(torch.zeros(()))

class Drift(Own):
    def forward(self, u): return solve_drift(u.double()).to(u.dtype)

def test_the_report_of_planes(tmp_path):
    learn = planar()
    both = {'KNO': learn, 'solver': planar(net=Drift())}
    rep = spectrum_report(both, lambda ky,kx: drift(ky, kx), modes=5, dt=.1)
    want = of_drift(5, 5)
    assert abs(rep.exact_plane-want).max() == 0 and abs(rep.exact-want[4:, 0]).max() == 0
    d = rep.directions.loc['solver']
    assert len(d) == 45 and d.distance.max() < 1e-5 and d.loc[(-2, 3)].exact == drift(-2, 3)
    assert rep.summary['solver largest distance, all directions'] < 1e-5
    far = rep.directions.loc['KNO']
    H = operator_spectrum(learn, 5, size=16, plane=True)
    assert np.array_equal(rep.planes['KNO'], H) and np.array_equal(far.loc[(1, 2)].H, H[5, 2])
    assert rep.table.loc['KNO'].loc[2].H == H[6, 0] and rep.table.loc['solver'].distance.max() < 1e-5
    ky,kx = (np.asarray(far.index.get_level_values(o)) for o in ('ky', 'kx'))
    # of a real field (ky,0) has the conjugate at (-ky,0): all of |ky| <= 3, kx <= 2 but 0 are there
    assert np.array_equal(rep.unseen['KNO'].ravel(), (abs(ky) > 3) | (kx > 2) | (ky == 0) & (kx == 0))
    known = ~rep.unseen['KNO'].ravel()
    assert rep.summary['KNO largest distance, all directions'] == far.distance[known].max()
    assert any('KNO: 25 of 45 wave vectors not determined' in o for o in rep.notes)
    names = [o.name for o in rep.save(tmp_path)]
    assert names == ['spectrum.csv', 'spectrum_summary.csv', 'spectrum_directions.csv', 'spectrum.png']
    titles = [ax.get_title() for ax in rep.plot().axes]
    for o in ('exact: |H|', 'solver: |H|', 'KNO: |H - exact|'): assert o in titles
    as_array = spectrum_report(both, want, modes=5)
    assert as_array.directions.equals(rep.directions.drop(columns=['growth', 'frequency']))

def test_the_picture_of_planes_is_whole():
    "What is drawn at (-kx) is the conjugate wave; without the exact ones their angle is drawn"
    rep = spectrum_report(planar(net=Drift()), modes=4)
    panels = {ax.get_title(): ax for ax in rep.plot().axes if ax.images}
    assert list(panels) == ['Drift: |H|', 'Drift: angle of H']
    ky,kx = np.meshgrid(np.arange(-3, 4), np.arange(-3, 4), indexing='ij')
    drawn = np.ma.filled(panels['Drift: angle of H'].images[0].get_array(), np.nan)
    there = (abs(ky) <= 3) & (abs(kx) <= 2) & ((ky != 0) | (kx != 0))
    assert np.array_equal(~np.isnan(drawn), there)
    assert np.allclose(drawn[there], np.angle(drift(ky, kx))[there], atol=1e-5)
    assert panels['Drift: |H|'].images[0].get_extent() == [-3.5, 3.5, -3.5, 3.5]
    fig = rep.planes['Drift'].plot(of_drift(4, 4))
    assert fig.axes[0].get_title() == '|H|; lines: the exact one'

def test_exact_waves_of_one_side_do_for_planes():
    along = spectrum_report(planar(net=Drift()), lambda k, nu=(.01, .002): drift(k, 0, nu=nu), modes=4)
    assert along.table.distance.max() < 1e-5 and along.exact_plane is None and 'distance' not in along.directions
    alone = spectrum_report(planar(net=Drift()), modes=4, plane=False)
    assert not alone.planes and alone.directions is None and np.array_equal(alone.table.H, along.table.H)

def test_planes_that_do_not_go():
    with pytest.raises(ValueError, match='with plane=True an operator of fields'):
        operator_spectrum(KNO1d(o=2, m=3), plane=True)
    with pytest.raises(ValueError, match=r'of planes a function of \(ky, kx\), or an array \(7,4\)'):
        spectrum_report(solve_drift, np.ones((4, 4)), modes=4, size=(16, 16))
    two = {'a': planar(), 'b': KNO2d(1, o=3, m=4, r=2)}
    spectrum_report(two, modes=5)
    uneven = {'a': planar(), 'b': Scaled(ViTKNO((16, 4), patch=4, dim=8, depth=1))}
    with pytest.raises(ValueError, match='Give modes=3, or plane=False'): spectrum_report(uneven, modes=5)
    assert len(spectrum_report(uneven, modes=5, plane=False).table) == 10

def test_a_network_bound_to_a_grid():
    "A bare ViTKNO is looked at on its own grid, and says so where another is asked for"
    net = ViTKNO((16, 8), patch=4, dim=8, depth=1).double().eval()
    H = operator_spectrum(net, 4, eps=1e-3, plane=True)
    assert H.shape == (7, 4) and np.isfinite(H).all()
    assert np.array_equal(operator_spectrum(net, 4, eps=1e-3), H[3:, 0])
    u = torch.zeros(16, 8, dtype=torch.float64)
    assert np.array_equal(operator_spectrum(net, 4, about=u, eps=1e-3), H[3:, 0])
    J = torch.autograd.functional.jacobian(lambda v: net(v.view(1, 1, 16, 8))[0].flatten(), u.flatten()).numpy()
    for ky,kx in ((2, 0), (-3, 1), (0, 3)):
        e = np.exp(2j*np.pi*(ky*np.arange(16)[:, None]/16 + kx*np.arange(8)/8)).ravel()
        assert abs(H[3+ky, kx]-e.conj() @ J @ e/128) < 1e-4*abs(H).max()
    rep = spectrum_report(net, modes=4)
    assert rep.planes['ViTKNO'].shape == (7, 4) and len(rep.table) == 4 and rep.plot() is not None
    assert spectrum_report(net, modes=9).planes['ViTKNO'].shape == (17, 5)
    with pytest.raises(ValueError, match=r'the grid \(16, 8\) that this network is bound to, got 32. Leave'):
        spectrum_report(net, size=32)
    with pytest.raises(ValueError, match=r'bound to, got \(8, 8\)'): operator_spectrum(net, size=(8, 8))
    with pytest.raises(ValueError, match='up to 9 modes on 16 nodes'): spectrum_report(net, modes=10)
    with pytest.raises(ValueError, match=r'ViTKNO expected fields of its size \(16, 8\), got \(16, 16\)'):
        operator_spectrum(net, about=torch.zeros(16, 16))

# --- learners --------------------------------------------------------------------------------------------------------
def trained(make, epochs, size=1., **kw):
    set_seed(0)
    u,y = advection_data(320, 64, 1., .01, .1)
    learn = koopman_learner(field_dls((u*size, y*size), valid=.1, device='cpu', **kw), make())
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, 1e-2)
    return learn

@pytest.fixture(scope='module')
def learners(): return {'KNO': trained(KNO1d, 18), 'FNO': trained(FNO1d, 25)}

MU = partial(advection_multiplier, T=.1)

@pytest.mark.slow
def test_what_was_learned_is_the_equation(learners):
    "|H_k - mu_k| <= .02 for k = 1..7; k = 0 is not determined, and raw eigenvalues are none of the map's"
    rep = spectrum_report(learners, MU, dt=.1)
    t = rep.table
    for k in learners:
        far = t.loc[k].distance
        assert far[1:].max() <= .02 and far[0] > .3, far
        assert rep.summary[f'{k} largest distance'] == far[1:].max() and rep.unknown[k] == [0]
        H = operator_spectrum(learners[k])
        assert np.array_equal(t.loc[k].H, H) and np.allclose(t.loc[k].modulus, abs(H))
        assert np.allclose(np.exp((t.loc[k].growth + 2j*np.pi*t.loc[k].frequency)*.1), H)
        assert np.allclose(t.loc[k]['in training'][[0, 1]], [0, 1], atol=1e-6)
    assert list(rep.raw) == ['KNO'] and rep.raw['KNO'].shape == (8, 16) and not rep.rates
    net = learners['KNO'].model.net
    assert np.allclose(rep.raw['KNO'][3], torch.linalg.eigvals(net.multiplier()[3]).numpy())
    assert abs(rep.raw['KNO'][2]**net.r - MU(2)).min() > .1
    told = ' '.join(rep.notes)
    for o in ('k = 0 not determined', 'not the spectrum of the map', 'FNO: of its response', 'dt = 0.1'):
        assert o in told

def test_the_report_is_drawn_and_saved(learners, tmp_path):
    rep = spectrum_report(learners, MU(np.arange(12)), modes=5)
    assert [o.name for o in rep.save(tmp_path)] == ['spectrum.csv', 'spectrum_summary.csv', 'spectrum.png']
    H = rep.spectra['FNO'][2]
    assert f'{H.real:.4f}{H.imag:+.4f}i' in repr(rep)
    alone = spectrum_report(learners['KNO'])
    assert alone.table.index.name == 'k' and 'exact' not in alone.table and list(alone.spectra) == ['KNO1d']
    assert len(alone.plot().axes) == 3 and operator_spectrum(learners['KNO']).plot(MU(np.arange(8))) is not None
    about = spectrum_report(learners['KNO'], about=learners['KNO'].dls.valid_ds[0][0])
    assert any('the field about which' in o for o in about.notes)

def test_numbers_of_points_on_a_line_stand_apart():
    "Diffusion alone turns no wave: its points are real, their numbers above and below by turns"
    rep = spectrum_report(partial(solver, c=0., nu=.05), modes=6)
    at = [o.get_position() for o in rep.plot().axes[0].texts]
    assert len(at) == 6 and all(y*(-1)**k > .05 for k,(_,y) in enumerate(at))
    turning = [o.get_position() for o in spectrum_report(solver, modes=6).plot().axes[0].texts]
    H = MU(np.arange(6))
    assert all(abs(complex(*p)) > abs(h) for p,h in zip(turning, H))

def test_a_learner_stays_as_it_is(learners):
    learn = learners['KNO']
    learn.model.train()
    learn.model.net.eval()
    modes,before = [o.training for o in learn.model.modules()],copy.deepcopy(learn.model.state_dict())
    states = get_random_states()
    spectrum_report(learn, MU)
    assert [o.training for o in learn.model.modules()] == modes and torch.is_grad_enabled()
    assert all(torch.equal(v, before[k]) for k,v in learn.model.state_dict().items())
    after = get_random_states()
    assert torch.equal(states['torch_state'], after['torch_state']) and states['random_state'] == after['random_state']
    assert all(p.grad is None for p in learn.model.parameters()) or learn.opt is not None

def test_waves_are_as_large_as_the_data():
    "Fields a thousand times larger, the same net inside: the same spectrum"
    u,y = advection_data(24, 16)
    H = []
    for size in (1., 1000.):
        set_seed(1)
        dls = field_dls((u*size, y*size), device='cpu', bs=4)
        H.append(operator_spectrum(koopman_learner(dls, KNO1d(o=4, m=4)), 5))
    assert np.allclose(*H, atol=1e-5) and abs(H[0]).max() > .01

def test_rates_of_a_semigroup():
    u,y = advection_data(24, 16)
    learn = koopman_learner(field_dls((u, y), times=.1, device='cpu', bs=4), SemigroupKNO(o=4, m=4))
    rep = spectrum_report(learn, MU, 4, time=.1, dt=.1)
    assert list(rep.rates) == ['SemigroupKNO'] and rep.rates['SemigroupKNO'].shape == (4, 4) and not rep.raw
    assert (rep.rates['SemigroupKNO'].real < 0).all() and len(rep.plot().axes) == 3
    with pytest.raises(ValueError, match='expected `time`'): spectrum_report(learn)

def test_the_planes_first_side():
    learn = KNO2d(2, o=3, m=4, r=2)
    rep = spectrum_report({'a': learn}, modes=4, size=(16, 8))
    K = learn.multiplier()
    row = learn.wave_numbers().tolist().index([2, 0])
    assert np.allclose(rep.raw['a'][2], torch.linalg.eigvals(K[row]).numpy()) and rep.raw['a'].shape == (4, 3)
    assert rep.spectra['a'].every.shape == (4, 2) and 'in training' not in rep.table
    assert any('several frames' in o for o in rep.notes)

# --- about what, and what training holds -----------------------------------------------------------------------------
class Square(Own):
    "u -> u^2: H = 2 about"
    def forward(self, u): return u**2

def test_it_is_about_the_training_mean_where_that_is_known():
    g = np.random.default_rng(0)
    u = (g.normal(size=(40, 16)) + 7).astype(np.float32)
    net = Scaled(Square(), (7.,), (2.,))     # 7 + 2 ((u-7)/2)^2: slope 0 at 7, -7 at 0
    assert abs(operator_spectrum(net, 3)).max() < 1e-5
    assert np.allclose(operator_spectrum(net, 3, 0.), -7, atol=1e-4)
    assert np.allclose(operator_spectrum(Square(), 3), 0) and np.allclose(operator_spectrum(Square(), 3, 7.), 14)
    learn = koopman_learner(field_dls((u, u*u), device='cpu', bs=4), Square(), scale=False)
    m = float(learn.dls.scale[0][0])
    assert abs(m-7) < .2 and np.allclose(operator_spectrum(learn, 3), 2*m, atol=1e-3)
    rep = spectrum_report(learn, modes=3)
    assert np.allclose(rep.table.H, 2*m, atol=1e-3) and any(f'training mean, {m:.4g}' in o for o in rep.notes)
    zero = spectrum_report(learn, modes=3, about=0.)
    assert np.allclose(zero.table.H, 0, atol=1e-3) and not any('training mean' in o for o in zero.notes)

def test_the_mean_of_each_variable():
    u = np.random.default_rng(0).normal(size=(20, 3, 2, 16)) + np.array([3., -50.])[:, None]
    learn = koopman_learner(field_dls(u.astype(np.float32), t_in=2, device='cpu', bs=4), KNO1d(2*2, o=5, m=4))
    op = AnyOperator(learn)
    assert np.allclose(op.mean, [3, -50], atol=.2) and AnyOperator(learn.model).n_vars == 2
    want = torch.as_tensor(op.mean).repeat(2)[:, None].expand(4, 16)
    assert np.allclose(operator_spectrum(learn, 4, size=16), operator_spectrum(learn, 4, about=want))

def seen_of(u, modes=5, **kw):
    learn = koopman_learner(field_dls(np.asarray(u, np.float32), device='cpu', bs=4, **kw), KNO1d(u.shape[2], o=5, m=4))
    return seen_modes(AnyOperator(learn), modes)

def waves_of(n, sizes, S=16, seed=0):
    "Histories of two frames (n,2,1,S) of waves k = 1, 2, .. of these sizes, random phases"
    g = np.random.default_rng(seed)
    at = 2*np.pi*np.arange(S)/S
    turned = 2*np.pi*g.random((n, 2, 1, 1))
    return sum(o*np.cos((k+1)*at + turned*(k+1)) for k,o in enumerate(sizes))

def test_waves_are_compared_among_waves():
    "a large mean hides none, and is itself seen only if it varies"
    u = waves_of(40, (1., .1))
    seen = seen_of(u + 5000.)
    assert np.allclose(seen, [0, 1, .1, 0, 0], atol=1e-3)
    shift = np.random.default_rng(1).normal(size=(40, 1, 1, 1))
    assert .3 < seen_of(u + 50. + shift)[0] < 1.2 and np.allclose(seen_of(u + 50. + shift)[1:3], [1, .1], atol=1e-3)

def test_each_variable_counts_in_its_deviation():
    "k = 2 is in both, k = 3 in the large one alone, in the small one k = 1 to 2"
    a,b = waves_of(40, (1., 1., 1.)),1e-4*waves_of(40, (1., .5), seed=1)
    for pair in ((a, b), (b, a)):
        assert np.allclose(seen_of(np.concatenate(pair, 2)), [0, 1, .5, 0, 0], atol=1e-3)
    flat = np.random.default_rng(1).normal(size=(40, 2, 1, 1))*np.ones(16)      # no waves, but a mean that varies
    assert np.allclose(seen_of(np.concatenate([a, flat], 2))[1:4], 1, atol=1e-3)

def test_rates_are_said_to_be_no_spectrum():
    "A semigroup that has learned u -> 1.3 u grows in a roll-out, whatever its rates"
    u = waves_of(24, (1., 1.))[:, 0, 0]
    set_seed(0)
    learn = koopman_learner(field_dls((u, 1.3*u), device='cpu', bs=4), SemigroupKNO(o=4, m=4))
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(30, 1e-2)
    rep = spectrum_report(learn, modes=3)
    start = .1*(1+torch.arange(4.)**2)[:, None]
    moved = (-rep.rates['SemigroupKNO'].real/start[:3].numpy()).mean(1)
    assert (rep.rates['SemigroupKNO'].real < 0).all() and rep.table.modulus[1:].max() > 1.1
    assert ((.5 < moved) & (moved < 1.5)).all()
    told = ' '.join(rep.notes)
    for o in ('no measured spectrum', 'within one call', 'a roll-out may grow'): assert o in told
    assert 'stable' not in told

@pytest.mark.parametrize('args,says', [
    (dict(modes=0), '`modes`'), (dict(modes=40), 'up to 33 modes on 64 nodes'),
    (dict(eps=0.), '`eps` must be positive'),
    (dict(about=float('nan')), '`about` must be finite'), (dict(about=torch.zeros(1, 1, 16)), 'one field'),
    (dict(about=torch.zeros(2, 16)), 'of 1 channels'), (dict(about=torch.full((16,), torch.nan)), 'finite fields'),
    (dict(size=1), '`size` as whole nodes'), (dict(size=(8, 8)), 'of 1 sides'), (dict(n_vars=0.5), '`n_vars`')])
def test_what_does_not_go(args, says):
    with pytest.raises((ValueError, TypeError), match=says): operator_spectrum(KNO1d(o=2, m=3), **args)

def test_what_is_no_operator():
    with pytest.raises(TypeError, match='expected a Learner, a network'): operator_spectrum(3)
    with pytest.raises(TypeError, match='the class KNO1d'): operator_spectrum(KNO1d)
    field = torch.zeros(16, dtype=torch.cfloat)
    with pytest.raises(TypeError, match='complex'): operator_spectrum(KNO1d(o=2, m=3), about=field)
    with pytest.raises(ValueError, match='on the grid'): operator_spectrum(lambda u: u[..., ::2])
    with pytest.raises(ValueError, match='NaN or infinity'): operator_spectrum(lambda u: u/0)
    with pytest.raises(ValueError, match='at least one operator'): spectrum_report({})
    with pytest.raises(ValueError, match='`exact` as 8 finite'): spectrum_report(KNO1d(o=2, m=3), np.ones(3))
    with pytest.raises(ValueError, match='`dt` must be positive'): spectrum_report(KNO1d(o=2, m=3), dt=0.)

# --- parts, files, and what is said -----------------------------------------------------------------------------------
def moved(u): return torch.roll(u, 1, -1)*.9

def test_parts_of_a_spectrum_know_their_own():
    H = operator_spectrum(FNO2d(2, width=4, m=3), 3, size=(10, 13), plane=True)
    assert H.every.shape == (5, 3, 2)
    for key in (3, np.s_[1:3], np.s_[:, 0], np.s_[..., 1], np.s_[::-1, ::2], np.s_[None], abs(H.view(np.ndarray)) > 0):
        part = H[key]
        assert np.array_equal(part.every[..., 0], part) and np.array_equal(part.elsewhere, H.elsewhere[key])
    assert isinstance(H[1, 1], complex) and H.reshape(-1).every is None
    for again in (pickle.loads(pickle.dumps(H)), copy.deepcopy(H), copy.copy(H)):
        assert np.array_equal(again.every, H.every) and np.array_equal(again.elsewhere, H.elsewhere)
        assert np.array_equal(again, H)
    make,args,(state,*_) = H.__reduce__()       # a file of H alone
    old = make(*args)
    old.__setstate__(state)
    assert np.array_equal(old, H) and old.every is None

def test_reports_of_versions_without_planes(tmp_path):
    rep = spectrum_report(FNO1d(width=4, m=3), modes=3, size=16)
    for k in ('planes', 'directions', 'exact_plane', 'unseen'): del rep.__dict__[k]
    rep = pickle.loads(pickle.dumps(rep))
    assert rep.plot().axes and [o.name for o in rep.save(tmp_path)][:1] == ['spectrum.csv']

def test_exact_waves_are_taken_or_told():
    kw = dict(modes=3, size=(12, 12))
    by_name = spectrum_report(moved, lambda ky, kx: np.exp(-2j*np.pi*kx/12)*.9, **kw)
    assert by_name.summary.iloc[-1] < 1e-6
    one = spectrum_report(moved, np.vectorize(lambda ky, kx: np.exp(-2j*np.pi*kx/12)*.9), **kw)
    assert np.allclose(one.exact_plane, by_name.exact_plane)
    assert (spectrum_report(moved, lambda ky, kx: .9, **kw).exact_plane == .9).all()
    assert (spectrum_report(moved, lambda k: .9, modes=3, size=12).exact == .9).all()
    assert np.allclose(spectrum_report(moved, lambda *k: .9**k[0], modes=3, size=12).exact, .9**np.arange(3))

def two(ky, kx): return ky + 0j*kx
@pytest.mark.parametrize('exact,kw,says', [
    (two, {}, r'of k alone, .* got one of \(ky, kx\)\. .* size=\(64, 64\)'),
    (np.ones((5, 3)), dict(size=12), r'of k alone, .* got one of \(ky, kx\)'),
    (lambda *k: two(*k), dict(size=(12, 12)), r'any number of arguments\. Say which: lambda ky, kx: f\(ky, kx\)'),
    (lambda *k: two(*k), dict(size=12), r"function of k alone, .* which says: two\(\) missing 1"),
    (np.ones((15, 8)), dict(size=(16, 4), modes=8), r'of shape \(15, 8\)\. .* an array \(15,3\)\.')])
def test_exact_waves_that_do_not_go(exact, kw, says):
    with pytest.raises(ValueError, match=says): spectrum_report(moved, exact, **(dict(modes=3) | kw))

def test_a_text_is_no_truth_value():
    for f in (spectrum_report, operator_spectrum):
        with pytest.raises(TypeError, match="`plane` must be True or False, got 'no'"): f(moved, size=12, plane='no')
