"What a closed-form head says of its own items when each is left out: accuracy, and the temperature of its scores"
import warnings
from typing import NamedTuple
import torch
from torch import Tensor
from fastrobust.basics import RobustWarning
from fastrobust.inference.fitting import fit_temperature

__all__ = []

_MOST = 20_000      # Items that are asked: more change the third digit of T

class LeftOut(NamedTuple):
    "Of items that a head has learned, each scored by the head without it"
    z:Tensor        # Scores float64 (n,c)
    y:Tensor        # Columns of their labels, int64 (n,)

    @property
    def accuracy(self): return (self.z.argmax(1) == self.y).double().mean().item()

    @property
    def T(self):
        "The temperature that makes softmax(z/T) most likely; 1 where there is one class"
        if self.z.shape[1] < 2: return 1.
        with warnings.catch_warnings():
            # all right, or all alike: the T of the edge is as good as any
            warnings.simplefilter('ignore', RobustWarning)
            return fit_temperature(self.z, self.y)

def left_out(
    head,   # An AnalyticHead
    *rows   # `Rows` that it has learned
)->LeftOut:
    "Leave-one-out scores of the rows, or of 20,000 of them at even distances"
    step = -(-sum(r.done for r in rows)//_MOST)
    f = torch.cat([r.f[::step] for r in rows])
    y = torch.cat([r.y[:r.done:step] for r in rows])
    column = {k: i for i,k in enumerate(head.classes)}
    return LeftOut(head.loo(f, y), torch.tensor([column[k] for k in y.tolist()], dtype=torch.long))
