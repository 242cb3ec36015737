"Loaders as a network at rest reads them: any images, in order, through the learner's own validation transforms"
import warnings
from contextlib import nullcontext
import numpy as np
import torch
from torch import Tensor
from fasttransform import Pipeline
from fastai.data.core import DataLoaders, Datasets, TfmdLists
from fastai.data.load import DataLoader
from fastai.data.transforms import Categorize, IntToFloatTensor, ItemGetter, ToTensor
from fastai.torch_core import TensorImageBW
from fastai.vision.core import PILImage, PILImageBW
from fastrobust.basics import RobustWarning, plain_dl, robust_warn, target_vocab
from fastrobust.data.arrays import ArrayDL, ArrayItems
from fastrobust.data.auxrows import OpenSet, arrays_and_loaders, as_uint8
from fastrobust.pixels import is_normalize
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
    if len(xb) != 1 or not isinstance(xb[0], Tensor) or xb[0].ndim != 4 or xb[0].shape[1] not in (1, 3):
        got = [tuple(o.shape) if isinstance(o, Tensor) else type(o).__name__ for o in xb]
        raise TypeError(f"{who} expected one input of images (b,c,h,w) with 1 or 3 channels, got "
                        f"{got}. It is defined for image classifiers only.")
    return xb[0]

def need_target(yb):
    "The one class of each image, int64 (b,) on the CPU"
    if not yb:
        raise ValueError("expected a loader with labels, got one of images alone: errors cannot be "
                         "counted. Make it with `learn.dls.test_dl(items, with_labels=True)`.")
    y = yb[0].as_subclass(Tensor) if isinstance(yb[0], Tensor) else None
    if len(yb) > 1 or y is None or y.ndim != 1 or y.is_floating_point():
        got = f"{len(yb)} targets" if len(yb) > 1 else type(yb[0]) if y is None else f"{y.dtype} {tuple(y.shape)}"
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

class Reader:
    "Within `with`: a loader in validation mode, every item once, in order; batches of inputs and targets"
    def __init__(self,
        dl,             # A fastai loader; it stays as it is
        cut=False,      # Stop at the pixels before Normalize? `finish` does the rest
        who='Reader'    # Who asks, for error messages
    ): self.given,self.cut,self.who = dl,cut,who

    def __enter__(self):
        fs = list(getattr(self.given.after_batch, 'fs', []))
        i = next((i for i,t in enumerate(fs) if is_normalize(t)), len(fs)) if self.cut else len(fs)
        before = dict(after_batch=fs[:i]) if i < len(fs) else {}
        self.dl = self.given.new(shuffle=False, drop_last=False, **before)
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
        x,  # Images of a batch, up to the pixels before Normalize
        yb  # Its targets
    ):
        "The images as the network gets them"
        return need_image(self._rest((x, *yb))[:1], self.who)

# --- a loader, made -------------------------------------------------------------------------------
def resizes_to(step, size):
    "Whether the transform `step` makes images of (h,w) `size`: on such images it could only crop an enlargement"
    own = getattr(step, 'size', None)       # fastai's item transforms keep (w,h)
    return isinstance(own, (tuple, list)) and tuple(own) == tuple(size)[::-1]

def learners_loader(learn, pairs, size, bs, cls, channels=None):
    "Loader over `pairs(vocab)` of image and label with the learner's transforms; images of its size stay as they are"
    dl = plain_dl(learn.dls.valid)
    fs = list(getattr(getattr(dl, 'after_batch', None), 'fs', []) or [])
    if not any(isinstance(f, IntToFloatTensor) for f in fs):
        raise TypeError("expected a learner on fastai image loaders, whose batch transforms start "
                        f"with IntToFloatTensor, got {type(dl).__name__} with "
                        f"{[type(f).__name__ for f in fs]}. Build its dls with array_dls, "
                        "ImageDataLoaders or a DataBlock.")
    types = str(getattr(dl, '_types', ''))
    grey = dl.im_shape[0] == 1 if getattr(dl, 'im_shape', None) else TensorImageBW.__name__ in types
    if channels is not None and grey != (channels == 1):
        raise ValueError(f"expected images of {'one channel' if grey else 'three channels'}, as in "
                         f"training, got {channels}. Use the arrays made from the data the learner "
                         "was trained on.")
    items = [f for f in dl.after_item.fs if not isinstance(f, ToTensor) and not resizes_to(f, size)]
    shape = getattr(dl, 'im_shape', None)
    if shape and not items and tuple(shape[1:]) != tuple(size):
        robust_warn(f"the images are {tuple(size)} pixels, the training images {tuple(shape[1:])}: used as they are.")
    vocab = target_vocab(learn.dls)
    steps = [ItemGetter(0), (PILImageBW if grey else PILImage).create],[ItemGetter(1), Categorize(vocab, sort=False)]
    todo = pairs(vocab)
    with keep_random():     # a new loader draws a seed of its own
        return dl.new(Datasets(tls=[TfmdLists(todo, t, split_idx=1) for t in steps]), cls=cls, bs=bs or dl.bs,
                      shuffle=False, drop_last=False, after_item=[ToTensor(), *items])

def own_loader(learn, i):
    "The learner's training (0) or validation loader (1) if it has images, as it has not after `load_learner`"
    dl = plain_dl(learn.dls.loaders[i]) if len(learn.dls.loaders) > i else None
    return dl if isinstance(dl, DataLoader) and getattr(dl, 'n', None) != 0 else None

def _array_dl(learn, imgs, who):
    "Loader over images in memory, with the transforms of the learner's validation loader"
    if len(learn.dls.loaders) < 2:
        raise ValueError(f"{who} expected a learner with a validation loader, whose transforms "
                         "images in memory go through, got one loader alone. Give "
                         "DataLoaders(train, valid).")
    if not imgs.shape or not len(imgs):
        raise ValueError(f"{who} expected images, got shape {tuple(imgs.shape)}. Look how they were selected.")
    try:
        x = as_uint8(imgs)
        items = lambda vocab: ArrayItems(x, torch.zeros(len(x), dtype=torch.long), vocab)
        with warnings.catch_warnings():
            # of sizes: judged where the network gets the images
            warnings.simplefilter('ignore', RobustWarning)
            return learners_loader(learn, items, tuple(x.shape[-2:]), None, ArrayDL, x.shape[1])
    except (TypeError, ValueError) as e:
        raise (TypeError if isinstance(e, TypeError) else ValueError)(f"{who}: {e}") from e

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
    x,dls = arrays_and_loaders(data) if isinstance(data, OpenSet) else (data, [data])
    if isinstance(x, (np.ndarray, Tensor)): return [_array_dl(learn, x, who)],False
    return [plain_dl(dl) for dl in dls],True

def _norms(dl):
    "Mean and standard deviation of each Normalize of a loader, one after the other"
    flat = lambda v: torch.as_tensor(v).as_subclass(Tensor).flatten().float().cpu()
    ts = [t for t in getattr(dl.after_batch, 'fs', []) if is_normalize(t) and t.mean is not None]
    return [torch.cat([flat(t.mean), flat(t.std)]) for t in ts]

def check_norms(learn, dl, who):
    "Warn about a loader that normalises otherwise: to the network even known images would look unknown"
    a,b = _norms(plain_dl(learn.dls.loaders[0])),_norms(dl)
    if len(a) == len(b) and all(len(u) == len(v) and torch.allclose(u, v, atol=1e-3) for u,v in zip(a, b)):
        return
    show = lambda vs: ', '.join(str([round(o, 3) for o in v.tolist()]) for v in vs) or 'not at all'
    robust_warn(f"{who} got a loader that normalises otherwise than the learner (means and stds): "
                f"{show(b)} against {show(a)}. The network cannot tell that difference from one "
                "between images. Make the loader with `learn.dls.test_dl(files)`, or give the "
                "images in an array.", 5)
