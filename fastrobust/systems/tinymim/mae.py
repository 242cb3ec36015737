"MAEPretrain: a vision transformer learns to paint the patches of an image that it does not see"
# He, Chen, Xie, Li, Dollar, Girshick, Masked Autoencoders Are Scalable Vision Learners,
# https://arxiv.org/abs/2111.06377
# Stages: surgery + penalty. Alone on images without labels, or beside a loss on labels or other techniques.
from typing import NamedTuple
import torch
from torch import Tensor, nn
from fastrobust.basics import as_f32, need_truth, need_whole
from fastrobust.resting import at_rest
from fastrobust.systems.tinymim.distilling import InsideTechnique
from fastrobust.systems.tinymim.finding import find_place
from fastrobust.systems.tinymim.inside import Kept
from fastrobust.systems.tinymim.masking import MaskedInput, Masking, hidden, need_ratio, try_mask
from fastrobust.systems.tinymim.tinyvit import sincos
from fastrobust.systems.tinymim.tokens import (Outlet, Tokens, end_norm, gathered, patch_of, put_in, tokens_of,
                                               two_images)
from fastrobust.systems.tinymim.vits import ViT, bare
from fastrobust.training.surgery import AuxOut

__all__ = ['MAEPretrain']

# --- patches --------------------------------------------------------------------------------------
def _sizes(patch): return (patch, patch) if isinstance(patch, int) else tuple(patch)

def patches_of(
    x,      # Images (b,c,h,w)
    patch   # Height and width of a patch in pixels, or one number for both
)->Tensor:  # (b,n,patch height*width*c): patches by rows; in each pixels by rows, a pixel's channels together
    "Images cut into patches, in the authors' order"
    p,q = _sizes(patch)
    if x.shape[-2] % p or x.shape[-1] % q:
        raise ValueError(f"expected images that patches of {p}x{q} cover, got {tuple(x.shape[-2:])}. Resize them.")
    cells = x.unflatten(3, (-1, q)).unflatten(2, (-1, p))   # (b,c,rows,p,columns,q)
    return cells.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)

def image_of(
    patches,    # (b,n,patch height*width*c), as of `patches_of`
    grid,       # (rows, columns) of patches, n in all
    patch       # Height and width of a patch in pixels, or one number for both
)->Tensor:      # (b,c,h,w)
    "Images out of their patches"
    p,q = _sizes(patch)
    cells = patches.unflatten(2, (p, q, -1)).unflatten(1, grid)
    return cells.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)

def normed(
    patches # (b,n,d)
):          # (patches of mean 0 and variance 1, means (b,n,1), what they were divided by)
    "Each patch in its own scale, as in the authors' code: variance over d-1, and 1e-6 more"
    mean = patches.mean(-1, keepdim=True)
    scale = (patches.var(-1, keepdim=True) + 1e-6).sqrt()
    return (patches-mean)/scale,mean,scale

# --- decoder --------------------------------------------------------------------------------------
class Decoder(nn.Module):
    "Tokens of the patches that were seen -> pixels of all: places, a mask token for the rest, blocks, a linear layer"
    def __init__(self, d_in, dim, depth, heads, n_out, grid):
        super().__init__()
        self.grid = tuple(grid)
        self.embed = nn.Linear(d_in, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.register_buffer('places', sincos(grid, dim), persistent=False)
        block = lambda: nn.TransformerEncoderLayer(dim, heads, 4*dim, 0., 'gelu', 1e-6, True, True)
        self.blocks = nn.Sequential(*[block() for _ in range(depth)])
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pixels = nn.Linear(dim, n_out)
        nn.init.normal_(self.mask_token, std=.02)
        for m in self.modules():
            if not isinstance(m, nn.Linear): continue
            nn.init.xavier_uniform_(m.weight)
            nn.init.zeros_(m.bias)

    def forward(self,
        tokens, # `Tokens`: those before the patches, and of the patches that were seen
        keep    # Their positions (b,k)
    ):          # (b,n,n_out)
        grid = tokens.grid
        front,seen = self.embed(tokens.prefix),self.embed(tokens.patches)
        b,_,dim = seen.shape
        places = self.places if grid == self.grid else sincos(grid, dim).to(self.places)
        empty = self.mask_token.to(seen.dtype).expand(b, places.shape[1], -1)
        full = empty.scatter(1, keep[..., None].expand_as(seen), seen)
        x = torch.cat([front, full + places.to(seen.dtype)], 1)
        return self.pixels(self.norm(self.blocks(x))[:, front.shape[1]:])

# --- the network ----------------------------------------------------------------------------------
class Painted(NamedTuple):
    "Patches that were not seen, as they were painted and as they are (b,m,pixels)"
    pred:Tensor
    want:Tensor

class MAENet(Masking):
    "A vision transformer that sees some patches of each image, and a decoder that paints the others"
    def __init__(self, net, mask_ratio, place, patch, decoder, norm_pix):
        super().__init__(net, mask_ratio)
        self.place,self.patch,self.norm_pix = place,patch,norm_pix
        self.decoder = decoder

    def paint(self, *xb):
        "(the network's output, pixels of all patches (b,n,d) as the decoder gives them, positions that were seen)"
        net = bare(self.net)
        with Outlet(net, self.place) as o: out,keep = self.seen_by(*xb)
        norm = end_norm(net, o.tokens.patches.shape[-1])
        grid = tuple(a//b for a,b in zip(xb[0].shape[2:], self.patch))
        tokens = Tokens(norm(o.tokens.prefix), norm(o.tokens.patches), grid)
        return out,self.decoder(tokens, keep),keep

    def look(self, *xb):
        out,pred,keep = self.paint(*xb)
        want = patches_of(as_f32(xb[0]), self.patch)
        if self.norm_pix: want = normed(want)[0]
        rest = hidden(keep, want.shape[1])
        main,aux = out if isinstance(out, AuxOut) else (out, ())
        return AuxOut(main, (*aux, Kept(keep))),Painted(gathered(pred, rest), gathered(want, rest))

def need_patch(
    net,    # A network without wrappers
    place,  # `Place` of its tokens
    x,      # Images (b,c,h,w)
    tokens  # `Tokens` of them
):          # (height, width) in pixels
    "How large the patches of a vision transformer are"
    patch = patch_of(x, tokens)
    if place.first is not None and patch is not None: return patch
    raise ValueError(f"expected a student that cuts images into patches, got {type(net).__name__}, which makes "
                     f"{tokens.patches.shape[1]} tokens of {tuple(x.shape[2:])} pixels. Take a ViT, and images that "
                     "its patches cover.")

def _decoder_heads(dim):
    "The most of at least 32 channels, as in the paper's decoder, that divide the width"
    return next(h for h in range(max(1, dim//32), 0, -1) if dim % h == 0)

class MAEPretrain(InsideTechnique):
    """Add lam times the mean squared error of pixels that a decoder paints where the network was shown none

    Masked autoencoding (https://arxiv.org/abs/2111.06377), of the images as the network is given them. Techniques
    beside it see the same patches. In validation the masks are fixed, and the network's own output is that of whole
    images. The decoder leaves with the technique."""
    kind,surgery = Painted,MAENet
    names = 'mae',
    column = 'mae'
    exclusive = MaskedInput.exclusive
    def __init__(self,
        mask_ratio=.75, # Share of patches that are masked, in (0,1); the paper's
        dim=None,       # Width of the decoder, a multiple of 4; None: the student's, at most the paper's 512
        depth=1,        # Blocks of the decoder, 0 or more; the paper's 8 does as well after fine-tuning (table 1a)
        heads=None,     # Of each of its blocks; None: of 32 channels or more, as in the paper
        norm_pix=True,  # Pixels of each patch in its own scale? The paper's better choice
        lam=1.          # Weight > 0, or a schedule of pct_train
    ):
        super().__init__(lam)
        self.mask_ratio = need_ratio(mask_ratio)
        self.dim = dim if dim is None else need_whole('dim', dim, 4)
        self.depth = need_whole('depth', depth, 0, what='blocks')
        self.heads = heads if heads is None else need_whole('heads', heads, 1)
        self.norm_pix = need_truth('norm_pix', norm_pix)

    def prepare(self, learn): put_in(learn, MAENet, self.wrap)

    def wrap(self, net):
        inner = bare(net)
        ViT(inner, 'the student')   # says what is needed
        x = two_images(self.learn, net, 'MAEPretrain')
        place = find_place(inner, x, -1, 'the student')
        with at_rest(inner): t = tokens_of(inner, place, x)
        patch = need_patch(inner, place, x, t)
        decoder = self.decoder(t, patch, x.shape[1]).to(x.device, x.dtype)
        w = MAENet(net, self.mask_ratio, place, patch, decoder, self.norm_pix)
        try_mask(w, x)
        return w

    def decoder(self, tokens, patch, channels):
        "A new one for such tokens"
        width = tokens.patches.shape[-1]
        dim = self.dim or min(width, 512)
        heads = self.heads or _decoder_heads(dim)
        if dim % 4 or dim % heads:
            raise ValueError(f"expected `dim` to be a multiple of 4 and of `heads`, got {dim} and {heads} heads. Give "
                             "both, e.g. MAEPretrain(dim=64, heads=2).")
        pixels = patch[0]*patch[1]*channels
        if pixels == 1 and self.norm_pix:
            raise ValueError("expected patches of several pixels, got patches of one, which have no scale of their "
                             "own. Take MAEPretrain(norm_pix=False).")
        return Decoder(width, dim, self.depth, heads, pixels, tokens.grid)

    def terms(self, seen, x, kept=None): return {'mae': (as_f32(seen.pred) - seen.want).square().mean()}
