"`rollout_report`: how long an operator that feeds on its own frames stays right, and whether it stays bounded"
import math
from fastai.learner import Learner
from fastrobust.basics import need_number, need_whole, shown
from fastrobust.systems.koopman.reports.operands import (
    need_sizes, need_time, start_frames, true_frames)
from fastrobust.systems.koopman.reports.operating import (
    BLOCK, bar_of, given_weights, operators, resting)
from fastrobust.systems.koopman.reports.rolloutresult import STILL, TRUE, RolloutReport
from fastrobust.systems.koopman.reports.traces import Trace, energy_bound

__all__ = ['rollout_report']

_ME = 'rollout_report'

# --- what is rolled out ---------------------------------------------------------------------------
def _need_names(ops, others):
    "Refuse names that would stand for two things"
    if not isinstance(others, dict):
        raise TypeError(f"expected `others` as a dict from name to frames or to a function of u, got "
                        f"{shown(others)}. Give {{'exact': frames}}.")
    names = [*(op.name for op in ops), *map(str, others)]
    for k in (TRUE, STILL, *names):
        if [TRUE, STILL, *names].count(k) > 1:
            raise ValueError(f"expected names that are not taken, got {k!r} twice: {TRUE!r} and "
                             f"{STILL!r} are always there. Choose another.")

def _other(name, o, given, u, y, steps):
    "Frames of one of `others` (n,k,c,*grid), as many as are true or as there shall be"
    if isinstance(o, Learner):
        raise TypeError(f"expected others[{name!r}] as frames or a function of u, got a Learner. Put "
                        "it into `learn`, a dict from name to Learner.")
    if callable(o): o = o(given)
    frames = true_frames(o, u, y.shape[2], f'others[{name!r}]')
    k = frames.shape[1]
    if k not in (y.shape[1], steps):
        raise ValueError(f"expected others[{name!r}] of {y.shape[1]} steps, as y has, got {k}. Give a "
                         "frame for each step after the last that is seen.")
    return frames

def _put_all(trace, frames, bs):
    "Let a trace see frames that are there already, a few at a time"
    for i in range(0, len(frames), bs):
        for at in range(0, frames.shape[1], BLOCK):
            trace.put(frames[i:i+bs,at:at+BLOCK], i, at)

def rollout_report(
    learn,          # A Learner, or a dict from name to Learner; they stay as they are
    u,              # Frames seen at first (n,t_in,*grid), with c variables (n,t_in,c,*grid)
    y,              # True frames after these (n,steps,*grid), or (n,steps,c,*grid)
    *,
    # Name -> frames of the shape of y, or a function of `u` that gives them: `heat_kernel`, a solver
    others=None,
    steps=None,     # Steps to roll out; None: those of y. Beyond these there is energy only
    t=None,         # Time of a step, one number or of each field (n,), where the model takes it
    blowup=10.,     # A field diverges where its energy is over so many times the largest that the truth has had
    weights=None,   # Of the places of the grid; None: `dls.weights` if it is their grid, else all alike
    keep=4,         # Fields whose frames the report keeps, for `show_field`
    bs=32           # Fields at a time
)->RolloutReport:
    "Error by step of operators that feed on their own frames, beside persistence; energy, spectrum, who diverges when"
    ops = operators(learn, _ME)
    bs = need_whole('bs', bs, 1, what='fields')
    keep = need_whole('keep', keep, 1, what='fields')
    need_number('blowup', blowup)
    if not blowup > 1:
        raise ValueError(f"`blowup` must be over 1, got {blowup}. 10. is ten times the truth's energy.")
    others = others or {}
    _need_names(ops, others)
    for op in ops:
        if op.at_once:
            raise ValueError(f"expected of {op.name} the next frame, got a learner of "
                             f"{op.learn.dls.t_out} frames at once. Make it with koopman_learner, "
                             "which rolls out.")
        op.step.need_next(_ME)
    c = ops[0].n_vars
    given,u = u,start_frames(u, ops[0])
    y = true_frames(y, u, c)
    need_sizes(y)
    n,known = y.shape[:2]
    steps = known if steps is None else need_whole('steps', steps, 1)
    y = y[:, :steps]
    t = need_time(t, n, ops, 't=')
    grid = tuple(u.shape[2:])
    w = given_weights(ops, weights, grid)
    others = {str(k): _other(k, o, given, u, y, steps) for k,o in others.items()}

    seen = u.unflatten(1, (-1, c))
    names = TRUE,*(op.name for op in ops),*others,STILL
    traces = {k: Trace(y, steps, keep, w, ops[0].units) for k in names}
    with resting(ops):
        for op in ops: op.try_one(u, t)
        blocks = math.ceil(n/bs)*math.ceil(steps/BLOCK)
        bar = bar_of(ops, len(ops)*blocks)
        for op in ops:
            for i in range(0, n, bs):
                now = None if t is None else t[i:i+bs]
                for at,frames in op.rolled(u[i:i+bs], now, steps):
                    traces[op.name].put(frames, i, at)
                    bar.tick()
    for name,frames in others.items(): _put_all(traces[name], frames, bs)
    _put_all(traces[TRUE], y, bs)
    _put_all(traces[STILL], seen[:, -1:].expand_as(y), bs)

    bound = energy_bound(seen, traces[TRUE], blowup)
    ends = {k: traces[k].diverged(bound) for k in names[1:-1]}
    notes = []
    if c > 1: notes.append(f"Errors and energies are over all {c} variables together.")
    if w is not None: notes.append("Places count by the weights of the loader, or by those given.")
    return RolloutReport(traces, ends, float(blowup), notes)
