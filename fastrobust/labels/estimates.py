"How many labels are wrong: every estimate beside the others, and which way each errs"
import numpy as np, pandas as pd
from fastrobust.labels.confident import confident_joint
from fastrobust.labels.issues import find_label_issues
from fastrobust.labels.mixtures import small_loss_split
from fastrobust.labels.transition import noise_rate_from_joint
from fastrobust.metrics import wilson_interval

__all__ = []

WEAK = .45      # Agreement with the given labels below which a network says little about them
ERRS = .2       # Share of labels contradicted beyond the estimated rate: the network's own errors
LIKELY = .05    # Share of errors to try the ranking on where none were planted

def ranking_of(own, rivals, planted):
    "Share of planted errors among as many labels that rank first, its interval, and how many that are"
    # suspicion and margin, of the given labels and of all others
    suspicion,margin = own
    rival_suspicion,rival_margin = rivals
    if planted is None: return _expected_ranking(own, rivals)
    new,mask = planted
    at = np.arange(len(suspicion))
    suspicion = np.where(mask, rival_suspicion[at, new], suspicion)
    margin = np.where(mask, rival_margin[at, new], margin)
    k = int(mask.sum())
    first = np.lexsort((margin, -suspicion))[:k]
    found = int(mask[first].sum())
    rate = found/k
    lo,hi = wilson_interval(rate, k)
    return rate,float(lo),float(hi),k

def _expected_ranking(own, rivals):
    "`ranking_of` where none were planted: what to expect of errors in k labels at random"
    n = len(own[0])
    k = max(round(LIKELY*n), 1)
    others = ~np.isnan(rivals[1])
    suspicion,margin = [np.append(o, r[others]) for o,r in zip(own, rivals)]
    is_plant = np.arange(len(suspicion)) >= n

    chance = np.random.default_rng(0).random(len(suspicion))    # a sure network makes ties
    order = np.lexsort((chance, margin, -suspicion))
    share = k/n
    w = np.where(is_plant, share/others.sum(), (1-share)/n)
    w,is_plant = w[order],is_plant[order]
    first = w.cumsum() <= share
    found = (w*is_plant)[first].sum()
    return float(found*n/k),np.nan,np.nan,k

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

def estimates_of(y, p, est, acc):
    "Every estimate by name, the two that count first; which way each errs"
    gmm,groups = _mixture(y, p)
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
