"Common corruptions of clips, frame by frame alike; and four of time: dropped, frozen, shuffled, blurred"
# Corruptions of images after Hendrycks & Dietterich, ICLR 2019, https://arxiv.org/abs/1903.12261.
# What stands between camera and scene stays where it is: frost, fog, drops, glass, snow, the line of
# a motion blur, the elastic map are drawn once a clip and the same in all its frames. Noise of the
# sensor is new in every frame. The strength is that of the severity, for all frames.
# The corruptions of time and their severities are ours, shares of the frames of a clip; no published
# standard of them was in reach, and no network's accuracy decided them.
import torch
from torch import Tensor
from fastrobust.basics import nearest, need_whole, shown
from fastrobust.images.corruptions.draws import Draws, stream_keys
from fastrobust.images.corruptions.front import corrupt
from fastrobust.images.corruptions.tables import CORRUPTIONS, EXTRA_CORRUPTIONS
from fastrobust.pixels import PixelSpace

__all__ = []

# Share of the frames, severities 1 to 5
_EIGHTHS = (.125, .25, .375, .5, .75)
SHARES = dict(dropped_frames=_EIGHTHS,
              frozen_frames=_EIGHTHS,
              # of two frames at least: one alone has nowhere to go
              shuffled_frames=(.25, .375, .5, .75, 1.),
              # that lie before a frame and are in its exposure
              blurred_frames=_EIGHTHS)
TEMPORAL = tuple(SHARES)
_NEW_EACH_FRAME = ('gaussian_noise', 'shot_noise', 'impulse_noise', 'speckle_noise')

def share_of_frames(
    name,       # One of `TEMPORAL`
    severity,   # 1 to 5
    t           # Frames of a clip, 2 at least
):
    "How many frames of `t` a corruption of time is about: one at least; all only where shuffled"
    k = int(SHARES[name][severity-1]*t + .5)
    if name == 'shuffled_frames': return max(k, 2)
    return min(max(k, 1), t-1)

# --- of time, by which frame is shown -------------------------------------------------------------
def _in_random_order(r, t):
    "Positions of frames in an order drawn for each clip, int64 (b,t)"
    return r.rand(t).argsort(dim=1, stable=True)

def dropped_frames(x, k, r):
    "`k` frames of each clip are lost: black"
    lost = _in_random_order(r, x.shape[1])[:, :k]
    b = torch.arange(len(x), device=x.device)[:, None]
    out = x.clone()
    out[b, lost] = 0
    return out

def frozen_frames(x, k, r):
    "The picture stands still: `k` frames in a row show the one before; then it is where it would be"
    b,t = x.shape[:2]
    start = r.randint(1, t-k+1, 1)
    i = torch.arange(t, device=x.device).expand(b, t)
    still = (i >= start) & (i < start+k)
    return _shown(x, torch.where(still, start-1, i))

def shuffled_frames(x, k, r):
    "`k` frames change places in one ring, so that each of them is elsewhere; the others stay"
    b,t = x.shape[:2]
    ring = _in_random_order(r, t)[:, :k]
    at = torch.arange(t, device=x.device).repeat(b, 1)
    at.scatter_(1, ring, ring.roll(-1, 1))
    return _shown(x, at)

def blurred_frames(x, k, _r):
    "A long exposure: each frame is the mean of itself and of the `k` before it, at first of fewer"
    t = x.shape[1]
    total = x.int().cumsum(1)
    before = torch.zeros_like(total)
    before[:, k+1:] = total[:, :t-k-1]
    n = torch.arange(1, t+1, device=x.device).clamp(max=k+1)
    mean = (total-before) // n[:, None, None, None]
    return mean.to(torch.uint8)

def _shown(x, at):
    "Clips whose frames are those of `x` at the positions `at` (b,t)"
    b = torch.arange(len(x), device=x.device)[:, None]
    return x[b, at]

_KERNELS = dict(dropped_frames=dropped_frames, frozen_frames=frozen_frames,
                shuffled_frames=shuffled_frames, blurred_frames=blurred_frames)

# --- any of them ----------------------------------------------------------------------------------
def _check_clips(x):
    "`x`, clips (b,t,c,h,w) of grey or coloured frames, as a plain Tensor"
    got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
    if not isinstance(x, Tensor) or x.ndim != 5 or x.shape[2] not in (1, 3):
        raise ValueError(f"expected clips (b,t,c,h,w) with c=1 or 3, got {got}. One clip: "
                         "`x[None]`; channels before frames: `x.transpose(1, 2)`; images: "
                         "`corrupt`.")
    return x.as_subclass(Tensor)

def _check(name, severity, x):
    names = CORRUPTIONS + EXTRA_CORRUPTIONS + TEMPORAL
    if name not in names:
        raise ValueError(f"expected the name of a corruption, got {name!r}. {nearest(name, names)}")
    need_whole('severity', severity, 1, 5, fix='Clean clips: leave `corrupt_clips` out.')
    if name in TEMPORAL and x.shape[1] < 2:
        raise ValueError(f"expected clips of 2 frames or more for {name}, got {x.shape[1]}. Read "
                         f"longer clips, or leave out {', '.join(TEMPORAL)}.")

def _check_ids(ids, b):
    try: ids = torch.arange(b) if ids is None else torch.as_tensor(ids)
    except (TypeError, ValueError) as e:
        raise TypeError(f"`ids` must hold whole numbers, got {shown(ids)}. Without a set to point "
                        "into: ids=None.") from e
    if ids.shape != (b,) or ids.is_floating_point():
        raise ValueError(f"`ids` must hold one whole number for each of {b} clips, got "
                         f"{ids.dtype} of shape {tuple(ids.shape)}. Without a set to point into: "
                         "ids=None.")
    return ids.cpu()

def _frame_ids(name, ids, t):
    "Streams of the frames of clips `ids`, int64 (b*t,): the clip's own, or one each"
    if name not in _NEW_EACH_FRAME: return ids.repeat_interleave(t)
    return (ids[:, None]*t + torch.arange(t)).flatten()

@torch.no_grad()
def corrupt_clips(
    x:Tensor,           # Clips (b,t,c,h,w), c=1 or 3: uint8, or float in [0,1], before Normalize
    name:str,           # One of `CORRUPTIONS`, `EXTRA_CORRUPTIONS` or `TEMPORAL`
    severity:int=3,     # 1 to 5
    table:str='auto',   # Of the corruptions of images, as in `corrupt`; those of time have one alone
    seed:int=0,         # Of all that is random. The global streams are neither read nor moved
    *,
    # Positions of the clips in their set (b,), on which their randomness depends, so that batches
    # do not matter; None: 0 to b-1
    ids:Tensor=None
)->Tensor:              # Clips of the same shape, device and dtype; floats hold k/255
    """Corrupt clips: as images, with one draw for all frames of a clip, of noise one a frame; or in time

    The severities of the corruptions of time are ours, shares of the frames: no published standard
    was in reach."""
    x = _check_clips(x)
    _check(name, severity, x)
    need_whole('seed', seed)
    b,t = x.shape[:2]
    ids = _check_ids(ids, b)
    if name not in TEMPORAL:
        frames = corrupt(x.flatten(0, 1), name, severity, table, seed, ids=_frame_ids(name, ids, t))
        return frames.view(x.shape)
    u8 = x
    if x.is_floating_point(): u8 = PixelSpace().to_uint8(x, 'corrupt_clips')
    r = Draws(stream_keys(seed, ids, name, severity), x.device)
    out = _KERNELS[name](u8, share_of_frames(name, severity, t), r)
    if not x.is_floating_point(): return out
    return out.to(x.dtype).div_(255)
