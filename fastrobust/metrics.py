"Measures of robustness as pure functions of tensors: no learner, no data"
from typing import NamedTuple
import torch
from torch import Tensor

__all__ = ['Memorised', 'memorisation', 'memorisation_counts', 'memorised_shares']

# --- memorisation: what became of the wrong labels -------------------------------------------------------------------
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
        raise ValueError(f"expected predictions (n,) or (n,c) with given and true labels (n,), got "
                         f"{tuple(pred.shape)}, {tuple(given.shape)}, {tuple(true.shape)}. Select all three alike.")
    given,true = given.to(pred.device),true.to(pred.device)
    wrong = given != true
    return torch.stack([o.sum() for o in (~wrong, ~wrong & (pred == given),
                                          wrong, wrong & (pred == given), wrong & (pred == true))])

def memorised_shares(
    counts # Sum of `memorisation_counts`
)->Memorised:
    "Counts of an epoch as shares"
    right,fit,wrong,mem,rec = (int(o) for o in counts)
    share = lambda k, n: k/n if n else float('nan')
    return Memorised(share(fit, right), share(mem, wrong), share(rec, wrong), share(wrong-mem-rec, wrong))

def memorisation(
    pred,    # Predicted classes (n,), or logits or probabilities (n,c)
    y_noisy, # Given labels (n,)
    y_clean  # True labels (n,)
)->Memorised:
    "What became of the wrong labels: memorised, recovered or neither; and how well the right ones are fitted"
    return memorised_shares(memorisation_counts(pred, y_noisy, y_clean))
