"Ridge regression from sums over rows: learned block by block, merged, unlearned, any penalty afterwards"
# Kept are G = Z'Z and Q = Z'Y, not the inverse (G + gamma I)^-1 of the paper's recursion: the same
# head in a quarter of the time or less, and exact where large blocks cost the recursion its digits.
import copy
import torch
from torch import Tensor
from fastrobust.basics import need_whole
from fastrobust.inference.memory import need_memory
from fastrobust.inference.normal import Normal, need_sums
from fastrobust.inference.rows import need_codes, need_features, one_hot, row_blocks

__all__ = ['RidgeStats']

class RidgeStats:
    """All that ridge regression on one-hot labels needs of its rows: G = Z'Z, Q = Z'Y, `n` and `counts`. The sum of two
    is that of the rows of both"""
    def __init__(self,
        d,                  # Length of the rows, >= 1
        *,
        intercept=False,    # A constant beside W, without penalty?
        balance=False,      # Each class as much as every other (AIR, arXiv 2408.10349)? 8 c d^2 bytes of memory
        dtype=torch.float64, # Of the sums; float32 (all that MPS has) costs W a relative error near 1e-5
        device='cpu'        # Where rows are summed; solved is on the CPU, in float64
    ):
        self.d = need_whole('d', d, 1, what='features')
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"`dtype` must be torch.float64 or torch.float32, got {dtype}. Half precision rounds.")
        need_memory(4*8*d**2, f"sums of {d} x {d} numbers and their solution", "Take fewer features: a smaller `m`.")
        self.intercept,self.balance = bool(intercept),bool(balance)
        self.dtype,self.device = dtype,torch.device(device)
        self.classes = []       # Codes, in the order of the columns: that in which they appeared
        self.counts = torch.zeros(0, dtype=torch.long)
        self.Q = self._zeros(0)
        self.grams = [] if balance else [self._zeros(self.d)]
        self._normal = None

    def _zeros(self, c): return torch.zeros(self.d, c, dtype=self.dtype, device=self.device)

    def __getstate__(self): return {**vars(self), '_normal': None}

    def __repr__(self): return f'RidgeStats({self.d}): {self.n} rows of {len(self.classes)} classes'

    @property
    def n(self): return int(self.counts.sum())

    @property
    def G(self):
        "Z'Z of all rows"
        if not self.balance: return self.grams[0]
        return sum(self.grams, self._zeros(self.d))

    # --- rows come and go ---
    def add(self,
        Z,  # Features (n,d): tensor or array of floats
        y   # Class numbers (n,), >= 0; new ones get a column
    ):
        "Learn rows; `self`"
        return self.add_blocks([(Z, y)])

    def forget(self,
        Z,  # Features (n,d) of rows that were learned
        y   # Their class numbers (n,), as they were learned
    ):
        "Unlearn rows: afterwards as if they had never been there; `self`"
        return self.add_blocks([(Z, y)], -1)

    def add_blocks(self,
        blocks, # Pairs (Z, y), as of a loader
        sign=1  # -1: they are forgotten
    ):
        "Learn the rows of all blocks, or of none where one fails; `self`"
        new = copy.copy(self)
        new.grams = [g.clone() for g in self.grams]
        new.Q,new.counts = self.Q.clone(),self.counts.clone()
        new.classes = list(self.classes)
        for Z,y in blocks:
            Z = need_features(Z, self.d)
            y = need_codes(y, len(Z))
            if sign > 0: new.grow(y)
            for part in row_blocks(Z, y, width=self.d): new._sum(*part, sign)
        if sign < 0: new._drop_empty()
        vars(self).update(vars(new), _normal=None)
        return self

    def grow(self, y):
        "Columns for the classes of `y` that have none"
        more = [k for k in dict.fromkeys(y.tolist()) if k not in self.classes]
        if not more: return
        if self.balance:
            c = len(self.classes) + len(more)
            need_memory(16*c*self.d**2, f"sums of {self.d} x {self.d} numbers for each class", "Leave `balance` out.")
        self.classes = self.classes + more
        self.counts = torch.cat([self.counts, self.counts.new_zeros(len(more))])
        self.Q = torch.cat([self.Q, self._zeros(len(more))], 1)
        if self.balance: self.grams += [self._zeros(self.d) for _ in more]

    def _sum(self, Z, y, sign):
        Y = one_hot(y, self.classes)
        if Y is None: raise self._unknown(y)
        Z = Z.to(self.device, self.dtype)
        self.counts = self.counts + sign*Y.sum(0).long()
        self.Q.addmm_(Z.T, Y.to(Z), alpha=sign)
        if not self.balance:
            self.grams[0].addmm_(Z.T, Z, alpha=sign)
            return
        for i,G in enumerate(self.grams):
            mine = Z[Y[:, i].to(Z.device) > 0]
            if len(mine): G.addmm_(mine.T, mine, alpha=sign)

    def _unknown(self, y):
        strange = sorted(set(y.tolist())-set(self.classes))
        return ValueError(f"expected rows of the {len(self.classes)} classes learned so far, got class {strange[0]}. "
                          "Learn it first, or leave its rows out.")

    def _drop_empty(self):
        "After rows were forgotten: refuse more than there were; a class without rows has no column"
        if (self.counts < 0).any():
            k = self.classes[int(self.counts.argmin())]
            raise ValueError(f"expected no more rows to forget than were learned, got {-int(self.counts.min())} too "
                             f"many of class {k}. Each row can be forgotten once.")
        keep = (self.counts > 0).nonzero()[:, 0].tolist()
        self.classes = [self.classes[i] for i in keep]
        self.counts = self.counts[keep]
        self.Q = self.Q[:, keep]
        if self.balance: self.grams = [self.grams[i] for i in keep]
        elif not keep: self.grams = [self._zeros(self.d)]
        if keep: need_sums(self.G)

    def __add__(self, other):
        "The sums of the rows of both"
        if not isinstance(other, RidgeStats): return NotImplemented
        for k in ('d', 'intercept', 'balance'):
            a,b = getattr(self, k),getattr(other, k)
            if a != b: raise ValueError(f"expected sums of one kind, got {k} {a} and {b}. Make both alike.")
        new = copy.deepcopy(self)
        new.grow(torch.tensor(other.classes, dtype=torch.long))
        at = [new.classes.index(k) for k in other.classes]
        new.counts[at] += other.counts
        new.Q[:, at] += other.Q.to(new.Q)
        grams = at if self.balance else [0]
        for i,G in zip(grams, other.grams): new.grams[i] += G.to(new.Q)
        return new

    # --- what follows from them ---
    @property
    def weights(self):
        "Of the rows of each class, float64 (c,), mean 1 over all rows"
        if not self.balance: return torch.ones(len(self.counts), dtype=torch.float64)
        return self.n/(len(self.counts)*self.counts.double())

    @property
    def mean(self):
        "Mean of the rows, float64 (d,); each class alike if they are balanced"
        if not self.n: return torch.zeros(self.d, dtype=torch.float64)
        return self.Q.double().cpu() @ self.weights/self.n

    @property
    def normal(self):
        "`Normal` equations of the rows so far, kept until rows come or go"
        if self._normal is None: self._normal = self._equations()
        return self._normal

    def _equations(self):
        if not self.n: raise ValueError("expected rows to solve for, got none. Call `add` or `fit` first.")
        w = self.weights
        Q = self.Q.double().cpu()*w
        G = self.grams[0].double().cpu()
        if self.balance:
            G = torch.zeros_like(G)
            for v,g in zip(w, self.grams): G += v*g.double().cpu()
        if not self.intercept: return Normal(G, Q, self.n, self.n)
        share = w*self.counts/self.n
        G = G - self.n*torch.outer(self.mean, self.mean)
        Q = Q - self.n*torch.outer(self.mean, share)
        return Normal(G, Q, self.n*(1-(share**2).sum()), self.n, free=1)

    def solve(self,
        gamma   # Penalty on W^2, above 0
    )->Tensor:  # W float64 (d,c)
        "argmin |Y - Z W|^2 + gamma |W|^2 over the rows so far"
        return self.normal.solve(gamma)

    def offset(self,
        gamma   # Penalty, above 0
    )->Tensor:  # float64 (c,); zeros without an intercept
        "The constant beside `solve(gamma)`"
        W = self.solve(gamma)
        if not self.intercept: return W.new_zeros(W.shape[1])
        return self.weights*self.counts/self.n - self.mean@W

    def gcv(self,
        gammas=None # Penalties to choose from; None: four a decade around the eigenvalues of G
    )->float:
        "The penalty that generalised cross-validation prefers: no row is held out, none need be kept"
        return self.normal.gcv(gammas)

    def loo(self,
        Z,      # Features (n,d) of rows that were learned
        y,      # Their class numbers (n,)
        gamma   # Penalty, above 0
    )->Tensor:  # Scores float64 (n,c)
        """Of each row the scores of the solution without it: y - (y - p)/(1 - h), h its leverage; exact for the gamma
        given and, with `balance`, the weights that the classes have with it"""
        Z = need_features(Z, self.d)
        y = need_codes(y, len(Z))
        return self.loo_blocks(row_blocks(Z, y, width=self.d), gamma)

    def loo_blocks(self,
        blocks, # Pairs (Z, y) of rows that were learned
        gamma   # Penalty, above 0
    )->Tensor:  # Scores float64 (n,c)
        "`loo` of rows that come in blocks, with one factorisation"
        none = torch.zeros(0, len(self.classes), dtype=torch.float64)
        return torch.cat([none, *self.loo_each(blocks, gamma)])

    def loo_each(self,
        blocks, # Pairs (Z, y) of rows that were learned
        gamma   # Penalty, above 0
    ):          # Scores float64 (b,c) of each block
        "`loo_blocks`, one block after the other, for rows too many to be kept"
        W,b = self.solve(gamma),self.offset(gamma)
        L = self.normal.factor(gamma)
        for Z,y in blocks: yield self._loo(Z, y, W, b, L)

    def _loo(self, Z, y, W, b, L):
        Y = one_hot(y, self.classes)
        if Y is None: raise self._unknown(y)
        Z = Z.to('cpu', torch.float64)
        away = Z - self.mean if self.intercept else Z
        h = torch.linalg.solve_triangular(L, away.T, upper=False).pow(2).sum(0)
        if self.intercept: h = h + 1/self.n
        h = h*(Y@self.weights)
        return Y - (Y - Z@W - b)/(1-h)[:, None]

    # --- to a file and back ---
    def state(self):
        "What `loaded` makes the same sums of: plain values and tensors on the CPU"
        return dict(d=self.d, intercept=self.intercept, balance=self.balance, classes=list(self.classes),
                    counts=self.counts, Q=self.Q.cpu(), grams=[G.cpu() for G in self.grams])

    def loaded(self,
        state   # Of `state()`
    ):
        "Sums like these (precision, device), with the rows of `state`"
        new = RidgeStats(state['d'], intercept=state['intercept'], balance=state['balance'],
                         dtype=self.dtype, device=self.device)
        new.classes,new.counts = list(state['classes']),state['counts'].cpu()
        new.Q = state['Q'].to(new.Q)
        new.grams = [G.to(new.Q) for G in state['grams']]
        return new
