"`VideoAttack`: steps along a gradient from answers alone, within masks, a ball and a budget"
# Wei, Wang, Yan, AstFocus: Efficient Robustness Assessment via Adversarial Spatial-Temporal Focus on
# Videos, https://arxiv.org/abs/2301.00896
# A measure of the robustness of one's own models: how often are they fooled within so many questions?
from functools import partial
from time import perf_counter
import torch
from fastai.torch_core import set_seed
from fastrobust.basics import as_f32, need_truth, need_whole
from fastrobust.systems.video.attack.blackbox import boxed
from fastrobust.systems.video.attack.labels import (
    clip_generator, need_code, need_codes, need_others, need_targets, the_target)
from fastrobust.systems.video.attack.masks import need_mask, need_masks
from fastrobust.systems.video.attack.nes import log_score, need_pairs, need_sigma, nes_gradient
from fastrobust.systems.video.attack.result import AttackResult, ClipRun, spent, warn_interrupted
from fastrobust.systems.video.attack.steps import (
    Ball, Patience, StepSize, need_alphas, need_eps, need_patience, need_step, stepped, warn_still)
from fastrobust.systems.video.attack.victims import need_clips

__all__ = ['VideoAttack']

# --- one clip's questions -------------------------------------------------------------------------
class Asked:
    "A black box on behalf of one clip: what it has used, and what it may"
    def __init__(self,
        box,    # BlackBox
        budget  # Most questions about this clip
    ):
        self.box,self.first = box,box.used
        self.cap = budget if box.left is None else min(budget, box.left)

    @property
    def used(self):
        "Questions about this clip"
        return self.box.used-self.first

    def may(self, n):
        "Are `n` more allowed?"
        return self.used+n <= self.cap

    def about(self, clip):
        "Probabilities (k,) of one clip (c,t,h,w)"
        return self.box(clip[None])[0]

    def score(self,
        run,    # ClipRun
        tie,    # Are all samples that fool the model worth the same, as AstFocus ranks them?
        xs      # Samples (n,c,t,h,w), which are asked about as pixels in [0,1]
    ):          # (n,)
        "What samples are worth"
        s = log_score(self.box(xs.clamp(0, 1)), run.y, run.target)
        return s.clamp_max(0) if tie else s

def went(run, before, after):
    "Did the confidence of a clip go the way it should?"
    if run.target is None: return bool(after[run.y] < before[run.y])
    return bool(after[run.target] > before[run.target])

# --- the attack -----------------------------------------------------------------------------------
class VideoAttack:
    """Raise the score of any other class (or of a target) by steps along `nes_gradient` within masks,
    as AstFocus does with learnt ones (https://arxiv.org/abs/2301.00896). `attack(model, clips, y)` asks
    once about each clip, then n+1 times a step, never beyond `budget`. One attack at a time: modes and
    random streams are those of the whole process"""
    def __init__(self,
        masks,          # Where a step may change pixels: DenseMasks(), RandomMasks() ..
        eps=.05,        # Largest change of a pixel in [0,1]; AstFocus'. 0 changes nothing
        alpha=.01,      # First step; AstFocus', .03 with its targets
        n=60,           # Samples a step, even; AstFocus'
        budget=3000,    # Most questions a clip, from n+2 on; AstFocus' 15,000, with targets 30,000
        sigma=.02,      # Standard deviation of samples; AstFocus' .001 gives ties on sure models
        step='raw',     # 'raw', the gradient itself, or 'sign'; AstFocus: raw, with targets sign
        seed=0,         # From 0 on; the chance of a clip comes from it and the clip's number
        patience=120,   # Give up after so many steps without a best score; AstFocus'. None: never
        rank=True,      # Ranks in place of scores? AstFocus: True, with targets False
        min_alpha=1e-3, # Smallest step; AstFocus', .0024 with its targets
        rule='paper'    # How the step shrinks: 'paper', 'plateau' or 'constant' (`StepSize`)
    ):
        self.masks,self.eps,self.step = need_masks(masks),need_eps(eps),need_step(step)
        self.alpha,self.min_alpha,self.rule = need_alphas(alpha, min_alpha, rule)
        self.n,self.sigma = need_pairs(n),need_sigma(sigma)
        least = self.n+2
        self.budget = need_whole('budget', budget, least, what=f'1 and a step of {self.n+1}',
                                 fix=f'Give {least} or more, or a smaller n.')
        self.seed,self.patience = need_whole('seed', seed, 0),need_patience(patience)
        self.rank = need_truth('rank', rank)

    def __repr__(self):
        return (f'{type(self).__name__}({type(self.masks).__name__}, eps={self.eps:g}, '
                f'alpha={self.alpha:g}, n={self.n}, budget={self.budget})')

    def attack(self,
        model,          # As for BlackBox, or a BlackBox: its own budget is kept too, the last clip gets the rest
        clips,          # Pixels in [0,1], float (n,c,t,h,w) with t >= 2; not changed
        y,              # Their classes (n,); what the model has wrong is left as it is, and flagged
        # Classes they shall be taken for, (n,) or one; 'third': the third likeliest, as AstFocus has
        # it; None: any other than y
        target=None,
        *,
        ids=None        # Numbers of the clips from 0 on (n,), for their chance; None: 0, 1 ..
    )->AttackResult:    # Of all clips, or of those finished before Ctrl-C
        "Attack clip after clip"
        clips = as_f32(need_clips(clips, type(self).__name__, frames=2))
        n = len(clips)
        ys,targets = need_codes('y', y, n),need_targets(target, n)
        need_others(targets, ys)
        ids = list(range(n)) if ids is None else need_codes('ids', ids, n)
        warn_still(self.eps)
        box,runs = boxed(model),[]      # type: ignore[var-annotated]
        try:
            with box.rest():
                for clip,c,goal,i in zip(clips, ys, targets, ids):
                    if spent(box, self.n+2, len(runs), n): break
                    runs.append(self._one(box, clip, c, goal, i))
        except KeyboardInterrupt:
            warn_interrupted(len(runs), n)
        return AttackResult(runs, clips)

    # --- one clip ---------------------------------------------------------------------------------
    def _one(self, box, clip, y, target, i):
        "Attack a clip; its chance comes from its number"
        begun = perf_counter()
        gen = clip_generator(self.seed, i)
        # should the victim itself draw
        set_seed(gen.initial_seed())
        asked = Asked(box, self.budget)
        p = asked.about(clip)
        need_code('y', y, len(p))
        run = ClipRun(clip, y, the_target(target, p))
        run.begin(p)
        if not run.wrong:
            if self.eps == 0: run.end = 'eps'
            else: self._steps(asked, run, p, gen)
        run.queries,run.seconds = asked.used,perf_counter()-begun
        return run

    def _steps(self, asked, run, p, gen):
        "Step after step, until the model is fooled, the budget spent or patience over"
        adv = run.clip.to(asked.box.victim.device)
        ball = Ball(adv, self.eps)
        size = StepSize(self.alpha, self.min_alpha, self.rule)
        patience = Patience(self.patience, asked.cap)
        patience.better(run.score)
        score = partial(asked.score, run, run.target is None and self.rank)
        # masks may train; nobody else's gradients are off by then
        with torch.enable_grad(): self.masks.begin(run.clip.cpu(), gen)
        while asked.may(self.n+1):
            mask = self._mask(run)
            g = nes_gradient(score, adv, mask, self.n, self.sigma, self.rank, gen)
            adv = ball.project(stepped(adv, g, size.now, self.step))
            last,p = p,asked.about(adv)
            run.see(adv, p, asked.used)
            with torch.enable_grad(): self.masks.told(last, p, run.y, run.target)
            better = patience.better(run.score)
            size.see(went(run, last, p), better, asked.used, len(run.area))
            if run.success: break
            if patience.over(asked.used, p, run.y, run.target):
                run.end = 'patience'
                break

    def _mask(self, run):
        "Where the next step may change pixels"
        with torch.enable_grad(): mask = self.masks.draw()
        mask = need_mask(mask, run.clip.shape[1:]).cpu()
        run.mask(mask)
        return mask
