"A teacher in the hands of a technique: a plain network, in no file, one for all copies"
from contextlib import contextmanager
import torch
from torch import nn
from fastai.learner import Learner
from fastrobust.basics import is_whole, shown
from fastrobust.systems.tinymim.vits import bare
from fastrobust.training.surgery import copy_net, has_surgery, unwrap

__all__ = []

def plain_net(what, name='teacher'):
    "The network of a Learner, which stays as it is, or the network itself"
    net = what.model if isinstance(what, Learner) else what
    if not isinstance(net, nn.Module):
        raise TypeError(f"expected `{name}` to be a network or a Learner, got {shown(what)}. By "
                        f"name: tinymim_learner(dls, .., {name}='vit_base_patch16_224.mae').")
    net = bare(net)
    net = getattr(net, '_orig_mod', net)    # of torch.compile
    if has_surgery(net): net = unwrap(copy_net(net))
    return net

def need_size(name, v):
    "(height, width) of a size in pixels; None stays"
    if v is None: return None
    both = tuple(v) if isinstance(v, (list, tuple)) else (v, v)
    if len(both) == 2 and all(is_whole(o) and o > 0 for o in both): return tuple(map(int, both))
    raise ValueError(f"`{name}` must be a whole number of pixels from 1 on, or (height, width), "
                     f"got {v!r}. The student's own size: None.")

class Held:
    "A teacher: copies share it, files have none"
    def __init__(self,
        net=None,   # The network
        space=None  # `PixelSpace` of the images it learned from; None: the student's
    ): self.net,self.space = net,space

    def __deepcopy__(self, memo): return self
    def __reduce__(self): return Held,()

@contextmanager
def asking(net):
    "`net` in evaluation mode without gradients; unlike `at_rest` it costs nothing"
    modes = [m for m in net.modules() if m.training]
    try:
        for m in modes: m.training = False
        with torch.no_grad(): yield
    finally:
        for m in modes: m.training = True
