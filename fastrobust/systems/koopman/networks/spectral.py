"What the operators share: the lowest Fourier modes on any grid, and which fields they take"
# A field is (b,c,x) or (b,c,x,y). Its kept modes are k = 0..m-1, as (b,c,m); in two dimensions ky =
# 0..m-1 with two corners, kx = 0..m-1 and kx = -m..-1, as (b,c,2,m,m). Weights are real pairs,
# (..,2): fastai's Adam diverges on complex parameters.
import torch
from torch import nn
from torch.nn import functional as F
from fastrobust.basics import shown

__all__ = []

# --- there and back -------------------------------------------------------------------------------
def kept_modes(
    x,  # Real field (b,c,x) or (b,c,x,y)
    m   # Modes along each axis
):      # Complex (b,c,m) or (b,c,2,m,m)
    "The lowest Fourier coefficients of a field"
    if x.ndim == 3: return torch.fft.rfft(x)[..., :m]
    y = torch.fft.fft(torch.fft.rfft(x)[..., :m], dim=-2)
    return torch.stack([y[..., :m, :], y[..., -m:, :]], 2)

def field_of(
    y,      # Complex (b,c,m) or (b,c,2,m,m)
    grid    # (x,) or (x,y): nodes along each axis
):          # Real (b,c,*grid)
    "The real field of these modes alone; what cannot be real, such as Im of mode 0, is left out"
    if len(grid) == 1: return torch.fft.irfft(y, n=grid[0])
    b,c,_,m,_ = y.shape
    gap = y.new_zeros(b, c, grid[0]-2*m, m)
    y = torch.cat([y[:, :, 0], gap, y[:, :, 1]], -2)
    # one axis after the other: cuFFT's c2r of two axes is not defined on modes of no real field
    return torch.fft.irfft(torch.fft.ifft(y, dim=-2), n=grid[1])

def hermitian(
    y,      # Complex (b,c,m) or (b,c,2,m,m)
    grid    # (x,) or (x,y)
):          # Like `y`
    "`kept_modes(field_of(y))` without a transform: those of k and -k become each other's conjugate"
    m = y.shape[-1]
    cols = [0]
    if grid[-1] == 2*m-2: cols = [0, m-1]               # the mode of every second node is kept too
    if len(grid) == 1:
        out = y.clone()
        out[..., cols] = y[..., cols].real.to(y.dtype)
        return out
    y = y.flatten(2, 3)
    partner = -torch.arange(2*m, device=y.device) % (2*m)
    other = y[..., cols][..., partner, :].conj().resolve_conj()
    if grid[0] > 2*m: other[..., m, :] = 0              # kx = m, the partner of -m, is not kept
    out = y.clone()
    out[..., cols] = (y[..., cols]+other)/2
    return out.unflatten(2, (2, m))

def mode_product(
    y,      # Complex modes (b,i,..)
    w       # Complex weights (i,o,..); an axis of 1 is for all
):          # Complex modes (b,o,..)
    "A matrix for each mode, on the channels"
    return torch.einsum('bi...,io...->bo...', y, w)

def wave_numbers(
    m,      # Modes along each axis
    dim     # 1 or 2
):          # int64 (modes, dim), in the order of the kept modes
    "Whole numbers of waves over the domain of each kept mode"
    k = torch.arange(m)
    if dim == 1: return k[:, None]
    kx = torch.cat([k, k-m])
    return torch.stack(torch.meshgrid(kx, k, indexing='ij'), -1).flatten(0, 1)

def waves(
    S,      # Nodes along an axis
    half,   # Only those from 0 on, as `rfft` gives?
    like    # Tensor: for device and dtype
):          # (S,) or (S//2+1,)
    "Wave numbers of all modes of an axis, in the order of `fft` or `rfft`"
    f = torch.fft.rfftfreq if half else torch.fft.fftfreq
    return f(S, 1/S, device=like.device, dtype=like.dtype)

def with_mean_of(
    y,  # Fields (b,o,*grid)
    u   # What they were made from (b,i,*grid), i >= o
):      # Like `y`
    "`y` with the mean over the grid of the last channels of `u`: mode 0 stays as it was"
    axes = tuple(range(2, y.ndim))
    before = u[:, -y.shape[1]:].mean(axes, keepdim=True)
    return y + (before - y.mean(axes, keepdim=True))

# --- layers ---------------------------------------------------------------------------------------
class Pointwise(nn.Linear):
    "A linear layer on axis 1 of every node alone; on a GPU a convolution would be in TF32"
    def forward(self, x): return F.linear(x.movedim(1, -1), self.weight, self.bias).movedim(-1, 1)

class CircularConv(nn.Module):
    "A convolution of odd `kernel` that goes on at the other side of the field"
    def __init__(self, n_in, n_out, dim, kernel):
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d)[dim-1]
        self.conv = conv(n_in, n_out, kernel, padding=kernel//2, padding_mode='circular')

    def forward(self, x): return self.conv(x)

class SpectralConv(nn.Module):
    "Multiply the lowest modes, drop the others: Eq. 4-5 of https://arxiv.org/abs/2010.08895"
    def __init__(self,
        n_in,   # Channels of the field
        n_out,  # Channels that come out
        m,      # Modes along each axis
        dim     # 1 or 2
    ):
        super().__init__()
        self.m = m
        corners = () if dim == 1 else (2,)
        # U[0,1) for both parts over n_in*n_out, as in the authors' code
        self.W = nn.Parameter(torch.rand(n_in, n_out, *corners, *[m]*dim, 2)/(n_in*n_out))

    def forward(self, x):
        y = mode_product(kept_modes(x, self.m), torch.view_as_complex(self.W))
        return field_of(y, x.shape[2:])

# --- what is taken --------------------------------------------------------------------------------
def need_grid(
    grid,           # (x,) or (x,y)
    m,              # Modes along each axis
    who,            # Name of the model
    below=False,    # Must all kept modes be below that of every second node?
    kernel=1        # Nodes that a convolution of the model spans
):
    "Refuse a grid on which the modes are not all there, or overlap"
    for axis,S in zip('xy', grid):
        least = 2*m-2
        if len(grid) == 2 and axis == 'x': least = 2*m
        if below: least = max(least, 2*m-1)
        if S < max(least, 1):
            raise ValueError(f"expected at least {least} nodes along {axis} for {who} with m={m} "
                             f"modes, got a grid of {tuple(grid)}. Take a finer grid, or a model "
                             f"of at most m={m-(least-S+1)//2} modes.")
        if S < kernel:
            raise ValueError(f"expected at least {kernel} nodes along {axis} for {who} with "
                             f"kernel={kernel}, got a grid of {tuple(grid)}. Take a finer grid or "
                             "a smaller kernel.")

def need_precision(
    x,      # Input of a model
    like,   # A parameter of it
    who     # Name of the model
):
    "Refuse complex, half and whole numbers, autocast, and a precision that is not the model's"
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{who} expected a tensor of fields, got {shown(x)}. Give "
                        "torch.as_tensor(x).")
    if x.is_complex():
        raise ValueError(f"{who} expected real fields, got {x.dtype}. Give real and imaginary "
                         "part as frames of their own, torch.cat([u.real, u.imag], 1), to a "
                         "model with twice the t_in.")
    half = "Its Fourier transform has no half precision (ComplexHalf)"
    if torch.is_autocast_enabled(x.device.type):
        raise ValueError(f"{who} expected to run outside autocast, got it switched on. {half}: "
                         "leave out to_fp16(), to_bf16() and MixedPrecision.")
    if x.dtype in (torch.float16, torch.bfloat16):
        raise ValueError(f"{who} expected float32 or float64, got {x.dtype}. {half}: give "
                         "u.float().")
    if x.dtype != like.dtype:
        raise ValueError(f"{who} expected fields in the precision of its parameters, "
                         f"{like.dtype}, got {x.dtype}. Give u.to({like.dtype}), or turn the "
                         "model with model.double() or model.float().")

def need_input(
    x,      # Input of a model
    t_in,   # Frames that it takes
    dim,    # Axes of its grids, 1 or 2
    like,   # A parameter of it
    who     # Name of the model
):
    "Refuse what is no batch of `t_in` real frames on a grid of `dim` axes"
    need_precision(x, like, who)
    shape = '(b, t_in, x)' if dim == 1 else '(b, t_in, x, y)'
    if x.ndim != dim+2:
        got = f"{x.ndim-2}-d data on a {dim}-d model" if x.ndim in (3, 4) else f"{x.ndim} axes"
        fix = f"Take the {x.ndim-2}-d model" if x.ndim in (3, 4) else f"Bring it to {dim+2} axes"
        if x.ndim == dim+1: fix += ", or give a single frame its axis, u[:, None]"
        raise ValueError(f"{who} expected fields {shape}, got {got}, shape {tuple(x.shape)}. "
                         f"{fix}.")
    if x.shape[1] != t_in:
        raise ValueError(f"{who} expected t_in={t_in} frames on axis 1 of {shape}, got "
                         f"{x.shape[1]}, shape {tuple(x.shape)}. Give the last {t_in}, or make "
                         f"the model with t_in={x.shape[1]}.")
