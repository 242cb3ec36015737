"Weather: snow, frost, fog (brightness is in `colour.py`) and the extra corruption spatter"
# Each takes x (b,c,h,w) in [0,1], the parameters of a severity from `tables.py` and the `Draws` of
# the batch. Constants and order of steps are those of hendrycks/robustness create_c/ (Apache-2.0),
# read there. Ours and different:
# - frost: sheets drawn by a rule (`plasma.py`) in place of photographs, of the same mean and
#   contrast per colour;
# - snow: its flakes are moved by the line blur of `filters.py`, not by ImageMagick, and not cut to
#   8 bits before;
# - spatter: water uses exact distances where OpenCV's transform is approximate (about 2 % off).
# A grey image is treated as a coloured one with three equal channels and then made grey.
import torch
from fastrobust.images.corruptions.filters import gaussian, motion, zoomed
from fastrobust.images.corruptions.plasma import frost_part, plasma
from fastrobust.images.corruptions.water import ripples

__all__ = []

def grey(x):
    "Brightness of `x` (b,3,h,w) or of a grey image, (b,1,h,w)"
    if x.shape[1] == 1: return x
    weights = x.new_tensor([.299, .587, .114]).view(3, 1, 1)
    return (x*weights).sum(1, keepdim=True)

def colour(x, rgb):
    "A colour (1,c,1,1), of 0 to 255, for images like `x`"
    rgb = x.new_tensor(rgb).view(1, 3, 1, 1)/255
    return grey(rgb) if x.shape[1] == 1 else rgb

def snow(x, p, r):
    "Streaks of snow before a whitened image: p = (mean, sd, zoom, threshold, radius, sigma, share of the image)"
    mean,sd,zoom,least,radius,sigma,share = p
    flakes = r.randn(1, *x.shape[2:])*sd + mean
    flakes = zoomed(flakes, zoom)
    flakes = torch.where(flakes < least, 0., flakes)
    flakes = flakes.clamp(0, 1)
    angles = r.rand()*90 - 135
    flakes = motion(flakes, radius, sigma, angles)
    white = torch.maximum(x, grey(x)*1.5 + .5)
    return share*x + (1-share)*white + flakes + flakes.rot90(2, (2, 3))

def frost(x, p, r):
    "Ice on the window: p = (weight of the image, weight of the ice, how often smaller than its sheet)"
    ice = frost_part(*x.shape[2:], p[2], r)
    if x.shape[1] == 1: ice = grey(ice)
    return p[0]*x + p[1]*ice

def fog(x, p, r):
    "Clouds in front, then the brightest pixel as bright as before: p = (amount, decay of the clouds)"
    amount,decay = p
    h,w = x.shape[2:]
    n = 1 << (max(h, w)-1).bit_length()     # the next power of 2
    clouds = plasma(n, decay, r)[:, None, :h, :w]
    top = x.amax((1, 2, 3), keepdim=True)
    y = x + amount*clouds
    return y*top/(top + amount)

def spatter(x, p, r):
    "Drops of water or of mud: p = (mean, sd, smoothing, threshold, intensity or, for mud, smoothing, mud?)"
    mean,sd,sigma,least,mix,mud = p
    liquid = r.randn(1, *x.shape[2:])*sd + mean
    liquid = gaussian(liquid, sigma)
    if mud:
        m = gaussian((liquid > least).float(), mix)
        m = torch.where(m < .8, 0., m)
        brown = colour(x, [63., 42., 20.])
        return x*(1-m) + m*brown
    drops = torch.where(liquid < least, 0., liquid)
    light = mix*ripples(drops)
    return x + light*colour(x, [175., 238., 238.])

WEATHER = dict(snow=snow, frost=frost, fog=fog, spatter=spatter)
