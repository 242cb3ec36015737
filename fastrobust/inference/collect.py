"Logits, features and labels for any images: one forward pass, through the learner's own validation pipeline"
from contextlib import nullcontext
import torch
from torch import Tensor
from fastrobust.basics import plain_dl
from fastrobust.data.apart import array_of
from fastrobust.inference.keys import Seen
from fastrobust.inference.loaders import (check_norms, loaders_of, need_pixels, need_target,
                                          own_loader)
from fastrobust.inference.passes import AtRest
from fastrobust.inference.tap import Outputs, first_images

__all__ = []

# --- what the images are --------------------------------------------------------------------------
def _check_images(x, like, who):
    if not torch.isfinite(x.sum()):
        raise ValueError(f"{who} expected finite pixels, got NaN or inf. Look at the images, and "
                         "the std of Normalize.")
    if like is None or tuple(x.shape[1:]) == tuple(like): return
    raise ValueError(f"{who} expected images of (channels, height, width) {tuple(like)}, as the "
                     f"network gets the learner's own, got {tuple(x.shape[1:])}. Size alone would "
                     "tell them apart: convert or resize them first (Resize in their DataBlock, or "
                     "torch.nn.functional.interpolate).")

def _classes(yb, labels, who):
    "Labels of a batch: needed (True), those there are (None), none (False)"
    if labels is False or (labels is None and not yb): return None
    if yb: return need_target(yb)
    raise ValueError(f"{who} expected a loader with labels, got images alone. Make one with "
                     "`learn.dls.test_dl(items, with_labels=True)`.")

# --- the pass -------------------------------------------------------------------------------------
def _outputs(z, f, y, who):
    if not z: return None
    z = torch.cat(z)
    bad = int((~torch.isfinite(z)).any(1).sum())
    if bad:
        raise ValueError(f"{who} expected finite logits, got NaN or inf for {bad} of {len(z)} "
                         "images. Has the training diverged? In mixed precision try "
                         "`learn.to_fp32()`.")
    f = torch.cat(f) if f else None
    y = torch.cat(y) if y and y[0] is not None else None
    return Outputs(z, f, y)

def _look(rest, tap, x, steps, zs, fs):
    "Logits, and features, of a batch as each of `steps` changes it, added to the lists of each"
    for z,f,step in zip(zs, fs, steps):
        new = x if step is None else step(rest.model, x)
        if new is None: continue
        z.append(rest.logits(new).cpu())
        if tap: f.append(tap.features(len(x)))

def walk(learn, data, who, tap=None, steps=(None,), labels=False,
         like=None, seen=None, tick=None):
    """`Outputs` for each of `steps`, functions (model, x) -> x or None, who leaves it alone and gets no pass (so None
    for its outputs). Batches are loaded once; `seen` is told of each, `tick()` called after it"""
    if seen is None: seen = Seen()
    ys,zs,fs = [],[[] for _ in steps],[[] for _ in steps]
    with AtRest(learn, who) as rest:
        dls,own = loaders_of(learn, data, who)
        mine = own_loader(learn, 1)
        if like is None and mine is not None and mine not in dls:
            like = first_images(learn, mine, who).shape[1:]
        for dl in dls:
            if getattr(dl, 'n', None) == 0: continue
            if own and not any(dl is plain_dl(o) for o in learn.dls.loaders):
                check_norms(learn, dl, who)
            reader = rest.read(dl, cut=True)
            with tap or nullcontext():
                for xb,yb in reader:
                    ys.append(_classes(yb if own else (), labels, who))
                    px = need_pixels(xb, who)
                    # plain ones pass the network faster
                    x = reader.finish(px, yb).as_subclass(Tensor)
                    _check_images(x, like, who)
                    seen.add(px.as_subclass(Tensor))
                    seen.shape = tuple(x.shape[1:])
                    _look(rest, tap, rest.place(x), steps, zs, fs)
                    if tick: tick()
        if not ys:
            raise ValueError(f"{who} expected images, got an empty loader. Look how its items were "
                             "found.")
    return [_outputs(z, f, ys, who) for z,f in zip(zs, fs)]

def training_seen(learn):
    "`Seen` of the training images that are kept in memory; None where they are files, or gone"
    dl = own_loader(learn, 0)
    x = None if dl is None else array_of(dl)
    if x is None: return None
    seen = Seen()
    for i in range(0, len(x), 4096):
        seen.add(torch.from_numpy(x[i:i+4096]))
    return seen

def collect(
    learn,              # A Learner that classifies images; stays as it is, its recorder and random streams too
    # fastai loader, read as in validation; or images (n,h,w[,c]) or (n,c,h,w), uint8 or float in
    # [0,1], that go through the pipeline of `learn.dls.valid`; or an `OpenSet`
    data,
    who='collect',      # Who asks, for error messages
    *,
    tap=None,           # `feature_tap(learn)` for features too; None: logits alone
    input_step=None,    # Function (model, x) -> x that changes a normalised batch first, such as ODIN's
    labels=False        # True: labels too, or an error; None: if there are any
)->Outputs:             # Of n images, in order, on the CPU
    "Raw logits of images in one forward pass, and the features the last linear layer made them of"
    def step(model, x):
        new = input_step(model, x)
        return x if new is None else new
    steps = (step,) if input_step else (None,)
    return walk(learn, data, who, tap, steps, labels)[0]
