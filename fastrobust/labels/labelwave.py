"Label Wave: early stopping without validation data, where predictions begin to change more again"
# Yuan, Feng, Liu, Early Stopping Against Label Noise Without Validation Data,
# https://arxiv.org/abs/2502.07551
import copy
import numpy as np
import torch
import torch.distributed as dist
from matplotlib.figure import Figure
from fastai.callback.core import Callback, CancelFitException
from fastai.callback.schedule import ParamScheduler
from fastai.callback.tracker import EarlyStoppingCallback
from fastai.imports import noop
from fastai.torch_core import get_model, num_distrib, rank_distrib
from fastrobust.basics import need_whole, robust_warn
from fastrobust.labels.history import SampleHistory
from fastrobust.reporting.style import BLUE, DARK, GREY, axes_on, legend_below, tidy, whole_numbers
from fastrobust.training.recording import QuickEvents, fit_starts

__all__ = ['LabelWave']

# --- the curve ------------------------------------------------------------------------------------
def moving_average(
    values,     # Of each epoch (epochs,); NaN: not known
    k           # Epochs in the window, the last one and those before it
):              # float64 (epochs,); NaN where the window is not full
    "Eq. (3) of the paper: the mean of the last `k` values"
    v = np.asarray(values, dtype=float)
    means = np.full(len(v), np.nan)
    for i in range(k-1, len(v)): means[i] = v[i-k+1:i+1].mean()
    return means

def first_minimum(
    values,     # Of each epoch (epochs,); NaN: not known, passed over
    patience    # So many values after it, none below it, confirm a minimum
)->tuple:       # (its position, None: no value yet; whether it is confirmed)
    "Algorithm 1 of the paper: the lowest value until `patience` after it have not undercut it"
    best,waited = None,0
    for i,v in enumerate(values):
        if np.isnan(v): continue
        if best is None or v < values[best]: best,waited = i,0
        else: waited += 1
        if waited == patience: return best,True
    return best,False

def changed_share(before, now):
    "Eq. (2), as a share of the items seen both times (-1: not seen); NaN where there are none"
    both = (before >= 0) & (now >= 0)
    return float((before != now)[both].mean()) if both.any() else np.nan

def _of_all_ranks(preds):
    "Of several processes each knows the items it saw; together they know all, and decide alike"
    if num_distrib() < 2: return preds
    t = torch.tensor(preds)
    if dist.get_backend() == 'nccl': t = t.cuda()
    dist.all_reduce(t, dist.ReduceOp.MAX)
    return t.cpu().numpy()

def _end_of_schedule(learn):
    "What is left at the end of a fit of the largest learning rate; 1 where no schedule is known"
    left = 1.
    for cb in learn.cbs:
        if not isinstance(cb, ParamScheduler) or 'lr' not in cb.scheds: continue
        lrs = [np.mean(cb.scheds['lr'](p)) for p in np.linspace(0, 1, 21)]
        left = min(left, lrs[-1]/max(lrs))
    return left

# --- the callback ---------------------------------------------------------------------------------
class LabelWave(QuickEvents, Callback):
    """Stops training at the first local minimum (eq. 4) of the prediction changes, the share of training items whose
    class is predicted otherwise than the epoch before (https://arxiv.org/abs/2502.07551, eq. 2), averaged over `k`
    epochs (eq. 3) and confirmed by `patience` more (algorithm 1). Weights and optimizer are then put back as they were
    after that epoch. No other data are needed; predictions come from the learner's `SampleHistory`, if it has one.

    Train at a constant rate, as the paper does: `learn.fit(30, 1e-3, cbs=LabelWave())`. Where it anneals, predictions
    settle whatever the labels. Where few labels are wrong there may be no minimum (appendix C.3). Each fit is its own;
    what techniques remember of items is not put back"""
    # stops, as fastai's EarlyStopping, when all others have seen the epoch, and puts weights back
    # after a SaveModelCallback has put back its own
    order = EarlyStoppingCallback.order+1
    # of the fit under way
    active,sure,before,kept,n_rows = False,False,None,None,0

    def __init__(self,
        # Epochs of the moving average; 1: none. Both 3 are from seeds 10-12 of
        # nbs/benchmarks/label_wave.py: the paper names no patience
        k:int=3,
        patience:int=3,     # Epochs in a row not below the minimum that confirm it
        restore:bool=True,  # Put the chosen epoch back? Keeps a copy of weights and optimizer state
        stop:bool=True,     # Stop when confirmed? False: train to the end, the choice is the same
        *,
        source:str='train'  # Of its own SampleHistory: 'train', as the authors' code, or 'eval'
    ):
        need_whole('k', k, 1, what='epochs', fix='3 averages over three; 1 does not average.')
        need_whole('patience', patience, 1, what='epochs', fix='3 waits for three.')
        self.own = SampleHistory(source)
        super().__init__()
        self.k,self.patience,self.restore,self.stop = k,patience,restore,stop
        self.shares:list = []

    # its own history belongs to whatever learner this belongs to, but is not among its callbacks
    @property
    def learn(self): return self.__dict__.get('_learn')
    @learn.setter
    def learn(self, learn):
        self.__dict__['_learn'] = learn
        self.own.learn = learn

    @property
    def history(self):
        "The `SampleHistory` of the learner, or its own, which knows the last fit"
        cbs = [] if self.learn is None else self.learn.cbs
        return next((cb for cb in cbs if isinstance(cb, SampleHistory)), self.own)

    # --- what it tells ----------------------------------------------------------------------------
    @property
    def changes(self):
        "Share of items predicted otherwise than the epoch before, of the last fit (epochs,); first: NaN"
        return np.array(self.shares, dtype=float)
    @property
    def smoothed(self):
        "Mean of the last `k` changes (epochs,); NaN where there are not so many"
        return moving_average(self.changes, self.k)
    @property
    def epoch(self):
        "The epoch chosen, from 0 on as in the progress table; None: too few epochs"
        return first_minimum(self.smoothed, self.patience)[0]

    # --- of a fit ---------------------------------------------------------------------------------
    def __call__(self, event_name):
        "Its own history hears of all that happens in a fit; neither hears of `get_preds` inside it"
        if self.active and event_name != 'before_fit':
            if not fit_starts(self.learn): return None
            if self.history is self.own: self.own(event_name)
        return super().__call__(event_name)

    def before_fit(self):
        if not fit_starts(self.learn): return
        self.active = not hasattr(self.learn, 'lr_finder')
        if not self.active: return
        h = self.history
        if h is self.own:
            h.reset()
            h('before_fit')
        elif h.every != 1:
            raise ValueError("LabelWave expected a SampleHistory of each epoch (every=1), got "
                             f"every={h.every}. Record each, or leave it out: LabelWave has one.")
        self.shares,self.n_rows = [],len(h.rows)
        self.before,self.kept,self.sure = None,None,False
        left = _end_of_schedule(self.learn)
        if left < .5 and not self._first_half:
            robust_warn("LabelWave beside a schedule whose learning rate ends at "
                        f"{left:.2g} of its largest: predictions settle with it, whatever the "
                        "labels, so a minimum says little. Train at a constant rate: "
                        "`learn.fit(30, 1e-3, cbs=LabelWave())`.")

    @property
    def _first_half(self):
        "Whether this is the short frozen half of `fine_tune`"
        return getattr(self.learn.opt, 'frozen_idx', 0) > 0 and self.learn.n_epoch <= self.k

    def after_epoch(self):
        if not self.active: return
        e = len(self.shares)
        self.shares.append(self._changed())
        if not self.sure:
            best,self.sure = first_minimum(self.smoothed, self.patience)
            if best == e and self.restore: self.kept = self._copy()
            if self.sure and self.stop: raise CancelFitException()
        if e+1 == self.learn.n_epoch: self._put_back()

    def _changed(self):
        "`changed_share` of the epoch that ends; NaN for the first, and for one that was skipped"
        rows = self.history.rows
        if len(rows) == self.n_rows: return np.nan
        self.n_rows = len(rows)
        now,before = _of_all_ranks(rows[-1]['preds']),self.before
        self.before = now
        return np.nan if before is None else changed_share(before, now)

    def _copy(self):
        return copy.deepcopy((get_model(self.learn.model).state_dict(), self.learn.opt.state_dict()))

    def _put_back(self):
        if self.kept is None: return
        model,opt = self.kept
        get_model(self.learn.model).load_state_dict(model)
        self.learn.opt.load_state_dict(opt)
        self.learn.opt.zero_grad()

    # so early for those that save a model when the fit is over
    def after_cancel_fit(self):
        if self.active: self._put_back()

    def after_fit(self):
        if not self.active: return
        self._put_back()
        self.active = False
        self._say()
        self.before,self.kept = None,None

    def _say(self):
        "What was chosen, or why that says little"
        e,n = self.epoch,len(self.shares)
        back = 'whose weights are back' if self.restore else 'the weights are those of the last'
        if self.sure:
            if self.learn.logger is noop or rank_distrib(): return
            print(f"Label Wave: prediction changes have their first minimum in epoch {e}, {back}")
        elif self._first_half: return
        elif e is None:
            robust_warn(f"LabelWave chose no epoch: a mean of {self.k} changes takes {self.k+1} "
                        f"epochs, and this fit had {n}. Train longer.")
        elif e == n-1:
            robust_warn(f"LabelWave saw no minimum in {n} epochs, prediction changes still fell: "
                        "the weights are those of the last epoch. Train longer; where few labels "
                        "are wrong there may be none.")
        else:
            robust_warn(f"LabelWave saw the fewest prediction changes in epoch {e}, {back}, and "
                        f"only {n-1-e} of {self.patience} epochs (`patience`) to confirm it. Train "
                        "longer to be sure.")

    def __getstate__(self):
        passing = 'active', 'before', 'kept', 'n_rows'
        return {k:v for k,v in super().__getstate__().items() if k not in passing}

    # --- the picture ------------------------------------------------------------------------------
    def plot(self,
        ax=None,           # Axes to draw on
        *,
        figsize=(8, 4),    # Size in inches
        title=None         # Above the picture
    )->Figure:
        "Prediction changes by epoch, their moving average and the epoch chosen"
        c,s,e = self.changes,self.smoothed,self.epoch
        if np.isnan(c).all():
            raise ValueError(f"expected at least two epochs to plot, got {len(c)}. First "
                             "`learn.fit(30, 1e-3)`.")
        ax = axes_on(ax, figsize)
        x = np.arange(len(c))
        ax.plot(x, 100*c, '.-', color=GREY, lw=1, label='from one epoch to the next')
        ax.plot(x, 100*s, color=BLUE, lw=2.5, label=f'mean of {self.k}')
        if e is not None:
            name = 'first minimum' if self.sure else 'lowest so far'
            ax.axvline(e, color=DARK, lw=1, ls='--')
            ax.plot(e, 100*s[e], 'o', color=DARK, mec='white', zorder=5, label=f'{name}: epoch {e}')
        ax.set(xlabel='epoch', ylabel='predictions changed (%)', ylim=(0, None),
               title=title or 'When predictions begin to change more')
        whole_numbers(ax.xaxis)
        tidy(ax, 'both', behind=False)
        legend_below(ax, 3)
        return ax.figure
