"DS-AL: a second closed-form head on another activation, fitted to what the first leaves of each phase"
import copy
import torch
from torch import Tensor
from fastrobust.basics import need_number
from fastrobust.inference.analytic import AnalyticHead
from fastrobust.inference.buffers import RandomBuffer
from fastrobust.inference.normal import Normal, need_gamma
from fastrobust.inference.rows import need_codes, need_features, one_hot, row_blocks

__all__ = ['DualAnalyticHead']

class DualAnalyticHead(AnalyticHead):
    """An `AnalyticHead` and, weighted with C, a second one on tanh of the same random layer, fitted to the residue of
    the first (DS-AL, https://arxiv.org/abs/2403.17503). Unlike the first it depends on what came in which phase"""
    def __init__(self,
        d,              # Length of the features, >= 1
        m,              # Random features, shared by both streams
        gamma='auto',   # Penalty of the first, > 0 or 'auto'
        C=.6,           # Weight of the second, >= 0: the official code takes .6 for CIFAR-100, 1.5 for ImageNet
        gamma2='auto',  # Penalty of the second, > 0 or 'auto'; the official code's is .1
        act2='tanh',    # Activation of the second
        **kwargs        # More for `AnalyticHead`: act, init, standardise, seed, vocab
    ):
        for k in ('intercept', 'balance'):
            if kwargs.get(k): raise ValueError(f"expected DualAnalyticHead without `{k}`, which DS-AL "
                                               "does not define. Use AnalyticHead.")
        super().__init__(d, m, gamma, **kwargs)
        if not isinstance(self.buffer, RandomBuffer):
            raise TypeError(f"`m` must be the number of random features, got {m!r}.")
        need_number('C', C)
        if not 0 <= C < float('inf'): raise ValueError(f"`C` must be >= 0 and finite, got {C}.")
        self.C,self.gamma2 = float(C),gamma2 if gamma2 == 'auto' else need_gamma(gamma2)
        self.buffer2 = RandomBuffer(1, 1, act2)
        self.buffer2.B = self.buffer.B
        self._reset()

    def _reset(self):
        zeros = torch.zeros(self.m, self.m, dtype=torch.float64)
        self.second = zeros,zeros[:, :0],0.

    def fit(self,
        f,  # Features (n,d) of a whole phase
        y   # Their class numbers (n,)
    ):
        "Learn a phase: first the main head, then the second its residue, in the columns of the classes that are new"
        f = need_features(f, self.d)
        y = need_codes(y, len(f))
        if not len(f): return self
        old = len(self.classes)
        # learning replaces the sums and changes none
        before = dict(stats=copy.copy(self.stats), scaling=self.scaling)
        try:
            super().fit(f, y)
            self.second = self._with_residue(f, y, old)
        except BaseException:
            vars(self).update(before, _placed={})
            raise
        return self

    def _with_residue(self, f, y, old):
        G,Q,yy = self.second
        Q = torch.cat([Q, Q.new_zeros(self.m, len(self.classes)-Q.shape[1])], 1)
        G = G.clone()
        for part,t in row_blocks(f, y, width=self.m):
            part = part.double().cpu()
            E = one_hot(t, self.classes) - super().forward(part)
            E[:, :old] = 0
            Z = self.expand2(part)
            G.addmm_(Z.T, Z)
            Q.addmm_(Z.T, E)
            yy += E.pow(2).sum().item()
        return G,Q,yy

    def expand2(self, f): return self.buffer2(self.scaled(f))

    @property
    def W2(self):
        "Weights of the second, float64 (m,c)"
        if 'W2' not in self._placed:
            G,Q,yy = self.second
            eqs = Normal(G, Q, yy, self.stats.n)
            self._placed['W2'] = eqs.solve(eqs.gcv() if self.gamma2 == 'auto' else self.gamma2)
        return self._placed['W2']

    def forward(self,
        f   # Features (n,d), float
    )->Tensor: # Scores (n,c)
        "Scores of the first and C times those of the second"
        f = torch.as_tensor(f)
        main = super().forward(f)
        W2 = self.W2
        dtype = torch.float32 if f.device.type == 'mps' else torch.float64
        return main + self.C*(self.expand2(f.to(dtype)) @ W2.to(f.device, dtype)).to(f.dtype)

    def empty(self):
        new = super().empty()
        new._reset()
        return new

    def _refuse(self, what):
        return ValueError(f"expected an AnalyticHead to {what}, got a DualAnalyticHead: its second "
                          "stream depends on what came before, so that rows cannot be taken out or "
                          "put together. Use AnalyticHead.")
    def forget(self, f, y): raise self._refuse('forget')
    def loo(self, f, y):
        "Of the first stream: the second has no exact leave-one-out"
        return super().loo(f, y)
    def __add__(self, other): raise self._refuse('add')

    def get_extra_state(self):
        return {**super().get_extra_state(), 'second': self.second, 'C': self.C, 'gamma2': self.gamma2,
                'act2': self.buffer2.act}

    def set_extra_state(self, state):
        super().set_extra_state(state)
        self.second,self.C,self.gamma2 = state['second'],state['C'],state['gamma2']
        self.buffer2.B,self.buffer2.act = self.buffer.B,state['act2']
