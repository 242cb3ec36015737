"Several ways to train, side by side: the same seeds, the last epoch as well as the best, and paired differences"
import copy, gc, inspect, os, random, sys, time
from functools import partial
import pandas as pd
import torch
from torch import nn
from fastcore.foundation import L
from fastcore.imports import IN_NOTEBOOK
from fastai.callback.core import Callback
from fastai.callback.mixup import MixHandler
from fastai.callback import schedule   # noqa: F401 (gives Learner its fit_one_cycle)
from fastai.learner import Learner, Recorder
from fastai.losses import BaseLoss
from fastai.torch_core import set_seed
from fastrobust.basics import nearest, need_whole, robust_warn
from fastrobust.compare.result import Comparison
from fastrobust.noise.record import TrueAccuracy
from fastrobust.labels.memorisation import Memorisation, main_metric, measure_memorisation
from fastrobust.resting import keep_random
from fastrobust.training.objective import Objective, Technique

__all__ = ['compare']

_EXAMPLE = 'lambda **kw: robust_learner(dls, resnet18, metrics=accuracy, **kw)'

# --- what a row may be -----------------------------------------------------------------------------------------------
def _fresh(o):
    "A copy for one learner alone; a function makes its own"
    if isinstance(o, (list, tuple, L)): return [_fresh(v) for v in o]
    return copy.deepcopy(o) if isinstance(o, (Callback, BaseLoss, nn.Module)) or not callable(o) else o()

def _row(name, what):
    "One run of `what` as (keywords for `make_learner`, callbacks to add, settings of the run)"
    if isinstance(what, dict):
        what = dict(what)
        run = {k: what.pop(k) for k in ('epochs', 'fit') if k in what}
        cbs = L(_fresh(what.pop('cbs', None)))
        for k in ('techniques', 'loss_func'):
            if isinstance(what.get(k), (list, tuple, L, Callback, BaseLoss, nn.Module)): what[k] = _fresh(what[k])
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
            raise TypeError(f"row {name!r}: expected a function without arguments, got {what!r} ({e}). For example "
                            "LogitClip(1.) instead of LogitClip.") from e
        return _row(name, made)
    raise TypeError(f"row {name!r}: expected None, a technique or a list of them, a loss, the name of a recipe, a dict "
                    "such as dict(loss_func=.., epochs=..), or a function without arguments that makes one of these, "
                    f"got {what!r}. Name the row and say one of them.")

def _check(make_learner, rows, epochs):
    "Refuse before anything trains what could not train; whether the maker wants the seed"
    if not callable(make_learner):
        raise TypeError("expected `make_learner` as a function that builds a new Learner, got "
                        f"{type(make_learner).__name__}. For example: {_EXAMPLE}.")
    if not isinstance(rows, dict) or not rows:
        raise TypeError(f"expected rows as a dict {{name: what}}, got {rows!r}. For example: "
                        "{'plain': None, 'clip': LogitClip(1.)}.")
    try: params = inspect.signature(make_learner).parameters.values()
    except (TypeError, ValueError): params = None
    for name,what in rows.items():
        kw,_,run = _row(name, what)
        n = run.get('epochs', epochs)
        need_whole('epochs', n, 1, fix=f'Say compare(.., epochs=5) or, in the row {name!r}, dict(epochs=5).')
        if params is None or any(p.kind is p.VAR_KEYWORD for p in params): continue
        if missing := set(kw) - {p.name for p in params}:
            raise TypeError(f"row {name!r}: expected `make_learner` to take {', '.join(sorted(missing))}, got a "
                            f"function that does not. Hand them on: {_EXAMPLE}.")
    return params is not None and any(p.name == 'seed' for p in params)

# --- one run ---------------------------------------------------------------------------------------------------------
def _rss():
    "Resident memory of the process in bytes, NaN where the system does not tell"
    try:
        with open('/proc/self/statm') as f: return int(f.read().split()[1])*os.sysconf('SC_PAGE_SIZE')
    except (OSError, ValueError, IndexError, AttributeError): return float('nan')

class _Watch(Callback):
    "Keeps each epoch's numbers and the peak memory, and draws the progress bar"
    order = Recorder.order+2    # after all columns are recorded
    def __init__(self, label, epochs, show):
        self.label,self.epochs,self.show,self.rows,self.peak = label,epochs,show,[],float('nan')

    def after_loss(self):
        if not self.training: return
        if not torch.cuda.is_available(): self.peak = max(_rss(), self.peak)    # in this order a NaN gives way
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
        raise TypeError(f"expected `make_learner` to return a Learner, got {type(learn).__name__}. For example: "
                        f"{_EXAMPLE}.")
    first = next(learn.model.parameters(), None)
    if first is not None and any(first is o for o in seen):
        raise ValueError("expected `make_learner` to build a new model each time, got the one already trained. Build "
                         "it inside the function: lambda **kw: robust_learner(dls, small_cnn(10), **kw).")
    seen[:] = [first]
    if metrics is not None: learn.metrics = metrics
    learn.add_cbs(cbs)
    noise,has = getattr(learn.dls, 'noise', None),lambda cls: any(isinstance(o, cls) for o in learn.cbs)
    if noise is not None and not has(Memorisation): learn.add_cb(Memorisation('eval' if has(MixHandler) else 'train'))
    if noise is not None and noise.valid is not None and not has(TrueAccuracy): learn.add_cb(TrueAccuracy())
    return learn

def _one(make, name, what, epochs, seed, metrics, fit, label, show, seen):
    "Train one row with one seed: (numbers of the run, its curve)"
    kw,cbs,own = _row(name, what)
    n,cuda = own.get('epochs', epochs),torch.cuda.is_available()
    learn = _build(make, kw, cbs, seed, metrics, seen)
    watch = _Watch(label, n, show)
    learn.add_cb(watch)
    acts = _acts(learn)
    set_seed(seed)
    for dl in learn.dls.loaders: dl.rng = random.Random(seed)   # fastai's loaders shuffle by a stream of their own
    gc.collect()
    if cuda: torch.cuda.reset_peak_memory_stats()
    t = time.perf_counter()
    with learn.no_bar(), learn.no_logging(): own.get('fit', fit)(learn, n)
    if cuda: torch.cuda.synchronize()
    secs = time.perf_counter()-t - sum(o.seconds for o in learn.cbs if isinstance(o, Memorisation))
    if not watch.rows: raise ValueError("expected at least one finished epoch, got none: a callback cancelled the fit.")
    metric,noise = main_metric(learn),getattr(learn.dls, 'noise', None)
    run = dict(row=name, seed=seed, epochs=len(watch.rows), seconds=secs, acts=acts, metric=metric,
               peak_MB=(torch.cuda.max_memory_allocated() if cuda else watch.peak)/2**20)
    given = [k for k in ('accuracy', 'acc_given') if k in watch.rows[-1]]
    run['given'] = given[0] if given and metric == 'acc_true' else None
    if noise is not None:
        run.update(measure_memorisation(learn)._asdict())
        run.update(nominal_rate=noise.nominal_rate, realised_rate=noise.realised_rate)
    return run,pd.DataFrame(watch.rows).assign(row=name, seed=seed, epoch=range(1, len(watch.rows)+1))

def _tell(label, run, curve, show):
    "A line for a finished run, over its bar if there is one"
    end = f"{run['metric']} {curve[run['metric']].iloc[-1]:.3f} {run['seconds']:>4.0f} s"
    line = f"{label} {run['epochs']:>4} epochs {end}"
    print(f"\r{line:100}" if show else line, flush=True)

# --- all runs --------------------------------------------------------------------------------------------------------
def compare(
    make_learner,    # Function that builds a new Learner from what a row sets: `lambda **kw: robust_learner(dls, arch,
                     # **kw)`; one with a parameter `seed` is given the seed too (to draw other noise each time, say)
    rows:dict,       # {name: what}: None (plain), technique(s), a loss, the name of a recipe, a dict of settings
                     # (techniques, loss_func, recipe, cbs, epochs, fit ..), or a function that makes one of these
    epochs:int=None, # Epochs of every row that does not say `epochs` itself
    seeds=3,         # How many (0,1,..), or a list of them; all rows share initialisation and batch order of each seed
    *,
    metrics=None,    # In place of the learners' own; the first one is compared (`acc_true` where that is recorded)
    baseline:str=None, # Row to take differences to; the first one
    fit=None,        # Function (learn, epochs) that trains; `learn.fit_one_cycle(epochs)` with the learner's lr
    last_k:int=None, # Epochs in the late mean; None: a quarter, at most 10 (the papers' number)
    verbose:bool=True # A line per run, and a bar on a terminal or in a notebook
) -> Comparison:
    "Train every row with every seed and put the numbers side by side; Ctrl-C or a failing row keeps all finished runs"
    named,seeds = _check(make_learner, rows, epochs),list(range(seeds) if isinstance(seeds, int) else seeds)
    baseline = next(iter(rows)) if baseline is None else baseline
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"expected at least one seed and none twice, got {seeds}. Say seeds=3.")
    if baseline not in rows:
        raise ValueError(f"expected `baseline` to be one of the rows, got {baseline!r}. {nearest(baseline, rows)}")
    if fit is None: fit = lambda learn, epochs: learn.fit_one_cycle(epochs)
    show = verbose and (IN_NOTEBOOK or sys.stdout.isatty())
    todo,wide = [(s, o) for s in seeds for o in rows],max(map(len, map(str, rows)))
    runs,curves,failed,seen,stop,cause = [],[],{},[],None,None
    def train(seed, name, label):
        make = partial(make_learner, seed=seed) if named else make_learner
        return _one(make, name, rows[name], epochs, seed, metrics, fit, label, show, seen)
    with keep_random():
        try:
            for i,(seed,name) in enumerate(todo):
                if name in failed: continue
                label = f"{i+1:>{len(str(len(todo)))}}/{len(todo)} {name:{wide}} seed {seed}"
                try: run,curve = train(seed, name, label)
                except Exception as e:
                    why = failed[name] = ' '.join(f"{type(e).__name__}: {e}".split())
                    cause = cause or e
                    robust_warn(f"row {name!r}, seed {seed} failed and is left out from here on: {why}")
                    continue
                runs.append(run)
                curves.append(curve)
                if verbose: _tell(label, run, curve, show)
        except KeyboardInterrupt:
            if not runs: raise
            stop = (f"Interrupted during row {name!r}, seed {seed}: these are the {len(runs)} finished runs of "
                    f"{len(todo)}.")
            robust_warn(stop)
    if not runs:
        raise RuntimeError("expected at least one row to train, got none. The first to fail was "
                           f"{next(iter(failed))!r}, with the error above: mend that one and run again.") from cause
    notes = [f"Row {o!r} failed ({why}); finished seeds are kept." for o,why in failed.items()]
    res = Comparison(runs, curves, baseline, last_k=last_k, notes=notes + ([stop] if stop else []))
    res.stopped = stop
    return res
