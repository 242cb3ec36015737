"Marks of functions: another architecture, setting or number of epochs is another mark, in whatever process"
import argparse, dis, os, sys, sysconfig, zlib
from dataclasses import is_dataclass
from enum import Enum
from functools import partial
from pathlib import Path, PurePath
from types import CodeType, EllipsisType, FunctionType, ModuleType, NoneType, SimpleNamespace
import numpy as np
import torch
from torch import nn
from fastai.losses import BaseLoss

__all__ = []

# --- what a function says -------------------------------------------------------------------------
_PLAIN = (int, float, complex, str, bytes, NoneType, EllipsisType, Enum, slice, range, PurePath,
          torch.device, torch.dtype)
_READS = ('LOAD_GLOBAL', 'LOAD_NAME', 'LOAD_FROM_DICT_OR_GLOBALS')
_FEW = 4096     # Numbers of an array up to which they count
_OURS = Path(__file__).parents[1]
_LIBRARIES = (sysconfig.get_path('stdlib')+os.sep, f'{_OURS}{os.sep}', '<frozen ')

def _installed(o):
    "Is `o`, a function or class, a library's? Then its name tells enough, and what it reads is no setting"
    if isinstance(o, type): file = getattr(sys.modules.get(o.__module__), '__file__', None) or ''
    else: file = o.__code__.co_filename
    return file.startswith(_LIBRARIES) or 'site-packages' in file or 'dist-packages' in file

def _name(o): return f'{o.__module__}.{o.__qualname__}'

def _numbers(a):
    "Those of an array or tensor as lists; None: many, or not there"
    there = not isinstance(a, torch.Tensor) or a.layout == torch.strided and not a.is_meta
    return a.tolist() if there and np.prod(a.shape) <= _FEW else None

def _plain(o):
    "Simple attributes of a class, a loss or a network; in which mode it is changes as it is used"
    known = sorted((k, v) for k,v in vars(o).items() if isinstance(v, _PLAIN))
    return [(k, v) for k,v in known if not k.startswith('__') and k != 'training']

def _content(cell):
    try: return cell.cell_contents
    except ValueError: return None      # not set yet

def _names_read(code):
    "Globals that `code`, and functions written inside it, read"
    inner = [_names_read(o) for o in code.co_consts if isinstance(o, CodeType)]
    return {i.argval for i in dis.get_instructions(code) if i.opname in _READS}.union(*inner)

class _Told:
    "What functions and values say, the same in every process: no addresses, no order of sets"
    def __init__(self): self.known,self.inside = {},set()      # by id: functions told, containers under way

    def of(self, o):
        "Values as they are, functions and classes with what they read, those of libraries and all else by name"
        if isinstance(o, np.generic): o = o.item()
        if isinstance(o, _PLAIN): return repr(o)
        if isinstance(o, (FunctionType, type)): return self.once(o)
        if id(o) in self.inside: return 'itself'
        self.inside.add(id(o))
        res = self.parts(o)
        self.inside.discard(id(o))
        return res

    def once(self, o):
        if id(o) in self.known: return ['again', self.known[id(o)][0]]
        self.known[id(o)] = len(self.known),o
        return self.function(o) if isinstance(o, FunctionType) else self.kind(o)

    def parts(self, o):
        "What a thing says that is made of others"
        if isinstance(o, CodeType):
            return [crc(o.co_code), list(o.co_names), *map(self.of, o.co_consts)]
        if isinstance(o, (list, tuple)): return [_name(type(o)), *map(self.of, o)]
        if isinstance(o, (set, frozenset)): return ['set', *sorted(map(self.of, o), key=repr)]
        if isinstance(o, dict): return ['dict', *sorted(map(self.of, o.items()), key=repr)]
        if isinstance(o, partial):
            return ['partial', *map(self.of, (o.func, o.args, o.keywords))]
        if isinstance(o, (np.ndarray, torch.Tensor)):
            return [str(o.dtype), list(o.shape), self.of(_numbers(o))]
        return o.__name__ if isinstance(o, ModuleType) else self.thing(o)

    def thing(self, o):
        "Settings and what is called like a function with what they hold, others by their class"
        me,call = getattr(o, '__self__', o),None
        if callable(o): call = getattr(o, '__func__', type(o).__call__)
        called = isinstance(call, FunctionType) and not _installed(call)
        if called or is_dataclass(o) or isinstance(o, (SimpleNamespace, argparse.Namespace)):
            return [*map(self.of, (type(me), call, dict(getattr(me, '__dict__', {}))))]
        if isinstance(o, (nn.Module, BaseLoss)):
            return [self.of(type(o)), *map(self.of, _plain(o))]
        if hasattr(o, '__wrapped__'): return self.of(o.__wrapped__)     # of functools.cache
        name = getattr(o, '__qualname__', None)     # written in C
        return name if isinstance(name, str) else self.of(type(o))

    def function(self, f):
        parts = [f.__code__, f.__defaults__, f.__kwdefaults__, *map(_content, f.__closure__ or ())]
        res = [self.of(o) for o in parts]
        if _installed(f): return [_name(f), *res]
        read = [k for k in sorted(_names_read(f.__code__)) if k in f.__globals__]
        return res + [[k, self.of(f.__globals__[k])] for k in read]

    def kind(self, c):
        "A class: its methods and plain attributes"
        if _installed(c): return _name(c)
        own = sorted((k, getattr(v, '__func__', v)) for k,v in vars(c).items())
        methods = [o for o in own if isinstance(o[1], FunctionType)]
        return [_name(c), *map(self.of, [*methods, *_plain(c), *c.__bases__])]

# --- marks ----------------------------------------------------------------------------------------
def crc(o):
    "Checksum of bytes and arrays, of all else that of its `repr`"
    if not isinstance(o, (bytes, np.ndarray)): o = repr(o).encode()
    return zlib.crc32(o)

def code_mark(f):
    "Checksum of all that the function `f` says, as far as it can be told: see `_Told`"
    return crc(_Told().of(f))
