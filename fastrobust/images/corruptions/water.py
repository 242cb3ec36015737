"How drops of water catch the light: edges, distance to them, relief; steps of `spatter` in torch"
# The published script calls OpenCV for each step. The same rules here, batched: Canny edges (equal
# to cv2.Canny), the distance to the nearest edge (exact; OpenCV's is a chamfer approximation),
# histogram equalisation, a relief filter.
import torch
from torch.nn import functional as F
from fastrobust.images.corruptions.filters import box_blocks, correlate, separable

__all__ = []

# light from one corner
RELIEF = torch.tensor([[-2., -1., 0.],
                       [-1.,  1., 1.],
                       [ 0.,  1., 2.]])

def _three(x, dim):
    "All of `x` but its borders along `dim`, between what comes before and what comes after"
    n = x.shape[dim]-2
    return [x.narrow(dim, i, n) for i in range(3)]

def widened(e):
    "`e` (b,1,h,w), bool, and all its neighbours"
    e = F.pad(e, (1, 1, 1, 1))
    left,e,right = _three(e, -1)
    above,e,below = _three(left | e | right, -2)
    return above | e | below

def canny(x, low, high):
    "Edges of `x` (b,1,h,w), grey levels 0..255: bool, by Canny's rule with the L1 norm of Sobel gradients"
    dx,dy = _sobel(x)
    m = dx.abs() + dy.abs()
    weak = _ridges(m, dx, dy) & (m > low)
    edge = weak & (m > high)
    # weak edges count where they touch strong ones
    while not (more := weak & widened(edge)).equal(edge): edge = more
    return edge

def _sobel(x):
    "Gradients of `x` across and down, border repeated"
    s = F.pad(x, (1, 1, 1, 1), mode='replicate')
    left,_,right = _three(s, -1)
    above,_,below = _three(s, -2)
    # each difference is summed over its three rows or columns, the middle one twice
    top,middle,bottom = _three(right-left, -2)
    dx = top + 2*middle + bottom
    first,middle,last = _three(below-above, -1)
    dy = first + 2*middle + last
    return dx,dy

def _ridges(m, dx, dy):
    "Where the norm `m` of the gradient is larger than at both neighbours in its direction"
    h,w = m.shape[2:]
    around = F.pad(m, (1, 1, 1, 1))
    def at(i, j): return around[..., 1+i:1+i+h, 1+j:1+j+w]
    across = (m > at(0, -1)) & (m >= at(0, 1))
    down   = (m > at(-1, 0)) & (m >= at(1, 0))
    main   = (m > at(-1, -1)) & (m > at(1, 1))
    anti   = (m > at(-1, 1)) & (m > at(1, -1))

    ax,ay = dx.abs(),dy.abs()
    t = 13573/32768 # tan 22.5 degrees as OpenCV has it
    slanted = torch.where(dx*dy < 0, anti, main)
    steep = torch.where(ay > ax*(t+2), down, slanted)
    return torch.where(ay < ax*t, across, steep)

def edge_distance(edge, far=20):
    "Distance of every pixel to the nearest edge pixel (b,1,h,w), at most `far`"
    h,w = edge.shape[2:]
    i = torch.arange(w, device=edge.device)
    # along the row; then over the rows around
    last = torch.where(edge, i, -2*far).cummax(-1).values
    nxt  = torch.where(edge, i, w+2*far).flip(-1)
    nxt  = nxt.cummin(-1).values.flip(-1)
    d = torch.minimum(i-last, nxt-i)
    d = d.clamp(max=far).float()**2
    rows = F.pad(d, (0, 0, far, far), value=far**2)
    out = d.clone()
    for k in range(1, far):
        above = rows[..., far-k:far-k+h, :]
        below = rows[..., far+k:far+k+h, :]
        torch.minimum(out, torch.minimum(above, below) + k*k, out=out)
    return out.sqrt()

def equalised(x):
    "Grey levels `x` (b,1,h,w), whole numbers 0..31, spread so that 0..255 are used evenly"
    b,n = len(x),x[0].numel()
    row = 32*torch.arange(b, device=x.device)
    i = x.long() + row.view(-1, 1, 1, 1)
    count = torch.bincount(i.flatten(), minlength=32*b)
    below = count.view(b, 32).cumsum(1)
    # size of the darkest level there is
    first = below.masked_fill(below == 0, n).amin(1, keepdim=True)
    scale = 255./(n-first).clamp(min=1)
    lut = (below-first)*scale
    lut = lut.round().clamp(min=0)
    # an image of one level keeps it
    same = torch.arange(32., device=x.device)
    lut = torch.where(first < n, lut, same)
    return lut.flatten()[i]

def ripples(liquid):
    "Light on the drops of `liquid` (b,1,h,w), 0 where it is dry: in [0,1]"
    level = (liquid*255).floor().clamp(0, 255)
    d = edge_distance(canny(level, 50, 150))
    d = separable(d, box_blocks)
    d = equalised((d + 1e-3).floor())
    d = correlate(d, RELIEF).clamp(0, 255)
    m = level*separable(d, box_blocks).round()
    top = m.amax((1, 2, 3), keepdim=True)
    return m/top.clamp(min=1e-12)
