"Model surgery that can be undone in any order, and small networks for teaching"
from typing import NamedTuple
from torch import nn

__all__ = ['Surgery', 'AuxOut', 'SurgeonSplit', 'unwrap', 'wrap_each', 'has_surgery', 'small_cnn']

class AuxOut(NamedTuple):
    "What a network with auxiliary heads returns in training: main logits (bs,c) and the list of auxiliary ones"
    main: object
    aux: tuple

class Surgery(nn.Module):
    "Base of the wrappers techniques put around a model; they nest, and come off in any order"
    def inner(self, i=0):
        "The wrapped network that stays when the wrapper comes off; of two networks the `i`-th"
        return self.net

    def groups(self, split):
        "Parameter groups; `split` gives those of a wrapped network. As many as before, each parameter once"
        return split(self.net)

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
    if not hasattr(model, 'nets'): return make(model)
    for i,net in enumerate(model.nets): model.nets[i] = make(net)
    return model

class SurgeonSplit:
    "A splitter for models under surgery: `base` splits what is inside, the wrappers add their own parameters"
    def __init__(self, base): self.base = base
    def __call__(self, model):
        if isinstance(model, Surgery): return model.groups(self)
        groups = list(self.base(model))     # fastai's default splitter gives one flat list of parameters
        return [groups] if groups and isinstance(groups[0], nn.Parameter) else [list(g) for g in groups]

def small_cnn(
    n_out:int,          # Number of classes
    n_in:int=1,         # Channels of the images
    width:int=32,       # Channels of every convolution
    norm:str|None='bn', # 'bn', 'gn' (GroupNorm, 8 groups) or None
    depth:int=4         # Convolutions; each of the first four halves the image
):
    "A plain convolutional net of torch layers only, for 28-64 px images: learns in a minute on a CPU"
    norms = dict(bn=lambda: nn.BatchNorm2d(width), gn=lambda: nn.GroupNorm(8, width))
    if norm not in (None, *norms): raise ValueError(f"`norm` must be 'bn', 'gn' or None, got {norm!r}.")
    layers = []
    for i in range(depth):
        layers += [nn.Conv2d(width if i else n_in, width, 3, stride=2 if i < 4 else 1, padding=1, bias=norm is None)]
        layers += [norms[norm]()] if norm else []
        layers += [nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, n_out))
