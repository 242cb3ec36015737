"How an agent chooses a box for each frame, or a set of frames, and never puts all on one place"
# Wei, Wang, Yan, AstFocus, https://arxiv.org/abs/2301.00896
import math
import torch
from torch import Tensor, nn

__all__ = []

NEVER = -1e9    # a logarithm of 0 that has gradients
TINY = 1e-6     # no chance is nearer to 0 or 1, where logarithms end

def logit(p):
    "log(p/(1-p)) of a number"
    return math.log(p/(1-p))

class BoxChoice:
    """One of k boxes for each frame: a categorical, mixed with `floor` of a uniform one

    So its entropy stays above `floor` of the highest, whatever was learnt (entropy is concave)."""
    def __init__(self,
        floor   # Share of chance, in [0,1), that every box keeps of the uniform
    ):
        self.floor = floor

    def chances(self,
        logits  # (t,k)
    ):          # Probabilities (t,k)
        "Of each box in each frame"
        return (1-self.floor)*logits.softmax(-1) + self.floor/logits.shape[-1]

    def draw(self,
        logits, # (t,k)
        gen     # torch.Generator
    ):          # int64 (t,)
        "A box for each frame"
        return torch.multinomial(self.chances(logits), 1, generator=gen)[:, 0]

    def log_prob(self,
        logits, # (t,k)
        action  # int64 (t,)
    )->Tensor:  # (t,)
        "Of what was drawn"
        return self.chances(logits).gather(1, action[:, None])[:, 0].log()

    def entropy(self,
        logits  # (t,k)
    ):          # A scalar
        "Mean over frames, in nats"
        p = self.chances(logits)
        return -(p*p.clamp_min(1e-30).log()).sum(-1).mean()

class FrameChoice:
    """A set of frames, each by a chance of its own, given that there are `lo` to `hi` of them

    That condition is part of the probability, so what acts is what is evaluated: the official code
    draws up to three times, then takes frames at random, with other chances than those it learns from.
    Frame i given those before it: chance p_i Q(i+1, n+1)/Q(i, n), where Q(i, n) is the chance that n
    frames and those from i on make an allowed number. Each p is mixed with `floor` of its start."""
    def __init__(self,
        start,  # Chance of each frame at the start, in (0,1)
        lo,     # Fewest frames
        hi,     # Most frames
        floor   # Share of `start` that every chance keeps, in [0,1)
    ):
        self.start,self.lo,self.hi,self.floor = start,lo,hi,floor

    def chances(self,
        logits  # (t,)
    ):          # Probabilities (t,)
        "Of each frame on its own, before the condition"
        p = (1-self.floor)*logits.sigmoid() + self.floor*self.start
        return p.clamp(TINY, 1-TINY)

    def counts(self,
        log_in, # log p (t,)
        log_out # log(1-p) (t,)
    )->Tensor:  # log Q (t+1,hi+2); the last column is never allowed
        "log Q(i, n) from the last frame on"
        n = torch.arange(self.hi+2)
        allowed = (n >= self.lo) & (n <= self.hi)
        row = torch.where(allowed, 0., NEVER).to(log_in.dtype)
        last = torch.full((1,), NEVER, dtype=log_in.dtype)
        rows = [row]
        for i in range(len(log_in)-1, -1, -1):
            with_it,without = log_in[i] + row[1:],log_out[i] + row[:-1]
            row = torch.cat([torch.logaddexp(with_it, without), last])
            rows.append(row)
        return torch.stack(rows[::-1])

    def logs(self,
        logits  # (t,)
    ):          # log p, log(1-p), log Q, all float64
        "What `draw` and `log_prob` share"
        p = self.chances(logits.double())
        log_in,log_out = p.log(),torch.log1p(-p)
        return log_in,log_out,self.counts(log_in, log_out)

    def draw(self,
        logits, # (t,)
        gen     # torch.Generator
    ):          # bool (t,)
        "Frame by frame, given how many there are so far"
        log_in,_,Q = self.logs(logits)
        u = torch.rand(len(logits), generator=gen, dtype=torch.float64)
        out,n = [],0
        for i in range(len(logits)):
            p = (log_in[i] + Q[i+1, n+1] - Q[i, n]).exp()
            out.append(bool(u[i] < p))
            n += out[-1]
        return torch.tensor(out)

    def log_prob(self,
        logits, # (t,)
        action  # bool (t,)
    )->Tensor:  # (t,), their sum is that of the set
        "Of each frame's part, given those before it"
        log_in,log_out,Q = self.logs(logits)
        after = action.cumsum(0)
        before = after-action.long()
        i = torch.arange(len(logits))
        own = torch.where(action, log_in, log_out)
        return (own + Q[i+1, after] - Q[i, before]).to(logits.dtype)

    def entropy(self,
        logits  # (t,)
    ):          # A scalar
        "Mean over frames of the chances before the condition, in nats"
        p = self.chances(logits)
        return -(p*p.log() + (1-p)*(1-p).log()).mean()

class TabularPolicy(nn.Module):
    "Logits and a value for each frame, learnt on their own: it looks at nothing"
    def __init__(self,
        start   # Logits at the start (t,) or (t,k)
    ):
        super().__init__()
        self.logits = nn.Parameter(start.clone())
        self.value = nn.Parameter(torch.zeros(len(start)))

    def groups(self,
        lr  # Rate of the logits
    ):      # Groups of parameters for an optimizer
        "The value, which only says what is usual, may follow ten times as fast"
        return [{'params': [self.logits], 'lr': lr}, {'params': [self.value], 'lr': 10*lr}]

    def forward(self, feats): return self.logits,self.value
