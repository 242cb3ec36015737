"The planted-error audit: labels made wrong on purpose tell how wrong labels look to this network on these data"
from typing import NamedTuple
import numpy as np
from fastrobust.basics import need_number, need_whole
from fastrobust.labels.channel import tempered
from fastrobust.predictions import need_probs

__all__ = []

KINDS = ('symmetric', 'confusion')

class PlantLaw(NamedTuple):
    "How a label that is planted is drawn: evenly from the other classes, or as the network confuses them, or between"
    spread:float=1.         # Share drawn evenly, in [0,1]; the rest goes by the probabilities of the others
    temperature:float=1.    # Of these probabilities

    def weights(self,
        y,  # Given labels (n,)
        p   # Probabilities (n,c)
    )->np.ndarray: # float64 (n,c)
        "Chance of each label to be planted, rows sum to 1; never the given one"
        at = np.arange(len(y))
        w = np.full(p.shape, 1/(p.shape[1]-1))
        w[at, y] = 0
        if self.spread >= 1: return w
        v = tempered(p, self.temperature)
        v[at, y] = 0
        v /= np.maximum(v.sum(1, keepdims=True), 1e-12)
        return self.spread*w + (1-self.spread)*v

SYMMETRIC,CONFUSION = PlantLaw(1.),PlantLaw(0.)

def law_of(kind):
    "The `PlantLaw` that is meant by a name; one itself stays as it is"
    if isinstance(kind, PlantLaw): return kind
    if kind not in KINDS:
        raise ValueError(f"plants must be 'symmetric' or 'confusion', got {kind!r}. The first are "
                         "drawn evenly from the other classes, the second as the network confuses "
                         "them.")
    return SYMMETRIC if kind == 'symmetric' else CONFUSION

def plant_labels(
    y,                      # Given labels (n,), ints 0..c-1; never written to
    n_classes:int,          # c
    share:float=.05,        # Share of the labels to change, in (0,.5]; the audit's 5 % costs the network little
    seed:int=0,             # Of an own random stream
    *,
    # New label: 'symmetric', any other alike; 'confusion', by `probs` of the others; or a `PlantLaw`
    kind='symmetric',
    probs=None,             # Probabilities (n,c); for all but 'symmetric'
    use=None                # Mask (n,) of the labels that may be changed; None: all
): # (labels with the planted ones (n,) int64, mask of the planted (n,) bool)
    "Change `round(share*n)` labels, each to one it was not"
    law = law_of(kind)
    c = n_classes
    y = np.array(y)
    ints = y.ndim == 1 and y.dtype.kind in 'iu' and len(y)
    if not ints or y.min() < 0 or y.max() >= c or c < 2:
        raise ValueError(f"expected labels (n,) as ints in 0..{c-1} of at least 2 classes, got "
                         f"{y.dtype} of shape {y.shape}. Take them from `given_labels(dls)`.")
    need_number('share', share)
    ids = np.arange(len(y)) if use is None else np.flatnonzero(use)
    k = round(share*len(ids))
    if not 0 < share <= .5 or k < 1:
        raise ValueError(f"`share` must be in (0,.5] and change at least one of the {len(ids)} "
                         f"labels, got {share}. Try .05.")
    need_whole('seed', seed, 0)
    even = law.spread >= 1
    if even != (probs is None):
        raise ValueError("expected `probs` with kind='confusion' and only there, got "
                         f"kind={kind!r}. Give out-of-sample probabilities, or leave both out.")

    # the folds are dealt by `seed` alone
    rng = np.random.default_rng([seed, 1])
    i = np.sort(rng.permutation(ids)[:k])
    if even: new = (y[i] + rng.integers(1, c, k))%c
    else:
        _,p = need_probs(y, probs)
        w = law.weights(y[i], p[i]).cumsum(1)
        new = (rng.random((k, 1))*w[:, -1:] < w).argmax(1)

    mask = np.zeros(len(y), bool)
    mask[i] = True
    y = y.astype(np.int64)
    y[i] = new
    return y,mask

# --- what was planted, and what became of it ------------------------------------------------------
class Plants(NamedTuple):
    "Labels planted, and what was predicted for their items by who had learned the planted ones of the others"
    items:np.ndarray    # Positions (k,); of several draws one after the other
    labels:np.ndarray   # Planted labels (k,)
    probs:np.ndarray    # Probabilities (k,c)
    draws:int=1         # How often was planted, each time as many

    def joined(self, others):
        "These and others as one"
        all_ = [self, *others]
        parts = [np.concatenate([o[k] for o in all_]) for k in range(3)]
        return Plants(*parts, sum(o.draws for o in all_))

    def each(self):
        "(items, labels, probabilities) of each draw"
        return zip(*(np.array_split(o, self.draws) for o in self[:3]))

def few_share(share, n):
    "`share`, or what plants at least one of `n` labels"
    return min(max(share, 1/n), .5)

def virtual_plants(y, p, law, use, share=.05, draws=5):
    "`Plants` that nobody planted: of a network that has not seen an item's label the probabilities are the same"
    if use.sum() < 2: use = np.ones(len(y), bool)
    share = few_share(share, use.sum())
    found = [plant_labels(y, p.shape[1], share, s, kind=law, probs=None if law.spread >= 1 else p,
                          use=use) for s in range(draws)]
    items = np.concatenate([np.flatnonzero(mask) for _,mask in found])
    labels = np.concatenate([new[mask] for new,mask in found])
    return Plants(items, labels, p[items], draws)
