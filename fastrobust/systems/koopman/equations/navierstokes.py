"The Navier-Stokes equation of a stirred film: vorticity on a periodic square"
import zlib
import numpy as np
from scipy import fft
from fastrobust.basics import robust_warn, shown
from fastrobust.systems.koopman.equations.gaussian import GaussianField
from fastrobust.systems.koopman.equations.given import need_field, need_positive
from fastrobust.systems.koopman.equations.making import make_data
from fastrobust.systems.koopman.equations.marching import Equation, march, twice, wave_numbers

__all__ = ['solve_navier_stokes', 'navier_stokes_data']

class Vorticity(Equation):
    "w_t + u.grad w = nu Laplace w + f, with u = (psi_y, -psi_x) and -Laplace psi = w"
    name = 'the Navier-Stokes equation'

    def __init__(self, s, nu, force):
        self.s,self.nu,self.force = s,nu,fft.rfft2(force)
        ky,self.last = wave_numbers(s)
        kx = 2*np.pi*fft.fftfreq(s, 1/s)[:, None]
        self.size = np.maximum(abs(kx), ky)/(2*np.pi)
        self.keep = self.size <= self.last
        self.square = kx**2 + ky**2
        psi = self.keep/np.where(self.square == 0, 1., self.square)
        self.to_u,self.to_v = 1j*ky*psi,-1j*kx*psi
        # u.grad w = (d_xx - d_yy)(u v) + d_xy(v^2 - u^2), as u has no divergence: two products
        self.of_uv,self.of_squares = self.keep*(ky**2 - kx**2),self.keep*-kx*ky
        self.weight = twice(s)/s**4

    def start(self, w): return fft.rfft2(w)
    def field(self, v): return fft.irfft2(v, (self.s, self.s))
    def velocity(self, v): return self.field(self.to_u*v),self.field(self.to_v*v)

    def advection(self, v):
        a,b = self.velocity(v)
        return self.of_uv*fft.rfft2(a*b) + self.of_squares*fft.rfft2(b**2 - a**2)

    def stepper(self, dt):
        "Explicit Euler for advection and force, Crank-Nicolson for diffusion"
        half = .5*dt*self.nu*self.square
        keep,take,given = (1-half)/(1+half),dt/(1+half),dt*self.force/(1+half)
        return lambda v: keep*v - take*self.advection(v) + given

    def power(self, v): return self.weight*(v.real**2 + v.imag**2)
    def tail(self): return (self.size > .75*self.last) & self.keep

    def bounds(self, e, t):
        "Advection moves enstrophy, diffusion takes it away, the force adds: twice that is too much"
        force = np.sqrt(self.power(self.force).sum())
        return 0*e,4*(np.sqrt(e) + t*force)**2 + 1e-12*force**2

    def squared_speed(self, w):
        a,b = self.velocity(fft.rfft2(w))
        return a**2 + b**2

    def longest(self, w):
        "Euler makes a wave k grow as k^2 u^2 dt/2, which diffusion nu k^2 has to outweigh"
        u = np.sqrt(self.squared_speed(w).max()) + 1e-300
        short = .5/(2*np.pi*self.last*u)
        return min(short, 2*self.nu/u**2) if self.nu else short/10

def _warn_growth(eq, w, T, dt):
    "Say if Euler's steps make short waves grow faster than diffusion takes them away"
    # on average over the square: no wave stays where the flow is fastest
    square = float(eq.squared_speed(w).mean((1, 2)).max())
    grown = (square*dt/2 - eq.nu)*(2*np.pi*eq.last)**2*T
    if grown < 1: return
    fix = "Without viscosity any step does so in the end: shorten it."
    if eq.nu: fix = f"Give dt={2*eq.nu/square:.1e} or less."
    robust_warn(f"steps of {dt:.3g} make the shortest waves of a flow of speed {square**.5:.2g} grow by "
                f"exp({grown:.2g}) over T = {T:.3g}. {fix}")

def _force(forcing, s):
    "The force on a grid of `s` points an axis"
    if forcing is None: return np.zeros((s, s))
    if isinstance(forcing, str) and forcing == 'fno':
        x = np.arange(s)/s
        a = 2*np.pi*(x[:, None] + x)
        return .1*(np.sin(a) + np.cos(a))
    if np.ndim(forcing) == 0:
        raise ValueError(f"`forcing` must be 'fno', None or an array ({s}, {s}), got {shown(forcing)}. "
                         "Give None to let the flow come to rest.")
    if np.shape(forcing) != (s, s):
        raise ValueError(f"`forcing` must be of the grid of `w0`, ({s}, {s}), got "
                         f"{np.shape(forcing)}. It is the same at all times.")
    return need_field('forcing', np.asarray(forcing)[None], 'square')[0]

def solve_navier_stokes(
    w0,             # Vorticity at time 0, real (n, s, s), on [0,1)^2 periodic; axes x, y
    T,              # Time to solve to, above 0; several that grow: a frame for each
    nu=1e-3,        # Viscosity, from 0 on; published files have 1e-3, 1e-4, 1e-5
    # Longest step, time units; keep it below 2 nu/speed^2. Published files: 1e-4 at 256 points
    dt=1e-2,
    # .1 (sin 2 pi(x+y) + cos 2 pi(x+y)), as in published files; None; an array (s, s)
    forcing='fno',
    verbose=False   # A bar, where it takes more than a second?
)->np.ndarray:      # float64 (n, s, s), or (n, t, s, s) for several times
    "w_t + u.grad w = nu Laplace w + f by Fourier modes, as in https://arxiv.org/abs/2010.08895"
    # 2/3 box; diffusion by Crank-Nicolson, the rest by explicit Euler: first order in `dt`
    w0 = need_field('w0', w0, 'square')
    nu = need_positive('nu', nu, zero=True)
    s = w0.shape[-1]
    eq = Vorticity(s, nu, _force(forcing, s))
    w = march(eq, w0, T, dt, verbose)
    _warn_growth(eq, w if np.ndim(T) == 0 else w[:, -1], float(np.max(T)), dt)
    return w

def navier_stokes_data(
    n:int,          # Trajectories
    size:int,       # Points of each axis of what comes back
    nu=1e-3,        # Viscosity, from 0 on; published: 1e-3 (50 frames), 1e-4 (30), 1e-5 (20)
    frames=20,      # Frames of a trajectory
    dt=1e-2,        # Longest step of the solver, time units
    seed=0,         # Of the fields at the start
    step=1.,        # Time from frame to frame
    start=1.,       # Time of the first frame; published files leave out that at 0
    forcing='fno',  # As in `solve_navier_stokes`; an array is of the mesh it is solved on
    field=None,     # GaussianField of the start (of any size); None: `GaussianField.navier_stokes`
    fine=1,         # Solve on a mesh so many times finer, and take every so manyth point
    path=None,      # File (.npz) to read, or to write if it is not there; None: keep nothing
    verbose=True    # A bar, where it takes more than a second?
):                  # float64 (n, frames, size, size)
    "Random flows and what becomes of them"
    if field is None: field = GaussianField.navier_stokes()
    def solve(w0, times): return solve_navier_stokes(w0, times, nu, dt, forcing, verbose)
    mark = forcing
    if np.ndim(forcing): mark = f'crc {zlib.crc32(np.asarray(forcing, float).tobytes()):08x}'
    return make_data('navier_stokes', solve, field, n, size, None, seed, frames, step, start, fine,
                     path, nu=nu, dt=dt, forcing=mark)
