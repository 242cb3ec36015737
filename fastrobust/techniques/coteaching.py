"Co-teaching: two networks, each trained on what the other finds easy; Co-teaching+: only where they disagree"
# Papers: Han et al., Co-teaching, https://arxiv.org/abs/1804.06872; Yu et al., How does
# disagreement help generalization against label corruption?, https://arxiv.org/abs/1901.04215
# Stages: surgery (Twin) + weights. Combines with every base loss, LogitClip, AugMix, ODNL, ALASCA;
# not with MixUp.
from fastrobust.basics import check_length
from fastrobust.techniques.bases.selection import n_keep, small_loss
from fastrobust.techniques.bases.twonetworks import TwoNetworks

__all__ = ['CoTeaching', 'CoTeachingPlus']

class CoTeaching(TwoNetworks):
    """Each network trains on the other's items of small loss (https://arxiv.org/abs/1804.06872, Algorithm 1)

    Unlike the authors' code,
    - the loss is the mean over the kept items; theirs divides that mean by their number once more;
    - the rate is `tau` from epoch `gradual` on, counted from 0, as in the paper; theirs is an epoch sooner;
    - the two networks predict together, by the mean of their logits; theirs are scored one by one."""
    against = 'wrong labels'
    def __init__(self,
        tau,         # Final share left out, in [0,1): that of wrong labels, a number or the result of estimate_tau
        gradual=10,  # Ramp from 0 to tau: int epochs of the technique's life (10 in the paper) | float share of a fit
        second=None  # Function giving the second network; None: a copy of the first with other initial weights
    ): super().__init__(tau, gradual, second=second)

    def pool(self, zs):
        "Positions to choose from; None: the whole batch"

    def weights(self, ls, zs, *yb):
        pool = self.pool(zs)
        n = len(ls[0]) if pool is None else len(pool)
        # few disagree: perhaps nobody
        k = n_keep(n, self.rate) if pool is None else int((1-self.rate)*n + 1e-8)
        a,b = (small_loss(l, k, pool).float() for l in ls)
        return [b, a]

class CoTeachingPlus(CoTeaching):
    """After a warm-up, Co-teaching among the items on which two networks disagree (https://arxiv.org/abs/1901.04215)

    Unlike the authors' code,
    - the loss is of the logits; after the warm-up theirs takes the softmax twice;
    - it is the mean over the kept items; theirs divides that mean by their number once more;
    - where the rate leaves none of those in dispute, the step has no loss; theirs takes all of them;
    - the rate is `tau` from epoch `gradual` on, counted from 0; theirs is an epoch sooner.
    The two networks predict together, by the mean of their logits."""
    against = 'wrong labels'
    judges = False
    def __init__(self,
        tau,         # Final share left out, in [0,1): that of wrong labels, a number or the result of estimate_tau
        gradual=10,  # Ramp from 0 to tau: int epochs of the technique's life (10 in the paper) | float share of a fit
        # Plain Co-teaching first: int epochs of its life (0 to 100 in the paper, 5 for CIFAR-100) |
        # float share of a fit
        warmup=5,
        second=None  # Function giving the second network; None: a copy of the first with other initial weights
    ):
        super().__init__(tau, gradual, second=second)
        self.warmup = check_length('warmup', warmup)

    def pool(self, zs):
        if self.through('warmup') < 1: return
        return (zs[0].argmax(1) != zs[1].argmax(1)).nonzero().squeeze(1)
