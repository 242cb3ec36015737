"Clips in memory as fastai loaders: whole batches by tensor indexing, as `array_dls` of images"
import numpy as np
import torch
from torch import Tensor
from fastai.data.core import DataLoaders, Datasets, TfmdLists
from fastai.data.transforms import Categorize, ItemGetter, ToTensor
from fastai.torch_core import default_device
from fastcore.foundation import L
from fasttransform import Transform
from fastrobust.basics import need_whole, shown
from fastrobust.data.arraychecks import as_labels, as_pixels, as_vocab, check_like, codes_in
from fastrobust.data.arrays import ArrayDL, ArrayItems
from fastrobust.data.fromarrays import channel_stats
from fastrobust.systems.video.clip import TensorVideo
from fastrobust.systems.video import showing    # noqa: F401  # pictures of its batches
from fastrobust.systems.video.splits import is_share, need_pair, random_split
from fastrobust.systems.video.tfms import ChannelsFirst, FloatVideo, NormalizeVideo

__all__ = []

# --- arrays ---------------------------------------------------------------------------------------
def _channel_axis(a, first):
    "Where the channels of (n,t,.,.,.) are; if both are possible, where NumPy or torch has them"
    places = [2, 4] if first else [4, 2]
    return next((i for i in places if a.shape[i] in (1, 3)), None)

def _channels_last(X, what):
    "Clips in memory as an array (n,t,h,w) or (n,t,h,w,c)"
    is_t = isinstance(X, Tensor)
    a = X.detach().cpu().as_subclass(Tensor).numpy() if is_t else np.asarray(X)
    axis = _channel_axis(a, is_t) if a.ndim == 5 else None
    # (t,h,w,c) of one clip is no (n,t,h,w)
    fits = a.shape[3] not in (1, 3) if a.ndim == 4 else axis is not None
    if not fits:
        raise ValueError(f"expected `{what}` as (n,t,h,w), (n,t,h,w,c) or (n,t,c,h,w) with 1 or 3 "
                         f"channels, got shape {a.shape}. One clip alone: X[None]; of other channels choose 1 or 3.")
    if not a.size:
        raise ValueError(f"expected clips in `{what}`, got shape {a.shape}. Look how they were "
                         "selected.")
    return np.moveaxis(a, 2, 4) if axis == 2 else a

def as_clips(
    X,      # Clips: uint8 or floats in [0,1]; (n,t,h,w), (n,t,h,w,c) or (n,t,c,h,w), c is 1 or 3
    what    # Its name, for messages
):          # uint8 (n,t,c,h,w), contiguous
    "A copy of clips in memory in one form"
    a = _channels_last(X, what)
    # the images one below the other: checked and brought to uint8 as images are
    n,t,*im = a.shape
    x = as_pixels(a.reshape(n*t, *im), what)
    return x.view(n, t, *x.shape[1:])

def as_clip(
    o   # A clip: uint8 or floats in [0,1]; tensors (t,c,h,w), NumPy's (t,h,w[,c])
):      # TensorVideo (t,c,h,w): uint8, or floats of no fewer levels than there were
    "A clip to be judged as it is: floats, such as an attacked clip's, are not rounded to pixels"
    if not isinstance(o, (np.ndarray, Tensor)):
        raise TypeError("expected the path of a video or a clip in memory, (t,c,h,w), got "
                        f"{shown(o)}. Give one of these.")
    a = _channels_last(o[None], 'a clip')[0]
    if a.dtype.kind != 'f': return TensorVideo(as_clips(o[None], 'a clip')[0])
    lo,hi = a.min(),a.max()
    if not (lo >= 0 and hi <= 1):
        raise ValueError(f"expected floats in [0,1] in a clip, got [{lo:.3g}, {hi:.3g}]. Divide by "
                         "255, or undo Normalize: the learner normalises itself.")
    if a.ndim == 3: a = a[..., None]
    frames = np.ascontiguousarray(a.transpose(0, 3, 1, 2), np.float32)
    return TensorVideo(torch.from_numpy(frames))

def is_float_clip(o): return isinstance(o, TensorVideo) and o.is_floating_point()

class ClipItems(ArrayItems):
    "`ArrayItems` of clips (n,t,c,h,w): items are (clip, label), a clip is an array (t,h,w,c)"
    tensor_class = TensorVideo
    def __repr__(self):
        shape = tuple(self.x.shape[1:])
        return f'ClipItems: {len(self)} clips of (t,c,h,w) {shape} on {self.x.device}'

    def _item(self, i):
        clip = self.x[i].permute(0, 2, 3, 1).cpu().numpy().copy()
        if self.y is None: return clip
        return clip,self.vocab[int(self.y[i])]

class AsClip(Transform):
    "An array (t,h,w[,c]) or tensor (t,c,h,w) of one clip as a `TensorVideo` of uint8 (t,c,h,w)"
    def __init__(self):
        super().__init__()
        self.input_types = np.ndarray,Tensor

    def encodes(self, o:TensorVideo): return o
    def encodes(self, o:np.ndarray):    # type: ignore[no-redef]  # noqa: F811  # by type
        return TensorVideo(as_clips(o[None], 'a clip')[0])
    def encodes(self, o:Tensor):        # type: ignore[no-redef]  # noqa: F811  # by type
        return TensorVideo(as_clips(o[None], 'a clip')[0])

# --- the loader -----------------------------------------------------------------------------------
def _adopt(ds, shape):
    "`ds` with new clips in one array as `ClipItems`, with labels if they are (clip, label); else as it came"
    if not isinstance(ds, Datasets): return ds
    items,labels = ds.items,None
    if isinstance(items, ArrayItems) or len(items) == 0: return ds
    if is_float_clip(items[0]):     # read one by one, as they are
        if shape is not None: check_like(items[0].shape[1:], shape, 'test_items')
        return ds
    if not isinstance(items, (np.ndarray, Tensor)):
        if len(ds.tls) == 2 and all(isinstance(o, tuple) for o in items): items,labels = zip(*items)
        if not all(isinstance(o, (np.ndarray, Tensor)) for o in items): return ds
        if len({o.shape for o in items}) > 1: return ds
        items = torch.stack(tuple(items)) if isinstance(items[0], Tensor) else np.stack(items)
    x = as_clips(items, 'test_items')
    if shape is not None: check_like(x.shape[2:], shape, 'test_items')
    y,vocab = None,None
    if labels is not None:
        vocab = list(ds.tls[1].tfms.fs[-1].vocab)
        y = codes_in(as_labels(labels, len(x), 'test_items'), vocab, 'test_items')
    tls = [tl._new(ClipItems(x, y, vocab), split_idx=1) for tl in ds.tls]
    return Datasets(tls=tls, n_inp=ds.n_inp)

class ClipDL(ArrayDL):
    "An `ArrayDL` of `ClipItems`, whose batches are clips: `TensorVideo` (b,t,c,h,w)"
    adopt = staticmethod(_adopt)

# --- the factory ----------------------------------------------------------------------------------
def batch_steps(
    batch_tfms,     # The user's batch transforms
    stats,          # (mean, std) of each channel; None: no Normalize
):                  # A list
    "Batch transforms of clips: the user's, and what every loader of clips has where they lack it"
    tfms = L(batch_tfms)
    def have(t): return any(isinstance(f, t) or f is t for f in tfms)
    steps = [t() for t in (FloatVideo, ChannelsFirst) if not have(t)]
    if stats is not None and not have(NormalizeVideo):
        steps.append(NormalizeVideo.from_stats(*stats))
    return [*tfms, *steps]

def need_stats(stats):
    "(mean, std), or 'auto' or None"
    pair = isinstance(stats, (tuple, list)) and len(stats) == 2
    if stats is None or pair or (isinstance(stats, str) and stats == 'auto'): return stats
    raise ValueError("`stats` must be 'auto', (mean, std) of each channel or None, got "
                     f"{shown(stats)}.")

def _parts(X, y, valid, vocab, seed):
    "`ClipItems` to train and to validate on"
    x = as_clips(X, 'X')
    labels = as_labels(y, len(x), 'y')
    vocab = as_vocab(vocab, labels)
    train = ClipItems(x, codes_in(labels, vocab, 'y'), vocab)
    if is_share(valid):
        kept,held = random_split(len(x), valid, seed)
        return train[kept],train[held]
    Xv,yv = need_pair(valid)
    xv = as_clips(Xv, 'Xv')
    if xv.shape[1] != x.shape[1]:
        raise ValueError(f"expected clips of {x.shape[1]} frames in `Xv`, as in training, got "
                         f"{xv.shape[1]}. Cut them first.")
    check_like(xv.shape[2:], x.shape[2:], 'Xv', strict=True)
    labels = as_labels(yv, len(xv), 'yv')
    return train,ClipItems(xv, codes_in(labels, vocab, 'yv'), vocab)

def clip_dls(
    X,              # Clips, copied: uint8 or floats in [0,1]; (n,t,h,w), (n,t,h,w,c) or (n,t,c,h,w)
    y,              # Labels (n,), strings or ints; ints beside a `vocab` of names are positions in it
    valid=.2,       # Share in (0,1) held out, fastai's default, or a pair (Xv, yv)
    bs=32,          # Batch size
    vocab=None,     # Classes in the order of the outputs; None: the different labels of `y`, sorted
    batch_tfms=None, # Such as `video_aug()`
    stats='auto',   # (mean, std) of each channel, None: no Normalize; 'auto': the training clips' own
    seed=0,         # Of the held-out share
    val_bs=None,    # Validation batch size; None: `bs`
    shuffle=True,   # Shuffle the training set every epoch
    drop_last=None, # Drop an incomplete last training batch; None: if `shuffle` and a full one exists
    device=None,    # Of batches; None: fastai's default
    path='.',       # Where a learner saves
    **kwargs        # More for `ClipDL`
)->DataLoaders:
    "fastai loaders over clips in memory"
    need_whole('bs', bs, 1, fix='Try 32.')
    need_whole('seed', seed, 0)
    stats = need_stats(stats)
    train,val = _parts(X, y, valid, vocab, seed)
    if drop_last is None: drop_last = shuffle and len(train) >= bs
    if drop_last and len(train) < bs:
        raise ValueError(f"expected at least one batch of {bs} training clips, got {len(train)} "
                         "clips. Use a smaller `bs`, or `drop_last=False`.")
    if isinstance(stats, str): stats = channel_stats(train.x.flatten(0, 1))
    device = default_device() if device is None else torch.device(device)
    steps = [ItemGetter(0), AsClip()],[ItemGetter(1), Categorize(train.vocab, sort=False)]
    tls = [TfmdLists(train, t, split_idx=0) for t in steps]
    dl = ClipDL(Datasets(tls=tls), bs=bs, shuffle=shuffle, drop_last=drop_last, device=device,
                after_item=[ToTensor()], after_batch=batch_steps(batch_tfms, stats), **kwargs)
    valid_ds = Datasets(tls=[tl._new(val, split_idx=1) for tl in tls])
    dl_v = dl.new(valid_ds, bs=val_bs or bs, shuffle=False, drop_last=False)
    return DataLoaders(dl, dl_v, path=path, device=device)
