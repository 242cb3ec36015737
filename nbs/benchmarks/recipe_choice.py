"How the recipe `noisy_labels` was chosen: losses, ODNL and schedule lengths, judged on *noisy* held-out labels alone"
# python nbs/benchmarks/recipe_choice.py [--seeds 0 1 2] [--noise sym:0 sym:0.2 sym:0.4 pair:0.3] [--out choice.jsonl]
# Only the embedded Fashion-MNIST training images are used: the test images and true labels have no say. The share that
# was memorised is written beside each run for the reader; the table is sorted by the noisy-validation accuracy.
import argparse, json, random, sys, time, warnings
from pathlib import Path
import pandas as pd
import torch
from fastai.callback.schedule import fit_one_cycle          # noqa: F401 (patches Learner)
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.torch_core import set_seed
sys.path.insert(0, str(Path(__file__).parents[2]))
from fastrobust.data.holdout import hold_out
from fastrobust.noise.laws import NoisyLabels
from fastrobust.data.openset import aux_images
from fastrobust.samples import sample_dls
from fastrobust.losses import CrossEntropy, GCELoss, NCEandRCE, SCELoss, TruncatedGCELoss
from fastrobust.labels.metrics import memorisation_counts, memorised_shares
from fastrobust.nets import small_cnn
from fastrobust.techniques.odnl import ODNL

KINDS = dict(sym='symmetric', pair='pair')

def candidates():
    "Name -> (loss, techniques, epochs), made anew for every run"
    aux = aux_images('textures', 4000, 28, 1)
    tgce = lambda: TruncatedGCELoss(k=.2)   # at the usual .5 no image is likely enough at the start, so nothing trains
    losses = dict(CE=(CrossEntropy, (5, 8, 20)), GCE=(GCELoss, (8, 12, 20)), SCE=(SCELoss, (8, 20)),
                  NCEandRCE=(NCEandRCE, (8, 20)), TruncatedGCE=(tgce, (20,)))
    res = {f'{k} {n}': (loss, list, n) for k,(loss,ns) in losses.items() for n in ns}
    for k,loss,eta in (('CE', CrossEntropy, 2.5), ('GCE', GCELoss, 1.)):
        res.update({f'{k}+ODNL {n}': (loss, lambda eta=eta: [ODNL(aux, eta)], n) for n in (8, 20)})
    return res

def data(kind, rate, seed):
    "Loaders that validate on a fifth of the noisy training items; and the true labels of those they train on"
    dls = sample_dls(NoisyLabels(kind, rate, seed=100+seed)) if rate else sample_dls()
    held = hold_out(dls, .2, seed=seed)
    rows = held.train_ds.items.rows
    return held,torch.as_tensor(dls.noise.y_clean)[rows] if rate else None

@torch.no_grad()
def memorised(learn, true):
    "Share of the wrongly labelled training images that get their wrong label"
    if true is None: return float('nan')
    dl = learn.dls.train.new(shuffle=False, drop_last=False)
    pred = torch.cat([learn.model.eval()(b[0]).argmax(1) for b in dl]).as_subclass(torch.Tensor)
    return float(memorised_shares(memorisation_counts(pred, dl.dataset.items.y, true)).memorised)

def run(name, loss, techniques, epochs, kind, rate, seed, lr=3e-3):
    dls,true = data(kind, rate, seed)
    set_seed(seed)
    for dl in dls.loaders: dl.rng = random.Random(seed)
    learn = Learner(dls, small_cnn(10, 1), loss_func=loss(), metrics=accuracy, cbs=techniques())
    t = time.perf_counter()
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, lr)
    secs,acc = time.perf_counter()-t,[float(v[2]) for v in learn.recorder.values]
    return dict(name=name, noise=f'{kind}:{rate:g}', seed=seed, epochs=epochs, noisy_valid=acc[-1],
                noisy_valid_best=max(acc), memorised=memorised(learn, true), seconds=secs)

def table(rows):
    df = pd.DataFrame(rows)
    tab = df.pivot_table(index='name', columns='noise', values='noisy_valid')
    tab.insert(0, 'mean', tab.mean(1))
    tab['memorised'],tab['seconds'] = (df.groupby('name')[k].mean() for k in ('memorised', 'seconds'))
    return tab.sort_values('mean', ascending=False)

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    p.add_argument('--noise', nargs='+', default=['sym:0', 'sym:0.2', 'sym:0.4', 'pair:0.3'])
    p.add_argument('--only', nargs='+', help='names of candidates')
    p.add_argument('--out', default='recipe-choice.jsonl', help='one line a run; finished runs in it are not repeated')
    p.add_argument('--epochs', type=int, help='in place of every candidate\'s own: for a smoke run')
    a = p.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    all_ = candidates()
    if unknown := set(a.only or []) - set(all_): p.error(f'expected names among {list(all_)}, got {sorted(unknown)}')
    out = Path(a.out)
    rows = [json.loads(o) for o in out.read_text().splitlines()] if out.exists() else []
    done = {(r['name'], r['noise'], r['seed']) for r in rows}
    for seed in a.seeds:
        for o in a.noise:
            kind,rate = o.split(':')
            kind,rate = KINDS[kind],float(rate)
            for name in a.only or all_:
                if (name, f'{kind}:{rate:g}', seed) in done: continue
                loss,techniques,n = all_[name]
                rows.append(run(name, loss, techniques, a.epochs or n, kind, rate, seed))
                with out.open('a') as f: print(json.dumps(rows[-1]), file=f)
                print(json.dumps(rows[-1]), flush=True)
    print(table(rows).round(3).to_string())

if __name__ == '__main__': main()
