"""Does the interval of a looked-at sample cover? Many samples of data whose errors are known, with good and bad judges.

    python nbs/benchmarks/review_sample.py [--features cifar.npz trash.npz ..] [--draws 1000] [--ns 30 60 120 240]

A judge is a ridge head on frozen features, read out leave-one-out, softmax of scores/.1. The features: of --features,
files with `f` (n,d), `y` (n,) and, where there are, human labels `*_label`; without it MobileNetV2's of the packs
(FASTROBUST_DATA or ../shared/data, and FASTROBUST_MOBILENET, see pretrained_body.py). The pixels of scikit-learn's
digits come besides. Prints Markdown. `plain`: width of Wilson's interval of as many labels drawn at random."""
import argparse, warnings
from pathlib import Path
import numpy as np, pandas as pd
from fastrobust.inference.analytic import AnalyticHead
from fastrobust.labels.result import NoiseReport
from fastrobust.labels.stratified import drawn
from fastrobust.labels.verifying import estimates, population, widths
from fastrobust.metrics import wilson_interval
from fastrobust.noise.laws import NoisyLabels

LAWS = {'none': None, 's1': ('symmetric', .01), 's3': ('symmetric', .03), 's10': ('symmetric', .1),
        's40': ('symmetric', .4), 'pair10': ('pair', .1), 'pair40': ('pair', .4)}
HUMAN = ['aggre_label', 'random_label1', 'worse_label']
JUDGES = ['useless', 'reversed', 'overconfident', 'unsure']

# --- data -----------------------------------------------------------------------------------------
def digits():
    from sklearn.datasets import load_digits
    X,y = load_digits(return_X_y=True)
    return dict(f=X[:, X.std(0) > 0].astype(np.float32), y=y)

def features(X, size):
    import torch
    from pretrained_body import mobilenet, resize
    net = mobilenet().features.eval()
    mean,std = (torch.tensor(o)[:, None, None] for o in ([.485, .456, .406], [.229, .224, .225]))   # ImageNet's
    res = []
    with torch.no_grad():
        for i in range(0, len(X), 100):
            x = torch.tensor(resize(X[i:i+100], size)).permute(0, 3, 1, 2).float()/255
            z = net((x-mean)/std)
            res.append((z.mean((2, 3)) if z.ndim == 4 else z).numpy())
    return np.concatenate(res)

def packs(n):
    from closed_form import cifar, photos
    c = cifar()
    human = {k: v[:n] for k,v in c['human'].items() if k in HUMAN}
    X,y,_ = photos(224)
    return {'cifar': dict(f=features(c['x'][:n], 96), y=c['y'][:n], **human), 'trash': dict(f=features(X, 224), y=y)}

def read(files, n):
    if not files: return {**packs(n), 'digits': digits()}
    res = {}
    for o in files:
        z = np.load(o, allow_pickle=True)
        res[Path(o).stem] = {k: z[k] for k in z.files if k in ('f', 'y', *HUMAN)}
    return {**res, 'digits': digits()}

def flipped(y, c, law):
    if LAWS[law] is None: return y.copy()
    return np.asarray(NoisyLabels(*LAWS[law], seed=1).apply(y, c).y_noisy)

def imbalanced(y):
    "Items to keep so that the first class is ten times as large as the last"
    c = y.max()+1
    n = np.bincount(y)
    return np.concatenate([np.flatnonzero(y == k)[:round(n[k]*10**(-k/(c-1)))] for k in range(c)])

def cases(z):
    "Name, rows, given labels"
    y = z['y']
    c,all_ = y.max()+1,np.arange(len(y))
    for k in HUMAN:
        if k in z: yield k.split('_')[0],all_,z[k]
    for k in LAWS: yield k,all_,flipped(y, c, k)
    few = np.random.default_rng(0).permutation(len(y))[:300]
    for k in ('none', 's10'): yield f'{k}, n 300',few,flipped(y[few], c, k)
    i = imbalanced(y)
    k = 'aggre_label'
    yield '10:1 '+('aggre' if k in z else 's10'),i,z[k][i] if k in z else flipped(y[i], c, 's10')

# --- judges ---------------------------------------------------------------------------------------
def judged(f, given, true):
    "The report's table and which labels are wrong"
    head = AnalyticHead(d=f.shape[1], intercept=True).fit(f, given)
    z = np.asarray(head.loo(f, given))[:, np.argsort(head.classes)]
    kept,given = np.unique(given, return_inverse=True)
    p = np.exp((z-z.max(1, keepdims=True))/.1)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        t = NoiseReport(given, p/p.sum(1, keepdims=True), range(len(kept))).table
    bad = kept[given] != true
    # the order and the chances before anyone's doubts
    order = t['suspicion'] if 'suspicion' in t else t.wrong
    return t.assign(wrong=t.wrong.fillna(order), order=order)[['item', 'given', 'wrong', 'order', 'flagged']],bad

def spoiled(t, bad, how):
    "The same labels before a bad judge"
    w,k = t.order.to_numpy(),int(t.flagged.sum())
    if how == 'useless': return t,bad[np.random.default_rng(7).permutation(len(bad))]
    if how == 'reversed': w = 1-w
    if how == 'overconfident': w = np.where(t.flagged, 1-(1-w)**5, w**5)
    if how == 'unsure': w = .3+.4*w
    t = t.assign(wrong=w).sort_values('wrong', ascending=False, kind='stable').reset_index(drop=True)
    if how == 'reversed': t['flagged'] = np.arange(len(t)) < k
    return t,bad

# --- samples --------------------------------------------------------------------------------------
def tried(t, bad, n, draws):
    "Coverage and mean width of the three intervals over many samples"
    rows,strata = population(t)
    flagged,h = rows.flagged.to_numpy(),len(strata.size)
    truth = [bad.mean(), bad[flagged].mean() if flagged.any() else np.nan,
             flagged[bad].mean() if bad.any() else np.nan]
    of,known,seen = strata.of,{},[]
    for seed in range(draws):
        i = drawn(strata, n, seed)
        x = np.bincount(of[i], weights=bad[i], minlength=h).astype(int)
        key = tuple(x)      # `m` is the same in all
        if key not in known: known[key] = estimates(x, np.bincount(of[i], minlength=h), strata)
        seen.append(known[key])
    e = pd.DataFrame(seen)
    res = dict(n=n, rate=truth[0])
    for name,true,lo,hi in (('rate', truth[0], e.lo, e.hi), ('precision', truth[1], e.precision_lo, e.precision_hi),
                            ('recall', truth[2], e.recall_lo, e.recall_hi)):
        ok = (lo-1e-9 <= true) & (true <= hi+1e-9)
        none = np.isnan(true)
        res[f'{name} covers'] = np.nan if none else ok.mean()
        res[f'{name} width'] = np.nan if none else (hi-lo).mean()
    res['bias/se'] = (e.rate.mean()-truth[0])/max(e.rate.std()/draws**.5, 1e-12)
    lo,hi = wilson_interval(truth[0], n)
    res['plain'] = float(hi-lo)
    res['predicted'] = widths(t, (n,)).rate[0]
    return res

def main():
    ap = argparse.ArgumentParser()
    ap.add_argument('--features', nargs='*', default=[])
    ap.add_argument('--draws', type=int, default=1000)
    ap.add_argument('--ns', type=int, nargs='+', default=[30, 60, 120, 240])
    ap.add_argument('--images', type=int, default=5000, help='of CIFAR, where features are computed')
    a = ap.parse_args()
    rows = []
    print('| data | labels | judge | n | rate | rate covers | width | plain | predicted | precision covers | width | '
          'recall covers | width | bias/se |')
    print('|'+'---|'*14)
    keys = ['n', 'rate', 'rate covers', 'rate width', 'plain', 'predicted', 'precision covers', 'precision width',
            'recall covers', 'recall width', 'bias/se']
    form = ['d', '.3f', '.3f', '.3f', '.3f', '.3f', '.3f', '.2f', '.3f', '.2f', '.1f']
    for data,z in read(a.features, a.images).items():
        for name,i,given in cases(z):
            t,bad = judged(z['f'][i], given, z['y'][i])
            hard = name == ('aggre' if 'aggre_label' in z else 's10')
            for how in ('as it is', *(JUDGES if hard else [])):
                told = spoiled(t, bad, how)
                for n in a.ns:
                    if n >= len(bad): continue
                    r = tried(*told, n, a.draws)
                    rows.append(dict(r, data=data, judge=how))
                    cells = ['' if np.isnan(r[k]) else format(r[k], f) for k,f in zip(keys, form)]
                    print('| '+' | '.join([data, name, how, *cells])+' |', flush=True)
    d = pd.DataFrame(rows)
    print(f'\n{a.draws} samples each. Of all settings:\n')
    print('| n | settings | rate covers: mean | least | < .93 | precision: mean | least | < .93 | recall: mean | '
          'least | width | plain |')
    print('|'+'---|'*12)
    for n,g in d.groupby('n'):
        cells = [str(n), str(len(g))]
        for k in ('rate covers', 'precision covers', 'recall covers'):
            cells += [f'{g[k].mean():.3f}', f'{g[k].min():.3f}']
            if k != 'recall covers': cells.append(str((g[k] < .93).sum()))
        cells += [f"{g['rate width'].mean():.3f}", f"{g.plain.mean():.3f}"]
        print('| '+' | '.join(cells)+' |')

if __name__ == '__main__': main()
