"BatchNorm by the statistics of each batch of images itself, in place of those of training"
# Normalising shifted images by their own statistics is prediction-time batch normalisation: Nado et
# al. 2020, https://arxiv.org/abs/2006.10963; Schneider et al., NeurIPS 2020,
# https://arxiv.org/abs/2006.16971 (there N = 0). As in both papers every BatchNorm layer takes
# part, a head's too, each batch is normalised by itself, and no weight changes.
from contextlib import contextmanager
from itertools import islice
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from fastrobust.basics import need_learner
from fastrobust.inference.loaders import asked_loader, need_pixels
from fastrobust.inference.passes import AtRest, changed_rows

__all__ = []

LEAST = 64      # Images of a batch: the mean of fewer says more about them than about their shift

def norm_layers(
    model   # A network
):
    "The BatchNorm layers of `model` that hold statistics of training"
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    return [m for m in layers if m.running_mean is not None]

def need_norm_layers(
    model,  # A network
    fix     # What to do instead, a sentence
):
    "Refuse a network that normalises by no statistics of training"
    if norm_layers(model): return
    raise ValueError("expected a network with BatchNorm layers, whose statistics can be those of other "
                     f"images, got a {type(model).__name__} without. {fix}")

# --- batches --------------------------------------------------------------------------------------
def even_batches(
    n,          # Items
    bs=LEAST    # Of a batch at least
):
    "Positions of all items, shuffled always alike, as tensors of `bs` positions or a few more: no last one is small"
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    return order.tensor_split(max(1, n//bs))

class _Regrouped:
    "The batches of a reader, cut anew into other sizes"
    def __init__(self, reader, sizes, who):
        self.reader,self.sizes,self.who = reader,list(sizes),who

    def finish(self, x, yb): return self.reader.finish(x, yb)

    def __iter__(self):
        sizes,held = list(self.sizes),[]
        for xb,yb in self.reader:
            targets = [o for o in yb if isinstance(o, Tensor)]
            held.append((need_pixels(xb, self.who), *targets))
            while sizes and sum(len(o[0]) for o in held) >= sizes[0]:
                whole = self._whole(held)
                n = sizes.pop(0)
                x,*yb = (o[:n] for o in whole)
                yield (x,),tuple(yb)
                held = [tuple(o[n:] for o in whole)]

    def _whole(self, held):
        shapes = {tuple(o[0].shape[1:]) for o in held}
        if len(shapes) > 1:
            raise ValueError(f"{self.who} expected images of one size, which can share a batch, got "
                             f"{sorted(shapes)[:3]}. Resize them: item_tfms=Resize(224).")
        return [torch.cat(o) for o in zip(*held)]

def _reader(rest, dl, batches):
    "What reads the items of `batches`, positions in the loader's order, one after the other"
    order = torch.cat(batches).tolist()
    plain = dl.new(shuffle=False, drop_last=False)
    if not getattr(plain, 'indexed', True):
        raise ValueError(f"{rest.who} expected a loader whose items have positions, got one that "
                         "streams them. Build it over a dataset with `__getitem__`.")
    ids = list(islice(plain.get_idxs(), len(order)))
    return rest.read(dl, cut=True, ids=[ids[i] for i in order])

# --- by the batch ---------------------------------------------------------------------------------
@contextmanager
def batch_statistics(
    model   # A network in evaluation mode
):
    "Each BatchNorm layer normalises by the batch it is given; its own statistics and their count stay as they are"
    were = [(m, m.training, m.track_running_stats) for m in norm_layers(model)]
    try:
        for m,*_ in were: m.training,m.track_running_stats = True,False
        yield
    finally:
        for m,training,track in were: m.training,m.track_running_stats = training,track

def batch_passes(
    learn,      # A Learner that classifies images; stays as it is
    dl,         # A fastai loader with labels; None: `learn.dls.valid`
    changes,    # As for `passes`
    batches,    # Positions of the items of each batch, all of the loader's; see `even_batches`
    who,        # Who asks, for error messages
    tick=None,  # Called after each forward pass
    keep=None   # Function (z, y) of what to keep of a batch of logits; None: the logits
):
    "`passes` where BatchNorm normalises by each of `batches`, whatever the loader's are: rows in the loader's order, y"
    need_learner(learn)
    dl = asked_loader(learn, dl, who)
    order = torch.cat(batches)
    def placed(change): return lambda x, at: change(x, order[at])
    changes = [change and placed(change) for change in changes]
    with AtRest(learn, who) as rest, batch_statistics(learn.model):
        reader = _reader(rest, dl, batches)
        regrouped = _Regrouped(reader, map(len, batches), who)
        zs,y = changed_rows(rest, regrouped, changes, tick, keep)
    back = order.argsort()
    return [z[back] for z in zs],y[back]
