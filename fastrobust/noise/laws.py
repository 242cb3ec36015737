"Wrong labels on purpose: the laws that draw given labels, or images, from true ones"
import copy
import numpy as np
from fastrobust.basics import nearest, need_whole, robust_warn
from fastrobust.data.auxrows import as_uint8
from fastrobust.data.reading import int_labels
from fastrobust.noise.averaging import mean_probs
from fastrobust.noise.classmaps import check_n, check_rate
from fastrobust.noise.instance import FEATURES
from fastrobust.noise.kinds import NOISE_KINDS
from fastrobust.noise.labelfiles import read_labels
from fastrobust.noise.matrices import check_T, learnable, noise_matrix
from fastrobust.noise.record import NoiseRecord

__all__ = ['NoisyLabels']

_SAMPLING = ('exact', 'bernoulli', 'per_class')

# what only some kinds know
_OPTIONS = dict(T=['matrix'], inclusive=['symmetric'], mapping=['asymmetric', 'superclass'],
                features=['instance', 'dependent'], shared_W=['instance', 'dependent'],
                probs=['model'], images=['open'], closed=['open'],
                source=['human'], name=['human'])

def _check_options(kind, given):
    "Refuse the options in `given`, name -> was it?, of other kinds"
    for nm,of in _OPTIONS.items():
        if given[nm] and kind not in of:
            raise ValueError(f"`{nm}` expects kind={' or '.join(map(repr, of))}, got "
                             f"kind={kind!r}. Leave it out.")

class NoisyLabels:
    "A law of label noise: what kind, how much, from which seed. `apply` draws the labels; same seed, same labels"
    rows = None
    def __init__(self,
        # 'symmetric', 'asymmetric' (by map), 'pair' (i -> i+1), 'superclass' (next class of the
        # same superclass), 'matrix'; 'instance' (PMD) and 'dependent' (LogitClip's) by the image;
        # 'model' (Chen's, by a model's confusions); 'open' (images replaced); 'human'
        kind:str='symmetric',
        rate:float=None,        # Nominal rate: share of samples chosen, in [0,1]; papers: .2 to .8; not: matrix, human
        seed:int=0,             # Seed of an own random stream; the global ones are neither read nor moved
        # 'exact': int(rate*n) samples of all, as LogitClip; 'bernoulli': each draws from T[y], as
        # JoCoR, whose published vectors are those of seed=0 to the bit; 'per_class': ceil(rate*n_k)
        # of class k. asymmetric: the chosen may be of an unmapped class and then stay; matrix:
        # 'exact' and 'per_class' both round n_k*T[k]; instance: 'bernoulli' as published, whose
        # mean rate exceeds small rates (.129 for .1), the others solve for it
        sampling:str='exact',
        inclusive:bool=False,   # symmetric: may a chosen sample keep its class? The realised rate is then rate*(1-1/c)
        T=None,                 # matrix: (c,c) row-stochastic, rows = true class
        # instance, dependent: 'unit': images standardised by channel, then of length 1 (graded
        # noise); 'norm': standardised; 'raw': as stored (the codes; brightness then decides)
        features:str='unit',
        noisy_valid=False,      # False: validation stays clean; True: same law, another stream; 'both': and acc_true
        *,
        # asymmetric: 'cifar10' (default; 10 classes), 'mnist', or a dict of indices or names;
        # superclass: 'cifar100_superclass' (default; the true grouping), 'cifar100_block5' (that of
        # JoCoR's code), 'next_class', or a dict class -> superclass
        mapping=None,
        shared_W:bool=False,    # instance, dependent: one projection for all classes (ALASCA's code), not one each?
        probs=None,             # model: (n,c) by position, a list of them, or a fitted Learner (see `mean_probs`)
        images=None,            # open: images of no known class, (m,h,w[,c]) or (m,c,h,w), uint8 or floats in [0,1]
        closed=None,            # open: `NoisyLabels` for those that keep their image; its rate is a share of all, too
        source=None,            # human: file of `cifar_n` or `load_labels`, or a `NoiseRecord`
        name:str=None           # human: which labels of a CIFAR-N file, such as 'worse'
    ):
        if kind not in NOISE_KINDS:
            raise ValueError(f"unknown noise kind {kind!r}. {nearest(kind, NOISE_KINDS)}")
        if sampling not in _SAMPLING:
            raise ValueError(f"unknown sampling {sampling!r}. {nearest(sampling, _SAMPLING)}")
        if noisy_valid not in (False, True, 'both'):
            raise ValueError("`noisy_valid` must be False, True or 'both', got "
                             f"{noisy_valid!r}. False: clean ones.")
        need_whole('seed', seed, 0, 2**32-1)
        given = dict(T=T is not None, inclusive=inclusive, mapping=mapping is not None,
                     features=features != 'unit', shared_W=shared_W, probs=probs is not None,
                     images=images is not None, closed=closed is not None,
                     source=source is not None, name=name is not None)
        _check_options(kind, given)
        if kind == 'human' and rate is not None:
            raise ValueError(f"human labels have their own rate, got rate={rate}. Leave it out.")
        if kind == 'matrix':
            if T is None or rate is not None: noise_matrix('matrix', rate=rate, T=T)      # raises
            T = check_T(T)
        elif kind != 'human': rate = check_rate(kind, rate)

        self.kind,self.rate,self.seed = kind,rate,int(seed)
        self.sampling,self.inclusive,self.T = sampling,inclusive,T
        self.features,self.noisy_valid = features,noisy_valid
        self.mapping,self.shared_W = mapping,shared_W
        self.probs,self.images = probs,images
        self.closed,self.source = closed,source
        self._check_kind(name)

    def _check_kind(self, name):
        "What only one kind needs"
        kind = self.kind
        needs = dict(model='probs', open='images', human='source').get(kind)
        if needs and getattr(self, needs) is None:
            raise ValueError(f"kind={kind!r} needs `{needs}`, got none. See `help(NoisyLabels)` "
                             "for what it may be.")
        if self.features not in FEATURES:
            raise ValueError(f"unknown features {self.features!r}. "
                             f"{nearest(self.features, FEATURES)}")
        if kind in ('model', 'open') and self.noisy_valid:
            raise ValueError(f"kind={kind!r} expects noisy_valid=False, got {self.noisy_valid!r}: "
                             "it is made for the training items alone.")
        if kind == 'model':
            if self.sampling == 'bernoulli':
                raise ValueError("model noise expects sampling 'exact' or 'per_class', got "
                                 "'bernoulli': it takes the hardest samples, nothing is left to "
                                 "chance.")
            self.probs = mean_probs(self.probs)
        if kind == 'open':
            self.images = as_uint8(self.images).cpu()
            if self.closed is not None: self._check_closed(self.closed)
        if kind == 'human': self.source = read_labels(self.source, name)

    def _check_closed(self, law):
        if not isinstance(law, NoisyLabels) or law.kind in ('open', 'human', 'model'):
            raise TypeError("`closed` must be NoisyLabels of a kind drawn for each sample, got "
                            f"{law!r}. Pass e.g. NoisyLabels('symmetric', .2).")
        if self.rate + (law.rate or 0) > 1:
            raise ValueError("open and closed rates must be at most 1 together, got "
                             f"{self.rate} and {law.rate}.")

    @property
    def needs_X(self):
        "Whether the law looks at the images"
        if self.kind in ('instance', 'dependent'): return True
        return self.closed is not None and self.closed.needs_X

    def apply(self,
        y,              # Clean labels (n,): ints in [0,n_classes); never written to
        n_classes=None, # c; None: the size of `T` or of `vocab`, else max(y)+1
        X=None,         # instance, dependent: images, array (n,h,w[,c]) or (n,d), or tensor (n,c,h,w)
        *,
        vocab=None,     # Class names, for a mapping by name and for plots
        stream:int=0,   # 0: training; 1: validation (same law, independent draws)
        rows=None       # human: positions of the items in the labels' file (n,); None: all of them in its order
    ):
        "`NoiseRecord` of true and given labels"
        check_n(n_classes)
        if n_classes is None and self.T is not None: n_classes = len(self.T)
        if n_classes is None and vocab is not None:  n_classes = len(vocab)
        y = int_labels(y, n_classes)
        c = int(y.max())+1 if n_classes is None else int(n_classes)

        # RandomState: the same in every numpy
        rng = np.random.RandomState(self.seed if stream == 0 else [self.seed, stream])
        law = copy.copy(self)
        law.rows = rows
        given,T,*more = NOISE_KINDS[self.kind](law, y, c, X, rng, vocab)
        if T is not None and learnable(T) and not learnable(T, np.bincount(y, minlength=c)):
            robust_warn(f"{self.kind} noise: classes of these sizes are not learnable with this T "
                        "(cleanlab's test): some label is given no more often to its own class "
                        "than to all. Lower the rate or balance.")

        rate = self.rate
        if rate is None and T is not None: rate = float(1 - np.diag(T)[y].mean())
        facts:dict = dict(kind=self.kind, nominal_rate=rate, sampling=self.sampling)
        for o in more: facts.update(o)
        rec = NoiseRecord(y, given, T=T, seed=self.seed, vocab=vocab, **facts)
        rec.images = self.images
        return rec

    def __repr__(self):
        inclusive = ' inclusive' if self.inclusive else ''
        rate = '' if self.rate is None else f", rate {self.rate:g}{inclusive}"
        closed = '' if self.closed is None else f", closed={self.closed!r}"
        return (f"NoisyLabels({self.kind}{rate}{closed}, {self.sampling}, seed {self.seed}, "
                f"noisy_valid={self.noisy_valid!r})")
