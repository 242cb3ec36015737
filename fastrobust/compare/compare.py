"Several ways to train, side by side: the same seeds, the last epoch as well as the best, and paired differences"
import inspect, sys
from functools import partial
from torch import nn
from fastcore.imports import IN_NOTEBOOK
from fastai.callback import schedule   # noqa: F401 (gives Learner its fit_one_cycle)
from fastai.learner import Learner
from fastrobust.basics import is_whole, nearest, need_whole, robust_warn, shown
from fastrobust.compare.result import Comparison
from fastrobust.compare.run import EXAMPLE, one_run, tell_run, what_row
from fastrobust.inference.archs import family
from fastrobust.resting import keep_random

__all__ = ['compare']

def _check(make_learner, rows, epochs):
    "Refuse before anything trains what could not train; whether the maker wants the seed"
    maker = callable(make_learner) and not isinstance(make_learner, (Learner, nn.Module))
    if not maker or family(make_learner):
        raise TypeError("expected `make_learner` as a function that builds a new Learner, got "
                        f"{shown(make_learner)}. For example: {EXAMPLE}.")
    if not isinstance(rows, dict) or not rows:
        raise TypeError(f"expected rows as a dict {{name: what}}, got {rows!r}. For example: "
                        "{'plain': None, 'clip': LogitClip(1.)}.")
    try: params = inspect.signature(make_learner).parameters.values()
    except (TypeError, ValueError): params = None
    for name,what in rows.items():
        kw,_,run = what_row(name, what)
        n = run.get('epochs', epochs)
        fix = f'Say compare(.., epochs=5) or, in the row {name!r}, dict(epochs=5).'
        need_whole('epochs', n, 1, fix=fix)
        if params is None or any(p.kind is p.VAR_KEYWORD for p in params): continue
        if missing := set(kw) - {p.name for p in params}:
            raise TypeError(f"row {name!r}: expected `make_learner` to take "
                            f"{', '.join(sorted(missing))}, got a function that does not. Hand "
                            f"them on: {EXAMPLE}.")
    return params is not None and any(p.name == 'seed' for p in params)

# --- all runs -------------------------------------------------------------------------------------
def compare(
    # Function that builds a new Learner from what a row sets: `lambda **kw: robust_learner(dls,
    # arch, **kw)`; one with a parameter `seed` is given the seed too (to draw other noise each
    # time, say)
    make_learner,
    # {name: what}: None (plain), technique(s), a loss, the name of a recipe, a dict of settings
    # (techniques, loss_func, recipe, cbs, epochs, fit ..), or a function that makes one of these
    rows:dict,
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
    named = _check(make_learner, rows, epochs)
    seeds = list(range(seeds) if is_whole(seeds) else seeds)
    if baseline is None: baseline = next(iter(rows))
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"expected at least one seed and none twice, got {seeds}. Say seeds=3.")
    if baseline not in rows:
        raise ValueError(f"expected `baseline` to be one of the rows, got {baseline!r}. "
                         f"{nearest(baseline, rows)}")
    if fit is None: fit = lambda learn, epochs: learn.fit_one_cycle(epochs)
    show = verbose and (IN_NOTEBOOK or sys.stdout.isatty())
    todo = [(s, o) for s in seeds for o in rows]
    digits = len(str(len(todo)))
    wide = max(len(str(o)) for o in rows)
    runs,curves = [],[]
    seen:list = []
    failed,cause,stop = {},None,None
    def train(seed, name, label):
        make = partial(make_learner, seed=seed) if named else make_learner
        return one_run(make, name, rows[name], epochs, seed, metrics, fit, label, show, seen)
    with keep_random():
        try:
            for i,(seed,name) in enumerate(todo):
                if name in failed: continue
                label = f"{i+1:>{digits}}/{len(todo)} {name:{wide}} seed {seed}"
                try: run,curve = train(seed, name, label)
                except Exception as e:
                    why = failed[name] = ' '.join(f"{type(e).__name__}: {e}".split())
                    cause = cause or e
                    robust_warn(f"row {name!r}, seed {seed} failed and is left out from here on: "
                                f"{why}")
                    continue
                runs.append(run)
                curves.append(curve)
                if verbose: tell_run(label, run, curve, show)
        except KeyboardInterrupt:
            if not runs: raise
            stop = (f"Interrupted during row {name!r}, seed {seed}: these are the {len(runs)} "
                    f"finished runs of {len(todo)}.")
            robust_warn(stop)
    if not runs:
        raise RuntimeError("expected at least one row to train, got none. The first to fail was "
                           f"{next(iter(failed))!r}, with the error above: mend that one and run "
                           "again.") from cause
    notes = [f"Row {o!r} failed ({why}); finished seeds are kept." for o,why in failed.items()]
    if stop: notes.append(stop)
    res = Comparison(runs, curves, baseline, last_k=last_k, notes=notes)
    res.stopped = stop
    return res
