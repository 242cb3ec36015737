"What every part of fastrobust leans on: warnings, checks, warm-ups, sample ids, classes"
import difflib, sys, warnings
from contextlib import contextmanager
from contextvars import ContextVar
from numbers import Integral, Real
from pathlib import Path
from types import FunctionType
import numpy as np
import torch
from torch import nn
from fastai.learner import Learner

__all__ = ['RobustWarning']

class RobustWarning(UserWarning):
    "Something legal but odd: it runs, and the message says why you may not want it"

_LIBRARIES = {'fastrobust', 'fastai', 'fastcore', 'torch', 'contextlib'}

_said: ContextVar[set|None] = ContextVar('said', default=None)

@contextmanager
def said_once(said):
    "Inside, `robust_warn` is silent about what is in the set `said`, and adds to it what it says"
    token = _said.set(said)
    try: yield
    finally: _said.reset(token)

def robust_warn(msg):
    "Warn at the user's own line: the first above that is none of fastrobust's or fastai's"
    said = _said.get()
    if said is not None and msg in said: return
    frame,level = sys._getframe(),1
    def inside(frame): return frame.f_globals.get('__name__', '').split('.')[0] in _LIBRARIES
    while inside(frame) and frame.f_back is not None: frame,level = frame.f_back,level+1
    warnings.warn(msg, RobustWarning, stacklevel=level)
    if said is not None: said.add(msg)

def nearest(name, names):
    "`names` for an error message, the nearest to `name` first"
    names = [str(o) for o in names]
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=.4)
    known = f"Known: {', '.join(names)}."
    if not near: return known
    return f"Did you mean {' or '.join(map(repr, near))}? {known}"

def need_number(name, v):
    "Refuse what is no number, before a comparison fails obscurely"
    if isinstance(v, bool) or not isinstance(v, Real):
        raise TypeError(f"`{name}` must be a number, got {v!r}. Give one such as 1.")

def shown(v):
    "What was given where something else belongs, in a few words for an error message"
    if v is None or isinstance(v, (str, int, float)): return repr(v)
    if isinstance(v, type): return f'the class {v.__name__}'
    if isinstance(v, FunctionType): return f'the function {v.__name__}'
    return f'a {type(v).__name__}'

def need_learner(learn):
    "Refuse anything but a Learner"
    if isinstance(learn, Learner): return
    fix = "Give what robust_learner or vision_learner made."
    if learn is None:
        fix = ("`fit` and `fine_tune` return none: make it first, learn = robust_learner(dls, "
               "resnet18), then learn.fit(5).")
    elif isinstance(learn, nn.Module): fix = "Give the learner; a model alone: Learner(dls, model)."
    elif isinstance(learn, (str, Path)): fix = "Load it first: load_learner(path)."
    elif hasattr(learn, 'loaders'): fix = "Make one of them: learn = robust_learner(dls, resnet18)."
    elif callable(learn): fix = "Call it, if it makes learners, and give what it returns."
    raise TypeError(f"expected a fastai Learner, got {shown(learn)}. {fix}")

def is_whole(v):
    "A whole number of any kind, Python's or numpy's? True and False are none"
    return isinstance(v, Integral) and not isinstance(v, bool)

def need_whole(
    name,       # Of the argument
    v,          # What was given
    lo=None,    # Smallest that is allowed; None: any, and what is no whole number is a TypeError
    hi=None,    # Largest that is allowed; None: any
    what='',    # What it counts, for the message, such as 'epochs'
    fix=''      # What to do instead, a sentence
):              # `v` as an int
    "Refuse what is no whole number in its range"
    if is_whole(v) and (lo is None or v >= lo) and (hi is None or v <= hi): return int(v)
    if lo is None: span = ''
    elif hi is None: span = f' from {lo} on'
    else: span = f' from {lo} to {hi}'
    if what: span += f' ({what})'
    if not fix: fix = f'Give e.g. {lo or 0}.'
    err = TypeError if lo is None else ValueError
    raise err(f"`{name}` must be a whole number{span}, got {v!r}. {fix}")

def need_truth(
    name,       # Of the argument
    v,          # What was given
    more=''     # What else there is, for the message, such as ' or None'
):
    "`v` as True or False; a text such as 'no' would count as True"
    if isinstance(v, (bool, np.bool_)): return bool(v)
    raise TypeError(f"`{name}` must be True or False{more}, got {shown(v)}.")

def check_weight(name, v, off='leave the technique out'):
    "`v`, a positive number or a schedule of `pct_train`; a plain 0 would be a silent no-op and is refused"
    if callable(v): return v
    need_number(name, v)
    if not 0 < v < float('inf'):
        raise ValueError(f"`{name}` must be positive and finite, got {v}. To switch it off, {off}.")
    return v

def weight_at(v, pct):
    "The value at `pct` of training of a number or of a schedule"
    return v(pct) if callable(v) else v

# --- warm-ups: papers count epochs, a notebook trains for five ------------------------------------
def check_length(name, v):
    "`v`, the length of a warm-up: an int >= 0 (epochs) or a float in (0,1] (share of the fit under way)"
    if isinstance(v, bool) or not isinstance(v, Real):
        raise TypeError(f"`{name}` must be an int (epochs) or a float (share of a fit), got {v!r}. "
                        "Pass e.g. 10 or .3.")
    if isinstance(v, Integral):
        if v >= 0: return int(v)
    elif 0 < v <= 1: return float(v)
    raise ValueError(f"`{name}` must be an int >= 0 (epochs over the technique's life) or a float "
                     f"in (0,1] (share of each fit), got {v!r}. Pass e.g. 10 or .3.")

def progress(length, epochs, pct):
    "How far a warm-up is, in [0,1], after `epochs` of a technique's life and `pct` of this fit"
    at = epochs if isinstance(length, Integral) else pct
    if length == 0 or at >= length: return 1.
    return at/length

def warn_unfinished(t, name, learn):
    "Say before a fit that it will end inside the warm-up `name` of technique `t`"
    length = getattr(t, name)
    n = learn.n_epoch
    # the short first half of fine_tune
    frozen = getattr(getattr(learn, 'opt', None), 'frozen_idx', 0)
    # `validate` and `get_preds` hold the lock
    no_fit = learn.lock.locked() or hasattr(learn, 'lr_finder')
    if no_fit or frozen or not isinstance(length, Integral): return
    end = t.epochs + n
    if end > length: return
    robust_warn(f"this fit ends after epoch {end}, inside the {length} epochs of `{name}` "
                f"of {t.name}, so the technique never acts in full. Give a share of the fit "
                f"instead, e.g. {name}=.3.")

def as_f32(x):
    "Half and bfloat16 to float32, everything else as it is"
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x

# --- sample ids -----------------------------------------------------------------------------------
def plain_dl(dl):
    "The loader with the transforms: fastai's DistributedDL, there during a fit on several ranks, has it inside"
    return plain_dl(dl.dl) if 'dl' in vars(dl) else dl

def epoch_idxs(dl):
    "The order in which `dl` walks its dataset this epoch, as positions; None where no such list exists"
    # private to fastai; kept in the main process for any number of workers
    idxs = getattr(dl, '_DataLoader__idxs', None)
    # SortedDL has an iterator
    is_list = hasattr(idxs, '__len__') and hasattr(idxs, '__getitem__')
    return idxs if is_list else None

def batch_idxs(dl, i, n, idxs=None):
    "Positions in `dl.dataset` of the `n` items of batch `i`; `idxs`: the epoch's order captured at batch 0"
    if idxs is None: idxs = epoch_idxs(dl)
    bs = getattr(dl, 'bs', None)
    if idxs is None or bs is None: return None
    ids = torch.as_tensor(list(idxs[i*bs : i*bs+n]), dtype=torch.long)
    if len(ids) != n:
        raise ValueError(f"expected {n} sample ids for batch {i}, got {len(ids)}: the loader "
                         "skipped items, so they cannot be told apart. Use a dataset that returns "
                         "every item.")
    return ids

def target_vocab(dls):
    "Classes of the one target of `dls`, in the order of its codes, as they are"
    vocab = list(dls.vocab)
    of_each_target = vocab and isinstance(vocab[0], (list, tuple))
    return list(vocab[-1]) if of_each_target else vocab

def n_classes(dls):
    "Number of classes of single-label `dls`"
    c = getattr(dls, 'c', None)
    if isinstance(c, int) and c > 1: return c
    vocab = getattr(dls, 'vocab', None)
    if vocab is None:
        raise ValueError("expected single-label classification dls with a vocab, got dls without "
                         "one. Build them with a CategoryBlock, or set `dls.c` to the number of "
                         "classes.")
    return len(target_vocab(dls))
