"`acil_learner`: class-incremental learning on any fastai vision data and any body, in one call"
import copy
from fastrobust.basics import n_classes
from fastrobust.data.phases import class_phases
from fastrobust.inference.analytic import AnalyticHead
from fastrobust.inference.bodies import body_of
from fastrobust.inference.anyarch import add_norm
from fastrobust.pixels import peek_images
from fastrobust.systems.acil.learner import ACILLearner
from fastrobust.systems.acil.net import PhaseNet, groups

__all__ = ['acil_learner']

_HEAD = 'act','init','standardise','intercept','balance'

def acil_learner(
    dls,                # DataLoaders with one single-label target; given (noisy) labels are learned
    # Body: torchvision function, timm name, nn.Module (its last linear layer is left out, it is
    # copied) or a fitted Learner
    arch,
    base=.5,            # Classes of the base: a share, a number or a list of names; see `class_phases`
    phases=5,           # Phases after it: a number, or a list of lists of names
    order=None,         # Of the classes: None, drawn with `seed`; 'vocab'; or a list
    # Random features (the paper's code: 8192), or a buffer such as GaussianBuffer(512). None: the
    # body's own, with an intercept unless `intercept=False`: as good on the one pretrained body that
    # was measured (MobileNetV2, 1,280 features), in a quarter of the time
    m=2048,
    gamma='auto',       # Penalty > 0; 'auto': by generalised cross-validation
    seed=0,             # Of the order and the random features
    *,
    blurry=0.,          # Share of items that come in another phase than their class; see `class_phases`
    pretrained=True,    # With the weights that come with a function or name?
    weights=None,       # Which: a member or name of torchvision's, or the path of a state_dict
    normalize=True,     # Add Normalize with the statistics of the pretrained weights, where `dls` have none?
    head=None,          # AnalyticHead or DualAnalyticHead of your own; None: one of `m`, `gamma`, `seed`
    # For the head: act, init, standardise, intercept, balance; for Learner: metrics, loss_func, cbs, ..
    **kwargs
)->ACILLearner:
    """Learner of classes that come in phases (ACIL, https://arxiv.org/abs/2205.14922): `fit_base` trains the body on
    the base, or a pretrained one stays as it is (RanPAC without its first adaptation, arXiv 2307.02251). `fit_phases`
    learns all classes, each item once. For a given base, whose mean and std scale the features, the head is that of
    all items at once, however many phases bring the others, in whatever order"""
    x = peek_images(dls)
    if x is None:
        raise TypeError("expected dls whose input is images (b,c,h,w), got others. Phases are for image "
                        "classifiers.")
    n_classes(dls)
    plan = class_phases(dls, base, phases, order, seed, blurry)
    if isinstance(arch, ACILLearner):
        # its scores are no features
        arch = copy.copy(arch)
        arch.model = arch.model.body
    body = body_of(arch, x, pretrained, weights)
    if normalize: add_norm(dls, body.stats, averaged=x.shape[1] != 3)
    own = {k: kwargs.pop(k) for k in _HEAD if k in kwargs}
    if head is None: head = AnalyticHead(body.d, m, gamma, seed=seed, **{'intercept': m is None, **own})
    elif own: raise ValueError(f"expected {', '.join(own)} in your head, got it beside it. Leave it out.")
    elif head.d != body.d: raise ValueError(f"expected a head on {body.d} features, got one on {head.d}.")
    if head.classes:
        raise ValueError(f"expected a head that has learned nothing, got one of {len(head.classes)} classes. "
                         "Give `head.empty()`.")
    net = PhaseNet(body, head, len(plan.vocab), x.shape[1:])
    return ACILLearner(plan, net, splitter=groups, **kwargs)
