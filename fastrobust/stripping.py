"A plain fastai Learner out of one with techniques: it loads where fastrobust is not installed"
import copy
from fastai.data.core import DataLoaders, Datasets, TfmdDL
from fastai.learner import AvgMetric, Learner
from fastai.losses import BaseLoss, CrossEntropyLossFlat
from fastrobust.basics import robust_warn
from fastrobust.models import Surgery, SurgeonSplit

__all__ = ['strip']

def _ours(o): return (getattr(o, '__module__', None) or type(o).__module__ or '').split('.')[0] == 'fastrobust'

def _plain_net(model, i):
    "A copy of `model` without wrappers: of two networks the `i`-th"
    model = copy.deepcopy(model)
    def go(m):
        while isinstance(m, Surgery): m = list(m.nets)[i] if hasattr(m, 'nets') else m.inner()
        for k,c in m.named_children():
            new = go(c)
            if new is not c: setattr(m, k, new)
        return m
    model = go(model)
    left = sorted({type(m).__name__ for m in model.modules() if _ours(m)})
    if left:
        raise ValueError(f"strip expected layers of torch, fastai or your own, got {', '.join(left)} of fastrobust. "
                         "Save this model with `learn.export()`: it loads where fastrobust is installed.")
    return model

def _plain_dl(dl):
    "The loader `dl` as a `TfmdDL` over plain `Datasets`, without fastrobust's batch transforms (they only train)"
    ds = dl.dataset
    if _ours(ds) or any(_ours(t) for t in getattr(ds, 'tls', [])):
        ds = Datasets(tls=[tl._new(tl.items, split_idx=tl.split_idx) if _ours(tl) else tl for tl in ds.tls])
    parts = {k: [t for t in getattr(getattr(dl, k, None), 'fs', []) or [] if not _ours(t)]
             for k in ('after_item', 'before_batch', 'after_batch')}
    new = TfmdDL(ds, bs=dl.bs, shuffle=getattr(dl, 'shuffle', False), drop_last=dl.drop_last, num_workers=0,
                 device=dl.device, n_inp=getattr(dl, 'n_inp', None), do_setup=False)
    for k,fs in parts.items():
        pipe = copy.copy(getattr(dl, k)) if hasattr(getattr(dl, k, None), 'fs') else getattr(new, k)
        if hasattr(pipe, 'fs'): pipe.fs = type(pipe.fs)(fs)
        setattr(new, k, pipe)
    return new

def strip(
    learn:Learner,  # Any learner with techniques; it is left as it is
    which:str='a'   # 'a' or 'b': which of two networks to keep; without two, 'a'
):
    "A new plain Learner with the trained network, fastai and torch classes only; its export loads without fastrobust"
    if which not in ('a', 'b'):
        raise ValueError(f"expected `which` to be 'a' or 'b', one network, got {which!r}. What predicts with several "
                         "(an ensemble, main and auxiliary heads) is saved with `learn.export()` and needs fastrobust.")
    if which == 'b' and not any(hasattr(m, 'nets') for m in learn.model.modules() if isinstance(m, Surgery)):
        raise ValueError("expected two networks for which='b', got one. Use which='a'.")
    heal = getattr(getattr(learn, 'objective', None), 'heal', None)
    if heal: heal()
    loss = getattr(learn.loss_func, 'base', learn.loss_func)
    inner = getattr(loss, 'func', loss) if isinstance(loss, BaseLoss) else loss
    plain = not _ours(loss) and not _ours(inner)
    loss = copy.deepcopy(loss) if plain else CrossEntropyLossFlat()
    splitter = learn.splitter.base if isinstance(learn.splitter, SurgeonSplit) else learn.splitter
    if _ours(splitter):
        robust_warn("the splitter is fastrobust's; the plain learner has one parameter group.")
        splitter = None
    metrics = [m for m in learn.metrics if not _ours(m) and not (isinstance(m, AvgMetric) and _ours(m.func))]
    dls = DataLoaders(*(_plain_dl(dl) for dl in learn.dls.loaders), path=learn.dls.path, device=learn.dls.device)
    kw = {} if splitter is None else dict(splitter=splitter)
    return Learner(dls, _plain_net(learn.model, 0 if which == 'a' else 1), loss_func=loss, opt_func=learn.opt_func,
                   lr=learn.lr, metrics=metrics, path=learn.path, model_dir=learn.model_dir, wd=learn.wd,
                   moms=learn.moms, **kw)
