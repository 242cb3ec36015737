"What a fastai dataset holds, read by position: labels, images, and where the items stand in a larger whole"
import re
from collections.abc import Hashable
from pathlib import Path
import numpy as np, pandas as pd
import torch
from fastcore.foundation import L
from fasttransform import Pipeline
from fastai.data.core import Datasets, TfmdLists
from fastai.data.transforms import (Categorize, ColReader, EncodedMultiCategorize, ItemGetter,
                                    MultiCategorize, OneHotEncode, RegressionSetup)
from fastai.tabular.core import Tabular
from fastai.torch_core import no_random
from fastrobust.basics import plain_dl
from fastrobust.data.arrays import ArrayItems
from fastrobust.data.givenlists import NoisyDatasets

__all__ = []

def int_labels(y, n=None):
    "A fresh int64 copy of class indices `y`, checked to lie in [0,n)"
    y = np.asarray(y.detach().cpu() if hasattr(y, 'detach') else y)
    if y.ndim != 1 or not len(y):
        raise ValueError(f"labels must be a non-empty 1-d array of ints, got shape {y.shape}. Pass "
                         "one int per sample.")
    if y.dtype.kind not in 'iu':
        nan = ' with NaN' if y.dtype.kind == 'f' and np.isnan(y).any() else ''
        raise TypeError(f"labels must be ints in [0,n_classes), got dtype {y.dtype}{nan}. Encode "
                        "names with the vocab.")
    y = y.astype(np.int64, copy=True)
    if y.min() < 0 or (n is not None and y.max() >= n):
        hi = 'n_classes' if n is None else n
        raise ValueError(f"labels must lie in [0,{hi}), got {y.min()} to {y.max()}. n_classes is "
                         "the vocab's size.")
    return y

_SEVERAL = (MultiCategorize, EncodedMultiCategorize)

def _makes_one_label(f): return isinstance(f, Categorize) and not isinstance(f, _SEVERAL)

def other_target(ds):
    "What the target of `ds` is instead, if it is known to be no single label; else None"
    if isinstance(ds, Tabular):
        y = ds.items[ds.y_names].to_numpy()
        if y.shape[1] < 2 and y.dtype.kind != 'f': return None
        return f"{list(ds.y_names)} of dtype {y.dtype}"
    if not isinstance(ds, Datasets): return None
    others = (*_SEVERAL, OneHotEncode, RegressionSetup)
    makers = [f for tl in ds.tls[ds.n_inp:] for f in tl.tfms.fs if isinstance(f, others)]
    return f"a target made by {type(makers[0]).__name__}" if makers else None

# targets by their type, which a loader has seen at an item, and the block that makes them
_TARGETS = {'TensorMultiCategory': 'several labels an item (MultiCategoryBlock)',
            'TensorMask': 'masks (MaskBlock)', 'TensorPoint': 'points (PointBlock)',
            'TensorBBox': 'boxes (BBoxBlock)', 'TensorText': 'texts (TextBlock)',
            'TensorImageBase': 'images (ImageBlock)'}

def no_single_label(dls):
    "What the targets of `dls` are instead of one label an item, in words; None where they may be that"
    if not len(dls.loaders): return None
    dl = plain_dl(dls.train)
    ds = getattr(dl, 'dataset', None)
    seen = getattr(dl, '_types', None)      # {tuple: [types of inputs and targets]}
    types = next(iter(seen.values())) if isinstance(seen, dict) else []
    types = list(types)[getattr(ds, 'n_inp', 1):] if isinstance(types, (list, tuple)) else []
    for base in [o for t in types for o in getattr(t, '__mro__', ())]:
        if base.__name__ in _TARGETS: return _TARGETS[base.__name__]
    if isinstance(ds, Datasets) and len(types) > 1: return f"{len(types)} targets"
    other = other_target(ds)
    return 'numbers (RegressionBlock)' if other and 'RegressionSetup' in other else other

def target(ds, what):
    "The one list of single-label targets of `ds`"
    if type(ds) not in (Datasets, NoisyDatasets):
        raise TypeError(f"expected {what} over a fastai `Datasets` (of a DataBlock, "
                        f"ImageDataLoaders, array_dls), got {type(ds).__name__}. Build the dls "
                        "from a DataBlock.")
    tls = ds.tls[ds.n_inp:]
    fs = ds.tls[-1].tfms.fs
    last = fs[-1] if len(fs) else None
    if len(tls) != 1 or not _makes_one_label(last):
        got = f"a target made by {type(last).__name__}"
        if len(tls) != 1: got = f"{len(tls)} targets"
        raise ValueError(f"expected one single-label target (CategoryBlock) in {what}, got {got}. "
                         "This is defined for single-label classification.")
    return tls[0]

def label_vocab(ds, what):
    "Class names of the one target of `ds`, a `Datasets` or a table"
    if not isinstance(ds, Tabular): return target(ds, what).vocab
    codes(ds, what)     # raises where the target is none
    return ds.procs.vocab

def codes(ds, what):
    "Labels of `ds` as ints, by position"
    if isinstance(ds, Tabular):
        y = ds.items[ds.y_names].to_numpy()
        coded = y.dtype.kind in 'iu' and any(_makes_one_label(f) for f in ds.procs.fs)
        if y.shape[1] != 1 or not coded:
            raise ValueError(f"expected one single-label target in {what}, got {list(ds.y_names)} "
                             f"of dtype {y.dtype}. Build the table with one name in y_names and "
                             "y_block=CategoryBlock().")
        return _need_labels(ds, y[:,0].astype(np.int64), what)
    tl = target(ds, what)
    if isinstance(ds.items, ArrayItems): return ds.items.y.cpu().numpy().copy()
    return codes_at(ds, range(len(tl)), what)

def codes_at(ds, idxs, what):
    "Labels of the items `idxs` of a `Datasets` as ints"
    tl = target(ds, what)
    def code(i):
        try: return int(tl[i])
        except KeyError: return -1      # of `Categorize`: NaN, or no class of the vocab
    return _need_labels(ds, np.array([code(i) for i in idxs], dtype=np.int64), what, idxs)

def _need_labels(ds, y, what, idxs=None):
    "`y`, labels of the items `idxs` (None: all), refused where one is -1"
    bad = np.flatnonzero(y < 0)
    if not len(bad): return y
    if idxs is not None: bad = np.asarray(idxs)[bad]
    if isinstance(ds.items, pd.DataFrame):
        first = f"rows {list(ds.items.index[bad[:5]])}"
        fix = f"Drop these rows{_dropna(ds, bad)}"
    else:
        first = [str(ds.items[int(i)]) for i in bad[:5]]
        fix = "Leave these items out"
    raise ValueError(f"expected a class of the vocab for every item of {what}, got {len(bad)} of "
                     f"{len(y)} without one (NaN, or a class it lacks), first {first}. {fix} or "
                     "give CategoryBlock a vocab with their class, before you build the dls.")

def _without_class(ds):
    "Positions of items of `ds` without a class, where labels are a column or part of the items: no item is opened"
    if isinstance(ds, Tabular):
        coded = len(ds.y_names) == 1 and any(map(_makes_one_label, ds.procs.fs))
        return np.flatnonzero(ds.items[ds.y_names[0]] < 0) if coded else []
    if type(ds) is not Datasets or len(ds.tls)-ds.n_inp != 1: return []
    tl = ds.tls[-1]
    fs = list(tl.tfms.fs)
    if type(tl) is not TfmdLists or len(fs) != 2 or type(fs[1]) is not Categorize: return []
    read,known = fs[0],getattr(fs[1].vocab, 'o2i', None)
    if known is None or fs[1].add_na: return []
    if isinstance(read, ItemGetter) and isinstance(ds.items, (list, L)):
        y = [o[read.i] for o in ds.items]
    elif isinstance(read, ColReader) and isinstance(ds.items, pd.DataFrame):
        edited = read.pref or read.suff or read.label_delim
        if edited or len(read.cols) != 1: return []
        c = read.cols[0]
        y = ds.items.iloc[:,c] if isinstance(c, int) else ds.items[c]
        if all(k in known for k in y.unique()): return []
    else: return []
    return [i for i,k in enumerate(y) if isinstance(k, Hashable) and k not in known]

def need_known_labels(dls):
    "Refuse items without a class (NaN, or one that training lacks), where no item need be opened to see it"
    for what,dl in zip(('the training set', 'the validation set'), dls.loaders):
        ds = getattr(plain_dl(dl), 'dataset', None)
        bad = _without_class(ds)
        if not len(bad): continue
        y = np.zeros(len(ds), dtype=np.int64)
        y[bad] = -1
        _need_labels(ds, y, what)

def _dropna(ds, bad):
    "How to drop the rows `bad` of the DataFrame `ds.items` from it, if their labels are missing"
    if isinstance(ds, Tabular): return f", df.dropna(subset={list(ds.y_names)}),"
    readers = [f for f in ds.tls[-1].tfms.fs if isinstance(f, ColReader)]
    if not readers: return ", df.dropna(),"
    cols = [ds.items.columns[c] if isinstance(c, int) else c for c in readers[0].cols]
    if not ds.items.iloc[bad][cols].isna().any(axis=None): return ''
    return f", df.dropna(subset={cols}),"

def table_with(ds, y):
    "The table `ds` with labels `y`"
    new = ds.new(ds.items.copy())
    col = ds.y_names[0]
    new.items[col] = y.astype(ds.items[col].dtype)
    return new

def positions(items):
    "Positions in the whole data set: of arrays the rows, of files named '<number>_..' as in fastai's CIFAR; else None"
    if isinstance(items, ArrayItems): return items.rows.numpy()
    if not all(isinstance(o, (str, Path)) for o in items): return None
    found = [re.match(r'\d+(?=_)', Path(o).name) for o in items]
    if not found or not all(found): return None
    return np.array([int(o[0]) for o in found])

def images(
    ds,             # `Datasets`
    after_item,     # Item transforms, a list or a `Pipeline`
    idxs=None,      # Which items; None: all
    side=32         # Pixels; larger images of files are averaged down to it: the law is a random projection in any case
):
    "uint8 tensor (n,c,h,w): arrays as they are, files one by one through the item transforms of validation"
    if isinstance(ds.items, ArrayItems):
        x = ds.items.x
        return x if idxs is None else x[torch.as_tensor(idxs)]
    if isinstance(ds, Tabular):
        raise TypeError("expected images for noise that depends on them, got a table. Draw a "
                        "record, `noise.apply(y, X=features)`, and hand that to add_label_noise.")
    tl = ds.tls[0]
    pipe = Pipeline(after_item, split_idx=1)
    out = []
    with no_random(0):
        for i in range(len(tl)) if idxs is None else idxs:
            x = pipe((tl[int(i)],))[0]
            if not isinstance(x, torch.Tensor) or x.ndim != 3 or x.dtype != torch.uint8:
                raise TypeError("expected images for noise that depends on them, got "
                                f"{type(x).__name__}. For other data draw a record, "
                                "`noise.apply(y, X=features)`, and hand that to add_label_noise.")
            out.append(_at_most(x.as_subclass(torch.Tensor), side))
    if len({o.shape for o in out}) > 1:
        raise ValueError("expected images of one size after the item transforms, got several. Add "
                         "a Resize.")
    return torch.stack(out)

def _at_most(x, side):
    "The image `x`, uint8 (c,h,w), averaged down where it is larger than `side` pixels"
    small = [min(side, s) for s in x.shape[1:]]
    if small != list(x.shape[1:]):
        x = torch.nn.functional.adaptive_avg_pool2d(x[None].float(), small)[0].round()
    return x.byte()

class Part:
    "The items `idxs` of a dataset, as a law of noise wants to see them"
    def __init__(self, ds, after_item, what, idxs=None):
        self.ds,self.idxs = ds,idxs
        self.after_item,self.what = after_item,what

    @property
    def y(self):
        if self.idxs is None: return codes(self.ds, self.what)
        return codes_at(self.ds, self.idxs, self.what)
    @property
    def X(self): return images(self.ds, self.after_item, self.idxs)
    @property
    def rows(self):
        items = self.ds.items
        if isinstance(items, pd.DataFrame): return None
        if self.idxs is not None: items = [items[i] for i in self.idxs]
        return positions(items)
