"A `show_batch` that tells given from true labels, and foreign images from own"
import math
from functools import partial
from fastcore.foundation import L
from fastai.data.core import show_batch
from fastai.data.transforms import Category
from fastai.torch_core import TensorImageBase
from fastrobust.basics import batch_idxs

__all__ = []

class WrongCategory(Category):
    "A given label that is not the true one, or one of an image of no known class"
    # Okabe and Ito's vermilion: not black to any colour vision
    _show_args = {'label': 'category', 'color': '#D55E00'}

def _true_label(dl, rec, i):
    if rec.is_open[i]: return 'none of them'
    return dl.vocab[int(rec.y_clean[i])]

def _mark(item, true):
    "`item` to be shown, the `true` label beside the given one where they differ"
    *x,given = item
    if str(given) != str(true): given = WrongCategory(f'given: {given}\ntrue: {true}')
    return (*x, given)

def _figsize(n):
    rows = max(1, int(n**.5))
    # room for titles of two lines
    return 3*math.ceil(n/rows), 3.4*rows

def _show_given(dl, rec, b=None, max_n=9, ctxs=None, show=True, unique=False, **kwargs):
    "`show_batch` that writes given and true label where they differ; a batch `b` from elsewhere shows its labels alone"
    plain = partial(type(dl).show_batch, dl)
    kw = dict(max_n=max_n, ctxs=ctxs, **kwargs)
    if b is not None or unique: return plain(b, show=show, unique=unique, **kw)
    b = dl.one_batch()
    if not show: return plain(b, max_n=max_n, show=False)

    x,y,its = dl._pre_show_batch(b, max_n=max_n)
    ids = batch_idxs(dl, 0, len(its))
    # text loaders sort on the fly
    if ids is None: return plain(b, show=show, **kw)

    marked = L()
    for o,i in zip(its, ids):
        true = _true_label(dl, rec, i)
        marked.append(_mark(o, true))
    own_layout = ctxs is not None or kw.keys() & {'figsize', 'nrows', 'ncols'}
    if isinstance(x, TensorImageBase) and not own_layout:
        kw['figsize'] = _figsize(len(its))
    show_batch(x, y, marked, **kw)
    return None

def attach(dls, rec):
    "Give `dls` its record and a `show_batch` that uses it"
    dls.noise = rec
    for dl,r in zip(dls.loaders, (rec, rec.valid)):
        # no tables
        if r is not None and hasattr(dl.dataset, 'tls'):
            dl.show_batch = partial(_show_given, dl, r)
    return dls
