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
        self.y_clean,self.y_noisy = int_labels(y_clean),int_labels(y_noisy)
        if len(self.y_clean) != len(self.y_noisy):
            raise ValueError(f"expected as many given as true labels ({len(self.y_clean)}), got "
                             f"{len(self.y_noisy)}. Pass one of each per sample.")
        self.open_from = np.full(len(self.y_clean), -1) if open_from is None else np.array(open_from, dtype=np.int64)
        self.is_open = self.open_from >= 0 if is_open is None else np.array(is_open, dtype=bool)
        self.images = None  # the foreign images, uint8 tensor (m,c,h,w); never saved
        self.kind,self.nominal_rate,self.T,self.seed,self.sampling = kind,nominal_rate,T,seed,sampling
        self.vocab,self.valid,self.log_true = None if vocab is None else [str(v) for v in vocab],valid,log_true

    @property
    def is_noisy(self): return self.y_clean != self.y_noisy
    @property
    def realised_rate(self): return float(self.is_noisy.mean())
    @property
    def open_rate(self): return float(self.is_open.mean())
    @property
    def n_classes(self):
        if self.T is not None: return len(self.T)
        return len(self.vocab) if self.vocab else int(max(self.y_clean.max(), self.y_noisy.max()))+1
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
        v = f", open-set {self.open_rate:.4f}" if self.is_open.any() else ''
        v += f"; validation labels {self.valid.realised_rate:.4f}" if self.valid is not None else ''
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
        T = None if self.T is None or new.T is None else self.T @ new.T
        if T is None: rate = 1 - (1-self.nominal_rate)*(1-new.nominal_rate)
        else: rate = float(1 - np.diag(T)[self.y_clean].mean())
        res = NoiseRecord(self.y_clean, new.y_noisy, f'{self.kind}+{new.kind}', rate, T=T, seed=[self.seed, new.seed],
                          is_open=self.is_open | new.is_open, vocab=self.vocab or new.vocab,
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
        new.y_noisy,new.T = int_labels(y),None
        if (new.y_noisy != self.y_noisy).any() and not self.kind.endswith('edited'):
            new.kind = f'{self.kind}+edited'
        return new

    def save(self,
        fname,      # CSV to write: item,label,label_noisy,is_open,split,open_from; first a comment line with the law
        items=None  # Names for the column `item`, one per training sample; None: positions
    ):
        "Write a CSV from which `load` gives back exactly this record"
        if items is not None and len(items) != len(self):
            raise ValueError(f"expected {len(self)} items, got {len(items)}. Pass one name per training sample.")
        law = 'kind', 'nominal_rate', 'seed', 'sampling', 'vocab', 'log_true'
        head = {k: getattr(self, k) for k in law}
        head['T'] = None if self.T is None else np.asarray(self.T).tolist()
        if self.valid is not None: head['valid'] = {k: getattr(self.valid, k) for k in law}
        with open(fname, 'w', newline='', encoding='utf-8') as f:
            f.write('# fastrobust ' + json.dumps(head) + '\n')
            w = csv.writer(f)
            w.writerow(['item', 'label', 'label_noisy', 'is_open', 'split', 'open_from'])
            for nm,r in (('train', self), ('valid', self.valid)):
                if r is None: continue
                names = items if nm == 'train' and items is not None else range(len(r))
                cols = zip(names, r.y_clean, r.y_noisy, r.is_open, r.open_from)
                w.writerows([n, a, b, int(o), nm, j] for n,a,b,o,j in cols)

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
            head,rows = json.loads(first[len('# fastrobust '):]),list(csv.DictReader(f))
        valid,T = head.pop('valid', None),head.pop('T')
        T = None if T is None else np.array(T)
        def part(split, **kw):
            rs = [r for r in rows if r['split'] == split]
            cols = [[int(r.get(k, -1)) for r in rs] for k in ('label', 'label_noisy', 'is_open', 'open_from')]
            return cls(cols[0], cols[1], is_open=cols[2], T=T, open_from=cols[3], **kw)
        return part('train', valid=None if valid is None else part('valid', **valid), **head)

    def plot(self,
        ax=None,        # Axes to draw on
        *,
        figsize=None    # Size in inches; None: grows with the number of classes
    )->Figure:
        "Realised noise matrix, with counts where there is room"
        c,T,n = self.n_classes,self.T_empirical,self.counts
        side = max(4.5, .55*c+2.5) if c <= 20 else 8.
        ax = axes_on(ax, figsize or (side+1, side))
        im = ax.imshow(T, cmap='Blues', vmin=0, vmax=1)
        for i,j in zip(*np.nonzero(n)) if c <= 20 else ():
            ax.text(j, i, n[i,j], ha='center', va='center', fontsize=8, color='white' if T[i,j] > .65 else 'black')
        if c <= 40:
            names = self.vocab or range(c)
            ax.set_xticks(range(c), names, rotation=90)
            ax.set_yticks(range(c), names)
        ax.set(xlabel='given label', ylabel='true label')
        ax.set_title(f'{self.kind} noise: nominal rate {self.nominal_rate:.3g}, realised '
                     f'{self.realised_rate:.4f}')
        ax.figure.colorbar(im, ax=ax, label='share of the true class', shrink=.8)
        return ax.figure

class TrueAccuracy(ColumnsCallback):
    "Logs `acc_true`, accuracy against the true labels of a noisy validation set, and `acc_given` if no metric does"
    name,n,n_true,n_given = 'true_accuracy',0,0,0

    def before_fit(self):
        rec = getattr(self.learn.dls, 'noise', None)
        if not isinstance(rec, NoiseRecord):
            raise ValueError("TrueAccuracy expected dls of `add_label_noise` or `NoisyDataBlock`, "
                             "got none. Remove it: their labels are the only ones known.")
        self.active = rec.valid is not None
        if not self.active and fit_starts(self.learn):
            robust_warn("TrueAccuracy: the validation labels of these dls are the true ones: nothing to add.")
        super().before_fit()

    def before_validate(self): self.n,self.n_true,self.n_given = 0,0,0

    def after_batch(self):
        if self.training or not self.active or self.learn.dl is not self.learn.dls.valid: return
        pred,y = flatten_check(self.learn.pred.argmax(-1), self.yb[0])
        ids = batch_idxs(self.learn.dl, self.iter, len(y))
        true = torch.as_tensor(self.learn.dls.noise.valid.y_clean[ids.numpy()], device=y.device)
        self.n += len(y)
        self.n_true  += (pred==true).sum().item()
        self.n_given += (pred==y).sum().item()

    def columns(self):
        if not self.active: return {}
        share = lambda k: k/self.n if self.n else float('nan')
        given = {} if 'accuracy' in self.learn.metrics.attrgot('name') else {'acc_given': share(self.n_given)}
        return {**given, 'acc_true': share(self.n_true)}
