"What an audit of the labels found: how many are wrong, which, how the audit itself fared, and a picture of it"
from typing import NamedTuple
import numpy as np, pandas as pd
from fastrobust.labels.channel import pairs
from fastrobust.labels.estimates import LIKELY, estimates_of, ranking_of
from fastrobust.labels.listed import NOTHING, judged_classes, listed, sureness
from fastrobust.labels.outofsample import warn_in_sample
from fastrobust.labels.planting import Plants, virtual_plants
from fastrobust.labels.ratecharts import draw_rates
from fastrobust.labels.rates import noise_rate
from fastrobust.labels.tails import own_margins, plant_check
from fastrobust.labels.verifying import review_sample, verified, widths
from fastrobust.labels.words import effort, few_flagged, found, graves, others, title, too_wide, why_not
from fastrobust.predictions import need_probs
from fastrobust.reporting.report import Report

__all__ = []

_SHOWN = 10     # Rows printed; `.table` has all

class Tau(NamedTuple):
    "Estimated share of wrong labels, as the selection methods take it, and its interval"
    tau:float
    lo:float
    hi:float
    def __str__(self):
        if np.isnan(self.tau): return 'tau cannot be told'
        return f"tau {self.tau:.3f} ({self.lo:.3f} to {self.hi:.3f})"

def _back(part, keep, fill):
    "Values of the kept items among those of all"
    res = np.full(len(keep), fill, np.asarray(part).dtype)
    res[keep] = part
    return res

class NoiseReport(Report):
    "Rate of wrong labels with its interval, the items, and how trustworthy both are; attributes as listed in the code"
    def __init__(self,
        y,              # Given labels (n,)
        probs,          # Out-of-sample probabilities (n,c)
        vocab,          # Names of the classes
        *,
        names=None,     # Names of the items; None: their positions
        folds=None,     # Fold of each item (n,)
        # What was planted: (labels with the planted ones (n,), mask (n,)) that the networks were
        # trained on; or a function (law, mask of the items) that plants and yields `Plants`
        planted=None,
        kind='symmetric', # Of the planted, where they are given
        notes=(),       # More to say
        aum=None,       # Area under the margin (n,), a column more
        judge=''        # Who judged, in words
    ):
        if folds is None and not callable(planted): warn_in_sample(y, probs)
        y,p = need_probs(y, probs, len(vocab))
        if folds is None: folds = np.zeros(len(y), int)
        self.given,self.probs,self.vocab,self.judge = y,p,list(vocab),judge
        self.verified,self._widths = None,None
        self.planted = np.zeros(len(y), bool)
        self.folded = isinstance(planted, tuple)
        if self.folded:
            self.planted = planted[1]
            i = np.flatnonzero(self.planted)
            plants = Plants(i, planted[0][i], p[i])
            planted = lambda law, use: [plants]
        else: kind = None

        use = ~self.planted
        self._agreement(folds, use)
        self.judged = judged_classes(y, p)
        self.why = why_not(self)
        self._judge(use, planted, kind)
        first,rest = list(graves(self)),list(others(self))
        self.caveats = [*first, *rest]      # beside the numbers, at every door
        super().__init__(self._items(names, aum), self._summary(), draw_rates, title=title(self),
                         notes=[*first, *found(self), *rest, *notes], name='noise')

    # --- what is found ---
    def _agreement(self, folds, use):
        "Accuracy on the given labels, all and by fold"
        hit = np.array(self.probs.argmax(1) == self.given)[use]
        fold = folds[use]
        self.fold_acc = [float(hit[fold == k].mean()) for k in np.unique(fold)]
        self.acc = float(hit.mean())

    def _judge(self, use, planted, kind):
        "Rate and list, of the classes that can be judged"
        y,p = self.given,self.probs
        # without judged classes there is nothing to leave out either
        keep = self.judged[y] if self.judged[y].mean() >= .5 else np.ones(len(y), bool)
        yk,pk = (y, p) if keep.all() else (y[keep], p[keep])
        est = noise_rate(yk, pk, use[keep])
        of = listed(yk, pk, est, use[keep])
        self.channel,self.T,self.tail,self.law = est.channel,est.channel.T,est.tail,est.law
        self.estimate = est
        self.why = self.why or too_wide(est)
        self.trusted = self.why is None
        self.estimates = estimates_of(yk, pk, est, use[keep], self.acc)
        self.issues = _back(of.flagged, keep, False)
        self.suspicion = _back(est.channel.wrong, keep, 0.)
        self._suggest(est.channel, keep)
        self.margins = own_margins(y, p)

        self._numbers(est, of, keep)
        plants = list(planted(self.law, use & keep)) if planted else []
        tried = plants or [virtual_plants(y, p, self.law, use & keep)]
        ranked = ranking_of(self, tried, bool(plants))
        self.by_rank,self.by_rank_lo,self.by_rank_hi,self.first = ranked
        self.few = few_flagged(self, min(self.first, LIKELY*len(yk)))
        self.check = None
        if plants: self.check = plant_check(y, p, plants[0].joined(plants[1:]), kind or self.law)

    def _numbers(self, est, of, keep):
        "What is told: of a judge that cannot judge none of it"
        told = self.trusted
        self.rate,self.lo,self.hi = (est.rate, est.lo, est.hi) if told else (np.nan, 0., 1.)
        recall,precision = (of.recall, of.precision) if told else (NOTHING, NOTHING)
        self.recall,self.recall_lo,self.recall_hi = recall
        self.precision,self.precision_lo,self.precision_hi = precision
        worth = sureness(est) if told else np.nan
        self.chances = _back(worth*est.channel.wrong, keep, np.nan)
        self.confidence = worth*self.confidence

    def _suggest(self, channel, keep):
        "Another class where the label is flagged, else the most probable one; items not judged keep theirs"
        swap = self.issues[keep] & (channel.likely == self.given[keep])
        self.suggested,self.confidence = self.given.copy(),np.full(len(keep), np.nan)
        self.suggested[keep] = np.where(swap, channel.other, channel.likely)
        self.confidence[keep] = np.where(swap, channel.chance_other, channel.chance)

    # --- how it is told ---
    def _items(self, names, aum):
        "All items, most suspicious first, those that are not judged last"
        vocab = np.array(self.vocab, dtype=object)
        pos = np.arange(len(self.given))
        if names is None: names = pos
        df = pd.DataFrame(dict(item=pos, name=names, given=vocab[self.given],
                               suggested=vocab[self.suggested], confidence=self.confidence,
                               margin=self.margins.astype(float), suspicion=self.suspicion,
                               wrong=self.chances, flagged=self.issues,
                               judged=self.judged[self.given] & self.trusted))
        if aum is not None: df['aum'] = aum
        order = np.lexsort((self.margins, -self.suspicion, ~self.judged[self.given]))
        return df.iloc[order].reset_index(drop=True)

    def _summary(self):
        res = {'rate': self.rate, 'lo': self.lo, 'hi': self.hi, 'fold accuracy': self.acc,
               'items': len(self.given), 'classes': len(self.vocab),
               'classes judged': int(self.judged.sum()), 'trusted': self.trusted,
               'planted': 0 if self.check is None else self.check.n, 'flagged': int(self.issues.sum()),
               'precision of flagged': self.precision,
               'precision lo': self.precision_lo, 'precision hi': self.precision_hi,
               'recall of flagged': self.recall,
               'recall lo': self.recall_lo, 'recall hi': self.recall_hi,
               'recall by rank': self.by_rank, 'temperature': self.channel.temperature}
        if self.trusted:
            for k,v in self.estimates.rate.items(): res[f'rate by {k}'] = float(v)
        return res

    @property
    def tau(self):
        "The rate with its interval, as `JoCoR`, `SmallLoss` and others take it"
        return Tau(self.rate, self.lo, self.hi)

    def paired(self):
        "Share of the errors that go to one class of each class, above what even errors have: 1 for pair noise"
        return pairs(self.T, self.channel.mass)

    # --- a person looks ---
    def review_sample(self,
        n=60,   # Labels to look at, from about 12 on
        seed=0  # Of the draw; a larger `n` of the same seed begins with the same rows
    )->pd.DataFrame:
        """Items for a person to look at, stratified by suspicion, in an order of which every beginning is such a
        sample. Write into `decision` 'keep' (the label is right), the class that is right, or 'drop' (none is)"""
        return review_sample(self, n, seed)

    def verify(self,
        sample  # `review_sample` with decisions, or a CSV of it; rows may be missing or in another order
    ):
        """What the decisions say of all labels: rate, precision and recall of the list with 95 % intervals, whatever
        the judge thinks; also in `.verified`, `.summary` and below the table"""
        self.verified = verified(sample, self, self.vocab)
        for k in ('rate', 'lo', 'hi', 'n', 'precision', 'precision_lo', 'precision_hi'):
            self.summary[f'verified {k}'.replace('_', ' ')] = getattr(self.verified, k)
        return self.verified

    def widths(self):
        "Widths to expect of the verified rate's interval after n decisions: what another hour buys"
        if self._widths is None: self._widths = widths(self)
        return self._widths

    def told(self):
        "What is shown below the table: what a person has verified, apart from what is estimated"
        first = [] if self.verified is None else [f'verified by a person: {self.verified}']
        return [*first, *self.notes, *effort(self.widths())]

    def formatted(self):
        "The most suspicious items"
        whole = self.table
        self.table = whole.head(_SHOWN)
        try: return super().formatted()
        finally: self.table = whole

    def files(self): return {**super().files(), f'{self.name}_estimates': self.estimates}
