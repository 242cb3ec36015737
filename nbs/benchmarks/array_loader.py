"Images a second of `array_dls` and of fastai's ImageBlock loader over the same images as PNG files"
# python nbs/benchmarks/array_loader.py [--n 2000] [--rounds 5]
import argparse, sys, tempfile, time, warnings
from pathlib import Path
import numpy as np
import torch
from PIL import Image
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.transforms import Normalize, RandomSplitter, get_image_files, parent_label
from fastai.vision.core import PILImageBW
from fastai.vision.data import ImageBlock
sys.path.insert(0, str(Path(__file__).parents[2]))
from fastrobust.data.fromarrays import array_dls
from fastrobust.samples import sample_data

def rate(dl):
    "Images a second of one epoch, batch transforms included"
    t,n = time.perf_counter(),0
    for xb,_ in dl: n += len(xb)
    return n/(time.perf_counter()-t)

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--n', type=int, default=2000)
    p.add_argument('--rounds', type=int, default=5)
    p.add_argument('--bs', type=int, default=64)
    a = p.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    X,y,_,_,vocab = sample_data('fashion')
    X,y = X[:a.n],y[:a.n]
    with tempfile.TemporaryDirectory() as tmp:
        for i,(x,k) in enumerate(zip(X, y)):
            d = Path(tmp)/f'{k}'
            d.mkdir(exist_ok=True)
            Image.fromarray(x).save(d/f'{i}.png')
        norm = Normalize.from_stats([.286], [.353], cuda=False)
        block = DataBlock((ImageBlock(PILImageBW), CategoryBlock), get_items=get_image_files, get_y=parent_label,
                          splitter=RandomSplitter(.01, seed=0), batch_tfms=norm)
        loaders = {'array_dls': array_dls(X, y, valid_pct=.01, vocab=vocab, bs=a.bs).train}
        for w in (0, 2): loaders[f'PNG files, {w} workers'] = block.dataloaders(tmp, bs=a.bs, num_workers=w).train
        got = {k: [] for k in loaders}
        for dl in loaders.values(): rate(dl)
        for _ in range(a.rounds):
            for k,dl in loaders.items(): got[k].append(rate(dl))
    ours = np.array(got['array_dls'])
    for k,v in got.items():
        ratio = np.median(ours/np.array(v))
        print(f'{k:22} {np.median(v):9.0f} images/s (median of {a.rounds})   array_dls is {ratio:6.1f} times as fast')

if __name__ == '__main__': main()
