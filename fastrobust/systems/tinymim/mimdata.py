"Loaders of pairs from images without labels: a folder, a list of files, an array, or loaders whose labels are not used"
from pathlib import Path
import numpy as np
from PIL import Image
from fastai.data.core import DataLoaders, Datasets, TfmdDL, TfmdLists
from fastai.data.transforms import IntToFloatTensor, Normalize, ToTensor, get_image_files, image_extensions
from fastai.torch_core import default_device
from fastai.vision.core import PILImage, PILImageBW, imagenet_stats
from fastrobust.basics import need_number, need_truth, need_whole, plain_dl, shown
from fastrobust.data.arrays import ArrayDL, ArrayItems
from fastrobust.data.fromarrays import array_dls, need_loader_args
from fastrobust.pixels import item_shape, pixel_space
from fastrobust.systems.tinymim.depths import need_eight_bits, need_white
from fastrobust.systems.tinymim.pairs import (CentreCrop, CropEach, FlipEach, JitterEach, OpenImage, PairUp,
                                              RandomCrop)

__all__ = ['mim_dls']

# what `mim_dls` gives loaders itself, and names of other factories for what it calls otherwise
_OWN = 'dataset','shuffle','after_item','after_batch'
_INSTEAD = {'valid_pct': "The share held out is `valid`. ", 'batch_size': "It is `bs`. ",
            'item_tfms': "The size in pixels is `size`. ", 'batch_tfms': "See `jitter`, `flip` and `stats`. "}

# --- settings -------------------------------------------------------------------------------------
def _need_size(size):
    "(height, width) of a number or a pair"
    both = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if len(both) != 2: raise ValueError(f"`size` must be a number of pixels or (height, width), got {size!r}.")
    return tuple(need_whole('size', o, 1, what='pixels', fix='Give e.g. 224.') for o in both)

def _need_jitter(jitter):
    "Amounts for brightness, contrast and colour"
    three = tuple(jitter) if isinstance(jitter, (tuple, list)) else (jitter,)*3
    for a in three: need_number('jitter', a)
    if len(three) == 3 and all(0 <= a <= 1 for a in three): return three
    raise ValueError("`jitter` must be in [0,1], one number or three for brightness, contrast and "
                     f"colour, got {jitter!r}. The paper takes .4.")

def _need_scale(scale):
    both = tuple(scale) if isinstance(scale, (tuple, list)) else ()
    for a in both: need_number('scale', a)
    if len(both) == 2 and 0 < both[0] <= both[1] <= 1: return both
    raise ValueError("`scale` must be (smallest, largest) share of the area in (0,1], got "
                     f"{scale!r}. The paper takes (.2, 1).")

# --- sources --------------------------------------------------------------------------------------
def _need_folder(path):
    "Images below a folder, in one order on every machine"
    path = Path(path)
    if not path.is_dir():
        raise ValueError(f"expected a folder of images, got {str(path)!r}, which is none. Look at "
                         "the path; of single files give a list.")
    files = sorted(get_image_files(path))
    if files: return files
    others = [p for p in path.rglob('*') if p.is_file()]
    kinds = sorted({p.suffix.lower() or 'no ending' for p in others})
    have = f" ({', '.join(kinds[:5])})" if kinds else ''
    known = ', '.join(k for k in ('.jpg', '.jpeg', '.png', '.bmp', '.gif', '.tiff', '.webp') if k in image_extensions)
    raise ValueError(f"expected images in {str(path)!r} or folders in it, got none among "
                     f"{len(others)} files{have}. Looked for the endings {known} and others of "
                     "images.")

def _need_files(files):
    odd = next((o for o in files if not isinstance(o, (str, Path))), None)
    if odd is None: return [Path(o) for o in files]
    raise TypeError(f"expected a list of paths, got {shown(odd)} in it. Images in memory: one array (n,h,w[,c]).")

def _split(n, valid, seed):
    "(training, validation) positions"
    need_number('valid', valid)
    k = max(1, round(n*valid))
    if not (0 < valid < 1 and k < n):
        raise ValueError(f"expected `valid` in (0,1) with images left on both sides, got {valid} "
                         f"of {n} images. Give more images or another share.")
    order = np.random.default_rng(seed).permutation(n)
    return np.sort(order[k:]),np.sort(order[:k])

class _Source:
    "Images to train and to validate on, as lists of one transformed item each"
    measured = None     # `PixelSpace` of the loaders they come from

    def __init__(self, train, valid, channels, size, path):
        self.train,self.valid = train,valid
        self.channels,self.size,self.path = channels,size,path
        self.in_memory = isinstance(train.items, ArrayItems)

def _of_files(files, path, valid, seed, channels, white):
    opens = OpenImage(PILImage if channels == 3 else PILImageBW, need_white(files, white))
    kept,held = _split(len(files), valid, seed)
    lists = [TfmdLists([files[i] for i in o], [opens], split_idx=i) for i,o in enumerate((kept, held))]
    return _Source(*lists, channels, None, path)

def _of_loaders(dls, valid, seed):
    "The images of loaders, opened as they do it; not cut and not augmented"
    ds = getattr(plain_dl(dls.train), 'dataset', None)
    if not isinstance(ds, Datasets):
        raise TypeError("expected DataLoaders of a DataBlock or of array_dls, got some over "
                        f"{shown(ds)}. Give the folder, a list of files or an array.")
    train = ds.tls[0]
    im = train[0]
    if not isinstance(im, Image.Image):
        raise TypeError("expected DataLoaders whose first input are images (ImageBlock), got "
                        f"{shown(im)}. Give the folder, a list of files or an array.")
    need_eight_bits(train)
    if len(dls.loaders) > 1 and len(dls.valid_ds): val = dls.valid_ds.tls[0]
    else:
        kept,held = _split(len(train), valid, seed)
        train,val = (train._new(train.items[o.tolist()], split_idx=i) for i,o in enumerate((kept, held)))
    shape = item_shape(dls)
    size = None if shape is None else shape[-2:]
    source = _Source(train, val, len(im.getbands()), size, dls.path)
    source.measured = pixel_space(dls)
    return source

def _of_array(x, valid, seed):
    n = len(x)
    _split(n, valid, seed)
    share = max(1, round(n*valid))/n
    dls = array_dls(x, np.zeros(n, int), valid_pct=share, seed=seed, bs=1)
    source = _of_loaders(dls, valid, seed)
    if source.channels == 3: source.measured = None
    return source

def _source(source, valid, seed, channels, white):
    if white is not None and (hasattr(source, 'loaders') or hasattr(source, 'shape')):
        raise ValueError(f"expected `white` beside image files alone, got it with {shown(source)}. Leave it out: what "
                         "is in memory has 8 bits.")
    if hasattr(source, 'loaders'): return _of_loaders(source, valid, seed)
    if isinstance(source, (str, Path)):
        return _of_files(_need_folder(source), Path(source), valid, seed, channels, white)
    if hasattr(source, 'shape'): return _of_array(source, valid, seed)
    if not hasattr(source, '__len__'):
        raise TypeError("expected a folder, a list of files, an array (n,h,w[,c]) or DataLoaders, "
                        f"got {shown(source)}. Give one of these.")
    if not len(source): raise ValueError("expected images, got an empty list. Look how the files were selected.")
    return _of_files(_need_files(source), Path('.'), valid, seed, channels, white)

# --- loaders --------------------------------------------------------------------------------------
def _measured(images, n=256):
    "Mean and standard deviation of grey images in [0,1], of `n` images all over the list"
    px = [np.asarray(images[int(i)]) for i in np.linspace(0, len(images)-1, min(n, len(images)))]
    px = np.concatenate([o.ravel() for o in px])
    return [px.mean()/255],[px.std()/255 + 1e-7]

def _normalize(stats, source):
    "The transform, in a list; [] for none"
    if stats is None: return []
    if not isinstance(stats, str): return [Normalize.from_stats(*stats, cuda=False)]
    if stats != 'auto': raise ValueError(f"`stats` must be 'auto', (mean, std) or None, got {stats!r}.")
    space = source.measured
    if space is not None and space.mean is not None: return [Normalize(space.mean, space.std)]
    if source.channels == 3: return [Normalize.from_stats(*imagenet_stats, cuda=False)]
    return [Normalize.from_stats(*_measured(source.train), cuda=False)]

def mim_dls(
    # Folder of images (any depth), list of files, array (n,h,w[,c]), or DataLoaders, labels unused; files of 16 bits
    # are brought to 8
    source,
    # Height and width in pixels, or a pair; None: that of the array or loaders, of files 224
    size=None,
    bs=64,          # Batch size, fastai's default
    # Share in (0,1) held out, an image at least; loaders keep the validation images they have
    valid=.05,
    *,
    crop=True,      # Random crops? False: the middle alone, for small or fixed pictures
    scale=(.2, 1.), # Shares of an image that a crop has; the paper's
    flip=None,      # Half of the images left to right, in training? None: if they are cropped
    # Of the student's brightness, contrast, colour, in [0,1], or three numbers; 0: none; the paper's
    jitter=.4,
    # (mean, std), None: no Normalize; 'auto': the loaders' own, else ImageNet's, of grey ones measured
    stats='auto',
    channels=3,     # Of images in files: 3 or 1
    # Pixel value that is white in files of 16 bits; None: 65535, refused where all are far darker. 12 bits: 4095
    white=None,
    seed=0,         # Of the held-out share
    num_workers=None, # Processes; None: of files as fastai, of arrays 0
    device=None,    # Of batches; None: fastai's default
    path=None,      # Where a learner saves; None: the folder, else '.'
    **kwargs        # More for the loaders, such as `drop_last`
)->DataLoaders:
    """Loaders of pairs without labels: the student's image, and as target the teacher's, a `TeacherImage`

    Both have the same crop and flip, the teacher's is without the jitter (https://arxiv.org/abs/2301.01296). In
    validation both are the middle of the image, alike. `dls.show_batch()` shows pairs side by side. A teacher with
    pretrained weights wants its own `stats`: `tinymim_learner` says so."""
    need_loader_args(kwargs, mim_dls, _OWN, _INSTEAD)
    need_whole('bs', bs, 1, fix='Try 64.')
    need_whole('seed', seed, 0)
    crop = need_truth('crop', crop)
    if flip is not None: flip = need_truth('flip', flip, ' or None')
    if channels not in (1, 3): raise ValueError(f"`channels` must be 3 (colour) or 1 (grey), got {channels!r}.")
    amounts,scale = _need_jitter(jitter),_need_scale(scale)
    if size is not None: size = _need_size(size)
    src = _source(source, valid, seed, channels, white)
    size = size or src.size or (224, 224)
    train,val = (Datasets(tls=[tl]) for tl in (src.train, src.valid))

    item,batch = [ToTensor()],[PairUp(), IntToFloatTensor(), *_normalize(stats, src)]
    own = src.in_memory and tuple(train.items.x.shape[-2:])
    if not crop: item += [CentreCrop(size, None)] if own != size else []
    elif own and own[0] <= size[0] and own[1] <= size[1]:
        batch.append(CropEach(size, scale))
        if own != size: item.append(CentreCrop(size))
    else: item += [RandomCrop(size, scale), CentreCrop(size)]
    if flip or (flip is None and crop): batch.append(FlipEach())
    if any(amounts): batch.append(JitterEach(amounts))

    cls = ArrayDL if src.in_memory else TfmdDL
    if src.in_memory and num_workers is None: num_workers = 0
    drop_last = kwargs.pop('drop_last', len(train) >= bs)
    device = default_device() if device is None else device
    dl = cls(train, bs=bs, shuffle=True, drop_last=drop_last, num_workers=num_workers, device=device,
             after_item=item, after_batch=batch, **kwargs)
    dl_v = dl.new(val, shuffle=False, drop_last=False)
    return DataLoaders(dl, dl_v, path=path or src.path, device=device)
