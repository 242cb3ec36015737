"`spectrum_report`: has an operator learned what the equation does to each wave? Its spectrum beside the exact one"
import numpy as np
import torch
from fastrobust.basics import need_number, need_truth, need_whole
from fastrobust.systems.koopman.rolling import Scaled
from fastrobust.systems.koopman.reports.anyoperator import AnyOperator, described, field_about
from fastrobust.systems.koopman.reports.exactwaves import exact_waves
from fastrobust.systems.koopman.reports.seenwaves import seen_directions, seen_modes
from fastrobust.systems.koopman.reports.spectrum import spectrum_about
from fastrobust.systems.koopman.reports.spectrumresult import (
    Measured, SpectrumReport, spectrum_result)

__all__ = ['spectrum_report']

# --- raw eigenvalues ------------------------------------------------------------------------------
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
def _measure(op, base, modes, eps, plane):
    "All there is to know of one operator"
    sides = tuple(base.shape[1:])
    wide = plane and len(sides) == 2
    H = spectrum_about(op, base, modes, eps, wide)
    all_ways,seen_plane = None,None
    if wide:
        all_ways,H = H,H.first_side()
        seen_plane = seen_directions(op, modes, sides)
    own = _own_eigenvalues(op.net, modes)
    mean = np.where(abs(op.mean) > 1e-6*op.std, op.mean, 0)     # what rounding leaves is none
    return Measured(H, all_ways, seen_modes(op, modes), seen_plane, *own, mean)

def _need_one_shape(found):
    "Refuse planes that cannot stand beside each other"
    shapes = {k: o.plane.shape for k,o in found.items() if o.plane is not None}
    if len(set(shapes.values())) < 2: return
    least = min(o[1] for o in shapes.values())
    raise ValueError("expected operators that see as many waves along their second sides, got "
                     f"{shapes}. Give modes={least}, or plane=False.")

def _name(o):
    "What an operator alone is called"
    net = getattr(o, 'model', o)
    if isinstance(net, Scaled): net = net.net
    return getattr(net, '__name__', type(net).__name__)

def spectrum_report(
    learn,          # Learner, network or function of fields; or a dict from name to such
    # Multipliers of the equation, complex (modes,), or a function of k; of planes in all
    # directions, (2 modes-1,modes), or a function of (ky,kx), ky along the first side; None: not known
    exact=None,
    modes=8,        # k = 0..modes-1 waves, along the first side where there are two
    # Linearise about a constant or a field (t_in*c,*grid), in the units of the data; None: each about
    # the training mean of each variable, as a learner or `Scaled` knows it, else about 0
    about=None,
    eps=.05,        # Amplitude of the waves, in deviations of the training fields if these are known
    size=None,      # Nodes of a side, where `about` is a constant; None: as in training, or 64
    dt=None,        # Time of one step, for rates; None: leave them out
    *,
    time=None,      # Second input of a network that takes one
    # Of operators on planes, waves in all directions too, or along the first side alone? All take some
    # 2*modes times as long: 19 s against 1.7 for KNO2d(10) at 64 x 64 nodes, on one core
    plane=True
)->SpectrumReport:
    """`operator_spectrum` of one operator or several as a table and in the complex plane, beside the
    exact multipliers; of operators on planes |H| over all wave vectors; raw eigenvalues of Koopman
    matrices (https://arxiv.org/abs/2301.10022) in panels of their own. Those of a `SemigroupKNO`,
    `rates`, are no measured spectrum: they mostly repeat its `step`, and say of exp(tA) within one
    call that it decays, of roll-outs nothing"""
    if dt is not None:
        need_number('dt', dt)
        if not 0 < dt < np.inf:
            raise ValueError(f"`dt` must be positive and finite, got {dt}. Give the time of a "
                             "step.")
    if isinstance(learn, dict): given = {str(k): o for k,o in learn.items()}
    else: given = {_name(learn): learn}
    if not given: raise ValueError("expected at least one operator, got an empty dict. Give "
                                   "{'KNO': learn}.")
    modes,plane = need_whole('modes', modes, 1),need_truth('plane', plane)
    ops = {name: AnyOperator(o, time=time) for name,o in given.items()}
    bases = {name: field_about(about, op, size) for name,op in ops.items()}
    sides = [tuple(o.shape[1:]) for o in bases.values()]
    mu = exact_waves(exact, modes, max(sides, key=len))
    found = {name: _measure(op, bases[name], modes, eps, plane) for name,op in ops.items()}
    _need_one_shape(found)
    return spectrum_result(found, mu, about, dt, isinstance(learn, dict))
