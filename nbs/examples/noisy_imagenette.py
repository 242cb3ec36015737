"A row of fastai's label noise leaderboard (https://github.com/fastai/imagenette): one method, its rules, its data"
# python nbs/examples/noisy_imagenette.py --pct 50 --size 128 --epochs 20 --method jocor --runs 5
# The rules: random weights; nothing special at inference (no test-time augmentation, no larger validation images); one
# of the sizes and epochs of the table; the mean of 5 runs if possible. Training as in fastai's baseline: xresnet50
# with Mish, ranger, a flat then cosine learning rate of .01, weight decay .01, batches of 64. The last epoch counts.
import argparse, sys
from functools import partial
from pathlib import Path
import numpy as np
from fastai.callback import schedule    # noqa: F401 (gives Learner its fit_flat_cos)
from fastai.callback.fp16 import MixedPrecision
from fastai.data.external import URLs, untar_data
from fastai.layers import Mish
from fastai.losses import CrossEntropyLossFlat, LabelSmoothingCrossEntropyFlat
from fastai.metrics import accuracy
from fastai.optimizer import ranger
from fastai.torch_core import set_seed
from fastai.vision.models import xresnet
sys.path.insert(0, str(Path(__file__).parents[2]))
from fastrobust.noise.imagenette import IMAGENETTE_NOISE, noisy_imagenette
from fastrobust.learner import robust_learner
from fastrobust.losses import GCELoss, NCEandRCE, SCELoss
from fastrobust.labels.memorisation import Memorisation
from fastrobust.techniques.alasca import ALASCA
from fastrobust.techniques.coteaching import CoTeaching
from fastrobust.techniques.decoupling import Decoupling
from fastrobust.techniques.elr import ELR
from fastrobust.techniques.jocor import JoCoR
from fastrobust.techniques.logitclip import LogitClip
from fastrobust.techniques.smallloss import SmallLoss

SIZES,EPOCHS = (128, 192, 256),(5, 20, 80, 200)

# name -> loss and techniques, given the noise rate; warm-ups are shares of the fit, for fits of 5 epochs are rows too
METHODS = dict(
    plain=lambda tau:      (CrossEntropyLossFlat(), []),
    smooth=lambda tau:     (LabelSmoothingCrossEntropyFlat(), []),      # the leaderboard's baseline
    gce=lambda tau:        (GCELoss(), []),
    sce=lambda tau:        (SCELoss(), []),
    nce_rce=lambda tau:    (NCEandRCE(), []),
    logitclip=lambda tau:  (CrossEntropyLossFlat(), [LogitClip(1.)]),
    smallloss=lambda tau:  (CrossEntropyLossFlat(), [SmallLoss(tau, .3)]),
    jocor=lambda tau:      (CrossEntropyLossFlat(), [JoCoR(tau, gradual=.3)]),
    coteaching=lambda tau: (CrossEntropyLossFlat(), [CoTeaching(tau, .3)]),
    decoupling=lambda tau: (CrossEntropyLossFlat(), [Decoupling(.3)]),
    elr=lambda tau:        (CrossEntropyLossFlat(), [ELR()]),
    alasca=lambda tau:     (CrossEntropyLossFlat(), [ALASCA(warmup=.3)]))

def folder(woof, size):
    "Download the resolution that fastai's baseline takes for this size"
    if size <= 224: return untar_data(URLs.IMAGEWOOF_320 if woof else URLs.IMAGENETTE_320)
    return untar_data(URLs.IMAGEWOOF if woof else URLs.IMAGENETTE)

def train(o, seed):
    "Accuracy on the clean validation images after the last epoch"
    set_seed(seed)
    dls = noisy_imagenette(o.path, o.pct, o.size, o.bs, num_workers=o.workers, device=o.device)
    if not seed: print(dls.noise)
    loss,techniques = METHODS[o.method](o.pct/100 if o.tau is None else o.tau)
    net = getattr(xresnet, o.arch)(n_out=dls.c, act_cls=Mish)
    learn = robust_learner(dls, net, techniques, loss_func=loss, metrics=accuracy, cbs=Memorisation(),
                           opt_func=partial(ranger, mom=.9, sqr_mom=.99, eps=1e-6, beta=0.))
    if o.fp16: learn.add_cb(MixedPrecision())
    learn.fit_flat_cos(o.epochs, o.lr, wd=1e-2)
    return learn.recorder.values[-1][learn.recorder.metric_names.index('accuracy')-1]

def row(o, accs):
    "The leaderboard's columns; several runs with their standard deviation"
    spread = f' ± {100*np.std(accs, ddof=1):.2f}' if len(accs) > 1 else ''
    mean = f'{100*np.mean(accs):.2f}%{spread}'
    return ('| Noise (%) | Size (px) | Epochs | Method | Accuracy | # Runs |\n|--|--|--|--|--|--|\n'
            f'|{o.pct}|{o.size}|{o.epochs}|{o.method}, {o.arch}|{mean}|{len(accs)}{", mean" if len(accs) > 1 else ""}|')

def main(args=None):
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--path', help='unpacked folder with the CSV; none: downloaded by fastai')
    p.add_argument('--woof', action='store_true', help='Imagewoof, if it has to be downloaded')
    p.add_argument('--pct', type=int, default=50, choices=IMAGENETTE_NOISE, help='per cent of wrong labels')
    p.add_argument('--size', type=int, default=128, help='pixels: 128, 192, 256')
    p.add_argument('--epochs', type=int, default=5, help='5, 20, 80, 200')
    p.add_argument('--method', default='jocor', choices=METHODS)
    p.add_argument('--tau', type=float, help='share of items to leave out; none: the noise rate, which is public')
    p.add_argument('--runs', type=int, default=1, help='the leaderboard asks for 5 if possible')
    p.add_argument('--arch', default='xresnet50', help='of fastai.vision.models.xresnet; weights always random')
    p.add_argument('--lr', type=float, default=1e-2)
    p.add_argument('--bs', type=int, default=64)
    p.add_argument('--workers', type=int, default=8)
    p.add_argument('--device', help="'cpu' or 'cuda'; none: what there is")
    p.add_argument('--fp16', action='store_true', help='mixed precision')
    o = p.parse_args(args)
    if o.path is None: o.path = folder(o.woof, o.size)
    accs = [train(o, seed) for seed in range(o.runs)]
    print(f'\n{row(o, accs)}')
    off = [f'{k} {v}' for k,v,ok in (('size', o.size, SIZES), ('epochs', o.epochs, EPOCHS)) if v not in ok]
    if off: print(f"\nNot a row of the leaderboard: {', '.join(off)}. Sizes {SIZES}, epochs {EPOCHS}.")
    return accs

if __name__ == '__main__': main()
