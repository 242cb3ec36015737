"Unknowns, wrong labels beside unknowns, and long tails: techniques against plain training, paired by seed"
# python nbs/benchmarks/open_sets.py known|deep|crops|steps|noisy|tail|dev fashion|cifar --out runs.jsonl
#        [--seeds 0 1 2] [--only row;row]
# python nbs/benchmarks/open_sets.py table runs.jsonl
# known: true labels, a small residual network with batch norm (one block a stage); unknown images by all scores,
# calibration. deep: the same with three blocks a stage (the depth of ResNet-20). crops: deep with flips and crops.
# steps: crops with LogitNorm's own schedule at a sixth of its length, a tenth of the rate after 40 % and after 70 %.
# noisy: symmetric 40 % wrong labels, accuracy on clean test images and unknowns. dev: the same with a fifth of the
# training images (their noisy labels) and generated unknowns held out: what the recipe's weight is chosen on.
# tail: class sizes fall by equal factors to 2 % (fashion) or 5 % (cifar) of the largest; balanced test images.
# Auxiliary images: fashion QuickDraw's first five classes and generated textures (unknown: its other five), cifar
# Tiny-ImageNet of 130 classes (near unknown: 41 others). Numbers are of the last epoch. A run adds a line to --out.
import argparse, json, sys, time, warnings
from functools import partial
from pathlib import Path
import numpy as np
import pandas as pd
import torch
from fastai.callback.progress import ProgressCallback
from fastai.callback.schedule import ParamScheduler
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.optimizer import SGD
from fastai.torch_core import set_seed
from fastai.vision.augment import Flip
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
import unknowns as un
from shift_methods import PadCrop
from fastrobust.all import (GCELoss, LogitAdjust, LogitNorm, NoisyLabels, ODNL, OpenSampling, OpenSet,
                            add_label_noise, array_dls, aux_images, calibration_report, long_tail, ood_report,
                            small_cnn, tail_report, weighted_dls)

ROWS = dict(
    known={'plain': dict(), 'LogitNorm': dict(t=['ln']), 'ODNL': dict(t=['odnl']),
           'plain, seconds of ODNL': dict(long=2)},
    deep={'plain': dict(), 'LogitNorm': dict(t=['ln'])},
    crops={'plain': dict(), 'LogitNorm': dict(t=['ln'])}, steps={'plain': dict(), 'LogitNorm': dict(t=['ln'])},
    noisy={'plain': dict(), 'GCE': dict(loss=GCELoss), 'ODNL': dict(t=['odnl']),
           **{f'GCE + ODNL eta {e}': dict(loss=GCELoss, t=[('odnl', e)]) for e in (.1, .5, 2.5)},
           'GCE + LogitNorm': dict(loss=GCELoss, t=['ln']),
           'plain, seconds of ODNL': dict(long=2), 'GCE, seconds of ODNL': dict(loss=GCELoss, long=2)},
    tail={'plain': dict(), 'balanced loader': dict(sampler=True), 'LogitAdjust': dict(t=['la']),
          'Open-sampling': dict(t=['os']), 'Open-sampling + LogitAdjust': dict(t=['os', 'la']),
          'ODNL labels': dict(t=[('odnl', 1.)]), 'plain, seconds of Open-sampling': dict(long=2),
          'LogitAdjust, seconds of Open-sampling': dict(t=['la'], long=2)})
DEEP = ('deep', 'crops', 'steps')
# the weight decay that papers state is torch's: in the gradient, of all parameters; fastai's own is a tenth as strong
# beside momentum .9
TORCHS = dict(opt_func=partial(SGD, mom=.9, decouple_wd=False), wd=5e-4, wd_bn_bias=True)
ROWS['dev'] = {k: v for k,v in ROWS['noisy'].items() if k.startswith('GCE')}

def technique(t, aux):
    name,w = t if isinstance(t, tuple) else (t, None)
    return dict(ln=LogitNorm, la=LogitAdjust, odnl=partial(ODNL, aux), os=partial(OpenSampling, aux))[name](
        *([] if w is None else [w]))

def data(what, name, seed):
    "Loaders, auxiliary images, unknown sets by name, which of them are near, the realised noise rate"
    if name == 'fashion':
        X,y,Xv,yv,sets = un.fashion()
        aux,near,tfms = un.fashion_aux(),(),None
    else:
        X,y,Xv,yv = un.cifar(seed, 10000 if what == 'tail' else 5000)
        aux,sets,near,tfms = un.cifar_aux(),un.cifar_unknowns(),('tin-41 (near)',),[Flip()]
    if what == 'tail':
        keep = long_tail(y, .02 if name == 'fashion' else .05, seed=seed)
        X,y = X[keep],y[keep]
    if what == 'dev':
        p = np.random.default_rng(100+seed).permutation(len(X))
        y = NoisyLabels('symmetric', .4, seed=seed).apply(y).y_noisy
        X,y,Xv,yv = X[p[800:]],y[p[800:]],X[p[:800]],y[p[:800]]
        sets = {'rademacher': aux_images('rademacher', 1000, 28, 1, seed=9)}
        # of the auxiliary classes themselves: the last drawn class is kept out of training
        drawn = np.arange(500) % 500 >= 400
        sets['drawn'] = OpenSet(aux.images[:500][drawn], ['kept out'])
        aux = OpenSet(np.concatenate([aux.images[:500][~drawn], aux.images[500:]]), ['the rest'])
    if what in ('crops', 'steps'): tfms = [Flip(), PadCrop()]
    dls = array_dls(X, y, valid=(Xv, yv), bs=64, val_bs=250, batch_tfms=tfms)
    if what != 'noisy': return dls,aux,sets,near,0.
    dls = add_label_noise(dls, NoisyLabels('symmetric', .4, seed=seed))
    return dls,aux,sets,near,dls.noise.realised_rate

def run(what, name, row, seed):
    spec = ROWS[what][row]
    dls,aux,sets,near,rate = data(what, name, seed)
    if spec.get('sampler'): dls = weighted_dls(dls, 'balanced')
    set_seed(seed, reproducible=True)
    known = 30 if name == 'fashion' else 15
    epochs = dict(known=known, deep=30, crops=30, steps=30, noisy=8, dev=8, tail=30)[what]*spec.get('long', 1)
    n_in = 1 if name == 'fashion' else 3
    net = un.resnet(n_in, 3 if what in DEEP else 1) if what in ('known', 'tail', *DEEP) else small_cnn(10, n_in)
    learn = Learner(dls, net, spec['loss']() if 'loss' in spec else None, metrics=accuracy,
                    cbs=[technique(t, aux) for t in spec.get('t', ())],
                    **(TORCHS if what in ('known', *DEEP) else {}))
    learn.remove_cbs(learn.cbs.filter(lambda cb: isinstance(cb, ProgressCallback)))
    learn.logger = lambda *a: None
    start = time.perf_counter()
    if what == 'steps': learn.fit(epochs, .1, cbs=ParamScheduler({'lr': lambda pct: .1*.1**((pct > .4)+(pct > .7))}))
    elif what in ('known', *DEEP): learn.fit_one_cycle(epochs, .1, moms=(.9, .9, .9))
    else:               learn.fit_one_cycle(epochs, 3e-3)
    out = dict(what=what, data=name, row=row, seed=seed, epochs=epochs, seconds=round(time.perf_counter()-start, 1),
               rate=rate)
    names = list(learn.recorder.metric_names)
    out['accuracy'] = float(learn.recorder.values[-1][names.index('accuracy')-1])
    out |= {k: float(learn.recorder.values[-1][names.index(k)-1]) for k in names if 'odnl' in k or 'opens' in k}
    if what == 'tail':
        rep = tail_report(learn)
        return out | {k: float(v) for k,v in rep.summary.items() if isinstance(v, (int, float, np.floating))}
    rep = ood_report(learn, sets, near=near)
    for r in rep.table.itertuples():
        if r.set in sets: out |= {f'{r.set}|{r.score}|auroc': r.AUROC, f'{r.set}|{r.score}|fpr95': r.FPR95}
    if what in ('known', *DEEP):
        cal = calibration_report(learn).table
        for kind,tag in zip(cal.index, ('raw', 'scaled')):
            out |= {f'cal|{tag}|{k}': float(v) for k,v in cal.loc[kind].items() if isinstance(v, (float, np.floating))}
    return out

# --- tables ----------------------------------------------------------------------------------------------------------
def _pm(v): return f'{np.mean(v):.3f} ± {np.std(v, ddof=1)/len(v)**.5:.3f}' if len(v) > 1 else f'{np.mean(v):.3f}'

def _paired(df, base, row, col):
    a,b = (df[df.row == r].set_index('seed')[col] for r in (row, base))
    d = (a-b).dropna()
    return '' if row == base or not len(d) else f'{d.mean():+.3f} ± {d.std(ddof=1)/len(d)**.5:.3f}' if len(d) > 1 \
        else f'{d.mean():+.3f}'

def _cell(v):
    "A column of one row's runs"
    if v.name in ('epochs', 'seconds'): return f'{v.mean():.0f}'
    if not v.notna().any(): return ''
    return f'{v.mean():.3f}' if v.name.endswith('_floor') else _pm(v.dropna())

def table(path):
    runs = pd.DataFrame([json.loads(line) for line in open(path)])
    for (what,name),df in runs.groupby(['what', 'data'], sort=False):
        df = df.drop_duplicates(['row', 'seed'], keep='last').dropna(axis=1, how='all')
        rows = [r for r in ROWS[what] if r in set(df.row)]
        n = df.groupby('row').seed.nunique()
        print(f'\n### {what}, {name}: {n.min()} to {n.max()} seeds, realised noise {df.rate.mean():.3f}\n')
        mean = {c: c for c in ('accuracy', *[c for c in ('head_accuracy', 'mid_accuracy', 'tail_accuracy') if c in df])}
        sets = list(dict.fromkeys(c.split('|')[0] for c in df if c.endswith('|auroc')))
        scores = list(dict.fromkeys(c.split('|')[1] for c in df if c.endswith('|auroc')))
        far = [s for s in sets if 'near' not in s]
        for s in scores:
            for m in ('auroc', 'fpr95'): df[f'far {s} {m}'] = df[[f'{o}|{s}|{m}' for o in far]].mean(axis=1)
        extra = [c for c in df if c.startswith(('odnl', 'opens'))]
        cols = [*mean, *(['far msp auroc', 'far msp fpr95'] if scores else []), *extra, 'epochs', 'seconds']
        print('| | ' + ' | '.join(cols) + ' | accuracy - plain' + (' | far msp AUROC - plain |' if scores else ' |'))
        print('|---'*(len(cols)+2+bool(scores)) + '|')
        for r in rows:
            d = df[df.row == r]
            cells = [_cell(d[c]) for c in cols]
            diff = [_paired(df, 'plain', r, 'accuracy')] if 'plain' in rows else ['']
            if scores: diff.append(_paired(df, 'plain', r, 'far msp auroc') if 'plain' in rows else '')
            print(f'| {r} | ' + ' | '.join(cells + diff) + ' |')
        if not scores: continue
        print('\nAUROC by unknown set (msp), positive = id\n')
        print('| | ' + ' | '.join(sets) + ' |\n' + '|---'*(len(sets)+1) + '|')
        row = lambda r, cols, df=df: f'| {r} | ' + ' | '.join(_pm(df[df.row == r][c]) for c in cols) + ' |'
        for r in rows: print(row(r, [f'{s}|msp|auroc' for s in sets]))
        print('\nMean far AUROC by score\n\n| | ' + ' | '.join(scores) + ' |\n' + '|---'*(len(scores)+1) + '|')
        for r in rows: print(row(r, [f'far {s} auroc' for s in scores]))
        no = ('cal|raw|T', 'cal|raw|accuracy', 'cal|scaled|accuracy')
        cal = [c for c in df if c.startswith('cal|') and c not in no]
        if cal:
            print('\nCalibration, as trained and after a temperature (cross-fitted)\n')
            print('| | ' + ' | '.join(c[4:].replace('|', ' ') for c in cal) + ' |\n' + '|---'*(len(cal)+1) + '|')
            for r in rows: print(row(r, cal))

if __name__ == '__main__':
    if sys.argv[1] == 'table': table(sys.argv[2]); sys.exit()
    p = argparse.ArgumentParser()
    p.add_argument('what', choices=list(ROWS)); p.add_argument('data', choices=['fashion', 'cifar'])
    p.add_argument('--out', required=True); p.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    p.add_argument('--only', default='')
    a = p.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    done = {tuple(json.loads(s)[k] for k in ('what', 'data', 'row', 'seed')) for s in open(a.out)} \
        if Path(a.out).exists() else set()
    for seed in a.seeds:
        for row in [r for r in ROWS[a.what] if not a.only or r in a.only.split(';')]:
            if (a.what, a.data, row, seed) in done: continue
            res = run(a.what, a.data, row, seed)
            with open(a.out, 'a') as f: f.write(json.dumps(res) + '\n')
            print(a.what, a.data, row, seed, f"{res['accuracy']:.3f} {res['seconds']}s", flush=True)
