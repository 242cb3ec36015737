"Batch normalisation that uses and keeps what a pretrained body knows, also while it trains"
import torch
from fastai.callback.core import Callback
from fastai.callback.training import BnFreeze
from fastai.learner import TrainEvalCallback

__all__ = ['KeepBN']

def has_statistics(m):
    "Whether a layer holds running statistics that are no longer those it was made with: mean 0, variance 1"
    mean,var = getattr(m, 'running_mean', None),getattr(m, 'running_var', None)
    if not isinstance(mean, torch.Tensor) or not isinstance(var, torch.Tensor): return False
    return bool((mean != 0).any() or (var != 1).any())

class KeepBN(Callback):
    """For a pretrained body and few images, which move its statistics within an epoch or two: layers that have learned
    statistics normalise by them in training too, and keep them; those of a new head learn theirs. Weights and biases
    train as before. fastai's `BnFreeze` does this only for layers whose weights are frozen. Made for fastai's smaller
    rates of the body: at equal ones (`lr_mult=1`) it was the worse choice (nbs/benchmarks/RESULTS.md)"""
    run_after = TrainEvalCallback
    run_before = BnFreeze
    kept:tuple = ()

    def before_fit(self):
        self.kept = tuple(m for m in self.model.modules() if has_statistics(m))

    def before_train(self):
        for m in self.kept: m.eval()

    def after_fit(self): self.kept = ()
