"A validation set cut out of the training set, with the labels as they are given: what real users have"
import copy, random
import numpy as np
import pandas as pd
from fastai.data.core import DataLoaders, Datasets

__all__ = ['hold_out']

def _take(items, idx):
    if isinstance(items, pd.DataFrame): return items.iloc[idx]
    if isinstance(items, (list, tuple)): return [items[i] for i in idx]
    return items[idx.tolist()]

def hold_out(
    dls,            # DataLoaders over fastai `Datasets`; they stay as they are
    pct:float=.1,   # Share of the training items to hold out, in (0,1); LogitClip's paper held out 5,000 of 50,000
    seed:int=0      # Of the random split; the global streams are left alone
) -> DataLoaders:
    "New dls that train on the rest of the training set and validate on `pct` of it, given (noisy) labels and all"
    if not isinstance(dls, DataLoaders):
        raise TypeError(f"expected DataLoaders, got {type(dls).__name__}. Pass `learn.dls`.")
    ds = dls.train_ds
    if not isinstance(ds, Datasets):
        raise TypeError("expected dls over a fastai `Datasets` (of a DataBlock or array_dls), got "
                        f"{type(ds).__name__}. Build them with a DataBlock.")
    n = len(ds)
    k = round(n*pct) if 0 < pct < 1 else 0
    if not 0 < k < n:
        raise ValueError(f"expected `pct` in (0,1) that leaves items on both sides, got {pct} of {n} items. Try .1.")
    idx,items = np.random.default_rng(seed).permutation(n),ds.items
    parts = [np.sort(idx[k:]),np.sort(idx[:k])]
    new = [Datasets(tls=[tl._new(_take(items, o), split_idx=i) for tl in ds.tls], n_inp=ds.n_inp)
           for i,o in enumerate(parts)]
    state = random.getstate()   # a fastai loader draws the seed of its own stream when it is made
    try:
        kw = dict(wgts=dls.train.wgts[parts[0]]) if hasattr(dls.train, 'wgts') else {}      # a WeightedDL
        train = dls.train.new(new[0], **kw)
        plain = dls.valid if len(dls.loaders) > 1 else dls.train
        valid = plain.new(new[1], shuffle=False, drop_last=False)
        if train.drop_last and len(new[0]) < train.bs: train = train.new(new[0], drop_last=False, **kw)
    finally: random.setstate(state)
    return DataLoaders(train, valid, path=copy.copy(dls.path), device=dls.device)
