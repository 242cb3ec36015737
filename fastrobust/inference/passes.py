"The one way to run a network over data: at rest, through the learner's own transforms, leaving no trace"
# Behind every report and every callback that looks once more. The learner's callbacks do not run,
# so that neither the recorder nor anything else moves. What a mixed precision learner does in
# get_preds (autocast) is done here too.
from contextlib import ExitStack, nullcontext
import torch
from torch import Tensor
from fastai.callback.fp16 import AMPMode, MixedPrecision
from fastai.torch_core import apply, find_bs
from fastrobust.basics import batch_idxs, epoch_idxs, need_learner, plain_dl
from fastrobust.inference.loaders import Reader, asked_loader, need_pixels, need_target
from fastrobust.inference.notes import warn_callbacks
from fastrobust.pixels import PixelSpace
from fastrobust.resting import at_rest

__all__ = []

def autocast(learn):
    "The precision in which `learn.get_preds` runs the model"
    amp = [cb.amp_mode for cb in learn.cbs if isinstance(cb, MixedPrecision)]
    if not amp or not torch.cuda.is_available():
        return nullcontext()       # fastai's autocast is CUDA's alone
    dtype = torch.bfloat16 if amp[0] == AMPMode.BF16 else torch.float16
    return torch.autocast('cuda', dtype=dtype)

class AtRest:
    """Within `with`: the network of a learner as it predicts, over any loader. Modes, hooks, recorder, random streams,
    loaders and progress bars are afterwards as they were"""
    def __init__(self,
        learn,          # A Learner; two networks in one, mixed precision, outputs (logits, more) are its business
        who='AtRest'    # Who asks, for error messages
    ): self.learn,self.model,self.who = learn,learn.model,who

    def __enter__(self):
        self._open = ExitStack()
        self._open.enter_context(at_rest(self.model))
        return self

    def __exit__(self, *exc): return self._open.__exit__(*exc)

    def read(self,
        dl,         # A fastai loader; it stays as it is
        cut=False,  # Stop at the pixels before Normalize? `Reader.finish` does the rest
        ids=None    # Positions in its dataset to read; None: all
    )->Reader:
        "`dl` as in validation, until the `with` ends: every item once, in order, not augmented"
        return self._open.enter_context(Reader(dl, cut, self.who, ids))

    def place(self, x):
        "The tensors of an input, however they are bundled, where the network is, floats in its precision"
        p = next(self.model.parameters(), None)
        if p is None: return x
        def one(o):
            if not isinstance(o, Tensor): return o
            same_kind = o.is_floating_point() and p.is_floating_point()
            return o.to(p.device, p.dtype) if same_kind else o.to(p.device)
        return apply(one, x)

    def logits(self,
        *xb     # The inputs of a batch
    )->Tensor:  # float32 (b,c), where the network is
        "Rows of logits of a batch, whatever else the network returns beside them"
        xb = tuple(self.place(x) for x in xb)
        with autocast(self.learn): z = self.model(*xb)
        if isinstance(z, (tuple, list)): z = z[0]
        n = find_bs(xb)
        if not isinstance(z, Tensor) or z.ndim != 2 or len(z) != n or z.shape[1] < 2:
            got = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
            raise ValueError(f"expected a row of at least two logits per image, ({n},c), from the "
                             f"model, got {got}. What is measured here is defined for single-label "
                             "classification.")
        return z.as_subclass(Tensor).float()

# --- images, changed ------------------------------------------------------------------------------
def _changed(change, x, ids, who):
    "`change` applied to pixels in [0,1], checked, in the form they came in"
    if not x.is_floating_point():
        raise ValueError(f"{who} expected float pixels in [0,1] before Normalize, got {x.dtype}. "
                         "Put IntToFloatTensor among the batch_tfms.")
    px = PixelSpace().check(x.as_subclass(Tensor), who).float()
    new = change(px, ids)
    if not isinstance(new, Tensor) or new.shape != px.shape or not new.is_floating_point():
        got = type(new).__name__
        if isinstance(new, Tensor): got = f"{new.dtype} {tuple(new.shape)}"
        raise ValueError(f"`change` must return float pixels of shape {tuple(px.shape)}, got "
                         f"{got}. Keep the images' size and the scale [0,1].")
    return new.to(x.device, x.dtype).as_subclass(type(x))

def wrong(z, y):
    "Whether the predictions of a batch of logits are wrong, bool (b,); refuses what cannot be counted"
    bad = int((~torch.isfinite(z)).any(1).sum())
    if bad:
        raise ValueError(f"expected finite logits, got NaN or inf for {bad} of {len(z)} images. "
                         "Has the training diverged? In mixed precision try `learn.to_fp32()`.")
    if y.min() < 0 or y.max() >= z.shape[1]:
        raise ValueError(f"expected labels in 0..{z.shape[1]-1}, one output of the model each, got "
                         f"{int(y.min())} to {int(y.max())}. Are the classes those of the "
                         "training?")
    return z.argmax(1) != y

def changed_rows(rest, reader, changes, tick=None, keep=None):
    "Logits of each of `changes` over a reader's batches, or what `keep` makes of them, and the labels"
    zs,ys = [[] for _ in changes],[]
    at,who = 0,rest.who
    for xb,yb in reader:
        x = need_pixels(xb, who)
        y = need_target(yb)
        ids = torch.arange(at, at+len(x))
        at += len(x)
        for z,change in zip(zs, changes):
            new = x if change is None else _changed(change, x, ids, who)
            out = rest.logits(reader.finish(new, yb)).cpu()
            z.append(keep(out, y) if keep else out)
            if tick: tick()
        ys.append(y)
    if not ys:
        raise ValueError(f"{who} expected a loader with images, got an empty one. Give one with "
                         "labels, such as `learn.dls.test_dl(items, with_labels=True)`.")
    return [torch.cat(z) for z in zs],torch.cat(ys)

def passes(learn, dl, changes, who, tick=None, keep=None):
    """`shifted_preds` for several changes of each batch, which is loaded and decoded once: ([logits], y). `tick()` is
    called after each forward pass, `keep(z, y)` gives what to keep of a batch of logits"""
    need_learner(learn)
    dl = asked_loader(learn, dl, who)
    with AtRest(learn, who) as rest:
        if getattr(dl, 'n', None) == 0: return changed_rows(rest, [], changes)
        warn_callbacks(learn, who)
        return changed_rows(rest, rest.read(dl, cut=True), changes, tick, keep)

def shifted_preds(
    learn,          # A Learner that classifies images; stays as it is, its recorder and random streams too
    dl=None,        # A fastai loader with labels; None: `learn.dls.valid`. Of the training loader: without augmentation
    # Function (x, ids) -> x of pixels float32 in [0,1] (b,c,h,w), of clips (b,t,c,h,w); ids int64 (b,), on the CPU, are
    # the positions of the images in the loader's order; None: nothing is changed
    change=None
)->tuple:           # (logits float32 (n,c), labels int64 (n,)), on the CPU
    "Logits for the images of a loader, changed by `change` just before Normalize; nothing is changed in `dls`"
    zs,y = passes(learn, dl, [change], 'shifted_preds')
    return zs[0],y

# --- items by position ----------------------------------------------------------------------------
def each_batch(learn, dl, see, who):
    """Call `see(logits, targets, positions)` for the batches of a loader, every item once; positions are None where it
    does not tell them"""
    with AtRest(learn, who) as rest:
        reader = rest.read(dl)
        for i,(xb,yb) in enumerate(reader):
            if i == 0: order = epoch_idxs(reader.dl)
            z = rest.logits(*xb)
            see(z, yb, batch_idxs(reader.dl, i, len(z), order))

def training_pass(learn, see, who):
    "`each_batch` of the training set; on several ranks each looks at all items"
    each_batch(learn, plain_dl(learn.dls.train), see, who)

def by_position(learn, dl, who):
    "Logits float32 (n,c) and the first target of every item of a loader, by position in its dataset, on the CPU"
    found = []
    def see(z, yb, ids):
        if ids is None:
            raise ValueError(f"{who} expected a loader whose items have positions, got one that "
                             "streams them. Build it over a dataset with `__getitem__`.")
        found.append((ids, z.cpu(), yb[0].as_subclass(Tensor).cpu()))
    each_batch(learn, dl, see, who)
    ids,z,y = map(torch.cat, zip(*found))
    back = ids.argsort()
    return z[back],y[back]

def training_probs(learn, who):
    "softmax of the logits of the training items, float64 (n,c)"
    z,_ = by_position(learn, plain_dl(learn.dls.train), who)
    return z.softmax(1).double().numpy()
