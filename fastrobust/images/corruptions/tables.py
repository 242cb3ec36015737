"Names, groups and severities of the 19 common corruptions of CIFAR-C, Tiny-ImageNet-C and ImageNet-C"
# Hendrycks & Dietterich, ICLR 2019, https://arxiv.org/abs/1903.12261. The numbers are facts read
# in the authors' code (hendrycks/robustness, Apache-2.0): five severities each, for pixels in
# [0,1], lengths in pixels. Known oddities are kept, since the published errors were measured with
# them: elastic severity 1 of CIFAR-C and Tiny-ImageNet-C is affine only; ImageNet's scales by 244,
# a typo for 224; elastic_transform, saturate and snow do not get worse with every severity.
import math
from collections.abc import Iterable

__all__ = ['CORRUPTIONS', 'EXTRA_CORRUPTIONS']

# The four families of the benchmark's 15, and the four extra ones on which hyper-parameters may be
# tuned
GROUPS = dict(noise  =('gaussian_noise', 'shot_noise', 'impulse_noise'),
              blur   =('defocus_blur', 'glass_blur', 'motion_blur', 'zoom_blur'),
              weather=('snow', 'frost', 'fog', 'brightness'),
              digital=('contrast', 'elastic_transform', 'pixelate', 'jpeg_compression'),
              extra  =('speckle_noise', 'gaussian_blur', 'spatter', 'saturate'))

CORRUPTIONS = GROUPS['noise'] + GROUPS['blur'] + GROUPS['weather'] + GROUPS['digital']
EXTRA_CORRUPTIONS = GROUPS['extra']

def listed(
    names   # One or several, in any collection
):
    "`names` as a list; a set, whose order is that of this process, in that of the benchmark"
    if isinstance(names, str) or not isinstance(names, Iterable): return [names]
    if not isinstance(names, (set, frozenset)): return list(names)
    usual = CORRUPTIONS + EXTRA_CORRUPTIONS
    def place(name): return usual.index(name) if name in usual else len(usual)
    return sorted(names, key=lambda o: (place(o), str(o)))

# Pixels of the shorter side for which each table was made
MADE_FOR = dict(cifar=32, tiny=64, imagenet=224)

def table_for(
    h,w # Pixels of the images
):
    "The table for images of this size: the one made for the nearest size"
    # Nearest as a ratio, so 'tiny' from 46 to 119 pixels of the shorter side. Radii and shifts are
    # pixels, and what they do to a picture goes by their share of its side, which is alike in the
    # three tables. The change (RMSE) of all 19 says the same: beside what the tables do at their own
    # sizes it is off by a tenth at 40 px with 'cifar', by a fifth with 'tiny', and by a ninth at
    # 96 px with 'tiny', by a quarter with 'imagenet'.
    side = max(min(h, w), 1)
    return min(MADE_FOR, key=lambda k: abs(math.log(side/MADE_FOR[k])))

def _ones(*values): return tuple((o,) for o in values)

PARAMS = dict(
    cifar=dict(
        # standard deviation
        gaussian_noise=_ones(.04, .06, .08, .09, .10),
        # photons of a white pixel
        shot_noise=_ones(500, 250, 100, 75, 50),
        # share of entries replaced
        impulse_noise=_ones(.01, .02, .03, .05, .07),
        # standard deviation, times the pixel
        speckle_noise=_ones(.06, .1, .12, .16, .2),
        # standard deviation
        gaussian_blur=_ones(.4, .6, .7, .8, 1.),
        # radius of the disk, anti-alias sigma
        defocus_blur=((.3, .4), (.4, .5), (.5, .6), (1, .2), (1.5, .1)),
        # sigma, max shift, rounds
        glass_blur=((.05, 1, 1), (.25, 1, 1), (.4, 1, 1), (.25, 1, 2), (.4, 1, 2)),
        # radius, sigma
        motion_blur=((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        # largest zoom, step from 1
        zoom_blur=((1.05, .01), (1.10, .01), (1.15, .01), (1.20, .01), (1.25, .01)),
        # flakes: mean, sd, zoom, threshold; their motion blur: radius, sigma; share of the image
        snow=((.1, .2, 1, .6, 8, 3, .95),
              (.1, .2, 1, .5, 10, 4, .9),
              (.15, .3, 1.75, .55, 10, 4, .9),
              (.25, .3, 2.25, .6, 12, 6, .85),
              (.3, .3, 1.25, .65, 14, 12, .8)),
        # weights of image and frost; the photographs of frost are shrunk this many times
        frost=((1, .2, 5), (1, .3, 5), (.9, .4, 5), (.85, .4, 5), (.75, .45, 5)),
        # amount, decay of the plasma
        fog=((.2, 3), (.5, 3), (.75, 2.5), (1, 2), (1.5, 1.75)),
        # added to the V of HSV
        brightness=_ones(.05, .1, .15, .2, .3),
        # factor about the mean
        contrast=_ones(.75, .5, .4, .3, .15),
        # strength, smoothness, affine in shares of the shorter side; factor for all three
        elastic_transform=((0, 0, .08, 1),
                           (.05, .2, .07, 1),
                           (.08, .06, .06, 1),
                           (.1, .04, .05, 1),
                           (.1, .03, .03, 1)),
        # size of the small image
        pixelate=_ones(.95, .9, .85, .75, .65),
        # quality
        jpeg_compression=_ones(80, 65, 58, 50, 40),
        # liquid: mean, sd, smoothing sigma, threshold; intensity; 0 water or 1 mud
        spatter=((.62, .1, .7, .7, .5, 0),
                 (.65, .1, .8, .7, .5, 0),
                 (.65, .3, 1, .69, .5, 0),
                 (.65, .1, .7, .69, .6, 1),
                 (.65, .1, .5, .68, .6, 1)),
        # factor on the S of HSV, summand
        saturate=((.3, 0), (.1, 0), (1.5, 0), (2, .1), (2.5, .2))),
    tiny=dict(
        gaussian_noise=_ones(.04, .08, .12, .15, .18),
        shot_noise=_ones(250, 100, 50, 30, 15),
        impulse_noise=_ones(.01, .02, .05, .08, .14),
        speckle_noise=_ones(.15, .2, .25, .3, .35),
        gaussian_blur=_ones(.5, .75, 1, 1.25, 1.5),
        defocus_blur=((.5, .6), (1, .1), (1.5, .1), (2.5, .01), (3, .1)),
        glass_blur=((.1, 1, 1), (.5, 1, 1), (.6, 1, 2), (.7, 2, 1), (.9, 2, 2)),
        motion_blur=((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
        zoom_blur=((1.05, .01), (1.10, .01), (1.15, .01), (1.20, .01), (1.25, .01)),
        snow=((.1, .2, 1, .6, 8, 3, .8),
              (.1, .2, 1, .5, 10, 4, .8),
              (.15, .3, 1.75, .55, 10, 4, .7),
              (.25, .3, 2.25, .6, 12, 6, .65),
              (.3, .3, 1.25, .65, 14, 12, .6)),
        frost=((1, .3, 10/3), (.9, .4, 10/3), (.8, .45, 10/3), (.75, .5, 10/3), (.7, .55, 10/3)),
        fog=((.4, 3), (.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
        brightness=_ones(.1, .2, .3, .4, .5),
        contrast=_ones(.4, .3, .2, .1, .05),
        elastic_transform=((0, 0, .08, 1),
                           (.05, .3, .06, 1),
                           (.1, .08, .06, 1),
                           (.1, .03, .03, 1),
                           (.16, .03, .02, 1)),
        pixelate=_ones(.9, .8, .7, .6, .5),
        jpeg_compression=_ones(65, 58, 50, 40, 25),
        spatter=((.62, .1, .7, .7, .6, 0),
                 (.65, .1, .8, .7, .6, 0),
                 (.65, .3, 1, .69, .6, 0),
                 (.65, .1, .7, .68, .6, 1),
                 (.65, .1, .5, .67, .6, 1)),
        saturate=((.3, 0), (.1, 0), (2, 0), (5, .1), (30, .2))),
    imagenet=dict(
        gaussian_noise=_ones(.08, .12, .18, .26, .38),
        shot_noise=_ones(60, 25, 12, 5, 3),
        impulse_noise=_ones(.03, .06, .09, .17, .27),
        speckle_noise=_ones(.15, .2, .35, .45, .6),
        gaussian_blur=_ones(1, 2, 3, 4, 6),
        defocus_blur=((3, .1), (4, .5), (6, .5), (8, .5), (10, .5)),
        glass_blur=((.7, 1, 2), (.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        motion_blur=((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        zoom_blur=((1.10, .01), (1.15, .01), (1.20, .02), (1.25, .02), (1.30, .03)),
        snow=((.1, .3, 3, .5, 10, 4, .8),
              (.2, .3, 2, .5, 12, 4, .7),
              (.55, .3, 4, .9, 12, 8, .7),
              (.55, .3, 4.5, .85, 12, 8, .65),
              (.55, .3, 2.5, .85, 12, 12, .55)),
        frost=((1, .4, 1), (.8, .6, 1), (.7, .7, 1), (.65, .7, 1), (.6, .75, 1)),
        fog=((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
        brightness=_ones(.1, .2, .3, .4, .5),
        contrast=_ones(.4, .3, .2, .1, .05),
        elastic_transform=((2, .7, .1, 244/224),
                           (2, .08, .2, 244/224),
                           (.05, .01, .02, 244/224),
                           (.07, .01, .02, 244/224),
                           (.12, .01, .02, 244/224)),
        pixelate=_ones(.6, .5, .4, .3, .25),
        jpeg_compression=_ones(25, 18, 15, 10, 7),
        spatter=((.65, .3, 4, .69, .6, 0),
                 (.65, .3, 3, .68, .6, 0),
                 (.65, .3, 2, .68, .5, 0),
                 (.65, .3, 1, .65, 1.5, 1),
                 (.67, .4, 1, .65, 1.5, 1)),
        saturate=((.3, 0), (.1, 0), (2, 0), (5, .1), (20, .2))))
