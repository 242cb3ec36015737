"The network of a learner of phases: a body, a linear layer to train it with, and the closed-form head that follows"
from torch import nn
from fastrobust.systems.acil.past import phase_of, plain

__all__ = []

NEVER = -1e4    # Logit of a class that has not been learned: its probability is 0, in half precision too

class PhaseNet(nn.Module):
    "Logits of all classes of a vocab: of a linear layer while the body trains, then of the head's scores over T"
    def __init__(self,
        body,   # `Body`; it trains until the head learns, then it rests
        head,   # AnalyticHead on its features; its codes are positions in the vocab
        n_out,  # Classes in the vocab
        like    # (c,h,w) of the images
    ):
        super().__init__()
        self.body,self.head = body,head
        self.linear = nn.Linear(body.d, n_out)
        self.n_out,self.T,self.like = n_out,1.,tuple(like)
        self.past:list = []     # a `Phase` for each that was learned

    @property
    def learned(self):
        "Whether the head has learned anything, so that the body may not change any more"
        return bool(self.head.classes)

    def train(self, mode=True):
        "The body rests once the head stands on its features"
        super().train(mode)
        if self.learned: self.body.eval()
        return self

    def forward(self, x):
        f = self.body(x)
        if not self.learned: return self.linear(f)
        return self.logits(f)

    def logits(self,
        f   # Features (b,d)
    ):      # float32 (b,n_out)
        "The head's scores over T in the order of the vocab; `NEVER` for classes that it has not learned"
        z = self.head(f.float())/self.T
        out = z.new_full((len(f), self.n_out), NEVER)
        out[:, self.head.classes] = z
        return out

    def get_extra_state(self):
        return dict(n_out=self.n_out, T=self.T, past=[plain(p) for p in self.past])

    def set_extra_state(self, state):
        self.n_out,self.T = state['n_out'],state['T']
        self.past = [phase_of(o) for o in state['past']]

def phase_nets(model):
    "The `PhaseNet` of a model, or those of two networks that a technique trains side by side"
    return [m for m in model.modules() if isinstance(m, PhaseNet)]

def groups(net):
    "Parameter groups: the body, then the layer it is trained with"
    found = [list(net.body.parameters()), list(net.linear.parameters())]
    return [o for o in found if o]
