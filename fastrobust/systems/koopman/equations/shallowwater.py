"Shallow water on a periodic line: long waves that run both ways and never wear away"
import numpy as np
from scipy import fft
from fastrobust.systems.koopman.equations.gaussian import GaussianField
from fastrobust.systems.koopman.equations.given import need_field, need_positive
from fastrobust.systems.koopman.equations.making import make_data
from fastrobust.systems.koopman.equations.marching import Equation, ifrk4, march, twice, wave_numbers

__all__ = ['solve_shallow_water', 'shallow_water_data']

class ShallowWater(Equation):
    "h_t + (h u)_x = 0, u_t + (u^2/2 + g h)_x = 0 for the height and the speed"
    # of all forms the one that, cut to the modes kept, still preserves mass, momentum and energy
    name = 'the shallow-water equations'
    broke = 'a depth below 0 or numbers without bound'

    def __init__(self, s, g, depth):
        self.s,self.g,self.depth,self.slack = s,g,depth,1e-20*g*depth**2
        self.k,self.last = wave_numbers(s)
        self.keep = np.arange(len(self.k)) <= self.last
        self.flux = -1j*self.k*self.keep
        self.weight = twice(s)/s**2

    def start(self, w):
        h,hu = w[:, 0],w[:, 1]
        return self.keep*fft.rfft(np.stack([h, hu/h], 1))

    def field(self, v):
        h,u = fft.irfft(v, self.s).swapaxes(0, 1)
        return np.stack([h, h*u], 1)

    def change(self, v):
        h,u = fft.irfft(v, self.s).swapaxes(0, 1)
        return self.flux*fft.rfft(np.stack([h*u, u**2/2 + self.g*h], 1))

    def stepper(self, dt): return ifrk4(0., self.change, dt)

    def power(self, v):
        "Of small waves: g h^2/2 without the mean depth, and depth u^2/2"
        p = self.weight*(v.real**2 + v.imag**2)/2
        p[:, 0, 0] = 0.
        return p*np.array([self.g, self.depth])[:, None]

    def tail(self): return np.stack([(np.arange(len(self.k)) > .75*self.last) & self.keep]*2)

    def energy(self, v):
        "(h u^2 + g (h - depth)^2)/2, as a mean over the line; NaN where the ground falls dry"
        h,u = fft.irfft(v, self.s).swapaxes(0, 1)
        e = (h*u**2 + self.g*(h - h.mean(1, keepdims=True))**2).mean(1)/2
        return np.where(h.min(1) > 0, e, np.nan)

    def bounds(self, e, t): return .98*e - self.slack,1.02*e + self.slack

    def longest(self, w):
        h,u = w[:, 0],w[:, 1]/w[:, 0]
        return 2.8/(self.k[self.last]*(abs(u) + np.sqrt(self.g*h)).max())

def solve_shallow_water(
    u0,             # Height and discharge h, hu at time 0, real (n, 2, s), on [0,1) periodic
    T,              # Time to solve to, above 0; several that grow: a frame for each
    g=1.,           # Gravity, above 0: small waves run at sqrt(g h), in domains per time unit
    dt=1e-3,        # Longest step, time units; a little less where it does not fit T
    verbose=False   # A bar, where it takes more than a second?
)->np.ndarray:      # float64 (n, 2, s), or (n, t, 2, s) for several times
    "h_t + (hu)_x = 0, (hu)_t + (hu^2 + g h^2/2)_x = 0, until waves break: https://arxiv.org/abs/2210.07182"
    # Fourier modes (2/3 rule), Runge-Kutta of order 4
    u0 = need_field('u0', u0, 'water')
    g = need_positive('g', g)
    if u0[:, 0].min() <= 0:
        raise ValueError(f"`u0` must have a height above 0 everywhere, got {u0[:, 0].min():.3g} at the "
                         "lowest. This scheme knows no dry ground: raise the depth, or lower the waves.")
    s = u0.shape[-1]
    return march(ShallowWater(s, g, float(u0[:, 0].mean())), u0, T, dt, verbose)

def shallow_water_data(
    n:int,          # Fields
    size:int,       # Points of what comes back
    g=1.,           # Gravity, above 0
    depth=1.,       # Mean depth, above 0
    # Standard deviation of the surface at the start, share of the depth; at .02 waves break after T = 3
    height=.02,
    T=1.,           # Time between the two fields of a pair; not looked at with `frames`
    seed=0,         # Of the fields at the start
    frames=None,    # Frames of a trajectory; None: pairs
    step=.05,       # Time from frame to frame
    start=0.,       # Time of the first frame
    dt=1e-3,        # Longest step of the solver, time units
    field=None,     # GaussianField of the surface (of any size and scale); None: alpha=3, tau=7
    fine=1,         # Solve on a mesh so many times finer, and take every so manyth point
    path=None,      # File (.npz) to read, or to write if it is not there; None: keep nothing
    verbose=True    # A bar, where it takes more than a second?
):                  # (h, hu) at 0 and T, float64 (n, 2, size) each; with `frames` (n, frames, 2, size)
    "Random surfaces of water at rest and the waves that they become"
    depth,height = need_positive('depth', depth),need_positive('height', height)
    if field is None: field = GaussianField(1, 1024, 3., 7.)
    def solve(u0, times): return solve_shallow_water(u0, times, g, dt, verbose)
    def begin(f):
        h = depth*(1 + height*f/np.sqrt(field.variance))
        return np.stack([h, 0*h], 1)
    return make_data('shallow_water', solve, field, n, size, T, seed, frames, step, start, fine,
                     path, begin, g=g, depth=depth, height=height, dt=dt)
