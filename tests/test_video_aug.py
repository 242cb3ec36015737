"Augmentation of clips: one draw a clip, and the frames of a still clip stay alike"
import random
import pytest
import torch
from torch import Tensor
from fastai.data.transforms import Normalize
from fastai.torch_core import TensorImage
from fastai.vision.augment import (Brightness, Contrast, Flip, Hue, RandomErasing, Resize, Rotate, Saturation, Warp,
                                   Zoom)
from fastrobust.systems.video.clip import TensorVideo
from fastrobust.systems.video.noise import VideoNoise
from fastrobust.systems.video.tfms import (ChannelsFirst, FloatVideo, NormalizeVideo, SameAfterwards, SameForFrames,
                                           video_aug)

def clips(b=4, t=3, c=3, h=12, w=10, seed=0):
    return TensorVideo(torch.rand(b, t, c, h, w, generator=torch.Generator().manual_seed(seed))*.8 + .1)

def plain(o): return o.as_subclass(Tensor)

def on_frames(t, x):
    "The transform on frame i of all clips, the draws repeated by hand: the same seed for every frame"
    out = []
    for i in range(x.shape[1]):
        torch.manual_seed(3)
        random.seed(3)
        out.append(plain(t(TensorImage(plain(x)[:, i].clone()), split_idx=0)))
    return torch.stack(out, 1)

KINDS = dict(flip=Flip, rotate=lambda: Rotate(20), zoom=lambda: Zoom(max_zoom=1.5, p=1.), warp=lambda: Warp(.3, p=1.),
             brightness=lambda: Brightness(.6), contrast=lambda: Contrast(.6), saturation=lambda: Saturation(.6),
             hue=lambda: Hue(.3))

@pytest.mark.parametrize('kind', KINDS)
def test_each_frame_gets_what_it_would_get_alone(kind):
    x = clips()
    want = on_frames(KINDS[kind](), x)
    t, = video_aug(KINDS[kind]())
    torch.manual_seed(3)
    random.seed(3)
    before = x.clone()
    got = t(x, split_idx=0)
    assert type(got) is TensorVideo and (plain(got)-want).abs().max() < 1e-5
    assert (plain(got)-plain(x)).abs().max() > .01 and torch.equal(x, before)

def test_a_still_clip_stays_still_and_clips_differ():
    still = TensorVideo(clips(16, 1)[:, :1].expand(-1, 5, -1, -1, -1))
    torch.manual_seed(0)
    t, = video_aug()
    out = plain(t(still, split_idx=0))
    assert (out-out[:, :1]).abs().max() < 1e-6
    one = TensorVideo(clips(1, 2).expand(16, -1, -1, -1, -1))
    out = plain(t(one, split_idx=0))
    assert len({round(float(o.sum()), 3) for o in out}) > 8

def test_validation_is_left_alone():
    x = clips()
    for t in video_aug(xtra_tfms=[RandomErasing(p=1.)]):
        assert (plain(t(x, split_idx=1))-plain(x)).abs().max() < 1e-5

def test_what_comes_after_normalize_is_of_another_class():
    "A DataBlock keeps one transform of a class"
    first,last = video_aug(xtra_tfms=[RandomErasing(p=1., sl=.2)])
    assert type(first) is SameForFrames and type(last) is SameAfterwards
    assert first.order < NormalizeVideo.order < last.order < ChannelsFirst.order
    x = clips()
    changed = (plain(last(x, split_idx=0)) != plain(x)).any(2)
    assert changed.any() and torch.equal(changed[:, :1].expand_as(changed), changed)

def test_grey_clips():
    x = clips(c=1)
    t, = video_aug()
    assert t(x, split_idx=0).shape == x.shape
    with pytest.raises(ValueError, match='3 channels for Hue, got 1'): video_aug(Hue(p=1.))[0](x, split_idx=0)

def test_floats_statistics_and_layout_come_back():
    x = TensorVideo(torch.randint(0, 256, (2, 3, 3, 4, 5), dtype=torch.uint8))
    mean,std = [.1, .5, .9],[.2, .3, .4]
    norm = NormalizeVideo.from_stats(mean, std)
    y = ChannelsFirst()(norm(FloatVideo()(x)))
    assert type(y) is TensorVideo and y.shape == (2, 3, 3, 4, 5) and norm.mean.shape == (1, 1, 3, 1, 1)
    for c in range(3):
        want = (x[1, 2, c].double()/255 - mean[c])/std[c]
        assert (plain(y)[1, c, 2]-want).abs().max() < 1e-5
    back = FloatVideo().decode(norm.decode(ChannelsFirst().decode(y)))
    assert back.dtype == torch.uint8 and torch.equal(back, x)

def test_statistics_are_measured_where_none_are_given():
    class One:
        def one_batch(self): return clips(50, seed=2),None
    t = NormalizeVideo()
    t.setup(One())
    x = plain(clips(50, seed=2)).double()
    for c in range(3):
        assert t.mean[0, 0, c].item() == pytest.approx(x[:, :, c].mean().item(), abs=1e-5)
        assert t.std[0, 0, c].item() == pytest.approx(x[:, :, c].std().item(), abs=1e-5)

def test_other_things_are_refused():
    with pytest.raises(TypeError, match='got the class Flip'): video_aug(Flip)
    for bad in (Resize(8), Normalize.from_stats([.5], [.5]), VideoNoise(), *video_aug()):
        with pytest.raises(TypeError, match=f'got a {type(bad).__name__}. .*VideoBlock'): video_aug(bad)
    with pytest.raises(TypeError, match=r'got both \(max_rotate\)'): video_aug(Flip(), max_rotate=5)
