"What `tinymim_study` found: one table of students, differences paired by seed, curves, and a picture"
import math
import numpy as np, pandas as pd
from fastrobust.basics import nearest
from fastrobust.compare.result import Comparison
from fastrobust.reporting.report import Report
from fastrobust.reporting.style import BLUE, GREEN, GREY, INK, OLIVE, ORANGE, PURPLE, SKY, VERMILION, new_figure, tidy

__all__ = []

_COLORS = [INK, ORANGE, GREEN, PURPLE, BLUE, SKY, VERMILION, OLIVE]
BASELINES = 'scratch','mae'
TEACHER = 'teacher'
# of what a small value is good
_LOW = 'calibration error',

def _mean_se(v):
    "Mean and standard error of what is there"
    v = np.asarray(v, dtype=float)
    v = v[~np.isnan(v)]
    if not len(v): return math.nan,math.nan
    return v.mean(),v.std(ddof=1)/len(v)**.5 if len(v) > 1 else math.nan

def _cell(mean, se, sign=''):
    if np.isnan(mean): return ''
    text = f'{mean:{sign}.3f}'
    return text if np.isnan(se) else f'{text} ± {se:.3f}'

def _rank(m):
    "Where a measure stands"
    if m.endswith('labels'): return 1
    return 0 if m.startswith('probe') else 2

class MimStudy(Report):
    """Result of `tinymim_study`: `table`, a line a row; `runs`, one a row and seed; `curves` of the pretraining;
    `comparison(measure, baseline)`; `a + b` of two studies puts their seeds together"""
    def __init__(self,
        runs,           # Dicts, one a finished row and seed: row, seed, each measure, loss_before, loss_after, seconds
        curves,         # DataFrames, one a pretraining: epoch, row, seed and what the Recorder recorded
        parts,          # Measure -> list of (run, curve) as `compare` makes them
        notes=(),       # More sentences for the reader
        stopped=None    # What Ctrl-C left out, if it did
    ):
        self.runs = pd.DataFrame(runs)
        self.curves = pd.concat(curves, ignore_index=True) if curves else pd.DataFrame()
        self.parts = {m: parts[m] for m in sorted(parts, key=_rank)}
        self.stopped,self._more = stopped,list(notes)
        self._compared:dict = {}
        self.measures = list(self.parts)
        names = list(dict.fromkeys(self.runs.row))
        # the teacher first, as what the others learn from
        names.sort(key=lambda o: o != TEACHER)
        self.baselines = [o for o in BASELINES if o in names]
        table = pd.DataFrame([self._line(o) for o in names], pd.Index(names, name='row'))
        n = self.runs.seed.nunique()
        title = f"{len(table) - (TEACHER in names)} ways to a small transformer, {n} seed{'s' if n > 1 else ''}"
        facts = dict(seeds=sorted(set(self.runs.seed)), measures=', '.join(self.measures))
        super().__init__(table, facts, _draw, title=title, notes=[*self._explain(), *self._more], name='tinymim')

    def __add__(self, other):
        "The runs of both, of other seeds or rows"
        if not isinstance(other, MimStudy): return NotImplemented
        runs = pd.concat([self.runs, other.runs], ignore_index=True)
        twice = runs[runs.duplicated(['row', 'seed'])]
        if len(twice):
            raise ValueError(f"expected studies of other rows or seeds, got {twice.row.iloc[0]!r} with seed "
                             f"{twice.seed.iloc[0]} in both. Leave one out.")
        measures = dict.fromkeys([*self.parts, *other.parts])
        parts = {k: [*self.parts.get(k, []), *other.parts.get(k, [])] for k in measures}
        curves = [o for o in (self.curves, other.curves) if len(o)]
        notes = dict.fromkeys([*self._more, *other._more])
        return MimStudy(runs.to_dict('records'), curves, parts, notes, self.stopped or other.stopped)

    def comparison(self,
        measure,            # One of `measures`, such as 'probe' or '100 labels'
        baseline='scratch'  # Row the others are compared to
    )->Comparison:
        "One measure as a result of `compare`: its table, paired differences, curves of the fine-tuning"
        if measure not in self.parts:
            raise ValueError(f"expected a measure of this study, got {measure!r}. {nearest(measure, self.parts)}")
        runs,curves = zip(*self.parts[measure])
        names = {r['row'] for r in runs}
        if baseline not in names:
            raise ValueError(f"expected `baseline` to be a row with {measure!r}, got {baseline!r}. "
                             f"{nearest(baseline, names)}")
        return Comparison(list(runs), list(curves), baseline)

    def difference(self,
        measure,            # One of `measures`
        row,                # Name of a row
        baseline='scratch'  # Row it is compared to, seed by seed
    ):                      # (mean, standard error)
        "How much a row is above another"
        key = measure,baseline
        if key not in self._compared: self._compared[key] = self.comparison(measure, baseline).table
        t = self._compared[key]
        if row not in t.index or row == baseline: return math.nan,math.nan
        return tuple(float(t[k][row]) for k in ('difference', 'difference_se'))

    def _line(self, row):
        mine,res = self.runs[self.runs.row == row],{}
        for m in self.measures:
            res[m],res[f'{m}_se'] = _mean_se(mine[m]) if m in mine else (math.nan,)*2
            there = {r['row'] for r,_ in self.parts[m]}
            for b in self.baselines:
                found = self.difference(m, row, b) if {b, row} <= there and row != TEACHER else (math.nan,)*2
                res[f'{m} - {b}'],res[f'{m} - {b}_se'] = found
        for k in ('loss_before', 'loss_after', 'parameters', 'seconds'): res[k] = mine[k].mean()
        res['seeds'] = len(mine)
        return res

    def _explain(self):
        yield ("probe: accuracy of a linear head in closed form on the frozen network's features. n labels: accuracy "
               "after the last epoch of fine-tuning on n training images; of the teacher, that of a head in closed "
               "form on the same, nothing fine-tuned. All on the validation images.")
        if self.baselines:
            yield "- scratch, - mae: difference to that row, paired by seed: the same start weights, images and order."
        yield ("loss: what the row was pretrained on, of the validation images, before and after (other rows, other "
               "losses). seconds: of the pretraining.")
        n = self.runs.seed.nunique()
        if n > 1: yield f"± is the standard error over {n} seeds."
        else: yield "One seed only, so no standard errors: 100 labels are worth five points either way by chance."
        if 'corrupted' in self.measures:
            yield ("corrupted: accuracy under common corruptions, mean over kinds and severities. calibration error: "
                   "ECE, 15 bins, smaller is better. Both with most labels.")
        if 'AUROC' in self.measures:
            yield ("AUROC: validation images against unknown ones, by the largest probability (MSP), with most "
                   "labels.")

    def formatted(self):
        "Without the differences of what is measured on other images; they are in `table`"
        t,cols = self.table,{}
        for m in self.measures:
            cols[m] = [_cell(*o) for o in zip(t[m], t[f'{m}_se'])]
            for b in self.baselines if _rank(m) < 2 else ():
                k = f'{m} - {b}'
                cols[k] = [_cell(*o, '+') for o in zip(t[k], t[f'{k}_se'])]
        loss = zip(t.loss_before, t.loss_after)
        cols['loss'] = ['' if np.isnan(a) else f'{a:.3f} → {b:.3f}' for a,b in loss]
        for k in ('parameters', 'seconds'): cols[k] = ['' if np.isnan(v) else f'{v:,.0f}' for v in t[k]]
        return pd.DataFrame(cols, index=t.index)

    def files(self):
        return {**super().files(), 'tinymim_runs': self.runs, 'tinymim_curves': self.curves}

def _panel(ax, rep, measure):
    "One measure: a bar a row, a dot a seed"
    names = [o for o in rep.table.index if not np.isnan(rep.table[measure][o])]
    y = np.arange(len(names))[::-1]
    order = [o for o in rep.table.index if o != TEACHER]
    for i,o in zip(y, names):
        color = GREY if o == TEACHER else _COLORS[order.index(o) % len(_COLORS)]
        mean,se = rep.table[measure][o],rep.table[f'{measure}_se'][o]
        ax.barh(i, mean, height=.62, alpha=.5, color=color, xerr=None if np.isnan(se) else se, capsize=3)
        v = rep.runs[rep.runs.row == o][measure].dropna()
        up = np.linspace(-.18, .18, len(v)) if len(v) > 1 else np.zeros(len(v))
        ax.plot(v, i+up, 'o', ms=4, color=color, mec='white', zorder=3)
        ax.annotate(f'{mean:.3f}', (max(v.max(), mean), i), (7, 0), textcoords='offset points', va='center', fontsize=9)
    ax.set_yticks(y, names)
    ax.set(title=measure, xlabel='smaller is better' if measure in _LOW else '')
    if measure not in _LOW: ax.set_xlim(0, 1.12)
    tidy(ax, 'x', behind=False)

def _draw(rep, figsize=None):
    "A panel for each measure: means with standard errors, a dot for each seed"
    k = len(rep.measures)
    size = figsize or (3.6*k + .8, max(2.6, 1.2 + .4*len(rep.table)))
    axes = np.atleast_1d(new_figure(size).subplots(1, k))
    for ax,m in zip(axes, rep.measures): _panel(ax, rep, m)
    return axes
