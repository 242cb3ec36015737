"Burgers' equation on a periodic line: waves that steepen and wear away"
import numpy as np
from scipy import fft
from fastrobust.systems.koopman.equations.gaussian import GaussianField
from fastrobust.systems.koopman.equations.given import need_field, need_positive
from fastrobust.systems.koopman.equations.making import make_data
from fastrobust.systems.koopman.equations.marching import Equation, ifrk4, march, twice, wave_numbers

__all__ = ['solve_burgers', 'burgers_data']

class Steepening(Equation):
    "v_t = linear v - (v^2)_x/2 on a line, such as Burgers' and the KdV equation"
    def __init__(self, s, linear):
        self.s,self.linear = s,linear
        self.k,self.last = wave_numbers(s)
        self.keep = np.arange(len(self.k)) <= self.last
        self.flux = -.5j*self.k*self.keep
        self.weight = twice(s)/s**2

    def start(self, u): return fft.rfft(u)
    def field(self, v): return fft.irfft(v, self.s)
    def nonlinear(self, v): return self.flux*fft.rfft(fft.irfft(v*self.keep, self.s)**2)
    def stepper(self, dt): return ifrk4(self.linear, self.nonlinear, dt)
    def power(self, v): return self.weight*(v.real**2 + v.imag**2)
    def tail(self): return (np.arange(len(self.k)) > .75*self.last) & self.keep

    def longest(self, u):
        "Runge-Kutta's limit on the imaginary axis, for the fastest point and the shortest wave"
        return 2.8/(self.k[self.last]*np.abs(u).max() + 1e-300)

class Burgers(Steepening):
    "u_t + (u^2/2)_x = nu u_xx"
    name = "Burgers' equation"

    def __init__(self, s, nu):
        super().__init__(s, -nu*wave_numbers(s)[0]**2)

    def bounds(self, e, t): return 0*e,1.01*e

def solve_burgers(
    u0,             # Fields at time 0, real (n, s), on [0,1) periodic
    T,              # Time to solve to, above 0; several that grow: a frame for each
    nu=.1,          # Viscosity, from 0 on; .1 is that of the published file (its tag R10)
    dt=1e-2,        # Longest step, time units; a little less where it does not fit T
    verbose=False   # A bar, where it takes more than a second?
)->np.ndarray:      # float64 (n, s), or (n, t, s) for several times
    "u_t + (u^2/2)_x = nu u_xx by Fourier modes, as in https://arxiv.org/abs/2010.08895"
    # 2/3 rule; the diffusion exactly by an integrating factor, the rest by Runge-Kutta of order 4
    u0 = need_field('u0', u0, 'line')
    nu = need_positive('nu', nu, zero=True)
    return march(Burgers(u0.shape[-1], nu), u0, T, dt, verbose)

def burgers_data(
    n:int,          # Fields
    size:int,       # Points of what comes back
    nu=.1,          # Viscosity, from 0 on; the published file has .1
    T=1.,           # Time between the two fields of a pair; not looked at with `frames`
    seed=0,         # Of the fields at the start
    frames=None,    # Frames of a trajectory; None: pairs
    step=.05,       # Time from frame to frame
    start=0.,       # Time of the first frame
    dt=1e-2,        # Longest step of the solver, time units
    field=None,     # GaussianField of the start (of any size); None: `GaussianField.burgers`
    fine=1,         # Solve on a mesh so many times finer, and take every so manyth point
    path=None,      # File (.npz) to read, or to write if it is not there; None: keep nothing
    verbose=True    # A bar, where it takes more than a second?
):                  # u at 0 and u at T, float64 (n, size) each; with `frames` (n, frames, size)
    "Random fields and where Burgers' equation brings them"
    if field is None: field = GaussianField.burgers()
    def solve(u0, times): return solve_burgers(u0, times, nu, dt, verbose)
    return make_data('burgers', solve, field, n, size, T, seed, frames, step, start, fine, path,
                     nu=nu, dt=dt)
