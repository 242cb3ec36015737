"What a report on labels says in sentences: how much it can be trusted first, then what it found"
import numpy as np

__all__ = []

WEAK = .45      # Agreement with the given labels below which a judge says little about them
ERRS = .2       # Share of labels contradicted beyond the estimated rate: the judge's own errors
_HARDLY = .02   # Estimated rate below which too few labels are flagged to find planted errors by
_WIDEST = .6    # Width of the rate's interval from which on it says nothing
_LEAST = 5      # Names of classes that are told

def pct(v): return f'{v:.1%}' if v < .1 else f'{v:.0%}'

def too_wide(est):
    "Why no share is told where its interval says nothing; None: it does"
    if est.hi-est.lo <= _WIDEST: return None
    return (f"model too weak: anything between {est.lo:.0%} and {est.hi:.0%} of the labels may be wrong. What would "
            "help: more images, or a sample looked at by a person (review_sample).")

def why_not(rep):
    "Why no share of wrong labels can be told, and what would help; None: it can"
    help_ = ("What would help: a pretrained network (frozen(resnet18), --weights FILE), more images, "
             "or a sample looked at by a person (review_sample).")
    if rep.acc < WEAK:
        return (f"model too weak: it predicts only {rep.acc:.0%} of the labels as given "
                f"({WEAK:.0%} is the least). Either it sees little or many labels are wrong. {help_}")
    kept = rep.judged[rep.given]
    if rep.judged.sum() < 2:
        return f"model too weak: it predicts {int(rep.judged.sum())} of {len(rep.judged)} classes at all. {help_}"
    if kept.mean() < .5:
        return (f"model too weak: {kept.mean():.0%} of the labels are of classes that it predicts "
                f"at all. {help_}")
    return None

def names_of(vocab, ids):
    "The first names, and how many more"
    more = f' and {len(ids)-_LEAST} more' if len(ids) > _LEAST else ''
    return ', '.join(str(vocab[k]) for k in ids[:_LEAST]) + more

# --- title and summary ----------------------------------------------------------------------------
def title(rep):
    n,k = len(rep.given),int(rep.issues.sum())
    if not rep.trusted:
        return (f"No share of wrong labels can be told ({rep.why.split('.')[0]}); {n:,} labels in the "
                "order of their suspicion")
    res = (f"{rep.rate:.1%} of the labels are wrong ({rep.lo:.1%} to {rep.hi:.1%}); "
           f"{k:,} of {n:,} flagged, the most suspicious first")
    out = unjudged(rep)
    if len(out): res += f"; not judged: {names_of(rep.vocab, out)}"
    return res

def unjudged(rep):
    "Classes that have items and are not judged"
    have = np.bincount(rep.given, minlength=len(rep.vocab)) > 0
    return np.flatnonzero(have & ~rep.judged)

# --- notes ----------------------------------------------------------------------------------------
def few_flagged(rep, expected):
    "Whether so few labels are flagged that most of the planted cannot be"
    return bool(rep.rate < _HARDLY or rep.issues.sum() < expected/3)

def _ranked(rep):
    if rep.check is None:
        return (f"of errors in {rep.first:,} labels, {rep.by_rank:.0%} would be among the "
                f"{rep.first:,} most suspicious")
    return (f"of {rep.check.n} planted errors, {rep.by_rank:.0%} "
            f"({rep.by_rank_lo:.0%} to {rep.by_rank_hi:.0%}) are among the "
            f"{rep.first:,} most suspicious labels")

def _found(rep):
    "What the list finds, by its flags or, where hardly any label is flagged, by its order"
    n = int(rep.issues.sum())
    if rep.few:
        few = 'hardly any' if n else 'no'
        res = f"{few} label is called wrong ({n:,} of {len(rep.issues):,}); {_ranked(rep)}"
    else:
        res = (f"about {rep.recall:.0%} of the wrong labels are flagged ({rep.recall_lo:.0%} to "
               f"{rep.recall_hi:.0%})")
    if not n: return res + '.'
    if not rep.precision_lo:
        return (f"{res}; how many of the flagged are wrong cannot be told, up to "
                f"{rep.precision_hi:.0%} are: look, or draw a sample (review_sample).")
    return (f"{res}; of the flagged, about {rep.precision:.0%} are wrong "
            f"({rep.precision_lo:.0%} to {rep.precision_hi:.0%}).")

def _hidden(rep):
    "What no estimate of this kind sees"
    if len(rep.T) > 3 and rep.rate > .05 and rep.paired() > .5:
        return (f"confusable errors hide: {rep.paired():.0%} of the errors go to one class for "
                "each class, as in pair noise. A network that learns such errors repeats them: "
                "the rate is rather a lower bound.")
    return ("planted errors are easier to see than confusable ones (cat for dog): if yours "
            "are of that kind, the rate lies in the upper part of its interval; of labels that a "
            "network has proposed far above it: there only a person's sample tells (review_sample).")

def _unjudged_note(rep):
    out = unjudged(rep)
    if not len(out): return None
    n = int(np.isin(rep.given, out).sum())
    return (f"not judged: {names_of(rep.vocab, out)} ({n:,} items), which the judge (almost) never "
            "predicts: to it all of them look wrong. They are neither flagged nor in the rate. Look "
            "at them yourself, or add images of them.")

def leaking(check):
    "Whether planted labels look otherwise than they should, by more than chance and by enough to matter"
    return check.p < .001 and check.distance > .12 and check.shift > .02

def graves(rep):
    "What speaks against all that follows"
    if rep.why: yield rep.why
    if rep.folded and leaking(rep.check):
        yield ("planted labels do not look as they should (distance "
               f"{rep.check.distance:.2f}, p {rep.check.p:.1g}): are there copies of items "
               "in several folds, or was the network trained on them before? Then the rate is "
               "too low.")

def others(rep):
    "What else belongs beside the numbers, at every door"
    if not rep.trusted: return
    unseen = _unjudged_note(rep)
    if unseen: yield unseen
    if 1-rep.acc-rep.rate > ERRS:
        yield (f"the judge contradicts {1-rep.acc:.0%} of the labels, far more than are "
               "estimated to be wrong: it errs often itself. Take the rate as rough; a better "
               "network (pretrained, more images) makes it sharper.")
    if np.isnan(rep.chances).all() and rep.issues.any():
        yield ("the low end of the rate is under half of it: errors of the judge cannot be told from "
               "wrong labels one by one, so no chance stands beside a label. The order holds.")
    yield _hidden(rep)

def found(rep):
    "What the list finds, if that can be told"
    if rep.trusted: yield _found(rep)

def effort(widths):
    "What a person's decisions would buy"
    if not len(widths): return
    first,*more = [f'{100*w:.0f}' for w in widths.rate]
    after = [f'{o} after {n}' for o,n in zip(more, widths.n[1:])]
    told = ', '.join([f'{first} points wide after {widths.n[0]} decisions', *after])
    yield ("whatever the judge thinks, a person can find the rate: review_sample(n) draws the labels to look at, "
           f"verify(decisions) gives the rate with an interval about {told}.")
