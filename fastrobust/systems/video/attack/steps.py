"The step of an attack: how far, within which ball, and when to give up"
# Wei, Wang, Yan, AstFocus: Efficient Robustness Assessment via Adversarial Spatial-Temporal Focus on
# Videos, https://arxiv.org/abs/2301.00896
import torch
from torch import Tensor
from fastrobust.basics import need_number, need_whole, nearest, robust_warn

__all__ = []

EARLY = 600                                 # queries in which AstFocus' rule looks at every step
SHORT,LONG = 1.5,2.                         # what it divides by then, and later
EVERY = 20                                  # steps between looks, later
HOPELESS = (1/3, 6.), (1/2, 4.), (2/3, 2.)  # AstFocus' targets: share of the budget, p(y)/p(target)

# --- the ball -------------------------------------------------------------------------------------
def need_eps(eps):
    "`eps`, from 0 to 1"
    need_number('eps', eps)
    if 0 <= eps <= 1: return float(eps)
    raise ValueError(f"`eps` must be from 0 to 1, in pixels of [0,1], got {eps}. 8 of 255: 8/255.")

def warn_still(eps):
    "Say that nothing can change"
    if eps == 0: robust_warn("eps=0 lets no pixel change: the clips come back as they are.")

class Ball:
    "Clips that differ from `x` by at most `eps` in every pixel, and stay in [0,1]"
    def __init__(self,
        x,      # Clip, pixels in [0,1]
        eps     # Largest change of a pixel, from 0 on
    ):
        # a pixel that is outside of [0,1] by its rounding stays where it is
        self.lo = (x-eps).clamp_min(0).minimum(x)
        self.hi = (x+eps).clamp_max(1).maximum(x)

    def project(self, x):
        "The nearest clip inside"
        return x.clamp(self.lo, self.hi)

STEPS = 'raw','sign'

def need_step(step):
    "Refuse an unknown kind of step"
    if step in STEPS: return step
    raise ValueError(f"`step` must be 'raw' (the gradient itself) or 'sign', got {step!r}. "
                     f"{nearest(step, STEPS)}")

def stepped(
    x,      # Clip
    g,      # Direction in which the score rises, like x
    alpha,  # Size
    step    # 'raw' or 'sign'
)->Tensor:
    "A step along `g`"
    return x + alpha*(g.sign() if step == 'sign' else g)

# --- how far --------------------------------------------------------------------------------------
RULES = 'paper','plateau','constant'

class StepSize:
    """Size of the next step. 'paper', as AstFocus' code has it: in the first 600 queries divided by 1.5
    after a step that did not lower the confidence, later halved at every 20th step if that one *did*
    (odd, and kept). 'plateau': halved where 20 steps have brought no new best score. 'constant': as it
    is"""
    def __init__(self,
        alpha,          # The first
        least,          # The smallest
        rule='paper'    # 'paper', 'plateau' or 'constant'
    ): self.now,self.least,self.rule,self.idle = alpha,min(least, alpha),rule,0

    def _shrink(self, by): self.now = max(self.now/by, self.least)

    def see(self,
        fell,   # Did the confidence go the way it should?
        better, # Is this the best score so far?
        used,   # Queries
        k       # Steps taken
    ):
        "Learn what the last step brought"
        self.idle = 0 if better else self.idle+1
        if self.rule == 'constant': return
        if self.rule == 'plateau':
            if self.idle and self.idle % EVERY == 0: self._shrink(LONG)
        elif used < EARLY:
            if not fell: self._shrink(SHORT)
        elif k % EVERY == 0 and fell: self._shrink(LONG)

def need_alphas(alpha, least, rule):
    "First and smallest step, and how one becomes the other"
    for name,v in (('alpha', alpha), ('min_alpha', least)):
        need_number(name, v)
        if not 0 < v < float('inf'):
            raise ValueError(f"`{name}` must be positive and finite, got {v}. Give e.g. .01, in "
                             "pixels of [0,1].")
    if rule not in RULES:
        raise ValueError(f"`rule` must be one of {RULES}, got {rule!r}. {nearest(rule, RULES)}")
    return float(alpha),float(least),rule

# --- when to give up ------------------------------------------------------------------------------
class Patience:
    "No new best score for so many steps; towards a target also p(y) many times p(target)"
    def __init__(self,
        steps,  # Steps without a new best score; None: never give up
        budget  # Queries in all
    ): self.steps,self.budget,self.best,self.idle = steps,budget,-float('inf'),0

    def better(self, score):
        "Is this the best so far?"
        new = score > self.best
        if new: self.best,self.idle = score,0
        else: self.idle += 1
        return new

    def over(self,
        used,       # Queries
        p,          # Probabilities (k,) now
        y,          # Class of the clip
        target=None # Class wanted
    ):
        "Give up? AstFocus' rules"
        if self.steps is None: return False
        if self.idle >= self.steps: return True
        if target is None: return False
        ratio = float(p[y])/max(float(p[target]), torch.finfo(torch.float32).tiny)
        return any(used >= share*self.budget and ratio > most for share,most in HOPELESS)

def need_patience(patience):
    "Steps from 1 on, or None"
    if patience is None: return None
    return need_whole('patience', patience, 1, what='steps', fix='None never gives up.')
