"AugMix: mix a few randomly distorted copies of every image, and ask the network to answer all of them alike"
# Hendrycks et al., ICLR 2020, https://arxiv.org/abs/1912.02781. For shifted images. Stages: rows, penalty.
# The constants of the operations are those of the authors' google-research/augmix (Apache-2.0): read, not copied.
from typing import NamedTuple
import torch
from torch import Generator, Tensor
from fasttransform import DisplayedTransform
from fastai.vision.core import TensorImage
from fastrobust.basics import PixelSpace, check_weight, need_number, pixel_space
from fastrobust.losses import jsd
from fastrobust.objective import Technique
from fastrobust.ops import apply_ops, check_images

__all__ = ['AugMixDraw', 'draw_augmix', 'apply_augmix', 'augmix', 'AugMixTransform', 'AugMix']

class AugMixDraw(NamedTuple):
    "All that is random about one AugMix view of `b` images, `k` chains of at most `d` operations each; kept on the CPU"
    op:Tensor  # Positions in `AUGMIX_OPS` (b,k,d); -1 behind the end of a shorter chain
    arg:Tensor # Their parameters (b,k,d), float64
    w:Tensor   # Weights of the chains (b,k), rows sum to 1
    m:Tensor   # Share of the mixed chains against the clean image (b,)

def _check(severity, width, depth, alpha):
    for k,v in dict(severity=severity, width=width, depth=depth, alpha=alpha).items(): need_number(k, v)
    def need(ok, name, what, got, usual):
        if not ok: raise ValueError(f"`{name}` must be {what}, got {got}. The paper uses {usual}.")
    need(.1 <= severity <= 10, 'severity', 'in [0.1,10]', severity, '3 for CIFAR, 1 for ImageNet')
    need(width >= 1 and width == int(width), 'width', 'a whole number of chains, at least 1', width, 3)
    need(depth == -1 or depth >= 1 and depth == int(depth), 'depth', 'a whole number from 1 on, or -1', depth,
         '-1: 1 to 3 operations, drawn for each chain')
    need(0 < alpha < float('inf'), 'alpha', 'positive and finite', alpha, 1)

def _gamma(u, alpha):
    "Gamma(`alpha`) numbers from uniform ones, one for one, so that images never get out of step"
    if alpha == 1: return -torch.log1p(-u)
    from scipy.special import gammaincinv
    return torch.from_numpy(gammaincinv(alpha, u.numpy())).clamp_min(1e-300)

def _magnitudes(level, sign, size):
    "Parameters of the 13 operations at `level`, in the order of `AUGMIX_OPS`: (...,13)"
    whole = lambda top: (level*top/10).floor() # the authors' int()
    (h,w),none,shear,factor = size,torch.zeros_like(level),sign*level*.3/10,level*1.8/10 + .1
    return torch.stack([none, none, 4-whole(4), sign*whole(30), 256-whole(256), shear, shear, sign*whole(w/3),
                        sign*whole(h/3), factor, factor, factor, factor], -1)

def draw_augmix(
    b:int,             # Number of images
    severity:float=3,  # Operations draw their level from U(0.1, `severity`), up to 10; the paper: 3 CIFAR, 1 ImageNet
    width:int=3,       # Chains per image; 3 in the paper
    depth:int=-1,      # Operations per chain; -1: 1 to 3, drawn for each chain, as in the paper
    alpha:float=1.,    # Weights ~ Dirichlet(`alpha`), share of the mix ~ Beta(`alpha`,`alpha`); 1 in the paper
    all_ops:bool=False,# Also colour, contrast, brightness, sharpness: not for CIFAR-C/ImageNet-C, which test just these
    generator:Generator=None, # On the CPU; None: torch's own
    size:tuple=(32,32) # Height, width: translations reach a third of the side they move along at level 10
)->AugMixDraw:
    "Draw operations, parameters, weights: as many numbers for every image, so splitting a batch changes nothing"
    _check(severity, width, depth, alpha)
    if generator is not None and generator.device.type != 'cpu':
        raise ValueError(f"`generator` must be on the CPU, got {generator.device}. Use `torch.Generator()`: all "
                         "devices then see the same draws.")
    k,d = int(width),3 if depth == -1 else int(depth)
    u = torch.rand(b, 3*k*d + 2*k + 2, generator=generator, dtype=torch.float64)
    gw,gm,length,which,level,turn = u.split([k, 2, k, k*d, k*d, k*d], 1)
    which,level,turn = (o.view(b, k, d) for o in (which, level, turn))
    op,sign = (which*(13 if all_ops else 9)).long(),(turn > .5).double()*-2 + 1
    arg = _magnitudes(.1 + (severity-.1)*level, sign, size).gather(-1, op[..., None])[..., 0]
    if depth == -1: op = op.masked_fill(torch.arange(d) > (length*3).long()[..., None], -1)
    gw,gm = _gamma(gw, alpha),_gamma(gm, alpha)
    return AugMixDraw(op, arg, gw/gw.sum(1, keepdim=True), gm[:, 0]/gm.sum(1))

@torch.no_grad()
def apply_augmix(
    x_u8:Tensor,      # Images (b,c,h,w), uint8
    draw:AugMixDraw   # What `draw_augmix` drew for them
)->Tensor:            # Pixels in [0,1], float32, (b,c,h,w)
    "(1-m) x + m sum_i w_i chain_i(x) with the numbers of `draw`; chains stay uint8, the mix is not rounded"
    x,(b,k,d) = check_images(x_u8, 'x_u8'),draw.op.shape
    if len(x) != b: raise ValueError(f"`draw` is for {b} images, got {len(x)}. Use `draw_augmix({len(x)}, ...)`.")
    cur = x.repeat_interleave(k, 0)
    for t in range(d): cur = apply_ops(cur, draw.op[:, :, t].flatten(), draw.arg[:, :, t].flatten())
    cur,w,m = cur.view(b, k, *x.shape[1:]),*(o.float().to(x.device).view(b, -1, 1, 1, 1) for o in (draw.w, draw.m))
    mix = sum(w[:, i]*cur[:, i].float() for i in range(k))
    return ((1-m[:, 0])*x.float() + m[:, 0]*mix).div_(255).clamp_(0, 1)

def augmix(
    x_u8:Tensor,       # Images (b,c,h,w), uint8, c=1 or 3; before Normalize
    severity:float=3,  # Upper end of the level of an operation, in [0.1,10]; the paper: 3 CIFAR, 1 ImageNet
    width:int=3,       # Chains per image; 3 in the paper
    depth:int=-1,      # Operations per chain; -1: 1 to 3, drawn for each chain, as in the paper
    alpha:float=1.,    # Of the Dirichlet and Beta weights; 1 in the paper
    all_ops:bool=False,# Also colour, contrast, brightness, sharpness: not for CIFAR-C/ImageNet-C
    generator:Generator=None # On the CPU; None: torch's own
)->Tensor:             # Pixels in [0,1], float32, (b,c,h,w)
    "One AugMix view of every image, each with its own operations and weights (algorithm 1)"
    x = check_images(x_u8, 'x_u8')
    return apply_augmix(x, draw_augmix(len(x), severity, width, depth, alpha, all_ops, generator, tuple(x.shape[-2:])))

class AugMixTransform(DisplayedTransform):
    "AugMix as a batch transform: one view in place of each image, without the consistency term; training only"
    split_idx,order = 0,50 # after IntToFloatTensor (10) and the geometric transforms (30), before Normalize (99)
    def __init__(self,
        severity:float=3,  # Upper end of the level of an operation, in [0.1,10]; the paper: 3 CIFAR, 1 ImageNet
        width:int=3,       # Chains per image; 3 in the paper
        depth:int=-1,      # Operations per chain; -1: 1 to 3, drawn for each chain, as in the paper
        alpha:float=1.,    # Of the Dirichlet and Beta weights; 1 in the paper
        all_ops:bool=False # Also colour, contrast, brightness, sharpness: not for CIFAR-C/ImageNet-C
    ):
        _check(severity, width, depth, alpha)
        super().__init__()
        self.severity,self.width,self.depth,self.alpha,self.all_ops = severity,width,depth,alpha,all_ops

    def encodes(self, x:TensorImage):
        u8 = PixelSpace().to_uint8(x.as_subclass(Tensor), 'AugMixTransform')
        return TensorImage(augmix(u8, self.severity, self.width, self.depth, self.alpha, self.all_ops).to(x.dtype))

class AugMix(Technique):
    "Loss of the clean images + `lam` x Jensen-Shannon divergence of the predictions for them and their views"
    column = 'jsd'
    def __init__(self,
        lam=12.,           # Weight of the divergence: a number > 0 or a function of pct_train; 12 in the paper
        severity:float=3,  # Upper end of the level of an operation, in [0.1,10]; the paper: 3 CIFAR, 1 ImageNet
        width:int=3,       # Chains per image; 3 in the paper
        depth:int=-1,      # Operations per chain; -1: 1 to 3, drawn for each chain, as in the paper
        alpha:float=1.,    # Of the Dirichlet and Beta weights; 1 in the paper
        all_ops:bool=False,# Also colour, contrast, brightness, sharpness: not for CIFAR-C/ImageNet-C
        views:int=2        # Views of each image beside the clean one; 2 in the paper; batches grow (1+`views`)-fold
    ):
        super().__init__()
        _check(severity, width, depth, alpha)
        if views < 1 or views != int(views):
            raise ValueError(f"`views` must be a whole number from 1 on, got {views}. Without views: AugMixTransform.")
        self.lam = check_weight('lam', lam, 'use AugMixTransform, the form without the divergence')
        self.severity,self.width,self.depth,self.alpha = severity,width,depth,alpha
        self.all_ops,self.views = all_ops,int(views)

    def rows(self, x):
        if self.weight_now == 0: return
        if x.ndim != 4:
            raise ValueError(f"{self.name} expected images (b,c,h,w), got a batch of shape {tuple(x.shape)}. Remove "
                             "it: its operations are defined for images only.")
        px = pixel_space(self.dls)
        u8 = px.to_uint8(x.as_subclass(Tensor), self.name).repeat(self.views, 1, 1, 1)
        return px.encode(augmix(u8, self.severity, self.width, self.depth, self.alpha, self.all_ops)).to(x.dtype)

    def penalty(self, z, part):
        if part is None: return
        return jsd([self.objective.map(o.float()) for o in (z, *part.chunk(self.views))])
