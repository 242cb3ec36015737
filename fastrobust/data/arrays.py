"Arrays in memory as fastai loaders: whole batches by tensor indexing, and every fastai feature as it was"
# `ArrayDL` differs from `TfmdDL` in `create_batches` alone. Its dataset is an ordinary `Datasets`
# over (image, label) items with fastai's transforms, so show_batch, predict, test_dl,
# Interpretation, export and ids are fastai's own code.
import numpy as np
import torch
from PIL import Image

from fastai.data.core import Datasets, TfmdDL, TfmdLists
from fastai.data.transforms import Categorize, ItemGetter, ToTensor
from fastai.torch_core import TensorCategory, TensorImage, TensorImageBW
from fastrobust.data.arraychecks import as_labels, as_pixels, check_like, codes_in

__all__ = ['ArrayDL']

# --- items and loader -----------------------------------------------------------------------------
class ArrayItems:
    "Images in memory as a sequence of items: (image, label), or image alone; a slice or list of positions gives a part"
    def __init__(self,
        x,          # uint8 tensor (n,c,h,w) on any device
        y=None,     # Positions in `vocab`, long tensor (n,); None: images only
        vocab=None, # Class names
        rows=None   # Positions in the arrays first given, long tensor (n,); None: 0..n-1
    ):
        self.x,self.y,self.vocab = x,y,vocab
        self.rows = torch.arange(len(x)) if rows is None else rows

    @property
    def tensor_class(self):
        "fastai's type of a batch of these items"
        return TensorImageBW if self.x.shape[1] == 1 else TensorImage

    # fastcore's `L` keeps what has an `iloc`; of anything else it makes a list
    iloc = property(lambda self: self)
    def itertuples(self): return iter(self) # how `L` walks through what has an `iloc`
    def __iter__(self): return (self[i] for i in range(len(self)))
    def __len__(self):  return len(self.x)
    def __repr__(self):
        shape = tuple(self.x.shape[1:])
        return f'ArrayItems: {len(self)} images of (c,h,w) {shape} on {self.x.device}'

    def __getitem__(self, i):
        if isinstance(i, (int, np.integer)): return self._item(int(i))
        if isinstance(i, torch.Tensor) and i.ndim == 0: return self._item(int(i))
        if not isinstance(i, (slice, np.ndarray, torch.Tensor)): i = list(i)
        i = torch.arange(len(self))[i]
        j = i.to(self.x.device)
        y = None if self.y is None else self.y[j]
        return type(self)(self.x[j], y, self.vocab, self.rows[i])

    def _item(self, i):
        im = self.x[i].permute(1, 2, 0).cpu().numpy().copy()
        if im.shape[-1] == 1: im = im[..., 0]
        if self.y is None: return im
        return im,self.vocab[int(self.y[i])]

def unlabelled(
    x       # uint8 images (n,c,h,w)
):
    "Function of a vocab: `ArrayItems` of images without labels of their own"
    y = torch.zeros(len(x), dtype=torch.long)
    return lambda vocab: ArrayItems(x, y, vocab)

def _adopt(ds, shape):
    "`ds` with new arrays or Pillow images as `ArrayItems`; all else (files) as it came, for fastai's way item by item"
    if not isinstance(ds, Datasets): return ds
    if isinstance(ds.items, ArrayItems) or len(ds.items) == 0: return ds
    tls = ds.tls
    images,given = _stacked(ds.items, shape, pairs=len(tls) == 2)
    if images is None: return ds

    x = as_pixels(images, 'test_items')
    check_like(x.shape[1:], shape, 'test_items')
    y,vocab = None,None
    if given is not None:
        vocab = list(tls[1].tfms.fs[-1].vocab)
        labels = as_labels(given, len(x), 'test_items')
        y = codes_in(labels, vocab, 'test_items')
    tls = [tl._new(ArrayItems(x, y, vocab), split_idx=1) for tl in tls]
    return Datasets(tls=tls, n_inp=ds.n_inp)

def _stacked(items, shape, pairs):
    "(images in one array, labels) of `items`, labels if `pairs` have some; None for what there is not"
    if isinstance(items, (np.ndarray, torch.Tensor)): return items,None
    labels = None
    if pairs and all(isinstance(o, tuple) for o in items): items,labels = zip(*items)
    if not all(isinstance(o, (np.ndarray, torch.Tensor, Image.Image)) for o in items):
        return None,None

    mode = 'RGB' if shape is not None and shape[0] == 3 else 'L'
    items = [np.asarray(o.convert(mode)) if isinstance(o, Image.Image) else o for o in items]
    kinds = {(isinstance(o, np.ndarray), tuple(o.shape), o.dtype) for o in items}
    if len(kinds) > 1: return None,None
    stack = np.stack if isinstance(items[0], np.ndarray) else torch.stack
    return stack(items),labels

class ArrayDL(TfmdDL):
    "A `TfmdDL` that cuts whole batches out of `ArrayItems`; on other datasets, or with steps per item, just a `TfmdDL`"
    adopt = staticmethod(_adopt)    # (dataset, (c,h,w)) -> dataset, with new arrays as items of its kind
    def __init__(self,
        dataset=None,   # `Datasets` over `ArrayItems`; one over new arrays or Pillow images is converted
        bs=64,          # Batch size, fastai's default
        num_workers=0,  # Processes; they only cost time unless the items are files
        *,
        im_shape=None,  # (c,h,w) that new images should have; None: as in `dataset`
        **kwargs        # Anything `TfmdDL` takes
    ):
        dataset = self.adopt(dataset, im_shape)
        items = dataset.items if isinstance(dataset, Datasets) else None
        if im_shape is None and isinstance(items, ArrayItems):
            im_shape = tuple(items.x.shape[-3:])
        super().__init__(dataset, bs=bs, num_workers=num_workers, **kwargs)
        self.im_shape = im_shape

    def new(self, dataset=None, cls=None, **kwargs):
        "A loader like this one with a few arguments changed; `cls` may be any `TfmdDL`"
        kwargs = {'im_shape': self.im_shape, **kwargs}
        return super().new(dataset, cls, **kwargs)

    def _whole(self):
        "Whether nothing happens item by item, so that batches can be cut from the arrays"
        ds = self.dataset
        if not (isinstance(ds, Datasets) and isinstance(ds.items, ArrayItems)): return False
        tl = ds.tls[0]
        opens = [f for f in tl.tfms.fs if not isinstance(f, ItemGetter)]
        if type(tl) is not TfmdLists or len(opens) != 1: return False
        if not self.indexed or self.prebatched: return False

        steps = {'create_item', 'create_batch', 'do_batch', 'retain'}
        if vars(self).keys() & steps or len(self.before_batch.fs): return False
        return all(type(f) is ToTensor for f in self.after_item.fs)

    def _targets(self, tl):
        "Labels of `tl` by position; a list that stands in for ours may hold them in `codes`, else each is asked for"
        if type(tl) is TfmdLists:
            steps = [type(f) for f in tl.tfms.fs]
            if steps == [ItemGetter, Categorize]: return tl.items.y
        codes = vars(tl).get('codes')
        if codes is None or (torch.as_tensor(codes) < 0).any():
            codes = [int(tl[i]) for i in range(len(tl))]
        return torch.as_tensor(codes)

    def create_batches(self, samps):
        "Batches of the positions `samps`, each by one indexing where that is possible"
        if not self._whole():
            yield from super().create_batches(samps)
            return
        items = self.dataset.items
        x,im = items.x,items.tensor_class
        ys = [self._targets(tl).to(x.device) for tl in self.dataset.tls[1:]]
        for idxs in self.chunkify(samps):
            i = torch.as_tensor(np.asarray(idxs)).to(x.device)
            targets = [TensorCategory(y.index_select(0, i)) for y in ys]
            yield im(x.index_select(0, i)),*targets
