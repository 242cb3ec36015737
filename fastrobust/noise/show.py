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

def _show_given(dl, rec, b=None, max_n=9, ctxs=None, show=True, unique=False, **kwargs):
    "`show_batch` that writes given and true label where they differ; a batch `b` from elsewhere shows its labels alone"
    plain = partial(type(dl).show_batch, dl)
    if b is not None or unique:
        return plain(b, max_n=max_n, ctxs=ctxs, show=show, unique=unique, **kwargs)
    b = dl.one_batch()
    if not show: return plain(b, max_n=max_n, show=False)
    x,y,its = dl._pre_show_batch(b, max_n=max_n)
    ids = batch_idxs(dl, 0, len(its))
    if ids is None:
        # text loaders sort on the fly
        return plain(b, max_n=max_n, ctxs=ctxs, show=show, **kwargs)
    def mark(o, i):
        true = 'none of them' if rec.is_open[i] else dl.vocab[int(rec.y_clean[i])]
        return (*o[:-1], o[-1] if str(o[-1]) == str(true) else WrongCategory(f'given: {o[-1]}\ntrue: {true}'))
    if ctxs is None and isinstance(x, TensorImageBase) and not kwargs.keys() & {'figsize', 'nrows', 'ncols'}:
        rows = max(1, int(len(its)**.5))
        # room for titles of two lines
        kwargs['figsize'] = 3*math.ceil(len(its)/rows), 3.4*rows
    show_batch(x, y, L(mark(o, i) for o,i in zip(its, ids)), ctxs=ctxs, max_n=max_n, **kwargs)

def attach(dls, rec):
    "Give `dls` its record and a `show_batch` that uses it"
    dls.noise = rec
    for dl,r in zip(dls.loaders, (rec, rec.valid)):
        if r is not None and hasattr(dl.dataset, 'tls'):
            dl.show_batch = partial(_show_given, dl, r)   # no tables
    return dls
