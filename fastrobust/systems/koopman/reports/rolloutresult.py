"What `rollout_report` returns"
import numpy as np, pandas as pd
from matplotlib.figure import Figure
from fastrobust.basics import nearest, need_whole
from fastrobust.reporting.report import Report
from fastrobust.systems.koopman.reports.fieldcharts import draw_rollout
from fastrobust.systems.koopman.reports.framecharts import draw_frames
from fastrobust.systems.koopman.reports.operands import mean_se, plus_minus

__all__ = []

TRUE,STILL = 'true','persistence'
SHOWN = 12      # Rows of the table that are printed

# --- the report -----------------------------------------------------------------------------------
def _table(traces, ends):
    "Columns (quantity, name) by step"
    steps = next(iter(traces.values())).energy.shape[1]
    at = np.arange(1, steps+1)
    columns = {}
    for name,o in traces.items():
        if name == TRUE: continue
        columns['error',name],columns['se',name] = mean_se(o.error)
    for name,o in traces.items(): columns['energy',name] = mean_se(o.energy)[0]
    for name,end in ends.items():
        gone = (end[:, None] > 0) & (end[:, None] <= at)
        columns['diverged',name] = gone.sum(0)
    return pd.DataFrame(columns, pd.Index(at, name='step'))

def _spectrum(traces):
    "Mean energy by mode of the fields that are still finite, and how many these are"
    out,n = {},{}
    for name,o in traces.items():
        fine = np.isfinite(o.spectra).all(1)
        n[name] = int(fine.sum())
        kept = o.spectra[fine]
        if not len(kept): kept = np.full((1, o.spectra.shape[1]), np.nan)
        out[name] = kept.mean(0)
    return pd.DataFrame(out).rename_axis('mode'),n

class RolloutReport(Report):
    "Result of `rollout_report`: `table` by step, `spectrum`, `diverged` by field, frames of a few fields, `summary`"
    def __init__(self,
        traces,     # Name -> `Trace`, the truth and persistence among them
        ends,       # Name -> step at which each field diverged (n,), 0: never
        blowup,     # How often the truth's energy is allowed
        notes=()    # More sentences a reader must know
    ):
        super().__init__(_table(traces, ends), None, draw_rollout, name='rollout')
        self.known = traces[TRUE].known
        self.fields = len(traces[TRUE].energy)
        self.blowup = blowup
        self.spectrum,finite = _spectrum(traces)
        ended = pd.DataFrame(ends, pd.RangeIndex(self.fields, name='field'))
        self.diverged = ended.where(ended > 0)
        self.frames = {k: o.frames for k,o in traces.items()}
        self.summary = pd.Series(self._facts(), dtype=object)
        self.title = self._said()
        self.notes = [*self._explain(), *self._ended(traces), *self._left_out(finite), *notes]

    @property
    def names(self): return list(self.table['error'])

    def _facts(self):
        t,last = self.table,self.known
        s = dict(fields=self.fields, steps=len(t), steps_with_truth=last)
        still = t['error',STILL]
        for name in self.names:
            e = t['error',name]
            s[f'{name} at step 1'],s[f'{name} at step {last}'] = float(e.iloc[0]),float(e[last])
            if name == STILL: continue
            first = self.diverged[name].min()
            known = ~e.isna()
            better = e.index[(e < still) & known]       # the last one; after it, never again
            after = e.index[known & (e.index > (better[-1] if len(better) else 0))]
            s[f'{name} no better than persistence from'] = int(after[0]) if len(after) else None
            s[f'{name} diverged'] = int(self.diverged[name].notna().sum())
            s[f'{name} diverges at'] = None if np.isnan(first) else int(first)
        return s

    def _said(self):
        "Errors of the last step in a line"
        t,last = self.table,self.known
        said = [f"{k} {plus_minus(t.loc[last, ('error', k)], t.loc[last, ('se', k)])}"
                for k in self.names]
        return f"Roll-out of {self.fields:,} fields: relative L2 at step {last}: {', '.join(said)}"

    def _explain(self):
        yield ("error: relative L2 of the frame of a step alone, mean ± one standard error over "
               "fields. persistence: the last frame seen, kept. energy: mean square of the frame.")
        if len(self.table) > self.known:
            yield f"The truth ends at step {self.known}: beyond it there is energy only."
        for name in self.names:
            at = self.summary.get(f'{name} no better than persistence from')
            if at is not None: yield f"{name} is no better than persistence from step {at} on."

    def _ended(self, traces):
        "What diverged, when, and how"
        for name in self.diverged:
            ends = self.diverged[name].dropna()
            if not len(ends): continue
            first = int(ends.min())
            field = int(ends.idxmin())
            why = 'NaN or infinity'
            if np.isfinite(traces[name].energy[field,first-1]):
                why = f"over {self.blowup:g} times the largest energy that the truth had"
            yield (f"{name} diverges at step {first}: field {field}, {why}; {len(ends)} of "
                   f"{self.fields} fields by step {len(self.table)}. Means count all fields and are "
                   "infinite where one is not finite: see `.diverged`.")

    def _left_out(self, finite):
        for name,n in finite.items():
            if n == self.fields: continue
            if n: yield (f"The spectrum of {name} is of the {n} of {self.fields} fields that are finite "
                         f"at step {self.known}.")
            else: yield f"{name} has no spectrum: none of its fields is finite at step {self.known}."

    def files(self):
        more = dict(spectrum=self.spectrum, diverged=self.diverged)
        return super().files() | {f'{self.name}_{k}': o for k,o in more.items()}

    def formatted(self):
        "Some of the steps; all are in `table`"
        steps = np.geomspace(1, len(self.table), SHOWN).round().astype(int)
        t = self.table.loc[sorted({*steps, self.known})]
        out = {}
        for k in self.names:
            cells = zip(t['error',k], t['se',k])
            out['relative L2',k] = [plus_minus(*o) for o in cells]
        for k in t['energy']:
            if k == STILL: continue
            out['energy',k] = [plus_minus(o, np.nan) for o in t['energy',k]]
        for k in self.diverged:
            if self.diverged[k].isna().all(): continue
            out['diverged',k] = t['diverged',k].tolist()
        return pd.DataFrame(out, t.index)

    def show_field(self,
        field=0,        # Which of the fields kept
        name=None,      # Learner, or one of `others`; None: the first learner
        *,
        steps=None,     # Steps to show of fields on a plane, from 1 on; None: five of them
        var=0,          # Which variable
        figsize=None    # In inches; None: by the shape of the fields
    )->Figure:
        "One field's frames: the truth above, the prediction in its colours, the error below"
        kept = len(self.frames[TRUE])
        need_whole('field', field, 0, kept-1, f'{kept} are kept', 'Keep more of them: '
                   f'rollout_report(.., keep={self.fields}).')
        if name is None: name = self.names[0]
        if name not in self.names:
            raise ValueError(f"expected `name` as one of the report's, got {name!r}. "
                             f"{nearest(name, self.names)}")
        need_whole('var', var, 0, self.frames[TRUE].shape[2]-1, 'variables')
        if steps is not None:
            for o in steps: need_whole('steps', o, 1, len(self.table))
        true,pred = (self.frames[k].numpy()[field,:,var] for k in (TRUE, name))
        return draw_frames(true, pred, name, steps, self.known, f'field {field}', figsize)
