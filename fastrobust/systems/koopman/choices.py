"Choices of few: truth values and reductions, refused where they are none of these"
import numpy as np
from fastrobust.basics import nearest, shown

__all__ = []

REDUCTIONS = 'mean','sum','none'

def need_truth(
    name,       # Of the argument
    v,          # What was given
    more=''     # What else there is, for the message, such as ' or None'
):
    "`v` as True or False; a text such as 'no' would count as True"
    if isinstance(v, (bool, np.bool_)): return bool(v)
    raise TypeError(f"`{name}` must be True or False{more}, got {shown(v)}.")

def need_reduction(
    reduction   # Of a loss, over items
):
    "One that losses know"
    if isinstance(reduction, str) and reduction in REDUCTIONS: return reduction
    raise ValueError(f"`reduction` must be 'mean', 'sum' or 'none', got {reduction!r}. "
                     f"{nearest(reduction, REDUCTIONS)}")
