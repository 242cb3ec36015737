"The callback that owns rows, prediction and loss for all techniques, their base class, and how they are installed"
import copy
import torch
from fastai.callback.core import Callback
from fastai.callback.mixup import MixHandler
from fastai.callback.training import GradientAccumulation
from fastai.imports import noop
from fastai.torch_core import find_bs, rank_distrib
from fastai.losses import BaseLoss
from fastrobust.basics import batch_idxs, epoch_idxs, robust_warn, weight_at
from fastrobust.training.checks import check, check_batch
from fastrobust.training.surgery import AuxOut, SurgeonSplit, Surgery, has_surgery, unwrap
from fastrobust.training.recording import QuickEvents, fit_starts
from fastrobust.training.stages import (Batch, Objective, Stages, TechniqueColumns, has_penalty, head_of,
                                        inner_loss, main_logits, mean_of, own, sum_of, take_rows)

__all__ = ['ObjectiveCallback', 'Technique', 'ensure_objective']

def _loss_name(loss): return type(loss).__name__ if isinstance(loss, BaseLoss) else repr(loss)

def _private(learn, loss):
    "`loss`, or a copy of fastai's default loss, which is one object for everybody"
    return copy.deepcopy(loss) if loss is getattr(learn.dls.train_ds, 'loss_func', None) else loss

class ObjectiveCallback(QuickEvents, Callback):
    "The only callback that touches rows, prediction and loss on the techniques' behalf; `learn.objective`"
    # before GradientAccumulation, so that it divides our terms too, and inside MixedPrecision's autocast and scale
    order = GradientAccumulation.order-1
    name = 'objective'

    def __init__(self, loss, original): self.loss_obj,self.original,self.sums,self.trial = loss,original,{},None

    @property
    def batch(self): return self.loss_obj.batch
    def map(self, z): return self.loss_obj.map(z)
    def twin(self): return next((t for t in self.loss_obj.stages if own(t, 'heads')), None)
    def split(self, pred):
        "The heads of a prediction: one, or those of two networks"
        twin = self.twin()
        return list(twin.heads(pred)) if twin else [pred]
    def techniques(self): return [t for t in self.learn.cbs.sorted('order') if isinstance(t, Technique)]

    def heal(self):
        "Undo what a Ctrl-C under MixUp leaves behind, and adopt a loss the user assigned meanwhile"
        lf = self.learn.loss_func
        owner = getattr(lf, '__self__', None)
        if isinstance(owner, MixHandler): lf = owner.old_lf
        elif isinstance(owner, Callback): return    # a callback's own wrapper, which calls what it found here
        if lf is not self.loss_obj:
            self.original = inner_loss(lf)
            self.loss_obj.adopt(_private(self.learn, self.original))
        self.learn.loss_func = self.loss_obj

    def before_fit(self):
        self.heal()
        self.trial,self.loss_obj.stages = None,tuple(self.techniques())
        if not fit_starts(self.learn): return
        check(self.learn)
        if hasattr(self.learn, 'lr_finder'):        # works on copies: the techniques and their state stay as they are
            self.trial = tuple(t.clone() for t in self.techniques())
            for t in self.trial: t.__dict__['_learn'] = self.learn
        elif self.learn.logger is not noop and not rank_distrib():
            ts = self.techniques()
            loss = [] if any(own(t, 'base') for t in ts) else [_loss_name(self.loss_obj.base)]
            print('fastrobust: ' + ' + '.join([*loss, *map(repr, ts)]))

    def before_train(self):
        self.loss_obj.train()
        self.loss_obj.stages = self.trial or tuple(self.techniques())
        self.sums,self.first,self.idxs = {},True,None

    def before_validate(self): self.loss_obj.eval(); self.loss_obj.batch = None
    def after_fit(self):       self.trial = None; self.loss_obj.eval(); self.loss_obj.batch = None

    def before_batch(self):
        if not self.training: return
        if self.idxs is None: self.idxs = epoch_idxs(self.dl)   # a later iteration over the same loader replaces it
        n,dl,i,idxs = find_bs(self.yb) if len(self.yb) else find_bs(self.xb),self.dl,self.iter,self.idxs
        b = self.loss_obj.batch = Batch(n, lambda: None if idxs is None else batch_idxs(dl, i, n, idxs))
        if self.first: self.first = False; check_batch(self.loss_obj, self.xb, self.yb)
        b.parts,x,k = {},self.xb[0],n
        extra = []
        for t in self.loss_obj.stages:
            if not own(t, 'rows'): continue
            with torch.no_grad(): r = t.rows(x)
            if r is None: continue
            if r.shape[1:] != x.shape[1:]:
                raise ValueError(f"rows of {t.name}: expected images of shape {tuple(x.shape[1:])} like the batch, got "
                                 f"{tuple(r.shape[1:])}. Resize or convert them to the training images.")
            extra.append(r.to(x)); b.parts[t] = (k, k+len(r)); k += len(r)
        if k > 5*n and not getattr(self, 'warned_rows', False):
            self.warned_rows = True
            robust_warn(f"techniques add {k-n} rows to batches of {n}: memory and time grow {k/n:.0f}-fold.")
        if extra: self.learn.xb = (torch.cat([x, *extra]), *self.xb[1:])

    def after_pred(self):
        if not self.training: return
        b,pred = self.batch,self.pred
        twin = self.twin()
        if twin is None and not isinstance(pred, (torch.Tensor, AuxOut)):
            if not self.loss_obj.stages: return
            raise ValueError(f"techniques expected logits (bs,c) from the model, got a {type(pred).__name__}. Let a "
                             "callback at order < 5 reduce `learn.pred` in after_pred, as fastai's RNNCallback does.")
        b.heads = self.split(take_rows(pred, 0, b.n) if b.parts else pred)
        b.extra = {t: [main_logits(h) for h in self.split(take_rows(pred, *ab))] for t,ab in b.parts.items()}
        b.live = True
        plain = len(b.heads) == 1 and not isinstance(b.heads[0], AuxOut)
        self.learn.pred = b.heads[0] if plain else mean_of([main_logits(h) for h in b.heads])

    def after_loss(self):
        if not self.training or not len(self.yb): return
        b = self.batch
        b.live = False
        for t in self.loss_obj.stages:
            w = weight_at(t.weight, self.pct_train)
            if not has_penalty(t) or not w: continue
            parts = b.extra.get(t, [None]*len(b.heads))
            ps = [t.penalty_of(head_of(i, out, part)) for i,(out,part) in enumerate(zip(b.heads, parts))]
            ps = [p for p in ps if p is not None]
            if not ps: continue
            p = sum_of(ps)
            if p.ndim:
                raise ValueError(f"{t.name}: expected a scalar penalty, got shape {tuple(p.shape)}. Take its mean.")
            self.learn.loss_grad = self.learn.loss_grad + w*p
            self.learn.loss = self.learn.loss + w*p.detach()
            s,k = self.sums.get(t, (0., 0))
            self.sums[t] = s + p.detach()/len(ps), k+1
        for t in self.loss_obj.stages: t.update(b)
        b.heads,b.extra,b.parts = [],{},{}

    def __getstate__(self): return {**super().__getstate__(), 'trial': None, 'sums': {}, 'idxs': None}

# what fastai keeps on a learner during a fit
_taken = {'loss', 'loss_grad', 'smooth_loss', 'pred', 'xb', 'yb', 'dl', 'iter', 'epoch', 'n_iter', 'train_iter',
          'pct_train', 'final_record'}

def _short(v): return getattr(v, '__name__', None) or repr(v)

class Technique(Stages, QuickEvents, Callback):
    "Base of all techniques: a Callback that installs itself wherever fastai takes callbacks"
    order = ObjectiveCallback.order-1   # state is ready before the objective asks for it
    surgery = None      # The `Surgery` class that `prepare` wraps around the model, if it does
    floor = None        # Smallest value the penalty can reach in expectation, recorded beside it
    scales = True       # Whether its logits stage sets their size, which two cannot do
    direction_only = False # Whether the loss sees only their direction: energies of the raw ones may then say little
    remembers = False   # Whether it keeps per-sample memories: refused with MixUp, as are weights and sample losses
    tasks = ('single-label',)   # What it is defined for; None: anything

    @property
    def name(self): return type(self).__name__.lower()
    @property
    def column(self): return self.name
    @property
    def weight(self): return getattr(self, 'lam', 1.)
    @property
    def weight_now(self): return weight_at(self.weight, self.learn.pct_train)

    def __repr__(self):
        shown = lambda v: callable(v) or isinstance(v, (int, float, str, tuple))
        keep = {k:v for k,v in self.__dict__.items() if k[0] != '_' and k != 'run' and shown(v)}
        return f"{type(self).__name__}({', '.join(f'{k}={_short(v)}' for k,v in keep.items())})"

    def clone(self):
        "A copy with the same settings that belongs to no learner"
        state = {k: copy.deepcopy(v) for k,v in self.__dict__.items() if k != '_learn'}
        new = copy.copy(self)
        new.__dict__.clear(); new.__dict__.update(state)
        return new

    def columns(self):
        "More numbers for the progress table"
        return {}
    def prepare(self, learn):
        "Model surgery when installed: wrap `learn.model` in `self.surgery`"
    def check(self, learn):
        "Raise or warn about settings and company that make no sense"

    @property
    def learn(self): return self.__dict__.get('_learn')
    @learn.setter
    def learn(self, learn):
        old = self.__dict__.get('_learn')
        if learn is None: return self._uninstall(old)
        if old is learn: return
        if old is not None:
            raise ValueError(f"this {type(self).__name__} already belongs to a learner. Make a new one for each "
                             "learner (`clone()`), or remove it there first with `remove_cb`.")
        twin = [t for t in learn.cbs if isinstance(t, Technique) and t.name == self.name]
        if twin:
            raise ValueError(f"the learner already has {twin[0]!r}. Remove it with `remove_cb` or change its settings.")
        also = [t for t in learn.cbs if isinstance(t, Technique) and t.surgery is self.surgery is not None]
        if also:
            raise ValueError(f"{also[0].name} and {self.name} both wrap the network in {self.surgery.__name__}: keep "
                             "one, remove the other with `remove_cb`.")
        if hasattr(type(learn), self.name) or self.name in vars(learn) or self.name in _taken:
            raise ValueError(f"a technique is kept as an attribute of the learner, and `learn.{self.name}` is taken. "
                             f"Rename {type(self).__name__}, or give it another `name`.")
        self.__dict__['_learn'] = learn
        try:
            ensure_objective(learn)
            _operate(learn, self.prepare)
        except BaseException:
            self._uninstall(learn)
            raise

    def _uninstall(self, learn):
        self.__dict__['_learn'] = None
        if learn is None: return
        if self.surgery: _operate(learn, lambda learn: setattr(learn, 'model', unwrap(learn.model, self.surgery)))
        if not any(isinstance(t, Technique) and t is not self for t in learn.cbs): _remove_objective(learn)

def _operate(learn, f):
    "Run surgery `f`; a changed model gets a matching splitter and a new optimizer, frozen as the old one was"
    before,opt = learn.model,learn.opt
    inside = [m for m in before.modules() if isinstance(m, Surgery)]
    f(learn)
    if learn.model is before and inside == [m for m in before.modules() if isinstance(m, Surgery)]: return
    if not isinstance(learn.splitter, SurgeonSplit): learn.splitter = SurgeonSplit(learn.splitter)
    if not has_surgery(learn.model): learn.splitter = learn.splitter.base
    learn.opt = None
    if opt is not None and getattr(opt, 'frozen_idx', 0) > 0:
        learn.create_opt()
        learn.opt.freeze_to(opt.frozen_idx)

def ensure_objective(
    learn   # Any Learner
):
    "The learner's `Objective`, installed around its loss if it has none"
    if any(isinstance(cb, ObjectiveCallback) for cb in learn.cbs): return learn.objective.loss_obj
    loss = inner_loss(learn.loss_func)
    obj = learn.loss_func = Objective(_private(learn, loss))
    learn.add_cbs([ObjectiveCallback(obj, loss), TechniqueColumns()])
    return obj

def set_loss(
    learn,  # Any Learner, with techniques or without
    loss    # What it minimises from now on; techniques stay around it, and when they go it stays
):
    "Make `loss` the learner's loss"
    cb = next((cb for cb in learn.cbs if isinstance(cb, ObjectiveCallback)), None)
    if cb is None: learn.loss_func = loss; return
    cb.heal()
    cb.original = inner_loss(loss)
    cb.loss_obj.adopt(loss)

def _remove_objective(learn):
    cbs = [cb for cb in learn.cbs if isinstance(cb, (ObjectiveCallback, TechniqueColumns))]
    for cb in cbs:
        if isinstance(cb, ObjectiveCallback): cb.heal(); learn.loss_func = cb.original
        learn.remove_cb(cb)
