"Roll-outs as they are followed: error and energy of each field by step, the spectrum at one step, a few fields kept"
import numpy as np
import torch
from fastrobust.systems.koopman.fieldmetrics import in_modes
from fastrobust.systems.koopman.reports.operands import errors_of

__all__ = []

class Trace:
    "What is kept of the frames that something gives, step by step"
    def __init__(self,
        y,          # True frames (n,known,c,*grid)
        steps,      # Frames that there shall be
        keep,       # Fields of which the frames themselves are kept
        weights=None,   # Of the places of the grid
        units=None  # (mean, std) of each variable, in which errors are counted
    ):
        n,self.known = y.shape[:2]
        self.y,self.weights,self.units = y,weights,units
        self.error = np.full((n, steps), np.nan)    # NaN: unknown, infinite: not finite
        self.energy = np.full((n, steps), np.nan)
        self.spectra = None     # (n,modes)
        shape = min(keep, n),steps,*y.shape[2:]
        self.frames = torch.full(shape, torch.nan)

    def put(self,
        frames, # (b,k,c,*grid)
        row=0,  # Of the first field
        at=0    # Steps before the first frame
    ):
        "Look at some frames"
        b,k = frames.shape[:2]
        frames = frames.double()
        rows,cols = slice(row, row+b),slice(at, at+k)
        self.energy[rows,cols] = energy_of(frames, self.weights)
        known = max(0, min(k, self.known-at))
        if known:
            true = self.y[rows,at:at+known].flatten(0, 1)
            e = errors_of(frames[:, :known].flatten(0, 1), true, self.weights, self.units)
            self.error[rows,at:at+known] = e.view(b, known)
        last = self.known-1-at
        if 0 <= last < k: self._spectrum(rows, frames[:, last])
        room = len(self.frames)-row
        if room > 0: self.frames[rows,cols] = frames[:room].float()

    def _spectrum(self, rows, frame):
        "Energy by mode, over all variables, of the last step that has a truth"
        e = in_modes(frame).sum(1).numpy()
        if self.spectra is None:
            self.spectra = np.full((len(self.y), e.shape[1]), np.nan)
        self.spectra[rows] = e

    def diverged(self,
        bound   # Largest energy of each field by step (n,steps)
    ):          # int (n,), counted from 1; 0: never
        "The first step of each field that is not finite or has more energy"
        bad = self.energy > bound
        return np.where(bad.any(1), bad.argmax(1)+1, 0)

def energy_of(
    frames,     # (n,k,c,*grid), float64
    weights=None
):              # Numpy (n,k); infinite where a frame is not finite
    "Mean square of frames"
    w = 1. if weights is None else weights
    e = (w*frames.square()).flatten(2).mean(2).numpy()
    return np.where(np.isnan(e), np.inf, e)

def energy_bound(
    start,  # Frames seen at first (n,t_in,c,*grid)
    true,   # `Trace` of the truth
    times,  # How often its energy is allowed
):          # Numpy (n,steps)
    "So many times the largest energy that the truth has had up to each step; after its end, the last of these"
    first = energy_of(start.double(), true.weights).max(1, keepdims=True)
    e = np.where(np.isnan(true.energy), 0, true.energy)
    return times*np.maximum.accumulate(np.maximum(e, first), 1)
