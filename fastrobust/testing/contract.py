"What every technique keeps to, as checks that run on any class: `check_technique(MyTechnique)`"
import traceback, warnings
from contextlib import redirect_stdout
from io import StringIO
from fastrobust.basics import nearest
from fastrobust.testing import fits, surroundings
from fastrobust.testing.case import Case

__all__ = []

# the promise of each is its docstring
CLAUSES = (fits.doors, fits.accidents, fits.lr_find, fits.recorded, fits.accumulation,
           fits.half_precision, fits.repeats, fits.weights,
           surroundings.evaluation, surroundings.mixup, surroundings.shapes,
           surroundings.two_inputs, surroundings.fastais_loader, surroundings.habits,
           surroundings.files, surroundings.names, surroundings.docs)

def check_technique(
    T,          # The class, a subclass of `Technique`
    make=None,  # Function (**settings) -> a new one; None: the class with its defaults
    *,
    only=None,  # Names of the clauses to run, such as 'accumulation'; None: all
    verbose=True, # A line per clause
    **kwargs    # More for `Case`: `plain`, `colour`, `weight`, `deterministic`
):
    "Run a technique through the contract that ours keep; an AssertionError names the clause it breaks"
    case = Case(T, make, **kwargs)
    known = {f.__name__: f for f in CLAUSES}
    if isinstance(only, str): only = [only]
    wanted = list(known) if only is None else list(only)
    for k in wanted:
        if k not in known:
            raise ValueError(f"expected the name of a clause, got {k!r}. {nearest(k, known)}")

    for k in wanted:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter('ignore')
            try: known[k](case)
            except Exception as e:
                why = str(e) or traceback.extract_tb(e.__traceback__)[-1].line
                raise AssertionError(f"{T.__name__} breaks {k!r} ({known[k].__doc__}): {why}") from e
        if verbose: print(f'{k:15} {known[k].__doc__}')
