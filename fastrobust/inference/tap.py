"The features a network ends in: its last linear layer, found in one forward pass, and what that layer is given"
from contextlib import nullcontext
from itertools import product
from typing import NamedTuple
import torch
from torch import Tensor, nn
from fastrobust.inference.loaders import asked_loader, need_pixels
from fastrobust.inference.passes import AtRest, autocast
from fastrobust.training.surgery import Surgery

__all__ = []

class Outputs(NamedTuple):
    "Of n images, on the CPU"
    z:Tensor        # Raw logits float32 (n,c)
    # Features float32 (n,d) that the last linear layer turns into `z`; None: it has none
    f:Tensor|None = None
    y:Tensor|None = None # Labels int64 (n,); None: not known, as of unknown images

class LinearHead(NamedTuple):
    "The last linear layer: z = f W' + b"
    W:Tensor        # float32 (c,d)
    b:Tensor        # float32 (c,); zeros for a layer without bias

class _Watch:
    "Within `with`: what each of `layers` was given in its last call; no hook stays, no copy has one"
    def __init__(self, layers):
        self.layers = list(layers)
        self.given,self._hooks = {},[]

    def __enter__(self):
        try:
            for l in self.layers:
                self._hooks.append(l.register_forward_pre_hook(self._keep, with_kwargs=True))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc):
        for h in self._hooks: h.remove()
        self._hooks,self.given = [],{}

    def _keep(self, layer, args, kwargs):
        self.given.pop(layer, None)             # in the order of the last calls
        self.given[layer] = args[0] if args else kwargs['input']

class FeatureTap(_Watch):
    "The last linear layer of a network, or of each of two; within `with` it keeps what that was given last"
    def __init__(self,
        layers, # The nn.Linear; of a `Twin` those of both networks, whose logits are averaged
        head    # `LinearHead` of all: z = f W' + b
    ):
        super().__init__(layers)
        self.head = head

    def features(self,
        n # Images of the last forward pass
    ):
        "Features float32 (n,d) of the last forward pass, on the CPU; of two networks side by side"
        fs = [self.given.get(l) for l in self.layers]
        if any(f is None or len(f) != n for f in fs):
            got = [None if f is None else tuple(f.shape) for f in fs]
            raise ValueError(f"expected features of {n} images from the network's last linear "
                             f"layer, got {got}. Does it take another way for other images, or run "
                             "on several devices (nn.DataParallel)? Use scores of the logits "
                             "alone.")
        return _side_by_side(fs)

def _f32(v): return v.detach().float().cpu()

def _side_by_side(fs):
    return torch.cat([f.detach().flatten(1).float().cpu() for f in fs], 1)

def _head(layers):
    "`LinearHead` of the mean of the logits of `layers`"
    ws,bs = [],[]
    for l in layers:
        w = _f32(l.weight)
        ws.append(w)
        bs.append(w.new_zeros(len(w)) if l.bias is None else _f32(l.bias))
    return LinearHead(torch.cat(ws, 1)/len(layers), torch.stack(bs).mean(0))

def _fits(head, f, z, tol):
    "Whether z = f W' + b"
    if f.shape[1] != head.W.shape[1] or len(head.W) != z.shape[1]: return False
    z = z.double()
    got = f.double() @ head.W.double().T + head.b.double()
    size = max(1., z.abs().max().item())
    return bool((got-z).abs().max() <= tol*size)

def _networks(model):
    "The two networks whose logits `model` averages, or `model`"
    for m in model.modules():
        if isinstance(m, Surgery) and hasattr(m, 'nets'): return list(m.nets)
    return [model]

def _candidates(net, given, z):
    "Linear layers in `net` that could give logits like `z`, the last to be called first"
    mine = set(net.modules())
    def fits(l, f):
        return l in mine and len(f) == len(z) and l.out_features == z.shape[1]
    return [l for l,f in given.items() if fits(l, f)]

def first_images(learn, dl, who, n=8):
    "The first `n` images of `dl` as the network gets them"
    if getattr(dl, 'n', None) != 0:
        with AtRest(learn, who) as rest:
            reader = rest.read(dl, cut=True)
            with reader.dl.fake_l.no_multiproc():
                for xb,yb in reader:
                    return reader.finish(need_pixels(xb, who), yb)[:n]
    raise ValueError(f"{who} expected a loader with images, got an empty one. An exported learner "
                     "has lost its images: give some as `dl`, such as `learn.dls.test_dl(items, "
                     "with_labels=True)`.")

def feature_tap(
    learn,  # A Learner that classifies images; left as it is, no hook stays
    dl=None # fastai loader whose first images show the way; None: `learn.dls.valid`
):
    "`FeatureTap` of the last nn.Linear if its output, or the mean of two networks', is the logits; None if none is"
    dl = asked_loader(learn, dl, 'feature_tap')
    linear = [m for m in learn.model.modules() if isinstance(m, nn.Linear)]
    with AtRest(learn, 'feature_tap') as rest:
        x = first_images(learn, dl, 'feature_tap')
        with _Watch(linear) as seen:
            z = rest.logits(x).cpu()
            given = dict(reversed(seen.given.items()))
    p = next(learn.model.parameters(), z)
    half = p.element_size() < 4 or not isinstance(autocast(learn), nullcontext)
    tol = 3e-2 if half else 1e-3
    candidates = [_candidates(net, given, z) for net in _networks(learn.model)]
    for layers in product(*candidates):
        head = _head(layers)
        f = _side_by_side([given[l] for l in layers])
        if _fits(head, f, z, tol): return FeatureTap(layers, head)
    return None
