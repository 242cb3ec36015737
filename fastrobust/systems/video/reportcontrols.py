"The controls of a video report: what an attack is compared to, with its own step, budget and seeds"
import math
from functools import partial
import numpy as np
import torch
from fastrobust.basics import nearest, need_number, need_whole, shown
from fastrobust.systems.video.attack.loop import VideoAttack
from fastrobust.systems.video.attack.masks import CentreBox, DenseMasks, MotionMask, RandomMasks
from fastrobust.systems.video.attack.whitebox import sign_noise, white_box_pgd

__all__ = []

RANDOM,DENSE,CENTRE,MOTION = 'random masks','dense NES','centre box','motion mask'
SIGN,BOUND = 'sign noise','white-box PGD'
CONTROLS = RANDOM,DENSE,CENTRE,MOTION,SIGN,BOUND
_SETTINGS = 'eps','alpha','n','budget','sigma','step','seed','patience','rank','min_alpha','rule'
_PATCH,_GRID = .58,7        # of an attack that has none; AstFocus'
PARTS = 1,2,4,8             # of eps: steps of the white-box attack that are tried
ROUNDS = 20                 # of the white-box attack

class RandomOfArea(RandomMasks):
    "Boxes at random that cover a given share of a clip in the mean: by chance in a frame more or less"
    def __init__(self,
        area,       # Share of the pixels of a clip, in (0,1]
        grid=_GRID, # Boxes along each side
        patch=_PATCH # Side of a box by that of a frame, in (0,1]; larger where all frames together would not do
    ):
        super().__init__(grid, min(1., max(patch, math.sqrt(area))), 1.)
        self.area = area

    def begin(self, clip, gen):
        super().begin(clip, gen)
        t = self.shape[0]
        box = self.boxes[0].float().mean().item()
        self.wanted = min(float(t), max(1., self.area*t/box))

    def draw(self):
        self.k = int(self.wanted + torch.rand(1, generator=self.gen).item())
        return super().draw()

def settings_of(attack):
    "Step, budget and seed of an attack, as `VideoAttack` takes them"
    return {k: getattr(attack, k) for k in _SETTINGS if hasattr(attack, k)}

def need_attack(attack):
    "Refuse what attacks nothing"
    if isinstance(attack, VideoAttack):
        if attack.eps > 0: return attack
        raise ValueError("expected an attack with `eps` above 0, got 0: nothing could change, so there is nothing to "
                         "measure. Give AstFocus(eps=.05).")
    fix = "Give AstFocus(eps=.05, budget=3000), or VideoAttack with masks of your own."
    raise TypeError(f"expected `attack` as a VideoAttack such as AstFocus(), got {shown(attack)}. {fix}")

def names_of(controls):
    "Which controls are wanted"
    if controls is True: return CONTROLS
    if controls is False or controls is None: return ()
    names = [controls] if isinstance(controls, str) else list(controls)
    for k in names:
        if k in CONTROLS: continue
        raise ValueError(f"expected names of `controls`, got {k!r}. {nearest(k, CONTROLS)}")
    return [k for k in CONTROLS if k in names]

def need_alphas(alphas):
    "Positive step sizes"
    alphas = list(alphas) if isinstance(alphas, (list, tuple)) else [alphas]
    for a in alphas:
        need_number('alphas', a)
        if 0 < a < math.inf: continue
        raise ValueError(f"expected `alphas` above 0 and finite, got {a}. Give e.g. (.003, .03).")
    return alphas

def name_of(attack):
    "What an attack is called in a table"
    name = type(attack).__name__
    return name if type(attack) is not VideoAttack else f'{name}({type(attack.masks).__name__})'

class Plan:
    "What a report runs: the attack, then its controls; `runs`: functions (model, clips, y) -> AttackResult"
    def __init__(self,
        attack,     # A `VideoAttack`
        names,      # Of the controls
        alphas=(),  # Step sizes that dense NES is run with besides
        noise=None  # Draws of sign noise; None: as many as the budget allows
    ):
        self.attack,self.area,self.notes = attack,math.nan,[]
        self.settings = settings_of(attack)
        self.name = name_of(attack)
        if noise is None: noise = attack.budget-1
        self.noise = need_whole('noise', noise, 1, what='draws')
        own = {RANDOM: self._random, DENSE: self._dense, CENTRE: self._centre, MOTION: self._motion,
               SIGN: self._sign, BOUND: self._bound}
        more = {f'{DENSE}, step {a:g}': partial(self._dense, alpha=a) for a in need_alphas(alphas)}
        # the bound last, as it is a sweep of its own
        masked = {k: own[k] for k in names if k not in (SIGN, BOUND)}
        others = {k: own[k] for k in names if k in (SIGN, BOUND)}
        self.runs = {self.name: attack.attack, **masked, **more, **others}

    def see(self, row):
        "Hear of a row; the masks of the controls get the mean area of the first"
        if math.isnan(self.area): self.area = float(np.nanmean(row.area))

    # --- masks ------------------------------------------------------------------------------------
    def _within(self, masks, model, clips, y, **changed):
        "The loop of the attack with other masks"
        return VideoAttack(masks, **self.settings | changed).attack(model, clips, y)

    def _dense(self, model, clips, y, **changed):
        return self._within(DenseMasks(), model, clips, y, **changed)

    def _centre(self, model, clips, y):
        return self._within(CentreBox(math.sqrt(self.area)), model, clips, y)

    def _motion(self, model, clips, y):
        return self._within(MotionMask(self.area), model, clips, y)

    def _random(self, model, clips, y):
        mine = self.attack.masks
        boxes = RandomOfArea(self.area, getattr(mine, 'grid', _GRID), getattr(mine, 'patch', _PATCH))
        return self._within(boxes, model, clips, y)

    # --- ends of the scale ------------------------------------------------------------------------
    def _sign(self, model, clips, y):
        return sign_noise(model, clips, y, self.attack.eps, self.noise, self.attack.seed)

    def _bound(self, model, clips, y):
        "The step that fools most; of these, the one that changes least"
        eps,found = self.attack.eps,[]
        for part in PARTS:
            got = white_box_pgd(model, clips, y, eps, eps/part, ROUNDS)
            if found and got.finished < len(clips):
                self.notes.append(f"{BOUND}: interrupted, so that not all of its steps were tried.")
                break
            found.append((-got.success.mean(), got.map.mean(), part, got))
            if got.finished < len(clips): break
        rate,_,part,best = min(found, key=lambda o: o[:3])
        tried = [f'{-o[0]:.2f} with eps/{o[2]}' for o in found]
        self.notes.append(f"{BOUND} follows the victim's gradient for {ROUNDS} steps, which no attack above can: a "
                          f"bound. Fooled by size of its step: {', '.join(tried)}; the row has eps/{part}.")
        return best
