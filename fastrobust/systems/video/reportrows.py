"What a video report measures of an attack: clip by clip, as means, and against another attack"
import math
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
import numpy as np
import torch
from scipy import stats
from fastrobust.metrics import wilson_interval
from fastrobust.systems.video.ssim import clip_ssim

__all__ = []

KEPT = 8        # clips whose changed pixels are kept, for pictures
MEASURED = 'success','queries','change','area','touched','ssim','seconds'   # of each clip

# --- time -----------------------------------------------------------------------------------------
class Watch:
    "Seconds spent in the forward passes of a network while `running`"
    def __init__(self, model): self.model,self.seconds = model,0.

    def _now(self, *args):
        # a GPU answers before it is done
        if torch.cuda.is_available() and torch.cuda.is_initialized(): torch.cuda.synchronize()
        return perf_counter()

    def _begin(self, *args): self._at = self._now()
    def _end(self, *args): self.seconds += self._now()-self._at

    @contextmanager
    def running(self):
        "Within: the network has two more hooks"
        first = self.model.register_forward_pre_hook(self._begin)
        last = self.model.register_forward_hook(self._end)
        try: yield self
        finally:
            first.remove()
            last.remove()

# --- one attack -----------------------------------------------------------------------------------
@dataclass
class Row:
    "An attack on m clips; arrays have a number a clip"
    name:str
    asks:bool               # Does it ask within the budget? False for the bound, which has the gradient
    success:np.ndarray      # Was the victim fooled
    queries:np.ndarray      # Clips asked about
    change:np.ndarray       # Mean absolute change of a pixel, of 255
    area:np.ndarray         # Mean area of a step's mask; NaN without a step
    touched:np.ndarray      # Share of pixels changed in the end
    ssim:np.ndarray         # Structural similarity to the clip
    seconds:np.ndarray
    in_victim:float         # Share of the time that the victim took
    answers:np.ndarray      # What the victim answers now
    adv:torch.Tensor        # The first changed clips (k,c,t,h,w)
    masks:torch.Tensor      # How often each of their pixels was in the mask (k,t,h,w)

    def __len__(self): return len(self.success)

def _array(v, m):
    "The first `m` numbers as float64; NaN where there are none"
    if v is None: return np.full(m, math.nan)
    v = np.asarray(v, dtype=np.float64)
    return v[:m] if v.ndim else np.full(m, float(v))

def measured(
    name,       # Of the row
    clips,      # Clips that were attacked (n,c,t,h,w)
    result,     # `AttackResult` of them, of the first `result.finished`
    asks=True,  # Does it ask within the budget?
    inside=math.nan # Seconds in the victim
)->Row:
    "The numbers of an attack"
    m = int(result.finished)
    adv = result.adv[:m].float().cpu()
    seconds = _array(result.seconds, m)
    total = seconds.sum()
    share = inside/total if total > 0 else math.nan
    kept = min(m, KEPT)
    queries = _array(result.queries if asks else None, m)
    alike = clip_ssim(clips[:m], adv).numpy()
    masks = torch.as_tensor(result.masks)[:kept].float()
    change,area,touched = (_array(o, m) for o in (result.map, result.area, result.touched))
    area = np.where(area > 0, area, math.nan)       # without a step there is no mask
    success,answers = _array(result.success, m) > 0,np.asarray(result.answers)[:m]
    return Row(name, asks, success, queries, change, area, touched, alike, seconds, share, answers,
               adv[:kept].clone(), masks.clone())

# --- many clips -----------------------------------------------------------------------------------
def reach(
    n   # Clips
):
    "How many standard errors go to a 95 % interval of a mean: 1.96 of many clips, 12.7 of two"
    return float(stats.t.ppf(.975, n-1)) if n > 1 else math.nan

def sign_test(
    won,    # Clips that one attack fooled and the other did not
    lost    # The other way round
):
    "How often chance alone is as uneven: the exact test of McNemar, two-sided"
    return float(stats.binomtest(int(won), int(won+lost)).pvalue) if won+lost else 1.

def mean_se(v):
    "Mean and standard error of what is there"
    v = np.asarray(v, dtype=np.float64)
    v = v[~np.isnan(v)]
    n = len(v)
    if not n: return math.nan,math.nan
    if n == 1: return float(v[0]),math.nan
    return float(v.mean()),float(v.std(ddof=1)/math.sqrt(n))

def numbers(row):
    "A line of the table, without the differences"
    m = len(row)
    fooled = float(row.success.mean())
    low,high = (float(o) for o in wilson_interval(fooled, m))
    d = dict(clips=m, fooled=fooled, low=low, high=high)
    measures = dict(queries=row.queries, change=row.change)
    for k,v in measures.items():
        d[k],d[f'{k}_se'] = mean_se(v)
        d[f'{k}_fooled'],d[f'{k}_fooled_se'] = mean_se(v[row.success])
    for k in MEASURED[3:]:
        d[k],d[f'{k}_se'] = mean_se(getattr(row, k))
    d['in_victim'] = row.in_victim
    return d

DIFFERENCES = 'fooled','queries','change','seconds'

def paired(
    row,        # The attack
    other       # A control on the same clips
):
    """Means of attack - control over the clips that both finished, with standard errors; of the change over the clips
    that both fooled, as what failed has used the whole of its budget. `d_fooled_p`: of `sign_test`"""
    m = min(len(row), len(other))
    d = {}
    fooled = row.success[:m] & other.success[:m]
    for k in DIFFERENCES:
        name = 'success' if k == 'fooled' else k
        a,b = getattr(row, name)[:m],getattr(other, name)[:m]
        diff = a.astype(float) - b
        if k == 'change': diff = diff[fooled]
        d[f'd_{k}'],d[f'd_{k}_se'] = mean_se(diff)
    d['both'] = int(fooled.sum())
    a,b = row.success[:m],other.success[:m]
    d['pairs'],d['d_fooled_p'] = m,sign_test((a & ~b).sum(), (b & ~a).sum())
    return d
