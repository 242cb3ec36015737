"A plain fastai Learner out of one with techniques: it loads where fastrobust is not installed"
import copy
from types import SimpleNamespace
import torch
from torch import nn
from fastai.callback.rnn import ModelResetter, RNNCallback
from fastai.data.core import DataLoaders, Datasets, TfmdDL, TfmdLists
from fastai.learner import AvgMetric, Learner
from fastai.losses import BaseLoss, CrossEntropyLossFlat
from fastai.optimizer import Adam
from fastrobust.basics import need_learner, robust_warn
from fastrobust.calibration.temperature import bare_loss, temperature_of
from fastrobust.data.apart import OPEN_SET_FACTS, trained_open_sets
from fastrobust.pixels import peek_images
from fastrobust.resting import at_rest
from fastrobust.training.objective import inner_loss
from fastrobust.training.surgery import SurgeonSplit, Surgery, copy_net, unwrap

__all__ = ['strip']

def _ours(o):
    home = getattr(o, '__module__', None) or type(o).__module__ or ''
    return home.split('.')[0] == 'fastrobust'

def _wrappers(model): return [m for m in model.modules() if isinstance(m, Surgery)]

def _has_two(model): return any(hasattr(m, 'nets') for m in _wrappers(model))

def _plain_net(model, i):
    "A copy of `model` without wrappers: of two networks the `i`-th"
    more = sorted({type(m).__name__ for m in _wrappers(model) if not m.plain})
    if more:
        raise ValueError(f"strip expected a network that predicts alone, got {', '.join(more)}: "
                         "auxiliary heads take part in its predictions. Save it with "
                         "`learn.export()`, or train with predict='main'.")
    model = unwrap(copy_net(model), i=i)
    # of a classifier of ours around timm's or torchvision's network: theirs with its parts
    theirs = model.plain() if _ours(model) and hasattr(model, 'plain') else None
    if theirs is not None: model = theirs
    left = sorted({type(m).__name__ for m in model.modules() if _ours(m)})
    if left:
        raise ValueError("strip expected layers of torch, fastai or your own, got "
                         f"{', '.join(left)} of fastrobust. Save this model with `learn.export()`: "
                         "it loads where fastrobust is installed.")
    return model

# --- the data -------------------------------------------------------------------------------------
def _plain_labels(tl):
    "A list of given labels as plain fastai: the labels become its items"
    names = [tl.vocab[int(tl[i])] for i in range(len(tl))]
    categorize = tl.tfms.fs[-1]
    return TfmdLists(names, [categorize], do_setup=False, use_list=None, split_idx=tl.split_idx,
                     types=tl.types)

def _plain_ds(ds):
    "The items without anything of fastrobust"
    if not _ours(ds) and not any(map(_ours, ds.tls)): return ds
    tls = [_plain_labels(tl) if _ours(tl) else tl for tl in ds.tls]
    return Datasets(tls=tls, n_inp=ds.n_inp)

def _plain_pipe(pipe):
    "The transforms that are not ours, in a pipeline of their own"
    pipe = copy.copy(pipe)
    if hasattr(pipe, 'fs'):
        pipe.fs = type(pipe.fs)([t for t in pipe.fs if not _ours(t)])
    return pipe

def _plain_dl(dl):
    "The loader `dl` without anything of fastrobust: given labels as items, none of our batch transforms"
    if not isinstance(dl, TfmdDL) or not isinstance(dl.dataset, Datasets):
        if _ours(dl) or _ours(getattr(dl, 'dataset', None)):
            raise ValueError("strip expected loaders of a DataBlock or array_dls, got a "
                             f"{type(dl).__name__}. Save the learner with `learn.export()`.")
        return dl
    ds = _plain_ds(dl.dataset)
    if _ours(dl):
        new = TfmdDL(ds, bs=dl.bs, shuffle=dl.shuffle, drop_last=dl.drop_last, num_workers=0,
                     device=dl.device, n_inp=dl.n_inp, do_setup=False)
        if hasattr(dl, 'wgts'):
            robust_warn("the sample weights stay behind: the plain learner draws all items alike.")
    else: new = dl.new(ds)
    for k in ('after_item', 'before_batch', 'after_batch'):
        setattr(new, k, _plain_pipe(getattr(dl, k)))
    return new

# --- the temperature ------------------------------------------------------------------------------
def _outputs(model, x):
    "What `model` makes of `x` in evaluation mode, which may be no tensor"
    with at_rest(model): return model(x)

def _scale(layer, k):
    with torch.no_grad():
        for p in layer.parameters(recurse=False): p.mul_(k)

def _linear_end(model, dls):
    "The linear layer that `model` ends in: halving it halves the logits; None if there is none"
    try: x = peek_images(dls)
    except Exception: x = None      # a loaded learner has no items: then only a Sequential will do
    if x is None: return _last_of_sequential(model)

    p = next(model.parameters())
    x = x.to(p.device, p.dtype)
    z = _outputs(model, x)
    if not isinstance(z, torch.Tensor): return None
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
    for layer in reversed(layers):
        _scale(layer, .5)
        half = _outputs(model, x)
        _scale(layer, 2.)               # halving and doubling are exact
        tol = 1e-3*z.abs().max().item()
        if torch.allclose(2*half, z, 1e-3, tol): return layer
    return None

def _last_of_sequential(model):
    end = model
    while isinstance(end, nn.Sequential) and len(end): end = end[-1]
    return end if type(end) is nn.Linear else None

def _fold(T, model, learn):
    "Divide the last linear layer of `model` by `T`"
    layer = _linear_end(model, learn.dls)
    if layer is None:
        raise ValueError("strip expected a network that ends in a linear layer, to divide it by "
                         f"the temperature {T:.4g}, got a {type(model).__name__} that does not. "
                         "Take it off with `untemper(learn)`, or save with `learn.export()`, which "
                         "keeps it and needs fastrobust.")
    _scale(layer, 1/T)
    if _has_two(learn.model):
        robust_warn(f"T = {T:.4g} was fitted to the mean of two networks, and one alone is "
                    "calibrated otherwise. Fit it anew: `temperature_scale(strip(learn))`.")

# --- the learner ----------------------------------------------------------------------------------
def _plain_loss(loss):
    "A copy of `loss`; in the place of ours cross-entropy"
    inner = getattr(loss, 'func', loss) if isinstance(loss, BaseLoss) else loss
    if _ours(loss) or _ours(inner): return CrossEntropyLossFlat()
    return copy.deepcopy(loss)

def _plain_metrics(metrics):
    "Those that are not ours, nor the mean over batches of a function of ours"
    plain = lambda m: not _ours(m) and not (isinstance(m, AvgMetric) and _ours(m.func))
    return [m for m in metrics if plain(m)]

def strip(
    learn:Learner,  # Any learner with techniques; it is left as it is
    which:str='a'   # 'a' or 'b': which of two networks to keep; without two, 'a'
):
    """A new plain Learner with the trained network, fastai and torch classes only; its export loads without fastrobust.
    A temperature goes into the last linear layer: the same probabilities, logits divided by it. What it was trained on
    as open set stays known, in the field `trained_open_sets`: `ood_report` must not take that for unknown"""
    need_learner(learn)
    if which not in ('a', 'b'):
        raise ValueError(f"expected `which` to be 'a' or 'b', one network, got {which!r}. What "
                         "predicts with several (an ensemble, main and auxiliary heads) is saved "
                         "with `learn.export()` and needs fastrobust.")
    if which == 'b' and not _has_two(learn.model):
        raise ValueError("expected two networks for which='b', got one. Use which='a'.")
    heal = getattr(getattr(learn, 'objective', None), 'heal', None)
    if heal: heal()
    T = temperature_of(learn)
    loss = bare_loss(inner_loss(learn.loss_func))
    model = _plain_net(learn.model, 0 if which == 'a' else 1)
    if T is not None: _fold(T, model, learn)

    loss = _plain_loss(loss)
    splitter = learn.splitter
    if isinstance(splitter, SurgeonSplit): splitter = splitter.base
    if _ours(splitter):
        robust_warn("the splitter is fastrobust's; the plain learner has one parameter group.")
        splitter = None
    split = {} if splitter is None else dict(splitter=splitter)
    opt_func = learn.opt_func
    if _ours(getattr(opt_func, 'func', opt_func)):
        robust_warn("the optimizer is fastrobust's; the plain learner has fastai's Adam.")
        opt_func = Adam
    metrics = _plain_metrics(learn.metrics)
    loaders = [_plain_dl(dl) for dl in learn.dls.loaders]
    dls = DataLoaders(*loaders, path=learn.dls.path, device=getattr(learn.dls, 'device', None))
    # logits of a tuple
    rnn = [C() for C in (ModelResetter, RNNCallback) if any(type(cb) is C for cb in learn.cbs)]
    new = Learner(dls, model, loss_func=loss, opt_func=opt_func, lr=learn.lr, metrics=metrics,
                  path=learn.path, model_dir=learn.model_dir, wd=learn.wd, moms=learn.moms,
                  wd_bn_bias=learn.wd_bn_bias, train_bn=learn.train_bn, cbs=rnn, **split)
    seen = trained_open_sets(learn)
    if seen is not None:
        facts = {k: getattr(seen, k) for k in OPEN_SET_FACTS}
        new.trained_open_sets = SimpleNamespace(**facts)
    return new
