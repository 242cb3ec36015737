"Open-set images from a user's arrays and loaders: as endless shuffled rows, and with the names of what they show"
import random, warnings
from hashlib import blake2b
from contextlib import nullcontext
import numpy as np
import torch
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.load import DataLoader
from fastai.torch_core import rank_distrib
from fastai.vision.core import TensorImage
from fastai.data.transforms import IntToFloatTensor
from fastrobust.basics import plain_dl
from fastrobust.resting import keep_random

__all__ = ['OpenSet']

# --- any source as images -------------------------------------------------------------------------
def as_uint8(x):
    "Images in any accepted form as uint8 (n,c,h,w); those that are uint8 already are not copied"
    if isinstance(x, np.ndarray):
        # a file opened for reading cannot be written to, which nobody does
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', message='The given NumPy array is not writ',
                                    category=UserWarning)
            x = torch.from_numpy(np.ascontiguousarray(x))
    x = torch.as_tensor(x).as_subclass(torch.Tensor)
    if x.ndim == 3: x = x[:, None]
    elif x.ndim == 4 and x.shape[1] not in (1, 3) and x.shape[-1] in (1, 3):
        x = x.permute(0, 3, 1, 2)
    if x.ndim != 4 or x.shape[1] not in (1, 3) or not len(x):
        raise ValueError("expected open-set images (n,h,w), (n,h,w,c) or (n,c,h,w), n >= 1, of 1 "
                         f"or 3 channels, got shape {tuple(x.shape)}. Stack them in one array.")
    if x.dtype == torch.uint8: return x
    if not x.is_floating_point():
        raise TypeError(f"expected open-set images as uint8 or float in [0,1], got {x.dtype}. "
                        "Convert them with `.astype('uint8')`.")
    lo,hi = x.min().item(),x.max().item()
    if not (0 <= lo and hi <= 1):
        raise ValueError(f"expected float open-set images in [0,1], got [{lo:.3g}, {hi:.3g}]. Do "
                         "not normalise them: they pass the learner's own batch transforms. Divide "
                         "by 255 if they are pixels.")
    return (x*255).round().to(torch.uint8)

def arrays_and_loaders(aux):
    "What open-set images are kept in: one array and no loader, or no array and loaders"
    if isinstance(aux, AuxRows): aux = aux.source
    if isinstance(aux, OpenSet): aux = aux.images
    if isinstance(aux, DataLoaders): aux = aux.train
    if isinstance(aux, (np.ndarray, torch.Tensor)): return aux,[]
    if isinstance(aux, torch.utils.data.DataLoader):
        raise TypeError("expected open-set images as an array or as fastai DataLoaders, got a "
                        "DataLoader of torch. Give fastai.data.load.DataLoader(dataset, bs=..), or "
                        "the images as one array.")
    if not isinstance(aux, (list, tuple, DataLoader)):
        raise TypeError("expected open-set images as an array or as fastai DataLoaders, got a "
                        f"{type(aux).__name__}. Read files with a DataBlock and give its "
                        "`.dataloaders(path)`.")
    loaders = [aux] if isinstance(aux, DataLoader) else list(aux)
    if not (loaders and all(isinstance(o, DataLoader) for o in loaders)):
        first = type(loaders[0]).__name__ if loaders else 'nothing'
        raise TypeError("expected open-set images as an array or as fastai DataLoaders, got a "
                        f"{type(aux).__name__} of {first}. Stack images with np.stack.")
    if any(not len(o.dataset) for o in loaders):
        raise ValueError("expected loaders with open-set images, got an empty one. Look how its "
                         "files were found.")
    return None,loaders

def untransformed(dl, **kwargs):
    "The loader `dl` before any batch transform: those of the training loader follow, so that all images pass the same"
    kwargs['drop_last'] = False
    if isinstance(dl, TfmdDL): kwargs['after_batch'] = []
    return dl.new(**kwargs)

def images_of(b):
    if isinstance(b, (list, tuple)): b = b[0]
    return as_uint8(b).cpu()

def _hashable(b):
    "uint8 images (n,c,h,w) of a batch, or its clips (n,t,c,h,w)"
    x = b[0] if isinstance(b, (list, tuple)) else b
    if not isinstance(x, torch.Tensor) or x.ndim != 5 or x.dtype != torch.uint8: return images_of(x)
    return x.as_subclass(torch.Tensor).cpu()

def _digest(im):
    salt = str(im.shape).encode()[:16]
    digest = blake2b(im.tobytes(), digest_size=8, salt=salt).digest()
    return int.from_bytes(digest, 'big')

def image_hashes(aux):
    """A number for each image, the same for equal ones, in every process; loaders are read once as in validation, no
    random stream moves"""
    imgs,loaders = arrays_and_loaders(aux)
    if imgs is not None: imgs = as_uint8(imgs)

    def batches():
        if imgs is not None: yield from (x.cpu() for x in imgs.split(4096))
        for dl in loaders:
            as_valid = getattr(dl.dataset, 'set_split_idx', lambda i: nullcontext())
            with as_valid(1): yield from map(_hashable, untransformed(dl, shuffle=False))

    out = []
    with keep_random():
        for x in batches(): out += [_digest(im) for im in x.numpy()]
    return out

class OpenSet:
    "Open-set images with the names of what they show, so that a report can tell whether two sets overlap"
    def __init__(self,
        images,         # Array (n,h,w[,c]) or (n,c,h,w), uint8 or float in [0,1]; or fastai DataLoader(s)
        classes=None    # Names of the classes they are of; None: those of a loader's labels, of an array not known
    ):
        if isinstance(classes, str):
            raise TypeError(f"expected `classes` as a list, got {classes!r}. Write [{classes!r}].")
        self.images = images
        self.classes = None if classes is None else list(classes)
        arrays_and_loaders(self)    # refuses what holds no images

    def __len__(self):
        x,loaders = arrays_and_loaders(self)
        return sum(len(o.dataset) for o in loaders) if x is None else len(x)
    def __repr__(self):
        if self.classes is None: return f"OpenSet: {len(self)} images"
        shown = ', '.join(map(str, self.classes[:10]))
        more = ', ..' if len(self.classes) > 10 else ''
        return f"OpenSet: {len(self)} images of {shown}{more}"

# --- rows -----------------------------------------------------------------------------------------
class AuxRows:
    "Endless shuffled open-set images, uint8 (n,c,h,w), from arrays or loaders; never part of an export"
    ids,_hashes = None,None     # Positions of the images last given; None: they came from loaders
    def __init__(self,
        aux     # Array (n,h,w[,c]) or (n,c,h,w), uint8 or float in [0,1]; fastai DataLoader(s) or a list; an `OpenSet`
    ):
        if isinstance(aux, AuxRows): aux = aux.source
        imgs,loaders = arrays_and_loaders(aux)
        self.source = aux
        self.imgs = None if imgs is None else as_uint8(imgs)
        self.loaders = [untransformed(o, shuffle=True) for o in loaders]
        self.restart()

    def restart(self):
        "Begin anew, in another order"
        self._g,self._it,self._buf = None,None,None

    def __len__(self):
        if self.imgs is not None: return len(self.imgs)
        return sum(len(o.dataset) for o in self.loaders)
    def __getstate__(self):
        return dict(source=None, imgs=None, loaders=[], _g=None, _it=None, _buf=None)
    def __deepcopy__(self, memo):
        new = object.__new__(type(self))
        # images are shared, never changed; the order is its own
        new.__dict__.update(self.__dict__)
        new.restart()
        return new

    @property
    def g(self):
        "Generator of the order (and of labels): follows torch's global seed, but differs from rank to rank"
        if self._g is None:     # torch's CPU generator uses the low 32 bits of a seed
            seed = torch.randint(2**31, ()).item() + 1_000_003*rank_distrib()
            self._g = torch.Generator().manual_seed(seed % 2**32)
        return self._g

    def hashes(self):
        "Those of `image_hashes`, kept"
        if self._hashes is None: self._hashes = frozenset(image_hashes(self))
        return self._hashes

    def _stream(self):
        "Positions of images without end, or images of loaders"
        while True:
            if self.imgs is not None: yield torch.randperm(len(self.imgs), generator=self.g)
            for dl in self.loaders:
                seed = torch.randint(2**31, (), generator=self.g).item()
                dl.rng = random.Random(seed)
                yield from map(images_of, dl)

    def next(self, n):
        "The next `n` images; every image comes once before any comes again"
        if self.imgs is None and not self.loaders:
            raise ValueError("expected open-set images, got none: they are not part of an exported "
                             "learner. Remove the technique and add a new one with its images to "
                             "train on.")
        if self._it is None: self._it = self._stream()
        while self._buf is None or len(self._buf) < n:
            new = next(self._it)
            self._buf = new if self._buf is None else torch.cat([self._buf, new])
        out,self._buf = self._buf[:n],self._buf[n:]
        if self.imgs is None: return out
        self.ids = out
        return self.imgs[out.to(self.imgs.device)].cpu()

def through_pipeline(imgs, dl, device):
    "uint8 images through the batch transforms of the training loader `dl`, once, as its own images are"
    after = getattr(plain_dl(dl), 'after_batch', None)  # a torch DataLoader has none
    fs = getattr(after, 'fs', None) or []
    if not any(isinstance(t, IntToFloatTensor) for t in fs): imgs = imgs.float()/255
    if after is None: return imgs.to(device)
    x = after((TensorImage(imgs.to(device)),))
    return x[0] if isinstance(x, (list, tuple)) else x
