"What to do with these data, in words and with reasons: a look at the loaders, and at a noise report if there is one"
import textwrap
from html import escape
import numpy as np, pandas as pd
from fastai.tabular.core import Tabular
from fastrobust.data.editing import given_labels
from fastrobust.labels.reviewing import class_names
from fastrobust.pixels import peek_images
from fastrobust.recipes import RECIPES

__all__ = ['advise']

# Rules of thumb, ours: no paper stands behind these numbers.
FEW = 10_000    # Training images below which a pretrained network is the first thing to try
RARE = 20       # Items of a class below which nothing said about that class is sure
TAIL = 10.      # Largest class over smallest from which on the imbalance is treated
CLEAN = .02     # Noise rate up to which labels pass for clean
MANY = 60       # Classes up to which the recipe 'noisy_labels' was tried (nbs/benchmarks/RESULTS.md)
SCANT = 1_000   # Images below which GCE was unsteady under wrong labels and steadier beside textures (RESULTS.md)
HEAVY = .5      # Noise rate from which on most methods lose their footing

class Advice:
    "What `advise` found: `facts` (Series), `reasons` (sentences), `recipe`, `learner_kwargs`, `code` to paste"
    def __init__(self, facts, reasons, recipe, learner_kwargs, code):
        self.facts = pd.Series(facts, dtype=object)
        self.reasons = list(reasons)
        self.recipe,self.learner_kwargs,self.code = recipe,learner_kwargs,code

    def __repr__(self):
        width = max(map(len, self.facts.index))
        facts = [f'{k:<{width}}  {v}' for k,v in self.facts.items()]
        wrap = lambda s: textwrap.fill(s, 110, initial_indent='- ', subsequent_indent='  ')
        return '\n'.join([*facts, '', *map(wrap, self.reasons), '', self.code])

    def _repr_html_(self):
        row = lambda k, v: f'<tr><th>{escape(str(k))}</th><td>{escape(str(v))}</td></tr>'
        rows = ''.join(row(k, v) for k,v in self.facts.items())
        said = ''.join(f'<li>{escape(o)}</li>' for o in self.reasons)
        return f'<table>{rows}</table><ul>{said}</ul><pre>{escape(self.code)}</pre>'

# --- what there is --------------------------------------------------------------------------------
def _noise(dls, report):
    "(rate, lo, hi, where from) or None; a report beats what was put there on purpose"
    if report is not None:
        rate = getattr(report, 'rate', getattr(report, 'tau', report))
        if isinstance(rate, float) and np.isnan(rate): return None      # its judge could not judge
        if not isinstance(rate, (int, float, np.number)) or not 0 <= rate <= 1:
            raise TypeError("expected a noise report with a `rate` in [0,1], got "
                            f"{type(report).__name__}. Pass what `noise_report` or `estimate_tau` "
                            "returned; a judge or a maker of learners as make_learner=.")
        lo,hi = (float(getattr(report, k, rate)) for k in ('lo', 'hi'))
        return float(rate),lo,hi,'report'
    rec = getattr(dls, 'noise', None)
    if rec is None: return None
    rate = rec.realised_rate
    return rate,rate,rate,'known: it was put there on purpose'

def _need_own(report, y):
    given = getattr(report, 'given', None)
    if given is None: return
    given = np.asarray(given)
    if given.dtype.kind in 'iu' and (len(given) != len(y) or (given != y).any()):
        raise ValueError(f"expected a report of these dls ({len(y)} training items), got one of "
                         f"other items or labels ({len(given)}). Make it again: "
                         "noise_report(make_learner, dls).")

# --- what follows from it -------------------------------------------------------------------------
def _on_noise(noise, why):
    "(recipe, sentences); `why`: of a report that could not tell"
    if noise is None:
        first = ("How many labels are wrong is not known. noise_report(frozen(resnet18), dls) estimates "
                 "it with an interval and lists the suspects; it takes a forward pass, which is why "
                 "advise does not do it unasked.")
        if why: first = f"How many labels are wrong could not be told: {why}"
        return 'noisy_labels',[
            f"{first} Until then the recipe 'noisy_labels' is a cautious choice: on "
            "Fashion-MNIST it cost nothing measurable without wrong labels "
            "(nbs/benchmarks/RESULTS.md)."]
    rate,lo,hi,src = noise
    known = src.startswith('known')
    if known: says = f"{rate:.1%} of the training labels are wrong ({src})"
    else:
        says = (f"About {rate:.0%} of the training labels are wrong, between {lo:.0%} and "
                f"{hi:.0%} ({src})")
    if rate <= CLEAN:
        return None,[f"{says}: next to nothing, plain training will do. The few suspects are "
                     "worth a look."]
    out = [f"{says}: a long training would learn them by heart. The recipe 'noisy_labels' takes a "
           "loss that forgives labels it cannot explain, and a short schedule. Two networks that "
           f"choose for each other (JoCoR, CoTeaching) take the rate as tau={rate:.2g} and twice "
           "the time."]
    if not known:
        out.append("Look at the first rows of the report's table and fix what you can: "
                   "fix_labels(dls, report, 'drop'). Errors between classes that look alike hide "
                   "from every estimate of this kind.")
    if rate >= HEAVY:
        out.append(f"From {HEAVY:.0%} on the wrong labels may outnumber the right ones in some "
                   "class, and no method here can tell which is which then. Have a sample labelled "
                   "again.")
    return 'noisy_labels',out

def _on_images(shape, n):
    "(pretrained, sentences)"
    c,h,w = shape
    if c == 3 and n < FEW:
        out = [f"{n:,} colour images are few: start from a pretrained network (rule of thumb: "
               f"below {FEW:,}). It pays if they are photographs of the world; microscopes and "
               "satellites need a try of both."]
        if min(h, w) < 96:
            out.append(f"Images of {h} x {w} pixels are small for networks trained on 224: enlarge "
                       "them (Resize(128)) or compare with a small network from scratch.")
        return True,out
    if c == 3:
        return False,[f"{n:,} colour images are enough to train from scratch as well as from a "
                      "pretrained network (rule of thumb); pretrained learns faster. Compare."]
    s = 's' if c > 1 else ''
    return False,[f"Images of {c} channel{s}: pretrained networks were made for three, their help "
                  "is uncertain. A network from scratch is the plain choice; compare if these are "
                  "photographs."]

def _on_classes(counts, names):
    "(sentences, whether the imbalance is treated)"
    have = counts[counts > 0]
    none = [names[k] for k in np.flatnonzero(counts == 0)]
    few = [names[k] for k in np.flatnonzero((counts > 0) & (counts < RARE))]
    tail = bool(have.max() >= TAIL*have.min())
    out = []
    if none: out.append(f"No training item: {', '.join(none[:5])}.")
    if few:
        others = ' and others' if len(few) > 5 else ''
        out.append(f"Fewer than {RARE} items: {', '.join(few[:5])}{others}. Whatever is said about "
                   "these classes, also by a report, rests on very little.")
    if tail:
        out.append(f"The largest class has {have.max()/have.min():.0f} times the items of the "
                   f"smallest (rule of thumb: act from {TAIL:.0f} on). weighted_dls(dls, "
                   "'balanced') shows all classes equally often, SampleWeights('balanced') does it "
                   "in the loss; judge by BalancedAccuracy. Methods that leave out items of large "
                   "loss tend to leave out the rare classes.")
    return out,tail

def _code(net, kw, tail, unknown, epochs):
    "The advice as code; `net` is what the learner gets after dls, `epochs` those from scratch"
    given = ''.join(f', {k}={v!r}' for k,v in kw.items())
    metric = 'BalancedAccuracy()' if tail else 'accuracy'
    star = 'tabular' if 'tabular' in net else 'vision'
    lines = [f'from fastai.{star}.all import *', 'from fastrobust.all import *', '']
    if unknown:
        judge = 'frozen(resnet18)'
        if star == 'tabular': judge = f'lambda dls: robust_learner(dls, {net})'
        lines.append(f'# how many are wrong: noise_report({judge}, dls)')
    # the recipe's loss takes the sizes of the classes into account itself
    if tail and 'recipe' not in kw: lines.append("dls = weighted_dls(dls, 'balanced')")
    lines.append(f'learn = robust_learner(dls, {net}{given}, metrics={metric})')
    lines.append('learn.fine_tune(5)' if kw.get('pretrained') else f'learn.fit_one_cycle({epochs})')
    return '\n'.join(lines)

# --- all together ---------------------------------------------------------------------------------
def _facts(counts, names, n):
    have = counts[counts > 0]
    lo,hi = have.min(),have.max()
    return {'training items': f'{n:,}', 'classes': len(names),
            'class sizes': f'{lo:,} to {hi:,} (ratio {hi/lo:.3g})'}

def _noise_fact(noise):
    if noise is None: return 'unknown'
    rate,lo,hi,src = noise
    if src.startswith('known'): return f'{rate:.1%} ({src})'
    return f'{rate:.1%}, interval {lo:.1%} to {hi:.1%} ({src})'

def advise(
    dls,                # DataLoaders with one single-label target
    report=None,        # `noise_report(..)` or `estimate_tau(..)` of these dls; None: `dls.noise`, if there is any
    make_learner=None   # frozen(body), or a function (dls) -> new Learner: makes the report now; None: no report
) -> Advice:
    "A recipe for these data and why, in words; rules of thumb are called so"
    y = given_labels(dls)
    names = class_names(dls)
    if report is None and make_learner is not None:
        from fastrobust.labels.report import noise_report  # only here: advice alone trains nothing
        report = noise_report(make_learner, dls)
    _need_own(report, y)
    noise = _noise(dls, report)
    counts = np.bincount(y, minlength=len(names))
    table = isinstance(dls.train_ds, Tabular)
    x = None if table else peek_images(dls)

    facts = _facts(counts, names, len(y))
    # net: an nn.Module
    net = 'layers=[200, 100], learner_func=tabular_learner' if table else 'net'
    kw,said = {},[]
    if x is not None:
        shape = tuple(x.shape[1:])
        c,h,w = shape
        colours = {1: 'grey', 3: 'colour'}.get(c, f'{c} channels')
        facts['images'] = f"{h} x {w}, {colours}"
        pretrained,said = _on_images(shape, len(y))
        facts['pretrained'] = 'yes' if pretrained else 'compare'
        small = not pretrained and min(h, w) <= 64
        net = f'small_cnn({len(names)}, {c})' if small else 'resnet18'
        if not small: kw['pretrained'] = pretrained
    facts['wrong labels'] = _noise_fact(noise)

    recipe,words = _on_noise(noise, getattr(report, 'why', None))
    words += getattr(report, 'caveats', []) if noise is not None else []
    if recipe is not None and len(names) > MANY:
        recipe = None
        words.append(f"The recipe's loss (GCE) was tried on up to {MANY} classes, these are "
                     f"{len(names)}: train plainly for few epochs, or with JoCoR(tau) where the "
                     "rate is known, or compare both.")
    if recipe is not None and x is not None and c in (1, 3) and len(y) < SCANT and not kw.get('pretrained'):
        words.append(f"From scratch on fewer than {SCANT:,} images this loss is unsteady where labels are wrong "
                     "(nbs/benchmarks/RESULTS.md): 'open_world', the same beside generated textures, was steadier "
                     "there, at twice the time.")
    more,tail = _on_classes(counts, names)
    if tail and recipe is not None:
        more.append("The recipe's loss takes the sizes of the classes into account: with it leave both out.")
    if recipe is not None: kw['recipe'] = recipe
    epochs = RECIPES[recipe or 'noisy_labels'].epochs_for(dls)
    code = _code(net, kw, tail, noise is None, epochs)
    return Advice(facts, [*words, *said, *more], recipe, kw, code)
