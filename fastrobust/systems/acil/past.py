"What a learner of phases remembers of them: numbers, and 8 bytes of an item by which it is known again; no image"
from collections import Counter
from typing import NamedTuple
import numpy as np
import torch
from fastrobust.basics import robust_warn

__all__ = []

class Phase(NamedTuple):
    "What is known of a phase that was learned"
    name:str            # 'base', '1', '2', .. or that of a folder
    new:list            # Codes of classes that came for the first time
    n:int               # Items; below 0: so many were forgotten
    known:int           # Classes that the head knows afterwards
    gamma:float         # Penalty of the head afterwards
    T:float             # Temperature afterwards
    # Validation items: (recognised, all) of each class by code, after the phase
    hits:dict
    digests:np.ndarray  # Of each item, uint64 (n,)
    labels:np.ndarray   # The codes it was learned with, int64 (n,)
    planned:bool        # Of the plan, or added?

def key_of(past, i):
    "Under what a learner keeps the features of its phase `i`"
    if past[i].planned: return 'plan',sum(p.planned for p in past[:i])
    return 'added',i

# --- to a file and back ---------------------------------------------------------------------------
def plain(p):
    "`Phase` as plain values and tensors, for a file"
    arrays = dict(digests=torch.from_numpy(p.digests.view(np.int64)), labels=torch.from_numpy(p.labels))
    return {**p._asdict(), **arrays}

def phase_of(o):
    "The `Phase` that `plain` wrote"
    arrays = dict(digests=o['digests'].cpu().numpy().view(np.uint64), labels=o['labels'].cpu().numpy())
    return Phase(**{**o, **arrays})

# --- items that come again ------------------------------------------------------------------------
def need_new(past, digests, name):
    "Refuse items most of which were learned already: a second pass would count them twice"
    known = [(p.name, float(np.isin(digests, p.digests).mean())) for p in past if len(p.digests)]
    share = float(np.isin(digests, np.concatenate([p.digests for p in past])).mean()) if known else 0.
    if not share: return
    where = ', '.join(f'{k} ({v:.1%})' for k,v in known if v)
    if share > .5:
        raise ValueError(f"expected items that have not been learned, got phase {name!r} of which "
                         f"{share:.0%} were in earlier ones: {where}. A second pass would count them "
                         "twice; to learn them anew, `forget` them first.")
    robust_warn(f"{share:.1%} of the items of phase {name!r} are items of earlier ones: {where}. An item "
                "that comes twice counts twice.")

def without(past, digests, labels):
    "The phases without the items that are to be forgotten; refused if some were not learned, or with other labels"
    left = Counter(zip(digests.tolist(), labels.tolist()))
    out = []
    for p in past:
        keep = np.ones(len(p.digests), bool)
        for i in np.flatnonzero(np.isin(p.digests, digests)):
            item = int(p.digests[i]),int(p.labels[i])
            if left[item] > 0:
                left[item] -= 1
                keep[i] = False
        out.append(p._replace(digests=p.digests[keep], labels=p.labels[keep]))
    n = sum(left.values())
    if not n: return out
    known = set().union(*(p.digests.tolist() for p in past))
    other = sum(v for (d,_),v in left.items() if d in known)
    why = f"; {other} of them were learned with another label, or fewer times" if other else ''
    raise ValueError(f"expected items that were learned, with the labels they were learned with, got "
                     f"{n} of {len(digests)} that were not{why}. Each can be forgotten once.")
