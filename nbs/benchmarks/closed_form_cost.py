"What a closed-form head costs: phases against all at once, the paper's recursion, memory, features; ratios of one run"
# OMP_NUM_THREADS=2 python nbs/benchmarks/closed_form_cost.py
import argparse, os, subprocess, sys, time
from pathlib import Path
import numpy as np
import torch
sys.path.insert(0, str(Path(__file__).parents[2]))
from fastrobust.inference.analytic import AnalyticHead
from fastrobust.inference.recursion import woodbury_step
from fastrobust.inference.ridge import RidgeStats

def rows(n, d, c, seed=0):
    g = torch.Generator().manual_seed(seed)
    Z = torch.randn(n, d, dtype=torch.float64, generator=g).relu_()
    return Z,torch.arange(n) % c

def seconds(f, n=3):
    "The least of `n` times, and the last result"
    found = []
    for _ in range(n):
        t = time.perf_counter()
        r = f()
        found.append(time.perf_counter()-t)
    return min(found),r

# --- phases ---------------------------------------------------------------------------------------
def phases(n=10_000, d=2048, c=100, k=10):
    "Learned in `k` phases and read out after each, against one Gram matrix and one Cholesky factor of all rows"
    Z,y = rows(n, d, c)
    y = y.sort().values
    def joint():
        A = Z.T@Z
        A.diagonal().add_(.1)
        return torch.linalg.cholesky(A)
    def gradual(gamma):
        s = RidgeStats(d)
        for i in range(0, n, n//k):
            s.add(Z[i:i+n//k], y[i:i+n//k])
            s.solve(s.gcv() if gamma == 'auto' else gamma)
        return s
    base,_ = seconds(joint)
    print(f'{n} x {d}, {c} classes; one Gram matrix and Cholesky factor: {base:.2f} s')
    for gamma in (.1, 'auto'):
        t,_ = seconds(lambda g=gamma: gradual(g))
        print(f'  {k} phases, each read out, gamma {gamma}: {t/base:.2f} times that')
    return base,Z,y

def recursion(base, Z, y, n=10_000):
    "The paper's recursion in blocks, gamma .1 and 1e-5: time, and how far from the sums"
    Z,y = Z[:n],y[:n]
    d,c = Z.shape[1],int(y.max())+1
    Y = torch.eye(c, dtype=torch.float64)[y]
    s = RidgeStats(d).add(Z, y)
    for block in (64, 256, 1024):
        for gamma in (.1, 1e-5):
            R,W = torch.eye(d, dtype=torch.float64)/gamma,torch.zeros(d, 0, dtype=torch.float64)
            t = time.perf_counter()
            for i in range(0, n, block): R,W = woodbury_step(R, W, Z[i:i+block], Y[i:i+block])
            t = time.perf_counter()-t
            off = (W-s.solve(gamma)).abs().max()
            print(f'  recursion, blocks of {block}, gamma {gamma}: {t/base:.1f} times, {off:.0e} off')

def flat(d=2048, c=50, n=1000):
    "One more phase after few and after many rows"
    Z,y = rows(n, d, c)
    s,found = RidgeStats(d),{}
    for before in (0, 5_000, 50_000):
        while s.n < before: s.add(Z, y)
        found[before],_ = seconds(lambda: RidgeStats.add(s, Z, y))
    print(f'a phase of {n} rows after 0, 5,000, 50,000 others:', ', '.join(f'{t/found[0]:.2f}' for t in found.values()))

# --- digits ---------------------------------------------------------------------------------------
def float32():
    "Sums in float32, solved in float64"
    for n,d in ((3000, 512), (10_000, 2048)):
        Z,y = rows(n, d, 10)
        exact = RidgeStats(d).add(Z, y)
        less = RidgeStats(d, dtype=torch.float32).add(Z, y)
        for g in (1e-3, .1, 10.):
            W = exact.solve(g)
            off = (less.solve(g)-W).abs().max()/W.abs().max()
            print(f'float32 sums of {n} x {d}, gamma {g}: relative error of W {off:.0e}')

# --- memory ---------------------------------------------------------------------------------------
def status(key):
    "A line of /proc/self/status in MiB"
    line = next(o for o in Path('/proc/self/status').read_text().splitlines() if o.startswith(key))
    return int(line.split()[1])/1024

def memory(c=345, m=2048, n=100):
    "Peak memory above the imports while 345 classes are learned in 23 phases and read out after each"
    Path('/proc/self/clear_refs').write_text('5')       # the peak starts anew
    start = status('VmRSS')
    head = AnalyticHead(784, m, gamma='auto')
    g = torch.Generator().manual_seed(0)
    for i in range(0, c, 15):
        y = torch.arange(i, min(i+15, c)).repeat(n)
        f = torch.rand(len(y), 784, generator=g) + .01*y[:, None]
        head.fit(f, y)(f[:100])
    print(f'{len(head.classes)} classes, {m} features: {status("VmHWM")-start:.0f} MiB at most above the imports, '
          f'{(8*m*m+8*m*c)/2**20:.0f} of them the sums')

# --- features -------------------------------------------------------------------------------------
def features(name, arch, n, size):
    "Items a second through `fill`, against the bare body over the same loader"
    from fastai.learner import Learner
    from fastrobust.data.fromarrays import array_dls
    from fastrobust.inference.bodies import body_of
    from fastrobust.inference.features import Rows, fill
    g = np.random.default_rng(0)
    X = g.integers(0, 255, (n, size, size, 3), dtype=np.uint8)
    dls = array_dls(X, np.arange(n) % 10, valid=(X[:16], np.arange(16) % 10), bs=64)
    learn = Learner(dls, body_of(arch, torch.rand(2, 3, size, size), pretrained=False))
    learn.remove_cbs(learn.progress)
    body = learn.model.eval()
    dl = dls.train.new(shuffle=False, drop_last=False)
    def bare():
        with torch.no_grad(): return torch.cat([body(b[0]) for b in dl])
    def ours(): return fill(Rows(n, keyed=True), learn, body, dls.train)
    bare()
    ratio = np.array([seconds(bare, 1)[0]/seconds(ours, 1)[0] for _ in range(9)])
    print(f'features of {name}: {np.median(ratio):.2f} of the speed of the bare body '
          f'(9 pairs: {ratio.min():.2f} to {ratio.max():.2f})')

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--only', choices=['memory', 'features'])
    a = p.parse_args()
    torch.set_num_threads(int(os.environ.get('OMP_NUM_THREADS', 2)))
    if a.only == 'memory':
        memory()
        return
    if a.only is None:
        recursion(*phases())
        flat()
        float32()
        subprocess.run([sys.executable, __file__, '--only', 'memory'], check=True)
    from torchvision.models import mobilenet_v2
    from fastrobust.nets import small_cnn
    features('MobileNetV2, 96 px', mobilenet_v2, 512, 96)
    features('small_cnn, 28 px', small_cnn(10, 3), 8000, 28)

if __name__ == '__main__': main()
