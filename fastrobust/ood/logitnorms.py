"The norm of the logits through training, of known and unknown images: what LogitNorm keeps small and others let grow"
# Why to look: Wei et al., Mitigating Neural Network Overconfidence with Logit Normalization,
# arxiv.org/abs/2205.09310
import copy, math
import numpy as np, pandas as pd
import torch
from matplotlib.figure import Figure
from fastrobust.basics import need_whole, robust_warn
from fastrobust.inference.collect import collect
from fastrobust.ood.charts import KNOWN, set_look
from fastrobust.reporting.style import axes_on, legend_below, tidy, whole_numbers
from fastrobust.training.recording import ColumnsCallback, fit_starts

__all__ = ['LogitNorms']

_QUANTILES = dict(q5=.05, q25=.25, median=.5, q75=.75, q95=.95)

def logit_norm_quantiles(
    z           # Raw logits (n,c), n >= 1
)->dict:        # Name (q5, q25, median, q75, q95) -> quantile
    "Quantiles over the images of ||z||_2, in float64: norms of half precision overflow"
    if z.ndim != 2 or not len(z):
        raise ValueError("expected a row of logits per image, (n,c), n >= 1, got shape "
                         f"{tuple(z.shape)}. Give the network some images.")
    n = z.detach().double().norm(dim=1).cpu().numpy()
    q = np.quantile(n, list(_QUANTILES.values()))
    return dict(zip(_QUANTILES, map(float, q)))

class LogitNorms(ColumnsCallback):
    "Records after each epoch how large the raw logits are, on the validation set and on unknown images"
    active,row = False,None     # of the fit under way
    def __init__(self,
        unknown=None,   # Images of no class: array (n,h,w[,c]), fastai DataLoader, or a dict from name to them
        *,
        every:int=1     # Record each so many epochs
    ):
        need_whole('every', every, 1, what='epochs', fix='1 records each.')
        if unknown is None: sets = {}
        elif isinstance(unknown, dict): sets = dict(unknown)
        else: sets = {'unknown': unknown}
        bad = [k for k in sets if not isinstance(k, str) or not k or k == 'known']
        if bad:
            raise ValueError("expected names other than 'known' for the unknown sets, got "
                             f"{bad[0]!r}. That is what the validation set is called: rename it.")
        super().__init__()
        self.unknown,self.every = sets,every
        self.sets = ['known', *sets]
        self.history:list = []
        self.n_epochs = 0

    def columns(self):
        if not self.active: return {}
        row = self.row or {}
        return {f'norm_{k}': row.get(k, {}).get('median', math.nan) for k in self.sets}

    def before_fit(self):
        self.active = fit_starts(self.learn) and not hasattr(self.learn, 'lr_finder')
        self.row = None
        if self.active: self._open()
        super().before_fit()

    def _open(self):
        if len(self.dls.loaders) < 2 or not len(self.dls.valid_ds):
            raise ValueError("LogitNorms expected dls with a validation set, got none: the norms "
                             "of training images say little. Split some images off.")
        # what cannot be used is refused before an epoch is spent
        for v in self.unknown.values():
            if isinstance(v, (np.ndarray, torch.Tensor)): v = v[:2]
            self._norms(v)
        gone = [k for k in self.sets[1:] if k not in self.unknown]
        if gone:
            robust_warn(f"LogitNorms has lost its unknown images ({', '.join(gone)}): they are not "
                        "part of an exported learner. Only the validation set is recorded; for "
                        "both, give it `LogitNorms(unknown)`.")

    def _norms(self, data):
        return logit_norm_quantiles(collect(self.learn, data, 'LogitNorms').z)

    @property
    def due(self): return (self.n_epochs+1) % self.every == 0

    def before_train(self): self.row = None

    def after_validate(self):
        if self.active and self.due:
            data = {'known': self.dls.valid, **self.unknown}
            # training that diverged goes on
            alive = all(p.isfinite().all() for p in self.model.parameters())
            if alive: self.row = {k: self._norms(v) for k,v in data.items()}
            else: self.row = {k: dict.fromkeys(_QUANTILES, math.nan) for k in data}
        super().after_validate()

    def after_epoch(self):
        if not self.active: return
        self.n_epochs += 1
        for k,q in (self.row or {}).items():
            self.history.append(dict(epoch=self.n_epochs, set=k, **q))

    def after_fit(self): self.active,self.row = False,None

    def __getstate__(self):
        return {**super().__getstate__(), 'unknown': {}, 'active': False, 'row': None}

    def __deepcopy__(self, memo):   # the images are shared: a copy of a learner is no export
        new = object.__new__(type(self))
        memo[id(self)] = new
        for k,v in vars(self).items():
            if k != 'unknown': v = copy.deepcopy(v, memo)
            new.__dict__[k] = v
        return new

    @property
    def table(self):
        "Quantiles of the norms, one row per recorded epoch of all fits so far and set: 'known', then the unknown ones"
        t = pd.DataFrame(self.history, columns=['epoch', 'set', *_QUANTILES])
        return t.set_index(['epoch', 'set'])

    def plot(self, **kwargs)->Figure:
        "Norms through training, `kwargs` of `plot_logit_norms`"
        return plot_logit_norms(self.table, **kwargs)

def _need_table(table):
    "The table of `LogitNorms`, refused where it is none or empty"
    t = getattr(table, 'table', table)
    ok = isinstance(t, pd.DataFrame) and t.index.names == ['epoch', 'set']
    if not ok or set(_QUANTILES)-set(t.columns):
        raise TypeError("expected `table` as LogitNorms records it, got "
                        f"{type(table).__name__}. Pass the callback.")
    if not len(t):
        raise ValueError("expected at least one recorded epoch, got none. First "
                         "`learn.fit_one_cycle(5)`.")
    return t

def _bands(n_sets):
    "Lower and upper quantile of each band, how opaque it is, and how wide as a line"
    middle = 'q25','q75',.22,5
    # many wide ones hide each other
    return [middle] if n_sets > 2 else [('q5', 'q95', .1, 1.5), middle]

def plot_logit_norms(
    table,            # `LogitNorms`, or its `table`
    *,
    ax=None,          # Axes to draw on
    figsize=(8, 4.8), # Size in inches
    log=None,         # Logarithmic axis; None: where the norms differ by a factor of 30 or more
    title=None        # Above the picture
)->Figure:
    "Median and the middle 50 % and 90 % of the norm of the logits, epoch by epoch, known against unknown"
    t = _need_table(table)
    ax = axes_on(ax, figsize)
    epochs = t.index.get_level_values('epoch').unique()
    sets = t.index.get_level_values('set').unique()
    # one epoch has no bands: lines beside each other instead
    alone = len(epochs) == 1
    bands = _bands(len(sets))
    marker = 'o' if len(epochs) <= 25 else None

    for i,k in enumerate(sets):
        rows = t.xs(k, level='set')
        look = dict(color=KNOWN, ls='-') if k == 'known' else set_look(i-1)
        x = rows.index.to_numpy() + .04*i*alone
        for a,b,alpha,w in bands:
            lo,hi = rows[a],rows[b]
            if alone: ax.vlines(x, lo, hi, color=look['color'], lw=w, alpha=.5)
            else: ax.fill_between(x, lo, hi, color=look['color'], alpha=alpha, lw=0)
        ax.plot(x, rows['median'], lw=2.2, label=k, marker=marker, ms=4, **look)

    v = t[list(_QUANTILES)].to_numpy()
    v = v[np.isfinite(v) & (v > 0)]
    if log is None: log = bool(len(v)) and v.max() >= 30*v.min()
    if log: ax.set_yscale('log')
    else: ax.set_ylim(0, None)
    ax.set(xlabel='epoch', ylabel='norm of the logits',
           title=title or 'How large the logits become')
    if alone:
        ax.set(xlim=(epochs[0]-.5, epochs[0]+.5), xticks=epochs)
    else:
        ax.set_xlim(epochs[0], epochs[-1])
        whole_numbers(ax.xaxis)
    tidy(ax, behind=False)
    what = 'median, middle 50 %'
    if len(bands) > 1: what += ' and 90 %'
    legend_below(ax, 4, -.14, title=what)
    return ax.figure
