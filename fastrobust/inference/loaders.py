"Loaders as a network at rest reads them: any images, in order, through the learner's own validation transforms"
import warnings
from contextlib import contextmanager, nullcontext
from functools import partial
import numpy as np
import torch
from torch import Tensor
from fasttransform import Pipeline
from fastai.data.core import DataLoaders, Datasets, TfmdLists
from fastai.data.load import DataLoader
from fastai.data.transforms import Categorize, IntToFloatTensor, ItemGetter, ToTensor
from fastai.torch_core import TensorImageBW
from fastai.vision.augment import Resize
from fastai.vision.core import PILImage, PILImageBW
from fastrobust.basics import RobustWarning, plain_dl, robust_warn, target_vocab
from fastrobust.data.arrays import ArrayDL, unlabelled
from fastrobust.data.auxrows import OpenSet, arrays_and_loaders, as_uint8
from fastrobust.pixels import holds_clips, is_normalize, turns_clips
from fastrobust.resting import keep_random

__all__ = []

# --- what a batch is ------------------------------------------------------------------------------
def inputs_and_targets(b, n_inp):
    "Inputs and targets of a batch"
    b = tuple(b) if isinstance(b, (tuple, list)) else (b,)
    k = n_inp or max(1, len(b)-1)
    return b[:k],b[k:]

def need_image(xb, who):
    "The one image input (b,c,h,w)"
    x = xb[0] if len(xb) == 1 else None
    if not isinstance(x, Tensor) or x.ndim != 4 or x.shape[1] not in (1, 3):
        got = [tuple(o.shape) if isinstance(o, Tensor) else type(o).__name__ for o in xb]
        raise TypeError(f"{who} expected one input of images (b,c,h,w) with 1 or 3 channels, got "
                        f"{got}. It is defined for image classifiers only.")
    return x

def need_pixels(xb, who):
    "The one input, images (b,c,h,w) or clips (b,t,c,h,w), of a network clips (b,c,t,h,w)"
    x = xb[0] if len(xb) == 1 else None
    if isinstance(x, Tensor) and x.ndim == 5 and {1, 3} & set(x.shape[1:3]): return x
    return need_image(xb, who)

def need_target(yb):
    "The one class of each image, int64 (b,) on the CPU"
    if not yb:
        raise ValueError("expected a loader with labels, got one of images alone: errors cannot be "
                         "counted. Make it with `learn.dls.test_dl(items, with_labels=True)`.")
    y = yb[0].as_subclass(Tensor) if isinstance(yb[0], Tensor) else None
    if len(yb) > 1 or y is None or y.ndim != 1 or y.is_floating_point():
        if len(yb) > 1: got = f"{len(yb)} targets"
        elif y is None: got = type(yb[0])
        else: got = f"{y.dtype} {tuple(y.shape)}"
        raise ValueError(f"expected one whole class number per image, (b,), as target, got {got}. "
                         "Regression and multi-label targets have no top-1 error: use a "
                         "single-label learner (CategoryBlock).")
    return y.long().cpu()

# --- a loader, read -------------------------------------------------------------------------------
def need_loader(dl, who):
    "`dl`, if it is a loader whose transforms can be seen"
    if isinstance(dl, DataLoader): return plain_dl(dl)
    raise TypeError(f"{who} expected a fastai loader, got a {type(dl).__name__}, and nobody knows "
                    "where that normalises. Make one: `learn.dls.test_dl(items, "
                    "with_labels=True)`, or array_dls.")

def asked_loader(learn, dl, who):
    "`dl`, or the validation loader where it is None"
    if dl is not None: return need_loader(dl, who)
    if len(learn.dls.loaders) < 2:
        raise ValueError(f"{who} expected a learner with a validation loader, got "
                         f"{len(learn.dls.loaders)} loaders. Give `dl`, a loader with labels, such "
                         "as `learn.dls.test_dl(items, with_labels=True)`.")
    return need_loader(learn.dls.valid, who)

class Reader:
    "Within `with`: a loader in validation mode, every item (or `ids`) once, in order; batches of inputs and targets"
    def __init__(self,
        dl,             # A fastai loader; it stays as it is
        cut=False,      # Stop at the pixels before Normalize? `finish` does the rest
        who='Reader',   # Who asks, for error messages
        ids=None        # Positions in the dataset, in the order they are wanted; None: all, in order
    ): self.given,self.cut,self.who,self.ids = dl,cut,who,ids

    def __enter__(self):
        fs = list(getattr(self.given.after_batch, 'fs', []))
        norms = [i for i,t in enumerate(fs) if is_normalize(t) or turns_clips(t)]
        i = norms[0] if norms and self.cut else len(fs)
        before = dict(after_batch=fs[:i]) if i < len(fs) else {}
        self.dl = self.given.new(shuffle=False, drop_last=False, **before)
        # a partial, which worker processes can be sent
        if self.ids is not None: self.dl.get_idxs = partial(list, self.ids)
        quiet = getattr(self.dl.dataset, 'set_split_idx', None)
        # validation transforms, should it be the training set
        self._quiet = quiet(1) if quiet else nullcontext()
        self._quiet.__enter__()
        self._rest = Pipeline(fs[i:], split_idx=getattr(self.dl.dataset, 'split_idx', None))
        return self

    def __exit__(self, *exc): return self._quiet.__exit__(*exc)

    def __iter__(self):
        n_inp = getattr(self.dl, 'n_inp', None)
        for b in self.dl: yield inputs_and_targets(b, n_inp)

    def finish(self,
        x,  # Images or clips of a batch, up to the pixels before Normalize
        yb  # Its targets
    ):
        "The images as the network gets them"
        return need_pixels(self._rest((x, *yb))[:1], self.who)

# --- a loader, made -------------------------------------------------------------------------------
def resizes_to(step, size):
    "Whether the transform `step` makes images of (h,w) `size`: on such images it could only crop an enlargement"
    own = getattr(step, 'size', None)       # fastai's item transforms keep (w,h)
    return isinstance(own, (tuple, list)) and tuple(own) == tuple(size)[::-1]

def _need_image_loader(dl):
    "Refuse loaders that do not start from whole pixels"
    fs = list(getattr(getattr(dl, 'after_batch', None), 'fs', []) or [])
    if not any(isinstance(f, IntToFloatTensor) for f in fs):
        raise TypeError("expected a learner on fastai image loaders, whose batch transforms start "
                        f"with IntToFloatTensor, got {type(dl).__name__} with "
                        f"{[type(f).__name__ for f in fs]}. Build its dls with array_dls, "
                        "ImageDataLoaders or a DataBlock.")

def _is_grey(dl):
    "Whether the images of a loader have one channel"
    if getattr(dl, 'im_shape', None): return dl.im_shape[0] == 1
    return TensorImageBW.__name__ in str(getattr(dl, '_types', ''))

def learners_loader(learn, pairs, size, bs, cls, channels=None, vocab=None):
    """Loader over `pairs(vocab)` of image and label with the learner's transforms; images of its size stay as they are.
    `size` None: of any size; `vocab` None: the learner's"""
    # the last of one, the second of several
    dl = plain_dl(learn.dls.loaders[:2][-1])
    _need_image_loader(dl)
    grey = _is_grey(dl)
    if channels is not None and grey != (channels == 1):
        raise ValueError(f"expected images of {'one channel' if grey else 'three channels'}, as in "
                         f"training, got {channels}. Use the arrays made from the data the learner "
                         "was trained on.")
    items = [f for f in dl.after_item.fs if not isinstance(f, ToTensor)]
    shape = getattr(dl, 'im_shape', None)
    if size is not None: items = [f for f in items if not resizes_to(f, size)]
    elif shape and not items: items = [Resize(shape[1:])]
    if size is not None and shape and not items and tuple(shape[1:]) != tuple(size):
        robust_warn(f"the images are {tuple(size)} pixels, the training images "
                    f"{tuple(shape[1:])}: used as they are.")

    if vocab is None: vocab = target_vocab(learn.dls)
    image = PILImageBW if grey else PILImage
    steps = [ItemGetter(0), image.create],[ItemGetter(1), Categorize(vocab, sort=False)]
    todo = pairs(vocab)
    with keep_random():     # a new loader draws a seed of its own
        data = Datasets(tls=[TfmdLists(todo, t, split_idx=1) for t in steps])
        return dl.new(data, cls=cls, bs=bs or dl.bs, shuffle=False, drop_last=False,
                      after_item=[ToTensor(), *items])

def own_loader(learn, i):
    "The learner's training (0) or validation loader (1) if it has images, as it has not after `load_learner`"
    if len(learn.dls.loaders) <= i: return None
    dl = plain_dl(learn.dls.loaders[i])
    return dl if isinstance(dl, DataLoader) and getattr(dl, 'n', None) != 0 else None

@contextmanager
def _said_by(who):
    "Errors of what is called inside name the one who asked"
    try: yield
    except (TypeError, ValueError) as e:
        kind = TypeError if isinstance(e, TypeError) else ValueError
        raise kind(f"{who}: {e}") from e

def _array_dl(learn, items, shape, who):
    "Loader over images in memory (n,c,h,w), with the transforms of the learner's validation loader"
    if len(learn.dls.loaders) < 2:
        raise ValueError(f"{who} expected a learner with a validation loader, whose transforms "
                         "images in memory go through, got one loader alone. Give "
                         "DataLoaders(train, valid).")
    with _said_by(who), warnings.catch_warnings():
        # of sizes: judged where the network gets the images
        warnings.simplefilter('ignore', RobustWarning)
        return learners_loader(learn, items, tuple(shape[-2:]), None, ArrayDL, shape[1])

def _clip_dl(learn, x, who):
    "Loader over clips in memory, with the transforms of the learner's validation loader"
    with _said_by(who), keep_random(): return learn.dls.test_dl(list(x), num_workers=0)

def check_form(data, who):
    "Refuse what holds no images"
    if isinstance(data, (OpenSet, np.ndarray, Tensor)): return
    if isinstance(data, DataLoaders):
        raise TypeError(f"{who} expected one loader, got DataLoaders. Say which of them: `.valid`, "
                        "or `.train`, which is read without augmentation.")
    if not isinstance(data, (DataLoader, torch.utils.data.DataLoader)):
        raise TypeError(f"{who} expected a fastai loader, images in an array or tensor, or an "
                        f"OpenSet, got a {type(data).__name__}. Of files make a loader: "
                        "`learn.dls.test_dl(files)`.")
    need_loader(data, who)

def loaders_of(learn, data, who):
    "`data` as fastai loaders, and whether they may bring labels of their own"
    check_form(data, who)
    x,dls = data,[data]
    if isinstance(data, OpenSet): x,dls = arrays_and_loaders(data)
    if not isinstance(x, (np.ndarray, Tensor)): return [plain_dl(dl) for dl in dls],True
    if not x.shape or not len(x):
        raise ValueError(f"{who} expected images, got shape {tuple(x.shape)}. Look how they were "
                         "selected.")
    if holds_clips(learn.dls): return [_clip_dl(learn, x, who)],False
    with _said_by(who):
        x = as_uint8(x)
        items = unlabelled(x)
    return [_array_dl(learn, items, x.shape, who)],False

def _norms(dl):
    "Mean and standard deviation of each Normalize of a loader, one after the other"
    def flat(v):
        return torch.as_tensor(v).as_subclass(Tensor).flatten().float().cpu()
    ts = [t for t in getattr(dl.after_batch, 'fs', []) if is_normalize(t) and t.mean is not None]
    return [torch.cat([flat(t.mean), flat(t.std)]) for t in ts]

def check_norms(learn, dl, who):
    "Warn about a loader that normalises otherwise: to the network even known images would look unknown"
    a = _norms(plain_dl(learn.dls.loaders[0]))
    b = _norms(dl)
    def alike(u, v):
        return len(u) == len(v) and torch.allclose(u, v, atol=1e-3)
    if len(a) == len(b) and all(map(alike, a, b)): return
    def show(vs):
        shown = [str([round(o, 3) for o in v.tolist()]) for v in vs]
        return ', '.join(shown) or 'not at all'
    robust_warn(f"{who} got a loader that normalises otherwise than the learner (means and stds): "
                f"{show(b)} against {show(a)}. The network cannot tell that difference from one "
                "between images. Make the loader with `learn.dls.test_dl(files)`, or give the "
                "images in an array.")
