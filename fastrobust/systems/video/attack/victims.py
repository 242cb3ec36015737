"What is asked: a module, a Learner or a function, in one way about clips with pixels in [0,1]"
from contextlib import contextmanager
import numpy as np
import torch
from torch import Tensor, nn
from fastai.learner import Learner
from fastrobust.basics import shown
from fastrobust.inference.passes import AtRest
from fastrobust.pixels import pixel_space
from fastrobust.resting import at_rest, keep_random

__all__ = []

_CLIPS = "Clips are (n,c,t,h,w): clips, channels, frames, height, width"
# how far the sum of a row may be from 1, by its rounding
_SLACK = {torch.float16: 1e-2, torch.bfloat16: 5e-2}

# --- clips and rows -------------------------------------------------------------------------------
def need_clips(clips, who='BlackBox', frames=1):
    "`clips` as a float tensor (n,c,t,h,w) of pixels in [0,1]; anything else is refused"
    if isinstance(clips, np.ndarray): clips = torch.from_numpy(clips)
    if not isinstance(clips, Tensor):
        raise TypeError(f"{who} expected clips as a tensor (n,c,t,h,w), got {shown(clips)}. Stack "
                        "them: torch.stack(clips).")
    x = clips.as_subclass(Tensor).detach()
    if x.ndim != 5:
        raise ValueError(f"{who} expected clips of shape (n,c,t,h,w), got {tuple(x.shape)}. "
                         f"{_CLIPS}; of one clip take clip[None].")
    if not x.is_floating_point():
        raise ValueError(f"{who} expected float pixels in [0,1], got {x.dtype}. Divide by 255: "
                         "clips.float()/255.")
    if not x.numel():
        raise ValueError(f"{who} expected at least one clip, got shape {tuple(x.shape)}.")
    if x.shape[2] < frames:
        raise ValueError(f"{who} expected clips of {frames} frames or more, got shape "
                         f"{tuple(x.shape)}. {_CLIPS}; a single image has no motion that could be "
                         "attacked.")
    lo,hi = x.aminmax()
    if not (lo >= -1e-3 and hi <= 1+1e-3):
        fix = "Divide by 255, or undo Normalize: the victim normalises them itself."
        if not x.isfinite().all(): fix = "Look for NaN or infinity where they were made."
        raise ValueError(f"{who} expected finite pixels in [0,1], got [{lo:.3g}, {hi:.3g}]. {fix}")
    return x

def is_distribution(p, slack=1e-3):
    "Whether every row of `p` is one"
    return bool((p >= 0).all() and ((p.sum(1)-1).abs() <= slack).all())

def need_table(z, n, what):
    "Refuse what is no table of numbers with a row for each of `n` clips"
    fits = isinstance(z, Tensor) and z.ndim == 2 and len(z) == n and z.shape[1] > 1
    if fits: return z.as_subclass(Tensor)
    got = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
    codes = isinstance(z, Tensor) and z.ndim < 2
    fix = "Let it return one row a clip and one column a class."
    if codes: fix = ("Class numbers alone say nothing of how near another class is, so that there is "
                     "nothing to follow: let it return probabilities.")
    raise ValueError(f"expected a row of {what} for each clip, ({n},k) with k >= 2, got {got}. "
                     f"{fix}")

def _need_finite(z, what):
    if z.isfinite().all(): return
    bad = int((~z.isfinite()).any(1).sum())
    raise ValueError(f"expected finite {what}, got NaN or infinity for {bad} of {len(z)} clips. "
                     "Has the training diverged?")

def need_rows(p, slack=1e-3):
    "Refuse rows that are no probabilities"
    _need_finite(p, 'probabilities')
    if p.min() < 0 or p.max() > 1+slack:
        raise ValueError(f"expected probabilities in [0,1], got [{p.min():.3g}, {p.max():.3g}]. "
                         "These look like logits: let it return their softmax over the classes.")
    off = (p.sum(1)-1).abs()
    if off.max() <= slack: return
    i = int(off.argmax())
    raise ValueError(f"expected rows of probabilities that sum to 1, got {p[i].sum():.4g} in row "
                     f"{i}. Divide each row by its sum; several labels a clip (sigmoid) have no "
                     "one right class.")

def _per_channel(v, c, what):
    "Mean or standard deviation of each channel, of any shape, as (1,c,1,1,1)"
    v = torch.as_tensor(v).as_subclass(Tensor).float().flatten()
    if len(v) not in (1, c):
        raise ValueError(f"expected a {what} of one number or one for each of {c} channels, got "
                         f"{len(v)} numbers. Are the clips (n,c,t,h,w)?")
    return v.view(1, -1, 1, 1, 1)

def need_normalize(normalize):
    "Refuse what is no pair and no function"
    pair = isinstance(normalize, (tuple, list)) and len(normalize) == 2
    if normalize is None or pair or callable(normalize): return normalize
    raise TypeError("`normalize` must be a pair (mean, std) with a number a channel, a function "
                    f"of clips or None, got {shown(normalize)}.")

def normalised(x, normalize):
    "Clips as the network gets them"
    if normalize is None: return x
    if callable(normalize): return normalize(x)
    mean = _per_channel(normalize[0], x.shape[1], 'mean')
    std = _per_channel(normalize[1], x.shape[1], 'standard deviation')
    return (x-mean.to(x))/std.to(x)

# --- three kinds ----------------------------------------------------------------------------------
class ModuleVictim:
    "A network of clips (n,c,t,h,w) that returns logits or probabilities"
    gradient = True
    def __init__(self, model, normalize=None):
        self.model,self.normalize,self.logits = model,normalize,None

    @property
    def device(self):
        "Where its parameters are"
        p = next(self.model.parameters(), None)
        return torch.device('cpu') if p is None else p.device

    def rest(self): return at_rest(self.model)

    def _forward(self, x):
        p = next(self.model.parameters(), None)
        if p is not None: x = x.to(p.device, p.dtype if p.is_floating_point() else x.dtype)
        z = self.model(x)
        if isinstance(z, (tuple, list)): z = z[0]
        return need_table(z, len(x), 'logits or probabilities')

    def rows(self,
        x       # Clips (n,c,t,h,w) in [0,1]
    )->Tensor:  # Probabilities (n,k)
        "Ask; differentiable where gradients are on"
        z = self._forward(normalised(x, self.normalize))
        slack = _SLACK.get(z.dtype, 1e-3)
        z = z.float()
        # told once, so that no later batch is read in another way
        if self.logits is None: self.logits = not is_distribution(z, slack)
        if self.logits:
            _need_finite(z, 'logits')
            return z.softmax(1)
        need_rows(z, slack)
        return z

class LearnerVictim:
    "The network of a Learner behind its own Normalize, as it predicts"
    gradient = True
    def __init__(self, learn):
        self.learn,self.model = learn,learn.model
        space = pixel_space(learn.dls)
        self.normalize = None if space.mean is None else (space.mean, space.std)
        self.at_rest = AtRest(learn, 'BlackBox')
        self.act = getattr(learn.loss_func, 'activation', None)

    @property
    def device(self):
        "Where its parameters are"
        p = next(self.model.parameters(), None)
        return torch.device('cpu') if p is None else p.device

    def rest(self): return self.at_rest

    def rows(self, x):
        "Probabilities (n,k) by the activation of its loss, or by softmax"
        z = self.at_rest.logits(normalised(x, self.normalize))
        _need_finite(z, 'logits')
        p = self.act(z).as_subclass(Tensor) if callable(self.act) else z
        if p.shape == z.shape and is_distribution(p): return p
        if p.shape == z.shape and not torch.equal(p, z):
            raise ValueError("expected a learner with one right class a clip, got "
                             f"{self.learn.loss_func!r}, whose activation gives no probabilities "
                             "that sum to 1. Train with CrossEntropyLossFlat.")
        return z.softmax(1)

class FunctionVictim:
    "A function of numpy clips (n,c,t,h,w) that returns probabilities"
    gradient,device = False,torch.device('cpu')
    def __init__(self, f, normalize=None): self.f,self.normalize = f,normalize

    @contextmanager
    def rest(self):
        "Random streams go on from where they were"
        with keep_random(), torch.no_grad(): yield self

    def rows(self, x):
        "Probabilities (n,k)"
        # a copy: the function may write into what it gets
        a = normalised(x.float().cpu(), self.normalize).numpy().copy()
        p = self.f(a)
        if not isinstance(p, Tensor):
            rows = np.asarray(p)
            if rows.dtype.kind in 'fiub': p = torch.as_tensor(rows)
        p = need_table(p, len(x), 'probabilities').detach().cpu()
        slack = _SLACK.get(p.dtype, 1e-3)
        p = p.float()
        need_rows(p, slack)
        return p

def victim_of(f, normalize=None):
    "The way to ask `f`"
    need_normalize(normalize)
    if isinstance(f, Learner):
        if normalize is not None:
            raise ValueError("expected no `normalize` with a Learner, got one: its own Normalize "
                             "is used. Give learn.model to use another.")
        return LearnerVictim(f)
    if isinstance(f, nn.Module): return ModuleVictim(f, normalize)
    if callable(f) and not isinstance(f, type): return FunctionVictim(f, normalize)
    raise TypeError("expected a network, a Learner or a function of numpy clips (n,c,t,h,w), got "
                    f"{shown(f)}. Give what answers with probabilities.")
