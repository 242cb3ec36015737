"SmallLoss: one network that trains on the items it finds easy; the honest baseline of every two-network method"
# The schedule and selection of Co-teaching (https://arxiv.org/abs/1804.06872) without its second
# network.
# Stage: weights. Combines with every base loss, LogitClip, AugMix, ODNL, ALASCA; not with MixUp.
from fastrobust.techniques.bases.selection import Selection, n_keep, small_loss

__all__ = ['SmallLoss']

class SmallLoss(Selection):
    "Train on the (1-R(e)) share of each batch with the smallest losses (https://arxiv.org/abs/1804.06872, one network)"
    against = 'wrong labels'
    def __init__(self,
        tau,        # Final share left out, in [0,1): that of wrong labels, a number or the result of estimate_tau
        gradual=10  # Ramp from 0 to tau: int epochs of the technique's life (10 in Co-teaching) | float share of a fit
    ): super().__init__(tau, gradual)

    def weights(self, ls, zs, *yb):
        k = n_keep(len(ls[0]), self.rate)
        return small_loss(ls[0], k).float()
