"Data to calibrate on: read as it is, and refused where the operator was trained on it"
import numpy as np
import torch
from torch import Tensor
from fastrobust.basics import plain_dl, shown
from fastrobust.resting import keep_random
from fastrobust.systems.koopman.data.fielditems import FieldItems
from fastrobust.systems.koopman.data.fieldsplit import used_frames

__all__ = []

FEW = 2**26     # Numbers of the training fields, up to which they are compared one by one

def batches_of(
    data,   # Loader with targets, or (u, y), or (u, t, y)
    who     # Who asks
):          # Iterator of (u, t, y), t or None
    "Fields, times and targets, every one once"
    if isinstance(data, (tuple, list)) and len(data) in (2, 3):
        u,*t,y = data
        yield u,t[0] if t else None,y
        return
    if not hasattr(data, 'new') or not hasattr(data, 'dataset'):
        raise TypeError(f"{who} expected a loader with targets, (u, y) or (u, t, y), got "
                        f"{shown(data)}. For example learn.dls.valid, or "
                        "learn.dls.test_dl(fields, with_labels=True).")
    with keep_random():
        dl = plain_dl(data).new(shuffle=False, drop_last=False)
        n_inp = getattr(dl, 'n_inp', 1)
        for b in dl:
            if len(b) <= n_inp:
                raise ValueError(f"{who} expected a loader with targets, got one without. Make it "
                                 "with with_labels=True.")
            u,*t,y = [o.detach().cpu().as_subclass(Tensor) for o in b]
            yield u,t[0] if t else None,y

def histories_of(
    data    # Loader, or other data
):          # Rows (n,)
    "The history that each item of a loader is of; None where that cannot be told"
    ds = plain_dl(data).dataset if hasattr(data, 'dataset') else None
    return ds.index[:, 0].numpy() if isinstance(ds, FieldItems) else None

def overridden(
    which,  # History of each field as it was given (n,)
    told    # As a loader knows it (n,), or None
):
    "A note where a loader knows of other histories"
    if told is None: return
    both = len(np.unique(np.stack([which, told]), axis=1).T)
    known,given = len(np.unique(told)),len(np.unique(which))
    if both == known == given: return
    yield (f"`histories` given, {given}, are others than the {known} that the loader knows of, and count instead. "
           "Where fields of one history pass for several, the level is no promise: leave `histories` out.")

# --- apart from training? -------------------------------------------------------------------------
def _rows(u):
    "Each field as its bytes"
    return [o.tobytes() for o in u.detach().cpu().as_subclass(Tensor).float().contiguous().numpy()]

def _file(source): return getattr(getattr(source, 'file', None), 'path', None)

def _frames_shared(a, b):
    "Do two sets of items of one source have a frame in common?"
    seen = {row: (lo, hi) for row,lo,hi in used_frames(a.index, a.facts)}
    spans = [(*seen[row], lo, hi) for row,lo,hi in used_frames(b.index, b.facts) if row in seen]
    return any(lo < old_hi and old_lo < hi for old_lo,old_hi,lo,hi in spans)

def _refuse(who, what):
    raise ValueError(f"{who} expected fields that the operator was not trained on, got {what}: on "
                     "those its errors are too small, and so would be the bands. Give "
                     "learn.dls.valid, or new fields.")

def _as_bytes(train):
    "Bytes of the fields of training, None where they are too many or no tensors"
    if not isinstance(train, FieldItems) or not train.held or not len(train): return None
    if len(train)*train.batch(torch.tensor([0]))[0].numel() > FEW: return None
    seen = set()
    for i in torch.arange(len(train)).split(1024): seen.update(_rows(train.batch(i)[0]))
    return seen

class Apart:
    "Refuses the fields of training, where they can be told; `notes` where they cannot"
    def __init__(self,
        learn,  # A Learner
        data,   # Loader, or other data
        who     # Who asks
    ):
        loaders = learn.dls.loaders
        self.train = plain_dl(loaders[0]).dataset if len(loaders) else None
        self.who,self.notes = who,[]
        told = hasattr(data, 'dataset') and self._loader(plain_dl(data).dataset)
        self.seen = None if told else _as_bytes(self.train)
        if told or self.seen is not None: return
        self.notes.append("Whether the fields calibrated on were trained on cannot be told here; "
                          "if they were, the bands are too narrow.")

    def _loader(self, ds):
        "Refuse training items; True where it is certain that these are others"
        if ds is self.train: _refuse(self.who, 'the training set')
        if not isinstance(ds, FieldItems): return False
        if not isinstance(self.train, FieldItems): return False
        file = _file(ds.x)
        one_source = ds.x is self.train.x or (file is not None and file == _file(self.train.x))
        if not one_source: return False
        if _frames_shared(self.train, ds): _refuse(self.who, 'a loader that has frames of training')
        if ds.x.n == 1:
            self.notes.append("Calibrated on later frames of the history that was trained on: "
                              "fields near each other in time are not exchangeable, and the level "
                              "is no promise.")
        return True

    def fields(self,
        u   # Fields (n,t_in*c,*grid)
    ):
        "Refuse fields that are those of training, number for number"
        if self.seen is None: return
        shared = sum(o in self.seen for o in _rows(u))
        if shared: _refuse(self.who, f'{shared} of {len(u)} that are')
