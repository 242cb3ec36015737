"Where the wing of clips meets the house: labels, weights, reports of images, pixels; and real files end to end"
import warnings
import numpy as np
import pytest
import torch
from fastai.callback import progress, schedule  # noqa: F401 (give Learner no_bar)
from fastai.data.transforms import Normalize
from fastai.learner import Learner
from fastai.torch_core import set_seed
from fastai.vision.augment import Flip, RandomErasing
from torch import Tensor
from torchvision.models import resnet18
from torchvision.models.video import r3d_18
from fastrobust.basics import RobustWarning
from fastrobust.calibration.report import calibration_report
from fastrobust.data.apart import share_items
from fastrobust.data.auxrows import OpenSet, image_hashes
from fastrobust.data.editing import given_labels, take_items, with_labels
from fastrobust.data.growing import with_vocab
from fastrobust.data.holdout import hold_out
from fastrobust.data.longtail import class_counts, long_tail_dls
from fastrobust.data.weighting import weighted_dls
from fastrobust.inference.archs import build_arch
from fastrobust.labels.crossval import cross_val_preds
from fastrobust.labels.frozen import frozen
from fastrobust.labels.report import noise_report
from fastrobust.learner import robust_learner
from fastrobust.noise.block import add_label_noise
from fastrobust.noise.laws import NoisyLabels
from fastrobust.ood.report import ood_report
from fastrobust.pixels import pixel_space
from fastrobust.shift.lpreport import lp_report
from fastrobust.systems.video.clip import TensorVideo
from fastrobust.systems.video.learner import VideoLearner, video_learner
from fastrobust.systems.video.loaders import video_dls
from fastrobust.systems.video.moving import moving_shapes, moving_shapes_dls
from fastrobust.systems.video.networks import tiny_c3d
from fastrobust.systems.video.tfms import video_aug
from fastrobust.systems.video.videoarrays import ClipItems
from fastrobust.tails.report import tail_report
from fastrobust.techniques.augmix import AugMix, AugMixTransform
from fastrobust.techniques.corruption import CorruptionTransform
from fastrobust.techniques.lpnoise import LpNoise
from fastrobust.techniques.odnl import ODNL

pytestmark = pytest.mark.filterwarnings('ignore::fastrobust.basics.RobustWarning')

def shapes(n=60, bs=8, **kwargs): return moving_shapes_dls(n, T=4, size=12, bs=bs, device='cpu', **kwargs)
def plain(o): return o.as_subclass(Tensor)

def maker(dls):
    learn = Learner(dls, tiny_c3d(c=2))
    learn.remove_cb(learn.progress)
    return learn

def fitted(dls=None, epochs=1):
    set_seed(0)
    learn = maker(shapes() if dls is None else dls)
    with learn.no_logging(): learn.fit(epochs, 1e-2)
    return learn

def some_noise(n=20, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 4, 12, 12), dtype=np.uint8)

# --- loaders made of loaders ------------------------------------------------------------------------------------------
MADE = dict(weighted=lambda d: weighted_dls(d, 'balanced'),
            noisy=lambda d: add_label_noise(d, NoisyLabels('symmetric', .4)),
            instance=lambda d: add_label_noise(d, NoisyLabels('instance', .3)),
            tail=lambda d: long_tail_dls(d, .3),
            some=lambda d: take_items(d, range(24)),
            relabelled=lambda d: with_labels(d, given_labels(d)),
            grown=lambda d: with_vocab(d, [*d.vocab, 'round']),
            held=lambda d: hold_out(d, .3))

@pytest.mark.parametrize('how', MADE)
def test_loaders_made_of_loaders_of_clips_hold_clips(how):
    "Their batches are `TensorVideo`, so that the transforms of clips act: a plain image would stay uint8 (b,t,c,h,w)"
    new = MADE[how](shapes())
    for dl in new.loaders:
        assert isinstance(dl.dataset.items, ClipItems)
        x = next(iter(dl))[0]
        assert type(x) is TensorVideo and x.shape[1:] == (1, 4, 12, 12) and x.dtype == torch.float32
        assert abs(plain(x).mean()) < .3 and .7 < plain(x).std() < 1.3
    learn = fitted(new)
    assert np.isfinite(learn.recorder.values[-1]).all()

def test_noise_changes_labels_and_no_clip():
    dls = shapes()
    noisy = add_label_noise(dls, NoisyLabels('symmetric', .4))
    assert (given_labels(noisy) != given_labels(dls)).mean() == pytest.approx(.4, abs=1/48)
    assert torch.equal(noisy.train_ds.items.x, dls.train_ds.items.x)
    clip,code = noisy.train_ds[3]
    assert type(clip) is TensorVideo and int(code) == given_labels(noisy)[3]
    assert np.array_equal(plain(clip), dls.train_ds.items.x[3])

def test_weights_decide_which_clips_are_drawn():
    dls = shapes()
    w = (given_labels(dls) == 2).astype(float)
    assert all((plain(y) == 2).all() for _,y in weighted_dls(dls, w).train)

def test_a_long_tail_has_its_sizes():
    n = class_counts(long_tail_dls(shapes(160), .2))
    assert n.argmax() == 0 and n.argmin() == 3 and n[3] == pytest.approx(.2*n[0], abs=1)

def test_open_set_noise_is_for_images():
    law = NoisyLabels('open', .3, images=np.zeros((5, 12, 12), np.uint8))
    with pytest.raises(TypeError, match='expected images to replace by others, got clips.*closed noise'):
        add_label_noise(shapes(), law)

# --- reports ----------------------------------------------------------------------------------------------------------
def test_clips_are_judged_out_of_fold():
    "By networks that did not see them; where there is motion to learn these are right more often than chance"
    out = cross_val_preds(maker, shapes(), n_folds=2, epochs=1, verbose=False)
    assert out.shape == (48, 4) and np.allclose(out.probs.sum(1), 1, atol=1e-5)

def test_noise_report_of_clips():
    "With probabilities that know the true labels it finds the wrong ones and tells their share"
    dls = shapes(400)
    noisy = add_label_noise(dls, NoisyLabels('symmetric', .2))
    probs = np.full((320, 4), .02)
    probs[np.arange(320), given_labels(dls)] = .94
    rep = noise_report(dls=noisy, probs=probs, verbose=False)
    wrong = np.flatnonzero(given_labels(noisy) != given_labels(dls))
    assert set(rep.table.item[:len(wrong)]) == set(wrong)
    assert rep.rate == pytest.approx(.2, abs=.02)
    with pytest.raises(TypeError, match='Of tables, texts and clips take folds'):
        noise_report(frozen(tiny_c3d(c=2)), noisy, verbose=False)

def test_calibration_and_tails_of_clips():
    learn = fitted()
    p,y = learn.get_preds()
    right = (p.argmax(1) == y).float().mean().item()
    assert calibration_report(learn).table.accuracy.iloc[0] == pytest.approx(right, abs=1e-6)
    rep = tail_report(learn)
    assert rep.summary.accuracy == pytest.approx(right, abs=1e-6)
    assert rep.counts.tolist() == class_counts(learn.dls).tolist()

@pytest.mark.parametrize('ask', [calibration_report, tail_report])
def test_a_report_of_training_clips_says_so_though_they_are_copies(ask):
    X,y = moving_shapes(60, 4, 12)
    learn = fitted(video_dls((X, y), bs=8, device='cpu', seed=0))
    again = video_dls((X.copy(), y), bs=8, device='cpu', seed=0)
    others = video_dls(moving_shapes(60, 4, 12, seed=5), bs=8, device='cpu')
    with pytest.warns(RobustWarning, match='images of the training set'): ask(learn, again.train)
    assert not any('images of the training set' in o for o in ask(learn, others.valid).notes)

def test_hashes_of_clips_know_them_again():
    dls = shapes(20)
    a,b = image_hashes(dls.train),image_hashes(dls.valid)
    assert len(set(a)) == 16 and len(b) == 4 and not set(a) & set(b)
    assert share_items(dls.train, shapes(20).train) and not share_items(dls.train, dls.valid)

FORMS = dict(array=lambda x, _: x, last=lambda x, _: x[..., None], tensor=lambda x, _: torch.from_numpy(x)[:, :, None],
             floats=lambda x, _: x/255., open=lambda x, _: OpenSet(x), loader=lambda x, dls: dls.test_dl(x))

@pytest.mark.parametrize('form', FORMS)
def test_ood_report_of_clips(form):
    "Clips of noise as unknown, in each form, through the transforms of the learner: as `get_preds` sees them"
    learn,x = fitted(),some_noise()
    rep = ood_report(learn, FORMS[form](x, learn.dls), ['msp', 'energy', 'mahalanobis'])
    z = learn.get_preds(dl=learn.dls.test_dl(x))[0].amax(1).numpy()
    known = learn.get_preds()[0].amax(1).numpy()
    # the area under the curve is the share of pairs in the right order
    want = (known[:, None] > z).mean() + .5*(known[:, None] == z).mean()
    row = rep.table[(rep.table.score == 'msp') & (rep.table.set == 'unknown')]
    assert row.AUROC.item() == pytest.approx(want, abs=1e-6)

def test_ood_report_knows_its_own_clips():
    dls = shapes()
    learn = fitted(dls)
    with pytest.raises(ValueError, match='equal to known or training images'):
        ood_report(learn, dls.train_ds.items.x[:8], ['msp'])

def test_lp_report_is_for_images():
    with pytest.raises(TypeError, match='expected a learner of images.*corruption_report.*video_report'):
        lp_report(fitted())

# --- pixels -----------------------------------------------------------------------------------------------------------
def test_pixels_of_what_the_network_sees():
    X = np.random.default_rng(0).integers(0, 256, (20, 4, 10, 12, 3), dtype=np.uint8)
    dls = video_dls((X, np.arange(20) % 2), bs=4, device='cpu', stats=([.2, .5, .8], [.1, .2, .4]))
    space = pixel_space(dls)
    x = plain(next(iter(dls.valid))[0])
    clips = dls.valid_ds.items.x[:4].transpose(1, 2)/255
    assert x.shape == (4, 3, 4, 10, 12) and space.mean.shape == (1, 3, 1, 1, 1) and not space.loose
    assert torch.allclose(space.decode(x), clips, atol=1e-6)
    assert torch.allclose(space.encode(clips), x, atol=1e-5)
    with pytest.raises(ValueError, match=r'pixels in \[0,1\] before Normalize'): space.check(clips + .5)

def test_pixels_may_leave_the_range_after_erasing():
    assert pixel_space(shapes(batch_tfms=video_aug(RandomErasing()))).loose

@pytest.mark.parametrize('t', [LpNoise(), AugMixTransform(), CorruptionTransform('fog'), Flip(),
                               Normalize.from_stats([.5], [.5], cuda=False)], ids=lambda t: t.name.split(' ')[0])
def test_transforms_of_images_are_refused_in_place_of_doing_nothing(t):
    with pytest.raises(TypeError, match='acts on images alone and would do nothing here.*video_aug.*VideoNoise.*stats'):
        shapes(batch_tfms=[t])

def test_techniques_of_images_say_so():
    for t,says in ((AugMix(), r'augmix expected images \(b,c,h,w\)'),
                   (ODNL(some_noise()[:, 0]), r'ODNL adds images and expects batches \(bs,c,h,w\)')):
        learn = video_learner(shapes(), 'tiny_c3d', cbs=t)
        with learn.no_bar(), learn.no_logging(), pytest.raises(ValueError, match=says): learn.fit(1)

# --- floats are judged as they are ------------------------------------------------------------------------------------
def test_a_change_below_one_level_is_seen():
    "On clips whose pixels are whole levels a change of .3/255 is lost by rounding; along the gradient it is seen"
    learn = fitted()
    clip = plain(learn.dls.valid_ds[0][0]).float()/255
    net,space = learn.model.eval(),pixel_space(learn.dls)
    def probs(x): return net(space.encode(x.transpose(0, 1)[None])).softmax(1)[0]
    x = clip.clone().requires_grad_()
    probs(x)[0].backward()
    bad = (clip + .3/255*x.grad.sign()).clamp(0, 1)
    assert torch.equal((bad*255).round(), (clip*255).round())
    with torch.no_grad(): want,before = probs(bad),probs(clip)
    assert (want-before).abs().max() > 1e-5
    with warnings.catch_warnings():
        warnings.simplefilter('error', RobustWarning)   # such as of rounding
        for o in (bad, bad.numpy().transpose(0, 2, 3, 1), bad[:, 0].numpy(), bad.double()):
            assert torch.allclose(video_of(learn).predict(o)[2], want, atol=1e-6)
    assert torch.allclose(video_of(learn).predict((clip*255).byte())[2], before, atol=1e-6)

def video_of(learn):
    new = VideoLearner(learn.dls, learn.model, learn.loss_func)
    new.remove_cb(new.progress)
    return new

def test_floats_are_looked_at_too():
    learn = video_of(fitted())
    for bad,says in ((torch.full((4, 1, 12, 12), 1.5), r'in \[0,1\]'), (torch.zeros(4, 3, 12, 12), 'channels'),
                     (torch.zeros(3, 3), 'expected `a clip` as')):
        with pytest.raises(ValueError, match=says): learn.predict(bad)
    with pytest.raises(TypeError, match='the path of a video or a clip in memory'): learn.predict(7)

# --- which learner ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('arch', [r3d_18, 'r3d_18', resnet18])
def test_robust_learner_names_video_learner(arch):
    with pytest.raises(TypeError, match=r'got clips.*learner_func=video_learner.*video_learner\(dls'):
        robust_learner(shapes(), arch)

def test_a_network_of_clips_for_images_names_video_learner():
    with pytest.raises(TypeError, match=r'Clips have video_learner\(dls'): build_arch(r3d_18, 3)
