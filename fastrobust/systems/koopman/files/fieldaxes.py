"Which axis of an array is which: letters n, t, c, y, x, brought to the order n t c y x"
import numpy as np

__all__ = []

LETTERS = 'ntcyx'
_MEANS = 'n items, t times, c variables, y and x space'
# names of dimensions in NetCDF and zarr
_NAMES = dict(
    n="n sample samples member ensemble realization realisation number batch trajectory init "
      'init_time',
    t='t time step times valid_time date lead_time prediction_timedelta',
    c='c channel channels variable var level lev plev levels pressure_level isobaricinhpa',
    y='y lat latitude rlat nlat north_south south_north j',
    x='x lon longitude rlon nlon west_east i')

def parse_axes(
    axes,       # Such as 'n t y x' or 'ntyx', in the order of the array
    shape,      # Of the array
    what        # Its name, for messages
):              # Letters, one per axis
    "Letters of a string of axes, refused where they do not fit the array"
    if not isinstance(axes, str):
        raise TypeError(f"expected `axes` as a string such as 'n t y x', got {axes!r}. One letter "
                        f"per axis: {_MEANS}.")
    got = axes.replace(',', ' ').split()
    letters = ''.join(got).lower()
    bad = set(letters) - set(LETTERS)
    if bad or len(set(letters)) < len(letters) or 'x' not in letters:
        raise ValueError(f"expected `axes` of different letters with an x among them ({_MEANS}), "
                         f"got {axes!r}. For example 'n t y x'.")
    if len(letters) != len(shape):
        raise ValueError(f"expected one letter per axis of {what}, whose shape is {tuple(shape)}, "
                         f"got `axes` {axes!r}. {_MEANS[0].upper()}{_MEANS[1:]}.")
    return letters

def named_axes(
    dims,       # Names of dimensions, such as ('time', 'latitude', 'longitude')
    what        # Name of the array, for messages
):
    "Letters of dimensions that have names"
    known = {k: c for c,names in _NAMES.items() for k in names.split()}
    letters = [known.get(str(k).lower(), '?') for k in dims]
    if '?' in letters or len(set(letters)) < len(letters) or 'x' not in letters:
        raise ValueError("expected dimensions with names such as sample, time, lat, lon in "
                         f"{what}, got {', '.join(map(str, dims))}. Say which is which, such as "
                         f"axes='t y x' ({_MEANS}).")
    return ''.join(letters)

FEW = 4     # points, which are no side of a grid
# what an array may be instead where its last side has few points, by what it was taken for
OTHERS = dict(nx='x n', ntx='n x t', nyx='n x c', ncx='n x c', ntyx='n t x c', ntcx='n t x c', ncyx='n t x c',
              ntcyx='n t y x c', ntyxc='n t c y x', x='x', tx='x t', tyx='t x c', tcx='t x c', tcyx='t y x c',
              tyxc='t c y x')
# where axes have no names, by their number
GUESSES = dict(histories={2: 'nx', 3: 'ntx', 4: 'ntyx', 5: 'ntcyx'},
               pairs={2: 'nx', 3: 'nyx', 4: 'ncyx', 5: 'ntcyx'},
               item={1: 'x', 2: 'tx', 3: 'tyx', 4: 'tcyx'})

def guessed_axes(
    shape,              # Of an array whose axes have no names
    what,               # Its name, for messages
    kind='histories'    # (n,t,*grid), 'pairs' of fields (n,*grid) without times, or one 'item' (t,*grid)
):
    """By the number of axes, but a side y of four points or fewer is the variables c of fields on one side; and of five
    axes (of an item four) the last is c where it is the smallest of three. What looks like another order
    is refused"""
    n = len(shape)
    if n not in GUESSES[kind]:
        form = dict(histories='(n,t,*grid) or (n,t,c,*grid)', pairs='(n,*grid) or (n,c,*grid)',
                    item='(t,*grid) or (t,c,*grid)')[kind]
        raise ValueError(f"expected fields {form} in {what}, got shape {tuple(shape)}. Choose another "
                         "variable (`key`), or say `axes`, such as 't c x'.")
    letters = GUESSES[kind][n]
    if letters.endswith('tcyx'):
        last = shape[-1] < min(shape[-3:-1])
        if last: letters = letters.replace('cyx', 'yxc')
    elif letters.endswith('yx') and 'c' not in letters and shape[-2] <= FEW: letters = letters.replace('yx', 'cx')
    _need_clear(letters, shape, what)
    return letters

def _looks_like_times_last(shape):
    "Why an array looks like (y,x,t), if it does"
    a,b,last = shape[-3:]
    if a == b != last: return 'its square looks like the grid'
    if 2*last < min(a, b): return f'a side of {last} points beside {a} and {b} looks like no side'
    return ''

def _need_clear(letters, shape, what):
    "Refuse to guess (n,y,x,t), as in FNO's .mat files, to be (n,t,y,x), and sides of few points"
    need = f'expected `axes` for {what} of shape {tuple(shape)}:'
    side = {o: shape[letters.index(o)] for o in letters if o in 'yx'}
    other = OTHERS[letters]
    if 1 in side.values():
        if letters in ('ntyx', 'ncyx'): other = f"n y x t' or '{other}"
        raise ValueError(f"{need} an axis of one point is no side of a grid. Say which is which, such as "
                         f"axes='{other}'; or leave that axis out.")
    looks = _looks_like_times_last(shape) if letters in ('ntyx', 'ncyx', 'tyx') else ''
    if not looks:
        if side['x'] > FEW: return
        raise ValueError(f"{need} a side of {side['x']} points looks like no side. Say which is "
                         f"which, such as axes='{other}', or '{' '.join(letters)}' if it is as "
                         "fastrobust has it.")
    n = 'n ' if letters[0] == 'n' else ''
    more = ", 'n y x c' if they are variables" if 'c' in letters else ''
    raise ValueError(f"{need} {looks}, with the times last. Say axes='{n}y x t'{more}, or '{' '.join(letters)}' "
                     "if it is as fastrobust has it.")

def in_order(
    a,          # Array, numpy
    letters     # Of its axes
):
    "`a` with its axes in the order n t c y x"
    return np.transpose(a, [letters.index(o) for o in sorted(letters, key=LETTERS.index)])

def ordered(letters): return ''.join(sorted(letters, key=LETTERS.index))
