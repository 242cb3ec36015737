"The base class of all techniques: a Callback that installs itself wherever fastai takes callbacks"
import copy, inspect, sys
from fastcore.foundation import L
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastrobust.basics import weight_at
from fastrobust.resting import keep_random
from fastrobust.training.callback import ObjectiveCallback, ensure_objective, remove_objective
from fastrobust.training.recording import QuickEvents
from fastrobust.training.stages import Stages, own
from fastrobust.training.surgery import SurgeonSplit, Surgery, has_surgery, unwrap

__all__ = ['Technique']

_ADDING = inspect.unwrap(Learner.added_cbs).__code__
# what fastai keeps on a learner during a fit
_taken = {'loss', 'loss_grad', 'smooth_loss', 'pred', 'xb', 'yb', 'dl', 'iter', 'epoch', 'n_iter',
          'train_iter', 'pct_train', 'final_record'}

def _short(v): return getattr(v, '__name__', None) or repr(v)

class Technique(Stages, QuickEvents, Callback):
    "Base of all techniques: a Callback that installs itself wherever fastai takes callbacks"
    order = ObjectiveCallback.order-1   # state is ready before the objective asks for it
    # The class that `prepare` wraps around the model, if it does
    surgery:type[Surgery]|None = None
    floor = None        # Smallest value the penalty can reach in expectation, recorded beside it
    scales = True       # Whether its logits stage sets their size, which two cannot do
    # Whether the loss sees only their direction: energies of the raw ones may then say little
    direction_only = False
    # Whether it keeps per-sample memories: refused with MixUp, as are weights and sample losses
    remembers = False
    mixes = True        # Whether images of a batch may be mixed, as MixUp does; where not, `check` refuses it
    tasks:tuple[str, ...]|None = ('single-label',)  # What it is defined for; None: anything

    @property
    def name(self): return type(self).__name__.lower()
    @property
    def column(self): return self.name
    @property
    def weight(self): return getattr(self, 'lam', 1.)
    @property
    def weight_now(self): return weight_at(self.weight, self.learn.pct_train)

    def __repr__(self):
        def shown(k, v):
            if k[0] == '_' or k == 'run': return False
            return callable(v) or isinstance(v, (int, float, str, tuple))
        settings = [f'{k}={_short(v)}' for k,v in self.__dict__.items() if shown(k, v)]
        return f"{type(self).__name__}({', '.join(settings)})"

    def clone(self):
        "A copy with the same settings that belongs to no learner"
        state = {k: copy.deepcopy(v) for k,v in self.__dict__.items() if k != '_learn'}
        new = copy.copy(self)
        new.__dict__.clear()
        new.__dict__.update(state)
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
        try: self._install(learn, old)
        except BaseException:
            learn.remove_cbs([cb for cb in _brought_by_fit(learn) if cb in learn.cbs])
            raise

    def _install(self, learn, old):
        if old is not None:
            raise ValueError(f"this {type(self).__name__} already belongs to a learner. Make a new "
                             "one for each learner (`clone()`), or remove it there first with "
                             "`remove_cb`.")
        there = [t for t in learn.cbs if isinstance(t, Technique)]
        twin = [t for t in there if t.name == self.name]
        if twin:
            raise ValueError(f"the learner already has {twin[0]!r}. Remove it with `remove_cb` or "
                             "change its settings.")
        also = [t for t in there if t.surgery is self.surgery is not None]
        if also:
            both = ' and '.join(sorted([also[0].name, self.name]))
            raise ValueError(f"{both} both wrap the network in {self.surgery.__name__}: keep one, "
                             "remove the other with `remove_cb`.")
        if hasattr(type(learn), self.name) or self.name in vars(learn) or self.name in _taken:
            raise ValueError("a technique is kept as an attribute of the learner, and "
                             f"`learn.{self.name}` is taken. Rename {type(self).__name__}, or give "
                             "it another `name`.")
        self.__dict__['_learn'] = learn
        try:
            ensure_objective(learn)
            _operate(learn, self._put_in)
        except BaseException:
            self._uninstall(learn)
            raise

    def _put_in(self, learn):
        "Surgery in one order: two networks are made of the plain one, and what was around that goes around each"
        around = learn.model
        if not own(self, 'heads') or not isinstance(around, Surgery):
            self._prepare(learn)
            return
        there = [t for t in learn.cbs if isinstance(t, Technique) and t.surgery]
        learn.model = unwrap(around)
        for t in (self, *there): t._prepare(learn)
        if hasattr(learn.model, 'nets'): learn.model.nets[0] = around   # it may have learned something

    def _prepare(self, learn):
        with keep_random(): self.prepare(learn)     # what each draws does not depend on who came before
        for m in _wrappers(learn.model):
            if self.surgery and isinstance(m, self.surgery): m.by = type(self).__name__

    def _uninstall(self, learn):
        self.__dict__['_learn'] = None
        if learn is None: return
        if self.surgery:
            def take_out(learn): learn.model = unwrap(learn.model, self.surgery)
            _operate(learn, take_out)
            saved = vars(learn).get('saved_files')  # none where the loss was refused
            if saved: saved.leave_out(self.surgery)
        if not any(isinstance(t, Technique) and t is not self for t in learn.cbs):
            remove_objective(learn)

def _brought_by_fit(learn):
    "The callbacks that `fit(cbs=)` is adding: fastai takes them away in the end, but not where one of them is refused"
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code is _ADDING and frame.f_locals['self'] is learn: return L(frame.f_locals['cbs'])
        frame = frame.f_back
    return []

def _wrappers(model): return [m for m in model.modules() if isinstance(m, Surgery)]

def _operate(learn, f):
    "Run surgery `f`; a changed model gets a matching splitter and a new optimizer, frozen as the old one was"
    before,opt = learn.model,learn.opt
    inside = _wrappers(before)
    try: f(learn)
    except BaseException:
        learn.model = before
        raise
    if learn.model is before and inside == _wrappers(before): return
    if not isinstance(learn.splitter, SurgeonSplit): learn.splitter = SurgeonSplit(learn.splitter)
    if not has_surgery(learn.model): learn.splitter = learn.splitter.base
    learn.opt = None
    if opt is not None and getattr(opt, 'frozen_idx', 0) > 0:
        learn.create_opt()
        learn.opt.freeze_to(opt.frozen_idx)
