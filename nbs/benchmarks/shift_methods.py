"Training against the shift: wrong labels x augmentation, the weight of the divergence, and AugMix at equal seconds"
# python nbs/benchmarks/shift_methods.py noisy|clean|dev fashion|cifar --out runs.jsonl [--seeds 0 1 2] [--only row;row]
# python nbs/benchmarks/shift_methods.py table runs.jsonl
# noisy: symmetric 40 % (fashion: the embedded Fashion-MNIST) or the human labels 'worse' (cifar: 10,000 CIFAR-10
# images). clean: true labels, 5,000 CIFAR-10 images. dev: what the recipe's lam is chosen on: noisy fashion, a fifth of
# the training images held out with their noisy labels, errors under the four extra corruptions alone.
# Errors are those of the last epoch on the test images under the 15 corruptions x 5 severities of the CIFAR table. A
# run adds one line to --out; what is there already is not run again.
import argparse, json, os, sys, time, warnings
from pathlib import Path
import numpy as np
import torch
from fastai.callback.progress import ProgressCallback
from fastai.torch_core import set_seed
from fastai.vision.augment import Flip
from fastai.vision.core import TensorImage
from fasttransform import Transform
sys.path.insert(0, str(Path(__file__).parents[2]))
from fastrobust.all import (AugLoss, AugMix, AugMixTransform, GCELoss, NoiseRecord, NoisyLabels,
                            add_label_noise, array_dls, robust_learner, sample_data, small_cnn)
from fastrobust.pixels import pixel_space
from fastrobust.images.corruptions.front import corrupt
from fastrobust.images.corruptions.tables import CORRUPTIONS, EXTRA_CORRUPTIONS, GROUPS

ROWS = dict(
    noisy={'plain': dict(), 'GCE': dict(loss=GCELoss), **{f'AugMix lam {k}': dict(aug=k) for k in (12, 1, 3, 6)},
           **{f'AugLoss lam {k}': dict(loss=GCELoss, aug=k) for k in (12, 1, 3, 6)},
           'plain, seconds of AugLoss': dict(long=True), 'GCE, seconds of AugLoss': dict(loss=GCELoss, long=True)},
    clean={'plain': dict(), 'AugMix': dict(aug=12), 'AugMix, 1 view': dict(aug=12, views=1),
           'one-view transform': dict(tfm='augmix'), 'flip and crop': dict(tfm='flip'),
           'plain, seconds of AugMix': dict(long=True), 'flip and crop, seconds of AugMix': dict(tfm='flip', long=True),
           'one-view transform, seconds of AugMix': dict(tfm='augmix', long=True)})
ROWS['dev'] = {k: v for k,v in ROWS['noisy'].items() if 'AugLoss lam' in k}

class PadCrop(Transform):
    "Each image moved by up to 4 pixels along each axis, black comes in: the random crop of CIFAR training"
    split_idx,order = 0,29
    def encodes(self, x:TensorImage):
        b,c,h,w = x.shape
        u,v = torch.randint(9, (2, b, 1, 1, 1))
        rows,cols = (torch.arange(h).view(1, 1, h, 1)+u).expand(b, c, h, w+8),torch.arange(w).view(1, 1, 1, w)+v
        p = torch.nn.functional.pad(x.as_subclass(torch.Tensor), [4]*4)
        return TensorImage(p.gather(2, rows).gather(3, cols.expand(b, c, h, w)))

def cifar(seed, n):
    "A class-balanced draw of `n` training images, the first 1,000 test images, the human labels 'worse' of the draw"
    sys.path.insert(0, os.environ.get('FASTROBUST_DATA', str(Path(__file__).parents[3]/'shared'/'data')))
    import packs
    d = packs.cifar10()
    g = np.random.default_rng(seed)
    ids = np.concatenate([g.permutation(np.flatnonzero(d['y'] == k))[:n//10] for k in range(10)])
    return d['x'][ids],d['y'][ids],d['xv'][:1000],d['yv'][:1000],d['human']['worse_label'][ids]

def data(what, name, seed, tfms):
    "DataLoaders of one seed, the test images and their labels, the realised noise rate"
    if name == 'cifar': X,y,Xv,yv,human = cifar(seed, 10000 if what == 'noisy' else 5000)
    else: X,y,Xv,yv,_ = sample_data('fashion')
    noise = None if what == 'clean' else NoisyLabels('symmetric', .4, seed=seed) if name == 'fashion' else \
        NoiseRecord(y, human, 'human', float((y != human).mean()))
    if what == 'dev':
        p = np.random.default_rng(100+seed).permutation(len(X))
        a,b = p[len(X)//5:],p[:len(X)//5]
        given = NoisyLabels('symmetric', .4, seed=seed).apply(y, n_classes=10)
        dls = array_dls(X[a], given.y_noisy[a], valid=(X[b], given.y_noisy[b]), vocab=list(range(10)), bs=64,
                        batch_tfms=tfms)
        return dls,X[b],given.y_noisy[b],given.realised_rate
    dls = array_dls(X, y, valid=(Xv, yv), vocab=list(range(10)), bs=64, batch_tfms=tfms)
    if noise is not None: dls = add_label_noise(dls, noise)
    return dls,Xv,yv,(dls.noise.realised_rate if noise is not None else 0.)

_made = {}
def corrupted(X, names, table='cifar'):
    "The images under every name and severity, made once: dict -> uint8 (5,n,c,h,w)"
    k = (X.shape, int(X[:50].sum()), len(names))
    if k not in _made:
        x = torch.from_numpy(X[:, None] if X.ndim == 3 else X.transpose(0, 3, 1, 2).copy())
        _made.clear()
        _made[k] = {n: torch.stack([corrupt(x, n, s, table=table, seed=0) for s in range(1, 6)]) for n in names},x
    return _made[k]

@torch.no_grad()
def errors(learn, x, y):
    learn.model.eval()
    px = pixel_space(learn.dls)
    z = torch.cat([learn.model(px.encode(o.float()/255)).argmax(1) for o in x.split(500)])
    return float((z.numpy() != y).mean())

def run(what, name, seed, row, spec):
    tfms = dict(augmix=lambda: [AugMixTransform()], flip=lambda: [PadCrop(), Flip()]).get(spec.get('tfm'), list)()
    dls,Xv,yv,rate = data(what, name, seed, tfms)
    loss,aug = spec.get('loss'),spec.get('aug')
    kw = dict(lam=float(aug), views=spec.get('views', 2)) if aug else {}
    ts = [AugLoss(loss(), **kw)] if aug and loss else [AugMix(**kw)] if aug else []
    set_seed(seed)
    net = small_cnn(10, 1 if name == 'fashion' else 3)
    learn = robust_learner(dls, net, ts, loss_func=None if aug or not loss else loss())
    learn.remove_cbs([c for c in learn.cbs if isinstance(c, ProgressCallback)])
    epochs = spec['epochs']
    t = time.thread_time()
    with learn.no_logging(): learn.fit_one_cycle(epochs, 3e-3)
    t = time.thread_time()-t
    names = EXTRA_CORRUPTIONS if what == 'dev' else CORRUPTIONS
    sets,clean = corrupted(Xv, names)
    return dict(what=what, data=name, seed=seed, row=row, epochs=epochs, cpu_seconds=t, rate=rate,
                clean=errors(learn, clean, yv), errors={n: [errors(learn, o, yv) for o in sets[n]] for n in names})

def measure(a):
    out = Path(a.out)
    have = [json.loads(o) for o in out.read_text().splitlines()] if out.exists() else []
    key = lambda r: (r['what'], r['data'], r['seed'], r['row'])
    slow = 'AugMix' if a.what == 'clean' else 'AugLoss lam 12'
    for seed in a.seeds:
        for row,spec in ROWS[a.what].items():
            if a.only and row not in a.only.split(';') or (a.what, a.data, seed, row) in map(key, have): continue
            if spec.get('long'):    # as many epochs as fit into the seconds of the expensive row, of this very seed
                cost = {r['row']: r['cpu_seconds'] for r in have if key(r)[:3] == (a.what, a.data, seed)}
                base = row.split(', seconds')[0]
                spec = dict(spec, epochs=max(a.epochs, round(a.epochs*cost[slow]/cost[base])))
            have.append(run(a.what, a.data, seed, row, dict(dict(epochs=a.epochs), **spec)))
            r = have[-1]
            with out.open('a') as f: f.write(json.dumps(r)+'\n')
            print(f"{a.what} {a.data} seed {seed} {row}: clean {r['clean']:.3f} corrupted "
                  f"{np.mean(list(r['errors'].values())):.3f}, {r['epochs']} epochs, {r['cpu_seconds']:.0f} s",
                  flush=True)

def pm(v):
    v = np.array(v)
    return f'{v.mean():+.4f} ± {v.std(ddof=1)/len(v)**.5:.4f}' if len(v) > 1 else f'{v.mean():+.4f} (1 seed)'

def table(path):
    "Markdown tables: clean error, mean corruption error, groups; paired differences over the seeds both rows have"
    runs = [json.loads(o) for o in Path(path).read_text().splitlines()]
    for what,name in sorted({(r['what'], r['data']) for r in runs}):
        mine = [r for r in runs if (r['what'], r['data']) == (what, name)]
        rows = list(dict.fromkeys(r['row'] for r in mine))
        mce = {k: {r['seed']: np.mean(list(r['errors'].values())) for r in mine if r['row'] == k} for k in rows}
        clean = {k: {r['seed']: r['clean'] for r in mine if r['row'] == k} for k in rows}
        print(f"\n### {what} labels, {name}, realised rate {np.mean([r['rate'] for r in mine]):.3f}\n")
        groups = [g for g in GROUPS if any(n in mine[0]['errors'] for n in GROUPS[g])]
        print('| row | seeds | epochs | CPU s | clean error | mean corruption error | ' + ' | '.join(groups)
              + ' | minus plain |')
        print('|'+'---|'*(7+len(groups)))
        ref = mce.get('plain', {})
        for k in rows:
            rs = [r for r in mine if r['row'] == k]
            g = [np.mean([r['errors'][n] for r in rs for n in GROUPS[o] if n in r['errors']]) for o in groups]
            both = [mce[k][s]-ref[s] for s in mce[k] if s in ref]
            print(f"| {k} | {len(rs)} | {np.mean([r['epochs'] for r in rs]):.0f} | "
                  f"{np.mean([r['cpu_seconds'] for r in rs]):.0f} | "
                  f"{np.mean([r['clean'] for r in rs]):.4f} | {np.mean(list(mce[k].values())):.4f} | "
                  + ' | '.join(f'{o:.3f}' for o in g) + f" | {pm(both) if both and k != 'plain' else ''} |")
        for a,b in (('AugLoss lam 3', 'GCE'), ('AugLoss lam 3', 'AugMix lam 12'),
                    ('AugLoss lam 6', 'AugMix lam 12'), ('AugLoss lam 12', 'AugMix lam 12'),
                    ('AugMix', 'plain, seconds of AugMix'), ('AugMix', 'flip and crop'),
                    ('AugMix', 'one-view transform'),
                    ('AugMix', 'flip and crop, seconds of AugMix'), ('AugMix', 'one-view transform, seconds of AugMix'),
                    ('AugLoss lam 3', 'GCE, seconds of AugLoss'), ('AugLoss lam 12', 'GCE')):
            if a in mce and b in mce:
                s = sorted(set(mce[a]) & set(mce[b]))
                corrupted,plain = ([of[a][i]-of[b][i] for i in s] for of in (mce, clean))
                print(f'\n{a} minus {b}: corruption {pm(corrupted)}, clean {pm(plain)} ({len(s)} seeds)')

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('what', choices=['noisy', 'clean', 'dev', 'table'])
    p.add_argument('data', help='fashion or cifar; with table: the file of runs')
    p.add_argument('--out', default='runs.jsonl')
    p.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2, 3, 4])
    p.add_argument('--epochs', type=int, default=20)
    p.add_argument('--only', default=None)
    a = p.parse_args()
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    table(a.data) if a.what == 'table' else measure(a)

if __name__ == '__main__': main()
