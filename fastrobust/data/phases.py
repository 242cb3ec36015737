"Class-incremental learning: which classes come in which phase, and the fastai loaders of each phase"
# A base, then phases of new classes: ACIL, https://arxiv.org/abs/2205.14922
# Items that come in other phases than their class: GACL, https://arxiv.org/abs/2403.15706
from collections.abc import Hashable
import numpy as np
from fastrobust.basics import is_whole, nearest, need_number, need_whole, robust_warn, target_vocab
from fastrobust.data.editing import given_labels, take_items, take_parts
from fastrobust.data.reading import codes

__all__ = ['class_phases']

_HALF = .5      # the base of the papers; beside phases that leave no choice it claims nothing

# --- classes by name or code ----------------------------------------------------------------------
def _some(names, n=6):
    more = f', .. ({len(names)})' if len(names) > n else ''
    return ', '.join(str(o) for o in names[:n]) + more

def _class_codes(names, vocab, what):
    "Codes of classes given by name or, where the vocab has names, by code; each once"
    if isinstance(names, str) or not hasattr(names, '__iter__'):
        raise TypeError(f"expected `{what}` as a list of classes, got {names!r}. Write "
                        f"[{names!r}].")
    o2i = {o: i for i,o in enumerate(vocab)}
    if not any(is_whole(o) for o in vocab):
        o2i |= {i: i for i in range(len(vocab))}
    found = []
    for o in names:
        if hasattr(o, 'item'): o = o.item()
        if not isinstance(o, Hashable) or o not in o2i:
            raise ValueError(f"expected classes of the vocab in `{what}`, got {o!r}. "
                             f"{nearest(o, vocab)}")
        found.append(o2i[o])
    _once(found, vocab, what)
    return found

def _once(found, vocab, what):
    "Refuse classes that are there twice"
    twice = sorted({k for k in found if found.count(k) > 1})
    if not twice: return
    raise ValueError(f"expected each class once in `{what}`, got "
                     f"{_some([vocab[k] for k in twice])} more than once. A class has one phase; "
                     "for items that come in others there is `blurry`.")

def _need_all(found, vocab, what):
    "Refuse a list without some of the classes"
    missing = [o for k,o in enumerate(vocab) if k not in found]
    if missing:
        raise ValueError(f"expected all {len(vocab)} classes in `{what}`, got "
                         f"{len(vocab)-len(missing)}: without {_some(missing)}. Add them, or "
                         "leave their items out of the dls.")

# --- who comes when -------------------------------------------------------------------------------
def _in_order(order, vocab, rng):
    "Codes of all classes in the order in which they come"
    drawn = rng.permutation(len(vocab)).tolist()
    if order is None: return drawn
    if isinstance(order, str):
        if order == 'vocab': return list(range(len(vocab)))
        raise ValueError(f"expected `order` as None, 'vocab' or a list of all classes, got "
                         f"{order!r}. Try 'vocab'.")
    found = _class_codes(order, vocab, 'order')
    _need_all(found, vocab, 'order')
    return found

def _is_number(base):
    "Whether `base` counts classes instead of naming them"
    return not isinstance(base, str) and not hasattr(base, '__iter__')

def _n_base(base, c):
    "How many of `c` classes the base has"
    if is_whole(base): return int(base)
    need_number('base', base)
    if not 0 < base < 1:
        raise ValueError(f"expected `base` as a share in (0,1), a whole number of classes, or a "
                         f"list of them, got {base}. Try .5.")
    return int(base*c + .5)

def _counted(vocab, base, n_phases, order):
    "Groups of codes: the base, then the others spread over `n_phases`, larger phases first"
    c = len(vocab)
    if _is_number(base): first = order[:max(0, _n_base(base, c))]
    else: first = _class_codes(base, vocab, 'base')
    n = len(first)
    if not 0 < n < c:
        raise ValueError(f"expected a base of 1 to {c-1} of the {c} classes, got {n} (`base`="
                         f"{base!r}). For all classes at once: phases=0.")
    rest = [k for k in order if k not in first]
    if n_phases > len(rest):
        raise ValueError(f"expected at most one phase for each of the {len(rest)} classes after a "
                         f"base of {n}, got phases={n_phases}. Take fewer phases, or a smaller "
                         "base.")
    return [first, *(o.tolist() for o in np.array_split(rest, n_phases))]

def _listed(vocab, base, phases, order):
    "Groups of codes: what `phases` leaves for the base, then the phases as they are given"
    later = [_class_codes(o, vocab, f'phases[{i}]') for i,o in enumerate(phases)]
    empty = [i for i,o in enumerate(later) if not o]
    if empty:
        raise ValueError(f"expected classes in every phase, got none in phases[{empty[0]}]. Leave "
                         "the phase out.")
    taken = [k for o in later for k in o]
    _once(taken, vocab, 'phases')
    first = [k for k in order if k not in taken]
    if not _is_number(base):
        given = _class_codes(base, vocab, 'base')
        _once(given+taken, vocab, 'base and phases')
        _need_all(given+taken, vocab, 'base and phases')
        first = given
    elif base != _HALF and _n_base(base, len(vocab)) != len(first):
        raise ValueError(f"expected a `base` of the {len(first)} classes that `phases` leaves, got "
                         f"{base}. Leave `base` out.")
    if first: return [first, *later]
    raise ValueError(f"expected a base of at least one class, got all {len(vocab)} in `phases`. "
                     "Make the first phase the base: base=phases[0], phases=phases[1:].")

def _scattered(y, home, n_phases, blurry, rng):
    "Phase of each item: of each class int(blurry n) items come in another phase than `home`, all equally likely"
    out = home[y]
    by_class = np.argsort(y, kind='stable')
    for ids in np.split(by_class, np.cumsum(np.bincount(y))[:-1]):
        m = int(blurry*len(ids) + 1e-9)
        away = rng.permutation(ids)[:m]
        out[away] += rng.integers(1, n_phases+1, m)
    return out % (n_phases+1)

def _need_blurry(blurry, n_phases):
    need_number('blurry', blurry)
    if not 0 <= blurry < 1:
        raise ValueError(f"expected `blurry` in [0,1), got {blurry}. Try .1.")
    if blurry and not n_phases:
        raise ValueError(f"expected phases that items may come in beside the base, got "
                         f"blurry={blurry} with none. Take phases=5, or blurry=0.")

# --- the phases -----------------------------------------------------------------------------------
class ClassPhases:
    "Who comes when: classes in `groups`, the base first, and each training item's phase in `phase_of`"
    def __init__(self,
        dls,        # DataLoaders with one single-label target
        groups,     # Codes of the classes of each phase, lists; the base first
        y,          # Given labels of the training items, int64 (n,)
        phase_of    # Phase of each training item, int64 (n,); 0 is the base
    ):
        self.dls,self.groups = dls,groups
        self.y,self.phase_of = y,phase_of
        self.vocab = target_vocab(dls)
        self.n_phases = len(groups)-1
        self.yv = np.zeros(0, np.int64)
        if len(dls.loaders) > 1 and len(dls.valid_ds):
            self.yv = codes(dls.valid_ds, 'the validation set')

    def _phase(self, k):
        return need_whole('k', k, 0, self.n_phases, what='0 is the base')

    def names(self, k):
        "Classes whose phase is `k`"
        return [self.vocab[o] for o in self.groups[self._phase(k)]]

    def train_ids(self, k):
        "Positions in `dls.train_ds` of the items of phase `k`"
        return np.flatnonzero(self.phase_of == self._phase(k))

    def seen(self, k):
        "Codes of classes that had a training item in phases 0 to `k`, as they first came"
        found = []
        for i in range(self._phase(k)+1):
            there = np.unique(self.y[self.train_ids(i)])
            found += self.groups[i] + there.tolist()
        return list(dict.fromkeys(found))

    def valid_ids(self, k):
        "Positions in `dls.valid_ds` of items of the classes in `seen(k)`"
        return np.flatnonzero(np.isin(self.yv, self.seen(k)))

    def loaders(self, k):
        "`DataLoaders` of phase `k`: its training items, and validation items of all classes seen; vocab of all classes"
        train = self.train_ids(k)
        if not len(self.yv): return take_items(self.dls, train)
        return take_parts(self.dls, train, self.valid_ids(k))

    def __repr__(self):
        n = np.bincount(self.phase_of, minlength=self.n_phases+1)
        who = ['base', *(f'phase {k}' for k in range(1, self.n_phases+1))]
        return '\n'.join(f'{who[k]}: {len(o)} classes, {n[k]} items: {_some(self.names(k))}'
                         for k,o in enumerate(self.groups))

def class_phases(
    dls,            # DataLoaders with one single-label target; given (noisy) labels decide. They stay as they are
    base=_HALF,     # Classes of the base: a share in (0,1), a whole number, or a list of names or codes
    phases=5,       # Phases after the base, 0: none; or a list with the list of classes of each
    order=None,     # In which order classes come: None, drawn; 'vocab'; or a list of all names or codes
    seed=0,         # Of the drawn order and of `blurry`; the global streams are left alone
    blurry=0.       # Share in [0,1) of each class's items that come in another phase, drawn (GACL); rounded down
) -> ClassPhases:
    "Classes in a base and phases after it, all of them, as evenly as possible: class-incremental learning"
    y = given_labels(dls)
    vocab = target_vocab(dls)
    n = np.bincount(y, minlength=len(vocab))
    if not n.all():
        none = [vocab[k] for k in np.flatnonzero(n == 0)]
        raise ValueError(f"expected training items of every class, got none of {_some(none)}. "
                         "Leave such classes out of the vocab, or add items.")
    rng = np.random.default_rng(need_whole('seed', seed, 0))
    order = _in_order(order, vocab, rng)
    if isinstance(phases, str) or not hasattr(phases, '__iter__'):
        p = need_whole('phases', phases, 0, what='after the base', fix='Try 5.')
        groups = _counted(vocab, base, p, order) if p else _listed(vocab, base, [], order)
    else: groups = _listed(vocab, base, phases, order)

    p = len(groups)-1
    _need_blurry(blurry, p)
    home = np.zeros(len(vocab), np.int64)
    for k,group in enumerate(groups): home[group] = k
    phase_of = home[y]
    if blurry: phase_of = _scattered(y, home, p, blurry, rng)
    if blurry and (phase_of == home[y]).all():
        robust_warn(f"class_phases: blurry={blurry} moves no item, as the largest class has "
                    f"{n.max()}.")
    return ClassPhases(dls, groups, y, phase_of)
