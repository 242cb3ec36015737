"Fourier neural operator: the baseline that every table of operators needs"
import torch
from torch import nn
from torch.nn import functional as F
from fastrobust.basics import need_truth, need_whole
from fastrobust.systems.koopman.networks.spectral import (
    Pointwise, SpectralConv, need_grid, need_input, with_mean_of)

__all__ = ['FNO1d', 'FNO2d']

def coordinates(
    u   # Field (b,c,*grid)
):      # (b,dim,*grid)
    "Place of each node along each axis, from 0 on and below 1: the field is periodic"
    axes = [torch.arange(S, device=u.device, dtype=u.dtype)/S for S in u.shape[2:]]
    at = torch.stack(torch.meshgrid(*axes, indexing='ij'))
    return at.expand(len(u), *at.shape)

class FNO(nn.Module):
    "What the Fourier neural operators of one and two dimensions share"
    conserve = False
    def __init__(self, dim, t_in, width, m, layers, t_out, grid, hidden, conserve):
        super().__init__()
        self.dim,self.grid = dim,grid
        self.t_in = need_whole('t_in', t_in, 1, what='frames')
        self.m = need_whole('m', m, 1, what='modes')
        need_whole('width', width, 1, what='channels')
        need_whole('layers', layers, 1)
        need_whole('t_out', t_out, 1, what='frames')
        need_whole('hidden', hidden, 1, what='channels')
        self.conserve = need_truth('conserve', conserve)
        if conserve and t_out > t_in:
            raise ValueError(f"expected `t_out` up to t_in={t_in} with `conserve`, as the means are "
                             f"of the last frames seen, got {t_out}. Lower it: roll-outs give more.")
        self.lift = Pointwise(t_in + dim*bool(grid), width)
        self.spectral = nn.ModuleList([SpectralConv(width, width, m, dim) for _ in range(layers)])
        self.local = nn.ModuleList([Pointwise(width, width) for _ in range(layers)])
        self.project = nn.Sequential(Pointwise(width, hidden), nn.GELU(), Pointwise(hidden, t_out))

    def forward(self, u):
        need_input(u, self.t_in, self.dim, self.lift.weight, type(self).__name__)
        need_grid(u.shape[2:], self.m, type(self).__name__)
        v = self.lift(torch.cat([u, coordinates(u)], 1) if self.grid else u)
        last = len(self.local)-1
        for i,(spectral,local) in enumerate(zip(self.spectral, self.local)):
            v = spectral(v) + local(v)
            if i < last: v = F.gelu(v)
        y = self.project(v)
        return with_mean_of(y, u) if self.conserve else y

    def extra_repr(self): return f't_in={self.t_in}, m={self.m}, grid={self.grid}, conserve={self.conserve}'

class FNO1d(FNO):
    """Frames on a line (b,t_in,x) -> the next (b,t_out,x) by layers v <- gelu(W v + F^-1(R F v)),
    the last without gelu: Eq. 2-4 of https://arxiv.org/abs/2010.08895. Grids from 2m-2 nodes on.
    With few batches it may give the mean field, a loss near 1, for some epochs before it learns"""
    def __init__(self,
        t_in:int=1,     # Frames that it sees
        width:int=8,    # Channels; 7,801 parameters, `KNO1d()` has 8,513. The paper: 64
        m:int=14,       # Fourier modes k = 0..m-1; the others go through W alone. The paper: 16
        layers:int=4,   # Fourier layers; the paper's
        t_out:int=1,    # Frames that it gives
        *,
        # Places of the nodes as a channel, as in the paper? Without, the output moves with u
        grid:bool=True,
        hidden:int=32,  # Channels of the projection's hidden layer; the authors: 128 for width 64
        # Keep the mean over the grid, as Burgers', KdV, water and vorticity do? In `koopman_learner`
        # in the units of the data, on globes by area; of a network alone where all sides wrap
        conserve:bool=False
    ):
        super().__init__(1, t_in, width, m, layers, t_out, grid, hidden, conserve)

class FNO2d(FNO):
    """Frames on a plane (b,t_in,x,y) -> the next (b,t_out,x,y), see `FNO1d`:
    https://arxiv.org/abs/2010.08895. Each layer has weights of its own for kx >= 0 and kx < 0. Any
    grid from 2m nodes along x and 2m-2 along y on"""
    def __init__(self,
        t_in:int=10,    # Frames that it sees; the paper's for Navier-Stokes
        width:int=20,   # Channels; the authors' script for Navier-Stokes
        m:int=12,       # Fourier modes along each axis; the paper's in two dimensions
        layers:int=4,   # Fourier layers; the paper's
        t_out:int=1,    # Frames that it gives
        *,
        # Places of the nodes as channels, as in the paper? Without, the output moves with u
        grid:bool=True,
        hidden:int=128, # Channels of the projection's hidden layer; the authors'
        # Keep the mean over the grid, as Burgers', KdV, water and vorticity do? In `koopman_learner`
        # in the units of the data, on globes by area; of a network alone where all sides wrap
        conserve:bool=False
    ):
        super().__init__(2, t_in, width, m, layers, t_out, grid, hidden, conserve)
