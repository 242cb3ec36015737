"Random numbers for a batch, every image with its own stream: results do not depend on how a set is cut into batches"
# A stream is a function of its key and of a counter, computed by mixing bits (no state, no loop
# over images), so CPU and GPU see the same integers. Keys are mixed by splitmix64 (Steele et al.,
# OOPSLA 2014), counters by two rounds of a 32-bit multiply-and-shift. Good for pictures and
# statistics; not for secrets.
import math, zlib
import numpy as np
import torch
from fastrobust.images.corruptions.engine import loops_for

__all__ = []

def _signed(v, bits):
    top = v >> (bits-1)
    return v - (1 << bits) if top else v

_ADD  = _signed(0x9E3779B97F4A7C15, 64)
_MUL1 = _signed(0xBF58476D1CE4E5B9, 64)
_MUL2 = _signed(0x94D049BB133111EB, 64)

def _mix64(z):
    "One step of splitmix64; int64 wraps around as uint64 would"
    def down(z, k):     # >> alone would drag the sign along
        low = (1 << (64-k)) - 1
        return (z >> k) & low
    z = z + _ADD
    z = (z ^ down(z, 30))*_MUL1
    z = (z ^ down(z, 27))*_MUL2
    return z ^ down(z, 31)

def stream_keys(
    seed:int,     # Of the whole evaluation
    ids,          # Positions of the images in their set (b,), int64
    name:str,     # Which corruption
    severity:int  # 1 to 5
):
    "One key per image from everything that names it: int64 (b,), on the CPU"
    ids = torch.as_tensor(ids, dtype=torch.int64).cpu()
    seed = int(seed) % (1 << 64)
    z = torch.full_like(ids, _signed(seed, 64))
    which = zlib.crc32(name.encode())
    for o in (which, int(severity), ids): z = _mix64(z ^ o)
    return z

class Draws:
    "Streams of numbers for the images with these keys; every call gives fresh numbers"
    def __init__(self,
        keys,         # One per image (b,), int64, as from `stream_keys`
        device='cpu'  # Where the numbers go
    ):
        keys = keys.to(device)
        self.hi = (keys >> 32).to(torch.int32)[:, None]
        self.lo = keys.to(torch.int32)[:, None]
        self.device = torch.device(device)
        self.loops = loops_for(self.device)
        self.n = 0

    def _bits(self, lo, hi):
        "Numbers `lo` to `hi`-1 of every stream: int32 (b,hi-lo), all 32 bits random"
        def fold(x, k):   # x ^= x >> k, without the sign
            t = x >> k
            low = (1 << (32-k)) - 1
            return x.bitwise_xor_(t.bitwise_and_(low))
        i = torch.arange(lo, hi, device=self.device).to(torch.int32)
        i = fold(i.mul_(_signed(0x9E3779B9, 32)), 16)
        x = i.mul_(_signed(0x21F0AAAD, 32)) ^ self.lo
        x = fold(x, 16)
        x = x.mul_(_signed(0x7FEB352D, 32)).add_(self.hi)
        x = fold(x, 15)
        return fold(x.mul_(_signed(0x846CA68B, 32)), 16)

    def _looped(self, loop, lo, out, *args):
        "Numbers from `lo` on into `out`, by one of the compiled loops"
        keys = [o[:, 0].numpy().view(np.uint32) for o in (self.lo, self.hi)]
        loop(lo, *keys, *args, out.numpy())
        return out

    def _unit(self, lo, hi):
        if self.loops: return self._looped(self.loops.uniform, lo, self._empty(hi-lo))
        top = self._bits(lo, hi) >> 8
        return top.bitwise_and_(0xFFFFFF).float().mul_(2**-24)

    def _pieces(self, m):
        "Counters of `m` numbers, in pieces that stay in the processor's cache: (start, first, last+1)"
        step = max(m, 1)
        if self.device.type == 'cpu':
            step = max(2**18//max(len(self.lo), 1), 64)
        start = self.n
        self.n += m
        todo = []
        for i in range(0, m, step):
            end = min(i+step, m)
            todo.append((i, start+i, start+end))
        return todo

    def _empty(self, m, dtype=torch.float32):
        return torch.empty(len(self.lo), m, dtype=dtype, device=self.device)

    def rand(self, *shape):
        "Uniform in [0,1): float32 (b,*shape)"
        m = math.prod(shape)
        if self.loops:
            self.n += m
            return self._unit(self.n-m, self.n).view(len(self.lo), *shape)
        out = self._empty(m)
        for i,lo,hi in self._pieces(m):
            out[:, i:i+hi-lo] = self._unit(lo, hi)
        return out.view(len(out), *shape)

    def randint(self, lo, hi, *shape):
        "Whole numbers from `lo` to `hi`-1: int64 (b,*shape)"
        m = math.prod(shape)
        out = self._empty(m, torch.int64)
        if self.loops:
            self._looped(self.loops.below, self.n, out, hi-lo, lo)
            self.n += m
            return out.view(len(out), *shape)
        for i,first,last in self._pieces(m):
            u = self._bits(first, last).long()
            u = u.bitwise_and_(0xFFFFFFFF).mul_(hi-lo) >> 32
            out[:, i:i+last-first] = u.add_(lo)
        return out.view(len(out), *shape)

    def randn(self, *shape):
        "Standard normal: float32 (b,*shape); two from two uniform ones, by Box and Muller"
        m = math.prod(shape)
        k = (m+1)//2
        out = self._empty(2*k)
        cosines,sines = out[:, :k],out[:, k:]
        radii,angles = self._pieces(k),self._pieces(k)
        for (i,lo,hi),(_,lo2,hi2) in zip(radii, angles):
            radius = self._unit(lo, hi).neg_().add_(1)      # 1-u is never 0
            radius = radius.log_().mul_(-2).sqrt_()
            angle = self._unit(lo2, hi2).mul_(2*math.pi)
            cosines[:, i:i+hi-lo] = angle.cos().mul_(radius)
            sines[:, i:i+hi-lo] = angle.sin_().mul_(radius)
        if m < 2*k: out = out[:, :m].contiguous()
        return out.view(len(out), *shape)
