"Two networks in one learner, each of which chooses for the other or for both"
import torch
from fastrobust.basics import robust_warn
from fastrobust.techniques.bases.selection import Selection
from fastrobust.training.surgery import SurgeonSplit, Twin, fresh_copy, looks_trained

__all__ = []

def trained_already(
    learn   # A Learner
):
    "Whether its network starts from what another training, or its body's pretraining, has learned"
    return bool(getattr(learn.opt, 'frozen_idx', 0)) or looks_trained(learn.model)

class TwoNetworks(Selection):
    "Base of techniques that train two networks; `Twin` holds them, evaluation uses the mean of their logits"
    surgery = Twin

    def __init__(self, *rate, second=None):
        super().__init__(*rate)
        if second is not None and (not callable(second) or isinstance(second, torch.nn.Module)):
            raise TypeError("`second` must be a function that gives the second network, got "
                            f"{second!r}. Write second=lambda: net; None makes a copy with other "
                            "initial weights.")
        self.second = second

    def __getstate__(self):
        return {**super().__getstate__(), 'second': None}    # a lambda cannot be pickled

    def prepare(self, learn):
        a = learn.model
        b = self.second() if self.second is not None else self._other(learn)
        p = next(a.parameters(), None)
        if p is not None: b.to(p.device)
        pa,pb = list(a.parameters()),list(b.parameters())
        pairs = list(zip(pa, pb))
        if a is b or any(x is y for x,y in pairs):
            raise ValueError(f"{self.name} expected a second network with parameters of its own, "
                             "got the first one's. Let `second` build a new network.")
        if len(pa) == len(pb) and all(x.shape == y.shape and torch.equal(x, y) for x,y in pairs):
            raise ValueError(f"{self.name} expected two different networks, got two equal ones, "
                             "which would never disagree. Let `second` build one from another "
                             "seed.")
        learn.model = Twin(a, b)

    def _other(self, learn):
        "A second network: all weights drawn anew, or those of the head where the first one has learned something"
        a = learn.model
        if not trained_already(learn): return fresh_copy(a)
        groups = SurgeonSplit(learn.splitter)(a)
        own = [list(m.parameters(recurse=False)) for m in a.modules()]
        head = groups[-1] if len(groups) > 1 else [g for g in own if g][-1]
        n = sum(p.numel() for p in head)
        robust_warn(f"{self.name}: the network is trained already, so the second one shares its "
                    f"start except for the head ({n:,} parameters drawn anew). `second=` takes a "
                    "function that gives another one.")
        return fresh_copy(a, head)

    def heads(self, pred): return list(pred)
