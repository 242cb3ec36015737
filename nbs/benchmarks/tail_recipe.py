"The recipe `long_tail`, alone and with images of no class, beside the logit adjustment for as many seconds"
# python nbs/benchmarks/tail_recipe.py SET .. --out runs.jsonl [--seeds 0 1 2 3 4] [--mnist FILE] [--quickdraw FILE]
# python nbs/benchmarks/tail_recipe.py --table runs.jsonl
# Files: unknown_recipe.py. dev: 3,000 of the embedded Fashion-MNIST training images with a tail, 1,000 others to judge
# by (seeds 100 to 102), where the weight was chosen. mnist: tail to a fiftieth; drawings: 20 classes of 70, tail to a
# tenth; cifar: 10,000 images, tail to a twentieth. small_cnn, Adam, one cycle 3e-3, 20 epochs; images, tail and start
# drawn anew for each seed; balanced accuracy of test images. Open sets: fashion_aux, drawings, Tiny-ImageNet.
import argparse, time, warnings
from functools import partial
import numpy as np
import torch
from fastai.callback.progress import ProgressCallback
from fastai.torch_core import set_seed
from fastai.vision.augment import Flip
import unknowns as un
from keptruns import read, run_all
from recipe_elsewhere import take
from fastrobust.data.auxrows import OpenSet
from fastrobust.data.fromarrays import array_dls
from fastrobust.data.longtail import long_tail
from fastrobust.learner import robust_learner
from fastrobust.nets import small_cnn
from fastrobust.samples import sample_data
from fastrobust.techniques.logitadjust import LogitAdjust
from fastrobust.techniques.opensampling import OpenSampling

BASE = 'LogitAdjust'
ROWS = {'plain': lambda aux: {}, BASE: lambda aux: dict(recipe='long_tail'),
        f'{BASE}, twice the epochs': lambda aux: dict(recipe='long_tail'),
        'recipe with aux': lambda aux: dict(recipe='long_tail', aux=aux)}
for lam in (.03, .3, 1.):
    name = f'Open-sampling {lam:g}' + (', the recipe before' if lam == 1 else '')
    ROWS[name] = lambda aux, lam=lam: dict(techniques=[LogitAdjust(), OpenSampling(aux, lam)])
for lam in (.1, 1.):
    ROWS[f'Open-sampling {lam:g}, BN apart'] = lambda aux, lam=lam: dict(
        techniques=[LogitAdjust(), OpenSampling(aux, lam, joint_bn=False)])
SHOWN = ['plain', BASE, f'{BASE}, twice the epochs', 'Open-sampling 1, the recipe before', 'recipe with aux']

def data(name, seed, a):
    "Images with a tail, test images, an open set"
    g = np.random.default_rng([seed, 23])
    if name == 'dev':
        X,y,*_ = sample_data('fashion')
        i = g.permutation(len(X))
        X,y,Xv,yv = X[i[1000:]],y[i[1000:]],X[i[:1000]],y[i[:1000]]
        aux,imb = un.fashion_aux(),.02
    elif name == 'mnist':
        z = np.load(a.mnist)
        i = g.permutation(len(z['x']))
        X,y = z['x'][i],z['y'][i].astype(int)
        X,y,Xv,yv = X[:4000],y[:4000],X[-2000:],y[-2000:]
        aux,imb = OpenSet(np.load(a.quickdraw)['X'][g.permutation(34500)[:2000]], ['drawings']),.02
    elif name == 'drawings':
        z = np.load(a.quickdraw)
        classes = g.permutation(345)
        mine = np.isin(z['y'], classes[:60])
        X,y,Xv,yv = take(g, z['X'][mine], z['y'][mine], 20, .7)
        others = np.isin(z['y'], classes[60:90])
        aux,imb = OpenSet(z['X'][others], ['other drawings']),.1
    else:
        X,y,Xv,yv = un.cifar(seed, 10000)
        aux,imb = un.cifar_aux(),.05
    i = long_tail(y, imb, seed=seed)
    return X[i],y[i],Xv,yv,aux

def run(name, row, seed, a):
    X,y,Xv,yv,aux = data(name, seed, a)
    c,n_in = int(yv.max())+1,1 if X.ndim == 3 else 3
    set_seed(seed, reproducible=True)       # before the loaders, which take their order from it
    dls = array_dls(X, y, valid=(Xv, yv), bs=64, val_bs=250, vocab=list(range(c)),
                    batch_tfms=[Flip()] if n_in == 3 else None)
    learn = robust_learner(dls, small_cnn(c, n_in), **ROWS[row](aux))
    learn.remove_cbs(learn.cbs.filter(lambda cb: isinstance(cb, ProgressCallback)))
    learn.logger = lambda *a: None
    start = time.process_time()
    learn.fit_one_cycle(40 if 'twice' in row else 20, 3e-3)
    seconds = time.process_time()-start
    p,t = learn.get_preds()
    right = (p.argmax(1) == t).float()
    return dict(name=name, row=row, seed=seed, n=len(X), seconds=seconds,
                accuracy=float(np.mean([right[t == k].mean() for k in t.unique()])))

def table(file):
    df = read(file)
    print('| | ' + ' | '.join(df.name.unique()) + ' |\n' + '|---'*(df.name.nunique()+1) + '|')
    for row in [r for r in ROWS if r in set(df.row)]:
        cells = []
        for _,part in df.groupby('name', sort=False):
            v = part.pivot(index='seed', columns='row', values='accuracy')
            if row not in v: cells.append('')
            elif row == BASE: cells.append(f'{v[row].mean():.3f}')
            else:
                d = (v[row]-v[BASE]).dropna()
                cells.append(f'{v[row].mean():.3f} ({d.mean():+.3f} ± {d.sem():.3f})')
        print(f'| {row} | ' + ' | '.join(cells) + ' |')

def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument('sets', nargs='*', choices=['dev', 'mnist', 'drawings', 'cifar', []])
    ap.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2, 3, 4])
    ap.add_argument('--rows', nargs='+', choices=list(ROWS), default=SHOWN)
    ap.add_argument('--out', default='tail-recipe.jsonl')
    ap.add_argument('--mnist')
    ap.add_argument('--quickdraw')
    ap.add_argument('--table')
    a = ap.parse_args()
    if a.table:
        table(a.table)
        return
    torch.set_num_threads(1)
    run_all(a.out, partial(run, a=a), seed=a.seeds, name=a.sets, row=a.rows)

if __name__ == '__main__':
    warnings.simplefilter('ignore')
    main()
