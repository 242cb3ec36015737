"Labels that people gave, and label files of others: CIFAR-10N/100N, CSV, JSON, checked item by item"
# CIFAR-N: Wei et al., Learning with Noisy Labels Revisited,
# https://arxiv.org/abs/2110.12088; labels CC BY-NC 4.0.
import csv, io, json, pickle
from collections import Counter
from functools import lru_cache
from pathlib import Path
import numpy as np
import torch
from fastrobust.basics import nearest, robust_warn
from fastrobust.noise.classmaps import CIFAR100_COARSE
from fastrobust.noise.record import NoiseRecord
from fastrobust.data.reading import int_labels

__all__ = ['cifar_n']

_KEYS = {'aggre': 'aggre_label', 'worse': 'worse_label', 'random1': 'random_label1', 'random2': 'random_label2',
         'random3': 'random_label3', 'noisy100': 'noisy_label', 'coarse': 'noisy_coarse_label'}
_ALIAS = {'worst': 'worse', 'rand1': 'random1', 'rand2': 'random2', 'rand3': 'random3', 'aggregate': 'aggre',
          'noisy': 'noisy100', 'noise_label': 'noisy100', 'noisy_coarse': 'coarse', **{v: k for k,v in _KEYS.items()}}

# --- files, none of which may run code ------------------------------------------------------------
def _array_globals():
    "What a pickle of integer arrays needs, under the names of NumPy 1 and 2"
    core = getattr(np, '_core', None) or np.core
    rec = core.multiarray._reconstruct
    kinds = [type(np.dtype(k)) for k in ('int8', 'uint8', 'int16', 'int32', 'int64')]
    return [(rec, f'numpy.{o}.multiarray._reconstruct') for o in ('core', '_core')] + [np.ndarray, np.dtype, *kinds]

class _Arrays(pickle.Unpickler):
    "Reads arrays and plain containers; anything else is refused before it can act"
    def find_class(self, module, name):
        known = {f'{m}.multiarray': ['_reconstruct'] for m in ('numpy.core', 'numpy._core')}
        known.update({'numpy': ['ndarray', 'dtype'], '_codecs': ['encode']})
        if name in known.get(module, []):
            return super().find_class(module.replace('numpy.core', _CORE), name)
        raise pickle.UnpicklingError(f'{module}.{name}')

_CORE = 'numpy._core' if hasattr(np, '_core') else 'numpy.core'

def _read_npy(f):
    version = np.lib.format.read_magic(f)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    _,_,dtype = read(f)
    if dtype != object: raise ValueError('no dict of labels')
    return _Arrays(io.BytesIO(f.read())).load().item()

def _read(path):
    "dict of label arrays in `path`"
    path = Path(path)
    if not path.exists():
        raise ValueError(f"expected a label file, got {path}, which does not exist. CIFAR-N's are "
                         "at github.com/UCSC-REAL/cifar-10-100n (CC BY-NC 4.0); this package holds "
                         "none.")
    try:
        if path.suffix == '.npz':
            with np.load(path) as z: d = dict(z)
        elif path.suffix == '.npy':
            with open(path, 'rb') as f: d = _read_npy(f)
        else:
            with torch.serialization.safe_globals(_array_globals()):
                d = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as e:      # readers of pickles raise anything at all on bytes that are none
        raise ValueError(f"{path}: expected a dict of integer labels, got something else "
                         f"({str(e)[:80]}). Nothing of it was run. Download it again.") from e
    if not isinstance(d, dict):
        raise ValueError(f"{path}: expected a dict of labels, got {type(d).__name__}.")
    return {str(k): v for k,v in d.items()}

@lru_cache(None)
def _notice():
    robust_warn("CIFAR-N labels are CC BY-NC 4.0: not for commercial use, credit Wei et al. (ICLR 2022). Said once.", 4)

def _get(d, key, path):
    # a prefix, as in collections of files
    hits = [k for k in d if k == key] or [k for k in d if k.endswith('_'+key)]
    if hits: return int_labels(d[hits[0]] if hasattr(d[hits[0]], 'dtype') else np.array(d[hits[0]]))
    raise ValueError(f"{path}: expected labels {key!r}, got {', '.join(d)}. Is it the file of the other data set?")

def cifar_n(
    path,               # CIFAR-10_human.pt or CIFAR-100_human.pt, the ordered .npy, or an .npz with such keys
    name:str='worse',   # 'aggre', 'worse' (or 'worst'), 'random1' to 3 (or 'rand1'), 'noisy100', 'coarse' (of 100N)
    y=None              # True labels (n,) of your data in its order, to check the file's against; None: unchecked
) -> NoiseRecord:
    "CIFAR-10N/100N, all labels of the file; `add_label_noise` takes the record and checks each true label"
    key = _ALIAS.get(name, name)
    if key not in _KEYS:
        raise ValueError(f"unknown CIFAR-N labels {name!r}. "
                         f"{nearest(name, [*_KEYS, 'worst', 'rand1'])}")
    d = _read(path)
    if key == 'noisy100' and 'noise_label' in d:
        d = {**d, 'noisy_label': d['noise_label']}     # the ordered file
    clean,given = _get(d, 'clean_label', path),_get(d, 'noisy_label' if key == 'coarse' else _KEYS[key], path)
    # from the fine ones: the coarse labels of files before March 2023 are wrong
    if key == 'coarse':
        clean,given = np.array(CIFAR100_COARSE)[clean],np.array(CIFAR100_COARSE)[given]
    rec = NoiseRecord(clean, given, 'human', 0., sampling=f'CIFAR-N {key}')
    rec.nominal_rate = rec.realised_rate
    _notice()
    return rec if y is None else match_record(rec, int_labels(y))

def match_record(rec, y, rows=None, c=None):
    "`rec` of the items with true labels `y`: as it is, or at `rows` of it, counted from 0 or from 1"
    if len(rec) == len(y) and (rec.y_clean == y).all(): found = rec.take(slice(None))
    else:
        found,tries = None,[] if rows is None else [np.asarray(rows)-o for o in (0, 1)]
        for r in tries:
            if r.min() >= 0 and r.max() < len(rec) and (rec.y_clean[r] == y).all(): found = rec.take(r); break
    if found is None:
        if len(rec) != len(y): got = f"one of {len(rec)} labels for {len(y)}"
        else:
            bad = np.flatnonzero(rec.y_clean != y)
            got = (f"one with {len(bad)} other true labels (item {bad[0]}: {rec.y_clean[bad[0]]} "
                   f"in the record, {y[bad[0]]} in the data): the labels are in another order")
        raise ValueError(f"expected the record of these very items in this order, got {got}. Use "
                         "the same files and split; a part of the record is "
                         "`record.take(positions)`.")
    top = max(found.y_clean.max(), found.y_noisy.max())+1
    if c is not None and (top > c or ((found.T is not None or found.vocab) and found.n_classes != c)):
        raise ValueError("expected the record of these very items in this order, got one of "
                         f"{max(top, found.n_classes)} classes for {c}. Use the same files and "
                         "split.")
    return found

# --- label files of others ------------------------------------------------------------------------
_TRUE,_GIVEN,_ITEM = ('label', 'clean_label', 'true', 'y'), ('label_noisy', 'noisy_label', 'given'), ('item', 'name')

def _codes(vals, vocab, path):
    try: return np.array([int(v) for v in vals])
    except ValueError: pass
    o2i = {str(v): i for i,v in enumerate(vocab or [])}
    bad = [v for v in vals if v not in o2i]
    if bad:
        raise ValueError(f"{path}: expected labels as ints or classes of the `vocab`, got "
                         f"{bad[0]!r}. {nearest(bad[0], o2i) if o2i else 'Pass vocab=dls.vocab.'}")
    return np.array([o2i[v] for v in vals])

def _order(names, items, path):
    "Rows of the file for each of `items`, by full name, else by file name"
    for key in (str, lambda o: Path(str(o)).name):
        o2i = {key(o): i for i,o in enumerate(names)}
        if len(o2i) == len(names) and all(key(o) in o2i for o in items):
            return [o2i[key(o)] for o in items]
    rows = Counter(Path(str(o)).name for o in names)
    miss = [str(o) for o in items if not rows[Path(str(o)).name]]
    bad,got = (miss, 'none') if miss else (list(dict.fromkeys(o for o in rows if rows[o] > 1)), 'two or several,')
    which = ', '.join(bad[:3]) + (f' and {len(bad)-3} more' if len(bad) > 3 else '')
    raise ValueError(f"{path}: expected one row for each of the {len(items)} items, got "
                     f"{len(names)} rows, {got} for {which}. Use the same files.")

def _of_csv(path, lines, y, items, vocab):
    rd = csv.DictReader([o for o in lines if not o.startswith('#')])
    cols,rows = rd.fieldnames or [],list(rd)
    col = lambda names: next((k for k in names if k in cols), None)
    true,given,item = col(_TRUE),col(_GIVEN),col(_ITEM)
    if given is None or (true is None and y is None) or not rows:
        raise ValueError(f"{path}: expected rows of 'label' and 'label_noisy' (and 'item'), got "
                         f"columns {cols}. Rename them; without 'label' give the true labels as "
                         "`y`.")
    if items is not None and item is not None:
        order = _order([r[item] for r in rows], list(items), path)
        rows = [rows[i] for i in order]
    given = _codes([r[given] for r in rows], vocab, path)
    return (int_labels(y) if true is None else _codes([r[true] for r in rows], vocab, path)), given

def _check_length(path, y, given):
    if len(y) != len(given):
        raise ValueError(f"{path}: expected a label for each of the {len(y)} items, got "
                         f"{len(given)}. It belongs to other data, or to the whole of which you "
                         "have a part.")

def load_labels(
    path,       # `NoiseRecord.save`'s CSV; a CSV with label,label_noisy and perhaps item; a JSON list of given labels
                # (LogitClip, DivideMix) or of pairs [position, foreign image], LogitClip's open-set form
    y=None,     # True labels (n,) to check those of the file against item by item; needed for JSON
    *,
    items=None, # Names of the items (n,): rows with an `item` are put in their order; None: the file's own order
    vocab=None  # Class names, for labels by name
) -> NoiseRecord:
    "A record of labels made elsewhere, to be handed to `add_label_noise`; pairs need `record.images` set first"
    text = Path(path).read_text(encoding='utf-8')
    if text.startswith('# fastrobust '):
        rec = NoiseRecord.load(path)
        return rec if y is None else match_record(rec, int_labels(y))
    kw = dict(kind='file', nominal_rate=0., vocab=vocab, sampling=Path(path).name)
    if text.lstrip()[:1] == '[':
        if y is None:
            raise ValueError(f"{path}: a JSON list has the given labels only; pass the true ones as `y`.")
        y,given = int_labels(y),np.array(json.loads(text))
        if given.ndim == 2 and given.shape[1] == 2:
            i = int_labels(given[:,0], len(y))
            if len(np.unique(i)) < len(i):
                raise ValueError(f"{path}: expected each position once, got some twice.")
            open_from = np.full(len(y), -1)
            open_from[i] = int_labels(given[:,1])
            return NoiseRecord(y, y, **{**kw, 'kind': 'open', 'nominal_rate': len(i)/len(y)}, open_from=open_from)
        clean = y
    else: clean,given = _of_csv(path, text.splitlines(), y, items, vocab)
    _check_length(path, clean if y is None else y, given)
    rec = NoiseRecord(clean, given, **kw)
    rec.nominal_rate = rec.realised_rate
    return rec if y is None else match_record(rec, int_labels(y))

def read_labels(source, name=None):
    "The record in `source`: itself, a CIFAR-N file, or another label file"
    if isinstance(source, NoiseRecord):
        if name is not None:
            raise ValueError(f"a record holds one set of labels, got name={name!r}. Leave it out.")
        return source
    if not isinstance(source, (str, Path)):
        raise TypeError(f"`source` must be a file or a NoiseRecord, got {type(source).__name__}. See `cifar_n`.")
    if Path(source).suffix in ('.pt', '.npy', '.npz'): return cifar_n(source, name or 'worse')
    if name is not None:
        raise ValueError(f"`name` chooses among the labels of a CIFAR-N file, got {source}.")
    return load_labels(source)
