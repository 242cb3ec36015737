"New loaders out of old ones, which stay as they are: other labels, fewer items, a split of the training set"
import copy
import numpy as np, pandas as pd
from fastai.data.core import DataLoaders, Datasets
from fastai.tabular.core import Tabular
from fastrobust.basics import n_classes, need_whole
from fastrobust.data.copying import loader_like, relabelled
from fastrobust.data.givenlists import NoisyDatasets
from fastrobust.data.reading import codes, int_labels
from fastrobust.resting import keep_random

__all__ = ['given_labels', 'with_labels', 'take_items', 'split_items']

# --- one dataset ----------------------------------------------------------------------------------
def check_dls(dls):
    "Refuse what is not made of fastai `Datasets` or tables"
    if not isinstance(dls, DataLoaders):
        raise TypeError(f"expected DataLoaders, got {type(dls).__name__}. Pass `learn.dls`.")
    if not isinstance(dls.train_ds, (Datasets, Tabular)):
        raise TypeError("expected dls over a fastai `Datasets` (of a DataBlock or array_dls) or a "
                        f"table, got {type(dls.train_ds).__name__}. Build them with a DataBlock.")

def check_ids(idxs, n, what='idxs'):
    "Positions as an int array: whole, in [0,n), each once"
    a = np.asarray(idxs)
    if a.dtype == bool and a.shape == (n,): a = np.flatnonzero(a)
    if a.ndim != 1 or not len(a) or a.dtype.kind not in 'iu':
        raise ValueError(f"expected `{what}` as positions in the training set or a mask of its {n} "
                         f"items, got {a.dtype} of shape {a.shape}. Pass e.g. "
                         "np.flatnonzero(keep).")
    once = len(np.unique(a))
    if a.min() < 0 or a.max() >= n or once < len(a):
        raise ValueError(f"expected `{what}` in [0,{n}), each once, got {a.min()} to {a.max()}, "
                         f"{once} different of {len(a)}. They are positions in `dls.train_ds`.")
    return a.astype(np.int64)

def _take(items, idx):
    if isinstance(items, pd.DataFrame): return items.iloc[idx]
    if isinstance(items, (list, tuple)): return [items[i] for i in idx]
    return items[idx.tolist()]

def _part(ds, idx, split_idx=0):
    "The items `idx` of a training set with their given labels"
    if isinstance(ds, Tabular): return ds.new(ds.items.iloc[idx])
    tls = [tl._new(_take(ds.items, idx), split_idx=split_idx) for tl in ds.tls]
    kw = dict(tls=tls, n_inp=ds.n_inp, dl_type=ds._dl_type)
    if not isinstance(ds, NoisyDatasets): return Datasets(**kw)
    rec = None if ds.noise is None or split_idx else ds.noise.take(idx)
    return NoisyDatasets(**kw, noise=rec)

def _train_dl(dl, ds, idx):
    kw = {}
    if hasattr(dl, 'wgts'): kw['wgts'] = np.asarray(dl.wgts)[idx]       # a WeightedDL
    if dl.drop_last and len(ds) < dl.bs: kw['drop_last'] = False
    return dl.new(ds, **kw)

# --- the loaders ----------------------------------------------------------------------------------
def given_labels(
    dls     # DataLoaders with one single-label target
) -> np.ndarray: # (n,) int64, positions in the vocab
    "Labels of the training set as they are given, by position in `dls.train_ds`"
    check_dls(dls)
    return codes(dls.train_ds, 'the training set')

def with_labels(
    dls,    # DataLoaders; they stay as they are
    y       # New training labels (n,), positions in the vocab
) -> DataLoaders:
    "New dls with `y` for training labels; `.noise`, if there is one, keeps the true ones"
    old = given_labels(dls)
    y = int_labels(y, n_classes(dls))
    if len(y) != len(old):
        raise ValueError(f"expected one label for each of the {len(old)} training items, got "
                         f"{len(y)}. Give all of them, in the order of `dls.train_ds`.")
    rec = getattr(dls, 'noise', None)
    if rec is not None: rec = rec.relabelled(y)
    train = loader_like(dls.train, relabelled(dls.train_ds, rec, y=y))
    return _dls(dls, train, rec)

def take_items(
    dls,    # DataLoaders; they stay as they are
    idxs    # Positions in `dls.train_ds` to train on (k,), or a mask (n,)
) -> DataLoaders:
    "New dls that train on some of the items, with their given labels; validation stays the same"
    check_dls(dls)
    idx = check_ids(idxs, len(dls.train_ds))
    with keep_random():
        # a new loader draws its seed
        train = _train_dl(dls.train, _part(dls.train_ds, idx), idx)
    rec = getattr(dls, 'noise', None)
    if rec is not None: rec = rec.take(idx)
    return _dls(dls, train, rec)

def take_parts(
    dls,    # DataLoaders; they stay as they are
    train,  # Positions in `dls.train_ds`, ints
    valid   # Positions in `dls.valid_ds`, ints; there may be none
) -> DataLoaders:
    "New dls of some training and some validation items, labels and vocab as they are"
    rec = getattr(dls, 'noise', None)
    if rec is not None: rec = rec.take(train)
    with keep_random():
        dl_a = _train_dl(dls.train, _part(dls.train_ds, train), train)
        ds_b = _part(dls.valid_ds, valid, 1)
        dl_b = dls.valid.new(ds_b)
    if rec is not None and rec.valid is not None:
        rec.valid = rec.valid.take(valid) if len(valid) else None
        ds_b.noise = rec.valid
    return _dls(dls, dl_a, rec, dl_b)

def _dls(dls, train, rec, valid=None):
    "`dls` with another training loader, and another validation loader if there is one"
    new = copy.copy(dls)
    new.loaders = [train, *dls.loaders[1:]]
    if valid is not None: new.loaders[1] = valid
    if rec is None: return new
    if valid is None and len(dls.loaders) > 1 and rec.valid is not None:
        new.loaders[1] = loader_like(dls.valid, dls.valid_ds)
    return rec.attach(new)

def split_items(
    dls,    # DataLoaders; they stay as they are
    train,  # Positions in `dls.train_ds` to train on, or a mask
    valid   # Positions in `dls.train_ds` to validate on, or a mask; validation transforms
) -> DataLoaders:
    "New dls that train on one part of the training set and validate on another, given labels and vocab as they are"
    check_dls(dls)
    ds = dls.train_ds
    a = check_ids(train, len(ds), 'train')
    b = check_ids(valid, len(ds), 'valid')
    both = np.intersect1d(a, b)
    if len(both):
        raise ValueError(f"expected `train` and `valid` without common items, got {len(both)}, "
                         f"first {both[:3]}. What is measured on training items is no evidence.")
    plain = dls.valid if len(dls.loaders) > 1 else dls.train
    with keep_random():
        dl_a = _train_dl(dls.train, _part(ds, a), a)
        dl_b = plain.new(_part(ds, b, 1), shuffle=False, drop_last=False)
    return DataLoaders(dl_a, dl_b, path=copy.copy(dls.path), device=dls.device)

# --- parts ----------------------------------------------------------------------------------------
def stratified_folds(
    y,              # Given labels (n,), ints
    n_folds:int=5,  # In how many parts, 2 to n
    seed:int=0      # Of the random dealing; the global streams are left alone
)->np.ndarray: # Fold of each item, (n,)
    "Deal the items to folds class by class: sizes differ by at most 1, over all items and within each class"
    y = np.asarray(y)
    need_whole('n_folds', n_folds, 2, len(y), what='at most one an item', fix='Try 5.')
    rng = np.random.default_rng(seed)
    order = np.lexsort((rng.random(len(y)), y))
    folds = np.empty(len(y), np.int64)
    folds[order] = rng.permutation(n_folds)[np.arange(len(y))%n_folds]
    return folds
