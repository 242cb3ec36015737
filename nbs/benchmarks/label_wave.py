"""Label Wave: does the first minimum of the prediction changes find the epoch to stop at, and is stopping enough?

    python nbs/benchmarks/label_wave.py --csv FILE [--seeds 0 1 2 3 4] [--only clean s20 ..] [--images 5000]

Embedded Fashion-MNIST, small_cnn; CIFAR-10N (FASTROBUST_DATA or ../shared/data), the CNN of noise_rate.py, flips,
three seeds. One training of 20 epochs at a constant rate, 1e-3, fastai's default, is read at several epochs: at that of
`LabelWave()`, at the last, at a fixed one, at the best by the test images. Beside it the recipe and plain cross-entropy
over one cycle of the epochs that Label Wave saw before it stopped, both at 3e-3. A run is a line of the CSV file, so an
interrupted benchmark goes on from there. Prints Markdown. k, patience, rate and fixed epoch were chosen on seeds 10-12
of Fashion-MNIST, 3,200 images to train on and the true labels of the other 800 to judge by."""
import argparse, csv, sys, time
from pathlib import Path
import numpy as np
sys.path.insert(0, str(Path(__file__).parents[2]))
from fastai.callback import schedule     # noqa: F401 (Learner.fit_one_cycle)
from fastai.callback.core import Callback
from fastai.imports import noop
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.torch_core import set_seed
from fastai.vision.augment import Flip
from fastrobust.data.fromarrays import array_dls
from fastrobust.labels.labelwave import LabelWave
from fastrobust.learner import robust_learner
from fastrobust.nets import small_cnn
from fastrobust.noise.laws import NoisyLabels
from fastrobust.recipes import RECIPES
from fastrobust.samples import sample_data
from closed_form import append
from noise_rate import FASHION, HUMAN, PACKS, cifar_cnn

SETTINGS = ['s40', 's20', 'inst30', 'clean', 'c10-worse', 'c10-aggre']
TITLES = {'s40': 'Fashion-MNIST, symmetric .4', 's20': 'Fashion-MNIST, symmetric .2',
          'inst30': 'Fashion-MNIST, instance .3', 'clean': 'Fashion-MNIST, right labels',
          'c10-worse': "CIFAR-10N 'worse'", 'c10-aggre': "CIFAR-10N 'aggre'"}
EPOCHS,RATE,PEAK,FIXED = 20,1e-3,3e-3,4
WAVE,LAST,ORACLE = 'Label Wave','flat, to the end','flat, oracle best'
RECIPE,CYCLE,GUESS = 'recipe noisy_labels','one-cycle, as many epochs as Label Wave saw',f'flat, {FIXED} epochs'
ROWS = [WAVE, LAST, GUESS, ORACLE, RECIPE, CYCLE]

def arrays(setting, seed, n):
    "Images, given labels, share of wrong ones, test images and their labels"
    if setting in HUMAN:
        sys.path.insert(0, str(PACKS))
        import packs
        d = packs.cifar10()
        i = np.sort(np.random.default_rng([seed, 5]).permutation(50000)[:n])
        y,g = d['y'][i],d['human'][HUMAN[setting]][i]
        return d['x'][i],g,(g != y).mean(),d['xv'][:1000],d['yv'][:1000]
    X,y,Xv,yv,_ = sample_data('fashion')
    law = FASHION[setting]
    g = y if law is None else NoisyLabels(*law, seed=seed).apply(y, 10, X=X).y_noisy
    return X,g,(g != y).mean(),Xv,yv

class Watch(Callback):
    "Test accuracy and seconds so far by epoch"
    order = 70
    def before_fit(self):
        if not self.learn.lock.locked(): self.start,self.accs,self.seconds = time.process_time(),[],[]
    def after_epoch(self):
        if self.learn.lock.locked(): return
        self.accs.append(float(self.recorder.values[-1][-1]))
        self.seconds.append(time.process_time()-self.start)

def learner(setting, seed, data, **kw):
    "The same start and the same batches for all rows of a seed"
    X,g,_,Xv,yv = data
    set_seed(seed, reproducible=True)
    human = setting in HUMAN
    dls = array_dls(X, g, valid=(Xv, yv), bs=64, vocab=list(range(10)), batch_tfms=[Flip()] if human else None)
    set_seed(seed, reproducible=True)
    net = cifar_cnn() if human else small_cnn(10)
    learn = robust_learner(dls, net, metrics=accuracy, cbs=[w := Watch()], **kw)
    learn.remove_cb(learn.progress)
    learn.logger = noop
    return learn,w

def flat(setting, seed, data):
    "Rows of one training at a constant rate"
    learn,w = learner(setting, seed, data, loss_func=CrossEntropyLossFlat())
    learn.fit(EPOCHS, RATE, cbs=(lw := LabelWave(stop=False)))
    back = float(learn.validate()[1])
    assert abs(back - w.accs[lw.epoch]) < 1e-6, 'the weights put back are not those of the epoch'
    stopped = min(lw.epoch+lw.patience, EPOCHS-1) if lw.sure else EPOCHS-1
    best = int(np.argmax(w.accs))
    at = {WAVE: (lw.epoch, stopped), LAST: (EPOCHS-1, EPOCHS-1), GUESS: (FIXED-1, FIXED-1), ORACLE: (best, EPOCHS-1)}
    rows = [dict(row=k, acc=w.accs[e], epoch=e, epochs=n+1, seconds=w.seconds[n]) for k,(e,n) in at.items()]
    rows[0].update(confirmed=lw.sure, accs=spaced(w.accs), changes=spaced(lw.changes))
    return rows,stopped+1

def spaced(v): return ' '.join(f'{o:.4f}' for o in v)

def cycle(setting, seed, data, row, epochs, **kw):
    learn,w = learner(setting, seed, data, **kw)
    learn.fit_one_cycle(epochs, PEAK)
    return dict(row=row, acc=w.accs[-1], epoch=epochs-1, epochs=epochs, seconds=w.seconds[-1])

def run(setting, seed, n):
    data = arrays(setting, seed, n)
    rows,stopped = flat(setting, seed, data)
    rows.append(cycle(setting, seed, data, RECIPE, RECIPES['noisy_labels'].epochs, recipe='noisy_labels'))
    rows.append(cycle(setting, seed, data, CYCLE, stopped, loss_func=CrossEntropyLossFlat()))
    return [dict(setting=setting, seed=seed, wrong=data[2], **r) for r in rows]

FIELDS = 'setting seed wrong row acc epoch epochs seconds confirmed accs changes'.split()

def finished(file):
    if not file.exists(): return []
    with file.open() as f: return list(csv.DictReader(f))

def mean_se(v):
    v = np.asarray(v, float)
    se = v.std(ddof=1)/len(v)**.5 if len(v) > 1 else np.nan
    return v.mean(),se

def markdown(rows):
    "A table for each setting; differences paired by seed"
    for st in SETTINGS:
        mine = [r for r in rows if r['setting'] == st]
        if not mine: continue
        by = {k: {r['seed']: r for r in mine if r['row'] == k} for k in ROWS}
        seeds = list(by[WAVE])
        wrong = np.mean([float(r['wrong']) for r in mine])
        yield f'\n**{TITLES[st]}**, {wrong:.3f} wrong, {len(seeds)} seeds\n'
        yield '| row | accuracy | Label Wave − row | epoch kept | epochs trained | seconds |\n|---|---|---|---|---|---|'
        for k in ROWS:
            a = [float(by[k][s]['acc']) for s in seeds]
            d = [float(by[WAVE][s]['acc'])-v for s,v in zip(seeds, a)]
            diff = '' if k == WAVE else '{:+.3f} ± {:.3f}'.format(*mean_se(d))
            kept = [1+int(by[k][s]['epoch']) for s in seeds]
            kept = str(kept[0]) if len(set(kept)) == 1 else ', '.join(map(str, kept))
            n,sec = (np.mean([float(by[k][s][o]) for s in seeds]) for o in ('epochs', 'seconds'))
            yield '| {} | {:.3f} ± {:.3f} | {} | {} | {:.1f} | {:.0f} |'.format(k, *mean_se(a), diff, kept, n, sec)
        sure = sum(by[WAVE][s]['confirmed'] == 'True' for s in seeds)
        yield f'\nminimum confirmed in {sure} of {len(seeds)} runs'

def main():
    ap = argparse.ArgumentParser()
    ap.add_argument('--csv', type=Path, required=True)
    ap.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2, 3, 4])
    ap.add_argument('--only', nargs='+', default=SETTINGS, choices=SETTINGS)
    ap.add_argument('--images', type=int, default=5000, help='of CIFAR-10')
    ap.add_argument('--cached', action='store_true', help='only what is in the file; train nothing')
    a = ap.parse_args()
    done = {(r['setting'], int(r['seed'])) for r in finished(a.csv)}
    for st in a.only:
        for seed in a.seeds[:3] if st in HUMAN else a.seeds:
            if a.cached or (st, seed) in done: continue
            append(a.csv, *run(st, seed, a.images), fields=FIELDS)
            print(st, seed, 'done', file=sys.stderr, flush=True)
    print('\n'.join(markdown(finished(a.csv))))

if __name__ == '__main__': main()
