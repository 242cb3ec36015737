"What an audit says in sentences, the same ones on the page and in the terminal"
import numpy as np
from fastrobust.labels.words import pct, unjudged

__all__ = []

_NOTHING = .0005    # Low end of the rate under which no label is shown to be wrong: written 0.0%

def sure(v): return '> 99%' if v > .99 else f'{v:.0%}'

def _images(n): return f'{n:,} image' if n == 1 else f'{n:,} images'

def nothing_shown(rep):
    "Whether all labels may be right, as far as was seen"
    return bool(rep.trusted and rep.lo < _NOTHING)

def headline(rep):
    "The noise rate with its interval, in a sentence; or that there is none"
    y = rep.given
    n = int(rep.judged[y].sum()) if rep.trusted else len(y)
    labels = f'{n:,} labels' if n == len(y) else f'{n:,} labels that can be judged'
    if not rep.trusted: return f"How many of the {labels} are wrong cannot be told."
    if nothing_shown(rep) and rep.few:
        return f"Nothing shows that any of the {labels} is wrong: at most about {pct(rep.hi)} are."
    if nothing_shown(rep):
        return (f"Nothing shows for certain that any of the {labels} is wrong: at most about "
                f"{pct(rep.hi)} are, the best guess is {pct(rep.rate)}.")
    return (f"About {pct(rep.rate)} of the {labels} are wrong, that is {_images(round(rep.rate*n))}; "
            f"anything between {pct(rep.lo)} and {pct(rep.hi)} agrees with what was seen.")

def remarks(rep, judge):
    "What belongs beside the numbers, or why there are none; what would help"
    own = [o for o in rep.notes if o not in judge.own_notes()]
    if judge.note: own.append(judge.note)
    return [o[0].upper() + o[1:] for o in own]

def not_judged(rep):
    "Classes that are not judged, with their number of images; of one alone the remarks say it"
    out = unjudged(rep)
    if not rep.trusted or len(out) < 2: return []
    n = np.bincount(rep.given, minlength=len(rep.vocab))
    return [f"{rep.vocab[k]}: {_images(n[k])}" for k in out]

def precision_words(rep):
    "How many of the suspects are wrong"
    hi = pct(rep.precision_hi)
    if not rep.precision_lo: return f"how many are wrong cannot be told, up to {hi}"
    return f"about {pct(rep.precision)} of them are wrong ({pct(rep.precision_lo)} to {hi})"

def chance_words(r):
    "The chance of a row's label to be wrong, '' where none can be told"
    return '' if np.isnan(r.wrong) else f'{sure(r.wrong)} wrong'
