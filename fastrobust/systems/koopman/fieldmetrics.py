"How far a field is from another: in relative L2, by Fourier mode, weighted by latitude; and as losses"
import torch
from torch import Tensor, nn
from fastrobust.basics import need_number, need_whole
from fastrobust.systems.koopman.choices import need_reduction

__all__ = ['rel_l2', 'BandL2', 'RelL2Loss', 'KoopmanLoss']

FLOOR = .01     # Share of the deviation that the norm of a target counts at least: fields of nothing spoil no training

def _plain(*xs): return [x.as_subclass(Tensor) for x in xs]

def l2_of_each(
    pred,       # Fields (b,t*c,*grid)
    y,          # What they should be, of that shape
    weights=None,   # Of the places of the grid, such as the cosine of the latitude; None: all alike
    # (mean, std) of each of the c variables, in which it is counted, so that neither a mean nor a unit
    # hides errors; None: as they are, from 0
    scale=None,
    floor=0.    # What the root mean square of `y` counts at least, in these units
):              # (b,)
    "||pred-y||/||y|| of each item, over all its frames and variables"
    pred,y = _plain(pred, y)
    if pred.shape != y.shape:
        raise ValueError(f"expected predictions of the shape of the targets {tuple(y.shape)}, got "
                         f"{tuple(pred.shape)}. Frames are channels: (b,t*c,*grid).")
    off,y = _in_units(pred-y, y, scale)
    if weights is not None:
        w = torch.as_tensor(weights, dtype=y.dtype, device=y.device).sqrt()
        off,y = w*off,w*y
    size = lambda x: torch.linalg.vector_norm(x.flatten(1), dim=1)    # its gradient at 0 is 0
    least = max(floor*y[0].numel()**.5, torch.finfo(y.dtype).tiny)
    return size(off)/size(y).clamp_min(least)

def _in_units(off, y, scale):
    "Differences and fields (b,t*c,*grid) in deviations, these from the mean"
    if scale is None: return off,y
    frames = y.shape[1]//len(scale[0])
    mean,std = (torch.as_tensor(o).to(y) for o in scale)
    if frames > 1: mean,std = mean.repeat(frames),std.repeat(frames)
    shape = -1,*[1]*(y.ndim-2)
    mean,std = mean.view(shape),std.view(shape)
    return off/std,(y-mean)/std

def rel_l2(
    pred,       # Fields (b,t*c,*grid)
    y,          # What they should be, of that shape
    weights=None    # Of the places of the grid; None: all alike
):
    "Relative L2 error ||pred-y||/||y||, the mean over items (FNO's, https://arxiv.org/abs/2010.08895)"
    return l2_of_each(pred, y, weights).mean()

def in_modes(
    x       # Fields (b,t,*grid)
):          # (b,t,modes): energy of each |k|, k rounded to whole numbers in two dimensions
    "Energy of a field by Fourier mode"
    d,sizes = x.ndim-2,x.shape[2:]
    e = torch.fft.fftn(x, dim=tuple(range(2, x.ndim)), norm='forward').abs().square()
    ks = [torch.fft.fftfreq(s, 1/s, device=x.device).abs() for s in sizes]
    k = ks[0] if d == 1 else (ks[0][:, None].square() + ks[1].square()).sqrt()
    k = k.round().long().flatten()
    out = x.new_zeros(*x.shape[:2], int(k.max())+1)
    return out.index_add(2, k, e.flatten(2))

class BandL2:
    "Metric: the relative L2 error of the Fourier modes lo <= |k| < hi of a field"
    def __init__(self,
        lo=0,       # First mode, a whole number
        hi=None     # The first one beyond; None: all above `lo`
    ):
        need_whole('lo', lo, 0)
        if hi is not None: need_whole('hi', hi, lo+1)
        self.lo,self.hi = lo,hi
        last = '' if hi is None else hi-1
        self.__name__ = f'l2_k{lo}-{last}'

    def __call__(self, pred, y):
        pred,y = _plain(pred, y)
        here = slice(self.lo, self.hi)
        top = in_modes(y[:1]).shape[-1]-1
        if self.lo > top:
            raise ValueError(f"{self.__name__} expected fields with modes from {self.lo} on, got a grid "
                             f"{tuple(y.shape[2:])} with modes up to {top}. Take a finer grid, or `lo` below.")
        size = lambda x: in_modes(x)[..., here].flatten(1).sum(1).sqrt()
        return (size(pred-y)/size(y).clamp_min(torch.finfo(y.dtype).tiny)).mean()

class RelL2Loss(nn.Module):
    "Relative L2 error as a loss or a metric: fields of all sizes count alike, and with `scale` variables of all units"
    def __init__(self,
        weights=None,           # Of the places of the grid, such as `dls.weights`; None: all alike
        # (mean, std) of each variable, such as `dls.y_scale`: counted in deviations from the mean,
        # a target as .01 of one at least; None: as `rel_l2`
        scale=None,
        reduction:str='mean',   # 'mean', 'sum' or 'none', over items
        var=None                # Position of the variable that it looks at; None: all in one norm
    ):
        super().__init__()
        if weights is not None: weights = torch.as_tensor(weights, dtype=torch.float32)
        self.register_buffer('weights', weights, persistent=False)
        if scale is not None: scale = [torch.as_tensor(o, dtype=torch.float32) for o in scale]
        self.scale,self.reduction,self.var = scale,need_reduction(reduction),var
        self.__name__ = 'rel_l2' if var is None else f'rel_l2_{var}'

    def forward(self, pred, y):
        scale = self.scale
        if self.var is not None:
            c = len(scale[0])
            pred,y = pred[:, self.var::c],y[:, self.var::c]
            scale = [o[self.var:self.var+1] for o in scale]
        l = l2_of_each(pred, y, self.weights, scale, 0. if scale is None else FLOOR)
        if self.reduction == 'none': return l
        return l.sum() if self.reduction == 'sum' else l.mean()

class KoopmanLoss(nn.Module):
    """KoopmanLab's loss, `pred` times the squared error of the prediction plus `rec` times that of the reconstruction
    (https://arxiv.org/abs/2301.10022). Mean squared errors hide the scale of a field: watch `rel_l2` beside it"""
    reduction = 'mean'  # in files of versions without another
    def __init__(self,
        pred=5.,    # Weight of the prediction; 5 in the authors' code
        rec=.5,     # Weight of the reconstruction; .5 in the authors' code
        reduction:str='mean'    # 'mean', 'sum' or 'none', over items
    ):
        super().__init__()
        for k,v in dict(pred=pred, rec=rec).items():
            need_number(k, v)
            if not 0 <= v < float('inf'): raise ValueError(f"`{k}` must be a finite number >= 0, got {v}.")
        self.pred,self.rec,self.reduction = pred,rec,need_reduction(reduction)

    def reconstruction(self,
        pairs   # (reconstruction, what it saw) of each step
    ):
        "The term of the reconstructions: summed over the steps of a roll-out"
        return self.rec*sum(self._squares(r, u) for r,u in pairs)

    def _squares(self, pred, y):
        "Mean squared error of each item, reduced"
        pred,y = _plain(pred, y)
        l = (pred-y).square().flatten(1).mean(1)
        if self.reduction == 'none': return l
        return l.sum() if self.reduction == 'sum' else l.mean()

    def forward(self, out, y, u=None):
        "Of (prediction, reconstruction) where `u`, what was seen, is given; of a prediction alone its own term"
        if isinstance(out, (tuple, list)): pred,rec = out
        else: pred,rec = out,None
        l = self.pred*self._squares(pred, y)
        if rec is None or u is None: return l
        return l + self.reconstruction([(rec, u)])

    def __repr__(self): return f'KoopmanLoss(pred={self.pred}, rec={self.rec})'
