"Accuracy by class and by group of classes: what plain accuracy hides where classes differ in size"
import numpy as np
import torch
from fastai.learner import Metric
from fastrobust.data.longtail import class_counts, head_mid_tail

__all__ = []

def _pair(pred, y, c):
    "Predicted and true classes as int64 arrays, checked"
    as_np = lambda o: np.asarray(o.detach().cpu() if hasattr(o, 'detach') else o)
    pred,y = as_np(pred),as_np(y)
    if pred.ndim == 2: pred = pred.argmax(1)
    paired = pred.ndim == 1 and pred.shape == y.shape and len(y)
    if not paired or pred.dtype.kind not in 'iu' or y.dtype.kind not in 'iu':
        raise ValueError("expected predicted classes (n,) or logits (n,c) and labels (n,), n >= 1, "
                         f"got {pred.dtype} {pred.shape} and {y.dtype} {y.shape}. Labels are ints, "
                         "positions in the vocab.")
    lo = min(pred.min(), y.min())
    hi = max(pred.max(), y.max())
    if lo < 0 or hi >= c:
        raise ValueError(f"expected classes in 0..{c-1}, got {lo} to {hi}. Are the classes those "
                         "of the training?")
    return pred.astype(np.int64),y.astype(np.int64)

def class_accuracy(
    pred,   # Predicted classes (n,), or logits or probabilities (n,c)
    y,      # Labels (n,), positions in the vocab
    c:int   # Number of classes
) -> tuple: # (accuracy float64 (c,), its standard error float64 (c,), images int64 (c,)); NaN where there are too few
    "Share of each class's images that is recognised; its standard error sqrt(a(1-a)/(n-1))"
    pred,y = _pair(pred, y, c)
    return class_means(pred == y, y, c)

def class_means(v, y, c):
    "Mean of `v` (n,) over the items of each class, its standard error, and how many there are"
    v = np.asarray(v, dtype=np.float64)
    n = np.bincount(y, minlength=c)
    with np.errstate(invalid='ignore', divide='ignore'):
        m = np.bincount(y, v, c)/n
        var = np.bincount(y, (v-m[y])**2, c)/(n-1)
        se = np.where(n > 1, np.sqrt(var/n), np.nan)
    return m,se,n

def group_accuracy(
    acc,    # Accuracy of each class (c,); NaN: no images of it
    se,     # Standard error of each (c,)
    ids     # Positions of the classes of the group
) -> tuple: # (float, float); NaN for a group without images
    "Mean over classes and its standard error sqrt(sum se^2)/m over images: balanced accuracy of a group"
    acc,se = np.asarray(acc),np.asarray(se)
    ids = np.asarray(ids, dtype=np.int64)
    ids = ids[~np.isnan(acc[ids])]
    if not len(ids): return float('nan'),float('nan')
    mean = np.mean(acc[ids])
    mean_se = np.sqrt((se[ids]**2).sum())/len(ids)
    return float(mean),float(mean_se)

# --- in the progress table ------------------------------------------------------------------------
class TailAccuracy(Metric):
    "Mean accuracy over some of the classes, each counted alike"
    def __init__(self,
        ids,        # Positions of the classes in the vocab
        name        # Column in the progress table
    ):
        self.ids = [int(i) for i in ids]
        self._name = name
        if not self.ids:
            raise ValueError(f"expected at least one class for {name!r}, got none. Leave this "
                             "metric out.")
        self.reset()

    def reset(self): self.hits,self.n = torch.zeros(2, len(self.ids), dtype=torch.long)

    def accumulate(self, learn):
        pred = learn.pred.argmax(-1).flatten()
        y = learn.y.flatten()
        mine = y.as_subclass(torch.Tensor).cpu()[:, None] == torch.tensor(self.ids)
        right = (pred == y).as_subclass(torch.Tensor).cpu()[:, None]
        self.hits += (mine & right).sum(0)
        self.n += mine.sum(0)

    @property
    def value(self):
        seen = self.n > 0
        if not seen.any(): return None
        return (self.hits[seen]/self.n[seen]).mean().item()
    @property
    def name(self): return self._name

def tail_accuracy(
    dls,                # DataLoaders whose training items are counted
    groups='thirds'     # As in `head_mid_tail`: 'thirds', or sizes such as (100, 20)
) -> list: # `TailAccuracy` metrics, of the groups that have classes
    "Metrics head_acc, mid_acc, tail_acc: `metrics=[accuracy, BalancedAccuracy(), *tail_accuracy(dls)]`"
    found = head_mid_tail(class_counts(dls), groups)
    return [TailAccuracy(ids, f'{k}_acc') for k,ids in found.items() if len(ids)]
