"A learner's predictions on changed images: one pass over a loader, the pixels changed just before Normalize"
# Behind corruption_report and lp_report. The learner's own transforms run; its callbacks do not, so that neither the
# recorder nor anything else moves. What a mixed precision learner does in get_preds (autocast) is done here too.
from contextlib import contextmanager, nullcontext
import torch
from torch import Tensor
from fasttransform import Pipeline
from fastai.callback.core import event
from fastai.callback.fp16 import AMPMode, MixedPrecision
from fastai.callback.progress import ProgressCallback
from fastai.data.load import DataLoader
from fastai.torch_core import get_random_states, set_random_states
from fastprogress.fastprogress import progress_bar
from fastrobust.basics import PixelSpace, _is_normalize, plain_dl, robust_warn
from fastrobust.data.openset import share_items

__all__ = ['shifted_preds']

@contextmanager
def _as_it_was(model):
    "Eval mode without gradients; training modes and random streams are put back whatever happens"
    states,modes = get_random_states(),[(m, m.training) for m in model.modules()]
    try:
        model.eval()
        with torch.no_grad(): yield
    finally:
        for m,t in modes: m.training = t
        set_random_states(**states)

def _autocast(learn):
    "The precision in which `learn.get_preds` runs the model"
    amp = [cb.amp_mode for cb in learn.cbs if isinstance(cb, MixedPrecision)]
    if not amp or not torch.cuda.is_available(): return nullcontext()       # fastai's autocast is CUDA's alone
    return torch.autocast('cuda', dtype=torch.bfloat16 if amp[0] == AMPMode.BF16 else torch.float16)

def on_model(learn, x):
    "`x` where the model is, in its precision"
    p = next(learn.model.parameters(), None)
    return x if p is None else x.to(p.device, p.dtype if p.is_floating_point() else x.dtype)

def _logits(learn, x):
    "Rows of logits (b,c) of the model, float32 on the CPU"
    x = on_model(learn, x)
    with _autocast(learn): z = learn.model(x)
    z = z[0] if isinstance(z, (tuple, list)) else z
    if not isinstance(z, Tensor) or z.ndim != 2 or len(z) != len(x) or z.shape[1] < 2:
        got = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
        raise ValueError(f"expected a row of at least two logits per image, ({len(x)},c), from the model, got {got}. "
                         "What is measured here is defined for single-label classification.")
    return z.as_subclass(Tensor).float().cpu()

def _target(yb):
    "The one class of each image, int64 (b,) on the CPU"
    if not yb:
        raise ValueError("expected a loader with labels, got one of images alone: errors cannot be counted. Make it "
                         "with `learn.dls.test_dl(items, with_labels=True)`.")
    y = yb[0].as_subclass(Tensor) if isinstance(yb[0], Tensor) else None
    if len(yb) > 1 or y is None or y.ndim != 1 or y.is_floating_point():
        got = f"{len(yb)} targets" if len(yb) > 1 else type(yb[0]) if y is None else f"{y.dtype} {tuple(y.shape)}"
        raise ValueError(f"expected one whole class number per image, (b,), as target, got {got}. Regression and "
                         "multi-label targets have no top-1 error: use a single-label learner (CategoryBlock).")
    return y.long().cpu()

def _image(xb, who):
    "The one image input (b,c,h,w)"
    if len(xb) != 1 or not isinstance(xb[0], Tensor) or xb[0].ndim != 4 or xb[0].shape[1] not in (1, 3):
        got = [tuple(o.shape) if isinstance(o, Tensor) else type(o).__name__ for o in xb]
        raise TypeError(f"{who} expected one input of images (b,c,h,w) with 1 or 3 channels, got {got}. It is defined "
                        "for image classifiers only.")
    return xb[0]

def _warn_callbacks(learn, who):
    "Callbacks of the user's own that work on batches or predictions in validation too are not run here"
    own = lambda cb: not type(cb).__module__.startswith(('fastai.', 'fastrobust.')) and cb.run_valid
    at = [event.before_batch, event.after_pred]
    for cb in learn.cbs:
        used = [e for e in at if own(cb) and callable(getattr(type(cb), e, vars(cb).get(e)))]
        if used: robust_warn(f"{who} runs the model without callbacks, but {type(cb).__name__} has {used[0]}. If it "
                             "changes images or predictions in validation, the numbers here are not those of "
                             "`learn.validate()`.", 5)

# --- the two halves of a loader's pipeline ---------------------------------------------------------------------------
def _halves(dl):
    "`dl` unshuffled up to the pixels before Normalize, and the transforms that follow"
    fs = list(getattr(dl.after_batch, 'fs', []))
    i = next((i for i,t in enumerate(fs) if _is_normalize(t)), len(fs))
    new = dl.new(shuffle=False, drop_last=False, **(dict(after_batch=fs[:i]) if fs else {}))
    return new,fs[i:]

def fastai_dl(dl, who):
    "`dl`, if it is a loader whose transforms can be seen"
    if isinstance(dl, DataLoader): return plain_dl(dl)
    raise TypeError(f"{who} expected a fastai loader, got a {type(dl).__name__}, and nobody knows where that "
                    "normalises. Make one: `learn.dls.test_dl(items, with_labels=True)`, or array_dls.")

@contextmanager
def quietly(dl):
    "`dl` in validation mode and in order up to the pixels before Normalize, and the `Pipeline` of what follows"
    new,after = _halves(dl)
    quiet = getattr(new.dataset, 'set_split_idx', None)
    with quiet(1) if quiet else nullcontext():          # validation transforms, should it be the training set
        yield new,Pipeline(after, split_idx=getattr(new.dataset, 'split_idx', None))

def parts(b, n_inp):
    "Inputs and targets of a batch"
    b = tuple(b) if isinstance(b, (tuple, list)) else (b,)
    k = n_inp or max(1, len(b)-1)
    return b[:k],b[k:]

def _changed(change, x, ids, who):
    "`change` applied to pixels in [0,1], checked, in the form they came in"
    if not x.is_floating_point():
        raise ValueError(f"{who} expected float pixels in [0,1] before Normalize, got {x.dtype}. Put IntToFloatTensor "
                         "among the batch_tfms.")
    px = PixelSpace().check(x.as_subclass(Tensor), who).float()
    new = change(px, ids)
    if not isinstance(new, Tensor) or new.shape != px.shape or not new.is_floating_point():
        got = f"{new.dtype} {tuple(new.shape)}" if isinstance(new, Tensor) else type(new).__name__
        raise ValueError(f"`change` must return float pixels of shape {tuple(px.shape)}, got {got}. Keep the images' "
                         "size and the scale [0,1].")
    return new.to(x.device, x.dtype).as_subclass(type(x))

def _rows(learn, batches, n_inp, post, changes, who, tick=None, keep=None):
    "Logits of each of `changes` over `batches`, or what `keep` makes of them, and the labels"
    zs,ys,at = [[] for _ in changes],[],0
    for b in batches:
        xb,yb = parts(b, n_inp)
        x,y = _image(xb, who),_target(yb)
        ids = torch.arange(at, at+len(x))
        at += len(x)
        for z,change in zip(zs, changes):
            new = x if change is None else _changed(change, x, ids, who)
            out = _logits(learn, _image(post((new, *yb))[:1], who))
            z.append(keep(out, y) if keep else out)
            if tick: tick()
        ys.append(y)
    if not ys:
        raise ValueError(f"{who} expected a loader with images, got an empty one. Give one with labels, such as "
                         "`learn.dls.test_dl(items, with_labels=True)`.")
    return [torch.cat(z) for z in zs],torch.cat(ys)

def passes(learn, dl, changes, who, tick=None, keep=None):
    """`shifted_preds` for several changes of each batch, which is loaded and decoded once: ([logits], y). `tick()` is
    called after each forward pass, `keep(z, y)` gives what to keep of a batch of logits"""
    with _as_it_was(learn.model):
        dl = fastai_dl(learn.dls.valid if dl is None else dl, who)
        if getattr(dl, 'n', None) == 0: return _rows(learn, [], 1, None, changes, who)
        _warn_callbacks(learn, who)
        with quietly(dl) as (new,post):
            return _rows(learn, new, getattr(new, 'n_inp', None), post, changes, who, tick, keep)

def noisy_labels_note(learn, dl, who):
    "A warning, and a note for the report, if the validation labels are known to be noisy"
    valid = getattr(getattr(learn.dls, 'noise', None), 'valid', None)
    if valid is None or dl is not None and dl is not learn.dls.valid: return []
    note = (f"{valid.realised_rate:.1%} of these validation labels are wrong on purpose (noisy_valid): right answers "
            "count as errors. Give a `dl` with clean labels.")
    robust_warn(f"{who}: {note}", 4)
    return [note]

def trained_note(learn, dl, who):
    "A warning, and a note, where a report is asked of the images the network has trained on"
    if dl is None or not len(learn.dls.loaders) or not share_items(plain_dl(dl), plain_dl(learn.dls.train)): return []
    note = ("These are images of the training set, of which the network knows the answers: elsewhere it is less often "
            "right and less sure with reason. Give a `dl` of other images.")
    robust_warn(f"{who}: {note}", 4)
    return [note]

class Bar:
    "Progress of a report, silent where the learner's own bars are"
    def __init__(self, learn, total):
        show = total and any(isinstance(cb, ProgressCallback) for cb in learn.cbs)
        self.i,self.bar = 0,progress_bar(range(total), leave=False) if show else None
        if show: self.bar.update(0)
    def name(self, name):
        if self.bar is not None: self.bar.comment = name
    def tick(self):
        self.i += 1
        if self.bar is not None: self.bar.update(min(self.i, self.bar.total))

def shifted_preds(
    learn,          # A Learner that classifies images; stays as it is, its recorder and random streams too
    dl=None,        # A fastai loader with labels; None: `learn.dls.valid`. Of the training loader: without augmentation
    change=None     # Function (x, ids) -> x of pixels float32 in [0,1] (b,c,h,w); ids int64 (b,), on the CPU, are the
                    # positions of the images in the loader's order; None: nothing is changed
)->tuple:           # (logits float32 (n,c), labels int64 (n,)), on the CPU
    "Logits for the images of a loader, changed by `change` just before Normalize; nothing is changed in `dls`"
    zs,y = passes(learn, dl, [change], 'shifted_preds')
    return zs[0],y
