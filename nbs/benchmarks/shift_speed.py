"Images a second: AugMix beside its peers, the corruptions beside imagecorruptions, Lp noise beside torch.randn_like"
# python nbs/benchmarks/shift_speed.py augmix|corruptions|cost|lp|memory [--rounds 5] [--threads 2] [--sizes 32 224]
#        [--device cuda]
# AugMix with numba and by torch alone. Every peer at its own best setting: per-image transforms run in `threads`
# processes of one thread each. Rounds are interleaved; the ratio is taken within a round and its median over the rounds
# is printed. timm (a peer), imagecorruptions-imaug (the oracle) and numba must be installed, scikit-learn lends its two
# photographs.
import argparse, multiprocessing, os, resource, subprocess, sys, tempfile, time, warnings
from pathlib import Path
import numpy as np
import torch
from PIL import Image
sys.path.insert(0, str(Path(__file__).parents[2]))

def photos(n, size, seed=0):
    "Crops of two photographs, so that the histograms are those of pictures: uint8 (n,3,h,w)"
    from sklearn.datasets import load_sample_images
    ims,rng,out = load_sample_images().images,np.random.default_rng(seed),[]
    for _ in range(n):
        a,s = ims[rng.integers(2)],rng.integers(max(size, 160), 420)
        i,j = rng.integers(a.shape[0]-s+1),rng.integers(a.shape[1]-s+1)
        out.append(np.asarray(Image.fromarray(a[i:i+s, j:j+s]).resize((size, size), Image.Resampling.BILINEAR)))
    return torch.from_numpy(np.stack(out)).permute(0, 3, 1, 2).contiguous()

# --- per-image functions, made anew in every process -----------------------------------------------------------------
def _pil(o): return Image.fromarray(o.permute(1, 2, 0).numpy())

def tv_tensor(_x):
    from torchvision.transforms import v2
    return v2.AugMix(severity=3, all_ops=False)

def tv_pil(x):
    t = tv_tensor(x)
    return lambda o: np.asarray(t(_pil(o)))

def timm_pil(x):
    from timm.data.auto_augment import augment_and_mix_transform
    t = augment_and_mix_transform('augmix-m3-w3', dict(translate_const=x.shape[-1]//3, img_mean=(124, 116, 104)))
    return lambda o: np.asarray(t(_pil(o)))

class oracle:
    def __init__(self, name): self.name = name
    def __call__(self, x):
        from imagecorruptions import corrupt
        i = iter(range(10**9))
        return lambda o: corrupt(o.permute(1, 2, 0).numpy(), corruption_name=self.name, severity=next(i)%5 + 1)

def _worker(make, x, go, done):
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    f = make(x)
    while (n := go.get()) is not None:
        for i in range(n): f(x[i%len(x)])
        done.put(n)

class InProcesses:
    "A per-image function in `k` processes of one thread, images shared in memory; called with a number of images"
    def __init__(self, make, x, k):
        ctx = multiprocessing.get_context('spawn')
        self.go,self.done,self.k = ctx.Queue(),ctx.Queue(),k
        for _ in range(k): ctx.Process(target=_worker, args=(make, x, self.go, self.done), daemon=True).start()
        self(10*k)
    def __call__(self, n):
        for _ in range(self.k): self.go.put(n//self.k)
        for _ in range(self.k): self.done.get()
        return n//self.k*self.k
    def close(self):
        for _ in range(self.k): self.go.put(None)

DEVICE = 'cpu'  # --device

def in_batches(f, x, bs):
    batches = [x[torch.arange(i, i+bs)%len(x)].to(DEVICE) for i in range(0, 4*bs, bs)]
    def run(n):
        for i in range(max(1, n//bs)): f(batches[i%4])
        if DEVICE != 'cpu': torch.cuda.synchronize()
        return max(1, n//bs)*bs
    return run

def race(rows, rounds):
    "`rows`: name -> (function of a number of images, that number); the first is compared with the others"
    rates = {k: [] for k in rows}
    for r in range(rounds+1):
        for k,(f,n) in rows.items():
            t = time.perf_counter()
            done = f(n)
            if r: rates[k].append(done/(time.perf_counter()-t))
    ours = np.array(rates[list(rows)[0]])
    for k,v in rates.items():
        print(f'  {k:46} {np.median(v):9.0f} images/s   ours/this {np.median(ours/np.array(v)):6.2f}', flush=True)
    return {k: np.median(ours/np.array(v)) for k,v in rates.items()},{k: np.median(v) for k,v in rates.items()}

# --- what is measured ------------------------------------------------------------------------------------------------
def by_torch(f):
    "`f` as where numba is not installed"
    def run(*args, **kw):
        os.environ['FASTROBUST_NUMBA'] = '0'
        try: return f(*args, **kw)
        finally: del os.environ['FASTROBUST_NUMBA']
    return run

def augmix_speed(a):
    from torchvision.transforms import v2
    from fastrobust.images.augmixing import augmix
    for size in a.sizes:
        x,n = photos(256, size),4096 if size < 100 else 192
        peers = {f'{k}, {a.threads} processes': InProcesses(f, x, a.threads) for k,f in
                 (('torchvision v2.AugMix on tensors', tv_tensor), ('torchvision v2.AugMix on PIL', tv_pil),
                  ('timm AugMix on PIL', timm_pil))}
        for bs in ((512, 128) if size < 100 else (64,)):
            print(f'AugMix, one view, severity 3, {size} px, batches of {bs}, {a.threads} threads')
            ratio,_ = race({'fastrobust augmix, numba': (in_batches(augmix, x, bs), 4*n),
                            'fastrobust augmix, torch': (in_batches(by_torch(augmix), x, bs), n//4),
                            **{k: (f, n//6) for k,f in peers.items()},
                            '(v2.AugMix, one draw for the whole batch)':
                            (in_batches(v2.AugMix(3, all_ops=False), x, bs), n//4)}, a.rounds)
            print(f'  the best per-image peer: {min(ratio[k] for k in peers):.1f} x')
        for f in peers.values(): f.close()
    if DEVICE == 'cpu':
        augmix_shares(a)
        first_calls()

def augmix_shares(a):
    "Processor time of one thread: chains of eight times one operation, less chains of none"
    from fastrobust.images import augmixing
    from fastrobust.images.ops import AUGMIX_OPS
    torch.set_num_threads(1)
    def cost(f, x, draw):
        spent = []
        for _ in range(6):
            t = time.thread_time()
            f(x, draw)
            spent.append(time.thread_time()-t)
        return min(spent[1:])/len(x)*1e6
    for size in a.sizes:
        b = 256 if size < 100 else 16
        x,d = photos(b, size),augmixing.draw_augmix(b, 3, 1, 8, all_ops=True, size=(size, size))
        u = torch.rand(2, b, 1, 8, dtype=torch.float64)
        level,sign = .1 + 2.9*u[0],(u[1] > .5)*2. - 1
        args = augmixing.operation_args(level, sign, (size, size))
        for name,f in (('numba', augmixing.apply_augmix), ('torch', by_torch(augmixing.apply_augmix))):
            none = cost(f, x, d._replace(op=torch.full_like(d.op, -1)))
            each = {k: (cost(f, x, d._replace(op=torch.full_like(d.op, i), arg=args[..., i])) - none)/8
                    for i,k in enumerate(AUGMIX_OPS)}
            nine = sum(list(each.values())[:9])
            print(f'{size} px, {name}, microseconds an image, share of the nine:',
                  ', '.join(f'{k} {v:.1f} ({v/nine:.0%})' for k,v in each.items()) + f'; no operation {none:.1f}')
        t = time.thread_time()
        for _ in range(20): augmixing.draw_augmix(b, 3, size=(size, size))
        print(f'{size} px: to draw {(time.thread_time()-t)/20/b*1e6:.1f} microseconds an image')
    torch.set_num_threads(a.threads)

FIRST = """
import time, torch
from fastrobust.images.augmixing import augmix
for c in (3, 3, 1, 1):
    x = torch.zeros(8, c, 32, 32, dtype=torch.uint8)
    t,p = time.perf_counter(),time.process_time()
    augmix(x)
    print(f'c={c}: {time.perf_counter()-t:.3f} s ({time.process_time()-p:.3f} of the processor)', end='  ')
print()
"""

def first_calls():
    "What the first calls of a process take, with an empty cache and with a warm one"
    root = Path(__file__).parents[2]
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, 'NUMBA_CACHE_DIR': folder, 'PYTHONPATH': str(root), 'PYTHONWARNINGS': 'ignore'}
        for what in ('empty cache', 'warm cache'):
            print(f'first calls, {what}:', end=' ', flush=True)
            subprocess.run([sys.executable, '-c', FIRST], env=env, check=True)

def corruption_speed(a):
    from fastrobust.images.corruptions.front import corrupt
    from fastrobust.images.corruptions.tables import CORRUPTIONS, EXTRA_CORRUPTIONS
    for size in a.sizes:
        x,bs = photos(128 if size < 100 else 32, size),128 if size < 100 else 32
        print(f'Corruptions, severities 1-5 of the ImageNet table, {size} px, {a.threads} threads')
        total = np.zeros(2)
        for name in CORRUPTIONS + EXTRA_CORRUPTIONS:
            it = iter(range(10**9))
            peer = InProcesses(oracle(name), x, a.threads)
            def ours(b, name=name, it=it): return corrupt(b, name, next(it)%5 + 1, table='imagenet', seed=0)
            some = (100 if size < 100 else 5)*a.threads
            _,rate = race({name: (in_batches(ours, x, bs), 5*bs), '  imagecorruptions': (peer, some)}, a.rounds)
            peer.close()
            total += 1/np.array(list(rate.values()))
        print(f'  all 19: {1e3*total[0]:.2f} ms an image, oracle {1e3*total[1]:.2f}: {total[1]/total[0]:.1f} x')

def corruption_cost(a):
    "Processor milliseconds an image, one thread each, the least of the rounds: on a machine that others use too"
    from imagecorruptions import corrupt as theirs
    from fastrobust.images.corruptions.front import corrupt
    from fastrobust.images.corruptions.tables import CORRUPTIONS, EXTRA_CORRUPTIONS
    torch.set_num_threads(1)
    def cost(f, n):
        t = time.process_time()
        f()
        return 1e3*(time.process_time()-t)/n
    for size in a.sizes:
        x = photos(128 if size < 100 else 32, size)
        some = [o.permute(1, 2, 0).numpy() for o in x[:20 if size < 100 else 2]]
        total = np.zeros(3)
        print(f'\n{size} px, ImageNet table | numba | torch | imagecorruptions | times, numba | torch\n{"---|"*6}')
        for name in CORRUPTIONS + EXTRA_CORRUPTIONS:
            def ours(x=x, name=name):
                for s in range(1, 6): corrupt(x, name, s, table='imagenet', seed=0)
            def oracles(name=name, some=some):
                for o in some:
                    for s in range(1, 6): theirs(o, corruption_name=name, severity=s)
            rounds = [[cost(ours, 5*len(x)), cost(by_torch(ours), 5*len(x)), cost(oracles, 5*len(some))]
                      for _ in range(a.rounds+1)][1:]
            ms = np.min(rounds, 0)
            total += ms
            cells = [f'{o:.3f}' for o in ms] + [f'{ms[2]/o:.2f}' for o in ms[:2]]
            print(' | '.join([name, *cells]), flush=True)
        print('all 19 | ' + ' | '.join([*(f'{o:.2f}' for o in total), *(f'{total[2]/o:.1f}' for o in total[:2])]))

def lp_speed(a):
    from fastrobust.images.lpballs import lp_noise
    for size in a.sizes:
        x = photos(128 if size < 100 else 32, size).float()/255
        print(f'lp_noise, {size} px, {a.threads} threads')
        def run(f, x=x): return in_batches(f, x, len(x)),10*len(x)
        race({'torch.randn_like': run(torch.randn_like),
              'x + .01 torch.randn_like, clipped': run(lambda o: (o + .01*torch.randn_like(o)).clamp_(0, 1)),
              **{f'lp_noise p={p}': run(lambda o, p=p: lp_noise(o, p, .1 if p == 0 else 1.))
                 for p in (2, float('inf'), 1, 0, .5, 5, 200)}}, a.rounds)

def memory(_a):
    "Growth of the process's peak while it works"
    from fastrobust.images.augmixing import augmix
    x = photos(8, 224)[torch.arange(256)%8].contiguous()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    augmix(x, all_ops=True)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f'AugMix of 256 images of 224 px: the peak rose from {before/1e6:.2f} to {after/1e6:.2f} GB')

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('what', choices=['augmix', 'corruptions', 'cost', 'lp', 'memory'])
    p.add_argument('--rounds', type=int, default=5)
    p.add_argument('--threads', type=int, default=2)
    p.add_argument('--sizes', type=int, nargs='+', default=[32, 224])
    p.add_argument('--device', default='cpu', help='where our side runs; the peers stay on the CPU')
    a = p.parse_args()
    globals()['DEVICE'] = a.device
    torch.set_num_threads(a.threads)
    warnings.simplefilter('ignore')
    dict(augmix=augmix_speed, corruptions=corruption_speed, cost=corruption_cost, lp=lp_speed, memory=memory)[a.what](a)

if __name__ == '__main__': main()
