"Probabilities of items that a network was trained on are no evidence"
from fastrobust.basics import robust_warn
from fastrobust.predictions import need_probs

__all__ = []

def warn_in_sample(
    y,      # Given labels (n,)
    probs   # Probabilities (n,c)
)->bool:
    "Warn where practically every label is predicted as given, as a network does with items it has memorised"
    if getattr(probs, 'out_of_sample', False): return False
    y,p = need_probs(y, probs)
    share = (p.argmax(1) == y).mean()
    if len(y) < 100 or share < .99: return False
    robust_warn(f"{share:.1%} of the labels are predicted as they are given. Either the labels are "
                "clean and the task is easy, or the network was trained on these items: then its "
                "probabilities are no evidence. Take them from `cross_val_preds(make_learner, "
                "dls)`.")
    return True
