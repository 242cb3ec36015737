"Two folders of yours: learn the classes of the first, export, load, learn those of the second without the first"
# python nbs/examples/new_classes_folder.py first_folder new_folder --arch resnet18
# Each folder holds one folder of images for each class. The body is pretrained (downloaded once) and stays as it is;
# its head is solved in one pass over the images. Offline, a body that learns the first folder's classes from nothing:
# .. --no-pretrained --epochs 20
import argparse, sys, warnings
from pathlib import Path
import pandas as pd
import torchvision.models
from fastai.callback import schedule    # noqa: F401 (gives Learner its fit_one_cycle and fine_tune)
from fastai.learner import load_learner
from fastai.metrics import accuracy
from fastai.torch_core import default_device, set_seed
from fastai.vision.augment import Resize, aug_transforms
from fastai.vision.data import ImageDataLoaders
sys.path.insert(0, str(Path(__file__).parents[2]))
from fastrobust.systems.acil.front import acil_learner

def loaders(o, path):
    "Training and held-out images of class folders; augmented in training only, and never while a head is solved"
    tfms = aug_transforms(size=o.size, min_scale=.75) if o.epochs else []
    return ImageDataLoaders.from_folder(path, valid_pct=o.valid, seed=0, item_tfms=Resize(o.size), batch_tfms=tfms,
                                        bs=o.bs, num_workers=o.workers)

def first_classes(o):
    "A learner of the first folder, exported; its held-out files"
    dls = loaders(o, o.first)
    arch = getattr(torchvision.models, o.arch, o.arch)      # else a name of timm's
    learn = acil_learner(dls, arch, phases=o.phases, m=o.m, pretrained=o.pretrained, balance=o.balance,
                         metrics=accuracy)
    learn.fit_base(o.epochs, o.lr)
    learn.fit_phases()
    print(f'\n{learn.phase_table()}\n')
    learn.export(o.out.absolute())
    print(f'{o.out}: {o.out.stat().st_size/2**20:.1f} MiB, no image in it')
    return list(dls.valid.items)

def new_classes(o):
    "The exported learner, grown by the second folder; its held-out files"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)        # a pickle is code: this one is ours
        learn = load_learner(o.out, cpu=default_device().type == 'cpu')
    dls = loaders(o, o.new)
    # with nothing held out it is learn.add_classes(o.new)
    learn.add_classes(dls, o.new.name)
    learn.export(o.out.absolute())
    return learn,list(dls.valid.items)

def recognised(learn, files):
    "A row a held-out file: its class, what is said of it, how sure"
    probs = learn.get_preds(dl=learn.dls.test_dl(files))[0]
    p,code = probs.max(1)
    said = [learn.dls.vocab[k] for k in code]
    return pd.DataFrame(dict(file=[f.name for f in files], true=[f.parent.name for f in files], said=said, p=p.numpy()))

def by_class(learn, rows):
    "A row a class in the order of their coming: images learned from, held out, recognised"
    head,vocab = learn.model.head,list(learn.dls.vocab)
    n = {vocab[k]: int(v) for k,v in zip(head.classes, head.stats.counts)}
    right = (rows.said == rows.true).groupby(rows.true)
    t = pd.DataFrame(dict(learned=n, held_out=right.size(), recognised=right.mean()), index=vocab)
    return t.fillna(dict(learned=0, held_out=0)).astype(dict(learned=int, held_out=int)).rename_axis('class')

def main(args=None):
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('first', type=Path, help='folder of class folders, learned first')
    p.add_argument('new', type=Path, help='folder of class folders, learned later; new classes, or more of old ones')
    p.add_argument('--arch', default='resnet18', help='a function of torchvision.models, or a name of timm')
    p.add_argument('--no-pretrained', dest='pretrained', action='store_false', help='random weights; give --epochs')
    p.add_argument('--epochs', type=int, default=0, help='of training of the body on the first folder (0: none)')
    p.add_argument('--lr', type=float, default=1e-3)
    p.add_argument('--phases', type=int, default=0, help='learn half of the first folder, the rest in so many phases')
    p.add_argument('--m', type=int, default=2048, help='random features')
    p.add_argument('--balance', action='store_true', help='each class as much as every other; memory 8 c m^2 bytes')
    p.add_argument('--size', type=int, default=224, help='pixels')
    p.add_argument('--valid', type=float, default=.2, help='share of each folder that is held out')
    p.add_argument('--bs', type=int, default=64)
    p.add_argument('--workers', type=int, default=4)
    p.add_argument('--show', type=int, default=6, help='held-out files to print, half of them of the new folder')
    p.add_argument('--out', type=Path, default=Path('classes.pkl'), help='where the learner is exported')
    o = p.parse_args(args)
    set_seed(0)
    old = first_classes(o)
    learn,new = new_classes(o)
    rows = recognised(learn, old+new)
    half = o.show//2
    some = pd.concat([rows[:len(old)].head(half), rows[len(old):].head(o.show-half)])
    print('\n' + some.to_string(index=False, float_format='{:.2f}'.format))
    table = by_class(learn, rows)
    print('\n' + table.to_string(float_format='{:.3f}'.format))
    print(f'\nall {len(rows)} held-out files: {(rows.said == rows.true).mean():.3f}')
    return table

if __name__ == '__main__': main()
