"What few images leave open: between which bounds a temperature and an accuracy lie, and how large an ECE is chance"
import math, warnings
import numpy as np
from scipy.optimize import brentq
from fastrobust.basics import RobustWarning, robust_warn
from fastrobust.inference.fitting import fit_temperature
from fastrobust.metrics import wilson_interval
from fastrobust.predictions import need_logits

__all__ = []

FEW = 50    # Images; with fewer the bounds of T are a factor 2 to 4 and more apart

def temperature_interval(
    z,              # Raw logits (n,c), of items the network was not trained on
    y,              # True labels int (n,)
    drop:float=1.92 # How far the log-likelihood may fall below its largest; 1.92 for 95 %, half of chi-squared's 3.84
)->tuple[float, float]: # (low, high); 0 or inf where the labels set no bound, such as when all are right
    "Interval of T by the likelihood ratio: the temperatures that make the labels nearly as likely as the best one does"
    z,y = need_logits(z, y)
    d = z - z.gather(1, y[:, None])
    spread = (z.amax(1)-z.amin(1)).pow(2).mean().sqrt().item()
    if spread == 0: return 0.,math.inf
    with warnings.catch_warnings():
        # that there is no best T is what the interval says
        warnings.simplefilter('ignore', RobustWarning)
        fitted = math.log(fit_temperature(z, y))

    def nll(t): return (d/math.exp(t)).logsumexp(1).sum().item()
    # beyond what `fit_temperature` looks at; where all labels are right the lowest T is likeliest
    left,right = min(math.log(spread*1e-6), 0.),max(math.log(spread*1e6), 0.)
    best = min((left, fitted, right), key=nll)
    most = nll(best)+drop
    def above(t): return nll(t)-most
    low,high = 0.,math.inf
    if above(left) > 0: low = math.exp(brentq(above, left, best))
    if above(right) > 0: high = math.exp(brentq(above, best, right))
    return low,high

def _between(low, high):
    "The interval in words"
    if low == 0 and high == math.inf: return "any T"
    if low == 0: return f"any T up to {high:.3g}"
    if high == math.inf: return f"any T from {low:.3g} on"
    return f"any T from {low:.3g} to {high:.3g}"

def few_to_fit(
    z,      # Raw logits (n,c) that T is fitted on
    y       # True labels int (n,)
)->list:    # One sentence, or none
    "A warning, and a note, where so few images leave T open"
    n = len(y)
    if n >= FEW: return []
    span = _between(*temperature_interval(z, y))
    note = (f"{n} image(s) leave T open: their labels go with {span} (95 %, likelihood ratio). Fit "
            "it on a few hundred.")
    robust_warn(note)
    return [note]

def few_to_score(
    right,      # Whether each prediction is right (n,)
    conf,       # Confidence in it (n,)
    by_chance   # Function () -> ECEs that such confidences would show were they honest
)->list:        # One sentence, or none
    "A warning, and a note, where an ECE of so few images says little"
    n = len(conf)
    if n >= FEW: return []
    low,high = (float(o) for o in wilson_interval(np.mean(right), n))
    most = np.quantile(by_chance(), .95)
    note = (f"{n} images say little about calibration. As trained, the mean confidence is "
            f"{np.mean(conf):.2f} and the accuracy between {low:.2f} and {high:.2f} (95 %, Wilson); "
            f"were each confidence honest, an ECE up to {most:.2f} would be chance (95 %). The ± of "
            "an ECE is no interval here: of few images ECE is too large. Score a few hundred.")
    robust_warn(note)
    return [note]
