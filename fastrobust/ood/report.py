"Does a learner know what it does not know? `ood_report`: known against unknown images by many scores, from one pass"
import numpy as np
from torch import Tensor
from fastai.learner import Learner
from fastrobust.basics import robust_warn
from fastrobust.inference.collect import walk
from fastrobust.inference.keys import Seen
from fastrobust.inference.loaders import loaders_of, own_loader
from fastrobust.inference.notes import Bar, warn_callbacks
from fastrobust.ood.result import OODReport
from fastrobust.ood.logitscores import OODScore
from fastrobust.inference.tap import feature_tap
from fastrobust.data.openset import (names_shown, parts_of, trained_open_sets)
from fastrobust.training.technique import Technique
from fastrobust.resting import at_rest
from fastrobust.ood.inputs import ME, NINE_SCORES, need_apart, need_unknown, scorers_of, sets_of, training_data

__all__ = ['ood_report']

# --- features -------------------------------------------------------------------------------------
def _drop(scorers, names, why, notes):
    for k in names: scorers.pop(k)
    if names:
        notes.append(f"Left out: {', '.join(names)}; {why}")
        robust_warn(f"{ME} leaves out {', '.join(names)}: {why}", 4)

def _tap(learn, known, scorers, default, notes):
    "The `FeatureTap` that the scores of features need, if any is asked for"
    wanted = [k for k,s in scorers.items() if s.features]
    if not wanted: return None
    with at_rest(learn.model): dl = loaders_of(learn, known, f'{ME} (known images)')[0][0]
    tap = feature_tap(learn, dl)
    if tap is not None: return tap
    why = (f"the logits of this {type(learn.model).__name__} are not what one linear layer makes "
           "of features (a head of another kind, or the mean of several heads).")
    if not default:
        raise ValueError(f"expected a network that ends in a linear layer for {', '.join(wanted)}, "
                         f"but {why} Take scores of logits alone: msp, maxlogit, energy, odin, "
                         "gen.")
    _drop(scorers, wanted, why, notes)

def _fit_data(learn, fit_dl, scorers, default, notes):
    "What the scores that learn from known images learn from, and their names"
    wanted = [k for k,s in scorers.items() if s.features or type(s).fit is not OODScore.fit]
    data = own_loader(learn, 0) if fit_dl is None else fit_dl
    if not wanted or data is not None: return data,wanted
    why = "there are no training images to fit them on (an exported learner has lost them). Give some as `fit_dl`."
    if not default: raise ValueError(f"expected images to fit {', '.join(wanted)} on, but {why}")
    _drop(scorers, wanted, why, notes)
    return None,[]

def _fit(scorers, wanted, train, head, default, notes):
    for k in wanted:
        try: scorers[k].fit(train, head)
        except ValueError as e:
            if not default: raise
            _drop(scorers, [k], str(e), notes)

# --- the report -----------------------------------------------------------------------------------
def _score(s, out, n, where):
    v = s(out)
    v = v.detach().cpu().double().numpy() if isinstance(v, Tensor) else np.asarray(v, dtype=np.float64)
    if v.shape != (n,) or not np.isfinite(v).all():
        got = f"shape {v.shape}" if v.shape != (n,) else f"NaN or infinity in {int((~np.isfinite(v)).sum())}"
        raise ValueError(f"expected one finite number for each of {n} images in {where} from the "
                         f"score {s.name!r}, got {got}. Leave it out of `scores`, or look at the "
                         "logits and features of these images.")
    return v

def _need_logits(z):
    if (z >= 0).all() and ((z.sum(1)-1).abs() < 1e-3).all():
        raise ValueError(f"{ME} expected logits from the model, got probabilities, of which "
                         "energies and the like are no scores. Let it end in a linear layer, "
                         "without a softmax.")

def _unnamed(learn, unknown):
    "A note on sets whose classes nobody told, where auxiliary classes were trained on"
    if trained_open_sets(learn) is None: return []
    sets = [k for k,v in unknown.items() if not names_shown(v, parts_of(v))]
    return [f"What {', '.join(sets)} show is not known, so whether auxiliary images of the "
            "training show the same was judged by files and pixels alone. OpenSet(images, classes) "
            "names it."] if sets else []

def _notes(learn, scorers, fit, known):
    T = [f'{k} T={s.T:g}' for k,s in scorers.items() if hasattr(s, 'T')]
    if T:
        yield (f"Temperatures here ({', '.join(T)}) belong to these scores, which take raw logits. "
               "LogitNorm's tau belongs to its training loss, that of temperature scaling to "
               "probabilities: neither is used here, and none replaces another.")
    energies = [k for k in scorers if k in ('energy', 'react', 'vim')]
    norm = [type(t).__name__ for t in learn.cbs if isinstance(t, Technique) and t.direction_only]
    if energies and norm:
        yield (f"Trained with {norm[0]}: scores that are energies ({', '.join(energies)}) can "
               "break on such networks. A user found an FPR95 above 90 % with the published "
               "weights (logitnorm_ood, issue 6, which takes Energy(T=.1)). Look at msp beside "
               "them.")
    if any(k == 'odin' and not getattr(s, 'eps', 0) for k,s in scorers.items()):
        yield "odin is its temperature alone, without a step of the images: ODIN(eps=..) makes one."
    steps = [f'{k} {s.eps:g}' for k,s in scorers.items() if getattr(s, 'eps', 0)]
    if steps:
        yield (f"Step of the images before scoring, in normalised units: {', '.join(steps)}. To be "
               "chosen on images that are not reported here.")
    if fit is None: return
    names = ', '.join(k for k,s in scorers.items() if s.features)
    yield f"Fitted on {len(fit.images):,} images with their given labels, without augmentation: {names}."
    if getattr(learn.dls, 'noise', None) is not None:
        yield ("Part of the training labels is wrong on purpose: Mahalanobis' class means come "
               "from them as they are. No other number here but the accuracy uses labels, and that "
               "those of the known images.")
    both = len({*fit.images} & {*known.images})
    if both:
        note = (f"{both} known images are among those the scores of features were fitted on, which "
                "flatters these scores. Give known images of their own as `dl`.")
        robust_warn(f'{ME}: {note}', 5)
        yield note

def ood_report(
    learn,              # A Learner that classifies images; it stays as it is, its recorder and random streams too
    unknown,            # Images of none of the learner's classes, or a dict of such sets by name. Each: a fastai
                        # loader, an array or tensor (uint8, or float in [0,1]) that goes through
                        # the validation pipeline, or an `OpenSet`
    scores=NINE_SCORES,       # Names, or OODScore objects with settings; left out, those that the network allows
    positive:str='id',  # Side that FPR95 and AUPR call positive: 'id' (LogitNorm's tables) or 'ood' (ODNL's)
    *,
    dl=None,            # Known images, in the same forms; None: `learn.dls.valid`
    fit_dl=None,        # Known images that scores of features are fitted on; None: the training set, not augmented
    near=()             # Names of the sets near to the known classes, whose means stand apart
)->OODReport:
    "FPR95, AUROC and AUPR of many scores on many unknown sets; each image passes the network once"
    if not isinstance(learn, Learner):
        raise TypeError(f"expected a fastai Learner, got a {type(learn).__name__}. Wrap a model: Learner(dls, model).")
    if not isinstance(unknown, dict) and not isinstance(unknown, (str, bytes)) and unknown is not None:
        unknown = {'unknown': unknown}
    near,scorers,default,notes = sets_of(unknown, positive, near),scorers_of(scores),scores is NINE_SCORES,[]
    known = own_loader(learn, 1) if dl is None else dl
    if known is None:
        raise ValueError("expected known images, got a learner without a validation set (an "
                         "exported one has lost it): unknown images alone tell nothing. Give known "
                         "ones as `dl`, e.g. `learn.dls.test_dl(files)`.")
    warn_callbacks(learn, ME)
    with at_rest(learn.model): need_unknown(learn, unknown)
    tap = _tap(learn, known, scorers, default, notes)
    fit_data,wanted = _fit_data(learn, fit_dl, scorers, default, notes)
    names,bar = list(scorers),Bar(learn, len(unknown)+1+bool(wanted))
    steps = [None, *[s.input_step for s in scorers.values()]]
    def look(data, name, who, **kwargs):
        bar.name(name)
        seen = Seen()
        outs = walk(learn, data, f'{ME} ({who})', tap, seen=seen, **kwargs)
        bar.tick()
        return outs,seen
    ko,ks = look(known, 'known', 'known images', steps=steps, labels=None)
    found = {k: look(v, k, f'set {k!r}', steps=steps, like=ks.shape) for k,v in unknown.items()}
    _need_logits(ko[0].z)
    trained = None if wanted else training_data(learn, notes)
    for k,(_,seen) in found.items(): need_apart(k, seen, ks, trained)
    fs = None
    if wanted:
        (train,),fs = look(fit_data, 'fit', 'images to fit on', labels=None, like=ks.shape)
        for k,(_,seen) in found.items(): need_apart(k, seen, ks, fs)
        _fit(scorers, wanted, train, tap and tap.head, default, notes)
    out = {}
    for k,s in scorers.items():
        i = 1+names.index(k)
        of = lambda outs: outs[0] if outs[i] is None else outs[i]
        out[k] = {'id': _score(s, of(ko), len(ks.images), 'the known set'),
                  **{o: _score(s, of(v), len(seen.images), f'set {o!r}') for o,(v,seen) in found.items()}}
    z,_,y = ko[0]
    facts = dict(settings={k: repr(s) for k,s in scorers.items()}, known=(len(ks.images), ks.key),
                 sets={k: (len(seen.images), seen.key) for k,(_,seen) in found.items()},
                 fit=None if fs is None else (len(fs.images), fs.key),
                 accuracy=None if y is None else float((z.argmax(1) == y).float().mean()))
    notes = [*_notes(learn, scorers, fs, ks), *notes, *_unnamed(learn, unknown)]
    return OODReport(out, positive, near, facts, notes)
