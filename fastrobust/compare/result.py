"What `compare` found: last and best epochs, paired differences, curves, and their picture"
import math
import numpy as np, pandas as pd
import torch
from fastrobust.labels.memorisation import lower_is_better
from fastrobust.reporting.report import Report
from fastrobust.reporting.style import (BLUE, DASHES, GREEN, INK, OLIVE, ORANGE, PURPLE, SKY, VERMILION, new_figure,
                                        tidy, whole_numbers)

__all__ = []

def _mean_se(v):
    "Mean and standard error; NaN where there is too little"
    v = np.asarray(v, dtype=float)
    return v.mean() if len(v) else float('nan'), v.std(ddof=1)/math.sqrt(len(v)) if len(v) > 1 else float('nan')

def _pm(m, se, sign=''):
    if np.isnan(m): return ''
    return f'{m:{sign}.3f}' + ('' if np.isnan(se) else f' ± {se:.3f}')

_MEANS = ('last', 'oracle_best', 'late_mean', 'picked', 'memorised')

class Comparison(Report):
    "Result of `compare`: `table` (one line a row), `runs` (one a row and seed), `curves` (one an epoch)"
    stopped = None  # Where Ctrl-C ended it, if it did
    def __init__(self,
        runs,         # List of dicts, one per finished run: row, seed, metric, given, seconds, peak_MB, acts ..
        curves,       # List of DataFrames, one per finished run: epoch, row, seed and what the Recorder recorded
        baseline,     # Name of the row the others are compared to
        *,
        last_k=None,  # Epochs in `late_mean`; None: a quarter of the row's, at most 10
        notes=()      # More sentences for the reader
    ):
        self.runs,self.curves = pd.DataFrame(runs),pd.concat(curves, ignore_index=True)
        self.baseline,self.last_k = baseline,last_k
        self.metric = self.runs.metric.iloc[0]
        self.low = lower_is_better(self.metric)
        self.runs = pd.concat([self.runs, pd.DataFrame([self._judge(r) for r in self.runs.itertuples()])], axis=1)
        names = list(dict.fromkeys(self.runs.row))
        table = pd.DataFrame([self._line(o) for o in names], index=pd.Index(names, name='row'))
        memory = 'GPU, allocated by torch' if torch.cuda.is_available() else 'CPU, resident memory of the whole process'
        facts = dict(metric=self.metric, baseline=baseline, seeds=sorted(set(self.runs.seed)), memory=memory,
                     best_last=table['last'].idxmin() if self.low else table['last'].idxmax())
        facts.update({k: self.runs[k].mean() for k in ('nominal_rate', 'realised_rate') if k in self.runs})
        title = f'{self.metric} of {len(table)} ways to train'
        super().__init__(table, facts, _draw, title=title, notes=[*self._explain(), *notes],
                         name='compare')

    def curve(self, row, seed):
        "Per-epoch numbers of one run"
        return self.curves[(self.curves.row == row) & (self.curves.seed == seed)]

    def _judge(self, r):
        "Last, best and late-mean value of one run, and the one a choice by the given labels would pick"
        curve = self.curve(r.row, r.seed)
        v = curve[self.metric].to_numpy(dtype=float)
        k = min(len(v), self.last_k or max(1, min(10, len(v)//4)))
        best = v if np.isnan(v).all() else v[~np.isnan(v)]
        res = dict(last=v[-1], oracle_best=best.min() if self.low else best.max(), late_mean=v[-k:].mean())
        if isinstance(r.given, str):
            g = curve[r.given].to_numpy(dtype=float)
            res['picked'] = v[int((np.argmin if lower_is_better(r.given) else np.argmax)(g))]
        return res

    def _line(self, name):
        g,res = self.runs[self.runs.row == name].set_index('seed'),{}
        for k in _MEANS:
            if k in g: res[k],res[f'{k}_se'] = _mean_se(g[k])
        base = self.runs[self.runs.row == self.baseline].set_index('seed')['last']
        res['difference'],res['difference_se'] = _mean_se([] if name == self.baseline else (g['last']-base).dropna())
        return dict(res, epochs=g.epochs.mean(), seconds=g.seconds.mean(), peak_MB=g.peak_MB.mean(), seeds=len(g))

    def _explain(self):
        m,n = self.metric,self.runs.seed.nunique()
        yield (f"last: {m} after the last epoch, the number you would get. oracle best: that of "
               "the best epoch, chosen on the very images it is measured on, so nobody can count "
               "on reaching it.")
        late = f"{self.last_k} epochs" if self.last_k else "quarter of the epochs (at most 10)"
        yield f"late mean: mean of the last {late}. difference: of `last` to {self.baseline!r}, paired by seed."
        yield (f"± is the standard error over {n} seeds." if n > 1 else
               "One seed only, so no standard errors: run more seeds before you believe a small difference.")
        if m == 'acc_true':
            yield "acc_true: accuracy against the true validation labels, which nothing is chosen by."
        if 'picked' in self.runs:
            yield "picked: acc_true of the epoch that does best on the given, noisy validation labels: an honest pick."
        if 'memorised' in self.runs:
            yield ("memorised: share of the wrongly labelled training images to which the trained "
                   "model gives their wrong label. Labels that are wrong: nominal rate "
                   f"{self.runs.nominal_rate.mean():.3g}, realised "
                   f"{self.runs.realised_rate.mean():.4f}.")
        yield "peak MB: " + ("GPU memory allocated by torch." if torch.cuda.is_available() else
                             "resident memory of the whole process on the CPU, Python and data included.")

    def formatted(self):
        t = self.table
        cols = {k.replace('_', ' '): [_pm(*o) for o in zip(t[k], t[f'{k}_se'])] for k in _MEANS if k in t}
        cols['difference'] = [_pm(*o, '+') for o in zip(t.difference, t.difference_se)]
        cols.update({nm: ['' if np.isnan(v) else f'{v:.0f}' for v in t[k]] for k,nm in
                     (('epochs', 'epochs'), ('seconds', 'seconds'), ('peak_MB', 'peak MB'))})
        return pd.DataFrame(cols, index=t.index)

    def files(self):
        return {**super().files(), 'compare_runs': self.runs, 'compare_curves': self.curves}

# --- the picture ----------------------------------------------------------------------------------
_COLORS = [INK, ORANGE, BLUE, GREEN, VERMILION, SKY, PURPLE, OLIVE]

def _draw(rep, figsize=None):
    "Left: `metric` by epoch, a band of one standard error over seeds. Right: the last epoch, a dot for each seed"
    names,m = list(rep.table.index),rep.metric
    style = {o: dict(color=_COLORS[i%8], ls=DASHES[i//8%4]) for i,o in enumerate(names)}
    size = figsize or (12, max(4., 1.4 + .42*len(names)))
    a,b = new_figure(size).subplots(1, 2, width_ratios=[1.15, 1])
    for o in names:
        g = rep.curves[rep.curves.row == o].groupby('epoch')[m]
        mean,se = g.mean(),g.sem().fillna(0)
        a.plot(mean.index, mean, lw=2, label=o, marker='.' if len(mean) == 1 else None, **style[o])
        a.plot(mean.index[-1], mean.iloc[-1], 'o', color=style[o]['color'], ms=6, mec='white')
        a.fill_between(mean.index, mean-se, mean+se, color=style[o]['color'], alpha=.18, lw=0)
    y = np.arange(len(names))[::-1]
    b.barh(y, rep.table['last'], height=.62, alpha=.5, color=[style[o]['color'] for o in names], capsize=3,
           xerr=rep.table.last_se if rep.table.last_se.notna().any() else None)
    for i,o in zip(y, names):
        v = rep.runs[rep.runs.row == o]['last']
        up = np.linspace(-.18, .18, len(v)) if len(v) > 1 else np.zeros(len(v))
        b.plot(v, i+up, 'o', ms=5, color=style[o]['color'], mec='white', zorder=3)
        b.annotate(f"{rep.table['last'][o]:.3f}", (v.max(), i), (9, 0), textcoords='offset points', va='center')
    b.set_yticks(y, names)
    whole_numbers(a.xaxis)
    a.set(xlabel='epoch', ylabel=m, title=f'{m} by epoch')
    b.set(xlabel=m, title='After the last epoch')
    if not rep.low and (rep.table['last'] <= 1).all(): b.set_xlim(0, 1)
    tidy(a, 'y', behind=False)
    tidy(b, 'x', behind=False)
    if len(names) <= 6: a.legend(frameon=False, fontsize=9)     # the bars name the colours anyway
    for bar,i in zip(b.patches, range(len(names))):
        bar.set_hatch('/'*(i//8)*2)     # dashed on the left
    return np.array([a, b])
