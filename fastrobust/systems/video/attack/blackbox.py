"A model of which one only sees the answers: it counts what it is asked, and stops at a budget"
# For one's own models: how far do they hold against somebody who may ask so and so many questions?
from contextlib import contextmanager
import torch
from torch import Tensor
from fastrobust.basics import need_truth, need_whole
from fastrobust.systems.video.attack.victims import need_clips, victim_of

__all__ = ['BlackBox', 'BudgetExceeded']

class BudgetExceeded(RuntimeError):
    "More clips were asked about than the budget allows; nothing was asked"

class BlackBox:
    """Probabilities for clips, counted: `used` and `left` clips of the budget, `log` of the answers

    What answers is at rest: modes, gradients and random streams are as they were afterwards; buffers
    too, where a model in evaluation mode does not write into them"""
    def __init__(self,
        # nn.Module of clips (n,c,t,h,w) -> logits or probabilities, Learner (with its own Normalize
        # and the activation of its loss), or function of numpy clips float32 -> probabilities (n,k)
        f,
        budget=None,    # Most clips in all, from 1 on; None: no end
        *,
        bs=16,          # Clips at once
        normalize=None, # (mean, std) of each channel, or a function of clips, before `f`; None: none
        record=False    # Keep every answer in `log`, as (used, probabilities)?
    ):
        self.victim = victim_of(f, normalize)
        self.f = f
        self.budget = budget if budget is None else need_whole('budget', budget, 1, what='clips')
        self.bs = need_whole('bs', bs, 1, what='clips at once')
        self.record = need_truth('record', record)
        self.used,self.log = 0,[]
        self._resting,self._graded = False,False

    def __repr__(self):
        of = '' if self.budget is None else f' of {self.budget:,}'
        return f'BlackBox: {type(self.f).__name__}, {self.used:,}{of} clips asked'

    @property
    def left(self):
        "Clips that may still be asked about; None without a budget"
        return None if self.budget is None else self.budget-self.used

    @contextmanager
    def rest(self):
        """Within: at rest for many calls; random streams go on inside, and come back at the end. Outside
        of it a victim that draws has the same draws in each call"""
        if self._resting: yield self
        else:
            with self.victim.rest():
                self._resting = True
                try: yield self
                finally: self._resting = False

    def _count(self, n):
        if self.left is not None and n > self.left:
            raise BudgetExceeded(f"expected at most {self.left:,} more clips of a budget of "
                                 f"{self.budget:,}, got {n:,}. Nothing was asked. Give a larger "
                                 "budget, or ask less.")
        self.used += n

    def _need_grades(self, p):
        "Refuse answers that are labels in the form of probabilities"
        if self._graded: return
        self._graded = not ((p == 0) | (p == 1)).all()
        if self._graded: return
        raise ValueError("expected graded probabilities, got rows of 0 and 1 alone. Labels, or "
                         "probabilities that are rounded to them, say nothing of how near "
                         "another class is, so that there is nothing to follow. Let the model "
                         "return its softmax.")

    def __call__(self,
        clips   # Pixels in [0,1], float (n,c,t,h,w): tensor or array; not changed
    )->Tensor:  # Probabilities (n,k), float32 on the CPU
        "Ask about clips, which are counted first"
        x = need_clips(clips)
        self._count(len(x))
        with self.rest(), torch.no_grad():
            p = torch.cat([self.victim.rows(o).float().cpu() for o in x.split(self.bs)])
        self._need_grades(p)
        if self.record: self.log.append((self.used, p))
        return p

def boxed(
    model   # BlackBox, or what it takes
)->BlackBox:
    "`model` as a black box; one that is stays the same, with what it has counted"
    return model if isinstance(model, BlackBox) else BlackBox(model)
