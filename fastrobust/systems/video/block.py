"VideoBlock: files of videos, or folders of frames, as one input of a fastai DataBlock"
import random
from pathlib import Path
from torch import Tensor
from torch.nn import functional as F
from fastai.data.block import TransformBlock
from fasttransform import Transform
from fastrobust.basics import need_number, need_whole, nearest
from fastrobust.systems.video.clip import TensorVideo
from fastrobust.systems.video.picking import clip_times, need_seconds, spread_starts
from fastrobust.systems.video.reading import BACKENDS, open_video
from fastrobust.systems.video.tfms import ChannelsFirst, FloatVideo
from fastrobust.systems.video.videoarrays import AsClip
from fastrobust.systems.video.videofile import need_size

__all__ = ['VideoBlock']

METHODS = 'crop','squish'
SCALE = 8/7     # 112 pixels out of 128, as in torchvision's training of these networks

# --- sizes ----------------------------------------------------------------------------------------
class Fit:
    "How frames come to one size"
    def __init__(self,
        size,           # (height, width) in pixels
        method='crop',  # 'crop': a part of the frame, its shape kept; 'squish': all of it, its shape not
        scale=SCALE     # What is cropped covers this times `size`, >= 1
    ): self.size,self.method,self.scale = size,method,scale

    def before(self, own):
        "(height, width) that frames of size `own` are brought to, before the crop"
        if self.method == 'squish': return self.size
        k = self.scale*max(a/b for a,b in zip(self.size, own))
        return tuple(max(a, round(k*b)) for a,b in zip(self.size, own))

def _resized(clip, size):
    "uint8 or float frames (t,c,h,w) brought to (h,w) `size`"
    if tuple(clip.shape[-2:]) == tuple(size): return clip
    out = F.interpolate(clip.float(), size, mode='bilinear', antialias=True)
    if clip.is_floating_point(): return out
    return out.round_().clamp_(0, 255).to(clip.dtype)

class FitClip(Transform):
    "A clip brought to one size: in training a random crop, the same for all frames, otherwise the middle"
    order = 1
    def __init__(self, fit):
        super().__init__()
        self.fit = fit

    def __call__(self, o, split_idx=None, **kwargs):
        self._now = split_idx
        return super().__call__(o, **kwargs)

    def encodes(self, x:TensorVideo):
        x = x.as_subclass(Tensor)
        h,w = self.fit.size
        own = tuple(x.shape[-2:])
        if own == (h, w): return TensorVideo(x)
        before = self.fit.before(own)
        # what `OpenVideo` has read is of that size, but for what rounding did
        if any(abs(a-b) > 1 + b/100 or a < c for a,b,c in zip(own, before, (h, w))): x = _resized(x, before)
        room = x.shape[-2]-h, x.shape[-1]-w
        top,left = (o//2 for o in room)
        if self._now == 0: top,left = (random.randint(0, o) for o in room)
        return TensorVideo(x[..., top:top+h, left:left+w].contiguous())

# --- files ----------------------------------------------------------------------------------------
class OpenVideo(AsClip):
    "A file, or a folder of frames, as a clip: from a random moment on in training, otherwise the middle"
    def __init__(self,
        n=16,           # Frames
        span=2.,        # Seconds that they cover
        rate=None,      # Frames a second, in place of `span`
        backend=None,   # As of `open_video`
        fit=None,       # `Fit`: frames are decoded at the size before its crop; None: as in the file
        fps=25.         # Images a second of a folder
    ):
        super().__init__()
        self.input_types = str,Path,*self.input_types
        self.n,self.span,self.rate,self.backend = n,span,rate,backend
        self.fit,self.fps = fit,fps

    def __call__(self, o, split_idx=None, **kwargs):
        self._now = split_idx
        return super().__call__(o, **kwargs)

    def _clip(self, v, start):
        size = None if self.fit is None else self.fit.before(v.size)
        return v.at(clip_times(v.duration, self.n, self.span, start, self.rate), size)

    def read(self,
        path,           # Video file, or folder of frames
        start='middle'  # When the clip begins: 'middle', 'random', or seconds
    ):                  # TensorVideo (n,3,h,w), uint8; the crop is `FitClip`'s
        "One clip of a video"
        with open_video(path, self.backend, self.fps) as v: return self._clip(v, start)

    def several(self,
        path,   # Video file, or folder of frames
        k=3     # Clips, from 1 on
    ):          # k TensorVideos
        "Clips spread over a video, from its beginning to its end"
        with open_video(path, self.backend, self.fps) as v:
            span = self.span if self.rate is None else self.n/self.rate
            return [self._clip(v, s) for s in spread_starts(v.duration, span, k)]

    def encodes(self, o:str|Path):
        return self.read(o, 'random' if self._now == 0 else 'middle')

def VideoBlock(
    n=16,           # Frames of a clip, from 1 on; 16 is what video networks were trained with
    span=2.,        # Seconds that they cover, > 0
    size=112,       # Pixels, or (height, width); None: as in the files
    rate=None,      # Frames a second, > 0, in place of `span`; None: `span`
    backend=None,   # 'av' (PyAV), 'torchcodec', or 'frames' of folders; None: by what it is
    *,
    method='crop',  # 'crop': a part of the frame, its shape kept; 'squish': all of it, its shape not
    scale=SCALE,    # What is cropped covers this times `size`, >= 1; 8/7: 112 of 128, as torchvision trains them
    fps=25.         # Images a second of folders, > 0; 25 is UCF101's
)->TransformBlock:
    """Clips of `n` frames out of videos, for a DataBlock: random moment and crop in training, both the middle otherwise

    Items are paths of files or of folders of frames; frames are picked by time. The network gets floats (b,3,n,h,w).
    For assessing the robustness of one's own models."""
    n = need_whole('n', n, 1, what='frames')
    span,fps = need_seconds('span', span),need_seconds('fps', fps, 'images a second')
    if rate is not None: rate = need_seconds('rate', rate, 'frames a second')
    if method not in METHODS:
        raise ValueError(f"expected `method` as one of two words, got {method!r}. {nearest(method, METHODS)}")
    need_number('scale', scale)
    if not 1 <= scale < float('inf'):
        raise ValueError(f"`scale` must be finite and at least 1, got {scale!r}. The usual one is 8/7.")
    if backend is not None and backend not in BACKENDS:
        raise ValueError(f"expected a backend for videos, got {backend!r}. {nearest(backend, BACKENDS)}")
    size = need_size(size)
    fit = None if size is None else Fit(size, method, scale)
    item_tfms = [] if fit is None else [FitClip(fit)]
    return TransformBlock(type_tfms=[OpenVideo(n, span, rate, backend, fit, fps)], item_tfms=item_tfms,
                          batch_tfms=[FloatVideo(), ChannelsFirst()])
