"ViT-KNO: a Koopman operator on patches of large fields, mixed in Fourier space (AFNO)"
import math
import torch
from torch import nn
from torch.nn import functional as F
from fastrobust.basics import is_whole, need_number, need_whole
from fastrobust.systems.koopman.networks.spectral import need_input

__all__ = ['ViTKNO']

def block_product(y, w, b):
    "A complex layer on each block of channels: (b,h,w,blocks,i) -> (b,h,w,blocks,i)"
    return torch.einsum('bhwni,nio->bhwno', y, torch.view_as_complex(w)) + torch.view_as_complex(b)

def each_part(f, y):
    "`f` on real and imaginary part"
    return torch.complex(f(y.real), f(y.imag))

class AFNO(nn.Module):
    """softshrink of an MLP on the channels of every Fourier mode, in blocks:
    https://arxiv.org/abs/2111.13587. Relu and biases see the phase of a mode: shifted tokens do not
    give a shifted output. Both sides of the field are periodic"""
    def __init__(self, dim, blocks, shrink):
        super().__init__()
        n = dim//blocks
        self.blocks,self.shrink = blocks,shrink
        # .02: the authors' code
        self.w1 = nn.Parameter(.02*torch.randn(blocks, n, n, 2))
        self.w2 = nn.Parameter(.02*torch.randn(blocks, n, n, 2))
        self.b1 = nn.Parameter(.02*torch.randn(blocks, n, 2))
        self.b2 = nn.Parameter(.02*torch.randn(blocks, n, 2))

    def forward(self, x):
        y = torch.fft.fft(torch.fft.rfft(x, dim=2, norm='ortho'), dim=1, norm='ortho')
        y = y.unflatten(-1, (self.blocks, -1))
        y = each_part(F.relu, block_product(y, self.w1, self.b1))
        y = block_product(y, self.w2, self.b2)
        y = each_part(lambda o: F.softshrink(o, self.shrink), y).flatten(-2)
        y = torch.fft.ifft(y, dim=1, norm='ortho')
        return torch.fft.irfft(y, n=x.shape[2], dim=2, norm='ortho')

class Block(nn.Module):
    "A residual AFNO filter, then a residual MLP, each after a LayerNorm"
    def __init__(self, dim, blocks, mlp, shrink):
        super().__init__()
        hidden = int(dim*mlp)
        self.norm1,self.norm2 = nn.LayerNorm(dim),nn.LayerNorm(dim)
        self.filter = AFNO(dim, blocks, shrink)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x):
        x = x + self.filter(self.norm1(x))
        return x + self.mlp(self.norm2(x))

class Unpatch(nn.Linear):
    "Tokens (b,h,w,dim) -> the patch of each (b,c,h*p,w*p), by one linear layer"
    def __init__(self, dim, c, p):
        super().__init__(dim, c*p*p)
        self.c,self.p = c,p

    def forward(self, z):
        b,h,w,_ = z.shape
        y = super().forward(z).view(b, h, w, self.c, self.p, self.p)
        return y.permute(0, 3, 1, 4, 2, 5).reshape(b, self.c, h*self.p, w*self.p)

class Unconv(nn.Module):
    "Tokens -> patches twice as wide that overlap and are added, around the sides too: no seams"
    def __init__(self, dim, c, p):
        super().__init__()
        self.p = p
        self.conv = nn.ConvTranspose2d(dim, c, 2*p, stride=p, padding=p+p//2)

    def forward(self, z):
        _,h,w,_ = z.shape
        z = F.pad(z.permute(0, 3, 1, 2), (1, 1, 1, 1), mode='circular')
        return self.conv(z)[..., :h*self.p, :w*self.p]

class ViTKNO(nn.Module):
    """Fields (b,t_in,*size) -> (pred, rec): patches to tokens with learned places, two AFNO blocks
    (https://arxiv.org/abs/2111.13587) and tanh to observables z, `depth` AFNO blocks as Koopman
    layers to h, pred = D(tanh(w0 z + h)), rec = D(z), as in https://arxiv.org/abs/2301.10022. Bound
    to `size`: the places are learned, and a patch is a piece of this grid"""
    any_grid = False
    def __init__(self,
        size=(64, 128), # (x,y) nodes of the fields
        t_in:int=1,     # Channels that it sees, and gives: frames or variables; KoopmanLab: 20 of ERA5
        patch:int=8,    # Nodes along each side of a patch; KoopmanLab's
        dim:int=64,     # Channels of a token; 768 in KoopmanLab, for 720 x 1440
        depth:int=2,    # Koopman layers; 10 in KoopmanLab
        blocks:int=4,   # Blocks of channels that a filter keeps apart; 16 in KoopmanLab
        mlp:float=4.,   # Hidden channels of an MLP over `dim`; KoopmanLab's
        decoder:str='linear', # D: each patch by a linear layer, or patches that overlap ('conv')
        *,
        shrink:float=.01 # Fourier coefficients below are 0 after a filter; AFNO's
    ):
        super().__init__()
        self.t_in = need_whole('t_in', t_in, 1, what='channels')
        self.patch = need_whole('patch', patch, 1, what='nodes')
        need_whole('dim', dim, 1, what='channels')
        need_whole('depth', depth, 1, what='layers')
        need_whole('blocks', blocks, 1)
        if isinstance(size, (str, int)) or len(size) != 2 or not all(is_whole(o) for o in size):
            raise ValueError("`size` must be two whole numbers, the nodes along x and y, got "
                             f"{size!r}. Give e.g. (64, 128).")
        if any(o < patch or o % patch for o in size):
            raise ValueError(f"expected a size that patches of {patch} nodes fill, got "
                             f"{tuple(size)}. Give a `patch` that divides both sides, or pad the "
                             "fields.")
        if dim % blocks:
            raise ValueError(f"expected `dim` as a multiple of `blocks`, got dim={dim}, "
                             f"blocks={blocks}. Give dim={dim//blocks*blocks or blocks}.")
        if decoder not in ('linear', 'conv'):
            raise ValueError(f"`decoder` must be 'linear' or 'conv', got {decoder!r}.")
        for name,v in dict(mlp=mlp, shrink=shrink).items(): need_number(name, v)
        if not 0 < mlp < math.inf:
            raise ValueError(f"`mlp` must be positive and finite, got {mlp}. 4. is usual.")
        if not 0 <= shrink < math.inf:
            raise ValueError(f"`shrink` must be finite and not negative, got {shrink}. 0. switches "
                             "it off.")
        self.size = tuple(int(o) for o in size)
        h,w = (o//patch for o in self.size)
        self.embed = nn.Conv2d(t_in, dim, patch, stride=patch)
        self.places = nn.Parameter(.02*torch.randn(1, h, w, dim))
        self.encoder = nn.Sequential(*[Block(dim, blocks, mlp, shrink) for _ in range(2)])
        self.core = nn.Sequential(*[Block(dim, blocks, mlp, shrink) for _ in range(depth)])
        self.w0 = nn.Linear(dim, dim)
        self.decoder = (Unpatch if decoder == 'linear' else Unconv)(dim, t_in, patch)

    def observables(self,
        u   # Fields (b,t_in,*size)
    ):      # (b, x/patch, y/patch, dim)
        "z = tanh(E u) of every patch"
        z = self.embed(u).permute(0, 2, 3, 1) + self.places
        return torch.tanh(self.encoder(z))

    def forward(self, u):
        need_input(u, self.t_in, 2, self.places, 'ViTKNO')
        if tuple(u.shape[2:]) != self.size:
            raise ValueError(f"ViTKNO expected fields of its size {self.size}, got "
                             f"{tuple(u.shape[2:])}. Resample them, or make another: its places "
                             "are learned for this grid. KNO2d takes any grid.")
        z = self.observables(u)
        h = self.core(z)
        return self.decoder(torch.tanh(self.w0(z)+h)),self.decoder(z)
