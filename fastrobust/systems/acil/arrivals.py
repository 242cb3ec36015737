"Items that come to a learner of phases from outside, in any form, as a loader whose labels are in its vocab"
from pathlib import Path
from typing import NamedTuple
import torch
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.load import DataLoader
from fastrobust.basics import is_whole, plain_dl, target_vocab
from fastrobust.data.growing import folder_items
from fastrobust.data.reading import label_vocab
from fastrobust.inference.loaders import learners_loader
from fastrobust.pixels import is_normalize

__all__ = []

class Arrival(NamedTuple):
    "Items to learn or to forget"
    name:str            # Of the phase
    dl:DataLoader       # With labels of its own
    codes:torch.Tensor  # What its labels are in `vocab`, int64
    vocab:list          # Classes of the learner, new ones behind them
    items:object        # By which it is known whether two arrivals are one: files with their times, or a dataset
    valid:DataLoader|None = None # Items to evaluate on

def same_items(a, b):
    "Whether two `Arrival.items` are the same"
    return a is b or (isinstance(a, list) and isinstance(b, list) and a == b)

def grown(vocab, names):
    "(`vocab` with those of `names` behind it that are new, codes of `names`)"
    if vocab and all(is_whole(o) for o in vocab):
        # class folders of numbers
        names = [int(o) if isinstance(o, str) and o.isdigit() else o for o in names]
    known = {o: i for i,o in enumerate(vocab)}
    for o in names: known.setdefault(o, len(known))
    return list(known),torch.tensor([known[o] for o in names], dtype=torch.long)

def _of_folder(learn, path):
    "Loader over the images of class folders, with the learner's validation transforms; names of its labels; its files"
    files,names = folder_items(path)
    own = sorted(set(names))
    pairs = list(zip(files, names))
    facts = [(str(f), f.stat().st_mtime_ns, f.stat().st_size) for f in files]
    return learners_loader(learn, lambda _: pairs, None, None, TfmdDL, vocab=own),own,facts

def _normalised(learn, dl):
    "`dl` with the learner's Normalize in place of its own: the network knows images in no other form"
    norms = [t for t in plain_dl(learn.dls.loaders[0]).after_batch.fs if is_normalize(t)]
    others = [t for t in dl.after_batch.fs if not is_normalize(t)]
    return dl.new(after_batch=others+norms)

def arriving(
    learn,  # Learner of phases
    data,   # Folder of class folders, DataLoaders or loader
    name    # Of the phase, unless `data` is a folder
)->Arrival:
    "Items in any form, with labels in the learner's vocab"
    valid = None
    if isinstance(data, (str, Path)):
        dl,own,items = _of_folder(learn, data)
        name = Path(data).name
    else:
        loaders = list(data.loaders) if isinstance(data, DataLoaders) else [data]
        if not loaders or not all(isinstance(o, DataLoader) for o in loaders):
            raise TypeError("expected a folder of class folders, DataLoaders or a fastai loader with "
                            f"labels, got a {type(data).__name__}.")
        loaders = [_normalised(learn, plain_dl(o)) for o in loaders[:2]]
        dl,own = loaders[0],list(label_vocab(loaders[0].dataset, 'the items'))
        items = loaders[0].dataset
        if len(loaders) > 1 and len(loaders[1].dataset):
            valid = loaders[1]
            others = list(label_vocab(valid.dataset, 'the validation items'))
            if others != own:
                raise ValueError("expected one vocab in both loaders, got other classes in that of the "
                                 f"validation items: {others[:5]} beside {own[:5]}. Build both from one "
                                 "DataBlock.")
    vocab,codes = grown(target_vocab(learn.dls), own)
    if not len(dl.dataset): raise ValueError("expected items to learn or to forget, got none.")
    return Arrival(name, dl, codes, vocab, items, valid)
