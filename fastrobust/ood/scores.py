"Every out-of-distribution score by its name"
# The equations are in logitscores.py and featurescores.py; all are higher for what looks more
# in-distribution
import copy
from functools import partial
from fastrobust.basics import nearest
from fastrobust.ood.featurescores import FDBD, KNN, Mahalanobis, ReAct, ViM
from fastrobust.ood.logitscores import GEN, MSP, ODIN, Energy, MaxLogit, OODScore

__all__ = []

_CLASSES = MSP,MaxLogit,Energy,ODIN,Mahalanobis,KNN,ViM,ReAct,GEN,FDBD
OOD_SCORES = {**{o.name: o for o in _CLASSES},
              'mahalanobis++': partial(Mahalanobis, normalised=True)}
DEFAULT_SCORES = tuple(OOD_SCORES)

# the best on average, far and near, of networks trained with and without the recipe 'ood' on part
# of the classes of Fashion-MNIST and CIFAR-10 (nbs/benchmarks/RESULTS.md); then what needs
# no labels, then logits alone
RECOMMENDED = 'mahalanobis++','knn','maxlogit'

def get_score(
    score       # Name in `OOD_SCORES`, a class of it, or an `OODScore` with settings such as KNN(k=200)
)->OODScore:    # To be fitted; what was given stays as it is
    "A fresh score"
    if isinstance(score, OODScore): return copy.copy(score)
    if isinstance(score, type) and issubclass(score, OODScore): return score()
    if not isinstance(score, str):
        raise TypeError(f"expected the name of a score or an OODScore, got {score!r}. Wrap a "
                        "detector of pytorch-ood with `from_pytorch_ood`. Names: "
                        f"{', '.join(OOD_SCORES)}.")
    if score not in OOD_SCORES:
        raise ValueError(f"expected the name of a score, got {score!r}. "
                         f"{nearest(score, OOD_SCORES)}")
    return OOD_SCORES[score]()
