"The stages between logits and loss: what a technique may do there, and what it is handed"
from typing import NamedTuple
import torch
from fastrobust.basics import as_f32
from fastrobust.training.surgery import AuxOut

__all__ = []

class Stages:
    "What a technique can do to a training batch; it overrides only what its paper needs"
    # The loss object behind `base`, if there is one: its class weights count in the mean
    base_loss = None
    # What only one technique of a learner may do, in words that follow 'both'
    exclusive:str|None = None
    # The problem it is a remedy for, in two or three words: a column of the README's table
    against:str|None = None
    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        owner = lambda k: next(c for c in cls.__mro__ if k in vars(c))
        a,b = owner('penalty'),owner('penalty_of')
        if b is not Stages and a is not b and issubclass(a, b):
            raise TypeError(f"{cls.__name__}.penalty would never be asked: {b.__name__} has "
                            "`penalty_of(head)`, which comes first. Override that one; `head.z` "
                            "and `head.part` are what `penalty` is given.")

    def rows(self, x):
        "Extra inputs (k,C,H,W) for the forward pass of the normalised batch `x`, or None"
    def heads(self, pred):
        "The networks' predictions in `pred` (two-network techniques only)"
        return [pred]
    def logits(self, z):
        "Logits as the loss shall see them"
        return z
    def targets(self, q, z):
        "Target probabilities (bs,c) for mapped logits `z`"
        return q
    def base(self, z, y):
        "Per-sample loss (bs,) in place of the learner's, or None"
    def sample_loss(self, ls, zs, *yb):
        "Per-sample losses from those (`ls`) and the mapped logits (`zs`) of all heads: one tensor or a list"
        return ls
    def weights(self, ls, zs, *yb):
        "Weights (bs,), a list of them (one per head), or None; no gradient"
    def norm(self, w):
        "What the weighted sum is divided by; `w` has the class weights in it"
        return w.sum()
    def penalty(self, z, part):
        "A scalar to add, `weight` times: `z` raw main logits, `part` raw logits of the own rows; asked for each head"
    def penalty_of(self, head):
        "`penalty` of one network's `HeadLogits`; override it to know which one, or the auxiliary logits"
        return self.penalty(head.z, head.part)
    def update(self, batch):
        "The only place that writes state, once per training batch (lr_find works on a copy of it)"

def own(t, name):
    "Whether `t` overrides the stage `name`"
    return getattr(type(t), name) is not getattr(Stages, name)

def has_penalty(t): return own(t, 'penalty') or own(t, 'penalty_of')

def take_rows(o, a, b):
    "Rows a:b of a prediction: a tensor, or tuples of them (two networks, auxiliary heads)"
    if isinstance(o, torch.Tensor): return o[a:b]
    parts = (take_rows(p, a, b) for p in o)
    return type(o)(*parts) if hasattr(o, '_fields') else type(o)(parts)

def main_logits(head): return as_f32(head.main if isinstance(head, AuxOut) else head)
def mean_of(xs): return xs[0] if len(xs) == 1 else torch.stack(list(xs)).mean(0)
def sum_of(xs):
    "Over networks: each of two trains exactly as it would alone"
    return xs[0] if len(xs) == 1 else torch.stack(list(xs)).sum(0)

class HeadLogits(NamedTuple):
    "What one network says of a training batch, for a penalty"
    i:int               # Which of the networks, from 0
    z:torch.Tensor      # Raw main logits (bs,c)
    part:torch.Tensor|None = None # Raw logits of the technique's own rows (k,c); None: it has none
    # Raw auxiliary logits, (bs,c) each, and in tuples of a class of their own what wrappers saw inside
    aux:tuple = ()

def head_of(i, out, part=None):
    "The `HeadLogits` of the `i`-th network's output"
    aux = ()
    if isinstance(out, AuxOut): aux = tuple(as_f32(a) if isinstance(a, torch.Tensor) else a for a in out.aux)
    return HeadLogits(i, main_logits(out), part, aux)

class Batch:
    "Everything of one training batch; nothing of it outlives the batch or enters a pickle"
    def __init__(self, n, ids=None):
        self.n,self._ids = n,ids
        self.live = False
        self.heads = []
        self.w,self.l = None,None

    @property
    def has_ids(self): return self._ids is not None and self._ids() is not None

    @property
    def ids(self):
        "Positions of the batch's items in `train_ds`"
        ids = self._ids() if self._ids else None
        if ids is None:
            raise ValueError("expected a loader that says which items a batch has, got one that "
                             "does not (an iterable dataset, or texts sorted on the fly). Use an "
                             "ordinary shuffling loader; for texts dl_type=TfmdDL with "
                             "before_batch=pad_input.")
        return ids
