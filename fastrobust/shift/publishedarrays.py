"Published corrupted test sets in arrays (CIFAR-10-C, CIFAR-100-C, their C-bar), as they lie on the disk"
# Hendrycks & Dietterich, ICLR 2019, https://arxiv.org/abs/1903.12261: files only, nothing is
# computed here. A number is one "on CIFAR-10-C" only if it comes from these files; the corruptions
# of this package are like them, not the same.
from pathlib import Path
import numpy as np
import torch
from fastrobust.basics import nearest, need_whole, target_vocab
from fastrobust.data.arraychecks import as_pixels, codes_in
from fastrobust.data.arrays import ArrayDL, ArrayItems
from fastrobust.images.corruptions.tables import GROUPS
from fastrobust.inference.loaders import learners_loader

__all__ = ['CorruptedArrays']

SEVERITIES = range(1, 6)
_KNOWN = {**GROUPS,
          'C-bar': ('blue_noise_sample', 'brownish_noise', 'checkerboard_cutout',
                    'circular_motion_blur', 'inverse_sparkles', 'lines', 'pinch_and_twirl',
                    'ripple', 'sparkles', 'transverse_chromatic_abberation')}

# --- what both readers share ----------------------------------------------------------------------
def need_folder(folder, what):
    path = Path(folder)
    if path.is_dir(): return path
    got = 'which does not exist. Check the path'
    if path.is_file(): got = 'an archive: unpack it, and give the folder'
    raise ValueError(f"expected the folder of {what}, got {str(folder)!r}, {got}.")

def usual_order(names):
    usual = [o for group in _KNOWN.values() for o in group]
    others = sorted(set(names) - set(usual))
    return tuple([o for o in usual if o in names] + others)

def grouped(names):
    "Lines for a print: names by group, and which of a group begun are missing"
    lines = []
    for group,known in _KNOWN.items():
        have = [o for o in known if o in names]
        lost = [o for o in known if o not in names]
        if not have: continue
        but = f" (not here: {', '.join(lost)})" if lost else ''
        lines.append(f"{group}: {', '.join(have)}{but}")
    usual = [o for known in _KNOWN.values() for o in known]
    own = [o for o in names if o not in usual]
    if own: lines.append(f"other: {', '.join(own)}")
    return lines

def need_cell(names, name, severity):
    if name not in names:
        raise ValueError(f"expected a corruption of this folder, got {name!r}. "
                         f"{nearest(name, names)}")
    fix = 'Clean images are not among these files: take your own test set.'
    return need_whole('severity', severity, 1, 5, fix=fix)

# --- CIFAR-C: one array per corruption ------------------------------------------------------------
class CorruptedArrays:
    "CIFAR-10-C, CIFAR-100-C or any folder laid out like them: `<name>.npy` (5n,h,w[,c]) uint8, `labels.npy` (5n,)"
    def __init__(self,
        folder,     # Unpacked folder with the .npy files; the images stay on the disk until they are asked for
        names=None, # Which corruptions; None: every .npy file but the labels
        *,
        vocab=None  # Class name of each label 0,1,..; None: labels are positions in the learner's vocab, or its classes
    ):
        self.folder = need_folder(folder, '<name>.npy files')
        self.vocab = vocab
        names = [names] if isinstance(names, str) else names
        found = [p.stem for p in self.folder.glob('*.npy') if p.stem != 'labels']
        if not found:
            raise ValueError(f"expected <name>.npy files in {str(self.folder)!r}, got none. Give "
                             "the folder that holds gaussian_noise.npy; for folders of image files "
                             "there is CorruptedFolders.")
        for o in names or ():
            if o not in found:
                raise ValueError(f"expected `names` of .npy files in this folder, got {o!r}. "
                                 f"{nearest(o, found)}")
        self.names = usual_order(names or found)
        self.labels = self._read_labels()
        self.shape = self._open(self.names[0]).shape[1:]
        for name in self.names: self._open(name)

    @property
    def n(self): return len(self.labels)

    def _load(self, stem):
        path = self.folder/f'{stem}.npy'
        if not path.exists():
            raise ValueError(f"expected {path.name} in {str(self.folder)!r}, got none. It belongs "
                             "to the published files: 5 times the labels of the test set. Copy it "
                             "beside the images.")
        try: a = np.load(path, mmap_mode='r', allow_pickle=False)
        except (ValueError, OSError, EOFError) as e:
            raise ValueError(f"expected a plain NumPy array in {path.name}, got a file that is cut "
                             f"off, no array, or pickled ({str(e)[:80]}). Nothing of it was run. "
                             "Download it again.") from e
        if isinstance(a, np.ndarray): return a
        raise ValueError(f"expected a plain NumPy array in {path.name}, got an archive of several. "
                         "Save each with np.save.")

    def _read_labels(self):
        y = np.array(self._load('labels'))
        if y.ndim != 1 or y.dtype.kind not in 'iu':
            raise ValueError(f"expected whole numbers (5n,) in labels.npy, got {y.dtype} of shape "
                             f"{y.shape}. Take the published file, or np.tile(y, 5) as integers.")
        if not len(y) or len(y) % 5:
            raise ValueError("expected 5 times the labels of the test set in labels.npy, one per "
                             f"severity, got {len(y)}, not divisible by 5. Take the published "
                             "file, or np.tile(y, 5).")
        rows = y.reshape(5, -1).astype(np.int64)
        bad = np.flatnonzero((rows != rows[0]).any(1))
        if len(bad):
            raise ValueError("expected the same labels for every severity, got others in severity "
                             f"{bad[0]+1} of labels.npy. Is the file shuffled, or sorted by class? "
                             "Take the published one.")
        return rows[0]

    def _open(self, name):
        a = self._load(name)
        n = self.n
        if a.dtype != np.uint8:
            raise ValueError(f"expected uint8 images in {name}.npy, got {a.dtype}. If it is no "
                             "image file, give the others as `names`.")
        if a.ndim not in (3, 4) or (a.ndim == 4 and a.shape[3] not in (1, 3)):
            raise ValueError("expected images (5n,h,w) or (5n,h,w,c) with 1 or 3 channels last in "
                             f"{name}.npy, got {a.shape}. Torch arrays: `.transpose(0, 2, 3, 1)`.")
        if len(a) != 5*n:
            raise ValueError(f"expected {5*n} images in {name}.npy, 5 severities of the {n} "
                             f"labels, got {len(a)}. Is the file of another set, or cut? If it is "
                             "no corruption, give the others as `names`.")
        shape = getattr(self, 'shape', a.shape[1:])
        if a.shape[1:] != shape:
            raise ValueError(f"expected images of {shape} in {name}.npy, as in "
                             f"{self.names[0]}.npy, got {a.shape[1:]}. Keep sets of different "
                             "images in different folders.")
        return a

    def images(self,
        name:str,       # Corruption, one of `names`
        severity:int    # 1 to 5
    ):
        "Images (n,h,w,c) of one cell, uint8, memory-mapped: rows (severity-1)*n to severity*n of the file"
        s = need_cell(self.names, name, severity)
        a = self._open(name)[(s-1)*self.n : s*self.n]
        return a if a.ndim == 4 else a[..., None]

    def codes(self,
        learn   # Learner with a vocab
    ):
        "Positions (n,) of the labels in the vocab of `learn`, int64"
        labels = self.labels.tolist()
        if self.vocab is not None: labels = [self.vocab[i] for i in self.labels]
        return codes_in(labels, target_vocab(learn.dls), 'labels.npy').numpy()

    def check(self,
        y   # True labels (n,) of your test set, in its order
    ):
        "Refuse test labels that are not those of these files, item by item; returns self"
        y = y.cpu().numpy() if isinstance(y, torch.Tensor) else np.asarray(y)
        if self.vocab is not None and y.dtype.kind in 'UO':
            y = codes_in(y.tolist(), list(self.vocab), 'y').numpy()
        if y.shape != self.labels.shape:
            raise ValueError(f"expected the {self.n} labels of the test set, got shape {y.shape}. "
                             "Give the whole test set, not the training set or a part.")
        bad = np.flatnonzero(y != self.labels)
        if not len(bad): return self
        i = bad[0]
        hint = 'Is it another data set, or are the classes numbered differently?'
        if y.dtype.kind in 'iu' and (np.sort(y) == np.sort(self.labels)).all():
            hint = 'Your test set is in another order.'
        raise ValueError(f"expected the labels of these files, got {len(bad)} others (first: item "
                         f"{i} is {self.labels[i]} here, {y[i]} in yours). {hint}")

    def as_dl(self,
        learn,          # Learner: its batch transforms and its vocab are used
        name:str,       # Corruption, one of `names`
        severity:int,   # 1 to 5
        bs=None         # Batch size; None: of the learner's validation loader
    ):
        "Loader of one cell with labels, for `learn.get_preds(dl=..)` or `learn.validate(dl=..)`"
        x = as_pixels(self.images(name, severity), f'{name}.npy')
        def pairs(vocab): return ArrayItems(x, torch.from_numpy(self.codes(learn)), vocab)
        return learners_loader(learn, pairs, x.shape[-2:], bs, ArrayDL, x.shape[1])

    def __len__(self): return len(self.names)
    def __repr__(self):
        n = self.n
        shape = 'x'.join(map(str, self.shape))
        rows = f"severity 1 is rows 0:{n}, 2 is {n}:{2*n}, .. 5 is {4*n}:{5*n}"
        return '\n'.join([
            f"CorruptedArrays {self.folder}: {len(self)} corruptions x 5 severities x {n} images "
            f"{shape} uint8",
            f"each <name>.npy: {rows}; the same {n} images in the same order",
            f"labels.npy: the same {n} labels five times, {len(np.unique(self.labels))} classes",
            *grouped(self.names)])
