"What an operator does to small waves: its linearised transfer function H_k, in the complex plane"
# J is the derivative of the next frame by the frames seen, at a field, e_k = exp(2 pi i k x), <.,.>
# the mean over the grid. H_k = <e_k, J e_k> is the diagonal of J among Fourier modes: of an
# operator that commutes with shifts the Fourier transform of its response to a small impulse, of any
# other the mean of that over all places of the impulse. J e_k = J cos + i J sin, each by a central
# difference, as none but real fields can be asked about. As J is real, H_-k is the conjugate of H_k:
# of the waves on a plane half are asked for.
import numpy as np
import torch
from matplotlib.figure import Figure
from fastrobust.basics import need_number, need_truth, need_whole
from fastrobust.systems.koopman.reports.anyoperator import AnyOperator, field_about
from fastrobust.systems.koopman.reports.planecharts import draw_sizes
from fastrobust.systems.koopman.reports.spectrumcharts import draw_plane

__all__ = ['operator_spectrum']

HELD = 2**22    # Numbers of the waves that are held at once

class Spectrum(np.ndarray):
    "H_k, complex (modes,) or, in all directions, (ky,kx): `every` eigenvalue, `elsewhere`, `plot()`"
    def __array_finalize__(self, obj):
        # complex (..,t_in*c), the largest first; H_k alone for one frame of one variable
        same = getattr(obj, 'shape', None) == self.shape
        self.every = getattr(obj, 'every', None) if same else None
        # real, of the shape of H: size of the response in modes other than k, as a share of all of
        # it; 0 for operators that commute with shifts, about a constant
        self.elsewhere = getattr(obj, 'elsewhere', None) if same else None

    def __getitem__(self, key):
        out = super().__getitem__(key)
        if not isinstance(out, Spectrum) or self.every is None: return out
        out.elsewhere = np.asarray(self.elsewhere)[key]
        keys = key if isinstance(key, tuple) else (key,)
        if any(o is Ellipsis for o in keys): keys += (slice(None),)     # the last axis of `every` stays
        out.every = np.asarray(self.every)[keys]
        return out

    def __reduce__(self):
        make,args,state = super().__reduce__()
        return make,args,(state, self.every, self.elsewhere)

    def __setstate__(self, state):
        own,*more = state if isinstance(state[0], tuple) else (state,)    # earlier versions kept H alone
        super().__setstate__(own)
        if more: self.every,self.elsewhere = more

    def first_side(self):
        "Of all directions the waves along the first side alone, complex (modes,)"
        if self.ndim < 2: return self
        return _spectrum(self.every[len(self)//2:, 0], self.elsewhere[len(self)//2:, 0])

    def plot(self,
        exact=None,     # Multipliers of the equation, complex of that shape, as open circles; None: not known
        ax=None         # Axes; None: those of a new figure
    )->Figure:
        "H_k in the complex plane, with the unit circle; of all directions |H|, lines for the exact one"
        if self.ndim == 2: return draw_sizes(ax, np.asarray(self), exact).figure
        return draw_plane(ax, {'H_k': np.asarray(self)}, exact).figure

def _spectrum(every, elsewhere):
    out = every[..., 0].copy().view(Spectrum)
    out.every,out.elsewhere = every,elsewhere
    return out

# --- the waves ------------------------------------------------------------------------------------
def plane_axes(
    modes,  # |k| < modes
    sides   # Nodes along each side
):          # ky = -(modes-1)..modes-1, and kx from 0 on as far as the second side has waves
    "Wave numbers along the first and along the second side"
    return np.arange(1-modes, modes),np.arange(min(modes, sides[1]//2+1))

def plane_waves(
    modes,
    sides
):          # (all,2)
    "Wave vectors (ky,kx) of half a plane"
    both = np.meshgrid(*plane_axes(modes, sides), indexing='ij')
    return np.stack(both, -1).reshape(-1, 2)

def _along_first(modes, sides):
    "Wave vectors (modes,dim) of waves along the first side"
    k = np.zeros((modes, len(sides)), int)
    k[:, 0] = np.arange(modes)
    return k

def waves(
    k,      # Wave vectors (m,dim)
    sides   # Nodes along each side
):          # Complex (m,*sides)
    "exp(2 pi i k x)"
    phase = torch.zeros(len(k), *[1]*len(sides), dtype=torch.float64)
    for i,s in enumerate(sides):
        # of whole numbers, so that no turn costs digits
        turns = np.outer(k[:, i], np.arange(s)) % s
        shape = [-1, *[1]*len(sides)]
        shape[i+1] = s
        phase = phase + torch.as_tensor(2*np.pi*turns/s).view(shape)
    return torch.polar(torch.ones_like(phase), phase)

# --- the spectrum ---------------------------------------------------------------------------------
def transfer(
    op,     # `AnyOperator`
    base,   # Field (t_in*c,*grid)
    k,      # Wave vectors (m,dim)
    eps     # Amplitude of the waves, in deviations of the variables
):          # Complex (m,c,t_in*c) in units of the deviations, and the energy of all responses (m,)
    "Response of each variable of the next frame in mode k to a wave in each channel"
    rows = max(1, HELD//(2*base.numel()))
    starts = range(0, len(k), rows)
    bar = op.bar(len(starts)*len(base))
    parts = [_transfer(op, base, k[i:i+rows], eps, bar.tick) for i in starts]
    return [np.concatenate(o) for o in zip(*parts)]

def _transfer(op, base, k, eps, tick):
    m,n = len(k),len(base)
    e = waves(k, base.shape[1:])
    std = torch.as_tensor(op.std)
    H = torch.empty(m, op.n_vars, n, dtype=torch.complex128)
    energy = torch.zeros(m, dtype=torch.float64)
    sides = tuple(range(2, base.ndim+1))
    for j in range(n):
        wave = torch.zeros(2*m, *base.shape, dtype=torch.float64)
        wave[:, j] = torch.cat([e.real, e.imag])*eps*std[j % op.n_vars]
        J = (op.next_frame(base+wave) - op.next_frame(base-wave))/(2*eps)
        J = torch.complex(*J.split(m))/std.view(-1, *[1]*(base.ndim-1))
        H[:, :, j] = (e[:, None].conj()*J).mean(sides)
        energy += J.abs().square().mean(sides).sum(1)
        tick()
    return H.numpy(),energy.numpy()

def rolled_eigenvalues(
    H   # Complex (modes,c,t_in*c)
):      # Complex (modes,t_in*c), the largest first
    "What each step of a roll-out multiplies mode k with: eigenvalues of a window that moves on by a frame"
    modes,c,n = H.shape
    window = np.zeros((modes, n, n), complex)
    window[:, :n-c, c:] = np.eye(n-c)
    window[:, n-c:] = H
    values = np.linalg.eigvals(window)
    order = np.argsort(-abs(values), axis=1, kind='stable')
    return np.take_along_axis(values, order, 1)

def spectrum_at(
    op,     # `AnyOperator`
    base,   # Field (t_in*c,*grid)
    k,      # Wave vectors (m,dim)
    eps     # Amplitude of the waves
)->Spectrum:    # (m,)
    "H of some waves"
    with op.resting(): H,energy = transfer(op, base, k, float(eps))
    if not np.isfinite(H).all():
        raise ValueError("expected finite fields from the operator, got NaN or infinity. Has the "
                         "training diverged?")
    own = (abs(H)**2).sum((1, 2))
    rest = (energy-own).clip(0)
    elsewhere = np.sqrt(rest/np.maximum(energy, np.finfo(float).tiny))
    return _spectrum(rolled_eigenvalues(H), elsewhere)

def spectrum_about(
    op,     # `AnyOperator`
    base,   # Field (t_in*c,*grid)
    modes,  # As `operator_spectrum` takes them
    eps,
    plane
)->Spectrum:
    "The spectrum about a field"
    modes = need_whole('modes', modes, 1)
    need_number('eps', eps)
    if not 0 < eps < np.inf: raise ValueError(f"`eps` must be positive and finite, got {eps}. .05 "
                                              "is usual.")
    sides = tuple(base.shape[1:])
    if modes > sides[0]//2+1:
        raise ValueError(f"expected up to {sides[0]//2+1} modes on {sides[0]} nodes, got {modes}. "
                         "Give fewer, or a larger `size`.")
    if not plane: return spectrum_at(op, base, _along_first(modes, sides), eps)
    if len(sides) < 2:
        raise ValueError("expected with plane=True an operator of fields (b,t_in*c,ny,nx), got one "
                         "of fields on a line. Leave it out; of a function of planes, give "
                         "size=(64, 64).")
    H = spectrum_at(op, base, plane_waves(modes, sides), eps)
    shape = [len(o) for o in plane_axes(modes, sides)]
    return _spectrum(H.every.reshape(*shape, -1), H.elsewhere.reshape(shape))

def operator_spectrum(
    model,      # KNO, FNO, any nn.Module, Learner, or function of fields (b,t_in*c,*grid)
    modes=8,    # k = 0..modes-1 waves; along the first side where there are two
    # Linearise about a constant or a field (t_in*c,*grid), in the units of the data; None: about
    # the training mean of each variable, as a learner or `Scaled` knows it, else about 0
    about=None,
    eps=.05,    # Amplitude of the waves, in deviations of the training fields if these are known
    # Nodes of a side, where `about` is a constant; two of unequal sides. A network that takes one
    # grid only, such as ViTKNO, is looked at on that
    size=64,
    *,
    n_vars=None,    # Variables c of a frame; None: as a learner's dls say, else 1
    time=None,      # Second input of a network that takes one
    # Of two sides, waves in all directions: ky = -(modes-1)..modes-1 along the first side, and
    # kx = 0..modes-1 along the second; H of (-ky,-kx) is the conjugate of that of (ky,kx)
    plane=False
)->Spectrum:        # Complex (modes,), or (2 modes-1,modes); modulus: growth in one step, angle: turn
    """Linearised transfer function H_k of any operator: what one step multiplies a small wave
    exp(2 pi i k x) with, to be compared with the spectra of https://arxiv.org/abs/2102.12086. Where
    several frames or variables are seen it is the largest eigenvalue of the roll-out of mode k"""
    plane = need_truth('plane', plane)
    op = AnyOperator(model, n_vars, time)
    return spectrum_about(op, field_about(about, op, size), modes, eps, plane)
