"Features of a frozen body for items of a loader: one pass, in order, not augmented; on disk where they are many"
import tempfile
from functools import lru_cache
import numpy as np
import torch
from torch import Tensor
from fastrobust.inference.loaders import need_image, need_target
from fastrobust.inference.notes import Bar
from fastrobust.inference.passes import AtRest, autocast

__all__ = []

IN_MEMORY = 2**29   # Bytes of features kept in memory; more go to a temporary file

@lru_cache(4)
def _odd_numbers(n):
    return np.random.default_rng(0).integers(0, 2**64, n, dtype=np.uint64) | np.uint64(1)

def digests(x):
    "A number for each image of a batch by which it is known again, made of 16 x 16 of its pixels at most"
    step = max(1, -(-max(x.shape[-2:])//16))
    some = x.as_subclass(Tensor)[..., ::step, ::step].float().cpu().numpy()
    words = np.ascontiguousarray(some).reshape(len(x), -1).view(np.uint32)
    # a multilinear hash: sums of uint64 wrap. Mixed as splitmix64 does: the small ones are a sample
    h = (words*_odd_numbers(words.shape[1])).sum(1, dtype=np.uint64)
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
    codes=None  # int64 (c,): what the labels of the loader are in `rows`; None: as they are
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
