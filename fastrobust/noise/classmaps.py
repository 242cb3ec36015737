"Which class is taken for which: the maps of the papers, and maps by name"
from numbers import Real
import numpy as np
from fastrobust.basics import is_whole, nearest, need_whole, robust_warn

__all__ = []

_CIFAR10 = 'airplane automobile bird cat deer dog frog horse ship truck'.split()
CLASS_MAPS = dict(                          # by index
    cifar10={9:1, 2:0, 4:7, 3:5, 5:3},      # truck->automobile, bird->airplane, deer->horse, cat<->dog
    mnist={7:1, 2:7, 3:8, 5:6, 6:5})

# superclass 0..19 of the fine classes 0..99, which are alphabetical
CIFAR100_COARSE = [int(o) for o in (
    '4 1 14 8 0 6 7 7 18 3 3 14 9 18 7 11 3 9 7 11 6 11 5 10 7 6 13 15 3 15 0 11 1 10 12 14 16 9 '
    '11 5 5 19 8 8 15 13 14 17 18 10 16 4 17 4 2 0 17 4 18 17 10 3 2 12 12 16 12 1 9 19 2 10 0 1 '
    '16 12 9 13 15 13 16 19 2 4 6 19 5 5 8 19 18 1 2 15 6 0 17 8 14 13').split()]
SUPERCLASS_MAPS = dict(                     # fine -> super
    cifar100_superclass=dict(enumerate(CIFAR100_COARSE)),
    # JoCoR's and ALASCA's code: six of its 100 moves stay in the class
    cifar100_block5={i: i//5 for i in range(100)})
MATRIX_KINDS = ('symmetric', 'asymmetric', 'pair', 'superclass', 'matrix')

# --- checks ---------------------------------------------------------------------------------------
def check_rate(kind, rate):
    if rate is None:
        raise ValueError(f"kind={kind!r} needs a `rate` in [0,1], got none. Pass e.g. rate=.4.")
    if isinstance(rate, (bool, np.bool_)) or not isinstance(rate, Real):
        raise TypeError(f"`rate` must be a number in [0,1], got {rate!r}. Pass e.g. rate=.4.")
    if not 0 <= rate <= 1:
        raise ValueError(f"`rate` must lie in [0,1], got {rate}. It is a share of the labels: for "
                         "40 % pass .4.")
    return float(rate)

def check_n(n):
    if n is not None: need_whole('n_classes', n, 1, fix='Pass the size of the vocab.')

# --- maps of classes ------------------------------------------------------------------------------
def _lookup(n, vocab):
    o2i = {} if vocab is None else {str(v): i for i,v in enumerate(vocab)}
    def idx(o):
        if is_whole(o) and 0 <= o < n: return int(o)
        if isinstance(o, str) and o in o2i: return o2i[o]
        hint = nearest(o, o2i) if o2i else f"Pass indices in [0,{n}); names need the `vocab`."
        raise ValueError(f"`mapping` expected classes among the {n} known ones, got {o!r}. {hint}")
    return idx

def _check_map(mapping):
    if not isinstance(mapping, dict) or not mapping:
        raise TypeError(f"`mapping` must be a name or a non-empty dict, got {mapping!r}. Pass e.g. "
                        "{'cat': 'dog'}.")

def _class_map(mapping, n, vocab=None):
    "dict index -> index from `mapping`: a name, or a dict of indices or of class names"
    if mapping is None:
        mapping = 'cifar10'
        if vocab is not None and n == 10 and [str(v) for v in vocab] != _CIFAR10:
            robust_warn(f"asymmetric noise uses the papers' CIFAR-10 map on {list(vocab)}. Pass "
                        "your own `mapping`.")
    if isinstance(mapping, str):
        if mapping not in CLASS_MAPS:
            raise ValueError(f"unknown mapping {mapping!r}. {nearest(mapping, CLASS_MAPS)} Or pass "
                             "a dict.")
        if n == 10: return dict(CLASS_MAPS[mapping])
        raise ValueError(f"mapping {mapping!r} is for 10 classes, got {n}. Pass a dict of indices "
                         "or names.")
    _check_map(mapping)
    idx = _lookup(n, vocab)
    return {idx(k): idx(v) for k,v in mapping.items()}

def _need_super_map(mapping, n):
    if mapping not in SUPERCLASS_MAPS:
        raise ValueError(f"unknown mapping {mapping!r}. "
                         f"{nearest(mapping, [*SUPERCLASS_MAPS, 'next_class'])} Or pass a "
                         "dict.")
    if n != 100:
        raise ValueError(f"mapping {mapping!r} is for 100 classes, got {n}. Pass a dict: class -> "
                         "superclass.")

def _super_map(mapping, n, vocab=None):
    "dict index -> next index of the same superclass, in a ring; a class alone in its ring is left out"
    if mapping is None:
        mapping = 'cifar100_superclass'
        known = vocab is not None and n == 100
        if known and (str(vocab[0]), str(vocab[-1])) != ('apple', 'worm'):
            robust_warn("superclass noise uses CIFAR-100's grouping on other classes. Pass your "
                        "own `mapping`.")
    if mapping == 'next_class': groups = dict.fromkeys(range(n), 0)
    elif isinstance(mapping, str):
        _need_super_map(mapping, n)
        groups = SUPERCLASS_MAPS[mapping]
    else:
        _check_map(mapping)
        idx = _lookup(n, vocab)
        groups = {idx(k): v for k,v in mapping.items()}

    rings = [sorted(i for i in groups if groups[i] == g) for g in dict.fromkeys(groups.values())]
    if max(map(len, rings)) < 2:
        raise ValueError("`mapping` expected superclasses of two classes or more, got "
                         f"{len(rings)} of one. It goes from class to superclass; to name targets "
                         "use kind='asymmetric'.")
    return {i: r[(k+1) % len(r)] for r in rings for k,i in enumerate(r)}

def switch(kind, n, inclusive=False, mapping=None, vocab=None):
    "W (n,n): law of the new label of a chosen sample; T = (1-rate)*I + rate*W"
    if n < 2 and not (kind == 'symmetric' and inclusive):
        raise ValueError(f"{kind} noise needs at least 2 classes to switch between, got "
                         f"n_classes={n}. Pass the size of the vocab as n_classes.")
    if kind == 'symmetric' and inclusive: return np.full((n,n), 1/n)
    if kind == 'symmetric': return (1-np.eye(n))/(n-1)
    if kind == 'pair':      return np.roll(np.eye(n), 1, axis=1)
    if kind == 'superclass': to = _super_map(mapping, n, vocab)
    else: to = _class_map(mapping, n, vocab)
    return np.eye(n)[[to.get(i, i) for i in range(n)]]
