"LogitNorm on digits: 0 to 7 known, 8 and 9 unknown; the experiment of the specification, section 2.6"
import warnings
from functools import partial
import numpy as np
import pytest
import torch
from torch import nn
from fastai.callback.schedule import ParamScheduler
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.optimizer import SGD
from fastai.torch_core import set_seed
from fastrobust.basics import RobustWarning
from fastrobust.ood.metrics import auroc, fpr_at_tpr
from fastrobust.ood.logitscores import msp_score
from fastrobust.data.fromarrays import array_dls
from fastrobust.techniques.logitnorm import LogitNorm, norm_floor, normalize_logits

def digits():
    "Training, validation and unknown digits by the protocol: x/16 in [0,1] as grey levels 0 .. 255"
    data = pytest.importorskip('sklearn.datasets').load_digits()
    p = np.random.RandomState(0).permutation(len(data.target))
    X,y = (data.images[p]/16*255).round().astype(np.uint8),data.target[p]
    tr,va = np.arange(len(y)) < 1297,y >= 8
    return X[tr & ~va],y[tr & ~va],X[~tr & ~va],y[~tr & ~va],X[va]

def run(seed, tau=None):
    X,y,Xv,yv,out = digits()
    dls = array_dls(X, y, valid=(Xv, yv), bs=64, val_bs=500, normalize=False, device='cpu')
    set_seed(seed, reproducible=True)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 8))
    steps = ParamScheduler({'lr': lambda pct: .1 if pct < .5 else .01 if pct < .75 else .001})
    # the weight decay is torch's, as in the protocol: in the gradient, of all parameters
    torchs = dict(opt_func=partial(SGD, mom=.9, decouple_wd=False), wd=5e-4, wd_bn_bias=True)
    learn = Learner(dls, net, CrossEntropyLossFlat(), metrics=accuracy, **torchs,
                    cbs=[] if tau is None else LogitNorm(tau))
    learn.remove_cb(learn.progress); learn.logger = lambda *a: None
    learn.fit(60, .1, cbs=steps)
    px = lambda a: torch.from_numpy(a).float()/255
    with torch.no_grad(): known,unknown = net.eval()(px(Xv)),net(px(out))
    loss = nn.functional.cross_entropy(normalize_logits(known, tau or 1.), torch.from_numpy(yv)).item()
    s = [msp_score(z) for z in (known, unknown)]
    n = [msp_score(normalize_logits(z, tau or 1.)) for z in (known, unknown)]
    return dict(fpr95=fpr_at_tpr(*s), auroc=auroc(*s), normalised=fpr_at_tpr(*n), loss=loss, n=len(out),
                acc=(known.argmax(1).numpy() == yv).mean(),
                ratio=float(known.norm(dim=1).mean()/unknown.norm(dim=1).mean()))

@pytest.mark.slow
@pytest.mark.timeout(600)
def test_bands_on_digits():
    torch.set_num_threads(1)
    ce = [run(s) for s in range(5)]
    with pytest.warns(RobustWarning, match='with 8 classes cannot bring the loss below'):
        ln = [run(s, .5) for s in range(5)]
    mean = lambda rs, k: np.mean([r[k] for r in rs])
    assert ln[0]['n'] == 354
    assert mean(ce, 'fpr95') >= .20 and mean(ln, 'fpr95') <= .14, (mean(ce, 'fpr95'), mean(ln, 'fpr95'))
    assert mean(ln, 'auroc') >= .975 and mean(ln, 'acc') >= mean(ce, 'acc') - .01
    assert mean(ln, 'normalised') >= mean(ln, 'fpr95') + .03           # scores need the norm that training set free
    assert mean(ln, 'ratio') > 2*mean(ce, 'ratio')
    assert all(r['loss'] >= norm_floor(8, .5) for r in ln)

if __name__ == '__main__':      # the table of the specification
    warnings.simplefilter('ignore')
    for tau in (None, .5, 1., .04):
        rs = [run(s, tau) for s in range(5)]
        cells = [f"{np.mean([r[k] for r in rs]):.4f} ± {np.std([r[k] for r in rs], ddof=1):.4f}"
                 for k in ('acc', 'auroc', 'fpr95', 'normalised', 'loss', 'ratio')]
        print('|', 'CE' if tau is None else f'LogitNorm {tau}', '|', ' | '.join(cells), '|', flush=True)
