"Logits, features and labels for any images: one forward pass, through the learner's own validation pipeline"
import warnings
from contextlib import nullcontext
from hashlib import blake2b
import numpy as np
import torch
from torch import Tensor
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastrobust.basics import RobustWarning, _is_normalize, plain_dl, robust_warn
from fastrobust.inference.outputs import Outputs
from fastrobust.inference.tap import first_images
from fastrobust.data.arrays import ArrayDL, ArrayItems
from fastrobust.data.auxrows import OpenSet, arrays_and_loaders, as_uint8
from fastrobust.shift.publishedarrays import _loader
from fastrobust.inference.passes import _as_it_was, _image, _logits, _target, fastai_dl, on_model, parts, quietly

__all__ = ['collect']

# --- what is given ---------------------------------------------------------------------------------------------------
def own_loader(learn, i):
    "The learner's training (0) or validation loader (1) if it has images, as it has not after `load_learner`"
    dl = plain_dl(learn.dls.loaders[i]) if len(learn.dls.loaders) > i else None
    return dl if isinstance(dl, DataLoader) and getattr(dl, 'n', None) != 0 else None

def _array_dl(learn, imgs, who):
    "Loader over images in memory, with the transforms of the learner's validation loader"
    if len(learn.dls.loaders) < 2:
        raise ValueError(f"{who} expected a learner with a validation loader, whose transforms images in memory go "
                         "through, got one loader alone. Give DataLoaders(train, valid).")
    if not imgs.shape or not len(imgs):
        raise ValueError(f"{who} expected images, got shape {tuple(imgs.shape)}. Look how they were selected.")
    try:
        x = as_uint8(imgs)
        items = lambda vocab: ArrayItems(x, torch.zeros(len(x), dtype=torch.long), vocab)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', RobustWarning)      # of sizes: judged where the network gets the images
            return _loader(learn, items, tuple(x.shape[-2:]), None, ArrayDL, x.shape[1])
    except (TypeError, ValueError) as e:
        raise (TypeError if isinstance(e, TypeError) else ValueError)(f"{who}: {e}") from e

def check_form(data, who):
    "Refuse what holds no images"
    if isinstance(data, (OpenSet, np.ndarray, Tensor)): return
    if isinstance(data, DataLoaders):
        raise TypeError(f"{who} expected one loader, got DataLoaders. Say which of them: `.valid`, or `.train`, which "
                        "is read without augmentation.")
    if not isinstance(data, (DataLoader, torch.utils.data.DataLoader)):
        raise TypeError(f"{who} expected a fastai loader, images in an array or tensor, or an OpenSet, got a "
                        f"{type(data).__name__}. Of files make a loader: `learn.dls.test_dl(files)`.")
    fastai_dl(data, who)

def loaders_of(learn, data, who):
    "`data` as fastai loaders, and whether they may bring labels of their own"
    check_form(data, who)
    x,dls = arrays_and_loaders(data) if isinstance(data, OpenSet) else (data, [data])
    if isinstance(x, (np.ndarray, Tensor)): return [_array_dl(learn, x, who)],False
    return [plain_dl(dl) for dl in dls],True

# --- what the images are ---------------------------------------------------------------------------------------------
def _norms(dl):
    "Mean and standard deviation of each Normalize of a loader, one after the other"
    flat = lambda v: torch.as_tensor(v).as_subclass(Tensor).flatten().float().cpu()
    ts = [t for t in getattr(dl.after_batch, 'fs', []) if _is_normalize(t) and t.mean is not None]
    return [torch.cat([flat(t.mean), flat(t.std)]) for t in ts]

def _check_norms(learn, dl, who):
    "Warn about a loader that normalises otherwise: to the network even known images would look unknown"
    a,b = _norms(plain_dl(learn.dls.loaders[0])),_norms(dl)
    if len(a) == len(b) and all(len(u) == len(v) and torch.allclose(u, v, atol=1e-3) for u,v in zip(a, b)): return
    show = lambda vs: ', '.join(str([round(o, 3) for o in v.tolist()]) for v in vs) or 'not at all'
    robust_warn(f"{who} got a loader that normalises otherwise than the learner (means and stds): {show(b)} against "
                f"{show(a)}. The network cannot tell that difference from one between images. Make the loader with "
                "`learn.dls.test_dl(files)`, or give the images in an array.", 5)

def _check_images(x, like, who):
    if not torch.isfinite(x.sum()):
        raise ValueError(f"{who} expected finite pixels, got NaN or inf. Look at the images, and the std of Normalize.")
    if like is None or tuple(x.shape[1:]) == tuple(like): return
    raise ValueError(f"{who} expected images of (channels, height, width) {tuple(like)}, as the network gets the "
                     f"learner's own, got {tuple(x.shape[1:])}. Size alone would tell them apart: convert or resize "
                     "them first (Resize in their DataBlock, or torch.nn.functional.interpolate).")

class Seen:
    "What the images of a set were: the shape the network gets, and a digest of each one's pixels before Normalize"
    def __init__(self): self.images,self.shape = [],None
    def add(self, px):
        a = (px*255).round_().clamp_(-32768, 32767) if px.is_floating_point() else px
        self.images += [blake2b(o.tobytes(), digest_size=16).digest() for o in a.to(torch.int16).cpu().numpy()]
    @property
    def key(self): return blake2b(b''.join(self.images), digest_size=8).hexdigest()

def _classes(yb, labels, who):
    "Labels of a batch: needed (True), those there are (None), none (False)"
    if labels is False or (labels is None and not yb): return None
    if yb: return _target(yb)
    raise ValueError(f"{who} expected a loader with labels, got images alone. Make one with "
                     "`learn.dls.test_dl(items, with_labels=True)`.")

# --- the pass --------------------------------------------------------------------------------------------------------
def _outputs(z, f, y, who):
    if not z: return None
    z = torch.cat(z)
    bad = int((~torch.isfinite(z)).any(1).sum())
    if bad:
        raise ValueError(f"{who} expected finite logits, got NaN or inf for {bad} of {len(z)} images. Has the training "
                         "diverged? In mixed precision try `learn.to_fp32()`.")
    return Outputs(z, torch.cat(f) if f else None, None if not y or y[0] is None else torch.cat(y))

def walk(learn, data, who, tap=None, steps=(None,), labels=False, like=None, seen=None, tick=None):
    """`Outputs` for each of `steps`, functions (model, x) -> x or None, who leaves it alone and gets no pass (so None
    for its outputs). Batches are loaded once; `seen` is told of each, `tick()` called after it"""
    seen,ys,zs,fs = Seen() if seen is None else seen,[],[[] for _ in steps],[[] for _ in steps]
    with _as_it_was(learn.model):
        (dls,own),mine = loaders_of(learn, data, who),own_loader(learn, 1)
        if like is None and mine is not None and mine not in dls: like = first_images(learn, mine, who).shape[1:]
        for dl in dls:
            if getattr(dl, 'n', None) == 0: continue
            if own and not any(dl is plain_dl(o) for o in learn.dls.loaders): _check_norms(learn, dl, who)
            with quietly(dl) as (new,post), tap or nullcontext():
                for b in new:
                    xb,yb = parts(b, getattr(new, 'n_inp', None))
                    ys.append(_classes(yb if own else (), labels, who))
                    px = _image(xb, who)
                    x = _image(post((px, *yb))[:1], who).as_subclass(Tensor)    # plain ones pass the network faster
                    _check_images(x, like, who)
                    seen.add(px.as_subclass(Tensor))
                    seen.shape,x = tuple(x.shape[1:]),on_model(learn, x)
                    for z,f,step in zip(zs, fs, steps):
                        x2 = x if step is None else step(learn.model, x)
                        if x2 is None: continue
                        z.append(_logits(learn, x2))
                        if tap: f.append(tap.features(len(x)))
                    if tick: tick()
        if not ys: raise ValueError(f"{who} expected images, got an empty loader. Look how its items were found.")
    return [_outputs(z, f, ys, who) for z,f in zip(zs, fs)]

def collect(
    learn,              # A Learner that classifies images; stays as it is, its recorder and random streams too
    data,               # fastai loader, read as in validation; or images (n,h,w[,c]) or (n,c,h,w), uint8 or float in
                        # [0,1], that go through the pipeline of `learn.dls.valid`; or an `OpenSet`
    who='collect',      # Who asks, for error messages
    tap=None,           # `feature_tap(learn)` for features too; None: logits alone
    input_step=None,    # Function (model, x) -> x that changes a normalised batch first, such as ODIN's
    labels=False        # True: labels too, or an error; None: if there are any
)->Outputs:             # Of n images, in order, on the CPU
    "Raw logits of images in one forward pass, and the features the last linear layer made them of"
    def step(model, x):
        new = input_step(model, x)
        return x if new is None else new
    return walk(learn, data, who, tap, (step if input_step else None,), labels)[0]
