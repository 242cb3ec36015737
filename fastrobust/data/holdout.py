"A validation set cut out of the training set, with the labels as they are given: what real users have"
import numpy as np
from fastai.data.core import DataLoaders
from fastrobust.data.editing import check_dls, split_items

__all__ = ['hold_out']

def hold_out(
    dls,            # DataLoaders over fastai `Datasets` or a table; they stay as they are
    pct:float=.1,   # Share of the training items to hold out, in (0,1); LogitClip's paper held out 5,000 of 50,000
    *,
    seed:int=0      # Of the random split; the global streams are left alone
) -> DataLoaders:
    "New dls that train on the rest of the training set and validate on `pct` of it, given (noisy) labels and all"
    check_dls(dls)
    n = len(dls.train_ds)
    k = round(n*pct) if 0 < pct < 1 else 0
    if not 0 < k < n:
        raise ValueError(f"expected `pct` in (0,1) that leaves items on both sides, got {pct} of "
                         f"{n} items. Try .1.")
    idx = np.random.default_rng(seed).permutation(n)
    return split_items(dls, np.sort(idx[k:]), np.sort(idx[:k]))
