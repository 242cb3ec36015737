"The published setting of ACIL on CIFAR-100: ResNet-32, 50 classes trained for 300 epochs, the other 50 in phases"
# python nbs/examples/acil_cifar100.py --phases 25
# The settings are those of the README of the authors' code (https://github.com/ZHUANGHP/Analytic-continual-learning):
# SGD, learning rate .5 after a warm-up of 10 epochs, cosine to 1e-6, momentum .9, weight decay 5e-4, batches of 256,
# TrivialAugmentWide; 8192 random features, gamma .1. It says 71.05 % on average and 63.38 % at the end, of 25 phases.
# For ImageNet with a ResNet-18: --m 16384, weight decay 5e-5, label smoothing .05. Needs a GPU and hours.
import argparse, sys
from functools import partial
from pathlib import Path
import numpy as np
from torch import nn
from torch.nn import functional as F
from torchvision import transforms as tv
from fastai.callback.schedule import ParamScheduler, SchedCos, SchedLin, combine_scheds
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.external import URLs, untar_data
from fastai.data.transforms import FuncSplitter, Normalize, get_image_files, parent_label
from fastai.metrics import accuracy
from fastai.optimizer import SGD
from fastai.torch_core import set_seed
from fastai.vision.augment import RandTransform
from fastai.vision.core import PILImage, cifar_stats
from fastai.vision.data import ImageBlock
sys.path.insert(0, str(Path(__file__).parents[2]))
from fastrobust.systems.acil.front import acil_learner

class Block(nn.Module):
    "Two convolutions and a shortcut without weights: every second pixel, zeros for the channels that are new"
    def __init__(self, i, o):
        super().__init__()
        self.stride,self.more = 1 if i == o else 2,o-i
        self.a,self.b = nn.Conv2d(i, o, 3, self.stride, 1, bias=False),nn.Conv2d(o, o, 3, 1, 1, bias=False)
        self.na,self.nb = nn.BatchNorm2d(o),nn.BatchNorm2d(o)

    def forward(self, x):
        y = self.nb(self.b(F.relu(self.na(self.a(x)))))
        x = x[..., ::self.stride, ::self.stride]
        return F.relu(y + F.pad(x, (0, 0, 0, 0, self.more//2, self.more-self.more//2)))

def cifar_resnet(depth=32):
    "The ResNet of He et al. for 32 px (https://arxiv.org/abs/1512.03385, section 4.2): 64 features"
    n = (depth-2)//6
    widths = [16]*n + [32]*n + [64]*n
    blocks = [Block(i, o) for i,o in zip([16]+widths, widths)]
    stem = nn.Conv2d(3, 16, 3, 1, 1, bias=False),nn.BatchNorm2d(16),nn.ReLU()
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 100))

class Trivial(RandTransform):
    "Crop after padding, flip, TrivialAugmentWide: in training only"
    def __init__(self, size=32, **kwargs):
        super().__init__(p=1., **kwargs)
        self.t = tv.Compose([tv.RandomCrop(size, 4), tv.RandomHorizontalFlip(), tv.TrivialAugmentWide()])
    def encodes(self, x:PILImage): return PILImage.create(np.asarray(self.t(x)))

def schedule(lr, epochs, warm=10):
    "Linear from lr/1000 over the first epochs, then a cosine to 1e-6"
    share = min(warm/epochs, .5)
    return ParamScheduler({'lr': combine_scheds([share, 1-share], [SchedLin(lr/1000, lr), SchedCos(lr, 1e-6)])})

def main(args=None):
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--path', type=Path, help='folder with train/ and test/; None: downloaded')
    p.add_argument('--phases', type=int, default=25)
    p.add_argument('--epochs', type=int, default=300)
    p.add_argument('--lr', type=float, default=.5)
    p.add_argument('--wd', type=float, default=5e-4)
    p.add_argument('--bs', type=int, default=256)
    p.add_argument('--m', type=int, default=8192)
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--out', default='acil-cifar100')
    a = p.parse_args(args)
    set_seed(a.seed)
    path = a.path or untar_data(URLs.CIFAR_100)
    block = DataBlock((ImageBlock, CategoryBlock), get_items=get_image_files, get_y=parent_label,
                      splitter=FuncSplitter(lambda f: 'test' in f.relative_to(path).parts),
                      item_tfms=Trivial(), batch_tfms=Normalize.from_stats(*cifar_stats))
    dls = block.dataloaders(path, bs=a.bs)
    learn = acil_learner(dls, cifar_resnet(), phases=a.phases, m=a.m, gamma=.1, standardise=False, seed=a.seed,
                         metrics=accuracy, wd=a.wd, opt_func=partial(SGD, mom=.9, decouple_wd=False))
    learn.fit(a.epochs, a.lr, cbs=schedule(a.lr, a.epochs))
    learn.fit_phases()
    rep = learn.phase_table()
    print(rep)
    rep.save(a.out)
    return rep

if __name__ == '__main__': main()
