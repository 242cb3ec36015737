"What the equations share: steps that land on the times asked for, a watch over the energy"
import time
import numpy as np
from fastprogress.fastprogress import progress_bar
from fastrobust.basics import robust_warn
from fastrobust.systems.koopman.equations.given import need_positive, need_times

__all__ = []

class BlowUp(FloatingPointError):
    "A solution left what its equation allows: the time step is too long for it"

EVERY = 16      # Steps between two looks at the energy
POINTS = 2**16  # Of a block of fields that march together: few enough for the cache
TAIL = 1e-3     # Share of the energy in the last quarter of the modes: above it, a mesh is too coarse

# --- spectra --------------------------------------------------------------------------------------
def wave_numbers(s):
    "2 pi k of a real FFT of `s` points; the largest k kept, to which a product of two has no alias"
    return 2*np.pi*np.arange(s//2+1),(s-1)//3

def twice(s):
    "How often a mode of a real FFT counts: k stands for -k too, but not 0 and s/2"
    w = np.full(s//2+1, 2.)
    w[0] = 1.
    if s % 2 == 0: w[-1] = 1.
    return w

def ifrk4(linear, nonlinear, dt):
    "One step of dv/dt = linear v + nonlinear(v): the first exactly, the second by Runge-Kutta 4"
    whole,half = np.exp(linear*dt),np.exp(linear*dt/2)
    def step(v):
        a = dt*nonlinear(v)
        b = dt*nonlinear(half*(v + a/2))
        c = dt*nonlinear(half*v + b/2)
        d = dt*nonlinear(whole*v + half*c)
        return whole*v + (whole*a + 2*half*(b+c) + d)/6
    return step

# --- marching -------------------------------------------------------------------------------------
def steps_to(times, dt):
    "(how many, how long): equal steps from each time to the next, of `dt` or a little less"
    spans = np.diff(times, prepend=0.)
    counts = [int(np.ceil(o/dt - 1e-9)) for o in spans]
    return [(n, span/max(n, 1)) for n,span in zip(counts, spans)]

class Bar:
    "A bar that comes, if `verbose`, once a second has passed"
    def __init__(self, total, verbose):
        self.i,self.total,self.bar = 0,total,None
        self.since = time.perf_counter() if verbose else np.inf

    def tick(self):
        self.i += 1
        if self.bar is not None: self.bar.update(self.i)
        elif time.perf_counter()-self.since > 1 and self.i < self.total:
            self.bar = progress_bar(range(self.total), leave=False)
            self.bar.update(0)

class Equation:
    "What `march` asks of an equation. Its state is a complex array: fields, then whatever it likes"
    name = ''
    broke = 'numbers without bound'
    slack = 1e-300  # Energy that is rounding

    # The state of fields; the fields of a state
    def start(self, u): raise NotImplementedError
    def field(self, v): raise NotImplementedError

    # A function from a state to the next
    def stepper(self, dt): raise NotImplementedError

    # Energy by mode (n, ..); which modes those are that a mesh barely resolves
    def power(self, v): raise NotImplementedError
    def tail(self): raise NotImplementedError

    # Least and largest energy at `t` of fields with `e` at 0
    def bounds(self, e, t): raise NotImplementedError

    # About the longest step for fields `u`
    def longest(self, u): raise NotImplementedError

    def energy(self, v): return self.power(v).reshape(len(v), -1).sum(1)

    def tail_share(self, v):
        p = self.power(v)
        whole = p.reshape(len(p), -1).sum(1)
        return p[:, self.tail()].sum(1)/(whole + self.slack)

def _watch(eq, v, e0, t, dt, u, first):
    "Raise where a field has an energy to which its equation cannot have brought it"
    e = eq.energy(v)
    lo,hi = eq.bounds(e0, t)
    bad = ~((lo <= e) & (e <= hi))
    if not bad.any(): return
    i = int(bad.argmax())
    got = f'{e[i]:.3g} after {e0[i]:.3g} at the start' if np.isfinite(e[i]) else eq.broke
    better = min(dt/2, eq.longest(u[i:i+1]))
    raise BlowUp(f"expected an energy that {eq.name} allows, got {got} at t = {t:.3g} in field "
                 f"{first+i}: steps of {dt:.3g} are too long for it. Give dt={better:.1e} or less.")

def _rough(eq, shares, s):
    "Warn if waves have come up that the mesh barely resolves"
    start,worst = np.concatenate(shares, 1)
    n = int((worst > np.maximum(TAIL, 1.5*start)).sum())
    if n:
        robust_warn(f"{n} of {len(worst)} solutions of {eq.name} have come to hold more than "
                    f"{TAIL:.1%} of their energy in waves that {s} points barely resolve. Solve on a "
                    "finer mesh, or to an earlier time.")

def march(
    eq,             # Equation
    u0,             # Fields at time 0, checked
    T,              # A time, or several
    dt,             # Longest step
    verbose=False   # A bar?
):                  # float64 (n, ..); for several times (n, t, ..)
    "Solve `eq` from `u0` on, block by block of fields; no field knows of the others"
    times,single = need_times(T)
    plan = steps_to(times, need_positive('dt', dt))
    step = {d: eq.stepper(d) for _,d in plan}
    out = np.empty((len(u0), len(times), *u0.shape[1:]))
    n = max(1, POINTS//u0[0].size)
    blocks = range(0, len(u0), n)
    bar,shares = Bar(len(blocks)*sum(k for k,_ in plan), verbose),[]
    with np.errstate(all='ignore'):
        for first in blocks:
            u = u0[first:first+n]
            v,t = eq.start(u),0.
            e0,share = eq.energy(v),eq.tail_share(v)
            worst = share
            for i,(k,d) in enumerate(plan):
                for j in range(1, k+1):
                    v = step[d](v)
                    if j == k or j % EVERY == 0: _watch(eq, v, e0, t + j*d, d, u, first)
                    bar.tick()
                t = times[i]
                out[first:first+n, i] = eq.field(v)
                worst = np.maximum(worst, eq.tail_share(v))
            shares.append(np.stack([share, worst]))
    _rough(eq, shares, u0.shape[-1])
    return out[:, 0] if single else out
