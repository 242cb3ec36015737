"Images of no class: made, read from the 300K file, taken from another data set; and whether two such sets overlap"
import os
from pathlib import Path
import numpy as np
import torch
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastcore.foundation import L
from torchvision.transforms.functional import gaussian_blur
from fastrobust.basics import nearest
from fastrobust.data.arrays import ArrayItems
from fastrobust.data.arraychecks import as_labels, as_vocab, codes_in
from fastrobust.data.auxrows import AuxRows, OpenSet, arrays_and_loaders, image_hashes
from fastrobust.data.reading import codes, label_vocab

__all__ = ['aux_images', 'aux_file', 'open_set']

# --- made -----------------------------------------------------------------------------------------
AUX_KINDS = ('gaussian', 'rademacher', 'blob', 'textures')

def blurred(x, sigma):
    "Gaussian blur of (n,c,h,w), borders reflected; four standard deviations to each side, as far as the image reaches"
    side = [2*min(int(4*sigma+.5), n-1)+1 for n in x.shape[-1:-3:-1]]
    return gaussian_blur(x, [min(side)]*2, [sigma]*2)

def _textures(n, c, h, w, g):
    "Our own: noise with a 1/f^a spectrum, stretched, so from clouds to grain"
    fy,fx = torch.fft.fftfreq(h)[:, None],torch.fft.rfftfreq(w)[None]
    a = torch.rand(n, 1, 1, 1, generator=g)*2
    stretch = 2**(torch.rand(n, 2, 1, 1, 1, generator=g)*4-2)
    f = ((fy*stretch[:, 0])**2 + (fx*stretch[:, 1])**2).clamp_min(1/max(h, w)**2).sqrt()
    noise = torch.fft.rfft2(torch.randn(n, c, h, w, generator=g))
    x = torch.fft.irfft2(noise/f**a, s=(h, w))
    return (x-x.mean((2, 3), keepdim=True))/x.std((2, 3), keepdim=True).clamp_min(1e-6)*.5

def aux_images(
    kind:str,       # 'gaussian', 'rademacher', 'blob' (ODNL's code) or 'textures' (our 1/f noise)
    n:int,          # How many
    size,           # Side in pixels, or (height, width)
    channels:int=3, # 1 or 3
    seed:int=0      # Of the generator; torch's global stream is left alone
):
    "`n` generated open-set images, uint8 (n,h,w) or (n,h,w,channels), for users who have none of their own"
    if kind not in AUX_KINDS:
        raise ValueError(f"expected `kind` to be a known sort of images, got {kind!r}. "
                         f"{nearest(kind, AUX_KINDS)}")
    h,w = (size, size) if isinstance(size, int) else size
    if not all(isinstance(o, (int, np.integer)) for o in (n, h, w)):
        raise TypeError(f"expected whole numbers for `n` and `size`, got n={n!r}, size={size!r}. Round them.")
    if n < 1 or h < 2 or w < 2 or channels not in (1, 3):
        raise ValueError(f"expected n >= 1, sides >= 2, 1 or 3 channels, got n={n}, size={size}, "
                         f"channels={channels}. Give the training images' size and channels.")
    g = torch.Generator().manual_seed(seed)
    if kind == 'gaussian':     x = torch.randn(n, channels, h, w, generator=g)*.5
    elif kind == 'rademacher': x = torch.randint(0, 2, (n, channels, h, w), generator=g)*2.-1
    elif kind == 'textures':   x = _textures(n, channels, h, w, g)
    else:
        x = blurred((torch.rand(n, channels, h, w, generator=g) < .7).float(), 1.5)
        x = torch.where(x < .75, 0., x)*2-1
    x = ((x.clamp(-1, 1)+1)*127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return np.ascontiguousarray(x[..., 0] if channels == 1 else x)

# --- found ----------------------------------------------------------------------------------------
def aux_file(
    path    # Of a .npy file with uint8 images (n,h,w,c), such as 300K_random_images.npy of Outlier Exposure
) -> np.ndarray: # (n,h,w,c), mapped: pages are read from disk when they are needed
    "Open-set images in a file that need not fit in memory (https://github.com/hendrycks/outlier-exposure)"
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"expected a file of images, got {str(path)!r}, which is none. "
                                "300K_random_images.npy is linked from "
                                "github.com/hendrycks/outlier-exposure; `aux_images` makes images.")
    try: a = np.load(path, mmap_mode='r')
    except (ValueError, EOFError, OSError) as e: raise ValueError(
        f"expected a .npy file of uint8 images, got {str(path)!r}, which NumPy cannot map ({e}). "
        "Save them with np.save(path, images).") from e
    if not isinstance(a, np.ndarray) or a.dtype != np.uint8 or a.ndim not in (3, 4) or not len(a):
        got = f'{a.dtype} {a.shape}' if isinstance(a, np.ndarray) else type(a).__name__
        raise ValueError(f"expected uint8 images (n,h,w,c) in {str(path)!r}, got {got}. Save them "
                         "with np.save(path, images).")
    return a

def open_set(
    X,      # Images of a labelled data set, as for `OpenSet`: an array or tensor (n,...)
    y,      # Their labels (n,): names, or positions in `vocab`
    vocab,  # Class names; None: the different labels
    keep    # Classes to take, none of them a class of the training set: names, or positions in a `vocab` of names
) -> OpenSet:
    "The images of some classes of a labelled set as an open set that knows their names"
    labels = as_labels(y, len(X), 'y')
    vocab = as_vocab(vocab, labels)
    if isinstance(keep, str): keep = [keep]
    keep = [o.item() if hasattr(o, 'item') else o for o in keep]
    if not keep:
        raise ValueError("expected at least one class to `keep`, got none. Give names of the vocab.")
    unknown = [o for o in keep if isinstance(o, str) and o not in vocab]
    if unknown:
        raise ValueError(f"expected `keep` in the vocab, got {unknown[0]!r}. "
                         f"{nearest(unknown[0], vocab)}")
    keep = codes_in(keep, vocab, 'keep')
    idx = torch.isin(codes_in(labels, vocab, 'y'), keep).nonzero()[:, 0]
    if not len(idx):
        raise ValueError(f"expected images of {[vocab[k] for k in keep]}, got none. Look at `y`.")
    return OpenSet(X[idx.to(X.device) if isinstance(X, torch.Tensor) else idx.numpy()], [vocab[k] for k in keep])

# --- apart? ---------------------------------------------------------------------------------------
def parts_of(o):
    "Arrays and loaders of an open set in any form; of DataLoaders all, since any may be shown"
    if isinstance(o, OpenSet): o = o.images
    if isinstance(o, DataLoaders): return list(o.loaders)
    x,loaders = arrays_and_loaders(o)
    return loaders if x is None else [x]

def names_shown(o, parts):
    "Names of what the images show, as far as known; numbers name nothing"
    o = o.source if isinstance(o, AuxRows) else o
    if isinstance(o, OpenSet) and o.classes is not None:
        return {str(k).strip().casefold(): str(k) for k in o.classes}
    names = {}
    for dl in parts:
        if not isinstance(dl, DataLoader): continue
        try: vocab,y = label_vocab(dl.dataset, 'it'),codes(dl.dataset, 'it')
        except (TypeError, ValueError, AttributeError): continue    # a loader without labels
        names.update({k.strip().casefold(): k for k in (vocab[i] for i in np.unique(y)) if isinstance(k, str)})
    return names

def array_of(o):
    "The array an open set, or a loader over arrays, is kept in"
    items = getattr(getattr(o, 'dataset', None), 'items', None)
    o = items.x if isinstance(items, ArrayItems) else o
    return o.detach().cpu().numpy() if isinstance(o, torch.Tensor) else o if isinstance(o, np.ndarray) else None

def _files(o):
    "Files a loader reads"
    items = getattr(getattr(o, 'dataset', None), 'items', None)
    if not isinstance(items, (list, tuple, L)): return set()
    return {os.path.abspath(f) for f in items if isinstance(f, Path) or (isinstance(f, str) and os.path.isfile(f))}

def shared_with(
    aux,        # Images a technique trains on: anything ODNL takes, or its `.aux`
    unknown     # Images to be told from the known ones: an array, a loader, DataLoaders or an `OpenSet`
) -> str|None:  # What they have in common, for a message; None: nothing that can be seen
    "Why `unknown` is not unknown to a network that trained on `aux`: same classes, memory, files or images"
    if isinstance(aux, AuxRows) and aux.source is None:
        return None     # of an exported learner: the images are gone
    a,u = parts_of(aux),parts_of(unknown)
    mine,theirs = names_shown(aux, a),names_shown(unknown, u)
    both = [theirs[k] for k in theirs if k in mine]
    if both: return f"both show {', '.join(both[:5])}{' ..' if len(both) > 5 else ''}"
    for p in a:
        for q in u:
            if p is q or (isinstance(p, DataLoader) and getattr(q, 'dataset', None) is p.dataset):
                return 'both are the same object'
            x,y = array_of(p),array_of(q)
            if x is not None and y is not None and np.may_share_memory(x, y) and np.shares_memory(x, y):
                return 'both are kept in the same memory'
    files = sorted(set().union(*map(_files, a)) & set().union(*map(_files, u)))
    if files: return f'{len(files)} of the files are in both, the first {files[0]}'
    mine = aux.hashes() if isinstance(aux, AuxRows) else set(image_hashes(aux))
    same = sum(h in mine for q in u for h in image_hashes(q))
    return f'{same} of the images are in both' if same else None

# --- what a learner remembers of them, when technique and images are gone -------------------------
OPEN_SET_FACTS = 'classes','files','images'

def trained_open_sets(learn):
    """What `learn` was trained on as open set, with the fields `OPEN_SET_FACTS`: the callback that the techniques leave
    on a learner, or the field that `strip` gives a plain one; None: nothing"""
    return vars(learn).get('trained_open_sets')

def what_it_shows(aux):
    "What of `aux` (AuxRows) can be known later, in plain types: classes, files, digests of arrays"
    parts = parts_of(aux)
    return dict(classes=names_shown(aux, parts).values(), files=set().union(*map(_files, parts)),
                images=aux.hashes() if all(array_of(p) is not None for p in parts) else ())

def seen_before(seen, unknown):
    "Why `unknown` is not unknown to a learner with `trained_open_sets`; None: nothing that can be seen"
    if seen is None: return None
    u = parts_of(unknown)
    mine,theirs = {str(k).strip().casefold() for k in seen.classes},names_shown(unknown, u)
    both = [v for k,v in theirs.items() if k in mine]
    if both: return f"both show {', '.join(both[:5])}{' ..' if len(both) > 5 else ''}"
    files = set().union(*map(_files, u)) & set(seen.files)
    if files: return f'{len(files)} of the files are in both'
    mine = set(seen.images)
    same = sum(h in mine for q in u for h in image_hashes(q)) if mine else 0
    return f'{same} of the images are in both' if same else None

def share_items(a, b):
    "Whether two loaders, or an array and a loader, plainly hold the same items: dataset, memory or files"
    if isinstance(a, DataLoader) and isinstance(b, DataLoader) and a.dataset is b.dataset:
        return True
    x,y = array_of(a),array_of(b)
    if x is not None and y is not None and len(x) and len(y) and np.shares_memory(x, y): return True
    if _files(a) & _files(b): return True
    if x is None or y is None or max(len(x), len(y)) > 20000: return False
    # copies too, where that is quick; a few may be chance
    a,b = set(image_hashes(a)),set(image_hashes(b))
    return len(a & b) > .5*min(len(a), len(b))
