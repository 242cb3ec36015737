"AdamW as vision transformers are trained with it: none of the decay on vectors, rates that fall from layer to layer"
from numbers import Real
from fastai.optimizer import Adam, Optimizer
from fastrobust.systems.tinymim.vits import ViT

__all__ = []

class LayerOptimizer(Optimizer):
    """An optimizer that takes one learning rate for that of the last group; each before has `decay` times the next's

    What is given for each group, also by a slice, stays as it is."""
    def __init__(self, params, cbs, decay, **defaults):
        self.decay = decay
        super().__init__(params, cbs, **defaults)

    def set_hyper(self, k, v):
        if k == 'lr' and isinstance(v, Real):
            n = len(self.param_lists)
            v = [v*self.decay**(n-1-i) for i in range(n)]
        super().set_hyper(k, v)

def adamw(
    params,     # Parameters, or groups of them
    lr,         # Learning rate, of the last group
    beta2=.999, # Of squared gradients; TinyMIM's pre-training takes .95
    decay=None, # Of the learning rate from a group to the one before it, in (0,1]; None: one rate
    wd=.05      # Weight decay; none on parameters of one dimension: biases, norms, scales of layers
)->Optimizer:
    "AdamW with betas (.9, beta2)"
    hyper = dict(lr=lr, mom=.9, sqr_mom=beta2, eps=1e-8, wd=wd)
    opt = Adam(params, decouple_wd=True, **hyper)
    if decay: opt = LayerOptimizer(opt.param_lists, opt.cbs, decay, **hyper)
    for group in opt.param_lists:
        for p in group:
            if p.ndim <= 1: opt.state[p]['do_wd'] = False
    return opt

def vit_layers(
    model   # A classifier on a vision transformer
):          # Groups of parameters: what comes before the blocks, each block, what comes after
    "A splitter by layers: of 12 blocks 14 groups"
    blocks = [list(b.parameters()) for b in ViT(model).blocks]
    taken = {id(p) for b in blocks for p in b}
    after = [*model.norm.parameters(), *model.head.parameters()]
    taken |= {id(p) for p in after}
    before = [p for p in model.parameters() if id(p) not in taken]
    return [before, *blocks, after]
