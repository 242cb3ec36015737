"Items that are there more than once: alike to the last pixel, or nearly alike to a network"
import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from fastrobust.inference.rows import scaling_of

__all__ = []

# Cosine of standardised features from which on two images are taken for one. Photographs saved
# anew, scaled or cropped a little reach it, different ones of one class hardly ever (RESULTS.md)
ALIKE = .95
# Images in a group, and its share of a class, beyond which they are a kind, not copies
MANY,SHARE = 20,1/3
MOST = 20_000       # Items that are compared with each other; of more only equal ones are found

def groups_of(
    numbers     # One for each item (n,), equal for those that belong together
):
    "Positions of the items that belong together: a list of arrays of two or more"
    order = np.argsort(numbers, kind='stable')
    cuts = np.flatnonzero(np.diff(numbers[order])) + 1
    return [i for i in np.split(order, cuts) if len(i) > 1]

def _pairs(f):
    "Positions (i,j) of rows with a cosine of `ALIKE` or more, i < j, after each feature was standardised"
    mean,std = (o.float() for o in scaling_of(f))
    def unit(rows): return torch.nn.functional.normalize((rows.float()-mean)/std)
    found = []
    whole = unit(f)
    for i,part in enumerate(whole.split(2048)):
        near = (part @ whole[2048*i:].T >= ALIKE).nonzero() + 2048*i
        found.append(near[near[:, 0] < near[:, 1]])
    return torch.cat(found).T.numpy()

def copies_of(
    keys,       # A number for each item by which its content is known, (n,)
    f=None,     # Features (n,d), float: near copies are found too, of up to 20,000 items
    y=None      # Labels int (n,), beside features
):
    "Positions of the items that are there more than once: a list of arrays"
    n = len(keys)
    if f is None or n > MOST or n < 2: return groups_of(keys)
    same = [(group[:-1], group[1:]) for group in groups_of(keys)]
    i,j = np.concatenate([np.array(o) for o in same], 1) if same else np.zeros((2, 0), int)
    equal = connected_components(coo_matrix((np.ones(len(i)), (i, j)), shape=(n, n)), directed=False)[1]
    a,b = _pairs(f)
    i,j = np.append(i, a),np.append(j, b)
    near = connected_components(coo_matrix((np.ones(len(i)), (i, j)), shape=(n, n)), directed=False)[1]
    # where all of a kind look alike, only equal ones are copies
    for group in groups_of(near):
        if len(group) > MANY or _is_kind(group, y): near[group] = n+equal[group]
    return groups_of(near)

def _is_kind(group, y):
    "Whether a group of items is a good part of a class"
    labels,count = np.unique(y[group], return_counts=True)
    return bool((count > SHARE*np.bincount(y)[labels]).any())
