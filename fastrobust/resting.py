"What a look at a network or at data must not leave behind: random streams, training modes and gradients as they were"
from contextlib import contextmanager
import torch
from fastai.torch_core import get_random_states, set_random_states

__all__ = []

@contextmanager
def keep_random():
    "Whatever is drawn inside, the random streams of Python, NumPy and torch go on from where they were"
    states = get_random_states()
    try: yield
    finally: set_random_states(**states)

@contextmanager
def at_rest(model):
    "`model` in evaluation mode, without gradients; the mode of each of its modules and all random streams come back"
    modes = [(m, m.training) for m in model.modules()]
    try:
        with keep_random(), torch.no_grad():
            model.eval()
            yield model
    finally:
        for m,training in modes: m.training = training
