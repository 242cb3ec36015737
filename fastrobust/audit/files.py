"What an audit looks at: images and labels from a folder of class folders or from a CSV, checked before any training"
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
import numpy as np
from PIL import Image
from fastai.data.transforms import get_image_files
from fastrobust.basics import robust_warn
from fastrobust.labels.reviewing import read_cells

__all__ = []

_SPLITS = {'train', 'training', 'valid', 'val', 'validation', 'test'}
_PATH  = ['path', 'file', 'fname', 'filename', 'file_name', 'filepath', 'file_path', 'image',
          'image_path', 'img', 'name']
_LABEL = ['label', 'labels', 'class', 'y', 'category', 'target', 'class_name']

class Listing(NamedTuple):
    "Images to audit"
    root: Path      # What the paths are relative to
    paths: list     # As listed, absolute or relative to `root`; no two of the same file
    labels: list    # Class of each, as given
    skipped: list   # (path, why) of what is left out
    grey: bool      # Whether all images have one channel
    side: int       # Median of the shorter sides, pixels
    split: tuple    # Names of the folders to train and to validate on; None: no such folders

# --- folders --------------------------------------------------------------------------------------
def _left(d):
    "Whether `d` is the folder of an audit"
    return all((d/o).is_file() for o in ('report.html', 'issues.csv'))

def _dirs(d, out):
    "Folders in `d`, none that is hidden or of an audit"
    def may_be_class(o):
        return o.is_dir() and o.name[0] != '.' and o.resolve() != out and not _left(o)
    return sorted(o for o in d.iterdir() if may_be_class(o))

def _images(d, out):
    "Image files in `d`, at any depth, but none in the folder of the audit"
    fs = sorted(get_image_files(d))
    if out is None: return fs
    return [f for f in fs if out not in f.resolve().parents]

def _split(parts):
    "Names of the folders to train and to validate on, None unless both are there"
    names = [o.name for o in parts]
    train = [k for k in names if k.lower().startswith('tr')]
    valid = [k for k in names if k.lower().startswith('va')]
    return (train[0], valid[0]) if train and valid else None

def _folder(root, out):
    "(path, label) by class folder, also those inside train/ and valid/"
    tops = _dirs(root, out)
    parts = [o for o in tops if o.name.lower() in _SPLITS and _dirs(o, out)]
    classes = tops
    if parts: classes = [k for o in parts for k in _dirs(o, out)]
    rows = []
    for d in classes:
        rows += [(f.relative_to(root).as_posix(), d.name) for f in _images(d, out)]
    if rows: return rows,_split(parts)
    loose = len(get_image_files(root, recurse=False))
    raise ValueError("expected a folder with a sub-folder of images per class (or in train/ and "
                     f"valid/), got {str(root)!r}: {loose} images of its own, {len(tops)} "
                     "sub-folders without any. Sort the images into class folders, or give a CSV "
                     "of paths and labels.")

# --- tables ---------------------------------------------------------------------------------------
def _column(t, names, what, file):
    low = {str(k).strip().lower(): k for k in t.columns}
    for o in names:
        if o in low: return low[o]
    raise ValueError(f"expected a column for the {what} in {file.name} ({', '.join(names[:4])}, "
                     f"..), got columns {', '.join(map(str, t.columns))}. Name it {names[0]!r} in "
                     "the first line.")

def _table(file):
    t = read_cells(file)
    path = _column(t, _PATH, 'image files', file)
    label = _column(t, _LABEL, 'labels', file)
    return list(zip(t[path].str.strip(), t[label].str.strip()))

# --- what can be read -----------------------------------------------------------------------------
def _look(f):
    "(mode, shorter side) of the image, or why it cannot be read"
    try:
        with Image.open(f) as im:
            im.load()
            return im.mode,min(im.size)
    except Exception as e:      # Pillow raises whatever the broken bytes lead to
        if not f.exists(): return 'no such file'
        return f'cannot be read as an image ({type(e).__name__})'

def _sort_out(rows, root):
    "({path: label} of the files to look at, [(path, why)] of the others)"
    seen,skipped,files = {},[],{}
    for p,label in rows:
        if not p:
            skipped.append(('(no path)', 'no path'))
            continue
        if not label:
            skipped.append((p, 'no label'))
            continue
        first = files.setdefault(os.path.abspath(root/p), p)
        if first in seen:
            also = '' if seen[first] == label else f', also as {label}'
            skipped.append((p, f'listed twice{also}'))
        else: seen[p] = label
    return seen,skipped

def _need_classes(labels):
    "Refuse what nothing can be compared in, warn of single images"
    classes = Counter(labels)
    if len(classes) < 2:
        raise ValueError(f"expected two classes or more, got {next(iter(classes))!r} alone. "
                         "Nothing can be confused.")
    single = [k for k,n in classes.items() if n == 1]
    if len(classes)-len(single) < 2:
        counts = ', '.join(f'{n:,} of {k}' for k,n in classes.most_common(5))
        raise ValueError(f"expected two images or more of two classes, got {counts}. A single image "
                         "has nothing to be compared with: add images, or merge classes.")
    if single:
        robust_warn(f"a single image: {', '.join(single[:5])}. Nothing can be said about such a "
                    "class.")

def read_source(
    src,        # Folder of class folders, or CSV with columns for path and label
    out=None    # Folder of the audit itself, never taken for a class
):
    "The `Listing` of `src`; what cannot be read is listed, not fatal"
    src = Path(src)
    if not src.exists():
        raise FileNotFoundError(f"expected a folder or a CSV, got {str(src)!r}, which does not "
                                "exist.")
    root = src if src.is_dir() else src.parent
    if out is not None: out = Path(out).resolve()
    if out == root.resolve() or out in root.resolve().parents:
        out = None   # then no part of the images
    if src.is_dir(): rows,split = _folder(src, out)
    else: rows,split = _table(src),None

    seen,skipped = _sort_out(rows, root)
    with ThreadPoolExecutor() as pool:
        looks = list(pool.map(lambda p: _look(root/p), seen))
    bad = {p: o for p,o in zip(seen, looks) if isinstance(o, str)}
    good = {p: o for p,o in zip(seen, looks) if p not in bad}
    skipped += bad.items()
    if not good:
        why = f", e.g. {skipped[0][0]!r}: {skipped[0][1]}" if skipped else ''
        raise ValueError(f"expected images that can be read, got none of {len(rows)}{why}. Paths "
                         "in a CSV are relative to its own folder.")
    labels = [seen[p] for p in good]
    _need_classes(labels)

    modes,sides = zip(*good.values())
    grey = set(modes) <= {'1', 'L', 'LA', 'I;16', 'I'}
    return Listing(root, list(good), labels, skipped, grey, int(np.median(sides)), split)
