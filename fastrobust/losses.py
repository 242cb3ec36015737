"Losses that forgive wrong labels, as objects: each takes the settings of its function in lossfunctions.py"
import inspect
from functools import partial
import torch, torch.nn.functional as F
from torch import nn
from fastrobust.basics import need_number, need_whole, robust_warn
from fastrobust.lossfunctions import (ael, agce, alpha_loss, aul, bootstrap_ce, expect, focal_ce,
                                      gce, loss_inputs, mae_loss, nce, nce_mae, nce_rce, nfl,
                                      phuber_ce, rce, sce, taylor_ce, truncated_gce)

__all__ = ['MAELoss', 'GCELoss', 'BalancedGCELoss', 'TruncatedGCELoss', 'RCELoss', 'SCELoss', 'NCELoss', 'NCEandRCE',
           'NCEandMAE', 'FocalCELoss', 'NFLLoss', 'AlphaLoss', 'TaylorCELoss', 'PHuberCELoss',
           'AGCELoss', 'AULLoss', 'AELLoss', 'BootstrapLoss', 'CrossEntropy', 'FuncLoss']

class _Reduced(nn.Module):
    @property
    def reduction(self): return self._reduction
    @reduction.setter
    def reduction(self, v):
        expect(v in ('mean','sum','none'), "`reduction` 'mean', 'sum' or 'none'", repr(v),
               "Set it on the loss object.")
        self._reduction = v

class RobustLoss(_Reduced):
    "Loss object of a per-sample function: `class L(RobustLoss, fn=f)` takes the settings of `f`, and `reduction`"
    y_int = True    # MixUp mixes losses, not labels
    axis = -1       # class axis
    bounded = True  # has the loss an upper bound?

    def __init_subclass__(cls, fn=None, bounded=None):
        if bounded is not None: cls.bounded = bounded
        if fn is None: return
        ps = list(inspect.signature(fn).parameters.values())[2:]
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        ps.append(inspect.Parameter('reduction', kind, default='mean'))
        cls.fn = staticmethod(fn)
        cls._names = [p.name for p in ps]
        cls.__signature__ = inspect.Signature(ps)

    def __init__(self, *args, **kwargs):
        super().__init__()
        b = self.__signature__.bind(*args, **kwargs)
        b.apply_defaults()
        for k,v in b.arguments.items(): setattr(self, k, v)
        self.per_sample(torch.zeros(1,2), torch.zeros(1).long())    # `fn` checks its settings

    def per_sample(self, z, y):
        settings = {k: getattr(self, k) for k in self._names[:-1]}
        return self.fn(z, y, **settings)

    def forward(self, z, y):
        l = self.per_sample(z, y)
        if self.reduction == 'none': return l
        return getattr(l, self.reduction)()

    def activation(self, x): return x.softmax(self.axis)
    def decodes(self, x): return x.argmax(self.axis)
    def extra_repr(self): return ', '.join(f'{k}={getattr(self, k)!r}' for k in self._names)

class MAELoss(RobustLoss, fn=mae_loss): "Mean absolute error, see `mae_loss`"
class GCELoss(RobustLoss, fn=gce): "Generalised cross-entropy, see `gce`"
class BalancedGCELoss(RobustLoss):
    """GCE for classes of different size: an item is believed for what its image says, not for how common its label is

    GCE's gradient is that of cross-entropy times p^q, the belief in the label (https://arxiv.org/abs/1805.07836). Once
    a network has learned how common the classes are it believes little in the rare ones, and gives them up for noise.
    Here the belief is that of a network which had seen all classes equally often, softmax(z - log counts)^q; the rest
    stays: with equal counts it is GCE. The value is GCE's for that network: the gradient is not its own, and as a loss
    of validation it speaks of classes equally often."""
    _names = ('counts', 'q', 'reduction')

    def __init__(self,
        counts,                 # Training items of each class (c,), at least 1: `class_counts(dls)`
        q:float=.7,             # In (0,1], as of `gce`
        reduction:str='mean'    # 'mean', 'sum' or 'none'
    ):
        nn.Module.__init__(self)
        try: n = torch.as_tensor(counts).detach().cpu().double()
        except (TypeError, ValueError, RuntimeError): n = torch.zeros(0)
        expect(n.ndim == 1 and len(n) > 1 and n.isfinite().all() and n.min() >= 1,
               "`counts` of at least 1 item in each of at least 2 classes", repr(counts)[:80],
               "Take `class_counts(dls)`; leave classes that never occur out of the vocab.")
        gce(torch.zeros(1, 2), torch.zeros(1).long(), q)    # checks it
        self._counts,self.q,self.reduction = n.tolist(),q,reduction
        self.register_buffer('_head_start', (n/n.sum()).log(), persistent=False)

    @property
    def counts(self): return list(self._counts)

    def per_sample(self, z, y):
        z,y = loss_inputs(z, y)
        expect(len(self.counts) == z.shape[1], f"logits of {len(self.counts)} classes, as `counts`", z.shape[1],
               "Count the classes of these data.")
        lp = F.log_softmax(z, 1)
        with torch.no_grad():
            belief = F.log_softmax(z - self._head_start.to(z), 1).mul(self.q)
            value,belief = -torch.expm1(belief)/self.q,belief.exp()
        l = value - belief*(lp - lp.detach())   # the value of GCE; the gradient of belief times cross-entropy
        return l.gather(1, y[:,None])[:,0] if y.ndim == 1 else (y*l).sum(1)

    def extra_repr(self):
        few,many = min(self.counts),max(self.counts)
        return f'q={self.q!r}, {len(self.counts)} classes of {few:g} to {many:g} items, reduction={self.reduction!r}'

class RCELoss(RobustLoss, fn=rce): "Reverse cross-entropy, see `rce`"
class SCELoss(RobustLoss, fn=sce, bounded=False): "Symmetric cross-entropy, see `sce`"
class NCELoss(RobustLoss, fn=nce): "Normalised cross-entropy, see `nce`"
class NCEandRCE(RobustLoss, fn=nce_rce): "Active NCE and passive RCE, see `nce_rce`"
class NCEandMAE(RobustLoss, fn=nce_mae): "Active NCE and passive MAE, see `nce_mae`"
class FocalCELoss(RobustLoss, fn=focal_ce, bounded=False): "Focal loss, see `focal_ce`"
class NFLLoss(RobustLoss, fn=nfl): "Normalised focal loss, see `nfl`"
class AlphaLoss(RobustLoss, fn=alpha_loss, bounded=property(lambda o: o.alpha>1)):
    "Alpha-loss, see `alpha_loss`"
class TaylorCELoss(RobustLoss, fn=taylor_ce): "Taylor cross-entropy, see `taylor_ce`"
class PHuberCELoss(RobustLoss, fn=phuber_ce): "Partially Huberised cross-entropy, see `phuber_ce`"
class AGCELoss(RobustLoss, fn=agce): "Asymmetric generalised cross-entropy, see `agce`"
class AULLoss(RobustLoss, fn=aul): "Asymmetric unhinged loss, see `aul`"
class AELLoss(RobustLoss, fn=ael): "Asymmetric exponential loss, see `ael`"
class BootstrapLoss(RobustLoss, fn=bootstrap_ce, bounded=False):
    "Bootstrapping, soft or hard, see `bootstrap_ce`"

class TruncatedGCELoss(RobustLoss, fn=truncated_gce):
    "Truncated GCE, see `truncated_gce`; warns where its first training batch has nothing to learn from"
    _seen = False

    def per_sample(self, z, y):
        l = super().per_sample(z, y)
        first = l.requires_grad and not self._seen
        self._seen = self._seen or l.requires_grad
        if not first or not len(l): return l
        if l.min() >= (1-self.k**self.q)/self.q-1e-6:
            robust_warn(f"No sample has p above k={self.k}, so none has a gradient. Warm up with "
                        "GCELoss or lower `k`.")
        return l

class CrossEntropy(RobustLoss, bounded=False):
    "-ln p by torch itself, with torch's own means under class weights, ignored labels and smoothing"
    torch_mean = True
    _names = ('weight','ignore_index','label_smoothing','reduction')

    def __init__(self,
        weight=None,              # Weight of each class (c,); the mean divides by those of the batch's int labels
        *,
        ignore_index:int=-100,    # Samples with this int label count for nothing
        label_smoothing:float=0., # In [0,1]: share of the label spread over all classes
        reduction:str='mean'      # 'mean', 'sum' or 'none'
    ):
        nn.Module.__init__(self)
        need_whole('ignore_index', ignore_index, fix="torch's is -100.")
        need_number('label_smoothing', label_smoothing)
        expect(0 <= label_smoothing <= 1, "`label_smoothing` in [0, 1]", label_smoothing,
               "Take .1.")
        if weight is not None: weight = torch.as_tensor(weight)
        self.register_buffer('weight', weight)
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        self.reduction = reduction

    def per_sample(self, z, y, reduction='none'):
        z,y = loss_inputs(z, y, self.ignore_index)
        w = None if self.weight is None else self.weight.to(z)
        return F.cross_entropy(z, y, w, reduction=reduction, ignore_index=self.ignore_index,
                               label_smoothing=self.label_smoothing)

    def forward(self, z, y): return self.per_sample(z, y, self.reduction)

def _takes(f):
    "What `f` takes, by name; nothing where Python cannot tell"
    try: return inspect.signature(f.forward if isinstance(f, nn.Module) else f).parameters
    except (TypeError, ValueError): return {}

class FuncLoss(_Reduced):
    "A loss function without `reduction` attribute (F.cross_entropy, a partial) as an object; `f` is never written to"
    def __init__(self,
        f,                  # Takes predictions, targets and the keyword `reduction`
        reduction:str=None  # 'mean', 'sum' or 'none'; by default what `f` does
    ):
        super().__init__()
        ps = _takes(f)
        takes_it = 'reduction' in ps or any(p.kind is p.VAR_KEYWORD for p in ps.values())
        expect(takes_it, "a loss function with the keyword `reduction`",
               getattr(f, '__name__', repr(f)),
               "Add it ('mean', 'sum', 'none'), or wrap a per-sample function: "
               "`class L(RobustLoss, fn=f): pass`.", TypeError)
        own = getattr(ps.get('reduction'), 'default', None)
        if not isinstance(own, str): own = 'mean'
        self.f = f
        self.reduction = reduction or own
        self.fn = f.func if isinstance(f, partial) else f

        # activation, decodes, y_int are f's own; else softmax, argmax, True for torch's
        # cross_entropy and nll_loss only
        self.torch_mean = self.fn in (F.cross_entropy, F.nll_loss)
        self.y_int = getattr(self.fn, 'y_int', self.torch_mean)

        given = getattr(f, 'keywords', {})
        self.weight = given.get('weight')
        self.ignore_index = given.get('ignore_index', -100)

    def forward(self, *args, **kwargs):
        l = self.f(*args, reduction=self.reduction, **kwargs)
        expect(self.reduction != 'none' or l.ndim, "one loss per sample for 'none'", "a scalar",
               "The function must obey its `reduction`.", TypeError)
        return l

    def activation(self, x):
        if hasattr(self.fn, 'activation'): return self.fn.activation(x)
        return x.softmax(1) if self.torch_mean else x

    def decodes(self, x):
        if hasattr(self.fn, 'decodes'): return self.fn.decodes(x)
        return x.argmax(1) if self.torch_mean else x

    def extra_repr(self):
        return f"{getattr(self.fn, '__name__', self.f)}, reduction={self.reduction!r}"
