"TensorVideo: a clip among fastai's types, shown as a strip of its frames"
import torch
from fastai.torch_core import TensorBase
from fastrobust.basics import need_whole
from fastrobust.reporting.style import axes_on, bare

__all__ = ['TensorVideo']

_GAP = 2    # white pixels between frames

def _pixels(frames):
    "Frames (t,c,h,w) as floats in [0,1]; uint8 is divided by 255"
    frames = frames.detach().cpu().as_subclass(torch.Tensor)
    if not frames.is_floating_point(): return frames.float()/255
    return frames.float().clamp(0, 1)

def strip_of(
    clip,   # Clip (t,c,h,w) of 1 or 3 channels, uint8 or floats in [0,1]
    n=8     # Frames from 1 on, spread evenly from first to last; all where the clip has fewer
):          # Floats (h,w,c) in [0,1]
    "Frames of a clip side by side, with a white gap between them"
    if clip.ndim != 4 or clip.shape[1] not in (1, 3) or 0 in clip.shape:
        raise ValueError("expected a clip (t,c,h,w) of 1 or 3 channels, got shape "
                         f"{tuple(clip.shape)}. Of a batch take one, as in clips[0]; what the "
                         "network gets, (c,t,h,w), turn by x.transpose(0, 1).")
    t = len(clip)
    n = need_whole('n', n, 1, what='frames')
    at = torch.linspace(0, t-1, min(n, t)).round().long()
    frames = _pixels(clip)[at]
    white = frames.new_ones(*frames.shape[1:3], _GAP)
    parts = [frames[0]]
    for o in frames[1:]: parts += [white, o]
    return torch.cat(parts, -1).permute(1, 2, 0)

class TensorVideo(TensorBase):
    "A clip (t,c,h,w): uint8 as it is read, floats in [0,1] after `FloatVideo`; RGB, or one channel of greys"
    def show(self,
        ctx=None,       # Axes to draw on; None: those of a new figure
        n=8,            # Frames from 1 on, spread evenly over the clip
        title=None,     # Title of the axes
        figsize=None,   # Of a new figure, in inches; None: by the shape of the strip
        **kwargs        # More for `ax.imshow`
    ):
        "A strip of `n` frames side by side; returns the axes"
        strip = strip_of(self, n)
        h,w = strip.shape[:2]
        if figsize is None: figsize = (12, 12*h/w + .4)
        ax = bare(axes_on(ctx, figsize))
        if strip.shape[2] == 1: kwargs = dict(cmap='gray', vmin=0, vmax=1) | kwargs
        ax.imshow(strip.squeeze(2).numpy(), **kwargs)
        ax.spines[:].set_visible(False)
        if title is not None: ax.set_title(str(title))
        return ax
