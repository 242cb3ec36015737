"How does a learner hold under the common corruptions? `corruption_report`: through its own pipeline, on your own data"
# Hendrycks & Dietterich, ICLR 2019, https://arxiv.org/abs/1903.12261. The corruptions are computed
# in memory, just before Normalize; the numbers of CIFAR-10-C or
# ImageNet-C come from the published files alone (`source`).
import inspect
import numpy as np
from fastrobust.basics import nearest, need_whole, plain_dl, robust_warn
from fastrobust.images.corruptions.front import corrupt
from fastrobust.images.corruptions.tables import CORRUPTIONS, EXTRA_CORRUPTIONS
from fastrobust.shift.cells import CellFile, ShiftCell, keeper
from fastrobust.inference.keys import Peek, activation_key, digest, files_key, model_key
from fastrobust.inference.notes import Bar, noisy_labels_note
from fastrobust.inference.passes import passes
from fastrobust.shift.result import CorruptionReport

__all__ = ['corruption_report']

_ME = 'corruption_report'

# --- what is asked for ----------------------------------------------------------------------------
def _names(names, source):
    names = [names] if isinstance(names, str) else list(dict.fromkeys(CORRUPTIONS if names is None else names))
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
        raise ValueError("expected at least one corruption in `names`, got none. Leave it out for the 15.")
    return names

def _severities(severities):
    s = [severities] if isinstance(severities, (int, float)) else list(severities)
    if not s:
        raise ValueError("`severities` must be of 1, 2, 3, 4, 5, got none. Leave it out for all five.")
    return sorted({need_whole('severities', v, 1, 5, fix='Clean images are measured anyway.') for v in s})

def _table(table):
    known = ['auto', 'cifar', 'imagenet']
    if table in known: return table
    raise ValueError(f"expected the name of a severity table, got {table!r}. "
                     f"{nearest(table, known)}")

def _own(o, k):
    "Attribute `k` of a callback or transform itself; both look elsewhere for what they have not"
    return getattr(o, k) if inspect.getattr_static(o, k, None) is not None else None

def overlaps(learn):
    "Corruptions that the learner's transforms and callbacks trained on, name -> by what"
    dl,found = plain_dl(learn.dls.train) if len(learn.dls.loaders) else None,{}
    pipes = [getattr(dl, k, None) for k in ('after_item', 'before_batch', 'after_batch')]
    pipes += [getattr(tl, 'tfms', None) for tl in getattr(getattr(dl, 'dataset', None), 'tls', [])]
    for o in [*(t for p in pipes for t in getattr(p, 'fs', [])), *learn.cbs]:
        names = set(_own(o, 'overlaps') or ())
        if _own(o, 'all_ops') is True: names |= {'brightness', 'contrast', 'saturate'}
        # fastai makes one transform of brightness, contrast, saturation
        for f in [o, *(_own(o, 'fs') or [])]:
            if not type(f).__module__.startswith('fastai.'): continue
            names |= {v for k,v in dict(Brightness='brightness', Contrast='contrast', Saturation='saturate').items()
                      if type(f).__name__.strip('_').removesuffix('Logit') == k}
        for k in names: found.setdefault(k, []).append(type(o).__name__)
    return found

def _overlap(learn, names):
    "Those among `names`, with a warning; and a note"
    found = {k: v for k,v in overlaps(learn).items() if k in names}
    if not found: return [],[]
    by = ', '.join(dict.fromkeys(o for v in found.values() for o in v))
    msg = (f"training used operations that overlap with {', '.join(sorted(found))} ({by}): the "
           "errors there are no measure of shifts the learner has not seen. Train without them, or "
           "leave these names out.")
    robust_warn(msg, 4)
    return sorted(found),[msg[0].upper()+msg[1:]]

# --- the passes -----------------------------------------------------------------------------------
def _in_memory(learn, dl, todo, table, seed, bar, keep):
    "Cells of `todo`, a corruption at a time: its severities share one reading of the files"
    for name in dict.fromkeys(k for k,_ in todo):
        bar.name(name)
        sev = [s for k,s in todo if k == name]
        changes = [lambda x, ids, s=s: corrupt(x, name, s, table=table, seed=seed, ids=ids) for s in sev]
        rows,_ = passes(learn, dl, changes, _ME, bar.tick, keep)
        for s,r in zip(sev, rows): yield name,s,ShiftCell.of(r)

def _published(learn, source, todo, bar, keep):
    "Cells of published files through the learner's batch transforms"
    y = None
    for name,s in todo:
        bar.name(name)
        (r,),got = passes(learn, source.as_dl(learn, name, s), [None], _ME, None, keep)
        bar.tick()
        y = got if y is None else y
        if len(got) != source.n or len(got) != len(y) or (got != y).any():
            raise ValueError(f"expected the same {source.n} labels in every cell, got others in "
                             f"{name} severity {s}. Are all files there, as they were published?")
        yield name,s,ShiftCell.of(r)

def _notes(table, size, source, kept, others):
    if source is None: yield (
        f"Computed in memory by fastrobust on images of {size[0]} x {size[1]}, severities of the "
        f"{table!r} table, before Normalize. The corruptions are like those of the benchmark, not "
        "its files (frost is procedural, motion blur torch's, nothing was saved as JPEG): compare "
        "with numbers made in this way only.")
    else:
        yield f"Read from {source.folder}: published files, through the learner's batch transforms and no more."
    if kept:
        yield f"{kept} finished cells were read from disk: the same weights, images, labels, table and seed."
    if others:
        yield f"{others} cells on disk are of another model, other data or settings: left alone."

def corruption_report(
    learn,              # A Learner that classifies images; it stays as it is, its recorder and random streams too
    dl=None,            # Loader of clean images with labels, such as `learn.dls.test_dl(items, with_labels=True)`;
                        # None: the validation set
    names=CORRUPTIONS,  # Corruptions: the benchmark's 15; `CORRUPTIONS + EXTRA_CORRUPTIONS` for all 19
    severities=range(1, 6), # 1 to 5
    *,
    table:str='auto',   # Severities made for 32 px ('cifar') or 224 px ('imagenet'); 'auto': by a shorter side of 64
    seed:int=0,         # Of the corruptions: the same images for every learner
    resume=None,        # Folder in which finished cells are kept, so that a report that was stopped goes on
    source=None         # Published files instead, `CorruptedArrays(folder)`: then dl is their clean test set
)->CorruptionReport:
    "Errors under common corruptions, applied just before Normalize: by severity, by group, and how well calibrated"
    names,severities,table = _names(names, source),_severities(severities),_table(table)
    need_whole('seed', seed)
    file,keep,peek,count = CellFile(resume),keeper(learn),Peek(),[]
    (rows,),y = passes(learn, dl, [peek], _ME, lambda: count.append(1), keep)
    overlap,notes = _overlap(learn, names)
    notes += noisy_labels_note(learn, dl, _ME)
    if source is None:
        size,n,labels,where,paired = peek.shape[1:],len(y),digest(y.tolist()),None,True
        if table == 'auto': table = 'cifar' if min(size) <= 64 else 'imagenet'
    else:
        size,n,where = tuple(getattr(source, 'shape', peek.shape[1:]))[:2],source.n,str(source.folder)
        table,seed,labels = 'published',None,digest([str(o) for o in source.labels])
        paired = hasattr(source, 'codes') and np.array_equal(source.codes(learn), y)
        if not paired:
            notes.append("Clean images and files are not known to be the same in the same order: "
                         "no standard error of their difference.")
    files = files_key(where) if where else None
    key = digest(model_key(learn), activation_key(learn), peek.key, labels, table, seed, size, where, files)
    cells,others = file.read(key, n)
    todo = [(k, s) for k in names for s in severities if (k, s) not in cells]
    notes += _notes(table, size, source, len(names)*len(severities)-len(todo), others)
    bar = Bar(learn, len(todo)*(len(count) if source is None else 1))
    new = (_in_memory(learn, dl, todo, table, seed, bar, keep) if source is None else
           _published(learn, source, todo, bar, keep))
    for name,s,cell in new:
        file.add(key, name, s, cell)
        cells[name, s] = cell
    title = f"{len(names)} corruptions x {len(severities)} severities " + (f"of {where}" if where else "in memory")
    facts = dict(title=title, table=table, seed=seed, images=n, image_size=f'{size[0]} x {size[1]}', overlap=overlap,
                 classes=getattr(learn.dls, 'c', None), labels=labels, pixels=peek.key, source=where,
                 alexnet=table == 'imagenet' or (source is not None and min(size) > 64))
    cells = {(k, s): cells[k, s] for k in names for s in severities}
    return CorruptionReport(ShiftCell.of(rows), cells, facts, notes=notes, paired=paired)
