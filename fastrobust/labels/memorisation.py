"Seeing a network memorise: training accuracy split by what became of the wrong labels, epoch by epoch"
# The picture is that of Liu et al., Early-Learning Regularization,
# https://arxiv.org/abs/2007.00151, fig. 1.
import math, time
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from fastai.callback.mixup import MixHandler
from fastrobust.basics import batch_idxs, epoch_idxs, robust_warn
from fastrobust.inference.passes import training_pass
from fastrobust.labels.metrics import memorisation_counts, memorised_shares
from fastrobust.reporting.style import GREEN, RIGHT, WRONG, axes_on, legend_below, tidy
from fastrobust.training.recording import ColumnsCallback, fit_starts

__all__ = ['Memorisation', 'plot_memorisation']

def main_metric(learn):
    "Name of the Recorder column to judge `learn` by: 'acc_true' if recorded, else its first metric, else 'valid_loss'"
    names = list(getattr(learn.recorder, 'metric_names', []))
    wanted = ['acc_true']
    for o in learn.metrics[:1]: wanted += [o.name, f'valid_{o.name}']
    return next((o for o in wanted if o in names), 'valid_loss')

def lower_is_better(name):
    "Whether small values of metric `name` are good, by fastai's own rule"
    return 'loss' in name or 'error' in name

# --- one pass over the training set ---------------------------------------------------------------
def _labels(dls, device):
    "Given and true labels and which of them count: an image of no known class (open noise) has no right answer"
    rec = getattr(dls, 'noise', None)
    if rec is None or getattr(rec, 'y_clean', None) is None:
        raise ValueError("expected dls that know the true labels (`dls.noise`), got dls without: "
                         "what is memorised cannot be told from what is learned. Make them with "
                         "add_label_noise or NoisyDataBlock; where nobody knows the true labels, "
                         "leave Memorisation out.")
    labels = rec.y_noisy, rec.y_clean, ~rec.is_open
    return [torch.as_tensor(o).to(device) for o in labels]

def _count(pred, ids, labels):
    if isinstance(pred, (tuple, list)): pred = pred[0]
    if pred.ndim != 2 or len(pred) != len(ids):
        raise ValueError(f"expected one row of logits per image, ({len(ids)},c), got predictions "
                         f"of shape {tuple(pred.shape)}. Memorisation is defined for single-label "
                         "classification.")
    given,true,known = (o[ids.to(o.device)] for o in labels)
    said = pred.detach().argmax(1)
    return memorisation_counts(said[known], given[known], true[known])

def _eval_pass(learn):
    "Counts over the training set"
    labels = _labels(learn.dls, learn.dls.device)
    counts = []
    def see(z, _yb, ids): counts.append(_count(z, _need_ids(ids), labels))
    training_pass(learn, see, 'Memorisation')
    return sum(counts)

def _need_ids(ids):
    if ids is not None: return ids
    raise ValueError("Memorisation expected a training loader whose items have positions, got an "
                     "iterable one. Train from a dataset with `__getitem__`, or remove the "
                     "callback.")

def measure_memorisation(
    learn   # A Learner on dls with `dls.noise`
):
    "`Memorised` shares of the model as it is, over the whole training set without augmentation; changes nothing"
    return memorised_shares(_eval_pass(learn))

# --- the callback ---------------------------------------------------------------------------------
class Memorisation(ColumnsCallback):
    "Records `clean_fit`, `memorised` and `recovered` each epoch of any Learner on dls with known true labels"
    # of the fit under way
    active,from_train = False,True
    counts,labels,idxs = None,None,None
    def __init__(self,
        source:str='train' # 'train': the training batches as they go by, free; 'eval': one more pass each epoch
    ):
        if source not in ('train', 'eval'):
            raise ValueError("`source` must be 'train' (free) or 'eval' (one more pass an epoch), "
                             f"got {source!r}.")
        super().__init__()
        self.source = source
        self.history:list = []
        self.seconds = 0.

    def columns(self):
        if not self.active: return {}
        m = memorised_shares([0]*5 if self.counts is None else self.counts)
        return {k: getattr(m, k) for k in ('clean_fit', 'memorised', 'recovered')}

    def before_fit(self):
        self.active = fit_starts(self.learn) and not hasattr(self.learn, 'lr_finder')
        self.counts = None
        if self.active: self._open()
        super().before_fit()

    def _open(self):
        self.labels = _labels(self.dls, self.dls.device)
        if len(self.labels[0]) != len(self.dls.train_ds):
            raise ValueError(f"expected `dls.noise` of the {len(self.dls.train_ds)} training "
                             f"items, got one of {len(self.labels[0])}. Draw the noise on the very "
                             "dls you train on.")
        mixed = [cb for cb in self.learn.cbs if isinstance(cb, MixHandler)]
        self.from_train = self.source == 'train' and not mixed
        if mixed and self.source == 'train':
            robust_warn(f"{mixed[0].name} trains on mixed images, whose predictions say nothing "
                        "about one label: memorisation is measured by one more pass over the "
                        "training set each epoch instead. `Memorisation('eval')` asks for that "
                        "itself, without this warning.")

    def before_train(self): self.counts,self.idxs = None,None

    def before_batch(self):
        if self.active and self.training and self.idxs is None:
            self.idxs = epoch_idxs(self.dl)

    def after_pred(self):
        if not (self.active and self.training and self.from_train): return
        ids = _need_ids(batch_idxs(self.dl, self.iter, len(self.yb[0]), self.idxs))
        if self.iter == 0: self._check_labels(self.yb[0].as_subclass(torch.Tensor), ids)
        new = _count(self.learn.pred, ids, self.labels)
        self.counts = new if self.counts is None else self.counts + new

    def _check_labels(self, y, ids):
        if y.ndim != 1 or y.is_floating_point(): return
        if (y != self.labels[0][ids].to(y.device)).any():
            raise ValueError("expected the labels of the batch to be those of `dls.noise` at its "
                             "positions, got others: something relabels or reorders them. Draw the "
                             "noise on the dls you train on.")

    def after_validate(self):
        if self.active and not self.from_train:
            t = time.perf_counter()
            self.counts = _eval_pass(self.learn)
            self.seconds += time.perf_counter()-t
        super().after_validate()

    def after_epoch(self):
        if not self.active: return
        names,values = self.recorder.metric_names[1:],list(self.recorder.log)[1:]
        row = dict(zip(names, values))
        self.history.append({k:v for k,v in row.items() if not isinstance(v, str)})
        self.metric = main_metric(self.learn)

    def after_fit(self):
        self.active = False
        self.labels,self.idxs = None,None

    def __getstate__(self):
        passing = 'active', 'counts', 'labels', 'idxs'
        return {k:v for k,v in super().__getstate__().items() if k not in passing}

    @property
    def table(self):
        "Everything recorded, one row per epoch of all fits so far"
        epochs = pd.RangeIndex(1, len(self.history)+1, name='epoch')
        return pd.DataFrame(self.history, index=epochs)

    def plot(self,
        ax=None,           # Axes to draw on
        *,
        figsize=(8, 4.5),  # Size in inches
        title=None         # Above the picture
    )->Figure:
        "The curves beside validation accuracy, the best epoch (known to an oracle only) and the last one marked"
        if not self.history:
            raise ValueError("expected at least one finished epoch to plot, got none. First "
                             "`learn.fit_one_cycle(5)`.")
        return plot_memorisation(self.table, metric=self.metric, ax=ax, figsize=figsize,
                                 title=title)

# --- the picture ----------------------------------------------------------------------------------
_LINES = [('clean_fit', 'right labels fitted', RIGHT, '--'),
          ('memorised', 'wrong labels memorised', WRONG, '-'),
          ('recovered', 'wrong labels seen through', GREEN, '-.')]

_VALID = dict(accuracy='validation accuracy', acc_true='validation accuracy (true labels)')

def _plot_valid(ax, v, label, dot):
    "The validation metric `v` by epoch, its best and its last value marked"
    n = len(v)
    best = int(pd.Series(v).idxmax())
    ax.plot(range(1, n+1), v, color='black', lw=2.5, label=label, **dot)
    mark = dict(ls='', color='black', mec='white', zorder=5, clip_on=False)
    ax.plot(best+1, v[best], marker='*', ms=14, label='best epoch (known to an oracle only)',
            **mark)
    ax.plot(n, v[-1], marker='o', ms=8, label='last epoch', **mark)
    for i in {best, n-1}:
        side = 'right' if i == n-1 and n > 1 else 'center'
        t = ax.annotate(f'{v[i]:.3f}', (i+1, v[i]), (0, 10), textcoords='offset points',
                        fontweight='bold', ha=side, zorder=6)
        t.set_path_effects([withStroke(linewidth=3, foreground='white')])

def plot_memorisation(
    table,               # DataFrame, one row per epoch: clean_fit, memorised, recovered and the `metric`
    *,
    metric='accuracy',   # Validation column to show beside them
    ax=None,             # Axes to draw on
    figsize=(8, 4.5),    # Size in inches
    title=None,          # Above the picture
    legend=True          # Draw one
)->Figure:
    "Memorisation curves beside validation accuracy, the best epoch and the last one marked"
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"expected a table of epochs, got a {type(table).__name__}. Give that of "
                        "`Memorisation` or `SampleHistory`: `learn.memorisation.table`.")
    ax = axes_on(ax, figsize)
    n = len(table)
    dot = dict(marker='.') if n == 1 else {}
    for k,label,color,dash in _LINES:
        if k in table:
            ax.plot(range(1, n+1), table[k], color=color, ls=dash, lw=2, label=label, **dot)
    if metric in table and not lower_is_better(metric) and not table[metric].isna().all():
        _plot_valid(ax, table[metric].to_numpy(), _VALID.get(metric, metric), dot)
    ax.set(xlim=(1, n) if n > 1 else (.5, 1.5), ylim=(0, 1), xlabel='epoch',
           ylabel='share of images', title=title or 'What became of the wrong labels')
    ax.set_xticks(range(1, n+1, max(1, math.ceil(n/10))))
    tidy(ax, 'both', behind=False)
    if legend: legend_below(ax, 2, -.14)
    return ax.figure
