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
from fastrobust.noise.record import TrueAccuracy
from fastrobust.labels.memorisation import Memorisation, main_metric, measure_memorisation
from fastrobust.training.objective import Objective
from fastrobust.training.technique import Technique

__all__ = []

EXAMPLE = 'lambda **kw: robust_learner(dls, resnet18, metrics=accuracy, **kw)'

# --- what a row may be ----------------------------------------------------------------------------
def _fresh(o):
    "A copy for one learner alone; a function makes its own"
    if isinstance(o, (list, tuple, L)): return [_fresh(v) for v in o]
    return copy.deepcopy(o) if isinstance(o, (Callback, BaseLoss, nn.Module)) or not callable(o) else o()

def what_row(name, what):
    "One run of `what` as (keywords for `make_learner`, callbacks to add, settings of the run)"
    if isinstance(what, dict):
        what = dict(what)
        run = {k: what.pop(k) for k in ('epochs', 'fit') if k in what}
        cbs = L(_fresh(what.pop('cbs', None)))
        for k in ('techniques', 'loss_func'):
            if isinstance(what.get(k), (list, tuple, L, Callback, BaseLoss, nn.Module)):
                what[k] = _fresh(what[k])
        return what,cbs,run
    if what is None: return {},[],{}
    if isinstance(what, str): return dict(recipe=what),[],{}
    if isinstance(what, (BaseLoss, nn.Module)): return dict(loss_func=_fresh(what)),[],{}
    if isinstance(what, Callback): what = [what]
    if isinstance(what, (list, tuple, L)):
        parts = _fresh(what)
        if all(isinstance(o, Callback) for o in parts):
            ts = [o for o in parts if isinstance(o, Technique)]
            return (dict(techniques=ts) if ts else {}),[o for o in parts if not isinstance(o, Technique)],{}
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
        self.label,self.epochs,self.show,self.rows,self.peak = label,epochs,show,[],float('nan')

    def after_loss(self):
        if not self.training: return
        if not torch.cuda.is_available():
            self.peak = max(_rss(), self.peak)    # in this order a NaN gives way
        if self.show and self.iter%8 == 0:
            done = int(24*min(1, (len(self.rows) + self.iter/self.n_iter)/self.epochs))
            bar = f"[{'#'*done}{'.'*(24-done)}] epoch {len(self.rows)+1}/{self.epochs} "
            print(f"\r{self.label} {bar}", end='', flush=True)

    def after_epoch(self):
        if hasattr(self.learn, 'lr_finder'): return
        row = dict(zip(self.recorder.metric_names[1:], list(self.recorder.log)[1:]))
        self.rows.append({k:v for k,v in row.items() if not isinstance(v, str)})

def _acts(learn):
    "Loss and techniques of `learn`, in words"
    loss = learn.loss_func.base if isinstance(learn.loss_func, Objective) else learn.loss_func
    techniques = [repr(cb) for cb in learn.cbs if isinstance(cb, Technique)]
    return ' + '.join([getattr(loss, '__name__', None) or repr(loss), *techniques])

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
    noise,has = getattr(learn.dls, 'noise', None),lambda cls: any(isinstance(o, cls) for o in learn.cbs)
    if noise is not None and not has(Memorisation):
        learn.add_cb(Memorisation('eval' if has(MixHandler) else 'train'))
    if noise is not None and noise.valid is not None and not has(TrueAccuracy):
        learn.add_cb(TrueAccuracy())
    return learn

def one_run(make, name, what, epochs, seed, metrics, fit, label, show, seen):
    "Train one row with one seed: (numbers of the run, its curve)"
    kw,cbs,own = what_row(name, what)
    n,cuda = own.get('epochs', epochs),torch.cuda.is_available()
    learn = _build(make, kw, cbs, seed, metrics, seen)
    watch = _Watch(label, n, show)
    learn.add_cb(watch)
    acts = _acts(learn)
    set_seed(seed)
    for dl in learn.dls.loaders:
        dl.rng = random.Random(seed)   # fastai's loaders shuffle by a stream of their own
    gc.collect()
    if cuda: torch.cuda.reset_peak_memory_stats()
    t = time.perf_counter()
    with learn.no_bar(), learn.no_logging(): own.get('fit', fit)(learn, n)
    if cuda: torch.cuda.synchronize()
    secs = time.perf_counter()-t - sum(o.seconds for o in learn.cbs if isinstance(o, Memorisation))
    if not watch.rows:
        raise ValueError("expected at least one finished epoch, got none: a callback cancelled the fit.")
    metric,noise = main_metric(learn),getattr(learn.dls, 'noise', None)
    run = dict(row=name, seed=seed, epochs=len(watch.rows), seconds=secs, acts=acts, metric=metric,
               peak_MB=(torch.cuda.max_memory_allocated() if cuda else watch.peak)/2**20)
    given = [k for k in ('accuracy', 'acc_given') if k in watch.rows[-1]]
    run['given'] = given[0] if given and metric == 'acc_true' else None
    if noise is not None:
        run.update(measure_memorisation(learn)._asdict())
        run.update(nominal_rate=noise.nominal_rate, realised_rate=noise.realised_rate)
    return run,pd.DataFrame(watch.rows).assign(row=name, seed=seed, epoch=range(1, len(watch.rows)+1))

def tell_run(label, run, curve, show):
    "A line for a finished run, over its bar if there is one"
    end = f"{run['metric']} {curve[run['metric']].iloc[-1]:.3f} {run['seconds']:>4.0f} s"
    line = f"{label} {run['epochs']:>4} epochs {end}"
    print(f"\r{line:100}" if show else line, flush=True)
