"A folder of videos as UCF101 is: train or load a network, its clean accuracy, how far it is fooled in a budget"
# For assessing the robustness of one's own models.
# python nbs/examples/attack_ucf101.py UCF-101 --arch r3d_18 --weights DEFAULT --epochs 10
# The lists (trainlist01.txt, testlist01.txt, classInd.txt) lie in the folder, in its ucfTrainTestlist, or beside it.
# --weights: 'DEFAULT' (Kinetics', downloaded), or a file with a state_dict. With as many outputs as there are classes
# it can be attacked as it is, `--epochs 0`; else its last layer is new, and must be trained.
# The network is kept in `--out` as soon as it is trained, and the report when it is finished (what Ctrl-C leaves of
# one, in 'unfinished'): the same line again goes on from there. Another attack on the same network: --report NAME.
# On any CPU in less than a minute, with a folder that it makes: --toy
import argparse, json, sys
from pathlib import Path
import matplotlib; matplotlib.use('Agg')
import pandas as pd, torch
from PIL import Image
from fastai.callback import schedule    # noqa: F401 (gives Learner its fit_one_cycle)
from fastai.torch_core import set_seed
sys.path.insert(0, str(Path(__file__).parents[2]))
from fastrobust.metrics import wilson_interval
from fastrobust.systems.video.attack.astfocus import AstFocus
from fastrobust.systems.video.learner import video_learner
from fastrobust.systems.video.loaders import video_dls
from fastrobust.systems.video.moving import moving_shapes
from fastrobust.systems.video.networks import tiny_c3d
from fastrobust.systems.video.report import video_report

RUN = 'folder','split','arch','weights','epochs','lr','n','span','size','toy'
MEASURE = 'clips','eps','alpha','step','samples','budget','seed'

# --- a folder to try it on -------------------------------------------------------------------------------------------
def toy_folder(root, a_class=32):
    "Moving shapes as folders of frames, named and listed as UCF101 names and lists its videos"
    names = 'GoRight','GoLeft','GoDown','GoUp'
    X,y = moving_shapes(len(names)*a_class, T=12, size=24, seed=0)
    lists:dict = dict(trainlist01=[], testlist01=[])
    for k,name in enumerate(names):
        for i,clip in enumerate(X[y == k]):
            stem = f'v_{name}_g{i//4 + 1:02}_c{i%4 + 1:02}'
            folder = root/'UCF-101'/name/stem
            folder.mkdir(parents=True, exist_ok=True)
            for j,frame in enumerate(clip): Image.fromarray(frame[..., 0]).save(folder/f'{j:02}.png')
            to = 'testlist01' if i < a_class//4 else 'trainlist01'
            lists[to].append(f'{name}/{stem}.avi {k+1}')
    at = root/'ucfTrainTestlist'
    at.mkdir(exist_ok=True)
    for name,rows in lists.items(): (at/f'{name}.txt').write_text('\n'.join(rows))
    (at/'classInd.txt').write_text('\n'.join(f'{k+1} {name}' for k,name in enumerate(names)))
    return root/'UCF-101'

# --- stop and go on --------------------------------------------------------------------------------------------------
def same_settings(o, path, names):
    "The settings that a folder was begun with; others there would be mixed up with them"
    other = '--out' if path.parent == o.out else '--report'
    mine = {k: str(getattr(o, k)) for k in names}
    if path.exists():
        theirs = json.loads(path.read_text())
        odd = [k for k in names if theirs.get(k) != mine[k]]
        if odd:
            k = odd[0]
            sys.exit(f'{path.parent} was begun with --{k} {theirs.get(k)}, this is --{k} {mine[k]}. Give the same, or '
                     f'another {other}.')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(mine))

# --- the victim ------------------------------------------------------------------------------------------------------
def loaders(o):
    "By UCF101's lists: no recording is on both sides"
    if o.toy: how = dict(n=8, rate=25, size=24)
    else: how = dict(n=o.n, span=o.span, size=o.size)
    return video_dls(o.folder, bs=o.bs, split=o.split, num_workers=o.workers, **how)

def victim(o, dls):
    "The network of the folder, or trained now"
    net = tiny_c3d if o.arch == 'tiny_c3d' else o.arch
    kept = o.out/'victim.pth'
    if kept.exists():
        print(f'network of {kept}')
        return video_learner(dls, net, weights=str(kept))
    learn = video_learner(dls, net, weights=o.weights)
    if o.epochs:
        print('epoch, loss, held-out loss, held-out accuracy, time')
        with learn.no_bar():
            if o.weights: learn.fine_tune(o.epochs, o.lr)
            else: learn.fit_one_cycle(o.epochs, o.lr)
    torch.save(learn.model.state_dict(), kept)
    return learn

def clean_accuracy(learn):
    "Of the test list, with its interval"
    with learn.no_bar(): p,y = learn.get_preds()
    right = (p.argmax(1) == y).float().mean().item()
    low,high = wilson_interval(right, len(y))
    print(f'\nclean accuracy {right:.3f} ({low:.3f} to {high:.3f}) on {len(y)} clips\n', flush=True)
    return right

# --- the attack ------------------------------------------------------------------------------------------------------
def measured(o, learn):
    "AstFocus with every control on the same clips; a report that is there is not made again"
    out = o.out/o.report
    if (out/'video.csv').exists():
        print(f'{out} is there')
        return
    attack = AstFocus(eps=o.eps, alpha=o.alpha, n=o.samples, budget=o.budget, seed=o.seed, step=o.step)
    try:
        with learn.no_bar(): rep = video_report(learn, attack, o.clips, noise=min(500, o.budget-1), seed=o.seed)
    except ValueError as e: sys.exit(str(e))    # such as: it is hardly ever right, so there is nothing to attack
    print(rep, '\n', flush=True)
    if rep.stopped: out = o.out/'unfinished'
    made = rep.save(out)
    print(f'in {out}: {", ".join(f.name for f in made)}')

def main(args=None):
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('folder', type=Path, nargs='?', help='of the videos; none: with --toy')
    p.add_argument('--out', type=Path, default=Path('attack_ucf101'), help='folder for network, tables, pictures')
    p.add_argument('--split', type=int, default=1, help="UCF101's lists, 1 to 3")
    p.add_argument('--arch', default='r3d_18', help="a name of torchvision.models.video, or 'tiny_c3d'")
    p.add_argument('--weights', help="'DEFAULT', or a file with a state_dict")
    p.add_argument('--epochs', type=int, default=10, help='to train; 0: attacked as it is')
    p.add_argument('--lr', type=float, default=1e-3)
    p.add_argument('--n', type=int, default=16, help='frames of a clip')
    p.add_argument('--span', type=float, default=2., help='seconds that they cover')
    p.add_argument('--size', type=int, default=112, help='pixels')
    p.add_argument('--bs', type=int, default=16)
    p.add_argument('--workers', type=int, default=2)
    p.add_argument('--clips', type=int, default=32, help='to attack')
    p.add_argument('--eps', type=float, default=.05, help='largest change of a pixel in [0,1]')
    p.add_argument('--alpha', type=float, default=.01, help='step')
    p.add_argument('--step', choices=('raw', 'sign'), default='raw')
    p.add_argument('--samples', type=int, default=60, help='questions of a step, even')
    p.add_argument('--budget', type=int, default=3000, help='questions a clip may cost')
    p.add_argument('--seed', type=int, default=0, help='of the draw of clips and of the attack')
    p.add_argument('--report', default='report', help='name of its folder in that of --out')
    p.add_argument('--toy', action='store_true', help='a tiny network on a folder that is made')
    o = p.parse_args(args)
    if o.folder is None and not o.toy: p.error('give the folder of the videos, or --toy')
    o.out.mkdir(parents=True, exist_ok=True)
    if o.toy:
        o.arch,o.weights,o.workers,o.lr,o.epochs = 'tiny_c3d',None,0,5e-3,20
        o.clips,o.samples,o.budget = 6,20,200
        o.folder = toy_folder(o.out/'toy')
    same_settings(o, o.out/'run.json', RUN)
    same_settings(o, o.out/o.report/'attack.json', MEASURE)
    set_seed(0)
    learn = victim(o, loaders(o))
    clean_accuracy(learn)
    measured(o, learn)
    path = o.out/o.report/'video.csv'
    return pd.read_csv(path) if path.exists() else None

if __name__ == '__main__': main()
