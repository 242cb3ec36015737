"check_technique: a technique of one's own passes or is told which promise it breaks"
import pytest
import torch
from fastai.callback.core import Callback
from fastrobust.testing import CLAUSES, check_technique, first_batch, params, tiny_learner
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

def test_a_docstring_of_more_than_one_line():
    class Long(ConfidencePenalty):
        """Confident answers cost (https://arxiv.org/abs/1701.06548)

        Unlike the paper, nothing."""
    class Broken(ConfidencePenalty):
        """Confident answers
        cost (https://arxiv.org/abs/1701.06548)"""
    check_technique(Long, only='docs', verbose=False)
    with pytest.raises(AssertionError, match="breaks 'docs'.*no empty line after the first"):
        check_technique(Broken, only='docs', verbose=False)

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

# --- what it says, and what it leaves --------------------------------------------------------------------------------
def test_what_was_not_checked_is_said(capsys):
    check_technique(ConfidencePenalty, only='weights')
    assert capsys.readouterr().out == "weights         not checked: no weight was named (weight='lam')\n"

def test_one_that_cannot_be_made_or_does_nothing():
    class Misspelt(Technique):
        "A stage nobody asks for (https://arxiv.org/abs/1701.06548)"
        against = 'nothing'
        def penaltty(self, z, part): return z.mean()
    with pytest.raises(TypeError, match='could not make a Bare .*make=lambda'): check_technique(Bare)
    with pytest.raises(TypeError, match='expected a function that makes a Bare'): check_technique(Bare, Bare(1.))
    with pytest.raises(TypeError, match='expected `make` to give a Bare'): check_technique(Bare, lambda: None)
    with pytest.raises(TypeError, match='overrides no stage'): check_technique(Misspelt)
    with pytest.raises(ValueError, match='expected names of clauses'): check_technique(ConfidencePenalty, only=[])

def test_an_event_is_enough():
    class Watches(Technique):
        "Does its work in an event (https://arxiv.org/abs/1701.06548)"
        def after_epoch(self): pass
    check_technique(Watches, only='repeats', verbose=False)

def test_exceptions_are_named():
    class Empty(ConfidencePenalty):
        "Unfinished (https://arxiv.org/abs/1701.06548)"
        def penalty(self, z, part): raise NotImplementedError
    with pytest.raises(AssertionError, match='NotImplementedError'):
        check_technique(Empty, only='repeats')

def test_nothing_is_left_behind():
    torch.manual_seed(5)
    before = torch.get_rng_state(),torch.backends.cudnn.deterministic,torch.backends.cudnn.benchmark
    check_technique(ConfidencePenalty, only=['repeats', 'shapes'], verbose=False)
    after = torch.get_rng_state(),torch.backends.cudnn.deterministic,torch.backends.cudnn.benchmark
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]

def test_first_batch_by_hand():
    learn = tiny_learner(ConfidencePenalty(.5))
    start = params(learn).clone()
    z,y,loss = first_batch(learn)
    logp = z.double().log_softmax(1)
    want = -logp[range(len(y)), y].mean() + .5*(logp.exp()*logp).sum(1).mean()
    assert loss.item() == pytest.approx(want.item(), abs=1e-6) and torch.equal(params(learn), start)
