"An operator moves a field on: one step, or many, each from what the last one gave; in the units of the data"
# Roll-out as in KoopmanLab's training, https://arxiv.org/abs/2301.10022: the last frame of a
# prediction goes to the end of the window, the oldest leaves it.
import math
import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = []

PAD = 1/8   # Of a side that is not periodic: what is put behind it, for the FFT's wrap to act on

def answer(
    out     # What an operator returns: a prediction, or (prediction, reconstruction)
):
    "Prediction and reconstruction, None where there is none"
    if isinstance(out, (tuple, list)): return out[0],out[1]
    return out,None

def joined(
    z,      # Fields (b,c,*grid)
    axis    # Of a side that does not wrap
):          # Longer by `PAD` of that side
    "Fields whose end runs into their beginning in a straight line: the FFT then sees no jump"
    n = z.shape[axis]
    k = math.ceil(PAD*n)
    first,last = z.narrow(axis, 0, 1),z.narrow(axis, n-1, 1)
    w = torch.arange(1, k+1, dtype=z.dtype, device=z.device)/(k+1)
    w = w.view(-1, *[1]*(z.ndim-1-axis))
    return torch.cat([z, torch.lerp(last, first, w)], axis)

def zeros_behind(
    z,      # Fields (b,c,*grid)
    axis    # Of a side that does not wrap
):          # Longer by `PAD` of that side
    "What earlier versions put behind a side with ends: the mean"
    k = math.ceil(PAD*z.shape[axis])
    return F.pad(z, [0, 0]*(z.ndim-1-axis) + [0, k])

class Scaled(nn.Module):
    """An operator in the units of its data: inside are fields of mean 0 and deviation 1, and sides that wrap. Of a
    network with `conserve` the mean over the grid is kept in these units, whatever the scales of both sides"""
    pad = 'zeros'       # in files of versions without another
    conserve = False
    def __init__(self,
        net,            # Operator: u (b,t_in*c,*grid) -> prediction, or (prediction, reconstruction)
        mean=(0.,),     # Of each of the c variables
        std=(1.,),      # Of each, positive
        periodic=(),    # For each side of the grid whether it is periodic; (): all are
        out=None,       # (mean, std) of the predictions, where these are of other variables; None: the same
        weights=None    # Of the rows of the grid (ny,1), in the mean that is kept; None: all alike
    ):
        super().__init__()
        self.net,self.periodic = net,tuple(periodic)
        self.pad,self.conserve = 'line',getattr(net, 'conserve', False) is True
        self._keep('mean', 'std', mean, std)
        self._keep('out_mean', 'out_std', *((mean, std) if out is None else out))
        if weights is not None: weights = torch.as_tensor(weights, dtype=torch.float32)
        self.register_buffer('weights', weights, persistent=False)
        if self.conserve and len(self.out_mean) != self.n_vars:
            raise ValueError("expected with `conserve` as many variables of the targets as of the inputs, whose mean "
                             f"is kept, got {len(self.out_mean)} and {self.n_vars}. Make the network without it.")

    def _keep(self, mean_name, std_name, mean, std):
        mean,std = (torch.as_tensor(o, dtype=torch.float64).flatten() for o in (mean, std))
        if len(mean) != len(std) or not (std > 0).all():
            raise ValueError("expected a mean and a positive deviation for each variable, got "
                             f"{mean.tolist()} and {std.tolist()}.")
        self.register_buffer(mean_name, mean.float())
        self.register_buffer(std_name, std.float())

    @property
    def n_vars(self): return len(self.mean)

    def _per_channel(self, x, mean, std):
        "Mean and deviation in the shape of `x` (b,k*c,*grid)"
        c = len(mean)
        frames,rest = divmod(x.shape[1], c)
        if rest:
            raise ValueError(f"expected frames of {c} variables, got {x.shape[1]} channels. Give whole frames "
                             "(b,t*c,*grid).")
        shape = frames*c,*[1]*(x.ndim-2)
        if frames > 1: mean,std = mean.repeat(frames),std.repeat(frames)
        return mean.to(x.dtype).view(shape),std.to(x.dtype).view(shape)

    def _wrapped(self, z):
        "Behind each side that is not periodic a straight line, from its end to its beginning"
        if not getattr(self.net, 'any_grid', True): return z
        longer = joined if self.pad == 'line' else zeros_behind
        for axis,wraps in enumerate(self.periodic, 2):
            if not wraps: z = longer(z, axis)
        return z

    def _rows(self, rows):
        "Weights of the rows of a grid, that of training or every so manyth row of it"
        w = self.weights
        n,k = len(w),0
        if n % rows == 0: k = n//rows
        elif rows > 1 and (n-1) % (rows-1) == 0: k = (n-1)//(rows-1)      # from pole to pole
        if k: return w[::k]/w[::k].mean()
        raise ValueError(f"expected the {len(w)} rows of training or every so manyth of them, whose weights are "
                         f"known to keep the mean, got {rows}. For other grids make the network without `conserve`.")

    def _kept(self, pred, u):
        "Predictions with the mean over the grid of the last frames seen, as the network's `conserve` asks"
        if not self.conserve: return pred
        k = pred.shape[1]
        if k > u.shape[1]:
            raise ValueError(f"expected of a network with `conserve` up to {u.shape[1]} channels, as many as it sees, "
                             f"got {k}. Make it without.")
        off = u[:, -k:]-pred
        if self.weights is not None: off = off*self._rows(u.shape[2]).to(off.dtype)
        return pred + off.mean(tuple(range(2, off.ndim)), keepdim=True)

    def forward(self, u, *t):
        u = u.as_subclass(Tensor)
        m,s = self._per_channel(u, self.mean, self.std)
        pred,rec = answer(self.net(self._wrapped((u-m)/s), *t))
        here = ...,*(slice(n) for n in u.shape[2:])
        def back(o, mean, std):
            m,s = self._per_channel(o, mean, std)
            if o.shape[2:] != u.shape[2:]: o = o[here]
            return torch.addcmul(m, o, s)
        pred = self._kept(back(pred, self.out_mean, self.out_std), u)
        return pred if rec is None else (pred, back(rec, self.mean, self.std))

def roll(
    net,            # Operator
    u,              # What it sees at first (b,t_in*c,*grid)
    steps,          # How often it moves on, >= 1
    n_vars=1,       # Variables c of a frame
    t=(),           # What else it takes at every step, such as a time
    *,
    first=None,     # What it gave for `u`, if that is known already
    detach=None,    # Gradients go back through so many steps; None: through all
    seen=None       # A list that is given (reconstruction, window) of each step
)->Tensor:          # (b,steps*c,*grid)
    "The frames after `u`, each from those before it"
    frames = []
    for i in range(steps):
        out = net(u, *t) if first is None or i else first
        pred,rec = answer(out)
        if seen is not None and rec is not None: seen.append((rec, u))
        new = pred[:, -n_vars:]
        frames.append(new)
        if i == steps-1: break
        u = torch.cat([u[:, n_vars:].as_subclass(Tensor), new], 1)
        if detach and (i+1) % detach == 0: u = u.detach()
    return torch.cat(frames, 1)
