"Problems as recipes: a function of the data gives a loss and techniques; nothing that you could not write yourself"
from fastrobust.basics import nearest
from fastrobust.losses import GCELoss
from fastrobust.techniques.jocor import JoCoR

__all__ = ['RECIPES', 'noisy_labels', 'get_recipe']

def noisy_labels(
    dls,        # The data; their labels may be wrong at any rate, which need not be known
    q:float=.7, # Of the loss, in (0,1]: the paper's .7 for every data set and rate
    tau=None    # Rate of wrong labels, or the result of `estimate_tau`: JoCoR on two networks in place of the loss
):
    "GCE: cross-entropy where the network agrees with the label, MAE where it does not; with `tau` JoCoR, 20 epochs"
    return (GCELoss(q), []) if tau is None else (None, [JoCoR(tau)])

noisy_labels.epochs = 8     # from scratch, chosen on noisy validation labels: nbs/benchmarks/RESULTS.md

RECIPES = dict(noisy_labels=noisy_labels)

def get_recipe(recipe):
    "The recipe of that name, or `recipe` itself if it is a function `(dls, **kw) -> (loss, techniques)`"
    if callable(recipe): return recipe
    if recipe in RECIPES: return RECIPES[recipe]
    raise ValueError(f"expected a recipe, got {recipe!r}. {nearest(recipe, list(RECIPES))} Or pass a function "
                     "(dls, **kw) -> (loss, techniques).")
