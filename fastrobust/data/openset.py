"Images of no class: made, read from the 300K file, taken from another data set"
from pathlib import Path
import numpy as np
import torch
from torchvision.transforms.functional import gaussian_blur
from fastrobust.basics import nearest
from fastrobust.data.arraychecks import as_labels, as_vocab, codes_in
from fastrobust.data.auxrows import AuxRows, OpenSet, image_hashes

__all__ = ['aux_images', 'aux_file', 'open_set']

# --- made -----------------------------------------------------------------------------------------
AUX_KINDS = ('gaussian', 'rademacher', 'blob', 'textures')
GENERATED = 'generated textures'    # What images of the last kind show, where a recipe takes them

def blurred(x, sigma):
    "Gaussian blur of (n,c,h,w), borders reflected; four standard deviations to each side, as far as the image reaches"
    side = [2*min(int(4*sigma+.5), n-1)+1 for n in x.shape[-2:]]
    return gaussian_blur(x, [min(side)]*2, [sigma]*2)

def _textures(n, c, h, w, g):
    "Our own: noise with a 1/f^a spectrum, stretched, so from clouds to grain"
    fy = torch.fft.fftfreq(h)[:, None]
    fx = torch.fft.rfftfreq(w)[None]
    a = torch.rand(n, 1, 1, 1, generator=g)*2
    stretch = 2**(torch.rand(n, 2, 1, 1, 1, generator=g)*4-2)
    f2 = (fy*stretch[:, 0])**2 + (fx*stretch[:, 1])**2
    f = f2.clamp_min(1/max(h, w)**2).sqrt()
    noise = torch.randn(n, c, h, w, generator=g)
    x = torch.fft.irfft2(torch.fft.rfft2(noise)/f**a, s=(h, w))
    mean = x.mean((2, 3), keepdim=True)
    std = x.std((2, 3), keepdim=True).clamp_min(1e-6)
    return (x-mean)/std*.5

def _drawn(kind, n, c, h, w, g):
    "Images of one of the `AUX_KINDS`, floats (n,c,h,w) around [-1,1]"
    if kind == 'gaussian': return torch.randn(n, c, h, w, generator=g)*.5
    if kind == 'rademacher': return torch.randint(0, 2, (n, c, h, w), generator=g)*2.-1
    if kind == 'textures': return _textures(n, c, h, w, g)
    x = torch.rand(n, c, h, w, generator=g) < .7
    x = blurred(x.float(), 1.5)
    return torch.where(x < .75, 0., x)*2-1

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
        raise TypeError(f"expected whole numbers for `n` and `size`, got n={n!r}, size={size!r}. "
                        "Round them.")
    if n < 1 or h < 2 or w < 2 or channels not in (1, 3):
        raise ValueError(f"expected n >= 1, sides >= 2, 1 or 3 channels, got n={n}, size={size}, "
                         f"channels={channels}. Give the training images' size and channels.")

    g = torch.Generator().manual_seed(seed)
    x = _drawn(kind, n, channels, h, w, g)
    x = ((x.clamp(-1, 1)+1)*127.5).round().to(torch.uint8)
    a = x.permute(0, 2, 3, 1).numpy()
    if channels == 1: a = a[..., 0]
    return np.ascontiguousarray(a)

def _mark(imgs):
    "What tells the first of some images from others: in black and white, since machines round differently"
    return image_hashes((imgs[:1] > 127).byte())[0]

def made_of(
    aux     # `AuxRows`
):          # (number, (height, width), channels, mark)
    "What it takes to make the generated textures of `aux` again; None: images of another kind"
    if not isinstance(aux.source, OpenSet) or aux.source.classes != [GENERATED] or aux.imgs is None:
        return None
    n,c,h,w = aux.imgs.shape
    return n,(h, w),c,_mark(aux.imgs)

def made_again(
    made    # By `made_of`
):          # `AuxRows`
    "The same textures; None if they were others than those of `aux_images`"
    n,size,c,mark = made
    aux = AuxRows(OpenSet(aux_images('textures', n, size, c), [GENERATED]))
    return aux if _mark(aux.imgs) == mark else None

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
    except (ValueError, EOFError, OSError) as e:
        raise ValueError(f"expected a .npy file of uint8 images, got {str(path)!r}, which NumPy "
                         f"cannot map ({e}). Save them with np.save(path, images).") from e
    fits = isinstance(a, np.ndarray) and a.dtype == np.uint8 and a.ndim in (3, 4)
    if not fits or not len(a):
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
        raise ValueError("expected at least one class to `keep`, got none. Give names of the "
                         "vocab.")
    unknown = [o for o in keep if isinstance(o, str) and o not in vocab]
    if unknown:
        raise ValueError(f"expected `keep` in the vocab, got {unknown[0]!r}. "
                         f"{nearest(unknown[0], vocab)}")

    keep = codes_in(keep, vocab, 'keep')
    names = [vocab[k] for k in keep]
    idx = torch.isin(codes_in(labels, vocab, 'y'), keep).nonzero()[:, 0]
    if not len(idx):
        raise ValueError(f"expected images of {names}, got none. Look at `y`.")
    at = idx.to(X.device) if isinstance(X, torch.Tensor) else idx.numpy()
    return OpenSet(X[at], names)
