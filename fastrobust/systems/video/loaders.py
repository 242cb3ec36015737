"Loaders of clips from a folder of classes, UCF101, Kinetics, lists or arrays: `video_dls`"
import inspect
from collections.abc import Iterable
from pathlib import Path
import numpy as np
from torch import Tensor
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.transforms import IndexSplitter, ItemGetter
from fastrobust.basics import nearest, need_whole, shown
from fastrobust.data.arraychecks import as_labels, as_vocab, codes_in
from fastrobust.systems.video.block import VideoBlock
from fastrobust.systems.video.folders import class_items, kinetics_items, recording_of, ucf101_items
from fastrobust.systems.video.splits import is_share, random_split
from fastrobust.systems.video.tfms import KINETICS, joined
from fastrobust.systems.video.videoarrays import batch_steps, clip_dls, need_stats

__all__ = ['video_dls']

_HELD = 'valid','val','validation','test'     # names of folders to validate on, the first that is there

# --- sources --------------------------------------------------------------------------------------
class _Items:
    "(path, class) to train and to validate on; the second None where it is to be drawn"
    def __init__(self, train, valid=None, vocab=None, path='.'):
        self.train,self.valid,self.path = train,valid,path
        classes = {k for _,k in train} | {k for _,k in valid or ()}
        self.vocab = sorted(classes) if vocab is None else vocab

    def drawn(self, share, seed):
        "With a share held out in whole recordings, where nothing is held out yet"
        if self.valid is not None: return self
        groups = [recording_of(o) for o,_ in self.train]
        parts = random_split(len(groups), share, seed, groups)
        kept,held = ([self.train[i] for i in part] for part in parts)
        return _Items(kept, held, self.vocab, self.path)

def _of_folder(root, valid):
    "A folder of classes, or one with folders for training and validation of which each has classes"
    root = Path(root)
    names = [valid] if isinstance(valid, str) else list(_HELD)
    there = [o for o in names if (root/o).is_dir()]
    trains = (root/'train').is_dir()
    if isinstance(valid, str) and not (there and trains):
        raise ValueError(f"expected the folders 'train' and {valid!r} in {str(root)!r}, got not "
                         "both. For a random share give a number, `valid=.2`.")
    if not (trains and there) or is_share(valid):
        if trains and is_share(valid): root = root/'train'
        return _Items(class_items(root), path=root)
    return _Items(class_items(root/'train'), class_items(root/there[0]), path=root)

def _of_lists(files, labels):
    if not isinstance(files, Iterable):
        raise TypeError(f"expected (files, labels), got {shown(files)} for the files. Give a list "
                        "of paths.")
    files = list(files)
    odd = next((o for o in files if not isinstance(o, (str, Path))), None)
    if odd is not None: raise TypeError(f"expected a list of paths of videos, got {shown(odd)} in it. Clips in "
                                        "memory are one array (n,t,h,w,c).")
    if not len(files): raise ValueError("expected videos, got an empty list. Look how they were selected.")
    labels = as_labels(labels, len(files), 'labels')
    gone = [str(o) for o in files if not Path(o).exists()]
    if gone:
        raise ValueError(f"expected videos that are there, got {len(gone)} of {len(files)} paths "
                         f"that are not, such as {gone[0]!r}. Look at the folder that they begin "
                         "with.")
    return _Items([(Path(o), k) for o,k in zip(files, labels)])

def _need_one(split, csv, valid):
    if split is not None and csv is not None:
        raise ValueError("expected `split` (UCF101) or `csv` (Kinetics), got both. Leave one out.")
    if (split is None and csv is None) or valid is None: return
    if csv is None or not is_share(valid): raise _twice(valid)

def _twice(valid):
    return ValueError("expected no `valid` beside lists that say what to validate on, got "
                      f"{shown(valid)}. Leave it out.")

def _items(source, valid, split, csv):
    if isinstance(source, (tuple, list)) and len(source) == 2 and not isinstance(source[0], (str, Path)):
        return _of_lists(*source)
    if not isinstance(source, (str, Path)):
        raise TypeError("expected a folder of videos, (files, labels) or (X, y), got "
                        f"{shown(source)}. Give one of these.")
    if split is not None:
        train,held,vocab = ucf101_items(source, split)
        return _Items(train, held, vocab, Path(source))
    if csv is not None:
        train,held = kinetics_items(source, csv)
        if held is not None and valid is not None: raise _twice(valid)
        return _Items(train, held, path=Path(source))
    return _of_folder(source, valid)

def _named(items, vocab):
    "Items with their class as `vocab` has it; whole numbers beside names are positions in it"
    codes = codes_in([k for _,k in items], vocab, 'source')
    return [(o, vocab[c]) for (o,_),c in zip(items, codes.tolist())]

# --- loaders --------------------------------------------------------------------------------------
def _is_arrays(source):
    "Is it (X, y) with clips in memory? An array of words is one of paths"
    if not isinstance(source, (tuple, list)) or len(source) != 2: return False
    X = source[0]
    return isinstance(X, Tensor) or (isinstance(X, np.ndarray) and X.dtype.kind not in 'OSU')

_INSTEAD = {'valid_pct': "The share held out is `valid`. ", 'batch_size': "It is `bs`. ",
            'item_tfms': "The size in pixels is `size`. ",
            'after_item': "The size in pixels is `size`. ", 'after_batch': "It is `batch_tfms`. ",
            'frames': "It is `n`. "}

def _need_known(kwargs):
    "Refuse what no loader takes, which fastai drops without a word"
    known = inspect.signature(TfmdDL.__init__).parameters.keys()
    known -= {'self', 'batch_size', 'dataset', 'do_setup', 'after_item', 'after_batch'}
    known |= {'val_bs'}
    mine = [o for o in inspect.signature(video_dls).parameters if o != 'kwargs']
    for k in kwargs:
        if k in known: continue
        raise TypeError(f"video_dls got an unknown {k!r}. {_INSTEAD.get(k, '')}{nearest(k, mine)}")

def _need_files(given, source):
    "Refuse settings of how files are read, where there are none"
    names = [k for k,v in given.items() if v is not None]
    if not names: return
    raise TypeError(f"expected {', '.join(names)} beside files alone, got it with "
                    f"{shown(source[0])}. Clips in memory are taken as they are: cut them first, "
                    "X[:, :n].")

def video_dls(
    source,         # Folder of classes, root of UCF101 or of Kinetics, (files, labels), or (X, y), clips in memory
    n=None,         # Frames of a clip; None: of files 16, of arrays all
    span=None,      # Seconds that they cover; None: 2
    size=None,      # Pixels, or (height, width); None: of files 112, of arrays their own
    # Share in (0,1) held out, in whole recordings; a folder's name; of arrays (Xv, yv) too; None: what lists or folders
    # (train and valid, val ..) say, else .2
    valid=None,
    bs=8,           # Batch size
    *,
    split=None,     # UCF101's lists, 1 to 3; None: no lists
    csv=None,       # Kinetics' list, or several; None: no lists
    rate=None,      # Frames a second, in place of `span`
    backend=None,   # As of `VideoBlock`
    fps=None,       # Images a second of folders of frames, > 0; None: 25, UCF101's
    method=None,    # 'crop' or 'squish', as of `VideoBlock`; None: 'crop'
    batch_tfms=None, # Such as `video_aug()`
    stats='auto',   # (mean, std) of each channel, None: no Normalize; 'auto': of files Kinetics', of arrays their own
    vocab=None,     # Classes in the order of the outputs; None: those there are, sorted; UCF101's as classInd.txt
    seed=0,         # Of the held-out share
    num_workers=None, # Processes; None: of files as fastai, of arrays 0
    device=None,    # Of batches; None: fastai's default
    path=None,      # Where a learner saves; None: the folder, else '.'
    **kwargs        # More for the loaders, such as `drop_last`
)->DataLoaders:
    """Loaders of clips (b,c,t,h,w) and their class, for assessing the robustness of one's own models

    Training sees a random moment and a random crop, validation the middle of both; clips of one recording, as UCF101
    and Kinetics name them, are never on both sides. `dls.show_batch()` shows strips of frames."""
    _need_known(kwargs)
    need_whole('bs', bs, 1, fix='Try 8.')
    need_whole('seed', seed, 0)
    if num_workers is not None: need_whole('num_workers', num_workers, 0, what='processes')
    _need_one(split, csv, valid)
    batch_tfms = joined(batch_tfms)
    if _is_arrays(source):
        of_files = dict(n=n, span=span, size=size, rate=rate, backend=backend, fps=fps, method=method,
                        split=split, csv=csv)
        _need_files(of_files, source)
        X,y = source
        return clip_dls(X, y, valid=.2 if valid is None else valid, bs=bs, vocab=vocab, batch_tfms=batch_tfms,
                        stats=stats, seed=seed, num_workers=num_workers or 0, device=device, path=path or '.', **kwargs)

    items = _items(source, valid, split, csv)
    items = items.drawn(valid if is_share(valid) else .2, seed)
    stats = need_stats(stats)
    if isinstance(stats, str): stats = KINETICS
    given = dict(n=n, span=span, size=size, method=method, fps=fps)
    block = VideoBlock(rate=rate, backend=backend, **{k: v for k,v in given.items() if v is not None})
    vocab = items.vocab if vocab is None else as_vocab(vocab, ())
    both = _named([*items.train, *items.valid], vocab)
    if len(vocab) < 2:
        raise ValueError(f"expected two classes or more, got {vocab}. Of a folder the classes are "
                         "the folders right below it: give the one that holds them. For a part "
                         "of the data name all as `vocab`.")
    held = range(len(items.train), len(both))
    data = DataBlock((block, CategoryBlock(vocab, sort=False)), get_x=ItemGetter(0), get_y=ItemGetter(1),
                     splitter=IndexSplitter(list(held)), batch_tfms=batch_steps(batch_tfms, stats))
    kwargs.setdefault('drop_last', kwargs.get('shuffle', True) and len(items.train) >= bs)
    return data.dataloaders(both, path=path or items.path, bs=bs, num_workers=num_workers, device=device,
                            **kwargs)
