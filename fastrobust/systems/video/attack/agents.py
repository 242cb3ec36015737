"Two agents that learn, step by step, where in a clip a step pays: in which frames, and where there"
# Wei, Wang, Yan, AstFocus: Efficient Robustness Assessment via Adversarial Spatial-Temporal Focus
# on Videos, https://arxiv.org/abs/2301.00896
import torch
from torch.optim import Adam
from fastrobust.basics import need_number, need_whole
from fastrobust.systems.video.attack.masks import Masks, grid_boxes, need_share
from fastrobust.systems.video.attack.policies import BoxChoice, FrameChoice, TabularPolicy, logit
from fastrobust.systems.video.attack.ppo import discounted, ppo_update
from fastrobust.systems.video.attack.recurrent import BoxLSTM, FrameLSTM, encode, made, need_encoder
from fastrobust.systems.video.attack.rewards import (
    Baseline, attack_reward, box_rewards, count_penalty, representativeness, saliency)

__all__ = []

FEWEST = 2              # frames that are chosen at least; AstFocus'
PENALTY = .2            # weight of the number of frames in the frame agent's reward; AstFocus'
TARGETED = .8           # frames wanted towards a target, by those without; AstFocus: 8, 10
FRAME_KAPPA = .6,.8     # weight of the frame agent's returns without, with a target; AstFocus'
BOX_KAPPA = .4,.1       # of the region agent; AstFocus'
# of frames and boxes: .08 and .12, of networks AstFocus' .003, spread over the ten inner epochs; not
# spread, both follow noise to the floor within 49 steps
RATES = {'tabular': (.008, .012), 'recurrent': (.0003, .0003)}

class Agent:
    "A policy, how it chooses and how it learns, for one clip"
    def __init__(self,
        policy, # nn.Module: features (t,d) -> (logits, values (t,))
        choice, # `FrameChoice` or `BoxChoice`
        lr,     # Rate of Adam; 0: it does not learn
        kappas, # Weight of the returns without and with a target
        trust   # Share of the value that is taken from the returns
    ):
        self.policy,self.choice,self.kappas,self.trust = policy,choice,kappas,trust
        self.opt = Adam(policy.groups(lr)) if lr else None
        self.action = self.old = None
        self.ratios = []

    def act(self,
        feats,  # (t,d)
        gen     # torch.Generator
    ):          # What was drawn
        "Draw, and remember with which chance"
        # without gradients torch takes another LSTM, which rounds differently
        with torch.enable_grad(): logits = self.policy(feats)[0].detach()
        self.action = self.choice.draw(logits, gen)
        self.old = self.choice.log_prob(logits, self.action)
        return self.action

    def learn(self,
        feats,      # (t,d)
        rewards,    # Of each frame (t,)
        episode,    # Advantage of the whole
        used,       # bool (t,): the frames whose action the victim saw
        targeted    # Towards a target?
    ):
        "Ten inner epochs of PPO on what was drawn last"
        if self.opt is None: return
        self.ratios = ppo_update(self.policy, self.opt, feats, self.choice, self.action, self.old,
                                 returns=discounted(rewards), episode=episode, used=used,
                                 kappa=self.kappas[targeted], trust=self.trust)

    @torch.no_grad()
    def chances(self,
        feats   # (t,d)
    ):          # Of each frame (t,), or box (t,k)
        "What the policy would do now"
        return self.choice.chances(self.policy(feats)[0])

def need_rates(rates, policy):
    "Rates of the frame agent and the region agent"
    if rates is None: return RATES[policy]
    pair = isinstance(rates, (tuple, list)) and len(rates) == 2
    for o in rates if pair else (): need_number('rates', o)
    if pair and all(0 <= o < float('inf') for o in rates): return tuple(rates)
    raise ValueError(f"`rates` must be two numbers from 0 on, of frames and of boxes, got "
                     f"{rates!r}. (0, 0) learns nothing, None takes {RATES[policy]}.")

class AgentMasks(Masks):
    """A frame agent and a region agent that choose together, share a reward, and start anew with each clip

    As in https://arxiv.org/abs/2301.00896, with these differences. What acts is what is evaluated, so
    PPO's ratio is 1 at the first inner epoch. A policy keeps a share of its first chances, against
    collapse. Boxes are paid for saliency by the spectral residual, in every frame, where the paper has
    EdgeBoxes in one. The boxes of frames that were not chosen take no part in the common reward, which
    they cannot have changed. No dropout."""
    def __init__(self,
        grid=7,         # Boxes along each side; the paper's
        patch=.58,      # Side of a box by that of a frame, in (0,1]; the paper's 65 of 112
        frames=.6,      # Most frames by those of the clip, in (0,1], 2 at least; the paper's 10/16
        policy='tabular', # Or 'recurrent': LSTMs on features as in the paper, in place of a table
        # nn.Module: frames (t,c,h,w) in [0,1] -> (t,d) or (t,d,h,w), never trained; None: means of cells
        encoder=None,
        # Of Adam for (frames, boxes), each inner epoch; None: (.008, .012), with 'recurrent' .0003 both;
        # (0, 0): masks by chance alone, a twentieth smaller, as who learns takes more frames
        rates=None,
        floor=.3        # Share of its first chances that a policy keeps, in [0,1); the paper: 0
    ):
        if policy not in RATES:
            raise ValueError(f"`policy` must be 'tabular' or 'recurrent', got {policy!r}. The first "
                             "looks at nothing.")
        self.grid = need_whole('grid', grid, 1, what='boxes along each side')
        self.patch = need_share('patch', patch, "AstFocus' boxes have .58 of a side.")
        self.share = need_share('frames', frames, "AstFocus takes up to .6 of them.")
        need_number('floor', floor)
        if not 0 <= floor < 1:
            raise ValueError(f"`floor` must be in [0,1), got {floor}. 0 lets a policy collapse, 1 "
                             "lets it not learn.")
        self.kind,self.floor = policy,floor
        self.encoder = need_encoder(encoder)
        self.rates = need_rates(rates, policy)

    def begin(self,
        clip,   # (c,t,h,w) in [0,1]
        gen     # torch.Generator on the CPU: all chance comes from it
    ):
        "Forget the last clip"
        super().begin(clip, gen)
        t,h,w = self.shape
        if t < FEWEST:
            raise ValueError(f"expected clips (c,t,h,w) of {FEWEST} frames or more, got "
                             f"{tuple(clip.shape)}. Take longer ones, or another mask.")
        self.most = min(t, max(FEWEST, round(self.share*t)))
        self.boxes = grid_boxes(h, w, self.grid, self.patch)
        self.feats = encode(self.encoder, clip)
        self.frame_pay = representativeness(self.feats)
        self.box_pay = box_rewards(saliency(clip), self.boxes)
        self.baseline = Baseline()
        self._hire(t)

    def _hire(self, t):
        "Two agents that know nothing"
        start = min(max(self.most/t, .05), .95)
        k = len(self.boxes)
        if self.kind == 'tabular':
            frames = TabularPolicy(torch.full((t,), logit(start)))
            boxes = TabularPolicy(torch.zeros(t, k))
        else:
            d = self.feats.shape[1]
            frames = made(lambda: FrameLSTM(d), self.gen).begin(logit(start))
            boxes = made(lambda: BoxLSTM(d, k), self.gen).begin(0.)
        which = FrameChoice(start, FEWEST, self.most, self.floor)
        self.frames = Agent(frames, which, self.rates[0], FRAME_KAPPA, 1.)
        self.regions = Agent(boxes, BoxChoice(self.floor), self.rates[1], BOX_KAPPA, .1)

    def draw(self):     # bool (t,h,w)
        "A set of frames, and a box in each of them"
        chosen = self.frames.act(self.feats, self.gen)
        box = self.regions.act(self.feats, self.gen)
        return self.boxes[box] & chosen[:, None, None]

    def told(self,
        before,     # Probabilities (k,) before the step within the last mask
        after,      # And after it
        y,          # Class of the clip
        target=None # Class that it shall be taken for; None: any other
    ):
        "Learn from what the step changed"
        chosen,box = self.frames.action,self.regions.action
        t,targeted = len(chosen),target is not None
        gain = self.baseline.advantage(attack_reward(before, after, y, target))
        wanted = round(TARGETED*self.most) if targeted else self.most
        off = count_penalty(int(chosen.sum()), wanted, t)
        everywhere = torch.ones_like(chosen)
        both = (1-PENALTY)*gain - PENALTY*off
        self.frames.learn(self.feats, self.frame_pay*chosen, both, everywhere, targeted)
        self.regions.learn(self.feats, self.box_pay[torch.arange(t), box], gain, chosen, targeted)

    def chances(self):  # (t,), (t,grid,grid)
        "Of each frame on its own and of each box of a frame, as they are now"
        boxes = self.regions.chances(self.feats)
        return self.frames.chances(self.feats),boxes.view(len(boxes), self.grid, self.grid)
