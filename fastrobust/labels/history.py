"What every training item did, epoch by epoch: its loss, its margin, what was predicted for it"
import time
import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.callback.mixup import MixHandler
from fastai.learner import Recorder
from fastrobust.basics import as_f32, batch_idxs, epoch_idxs, need_whole, robust_warn
from fastrobust.data.reading import other_target
from fastrobust.inference.passes import training_pass
from fastrobust.labels.metrics import label_margin
from fastrobust.labels.recorded import Recorded
from fastrobust.training.recording import QuickEvents, fit_starts, is_export

__all__ = ['SampleHistory']

class SampleHistory(Recorded, QuickEvents, Callback):
    "Keeps cross-entropy, margin and prediction of every training item, epoch by epoch, of any single-label Learner"
    # behind MixedPrecision, the techniques and the Recorder: by then
    # there is one float32 prediction for the batch
    order = Recorder.order+1
    # logits put aside before they are turned into numbers, many batches at a time
    hold = 2**20
    # of the fit under way
    active,from_train = False,True
    batches,walk = None,None
    facts:list = []

    def __init__(self,
        # 'train': from training batches as they go by (augmented, weights on the move), free;
        # 'eval': one more pass each time, validation transforms, evaluation mode
        source:str='train',
        *,
        every:int=1         # Record each so many epochs
    ):
        if source not in ('train', 'eval'):
            raise ValueError("`source` must be 'train' (free) or 'eval' (one more pass an epoch), "
                             f"got {source!r}.")
        need_whole('every', every, 1, what='epochs', fix='1 records each.')
        super().__init__()
        self.source,self.every = source,every
        self.reset()

    def reset(self):
        "Forget what was recorded"
        self.rows,self.epochs,self.n_epochs = [],[],0
        self.given = None
        self.seconds = 0.

    # --- recording --------------------------------------------------------------------------------
    def before_fit(self):
        self.active = fit_starts(self.learn) and not hasattr(self.learn, 'lr_finder')
        self.batches = None
        if not self.active: return
        if other := other_target(self.dls.train_ds):
            raise ValueError(f"SampleHistory expected one single-label target, got {other}. It is "
                             "defined for single-label classification: leave it out here.")
        n = len(self.dls.train_ds)
        if self.given is not None and len(self.given) != n:
            raise ValueError(f"expected the {len(self.given)} training items recorded so far, got "
                             f"{n}. Call `reset()` to forget those, or give the new items a "
                             "SampleHistory of their own.")
        mixed = [cb.name for cb in self.learn.cbs if isinstance(cb, MixHandler)]
        self.from_train = self.source == 'train'
        if mixed:
            self._by_pass(f"{mixed[0]} trains on mixed images, whose predictions say nothing about "
                          "one label")

    def _by_pass(self, why):
        if self.from_train:
            robust_warn(f"{why}: SampleHistory looks at the items in one more pass over the "
                        "training set instead. `SampleHistory('eval')` asks for that itself, "
                        "without this warning.")
        self.from_train = False

    def before_train(self):
        self.batches,self.facts = [],[]
        self.walk = None

    def before_batch(self):
        if not (self.active and self.training and self.iter == 0): return
        self.walk = epoch_idxs(self.dl)     # a later iteration over the same loader replaces it
        if self.walk is None:
            self._by_pass("this loader sorts or streams, so a batch does not tell its items")

    @property
    def due(self): return (self.n_epochs+1) % self.every == 0

    def after_pred(self):
        if not (self.active and self.training): return
        if self.iter == 0: _check(self.learn.pred, self.yb)
        if self.from_train and self.due:
            ids = batch_idxs(self.dl, self.iter, len(self.learn.pred), self.walk)
            self._see(self.learn.pred, self.yb, ids)

    def _see(self, z, yb, ids):
        "Put a batch aside: no waiting for the device, no operations on small tensors"
        if ids is None:
            raise ValueError("SampleHistory expected a training loader whose items have positions, "
                             "got an iterable one. Train from a dataset with `__getitem__`, or "
                             "leave it out.")
        self.batches.append((ids, z.detach().clone(), yb[0].reshape(-1)))
        if len(self.batches)*z.numel() > self.hold: self._digest()

    @torch.no_grad()
    def _digest(self):
        ids,z,y = (torch.cat(o).as_subclass(torch.Tensor) for o in zip(*self.batches))
        self.batches = []
        z,y = as_f32(z),y.long()
        loss = z.logsumexp(1) - z.gather(1, y[:,None])[:,0]
        self.facts.append((ids, y, loss, label_margin(z, y), z.argmax(1)))

    def after_epoch(self):
        if not self.active or self.batches is None: return      # an epoch that was skipped
        t = time.perf_counter()
        if self.due:
            if not self.from_train: training_pass(self.learn, self._see, 'SampleHistory')
            if self.batches: self._digest()
            if self.facts:
                facts = [torch.cat(o).cpu().numpy() for o in zip(*self.facts)]
                self._keep(*facts)
        self.batches,self.facts = None,[]
        self.seconds += time.perf_counter()-t
        self.n_epochs += 1

    def _keep(self, ids, y, loss, margin, pred):
        n = len(self.dls.train_ds)
        given = np.full(n, -1) if self.given is None else self.given
        other = (given[ids] >= 0) & (given[ids] != y)
        if other.any():
            raise ValueError("expected the labels recorded so far, got others for "
                             f"{int(other.sum())} items: something relabels or reorders them. Call "
                             "`reset()` after changing labels.")
        given[ids] = y
        self.given = given
        losses = np.full(n, np.nan, np.float32)
        losses[ids] = loss
        margins = np.full(n, np.nan, np.float32)
        margins[ids] = margin
        preds = np.full(n, -1, np.int32)
        preds[ids] = pred
        self.rows.append(dict(losses=losses, margins=margins, preds=preds))
        self.epochs.append(self.n_epochs+1)

    def after_fit(self):
        self.active = False
        self.batches,self.facts,self.walk = None,[],None

    def __getstate__(self):
        passing = 'active', 'batches', 'facts', 'walk'
        state = {k:v for k,v in super().__getstate__().items() if k not in passing}
        if is_export(self.learn): state.update(rows=[], epochs=[], given=None, n_epochs=0)
        return state

# --- one batch ------------------------------------------------------------------------------------
def _check(pred, yb):
    "Refuse at the first batch what has no single label"
    y = yb[0] if len(yb) == 1 else None
    logits = isinstance(pred, torch.Tensor) and pred.ndim == 2 and pred.shape[1] > 1
    if logits and y is not None:
        if not y.is_floating_point() and y.numel() == len(pred): return
    got = f"{len(yb)} targets" if y is None else f"labels {tuple(y.shape)} of {y.dtype}"
    raise ValueError("SampleHistory expected one whole-number label per item and logits (bs,c), "
                     f"got {got} and predictions {tuple(getattr(pred, 'shape', ()))}. It is "
                     "defined for single-label classification: leave it out here.")
