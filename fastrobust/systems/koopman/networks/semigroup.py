"Semigroup Koopman operator: a field after any time t, by modes that can only decay and turn"
import math
import torch
from torch import nn
from torch.nn import functional as F
from fastrobust.basics import need_number, need_truth, need_whole
from fastrobust.systems.koopman.networks.spectral import (Pointwise, SpectralConv, need_grid, need_input,
                                                 waves, with_mean_of)

__all__ = ['SemigroupKNO']

def half_plane(
    m,      # Modes along each axis, |k| < m
    dim     # 1 or 2
):          # int64 (modes, dim)
    "Wave numbers that tell a real field: the coefficient of -k is the conjugate of that of k"
    if dim == 1: return torch.arange(m)[:, None]
    line = [(kx, 0) for kx in range(m)]
    return torch.tensor(line + [(kx, ky) for ky in range(1, m) for kx in range(1-m, m)])

def softplus_inverse(x): return x + torch.log(-torch.expm1(-x))

class Everywhere(nn.Module):
    "tanh of two layers; the first sees each node and, by the modes, the whole field"
    def __init__(self, n_in, n_out, m, dim):
        super().__init__()
        self.spectral = SpectralConv(n_in, n_out, m, dim)
        self.local = Pointwise(n_in, n_out)
        self.mix = Pointwise(n_out, n_out)

    def forward(self, u): return torch.tanh(self.mix(torch.tanh(self.local(u) + self.spectral(u))))

class SemigroupKNO(nn.Module):
    """Frames and a time -> (pred, rec): pred = D exp(t A_k) E u with A_k = (C - C^H) -
    diag(softplus d) on modes |k| < m, so every eigenvalue has a negative real part and exp(s A)
    exp(t A) = exp((s+t) A); rec = D E u, D linear. The observables E u are the frames themselves
    and others that see the whole field (Burgers' equation is linear in one such, by Cole and Hopf).
    Modes from m on decay at the rate softplus(g) (1+|k|^2), as by diffusion; dropped, they would be
    missing at t = 0. No path leads around the modes. That nothing grows holds for exp(t A) within one
    call alone: E and D may make a field larger, and repeated calls encode anew, so that a roll-out can
    grow (it does where trained on u -> 1.3 u). Rates start at (.1/step) (1+|k|^2) and training hardly
    moves them: they mostly repeat `step`, and are no measured spectrum. A fastrobust design in the setting of
    https://arxiv.org/abs/2301.10022. Any grid from 2m-1 nodes along each axis on, in two dimensions
    2m along x"""
    conserve = False
    def __init__(self,
        dim:int=1,      # Axes of the grid, 1 or 2
        t_in:int=1,     # Frames that it sees, and gives
        o:int=16,       # Observables, the frames among them; `KNO1d`'s
        m:int=16,       # Modes |k| < m along each axis with a matrix of their own; `KNO1d`'s
        *,
        # A usual time from frames to target, in the unit of t: it is t where none is given, and
        # before training mode k decays by exp(-(1+|k|^2)/10) in it
        step:float=1.,
        # Keep the mean over the grid, as Burgers', KdV, water and vorticity do? In `koopman_learner`
        # in the units of the data, on globes by area; of a network alone where all sides wrap
        conserve:bool=False
    ):
        super().__init__()
        self.dim = need_whole('dim', dim, 1, 2, 'axes of the grid')
        self.t_in = need_whole('t_in', t_in, 1, what='frames')
        self.m = need_whole('m', m, 1, what='modes')
        self.o = need_whole('o', o, t_in+1, what='observables, the frames among them',
                            fix=f'Give at least {t_in+1}.')
        need_number('step', step)
        if not 0 < step < math.inf:
            raise ValueError(f"`step` must be positive and finite, got {step}. Give a usual time "
                             "of the data.")
        self.step,self.conserve = float(step),need_truth('conserve', conserve)
        k = half_plane(m, dim)
        self.register_buffer('k', k, persistent=False)
        rate = .1/step
        self.C = nn.Parameter(torch.randn(len(k), o, o, 2)*rate/o)
        start = rate*(1 + (k**2).sum(1, keepdim=True))
        self.d = nn.Parameter(softplus_inverse(start).repeat(1, o))
        self.g = nn.Parameter(softplus_inverse(start[0]).repeat(o))
        self.encoder = Everywhere(t_in, o-t_in, m, dim)
        self.decoder = Pointwise(o, t_in)
        with torch.no_grad():   # rec is u before training
            self.decoder.weight.copy_(torch.eye(t_in, o))
            self.decoder.bias.zero_()

    def generators(self):   # complex (modes,o,o), in 1/time
        "A_k; that of mode 0 is real"
        real,imag = self.C.unbind(-1)
        imag = imag*self.k.any(-1)[:, None, None]
        C = torch.complex(real, imag)
        return C - C.mH - torch.diag_embed(F.softplus(self.d)).to(C.dtype)

    @torch.no_grad()
    def eigenvalues(self):  # complex (modes,o), in 1/time; of modes `self.k`
        """Eigenvalues of every A_k: decay (real part, below 0) and angular frequency, in 1/time; mostly
        as `step` made them, and true of exp(t A) within one call, not of roll-outs"""
        return torch.linalg.eigvals(self.generators())

    def encode(self,
        u   # Frames (b,t_in,*grid)
    ):      # Observables (b,o,*grid)
        "z = E u: the frames, then what is learned of them"
        return torch.cat([u, self.encoder(u)], 1)

    def evolve(self,
        z,  # Observables (b,o,*grid)
        t   # Time >= 0: a number, or (b,)
    ):      # Observables after t
        "exp(t A) z: the semigroup, linear and never longer than z"
        grid = z.shape[2:]
        t,each = self._times(t, z).unique(return_inverse=True)
        y = torch.fft.rfft(z)
        if self.dim == 2: y = torch.fft.fft(y, dim=-2)
        shape = y.shape
        y = y.flatten(2)
        lowest = self._places(self.k, grid)
        # (times,modes,o,o) and (times,o,nodes)
        low = torch.linalg.matrix_exp(t[:, None, None, None]*self.generators())[each]
        high = torch.exp(-t[:, None, None]*F.softplus(self.g)[:, None]*self._squares(z))[each]
        low = torch.einsum('bkoi,bik->bok', low.expand(len(z), -1, -1, -1), y[..., lowest])
        y = (y*high).index_copy(2, lowest, low)
        if self.dim == 2 and self.m > 1:
            line = slice(1, self.m)     # ky = 0, kx > 0; kx < 0 is its conjugate
            y = y.index_copy(2, self._places(-self.k[line], grid), low[..., line].conj())
        y = y.unflatten(2, shape[2:])
        if self.dim == 2: y = torch.fft.ifft(y, dim=-2)
        return torch.fft.irfft(y, n=grid[-1])

    def decode(self,
        z   # Observables (b,o,*grid)
    ):      # Frames (b,t_in,*grid)
        "D z, linear"
        return self.decoder(z)

    def forward(self,
        u,      # Frames (b,t_in,*grid)
        t=None  # Time >= 0 from u to what is wanted: a number for all, or (b,); None: `step`
    ):
        need_input(u, self.t_in, self.dim, self.d, 'SemigroupKNO')
        need_grid(u.shape[2:], self.m, 'SemigroupKNO', below=True)
        z = self.encode(u)
        if t is None: t = self.step
        pred = self.decode(self.evolve(z, t))
        if self.conserve: pred = with_mean_of(pred, u)
        return pred,self.decode(z)

    def _times(self, t, z):
        "`t` as (1,) or (b,)"
        t = torch.as_tensor(t, device=z.device, dtype=z.dtype)
        if t.ndim == 0: t = t[None]
        elif t.shape != (len(z),):
            raise ValueError(f"`t` must be one number, or one for each of the {len(z)} fields, "
                             f"shape ({len(z)},), got shape {tuple(t.shape)}.")
        if not bool(((t >= 0) & (t < math.inf)).all()):
            raise ValueError(f"`t` must be finite and not below 0, got {t.min().item():g} to "
                             f"{t.max().item():g}. What decays cannot be followed backwards.")
        return t

    def _places(self, k, grid):
        "Where wave numbers are among the modes of `rfft`, flat"
        if self.dim == 1: return k[:, 0]
        return k[:, 0] % grid[0]*(grid[1]//2+1) + k[:, 1]

    def _squares(self, z):
        "1+|k|^2 of every mode of the grid, flat"
        k2 = waves(z.shape[-1], True, z)**2
        if self.dim == 2: k2 = waves(z.shape[-2], False, z)[:, None]**2 + k2
        return 1+k2.flatten()

    def extra_repr(self):
        return (f'dim={self.dim}, t_in={self.t_in}, o={self.o}, m={self.m}, step={self.step:g}, '
                f'conserve={self.conserve}')
