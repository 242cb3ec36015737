"Audit, fix, retrain against plain retraining, on embedded Fashion-MNIST, symmetric 40 % and clean"
# python nbs/benchmarks/cure.py [seeds]
import sys, time
from pathlib import Path
import pandas as pd
from fastai.metrics import accuracy
from fastai.torch_core import set_seed
sys.path.insert(0, str(Path(__file__).parents[2]))
from fastrobust.all import GCELoss, NoisyLabels, fix_labels, noise_report, robust_learner, sample_dls, small_cnn

def train(dls, seed, epochs=8, **kw):
    set_seed(seed)
    learn = robust_learner(dls, small_cnn(10), metrics=accuracy, **kw)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, 3e-3)
    return learn.recorder.values[-1][2]

def main(seeds=3):
    rows = []
    for name,rate in (('sym .4', .4), ('clean', 0.)):
        for seed in range(seeds):
            dls = sample_dls(noise=NoisyLabels('symmetric', rate, seed=seed)) if rate else sample_dls()
            t0 = time.time()
            make = lambda d: robust_learner(d, small_cnn(10), loss_func=GCELoss())
            rep = noise_report(make, dls, seed=seed, verbose=False)
            row = dict(noise=name, seed=seed, rate=rep.rate, flagged=rep.issues.mean(), audit_s=time.time()-t0)
            for e in (5, 8, 20): row[f'plain {e}'] = train(dls, seed, e)
            row['plain 28 (seconds of audit + 8)'] = train(dls, seed, 28)
            row['recipe 8'] = train(dls, seed, recipe='noisy_labels')
            for how in ('drop', 'relabel', 'weight'):
                new = fix_labels(dls, rep, how=how)
                if rate: row[f'left wrong, {how}'] = new.noise.realised_rate
                for e in (8, 20): row[f'{how} {e}'] = train(new, seed, e)
                row[f'{how}, recipe 8'] = train(new, seed, recipe='noisy_labels')
            rows.append(row); print(pd.Series(row).to_dict(), flush=True)
    df = pd.DataFrame(rows)
    for name,g in df.groupby('noise', sort=False):
        print(f'\n### {name}\n\n| row | accuracy, last | − plain 8 | − plain 20 |\n|---|---|---|---|')
        for k in g.columns[5:]:
            if 'left' in k: print(f'| {k} | {g[k].mean():.3f} | | |'); continue
            d = [g[k]-g[o] for o in ('plain 8', 'plain 20')]
            diff = ' | '.join(f'{o.mean():+.3f} ± {o.sem():.3f}' for o in d)
            print(f'| {k} | {g[k].mean():.3f} ± {g[k].sem():.3f} | {diff} |')
        print(g[['rate', 'flagged', 'audit_s']].mean().round(3).to_dict())

if __name__ == '__main__': main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
