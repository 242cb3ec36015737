"Data and learners small enough to train in a tenth of a second"
import numpy as np
import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.imports import noop
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.torch_core import set_seed
from fastrobust.data.fromarrays import array_dls
from fastrobust.nets import small_cnn
from fastrobust.training.stages import Batch

__all__ = []

def tiny_arrays(
    n=48,       # Images
    c=3,        # Classes
    size=8,     # Height and width in pixels
    channels=1, # 1 or 3
    seed=0      # Of pixels and labels
):              # (uint8 images, int labels)
    "Random images with random labels"
    g = np.random.default_rng(seed)
    shape = (n, size, size) if channels == 1 else (n, size, size, channels)
    return g.integers(0, 256, shape, dtype=np.uint8),g.integers(0, c, n)

def tiny_dls(
    n=48,       # Training images; 24 more are for validation
    c=3,        # Classes, each with an image at least
    size=8,     # Height and width in pixels
    channels=1, # 1 or 3
    bs=16,      # Batch size
    **kwargs    # More for `array_dls`
):
    "Loaders of `tiny_arrays` on the CPU, the same at each call"
    set_seed(7)     # a loader draws its own stream when it is made
    X,y = tiny_arrays(n, c, size, channels)
    Xv,yv = tiny_arrays(24, c, size, channels, seed=1)
    y[:c],yv[:c] = np.arange(c),np.arange(c)
    return array_dls(X, y, valid=(Xv, yv), bs=bs, device='cpu', **kwargs)

def tiny_learner(
    cbs=None,       # Techniques and callbacks
    dls=None,       # None: `tiny_dls()`
    norm=None,      # Of `small_cnn`: None or 'bn'
    seed=3,         # Of the weights
    loss_func=None, # None: cross-entropy
    path=None,      # Where it saves and exports
    net=None,       # Function (classes, channels) -> its network; None: a `small_cnn`
    **kwargs        # More for Learner
)->Learner:
    "A learner that prints nothing, its seed set last"
    dls = tiny_dls() if dls is None else dls
    set_seed(seed, reproducible=True)
    channels = dls.train.dataset.items.x.shape[1]
    if net is None: model = small_cnn(len(dls.vocab), channels, width=8, norm=norm, depth=2)
    else: model = net(len(dls.vocab), channels)
    loss = loss_func or CrossEntropyLossFlat()
    learn = Learner(dls, model, loss_func=loss, metrics=accuracy, cbs=cbs, **kwargs)
    if path: learn.path = path
    learn.remove_cb(learn.progress)
    learn.logger = noop
    return learn

def params(
    learn   # A Learner
):
    "All weights of its network in one row"
    return torch.cat([p.detach().flatten() for p in learn.model.parameters()])

def live(
    obj,            # The `Objective` of a learner
    *techniques     # Of the same learner
):
    "`obj` as it is between prediction and loss of a training batch with these techniques"
    obj.stages,obj.batch = techniques,Batch(1)
    obj.batch.live,obj.batch.heads = True,[None]
    return obj.train()

class _Look(Callback):
    "Takes a training batch's prediction and loss before the backward pass, and ends the fit"
    def before_backward(self):
        self.seen = self.pred.detach().clone(),self.y.clone(),self.loss_grad.detach().clone()
        raise CancelFitException

def first_batch(
    learn   # A new Learner: its weights do not change, statistics of BatchNorm and memories of techniques do
):          # (logits (bs,c), of two networks their mean; labels (bs,); the loss with all penalties)
    "What a fit sees in its first training batch, to be compared with a formula worked out by hand"
    look = _Look()
    learn.fit(1, cbs=look)
    return look.seen

class Raise(Callback):
    "Raises an exception in the second training batch"
    order = 40
    def __init__(self,
        ex,                 # The exception
        event='after_loss'  # Where
    ):
        super().__init__()
        setattr(self, event, self.go)
        self.ex = ex
    def go(self):
        if self.training and self.iter == 1: raise self.ex
