"""Open-sampling on the long tail of digits, as the specification has it (section 4.6): 331 training images of ten
classes, 120 down to 2; 1297 training digits with permuted pixels as open set; balanced accuracy on the 500 test digits,
with and without batch norm. `python long_tail_digits.py` runs what the file of results lacks and prints the table;
`--anew --seeds 0 .. 19` draws the 331 images and the open set anew for each seed, and sets the recipe beside."""
import argparse, json, math, sys, time, warnings
from functools import partial
from pathlib import Path
import numpy as np
import torch
from torch import nn
from fastai.callback.schedule import ParamScheduler
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import SGD
from fastai.torch_core import set_seed
sys.path.insert(0, str(Path(__file__).parents[2]))
from fastrobust.data.fromarrays import array_dls
from fastrobust.data.longtail import class_counts, complementary
from fastrobust.data.weighting import weighted_dls
from fastrobust.recipes import RECIPES
from fastrobust.tails.report import tail_report
from fastrobust.techniques.logitadjust import LogitAdjust
from fastrobust.techniques.odnl import ODNL
from fastrobust.techniques.opensampling import OpenSampling

COUNTS = [120, 77, 50, 32, 21, 13, 8, 5, 3, 2]

def open_sampling(aux, **kw): return OpenSampling(aux, lam=1., bs=128, **kw)

ROWS = {'CE': lambda aux: [],
        'Open-sampling': lambda aux: [open_sampling(aux)],
        'LogitAdjust': lambda aux: [LogitAdjust()],
        'Open-sampling + LogitAdjust': lambda aux: [open_sampling(aux), LogitAdjust()],
        'recipe long_tail with aux': lambda aux: RECIPES['long_tail'](None, aux=aux)[1],
        'Open-sampling, unweighted': lambda aux: [open_sampling(aux, weighted=False)],
        'ODNL (uniform labels)': lambda aux: [ODNL(aux, eta=1., bs=128)],
        'CE, class-balanced sampling': lambda aux: []}

def data():
    "uint8 images (1797,8,8) and labels in the order of the protocol; the first 1297 are for training"
    from sklearn.datasets import load_digits
    d = load_digits()
    p = np.random.RandomState(0).permutation(len(d.target))
    return np.round(d.images[p]*255/16).astype(np.uint8),d.target[p].astype(np.int64)

def tail_dls(balanced=False, seed=0):
    "Loaders over the long tail, validated on the 500 test digits; and the 1297 training digits, pixels permuted"
    X,y = data()
    rng = np.random.RandomState(seed)   # within each class, as LDAM's recipe does
    keep = np.sort(np.concatenate([rng.permutation(np.flatnonzero(y[:1297] == k))[:n] for k,n in enumerate(COUNTS)]))
    dls = array_dls(X[keep], y[keep], valid=(X[1297:], y[1297:]), bs=32, val_bs=500, normalize=False, device='cpu',
                    drop_last=False)    # the authors' code keeps the last batch
    assert class_counts(dls).tolist() == COUNTS
    aux = np.random.default_rng(seed).permuted(X[:1297].reshape(1297, 64), axis=1).reshape(1297, 8, 8)
    return weighted_dls(dls, 'balanced') if balanced else dls,aux

def mlp(bn):
    block = lambda i: [nn.Linear(i, 256), *([nn.BatchNorm1d(256)] if bn else []), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *block(64), *block(256), nn.Linear(256, 10))

def schedule(pct, epochs=200, lr=.05):
    "Five epochs of warm-up, a hundredth from epoch 160, a ten thousandth from 180"
    e = min(int(pct*epochs + 1e-6), epochs-1)
    return lr*((e+1)/5 if e < 5 else 1. if e < .8*epochs else .01 if e < .9*epochs else 1e-4)

def run(row, seed, bn=True, epochs=200, anew=False):
    "One training: balanced and plain accuracy, those of head, mid and tail, the last ten epochs' mean open-set loss"
    dls,aux = tail_dls(row == 'CE, class-balanced sampling', seed if anew else 0)
    set_seed(seed, reproducible=True)
    dls.train.rng.seed(seed)
    learn = Learner(dls, mlp(bn), CrossEntropyLossFlat(), opt_func=partial(SGD, mom=.9, decouple_wd=False), wd=2e-4,
                    wd_bn_bias=True, cbs=[*ROWS[row](aux), ParamScheduler({'lr': partial(schedule, epochs=epochs)})])
    learn.remove_cb(learn.progress)
    learn.recorder.add_time = False
    t = time.thread_time()
    with learn.no_logging(): learn.fit(epochs)
    t = time.thread_time()-t
    names = list(learn.recorder.metric_names)[1:]
    col = [c for c in names if c+'_floor' in names]
    hist = np.array([v[names.index(col[0])] for v in learn.recorder.values]) if col else [math.nan]
    s = tail_report(learn).summary
    keys = ('balanced', 'head', 'mid', 'tail')
    return dict(row=row, seed=seed, bn=bn, epochs=epochs, anew=anew, seconds=t, accuracy=s.accuracy,
                aux=float(np.mean(hist[-10:])),
                floor=learn.recorder.values[-1][names.index(col[0]+'_floor')] if col else math.nan,
                **{k: s[f'{k}_accuracy'] for k in keys})

def floor_of(row):
    "Smallest expected open-set loss: H(q) of weights and labels together, H(Gamma), ln K"
    g = complementary(COUNTS)
    h = lambda p: float(-(p*np.log(p)).sum())
    if row.startswith('ODNL'): return math.log(len(g))
    return h(g) if 'unweighted' in row else h(g**2/(g**2).sum()) if 'Open-sampling' in row or 'aux' in row else math.nan

def measure(a):
    out = Path(a.out)
    have = [json.loads(o) for o in out.read_text().splitlines()] if out.exists() else []
    done = {(r['row'], r['seed'], r['bn'], r['epochs'], r.get('anew', False)) for r in have}
    for bn in a.bn:
        for seed in a.seeds:
            for row in ROWS:
                if (row, seed, bn, a.epochs, a.anew) in done or a.only and row not in a.only.split(';'): continue
                have.append(run(row, seed, bn, a.epochs, a.anew))
                with out.open('a') as f: f.write(json.dumps(have[-1])+'\n')
                if a.verbose: print(json.dumps(have[-1]), flush=True)
    mine = [r for r in have if r['seed'] in a.seeds and r['bn'] in a.bn and r['epochs'] == a.epochs]
    return [r for r in mine if r.get('anew', False) == a.anew]

def table(runs):
    "Markdown: balanced accuracy ± standard error over seeds, head, mid, tail, paired difference to CE, loss and floor"
    for bn in sorted({r['bn'] for r in runs}, reverse=True):
        mine = [r for r in runs if r['bn'] == bn]
        of = lambda row, k, mine=mine: {r['seed']: r[k] for r in mine if r['row'] == row}
        print(f"\n### digits long tail {COUNTS}, MLP {'with' if bn else 'without'} batch norm\n")
        print('| row | seeds | balanced accuracy | head | mid | tail '
              '| minus CE | t | open-set loss | its floor | CPU s |')
        print('|'+'---|'*11)
        for row in ROWS:
            v,ce = of(row, 'balanced'),of('CE', 'balanced')
            if not v: continue
            b,both = np.array(list(v.values())),sorted(set(v) & set(ce))
            d,se = np.array([v[s]-ce[s] for s in both]),lambda x: x.std(ddof=1)/len(x)**.5 if len(x) > 1 else math.nan
            m = lambda k, row=row, of=of: np.mean(list(of(row, k).values()))
            diff = f'{d.mean():+.4f} ± {se(d):.4f} | {d.mean()/se(d):.1f}' if row != 'CE' and len(d) > 1 else ' | '
            aux = f"{m('aux'):.4f} | {floor_of(row):.4f}" if not math.isnan(floor_of(row)) else ' | '
            thirds = ' | '.join(f'{m(k):.3f}' for k in ('head', 'mid', 'tail'))
            print(f"| {row} | {len(b)} | {b.mean():.4f} ± {se(b):.4f} | {thirds} | "
                  f"{diff} | {aux} | {m('seconds'):.0f} |")

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--out', default='long_tail_digits.jsonl')
    p.add_argument('--seeds', type=int, nargs='+', default=list(range(8)))
    p.add_argument('--epochs', type=int, default=200)
    p.add_argument('--bn', type=int, nargs='+', default=[1, 0], help='1: with batch norm, 0: without')
    p.add_argument('--only', default=None, help='rows, separated by ;')
    p.add_argument('--anew', action='store_true', help='images and open set drawn anew for each seed')
    p.add_argument('--verbose', action='store_true')
    a = p.parse_args()
    a.bn = [bool(o) for o in a.bn]
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    table(measure(a))

if __name__ == '__main__': main()
