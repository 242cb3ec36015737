"Is an attention softmax(QK'/sqrt(d)) V and no more? What goes through it says so"
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from fastrobust.resting import at_rest
from fastrobust.systems.tinymim.attending import Hooked, Tap, by_head

__all__ = []

class Watch(Hooked):
    "Within `with`: what the modules of an attention hand on, softmax(QK'/sqrt(d)) V somewhere"
    def __init__(self,
        tap     # `Tap` that is within `with` at the same time
    ):
        self.tap,self._passed = tap,[]

    def _put(self):
        module = self.tap.attention.module
        yield module.register_forward_pre_hook(self._begin)
        for m in module.modules():
            if m is not module: yield m.register_forward_pre_hook(self._goes_in)
        yield module.register_forward_hook(self._comes_out)

    def __exit__(self, *exc):
        super().__exit__()
        self._passed = []

    def _begin(self, m, args): self._passed = []
    def _goes_in(self, m, args): self._passed += args[:1]
    def _comes_out(self, m, args, out):
        if isinstance(out, tuple): out = out[0]
        self._passed.append(out)

    @torch.no_grad()
    def compare(self):
        "Refuse an attention that does something else; after a forward pass in evaluation"
        a = self.tap.attention
        q,k,v = (o[:2].float() for o in by_head(self.tap.taken(), a, a.heads))
        logits = q @ k.transpose(-2, -1)*q.shape[-1]**-.5
        want = (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)
        big = v.abs().max()
        if not a.layers:
            out = a.module.out_proj
            want = F.linear(want, out.weight.float())
            if out.bias is not None: want = want + out.bias.float()
            big = want.abs().max()
        passed = [o for o in self._passed if isinstance(o, Tensor) and o.is_floating_point()]
        passed = map(self._batch_first, passed)
        passed = [o[:2] for o in passed if o.shape[1:] == want.shape[1:]]
        slack = (32 + 4*logits.abs().max())*big
        if any((o.float()-want).abs().max() <= slack*_eps(o) for o in passed): return
        self.tap.vit.refuse(a.module, "something beside softmax(QK'/sqrt(d)) V")

    def _batch_first(self, o):
        m = self.tap.attention.module
        turned = isinstance(m, nn.MultiheadAttention) and not m.batch_first
        return o.transpose(0, 1) if turned else o

def _eps(o):
    "Rounding of a product in the precision of `o`; GPUs may round float32 to ten bits (TF32)"
    eps = torch.finfo(o.dtype).eps
    return max(eps, 2**-11) if o.is_cuda else max(eps, 2**-23)

def need_plain(
    vit,    # `ViT`
    block,  # Position
    *xb     # Its inputs
):
    "Refuse a network whose attention in that block is another one; a forward pass at rest shows it"
    with at_rest(vit.net), Tap(vit, block) as tap, Watch(tap) as watch:
        vit.net(*xb)
        watch.compare()
