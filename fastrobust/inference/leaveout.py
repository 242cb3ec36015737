"Every item judged by a ridge head that has not seen it: exact leave-one-out, also of items that are there twice"
import copy
import numpy as np
import torch
from fastrobust.inference.analytic import AnalyticHead
from fastrobust.inference.fitting import fit_scores
from fastrobust.inference.rows import need_features, one_hot, scaling_of

__all__ = []

_ASKED = 20_000     # Items whose scores tell the temperature
_COPIES = 1_000     # Of more copies it is cheaper to solve anew without them

class LeaveOut:
    """Ridge regression on features, and probabilities of each item by the solution without it and its copies:
    softmax(scores/T + b)"""
    def __init__(self,
        f,          # Features (n,d), floats, finite
        y,          # Labels (n,), ints 0..c-1
        c,          # Classes; those without items have probability 0
        copies=(),  # Positions of items that are one and the same, as of `copies_of`
        gamma='auto', # Penalty > 0 on standardised features; 'auto': by generalised cross-validation
        m=None      # A layer between, as of `AnalyticHead`; None: none
    ):
        f = need_features(f, None)
        self.f,self.y,self.c = f,torch.as_tensor(y).long(),c
        self.copies = list(copies)
        self.head = AnalyticHead(f.shape[1], m, gamma, standardise=scaling_of(f), intercept=True)
        self.head.fit(f, self.y)
        self.head.gamma = self.head.gamma_      # the same for all that follows
        # 8 million scores at most
        step = -(-len(self.y)//min(_ASKED, max(2**23//c, 1)))
        z = self._scores(self.head, self.y, np.arange(0, len(self.y), step))
        column = {k: i for i,k in enumerate(self.head.classes)}
        of = torch.tensor([column[k] for k in self.y[::step].tolist()])
        self.T,self.b = fit_scores(z, of)
        self._z = z if step == 1 else None

    @property
    def gamma(self): return self.head.gamma

    # --- scores ---
    def _together(self, head, y, groups):
        "For each group of items their scores (m,c) by the solution without all of them: y - (I-H)^-1 (y - p)"
        s = head.stats
        W,b,L = s.solve(head.gamma),s.offset(head.gamma),s.normal.factor(head.gamma)
        for group in groups:
            if len(group) > _COPIES:
                yield self._solved_without(head, y, group)
                continue
            Z = head.expand(self.f[group].double())
            Y = one_hot(y[group], s.classes)
            A = torch.linalg.solve_triangular(L, (Z-s.mean).T, upper=False)
            left = torch.eye(len(group), dtype=Z.dtype) - A.T@A - 1/s.n
            # where they are all there is, nothing is left to judge by
            left.diagonal().clamp_(min=1e-9)
            yield Y - torch.linalg.lstsq(left, Y - Z@W - b).solution

    def _solved_without(self, head, y, group):
        "Scores (m,c) of items by the solution of all others"
        blocks = lambda: head.blocks(self.f[group], y[group])
        s = copy.copy(head.stats).add_blocks(blocks(), -1)
        if not s.n: return (head.stats.counts/head.stats.n).double().expand(len(group), -1)
        W,b = s.solve(head.gamma),s.offset(head.gamma)
        # a class that goes with them has score 0
        z = W.new_zeros(len(group), len(head.classes))
        z[:, [head.classes.index(k) for k in s.classes]] = torch.cat([Z@W + b for Z,_ in blocks()])
        return z

    def _scores(self, head, y, items):
        "Scores float64 (m,c), columns as in `head.classes`, of items by the solution without each of them"
        items = torch.as_tensor(items)
        z = head.stats.loo_blocks(head.blocks(self.f[items], y[items]), head.gamma)
        return self._mend(head, y, items.numpy(), z)

    def _mend(self, head, y, items, z):
        "Scores of items that have copies, by the solution without these too"
        where = np.full(len(y), -1)
        where[items] = np.arange(len(items))
        groups = [group for group in self.copies if (where[group] >= 0).any()]
        if not groups: return z
        for group,own in zip(groups, self._together(head, y, groups)):
            here = where[group] >= 0
            z[where[group][here]] = own[torch.as_tensor(here)]
        return z

    def _probs(self, head, z):
        "Probabilities float32 (m,c) of scores"
        # a class that has come or gone with the plants has no constant
        const = {k: self.b[i] for i,k in enumerate(self.head.classes)}
        b = torch.stack([const.get(k, z.new_zeros(())) for k in head.classes])
        p = np.zeros((len(z), self.c), np.float32)
        p[:, head.classes] = (z/self.T + b).softmax(1).float().numpy()
        return p

    # --- what is asked ---
    def probs(self):
        "Probabilities float32 (n,c) of all items"
        if self._z is not None: return self._probs(self.head, self._z)
        res,at = np.empty((len(self.y), self.c), np.float32),0
        for z in self.head.stats.loo_each(self.head.blocks(self.f, self.y), self.gamma):
            res[at:at+len(z)] = self._probs(self.head, z)
            at += len(z)
        for group,z in zip(self.copies, self._together(self.head, self.y, self.copies)):
            res[group] = self._probs(self.head, z)
        return res

    def planted(self,
        items,  # Positions (k,)
        labels, # What they are called instead (k,)
        every=False # All items, or these alone?
    ):
        "Probabilities float32 of the items, all of these labels learned in place of the given ones: solved anew"
        y = self.y.clone()
        y[items] = torch.as_tensor(labels)
        head = copy.copy(self.head)
        head.stats = self._relabelled(y, items)
        asked = np.arange(len(y)) if every else np.asarray(items)
        return self._probs(head, self._scores(head, y, asked))

    def _relabelled(self, y, items):
        "Sums of all rows under labels `y`, which differ at `items`: G stays"
        stats,blocks = copy.copy(self.head.stats),self.head.blocks
        f,old,new = self.f[items],self.y[items],y[items]
        if len(y.unique()) < len(stats.classes):    # a class goes
            return stats.add_blocks(blocks(f, new)).add_blocks(blocks(f, old), -1)
        stats.Q,stats.counts,stats._normal = stats.Q.clone(),stats.counts.clone(),None
        stats.grow(new)
        at = 0
        for Z,b in blocks(f, new):
            change = one_hot(b, stats.classes) - one_hot(old[at:at+len(b)], stats.classes)
            stats.Q.addmm_(Z.T, change.to(Z))
            stats.counts += change.sum(0).long()
            at += len(b)
        return stats
