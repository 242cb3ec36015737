"The attack: counted questions, NES against its theory, masks, budgets, the ball; what it leaves as it was"
import math, pickle, random
import numpy as np
import pytest
import torch
from scipy.stats import rankdata
from torch import nn
from fastai.callback.core import Callback
from fastai.callback import schedule  # noqa: F401, for fit_one_cycle
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.transforms import Normalize
from fastai.learner import Learner, load_learner
from fastai.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat, LabelSmoothingCrossEntropyFlat
from fastai.torch_core import get_random_states, set_seed
from fastrobust.basics import RobustWarning
from fastrobust.systems.video.attack.blackbox import BlackBox, BudgetExceeded
from fastrobust.systems.video.attack.labels import clip_generator
from fastrobust.systems.video.attack.loop import VideoAttack
from fastrobust.systems.video.attack.masks import (CentreBox, DenseMasks, Masks, MotionMask, RandomMasks, corners,
                                                         grid_boxes)
from fastrobust.systems.video.attack.nes import log_score, nes_gradient, rank_weights
from fastrobust.systems.video.attack.steps import Ball, Patience, StepSize
from fastrobust.systems.video.attack.whitebox import sign_noise, true_gradient, white_box_pgd
from fastrobust.systems.video.moving import moving_shapes, moving_shapes_dls
from fastrobust.systems.video.networks import tiny_c3d

SHAPE = 2,4,6,6
N_PIX = math.prod(SHAPE)

def some_clips(n=3, shape=SHAPE, seed=0): return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))

class Lines(nn.Module):
    "Logits linear in the pixels: classes 0 and 1 along -w and w, others far below"
    def __init__(self, w, margin, clip, k=2):
        super().__init__()
        # class 0 leads by `margin` at `clip`
        self.w = nn.Parameter(w)
        self.b,self.k = margin + (w*clip).sum().item(),k
    def forward(self, x):
        d = (x*self.w).flatten(1).sum(1) - self.b
        return torch.stack([-d/2, d/2, *[torch.full_like(d, -30.)]*(self.k-2)], 1)

def lines(margin=1., scale=1., k=2, seed=1):
    "A linear victim, a clip away from the borders, its class 0"
    g = torch.Generator().manual_seed(seed)
    x = .3 + .4*torch.rand(1, *SHAPE, generator=g)
    w = scale*torch.randn(SHAPE, generator=g)/N_PIX**.5
    return Lines(w, margin, x[0], k),x,torch.tensor([0])

class Counter:
    "A function of numpy clips that counts what it is sent"
    def __init__(self, net, stop_at=None): self.net,self.n,self.stop_at = net,0,stop_at
    def __call__(self, a):
        assert isinstance(a, np.ndarray) and a.dtype == np.float32 and a.min() >= 0 and a.max() <= 1
        self.n += len(a)
        if self.stop_at and self.n >= self.stop_at: raise KeyboardInterrupt
        p = self.net(torch.from_numpy(a)).softmax(1).detach().numpy()
        a[:] = 0        # must be a copy
        return p

def constant(a): return np.tile(np.float32([.5, .3, .2]), (len(a), 1))

# --- the black box ---------------------------------------------------------------------------------------------------
def test_it_counts_before_it_asks_and_never_beyond():
    net,x,_ = lines()
    f = Counter(net)
    box = BlackBox(f, budget=7, bs=2, record=True)
    assert box.left == 7 and torch.allclose(box(x.expand(5, -1, -1, -1, -1)), net(x).softmax(1).expand(5, 2))
    with pytest.raises(BudgetExceeded, match='at most 2 more clips of a budget of 7, got 3'): box(x.expand(3, *SHAPE))
    assert f.n == box.used == 5 and box.left == 2
    p = box(x.expand(2, *SHAPE).numpy())
    assert box.left == 0 and f.n == 7 and p.dtype == torch.float32
    assert [u for u,_ in box.log] == [5, 7] and torch.equal(box.log[1][1], p)
    with pytest.raises(BudgetExceeded): box(x)
    broken = BlackBox(lambda a: 1/0, budget=3)
    with pytest.raises(ZeroDivisionError): broken(x)
    assert broken.used == 1 and BlackBox(net).left is None

def test_networks_give_logits_or_probabilities():
    net,x,_ = lines()
    want = net(x).softmax(1).detach()
    assert torch.equal(BlackBox(net)(x), want)
    assert torch.allclose(BlackBox(nn.Sequential(net, nn.Softmax(1)))(x), want)
    class Two(nn.Module):
        def forward(self, x): return net(x),x
    assert torch.equal(BlackBox(Two())(x), want)
    half = nn.Sequential(nn.Flatten(), nn.Linear(N_PIX, 3)).to(torch.bfloat16)
    p = BlackBox(half)(x)
    assert p.dtype == torch.float32 and p.sum().item() == pytest.approx(1, abs=1e-6)
    mean,std = torch.tensor([.2, .4]),torch.tensor([.5, 2.])
    byhand = (x - mean[None, :, None, None, None])/std[None, :, None, None, None]
    want = net(byhand).softmax(1).detach()
    for normalize in ((mean, std), ([.2, .4], (.5, 2.)), lambda v: (v - mean.view(2, 1, 1, 1))/std.view(2, 1, 1, 1)):
        assert torch.allclose(BlackBox(net, normalize=normalize)(x), want)
    assert torch.allclose(BlackBox(lambda a: net(torch.from_numpy(a)).softmax(1), normalize=(mean, std))(x), want)

def test_once_logits_always_logits():
    "A later batch that happens to sum to 1 is not read in another way"
    class Odd(nn.Module):
        calls = 0
        def forward(self, x):
            self.calls += 1
            return torch.tensor([[2., 1.]] if self.calls == 1 else [[.25, .75]]).expand(len(x), 2)
    box,x = BlackBox(Odd()),some_clips(1)
    box(x)
    assert torch.allclose(box(x), torch.tensor([[.25, .75]]).softmax(1))
    class Back(Odd):
        def forward(self, x):
            self.calls += 1
            return torch.tensor([[.25, .75]] if self.calls == 1 else [[2., 1.]]).expand(len(x), 2)
    box = BlackBox(Back())
    box(x)
    with pytest.raises(ValueError, match='look like logits'): box(x)

def a_learner(net, mean=None, std=None, shape=None, loss=None, cbs=None):
    "A Learner on clips with a Normalize of its own"
    items = [(o, torch.tensor(i % 2)) for i,o in enumerate(some_clips(4))]
    tfms = [] if mean is None else [Normalize(mean.view(shape), std.view(shape))]
    dls = DataLoaders(*[TfmdDL(items, bs=2, after_batch=tfms) for _ in range(2)])
    dls.c = 2
    return Learner(dls, net, loss_func=loss or CrossEntropyLossFlat(), cbs=cbs)

@pytest.mark.parametrize('shape', [(1, 1, 2, 1, 1), (1, 2, 1, 1, 1), (1, 2, 1, 1)])
def test_a_learner_has_its_own_normalize_and_activation(shape):
    net,x,_ = lines()
    mean,std = torch.tensor([.2, .4]),torch.tensor([.5, 2.])
    learn = a_learner(net, mean, std, shape)
    byhand = net((x-mean.view(1, 2, 1, 1, 1))/std.view(1, 2, 1, 1, 1))
    assert torch.allclose(BlackBox(learn)(x), byhand.softmax(1))
    learn.loss_func.activation = lambda z: (z/3).softmax(1)
    assert torch.allclose(BlackBox(learn)(x), (byhand/3).softmax(1))
    # other losses say nothing of probabilities
    learn.loss_func = nn.CrossEntropyLoss()
    assert torch.allclose(BlackBox(learn)(x), byhand.softmax(1))
    with pytest.raises(ValueError, match='no `normalize` with a Learner'): BlackBox(learn, normalize=(mean, std))
    learn = a_learner(nn.Sequential(nn.Flatten(), nn.Linear(N_PIX, 3)), mean, std, shape, BCEWithLogitsLossFlat())
    with pytest.raises(ValueError, match='one right class a clip'): BlackBox(learn)(x)
    with pytest.raises(ValueError, match='mean of one number or one for each of 1 channels, got 2'):
        BlackBox(learn)(some_clips(1, (1, 4, 6, 6)))

def test_a_learner_of_clips_answers_as_get_preds_does(tmp_path):
    "The whole way: uint8 (t,c,h,w) items, FloatVideo, NormalizeVideo, ChannelsFirst; exported and loaded too"
    dls = moving_shapes_dls(n=30, T=4, size=12, bs=6, valid=.4)
    learn = Learner(dls, tiny_c3d(4), loss_func=CrossEntropyLossFlat())
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    p,_ = learn.get_preds()
    clips = torch.stack([torch.as_tensor(np.asarray(dls.valid_ds[i][0])) for i in range(12)])
    x = clips.float().transpose(1, 2)/255       # (n,t,c,h,w) to (n,c,t,h,w)
    assert x.shape == (12, 1, 4, 12, 12)
    assert torch.allclose(BlackBox(learn)(x), p, atol=1e-5) and p.std() > .01
    learn.export(tmp_path/'a.pkl')
    assert torch.allclose(BlackBox(load_learner(tmp_path/'a.pkl'))(x), p, atol=1e-5)

def test_labels_alone_are_refused_with_the_reason():
    x = some_clips(4)
    for f in (lambda a: np.eye(3)[[0]*len(a)], lambda a: np.eye(3, dtype=int)[[1]*len(a)],
              lambda a: np.eye(3, dtype=bool)[[1]*len(a)]):
        with pytest.raises(ValueError, match='got rows of 0 and 1 alone. Labels, .*nothing to follow'): BlackBox(f)(x)
    for f in (lambda a: np.zeros(len(a), dtype=int), lambda a: [1]*len(a), lambda a: torch.zeros(len(a))):
        with pytest.raises(ValueError, match='Class numbers alone .*nothing to follow'): BlackBox(f)(x)
    answers = iter([np.float32([[.6, .4]]), np.float32([[1, 0]])])
    box = BlackBox(lambda a: next(answers))     # one that is sure once has said more before
    box(x[:1])
    assert box(x[:1]).tolist() == [[1, 0]]

ROWS = {'sum': (lambda a: np.full((len(a), 3), .3), r'sum to 1, got 0\.9 in row 0'),
        'nan': (lambda a: np.full((len(a), 3), np.nan), 'NaN or infinity for 2 of 2'),
        'logits': (lambda a: np.tile([3., -1.], (len(a), 1)), r'\[-1, 3\]. These look like logits'),
        'negative': (lambda a: np.tile([1.2, -.2], (len(a), 1)), r'got \[-0.2, 1.2\]'),
        'rows': (lambda a: np.full((len(a)+1, 2), .5), r'\(2,k\) with k >= 2, got \(3, 2\)'),
        'one column': (lambda a: np.ones((len(a), 1)), r'got \(2, 1\)'),
        'none': (lambda a: None, 'expected')}

@pytest.mark.parametrize('k', ROWS)
def test_rows_that_are_no_probabilities(k):
    f,says = ROWS[k]
    with pytest.raises((ValueError, TypeError), match=says): BlackBox(f)(some_clips(2))

def test_rows_up_to_their_rounding():
    third = np.float16([.3333, .3333, .3333])
    assert BlackBox(lambda a: np.tile(third, (len(a), 1)))(some_clips(2)).shape == (2, 3)
    BlackBox(lambda a: np.tile([.5004, .5004], (len(a), 1)))(some_clips(2))
    with pytest.raises(ValueError, match='sum to 1'):
        BlackBox(lambda a: np.tile([.501, .501], (len(a), 1)))(some_clips(2))
    nan = nn.Sequential(nn.Flatten(), nn.Linear(N_PIX, 3))
    nn.init.constant_(nan[1].weight, math.nan)
    with pytest.raises(ValueError, match='finite .*Has the training diverged'): BlackBox(nan)(some_clips(2))

CLIPS = {'list': ([1, 2], TypeError, 'torch.stack'), 'one': (torch.rand(SHAPE), ValueError, r'clip\[None\]'),
         'bytes': (torch.zeros(1, *SHAPE, dtype=torch.uint8), ValueError, 'Divide by 255: clips.float'),
         'normalised': (2*torch.ones(1, *SHAPE), ValueError, r'got \[2, 2\]. Divide by 255, or undo Normalize'),
         'nan': (torch.full((1, *SHAPE), math.nan), ValueError, 'finite pixels .* Look for NaN'),
         'infinite': (torch.full((1, *SHAPE), math.inf), ValueError, 'Look for NaN'),
         'none': (torch.rand(0, *SHAPE), ValueError, 'at least one clip')}

@pytest.mark.parametrize('k', CLIPS)
def test_clips_that_are_none(k):
    clips,err,says = CLIPS[k]
    box = BlackBox(constant, budget=5)
    with pytest.raises(err, match=says): box(clips)
    assert box.used == 0
    for f in (VideoAttack(DenseMasks()).attack, sign_noise):
        with pytest.raises(err, match=says): f(constant, clips, [0])

def test_what_cannot_be_asked():
    for f in (None, 3, 'resnet', nn.Linear): pytest.raises(TypeError, BlackBox, f)
    for bad in (0, -1, 2.5, True, '9'): pytest.raises(ValueError, BlackBox, constant, bad)
    with pytest.raises(ValueError, match='`bs`'): BlackBox(constant, bs=0)
    with pytest.raises(TypeError, match='`normalize` must be a pair'): BlackBox(constant, normalize=.5)
    with pytest.raises(TypeError, match='`record`'): BlackBox(constant, record=1)
    assert repr(BlackBox(constant, 2000)) == 'BlackBox: function, 0 of 2,000 clips asked'

# --- P10: it leaves everything as it was -----------------------------------------------------------------------------
def a_network():
    torch.manual_seed(5)
    net = nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.Dropout(.5),
                        nn.AdaptiveAvgPool3d(2), nn.Flatten(), nn.Linear(32, 3))
    net.train()
    net[1].eval()
    net(some_clips(2)).sum().backward()
    return net

def state(net):
    return ([m.training for m in net.modules()], [p.grad.clone() for p in net.parameters()],
            {k: v.clone() for k,v in net.state_dict().items()}, [p.requires_grad for p in net.parameters()])

def same(a, b):
    return (a[0] == b[0] and all(map(torch.equal, a[1], b[1])) and a[3] == b[3]
            and all(torch.equal(v, b[2][k]) for k,v in a[2].items()))

class Unruly(Masks):
    "Draws from the streams of everybody, and trains something"
    def begin(self, clip, gen):
        super().begin(clip, gen)
        self.p = torch.zeros(3, requires_grad=True)
    def draw(self):
        torch.rand(3), np.random.rand(3), random.random()
        return torch.ones(self.shape, dtype=torch.bool)
    def told(self, before, after, y, target=None):
        assert before.shape == after.shape == (3,) and not after.requires_grad
        (self.p*2).sum().backward()         # gradients are on

@pytest.mark.parametrize('door', ['module', 'learner'])
def test_modes_gradients_buffers_and_streams_stay(door):
    net = a_network()
    model = a_learner(net) if door == 'learner' else net
    x = some_clips(2)
    y = BlackBox(model)(x).argmax(1)
    before,streams,clips = state(net),get_random_states(),x.clone()
    box = BlackBox(model)
    assert torch.equal(box(x), box(x))      # no dropout
    r = VideoAttack(Unruly(), n=4, budget=40).attack(model, x, y)
    assert r.queries.min() > 1
    white_box_pgd(model, x, y, steps=2), sign_noise(model, x, y)
    with torch.no_grad(): VideoAttack(Unruly(), n=4, budget=40).attack(model, x, y)
    assert same(before, state(net)) and torch.equal(x, clips)
    now = get_random_states()
    assert torch.equal(streams['torch_state'], now['torch_state']) and streams['random_state'] == now['random_state']
    assert (streams['numpy_state'][1] == now['numpy_state'][1]).all()
    class Broken(Masks):
        def draw(self): raise RuntimeError('mine')
    with pytest.raises(RuntimeError, match='mine'): VideoAttack(Broken(), n=4, budget=40).attack(model, x, y)
    assert same(before, state(net))

def test_callbacks_of_a_learner_do_not_run():
    class Loud(Callback):
        def before_batch(self): raise RuntimeError('ran')
    learn = a_learner(a_network(), cbs=Loud())
    x = some_clips(2)
    VideoAttack(DenseMasks(), n=2, budget=8).attack(learn, x, BlackBox(learn)(x).argmax(1))

# --- NES -------------------------------------------------------------------------------------------------------------
def slow_nes(score, x, mask, n, sigma, rank, seed):
    "The sums of the definition, a sample at a time, float64"
    gen = torch.Generator().manual_seed(seed)
    us = []
    flat = mask.expand_as(x).flatten().numpy()
    draws = torch.randn(n//2, int(flat.sum()), generator=gen, dtype=x.dtype).numpy()
    for d in draws:
        u = np.zeros(x.numel())
        u[flat] = d
        us.append(u)
    us += [-u for u in us]
    s = [score((x.flatten() + sigma*torch.from_numpy(u)).view(1, *x.shape)).item() for u in us]
    ranks = rankdata(s) - 1                 # ties get their mean
    total = np.zeros(x.numel())
    for u,v,r in zip(us, s, ranks): total += u*(r/(n-1) if rank else v/(n*sigma))
    return total.reshape(x.shape)

@pytest.mark.parametrize('rank', [True, False])
def test_nes_is_the_sum_of_its_definition(rank):
    g = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 4, 4, generator=g, dtype=torch.float64)
    w = torch.randn(x.shape, generator=g, dtype=torch.float64)
    mask = torch.rand(3, 4, 4, generator=g) < .4
    def score(xs): return ((xs*w).flatten(1).sum(1)*4).round()/4       # with ties
    before = x.clone()
    got = nes_gradient(score, x, mask, 20, .1, rank, 7)
    assert got.numpy() == pytest.approx(slow_nes(score, x, mask, 20, .1, rank, 7), abs=1e-12)
    assert (got[:, ~mask] == 0).all() and (got[:, mask] != 0).all() and torch.equal(x, before)
    again = nes_gradient(score, x, mask, 20, .1, rank, torch.Generator().manual_seed(7))
    assert torch.equal(got, again) and not torch.equal(got, nes_gradient(score, x, mask, 20, .1, rank, 8))

@pytest.mark.parametrize('m,d', [(30, 50), (5, 200), (100, 10)])
def test_the_cosine_on_a_linear_score(m, d):
    "P3: E cos = sqrt(m/(m+d+1)), from E g = a and E |g|^2 = (m+d+1)/m |a|^2, which are exact"
    a = torch.randn(d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x,gen,cos,along,square = torch.zeros(d, dtype=torch.float64),torch.Generator().manual_seed(2),[],[],[]
    for _ in range(1500):
        g = nes_gradient(lambda xs: xs@a, x, None, 2*m, .02, False, gen)
        cos.append((g@a/g.norm()/a.norm()).item())
        along.append((g@a/(a@a)).item())
        square.append((g@g/(a@a)).item())
    def near(v, want, more=0): return abs(np.mean(v)-want) < 4*np.std(v)/len(v)**.5 + more
    assert near(along, 1) and near(square, (m+d+1)/m)
    assert near(cos, math.sqrt(m/(m+d+1)), .012)

def test_ranks_cost_little_of_the_cosine():
    "The correlation of the differences of normal scores' ranks with the differences: about .98"
    d,m = 50,30
    a = torch.ones(d, dtype=torch.float64)
    gen = torch.Generator().manual_seed(3)
    def cosine(): return torch.cosine_similarity(nes_gradient(lambda xs: xs@a, 0*a, n=2*m, seed=gen), a, 0).item()
    cos = [cosine() for _ in range(600)]
    want = math.sqrt(m/(m+d+1))
    assert want-.03 < np.mean(cos) < want+.01

def test_a_score_that_says_nothing_gives_the_known_spread():
    "Value 14: 2.2928 for n=60; and mean 0"
    gen,found = torch.Generator().manual_seed(4),[]
    for _ in range(500):
        g = nes_gradient(lambda xs: torch.rand(len(xs), generator=gen), torch.zeros(400), n=60, seed=gen)
        found.append(g)
    g = torch.stack(found)
    v = 61/(12*59)
    want = math.sqrt(30*2*v*60/59)
    assert want == pytest.approx(2.2928, abs=1e-4)
    per_seed = g.square().mean(1)
    se = (per_seed.std()/500**.5).item()
    assert per_seed.mean().item() == pytest.approx(want**2, abs=4*se) and se < .06
    assert g.mean().item() == pytest.approx(0, abs=4*want/(500*400)**.5)

def test_ranks_share_ties_and_sum_to_half():
    "P9, and P4: no position is preferred"
    for s in (torch.rand(60), torch.zeros(60), torch.tensor([3., 1, 1, 2]), torch.randint(0, 4, (31,)).float(),
              torch.tensor([0., 1]), torch.tensor([1e-9, 0, 1e9]).double()):
        w = rank_weights(s)
        assert w.sum().item() == pytest.approx(len(s)/2, rel=1e-5) and w.dtype == s.dtype
        assert w.tolist() == pytest.approx((rankdata(s.numpy())-1)/(len(s)-1), abs=1e-6)
    assert (nes_gradient(lambda xs: torch.ones(len(xs)), torch.rand(3, 4)) == 0).all()
    assert (nes_gradient(lambda xs: torch.ones(len(xs)), torch.rand(3, 4).double(), rank=False).abs() < 1e-9).all()

def test_scores():
    p = torch.tensor([[.5, .3, .2], [.1, .2, .7], [1., 0., 0.]])
    assert log_score(p, 0).tolist()[:2] == pytest.approx([math.log(.3/.5), math.log(7)], rel=1e-5)
    assert log_score(p, 0)[2].isfinite() and log_score(p, 0)[2] < -80
    want = [.9*math.log(q[2]) - .1*math.log(q[0]) for q in p[:2].tolist()]
    assert log_score(p, 0, 2).tolist()[:2] == pytest.approx(want, rel=1e-5)

BAD = [(dict(n=3), 'must be even'), (dict(n=0), '`n`'), (dict(n=True), '`n`'), (dict(sigma=0), '`sigma`'),
       (dict(sigma=math.nan), '`sigma`'), (dict(sigma='1'), '`sigma`'), (dict(rank=1), '`rank`'),
       (dict(seed=.5), '`seed`'),
       (dict(mask=torch.ones(4)), 'True and False'), (dict(mask=[True]), 'True and False'),
       (dict(mask=torch.ones(5, dtype=torch.bool)), r'fits \(3, 4\), got \(5,\)'),
       (dict(mask=torch.zeros(3, 4, dtype=torch.bool)), 'a pixel in it'),
       (dict(score=lambda xs: xs), r'\(60,\), got \(60, 3, 4\)'), (dict(score=lambda xs: 1), 'got int'),
       (dict(score=lambda xs: xs.sum((1, 2))/0), 'finite scores'), (dict(x=torch.ones(3).long()), '`x`'),
       (dict(x=[1.]), '`x`')]

@pytest.mark.parametrize('given,says', BAD, ids=[f'{next(iter(o))}-{i}' for i,(o,_) in enumerate(BAD)])
def test_nes_at_the_door(given, says):
    with pytest.raises((ValueError, TypeError), match=says):
        nes_gradient(**{**dict(score=lambda xs: xs.sum((1, 2)), x=torch.rand(3, 4)), **given})

def test_nothing_is_asked_for_settings_that_are_wrong():
    asked = []
    with pytest.raises(TypeError, match='`rank`'): nes_gradient(lambda xs: asked.append(1), torch.rand(3), rank='yes')
    assert not asked

# --- masks -----------------------------------------------------------------------------------------------------------
def begun(masks, clip, seed=0):
    masks.begin(clip, torch.Generator().manual_seed(seed))
    return masks

def test_boxes_of_the_paper():
    "4.2: 65 of 112, corners 0,7,15,23,31,39,47; value 16: areas .336814 and, in 10 of 16 frames, .210509"
    assert corners(112, .58, 7) == [0, 7, 15, 23, 31, 39, 47]
    boxes = grid_boxes(112, 112, 7, .58)
    assert boxes.shape == (49, 112, 112) and (boxes.sum((1, 2)) == 65**2).all()
    assert boxes[8, 7:72, 7:72].all() and boxes[48, 47:, 47:].all() and boxes[1, :65, 7:72].all()
    clip = torch.rand(3, 16, 112, 112)
    m = begun(RandomMasks(), clip)
    drawn = [m.draw() for _ in range(5)]
    assert all(o.float().mean().item() == pytest.approx(.210509, abs=1e-6) for o in drawn)
    assert all(o.any(2).any(1).sum() == 10 for o in drawn) and not torch.equal(drawn[0], drawn[1])
    box = begun(CentreBox(), clip).draw()
    assert box.float().mean().item() == pytest.approx(.336814, abs=1e-6)
    assert box[:, 23:88, 23:88].all()
    assert begun(DenseMasks(), clip).draw().all()
    assert grid_boxes(5, 9, 1, 1.).all() and grid_boxes(5, 9, 3, .01).sum() == 9

def test_random_boxes_go_everywhere_alike():
    m = begun(RandomMasks(grid=3, patch=.4, frames=.5), torch.rand(1, 4, 10, 10))
    boxes = grid_boxes(10, 10, 3, .4)
    hits,frames = torch.zeros(9),torch.zeros(4)
    for _ in range(900):
        mask = m.draw()
        for t in mask.flatten(1).any(1).nonzero()[:, 0]:
            frames[t] += 1
            hits += (boxes == mask[t]).flatten(1).all(1)
    assert hits.sum() == 1800 and (hits-200).abs().max() < 5*200**.5
    assert (frames-450).abs().max() < 5*225**.5
    again = begun(m, torch.rand(1, 4, 10, 10), 3).draw()
    assert torch.equal(again, begun(m, torch.rand(1, 4, 10, 10), 3).draw())

def test_motion_is_where_pixels_change():
    clip = torch.zeros(1, 5, 8, 8)
    clip[0, 2, 3:5, 3:5] = 1                # appears in frame 2, gone in 3
    mask = begun(MotionMask(area=12/320), clip).draw()
    want = torch.zeros(5, 8, 8, dtype=torch.bool)
    want[1:4, 3:5, 3:5] = True
    assert torch.equal(mask, want)
    still = torch.full((3, 5, 8, 8), .5)    # nothing moves: chance decides, no frame is preferred
    frames = sum(begun(MotionMask(.2), still, s).draw().sum((1, 2)) for s in range(50))
    assert frames.sum() == 50*64 and frames.min() > 400
    both = begun(MotionMask(1.), still)
    assert both.draw().all()
    both.draw().zero_()
    assert both.draw().all()                # nobody else's to change

def test_masks_at_the_door():
    for make in (lambda v: RandomMasks(patch=v), lambda v: RandomMasks(frames=v), CentreBox, MotionMask):
        for v in (0, 1.1, -1, math.nan, '1', None, True): pytest.raises((ValueError, TypeError), make, v)
    for v in (0, 1.5, None): pytest.raises(ValueError, RandomMasks, v)
    for bad in (None, 'dense', DenseMasks, object()):
        with pytest.raises(TypeError, match='`masks` must say where'): VideoAttack(bad)
    class Odd(Masks):
        def draw(self): return torch.ones(3, 3)
    with pytest.raises(ValueError, match=r'shape of the clip \(4, 6, 6\), got torch.float32 \(3, 3\)'):
        VideoAttack(Odd()).attack(*lines())

# --- the attack ------------------------------------------------------------------------------------------------------
ALL = DenseMasks(),RandomMasks(grid=3),CentreBox(),MotionMask()

@pytest.mark.parametrize('masks', ALL, ids=lambda o: type(o).__name__)
@pytest.mark.parametrize('step', ['raw', 'sign'])
def test_in_the_ball_in_the_masks_and_counted(masks, step):
    "P1 and P2"
    net,x,y = lines(margin=9.)
    f = Counter(net)
    x = x.repeat(3, 1, 1, 1, 1)
    x[1, :, :, :3],x[2, :, :, :3] = 0,1     # at both ends
    before = x.clone()
    y = BlackBox(net)(x).argmax(1)
    r = VideoAttack(masks, n=10, budget=200, step=step, eps=.07).attack(f, x, y)
    assert r.finished == len(r) == 3 and f.n == r.queries.sum() and torch.equal(x, before)
    assert (r.adv-x).abs().max() <= .07+1e-6 and r.adv.min() >= 0 and r.adv.max() <= 1
    out = r.masks == 0
    for c in range(2): assert torch.equal(r.adv[:, c][out], x[:, c][out])
    assert r.adv.ne(x).any() and r.adv.dtype == x.dtype and r.adv.shape == x.shape
    assert (r.queries == 1 + 11*((200-1)//11)).all() == (not r.success.any())
    d = (r.adv-x).abs().flatten(1).double()
    assert r.map == pytest.approx(255*d.mean(1).numpy(), rel=1e-6)
    assert r.touched == pytest.approx([(a != b).any(0).float().mean().item() for a,b in zip(r.adv, x)])
    assert r.area == pytest.approx(r.masks.flatten(1).mean(1).double().numpy(), rel=1e-4)
    want = torch.stack([net(o[None])[0] for o in r.adv]).argmax(1).numpy()
    assert (r.answers == want).all() and (r.success == (want != y.numpy())).all()

@pytest.mark.parametrize('n,budget,want', [(60, 62, 62), (60, 122, 62), (60, 123, 123), (4, 6, 6), (4, 100, 96),
                                           (2, 4, 4), (60, 1000, 977)])
def test_the_budget_to_the_clip(n, budget, want):
    x = some_clips(1)
    box = BlackBox(constant)
    r = VideoAttack(DenseMasks(), n=n, budget=budget).attack(box, x, [0])
    assert r.queries.tolist() == [want] == [box.used] and r.ends == ['budget'] and 1 + (n+1)*len(r.path[0][1:]) == want
    with pytest.raises(ValueError, match=f'`budget` .*from {n+2} on'): VideoAttack(DenseMasks(), n=n, budget=n+1)

@pytest.mark.parametrize('budget,want', [(15000, 1+61*245), (30000, 1+61*491)])
def test_the_papers_caps_are_kept(budget, want):
    "Value 16: its code asks 15,007 and 30,013 times"
    r = VideoAttack(DenseMasks(), budget=budget, patience=None).attack(constant, some_clips(1, (1, 2, 3, 3)), [0])
    assert r.queries.tolist() == [want] and want+61 in (15007, 30013)

def test_a_black_box_with_a_budget_of_its_own():
    x = some_clips(4)
    box = BlackBox(constant, budget=25)
    with pytest.warns(RobustWarning, match=r'3 questions left, fewer than a clip needs \(6\): 2 of 4 clips'):
        r = VideoAttack(DenseMasks(), n=4, budget=11).attack(box, x, [0]*4)
    assert r.queries.tolist() == [11, 11] and box.used == 22 and r.asked == 4 and len(r.adv) == 2
    box = BlackBox(constant, budget=25)
    with pytest.warns(RobustWarning, match='4 questions left'):
        r = VideoAttack(DenseMasks(), n=4, budget=1000).attack(box, x, [0]*4)
    assert r.queries.tolist() == [21]

def test_a_constant_model_is_never_fooled():
    "P4: no gradient, and nothing changes"
    x = some_clips(2)
    r = VideoAttack(DenseMasks(), n=10, budget=300).attack(constant, x, [0, 0])
    assert r.fooling_rate == 0 and torch.equal(r.adv, x) and (r.map == 0).all() and (r.touched == 0).all()
    r = VideoAttack(DenseMasks(), n=2, budget=3000).attack(constant, x, [0, 0])
    assert r.ends == ['patience']*2 and r.queries.tolist() == [1 + 3*120]*2

def test_without_a_ball_nothing_changes():
    "P5"
    net,x,y = lines()
    dense = VideoAttack(DenseMasks(), eps=0).attack
    for f in (dense, lambda *o: white_box_pgd(*o, eps=0), lambda *o: sign_noise(*o, eps=0)):
        with pytest.warns(RobustWarning, match='eps=0 lets no pixel change'): r = f(net, x, y)
        assert torch.equal(r.adv, x) and r.fooling_rate == 0 and r.queries.tolist() == [1] and r.ends == ['eps']

def test_the_same_seed_the_same_result_in_any_company():
    "P6: number and order of the clips do not matter; the user's streams neither"
    net = a_network()
    x = some_clips(4)
    y = BlackBox(net)(x).argmax(1)
    a = VideoAttack(RandomMasks(), n=6, budget=50, seed=3)
    r = a.attack(net, x, y)
    torch.rand(5)
    def equal(p, q): return torch.equal(p.adv, q.adv) and p.path == q.path and torch.equal(p.masks, q.masks)
    assert equal(r, a.attack(net, x, y))
    two = a.attack(net, x[:2], y[:2])
    assert torch.equal(two.adv, r.adv[:2]) and two.path == r.path[:2]
    turned = a.attack(net, x[[2, 0]], y[[2, 0]], ids=[2, 0])
    assert torch.equal(turned.adv, r.adv[[2, 0]]) and turned.path == [r.path[2], r.path[0]]
    assert not equal(r, VideoAttack(RandomMasks(), n=6, budget=50, seed=4).attack(net, x, y))
    class Draws(nn.Module):                 # a victim with chance of its own
        def forward(self, x): return net(x + .01*torch.randn_like(x))
    a = VideoAttack(DenseMasks(), n=6, budget=50)
    assert equal(a.attack(Draws(), x, y), a.attack(Draws(), x, y))
    states = {clip_generator(s, i).initial_seed() for s in range(9) for i in range(9)}
    assert len(states) == 81

def test_one_step_by_hand():
    net,x,y = lines()
    r = VideoAttack(DenseMasks(), n=8, budget=10, alpha=.002, sigma=.05).attack(net, x, y)
    def score(xs): return log_score(net(xs.clamp(0, 1)).softmax(1).detach(), 0)
    g = nes_gradient(score, x[0], None, 8, .05, True, clip_generator(0, 0))
    want = torch.minimum(torch.maximum(x[0] + .002*g, x[0]-.05), x[0]+.05)
    assert torch.allclose(r.adv[0], want, atol=1e-7) and r.ends == ['budget']
    assert [q for q,_ in r.path[0]] == [1, 10]
    assert [s for _,s in r.path[0]] == pytest.approx([score(x).item(), score(want[None]).item()], abs=1e-5)

def test_it_fools_a_linear_model_and_stops():
    "Where signs of the whole ball move the margin by 2 eps |w|_1 there is room, and half of it NES finds"
    net,x,y = lines()
    room = .05*net.w.abs().sum().item()
    for margin,fooled in ((.3*room, True), (1.01*room, False)):
        near,x,y = lines(margin)
        r = VideoAttack(DenseMasks(), budget=3000, n=20, rule='constant', step='sign').attack(near, x, y)
        assert r.success[0] == fooled
        scores = [s for _,s in r.path[0]]
        assert scores[0] == pytest.approx(-margin, abs=1e-4) and (scores[-1] > 0) == fooled
        assert all(s <= 0 for s in scores[:-1])
        assert r.queries[0] == r.path[0][-1][0] and r.ends[0] == ('fooled' if fooled else r.ends[0])
        w = white_box_pgd(near, x, y)
        assert w.success[0] == fooled and w.path[0][-1][1] >= scores[-1]-1e-4

def test_towards_a_target():
    class Three(nn.Module):
        def forward(self, x):
            a,b = 4*x.mean((2, 3, 4)).T
            return torch.stack([torch.full_like(a, .15), a, b], 1)
    net = Three()
    x = torch.full((1, *SHAPE), .03)
    opts = dict(n=20, budget=2000, step='sign', rank=False, alpha=.01, rule='constant')
    for t in (1, 2):
        r = VideoAttack(DenseMasks(), **opts).attack(net, x, [0], target=t)
        assert r.success.all() and r.answers.tolist() == [t] and r.runs[0].target == t
    x[:, 1] = .01
    r = VideoAttack(DenseMasks(), **opts).attack(net, x, [0], target='third')
    assert r.runs[0].target == 2 and r.answers.tolist() == [2]
    a = VideoAttack(DenseMasks())
    with pytest.raises(ValueError, match="own class, got 0 for both"): a.attack(net, x, [0], target=0)
    box = BlackBox(net)
    with pytest.raises(ValueError, match="got 1 for both of clip 1"):
        a.attack(box, x.repeat(2, 1, 1, 1, 1), [0, 1], target=1)
    assert box.used == 0        # not after hours
    with pytest.raises(ValueError, match='`target` in 0..2'): a.attack(net, x, [0], target=[3])
    with pytest.raises(ValueError, match="'third' or None, got 'cat'"): a.attack(net, x, [0], target='cat')
    with pytest.raises(ValueError, match='3 classes or more'): a.attack(*lines(), target='third')

def test_what_the_model_has_wrong_is_flagged_and_left():
    net,x,y = lines()
    x = x.expand(3, *SHAPE)
    r = VideoAttack(DenseMasks(), n=4, budget=30).attack(net, x, [0, 1, 0])
    assert r.wrong.tolist() == [False, True, False] and r.queries.tolist() == [26, 1, 26] and not r.success[1]
    assert torch.equal(r.adv[1], x[1]) and r.ends[1] == 'wrong' and r.mean_queries == 26
    t = r.table
    assert list(t.label) == [0, 1, 0] and list(t.answer[:2]) == [0, 0] and t.index.name == 'clip' and len(t) == 3
    assert repr(r).startswith('AttackResult: 0 of 2 clips fooled, 26 queries a clip') and '1 more were wrong' in repr(r)
    none = VideoAttack(DenseMasks()).attack(net, x, [1, 1, 1])
    assert math.isnan(none.fooling_rate) and math.isnan(none.mean_queries)

def test_ctrl_c_returns_what_is_finished():
    net = a_network()
    x = some_clips(4)
    y = BlackBox(net)(x).argmax(1)
    net.eval()
    whole = VideoAttack(DenseMasks(), n=4, budget=40).attack(Counter(net), x, y)
    for at,finished in ((whole.queries[:2].sum()+7, 2), (3, 0)):
        with pytest.warns(RobustWarning, match=f'Interrupted: {finished} of 4'):
            r = VideoAttack(DenseMasks(), n=4, budget=40).attack(Counter(net, at), x, y)
        assert r.finished == finished == len(r.table) and torch.equal(r.adv, whole.adv[:finished])
        assert r.masks.shape == (finished, *SHAPE[1:]) and f'after {finished} of 4' in repr(r)
    with pytest.warns(RobustWarning, match='Interrupted: 1 of 4'): r = sign_noise(Counter(net, 4), x, y)
    assert r.finished == 1

LABELS = [([0], ValueError, r'each of 2 clips'), ([0, 2], ValueError, r'in 0..1, .* got 2'),
          ([0, -1], ValueError, 'from 0 on'), ([0., 0.], TypeError, 'whole class numbers, got float'),
          (torch.zeros(2), TypeError, 'y.long'),
          (['a', 'b'], TypeError, 'dls.vocab'), (torch.zeros(2, 2).long(), ValueError, r'got \(2, 2\)'),
          ([True, False], TypeError, 'got bool'), (None, ValueError, 'a class for each')]

@pytest.mark.parametrize('y,err,says', LABELS, ids=str)
def test_labels_at_the_door(y, err, says):
    net,x,_ = lines()
    x = x.expand(2, *SHAPE)
    for f in (VideoAttack(DenseMasks(), n=2, budget=4).attack, white_box_pgd, sign_noise):
        with pytest.raises(err, match=says): f(net, x, y)

SETTINGS = [(k, v) for k,vs in dict(
    eps=(-.1, 1.1, math.nan, None, '1', True), alpha=(0, -1, math.inf, None, 'a'), min_alpha=(0, None),
    n=(3, 0, 1.5, True),
    budget=(61, 0, 99.5, None), sigma=(0, None), step=('up', None), seed=(-1, .5, None, True), patience=(0, 1.5, True),
    rank=(1, None), rule=('fast', None)).items() for v in vs]

@pytest.mark.parametrize('k,v', SETTINGS, ids=str)
def test_settings_at_the_door(k, v):
    with pytest.raises((ValueError, TypeError), match=f'`{k}`'): VideoAttack(DenseMasks(), **{k: v})

def test_one_frame_has_no_motion():
    x = some_clips(1, (2, 1, 6, 6))
    for f in (VideoAttack(DenseMasks()).attack, white_box_pgd, sign_noise):
        with pytest.raises(ValueError, match='2 frames or more'): f(a_network(), x, [0])

def test_half_precision_is_changed_as_float32():
    net,x,y = lines()
    r = VideoAttack(DenseMasks(), n=4, budget=30).attack(net, x.half(), y)
    assert r.adv.dtype == torch.float32 and (r.adv-x.half().float()).abs().max() <= .05+1e-6
    r = VideoAttack(DenseMasks(), n=4, budget=30).attack(net, x.double(), y)
    assert r.adv.dtype == torch.float64

# --- steps -----------------------------------------------------------------------------------------------------------
def test_step_rules():
    s = StepSize(.01, .001, 'paper')
    for i in range(3): s.see(False, False, 61*(i+1), i+1)
    assert s.now == pytest.approx(.01/1.5**3)
    s.see(True, True, 400, 4)
    assert s.now == pytest.approx(.01/1.5**3)
    for k in range(10, 20): s.see(False, False, 700, k)
    assert s.now == pytest.approx(.01/1.5**3)           # late: only every 20th step
    s.see(False, False, 1300, 20)
    assert s.now == pytest.approx(.01/1.5**3)
    s.see(True, False, 2500, 40)                        # odd, and kept
    assert s.now == pytest.approx(.01/1.5**3/2)
    for k in range(60, 200, 20): s.see(True, False, 5000, k)
    assert s.now == .001
    s = StepSize(.01, .001, 'plateau')
    for k in range(1, 20): s.see(True, False, 61*k, k)
    assert s.now == .01
    s.see(True, False, 9, 20)
    assert s.now == .005
    s.see(True, True, 9, 21)
    for k in range(19): s.see(True, False, 9, k)
    assert s.now == .005
    s = StepSize(.01, .02, 'constant')
    s.see(False, False, 1, 1)
    assert s.now == .01

def test_patience():
    p = Patience(3, 900)
    a = torch.tensor([.3, .1, .6])
    assert p.better(-2.) and p.better(-1.) and not p.over(10, a, 0)
    assert not p.better(-1.) and not p.better(-5.) and not p.over(10, a, 0)
    assert not p.better(-1.5) and p.over(10, a, 0)
    assert p.better(0.) and not p.over(899, a, 0)
    for share,ratio in ((1/3, 6), (1/2, 4), (2/3, 2)):
        for used,times,over in ((900*share-1, 1.1, False), (900*share+1, 1.1, True), (900*share+1, .9, False)):
            q = torch.tensor([.09*ratio*times, .09])
            if times > 1 and not over: q[0] = .09*ratio*.99 + .0001     # below every limit so far
            assert p.over(used, q, 0, 1) == over, (share, used, times)
    assert not Patience(None, 900).over(899, torch.tensor([1., 0.]), 0, 1)

def test_the_ball():
    x = torch.tensor([0., .02, .5, .99, 1., 1.0004, -.0004])
    ball = Ball(x, .05)
    assert ball.project(x+9).tolist() == pytest.approx([.05, .07, .55, 1, 1, 1.0004, .0496])
    assert ball.project(x-9).tolist() == pytest.approx([0, 0, .45, .94, .95, .9504, -.0004])
    assert torch.equal(ball.project(x), x)

# --- the ends of the scale -------------------------------------------------------------------------------------------
def test_the_true_gradient_is_that_of_finite_differences():
    net = a_network().double()
    x = some_clips(1)[0].double()
    box = BlackBox(net)
    with box.rest():
        g,p = true_gradient(box, x, 1)
        def score(v): return log_score(net(v[None]).softmax(1), 1)[0].item()
        for at in ((0, 1, 2, 3), (1, 3, 5, 0), (0, 0, 0, 0)):
            d = torch.zeros_like(x)
            d[at] = 1e-3
            # the rows pass through float32
            assert g[at].item() == pytest.approx((score(x+d)-score(x-d))/2e-3, abs=2e-4)
    assert p.sum().item() == pytest.approx(1)

@pytest.mark.parametrize('door', ['module', 'learner'])
def test_white_box_pgd_on_a_linear_model_is_the_corner_of_the_ball(door):
    net,x,y = lines(margin=1e3, scale=.01)
    mean,std = torch.tensor([.2, .4]),torch.tensor([.5, 2.])
    net.b = 50.
    model = a_learner(net, mean, std, (1, 1, 2, 1, 1)) if door == 'learner' else net
    r = white_box_pgd(model, x, y, eps=.03, alpha=.01, steps=5)
    assert torch.allclose(r.adv[0], x[0] + .03*net.w.detach().sign(), atol=1e-6)
    assert not r.success[0] and r.queries.tolist() == [7] and r.area[0] == 1
    assert r.map == pytest.approx(.03*255, rel=1e-4)
    assert net.w.grad is None

def test_white_box_needs_a_gradient_and_stops_when_it_fools():
    with pytest.raises(TypeError, match='no gradient'): white_box_pgd(constant, some_clips(1), [0])
    near,x,y = lines(margin=.02)
    r = white_box_pgd(near, x, y)
    assert r.success[0] and r.queries[0] == 3 and r.ends == ['fooled'] and r.map[0] <= .0101*255
    for bad in (dict(steps=0), dict(alpha=0), dict(eps=2)): pytest.raises(ValueError, white_box_pgd, near, x, y, **bad)
    assert white_box_pgd(near, x, [1]).wrong.all()

@pytest.mark.parametrize('off', [torch.no_grad, torch.inference_mode])
def test_a_network_that_computes_without_gradients(off):
    net,x,y = lines()
    class Shut(nn.Module):
        def forward(self, x):
            with off(): return net(x)
    assert VideoAttack(DenseMasks(), n=2, budget=8).attack(Shut(), x, y).finished == 1
    with pytest.raises(TypeError, match='answers have a gradient, got Shut, which computes without'):
        white_box_pgd(Shut(), x, y)

def test_ends_of_a_black_box_with_a_budget_of_its_own():
    "What is finished comes back; a clip takes what is left, as in `VideoAttack`"
    net,x,y = lines(margin=50.)
    x,y = x.repeat(4, 1, 1, 1, 1),[0]*4
    box = BlackBox(net, budget=10)
    with pytest.warns(RobustWarning, match=r'1 questions left, fewer than a clip needs \(2\): 3 of 4 clips'):
        r = sign_noise(box, x, y, tries=2)
    assert r.queries.tolist() == [3, 3, 3] and box.used == 9 and r.asked == 4 and r.ends == ['tries']*3
    assert repr(r).endswith('stopped after 3 of 4')
    box = BlackBox(net, budget=9)
    with pytest.warns(RobustWarning, match='0 questions left'): r = sign_noise(box, x, y, tries=5)
    assert r.queries.tolist() == [6, 3] and r.ends == ['tries', 'budget'] and box.left == 0
    assert torch.equal(r.adv[0], sign_noise(net, x, y, tries=5).adv[0])
    box = BlackBox(net, budget=2)
    with pytest.warns(RobustWarning, match='0 questions left'): r = white_box_pgd(box, x, y, steps=2)
    assert r.queries.tolist() == [4, 4] and box.used == 2 and r.ends == ['steps']*2

def test_a_victim_with_chance_of_its_own_has_the_seed_s_chance():
    net,x,y = lines()
    class Draws(nn.Module):
        def forward(self, x): return net(x + .3*torch.randn_like(x))
    def noise(seed): return sign_noise(Draws(), x, y, tries=4, eps=.001, seed=seed).path
    def bound(): return white_box_pgd(Draws(), x, y, eps=.001, steps=3).path
    state = torch.get_rng_state()
    first,other = noise(0),bound()
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(3)
    assert noise(0) == first and bound() == other and noise(1)[0][0] != first[0][0]

def test_draws_of_a_victim_go_on_at_rest_alone():
    net,x,_ = lines()
    class Draws(nn.Module):
        def forward(self, x): return net(x + .3*torch.randn_like(x))
    box = BlackBox(Draws())
    assert torch.equal(box(x), box(x))
    with box.rest(): assert not torch.equal(box(x), box(x))

def test_a_result_is_saved_with_its_own_clips_alone():
    "A clip that is a part of all of them would be saved with all of them: n times n clips"
    x = some_clips(20, (1, 4, 16, 16))
    r = VideoAttack(DenseMasks(), n=2, budget=4).attack(constant, x, [0]*20)
    saved = pickle.dumps(r)
    back = pickle.loads(saved)
    assert len(saved) < 6*4*x.numel() and torch.equal(back.adv, r.adv) and back.path == r.path
    used = pickle.loads(pickle.dumps(VideoAttack(RandomMasks(), n=2, budget=4)))
    assert used.attack(constant, x[:2], [0]*2).finished == 2

def test_a_recurrent_victim_has_a_gradient():
    class Over(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm,self.head = nn.LSTM(72, 5, batch_first=True),nn.Linear(5, 2)
        def forward(self, x): return self.head(self.lstm(x.transpose(1, 2).flatten(2))[0][:, -1])
    torch.manual_seed(0)
    net = Over()
    x = some_clips(1)
    y = BlackBox(net)(x).argmax(1)
    r = white_box_pgd(net, x, y, eps=.5, alpha=.1)
    assert r.path[0][-1][1] > r.path[0][0][1]

def test_signs_at_random():
    net,x,y = lines(margin=50.)
    f = Counter(net)
    r = sign_noise(f, x, y, tries=3, eps=.05)
    assert f.n == 4 == r.queries[0] and r.touched[0] == 1 and r.map[0] == pytest.approx(.05*255, rel=1e-5)
    d = (r.adv-x)
    assert torch.allclose(d.abs(), torch.full_like(d, .05), atol=1e-6) and abs(d.mean()) < .02
    assert torch.equal(r.adv, sign_noise(net, x, y, tries=3).adv)
    assert not torch.equal(r.adv, sign_noise(net, x, y, seed=1).adv)
    for bad in (dict(tries=0), dict(seed=-1), dict(eps=-1)): pytest.raises(ValueError, sign_noise, net, x, y, **bad)

# --- a victim that has learnt something ------------------------------------------------------------------------------
@pytest.mark.slow
def test_masks_change_less_and_noise_fools_nobody():
    "4.8, on moving shapes: the order of the table, not its numbers"
    set_seed(0)
    dls = moving_shapes_dls(n=1600)
    learn = Learner(dls, tiny_c3d(), loss_func=LabelSmoothingCrossEntropyFlat(.1))
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(10, 1e-2)
    X,y = moving_shapes(24, seed=77)
    x,y = torch.from_numpy(X).float().permute(0, 4, 1, 2, 3)/255,torch.as_tensor(y)
    right = BlackBox(learn)(x).argmax(1) == y
    assert right.float().mean() > .9
    x,y = x[right][:10],y[right][:10]
    assert sign_noise(learn, x, y).fooling_rate == 0 and white_box_pgd(learn, x, y).fooling_rate == 1
    opts = dict(alpha=.003, budget=2500)
    dense = VideoAttack(DenseMasks(), **opts).attack(learn, x, y)
    boxes = VideoAttack(RandomMasks(), **opts).attack(learn, x, y)
    assert min(dense.fooling_rate, boxes.fooling_rate) >= .6 and boxes.map.mean() < .75*dense.map.mean()
    assert max(dense.queries.max(), boxes.queries.max()) <= 2500 and boxes.area.mean() < .25
