"Where labels may be wrong and classes differ in size: how the recipe `noisy_labels` was chosen, by noisy labels"
# python nbs/benchmarks/tail_choice.py --out runs.jsonl [--seeds 100 101 102 103 104]
# python nbs/benchmarks/tail_choice.py --table runs.jsonl
# fashion tail, tail20: 3,000 embedded Fashion-MNIST images, class sizes fall to a tenth, to a twentieth; tiny tail: 26
# of the first 30 classes of Tiny-ImageNet (32 px; ../shared/data), to a tenth. Judged by other training images and
# their given, noisy labels (balanced accuracy): true labels have no say, those of test images are shown beside.
# small_cnn, one cycle 3e-3, 12 epochs (8: plain); everything drawn anew for each seed.
import argparse, time, warnings
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
from fastrobust.techniques.logitadjust import LogitAdjust

BASE = 'plain, 8 epochs'
SETS = ['fashion tail', 'fashion tail20', 'tiny tail']
ROWS = [BASE, 'plain', 'GCE, sizes unknown', 'BalancedGCE, the recipe', 'LogitAdjust']
WHAT = dict(held='other images, noisy labels', accuracy='test images', as_in_training='as frequent as in training')

def data(name, seed):
    "Images with a tail, others to judge by, test images"
    g = np.random.default_rng([seed, 77])
    if name == 'tiny tail':
        z = un.packs('aux')
        cls = np.asarray(z['train_cls'])
        each = [g.permutation(np.flatnonzero(cls == k)) for k in g.permutation(np.unique(cls)[:30])[:26]]
        def part(lo, hi):
            "The images of each class from the share `lo` to the share `hi`"
            parts = [i[round(lo*len(i)):round(hi*len(i))] for i in each]
            return z['train'][np.concatenate(parts)],np.repeat(np.arange(26), [len(i) for i in parts])
        (X,y),judge,test = part(0, .6),part(.6, .8),part(.8, 1)
        i = long_tail(y, .1, seed=seed)
        return X[i],y[i],*judge,*test
    X,y,Xv,yv,_ = sample_data('fashion')
    i = g.permutation(len(X))
    train,judge = i[:3000],i[3000:]
    train = train[long_tail(y[train], .05 if name.endswith('20') else .1, seed=seed)]
    return X[train],y[train],X[judge],y[judge],Xv,yv

def noisy(y, rate, seed):
    y = np.asarray(y).astype(int)
    return NoisyLabels('symmetric', rate, seed=seed).apply(y).y_noisy if rate else y

def run(name, row, rate, seed):
    X,y,Xj,yj,Xv,yv = data(name, seed)
    c,n_in = int(yv.max())+1,1 if X.ndim == 3 else 3
    loaders = lambda *a, **kw: array_dls(*a, bs=64, val_bs=250, vocab=list(range(c)), **kw)
    set_seed(seed, reproducible=True)
    dls = loaders(X, noisy(y, rate, seed), valid=(Xv, yv.astype(int)), batch_tfms=[Flip()] if n_in == 3 else None)
    kw = {}
    if row.startswith('Balanced'): kw = dict(recipe='noisy_labels')
    if row.startswith('GCE'): kw = dict(loss_func=GCELoss(RECIPES['noisy_labels'](dls)[0].q))
    if row == 'LogitAdjust': kw = dict(techniques=[LogitAdjust()])
    learn = robust_learner(dls, small_cnn(c, n_in), **kw)
    learn.remove_cbs(learn.cbs.filter(lambda cb: isinstance(cb, ProgressCallback)))
    learn.logger = lambda *a: None
    start = time.process_time()
    learn.fit_one_cycle(8 if row == BASE else 12, 3e-3)
    seconds = time.process_time()-start
    def right(dl):
        "Accuracy in each class"
        p,t = learn.get_preds(dl=dl)
        ok = (p.argmax(1) == t).float()
        return np.array([ok[t == k].mean() for k in range(c)])
    judge = Xj,noisy(yj, rate, seed+1000)
    on_judge,on_test = right(loaders(*judge, valid=judge).valid),right(dls.valid)
    share = np.bincount(y, minlength=c)/len(y)
    return dict(name=name, row=row, rate=rate, seed=seed, n=len(X), seconds=seconds, held=float(on_judge.mean()),
                accuracy=float(on_test.mean()), as_in_training=float((on_test*share).sum()))

def table(file):
    df = read(file)
    rows = [r for r in ROWS if r in set(df.row)]
    for what,says in WHAT.items():
        print(f'\n{says}\n| | wrong | seeds | ' + ' | '.join(rows) + ' |\n' + '|---'*(len(rows)+3) + '|')
        for (name,rate),part in df.groupby(['name', 'rate'], sort=False):
            v = part.pivot(index='seed', columns='row', values=what)
            more = [v[r]-v[BASE] for r in rows[1:]]
            cells = [f'{v[BASE].mean():.3f}', *(f'{d.mean():+.3f} ± {d.sem():.3f}' for d in more)]
            print(f'| {name} | {rate:g} | {len(v)} | ' + ' | '.join(cells) + ' |')

def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument('--sets', nargs='+', choices=SETS, default=SETS)
    ap.add_argument('--rates', type=float, nargs='+', default=[0, .3])
    ap.add_argument('--seeds', type=int, nargs='+', default=[100, 101, 102, 103, 104])
    ap.add_argument('--out', default='tail-choice.jsonl')
    ap.add_argument('--table')
    a = ap.parse_args()
    if a.table:
        table(a.table)
        return
    torch.set_num_threads(1)
    run_all(a.out, run, seed=a.seeds, name=a.sets, rate=a.rates, row=ROWS)

if __name__ == '__main__':
    warnings.simplefilter('ignore')
    main()
