"Koopman neural operator: observables whose lowest Fourier modes step r times by one matrix each"
import torch
from torch import nn
from fastrobust.basics import need_truth, need_whole
from fastrobust.systems.koopman.networks.spectral import (CircularConv, Pointwise, field_of, hermitian,
                                                 kept_modes, mode_product, need_grid, need_input,
                                                 wave_numbers, with_mean_of)

__all__ = ['KNO1d', 'KNO2d']

def need_kernel(
    coder,  # 'mlp' or 'conv'
    kernel  # Nodes that a 'conv' coder spans
):          # 1 for 'mlp'
    "Nodes that a coder spans"
    if coder not in ('mlp', 'conv'):
        raise ValueError("`coder` must be 'mlp' (node by node) or 'conv' (its neighbours too), "
                         f"got {coder!r}.")
    kernel = need_whole('kernel', kernel, 1, what='nodes')
    if coder == 'mlp': return 1
    if kernel % 2 == 0:
        raise ValueError(f"`kernel` must be odd, so that it has a middle, got {kernel}. Give "
                         f"{kernel+1}.")
    return kernel

def coder_layer(n_in, n_out, dim, kernel):
    "One linear layer between frames and observables, of every node alone or of a neighbourhood"
    if kernel == 1: return Pointwise(n_in, n_out)
    return CircularConv(n_in, n_out, dim, kernel)

class KNO(nn.Module):
    "What the Koopman neural operators of one and two dimensions share"
    conserve = False
    def __init__(self, dim, t_in, o, m, r, linear, coder, kernel, bn, conserve):
        super().__init__()
        self.dim = dim
        self.t_in = need_whole('t_in', t_in, 1, what='frames')
        self.o = need_whole('o', o, 1, what='observables')
        self.m = need_whole('m', m, 1, what='modes')
        self.r = need_whole('r', r, 1, what='steps')
        self.kernel = need_kernel(coder, kernel)
        self.linear,self.conserve = linear,need_truth('conserve', conserve)
        self.encoder = coder_layer(t_in, o, dim, self.kernel)
        self.decoder = coder_layer(o, t_in, dim, self.kernel)
        self.K = nn.Parameter(torch.rand(o, o, *[m]*dim, 2)/o**2)
        self.w0 = Pointwise(o, o)
        norm = (nn.BatchNorm1d, nn.BatchNorm2d)[dim-1]
        self.bn = norm(o) if bn else nn.Identity()

    def weights(self):
        "K as complex numbers (o,o,m), in two dimensions (o,o,1,m,m): the same in both corners"
        K = torch.view_as_complex(self.K)
        return K if self.dim == 1 else K[:, :, None]

    def observables(self,
        u   # Frames (b,t_in,*grid)
    ):      # (b,o,*grid)
        "z = tanh(E u)"
        return torch.tanh(self.encoder(u))

    def steps(self,
        z   # Observables (b,o,*grid)
    ):      # h_r (b,o,*grid)
        "h_0 = z, h_{i+1} = h_i + F^-1(K F h_i) on the kept modes; not linear: tanh of that"
        K,grid = self.weights(),z.shape[2:]
        if not self.linear:
            h = z
            for _ in range(self.r):
                step = mode_product(kept_modes(h, self.m), K)
                h = torch.tanh(h + field_of(step, grid))
            return h
        # all steps in Fourier space, with one transform there and one back
        y = kept_modes(z, self.m)
        step = total = mode_product(y, K)
        for _ in range(self.r-1):
            y = y + hermitian(step, grid)
            step = mode_product(y, K)
            total = total + step
        return z + field_of(total, grid)

    def forward(self, u):
        need_input(u, self.t_in, self.dim, self.K, type(self).__name__)
        need_grid(u.shape[2:], self.m, type(self).__name__, kernel=self.kernel)
        z = self.observables(u)
        h = self.steps(z)
        pred = self.decoder(torch.tanh(self.bn(self.w0(z))+h))
        if self.conserve: pred = with_mean_of(pred, u)
        return pred,self.decoder(z)

    @torch.no_grad()
    def multiplier(self):   # complex (modes,o,o); the modes are those of `wave_numbers()`
        """I + K of each kept mode, as it acts on the observables of a real field on a grid of more
        than 2m nodes: of mode 0 the real part only, in two dimensions for ky = 0 the mean of K at
        kx and of K's conjugate at -kx, at kx = -m half of K; r linear steps are its r-th power.
        Encoder, w0 and decoder act beside it: its eigenvalues are not the map's"""
        K = self.weights()
        if self.dim == 2: K = K.expand(-1, -1, 2, -1, -1)
        K = hermitian(K, (2*self.m+2,)*self.dim).flatten(2)
        return K.permute(2, 1, 0) + torch.eye(self.o, dtype=K.dtype, device=K.device)

    def wave_numbers(self):     # int64 (modes, dim)
        "Waves over the domain of each mode of `multiplier()`"
        return wave_numbers(self.m, self.dim)

    def extra_repr(self):
        return (f't_in={self.t_in}, o={self.o}, m={self.m}, r={self.r}, linear={self.linear}, '
                f'kernel={self.kernel}, conserve={self.conserve}')

class KNO1d(KNO):
    """Frames on a line (b,t_in,x) -> (pred, rec): pred = D(tanh(w0 z + h_r)) with z = tanh(E u),
    h_{i+1} = h_i + F^-1(K F h_i) on modes below `m`, and rec = D(z):
    https://arxiv.org/abs/2301.10022. Any grid from 2m-2 nodes on; the next frame is pred[:, -1:]"""
    def __init__(self,
        t_in:int=1,     # Frames that it sees, and gives
        o:int=16,       # Observables; KoopmanLab's default
        m:int=16,       # Fourier modes k = 0..m-1 that step, others stay. KoopmanLab's default
        r:int=6,        # Steps of the operator between two frames; KoopmanLab has 4 to 8
        linear:bool=True, # Plain steps? Otherwise each goes through tanh
        # E and D of every node alone ('mlp'), or of its neighbours too ('conv': bound to one mesh)
        coder:str='mlp',
        *,
        kernel:int=5,   # Nodes that a 'conv' coder spans, odd
        bn:bool=False,  # BatchNorm on w0 z, the path of the high frequencies?
        # Keep the mean over the grid, as Burgers', KdV, water and vorticity do? In `koopman_learner`
        # in the units of the data, on globes by area; of a network alone where all sides wrap
        conserve:bool=False
    ):
        super().__init__(1, t_in, o, m, r, linear, coder, kernel, bn, conserve)

class KNO2d(KNO):
    """Frames on a plane (b,t_in,x,y) -> (pred, rec), see `KNO1d`: https://arxiv.org/abs/2301.10022.
    The modes are ky = 0..m-1 with kx = 0..m-1 and, by the same K in the same order, kx = -m..-1: so
    kx = m-1 and kx = -1 share a matrix, and a short wave along x may be moved as a long one is
    (`FNO2d` has two; spectrum_report(learn) shows whether the data have such waves). Any grid from
    2m nodes along x and 2m-2 along y on, square or not"""
    def __init__(self,
        t_in:int=10,    # Frames that it sees, and gives; 10 for Navier-Stokes, as in FNO
        o:int=16,       # Observables; KoopmanLab's default, 32 in its demo
        m:int=16,       # Fourier modes along each axis that step, others stay. KoopmanLab's demo
        r:int=6,        # Steps of the operator between two frames; KoopmanLab's default
        linear:bool=True, # Plain steps? Otherwise each goes through tanh
        # E and D of every node alone ('mlp'), or of its neighbours too ('conv': bound to one mesh)
        coder:str='mlp',
        *,
        kernel:int=5,   # Nodes along each axis that a 'conv' coder spans, odd
        bn:bool=False,  # BatchNorm on w0 z, the path of the high frequencies?
        # Keep the mean over the grid, as Burgers', KdV, water and vorticity do? In `koopman_learner`
        # in the units of the data, on globes by area; of a network alone where all sides wrap
        conserve:bool=False
    ):
        super().__init__(2, t_in, o, m, r, linear, coder, kernel, bn, conserve)
