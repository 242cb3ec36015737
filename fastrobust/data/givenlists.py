"Lists that stand in for parts of a dataset, by position: given labels, and images from elsewhere"
# Shuffling, workers, weights and epochs cannot change what stands at a position. Only these lists
# are replaced; what is made from them (other splits, test sets,
# the exported empty copy) is plain fastai.
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
        return GivenItems.of(self._get(pos), {k: v[pos] for k,v in self.given.items()})

def carry(items, tls):
    "`items` with the codes of those `tls` that have some"
    given = {tl.col: tl.codes for tl in tls if isinstance(tl, Given) and tl.codes is not None}
    if not given: return items
    if isinstance(items, pd.DataFrame):
        return items.assign(**{k: v.numpy() for k,v in given.items()})
    return GivenItems.of(items, given)

class Given(TfmdLists):
    "A list that returns `value(codes[i])` at position i; -1 there, or no codes: the item as it was"
    # under which name, in rows of a DataFrame the column, items carry codes
    col = None
    def __init__(self, items, tfms, codes=None, **kwargs):
        super().__init__(items, tfms, do_setup=False, **kwargs)
        self.codes = None if codes is None else torch.as_tensor(np.array(codes))

    @classmethod
    def of(cls, tl, codes=None, **kwargs):
        kw = dict(types=tl.types, split_idx=tl.split_idx, splits=tl.splits, use_list=None)
        return cls(tl.items, tl.tfms, codes, **kw, **kwargs)

    def more(self): return {}

    def __getitem__(self, idx):
        if not is_indexer(idx): return L(self[i] for i in L(range_of(self))[idx])
        k = -1 if self.codes is None else int(self.codes[int(idx)])
        return super().__getitem__(idx) if k < 0 else self.value(k)

    def _new(self, items, split_idx=None, **kwargs):
        "A plain list; what was given only for items that carry it"
        kw = dict(types=self.types, split_idx=ifnone(split_idx, self.split_idx), splits=self.splits, use_list=None)
        codes = items.given.get(self.col) if isinstance(items, GivenItems) else None
        if isinstance(items, pd.DataFrame) and self.col in items: codes = items[self.col].to_numpy()
        if codes is None: return TfmdLists(items, self.tfms, do_setup=False, **kw)
        return type(self)(items, self.tfms, codes, **kw, **self.more())

    def subset(self, i):
        pos = list(self.splits[i])
        codes = None if self.codes is None or (self.codes[pos] < 0).all() else self.codes[pos]
        kw = dict(types=self.types, split_idx=i, splits=self.splits, use_list=None)
        return type(self)(self._get(self.splits[i]), self.tfms, codes, **kw, **self.more())

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
            raise ValueError("open-set noise replaces images, got inputs of type "
                             f"{getattr(cls, '__name__', cls)}. Use an ImageBlock, or array_dls.")
        self.cls = cls

    def more(self): return dict(images=self.images)

    def value(self, k):
        im = self.images[k].permute(1, 2, 0).numpy()
        im = Image.fromarray(im[..., 0] if im.shape[-1] == 1 else im)
        return self.cls(im.convert(self.cls._open_args['mode']))

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

    def new_empty(self): return Datasets(tls=[tl.new_empty() for tl in self.tls], n_inp=self.n_inp)

    def subset(self, i):
        kw  = dict(tls=[tl.subset(i) for tl in self.tls], n_inp=self.n_inp)
        rec = self.noise if i == 0 else getattr(self.noise, 'valid', None) if i == 1 else None
        return Datasets(**kw) if rec is None else NoisyDatasets(**kw, noise=rec)

    def dataloaders(self, *args, **kwargs):
        "`DataLoaders` with their `noise`"
        dls = super().dataloaders(*args, **kwargs)
        return dls if self.noise is None else self.noise.attach(dls)
