"What a model thinks of its training items, averaged over epochs: for noise of its own kind"
import numpy as np
from fastai.callback.core import Callback
from fastrobust.inference.passes import training_probs
from fastrobust.predictions import as_array, need_distributions
from fastrobust.training.recording import fit_starts, is_export

__all__ = []

class AverageProbs(Callback):
    "Averages the probabilities of the training items over the epochs, one more pass each: `.probs` (n,c) by position"
    remove_on_fetch = True
    n = 0               # Epochs of this fit that are in `probs`
    probs:np.ndarray    # (n,c) float64, by position
    def before_fit(self):
        self.on = fit_starts(self.learn) and not hasattr(self.learn, 'lr_finder')
        if self.on: self.probs,self.n = 0.,0

    def after_epoch(self):
        if not self.on: return
        total = self.probs*self.n + training_probs(self.learn, 'AverageProbs')
        self.probs = total/(self.n+1)
        self.n += 1

    def __getstate__(self):
        state = super().__getstate__()
        if is_export(self.learn): state.update(probs=0., n=0)
        return state

def mean_probs(
    source  # A fitted Learner (with `AverageProbs`: over its epochs; else as it is), an array (n,c) or a list of them
) -> np.ndarray: # (n,c) float64, rows sum to 1, by position in the training set
    "Averaged probabilities for model-based noise"
    if hasattr(source, 'dls'):
        for cb in source.cbs:
            if isinstance(cb, AverageProbs) and cb.n: return cb.probs.copy()
        return training_probs(source, 'model noise')

    several = isinstance(source, (list, tuple)) and np.ndim(source[0]) == 2
    ps = [as_array(o).astype(np.float64) for o in (source if several else [source])]
    p = np.mean(ps, axis=0)
    if p.ndim != 2 or not p.size:
        raise ValueError(f"expected probabilities (n,c), one row per item, got shape {p.shape}. "
                         "Pass the softmax of the logits, or the Learner itself.")
    need_distributions(p)
    return p
