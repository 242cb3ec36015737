"What a cross-validation leaves: probabilities of all items by networks that did not see them, on disk and for cleanlab"
import json, os, zipfile
from pathlib import Path
import numpy as np
import torch
from fastcore.foundation import L
from fastrobust.basics import robust_warn
from fastrobust.labels.codemarks import code_mark, crc
from fastrobust.reporting.report import saving

__all__ = []

# --- the result -----------------------------------------------------------------------------------
class OutOfFold:
    "Out-of-sample probabilities (n,c) by position in `train_ds`; numpy and `find_label_issues` take it as an array"
    out_of_sample = True
    def __init__(self,
        probs,          # Probabilities (n,c)
        y,              # Given labels (n,) they were made with
        folds,          # Fold of each item (n,): its network trained on the other folds
        vocab,          # Classes, the columns of `probs`
        fold_acc,       # Accuracy on the given labels of each fold
        seconds=0.      # Of training and prediction, all folds
    ):
        self.probs = np.asarray(probs, np.float32)
        self.y = np.asarray(y, np.int64)
        self.folds = np.asarray(folds, np.int64)
        self.vocab = list(vocab)
        self.fold_acc = [float(o) for o in fold_acc]
        self.seconds = float(seconds)

    @property
    def shape(self): return self.probs.shape

    @property
    def acc(self):
        "Accuracy on the given labels"
        return float((self.probs.argmax(1) == self.y).mean())

    def __len__(self): return len(self.probs)
    def __getitem__(self, i): return self.probs[i]
    def __array__(self, dtype=None, copy=None): return np.array(self.probs, dtype=dtype, copy=copy)

    def __repr__(self):
        lo,hi = min(self.fold_acc),max(self.fold_acc)
        return (f"OutOfFold: {len(self)} items, {self.shape[1]} classes, {len(self.fold_acc)} "
                f"folds; accuracy on the given labels {self.acc:.3f} (folds {lo:.3f} to {hi:.3f}), "
                f"{self.seconds:.0f} s")

    def save(self,
        path    # File to write, .npz
    ):
        "Write everything to one file; returns its path"
        path = Path(path).with_suffix('.npz')
        vocab = json.dumps([str(o) for o in self.vocab])
        return write_whole(path, vocab=vocab, probs=self.probs, y=self.y, folds=self.folds,
                           fold_acc=self.fold_acc, seconds=self.seconds)

    @classmethod
    def load(cls,
        path    # File that `save` wrote
    ):
        "Read what `save` wrote; the names of classes come back as strings"
        with np.load(Path(path).with_suffix('.npz'), allow_pickle=False) as f:
            vocab = json.loads(str(f['vocab']))
            return cls(f['probs'], f['y'], f['folds'], vocab, f['fold_acc'], f['seconds'])

def write_whole(path, **arrays):
    "An .npz that is there whole or not at all"
    with saving(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        tmp = path.with_name(path.name+'.part')
        with open(tmp, 'wb') as f: np.savez_compressed(f, **arrays)
        os.replace(tmp, path)
    return path

# --- finished folds on disk -----------------------------------------------------------------------
def _items(ds):
    "What tells the items from others: pixels in memory, file names, else how many"
    items = getattr(ds, 'items', ())
    if isinstance(getattr(items, 'x', None), torch.Tensor):
        return crc(np.ascontiguousarray(items.x.cpu().numpy()))
    if not isinstance(items, (list, tuple, L)): return len(ds)
    return crc([str(o) for o in items if isinstance(o, (str, Path))])

_WORDS = {o: f'{o} (its code or a value it reads)' for o in ('training', 'learner')}

class OtherRun(ValueError): "Stored folds are of another run"

def run_marks(dls, y, folds, seed, vocab, fit, make_learner, tag=''):
    "What tells this run from others, as far as it shows; of most objects that functions read only the class does"
    names = [str(o) for o in vocab]
    marks = dict(labels=crc(y), folds=crc(folds), seed=seed, vocab=crc(names),
                 items=_items(dls.train_ds),
                 training=code_mark(fit), learner=code_mark(make_learner),
                 batch=getattr(dls, 'bs', None), tag=str(tag))
    return json.loads(json.dumps(marks))

def stored_folds(path, marks, n_folds):
    "Finished folds in `path`: {fold: (probabilities, accuracy, seconds)}; those of another run are refused"
    res = {}
    for k in range(n_folds):
        file = path/f'fold_{k}.npz'
        if not file.exists(): continue
        try:
            with np.load(file, allow_pickle=False) as f:
                old = json.loads(str(f['marks']))
                fold = f['probs'],float(f['acc']),float(f['seconds'])
        except (zipfile.BadZipFile, KeyError, ValueError, OSError) as e:
            robust_warn(f"{file} cannot be read ({e}): fold {k+1} is trained again.")
            continue
        if other := [_WORDS.get(o, o) for o in marks if old.get(o) != marks[o]]:
            raise OtherRun(f"expected folds of this very run in {str(path)!r}, got one of other "
                           f"{', '.join(other)}. Give another `path`, or delete that folder if its "
                           "folds are of no use any more.")
        res[k] = fold
    return res

def store_fold(path, k, marks, probs, acc, seconds):
    "Keep a finished fold in `path`"
    file = path/f'fold_{k}.npz'
    write_whole(file, marks=json.dumps(marks), probs=probs, acc=acc, seconds=seconds)

def drop_folds(path):
    "Delete stored folds in `path` and one folder below it, and these folders if nothing else is in them"
    dirs = [o for o in path.glob('*') if o.is_dir()]
    for d in [*dirs, path]:
        files = [*d.glob('fold_*.npz'), *d.glob('fold_*.npz.part')]
        for f in files: f.unlink()
        ours = files or d == path
        if ours and d.is_dir() and not any(d.iterdir()): d.rmdir()

# --- the bridge to cleanlab -----------------------------------------------------------------------
def to_cleanlab(
    oof     # What `cross_val_preds` returned
)->dict: # labels (n,), pred_probs (n,c)
    "Keywords for cleanlab's functions: `cleanlab.filter.find_label_issues(**to_cleanlab(oof))`"
    return dict(labels=oof.y.copy(), pred_probs=oof.probs.copy())

def cleanlab_issues(
    oof,        # What `cross_val_preds` returned
    **kwargs    # Anything `cleanlab.filter.find_label_issues` takes
):
    "The issues that cleanlab finds itself, a mask (n,) unless `kwargs` ask for a ranking"
    try: from cleanlab.filter import find_label_issues
    except ImportError as e:
        raise ImportError("expected the package cleanlab to be installed, got none. Install "
                          "`fastrobust[label]`, or use our own `find_label_issues(oof.y, oof, "
                          "collision='cleanlab')`.") from e
    return find_label_issues(**to_cleanlab(oof), **{'n_jobs': 1, **kwargs})
