"Which images two open sets share, and what a learner has seen of them"
import os
from hashlib import blake2b
from pathlib import Path
import numpy as np, pandas as pd
import torch
from fastai.data.core import DataLoaders, Datasets
from fastai.data.load import DataLoader
from fastai.data.transforms import ColReader
from fastcore.foundation import L
from fastrobust.data.arrays import ArrayItems
from fastrobust.data.auxrows import AuxRows, OpenSet, arrays_and_loaders, image_hashes
from fastrobust.data.reading import codes, label_vocab

__all__ = []

# --- apart? ---------------------------------------------------------------------------------------
def parts_of(o):
    "Arrays and loaders of an open set in any form; of DataLoaders all, since any may be shown"
    if isinstance(o, OpenSet): o = o.images
    if isinstance(o, DataLoaders): return list(o.loaders)
    x,loaders = arrays_and_loaders(o)
    return loaders if x is None else [x]

def names_shown(o, parts):
    "Names of what the images show, as far as known; numbers name nothing"
    if isinstance(o, AuxRows): o = o.source
    if isinstance(o, OpenSet) and o.classes is not None:
        return {str(k).strip().casefold(): str(k) for k in o.classes}
    names = {}
    for dl in parts:
        if not isinstance(dl, DataLoader): continue
        try:
            vocab = label_vocab(dl.dataset, 'it')
            y = codes(dl.dataset, 'it')
        except (TypeError, ValueError, AttributeError): continue    # a loader without labels
        for i in np.unique(y):
            k = vocab[i]
            if isinstance(k, str): names[k.strip().casefold()] = k
    return names

def array_of(o):
    "The array an open set, or a loader over arrays, is kept in"
    items = getattr(getattr(o, 'dataset', None), 'items', None)
    if isinstance(items, ArrayItems): o = items.x
    if isinstance(o, torch.Tensor): return o.detach().cpu().numpy()
    return o if isinstance(o, np.ndarray) else None

def _read_names(ds):
    "What the rows of a table name as images, as `ColReader` reads them; none where something else does"
    if not isinstance(ds, Datasets): return []
    df = ds.tls[0].items
    readers = [f for f in ds.tls[0].tfms.fs if isinstance(f, ColReader)]
    if not readers or not len(df): return []
    cols = list(readers[0].cols)
    cells = [df.iloc[:, c] if isinstance(c, int) else df[c] for c in cols]
    return [readers[0](dict(zip(cols, row))) for row in zip(*cells)]

def _files(o):
    "Files a loader reads"
    ds = getattr(o, 'dataset', None)
    items = getattr(ds, 'items', None)
    if isinstance(items, pd.DataFrame): items = _read_names(ds)
    if not isinstance(items, (list, tuple, L)): return set()
    def is_file(f): return isinstance(f, Path) or (isinstance(f, str) and os.path.isfile(f))
    return {os.path.abspath(f) for f in items if is_file(f)}

def _all_files(parts): return set().union(*map(_files, parts))

def files_of(o):
    "Paths of the files that an open set, or a loader, reads; of images in memory none"
    if isinstance(o, OpenSet): return _all_files(parts_of(o))
    return _files(o)

def _both_show(names):
    more = ' ..' if len(names) > 5 else ''
    return f"both show {', '.join(names[:5])}{more}"

def _n_known(parts, hashes):
    "How many images of `parts` are among those with `hashes`"
    return sum(h in hashes for o in parts for h in image_hashes(o))

def _same_place(p, q):
    "That two parts are one object or lie in one memory, for a message; None: neither"
    if p is q or (isinstance(p, DataLoader) and getattr(q, 'dataset', None) is p.dataset):
        return 'both are the same object'
    x,y = array_of(p),array_of(q)
    if x is None or y is None or not np.may_share_memory(x, y): return None
    return 'both are kept in the same memory' if np.shares_memory(x, y) else None

def shared_with(
    aux,        # Images a technique trains on: anything ODNL takes, or its `.aux`
    unknown     # Images to be told from the known ones: an array, a loader, DataLoaders or an `OpenSet`
) -> str|None:  # What they have in common, for a message; None: nothing that can be seen
    "Why `unknown` is not unknown to a network that trained on `aux`: same classes, memory, files or images"
    if isinstance(aux, AuxRows) and aux.source is None:
        return None     # of an exported learner: the images are gone
    a,u = parts_of(aux),parts_of(unknown)
    mine,theirs = names_shown(aux, a),names_shown(unknown, u)
    both = [v for k,v in theirs.items() if k in mine]
    if both: return _both_show(both)

    for p in a:
        for q in u:
            place = _same_place(p, q)
            if place is not None: return place
    files = sorted(_all_files(a) & _all_files(u))
    if files: return f'{len(files)} of the files are in both, the first {files[0]}'

    hashes = aux.hashes() if isinstance(aux, AuxRows) else set(image_hashes(aux))
    same = _n_known(u, hashes)
    return f'{same} of the images are in both' if same else None

# --- what a learner remembers of them, when technique and images are gone -------------------------
OPEN_SET_FACTS = 'classes','files','images'

def trained_open_sets(learn):
    """What `learn` was trained on as open set, with the fields `OPEN_SET_FACTS`: the callback that the techniques leave
    on a learner, or the field that `strip` gives a plain one; None: nothing"""
    return vars(learn).get('trained_open_sets')

def _digests(files):
    "Numbers that stand for paths, which tell a lot about a machine and its data"
    return {int.from_bytes(blake2b(os.fsencode(f), digest_size=8).digest(), 'big') for f in files}

def what_it_shows(aux):
    "What of `aux` (AuxRows) can be known later, in plain types: classes, digests of paths and of arrays"
    parts = parts_of(aux)
    names = names_shown(aux, parts).values()
    arrays = all(array_of(p) is not None for p in parts)
    images = aux.hashes() if arrays else ()
    return dict(classes=names, files=_digests(_all_files(parts)), images=images)

def seen_before(seen, unknown):
    "Why `unknown` is not unknown to a learner with `trained_open_sets`; None: nothing that can be seen"
    if seen is None: return None
    u = parts_of(unknown)
    mine = {str(k).strip().casefold() for k in seen.classes}
    theirs = names_shown(unknown, u)
    both = [v for k,v in theirs.items() if k in mine]
    if both: return _both_show(both)

    files = _digests(_all_files(u)) & set(seen.files)
    if files: return f'{len(files)} of the files are in both'

    hashes = set(seen.images)
    same = _n_known(u, hashes) if hashes else 0
    return f'{same} of the images are in both' if same else None

def share_items(a, b):
    "Whether two loaders, or an array and a loader, plainly hold the same items: dataset, memory or files"
    if isinstance(a, DataLoader) and isinstance(b, DataLoader) and a.dataset is b.dataset:
        return True
    x,y = array_of(a),array_of(b)
    arrays = x is not None and y is not None
    if arrays and len(x) and len(y) and np.shares_memory(x, y): return True
    if _files(a) & _files(b): return True
    if not arrays or max(len(x), len(y)) > 20000: return False
    # copies too, where that is quick; a few may be chance
    a,b = set(image_hashes(a)),set(image_hashes(b))
    return len(a & b) > .5*min(len(a), len(b))

def count_shared(a, b):
    "How many items of loader `b` loader `a` holds too, by file or by pixels; all of them if both read one dataset"
    if isinstance(a, DataLoader) and isinstance(b, DataLoader) and a.dataset is b.dataset:
        return len(b.dataset)
    files = _files(a) & _files(b)
    if files: return len(files)
    if array_of(a) is None or array_of(b) is None: return 0
    known = set(image_hashes(a))
    return _n_known([b], known)

def count_copies(
    aux,    # `AuxRows`
    dl      # A loader
) -> int:   # Of different images
    "How many of the open-set images a loader holds too, by their pixels; 0 where one of the two is not in memory"
    parts = [dl, *parts_of(aux)]
    if any(array_of(o) is None for o in parts): return 0
    return len(aux.hashes() & set(image_hashes(dl)))
