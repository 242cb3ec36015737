"More classes than before: loaders with a longer vocab, and the items of a folder of new classes"
import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np
from fasttransform import Pipeline
from fastai.data.core import DataLoaders, Datasets
from fastai.data.transforms import get_image_files
from fastai.vision.utils import verify_image
from fastcore.foundation import L
from fastrobust.basics import is_whole, robust_warn, target_vocab
from fastrobust.data.arrays import ArrayItems
from fastrobust.data.copying import loader_like
from fastrobust.data.editing import check_dls
from fastrobust.data.givenlists import NoisyDatasets
from fastrobust.data.reading import target

__all__ = []

# --- a longer vocab -------------------------------------------------------------------------------
def _longer(old, vocab):
    "`vocab` as a list, checked to be `old` and new classes behind it"
    vocab = [o.item() if hasattr(o, 'item') else o for o in vocab]
    n = len(old)
    if vocab[:n] != old:
        i = next((i for i,o in enumerate(old) if vocab[i:i+1] != [o]))
        raise ValueError(f"expected a `vocab` that starts with the {n} classes there are, got "
                         f"{vocab[i:i+1]} at {i} instead of {old[i]!r}. Append new classes, as in "
                         "[*dls.vocab, 'new'].")
    if len(set(vocab)) < len(vocab):
        twice = sorted({o for o in vocab if vocab.count(o) > 1}, key=str)
        raise ValueError(f"expected different classes in `vocab`, got {twice[:5]} more than once. "
                         "Append only classes that are new.")
    kinds = {is_whole(o) for o in vocab}
    if len(kinds) > 1 or not all(is_whole(o) or isinstance(o, str) for o in vocab[n:]):
        raise TypeError(f"expected new classes of the type of the old ones, got {vocab[n:][:5]} "
                        f"after {old[:3]}. Name all by strings, or all by whole numbers.")
    return vocab

def _with_classes(cat, vocab):
    "The `Categorize` of `vocab`"
    new = copy.copy(cat)
    new.vocab = copy.copy(cat.vocab)
    new.vocab.items = L(vocab)
    new.vocab.o2i = copy.copy(cat.vocab.o2i)    # one with #na# has a default
    new.vocab.o2i.update((o, i) for i,o in enumerate(vocab))
    new.c = len(vocab)
    return new

def _with_record(rec, vocab):
    "The record of noise `rec` with classes that it has no items of"
    if rec is None: return None
    new = copy.copy(rec)
    new.vocab = [str(o) for o in vocab]
    if rec.T is not None:
        c = len(rec.T)
        new.T = np.eye(len(vocab))
        new.T[:c,:c] = rec.T
    new.valid = _with_record(rec.valid, vocab)
    return new

def _like(tl):
    "A shallow copy of the list `tl`, where `copy.copy` of an `L` would lose its splits"
    new = object.__new__(type(tl))
    kept = {k: v for k,v in vars(tl).items() if k != 'dataloaders'}     # bound to the old list
    vars(new).update(kept)
    return new

def _dataset(ds, vocab, arrays):
    "A copy of the dataset `ds` whose target has `vocab`; `arrays`: those already copied, by id"
    tls = [_like(tl) for tl in ds.tls]
    for tl in tls:
        a = tl.items
        if not isinstance(a, ArrayItems): continue
        if id(a) not in arrays: arrays[id(a)] = type(a)(a.x, a.y, vocab, a.rows)
        tl.items = arrays[id(a)]
    *steps,cat = tls[-1].tfms.fs
    steps.append(_with_classes(cat, vocab))
    tls[-1].tfms = Pipeline(steps, split_idx=tls[-1].split_idx)
    kw = dict(tls=tls, n_inp=ds.n_inp, dl_type=ds._dl_type)
    if not isinstance(ds, NoisyDatasets): return Datasets(**kw)
    return NoisyDatasets(**kw, noise=_with_record(ds.noise, vocab))

def _loader(dl, old, vocab, arrays, what):
    "A copy of the loader `dl` with `vocab`; one without labels as it is"
    tls = getattr(dl.dataset, 'tls', None)
    if tls is not None and len(tls) == dl.dataset.n_inp: return dl
    own = list(target(dl.dataset, what).vocab)
    if own != old:
        raise ValueError(f"expected one vocab in all loaders, got {len(own)} classes in {what} "
                         f"that are not the {len(old)} of the training set. Build both from one "
                         "DataBlock.")
    return loader_like(dl, _dataset(dl.dataset, vocab, arrays))

def with_vocab(
    dls,    # DataLoaders with one single-label target, or those of `load_learner`; they stay as they are
    vocab   # Classes: those of `dls.vocab` in their order, new ones behind them
) -> DataLoaders:
    "New dls that know more classes: the same items, and a target that encodes and decodes the new names too"
    check_dls(dls)
    target(dls.train_ds, 'the training set')
    old = target_vocab(dls)
    vocab = _longer(old, vocab)
    new = copy.copy(dls)
    arrays: dict = {}
    what = ['the training set', 'the validation set']
    what += [f'loader {i}' for i in range(2, len(dls.loaders))]
    new.loaders = [_loader(dl, old, vocab, arrays, o) for dl,o in zip(dls.loaders, what)]
    if 'c' in vars(dls): new.c = len(vocab)
    rec = getattr(dls, 'noise', None)
    return new if rec is None else _with_record(rec, vocab).attach(new)

# --- items of new classes -------------------------------------------------------------------------
def _class_folders(path):
    "Folders in `path`, none that is hidden"
    return sorted(o for o in path.iterdir() if o.is_dir() and o.name[0] != '.')

def check_readable(files):
    "Refuse image files that cannot be opened, by name"
    with ThreadPoolExecutor() as pool: ok = list(pool.map(verify_image, files))
    bad = [f for f,o in zip(files, ok) if not o]
    if bad:
        raise ValueError(f"expected images that can be read, got {len(bad)} of {len(files)} that "
                         f"cannot, first {str(bad[0])!r}. Repair or remove them; fastai's "
                         "verify_images lists all.")

def folder_items(
    path    # Folder with one folder of images for each class
) -> tuple: # (paths, sorted by class; names: the class of each)
    "Image files of a folder of class folders, each checked to open; the name of a folder is that of the class"
    path = Path(path)
    if not path.is_dir():
        got = 'a file' if path.exists() else 'which does not exist'
        raise ValueError(f"expected a folder of class folders, got {str(path)!r}, {got}. Give the "
                         "folder that holds one folder of images for each class.")
    dirs = _class_folders(path)
    loose = sorted(get_image_files(path, recurse=False))
    if loose:
        raise ValueError(f"expected all images in class folders of {str(path)!r}, got {len(loose)} "
                         f"in none, first {loose[0].name}. Move them into a folder with the name "
                         "of their class.")
    files = [f for d in dirs for f in sorted(get_image_files(d))]
    if not files:
        raise ValueError(f"expected images in class folders of {str(path)!r}, got none in "
                         f"{len(dirs)} folders. Write e.g. {path.name}/cat/1.jpg.")
    deep = [f for f in files if f.parent.parent != path]
    if deep:
        raise ValueError("expected images right inside of the class folders, got "
                         f"{str(deep[0].relative_to(path))!r} ({len(deep)} such). Give the folder "
                         "one level above the images.")
    check_readable(files)
    names = [f.parent.name for f in files]
    empty = [d.name for d in dirs if d.name not in set(names)]
    if empty:
        robust_warn(f"folder_items: no images in {', '.join(empty)}; such classes are left out.")
    return files,names
