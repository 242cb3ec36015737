"Known data and sets of unknown images for the benchmarks of open sets; nothing here is trained on but what `aux` gives"
import os, sys
from functools import lru_cache
from pathlib import Path
import numpy as np
import torch
from torch import nn
from PIL import Image
from fastai.layers import ConvLayer, ResBlock
sys.path.insert(0, str(Path(__file__).parents[2]))
from fastrobust.all import OpenSet, aux_images, sample_data

@lru_cache(None)
def packs(what):
    "`cifar10` or `aux` of the shared data (its README has sizes and licences)"
    sys.path.insert(0, os.environ.get('FASTROBUST_DATA', str(Path(__file__).parents[3]/'shared'/'data')))
    import packs
    return getattr(packs, what)()

def _resized(x, n, side):
    "Grey images (k,h,w) scaled to `n` px in the middle of `side` px"
    a,b = (side-n)//2,side-n-(side-n)//2
    return np.pad(np.stack([np.asarray(Image.fromarray(o).resize((n, n), Image.BILINEAR)) for o in x]),
                  ((0, 0), (a, b), (a, b)))

def digits(side):
    "1,000 handwritten digits of scikit-learn, 8 px, enlarged"
    from sklearn.datasets import load_digits
    return _resized((load_digits().images[:1000]/16*255).round().astype(np.uint8), 20, side)

def _colour(x): return np.repeat(x[..., None], 3, -1)

def noise(side, channels):
    "The three noise sets of ODNL's code, 340 images each"
    return np.concatenate([aux_images(k, 340, side, channels, seed=7) for k in ('gaussian', 'rademacher', 'blob')])

def fashion():
    "X, y, Xv, yv of the embedded Fashion-MNIST and its four far unknowns, 500 to 1,200 images each"
    X,y,Xv,yv,_ = sample_data('fashion')
    _,_,Q,yq,vocab = sample_data('quickdraw')       # classes 5 to 9
    dtd = packs('aux')['textures'].mean(-1).round().astype(np.uint8)[:, 2:30, 2:30]
    un = {'quickdraw': OpenSet(Q, sorted({vocab[i] for i in yq})), 'digits': digits(28), 'textures (DTD)': dtd,
          'noise': noise(28, 1)}
    return X,y,Xv,yv,un

def fashion_aux():
    "500 drawings of QuickDraw's first five classes, and as many generated textures"
    Q,yq,*_,vocab = sample_data('quickdraw')
    return OpenSet(np.concatenate([Q, aux_images('textures', 500, 28, 1, seed=3)]),
                   sorted({vocab[i] for i in yq}) + ['generated texture'])

def cifar(seed, n=5000, n_test=1000):
    "A class-balanced draw of `n` CIFAR-10 training images, the first test images"
    d,g = packs('cifar10'),np.random.default_rng(seed)
    ids = np.concatenate([g.permutation(np.flatnonzero(d['y'] == k))[:n//10] for k in range(10)])
    return d['x'][ids],d['y'][ids],d['xv'][:n_test],d['yv'][:n_test]

def cifar_unknowns():
    "Unknowns for CIFAR-10 by name; the near ones are Tiny-ImageNet's 41 classes that neither CIFAR-10 nor aux has"
    a = packs('aux')
    return {'tin-41 (near)': OpenSet(a['ood'], ['tin-41']), 'textures (DTD)': a['textures'],
            'fashion': _colour(_resized(sample_data('fashion')[2], 28, 32)),
            'quickdraw': _colour(_resized(sample_data('quickdraw')[2], 28, 32)),
            'noise': noise(32, 3)}

def jpeg(x, quality=75):
    "CIFAR images after JPEG: a control row, as Tiny-ImageNet comes from JPEG files"
    import io
    def one(a):
        f = io.BytesIO()
        Image.fromarray(a).save(f, 'JPEG', quality=quality)
        return np.asarray(Image.open(f))
    return np.stack([one(a) for a in x])

def cifar_aux():
    "23,000 Tiny-ImageNet images at 32 px of 130 classes without CIFAR-10 concepts"
    a = packs('aux')
    return OpenSet(a['train'], [f'tin-{k}' for k in sorted(set(a['train_cls'].tolist()))])

def resnet(n_in, blocks=1, n_out=10, w=16, stem=2):
    "A residual network with batch norm: a stem that halves the image, three stages of fastai's ResBlocks, w to 4w wide"
    layers,a = [ConvLayer(n_in, w, stride=stem)],w
    for i,b in enumerate((w, 2*w, 4*w)):
        for j in range(blocks):
            layers.append(ResBlock(1, a, b, stride=2 if i and not j else 1))
            a = b
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(a, n_out))

class _Block(nn.Module):
    "Basic block of the CIFAR ResNet; where the size changes the shortcut subsamples and pads channels with zeros"
    def __init__(self, a, b, stride):
        super().__init__()
        self.conv1,self.bn1 = nn.Conv2d(a, b, 3, stride, 1, bias=False),nn.BatchNorm2d(b)
        self.conv2,self.bn2 = nn.Conv2d(b, b, 3, 1, 1, bias=False),nn.BatchNorm2d(b)
        self.stride,self.more = stride,b-a
    def forward(self, x):
        h = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        s = x[:, :, ::self.stride, ::self.stride]
        return torch.relu(h + nn.functional.pad(s, (0, 0, 0, 0, self.more//2, self.more-self.more//2)))

class ResNet20(nn.Module):
    "ResNet-20 of He et al. 2016 for CIFAR-10, option-A shortcuts: the shape of the published weights"
    def __init__(self):
        super().__init__()
        self.conv1,self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False),nn.BatchNorm2d(16)
        make = lambda a, b, stride: nn.Sequential(_Block(a, b, stride), _Block(b, b, 1), _Block(b, b, 1))
        self.layer1,self.layer2,self.layer3 = make(16, 16, 1),make(16, 32, 2),make(32, 64, 2)
        self.linear = nn.Linear(64, 10)
    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(torch.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))

def resnet20():
    "With the published weights"
    f = Path(os.environ.get('FASTROBUST_DATA', str(Path(__file__).parents[3]/'shared'/'data')))/'cifar10'/'resnet20.th'
    s = torch.load(f, map_location='cpu', weights_only=True)['state_dict']
    net = ResNet20()
    net.load_state_dict({k.removeprefix('module.'): v for k,v in s.items()})
    return net.eval()
