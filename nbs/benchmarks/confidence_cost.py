"What an OOD report costs beside the forward passes it needs: all scores, one pass over each set"
# python nbs/benchmarks/confidence_cost.py [--threads 2] [--rounds 5]
# Known: 1,000 test images of the embedded Fashion-MNIST; fit: its 4,000 training images; unknown: four sets, 3,700
# images. The bare row is a loop of the network over the same loaders. Ratios within one round, median.
import argparse, sys, time, warnings
from functools import partial
from pathlib import Path
import numpy as np
import pandas as pd
import torch
from fastai.callback.progress import ProgressCallback
from fastai.learner import Learner
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
import unknowns as un
from fastrobust.all import array_dls, ood_report, small_cnn
from fastrobust.inference.loaders import loaders_of

def seconds(f):
    start = time.perf_counter()
    f()
    return time.perf_counter()-start

def main(threads, rounds):
    torch.set_num_threads(threads)
    warnings.simplefilter('ignore')
    X,y,Xv,yv,sets = un.fashion()
    dls = array_dls(X, y, valid=(Xv, yv), bs=64, val_bs=250)
    nets = {'small_cnn': small_cnn(10), 'residual, 1 block a stage': un.resnet(1),
            'residual, 3 blocks a stage': un.resnet(1, 3), 'residual, 3 blocks, no stem': un.resnet(1, 3, stem=1)}
    for name,net in nets.items():
        learn = Learner(dls, net)
        learn.remove_cbs(learn.cbs.filter(lambda cb: isinstance(cb, ProgressCallback)))
        every = [dl for d in (dls.train, dls.valid, *sets.values()) for dl in loaders_of(learn, d, 'bare')[0]]
        def bare(net=net, every=every):
            net.eval()
            with torch.no_grad():
                for dl in every:
                    for b in dl: net(b[0])
        rows = {'bare passes': bare,
                'logit scores': partial(ood_report, learn, sets, ('msp', 'maxlogit', 'energy', 'odin', 'gen')),
                'all scores': partial(ood_report, learn, sets)}
        bare()
        t = pd.DataFrame([{k: seconds(f) for k,f in rows.items()} for _ in range(rounds)])
        ratio = t['all scores']/t['bare passes']
        print(f"| {name} | {t['bare passes'].median():.2f} | {t['all scores'].median():.2f} | {ratio.median():.2f} "
              f"({ratio.min():.2f} to {ratio.max():.2f}) | {np.median(t['logit scores']/t['bare passes']):.2f} |",
              flush=True)

if __name__ == '__main__':
    p = argparse.ArgumentParser()
    p.add_argument('--threads', type=int, default=2); p.add_argument('--rounds', type=int, default=5)
    a = p.parse_args()
    print('| network | bare passes, s | all scores, s | ratio | five logit scores, without the training images |\n'
          '|---|---|---|---|---|')
    main(a.threads, a.rounds)
