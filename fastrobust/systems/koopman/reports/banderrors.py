"How far predictions are from what comes, by frame: the largest error or the root mean square one"
import math
import torch
from fastrobust.systems.koopman.data.fieldchecks import need_finite
from fastrobust.systems.koopman.reports.meshes import asked
from fastrobust.systems.koopman.reports.operands import need_time, start_frames, true_frames
from fastrobust.systems.koopman.reports.operating import bar_of, given_weights, resting

__all__ = []

ROOM = 2**20    # Numbers of the fields that are predicted at once

class FieldErrors:
    "Errors of an operator, in units of the data or sizes of the predicted field, and widths of each frame"
    growth = None       # in files of versions without widths by frame
    def __init__(self,
        op,         # `Operator` of a learner
        kind,       # 'sup' or 'l2'
        scaled      # In sizes of the predicted field?
    ):
        self.op,self.kind,self.scaled = op,kind,scaled
        self.steps = None       # Frames of the targets
        self.growth = None      # What errors of each frame are counted in (steps,); None: all alike

    def checked(self, u, t, y):
        u = start_frames(u, self.op)
        y = true_frames(y, u, self.op.out_vars)     # (n,steps,c,*grid)
        self.op.need_frames(y)
        need_finite(y, '`y`')
        if self.steps is None: self.steps = y.shape[1]
        if y.shape[1] != self.steps:
            raise ValueError(f"expected targets of {self.steps} frames, as calibrated on, got "
                             f"{y.shape[1]}. Errors grow from frame to frame: calibrate on as "
                             "many.")
        return u,self._time(t, len(u)),y

    def _time(self, t, n): return need_time(t, n, [self.op], 't=.., or (u, t, y) to calibrate on')

    def predicted(self, u, t):
        "Pairs (positions, predictions float64 (b,steps,c,*grid)) of batches"
        rows = max(1, ROOM//(u[0].numel()*self.steps))
        bar = bar_of([self.op], math.ceil(len(u)/rows))
        with resting([self.op]):
            for i in range(0, len(u), rows):
                here = slice(i, i+rows)
                p = self.op.frames(u[here], None if t is None else t[here], self.steps)
                yield here,p.double().unflatten(1, (self.steps, -1))
                bar.tick()

    def weights(self, grid):
        "Of the places in a root mean square, float64 of mean 1; None: all alike"
        if self.kind == 'sup' or self.op.weights is None: return None
        w = given_weights([self.op], None, self.op.grid)
        if grid == self.op.grid: return w
        try: mesh, = asked([grid], 'the loader', self.op.grid, self.op.wraps)
        except ValueError:
            raise ValueError(f"expected fields on the grid {self.op.grid} of the loader's weights, "
                             f"or every so manyth node of it, got {grid}. kind='sup' has no "
                             "weights.") from None
        return mesh.of(w)/mesh.of(w).mean()

    def size(self, pred):
        "What errors are counted in: root mean square of each variable of a prediction, or 1; by frame"
        size = torch.ones(1, 1, 1, *[1]*(pred.ndim-3), dtype=pred.dtype)
        if self.scaled:
            w = self.weights(tuple(pred.shape[3:]))
            square = pred.square() if w is None else w*pred.square()
            size = square.mean((1, *range(3, pred.ndim)), keepdim=True).sqrt()
        if self.growth is None: return size
        return size*torch.as_tensor(self.growth).view(1, -1, *[1]*(pred.ndim-2))

    def errors(self, u, t, y):
        "Triples (positions, errors, sizes) of batches"
        for here,p in self.predicted(u, t):
            if p.shape != y[here].shape:
                raise ValueError(f"expected targets of shape {tuple(p.shape[1:])}, as "
                                 f"{self.op.name} gives, got {tuple(y.shape[1:])}. Give u and y "
                                 "on one grid.")
            yield here,(y[here].double()-p).abs(),self.size(p)

    def frame_errors(self, u, t, y):
        """Error of each frame of each field (n,steps); infinite where something is not finite, or 0 is
        predicted and does not come"""
        out = []
        for _,err,size in self.errors(u, t, y):
            # 0 where there is no error, whatever the size
            e = torch.where(err == 0, 0., err/size)
            if self.kind == 'sup': s = e.flatten(2).amax(2)
            else:
                w = self.weights(tuple(e.shape[3:]))
                square = e.square() if w is None else w*e.square()
                s = square.flatten(2).mean(2).sqrt()
            out.append(s.nan_to_num(nan=math.inf, posinf=math.inf))
        return torch.cat(out).numpy()
