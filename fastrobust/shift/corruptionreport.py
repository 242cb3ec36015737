"How does a learner hold under the common corruptions? `corruption_report`: through its own pipeline, on your own data"
# Hendrycks & Dietterich, ICLR 2019, https://arxiv.org/abs/1903.12261. The corruptions are computed
# in memory, just before Normalize; the numbers of CIFAR-10-C or ImageNet-C come from the published
# files alone (`source`).
import inspect
from typing import NamedTuple
import numpy as np
from fastrobust.basics import nearest, need_learner, need_whole, plain_dl, robust_warn
from fastrobust.images.corruptions.front import corrupt
from fastrobust.images.corruptions.tables import CORRUPTIONS, EXTRA_CORRUPTIONS
from fastrobust.inference.keys import Peek, activation_key, digest, files_key, model_key
from fastrobust.inference.notes import Bar, noisy_labels_note
from fastrobust.inference.passes import passes
from fastrobust.shift.cells import CellFile, ShiftCell, keeper
from fastrobust.shift.result import CorruptionReport

__all__ = ['corruption_report']

_ME = 'corruption_report'

# --- what is asked for ----------------------------------------------------------------------------
def _names(names, source):
    if names is None: names = CORRUPTIONS
    names = [names] if isinstance(names, str) else list(dict.fromkeys(names))
    if source is not None and not hasattr(source, 'names'):
        raise TypeError(f"expected `source` to read published files, got {source!r}. Pass "
                        "CorruptedArrays(folder).")
    known = CORRUPTIONS + EXTRA_CORRUPTIONS if source is None else tuple(source.names)
    if source is not None and names == list(CORRUPTIONS):
        names = [k for k in names if k in known] or list(known)
    for k in names:
        if k not in known:
            raise ValueError(f"expected names of corruptions, got {k!r}. {nearest(k, known)}")
    if not names:
        raise ValueError("expected at least one corruption in `names`, got none. Leave it out for "
                         "the 15.")
    return names

def _severities(severities):
    s = [severities] if isinstance(severities, (int, float)) else list(severities)
    if not s:
        raise ValueError("`severities` must be of 1, 2, 3, 4, 5, got none. Leave it out for all "
                         "five.")
    fix = 'Clean images are measured anyway.'
    return sorted({need_whole('severities', v, 1, 5, fix=fix) for v in s})

def _table(table):
    known = ['auto', 'cifar', 'imagenet']
    if table in known: return table
    raise ValueError(f"expected the name of a severity table, got {table!r}. "
                     f"{nearest(table, known)}")

# fastai makes one transform of brightness, contrast, saturation
_OF_FASTAI = dict(Brightness='brightness', Contrast='contrast', Saturation='saturate')

def _own(o, k):
    "Attribute `k` of a callback or transform itself; both look elsewhere for what they have not"
    return getattr(o, k) if inspect.getattr_static(o, k, None) is not None else None

def _transforms(learn):
    "Transforms of the training images"
    dl = plain_dl(learn.dls.train) if len(learn.dls.loaders) else None
    pipes = [getattr(dl, k, None) for k in ('after_item', 'before_batch', 'after_batch')]
    lists = getattr(getattr(dl, 'dataset', None), 'tls', [])
    pipes += [getattr(tl, 'tfms', None) for tl in lists]
    return [t for p in pipes for t in getattr(p, 'fs', [])]

def _trained_on(o):
    "Corruptions that a transform or callback makes"
    names = set(_own(o, 'overlaps') or ())
    if _own(o, 'all_ops') is True: names |= {'brightness', 'contrast', 'saturate'}
    for f in [o, *(_own(o, 'fs') or [])]:
        if not type(f).__module__.startswith('fastai.'): continue
        kind = type(f).__name__.strip('_').removesuffix('Logit')
        if kind in _OF_FASTAI: names.add(_OF_FASTAI[kind])
    return names

def overlaps(learn):
    "Corruptions that the learner's transforms and callbacks trained on, name -> by what"
    found = {}
    for o in [*_transforms(learn), *learn.cbs]:
        for k in _trained_on(o):
            found.setdefault(k, []).append(type(o).__name__)
    return found

def _overlap(learn, names):
    "Those among `names`, with a warning; and a note"
    found = {k: v for k,v in overlaps(learn).items() if k in names}
    if not found: return [],[]
    by = ', '.join(dict.fromkeys(o for v in found.values() for o in v))
    msg = (f"training used operations that overlap with {', '.join(sorted(found))} ({by}): the "
           "errors there are no measure of shifts the learner has not seen. Train without them, or "
           "leave these names out.")
    robust_warn(msg)
    return sorted(found),[msg[0].upper()+msg[1:]]

# --- the passes -----------------------------------------------------------------------------------
def _in_memory(learn, dl, todo, table, seed, bar, keep):
    "Cells of `todo`, a corruption at a time: its severities share one reading of the files"
    def change(name, s):
        return lambda x, ids: corrupt(x, name, s, table=table, seed=seed, ids=ids)
    for name in dict.fromkeys(k for k,_ in todo):
        bar.name(name)
        sev = [s for k,s in todo if k == name]
        rows,_ = passes(learn, dl, [change(name, s) for s in sev], _ME, bar.tick, keep)
        for s,r in zip(sev, rows): yield name,s,ShiftCell.of(r)

def _published(learn, source, todo, bar, keep):
    "Cells of published files through the learner's batch transforms"
    y = None
    for name,s in todo:
        bar.name(name)
        dl = source.as_dl(learn, name, s)
        (r,),got = passes(learn, dl, [None], _ME, None, keep)
        bar.tick()
        if y is None: y = got
        if len(got) != source.n or len(got) != len(y) or (got != y).any():
            raise ValueError(f"expected the same {source.n} labels in every cell, got others in "
                             f"{name} severity {s}. Are all files there, as they were published?")
        yield name,s,ShiftCell.of(r)

class _Images(NamedTuple):
    "What is measured"
    n:int           # Images
    size:tuple      # Their height and width
    labels:str      # Key of the labels
    table:str       # Of the severities
    seed:object     # Of the corruptions; published files have none
    where:str       # Folder of published files; None: computed in memory
    paired:bool     # Whether the clean images are those that are corrupted

def _images_in_memory(peek, y, table, seed):
    size = peek.shape[1:]
    if table == 'auto': table = 'cifar' if min(size) <= 64 else 'imagenet'
    return _Images(len(y), size, digest(y.tolist()), table, seed, None, True)

def _images_of(learn, source, peek, y):
    size = tuple(getattr(source, 'shape', peek.shape[1:]))[:2]
    labels = digest([str(o) for o in source.labels])
    paired = hasattr(source, 'codes') and np.array_equal(source.codes(learn), y)
    return _Images(source.n, size, labels, 'published', None, str(source.folder), paired)

def _like_imagenet(im):
    "Whether AlexNet's errors on ImageNet-C are of such images"
    if im.where is None: return im.table == 'imagenet'
    return min(im.size) > 64

def _notes(table, size, source, kept, others):
    if source is None:
        yield (f"Computed in memory by fastrobust on images of {size[0]} x {size[1]}, severities "
               f"of the {table!r} table, before Normalize. The corruptions are like those of the "
               "benchmark, not its files (frost is procedural, motion blur torch's, nothing was "
               "saved as JPEG): compare with numbers made in this way only.")
    else:
        yield (f"Read from {source.folder}: published files, through the learner's batch "
               "transforms and no more.")
    if kept:
        yield (f"{kept} finished cells were read from disk: the same weights, images, labels, "
               "table and seed.")
    if others:
        yield f"{others} cells on disk are of another model, other data or settings: left alone."

def corruption_report(
    learn,              # A Learner that classifies images; it stays as it is, its recorder and random streams too
    # Loader of clean images with labels, such as `learn.dls.test_dl(items, with_labels=True)`;
    # None: the validation set
    dl=None,
    names=CORRUPTIONS,  # Corruptions: the benchmark's 15; `CORRUPTIONS + EXTRA_CORRUPTIONS` for all 19
    severities=range(1, 6), # 1 to 5
    *,
    table:str='auto',   # Severities made for 32 px ('cifar') or 224 px ('imagenet'); 'auto': by a shorter side of 64
    seed:int=0,         # Of the corruptions: the same images for every learner
    resume=None,        # Folder in which finished cells are kept, so that a report that was stopped goes on
    source=None         # Published files instead, `CorruptedArrays(folder)`: then dl is their clean test set
)->CorruptionReport:
    "Errors under common corruptions, applied just before Normalize: by severity, by group, and how well calibrated"
    need_learner(learn)
    names = _names(names, source)
    severities = _severities(severities)
    table = _table(table)
    need_whole('seed', seed)
    file = CellFile(resume)
    keep = keeper(learn)
    peek,count = Peek(),[]
    (rows,),y = passes(learn, dl, [peek], _ME, lambda: count.append(1), keep)
    overlap,notes = _overlap(learn, names)
    notes += noisy_labels_note(learn, dl, _ME)

    if source is None: im = _images_in_memory(peek, y, table, seed)
    else: im = _images_of(learn, source, peek, y)
    if not im.paired:
        notes.append("Clean images and files are not known to be the same in the same order: "
                     "no standard error of their difference.")
    files = files_key(im.where) if im.where else None
    key = digest(model_key(learn), activation_key(learn), peek.key, im.labels, im.table, im.seed,
                 im.size, im.where, files)
    cells,others = file.read(key, im.n)
    wanted = [(k, s) for k in names for s in severities]
    todo = [o for o in wanted if o not in cells]
    notes += _notes(im.table, im.size, source, len(wanted)-len(todo), others)

    if source is None:
        bar = Bar(learn, len(todo)*len(count))
        new = _in_memory(learn, dl, todo, im.table, im.seed, bar, keep)
    else:
        bar = Bar(learn, len(todo))
        new = _published(learn, source, todo, bar, keep)
    for name,s,cell in new:
        file.add(key, name, s, cell)
        cells[name, s] = cell

    place = f'of {im.where}' if im.where else 'in memory'
    facts = dict(title=f'{len(names)} corruptions x {len(severities)} severities {place}',
                 table=im.table, seed=im.seed, images=im.n,
                 image_size=f'{im.size[0]} x {im.size[1]}', overlap=overlap,
                 classes=getattr(learn.dls, 'c', None), labels=im.labels, pixels=peek.key,
                 source=im.where, alexnet=_like_imagenet(im))
    cells = {o: cells[o] for o in wanted}
    return CorruptionReport(ShiftCell.of(rows), cells, facts, notes=notes, paired=im.paired)
