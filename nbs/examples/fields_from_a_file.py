"Fields of a file of yours: train Koopman's operator and Fourier's, report, export the better one, load it, predict"
# python nbs/examples/fields_from_a_file.py flow.h5 --key u --axes 'n t y x' --t_in 4 --t_out 10
# Histories: frames go in, the next ones come out. Pairs of fields, in one file: --key a --y_key u
# Formats: .npz .npy .mat .pt .h5 .nc .zarr. Without a file it makes one, of Burgers' equation. Sides that do not
# wrap: --no-periodic.
import argparse, sys, warnings
from pathlib import Path
import matplotlib; matplotlib.use('Agg')
import matplotlib.pyplot as plt, numpy as np, pandas as pd, torch
from fastai.callback import schedule    # noqa: F401 (gives Learner its fit_one_cycle)
from fastai.callback.progress import ProgressCallback       # noqa: F401 (gives Learner its no_bar)
from fastai.learner import load_learner
from fastai.torch_core import default_device, set_seed
sys.path.insert(0, str(Path(__file__).parents[2]))
from fastrobust.all import (FNO1d, FNO2d, KNO1d, KNO2d, burgers_data, field_dls, field_stress_report, koopman_learner,
                            open_fields, rel_l2, rollout_report)

def made(out):
    "A small file: 120 histories of 11 frames on 64 nodes"
    path = out/'burgers.npz'
    u = burgers_data(120, 64, nu=.02, frames=11, step=.05, fine=2, verbose=False)
    np.savez(path, u=u)
    return path

def loaders(o):
    given = dict(key=o.key, axes=o.axes, sub=o.sub, valid=o.valid, periodic=o.periodic, bs=o.bs, path=o.out)
    if o.y_key: return field_dls(o.file, y_key=o.y_key, **given)
    return field_dls(o.file, t_in=o.t_in, t_out=o.t_out, every=o.every, **given)

def models(dls):
    "Both operators for these fields; as many waves as the grid carries, and no more than usual"
    n,c = dls.t_in*dls.n_vars,dls.n_vars
    if dls.pair: c = len(dls.y_scale[0])*dls.t_out
    most = min(dls.grid)//2
    if len(dls.grid) == 1: return {'KNO': KNO1d(max(n, c), m=min(16, most)), 'FNO': FNO1d(n, m=min(14, most), t_out=c)}
    return {'KNO': KNO2d(max(n, c), m=min(8, most)), 'FNO': FNO2d(n, width=8, m=min(8, most), t_out=c, hidden=32)}

def held_out(dls):
    "Fields that are held out, (n,t_in,c,*grid), and their targets (n,t_out,c,*grid)"
    x,y = (torch.cat([b[i].cpu() for b in dls.valid]).as_subclass(torch.Tensor) for i in (0, -1))
    c = len(dls.y_scale[0]) if dls.pair else dls.n_vars
    return x.unflatten(1, (-1, dls.n_vars)),y.unflatten(1, (-1, c))

def errors(learners, x, y):
    "Relative L2 of the held-out targets, all frames together, and the number of parameters"
    rows = {}
    for name,learn in learners.items():
        with learn.no_bar(): p = learn.get_preds()[0]
        n = sum(p.numel() for p in learn.model.parameters())
        rows[name] = {'relative L2': rel_l2(p, y.flatten(1, 2)).item(), 'parameters': f'{n:,}'}
    if x.shape[2:] == y.shape[2:]:
        rows['persistence'] = {'relative L2': rel_l2(x[:, -1:].expand_as(y), y).item(), 'parameters': ''}
    return pd.DataFrame(rows).T.astype({'relative L2': float})

def reports(learners, dls, x, y, out):
    "Tables to read, and tables and pictures in the folder"
    if not dls.pair and dls.t_out > 1:
        run = rollout_report(learners, x, y)
        print(f'\n{run}')
        run.save(out)
    stress = field_stress_report(learners, x, y, noise=(.1, .3), dropped=(.25,), coarser=None)
    print(f'\n{stress}')
    stress.save(out)

def main(args=None):
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('file', type=Path, nargs='?', help='of fields; none: one is made')
    p.add_argument('--key', help='variable (none: the only one)')
    p.add_argument('--y_key', help='variable of the targets, where the file has pairs')
    p.add_argument('--axes', help="their order in the file, such as 'n y x t' (none: by name, or n t y x)")
    p.add_argument('--t_in', type=int, default=1, help='frames that are seen')
    p.add_argument('--t_out', type=int, default=5, help='frames to give, by rolling out')
    p.add_argument('--every', type=int, default=2, help='a window of t_in + t_out frames begins at every so many-th')
    p.add_argument('--sub', type=int, default=1, help='every so many-th node')
    p.add_argument('--valid', type=float, default=.2, help='share of the histories that is held out')
    p.add_argument('--no-periodic', dest='periodic', action='store_false', help='sides that do not wrap')
    p.add_argument('--epochs', type=int, default=15)
    p.add_argument('--lr', type=float, default=5e-3)
    p.add_argument('--bs', type=int, default=20)
    p.add_argument('--out', type=Path, default=Path('fields'), help='folder for tables, pictures and the learner')
    o = p.parse_args(args)
    o.out.mkdir(parents=True, exist_ok=True)
    set_seed(0)
    if o.file is None: o.file = made(o.out)
    print(open_fields(o.file, o.key, o.axes))
    dls = loaders(o)
    x,y = held_out(dls)
    learners = {}
    for name,net in models(dls).items():
        set_seed(0)
        learners[name] = koopman_learner(dls, net)
        print(f'\n{name}: epoch, loss, held-out loss, held-out relative L2, time')
        with learners[name].no_bar(): learners[name].fit_one_cycle(o.epochs, o.lr)
    table = errors(learners, x, y)
    shown = table.to_string(float_format='{:.4f}'.format)
    print(f'\n{len(x)} held-out items\n{shown}')
    with learners['KNO'].no_bar(): reports(learners, dls, x, y, o.out)

    best = min(learners, key=lambda k: table.loc[k, 'relative L2'])
    learn,file = learners[best],(o.out/'operator.pkl').absolute()
    with learn.no_bar(): learn.show_results(max_n=3)
    plt.gcf().savefig(o.out/'results.png', dpi=110)
    learn.export(file)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)        # a pickle is code: this one is ours
        again = load_learner(file, cpu=default_device().type == 'cpu')
    # on another machine: new fields, a predicted frame for each; no target is needed
    with again.no_bar(): new = again.get_preds(dl=again.dls.test_dl(x[:4]))[0]
    print(f'\n{best} exported as {file.name}, {file.stat().st_size/1000:.0f} kB; loaded again, of the first held-out '
          f'fields it gives {tuple(new.shape)}: relative L2 {rel_l2(new, y[:4].flatten(1, 2)):.4f}')
    print(f'tables and pictures in {o.out}: {", ".join(sorted(f.name for f in o.out.glob("*.png")))}')
    return table

if __name__ == '__main__': main()
