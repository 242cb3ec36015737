"What `compare` found: last and best epochs, paired differences, curves, and their picture"
import math
import numpy as np, pandas as pd
import torch
from fastrobust.labels.memorisation import lower_is_better
from fastrobust.reporting.report import Report
from fastrobust.reporting.style import (BLUE, DASHES, GREEN, INK, OLIVE, ORANGE, PURPLE, SKY,
                                        VERMILION, new_figure, tidy, whole_numbers)

__all__ = []

def _mean_se(v):
    "Mean and standard error; NaN where there is too little"
    v = np.asarray(v, dtype=float)
    n = len(v)
    mean = v.mean() if n else float('nan')
    se = v.std(ddof=1)/math.sqrt(n) if n > 1 else float('nan')
    return mean,se

def _pm(m, se, sign=''):
    if np.isnan(m): return ''
    mean = f'{m:{sign}.3f}'
    return mean if np.isnan(se) else f'{mean} ± {se:.3f}'

_MEANS = ('last', 'oracle_best', 'late_mean', 'picked', 'memorised')

class Comparison(Report):
    "Result of `compare`: `table` (one line a row), `runs` (one a row and seed), `curves` (one an epoch)"
    stopped:str|None = None # Where Ctrl-C ended it, if it did
    def __init__(self,
        runs,         # List of dicts, one per finished run: row, seed, metric, given, seconds, peak_MB, acts ..
        curves,       # List of DataFrames, one per finished run: epoch, row, seed and what the Recorder recorded
        baseline,     # Name of the row the others are compared to
        *,
        last_k=None,  # Epochs in `late_mean`; None: a quarter of the row's, at most 10
        notes=()      # More sentences for the reader
    ):
        self.runs = pd.DataFrame(runs)
        self.curves = pd.concat(curves, ignore_index=True)
        self.baseline,self.last_k = baseline,last_k
        self.metric = self.runs.metric.iloc[0]
        self.low = lower_is_better(self.metric)
        judged = pd.DataFrame([self._judge(r) for r in self.runs.itertuples()])
        self.runs = pd.concat([self.runs, judged], axis=1)

        names = list(dict.fromkeys(self.runs.row))
        lines = [self._line(o) for o in names]
        table = pd.DataFrame(lines, pd.Index(names, name='row'))
        title = f'{self.metric} of {len(table)} ways to train'
        super().__init__(table, self._facts(table), _draw, title=title,
                         notes=[*self._explain(), *notes], name='compare')

    def curve(self, row, seed):
        "Per-epoch numbers of one run"
        return self.curves[(self.curves.row == row) & (self.curves.seed == seed)]

    def _facts(self, table):
        memory = 'CPU, resident memory of the whole process'
        if torch.cuda.is_available(): memory = 'GPU, allocated by torch'
        last = table['last']
        facts = dict(metric=self.metric, baseline=self.baseline,
                     seeds=sorted(set(self.runs.seed)), memory=memory,
                     best_last=last.idxmin() if self.low else last.idxmax())
        for k in ('nominal_rate', 'realised_rate'):
            if k in self.runs: facts[k] = self.runs[k].mean()
        return facts

    def _judge(self, r):
        "Last, best and late-mean value of one run, and the one a choice by the given labels would pick"
        curve = self.curve(r.row, r.seed)
        v = curve[self.metric].to_numpy(dtype=float)
        late = self.last_k or max(1, min(10, len(v)//4))
        late = min(len(v), late)
        nan = np.isnan(v)
        best = v if nan.all() else v[~nan]
        res = dict(last=v[-1],
                   oracle_best=best.min() if self.low else best.max(),
                   late_mean=v[-late:].mean())
        if isinstance(r.given, str):
            g = curve[r.given].to_numpy(dtype=float)
            pick = np.argmin if lower_is_better(r.given) else np.argmax
            res['picked'] = v[int(pick(g))]
        return res

    def _runs_of(self, name):
        "Runs of a row, by seed"
        return self.runs[self.runs.row == name].set_index('seed')

    def _line(self, name):
        res = {}
        g = self._runs_of(name)
        for k in _MEANS:
            if k in g: res[k],res[f'{k}_se'] = _mean_se(g[k])
        apart = []
        if name != self.baseline:
            base = self._runs_of(self.baseline)
            apart = (g['last']-base['last']).dropna()
        res['difference'],res['difference_se'] = _mean_se(apart)
        for k in ('epochs', 'seconds', 'peak_MB'): res[k] = g[k].mean()
        res['seeds'] = len(g)
        return res

    def _explain(self):
        m = self.metric
        n = self.runs.seed.nunique()
        yield (f"last: {m} after the last epoch, the number you would get. oracle best: that of "
               "the best epoch, chosen on the very images it is measured on, so nobody can count "
               "on reaching it.")
        late = f"{self.last_k} epochs" if self.last_k else "quarter of the epochs (at most 10)"
        yield (f"late mean: mean of the last {late}. difference: of `last` to {self.baseline!r}, "
               "paired by seed.")
        if n > 1:
            yield f"± is the standard error over {n} seeds."
        else:
            yield ("One seed only, so no standard errors: run more seeds before you believe a "
                   "small difference.")
        if m == 'acc_true':
            yield ("acc_true: accuracy against the true validation labels, which nothing is "
                   "chosen by.")
        if 'picked' in self.runs:
            yield ("picked: acc_true of the epoch that does best on the given, noisy validation "
                   "labels: an honest pick.")
        if 'memorised' in self.runs:
            yield ("memorised: share of the wrongly labelled training images to which the trained "
                   "model gives their wrong label. Labels that are wrong: nominal rate "
                   f"{self.runs.nominal_rate.mean():.3g}, realised "
                   f"{self.runs.realised_rate.mean():.4f}.")
        if torch.cuda.is_available():
            yield "peak MB: GPU memory allocated by torch."
        else:
            yield ("peak MB: resident memory of the whole process on the CPU, Python and data "
                   "included.")

    def formatted(self):
        t,cols = self.table,{}
        for k in _MEANS:
            if k not in t: continue
            cols[k.replace('_', ' ')] = [_pm(*o) for o in zip(t[k], t[f'{k}_se'])]
        cols['difference'] = [_pm(*o, '+') for o in zip(t.difference, t.difference_se)]
        for k in ('epochs', 'seconds', 'peak_MB'):
            cols[k.replace('_', ' ')] = ['' if np.isnan(v) else f'{v:.0f}' for v in t[k]]
        return pd.DataFrame(cols, index=t.index)

    def files(self):
        return {**super().files(), 'compare_runs': self.runs, 'compare_curves': self.curves}

# --- the picture ----------------------------------------------------------------------------------
_COLORS = [INK, ORANGE, BLUE, GREEN, VERMILION, SKY, PURPLE, OLIVE]

def _draw_curves(ax, rep, style):
    "The metric by epoch, a band of one standard error over seeds"
    for o,look in style.items():
        curves = rep.curves[rep.curves.row == o]
        g = curves.groupby('epoch')[rep.metric]
        mean = g.mean()
        se = g.sem().fillna(0)
        x,color = mean.index,look['color']
        marker = '.' if len(mean) == 1 else None
        ax.plot(x, mean, lw=2, label=o, marker=marker, **look)
        ax.plot(x[-1], mean.iloc[-1], 'o', color=color, ms=6, mec='white')
        ax.fill_between(x, mean-se, mean+se, color=color, alpha=.18, lw=0)
    whole_numbers(ax.xaxis)
    ax.set(xlabel='epoch', ylabel=rep.metric, title=f'{rep.metric} by epoch')
    tidy(ax, 'y', behind=False)

def _draw_last(ax, rep, style):
    "The last epoch, a dot for each seed"
    last,se = rep.table['last'],rep.table.last_se
    y = np.arange(len(style))[::-1]
    colors = [look['color'] for look in style.values()]
    ax.barh(y, last, height=.62, alpha=.5, color=colors, capsize=3,
            xerr=se if se.notna().any() else None)
    for i,(o,look) in zip(y, style.items()):
        v = rep.runs[rep.runs.row == o]['last']
        n = len(v)
        up = np.linspace(-.18, .18, n) if n > 1 else np.zeros(n)
        ax.plot(v, i+up, 'o', ms=5, color=look['color'], mec='white', zorder=3)
        ax.annotate(f'{last[o]:.3f}', (v.max(), i), (9, 0), textcoords='offset points',
                    va='center')
    ax.set_yticks(y, list(style))
    ax.set(xlabel=rep.metric, title='After the last epoch')
    if not rep.low and (last <= 1).all(): ax.set_xlim(0, 1)
    tidy(ax, 'x', behind=False)

def _draw(rep, figsize=None):
    "Left: `metric` by epoch, a band of one standard error over seeds. Right: the last epoch, a dot for each seed"
    names = list(rep.table.index)
    style = {}
    for i,o in enumerate(names):
        style[o] = dict(color=_COLORS[i%8], ls=DASHES[i//8%4])
    size = figsize or (12, max(4., 1.4 + .42*len(names)))
    a,b = new_figure(size).subplots(1, 2, width_ratios=[1.15, 1])
    _draw_curves(a, rep, style)
    _draw_last(b, rep, style)
    if len(names) <= 6: a.legend(frameon=False, fontsize=9)     # the bars name the colours anyway
    for i,bar in zip(range(len(names)), b.patches):
        bar.set_hatch('/'*(i//8)*2)     # dashed on the left
    return np.array([a, b])
