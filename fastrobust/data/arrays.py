"Arrays in memory as fastai loaders: whole batches by tensor indexing, and every fastai feature as it was"
# `ArrayDL` differs from `TfmdDL` in `create_batches` alone. Its dataset is an ordinary `Datasets`
# over (image, label) items with fastai's transforms, so show_batch, predict, test_dl,
# Interpretation, export and ids are fastai's own code.
from numbers import Number
import numpy as np
import torch
from PIL import Image

from fastai.data.core import DataLoaders, Datasets, TfmdDL, TfmdLists
from fastai.data.transforms import Categorize, IntToFloatTensor, ItemGetter, Normalize, ToTensor
from fastai.torch_core import TensorCategory, TensorImage, TensorImageBW, default_device
from fastai.vision.core import PILImage, PILImageBW
from fastcore.foundation import L
from fastrobust.basics import need_whole
from fastrobust.data.arraychecks import as_labels, as_pixels, as_vocab, check_like, codes_in

__all__ = ['ArrayDL', 'array_dls']

# --- items and loader -----------------------------------------------------------------------------
class ArrayItems:
    "Images in memory as a sequence of items: (image, label), or image alone; a slice or list of positions gives a part"
    def __init__(self,
        x,          # uint8 tensor (n,c,h,w) on any device
        y=None,     # Positions in `vocab`, long tensor (n,); None: images only
        vocab=None, # Class names
        rows=None   # Positions in the arrays first given, long tensor (n,); None: 0..n-1
    ): self.x,self.y,self.vocab,self.rows = x,y,vocab,torch.arange(len(x)) if rows is None else rows

    # fastcore's `L` keeps what has an `iloc`; of anything else it makes a list
    iloc = property(lambda self: self)
    def itertuples(self): return iter(self) # how `L` walks through what has an `iloc`
    def __iter__(self): return (self[i] for i in range(len(self)))
    def __len__(self):  return len(self.x)
    def __repr__(self):
        return f'ArrayItems: {len(self)} images of (c,h,w) {tuple(self.x.shape[1:])} on {self.x.device}'

    def __getitem__(self, i):
        if isinstance(i, (int, np.integer)) or (isinstance(i, torch.Tensor) and i.ndim == 0):
            im = self.x[int(i)].permute(1, 2, 0).cpu().numpy().copy()
            if im.shape[-1] == 1: im = im[..., 0]
            return im if self.y is None else (im, self.vocab[int(self.y[int(i)])])
        i = torch.arange(len(self))[i if isinstance(i, (slice, np.ndarray, torch.Tensor)) else list(i)]
        j = i.to(self.x.device)
        return type(self)(self.x[j], None if self.y is None else self.y[j], self.vocab, self.rows[i])

def _adopt(ds, shape):
    "`ds` with new arrays or Pillow images as `ArrayItems`; all else (files) as it came, for fastai's way item by item"
    if not isinstance(ds, Datasets) or isinstance(ds.items, ArrayItems) or len(ds.items) == 0:
        return ds
    items,given,tls = ds.items,None,ds.tls
    if not isinstance(items, (np.ndarray, torch.Tensor)):
        if len(tls) == 2 and all(isinstance(o, tuple) for o in items): items,given = zip(*items)
        if not all(isinstance(o, (np.ndarray, torch.Tensor, Image.Image)) for o in items): return ds
        mode = 'RGB' if shape is not None and shape[0] == 3 else 'L'
        items = [np.asarray(o.convert(mode)) if isinstance(o, Image.Image) else o for o in items]
        if len({(isinstance(o, np.ndarray), tuple(o.shape), o.dtype) for o in items}) > 1: return ds
        items = np.stack(items) if isinstance(items[0], np.ndarray) else torch.stack(items)
    x,y,vocab = as_pixels(items, 'test_items'),None,None
    check_like(x.shape[1:], shape, 'test_items')
    if given is not None:
        vocab = list(tls[1].tfms.fs[-1].vocab)
        y = codes_in(as_labels(given, len(x), 'test_items'), vocab, 'test_items')
    return Datasets(tls=[tl._new(ArrayItems(x, y, vocab), split_idx=1) for tl in tls], n_inp=ds.n_inp)

class ArrayDL(TfmdDL):
    "A `TfmdDL` that cuts whole batches out of `ArrayItems`; on other datasets, or with steps per item, just a `TfmdDL`"
    def __init__(self,
        dataset=None,   # `Datasets` over `ArrayItems`; one over new arrays or Pillow images is converted
        bs=64,          # Batch size, fastai's default
        num_workers=0,  # Processes; they only cost time unless the items are files
        *,
        im_shape=None,  # (c,h,w) that new images should have; None: as in `dataset`
        **kwargs        # Anything `TfmdDL` takes
    ):
        dataset = _adopt(dataset, im_shape)
        items = dataset.items if isinstance(dataset, Datasets) else None
        if im_shape is None and isinstance(items, ArrayItems): im_shape = tuple(items.x.shape[1:])
        super().__init__(dataset, bs=bs, num_workers=num_workers, **kwargs)
        self.im_shape = im_shape

    def new(self, dataset=None, cls=None, **kwargs):
        "A loader like this one with a few arguments changed; `cls` may be any `TfmdDL`"
        return super().new(dataset, cls, **{'im_shape': self.im_shape, **kwargs})

    def _whole(self):
        "Whether nothing happens item by item, so that batches can be cut from the arrays"
        ds = self.dataset
        if not (isinstance(ds, Datasets) and isinstance(ds.items, ArrayItems)): return False
        opens = [f for f in ds.tls[0].tfms.fs if not isinstance(f, ItemGetter)]
        own = vars(self).keys() & {'create_item', 'create_batch', 'do_batch', 'retain'}
        return (type(ds.tls[0]) is TfmdLists and len(opens) == 1 and self.indexed and not self.prebatched and not own
                and not len(self.before_batch.fs) and all(type(f) is ToTensor for f in self.after_item.fs))

    def _targets(self, tl):
        "Labels of `tl` by position; a list that stands in for ours may hold them in `codes`, else each is asked for"
        if type(tl) is TfmdLists and [type(f) for f in tl.tfms.fs] == [ItemGetter, Categorize]:
            return tl.items.y
        codes = vars(tl).get('codes')
        if codes is None or (torch.as_tensor(codes) < 0).any():
            codes = [int(tl[i]) for i in range(len(tl))]
        return torch.as_tensor(codes)

    def create_batches(self, samps):
        "Batches of the positions `samps`, each by one indexing where that is possible"
        if not self._whole(): yield from super().create_batches(samps); return
        x = self.dataset.items.x
        im = TensorImageBW if x.shape[1] == 1 else TensorImage
        ys = [self._targets(tl).to(x.device) for tl in self.dataset.tls[1:]]
        for idxs in self.chunkify(samps):
            i = torch.as_tensor(np.asarray(idxs)).to(x.device)
            yield (im(x.index_select(0, i)), *(TensorCategory(y.index_select(0, i)) for y in ys))

# --- the factory ----------------------------------------------------------------------------------
def _split(n, pct, seed):
    k = round(n*pct)
    if not (0 < pct < 1 and 0 < k < n):
        raise ValueError(f"expected `valid_pct` in (0,1) with images left on both sides, got {pct} "
                         f"of {n} images. Choose another share, or give validation images, "
                         "`valid=(Xv, yv)`.")
    idxs = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return idxs[k:].sort().values,idxs[:k].sort().values

def _stats(x):
    "Exact mean and standard deviation in [0,1] of each channel of uint8 images"
    levels = torch.arange(256, dtype=torch.float64)/255
    p = torch.stack([torch.bincount(x[:, c].flatten(), minlength=256) for c in range(x.shape[1])])
    p = p.double()/x[:, 0].numel()
    mean = p @ levels
    return mean.tolist(),((p * (levels-mean[:, None])**2).sum(1).sqrt() + 1e-7).tolist()

def array_dls(
    X,              # Images, copied: uint8 or floats in [0,1] (rounded to uint8); array (n,h,w[,c]), tensor (n,[c,]h,w)
    y,              # Labels (n,), strings or ints; ints beside a `vocab` of names are positions in it
    valid=None,     # Validation set (Xv, yv); a number is taken as `valid_pct`
    bs=64,          # Batch size, fastai's default
    vocab=None,     # Classes in the order of the outputs; None: the different labels of `y`, sorted
    batch_tfms=None, # Batch transforms such as `aug_transforms()`; as in fastai, random ones act in training only
    device=None,    # Of batches *and* arrays, 'cuda' keeps them there; None: arrays on CPU, batches on fastai's default
    *,
    valid_pct=None, # Share in (0,1) held out at random; .2 (fastai's default) where `valid` is missing too
    normalize=True, # By the training images' mean and std; False lets a pretrained `vision_learner` add its own
    seed=0,         # Of the `valid_pct` split only; the shuffling follows `set_seed` as in any fastai loader
    val_bs=None,    # Validation batch size; None: `bs`
    shuffle=True,   # Shuffle the training set every epoch
    drop_last=None, # Drop an incomplete last training batch; None: if `shuffle` (as fastai) and a full one exists
    path='.',       # Where a learner saves
    **kwargs        # More for `ArrayDL`
) -> DataLoaders:
    "fastai loaders over images in memory, tens of times faster than over files; grey images keep their one channel"
    need_whole('bs', bs, 1, fix='Try 64.')
    if isinstance(valid, Number): valid,valid_pct = None,valid
    if valid is not None and valid_pct is not None:
        raise ValueError(f"expected `valid` or `valid_pct`, got both (valid_pct={valid_pct}). Leave one out.")
    if valid is not None and not (isinstance(valid, (tuple, list)) and len(valid) == 2):
        raise TypeError(f"expected `valid` as a pair (Xv, yv), got {type(valid).__name__}. "
                        "For a random share: `valid_pct=.2`.")
    x = as_pixels(X, 'X')
    labels = as_labels(y, len(x), 'y')
    vocab = as_vocab(vocab, labels)
    train = ArrayItems(x, codes_in(labels, vocab, 'y'), vocab)
    if valid is None:
        train,val = (train[i] for i in _split(len(x), .2 if valid_pct is None else valid_pct, seed))
    else:
        xv = as_pixels(valid[0], 'Xv')
        check_like(xv.shape[1:], x.shape[1:], 'Xv', strict=True)
        val = ArrayItems(xv, codes_in(as_labels(valid[1], len(xv), 'yv'), vocab, 'yv'), vocab)
    if drop_last is None: drop_last = shuffle and len(train) >= bs
    if drop_last and len(train) < bs:
        raise ValueError(f"expected at least one batch of {bs} training images, got {len(train)} "
                         "images. Use a smaller `bs`, or `drop_last=False`.")

    tfms = L(batch_tfms)
    have = lambda t: any(isinstance(f, t) or f is t for f in tfms)
    if not have(IntToFloatTensor): tfms = tfms + [IntToFloatTensor()]
    if normalize and not have(Normalize):
        tfms = tfms + [Normalize.from_stats(*_stats(train.x), cuda=False)]
    if device is not None:
        train.x,train.y,val.x,val.y = (o.to(device) for o in (train.x, train.y, val.x, val.y))
    device = default_device() if device is None else torch.device(device)
    opens = PILImageBW.create if x.shape[1] == 1 else PILImage.create
    tfms_xy = [ItemGetter(0), opens],[ItemGetter(1), Categorize(vocab, sort=False)]
    tls = [TfmdLists(train, t, split_idx=0) for t in tfms_xy]
    dl = ArrayDL(Datasets(tls=tls), bs=bs, shuffle=shuffle, drop_last=drop_last, device=device, after_item=[ToTensor()],
                 after_batch=tfms, **kwargs)
    valid_ds = Datasets(tls=[tl._new(val, split_idx=1) for tl in tls])
    dl_v = dl.new(valid_ds, bs=val_bs or bs, shuffle=False, drop_last=False)
    return DataLoaders(dl, dl_v, path=path, device=device)
