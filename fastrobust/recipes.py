"Problems as recipes: a function of the data gives a loss and techniques; nothing that you could not write yourself"
import functools, inspect, math
import numpy as np
from fastrobust.basics import check_weight, n_classes, nearest, robust_warn
from fastrobust.data.editing import given_labels
from fastrobust.data.auxrows import OpenSet
from fastrobust.data.openset import GENERATED, aux_images
from fastrobust.losses import BalancedGCELoss, GCELoss
from fastrobust.pixels import peek_images
from fastrobust.techniques.augloss import AugLoss
from fastrobust.techniques.augmix import AugMix
from fastrobust.techniques.jocor import JoCoR
from fastrobust.techniques.logitadjust import LogitAdjust
from fastrobust.techniques.odnl import ODNL
from fastrobust.techniques.opensampling import OpenSampling
from fastrobust.training.checks import draw_weights

__all__ = ['RECIPES']

STEPS = 500     # As many as 8 epochs of 4,000 images; fewer teach GCE too little: nbs/benchmarks/RESULTS.md
UNEQUAL = 3     # Largest class over smallest from which the loss knows sizes: 30 % wrong make 4 of a tail of 10

class Recipe:
    "What to do about a problem: a function of the data that gives a loss and techniques, and what is known about it"
    def __init__(self,
        make,       # Function (dls, **kw) -> (loss, techniques)
        name:str,   # In `RECIPES`
        use:str,    # The problem it is for
        epochs:int, # From scratch on some thousand items, as measured in nbs/benchmarks/RESULTS.md
        cost:str,   # Of a step, beside plain training
        few:int=None # At most so many where an epoch has few steps, to make 500; None: `epochs`
    ):
        # help, signature and docments are those of the function
        functools.update_wrapper(self, make)
        self.make,self.name,self.use = make,name,use
        self.epochs,self.cost,self.few = epochs,cost,few
        self.__name__ = name

    def __call__(self, dls, **kwargs): return self.make(dls, **kwargs)

    def epochs_for(self,
        dls     # The data
    )->int:     # From scratch
        "`epochs`, or more, up to `few`, where those are not 500 steps; with other settings (`tau`) it may take more"
        if not self.few: return self.epochs
        try: steps = len(dls.train)
        except TypeError: return self.epochs    # a stream: nobody knows
        enough = round(STEPS/max(steps, 1))
        return min(max(enough, self.epochs), self.few)

    def __repr__(self):
        dls,*takes = inspect.signature(self).parameters.values()
        settings = ', '.join(f'{p.name}={p.default}' for p in takes)
        facts = dict(use=self.use, what=self.__doc__, settings=settings,
                     epochs=f'{self.epochs}, from scratch', cost=self.cost)
        if self.few: facts['epochs'] += f'; up to {self.few} to make {STEPS} steps'
        lines = [f'  {k:9} {v}' for k,v in facts.items()]
        return '\n'.join([f"Recipe {self.name!r}", *lines])

# --- the functions --------------------------------------------------------------------------------
def _class_sizes(dls):
    "Items of each class as often as they are drawn, where they differ much; None where they do not, or cannot be read"
    try: n = np.bincount(given_labels(dls), draw_weights(dls.train), n_classes(dls))
    except (TypeError, ValueError, LookupError, OSError, AttributeError): return None
    have = n[n > 0]
    if not len(have) or have.max() < UNEQUAL*have.min(): return None
    n = np.where(n > 0, n, have.mean())     # of a class without items nothing is known
    return np.round(n/min(n.min(), 1), 2)   # at least 1: only their ratios count

def _gce(dls, q):
    "GCE, by default so that an item nobody knows yet, of which all classes are equally likely, counts as among ten"
    if q is None: q = .7*min(1, math.log(10)/math.log(max(n_classes(dls), 2)))
    n = _class_sizes(dls)
    return GCELoss(q) if n is None else BalancedGCELoss(n, q)

def noisy_labels(
    dls,        # The data; their labels may be wrong at any rate, which need not be known
    # Of the loss, in (0,1]. None: the paper's .7 up to ten classes, of c more .7 ln 10/ln c
    # (nbs/benchmarks/RESULTS.md)
    q:float=None,
    tau=None    # Rate of wrong labels, or the result of `estimate_tau`: JoCoR on two networks, 20 epochs, no such loss
):
    "GCE: cross-entropy where the network agrees with a label, MAE elsewhere; rare classes alike; with `tau` JoCoR"
    # its own .9 fails on a pretrained body, .5 holds there too: nbs/benchmarks/RESULTS.md
    if tau is not None: return None,[JoCoR(tau, lam=.5)]
    return _gce(dls, q),[]

def _severity(dls, severity):
    "AugMix's severity: the given one, else the paper's for images of this size"
    if severity is not None: return severity
    x = peek_images(dls)
    if x is None:
        raise ValueError("expected a data set of images (b,c,h,w) for a recipe against "
                         "corruptions, got other inputs. Leave the recipe out: its operations are "
                         "defined for images only.")
    return 3 if min(x.shape[-2:]) <= 64 else 1

def corruption(
    dls,            # The data: images, before or after Normalize
    # Weight of the divergence. None: 12 as in the paper, from scratch; on a pretrained body, which
    # trains for few steps, 3: nbs/benchmarks/RESULTS.md
    lam:float=None,
    severity=None,  # Of AugMix; None: the paper's 3 up to 64 px (CIFAR), 1 above (ImageNet)
    views:int=2,    # Views of each image; 2 in the paper; 1 costs a third less
    pretrained=False    # Is the body trained already? `robust_learner` looks at it
):
    "AugMix: the network is asked to answer distorted copies of an image like the image"
    if lam is None: lam = 3. if pretrained else 12.
    return None,[AugMix(lam, severity=_severity(dls, severity), views=views)]

def noisy_labels_corruption(
    dls,            # The data: images whose labels may be wrong
    q:float=None,   # Of the loss, in (0,1]; None: as in `noisy_labels`
    # Weight of the divergence. None: 3 from scratch, since beside GCE the paper's 12 is too much; 1
    # on a pretrained body, where 3 gives classes up: nbs/benchmarks/RESULTS.md
    lam:float=None,
    severity=None,  # Of AugMix; None: 3 up to 64 px, 1 above
    views:int=2,    # Views of each image; 2 in the paper
    pretrained=False    # Is the body trained already? `robust_learner` looks at it
):
    "AugLoss: AugMix around GCE, for labels that are wrong and images that will be worse"
    if lam is None: lam = 1. if pretrained else 3.
    return None,[AugLoss(_gce(dls, q), lam=lam, severity=_severity(dls, severity), views=views)]

def long_tailed(
    dls,        # The data: right labels, classes of very different size
    aux=None,   # Images of none of the classes (see `ODNL`): adds Open-sampling
    tau:float=1., # Of the logit adjustment, > 0: 1 is the balanced softmax
    lam:float=.1  # Weight of Open-sampling; its own 1 gains nothing beside the adjustment: nbs/benchmarks/RESULTS.md
):
    "Logit adjustment: a class is predicted for its evidence, not for its size; with `aux` Open-sampling beside it"
    check_weight('lam', lam)    # also where it has nothing to weigh
    techniques = [LogitAdjust(tau)]
    if aux is not None: techniques.append(OpenSampling(aux, lam))
    return None,techniques

def _made_up(dls, recipe):
    "Generated textures of the images' size and channels: auxiliary images for users who have none"
    x = peek_images(dls)
    if x is None:
        raise ValueError(f"expected a data set of images (b,c,h,w) for the recipe {recipe!r}, got "
                         "other inputs. Leave the recipe out: its auxiliary rows are images.")
    if x.shape[1] not in (1, 3):
        raise ValueError(f"expected images of 1 or 3 channels for the textures that the recipe {recipe!r} generates, "
                         f"got {x.shape[1]}. Give images of none of the classes, aux=...")
    images = aux_images('textures', 1000, tuple(x.shape[-2:]), x.shape[1])
    return OpenSet(images, [GENERATED])

def ood(
    dls,        # The data: known classes, right labels
    aux=None,   # Images of none of the classes (see `ODNL`); None: generated textures
    eta:float=.1    # Weight of the auxiliary term, chosen on held-out classes: nbs/benchmarks/RESULTS.md
):
    "ODNL: images of no class, generated textures if need be, get labels by chance; `ood_report` recommends the score"
    if aux is None: aux = _made_up(dls, 'ood')
    return None,[ODNL(aux, eta)]

def open_world(
    dls,        # The data: some labels may be wrong, and images of no class will come
    aux=None,   # Images of none of the classes (see `ODNL`); None: generated textures, better than nothing
    q:float=None,   # Of GCE, in (0,1]; None: as in `noisy_labels`
    eta:float=.1    # Weight of the auxiliary term; ODNL's own 2.5 costs accuracy beside GCE: nbs/benchmarks/RESULTS.md
):
    "GCE and ODNL: labels may be wrong, and images of no class shall not be taken for one"
    if aux is None:
        aux = _made_up(dls, 'open_world')
        robust_warn("the recipe 'open_world' got no `aux`, images of none of the classes: it takes 1,000 generated "
                    "textures. Images of other things teach more: robust_learner(.., aux=images).")
    return _gce(dls, q),[ODNL(aux, eta)]

# --- by name --------------------------------------------------------------------------------------
RECIPES = {o.name: o for o in (
    Recipe(noisy_labels, 'noisy_labels', 'labels that are wrong at a rate nobody knows', 8,
           'that of plain training; with `tau` two networks: twice', few=12),
    Recipe(corruption, 'corruption', 'images that will look worse than those of training', 8,
           'three times the rows'),
    Recipe(noisy_labels_corruption, 'noisy_labels+corruption',
           'wrong labels, and images that will look worse', 8,
           'three times the rows'),
    Recipe(ood, 'ood', 'images of none of the classes, to be told from the known by a score', 12,
           'twice the rows'),
    Recipe(long_tailed, 'long_tail', 'classes of very different size', 30,
           'that of plain training; with `aux` twice the rows'),
    Recipe(open_world, 'open_world', 'wrong labels, and images of none of the classes', 8,
           'twice the rows', few=12))}

def get_recipe(recipe):
    "The recipe of that name, or `recipe` itself if it is a function `(dls, **kw) -> (loss, techniques)`"
    if callable(recipe): return recipe
    if recipe in RECIPES: return RECIPES[recipe]
    raise ValueError(f"expected a recipe, got {recipe!r}. {nearest(recipe, list(RECIPES))} Or pass "
                     "a function (dls, **kw) -> (loss, techniques).")
