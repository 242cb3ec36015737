"The Korteweg-de Vries equation on a periodic line: waves that meet and never wear away"
import numpy as np
from fastrobust.systems.koopman.equations.burgers import Steepening
from fastrobust.systems.koopman.equations.gaussian import GaussianField
from fastrobust.systems.koopman.equations.given import need_field, need_positive
from fastrobust.systems.koopman.equations.making import make_data
from fastrobust.systems.koopman.equations.marching import march, wave_numbers

__all__ = ['solve_kdv', 'kdv_data']

class KdV(Steepening):
    "u_t + u u_x + delta^2 u_xxx = 0; mass, momentum and energy last for ever"
    name = 'the KdV equation'

    def __init__(self, s, delta):
        super().__init__(s, 1j*delta**2*wave_numbers(s)[0]**3)

    def bounds(self, e, t): return .98*e,1.02*e

def solve_kdv(
    u0,             # Fields at time 0, real (n, s), on [0,1) periodic
    T,              # Time to solve to, above 0; several that grow: a frame for each
    delta=.01,      # Dispersion, above 0; Zabusky and Kruskal: .022 on [0,2), here .022/sqrt(8)
    dt=2e-4,        # Longest step, time units; a little less where it does not fit T
    verbose=False   # A bar, where it takes more than a second?
)->np.ndarray:      # float64 (n, s), or (n, t, s) for several times
    "u_t + u u_x + delta^2 u_xxx = 0 by Fourier modes: https://doi.org/10.1103/PhysRevLett.15.240"
    # 2/3 rule; the dispersion exactly by an integrating factor, the rest by Runge-Kutta of order 4
    u0 = need_field('u0', u0, 'line')
    return march(KdV(u0.shape[-1], need_positive('delta', delta)), u0, T, dt, verbose)

def kdv_data(
    n:int,          # Fields
    size:int,       # Points of what comes back
    delta=.01,      # Dispersion, above 0
    T=1.,           # Time between the two fields of a pair; not looked at with `frames`
    seed=0,         # Of the fields at the start
    frames=None,    # Frames of a trajectory; None: pairs
    step=.05,       # Time from frame to frame
    start=0.,       # Time of the first frame
    dt=2e-4,        # Longest step of the solver, time units
    # GaussianField of the start (of any size); None: `GaussianField.burgers_script`, smooth
    field=None,
    fine=1,         # Solve on a mesh so many times finer, and take every so manyth point
    path=None,      # File (.npz) to read, or to write if it is not there; None: keep nothing
    verbose=True    # A bar, where it takes more than a second?
):                  # u at 0 and u at T, float64 (n, size) each; with `frames` (n, frames, size)
    "Random fields and the trains of waves that they become"
    if field is None: field = GaussianField.burgers_script()
    def solve(u0, times): return solve_kdv(u0, times, delta, dt, verbose)
    return make_data('kdv', solve, field, n, size, T, seed, frames, step, start, fine, path,
                     delta=delta, dt=dt)
