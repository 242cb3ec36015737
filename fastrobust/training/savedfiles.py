"Files that fastai's SaveModelCallback wrote of a network under surgery follow it when the surgery is undone"
from pathlib import Path
import torch
from fastai.callback.core import Callback
from fastai.callback.tracker import SaveModelCallback
from fastai.torch_core import rank_distrib
from fastrobust.training.recording import QuickEvents, fit_starts
from fastrobust.training.surgery import without

__all__ = []

class SavedFiles(QuickEvents, Callback):
    "Remembers the files of the last fit: a SaveModelCallback may load its own long after a technique has left"
    order,name = SaveModelCallback.order+1,'saved_files'
    def __init__(self): self.paths = set()

    def before_fit(self):
        if fit_starts(self.learn): self.paths = set()

    def after_epoch(self):
        last = [cb.last_saved_path for cb in self.learn.cbs if isinstance(cb, SaveModelCallback)]
        self.paths |= {p for p in last if isinstance(p, Path)}

    after_fit = after_epoch     # `at_end`

    def leave_out(self,
        cls     # Class of a wrapper that came off
    ):
        "Take out of the files what wrappers of class `cls` added, and the optimizer state, which is of all"
        if rank_distrib(): return
        for p in self.paths:
            if not p.is_file(): continue
            state = torch.load(p, map_location='cpu', weights_only=False)
            weights = state.get('model', state)
            kept = without(weights, cls)
            if len(kept) < len(weights): torch.save(kept, p)

    def __getstate__(self): return {**super().__getstate__(), 'paths': set()}
