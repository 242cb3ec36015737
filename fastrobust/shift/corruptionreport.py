"How does a learner hold under the common corruptions? `corruption_report`: through its own pipeline, on your own data"
# Hendrycks & Dietterich, ICLR 2019, https://arxiv.org/abs/1903.12261. The corruptions are computed
# in memory, just before Normalize; the numbers of CIFAR-10-C or ImageNet-C come from the published
# files alone (`source`).
from typing import NamedTuple
import numpy as np
from fastrobust.basics import nearest, need_learner, need_whole
from fastrobust.images.clips import TEMPORAL, corrupt_clips
from fastrobust.images.corruptions.front import corrupt
from fastrobust.images.corruptions.tables import (CORRUPTIONS, EXTRA_CORRUPTIONS, PARAMS, listed,
                                                  table_for)
from fastrobust.inference.batchnorm import LEAST, batch_passes, even_batches, need_norm_layers
from fastrobust.inference.keys import Peek, activation_key, digest, files_key, model_key
from fastrobust.inference.notes import Bar, noisy_labels_note
from fastrobust.inference.passes import passes
from fastrobust.shift.cells import CellFile, ShiftCell, keeper
from fastrobust.shift.clipshift import clip_notes, fitting_names, is_clip, shown_size
from fastrobust.shift.overlap import overlap_notes
from fastrobust.shift.result import ByBatch, CorruptionReport

__all__ = ['corruption_report']

_ME = 'corruption_report'

# --- what is asked for ----------------------------------------------------------------------------
def _names(names, source):
    if names is None: names = CORRUPTIONS
    names = list(dict.fromkeys(listed(names)))
    if source is not None and not hasattr(source, 'names'):
        raise TypeError(f"expected `source` to read published files, got {source!r}. Pass "
                        "CorruptedArrays(folder).")
    known = CORRUPTIONS + EXTRA_CORRUPTIONS + TEMPORAL if source is None else tuple(source.names)
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
    known = ['auto', *PARAMS]
    if table in known: return table
    raise ValueError(f"expected the name of a severity table, got {table!r}. "
                     f"{nearest(table, known)}")

def _batch_size(learn, bn_batch):
    "Refuse to normalise by batches where nothing normalises, or where they are small"
    if bn_batch is None: return
    need_whole('bn_batch', bn_batch, LEAST, what='images of a batch',
               fix=f'{LEAST} is the least, 200 or more are better. Leave it out for the statistics of '
                   'training alone.')
    need_norm_layers(learn.model, 'Leave `bn_batch` out.')

def _need_images(n, bn_batch, what):
    "Refuse fewer images than one batch has"
    if bn_batch is None or n >= bn_batch: return
    fix = 'Give more images'
    if n >= LEAST: fix += f', or bn_batch={LEAST}'
    raise ValueError(f"expected at least {bn_batch} {what} images, whose statistics BatchNorm is to "
                     f"normalise by ({LEAST} are the least), got {n}. {fix}, or leave `bn_batch` out.")

# --- the passes -----------------------------------------------------------------------------------
class _Way:
    "Passes with the statistics of training, or with those of each batch; and the cells measured so"
    def __init__(self,
        learn,  # The learner
        bs=None # Images of a batch by which BatchNorm normalises; None: the statistics of training
    ):
        self.learn,self.bs = learn,bs
        self.keep = keeper(learn)

    def passes(self,
        dl,         # Loader of `n` images
        n,
        changes,    # Functions (x, ids) -> x, or None
        tick=None   # Called after each forward pass
    ):
        "What `keeper` keeps, for each of `changes`, and the labels"
        # Batches of this size, not the whole set layer by layer: so both papers, and so a network
        # could be used. Shuffled, as the images of one class have other statistics than a mixture
        if self.bs is None: return passes(self.learn, dl, changes, _ME, tick, self.keep)
        batches = even_batches(n, self.bs)
        return batch_passes(self.learn, dl, changes, batches, _ME, tick, self.keep)

    def find(self, file, key, n, wanted):
        "Look on disk for the cells that are `wanted`; how many others there are"
        self.key = key if self.bs is None else f'{key}-bn{self.bs}'
        self.cells,others = file.read(self.key, n)
        self.todo = [o for o in wanted if o not in self.cells]
        return others

def _in_memory(way, dl, n, table, seed, bar):
    "Cells that are to do, a corruption at a time: its severities share one reading of the files"
    def change(name, s):
        def changed(x, ids):
            f = corrupt if x.ndim == 4 else corrupt_clips
            return f(x, name, s, table=table, seed=seed, ids=ids)
        return changed
    for name in dict.fromkeys(k for k,_ in way.todo):
        bar.name(name)
        sev = [s for k,s in way.todo if k == name]
        rows,_ = way.passes(dl, n, [change(name, s) for s in sev], bar.tick)
        for s,r in zip(sev, rows): yield name,s,ShiftCell.of(r)

def _published(way, source, bar):
    "Cells of published files that are to do, through the learner's batch transforms"
    y = None
    for name,s in way.todo:
        bar.name(name)
        dl = source.as_dl(way.learn, name, s)
        (r,),got = way.passes(dl, source.n, [None])
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
    size = peek.shape[-2:]
    if table == 'auto': table = table_for(*size)
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
    # A Learner that classifies images, or clips (b,t,c,h,w); it stays as it is, its recorder and random streams too
    learn,
    # Loader of clean images with labels, such as `learn.dls.test_dl(items, with_labels=True)`;
    # None: the validation set
    dl=None,
    # Corruptions; None: the benchmark's 15, of clips also dropped, frozen, shuffled and blurred frames;
    # `CORRUPTIONS + EXTRA_CORRUPTIONS` for all 19
    names=None,
    severities=range(1, 6), # 1 to 5
    *,
    # Severities made for 32 px ('cifar'), 64 px ('tiny', Tiny-ImageNet-C) or 224 px ('imagenet');
    # 'auto': by the shorter side, 'tiny' from 46 to 119
    table:str='auto',
    seed:int=0,         # Of the corruptions: the same images for every learner
    resume=None,        # Folder in which finished cells are kept, so that a report that was stopped goes on
    source=None,        # Published files instead, `CorruptedArrays(folder)`: then dl is their clean test set
    # Measure too what each BatchNorm layer does that normalises by the corrupted images themselves,
    # in batches of so many, >= 64, shuffled: as long again. None: by the statistics of training alone
    bn_batch=None
)->CorruptionReport:
    "Errors under common corruptions, applied just before Normalize: by severity, by group, and how well calibrated"
    need_learner(learn)
    asked,names = names is not None,_names(names, source)
    severities = _severities(severities)
    table = _table(table)
    need_whole('seed', seed)
    _batch_size(learn, bn_batch)
    file = CellFile(resume)
    peek,count = Peek(),[]
    plain = _Way(learn)
    (rows,),y = plain.passes(dl, None, [peek], lambda: count.append(1))
    names = fitting_names(names, asked, peek.shape, source)
    overlap,notes = overlap_notes(learn, names)
    notes += noisy_labels_note(learn, dl, _ME)

    if source is None: im = _images_in_memory(peek, y, table, seed)
    else: im = _images_of(learn, source, peek, y)
    if not im.paired:
        notes.append("Clean images and files are not known to be the same in the same order: "
                     "no standard error of their difference.")
    files = files_key(im.where) if im.where else None
    key = digest(model_key(learn), activation_key(learn), peek.key, im.labels, im.table, im.seed,
                 im.size, im.where, files)
    wanted = [(k, s) for k in names for s in severities]
    ways = [plain]
    others = plain.find(file, key, im.n, wanted)
    by_batch = None
    if bn_batch is not None:
        _need_images(len(y), bn_batch, 'clean')
        _need_images(im.n, bn_batch, 'corrupted')
        ways.append(_Way(learn, bn_batch))
        ways[1].find(file, key, im.n, wanted)
        (clean,),_ = ways[1].passes(dl, len(y), [None])
        by_batch = ByBatch(ShiftCell.of(clean), ways[1].cells, bn_batch)
    kept = len(ways)*len(wanted) - sum(len(w.todo) for w in ways)
    notes += clip_notes(peek.shape, names)
    notes += _notes(im.table, im.size, source, kept, others)

    # ticks: of each batch, or of each file
    batches = [len(count), 0 if bn_batch is None else im.n//bn_batch]
    if source is not None: batches = [1, 1]
    bar = Bar(learn, sum(k*len(w.todo) for k,w in zip(batches, ways)))
    for w in ways:
        if source is None: new = _in_memory(w, dl, im.n, im.table, im.seed, bar)
        else: new = _published(w, source, bar)
        for name,s,cell in new:
            file.add(w.key, name, s, cell)
            w.cells[name, s] = cell

    place = f'of {im.where}' if im.where else 'in memory'
    facts = dict(title=f'{len(names)} corruptions x {len(severities)} severities {place}',
                 table=im.table, seed=im.seed, images=im.n,
                 image_size=f'{im.size[0]} x {im.size[1]}', overlap=overlap,
                 classes=getattr(learn.dls, 'c', None), labels=im.labels, pixels=peek.key,
                 source=im.where, alexnet=_like_imagenet(im))
    if is_clip(peek.shape): facts.update(what='clips', image_size=shown_size(peek.shape))
    cells = {o: plain.cells[o] for o in wanted}
    return CorruptionReport(ShiftCell.of(rows), cells, facts, notes=notes, paired=im.paired,
                            by_batch=by_batch)
