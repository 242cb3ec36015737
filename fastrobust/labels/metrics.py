"What became of wrong labels and how well they are found, as pure functions of tensors and arrays"
from typing import NamedTuple
import numpy as np
import torch
from torch import Tensor

__all__ = []

# --- memorisation: what became of the wrong labels ------------------------------------------------
class Memorised(NamedTuple):
    "Shares of training items; the last three are of the wrongly labelled ones and sum to 1; NaN where there are none"
    clean_fit:float  # Rightly labelled items predicted as their label
    memorised:float  # Wrongly labelled items predicted as their wrong label
    recovered:float  # Wrongly labelled items predicted as what they truly are
    other:float      # Wrongly labelled items predicted as something else again

def memorisation_counts(
    pred,    # Predicted classes (n,), or logits or probabilities (n,c)
    y_noisy, # Given labels (n,)
    y_clean  # True labels (n,)
)->Tensor:   # Long (5,): rightly labelled, of them fitted; wrongly labelled, of them memorised, recovered
    "Counts, to be added up over the batches of an epoch: the mean of the batches' ratios is another number"
    as_t = lambda o: torch.as_tensor(o).as_subclass(Tensor)
    pred,given,true = as_t(pred),as_t(y_noisy),as_t(y_clean)
    if pred.ndim == 2: pred = pred.argmax(1)
    if not (pred.ndim == given.ndim == true.ndim == 1 and len(pred) == len(given) == len(true)):
        raise ValueError("expected predictions (n,) or (n,c) with given and true labels (n,), got "
                         f"{tuple(pred.shape)}, {tuple(given.shape)}, {tuple(true.shape)}. Select "
                         "all three alike.")
    given,true = given.to(pred.device),true.to(pred.device)
    wrong,fits = given != true,pred == given
    counted = (~wrong, ~wrong & fits, wrong, wrong & fits, wrong & (pred == true))
    return torch.stack([o.sum() for o in counted])

def memorised_shares(
    counts # Sum of `memorisation_counts`
)->Memorised:
    "Counts of an epoch as shares"
    right,fit,wrong,mem,rec = (int(o) for o in counts)
    other = wrong-mem-rec
    share = lambda k, n: k/n if n else float('nan')
    return Memorised(share(fit, right), share(mem, wrong), share(rec, wrong), share(other, wrong))

def memorisation(
    pred,    # Predicted classes (n,), or logits or probabilities (n,c)
    y_noisy, # Given labels (n,)
    y_clean  # True labels (n,)
)->Memorised:
    "What became of the wrong labels: memorised, recovered or neither; and how well the right ones are fitted"
    return memorised_shares(memorisation_counts(pred, y_noisy, y_clean))

# --- the margin -----------------------------------------------------------------------------------
def label_margin(
    z,  # Logits (bs,c), not probabilities: a margin of those saturates
    y   # Given labels (bs,)
):
    "Logit of the given label minus the largest of the others (bs,)"
    y = y[:,None]
    others = z.scatter(1, y, float('-inf')).amax(1, keepdim=True)
    return (z.gather(1, y) - others)[:,0]

# --- selection and detection: how well wrong labels are avoided, and how well they are found ------
class SelectionQuality(NamedTuple):
    "How clean a selection of training items is; NaN where there is nothing to divide by"
    # Of the selected items, share whose label is right ('pure ratio' in Co-teaching's code)
    precision:float
    recall:float    # Of the rightly labelled items, share that is selected

def label_precision_recall(
    selected,   # Which items were selected, bool (n,)
    is_noisy    # Which labels are wrong, bool (n,)
)->SelectionQuality:
    "Precision and recall of a selection with respect to right labels"
    s,noisy = _pair(selected, is_noisy)
    s,right = s.astype(bool),~noisy.astype(bool)
    both = (s & right).sum()
    share = lambda n: float(both/n) if n else float('nan')
    return SelectionQuality(share(s.sum()), share(right.sum()))

def _as_numpy(o):
    if isinstance(o, Tensor): o = o.detach().cpu()
    return np.asarray(o)

def _pair(a, b):
    a,b = _as_numpy(a),_as_numpy(b)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"expected one value per item in both, (n,) and (n,), got {a.shape} and "
                         f"{b.shape}. Select both alike.")
    return a,b

def precision_at(
    score,      # High where an item is thought positive (n,); NaN counts as lowest
    positive,   # Which are, bool (n,)
    k:int       # How many of the highest scores to look at
)->float:
    "Share of positives among the `k` highest scores; of tied ones the first count"
    s,pos = _pair(score, positive)
    if not 0 < k <= len(s):
        raise ValueError(f"`k` must lie in 1..{len(s)}, got {k}. Look at fewer items.")
    s = np.where(np.isnan(s.astype(float)), -np.inf, s)
    top = np.argsort(-s, kind='stable')[:k]
    return float(pos.astype(bool)[top].mean())
