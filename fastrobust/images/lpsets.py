"Sets of Lp noise: those of the paper, at any image size, and your own"
# Siedel et al., https://arxiv.org/abs/2305.05400; sizes as in their
# Georgsiedel/Lp-norm-corruption-robustness.
import math
from numbers import Real
from typing import NamedTuple
from fastrobust.basics import nearest
from fastrobust.images.lpballs import check_eps, check_kind, check_p

__all__ = ['lp_sets']

_inf = math.inf

def norm_name(p): return 'Linf' if p == _inf else f'L{p:g}'

class LpSet(NamedTuple):
    "One kind of Lp noise"
    p:float         # Which norm: in (0,inf], or 0 for L0
    eps:object      # Bound, or a pair (lo, hi) to draw it from, uniformly
    kind:str='ball' # 'ball' or 'sphere'

def as_lp_set(o):
    "`o` as a checked `LpSet`: (p, eps), (p, (lo, hi)) or (p, eps, kind)"
    if not isinstance(o, (tuple, list)) or len(o) not in (2, 3):
        raise TypeError("expected a set of noise as (p, eps), (p, (lo, hi)) or (p, eps, kind), got "
                        f"{o!r}. For example [(2, 2.5), (float('inf'), (0, .1))].")
    kind = o[2] if len(o) == 3 else 'ball'
    p,eps = check_p(o[0]),o[1]
    check_kind(kind)
    return LpSet(p, _checked_sizes(p, eps), kind)

def _checked_sizes(p, eps):
    "`eps` if it is a size for norm `p`, or as a tuple if it is a pair of them"
    if not isinstance(eps, (tuple, list)):
        check_eps(p, eps)
        return eps
    numbers = all(isinstance(e, Real) for e in eps)
    if len(eps) != 2 or not numbers or not eps[0] <= eps[1]:
        raise ValueError(f"expected a range of sizes as (lo, hi) with lo <= hi, got {eps!r}. One "
                         "size: a number.")
    for e in eps: check_eps(p, e)
    return tuple(eps)

# --- the sets of the paper ------------------------------------------------------------------------
# Norm -> sizes, smallest first; 'cifar' for 32x32x3, 'tiny' for 64x64x3. L0 is impulse noise there:
# values 0 or 1
LP_EPS = dict(
    cifar={_inf: (.005, .01, .02, .03, .04, .06, .08, .1, .12, .15),
           .5:   (2.5e4, 5e4, 7.5e4, 1e5, 1.5e5, 2e5, 2.5e5, 3e5, 3.5e5, 4e5),
           1:    (12.5, 25, 37.5, 50, 75, 100, 125, 150, 175, 200),
           2:    (.25, .5, .75, 1, 1.5, 2, 2.5, 3, 4, 5),
           5:    (.03, .06, .1, .15, .2, .25, .3, .4, .5, .6),
           10:   (.02, .03, .05, .07, .1, .13, .16, .2, .25, .3),
           50:   (.01, .02, .03, .04, .06, .08, .1, .12, .15, .18),
           200:  (.01, .02, .03, .04, .05, .07, .09, .11, .13, .15),
           0:    (.005, .01, .015, .02, .03, .04, .06, .08, .1, .12)},
    tiny ={_inf: (.01, .02, .03, .04, .06, .08, .1, .15, .2, .3),
           .5:   (2e5, 4e5, 7e5, 1.2e6, 1.8e6, 2.5e6, 3.5e6, 5e6, 8e6, 1.2e7),
           1:    (37.5, 75, 125, 200, 300, 500, 800, 1100, 1500),
           2:    (.5, 1, 2, 3, 4, 5, 7.5, 10, 15, 20),
           5:    (.05, .1, .15, .2, .3, .4, .5, .75, 1, 1.5),
           10:   (.02, .04, .06, .1, .14, .18, .25, .35, .5, .7),
           50:   (.02, .03, .04, .07, .1, .13, .16, .2, .25, .35),
           200:  (.02, .03, .04, .06, .08, .1, .15, .2, .25, .3),
           0:    (.01, .02, .03, .05, .075, .1, .15, .2, .25, .3)})
# Barely visible ones, by which iCE is defined
LP_IMPERCEPTIBLE = dict(cifar=((_inf, .01), (.5, 2.5e4), (1, 25), (2, .5), (10, .03), (50, .02)),
                        tiny =((_inf, .01), (.5, 7e5), (1, 125), (2, 2), (10, .06), (50, .04)))
_presets = ('C1', 'C2', 'C3', 'modern', 'imperceptible')

def _entries(preset, table):
    if preset == 'modern':
        return [LpSet(_inf, (0., .3)),
                LpSet(2., (0., 10.)),
                LpSet(0., (0., .24), 'sphere')]
    if preset == 'imperceptible':
        return [LpSet(float(p), e) for p,e in LP_IMPERCEPTIBLE[table]]
    sizes = LP_EPS[table]
    norms = (0, 2, _inf) if preset == 'C2' else sizes
    n = 5 if preset == 'C3' else None
    out = []
    for p in norms:
        kind = 'ball' if p else 'sphere'
        out += [LpSet(float(p), e, kind) for e in sizes[p][:n]]
    return out

def _grown(s, ratio):
    "`s` with sizes for images of `ratio` times as many values"
    grow = 1.
    if s.p: grow = ratio**(1/s.p)   # L0 counts a fraction already
    if not isinstance(s.eps, tuple): return s._replace(eps=s.eps*grow)
    lo,hi = s.eps
    return s._replace(eps=(lo*grow, hi*grow))

def lp_sets(
    # 'C1': 9 norms x 10 sizes; 'C2': L0, L2, Linf; 'C3': the 5 smallest of each; 'modern': 3 large
    preset:str='C1',
    size:tuple=(3,32,32), # (c,h,w) of the images
    *,
    table:str='auto',   # 'cifar' (made for 32 px), 'tiny' (64 px), or 'auto': 'tiny' from 64 px on
    # 'dim': sizes times (d/d0)^(1/p), the same noise per value as at d0=3*32*32 or 3*64*64; None
    scale:str|None='dim'
)->list:                # Of `LpSet`
    "The sets of noise of a preset for images of any size; at 32x32x3 (and 64x64x3) just the numbers of the authors"
    if preset not in _presets:
        raise ValueError(f"expected the name of a preset, got {preset!r}. "
                         f"{nearest(preset, _presets)}")
    if table not in ('auto', *LP_EPS):
        raise ValueError(f"expected the name of a table, got {table!r}. "
                         f"{nearest(table, ('auto', *LP_EPS))}")
    if scale not in ('dim', None):
        raise ValueError(f"`scale` must be 'dim' or None, got {scale!r}.")
    c,h,w = size
    if table == 'auto': table = 'tiny' if min(h, w) >= 64 else 'cifar'
    d0 = 3*32*32
    if table == 'tiny' and preset != 'modern': d0 = 3*64*64
    ratio = 1. if scale is None else c*h*w/d0
    return [_grown(s, ratio) for s in _entries(preset, table)]
