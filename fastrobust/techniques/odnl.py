"ODNL: open-set images with labels drawn anew at every step; noise that keeps the network from memorising noise"
# Paper: Wei et al., Open-set Label Noise Can Improve Robustness Against Inherent Label Noise, arxiv.org/abs/2106.10891
# Stages: rows + penalty (on raw logits). Combines with every base loss, LogitClip, AugMix, two networks.
import math
import torch
from torch.nn import functional as F
from fastrobust.basics import check_weight, n_classes, need_number, pixel_space
from fastrobust.data.openset import AuxRows, through_pipeline
from fastrobust.objective import Technique

__all__ = ['ODNL']

class ODNL(Technique):
    "Add eta CE(f(x_aux), u), u uniform and fresh each step (https://arxiv.org/abs/2106.10891, Algorithm 1)"
    def __init__(self,
        aux,            # Open-set images: DataLoader(s), or array (n,h,w[,c]) / (n,c,h,w), uint8 or float in [0,1]
        eta:float=2.5,  # Weight > 0, or a schedule of pct_train; tuned in .1 .. 5, 2.5 for CIFAR-10 at 20 and 50 %
        bs:int=None     # Open-set images a step; the batch's own size, as in the paper
    ):
        self.eta = check_weight('eta', eta)
        if bs is not None: need_number('bs', bs)
        if bs is not None and bs < 1:
            raise ValueError(f"`bs` must be at least 1, got {bs}. None takes as many as the batch has.")
        self.aux,self.bs,self._checked = aux if isinstance(aux, AuxRows) else AuxRows(aux),bs,False

    @property
    def weight(self): return self.eta
    @property
    def floor(self):
        "ln K: the smallest mean loss on labels that nobody can know"
        try: return math.log(n_classes(self.learn.dls))
        except ValueError: return None      # loaders that do not tell their classes

    def rows(self, x):
        if not self.weight_now: return None
        if x.ndim != 4: raise ValueError(f"ODNL adds images and expects batches (bs,c,h,w), got {tuple(x.shape)}.")
        if not self._checked:   # images normalised elsewhere would be of another range than the auxiliary ones
            px = pixel_space(self.learn.dls)
            px.check(px.decode(x.float()), 'ODNL')
            self._checked = True
        imgs = self.aux.next(self.bs or len(x))
        if imgs.shape[1] != x.shape[1]:
            raise ValueError(f"ODNL expected auxiliary images of {x.shape[1]} channel(s) like the training images, got "
                             f"{imgs.shape[1]}. Convert them (grey: mean over channels; colour: repeat).")
        r = through_pipeline(imgs, self.learn.dls.train, x.device)
        if r.shape[2:] != x.shape[2:]:
            raise ValueError(f"ODNL expected auxiliary images of size {tuple(x.shape[2:])} like the training images, "
                             f"got {tuple(r.shape[2:])}. Resize them (Resize in their DataBlock, or F.interpolate).")
        return r

    def penalty(self, z, part):
        u = torch.randint(z.shape[1], (len(part),)).to(part.device)
        return F.cross_entropy(part, u)
