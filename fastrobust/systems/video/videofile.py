"What all readers of a video share: checked times, frames of one size, nothing open in a pickle"
import os
from pathlib import Path
import numpy as np
import torch
from fastrobust.basics import is_whole, shown
from fastrobust.systems.video.clip import TensorVideo

__all__ = []

LATE = 1e-6     # seconds; a time that close before a frame means that frame, as 3*(1/30) does

def _need_times(times):
    "Seconds as a float64 array"
    try: t = np.asarray(times, dtype=np.float64)
    except (TypeError, ValueError) as e:
        raise TypeError(f"expected times as numbers in seconds, got {shown(times)}. Such as "
                        "[0, .5, 1].") from e
    t = np.atleast_1d(t)
    if t.ndim == 1 and len(t) and np.isfinite(t).all() and t.min() >= 0: return t
    raise ValueError(f"expected a list of times in seconds from 0 on, got {times!r}. "
                     "clip_times(duration) makes some.")

def need_size(size):
    "(height, width) of frames; one number is both, None stays"
    if size is None: return None
    both = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
    if len(both) == 2 and all(is_whole(o) and o > 0 for o in both): return tuple(map(int, both))
    raise ValueError(f"`size` must be pixels from 1 on, or (height, width), got {size!r}. As they "
                     "are in the file: None.")

class VideoFile:
    "A video read by time; a context manager. Copies in other processes open it anew"
    backend = ''    # its name for `open_video`
    duration = 0.   # seconds from the first frame to the end of the last
    rate = 0.       # frames a second, on average
    def __init__(self, path):
        self.path = Path(path)
        self._handle,self._owner = None,None

    def handle(self):
        "What is open, in this process"
        me = os.getpid()
        if self._handle is None or self._owner != me: self._handle,self._owner = self._open(),me
        return self._handle

    def close(self):
        "Give the file back; `at` opens it again"
        self._handle = None

    def __enter__(self): return self
    def __exit__(self, *args): self.close()
    def __getstate__(self): return {**vars(self), '_handle': None}

    def _open(self): raise NotImplementedError
    @property
    def size(self): raise NotImplementedError
    @property
    def frames(self): raise NotImplementedError
    def _shown(self, times, size): raise NotImplementedError

    def _bad(self, what, fix):
        "The error for a file that is not what it should be"
        return ValueError(f"expected a video in {str(self.path)!r}, got {what}. {fix}")

    def at(self,
        times,      # Seconds from 0 on, a list in any order; after the end the last frame stays
        size=None   # (height, width) or one number, to which frames are squeezed; None: as in the file
    ):              # TensorVideo (t,3,h,w), uint8 RGB
        "The frames shown at `times`: of each the last that begins no later"
        t,where = np.unique(_need_times(times), return_inverse=True)
        pics = self._shown(t, need_size(size))
        shapes = {o.shape for o in pics}
        if len(shapes) > 1:
            sizes = sorted(o[:2] for o in shapes)
            raise self._bad(f"frames of several sizes, {sizes}", "Give `size`.")
        h,w,c = shapes.pop()
        clip = torch.empty(len(where), c, h, w, dtype=torch.uint8)
        for i,j in enumerate(where): clip[i] = torch.from_numpy(pics[j]).permute(2, 0, 1)
        return TensorVideo(clip)
