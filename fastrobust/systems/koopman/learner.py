"`koopman_learner`: a fastai learner of operators between fields, which rolls out and counts in the units of the data"
from functools import partial
from numbers import Real
import torch
from fastai.callback import schedule    # noqa: F401 (gives Learner its fit_one_cycle)
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastai.optimizer import Adam
from torch import nn
from fastrobust.basics import nearest, need_whole, robust_warn
from fastrobust.resting import at_rest, keep_random
from fastrobust.systems.koopman.fieldmetrics import KoopmanLoss, RelL2Loss
from fastrobust.systems.koopman.rolling import Scaled, answer, roll

__all__ = ['Rollout', 'koopman_learner']

def _at_once(dls):
    "Does a network give all of the target in one step? Of pairs of fields, and of a time that it is told"
    return getattr(dls, 'pair', False) or getattr(dls, 'timed', False)

def next_channels(
    dls     # Of `field_dls`, or other loaders of fields
):
    "Channels that a network gives in one step, the last of its answer"
    if not getattr(dls, 'pair', False): return getattr(dls, 'n_vars', 1)
    return len(dls.y_scale[0])*dls.t_out

class Rollout(Callback):
    """The network moves a field on `T_out` steps, each from what the last one gave, in training as in prediction
    (https://arxiv.org/abs/2301.10022). Loss and metrics see the frames alone; `KoopmanLoss` its reconstructions too"""
    order = -10     # before others look at `learn.pred`
    def __init__(self,
        T_out=None,     # Steps; None: as many as `dls.t_out`, 1 where that is not told
        detach=None     # Gradients go back through so many steps; None: through all, as in the paper
    ):
        if T_out is not None: need_whole('T_out', T_out, 1)
        if detach is not None: need_whole('detach', detach, 1)
        self.T_out,self.detach = T_out,detach
        self.pairs = []     # of this batch

    @property
    def steps(self): return self.T_out or (1 if _at_once(self.dls) else getattr(self.dls, 't_out', 1))

    def before_fit(self): self.need_frames()
    def need_frames(self):
        t_out = getattr(self.dls, 't_out', self.steps)
        if _at_once(self.dls): t_out = 1
        if self.steps == t_out: return
        raise ValueError(f"Rollout expected targets of {self.steps} frames, got {t_out}. Make the dls with "
                         f"t_out={self.steps}, or leave T_out out.")

    def after_pred(self):
        learn,self.pairs = self.learn,[]
        u,*t = learn.xb
        learn.pred = roll(learn.model, u, self.steps, next_channels(learn.dls), t, first=learn.pred,
                          detach=self.detach, seen=self.pairs)

    def after_loss(self):
        "The reconstructions' term of a loss that has one"
        loss = getattr(self.learn.loss_func, 'reconstruction', None)
        if loss is None or not self.pairs: return
        self.learn.loss_grad = self.loss_grad + loss(self.pairs)
        self.learn.loss = self.learn.loss_grad.clone()

    def after_batch(self): self.pairs = []
    # a Ctrl-C may have left some, which hang on a graph that cannot be copied
    def __getstate__(self): return dict(super().__getstate__(), pairs=[])

def units_of(
    dls     # Of `field_dls`, or other loaders of fields
):          # (mean, std) of each variable of the targets, or None
    "In what errors of these fields are counted"
    given = getattr(dls, 'y_scale', None)
    return getattr(dls, 'scale', None) if given is None else given

def _metrics(dls):
    "The relative error, and of several variables that of each"
    w,scale = getattr(dls, 'weights', None),units_of(dls)
    c = 1 if scale is None else len(scale[0])
    return [RelL2Loss(w, scale), *[RelL2Loss(w, scale, var=i) for i in range(c) if c > 1]]

def _answer_of(model, u, t, timed):
    "What a network gives for two fields, or why it cannot"
    try: return answer(model(u, *t))
    except TypeError as e:
        if not timed: raise
        raise ValueError(f"expected a network that takes a time beside the fields, as these dls have `times`, got "
                         f"{e}. Take SemigroupKNO, or make the dls without.") from e
    except RuntimeError as e:
        wraps = getattr(model, 'periodic', ())
        if all(wraps) or not getattr(getattr(model, 'net', None), 'any_grid', True): raise
        raise ValueError(f"expected a network that takes any grid, as sides that are not periodic are padded, got {e}. "
                         "Give one of a fixed grid the attribute any_grid = False: it is not padded then.") from e

def warn_step(model, t):
    "Say where the times of the data are far from the one that a network was made for"
    step = getattr(getattr(model, 'net', model), 'step', None)
    number = isinstance(step, Real) and not isinstance(step, bool) and step > 0
    times = t[0][t[0] > 0] if t else ()
    if not number or not len(times): return
    lo,hi = float(times.min()),float(times.max())
    if step/4 <= hi and lo <= 4*step: return
    robust_warn(f"the network's `step` is {step:g}, the times of the data are {lo:g} to {hi:g}: what it makes of other "
                f"times than these was measured to be far worse so. Make it with step={hi:g}.")

def need_operator(dls, model):
    "Refuse a network that cannot move these fields on, by what it says of one of them"
    dl = dls.valid if len(dls.loaders) > 1 else dls.train
    with keep_random(): b = dl.one_batch()
    warn_step(model, b[1:getattr(dls, 'n_inp', 1)])
    u,*t = [x[:2] for x in b[:getattr(dls, 'n_inp', 1)]]
    with at_rest(model.to(u.device)): pred,_ = _answer_of(model, u, t, getattr(dls, 'timed', False))
    y,c = b[-1],next_channels(dls)
    if not torch.is_tensor(pred) or pred.ndim != y.ndim or pred.shape[2:] != y.shape[2:] or pred.shape[1] < c:
        got = tuple(pred.shape) if torch.is_tensor(pred) else type(pred).__name__
        raise ValueError(f"expected a network that gives fields of at least {c} channels on the grid "
                         f"{tuple(y.shape[2:])}, got {got}. Its last {c} channels are the next frame.")

def need_parameters(model):
    "Refuse a network without any, such as persistence: fastai looks for its device in one"
    if next(model.parameters(), None) is not None: return
    inner = model.net if isinstance(model, Scaled) else model
    raise ValueError(f"expected a network with parameters, got {type(inner).__name__} without any. Give it one that "
                     "changes nothing, self.none = nn.Parameter(torch.zeros(())): then it predicts like any other.")

def koopman_learner(
    dls,                # Of `field_dls`, or DataLoaders of fields x (b,t_in*c,*grid), y (b,t_out*c,*grid)
    model,              # Operator: KNO1d, KNO2d, FNO1d, your own nn.Module
    loss='rel_l2',      # 'rel_l2'; 'paper', 5 and .5 times squared errors, with Adam and L2 as there; or a loss
    *,
    scale=True,         # Put the model between mean and deviation of the training fields, `dls.scale`?
    detach=None,        # Of the roll-out, where targets have several frames: see `Rollout`
    cbs=None,           # More callbacks
    **kwargs            # More for Learner: lr, metrics (relative L2, also of each variable), opt_func, path, ..
)->Learner:
    """A Learner of an operator: frames go in, the next ones come out, in the units of the data. Errors are relative to
    what a field differs from the training mean, every variable in its deviation: no mean and no unit hides them.
    nbs/benchmarks/RESULTS.md measures `learn.fit_one_cycle(60, 5e-3)`, with either loss"""
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a network (nn.Module), got {type(model).__name__}. For example "
                        "koopman_learner(dls, KNO1d()).")
    if isinstance(loss, str):
        if loss not in ('rel_l2', 'paper'):
            raise ValueError(f"expected `loss` 'rel_l2', 'paper' or a loss, got {loss!r}. "
                             f"{nearest(loss, ['rel_l2', 'paper'])}")
        if loss == 'paper':
            kwargs = dict(opt_func=partial(Adam, decouple_wd=False), wd=1e-4) | kwargs
            loss = KoopmanLoss()
        else: loss = RelL2Loss(getattr(dls, 'weights', None), units_of(dls))
    given = getattr(dls, 'scale', None)
    if scale and not isinstance(model, Scaled):
        mean,std = ([0.], [1.]) if given is None else given
        out = dls.y_scale if getattr(dls, 'pair', False) else None
        model = Scaled(model, mean, std, getattr(dls, 'periodic', ()), out, getattr(dls, 'weights', None))
    need_operator(dls, model)
    need_parameters(model)
    kwargs = dict(lr=5e-3, metrics=_metrics(dls)) | kwargs
    cbs = [cbs] if isinstance(cbs, Callback) else list(cbs or [])
    if not any(isinstance(cb, Rollout) for cb in cbs): cbs.append(Rollout(detach=detach))
    return Learner(dls, model, loss, cbs=cbs, **kwargs)
