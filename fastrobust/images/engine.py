"Who computes AugMix on the CPU: compiled loops where numba is installed, torch's kernels elsewhere"
# `pip install ".[fast]"` brings numba. FASTROBUST_NUMBA=0 in the environment leaves the work
# to torch, whenever it is set. Both make the same bytes; other devices always have torch.
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
import numpy as np
import torch
from fastrobust.images import kernels
from fastrobust.images.kernels import AUGMIX_OPS

__all__ = []

@lru_cache(maxsize=1)
def compiled_loops():
    "The module of the compiled loops, None without numba, whose import takes its time"
    try: import numba
    except (ImportError, OSError): return None
    if numba.config.DISABLE_JIT: return None        # Python itself would run them
    from fastrobust.images import chains
    return chains

def loops_for(x):
    "The module of the compiled loops if the images `x` are theirs, else None"
    here = x.device.type == 'cpu' and x.numel() > 0
    if not here or os.environ.get('FASTROBUST_NUMBA') == '0': return None
    return compiled_loops()

# --- what the loops ask for -----------------------------------------------------------------------
def _moves(op, arg, h, w):
    "(...,6), for each operation (a,b,c,d,e,f): centre of an output pixel -> point of the input"
    moves = np.zeros((*op.shape, 6))
    moves[..., 0] = moves[..., 4] = 1
    for name,i in dict(shear_x=1, translate_x=2, shear_y=3, translate_y=5).items():
        here = op == AUGMIX_OPS.index(name)
        moves[here, i] = arg[here]
    here = op == AUGMIX_OPS.index('rotate')
    degrees,which = np.unique(arg[here], return_inverse=True)
    turns = [kernels.rotation(o, h, w) for o in degrees.tolist()]
    moves[here] = np.array(turns).reshape(-1, 6)[which]
    return moves

def _tables(op, arg):
    "The tables that occur (n,256); their positions take the place of the parameters in `arg`"
    ramp = torch.arange(256, dtype=torch.uint8, device='cpu').view(1, 1, 16, 16)
    found,n = [np.empty((0, 256), np.uint8)],0
    for name in ('posterize', 'solarize', 'brightness'):
        here = op == AUGMIX_OPS.index(name)
        values,which = np.unique(arg[here], return_inverse=True)
        arg[here] = which + n
        n += len(values)
        new = getattr(kernels, name)(ramp.repeat(len(values), 1, 1, 1), torch.from_numpy(values))
        found.append(new.view(-1, 256).numpy())
    return np.concatenate(found)

# --- all images -----------------------------------------------------------------------------------
_part = 2**15   # values that are worth a thread's while

def _in_threads(f, n, size):
    "`f(slice)` for parts of range(n), `size` values in all, in as many threads as torch takes"
    threads = torch.get_num_threads()
    parts = min(4*threads, n, size//_part)
    if threads == 1 or parts < 2:
        f(slice(0, n))
        return
    cuts = [n*i//parts for i in range(parts+1)]
    todo = deque(map(slice, cuts, cuts[1:]))
    def work():
        while True:
            try: part = todo.popleft()
            except IndexError: return
            f(part)
    # threads of this call only: none to be missing in a forked loader worker
    with ThreadPoolExecutor(threads-1) as pool:
        others = [pool.submit(work) for _ in range(min(threads, parts)-1)]
        work()
        for o in others: o.result()

def run(
    loop,       # `each` or `mix` of chains.py
    x,          # Images (b,c,h,w), uint8, on the CPU
    op,         # Operations (b,...), positions in `AUGMIX_OPS`; -1: none
    arg,        # Their parameters, of that shape
    dtype,      # Of what `loop` makes
    *numbers    # What else `loop` takes of every image (b,...)
):              # (b,c,h,w)
    "`loop` over the images; the number of threads changes nothing"
    b,c,h,w = x.shape
    out = torch.empty(x.shape, dtype=dtype, device='cpu')
    old = x.contiguous().view(b, c, h*w).numpy()
    new = out.view(b, c, h*w).numpy()
    op = op.masked_fill(op >= len(AUGMIX_OPS), -1).long().contiguous().numpy()
    arg = arg.double().numpy().copy()
    numbers = [o.float().contiguous().numpy() for o in numbers]
    moves = _moves(op, arg, h, w)
    tables = _tables(op, arg)
    shifts = tuple(np.uint32(8*k) for k in range(c))
    def part(i):
        some = [o[i] for o in (old, new, op, arg, moves, *numbers)]
        loop(*some, tables, shifts, h, w)
    _in_threads(part, b, x.numel())
    return out
