"JoCoR: two networks that must agree; what they disagree on, or both find hard, is left out"
# Paper: Wei et al., Combating noisy labels by agreement, https://arxiv.org/abs/2003.02752
# Stages: surgery (Twin) + sample_loss + weights. With every base loss, LogitClip, AugMix, ODNL; no
# MixUp.
from torch.nn import functional as F
from fastrobust.basics import need_number, robust_warn
from fastrobust.techniques.bases.selection import n_keep, small_loss
from fastrobust.techniques.bases.twonetworks import TwoNetworks, trained_already

__all__ = ['JoCoR']

def symmetric_kl(
    z1, # Logits (bs,c) of one network
    z2  # Logits (bs,c) of the other
):      # (bs,)
    "KL(p1||p2) + KL(p2||p1), per item, from log-probabilities in single precision"
    a,b = F.log_softmax(z1.float(), 1),F.log_softmax(z2.float(), 1)
    return ((a.exp()-b.exp())*(a-b)).sum(1)

class JoCoR(TwoNetworks):
    """Both networks train on the items of small joint loss (1-lam)(l1+l2) + lam KL (https://arxiv.org/abs/2003.02752)

    Unlike the authors' code,
    - `lam` is .9, their README's for CIFAR-10 up to 50 % noise; the code's own default is .1;
    - the rate is `tau` from epoch `gradual` on, counted from 0, as in the paper; theirs is an epoch sooner;
    - the two networks predict together, by the mean of their logits; theirs are scored one by one, then averaged."""
    against = 'wrong labels'
    def __init__(self,
        tau,           # Final share left out, in [0,1): that of wrong labels, a number or the result of estimate_tau
        lam:float=.9,  # Weight of the agreement, in [0,1]; the authors' best on CIFAR-10 (20 and 50 %); search .5 to .9
        gradual=10,    # Ramp from 0 to tau: int epochs of the technique's life (10 in the paper) | float share of a fit
        second=None    # Function giving the second network; None: a copy of the first with other initial weights
    ):
        super().__init__(tau, gradual, second=second)
        need_number('lam', lam)
        if not 0 <= lam <= 1:
            raise ValueError(f"`lam` must lie in [0,1], got {lam}. It shares the loss between "
                             "labels (1-lam) and agreement (lam); the paper uses .5 to .95.")
        self.lam = lam

    def prepare(self, learn):
        if self.lam > .5 and trained_already(learn):
            robust_warn(f"JoCoR with lam={self.lam:g} on a network that is trained already: agreement outweighs the "
                        "labels, and new heads learn too little in few epochs. fine_tune(3) of a MobileNetV2 on "
                        "1,000 images of CIFAR-10N ended at .35 in a run where plain had .74 "
                        "(nbs/benchmarks/RESULTS.md). Take lam=.5, or CoTeaching(tau).")
        super().prepare(learn)

    def sample_loss(self, ls, zs, *yb):
        return (1-self.lam)*(ls[0]+ls[1]) + self.lam*symmetric_kl(*zs)

    def weights(self, ls, zs, *yb):
        k = n_keep(len(ls[0]), self.rate)
        return small_loss(ls[0], k).float()
