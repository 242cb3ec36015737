"What a training step costs with the objective and each technique, as ratios to plain fastai in the same run"
# python nbs/benchmarks/step_cost.py [--rounds 9] [--steps 8] [--threads 1]
import argparse, sys, time, warnings
from pathlib import Path
import numpy as np
import pandas as pd
import torch
from torchvision.models import resnet18
from fastai.callback.core import Callback
from fastai.imports import noop
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.torch_core import set_seed
sys.path.insert(0, str(Path(__file__).parents[2]))
from fastrobust.data.fromarrays import array_dls
from fastrobust.data.openset import aux_images
from fastrobust.losses import GCELoss
from fastrobust.nets import small_cnn
from fastrobust.training.technique import Technique
from fastrobust.labels.history import SampleHistory
from fastrobust.techniques.augmix import AugMix
from fastrobust.techniques.coteaching import CoTeaching
from fastrobust.techniques.jocor import JoCoR
from fastrobust.techniques.logitclip import LogitClip
from fastrobust.techniques.logitadjust import LogitAdjust
from fastrobust.techniques.logitnorm import LogitNorm
from fastrobust.techniques.odnl import ODNL
from fastrobust.techniques.opensampling import OpenSampling

# processor time of this process: other programs on the machine take turns, they do not count (CPU, `--threads 1`)
clock = time.perf_counter if torch.cuda.is_available() else time.process_time

class Nothing(Technique):
    "The objective at work for a technique that does nothing"
    def update(self, batch): pass

class Timed(AugMix):
    "AugMix that keeps how long making the views took"
    took = 0.
    def rows(self, x):
        t = clock()
        r = super().rows(x)
        if x.is_cuda: torch.cuda.synchronize()
        self.took += clock()-t
        return r

class Clock(Callback):
    "Seconds of the training loop of an epoch: batches, steps and all callbacks"
    order = -100
    def before_train(self): self.t = clock()
    def after_train(self):  self.seconds = clock()-self.t

def nets(): return dict(small_cnn=lambda: small_cnn(10, 1), resnet18=lambda: resnet18(num_classes=10))

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--rounds', type=int, default=9)
    p.add_argument('--steps', type=int, default=0, help='steps a round; 0: 40 for small_cnn, 4 for resnet18')
    p.add_argument('--bs', type=int, default=64)
    p.add_argument('--size', type=int, default=32)
    p.add_argument('--threads', type=int, default=1)
    p.add_argument('--nets', nargs='+', default=list(nets()))
    p.add_argument('--rows', nargs='+', help='some of the rows')
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    warnings.simplefilter('ignore')
    print(f'torch {torch.__version__}, threads {a.threads}, bs {a.bs}, {a.size} px, {a.rounds} rounds', flush=True)
    ce = CrossEntropyLossFlat
    for name in a.nets:
        c,steps = (1 if name == 'small_cnn' else 3),a.steps or dict(small_cnn=40, resnet18=4)[name]
        aux = aux_images('textures', 512, a.size, c)
        rng = np.random.default_rng(0)
        shape = (3*a.bs*steps, a.size, a.size) + ((c,) if c > 1 else ())
        X,y = rng.integers(0, 256, shape, dtype=np.uint8),rng.integers(0, 10, shape[0])
        rows = dict(plain=lambda: (ce(), None), again=lambda: (ce(), None), objective=lambda: (ce(), Nothing()),
                    plain_2x=lambda: (ce(), None), plain_3x=lambda: (ce(), None),  # as many rows as ODNL, AugMix
                    gce=lambda: (GCELoss(), None), clip_gce=lambda: (GCELoss(), LogitClip(1.)),
                    augmix=lambda: (ce(), Timed()), odnl=lambda aux=aux: (ce(), ODNL(aux)),
                    logitnorm=lambda: (ce(), LogitNorm()), logitadjust=lambda: (ce(), LogitAdjust()),
                    opensampling=lambda aux=aux: (ce(), OpenSampling(aux)),
                    history=lambda: (ce(), SampleHistory()), jocor=lambda: (ce(), JoCoR(.4)),
                    coteaching=lambda: (ce(), CoTeaching(.4)))
        rows = {k: v for k,v in rows.items() if not a.rows or k in ('plain', 'again', *a.rows)}
        learns = {}
        for k,make in rows.items():
            set_seed(0)
            bs = a.bs*dict(plain_2x=2, plain_3x=3).get(k, 1)
            dls = array_dls(X[:bs*steps], y[:bs*steps], valid=(X[:10], y[:10]), vocab=list(range(10)), bs=bs)
            loss,t = make()
            learn = learns[k] = Learner(dls, nets()[name](), loss_func=loss, cbs=[t, Clock()] if t else Clock())
            learn.remove_cb(learn.progress)
            learn.logger = noop     # and no line that says what acts
            learn.fit(1)        # warm: memory, optimizer, first shuffles
        got,views = {k: [] for k in rows},[]
        for _ in range(a.rounds):
            for k in rng.permutation(list(rows)):
                learn = learns[k]
                if k == 'augmix': learn.timed.took = 0.
                learn.fit(1)
                got[k].append(learn.clock.seconds/steps*1e3)
                if k == 'augmix': views.append(learn.timed.took/steps*1e3)
        if views: got['augmix_without_views'],got['views'] = [t-v for t,v in zip(got['augmix'], views)],views
        ms = pd.DataFrame(got)
        plain = ms[['plain', 'again']].to_numpy().mean(1)
        # ratios within a round, so that load that comes and goes hits both; of the fastest rounds beside it
        tab = pd.DataFrame(dict(ms=ms.median(), ratio=ms.div(plain, axis=0).median(),
                                fastest=ms.min()/ms[['plain', 'again']].min().min()))
        print(f'--- {name}, {steps} steps a round\n{tab.round(3).to_string()}', flush=True)

if __name__ == '__main__': main()
