"The loss that techniques share: it calls their stages in order, whatever loss the user chose"
import torch
from torch import nn
from fastai.losses import BaseLoss
from fastrobust.basics import as_f32
from fastrobust.losses import FuncLoss
from fastrobust.training.surgery import AuxOut
from fastrobust.training.recording import ColumnsCallback
from fastrobust.training.stages import has_penalty, main_logits, own, sum_of

__all__ = ['Objective']

def _class_weights(base, y, n):
    "torch's v_i: the class weight of each label, 0 for an ignored one, None where the mean is the plain one"
    f = getattr(base, 'func', base)
    torch_mean = isinstance(f, (nn.CrossEntropyLoss, nn.NLLLoss)) or getattr(f, 'torch_mean', False)
    if not torch_mean or y.is_floating_point(): return None
    y = y.reshape(-1).as_subclass(torch.Tensor)
    keep = y != getattr(f, 'ignore_index', -100)
    w = getattr(f, 'weight', None)
    v = keep.float() if w is None else w[torch.where(keep, y, 0)]*keep
    return v.view(n, -1).mean(1)

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
            raise TypeError(f"expected a loss, got the class {base.__name__}. Write {base.__name__}().")
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
        if not self.training or not self.stages or b is None or not b.live:
            return self.base(pred, *yb)
        multi = len(b.heads) > 1 or isinstance(b.heads[0], AuxOut)
        zs = [self.map(z) for z in (map(main_logits, b.heads) if multi else [as_f32(pred)])]
        by = next((t for t in self.stages if own(t, 'base')), None)
        targets = [t for t in self.stages if own(t, 'targets')]
        plain = by is None and not targets and not any(own(t, 'sample_loss') for t in self.stages)
        # bitwise torch's and fastai's own loss
        as_is = lambda: sum_of([self.base(z, *yb) for z in zs])
        if plain and not any(own(t, 'weights') for t in self.stages): return as_is()
        v = None if targets else _class_weights(self.base if by is None else by.base_loss, yb[0], len(zs[0]))
        ls = [self._per_sample(by, targets, z, *yb) for z in zs]
        if v is not None:
            # judged without weights
            ls = [l/torch.where(v > 0, v, torch.ones_like(v)) for l in ls]
        for t in self.stages:
            if own(t, 'sample_loss'): ls = t.sample_loss(ls, zs, *yb)
        ls = list(ls) if isinstance(ls, (list, tuple)) else [ls]
        w,norm = self._weights(ls, zs, *yb)
        if plain and w is None: return as_is()
        b.l,b.w = [l.detach() for l in ls],w
        if v is not None: ls = [l*v for l in ls]
        return sum_of([self._reduce(l, w[i] if isinstance(w, list) else w, v, norm) for i,l in enumerate(ls)])

    def _per_sample(self, by, targets, z, *yb):
        l = None
        if targets:
            q = nn.functional.one_hot(yb[0].long(), z.shape[1]).to(z) if not yb[0].is_floating_point() else yb[0]
            for t in targets: q = t.targets(q, z)
            yb = (q,)
        if by is not None: l = by.base(z, *yb)
        if l is None:
            old = self.base.reduction
            try:
                self.base.reduction = 'none'
                l = self.base(z, *yb)
            finally: self.base.reduction = old
        return l.as_subclass(torch.Tensor).view(len(z), -1).mean(1)

    @torch.no_grad()
    def _weights(self, ls, zs, *yb):
        "Product of all techniques' weights: None, (bs,), or a list of one per head; and the last own normaliser"
        w,norm = None,None
        for t in self.stages:
            if not own(t, 'weights'): continue
            new = t.weights([l.detach() for l in ls], [z.detach() for z in zs], *yb)
            if new is None: continue
            if own(t, 'norm'): norm = t.norm
            if w is None: w = new
            elif isinstance(w, list) or isinstance(new, list):
                as_list = lambda o: o if isinstance(o, list) else [o]*len(ls)
                w = [a*b for a,b in zip(as_list(w), as_list(new))]
            else: w = w*new
        return w,norm

    def _reduce(self, l, w, v, norm):
        "torch's mean: sum v w l / sum v w (`l` has v in it already); a weight of 0 silences even an infinite loss"
        if w is not None: l = torch.where(w > 0, l, torch.zeros_like(l))*w
        if self.reduction == 'none': return l
        if self.reduction == 'sum':  return l.sum()
        one = torch.ones_like(l) if v is None else v
        n = norm(w*one) if norm is not None and w is not None else (one if w is None else w*one).sum()
        return l.sum()/torch.where(n > 0, n, torch.ones_like(n)) if isinstance(n, torch.Tensor) else l.sum()/n

class TechniqueColumns(ColumnsCallback):
    "Records each penalty (unweighted mean of the epoch, all heads) beside its floor, and the techniques' own columns"
    name = 'technique_columns'
    def columns(self):
        cols,o = {},self.learn.objective
        for t in o.techniques():
            if has_penalty(t):
                s,k = o.sums.get(t, (0., 0))
                cols[t.column] = float(s)/k if k else float('nan')
                if t.floor is not None: cols[f'{t.column}_floor'] = t.floor
            cols.update(t.columns())
        return cols
