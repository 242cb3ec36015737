"Features in two files: what was computed before a Ctrl-C, a crash or a full disk is read, the rest is computed"
import json
from pathlib import Path
import numpy as np
import torch
from fastrobust.basics import robust_warn
from fastrobust.inference.features import Rows, digests

__all__ = []

_MARKS,_FEATURES,_KEYS = 'features.json','features.f32','features.u64'

class KeptRows(Rows):
    """`Rows` whose features and digests are written to files in a folder, batch by batch. Labels are not: after a
    restart they are -1"""
    def __init__(self,
        n,      # Number of items
        folder, # Where the files are; made if it is not there
        marks   # Plain values by which these features are known: body, items, size. Others are replaced
    ):
        super().__init__(n, folder, keyed=True)
        self.folder = Path(folder)
        self.marks = json.loads(json.dumps(marks))
        self.d = 0
        self._mapped = None
        self._resume()

    def __getstate__(self): return {**super().__getstate__(), '_mapped': None}

    # --- what is there ---
    def _shape(self):
        "Length of the features in the folder, and how many came at once; None: there are none of these"
        try: old = json.loads((self.folder/_MARKS).read_text())
        except (OSError, ValueError): return None
        if not isinstance(old, dict) or old.get('marks') != self.marks: return None
        shape = old.get('d'),old.get('bs')
        return shape if all(isinstance(o, int) and o > 0 for o in shape) else None

    def _whole(self):
        "How many items are in both files; what a batch that was cut off left behind counts for nothing"
        files = [self.folder/o for o in (_FEATURES, _KEYS)]
        sizes = [o.stat().st_size if o.exists() else 0 for o in files]
        return min(sizes[0]//(4*self.d), sizes[1]//8, self.n)

    def _resume(self):
        "Go on where the files end, if they are of these features"
        shape = self._shape()
        if shape is None:
            self._begin()
            return
        self.d,bs = shape
        done = self._whole()
        # whole batches: in others the same images would get other last digits
        self.done = done if done == self.n else done//bs*bs
        if self.done: self.keys[:self.done] = np.fromfile(self.folder/_KEYS, np.uint64, self.done)
        self.y[:self.done] = -1

    def _begin(self):
        for o in (_MARKS, _FEATURES, _KEYS): (self.folder/o).unlink(missing_ok=True)

    def kept(self):
        "Whether the files still hold what was written to them"
        return not self.done or ((self._shape() or (0,))[0] == self.d and self._whole() >= self.done)

    def _need_kept(self):
        if self.kept(): return
        raise RuntimeError(f"expected the features of {self.done:,} items in {self.folder}, got others or none: they "
                           "were deleted, or another run has replaced them. Give each run a folder of its own, "
                           "and call again.")

    @property
    def f(self):
        "Features of the items so far, float32 (done,d)"
        if not self.done: return torch.zeros(0, self.d)
        if self._mapped is None or len(self._mapped) != self.done:
            self._need_kept()
            # copy on write: torch has no read-only tensors
            shape = self.done,self.d
            self._mapped = torch.from_numpy(np.memmap(self.folder/_FEATURES, np.float32, 'c', shape=shape))
        return self._mapped

    # --- more ---
    def put(self, f, y, x):
        "The next items: features, labels, images"
        if self.done: self._need_kept()
        else: self._start(*f.shape)
        to = slice(self.done, self.done+len(f))
        self.keys[to] = digests(x)
        self._write(_FEATURES, f.numpy().astype(np.float32))
        self._write(_KEYS, self.keys[to])
        self.y[to] = y
        self.done = to.stop

    def _start(self, bs, d):
        "New files, in place of what others may have left meanwhile"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._begin()
        self.d = d
        for o in (_FEATURES, _KEYS): (self.folder/o).touch()
        (self.folder/_MARKS).write_text(json.dumps(dict(d=d, bs=bs, marks=self.marks)))

    def _write(self, name, a):
        "The next items into a file, over what a batch that was cut off may have left there"
        with open(self.folder/name, 'r+b') as file:
            file.seek(self.done*a[0].nbytes)
            file.write(np.ascontiguousarray(a).tobytes())

    def drop(self):
        "Delete the files, and the folder if nothing else is in it"
        self._mapped,self.done = None,0
        self._begin()
        if not self.folder.exists(): return
        try: self.folder.rmdir()
        except OSError: robust_warn(f"{self.folder} holds other files: it stays.")
