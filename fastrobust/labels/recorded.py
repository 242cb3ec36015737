"What a record of losses, margins and predictions, epoch by epoch, tells about the training items"
# Area under the margin: Pleiss et al., https://arxiv.org/abs/2001.10528
# Small losses: DivideMix, https://arxiv.org/abs/2002.07394
# Forgetting events: Toneva et al., https://arxiv.org/abs/1812.05159
import numpy as np, pandas as pd
from fastrobust.labels.metrics import Memorised, memorisation
from fastrobust.labels.mixtures import small_loss_split
from fastrobust.labels.reviewing import class_names, item_names

__all__ = []

_BLOCK = 2**26      # Bytes of votes at a time

def _mean(a):
    "Mean over epochs (E,n) -> (n,) of those that are not NaN"
    n = (~np.isnan(a)).sum(0)
    return np.where(n, np.nansum(a, 0)/np.maximum(n, 1), np.nan)

def _most_frequent(ps, c):
    "Of predictions (E,n) in 0..c-1, -1: none, the most frequent one (n,), of equals the later, and its share (n,)"
    rows = np.arange(ps.shape[1])
    votes = np.zeros((len(rows), c))
    for e,p in enumerate(ps):
        seen = p >= 0
        votes[rows[seen],p[seen]] += 1 + 1e-6*e
    n_seen = (ps >= 0).sum(0)
    share = votes.max(1).astype(int)/np.maximum(n_seen, 1)
    return votes.argmax(1),share

class Recorded:
    "`rows` of one dict an epoch, `epochs` their numbers, `given` the labels; `SampleHistory` fills them"
    # --- what was recorded ------------------------------------------------------------------------
    def _need_rows(self):
        if not self.rows:
            plural = 's'*(self.every > 1)
            raise ValueError(f"expected at least one recorded epoch, got none of {self.n_epochs}. "
                             f"First train with this callback, at least {self.every} epoch{plural} "
                             "(`every`).")

    def _get(self, k, part=slice(None)):
        self._need_rows()
        return np.stack([r[k][part] for r in self.rows])

    @property
    def losses(self):
        "Cross-entropy of the given labels, whatever the training loss (epochs,n); NaN: not seen that epoch"
        return self._get('losses')
    @property
    def margins(self):
        "`label_margin` of the logits (epochs,n)"
        return self._get('margins')
    @property
    def preds(self):
        "Predicted classes (epochs,n); -1: not seen that epoch"
        return self._get('preds')
    @property
    def p_given(self):
        "Probability of the given label (epochs,n)"
        return np.exp(-self.losses)

    # --- what it tells ----------------------------------------------------------------------------
    def aum(self,
        epochs=slice(None)  # Which recorded epochs; the paper stops before the learning rate first drops
    ):
        "Area under the margin: mean margin of each item (n,); the lower, the more suspicious"
        return _mean(self.margins[epochs])

    def mean_loss(self,
        last=None   # Of so many recorded epochs, the last ones; None: of all
    ):
        "Mean cross-entropy of each item (n,)"
        return _mean(self.losses[-last if last else 0:])

    def split(self,
        last=None,      # Use the mean loss of so many last epochs (DivideMix: 1, at 90 % noise 5); None: of all
        *,
        per_class=False,# Split each class by itself?
        **kwargs        # More for `small_loss_split`
    ):
        "`SmallLossSplit` of the items by their mean loss"
        return small_loss_split(self.mean_loss(last), self.given if per_class else None, **kwargs)

    def score(self,
        i=None,     # Positions in the training set; None: all
        **kwargs    # More for `split`
    ):
        "Chance in [0,1] that a label is right: the posterior of the group of small losses"
        post = self.split(**kwargs).posterior
        return post if i is None else post[i]

    def forgetting(self):
        "How often each item, once predicted as its label, no longer was (n,); infinite where it never was"
        n = len(self.given)
        was,ever = np.zeros(n, bool),np.zeros(n, bool)
        forgotten = np.zeros(n, float)
        for p in self.preds:
            ok,seen = p == self.given,p >= 0
            forgotten += was & seen & ~ok
            was = np.where(seen, ok, was)
            ever = ever | ok & seen
        return np.where(ever, forgotten, np.inf)

    def suggested(self):
        "The class most often predicted for each item (n,), of equals the later, and its share of the epochs seen (n,)"
        self._need_rows()
        c = 1+max(0, *(int(r['preds'].max()) for r in self.rows))
        step = max(_BLOCK//(8*c), 1)
        blocks = [slice(i, i+step) for i in range(0, len(self.given), step)]
        parts = [_most_frequent(self._get('preds', b), c) for b in blocks]
        code,share = map(np.concatenate, zip(*parts))
        return code,share

    def memorisation(self):
        "`Memorised` shares by epoch, where `dls.noise` knows the true labels; of what was recorded, without training"
        preds = self.preds
        rec = getattr(getattr(self.learn, 'dls', None), 'noise', None)
        if rec is None:
            raise ValueError("expected dls that know the true labels (`dls.noise`), got dls "
                             "without: what is memorised cannot be told from what is learned. "
                             "`split()` and `table()` do without them.")
        if ((self.given >= 0) & (self.given != rec.y_noisy)).any():
            raise ValueError("expected `dls.noise` of the labels recorded, got others. Use the dls "
                             "trained on.")
        def shares(p):
            ok = (p >= 0) & ~rec.is_open
            return memorisation(p[ok], rec.y_noisy[ok], rec.y_clean[ok])
        epochs = pd.Index(self.epochs, name='epoch')
        return pd.DataFrame(map(shares, preds), columns=Memorised._fields, index=epochs)

    def table(self, **kwargs):
        "All items, most suspicious first; `kwargs` are those of `split`"
        post = self.score(**kwargs)
        code,share = self.suggested()
        dls = getattr(self.learn, 'dls', None)
        vocab = None if dls is None else class_names(dls)
        files = None if dls is None else item_names(dls.train_ds)
        def name(k):
            if k < 0: return None
            return k if vocab is None else vocab[int(k)]
        rows = np.arange(len(post))
        t = pd.DataFrame(dict(item=rows, name=rows if files is None else files,
                              given=[name(k) for k in self.given],
                              suggested=[name(k) for k in code], share=share,
                              score=post, aum=self.aum(), loss=self.mean_loss(),
                              forgotten=self.forgetting(), flagged=post <= kwargs.get('p', .5)))
        # far to the right scores are equal
        return t.sort_values(['score', 'aum'], ignore_index=True)

    def noisy_ids(self,
        k=None,     # How many; None: those flagged, whose score is not above `p` (.5)
        **kwargs    # More for `split`
    ):
        "Positions in the training set of the `k` most suspicious items, the worst first"
        t = self.table(**kwargs)
        worst = t.item[t.flagged] if k is None else t.item[:k]
        return worst.to_numpy()
