"Rows of features and their class numbers: checked, cut into blocks, labels as one-hot rows"
import numpy as np
import torch
from torch import Tensor

__all__ = []

_NUMBERS = 2**22    # Of a block in float64 at once: 32 MiB

def need_features(
    f,          # Rows: tensor or array
    d           # How long they must be; None: any length
)->Tensor:      # (n,d), floats as they came
    "Refuse what are no rows of finite numbers"
    if isinstance(f, np.ndarray): f = np.ascontiguousarray(f)       # torch knows no negative strides
    f = torch.as_tensor(f).detach().as_subclass(Tensor)
    if f.ndim != 2 or not f.is_floating_point():
        fix = "Pool a map of features: `.mean((2,3))`."
        if f.ndim == 2: fix = "Convert them: `.float()` of a tensor, `.astype(float)` of an array."
        raise ValueError("expected features (n,d), one row of floats per item, got "
                         f"{f.dtype} {tuple(f.shape)}. {fix}")
    if d is not None and f.shape[1] != d:
        raise ValueError(f"expected rows of {d} features, got {f.shape[1]}. Take them from the body "
                         "that the first came from.")
    if not torch.isfinite(f.sum(dtype=torch.float64)):
        bad = (~torch.isfinite(f)).any(1).nonzero()[:, 0].tolist()
        raise ValueError(f"expected finite features, got NaN or inf in {len(bad)} of {len(f)} rows, "
                         f"first {bad[:3]}. Look at these items, and whether the body has diverged.")
    return f

def need_codes(
    y,          # Labels: tensor, array or list
    n           # How many
)->Tensor:      # int64 (n,), on the CPU
    "Refuse all but one class number for each of `n` rows"
    if not isinstance(y, Tensor):
        y = np.ascontiguousarray(y)
        if y.dtype.kind not in 'iufbc':
            raise TypeError(f"expected class numbers, got {y.dtype}. Of names take their positions in "
                            "a vocab.")
    y = torch.as_tensor(y)
    y = y.detach().as_subclass(Tensor).cpu()
    whole = not (y.is_floating_point() or y.is_complex() or y.dtype == torch.bool)
    if y.shape != (n,) or (n and not whole):
        raise ValueError(f"expected one class number for each of {n} rows, got {y.dtype} "
                         f"{tuple(y.shape)}. Of one-hot labels take `.argmax(1)`.")
    if n and y.min() < 0:
        raise ValueError(f"expected class numbers from 0 on, got {int(y.min())}. Leave items out "
                         "that have no label.")
    return y.long()

def one_hot(y, classes, dtype=torch.float64):
    "Labels (n,) as rows (n,c), columns in the order of `classes`; None where a class has no column"
    hit = y[:, None] == torch.tensor(classes, dtype=torch.long)
    return hit.to(dtype) if hit.any(1).all() else None

def row_blocks(*arrays, width):
    "Rows of the arrays, so many at a time that `width` numbers of each fit in 32 MiB"
    n = max(1, _NUMBERS//width)
    for i in range(0, len(arrays[0]), n): yield tuple(o[i:i+n] for o in arrays)

# --- scaling --------------------------------------------------------------------------------------
def need_scaling(scaling, d):
    "(mean, std) float64 (d,) each"
    pair = isinstance(scaling, (tuple, list)) and len(scaling) == 2
    if not pair:
        raise TypeError("`standardise` must be True, False or a pair (mean, std), got "
                        f"{type(scaling).__name__}.")
    mean,std = (torch.as_tensor(o).detach().double().cpu() for o in scaling)
    if mean.shape != (d,) or std.shape != (d,) or not (std > 0).all() or not mean.isfinite().all():
        raise ValueError(f"expected a mean and a positive std for each of {d} features, got shapes "
                         f"{tuple(mean.shape)} and {tuple(std.shape)}.")
    return mean,std

def scaling_of(f):
    "(mean, std) of features (n,d), float64; a feature that is always the same is not divided"
    n = max(1, len(f))
    mean = sum((o.double().cpu().sum(0) for o, in row_blocks(f, width=f.shape[1])), 0)/n
    var = sum(((o.double().cpu()-mean).pow(2).sum(0) for o, in row_blocks(f, width=f.shape[1])), 0)/n
    std = var.sqrt()
    flat = std <= 1e-9*mean.abs().clamp(min=1)
    return mean,torch.where(flat, torch.ones_like(std), std)

def same_tensors(a, b):
    "Whether two states, of tensors and plain values at any depth, are equal"
    if type(a) is not type(b): return False
    if isinstance(a, Tensor): return a.shape == b.shape and torch.equal(a.cpu(), b.cpu())
    if isinstance(a, dict): return a.keys() == b.keys() and all(same_tensors(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)): return len(a) == len(b) and all(map(same_tensors, a, b))
    return a == b
