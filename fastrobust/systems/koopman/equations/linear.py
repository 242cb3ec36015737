"Advection with diffusion and the heat equation: linear, so exact mode by mode"
import numpy as np
from scipy import fft
from fastrobust.systems.koopman.equations.gaussian import GaussianField
from fastrobust.systems.koopman.equations.given import need_field, need_finite, need_positive, need_times
from fastrobust.systems.koopman.equations.making import make_data

__all__ = ['advection_multiplier', 'solve_advection', 'advection_data', 'heat_kernel']

def advection_multiplier(
    k,          # Wave numbers, whole, any shape
    T,          # Time, above 0
    c=1.,       # Speed, domains per time unit; any sign
    nu=.01      # Diffusion, from 0 on
):              # complex, shape of `k`
    "mu_k = exp(-(nu (2 pi k)^2 + 2 pi i k c) T): what time `T` does to wave number `k`"
    # the exact spectrum of the operator that a network learns from `advection_data`
    T = need_positive('T', T)
    k = 2*np.pi*np.asarray(k, float)
    return np.exp(-(need_positive('nu', nu, zero=True)*k**2 + 1j*k*need_finite('c', c))*T)

def _each_time(u, T, multiplier):
    "`u` after each of the times, by what its modes are multiplied with"
    times,single = need_times(T)
    axes,grid = tuple(range(1, u.ndim)),u.shape[1:]
    v = fft.rfftn(u, axes=axes)
    out = np.stack([fft.irfftn(v*multiplier(t), s=grid, axes=axes) if t else u for t in times], 1)
    return out[:, 0] if single else out

def solve_advection(
    u0,         # Fields at time 0, real (n, s), on [0,1) periodic
    T,          # Time to solve to, above 0; several that grow: a frame for each
    c=1.,       # Speed, domains per time unit; any sign
    nu=.01      # Diffusion, from 0 on; 0 only moves the field
)->np.ndarray:  # float64 (n, s), or (n, t, s) for several times
    "u_t + c u_x = nu u_xx, exactly, mode by mode; see `advection_multiplier`"
    u0 = need_field('u0', u0, 'line')
    k = np.arange(u0.shape[-1]//2+1)
    need_positive('nu', nu, zero=True)
    need_finite('c', c)
    return _each_time(u0, T, lambda t: advection_multiplier(k, t, c, nu))

def heat_kernel(
    u0,         # Fields at time 0, real (n, *grid), on the periodic unit interval, square or cube
    T,          # Time to solve to, above 0; several that grow: a frame for each
    nu=.1       # Diffusion, from 0 on
)->np.ndarray:  # float64 (n, *grid), or (n, t, *grid) for several times
    "u_t = nu Laplace u, exactly: Burgers' and the Navier-Stokes equation without their flow"
    u0 = need_field('u0', u0, 'any')
    nu = need_positive('nu', nu, zero=True)
    grid = u0.shape[1:]
    ks = [fft.fftfreq(s, 1/s) for s in grid[:-1]] + [np.arange(grid[-1]//2+1)]
    square = sum((2*np.pi*k)**2 for k in np.meshgrid(*ks, indexing='ij'))
    return _each_time(u0, T, lambda t: np.exp(-nu*square*t))

def advection_data(
    n:int,          # Fields
    size:int,       # Points of what comes back
    c=1.,           # Speed, domains per time unit; any sign
    nu=.01,         # Diffusion, from 0 on
    T=.1,           # Time between the two fields of a pair; not looked at with `frames`
    seed=0,         # Of the fields at the start
    frames=None,    # Frames of a trajectory; None: pairs
    step=.1,        # Time from frame to frame
    start=0.,       # Time of the first frame
    field=None,     # GaussianField of the start (of any size); None: `GaussianField.burgers`
    fine=1,         # Solve on a mesh so many times finer, and take every so manyth point
    path=None       # File (.npz) to read, or to write if it is not there; None: keep nothing
):                  # u at 0 and u at T, float64 (n, size) each; with `frames` (n, frames, size)
    "Random fields and where advection and diffusion bring them"
    if field is None: field = GaussianField.burgers()
    def solve(u0, times): return solve_advection(u0, times, c, nu)
    return make_data('advection', solve, field, n, size, T, seed, frames, step, start, fine, path,
                     c=c, nu=nu)
