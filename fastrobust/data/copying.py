"Copies of datasets and loaders, the pieces that new loaders out of old ones are made of; what is copied stays as it is"
import copy
import torch
from fastai.data.core import Datasets
from fastai.tabular.core import Tabular
from fastcore.foundation import L
from fastrobust.data.arrays import ArrayItems
from fastrobust.data.givenlists import GivenLabels, NoisyDatasets
from fastrobust.data.reading import table_with

__all__ = []

def relabelled(ds, rec, n=None, y=None):
    "`ds` with labels `y`, or those of `rec`; neither: as it was, but its test sets show given labels of training items"
    if y is None and rec is not None: y = rec.y_noisy
    if y is None:
        if type(ds) is not Datasets or len(ds.tls) != n: return ds
        if isinstance(ds.items, ArrayItems): return ds
    elif isinstance(ds, Tabular): return table_with(ds, y)

    if isinstance(ds.items, ArrayItems):
        items = _items_with(ds.items, y)
        tls = [tl._new(items, split_idx=tl.split_idx) for tl in ds.tls]
    else:
        codes = None if y is None else y.copy()
        tls = [*ds.tls[:-1], GivenLabels.of(ds.tls[-1], codes)]

    kw = dict(tls=tls, n_inp=ds.n_inp, dl_type=ds._dl_type)
    if y is None: return Datasets(**kw)
    return NoisyDatasets(**kw, noise=rec)

def _items_with(items, y):
    "The arrays `items` with labels `y`"
    y = torch.from_numpy(y.copy()).to(items.y.device)
    return type(items)(items.x, y, items.vocab, items.rows)

def loader_like(dl, ds):
    "A copy of `dl` over `ds`: same type, random stream, weights and transforms; changing one leaves the other alone"
    res = copy.copy(dl)
    for k,v in vars(dl).items():
        # its bound methods, e.g. left by show_batch(unique=True)
        bound = getattr(v, '__self__', None) is dl
        if bound or k in ('show_batch', 'it', '_DataLoader__idxs'): delattr(res, k)

    res.dataset = ds
    res.rng = copy.copy(dl.rng)
    res.fake_l = copy.copy(dl.fake_l)
    res.fake_l.d = res
    res.fake_l.default = res
    res.fake_l.dataset = res.fake_l

    for nm in ('after_item', 'before_batch', 'after_batch'):
        p = copy.copy(getattr(dl, nm))
        if hasattr(p, 'fs'): p.fs = L(list(p.fs))
        setattr(res, nm, p)
    return res
