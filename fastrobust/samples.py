"Small real images inside the package: Fashion-MNIST to learn from, QuickDraw drawings as unknowns"
# Licences and origin beside the data: files/LICENSE-fashion-mnist.txt (MIT), files/CREDITS.md
# (QuickDraw: CC BY 4.0).
from functools import lru_cache
from importlib.resources import files
import numpy as np
from PIL import Image

from fastai.data.core import DataLoaders
from fastrobust.basics import nearest
from fastrobust.data.fromarrays import array_dls

__all__ = ['sample_data', 'sample_dls']

_FASHION = ['T-shirt/top', 'Trouser', 'Pullover', 'Dress', 'Coat', 'Sandal', 'Shirt', 'Sneaker',
            'Bag', 'Ankle boot']
_NAMES = ['fashion', 'quickdraw']

def _open(fn): return (files('fastrobust.data')/'files'/fn).open('rb')

def _tiles(fn, n, sz=28):
    "The first `n` tiles of `sz` pixels of a grey mosaic, row by row"
    with _open(fn) as f:
        mosaic = np.asarray(Image.open(f))
    h,w = mosaic.shape
    grid = mosaic.reshape(h//sz, sz, w//sz, sz).swapaxes(1, 2)
    return grid.reshape(-1, sz, sz)[:n]

def _known(name):
    if name not in _NAMES:
        raise ValueError(f"expected the name of a data set, got {name!r}. {nearest(name, _NAMES)}")

@lru_cache(None)
def _load(name):
    with _open('labels.npz') as f:
        labels = dict(np.load(f))
    if name == 'fashion':
        vocab = _FASHION
        y,yv = labels['train'],labels['test']
        x = _tiles('fmnist_train_00.png', len(y))
        xv = _tiles('fmnist_test_00.png', len(yv))
    else:
        vocab = labels['quickdraw_names'].tolist()
        y = labels['quickdraw']
        x = _tiles('quickdraw_ood_00.png', len(y))
        aux = y < 5
        xv,yv = x[~aux],y[~aux]
        x,y = x[aux],y[aux]
    return x,y.astype(np.int64),xv,yv.astype(np.int64),vocab

def sample_data(
    name='fashion' # 'fashion', or 'quickdraw' for images of none of its classes
) -> tuple: # `(X, y, Xv, yv, vocab)`: uint8 (n,28,28), white on black; int64 positions in `vocab`; all copies
    """Embedded images, offline. 'fashion': 4,000 to train on and 1,000 to test on, ten classes, balanced, true labels.
    'quickdraw': ten classes of drawings split by class: X has the first five (500) and may serve as auxiliary data in
    training, Xv the other five (500), which training must never see: unknowns for tests."""
    _known(name)
    x,y,xv,yv,vocab = _load(name)
    return x.copy(),y.copy(),xv.copy(),yv.copy(),list(vocab)

def sample_dls(
    noise=None, # `NoisyLabels` for the training labels; None: the true ones
    bs=64,      # Batch size, fastai's default
    **kwargs    # More for `array_dls`
) -> DataLoaders:
    "Loaders over the embedded Fashion-MNIST; 4,000 training images, 1,000 test images as validation set"
    X,y,Xv,yv,vocab = sample_data('fashion')
    dls = array_dls(X, y, valid=(Xv, yv), bs=bs, vocab=vocab, **kwargs)
    if noise is None: return dls
    from fastrobust.noise.block import add_label_noise   # only here: clean loading does without it
    return add_label_noise(dls, noise)
