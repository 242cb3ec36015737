"""How many labels are wrong? The planted-error audit on labels whose errors are known, beside other estimates.

    python nbs/benchmarks/noise_rate.py --cache DIR [--seeds 0 1 2] [--only clean s20 ..] [--images 5000]

One setting for all: 3 folds, 5 % planted, GCE, one cycle at 3e-3; Fashion-MNIST (embedded 4,000) small_cnn, 8 epochs;
CIFAR-10N a wider CNN with flips, 10 epochs (needs the packs: FASTROBUST_DATA or ../shared/data). A run is kept as DIR/
<setting>_<seed>.npz, so an interrupted benchmark goes on from there. Prints Markdown; AP, AUROC need scikit-learn, the
last column cleanlab. The settings of the audit were chosen on seeds 10-12."""
import argparse, os, sys
from pathlib import Path
import numpy as np
from torch import nn
from fastai.learner import Learner
from fastai.vision.augment import Flip
from fastrobust.labels.crossval import cross_val_preds
from fastrobust.data.fromarrays import array_dls
from fastrobust.noise.laws import NoisyLabels
from fastrobust.samples import sample_data
from fastrobust.labels.result import NoiseReport
from fastrobust.losses import GCELoss
from fastrobust.nets import small_cnn
from fastrobust.labels.planting import plant_labels

PACKS = Path(os.environ.get('FASTROBUST_DATA', Path(__file__).resolve().parents[3]/'shared/data'))
FASHION = dict(clean=None, s20=('symmetric', .2), s40=('symmetric', .4), p30=('pair', .3), inst30=('instance', .3))
HUMAN = {'c10-worse': 'worse_label', 'c10-aggre': 'aggre_label', 'c10-rand1': 'random_label1'}

def cifar(cache, n, seed):
    "Images, true labels and human labels of a random subset"
    file = cache/'cifar10.npz'
    if not file.exists():
        sys.path.insert(0, str(PACKS))
        import packs
        z = packs.cifar10()
        np.savez(file, x=z['x'], y=z['y'], **z['human'])
    z = np.load(file)
    i = np.sort(np.random.default_rng([seed, 5]).permutation(50000)[:n])
    return z['x'][i],z['y'][i],{k: z[k][i] for k in z.files if k not in 'xy'}

def data(setting, seed, cache, n):
    "Images, true labels, given labels"
    if setting in HUMAN:
        X,y,human = cifar(cache, n, seed)
        return X,y,human[HUMAN[setting]]
    X,y,*_ = sample_data('fashion')
    law = FASHION[setting]
    return X,y,y if law is None else NoisyLabels(*law, seed=seed).apply(y, 10, X=X).y_noisy

def cifar_cnn(w=24):
    conv = lambda i, o: [nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*conv(3, w), *conv(w, 2*w), *conv(2*w, 4*w), nn.AdaptiveMaxPool2d(1), nn.Flatten(),
                         nn.Linear(4*w, 10))

def run(setting, seed, cache, n):
    "What the audit trains: out-of-fold probabilities under planted labels; kept in a file"
    file = cache/f'{setting}_{seed}.npz'
    if file.exists(): return dict(np.load(file))
    X,y,g = data(setting, seed, cache, n)
    human = setting in HUMAN
    pl,mask = plant_labels(g, 10, .05, seed)
    dls = array_dls(X, pl, valid=(X[:64], g[:64]), bs=64, vocab=list(range(10)), batch_tfms=[Flip()] if human else None)
    make = lambda d: Learner(d, cifar_cnn() if human else small_cnn(10), loss_func=GCELoss())
    o = cross_val_preds(make, dls, n_folds=3, seed=seed, verbose=False,
                        fit=lambda learn: learn.fit_one_cycle(10 if human else 8, 3e-3))
    res = dict(P=o.probs, y=y, g=g, pl=pl, mask=mask, f=o.folds)
    np.savez(file, **res)
    return res

def ranking(wrong, score):
    "Average precision, AUROC, precision of the first 100"
    from sklearn.metrics import average_precision_score, roc_auc_score
    first = wrong[np.argsort(-score, kind='stable')[:100]].mean()
    return average_precision_score(wrong, score),roc_auc_score(wrong, score),first

def cleanlab_ap(g, P, wrong):
    "Average precision of cleanlab's default call, ranked by self-confidence; what it does not list comes last"
    try: from cleanlab.filter import find_label_issues
    except ImportError: return np.nan
    from sklearn.metrics import average_precision_score
    ids = find_label_issues(g, P, return_indices_ranked_by='self_confidence', n_jobs=1)
    score = np.zeros(len(g))
    score[ids] = np.arange(len(ids), 0, -1)
    return average_precision_score(wrong, score)

def row(setting, seed, z):
    P = z['P']/z['P'].sum(1, keepdims=True)
    rep,wrong = NoiseReport(z['g'], P, range(10), folds=z['f'], planted=(z['pl'], z['mask'])),z['g'] != z['y']
    rate,e = wrong.mean(),rep.estimates.rate
    out = dict(setting=setting, seed=seed, wrong=rate, rate=rep.rate, lo=rep.lo, hi=rep.hi,
               inside=rep.lo <= rate <= rep.hi, off=rep.rate-rate, acc=rep.acc, joint=e['confident joint'],
               pbnr=e['flagged by PBNR'], tail=e['planted tail'], channel=e['label channel'])
    if wrong.any():
        f = rep.issues
        out.update(zip(('AP', 'AUROC', 'first100'), ranking(wrong, rep.channel.wrong)))
        out.update(cleanlab=cleanlab_ap(z['g'], P, wrong), precision=wrong[f].mean(), said=rep.precision,
                   recall=f[wrong].mean(), planted_recall=rep.recall)
    return out

def markdown(rows):
    cols = list(dict.fromkeys(k for r in rows for k in r))
    show = lambda v: '' if v is None else str(v) if isinstance(v, (str, int, np.bool_)) else f'{v:.3f}'
    yield '| '+' | '.join(cols)+' |'
    yield '|'+'---|'*len(cols)
    for r in rows: yield '| '+' | '.join(show(r.get(k)) for k in cols)+' |'

def main():
    ap = argparse.ArgumentParser()
    ap.add_argument('--cache', type=Path, required=True)
    ap.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    ap.add_argument('--only', nargs='+', default=[*FASHION, *HUMAN], choices=[*FASHION, *HUMAN])
    ap.add_argument('--images', type=int, default=5000)
    ap.add_argument('--cached', action='store_true', help='only what is in the cache; train nothing')
    a = ap.parse_args()
    a.cache.mkdir(parents=True, exist_ok=True)
    todo = [(st, s) for st in a.only for s in a.seeds if not a.cached or (a.cache/f'{st}_{s}.npz').exists()]
    rows = [row(st, s, run(st, s, a.cache, a.images)) for st,s in todo]
    print('\n'.join(markdown(rows)))
    print(f"\ninside {np.mean([r['inside'] for r in rows]):.0%} of {len(rows)} runs, mean width "
          f"{np.mean([r['hi']-r['lo'] for r in rows]):.3f}, largest |off| {max(abs(r['off']) for r in rows):.3f}")

if __name__ == '__main__': main()
