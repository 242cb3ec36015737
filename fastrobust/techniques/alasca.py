"ALASCA: auxiliary heads learn from labels smoothed item by item, the more so the less the network believes them"
# Paper: Ko, Yi, Yun, A Gift from Label Smoothing, arxiv.org/abs/2206.07277 (equations and
# defaults: the authors' code)
# Stages: surgery + penalty (mapped logits). Combines with every base loss, LogitClip, AugMix,
# ODNL, ELR, two networks.
from torch import Tensor
from torch.nn import functional as F
from fastrobust.basics import (as_f32, check_length, check_weight, need_number, progress,
                               warn_unfinished)
from fastrobust.techniques.bases.memory import SampleMemory
from fastrobust.training.auxheads import AuxHeads, add_aux_heads

__all__ = ['ALASCA']

def label_trust(
    z,          # Logits (bs,c), or their moving average
    y,          # Given labels (bs,)
    t:float=1/3 # Temperature; below 1 sharpens; 1/3 in the authors' code
):
    "Probability of the given label at temperature `t`: a_i = softmax(z_i/t)[y_i]"
    p = (as_f32(z)/t).softmax(1)
    return p.gather(1, y[:,None])[:,0]

def smooth_targets(
    y,              # Given labels (bs,)
    alpha,          # Mass for the given label (bs,), in [0,1]; 1: one-hot
    n_classes:int,  # Number of classes c
    spread='others' # Who gets the rest 1-alpha: 'others', the c-1 other classes, or 'all' c
):
    "Label smoothing with a strength of its own for each item: (bs,c), rows sum to 1"
    others = spread == 'others'
    rest = (1-alpha)/(n_classes-1 if others else n_classes)
    own = alpha if others else alpha + rest
    q = rest[:,None].repeat(1, n_classes)
    return q.scatter(1, y[:,None], own[:,None])

def _one_of(name, v, known):
    if v not in known:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, known))}, got {v!r}.")
    return v

class ALASCA(SampleMemory):
    """Add lam times the cross-entropy of auxiliary heads with adaptively smoothed labels (arXiv 2206.07277)

    Unlike the authors' code, each of two networks has a memory of its own; theirs both move one average."""
    against = 'wrong labels'
    surgery = AuxHeads
    _stateattrs = (*SampleMemory._stateattrs, 'epochs', '_g')
    epochs,_g = 0,0.    # of the technique's life; how far the warm-up was at the last batch

    def __init__(self,
        lam:float=2.,           # Weight > 0, or a schedule of pct_train; the sum over heads counts
        w:float=.7,             # Share of the past in each item's average logits, in [0,1)
        t:float=1/3,            # Temperature that sharpens them, > 0
        warmup=30,              # Smoothing grows until then: int epochs of the technique's life, float share of a fit
        predict='main+aux',     # In evaluation: 'main+aux', mean of main and last auxiliary logits, or 'main'
        *,
        memory='logits',        # 'logits' (n,c); 'label', one number an item; None, this step's alone: for huge data
        spread='others'         # Smoothing gives to the 'others' than the given label, or to 'all'
    ):
        for k,v in dict(w=w, t=t).items(): need_number(k, v)
        if not 0 <= w < 1: raise ValueError(f"`w` must be in [0,1), got {w}. The authors take 0.7.")
        if not t > 0: raise ValueError(f"`t` must be positive, got {t}. The authors take 1/3.")
        self.lam = check_weight('lam', lam)
        self.w,self.t = w,t
        self.warmup = check_length('warmup', warmup)
        self.predict = _one_of('predict', predict, ('main+aux', 'main'))
        self.memory = _one_of('memory', memory, ('logits', 'label', None))
        self.spread = _one_of('spread', spread, ('others', 'all'))

    def prepare(self, learn):
        try: learn.model = add_aux_heads(learn.model, learn.dls, predict=self.predict)
        except ValueError as e: raise ValueError(f'ALASCA {e}') from e

    # --- the equations ----------------------------------------------------------------------------
    @property
    def ramp(self):
        "How far the warm-up is: 0 is plain cross-entropy on the auxiliary heads, 1 smoothing at full strength"
        return progress(self.warmup, self.epochs, self.learn.pct_train)

    def look(self, z, i):
        if self.memory is None: return None,label_trust(z, self.given, 1.)
        if self.memory == 'label':
            now = label_trust(z, self.given, self.t)
            m = self.w*self.recall(now, i, 1/z.shape[1]) + (1-self.w)*now
            return m,m
        m = self.w*self.recall(z, i) + (1-self.w)*z
        return m,label_trust(m, self.given, self.t)

    def penalty_of(self, head):
        aux = [a for a in head.aux if isinstance(a, Tensor)]
        if not aux:
            raise ValueError("ALASCA expected a model with its auxiliary heads, got one without: "
                             "it was replaced. Remove ALASCA with `remove_cb` and add it again.")
        trust = self.seen(head.z, head.i)[1]
        alpha = 1 - self.ramp*(1 - trust)
        q = smooth_targets(self.given, alpha, head.z.shape[1], self.spread)
        return sum(F.cross_entropy(self.objective.map(a), q) for a in aux)

    # --- the warm-up, and what is left after it ---------------------------------------------------
    def before_fit(self): warn_unfinished(self, 'warmup', self.learn)

    def update(self, batch):
        super().update(batch)
        self._g = self.ramp

    def after_train(self):
        if not hasattr(self.learn, 'lr_finder'): self.epochs += 1

    @property
    def alpha(self):
        "Mass the given label had in the auxiliary targets at the last visit: (n,), NaN for items never seen"
        return 1 - self._g*(1 - self.score())

    def forget(self):
        super().forget()
        self.epochs,self._g = 0,0.

    def state_dict(self): return dict(super().state_dict(), epochs=self.epochs, g=self._g)
    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.epochs,self._g = state['epochs'],state['g']
