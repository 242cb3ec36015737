"Noise matrices: who is taken for whom. T[i,j] = P(given j | true i), rows are true classes (cleanlab: the transpose)"
# Symmetric and pair: Co-teaching, https://arxiv.org/abs/1804.06872
# Asymmetric maps: F-correction, https://arxiv.org/abs/1609.03683
# Learnability and trace: Confident Learning, https://arxiv.org/abs/1911.00068
import numpy as np
from fastrobust.basics import nearest, robust_warn
from fastrobust.data.reading import int_labels
from fastrobust.noise.classmaps import MATRIX_KINDS, check_n, check_rate, switch

__all__ = ['noise_matrix']

def check_T(T, n=None):
    "A row-stochastic float64 copy of `T`"
    if hasattr(T, 'detach'): T = T.detach().cpu()
    T = np.array(T, dtype=np.float64)
    if T.ndim != 2 or T.shape[0] != T.shape[1] or not len(T):
        raise ValueError(f"`T` must be a square matrix (c,c), got shape {T.shape}. Give one row "
                         "for each true class.")
    if n is not None and len(T) != n:
        raise ValueError(f"`T` must be ({n},{n}), one row per class, got {T.shape}. Order both as "
                         "the vocab.")
    s = T.sum(1)
    bad = ~np.isfinite(T).all(1) | (T < 0).any(1) | ~(abs(s-1) <= 1e-6)
    if bad.any():
        i = int(bad.argmax())
        cure = "Divide each row by its sum."
        if (T >= 0).all() and np.allclose(T.sum(0), 1):
            cure = "Its columns sum to 1, cleanlab's convention: pass T.T."
        raise ValueError(f"`T` must be >= 0 with rows that sum to 1, got row {i} = {T[i]} (sum "
                         f"{s[i]:.6g}). {cure}")
    return T / s[:,None] if (abs(s-1) > 1e-12).any() else T

def learnable(
    T,          # (c,c), rows = true class
    prior=None  # Sizes or shares of the true classes (c,); None: all alike. A class of none is left out
) -> bool:
    "cleanlab's test that labels still tell the classes apart: P(given k) P(true k) < P(given k, true k) for every k"
    T = check_T(T)
    p = np.ones(len(T)) if prior is None else np.asarray(prior, dtype=float)
    joint = (p/p.sum())[:,None]*T
    return bool((joint.sum(0)*joint.sum(1) < np.diag(joint))[p > 0].all())

def _warn_T(T, kind):
    bad = []
    if len(T) > 1:
        off = T - np.diag(np.full(len(T), np.inf))
        bad = np.flatnonzero(np.diag(T) <= off.max(1))
    if len(bad):
        names = ', '.join(map(str, bad[:5])) + (' ..' if len(bad) > 5 else '')
        robust_warn(f"{kind} noise: for class {names} the true label is no longer the most "
                    "frequent given one (T is not diagonally dominant), so the labels alone cannot "
                    "tell which class is meant.")
    elif len(T) > 1 and not learnable(T):
        robust_warn(f"{kind} noise: some label is given no more often to its own class than to all "
                    "(T is not learnable, as cleanlab puts it).")
    elif (cond := np.linalg.cond(T)) > 50:
        robust_warn(f"{kind} noise: T is nearly singular (condition {cond:.3g}).")

# --- matrices -------------------------------------------------------------------------------------
def noise_matrix(
    kind:str,               # 'symmetric', 'asymmetric', 'pair', 'superclass' or 'matrix'
    n_classes:int=None,     # c; None: the size of `T`
    rate:float=None,        # Share of samples chosen, in [0,1]; not for 'matrix'
    *,
    inclusive:bool=False,   # symmetric: may a chosen sample draw its own class again (DivideMix)? No: JoCoR, LogitClip
    # asymmetric: 'cifar10' (default; 10 classes), 'mnist', or a dict of indices or names;
    # superclass: 'cifar100_superclass' (default; the true grouping), 'cifar100_block5' (that of
    # JoCoR's code), 'next_class', or a dict class -> superclass
    mapping=None,
    vocab=None,             # Class names, for a `mapping` by name
    T=None                  # matrix: (c,c), rows >= 0 that sum to 1
):
    "T (c,c), T[i,j] = P(given j | true i): rows are true classes and sum to 1 (cleanlab uses the transpose)"
    if kind not in MATRIX_KINDS:
        raise ValueError(f"unknown noise matrix {kind!r}. {nearest(kind, MATRIX_KINDS)}")
    check_n(n_classes)
    if kind == 'matrix':
        if T is None:
            raise ValueError("kind='matrix' needs `T`, got none. Pass a row-stochastic (c,c) "
                             "matrix.")
        if rate is not None:
            raise ValueError(f"kind='matrix' has its rates in `T`, got rate={rate}. Leave `rate` "
                             "out.")
        T = check_T(T, n_classes)
    else:
        rate = check_rate(kind, rate)
        if n_classes is None:
            raise ValueError(f"{kind!r} noise needs `n_classes`, got none. Pass the vocab's size.")
        T = (1-rate)*np.eye(n_classes) + rate*switch(kind, n_classes, inclusive, mapping, vocab)
    _warn_T(T, kind)
    return T

def _spread(T, rng, conc):
    "Put 1 - T[i,i] on the other classes of each row by a Dirichlet draw, row after row"
    for i in range(len(T)):
        others = np.arange(len(T)) != i
        T[i,others] = (1-T[i,i])*rng.dirichlet(np.full(len(T)-1, conc))
    return T

def _check_c(c):
    check_n(c)
    if c is None or c < 2:
        raise ValueError(f"expected at least 2 classes, got {c!r}. Pass the size of the vocab.")

def T_dirichlet(
    c:int,          # Number of classes
    rate,           # Share of wrong labels in [0,1], or one for each class (c,)
    conc:float=1.,  # > 0; large: towards symmetric noise, near 0: one random target for each class
    *,
    seed:int=0      # Of the draw
) -> np.ndarray: # T (c,c) for `NoisyLabels('matrix', T=..)`
    "Class-dependent noise of random direction: row i is (1-rate) e_i + rate Dirichlet(conc) over the other classes"
    _check_c(c)
    n = np.array([check_rate('dirichlet', float(r)) for r in np.broadcast_to(rate, c)])
    if not 0 < conc < np.inf:
        raise ValueError(f"`conc` must be positive and finite, got {conc}. Try 1.")
    return _spread(np.diag(1-n), np.random.default_rng(seed), conc)

def T_trace(
    c:int,          # Number of classes
    trace:float,    # Sum of the diagonal, in (1,c]; the rate is 1 - trace/c for classes of one size
    seed:int=0      # Of the draw
) -> np.ndarray: # T (c,c), learnable for classes of one size
    "A random matrix of given trace: some classes are nearly clean, others hardly"
    _check_c(c)
    if not 1 < trace <= c:
        raise ValueError(f"`trace` must lie in (1,{c}], got {trace}. At 1 or less the labels say "
                         "nothing any more.")
    rng = np.random.default_rng(seed)
    wrong = c-trace
    # ever more even rates, so that none exceeds 1 and the classes stay apart
    for k in range(200):
        n = wrong*rng.dirichlet(np.full(c, 1.25**k))
        if n.max() <= 1:
            T = _spread(np.diag(1-n), rng, 1.25**k)
            if learnable(T): return T
    raise ValueError(f"expected a `trace` that leaves {c} classes learnable, got {trace:.6g}. Take "
                     "a larger one.")

def T_from_confusion(
    y_clean,        # True labels (n,)
    y_noisy,        # Given labels (n,)
    n_classes=None  # c; None: the largest label + 1
) -> np.ndarray: # T (c,c)
    "The matrix two label vectors show, to lay the same class-dependent noise on other labels"
    check_n(n_classes)
    a = int_labels(y_clean, n_classes)
    b = int_labels(y_noisy, n_classes)
    if len(a) != len(b):
        raise ValueError(f"expected labels of the same items, got {len(a)} and {len(b)}. Align "
                         "them.")
    c = int(max(a.max(), b.max()))+1 if n_classes is None else int(n_classes)
    T = np.bincount(a*c + b, minlength=c*c).reshape(c, c).astype(float)
    none = np.flatnonzero(T.sum(1) == 0)
    if len(none):
        robust_warn(f"T_from_confusion: no sample of class {', '.join(map(str, none[:5]))}: its "
                    "row keeps the label.")
        T[none,none] = 1
    return T / T.sum(1, keepdims=True)
