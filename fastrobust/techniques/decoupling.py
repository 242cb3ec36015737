"Decoupling: two networks that train only where they disagree; when to update, apart from how"
# Paper: Malach & Shalev-Shwartz, Decoupling "when to update" from "how to update",
# https://arxiv.org/abs/1706.02613
# Stages: surgery (Twin) + weights. Combines with every base loss, LogitClip, AugMix, ODNL; not
# with MixUp.
import torch
from fastrobust.basics import check_length
from fastrobust.techniques.bases.twonetworks import TwoNetworks

__all__ = ['Decoupling']

class Decoupling(TwoNetworks):
    """Update both networks on the items they disagree on (https://arxiv.org/abs/1706.02613); needs no noise rate

    Unlike the authors' code, the warm-up counts epochs; theirs counts steps.
    The two networks predict together, by the mean of their logits."""
    against = 'wrong labels'
    judges = False
    def __init__(self,
        warmup=3,    # Training on everything first: int epochs of the technique's life | float share of a fit
        second=None  # Function giving the second network; None: a copy of the first with other initial weights
    ):
        super().__init__(second=second)
        self.warmup = check_length('warmup', warmup)

    def weights(self, ls, zs, *yb):
        if self.through('warmup') < 1: return torch.ones_like(ls[0])
        return (zs[0].argmax(1) != zs[1].argmax(1)).float()

    def norm(self, w):
        "A tenth of the batch at least: a lone disagreement does not take a whole step (the authors' code)"
        return w.sum().clamp_min(.1*len(w))
