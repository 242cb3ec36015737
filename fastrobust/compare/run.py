"One run of a comparison: one learner, trained from a seed, watched epoch by epoch"
import copy, gc, os, random, time
import pandas as pd
import torch
from torch import nn
from fastcore.foundation import L
from fastai.callback.core import Callback
from fastai.callback.mixup import MixHandler
from fastai.callback import schedule   # noqa: F401 (gives Learner its fit_one_cycle)
from fastai.learner import Learner, Recorder
from fastai.losses import BaseLoss
from fastai.torch_core import set_seed
from fastrobust.labels.memorisation import Memorisation, main_metric, measure_memorisation
from fastrobust.noise.record import TrueAccuracy
from fastrobust.training.objective import Objective
from fastrobust.training.technique import Technique

__all__ = []

EXAMPLE = 'lambda **kw: robust_learner(dls, resnet18, metrics=accuracy, **kw)'

# --- what a row may be ----------------------------------------------------------------------------
_PARTS = Callback,BaseLoss,nn.Module

def _fresh(o):
    "A copy for one learner alone; a function makes its own"
    if isinstance(o, (list, tuple, L)): return [_fresh(v) for v in o]
    if isinstance(o, _PARTS) or not callable(o): return copy.deepcopy(o)
    return o()

def _of_settings(what):
    "`what_row` of a dict"
    what = dict(what)
    run = {k: what.pop(k) for k in ('epochs', 'fit') if k in what}
    cbs = L(_fresh(what.pop('cbs', None)))
    for k in ('techniques', 'loss_func'):
        if isinstance(what.get(k), (list, tuple, L, *_PARTS)):
            what[k] = _fresh(what[k])
    return what,cbs,run

def _of_callbacks(cbs):
    "`what_row` of callbacks: the techniques among them are the maker's"
    ts = [o for o in cbs if isinstance(o, Technique)]
    others = [o for o in cbs if not isinstance(o, Technique)]
    return (dict(techniques=ts) if ts else {}),others,{}

def what_row(name, what):
    "One run of `what` as (keywords for `make_learner`, callbacks to add, settings of the run)"
    if what is None: return {},[],{}
    if isinstance(what, dict): return _of_settings(what)
    if isinstance(what, str): return dict(recipe=what),[],{}
    if isinstance(what, (BaseLoss, nn.Module)):
        return dict(loss_func=_fresh(what)),[],{}
    if isinstance(what, Callback): what = [what]
    if isinstance(what, (list, tuple, L)):
        parts = _fresh(what)
        if all(isinstance(o, Callback) for o in parts): return _of_callbacks(parts)
    elif callable(what):
        try: made = what()
        except TypeError as e:
            raise TypeError(f"row {name!r}: expected a function without arguments, got {what!r} "
                            f"({e}). For example LogitClip(1.) instead of LogitClip.") from e
        return what_row(name, made)
    raise TypeError(f"row {name!r}: expected None, a technique or a list of them, a loss, the name "
                    "of a recipe, a dict such as dict(loss_func=.., epochs=..), or a function "
                    f"without arguments that makes one of these, got {what!r}. Name the row and "
                    "say one of them.")

# --- one run --------------------------------------------------------------------------------------
def _rss():
    "Resident memory of the process in bytes, NaN where the system does not tell"
    try:
        with open('/proc/self/statm') as f:
            return int(f.read().split()[1])*os.sysconf('SC_PAGE_SIZE')
    except (OSError, ValueError, IndexError, AttributeError): return float('nan')

class _Watch(Callback):
    "Keeps each epoch's numbers and the peak memory, and draws the progress bar"
    order = Recorder.order+2    # after all columns are recorded
    def __init__(self, label, epochs, show):
        self.label,self.epochs,self.show = label,epochs,show
        self.rows,self.peak = [],float('nan')

    def after_loss(self):
        if not self.training: return
        if not torch.cuda.is_available():
            self.peak = max(_rss(), self.peak)    # in this order a NaN gives way
        if self.show and self.iter%8 == 0:
            n = len(self.rows)
            share = (n + self.iter/self.n_iter)/self.epochs
            done = int(24*min(1, share))
            bar = f"[{'#'*done}{'.'*(24-done)}] epoch {n+1}/{self.epochs} "
            print(f"\r{self.label} {bar}", end='', flush=True)

    def after_epoch(self):
        if hasattr(self.learn, 'lr_finder'): return
        names = self.recorder.metric_names[1:]
        values = list(self.recorder.log)[1:]
        self.rows.append({k:v for k,v in zip(names, values) if not isinstance(v, str)})

def _acts(learn):
    "Loss and techniques of `learn`, in words"
    loss = learn.loss_func
    if isinstance(loss, Objective): loss = loss.base
    name = getattr(loss, '__name__', None) or repr(loss)
    techniques = [repr(cb) for cb in learn.cbs if isinstance(cb, Technique)]
    return ' + '.join([name, *techniques])

def _build(make, kw, cbs, seed, metrics, seen):
    "The learner of one run, ready to fit"
    set_seed(seed)
    learn = make(**kw)
    if not isinstance(learn, Learner):
        raise TypeError(f"expected `make_learner` to return a Learner, got {type(learn).__name__}. "
                        f"For example: {EXAMPLE}.")
    first = next(learn.model.parameters(), None)
    if first is not None and any(first is o for o in seen):
        raise ValueError("expected `make_learner` to build a new model each time, got the one "
                         "already trained. Build it inside the function: lambda **kw: "
                         "robust_learner(dls, small_cnn(10), **kw).")
    seen[:] = [first]
    if metrics is not None: learn.metrics = metrics
    learn.add_cbs(cbs)
    _watch_noise(learn)
    return learn

def _watch_noise(learn):
    "Callbacks that measure what noisy labels do, where the loaders have some"
    noise = getattr(learn.dls, 'noise', None)
    if noise is None: return
    def has(cls): return any(isinstance(o, cls) for o in learn.cbs)
    if not has(Memorisation):
        learn.add_cb(Memorisation('eval' if has(MixHandler) else 'train'))
    if noise.valid is not None and not has(TrueAccuracy):
        learn.add_cb(TrueAccuracy())

def _timed_fit(learn, n, fit, watch):
    "Train for `n` epochs; seconds without those of `Memorisation`, and the peak memory in bytes"
    cuda = torch.cuda.is_available()
    gc.collect()
    if cuda: torch.cuda.reset_peak_memory_stats()
    t = time.perf_counter()
    with learn.no_bar(), learn.no_logging(): fit(learn, n)
    if cuda: torch.cuda.synchronize()
    secs = time.perf_counter()-t
    secs -= sum(o.seconds for o in learn.cbs if isinstance(o, Memorisation))
    return secs,torch.cuda.max_memory_allocated() if cuda else watch.peak

def one_run(make, name, what, epochs, seed, metrics, fit, label, show, seen):
    "Train one row with one seed: (numbers of the run, its curve)"
    kw,cbs,own = what_row(name, what)
    n = own.get('epochs', epochs)
    learn = _build(make, kw, cbs, seed, metrics, seen)
    watch = _Watch(label, n, show)
    learn.add_cb(watch)
    acts = _acts(learn)
    set_seed(seed)
    for dl in learn.dls.loaders:
        dl.rng = random.Random(seed)   # fastai's loaders shuffle by a stream of their own
    secs,peak = _timed_fit(learn, n, own.get('fit', fit), watch)

    rows = watch.rows
    if not rows:
        raise ValueError("expected at least one finished epoch, got none: a callback cancelled the "
                         "fit.")
    metric = main_metric(learn)
    run = dict(row=name, seed=seed, epochs=len(rows), seconds=secs, acts=acts, metric=metric,
               peak_MB=peak/2**20, given=None)
    if metric == 'acc_true':
        run['given'] = next((k for k in ('accuracy', 'acc_given') if k in rows[-1]), None)
    noise = getattr(learn.dls, 'noise', None)
    if noise is not None:
        run.update(measure_memorisation(learn)._asdict())
        run.update(nominal_rate=noise.nominal_rate, realised_rate=noise.realised_rate)
    curve = pd.DataFrame(rows).assign(row=name, seed=seed, epoch=range(1, len(rows)+1))
    return run,curve

def tell_run(label, run, curve, show):
    "A line for a finished run, over its bar if there is one"
    end = f"{run['metric']} {curve[run['metric']].iloc[-1]:.3f} {run['seconds']:>4.0f} s"
    line = f"{label} {run['epochs']:>4} epochs {end}"
    print(f"\r{line:100}" if show else line, flush=True)
