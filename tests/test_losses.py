"Losses: values of the papers' formulas by hand, identities, gradients, stability, and life in a fastai Learner"
import ast, copy, inspect, math, pickle, warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import nn

import fastrobust.losses as L
import fastrobust.lossfunctions as LF
from fastrobust.basics import RobustWarning
from fastrobust.losses import (AELLoss, AGCELoss, AULLoss, AlphaLoss, BootstrapLoss, CrossEntropy,
                               FocalCELoss, FuncLoss, GCELoss, MAELoss, NCELoss, NCEandMAE,
                               NCEandRCE, NFLLoss, PHuberCELoss, RCELoss, RobustLoss, SCELoss,
                               TaylorCELoss, TruncatedGCELoss)
from fastrobust.lossfunctions import (ael, agce, alpha_loss, aul, bootstrap_ce, focal_ce, gce, jsd,
                                      mae_loss, nce, nce_mae, nce_rce, nfl, phuber_ce, rce, sce,
                                      soft_ce, taylor_ce, truncated_gce)

Z = torch.tensor([[2,.5,-1,0,1], [-.3,.8,.1,1.5,-2], [0,0,0,0,0], [5,-5,0,1,2]], dtype=torch.float64)
Y = torch.tensor([0,1,2,1])
A4,inf = math.log(1e-4),math.inf
fast = settings(derandomize=True, deadline=None, max_examples=40)

# --- values: the table of spec/augment_shift.md §8 -------------------------------------------------------------------
TABLE = [
    (soft_ce, {}, (.574438, 1.362007, 1.609438, 10.072215)),
    (mae_loss, {}, (.436979, .743854, .800000, .999958)),
    (gce, dict(q=.7), (.472986, .877962, .965527, 1.427333)),
    (alpha_loss, dict(alpha=10/3), (.472986, .877962, .965527, 1.427333)),
    (truncated_gce, dict(q=.7, k=.5), (.472986, .549183, .549183, .549183)),
    (rce, {}, (4.024723, 6.851146, 7.368272, 9.209951)),
    (rce, dict(A=-4.), (1.747915, 2.975415, 3.200000, 3.999831)),
    (sce, dict(alpha=.1, beta=1.), (4.082167, 6.987347, 7.529216, 10.217173)),
    (nce, {}, (.055383, .127171, .200000, .450435)),
    (nce_rce, dict(alpha=1., beta=1.), (4.080106, 6.978317, 7.568272, 9.660387)),
    (nce_mae, dict(alpha=1., beta=1.), (.492361, .871025, 1.000000, 1.450393)),
    (focal_ce, dict(gamma=2.), (.109689, .753623, 1.030040, 10.071364)),
    (focal_ce, dict(gamma=.5), (.379729, 1.174689, 1.439525, 10.072002)),
    (alpha_loss, dict(alpha=2.), (.499305, .987782, 1.105573, 1.987002)),
    (alpha_loss, dict(alpha=4.), (.466706, .853263, .934574, 1.332635)),
    (agce, dict(a=.6, q=.6), (.384895, .691266, .751820, .982881)),
    (agce, dict(a=6., q=1.5), (1.137902, 1.914803, 2.054922, 2.548777)),
    (aul, dict(a=5.5, q=3.), (9.735911, 17.690166, 19.250667, 25.082056)),
    (aul, dict(a=6.3, q=1.5), (1.026460, 1.771230, 1.909582, 2.407466)),
    (taylor_ce, dict(t=2), (.532454, 1.020513, 1.120000, 1.499916)),
    (taylor_ce, dict(t=6), (.573730, 1.308031, 1.502293, 2.449747)),
    (phuber_ce, dict(tau=2.), (.574438, 1.180855, 1.293147, 1.693063)),
    (phuber_ce, dict(tau=10.), (.574438, 1.362007, 1.609438, 3.302163)),
]
CLASS = {soft_ce: CrossEntropy, mae_loss: MAELoss, gce: GCELoss, truncated_gce: TruncatedGCELoss, rce: RCELoss,
         sce: SCELoss, nce: NCELoss, nce_rce: NCEandRCE, nce_mae: NCEandMAE, focal_ce: FocalCELoss, nfl: NFLLoss,
         alpha_loss: AlphaLoss, taylor_ce: TaylorCELoss, phuber_ce: PHuberCELoss, agce: AGCELoss, aul: AULLoss,
         ael: AELLoss, bootstrap_ce: BootstrapLoss}
MORE = [(nfl, {}), (ael, {}), (alpha_loss, dict(alpha=.7)), (alpha_loss, dict(alpha=1.)), (alpha_loss, dict(alpha=inf)),
        (bootstrap_ce, {}), (bootstrap_ce, dict(beta=.8, hard=True)), (focal_ce, dict(detach_weight=True)),
        (nfl, dict(gamma=2., detach_weight=True))]
ALL = [(f,k) for f,k,_ in TABLE] + MORE
ids = lambda o: o.__name__ if callable(o) else str(o) if isinstance(o, dict) else ''
each = pytest.mark.parametrize('f,kw', ALL, ids=ids)
means = {0: 3.404524, 1: .745198, 2: .935952, 4: .530134, 5: 6.863523, 6: 2.980790, 7: 7.203976, 8: .208247,
         9: 7.071770, 10: .953445, 11: 2.991179,
         12: 3.266486, 13: 1.144916, 14: .896794, 15: .702715, 16: 1.914101, 17: 17.939700,
         18: 1.778684, 19: 1.043221, 20: 1.458450, 21: 1.185376, 22: 1.712011}

@pytest.mark.parametrize('f,kw,want', TABLE, ids=ids)
def test_values_of_the_table(f, kw, want):
    assert torch.allclose(f(Z, Y, **kw), torch.tensor(want, dtype=Z.dtype), rtol=0, atol=1e-5)
    assert torch.allclose(f(Z.float(), Y, **kw), torch.tensor(want), rtol=2e-6, atol=1e-5)
    assert torch.allclose(CLASS[f](**kw, reduction='none')(Z, Y), torch.tensor(want, dtype=Z.dtype), rtol=0, atol=1e-5)

@pytest.mark.parametrize('i,want', means.items())
def test_means_of_the_table(i, want):
    f,kw,_ = TABLE[i]
    assert CLASS[f](**kw)(Z, Y).item() == pytest.approx(want, abs=1e-5)

def _probs(z):
    e = [math.exp(v-max(z)) for v in z]
    return [v/sum(e) for v in e]

def test_losses_outside_the_table_against_plain_floats():
    for i,(z,y) in enumerate(zip(Z.tolist(), Y.tolist())):
        p = _probs(z)
        fl = [-(1-v)**.5*math.log(v) for v in p]
        assert nfl(Z, Y)[i].item() == pytest.approx(fl[y]/sum(fl), rel=1e-9)
        assert ael(Z, Y)[i].item() == pytest.approx(math.exp(-p[y]/2.5), rel=1e-9)
        assert alpha_loss(Z, Y, .7)[i].item() == pytest.approx(.7/-.3*(1-p[y]**(1-1/.7)), rel=1e-9)
        soft = -.95*math.log(p[y]) - .05*sum(v*math.log(v) for v in p)
        assert bootstrap_ce(Z, Y)[i].item() == pytest.approx(soft, rel=1e-9)
        hard = -.8*math.log(p[y]) - .2*math.log(max(p))
        assert bootstrap_ce(Z, Y, .8, hard=True)[i].item() == pytest.approx(hard, rel=1e-9)

def test_every_exported_loss_is_covered():
    own = lambda m: {k for k,o in vars(m).items() if getattr(o, '__module__', '') == m.__name__ and k[0] != '_'}
    assert {f.__name__ for f,_ in ALL} == own(LF) - {'jsd', 'expect', 'loss_inputs'} and set(LF.__all__) <= own(LF)
    assert {c.__name__ for c in CLASS.values()} == own(L) - {'RobustLoss', 'FuncLoss', 'BalancedGCELoss'}
    assert set(L.__all__) <= own(L)

# --- stability -------------------------------------------------------------------------------------------------------
STABLE = [(soft_ce, {}, 100), (nce, {}, .5), (gce, {}, 1.428571), (rce, {}, 9.210340),
          (phuber_ce, dict(tau=10.), 3.302585), (alpha_loss, dict(alpha=2.), 2.), (taylor_ce, dict(t=2), 1.5)]
@pytest.mark.parametrize('f,kw,want', STABLE, ids=ids)
def test_confidently_wrong_in_float32(f, kw, want):
    assert f(torch.tensor([[100.,0,0]]), torch.tensor([1]), **kw).item() == pytest.approx(want, rel=1e-6)

@each
@pytest.mark.parametrize('top', (100., 200., 3e4))
@pytest.mark.parametrize('soft', (False, True))
def test_loss_and_gradient_stay_finite(f, kw, top, soft):
    z = torch.tensor([[top,0,0], [top,0,0], [0,-top,top], [top,top,0]]).requires_grad_()
    y = torch.tensor([1,0,1,2])
    if soft: y = F.one_hot(y, 3)*.8 + .2/3
    l = f(z, y, **kw)
    l.sum().backward()
    assert l.isfinite().all() and z.grad.isfinite().all()

def test_cross_entropy_class_and_jsd_are_stable_too():
    for top in (100., 200.):
        z = torch.tensor([[top,0,0]]).requires_grad_()
        (CrossEntropy()(z, torch.tensor([1])) + jsd([z, torch.tensor([[0,top,0]]), torch.zeros(1,3)])).backward()
        assert z.grad.isfinite().all() and z.grad.abs().sum() > .9

def test_a_confidently_wrong_sample_keeps_its_gradient():
    z = torch.tensor([[20.,0,0]]).requires_grad_()  # p = 2e-9: below the clamp of 1e-7 of public code
    gce(z, torch.tensor([1]), q=.3).sum().backward()
    assert z.grad[0,1].item() == pytest.approx(-(math.exp(-20)**.3), rel=1e-3)

@each
def test_half_precision_is_computed_in_float32(f, kw):
    for dt in (torch.float16, torch.bfloat16):
        z = Z.to(dt)
        assert f(z, Y, **kw).dtype == torch.float32 and torch.equal(f(z, Y, **kw), f(z.float(), Y, **kw))
    assert f(Z, Y, **kw).dtype == torch.float64

# --- gradients -------------------------------------------------------------------------------------------------------
smooth = [(f,k) for f,k in ALL if not k.get('detach_weight') and f is not bootstrap_ce and f is not truncated_gce]
@pytest.mark.parametrize('f,kw', smooth, ids=ids)
def test_gradcheck(f, kw):
    z = Z.clone().requires_grad_()
    t = torch.softmax(Z.flip(0)*.5, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: f(z, Y, **kw), z)
    assert torch.autograd.gradcheck(lambda z,t: f(z, t, **kw), (z,t), eps=1e-8, atol=1e-4)

def test_gradcheck_of_jsd_and_of_the_smooth_part_of_truncated_gce():
    a,b = Z.clone().requires_grad_(),Z.flip(0).clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda a,b: jsd([a,b,a*b]), (a,b))
    assert torch.autograd.gradcheck(lambda a: truncated_gce(a, Y), a)

def test_truncation_stops_the_gradient_below_k_only():
    z = Z.clone().requires_grad_()
    truncated_gce(z, Y, k=.5).sum().backward()
    g = z.grad.clone(); z.grad = None
    gce(z, Y).sum().backward()
    assert torch.equal(g[0], z.grad[0]) and g[1:].abs().max() == 0

def test_detached_focal_weight_changes_the_gradient_not_the_value():
    for f in (focal_ce, nfl):
        a,b = Z.clone().requires_grad_(),Z.clone().requires_grad_()
        la,lb = f(a, Y),f(b, Y, detach_weight=True)
        la.sum().backward(); lb.sum().backward()
        assert torch.equal(la, lb) and not torch.allclose(a.grad, b.grad, atol=1e-3)
    z = Z.clone().requires_grad_()
    focal_ce(z, Y, 2., detach_weight=True).sum().backward()
    p = Z.softmax(1); w = (1-p[range(4),Y])**2
    assert torch.allclose(z.grad, w[:,None]*(p-F.one_hot(Y,5)))     # weight times the gradient of CE

def test_bootstrap_detaches_its_own_label():
    z = Z.clone().requires_grad_()
    bootstrap_ce(z, Y, beta=.6).sum().backward()
    p = Z.softmax(1)
    assert torch.allclose(z.grad, p - (.6*F.one_hot(Y,5) + .4*p))
    z.grad = None
    bootstrap_ce(z, Y, beta=.6, hard=True).sum().backward()
    assert torch.allclose(z.grad, p - (.6*F.one_hot(Y,5) + .4*F.one_hot(Z.argmax(1),5)))

# --- identities of §4.2 ----------------------------------------------------------------------------------------------
@st.composite
def batches(draw, c=None):
    c = c or draw(st.integers(2, 7))
    row = st.lists(st.floats(-8, 8, width=32), min_size=c, max_size=c)
    z = draw(st.lists(row, min_size=1, max_size=4))
    y = draw(st.lists(st.integers(0, c-1), min_size=len(z), max_size=len(z)))
    return torch.tensor(z, dtype=torch.float64),torch.tensor(y)
close = partial(torch.allclose, rtol=1e-9, atol=1e-9)

@fast
@given(batches(), st.floats(1.01, 50))
def test_I1_alpha_loss_is_gce(b, alpha):
    assert close(alpha_loss(*b, alpha), gce(*b, 1-1/alpha))
    assert close(alpha_loss(*b, inf), mae_loss(*b)) and close(alpha_loss(*b, 1), soft_ce(*b))
    assert torch.allclose(alpha_loss(*b, 1+1e-9), soft_ce(*b), atol=1e-6) and close(gce(*b, 1), mae_loss(*b))
    assert torch.allclose(gce(*b, 1e-9), soft_ce(*b), atol=1e-6)

@fast
@given(batches(), st.integers(1, 20))
def test_I2_taylor_climbs_from_mae_to_ce(b, t):
    assert close(taylor_ce(*b, 1), mae_loss(*b))
    assert (taylor_ce(*b, t) <= taylor_ce(*b, t+1)+1e-12).all() and (taylor_ce(*b, t) <= soft_ce(*b)+1e-12).all()

def test_I2_taylor_converges_to_ce():
    assert torch.allclose(taylor_ce(Z[:3], Y[:3], 300), soft_ce(Z[:3], Y[:3]), atol=1e-9)

@fast
@given(batches(), st.floats(1.01, 60))
def test_I3_phuber_is_below_ce_and_equal_above_one_over_tau(b, tau):
    z,y = b
    l,ce = phuber_ce(z, y, tau),soft_ce(z, y)
    p = (-ce).exp()
    assert (l <= ce+1e-9).all() and close(l[p>1/tau], ce[p>1/tau]) and (l <= 1+math.log(tau)+1e-9).all()

def test_I3_phuber_slope_is_at_most_tau():
    p = torch.linspace(1e-4, .9999, 2000, dtype=torch.float64)
    l = phuber_ce(torch.stack([p.log(), (1-p).log()], 1), torch.zeros(2000).long(), 5.)
    s = (l[1:]-l[:-1])/(p[1:]-p[:-1])
    assert s.min() >= -5-1e-6 and s.max() < 0 and (s[1:]-s[:-1]).min() > -1e-6     # convex, C1

@fast
@given(batches())
def test_I4_sums_over_the_labels(b):
    z,c = b[0],b[0].shape[1]
    total = lambda f,**kw: sum(f(z, torch.full((len(z),), k), **kw) for k in range(c))
    one = torch.ones(len(z), dtype=z.dtype)
    assert close(total(mae_loss), (c-1)*one) and close(total(nce), one) and close(total(rce), -A4*(c-1)*one)
    assert close(total(nfl), one) and close(total(nfl, gamma=2., detach_weight=True), one)
    g = total(gce, q=.7)
    assert (g >= (c-c**.3)/.7-1e-9).all() and (g <= (c-1)/.7+1e-9).all()

def test_I4_sums_of_the_table():
    total = lambda f,**kw: sum(f(Z, torch.full((4,), k), **kw) for k in range(5))
    assert torch.allclose(total(gce), torch.tensor([5.025686,5.023664,4.827633,5.493551]).double(), atol=1e-5)
    assert torch.allclose(total(rce), torch.full((4,), 36.841361).double(), atol=1e-5)

@fast
@given(batches(), st.floats(1.1, 9), st.floats(.1, 3))
def test_I5_I6_I9_special_cases(b, a, w):
    assert close(agce(*b, a, 1), mae_loss(*b)) and close(aul(*b, a, 1), mae_loss(*b))
    assert close(focal_ce(*b, 0), soft_ce(*b)) and close(nfl(*b, 0), nce(*b))
    assert close(rce(*b), -A4*mae_loss(*b)) and close(nce_rce(*b, w, a), nce_mae(*b, w, -A4*a))
    assert close(sce(*b, w, a, A=-4), w*soft_ce(*b) + a*rce(*b, -4)) and close(bootstrap_ce(*b, 1), soft_ce(*b))

@each
def test_I7_falls_in_p_at_fixed_remaining_ratios(f, kw):
    s = torch.linspace(-6, 6, 200, dtype=torch.float64)
    z = torch.stack([torch.full_like(s, .3), s, torch.full_like(s, -.9)], 1)
    if f is bootstrap_ce: z = z[z[:,1]<.3]          # above it the model agrees with the label and lets it go
    d = f(z, torch.ones(len(z)).long(), **kw).diff()
    assert (d <= 1e-12).all() if f in (truncated_gce,bootstrap_ce) else (d < 0).all()

@each
@settings(fast, max_examples=10)
@given(b=batches(), shift=st.floats(-50, 50), seed=st.integers(0, 99))
def test_I8_permutation_and_shift_leave_it(f, kw, b, shift, seed):
    z,y = b
    c = z.shape[1]
    p = torch.randperm(c, generator=torch.Generator().manual_seed(seed))    # new column i holds old class p[i]
    q = torch.randperm(len(z), generator=torch.Generator().manual_seed(seed))
    l = f(z, y, **kw)
    ok = partial(torch.allclose, rtol=1e-7, atol=1e-9)
    assert ok(f(z[:,p], p.argsort()[y], **kw), l) and ok(f(z+shift, y, **kw), l) and ok(f(z[q], y[q], **kw), l[q])

def test_I10_asymmetry_ratio_of_agce():
    "robust iff w_max/w_other >= ((a+1)/a)^(1-q): then the weighted risk is least at p of the heavier label = 1"
    a,q = .6,.6
    p = torch.linspace(1e-6, 1-1e-6, 4001, dtype=torch.float64)
    z = torch.stack([p.log(), (1-p).log()], 1)
    y0 = torch.zeros(len(p)).long()
    risk = lambda r: r*agce(z, y0, a, q) + agce(z, y0+1, a, q)
    edge = ((a+1)/a)**(1-q)
    assert risk(edge*1.02).argmin() == len(p)-1 and risk(edge*.9).argmin() < len(p)-1

def test_I11_two_classes():
    z = torch.tensor([[.7,-.4], [-2.,1.]], dtype=torch.float64)
    p = torch.sigmoid(z[:,0]-z[:,1])
    y = torch.zeros(2).long()
    assert close(nce(z, y), p.log()/(p.log()+(1-p).log())) and close(mae_loss(z, y), 1-p)
    assert close(nce_mae(z, y, 2., 3.), 2*p.log()/(p.log()+(1-p).log()) + 3*(1-p))

# --- targets and reductions ------------------------------------------------------------------------------------------
@each
@settings(fast, max_examples=15)
@given(b=batches(c=4), w=st.floats(0, 1))
def test_soft_targets_are_linear_and_one_hot_is_hard(f, kw, b, w):
    z,y = b
    h = lambda y: F.one_hot(y, 4).double()
    y2 = (y+1)%4
    assert close(f(z, h(y), **kw), f(z, y, **kw))
    assert close(f(z, w*h(y)+(1-w)*h(y2), **kw), w*f(z, y, **kw) + (1-w)*f(z, y2, **kw))

@each
def test_none_mean_and_sum_agree(f, kw):
    if f is soft_ce: kw = {}
    lf = CLASS[f](**kw)
    for y in (Y, F.one_hot(Y,5).double(), Y[:,None], Y.to(torch.int32), Y.to(torch.uint8)):
        lf.reduction = 'none'; l = lf(Z, y)
        lf.reduction = 'sum';  s = lf(Z, y)
        lf.reduction = 'mean'; m = lf(Z, y)
        assert l.shape==(4,) and close(s, l.sum()) and close(m, l.mean()) and close(l, f(Z, Y, **kw))
    assert CLASS[f](**kw, reduction='sum').reduction == 'sum'

def test_settings_are_attributes_and_positional():
    l = GCELoss(.5, reduction='none')
    assert torch.equal(l(Z, Y), gce(Z, Y, .5))
    l.q = .9
    assert torch.equal(l(Z, Y), gce(Z, Y, .9)) and repr(l) == "GCELoss(q=0.9, reduction='none')"
    assert str(inspect.signature(SCELoss)).startswith('(alpha: float = 0.1, beta: float = 1.0, A: float = -9.21')
    l.q = 3
    with pytest.raises(ValueError, match='q'): l(Z, Y)

def test_own_function_becomes_a_loss():
    class Mine(RobustLoss, fn=lambda z, y, s=2.: s*soft_ce(z, y)): "Twice CE"
    assert close(Mine()(Z, Y), 2*soft_ce(Z, Y).mean()) and close(Mine(3.)(Z, Y), 3*soft_ce(Z, Y).mean())

@pytest.mark.parametrize('lf', [C() for C in CLASS.values()] + [FuncLoss(F.cross_entropy), CrossEntropy(torch.ones(5))],
                         ids=lambda l: type(l).__name__)
def test_pickle_deepcopy_activation_decodes(lf):
    for o in (pickle.loads(pickle.dumps(lf)), copy.deepcopy(lf)):
        o.reduction = 'none'
        assert lf.reduction == 'mean' and torch.equal(o(Z, Y).mean(), lf(Z, Y)) and o.y_int is True
    assert torch.equal(lf.activation(Z), Z.softmax(1)) and torch.equal(lf.decodes(Z), Z.argmax(1))
    assert "reduction='mean'" in repr(lf) and not list(lf.parameters())

def test_bounded_says_whether_the_loss_has_a_ceiling():
    z,y = torch.tensor([[1e4,0,0]]),torch.tensor([1])
    for C in CLASS.values(): assert C().bounded is bool(C(reduction='none')(z, y).item() < 100), C
    assert not AlphaLoss(.9).bounded and not AlphaLoss(1).bounded

# --- CrossEntropy: torch's own numbers -------------------------------------------------------------------------------
@pytest.mark.parametrize('kw', [{}, dict(weight=torch.tensor([1.,2,3,4,5])), dict(ignore_index=1),
                                dict(label_smoothing=.2),
                                dict(weight=torch.tensor([1.,2,3,4,5]), ignore_index=2, label_smoothing=.1)], ids=str)
@pytest.mark.parametrize('red', ('mean','sum','none'))
def test_cross_entropy_is_torchs_bitwise(kw, red):
    z = Z.float()
    assert torch.equal(CrossEntropy(**kw, reduction=red)(z, Y), nn.CrossEntropyLoss(**kw, reduction=red)(z, Y))
    if 'ignore_index' not in kw:
        t = z.flip(0).softmax(1)
        assert torch.equal(CrossEntropy(**kw, reduction=red)(z, t), nn.CrossEntropyLoss(**kw, reduction=red)(z, t))

def test_cross_entropy_skips_ignored_labels_by_default():
    y = torch.tensor([0,-100,2,-100])
    assert close(CrossEntropy()(Z, y), soft_ce(Z, Y)[[0,2]].mean())
    assert CrossEntropy(reduction='none')(Z, y)[1] == 0
    lf = CrossEntropy([1,2,3,4,5])
    lf(Z, Y); lf(Z.half(), Y)                       # ints, float64 and half logits against the same weights
    assert 'weight' in dict(lf.named_buffers())

# --- errors ----------------------------------------------------------------------------------------------------------
BAD = [(GCELoss, dict(q=0)), (GCELoss, dict(q=1.1)), (GCELoss, dict(q=math.nan)), (TruncatedGCELoss, dict(q=2)),
       (TruncatedGCELoss, dict(k=0)), (TruncatedGCELoss, dict(k=1)), (RCELoss, dict(A=0)), (SCELoss, dict(A=4)),
       (SCELoss, dict(alpha=-1)), (NCEandRCE, dict(alpha=0, beta=0)), (NCEandRCE, dict(A=1.)),
       (NCEandMAE, dict(beta=-.5)), (AlphaLoss, dict(alpha=0)), (TaylorCELoss, dict(t=0)),
       (TaylorCELoss, dict(t=2.5)), (PHuberCELoss, dict(tau=1)),
       (AGCELoss, dict(a=0)), (AGCELoss, dict(q=0)), (AULLoss, dict(a=1)), (AULLoss, dict(q=-1)), (AELLoss, dict(a=0)),
       (BootstrapLoss, dict(beta=1.1)), (FocalCELoss, dict(gamma=-1)), (NFLLoss, dict(gamma=-.5)),
       (CrossEntropy, dict(label_smoothing=2))]
@pytest.mark.parametrize('C,kw', BAD, ids=str)
def test_bad_settings_say_expected_got_and_remedy(C, kw):
    k = list(kw)[0]
    with pytest.raises(ValueError, match=rf'(?s)Expected .*`{k}`.*, got .*\. \w+ ') as e: C(**kw)
    assert str(list(kw.values())[0]) in str(e.value)
    f = next(f for f,c in CLASS.items() if c is C)
    if C is not CrossEntropy:
        with pytest.raises(ValueError, match=f'`{k}`'): f(Z, Y, **kw)

@pytest.mark.parametrize('f', list(CLASS) + [CrossEntropy()], ids=lambda f: getattr(f, '__name__', 'CrossEntropy'))
def test_bad_inputs_are_refused(f):
    bad = [(Z, torch.tensor([0,1,2,5]), r'labels in 0\.\.4, got \[5\]'), (Z, torch.tensor([0,-1,2,1]), r'got \[-1\]'),
           (Z, Y.float(), r'float32, 4.*`\.long\(\)`'), (Z, Y[:3], r'int labels \(4,\).*int64, 3'),
           (Z, torch.ones(4,4)/4, r'probabilities \(4, 5\).*float32, 4, 4'), (Z, F.one_hot(Y,5), r'`\.float\(\)`'),
           (Z, Z, 'rows of `y` that sum to 1'), (Z[0], Y, r'logits of shape \(bs, c\)'),
           (Z.long(), Y, 'float logits.*int64'), (Z[:,:1], Y*0, 'two outputs'), (Z[...,None], Y, 'Flatten')]
    for z,y,msg in bad:
        with pytest.raises(ValueError, match=f'(?s)Expected .*{msg}'): f(z, y)
    with pytest.raises(TypeError, match='tensor, got .*tuple.*one head'): f((Z,Z), Y)
    with pytest.raises(TypeError, match='tensor, got .*list'): f(Z, [0,1,2,1])

def test_only_cross_entropy_takes_its_ignore_index_and_only_that():
    y = torch.tensor([0,-100,1,1])
    with pytest.raises(ValueError, match='CrossEntropy'): gce(Z, y)
    with pytest.raises(ValueError, match=r'got \[-100\]'): CrossEntropy(ignore_index=-1)(Z, y)

def test_reduction_is_checked():
    for lf in (GCELoss(), CrossEntropy(), FuncLoss(F.cross_entropy)):
        with pytest.raises(ValueError, match="'mean', 'sum' or 'none', got 'avg'"): lf.reduction = 'avg'
        assert lf.reduction == 'mean'
    with pytest.raises(ValueError, match='reduction'): MAELoss(reduction=None)
    with pytest.raises(TypeError): GCELoss(gamma=2)

def test_empty_batch_gives_an_empty_vector():
    for f,kw in ALL: assert f(Z[:0], Y[:0], **kw).shape == (0,)

def test_truncated_gce_warns_once_where_nothing_can_learn():
    lf,z = TruncatedGCELoss(),torch.zeros(3,5)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        lf(z, Y[:3])                                                    # no gradient asked for: validation
        TruncatedGCELoss()(Z.clone().requires_grad_(), Y)               # one sample above k
    with pytest.warns(RobustWarning, match='Warm up'): l = lf(z.requires_grad_(), Y[:3])
    l.backward()
    assert z.grad.abs().max() == 0
    with warnings.catch_warnings():
        warnings.simplefilter('error'); lf(z, Y[:3])

# --- jsd -------------------------------------------------------------------------------------------------------------
def ref_jsd(zs):
    "float64 loops, KL(view || mixture), mixture clamped at 1e-7"
    ps = [np.array([_probs(r) for r in z.double().tolist()]) for z in zs]
    tot = 0.
    for b in range(ps[0].shape[0]):
        for p in ps:
            for k in range(p.shape[1]):
                m = min(max(sum(o[b,k] for o in ps)/len(ps), 1e-7), 1)
                if p[b,k] > 0: tot += p[b,k]*(math.log(p[b,k])-math.log(m))/len(ps)
    return tot/ps[0].shape[0]

@fast
@given(st.integers(2, 4), st.integers(1, 4), st.integers(2, 6), st.floats(.1, 30), st.integers(0, 10**6))
def test_jsd_against_loops_and_its_properties(n, bs, c, scale, seed):
    g = torch.Generator().manual_seed(seed)
    zs = [torch.randn(bs, c, generator=g, dtype=torch.float64)*scale for _ in range(n)]
    v = jsd(zs)
    assert v.ndim == 0 and v.item() == pytest.approx(max(ref_jsd(zs), 0), abs=1e-12)
    assert 0 <= v <= math.log(n)+1e-12
    assert close(jsd(zs[::-1]), v) and close(jsd([z+7 for z in zs]), v)
    assert 0 <= jsd([zs[0]]*n) < 1e-7
    if scale < 2: assert v > 1e-5       # unequal views
    assert jsd([z.float() for z in zs]).item() == pytest.approx(v.item(), abs=1e-5)

def test_jsd_is_zero_only_for_equal_views_and_ln_n_for_disjoint_ones():
    e = torch.eye(3, dtype=torch.float64)*60
    assert jsd([e[None,0], e[None,1], e[None,2]]).item() == pytest.approx(math.log(3), abs=1e-9)
    assert jsd([Z, Z+1, Z-2]).item() < 1e-7 and jsd([Z, Z*1.1]) > 1e-5

def test_jsd_mixture_clamp_and_direction():
    z = torch.tensor([[0.,-40.]], dtype=torch.float64)
    a,b = torch.tensor([[0.,3.]]).double(),torch.tensor([[0.,-3.]]).double()
    p,q = a.softmax(1),b.softmax(1); m = (p+q)/2
    right = ((p*(p/m).log()).sum() + (q*(q/m).log()).sum())/2
    wrong = ((m*(m/p).log()).sum() + (m*(m/q).log()).sum())/2
    assert close(jsd([a,b]), right) and not torch.allclose(right, wrong, rtol=.1)
    one = torch.tensor([[0.,-15.]]).double()        # p_2 = 3e-7: mixture with z 1.5e-7 > 1e-7; with -17 it is clamped
    for t in (one, one-torch.tensor([0.,2.])):
        assert jsd([z,t]).item() == pytest.approx(max(ref_jsd([z,t]),0), abs=1e-15)
    t = torch.tensor([[0.,-16.5]]).double()
    p,q = z.softmax(1),t.softmax(1); free = sum((o*(o/((p+q)/2)).log()).sum() for o in (p,q))/2
    assert jsd([z,t]) < free*.9                     # the clamp is felt
    z.requires_grad_(); a.requires_grad_()
    jsd([z,a]).backward()
    assert z.grad.abs().sum() > 0 and a.grad.abs().sum() > 0        # nothing is detached

def test_jsd_refuses_one_view_and_uneven_ones():
    for zs in ([Z], [Z, Z[:2]], [Z[0], Z[0]]):
        with pytest.raises(ValueError, match='2 or more logits.*each view'): jsd(zs)
    assert torch.equal(jsd(torch.stack([Z, Z.flip(0)])), jsd((Z, Z.flip(0))))
    assert jsd([Z.half(), Z.half()]).dtype == torch.float32

# --- FuncLoss --------------------------------------------------------------------------------------------------------
def test_func_loss_holds_reduction_and_writes_nothing():
    before = dict(vars(F.cross_entropy))
    p = partial(F.cross_entropy, label_smoothing=.1, weight=torch.arange(1.,6))
    for f in (F.cross_entropy, p):
        lf = FuncLoss(f)
        for red in ('mean','sum','none'):
            lf.reduction = red
            assert torch.equal(lf(Z.float(), Y), f(Z.float(), Y, reduction=red))
        assert lf.y_int and lf.torch_mean and torch.equal(lf.activation(Z), Z.softmax(1))
    assert dict(vars(F.cross_entropy)) == before and not hasattr(p, 'reduction')
    assert torch.equal(lf.weight, torch.arange(1.,6)) and lf.ignore_index == -100
    assert FuncLoss(F.cross_entropy).weight is None

def test_func_loss_takes_over_what_the_function_has():
    def f(z, y, reduction='sum'): return F.l1_loss(z[:,0], y.double(), reduction=reduction)
    lf = FuncLoss(f)
    assert lf.reduction == 'sum' and torch.equal(lf(Z, Y), f(Z, Y)) and FuncLoss(f, 'mean').reduction == 'mean'
    assert not lf.y_int and lf.activation(Z) is Z and lf.decodes(Z) is Z and not lf.torch_mean   # a regression
    f.activation,f.decodes,f.y_int = (lambda x: x*2),(lambda x: x*3),True
    for g in (f, partial(f)):
        lf = FuncLoss(g)
        assert lf.y_int and torch.equal(lf.activation(Z), Z*2) and torch.equal(lf.decodes(Z), Z*3)
    assert FuncLoss(partial(F.cross_entropy, reduction='sum')).reduction == 'sum'
    class M(nn.Module):
        def forward(self, z, y, reduction='mean'): return F.cross_entropy(z, y, reduction=reduction)
    assert torch.equal(FuncLoss(M(), 'none')(Z, Y), soft_ce(Z, Y))

def test_func_loss_refuses_functions_without_reduction():
    class M(nn.Module):
        def forward(self, z, y): return z.sum()
    for f in (lambda z, y: z.sum(), M(), gce, torch.dot, 5):
        with pytest.raises(TypeError, match='Expected a loss function with the keyword `reduction`, got .*Add it'):
            FuncLoss(f)
    deaf = FuncLoss(lambda z, y, **kw: F.cross_entropy(z, y), 'none')
    with pytest.raises(TypeError, match='one loss per sample'): deaf(Z, Y)

# --- in fastai -------------------------------------------------------------------------------------------------------
def make_learner(lf, **kw):
    from fastai.data.all import Categorize, Datasets, ItemGetter, ToTensor, Transform
    import fastai.callback.progress # noqa: F401 (no_bar)
    from fastai.learner import Learner
    g = torch.Generator().manual_seed(0)
    x,y = torch.randn(48, 6, generator=g),torch.randint(0, 3, (48,), generator=g).tolist()
    ds = Datasets(list(zip(x,y)), [[ItemGetter(0), Transform(lambda o: o)], [ItemGetter(1), Categorize(vocab=[0,1,2])]],
                  splits=[range(32),range(32,48)])
    dls = ds.dataloaders(bs=8, after_item=[ToTensor], device='cpu', num_workers=0)
    torch.manual_seed(1)
    return Learner(dls, nn.Linear(6,3), loss_func=lf, **kw)

@pytest.mark.parametrize('lf', [C() for C in CLASS.values() if C is not TruncatedGCELoss] + [FuncLoss(F.cross_entropy)],
                         ids=lambda l: type(l).__name__)
def test_learner_fit_with_loss_predict(lf):
    from fastai.metrics import accuracy
    learn = make_learner(lf, metrics=accuracy)
    w = learn.model.weight.clone()
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, .1)
        seen = learn.recorder.values[-1][1]     # get_preds wipes the recorder
        p,y,l = learn.get_preds(with_loss=True)
        _,_,dec = learn.get_preds(with_decoded=True)
    with torch.no_grad(): z = torch.cat([learn.model(b[0]) for b in learn.dls.valid])
    assert not torch.equal(w, learn.model.weight) and torch.allclose(p.sum(1), torch.ones(16))
    assert torch.equal(dec, z.argmax(1))
    lf.reduction = 'none'
    assert l.shape == (16,) and torch.allclose(l, lf(z, y.as_subclass(torch.Tensor)), atol=1e-6)
    lf.reduction = 'mean'
    assert seen == pytest.approx(lf(z, y.as_subclass(torch.Tensor)).item(), abs=1e-5)

@pytest.mark.parametrize('lf', [GCELoss(), SCELoss(), NCEandRCE(), CrossEntropy(), FuncLoss(F.cross_entropy)],
                         ids=lambda l: type(l).__name__)
def test_learner_with_mixup(lf):
    from fastai.callback.mixup import MixUp
    learn = make_learner(lf, cbs=MixUp(.4))
    with learn.no_bar(), learn.no_logging(): learn.fit(1, .1)
    assert learn.loss_func is lf and lf.reduction == 'mean' and math.isfinite(learn.recorder.values[-1][0])

def test_tensor_subclasses_give_plain_tensors():
    from fastai.torch_core import TensorBase, TensorCategory
    z,y = Z.clone().requires_grad_(),TensorCategory(Y)
    for lf in [C() for C in CLASS.values()]:
        for red in ('mean','none'):
            lf.reduction = red
            l = lf(z.as_subclass(TensorBase), y)
            assert type(l) is torch.Tensor and torch.equal(l, lf(Z, Y))
            z.grad = None; l.sum().backward()
            assert z.grad.isfinite().all()
    assert type(jsd([Z.as_subclass(TensorBase)]*2)) is torch.Tensor

def test_under_bf16_autocast():
    with torch.autocast('cpu', dtype=torch.bfloat16):
        z = nn.Linear(5,5).double().float()(Z.float())
        assert z.dtype == torch.bfloat16
        for f,kw in ALL: assert f(z, Y, **kw).dtype == torch.float32
        assert jsd([z,z]).dtype == torch.float32

# --- the file --------------------------------------------------------------------------------------------------------
def test_no_public_name_shadows_fastai():
    import fastai.vision.all as v
    assert [n for n in L.__all__ + LF.__all__ if hasattr(v, n)] == []

def test_every_setting_is_documented_and_the_papers_are_named():
    from fastcore.docments import docments
    for f,C in CLASS.items():
        ds = docments(f)
        for n in list(inspect.signature(f).parameters)[2:]: assert ds[n], (f,n)
        assert f is soft_ce or 'http' in f.__doc__
        assert C.__doc__

@pytest.mark.parametrize('module', [L, LF])
def test_of_others_they_need_torch_alone(module):
    tree = ast.walk(ast.parse(Path(module.__file__).read_text()))
    mods = {m for n in tree for m in ([n.module] if isinstance(n, ast.ImportFrom) else
                                      [a.name for a in n.names] if isinstance(n, ast.Import) else [])}
    assert {m.split('.')[0] for m in mods} <= {'inspect','math','functools','numbers','torch','fastrobust'}
