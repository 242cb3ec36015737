"The callback that owns rows, prediction and loss for all techniques, and how it is installed"
import copy
import torch
from fastai.callback.core import Callback
from fastai.callback.mixup import MixHandler
from fastai.callback.training import GradientAccumulation
from fastai.imports import noop
from fastai.torch_core import find_bs, rank_distrib
from fastai.losses import BaseLoss
from fastrobust.basics import (batch_idxs, epoch_idxs, need_learner, robust_warn, said_once,
                               weight_at)
from fastrobust.training.checks import check, check_batch
from fastrobust.training.network import check_network
from fastrobust.training.objective import Objective, TechniqueColumns, inner_loss
from fastrobust.training.recording import QuickEvents, fit_starts
from fastrobust.training.savedfiles import SavedFiles
from fastrobust.training.stages import (Batch, Stages, has_penalty, head_of, main_logits, mean_of,
                                        own, sum_of, take_rows)
from fastrobust.training.surgery import AuxOut

__all__ = ['ObjectiveCallback', 'ensure_objective']

def _loss_name(loss): return type(loss).__name__ if isinstance(loss, BaseLoss) else repr(loss)

def _private(learn, loss):
    "`loss`, or a copy of fastai's default loss, which is one object for everybody"
    default = getattr(learn.dls.train_ds, 'loss_func', None)
    return copy.deepcopy(loss) if loss is default else loss

class ObjectiveCallback(QuickEvents, Callback):
    "The only callback that touches rows, prediction and loss on the techniques' behalf; `learn.objective`"
    # before GradientAccumulation, so that it divides our terms too,
    # and inside MixedPrecision's autocast and scale
    order = GradientAccumulation.order-1
    name = 'objective'
    stays = False
    fits = None     # network and data that were last compared

    def __init__(self, loss, original):
        self.loss_obj,self.original = loss,original
        self.sums = {}
        self.trial = None
        self.said = set()   # warnings of `check`

    @property
    def batch(self): return self.loss_obj.batch

    def map(self, z): return self.loss_obj.map(z)
    def twin(self): return next((t for t in self.loss_obj.stages if own(t, 'heads')), None)

    def split(self, pred):
        "The heads of a prediction: one, or those of two networks"
        twin = self.twin()
        return list(twin.heads(pred)) if twin else [pred]

    def techniques(self):
        "In one order, whatever the order in which they came"
        ts = [t for t in self.learn.cbs if isinstance(t, Stages)]
        return sorted(ts, key=lambda t: (t.order, t.name))

    def heal(self):
        "Undo what a Ctrl-C under MixUp leaves behind, and adopt a loss the user assigned meanwhile"
        lf = self.learn.loss_func
        owner = getattr(lf, '__self__', None)
        if isinstance(owner, MixHandler): lf = owner.old_lf
        elif isinstance(owner, Callback):
            return    # a callback's own wrapper, which calls what it found here
        if lf is not self.loss_obj:
            self.original = inner_loss(lf)
            self.loss_obj.adopt(_private(self.learn, self.original))
        self.learn.loss_func = self.loss_obj

    def before_fit(self):
        self.heal()
        self.trial = None
        self.loss_obj.stages = tuple(self.techniques())
        if not fit_starts(self.learn): return
        check(self.learn)
        self.check_network()
        # works on copies: the techniques and their state stay as they are
        if hasattr(self.learn, 'lr_finder'):
            self.trial = tuple(t.clone() for t in self.techniques())
            for t in self.trial: t.__dict__['_learn'] = self.learn
        elif self.learn.logger is not noop and not rank_distrib():
            ts = self.techniques()
            parts = [repr(t) for t in ts]
            replaced = any(own(t, 'base') for t in ts)
            if not replaced: parts.insert(0, _loss_name(self.loss_obj.base))
            print('fastrobust: ' + ' + '.join(parts))

    def check_network(self):
        "Does the network fit the data? Asked once of each"
        learn = self.learn
        now = id(learn.model),id(learn.dls)
        if self.fits == now: return
        with said_once(self.said):
            asked = hasattr(learn, 'n_out')     # as in `robust_learner`
            check_network(learn.model, learn.dls, self.loss_obj.base, learn.cbs, asked)
        self.fits = now

    def before_train(self):
        self.loss_obj.train()
        self.loss_obj.stages = self.trial or tuple(self.techniques())
        self.sums = {}
        self.first = True
        self.idxs = None

    def before_validate(self): self._rest()

    def after_fit(self):
        self.trial = None
        self._rest()

    def _rest(self):
        "Outside training the loss is that of the learner alone"
        self.loss_obj.eval()
        self.loss_obj.batch = None

    def before_batch(self):
        if not self.training: return
        n = find_bs(self.yb if len(self.yb) else self.xb)
        b = self.loss_obj.batch = Batch(n, self._ids_later(n))
        if self.first:
            self.first = False
            check_batch(self.loss_obj, self.xb, self.yb)

        b.parts = {}
        x = self.xb[0]
        extra = []
        k = n
        for t in self.loss_obj.stages:
            if not own(t, 'rows'): continue
            with torch.no_grad(): r = t.rows(x)
            if r is None: continue
            if r.shape[1:] != x.shape[1:]:
                raise ValueError(f"rows of {t.name}: expected images of shape {tuple(x.shape[1:])} "
                                 f"like the batch, got {tuple(r.shape[1:])}. Resize or convert "
                                 "them to the training images.")
            extra.append(r.to(x))
            b.parts[t] = (k, k+len(r))
            k += len(r)

        if k > 5*n and not getattr(self, 'warned_rows', False):
            self.warned_rows = True
            robust_warn(f"techniques add {k-n} rows to batches of {n}: memory and time grow "
                        f"{k/n:.0f}-fold.")
        if extra: self.learn.xb = (torch.cat([x, *extra]), *self.xb[1:])

    def _ids_later(self, n):
        "What gives the positions of this batch's `n` items in `train_ds`, when asked"
        # a later iteration over the same loader replaces it
        if self.idxs is None: self.idxs = epoch_idxs(self.dl)
        dl,i,idxs = self.dl,self.iter,self.idxs
        def ids(): return None if idxs is None else batch_idxs(dl, i, n, idxs)
        return ids

    def after_pred(self):
        if not self.training: return
        b,pred = self.batch,self.pred
        if self.twin() is None and not isinstance(pred, (torch.Tensor, AuxOut)):
            if not self.loss_obj.stages: return
            raise ValueError("techniques expected logits (bs,c) from the model, got a "
                             f"{type(pred).__name__}. Let a callback at order < 5 reduce "
                             "`learn.pred` in after_pred, as fastai's RNNCallback does.")
        b.heads = self.split(take_rows(pred, 0, b.n) if b.parts else pred)
        b.extra = {}
        for t,(lo,hi) in b.parts.items():
            part = take_rows(pred, lo, hi)
            b.extra[t] = [main_logits(h) for h in self.split(part)]
        b.live = True
        plain = len(b.heads) == 1 and not isinstance(b.heads[0], AuxOut)
        if plain: self.learn.pred = b.heads[0]
        else: self.learn.pred = mean_of([main_logits(h) for h in b.heads])

    def after_loss(self):
        if not self.training or not len(self.yb): return
        b = self.batch
        b.live = False
        for t in self.loss_obj.stages:
            w = weight_at(t.weight, self.pct_train)
            if not has_penalty(t) or not w: continue
            ps = self._penalties(t, b)
            if not ps: continue
            p = sum_of(ps)
            if p.ndim:
                raise ValueError(f"{t.name}: expected a scalar penalty, got shape "
                                 f"{tuple(p.shape)}. Take its mean.")
            self.learn.loss_grad = self.learn.loss_grad + w*p
            self.learn.loss = self.learn.loss + w*p.detach()
            s,k = self.sums.get(t, (0., 0))
            self.sums[t] = s + p.detach()/len(ps), k+1
        for t in self.loss_obj.stages: t.update(b)
        b.heads,b.extra,b.parts = [],{},{}

    def _penalties(self, t, b):
        "Those of technique `t`, one for each head that has one"
        parts = b.extra.get(t, [None]*len(b.heads))
        found = []
        for i,(out,part) in enumerate(zip(b.heads, parts)):
            p = t.penalty_of(head_of(i, out, part))
            if p is not None: found.append(p)
        return found

    def __getstate__(self):
        return {**super().__getstate__(), 'trial': None, 'sums': {}, 'idxs': None, 'said': set(), 'fits': None}

def _objective_of(learn):
    return next((cb for cb in learn.cbs if isinstance(cb, ObjectiveCallback)), None)

def ensure_objective(
    learn,      # Any Learner
    stays=False # Whether it stays when the last technique has left
):
    "The learner's `Objective`, installed around its loss if it has none"
    need_learner(learn)
    if _objective_of(learn) is None:
        loss = inner_loss(learn.loss_func)
        learn.loss_func = Objective(_private(learn, loss))
        learn.add_cbs([ObjectiveCallback(learn.loss_func, loss), TechniqueColumns(), SavedFiles()])
    if stays: learn.objective.stays = True
    return learn.objective.loss_obj

def set_loss(
    learn,  # Any Learner, with techniques or without
    loss    # What it minimises from now on; techniques stay around it, and when they go it stays
):
    "Make `loss` the learner's loss"
    cb = _objective_of(learn)
    if cb is None:
        learn.loss_func = loss
        return
    cb.heal()
    cb.original = inner_loss(loss)
    cb.loss_obj.adopt(loss)

def remove_objective(learn):
    cb = _objective_of(learn)
    if cb is not None and cb.stays:
        cb.heal()
        return
    ours = ObjectiveCallback,TechniqueColumns,SavedFiles
    cbs = [cb for cb in learn.cbs if isinstance(cb, ours)]
    for cb in cbs:
        if isinstance(cb, ObjectiveCallback):
            cb.heal()
            learn.loss_func = cb.original
        learn.remove_cb(cb)
