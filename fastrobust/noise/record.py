"What was done to the labels: the record of true and given ones, and the accuracy against the true ones"
import copy, csv, json
import numpy as np
import torch
from matplotlib.figure import Figure
from fastai.torch_core import flatten_check
from fastrobust.basics import batch_idxs, robust_warn
from fastrobust.data.reading import int_labels
from fastrobust.noise.show import attach
from fastrobust.reporting.style import axes_on
from fastrobust.training.recording import ColumnsCallback, fit_starts

__all__ = ['NoiseRecord']

class NoiseRecord:
    "True and given labels by position, the law that was asked for, and the rates: nominal and realised"
    def __init__(self,
        y_clean,            # True labels (n,)
        y_noisy,            # Given labels (n,)
        kind:str,           # Name of the law
        nominal_rate:float, # The rate asked for; for a matrix the one expected on these labels
        *,
        T=None,             # Intended T (c,c), rows = true class (cleanlab: the transpose); None: no such law
        seed=0,             # Seed of the draw; a list where noise was laid on noise
        is_open=None,       # (n,) bool: the image was replaced by one of no known class; None: none was
        vocab=None,         # Class names
        sampling='exact',   # How it was drawn
        valid=None,         # Record of the validation labels, None where they are clean
        log_true=False,     # Should fits log validation accuracy against the true labels as well (noisy_valid='both')?
        open_from=None      # (n,) ints: which of the foreign images stands at i, -1: its own; None: see `is_open`
    ):
        self.y_clean = int_labels(y_clean)
        self.y_noisy = int_labels(y_noisy)
        n = len(self.y_clean)
        if len(self.y_noisy) != n:
            raise ValueError(f"expected as many given as true labels ({n}), got "
                             f"{len(self.y_noisy)}. Pass one of each per sample.")
        if open_from is None: self.open_from = np.full(n, -1)
        else: self.open_from = np.array(open_from, dtype=np.int64)
        if is_open is None: self.is_open = self.open_from >= 0
        else: self.is_open = np.array(is_open, dtype=bool)
        self.images = None  # the foreign images, uint8 tensor (m,c,h,w); never saved
        self.kind,self.nominal_rate,self.T = kind,nominal_rate,T
        self.seed,self.sampling = seed,sampling
        self.vocab = None if vocab is None else [str(v) for v in vocab]
        self.valid,self.log_true = valid,log_true

    @property
    def is_noisy(self): return self.y_clean != self.y_noisy
    @property
    def realised_rate(self): return float(self.is_noisy.mean())
    @property
    def open_rate(self): return float(self.is_open.mean())
    @property
    def n_classes(self):
        if self.T is not None: return len(self.T)
        if self.vocab: return len(self.vocab)
        return int(max(self.y_clean.max(), self.y_noisy.max()))+1
    @property
    def counts(self):
        "(c,c) ints: how many of true class i were given label j"
        c = self.n_classes
        return np.bincount(self.y_clean*c + self.y_noisy, minlength=c*c).reshape(c, c)
    @property
    def T_empirical(self):
        "Realised T (c,c), rows = true class; the row of a class without samples is NaN"
        n = self.counts
        with np.errstate(invalid='ignore'): return n / n.sum(1, keepdims=True)
    def __len__(self): return len(self.y_clean)
    def __repr__(self):
        v = ''
        if self.is_open.any(): v += f", open-set {self.open_rate:.4f}"
        if self.valid is not None: v += f"; validation labels {self.valid.realised_rate:.4f}"
        return (f"NoiseRecord({self.kind}, {len(self)} labels, {self.n_classes} classes: nominal "
                f"rate {self.nominal_rate:.4g}, realised {self.realised_rate:.4f} "
                f"({int(self.is_noisy.sum())} wrong), seed {self.seed}{v})")

    def cbs(self):
        "The callbacks that a learner on these loaders should have: `TrueAccuracy` with noisy_valid='both', else none"
        return [TrueAccuracy()] if self.log_true and self.valid is not None else []

    def attach(self, dls):
        "Give `dls`, whose training labels these are, this record and a `show_batch` that tells given from true labels"
        return attach(dls, self)

    def compose(self, new):
        "The record of `new`, noise drawn on top of our given labels"
        if self.T is None or new.T is None:
            T = None
            rate = 1 - (1-self.nominal_rate)*(1-new.nominal_rate)
        else:
            T = self.T @ new.T
            rate = float(1 - np.diag(T)[self.y_clean].mean())
        res = NoiseRecord(self.y_clean, new.y_noisy, f'{self.kind}+{new.kind}', rate, T=T,
                          seed=[self.seed, new.seed], is_open=self.is_open | new.is_open,
                          vocab=self.vocab or new.vocab,
                          sampling=f'{self.sampling}+{new.sampling}',
                          open_from=np.maximum(self.open_from, new.open_from))
        res.images = self.images if new.images is None else new.images
        return res

    def take(self,
        idxs    # Positions (k,)
    ):
        "The record of some of the items; the law (T, nominal rate) stays the one all were drawn from"
        new = copy.copy(self)
        for k in ('y_clean', 'y_noisy', 'is_open', 'open_from'):
            setattr(new, k, getattr(self, k)[idxs].copy())
        return new

    def relabelled(self,
        y       # New given labels (n,), by whatever hand
    ):
        "The record after the given labels were edited: true ones kept, no law any more"
        new = copy.copy(self)
        new.y_noisy = int_labels(y)
        new.T = None
        edited = (new.y_noisy != self.y_noisy).any()
        if edited and not self.kind.endswith('edited'):
            new.kind = f'{self.kind}+edited'
        return new

    def save(self,
        fname,      # CSV to write: item,label,label_noisy,is_open,split,open_from; first a comment line with the law
        items=None  # Names for the column `item`, one per training sample; None: positions
    ):
        "Write a CSV from which `load` gives back exactly this record"
        if items is None: items = range(len(self))
        elif len(items) != len(self):
            raise ValueError(f"expected {len(self)} items, got {len(items)}. Pass one name per "
                             "training sample.")
        head = self._law()
        head['T'] = None if self.T is None else np.asarray(self.T).tolist()
        if self.valid is not None: head['valid'] = self.valid._law()
        with open(fname, 'w', newline='', encoding='utf-8') as f:
            f.write('# fastrobust ' + json.dumps(head) + '\n')
            w = csv.writer(f)
            w.writerow(['item', 'label', 'label_noisy', 'is_open', 'split', 'open_from'])
            w.writerows(self._rows(items, 'train'))
            if self.valid is not None:
                w.writerows(self.valid._rows(range(len(self.valid)), 'valid'))

    def _law(self):
        law = 'kind', 'nominal_rate', 'seed', 'sampling', 'vocab', 'log_true'
        return {k: getattr(self, k) for k in law}

    def _rows(self, names, split):
        cols = zip(names, self.y_clean, self.y_noisy, self.is_open, self.open_from)
        return ([n, a, b, int(o), split, j] for n,a,b,o,j in cols)

    @classmethod
    def load(cls,
        fname # CSV of `save`
    ):
        "The record that `save` wrote; hand it to `add_label_noise` to give the same labels again"
        with open(fname, newline='', encoding='utf-8') as f:
            first = f.readline()
            if not first.startswith('# fastrobust '):
                raise ValueError(f"{fname}: expected a file of NoiseRecord.save ('# fastrobust ..' "
                                 f"first), got {first[:40]!r}. Save the record again.")
            head = json.loads(first[len('# fastrobust '):])
            rows = list(csv.DictReader(f))
        valid,T = head.pop('valid', None),head.pop('T')
        if T is not None: T = np.array(T)
        def part(split, **kw):
            rs = [r for r in rows if r['split'] == split]
            col = lambda k: [int(r.get(k, -1)) for r in rs]
            return cls(col('label'), col('label_noisy'), is_open=col('is_open'), T=T,
                       open_from=col('open_from'), **kw)
        if valid is not None: valid = part('valid', **valid)
        return part('train', valid=valid, **head)

    def plot(self,
        ax=None,        # Axes to draw on
        *,
        figsize=None    # Size in inches; None: grows with the number of classes
    )->Figure:
        "Realised noise matrix, with counts where there is room"
        c,T = self.n_classes,self.T_empirical
        side = max(4.5, .55*c+2.5) if c <= 20 else 8.
        ax = axes_on(ax, figsize or (side+1, side))
        im = ax.imshow(T, cmap='Blues', vmin=0, vmax=1)
        if c <= 20: self._write_counts(ax)
        if c <= 40:
            names = self.vocab or range(c)
            ax.set_xticks(range(c), names, rotation=90)
            ax.set_yticks(range(c), names)
        ax.set(xlabel='given label', ylabel='true label')
        ax.set_title(f'{self.kind} noise: nominal rate {self.nominal_rate:.3g}, realised '
                     f'{self.realised_rate:.4f}')
        ax.figure.colorbar(im, ax=ax, label='share of the true class', shrink=.8)
        return ax.figure

    def _write_counts(self, ax):
        n,T = self.counts,self.T_empirical
        for i,j in zip(*np.nonzero(n)):
            color = 'white' if T[i,j] > .65 else 'black'
            ax.text(j, i, n[i,j], ha='center', va='center', fontsize=8, color=color)

class TrueAccuracy(ColumnsCallback):
    "Logs `acc_true`, accuracy against the true labels of a noisy validation set, and `acc_given` if no metric does"
    name = 'true_accuracy'
    n,n_true,n_given = 0,0,0

    def before_fit(self):
        rec = getattr(self.learn.dls, 'noise', None)
        if not isinstance(rec, NoiseRecord):
            raise ValueError("TrueAccuracy expected dls of `add_label_noise` or `NoisyDataBlock`, "
                             "got none. Remove it: their labels are the only ones known.")
        self.active = rec.valid is not None
        if not self.active and fit_starts(self.learn):
            robust_warn("TrueAccuracy: the validation labels of these dls are the true ones: "
                        "nothing to add.")
        super().before_fit()

    def before_validate(self): self.n,self.n_true,self.n_given = 0,0,0

    def after_batch(self):
        if self.training or not self.active: return
        if self.learn.dl is not self.learn.dls.valid: return
        pred,y = flatten_check(self.learn.pred.argmax(-1), self.yb[0])
        ids = batch_idxs(self.learn.dl, self.iter, len(y)).numpy()
        y_clean = self.learn.dls.noise.valid.y_clean
        true = torch.as_tensor(y_clean[ids], device=y.device)
        self.n += len(y)
        self.n_true  += (pred==true).sum().item()
        self.n_given += (pred==y).sum().item()

    def columns(self):
        if not self.active: return {}
        share = lambda k: k/self.n if self.n else float('nan')
        row = {}
        if 'accuracy' not in self.learn.metrics.attrgot('name'):
            row['acc_given'] = share(self.n_given)
        row['acc_true'] = share(self.n_true)
        return row
