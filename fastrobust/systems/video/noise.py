"VideoNoise: train on clips with random noise of several Lp norms, each clip its own, and with lost frames"
# For assessing and hardening one's own models of clips: noise after Siedel et al., VISAPP 2024,
# https://arxiv.org/abs/2305.05400, by the same functions as `LpNoise` on images. A batch transform.
# Lost frames make training slower: train longer, or lower `drop`. What the defaults cost and gain
# was measured by nbs/benchmarks/video_noise.py, on clips that had no part in their choice.
import math
import torch
from torch import Tensor
from fasttransform import DisplayedTransform
from fastai.data.load import DataLoader
from fastai.torch_core import TensorImage
from fastrobust.basics import need_number
from fastrobust.systems.video.clip import TensorVideo
from fastrobust.techniques.bases.pipes import warn_of_two
from fastrobust.techniques.lpnoise import LpNoise

__all__ = ['VideoNoise']

def lost_frames(b, t, drop):
    "Which of the frames of `b` clips are lost, each with probability `drop`, but never all of a clip: bool (b,t)"
    u = torch.rand(b, t)
    lost = u < drop
    kept = u == u.amax(1, keepdim=True)
    return lost & ~kept

def _times(size, k):
    "A size of noise, or its range, times `k`"
    return tuple(k*o for o in size) if isinstance(size, tuple) else k*size

class PresetNoise(LpNoise):
    "`LpNoise` whose presets have their sizes times `strength`; sets that are given stay as they are"
    def __init__(self, strength, *args, **kwargs):
        self.strength = strength
        super().__init__(*args, **kwargs)

    def sets_for(self, size):
        "The sets of noise for images of `size` (c,h,w)"
        sets = super().sets_for(size)
        if self.preset is None: return sets
        return [s._replace(eps=_times(s.eps, self.strength)) for s in sets]

class VideoNoise(DisplayedTransform):
    """Batch transform: Lp noise whose norm and size are drawn for each clip, and lost (black) frames; training only.
    For assessing and hardening one's own models of clips.

    The norm is that of the whole clip, as if it were one image of so many channels: a preset is
    scaled to it, so that a value gets `strength` times as much noise as in an image. As much as
    `eps` gives each of t images: eps t^(1/p)."""
    against = 'changed clips'
    # after FloatVideo (10) and augmentation (30..), before NormalizeVideo (99), as LpNoise
    split_idx,order = 0,60
    def __init__(self,
        sets=None,          # List of (p, eps), (p, (lo, hi)), (p, eps, kind), of a clip; or a preset
        preset:str=None,    # 'C1', 'C2', 'C3' or the default 'modern', as for `LpNoise`
        # Probability in [0,1) that a frame is lost, never all; ours: .1 slowed the training
        drop:float=.05,
        *,
        table:str='auto',   # Sizes of a preset: 'cifar' (32 px), 'tiny' (64 px), 'auto': by the frames
        # Sizes of a preset times this, > 0; 1: those of images, with which (and drop=.1) tiny_c3d on
        # moving shapes lost .11 to .54 of clean accuracy in 12 epochs, .05 to .08 in 24; with the
        # defaults .02 to .04, and .01 to .02
        strength:float=1/3,
        patch:tuple=None    # (lo, hi): noise in a rectangle of that share, the same in all frames
    ):
        need_number('drop', drop)
        if not 0 <= drop < 1:
            raise ValueError(f"`drop` must be a probability in [0,1), got {drop}. 0 loses no "
                             "frame; sets=[(2, 0.)] adds no noise.")
        need_number('strength', strength)
        if not 0 < strength < math.inf:
            raise ValueError(f"`strength` must be finite and above 0, got {strength}. 1 is as "
                             "strong as on images; sets=[(2, 0.)] adds no noise.")
        self.noise = PresetNoise(strength, sets, preset, table=table, patch=patch)
        self.drop = drop
        # corruptions of `corruption_report` that it resembles
        self.overlaps = LpNoise.overlaps
        if drop: self.overlaps = self.overlaps | {'dropped_frames'}
        super().__init__()

    def setups(self, dl:DataLoader):
        warn_of_two(self, VideoNoise, dl, "To draw one kind of noise for each clip, give a single "
                                          "VideoNoise all the sets.")

    @torch.no_grad()
    def encodes(self, x:TensorVideo):
        px = x.as_subclass(Tensor)
        if px.ndim != 5:
            raise ValueError("VideoNoise expected a batch of clips (b,t,c,h,w), got shape "
                             f"{tuple(px.shape)}. Put it among the batch_tfms of loaders made by "
                             "video_dls; one clip: `x[None]`.")
        # one image of t*c channels: one norm and one size a clip, and one rectangle
        b,t,c,h,w = px.shape
        image = px.reshape(b, t*c, h, w).as_subclass(TensorImage)
        out = self.noise.encodes(image).as_subclass(Tensor).view(px.shape)
        if self.drop:
            lost = lost_frames(b, t, self.drop).to(px.device)
            out = out.masked_fill(lost[:, :, None, None, None], 0)
        return out.as_subclass(type(x))
