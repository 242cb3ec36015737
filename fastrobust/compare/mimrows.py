"Rows of a study of TinyMIM: what a name such as 'relation:block=3' does to a student, in stages"
import inspect
from collections.abc import Callable
from functools import partial
from typing import NamedTuple
from torch import nn
from fastcore.foundation import L
from fastrobust.basics import nearest, shown
from fastrobust.systems.tinymim.features import ClassDistill, FeatureDistill
from fastrobust.systems.tinymim.finding import PARTS
from fastrobust.systems.tinymim.mae import MAEPretrain
from fastrobust.systems.tinymim.masking import MaskedInput
from fastrobust.systems.tinymim.mimic import TinyMIM
from fastrobust.systems.tinymim.relations import KINDS
from fastrobust.training.technique import Technique

__all__ = []

ROWS = 'scratch','mae','feature','class','relation','sequential'
_OPTIONS = ('a sum of kinds such as qq+kk', 'block=3', 'at=attn', 'patch', 'masked', 'masked+mae', 'drop_path=.1')
# what each takes of them
_TAKES = {'scratch': (), 'mae': ('drop_path',), 'feature': ('at', 'masked', 'masked+mae', 'drop_path'),
          'class': ('masked', 'masked+mae', 'drop_path'),
          'relation': ('kinds', 'block', 'patch', 'masked', 'masked+mae', 'drop_path')}
_TAKES['sequential'] = _TAKES['relation']

class MimRow(NamedTuple):
    "How a student comes to its weights"
    make:Callable|None          # Function (teacher) -> list of techniques; None: it stays as it was drawn
    needs_teacher:bool=True
    middle:bool=False           # By a student of middle size, which the teacher has taught?
    drop_path:float|None=None   # Of the student; None: as it is made
    block:int|None=None         # Of the teacher, from whose block it learns; None: the usual

def _wrong(name, why):
    return ValueError(f"row {name!r}: {why} Rows are {', '.join(map(repr, ROWS))}, after a colon "
                      f"{', '.join(_OPTIONS)}, with commas between.")

def _number(name, text, kind):
    try: return kind(text)
    except ValueError: raise _wrong(name, f"expected a number, got {text!r}.") from None

def _option(name, o):
    "(what is set, to what) of one option"
    k,eq,v = o.partition('=')
    if o in ('masked', 'masked+mae', 'patch'): return o,True
    if k == 'block' and eq: return k,_number(name, v, int)
    if k == 'at' and v in PARTS: return k,v
    if k == 'at' and eq: raise _wrong(name, f"{v!r} is no part of a block, which are {', '.join(PARTS)}.")
    if k == 'drop_path' and eq: return k,_number(name, v, float)
    kinds = tuple(o.split('+'))
    if set(kinds) <= set(KINDS): return 'kinds',kinds
    raise _wrong(name, f"{o!r} is no option.")

def _techniques(base, opts, teacher):
    "New ones for one student"
    if base == 'mae': return [MAEPretrain()]
    if base == 'class': first = ClassDistill(teacher)
    elif base == 'feature': first = FeatureDistill(teacher, at=opts.get('at', 'block'))
    else:
        first = TinyMIM(teacher, opts.get('block'), kinds=opts.get('kinds', ('qk', 'vv')),
                        tokens='patch' if 'patch' in opts else 'all')
    if 'masked+mae' in opts: return [first, MAEPretrain()]
    if 'masked' in opts: return [first, MaskedInput()]
    return [first]

def _named(name):
    "`MimRow` of a name"
    base,_,rest = name.partition(':')
    if base.startswith('drop_path='): base,rest = 'relation',name
    if base not in ROWS: raise _wrong(name, f"{base!r} is none of them. {nearest(base, ROWS)}")
    given = [_option(name, o.strip()) for o in rest.split(',') if o]
    opts = dict(given)
    if len(opts) < len(given): raise _wrong(name, "expected each option once; kinds are joined by +.")
    if 'masked' in opts and 'masked+mae' in opts:
        raise _wrong(name, "expected 'masked' or 'masked+mae', which masks too, got both.")
    drop = opts.get('drop_path')
    if drop is not None and not 0 <= drop < 1: raise _wrong(name, f"expected drop_path in [0,1), got {drop:g}.")
    for k in opts:
        if k not in _TAKES[base]: raise _wrong(name, f"{base!r} does not take {k!r}.")
    if base == 'scratch': return MimRow(None, False)
    make = partial(_techniques, base, opts)
    return MimRow(make, base != 'mae', base == 'sequential', drop, opts.get('block'))

def _own(name, what):
    "`MimRow` of a user's function"
    try: n = len(inspect.signature(what).parameters)
    except (TypeError, ValueError): n = 0
    def make(teacher):
        made = L(what(teacher) if n else what())
        if len(made) and all(isinstance(t, Technique) for t in made): return list(made)
        raise TypeError(f"row {name!r}: expected a function that makes techniques, got one that makes {shown(what)}. "
                        "For example: lambda teacher: TinyMIM(teacher, kinds='qk').")
    return MimRow(make)

def mim_rows(
    rows    # Names, or a dict name -> name, None (scratch), technique, or function (teacher) -> technique(s)
):          # name -> `MimRow`
    "The rows of a study, before anything trains"
    if isinstance(rows, str): rows = [rows]
    if not isinstance(rows, dict): rows = {o: o for o in rows}
    if not rows: raise ValueError(f"expected at least one row, got none. Say rows=('scratch', 'relation') of {ROWS}.")
    if 'teacher' in rows:
        raise ValueError("expected names of students, got 'teacher', which has its row anyway. Give it another name.")
    return {str(k): _row(k, v) for k,v in rows.items()}

def _row(name, what):
    if what is None: return MimRow(None, False)
    if isinstance(what, str): return _named(what)
    if isinstance(what, Technique): return MimRow(lambda _teacher: [what.clone()], False)
    if callable(what) and not isinstance(what, (type, nn.Module)): return _own(name, what)
    raise TypeError(f"row {name!r}: expected a name, a technique or a function (teacher) -> techniques, got "
                    f"{shown(what)}. For example: lambda teacher: TinyMIM(teacher, kinds='qk').")
