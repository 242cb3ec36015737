"Random and kernel features: a fixed wider layer between a frozen body and a closed-form head"
import math
from numbers import Real
import torch
from torch import Tensor
from fastrobust.basics import nearest, need_whole
from fastrobust.inference.memory import need_memory

__all__ = ['GaussianBuffer']

_ACTS = dict(relu=torch.relu, tanh=torch.tanh, none=lambda z: z)
_INITS = 'uniform','normal'

class RandomBuffer:
    "act(f B) with B drawn once: what lets a linear head bend (ACIL, https://arxiv.org/abs/2205.14922)"
    def __init__(self,
        d,              # Length of the features, >= 1
        m,              # How many there will be, >= 1: 8192 in the paper's code for CIFAR-100, 16384 for ImageNet
        act='relu',     # 'relu', 'tanh' or 'none'
        init='uniform', # 'uniform': U(-1,1)/sqrt(d), as the code; 'normal': N(0,1)/sqrt(d), the law of the paper
        seed=0          # Of B
    ):
        d,m = need_whole('d', d, 1, what='features'),need_whole('m', m, 1, what='random features')
        if act is None: act = 'none'
        if act not in _ACTS:
            raise ValueError(f"`act` must be one of {', '.join(_ACTS)}, got {act!r}.")
        if init not in _INITS:
            raise ValueError(f"`init` must be 'uniform' or 'normal', got {init!r}. {nearest(init, _INITS)} "
                             "For kernel features give m=GaussianBuffer(..).")
        need_memory(8*d*m, f'a random layer of {d} x {m}', 'Take a smaller `m`.')
        g = torch.Generator().manual_seed(seed)
        B = torch.empty(d, m, dtype=torch.float64)
        B = B.uniform_(-1, 1, generator=g) if init == 'uniform' else B.normal_(generator=g)
        self.B,self.act = B/math.sqrt(d),act

    @property
    def m(self): return self.B.shape[1]
    def __repr__(self): return f'RandomBuffer({len(self.B)}, {self.m}, {self.act!r})'
    def __call__(self, f): return _ACTS[self.act](f @ self.B.to(f))

    def fitted(self, f): return self
    def state(self): return dict(kind='random', B=self.B, act=self.act)

class GaussianBuffer:
    "exp(-|f-c|^2 / 2 sigma^2) to m of the first block's rows: the kernel of GKEAL (Zhuang et al., CVPR 2023)"
    def __init__(self,
        m,              # How many centres, >= 1
        sigma='auto',   # Width > 0 (the official code's: 10); 'auto': the median distance of centres
        seed=0          # Of the rows taken as centres
    ):
        self.m = need_whole('m', m, 1, what='centres')
        number = isinstance(sigma, Real) and not isinstance(sigma, bool)
        if sigma != 'auto' and not (number and 0 < sigma < float('inf')):
            raise ValueError(f"`sigma` must be positive and finite, or 'auto', got {sigma!r}.")
        self.sigma,self.seed = sigma,seed
        self.C:Tensor|None = None

    def __repr__(self): return f'GaussianBuffer({self.m}, sigma={self.sigma!r})'

    def fitted(self,
        f   # The first rows (n,d), float64
    ):
        "This buffer with centres: rows of `f`, each once; where they are too few, random mixtures of all besides"
        if self.C is not None: return self
        g = torch.Generator().manual_seed(self.seed)
        new = GaussianBuffer(self.m, self.sigma, self.seed)
        order = torch.randperm(len(f), generator=g)[:self.m]
        mix = torch.rand(self.m-len(order), len(f), generator=g, dtype=f.dtype)
        mix = mix/mix.sum(1, keepdim=True).clamp(min=1e-12)
        new.C = torch.cat([f[order], mix.to(f) @ f])
        if new.sigma == 'auto': new.sigma = _median_distance(new.C[:1000])
        return new

    def __call__(self, f):
        C = self.C.to(f)
        return torch.exp(-torch.cdist(f, C).pow(2)/(2*self.sigma**2))

    def state(self): return dict(kind='gaussian', C=self.C, m=self.m, sigma=self.sigma, seed=self.seed)

def _median_distance(C):
    far = torch.pdist(C)
    s = far.median().item() if len(far) else 0.
    return s if s > 0 else 1.

def buffer_of(state):
    "The buffer that `state()` describes"
    if state is None: return None
    if state['kind'] == 'random':
        new = RandomBuffer(1, 1, state['act'])
        new.B = state['B']
        return new
    new = GaussianBuffer(state['m'], state['sigma'], state['seed'])
    new.C = state['C']
    return new
