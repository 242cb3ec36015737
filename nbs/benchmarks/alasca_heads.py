"ALASCA against the same auxiliary heads on plain cross-entropy, and against none: main head alone and with the last"
# python nbs/benchmarks/alasca_heads.py [--data digits|fashion] [--setup sgd|adam] [--epochs 40] [--seeds 5] [--rate .4]
import argparse, sys, time, warnings
from pathlib import Path
import numpy as np, pandas as pd
import torch
from fastai.callback.schedule import fit_flat_cos, fit_one_cycle    # noqa: F401 (patch Learner)
from fastai.learner import Learner
from fastai.optimizer import SGD, Adam
from fastai.torch_core import set_seed
sys.path.insert(0, str(Path(__file__).parents[2]))
from fastrobust.data.fromarrays import array_dls
from fastrobust.noise.laws import NoisyLabels
from fastrobust.noise.block import add_label_noise
from fastrobust.samples import sample_data
from fastrobust.losses import CrossEntropy
from fastrobust.nets import small_cnn
from fastrobust.techniques.alasca import ALASCA

def sgd(*args, **kw): return SGD(*args, mom=.9, decouple_wd=False, **kw)
# optimiser, learning rate, weight decay, how to fit; the second as in the authors' code
SETUPS = dict(adam=(Adam, 3e-3, None, lambda learn, n: learn.fit_one_cycle(n, learn.lr)),
              sgd=(sgd, .02, 1e-3, lambda learn, n: learn.fit(n)))
ARMS = {'plain': lambda: None,
        'aux heads, plain CE': lambda: ALASCA(warmup=10**6),    # alpha stays above 1 - 1e-4
        'ALASCA': lambda: ALASCA(warmup=.25)}

def digits():
    "scikit-learn's 8 x 8 digits, doubled to 16 x 16: 1297 to train on, 500 to test on"
    from sklearn.datasets import load_digits
    d,i = load_digits(),np.random.RandomState(0).permutation(1797)
    X = (d.images*15.9).astype(np.uint8).repeat(2, 1).repeat(2, 2)[i]
    return X[:1297],d.target[i[:1297]],X[1297:],d.target[i[1297:]],list(range(10))

def loaders(seed, a):
    X,y,Xv,yv,vocab = digits() if a.data == 'digits' else sample_data()
    set_seed(seed, reproducible=True)
    dls = array_dls(X[:a.size], y[:a.size], valid=(Xv, yv), vocab=vocab)
    return add_label_noise(dls, NoisyLabels('symmetric', a.rate, seed=seed)) if a.rate else dls

def accuracies(learn):
    "By what predicts: accuracy on the test images"
    def acc():
        p,y = learn.get_preds()
        return (p.argmax(1) == y).float().mean().item()
    if not hasattr(learn.model, 'predict'): return {'main': acc()}
    got = {}
    for learn.model.predict in ('main', 'main+aux'): got[learn.model.predict] = acc()
    return got

def run(arm, seed, a):
    "One training: accuracies and seconds"
    opt,lr,wd,fit = SETUPS[a.setup]
    dls,net = loaders(seed, a),small_cnn(10, depth=3 if a.data == 'digits' else 4)
    learn = Learner(dls, net, loss_func=CrossEntropy(), opt_func=opt, lr=lr, wd=wd, cbs=ARMS[arm]())
    set_seed(seed)
    start = time.perf_counter()
    with learn.no_bar(), learn.no_logging(): fit(learn, a.epochs)
    secs = time.perf_counter() - start
    with learn.no_bar(): got = accuracies(learn)
    return {**{f'{arm}: {k}': v for k,v in got.items()}, f'seconds, {arm}': secs}

def mean_se(v): return f'{100*v.mean():+.2f} ± {100*v.std(ddof=1)/np.sqrt(len(v)):.2f}'

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--seeds', type=int, default=5)
    p.add_argument('--first', type=int, default=0, help='first seed')
    p.add_argument('--epochs', type=int, default=40)
    p.add_argument('--data', choices=['digits', 'fashion'], default='digits')
    p.add_argument('--setup', choices=[*SETUPS], default='sgd')
    p.add_argument('--rate', type=float, default=.4)
    p.add_argument('--size', type=int, default=4000)
    a = p.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    rows = []
    for seed in range(a.first, a.first+a.seeds):
        rows.append({k: v for arm in ARMS for k,v in run(arm, seed, a).items()})
        print(f'seed {seed}: ' + ', '.join(f'{k} {v:.4g}' for k,v in rows[-1].items()), flush=True)
    t = pd.DataFrame(rows)
    acc = [c for c in t if not c.startswith('seconds')]
    best = t['ALASCA: main+aux']
    print(f'\n{a.data}, at most {a.size} images, symmetric noise {a.rate}, small_cnn, {a.setup}, {a.epochs} epochs, '
          f'{a.seeds} paired seeds; accuracy in % after the last epoch, ± one standard error\n')
    print('| trained: predicts | accuracy | ALASCA main+aux minus it | wins |\n|---|---|---|---|')
    for c in acc:
        d = best - t[c]
        diff = '| |' if c == best.name else f'{mean_se(d)} | {(d > 0).sum()} of {len(d)} |'
        print(f'| {c} | {mean_se(t[c])[1:]} | {diff}')
    print('\nseconds: ' + ', '.join(f'{c[9:]} {t[c].median():.0f}' for c in t if c.startswith('seconds')))

if __name__ == '__main__': main()
