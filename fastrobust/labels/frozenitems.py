"By what the items of a data set, and how they are read, are known again"
import os
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
import numpy as np
from torch import Tensor
from fastai.data.core import Datasets
from fastrobust.basics import plain_dl
from fastrobust.data.arrays import ArrayItems
from fastrobust.data.growing import check_readable
from fastrobust.inference.features import digests
from fastrobust.inference.loaders import Reader
from fastrobust.labels.codemarks import crc
from fastrobust.labels.reviewing import item_names
from fastrobust.pixels import pixel_space
from fastrobust.resting import keep_random

__all__ = []

def _paths(ds):
    "What the first transforms of the images make of each item, as soon as it is a path; None: it never is"
    items = getattr(ds, 'items', None)
    if not isinstance(ds, Datasets) or isinstance(items, ArrayItems) or items is None or not len(items): return None
    at = getattr(items, 'iloc', items)
    o,get = at[0],[]
    for f in ds.tls[0].tfms.fs:
        if isinstance(o, (str, Path)): break
        get.append(f)
        o = f(o)
    if not isinstance(o, (str, Path)): return None
    return [reduce(lambda o, f: f(o), get, at[i]) for i in range(len(items))]

def files_of(ds):
    "Files of the items; None: they are none"
    paths = item_names(ds) or _paths(ds)
    if paths is None or not all(map(os.path.isfile, paths)): return None
    return [os.path.abspath(o) for o in paths]

@contextmanager
def naming_files(ds):
    "Where reading fails, files that cannot be opened are named: Pillow does not tell which they are"
    try: yield
    except OSError:
        check_readable(files_of(ds) or [])
        raise

def no_images():
    return TypeError("expected dls whose input is images (b,c,h,w), got others. Of tables, texts and clips "
                     "take folds: noise_report(make_learner, dls).")

def item_mark(ds):
    "What tells the items from others: files with size and date, arrays by their pixels; None: cannot be told"
    items = getattr(ds, 'items', None)
    if isinstance(items, ArrayItems): return crc(np.ascontiguousarray(items.x.cpu().numpy()))
    files = files_of(ds)
    if files is None: return None
    return crc([(o, st.st_size, st.st_mtime_ns) for o,st in zip(files, map(os.stat, files))])

def read_mark(dls):
    "What tells how the images are read: the first and the last as they are before Normalize, and its statistics"
    dl,n = plain_dl(dls.train),len(dls.train_ds)
    found = []
    with keep_random(), Reader(dl, cut=True, ids=sorted({0, n-1})) as reader, reader.dl.fake_l.no_multiproc():
        for xb,_ in reader:
            if len(xb) != 1 or not isinstance(xb[0], Tensor) or xb[0].ndim != 4: raise no_images()
            found += digests(xb[0]).tolist() + [*xb[0].shape[1:]]
    px = pixel_space(dls)
    stats = () if px.mean is None else (px.mean, px.std)
    return found + [round(v, 5) for o in stats for v in o.flatten().tolist()]
