"Measures that several problems share, as pure functions of arrays: gaps bin by bin, intervals of shares"
import numpy as np
from fastrobust.basics import need_whole

__all__ = []

def need_bins(n_bins):
    "Refuse all but whole numbers from 2 on: a single bin compares the means of everything, and hides what it averages"
    need_whole('n_bins', n_bins, 2, fix='15 is usual.')

def width_bins(conf, n_bins):
    "Number of the equally wide bin (0,1/n], (1/n,2/n] .. of each confidence; 0 is in the first"
    need_bins(n_bins)
    conf = np.asarray(conf, dtype=np.float64)
    bins = np.ceil(conf*n_bins).astype(int)-1
    return np.clip(bins, 0, n_bins-1)

def gap_of(bins, conf, right, n_bins, power=1):
    "(sum over bins of share x |accuracy - mean confidence|^power)^(1/power)"
    n = np.bincount(bins, minlength=n_bins)
    total = np.bincount(bins, right-conf, n_bins)
    gap = np.abs(total)/np.maximum(n, 1)
    share = n/len(conf)
    mean = (share*gap**power).sum()
    return float(mean**(1/power))

def binned_gap(conf, right, n_bins, power):
    "`gap_of` over equally wide bins"
    conf = np.asarray(conf, dtype=np.float64)
    right = np.asarray(right, dtype=np.float64)
    bins = width_bins(conf, n_bins)
    return gap_of(bins, conf, right, n_bins, power)

def wilson_interval(
    p,          # Observed shares (k,)
    n,          # Of how many (k,)
    z:float=1.96 # Half width in standard errors; 1.96 for 95 %
) -> tuple: # (low, high), float64 (k,); NaN for n = 0
    "Interval of a share that stays in [0,1] and has a length at 0 and 1 too (Wilson 1927)"
    p = np.asarray(p, dtype=np.float64)
    n = np.asarray(n, dtype=np.float64)
    with np.errstate(invalid='ignore', divide='ignore'):
        mid = p + z*z/(2*n)
        half = z*np.sqrt(p*(1-p)/n + z*z/(4*n*n))
        scale = 1 + z*z/n
        lo,hi = (mid-half)/scale,(mid+half)/scale
        return lo.clip(0, 1),hi.clip(0, 1)      # at 0 and n of n rounding leaves them by 1e-17
