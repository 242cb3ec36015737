"How many labels are wrong: every estimate beside the others, and which way each errs"
import warnings
import numpy as np, pandas as pd
from fastrobust.basics import RobustWarning
from fastrobust.labels.channel import some_rows, wrong_if_given
from fastrobust.labels.confident import confident_joint
from fastrobust.labels.issues import find_label_issues
from fastrobust.labels.mixtures import small_loss_split
from fastrobust.labels.tails import own_margins
from fastrobust.labels.transition import noise_rate_from_joint
from fastrobust.metrics import wilson_interval

__all__ = []

LIKELY = .05    # Share of wrong labels of which a list that flags less than a third is called short

def ranking_of(rep, plants, real):
    "Share of planted errors among as many labels that rank first, its interval where they are real, and how many"
    found,total,k = 0,0,0
    chance = np.random.default_rng(0).random(len(rep.given))    # a sure network makes ties
    for items,labels,probs in (draw for o in plants for draw in o.each()):
        k = len(items)
        suspicion,margin = rep.suspicion.copy(),rep.margins.copy()
        at = np.arange(k)
        suspicion[items] = wrong_if_given(rep.channel, probs)[at, labels]
        margin[items] = own_margins(labels, probs)
        first = np.lexsort((chance, margin, -suspicion))[:k]
        found += int(np.isin(first, items).sum())
        total += k
    rate = found/total
    lo,hi = wilson_interval(rate, total) if real else (np.nan, np.nan)
    return rate,float(lo),float(hi),k

class _OutOfSample(np.ndarray): out_of_sample = True

def _mixture(y, p):
    "Share of the group of large losses, and whether there is one"
    own = p[np.arange(len(y)), y].astype(float)
    loss = -np.log(np.maximum(own, 1e-9))
    says = 'no two groups: means little'
    if np.ptp(loss) == 0: return np.nan,says
    top = np.quantile(loss, .999)
    split = small_loss_split(np.minimum(loss, top), warn=False)
    if split.separated: says = 'two groups of losses'
    return float(split.weights[1]),says

def estimates_of(y, p, est, use, acc):
    "Every estimate by name, the two that count first; which way each errs"
    i = np.flatnonzero(use)
    i = i[some_rows(len(i), p.shape[1])]
    y,p = y[i],p[i]
    gmm,groups = _mixture(y, p)
    with warnings.catch_warnings():
        # nobody has asked for this rule
        warnings.simplefilter('ignore', RobustWarning)
        flagged = find_label_issues(y, p.view(_OutOfSample))    # the caller has looked whether they are
    joint = confident_joint(y, p)
    rows = [('planted tail', est.tail.rate,
             'too high where networks err, too low for confusable errors'),
            ('label channel', est.channel.rate,
             'too high where classes look alike, too low for confusable errors'),
            ('small-loss mixture', gmm, groups),
            ('flagged by PBNR', float(flagged.mean()), 'upper bound'),
            ('confident joint', noise_rate_from_joint(joint), 'counts model errors as noise'),
            ('disagreement', 1-acc, 'upper bound: all that the folds predict otherwise')]
    table = pd.DataFrame(rows, columns=['estimate', 'rate', 'note'])
    return table.set_index('estimate')
