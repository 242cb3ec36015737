"""Two remedies that need no new training: BatchNorm by the shifted images themselves, and weights before fine-tuning.

    python nbs/benchmarks/shifted.py bn fashion|cifar --out runs.jsonl [--seeds 0 1 2]
    FASTROBUST_MOBILENET=... python nbs/benchmarks/shifted.py wise cifar|trash --out runs.jsonl [--seeds 0 1 2]
    python nbs/benchmarks/shifted.py table runs.jsonl

bn: the embedded Fashion-MNIST (small_cnn, 8 epochs) or 5,000 CIFAR-10 images drawn anew for each seed (the wider CNN of
noise_rate.py, flips, 10 epochs); `corruption_report` on 1,000 test images, 15 corruptions, severities 1, 3, 5. wise:
`fine_tune` of a pretrained MobileNetV2 on 1,000 images, with and without KeepBN; 400 test images, 15 corruptions at
severity 3. Weights and images: see pretrained_body.py and closed_form.py. A run adds a line to --out; what is there is
not run again; it takes minutes on one core. All rows of a seed are on the same images."""
import argparse, copy, json, random, sys, time, warnings
from pathlib import Path
import numpy as np
import torch
from torch.optim.swa_utils import update_bn
from fastai.callback.schedule import fine_tune          # noqa: F401 (patches Learner)
from fastai.learner import Learner
from fastai.torch_core import set_seed
from fastai.vision.augment import Flip
from fastai.losses import CrossEntropyLossFlat
sys.path.insert(0, str(Path(__file__).parents[2]))
from closed_form import cifar, draw, loaders
from noise_rate import cifar_cnn
from pretrained_body import mobilenet
from fastrobust.data.fromarrays import array_dls
from fastrobust.images.corruptions.front import corrupt
from fastrobust.images.corruptions.tables import CORRUPTIONS, GROUPS
from fastrobust.learner import robust_learner
from fastrobust.nets import small_cnn
from fastrobust.pixels import pixel_space
from fastrobust.samples import sample_data
from fastrobust.shift.corruptionreport import corruption_report
from fastrobust.training.keepbn import KeepBN
from fastrobust.wiseft import wise_ft

SIZES = [64, 200, 500]                  # Images of a batch
ALPHAS,ANEW = [1, .75, .5, .25, 0],'0.5, BatchNorm statistics anew'
FITS,KEPT = {'fine_tune(3)': dict(epochs=3), 'fine_tune(6 lr_mult=10)': dict(epochs=6, lr_mult=10),
        'fine_tune(6 lr_mult=1)': dict(epochs=6, lr_mult=1)}, ' KeepBN'
SIDE = dict(cifar=64, trash=96)         # Pixels that the pretrained network sees
TABLE = dict(cifar='cifar', trash='imagenet')   # Of severities: what 'auto' took before there was 'tiny'

# --- BatchNorm by the batch -----------------------------------------------------------------------
def small(data, seed):
    "A learner of one seed, not yet trained, and its epochs"
    set_seed(seed)
    if data == 'fashion':
        X,y,Xv,yv,_ = sample_data('fashion')
        net,epochs,tfms = small_cnn(10),8,[]
    else:
        c = cifar()
        i = np.random.default_rng([seed, 5]).permutation(50000)[:5000]
        X,y,Xv,yv = c['x'][i],c['y'][i],c['xv'][:1000],c['yv'][:1000]
        net,epochs,tfms = cifar_cnn(),10,[Flip()]
    dls = array_dls(X, y, valid=(Xv[:1000], yv[:1000]), bs=64, vocab=list(range(10)), batch_tfms=tfms)
    return Learner(dls, net, loss_func=CrossEntropyLossFlat()),epochs

def run_bn(data, seed, folder, done):
    if done: return []
    learn,epochs = small(data, seed)
    rows = []
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(epochs, 3e-3)
        for bs in SIZES:
            t = time.process_time()
            rep = corruption_report(learn, severities=(1, 3, 5), bn_batch=bs, resume=folder/f'{data}{seed}')
            s,base = rep.summary,dict(what='bn', data=data, seed=seed, cpu_s=round(time.process_time()-t, 1))
            by = rep.table.groupby('group')
            if bs == SIZES[0]:
                rows.append(dict(base, row='training', clean=s.clean_error, mce=s.mean_corruption_error,
                                 ece=s.corrupted_ece, **by['mean'].mean()))
            rows.append(dict(base, row=f'batch of {bs}', clean=s.clean_error_bn, mce=s.mean_corruption_error_bn,
                             ece=s.corrupted_ece_bn, **by['error_bn'].mean()))
    return rows

# --- weights between ------------------------------------------------------------------------------
@torch.no_grad()
def errors(learn, sets, y):
    "Error on each of `sets` of uint8 images, name -> error"
    learn.model.eval()
    px = pixel_space(learn.dls)
    def wrong(x):
        z = [learn.model(px.encode(o.float()/255).to(memory_format=torch.channels_last)) for o in x.split(100)]
        return float((torch.cat(z).argmax(1).numpy() != y).mean())
    return {k: wrong(x) for k,x in sets.items()}

def run_wise(data, seed, _folder, done):
    drawn = draw(data, seed, 1000, 400, SIDE[data])
    Xv,yv = drawn[2:4]
    x = torch.from_numpy(Xv.transpose(0, 3, 1, 2).copy())
    sets = dict(clean=x, **{k: corrupt(x, k, 3, TABLE[data]) for k in CORRUPTIONS})
    rows = []
    for name in [o+kept for o in FITS for kept in ('', KEPT)]:
        if f'{name}, alpha 1' in done: continue
        t = time.process_time()
        set_seed(seed)
        learn = robust_learner(loaders(drawn, '0', seed, 64), mobilenet, cbs=[KeepBN()] if KEPT in name else [])
        learn.model.to(memory_format=torch.channels_last)
        base = copy.deepcopy(learn.model)
        for dl in learn.dls.loaders: dl.rng = random.Random(seed)
        with learn.no_bar(), learn.no_logging(): learn.fine_tune(**FITS[name.removesuffix(KEPT)])
        for a in [*ALPHAS, ANEW]:
            new = wise_ft(learn, .5 if a == ANEW else a, base)
            if a == ANEW: update_bn((x for x,_ in learn.dls.train), new.model)
            e = errors(new, sets, yv)
            clean = e.pop('clean')
            groups = {g: np.mean([e[k] for k in v if k in e]) for g,v in GROUPS.items() if e.keys() & set(v)}
            rows.append(dict(what='wise', data=data, seed=seed, row=f'{name}, alpha {a}', clean=clean,
                             mce=np.mean(list(e.values())), cpu_s=round(time.process_time()-t, 1), **groups))
    return rows

# --- tables ---------------------------------------------------------------------------------------
def pm(v):
    se = f' ± {np.std(v, ddof=1)/len(v)**.5:.4f}' if len(v) > 1 else ''
    return f'{np.mean(v):+.4f}{se}'

def table(path):
    "Markdown: errors, and differences to the first row of its kind, paired over seeds"
    runs = [json.loads(o) for o in Path(path).read_text().splitlines()]
    for what,data in sorted({(r['what'], r['data']) for r in runs}):
        mine = [r for r in runs if (r['what'], r['data']) == (what, data)]
        by = {k: {r['seed']: r for r in mine if r['row'] == k} for k in dict.fromkeys(r['row'] for r in mine)}
        groups = [g for g in ('ece', *GROUPS) if g in mine[0]]
        print(f"\n### {what}, {data}\n\n| row | seeds | clean error | mean corruption error | {' | '.join(groups)} | "
              f"clean, minus first | corrupted, minus first |\n|{'---|'*(6+len(groups))}")
        for k,rs in by.items():
            first = next(o for o in by if o == 'training' or o == k.split(',')[0]+', alpha 1')
            both = [s for s in rs if s in by[first]]
            mean = lambda c: f'{np.mean([r[c] for r in rs.values()]):.4f}'      # noqa: B023
            diff = [pm([rs[s][c]-by[first][s][c] for s in both]) if k != first else '' for c in ('clean', 'mce')]
            print(f"| {k} | {len(rs)} | {' | '.join(map(mean, ['clean', 'mce', *groups]))} | {' | '.join(diff)} |")

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('what', choices=['bn', 'wise', 'table'])
    p.add_argument('data', help='fashion, cifar, trash; with table: the file of runs')
    p.add_argument('--out', type=Path, default=Path('runs.jsonl'))
    p.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    a = p.parse_args()
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    have = [json.loads(o) for o in a.out.read_text().splitlines()] if a.out.exists() else []
    for seed in a.seeds if a.what != 'table' else ():
        done = {r['row'] for r in have if (r['what'], r['data'], r['seed']) == (a.what, a.data, seed)}
        rows = dict(bn=run_bn, wise=run_wise)[a.what](a.data, seed, a.out.parent/'cells', done)
        with a.out.open('a') as f: f.writelines(json.dumps(r)+'\n' for r in rows)
        for r in rows: print(seed, r['row'], f"{r['clean']:.4f} {r['mce']:.4f} {r['cpu_s']} s", flush=True)
    table(a.data if a.what == 'table' else a.out)

if __name__ == '__main__': main()
