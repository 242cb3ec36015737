"What an audit of the labels found: how many are wrong, which, how the audit itself fared, and a picture of it"
from typing import NamedTuple
import numpy as np, pandas as pd
from fastrobust.labels.channel import wrong_if_given
from fastrobust.labels.estimates import ERRS, LIKELY, WEAK, estimates_of, ranking_of
from fastrobust.labels.outofsample import warn_in_sample
from fastrobust.labels.planting import noise_rate, plant_check, rival_margins
from fastrobust.labels.ratecharts import draw_rates
from fastrobust.metrics import wilson_interval
from fastrobust.predictions import need_probs
from fastrobust.reporting.report import Report

__all__ = []

_HARDLY = .02   # Estimated rate below which too few labels are flagged to find planted errors by
_SHOWN = 10     # Rows printed; `.table` has all

class Tau(NamedTuple):
    "Estimated share of wrong labels, as the selection methods take it, and its interval"
    tau:float
    lo:float
    hi:float
    def __str__(self): return f"tau {self.tau:.3f} ({self.lo:.3f} to {self.hi:.3f})"

def _cut(wrong, rate):
    "Chance above which a label is called wrong: .5, or what leaves no more than the rate"
    k = round(rate*len(wrong))
    if k >= len(wrong): return .5
    order = np.argsort(-wrong, kind='stable')
    return max(.5, wrong[order[k]])

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
        if folds is None: folds = np.zeros(len(y), int)
        mask = np.zeros(len(y), bool) if planted is None else planted[1]
        est = noise_rate(y, p, use=~mask)

        self.given,self.probs,self.vocab = y,p,list(vocab)
        self.channel,self.T = est.channel,est.channel.T
        self.rate,self.lo,self.hi = est.rate,est.lo,est.hi
        self.tail,self.planted = est.tail,mask

        hit = (p.argmax(1) == y)[~mask]
        fold = folds[~mask]
        self.fold_acc = [float(hit[fold == k].mean()) for k in np.unique(folds)]
        self.acc = float(hit.mean())
        self.estimates = estimates_of(y[~mask], p[~mask], est, self.acc)
        self._flag(planted)
        self.check = None if planted is None else plant_check(y, p, *planted, kind)

        notes = [*self._say(), *notes]
        super().__init__(self._items(names, aum), self._summary(), draw_rates, title=self._title(),
                         notes=notes, name='noise')

    def _flag(self, planted):
        "Which labels are called wrong: probably so, but no more than the rate; and how many of the planted are"
        wrong = self.channel.wrong
        cut = _cut(wrong, self.rate)
        self.issues = wrong > cut
        would = wrong_if_given(self.channel, self.probs)
        other = np.arange(would.shape[1]) != self.given[:, None]
        self._recall(would, other, cut, planted)

        own,rivals = rival_margins(self.given, self.probs)
        ranked = ranking_of((would[~other], own), (would, rivals), planted)
        self.by_rank,self.by_rank_lo,self.by_rank_hi,self.first = ranked
        # where so few are flagged, most of the planted cannot be
        need = min(self.first, LIKELY*len(wrong))
        self.few = bool(self.rate < _HARDLY or self.issues.sum() < need/3)
        self._precision(wrong)

    def _recall(self, would, other, cut, planted):
        "Share of the planted that are flagged, with its interval; none planted: of all other labels"
        if planted is None:
            self.recall = float((would[other] > cut).mean())
            self.recall_lo,self.recall_hi = np.nan,np.nan
            return
        new,mask = planted
        found = would[mask, new[mask]] > cut
        self.recall = float(found.mean())
        self.recall_lo,self.recall_hi = map(float, wilson_interval(self.recall, len(found)))

    def _precision(self, wrong):
        "Share of the flagged that are wrong, from rate and recall; its interval from that of the rate"
        share = self.issues.mean()
        if not share:
            self.precision_lo,self.precision_hi,self.precision = np.nan,np.nan,np.nan
            return
        per = lambda r: float(min(r*self.recall/share, 1))
        self.precision_lo,self.precision_hi = per(self.lo),per(self.hi)
        self.precision = float(min(per(self.rate), wrong[self.issues].mean()))

    def _items(self, names, aum):
        "All items, most suspicious first"
        wrong,chance = self.channel.wrong,self.channel.true
        true = chance.argmax(1)
        given = np.arange(len(self.vocab)) == self.given[:, None]
        other = np.where(given, -1, chance).argmax(1)
        true = np.where(self.issues & (true == self.given), other, true)

        margin = rival_margins(self.given, self.probs)[0]
        vocab = np.array(self.vocab, dtype=object)
        pos = np.arange(len(true))
        if names is None: names = pos
        df = pd.DataFrame(dict(item=pos, name=names, given=vocab[self.given], suggested=vocab[true],
                               confidence=chance[pos, true].astype(float),
                               margin=margin.astype(float), wrong=wrong, flagged=self.issues))
        if aum is not None: df['aum'] = aum
        return df.iloc[np.lexsort((margin, -wrong))].reset_index(drop=True)

    def _summary(self):
        res = {'rate': self.rate, 'lo': self.lo, 'hi': self.hi, 'fold accuracy': self.acc,
               'items': len(self.given), 'classes': len(self.vocab),
               'planted': int(self.planted.sum()), 'flagged': int(self.issues.sum()),
               'precision of flagged': self.precision,
               'precision lo': self.precision_lo, 'precision hi': self.precision_hi,
               'recall of flagged': self.recall,
               'recall lo': self.recall_lo, 'recall hi': self.recall_hi,
               'recall by rank': self.by_rank, 'temperature': self.channel.temperature}
        for k,v in self.estimates.rate.items(): res[f'rate by {k}'] = float(v)
        return res

    def _title(self):
        return (f"{self.rate:.1%} of the labels are wrong ({self.lo:.1%} to {self.hi:.1%}); "
                f"{self.issues.sum():,} of {len(self.given):,} flagged, the most suspicious first")

    @property
    def tau(self):
        "The rate with its interval, as `JoCoR`, `SmallLoss` and others take it"
        return Tau(self.rate, self.lo, self.hi)

    def paired(self):
        "Share of the estimated errors that go to the class that takes most of each class's: 1 for pair noise"
        n = np.maximum(self.channel.true.sum(0), 1e-9)
        off = self.T*(1-np.eye(len(self.T)))*n[:, None]
        return float(off.max(1).sum()/max(off.sum(), 1e-12))

    def _found(self):
        "What the list finds of planted errors, by its flags or, where hardly any label is flagged, by its order"
        n = int(self.issues.sum())
        if self.few:
            few = 'hardly any' if n else 'no'
            res = f"{few} label is called wrong ({n:,} of {len(self.issues):,}); {self._ranked()}"
        elif self.check is None: res = f"{self.recall:.0%} of random errors would be flagged"
        else:
            res = (f"{self.recall:.0%} of planted errors are flagged ({self.recall_lo:.0%} to "
                   f"{self.recall_hi:.0%}, {self.check.n} planted)")
        if not n: return res + '.'
        return (f"{res}; of the flagged, about {self.precision:.0%} are wrong "
                f"({self.precision_lo:.0%} to {self.precision_hi:.0%}).")

    def _ranked(self):
        if self.check is None:
            return (f"of random errors in {self.first:,} labels, {self.by_rank:.0%} would be "
                    f"among the {self.first:,} most suspicious")
        return (f"of {self.check.n} planted errors, {self.by_rank:.0%} "
                f"({self.by_rank_lo:.0%} to {self.by_rank_hi:.0%}) are among the "
                f"{self.first:,} most suspicious labels")

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
        whole = self.table
        self.table = whole.head(_SHOWN)
        try: return super().formatted()
        finally: self.table = whole

    def files(self): return {**super().files(), f'{self.name}_estimates': self.estimates}
