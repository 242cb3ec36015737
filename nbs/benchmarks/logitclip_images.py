"Where LogitClip helps on images: GroupNorm and SGD, and batch norm and AdamW, with several bounds"
# python nbs/benchmarks/logitclip_images.py [--setup gn_sgd] [--seeds 5] [--tau 0.5 | --find] [--out FOLDER]
import argparse, sys, warnings
from functools import partial
from pathlib import Path
import torch
from fastai.callback.schedule import fit_flat_cos, fit_one_cycle    # noqa: F401 (patch Learner)
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.optimizer import SGD, Adam
sys.path.insert(0, str(Path(__file__).parents[2]))
from fastrobust.noise.laws import NoisyLabels
from fastrobust.samples import sample_dls
from fastrobust.compare.compare import compare
from fastrobust.losses import CrossEntropy
from fastrobust.nets import small_cnn
from fastrobust.techniques.logitclip import LogitClip
from fastrobust.compare.tuning import find_tau

RATE = .4
# (norm, optimiser, learning rate, how to fit): momentum is fixed, as in the paper
SETUPS = dict(
    gn_sgd=('gn', partial(SGD, mom=.9, decouple_wd=False), .03, lambda learn, n: learn.fit_flat_cos(n, pct_start=.5)),
    bn_adam=('bn', Adam, 3e-3, lambda learn, n: learn.fit_one_cycle(n, learn.lr)))

def maker(setup):
    norm,opt,lr,_ = SETUPS[setup]
    def make(seed=0, techniques=None, **kw):
        "New noise for every seed, the same for all rows"
        dls = sample_dls(NoisyLabels('symmetric', RATE, seed=seed))
        wd = 5e-4 if setup == 'gn_sgd' else None
        return Learner(dls, small_cnn(10, 1, norm=norm), loss_func=CrossEntropy(), opt_func=opt, lr=lr, wd=wd,
                       metrics=accuracy, cbs=techniques, **kw)
    return make

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--seeds', type=int, default=5)
    p.add_argument('--epochs', type=int, default=25)
    p.add_argument('--tau', type=float, nargs='+', default=[.5])
    p.add_argument('--setup', choices=[*SETUPS, 'both'], default='both')
    p.add_argument('--find', action='store_true', help='first look for tau with find_tau, on seed 99')
    p.add_argument('--grid', type=float, nargs='+', default=[.25, .5, 1., 2., 10.])
    p.add_argument('--out', default='logitclip-images')
    a = p.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter('ignore', FutureWarning)
    out = Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    if a.find:
        fit = SETUPS['gn_sgd'][3]
        tau = find_tau(maker('gn_sgd')(seed=99), grid=a.grid, epochs=a.epochs, fit=fit, plot=False)
        a.tau = [tau]
        tau.curve.to_csv(out/'find_tau.csv', index=False)
        print(f'find_tau: {a.tau}\n{tau.curve.to_string()}', flush=True)
    for setup in SETUPS if a.setup == 'both' else [a.setup]:
        rows = {'cross-entropy': None, **{f'LogitClip({t:g})': LogitClip(t) for t in a.tau}}
        rep = compare(maker(setup), rows, a.epochs, seeds=a.seeds, fit=SETUPS[setup][3])
        rep.save(out/setup)
        print(f'--- {setup}\n{rep.formatted().to_string()}', flush=True)
        last = rep.runs.pivot(index='seed', columns='row', values='last')
        gain = last.sub(last['cross-entropy'], axis=0)
        print(f'minus cross-entropy, by seed\n{gain.round(3).to_string()}', flush=True)

if __name__ == '__main__': main()
