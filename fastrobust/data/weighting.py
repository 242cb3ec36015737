"Items of unequal weight, drawn more or less often by the loader; for weights in the loss see `SampleWeights`"
import copy
import numpy as np
from fastai.data.core import DataLoaders, TfmdDL
from fastai.tabular.core import TabDataLoader
from fastrobust.basics import robust_warn
from fastrobust.data.arrays import ArrayDL
from fastrobust.data.editing import given_labels
from fastrobust.resting import keep_random

__all__ = ['weighted_dls']

# --- the weights ----------------------------------------------------------------------------------
def _as_weights(w):
    if hasattr(w, 'detach'): w = w.detach().cpu().numpy()
    w = np.asarray(w)
    if w.ndim != 1 or w.dtype.kind not in 'fiub':
        raise ValueError(f"expected weights (n,), got {w.dtype} of shape {w.shape}. Give one "
                         "number per training item, or 'balanced'.")
    w = w.astype(np.float64)
    bad = np.flatnonzero(~(np.isfinite(w) & (w >= 0)))
    if len(bad):
        raise ValueError(f"expected finite weights >= 0, got {w[bad[0]]} at {bad[0]} ({len(bad)} "
                         "such). A weight of 0 leaves an item out.")
    if not w.sum() > 0:
        raise ValueError("expected at least one weight > 0, got none. Nothing would be learned.")
    return w

def item_weights(
    dls,    # DataLoaders with one single-label target
    w       # Weights (n,) by position in `dls.train_ds`, finite, >= 0; or 'balanced': 1/size of the item's class
) -> np.ndarray: # (n,) float64
    "Weights of the training items, checked"
    if isinstance(w, str):
        if w != 'balanced':
            raise ValueError(f"expected weights (n,) or 'balanced', got {w!r}. Give one of the "
                             "two.")
        y = given_labels(dls)
        return 1/np.bincount(y)[y]
    w = _as_weights(w)
    n = len(dls.train_ds)
    if len(w) != n:
        raise ValueError(f"expected one weight for each of the {n} training items, got {len(w)}. "
                         "Weights go by position in `dls.train_ds`: of a part of the items take "
                         "the same part, w[idxs].")
    return w

def warn_equal(w, who):
    "Say that equal weights change nothing; returns whether they are equal"
    same = bool((w == w[0]).all())
    if same: robust_warn(f"{who}: all {len(w)} weights are equal, so they change nothing.")
    return same

# --- drawing by them ------------------------------------------------------------------------------
def draw_by_weight(
    w,      # Weights (n,), >= 0, sum > 0
    rng     # random.Random
) -> list: # n positions, shuffled
    "Systematic sampling: item i is drawn n w_i/sum(w) times, rounded up or down by chance; equal weights: each once"
    n = len(w)
    order = np.array(rng.sample(range(n), n))
    ends = np.cumsum(w[order])
    ends = np.floor(ends*(n/ends[-1]) + rng.random()).astype(np.int64)
    times = np.diff(ends, prepend=0)
    idxs = np.repeat(order, times).tolist()
    return rng.sample(idxs, len(idxs))

class _Draw:
    "Mixin: draws `len(dataset)` items an epoch by `wgts` where it shuffles"
    def __init__(self, dataset=None, bs=64, wgts=None, **kwargs):
        super().__init__(dataset, bs=bs, **kwargs)
        if wgts is not None: w = _as_weights(wgts)
        else: w = np.ones(0 if dataset is None else len(dataset))
        self.wgts = w/w.sum() if len(w) else w

    def get_idxs(self):
        if not self.shuffle or not self.n: return super().get_idxs()
        return draw_by_weight(self.wgts, self.rng)

    def new(self, dataset=None, cls=None, **kwargs):
        "A loader like this one; the weights stay with the items they are of"
        mine = dataset is None or dataset is self.dataset
        if mine and issubclass(cls or type(self), _Draw): kwargs = {'wgts': self.wgts, **kwargs}
        return super().new(dataset, cls, **kwargs)

class DrawDL(_Draw, TfmdDL): "A `TfmdDL` that draws items by weight"
class DrawArrayDL(_Draw, ArrayDL): "An `ArrayDL` that draws items by weight"
class DrawTabDL(_Draw, TabDataLoader): "A loader of tables that draws rows by weight"

def _draw_class(dl):
    for cls,draw in ((ArrayDL, DrawArrayDL), (TabDataLoader, DrawTabDL)):
        if isinstance(dl, cls): return draw
    if type(dl).get_idxs is TfmdDL.get_idxs or hasattr(dl, 'wgts'): return DrawDL
    raise TypeError("expected a training loader that shuffles all items (TfmdDL, ArrayDL, tables), "
                    f"got a {type(dl).__name__} with an order of its own. Leave items out instead: "
                    "take_items(dls, idxs).")

def weighted_dls(
    dls,    # DataLoaders with one single-label target; they stay as they are
    w       # Weights (n,) by position in `dls.train_ds`, finite, >= 0; or 'balanced': all classes equally often
) -> DataLoaders:
    "New dls that draw training items by weight (with repeats, as many as ever); validation stays the same"
    w = item_weights(dls, w)
    warn_equal(w, 'weighted_dls')
    if not dls.train.shuffle:
        raise ValueError("expected a training loader that shuffles, got one in fixed order, where "
                         "nothing is drawn. Make it with shuffle=True.")
    cls = _draw_class(dls.train)
    kw = dict(wgts=w)
    if isinstance(dls.train, ArrayDL): kw['im_shape'] = dls.train.im_shape
    with keep_random(): dl = TfmdDL.new(dls.train, dls.train_ds, cls, **kw)
    new = copy.copy(dls)
    new.loaders = [dl, *dls.loaders[1:]]
    return new
