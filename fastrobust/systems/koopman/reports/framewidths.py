"A width for each frame of a roll-out: some of the fields say how errors grow, the others how far"
# s_t is the mean error of frame t over the fields set apart. The score of each other field is
# max_t e_t/s_t. As s is none of these fields' doing, their scores and that of a new one are as
# exchangeable as the fields are, and with probability `level` a new one has e_t <= q s_t in all
# frames together: the guarantee of split conformal prediction, with n the fields left. What a poor s
# costs is width, not coverage.
import numpy as np
from fastrobust.systems.koopman.reports.quantiles import rank_of

__all__ = []

EVERY = 4       # Every so manyth field, or history, is set apart: a mean needs no more
LEAST = 1e-6    # Of the largest mean error; a frame without error has no width to count in

def set_apart(
    which   # History of each field, 0, 1, .. (n,)
):          # Truth values (n,)
    "The fields that say how errors grow: those of every fourth history, in the order they come"
    # by place, not by name: a name may tell how hard a history is
    _,first = np.unique(which, return_index=True)
    place = np.argsort(np.argsort(first))
    return place[which] % EVERY == 0

def enough_left(
    which,  # History of each field (n,)
    level   # Probability
):
    "Are there fields, or histories, enough for the level without those set apart?"
    left = len(np.unique(which[~set_apart(which)]))
    return rank_of(left, level) <= left

def growth_of(
    e       # Errors of the fields set apart, by frame (n,steps); infinite: not finite
):          # (steps,), above 0
    "Mean error of each frame"
    fine = np.isfinite(e)
    if not fine.any(0).all():
        raise ValueError("expected finite predictions of the fields to calibrate on, got NaN or "
                         f"infinity for all of {len(e)} in frame {int(fine.any(0).argmin())+1}. "
                         "Has a roll-out diverged?")
    s = np.where(fine, e, 0).sum(0)/fine.sum(0)
    if not s.any(): return np.ones_like(s)
    return np.maximum(s, LEAST*s.max())
