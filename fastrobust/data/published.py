"Published data sets as arrays for `array_dls`: QuickDraw's bitmaps and EMNIST, from files that were downloaded before"
import gzip, zlib
from pathlib import Path
import numpy as np
from fastrobust.basics import nearest, need_whole

__all__ = ['quickdraw', 'emnist']

def _folder(path, what):
    path = Path(path)
    if path.is_dir(): return path
    got = 'a file' if path.exists() else 'which does not exist'
    raise ValueError(f"expected the folder of {what}, got {str(path)!r}, {got}. Download the files "
                     "into a folder, and give that.")

# --- QuickDraw ------------------------------------------------------------------------------------
_PREFIX = 'full_numpy_bitmap_'

def _drawings(path):
    "{class: file} of the .npy files in `path`, sorted by class"
    found = {}
    for f in sorted(_folder(path, 'QuickDraw').glob('*.npy')):
        name = f.stem.removeprefix(_PREFIX)
        if name in found:
            raise ValueError(f"expected one file for each class, got {found[name].name} and "
                             f"{f.name}. Keep one of them.")
        found[name] = f
    if found: return dict(sorted(found.items()))
    raise ValueError(f"expected <class>.npy or {_PREFIX}<class>.npy in {str(path)!r}, got none. "
                     "They lie in gs://quickdraw_dataset/full/numpy_bitmap.")

def _bitmaps(f):
    "Drawings of one class, (k,784) uint8 on disk"
    try: a = np.load(f, mmap_mode='r', allow_pickle=False)
    except (ValueError, OSError, EOFError) as e:
        raise ValueError(f"expected a plain NumPy array in {f.name}, got a file that is cut off, "
                         f"no array, or pickled ({str(e)[:80]}). Download it again.") from e
    if a.dtype == np.uint8 and a.ndim == 2 and a.shape[1] == 784 and len(a): return a
    raise ValueError(f"expected drawings (k,784) of uint8 in {f.name}, got {a.dtype} of shape "
                     f"{a.shape}. Take the files of `numpy_bitmap`, not those of the strokes.")

def quickdraw(
    path,           # Folder of the .npy files, named after their class, with or without 'full_numpy_bitmap_'
    n=None,         # Drawings of each class, drawn without replacement; None: all
    classes=None,   # Which classes, in this order; None: all files, sorted
    seed=0          # Of the choice; that of a class is the same beside any others
) -> tuple:         # (X uint8 (n,28,28), y int64 codes, vocab)
    """Drawings of the Quick, Draw! data set in its "numpy_bitmap" form, strokes white on black; data by Google, licence
    CC BY 4.0, https://github.com/googlecreativelab/quickdraw-dataset"""
    files = _drawings(path)
    if n is not None: n = need_whole('n', n, 1, what='drawings of each class', fix='Try 1000.')
    need_whole('seed', seed, 0)
    if isinstance(classes, str):
        raise TypeError(f"expected `classes` as a list, got {classes!r}. Write [{classes!r}].")
    vocab = list(files if classes is None else classes)
    if not vocab or len(set(vocab)) < len(vocab):
        raise ValueError(f"expected different classes in `classes`, got {vocab}. None takes all.")
    for k in vocab:
        if k not in files:
            raise ValueError(f"expected classes that have a file in {str(path)!r}, got {k!r}. "
                             f"{nearest(k, files)}")
    parts = []
    for k in vocab:
        a = _bitmaps(files[k])
        if n is not None and n > len(a):
            raise ValueError(f"expected at least {n} drawings of each class, got {len(a)} of "
                             f"{k!r}. Take a smaller `n`.")
        rng = np.random.default_rng([seed, *k.encode()])
        if n is not None: a = a[np.sort(rng.choice(len(a), n, replace=False))]
        parts.append(np.asarray(a))
    X = np.concatenate(parts).reshape(-1, 28, 28)
    y = np.repeat(np.arange(len(vocab)), [len(a) for a in parts])
    return X,y,vocab

# --- EMNIST ---------------------------------------------------------------------------------------
_SPLITS = ['balanced', 'byclass', 'bymerge', 'digits', 'letters', 'mnist']

def _found(path, names):
    "The first of `names` that is in `path`"
    for o in names:
        if (path/o).is_file(): return path/o
    raise ValueError(f"expected {' or '.join(names)} in {str(path)!r}, got neither. They are in "
                     "gzip.zip of https://www.nist.gov/itl/products-and-services/emnist-dataset.")

def _idx(path, name, ndim):
    "The array (uint8, `ndim` axes) of an idx file, plain or packed"
    f = _found(path, [name, f'{name}.gz'])
    raw = f.read_bytes()
    try:
        if f.suffix == '.gz': raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as e:
        raise ValueError(f"expected a whole .gz file in {f.name}, got {str(e)[:80]!r}. Download it "
                         "again.") from e
    head = 4 + 4*ndim
    magic = bytes([0, 0, 8, ndim])          # 8: unsigned bytes
    if raw[:4] == magic and len(raw) >= head:
        shape = np.frombuffer(raw, '>u4', ndim, offset=4).astype(int).tolist()
        if len(raw) == head + np.prod(shape):
            return np.frombuffer(raw, np.uint8, offset=head).reshape(shape)
    raise ValueError(f"expected an idx file of unsigned bytes with {ndim} axes in {f.name}, got "
                     f"{len(raw)} bytes that begin with {raw[:4].hex(' ')}. Download it again.")

def _mapping(path, split):
    "Labels in the order of their lines, and the character of each"
    f = _found(path, [f'emnist-{split}-mapping.txt'])
    rows = [o.split() for o in f.read_text().splitlines() if o.strip()]
    if not rows or not all(len(o) > 1 and o[0].isdigit() and o[1].isdigit() for o in rows):
        raise ValueError(f"expected lines of a label and ASCII codes in {f.name}, got "
                         f"{rows[:1]}. Download it again.")
    return [int(o[0]) for o in rows],[chr(int(o[1])) for o in rows]

def emnist(
    path,               # Folder of the files emnist-<split>-.., packed (.gz) or not
    split='balanced',   # 'balanced', 'byclass', 'bymerge', 'digits', 'letters' or 'mnist'
    part='train'        # 'train' or 'test'
) -> tuple:             # (X uint8 (n,28,28), y int64 codes, vocab of characters)
    """Handwritten characters of EMNIST, turned upright; data by NIST (Special Database 19, public),
    https://arxiv.org/abs/1702.05373. Of a class that merges both cases the vocab has the first of its mapping, 'A'"""
    path = _folder(path, 'EMNIST')
    for what,o,known in (('split', split, _SPLITS), ('part', part, ['train', 'test'])):
        if o not in known:
            raise ValueError(f"expected a known `{what}`, got {o!r}. {nearest(o, known)}")
    name = f'emnist-{split}-{part}'
    X = _idx(path, f'{name}-images-idx3-ubyte', 3)
    labels = _idx(path, f'{name}-labels-idx1-ubyte', 1)
    if len(X) != len(labels) or X.shape[1:] != (28, 28):
        raise ValueError(f"expected one label for each image of 28x28 pixels, got {len(labels)} "
                         f"labels and images of shape {X.shape}. Take both files from one archive.")
    numbers,vocab = _mapping(path, split)
    o2i = {o: i for i,o in enumerate(numbers)}
    unknown = sorted(set(labels.tolist()) - set(o2i))
    if unknown:
        raise ValueError(f"expected labels of emnist-{split}-mapping.txt, got {unknown[:5]}. Take "
                         "all files from one archive.")
    codes = np.array([o2i.get(i, -1) for i in range(256)])
    return np.ascontiguousarray(X.transpose(0, 2, 1)),codes[labels],vocab
