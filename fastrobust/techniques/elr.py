"ELR: hold each prediction near what the network used to say of the same item, before it memorised the label"
# Paper: Liu et al., Early-Learning Regularization Prevents Memorization of Noisy Labels,
# arxiv.org/abs/2007.00151
# Stage: penalty (on mapped logits). Combines with every base loss, LogitClip, AugMix, ODNL,
# ALASCA, two networks.
import torch
from fastrobust.basics import as_f32, check_weight, need_number
from fastrobust.techniques.bases.memory import SampleMemory

__all__ = ['ELR']

def _p(z): return as_f32(z).softmax(1).clamp(1e-4, 1-1e-4)     # the logarithm below stays finite

def elr_targets(
    t,              # Targets of these items so far (bs,c), zeros at first
    z,              # Logits (bs,c)
    beta:float=.7   # Share of the past, in [0,1); .7 for CIFAR-10
):
    "Moving average of the predicted probabilities: t <- beta t + (1-beta) p, without gradient"
    p = _p(z.detach())
    return beta*t + (1-beta)*p/p.sum(1, keepdim=True)

def elr_loss(
    z,      # Logits (bs,c)
    t       # Targets (bs,c), rows sum to at most 1
):
    "Mean of ln(1 - <p,t>): at most 0, the lower the closer predictions are to their targets"
    return torch.log1p(-(_p(z)*t).sum(1)).mean()

class ELR(SampleMemory):
    """Add lam mean ln(1 - <p_i,t_i>), t_i the moving average of p_i (https://arxiv.org/abs/2007.00151)

    Each of two networks has targets of its own."""
    against = 'wrong labels'
    def __init__(self,
        lam:float=3.,   # Weight > 0, or a schedule of pct_train; 3 for CIFAR-10
        beta:float=.7   # Share of the past in the targets, in [0,1); .7 for CIFAR-10
    ):
        need_number('beta', beta)
        if not 0 <= beta < 1:
            raise ValueError(f"`beta` must be in [0,1), got {beta}. The usual value is 0.7.")
        self.lam,self.beta = check_weight('lam', lam),beta

    def look(self, z, i):
        t = elr_targets(self.recall(z, i), z, self.beta)
        return t,t.gather(1, self.given[:,None])[:,0]/t.sum(1)

    def penalty_of(self, head):
        return elr_loss(self.objective.map(head.z), self.seen(head.z, head.i)[0])
