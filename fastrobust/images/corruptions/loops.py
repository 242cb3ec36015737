"Loops over random numbers and over pixels, compiled by numba; engine.py says when they are used"
# They say once more what draws.py and glass.py say in torch, and make the same numbers.
import numpy as np
from fastrobust.images.loops import compiled

__all__ = []

def kept(f):
    "Compile `f` and keep the result for the next process, where there is a folder for it"
    try: return compiled(f, cache=True)
    except (OSError, RuntimeError): return compiled(f)

# numba makes 64 bits of two times 32: every step is cut to 32 again
U32 = np.uint32
MUL0,MUL1,MUL2,MUL3 = U32(0x9E3779B9),U32(0x21F0AAAD),U32(0x7FEB352D),U32(0x846CA68B)
DOWN8,DOWN15,DOWN16 = U32(8),U32(15),U32(16)
SCALE = np.float32(2**-24)

@compiled
def mixed(i, lo, hi):
    "Number `i` of the stream of the key (`hi`, `lo`): 32 random bits"
    i = U32(i*MUL0)
    i = U32(i ^ (i >> DOWN16))
    x = U32(U32(i*MUL1) ^ lo)
    x = U32(x ^ (x >> DOWN16))
    x = U32(U32(x*MUL2) + hi)
    x = U32(x ^ (x >> DOWN15))
    x = U32(x*MUL3)
    return U32(x ^ (x >> DOWN16))

@kept
def uniform(first, lo, hi, out):
    "Numbers `first` and on of the streams with the keys `hi`, `lo` (b,), in [0,1): into `out` (b,n)"
    for r in range(len(out)):
        row,low,high = out[r],lo[r],hi[r]
        for j in range(len(row)):
            bits = mixed(U32(first + j), low, high)
            row[j] = np.float32(np.int32(bits >> DOWN8))*SCALE

@kept
def below(first, lo, hi, n, least, out):
    "The same as whole numbers, `n` different ones from `least` on"
    for r in range(len(out)):
        row,low,high = out[r],lo[r],hi[r]
        for j in range(len(row)):
            bits = np.uint64(mixed(U32(first + j), low, high))
            row[j] = np.int64(bits*np.uint64(n) >> np.uint64(32)) + least

@kept
def exchange(px, draws, steps, h, w, d):
    "In place, pixels `px` (c,h*w): of the inner ones, the last first, each takes a neighbour's present value"
    # the inner pixels, row by row, have their draws (n,), which say how many `steps` away it lies
    at = len(draws) - 1
    for i in range(h-d, d, -1):
        for j in range(w-d, d, -1):
            k = i*w + j
            src = k + steps[draws[at]]
            for c in range(len(px)): px[c, k] = px[c, src]
            at -= 1
