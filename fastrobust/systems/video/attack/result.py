"What an attack found, clip by clip: was the model fooled, what did it cost, what was changed"
from dataclasses import dataclass, field
import numpy as np, pandas as pd
import torch
from torch import Tensor
from fastrobust.basics import robust_warn
from fastrobust.systems.video.attack.nes import log_score

__all__ = []

# --- one clip -------------------------------------------------------------------------------------
@dataclass
class ClipRun:
    "One clip under attack"
    clip:Tensor                 # (c,t,h,w), as it was
    y:int                       # Its class
    target:int|None = None      # Class that it shall be taken for; None: any other
    adv:Tensor|None = None      # As it is now
    success:bool = False
    wrong:bool = False          # Was the model wrong before anything was changed?
    answer:int = -1             # What the model says now
    queries:int = 0
    seconds:float = 0.
    end:str = 'budget'          # Why it ended: fooled, budget, patience, wrong, eps, tries, steps
    path:list = field(default_factory=list)     # (queries, score)
    area:list = field(default_factory=list)     # Of the mask of each step
    seen:Tensor|None = None     # How often each pixel was in the mask (t,h,w)

    def __post_init__(self):
        # a part of all clips would be saved with all of them
        self.clip = self.clip.clone()

    @property
    def score(self):
        "The last"
        return self.path[-1][1]

    def begin(self,
        p   # Probabilities (k,) of the clip as it is
    ):
        "Hear the answer to the first question"
        self.adv,self.answer = self.clip.clone(),int(p.argmax())
        self.path.append((1, log_score(p[None], self.y, self.target).item()))
        self.wrong = self.answer != self.y
        if self.wrong: self.end = 'wrong'

    def mask(self, mask):
        "Remember where a step may change pixels"
        self.area.append(mask.float().mean().item())
        self.seen = mask.float() if self.seen is None else self.seen+mask

    def see(self,
        adv,    # The changed clip
        p,      # Probabilities (k,) of it
        used    # Queries so far
    ):
        "Remember a step, and what the model says of it"
        self.adv,self.answer = adv.to(self.clip.device),int(p.argmax())
        self.path.append((used, log_score(p[None], self.y, self.target).item()))
        if self.target is None: self.success = self.answer != self.y
        else: self.success = self.answer == self.target
        if self.success: self.end = 'fooled'

    def masks(self):
        "Share of the steps in whose mask each pixel was (t,h,w)"
        if self.seen is None: return torch.zeros(self.clip.shape[1:])
        return self.seen/len(self.area)

def _area(run): return np.mean(run.area) if run.area else 0.
def _change(run): return 255*(run.adv-run.clip).abs().double().mean().item()

def _touched(run):
    "Share of the pixels (t,h,w) that differ in some channel"
    return (run.adv != run.clip).any(0).double().mean().item()

# --- all of them ----------------------------------------------------------------------------------
def warn_interrupted(done, n):
    "Say what Ctrl-C left out"
    robust_warn(f"Interrupted: {done} of {n} clips are finished, the others left out.")

def spent(
    box,    # BlackBox
    least,  # Questions that a clip needs
    done,   # Clips that are finished
    n       # Clips in all
):          # bool
    "Has a black box with a budget of its own too little left for a clip? Then say so"
    if box.left is None or box.left >= least: return False
    robust_warn(f"the black box has {box.left:,} questions left, fewer than a clip needs "
                f"({least}): {done} of {n} clips are finished, the others left out.")
    return True

class AttackResult:
    """Of the finished clips, which Ctrl-C or the end of a black box's own budget may leave few:
    `success`, `wrong` (before anything was changed), `queries`, `answers`, `adv`, `map` (mean absolute
    change of a pixel, of 255), `area` (mean of a step's mask), `touched` (share of pixels changed),
    `seconds`, `ends`, `path`, `masks`; `table`; `finished`"""
    def __init__(self,
        runs,   # `ClipRun`s of the clips that are finished, in their order
        clips   # All clips (n,c,t,h,w)
    ):
        self.runs,self.finished,self.asked = runs,len(runs),len(clips)
        def numbers(f, kind): return np.array([f(r) for r in runs], dtype=kind)
        self.success = numbers(lambda r: r.success, bool)
        self.wrong   = numbers(lambda r: r.wrong, bool)
        self.queries = numbers(lambda r: r.queries, np.int64)
        self.seconds = numbers(lambda r: r.seconds, np.float64)
        self.y       = numbers(lambda r: r.y, np.int64)
        self.answers = numbers(lambda r: r.answer, np.int64)
        self.area    = numbers(_area, np.float64)
        self.map     = numbers(_change, np.float64)
        self.touched = numbers(_touched, np.float64)
        self.ends = [r.end for r in runs]
        self.path = [r.path for r in runs]
        self.adv,self.masks = clips[:0].clone(),torch.zeros(0, *clips.shape[2:])
        if not runs: return
        self.adv = torch.stack([r.adv for r in runs])
        self.masks = torch.stack([r.masks() for r in runs])

    @property
    def right(self):
        "Clips that the model had right, of which alone rates make sense (n,)"
        return ~self.wrong

    @property
    def fooling_rate(self):
        "Share of the clips that the model had right on which it was fooled; NaN without one"
        if not self.right.any(): return float('nan')
        return float(self.success[self.right].mean())

    @property
    def mean_queries(self):
        "Of all clips that the model had right, failures included; NaN without one"
        if not self.right.any(): return float('nan')
        return float(self.queries[self.right].mean())

    @property
    def table(self):
        "A line for each finished clip"
        cols = dict(label=self.y, answer=self.answers, wrong=self.wrong, success=self.success,
                    queries=self.queries, change=self.map, area=self.area, touched=self.touched,
                    seconds=self.seconds, end=self.ends)
        targets = [r.target for r in self.runs]
        if any(o is not None for o in targets): cols['target'] = targets
        return pd.DataFrame(cols, index=pd.RangeIndex(self.finished, name='clip'))

    def __len__(self): return self.finished

    def __repr__(self):
        n = int(self.right.sum())
        text = f'AttackResult: {int(self.success.sum())} of {n} clips fooled'
        if n:
            change = self.map[self.right].mean()
            text += f', {self.mean_queries:,.0f} queries a clip, mean change {change:.2f} of 255'
        if self.wrong.any(): text += f'; {int(self.wrong.sum())} more were wrong before'
        left_out = self.finished < self.asked
        if left_out: text += f'; stopped after {self.finished} of {self.asked}'
        return text
