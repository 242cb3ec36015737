"`spectrum_report`: has an operator learned what the equation does to each wave? Its spectrum beside the exact one"
from typing import Any
import numpy as np, pandas as pd
import torch
from torch import Tensor
from fastrobust.basics import need_number, plain_dl, shown
from fastrobust.reporting.report import Report
from fastrobust.resting import keep_random
from fastrobust.systems.koopman.rolling import Scaled
from fastrobust.systems.koopman.reports.spectrum import AnyOperator, described, operator_spectrum
from fastrobust.systems.koopman.reports.spectrumcharts import draw_spectra

__all__ = ['spectrum_report']

FEW = 256       # Training fields that are looked at
# Waves so many times weaker than the strongest, or means that vary by so many deviations, are none
UNSEEN = 1e-3
NOISE = 1e-6    # Relative: what float32 leaves of 0

# --- what the training fields hold ----------------------------------------------------------------
def _training_fields(op):
    "Some fields that a learner was trained on, (n,channels,*grid); None where there are none"
    if op.dls is None: return None
    ds = plain_dl(op.dls.train).dataset
    try:
        n = len(ds)
        with keep_random(): rows = [ds[i][0] for i in range(0, n, max(1, -(-n//FEW)))]
    except (TypeError, KeyError, IndexError): return None
    if not rows or not isinstance(rows[0], Tensor): return None
    return torch.stack([o.detach().cpu().as_subclass(Tensor).double() for o in rows])

def seen_modes(op, modes):
    """Root mean square of each mode k >= 1 in the training fields, the strongest being 1, and for k = 0
    by how many deviations their means vary; of the variable that has least. None: not known"""
    u = _training_fields(op)
    if u is None or u.ndim < 3: return None
    along = torch.fft.fft(u, dim=2, norm='forward')
    sides = tuple(range(3, u.ndim))
    if sides: along = along.mean(sides)         # waves along the first side alone
    along = along[:, :, :u.shape[2]//2+1]
    least = np.full(modes, np.inf)
    for v in range(op.n_vars):
        here = along[:, v::op.n_vars]
        dev = u[:, v::op.n_vars].std(correction=0)
        size = here.abs().square().mean((0, 1)).sqrt()
        size[0] = here[..., 0].real.std(correction=0)
        # one that is constant in space, such as a parameter, has no waves to be compared
        if not dev > NOISE*u[:, v::op.n_vars].abs().max(): continue
        size /= dev
        if size[1:].max() > NOISE: size[1:] /= size[1:].max()
        else: size[1:] = np.inf
        own = np.zeros(modes)
        own[:len(size)] = size[:modes].numpy()
        least = np.minimum(least, own)
    return np.where(np.isfinite(least), least, 0)

# --- exact points, raw eigenvalues ----------------------------------------------------------------
def _exact(exact, modes):
    "Multipliers of the equation, complex (modes,)"
    if exact is None: return None
    mu = exact(np.arange(modes)) if callable(exact) else exact
    mu = np.asarray(mu)
    if mu.dtype.kind not in 'fic' or mu.ndim != 1 or len(mu) < modes or not np.isfinite(mu).all():
        raise ValueError(f"expected `exact` as {modes} finite multipliers of the modes "
                         f"0..{modes-1}, or a function of the wave numbers, got {shown(exact)} of "
                         f"shape {mu.shape}. For example partial(advection_multiplier, T=.1).")
    return mu[:modes].astype(complex)

def _along(values, ks, modes):
    "Of eigenvalues (all,o) of wave numbers (all,dim) those of waves along the first side, k = 0, 1, .."
    ks = ks.cpu().numpy()
    here = (ks[:, 0] >= 0) & (ks[:, 0] < modes) & (ks[:, 1:] == 0).all(1)
    return values.cpu().numpy()[here]

def _own_eigenvalues(net, modes):
    "(those of I + K of a KNO or None, those of the generators of a semigroup KNO or None)"
    raw = rates = None
    multiplier,rate = described(net, 'multiplier'),described(net, 'generators')
    with torch.no_grad():
        if multiplier is not None:
            ks = described(net, 'wave_numbers')()
            raw = _along(torch.linalg.eigvals(multiplier()), ks, modes)
        if rate is not None:
            rates = _along(described(net, 'eigenvalues')(), described(net, 'k'), modes)
    return raw,rates

# --- the report -----------------------------------------------------------------------------------
class SpectrumReport(Report):
    "Result of `spectrum_report`: `table`, `summary`, `spectra` by name"
    spectra:dict    # Name -> `operator_spectrum`
    exact:Any       # Complex (modes,), or None
    unknown:dict    # Name -> modes that the training fields did not have
    raw:dict        # Name -> eigenvalues of I + K, complex (modes,o)
    dt:float        # Time of one step, or None
    rates:dict      # Name -> eigenvalues of the generators, complex (modes,o), in 1/time
    def formatted(self):
        def show(v):
            if isinstance(v, complex): return f'{v.real:.4f}{v.imag:+.4f}i'
            return f'{v:.4f}' if isinstance(v, float) else v
        return self.table.apply(lambda col: col.map(show))

def _rows(H, mu, seen, dt):
    "The table of one operator"
    H = np.asarray(H)
    t = pd.DataFrame(dict(H=H, modulus=abs(H), angle=np.angle(H)), pd.RangeIndex(len(H), name='k'))
    if mu is not None: t['exact'],t['distance'] = mu,abs(H-mu)
    if dt is not None:
        with np.errstate(divide='ignore'): t['growth'] = np.log(abs(H))/dt
        t['frequency'] = np.angle(H)/(2*np.pi*dt)
    if seen is not None: t['in training'] = seen
    return t

def _facts(name, t, unknown):
    "Single numbers of one operator, over the modes that its training determines"
    known = t[~t.index.isin(unknown)]
    if not len(known): return {}
    s = {f'{name} largest modulus': float(known.modulus.max())}
    if 'distance' in t: s[f'{name} largest distance'] = float(known.distance.max())
    return s

def _notes(rep, wide, about, dt):
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
    if wide: yield (f"{', '.join(wide)}: several frames or variables are seen; H is the largest "
                    "eigenvalue of the roll-out of each wave, all are in `spectra[name].every`.")
    if dt is not None: yield ("growth: log|H|/dt; frequency: cycles per time, told apart up to "
                              f"{1/(2*dt):.3g}; dt = {dt:g}.")
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

def _about_notes(means):
    "Which operators are not linearised about 0"
    for name,mean in means.items():
        if not np.any(mean): continue
        told = ', '.join(f'{o:.4g}' for o in mean)
        yield f"{name}: linearised about the training mean, {told}. about=0. for another."

def spectrum_report(
    learn,          # Learner, network or function of fields; or a dict from name to such
    exact=None,     # Multipliers of the equation, complex (modes,), or a function of k
    modes=8,        # k = 0..modes-1 waves, along the first side where there are two
    # Linearise about a constant or a field (t_in*c,*grid), in the units of the data; None: each about
    # the training mean of each variable, as a learner or `Scaled` knows it, else about 0
    about=None,
    eps=.05,        # Amplitude of the waves, in deviations of the training fields if these are known
    size=None,      # Nodes of a side, where `about` is a constant; None: as in training, or 64
    dt=None,        # Time of one step, for rates; None: leave them out
    *,
    time=None       # Second input of a network that takes one
)->SpectrumReport:
    """`operator_spectrum` of one operator or several as a table and in the complex plane, beside the
    exact multipliers; raw eigenvalues of Koopman matrices (https://arxiv.org/abs/2301.10022) in panels
    of their own. Those of a `SemigroupKNO`, `rates`, are no measured spectrum: they mostly repeat its
    `step`, and say of exp(tA) within one call that it decays, of roll-outs nothing"""
    if dt is not None:
        need_number('dt', dt)
        if not 0 < dt < np.inf:
            raise ValueError(f"`dt` must be positive and finite, got {dt}. Give the time of a "
                             "step.")
    if isinstance(learn, dict): given = {str(k): o for k,o in learn.items()}
    else: given = {_name(learn): learn}
    if not given: raise ValueError("expected at least one operator, got an empty dict. Give "
                                   "{'KNO': learn}.")
    spectra,tables,unknown,raw,rates,wide,means = {},{},{},{},{},[],{}
    facts: dict = {}
    mu = None
    for name,o in given.items():
        op = AnyOperator(o, time=time)
        nodes = size if size is not None else op.grid or 64
        H = spectra[name] = operator_spectrum(o, modes, about, eps, nodes, time=time)
        means[name] = op.mean
        if mu is None: mu = _exact(exact, modes)
        seen = seen_modes(op, modes)
        unknown[name] = [] if seen is None else np.flatnonzero(seen < UNSEEN).tolist()
        tables[name] = _rows(H, mu, seen, dt)
        facts |= _facts(name, tables[name], unknown[name])
        own,rate = _own_eigenvalues(op.net, modes)
        if own is not None: raw[name] = own
        if rate is not None: rates[name] = rate
        if H.every.shape[1] > 1: wide.append(name)
    t = tables[next(iter(tables))]
    if isinstance(learn, dict): t = pd.concat(tables, names=['operator'])
    rep = SpectrumReport(t, facts, draw_spectra, title='What one step does to small waves',
                         name='spectrum')
    rep.spectra,rep.exact,rep.unknown,rep.raw,rep.rates = spectra,mu,unknown,raw,rates
    rep.dt = dt
    rep.notes = list(_notes(rep, wide, about, dt))
    if about is None: rep.notes += _about_notes(means)
    return rep

def _name(o):
    "What an operator alone is called"
    net = getattr(o, 'model', o)
    if isinstance(net, Scaled): net = net.net
    return getattr(net, '__name__', type(net).__name__)
