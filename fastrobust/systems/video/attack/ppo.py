"PPO of one episode: an episode is one question to both agents, with an action for each frame"
# Schulman, Wolski, Dhariwal, Radford, Klimov, Proximal Policy Optimization Algorithms,
# https://arxiv.org/abs/1707.06347
import torch
from torch import Tensor

__all__ = []

GAMMA = .7          # discount of the rewards of later frames; AstFocus'
EPOCHS = 10         # inner epochs of an episode; AstFocus'
CLIP = .2           # how far a ratio may go from 1; AstFocus' and PPO's
ENTROPY = .01       # weight of the entropy; AstFocus'

def discounted(
    rewards,    # Of the frames (t,)
    gamma=GAMMA # Of one frame to the one before it
)->Tensor:      # (t,), of mean 0 and standard deviation 1; zeros where all are the same
    "Returns R_i = r_i + gamma R_{i+1}, standardised"
    out,total = torch.zeros_like(rewards),torch.zeros((), dtype=rewards.dtype)
    for i in range(len(rewards)-1, -1, -1):
        total = rewards[i] + gamma*total
        out[i] = total
    out = out-out.mean()
    sd = out.std(correction=0)
    return out/sd if sd > 1e-6 else torch.zeros_like(out)

def clipped(
    ratio,      # Probability of each action by its probability when it was drawn (t,)
    advantage,  # Of each action (t,), or one for all
    clip=CLIP   # How far a ratio may go from 1
)->Tensor:      # (t,), to be raised
    "min(ratio A, clamp(ratio, 1-clip, 1+clip) A): https://arxiv.org/abs/1707.06347, eq. 7"
    return torch.minimum(ratio*advantage, ratio.clamp(1-clip, 1+clip)*advantage)

def ppo_loss(
    ratio,      # (t,), with its graph
    value,      # What was expected of each frame (t,), with its graph
    entropy,    # Of the policy, mean over frames
    returns,    # Standardised returns (t,)
    episode,    # Advantage of the whole episode, a number
    used,       # bool (t,): the frames whose action the victim saw
    kappa,      # Weight of the returns, in [0,1]; the rest is the episode's
    trust       # Share of the value that is taken from the returns: AstFocus takes .1 and 1
)->Tensor:
    "kappa (PPO on returns + error of the value^2/2 - .01 entropy) + (1-kappa) PPO on the episode"
    steps = clipped(ratio, returns - trust*value.detach()).mean()
    wrong = (value-returns).square().mean()
    whole = clipped(ratio[used], episode).mean()
    return kappa*(wrong/2 - steps - ENTROPY*entropy) - (1-kappa)*whole

def ppo_update(
    policy,     # nn.Module: features -> (logits, values (t,))
    opt,        # Optimizer of its parameters
    feats,      # Features (t,d)
    choice,     # How logits become actions, see policies.py
    action,     # What was drawn
    old,        # Log-probabilities (t,) of the action when it was drawn
    epochs=EPOCHS, # Inner epochs
    **terms     # returns, episode, used, kappa, trust of `ppo_loss`
):              # The ratios (t,) of each inner epoch before its step, a list
    "Inner epochs on one episode; the first sees ratios of exactly 1: what acted is what learns"
    seen = []
    with torch.enable_grad():
        for _ in range(epochs):
            logits,value = policy(feats)
            ratio = (choice.log_prob(logits, action) - old).exp()
            loss = ppo_loss(ratio, value, choice.entropy(logits), **terms)
            opt.zero_grad()
            loss.backward()
            opt.step()
            seen.append(ratio.detach())
    return seen
