"The five blurs: gaussian, defocus, glass, motion, zoom"
# Each takes x (b,c,h,w) in [0,1], the parameters of a severity from `tables.py` and the `Draws` of
# the batch. The constants and the order of steps are those of hendrycks/robustness create_c/
# (Apache-2.0), read there; where those scripts call SciPy, scikit-image or OpenCV, the filters
# here give the same numbers (see the tests). `motion_blur` is done in torch: the published files
# were made with ImageMagick, whose rule for line and weights it follows, though not its rounding.
from functools import lru_cache
import numpy as np
import torch
from fastrobust.images.corruptions.filters import (correlate, filter_matrix, gaussian,
                                                   gaussian_taps, motion, summed_zooms)
from fastrobust.images.corruptions.glass import exchanged

__all__ = []

def gaussian_blur(x, p, _r):
    "Gaussian of p = (sigma,), cut at 4 sigma, border repeated"
    return gaussian(x, p[0])

@lru_cache(maxsize=16)
def disk(radius, alias):
    "A disk of `radius` px whose edge a small Gaussian of `alias` px softens: kernel (n,n), float64"
    half,soft = (8, 1) if radius <= 8 else (radius, 2)
    i = torch.arange(-half, half+1, dtype=torch.float64)
    k = i[:, None]**2 + i**2 <= radius**2
    k = k.double()
    m = filter_matrix(len(i), gaussian_taps(alias, soft), 'mirror')
    k = m @ (k/k.sum()) @ m.mT
    k[k < 1e-9] = 0
    at = k.any(0).nonzero()
    lo,hi = at.min(),at.max()+1
    return k[lo:hi, lo:hi]

def defocus_blur(x, p, _r):
    "An open aperture: p = (radius of the disk, sigma of its edge), border mirrored"
    return correlate(x, disk(*p))

def glass_blur(x, p, r):
    "Structured glass: blur, exchange neighbours, blur: p = (sigma, widest exchange, rounds)"
    sigma,delta,rounds = p
    # whole grey levels, as the scripts cut them
    x = gaussian(x, sigma).mul(255).add_(1e-3).floor_().div_(255)
    x = exchanged(x, delta, rounds, r)
    return gaussian(x, sigma)

def motion_blur(x, p, r):
    "The camera moves along a line within 45 degrees of the horizontal: p = (radius, sigma); torch, not ImageMagick"
    angles = r.rand()*90 - 45
    return motion(x, *p, angles)

def zoom_blur(x, p, _r):
    "The camera nears: mean of the image and of its zooms 1, 1+step .. largest: p = (largest, step), border cut"
    largest,step = p
    # The scripts list the zooms as np.arange(1, largest+.01, step), whose end rounding lets in
    # twice (1.06 and 1.11)
    zooms = np.arange(1, round(largest+.01, 2), step).tolist()
    # the first zoom is 1, the image itself
    total = 2*x + summed_zooms(x, zooms[1:])
    return total/(len(zooms)+1)

BLURS = dict(gaussian_blur=gaussian_blur, defocus_blur=defocus_blur, glass_blur=glass_blur,
             motion_blur=motion_blur, zoom_blur=zoom_blur)
