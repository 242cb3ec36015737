"Does a learner know what it does not know? `ood_report`: known against unknown images by many scores, from one pass"
import numpy as np
from torch import Tensor
from fastrobust.basics import need_learner, robust_warn
from fastrobust.data.apart import files_of, names_shown, parts_of, trained_open_sets
from fastrobust.data.openset import GENERATED
from fastrobust.inference.collect import training_seen, walk
from fastrobust.inference.keys import Seen
from fastrobust.inference.loaders import loaders_of, own_loader
from fastrobust.inference.notes import Bar, warn_callbacks
from fastrobust.inference.tap import feature_tap
from fastrobust.ood.inputs import (ME, need_apart, need_other_files, need_unknown, scorers_of,
                                   sets_of)
from fastrobust.ood.logitscores import OODScore
from fastrobust.ood.result import OODReport
from fastrobust.ood.scores import DEFAULT_SCORES
from fastrobust.resting import keep_random
from fastrobust.training.technique import Technique

__all__ = ['ood_report']

# --- features -------------------------------------------------------------------------------------
def _drop(scorers, names, why, notes):
    for k in names: scorers.pop(k)
    if names:
        notes.append(f"Left out: {', '.join(names)}; {why}")
        robust_warn(f"{ME} leaves out {', '.join(names)}: {why}")

def _tap(learn, known, scorers, default, notes):
    "The `FeatureTap` that the scores of features need, if any is asked for"
    wanted = [k for k,s in scorers.items() if s.features]
    if not wanted: return None
    with keep_random(): dls,_ = loaders_of(learn, known, f'{ME} (known images)')
    tap = feature_tap(learn, dls[0])
    if tap is not None: return tap
    why = (f"the logits of this {type(learn.model).__name__} are not what one linear layer makes "
           "of features (a head of another kind, or the mean of several heads).")
    if not default:
        raise ValueError(f"expected a network that ends in a linear layer for {', '.join(wanted)}, "
                         f"but {why} Take scores of logits alone: msp, maxlogit, energy, odin, "
                         "gen.")
    _drop(scorers, wanted, why, notes)
    return None

def _fit_data(learn, fit_dl, scorers, default, notes):
    "What the scores that learn from known images learn from, and their names"
    wanted = [k for k,s in scorers.items() if s.features or type(s).fit is not OODScore.fit]
    data = own_loader(learn, 0) if fit_dl is None else fit_dl
    if not wanted or data is not None: return data,wanted
    why = ("there are no training images to fit them on (an exported learner has lost them). Give "
           "some as `fit_dl`.")
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
    "The score `s` of `n` images, checked, float64 (n,)"
    v = s(out)
    if isinstance(v, Tensor): v = v.detach().cpu().double().numpy()
    else: v = np.asarray(v, dtype=np.float64)
    bad = int((~np.isfinite(v)).sum())
    if v.shape != (n,) or bad:
        got = f"shape {v.shape}" if v.shape != (n,) else f"NaN or infinity in {bad}"
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
    if not sets: return []
    return [f"What {', '.join(sets)} show is not known, so whether auxiliary images of the "
            "training show the same was judged by files and pixels alone. OpenSet(images, classes) "
            "names it."]

def _uncompared(learn):
    "A note on training images that are not in memory"
    if files_of(own_loader(learn, 0)):
        return ("Unknown images were compared with the training files by path alone: a copy under "
                "another name would pass. Scores of features, fitted on these files, compare the "
                "pixels too.")
    return ("Unknown images were not compared with the training images, which are not in memory or "
            "not there.")

def _beside_textures(learn):
    "A note on images of the kind that a recipe generates, where it was trained beside these"
    facts = trained_open_sets(learn)
    if facts is None or GENERATED not in facts.classes: return []
    return [f"This network was trained beside {GENERATED}, with labels by chance: unknown images of "
            "that kind (`aux_images('textures', ..)` of any seed) are no test of it."]

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
    yield (f"Fitted on {len(fit.images):,} images with their given labels, without augmentation: "
           f"{names}.")
    if getattr(learn.dls, 'noise', None) is not None:
        yield ("Part of the training labels is wrong on purpose: Mahalanobis' class means come "
               "from them as they are. No other number here but the accuracy uses labels, and that "
               "those of the known images.")
    both = len({*fit.images} & {*known.images})
    if both:
        note = (f"{both} known images are among those the scores of features were fitted on, which "
                "flatters these scores. Give known images of their own as `dl`.")
        robust_warn(f'{ME}: {note}')
        yield note

def _all_scores(s, i, looked):
    "The scores by `s`, the i-th, of each set: of images moved by its own step where it makes one"
    scores = {}
    for name,(outs,seen) in looked.items():
        out = outs[0] if outs[i] is None else outs[i]
        where = 'the known set' if name == 'id' else f'set {name!r}'
        scores[name] = _score(s, out, len(seen.images), where)
    return scores

def _facts(scorers, looked, fit):
    "What the numbers are of: scores with their settings, images by their digests"
    def mark(seen): return len(seen.images),seen.key
    sets = {k: mark(seen) for k,(_,seen) in looked.items()}
    settings = {k: repr(s) for k,s in scorers.items()}
    facts = dict(settings=settings, known=sets.pop('id'), sets=sets, fit=None, accuracy=None)
    if fit is not None: facts['fit'] = mark(fit)
    outs,_ = looked['id']
    z,_,y = outs[0]
    if y is not None: facts['accuracy'] = float((z.argmax(1) == y).float().mean())
    return facts

def ood_report(
    learn,              # A Learner that classifies images; it stays as it is, its recorder and random streams too
    # Images of none of the learner's classes, or a dict of such sets by name. Each: a fastai
    # loader, an array or tensor (uint8, or float in [0,1]) that goes through the validation
    # pipeline, or an `OpenSet`
    unknown,
    # Names, or OODScore objects with settings; left out, those of the eleven that the network allows
    scores=DEFAULT_SCORES,
    positive:str='id',  # Side that FPR95 and AUPR call positive: 'id' (LogitNorm's tables) or 'ood' (ODNL's)
    *,
    dl=None,            # Known images, in the same forms; None: `learn.dls.valid`
    fit_dl=None,        # Known images that scores of features are fitted on; None: the training set, not augmented
    near=()             # Names of the sets near to the known classes, whose means stand apart
)->OODReport:
    "FPR95, AUROC and AUPR of many scores on many unknown sets; each image passes the network once"
    need_learner(learn)
    if unknown is not None and not isinstance(unknown, (dict, str, bytes)):
        unknown = {'unknown': unknown}
    near = sets_of(unknown, positive, near)
    scorers = scorers_of(scores)
    default = scores is DEFAULT_SCORES
    notes:list = []
    known = own_loader(learn, 1) if dl is None else dl
    if known is None:
        raise ValueError("expected known images, got a learner without a validation set (an "
                         "exported one has lost it): unknown images alone tell nothing. Give known "
                         "ones as `dl`, e.g. `learn.dls.test_dl(files)`.")
    warn_callbacks(learn, ME)
    with keep_random(): need_unknown(learn, unknown)
    need_other_files(learn, unknown, dl, fit_dl)
    tap = _tap(learn, known, scorers, default, notes)
    fit_data,wanted = _fit_data(learn, fit_dl, scorers, default, notes)

    bar = Bar(learn, len(unknown)+1+bool(wanted))
    steps = [None, *[s.input_step for s in scorers.values()]]
    nth = {k: i for i,k in enumerate(scorers, 1)}       # where a score's step is in `steps`
    def look(data, name, who, **kwargs):
        bar.name(name)
        seen = Seen()
        outs = walk(learn, data, f'{ME} ({who})', tap, seen=seen, **kwargs)
        bar.tick()
        return outs,seen

    known_outs,known_seen = look(known, 'known', 'known images', steps=steps, labels=None)
    like = known_seen.shape
    found = {k: look(v, k, f'set {k!r}', steps=steps, like=like) for k,v in unknown.items()}
    _need_logits(known_outs[0].z)
    trained = None
    if not wanted or fit_dl is not None:
        trained = training_seen(learn)
        if trained is None: notes.append(_uncompared(learn))
    for k,(_,seen) in found.items(): need_apart(k, seen, known_seen, trained)

    fit_seen = None
    if wanted:
        (train,),fit_seen = look(fit_data, 'fit', 'images to fit on', labels=None, like=like)
        for k,(_,seen) in found.items(): need_apart(k, seen, fit_seen)
        _fit(scorers, wanted, train, tap and tap.head, default, notes)

    looked = {'id': (known_outs, known_seen), **found}
    out = {k: _all_scores(s, nth[k], looked) for k,s in scorers.items()}
    notes = [*_notes(learn, scorers, fit_seen, known_seen), *notes, *_unnamed(learn, unknown),
             *_beside_textures(learn)]
    return OODReport(out, positive, near, _facts(scorers, looked, fit_seen), notes)
