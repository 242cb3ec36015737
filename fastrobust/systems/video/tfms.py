"Batch transforms of clips: floats, augmentations alike for all frames, Normalize, and the layout of networks"
# A batch is (b,t,c,h,w) up to `ChannelsFirst`, which makes it (b,c,t,h,w), as torchvision's networks want it.
from types import MethodType
import torch
from plum import NotFoundLookupError
from torch import Tensor
from fastai.data.load import DataLoader
from fastai.data.transforms import IntToFloatTensor, Normalize, broadcast_vec
from fastai.torch_core import TensorImage
from fastai.vision.augment import HSVTfm, RandTransform, SpaceTfm, aug_transforms
from fastcore.foundation import L
from fasttransform import Transform
from fastrobust.basics import shown
from fastrobust.systems.video.clip import TensorVideo

__all__ = ['video_aug']

# of Kinetics-400, for torchvision's weights: the mean and standard deviation of each channel
KINETICS = [.43216, .394666, .37645],[.22803, .22145, .216989]

# --- what acts on what ----------------------------------------------------------------------------
def _acts_on(t, o):
    "Does a transform do anything with such an input? Else fastai leaves that as it is, in silence"
    if not isinstance(getattr(t, 'encodes', None), MethodType): return True
    try: t.encodes._f._resolve_method_with_cache((t, o))
    except NotFoundLookupError: return False
    return True

def _need_of_clips(dl):
    "Refuse transforms of images in a loader that has clips alone"
    tfms = dl.after_batch.fs
    # there are images beside the clips
    if any(isinstance(t, IntToFloatTensor) for t in tfms): return
    x = torch.zeros(1, 1, 1, 1, 1)
    for t in tfms:
        if _acts_on(t, TensorVideo(x)) or not _acts_on(t, TensorImage(x[0])): continue
        raise TypeError(f"expected batch transforms of clips, got {type(t).__name__}, which acts "
                        "on images alone and would do nothing here. fastai's augmentations go "
                        "into video_aug(..); for LpNoise take VideoNoise, for Normalize `stats=(mean, "
                        "std)` or NormalizeVideo.")
    for t in dl.after_item.fs:
        if not isinstance(t, RandTransform) or _acts_on(t, TensorVideo(x[0])): continue
        raise TypeError(f"expected item transforms of clips, got {type(t).__name__}, which acts "
                        "on images alone and would do nothing here. Size and crop are "
                        "VideoBlock's: size=.., method=..")

# --- the three that every loader of clips has -----------------------------------------------------
def _need_stats(mean, std):
    "Refuse what is no mean and standard deviation of each channel"
    try: m,s = (torch.as_tensor(o, dtype=torch.float64).flatten() for o in (mean, std))
    except (TypeError, ValueError) as e:
        raise TypeError("expected the mean and the standard deviation of each channel as "
                        f"numbers, got {mean!r}, {std!r}. Such as [.5], [.25].") from e
    if len(m) == len(s) > 0 and m.isfinite().all() and s.isfinite().all() and s.min() > 0: return
    raise ValueError(f"expected as many standard deviations above 0 as means, got {mean!r}, "
                     f"{std!r}. One of each for every channel.")

class FloatVideo(Transform):
    "uint8 pixels to floats in [0,1]"
    order = 10      # as fastai's IntToFloatTensor
    def encodes(self, x:TensorVideo):
        if x.is_floating_point(): return x
        return x.float().div_(255)

    def decodes(self, x:TensorVideo): return x.clamp(0, 1).mul(255).round().to(torch.uint8)

class NormalizeVideo(Normalize):
    "fastai's `Normalize` for clips (b,t,c,h,w): a mean and a standard deviation of each channel"
    order = 99
    def __init__(self,
        mean=None,          # (1,1,c,1,1); None: measured on a batch
        std=None,           # (1,1,c,1,1); None: measured on a batch
        axes=(0, 1, 3, 4)   # What is averaged over where they are measured
    ): super().__init__(mean, std, axes)

    @classmethod
    def from_stats(cls,
        mean,       # Of each channel, in [0,1]
        std,        # Of each channel
        dim=2,      # Axis of the channels
        ndim=5,     # Axes of a batch
        cuda=False  # Keep them on the GPU? A batch there brings them over in any case
    ):
        _need_stats(mean, std)
        return cls(*broadcast_vec(dim, ndim, mean, std, cuda=cuda))

    def setups(self, dl):
        if self.mean is not None and self.std is not None: return
        x = dl.one_batch()[0].as_subclass(Tensor)
        self.mean = x.mean(self.axes, keepdim=True)
        self.std = x.std(self.axes, keepdim=True) + 1e-7

    def _stats(self, x):
        n,c = self.mean.numel(),x.shape[2]
        if n not in (1, c):
            raise ValueError(f"expected clips of the {n} channels that Normalize has statistics "
                             f"of, got {c}. Give a mean and a standard deviation of each channel.")
        return [torch.as_tensor(o).to(x.device, x.dtype) for o in (self.mean, self.std)]

    def encodes(self, x:TensorVideo):
        mean,std = self._stats(x)
        return (x-mean)/std

    def decodes(self, x:TensorVideo):
        mean,std = self._stats(x)
        return x*std + mean

class ChannelsFirst(Transform):
    "(b,t,c,h,w) to (b,c,t,h,w), what networks of clips take; decodes back"
    order = 101     # after Normalize and RandomErasing
    turns_clips = True  # `Reader` stops before it: changes of clips see (b,t,c,h,w)
    def setups(self, dl:DataLoader): _need_of_clips(dl)
    def encodes(self, x:TensorVideo): return x.transpose(1, 2)
    def decodes(self, x:TensorVideo): return x.transpose(1, 2)

# --- augmentation ---------------------------------------------------------------------------------
class SameForFrames(Transform):
    "Batch transforms of images on clips (b,t,c,h,w): each draws once a clip, and all frames get what was drawn"
    # in one, as a DataBlock keeps one transform of a class
    def __init__(self,
        tfms    # Transforms of a batch of images, such as fastai's `Flip`, `Contrast`, `Hue`
    ):
        self.tfms = sorted(tfms, key=lambda t: t.order)
        super().__init__(order=self.tfms[0].order)

    @property
    def name(self): return f"{type(self).__name__}: {', '.join(t.name for t in self.tfms)}"

    def __call__(self, b, split_idx=None, **kwargs):
        # the wrapped ones say for themselves whether they act in validation
        self._now = split_idx
        return super().__call__(b, **kwargs)

    def _on(self, t, images):
        out = t(images.as_subclass(TensorImage), split_idx=self._now)
        return out.as_subclass(Tensor)

    def _with(self, t, x):
        b,n,c,h,w = x.shape
        if not isinstance(t, SpaceTfm):
            # geometry: one image with as many channels as the frames have together
            out = self._on(t, x.reshape(b, n*c, h, w))
            return out.view(b, n, c, *out.shape[-2:])
        if isinstance(t, HSVTfm) and c != 3:
            raise ValueError(f"expected clips of 3 channels for {type(t).__name__}, got {c}. "
                             "Leave it out for grey clips.")
        # pixel by pixel: the frames of a clip below each other are one large image
        tall = self._on(t, x.transpose(1, 2).reshape(b, c, n*h, w))
        return tall.view(b, c, n, h, w).transpose(1, 2)

    def encodes(self, x:TensorVideo):
        # some, as RandomErasing, write into what they get
        x = x.as_subclass(Tensor).clone()
        for t in self.tfms: x = self._with(t, x)
        return TensorVideo(x)

class SameAfterwards(SameForFrames): "`SameForFrames` of what comes after Normalize, such as `RandomErasing`"

def _need_batch_tfm(t):
    "Refuse what is of clips or of items, and classes in place of transforms"
    made = isinstance(t, Transform) and not isinstance(t, (type, Normalize))
    if made and _acts_on(t, TensorImage(torch.zeros(1, 1, 1, 1))): return t
    raise TypeError("expected batch transforms of images such as Flip() or Hue(), got "
                    f"{shown(t)}. Make an object of a class, and of a function Transform(f). Size "
                    "and crop are VideoBlock's, and what is for clips, as VideoNoise and "
                    "NormalizeVideo, goes beside: [*video_aug(), VideoNoise()].")

def joined(
    tfms    # Batch transforms, and lists of them as `video_aug` gives
):
    "A list with one `SameForFrames` of each class, as a DataBlock keeps the last of a class alone"
    tfms = L(L(o) for o in L(tfms)).concat()
    out = [t for t in tfms if not isinstance(t, SameForFrames)]
    for cls in SameForFrames, SameAfterwards:
        mine = [o for t in tfms if type(t) is cls for o in t.tfms]
        if mine: out.append(cls(mine))
    return out

def video_aug(
    # Batch transforms of images, such as `Hue()`; one of yours gets all frames as channels,
    # (b,t*c,h,w). None: fastai's `aug_transforms(**kwargs)`
    *tfms,
    **kwargs    # For `aug_transforms`: do_flip, max_rotate, max_zoom, max_lighting, max_warp, xtra_tfms, size ..
)->list:
    """fastai's augmentations for clips, the same for all frames of a clip, as batch transforms; training alone

    A flip turns a motion to the left into one to the right: `do_flip=False` where that is another
    class. What `RandomErasing` fills its rectangle with is new in every frame. A DataBlock keeps the
    last `video_aug` alone: give one all of them, video_aug(xtra_tfms=[..])."""
    if tfms and kwargs:
        raise TypeError("expected transforms or settings of aug_transforms, got both "
                        f"({', '.join(kwargs)}). To have yours beside fastai's: "
                        "video_aug(xtra_tfms=[..], ..).")
    found = [_need_batch_tfm(t) for t in L(tfms).concat()] if tfms else aug_transforms(**kwargs)
    after = [t for t in found if t.order >= NormalizeVideo.order]
    before = [t for t in found if t.order < NormalizeVideo.order]
    kinds = (SameForFrames, before),(SameAfterwards, after)
    return [cls(ts) for cls,ts in kinds if ts]
