"""Ways to a small vision transformer, `tinymim_study` on digits and on CIFAR-10, and what a step of TinyMIM costs.
`python tinymim.py digits --out FOLDER` runs the seeds that the folder lacks and prints the tables; `cifar10`; `cost`;
`--quick` is a minute's run that shows that all of it works. Images, teacher and start are drawn anew for each seed; no
setting was chosen on the test images: rate and epochs of the fine-tuning are those at which 'scratch' does best on
held-out training images of digits."""
import argparse, os, pickle, random, sys, time, warnings
from functools import lru_cache
from pathlib import Path
import numpy as np
import torch
from torch.nn import functional as F
from fastai.callback import schedule   # noqa: F401 (gives Learner its fit_one_cycle)
from fastai.torch_core import set_seed
sys.path.insert(0, str(Path(__file__).parents[2]))
from fastrobust.compare.mimreport import TEACHER
from fastrobust.compare.mimstudy import tinymim_study
from fastrobust.data.fromarrays import array_dls
from fastrobust.systems.tinymim.learner import tinymim_learner
from fastrobust.systems.tinymim.mimic import TinyMIM
from fastrobust.systems.tinymim.tinyvit import tiny_vit

ROWS = 'scratch','mae','feature','class','relation','relation:block=3','sequential'
DATA = Path(os.environ.get('FASTROBUST_DATA', Path(__file__).parents[3]/'shared'/'data'))
quick = False

# --- data and teachers -----------------------------------------------------------------------------------------------
@lru_cache(None)
def digits(seed):
    "1,297 training and 500 test digits, uint8 8x8; without `quick` all of them"
    from sklearn.datasets import load_digits
    d = load_digits()
    X,y = np.round(d.images*255/16).astype(np.uint8),d.target
    p = np.random.RandomState(seed).permutation(len(y))
    a,b = (p[:300], p[300:500]) if quick else (p[:1297], p[1297:])
    return array_dls(X[a], y[a], valid=(X[b], y[b]), bs=64, device='cpu')

@lru_cache(None)
def _cifar():
    sys.path.insert(0, str(DATA))
    import packs
    return packs.cifar10()

@lru_cache(None)
def cifar10(seed):
    "2,000 training and 2,000 test images, uint8 32x32x3"
    d,rng = _cifar(),np.random.RandomState(seed)
    n = 300 if quick else 2000
    a,b = rng.permutation(len(d['y']))[:n],rng.permutation(len(d['yv']))[:n]
    return array_dls(d['x'][a], d['y'][a], valid=(d['xv'][b], d['yv'][b]), bs=64, device='cpu')

def unknown_drawings(size):
    "1,000 QuickDraw drawings, shrunk: of no class of digits"
    sys.path.insert(0, str(DATA))
    import packs
    x = torch.tensor(packs.embedded()['ood'][..., 0]).float()[:, None]
    return F.interpolate(x, size, mode='bilinear', antialias=True)[:, 0].round().byte().numpy()

def unknown_images():
    "1,000 images of Tiny-ImageNet, of other classes than CIFAR-10's"
    sys.path.insert(0, str(DATA))
    import packs
    return packs.aux()['ood'][:1000]

def teacher_by_mae(dls, seed, size, patch, channels):
    "64-d, 4 blocks, 4 heads, 60 epochs of MAE on the images of `dls`"
    set_seed(seed)
    for dl in dls.loaders: dl.rng = random.Random(seed)     # fastai's loaders shuffle by a stream of their own
    net = tiny_vit(size, patch, 64, 4, 4, channels)
    learn = tinymim_learner(dls, net, technique='mae')
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(2 if quick else 60, 2e-3)
    return learn.student

# --- studies ---------------------------------------------------------------------------------------------------------
SETS = {'digits': dict(dls=digits, size=8, patch=2, channels=1, seeds=5, unknown=lambda: unknown_drawings(8)),
        'cifar10': dict(dls=cifar10, size=32, patch=4, channels=3, seeds=3, unknown=unknown_images)}

def one_seed(name, seed, rows, labels, robust):
    "The study with one seed"
    s = SETS[name]
    teacher = lambda seed: teacher_by_mae(s['dls'](seed), seed, s['size'], s['patch'], s['channels'])
    kw = dict(robustness=dict(severities=(1, 3, 5)), unknown=s['unknown']()) if robust else {}
    if quick: kw.update(epochs=2, tune_epochs=5)
    return tinymim_study(s['dls'], teacher, rows, labels=labels, seeds=[seed], layer=['last', 'norm'], **kw)

def study(name, rows, labels, seeds, out, robust):
    "All seeds, each kept in a file as soon as it is there"
    out.mkdir(parents=True, exist_ok=True)
    found = []
    for seed in seeds:
        file = out/f'{name}_{seed}.pkl'
        if not file.exists(): file.write_bytes(pickle.dumps(one_seed(name, seed, rows, labels, robust)))
        found.append(pickle.loads(file.read_bytes()))
    rep = sum(found[1:], found[0])
    tell(rep)
    return rep

def cell(mean, se, sign=''):
    if np.isnan(mean): return ''
    return f'{mean:{sign}.3f}' if np.isnan(se) else f'{mean:{sign}.3f} ± {se:.3f}'

def tell(rep):
    "The table in markdown, and the bar"
    heads = [h for m in rep.measures for h in [m, *([f'{m} − mae'] if m.endswith('labels') else [])]]
    print('\n| row | '+' | '.join([*heads, 'loss', 'seconds'])+' |')
    print('|---'*(len(heads)+3)+'|')
    for row,r in rep.table.iterrows():
        cells = []
        for m in rep.measures:
            cells.append(cell(r[m], r[f'{m}_se']))
            if m.endswith('labels'): cells.append('' if row == TEACHER else cell(*rep.difference(m, row, 'mae'), '+'))
        loss = '' if np.isnan(r.loss_before) else f'{r.loss_before:.3f} → {r.loss_after:.3f}'
        print(f'| {row} | '+' | '.join([*cells, loss, '' if np.isnan(r.seconds) else f'{r.seconds:.0f}'])+' |')
    m = next((m for m in rep.measures if m.endswith('labels')), None)
    for row in rep.table.index:
        if not row.startswith('relation'): continue
        runs = rep.runs[rep.runs.row == row]
        falls = runs.loss_before/runs.loss_after
        print(f'\n{row}: KL falls by {falls.mean():.1f} times (least {falls.min():.1f}; bar 5)')
        for b in ('mae', 'scratch', 'feature'):
            if m is None or b not in rep.table.index: continue
            mean,se = rep.difference(m, row, b)
            print(f'{row} - {b}, {m}: {mean:+.3f} ± {se:.3f}, {mean/se:.1f} SE; bar against mae: +.050 and 2 SE')

# --- a step ----------------------------------------------------------------------------------------------------------
def step_cost(size, patch, channels, teacher, student, n=64, rounds=60):
    "Milliseconds (median) of the teacher's forward pass, of a step of the student alone, and of a step of TinyMIM"
    set_seed(0)
    X = np.random.default_rng(0).integers(0, 256, (n, size, size, channels), dtype=np.uint8)
    dls = array_dls(X, np.arange(n) % 2, valid=(X[:8], np.arange(8) % 2), bs=n, device='cpu')
    big,small = tiny_vit(size, patch, *teacher, channels),tiny_vit(size, patch, *student, channels)
    learn = tinymim_learner(dls, small, technique=TinyMIM(big.eval()))
    x = dls.one_batch()[0].as_subclass(torch.Tensor)
    alone = tiny_vit(size, patch, *student, channels)
    opt = torch.optim.AdamW(alone.parameters(), foreach=False)
    times = {k: [] for k in ('teacher', 'student', 'TinyMIM')}
    def clock(k, f):
        t = time.perf_counter()
        f()
        times[k].append(1e3*(time.perf_counter()-t))
    @torch.no_grad()
    def forward(): big(x)
    def step():
        alone(x).square().mean().backward()
        opt.step()
        opt.zero_grad()
    from fastai.callback.core import Callback
    class Clock(Callback):
        "Each step of TinyMIM between one of the others"
        def before_batch(self):
            if not self.training: return
            clock('teacher', forward)
            clock('student', step)
            self.t = time.perf_counter()
        def after_batch(self):
            if self.training: times['TinyMIM'].append(1e3*(time.perf_counter()-self.t))
    with learn.no_bar(), learn.no_logging(): learn.fit(5 if quick else rounds, cbs=Clock())
    m = {k: float(np.median(v[3:])) for k,v in times.items()}
    ratio = (np.array(times['TinyMIM'])/(np.array(times['teacher']) + 1.1*np.array(times['student'])))[3:]
    print(f"{size} px, patch {patch}, teacher {teacher}, student {student}: "
          + ', '.join(f'{k} {v:.1f} ms' for k,v in m.items())
          + f"; TinyMIM / (teacher + 1.1 student) = {np.median(ratio):.2f} (median of {len(ratio)} rounds; bar 1)")

def cost():
    step_cost(8, 2, 1, (64, 4, 4), (32, 2, 2))
    if quick: return
    step_cost(32, 4, 3, (64, 4, 4), (32, 2, 2))
    step_cost(32, 4, 3, (384, 12, 6), (192, 12, 3), rounds=12)      # ViT-S and ViT-T on 64 patches

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('what', choices=[*SETS, 'cost'])
    p.add_argument('--seeds', type=int, nargs='+', help='all of the protocol')
    p.add_argument('--rows', nargs='+', default=ROWS)
    p.add_argument('--labels', type=int, nargs='+', default=(100, 1000))
    p.add_argument('--out', type=Path, default=Path('tinymim_runs'))
    p.add_argument('--robust', action='store_true', help='corruptions, calibration and unknown images too')
    p.add_argument('--quick', action='store_true')
    a = p.parse_args()
    warnings.filterwarnings('ignore')
    torch.set_num_threads(1)
    quick = a.quick
    seeds = a.seeds or list(range(2 if quick else SETS.get(a.what, {}).get('seeds', 0)))
    if a.what == 'cost': cost()
    else: study(a.what, a.rows, [50] if quick else a.labels, seeds, a.out, a.robust)
