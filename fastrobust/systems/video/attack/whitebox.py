"Two ends of the scale: signs at random, and steps along the true gradient"
# Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks,
# https://arxiv.org/abs/1706.06083
from contextlib import nullcontext
from time import perf_counter
import torch
from torch import nn
from fastai.torch_core import set_seed
from fastrobust.basics import as_f32, need_whole, shown
from fastrobust.systems.video.attack.blackbox import boxed
from fastrobust.systems.video.attack.labels import clip_generator, need_code, need_codes
from fastrobust.systems.video.attack.nes import log_score
from fastrobust.systems.video.attack.result import AttackResult, ClipRun, spent, warn_interrupted
from fastrobust.systems.video.attack.steps import Ball, need_alphas, need_eps, warn_still
from fastrobust.systems.video.attack.victims import need_clips

__all__ = []

def _each(model, clips, y, eps, who, steps, least=1, seed=0):
    "A result of `steps(box, run, ball, gen)` on each clip, which needs so many questions at least"
    clips = as_f32(need_clips(clips, who, frames=2))
    ys,eps = need_codes('y', y, len(clips)),need_eps(eps)
    warn_still(eps)
    box,runs = boxed(model),[]      # type: ignore[var-annotated]
    try:
        with box.rest():
            for i,(clip,c) in enumerate(zip(clips, ys)):
                if spent(box, least, i, len(clips)): break
                runs.append(_one(box, clip, c, eps, steps, clip_generator(seed, i)))
    except KeyboardInterrupt:
        warn_interrupted(len(runs), len(clips))
    return AttackResult(runs, clips)

def _one(box, clip, y, eps, steps, gen):
    "A clip, asked about once, then changed if the model has it right"
    begun,before = perf_counter(),box.used
    # should the victim itself draw
    set_seed(gen.initial_seed())
    p = box(clip[None])[0]
    need_code('y', y, len(p))
    run = ClipRun(clip, y)
    run.begin(p)
    if not run.wrong:
        if eps == 0: run.end = 'eps'
        else: steps(box, run, Ball(clip.to(box.victim.device), eps), gen)
    run.queries += box.used-before
    run.seconds = perf_counter()-begun
    return run

# --- signs at random ------------------------------------------------------------------------------
def sign_noise(
    model,      # As for BlackBox, or a BlackBox: its own budget is kept too, the last clip gets the rest
    clips,      # Pixels in [0,1], float (n,c,t,h,w)
    y,          # Their classes (n,)
    eps=.05,    # Change of every pixel, up or down by chance, from 0 to 1
    tries=1,    # Draws a clip, until one fools the model
    seed=0      # Of the signs, from 0 on
)->AttackResult:
    "Noise of full strength in every pixel: a model that this fools is not robust to anything"
    tries,seed = need_whole('tries', tries, 1),need_whole('seed', seed, 0)
    def steps(box, run, ball, gen):
        before,run.end = box.used-1,'tries'
        x = run.clip.to(box.victim.device)
        for _ in range(tries):
            if box.left == 0:
                run.end = 'budget'
                break
            run.mask(torch.ones(x.shape[1:], dtype=torch.bool))
            up = torch.rand(x.shape, generator=gen).to(x) < .5
            adv = ball.project(torch.where(up, x+eps, x-eps))
            run.see(adv, box(adv[None])[0], box.used-before)
            if run.success: break
    return _each(model, clips, y, eps, 'sign_noise', steps, 2, seed)

# --- the true gradient ----------------------------------------------------------------------------
def _need_gradient(box):
    if box.victim.gradient: return
    raise TypeError(f"white_box_pgd expected a network or a Learner, got {shown(box.f)}. A "
                    "function of numpy clips has no gradient.")

def _need_way_back(p, box):
    "Refuse answers that gradients were off for"
    if p.requires_grad: return
    raise TypeError("expected a victim whose answers have a gradient, got "
                    f"{type(box.f).__name__}, which computes without (no_grad, inference_mode, "
                    "detach?). Leave out the white-box attack.")

def _flags(model):
    "CuDNN's recurrent networks have no backward pass at rest"
    recurrent = any(isinstance(m, nn.RNNBase) for m in model.modules())
    return torch.backends.cudnn.flags(enabled=False) if recurrent else nullcontext()

def true_gradient(
    box,    # BlackBox of a network or a Learner
    x,      # Clip (c,t,h,w) in [0,1]
    y       # Its class
):          # (gradient of `log_score` like x, probabilities (k,) of x)
    "To the pixels alone: the parameters' own gradients stay as they are"
    x = x.detach().clone().requires_grad_()
    with torch.enable_grad(), _flags(box.victim.model):
        p = box.victim.rows(x[None])
        _need_way_back(p, box)
        g, = torch.autograd.grad(log_score(p, y)[0], x)
    return g,p.detach()[0].cpu()

def white_box_pgd(
    model,      # nn.Module or Learner, or a BlackBox of one
    clips,      # Pixels in [0,1], float (n,c,t,h,w)
    y,          # Their classes (n,)
    eps=.05,    # Largest change of a pixel, from 0 to 1
    alpha=.01,  # Step along the sign of the gradient
    steps=20    # Steps at most; it stops at the first that fools the model
)->AttackResult:
    """What somebody who has the network itself achieves: a bound. `queries` are its forward passes,
    of which a budget counts the first alone"""
    box,steps = boxed(model),need_whole('steps', steps, 1)
    _need_gradient(box)
    alpha,*_ = need_alphas(alpha, alpha, 'constant')
    def go(box, run, ball, _):
        run.end,adv = 'steps',run.clip.to(box.victim.device)
        g,_ = true_gradient(box, adv, run.y)
        for k in range(steps):
            run.mask(torch.ones(adv.shape[1:], dtype=torch.bool))
            adv = ball.project(adv + alpha*g.sign())
            g,p = true_gradient(box, adv, run.y)
            run.see(adv, p, k+3)
            if run.success: break
        run.queries = k+2       # beside the first, which the box has counted
    return _each(box, clips, y, eps, 'white_box_pgd', go)
