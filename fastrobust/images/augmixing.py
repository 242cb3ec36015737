"AugMix as tensor arithmetic: draw operations and weights for every image, apply them, mix"
# Hendrycks et al., ICLR 2020, https://arxiv.org/abs/1912.02781, algorithm 1. Techniques:
# techniques/augmix.py. The constants of the operations are those of the authors'
# google-research/augmix (Apache-2.0): read, not copied.
from typing import NamedTuple
import torch
from torch import Generator, Tensor
from fastrobust.basics import need_number
from fastrobust.images import engine
from fastrobust.images.ops import check_images, run_ops

__all__ = ['augmix']

class AugMixDraw(NamedTuple):
    "All that is random about one AugMix view of `b` images, `k` chains of at most `d` operations each; kept on the CPU"
    op:Tensor  # Positions in `AUGMIX_OPS` (b,k,d); -1 behind the end of a shorter chain
    arg:Tensor # Their parameters (b,k,d), float64
    w:Tensor   # Weights of the chains (b,k), rows sum to 1
    m:Tensor   # Share of the mixed chains against the clean image (b,)

def check_augmix(severity, width, depth, alpha):
    given = dict(severity=severity, width=width, depth=depth, alpha=alpha)
    for k,v in given.items(): need_number(k, v)

    def need(ok, name, what, usual):
        if ok: return
        raise ValueError(f"`{name}` must be {what}, got {given[name]}. The paper uses {usual}.")

    need(.1 <= severity <= 10, 'severity', 'in [0.1,10]', '3 for CIFAR, 1 for ImageNet')
    def whole(v): return 1 <= v < float('inf') and v == int(v)
    need(whole(width), 'width', 'a whole number of chains, at least 1', 3)
    need(depth == -1 or whole(depth), 'depth', 'a whole number from 1 on, or -1',
         '-1: 1 to 3 operations, drawn for each chain')
    need(0 < alpha < float('inf'), 'alpha', 'positive and finite', 1)

def _gamma(u, alpha):
    "Gamma(`alpha`) numbers from uniform ones, one for one, so that images never get out of step"
    if alpha == 1: return -torch.log1p(-u)
    from scipy.special import gammaincinv
    g = gammaincinv(alpha, u.numpy())
    return torch.from_numpy(g).clamp_min(1e-300)

def operation_args(level, sign, size):
    "Parameters of the 13 operations at `level`, in the order of `AUGMIX_OPS`: (...,13)"
    def whole(top): return (level*top/10).floor() # the authors' int()
    h,w = size
    none = torch.zeros_like(level)
    bits = 4-whole(4)
    angle = sign*whole(30)
    threshold = 256-whole(256)
    shear = sign*level*.3/10
    across,down = sign*whole(w/3),sign*whole(h/3)
    factor = level*1.8/10 + .1
    args = [none, none, bits, angle, threshold, shear, shear, across, down] + 4*[factor]
    return torch.stack(args, -1)

def draw_augmix(
    b:int,             # Number of images
    # Operations draw their level from U(0.1, `severity`), up to 10; the paper: 3 CIFAR, 1 ImageNet
    severity:float=3,
    width:int=3,       # Chains per image; 3 in the paper
    depth:int=-1,      # Operations per chain; -1: 1 to 3, drawn for each chain, as in the paper
    # Weights ~ Dirichlet(`alpha`), share of the mix ~ Beta(`alpha`,`alpha`); 1 in the paper
    alpha:float=1.,
    # Also colour, contrast, brightness, sharpness: not for CIFAR-C/ImageNet-C, which test just
    # these
    all_ops:bool=False,
    generator:Generator=None, # On the CPU; None: torch's own
    *,
    # Height, width: translations reach a third of the side they move along at level 10
    size:tuple=(32,32)
)->AugMixDraw:
    "Draw operations, parameters, weights: as many numbers for every image, so splitting a batch changes nothing"
    check_augmix(severity, width, depth, alpha)
    if generator is not None and generator.device.type != 'cpu':
        raise ValueError(f"`generator` must be on the CPU, got {generator.device}. Use "
                         "`torch.Generator()`: all devices then see the same draws.")
    k = int(width)
    d = 3 if depth == -1 else int(depth)
    u = torch.rand(b, 3*k*d + 2*k + 2, generator=generator, dtype=torch.float64)
    gw,gm,length,*rest = u.split([k, 2, k, k*d, k*d, k*d], 1)
    which,level,turn = (o.view(b, k, d) for o in rest)

    n = 13 if all_ops else 9
    op = (which*n).long()
    level = .1 + (severity-.1)*level
    sign = (turn > .5).double()*-2 + 1
    arg = operation_args(level, sign, size)
    arg = arg.gather(-1, op[..., None])[..., 0]
    if depth == -1:
        last = (length*3).long()[..., None]
        op = op.masked_fill(torch.arange(d) > last, -1)

    gw = _gamma(gw, alpha)
    gm = _gamma(gm, alpha)
    w = gw/gw.sum(1, keepdim=True)
    m = gm[:, 0]/gm.sum(1)
    return AugMixDraw(op, arg, w, m)

# values of the images whose chains are held at a time;
# a 32nd of them is mixed at once, in the cache
_chains = 2**22

@torch.no_grad()
def apply_augmix(
    x_u8:Tensor,      # Images (b,c,h,w), uint8
    draw:AugMixDraw   # What `draw_augmix` drew for them
)->Tensor:            # Pixels in [0,1], float32, (b,c,h,w)
    "(1-m) x + m sum_i w_i chain_i(x) with the numbers of `draw`; chains stay uint8, the mix is not rounded"
    x = check_images(x_u8, 'x_u8')
    b = len(draw.op)
    if len(x) != b:
        raise ValueError(f"`draw` is for {b} images, got {len(x)}. Make one for these: "
                         f"`fastrobust.images.augmixing.draw_augmix({len(x)}, ...)`.")
    shapes = [tuple(o.shape) for o in draw]
    if len(shapes[0]) != 3 or shapes != [draw.op.shape, draw.op.shape, draw.op.shape[:2], draw.op.shape[:1]]:
        raise ValueError("`draw` must hold op and arg (b,k,d), w (b,k), m (b,), got the shapes "
                         f"{shapes}. Make one with `draw_augmix`.")
    op = draw.op.cpu()
    arg = draw.arg.cpu().double()
    w = draw.w.float().to(x.device)
    m = draw.m.float().to(x.device)
    loops = engine.loops_for(x)
    if loops: return engine.run(loops.mix, x, op, arg, torch.float32, w, m)
    out = torch.empty(x.shape, device=x.device)

    size = max(1, x[:1].numel())
    n = max(1, _chains//size)
    few = max(1, _chains//32//size)
    if x.device.type != 'cpu': few = n
    for i in range(0, b, n):
        end = min(i+n, b)
        cur = _chained(x[i:end], op[i:end], arg[i:end])
        for j in range(i, end, few):
            part = slice(j, min(j+few, end))
            out[part] = _mix(x[part], cur[j-i:part.stop-i], w[part], m[part])
    return out

def _chained(x, op, arg):
    "What `k` chains of `d` operations each make of the images `x`: uint8 (b,k,c,h,w)"
    k,d = op.shape[1:]
    cur = x.repeat_interleave(k, 0)
    for t in range(d):
        cur = run_ops(cur, op[..., t].flatten(), arg[..., t].flatten())
    return cur.view(-1, k, *x.shape[1:])

def _mix(x, cur, w, m):
    w = w.view(*w.shape, 1, 1, 1)
    m = m.view(-1, 1, 1, 1)
    mix = cur[:, 0]*w[:, 0]
    for i in range(1, cur.shape[1]): mix.addcmul_(cur[:, i], w[:, i])
    clean = (1-m)*x
    return clean.add_(mix.mul_(m)).div_(255).clamp_(0, 1)

def augmix(
    x_u8:Tensor,       # Images (b,c,h,w), uint8, c=1 or 3; before Normalize
    # Upper end of the level of an operation, in [0.1,10]; the paper: 3 CIFAR, 1 ImageNet
    severity:float=3,
    width:int=3,       # Chains per image; 3 in the paper
    depth:int=-1,      # Operations per chain; -1: 1 to 3, drawn for each chain, as in the paper
    alpha:float=1.,    # Of the Dirichlet and Beta weights; 1 in the paper
    all_ops:bool=False,# Also colour, contrast, brightness, sharpness: not for CIFAR-C/ImageNet-C
    generator:Generator=None # On the CPU; None: torch's own
)->Tensor:             # Pixels in [0,1], float32, (b,c,h,w)
    "One AugMix view of every image, each with its own operations and weights (algorithm 1)"
    x = check_images(x_u8, 'x_u8')
    size = tuple(x.shape[-2:])
    draws = draw_augmix(len(x), severity, width, depth, alpha, all_ops, generator, size=size)
    return apply_augmix(x, draws)
