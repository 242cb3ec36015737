"Lists that stand in for parts of a dataset, by position: given labels, and images from elsewhere"
# Shuffling, workers, weights and epochs cannot change what stands at a position. Only these lists
# are replaced; what is made from them (other splits, test sets, the exported empty copy) is plain
# fastai.
import numpy as np, pandas as pd
import torch
from PIL import Image
from fastcore.basics import ifnone, range_of
from fastcore.foundation import L, is_indexer
from fastai.data.core import Datasets, TfmdLists
from fastai.torch_core import TensorCategory
from fastai.vision.core import PILBase

__all__ = []

class GivenItems(L):
    "Training items that carry what was given for them: `test_dl(items, with_labels=True)` and Interpretation show that"
    @classmethod
    def of(cls, items, given):
        res = cls(items, use_list=None)
        res.given = given                       # column -> codes (n,)
        return res

    def __getitem__(self, idx):
        if is_indexer(idx): return super().__getitem__(idx)
        pos = list(L(range_of(self))[idx])
        given = {k: v[pos] for k,v in self.given.items()}
        return GivenItems.of(self._get(pos), given)

def carry(items, tls):
    "`items` with the codes of those `tls` that have some"
    given = {}
    for tl in tls:
        if isinstance(tl, Given) and tl.codes is not None: given[tl.col] = tl.codes
    if not given: return items
    if not isinstance(items, pd.DataFrame): return GivenItems.of(items, given)
    columns = {k: v.numpy() for k,v in given.items()}
    return items.assign(**columns)

def _kept(tl, split_idx):
    "What a list made out of `tl` takes from it"
    return dict(types=tl.types, split_idx=split_idx, splits=tl.splits, use_list=None)

class Given(TfmdLists):
    "A list that returns `value(codes[i])` at position i; -1 there, or no codes: the item as it was"
    # under which name, in rows of a DataFrame the column, items carry codes
    col:str|None = None
    def __init__(self, items, tfms, codes=None, **kwargs):
        super().__init__(items, tfms, do_setup=False, **kwargs)
        if codes is not None: codes = torch.as_tensor(np.array(codes))
        self.codes = codes

    @classmethod
    def of(cls, tl, codes=None, **kwargs):
        kept = _kept(tl, tl.split_idx)
        return cls(tl.items, tl.tfms, codes, **kept, **kwargs)

    def more(self): return {}

    def __getitem__(self, idx):
        if not is_indexer(idx):
            pos = L(range_of(self))[idx]
            return L(self[i] for i in pos)
        if self.codes is None: return super().__getitem__(idx)
        k = int(self.codes[int(idx)])
        return super().__getitem__(idx) if k < 0 else self.value(k)

    def _like(self, items, codes, split_idx):
        kw = {**_kept(self, split_idx), **self.more()}
        return type(self)(items, self.tfms, codes, **kw)

    def _new(self, items, split_idx=None, **kwargs):
        "A plain list; what was given only for items that carry it"
        split_idx = ifnone(split_idx, self.split_idx)
        codes = None
        if isinstance(items, GivenItems): codes = items.given.get(self.col)
        if isinstance(items, pd.DataFrame) and self.col in items:
            codes = items[self.col].to_numpy()
        if codes is not None: return self._like(items, codes, split_idx)
        kept = _kept(self, split_idx)
        return TfmdLists(items, self.tfms, do_setup=False, **kept)

    def subset(self, i):
        pos = list(self.splits[i])
        codes = None if self.codes is None else self.codes[pos]
        if codes is not None and (codes < 0).all(): codes = None
        items = self._get(self.splits[i])
        return self._like(items, codes, i)

class GivenLabels(Given):
    "A list of labels that returns `codes[i]` at position i; -1 there, or no codes: the label as it was"
    col = 'given_code'
    def value(self, k): return TensorCategory(k)

class OpenInputs(Given):
    "A list of images that returns `images[codes[i]]` at position i; -1 there, or no codes: the image as it was"
    col = 'open_row'
    def __init__(self, items, tfms, codes=None, images=None, **kwargs):
        super().__init__(items, tfms, codes, **kwargs)
        self.images = images                    # uint8 (m,c,h,w), c = 1 or 3
        cls = list(self.types)[-1] if self.types else None
        if not (isinstance(cls, type) and issubclass(cls, PILBase)):
            got = getattr(cls, '__name__', cls)
            raise ValueError(f"open-set noise replaces images, got inputs of type {got}. Use an "
                             "ImageBlock, or array_dls.")
        self.cls = cls

    def more(self): return dict(images=self.images)

    def value(self, k):
        im = self.images[k].permute(1, 2, 0).numpy()
        if im.shape[-1] == 1: im = im[..., 0]
        mode = self.cls._open_args['mode']
        return self.cls(Image.fromarray(im).convert(mode))

class NoisyDatasets(Datasets):
    "`Datasets` with given labels; `noise` is the `NoiseRecord` of its training part, None where nobody knows the truth"
    def __init__(self, *args, noise=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.noise = noise

    @property
    def items(self):
        "The items; they carry their given labels"
        return carry(self.tls[0].items, self.tls)
    @items.setter
    def items(self, v):
        raise ValueError(f"expected the {len(self)} items that the noisy labels belong to, got new "
                         "ones. Build new dls and put noise on those.")

    def new_empty(self):
        tls = [tl.new_empty() for tl in self.tls]
        return Datasets(tls=tls, n_inp=self.n_inp)

    def subset(self, i):
        tls = [tl.subset(i) for tl in self.tls]
        rec = None
        if i == 0: rec = self.noise
        if i == 1: rec = getattr(self.noise, 'valid', None)
        if rec is None: return Datasets(tls=tls, n_inp=self.n_inp)
        return NoisyDatasets(tls=tls, n_inp=self.n_inp, noise=rec)

    def dataloaders(self, *args, **kwargs):
        "`DataLoaders` with their `noise`"
        dls = super().dataloaders(*args, **kwargs)
        return dls if self.noise is None else self.noise.attach(dls)
