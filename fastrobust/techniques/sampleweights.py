"SampleWeights: every training item counts in the loss by a weight of its own"
# Importance weights against noisy labels: Liu and Tao, Classification with Noisy Labels by
# Importance Reweighting, arxiv.org/abs/1411.7718. Where the weights come from is not our business
# here: a report, class sizes, your trust.
# Stage: weights. Combines with every base loss, LogitClip, AugMix, ODNL; refused with MixUp (two
# labels an image).
import torch
from fastrobust.basics import robust_warn
from fastrobust.data.weighting import item_weights, warn_equal
from fastrobust.losses import BalancedGCELoss
from fastrobust.training.checks import class_weights, draws_by_weight, training_loss
from fastrobust.training.recording import is_export
from fastrobust.training.technique import Technique

__all__ = ['SampleWeights']

class SampleWeights(Technique):
    "Weighted mean loss of each batch, sum w_i l_i/sum w_i, w by position (https://arxiv.org/abs/1411.7718)"
    against = 'doubtful items'
    def __init__(self,
        w   # Weights (n,) by position in `dls.train_ds`, finite, >= 0; or 'balanced': 1/size of the item's class
    ):
        if w is None or callable(w):
            raise TypeError(f"expected weights (n,) or 'balanced', got {w!r}. Those of a report: "
                            "fix_labels(dls, report, 'weight').fixes.weights, on the dls before "
                            "it.")
        self.w,self._w = w,None

    def __repr__(self):
        if self.w is None or isinstance(self.w, str): return f"SampleWeights({self.w!r})"
        return f"SampleWeights({len(self.w)} weights)"

    def check(self, learn):
        if self.w is None:
            raise ValueError("SampleWeights expected the weights of the training items, got none: they are not part "
                             "of an exported learner. Remove it with `remove_cb` and add SampleWeights(w).")
        try: w = item_weights(learn.dls, self.w)
        except ValueError as e: raise ValueError(f'SampleWeights {e}') from e
        self._w = torch.as_tensor(w/w.mean(), dtype=torch.float32)
        if warn_equal(w, 'SampleWeights'): return
        if learn.dls.train.bs == 1:
            robust_warn("SampleWeights on batches of one: a mean of one loss has no weights.")
        if draws_by_weight(learn.dls.train):
            robust_warn("SampleWeights on a loader that draws by weight already: both act, so the "
                        "weights multiply. Keep one of the two.")
        if isinstance(self.w, str): self.check_balance(learn)

    def check_balance(self, learn):
        "Say where the loss looks after rare classes already"
        loss,w = training_loss(learn),class_weights(learn)
        if isinstance(loss, BalancedGCELoss):
            robust_warn("SampleWeights('balanced') beside BalancedGCELoss, which knows the sizes of the classes: rare "
                        "classes are helped twice. Keep one of the two.")
        elif w is not None and (w != w[0]).any():
            robust_warn("SampleWeights('balanced') beside a loss with class weights: they multiply. Keep one of the "
                        "two.")

    def __getstate__(self):
        "An export leaves the weights behind, which are of items that it leaves behind"
        state = super().__getstate__()
        if is_export(self.learn): state.update(_w=None, w=self.w if isinstance(self.w, str) else None)
        return state

    def weights(self, ls, zs, *yb): return self._w[self.learn.objective.batch.ids].to(ls[0])
