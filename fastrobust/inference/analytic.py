"A head in closed form on frozen features: one pass, no learning rate, classes that come later, rows that go again"
import copy
import torch
from torch import Tensor, nn
from fastrobust.basics import need_whole
from fastrobust.inference.buffers import RandomBuffer, buffer_of
from fastrobust.inference.normal import need_gamma
from fastrobust.inference.ridge import RidgeStats
from fastrobust.inference.rows import (need_codes, need_features, need_scaling, row_blocks,
                                       same_tensors, scaling_of)

__all__ = ['AnalyticHead']

def need_same(
    a,  # A head
    b   # Another
):
    "Refuse heads whose sums are not of the same rows of numbers, and say by name what differs"
    fix = ("Start both from the same: `b = a.empty()` of a head that has learned, or "
           "standardise=(mean, std) in each.")
    if a.d != b.d or a.m != b.m:
        raise ValueError(f"expected heads on the same features, got d={a.d}, m={a.m} and d={b.d}, "
                         f"m={b.m}. {fix}")
    if not same_tensors(a.scaling, b.scaling):
        raise ValueError("expected heads with the same scaling, got other means and stds: each took "
                         f"those of its own first block. {fix}")
    if not same_tensors(a.buffer and a.buffer.state(), b.buffer and b.buffer.state()):
        raise ValueError(f"expected heads with the same buffer, got {a.buffer} and {b.buffer} with "
                         f"other numbers. {fix}")
    names = [dict(enumerate(o.vocab or ())) for o in (a, b)]
    for k in names[0].keys() & names[1].keys():
        if names[0][k] != names[1][k]:
            raise ValueError(f"expected heads with the same codes of classes, got code {k} as "
                             f"{names[0][k]!r} and as {names[1][k]!r}. Number the classes of both by "
                             "one vocab.")

class AnalyticHead(nn.Module):
    """Ridge regression on features in closed form: standardised, widened by a random layer, solved from sums over all
    rows seen. Learned in any blocks, in any order, it is the same head (ACIL, https://arxiv.org/abs/2205.14922)"""
    # No parameters and no buffers, which `half()` or a move to MPS would spoil: the state is an
    # extra one, in float64 on the CPU.
    def __init__(self,
        d,                  # Length of the features, >= 1
        m=None,             # Random features between, or a buffer such as GaussianBuffer(512); None: no layer
        gamma='auto',       # Penalty > 0; 'auto': by generalised cross-validation, anew for each read-out
        act='relu',         # Of the random layer: 'relu', 'tanh' or 'none'
        init='uniform',     # Law of the random layer: 'uniform' (the code) or 'normal' (the paper)
        standardise=True,   # By mean and std of the first block, kept from then on; or (mean, std) given; or False
        intercept=False,    # A constant beside the weights, without penalty?
        seed=0,             # Of the random layer
        *,
        balance=False,      # Each class as much as every other (AIR, arXiv 2408.10349)? Memory 8 c m^2 bytes
        vocab=None,         # Names of the classes by code; heads with other names refuse `+`
        dtype=torch.float64, # Of the sums; see `RidgeStats`
        device='cpu'        # Where rows are summed; see `RidgeStats`
    ):
        super().__init__()
        self.d = need_whole('d', d, 1, what='features')
        self.gamma = gamma if isinstance(gamma, str) and gamma == 'auto' else need_gamma(gamma)
        own = m is None or (callable(m) and hasattr(m, 'fitted') and hasattr(m, 'state'))
        self.buffer = m if own else RandomBuffer(d, m, act, init, seed)
        width = d if m is None else self.buffer.m
        self.stats = RidgeStats(width, intercept=intercept, balance=balance, dtype=dtype, device=device)
        self.vocab = None if vocab is None else list(vocab)
        self.standardise = standardise
        self.scaling:tuple|None = None
        if not isinstance(standardise, bool):
            self.scaling,self.standardise = need_scaling(standardise, d),True
        self._placed = {}

    def extra_repr(self):
        n,c = self.stats.n,len(self.classes)
        return f'd={self.d}, m={self.m}, gamma={self.gamma!r}: {n} rows of {c} classes'

    def __getstate__(self): return {**super().__getstate__(), '_placed': {}}

    # --- what it knows ---
    @property
    def m(self):
        "Length of the rows that are solved for"
        return self.stats.d
    @property
    def classes(self):
        "Codes of the classes, in the order of the columns"
        return self.stats.classes
    @property
    def gamma_(self):
        "The penalty in use"
        return self.stats.gcv() if self.gamma == 'auto' else self.gamma
    @property
    def W(self):
        "Weights, float64 (m,c)"
        return self.stats.solve(self.gamma_)
    @property
    def b(self):
        "Constants, float64 (c,); zeros without an intercept"
        return self.stats.offset(self.gamma_)
    @property
    def R(self):
        "(G + gamma I)^-1, float64 (m,m), of the paper's recursion; the head itself needs none"
        return torch.cholesky_inverse(self.stats.normal.factor(self.gamma_))

    # --- features ---
    def scaled(self, f):
        if self.scaling is None: return f
        mean,std = (o.to(f) for o in self.scaling)
        return (f-mean)/std

    def expand(self,
        f   # Features (n,d), float
    ):
        "Rows (n,m) that are solved for: standardised and through the random layer, in the precision of `f`"
        f = self.scaled(f)
        return f if self.buffer is None else self.buffer(f)

    def blocks(self, f, y):
        "(rows as they are solved for, labels), block by block"
        for part,t in row_blocks(f, y, width=max(self.d, self.m)):
            yield self.expand(part.to(self.stats.device, self.stats.dtype)),t

    def _start(self, f):
        "The constants of the first block"
        if self.standardise and self.scaling is None:
            if len(f) < 2:
                raise ValueError("expected at least two rows in the first block, whose mean and std "
                                 f"are used from then on, got {len(f)}. Give more, or the constants: "
                                 "standardise=(mean, std).")
            self.scaling = scaling_of(f)
        if self.buffer is not None: self.buffer = self.buffer.fitted(self.scaled(f.double().cpu()))

    # --- rows come and go ---
    def fit(self,
        f,  # Features (n,d) of a block: tensor or array of floats; an empty one changes nothing
        y   # Class numbers (n,), >= 0; new ones get a column
    ):
        "Learn a block, all of it or nothing; `self`. Each row once: a second pass would count it twice"
        f = need_features(f, self.d)
        y = need_codes(y, len(f))
        if not len(f): return self
        before = self.scaling,self.buffer
        try:
            if not self.stats.n: self._start(f)
            self.stats.add_blocks(self.blocks(f, y))
        except BaseException:
            self.scaling,self.buffer = before
            raise
        self._placed = {}
        return self

    def forget(self,
        f,  # Features (n,d) of rows that were learned
        y   # Their class numbers, as they were learned
    ):
        """Unlearn rows: the head is as if they had never been there; `self`. The head alone: body and scaling may have
        seen them, and G tells of single rows where they are fewer than m. This is no guarantee of privacy"""
        f = need_features(f, self.d)
        y = need_codes(y, len(f))
        if len(f): self.stats.add_blocks(self.blocks(f, y), -1)
        self._placed = {}
        return self

    def clone(self):
        "A head that goes on by itself; constants and sums are shared until one of the two learns"
        new = copy.copy(self)
        new.stats = copy.copy(self.stats)
        new._placed = {}
        return new

    def empty(self):
        "A head with the same constants that has learned nothing yet; what it learns can be added to this one"
        new = copy.copy(self)
        s = self.stats
        new.stats = RidgeStats(s.d, intercept=s.intercept, balance=s.balance, dtype=s.dtype, device=s.device)
        new._placed = {}
        return new

    def __add__(self, other):
        "The head of the rows of both; its penalty is as for this one"
        if not isinstance(other, AnalyticHead): return NotImplemented
        need_same(self, other)
        new = copy.copy(self)
        new.stats = self.stats + other.stats
        new._placed = {}
        if len(other.vocab or ()) > len(self.vocab or ()): new.vocab = other.vocab
        return new

    # --- what it says ---
    def forward(self,
        f   # Features (n,d), float
    )->Tensor: # Scores (n,c), columns in the order of `classes`
        "Scores near 1 for the right class and near 0 for the others; computed in float64 where the device has it"
        if not self.classes:
            raise ValueError("expected a head that has learned rows, got an empty one. Call `fit(f, "
                             "y)` first.")
        f = torch.as_tensor(f)
        dtype = torch.float32 if f.device.type == 'mps' else torch.float64
        key = f.device,self.gamma
        if key not in self._placed:
            self._placed = {key: [o.to(f.device, dtype) for o in (self.W, self.b)]}
        W,b = self._placed[key]
        return (self.expand(f.to(dtype)) @ W + b).to(f.dtype)

    def predict(self,
        f   # Features (n,d), float
    )->Tensor: # int64 (n,)
        "Class number of the largest score"
        z = self(f)
        return torch.tensor(self.classes, device=z.device)[z.argmax(1)]

    def loo(self,
        f,  # Features (n,d) of rows that were learned
        y   # Their class numbers (n,)
    )->Tensor: # Scores float64 (n,c)
        """Of each row the scores of the head that has not seen it, without refitting: exact for the scaling, the gamma
        and (with `balance`) the class weights that the head has"""
        f = need_features(f, self.d)
        y = need_codes(y, len(f))
        return self.stats.loo_blocks(self.blocks(f, y), self.gamma_)

    # --- to a file and back ---
    def get_extra_state(self):
        buffer = None if self.buffer is None else self.buffer.state()
        return dict(d=self.d, gamma=self.gamma, standardise=self.standardise, vocab=self.vocab,
                    scaling=self.scaling, buffer=buffer, stats=self.stats.state())

    def set_extra_state(self, state):
        if (state['d'], state['stats']['d']) != (self.d, self.m):
            raise ValueError(f"expected the state of a head with d={self.d}, m={self.m}, got one "
                             f"with d={state['d']}, m={state['stats']['d']}. Make the head with "
                             "the settings of the saved one.")
        for k in ('gamma', 'standardise', 'vocab', 'scaling'): setattr(self, k, state[k])
        self.buffer = buffer_of(state['buffer'])
        self.stats = self.stats.loaded(state['stats'])
        self._placed = {}
