"fastai loaders from images in memory: `array_dls`"
import inspect
from numbers import Number
import torch
from fastai.data.core import DataLoaders, Datasets, TfmdDL, TfmdLists
from fastai.data.transforms import Categorize, IntToFloatTensor, ItemGetter, Normalize, ToTensor
from fastai.torch_core import default_device
from fastai.vision.core import PILImage, PILImageBW
from fastcore.foundation import L
from fastrobust.basics import nearest, need_whole
from fastrobust.data.arraychecks import as_labels, as_pixels, as_vocab, check_like, codes_in
from fastrobust.data.arrays import ArrayDL, ArrayItems

__all__ = ['array_dls']

# names that others have for what `array_dls` calls otherwise
_INSTEAD = {'stats': "Whether images are normalised, by their own mean and std, is `normalize`; other numbers: "
                     "batch_tfms=Normalize.from_stats(mean, std). ",
            'batch_size': "It is `bs`. ", 'valid_bs': "It is `val_bs`. ", 'x_valid': "It is `valid`, a pair. ",
            'item_tfms': "Images come as they are, resized before; of batches: `batch_tfms`. "}

# --- what loaders take ----------------------------------------------------------------------------
def need_loader_args(
    kwargs,     # What was given for the loaders
    factory,    # Function that was given it
    own,        # What it gives loaders itself
    instead     # name -> sentence, for what it calls otherwise
):
    "Refuse what no loader takes, which fastai drops without a word, and what a factory sets itself"
    name = factory.__name__
    odd = ', '.join(k for k in kwargs if k in own)
    if odd:
        raise TypeError(f"{name} sets {odd} itself, got it too. Leave it out: of your own transforms and loaders make "
                        "a DataBlock.")
    known = inspect.signature(TfmdDL.__init__).parameters.keys() - {'self', 'batch_size'}
    for k in kwargs:
        if k in known: continue
        mine = [o for o in inspect.signature(factory).parameters if o != 'kwargs']
        raise TypeError(f"{name} got an unknown {k!r}. {instead.get(k, '')}{nearest(k, mine)}")

# --- the factory ----------------------------------------------------------------------------------
def _split(n, pct, seed):
    k = round(n*pct)
    if not (0 < pct < 1 and 0 < k < n):
        raise ValueError(f"expected `valid_pct` in (0,1) with images left on both sides, got {pct} "
                         f"of {n} images. Choose another share, or give validation images, "
                         "`valid=(Xv, yv)`.")
    g = torch.Generator().manual_seed(seed)
    idxs = torch.randperm(n, generator=g)
    kept,held = idxs[k:],idxs[:k]
    return kept.sort().values,held.sort().values

def channel_stats(x):
    "Exact mean and standard deviation in [0,1] of each channel of uint8 images"
    levels = torch.arange(256, dtype=torch.float64)/255
    counts = [torch.bincount(o.flatten(), minlength=256) for o in x.unbind(1)]
    p = torch.stack(counts).double()/x[:, 0].numel()
    mean = p @ levels
    var = (p * (levels-mean[:, None])**2).sum(1)
    std = var.sqrt() + 1e-7
    return mean.tolist(),std.tolist()

def _need_valid(valid, valid_pct):
    "Refuse two validation sets, and one that is no pair"
    if valid is None: return
    if valid_pct is not None:
        raise ValueError(f"expected `valid` or `valid_pct`, got both (valid_pct={valid_pct}). "
                         "Leave one out.")
    if not (isinstance(valid, (tuple, list)) and len(valid) == 2):
        raise TypeError(f"expected `valid` as a pair (Xv, yv), got {type(valid).__name__}. "
                        "For a random share: `valid_pct=.2`.")

def _with_own(batch_tfms, x, normalize):
    "The user's batch transforms, and ours for images `x` where they lack them"
    tfms = L(batch_tfms)
    have = lambda t: any(isinstance(f, t) or f is t for f in tfms)
    if not have(IntToFloatTensor): tfms = tfms + [IntToFloatTensor()]
    if normalize and not have(Normalize):
        mean,std = channel_stats(x)
        tfms = tfms + [Normalize.from_stats(mean, std, cuda=False)]
    return tfms

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
    **kwargs        # More for the loaders, such as `num_workers`
) -> DataLoaders:
    "fastai loaders over images in memory, tens of times faster than over files; grey images keep their one channel"
    need_loader_args(kwargs, array_dls, ('dataset', 'after_item', 'after_batch'), _INSTEAD)
    need_whole('bs', bs, 1, fix='Try 64.')
    if isinstance(valid, Number): valid,valid_pct = None,valid
    _need_valid(valid, valid_pct)

    x = as_pixels(X, 'X')
    labels = as_labels(y, len(x), 'y')
    vocab = as_vocab(vocab, labels)
    train = ArrayItems(x, codes_in(labels, vocab, 'y'), vocab)
    if valid is None:
        pct = .2 if valid_pct is None else valid_pct
        kept,held = _split(len(x), pct, seed)
        train,val = train[kept],train[held]
    else:
        xv = as_pixels(valid[0], 'Xv')
        check_like(xv.shape[1:], x.shape[1:], 'Xv', strict=True)
        labels = as_labels(valid[1], len(xv), 'yv')
        val = ArrayItems(xv, codes_in(labels, vocab, 'yv'), vocab)
    if drop_last is None: drop_last = shuffle and len(train) >= bs
    if drop_last and len(train) < bs:
        raise ValueError(f"expected at least one batch of {bs} training images, got {len(train)} "
                         "images. Use a smaller `bs`, or `drop_last=False`.")

    tfms = _with_own(batch_tfms, train.x, normalize)
    if device is not None:
        for part in (train, val):
            part.x = part.x.to(device)
            part.y = part.y.to(device)
    device = default_device() if device is None else torch.device(device)

    opens = PILImageBW.create if x.shape[1] == 1 else PILImage.create
    tfms_x = [ItemGetter(0), opens]
    tfms_y = [ItemGetter(1), Categorize(vocab, sort=False)]
    tls = [TfmdLists(train, t, split_idx=0) for t in (tfms_x, tfms_y)]
    dl = ArrayDL(Datasets(tls=tls), bs=bs, shuffle=shuffle, drop_last=drop_last, device=device,
                 after_item=[ToTensor()], after_batch=tfms, **kwargs)
    valid_ds = Datasets(tls=[tl._new(val, split_idx=1) for tl in tls])
    dl_v = dl.new(valid_ds, bs=val_bs or bs, shuffle=False, drop_last=False)
    return DataLoaders(dl, dl_v, path=path, device=device)
