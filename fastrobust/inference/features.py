"Features of a frozen body for items of a loader: one pass, in order, not augmented; on disk where they are many"
import tempfile
from functools import lru_cache
import numpy as np
import torch
from torch import Tensor
from fastrobust.basics import robust_warn
from fastrobust.inference.loaders import need_image, need_target
from fastrobust.inference.notes import Bar
from fastrobust.inference.passes import AtRest, autocast

__all__ = []

IN_MEMORY = 2**29   # Bytes of features kept in memory; more go to a temporary file

@lru_cache(4)
def _odd_numbers(n, device):
    odd = np.random.default_rng(0).integers(0, 2**63, n, dtype=np.int64) | 1
    return torch.from_numpy(odd).to(device)

def digests(x):
    "A number for each image of a batch by which it is known again, uint64 (b,): of all of its pixels, to the last bit"
    words = x.as_subclass(Tensor).float().flatten(1)
    # an even number of them, in memory of its own, which can be read as int64
    words = torch.cat([words, words.new_zeros(len(words), words.shape[1] % 2)], 1).view(torch.int64)
    # a multilinear hash, sums of int64 wrap; then mixed as splitmix64 does
    h = (words*_odd_numbers(words.shape[1], words.device)).sum(1).cpu().numpy().view(np.uint64)
    for shift,factor in ((30, 0xbf58476d1ce4e5b9), (27, 0x94d049bb133111eb)):
        h = (h ^ (h >> np.uint64(shift)))*np.uint64(factor)
    return h ^ (h >> np.uint64(31))

class Rows:
    "Features (n,d) float32 and labels of n items, filled in order; what is there survives a Ctrl-C"
    def __init__(self,
        n,              # Number of items
        folder=None,    # Where a file is written if they are many; None: the system's temporary folder
        keyed=False     # Keep `digests` of the images in `keys`?
    ):
        self.n,self.folder = n,folder
        self.done = 0
        self.y = torch.zeros(n, dtype=torch.long)
        self.keys = np.zeros(n, np.uint64) if keyed else None
        self._f:Tensor|None = None
        self._file = None

    def __len__(self): return self.n

    def __getstate__(self):
        # a copy is in memory
        f = None if self._f is None else torch.tensor(self._f.numpy())
        return {**vars(self), '_f': f, '_file': None}

    @property
    def f(self):
        "Features of the items so far, float32 (done,d)"
        return torch.zeros(0, 0) if self._f is None else self._f[:self.done]

    def put(self, f, y, x):
        "The next items: features, labels, images"
        if self._f is None: self._f = self._room(f.shape[1])
        to = slice(self.done, self.done+len(f))
        self._f[to] = f
        self.y[to] = y
        if self.keys is not None: self.keys[to] = digests(x)
        self.done = to.stop

    def _room(self, d):
        if 4*self.n*d <= IN_MEMORY: return torch.zeros(self.n, d)
        # gone with the last who holds it
        self._file = tempfile.NamedTemporaryFile(dir=self.folder, suffix='.features')
        return torch.from_numpy(np.memmap(self._file.name, np.float32, 'w+', shape=(self.n, d)))

    def blocks(self, n=8192):
        "(features, labels), `n` rows at a time"
        for i in range(0, self.done, n): yield self.f[i:i+n],self.y[i:min(i+n, self.done)]

def need_like(x, like, who):
    "Refuse images of other channels than (c,h,w) `like`, warn of another size; returns the shape of these"
    got = tuple(x.shape[1:])
    if got[0] != like[0]:
        raise ValueError(f"{who} expected images of {like[0]} channels, as the body has learned, got "
                         f"{got[0]}. Convert them.")
    if got[1:] != tuple(like[1:]):
        robust_warn(f"{who} got images of {got[1]}x{got[2]} pixels, the body's were "
                    f"{like[1]}x{like[2]}: it sees things larger or smaller. Resize them alike.")
    return got

def need_vectors(f, n, who):
    "Refuse features that are no vector per image"
    if isinstance(f, Tensor) and f.ndim == 2 and len(f) == n and f.is_floating_point(): return f
    got = tuple(f.shape) if isinstance(f, Tensor) else type(f).__name__
    raise ValueError(f"{who} expected a vector of features for each of {n} images, ({n},d), got {got}. "
                     "Pool what is a map: nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten()).")

def fill(
    rows,       # `Rows` of as many items as `ids`; those that are there already are not read again
    learn,      # A Learner: its device, its precision; it stays as it is
    body,       # Function of a batch as the network gets it -> (b,d), a module on the learner's device
    dl,         # fastai loader with labels, read as in validation
    ids=None,   # Positions in its dataset; None: all of it
    who='fill', # Who asks, for error messages
    codes=None, # int64 (c,): what the labels of the loader are in `rows`; None: as they are
    like=None   # (c,h,w) of the images the body knows: other channels are refused, another size is told; None: any
):
    "Read the items that are missing, and return `rows`"
    ids = range(len(dl.dataset)) if ids is None else ids
    if rows.done == len(ids): return rows
    bar = Bar(learn, len(ids))
    bar.tick(rows.done)
    with AtRest(learn, who) as rest:
        reader = rest.read(dl, ids=[int(i) for i in ids[rows.done:]])
        for xb,yb in reader:
            x = rest.place(need_image(xb, who).as_subclass(Tensor))
            if like is not None: like = need_like(x, like, who)
            with autocast(learn): f = body(x)
            f = need_vectors(f, len(x), who).float().cpu()
            if not torch.isfinite(f.sum()):
                raise ValueError(f"{who} expected finite features, got NaN or inf among items "
                                 f"{rows.done} to {rows.done+len(f)-1}. Look at these images, and "
                                 "whether the body has diverged.")
            y = need_target(yb)
            rows.put(f, y if codes is None else codes[y], x)
            bar.tick(len(x))
    return rows
