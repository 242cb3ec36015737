"What an audit of the labels found: how many are wrong, which, how the audit itself fared, and a picture of it"
from typing import NamedTuple
import numpy as np, pandas as pd
from fastrobust.labels.channel import wrong_if_given
from fastrobust.predictions import need_probs
from fastrobust.labels.outofsample import warn_in_sample
from fastrobust.labels.planting import noise_rate, plant_check, rival_margins
from fastrobust.reporting.report import Report
from fastrobust.reporting.style import BLUE, VERMILION, new_figure
from fastrobust.labels.estimates import ERRS, LIKELY, WEAK, estimates_of, ranking_of
from fastrobust.metrics import wilson_interval

__all__ = []

_HARDLY = .02   # Estimated rate below which too few labels are flagged to find planted errors by
_SHOWN = 10     # Rows printed; `.table` has all
_GREY = '#6b7580'

class Tau(NamedTuple):
    "Estimated share of wrong labels, as the selection methods take it, and its interval"
    tau:float
    lo:float
    hi:float
    def __str__(self): return f"tau {self.tau:.3f} ({self.lo:.3f} to {self.hi:.3f})"

class NoiseReport(Report):
    "Rate of wrong labels with its interval, the items, and how trustworthy both are; attributes as listed in the code"
    def __init__(self,
        y,              # Given labels (n,)
        probs,          # Out-of-sample probabilities (n,c)
        vocab,          # Names of the classes
        *,
        names=None,     # Names of the items; None: their positions
        folds=None,     # Fold of each item (n,)
        planted=None,   # (labels with the planted ones (n,), mask (n,)) that the networks were trained on
        kind='symmetric', # Of the planted
        notes=(),       # More to say
        aum=None        # Area under the margin (n,), a column more
    ):
        if folds is None: warn_in_sample(y, probs)
        y,p = need_probs(y, probs, len(vocab))
        mask = np.zeros(len(y), bool) if planted is None else planted[1]
        est = noise_rate(y, p, use=~mask)
        self.given,self.probs,self.vocab,self.channel,self.T = y,p,list(vocab),est.channel,est.channel.T
        self.rate,self.lo,self.hi,self.tail,self.planted = est.rate,est.lo,est.hi,est.tail,mask
        hit = (p.argmax(1) == y)[~mask]
        folds = np.zeros(len(y), int) if folds is None else folds
        self.fold_acc = [float(hit[folds[~mask] == k].mean()) for k in np.unique(folds)]
        self.acc = float(hit.mean())
        self.estimates = estimates_of(y[~mask], p[~mask], est, self.acc)
        self._flag(planted)
        self.check = None if planted is None else plant_check(y, p, *planted, kind)
        notes = [*self._say(), *notes]
        super().__init__(self._items(names, aum), self._summary(), _draw, title=self._title(),
                         notes=notes, name='noise')

    def _flag(self, planted):
        "Which labels are called wrong: probably so, but no more than the rate; and how many of the planted are"
        wrong = self.channel.wrong
        k,order = round(self.rate*len(wrong)),np.argsort(-wrong, kind='stable')
        cut = max(.5, wrong[order[k]] if k < len(wrong) else .5)
        self.issues = wrong > cut
        would = wrong_if_given(self.channel, self.probs)
        other = np.arange(would.shape[1]) != self.given[:, None]
        self.recall,self.recall_lo,self.recall_hi = float((would[other] > cut).mean()),np.nan,np.nan
        if planted is not None:
            new,mask = planted
            found = would[mask, new[mask]] > cut
            self.recall = float(found.mean())
            self.recall_lo,self.recall_hi = map(float, wilson_interval(self.recall, len(found)))
        share = self.issues.mean()
        own,rivals = rival_margins(self.given, self.probs)
        ranked = ranking_of((would[~other], own), (would, rivals), planted)
        self.by_rank,self.by_rank_lo,self.by_rank_hi,self.first = ranked
        # where so few are flagged, most of the planted cannot be
        need = min(self.first, LIKELY*len(wrong))
        self.few = bool(self.rate < _HARDLY or self.issues.sum() < need/3)
        per = lambda r: float(min(r*self.recall/share, 1)) if share else np.nan
        self.precision_lo,self.precision_hi = per(self.lo),per(self.hi)
        self.precision = float(min(per(self.rate), wrong[self.issues].mean())) if share else np.nan

    def _items(self, names, aum):
        "All items, most suspicious first"
        true,vocab = self.channel.true.argmax(1),np.array(self.vocab, dtype=object)
        true = np.where(self.issues & (true == self.given), np.where(
            np.arange(len(vocab)) == self.given[:, None], -1, self.channel.true).argmax(1), true)
        margin = rival_margins(self.given, self.probs)[0]
        pos = np.arange(len(true))
        df = pd.DataFrame(dict(item=pos, name=pos if names is None else names, given=vocab[self.given],
                               suggested=vocab[true], confidence=self.channel.true[pos, true].astype(float),
                               margin=margin.astype(float), wrong=self.channel.wrong, flagged=self.issues))
        if aum is not None: df['aum'] = aum
        return df.iloc[np.lexsort((margin, -self.channel.wrong))].reset_index(drop=True)

    def _summary(self):
        res = {'rate': self.rate, 'lo': self.lo, 'hi': self.hi, 'fold accuracy': self.acc,
               'items': len(self.given), 'classes': len(self.vocab), 'planted': int(self.planted.sum()),
               'flagged': int(self.issues.sum()), 'precision of flagged': self.precision,
               'precision lo': self.precision_lo, 'precision hi': self.precision_hi, 'recall of flagged': self.recall,
               'recall lo': self.recall_lo, 'recall hi': self.recall_hi, 'recall by rank': self.by_rank,
               'temperature': self.channel.temperature}
        return {**res, **{f'rate by {k}': float(v) for k,v in self.estimates.rate.items()}}

    def _title(self):
        return (f"{self.rate:.1%} of the labels are wrong ({self.lo:.1%} to {self.hi:.1%}); "
                f"{self.issues.sum():,} of {len(self.given):,} flagged, the most suspicious first")

    @property
    def tau(self):
        "The rate with its interval, as `JoCoR`, `SmallLoss` and others take it"
        return Tau(self.rate, self.lo, self.hi)

    def paired(self):
        "Share of the estimated errors that go to the class that takes most of each class's: 1 for pair noise"
        off = self.T*(1-np.eye(len(self.T)))*np.maximum(self.channel.true.sum(0), 1e-9)[:, None]
        return float(off.max(1).sum()/max(off.sum(), 1e-12))

    def _found(self):
        "What the list finds of planted errors, by its flags or, where hardly any label is flagged, by its order"
        n = int(self.issues.sum())
        if self.few:
            res = f"{'hardly any' if n else 'no'} label is called wrong ({n:,} of {len(self.issues):,})"
        if self.few and self.check is None:
            res += (f"; of random errors in {self.first:,} labels, {self.by_rank:.0%} would be "
                    f"among the {self.first:,} most suspicious")
        elif self.few:
            res += (f"; of {self.check.n} planted errors, {self.by_rank:.0%} "
                    f"({self.by_rank_lo:.0%} to {self.by_rank_hi:.0%}) are among the "
                    f"{self.first:,} most suspicious labels")
        elif self.check is None: res = f"{self.recall:.0%} of random errors would be flagged"
        else:
            res = (f"{self.recall:.0%} of planted errors are flagged ({self.recall_lo:.0%} to "
                   f"{self.recall_hi:.0%}, {self.check.n} planted)")
        if not n: return res + '.'
        return (f"{res}; of the flagged, about {self.precision:.0%} are wrong "
                f"({self.precision_lo:.0%} to {self.precision_hi:.0%}).")

    def _say(self):
        "What a reader must know, the gravest first"
        if self.acc < WEAK:
            yield (f"model too weak: its folds predict only {self.acc:.0%} of the labels as given "
                   f"({WEAK:.0%} is the least). Either it learned little or many labels are wrong: "
                   "train better, or take the rate as rough.")
        if self.check is not None and self.check.p < .001:
            yield ("planted labels do not look as they should (distance "
                   f"{self.check.distance:.2f}, p {self.check.p:.1g}): are there copies of items "
                   "in several folds, or was the network trained on them before? Then the rate is "
                   "too low.")
        yield self._found()
        if 1-self.acc-self.rate > ERRS:
            yield (f"the folds contradict {1-self.acc:.0%} of the labels, far more than are "
                   "estimated to be wrong: they err often themselves. Take the rate as rough and "
                   "the precision as an upper bound; a better network (pretrained, more images) "
                   "makes both sharper.")
        if len(self.T) > 3 and self.rate > .05 and self.paired() > .5:
            yield (f"confusable errors hide: {self.paired():.0%} of the errors go to one class for "
                   "each class, as in pair noise. The network learns such errors and repeats them: "
                   "the rate is rather a lower bound.")
        else:
            yield ("planted errors are easier to see than confusable ones (cat for dog): if yours "
                   "are of that kind, the rate is a lower bound and recall is lower than stated.")

    def formatted(self):
        "The most suspicious items"
        t,self.table = self.table,self.table.head(_SHOWN)
        try: return super().formatted()
        finally: self.table = t

    def files(self): return {**super().files(), f'{self.name}_estimates': self.estimates}

def _tails(rep, ax):
    "How the two distributions part"
    own,rivals = rival_margins(rep.given, rep.probs)
    for v,color,label,style in ((own[~rep.planted], BLUE, 'labels as given', '-'),
                                (rivals[~np.isnan(rivals)], VERMILION, 'labels planted at random', '--')):
        v = np.sort(v)
        i = np.linspace(0, len(v)-1, min(len(v), 2000)).astype(int)
        ax.plot(v[i], (i+1)/len(v), style, color=color, lw=2, label=label)
    t = rep.tail
    ax.axvline(t.threshold, color=_GREY, lw=1,
               label=f"tail: {t.given:.1%} of the given, {t.planted:.0%} of the planted")
    ax.plot([t.threshold]*2, [t.given, t.planted], 'o', color=_GREY, ms=5)
    ax.set(xlabel='normalised margin of the label (low = doubtful)', ylabel='share of labels below', xlim=(0, 1),
           ylim=(0, 1.02), title='How doubtful labels look')
    ax.legend(frameon=False, loc='upper center', bbox_to_anchor=(.5, -.17), fontsize=9, ncols=2)

def _draw(rep, figsize=(11, 4.6)):
    axs = new_figure(figsize).subplots(1, 2)
    _tails(rep, axs[0])
    e = rep.estimates.rate[::-1]
    axs[1].axvspan(rep.lo, rep.hi, color=BLUE, alpha=.15, lw=0, label=f'interval {rep.lo:.1%} to {rep.hi:.1%}')
    axs[1].axvline(rep.rate, color=BLUE, lw=2, label=f'reported {rep.rate:.1%}')
    main = [k in ('planted tail', 'label channel') for k in e.index]
    axs[1].scatter(e, range(len(e)), c=[BLUE if m else _GREY for m in main], s=36, zorder=3)
    top = max(.1, 1.15*float(np.nanmax([rep.hi, *e])))
    for i,v in enumerate(e):
        if np.isfinite(v):
            axs[1].annotate(f'{v:.1%}', (v, i), xytext=(7, 5), textcoords='offset points', fontsize=9)
    axs[1].set(yticks=range(len(e)), yticklabels=list(e.index), xlim=(0, top), ylim=(-.6, len(e)-.3),
               xlabel='share of wrong labels', title='Estimates beside each other')
    axs[1].legend(frameon=False, loc='upper center', bbox_to_anchor=(.5, -.17), fontsize=9, ncols=2)
    return axs
