"Which labels are wrong, from features that need no weights (`PlainBody`) and from a small network in 3 folds"
# python nbs/benchmarks/plain_features.py --data cifar digits trash fashion --seeds 3
# The images: FASTROBUST_DATA or ../shared/data (CIFAR-10, TrashNet); needs scikit-learn. A finished run is a line of
# OUT/<data>.csv and is not run again. The settings of `PlainBody` were chosen on cifar and digits alone.
import argparse, resource, time, warnings
from functools import lru_cache, partial
from pathlib import Path
import numpy as np, pandas as pd
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score, roc_auc_score
from fastai.learner import Learner
from fastai.torch_core import set_seed
from closed_form import append, cifar, photos
from fastrobust.data.fromarrays import array_dls
from fastrobust.inference.analytic import AnalyticHead
from fastrobust.inference.buffers import GaussianBuffer
from fastrobust.inference.plainbody import PlainBody, resized
from fastrobust.labels.crossval import cross_val_preds
from fastrobust.labels.frozen import centres
from fastrobust.losses import CrossEntropy, GCELoss
from fastrobust.nets import small_cnn
from fastrobust.samples import sample_data

SIZES = dict(cifar=(600, 5000), digits=(600, 1797), trash=(600, 2527), fashion=(600, 4000))
RATE = .1           # Labels moved to another class
MEASURES = ['loo', 'auroc', 'ap', 'first 30']
FIELDS = ['data', 'n', 'seed', 'row', *MEASURES, 'd', 'features_s', 'cpu_s']

# --- images and labels ----------------------------------------------------------------------------
@lru_cache(None)
def images(data):
    "Pixels uint8 (n,h,w) or (n,h,w,3), class numbers"
    if data == 'cifar': return cifar()['x'],cifar()['y']
    if data == 'trash': return photos(64)[:2]
    if data == 'fashion': return sample_data('fashion')[:2]
    digits = load_digits()
    x = torch.from_numpy(digits.images).float()[:, None]/16
    x = F.interpolate(x, size=32, mode='bilinear', align_corners=False)
    return x[:, 0].mul(255).round().byte().numpy(),digits.target

def draw(data, n, seed):
    "Images, given labels, and which of them are wrong: `n` items and `RATE` errors drawn anew for each seed"
    X,y = images(data)
    rng = np.random.default_rng(100+seed)
    i = rng.permutation(len(y))[:n]
    X,y = X[i],y[i].astype(np.int64)
    wrong = np.zeros(len(y), bool)
    wrong[rng.permutation(len(y))[:round(RATE*len(y))]] = True
    c = y.max()+1
    given = y.copy()
    given[wrong] = (y[wrong] + rng.integers(1, c, wrong.sum())) % c
    return X,given,wrong

def measure(z, given, wrong):
    "Accuracy on the given labels; how well `largest other score - own score` finds the wrong ones"
    z,y = torch.as_tensor(z).double(),torch.as_tensor(given)[:, None]
    own = z.gather(1, y)
    other = z.scatter(1, y, -torch.inf).amax(1)
    doubt = (other-own[:, 0]).numpy()
    first = np.argsort(-doubt)[:30]
    return dict(zip(MEASURES, [(z.argmax(1) == y[:, 0]).double().mean().item(), roc_auc_score(wrong, doubt),
                               average_precision_score(wrong, doubt), wrong[first].mean()]))

# --- features -------------------------------------------------------------------------------------
def as_pixels(X):
    x = torch.from_numpy(X).float()/255
    return x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2)

def raw(x): return resized(x, 32).flatten(1)

def batches(f, x): return torch.cat([f(o) for o in x.split(64)])

def plain(x, **kwargs): return batches(PlainBody(x.shape[1], **kwargs), x)

def _patches(x):
    "Patches 6x6 at every second pixel (b,36c,169) of images of 32 px, each of mean 0 and contrast 1"
    p = F.unfold(resized(x, 32), 6, stride=2)
    p = p - p.mean(1, keepdim=True)
    return p/(p.var(1, keepdim=True) + 10/255**2).sqrt()

def dictionary(x, k=400, n=40000, rounds=10):
    "Whitening of patches of the images themselves, and `k` centres by k-means (Coates, Ng & Lee, AISTATS 2011)"
    g = torch.Generator().manual_seed(0)
    P = batches(_patches, x).transpose(1, 2).flatten(0, 1)
    P = P[torch.randperm(len(P), generator=g)[:n]]
    mean = P.mean(0)
    e,V = torch.linalg.eigh(torch.cov(P.T).double())
    W = ((V*(e.clamp(min=0)+.1).rsqrt()) @ V.T).float()
    P = (P-mean) @ W
    D = P[:k].clone()
    for _ in range(rounds):
        near = torch.cdist(P, D).argmin(1)
        sums = torch.zeros_like(D).index_add_(0, near, P)
        count = torch.bincount(near, minlength=k)[:, None]
        D = torch.where(count > 0, sums/count.clamp(min=1), D)
    return mean,W,D

def encoded(x, mean, W, D):
    "How much nearer than the average each centre is, the root of its mean in each quadrant"
    P = (_patches(x).transpose(1, 2)-mean) @ W
    z = torch.cdist(P, D[None])
    a = (z.mean(2, keepdim=True)-z).clamp(min=0)
    a = a.transpose(1, 2).unflatten(2, (14, 14))
    return F.adaptive_avg_pool2d(a, 2).flatten(1).sqrt()

def patches(x): return batches(partial(encoded, **dict(zip(('mean', 'W', 'D'), dictionary(x)))), x)

def both(x): return torch.cat([plain(x), patches(x)], 1)

BODIES = {'raw pixels': raw, 'gradients': partial(plain, colour=False), 'colours': partial(plain, sizes=()),
          'PlainBody': plain, 'patches': patches, 'PlainBody + patches': both}
KERNEL = ', kernel'
LOSSES = {'small_cnn, GCE': GCELoss, 'small_cnn, CE': CrossEntropy}
ROWS = [*BODIES, *(o+KERNEL for o in BODIES), *LOSSES]

def by_features(row, X, given):
    "Leave-one-out scores of ridge regression on features"
    x,start = as_pixels(X),time.process_time()
    f = BODIES[row.removesuffix(KERNEL)](x)
    features_s = time.process_time()-start
    m = GaussianBuffer(centres(len(f))) if row.endswith(KERNEL) else None
    head = AnalyticHead(f.shape[1], m=m, intercept=True).fit(f, given)
    z = head.loo(f, given)[:, np.argsort(head.classes)]
    return z,f.shape[1],features_s

def by_network(row, X, given, seed, epochs):
    "Out-of-fold probabilities of a small network"
    dls = array_dls(X, given, valid=(X[:64], given[:64]), bs=64)
    def make(dls):
        set_seed(seed)
        return Learner(dls, small_cnn(dls.c, X.shape[-1] if X.ndim == 4 else 1), loss_func=LOSSES[row]())
    probs = cross_val_preds(make, dls, n_folds=3, epochs=epochs, lr=3e-3, seed=seed, verbose=False).probs
    return probs,'',''

def run(row, data, n, seed, epochs):
    X,given,wrong = draw(data, n, seed)
    start = time.process_time()
    if row in LOSSES: z,d,features_s = by_network(row, X, given, seed, epochs)
    else: z,d,features_s = by_features(row, X, given)
    cpu_s = time.process_time()-start
    return dict(data=data, n=n, seed=seed, row=row, **measure(z, given, wrong), d=d, features_s=features_s,
                cpu_s=cpu_s)

# --- all runs -------------------------------------------------------------------------------------
def done(file):
    if file.exists(): return pd.read_csv(file)
    return pd.DataFrame(columns=FIELDS)

def mean_se(v): return f'{v.mean():.3f}' + (f' ± {v.sem():.3f}' if len(v) > 1 else '')

def show(df):
    for (data,n),part in df.groupby(['data', 'n'], sort=False):
        print(f'\n### {data}, {n} images, {RATE:.0%} wrong\n')
        print('| features | d | seeds | given labels | AUROC | average precision | wrong of the first 30 | CPU s |')
        print('|---|---|---|---|---|---|---|---|')
        for row in ROWS:
            o = part[part.row == row]
            if not len(o): continue
            d = '' if o.d.isna().all() else int(o.d.iloc[0])
            cells = [mean_se(o[k].astype(float)) for k in MEASURES]
            print(f'| {row} | {d} | {len(o)} |', ' | '.join(cells), f'| {o.cpu_s.median():.1f} |', flush=True)

def cost(n=5000, size=64):
    "CPU seconds and memory of features for `n` images, beside their own"
    x = torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024
    before,start = peak(),time.process_time()
    f = plain(x)
    print(f'\n{n} images of {size} px: {time.process_time()-start:.1f} CPU s, '
          f'peak memory {peak()-before:.0f} MB above the images, of which the features {f.nbytes/2**20:.0f} MB')

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--data', nargs='+', choices=list(SIZES), default=list(SIZES))
    p.add_argument('--seeds', type=int, default=3, help='0: only print what is there')
    p.add_argument('--rows', nargs='+', choices=ROWS, default=ROWS)
    p.add_argument('--small', action='store_true', help='only 600 images of each')
    p.add_argument('--large', action='store_true', help='only all images of each (5,000 of CIFAR-10)')
    p.add_argument('--epochs', type=int, default=20, help='of the small networks')
    p.add_argument('--out', default='plain-features')
    p.add_argument('--cost', action='store_true', help='time and memory alone')
    p.add_argument('--quick', action='store_true', help='does it run? one seed, digits, one epoch')
    a = p.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    if a.cost:
        cost()
        return
    if a.quick: a.data,a.seeds,a.epochs,a.small,a.out = ['digits'],1,1,True,a.out+'-quick'
    out = Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    cells = [(data, n) for data in a.data for n in SIZES[data][a.large:1 if a.small else 2]]
    for seed in range(a.seeds):
        for data,n in cells:
            file = out/f'{data}.csv'
            df = done(file)
            known = set(df[(df.n == n) & (df.seed == seed)].row)
            for row in a.rows:
                if row in known: continue
                res = run(row, data, n, seed, a.epochs)
                append(file, res, fields=FIELDS)
                print(data, n, seed, row, *(f'{res[k]:.3f}' for k in MEASURES), f"{res['cpu_s']:.1f} s", flush=True)
    show(pd.concat([done(out/f'{data}.csv') for data in a.data]))

if __name__ == '__main__': main()
