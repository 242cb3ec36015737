"A teacher that is asked once about each image: where crops are fixed, what it said is kept in memory"
import torch
from torch import Tensor
from fastai.callback.core import Callback
from fastai.vision.augment import RandTransform
from fastrobust.basics import batch_idxs, check_weight, plain_dl
from fastrobust.pixels import peek_images
from fastrobust.systems.tinymim.distilling import Distil, images_of
from fastrobust.systems.tinymim.pairs import JitterEach
from fastrobust.training.callback import ObjectiveCallback
from fastrobust.training.recording import fit_starts

__all__ = []

# --- nested tuples and dicts of tensors ---------------------------------------------------------------
def mapped(
    f,      # Of tensors
    *parts  # Tensors, or dicts and tuples of them, of one form; what else is in the first stays
):
    "`f` of the tensors at each place"
    o = parts[0]
    if isinstance(o, Tensor): return f(*parts)
    if isinstance(o, dict): return {k: mapped(f, *(p[k] for p in parts)) for k in o}
    if not isinstance(o, tuple): return o
    inner = [mapped(f, *ps) for ps in zip(*parts)]
    return type(o)(*inner) if hasattr(o, '_fields') else tuple(inner)

def _bytes(told):
    "Of what is kept of one image"
    sizes = []
    mapped(lambda t: sizes.append(2*t[0].numel()), told)
    return sum(sizes)

class Store:
    "What one teacher said of the images of one dataset, float16"
    def __init__(self, n):
        self.n,self.rows = n,None
        self.there,self.sums = torch.zeros(n, dtype=torch.bool),torch.zeros(n)

    def _check(self, ids, sums):
        old = self.there[ids]
        far = (self.sums[ids]-sums).abs() > 1e-3*(1+sums.abs())
        if not (old & far).any(): return
        raise ValueError("expected images that are the same in every epoch, to keep what the "
                         "teacher says of them, got others than before. Take mim_dls(.., "
                         "crop=False), or leave `keep` out.")

    def answers(self, ids, x, ask):
        "Of images `x` with positions `ids`; `ask(x)` of new ones"
        sums = x.flatten(1).float().mean(1).cpu()
        self._check(ids, sums)
        new = ~self.there[ids]
        if new.any(): self._keep(ids[new], ask(x[new.to(x.device)]))
        self.there[ids],self.sums[ids] = True,sums
        return mapped(lambda t: t[ids.to(t.device)].float(), self.rows)

    def _keep(self, ids, told):
        if self.rows is None:
            self.rows = mapped(lambda t: t.new_empty((self.n, *t.shape[1:]), dtype=torch.float16), told)
        def put(rows, t): rows[ids.to(t.device)] = t.to(rows.dtype)
        mapped(put, self.rows, told)

class Asker:
    "Stands in for a technique's `asked` during a fit"
    def __init__(self, technique, keeper=None): self.technique,self.keeper = technique,keeper
    def __deepcopy__(self, memo): return self
    def __reduce__(self): return Asker,(self.technique,)
    def __repr__(self): return 'kept'

    def __call__(self, x, kept=None):
        t = self.technique
        ask = lambda x: type(t).asked(t, x, kept)
        ids = None if self.keeper is None else self.keeper.ids
        if kept is not None or ids is None or len(ids) != len(x): return ask(x)
        return self.keeper.store(t).answers(ids, x, ask)

# --- the callback -----------------------------------------------------------------------------------------
class KeepAnswers(Callback):
    """What a teacher says of each image is kept, float16, and it is asked no more; for images that are the same in
    every epoch, as of mim_dls(.., crop=False). The student's jitter may vary"""
    order = ObjectiveCallback.order-2
    ids = None  # Positions of the batch's images
    def __init__(self,
        budget=1.   # Memory that it may take, > 0, in GiB
    ):
        self.budget = check_weight('budget', budget)
        self.stores = {}

    def before_fit(self):
        self._leave()
        if not fit_starts(self.learn) or hasattr(self.learn, 'lr_finder'): return
        ts = [t for t in self.learn.cbs if isinstance(t, Distil)]
        if not ts:
            raise ValueError("expected a technique with a teacher, whose answers are kept, got none. Leave `keep` out.")
        self._need_fixed()
        self._need_memory(ts)
        for t in ts: vars(t)['asked'] = Asker(t, self)

    def _leave(self):
        self.ids = None
        for t in self.learn.cbs:
            if isinstance(t, Distil): vars(t).pop('asked', None)

    after_fit = _leave

    def _need_fixed(self):
        "Refuse random transforms that the teacher would see"
        dl = plain_dl(self.dls.train)
        fs = [f for k in ('after_item', 'before_batch', 'after_batch') for f in getattr(dl, k).fs]
        fs += [f for tl in getattr(dl.dataset, 'tls', []) for f in tl.tfms.fs]
        odd = [type(f).__name__ for f in fs if _varies(f)]
        if not odd: return
        raise ValueError("expected images that are the same in every epoch, to keep what the "
                         f"teacher says of them, got {', '.join(odd)} in the loaders. Take "
                         "mim_dls(.., crop=False), or leave `keep` out.")

    def _need_memory(self, ts):
        "Refuse more than the budget, before anything is computed"
        n = len(self.dls.train_ds) + len(self.dls.valid_ds)
        p = next(self.model.parameters())
        x = peek_images(self.dls)[:2].as_subclass(Tensor).to(p.device, p.dtype)
        one = sum(_bytes(t.asked(x)) for t in ts)
        size = n*one/2**30
        said = f"{n} images of {one/2**10:.1f} KiB, {size:.3g} GiB in all"
        if size > self.budget:
            raise ValueError(f"expected what the teacher says to fit into {self.budget:g} GiB, got "
                             f"{said}. Leave `keep` out, or give as much: keep={size*1.01:.2g}.")
        if not self.stores: print(f'the teacher is asked once: {said}')

    def before_batch(self):
        self.ids = batch_idxs(self.dl, self.iter, len(images_of(self.learn)))

    def after_batch(self): self.ids = None

    def store(self, technique):
        ds = plain_dl(self.dl).dataset
        key = technique.name,id(ds)
        if key not in self.stores: self.stores[key] = ds,Store(len(ds))
        return self.stores[key][1]

    def __getstate__(self): return {**super().__getstate__(), 'stores': {}, 'ids': None}

def _varies(f):
    "Does a transform change what the teacher sees, from epoch to epoch?"
    if isinstance(f, JitterEach): return False
    return isinstance(f, RandTransform) or getattr(f, 'split_idx', None) == 0
