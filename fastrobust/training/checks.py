"Which techniques go together, and what data they are defined for"
import numpy as np
import torch
from torch import nn
from fastai.callback.core import event
from fastai.callback.mixup import MixHandler
from fastai.losses import LabelSmoothingCrossEntropy
from fastrobust.basics import check_weight, plain_dl, robust_warn, said_once
from fastrobust.losses import RobustLoss
from fastrobust.training.objective import inner_loss
from fastrobust.training.stages import Stages, has_penalty, own

__all__ = []

STAGES = ('rows', 'heads', 'logits', 'targets', 'base', 'sample_loss', 'weights', 'norm',
          'penalty', 'penalty_of', 'update')
_events = [o for o in vars(event) if o[0] != '_']

def check(
    learn   # A Learner with techniques
):
    """Raise or warn about combinations of techniques that do not work or do nothing. It is asked when a learner is made
    and at every fit, and warns of each once"""
    with said_once(learn.objective.said): _check(learn)

def _check(learn):
    ts = learn.objective.techniques()
    def names(stage): return [t.name for t in ts if own(t, stage)]
    _one_of_a_kind(ts)
    sizes = [t.name for t in ts if own(t, 'logits') and t.scales]
    if len(sizes) > 1:
        robust_warn(f"{' and '.join(sizes)} both change the logits; the later one undoes the "
                    "earlier.")
    mix = [cb for cb in learn.cbs if isinstance(cb, MixHandler)]
    picky = [t.name for t in ts if t.remembers or own(t, 'weights') or own(t, 'sample_loss')]
    if mix and picky:
        verb = 'judges' if len(picky) == 1 else 'judge'
        raise ValueError(f"{', '.join(picky)} {verb} each item by its one label, {mix[0]} gives "
                         "every image two. Remove one of them.")

    base = learn.objective.loss_obj.base
    if isinstance(base, nn.Module) and any(p.requires_grad for p in base.parameters()):
        robust_warn(f"{base} has parameters of its own, which no optimizer trains. Move them into "
                    "the model.")
    if names('targets') and not isinstance(base, RobustLoss):
        raise ValueError(f"{', '.join(names('targets'))} turn labels into probabilities, which "
                         f"{base} does not take. Use a loss of fastrobust.losses, such as "
                         "CrossEntropy().")

    _check_terms([t for t in ts if has_penalty(t)])
    for t in ts:
        if has_penalty(t): check_weight(f'{t.name}.weight', t.weight, 'remove it with `remove_cb`')
        if not _acts(t):
            robust_warn(f"{t.name} overrides no stage and no event, so it does nothing. Stages: "
                        f"{', '.join(STAGES)}.")
        t.check(learn)

def _one_of_a_kind(ts):
    "Refuse two techniques that do what only one can"
    does = {'train two networks': [t.name for t in ts if own(t, 'heads')],
            'bring their own base loss': [t.name for t in ts if own(t, 'base')]}
    for t in ts:
        if t.exclusive: does.setdefault(t.exclusive, []).append(t.name)
    for what,names in does.items():
        if len(names) > 1:
            raise ValueError(f"{' and '.join(names)} both {what}: keep one, remove the other with "
                             "`remove_cb`.")

def _check_terms(ts):
    "Penalties of the same name"
    columns = [t.column for t in ts]
    for k in set(columns):
        if columns.count(k) > 1:
            both = ' and '.join(t.name for t in ts if t.column == k)
            raise ValueError(f"{both} both add the term `{k}`: keep one, remove the other with "
                             "`remove_cb`.")

def _acts(t):
    if any(own(t, o) for o in STAGES) or t.surgery: return True
    return any(hasattr(t, o) for o in _events)

# --- what a technique asks about its company ------------------------------------------------------
def training_loss(
    learn   # A Learner
):
    "The loss of training batches, out of fastai's wrapper: a technique's own, or the learner's"
    loss = inner_loss(learn.loss_func)
    for t in learn.cbs:
        if isinstance(t, Stages) and own(t, 'base'): loss = t.base_loss
    return getattr(loss, 'func', loss)

def class_weights(
    learn   # A Learner with techniques
):          # (c,) float64 on the CPU, or None
    "Class weights of the loss that trains"
    w = getattr(training_loss(learn), 'weight', None)
    if not isinstance(w, torch.Tensor) or w.ndim != 1: return None
    return w.detach().cpu().double()

def smoothing(
    learn   # A Learner with techniques
):
    "Share of the label that the loss that trains spreads over all classes, in [0,1]"
    loss = training_loss(learn)
    if isinstance(loss, LabelSmoothingCrossEntropy): return loss.eps
    given = getattr(getattr(loss, 'f', None), 'keywords', {})   # of a partial in a `FuncLoss`
    return getattr(loss, 'label_smoothing', given.get('label_smoothing', 0.))

def draw_weights(
    dl  # The training loader
):      # (n,) float64 of mean 1, or None
    "How often it draws each item beside the others, as `weighted_dls` and fastai's `WeightedDL` do"
    w = getattr(plain_dl(dl), 'wgts', None)
    if w is None: return None
    w = np.asarray(w, dtype=np.float64)
    return w/w.mean()

def draws_by_weight(
    dl  # The training loader
):
    "Whether it draws some items more often than others"
    w = draw_weights(dl)
    return w is not None and bool((w != w[0]).any())

# --- the first batch ------------------------------------------------------------------------------
def _one_label(yb):
    "Whether the targets are one whole number an item"
    if len(yb) != 1: return False
    y = yb[0]
    if y.is_floating_point() or y.ndim > 2: return False
    return y.ndim < 2 or y.shape[1] <= 1

def check_batch(obj, xb, yb):
    "The first batch of a fit: is it what the techniques are defined for?"
    for t in obj.stages:
        if own(t, 'rows') and len(xb) != 1:
            raise ValueError(f"{t.name} adds images to the batch and expects one input, got "
                             f"{len(xb)}. Use it on single-input dls.")
        if t.tasks and not _one_label(yb):
            got = [tuple(o.shape) for o in yb]
            raise ValueError(f"{t.name} is defined for {' and '.join(t.tasks)} classification (one "
                             f"integer label an item), got targets of shape {got}. Remove it, or "
                             "use a CategoryBlock.")
