"The published CIFAR-10 ResNet-20 through every OOD score and the calibration report, without any training"
# python nbs/benchmarks/published_resnet20.py [--fit 10000]
# Known: all 10,000 test images. Unknown: Tiny-ImageNet's 41 classes (near), textures, Fashion-MNIST, QuickDraw, noise;
# and a control, the first 1,000 test images after JPEG: a score that calls these unknown sees compression.
import argparse, sys, warnings
from pathlib import Path
import numpy as np
from fastai.data.transforms import Normalize
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
import unknowns as un
from fastrobust.all import array_dls, calibration_report, ood_report

IMAGENET = [.485, .456, .406],[.229, .224, .225]    # what the weights were trained with

def main(fit):
    warnings.simplefilter('ignore')
    d = un.packs('cifar10')
    ids = np.random.default_rng(0).permutation(50000)[:fit]
    dls = array_dls(d['x'][ids], d['y'][ids], valid=(d['xv'], d['yv']), bs=250, normalize=False,
                    batch_tfms=[Normalize.from_stats(*IMAGENET, cuda=False)])
    learn = Learner(dls, un.resnet20(), CrossEntropyLossFlat())
    sets = un.cifar_unknowns()
    rep = ood_report(learn, sets, near=('tin-41 (near)',))
    control = ood_report(learn, {'test images after JPEG (control)': un.jpeg(d['xv'][:1000])})
    cal = calibration_report(learn)
    t = rep.table
    for m in ('AUROC', 'FPR95'):
        wide = t[t.set.isin(list(sets))].pivot(index='score', columns='set', values=m)[list(sets)]
        wide['far mean'] = wide[[k for k in sets if 'near' not in k]].mean(axis=1)
        c = control.table.set_index(['score', 'set'])[m].unstack()
        wide['JPEG (control)'] = c['test images after JPEG (control)']
        print(f'\n{m}, positive = id\n\n| score | ' + ' | '.join(wide.columns) + ' |')
        print('|---'*(len(wide.columns)+1) + '|')
        for s,row in wide.loc[list(dict.fromkeys(t.score))].iterrows():
            print(f'| {s} | ' + ' | '.join(f'{v:.3f}' for v in row) + ' |')
    print(cal)
    print(*rep.notes, sep='\n')

if __name__ == '__main__':
    p = argparse.ArgumentParser()
    p.add_argument('--fit', type=int, default=10000)
    main(p.parse_args().fit)
