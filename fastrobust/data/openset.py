"Auxiliary images of no class: made, or from a user's arrays and loaders, as endless shuffled rows"
import numpy as np
import torch
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.vision.core import TensorImage
from fastrobust.basics import nearest, plain_dl

__all__ = ['aux_images', 'AuxRows']

AUX_KINDS = ('gaussian', 'rademacher', 'blob', 'textures')

def _blur(x, sigma):
    "Gaussian blur of (n,c,h,w) with reflected borders"
    r = min(int(4*sigma+.5), x.shape[-1]-1, x.shape[-2]-1)
    k = torch.exp(-torch.arange(-r, r+1, dtype=x.dtype)**2/(2*sigma**2))
    k = (k/k.sum()).repeat(x.shape[1], 1)
    x = torch.nn.functional.pad(x, (r, r, r, r), mode='reflect')
    x = torch.nn.functional.conv2d(x, k[:, None, None, :], groups=x.shape[1])
    return torch.nn.functional.conv2d(x, k[:, None, :, None], groups=x.shape[1])

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
        raise ValueError(f"expected `kind` to be a known sort of images, got {kind!r}. {nearest(kind, AUX_KINDS)}")
    h,w = (size, size) if isinstance(size, int) else size
    if n < 1 or h < 2 or w < 2 or channels not in (1, 3):
        raise ValueError(f"expected n >= 1, sides >= 2, 1 or 3 channels, got n={n}, size={size}, channels={channels}. "
                         "Give the training images' size and channels.")
    g = torch.Generator().manual_seed(seed)
    if kind == 'gaussian':     x = torch.randn(n, channels, h, w, generator=g)*.5
    elif kind == 'rademacher': x = torch.randint(0, 2, (n, channels, h, w), generator=g)*2.-1
    elif kind == 'textures':   x = _textures(n, channels, h, w, g)
    else:
        x = _blur((torch.rand(n, channels, h, w, generator=g) < .7).float(), 1.5)
        x = torch.where(x < .75, 0., x)*2-1
    x = ((x.clamp(-1, 1)+1)*127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return np.ascontiguousarray(x[..., 0] if channels == 1 else x)

def _as_uint8(x):
    "Images in any accepted form as uint8 (n,c,h,w)"
    x = torch.as_tensor(np.ascontiguousarray(x) if isinstance(x, np.ndarray) else x).as_subclass(torch.Tensor)
    if x.ndim == 3: x = x[:, None]
    elif x.ndim == 4 and x.shape[1] not in (1, 3) and x.shape[-1] in (1, 3): x = x.permute(0, 3, 1, 2)
    if x.ndim != 4 or x.shape[1] not in (1, 3) or not len(x):
        raise ValueError("expected auxiliary images (n,h,w), (n,h,w,c) or (n,c,h,w), n >= 1, of 1 or 3 channels, got "
                         f"shape {tuple(x.shape)}. Stack them in one array.")
    if x.dtype == torch.uint8: return x
    if not x.is_floating_point():
        raise TypeError(f"expected auxiliary images as uint8 or float in [0,1], got {x.dtype}. "
                        "Convert them with `.astype('uint8')`.")
    lo,hi = x.min().item(),x.max().item()
    if not (0 <= lo and hi <= 1):
        raise ValueError(f"expected float auxiliary images in [0,1], got [{lo:.3g}, {hi:.3g}]. Do not normalise them: "
                         "they pass the training loader's own batch transforms. Divide by 255 if they are pixels.")
    return (x*255).round().to(torch.uint8)

class AuxRows:
    "Endless shuffled open-set images, uint8 (n,c,h,w), from arrays or loaders; never part of an export"
    def __init__(self,
        aux     # Images (n,h,w[,c]) or (n,c,h,w), uint8 or float in [0,1]; or a fastai DataLoader, or a list of them
    ):
        if isinstance(aux, DataLoaders): aux = aux.train
        loaders = aux if isinstance(aux, (list, tuple)) else [aux] if isinstance(aux, DataLoader) else []
        if not loaders and not isinstance(aux, (list, tuple, np.ndarray, torch.Tensor)):
            raise TypeError("expected auxiliary images as an array or as fastai DataLoaders, got a "
                            f"{type(aux).__name__}. Read files with a DataBlock and give its `.dataloaders(path)`.")
        if isinstance(aux, (list, tuple)) and not (aux and all(isinstance(o, DataLoader) for o in aux)):
            raise TypeError(f"expected auxiliary images as an array or as fastai DataLoaders, got a "
                            f"{type(aux).__name__} of {type(aux[0]).__name__ if aux else 'nothing'}. "
                            "Stack images with np.stack.")
        if any(not len(o.dataset) for o in loaders):
            raise ValueError("expected auxiliary loaders with images, got an empty one. Look how its files were found.")
        self.imgs = None if loaders else _as_uint8(aux)
        # the images before any batch transform: those of the training loader follow, so that both kinds pass the same
        self.loaders = [o.new(after_batch=[], shuffle=True, drop_last=False) for o in loaders]
        self._it,self._buf = None,None

    def __len__(self): return len(self.imgs) if self.imgs is not None else sum(len(o.dataset) for o in self.loaders)
    def __getstate__(self): return {'imgs': None, 'loaders': [], '_it': None, '_buf': None}
    def __deepcopy__(self, memo):
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__, _it=None, _buf=None)     # images are shared, never changed; a new shuffle
        return new

    def _chunks(self):
        while True:
            if self.imgs is not None: yield self.imgs[torch.randperm(len(self.imgs))]
            for dl in self.loaders:
                for b in dl: yield _as_uint8(b[0] if isinstance(b, (list, tuple)) else b)

    def next(self, n):
        "The next `n` images; every image comes once before any comes again"
        if self.imgs is None and not self.loaders:
            raise ValueError("expected auxiliary images, got none: they are not part of an exported learner. "
                             "Remove the technique and add a new one with its images to train on.")
        if self._it is None: self._it = self._chunks()
        while self._buf is None or len(self._buf) < n:
            new = next(self._it).cpu()
            self._buf = new if self._buf is None else torch.cat([self._buf, new])
        out,self._buf = self._buf[:n],self._buf[n:]
        return out

def through_pipeline(imgs, dl, device):
    "uint8 images through the batch transforms of the training loader `dl`, once, as its own images are"
    after = getattr(plain_dl(dl), 'after_batch', None)  # a torch DataLoader has none
    fs = getattr(after, 'fs', None) or []
    if not any(type(t).__name__ == 'IntToFloatTensor' for t in fs): imgs = imgs.float()/255
    if after is None: return imgs.to(device)
    x = after((TensorImage(imgs.to(device)),))
    return x[0] if isinstance(x, (list, tuple)) else x
