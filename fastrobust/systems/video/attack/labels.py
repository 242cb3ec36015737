"Classes, targets and numbers of clips, as an attack is given them; the chance of a clip"
import numpy as np
import torch
from torch import Tensor
from fastrobust.basics import is_whole, shown

__all__ = []

THIRD = 'third'     # AstFocus' target: the class with the third highest probability

def need_codes(
    name,   # Of the argument
    v,      # What was given: (n,), or one number for all
    n       # Clips
):          # List of n whole numbers from 0 on
    "Refuse what is no class number for each clip"
    if is_whole(v): v = [int(v)]*n
    a = v.detach().cpu().numpy() if isinstance(v, Tensor) else np.asarray(v)
    if a.shape != (n,):
        raise ValueError(f"expected `{name}` with a class for each of {n} clips, ({n},), got "
                         f"{a.shape}. Select both alike.")
    if a.dtype.kind not in 'iu':
        raise TypeError(f"expected `{name}` as whole class numbers, got {a.dtype}. Names: take "
                        "their positions in dls.vocab; whole numbers kept as floats: y.long().")
    if a.min() < 0:
        raise ValueError(f"expected `{name}` from 0 on, got {a.min()}. Leave out clips without a "
                         "label.")
    return a.tolist()

def need_code(name, v, k):
    "Refuse a class that the model does not have"
    if v < k: return v
    raise ValueError(f"expected `{name}` in 0..{k-1}, as the model answers with {k} classes, got "
                     f"{v}. Are these the labels of its training?")

def need_targets(
    target, # Class numbers (n,), or one; 'third'; None
    n       # Clips
):          # List of n
    "A target for each clip"
    if target is None or (isinstance(target, str) and target == THIRD): return [target]*n
    if isinstance(target, str):
        raise ValueError(f"`target` must be class numbers, 'third' or None, got {shown(target)}. "
                         "Names: take their positions in dls.vocab.")
    return need_codes('target', target, n)

def need_others(
    targets,    # Of `need_targets`
    ys          # Classes of the clips
):
    "Refuse a target that is the clip's own class"
    for i,(target,y) in enumerate(zip(targets, ys)):
        if target != y: continue
        raise ValueError(f"expected a target other than the clip's own class, got {target} for both "
                         f"of clip {i}. Give another, or leave out the clips of that class.")

def the_target(
    target, # Class number, 'third' or None
    p       # Probabilities (k,) of the clip as it is
):          # Class number or None
    "Class wanted for a clip"
    if target is None: return None
    k = len(p)
    if target == THIRD:
        if k >= 3: return int(p.argsort(descending=True, stable=True)[2])
        raise ValueError(f"expected 3 classes or more for target='third', got {k}. Give the class "
                         "itself.")
    return need_code('target', target, k)

def clip_generator(
    seed,   # Whole number from 0 on
    i       # Number of the clip
):          # torch.Generator on the CPU
    "All chance of a clip"
    words = np.random.SeedSequence((seed, i)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0]) >> 1)
