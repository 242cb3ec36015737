"The agents of AstFocus: rewards, PPO and chances against slow formulas; what they learn, and what they never do"
import itertools, math
import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn
from fastrobust.systems.video.attack import recurrent
from fastrobust.systems.video.attack.agents import FEWEST, AgentMasks
from fastrobust.systems.video.attack.astfocus import AstFocus
from fastrobust.systems.video.attack.masks import Masks, grid_boxes
from fastrobust.systems.video.attack.policies import BoxChoice, FrameChoice
from fastrobust.systems.video.attack.ppo import clipped, discounted, ppo_loss
from fastrobust.systems.video.attack.recurrent import BoxLSTM, FrameLSTM, PoolEncoder, encode, made, places
from fastrobust.systems.video.attack.rewards import (Baseline, attack_reward, box_rewards, representativeness,
                                                     saliency)

KINDS = ['tabular', 'recurrent']
def gen(seed=0): return torch.Generator().manual_seed(seed)
def clip_of(c=1, t=8, h=24, w=24, seed=0): return torch.rand(c, t, h, w, generator=gen(seed))
def probs(*p): return torch.tensor(p)

def started(kind='tabular', seed=0, clip=None, **kw):
    "Masks that have begun with a clip"
    masks = AgentMasks(policy=kind, **kw)
    masks.begin(clip_of() if clip is None else clip, gen(seed))
    return masks

def drawn(masks): return masks.frames.action,masks.regions.action

def play(masks, n, hit, target=None):
    "A stand-in of the attack's loop: what `hit` gives of a draw, times .4, goes from class 0 to class 1, without noise"
    before = probs(.41, .40, .19)
    for _ in range(n):
        masks.draw()
        d = .4*float(hit(*drawn(masks)))
        masks.told(before, before+probs(-d, d, 0.), 0, target)
    frames,boxes = masks.chances()
    return frames,boxes.flatten(1)

def in_box(k): return lambda f, b: (b[f] == k).float().mean()
def in_frames(*i): return lambda f, b: f[list(i)].float().mean() - f.float().mean()

# --- the common reward -----------------------------------------------------------------------------------------------
def test_a_reward_by_hand():
    before,after = probs(.6, .3, .1),probs(.5, .15, .35)
    s0,s1 = math.exp(.3)-math.exp(.6),math.exp(.35)-math.exp(.5)
    assert attack_reward(before, after, 0) == pytest.approx((s1-s0)/(2*abs(s0)), abs=1e-6)
    v0,v1 = math.exp(.1-.6),math.exp(.35-.5)
    assert attack_reward(before, after, 0, 2) == pytest.approx((v1-v0)/v0, abs=1e-6)
    t0,t1 = math.exp(.6)-math.exp(.3),math.exp(.5)-math.exp(.15)      # of a clip that is wrong already, s > 0
    assert attack_reward(before, after, 1) == pytest.approx((t1-t0)/(2*t0), abs=1e-6)
    assert attack_reward(before, after, torch.tensor(0), torch.tensor(2)) == attack_reward(before, after, 0, 2)

def test_signs_of_rewards():
    "P8, over many answers: 0 where nothing changes, else the sign of s' - s, or of v' - v"
    draws = torch.distributions.Dirichlet(torch.ones(5))
    torch.manual_seed(0)
    seen = set()
    for before,after in zip(draws.sample((1500,)), draws.sample((1500,))):
        def s(p): return max(math.exp(o) for o in p[1:].tolist()) - math.exp(p[0])
        def v(p): return p[3]-p[0]
        assert attack_reward(before, before, 0) == attack_reward(before, before, 0, 3) == 0
        assert np.sign(attack_reward(before, after, 0)) == np.sign(s(after)-s(before))
        assert np.sign(attack_reward(before, after, 0, 3)) == np.sign(float(v(after)-v(before)))
        seen.add((s(after) > s(before), s(before) > 0, bool(v(after) > v(before))))
    assert len(seen) == 8

def test_rewards_stay_finite_at_the_border():
    even,after = probs(.4, .4, .2),probs(.3, .5, .2)
    want = (math.exp(.5)-math.exp(.3))/(2*1e-3)
    assert attack_reward(even, after, 0) == pytest.approx(want, rel=1e-5)
    assert attack_reward(probs(1., 0., 0.), probs(0., 1., 0.), 0) == pytest.approx(1)

def test_the_baseline_by_a_loop():
    rewards = [.5, -1., 2., 0., .3]
    base,b,seen = Baseline(),0.,[]
    for r in rewards:
        assert base.advantage(r) == pytest.approx(r-b)
        seen.append(r)
        b = .9*b + .1*sum(seen)/len(seen)

# --- rewards of frames -----------------------------------------------------------------------------------------------
def residual(x):
    "Hou and Zhang's map of a grey frame, by numpy and scipy"
    f = np.fft.fft2(x)
    size = np.log(np.abs(f)+1e-8)
    r = np.exp(size-ndimage.uniform_filter(size, 3, mode='wrap'))*np.exp(1j*np.angle(f))
    out = ndimage.gaussian_filter(np.abs(np.fft.ifft2(r))**2, 2.5, mode='mirror', radius=4)
    return out/out.sum()

def test_saliency_against_scipy():
    x = clip_of(1, 3, 30, 21).double()
    got = saliency(x)
    for i in range(3): assert np.abs(got[i].numpy()-residual(x[0, i].numpy())).max() < 1e-6
    rgb = clip_of(3, 2, 20, 20)
    grey = (.299*rgb[0] + .587*rgb[1] + .114*rgb[2]).numpy()
    for i in range(2): assert np.abs(saliency(rgb)[i].numpy()-residual(grey[i])).max() < 1e-6

@pytest.mark.parametrize('h,w', [(24, 24), (100, 130), (3, 5), (70, 20)])
def test_saliency_sums_to_one_and_finds_what_is_odd(h, w):
    x = torch.full((1, 4, h, w), .4)
    x[:, 1] += .05*torch.randn(h, w, generator=gen())       # a texture, with a brighter piece in its middle
    a,b = h//3,w//3
    x[:, 1, a+1:2*a-1, b+1:2*b-1] += .4
    s = saliency(x)
    assert s.shape == (4, h, w) and (s >= 0).all()
    assert torch.allclose(s.sum((1, 2)), torch.ones(4), atol=1e-5)
    assert torch.allclose(s[0], torch.full((h, w), 1/(h*w)))
    if h > 3: assert box_rewards(s, grid_boxes(h, w, 3, .34))[1].argmax() == 4

def test_boxes_are_paid_the_share_in_them():
    s,boxes = saliency(clip_of(1, 3, 12, 10)),grid_boxes(12, 10, 4, .5)
    got = box_rewards(s, boxes)
    for i,k in itertools.product(range(3), range(16)):
        assert got[i, k].item() == pytest.approx(s[i][boxes[k]].sum().item())

def test_representativeness_by_a_loop():
    f = torch.randn(5, 7, generator=gen()).double()
    for j in range(5):
        apart = [math.sqrt(sum((a-b)**2 for a,b in zip(o.tolist(), f[j].tolist()))) for o in f]
        want = sum(math.exp(-d/5) for d in apart)/5
        assert representativeness(f)[j].item() == pytest.approx(want, abs=1e-6)
    assert representativeness(torch.ones(4, 3)).tolist() == [1]*4

# --- PPO -------------------------------------------------------------------------------------------------------------
def test_returns_by_powers():
    r = torch.randn(9, generator=gen()).double()
    want = np.array([sum(.7**(j-i)*r[j].item() for j in range(i, 9)) for i in range(9)])
    want = (want-want.mean())/want.std()
    assert np.abs(discounted(r).numpy()-want).max() < 1e-12
    assert discounted(torch.zeros(4)).tolist() == [0]*4 == discounted(torch.ones(1)).tolist()*4

def slow_clip(rho, a): return min(rho*a, min(max(rho, .8), 1.2)*a)

def test_the_clip_and_its_gradient():
    adv = torch.tensor([-2., -.5, .5, 2.]).double()
    rho,adv = torch.meshgrid(torch.linspace(.1, 3, 30).double(), adv, indexing='ij')
    rho,adv = rho.flatten().requires_grad_(),adv.flatten()
    got = clipped(rho, adv)
    got.sum().backward()
    for r,a,g,d in zip(rho.tolist(), adv.tolist(), got.tolist(), rho.grad.tolist()):
        assert g == pytest.approx(slow_clip(r, a))
        stopped = (a > 0 and r > 1.2) or (a < 0 and r < .8)
        assert d == (0 if stopped else a)

def test_the_loss_by_a_loop():
    g = gen()
    rho,v,ret = (torch.rand(6, generator=g).double()*2 for _ in range(3))
    used = torch.tensor([True, False, True, True, False, True])
    v.requires_grad_()
    for kappa,trust,adv in ((.4, .1, 1.7), (.6, 1., -.3)):
        steps = sum(slow_clip(r, R-trust*o) for r,R,o in zip(rho.tolist(), ret.tolist(), v.tolist()))/6
        wrong = sum((o-R)**2 for o,R in zip(v.tolist(), ret.tolist()))/6
        whole = sum(slow_clip(r, adv) for r,u in zip(rho.tolist(), used) if u)/4
        want = -kappa*(steps - wrong/2 + .01*.9) - (1-kappa)*whole
        got = ppo_loss(rho, v, torch.tensor(.9, dtype=torch.float64), ret, adv, used, kappa, trust)
        assert got.item() == pytest.approx(want, abs=1e-10)
        # the value learns from its error alone, not by making advantages large
        v.grad = None
        got.backward()
        assert torch.allclose(v.grad, kappa*(v-ret).detach()/6)

@pytest.mark.parametrize('kind', KINDS)
def test_the_ratio_starts_at_exactly_one(kind):
    "What acts is what is evaluated: of the official code that is not so"
    masks = started(kind, clip=clip_of(3, 10, 30, 20))
    for _ in range(4):
        play(masks, 1, in_box(3))
        for agent in (masks.frames, masks.regions):
            assert len(agent.ratios) == 10 and (agent.ratios[0] == 1).all()
            assert (agent.ratios[-1] != 1).any()

# --- how they choose -------------------------------------------------------------------------------------------------
def subsets(p, lo, hi):
    "Every allowed set of frames with its chance"
    out = {}
    for a in itertools.product([False, True], repeat=len(p)):
        if lo <= sum(a) <= hi: out[a] = math.prod(o if x else 1-o for o,x in zip(p, a))
    total = sum(out.values())
    return {a: o/total for a,o in out.items()}

@pytest.mark.parametrize('t,lo,hi', [(2, 2, 2), (5, 2, 3), (6, 2, 6), (6, 2, 4)])
def test_chances_of_sets_by_counting_them(t, lo, hi):
    z = 2*torch.randn(t, generator=gen(t)).double()
    choice = FrameChoice(.6, lo, hi, .3)
    p = [.7/(1+math.exp(-o))+.3*.6 for o in z.tolist()]
    assert choice.chances(z).tolist() == pytest.approx(p)
    for a,want in subsets(p, lo, hi).items():
        assert choice.log_prob(z, torch.tensor(a)).sum().exp().item() == pytest.approx(want, rel=1e-9)

def test_draws_follow_these_chances():
    z,g,n = torch.tensor([2., -1., .3, -2.]),gen(),4000
    choice = FrameChoice(.6, 2, 3, .2)
    seen = [tuple(choice.draw(z, g).tolist()) for _ in range(n)]
    want = subsets(choice.chances(z).tolist(), 2, 3)
    assert set(seen) <= set(want)
    for a,p in want.items(): assert abs(seen.count(a)/n-p) < 4*math.sqrt(p*(1-p)/n)

@pytest.mark.parametrize('far', [-60., 60., 0.])
@pytest.mark.parametrize('t', [2, 3, 16, 40])
def test_never_fewer_than_two_frames(t, far):
    "P7, also where the policy wants none or all, and with gradients that are finite"
    hi = max(2, round(.6*t))
    for floor in (0., .3):
        choice,g = FrameChoice(hi/t*.99, FEWEST, hi, floor),gen()
        z = torch.full((t,), far, requires_grad=True)
        for _ in range(20):
            a = choice.draw(z.detach(), g)
            assert FEWEST <= a.sum() <= hi
            (choice.log_prob(z, a).sum() + choice.entropy(z)).backward()
        assert z.grad.isfinite().all()

def test_boxes_are_drawn_as_their_chances_say():
    z,g,n = torch.tensor([[3., 0., -3.], [0., 0., 5.]]),gen(),4000
    choice = BoxChoice(.3)
    want = .7*np.exp(z.double().numpy())/np.exp(z.double().numpy()).sum(1, keepdims=True) + .1
    assert np.abs(choice.chances(z).numpy()-want).max() < 1e-6
    acts = torch.stack([choice.draw(z, g) for _ in range(n)])
    for i,k in itertools.product(range(2), range(3)):
        p = want[i, k]
        assert abs((acts[:, i] == k).double().mean().item()-p) < 4*math.sqrt(p*(1-p)/n)
    a = torch.tensor([0, 2])
    assert choice.log_prob(z, a).tolist() == pytest.approx(np.log(want[[0, 1], [0, 2]]).tolist(), abs=1e-6)
    assert choice.entropy(z).item() == pytest.approx(-(want*np.log(want)).sum(1).mean(), abs=1e-6)

@pytest.mark.parametrize('far', [1., 10., 1e4])
def test_the_floor_under_the_entropy(far):
    z = far*torch.randn(200, 49, generator=gen())
    p = BoxChoice(.3).chances(z)
    own = -(p*p.log()).sum(1)
    assert (own >= .3*math.log(49)).all() and BoxChoice(0.).entropy(1e4*z).item() < .01
    start = .6
    q = FrameChoice(start, 2, 120, .3).chances(z[:, 0])
    least = -.3*(start*math.log(start)+(1-start)*math.log(1-start))
    assert (-(q*q.log()+(1-q)*(1-q).log()) >= least).all()

def test_boxes_of_the_paper():
    "Section 6 of the spec, value 16: 65 of 112, corners as in the code"
    boxes = grid_boxes(112, 112, 7, .58)
    assert boxes.shape == (49, 112, 112)
    assert [o.any(1).int().argmax().item() for o in boxes[::7]] == [0, 7, 15, 23, 31, 39, 47]
    assert [o.any(0).int().argmax().item() for o in boxes[:7]] == [0, 7, 15, 23, 31, 39, 47]
    assert boxes.float().mean((1, 2)).tolist() == pytest.approx([.336814]*49, abs=1e-6)
    one = grid_boxes(10, 20, 1, .5)[0]
    assert one.sum() == 50 and one[2:7, 5:15].all()
    assert grid_boxes(7, 9, 3, 1.).all() and (grid_boxes(5, 5, 2, .01).sum((1, 2)) == 1).all()

# --- masks -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('c,t,h,w', [(3, 16, 112, 112), (1, 2, 7, 9), (1, 3, 40, 24), (3, 33, 20, 50)])
def test_masks_of_any_clip(kind, c, t, h, w):
    masks = started(kind, clip=clip_of(c, t, h, w))
    most = max(2, round(.6*t))
    for _ in range(3):
        m = masks.draw()
        chosen = m.flatten(1).any(1)
        assert m.shape == (t, h, w) and m.dtype == torch.bool and 2 <= chosen.sum() <= most
        sizes = {int(o.sum()) for o in m[chosen]}
        assert sizes == {round(.58*h)*round(.58*w)}
        assert (chosen == masks.frames.action).all()
        masks.told(probs(.6, .4), probs(.5, .5), 0)
    frames,boxes = masks.chances()
    assert isinstance(masks, Masks) and frames.shape == (t,) and boxes.shape == (t, 7, 7)
    assert torch.allclose(boxes.sum((1, 2)), torch.ones(t))

@pytest.mark.parametrize('kind', KINDS)
def test_they_start_without_an_opinion(kind):
    frames,boxes = started(kind, clip=clip_of(t=10)).chances()
    assert frames.tolist() == pytest.approx([.6]*10, abs=.01)
    assert boxes.flatten().tolist() == pytest.approx([1/49]*490, abs=1e-3)

@pytest.mark.slow
@pytest.mark.parametrize('kind,n', [('tabular', 90), ('recurrent', 30)])
@pytest.mark.parametrize('target', [None, 1])
def test_a_box_that_matters_is_learnt(kind, n, target):
    "One box of nine matters: its chance rises well above 1/9, at the cost of all others"
    _,boxes = play(started(kind, grid=3), n, in_box(4), target)
    assert boxes[:, 4].mean() > 3/9
    assert boxes.mean(0).argmax() == 4

def test_frames_that_matter_are_learnt():
    frames,_ = play(started(grid=3), 60, in_frames(3, 6))
    others = [0, 1, 2, 4, 5, 7]
    assert frames[[3, 6]].min() > frames[others].max()+.1
    assert frames[[3, 6]].min() > .75 and frames[others].mean() < .625

@pytest.mark.parametrize('kind', KINDS)
def test_without_rates_they_draw_the_same_and_learn_nothing(kind):
    masks = started(kind, rates=(0, 0))
    before,first = masks.chances(),started(kind).draw()
    assert (masks.draw() == first).all()
    play(masks, 3, in_box(0))
    assert all((a == b).all() for a,b in zip(before, masks.chances()))

@pytest.mark.slow
def test_frames_that_look_different_are_learnt_by_what_they_show():
    clip = .5*clip_of(t=8)
    clip[:, [3, 6]] += .5
    frames,_ = play(started('recurrent', clip=clip, grid=3), 120, in_frames(3, 6))
    others = [0, 1, 2, 4, 5, 7]
    assert frames[[3, 6]].min() > frames[others].max()

@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
def test_the_floor_holds_against_a_pull_to_one_place(kind):
    "Rates high enough for a collapse: without the floor all chance goes to one place, with it some stays everywhere"
    def pulled(floor): return play(started(kind, clip=clip_of(t=5), grid=3, rates=(.1, .1), floor=floor), 25, in_box(4))
    frames,boxes = pulled(.3)
    own = -(boxes*boxes.log()).sum(1)
    assert (own >= .3*math.log(9)).all() and boxes.min() >= .3/9-1e-6 and boxes.max() > .6
    assert frames.min() >= .3*.6-1e-6 and frames.max() <= 1-.3*.4+1e-6
    _,bare = pulled(0.)
    assert bare.max(1).values.median() > .95

@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
def test_noise_is_hardly_followed(kind):
    "Rewards that say nothing, as many as a budget of 3,000 buys: chances stay near where they were, floor or not"
    masks,noise = started(kind, clip=clip_of(t=5), floor=0.),gen(9)
    before = probs(.5, .3, .2)
    for _ in range(49):
        masks.draw()
        masks.told(before, before+.01*torch.randn(3, generator=noise), 0)
    frames,boxes = masks.chances()
    p = boxes.flatten(1)
    assert -(p*p.log()).sum(1).mean() > .6*math.log(49) and p.max() < .5
    assert frames.max() < .99 and frames.min() > .1

def test_boxes_of_unseen_frames_take_no_part():
    "The common reward of the region agent is of chosen frames; without its own terms the others would stay"
    masks = started(grid=3)
    masks.box_pay = torch.zeros_like(masks.box_pay)     # no returns
    masks.regions.kappas = 0.,0.                        # no entropy, no value
    masks.draw()
    masks.told(probs(.6, .4), probs(.3, .7), 0)
    moved = (masks.regions.policy.logits != 0).any(1)
    assert (moved == masks.frames.action).all()

@pytest.mark.parametrize('target,wanted,kappas', [(None, 6, (.6, .4)), (2, 5, (.8, .1))])
def test_what_each_agent_is_told(target, wanted, kappas, monkeypatch):
    "Both share the reward above its baseline; the frame agent also pays .2 ((n - wanted)/t)^2"
    masks,seen = started(clip=clip_of(t=10)),[]
    learn = lambda *a, **kw: seen.append(kw)
    monkeypatch.setattr('fastrobust.systems.video.attack.agents.ppo_update', learn)
    answers = [probs(.5, .3, .2), probs(.45, .3, .25), probs(.5, .2, .3)]
    base = Baseline()
    for before,after in zip(answers, answers[1:]):
        masks.draw()
        masks.told(before, after, 0, target)
        chosen,box = drawn(masks)
        gain = base.advantage(attack_reward(before, after, 0, target))
        frame,region = seen[-2:]
        off = ((int(chosen.sum())-wanted)/10)**2
        assert frame['episode'] == pytest.approx(.8*gain - .2*off) and region['episode'] == gain
        assert (frame['kappa'], region['kappa']) == kappas and (frame['trust'], region['trust']) == (1, .1)
        assert frame['used'].all() and (region['used'] == chosen).all()
        pay = [representativeness(masks.feats)[i].item()*bool(chosen[i]) for i in range(10)]
        assert torch.allclose(frame['returns'], discounted(torch.tensor(pay)), atol=1e-5)
        seen_share = saliency(clip_of(t=10))
        pay = [seen_share[i][grid_boxes(24, 24, 7, .58)[box[i]]].sum().item() for i in range(10)]
        assert torch.allclose(region['returns'], discounted(torch.tensor(pay)), atol=1e-4)

@pytest.mark.parametrize('kind', KINDS)
def test_same_seed_same_masks(kind):
    "P6; what came before does not matter, and no global stream is touched"
    def run(masks, seed, clip):
        masks.begin(clip, gen(seed))
        out = []
        for i in range(4):
            out.append(masks.draw())
            masks.told(probs(.6, .4), probs(.6-.05*i, .4+.05*i), 0)
        return torch.stack(out)
    masks,clip = AgentMasks(policy=kind),clip_of()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = run(masks, 0, clip)
    assert (torch.get_rng_state() == state).all()
    other = run(masks, 1, clip_of(t=5, seed=3)),run(masks, 1, clip)
    torch.manual_seed(6)
    assert (run(masks, 0, clip) == first).all() and (run(AgentMasks(policy=kind), 0, clip) == first).all()
    assert (other[1] != first).any()

@pytest.mark.parametrize('kind', KINDS)
def test_they_learn_where_gradients_are_off(kind):
    clip = clip_of()
    kept = clip.clone()
    with torch.no_grad():
        masks = started(kind, clip=clip)
        before = masks.chances()[1]
        play(masks, 2, in_box(0))
        assert (masks.chances()[1] != before).any()
    assert (clip == kept).all()

# --- encoders and networks -------------------------------------------------------------------------------------------
def body():
    return nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(.5))

def test_any_encoder_and_it_stays_as_it_was():
    torch.manual_seed(0)
    net = body()
    net[0].eval()
    kept = {k: v.clone() for k,v in net.state_dict().items()}
    for c in (1, 3):
        masks = started('recurrent', clip=clip_of(c), encoder=net)
        play(masks, 2, in_box(0))
        assert masks.feats.shape == (8, 6*16) and not masks.feats.requires_grad
    assert all((kept[k] == v).all() for k,v in net.state_dict().items())
    assert net.training and net[1].training and not net[0].training
    assert all(p.grad is None for p in net.parameters())
    grey = clip_of(1)
    assert torch.equal(encode(net, grey), encode(net, grey.expand(3, -1, -1, -1)))
    assert encode(nn.Flatten(), clip_of(1, 4, 5, 6)).shape == (4, 30)
    assert encode(body().double(), clip_of(3)).dtype == torch.float32

def test_the_default_encoder_is_means_of_cells():
    x = clip_of(2, 3, 8, 12)
    want = x.view(2, 3, 4, 2, 4, 3).mean((3, 5)).transpose(0, 1).flatten(1)
    assert torch.allclose(encode(PoolEncoder(), x), want, atol=1e-6)
    assert encode(PoolEncoder(), clip_of(1, 2, 3, 9)).shape == (2, 12)

@pytest.mark.parametrize('net,says', [
    (nn.Flatten(0), r'\(8,d\) or \(8,d,h,w\), got \(4608,\)'), (nn.LSTM(24, 3), 'network|got a tuple'),
    (nn.Sequential(nn.Flatten(), nn.Linear(576, 2), nn.Threshold(1e9, float('nan'))), 'finite features')])
def test_an_encoder_that_does_not_fit(net, says):
    if isinstance(net, nn.LSTM): net = nn.Sequential(nn.Flatten(2), nn.Flatten(0, 1), nn.LSTM(576, 3))
    with pytest.raises(ValueError, match=says): started(encoder=net)

def test_weights_come_from_the_generator_alone():
    state = torch.get_rng_state()
    a,b,c = (made(lambda: FrameLSTM(5), gen(i)) for i in (0, 0, 1))
    big = made(lambda: BoxLSTM(7, 9), gen(0))
    assert (torch.get_rng_state() == state).all()
    for k,v in a.state_dict().items():
        assert (v == b.state_dict()[k]).all() and (v != c.state_dict()[k]).any()
    for net in (a, big):
        for k,p in net.named_parameters():
            lim = {'look': net.look.in_features}.get(k.split('.')[0], recurrent.WIDTH)**-.5
            assert p.abs().max() <= lim and (p.numel() < 100 or p.abs().max() > .9*lim)

def test_who_sees_what():
    "The frame agent attends to the whole clip; the region agent's memory goes forward"
    f = torch.randn(6, 5, generator=gen(), requires_grad=True)
    def first_by_frame(net):
        z = net(f)[0]
        (z[0].sum() if z.ndim == 2 else z[0]).backward()
        out,f.grad = f.grad.abs().sum(1),None
        return out
    recurrent_scaled = recurrent.scaled
    try:
        recurrent.scaled = lambda o: o
        assert (first_by_frame(made(lambda: FrameLSTM(5), gen())) > 0).all()
        seen = first_by_frame(made(lambda: BoxLSTM(5, 9), gen()))
        assert seen[0] > 0 and (seen[1:] == 0).all()
    finally: recurrent.scaled = recurrent_scaled

def test_attention_by_a_loop():
    net = made(lambda: FrameLSTM(5), gen()).double()
    f = torch.randn(4, 5, generator=gen(1)).double()
    z,v = net(f)
    x = (f-f.mean())/(f.std(correction=0)+1e-6)
    x = (x @ net.look.weight.T + net.look.bias).clamp_min(0)
    keys,h,c = x+places(4, 64),torch.zeros(64).double(),torch.zeros(64).double()
    for i in range(4):
        ask = net.ask.weight @ h + net.ask.bias
        e = torch.stack([ask @ k / 8 for k in keys])
        a = e.exp()/e.exp().sum()
        inp = torch.cat([x[i], sum(w*o for w,o in zip(a, x))])
        gates = net.cell.weight_ih @ inp + net.cell.bias_ih + net.cell.weight_hh @ h + net.cell.bias_hh
        i_,f_,g_,o_ = gates.view(4, 64)
        c = f_.sigmoid()*c + i_.sigmoid()*g_.tanh()
        h = o_.sigmoid()*c.tanh()
        assert z[i].item() == pytest.approx((net.logits.weight[0] @ h + net.logits.bias[0]).item(), abs=1e-6)
        assert v[i].item() == pytest.approx((net.value.weight[0] @ h + net.value.bias[0]).item(), abs=1e-6)

def test_places():
    got = places(3, 5)
    for i in range(3):
        want = [math.sin(i), math.cos(i), math.sin(i/10000**(2/5)), math.cos(i/10000**(2/5)), math.sin(i/10000**(4/5))]
        assert got[i].tolist() == pytest.approx(want, abs=1e-6)

# --- doors -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('err,says,kw', [
    (ValueError, "'tabular' or 'recurrent', got 'lstm'", dict(policy='lstm')),
    (ValueError, '`grid` must be a whole number from 1 on', dict(grid=0)),
    (ValueError, r'`patch` must be in \(0,1\], got 0', dict(patch=0)),
    (ValueError, r'`frames` must be in \(0,1\], got 10', dict(frames=10)),
    (TypeError, '`patch` must be a number', dict(patch='big')),
    (ValueError, r'`floor` must be in \[0,1\), got 1', dict(floor=1)),
    (ValueError, '`rates` must be two numbers from 0 on', dict(rates=(.1, -1))),
    (ValueError, '`rates` must be two numbers from 0 on', dict(rates=.1)),
    (ValueError, '`rates` must be two numbers from 0 on', dict(rates=(.1, math.inf))),
    (TypeError, '`rates` must be a number', dict(rates=('.1', 0))),
    (TypeError, r"network \(nn.Module\).*got 'resnet18'", dict(encoder='resnet18'))])
def test_what_is_refused(err, says, kw):
    with pytest.raises(err, match=says): AgentMasks(**kw)

def test_a_single_frame_is_refused():
    with pytest.raises(ValueError, match='clips .* of 2 frames or more, got'): started(clip=clip_of(t=1))

# --- the whole attack ------------------------------------------------------------------------------------------------
class Weighs(nn.Module):
    "Two classes: is one piece of two frames of a clip bright? Nothing else matters"
    def __init__(self, t=8, h=24):
        super().__init__()
        w = torch.zeros(t, h, h)
        w[1, 5:19, 5:19] = w[4, 5:19, 5:19] = 1
        self.w = nn.Parameter(w/w.sum())

    def forward(self, x):
        z = 60*((x.mean(1)*self.w).sum((1, 2, 3))-.5)
        return torch.stack([z, -z], 1)

def clips_of(n=2): return (.53+.05*torch.randn(n, 1, 8, 24, 24, generator=gen())).clamp(0, 1)

@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
def test_the_attack_end_to_end(kind):
    net,clips = Weighs(),clips_of()
    kept,state = clips.clone(),torch.get_rng_state()
    def run(x, **kw):
        attack = AstFocus(n=10, budget=67, policy=kind, grid=3, patience=None, **kw)
        return attack.attack(net, x, [0]*len(x))
    res = run(clips)
    assert (clips == kept).all() and (torch.get_rng_state() == state).all()
    assert (res.queries <= 67).all() and ((res.queries == 67) | res.success).all()
    change = (res.adv-clips).abs()
    assert change.max() <= .05+1e-6 and res.adv.min() >= 0 and res.adv.max() <= 1
    assert not change[:, 0][torch.as_tensor(res.masks) == 0].any()
    again = run(clips)
    assert (again.adv == res.adv).all() and (run(clips[:1]).adv == res.adv[:1]).all()
    assert (run(clips, seed=1).adv != res.adv).any()
    assert net.w.grad is None and net.training

def test_the_attack_towards_a_target():
    net,clips = Weighs(),clips_of(1)
    res = AstFocus(n=10, budget=600, grid=3, step='sign', rank=False).attack(net, clips, [0], target=1)
    assert res.queries[0] <= 600
    assert net(res.adv).softmax(1)[0, 1] > net(clips).softmax(1)[0, 1]

def test_settings_reach_the_attack_and_the_agents():
    a = AstFocus(.1, .02, 20, 500, 3, grid=4, patch=.5, frames=.4, floor=.2, rates=(.1, .2), sigma=.01, step='sign')
    assert (a.eps, a.n, a.budget, a.seed, a.sigma, a.step) == (.1, 20, 500, 3, .01, 'sign')
    m = a.masks
    assert (m.grid, m.patch, m.share, m.kind, m.floor, m.rates) == (4, .5, .4, 'tabular', .2, (.1, .2))
    assert AstFocus(policy='recurrent').masks.rates == (.0003, .0003)
    with pytest.raises(ValueError, match="'tabular' or 'recurrent'"): AstFocus(policy='x')
    with pytest.raises(TypeError): AstFocus(gird=3)
