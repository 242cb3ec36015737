"Moving shapes: small clips in which only a motion tells the class, to learn and to attack a network of clips on a CPU"
import numpy as np
from fastai.data.core import DataLoaders
from fastrobust.basics import need_whole
from fastrobust.systems.video.loaders import video_dls

__all__ = ['moving_shapes', 'moving_shapes_dls']

# (down, right) in pixels a frame; class i is the i-th
WAYS = {'right': (0, 1), 'left': (0, -1), 'down': (1, 0), 'up': (-1, 0),
        'right down': (1, 1), 'left up': (-1, -1), 'right up': (-1, 1), 'left down': (1, -1)}

_SIDE = 5           # pixels of a shape
_CONTRAST = .4      # of a shape to what is behind it
_STILL = 3          # shapes of a clip that stand still
_TEXTURE = .08      # standard deviation of the ground
_NOISE = .07        # standard deviation of a frame's own noise

def _shapes():
    "Square, disc, cross and ring, (4,5,5) of 0 and 1"
    y,x = np.mgrid[:_SIDE, :_SIDE] - _SIDE//2
    r = np.hypot(x, y)
    square = np.ones_like(r)
    cross = (x == 0) | (y == 0)
    return np.stack([square, r < 2.5, cross, (r > 1.2) & (r < 2.5)]).astype(np.float64)

def _ground(g, n, size):
    "Textured grounds (n,size,size): noise, smoothed over its neighbours around the edges, as strong as `_TEXTURE`"
    x = g.standard_normal((n, size, size))
    for axis in (1, 2): x = x + .5*(np.roll(x, 1, axis) + np.roll(x, -1, axis))
    return .5 + _TEXTURE*x/x.std((1, 2), keepdims=True)

def _stamp(g, n, size):
    "Shapes of random kind, brighter or darker than the ground, in the corner of empty pictures (n,size,size)"
    shapes = _shapes()
    kinds = g.integers(len(shapes), size=n)
    signs = g.choice([-1., 1.], n)
    out = np.zeros((n, size, size))
    out[:, :_SIDE, :_SIDE] = _CONTRAST*signs[:, None, None]*shapes[kinds]
    return out

def _rolled(x, at):
    "Each of the pictures (n,s,s) moved by its (down, right), around the edges"
    n,s = len(x),x.shape[1]
    rows = (np.arange(s) - at[:, :1]) % s
    cols = (np.arange(s) - at[:, 1:]) % s
    return x[np.arange(n)[:, None, None], rows[:, :, None], cols[:, None, :]]

def moving_shapes(
    n,          # Clips
    T=8,        # Frames of each, from 2 on
    size=24,    # Pixels of a side, from 8 on
    classes=4,  # Directions, 2 to 8: right, left, down, up, and the diagonals
    seed=0      # The same seed, the same clips
):              # X uint8 (n,T,size,size,1), y int64 (n,)
    """Grey clips of one small shape that moves a pixel a frame over a textured ground, among shapes that stand still

    Its class is the direction. Where the shape begins is drawn evenly and it goes around the edges, so that a frame
    alone has the same law in every class: no single frame tells, only motion does."""
    n = need_whole('n', n, 1, what='clips')
    T = need_whole('T', T, 2, what='frames')
    size = need_whole('size', size, 8, what='pixels')
    classes = need_whole('classes', classes, 2, len(WAYS), what='directions')
    g = np.random.default_rng(need_whole('seed', seed, 0))
    y = g.permutation(np.arange(n) % classes)
    ground = _ground(g, n, size)
    for _ in range(_STILL): ground += _rolled(_stamp(g, n, size), g.integers(size, size=(n, 2)))
    shape,start = _stamp(g, n, size),g.integers(size, size=(n, 2))
    step = np.array(list(WAYS.values()))[y]
    frames = [ground + _rolled(shape, start + t*step) for t in range(T)]
    X = np.stack(frames, 1) + _NOISE*g.standard_normal((n, T, size, size))
    X = np.rint(255*X.clip(0, 1)).astype(np.uint8)
    return X[..., None],y

def moving_shapes_dls(
    n=400,      # Clips in all
    T=8,        # Frames of each, from 2 on
    size=24,    # Pixels of a side, from 8 on
    classes=4,  # Directions, 2 to 8
    seed=0,     # Of the clips and of the share held out
    bs=32,      # Batch size
    **kwargs    # More for `video_dls` of arrays: valid, batch_tfms, stats ..
)->DataLoaders:
    "Loaders of `moving_shapes`: a fifth is held out; the classes are named by their direction"
    X,y = moving_shapes(n, T, size, classes, seed)
    return video_dls((X, y), bs=bs, seed=seed, vocab=list(WAYS)[:classes], **kwargs)
