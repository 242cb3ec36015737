"Which moments of a video make a clip: times in seconds, never numbers of frames"
import math, random
import numpy as np
from fastrobust.basics import need_number, need_whole, nearest

__all__ = []

_STARTS = 'random','middle'

def need_seconds(
    name,           # Of the argument
    v,              # What was given
    unit='seconds'  # Its unit, for the message
):                  # `v` as a float
    "Refuse what is no positive, finite number"
    need_number(name, v)
    if 0 < v < math.inf: return float(v)
    raise ValueError(f"`{name}` must be a positive, finite number of {unit}, got {v!r}. "
                     "Give e.g. 2.")

def _first_time(start, duration, room):
    "When a clip begins that may begin from 0 to `room`"
    if start == 'random': return random.uniform(0, room)
    if start == 'middle': return room/2
    if isinstance(start, str):
        raise ValueError(f"expected `start` as seconds or one of two words, got {start!r}. "
                         f"{nearest(start, _STARTS)}")
    need_number('start', start)
    if 0 <= start < duration: return float(start)
    raise ValueError(f"expected `start` within the {duration:.6g} seconds of the video, got "
                     f"{start!r}. Give 'middle', or a number from 0 on and below its duration.")

def clip_times(
    duration,       # Of the video, in seconds, > 0
    n=16,           # Frames of the clip, from 1 on; 16 is what video networks were trained with
    span=2.,        # Seconds that they cover, > 0; 2: about as Kinetics networks see
    start='random', # When the clip begins: 'random' (Python's stream), 'middle', or seconds
    rate=None       # Frames a second, > 0, in place of `span`, which is n/rate then; None: `span`
):                  # n times in seconds, rising, float64
    "Times of `n` frames, evenly apart; of a video shorter than the clip the last frame stands still"
    duration = need_seconds('duration', duration)
    n = need_whole('n', n, 1, what='frames')
    if rate is not None: span = n/need_seconds('rate', rate, 'frames a second')
    span = need_seconds('span', span)
    first = _first_time(start, duration, max(duration-span, 0.))
    times = first + np.arange(n)*(span/n)
    return np.minimum(times, duration)

def spread_starts(
    duration,   # Of the video, in seconds, > 0
    span=2.,    # Seconds of a clip, > 0
    k=3         # Clips, from 1 on
):              # k starts in seconds, rising, float64
    "When `k` clips of one video begin, from the first moment to the last; one is in the middle"
    duration,span = need_seconds('duration', duration),need_seconds('span', span)
    k = need_whole('k', k, 1, what='clips')
    room = max(duration-span, 0.)
    if k == 1: return np.array([room/2])
    return np.linspace(0, room, k)
