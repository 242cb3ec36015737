"Noisy labels in fastai: loaders and a `DataBlock` whose training items have given labels, and images if need be"
import copy
import numpy as np
import torch
from fastai.data.block import DataBlock
from fastai.data.core import DataLoaders, Datasets, TfmdDL
from fastai.tabular.core import Tabular
from fastrobust.data.arrays import ArrayItems
from fastrobust.data.arraychecks import check_like
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
        X,rows = part.X if noise.needs_X else None,part.rows if noise.kind == 'human' else None
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
    wanted,rec.valid = noise.noisy_valid if isinstance(noise, NoisyLabels) else noise.valid is not None,None
    if wanted:
        yv = [] if valid is None else valid.y
        if not len(yv):
            raise ValueError("noisy_valid expected validation items, got none. Use another splitter.")
        rec.valid = _draw(noise, valid, yv, vocab, 1)
    rec.log_true = wanted == 'both' or (rec.log_true and wanted)
    return rec

# --- loaders --------------------------------------------------------------------------------------
def _open_set(ds, rec, codes=None):
    "`ds` with the foreign images of `rec` at `codes`; None: as it was, but its test sets show them for training items"
    if not rec.is_open.any(): return ds
    if isinstance(ds, Tabular):
        raise TypeError("expected images to replace by others, got a table. Use closed noise.")
    if rec.images is None or (rec.is_open != (rec.open_from >= 0)).any():
        raise ValueError(f"expected the images of the {int(rec.is_open.sum())} open-set items, got "
                         "none. A CSV holds none: set `record.images` to those it was drawn with, "
                         "or draw again from the law.")
    if ds.n_inp != 1:
        raise ValueError(f"open-set noise expected one image per item, got {ds.n_inp} inputs.")
    if not isinstance(ds.items, ArrayItems):
        if codes is None and type(ds.tls[0]) is OpenInputs: return ds
        tls = [OpenInputs.of(ds.tls[0], codes, images=rec.images), *ds.tls[1:]]
    elif codes is None: return ds
    else:
        it,i = ds.items,torch.from_numpy(np.flatnonzero(codes >= 0))
        check_like(rec.images.shape[1:], it.x.shape[1:], 'images', strict=True)
        x = it.x.clone()
        x[i.to(x.device)] = rec.images[codes[i]].to(x.device)
        it = ArrayItems(x, it.y, it.vocab, it.rows)
        tls = [tl._new(it, split_idx=tl.split_idx) for tl in ds.tls]
    return Datasets(tls=tls, n_inp=ds.n_inp, dl_type=ds._dl_type)

def add_label_noise(
    dls:DataLoaders,        # Loaders with a single-label target; they and their datasets stay as they are
    noise,                  # `NoisyLabels`, or a `NoiseRecord` (loaded) to give the same labels again
    compound:bool=False     # Put noise on labels that are noisy already? `y_clean` stays the true ones
) -> DataLoaders:
    "New `DataLoaders` like `dls` with noisy training labels, fixed by position; `.noise` is the `NoiseRecord`"
    _check_noise(noise)
    bad = [type(dl).__name__ for dl in getattr(dls, 'loaders', [dls]) if not isinstance(dl, TfmdDL)]
    if bad:
        raise TypeError(f"expected `DataLoaders` of TfmdDLs, got {bad[0]}. Use a DataBlock or array_dls.")
    old,vocab = getattr(dls, 'noise', None),label_vocab(dls.train_ds, 'the training set')
    if old is not None and not compound:
        raise ValueError(f"expected dls with true labels, got noisy ones ({old}). Use the clean dls, or compound=True.")
    train,valid = dls.train_ds,dls.valid_ds if len(dls.loaders) > 1 else None
    rec = _records(noise, Part(train, dls.train.after_item, 'the training set'),
                   None if valid is None else Part(valid, dls.valid.after_item, 'the validation set'), vocab)
    if old is not None and old.is_open.any() and rec.is_open.any():
        raise ValueError("expected one draw of open-set noise, got a second on top. Draw both shares at once.")
    train,n = _open_set(train, rec, rec.open_from),len(getattr(train, 'tls', ()))
    if valid is not None and type(valid) in (Datasets, NoisyDatasets) and len(valid.tls) == n:
        valid = _open_set(valid, rec)
    if old is not None:
        res = old.compose(rec)
        res.valid = old.valid if rec.valid is None else rec.valid if old.valid is None else old.valid.compose(rec.valid)
        res.log_true,rec = rec.log_true or old.log_true,res
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
        tl,(a,*rest) = target(ds, 'the DataBlock'),[list(s) for s in ds.splits]
        rec = _records(self.noise, Part(ds, self.item_tfms, 'the DataBlock', a),
                       Part(ds, self.item_tfms, 'the DataBlock', rest[0]) if rest else None, tl.vocab)
        given,foreign = np.full(len(ds), -1),np.full(len(ds), -1)
        if rec.valid is not None: given[rest[0]] = rec.valid.y_noisy
        given[a],foreign[a] = rec.y_noisy,rec.open_from
        tls = [*_open_set(ds, rec, foreign).tls[:-1], GivenLabels.of(tl, given)]
        return NoisyDatasets(tls=tls, n_inp=ds.n_inp, dl_type=ds._dl_type, noise=rec)
