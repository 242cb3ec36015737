"What every technique keeps to, as checks that run on any class: `check_technique(MyTechnique)`"
import traceback, warnings
from contextlib import contextmanager, redirect_stdout
from io import StringIO
import torch
from fastai.callback.core import event
from fastrobust.basics import nearest
from fastrobust.resting import keep_random
from fastrobust.testing import fits, surroundings
from fastrobust.testing.case import Case
from fastrobust.training.stages import Stages
from fastrobust.training.technique import Technique

__all__ = []

# the promise of each is its docstring
CLAUSES = (fits.doors, fits.accidents, fits.lr_find, fits.recorded, fits.accumulation,
           fits.half_precision, fits.repeats, fits.weights,
           surroundings.evaluation, surroundings.mixup, surroundings.shapes,
           surroundings.two_inputs, surroundings.fastais_loader, surroundings.habits,
           surroundings.files, surroundings.names, surroundings.docs)

@contextmanager
def _undisturbed():
    "Nothing is printed or warned of, and random streams and cuDNN's settings come back"
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic,cudnn.benchmark
    with warnings.catch_warnings(), redirect_stdout(StringIO()), keep_random():
        warnings.simplefilter('ignore')
        try: yield
        finally: cudnn.deterministic,cudnn.benchmark = before

def _why(e):
    "What an exception says, or the line that raised it"
    if isinstance(e, AssertionError): return str(e) or traceback.extract_tb(e.__traceback__)[-1].line
    # fastai stumbles over an exception without a message, and raises another in its place
    if e.__context__ is not None and not str(e.__context__): e = e.__context__
    return f'{type(e).__name__}: {e}'

def _need_one(case):
    "Refuse a technique that cannot be made so, or that does nothing"
    T = case.T
    try: t = case.make()
    except TypeError as e:
        raise TypeError(f"could not make a {T.__name__} ({e}). Say how: make=lambda **kw: "
                        f"{T.__name__}(.., **kw).") from e
    if not isinstance(t, T): raise TypeError(f"expected `make` to give a {T.__name__}, got {t!r}.")
    stages = [k for k,v in vars(Stages).items() if k[0] != '_' and callable(v)]
    names = stages + ['prepare', 'columns', *(k for k in vars(event) if k[0] != '_')]
    if not any(getattr(T, k, None) is not getattr(Technique, k, None) for k in names):
        raise TypeError(f"expected a technique that does something, got {T.__name__}, which "
                        "overrides no stage and no event. Is a name misspelt? The stages are in "
                        "fastrobust/training/stages.py.")

def check_technique(
    T,          # The class, a subclass of `Technique`
    make=None,  # Function (**settings) -> a new one; None: the class with its defaults
    *,
    only=None,  # Names of the clauses to run, such as 'accumulation'; None: all
    verbose=True, # A line per clause
    **kwargs    # More for `Case`: `plain`, `colour`, `net`, `weight`, `deterministic`
):
    "Run a technique through the contract that ours keep; an AssertionError names the clause it breaks"
    case = Case(T, make, **kwargs)
    known = {f.__name__: f for f in CLAUSES}
    if isinstance(only, str): only = [only]
    wanted = list(known) if only is None else list(only)
    for k in wanted:
        if k not in known:
            raise ValueError(f"expected the name of a clause, got {k!r}. {nearest(k, known)}")
    if not wanted: raise ValueError("expected names of clauses, got none. None runs all.")
    _need_one(case)

    for k in wanted:
        with _undisturbed():
            try: skipped = known[k](case)
            except Exception as e:
                broken = f"{T.__name__} breaks {k!r} ({known[k].__doc__})"
                raise AssertionError(f"{broken}: {_why(e)}") from e
        says = f'not checked: {skipped}' if skipped else known[k].__doc__
        if verbose: print(f'{k:15} {says}')
