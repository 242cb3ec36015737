"A width for each frame of a roll-out: some of the fields say how errors grow, the others how far"
# s_t is the mean error of frame t over the fields set apart. The score of each other field is
# max_t e_t/s_t. Those set apart are drawn by a hash of their numbers, which says neither where in the
# data a field came nor how hard it is. So s is none of the other fields' doing, their scores and that
# of a new one are as exchangeable as the fields are, and with probability `level` a new one has
# e_t <= q s_t in all frames together: the guarantee of split conformal prediction, with n the fields
# left. What a poor s costs is width, not coverage. Chosen by place (or by one seed) it would not hold
# where data are sorted, by how strong a field is: one place is always the hardest then.
import hashlib
import numpy as np
from fastrobust.systems.koopman.reports.quantiles import rank_of

__all__ = []

SHARE = 4       # One in so many fields, or histories, is set apart: a mean needs no more
LEAST = 1e-6    # Of the largest mean error; a frame without error has no width to count in

def draws_of(
    *parts  # Tensors (n,..) of the same fields
):          # uint64 (n,)
    "A number of each field that is as good as drawn at random, but the same whenever the field comes"
    rows = zip(*(o.contiguous().numpy() for o in parts))
    drawn = [hashlib.blake2b(b''.join(o.tobytes() for o in row), digest_size=8).digest() for row in rows]
    return np.frombuffer(b''.join(drawn), np.uint64)

def how_many(n): return -(-n//SHARE)

def set_apart(
    which,  # History of each field, 0, 1, .. (n,)
    drawn   # Of `draws_of` (n,)
):          # Truth values (n,)
    "The fields that say how errors grow: those of a quarter of the histories, with the smallest numbers drawn"
    least = np.full(which.max()+1, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(least, which, drawn)
    place = np.argsort(np.argsort(least, kind='stable'))
    return place[which] < how_many(len(least))

def enough_left(
    which,  # History of each field, 0, 1, .. (n,)
    level   # Probability
):
    "Are there fields, or histories, enough for the level without those set apart?"
    n = len(np.unique(which))
    left = n - how_many(n)
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
