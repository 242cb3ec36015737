"The transforms of a loader, and those that should be there once only"
from fastrobust.basics import plain_dl, robust_warn

__all__ = []

def transforms(
    dl      # A fastai loader
):
    "Transforms of its items and batches, and of the lists it reads from"
    dl = plain_dl(dl)
    pipes = [getattr(dl, k, None) for k in ('after_item', 'before_batch', 'after_batch')]
    lists = getattr(getattr(dl, 'dataset', None), 'tls', [])
    pipes += [getattr(tl, 'tfms', None) for tl in lists]
    return [f for p in pipes for f in getattr(p, 'fs', [])]

def train_transforms(
    learn   # A Learner
):
    "Transforms of the training images"
    return transforms(learn.dls.train) if len(learn.dls.loaders) else []

def warn_of_two(
    f,      # A transform that is being set up
    kind,   # Its class
    dl,     # The loader
    fix     # What to do instead
):
    "Warn where the loader has another one of this class"
    # of a DataBlock's fastai keeps the last alone, before we see them
    if any(isinstance(o, kind) and o is not f for o in transforms(dl)):
        robust_warn(f"two {kind.__name__} act one after the other on every image. {fix}")
