"Time of `lp_noise` for norms other than 1, 2 and inf, with three samplers inside, all in one run"
# python nbs/benchmarks/lp_speed.py [--rounds 15] [--threads 1] [--fresh]
# gamma: |xi| = Gamma(1/p)^(1/p) by torch's own gamma. before: |xi| = U G^(1/p), G ~ Gamma(1+1/p) by Marsaglia and
# Tsang, three draws and five logarithms and exponentials a value. Rounds are interleaved, so that each finds a cache
# full of others' things; the least process time counts. As in training, larger memory has been given back before;
# --fresh: it has not, and pages come and go.
import argparse, math, sys, time
from pathlib import Path
import torch
sys.path.insert(0, str(Path(__file__).parents[2]))
from fastrobust.images import lpballs
from fastrobust.images.lpballs import lp_noise, lp_std

def by_gamma(r, n, d, p, eps, e, _logs):
    lg = torch._standard_gamma(torch.full((n, d), 1/p, dtype=r.dtype)).log_()
    sign = torch.randint(2, (n, d), dtype=torch.int8).mul_(2).sub_(1)
    s = torch.logaddexp(lg.logsumexp(1, keepdim=True), e.log().float())
    return lg.div_(p).add_(eps.log().float() - s/p).exp_().mul_(sign)

def gamma_before(r, a, m):
    k,left,out = a-1/3,m,None
    while left:
        z = torch.randn(left, **r.kw)
        v = z.mul(1/math.sqrt(9*k)).add_(1)
        v = v*v*v
        bound = v.log().sub_(v).add_(1).mul_(k).addcmul_(z, z, value=.5)
        bad = (~(torch.rand(left, **r.kw).log_() < bound)).nonzero()[:, 0]
        if out is None: out,todo = v,bad
        else:
            out[todo] = v
            todo = todo[bad]
        left = len(todo)
    return out.mul_(k)

def before(r, n, d, p, eps, e, _logs):
    eps,e = eps.float(),e.float()
    u = r.signed(n, d)
    lg = gamma_before(r, 1+1/p, n*d).view(n, d).log_()
    s = torch.logaddexp((u.abs().log_()*p + lg).logsumexp(1, keepdim=True), e.log())
    size = lg.div_(p).add_(eps.log() - s/p).exp_()
    return u.mul_(size).mul_(torch.ones_like(eps))

def cost(sampler, *args):
    lpballs.generalised_normal = sampler
    start = time.process_time()
    lp_noise(*args)
    return time.process_time()-start

def main():
    samplers = by_gamma,before,lpballs.generalised_normal
    a = argparse.ArgumentParser(description=__doc__)
    a.add_argument('--rounds', type=int, default=15)
    a.add_argument('--threads', type=int, default=1)
    a.add_argument('--fresh', action='store_true')
    a = a.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    if not a.fresh: del [torch.ones(7_500_000)][0]
    print('batch | p | kind | gamma ns/value | before | now | gamma/now | before/now')
    print('|'.join(['---']*8))
    for shape in ((64, 3, 32, 32), (16, 3, 224, 224)):
        x = torch.rand(shape)
        for p in (.5, .7, 1.5, 3, 4, 10, 200):
            for kind in ('ball', 'sphere'):
                args = x,p,.05/lp_std(p, 1, x[0].numel()),kind
                rounds = [[cost(f, *args) for f in samplers] for _ in range(a.rounds+1)][1:]
                ns = [min(o)/x.numel()*1e9 for o in zip(*rounds)]
                cells = [f'{o:.1f}' for o in ns] + [f'{o/ns[2]:.2f}' for o in ns[:2]]
                print(' | '.join([str(shape), f'{p:g}', kind, *cells]), flush=True)

if __name__ == '__main__': main()
