"Selection with an estimated rate against the true one"
# python nbs/benchmarks/tau_estimated.py [seeds] [digits|fashion]
# Each setting: estimate_tau on the noisy data (three folds of the network with GCE, 5 % planted), then each method with
# the estimate and with the realised rate, same seed; plain cross-entropy beside them. Last epoch, clean validation
# images.
import sys, time
from pathlib import Path
import numpy as np
import pandas as pd
from torch import nn
from fastai.data.transforms import Normalize
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.torch_core import set_seed
sys.path.insert(0, str(Path(__file__).parents[2]))
from fastrobust.all import (GCELoss, JoCoR, NoisyLabels, SmallLoss, add_label_noise, array_dls, estimate_tau,
                            sample_dls, small_cnn)

def digits():
    from sklearn.datasets import load_digits
    d = load_digits()
    p = np.random.RandomState(0).permutation(len(d.target))
    X,y = (d.images[p]*15).astype(np.uint8),d.target[p]
    tfm = Normalize.from_stats([8/17], [8/17], cuda=False)
    return array_dls(X[:1297], y[:1297], valid=(X[1297:], y[1297:]), val_bs=500, normalize=False, device='cpu',
                     batch_tfms=[tfm])

def mlp():
    block = lambda i: [nn.Linear(i, 256), nn.BatchNorm1d(256), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *block(64), *block(256), nn.Linear(256, 10))

DATA = dict(digits=(digits, mlp, 25), fashion=(sample_dls, lambda: small_cnn(10), 20))
NOISE = {'clean': None, 'sym .2': ('symmetric', .2), 'sym .4': ('symmetric', .4), 'instance .3': ('instance', .3)}
METHODS = dict(SmallLoss=SmallLoss, JoCoR=JoCoR)

def train(dls, net, epochs, t, seed):
    set_seed(seed)
    learn = Learner(dls, net(), loss_func=CrossEntropyLossFlat(), metrics=accuracy, cbs=t)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, 3e-3)
    return learn.recorder.values[-1][2]

def main(seeds=3, only=None):
    rows = []
    for name,(data,net,epochs) in DATA.items():
        if only and name != only: continue
        for noise,law in NOISE.items():
            for seed in range(seeds):
                dls = data()
                if law: dls = add_label_noise(dls, NoisyLabels(*law, seed=seed))
                true = dls.noise.realised_rate if law else 0.
                set_seed(seed)
                t0 = time.time()
                make = lambda d, net=net: Learner(d, net(), loss_func=GCELoss())
                est = estimate_tau(make, dls, verbose=False)
                row = dict(data=name, noise=noise, seed=seed, true=true, estimate=est.tau, seconds=time.time()-t0,
                           plain=train(dls, net, epochs, None, seed))
                for k,T in METHODS.items():
                    row[k],row[k+' est'] = (train(dls, net, epochs, T(tau), seed) for tau in (true, est))
                rows.append(row)
                print({k: v if isinstance(v, str) else round(float(v), 3) for k,v in row.items()}, flush=True)
    df = pd.DataFrame(rows)
    for k in METHODS: df[k+' diff'],df[k+' est - plain'] = df[k+' est']-df[k],df[k+' est']-df.plain
    g = df.groupby(['data', 'noise'], sort=False)
    m,se = g.mean(numeric_only=True),g.sem(numeric_only=True)
    heads = ' | '.join(f'{k}, true | {k}, estimate − true' for k in METHODS)
    print(f'| data | noise | true rate | estimate | plain | {heads} |')
    print('|'+'---|'*(5+2*len(METHODS)))
    for i in m.index:
        cells = [f'{m.true[i]:.3f}', f'{m.estimate[i]:.3f}', f'{m.plain[i]:.3f}']
        for k in METHODS: cells += [f'{m[k][i]:.3f}', f"{m[k+' diff'][i]:+.3f} ± {se[k+' diff'][i]:.3f}"]
        print('| '+' | '.join([*i, *cells])+' |')
    c = df[df.noise == 'clean']
    diff = {k: c[k+' est - plain'] for k in METHODS}
    if len(c): print('clean, estimate − plain:', {k: f'{v.mean():+.3f} ± {v.sem():.3f}' for k,v in diff.items()})

if __name__ == '__main__':
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3, sys.argv[2] if len(sys.argv) > 2 else None)
