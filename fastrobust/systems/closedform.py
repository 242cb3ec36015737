"The last layer of a classifier, solved in one pass over the training data: no epoch, no learning rate"
from typing import NamedTuple
import torch
from torch import nn
from fastrobust.basics import n_classes, need_learner, plain_dl, robust_warn
from fastrobust.calibration.temperature import temperature_of, untemper
from fastrobust.inference.analytic import AnalyticHead
from fastrobust.inference.features import Rows, fill, need_vectors
from fastrobust.inference.normal import need_gamma
from fastrobust.inference.passes import AtRest
from fastrobust.inference.rows import scaling_of
from fastrobust.inference.tap import feature_tap, first_images
from fastrobust.systems.bases.leftout import left_out
from fastrobust.training.surgery import has_surgery, is_random, looks_trained

__all__ = ['closed_form_head']

_HEADS = 'auto','last','pool'

class ClosedForm(NamedTuple):
    "What `closed_form_head` found; it is in `learn.closed_form`"
    gamma:float     # Penalty
    T:float         # Temperature that the weights were divided by
    accuracy:float  # Leave-one-out accuracy on the training labels as they are given
    n:int           # Training items
    d:int           # Features
    fresh:bool      # Is the layer on a body's pooled features, or on those of a whole trained network?

    def __str__(self):
        seen = '' if self.fresh else ' (of this layer: the layers below may know the items)'
        return (f'closed-form head on {self.n} items, {self.d} features: gamma={self.gamma:.4g}, '
                f'T={self.T:.4g}, leave-one-out accuracy on the given labels {self.accuracy:.3f}{seen}')

# --- the layer and its features -------------------------------------------------------------------
class _Solved(NamedTuple):
    "A layer to solve for, what gives its features, and the head that is to replace fastai's if one is"
    layer:nn.Linear
    body:object
    head:nn.Module|None = None

class _Tapped:
    "What the last linear layer is given, as function of a batch"
    def __init__(self, model, tap): self.model,self.tap = model,tap
    def __call__(self, x):
        self.model(x)
        return self.tap.features(len(x))

def _is_fresh(model):
    "Whether `model` is a body and fastai's head with hidden layers, and the head has seen no training"
    if not isinstance(model, nn.Sequential) or len(model) != 2: return False
    linear = [m for m in model[1].modules() if isinstance(m, nn.Linear)]
    return len(linear) > 1 and not looks_trained(model[1])

def _pooled(learn, c):
    "`_Solved` with pooling and one layer in place of the head"
    body = learn.model[0]
    with AtRest(learn, 'closed_form_head') as rest:
        x = rest.place(first_images(learn, learn.dls.train, 'closed_form_head', 2))
        f = body(x)
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()] if f.ndim == 4 else []
    with torch.no_grad(): f = nn.Sequential(*pool)(f) if pool else f
    f = need_vectors(f, len(x), 'closed_form_head')
    layer = nn.Linear(f.shape[1], c, device=f.device, dtype=next(learn.model.parameters()).dtype)
    return _Solved(layer, nn.Sequential(body, *pool), nn.Sequential(*pool, layer))

def _last(learn, tap, c):
    "`_Solved` of the last linear layer as it is"
    if tap is None or type(tap.layers[0]) is not nn.Linear:
        raise ValueError("expected a network whose logits come out of a plain nn.Linear, got one "
                         "where they do not: there is no layer to solve for. For fastai's body and "
                         "head: head='pool'.")
    layer = tap.layers[0]
    if layer.out_features != c:
        raise ValueError(f"expected a last layer with {c} outputs, one for each class of the dls, "
                         f"got {layer.out_features}.")
    return _Solved(layer, _Tapped(learn.model, tap))

def _check(learn, gamma, head):
    need_learner(learn)
    if gamma != 'auto': need_gamma(gamma)
    if head not in _HEADS:
        raise ValueError(f"`head` must be one of {', '.join(map(repr, _HEADS))}, got {head!r}.")
    if head == 'pool' and not (isinstance(learn.model, nn.Sequential) and len(learn.model) == 2):
        raise ValueError("expected fastai's body and head for head='pool', an nn.Sequential of two, "
                         f"got {type(learn.model).__name__}. Take head='last'.")
    if any(isinstance(m, AnalyticHead) for m in learn.model.modules()):
        raise ValueError("expected a network with a linear layer to solve for, got one whose head is in "
                         "closed form already.")
    if has_surgery(learn.model):
        raise ValueError("expected one plain network, got one that a technique has changed. Solve "
                         "the head before training with it, or take strip(learn).")
    if not getattr(plain_dl(learn.dls.train), 'n', None):
        raise ValueError("expected training items, got none: an exported learner has lost them. "
                         "Give it dls first, `learn.dls = dls`.")

# --- solved and put in ----------------------------------------------------------------------------
def _weights(head, T, vocab_size, biased):
    "(weight (c,d), bias (c,)) of a linear layer on plain features that gives the head's scores over T"
    mean,std = head.scaling
    W,b = head.W/std[:, None],head.b
    b = b - mean @ W
    out_W,out_b = torch.zeros(vocab_size, head.d, dtype=W.dtype),torch.full((vocab_size,), -1., dtype=W.dtype)
    out_W[head.classes],out_b[head.classes] = W.T,b
    return out_W/T,out_b/T if biased else None

def _put_in(learn, solved, weights):
    "Everything is computed: the learner changes now"
    W,b = weights
    layer,head = solved.layer,solved.head
    # of the layer as it was
    if temperature_of(learn) is not None: untemper(learn)
    with torch.no_grad():
        layer.weight.copy_(W)
        if b is not None: layer.bias.copy_(b)
    frozen = getattr(learn.opt, 'frozen_idx', None)
    if head is not None: learn.model[1] = head
    if learn.opt is None: return
    if head is None: learn.opt.clear_state()
    else:
        learn.create_opt()
        if frozen: learn.freeze_to(frozen)

def closed_form_head(
    learn,          # A Learner that classifies images; its last linear layer is changed
    gamma='auto',   # Penalty > 0 on standardised features; 'auto': by generalised cross-validation
    *,
    balance=False,  # Each class as much as every other? For rare classes
    # 'last': the last nn.Linear, on what it is given now. 'pool': fastai's head is replaced by
    # average pooling and one layer. 'auto': 'pool' for a head with hidden layers that has not been
    # trained (on random layers there is little to solve), else 'last'
    head='auto',
    verbose=True    # Print a line about what was found?
):
    """Solve the last linear layer in one pass over `learn.dls.train`, not augmented, labels as given. The penalty is by
    generalised cross-validation, the temperature by leave-one-out on these labels: where many are wrong, the confidence
    is too low. `learn.predict` works at once. `fine_tune(3, 1e-4, cbs=KeepBN())` goes on from there (linear probe, then
    fine-tuning: https://arxiv.org/abs/2202.10054): without KeepBN even a rate of 0 undoes much of it, as batch-norm
    statistics move while it trains; at fastai's default rate wrong labels come back (nbs/benchmarks/RESULTS.md)"""
    _check(learn, gamma, head)
    c = n_classes(learn.dls)
    dl = plain_dl(learn.dls.train)
    fresh = head == 'pool' or (head == 'auto' and _is_fresh(learn.model))
    rows = Rows(len(dl.dataset))
    if fresh:
        solved = _pooled(learn, c)
        if is_random(learn.model[0]):
            robust_warn("the body has not been trained: its features are random. Take a pretrained "
                        "one.")
        fill(rows, learn, solved.body, dl, who='closed_form_head')
    else:
        tap = feature_tap(learn, dl)
        solved = _last(learn, tap, c)
        with tap: fill(rows, learn, solved.body, dl, who='closed_form_head')

    biased = solved.layer.bias is not None
    mean,std = scaling_of(rows.f)
    # without a bias nothing can be subtracted
    scaling = (mean if biased else torch.zeros_like(mean)),std
    ridge = AnalyticHead(rows.f.shape[1], None, gamma, standardise=scaling, intercept=biased,
                         balance=balance)
    ridge.fit(rows.f, rows.y)
    left = left_out(ridge, rows)
    T = left.T
    _put_in(learn, solved, _weights(ridge, T, c, biased))
    learn.closed_form = ClosedForm(ridge.gamma_, T, left.accuracy, rows.n, ridge.d, fresh)
    if verbose: print(f'fastrobust: {learn.closed_form}')
    return learn
