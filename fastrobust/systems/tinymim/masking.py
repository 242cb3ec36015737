"Masked images: a vision transformer that sees some patches of each and computes nothing for the rest"
# He, Chen, Xie, Li, Dollar, Girshick, Masked Autoencoders Are Scalable Vision Learners,
# https://arxiv.org/abs/2111.06377
# Stages: surgery. Beside a loss on labels, or techniques that look inside.
import torch
from torch import Tensor
from fastrobust.basics import need_number
from fastrobust.resting import at_rest
from fastrobust.systems.tinymim.attending import Hooked
from fastrobust.systems.tinymim.inside import Inside, Kept, wrappers
from fastrobust.systems.tinymim.tokens import gathered, two_images
from fastrobust.systems.tinymim.vits import ViT, bare
from fastrobust.training.surgery import wrap_each
from fastrobust.training.technique import Technique

__all__ = ['MaskedInput']

# --- masks ----------------------------------------------------------------------------------------
def need_ratio(
    v   # Share of patches that are masked
):
    "Refuse what leaves no patch, or masks none"
    need_number('mask_ratio', v)
    if 0 < v < 1: return v
    what = "leaves no patch" if v >= 1 else "masks none"
    raise ValueError(f"`mask_ratio` must be in (0,1), got {v}, which {what}. The paper takes .75.")

def n_kept(
    n,      # Patches of an image
    ratio   # Share that is masked, in (0,1)
):
    "How many patches stay, rounded down as in the authors' code"
    k = int(n*(1-ratio) + 1e-6)     # 10*(1-.9) is .9999.. in floating point
    if 0 < k < n: return k
    raise ValueError(f"expected a `mask_ratio` that keeps 1 to {n-1} of {n} patches, got {ratio}, which keeps {k}. "
                     "Take another, smaller patches or larger images.")

def random_keep(
    b,              # Images
    n,              # Patches of each
    ratio,          # Share that is masked, in (0,1)
    generator=None, # Of torch's; None: its global stream of the device
    device=None     # Of the result; None: the CPU
)->Tensor:          # Positions (b,k), int64, rising
    "For each image on its own, the patches that stay: any as likely as any other"
    k = n_kept(n, ratio)
    draw_on = device if generator is None else generator.device
    order = torch.rand(b, n, generator=generator, device=draw_on).argsort(1)
    return order[:, :k].sort(1).values.to(device)

def hidden(
    keep,   # Positions (b,k) of the patches that stay
    n       # Patches
):          # Positions (b,n-k), rising
    "The patches that do not"
    seen = torch.zeros(len(keep), n, dtype=torch.bool, device=keep.device).scatter(1, keep, True)
    return seen.int().argsort(dim=1, stable=True)[:, :n-keep.shape[1]]

def _need_keep(keep):
    "Positions as they are asked for, looked at once"
    if not isinstance(keep, Tensor) or keep.ndim != 2 or keep.dtype != torch.int64 or not keep.numel():
        got = f'{keep.dtype} {tuple(keep.shape)}' if isinstance(keep, Tensor) else type(keep).__name__
        raise ValueError(f"expected `keep` to be positions of patches (b,k), int64, got {got}. Take "
                         "random_keep(b, n, ratio).")
    if keep.min() < 0: raise ValueError(f"expected positions of patches from 0 on, got {keep.min().item()}.")
    return keep

# --- the forward pass -----------------------------------------------------------------------------
class masked(Hooked):
    """Within `with`: a vision transformer whose first block is given the tokens before the patches, and some of these

    In their order, each with its place (https://arxiv.org/abs/2111.06377). Afterwards it is as it was."""
    def __init__(self,
        net,    # Of timm or torchvision, `tiny_vit`, or one like them
        keep    # Positions (b,k) of patches, int64, or a function (b, n, device) that draws them
    ):
        self.net = bare(net)
        self._vit = ViT(self.net, 'a network')
        for i in range(self._vit.depth): self._vit.attention(i)     # windows, rotary positions
        self._draw = keep if callable(keep) else None
        self.keep = None if self._draw else _need_keep(keep)
        self._prefix = self._vit.prefix

    def __enter__(self):
        if getattr(self.net, 'grad_checkpointing', False):
            raise ValueError("expected a network that keeps its activations, got one that computes them twice, then "
                             "without the mask. Switch it off: net.set_grad_checkpointing(False).")
        return super().__enter__()

    def _put(self): yield self._vit.blocks[0].register_forward_pre_hook(self._mask, with_kwargs=True)

    def _mask(self, block, args, kwargs):
        more = [*args[1:], *kwargs.values()]
        if not args or not isinstance(args[0], Tensor) or any(isinstance(o, (Tensor, tuple, list)) for o in more):
            self._refuse(block, 'another input beside the tokens')
        x = args[0]
        if x.ndim != 3: self._refuse(block, f'an input of shape {tuple(x.shape)}')
        n = x.shape[1]-self._prefix
        if self._draw: self.keep = self._draw(len(x), n, x.device)
        elif len(self.keep) != len(x) or self.keep.max() >= n:
            raise ValueError(f"expected positions (b,k) from 0 to {n-1} for {len(x)} images, got `keep` of shape "
                             f"{tuple(self.keep.shape)} with up to {self.keep.max().item()}.")
        x = torch.cat([x[:, :self._prefix], gathered(x[:, self._prefix:], self.keep)], 1)
        return (x, *args[1:]),kwargs

    def _refuse(self, block, what):
        raise ValueError(f"expected a network whose blocks take tokens (b,n,d) alone, got {type(block).__name__} with "
                         f"{what}: patches cannot be left out there. Take a ViT with learned or fixed places.")

class Masking(Inside):
    "Base of wrappers that show a network some patches: any in training, else those of the same positions again"
    def __init__(self, net, mask_ratio):
        super().__init__(net)
        self.mask_ratio = mask_ratio

    def _draw(self, b, n, device):
        g = None if self.training else torch.Generator().manual_seed(0)
        return random_keep(b, n, self.mask_ratio, g, device)

    def seen_by(self, *xb):
        "(the network's output of the patches that it is shown, their positions)"
        with masked(self.net, self._draw) as m: out = self.net(*xb)
        return out,m.keep

def try_mask(
    w,  # `Masking` around a network
    x   # Two images
):
    "Refuse a network that some of its tokens do not go through"
    try:
        with at_rest(w): w.look(x)
    except RuntimeError as e:
        raise ValueError(f"expected a network that takes some of its tokens, got {type(bare(w)).__name__}, in which "
                         f"they have to be all there ({e}). Take a ViT.") from e

class MaskedNet(Masking):
    "A vision transformer that in training sees some patches of each image, and says which"
    def look(self, *xb):
        out,keep = self.seen_by(*xb)
        return out,Kept(keep)

class MaskedInput(Technique):
    """In training the network is shown some patches of each image, in evaluation all

    As in https://arxiv.org/abs/2111.06377; with a teacher beside it, it is compared at these. It adds no term of its
    own, and a step costs less."""
    surgery = MaskedNet
    tasks = ()
    against = 'small networks'
    exclusive = 'choose the patches that the network sees'
    def __init__(self,
        mask_ratio=.75  # Share of patches that are masked, in (0,1); the paper's
    ):
        self.mask_ratio = need_ratio(mask_ratio)
        self._fits = None

    def prepare(self, learn):
        learn.model = wrap_each(learn.model, lambda net: MaskedNet(net, self.mask_ratio))
        self._try(learn)

    def _try(self, learn):
        for w in wrappers(learn.model, MaskedNet):
            try_mask(w, two_images(learn, w, 'MaskedInput'))

    def check(self, learn):
        "Other images may have other patches"
        now = id(learn.model),id(learn.dls)
        if self._fits != now: self._try(learn)
        self._fits = now

    def __getstate__(self): return {**super().__getstate__(), '_fits': None}
