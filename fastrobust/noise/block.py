"Noisy labels in fastai: loaders and a `DataBlock` whose training items have given labels, and images if need be"
import copy
import numpy as np
import torch
from fastai.data.block import DataBlock
from fastai.data.core import DataLoaders, Datasets, TfmdDL
from fastai.tabular.core import Tabular
from fastrobust.data.arraychecks import check_like
from fastrobust.data.arrays import ArrayItems
from fastrobust.data.copying import loader_like, relabelled
from fastrobust.data.givenlists import GivenLabels, NoisyDatasets, OpenInputs
from fastrobust.data.reading import Part, label_vocab, target
from fastrobust.noise.human import match_record
from fastrobust.noise.laws import NoisyLabels
from fastrobust.noise.record import NoiseRecord

__all__ = ['NoisyDataBlock', 'add_label_noise']

# --- the law on a dataset -------------------------------------------------------------------------
def _draw(noise, part, y, vocab, stream=0):
    if isinstance(noise, NoisyLabels):
        X = part.X if noise.needs_X else None
        rows = part.rows if noise.kind == 'human' else None
        return noise.apply(y, len(vocab), X=X, vocab=vocab, stream=stream, rows=rows)
    rec = match_record(noise if stream == 0 else noise.valid, y, part.rows, len(vocab))
    if rec.vocab is None: rec.vocab = [str(v) for v in vocab]
    return rec

def _check_noise(noise):
    if isinstance(noise, (NoisyLabels, NoiseRecord)): return
    raise TypeError(f"`noise` must be NoisyLabels or a NoiseRecord, got {noise!r}. Pass "
                    "NoisyLabels('symmetric', .4).")

def _records(noise, train, valid, vocab):
    "Record of the `Part` to train on, and of the one to validate on where the law wants it noisy"
    rec = _draw(noise, train, train.y, vocab)
    if isinstance(noise, NoisyLabels): wanted = noise.noisy_valid
    else: wanted = noise.valid is not None

    rec.valid = None
    if wanted:
        yv = [] if valid is None else valid.y
        if not len(yv):
            raise ValueError("noisy_valid expected validation items, got none. Use another "
                             "splitter.")
        rec.valid = _draw(noise, valid, yv, vocab, 1)
    rec.log_true = wanted == 'both' or (rec.log_true and wanted)
    return rec

# --- loaders --------------------------------------------------------------------------------------
def _need_images(ds, rec):
    "Refuse open-set noise on what shows no single image, or without the foreign images"
    if isinstance(ds, Tabular):
        raise TypeError("expected images to replace by others, got a table. Use closed noise.")
    if isinstance(ds.items, ArrayItems) and ds.items.x.ndim == 5:
        raise TypeError("expected images to replace by others, got clips. Use closed noise, such as "
                        "NoisyLabels('symmetric', .4).")
    if rec.images is None or (rec.is_open != (rec.open_from >= 0)).any():
        raise ValueError(f"expected the images of the {int(rec.is_open.sum())} open-set items, got "
                         "none. A CSV holds none: set `record.images` to those it was drawn with, "
                         "or draw again from the law.")
    if ds.n_inp != 1:
        raise ValueError(f"open-set noise expected one image per item, got {ds.n_inp} inputs.")

def _replaced(items, codes, images):
    "`ArrayItems` with `images[codes[i]]` in the place of image i, -1: its own"
    i = torch.from_numpy(np.flatnonzero(codes >= 0))
    check_like(images.shape[1:], items.x.shape[1:], 'images', strict=True)
    x = items.x.clone()
    x[i.to(x.device)] = images[codes[i]].to(x.device)
    return type(items)(x, items.y, items.vocab, items.rows)

def _open_set(ds, rec, codes=None):
    "`ds` with the foreign images of `rec` at `codes`; None: as it was, but its test sets show them for training items"
    if not rec.is_open.any(): return ds
    _need_images(ds, rec)
    if isinstance(ds.items, ArrayItems):
        if codes is None: return ds
        items = _replaced(ds.items, codes, rec.images)
        tls = [tl._new(items, split_idx=tl.split_idx) for tl in ds.tls]
    else:
        if codes is None and type(ds.tls[0]) is OpenInputs: return ds
        tls = [OpenInputs.of(ds.tls[0], codes, images=rec.images), *ds.tls[1:]]
    return Datasets(tls=tls, n_inp=ds.n_inp, dl_type=ds._dl_type)

def _on_top(old, new):
    "The record of `new`, noise drawn on the labels of `old`, for training and validation items"
    res = old.compose(new)
    if new.valid is None: res.valid = old.valid
    elif old.valid is None: res.valid = new.valid
    else: res.valid = old.valid.compose(new.valid)
    res.log_true = new.log_true or old.log_true
    return res

def add_label_noise(
    dls:DataLoaders,    # Loaders with a single-label target; they and their datasets stay as they are
    noise,              # `NoisyLabels`, or a `NoiseRecord` (loaded) to give the same labels again
    compound:bool=False # Put noise on labels that are noisy already? `y_clean` stays the true ones
) -> DataLoaders:
    "New `DataLoaders` like `dls` with noisy training labels, fixed by position; `.noise` is the `NoiseRecord`"
    _check_noise(noise)
    loaders = getattr(dls, 'loaders', [dls])
    bad = [type(dl).__name__ for dl in loaders if not isinstance(dl, TfmdDL)]
    if bad:
        raise TypeError(f"expected `DataLoaders` of TfmdDLs, got {bad[0]}. Use a DataBlock or "
                        "array_dls.")
    old = getattr(dls, 'noise', None)
    vocab = label_vocab(dls.train_ds, 'the training set')
    if old is not None and not compound:
        raise ValueError(f"expected dls with true labels, got noisy ones ({old}). Use the clean "
                         "dls, or compound=True.")

    train = dls.train_ds
    train_part = Part(train, dls.train.after_item, 'the training set')
    valid = dls.valid_ds if len(dls.loaders) > 1 else None
    valid_part = None
    if valid is not None:
        valid_part = Part(valid, dls.valid.after_item, 'the validation set')
    rec = _records(noise, train_part, valid_part, vocab)
    if old is not None and old.is_open.any() and rec.is_open.any():
        raise ValueError("expected one draw of open-set noise, got a second on top. Draw both "
                         "shares at once.")

    n = len(getattr(train, 'tls', ()))
    train = _open_set(train, rec, rec.open_from)
    if valid is not None and type(valid) in (Datasets, NoisyDatasets) and len(valid.tls) == n:
        valid = _open_set(valid, rec)
    if old is not None: rec = _on_top(old, rec)

    new = copy.copy(dls)
    new.loaders = [loader_like(dls.train, relabelled(train, rec))]
    if valid is not None:
        new.loaders.append(loader_like(dls.valid, relabelled(valid, rec.valid, n)))
    new.loaders += list(dls.loaders[2:])
    return rec.attach(new)

class NoisyDataBlock(DataBlock):
    "A `DataBlock` with corrupted training labels, in `datasets` and `dataloaders` alike; their `.noise` is the record"
    def __init__(self,
        blocks=None,    # One or more `TransformBlock`s, the last a CategoryBlock
        noise=None,     # `NoisyLabels`, or a `NoiseRecord` to give the same labels again
        **kwargs        # Anything `DataBlock` takes
    ):
        _check_noise(noise)
        super().__init__(blocks, **kwargs)
        self.noise = noise

    def datasets(self, source, verbose=False):
        "Datasets of `source` with noisy training labels"
        ds = super().datasets(source, verbose=verbose)
        tl = target(ds, 'the DataBlock')
        a,*rest = [list(s) for s in ds.splits]
        train = Part(ds, self.item_tfms, 'the DataBlock', a)
        valid = Part(ds, self.item_tfms, 'the DataBlock', rest[0]) if rest else None
        rec = _records(self.noise, train, valid, tl.vocab)

        given = np.full(len(ds), -1)
        if rec.valid is not None: given[rest[0]] = rec.valid.y_noisy
        given[a] = rec.y_noisy
        foreign = np.full(len(ds), -1)
        foreign[a] = rec.open_from
        tls = [*_open_set(ds, rec, foreign).tls[:-1], GivenLabels.of(tl, given)]
        return NoisyDatasets(tls=tls, n_inp=ds.n_inp, dl_type=ds._dl_type, noise=rec)
