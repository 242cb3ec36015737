"""How far a small network of clips is fooled within a budget of questions: AstFocus' agents beside every control.
`python video_attack.py moving --out FOLDER` runs what the folder lacks (a file for each seed and step) and prints the
tables and the bars; `share` measures how much of the time an attack on r3d_18 spends in the network; `--quick` is a
minute's run that shows that all of it works. Clips, victim and attack are drawn anew for each seed; the victim is
trained with label smoothing .1. The step of the agents, of random masks and of dense NES is the best of four on the
other seeds, so none is chosen on the clips that it is judged by; centre box and motion mask, which use most of their
budget whatever the step, have the first."""
import argparse, random, sys, time, warnings
from pathlib import Path
import numpy as np, pandas as pd
import torch
from fastai.callback import schedule   # noqa: F401 (gives Learner its fit_one_cycle)
from fastai.losses import LabelSmoothingCrossEntropyFlat
from fastai.torch_core import set_seed
sys.path.insert(0, str(Path(__file__).parents[2]))
from fastrobust.metrics import wilson_interval
from fastrobust.systems.video.attack.astfocus import AstFocus
from fastrobust.systems.video.learner import video_learner
from fastrobust.systems.video.moving import moving_shapes_dls
from fastrobust.systems.video.networks import tiny_c3d
from fastrobust.systems.video.report import video_report
from fastrobust.systems.video.reportcontrols import BOUND, CENTRE, DENSE, MOTION, RANDOM, SIGN
from fastrobust.systems.video.reportrows import Watch

AGENTS = 'AstFocus'
STEPS = ('raw', .003),('raw', .01),('sign', .003),('sign', .01)
MASKED = [RANDOM, DENSE, CENTRE, MOTION]
SWEPT = [RANDOM, DENSE]
EPS,BUDGET = .05,3000
NOISE = 500     # draws of sign noise, one question each; other rows have the whole budget
quick = False

# --- a seed ----------------------------------------------------------------------------------------------------------
def victim(seed):
    "`tiny_c3d`, 12 epochs on moving shapes of its own"
    set_seed(seed)
    dls = moving_shapes_dls(n=240 if quick else 600, seed=seed, device='cpu')
    for dl in dls.loaders: dl.rng = random.Random(seed)     # fastai's loaders shuffle by a stream of their own
    learn = video_learner(dls, tiny_c3d, loss_func=LabelSmoothingCrossEntropyFlat(eps=.1))
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(12, 5e-3)
    return learn

def one_step(learn, seed, step, alpha, n, budget, first):
    "A line for each attack and clip; the rows without a step only with the first"
    attack = AstFocus(eps=EPS, alpha=alpha, step=step, budget=budget, seed=seed)
    controls = [*MASKED, SIGN, BOUND] if first else SWEPT
    with learn.no_bar(): rep = video_report(learn, attack, n, controls=controls,
                                            noise=min(NOISE, budget-1), seed=seed)
    print(rep, flush=True)
    d = rep.each
    d['in_victim'] = d.attack.map(rep.table.in_victim)
    return d.assign(seed=seed, step=step, alpha=alpha, accuracy=rep.summary.accuracy)

def moving(seeds, steps, n, budget, out):
    "All seeds and steps, each kept in a file as soon as it is there"
    out.mkdir(parents=True, exist_ok=True)
    found = []
    for seed in seeds:
        learn = None
        for step,alpha in steps:
            file = out/f'seed{seed}_{step}_{alpha:g}_n{n}_{budget}.csv'
            if not file.exists():
                start = time.perf_counter()
                learn = learn or victim(seed)
                d = one_step(learn, seed, step, alpha, n, budget, (step, alpha) == steps[0])
                d.to_csv(file, index=False)
                print(f'{file.name}: {time.perf_counter()-start:.0f} s', flush=True)
            found.append(pd.read_csv(file))
    return pd.concat(found, ignore_index=True)

# --- numbers ---------------------------------------------------------------------------------------------------------
def over_seeds(values, seeds):
    "Mean of the seeds' means and its standard error over clips; NaN left out"
    d = pd.DataFrame(dict(v=np.asarray(values, dtype=float), seed=np.asarray(seeds))).dropna()
    if not len(d): return np.nan,np.nan
    g = d.groupby('seed').v
    var = (g.var(ddof=1)/g.size()).sum(skipna=False)
    return g.mean().mean(),np.sqrt(var)/g.ngroups

def cell(mean, se, digits=2, sign=''):
    if np.isnan(mean): return ''
    return f'{mean:{sign},.{digits}f}' + ('' if np.isnan(se) else f' ± {se:,.{digits}f}')

def line(name, d):
    "A row of the table"
    ok = d[d.success]
    asks = name != BOUND
    low,high = wilson_interval(d.success.mean(), len(d))
    yield name
    yield f'{d.success.mean():.3f} [{low:.2f}, {high:.2f}]'
    yield ' '.join(f'{v:.2f}' for v in d.groupby('seed').success.mean())
    yield cell(*over_seeds(d.queries, d.seed), 0) if asks else ''
    yield cell(*over_seeds(ok.queries, ok.seed), 0) if asks else ''
    yield cell(*over_seeds(d.change, d.seed))
    yield cell(*over_seeds(ok.change, ok.seed))
    yield cell(*over_seeds(d.area, d.seed), 3)
    yield f'{d.touched.mean():.3f}'
    yield f'{d.ssim.mean():.3f}'
    yield f'{d.seconds.mean():.2f}'
    yield '' if np.isnan(d.in_victim.mean()) else f'{d.in_victim.mean():.2f}'

HEAD = ['row', 'fooled', 'seeds', 'queries', 'of fooled', 'change', 'of fooled', 'area', 'touched', 'ssim', 'seconds',
        'in victim']

def table(runs, title, names):
    "In markdown"
    print(f'\n{title}\n\n| '+' | '.join(HEAD)+' |\n'+'|---'*len(HEAD)+'|')
    for name in names:
        d = runs[runs.attack == name]
        if len(d): print('| '+' | '.join(line(name, d))+' |')

def differences(runs, other):
    "Agents - `other`, paired by clip: of fooled, queries, change where both fooled; and the ratio of change at success"
    a,b = (runs[runs.attack == o].set_index(['seed', 'item']) for o in (AGENTS, other))
    a,b = a.align(b, join='inner', axis=0)
    seeds = a.index.get_level_values('seed')
    both = a.success & b.success
    d = dict(fooled=over_seeds(a.success.astype(float)-b.success, seeds),
             queries=over_seeds(a.queries-b.queries, seeds),
             change=over_seeds((a.change-b.change)[both], seeds[both]))
    d['ratio'] = a.change[a.success].mean()/b.change[b.success].mean()
    d['ratio_both'] = a.change[both].mean()/b.change[both].mean()
    return d

def bars(runs, title):
    "Whether the agents hold what was asked of them, at steps as they are in `runs`"
    r,d = differences(runs, RANDOM),differences(runs, DENSE)
    holds = lambda ok: 'holds' if ok else 'FAILS'
    f,q = r['fooled'],r['queries']
    print(f"\n{title}\n- not worse than random masks by more than 2 SE: fooled {cell(*f, 3, '+')}, queries "
          f"{cell(*q, 0, '+')}: {holds(f[0] >= -2*f[1] and q[0] <= 2*q[1])}")
    print(f"- change at success <= .8 of dense NES: {d['ratio']:.2f} (where both fooled: {d['ratio_both']:.2f}, "
          f"difference {cell(*d['change'], 2, '+')}): {holds(d['ratio'] <= .8)}")
    says = 'yes' if q[0] < -2*q[1] else 'no, more' if q[0] > 2*q[1] else 'no difference beyond 2 SE'
    print(f"- fewer queries than random masks? {says} ({cell(*q, 0, '+')}; change where both fooled "
          f"{cell(*r['change'], 2, '+')})")
    q = d['queries']
    says = 'yes' if q[0] < -2*q[1] else 'no, more' if q[0] > 2*q[1] else 'no difference beyond 2 SE'
    print(f"- fewer queries than dense NES? {says} ({cell(*q, 0, '+')}; fooled {cell(*d['fooled'], 3, '+')})")

def tuned(runs):
    "Of each row and seed, the lines with the step that fools most on the other seeds (of these, with fewest queries)"
    parts,told = [],[]
    for name in [AGENTS, *MASKED]:
        mine = runs[runs.attack == name]
        for seed in sorted(mine.seed.unique()):
            others = mine[mine.seed != seed]
            if not len(others): others = mine
            score = others.groupby(['step', 'alpha']).agg(fooled=('success', 'mean'), queries=('queries', 'mean'))
            step,alpha = score.sort_values(['fooled', 'queries'], ascending=[False, True]).index[0]
            parts.append(mine[(mine.seed == seed) & (mine.step == step) & (mine.alpha == alpha)])
            told.append(f'{name} seed {seed}: {step} {alpha:g}')
    return pd.concat(parts, ignore_index=True),told

def tell(runs):
    "Every row of every step, the rows with their best steps, and the bars"
    names = list(dict.fromkeys(runs.attack))
    for (step,alpha),d in runs.groupby(['step', 'alpha'], sort=False):
        table(d, f'**{step} {alpha:g}**', names)
        bars(d, f'{step} {alpha:g}:')
    best,told = tuned(runs)
    where = 'on the other seeds' if runs.seed.nunique() > 1 else 'on these clips themselves, as there is one seed'
    table(best, f'**each with its best step {where}**', names)
    print('\n'+'; '.join(told))
    bars(best, 'best steps:')
    most = runs[runs.attack != BOUND].queries.max()
    print(f'\nclean accuracy {", ".join(f"{v:.3f}" for v in runs.groupby("seed").accuracy.first())}; most queries of a '
          f'clip {most:,.0f} (budget {BUDGET if not quick else QUICK_BUDGET:,})')

QUICK_BUDGET = 400

# --- share of the time -----------------------------------------------------------------------------------------------
def share(steps=2):
    "AstFocus on r3d_18 with random weights, clips of 16 x 112 x 112: the victim's share of the time"
    from torchvision.models.video import r3d_18
    set_seed(0)
    net = r3d_18(weights=None).eval()
    t,size,n = (8, 48, 20) if quick else (16, 112, 60)
    clip = torch.rand(1, 3, t, size, size)
    with torch.no_grad(): y = net(clip).argmax(1)
    for policy in ('tabular', 'recurrent'):
        # so near that the answer stays, and every step is taken
        attack = AstFocus(eps=1e-4, alpha=1e-4, n=n, budget=1 + steps*(n+1), policy=policy)
        watch = Watch(net)
        start = time.perf_counter()
        with watch.running(): res = attack.attack(net, clip, y)
        whole = time.perf_counter()-start
        if res.queries[0] != attack.budget: print(f'ended early: {res.ends[0]}')
        print(f'{policy}: {watch.seconds:.1f} of {whole:.1f} s in r3d_18 {t}x{size}x{size}, {int(res.queries[0])} '
              f'queries: {watch.seconds/whole:.3f} (bar .9)', flush=True)

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('what', choices=['moving', 'share'], nargs='?', default='moving')
    p.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    p.add_argument('--out', type=Path, default=Path('video_runs'))
    p.add_argument('--quick', action='store_true')
    a = p.parse_args()
    warnings.filterwarnings('ignore')
    torch.set_num_threads(1)
    quick = a.quick
    if a.what == 'share': share()
    elif quick: tell(moving(a.seeds[:2], STEPS[1:4:2], 8, QUICK_BUDGET, a.out/'quick'))
    else: tell(moving(a.seeds, STEPS, 64, BUDGET, a.out))
