"Imbalance on purpose: which samples of a data set to keep so that class sizes fall off. First this, then label noise"
# The recipe of LDAM, https://arxiv.org/abs/1906.07413
import numpy as np
from fastrobust.basics import need_number, robust_warn
from fastrobust.data.noiserecord import int_labels

__all__ = ['long_tail']

def long_tail(
    y,              # True labels (n,); class 0 stays the largest, the last becomes the smallest
    imb:float=.01,  # Smallest over largest class, in (0,1]; papers: .1, .02, .01, .005
    kind:str='exp', # 'exp': sizes fall by equal factors; 'step': the second half of the classes has `imb` of the first
    seed:int=0      # Of the choice within each class
) -> np.ndarray: # Positions to keep, ascending: `X[idx], y[idx]`
    "Positions of a long-tailed part: class k keeps int(n/c imb**(k/(c-1))) samples. Noise, if any, comes after"
    y = int_labels(y)
    need_number('imb', imb)
    if not 0 < imb <= 1: raise ValueError(f"`imb` must lie in (0,1], got {imb}. For 1 of 100 pass .01.")
    if kind not in ('exp', 'step'): raise ValueError(f"`kind` must be 'exp' or 'step', got {kind!r}. Try 'exp'.")
    have = np.bincount(y)
    c,full = len(have),len(y)/len(have)
    if kind == 'exp': want = [int(full*imb**(k/max(c-1, 1)) + 1e-9) for k in range(c)]
    else:             want = [int(full)]*(c//2) + [int(full*imb + 1e-9)]*(c-c//2)
    if c == 1: want = [int(full)]
    if min(want) < 1: robust_warn(f"long_tail: imb={imb} leaves less than one sample in the smallest class: one stays.")
    want = np.maximum(want, 1)
    if (have < want).any():
        robust_warn(f"long_tail: class {int((have < want).argmax())} has fewer samples than its share: all are kept.")
    rng = np.random.default_rng(seed)
    return np.sort(np.concatenate([rng.permutation(np.flatnonzero(y==k))[:n] for k,n in enumerate(want)]))
