"Every way to train through wrong labels, side by side: `python nbs/benchmarks/noise_methods.py fashion|cifar [seeds]`"
# fashion: embedded Fashion-MNIST, symmetric 40 %.
# cifar: 5,000 CIFAR-10 images with the human labels 'worse' (CIFAR-10N).
# The selection methods get the realised rate; what an estimate costs is in tau_estimated.py.
import os, sys
from pathlib import Path
import numpy as np
from fastai.metrics import accuracy
sys.path.insert(0, str(Path(__file__).parents[2]))
from fastrobust.all import (ALASCA, ELR, CoTeaching, CoTeachingPlus, Decoupling, GCELoss, JoCoR, LogitClip, NoiseRecord,
                            NoisyLabels, SCELoss, SmallLoss, add_label_noise, array_dls, compare, robust_learner,
                            sample_dls, small_cnn)

def cifar(seed, n=5000):
    "The images of one seed: a class-balanced draw of the training set, human labels; 2,000 test images"
    folder = Path(os.environ.get('FASTROBUST_DATA', Path(__file__).parents[3]/'shared'/'data'))
    sys.path.insert(0, str(folder))
    import packs
    d = packs.cifar10()
    X,y,Xv,yv,human = d['x'],d['y'],d['xv'],d['yv'],d['human']['worse_label']
    g = np.random.default_rng(seed)
    ids = np.concatenate([g.permutation(np.flatnonzero(y == k))[:n//10] for k in range(10)])
    dls = array_dls(X[ids], y[ids], valid=(Xv[:2000], yv[:2000]), vocab=list(range(10)), bs=64)
    return add_label_noise(dls, NoiseRecord(y[ids], human[ids], 'human', float((y[ids] != human[ids]).mean())))

DATA = dict(fashion=lambda seed: sample_dls(noise=NoisyLabels('symmetric', .4, seed=seed)), cifar=cifar)

def main(data='fashion', seeds=3, only=None):
    made = {}
    def dls(seed):
        if seed not in made: made.clear(); made[seed] = DATA[data](seed)
        return made[seed]
    def make(seed, tau=None, **kw):
        d = dls(seed)
        if tau is not None: kw['techniques'] = tau(d.noise.realised_rate)
        return robust_learner(d, small_cnn(10, 1 if data == 'fashion' else 3), metrics=accuracy, **kw)
    rows = {'plain, 20 epochs': dict(epochs=20), 'plain, 5 epochs': dict(epochs=5), 'plain, 8 epochs': dict(epochs=8),
            'plain, 40 epochs (seconds of two networks)': dict(epochs=40),
            'recipe noisy_labels, 8 epochs': dict(recipe='noisy_labels', epochs=8),
            'SCE, 8 epochs': dict(loss_func=SCELoss(), epochs=8),
            'LogitClip 1, 20 epochs': dict(techniques=LogitClip(1.), epochs=20),
            'ELR, 20 epochs': dict(techniques=ELR(), epochs=20),
            'ALASCA, warm-up .3, 20 epochs': dict(techniques=ALASCA(warmup=.3), epochs=20),
            'SmallLoss': dict(tau=SmallLoss, epochs=20), 'CoTeaching': dict(tau=CoTeaching, epochs=20),
            'CoTeachingPlus': dict(tau=CoTeachingPlus, epochs=20),
            'Decoupling': dict(techniques=Decoupling(), epochs=20), 'JoCoR': dict(tau=JoCoR, epochs=20),
            'JoCoR, gradual .3, 10 epochs': dict(tau=lambda t: JoCoR(t, gradual=.3), epochs=10),
            'JoCoR + GCE': dict(tau=JoCoR, loss_func=GCELoss(), epochs=20),
            'CoTeaching + ALASCA': dict(tau=lambda t: [CoTeaching(t), ALASCA(warmup=.3)], epochs=20)}
    if only: rows = {k: rows[k] for k in only.split(';')}
    fit = lambda learn, n: learn.fit_one_cycle(n, 3e-3)
    rep = compare(make, rows, seeds=seeds, fit=fit, baseline='plain, 5 epochs')
    print(rep.table.to_string()); print(rep)
    t = rep.table
    print('\n| row | ' + ' | '.join(map(str, t.columns)) + ' |\n|' + '---|'*(len(t.columns)+1))
    for k,r in rep.formatted().iterrows(): print(f'| {k} | ' + ' | '.join(map(str, r)) + ' |')

if __name__ == '__main__':
    a = sys.argv[1:]
    main(a[0] if a else 'fashion', int(a[1]) if len(a) > 1 else 3, a[2] if len(a) > 2 else None)
