"Label files of others as noise records: CSV, JSON, as LogitClip and DivideMix leave them"
import csv, json
from collections import Counter
from pathlib import Path
import numpy as np
from fastrobust.basics import nearest
from fastrobust.data.reading import int_labels
from fastrobust.noise.human import cifar_n, match_record
from fastrobust.noise.record import NoiseRecord

__all__ = []

_TRUE = 'label', 'clean_label', 'true', 'y'
_GIVEN = 'label_noisy', 'noisy_label', 'given'
_ITEM = 'item', 'name'

def _codes(vals, vocab, path):
    try: return np.array([int(v) for v in vals])
    except ValueError: pass
    o2i = {str(v): i for i,v in enumerate(vocab or [])}
    bad = [v for v in vals if v not in o2i]
    if bad:
        hint = nearest(bad[0], o2i) if o2i else 'Pass vocab=dls.vocab.'
        raise ValueError(f"{path}: expected labels as ints or classes of the `vocab`, got "
                         f"{bad[0]!r}. {hint}")
    return np.array([o2i[v] for v in vals])

def _file_name(o): return Path(str(o)).name

def _order(names, items, path):
    "Rows of the file for each of `items`, by full name, else by file name"
    for key in (str, _file_name):
        o2i = {key(o): i for i,o in enumerate(names)}
        if len(o2i) == len(names) and all(key(o) in o2i for o in items):
            return [o2i[key(o)] for o in items]
    rows = Counter(_file_name(o) for o in names)
    bad,got = [str(o) for o in items if not rows[_file_name(o)]],'none'
    if not bad: bad,got = [o for o in rows if rows[o] > 1],'two or several,'
    which = ', '.join(bad[:3])
    if len(bad) > 3: which += f' and {len(bad)-3} more'
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
    y_noisy = _codes([r[given] for r in rows], vocab, path)
    if true is None: return int_labels(y), y_noisy
    return _codes([r[true] for r in rows], vocab, path), y_noisy

def _check_length(path, y, given):
    if len(y) != len(given):
        raise ValueError(f"{path}: expected a label for each of the {len(y)} items, got "
                         f"{len(given)}. It belongs to other data, or to the whole of which you "
                         "have a part.")

def _open_pairs(path, pairs, y, kw):
    "The record of pairs [position, foreign image] (k,2)"
    i = int_labels(pairs[:,0], len(y))
    if len(np.unique(i)) < len(i):
        raise ValueError(f"{path}: expected each position once, got some twice.")
    open_from = np.full(len(y), -1)
    open_from[i] = int_labels(pairs[:,1])
    kw = {**kw, 'kind': 'open', 'nominal_rate': len(i)/len(y)}
    return NoiseRecord(y, y, open_from=open_from, **kw)

def load_labels(
    # `NoiseRecord.save`'s CSV; a CSV with label,label_noisy and perhaps item; a JSON list of given
    # labels (LogitClip, DivideMix) or of pairs [position, foreign image], LogitClip's open-set form
    path,
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
            raise ValueError(f"{path}: a JSON list has the given labels only; pass the true ones "
                             "as `y`.")
        clean = y = int_labels(y)
        given = np.array(json.loads(text))
        if given.ndim == 2 and given.shape[1] == 2: return _open_pairs(path, given, y, kw)
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
        raise TypeError(f"`source` must be a file or a NoiseRecord, got {type(source).__name__}. "
                        "See `cifar_n`.")
    if Path(source).suffix in ('.pt', '.npy', '.npz'):
        return cifar_n(source, name or 'worse')
    if name is not None:
        raise ValueError(f"`name` chooses among the labels of a CIFAR-N file, got {source}.")
    return load_labels(source)
