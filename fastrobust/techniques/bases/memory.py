"What a technique remembers about every training item, by position in `train_ds`: one memory for each network"
import copy
import numpy as np
import torch
from fastrobust.basics import robust_warn
from fastrobust.training.stages import main_logits
from fastrobust.training.technique import Technique

__all__ = []

class SampleMemory(Technique):
    "A technique that remembers: read in the penalty, written once a batch, with a `score` of every given label"
    # rank by rank in distributed training: each process remembers the items it has seen
    # an export leaves the memory behind; copies and `state_dict` have it
    remembers = True
    _stateattrs:tuple[str, ...] = ('_memory',)
    # A dict for each network: `rows` (n,...) and `score` (n,), which is NaN before the first visit
    _memory = ()

    def look(self, z, i):
        """New memory rows (None: nothing to remember) and scores of the batch's items, for detached mapped logits
        (bs,c) of the `i`-th network"""

    @property
    def given(self):
        "Labels of the batch (bs,)"
        return self.learn.y.as_subclass(torch.Tensor).reshape(-1).long()

    def recall(self, like, i, start=0.):
        "What the memory of the `i`-th network has on the batch's items; `start` for new ones; shaped as `like`"
        if i >= len(self._memory): return torch.full_like(like, start)
        memory,ids = self._memory[i],self.objective.batch.ids
        rows = memory['rows'][ids].to(like)
        score = memory['score'][ids].to(like)
        new = score.isnan().view(-1, *[1]*(like.ndim-1))
        return torch.where(new, start, rows)

    @torch.no_grad()
    def seen(self, z, i):
        "`look` at raw logits"
        return self.look(self.objective.map(z).detach(), i)

    def update(self, batch):
        for i,head in enumerate(batch.heads):
            rows,score = self.seen(main_logits(head), i)
            if rows is None: continue
            if i == len(self._memory):
                n = len(self.learn.dls.train_ds)
                new = dict(rows=rows.new_zeros(n, *rows.shape[1:]),
                           score=score.new_full((n,), float('nan')))
                self._memory = [*self._memory, new]
            for k,v in dict(rows=rows, score=score).items():
                m = self._memory[i][k]
                m[batch.ids.to(m.device)] = v.to(m)

    # --- between fits -----------------------------------------------------------------------------
    def score(self,
        i=None  # Position(s) in `train_ds`; None: all
    ):
        "Trust in the given labels at the last visit, in [0,1], 1 = clean, NaN: never seen; the mean of two networks"
        if not self._memory:
            raise ValueError(f"expected {type(self).__name__} to have a memory of a training, got "
                             "none. Fit first; a loaded export has no memory: save `state_dict()` "
                             "beside it.")
        scores = [m['score'].cpu().numpy() for m in self._memory]
        s = np.mean(scores, axis=0)
        return s if i is None else s[i]

    def forget(self):
        "Empty the memory"
        self._memory = ()

    def state_dict(self):
        "The memory on the CPU, for `torch.save`: `learn.save` keeps model and optimizer only"
        memory = [{k: v.cpu().clone() for k,v in m.items()} for m in self._memory]
        return dict(memory=memory)

    def load_state_dict(self,
        state   # What `state_dict` gave, for the same training items in the same order
    ):
        n = {len(v) for m in state['memory'] for v in m.values()}
        want = len(self.learn.dls.train_ds) if self.learn is not None else None
        if len(n) > 1 or want is not None and n - {want}:
            raise ValueError(f"expected a memory of the {want} training items, got one of "
                             f"{sorted(n)}. Load it for the items it was saved for.")
        self._memory = [{k: v.clone() for k,v in m.items()} for m in state['memory']]

    def check(self, learn):
        n = len(self._memory[0]['score']) if self._memory else None
        if n is None or n == len(learn.dls.train_ds): return
        robust_warn(f"{self.name} remembers {n} training items, now there are "
                    f"{len(learn.dls.train_ds)}: it starts anew. Where items were exchanged and "
                    "their number stayed the same, call `forget()` yourself.")
        self.forget()

    def __deepcopy__(self, memo):
        new = memo[id(self)] = type(self).__new__(type(self))
        new.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return new
