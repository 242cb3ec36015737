"The images of an audit as a judge reads them: small ones as one array, nothing held out"
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple
import numpy as np
from PIL import Image, ImageOps
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.transforms import IndexSplitter, Normalize
from fastai.vision.augment import Resize
from fastai.vision.core import imagenet_stats
from fastai.vision.data import ImageBlock
from fastrobust.data.fromarrays import array_dls

__all__ = []

IN_ARRAY = 64       # Pixels of a side up to which all images are held in memory

class Loading(NamedTuple):
    "How images are loaded"
    size:int                # Pixels of each side
    bs:int                  # Images at a time
    in_array:bool = False   # All at once, in their own channels? Else from files, in colour
    normalize:bool = False  # A frozen judge normalises itself

def _in_array(listing, size):
    "All images as one array: small ones are read once"
    mode = 'L' if listing.grey else 'RGB'
    def read(p):
        with Image.open(listing.root/p) as im:
            return np.asarray(ImageOps.fit(im.convert(mode), (size, size)))
    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(read, listing.paths)))

def loaders(
    listing,    # `Listing` of images and labels
    names,      # Classes, in order
    how         # `Loading`
):
    "fastai loaders over all images; nothing is held out"
    bs = min(how.bs, len(listing.paths))
    if how.in_array:
        X,y = _in_array(listing, how.size),listing.labels
        return array_dls(X, y, valid=(X[:1], y[:1]), vocab=names, bs=bs, normalize=how.normalize)
    label = {listing.root/p: k for p,k in zip(listing.paths, listing.labels)}
    tfms = Normalize.from_stats(*imagenet_stats) if how.normalize else None
    block = DataBlock((ImageBlock, CategoryBlock(names)), get_y=lambda f: label[f],
                      splitter=IndexSplitter([]), item_tfms=Resize(how.size), batch_tfms=tfms)
    return block.dataloaders(list(label), bs=bs, path=listing.root)
