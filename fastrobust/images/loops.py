"The operations of AugMix as loops over the pixels of one image, compiled by numba where it is installed"
# The same bytes as kernels.py, where it is said why each operation is what it is. An image is a row
# of n = h*w words of 32 bits, 8 bits for each channel, so that one load brings all of a pixel;
# `shifts` says where the channels stand: numba compiles one form for (0,), one for (0,8,16).
# Inner loops run from 0 over whole slices: where an index might be negative, the compiler leaves
# the loop as it is, ten times as slow. chains.py calls `apply`.
import numpy as np
from fastrobust.images.kernels import AUGMIX_OPS

try: from numba import njit
except ImportError: njit = None     # type: ignore[assignment]

__all__ = []

LOW = np.uint32(255)
ONE = np.uint32(1)
AT_ONCE = 1024      # pixels whose taps are held at a time
(AUTOCONTRAST, EQUALIZE, POSTERIZE, ROTATE, SOLARIZE, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y,
 COLOR, CONTRAST, BRIGHTNESS, SHARPNESS) = range(len(AUGMIX_OPS))

def compiled(f=None, **options):
    "Compile `f`, free of Python's lock; as it is where there is no numba"
    if f is None: return lambda f: compiled(f, **options)
    if njit is None: return f
    # numpy's errors: a division by 0 is no exception, which would forbid to vectorise
    return njit(nogil=True, error_model='numpy', **options)(f)

@compiled
def channel(word, s): return np.int32((word >> s) & LOW)

@compiled
def copied(x, out):
    for j in range(len(x)): out[j] = x[j]

# --- tables ---------------------------------------------------------------------------------------
@compiled
def looked_up(x, out, lut, shifts):
    "Every channel by its row of `lut` (c,256)"
    k = 0
    for s in shifts:
        for v in range(256): lut[k, v] <<= s
        k += 1
    for j in range(len(x)):
        word = np.uint32(0)
        k = 0
        for s in shifts:
            word |= lut[k, channel(x[j], s)]
            k += 1
        out[j] = word

@compiled
def counted(x, shifts):
    "How often each value occurs in the channels: (c,256)"
    count = np.zeros((len(shifts), 256), np.int32)
    for j in range(len(x)):
        k = 0
        for s in shifts:
            count[k, channel(x[j], s)] += 1
            k += 1
    return count

@compiled
def ends(count):
    "The lowest and the highest value that occur"
    lo,hi = 0,255
    while count[lo] == 0: lo += 1
    while count[hi] == 0: hi -= 1
    return lo,hi

@compiled
def stretched(x, lut, shifts):
    "The tables of autocontrast"
    count = counted(x, shifts)
    for k in range(len(shifts)):
        lo,hi = ends(count[k])
        scale,off = 1.,0.
        if hi > lo:
            scale = 255./(hi-lo)
            off = -lo*scale
        for v in range(256): lut[k, v] = np.int32(min(max(v*scale + off, 0.), 255.))

@compiled
def flattened(x, lut, shifts):
    "The tables of equalize"
    count = counted(x, shifts)
    below = np.empty(256)
    for k in range(len(shifts)):
        _,hi = ends(count[k])
        step = (len(x) - count[k, hi])//255
        total = step//2
        for v in range(256):
            below[v] = total
            total += count[k, v]
        for v in range(256):
            new = np.int32(min(below[v]/step, 255.))
            lut[k, v] = new if step > 0 else v

# --- blends ---------------------------------------------------------------------------------------
@compiled
def blend(g, v, f):
    g = np.float32(g)
    mix = (np.float32(v)-g)*f + g
    return np.uint32(np.int32(min(max(mix, np.float32(0)), np.float32(255))))

@compiled
def grey(word):
    r,g,b = channel(word, np.uint32(0)),channel(word, np.uint32(8)),channel(word, np.uint32(16))
    return np.int32(19595*r + 38470*g + 7471*b + 32768) >> 16

@compiled
def flat_grey(x, f, lut, shifts):
    "The table of contrast: towards the mean of the grey levels"
    n = len(x)
    total = 0
    if len(shifts) == 3:
        for j in range(n): total += grey(x[j])
    else:
        for j in range(n): total += np.int32(x[j])
    mean = (2*total + n)//(2*n)
    for v in range(256): lut[:, v] = blend(mean, v, f)

@compiled
def coloured(x, out, f, shifts):
    for j in range(len(x)):
        g = grey(x[j])
        word = np.uint32(0)
        for s in shifts: word |= blend(g, channel(x[j], s), f) << s
        out[j] = word

@compiled
def sharpened(x, out, f, shifts, h, w):
    copied(x, out)
    for i in range(1, h-1):
        up,row,low = x[(i-1)*w:i*w],x[i*w:],x[(i+1)*w:]
        new = out[i*w+1:]
        for j in range(w-2):
            word = np.uint32(0)
            for s in shifts:
                total = 4*channel(row[j+1], s)
                for k in range(3):
                    total += channel(up[j+k], s) + channel(row[j+k], s) + channel(low[j+k], s)
                smooth = np.int32(2*total + 13)//np.int32(26)
                word |= blend(smooth, channel(row[j+1], s), f) << s
            new[j] = word

# --- moves ----------------------------------------------------------------------------------------
@compiled
def shifted(x, out, across, down, h, w):
    "Moved by whole pixels, black outside"
    lo = int(min(max(-across, 0.), w))
    hi = int(max(min(w-across, w), 0.))
    for i in range(h):
        new = out[i*w:(i+1)*w]
        for j in range(w): new[j] = 0
        if not (0 <= i+down < h and lo < hi): continue
        old = x[int(i+down)*w + int(lo+across):]
        new = new[lo:hi]
        for j in range(len(new)): new[j] = old[j]

@compiled
def framed(x, h, w):
    "`x` whose border repeats, two black rows below; rows of w+2"
    wide = w+2
    frame = np.zeros((h+4)*wide, np.uint32)
    for i in range(h):
        row,new = x[i*w:],frame[(i+1)*wide:]
        new[0] = row[0]
        for j in range(w): new[j+1] = row[j]
        new[w+1] = row[w-1]
    copied(frame[wide:2*wide], frame)
    copied(frame[h*wide:(h+1)*wide], frame[(h+1)*wide:])
    return frame

@compiled
def points(move, i, h, w, at, across, down):
    "Of the pixels of row i: place of the upper left tap in the frame, parts across and down"
    a,b,c,d,e,f = move[0],move[1],move[2],move[3],move[4],move[5]
    by,ey = b*(i+.5),e*(i+.5)
    wide = np.int32(w+2)
    black = np.int32((h+2)*(w+2))
    for j in range(w):
        u = (a*(j+.5) + by) + c
        v = (d*(j+.5) + ey) + f
        inside = (u >= 0) & (u < w) & (v >= 0) & (v < h)
        u -= .5
        v -= .5
        left,top = np.floor(u),np.floor(v)
        across[j] = u-left
        down[j] = v-top
        place = np.int32(top+1)*wide + np.int32(left+1)
        at[j] = place if inside else black

@compiled
def taps(frame, wide, at, p, q, r, s):
    for j in range(len(at)):
        n = np.uint32(at[j])
        p[j] = frame[n]
        q[j] = frame[n+ONE]
        r[j] = frame[n+wide]
        s[j] = frame[n+wide+ONE]

@compiled
def between(p, q, r, s, across, down, out, shifts):
    for j in range(len(out)):
        word = np.uint32(0)
        for k in shifts:
            a,b = np.float64(channel(p[j], k)),np.float64(channel(q[j], k))
            top = (b-a)*across[j] + a
            a,b = np.float64(channel(r[j], k)),np.float64(channel(s[j], k))
            low = (b-a)*across[j] + a
            word |= np.uint32(np.int32((low-top)*down[j] + top)) << k
        out[j] = word

@compiled
def moved(x, out, move, shifts, h, w):
    "Interpolate at a x + b y + c, d x + e y + f (`move`), black outside; some rows at a time"
    frame = framed(x, h, w)
    rows = max(1, AT_ONCE//w)
    n = rows*w
    at = np.empty(n, np.int32)
    across,down = np.empty(n),np.empty(n)
    p,q = np.empty(n, np.uint32),np.empty(n, np.uint32)
    r,s = np.empty(n, np.uint32),np.empty(n, np.uint32)
    for first in range(0, h, rows):
        some = min(rows, h-first)
        for i in range(some): points(move, first+i, h, w, at[i*w:], across[i*w:], down[i*w:])
        new = out[first*w:(first+some)*w]
        taps(frame, np.uint32(w+2), at[:len(new)], p, q, r, s)
        between(p, q, r, s, across, down, new, shifts)

@compiled
def apply(x, out, op, arg, move, tables, shifts, h, w):
    "Operation `op`, a position in `AUGMIX_OPS`, with what engine.py made of its parameter"
    f = np.float32(arg)
    whole = arg == np.floor(arg)
    if op == TRANSLATE_X and whole: shifted(x, out, arg, 0., h, w)
    elif op == TRANSLATE_Y and whole: shifted(x, out, 0., arg, h, w)
    elif op == ROTATE or SHEAR_X <= op <= TRANSLATE_Y: moved(x, out, move, shifts, h, w)
    elif op == COLOR and len(shifts) == 3: coloured(x, out, f, shifts)
    elif op == SHARPNESS and min(h, w) > 2: sharpened(x, out, f, shifts, h, w)
    elif op == COLOR or op == SHARPNESS: copied(x, out)
    else:
        lut = np.empty((len(shifts), 256), np.uint32)
        if op == AUTOCONTRAST: stretched(x, lut, shifts)
        elif op == EQUALIZE: flattened(x, lut, shifts)
        elif op == CONTRAST: flat_grey(x, f, lut, shifts)
        else:
            for k in range(len(shifts)): copied(tables[int(arg)], lut[k])
        looked_up(x, out, lut, shifts)
