"Which waves the training fields hold: of others nothing is learned"
import numpy as np
import torch
from torch import Tensor
from fastrobust.basics import plain_dl
from fastrobust.resting import keep_random
from fastrobust.systems.koopman.reports.spectrum import plane_axes

__all__ = []

FEW = 256       # Training fields that are looked at
NOISE = 1e-6    # Relative: what float32 leaves of 0

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

def _least(
    f,      # Fourier coefficients (n,channels,k), k = 0 first
    u,      # The fields (n,channels,*grid)
    n_vars
):          # (k,)
    "Root mean square of each wave, of the variable that has least"
    least = np.full(f.shape[2], np.inf)
    for v in range(n_vars):
        here,own = f[:, v::n_vars],u[:, v::n_vars]
        dev = own.std(correction=0)
        # one that is constant in space, such as a parameter, has no waves to be compared
        if not dev > NOISE*own.abs().max(): continue
        size = here.abs().square().mean((0, 1)).sqrt()
        size[0] = here[..., 0].real.std(correction=0)
        size /= dev
        if size[1:].max() > NOISE: size[1:] /= size[1:].max()
        else: size[1:] = np.inf
        least = np.minimum(least, size.numpy())
    return np.where(np.isfinite(least), least, 0)

def seen_modes(
    op,     # `AnyOperator`
    modes   # k = 0..modes-1, along the first side
):          # (modes,), or None: not known
    """Root mean square of each mode k >= 1 in the training fields, the strongest being 1, and for k = 0
    by how many deviations their means vary; of the variable that has least"""
    u = _training_fields(op)
    if u is None or u.ndim < 3: return None
    along = torch.fft.fft(u, dim=2, norm='forward')
    sides = tuple(range(3, u.ndim))
    if sides: along = along.mean(sides)         # waves along the first side alone
    size = _least(along[:, :, :u.shape[2]//2+1], u, op.n_vars)[:modes]
    return np.pad(size, (0, modes-len(size)))

def seen_directions(
    op,     # `AnyOperator`
    modes,  # |k| < modes
    sides   # Nodes along each side, where it is looked at
):          # (2 modes-1,kx), or None: not known
    "The same of waves in all directions"
    u = _training_fields(op)
    if u is None or u.ndim != 4: return None
    f = torch.fft.fft2(u, norm='forward')
    size = _least(f.flatten(2), u, op.n_vars).reshape(f.shape[2:])
    ky,kx = plane_axes(modes, sides)
    there = (abs(ky) <= f.shape[2]//2)[:, None] & (kx <= f.shape[3]//2)
    return np.where(there, size[np.ix_(ky % f.shape[2], kx % f.shape[3])], 0)
