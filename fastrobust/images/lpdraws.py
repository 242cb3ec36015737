"Random numbers for Lp noise, drawn where the generator is; |xi| of density exp(-|xi|^p) by rejection"
# Marsaglia and Tsang 2000: G = k w^3, w normal with mean 1 and variance 1/9k, k = 2/3+1/p, is
# Gamma(1+1/p) if U < h(w), log h = 9k/2 (w-1)^2 + k (3 log w - w^3 + 1). Of an accepted U the ratio
# U/h is uniform again and independent of w, so one U and its sign give
#   xi = U/h G^(1/p) = k^(1/p) U exp(k (w^3 - 4.5 w^2 + 9 w - 5.5))/w^2, accepted if |xi|^p < G.
# Here x = xi/k^(1/p). What `tried` returns for `logs` are the sign and the logarithms.
import math
import torch

__all__ = []

_part = 2**18   # values at a time on the CPU, in memory that is used again

class Random:
    "Random numbers of one kind of float, drawn where `generator` is, for a tensor that may be elsewhere"
    def __init__(self, generator, device, dtype):
        if generator is not None and generator.device.type not in ('cpu', device.type):
            raise ValueError(f"`generator` must be on the CPU or where the images are ({device}), "
                             f"got one on {generator.device}. Use `torch.Generator()`: all devices "
                             "then see the same draws.")
        self.generator,self.device,self.dtype = generator,device,dtype
        self.where = device if generator is None else generator.device
        self.kw = dict(generator=generator, device=self.where, dtype=dtype)
        self.half = torch.finfo(dtype).eps/2

    def normal(self, *shape): return torch.randn(shape, **self.kw).to(self.device)
    def uniform(self, *shape): return torch.rand(shape, **self.kw).to(self.device)
    def signed(self, *shape):
        "U(-1,1); never -1 nor 1, so that log(1-|u|) is finite"
        u = torch.rand(shape, **self.kw)
        return u.mul_(2).sub_(1-self.half).to(self.device)
    def exponential(self, *shape): return -torch.log1p(-self.uniform(*shape))
    def bits(self, *shape):
        kw = {**self.kw, 'dtype': torch.int64}
        return torch.randint(2**63-1, shape, **kw).to(self.device)

    def room(self, *shape): return torch.empty(shape, dtype=self.dtype, device=self.where)

    def scaled(self, x, room):
        "Fill `x` with what times the number returned is U(-1,1), never 0"
        if x.device.type != 'cpu' or x.dtype != torch.float32:
            x.uniform_(generator=self.generator).mul_(2).sub_(1-self.half)
            return 1.
        # odd integers, two a draw: three fifths of the time
        two = room.view(torch.int64).random_(-2**63, None, generator=self.generator)
        x.copy_(two.bitwise_or_(2**32+1).view(torch.int32))
        return 2.**-31

    def tried(self, p, room, logs):
        "x, |x|^p and what that must stay below, in the rows of `room` (4,m), m even"
        k = 2/3 + 1/p
        w,w3,w2,x = room
        unit = self.scaled(x, w2)
        w.normal_(1, 1/math.sqrt(9*k), generator=self.generator)
        torch.square(w, out=w2)
        torch.mul(w, w2, out=w3)
        rise = torch.add(w3, w, alpha=9, out=w).sub_(w2, alpha=4.5).mul_(k)
        rise.add_(math.log(unit) - 5.5*k)
        if logs:
            top = w3.clamp_min_(1e-99).log_()
            return x,torch.abs(x, out=w2).log_().add_(rise).sub_(top, alpha=2/3).mul_(p),top
        x.mul_(rise.exp_()).div_(w2)
        return x,power(torch.abs(x, out=w), p, w2),w3

    def accepted(self, p, m, logs, room=None):
        "`m` of x and of |x|^p; the refused ones give way to others drawn beyond `m`"
        more = spare(p, m)
        if room is None: room = self.room(4, m+more)
        tried = self.tried(p, room[:, :m+more], logs)
        x,t,top = (o[:m] for o in tried)
        bad = below(top, t)
        others = [o[m:] for o in tried]
        while True:
            good = below(others[1], others[2])[:len(bad)]
            now,bad = bad[:len(good)],bad[len(good):]
            for o,new in zip((x, t), others): o.index_copy_(0, now, new.index_select(0, good))
            if not len(bad): return x,t
            others = self.tried(p, self.room(4, 2*more), logs)

def spare(p, m):
    "How many more to try, for `m` to be accepted nearly always; with `m` an even number"
    k = 2/3 + 1/p
    rate = math.exp(math.lgamma(k+1/3) + k - (k-1/6)*math.log(k))/math.sqrt(2*math.pi)
    more = 8 + int(m*(1/rate-1) + 4*math.sqrt(m*(1-rate)))
    return more + (m+more)%2

def below(a, b):
    "Positions where `a` < `b`"
    if a.device.type != 'cpu': return (a < b).nonzero()[:, 0]
    # a fifth of torch's time
    return torch.from_numpy((a.numpy() < b.numpy()).nonzero()[0])

def power(x, p, out):
    "`x`^`p`, `x` >= 0, in the memory of either: by products if 2p is a whole number, that is faster"
    n,half = divmod(p, 1)
    if half not in (0, .5) or n > 1000: return x.pow_(p)
    made = half > 0
    if made: torch.sqrt(x, out=out)
    n = int(n)
    while n:
        if n == 1 and not made: return x
        if n % 2:
            if made: out.mul_(x)
            else: out.copy_(x)
            made = True
        n //= 2
        if n: x.square_()
    return out

def norm_log(x, t, p, e):
    "Logarithm of (sum |x|^p + `e`)^(1/p), float64 on the CPU; `t` = |x|^p"
    total = t.sum(1, keepdim=True).cpu().double()
    # in few dimensions a large `p` lets all of it underflow
    if total.min() > 1e-30: return (total + e).log_()/p
    return logs_norm(x.cpu().double().abs().log_().mul_(p), p, e)

def logs_norm(t, p, e):
    "`norm_log` of logarithms `t`"
    return torch.logaddexp(t.logsumexp(1, keepdim=True).cpu().double(), e.log())/p

def generalised_normal(
    r,      # A `Random`
    n,      # Number of images
    d,      # Values of an image
    p,      # In (0,inf)
    eps,    # Norms (n,1), float64 on the CPU
    e,      # What is added to sum |xi|^p (n,1): Exp(1) for the ball, 0 for the sphere
    logs    # Work with logarithms: nothing overflows
):          # (n,d), where the images are
    "xi of density exp(-sum |xi|^p), brought to norm `eps`, less if `e` is not 0"
    out = r.room(n, d)
    log_eps,e = eps.log(),e.cpu().double()/(2/3+1/p)
    parts = max(1, round(n*d/_part)) if r.where.type == 'cpu' else 1
    step = -(-n//parts)
    room = r.room(4, step*d + spare(p, step*d))
    for i in range(0, n, step):
        to = out[i:i+step]
        x,t = (o.view(-1, d) for o in r.accepted(p, to.numel(), logs, room))
        size = log_eps[i:i+step]
        if logs:
            size = (size - logs_norm(t, p, e[i:i+step])).to(to)
            to.copy_(t.div_(p).add_(size).exp_().copysign_(x))
        else:
            # in two halves for small p: float32 may not hold the whole of it
            halves = 1 if p >= .25 else 2
            size = ((size - norm_log(x, t, p, e[i:i+step]))/halves).exp_().to(to)
            torch.mul(x, size, out=to)
            if halves == 2: to.mul_(size)
    return out.to(r.device)
