"The recipes `noisy_labels` and `open_world` where nobody tuned: many classes, few images, a tail, colour"
# python nbs/benchmarks/recipe_elsewhere.py SET .. --out runs.jsonl [--seeds 0 1 2] [--mnist FILE.npz]
#        [--quickdraw FILE.npz]
# python nbs/benchmarks/recipe_elsewhere.py --table runs.jsonl
# Sets and files: unknown_recipe.py. tiny26: classes of Tiny-ImageNet at 32 px, about 140 images each, of the 100 that
# tail_choice.py does not use; .. tail: class sizes fall to a tenth (cifar 5,000, mnist 4,000 images before). Images,
# classes, noise and start drawn anew for each seed; small_cnn, one cycle 3e-3, the recipe's epochs for these data
# (`epochs_for`), beside plain for as many, for 8 and 5; balanced accuracy on clean test images (as in training: weighed
# by the sizes of the classes there), and the differences to plain for 8 epochs.
import argparse, math, time, warnings
from functools import partial
import numpy as np
import torch
from fastai.callback.progress import ProgressCallback
from fastai.torch_core import set_seed
from fastai.vision.augment import Flip
import unknowns as un
from keptruns import read, run_all
from fastrobust.data.fromarrays import array_dls
from fastrobust.data.longtail import long_tail
from fastrobust.learner import robust_learner
from fastrobust.losses import GCELoss
from fastrobust.nets import small_cnn
from fastrobust.noise.laws import NoisyLabels
from fastrobust.recipes import RECIPES
from fastrobust.samples import sample_data

BASE = 'plain, 8 epochs'
ROWS = {BASE: {}, 'plain, 5 epochs': {}, 'plain, as many': {}, 'GCE, q .7': dict(loss_func=GCELoss()),
        'GCE, sizes unknown': {},
        'noisy_labels': dict(recipe='noisy_labels'), 'open_world': dict(recipe='open_world')}

def take(g, X, y, k, share=.8):
    "`k` classes drawn; of each the first `share` to train on, the rest to test on"
    train,test = [],[]
    for o in g.permutation(np.unique(y))[:k]:
        i = g.permutation(np.flatnonzero(y == o))
        n = round(share*len(i))
        train.append(i[:n])
        test.append(i[n:])
    labels = lambda parts: np.repeat(np.arange(k), [len(o) for o in parts])
    return X[np.concatenate(train)],labels(train),X[np.concatenate(test)],labels(test)

def data(name, seed, a):
    g = np.random.default_rng([seed, 17])
    if name.startswith('drawings'):
        z = np.load(a.quickdraw)
        return take(g, z['X'], z['y'], int(name[8:]))
    if name.startswith('tiny'):
        z = un.packs('aux')
        X,y = z['train'],np.asarray(z['train_cls'])
        mine = np.isin(y, np.unique(y)[30:])
        return take(g, X[mine], y[mine], int(name[4:]))
    if name.startswith('cifar'):
        X,y,Xv,yv = un.cifar(seed)
    elif name.startswith('mnist'):
        z = np.load(a.mnist)
        i = g.permutation(len(z['x']))
        X,y = z['x'][i],z['y'][i].astype(int)
        X,y,Xv,yv = X[:4000],y[:4000],X[-2000:],y[-2000:]
    else: X,y,Xv,yv,_ = sample_data('fashion')
    i = g.permutation(len(X))
    if name.endswith('600'): i = i[:600]
    if name.endswith('tail'): i = long_tail(y, .1, seed=seed)
    return X[i],y[i],Xv,yv

def run(name, row, rate, seed, a):
    X,y,Xv,yv = data(name, seed, a)
    true = y
    if rate: y = NoisyLabels('symmetric', rate, seed=seed).apply(y).y_noisy
    c,n_in = int(yv.max())+1,1 if X.ndim == 3 else 3
    set_seed(seed, reproducible=True)       # before the loaders, which take their order from it
    dls = array_dls(X, y, valid=(Xv, yv), bs=64, val_bs=250, vocab=list(range(c)),
                    batch_tfms=[Flip()] if n_in == 3 else None)
    kw = ROWS[row]
    if row == 'GCE, sizes unknown': kw = dict(loss_func=GCELoss(.7*min(1, math.log(10)/math.log(c))))
    learn = robust_learner(dls, small_cnn(c, n_in), **kw)
    learn.remove_cbs(learn.cbs.filter(lambda cb: isinstance(cb, ProgressCallback)))
    learn.logger = lambda *a: None
    epochs = RECIPES['noisy_labels'].epochs_for(dls)
    if row.endswith('epochs'): epochs = int(row.split()[1])
    start = time.process_time()
    learn.fit_one_cycle(epochs, 3e-3)
    seconds = time.process_time()-start
    p,t = learn.get_preds()
    right = (p.argmax(1) == t).float()
    each = np.array([right[t == k].mean() for k in range(c)])
    share = np.bincount(true, minlength=c)/len(true)
    return dict(name=name, row=row, rate=rate, seed=seed, n=len(X), epochs=epochs, seconds=seconds,
                accuracy=float(each.mean()), as_in_training=float((each*share).sum()))

def table(file, what='accuracy'):
    df = read(file)
    rows = [r for r in ROWS if r in set(df.row)]
    print('| | wrong | seeds | epochs | ' + ' | '.join(rows) + ' |\n' + '|---'*(len(rows)+4) + '|')
    for (name,rate),part in df.groupby(['name', 'rate'], sort=False):
        v = part.pivot(index='seed', columns='row', values=what)
        more = [v[r]-v[BASE] for r in rows[1:]]
        cells = [f'{v[BASE].mean():.3f}', *(f'{d.mean():+.3f} ± {d.sem():.3f}' for d in more)]
        epochs = part[part.row == 'noisy_labels'].epochs.max()
        print(f'| {name} | {rate:g} | {len(v)} | {epochs} | ' + ' | '.join(cells) + ' |')

def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument('sets', nargs='*')
    ap.add_argument('--rates', type=float, nargs='+', default=[0, .3])
    ap.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2, 3, 4])
    ap.add_argument('--rows', nargs='+', choices=list(ROWS), default=list(ROWS))
    ap.add_argument('--out', default='recipe-elsewhere.jsonl')
    ap.add_argument('--mnist')
    ap.add_argument('--quickdraw')
    ap.add_argument('--table')
    a = ap.parse_args()
    if a.table:
        table(a.table)
        print('\nclasses as frequent as in training')
        table(a.table, 'as_in_training')
        return
    torch.set_num_threads(1)
    run_all(a.out, partial(run, a=a), seed=a.seeds, name=a.sets, rate=a.rates, row=a.rows)

if __name__ == '__main__':
    warnings.simplefilter('ignore')
    main()
