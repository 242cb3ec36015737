"Out-of-sample probabilities of every training item: a fresh learner per fold predicts what it was not trained on"
import gc, math, time, weakref
from functools import partial
from pathlib import Path
import numpy as np
import torch
from torch import nn
from fastai.callback import schedule   # noqa: F401 (gives Learner its fine_tune and fit_one_cycle)
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.torch_core import set_seed
from fastrobust.basics import need_whole, robust_warn, shown, target_vocab
from fastrobust.data.editing import given_labels, split_items, stratified_folds
from fastrobust.inference.archs import family
from fastrobust.inference.notes import warn_callbacks
from fastrobust.inference.passes import by_position
from fastrobust.inference.pretrained import arch_name
from fastrobust.losses import BalancedGCELoss, GCELoss
from fastrobust.labels.outoffold import OutOfFold, run_marks, store_fold, stored_folds
from fastrobust.resting import keep_random
from fastrobust.training.checks import training_loss

__all__ = ['cross_val_preds']

FROM_SCRATCH = 8,20  # Epochs of a network from scratch: at least, at most
PRETRAINED = 4      # Epochs of `fine_tune`
FORGIVING = 20      # Classes up to which GCE learns fast enough; it keeps folds from learning errors
_EXAMPLE = 'lambda dls: vision_learner(dls, resnet18)'

def need_maker(make_learner):
    "Refuse anything but a function that builds a new learner on the loaders it is given"
    if isinstance(make_learner, Learner):
        raise TypeError("expected a function that builds a new Learner, got a Learner. What a "
                        "network says of items it was trained on is no evidence about their labels "
                        "(in-sample probabilities). Either pass a maker, "
                        f"cross_val_preds({_EXAMPLE}, dls) or noise_report({_EXAMPLE}, dls), or "
                        "give probabilities of networks that did not see the items, "
                        "noise_report(.., probs=).")
    if family(make_learner):
        raise TypeError("expected a function that builds a new Learner, got the architecture "
                        f"{arch_name(make_learner)}. Write frozen({arch_name(make_learner)}), which "
                        "trains nothing, where that is taken, or "
                        f"{_EXAMPLE.replace('resnet18', arch_name(make_learner))}.")
    if isinstance(make_learner, nn.Module) or not callable(make_learner):
        raise TypeError(f"expected `make_learner` as a function of dls, got {shown(make_learner)}. "
                        f"For example: {_EXAMPLE}.")

# --- folds ----------------------------------------------------------------------------------------
def _warn_rare(y, vocab, n_folds):
    counts = np.bincount(y, minlength=len(vocab))
    few = np.flatnonzero((counts > 0) & (counts < n_folds))
    rare = [f'{vocab[k]} ({counts[k]})' for k in few]
    if rare:
        robust_warn(f"classes with fewer items than the {n_folds} folds: {', '.join(rare[:10])}. "
                    "Every item is still predicted by a network that did not see it, but where a "
                    "class has a single item that network never saw the class, and the item looks "
                    "wrong whatever it is. Look at these yourself.")

# --- one fold -------------------------------------------------------------------------------------
def usual_bs(n):
    "Batch size for `n` items to train on: few items need small batches (a rule of thumb)"
    return int(np.clip(n//28, 8, 64))

def usual_epochs(n, bs):
    "Epochs of a network from scratch on `n` items: 150 steps at least (a rule of thumb)"
    return int(np.clip(225*bs//max(n, 1), *FROM_SCRATCH))

def _train(learn, epochs, lr):
    "`fine_tune` where the body is frozen (a pretrained net), else one cycle"
    if getattr(learn.opt, 'frozen_idx', 0):
        learn.fine_tune(epochs or PRETRAINED, **({} if lr is None else dict(base_lr=lr)))
        return
    if epochs is None: epochs = usual_epochs(len(learn.dls.train_ds), learn.dls.bs)
    learn.fit_one_cycle(epochs, lr_max=lr)

def _warn_slow_loss(learn, classes):
    loss = training_loss(learn)
    if not isinstance(loss, (GCELoss, BalancedGCELoss)): return
    if loss.q*math.log(classes) <= GCELoss().q*math.log(FORGIVING): return
    robust_warn(f"GCE with q={loss.q:.3g} learns too slowly on {classes} classes (rule of thumb: .7 up to {FORGIVING}, "
                "as recipe='noisy_labels' sets it for more). Build "
                "the learner with cross-entropy, or take a judge that trains nothing: "
                "noise_report(frozen(resnet18), dls).")

def _need_own(learn, part, seen):
    "Refuse a learner that could have seen the items it is to predict"
    if not isinstance(learn, Learner):
        raise TypeError(f"expected `make_learner` to return a Learner, got {type(learn).__name__}. "
                        f"For example: {_EXAMPLE}.")
    if learn.dls is not part:
        raise ValueError("expected a learner on the loaders of this fold, got one on others: it "
                         "would train on items it is to predict. Use the `dls` that the function "
                         f"is given: {_EXAMPLE}.")
    known = lambda p: id(p) in seen and seen[id(p)]() is p
    if any(p.requires_grad and known(p) for p in learn.model.parameters()):
        raise ValueError("expected a new network for each fold, got the one that another fold "
                         f"trained on these items. Build it inside the function: {_EXAMPLE}.")

def _probs(learn, y, classes):
    "Probabilities of the fold's items, checked"
    z,targs = by_position(learn, learn.dls.valid, 'cross_val_preds')
    act = getattr(learn.loss_func, 'activation', None)
    if callable(act): z = act(z)

    if not isinstance(z, torch.Tensor) or tuple(z.shape) != (len(y), classes):
        got = tuple(z.shape) if isinstance(z, torch.Tensor) else type(z).__name__
        raise ValueError(f"expected predictions of shape ({len(y)},{classes}), one column per "
                         f"class of the vocab, got {got}. Give the network as many outputs as "
                         "`dls.c`.")
    if (targs.numpy().ravel() != y).any():
        raise ValueError("expected the fold's items in their order, got predictions of other "
                         "labels. Use loaders that return every item with its given label.")

    z = z.as_subclass(torch.Tensor).float()
    if not z.isfinite().all():
        raise ValueError("expected finite predictions, got NaN or inf: the training diverged. "
                         "Lower its learning rate.")
    off = (z.sum(1)-1).abs().max().item()
    if z.min() >= 0 and off < .05:
        if off > 1e-4: z = z/z.sum(1, keepdim=True)     # half: rounded
        return z.numpy()
    robust_warn("the learner's loss has no activation, so it predicts logits: their softmax is "
                "taken.")
    return z.softmax(1).numpy()

def _fold(make_learner, dls, y, valid, classes, seed, fit, seen):
    "(probabilities, accuracy on given labels, seconds) of one fold"
    t = time.perf_counter()
    set_seed(seed)      # before the loaders, which draw their own streams when they are made
    part = split_items(dls, ~valid, valid)
    bs = min(usual_bs(len(y)), dls.bs or 64)
    if bs != dls.bs: part = DataLoaders(*(o.new(bs=bs) for o in part.loaders), path=part.path, device=part.device)
    learn = make_learner(part)
    _need_own(learn, part, seen)
    first = not seen
    if first: _warn_slow_loss(learn, classes)
    seen.update((id(p), weakref.ref(p)) for p in learn.model.parameters())
    with learn.no_bar(), learn.no_logging():
        fit(learn)
        _need_own(learn, part, {})
        if first: warn_callbacks(learn, 'cross_val_preds')
        probs = _probs(learn, y[valid], classes)
    acc = float((probs.argmax(1) == y[valid]).mean())
    return probs,acc,time.perf_counter()-t

# --- all folds ------------------------------------------------------------------------------------
def cross_val_preds(
    make_learner,   # Function (dls) -> new Learner on *those* dls, e.g. `lambda dls: vision_learner(dls, resnet18)`
    dls,            # DataLoaders with one single-label target; they stay as they are, validation set included
    n_folds:int=5,  # Each item is predicted by the one of so many networks that did not train on it
    seed:int=0,     # Of folds, initialisation and batches; the global streams are put back
    *,
    # Epochs per fold: of `fine_tune` where the body is frozen (None: 4), else of `fit_one_cycle`
    # (None: 8 to 20, by the number of items)
    epochs:int=None,
    lr:float=None,  # Its learning rate; None: fastai's default, or the learner's own `lr`
    fit=None,       # In place of epochs and lr: function (learn) that trains, e.g. `lambda learn: learn.fine_tune(3)`
    path=None,      # Folder that keeps finished folds: after an interrupt the same call goes on from there
    verbose:bool=True, # A line per fold
    tag:str=''      # Settings that the code of the functions does not show, e.g. the architecture: kept with the folds
)->OutOfFold:
    "Out-of-sample probabilities of all training items, folds stratified by given label, columns as in `dls.vocab`"
    need_maker(make_learner)
    if fit is not None and not (epochs is lr is None):
        raise ValueError(f"expected either `fit` or `epochs` and `lr`, got both (epochs={epochs}, "
                         f"lr={lr}). Say them inside `fit`.")
    if epochs is not None: need_whole('epochs', epochs, 1)
    train = fit or partial(_train, epochs=epochs, lr=lr)

    y,vocab = given_labels(dls),target_vocab(dls)
    folds = stratified_folds(y, n_folds, seed)
    _warn_rare(y, vocab, n_folds)
    marks = run_marks(dls, y, folds, seed, vocab, train, make_learner, tag)
    done = {} if path is None else stored_folds(Path(path), marks, n_folds)
    seen:dict = {}

    def fold(k):
        fold_seed = int(np.random.SeedSequence([seed, k]).generate_state(1)[0])
        return _fold(make_learner, dls, y, folds == k, len(vocab), fold_seed, train, seen)

    with keep_random():
        try: _all_folds(fold, n_folds, done, path, marks, verbose)
        except KeyboardInterrupt:
            _tell_what_is_kept(len(done), n_folds, path)
            raise

    probs = np.empty((len(y), len(vocab)), np.float32)
    for k in range(n_folds): probs[folds == k] = done[k][0]
    fold_acc = [done[k][1] for k in range(n_folds)]
    seconds = sum(secs for _,_,secs in done.values())
    return OutOfFold(probs, y, folds, vocab, fold_acc, seconds)

def _all_folds(fold, n_folds, done, path, marks, verbose):
    "Fill `done`, fold -> (probabilities, accuracy, seconds), with what is not in it; each is kept in `path`, if given"
    for k in range(n_folds):
        where = f', from {path}' if k in done else ''
        if k not in done:
            done[k] = fold(k)
            _free()
            if path is not None: store_fold(Path(path), k, marks, *done[k])
        _,acc,secs = done[k]
        line = f"fold {k+1} of {n_folds}: accuracy on given labels {acc:.3f}, {secs:.0f} s{where}"
        if verbose: print(line, flush=True)

def _tell_what_is_kept(n, n_folds, path):
    kept = f"They are in {path}: call again to go on."
    if path is None: kept = "They are gone: give `path=` next time."
    if not n: kept = "Nothing was kept: the next call begins anew."
    robust_warn(f"interrupted with {n} of {n_folds} folds finished. {kept}")

def _free():
    "Give back what the last fold's network took"
    gc.collect()
    if torch.cuda.is_available(): torch.cuda.empty_cache()
