"video_learner: clips of files and arrays, trained weights, techniques, prediction by hand"
import math
import numpy as np
import pytest
import torch
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.mixup import MixUp
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.load import DataLoader
from fastai.learner import load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.torch_core import set_seed
from PIL import Image
from torch import nn
from torch.nn import functional as F
from conftest import tiny_dls
from fastrobust.learner import robust_learner
from fastrobust.losses import GCELoss
from fastrobust.systems.video.attack.blackbox import BlackBox
from fastrobust.systems.video.clip import TensorVideo
from fastrobust.systems.video.learner import HeadSplit, VideoLearner, video_learner
from fastrobust.systems.video.loaders import video_dls
from fastrobust.systems.video.moving import moving_shapes, moving_shapes_dls
from fastrobust.systems.video.networks import tiny_c3d
from fastrobust.systems.video.tfms import KINETICS, ChannelsFirst, FloatVideo, NormalizeVideo
from fastrobust.techniques.augmix import AugMix
from fastrobust.techniques.decoupling import Decoupling
from fastrobust.techniques.elr import ELR
from fastrobust.techniques.logitnorm import LogitNorm
from fastrobust.testing import first_batch

def shapes_dls(n=40, bs=8, **kwargs):
    set_seed(7)
    return moving_shapes_dls(n, T=4, size=12, classes=2, bs=bs, device='cpu', **kwargs)

def quiet(learn):
    learn.logger = lambda *a: None
    return learn

def shapes_learner(cbs=None, dls=None, **kwargs):
    dls = shapes_dls() if dls is None else dls
    set_seed(3)
    learn = quiet(video_learner(dls, 'tiny_c3d', cbs=cbs, **kwargs))
    learn.remove_cb(learn.progress)
    return learn

def tensors(n=12, c=3, t=4, size=8, bs=4):
    "Loaders of anything: (clip (c,t,h,w) as the network takes it, label) and no more, of 2 classes"
    g = torch.Generator().manual_seed(0)
    items = [(TensorVideo(torch.rand(c, t, size, size, generator=g)), i%2) for i in range(n)]
    return DataLoaders(*(DataLoader(items, bs=bs) for _ in range(2)), device='cpu')

# --- training -------------------------------------------------------------------------------------
def test_it_learns_which_way_a_shape_moves():
    "No single frame tells: chance is .5; of 10 seeds none was below .875"
    learn = shapes_learner(dls=shapes_dls(160, 16), lr=1e-2)
    learn.fit_one_cycle(12, 1e-2)
    loss,acc = learn.validate()
    assert acc >= .75 and loss < .4

def test_it_is_a_learner_like_any_other():
    learn = shapes_learner()
    assert isinstance(learn, VideoLearner)
    assert isinstance(learn.loss_func, CrossEntropyLossFlat)
    assert [m.name for m in learn.metrics] == ['accuracy']
    assert sum(p.numel() for p in learn.model.parameters()) == 17796 - 2*33

def test_a_look_at_the_data_draws_nothing():
    learn = shapes_learner()
    set_seed(3)
    want = tiny_c3d(n_out=2).state_dict()
    assert all(torch.equal(v.cpu(), want[k]) for k,v in learn.model.state_dict().items())

def test_loaders_that_say_nothing_get_cross_entropy():
    dls = tensors()
    dls.c = 2
    learn = quiet(video_learner(dls, 'r3d_18'))
    assert isinstance(learn.loss_func, CrossEntropyLossFlat) and learn.model.fc.out_features == 2
    del dls.c
    with pytest.raises(ValueError, match='expected the number of classes'): video_learner(dls, 'tiny_c3d')
    assert video_learner(dls, 'tiny_c3d', n_out=5).model[-1].out_features == 5

def test_a_plain_learner_on_torchvisions_network_trains():
    dls = tensors(t=2, size=16)
    learn = quiet(video_learner(dls, 'mc3_18', n_out=2))
    before = learn.model.stem[0].weight.detach().clone()
    with learn.no_bar(): learn.fit(1, 1e-2)
    assert not torch.equal(learn.model.stem[0].weight, before)

@pytest.mark.parametrize('to', ['to_fp16', 'to_bf16'])
def test_mixed_precision(to):
    learn = getattr(shapes_learner(), to)()
    learn.fit(1)
    assert any(isinstance(cb, MixedPrecision) for cb in learn.cbs)
    assert math.isfinite(learn.recorder.values[-1][1])

# --- trained weights ------------------------------------------------------------------------------
def coloured(n=16):
    "Loaders in colour without Normalize"
    X,y = moving_shapes(n, 4, 12, 2)
    return video_dls((X.repeat(3, -1), y), bs=8, stats=None, device='cpu')

def norms(dls): return [t for t in dls.train.after_batch.fs if isinstance(t, NormalizeVideo)]

@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('weights')/'tiny.pth'
    torch.save(tiny_c3d(n_out=9).state_dict(), path)
    return path

def test_fine_tune_trains_a_new_head_first_and_then_all(weights):
    learn = shapes_learner(weights=weights)
    assert learn.opt.frozen_idx == 1
    conv,head = (learn.model[k].weight for k in (4, -1))
    start = conv.detach().clone()
    assert torch.equal(start, torch.load(weights)['4.weight']) and not conv.requires_grad
    first = head.detach().clone()
    learn.freeze()
    learn.fit(1, 1e-2)
    assert torch.equal(conv, start) and not torch.equal(head, first)
    learn.fine_tune(1, 1e-2)
    assert not torch.equal(conv, start)

def test_what_starts_at_random_or_has_its_head_is_not_frozen(weights):
    for kw in (dict(), dict(n_out=9, weights=weights)):
        learn = shapes_learner(**kw)
        assert all(p.requires_grad for p in learn.model.parameters())

def test_the_splitter_gives_every_parameter_once():
    net = tiny_c3d(2)
    body,head = HeadSplit('13')(net)
    assert [id(p) for p in head] == [id(p) for p in net[13].parameters()]
    assert [id(p) for p in body+head] == [id(p) for p in net.parameters()]
    alone = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    assert len(HeadSplit('1')(alone)) == 1      # no body

def test_trained_weights_bring_their_statistics(tmp_path):
    from torchvision.models.video import mc3_18
    path = tmp_path/'mc3.pth'
    torch.manual_seed(0)
    torch.save(mc3_18().state_dict(), path)
    dls = coloured()
    raw = dls.valid.one_batch()[0]
    learn = video_learner(dls, 'mc3_18', weights=path)
    assert len(norms(dls)) == 1 and learn.opt.frozen_idx == 1
    mean,std = (torch.tensor(o).view(1, 3, 1, 1, 1) for o in KINETICS)
    x = dls.valid.one_batch()[0]
    assert torch.allclose(x, (raw-mean)/std, atol=1e-5)
    video_learner(dls, 'mc3_18', weights=path)
    assert len(norms(dls)) == 1
    random = coloured()
    video_learner(random, 'mc3_18')
    assert not norms(random)
    own = shapes_dls()
    kept = norms(own)[0].mean
    video_learner(own, 'mc3_18', weights=path)
    assert len(norms(own)) == 1 and torch.equal(norms(own)[0].mean, kept)

# --- prediction -----------------------------------------------------------------------------------
def test_predict_of_a_clip_by_hand():
    learn = shapes_learner()
    learn.fit(1)
    X,_ = moving_shapes(1, 4, 12, 2, seed=5)
    t = norms(learn.dls)[0]
    x = (torch.from_numpy(X).float()/255 - t.mean.item())/t.std.item()
    learn.model.eval()
    with torch.no_grad(): want = learn.model(x.permute(0, 4, 1, 2, 3)).softmax(1)[0]
    same = X[0],torch.from_numpy(X[0]).permute(0, 3, 1, 2),TensorVideo(torch.from_numpy(X[0]).permute(0, 3, 1, 2))
    for clip in same:
        name,code,p,spread = learn.predict(clip)
        assert torch.allclose(p, want, atol=1e-5)
        assert code == want.argmax() and name == ['right', 'left'][code]
        assert spread.isnan().all()     # one clip has none

def test_a_black_box_says_what_predict_says():
    learn = shapes_learner()
    learn.fit(1)
    X,_ = moving_shapes(1, 4, 12, 2, seed=5)
    clip = torch.from_numpy(X[0]).permute(3, 0, 1, 2)/255
    assert torch.allclose(BlackBox(learn, 1)(clip[None])[0], learn.predict(X[0])[2], atol=1e-5)

@pytest.fixture(scope='module')
def frames(tmp_path_factory):
    "A folder a class, with videos of 50 images: two seconds in which it grows lighter"
    root = tmp_path_factory.mktemp('frames')
    for k in ('a', 'b'):
        for i in range(3):
            folder = root/k/f'v{i}'
            folder.mkdir(parents=True)
            for j in range(50): Image.new('RGB', (10, 8), (4*j, 200-3*j, 10*i)).save(folder/f'{j:03}.png')
    return root

def files_dls(root): return video_dls(root, n=4, span=1., size=8, method='squish', bs=2, num_workers=0, device='cpu')

def test_predict_of_a_path_by_hand(frames):
    "Clips from 0, .5 and 1 s; frames every .25 s, 25 images a second"
    set_seed(3)
    learn = quiet(video_learner(files_dls(frames), 'tiny_c3d'))
    with learn.no_bar(): learn.fit(1, 1e-2)
    mean,std = (torch.tensor(o).view(3, 1, 1, 1) for o in KINETICS)
    clips = []
    for start in (0, .5, 1):
        js = [math.floor((start + .25*k)*25) for k in range(4)]
        x = torch.tensor([[4*j, 200-3*j, 20] for j in js]).T.view(3, 4, 1, 1).expand(3, 4, 8, 8)
        clips.append((x/255 - mean)/std)
    learn.model.eval()
    with torch.no_grad(): p = learn.model(torch.stack(clips)).softmax(1).double().numpy()
    for path in (frames/'a'/'v2', str(frames/'a'/'v2')):
        name,code,got,spread = learn.predict(path)
        assert np.allclose(got, p.sum(0)/3, atol=1e-5)
        want = [math.sqrt(sum((v - sum(col)/3)**2 for v in col)/2) for col in p.T]
        assert np.allclose(spread, want, atol=1e-5) and spread.min() > 1e-4
        assert code == p.sum(0).argmax() and name == 'ab'[code]
    middle = learn.predict(frames/'a'/'v2', clips=1)
    assert np.allclose(middle[2], p[1], atol=1e-5) and middle[3].isnan().all()

def test_export_predicts_the_same(frames, tmp_path):
    learn = quiet(video_learner(files_dls(frames), 'tiny_c3d', cbs=LogitNorm(.5)))
    learn.path = tmp_path
    with learn.no_bar(): learn.fit(1)
    want = learn.predict(frames/'b'/'v1')
    learn.export('video.pkl')
    back = load_learner(tmp_path/'video.pkl')
    assert isinstance(back, VideoLearner)
    got = back.predict(frames/'b'/'v1')
    assert got[0] == want[0] and all(torch.allclose(a, b, atol=1e-6) for a,b in zip(got[1:], want[1:]))

def test_predict_draws_nothing_and_leaves_the_weights(frames):
    learn = quiet(video_learner(files_dls(frames), 'tiny_c3d'))
    before = {k: v.clone() for k,v in learn.model.state_dict().items()}
    a,b = learn.predict(frames/'a'/'v0'),learn.predict(frames/'a'/'v0')
    assert all(torch.equal(x, y) for x,y in zip(a[1:], b[1:]))
    assert all(torch.equal(v, before[k]) for k,v in learn.model.state_dict().items())

def test_what_cannot_be_predicted(frames):
    learn = shapes_learner()
    with pytest.raises(ValueError, match='these dls hold arrays'): learn.predict(frames/'a'/'v0')
    files = video_learner(files_dls(frames), 'tiny_c3d')
    with pytest.raises(ValueError, match='nowhere.mp4'): files.predict(frames/'nowhere.mp4')
    for clips in (0, 1.5):
        with pytest.raises(ValueError, match='`clips` must be a whole number'): files.predict(frames/'a'/'v0', clips)
    with pytest.raises(ValueError, match='expected `a clip` as'): files.predict(torch.zeros(2, 3))

def test_show_results(frames):
    learn = video_learner(files_dls(frames), 'tiny_c3d')
    with learn.no_bar(): learn.show_results()
    learn.dls.show_batch()

# --- techniques -----------------------------------------------------------------------------------
def test_logit_norm_on_clips_by_hand():
    z,y,loss = first_batch(shapes_learner(LogitNorm(.5)))
    z = z.double()
    rows = [row/(.5*(row.norm() + 1e-7)) for row in z]
    want = sum(-F.log_softmax(row, 0)[k].item() for row,k in zip(rows, y))/len(y)
    assert loss.item() == pytest.approx(want, abs=1e-5)

def test_gce_on_clips_by_hand():
    z,y,loss = first_batch(shapes_learner(loss_func=GCELoss(.7)))
    p = z.double().softmax(1)
    want = sum((1 - p[i, k].item()**.7)/.7 for i,k in enumerate(y))/len(y)
    assert loss.item() == pytest.approx(want, abs=1e-5)

@pytest.mark.parametrize('make', [LogitNorm, ELR, Decoupling, MixUp])
@pytest.mark.filterwarnings('ignore:this fit ends after epoch')
def test_techniques_train_and_fine_tune(make, weights):
    "Losses, memories of items, two networks, mixed clips: a frozen body stays, in each network"
    learn = shapes_learner(make(), weights=weights)
    def state(): return {k: v.clone() for k,v in learn.model.state_dict().items() if v.ndim > 1}
    learn.freeze()
    learn.fit(1, 1e-2)
    frozen = state()
    start = torch.load(weights)['4.weight']
    bodies = [v for k,v in frozen.items() if k.endswith('4.weight')]
    assert len(bodies) == 1 + (make is Decoupling) and any(torch.equal(v, start) for v in bodies)
    learn.fine_tune(1, 1e-2)
    assert all(not torch.equal(v, frozen[k]) for k,v in state().items())
    probs,_ = learn.get_preds()
    assert torch.allclose(probs.sum(1), torch.ones(len(probs)), atol=1e-5)
    assert learn.predict(learn.dls.valid_ds[0][0])[0] in ('right', 'left')

def test_what_is_for_images_alone_says_so():
    with pytest.raises(ValueError, match='augmix expected images'): shapes_learner(AugMix()).fit(1)

def test_techniques_are_checked_when_it_is_made():
    with pytest.raises(ValueError, match='LogitNorm'): shapes_learner([LogitNorm(), LogitNorm()])

def test_robust_learner_makes_one():
    learn = robust_learner(shapes_dls(), 'tiny_c3d', LogitNorm(), learner_func=video_learner)
    assert isinstance(learn, VideoLearner) and learn.model[-1].out_features == 2

# --- refusals -------------------------------------------------------------------------------------
def test_loaders_that_hold_no_clips_are_refused():
    with pytest.raises(TypeError, match=r'expected DataLoaders whose first input is a batch of clips'):
        video_learner(tiny_dls(), 'tiny_c3d')
    with pytest.raises(TypeError, match='The data come first'): video_learner('r3d_18', tiny_dls())

def test_networks_that_do_not_fit_are_refused():
    dls = shapes_dls()
    with pytest.raises(ValueError, match='s3d needs 5 frames of 17x17'): video_learner(dls, 's3d')
    with pytest.raises(ValueError, match=r'a row of 2 outputs for each clip from your Sequential, got \(1, 4\)'):
        video_learner(dls, tiny_c3d())
    with pytest.raises(ValueError, match='expected clips that your Sequential can take'):
        video_learner(dls, tiny_c3d(channels=3, n_out=2))

@pytest.mark.slow
def test_mvit_says_which_clips_it_takes():
    with pytest.raises(ValueError, match=r'VideoBlock\(n=16, size=224\)'): video_learner(shapes_dls(), 'mvit_v2_s')

def test_loaders_of_yours_need_two_transforms():
    g = torch.Generator().manual_seed(0)
    items = [(TensorVideo(torch.randint(256, (4, 1, 8, 8), generator=g, dtype=torch.uint8)), i%2) for i in range(8)]
    def loaders(*tfms):
        return DataLoaders(*(TfmdDL(items, bs=4, after_batch=list(tfms)) for _ in range(2)), device='cpu')
    learn = quiet(video_learner(loaders(FloatVideo(), ChannelsFirst()), 'tiny_c3d', n_out=2))
    with learn.no_bar(): learn.fit(1)
    assert learn.model[0].in_channels == 1
    with pytest.raises(TypeError, match='FloatVideo and ChannelsFirst'): video_learner(loaders(), 'tiny_c3d', n_out=2)
