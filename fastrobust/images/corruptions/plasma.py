"Textures made by rule: plasma clouds for fog, sheets of ice ferns for frost"
from functools import lru_cache
import math
import torch
from fastrobust.images.corruptions.draws import Draws
from fastrobust.images.corruptions.filters import gaussian

__all__ = []

def plasma(n, decay, r):
    "Clouds (b,n,n) in [0,1] that repeat at their borders, by midpoint displacement; `n` a power of 2"
    # Every square gets the mean of its corners plus a random offset in its middle, every edge then
    # the mean of its ends and the two middles beside it plus another; squares halve, offsets shrink
    # by `decay` squared: the scripts multiply an amplitude with a number drawn from a range of that
    # same amplitude.
    m = torch.zeros_like(r.rand(1, 1))
    amp = 100.**2
    k = 1                           # squares along a side
    while 2*k <= n:
        u = (r.rand(3, k, k)*2 - 1)*amp
        in_mid,in_top,in_left = u.unbind(1)
        below = m + m.roll(-1, 1)
        mid = below + below.roll(-1, 2)
        mid = mid/4 + in_mid
        top = m + m.roll(-1, 2) + mid + mid.roll(1, 1)
        top = top/4 + in_top
        left = below + mid + mid.roll(1, 2)
        left = left/4 + in_left
        upper = torch.stack([m, top], 3)
        lower = torch.stack([left, mid], 3)
        k *= 2
        m = torch.stack([upper, lower], 2).reshape(-1, k, k)
        amp /= decay**2
    m = m - m.amin((1, 2), keepdim=True)
    top = m.amax((1, 2), keepdim=True)
    return m/top.clamp(min=1e-12)

# --- frost ----------------------------------------------------------------------------------------
# The published files add a part of one of five photographs of frozen windows. Those are not ours to
# ship; we draw five sheets once, by a fixed rule, and give each the mean and the standard deviation
# of one photograph (red, green, blue).
SIDE = 512
PHOTOS = torch.tensor([[[ 77.7, 149.1, 165.7], [26.9, 16.5, 15.3]],
                       [[200.8, 205.4, 214.5], [21.4, 22.1, 22.6]],
                       [[200.8, 205.4, 214.5], [21.4, 22.1, 22.6]],
                       [[137.6, 152.8, 165.2], [28.5, 28.5, 29.9]],
                       [[112.4, 123.4, 134.8], [44.4, 43.3, 41.7]]])

def ferns(count, r):
    "Ice ferns (b,SIDE,SIDE) in [0,1]: a straight stem, from it branches to both sides, shorter towards the tip"
    y,x,turn,size,light = r.rand(5, count, 1, 1, 1).unbind(1)
    size = 30 + 90*size**2
    turn = 2*math.pi*turn
    light = .4 + .6*light
    ice = torch.zeros(len(y), SIDE*SIDE)

    def draw(s, t, turned, reach, light):
        "Lines that leave the stem at `s`, at their points `t`, fading until `reach`"
        py = y*SIDE + s*torch.sin(turn) + t*torch.sin(turned)
        px = x*SIDE + s*torch.cos(turn) + t*torch.cos(turned)
        row,col = py.long() % SIDE,px.long() % SIDE
        at = row*SIDE + col
        fade = 1 - t/reach.clamp(min=1)
        glow = light*fade.clamp(min=0).sqrt()
        glow = torch.where(t < reach, glow, 0.).expand(py.shape)
        ice.scatter_reduce_(1, at.flatten(1), glow.flatten(1), 'amax')

    draw(0, torch.arange(120.), turn, size, light)
    # where branches leave, places along a branch
    s = torch.arange(0, 120, 3.)[:, None, None]
    t = torch.arange(50.)
    jitter = r.rand(count, len(s), 2, 1)
    # 50 to 75 degrees from the stem
    side = torch.tensor([-1., 1.])[:, None]
    side = side*(.9 + .4*jitter)
    reach = (.25 + .3*jitter)*(size-s)
    light = light*(.4 + .6*jitter.flip(3))
    draw(s, t, turn + side, reach, light)
    return ice.view(-1, SIDE, SIDE)

@lru_cache(maxsize=2)
def frost_sheets(device):
    "Five frosted windows (5,SIDE,SIDE,3) uint8, the same on every machine"
    r = Draws(torch.arange(1, 6))
    grain = r.randn(SIDE, SIDE)
    ice = ferns(220, r)
    t = plasma(SIDE, 1.6, r)*1.8
    t = t + gaussian(ice, .5)*1.6 + gaussian(ice, 3.) + gaussian(grain, .7)*.25
    centred = t - t.mean((1, 2), keepdim=True)
    t = centred/t.std((1, 2), keepdim=True)
    mean,sd = PHOTOS[:, :, None, None].unbind(1)
    colours = mean + sd*t[..., None]
    return colours.round().clamp(0, 255).byte().to(device)

def frost_part(h, w, shrink, r):
    "A random part of a random sheet, made `shrink` times smaller, for every image: (b,3,h,w) in [0,1]"
    sheets = frost_sheets(r.device)
    k = r.randint(0, len(sheets), 1, 1)
    starts = r.randint(0, SIDE, 2, 1).unbind(1)
    # Smaller as OpenCV does it: the new pixels' middles lie between old ones, whose levels are
    # interpolated linearly; or on them, where `shrink` is odd
    off = (shrink-1)/2 % 1
    y,x = (start + off + shrink*torch.arange(n, device=r.device, dtype=torch.float64)
           for start,n in zip(starts, (h, w)))
    i,j = y.long(),x.long()

    def look(i, j):
        row = k*SIDE + (i % SIDE)[:, :, None]
        at = row*SIDE + (j % SIDE)[:, None, :]
        ice = sheets.view(-1, 3).index_select(0, at.flatten())
        return ice.view(-1, h, w, 3)

    if off == 0: return look(i, j).permute(0, 3, 1, 2)/255
    down,right = (y-i)[:, :, None, None],(x-j)[:, None, :, None]
    upper = torch.lerp(look(i, j).double(), look(i, j+1).double(), right)
    lower = torch.lerp(look(i+1, j).double(), look(i+1, j+1).double(), right)
    ice = torch.lerp(upper, lower, down).round()
    return ice.permute(0, 3, 1, 2).float()/255
