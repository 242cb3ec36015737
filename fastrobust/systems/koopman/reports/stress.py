"`field_stress_report`: operators when sensors are noisy, fail or lie far apart, or the physics is another"
# As for images: noise of bounded Lp norm, uniform in the ball, after Siedel et al.,
# https://arxiv.org/abs/2305.05400. All learners see the very same disturbed fields.
import math
from typing import Any, NamedTuple
import numpy as np, pandas as pd
import torch
from fastrobust.basics import need_number, need_whole, shown
from fastrobust.reporting.report import Report
from fastrobust.systems.koopman.reports.disturbing import coarsened, dropped_out, need_divisor, noisy
from fastrobust.systems.koopman.fieldmetrics import l2_of_each
from fastrobust.systems.koopman.reports.operands import (
    errors_of, mean_se, need_sizes, need_time, plus_minus, start_frames, true_frames)
from fastrobust.systems.koopman.reports.operating import bar_of, given_weights, operators, resting
from fastrobust.systems.koopman.reports.stresscharts import draw_stress

__all__ = ['field_stress_report']

ROOM = 2**20    # Numbers of the fields that are predicted at once
NONE = 'none'

class _Stress(NamedTuple):
    kind: str
    level: Any      # Number, or the name of other fields
    u: Any          # (n,t_in*c,*grid)
    y: Any          # (n,steps*c,*grid)
    t: Any          # (n,) or None
    moved: float    # Mean relative L2 distance of `u` from the undisturbed

# --- what is asked for ----------------------------------------------------------------------------
def _levels(name, levels, most=math.inf):
    "Sizes in order, refused where they are none"
    if levels is None: return []
    given = list(levels) if isinstance(levels, (tuple, list, np.ndarray)) else [levels]
    for o in given:
        need_number(name, o)
        if not 0 < o < most:
            upto = f' and below {most:g}' if most < math.inf else ' and finite'
            raise ValueError(f"`{name}` must be above 0{upto}, got {o}. None leaves it out.")
    return sorted({float(o) for o in given})

def _steps(coarser, grid, periodic):
    if coarser is None: return []
    given = list(coarser) if isinstance(coarser, (tuple, list, np.ndarray)) else [coarser]
    what = 'nodes from one sensor to the next'
    steps = sorted({need_whole('coarser', k, 2, what=what) for k in given})
    for k in steps: need_divisor(k, grid, periodic)
    return steps

class _Fields:
    "Fields, targets and times for all operators"
    def __init__(self, ops, u, y, t, name):
        op = ops[0]
        self.n_vars = op.n_vars
        self.u = start_frames(u, op, name)
        # of those that give all frames at once the targets may have other variables
        c = min(o.out_vars for o in ops)
        y = true_frames(y, self.u, c, f'{name} targets', name)
        for o in ops: o.need_frames(y)
        need_sizes(y, f'{name} targets')
        self.y = y.flatten(1, 2)
        self.t = need_time(t, len(self.u), ops, 't=..')

def _all(f, others, noise, dropped, coarser, seed, periodic):
    "Every disturbance, the first being none"
    u = f.u.double().unflatten(1, (-1, f.n_vars))
    def made(kind, level, v):
        v = v.flatten(1, 2)
        moved = l2_of_each(v, f.u.double())
        return _Stress(kind, level, v.float(), f.y, f.t, float(moved.mean()))
    yield _Stress(NONE, 0., f.u, f.y, f.t, 0.)
    for p,name in ((2, 'L2 noise'), (math.inf, 'Linf noise')):
        for o in noise: yield made(name, o, noisy(u, p, o, seed))
    for o in dropped: yield made('dropped', o, dropped_out(u, o, seed, periodic))
    for k in coarser: yield made('coarser', k, coarsened(u, k, periodic))
    for name,o in others.items(): yield _Stress('other', name, o.u, o.y, o.t, math.nan)

def _others(ops, others):
    "Other fields by name, checked"
    if others is None: return {}
    if not isinstance(others, dict):
        raise TypeError(f"expected `others` as a dict from name to (u, y), got {shown(others)}. "
                        "For example {'nu = .02': (u, y)}.")
    out = {}
    for name,data in others.items():
        if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
            raise TypeError(f"expected fields and targets (u, y), or (u, t, y), under {name!r} of "
                            f"`others`, got {shown(data)}. Give both.")
        u,*t,y = data
        out[str(name)] = _Fields(ops, u, y, t[0] if t else None, f'others[{name!r}]')
    return out

# --- the numbers ----------------------------------------------------------------------------------
def _errors(op, s, weights):
    "Relative L2 error of each field, float64 (n,)"
    steps = s.y.shape[1]//op.out_vars
    rows = max(1, ROOM//(s.u[0].numel()*steps))
    out = []
    for i in range(0, len(s.u), rows):
        here = slice(i, i+rows)
        p = op.frames(s.u[here], None if s.t is None else s.t[here], steps)
        out.append(errors_of(p, s.y[here], weights, op.units))
    return torch.cat(out).numpy()

def _change(errs, was, paired):
    "Mean difference and its standard error, field by field where the fields are the same"
    if paired: return mean_se(errs-was)
    (a,sa),(b,sb) = mean_se(errs),mean_se(was)
    return a-b,math.hypot(sa, sb)

def _table(stresses, errs, names):
    "A row for each disturbance"
    rows = []
    first = stresses[0]
    for i,s in enumerate(stresses):
        row = {'stress': s.kind, 'level': s.level, 'input moved': s.moved}
        paired = s.u.shape == first.u.shape and (s.kind != 'other' or torch.equal(s.u, first.u))
        for k in names:
            row[k],row[f'{k} se'] = mean_se(errs[k][i])
            if i: row[f'{k} change'],row[f'{k} change se'] = _change(errs[k][i], errs[k][0], paired)
        for k in names[1:]:
            apart = f'{k} - {names[0]}'
            row[apart],row[f'{apart} se'] = mean_se(errs[k][i]-errs[names[0]][i])
        rows.append(row)
    return pd.DataFrame(rows).set_index(['stress', 'level'])

class StressReport(Report):
    "Result of `field_stress_report`: `table`, `summary`; `errors` (n,) of each row, by learner"
    errors:dict
    def formatted(self):
        "A cell for each mean with its standard error"
        t = self.table
        out = {'input moved': t['input moved'].map(lambda v: '' if np.isnan(v) else f'{v:.3g}')}
        for k in [o for o in t if f'{o} se' in t]:
            out[k] = [plus_minus(m, s) for m,s in zip(t[k], t[f'{k} se'])]
        return pd.DataFrame(out, t.index)

def _summary(t, names):
    "The mean error over the levels of each kind"
    s = {}
    for k in names:
        for kind,v in t[k].groupby(level=0, sort=False): s[f'{k} {kind}'] = float(v.mean())
    return s

def _notes(n, seed, others, t):
    yield (f"Relative L2 errors of {n} fields against the true ones, mean ± one standard error; "
           "change: against the undisturbed, field by field. All learners see the same "
           f"disturbances, seed {seed}. input moved: relative L2 distance of what they see from "
           "the undisturbed.")
    kinds = set(t.index.get_level_values(0))
    if {'L2 noise', 'Linf noise'} & kinds:
        yield ("Noise: uniform in the ball of radius level times the norm of the field, L2 or "
               "largest value, each variable for itself.")
    if 'dropped' in kinds:
        yield ("dropped: that share of the nodes, drawn for each field, filled from those left: "
               "linearly on a line, by the nearest one on a plane.")
    if 'coarser' in kinds:
        yield ("coarser: seen at every 2nd, 4th, .. node along each side, and filled in by "
               "Fourier interpolation (on sides with ends: by lines). A field without waves that "
               "fine is as it was.")
    if others: yield ("other: other fields; their change is not field by field where the starts "
                      "differ. The learners do not know what is different.")

# --- the report -----------------------------------------------------------------------------------
def field_stress_report(
    learn,          # Learner of an operator, or a dict from name to Learner; they stay as they are
    u,              # Fields (n,*grid), (n,t_in,*grid) or (n,t_in,c,*grid), not trained on
    y,              # What they become
    *,
    noise=(.05, .1, .2, .4),    # Radii of L2 and Linf noise, shares of the field's norm; None: leave out
    dropped=(.1, .25, .5),      # Shares of the nodes whose sensors fail; None: leave out
    coarser=(2, 4),             # Sensors at every so manyth node; None: leave out
    others=None,    # Name -> (u, y) or (u, t, y), such as another viscosity
    t=None,         # Time of the targets, for operators that take one
    seed=0          # Of noise and failures
)->StressReport:
    """Relative L2 error of operators by disturbance, side by side; noise in Lp balls:
    https://arxiv.org/abs/2305.05400"""
    ops = operators(learn, 'field_stress_report')
    seed = need_whole('seed', seed, 0)
    f = _Fields(ops, u, y, t, 'u')
    grid = tuple(f.u.shape[2:])
    periodic = tuple(getattr(ops[0].learn.dls, 'periodic', None) or (True,)*len(grid))
    noise,dropped = _levels('noise', noise),_levels('dropped', dropped, 1)
    steps = _steps(coarser, grid, periodic)
    others = _others(ops, others)
    weights = given_weights(ops, None, grid)
    stresses: list = []
    errs: dict = {op.name: [] for op in ops}
    kinds = 1 + 2*len(noise) + len(dropped) + len(steps) + len(others)
    bar = bar_of(ops, kinds*len(ops))
    with resting(ops):
        for s in _all(f, others, noise, dropped, steps, seed, periodic):
            w = weights if tuple(s.y.shape[2:]) == grid else None
            for op in ops:
                errs[op.name].append(_errors(op, s, w))
                bar.tick()
            stresses.append(s)
    names = list(errs)
    table = _table(stresses, errs, names)
    rep = StressReport(table, _summary(table, names), draw_stress,
                       title='Error of operators under stress',
                       notes=_notes(len(f.u), seed, others, table), name='field_stress')
    rep.errors,rep.learners = errs,names
    return rep
