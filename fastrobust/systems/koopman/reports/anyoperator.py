"Operators of any kind: what is known of them, their next frame, the field about which they are asked"
from contextlib import contextmanager
import numpy as np
import torch
from fastai.learner import Learner
from torch import Tensor, nn
from fastrobust.basics import is_whole, need_number, need_whole, shown
from fastrobust.inference.notes import Bar
from fastrobust.resting import at_rest, keep_random
from fastrobust.systems.koopman.data.fieldchecks import need_finite, need_real
from fastrobust.systems.koopman.reports.steps import step_of
from fastrobust.systems.koopman.rolling import Scaled, answer

__all__ = []

ROOM = 2**19    # Numbers of the inputs that go through an operator at once

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
        self.net,self.dls,self.learn = net,None,learn
        if learn is not None and len(learn.dls.loaders): self.dls = learn.dls
        if n_vars is None: n_vars = self._told('n_vars') or self._scaled_vars() or 1
        self.n_vars = need_whole('n_vars', n_vars, 1, what='variables of a frame')
        grid,t_in = self._told('grid'),self._told('t_in')
        if t_in: step_of(self.dls, t_in, self.n_vars).need_next('a spectrum')
        self.bound = self._bound()
        self.grid = tuple(grid) if isinstance(grid, (tuple, list)) else self.bound
        dim = len(self.grid) if self.grid else described(net, 'dim')
        self.dim = dim if dim in (1, 2) else None
        self.channels = t_in*self.n_vars if t_in else described(net, 't_in')
        if time is None and self._told('timed'):
            raise ValueError("expected `time`, as this network takes the time of the target, got "
                             "none. Give e.g. time=.1.")
        if time is not None: need_number('time', time)
        self.time = time

    def _told(self, name): return getattr(self.dls, name, None)

    def _bound(self):
        "The grid of a network that takes no other, such as ViTKNO; None: any, or not known"
        size = described(self.net, 'size')
        any_grid = described(self.net, 'any_grid') is not False
        if any_grid or not isinstance(size, (tuple, list)): return None
        return tuple(size) if all(is_whole(o) for o in size) else None

    def sizes(self,
        size    # Nodes of a side, or of each; None: as in training, or 64
    ):          # Nodes along each side
        "The grid on which it is looked at, where no field is given"
        if size is None: size = self.grid or 64
        sizes = _sizes(size, self.dim)
        if self.bound in (None, sizes): return sizes
        if is_whole(size) and size == 64: return self.bound     # what is asked for by default
        raise ValueError(f"expected `size` as the grid {self.bound} that this network is bound to, "
                         f"got {size!r}. Leave it out.")

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

    def bar(self,
        total   # Parts of the work; below 2 there is no bar
    ):
        "Progress, where there is a learner that shows it"
        return Bar(self.learn, total if total > 1 and self.learn is not None else 0)

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
    channels,sides = op.channels or op.n_vars,op.sizes(size)
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
