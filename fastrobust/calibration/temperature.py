"Temperature scaling: one number T, fitted on items the network was not trained on, makes its confidence honest"
# softmax(z/T): T > 1 blunts, T < 1 sharpens; the order of the classes, hence accuracy, stays. Not
# to be mixed up with LogitNorm's tau (bounds the logits in training) or the T of the energy and
# ODIN scores (chosen for telling unknown images from known ones): neither is fitted for
# calibration, and none of them may be put in another's place.
import copy
from numbers import Real
import torch
from fastai.callback.mixup import MixHandler
from fastrobust.basics import need_learner, plain_dl, robust_warn
from fastrobust.calibration.few import few_to_fit
from fastrobust.inference.fitting import fit_temperature
from fastrobust.data.apart import share_items
from fastrobust.inference.keys import net_mark
from fastrobust.inference.passes import passes, wrong
from fastrobust.losses import FuncLoss
from fastrobust.training.callback import set_loss
from fastrobust.training.objective import inner_loss

__all__ = ['temperature_scale', 'untemper']

class Tempered:
    "softmax(z/T) in place of a loss's `activation`: `get_preds`, `predict` and Interpretation then give it"
    wrapped = False     # Whether a function was wrapped to hold this
    def __init__(self,
        T:float,    # Temperature, above 0
        mark=None   # `net_mark` of the network it was fitted for; None: not known
    ):
        if isinstance(T, bool) or not isinstance(T, Real):
            raise TypeError(f"`T` must be a number, got {T!r}. `temperature_scale(learn)` fits "
                            "one.")
        if not 0 < T < float('inf'):
            raise ValueError(f"`T` must be positive and finite, got {T}. 1 changes nothing; "
                             "`untemper(learn)` takes it off.")
        self.T,self.mark = float(T),mark
    def __call__(self, z):
        if z.dtype != torch.float64: z = z.float()
        return (z/self.T).softmax(-1)
    def __repr__(self): return f'Tempered({self.T:.6g})'

def stale_note(learn):
    "A warning, and a note, where the temperature in the learner is older than its weights"
    act = getattr(_loss(learn), '__dict__', {}).get('activation')
    mark = getattr(act, 'mark', None)
    now = net_mark(learn.model)
    if mark is None or abs(mark-now) <= 1e-6*max(1., abs(mark)): return []
    note = (f"The network has changed since its T = {act.T:.4g} was fitted, so this T is out of "
            "date. Call temperature_scale again after training.")
    robust_warn(note)
    return [note]

def _argmax(p): return p.argmax(-1)

def _loss(learn):
    "The learner's loss without techniques and without what a Ctrl-C under MixUp leaves around it"
    need_learner(learn)
    loss = learn.loss_func
    owner = getattr(loss, '__self__', None)
    if isinstance(owner, MixHandler): loss = owner.old_lf
    return inner_loss(loss)

def temperature_of(
    learn   # Any Learner
):          # A float, or None
    "The temperature in the learner's predictions"
    act = getattr(_loss(learn), '__dict__', {}).get('activation')
    return act.T if isinstance(act, Tempered) else None

def bare_loss(loss):
    "A copy of `loss` as it was before a temperature came into it"
    new = copy.deepcopy(loss)
    act = getattr(new, '__dict__', {}).get('activation')
    if not isinstance(act, Tempered): return new
    del new.activation
    if vars(new).get('decodes') is _argmax: del new.decodes
    return new.f if act.wrapped else new

def _softmax_or_none(loss, z):
    "Refuse a loss whose predictions are no softmax of the logits"
    act = getattr(loss, 'activation', None)
    try: p = act(z.clone()) if callable(act) else z
    except Exception: p = None
    if isinstance(p, torch.Tensor) and p.shape == z.shape:
        p = p.float()
        if any(torch.allclose(p, o, atol=1e-4) for o in (z.softmax(1), z)): return
    raise ValueError(f"expected a loss whose activation is the softmax, got {loss!r} with another: "
                     "z/T has no meaning there. Use a single-label loss such as "
                     "CrossEntropyLossFlat.")

def temper(
    learn,  # A Learner of single-label classification, with techniques or without
    T:float # Temperature, above 0; one that is there already is replaced
):
    "Predict softmax(z/T) from now on; the loss, what it minimises, accuracy and the raw logits stay as they are"
    old = _loss(learn)
    act = Tempered(T, net_mark(learn.model))
    # a copy: fastai's default loss is one object for every learner on these dls
    loss = bare_loss(old)
    c = max(2, getattr(learn.dls, 'c', 0) or 2)
    z = torch.linspace(-2, 3, 2*c).view(2, -1)
    _softmax_or_none(loss, z)
    if not hasattr(loss, 'reduction'):      # F.cross_entropy has no place for a T
        loss = FuncLoss(loss)
        act.wrapped = True

    before = _value(loss, z, learn)
    loss.activation = act
    if not hasattr(loss, 'decodes'): loss.decodes = _argmax
    after = _value(loss, z, learn)
    if before is not None and (after is None or not torch.allclose(before, after, equal_nan=True)):
        raise ValueError(f"expected a loss that does not use its own `activation`, got {loss!r}: "
                         "with a temperature in it training would change. Compute its softmax in "
                         "`forward`.")
    set_loss(learn, loss)

def _value(loss, z, learn):
    "The loss of two items, None where it cannot be had from logits and labels alone"
    device = next(learn.model.parameters(), z).device
    try:
        y = torch.tensor([0, 1], device=device)
        return loss(z.to(device), y).detach().as_subclass(torch.Tensor)
    except Exception: return None

def untemper(
    learn   # A Learner
):
    "Take the temperature out of the learner's predictions"
    if temperature_of(learn) is None:
        robust_warn("untemper found no temperature in this learner: nothing is changed.")
        return
    set_loss(learn, bare_loss(_loss(learn)))

def temperature_scale(
    learn,      # A Learner that classifies images; only the `activation` of (a copy of) its loss changes
    # Loader with labels to fit on, of images not trained on; None: `learn.dls.valid`. Of fewer than
    # 50 a warning says between which bounds T lies
    fit_dl=None
)->float:       # T
    """Fit T on the validation set and predict softmax(z/T) from now on: `get_preds`, `predict`, an exported learner.
    Again: a new T replaces the old one. After more training fit it anew; `untemper(learn)` takes it off"""
    _loss(learn)
    z,y = labelled_logits(learn, fit_dl, 'temperature_scale')
    warn_fit_items(learn, fit_dl)
    T = fit_temperature(z, y)
    few_to_fit(z, y)
    temper(learn, T)
    return T

def labelled_logits(learn, dl, who):
    "Raw logits (n,c) and labels (n,) of a loader, checked"
    def keep(z, y):
        wrong(z, y)     # refuses what cannot be counted
        return z

    (z,),y = passes(learn, dl, [None], who, keep=keep)
    if (z >= 0).all() and ((z.sum(1)-1).abs() < 1e-3).all():
        raise ValueError(f"{who} expected logits from the model, got probabilities. Let it end in "
                         "a linear layer, without a softmax.")
    if temperature_of(learn) is None: _softmax_or_none(_loss(learn), z[:64])
    return z,y

def warn_fit_items(learn, fit_dl):
    "A warning, and a note, where T is fitted on wrong labels or on items the network has trained on"
    noise = getattr(learn.dls, 'noise', None)
    valid = getattr(noise, 'valid', None)
    notes = []
    if valid is not None and (fit_dl is None or fit_dl is learn.dls.valid):
        notes.append(f"{valid.realised_rate:.1%} of the labels T is fitted on are wrong on purpose "
                     "(noisy_valid): it makes confidence fit these labels, not the true ones. Give "
                     "a `fit_dl` with clean labels.")
    if fit_dl is not None and share_items(plain_dl(fit_dl), plain_dl(learn.dls.train)):
        notes.append("T is fitted on the training set, where the network is surer and more often "
                     "right than elsewhere: T will be too small. Give a `fit_dl` of other images.")
    for o in notes: robust_warn(o)
    return notes
