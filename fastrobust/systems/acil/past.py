"What a learner of phases remembers of them: numbers, and digests by which it knows items again; no image, no feature"
from typing import NamedTuple
import numpy as np
import torch
from fastrobust.basics import robust_warn

__all__ = []

_SKETCH = 1024  # Digests kept of a phase, the smallest: of fewer items all, of more a sample

class Phase(NamedTuple):
    "What is known of a phase that was learned"
    name:str            # 'base', '1', '2', .. or that of a folder
    new:list            # Codes of classes that came for the first time
    n:int               # Items; below 0: so many were forgotten
    gamma:float         # Penalty of the head afterwards
    T:float             # Temperature afterwards
    # Validation items: (recognised, all) of each class by code, after the phase
    hits:dict
    digests:np.ndarray  # Of items, uint64: all below `limit`
    limit:int           # 2^64 where the digests are of all items
    planned:bool        # Of the plan, or added?

def key_of(past, i):
    "Under what a learner keeps the features of its phase `i`"
    if past[i].planned: return 'plan',sum(p.planned for p in past[:i])
    return 'added',i

def plain(p):
    "`Phase` as plain values and tensors, for a file"
    return {**p._asdict(), 'digests': torch.from_numpy(p.digests.view(np.int64))}

def phase_of(o):
    "The `Phase` that `plain` wrote"
    return Phase(**{**o, 'digests': o['digests'].cpu().numpy().view(np.uint64)})

def sketch(digests):
    "(digests, limit): the smallest, a sample of the items that is the same whenever they come"
    d = np.unique(digests)
    return (d, 2**64) if len(d) <= _SKETCH else (d[:_SKETCH], int(d[_SKETCH]))

def below(digests, limit):
    "Those of `digests` that a sketch with `limit` would hold"
    d = np.unique(digests)
    return d if limit == 2**64 else d[d < np.uint64(limit)]

def share_known(p, digests):
    "Share of items with `digests` that `Phase` `p` had: exact if it had 1024 items or less, else estimated"
    mine = below(digests, p.limit)
    return float(np.isin(mine, p.digests).mean()) if len(mine) else 0.

def need_new(past, digests, name):
    "Refuse items most of which were learned already: a second pass would count them twice"
    known = [(p.name, share_known(p, digests)) for p in past]
    share = sum(v for _,v in known)
    if not share: return
    where = ', '.join(f'{k} ({v:.1%})' for k,v in known if v)
    if share > .5:
        raise ValueError(f"expected items that have not been learned, got phase {name!r} of which "
                         f"about {min(share, 1):.0%} were in earlier ones: {where}. A second pass "
                         "would count them twice; to learn them anew, `forget` them first.")
    robust_warn(f"about {share:.1%} of the items of phase {name!r} look like items of earlier ones: "
                f"{where}. An item that comes twice counts twice.")
