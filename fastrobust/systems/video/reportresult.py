"What `video_report` found: one table of attacks, paired differences, a curve, strips of frames"
import math
import numpy as np, pandas as pd
from matplotlib.figure import Figure
from fastrobust.basics import need_whole, nearest
from fastrobust.reporting.report import Report, saving
from fastrobust.reporting.style import save_figure
from fastrobust.systems.video.charts import curve_of, draw_report
from fastrobust.systems.video.pictures import draw_strips
from fastrobust.systems.video.reportrows import DIFFERENCES, MEASURED, numbers, paired, reach

__all__ = []

# --- words ----------------------------------------------------------------------------------------
def cell(mean, se=math.nan, digits=2, sign=''):
    "A number with its standard error; nothing where there is none"
    if np.isnan(mean): return ''
    text = f'{mean:{sign},.{digits}f}'
    return text if np.isnan(se) else f'{text} ± {se:,.{digits}f}'

def word(d, se, less, more, n=math.inf, p=0.):
    "What a difference over `n` clips says; `p` of a test that it passes too"
    if np.isnan(d): return 'not to be said'
    if d == 0 == se: return 'the same on every clip'
    if np.isnan(se): return 'one clip, no standard error'
    if abs(d) <= 2*se: return 'no difference beyond 2 SE'
    if abs(d) <= reach(n)*se or p > .05: return 'too few clips to tell'
    return less if d < 0 else more

def verdict(r, attack, control):
    "A sentence on the differences (a line of the table) of the attack to a control"
    parts = [f"fooled {cell(100*r.d_fooled, 100*r.d_fooled_se, 1, '+')} points "
             f"({word(r.d_fooled, r.d_fooled_se, 'less', 'more', r.pairs, r.d_fooled_p)})"]
    if not np.isnan(r.d_queries):
        parts.append(f"{cell(r.d_queries, r.d_queries_se, 0, '+')} queries "
                     f"({word(r.d_queries, r.d_queries_se, 'fewer', 'more', r.pairs)})")
    if r.both:
        parts.append(f"change of the {r.both:.0f} clips that both fooled {cell(r.d_change, r.d_change_se, 2, '+')} "
                     f"({word(r.d_change, r.d_change_se, 'smaller', 'larger', r.both)})")
    return f"{attack} against {control}: {', '.join(parts)}."

# --- the report -----------------------------------------------------------------------------------
class VideoReport(Report):
    """Result of `video_report`: `table`, a line an attack; `each`, one an attack and clip; `curve`; `plot()`,
    `plot_clips()`; `stopped`, what Ctrl-C left out"""
    def __init__(self,
        rows,           # `Row`s on the same clips, the attack first
        clips,          # The first of these clips (k,c,t,h,w), of which there are pictures
        y,              # Classes of all of them (n,)
        ids,            # Positions of all of them in the loader
        facts,          # What was attacked and how: a dict with eps, budget, accuracy, low, high, seen ..
        vocab=None,     # Names of the classes; None: their numbers
        notes=(),       # More sentences for the reader
        stopped=None    # What Ctrl-C left out, if it did
    ):
        self.rows,self.clips,self.y,self.ids = rows,clips,y,ids
        self.vocab,self.stopped = vocab,stopped
        self.eps,self.budget = facts['eps'],facts['budget']
        lines = [numbers(o) for o in rows]
        for line,row in zip(lines[1:], rows[1:]):
            line.update(paired(rows[0], row))
        table = pd.DataFrame(lines, pd.Index([o.name for o in rows], name='attack'))
        title = (f"{rows[0].name} on {len(rows[0])} clips, eps {255*self.eps:.4g}/255, at most {self.budget:,} "
                 "queries a clip")
        super().__init__(table, facts, draw_report, title=title, name='video')
        self.notes = [*self._explain(), *notes]
        if stopped: self.notes.append(stopped)

    @property
    def each(self):
        "A line for each attack and clip"
        parts = []
        for r in self.rows:
            m = len(r)
            cols = dict(attack=r.name, item=self.ids[:m], label=np.asarray(self.y)[:m])
            cols['answer'] = r.answers
            for k in MEASURED: cols[k] = getattr(r, k)
            parts.append(pd.DataFrame(cols))
        return pd.concat(parts, ignore_index=True)

    @property
    def curve(self):
        "Share of clips fooled by queries, a line where it rises"
        parts = []
        for r in self.rows:
            if not r.asks: continue
            q,share = curve_of(r.success, r.queries)
            parts.append(pd.DataFrame(dict(attack=r.name, queries=q, fooled=share)))
        return pd.concat(parts, ignore_index=True)

    def _explain(self):
        s,t,attack = self.summary,self.table,self.rows[0].name
        yield (f"The victim is right on {s.accuracy:.1%} ({s.low:.1%} to {s.high:.1%}) of {s.seen:,} clean clips. "
               f"{len(self.rows[0])} of those it is right on, drawn with seed {s.seed}, are attacked.")
        yield ("fooled: share of the clips on which the victim is no longer right, with its 95 % interval over clips "
               "(Wilson). queries: clips the victim was asked about, of all and of the fooled. change: mean absolute "
               "change of a pixel, of 255, so too. area: of a step's mask. touched: pixels changed in the end. ssim: "
               "structural similarity, 1 unchanged. seconds: a clip, and the victim's share of it. ±: standard "
               "error over clips.")
        if len(t) > 1:
            yield (f"Δ: {attack} - this row, paired by clip, with standard errors; Δ change over the clips that both "
                   "fooled.")
        for control in s.asked_about:
            if control in t.index: yield verdict(t.loc[control], attack, control)
        yield from self._no_bound()

    def _no_bound(self):
        "Say where somebody without the gradient does better than with it"
        for bound in self.rows:
            if bound.asks: continue
            rate,m = bound.success.mean(),len(bound)
            better = [r.name for r in self.rows if r.asks and r.success[:m].mean() > rate]
            if not better: continue
            yield (f"{bound.name} is no bound here: {', '.join(better)} fooled more clips without the gradient than it "
                   "did with it. Does the victim hide its gradient?")

    def formatted(self):
        "With intervals and standard errors; all numbers are in `table`"
        t,cols = self.table,{}
        cols['fooled'] = [f'{r.fooled:.2f} [{r.low:.2f}, {r.high:.2f}]' for r in t.itertuples()]
        def column(name, k, digits, sign=''):
            if k not in t: return
            pairs = zip(t[k], t[f'{k}_se'])
            cols[name] = [cell(*o, digits, sign) for o in pairs]
        column('queries', 'queries', 0)
        column('of fooled', 'queries_fooled', 0)
        column('change', 'change', 2)
        column('of fooled ', 'change_fooled', 2)
        for k in ('area', 'touched', 'ssim'): cols[k] = [cell(v, digits=3) for v in t[k]]
        cols['seconds'] = [f'{v:.2g}' for v in t.seconds]
        cols['in victim'] = ['' if np.isnan(v) else f'{v:.0%}' for v in t.in_victim]
        for k,digits in zip(DIFFERENCES, (2, 0, 2)): column(f'Δ {k}', f'd_{k}', digits, '+')
        return pd.DataFrame(cols, index=t.index)

    def files(self):
        return super().files() | {'video_clips': self.each, 'video_curve': self.curve}

    def save(self,
        dir         # Folder; made if missing
    ):
        "Write tables as CSV, the curves and the strips as PNG; returns the paths"
        out = super().save(dir)
        path = out[0].with_name('video_strips.png')
        with saving(path): save_figure(self.plot_clips(), path)
        return [*out, path]

    # --- strips -----------------------------------------------------------------------------------
    def _named(self, code):
        # networks of more outputs than classes answer others, too
        if self.vocab is None or code >= len(self.vocab): return str(code)
        return str(self.vocab[code])

    def _title(self, row, i):
        "What became of clip `i`"
        a = self._named(int(self.y[i]))
        b = self._named(int(row.answers[i]))
        asked = f' after {row.queries[i]:,.0f} queries' if row.asks else ''
        cost = f'mean change {row.change[i]:.1f} of 255'
        if a == b and not row.success[i]: return f'{row.name}: {a}, still answered{asked}; {cost}'
        # of clips that were not attacked, see `by_batch`
        if not row.success[i]: return f'{row.name}: {a}, answered {b} from the start; {cost}'
        return f'{row.name}: {a} → {b}{asked}; {cost}'

    def plot_clips(self,
        n=3,        # Clips, the first; at most 8 are kept
        row=None,   # Name of a row; None: the attack
        frames=8    # Frames of a clip, from the first to the last
    )->Figure:
        "Strips: clip, where the steps of an attack looked (the redder, the oftener), changed clip, change"
        n = need_whole('n', n, 1, what='clips')
        frames = need_whole('frames', frames, 1)
        names = [r.name for r in self.rows]
        if row is None: row = names[0]
        if row not in names:
            raise ValueError(f"expected the name of a row, got {row!r}. {nearest(row, names)}")
        r = self.rows[names.index(row)]
        k = min(n, len(r.adv))
        titles = [self._title(r, i) for i in range(k)]
        return draw_strips(self.clips[:k], r.adv[:k], r.masks[:k], titles, self.eps, frames)
