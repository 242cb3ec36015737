"What an operator does to small waves: its linearised transfer function H_k, in the complex plane"
# J is the derivative of the next frame by the frames seen, at a field, e_k = exp(2 pi i k x), <.,.>
# the mean over the grid. H_k = <e_k, J e_k> is the diagonal of J among Fourier modes: of an operator
# that commutes with shifts the Fourier transform of its response to a small impulse, of any other the
# mean of that over all places of the impulse. J e_k = J cos + i J sin, each by a central difference,
# as none but real fields can be asked about.
from contextlib import contextmanager
import numpy as np
import torch
from matplotlib.figure import Figure
from fastai.learner import Learner
from torch import Tensor, nn
from fastrobust.basics import is_whole, need_number, need_whole, shown
from fastrobust.resting import at_rest, keep_random
from fastrobust.systems.koopman.data.fieldchecks import need_finite, need_real
from fastrobust.systems.koopman.rolling import Scaled, answer
from fastrobust.systems.koopman.reports.spectrumcharts import draw_plane

__all__ = ['operator_spectrum']

ROOM = 2**19    # Numbers of the inputs that go through an operator at once

class Spectrum(np.ndarray):
    "H_k, complex (modes,): `every` eigenvalue, what goes `elsewhere`, `plot()`"
    def __array_finalize__(self, obj):
        # complex (modes, t_in*c), the largest first; H_k alone for one frame of one variable
        self.every = getattr(obj, 'every', None)
        # real (modes,): size of the response in modes other than k, as a share of all of it; 0 for
        # operators that commute with shifts, about a constant
        self.elsewhere = getattr(obj, 'elsewhere', None)

    def plot(self,
        exact=None,     # Multipliers of the equation, complex (modes,), as open circles; None: not known
        ax=None         # Axes; None: those of a new figure
    )->Figure:
        "H_k in the complex plane, with the unit circle"
        return draw_plane(ax, {'H_k': np.asarray(self)}, exact).figure

# --- operators of any kind ------------------------------------------------------------------------
def described(net, name):
    "What a network, or the one inside of `Scaled`, says of itself under `name`; None where it does not"
    inner = net.net if isinstance(net, Scaled) else net
    return getattr(inner, name, None)

class AnyOperator:
    "A learner, network or function of fields (b,t_in*c,*grid): what is known of these; its next frame"
    def __init__(self,
        model,          # Learner, nn.Module, or function of a tensor
        n_vars=None,    # Variables c of a frame; None: as a learner's dls say, else 1
        time=None       # Second input of a network that takes one
    ):
        learn = model if isinstance(model, Learner) else None
        net = model if learn is None else learn.model
        if isinstance(net, type) or not callable(net):
            raise TypeError("expected a Learner, a network (nn.Module) or a function of fields, "
                            f"got {shown(model)}. For example koopman_learner(dls, KNO1d()).")
        self.net,self.dls = net,None
        if learn is not None and len(learn.dls.loaders): self.dls = learn.dls
        if n_vars is None: n_vars = self._told('n_vars') or self._scaled_vars() or 1
        self.n_vars = need_whole('n_vars', n_vars, 1, what='variables of a frame')
        grid,t_in = self._told('grid'),self._told('t_in')
        self.grid = tuple(grid) if isinstance(grid, (tuple, list)) else None
        dim = len(self.grid) if self.grid else described(net, 'dim')
        self.dim = dim if dim in (1, 2) else None
        self.channels = t_in*self.n_vars if t_in else described(net, 't_in')
        if time is None and self._told('timed'):
            raise ValueError("expected `time`, as this network takes the time of the target, got "
                             "none. Give e.g. time=.1.")
        if time is not None: need_number('time', time)
        self.time = time

    def _told(self, name): return getattr(self.dls, name, None)

    def _scaled_vars(self): return self.net.n_vars if isinstance(self.net, Scaled) else None

    @property
    def scale(self):
        "Mean and deviation of each variable in training; None where these are not known"
        if isinstance(self.net, nn.Module):
            for o in self.net.modules():
                if not isinstance(o, Scaled) or o.n_vars != self.n_vars: continue
                return tuple(b.double().cpu().numpy() for b in (o.mean, o.std))
        scale = self._told('scale')
        return None if scale is None else tuple(np.asarray(o, float) for o in scale)

    @property
    def mean(self):
        "Training mean of each variable; 0 where that is not known"
        return np.zeros(self.n_vars) if self.scale is None else self.scale[0]

    @property
    def std(self):
        "Deviation of each variable, by which `eps` is counted; 1 where that is not known"
        return np.ones(self.n_vars) if self.scale is None else self.scale[1]

    @contextmanager
    def resting(self):
        "Inside: no gradients, evaluation mode; afterwards all is as it was"
        if isinstance(self.net, nn.Module):
            with at_rest(self.net): yield
            return
        with keep_random(), torch.no_grad(): yield

    def next_frame(self,
        u   # Fields, float64 (b,t_in*c,*grid)
    ):      # float64 (b,c,*grid), on the CPU
        "The frame after `u`, in batches, in the precision of the network"
        like = None
        if isinstance(self.net, nn.Module):
            like = next((p for p in self.net.parameters() if p.is_floating_point()), None)
        rows = max(1, ROOM//u[0].numel())
        return torch.cat([self._of_batch(o if like is None else o.to(like)) for o in u.split(rows)])

    def _of_batch(self, u):
        t = () if self.time is None else (u.new_full((len(u),), self.time),)
        new = torch.as_tensor(answer(self.net(u, *t))[0])
        fits = new.ndim == u.ndim and new.shape[2:] == u.shape[2:] and len(new) == len(u)
        if not fits or new.shape[1] < self.n_vars:
            raise ValueError(f"expected an operator that gives fields of at least {self.n_vars} "
                             f"channels on the grid {tuple(u.shape[2:])}, got {tuple(new.shape)}. "
                             f"Its last {self.n_vars} channels are the next frame.")
        return new[:, -self.n_vars:].detach().as_subclass(Tensor).double().cpu()

# --- the field about which ------------------------------------------------------------------------
def _sizes(size, dim):
    "Nodes along each side"
    given = size if isinstance(size, (tuple, list)) else (size,)*(dim or 1)
    sides = len(given) in (1, 2) and len(given) == (dim or len(given))
    if sides and all(is_whole(o) and o > 1 for o in given): return tuple(map(int, given))
    raise ValueError(f"expected `size` as whole nodes from 2 on, of {dim or '1 or 2'} sides, got "
                     f"{size!r}. Give e.g. 64.")

def _constant(about, op, size):
    "A field that is the same everywhere, of as many channels as the operator sees"
    need_number('about', about)
    if not np.isfinite(about): raise ValueError(f"`about` must be finite, got {about}. 0. is no "
                                                "field.")
    return _everywhere(np.full(op.n_vars, float(about)), op, size)

def _everywhere(values, op, size):
    "A field of one value for each variable, the same in all frames"
    channels,sides = op.channels or op.n_vars,_sizes(size, op.dim)
    values = torch.as_tensor(values, dtype=torch.float64)[torch.arange(channels) % op.n_vars]
    return values.view(-1, *[1]*len(sides)).repeat(1, *sides)

def field_about(
    about,  # Number, field (t_in*c,*grid) or (*grid), or None: the training mean, 0 if not known
    op,     # `AnyOperator`
    size    # Nodes, where it is a number
):          # float64 (t_in*c,*grid)
    "The field whose neighbourhood is looked at"
    if about is None: return _everywhere(op.mean, op, size)
    if not isinstance(about, (np.ndarray, Tensor)): return _constant(about, op, size)
    if about.ndim == 0: return _constant(float(about), op, size)
    if isinstance(about, Tensor): about = about.detach().cpu().as_subclass(Tensor)
    need_real(str(about.dtype).removeprefix('torch.'), '`about`')
    u = torch.as_tensor(about).double()
    channels = op.channels or op.n_vars
    if u.ndim == op.dim or op.dim is None and u.ndim == 1: u = u[None]
    if u.ndim not in (2, 3) or u.ndim != (op.dim or u.ndim-1)+1 or u.shape[0] % op.n_vars:
        raise ValueError(f"expected `about` as one field ({channels},*grid), got shape "
                         f"{tuple(u.shape)}. Of several: about=u[0].")
    if op.channels and len(u) != op.channels:
        raise ValueError(f"expected `about` of {op.channels} channels, frames times variables, "
                         f"got {len(u)}. Give what the operator sees.")
    need_finite(u[None], '`about`')
    return u

# --- the spectrum ---------------------------------------------------------------------------------
def transfer(
    op,     # `AnyOperator`
    base,   # Field (t_in*c,*grid)
    modes,  # k = 0..modes-1, along the first side
    eps     # Amplitude of the waves, in deviations of the variables
):          # Complex (modes,c,t_in*c) in units of the deviations, and the energy of all responses (modes,)
    "Response of each variable of the next frame in mode k to a wave in each channel"
    S,n = base.shape[1],len(base)
    k = torch.arange(modes, dtype=torch.float64)
    phase = 2*np.pi*k[:, None]*torch.arange(S, dtype=torch.float64)/S
    e = torch.polar(torch.ones_like(phase), phase)      # (modes,S)
    e = e.view(modes, S, *[1]*(base.ndim-2))
    std = torch.as_tensor(op.std)
    H = torch.empty(modes, op.n_vars, n, dtype=torch.complex128)
    energy = torch.zeros(modes, dtype=torch.float64)
    sides = tuple(range(2, base.ndim+1))
    for j in range(n):
        wave = torch.zeros(2*modes, *base.shape, dtype=torch.float64)
        wave[:, j] = torch.cat([e.real, e.imag])*eps*std[j % op.n_vars]
        J = (op.next_frame(base+wave) - op.next_frame(base-wave))/(2*eps)
        J = torch.complex(*J.split(modes))/std.view(-1, *[1]*(base.ndim-1))
        H[:, :, j] = (e[:, None].conj()*J).mean(sides)
        energy += J.abs().square().mean(sides).sum(1)
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

def operator_spectrum(
    model,      # KNO, FNO, any nn.Module, Learner, or function of fields (b,t_in*c,*grid)
    modes=8,    # k = 0..modes-1 waves, along the first side where there are two
    # Linearise about a constant or a field (t_in*c,*grid), in the units of the data; None: about the
    # training mean of each variable, as a learner or `Scaled` knows it, else about 0
    about=None,
    eps=.05,    # Amplitude of the waves, in deviations of the training fields if these are known
    size=64,    # Nodes of a side, where `about` is a constant; two of unequal sides
    *,
    n_vars=None,    # Variables c of a frame; None: as a learner's dls say, else 1
    time=None       # Second input of a network that takes one
)->Spectrum:        # Complex (modes,); modulus: growth, angle: how far a wave is turned, in one step
    """Linearised transfer function H_k of any operator: what one step multiplies a small wave
    exp(2 pi i k x) with, to be compared with the spectra of https://arxiv.org/abs/2102.12086. Where
    several frames or variables are seen it is the largest eigenvalue of the roll-out of mode k"""
    modes = need_whole('modes', modes, 1)
    need_number('eps', eps)
    if not 0 < eps < np.inf: raise ValueError(f"`eps` must be positive and finite, got {eps}. .05 "
                                              "is usual.")
    op = AnyOperator(model, n_vars, time)
    base = field_about(about, op, size)
    S = base.shape[1]
    if modes > S//2+1:
        raise ValueError(f"expected up to {S//2+1} modes on {S} nodes, got {modes}. Give fewer, "
                         "or a larger `size`.")
    with op.resting(): H,energy = transfer(op, base, modes, float(eps))
    if not np.isfinite(H).all():
        raise ValueError("expected finite fields from the operator, got NaN or infinity. Has the "
                         "training diverged?")
    every = rolled_eigenvalues(H)
    out = every[:, 0].copy().view(Spectrum)
    out.every = every
    own = (abs(H)**2).sum((1, 2))
    rest = (energy-own).clip(0)
    out.elsewhere = np.sqrt(rest/np.maximum(energy, np.finfo(float).tiny))
    return out
