"A network that in training also gives what a technique wants to know of its inside"
from typing import NamedTuple
import torch
from fastrobust.training.surgery import AuxOut, Surgery

__all__ = []

class Kept(NamedTuple):
    "Which patches a network saw that was given some of them"
    keep:torch.Tensor   # Positions among the patches (b,k), int64, rising

class Inside(Surgery):
    """Base of wrappers that look into a network

    In training it returns `AuxOut` with what `look` gives beside the output, in evaluation the
    output alone. Hooks last as long as a forward pass, so that nothing hangs on a Ctrl-C."""
    # Is its output not used? It has no gradient then, and several processes do not wait for one
    alone = False
    def __init__(self,
        net     # The network
    ):
        super().__init__()
        self.net = net

    def look(self,
        *xb     # The network's inputs
    ):          # (its output, a NamedTuple of tensors with images first)
        "A forward pass, and what was seen in it"
        raise NotImplementedError(f'{type(self).__name__}.look')

    def forward(self, *xb):
        if not self.training: return self.net(*xb)
        out,seen = self.look(*xb)
        main,aux = out if isinstance(out, AuxOut) else (out, ())
        if self.alone: main = main.detach()
        return AuxOut(main, (*aux, seen))

    def own(self):
        "Parameters of the wrapper itself, such as those of a decoder"
        inner = {id(p) for p in self.net.parameters()}
        return [p for p in self.parameters() if id(p) not in inner]

    def groups(self, split):
        *body,head = [list(g) for g in split(self.net)]
        return [*body, head + self.own()]

def seen_of(
    aux,    # Of `HeadLogits`
    kind    # Class of what is looked for
):          # None: it is not there
    "What a wrapper saw"
    return next((o for o in aux if isinstance(o, kind)), None)

def wrappers(model, kind):
    "The wrappers of class `kind` around a network or, of two networks, around each"
    return [m for m in model.modules() if isinstance(m, kind)]

class Unlabelled(torch.nn.Module):
    "The loss of images without labels: nothing. Techniques alone decide, in validation too"
    reduction = 'mean'
    def forward(self, pred, *yb):
        if self.reduction == 'none': return pred.new_zeros(len(pred))
        return pred.new_zeros(())
    def __repr__(self): return 'Unlabelled()'
