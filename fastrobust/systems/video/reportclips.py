"Which clips a report attacks, of those the victim gets right, and how often it is right at all"
from typing import NamedTuple
import numpy as np
import torch
from torch import Tensor
from fastrobust.basics import n_classes, plain_dl, robust_warn
from fastrobust.data.apart import array_of, files_of
from fastrobust.inference.loaders import asked_loader, need_target
from fastrobust.inference.notes import noisy_labels_note, warn_callbacks
from fastrobust.inference.passes import AtRest
from fastrobust.metrics import wilson_interval
from fastrobust.systems.video.attack.blackbox import BlackBox
from fastrobust.systems.video.tfms import ChannelsFirst

__all__ = []

ME = 'video_report'

class Chosen(NamedTuple):
    "Clips to attack, and what is known of the victim"
    clips:Tensor        # (n,c,t,h,w), pixels in [0,1]
    y:Tensor            # Their classes (n,), which the victim answers
    ids:list            # Their positions in the loader
    accuracy:float      # Share of all clips that the victim gets right
    low:float           # 95 % interval of it (Wilson)
    high:float
    seen:int            # How many clips that is
    notes:list          # For the reader

def clips_of(
    xb,     # Inputs of a batch, as pixels before Normalize
    fs      # Batch transforms that they went through
):          # Floats (b,c,t,h,w) in [0,1]
    "Clips as an attack takes them"
    x = xb[0] if len(xb) == 1 else None
    if not isinstance(x, Tensor) or x.ndim != 5:
        got = [tuple(o.shape) if isinstance(o, Tensor) else type(o).__name__ for o in xb]
        raise TypeError(f"{ME} expected one input of clips, with 5 dimensions, got {got}. Make the loaders with "
                        "video_dls or a VideoBlock; of images see corruption_report.")
    x = x.as_subclass(Tensor)
    if not x.is_floating_point() or x.min() < -1e-3 or x.max() > 1.001:
        raise ValueError(f"{ME} expected float pixels in [0,1] before NormalizeVideo, got {x.dtype} from "
                         f"{float(x.min()):.3g} to {float(x.max()):.3g}. Let the batch transforms begin with "
                         "FloatVideo and normalise with NormalizeVideo.")
    turned = any(isinstance(f, ChannelsFirst) for f in fs)
    return x if turned else x.transpose(1, 2)

def _layout(dl, cut):
    "Transforms before the cut; with `ChannelsFirst` where a loader has clips (b,c,t,h,w) from the start"
    fs = list(getattr(cut.after_batch, 'fs', []))
    turns = [f for f in dl.after_batch.fs if isinstance(f, ChannelsFirst)]
    return fs if turns else [*fs, ChannelsFirst()]

def _batches(rest, dl, ids=None):
    "Clips (b,c,t,h,w) and classes of each batch"
    reader = rest.read(dl, cut=True, ids=ids)
    fs = _layout(dl, reader.dl)
    for xb,yb in reader:
        x = clips_of(xb, fs).float().cpu()
        yield x.clamp(0, 1).contiguous(),need_target(yb)

# --- the victim -----------------------------------------------------------------------------------
def least_accuracy(
    k       # Classes
):
    "Twice chance; of two or three classes, where that is (nearly) 1, halfway from chance to 1"
    return min(2/k, (1 + 1/k)/2)

def _need_victim(right, n, k, outputs):
    "Refuse a network that does not work: that it is fooled would mean nothing"
    least = least_accuracy(k)
    if n and right/n >= least: return
    if not n:
        raise ValueError(f"{ME} expected clips, got an empty loader. Look how its items were found.")
    fix = "Train it, or look whether the labels are those of its training."
    if outputs != k:
        fix = f"It has {outputs} outputs for {k} classes: give it a head for these, and train that."
    raise ValueError(f"{ME} expected a victim that is right on at least {least:.1%} of clean clips (twice chance for "
                     f"{k} classes), got {right/n:.1%} of {n:,}. How easily it is fooled would mean nothing. {fix}")

def _which(right, n, seed):
    "Up to `n` positions of clips that the victim gets right, drawn; a larger `n` begins with the same"
    gen = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(right), generator=gen)
    return order[right[order]][:n].tolist()

def _answers(rest, learn, dl):
    "Is the victim right on each clip (n,), how many outputs has it, how far is a second answer from the first"
    box = BlackBox(learn)
    found,outputs,apart = [],0,0.
    # within, what the victim draws goes on from question to question
    with box.rest():
        for x,y in _batches(rest, dl):
            p = box(x)
            outputs = p.shape[1]
            found.append(p.argmax(1) == y)
        if not found: return torch.zeros(0, dtype=torch.bool),outputs,apart
        apart = (box(x)-p).abs().max().item()
    return torch.cat(found),outputs,apart

def _chance_note(apart):
    "A note, where the same clips have two answers"
    if apart <= 1e-3: return []
    return ["The victim answers by chance, or by what it was asked before: asked twice about the same "
            f"clips, its probabilities differ by up to {apart:.2g}. Any wrong answer counts as fooled, and "
            "more questions find more of these; 'sign noise' with as many says what that alone does."]

def _trained_note(learn, dl):
    "A warning, and a note, where the clips are those of the training"
    if len(learn.dls.loaders) < 1: return []
    a,b = dl,plain_dl(learn.dls.train)
    x,y = array_of(a),array_of(b)
    same = a.dataset is b.dataset or files_of(a) & files_of(b)
    if x is not None and y is not None: same = same or np.shares_memory(x, y)
    if not same: return []
    note = "These are clips of the training set, on which the victim may be fooled less often."
    robust_warn(f'{ME}: {note}')
    return [note]

def chosen_clips(
    learn,      # A Learner that classifies clips
    dl,         # Loader with labels; None: the validation loader
    n,          # Clips to attack
    seed        # Of the draw
)->Chosen:
    "`n` clips that the victim gets right, after it was seen how often it is right"
    dl = asked_loader(learn, dl, ME)
    warn_callbacks(learn, ME)
    with AtRest(learn, ME) as rest:
        right,outputs,apart = _answers(rest, learn, dl)
        k = n_classes(learn.dls)
        _need_victim(int(right.sum()), len(right), k, outputs)
        ids = _which(right, n, seed)
        xs,ys = zip(*_batches(rest, dl, ids))
    notes = noisy_labels_note(learn, dl, ME) + _trained_note(learn, dl) + _chance_note(apart)
    if len(ids) < n:
        notes.append(f"Only {len(ids)} clips are classified correctly, of {n} asked for: all are attacked.")
        robust_warn(f'{ME}: {notes[-1]}')
    accuracy = right.float().mean().item()
    low,high = (float(o) for o in wilson_interval(accuracy, len(right)))
    return Chosen(torch.cat(xs), torch.cat(ys), ids, accuracy, low, high, len(right), notes)
