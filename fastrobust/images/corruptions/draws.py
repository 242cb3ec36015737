"Random numbers for a batch, every image with its own stream: results do not depend on how a set is cut into batches"
# A stream is a function of its key and of a counter, computed by mixing bits (no state, no loop
# over images), so CPU and GPU see the same integers. Keys are mixed by splitmix64 (Steele et al.,
# OOPSLA 2014), counters by two rounds of a 32-bit multiply-and-shift. Good for pictures and
# statistics; not for secrets.
import math, zlib
import torch

__all__ = []

def _signed(v, bits): return v - (1 << bits) if v >> (bits-1) else v

_ADD,_MUL1,_MUL2 = (_signed(o, 64) for o in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))

def _mix64(z):
    "One step of splitmix64; int64 wraps around as uint64 would"
    def down(z, k): return (z >> k) & ((1 << (64-k)) - 1)   # >> alone would drag the sign along
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
    z = torch.full_like(ids, _signed(int(seed) % (1 << 64), 64))
    for o in (zlib.crc32(name.encode()), int(severity), ids): z = _mix64(z ^ o)
    return z

class Draws:
    "Streams of numbers for the images with these keys; every call gives fresh numbers"
    def __init__(self,
        keys,         # One per image (b,), int64, as from `stream_keys`
        device='cpu'  # Where the numbers go
    ):
        keys = keys.to(device)
        self.hi,self.lo = ((keys >> s).to(torch.int32)[:, None] for s in (32, 0))
        self.n,self.device = 0,torch.device(device)

    def _bits(self, lo, hi):
        "Numbers `lo` to `hi`-1 of every stream: int32 (b,hi-lo), all 32 bits random"
        def fold(x, k):   # x ^= x >> k, without the sign
            t = x >> k
            return x.bitwise_xor_(t.bitwise_and_((1 << (32-k)) - 1))
        i = fold(torch.arange(lo, hi, device=self.device).to(torch.int32).mul_(_signed(0x9E3779B9, 32)), 16)
        x = fold(i.mul_(_signed(0x21F0AAAD, 32)) ^ self.lo, 16)
        x = fold(x.mul_(_signed(0x7FEB352D, 32)).add_(self.hi), 15)
        return fold(x.mul_(_signed(0x846CA68B, 32)), 16)

    def _unit(self, lo, hi):
        return (self._bits(lo, hi) >> 8).bitwise_and_(0xFFFFFF).float().mul_(2**-24)

    def _pieces(self, m):
        "Counters of `m` numbers, in pieces that stay in the processor's cache: (start, first, last+1)"
        step = max(2**18//max(len(self.lo), 1), 64) if self.device.type == 'cpu' else max(m, 1)
        todo = [(i, self.n+i, self.n+min(i+step, m)) for i in range(0, m, step)]
        self.n += m
        return todo

    def _empty(self, m, dtype=torch.float32):
        return torch.empty(len(self.lo), m, dtype=dtype, device=self.device)

    def rand(self, *shape):
        "Uniform in [0,1): float32 (b,*shape)"
        m = math.prod(shape)
        out = self._empty(m)
        for i,lo,hi in self._pieces(m): out[:, i:i+hi-lo] = self._unit(lo, hi)
        return out.view(len(out), *shape)

    def randint(self, lo, hi, *shape):
        "Whole numbers from `lo` to `hi`-1: int64 (b,*shape)"
        m = math.prod(shape)
        out = self._empty(m, torch.int64)
        for i,first,last in self._pieces(m):
            u = self._bits(first, last).long().bitwise_and_(0xFFFFFFFF)
            out[:, i:i+last-first] = (u.mul_(hi-lo) >> 32).add_(lo)
        return out.view(len(out), *shape)

    def randn(self, *shape):
        "Standard normal: float32 (b,*shape); two from two uniform ones, by Box and Muller"
        m = math.prod(shape)
        k = (m+1)//2
        out = self._empty(2*k)
        for (i,lo,hi),(_,lo2,hi2) in zip(self._pieces(k), self._pieces(k)):
            radius = self._unit(lo, hi).neg_().add_(1).log_().mul_(-2).sqrt_()      # 1-u is never 0
            angle = self._unit(lo2, hi2).mul_(2*math.pi)
            out[:, i:i+hi-lo] = angle.cos().mul_(radius)
            out[:, k+i:k+i+hi-lo] = angle.sin_().mul_(radius)
        return (out if m == 2*k else out[:, :m].contiguous()).view(len(out), *shape)
