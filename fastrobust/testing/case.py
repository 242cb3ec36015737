"A technique under test, and the small tools of the clauses"
from contextlib import contextmanager
from torch import nn
from fastrobust.basics import shown
from fastrobust.testing.tiny import tiny_learner
from fastrobust.training.technique import Technique

__all__ = []

class Case:
    "A technique under test, and what its clauses need to know"
    def __init__(self,
        T,                  # The class
        make=None,          # Function (**settings) -> a new one; None: the class with its defaults
        *,
        plain=None,         # Function -> one that `strip` can write; None: `make`
        colour=None,        # Function -> one for images of 3 channels; None: `make`
        net=None,           # Function (classes, channels) -> a network it is for, of 8x8 images; None: a `small_cnn`
        weight=None,        # Name of the parameter that weighs its penalty, None: it has none
        deterministic=False # Nothing random, and items judged alone: batches of 4 add up to one of 16
    ):
        if not (isinstance(T, type) and issubclass(T, Technique)):
            raise TypeError(f"expected a subclass of Technique, got {T!r}. Pass the class, and how "
                            "to make one as `make=lambda **kw: MyTechnique(tau=.5, **kw)`.")
        # a technique can be called too: it is an object that fastai sends events to
        if isinstance(make, Technique) or not (make is None or callable(make)):
            raise TypeError(f"expected a function that makes a {T.__name__}, got {make!r}. Pass "
                            f"`make=lambda **kw: {T.__name__}(.., **kw)`.")
        self.T,self.make = T,make or T
        self.plain,self.colour = plain or self.make,colour or self.make
        if not (net is None or callable(net)) or isinstance(net, nn.Module):
            raise TypeError(f"expected a function that makes a network, got {shown(net)}. Pass `net=lambda classes, "
                            "channels: ..`.")
        self.net,self.weight,self.deterministic = net,weight,deterministic

    def learner(self, cbs=None, **kwargs):
        "`tiny_learner` with a network that the technique is for"
        return tiny_learner(cbs, net=self.net, **kwargs)

    def of(self, learn):
        "The technique of a learner"
        return next(c for c in learn.cbs if isinstance(c, self.T))

@contextmanager
def refused(kind, says):
    "Within `with`: what raises `kind` with `says` in its message"
    try: yield
    except kind as e:
        assert says in str(e), f"expected {says!r} in the message, got: {e}"
    else: raise AssertionError(f"expected {kind.__name__} with {says!r}, nothing was raised")

def train(case, dls=None, cbs=None, make=None, **kwargs):
    "A tiny learner with the technique, fitted for an epoch"
    learn = case.learner((make or case.make)(), dls=dls, **kwargs)
    learn.fit(1, cbs=cbs)
    return learn
