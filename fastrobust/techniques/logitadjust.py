"LogitAdjust: give frequent classes their head start in the loss, so that the network need not learn it"
# Papers: Ren et al., Balanced Meta-Softmax, arxiv.org/abs/2007.10740 (tau 1); Menon et al.,
# Long-tail learning via logit adjustment, arxiv.org/abs/2007.07314 (any tau). Stage: logits. Long
# tails. Combines with every base loss, AugMix and open-set images, whose term stays on raw logits;
# acts after LogitClip and LogitNorm.
import math
import torch
from fastrobust.basics import as_f32, need_number, robust_warn
from fastrobust.data.longtail import class_counts
from fastrobust.training.checks import class_weights, draws_by_weight
from fastrobust.training.technique import Technique

__all__ = ['LogitAdjust']

def adjust_logits(
    z,              # Logits (bs,c)
    prior,          # Class frequencies or counts (c,), > 0; they are scaled to sum 1
    tau:float=1.    # Strength; 1 is the balanced softmax; negative on a plain network's logits: the post-hoc form
):
    "z + tau log pi (arXiv 2007.07314): with `tau` in the training loss, with `-tau` after plain training"
    need_number('tau', tau)
    z,p = as_f32(z),torch.as_tensor(prior, dtype=torch.float64)
    if p.shape != z.shape[1:]:
        raise ValueError(f"expected a prior of one number per class, ({z.shape[1]},), got "
                         f"{tuple(p.shape)}. Take `class_counts(dls)`.")
    if not (p > 0).all() or not torch.isfinite(p).all():
        raise ValueError(f"expected finite class frequencies above 0, got {p.min().item():.4g} to "
                         f"{p.max().item():.4g}. Leave classes that never occur out of the vocab.")
    return z + tau*(p/p.sum()).log().to(z.device, z.dtype)

class LogitAdjust(Technique):
    "Train on z + tau log(class frequency) (https://arxiv.org/abs/2007.07314); predictions and validation use raw z"
    against = 'long tails'
    # last of those that change logits: the head start is in units of the logits that the loss sees
    order,scales = Technique.order+.5,False

    def __init__(self,
        tau:float=1.    # Strength > 0; 1 is the balanced softmax (arXiv 2007.10740)
    ):
        need_number('tau', tau)
        if not 0 < tau < math.inf:
            raise ValueError(f"`tau` must be positive and finite, got {tau}. 1 is the balanced "
                             "softmax.")
        self.tau,self._counts = tau,None

    def logits(self, z): return adjust_logits(z, self._counts, self.tau)

    def check(self, learn):
        n = class_counts(learn.dls)
        if not n.all():
            raise ValueError("LogitAdjust expected training items of every class, got none of "
                             f"{int((n == 0).sum())}, first class {int(n.argmin())}. Leave such "
                             "classes out of the vocab, or add items.")
        if n.min() == n.max():
            robust_warn("LogitAdjust: all classes are equally frequent, so it changes nothing.")
        if draws_by_weight(learn.dls.train):
            robust_warn("LogitAdjust with a loader that draws items by weight (weighted_dls): rare "
                        "classes are helped twice. Keep one of the two.")
        w = class_weights(learn)
        if w is not None and len(w) == len(n) and w[n.argmin()] > w[n.argmax()]:
            robust_warn("LogitAdjust expected a loss that counts all classes alike, got one whose "
                        f"class weights ({w.min():.3g} to {w.max():.3g}) favour the rare: they are "
                        "helped twice. Keep one of the two.")
        self._counts = torch.from_numpy(n)
