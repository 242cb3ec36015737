"`conformal_bands`: bands around predictions that hold a whole new field with a given probability"
# The score of a field is its largest error, or its root mean square one; `quantiles` says what q is.
# Fields of one history are alike, not exchangeable: of a history the score is the largest of its fields.
import math
import numpy as np
import torch
from fastrobust.basics import nearest
from fastrobust.reporting.report import Report
from fastrobust.systems.koopman.reports.bandreport import LEVELS, band_report
from fastrobust.systems.koopman.reports.calibrated import Apart, batches_of, histories_of
from fastrobust.systems.koopman.reports.operands import need_time, start_frames, true_frames
from fastrobust.systems.koopman.reports.operating import operators, resting
from fastrobust.systems.koopman.reports.quantiles import (
    Coverage, HistoryCoverage, conformal_quantile, coverage_of, need_histories, need_level, worst_of)

__all__ = ['conformal_bands']

ROOM = 2**20    # Numbers of the fields that are predicted at once

# --- the bands ------------------------------------------------------------------------------------
class ConformalBands:
    "Of an operator: `q`, `n`, `level`, `bands(u)`, `radius(u)`, `coverage(u, y)`, `report(u, y)`"
    def __init__(self,
        op,         # `Operator` of a learner
        level,      # Probability
        kind,       # 'sup' or 'l2'
        scaled      # In sizes of the predicted field?
    ):
        self.op,self.level,self.kind,self.scaled = op,level,kind,scaled
        self.steps = None       # Frames of the targets
        self.notes = []         # Of the fields that were calibrated on
        self.calibration = np.zeros(0)      # Their scores, or those of histories, sorted
        self.what = 'fields'    # Or 'histories', where several fields are of one

    @property
    def n(self): return len(self.calibration)
    @property
    def q(self): return conformal_quantile(self.calibration, self.level, self.what)
    @property
    def n_vars(self): return 1 if self.op.at_once else self.op.n_vars

    def __repr__(self):
        of = ' sizes of the predicted field' if self.scaled else ''
        said = f'{self.kind} error up to {self.q:.4g}{of} at level {self.level:g}'
        return f'ConformalBands: {said}, {self.n} {self.what}'

    def calibrate(self,
        data,       # Loader with targets, or (u, y), or (u, t, y)
        histories=None  # Which history each field is of (n,); None: as a loader of `field_dls` tells
    ):
        "Scores of the fields, or histories, of `data`, from which q comes"
        apart = Apart(self.op.learn, data, 'conformal_bands')
        self.notes = apart.notes
        scores = []
        for u,t,y in batches_of(data, 'conformal_bands'):
            u,t,y = self.checked(u, t, y)
            apart.fields(u)
            scores.append(self.scores_of(u, t, y))
        if scores: self._keep(np.concatenate(scores), data, histories)
        if not np.isfinite(self.q):
            raise ValueError("expected finite predictions of the fields to calibrate on, got NaN "
                             f"or infinity for {int((~np.isfinite(self.calibration)).sum())} of "
                             f"{self.n}. Has the training, or a roll-out, diverged?")
        return self

    def _keep(self, scores, data, histories):
        "One score of each history, the largest, as those of one are alike"
        n = len(scores)
        if histories is None and (told := histories_of(data)) is not None: histories = told[:n]
        if histories is None:
            self.notes.append("Which fields calibrated on are of one history cannot be told here: "
                              "each counts as one of its own. If several are, the level is no "
                              "promise: give `histories`.")
        else:
            worst = worst_of(scores, need_histories(histories, n))
            if len(worst) < n:
                self.what,scores = 'histories',worst
                self.notes.append(f"Calibrated on {n} windows of {len(worst)} histories, by the "
                                  "largest error of each: with probability `level` a new history "
                                  "is inside with all its windows, chosen as those were.")
        self.calibration = np.sort(scores)

    def checked(self, u, t, y):
        u = start_frames(u, self.op)
        y = true_frames(y, u, self.n_vars)      # (n,steps,c,*grid)
        if self.steps is None: self.steps = y.shape[1]
        if y.shape[1] != self.steps:
            raise ValueError(f"expected targets of {self.steps} frames, as calibrated on, got "
                             f"{y.shape[1]}. Errors grow from frame to frame: calibrate on as "
                             "many.")
        return u,self._time(t, len(u)),y

    def _time(self, t, n): return need_time(t, n, [self.op], 't=.., or (u, t, y) to calibrate on')

    def predicted(self, u, t):
        "Pairs (positions, predictions float64 (b,steps,c,*grid)) of batches"
        rows = max(1, ROOM//(u[0].numel()*self.steps))
        with resting([self.op]):
            for i in range(0, len(u), rows):
                here = slice(i, i+rows)
                p = self.op.frames(u[here], None if t is None else t[here], self.steps)
                yield here,p.double().unflatten(1, (self.steps, -1))

    def size(self, pred):
        "What errors are counted in: root mean square of each variable of each prediction; or 1"
        if not self.scaled: return torch.ones(())
        sides = (1, *range(3, pred.ndim))
        return pred.square().mean(sides, keepdim=True).sqrt()

    def errors(self, u, t, y):
        "Triples (positions, errors, sizes) of batches"
        for here,p in self.predicted(u, t):
            if p.shape != y[here].shape:
                raise ValueError(f"expected targets of shape {tuple(p.shape[1:])}, as "
                                 f"{self.op.name} gives, got {tuple(y.shape[1:])}. Give u and y "
                                 "on one grid.")
            yield here,(y[here].double()-p).abs(),self.size(p)

    def scores_of(self, u, t, y):
        "Score of each field; infinite where something is not finite, or 0 is predicted and does not come"
        out = []
        for _,err,size in self.errors(u, t, y):
            # 0 where there is no error, whatever the size
            e = torch.where(err == 0, 0., err/size).flatten(1)
            s = e.amax(1) if self.kind == 'sup' else e.square().mean(1).sqrt()
            out.append(s.nan_to_num(nan=math.inf, posinf=math.inf))
        return torch.cat(out).numpy()

    def radius(self,
        u,          # Fields (n,*grid), (n,t_in,*grid) or (n,t_in,c,*grid), on any mesh
        t=None      # Times of the targets, for operators that take one
    ):              # (n,steps*c,*grid) and (n,1,c,1..); both float32
        "Predictions, and how far off they may be: at each node ('sup'), or in root mean square ('l2')"
        u = start_frames(u, self.op)
        preds,sizes = [],[]
        for _,p in self.predicted(u, self._time(t, len(u))):
            size = self.size(p)
            preds.append(p.flatten(1, 2))
            sizes.append(size.expand(len(p), 1, p.shape[2], *[1]*self.op.dim))
        return torch.cat(preds).float(),(self.q*torch.cat(sizes)).float()

    def bands(self,
        u,          # Fields (n,*grid), (n,t_in,*grid) or (n,t_in,c,*grid), on any mesh
        t=None      # Times of the targets, for operators that take one
    ):              # Three times (n,steps*c,*grid)
        "Predictions, and where the whole field lies with probability `level`: from, to"
        if self.kind != 'sup':
            raise ValueError("expected kind='sup' for bands, got 'l2', whose ball says nothing of "
                             "single nodes. Take `radius(u)`, or calibrate with kind='sup'.")
        pred,r = self.radius(u, t)
        half = r.expand(len(pred), self.steps, *r.shape[2:]).flatten(1, 2)
        return pred,pred-half,pred+half

    def scores(self,
        u,          # Fields (n,*grid), (n,t_in,*grid) or (n,t_in,c,*grid), on any mesh
        y,          # What they become
        t=None      # Times of the targets, for operators that take one
    ):              # float64 (n,)
        "Error of each field, in what `q` is counted in"
        u,t,y = self.checked(u, t, y)
        return self.scores_of(u, t, y)

    def coverage(self,
        u,          # New fields (n,*grid), (n,t_in,*grid) or (n,t_in,c,*grid), on any mesh
        y,          # What they become
        t=None,     # Times of the targets, for operators that take one
        *,
        histories=None  # Which history each field is of (n,), where several are of one
    )->Coverage:
        """Share of fields that lie wholly inside their bands, or within the radius; or of `histories`
        that do with all their fields. Without these each field counts as a history of its own"""
        scores = self.scores(u, y, t)
        if histories is None: return coverage_of(scores <= self.q)
        worst = worst_of(scores, need_histories(histories, len(scores)))
        return coverage_of(worst <= self.q, HistoryCoverage)

    def report(self,
        u,          # New fields (n,*grid), (n,t_in,*grid) or (n,t_in,c,*grid), on any mesh
        y,          # What they become
        t=None,     # Times of the targets, for operators that take one
        *,
        levels=LEVELS,  # Beside `level`; those that need more fields to calibrate on are left out
        histories=None  # Which history each field is of (n,), where several are of one
    )->Report:
        "Coverage by level, on new fields, and the picture of a field in its band"
        u,t,y = self.checked(u, t, y)
        which = None if histories is None else need_histories(histories, len(u))
        return band_report(self, u, t, y, levels, which)

def conformal_bands(
    learn,          # Learner of an operator; it stays as it is
    data,           # Fields it was not trained on: a loader with targets, (u, y), or (u, t, y)
    level=.9,       # Probability that a new field, or history with all its windows, is inside
    kind='sup',     # A band around the whole field ('sup'), or a radius in root mean square ('l2')
    # Widths by the size of each predicted field and variable? Else one for all, in units of the data
    scaled=True,
    *,
    # Which history each field is of (n,), where several are of one; None: as a loader of `field_dls` tells
    histories=None
)->ConformalBands:
    """Split conformal prediction for fields (Vovk et al. 2005; Lei et al. 2018,
    https://arxiv.org/abs/1604.04173). Windows of one history are alike: each history counts once, by
    its largest error"""
    level = need_level(level)
    if kind not in ('sup', 'l2'):
        raise ValueError(f"`kind` must be 'sup' or 'l2', got {kind!r}. "
                         f"{nearest(kind, ['sup', 'l2'])}")
    op, = operators({'the operator': learn}, 'conformal_bands')
    return ConformalBands(op, level, kind, bool(scaled)).calibrate(data, histories)
