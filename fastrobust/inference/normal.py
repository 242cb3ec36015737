"The normal equations (G + gamma I) W = Q: solved for one gamma by Cholesky, for every gamma by one reduction to a band"
from functools import cached_property
import numpy as np
import torch
from torch import Tensor
from scipy.linalg import eigvalsh_tridiagonal, solveh_banded
from scipy.linalg.lapack import dormqr, dsytrd
from fastrobust.basics import need_number

__all__ = []

def need_gamma(gamma):
    "`gamma` as a float, refused unless positive and finite"
    need_number('gamma', gamma)
    if not 0 < gamma < float('inf'):
        raise ValueError(f"`gamma` must be positive and finite, got {gamma}. Without a penalty the "
                         "solution need not be unique: give a small one such as 1e-3.")
    return float(gamma)

def need_sums(
    G   # float (d,d), sums from which rows were taken out
):
    "Refuse what no rows have as sums, beyond what rounding explains"
    A = G.double().cpu().clone()
    slack = 1e-3 if G.dtype == torch.float32 else 1e-8
    A.diagonal().add_(slack*max(A.diagonal().abs().max().item(), 1e-300))
    if torch.linalg.cholesky_ex(A).info.item():
        raise ValueError("expected rows to forget that were learned, got some that were not: what "
                         "would be left is the sum of no rows. Forget each row once, as it was "
                         "learned.")

class _Band:
    "G = P T P' with orthogonal P and tridiagonal T, in which a solution costs nothing (LAPACK's sytrd)"
    def __init__(self, G, Q):
        if len(G) == 1: self.t,self.e = G[0].numpy(),np.zeros(0)
        else:
            # the transpose is a Fortran array, and of a symmetric matrix the same
            a,self.t,self.e,tau,_ = dsytrd(G.clone().numpy().T, lower=1, lwork=64*len(G), overwrite_a=1)
            self.P = np.asfortranarray(a[1:, :-1]),tau
        self.Q = self._times(Q.numpy(), 'T')
        self.l = np.clip(eigvalsh_tridiagonal(self.t, self.e), 0, None)

    def _times(self, Q, trans):
        "P Q ('N') or P'Q ('T'); the first row and column of P are those of I"
        new = np.array(Q, order='F')
        if len(new) > 1: new[1:],_,_ = dormqr('L', trans, *self.P, new[1:], 64*max(1, new.shape[1]))
        return new

    def inner(self, gamma):
        "P'W"
        if len(self.t) == 1: return self.Q/(self.t+gamma)       # LAPACK wants two
        band = np.zeros((2, len(self.t)))
        band[0, 1:] = self.e
        band[1] = self.t + gamma
        return solveh_banded(band, self.Q)

    def solve(self, gamma):
        return np.ascontiguousarray(self._times(self.inner(gamma), 'N'))

    def fit(self, gamma):
        "(<W, Q>, <W, G W>, tr G (G + gamma I)^-1)"
        W = self.inner(gamma)
        TW = self.t[:, None]*W
        TW[1:] += self.e[:, None]*W[:-1]
        TW[:-1] += self.e[:, None]*W[1:]
        return (W*self.Q).sum(),(W*TW).sum(),(self.l/(self.l+gamma)).sum()

class Normal:
    "Ridge regression as its normal equations: solutions, the penalty that cross-validates best, the factor"
    def __init__(self,
        G,      # Z'Z, float64 (d,d), on the CPU
        Q,      # Z'Y, float64 (d,c)
        yy,     # Sum of squares of Y
        n,      # Number of rows
        free=0  # Parameters that bear no penalty: 1 for a constant
    ):
        self.G,self.Q = G,Q
        self.yy,self.n,self.free = float(yy),int(n),free
        self._solved = {}

    @cached_property
    def band(self): return _Band(self.G, self.Q)

    def factor(self,
        gamma   # Penalty, above 0
    )->Tensor:  # Lower triangle L (d,d), L L' = G + gamma I
        "Cholesky factor"
        A = self.G.clone()
        A.diagonal().add_(need_gamma(gamma))
        L,info = torch.linalg.cholesky_ex(A)
        if info.item():
            raise ValueError("expected sums that rows can have, got G + gamma I which is not "
                             f"positive definite at gamma {gamma:.3g}. Were rows forgotten that had "
                             "never been learned? If not, gamma is below what float64 can tell from "
                             "0 here: give a larger one.")
        return L

    def solve(self,
        gamma   # Penalty, above 0
    )->Tensor:  # W float64 (d,c)
        "(G + gamma I)^-1 Q"
        gamma = need_gamma(gamma)
        if gamma not in self._solved:
            if 'band' in vars(self): W = torch.from_numpy(self.band.solve(gamma))
            else: W = torch.cholesky_solve(self.Q, self.factor(gamma))
            self._solved = {gamma: W}
        return self._solved[gamma]

    def gammas(self):
        "Four a decade, around all that could matter: from where rounding ends to ten times the largest eigenvalue"
        top = self.band.l[-1]
        if not top > 0: return np.ones(1)
        hi = np.floor(4*np.log10(10*top))
        return 10**(np.arange(hi-4*12, hi+1)/4)

    def gcv(self,
        gammas=None # Penalties to choose from; None: `gammas()`
    )->float:
        """The penalty with the least generalised cross-validation error (n RSS)/(n - tr H)^2, leave-one-out without the
        leverage of single rows (Golub, Heath and Wahba, Technometrics 1979)"""
        if gammas is None: return self._best
        tried = np.array([need_gamma(g) for g in gammas])
        if len(tried): return self._least(tried)
        raise ValueError("expected penalties to choose from, got none. Give e.g. [1e-3, .1, 10].")

    @cached_property
    def _best(self):
        tried = self.gammas()
        # one a decade first, then all around the best of these
        i = np.flatnonzero(tried[::4] == self._least(tried[::4]))[0]*4
        return self._least(tried[max(0, i-3):i+4])

    def _least(self, tried):
        errors = np.array([self._error(g) for g in tried])
        # of equals the largest: all of them where nothing can be learned
        good = errors <= errors.min()*(1+1e-6)
        return float(tried[good].max())

    def _error(self, gamma):
        try: wq,wgw,used = self.band.fit(gamma)
        except np.linalg.LinAlgError: return np.inf     # gamma is less than G's rounding
        rss = self.yy - 2*wq + wgw
        left = self.n - self.free - used
        # rounding, where the fit goes through all rows
        if left <= 1e-6*self.n or rss <= 1e-9*self.yy: return np.inf
        return self.n*rss/left**2
