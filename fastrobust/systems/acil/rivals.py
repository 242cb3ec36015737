"What a head in closed form is held against, on the same features: class means, a layer fine-tuned phase by phase"
import torch
from torch import nn
from torch.nn import functional as F
from fastrobust.systems.acil.net import NEVER

__all__ = []

class ClassMeans:
    "The nearest class mean by angle, of features of length 1 (NCM)"
    def __init__(self, d): self.sums,self.codes = torch.zeros(0, d, dtype=torch.float64),[]

    def fit(self, f, y):
        f = F.normalize(f.double(), dim=1)
        for k in y.unique().tolist():
            if k not in self.codes:
                self.codes.append(k)
                self.sums = torch.cat([self.sums, self.sums.new_zeros(1, self.sums.shape[1])])
            self.sums[self.codes.index(k)] += f[y == k].sum(0)

    def predict(self, f):
        z = F.normalize(f.double(), dim=1) @ F.normalize(self.sums, dim=1).T
        return torch.tensor(self.codes)[z.argmax(1)]

class GradientHead:
    "A linear layer trained by Adam on each phase's items alone, on standardised features: it forgets"
    def __init__(self, d, n_out, seed=0, epochs=10, lr=1e-3, bs=64):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layer = nn.Linear(d, n_out)
        self.g = torch.Generator().manual_seed(seed)
        self.epochs,self.lr,self.bs = epochs,lr,bs
        self.seen = torch.zeros(n_out, dtype=torch.bool)

    def _logits(self, f): return self.layer(f).masked_fill(~self.seen, NEVER)

    def fit(self, f, y):
        f = f.float()
        self.seen[y.unique()] = True
        opt = torch.optim.Adam(self.layer.parameters(), self.lr)
        with torch.enable_grad():
            for _ in range(self.epochs):
                for i in torch.randperm(len(f), generator=self.g).split(self.bs):
                    loss = F.cross_entropy(self._logits(f[i]), y[i])
                    opt.zero_grad()
                    loss.backward()
                    opt.step()

    def predict(self, f):
        with torch.no_grad(): return self._logits(f.float()).argmax(1)
