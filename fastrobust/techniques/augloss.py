"AugLoss: AugMix for the shift at test time with a robust loss for the wrong labels at training time"
# Otstot, Yang, Cava, Sankar, 2022, https://arxiv.org/abs/2206.02286. Stages: base, and those of
# AugMix.
# Mind the scales: 12 JSD reaches 12 ln 3 = 13.2, MAE and NCE at most 1, GCE(.7) at most 1.43.
from fastcore.meta import delegates
from fastrobust.techniques.augmix import AugMix

__all__ = ['AugLoss']

@delegates(AugMix)
class AugLoss(AugMix):
    "AugMix with the loss `base` in training; lam=12 is too much beside a bounded one: 3 beside GCE"
    against = 'wrong labels on changed images'
    def __init__(self,
        base,    # Robust loss with a settable `reduction`, such as AlphaLoss(2.) or NCEandRCE() of fastrobust.losses
        **kwargs
    ):
        if isinstance(base, type) or not callable(base) or not hasattr(base, 'reduction'):
            raise TypeError(f"`base` must be a loss object with a `reduction`, got {base!r}. Pass "
                            "one of fastrobust.losses, such as `GCELoss()`, or wrap your function "
                            "in `FuncLoss`.")
        super().__init__(**kwargs)
        self.base_loss = base

    def before_train(self):
        if hasattr(self.base_loss, 'to'):
            self.base_loss.to(self.dls.device) # class weights, for example

    def base(self, z, y):
        old = self.base_loss.reduction
        try:
            self.base_loss.reduction = 'none'
            return self.base_loss(z, y)
        finally: self.base_loss.reduction = old
