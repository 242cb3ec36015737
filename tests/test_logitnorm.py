"LogitNorm against the numbers of its specification"
import math, warnings
from functools import partial
import pytest
import torch
from fastai.losses import CrossEntropyLossFlat, LabelSmoothingCrossEntropy, LabelSmoothingCrossEntropyFlat
from torch import nn, tensor
from torch.nn import functional as F
from conftest import tiny_dls, tiny_learner
from fastrobust.basics import RobustWarning
from fastrobust.losses import CrossEntropy, GCELoss
from fastrobust.techniques.augloss import AugLoss
from fastrobust.techniques.logitclip import clip_logits
from fastrobust.techniques.logitnorm import LogitNorm, norm_floor, normalize_logits

# what test_contract.py runs every technique through
CONTRACT = {LogitNorm: dict(make=lambda: LogitNorm(.04), deterministic=True)}

V = tensor([[2., -1., .5]], dtype=torch.float64)
Z = tensor([[2, -1, .5, 0], [.1, .2, -.1, .05], [8, 0, -8, 4]], dtype=torch.float64)
ce = lambda z, y: F.cross_entropy(z, tensor([y])).item()

@pytest.mark.parametrize('tau,y,want,tol', [(1, 0, .5820084, 1e-6), (1, 1, 1.8913156, 1e-6), (.04, 0, 7.80e-8, 1e-9),
                                            (.04, 1, 32.7326822, 2e-5), (.01, 1, 130.9307284, 2e-5)])
def test_values(tau, y, want, tol): assert ce(normalize_logits(V, tau), y) == pytest.approx(want, abs=tol)

@pytest.mark.parametrize('tau,want', [(1., [.7918060, 1.5243881, 2.2470390]), (.1, [.0015977, 6.0205848, 13.3696152])])
def test_fixed_batch(tau, want):
    l = F.cross_entropy(normalize_logits(Z, tau), tensor([0, 3, 2]), reduction='none')
    assert l.tolist() == pytest.approx(want, abs=1e-5)
    inside = F.cross_entropy(clip_logits(Z, tau), tensor([0, 3, 2]), reduction='none')[1].item()
    assert tau < 1 or abs(inside-1.40457949) < 1e-7 and abs(inside-want[1]) > .1      # the clip leaves row 2 alone

def test_every_row_gets_the_same_norm_by_a_loop():
    for row,got in zip(Z.tolist(), normalize_logits(Z, .5).tolist()):
        n = math.sqrt(sum(v*v for v in row)) + 1e-7
        assert got == pytest.approx([v/(.5*n) for v in row], rel=1e-12)

def test_gradient():
    z = V.clone().requires_grad_()
    F.cross_entropy(normalize_logits(z, 1.), tensor([1])).backward()
    assert z.grad[0].tolist() == pytest.approx([-.1072498, -.1950297, .0389401], abs=1e-6)
    assert abs((V*z.grad).sum()) < 1e-6
    z = V.clone().requires_grad_()
    F.cross_entropy(normalize_logits(z, 1., eps=0), tensor([1])).backward()
    assert abs((V*z.grad).sum()) < 1e-12
    assert z.grad.norm() <= math.sqrt(2)/V.norm()
    assert torch.autograd.gradcheck(lambda z: normalize_logits(z, .3), (V.clone().requires_grad_(),))

def test_scale_does_not_matter_but_sign_does():
    assert abs(ce(normalize_logits(V*1e3, .5), 1) - ce(normalize_logits(V, .5), 1)) < 1e-5
    assert ce(normalize_logits(-V, .04), 1) == pytest.approx(7.80e-8, abs=1e-9)

def test_zero_logits():
    "Loss ln K; the gradient is finite, of the size the paper's code has"
    for dtype in (torch.float32, torch.float64):
        z = torch.zeros(1, 10, dtype=dtype, requires_grad=True)
        l = F.cross_entropy(normalize_logits(z, .04), tensor([0]))
        l.backward()
        assert l.item() == pytest.approx(math.log(10), abs=1e-6) and torch.isfinite(z.grad).all()
        assert z.grad[0].tolist() == pytest.approx([-2.25e8] + [2.5e7]*9, rel=1e-5)

def test_small_norms_are_bounded():
    "Below min_norm the map is linear, z/(tau min_norm): continuous there, with a gradient that no step need fear"
    tau,m = .04,.1
    for size in (.05, .1, .3):
        z = V*size/V.norm()
        want = z/(tau*m) if size < m else z/(tau*z.norm())
        assert torch.allclose(normalize_logits(z, tau, eps=0, min_norm=m), want, atol=1e-12)
    z = torch.zeros(1, 10, dtype=torch.float64, requires_grad=True)
    F.cross_entropy(LogitNorm().logits(z), tensor([0])).backward()
    assert z.grad[0].tolist() == pytest.approx([-.9/(tau*m)] + [.1/(tau*m)]*9, rel=1e-9)
    with pytest.raises(ValueError, match='min_norm'): LogitNorm(min_norm=-1.)
    with pytest.raises(TypeError, match='min_norm'): LogitNorm(min_norm='1')

def test_a_head_of_zeros_starts():
    "Without min_norm its first gradient is 1e7 too large for any optimizer"
    import fastai.optimizer as opt
    from functools import partial
    ends = []
    for m in (0., .1):
        learn = tiny_learner(LogitNorm(.04, min_norm=m), opt_func=partial(opt.SGD, mom=.9))
        last = [o for o in learn.model.modules() if isinstance(o, torch.nn.Linear)][-1]
        torch.nn.init.zeros_(last.weight); torch.nn.init.zeros_(last.bias)
        learn.fit(2, .02)
        ends.append(last.weight.norm().item())
    assert ends[0] > 1e4 and ends[1] < 100, ends

@pytest.mark.parametrize('z', [torch.full((4, 1000), 1e4), torch.randn(4, 1000)*1e4, torch.zeros(4, 1000)])
def test_a_thousand_classes_and_huge_norms(z):
    z = z.clone().requires_grad_()
    out = LogitNorm(.01).logits(z)
    F.cross_entropy(out, tensor([0, 1, 2, 3])).backward()
    assert torch.isfinite(out).all() and torch.isfinite(z.grad).all() and out.norm(dim=1).max() <= 100*(1+1e-5)

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    z = normalize_logits(torch.full((1, 10), 300., dtype=dtype), .04)
    assert z.dtype == torch.float32 and z.norm().item() == pytest.approx(25, rel=1e-5)

@pytest.mark.parametrize('K,tau,want', [(10, 1., 1.419869), (10, .1, 2.37862e-4), (8, 1., 1.224761),
                                        (10, .04, 3.2328e-11), (100, .04, 1.2122e-9)])
def test_floor(K, tau, want):
    assert norm_floor(K, tau) == pytest.approx(want, rel=1e-4)
    best = torch.full((1, K), -1., dtype=torch.float64)
    best[0, 0] = K-1        # of all directions the one that favours class 0
    assert ce(normalize_logits(best, tau), 0) == pytest.approx(want, rel=1e-3)
    if tau < .1: return
    l = F.cross_entropy(normalize_logits(torch.randn(5000, K, dtype=torch.float64), tau), torch.randint(K, (5000,)),
                        reduction='none')
    assert l.min() >= want

def test_warns_where_it_cannot_fit():
    def warned(tau, c):
        learn = tiny_learner(LogitNorm(tau), dls=tiny_dls(c=c))
        with warnings.catch_warnings(record=True) as w:
            warnings.simplefilter('always')
            learn.fit(1)
        return [str(o.message) for o in w if issubclass(o.category, RobustWarning)]
    assert 'with 3 classes cannot bring the loss below 0.462' in warned(1., 3)[0]       # log(1 + 2 exp(-sqrt(3/2)))
    assert not warned(.04, 3)

SMOOTH = [CrossEntropyLossFlat(label_smoothing=.1), nn.CrossEntropyLoss(label_smoothing=.1),
          CrossEntropy(label_smoothing=.1), LabelSmoothingCrossEntropy(), LabelSmoothingCrossEntropyFlat(),
          partial(F.cross_entropy, label_smoothing=.1)]

@pytest.mark.parametrize('loss', SMOOTH)
def test_label_smoothing_is_warned_of(loss):
    "ln((1 - .1 + .1/3)/(.1/3)) = 3.3"
    learn = tiny_learner(LogitNorm(.04), loss_func=loss)
    with pytest.warns(RobustWarning, match=r'got 0.1 of it: .* only 3.3 above the others.*norm \(25\)'): learn.fit(1)

def test_that_of_a_techniques_own_loss_too():
    learn = tiny_learner([LogitNorm(.04), AugLoss(CrossEntropy(label_smoothing=.2))])
    with pytest.warns(RobustWarning, match='got 0.2 of it'): learn.fit(1)

@pytest.mark.filterwarnings('error::fastrobust.basics.RobustWarning')
@pytest.mark.parametrize('loss', [CrossEntropyLossFlat(), CrossEntropy(), GCELoss(), F.cross_entropy])
def test_losses_without_it_are_not(loss): tiny_learner(LogitNorm(.04), loss_func=loss).fit(1)

def test_smoothing_that_asks_for_more_than_the_norm_is_not_warned_of():
    learn = tiny_learner(LogitNorm(1.), loss_func=CrossEntropy(label_smoothing=.1))
    with pytest.warns(RobustWarning) as said: learn.fit(1)
    assert ['cannot bring the loss below' in str(o.message) for o in said] == [True]

@pytest.mark.parametrize('eps', [.01, .1, .4])
def test_what_smoothing_does_to_normalised_logits(eps):
    "Free logits: the label's stands ln(1 + K(1-eps)/eps) above the others, the rest of the norm is a common shift"
    k,tau = 10,.04
    torch.manual_seed(0)
    y = torch.arange(k)
    ends = {}
    for e in (0., eps):
        z = torch.randn(k, k, dtype=torch.float64).requires_grad_()
        opt = torch.optim.LBFGS([z], max_iter=500, tolerance_grad=1e-9, line_search_fn='strong_wolfe')
        def loss(z=z, e=e, opt=opt):
            opt.zero_grad()
            l = F.cross_entropy(LogitNorm(tau).logits(z), y, label_smoothing=e)
            l.backward()
            return l
        opt.step(loss)
        n = LogitNorm(tau).logits(z.detach())
        common = (n.mean(1)**2*k/(n**2).sum(1)).mean().item()
        gap = (n[y, y] - (n.sum(1)-n[y, y])/(k-1)).mean().item()
        ends[e] = common,gap
    want = math.log(1 + k*(1-eps)/eps)
    assert ends[eps][1] == pytest.approx(want, abs=.02)
    assert ends[eps][0] == pytest.approx(1 - want**2*(k-1)/k*tau**2, abs=.01) and ends[eps][0] > .9 > ends[0.][0]

def test_trains_normalised_and_predicts_raw():
    learn = tiny_learner(LogitNorm(1.))
    with pytest.warns(RobustWarning): learn.fit(2, 1e-2)
    assert all(v[0] >= norm_floor(3, 1.) for v in learn.recorder.values)
    z = torch.cat([learn.model.eval()(b[0]) for b in learn.dls.valid]).detach().as_subclass(torch.Tensor)
    assert torch.allclose(learn.get_preds()[0], z.softmax(1), atol=1e-6) and (z.norm(dim=1)-1).abs().max() > .05

@pytest.mark.parametrize('tau', [0, -1, float('nan')])
def test_bad_tau(tau):
    with pytest.raises(ValueError, match='`tau` must be positive, got'): LogitNorm(tau)
    with pytest.raises(ValueError, match='`tau` must be positive, got'): normalize_logits(V, tau)
