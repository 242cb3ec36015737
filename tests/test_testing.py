"check_technique: a technique of one's own passes or is told which promise it breaks"
import pytest
import torch
from fastai.callback.core import Callback
from fastrobust.testing import CLAUSES, check_technique
from fastrobust.training.technique import Technique

class ConfidencePenalty(Technique):
    "Add lam sum p ln p: confident answers cost (https://arxiv.org/abs/1701.06548, eq. 2)"
    def __init__(self,
        lam=.1  # Weight > 0, or a schedule of pct_train; the paper tries .1 to 8
    ):
        if not callable(lam):
            if isinstance(lam, str): raise TypeError(f"`lam` must be a number, got {lam!r}. Give .1.")
            if not 0 < lam < float('inf'): raise ValueError(f"`lam` must be positive, got {lam}. Give .1.")
        self.lam = lam
    def penalty(self, z, part):
        p = z.softmax(1)
        return (p*z.log_softmax(1)).sum(1).mean()

def test_ones_own_technique_passes(capsys):
    check_technique(ConfidencePenalty, weight='lam', deterministic=True)
    said = capsys.readouterr().out.splitlines()
    assert [o.split()[0] for o in said] == [f.__name__ for f in CLAUSES]


class Nan(ConfidencePenalty):
    "A log of 0 (https://arxiv.org/abs/1701.06548)"
    def penalty(self, z, part): return (z.softmax(1)*0).log().mean()

class Bare(Technique):
    def __init__(self, lam): self.lam = lam
    def penalty(self, z, part): return z.mean()

class Random(ConfidencePenalty):
    "Draws of its own (https://arxiv.org/abs/1701.06548)"
    g = torch.Generator()
    def penalty(self, z, part): return (z*torch.randn(z.shape, generator=self.g)).mean()

class Leaves(ConfidencePenalty):
    "Something behind when it goes (https://arxiv.org/abs/1701.06548)"
    def prepare(self, learn):
        with torch.no_grad():
            for p in learn.model.parameters(): p.requires_grad_(False)

class Predicts(ConfidencePenalty):
    "Another network in validation (https://arxiv.org/abs/1701.06548)"
    def after_pred(self):
        if not self.training: self.learn.pred = -self.pred

@pytest.mark.parametrize('T,clause,make', [
    (Nan, 'half_precision', Nan), (Bare, 'docs', lambda: Bare(1.)), (Random, 'repeats', Random),
    (Leaves, 'doors', Leaves), (Predicts, 'evaluation', Predicts)])
def test_a_broken_promise_is_named(T, clause, make):
    with pytest.raises(AssertionError, match=f"{T.__name__} breaks '{clause}' "):
        check_technique(T, make, only=clause, verbose=False)

def test_weights_that_are_not_checked():
    class Any(Bare):
        "No check (https://arxiv.org/abs/1701.06548)"
        def __init__(self,
            lam=1.  # Weight
        ): self.lam = lam
    with pytest.raises(AssertionError, match="breaks 'weights'.*nothing was raised"):
        check_technique(Any, weight='lam', only='weights')

def test_what_is_no_technique():
    with pytest.raises(TypeError, match='a subclass of Technique, got .*Callback'): check_technique(Callback)
    with pytest.raises(TypeError, match='a subclass of Technique'): check_technique(ConfidencePenalty())
    with pytest.raises(ValueError, match="'dors'. Did you mean 'doors'"):
        check_technique(ConfidencePenalty, only='dors')
