"How drops of water catch the light: edges, distance to them, relief; steps of `spatter` in torch"
# The published script calls OpenCV for each step. The same rules here, batched: Canny edges (equal
# to cv2.Canny), the distance to the nearest edge (exact; OpenCV's is a chamfer approximation),
# histogram equalisation, a relief filter.
import torch
from torch.nn import functional as F
from fastrobust.images.corruptions.filters import box_blocks, correlate, separable

__all__ = []

RELIEF = torch.tensor([[-2., -1., 0.], [-1., 1., 1.], [0., 1., 2.]]) # light from one corner

def widened(e):
    "`e` (b,1,h,w), bool, and all its neighbours"
    e = F.pad(e, (1, 1, 1, 1))
    e = e[..., 1:-1] | e[..., 2:] | e[..., :-2]
    return e[..., 1:-1, :] | e[..., 2:, :] | e[..., :-2, :]

def canny(x, low, high):
    "Edges of `x` (b,1,h,w), grey levels 0..255: bool, by Canny's rule with the L1 norm of Sobel gradients"
    h,w = x.shape[2:]
    s = F.pad(x, (1, 1, 1, 1), mode='replicate')
    dx,dy = s[..., 2:] - s[..., :-2],s[..., 2:, :] - s[..., :-2, :]
    dx = dx[..., :-2, :] + 2*dx[..., 1:-1, :] + dx[..., 2:, :]
    dy = dy[..., :-2] + 2*dy[..., 1:-1] + dy[..., 2:]
    m = dx.abs() + dy.abs()
    around = F.pad(m, (1, 1, 1, 1))
    def at(i, j): return around[..., 1+i:1+i+h, 1+j:1+j+w]
    ax,ay,t = dx.abs(),dy.abs(),13573/32768 # tan 22.5 degrees as OpenCV has it
    across = (m > at(0, -1)) & (m >= at(0, 1))
    down   = (m > at(-1, 0)) & (m >= at(1, 0))
    main   = (m > at(-1, -1)) & (m > at(1, 1))
    anti   = (m > at(-1, 1)) & (m > at(1, -1))
    top = torch.where(ay < ax*t, across, torch.where(ay > ax*(t+2), down, torch.where(dx*dy < 0, anti, main)))
    weak = top & (m > low)
    edge = weak & (m > high)
    # weak edges count where they touch strong ones
    while not (more := weak & widened(edge)).equal(edge): edge = more
    return edge

def edge_distance(edge, far=20):
    "Distance of every pixel to the nearest edge pixel (b,1,h,w), at most `far`"
    h,w = edge.shape[2:]
    i = torch.arange(w, device=edge.device)
    last = torch.where(edge, i, -2*far).cummax(-1).values
    nxt  = torch.where(edge, i, w+2*far).flip(-1).cummin(-1).values.flip(-1)
    # along the row; then over the rows around
    d = torch.minimum(i-last, nxt-i).clamp(max=far).float()**2
    rows,out = F.pad(d, (0, 0, far, far), value=far**2),d.clone()
    for k in range(1, far):
        torch.minimum(out, torch.minimum(rows[..., far-k:far-k+h, :], rows[..., far+k:far+k+h, :]) + k*k, out=out)
    return out.sqrt()

def equalised(x):
    "Grey levels `x` (b,1,h,w), whole numbers 0..31, spread so that 0..255 are used evenly"
    n,b = x[0].numel(),len(x)
    row = 32*torch.arange(b, device=x.device).view(-1, 1, 1, 1)
    i = x.long() + row
    count = torch.bincount(i.flatten(), minlength=32*b).view(b, 32)
    below = count.cumsum(1)
    # size of the darkest level there is
    first = below.masked_fill(below == 0, n).amin(1, keepdim=True)
    lut = ((below-first)*(255./(n-first).clamp(min=1))).round().clamp(min=0)
    # an image of one level keeps it
    lut = torch.where(first < n, lut, torch.arange(32., device=x.device))
    return lut.flatten()[i]

def ripples(liquid):
    "Light on the drops of `liquid` (b,1,h,w), 0 where it is dry: in [0,1]"
    level = (liquid*255).floor().clamp(0, 255)
    d = separable(edge_distance(canny(level, 50, 150)), box_blocks)
    d = correlate(equalised((d + 1e-3).floor()), RELIEF).clamp(0, 255)
    m = level*separable(d, box_blocks).round()
    return m/m.amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
