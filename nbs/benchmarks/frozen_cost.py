"What an audit by frozen features costs after the features: seconds and memory, for many items and for many classes"
# python nbs/benchmarks/frozen_cost.py [--threads 2]; each row in a process of its own, made-up features
import argparse, resource, subprocess, sys, time
import numpy as np
import torch
from fastrobust.inference.leaveout import LeaveOut
from fastrobust.labels.report import left_out_report

ROWS = [(50_000, 1280, 10), (50_000, 1280, 100), (200_000, 1280, 1000)]

def world(n, d, c):
    "Features of c clouds, float32, and labels of which a tenth is wrong"
    rng = np.random.default_rng(0)
    y = rng.integers(0, c, n)
    centres = rng.normal(size=(c, d)).astype(np.float32)
    f = np.empty((n, d), np.float32)
    for i in range(0, n, 10_000):
        part = y[i:i+10_000]
        f[i:i+len(part)] = centres[part]*.25 + rng.normal(size=(len(part), d)).astype(np.float32)
    g = np.where(rng.random(n) < .1, (y+rng.integers(1, c, n))%c, y)
    return f,y,g

def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20

def run(n, d, c, threads):
    torch.set_num_threads(threads)
    f,y,g = world(n, d, c)
    before,t = peak(),time.perf_counter()
    out = LeaveOut(torch.from_numpy(f), g, c)
    solved = time.perf_counter()-t
    rep = left_out_report(out, g, list(range(c)))
    secs = time.perf_counter()-t
    wrong = g != y
    first = wrong[rep.table['item'].to_numpy()[:wrong.sum()]].mean()
    print(f"| {n:,} x {d:,}, {c:,} classes | {solved:.0f} | {secs:.0f} | {before:.1f} | {peak():.1f} | {rep.rate:.3f} "
          f"({rep.lo:.3f}–{rep.hi:.3f}) of .100 | {first:.2f} |", flush=True)

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--threads', type=int, default=2)
    p.add_argument('--row', type=int, nargs=3)
    a = p.parse_args()
    if a.row:
        run(*a.row, a.threads)
        return
    print("| items | solved, s | report, s | GiB with the features | GiB at the most | rate | wrong among as many "
          "first |\n|---|---|---|---|---|---|---|", flush=True)
    for r in ROWS:
        subprocess.run([sys.executable, __file__, '--threads', str(a.threads), '--row', *map(str, r)], check=True)

if __name__ == '__main__': main()
