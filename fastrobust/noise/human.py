"Labels that people gave, CIFAR-10N and CIFAR-100N, checked item by item"
# CIFAR-N: Wei et al., Learning with Noisy Labels Revisited, https://arxiv.org/abs/2110.12088;
# labels CC BY-NC 4.0.
import io, pickle
from functools import lru_cache
from pathlib import Path
import numpy as np
import torch
from fastrobust.basics import nearest, robust_warn
from fastrobust.data.reading import int_labels
from fastrobust.noise.classmaps import CIFAR100_COARSE
from fastrobust.noise.record import NoiseRecord

__all__ = ['cifar_n']

_KEYS = {'aggre': 'aggre_label', 'worse': 'worse_label', 'random1': 'random_label1',
         'random2': 'random_label2', 'random3': 'random_label3',
         'noisy100': 'noisy_label', 'coarse': 'noisy_coarse_label'}
_ALIAS = {'worst': 'worse', 'rand1': 'random1', 'rand2': 'random2', 'rand3': 'random3',
          'aggregate': 'aggre', 'noisy': 'noisy100', 'noise_label': 'noisy100',
          'noisy_coarse': 'coarse', **{v: k for k,v in _KEYS.items()}}

def _array_globals():
    "What a pickle of integer arrays needs, under the names of NumPy 1 and 2"
    core = getattr(np, '_core', None) or np.core
    rec = core.multiarray._reconstruct
    names = [f'numpy.{o}.multiarray._reconstruct' for o in ('core', '_core')]
    kinds = [type(np.dtype(k)) for k in ('int8', 'uint8', 'int16', 'int32', 'int64')]
    return [(rec, o) for o in names] + [np.ndarray, np.dtype, *kinds]

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
    npy = np.lib.format
    if npy.read_magic(f) == (1, 0): _,_,dtype = npy.read_array_header_1_0(f)
    else: _,_,dtype = npy.read_array_header_2_0(f)
    if dtype != object: raise ValueError('no dict of labels')
    return _Arrays(io.BytesIO(f.read())).load().item()

def _load(path):
    if path.suffix == '.npz':
        with np.load(path) as z: return dict(z)
    if path.suffix == '.npy':
        with open(path, 'rb') as f: return _read_npy(f)
    with torch.serialization.safe_globals(_array_globals()):
        return torch.load(path, map_location='cpu', weights_only=True)

def _read(path):
    "dict of label arrays in `path`"
    path = Path(path)
    if not path.exists():
        raise ValueError(f"expected a label file, got {path}, which does not exist. CIFAR-N's are "
                         "at github.com/UCSC-REAL/cifar-10-100n (CC BY-NC 4.0); this package holds "
                         "none.")
    try: d = _load(path)
    except Exception as e:      # readers of pickles raise anything at all on bytes that are none
        raise ValueError(f"{path}: expected a dict of integer labels, got something else "
                         f"({str(e)[:80]}). Nothing of it was run. Download it again.") from e
    if not isinstance(d, dict):
        raise ValueError(f"{path}: expected a dict of labels, got {type(d).__name__}.")
    return {str(k): v for k,v in d.items()}

@lru_cache(None)
def _notice():
    robust_warn("CIFAR-N labels are CC BY-NC 4.0: not for commercial use, credit Wei et al. (ICLR "
                "2022). Said once.")

def _get(d, key, path):
    # a prefix, as in collections of files
    hits = [k for k in d if k == key] or [k for k in d if k.endswith('_'+key)]
    if not hits:
        raise ValueError(f"{path}: expected labels {key!r}, got {', '.join(d)}. Is it the file of "
                         "the other data set?")
    v = d[hits[0]]
    return int_labels(v if hasattr(v, 'dtype') else np.array(v))

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
    clean = _get(d, 'clean_label', path)
    if key == 'coarse':
        # from the fine ones: the coarse labels of files before March 2023 are wrong
        coarse,fine = np.array(CIFAR100_COARSE),_get(d, 'noisy_label', path)
        clean,given = coarse[clean],coarse[fine]
    else: given = _get(d, _KEYS[key], path)
    rec = NoiseRecord(clean, given, 'human', 0., sampling=f'CIFAR-N {key}')
    rec.nominal_rate = rec.realised_rate
    _notice()
    return rec if y is None else match_record(rec, int_labels(y))

def _items_of(rec, y, rows):
    "`rec` of the items with true labels `y`, None where it does not fit"
    if len(rec) == len(y) and (rec.y_clean == y).all(): return rec.take(slice(None))
    if rows is None: return None
    for start in (0, 1):
        r = np.asarray(rows)-start
        inside = r.min() >= 0 and r.max() < len(rec)
        if inside and (rec.y_clean[r] == y).all(): return rec.take(r)
    return None

def match_record(rec, y, rows=None, c=None):
    "`rec` of the items with true labels `y`: as it is, or at `rows` of it, counted from 0 or from 1"
    found = _items_of(rec, y, rows)
    if found is None:
        if len(rec) != len(y): got = f"one of {len(rec)} labels for {len(y)}"
        else:
            bad = np.flatnonzero(rec.y_clean != y)
            got = (f"one with {len(bad)} other true labels (item {bad[0]}: {rec.y_clean[bad[0]]} "
                   f"in the record, {y[bad[0]]} in the data): the labels are in another order")
        raise ValueError(f"expected the record of these very items in this order, got {got}. Use "
                         "the same files and split; a part of the record is "
                         "`record.take(positions)`.")
    if c is not None: _check_classes(found, c)
    return found

def _check_classes(rec, c):
    top = max(rec.y_clean.max(), rec.y_noisy.max())+1
    known = rec.T is not None or rec.vocab
    if top > c or (known and rec.n_classes != c):
        raise ValueError("expected the record of these very items in this order, got one of "
                         f"{max(top, rec.n_classes)} classes for {c}. Use the same files and "
                         "split.")
