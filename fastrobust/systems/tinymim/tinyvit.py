"A small vision transformer for small images: to try TinyMIM on, in a notebook"
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth
from fastrobust.basics import need_number, need_whole

__all__ = ['tiny_vit']

def sincos(
    grid,   # (height, width) in patches
    dim     # Of a token, a multiple of 4
):          # (1,height*width,dim) float32
    "Fixed places: sines and cosines of row and column, wave lengths from 2 pi to 20,000 pi as in MAE"
    w = 1e-4**(torch.arange(dim//4, dtype=torch.float64)/(dim//4))
    y,x = (torch.arange(n, dtype=torch.float64)[:, None]*w for n in grid)
    waves = lambda o: torch.cat([o.sin(), o.cos()], 1)
    rows = waves(y)[:, None].expand(-1, grid[1], -1)
    cols = waves(x)[None].expand(grid[0], -1, -1)
    return torch.cat([rows, cols], 2).flatten(0, 1)[None].float()

class _Attention(nn.Module):
    "softmax(QK'/sqrt(d)) V in heads"
    def __init__(self, dim, heads):
        super().__init__()
        self.num_heads = heads
        self.qkv,self.proj = nn.Linear(dim, 3*dim),nn.Linear(dim, dim)

    def forward(self, x):
        q,k,v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

class _Block(nn.Module):
    "x + attention, x + two layers, each of the normalised x (pre-norm)"
    def __init__(self, dim, heads, drop_path):
        super().__init__()
        self.norm1,self.attn = nn.LayerNorm(dim, eps=1e-6),_Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(dim, 4*dim), nn.GELU(), nn.Linear(4*dim, dim))
        self.drop_path = StochasticDepth(drop_path, 'row') if drop_path else nn.Identity()

    def forward(self, x):
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

class TinyViT(nn.Module):
    "Vision transformer (https://arxiv.org/abs/2010.11929) with fixed places, for any size that patches divide"
    def __init__(self, size, patch, dim, depth, heads, channels, n_out, drop_path):
        super().__init__()
        self.num_prefix_tokens = 1
        self.size,self.patch,self.dim = size,patch,dim
        self.patch_embed = nn.Conv2d(channels, dim, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.register_buffer('pos_embed', sincos((size//patch,)*2, dim), persistent=False)
        # none in the last block, whose relations are distilled; elsewhere alike, as in the paper
        drops = [drop_path]*(depth-1) + [0.]
        self.blocks = nn.Sequential(*[_Block(dim, heads, p) for p in drops])
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, n_out) if n_out else nn.Identity()
        nn.init.normal_(self.cls_token, std=.02)
        for m in self.modules():
            if not isinstance(m, nn.Linear): continue
            nn.init.xavier_uniform_(m.weight)
            nn.init.zeros_(m.bias)

    def forward_features(self, x):
        "Tokens (b,1+n,dim) after the last norm, that of the class first"
        if x.shape[-2] % self.patch or x.shape[-1] % self.patch:
            raise ValueError(f"expected images that patches of {self.patch}x{self.patch} cover, got "
                             f"{tuple(x.shape[-2:])}. Resize them.")
        x = self.patch_embed(x)
        grid = tuple(x.shape[-2:])
        places = self.pos_embed
        if grid != (self.size//self.patch,)*2: places = sincos(grid, self.dim).to(places)
        x = x.flatten(2).transpose(1, 2) + places
        return self.norm(self.blocks(torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)))

    def forward(self, x): return self.head(self.forward_features(x)[:, 1:].mean(1))

def tiny_vit(
    size=32,    # Height and width of the images in pixels; others are taken too
    patch=4,    # Height and width of a patch, which divides `size`
    dim=64,     # Width of a token, a multiple of 4 that `heads` divide
    depth=4,    # Blocks
    heads=4,    # Of each block
    channels=3, # Of the images
    n_out=0,    # Classes; 0: it gives features (b,dim), the mean over patches
    *,
    drop_path=0. # Share of images for which a block is skipped in training, in [0,1); not in the last
)->nn.Module:
    "A small vision transformer (https://arxiv.org/abs/2010.11929), pre-norm, with a class token and fixed places"
    sizes = dict(size=size, patch=patch, dim=dim, depth=depth, heads=heads, channels=channels)
    for k,v in sizes.items(): need_whole(k, v, 1)
    need_whole('n_out', n_out, 0, what='classes')
    need_number('drop_path', drop_path)
    if not 0 <= drop_path < 1:
        raise ValueError(f"`drop_path` must be in [0,1), got {drop_path}. The paper takes .1.")
    if size % patch:
        raise ValueError(f"expected a `patch` that divides `size`, got {patch} and {size}. Take "
                         f"{', '.join(str(p) for p in range(2, size//2+1) if size % p == 0) or 1}.")
    if dim % 4 or dim % heads:
        raise ValueError(f"expected `dim` to be a multiple of 4 and of `heads`, got {dim} and "
                         f"{heads} heads. Take e.g. {4*heads}.")
    return TinyViT(size, patch, dim, depth, heads, channels, n_out, drop_path)
