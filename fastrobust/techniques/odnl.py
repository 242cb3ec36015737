"ODNL: open-set images with labels drawn anew at every step; noise that keeps the network from memorising noise"
# Paper: Wei et al., Open-set Label Noise Can Improve Robustness Against Inherent Label Noise,
# arxiv.org/abs/2106.10891
# Stages: rows + penalty (on raw logits). Combines with every base loss, LogitClip, AugMix, two
# networks; not with OpenSampling, which labels such images otherwise.
from fastrobust.basics import check_weight
from fastrobust.techniques.bases.openset import OpenSetRows

__all__ = ['ODNL']

class ODNL(OpenSetRows):
    "Add eta CE(f(x_aux), u), u uniform and fresh each step (https://arxiv.org/abs/2106.10891, Algorithm 1)"
    against = 'wrong labels'
    def __init__(self,
        # Open-set images: DataLoader(s), an `OpenSet`, or array (n,h,w[,c]) / (n,c,h,w), uint8 or
        # float in [0,1]
        aux,
        eta:float=2.5,      # Weight > 0, or a schedule of pct_train; tuned in .1 .. 5, 2.5 for CIFAR-10 at 20 and 50 %
        bs:int=None,        # Open-set images a step; None: the batch's own size, as in the paper
        *,
        dynamic:bool=True,  # Fresh labels at every step. False, for teaching: an image keeps one
        joint_bn:bool=True  # One forward pass with the batch, common BatchNorm statistics, as in the paper's code
    ):
        self.eta = check_weight('eta', eta)
        self.take(aux, bs, dynamic, joint_bn)

    @property
    def weight(self): return self.eta
