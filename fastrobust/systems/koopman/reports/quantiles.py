"Split conformal prediction of one number: which score a new one stays below, and how often it did"
# Vovk et al., Algorithmic Learning in a Random World, 2005; Lei et al. 2018,
# https://arxiv.org/abs/1604.04173. Of n scores q is the ceil((n+1) level)-th smallest. A new score
# that is exchangeable with these is at most q with probability `level` or more.
import math
from typing import NamedTuple
import numpy as np, pandas as pd
from fastrobust.basics import need_number
from fastrobust.metrics import wilson_interval

__all__ = []

def need_level(level):
    need_number('level', level)
    if 0 < level < 1: return float(level)
    raise ValueError(f"`level` must be in (0,1), got {level}. .9 is usual.")

def rank_of(
    n,      # Scores
    level   # Probability
):
    "Which of the scores in order is q: ceil((n+1) level); n+1 where none of them will do"
    return math.ceil((n+1)*level - 1e-9)        # 1e-9: (n+1) level may be whole but for rounding

def conformal_quantile(
    scores, # Of fields, or histories, that the operator has not seen (n,)
    level,  # Probability that a new one is at most q
    what='fields',  # Or 'histories'
    why=''  # There are so few, for messages
):
    "q, the ceil((n+1) level)-th smallest score"
    n = len(scores)
    k = rank_of(n, level)
    if k <= n: return float(np.sort(scores)[k-1])
    need = math.ceil(level/(1-level) - 1e-9)
    if what == 'histories': why = ' (windows of one are alike and count as one)'+why
    lower = f', or a `level` up to {n/(n+1):.3g}' if n else ''
    raise ValueError(f"expected at least {need} {what} to calibrate on for level {level:g}, got "
                     f"{n}{why}. Give more{lower}.")

def need_histories(
    histories,  # Whole numbers or names (n,)
    n           # Fields
):
    "The number of the history of each field, from 0 on"
    given = np.asarray(histories)
    unknown = int(pd.isna(np.asarray(histories, dtype=object)).sum())    # of texts NaN becomes 'nan'
    if given.shape == (n,) and unknown:
        raise ValueError(f"expected in `histories` a number or name for each of the {n} fields, got NaN or None for "
                         f"{unknown}. Leave these fields out, or give each a name of its own.")
    if given.shape == (n,): return np.unique(given, return_inverse=True)[1]
    raise ValueError(f"expected `histories` as one number or name for each of the {n} fields, got "
                     f"shape {given.shape}. For example np.repeat(np.arange(10), 40).")

def worst_of(
    scores,     # Of fields (n,)
    which       # History of each, 0, 1, .. (n,)
):
    "The largest score of each history"
    worst = np.full(which.max()+1, -np.inf)
    np.maximum.at(worst, which, scores)
    return worst

class Coverage(NamedTuple):
    "Share of fields inside, and its 95 % interval (Wilson)"
    share: float
    low: float
    high: float
    inside: int
    n: int
    def __repr__(self):
        of = f'{self.inside} of {self.n} {self._what()}'
        return f'{self.share:.3f} [{self.low:.3f}, {self.high:.3f}], {of}'
    def _what(self): return 'fields'

class HistoryCoverage(Coverage):
    "Share of histories inside with all their fields"
    def _what(self): return 'histories'

def coverage_of(
    inside,         # Truth values (n,)
    kind=Coverage   # Or `HistoryCoverage`
):
    "`Coverage` of truth values"
    k,n = int(np.sum(inside)),len(inside)
    low,high = (float(o) for o in wilson_interval(k/n, n))
    return kind(k/n, low, high, k, n)
