"Given labels in fastai's data: noisy `Datasets`, loaders, `DataBlock`, and a `show_batch` that tells given from true"
# A label is fixed by its position in the dataset: shuffling, workers, weights and epochs cannot change it. Only the
# list of labels is replaced; what is made from it (other splits, test sets, the exported empty copy) is plain fastai.
import copy, math
from functools import partial
import numpy as np, pandas as pd
import torch
from fastcore.basics import ifnone, range_of
from fastcore.foundation import L, is_indexer
from fastai.data.block import DataBlock
from fastai.data.core import DataLoaders, Datasets, TfmdDL, TfmdLists, show_batch
from fastai.data.transforms import Categorize, Category, EncodedMultiCategorize, MultiCategorize
from fastai.torch_core import TensorCategory, TensorImageBase
from fastrobust.basics import batch_idxs
from fastrobust.data.arrays import ArrayItems
from fastrobust.data.noise import NoisyLabels
from fastrobust.data.noiserecord import NoiseRecord

__all__ = ['NoisyDataBlock', 'add_label_noise', 'NoisyDatasets', 'GivenLabels', 'WrongCategory']

_COL = 'given_code' # column in which rows of a DataFrame carry their given label out of `items`

# --- items and labels that know what was given -----------------------------------------------------------------------
class GivenItems(L):
    "Training items that carry their given labels: `test_dl(items, with_labels=True)` and Interpretation show those"
    @classmethod
    def of(cls, items, codes):
        res = cls(items, use_list=None)
        res.codes = codes
        return res

    def __getitem__(self, idx):
        if is_indexer(idx): return super().__getitem__(idx)
        pos = list(L(range_of(self))[idx])
        return GivenItems.of(self._get(pos), self.codes[pos])

class GivenLabels(TfmdLists):
    "A list of labels that returns `codes[i]` at position i; -1 there, or no codes: the label as it was"
    def __init__(self, items, tfms, codes=None, **kwargs):
        super().__init__(items, tfms, do_setup=False, **kwargs)
        self.codes = None if codes is None else torch.as_tensor(np.array(codes))

    @classmethod
    def of(cls, tl, codes=None):
        return cls(tl.items, tl.tfms, codes, use_list=None, types=tl.types, split_idx=tl.split_idx, splits=tl.splits)

    def __getitem__(self, idx):
        if not is_indexer(idx): return L(self[i] for i in L(range_of(self))[idx])
        k = -1 if self.codes is None else int(self.codes[int(idx)])
        return super().__getitem__(idx) if k < 0 else TensorCategory(k)

    def _new(self, items, split_idx=None, **kwargs):
        "Plain labels; given ones only for items that carry them"
        kw = dict(types=self.types, split_idx=ifnone(split_idx, self.split_idx), splits=self.splits, use_list=None)
        codes = getattr(items, 'codes', None) if isinstance(items, GivenItems) else None
        if isinstance(items, pd.DataFrame) and _COL in items: codes = items[_COL].to_numpy()
        if codes is None: return TfmdLists(items, self.tfms, do_setup=False, **kw)
        return GivenLabels(items, self.tfms, codes, **kw)

    def subset(self, i):
        pos = list(self.splits[i])
        codes = None if self.codes is None or (self.codes[pos] < 0).all() else self.codes[pos]
        kw = dict(types=self.types, split_idx=i, splits=self.splits, use_list=None)
        return GivenLabels(self._get(self.splits[i]), self.tfms, codes, **kw)

class NoisyDatasets(Datasets):
    "`Datasets` with given labels; `noise` is the `NoiseRecord` of its training part"
    def __init__(self, *args, noise=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.noise = noise

    @property
    def items(self):
        "The items; they carry their given labels"
        items,codes = self.tls[0].items,getattr(self.tls[-1], 'codes', None)
        if codes is None: return items
        if isinstance(items, pd.DataFrame): return items.assign(**{_COL: codes.numpy()})
        return GivenItems.of(items, codes)
    @items.setter
    def items(self, v):
        raise ValueError(f"expected the {len(self)} items that the noisy labels belong to, got new ones. "
                         "Build new dls and put noise on those.")

    def new_empty(self): return Datasets(tls=[tl.new_empty() for tl in self.tls], n_inp=self.n_inp)

    def subset(self, i):
        kw  = dict(tls=[tl.subset(i) for tl in self.tls], n_inp=self.n_inp)
        rec = {0: self.noise, 1: self.noise.valid}.get(i)
        return Datasets(**kw) if rec is None else NoisyDatasets(**kw, noise=rec)

    def dataloaders(self, *args, **kwargs):
        "`DataLoaders` with their `noise`"
        return _attach(super().dataloaders(*args, **kwargs), self.noise)

# --- reading the labels ----------------------------------------------------------------------------------------------
def _target(ds, what):
    "The one list of single-label targets of `ds`"
    if type(ds) not in (Datasets, NoisyDatasets):
        raise TypeError(f"expected {what} over a fastai `Datasets` (of a DataBlock, ImageDataLoaders, array_dls), got "
                        f"{type(ds).__name__}. Build the dls from a DataBlock.")
    tls,fs = ds.tls[ds.n_inp:],ds.tls[-1].tfms.fs
    last = fs[-1] if len(fs) else None
    if len(tls) != 1 or not isinstance(last, Categorize) or isinstance(last, (MultiCategorize, EncodedMultiCategorize)):
        got = f"{len(tls)} targets" if len(tls) != 1 else f"a target made by {type(last).__name__}"
        raise ValueError(f"expected one single-label target (CategoryBlock) in {what}, got {got}. "
                         "Label noise is defined for single-label classification.")
    return tls[0]

def _codes(ds, what):
    "Labels of `ds` as ints, by position"
    tl = _target(ds, what)
    if isinstance(ds.items, ArrayItems): return ds.items.y.cpu().numpy().copy()
    return np.array([int(tl[i]) for i in range(len(tl))], dtype=np.int64)

def _draw(noise, y, vocab, stream=0):
    if isinstance(noise, NoisyLabels): return noise.apply(y, len(vocab), vocab=vocab, stream=stream)
    rec = noise if stream == 0 else noise.valid
    if len(rec) != len(y): got = f"one of {len(rec)} labels for {len(y)}"
    elif (rec.y_clean != y).any(): got = f"one with {int((rec.y_clean != y).sum())} other true labels"
    elif rec.n_classes != len(vocab): got = f"one of {rec.n_classes} classes for {len(vocab)}"
    else: return copy.copy(rec)
    raise ValueError(f"expected the record of these very items in this order, got {got}. Use the same files and split.")

def _check_noise(noise):
    if isinstance(noise, (NoisyLabels, NoiseRecord)): return
    raise TypeError(f"`noise` must be NoisyLabels or a NoiseRecord, got {noise!r}. Pass NoisyLabels('symmetric', .4).")

def _records(noise, y, yv, vocab):
    "Record of labels `y`, and of validation labels (`yv()` reads them) where the law wants them noisy"
    rec = _draw(noise, y, vocab)
    wanted,rec.valid = noise.noisy_valid if isinstance(noise, NoisyLabels) else noise.valid is not None,None
    if wanted:
        yv = yv()
        if not len(yv): raise ValueError("noisy_valid expected validation items, got none. Use another splitter.")
        rec.valid = _draw(noise, yv, vocab, 1)
    rec.log_true = wanted == 'both' or (rec.log_true and wanted)
    return rec

# --- loaders ---------------------------------------------------------------------------------------------------------
def _relabel(ds, rec, n=None):
    "`ds` with the given labels of `rec`; rec=None: as it was, but its test sets show given labels of training items"
    if rec is None and (type(ds) is not Datasets or len(ds.tls) != n): return ds
    if isinstance(ds.items, ArrayItems):
        if rec is None: return ds
        it = ds.items
        it = ArrayItems(it.x, torch.from_numpy(rec.y_noisy.copy()).to(it.y.device), it.vocab, it.rows)
        tls = [tl._new(it, split_idx=tl.split_idx) for tl in ds.tls]
    else: tls = [*ds.tls[:-1], GivenLabels.of(ds.tls[-1], None if rec is None else rec.y_noisy.copy())]
    if rec is None: return Datasets(tls=tls, n_inp=ds.n_inp, dl_type=ds._dl_type)
    return NoisyDatasets(tls=tls, n_inp=ds.n_inp, dl_type=ds._dl_type, noise=rec)

def _like(dl, ds):
    "A copy of `dl` over `ds`: same type, random stream, weights and transforms; changing one leaves the other alone"
    res = copy.copy(dl)
    for k,v in vars(dl).items():  # its bound methods, e.g. left by show_batch(unique=True)
        if getattr(v, '__self__', None) is dl or k in ('show_batch', 'it', '_DataLoader__idxs'): delattr(res, k)
    res.dataset,res.rng,res.fake_l = ds,copy.copy(dl.rng),copy.copy(dl.fake_l)
    res.fake_l.d = res.fake_l.default = res
    res.fake_l.dataset = res.fake_l
    for nm in ('after_item', 'before_batch', 'after_batch'):
        p = copy.copy(getattr(dl, nm))
        if hasattr(p, 'fs'): p.fs = L(list(p.fs))
        setattr(res, nm, p)
    return res

class WrongCategory(Category):
    "A given label that is not the true one"
    _show_args = {'label': 'category', 'color': '#D55E00'}  # Okabe and Ito's vermilion: not black to any colour vision

def _show_given(dl, rec, b=None, max_n=9, ctxs=None, show=True, unique=False, **kwargs):
    "`show_batch` that writes given and true label where they differ; a batch `b` from elsewhere shows its labels alone"
    plain = partial(type(dl).show_batch, dl)
    if b is not None or unique: return plain(b, max_n=max_n, ctxs=ctxs, show=show, unique=unique, **kwargs)
    b = dl.one_batch()
    if not show: return plain(b, max_n=max_n, show=False)
    x,y,its = dl._pre_show_batch(b, max_n=max_n)
    ids = batch_idxs(dl, 0, len(its))
    if ids is None: return plain(b, max_n=max_n, ctxs=ctxs, show=show, **kwargs)   # text loaders sort on the fly
    def mark(o, i):
        true = dl.vocab[int(rec.y_clean[i])]
        return (*o[:-1], o[-1] if str(o[-1]) == str(true) else WrongCategory(f'given: {o[-1]}\ntrue: {true}'))
    if ctxs is None and isinstance(x, TensorImageBase) and not kwargs.keys() & {'figsize', 'nrows', 'ncols'}:
        rows = max(1, int(len(its)**.5))
        kwargs['figsize'] = 3*math.ceil(len(its)/rows), 3.4*rows            # room for titles of two lines
    show_batch(x, y, L(mark(o, i) for o,i in zip(its, ids)), ctxs=ctxs, max_n=max_n, **kwargs)

def _attach(dls, rec):
    dls.noise = rec
    for dl,r in zip(dls.loaders, (rec, rec.valid)):
        if r is not None: dl.show_batch = partial(_show_given, dl, r)
    return dls

def add_label_noise(
    dls:DataLoaders,        # Loaders with a single-label target; they and their datasets stay as they are
    noise,                  # `NoisyLabels`, or a `NoiseRecord` (loaded) to give the same labels again
    compound:bool=False     # Put noise on labels that are noisy already? `y_clean` stays the true ones
) -> DataLoaders:
    "New `DataLoaders` like `dls` with noisy training labels, fixed by position; `.noise` is the `NoiseRecord`"
    _check_noise(noise)
    bad = [type(dl).__name__ for dl in getattr(dls, 'loaders', [dls]) if not isinstance(dl, TfmdDL)]
    if bad: raise TypeError(f"expected `DataLoaders` of TfmdDLs, got {bad[0]}. Use a DataBlock or array_dls.")
    old,vocab = getattr(dls, 'noise', None),_target(dls.train_ds, 'the training set').vocab
    if old is not None and not compound:
        raise ValueError(f"expected dls with true labels, got noisy ones ({old}). Use the clean dls, or compound=True.")
    rec = _records(noise, _codes(dls.train_ds, 'the training set'),
                   lambda: _codes(dls.valid_ds, 'the validation set') if len(dls.loaders) > 1 else [], vocab)
    if old is not None:
        res = old.compose(rec)
        res.valid = old.valid if rec.valid is None else rec.valid if old.valid is None else old.valid.compose(rec.valid)
        res.log_true,rec = rec.log_true or old.log_true,res
    new = copy.copy(dls)
    new.loaders = [_like(dls.train, _relabel(dls.train_ds, rec))]
    if len(dls.loaders) > 1:
        new.loaders.append(_like(dls.valid, _relabel(dls.valid_ds, rec.valid, len(dls.train_ds.tls))))
    new.loaders += list(dls.loaders[2:])
    return _attach(new, rec)

class NoisyDataBlock(DataBlock):
    "A `DataBlock` with corrupted training labels, in `datasets` and `dataloaders` alike; their `.noise` is the record"
    def __init__(self,
        blocks=None,    # One or more `TransformBlock`s, the last a CategoryBlock
        noise=None,     # `NoisyLabels`, or a `NoiseRecord` to give the same labels again
        **kwargs        # Anything `DataBlock` takes
    ):
        _check_noise(noise)
        super().__init__(blocks, **kwargs)
        self.noise = noise

    def datasets(self, source, verbose=False):
        "Datasets of `source` with noisy training labels"
        ds = super().datasets(source, verbose=verbose)
        tl,(a,*rest) = _target(ds, 'the DataBlock'),[list(s) for s in ds.splits]
        read = lambda idxs: np.array([int(tl[i]) for i in idxs], dtype=np.int64)
        rec = _records(self.noise, read(a), lambda: read(rest[0]) if rest else [], tl.vocab)
        codes = np.full(len(ds), -1)
        if rec.valid is not None: codes[rest[0]] = rec.valid.y_noisy
        codes[a] = rec.y_noisy
        tls = [*ds.tls[:-1], GivenLabels.of(tl, codes)]
        return NoisyDatasets(tls=tls, n_inp=ds.n_inp, dl_type=ds._dl_type, noise=rec)
