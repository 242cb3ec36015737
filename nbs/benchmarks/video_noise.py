"What `VideoNoise` costs and gains on clips: accuracy of tiny_c3d on moving shapes, clean and with noise"
# python nbs/benchmarks/video_noise.py 16,24 101,102,103 12,24 none,1/.1,.333/.1,.333/0
import sys, time
import numpy as np
import torch
from fastai.basics import set_seed
from fastai.callback import progress, schedule  # noqa: F401 (give Learner no_bar and fit_one_cycle)
from fastai.learner import Learner
from fastrobust.systems.video.moving import moving_shapes_dls
from fastrobust.systems.video.networks import tiny_c3d
from fastrobust.systems.video.noise import VideoNoise

KINDS = 'clean','gaussian','dropped'
GREY = .15      # deviation of the Gaussian noise that is asked about, of [0,1]

def setting(name):
    "Batch transforms of 'none', or of 'strength/drop'"
    if name == 'none': return None
    strength,drop = map(float, name.split('/'))
    return VideoNoise(strength=strength, drop=drop)

def noisy(x, learn, kind):
    "Normalised clips with noise of a kind that is asked about"
    norm = next(t for t in learn.dls.valid.after_batch.fs if hasattr(t, 'mean'))
    mean,std = (o.reshape(1, -1, 1, 1, 1) for o in (norm.mean, norm.std))
    px = x*std + mean
    if kind == 'gaussian': px = (px + GREY*torch.randn_like(px)).clamp(0, 1)
    if kind == 'dropped': px[:, :, [2, 5]] = 0
    return (px-mean)/std

def accuracies(learn):
    "Of the clips held out: clean, with Gaussian noise, with two of the frames black"
    b = [(x.as_subclass(torch.Tensor), y.as_subclass(torch.Tensor)) for x,y in learn.dls.valid]
    x,y = (torch.cat(o) for o in zip(*b))
    net = learn.model.eval()
    g = torch.random.get_rng_state()
    torch.manual_seed(0)
    out = []
    with torch.no_grad():
        for kind in KINDS:
            z = net(noisy(x, learn, kind))
            out.append((z.argmax(1) == y).float().mean().item())
    torch.random.set_rng_state(g)
    return out

def run(size, seed, epochs, name):
    set_seed(seed)
    dls = moving_shapes_dls(500, size=size, seed=seed, bs=16, device='cpu', batch_tfms=setting(name))
    learn = Learner(dls, tiny_c3d())
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, 3e-3)
    return accuracies(learn)

def main(sizes, seeds, epochs, names):
    for size in sizes.split(','):
        for n in epochs.split(','):
            for name in names.split(','):
                c = time.process_time()
                rows = np.array([run(int(size), int(s), int(n), name) for s in seeds.split(',')])
                se = rows.std(0, ddof=1)/len(rows)**.5 if len(rows) > 1 else rows[0]*0
                cells = zip(KINDS, rows.mean(0), se)
                said = ', '.join(f'{k} {a:.3f}±{b:.3f}' for k,a,b in cells)
                print(f'{size} px, {n} epochs, {name}: {said}; {time.process_time()-c:.0f} CPU s', flush=True)

if __name__ == '__main__': main(*sys.argv[1:])
