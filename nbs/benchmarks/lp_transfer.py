"Does noise of one Lp norm help against others? OMP_NUM_THREADS=1 python nbs/benchmarks/lp_transfer.py fashion --out F"
# fashion: embedded Fashion-MNIST, 4,000 images of 28 px, sizes of the paper times 4: plain training hardly suffers from
# less, clothes are large and flat (iCE keeps its sizes).  cifar: 5,000 of CIFAR-10, the paper's own sizes.
# One JSON line per finished run goes to --out: stop when you like, start again and it goes on. --table prints only.
import argparse, json, math, os, sys, time
from pathlib import Path
import numpy as np
import torch
from fastai.callback.schedule import fit_one_cycle   # noqa: F401 (gives Learner its fit_one_cycle)
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.torch_core import set_seed
sys.path.insert(0, str(Path(__file__).parents[2]))
from fastrobust.data.fromarrays import array_dls
from fastrobust.samples import sample_data
from fastrobust.shift.lpreport import lp_report
from fastrobust.images.lpsets import lp_sets
from fastrobust.nets import small_cnn
from fastrobust.techniques.lpnoise import LpNoise

inf = math.inf
STRENGTH,EPOCHS = dict(fashion=4., cifar=1.),dict(fashion=12, cifar=15)
ROWS = {'plain': None, 'L1 alone': [1], 'L2 alone': [2], 'Linf alone': [inf], 'L0 alone': [0], 'L0.5 alone': [.5],
        'C2 (L0, L2, Linf)': [0, 2, inf], 'C1 (all nine)': [0, .5, 1, 2, 5, 10, 50, 200, inf], 'modern': 'modern'}
NORMS = ['L0', 'L0.5', 'L1', 'L2', 'L5', 'Linf']

def images(data, seed):
    "Training and test images of one seed: all of the embedded ones, or a class-balanced draw of CIFAR-10"
    if data == 'fashion':
        X,y,Xv,yv,_ = sample_data('fashion')
        return X,y,(Xv, yv)
    folder = Path(os.environ.get('FASTROBUST_DATA', Path(__file__).parents[3]/'shared'/'data'))
    sys.path.insert(0, str(folder))
    import packs
    d = packs.cifar10()
    g = np.random.default_rng(seed)
    ids = np.concatenate([g.permutation(np.flatnonzero(d['y'] == k))[:500] for k in range(10)])
    return d['x'][ids],d['y'][ids],(d['xv'][:2000], d['yv'][:2000])

def sets(norms, size, f):
    "Every size of the paper for these norms, at this image size, times `f` (L0: of the values, at most all)"
    return [s._replace(eps=min(1., s.eps*f) if s.p == 0 else s.eps*f) for s in lp_sets('C1', size) if s.p in norms]

def run(data, row, seed, epochs, f):
    "Train and measure once"
    X,y,valid = images(data, seed)
    size,norms = ((1, 28, 28) if data == 'fashion' else (3, 32, 32)),ROWS[row]
    noise = [] if norms is None else [LpNoise('modern')] if norms == 'modern' else [LpNoise(sets(norms, size, f))]
    set_seed(seed, reproducible=True)
    dls = array_dls(X, y, valid=valid, vocab=list(range(10)), bs=64, batch_tfms=noise, device='cpu')
    set_seed(seed, reproducible=True)       # all rows of a seed begin with one network
    learn = Learner(dls, small_cnn(10, size[0]), loss_func=CrossEntropyLossFlat(), metrics=accuracy)
    t = time.process_time()
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, 3e-3)
    seconds = time.process_time()-t
    with learn.no_bar(): rep = lp_report(learn, sets=sets(ROWS['C1 (all nine)'], size, f))
    s = rep.summary
    return dict(data=data, row=row, seed=seed, epochs=epochs, strength=f, clean=s.clean_error, mCE_Lp=s.mCE_Lp,
                iCE=s.iCE, rise=s.rise, **rep.table.groupby('norm').error.mean().to_dict(), seconds=round(seconds, 1),
                total=round(time.process_time()-t, 1))

def mean_se(v):
    v = np.asarray(v, float)
    return v.mean(),v.std(ddof=1)/len(v)**.5 if len(v) > 1 else math.nan

def tell(runs):
    "The table, paired differences, and the bars of the issue"
    cols = ['clean', 'mCE_Lp', 'iCE', *NORMS]
    by = {row: {r['seed']: r for r in runs if r['row'] == row} for row in ROWS}
    pairs = lambda a, b, c: [(by[a][s][c], by[b][s][c]) for s in sorted(by[a].keys() & by[b].keys())]
    print('| trained on | n | ' + ' | '.join(cols) + ' | CPU s |\n|' + '---|'*(len(cols)+3))
    for row,rs in by.items():
        if not rs: continue
        val = [mean_se([r[c] for r in rs.values()]) for c in cols]
        sec = np.mean([r['seconds'] for r in rs.values()])
        print(f'| {row} | {len(rs)} | ' + ' | '.join(f'{m:.4f} ± {e:.4f}' for m,e in val) + f' | {sec:.0f} |')
    print('\nDifference to plain, paired by seed, ± SE')
    for row in list(ROWS)[1:]:
        if not pairs(row, 'plain', 'clean'): continue
        d = {c: mean_se([a-b for a,b in pairs(row, 'plain', c)]) for c in cols}
        print(f'{row:18}  ' + '  '.join(f'{c} {m:+.4f}±{e:.4f}' for c,(m,e) in d.items()))
    def bar(what, v, ok):
        verdict = '-  ' if math.isnan(v[0]) else 'yes' if ok(*v) else 'NO '
        print(f"{verdict}  {what}: {v[0]:+.4f} ± {v[1]:.4f}")
    print('\nBars')
    for n in ('L2', 'L5', 'Linf', 'L0'):
        v = mean_se([1-a/b for a,b in pairs('L1 alone', 'plain', n)] or [math.nan])
        asked = ' (not asked)' if n == 'L0' else ''
        bar(f'L1 alone lowers the error on {n}, relative, >= .20{asked}', v, lambda m, e: m >= .2 and m > 2*e)
    for row in list(ROWS)[1:6]:
        v = mean_se([a-b for a,b in pairs('C2 (L0, L2, Linf)', row, 'mCE_Lp')] or [math.nan])
        bar(f'C2 beats {row} on mCE_Lp', v, lambda m, e: m < -2*e)
    for row in ('L1 alone', 'C2 (L0, L2, Linf)', 'modern'):
        if not by[row]: continue
        v = mean_se([a-b for a,b in pairs(row, 'plain', 'clean')] or [math.nan])
        print(f'     clean error of {row} less that of plain: {v[0]:+.4f} ± {v[1]:.4f}')

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('data', choices=list(STRENGTH))
    p.add_argument('--out', required=True, help='file of JSON lines, one per finished run')
    p.add_argument('--seeds', type=int, default=5)
    p.add_argument('--epochs', type=int, help='12 for fashion, 15 for cifar')
    p.add_argument('--strength', type=float, help='sizes of the paper times this, 4 for fashion, 1 for cifar')
    p.add_argument('--rows', help='names separated by ;')
    p.add_argument('--table', action='store_true', help='only print what is there')
    a = p.parse_args()
    torch.set_num_threads(int(os.environ.get('OMP_NUM_THREADS', 1)))
    epochs,f,out = a.epochs or EPOCHS[a.data],a.strength or STRENGTH[a.data],Path(a.out)
    mine = dict(data=a.data, epochs=epochs, strength=f)
    done = [json.loads(o) for o in out.read_text().splitlines()] if out.exists() else []
    done = [r for r in done if mine.items() <= r.items()]
    for seed in range(0 if a.table else a.seeds):
        for row in a.rows.split(';') if a.rows else ROWS:
            if any(r['row'] == row and r['seed'] == seed for r in done): continue
            done.append(run(a.data, row, seed, epochs, f))
            with out.open('a') as o: o.write(json.dumps(done[-1])+'\n')
            print(f"{row}, seed {seed}: clean {done[-1]['clean']:.4f}, mCE_Lp {done[-1]['mCE_Lp']:.4f}, "
                  f"{done[-1]['total']:.0f} s of CPU", flush=True)
    tell(done)

if __name__ == '__main__': main()
