"The two-network family on digits, 40 % wrong labels: wide bands around the numbers of the protocol (specification §15)"
import numpy as np
import pytest
import torch
from torch import nn
from fastai.data.transforms import Normalize
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.torch_core import set_seed
from fastrobust.data.fromarrays import array_dls
from fastrobust.noise.laws import NoisyLabels
from fastrobust.noise.block import add_label_noise
from fastrobust.labels.memorisation import measure_memorisation
from fastrobust.techniques.coteaching import CoTeaching, CoTeachingPlus
from fastrobust.techniques.decoupling import Decoupling
from fastrobust.techniques.jocor import JoCoR
from fastrobust.techniques.smallloss import SmallLoss

METHODS = dict(CE=list, Decoupling=lambda: Decoupling(3), SmallLoss=lambda: SmallLoss(.4),
               CoTeaching=lambda: CoTeaching(.4), CoTeachingPlus=lambda: CoTeachingPlus(.4, warmup=3),
               JoCoR=lambda: JoCoR(.4))

def digits_dls(seed=0, kind='symmetric'):
    data = pytest.importorskip('sklearn.datasets').load_digits()
    p = np.random.RandomState(0).permutation(len(data.target))
    X,y = (data.images[p]*15).astype(np.uint8),data.target[p]       # x/17 after division by 255: (x-8)/8 normalised
    dls = array_dls(X[:1297], y[:1297], valid=(X[1297:], y[1297:]), bs=64, val_bs=500, normalize=False, device='cpu',
                    batch_tfms=[Normalize.from_stats([8/17], [8/17], cuda=False)])
    return add_label_noise(dls, NoisyLabels(kind, .4, seed=seed))

def mlp():
    block = lambda i: [nn.Linear(i, 256), nn.BatchNorm1d(256), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *block(64), *block(256), nn.Linear(256, 10))

def run(name, seed=0, kind='symmetric', epochs=25):
    dls = digits_dls(seed, kind)
    set_seed(seed, reproducible=True)
    learn = Learner(dls, mlp(), loss_func=CrossEntropyLossFlat(), metrics=accuracy, cbs=METHODS[name]())
    learn.remove_cb(learn.progress); learn.logger = lambda *a: None
    learn.fit(epochs, 3e-3)
    acc = [v[list(learn.recorder.metric_names).index('accuracy')-1] for v in learn.recorder.values]
    ts = learn.objective.techniques() if hasattr(learn, 'objective') else []
    return dict(last5=np.mean(acc[-5:]), best=max(acc), memorised=measure_memorisation(learn).memorised,
                **(ts[0].history[-1] if ts else {}))

@pytest.mark.slow
@pytest.mark.timeout(600)
def test_order_and_bands_on_digits():
    torch.set_num_threads(1)
    r = {m: [run(m, s) for s in range(2)] for m in METHODS}
    last = {m: np.mean([o['last5'] for o in v]) for m,v in r.items()}
    assert last['JoCoR'] > .93 and last['CoTeaching'] > .86 and last['CE'] < .75, last
    assert last['CE'] < last['Decoupling'] < last['CoTeaching'] < last['JoCoR'], last
    assert np.mean([o['best']-o['last5'] for o in r['CE']]) > .15
    assert all(o['label_precision'] > .92 for o in r['JoCoR']) and all(o['memorised'] > .9 for o in r['CE'])

if __name__ == '__main__':      # the table of the specification
    for kind in ('symmetric', 'pair'):
        for m in METHODS:
            rs = [run(m, s, kind) for s in range(3)]
            col = lambda k, rs=rs: [o.get(k, np.nan) for o in rs]
            cells = [f'{np.mean(col(k)):.3f} ± {np.std(col(k), ddof=1)/3**.5:.3f}'
                     for k in ('last5', 'best', 'memorised', 'label_precision', 'label_recall', 'kept')]
            print('|', kind, '|', m, '|', ' | '.join(cells), '|', flush=True)
