"How many labels are wrong, and which? Plant errors, cross-validate, compare. `estimate_tau`: the one number"
from pathlib import Path
import numpy as np
import torch
import torch.nn.functional as F
from fastrobust.basics import need_number, need_whole, robust_warn, target_vocab
from fastrobust.data.editing import given_labels, with_labels
from fastrobust.labels.crossval import cross_val_preds, need_maker
from fastrobust.labels.frozen import Frozen
from fastrobust.labels.mixtures import small_loss_split
from fastrobust.labels.outofsample import warn_in_sample
from fastrobust.labels.planting import KINDS, Plants, few_share, plant_labels
from fastrobust.labels.result import NoiseReport, Tau
from fastrobust.labels.reviewing import item_names
from fastrobust.predictions import need_probs
from fastrobust.resting import keep_random

__all__ = ['noise_report', 'estimate_tau']

FOLDS,DRAWS = 3,5

# --- the report -----------------------------------------------------------------------------------
def _given_probs(y, probs, c):
    "Probabilities from elsewhere, refused where they cannot be evidence; and their folds"
    own = getattr(probs, 'y', None)
    if own is not None and (len(own) != len(y) or (np.asarray(own) != y).any()):
        raise ValueError("expected probabilities made with the labels of these dls, got some made "
                         "with other labels or in another order. Run cross_val_preds on the dls "
                         "that you pass.")
    p = need_probs(y, probs, c)[1]
    if warn_in_sample(y, probs) and not getattr(probs, 'out_of_sample', False):
        raise ValueError("expected out-of-sample probabilities, got some that predict practically "
                         "every label as given, as a network does on items it was trained on: no "
                         "evidence. Take them from cross_val_preds(make_learner, dls), whose "
                         "result is trusted whole, or pass `make_learner`.")
    folds = getattr(probs, 'folds', None)
    if folds is None: folds = np.zeros(len(y), int)
    return p,folds

def _planted_preds(make_learner, dls, y, c, n_folds, share, seed, kind, kwargs):
    "Plant, then cross-validate: probabilities, and what was planted"
    path = kwargs.pop('path', None)
    def run(dls, what):
        where = None if path is None else Path(path)/what
        return cross_val_preds(make_learner, dls, n_folds=n_folds, seed=seed, path=where, **kwargs)

    if not share: return run(dls, 'given'),None
    first = run(dls, 'given') if kind == 'confusion' else None
    new,mask = plant_labels(y, c, share, seed, kind=kind, probs=first)
    return run(with_labels(dls, new), 'planted'),(new, mask)

def need_two_classes(y, vocab):
    "Refuse labels that are all alike"
    have = np.unique(y)
    if len(have) > 1: return
    raise ValueError(f"expected labels of two classes or more, got {len(y)} of {str(vocab[have[0]])!r} alone. "
                     "Nothing can be confused.")

def _need_either(make_learner, dls, probs):
    "Refuse a call without data, or without anything to judge them by"
    if dls is None:
        raise TypeError("expected `dls`, got None. Pass noise_report(make_learner, dls), or "
                        "noise_report(dls=dls, probs=p) with out-of-sample probabilities.")
    if make_learner is None and probs is None:
        raise TypeError("expected `make_learner` or `probs`, got neither. Pass a function that "
                        "builds a new learner, e.g. lambda dls: vision_learner(dls, resnet18), or "
                        "out-of-sample probabilities (n,c).")

def _aum(history, y):
    "Area under the margin of each item (n,), of a `SampleHistory` or as given; None: none"
    if history is None: return None
    given = getattr(history, 'given', None)
    aum = getattr(history, 'aum', None)
    a = np.asarray(aum() if callable(aum) else history)
    if a.shape != y.shape or a.dtype.kind not in 'fiu':
        raise ValueError(f"expected `history` as a SampleHistory or AUM values of the {len(y)} "
                         f"training items, got {a.dtype} of shape {a.shape}. Pass "
                         "`learn.sample_history` of a training on these dls.")
    if callable(aum) and given is not None:
        other = (given >= 0) & (given != y)
        if other.any():
            raise ValueError("expected a history of the labels of these dls, got other labels for "
                             f"{int(other.sum())} items. Pass that of a training on them.")
    return a.astype(float)

def left_out_report(
    out,        # `LeaveOut` of the labels
    y,          # Given labels (n,)
    vocab,      # Names of the classes
    plant=.05,  # Share of labels to plant; 0: none
    draws=DRAWS, # Times
    seed=0,     # Of the planting
    **kwargs    # More for `NoiseReport`
)->NoiseReport:
    "Report of items that were left out one by one; labels are planted like the errors that are found"
    p = out.probs()
    def planted(law, use):
        even = law.spread >= 1
        n = int(use.sum())
        for s in np.random.SeedSequence(seed).generate_state(draws if plant and n > 1 else 0).tolist():
            new,mask = plant_labels(y, len(vocab), few_share(plant, n), s, kind=law, probs=None if even else p, use=use)
            i = np.flatnonzero(mask)
            yield Plants(i, new[mask], out.planted(i, new[mask]))
    return NoiseReport(y, p, vocab, planted=planted, **kwargs)

def noise_report(
    # Who judges: frozen(body), which trains nothing; or a function (dls) -> new Learner on those dls,
    # trained in folds, with smaller batches where items are few: a robust loss (GCELoss, up to 20
    # classes) keeps these from learning the errors, as pair noise makes a plain network do. Not needed
    # beside `probs`
    make_learner=None,
    dls=None,           # DataLoaders with one single-label target; they stay as they are
    probs=None,         # Out-of-sample probabilities (n,c) in the order of the training set: nothing is trained
    n_folds:int=FOLDS,  # Networks to train, each on the other folds; not for a frozen judge
    plant:float=.05,    # Share of labels made wrong to measure by, in [0,.5]; 0: none, no check on the audit itself
    *,
    seed:int=0,         # Of the planting, folds and networks; the global streams are put back
    # Of folds: 'symmetric', or 'confusion': as a first round of folds confuses them (twice the time).
    # A frozen judge plants labels like the errors it finds
    plant_kind:str='symmetric',
    draws:int=DRAWS,    # Times that a frozen judge plants
    history=None,       # A fitted `SampleHistory`, or AUM values (n,) by position: column `aum` of the table
    verbose:bool=True,  # Show how far it is?
    **kwargs            # More for `cross_val_preds`: epochs, lr, fit, path
)->NoiseReport:
    """Share of wrong labels with interval, precision and recall of the list, and all items, most suspicious first; no
    numbers from a judge that cannot judge"""
    if plant_kind not in KINDS:
        raise ValueError(f"`plant_kind` must be one of {KINDS}, got {plant_kind!r}.")
    _need_either(make_learner, dls, probs)
    need_number('plant', plant)
    if not 0 <= plant <= .5:
        raise ValueError(f"`plant` must be a share in [0,.5], 0 for none, got {plant}. Try .05.")
    need_whole('seed', seed, 0)
    y,vocab = given_labels(dls),target_vocab(dls)
    need_two_classes(y, vocab)
    aum = _aum(history, y)
    told = dict(names=item_names(dls.train_ds), aum=aum)
    if probs is not None:
        if kwargs:
            raise ValueError(f"expected no {', '.join(kwargs)} beside `probs`, where nothing is "
                             "trained. Leave them or `probs` out.")
        p,folds = _given_probs(y, probs, len(vocab))
        notes = ["nothing was planted, as the probabilities were given: the tail of planted labels "
                 "is computed from them, and nothing checks that they are out-of-sample."]
        return NoiseReport(y, p, vocab, folds=folds, notes=notes, judge='probabilities as given', **told)
    if isinstance(make_learner, Frozen):
        if kwargs:
            raise ValueError(f"expected no {', '.join(kwargs)} with a frozen judge, which trains nothing. "
                             "Leave them out; a folder for its features: frozen(body, path=).")
        if plant_kind != KINDS[0]:
            raise ValueError(f"expected no plant_kind={plant_kind!r} with a frozen judge, which plants labels like the "
                             "errors it finds. Leave it out.")
        if n_folds != FOLDS:
            raise ValueError(f"expected no n_folds={n_folds!r} with a frozen judge, which trains no folds: each item "
                             "is left out by itself. Leave it out.")
        need_whole('draws', draws, 1)
        out = make_learner.left_out(dls, y, len(vocab), verbose)
        return left_out_report(out, y, vocab, plant, draws, seed, judge=make_learner.says(out),
                               notes=make_learner.notes(), **told)
    if draws != DRAWS:
        raise ValueError(f"expected no draws={draws!r} with networks trained in folds, which see planted labels once. "
                         "Leave it out.")
    need_maker(make_learner)
    res,planted = _planted_preds(make_learner, dls, y, len(vocab), n_folds, plant, seed,
                                 plant_kind, dict(verbose=verbose, **kwargs))
    return NoiseReport(y, res.probs, vocab, folds=res.folds, planted=planted, kind=plant_kind,
                       judge=f'networks trained in {n_folds} folds', **told)

# --- the rate alone -------------------------------------------------------------------------------
def _warmed_up(make_learner, dls, epochs):
    "Losses of the training items after a short training on all of them, and their mixture"
    with keep_random():
        learn = make_learner(dls)
        dl = dls.train.new(shuffle=False, drop_last=False)
        with learn.no_bar(), learn.no_logging():
            learn.fit_one_cycle(epochs)
            preds,targs = learn.get_preds(dl=dl)[:2]
    preds = preds.as_subclass(torch.Tensor).float()
    targs = targs.as_subclass(torch.Tensor).long()
    l = F.nll_loss(preds.clamp(min=1e-9).log(), targs, reduction='none').numpy()
    split = small_loss_split(np.minimum(l, np.quantile(l, .999)))

    r = float(split.weights[1])
    surely_noisy = float(np.nanmean(split.posterior < .1))
    not_surely_clean = 1-float(np.nanmean(split.posterior > .9))
    return Tau(min(r, .99), min(r, surely_noisy), min(max(r, not_surely_clean), .99))

def estimate_tau(
    make_learner=None,  # frozen(body), or a function (dls) -> new Learner on those dls; not needed beside `probs`
    dls=None,           # DataLoaders with one single-label target; they stay as they are
    probs=None,         # Out-of-sample probabilities (n,c): nothing is trained
    *,
    method:str='planted', # 'planted' (`noise_report`), or 'gmm': small-loss mixture after a warm-up, one short training
    warmup:int=3,       # gmm: epochs of warm-up; more lets the network learn the wrong labels too
    verbose:bool=True,  # Print it
    **kwargs            # planted: more for `noise_report`, such as `path`: folds are kept there, the same call is free
)->Tau:
    "Share of wrong labels for JoCoR, Co-teaching, `advise` and others: `(tau, lo, hi)`, printed with its interval"
    if method not in ('planted', 'gmm'):
        raise ValueError(f"`method` must be 'planted' or 'gmm', got {method!r}. 'planted' is the "
                         "more exact one.")
    _need_either(make_learner, dls, probs)
    if method == 'gmm':
        if kwargs or probs is not None:
            raise ValueError("expected neither `probs` nor settings of `noise_report` with "
                             "method='gmm', got some. Leave them out, or use method='planted'.")
        need_maker(make_learner)
        given_labels(dls)       # refuses what has no single label
        tau,caveats = _warmed_up(make_learner, dls, warmup),[]
    else:
        if probs is None: kwargs = dict(verbose=False, **kwargs)
        rep = noise_report(make_learner, dls, probs, **kwargs)
        tau,caveats = rep.tau,rep.caveats
        if not rep.trusted: robust_warn(rep.why)
    if verbose:
        print(tau)
        for o in caveats: print(f'  {o}')
    return tau
