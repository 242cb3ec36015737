"How far apart the classes of a data set are: the largest noise that can turn no image into one of another class"
# Yang et al. 2020 measured it for Linf; Siedel et al. 2024 chose their noise by it,
# https://arxiv.org/abs/2305.05400.
import math
from typing import NamedTuple
import numpy as np
import torch
from torch import Tensor
from fastrobust.basics import need_number, need_whole, robust_warn

__all__ = ['class_separation']

class Separation(NamedTuple):
    "Distances between images of different classes, in pixels of [0,1]"
    min:float           # The smallest distance
    mean:float          # Mean over the images of the distance to the nearest one of another class
    eps_min:float       # Noise balls of this size around images of different classes do not meet
    pair:tuple          # Positions of the two nearest images
    # Pairs of positions of equal images that have different labels, one for each such image
    duplicates:list
    # Distance of every image of `X` to the nearest of another class, float64 (n,)
    r:Tensor
    nearest:Tensor      # Its position, in `X2` if given, int64 (n,)
    p:float             # Which norm; of L0 the distances are fractions of the values

def _images(X, y, what):
    "Rows of values as float32, their unit, and labels as an array; of a loader over arrays, its own"
    items = getattr(getattr(X, 'dataset', None), 'items', None)
    if y is None and hasattr(items, 'x') and hasattr(items, 'y'):
        X,y = items.x,items.y
    if y is None:
        raise ValueError(f"expected labels beside `{what}`, got none. Pass them, or a loader of "
                         "array_dls such as `dls.train`.")
    if isinstance(X, Tensor): x = X.detach().as_subclass(Tensor)
    else: x = torch.from_numpy(np.asarray(X))
    y = np.asarray(y.cpu() if isinstance(y, Tensor) else y)
    if x.ndim < 2 or y.shape != (len(x),):
        raise ValueError(f"expected images `{what}` (n,...) with one label each, got shapes "
                         f"{tuple(x.shape)} and {y.shape}. Select images and labels alike.")
    if x.dtype != torch.uint8 and not x.is_floating_point():
        raise TypeError(f"expected `{what}` as uint8 or as floats in [0,1], got {x.dtype}. Within "
                        "0..255: `.astype('uint8')`.")
    if x.is_floating_point() and x.numel() and not (x.min() >= 0 and x.max() <= 1):
        raise ValueError(f"expected float pixels in [0,1] in `{what}`, got [{x.min():.4g}, "
                         f"{x.max():.4g}]. Give the images as they were before normalisation, or "
                         "uint8.")
    unit = 1. if x.is_floating_point() else 255.
    return x.flatten(1).float(),unit,y

def _distances(a, b, p):
    "All distances between rows (n,d) and (m,d), so that equal images have 0"
    if p != 2: return torch.cdist(a, b, p=p).double()
    # exact for whole numbers, and fast; float32 would lose small distances
    a,b = a.double(),b.double()
    aa,bb = a.square().sum(1, keepdim=True),b.square().sum(1)
    sq = aa + bb - 2*a @ b.T
    return sq.clamp_min_(0).sqrt_()

def _lower(best, at, rows, d, cols):
    "Keep for `rows` what is nearer than the `best` so far"
    v,j = d.min(1)
    nearer = v < best[rows]
    best[rows[nearer]] = v[nearer]
    at[rows[nearer]] = cols[j[nearer]]

def _blocks(y, bs, dev):
    "Pairs of a class and positions of at most `bs` of its images"
    for k in np.unique(y):
        rows = torch.from_numpy(np.flatnonzero(y == k)).to(dev)
        for block in rows.split(bs): yield k,block

def _search(x, y, x2, y2, p, bs):
    "Of each image the distance to the nearest of another class, its position; `x2` None: in `x`"
    one = x2 is None
    if one: x2,y2 = x,y
    dev = x.device
    best = torch.full((len(x),), math.inf, dtype=torch.float64, device=dev)
    at = torch.full((len(x),), -1, device=dev)      # stays where there is no other class
    blocks2 = list(_blocks(y2, bs, dev))
    for k,i in _blocks(y, bs, dev):
        for l,j in blocks2:
            if k == l or (one and k > l): continue    # the other way round serves both
            d = _distances(x[i], x2[j], p)
            _lower(best, at, i, d, j)
            if one: _lower(best, at, j, d.T, i)
    return best,at

def _twins(r, at, one):
    "Pairs of positions of equal images of different classes; within one set each pair once"
    equal = r.eq(0).nonzero()[:, 0]
    pairs = [(a, int(at[a])) for a in equal.tolist()]
    if one: pairs = [tuple(sorted(o)) for o in pairs]
    return sorted(set(pairs))

@torch.no_grad()
def class_separation(
    X,              # Images (n,...), uint8 or float in [0,1], array or tensor; or a loader of array_dls: `dls.train`
    y=None,         # Labels (n,), ints or strings; of a loader its own
    p:float=math.inf, # Which norm: 1, 2 and inf are fast; others in (0,inf) too; 0: fraction of values that differ
    *,
    X2=None,        # Other images or loader to find the neighbours in, such as the test set; None: `X` itself
    y2=None,        # Their labels
    bs:int=1024,    # Images of a block of distances
    device=None     # Where to compute; None: where `X` is. Time grows with n^2: 'cuda' for tens of thousands
)->Separation:
    "Distance of every image to the nearest one of another class; half the smallest is noise that can flip no label"
    need_number('p', p)
    if not p >= 0:
        raise ValueError(f"`p` must be in (0,inf], or 0 for L0, got {p}. Usual: 1, 2 or "
                         "float('inf').")
    need_whole('bs', bs, 1, fix='1024 is quick.')
    x,unit,y = _images(X, y, 'X')
    one = X2 is None
    x2,unit2,y2 = (x, unit, y) if one else _images(X2, y2, 'X2')
    if x.shape[1] != x2.shape[1] or unit != unit2:
        raise ValueError(f"expected `X` and `X2` of one size and scale, got {x.shape[1]} and "
                         f"{x2.shape[1]} values up to {unit:g} and {unit2:g}. Resize, or convert "
                         "both to uint8.")
    dev = x.device if device is None else torch.device(device)
    x = x.to(dev)
    x2 = x if one else x2.to(dev)
    best,at = _search(x, y, None if one else x2, y2, p, bs)
    if not len(best) or at.min() < 0:
        raise ValueError("expected images of at least two classes, got the labels "
                         f"{np.unique(y)[:5].tolist()} and {np.unique(y2)[:5].tolist()}. Every "
                         "image needs one of another class to be compared with.")
    if p == 2 and unit == 1:        # the product of matrices is not exact for fractions
        ends = zip(x.split(bs), at.split(bs))
        exact = [(o.double() - x2[j].double()).square().sum(1).sqrt() for o,j in ends]
        best = torch.cat(exact)

    r = (best/(x.shape[1] if p == 0 else unit)).cpu()
    at = at.cpu()
    same = _twins(r, at, one)
    if same:
        robust_warn(f"{len(same)} pairs of equal images have different labels, the first at "
                    f"{same[0]}: some of these labels are wrong, and the smallest distance is 0. "
                    "Look at `.duplicates`.")
    i = int(r.argmin())
    least = r[i].item()
    # two balls meet where 2 eps >= r; below p=1, where only the
    # p-th power is a distance, where 2 eps^p >= r^p
    eps = least/2**max(1., 1/p if p else 1.)
    return Separation(least, r.mean().item(), eps, (i, int(at[i])), same, r, at, float(p))
