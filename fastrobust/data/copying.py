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
    y = rec.y_noisy if y is None and rec is not None else y
    if isinstance(ds, Tabular): return ds if y is None else table_with(ds, y)
    if y is None and (type(ds) is not Datasets or len(ds.tls) != n): return ds
    if isinstance(ds.items, ArrayItems):
        if y is None: return ds
        it = ds.items
        it = ArrayItems(it.x, torch.from_numpy(y.copy()).to(it.y.device), it.vocab, it.rows)
        tls = [tl._new(it, split_idx=tl.split_idx) for tl in ds.tls]
    else: tls = [*ds.tls[:-1], GivenLabels.of(ds.tls[-1], None if y is None else y.copy())]
    if y is None: return Datasets(tls=tls, n_inp=ds.n_inp, dl_type=ds._dl_type)
    return NoisyDatasets(tls=tls, n_inp=ds.n_inp, dl_type=ds._dl_type, noise=rec)

def loader_like(dl, ds):
    "A copy of `dl` over `ds`: same type, random stream, weights and transforms; changing one leaves the other alone"
    res = copy.copy(dl)
    for k,v in vars(dl).items():  # its bound methods, e.g. left by show_batch(unique=True)
        if getattr(v, '__self__', None) is dl or k in ('show_batch', 'it', '_DataLoader__idxs'):
            delattr(res, k)
    res.dataset,res.rng,res.fake_l = ds,copy.copy(dl.rng),copy.copy(dl.fake_l)
    res.fake_l.d = res.fake_l.default = res
    res.fake_l.dataset = res.fake_l
    for nm in ('after_item', 'before_batch', 'after_batch'):
        p = copy.copy(getattr(dl, nm))
        if hasattr(p, 'fs'): p.fs = L(list(p.fs))
        setattr(res, nm, p)
    return res
