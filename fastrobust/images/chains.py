"The loops of AugMix over the images of a batch: an operation for each, or chains of operations and their mix"
# What Python calls, from several threads; compiled once for grey and once for colour images, and
# kept beside this file or where NUMBA_CACHE_DIR says.
import zlib
from pathlib import Path
import numpy as np
from fastrobust.images import loops
from fastrobust.images.loops import apply, channel, compiled, copied

__all__ = []

def kept(f):
    "Compile `f` and keep the result for the next process"
    # numba looks for changes in this file alone; the name tells the versions of loops.py apart
    try:
        f.__qualname__ += f'-{zlib.crc32(Path(loops.__file__).read_bytes()):x}'
        return compiled(f, cache=True)
    except (OSError, RuntimeError): return compiled(f)  # no folder to keep it in

@compiled
def packed(x, out, shifts):
    "Bytes (c,n) to words (n,)"
    for j in range(len(out)):
        word = np.uint32(0)
        k = 0
        for s in shifts:
            word |= np.uint32(x[k, j]) << s
            k += 1
        out[j] = word

@compiled
def unpacked(x, out, shifts):
    k = 0
    for s in shifts:
        plane = out[k]
        for j in range(len(x)): plane[j] = np.uint8(x[j] >> s)
        k += 1

# what is contracted is rounded once, as torch's addcmul does it
@compiled(fastmath={'contract'})
def added(x, weight, out, shifts):
    k = 0
    for s in shifts:
        plane = out[k]
        for j in range(len(x)): plane[j] += np.float32(channel(x[j], s))*weight
        k += 1

@compiled
def blended(x, m, out):
    "(1-m) x + m `out`, in [0,1], where the mix `out` was"
    rest = np.float32(1)-m
    for k in range(len(x)):
        a,b = x[k],out[k]
        for j in range(len(a)):
            v = (rest*np.float32(a[j]) + b[j]*m)/np.float32(255)
            b[j] = min(max(v, np.float32(0)), np.float32(1))

@kept
def each(x, out, op, arg, moves, tables, shifts, h, w):
    "Image i of `x` (b,c,n) through operation `op[i]`; -1 leaves it as it is"
    old,new = np.empty(h*w, np.uint32),np.empty(h*w, np.uint32)
    for i in range(len(x)):
        packed(x[i], old, shifts)
        if op[i] >= 0: apply(old, new, op[i], arg[i], moves[i], tables, shifts, h, w)
        else: copied(old, new)
        unpacked(new, out[i], shifts)

@kept
def mix(x, out, op, arg, moves, weight, m, tables, shifts, h, w):
    "AugMix of the images `x` (b,c,n): operations (b,k,d), weights of the chains (b,k), share of the mix (b,)"
    clean,new,spare = np.empty(h*w, np.uint32),np.empty(h*w, np.uint32),np.empty(h*w, np.uint32)
    for i in range(len(x)):
        packed(x[i], clean, shifts)
        out[i] = 0
        for k in range(op.shape[1]):
            cur = clean
            for t in range(op.shape[2]):
                if op[i, k, t] < 0: continue
                apply(cur, new, op[i, k, t], arg[i, k, t], moves[i, k, t], tables, shifts, h, w)
                cur = new
                new,spare = spare,new
            added(cur, weight[i, k], out[i], shifts)
        blended(x[i], m[i], out[i])
