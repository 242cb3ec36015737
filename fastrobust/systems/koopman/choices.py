"Choices of few: reductions, refused where they are none of these"
from fastrobust.basics import nearest

__all__ = []

REDUCTIONS = 'mean','sum','none'

def need_reduction(
    reduction   # Of a loss, over items
):
    "One that losses know"
    if isinstance(reduction, str) and reduction in REDUCTIONS: return reduction
    raise ValueError(f"`reduction` must be 'mean', 'sum' or 'none', got {reduction!r}. "
                     f"{nearest(reduction, REDUCTIONS)}")
