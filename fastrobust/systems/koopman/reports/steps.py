"What an operator gives in one step, as the loaders of its learner say: a frame, or the other side of pairs"
from typing import NamedTuple

__all__ = []

def _counted(n, what): return f'{n} {what}' if n == 1 else f'{n} {what}s'

class Step(NamedTuple):
    "From so many frames and variables to so many"
    t_in: int
    n_vars: int
    frames: int     # 1 where there are no pairs
    out_vars: int

    @property
    def channels(self): return self.frames*self.out_vars
    @property
    def alike(self):
        "Is it the next frame of what is seen?"
        return self.frames == 1 and self.out_vars == self.n_vars

    def __str__(self):
        ends = (self.t_in, self.n_vars),(self.frames, self.out_vars)
        seen,given = (f"{_counted(t, 'frame')} of {_counted(c, 'variable')}" for t,c in ends)
        return f'{seen} to {given}'

    def need_next(self, who):
        "Refuse pairs whose targets are other than the next frame"
        if self.alike: return
        raise ValueError(f"expected for {who} the next frame of what is seen, got a learner of pairs, {self}. Look at "
                         "mesh_report, field_stress_report or conformal_bands: they take one step.")

    def times(self,
        frames  # Of the targets
    ):          # Steps
        "How many steps make so many frames"
        if self.alike: return frames
        if frames == self.frames: return 1
        raise ValueError(f"expected {_counted(self.frames, 'frame')} of {_counted(self.out_vars, 'variable')} in `y`, "
                         f"as of pairs from {self}, got {frames}. Give what the fields become in one step.")

def step_of(
    dls,    # Of a learner
    t_in,   # Frames that it sees
    n_vars  # Variables of each
)->Step:
    "One step of an operator that was trained with `dls`"
    if not getattr(dls, 'pair', False): return Step(t_in, n_vars, 1, n_vars)
    return Step(t_in, n_vars, dls.t_out, len(dls.y_scale[0]))
