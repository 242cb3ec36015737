"What `spectrum_report` returns"
from typing import Any, NamedTuple
import numpy as np, pandas as pd
from fastrobust.reporting.report import Report
from fastrobust.systems.koopman.reports.spectrum import plane_axes
from fastrobust.systems.koopman.reports.spectrumcharts import draw_spectra

__all__ = []

# Waves so many times weaker than the strongest, or means that vary by so many deviations, are none
UNSEEN = 1e-3

class Measured(NamedTuple):
    "What was found of one operator"
    H: Any              # `Spectrum` of waves along the first side (modes,)
    plane: Any          # Of all directions (2 modes-1,kx), or None
    seen: Any           # How much of each the training fields have (modes,), or None: not known
    seen_plane: Any     # (2 modes-1,kx), or None
    raw: Any            # Eigenvalues of I + K, or None
    rates: Any          # Those of the generators, or None
    mean: Any           # Training mean of each variable

class SpectrumReport(Report):
    "Result of `spectrum_report`: `table`, `summary`, `spectra` by name; of planes `directions`, `planes`"
    spectra:dict    # Name -> `operator_spectrum`
    exact:Any       # Complex (modes,), or None
    unknown:dict    # Name -> modes that the training fields did not have
    raw:dict        # Name -> eigenvalues of I + K, complex (modes,o)
    dt:float        # Time of one step, or None
    rates:dict      # Name -> eigenvalues of the generators, complex (modes,o), in 1/time
    # The rest is None or empty in files of versions that knew one side alone
    planes:dict = {}    # Name -> `operator_spectrum` in all directions, (2 modes-1,kx)
    exact_plane:Any = None  # Complex (2 modes-1,kx), or None
    unseen:dict = {}    # Name -> true where the training fields have no such wave, (2 modes-1,kx)
    directions:Any = None   # DataFrame by operator, ky and kx, or None
    def formatted(self):
        def show(v):
            if isinstance(v, complex): return f'{v.real:.4f}{v.imag:+.4f}i'
            return f'{v:.4f}' if isinstance(v, float) else v
        return self.table.apply(lambda col: col.map(show))

    def files(self):
        more = {} if self.directions is None else {f'{self.name}_directions': self.directions}
        return super().files() | more

# --- tables ---------------------------------------------------------------------------------------
def _rows(H, mu, seen, dt, index):
    "The table of one operator"
    H = np.asarray(H)
    t = pd.DataFrame(dict(H=H, modulus=abs(H), angle=np.angle(H)), index)
    if mu is not None: t['exact'],t['distance'] = mu,abs(H-mu)
    if dt is not None:
        with np.errstate(divide='ignore'): t['growth'] = np.log(abs(H))/dt
        t['frequency'] = np.angle(H)/(2*np.pi*dt)
    if seen is not None: t['in training'] = seen
    return t

def _facts(name, t, of=''):
    "Single numbers of one operator, over the modes that its training determines"
    if 'in training' in t: t = t[t['in training'] >= UNSEEN]
    if not len(t): return {}
    s = {f'{name} largest modulus{of}': float(t.modulus.max())}
    if 'distance' in t: s[f'{name} largest distance{of}'] = float(t.distance.max())
    return s

def _flat(v): return None if v is None else np.ravel(v)

def _of_line(o, exact, dt):
    "The table of waves along the first side"
    return _rows(o.H, exact, o.seen, dt, pd.RangeIndex(len(o.H), name='k'))

def _of_plane(o, exact, dt):
    "The table of waves in all directions"
    modes,kx = len(o.H),o.plane.shape[1]
    axes = plane_axes(modes, (2*modes, 2*kx-1))
    index = pd.MultiIndex.from_product(axes, names=['ky', 'kx'])
    return _rows(np.ravel(o.plane), _flat(exact), _flat(o.seen_plane), dt, index)

# --- what has to be said --------------------------------------------------------------------------
def _notes(rep, about):
    yield ("H: what one step multiplies a small wave exp(2 pi i k x) with; angle in radians, "
           "below 0 towards larger x. A modulus above 1 grows in a roll-out.")
    if rep.exact is not None: yield "distance: |H - exact|, in the complex plane."
    for name,ks in rep.unknown.items():
        if not ks: continue
        yield (f"{name}: k = {', '.join(map(str, ks))} not determined, as the training fields "
               "have no such waves (for k = 0: means that do not vary): in grey, and in no summary.")
    for name,H in rep.spectra.items():
        known = [k for k in range(len(H)) if k not in rep.unknown[name]]
        k = max(known, key=lambda k: H.elsewhere[k], default=0)
        if H.elsewhere[k] > 1e-3:
            why = "the field about which it is linearised" if np.ndim(about) else "no commuting with shifts"
            yield (f"{name}: of its response to k = {k} a share of {H.elsewhere[k]:.2g} is in "
                   f"other waves, by {why}; H is a mean over places.")
    wide = [k for k,H in rep.spectra.items() if H.every.shape[-1] > 1]
    if wide: yield (f"{', '.join(wide)}: several frames or variables are seen; H is the largest "
                    "eigenvalue of the roll-out of each wave, all are in `spectra[name].every`.")
    if rep.dt is not None: yield ("growth: log|H|/dt; frequency: cycles per time, told apart up to "
                                  f"{1/(2*rep.dt):.3g}; dt = {rep.dt:g}.")
    for name in rep.raw:
        yield (f"{name}: the eigenvalues of I + K are not the spectrum of the map, of which "
               "encoder, decoder and w0 carry a part; `raw` has them, for comparison.")
    for name in rep.rates:
        yield (f"{name}: `rates` has the eigenvalues of its generators, in 1/time of the times it "
               "is given. Training hardly moves them from where they start, (.1/step)(1 + k^2): "
               "they mostly repeat the choice of `step`, and are no measured spectrum; that is H, "
               "in which encoder and decoder mix many of them.")
        yield (f"{name}: that all of `rates` decay holds for exp(tA) within one call. Repeated "
               "calls encode anew and are not covered: a roll-out may grow, as H tells.")

def _plane_notes(rep):
    if not rep.planes: return
    yield ("The table has waves along the first side of the fields alone; `directions` has all, ky "
           "along the first side, kx along the second. H of (-ky,-kx) is the conjugate of H of "
           "(ky,kx).")
    for name,v in rep.unseen.items():
        if not v.any(): continue
        yield (f"{name}: {v.sum()} of {v.size} wave vectors not determined, as the training fields "
               "have no such waves: in grey, and in no summary.")

def _about_notes(means):
    "Which operators are not linearised about 0"
    for name,mean in means.items():
        if not np.any(mean): continue
        told = ', '.join(f'{o:.4g}' for o in mean)
        yield f"{name}: linearised about the training mean, {told}. about=0. for another."

# --- all of it ------------------------------------------------------------------------------------
def spectrum_result(
    found,      # Name -> `Measured`
    exact,      # Complex (modes,) and (2 modes-1,kx), each None where it is not known
    about,      # As `spectrum_report` takes it
    dt,         # Time of one step, or None
    several     # Does the table tell operators apart?
)->SpectrumReport:
    "The report of what was found"
    mu,mu_plane = exact
    tables = {k: _of_line(o, mu, dt) for k,o in found.items()}
    planes = {k: o for k,o in found.items() if o.plane is not None}
    wide = {k: _of_plane(o, mu_plane, dt) for k,o in planes.items()}
    facts: dict = {}
    for k,t in tables.items(): facts |= _facts(k, t)
    for k,t in wide.items(): facts |= _facts(k, t, ', all directions')
    t = pd.concat(tables, names=['operator']) if several else next(iter(tables.values()))
    rep = SpectrumReport(t, facts, draw_spectra, title='What one step does to small waves',
                         name='spectrum')
    rep.spectra,rep.exact,rep.dt = {k: o.H for k,o in found.items()},mu,dt
    rep.unknown = {k: [] if o.seen is None else np.flatnonzero(o.seen < UNSEEN).tolist()
                   for k,o in found.items()}
    rep.raw = {k: o.raw for k,o in found.items() if o.raw is not None}
    rep.rates = {k: o.rates for k,o in found.items() if o.rates is not None}
    rep.planes,rep.exact_plane = {k: o.plane for k,o in planes.items()},mu_plane
    rep.unseen = {k: o.seen_plane < UNSEEN for k,o in planes.items() if o.seen_plane is not None}
    rep.directions = pd.concat(wide, names=['operator']) if wide else None
    rep.notes = [*_notes(rep, about), *_plane_notes(rep)]
    if about is None: rep.notes += _about_notes({k: o.mean for k,o in found.items()})
    return rep
