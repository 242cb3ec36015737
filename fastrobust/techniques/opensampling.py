"Open-sampling: open-set images labelled mostly with rare classes, which levels a long tail without touching its images"
# Paper: Wei et al., Open-sampling, arxiv.org/abs/2206.08802
# Stages: rows + penalty (on raw logits). Long tails. Combines with every base loss, LogitClip,
# AugMix, two networks; not with ODNL, which labels such images otherwise.
from numbers import Real
import numpy as np
import torch
from fastrobust.basics import check_weight, nearest, robust_warn, target_vocab
from fastrobust.data.longtail import class_counts, complementary
from fastrobust.techniques.bases.openset import OpenSetRows
from fastrobust.training.checks import draws_by_weight

__all__ = ['OpenSampling']

class OpenSampling(OpenSetRows):
    "Add lam WCE(f(x_aux), u), u from the complement of the class frequencies (https://arxiv.org/abs/2206.08802)"
    against = 'long tails'
    def __init__(self,
        # Open-set images: DataLoader(s), an `OpenSet`, or array (n,h,w[,c]) / (n,c,h,w), uint8 or
        # float in [0,1]
        aux,
        lam:float=1.,       # Weight > 0, or a schedule of pct_train; 1 in the authors' released run
        # Gamma_j = (alpha-beta_j)/(K alpha-1), beta the class frequencies. None: max+min, as in the
        # code; 'minimal': max; 'balanced': all labels of an epoch together level; a number >= max
        alpha=None,
        bs:int=None,        # Open-set images a step; None: the batch's own size. The authors ran 512 beside 128
        *,
        weighted:bool=True, # Class weights K Gamma_j in torch's weighted mean, as in the authors' code
        dynamic:bool=True,  # Fresh labels at every step. False, for teaching: an image keeps one
        joint_bn:bool=True  # One forward pass with the batch, common BatchNorm statistics, as in the authors' code
    ):
        self.lam = check_weight('lam', lam)
        if isinstance(alpha, str) and alpha not in ('balanced', 'minimal'):
            raise ValueError("`alpha` must be None, 'balanced', 'minimal' or a number, got "
                             f"{alpha!r}. {nearest(alpha, ['balanced', 'minimal'])}")
        if alpha is not None and (isinstance(alpha, bool) or not isinstance(alpha, (str, Real))):
            raise TypeError("`alpha` must be None, 'balanced', 'minimal' or a number, got "
                            f"{alpha!r}. None takes the largest plus the smallest class frequency.")
        self.alpha,self.weighted = alpha,weighted
        self.take(aux, bs, dynamic, joint_bn)

    def check(self, learn):
        super().check(learn)
        self.labels = torch.from_numpy(self.prior(learn))
        self.class_weight = len(self.labels)*self.labels if self.weighted else None
        self.check_tail(learn)

    def check_tail(self, learn):
        "Say where there is no tail to fill up, or something else fills it up already"
        n = class_counts(learn.dls)
        if n.max() < 1.1*n.min():
            robust_warn("OpenSampling expected classes of different size, got "
                        f"{len(n)} of {n.min()} to {n.max()} items: none is rare, and labels drawn "
                        "evenly are ODNL's. Take ODNL against wrong labels, or leave it out.")
        if draws_by_weight(learn.dls.train):
            robust_warn("OpenSampling with a loader that draws items by weight (weighted_dls): its "
                        "labels favour classes that are rare in the data, so these are helped "
                        "twice. Keep one of the two.")

    def prior(self, learn):
        "Gamma (c,) for the given labels of the training split; of noisy labels, the noisy ones"
        n = class_counts(learn.dls)
        gone = [str(k) for k,m in zip(target_vocab(learn.dls), n) if not m]
        if gone:
            raise ValueError("OpenSampling expected training items of every class, got none of "
                             f"{', '.join(gone[:5])}. Leave such classes out of the vocab, or "
                             "split so that each has an item to train on.")
        if self.alpha != 'balanced': return complementary(n, self.alpha)
        dl = learn.dls.train
        steps = len(dl)
        seen = min(n.sum(), steps*dl.bs)
        m = int(steps*self.bs if self.bs else seen)
        need = int(len(n)*n.max()-n.sum())
        if m < need:
            raise ValueError(f"OpenSampling with alpha='balanced' needs at least {need} open-set images an epoch to "
                             f"level these classes, got {m} in {steps} steps. Give "
                             f"bs={int(np.ceil(need/steps))} or more, or no `alpha`.")
        return complementary(n, 'balanced', n_aux=m)
