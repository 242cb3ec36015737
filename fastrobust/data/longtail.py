"Long tails: classes that fall off in size, made on purpose, counted and grouped; and the prior that fills them up"
# Sizes: the recipe of LDAM, https://arxiv.org/abs/1906.07413; prior: Open-sampling,
# https://arxiv.org/abs/2206.08802
# First this, then label noise; to draw rare classes more often: `weighted_dls(dls, 'balanced')`.
from numbers import Real
import numpy as np
from fastai.data.core import DataLoaders
from fastai.data.transforms import RandomSplitter
from fastrobust.basics import n_classes, nearest, need_number, robust_warn
from fastrobust.data.editing import given_labels, take_items
from fastrobust.data.reading import int_labels
from fastrobust.resting import keep_random

__all__ = ['long_tail', 'long_tail_dls', 'LongTailSplitter', 'class_counts', 'complementary',
           'head_mid_tail']

# --- made on purpose ------------------------------------------------------------------------------
def _check(imb, kind):
    need_number('imb', imb)
    if not 0 < imb <= 1:
        raise ValueError(f"`imb` must lie in (0,1], got {imb}. For 1 of 100 pass .01.")
    if kind not in ('exp', 'step'):
        raise ValueError(f"`kind` must be 'exp' or 'step', got {kind!r}. Try 'exp'.")

def _shares(c, imb, kind):
    "Size of each of `c` classes, the largest being 1"
    k = np.arange(c)
    if c == 1: return np.ones(1)
    if kind == 'exp': return imb**(k/(c-1))
    return np.where(k < c//2, 1., imb)

def long_tail(
    y,              # True labels (n,); class 0 stays the largest, the last becomes the smallest
    imb:float=.01,  # Smallest over largest class, in (0,1]; papers: .1, .02, .01, .005
    kind:str='exp', # 'exp': sizes fall by equal factors; 'step': the second half of the classes has `imb` of the first
    seed:int=0      # Of the choice within each class
) -> np.ndarray: # Positions to keep, ascending: `X[idx], y[idx]`
    """Positions of a long-tailed part: class k keeps int(m imb**(k/(c-1))) samples, m = n/c, or less where a class is
    too small for that. Noise, if any, comes after"""
    y = int_labels(y)
    _check(imb, kind)
    have = np.bincount(y)
    c = len(have)
    m = len(y)/c
    share = _shares(c, imb, kind)
    want = (m*share + 1e-9).astype(int)

    few = np.flatnonzero((have < want) & (have > 0))
    if len(few):    # the shape is kept, and the whole is smaller
        m = (have/share)[have > 0].min()
        want = (m*share + 1e-9).astype(int)
        if m < .9*len(y)/c:     # less than what a random split does to equal classes
            robust_warn(f"long_tail: class {few[0]} has fewer samples than its share ({len(few)} "
                        f"such), so the largest class keeps {int(m)} and not {len(y)//c}. Number "
                        "large classes first, or take a smaller `imb`.")
    if not have.all():
        robust_warn(f"long_tail: class {int(have.argmin())} has no samples "
                    f"({int((have == 0).sum())} such).")
    if min(want) < 1:
        robust_warn(f"long_tail: imb={imb} leaves less than one sample in the smallest class: one "
                    "stays.")
    want = np.maximum(want, 1)

    rng = np.random.default_rng(seed)
    kept = [rng.permutation(np.flatnonzero(y == k))[:n] for k,n in enumerate(want)]
    return np.sort(np.concatenate(kept))

def long_tail_dls(
    dls,            # DataLoaders with one single-label target; they stay as they are
    imb:float=.01,  # Smallest over largest class, in (0,1]
    kind:str='exp', # 'exp' or 'step', as in `long_tail`
    seed:int=0      # Of the choice within each class
) -> DataLoaders:
    "New dls that train on a long-tailed part of the items, first class of the vocab largest; validation stays the same"
    y = given_labels(dls)
    rec = getattr(dls, 'noise', None)
    if rec is None: return take_items(dls, long_tail(y, imb, kind, seed))

    idx = long_tail(rec.y_clean, imb, kind, seed)
    def sizes(labels):
        n = np.bincount(labels[idx], minlength=n_classes(dls))
        return ', '.join(map(str, n))

    robust_warn(f"long_tail_dls: the labels are noisy already ({rec.kind}), so classes are cut by "
                f"their true labels to {sizes(rec.y_clean)}; as given they have {sizes(y)}. Where "
                "noise is made, make it last: add_label_noise(long_tail_dls(dls), noise).")
    return take_items(dls, idx)

class LongTailSplitter:
    "A `splitter` for DataBlock whose training part is long-tailed; validation is what the splitter inside makes it"
    def __init__(self,
        get_y,          # Function giving the label of an item, as for DataBlock; sorted labels: the first stays largest
        imb:float=.01,  # Smallest over largest class, in (0,1]
        kind:str='exp', # 'exp' or 'step', as in `long_tail`
        *,
        splitter=None,  # Splits the items first; None: fastai's RandomSplitter, 20 %, by `seed`
        seed:int=0      # Of the choice within each class
    ):
        _check(imb, kind)
        for k,f in (('get_y', get_y), ('splitter', splitter)):
            if not callable(f) and not (k == 'splitter' and f is None):
                raise TypeError(f"`{k}` must be a function, got {f!r}. Write "
                                "LongTailSplitter(parent_label, splitter=RandomSplitter()).")
        self.get_y,self.splitter = get_y,splitter
        self.imb,self.kind,self.seed = imb,kind,seed

    def __call__(self, items):
        if self.splitter is not None: train,*rest = self.splitter(items)
        else:
            with keep_random(): train,*rest = RandomSplitter(seed=self.seed)(items)
        train = np.asarray(list(train), dtype=np.int64)
        rows = getattr(items, 'iloc', items)
        labels = [self.get_y(rows[int(i)]) for i in train]
        if any(isinstance(o, (list, tuple, set, np.ndarray)) for o in labels):
            raise ValueError(f"LongTailSplitter expected one label an item, got {labels[0]!r}. "
                             "Give a `get_y` that returns the one class; several labels an item "
                             "have no class sizes.")
        _,y = np.unique(labels, return_inverse=True)
        idx = long_tail(y, self.imb, self.kind, self.seed)
        kept = train[np.sort(idx)].tolist()
        return kept,*(list(o) for o in rest)

# --- counted --------------------------------------------------------------------------------------
def class_counts(
    dls     # DataLoaders with one single-label target
) -> np.ndarray: # (c,) int64, in the order of the vocab; 0 for a class that only validation has
    "How many training items each class has by the given labels, whatever a weighted loader makes of them"
    y = given_labels(dls)
    return np.bincount(y, minlength=n_classes(dls)).astype(np.int64)

def _as_counts(counts, empty=False):
    "`counts` as int64 (c,), checked"
    a = np.asarray(counts.detach().cpu() if hasattr(counts, 'detach') else counts)
    whole = a.dtype.kind in 'iu'
    if a.dtype.kind == 'f': whole = np.isfinite(a).all() and (a == np.round(a)).all()
    if a.ndim != 1 or len(a) < 2 or not whole or a.min() < 0 or not a.any():
        raise ValueError("expected `counts` as whole numbers of items (c,) of at least two "
                         f"classes, got {counts!r:.80}. Take `class_counts(dls)`.")
    gone = np.flatnonzero(a == 0)
    if len(gone) and not empty:
        raise ValueError("expected at least one training item of every class, got none of "
                         f"{len(gone)}, first class {gone[0]}. Leave such classes out of the "
                         "vocab, or add items.")
    return a.astype(np.int64)

def complementary(
    counts,         # Training items per class (c,), each >= 1: `class_counts(dls)`
    # >= the largest class frequency; None: largest + smallest, as in the authors' code; 'minimal':
    # the largest itself; 'balanced': so that `n_aux` images level all classes; inf: uniform, as in
    # ODNL
    alpha=None,
    *,
    n_aux:int=None  # Auxiliary images in all; for 'balanced' alone
) -> np.ndarray: # Gamma (c,) float64, sums to 1
    "Open-sampling's prior, frequent where training is rare: Gamma_j = (alpha-beta_j)/(K alpha-1) (arXiv 2206.08802)"
    n = _as_counts(counts)
    k = len(n)
    beta = n/n.sum()
    balanced = isinstance(alpha, str) and alpha == 'balanced'
    if (n_aux is not None) != balanced:
        raise ValueError(f"expected `n_aux` with alpha='balanced' and only there, got {n_aux!r} "
                         f"with {alpha!r}. Write complementary(counts, 'balanced', n_aux=50000).")
    if alpha is None: alpha = beta.max()+beta.min()
    if isinstance(alpha, str): alpha = _named_alpha(alpha, n, n_aux)
    need_number('alpha', alpha)
    if not alpha >= beta.max()*(1-1e-9):
        raise ValueError("expected `alpha` of at least the largest class frequency "
                         f"{beta.max():.6g}, got {alpha}, which makes a probability negative. None "
                         "takes a fitting one.")
    gamma = np.maximum(alpha-beta, 0) if np.isfinite(alpha) else np.ones(k)
    total = gamma.sum()
    # equal classes and the smallest alpha: 0/0
    return gamma/total if total > 1e-12 else np.full(k, 1/k)

def _named_alpha(name, n, n_aux):
    "The `alpha` of `complementary` that `name` stands for"
    if name == 'minimal': return (n/n.sum()).max()
    if name != 'balanced':
        raise ValueError(f"expected a number, None, or a known name for `alpha`, got {name!r}. "
                         f"{nearest(name, ['minimal', 'balanced'])}")
    need_number('n_aux', n_aux)
    k,total = len(n),n.sum()
    need = k*int(n.max()) - int(total)
    if n_aux < need:
        raise ValueError(f"expected `n_aux` >= {need} to level these classes (K max n - N), "
                         f"got {n_aux}. Take more images, or alpha='minimal'.")
    return (total+n_aux)/(total*k)

# --- grouped --------------------------------------------------------------------------------------
def head_mid_tail(
    counts,             # Training items per class (c,); 0 counts as rarest
    # 'thirds': the c//3 largest classes, the c//3 smallest, the rest; or sizes (high, low) such as
    # (100, 20): the head has more than `high` items, the tail fewer than `low`
    groups='thirds'
) -> dict: # 'head', 'mid', 'tail' -> positions of classes, largest first; a group without classes is an empty array
    "Classes in three groups by their number of training items"
    n = _as_counts(counts, empty=True)
    order = np.argsort(-n, kind='stable')
    if isinstance(groups, str):
        if groups != 'thirds':
            raise ValueError("expected `groups` as 'thirds' or a pair of sizes, got "
                             f"{groups!r}. Pass e.g. (100, 20).")
        if n.min() == n.max():
            robust_warn("head_mid_tail: all classes are of one size, so head and tail mean "
                        "nothing.")
        k = max(1, len(n)//3)
        return dict(head=order[:k], mid=order[k:-k], tail=order[-k:])

    pair = isinstance(groups, (tuple, list)) and len(groups) == 2
    numbers = pair and all(isinstance(g, Real) for g in groups)
    if not numbers or not groups[0] >= groups[1] > 0:
        raise ValueError("expected `groups` as 'thirds' or a pair (high, low), high >= low > 0, "
                         f"got {groups!r}. Pass e.g. (100, 20).")
    high,low = groups
    size = n[order]
    mid = (size <= high) & (size >= low)
    return dict(head=order[size > high], mid=order[mid], tail=order[size < low])
