"Wrong labels on purpose: the laws that draw given labels, or images, from true ones"
# Symmetric and pair: Co-teaching, https://arxiv.org/abs/1804.06872
# Asymmetric maps: F-correction, https://arxiv.org/abs/1609.03683
import copy
import numpy as np
from fastrobust.basics import nearest, need_whole, robust_warn
from fastrobust.noise import instance
from fastrobust.noise.human import match_record, read_labels
from fastrobust.noise.classmaps import MATRIX_KINDS, check_n, check_rate, switch
from fastrobust.noise.matrices import check_T, learnable, noise_matrix
from fastrobust.noise.record import NoiseRecord
from fastrobust.data.reading import int_labels
from fastrobust.data.auxrows import as_uint8

__all__ = ['NoisyLabels']

_SAMPLING = ('exact', 'bernoulli', 'per_class')

# --- samplers: a kind is a function (noise, y, c, X, rng, vocab) -> (given labels, T or None[, more of the record])
def _bernoulli(y, T, rng):
    "One multinomial draw per sample, in order: with seed 0 bit for bit the labels of the Co-teaching and JoCoR code"
    return np.array([rng.multinomial(1, T[k]).argmax() for k in y], dtype=np.int64)

def _apportion(n, p):
    "`n` split in whole parts as near to `n*p` as can be (largest remainders)"
    q = np.floor(n*p + 1e-9).astype(int)
    q[np.argsort(q - n*p, kind='stable')[:n-q.sum()]] += 1
    return q

def _switching(noise, y, c, X, rng, vocab):
    "Choose samples, then switch their labels by W"
    T = noise_matrix(noise.kind, c, noise.rate, inclusive=noise.inclusive, mapping=noise.mapping, vocab=vocab)
    if noise.sampling == 'bernoulli': return _bernoulli(y, T, rng), T
    W = switch(noise.kind, c, noise.inclusive, noise.mapping, None if noise.mapping is None else vocab)
    out,chosen = y.copy(),instance.choose(noise, y, c, rng)
    for k in range(c):
        i = chosen[y[chosen]==k]
        out[i] = rng.choice(c, len(i), p=W[k])
    return out, T

def _matrix(noise, y, c, X, rng, vocab):
    "Within each class, whole counts nearest to n_k*T[k]"
    T,out = noise_matrix('matrix', c, T=noise.T),y.copy()
    if noise.sampling == 'bernoulli': return _bernoulli(y, T, rng), T
    for k in range(c):
        i = rng.permutation(np.flatnonzero(y==k))
        out[i] = np.repeat(np.arange(c), _apportion(len(i), T[k]))
    return out, T

def _open(noise, y, c, X, rng, vocab):
    "Foreign images for the chosen samples, whose labels stay; the closed law for some of the others"
    n,out,open_from = len(y),y.copy(),np.full(len(y), -1)
    i,m = instance.choose(noise, y, c, rng),len(noise.images)
    if len(i) > m:
        robust_warn(f"open noise: {m} foreign images for {len(i)} samples: each stands in for several.", 4)
    order = rng.permutation(m)
    open_from[i] = order[np.arange(len(i)) % m]
    more,law = dict(open_from=open_from),noise.closed
    if law is not None:
        rest = np.flatnonzero(open_from < 0)
        # a share of all samples, drawn among those that keep their image
        if law.rate is not None:
            law,k = copy.copy(law),int(law.rate*n)
            if k > len(rest):
                raise ValueError(f"expected open and closed rates of at most 1 together, got {noise!r}.")
            law.rate = min(1, (k+.5)/len(rest) if law.sampling == 'exact' else law.rate*n/len(rest)) if k else 0.
        if len(rest):
            out[rest] = NOISE_KINDS[law.kind](law, y[rest], c, None if X is None else X[rest], rng, vocab)[0]
        more.update(kind=f'open+{law.kind}', nominal_rate=noise.rate + (noise.closed.rate or float(np.mean(out != y))))
    return out, None, more

def _human(noise, y, c, X, rng, vocab):
    rec = match_record(noise.source, y, noise.rows, c)
    return rec.y_noisy, None, dict(kind=rec.kind, nominal_rate=rec.realised_rate, sampling=rec.sampling)

NOISE_KINDS = {**dict.fromkeys(MATRIX_KINDS, _switching), 'matrix': _matrix, 'instance': instance.instance,
               'dependent': instance.dependent, 'model': instance.model, 'open': _open, 'human': _human}

class NoisyLabels:
    "A law of label noise: what kind, how much, from which seed. `apply` draws the labels; same seed, same labels"
    rows = None
    def __init__(self,
        kind:str='symmetric',   # 'symmetric', 'asymmetric' (by map), 'pair' (i -> i+1), 'superclass' (next class of the
                                # same superclass), 'matrix'; 'instance' (PMD) and 'dependent'
                                # (LogitClip's) by the image; 'model' (Chen's, by a model's
                                # confusions); 'open' (images replaced); 'human'
        rate:float=None,        # Nominal rate: share of samples chosen, in [0,1]; papers: .2 to .8; not: matrix, human
        seed:int=0,             # Seed of an own random stream; the global ones are neither read nor moved
        sampling:str='exact',   # 'exact': int(rate*n) samples of all, as LogitClip; 'bernoulli': each draws from T[y],
                                # as JoCoR, whose published vectors are those of seed=0 to the bit;
                                # 'per_class': ceil(rate*n_k) of class k. asymmetric: the chosen may
                                # be of an unmapped class and then stay; matrix: 'exact' and
                                # 'per_class' both round n_k*T[k]; instance: 'bernoulli' as
                                # published, whose mean rate exceeds small rates (.129 for .1), the others solve for it
        inclusive:bool=False,   # symmetric: may a chosen sample keep its class? The realised rate is then rate*(1-1/c)
        T=None,                 # matrix: (c,c) row-stochastic, rows = true class
        features:str='unit',    # instance, dependent: 'unit': images standardised by channel, then of length 1 (graded
                                # noise); 'norm': standardised; 'raw': as stored (the codes; brightness then decides)
        noisy_valid=False,      # False: validation stays clean; True: same law, another stream; 'both': and acc_true
        *,
        mapping=None,           # asymmetric: 'cifar10' (default; 10 classes), 'mnist', or a dict of indices or names;
                                # superclass: 'cifar100_superclass' (default; the true grouping),
                                # 'cifar100_block5' (that of JoCoR's code), 'next_class', or a dict class -> superclass
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
            raise ValueError(f"`noisy_valid` must be False, True or 'both', got {noisy_valid!r}. False: clean ones.")
        need_whole('seed', seed, 0, 2**32-1)
        by_image = 'instance', 'dependent'
        for nm,given,of in (('T', T is not None, ['matrix']), ('inclusive', inclusive, ['symmetric']),
                            ('mapping', mapping is not None, ['asymmetric', 'superclass']),
                            ('features', features != 'unit', by_image),
                            ('shared_W', shared_W, by_image), ('probs', probs is not None, ['model']),
                            ('images', images is not None, ['open']), ('closed', closed is not None, ['open']),
                            ('source', source is not None, ['human']), ('name', name is not None, ['human'])):
            if given and kind not in of:
                raise ValueError(f"`{nm}` expects kind={' or '.join(map(repr, of))}, got "
                                 f"kind={kind!r}. Leave it out.")
        if kind == 'human':
            if rate is not None:
                raise ValueError(f"human labels have their own rate, got rate={rate}. Leave it out.")
        elif kind != 'matrix': rate = check_rate(kind, rate)
        elif T is None or rate is not None: noise_matrix('matrix', rate=rate, T=T)      # raises
        else: T = check_T(T)
        self.kind,self.rate,self.seed,self.sampling,self.inclusive,self.T = kind,rate,int(seed),sampling,inclusive,T
        self.features,self.noisy_valid,self.mapping,self.shared_W = features,noisy_valid,mapping,shared_W
        self.probs,self.images,self.closed,self.source = probs,images,closed,source
        self._check_kind(name)

    def _check_kind(self, name):
        "What only one kind needs"
        kind,needs = self.kind,dict(model='probs', open='images', human='source').get(self.kind)
        if needs and getattr(self, needs) is None:
            raise ValueError(f"kind={kind!r} needs `{needs}`, got none. See `help(NoisyLabels)` for what it may be.")
        if self.features not in instance.FEATURES:
            raise ValueError(f"unknown features {self.features!r}. "
                             f"{nearest(self.features, instance.FEATURES)}")
        if kind in ('model', 'open') and self.noisy_valid:
            raise ValueError(f"kind={kind!r} expects noisy_valid=False, got {self.noisy_valid!r}: "
                             "it is made for the training items alone.")
        if kind == 'model':
            if self.sampling == 'bernoulli':
                raise ValueError("model noise expects sampling 'exact' or 'per_class', got "
                                 "'bernoulli': it takes the hardest samples, nothing is left to "
                                 "chance.")
            self.probs = instance.mean_probs(self.probs)
        if kind == 'open':
            self.images,law = as_uint8(self.images).cpu(),self.closed
            if law is not None and (not isinstance(law, NoisyLabels) or law.kind in ('open', 'human', 'model')):
                raise TypeError("`closed` must be NoisyLabels of a kind drawn for each sample, got "
                                f"{law!r}. Pass e.g. NoisyLabels('symmetric', .2).")
            if law is not None and self.rate + (law.rate or 0) > 1:
                raise ValueError("open and closed rates must be at most 1 together, got "
                                 f"{self.rate} and {law.rate}.")
        if kind == 'human': self.source = read_labels(self.source, name)

    @property
    def needs_X(self):
        "Whether the law looks at the images"
        return self.kind in ('instance', 'dependent') or (self.closed is not None and self.closed.needs_X)

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
        rng,law = np.random.RandomState(self.seed if stream == 0 else [self.seed, stream]),copy.copy(self)
        # RandomState: the same in every numpy
        law.rows = rows
        given,T,*more = NOISE_KINDS[self.kind](law, y, c, X, rng, vocab)
        if T is not None and learnable(T) and not learnable(T, np.bincount(y, minlength=c)):
            robust_warn(f"{self.kind} noise: classes of these sizes are not learnable with this T "
                        "(cleanlab's test): some label is given no more often to its own class "
                        "than to all. Lower the rate or balance.")
        rate = self.rate if self.rate is not None or T is None else float(1 - np.diag(T)[y].mean())
        kw = dict(kind=self.kind, nominal_rate=rate, sampling=self.sampling)
        for o in more: kw.update(o)
        rec = NoiseRecord(y, given, T=T, seed=self.seed, vocab=vocab, **kw)
        rec.images = self.images
        return rec

    def __repr__(self):
        rate = '' if self.rate is None else f", rate {self.rate:g}{' inclusive' if self.inclusive else ''}"
        closed = '' if self.closed is None else f", closed={self.closed!r}"
        return (f"NoisyLabels({self.kind}{rate}{closed}, {self.sampling}, seed {self.seed}, "
                f"noisy_valid={self.noisy_valid!r})")
