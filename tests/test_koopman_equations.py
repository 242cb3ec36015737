"Equations to learn: exact solutions, orders, what is conserved, random fields, seeds, files, refusals"
import json, random, time
import numpy as np
import pytest, torch
from scipy.integrate import solve_ivp
from scipy.optimize import brentq
from fastrobust.basics import RobustWarning
from fastrobust.systems.koopman.equations import making, marching
from fastrobust.systems.koopman.equations.burgers import Burgers, burgers_data, solve_burgers
from fastrobust.systems.koopman.equations.gaussian import GaussianField
from fastrobust.systems.koopman.equations.kdv import KdV, kdv_data, solve_kdv
from fastrobust.systems.koopman.equations.linear import (advection_data, advection_multiplier, heat_kernel,
                                                         solve_advection)
from fastrobust.systems.koopman.equations.marching import BlowUp, steps_to, wave_numbers
from fastrobust.systems.koopman.equations.navierstokes import Vorticity, navier_stokes_data, solve_navier_stokes
from fastrobust.systems.koopman.equations.shallowwater import ShallowWater, shallow_water_data, solve_shallow_water

pi = np.pi
def line(s): return np.arange(s)/s
def square(s): return np.meshgrid(line(s), line(s), indexing='ij')
def rms(u): return np.sqrt((u**2).mean())
SMOOTH = GaussianField(1, 64, 4., 7.)

# --- random fields ---------------------------------------------------------------------------------------------------
def test_variances():
    "Section 6, number 11; and the one of the text of the paper"
    assert GaussianField.navier_stokes(64).variance == pytest.approx(.034310, abs=5e-7)
    assert GaussianField.burgers(1024).variance == pytest.approx(.352330, abs=5e-7)
    assert GaussianField.burgers_script(1024).variance == pytest.approx(.07513, abs=5e-6)
    assert GaussianField(2, 64, 2.5, 7, sigma=7**.75).variance == pytest.approx(.001853, abs=5e-7)
    assert GaussianField(2, 64, 2.5, 7).sigma == pytest.approx(7**1.5)

@pytest.mark.parametrize('field', [GaussianField.burgers(32), GaussianField(1, 15, 1., 3.),
                                   GaussianField(2, 12, 2.5, 7.), GaussianField(3, 9, 3., 4.)])
def test_variance_by_a_loop(field):
    "The sum over all wave numbers of the mesh, the limit of an even one and the mean left out"
    m,total = (field.size-1)//2,0.
    for k in np.ndindex(*(2*m+1,)*field.dim):
        square = sum((o-m)**2 for o in k)
        if square: total += field.sigma**2*(4*pi**2*square + field.tau**2)**-field.alpha
    assert field.variance == pytest.approx(total, rel=1e-12)

def test_variance_and_spectrum_of_draws():
    field = GaussianField.burgers(64)
    u = field(4000, seed=0)
    assert u.shape == (4000, 64) and u.dtype == np.float64
    assert u.var() == pytest.approx(field.variance, rel=.03)
    # alike at every point; no mean
    assert u.var(0) == pytest.approx(np.full(64, field.variance), rel=.12)
    assert abs(u.mean(1)).max() < 1e-15
    c = np.fft.rfft(u)/64
    found = (abs(c)**2).mean(0)
    want = field.mode_variance(np.arange(33)[:, None])
    assert found[1:32] == pytest.approx(want[1:32], rel=.08) and found[32] < 1e-30
    # real and imaginary part alike and without correlation
    assert (c.real**2).mean(0)[1:9] == pytest.approx(want[1:9]/2, rel=.12)
    assert abs((c.real*c.imag).mean(0)[1:9]/want[1:9]).max() < .06

def test_spectrum_in_two_dimensions():
    "Each wave number has its own variance, on the axis where k and -k meet too; and is circular there"
    field = GaussianField(2, 10, 2., 5.)
    c = np.fft.fft2(field(3000, seed=3))/100
    k = np.stack(np.meshgrid(*[np.fft.fftfreq(10, .1)]*2, indexing='ij'), -1)
    inside = (abs(k).max(-1) < 5) & (abs(k).max(-1) > 0)
    found = (abs(c)**2).mean(0)
    assert found[inside] == pytest.approx(field.mode_variance(k)[inside], rel=.12)
    assert found[~inside].max() < 1e-30
    circular = abs((c**2).mean(0)[inside])/found[inside]
    assert circular.max() < .1

def test_the_draws_of_the_navier_stokes_field():
    assert GaussianField.navier_stokes(64)(400).var() == pytest.approx(.034310, rel=.05)

def test_periodic():
    "The step over the edge is like any other"
    u = GaussianField.navier_stokes(32)(200)
    jump = np.diff(u, axis=1, append=u[:, :1])
    assert rms(jump[:, -1]) == pytest.approx(rms(jump[:, :-1]), rel=.1)

@pytest.mark.parametrize('dim,sizes', [(1, (16, 33, 64)), (2, (8, 15, 32)), (3, (8, 9, 12))])
def test_one_field_on_many_meshes(dim, sizes):
    "A coarser mesh has the same modes, and fewer of them"
    fields = [GaussianField(dim, s, 2.5, 7.) for s in sizes]
    coarse,*others = [np.fft.fftn(f(2, 5), axes=range(1, dim+1))/f.size**dim for f in fields]
    m = (sizes[0]-1)//2
    at = (slice(None), *np.ix_(*[np.arange(-m, m+1)]*dim))
    for o in others: np.testing.assert_allclose(o[at], coarse[at], atol=1e-15)

def test_rows_depend_on_the_seed_and_their_place_alone():
    field = GaussianField.navier_stokes(16)
    u = field(5, seed=7)
    assert (field(3, seed=7) == u[:3]).all() and (field(5, seed=7) == u).all()
    assert rms(field(5, seed=8)-u) > .1*rms(u) and rms(u[0]-u[1]) > .1*rms(u)
    assert field.at(32).at(16)(2, 7).tobytes() == u[:2].tobytes()

@pytest.mark.parametrize('kw,err,says', [
    (dict(dim=4), ValueError, r"`dim` must be a whole number from 1 to 3 \(axes of a field\), got 4"),
    (dict(size=2), ValueError, r"`size` must be a whole number from 3 on \(points of an axis\), got 2. Give e.g. 64"),
    (dict(size=16.), ValueError, "`size` must be a whole number"),
    (dict(alpha=.5), ValueError, "`alpha` must be above dim/2 = 0.5, got 0.5: the variance .* Give e.g. 1.5"),
    (dict(alpha='2'), TypeError, "`alpha` must be a number, got '2'"),
    (dict(tau=0), ValueError, "`tau` must be positive and finite, got 0"),
    (dict(sigma=-1.), ValueError, "`sigma` must be positive and finite, got -1.0"),
    (dict(tau=float('nan')), ValueError, "`tau` must be positive and finite, got nan")])
def test_refused_fields(kw, err, says):
    with pytest.raises(err, match=says): GaussianField(**{**dict(dim=1, size=16, alpha=2., tau=5.), **kw})

def test_refused_draws():
    field = GaussianField.burgers(16)
    with pytest.raises(ValueError, match=r"`n` must be a whole number from 1 on \(fields\), got 0"): field(0)
    with pytest.raises(ValueError, match="`seed` must be a whole number from 0 on, got -1"): field(1, -1)
    assert repr(field) == 'GaussianField(dim=1, size=16, alpha=2, tau=5, sigma=25)'

# --- Burgers ---------------------------------------------------------------------------------------------------------
def cole_hopf(t, nu=.1, s=128):
    e = np.exp(-4*pi**2*nu*t)
    return 4*pi*nu*e*np.sin(2*pi*line(s))/(2 + e*np.cos(2*pi*line(s)))

def test_cole_hopf():
    "Section 6, number 9"
    assert [abs(cole_hopf(t)).max() for t in (0, .1, 1)] == pytest.approx([.725389, .449666, .012124], abs=1e-6)
    u0 = cole_hopf(0)[None]
    def err(T, dt): return abs(solve_burgers(u0, T, dt=dt)[0] - cole_hopf(T)).max()
    assert err(.1, 1e-2) == pytest.approx(1.2e-7, rel=.05) and err(.1, 1e-3) == pytest.approx(1.4e-11, rel=.1)
    assert err(1., 1e-2) < 9e-10
    u = solve_burgers(u0, 1.)
    assert u.shape == (1, 128) and u.dtype == np.float64

def test_order_four():
    u0 = cole_hopf(0)[None]
    errs = [abs(solve_burgers(u0, .2, dt=dt)[0] - cole_hopf(.2)).max() for dt in (.02, .01, .005)]
    assert np.log2(errs[0]/errs[1]) == pytest.approx(4, abs=.25)
    assert np.log2(errs[1]/errs[2]) == pytest.approx(4, abs=.15)

def by_scipy(du, u0, T):
    return solve_ivp(lambda t,u: du(u), (0, T), u0, method='DOP853', rtol=1e-11, atol=1e-13).y[:, -1]

def derivative(s, order):
    "Matrix of a derivative of the trigonometric polynomial through `s` points, column by column"
    k = 2j*pi*np.fft.fftfreq(s, 1/s)
    if s % 2 == 0 and order % 2: k[s//2] = 0
    return np.fft.ifft(k[:, None]**order*np.fft.fft(np.eye(s), axis=0), axis=0).real

def test_burgers_against_scipy():
    "Points and matrices instead of modes, another integrator"
    s = 64
    d1,d2 = derivative(s, 1),derivative(s, 2)
    for u0 in SMOOTH.at(s)(3, 1):
        want = by_scipy(lambda u: .05*d2@u - u*(d1@u), 2*u0, .2)
        assert abs(solve_burgers(2*u0[None], .2, nu=.05, dt=1e-3)[0]-want).max() < 2e-9

def feet(speed, t, s):
    "Where each point's characteristic started"
    miss = lambda y, x: y + speed(y)*t - x
    return np.array([brentq(miss, x-2, x+2, args=(x,), xtol=1e-14) for x in line(s)])

def test_without_viscosity_only_shape_changes():
    "Before the shock: mean and energy stay, and values ride along characteristics"
    u0 = .1*np.sin(2*pi*line(256))
    u = solve_burgers(u0[None], 1., nu=0., dt=5e-3)[0]
    foot = feet(lambda y: .1*np.sin(2*pi*y), 1., 256)
    assert abs(u - .1*np.sin(2*pi*foot)).max() < 1e-7
    assert abs(u.mean()) < 1e-16 and (u**2).sum() == pytest.approx((u0**2).sum(), rel=1e-8)

def test_mean_and_odd_meshes():
    u0 = 1. + SMOOTH.at(65)(2)
    u = solve_burgers(u0, .5)
    assert u.mean(1) == pytest.approx(u0.mean(1), abs=1e-15)
    # a moving frame sees the same wave
    fixed = solve_burgers(u0-1, .5)
    assert abs(fixed + 1 - solve_advection(u, .5, c=-1., nu=0.)).max() < 1e-6

def test_burgers_of_a_large_mesh_at_fewer_points():
    u,v = [burgers_data(3, 64, T=.2, fine=f, verbose=False) for f in (1, 4)]
    assert u[1] == pytest.approx(v[1], abs=1e-4) and rms(v[1]) > .05

# --- Navier-Stokes ---------------------------------------------------------------------------------------------------
def test_taylor_green():
    "Section 6, number 10"
    x,y = square(32)
    w0 = 2*np.cos(2*pi*x)*np.cos(2*pi*y)
    w = solve_navier_stokes(w0[None], 1., forcing=None)[0]
    decay = np.exp(-8*pi**2*1e-3)
    assert decay == pytest.approx(.92407981, abs=5e-9) and w[0,0]/2 == pytest.approx(.9240798075, abs=1e-10)
    assert abs(w - decay*w0).max() == pytest.approx(7.6e-9, rel=.02)

def forced(s):
    x,y = square(s)
    return .1*(np.sin(2*pi*(x+y)) + np.cos(2*pi*(x+y)))

def test_steady_state_and_from_rest():
    w = forced(64)/(8*pi**2*1e-3)
    assert w.max() == pytest.approx(1.791122, abs=1e-6)
    assert abs(solve_navier_stokes(w[None], 1.)[0] - w).max() < 5e-14
    assert solve_navier_stokes(0*w[None], 1.).max() == pytest.approx(.13598236, abs=1e-8)
    assert (solve_navier_stokes(0*w[None], 1., forcing=forced(64)) == solve_navier_stokes(0*w[None], 1.)).all()

def test_mean_vorticity_and_enstrophy():
    w0 = GaussianField.navier_stokes(32)(3)
    w = solve_navier_stokes(w0, 1.)
    assert abs(w.mean((1, 2)) - w0.mean((1, 2))).max() < 2e-17
    w = solve_navier_stokes(w0, 1., nu=0., dt=1e-3, forcing=None)
    ratio = (w**2).sum((1, 2))/(w0**2).sum((1, 2))
    assert ratio == pytest.approx(1, abs=5e-5)

def test_order_one():
    w0 = GaussianField.navier_stokes(16)(3)*4
    best = solve_navier_stokes(w0, .5, dt=1e-4)
    errs = [rms(solve_navier_stokes(w0, .5, dt=dt) - best) for dt in (.02, .01, .005)]
    assert np.log2(errs[0]/errs[1]) == pytest.approx(1, abs=.1) and np.log2(errs[1]/errs[2]) == pytest.approx(1, abs=.1)

def test_navier_stokes_against_scipy():
    "u.grad w written out, on points, by another integrator; the force stands in x and y as it should"
    s,nu = 16,.02
    x,y = square(s)
    d1,d2 = derivative(s, 1),derivative(s, 2)
    w0 = np.cos(2*pi*x) + .7*np.sin(2*pi*(x-y)) + .5*np.cos(2*pi*y + 1.)
    force = .3*np.sin(2*pi*(x+2*y))
    k = 2*pi*np.fft.fftfreq(s, 1/s)
    square_k = k[:, None]**2 + k**2
    square_k[0,0] = 1.
    def change(flat):
        w = flat.reshape(s, s)
        psi = np.fft.ifft2(np.fft.fft2(w)/square_k).real
        u,v = psi@d1.T,-d1@psi
        return (-u*(d1@w) - v*(w@d1.T) + nu*(d2@w + w@d2.T) + force).ravel()
    want = by_scipy(change, w0.ravel(), .2).reshape(s, s)
    one,two = [solve_navier_stokes(w0[None], .2, nu=nu, dt=dt, forcing=force)[0] for dt in (1e-3, 5e-4)]
    # the part of order one in dt taken out
    assert abs(2*two-one-want).max() < 2e-5 and abs(want-w0).max() > .1

def test_turned_flows():
    "x and y exchanged, vorticity turns its sign; and a shift is a shift"
    w0 = GaussianField.navier_stokes(16)(2)
    w = solve_navier_stokes(w0, .5)
    swapped = solve_navier_stokes(-w0.swapaxes(1, 2), .5, forcing=-forced(16))
    assert abs(swapped + w.swapaxes(1, 2)).max() < 1e-13
    moved = solve_navier_stokes(np.roll(w0, 3, 1), .5, forcing=np.roll(forced(16), 3, 0))
    assert abs(moved - np.roll(w, 3, 1)).max() < 1e-13

# --- linear equations ------------------------------------------------------------------------------------------------
def test_advection():
    s = 64
    u0 = SMOOTH.at(s)(2)
    # a quarter of the line, then once around
    assert abs(solve_advection(u0, .25, c=1., nu=0.) - np.roll(u0, 16, 1)).max() < 1e-15
    assert abs(solve_advection(u0, .5, c=-2., nu=0.) - u0).max() < 1e-15
    d1,d2 = derivative(s, 1),derivative(s, 2)
    want = by_scipy(lambda u: .01*d2@u - d1@u, u0[0], .1)
    assert abs(solve_advection(u0, .1)[0] - want).max() < 1e-9
    u,v = np.fft.rfft(u0),np.fft.rfft(solve_advection(u0, .1))
    k = np.arange(1, 20)
    assert abs(v[:, k]/u[:, k] - advection_multiplier(k, .1)).max() < 1e-8
    assert advection_multiplier(2, .1) == pytest.approx(np.exp(-(.01*16*pi**2 + 4j*pi)*.1))
    assert abs(advection_multiplier(1, .1)) == pytest.approx(.9613, abs=1e-4)

def test_heat_kernel():
    x,y = square(24)
    u = heat_kernel((np.cos(2*pi*(x+2*y)) + 3)[None], .1, nu=.05)[0]
    assert abs(u - 3 - np.exp(-.05*.1*4*pi**2*5)*np.cos(2*pi*(x+2*y))).max() < 1e-14
    u0 = SMOOTH(2)
    assert abs(heat_kernel(u0, .3)-solve_advection(u0, .3, c=0., nu=.1)).max() < 1e-16
    # what Burgers' equation is for small waves
    assert abs(solve_burgers(1e-6*u0, .1) - heat_kernel(1e-6*u0, .1)).max() < 1e-11
    assert heat_kernel(u0, [0, .1, .2]).shape == (2, 3, 64) and (heat_kernel(u0, [0, .1])[:, 0] == u0).all()

# --- KdV -------------------------------------------------------------------------------------------------------------
def soliton(t, c=.5, delta=.01, s=256):
    x = (line(s) - .3 - c*t + .5) % 1 - .5
    return 3*c/np.cosh(np.sqrt(c)/(2*delta)*x)**2

def test_soliton():
    "It crosses half the line, and nothing is left behind"
    u = solve_kdv(soliton(0)[None], 1.)[0]
    assert abs(u - soliton(1.)).max() < 1.5e-7 and soliton(0).max() > 1.49
    errs = [abs(solve_kdv(soliton(0)[None], .2, dt=dt)[0] - soliton(.2)).max() for dt in (1e-3, 5e-4, 2.5e-4)]
    assert np.log2(errs[0]/errs[1]) > 3.7 and np.log2(errs[1]/errs[2]) == pytest.approx(4, abs=.4)

def kdv_energy(u, delta=.01):
    s = u.shape[-1]
    slope = np.fft.irfft(2j*pi*np.arange(s//2+1)*np.fft.rfft(u), s)
    return (u**3/3 - delta**2*slope**2).mean(-1)

def test_kdv_keeps_mass_momentum_energy():
    u = kdv_data(4, 128, frames=6, step=.2, verbose=False)
    assert u.shape == (4, 6, 128)
    for what,tol in ((u.mean(-1), 1e-15), ((u**2).mean(-1), 1e-7), (kdv_energy(u), 1e-7)):
        assert abs(what - what[:, :1]).max() < tol
    # it does move
    assert rms(u[:, -1]-u[:, 0]) > .5*rms(u)

def test_kdv_against_scipy():
    s,delta = 64,.05
    u0 = .5*np.sin(2*pi*line(s)) + .3*np.cos(4*pi*line(s)+1)
    d1,d3 = derivative(s, 1),derivative(s, 3)
    want = by_scipy(lambda u: -u*(d1@u) - delta**2*(d3@u), u0, .2)
    assert abs(solve_kdv(u0[None], .2, delta)[0] - want).max() < 1e-9

# --- shallow water ---------------------------------------------------------------------------------------------------
def running(t, a, k=3, g=2., depth=.5, s=64):
    wave = a*np.cos(2*pi*k*(line(s) - np.sqrt(g*depth)*t))
    h,u = depth+wave,wave*np.sqrt(g/depth)
    return np.stack([h, h*u])

def test_waves_of_small_amplitude():
    "They run at sqrt(g depth), whatever their length"
    for k in (1, 3, 6):
        w = solve_shallow_water(running(0, 1e-7, k)[None], .7, g=2.)[0]
        assert abs(w - running(.7, 1e-7, k)).max() < 1e-11
    # a wave at rest splits in two
    h = 1 + 1e-7*np.cos(2*pi*line(64))
    w = solve_shallow_water(np.stack([h, 0*h])[None], .3)[0]
    assert w[0] == pytest.approx(1 + (h-1)*np.cos(2*pi*.3), abs=1e-12)
    assert w[1] == pytest.approx(1e-7*np.sin(2*pi*line(64))*np.sin(2*pi*.3), abs=1e-12)

def simple_wave(t, s=128):
    "Exact and of any height until it breaks: h = 1 + .1 sin at the foot, carried at 3 sqrt(h) - 2"
    def speed(y): return 3*np.sqrt(1 + .1*np.sin(2*pi*y)) - 2
    h = 1 + .1*np.sin(2*pi*feet(speed, t, s))
    return np.stack([h, 2*h*(np.sqrt(h)-1)])

def test_waves_of_large_amplitude():
    w = solve_shallow_water(simple_wave(0)[None], .5)[0]
    assert abs(w - simple_wave(.5)).max() < 1e-9
    errs = [abs(solve_shallow_water(simple_wave(0)[None], .5, dt=dt)[0] - simple_wave(.5)).max() for dt in (.01, .005)]
    assert np.log2(errs[0]/errs[1]) == pytest.approx(4, abs=.4)

def test_water_keeps_mass_momentum_energy():
    w = shallow_water_data(4, 64, height=.05, frames=5, step=.2, verbose=False)
    assert w.shape == (4, 5, 2, 64)
    h,hu = w[:, :, 0],w[:, :, 1]
    energy = (hu**2/h + (h-1)**2).mean(-1)/2
    energy /= energy[:, :1]
    for what,tol in ((h.mean(-1), 1e-14), (hu.mean(-1), 1e-12), (energy, 1e-6)):
        assert abs(what - what[:, :1]).max() < tol
    # still at first, of the height that was asked for
    assert abs(hu[:, 0]).max() < 1e-16 and rms(hu[:, -1]) > .005
    still = shallow_water_data(400, 64, height=.05, T=.001, verbose=False)[0]
    assert rms(still[:, 0]-1) == pytest.approx(.05, rel=.05)

def test_breaking_waves_are_said():
    with pytest.warns(RobustWarning, match="2 of 2 solutions of the shallow-water equations have come to hold "
                                           "more than 0.1% .* 32 points .* finer mesh"):
        shallow_water_data(2, 32, height=.1, T=1.5, verbose=False)

# --- all of them -----------------------------------------------------------------------------------------------------
W0 = GaussianField.navier_stokes(16)(5)
U0 = SMOOTH.at(32)(5)
WATER = np.stack([1 + .1*U0, .1*U0[::-1]], 1)
SOLVERS = [(solve_burgers, U0), (solve_navier_stokes, W0), (solve_advection, U0), (heat_kernel, W0), (solve_kdv, U0),
           (solve_shallow_water, WATER)]
each = pytest.mark.parametrize('solve,u0', SOLVERS, ids=lambda o: getattr(o, '__name__', ''))

@each
def test_rows_do_not_know_of_each_other(solve, u0, monkeypatch):
    "Bit for bit, and in blocks of any size"
    whole = solve(u0, .1)
    for i in (0, 3): assert (solve(u0[i:i+1], .1)[0] == whole[i]).all()
    monkeypatch.setattr(marching, 'POINTS', 2*u0[0].size)
    assert (solve(u0, .1) == whole).all()

@each
def test_several_times(solve, u0):
    u = solve(u0, [0, .03, .1])
    assert u.shape == (5, 3, *u0.shape[1:]) and u.dtype == np.float64
    # of water the waves that the scheme can carry
    assert abs(u[:, 0] - u0).max() < (1e-4 if solve is solve_shallow_water else 1e-14)
    assert rms(u[:, 2] - solve(u0, .1)) < 1e-6*rms(u0) and solve(u0, [.1]).shape == (5, 1, *u0.shape[1:])
    again = solve(solve(u0, .03), .07)
    assert rms(u[:, 2] - again) < 1e-5*rms(u0)

@each
def test_what_comes_in(solve, u0):
    "Tensors and float32 and whole numbers are taken; the field itself is left as it was"
    before = u0.copy()
    a = solve(u0, .1)
    assert (u0 == before).all() and (solve(torch.from_numpy(u0).requires_grad_(), .1) == a).all()
    single = solve(u0.astype(np.float32), .1)
    assert single.dtype == np.float64 and rms(single-a) < 1e-6
    assert solve(np.ones_like(u0, dtype=int), .1) == pytest.approx(solve(np.ones_like(u0), .1))

@each
def test_flat_fields(solve, u0):
    "Nothing happens, and nothing is a blow-up"
    kw = dict(forcing=None) if solve is solve_navier_stokes else {}
    flat = np.ones_like(u0)
    if solve is not solve_shallow_water: assert (solve(0*flat, .1, **kw) == 0).all()
    else: flat[:, 1] = 0
    assert solve(flat, .1, **kw) == pytest.approx(flat, abs=1e-13)

@each
@pytest.mark.parametrize('wrong,err,says', [
    (lambda u: u+0j, TypeError, "`[uw]0` must hold real numbers, got complex128. Give its `.real`"),
    (lambda u: u > 0, TypeError, "must be an array of real numbers, got one of bool"),
    (lambda u: [[1., 2.], [3.]], TypeError, "must be one array, got rows of several lengths"),
    (lambda u: np.where(np.arange(5).reshape(5, *[1]*(u.ndim-1)) > 2, np.nan, u), ValueError,
     "must be finite, got NaN or infinity in 2 of 5 fields, the first of them field 3. Leave those out"),
    (lambda u: u[..., :4], ValueError, "as many points along x|8 or more points an axis, got .* Give more"),
    (lambda u: u[:0], ValueError, "must hold at least one field")])
def test_refused_fields_at_the_door(solve, u0, wrong, err, says):
    with pytest.raises(err, match=says): solve(wrong(u0), .1)

@each
@pytest.mark.parametrize('T,err', [(0, ValueError), (-1., ValueError), (np.nan, ValueError), (np.inf, ValueError),
    ([.1, .1], ValueError), ([.2, .1], ValueError), ([-.1, .1], ValueError), ([], ValueError), ([0.], ValueError),
    ([[.1]], ValueError), ('1', TypeError), (None, TypeError), (['a'], TypeError), (True, TypeError)])
def test_refused_times(solve, u0, T, err):
    with pytest.raises(err, match="`T` must be a"): solve(u0, T)

@pytest.mark.parametrize('solve,u0,says', [
    (solve_burgers, U0[0], r"`u0` must be of shape \(n, s\), got \(32,\). One field alone: u0\[None\]"),
    (solve_burgers, W0, r"`u0` must be of shape \(n, s\), got \(5, 16, 16\). Index the axes that are too many"),
    (solve_navier_stokes, W0[0], r"`w0` must be of shape \(n, s, s\), got \(16, 16\). One field alone: w0\[None\]"),
    (solve_navier_stokes, W0[:, :12], r"as many points along x as along y, got \(5, 12, 16\). Interpolate"),
    (solve_shallow_water, U0, r"`u0` must be of shape \(n, 2, s\), got \(5, 32\). Stack height and discharge"),
    (solve_shallow_water, W0, r"`u0` must be of shape \(n, 2, s\), got \(5, 16, 16\). Stack"),
    (solve_shallow_water, WATER-1, "`u0` must have a height above 0 everywhere, got -.* no dry ground")])
def test_refused_shapes(solve, u0, says):
    with pytest.raises(ValueError, match=says): solve(u0, .1)

@pytest.mark.parametrize('f,err,says', [
    (lambda: solve_burgers(U0, 1., nu=-1), ValueError, "`nu` must be 0 or more and finite, got -1"),
    (lambda: solve_burgers(U0, 1., nu=None), TypeError, "`nu` must be a number, got None"),
    (lambda: solve_burgers(U0, 1., dt=0), ValueError, "`dt` must be positive and finite, got 0"),
    (lambda: solve_kdv(U0, 1., delta=0), ValueError, "`delta` must be positive and finite, got 0"),
    (lambda: solve_shallow_water(WATER, 1., g=np.nan), ValueError, "`g` must be positive and finite, got nan"),
    (lambda: solve_advection(U0, 1., c=np.inf), ValueError, "`c` must be finite, got inf"),
    (lambda: advection_multiplier(1, 0), ValueError, "`T` must be positive and finite, got 0"),
    (lambda: heat_kernel(U0, 1., nu=-1), ValueError, "`nu` must be 0 or more"),
    (lambda: solve_navier_stokes(W0, 1., forcing='sun'), ValueError, r"must be 'fno', None or an array \(16, 16\)"),
    (lambda: solve_navier_stokes(W0, 1., forcing=.1), ValueError, "`forcing` must be 'fno', None or .*, got 0.1"),
    (lambda: solve_navier_stokes(W0, 1., forcing=forced(8)), ValueError, r"grid of `w0`, \(16, 16\), got \(8, 8\)"),
    (lambda: solve_navier_stokes(W0, 1., forcing=forced(16)+1j), TypeError, "`forcing` must hold real numbers"),
    (lambda: solve_navier_stokes(W0, 1., forcing=forced(16)*np.nan), ValueError, "`forcing` must be finite")])
def test_refused_constants(f, err, says):
    with pytest.raises(err, match=says): f()

def test_steps_land_on_the_times():
    assert steps_to(np.array([1.]), .01) == [(100, .01)]
    assert steps_to(np.array([0., .1, .25]), .04) == [(0, 0.), (3, pytest.approx(.1/3)), (4, pytest.approx(.15/4))]
    assert steps_to(np.array([.3]), .1)[0][0] == 3 and steps_to(np.array([.001]), .1) == [(1, .001)]

@pytest.mark.parametrize('f,says', [
    (lambda: solve_burgers(20*U0, 1., nu=1e-4, dt=.05), "Burgers' equation allows, got .* in field [0-4]: steps of"),
    (lambda: solve_kdv(20*U0, 1., dt=.01), "the KdV equation allows"),
    (lambda: solve_navier_stokes(50*W0, 5., nu=1e-5, dt=.1), "the Navier-Stokes equation allows, got .* Give dt=.* or"),
    (lambda: solve_shallow_water(WATER, 1., dt=.1), "the shallow-water equations allows|equations allow")])
def test_steps_that_are_too_long_are_named(f, says):
    with pytest.raises(BlowUp, match=says): f()
    assert issubclass(BlowUp, FloatingPointError)

def test_the_step_that_a_blow_up_asks_for_is_enough():
    kw = dict(n=4, size=256, nu=1e-2, T=.3, field=GaussianField(1, 8, 2., 5., 100.), verbose=False)
    with pytest.raises(BlowUp) as e: burgers_data(dt=.1, **kw)
    dt = float(str(e.value).split('dt=')[1].split()[0])
    assert dt < .05
    burgers_data(dt=dt, **kw)

@pytest.mark.filterwarnings('ignore:.*barely resolve')
def test_a_step_that_lets_short_waves_grow_is_said():
    with pytest.warns(RobustWarning, match=r"steps of 0.01 make the shortest .* grow by exp.* Give dt=\S+ or less"):
        solve_navier_stokes(8*GaussianField.navier_stokes(64)(2), .4, nu=1e-5, forcing=None)

@pytest.mark.filterwarnings('error::fastrobust.basics.RobustWarning')
def test_the_defaults_are_silent():
    burgers_data(20, 64, verbose=False)
    navier_stokes_data(4, 32, frames=10, verbose=False)
    kdv_data(4, 256, T=.5, verbose=False)
    shallow_water_data(10, 64, verbose=False)

# --- what the solvers are made of -------------------------------------------------------------------------------------
@pytest.mark.parametrize('s', [32, 33, 34])
def test_no_alias(s):
    "The square is that of the modes kept, and no more, by a double loop; those are as many as can be"
    last = wave_numbers(s)[1]
    assert 3*last < s <= 3*(last+1)
    g = np.random.default_rng(s)
    v = np.fft.rfft(g.standard_normal(s))
    kept = {k: v[abs(k)] if k >= 0 else v[-k].conj() for k in range(-last, last+1)}
    want = np.zeros(s//2+1, complex)
    for a in kept:
        for b in kept:
            if 0 <= a+b <= last: want[a+b] -= 1j*pi*(a+b)*kept[a]*kept[b]/s
    np.testing.assert_allclose(Burgers(s, .1).nonlinear(v[None])[0], want, atol=1e-10)

@pytest.mark.parametrize('s', [16, 17])
def test_energies_are_those_of_the_fields(s):
    g = np.random.default_rng(0)
    u,w = g.standard_normal((3, s)) + 1,g.standard_normal((3, s, s)) + 1
    for eq,x in ((Burgers(s, .1), u), (KdV(s, .01), u), (Vorticity(s, .1, 0*w[0]), w)):
        assert eq.energy(eq.start(x)) == pytest.approx((x**2).reshape(3, -1).mean(1))
        assert 0 < eq.tail_share(eq.start(x)).max() < 1
    # of water with small waves both energies are one
    h = 1 + 1e-6*np.sin(2*pi*line(s))
    eq = ShallowWater(s, 2., 1.)
    v = eq.start(np.stack([h, 1e-6*np.cos(4*pi*line(s))])[None])
    assert eq.energy(v) == pytest.approx([7.5e-13], rel=1e-4)
    assert eq.power(v).sum() == pytest.approx(7.5e-13, rel=1e-4)

@pytest.mark.parametrize('eq,solve,u0,by', [
    (Burgers, solve_burgers, U0, 1.002), (KdV, solve_kdv, U0, 1.003), (KdV, solve_kdv, U0, .997),
    (Vorticity, solve_navier_stokes, 10*W0, 1.1), (ShallowWater, solve_shallow_water, WATER, 1.003)])
def test_energy_out_of_nothing(eq, solve, u0, by, monkeypatch):
    "However little it is a step"
    monkeypatch.setattr(eq, 'stepper', lambda *_: lambda v: by*v)
    with pytest.raises(BlowUp, match="expected an energy that .* allows?, got .* after .* at the start .* Give dt="):
        solve(u0, 10., dt=.5)

def test_dry_ground_is_named(monkeypatch):
    monkeypatch.setattr(ShallowWater, 'stepper', lambda *_: lambda v: -v)
    with pytest.raises(BlowUp, match="got a depth below 0 or numbers without bound at t = 0.01 in field 0"):
        solve_shallow_water(WATER, .01, dt=.01)

@pytest.mark.filterwarnings('error::fastrobust.basics.RobustWarning')
def test_still_water_of_any_depth():
    for s in range(31, 41):
        w = np.stack([np.full(s, .7), np.zeros(s)])[None]
        assert abs(solve_shallow_water(w, .5, dt=.01) - w).max() < 1e-14

# --- data ------------------------------------------------------------------------------------------------------------
QUICK = [(burgers_data, dict(T=.05), (32,)), (navier_stokes_data, dict(frames=2, step=.05), (2, 16, 16)),
         (advection_data, {}, (32,)), (kdv_data, dict(T=.01, field=SMOOTH), (32,)),
         (shallow_water_data, dict(T=.05), (2, 32))]
maker = pytest.mark.parametrize('make,kw,shape', QUICK, ids=[o[0].__name__ for o in QUICK])
def quick(make, kw, n=3, **more):
    if make is not advection_data: more.setdefault('verbose', False)
    out = make(n, 16 if make is navier_stokes_data else 32, **{**kw, **more})
    return out if isinstance(out, tuple) else (out,)

@maker
def test_data_by_seed(make, kw, shape):
    state = np.random.get_state()[1].tobytes(),torch.get_rng_state().numpy().tobytes(),random.getstate()
    a = quick(make, kw)
    assert all(o.shape == (3, *shape) and o.dtype == np.float64 and np.isfinite(o).all() for o in a)
    assert all((o == p).all() for o,p in zip(a, quick(make, kw)))
    # the first of more
    assert all((o == p[:3]).all() for o,p in zip(a, quick(make, kw, 5)))
    assert rms(a[0]-quick(make, kw, seed=1)[0]) > 1e-3
    assert state == (np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes(), random.getstate())

@maker
def test_trajectories(make, kw, shape):
    kw = {k: v for k,v in kw.items() if k == 'field'}
    u, = quick(make, kw, frames=3, step=.02)
    late, = quick(make, kw, frames=2, step=.02, start=.02)
    start = 1. if make is navier_stokes_data else 0.
    assert u.shape == (3, 3, *shape[make is navier_stokes_data:])
    if not start: assert abs(u[:, 1:] - late).max() < 1e-8
    else: assert rms(u-quick(make, kw, frames=3, step=.02, start=1.)[0]) == 0

def test_pairs_and_trajectories_are_of_one_kind():
    u0,u = burgers_data(2, 32, T=.1, verbose=False)
    frames = burgers_data(2, 32, frames=3, step=.05, verbose=False)
    assert (frames[:, 0] == u0).all() and abs(frames[:, 2]-u).max() < 1e-15
    assert abs(u0 - GaussianField.burgers(32)(2)).max() < 1e-15

def test_other_starts():
    a,_ = burgers_data(2, 32, T=.1, field=SMOOTH, verbose=False)
    assert abs(a - SMOOTH.at(32)(2)).max() < 1e-15

@maker
def test_a_file(make, kw, shape, tmp_path, monkeypatch):
    "Written once, read after that; files of other settings are refused by name"
    path = tmp_path/'deep'/'data.npz'
    a = quick(make, kw, path=path)
    assert [o.name for o in path.parent.iterdir()] == ['data.npz']
    with np.load(path) as f:
        assert f['u'].shape[-len(shape):] == shape and json.loads(str(f['settings']))['n'] == 3
    monkeypatch.setattr(GaussianField, '__call__', lambda *a: 1/0)
    assert all((o == p).all() for o,p in zip(a, quick(make, kw, path=str(path))))
    with pytest.raises(ValueError, match=r"data of these settings in '.*data.npz', got others: n=3 for 4, seed=0 for "
                                         "2. Give another `path`, or delete the file"):
        quick(make, kw, 4, seed=2, path=path)
    field = GaussianField(2 if make is navier_stokes_data else 1, 8, 3., 9.)
    with pytest.raises(ValueError, match="got others: field="): quick(make, {**kw, 'field': field}, path=path)

def test_settings_survive_the_file(tmp_path):
    "Numpy's numbers are the same numbers; a force is known by what it is"
    p = tmp_path/'a.npz'
    burgers_data(2, 32, nu=.1, T=.05, path=p, verbose=False)
    burgers_data(np.int64(2), 32, nu=np.float64(.1), T=.05, path=p, verbose=False)
    with pytest.raises(ValueError, match="nu=0.1 for 0.2"): burgers_data(2, 32, nu=np.float32(.2), T=.05, path=p)
    q = tmp_path/'b.npz'
    kw = dict(size=16, frames=2, step=.05, path=q, verbose=False)
    navier_stokes_data(2, forcing=forced(16), **kw)
    assert navier_stokes_data(2, forcing=forced(16).tolist(), **kw).shape == (2, 2, 16, 16)
    with pytest.raises(ValueError, match="forcing='crc .*' for 'crc "):
        navier_stokes_data(2, forcing=2*forced(16), **kw)

@pytest.mark.parametrize('spoil', [lambda p: p.write_bytes(b'no'), lambda p: p.write_bytes(p.read_bytes()[:200]),
                                   lambda p: np.savez(p, x=1), lambda p: (p.unlink(), p.mkdir())])
def test_damaged_files(spoil, tmp_path):
    p = tmp_path/'a.npz'
    advection_data(2, 32, path=p)
    spoil(p)
    with pytest.raises(ValueError, match=r"expected data that this function wrote in '.*a.npz', got another or"):
        advection_data(2, 32, path=p)

def test_interrupted_making_leaves_nothing(tmp_path, monkeypatch):
    p = tmp_path/'a.npz'
    def stop(*_): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(marching, '_watch', stop)
        with pytest.raises(KeyboardInterrupt): burgers_data(2, 32, path=p, verbose=False)
    assert not list(tmp_path.iterdir())
    def half(f, **_):
        f.write(b'PK half')
        raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(making.np, 'savez', half)
        with pytest.raises(KeyboardInterrupt): burgers_data(2, 32, path=p, verbose=False)
    assert not list(tmp_path.iterdir())
    burgers_data(2, 32, path=p, verbose=False)
    assert p.exists()

@pytest.mark.parametrize('kw,err,says', [
    (dict(n=0), ValueError, r"`n` must be a whole number from 1 on \(fields\), got 0"),
    (dict(size=4), ValueError, "`size` must be a whole number from 8 on"),
    (dict(T=0), ValueError, "`T` must be positive and finite, got 0"),
    (dict(seed=.5), ValueError, "`seed` must be a whole number"),
    (dict(frames=1), ValueError, r"`frames` must be a whole number from 2 on .*, got 1. Give e.g. 20; None: pairs"),
    (dict(frames=3, step=0), ValueError, "`step` must be positive"),
    (dict(frames=3, start=-1), ValueError, "`start` must be 0 or more"),
    (dict(fine=0), ValueError, "`fine` must be a whole number from 1 on"),
    (dict(field=3), TypeError, r"`field` must be a GaussianField, got 3. Give e.g. GaussianField\(1, 32, .* solve_"),
    (dict(field=GaussianField.navier_stokes()), ValueError, r"must be of dim=1, got GaussianField\(dim=2.* Give"),
    (dict(path='a.pt'), ValueError, "`path` must end in .npz, got 'a.pt'. Give e.g. 'a.npz'")])
def test_refused_data(kw, err, says):
    for make in (burgers_data, advection_data, kdv_data, shallow_water_data):
        with pytest.raises(err, match=says): make(**{**dict(n=2, size=32), **kw})

def test_refused_data_in_two_dimensions():
    with pytest.raises(ValueError, match="`field` must be of dim=2"): navier_stokes_data(2, 16, field=SMOOTH)

# --- the bar ---------------------------------------------------------------------------------------------------------
def test_a_bar_where_it_takes_long(monkeypatch):
    seen = []
    class Recorder:
        def __init__(self, gen, leave): self.total,self.leave = len(gen),leave
        def update(self, i): seen.append((i, self.total, self.leave))
    clock = iter(np.arange(0, 1e4, .1))
    monkeypatch.setattr(marching, 'progress_bar', Recorder)
    solve_burgers(U0, 1., verbose=True)
    assert not seen
    monkeypatch.setattr(marching.time, 'perf_counter', lambda: next(clock))
    solve_burgers(U0, 1.)
    assert not seen
    solve_burgers(U0, 1., verbose=True)
    assert seen[0] == (0, 100, False) and seen[-1] == (100, 100, False) and 80 < len(seen) < 95
    assert [o[0] for o in seen] == sorted(o[0] for o in seen)

def test_the_cost_is_linear_in_the_mesh():
    "Generously: four times the points for at most eight times the seconds"
    def seconds(s):
        u,best = SMOOTH.at(s)(64),np.inf
        for _ in range(3):
            since = time.process_time()
            solve_burgers(u, .1)
            best = min(best, time.process_time()-since)
        return best
    assert seconds(1024) < 8*seconds(256)
