"Operators of learners at rest, run over batches of fields: what the reports of this folder share"
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
import torch
from fastai.callback.progress import ProgressCallback
from fastai.learner import Learner
from torch import Tensor
from fastrobust.basics import plain_dl, shown
from fastrobust.inference.notes import Bar, warn_callbacks
from fastrobust.resting import at_rest, keep_random
from fastrobust.systems.koopman.learner import Rollout, units_of
from fastrobust.systems.koopman.reports.steps import step_of
from fastrobust.systems.koopman.rolling import Scaled, answer, roll

__all__ = []

BLOCK = 64      # Steps of a roll-out that are held at once

# --- operators ------------------------------------------------------------------------------------
@dataclass
class Operator:
    "The network of a learner, and which fields it takes"
    name: str
    learn: Any
    grid: tuple         # On which it was trained
    n_vars: int         # Variables c of a frame
    t_in: int           # Frames that it sees
    timed: bool         # Does it take the time of a step?
    at_once: bool       # Does it give all target frames together, rather than the next one?
    wraps: tuple        # For each side whether it is periodic
    weights: Any = None # Of the places of the grid
    units: Any = None   # (mean, std) of each variable of the targets, in which errors are counted
    step: Any = None    # `Step`, from what to what

    def __post_init__(self): self.step = step_of(self.learn.dls, self.t_in, self.n_vars)
    def __setstate__(self, state):
        self.__dict__.update(state)
        if self.step is None: self.__post_init__()      # from a file of a version without it

    @property
    def model(self): return self.learn.model
    @property
    def dim(self): return len(self.grid)
    @property
    def out_vars(self):
        "Variables of a frame of the targets; 1 where all frames come at once and may be of others"
        return 1 if self.at_once else self.step.out_vars

    def place(self, u):
        "Fields where the network is, in its precision"
        for p in (*self.model.parameters(), *self.model.buffers()):
            if p.is_floating_point(): return u.to(p.device, p.dtype)
        return u

    def _inputs(self, u, t):
        if t is None or not self.timed: return self.place(u),()
        return self.place(u),(self.place(t),)

    def try_one(self, u, t):
        "Refuse fields (n,t_in*c,*grid) that the network does not move on, by what it does with the first"
        u,t = self._inputs(u[:1], None if t is None else t[:1])
        pred,_ = answer(self.model(u, *t))
        whole = torch.is_tensor(pred) and pred.ndim == u.ndim
        least = self.step.channels
        if whole and pred.shape[2:] == u.shape[2:] and pred.shape[1] >= least: return pred.shape[1]
        got = tuple(pred.shape) if torch.is_tensor(pred) else shown(pred)
        raise ValueError(f"expected of {self.name} fields of at least {least} channels on the grid "
                         f"{tuple(u.shape[2:])}, got {got}. Its last {least} channels are the next frame.")

    def need_frames(self,
        y   # Targets (n,frames,c,*grid), of `out_vars` variables
    ):
        "Refuse targets of more frames than can be predicted"
        if not self.at_once: self.step.times(y.shape[1]*y.shape[2]//self.out_vars)

    def frames(self, u, t, frames):
        "What the learner predicts for `u`: (b,frames*c,*grid), on the CPU"
        u,t = self._inputs(u, t)
        if self.at_once: out = answer(self.model(u, *t))[0]
        else: out = roll(self.model, u, self.step.times(frames), self.step.channels, t)
        return out.as_subclass(Tensor).cpu()

    def rolled(self, u, t, steps):
        "Pairs (steps before, frames (b,k,c,*grid) on the CPU) of a roll-out, as many as fit in memory at a time"
        u,t = self._inputs(u, t)
        for at in range(0, steps, BLOCK):
            new = roll(self.model, u, min(BLOCK, steps-at), self.n_vars, t)
            u = torch.cat([u, new], 1)[:, -u.shape[1]:]
            yield at,new.unflatten(1, (-1, self.n_vars)).cpu()

def _first_input(dls):
    "Inputs of the first batch of a loader that tells nothing about its fields; it stays as it is"
    dl = plain_dl(dls.valid if len(dls.loaders) > 1 else dls.train)
    with keep_random():
        if hasattr(dl, 'new'): dl = dl.new(shuffle=False)
        return next(iter(dl))[:getattr(dls, 'n_inp', 1)]

def _operator(name, learn, who):
    dls = learn.dls
    told = len(dls.loaders) > 0 and getattr(dls, 'grid', None) is not None
    direct = not any(isinstance(cb, Rollout) for cb in learn.cbs)
    if told:
        at_once = direct and dls.t_out > 1
        return Operator(name, learn, tuple(dls.grid), dls.n_vars, dls.t_in, dls.timed, at_once,
                        tuple(dls.periodic), dls.weights, units_of(dls))
    if not len(dls.loaders) or not len(plain_dl(dls.train).dataset):
        raise ValueError(f"{who} expected of {name} dls that say what its fields are, got empty "
                         "ones. Make the loaders with field_dls: an exported learner keeps what "
                         "they know.")
    u,*t = _first_input(dls)
    c = getattr(dls, 'n_vars', 1)
    at_once = direct and getattr(dls, 't_out', 1) > 1
    grid = tuple(u.shape[2:])
    return Operator(name, learn, grid, c, u.shape[1]//c, bool(t), at_once, (True,)*len(grid))

def _named(learn):
    "Learners by name"
    if isinstance(learn, dict): return learn
    net = getattr(learn, 'model', None)
    if isinstance(net, Scaled): net = net.net
    return {type(net).__name__: learn}

def operators(
    learn,      # A Learner, or a dict from name to Learner
    who         # Who asks
):
    "The operators of learners, which must take the same fields"
    given = _named(learn)
    wrong = [o for o in given.values() if not isinstance(o, Learner)]
    if wrong or not given:
        got = shown(wrong[0]) if wrong else 'an empty dict'
        raise TypeError(f"{who} expected a Learner, or a dict from name to Learner, got {got}. Give "
                        "what koopman_learner made; a network alone: koopman_learner(dls, network).")
    ops = [_operator(str(k), o, who) for k,o in given.items()]
    for op in ops: warn_callbacks(op.learn, who)
    takes = {}
    for op in ops:
        takes[op.name] = f'{op.t_in} frames of {op.n_vars} variables on {op.dim} sides'
        if not op.step.alike: takes[op.name] += f' ({op.step})'
    if len(set(takes.values())) > 1:
        said = ', '.join(f'{k!r} takes {v}' for k,v in takes.items())
        raise ValueError(f"{who} expected learners that take the same fields, got others: {said}. "
                         "Ask for each alone.")
    return ops

def bar_of(
    ops,    # Operators
    total   # Parts of the work; below 2 there is no bar
):
    "Progress of a report, silent where the bars of any of its learners are: `with learn.no_bar()`"
    for op in ops:
        if not any(isinstance(cb, ProgressCallback) for cb in op.learn.cbs): total = 0
    return Bar(ops[0].learn, total if total > 1 else 0)

@contextmanager
def resting(ops):
    "The networks of operators in evaluation mode, without gradients; they and all random streams come back"
    with ExitStack() as stack:
        for op in ops: stack.enter_context(at_rest(op.model))
        yield

def given_weights(ops, weights, grid):
    "Weights of the places of `grid`, float64: those given, else those that the learners were trained with"
    if weights is None:
        fitting = [op.weights for op in ops if op.weights is not None and op.grid == grid]
        if not fitting: return None
        weights = fitting[0]
    w = torch.as_tensor(weights, dtype=torch.float64).detach().cpu()
    try: whole = w.expand(grid)
    except RuntimeError: whole = None
    if whole is None or not (w >= 0).all() or not 0 < w.sum() < torch.inf:
        raise ValueError("expected `weights` from 0 on, finite and in a shape that goes with the grid "
                         f"{tuple(grid)}, got shape {tuple(w.shape)}. By latitude: (ny,1).")
    return whole/whole.mean()
