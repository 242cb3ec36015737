"Noisy Imagenette and Imagewoof, the label noise leaderboard of fastai: their own wrong labels, from their own CSV"
# https://github.com/fastai/imagenette, Apache-2.0. Its README has the leaderboards (5 and 50 %
# noise) and its folder noisy_labels how the labels were made: of the training images, 1, 5, 25 or
# 50 % got one of the other nine classes at random, each rate drawn by itself; validation labels
# are right. The downloads contain the CSV.
from pathlib import Path
import numpy as np, pandas as pd
from fasttransform import Pipeline
from fastai.data.block import CategoryBlock
from fastai.data.core import DataLoaders
from fastai.data.transforms import IndexSplitter, Normalize, parent_label
from fastai.vision.augment import FlipItem, RandomResizedCrop
from fastai.vision.core import imagenet_stats
from fastai.vision.data import ImageBlock
from fastrobust.basics import nearest
from fastrobust.noise.block import NoisyDataBlock
from fastrobust.noise.matrices import noise_matrix
from fastrobust.noise.record import NoiseRecord

__all__ = ['noisy_imagenette']

IMAGENETTE_NOISE = 0, 1, 5, 25, 50      # per cent; 0: the true labels
_CSV = 'noisy_imagenette.csv', 'noisy_imagewoof.csv'
_NAMES = dict(
    n01440764='tench', n02102040='English springer', n02979186='cassette player',
    n03000684='chain saw', n03028079='church', n03394916='French horn',
    n03417042='garbage truck', n03425413='gas pump', n03445777='golf ball', n03888257='parachute',
    n02086240='Shih-Tzu', n02087394='Rhodesian ridgeback', n02088364='beagle',
    n02089973='English foxhound', n02093754='Border terrier', n02096294='Australian terrier',
    n02099601='golden retriever', n02105641='Old English sheepdog', n02111889='Samoyed',
    n02115641='dingo')

# --- the CSV --------------------------------------------------------------------------------------
def _find(path):
    found = [path/f for f in _CSV if (path/f).is_file()]
    if len(found) == 1: return found[0]
    if found: got = 'both'
    else: got = 'none' if path.is_dir() else 'no such folder'
    raise ValueError(f"expected {' or '.join(_CSV)} in {path}, got {got}. Give the unpacked "
                     "folder, such as untar_data(URLs.IMAGENETTE_160), or `csv=`, a file of "
                     "github.com/fastai/imagenette.")

def _table(file, col):
    "Rows of the CSV, checked"
    if not file.is_file():
        raise ValueError(f"expected the CSV of the noisy labels, got {file}, which does not exist.")
    t = pd.read_csv(file)
    lost = [k for k in ('path', 'noisy_labels_0', col, 'is_valid') if k not in t]
    if lost:
        raise ValueError(f"{file}: expected the column {lost[0]!r}, got others. "
                         f"{nearest(lost[0], t.columns)} The official file is at "
                         "github.com/fastai/imagenette.")
    if t.is_valid.dtype != bool or t.is_valid.all() or not t.is_valid.any():
        raise ValueError(f"{file}: expected `is_valid` as True or False, each of them somewhere, "
                         f"got {t.is_valid.unique()[:3]}. Use the official file.")

    given,true = t[col],t.noisy_labels_0
    folder = t.path.map(lambda o: Path(o).parent.name)
    checks = [(true != folder, 'the folder as true label'),
              (~given.isin(true), 'a class that has images'),
              (t.is_valid & (given != true), 'right validation labels')]
    for bad,what in checks:
        if bad.any():
            i = bad.idxmax()
            raise ValueError(f"{file}, row {i+2}: expected {what}, got {given[i]} (true: "
                             f"{true[i]}) for {t.path[i]}. Use the official file.")
    return t

# --- the loaders ----------------------------------------------------------------------------------
def _record(t, col, pct, names, vocab):
    "The record of the training labels in column `col`"
    code = lambda k: np.array([vocab.index(names[w]) for w in t[k][~t.is_valid]])
    T = noise_matrix('symmetric', len(vocab), pct/100)
    return NoiseRecord(code('noisy_labels_0'), code(col), 'symmetric', pct/100, T=T, vocab=vocab,
                       sampling=col)

def noisy_imagenette(
    path,               # The unpacked folder, such as untar_data(URLs.IMAGENETTE_160) or IMAGEWOOF_160, any resolution
    pct:int=50,         # Per cent of wrong training labels: 1, 5, 25 or 50 (leaderboards: 5 and 50), 0 for none
    size:int=128,       # Pixels of training and validation images; 128, 192 or 256 on the leaderboard
    bs:int=64,          # Batch size; 64 in fastai's baseline
    *,
    item_tfms=None,     # None: the baseline's, a random crop of 35 to 100 % of the area and a flip
    batch_tfms=None,    # None: Normalize by ImageNet's statistics
    csv=None,           # The CSV, if it is not in `path`
    **kwargs            # More for `DataBlock.dataloaders`: num_workers, device
) -> DataLoaders:
    "Training images with the official wrong labels, validation with right ones; `.noise` knows the truth"
    if isinstance(pct, bool) or pct not in IMAGENETTE_NOISE:
        raise ValueError(f"`pct` must be one of {', '.join(map(str, IMAGENETTE_NOISE))} (per "
                         f"cent), got {pct!r}. For other rates put add_label_noise on the loaders "
                         "of pct=0.")
    path = Path(path)
    col = f'noisy_labels_{int(pct)}'
    t = _table(_find(path) if csv is None else Path(csv), col)
    files = [path/o for o in t.path]
    lost = [f for f in files if not f.is_file()]
    if lost:
        raise ValueError(f"expected the {len(files)} images of the CSV, got "
                         f"{len(files)-len(lost)}: {lost[0]} is missing. Is it the folder of the "
                         "other data set, or an incomplete download?")

    names = {w: _NAMES.get(w, w) for w in t.noisy_labels_0.unique()}
    vocab = sorted(names.values())
    rec = _record(t, col, pct, names, vocab)
    if item_tfms is None:
        item_tfms = [RandomResizedCrop(size, min_scale=.35), FlipItem(.5)]
    if batch_tfms is None: batch_tfms = [Normalize.from_stats(*imagenet_stats)]
    block = NoisyDataBlock((ImageBlock, CategoryBlock(vocab)), rec,
                           item_tfms=item_tfms, batch_tfms=batch_tfms,
                           get_y=Pipeline([parent_label, names.get]),
                           splitter=IndexSplitter(np.flatnonzero(t.is_valid)))
    return block.dataloaders(files, path=path, bs=bs, **kwargs)
