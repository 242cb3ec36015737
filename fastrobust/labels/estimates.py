"How many labels are wrong: every estimate beside the others, and which way each errs"
import numpy as np, pandas as pd
from fastrobust.labels.confident import confident_joint
from fastrobust.labels.issues import find_label_issues
from fastrobust.labels.mixtures import small_loss_split
from fastrobust.metrics import wilson_interval
from fastrobust.labels.transition import noise_rate_from_joint

__all__ = []

WEAK = .45      # Agreement with the given labels below which a network says little about them
ERRS = .2       # Share of labels contradicted beyond the estimated rate: the network's own errors
LIKELY = .05    # Share of errors to try the ranking on where none were planted

def ranking_of(own, rival, planted):
    "Share of planted errors among as many labels that rank first, its interval, and how many that are"
    # suspicion and margin of the given labels, and of all others
    (s,m),(rs,rm),n = own,rival,len(own[0])
    if planted is not None:
        new,mask = planted
        s,m,k = np.where(mask, rs[np.arange(n), new], s),np.where(mask, rm[np.arange(n), new], m),int(mask.sum())
        found = int(mask[np.lexsort((m, -s))[:k]].sum())
        return found/k,*map(float, wilson_interval(found/k, k)),k
    # none: what to expect of errors in k labels at random
    k,others = max(round(LIKELY*n), 1),~np.isnan(rm)
    s,m,plants = np.append(s, rs[others]),np.append(m, rm[others]),np.arange(n + others.sum()) >= n
    o = np.lexsort((np.random.default_rng(0).random(len(s)), m, -s))    # a sure network makes ties
    w = np.where(plants, k/n/others.sum(), (1-k/n)/n)[o]
    first = w.cumsum() <= k/n
    return float((w*plants[o])[first].sum()*n/k),np.nan,np.nan,k

class _OutOfSample(np.ndarray): out_of_sample = True

def estimates_of(y, p, est, acc):
    "Every estimate by name, the two that count first; which way each errs"
    loss = -np.log(np.maximum(p[np.arange(len(y)), y].astype(float), 1e-9))
    gmm = small_loss_split(np.minimum(loss, np.quantile(loss, .999)), warn=False) if np.ptp(loss) > 0 else None
    flagged = find_label_issues(y, p.view(_OutOfSample))    # the caller has looked whether they are
    rows = [('planted tail', est.tail.rate, 'too high where networks err, too low for confusable errors'),
            ('label channel', est.channel.rate, 'too high where classes look alike, too low for confusable errors'),
            ('small-loss mixture', np.nan if gmm is None else float(gmm.weights[1]),
             'two groups of losses' if gmm is not None and gmm.separated else 'no two groups: means little'),
            ('flagged by PBNR', float(flagged.mean()), 'upper bound'),
            ('confident joint', noise_rate_from_joint(confident_joint(y, p)), 'counts model errors as noise'),
            ('disagreement', 1-acc, 'upper bound: all that the folds predict otherwise')]
    return pd.DataFrame(rows, columns=['estimate', 'rate', 'note']).set_index('estimate')
