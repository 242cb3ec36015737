"Corruptions of clips against slow loops, corruption_report of a learner of clips against fastai, VideoNoise"
import pickle
import numpy as np, pytest, torch
from fastai.callback.core import Callback
from fastai.imports import noop
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.torch_core import TensorImage, to_cpu
from fastai.vision.augment import Brightness
from fastrobust.basics import RobustWarning
from fastrobust.images.clips import SHARES, TEMPORAL, corrupt_clips, share_of_frames
from fastrobust.images.corruptions.front import corrupt
from fastrobust.images.corruptions.tables import CORRUPTIONS, EXTRA_CORRUPTIONS
from fastrobust.inference.passes import shifted_preds
from fastrobust.shift.clipshift import fitting_names
from fastrobust.shift.charts import plot_corruption_bars
from fastrobust.shift.corruptionreport import corruption_report
from fastrobust.shift.result import compare_reports
from fastrobust.systems.video.clip import TensorVideo
from fastrobust.systems.video.moving import moving_shapes_dls
from fastrobust.systems.video.networks import tiny_c3d
from fastrobust.systems.video.noise import VideoNoise, lost_frames
from fastrobust.systems.video.tfms import video_aug
from fastrobust.techniques.lpnoise import LpNoise
from conftest import tiny_dls, tiny_learner

def clips(b=6, t=8, c=1, h=12, w=10, seed=0):
    "Bright random clips, so that no frame is black and no two are alike"
    g = torch.Generator().manual_seed(seed)
    return torch.randint(1, 256, (b, t, c, h, w), generator=g, dtype=torch.uint8)

def learner(seed=0, n=60, **kw):
    torch.manual_seed(seed)
    kw = dict(T=4, size=12, bs=8) | kw
    return Learner(moving_shapes_dls(n, **kw), tiny_c3d(c=2), CrossEntropyLossFlat())

def spread(learn):
    "Centre and widen the logits, so that a network of random weights predicts every class"
    z,last = shifted_preds(learn)[0],[m for m in learn.model.modules() if isinstance(m, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.bias.sub_(z.mean(0))
        last.weight.div_(z.std(0)[:, None])
        last.bias.div_(z.std(0))
    return learn

def lengths_and_severities(f):
    "Run with clips of 2, 5 and 8 frames, severities 1, 3 and 5"
    return pytest.mark.parametrize('severity', [1, 3, 5])(pytest.mark.parametrize('t', [2, 5, 8])(f))

# --- corruptions of time --------------------------------------------------------------------------
@pytest.mark.parametrize('name,t,counts', [('dropped_frames', 8, [1, 2, 3, 4, 6]), ('dropped_frames', 2, [1]*5),
                                           ('frozen_frames', 16, [2, 4, 6, 8, 12]),
                                           ('frozen_frames', 3, [1, 1, 1, 2, 2]),
                                           ('shuffled_frames', 8, [2, 3, 4, 6, 8]), ('shuffled_frames', 2, [2]*5),
                                           ('blurred_frames', 8, [1, 2, 3, 4, 6])])
def test_how_many_frames(name, t, counts):
    assert [share_of_frames(name, s, t) for s in range(1, 6)] == counts

@lengths_and_severities
def test_dropped_frames_are_black_and_the_others_as_they_were(t, severity):
    x = clips(t=t)
    y = corrupt_clips(x, 'dropped_frames', severity)
    k = share_of_frames('dropped_frames', severity, t)
    for a,b in zip(x, y):
        black = [i for i in range(t) if (b[i] == 0).all()]
        assert len(black) == k
        assert all((a[i] == b[i]).all() for i in range(t) if i not in black)

@lengths_and_severities
def test_a_frozen_clip_shows_one_frame_and_goes_on(t, severity):
    x = clips(t=t)
    y = corrupt_clips(x, 'frozen_frames', severity)
    k = share_of_frames('frozen_frames', severity, t)
    for a,b in zip(x, y):
        changed = [i for i in range(t) if (a[i] != b[i]).any()]
        assert changed == list(range(changed[0], changed[0]+k)) and changed[0] > 0
        assert all((b[i] == a[changed[0]-1]).all() for i in changed)

@lengths_and_severities
def test_shuffled_frames_are_the_same_frames_elsewhere_in_one_ring(t, severity):
    x = clips(t=t)
    y = corrupt_clips(x, 'shuffled_frames', severity)
    k = share_of_frames('shuffled_frames', severity, t)
    for a,b in zip(x, y):
        at = [next(j for j in range(t) if (a[j] == b[i]).all()) for i in range(t)]
        assert sorted(at) == list(range(t))
        moved = [i for i in range(t) if at[i] != i]
        assert len(moved) == k
        ring = [moved[0]]
        while at[ring[-1]] != ring[0]: ring.append(at[ring[-1]])
        assert len(ring) == k

@lengths_and_severities
def test_blurred_frames_are_means_of_those_before(t, severity):
    x = clips(t=t, c=3)
    y = corrupt_clips(x, 'blurred_frames', severity)
    k = share_of_frames('blurred_frames', severity, t)
    for b in range(len(x)):
        for i in range(t):
            frames = [x[b, j].double().numpy() for j in range(max(0, i-k), i+1)]
            want = np.floor(np.mean(frames, axis=0)+1e-9)
            assert (y[b, i].numpy() == want).all()

def test_lost_and_frozen_frames_are_anywhere():
    x = clips(1, t=4, h=2, w=2).expand(2000, -1, -1, -1, -1)
    for name,s,places in (('dropped_frames', 2, 4), ('frozen_frames', 2, 3)):
        changed = (corrupt_clips(x, name, s) != x).flatten(2).any(2)
        counts = changed.sum(0)[4-places:]
        p = 1/places
        se = (2000*p*(1-p))**.5
        assert changed.sum() == 2000 and ((counts-2000*p).abs() < 4*se).all(), counts

def test_severities_grow():
    assert all(list(v) == sorted(set(v)) and 0 < v[0] and v[-1] <= 1 for v in SHARES.values())

# --- any corruption -------------------------------------------------------------------------------
ALL = CORRUPTIONS + EXTRA_CORRUPTIONS + TEMPORAL

@pytest.mark.parametrize('name', ALL)
def test_by_ids_and_seed(name):
    x,ids = clips(4, 3, 3, 16, 16),torch.tensor([7, 3, 0, 11])
    was = x.clone(),torch.get_rng_state()
    y = corrupt_clips(x, name, 3, seed=1, ids=ids)
    assert y.shape == x.shape and y.dtype == torch.uint8 and (y != x).any()
    assert (x == was[0]).all() and (torch.get_rng_state() == was[1]).all()
    parts = [corrupt_clips(x[i:i+1], name, 3, seed=1, ids=ids[i:i+1]) for i in (3, 0, 2, 1)]
    assert (torch.cat(parts)[[1, 3, 2, 0]] == y).all()
    f = corrupt_clips(TensorVideo(x.float()/255), name, 3, seed=1, ids=ids)
    assert f.dtype == torch.float32 and (f*255).round().sub(y).abs().max() == 0

@pytest.mark.parametrize('name', CORRUPTIONS + EXTRA_CORRUPTIONS)
def test_frames_get_the_draw_of_their_clip(name):
    "Each frame is what `corrupt` makes of an image with the clip's id; noise is another in every frame"
    x = clips(3, 1, 3, 16, 16).expand(-1, 4, -1, -1, -1)
    ids = torch.tensor([5, 2, 9])
    y = corrupt_clips(x, name, 4, seed=3, ids=ids)
    if not name.endswith('noise'):
        for i in range(4): assert (y[:, i] == corrupt(x[:, i], name, 4, seed=3, ids=ids)).all()
        return
    assert all((y[:, i] != y[:, j]).any() for i in range(4) for j in range(i))
    # no frame's noise comes again in another clip of the set
    every = corrupt_clips(x[:1].expand(5, -1, -1, -1, -1), name, 4).flatten(0, 1)
    assert len(every.flatten(1).unique(dim=0)) == 20

@pytest.mark.parametrize('args,kw,match', [
    ((clips()[0], 'fog'), {}, r'expected clips \(b,t,c,h,w\) with c=1 or 3, got \(8, 1, 12, 10\)'),
    ((clips().transpose(1, 2), 'fog'), {}, 'channels before frames'),
    ((clips(), 'frozen_frame'), {}, "got 'frozen_frame'.*frozen_frames"),
    ((clips(), 'fog', 6), {}, '`severity`'),
    ((clips(t=1), 'dropped_frames'), {}, 'expected clips of 2 frames or more for dropped_frames, got 1'),
    ((clips(), 'fog'), dict(ids=torch.arange(2)), '`ids` must hold one whole number for each of 6 clips'),
    ((clips().float(), 'dropped_frames'), {}, r'pixels in \[0,1\]')])
def test_corrupt_clips_refuses(args, kw, match):
    with pytest.raises(ValueError, match=match): corrupt_clips(*args, **kw)

def test_ids_are_numbers():
    with pytest.raises(TypeError, match='`ids` must hold whole numbers, got a list'):
        corrupt_clips(clips(), 'dropped_frames', ids=list('abcdef'))

# --- the report -----------------------------------------------------------------------------------
@pytest.mark.parametrize('stats', ['auto', None])
@pytest.mark.parametrize('name', ['frost', 'shot_noise', 'shuffled_frames'])
def test_the_report_is_that_of_fastai_on_clips_corrupted_beforehand(name, stats):
    learn = spread(learner(stats=stats, n=150))
    it = learn.dls.valid_ds.items
    r = corruption_report(learn, names=name, severities=[2, 5], seed=4)
    for s in (2, 5):
        x = corrupt_clips(it.x, name, s, seed=4, ids=torch.arange(len(it.x)))
        items = [(o.permute(0, 2, 3, 1).numpy(), learn.dls.vocab[int(y)]) for o,y in zip(x, it.y)]
        z = to_cpu(learn.get_preds(dl=learn.dls.test_dl(items, with_labels=True), act=noop)[0])
        wrong = z.argmax(1) != torch.as_tensor(it.y)
        assert (r.wrong[name, s].to_numpy() == wrong.numpy()).all()
    z = to_cpu(learn.get_preds(act=noop)[0])
    assert len(z.argmax(1).unique()) > 2 and r.wrong[name, 5].ne(r.clean_wrong).any()
    assert r.clean == pytest.approx((z.argmax(1) != torch.as_tensor(it.y)).float().mean().item())

def test_what_the_report_of_clips_says(tmp_path):
    learn = learner()
    was = {k: v.clone() for k,v in learn.model.state_dict().items()},learn.model.training,torch.get_rng_state()
    r = corruption_report(learn, severities=[3], resume=tmp_path)
    assert r.names == [*CORRUPTIONS, *TEMPORAL] and r.summary.mean_of == '15 of the 15 corruptions'
    assert r.summary.temporal == pytest.approx(np.mean([r.errors[k] for k in TEMPORAL]))
    assert r.summary.image_size == '4 frames of 12 x 12' and set(r.table.group[list(TEMPORAL)]) == {'temporal'}
    notes = ' '.join(r.notes)
    assert 'shares of 12 clips' in notes and "fastrobust's own, no published standard" in notes and 'mCE' not in notes
    assert "shares of the 4 frames, severities 1 to 5: dropped_frames 0.125" in notes
    assert all((v == learn.model.state_dict()[k]).all() for k,v in was[0].items())
    assert learn.model.training == was[1] and (torch.get_rng_state() == was[2]).all()
    again = corruption_report(learn, severities=[3], resume=tmp_path)
    assert (again.wrong == r.wrong).all(axis=None) and '19 finished cells were read' in ' '.join(again.notes)
    both = compare_reports({'a': r, 'b': corruption_report(learner(1), severities=[3])})
    assert 'all temporal' in both.table.index
    r.plot(); plot_corruption_bars({'a': r})

def test_by_the_batch():
    learn = learner(n=400)
    r = corruption_report(learn, names=['frozen_frames'], severities=[5], bn_batch=64)
    assert r.summary.bn_batch == 64 and len(r.errors_bn['frozen_frames']) == 1

def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ValueError, match='of images, got dropped_frames, which are of clips'):
        corruption_report(tiny_learner(), names=['fog', 'dropped_frames'])
    learn = learner()
    short = [(np.zeros((1, 12, 12, 1), np.uint8), 'left')]*3
    dl = learn.dls.test_dl(short, with_labels=True)
    with pytest.raises(ValueError, match='expected clips of 2 frames or more for frozen_frames, got 1'):
        corruption_report(learn, dl, names=['fog', 'frozen_frames'])
    class Files: names,folder = ('fog',),tmp_path
    with pytest.raises(ValueError, match='for published files, got one of clips'):
        corruption_report(learner(), source=Files())

def test_clips_of_one_frame_get_the_15():
    "And are refused before the first of them is measured, where those of time are asked for"
    shape = 1,3,8,8
    assert fitting_names(list(CORRUPTIONS), False, shape, None) == list(CORRUPTIONS)
    assert fitting_names(['fog'], True, shape, None) == ['fog']
    with pytest.raises(ValueError, match='2 frames or more for dropped_frames, frozen_frames, got 1'):
        fitting_names(['dropped_frames', 'fog', 'frozen_frames'], True, shape, None)

def test_images_get_the_15():
    r = corruption_report(tiny_learner(dls=tiny_dls(channels=3, size=16)), severities=[1])
    assert r.names == list(CORRUPTIONS) and 'temporal' not in r.summary and 'of 24 images' in r.notes[0]

def test_what_was_trained_on_is_named():
    learn = learner(batch_tfms=[VideoNoise(), *video_aug(Brightness())])
    with pytest.warns(RobustWarning, match='overlap with brightness, dropped_frames, gaussian_noise'):
        r = corruption_report(learn, names=['brightness', 'dropped_frames', 'gaussian_noise'], severities=[1])
    assert r.summary.overlap == 'brightness, dropped_frames, gaussian_noise'

# --- VideoNoise -----------------------------------------------------------------------------------
def floats(**kw): return TensorVideo(clips(**kw).float()/255)

@pytest.mark.parametrize('kw', [{}, dict(preset='C2'), dict(sets=[(1, 30.), (2, 1.)]), dict(patch=(.2, .5))])
def test_the_noise_is_that_of_an_image_of_all_the_frames(kw):
    x = floats(c=3)
    torch.manual_seed(1)
    got = VideoNoise(drop=0, strength=1, **kw)(x, split_idx=0)
    torch.manual_seed(1)
    b,t,c,h,w = x.shape
    want = LpNoise(**kw)(TensorImage(x.reshape(b, t*c, h, w)), split_idx=0)
    assert type(got) is TensorVideo and got.shape == x.shape
    assert torch.equal(got.as_subclass(torch.Tensor), want.as_subclass(torch.Tensor).view(x.shape))

def test_strength_is_of_the_sizes_of_presets_alone():
    "Linf .3, L2 10 and L0 .24 of the default, each times U(0,1), for d = 3*32*32 values, adapted: d/d0 to the 1/p"
    c,h,w = 3,16,16
    got = VideoNoise(strength=.5).noise.sets_for((c, h, w))
    want = [(np.inf, .15), (2, 5*(c*h*w/3072)**.5), (0, .12)]
    assert [(s.p, s.eps[0], pytest.approx(s.eps[1])) for s in got] == [(p, 0, e) for p,e in want]
    x = floats()
    d = x[0].numel()/3072
    third = [(np.inf, (0, .1)), (2, (0, 10/3*d**.5)), (0, (0, .08), 'sphere')]
    torch.manual_seed(2)
    got = VideoNoise(drop=0)(x, split_idx=0)
    torch.manual_seed(2)
    assert torch.allclose(got, VideoNoise(third, drop=0)(x, split_idx=0), atol=1e-6)
    assert VideoNoise([(2, 3.)]).noise.sets_for((c, h, w))[0].eps == 3
    for bad in (0, -1, float('inf'), float('nan')):
        with pytest.raises(ValueError, match='`strength` must be finite and above 0'): VideoNoise(strength=bad)

def test_the_norm_of_a_clip_is_bounded_and_each_frame_gets_noise():
    x = floats(b=20)
    for p,eps in ((2, 3.), (float('inf'), .1)):
        y = VideoNoise([(p, eps)], drop=0)(x, split_idx=0)
        d = (y-x).as_subclass(torch.Tensor).flatten(1).double()
        assert (torch.linalg.vector_norm(d, p, 1) <= eps*(1+1e-5)).all()
        assert ((y != x).flatten(2).any(2)).all() and y.min() >= 0 and y.max() <= 1

def test_frames_are_lost_but_never_all():
    torch.manual_seed(0)
    lost = lost_frames(4000, 8, .1)
    assert lost.float().mean().item() == pytest.approx(.1, abs=4*(.09/32000)**.5)
    assert (~lost_frames(500, 3, .999)).any(1).all()
    assert not lost_frames(500, 1, .9).any()
    x = floats(b=50)
    y = VideoNoise([(2, 0.)], drop=.3)(x, split_idx=0).as_subclass(torch.Tensor)
    black = (y == 0).flatten(2).all(2)
    assert black.any() and not black.all(1).any() and torch.equal(y[~black], x.as_subclass(torch.Tensor)[~black])

def test_in_loaders_it_acts_in_training_alone_and_just_before_normalize():
    dls = moving_shapes_dls(40, T=4, size=12, batch_tfms=VideoNoise(drop=.5), bs=8)
    names = [type(f).__name__ for f in dls.train.after_batch.fs]
    assert names == ['FloatVideo', 'VideoNoise', 'NormalizeVideo', 'ChannelsFirst']
    norm = dls.valid.after_batch.fs[2]
    black = ((0-norm.mean)/norm.std).flatten()[0].item()
    def share(dl): return np.mean([((x-black).abs() < 1e-5).flatten(3).all(3).float().mean().item() for x,_ in dl])
    assert share(dls.valid) == 0 and share(dls.train) > .2

def test_a_learner_trains_with_it_and_is_exported(tmp_path):
    seen = []
    class See(Callback):
        def after_pred(self): seen.append(tuple(self.x.shape))
    learn = Learner(moving_shapes_dls(40, T=4, size=12, batch_tfms=VideoNoise(), bs=8), tiny_c3d(c=2),
                    CrossEntropyLossFlat(), path=tmp_path)
    with learn.no_bar(): learn.fit(1, cbs=See())
    assert set(seen) == {(8, 1, 4, 12, 12)}
    learn.export()
    again = pickle.loads(pickle.dumps(VideoNoise('C1', drop=.2)))
    assert again.drop == .2 and again.noise.preset == 'C1'

def test_videonoise_refuses():
    for drop in (-.1, 1, 2.):
        with pytest.raises(ValueError, match=r'`drop` must be a probability in \[0,1\)'): VideoNoise(drop=drop)
    with pytest.raises(TypeError): VideoNoise(drop='some')
    with pytest.raises(ValueError, match='at least one'): VideoNoise([])
    with pytest.raises(ValueError, match=r'a batch of clips \(b,t,c,h,w\), got shape \(8, 1, 12, 10\)'):
        VideoNoise()(floats()[0], split_idx=0)
    with pytest.warns(RobustWarning, match='two VideoNoise act'):
        moving_shapes_dls(20, T=4, size=12, batch_tfms=[VideoNoise(), VideoNoise()])
