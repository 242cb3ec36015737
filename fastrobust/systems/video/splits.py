"Which clips are for training and which for validation; clips of one recording stay together"
import numpy as np
from fastrobust.basics import need_number, shown

__all__ = []

def is_share(valid):
    "Is it a number, and so a share? Anything but numbers is another way to split"
    return isinstance(valid, (int, float, np.number)) and not isinstance(valid, bool)

def need_pair(valid):
    "Clips and labels to validate on, (Xv, yv)"
    if isinstance(valid, (tuple, list)) and len(valid) == 2: return tuple(valid)
    raise TypeError(f"expected `valid` as a share in (0,1) or as a pair (Xv, yv), got {shown(valid)}. For a fifth at "
                    "random: .2.")

def random_split(
    n,          # Clips
    share,      # To validate on, in (0,1)
    seed,       # Of the draw
    groups=None # Name of the recording of each clip (n,); None: every clip is its own
):              # (training, validation) positions, rising
    "A random share of the clips, in whole groups: the nearest to the share from below, one group at least"
    need_number('valid', share)
    names = np.arange(n) if groups is None else np.asarray(groups)
    kinds,which = np.unique(names, return_inverse=True)
    what = 'clips' if groups is None else f'clips of {len(kinds)} recordings'
    if not 0 < share < 1 or len(kinds) < 2:
        raise ValueError(f"expected `valid` in (0,1) with clips left on both sides, got {share} of {n} {what}. Give "
                         "more clips or another share.")
    order = np.random.default_rng(seed).permutation(len(kinds))
    sizes = np.bincount(which)[order]
    k = int((sizes.cumsum() <= round(n*share)).sum())
    k = min(max(k, 1), len(kinds)-1)
    held = np.isin(which, order[:k])
    return np.flatnonzero(~held),np.flatnonzero(held)
