"Model surgery that can be undone in any order: two networks as one, heads on the side, copies that start elsewhere"
import copy
from typing import NamedTuple
import torch
from torch import nn

__all__ = []

class AuxOut(NamedTuple):
    """What a network with more to say returns in training: main logits (bs,c), and a tuple of auxiliary ones (bs,c) and
    of what wrappers saw inside, tuples of tensors with images first"""
    main: object
    aux: tuple

# torch quotes it where a file and a network differ by what a technique adds
_NOTE = ': load with strict=False to go without it'

def without(
    state,  # state_dict of a network under surgery
    cls     # Class of the wrapper that came off
):
    "`state` without what wrappers of class `cls` added"
    mark = f'{cls.__name__} of '
    return {k: v for k,v in state.items() if not k.startswith(mark) and '.'+mark not in k}

class Surgery(nn.Module):
    """Base of the wrappers techniques put around a model; they nest, and come off in any order. In a `state_dict` the
    network that stays has its own names, and what a wrapper adds is marked with who added it"""
    # Whether a wrapped network predicts what the wrapper does, so that `strip` may take it out
    plain = True
    by = 'a technique'  # Which one put it there
    def inner(self, i=0):
        "The wrapped network that stays when the wrapper comes off; of two networks the `i`-th"
        return self.net

    def groups(self, split):
        "Parameter groups; `split` gives those of a wrapped network. As many as before, each parameter once"
        return split(self.net)

    def _prefixes(self, prefix):
        "How names begin: torch's of the network that stays, and in files those of what is added"
        inner = self.inner()
        at = next(k for k,m in self.named_modules() if m is inner)
        return f'{prefix}{at}.',f'{prefix}{type(self).__name__} of '

    def state_dict(self, *, prefix='', **kwargs):   # type: ignore[override]  # torch's own takes `*args` no more
        state = super().state_dict(prefix=prefix, **kwargs)
        inside,mark = self._prefixes(prefix)
        keys = [k for k in state if k.startswith(prefix)]
        if not all(k.startswith(inside) for k in keys): state[mark+self.by+_NOTE] = torch.empty(0)
        for k in keys:
            if k.startswith(inside): name = prefix + k.removeprefix(inside)
            else: name = f'{mark}{self.by}.{k.removeprefix(prefix)}'
            state[name] = state.pop(k)
        return state

    def _load_from_state_dict(self, state, prefix, local_metadata, strict, missing, *args):
        inside,mark = self._prefixes(prefix)
        note = next((k for k in self.state_dict(prefix=prefix) if k.startswith(mark)), None)
        keys = [k for k in state if k.startswith(prefix)]
        if note is not None and not any(k.startswith(mark) for k in keys): missing.append(note)
        for k in keys:
            v = state.pop(k)
            _,_,added = k.removeprefix(mark).partition('.')     # nothing of the note
            if not k.startswith(mark): state[inside + k.removeprefix(prefix)] = v
            elif added: state[prefix+added] = v
        super()._load_from_state_dict(state, prefix, local_metadata, strict, missing, *args)

class Pair:
    "Two predictions that fastai's RNNCallback takes for one"
    def __init__(self, zs): self.zs = zs
    def __iter__(self): return iter(self.zs)

class Twin(Surgery):
    "Two networks as one: both predictions in training, the mean of their logits in evaluation"
    def __init__(self,
        a,  # A network
        b   # One of the same outputs and other parameters
    ):
        super().__init__()
        self.nets = nn.ModuleList([a, b])

    def inner(self, i=0): return self.nets[i]
    def forward(self, *xs):
        zs = tuple(net(*xs) for net in self.nets)
        # what fastai's recurrent networks return beside logits
        more = zs[0][1:] if type(zs[0]) is tuple else ()
        if more: zs = tuple(z[0] for z in zs)
        if not self.training: z = (zs[0]+zs[1])/2
        else: z = Pair(zs) if more else zs
        return (z, *more) if more else z

    def groups(self, split):
        pairs = zip(*map(split, self.nets))
        return [list(a)+list(b) for a,b in pairs]

    def reset(self):
        "What fastai asks of recurrent networks before every epoch"
        for net in self.nets:
            if hasattr(net, 'reset'): net.reset()

def looks_trained(model):
    "Whether a normalisation layer of `model` has seen training"
    for m in model.modules():
        n = getattr(m, 'num_batches_tracked', None)
        if n is not None and n > 0: return True
        w = getattr(m, 'weight', None)
        is_row = isinstance(w, nn.Parameter) and w.ndim == 1 and len(w) > 1
        if is_row and (w != w[0]).any(): return True
    return False

def is_random(model):
    "Whether a network has parameters, and none of them looks trained"
    return next(model.parameters(), None) is not None and not looks_trained(model)

def kept_results(model):
    "Copies of what a network keeps of a forward pass, as AWD_LSTM its dropped-out weights, as memo of `copy.deepcopy`"
    kept = [v for m in model.modules() for v in vars(m).values() if isinstance(v, torch.Tensor)]
    return {id(v): v.detach().clone() for v in kept if not v.is_leaf}

def copy_net(model):
    "`copy.deepcopy`, also of networks that keep results of a forward pass"
    return copy.deepcopy(model, kept_results(model))

def fresh_copy(
    model,      # A network; it is left as it is
    params=None # The parameters of `model` to draw anew; None: all
):
    "A copy that starts elsewhere: the entries of each tensor permuted, as likely under any i.i.d. initialisation"
    new = copy_net(model)
    # fixed: it permutes numbers that a seed has drawn
    g = torch.Generator().manual_seed(1)
    only = None if params is None else {id(p) for p in params}
    with torch.no_grad():
        for p,q in zip(model.parameters(), new.parameters()):
            if only is not None and id(p) not in only: continue
            order = torch.randperm(p.numel(), generator=g).to(p.device)
            q.copy_(p.flatten()[order].view_as(p))
    return new

def has_surgery(model): return any(isinstance(m, Surgery) for m in model.modules())

def unwrap(model, cls=Surgery, i=0):
    "`model` without the wrappers of class `cls`, also those inside other wrappers; of two networks the `i`-th"
    while isinstance(model, cls): model = model.inner(i)
    for k,m in model.named_children():
        new = unwrap(m, cls, i)
        if new is not m: setattr(model, k, new)
    return model

def wrap_each(model, make):
    "`make` around a model, or around each of two networks"
    if not (isinstance(model, Surgery) and hasattr(model, 'nets')): return make(model)
    for i,net in enumerate(model.nets): model.nets[i] = make(net)
    return model

class SurgeonSplit:
    "A splitter for models under surgery: `base` splits what is inside, the wrappers add their own parameters"
    def __init__(self, base): self.base = base
    def __call__(self, model):
        if isinstance(model, Surgery): return model.groups(self)
        # fastai's default splitter gives one flat list of parameters
        groups = list(self.base(model))
        if groups and isinstance(groups[0], nn.Parameter): return [groups]
        return [list(g) for g in groups]
