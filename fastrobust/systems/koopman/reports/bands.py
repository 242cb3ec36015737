"`conformal_bands`: bands around predictions that hold a whole new field with a given probability"
# The score of a field is its largest error, or its root mean square one; of several frames the
# largest score of a frame, in mean errors of that frame (`framewidths`). `quantiles` says what q is.
# Fields of one history are alike, not exchangeable: of a history the score is the largest of its fields.
import numpy as np
import torch
from fastrobust.basics import nearest, need_truth
from fastrobust.reporting.report import Report
from fastrobust.systems.koopman.reports.banderrors import FieldErrors
from fastrobust.systems.koopman.reports.bandreport import LEVELS, band_report
from fastrobust.systems.koopman.reports.calibrated import Apart, batches_of, histories_of, overridden
from fastrobust.systems.koopman.reports.framewidths import draws_of, enough_left, growth_of, set_apart
from fastrobust.systems.koopman.reports.operands import start_frames
from fastrobust.systems.koopman.reports.operating import operators
from fastrobust.systems.koopman.reports.quantiles import (
    Coverage, HistoryCoverage, conformal_quantile, coverage_of, need_histories, need_level, worst_of)

__all__ = ['conformal_bands']

# --- the bands ------------------------------------------------------------------------------------
class ConformalBands(FieldErrors):
    "Of an operator: `q`, `widths`, `n`, `level`, `bands(u)`, `radius(u)`, `coverage(u, y)`, `report(u, y)`"
    by_frame = False    # in files of versions without widths by frame
    def __init__(self,
        op,         # `Operator` of a learner
        level,      # Probability
        kind,       # 'sup' or 'l2'
        scaled,     # In sizes of the predicted field?
        by_frame    # A width for each frame? None: of several, if there are fields enough
    ):
        super().__init__(op, kind, scaled)
        self.level,self.by_frame = level,by_frame
        self.notes = []         # Of the fields that were calibrated on
        self.calibration = np.zeros(0)      # Their scores, or those of histories, sorted
        self.what = 'fields'    # Or 'histories', where several fields are of one

    @property
    def n(self): return len(self.calibration)
    @property
    def q(self):
        "What scores stay below with probability `level`"
        why = '' if self.growth is None else ', beside the quarter that the width by frame is from'
        return conformal_quantile(self.calibration, self.level, self.what, why)
    @property
    def widths(self):
        "Half width of each frame at `level` (steps,), in sizes of the predicted field if `scaled`"
        return self.q*(np.ones(self.steps) if self.growth is None else self.growth)

    def __repr__(self):
        of = ' sizes of the predicted field' if self.scaled else ''
        far = f'{self.q:.4g}'
        if self.growth is not None:
            first,*_,last = self.widths
            far = f'{first:.4g} in the first frame to {last:.4g} in the last'
        said = f'{self.kind} error up to {far}{of} at level {self.level:g}'
        return f'ConformalBands: {said}, {self.n} {self.what}'

    def calibrate(self,
        data,       # Loader with targets, or (u, y), or (u, t, y)
        histories=None  # Which history each field is of (n,); None: as a loader of `field_dls` tells
    ):
        "Scores of the fields, or histories, of `data`, from which q comes"
        apart = Apart(self.op.learn, data, 'conformal_bands')
        self.notes = apart.notes
        errs,drawn = [],[]
        for u,t,y in batches_of(data, 'conformal_bands'):
            u,t,y = self.checked(u, t, y)
            apart.fields(u)
            errs.append(self.frame_errors(u, t, y))
            drawn.append(draws_of(u, y))
        if errs: self._keep(np.concatenate(errs), np.concatenate(drawn), data, histories)
        if not np.isfinite(self.q):
            raise ValueError("expected finite predictions of the fields to calibrate on, got NaN "
                             f"or infinity for {int((~np.isfinite(self.calibration)).sum())} of "
                             f"{self.n}. Has the training, or a roll-out, diverged?")
        return self

    def _keep(self, errs, drawn, data, histories):
        "One score of each history, the largest, as those of one are alike"
        n = len(errs)
        told = histories_of(data)
        if told is not None: told = told[:n]
        if histories is None: histories = told
        if histories is None:
            self.notes.append("Which fields calibrated on are of one history cannot be told here: "
                              "each counts as one of its own. If several are, the level is no "
                              "promise: give `histories`.")
            which = np.arange(n)
        else:
            which = need_histories(histories, n)
            self.notes += overridden(which, told)
        if which.max() < n-1: self.what = 'histories'
        if self._by_frame(which): errs,which = self._set_growth(errs, which, drawn)
        scores = self.score(errs)
        if self.what == 'histories' and len(scores): scores = self._worst(scores, which)
        self.calibration = np.sort(scores)

    def _by_frame(self, which):
        "Is there to be a width for each frame?"
        if self.by_frame is not None: return self.by_frame and self.steps > 1
        if self.steps < 2: return False
        if enough_left(which, self.level): return True
        self.notes.append(f"One width for all frames, as there are too few {self.what} to set "
                          "some apart for widths by frame: where errors grow, early bands are wider "
                          "than they need be.")
        return False

    def _set_growth(self, errs, which, drawn):
        "Widths by frame, from some of the fields; the others"
        apart = set_apart(which, drawn)
        self.growth = growth_of(errs[apart])
        n = len(np.unique(which[apart]))
        self.notes.append(f"A width for each frame, in proportion to its mean error over {n} "
                          f"{self.what} (a quarter, drawn at random), which are not calibrated on. The "
                          "level holds for all frames together.")
        return errs[~apart]/self.growth,np.unique(which[~apart], return_inverse=True)[1]

    def _worst(self, scores, which):
        worst = worst_of(scores, which)
        self.notes.append(f"Calibrated on {len(scores)} windows of {len(worst)} histories, by the "
                          "largest error of each: with probability `level` a new history is inside "
                          "with all its windows, chosen as those were.")
        return worst

    def score(self, errs):
        "One number of the errors of all frames (n,steps)"
        if self.kind == 'sup' or self.growth is not None: return errs.max(1)
        return np.sqrt(np.square(errs).mean(1))

    def scores_of(self, u, t, y): return self.score(self.frame_errors(u, t, y))

    def radius(self,
        u,          # Fields (n,*grid), (n,t_in,*grid) or (n,t_in,c,*grid), on any mesh
        t=None      # Times of the targets, for operators that take one
    ):              # (n,steps*c,*grid) and (n,1,c,1..), by frame (n,steps,c,1..); both float32
        "Predictions, and how far off they may be: at each node ('sup'), or in root mean square ('l2')"
        u = start_frames(u, self.op)
        preds,sizes = [],[]
        for _,p in self.predicted(u, self._time(t, len(u))):
            size = self.size(p)
            preds.append(p.flatten(1, 2))
            frames = 1 if self.growth is None else self.steps
            sizes.append(size.expand(len(p), frames, p.shape[2], *[1]*self.op.dim))
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
    # A band around the whole field ('sup'), or a radius in root mean square ('l2'), in which places
    # count by `dls.weights` where there are some
    kind='sup',
    # Widths by the size of each predicted field and variable? Else one for all, in units of the data
    scaled=True,
    *,
    # Which history each field is of (n,), where several are of one; None: as a loader of `field_dls`
    # tells, else each is one of its own
    histories=None,
    # Of several frames a width for each? A quarter of the fields (histories), drawn at random but the
    # same in every run, then says how errors grow and is not calibrated on, and 'l2' is of each frame
    # rather than of all together; None: if those left are enough for the level
    by_frame=None
)->ConformalBands:
    """Split conformal prediction for fields (Vovk et al. 2005; Lei et al. 2018,
    https://arxiv.org/abs/1604.04173): with probability `level`, over draws of the calibration fields
    and of a new one that is exchangeable with them, it lies in its bands in all frames together.
    Windows of one history are alike: each history counts once, by its largest error"""
    level = need_level(level)
    if kind not in ('sup', 'l2'):
        raise ValueError(f"`kind` must be 'sup' or 'l2', got {kind!r}. "
                         f"{nearest(kind, ['sup', 'l2'])}")
    op, = operators({'the operator': learn}, 'conformal_bands')
    if by_frame is not None: by_frame = need_truth('by_frame', by_frame, ' or None')
    scaled = need_truth('scaled', scaled)
    return ConformalBands(op, level, kind, scaled, by_frame).calibrate(data, histories)
