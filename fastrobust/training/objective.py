"The loss that techniques share: it calls their stages in order, whatever loss the user chose"
import torch
from torch import nn
from fastai.losses import BaseLoss
from fastrobust.basics import as_f32
from fastrobust.losses import FuncLoss
from fastrobust.training.recording import ColumnsCallback
from fastrobust.training.stages import has_penalty, main_logits, own, sum_of
from fastrobust.training.surgery import AuxOut

__all__ = ['Objective']

def _class_weights(base, y, n):
    "torch's v_i: the class weight of each label, 0 for an ignored one, None where the mean is the plain one"
    f = getattr(base, 'func', base)
    torch_mean = getattr(f, 'torch_mean', False)
    if isinstance(f, (nn.CrossEntropyLoss, nn.NLLLoss)): torch_mean = True
    if not torch_mean or y.is_floating_point(): return None
    y = y.reshape(-1).as_subclass(torch.Tensor)
    keep = y != getattr(f, 'ignore_index', -100)
    w = getattr(f, 'weight', None)
    if w is None: v = keep.float()
    else: v = w[torch.where(keep, y, 0)]*keep
    return v.view(n, -1).mean(1)

def _divisor(n):
    "`n`, and 1 in place of what is not positive"
    return torch.where(n > 0, n, torch.ones_like(n))

def _detached(xs): return [x.detach() for x in xs]

def _per_head(w, n):
    "Weights `w` as a list, one for each of `n` heads"
    return w if isinstance(w, list) else [w]*n

def inner_loss(loss):
    "The loss inside an Objective (another learner's: its techniques stay there), any other loss as it is"
    while isinstance(loss, Objective): loss = loss.base
    return loss

class Objective(nn.Module):
    "The learner's loss with the techniques' stages; in eval mode, or without techniques, exactly `base`"
    def __init__(self,
        base    # Loss of the learner: fastai, torch or fastrobust loss, or a function with a `reduction` keyword
    ):
        super().__init__()
        self.stages,self.batch = (),None
        self.adopt(base)

    def adopt(self, base):
        "Make `base` the loss inside"
        self._modules.pop('base', None)
        base = inner_loss(base)
        if isinstance(base, type):
            raise TypeError(f"expected a loss, got the class {base.__name__}. "
                            f"Write {base.__name__}().")
        self.base = base if hasattr(base, 'reduction') else FuncLoss(base)

    @property
    def reduction(self): return self.base.reduction
    @reduction.setter
    def reduction(self, v): self.base.reduction = v

    @property
    def y_int(self): return getattr(self.base, 'y_int', False)

    def __getattr__(self, k):
        try: return super().__getattr__(k)
        except AttributeError:
            if k == 'base' or k[:2] == '__': raise
            # activation, decodes, axis, and whatever else the loss inside has
            return getattr(self.base, k)

    def train(self, mode=True):
        "Training mode of the stages; the loss inside may be another learner's too and is left alone"
        self.training = mode
        return self

    def to(self, *args, **kwargs):
        if isinstance(self.base, BaseLoss): self.base.to(*args, **kwargs)
        return super().to(*args, **kwargs)

    def __getstate__(self): return {**self.__dict__, 'batch': None, 'stages': ()}
    def __repr__(self): return f"Objective({self.base}, {[t.name for t in self.stages]})"

    def map(self, z):
        "Logits as the loss sees them: LogitClip and the like applied (training only)"
        for t in self.stages: z = t.logits(z)
        return z

    def forward(self, pred, *yb):
        b = self.batch
        if not self.training or not self.stages: return self.base(pred, *yb)
        if b is None or not b.live: return self.base(pred, *yb)
        multi = len(b.heads) > 1 or isinstance(b.heads[0], AuxOut)
        if multi: heads = map(main_logits, b.heads)
        else: heads = [as_f32(pred)]
        zs = [self.map(z) for z in heads]
        by = next(iter(self._with('base')), None)
        targets = self._with('targets')
        plain = by is None and not targets and not self._with('sample_loss')
        if plain and not self._with('weights'): return self._as_is(zs, *yb)

        v = None
        if not targets:
            judge = self.base if by is None else by.base_loss
            v = _class_weights(judge, yb[0], len(zs[0]))
        ls = [self._per_sample(by, targets, z, *yb) for z in zs]
        if v is not None:
            # judged without weights
            ls = [l/_divisor(v) for l in ls]
        for t in self._with('sample_loss'): ls = t.sample_loss(ls, zs, *yb)
        ls = list(ls) if isinstance(ls, (list, tuple)) else [ls]

        w,norm = self._weights(ls, zs, *yb)
        if plain and w is None: return self._as_is(zs, *yb)
        b.l,b.w = _detached(ls),w
        if v is not None: ls = [l*v for l in ls]
        ws = _per_head(w, len(ls))
        losses = [self._reduce(l, ws[i], v, norm) for i,l in enumerate(ls)]
        return sum_of(losses)

    def _with(self, stage):
        "The techniques that override `stage`, in order"
        return [t for t in self.stages if own(t, stage)]

    def _as_is(self, zs, *yb):
        "The loss inside alone: bitwise torch's and fastai's own"
        return sum_of([self.base(z, *yb) for z in zs])

    def _per_sample(self, by, targets, z, *yb):
        if targets: yb = (self._soft(targets, z, yb[0]),)
        l = None
        if by is not None: l = by.base(z, *yb)
        if l is None:
            old = self.base.reduction
            try:
                self.base.reduction = 'none'
                l = self.base(z, *yb)
            finally: self.base.reduction = old
        l = l.as_subclass(torch.Tensor)
        return l.view(len(z), -1).mean(1)

    def _soft(self, targets, z, y):
        "Labels `y` as probabilities (bs,c), after all `targets` stages"
        if not y.is_floating_point():
            y = nn.functional.one_hot(y.long(), z.shape[1]).to(z)
        for t in targets: y = t.targets(y, z)
        return y

    @torch.no_grad()
    def _weights(self, ls, zs, *yb):
        "Product of all techniques' weights: None, (bs,), or a list of one per head; and the last own normaliser"
        w,norm = None,None
        for t in self._with('weights'):
            new = t.weights(_detached(ls), _detached(zs), *yb)
            if new is None: continue
            if own(t, 'norm'): norm = t.norm
            if w is None: w = new
            elif isinstance(w, list) or isinstance(new, list):
                n = len(ls)
                w = [a*b for a,b in zip(_per_head(w, n), _per_head(new, n))]
            else: w = w*new
        return w,norm

    def _reduce(self, l, w, v, norm):
        "torch's mean: sum v w l / sum v w (`l` has v in it already); a weight of 0 silences even an infinite loss"
        if w is not None:
            l = torch.where(w > 0, l, torch.zeros_like(l))
            l = l*w
        if self.reduction == 'none': return l
        if self.reduction == 'sum':  return l.sum()
        share = torch.ones_like(l) if v is None else v
        if w is not None: share = w*share
        if norm is None or w is None: n = share.sum()
        else: n = norm(share)
        if isinstance(n, torch.Tensor): n = _divisor(n)
        return l.sum()/n

class TechniqueColumns(ColumnsCallback):
    "Records each penalty (unweighted mean of the epoch, all heads) beside its floor, and the techniques' own columns"
    name = 'technique_columns'

    def columns(self):
        cols = {}
        o = self.learn.objective
        for t in o.techniques():
            if has_penalty(t):
                s,k = o.sums.get(t, (0., 0))
                cols[t.column] = float(s)/k if k else float('nan')
                if t.floor is not None: cols[f'{t.column}_floor'] = t.floor
            cols.update(t.columns())
        return cols
