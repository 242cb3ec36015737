"JoCoR, Co-teaching, Co-teaching+, Decoupling against hand-computed batches and slow loops"
import numpy as np
import pytest
import torch
from torch.nn import functional as F
from hypothesis import given, settings, strategies as st
from fastai.losses import CrossEntropyLossFlat
from fastrobust.losses import GCELoss
from fastrobust.training.stages import Batch
from fastrobust.training.objective import Objective
from fastrobust.techniques.coteaching import CoTeaching, CoTeachingPlus
from fastrobust.techniques.decoupling import Decoupling
from fastrobust.techniques.jocor import JoCoR, symmetric_kl
from fastrobust.techniques.smallloss import SmallLoss

# what test_contract.py runs every technique through
CONTRACT = {JoCoR: dict(make=lambda: JoCoR(.3, gradual=.5))}

Z1 = torch.tensor([[2, 0, -1], [0, 1, 0], [-1, .5, 2], [.3, .2, .1]])
Z2 = torch.tensor([[1.5, .5, -1], [1, 0, 0], [-2, 0, 3], [0, 0, 0]])
Y = torch.tensor([0, 1, 0, 2])

def run(t, zs=(Z1, Z2), y=Y, base=None, epochs=99):
    "Loss, gradients and weights of one batch, past every ramp"
    t.epochs = epochs
    zs = [z.clone().requires_grad_() for z in zs]
    obj = Objective(base or CrossEntropyLossFlat())
    obj.stages,obj.batch = (t,),Batch(len(y))
    obj.batch.live,obj.batch.heads = True,list(zs)
    obj.train()
    l = obj(zs[0], y)
    return l,torch.autograd.grad(l, zs, allow_unused=True),obj.batch.w

def kept(w): return w.nonzero().flatten().tolist()

# --- JoCoR (specification, check 6) ----------------------------------------------------------------------------------
@pytest.mark.parametrize('lam,want,S', [(.1, 1.233682, [0, 1]), (.9, .211162, [0, 3]), (0., 1.322137, [0, 1])])
def test_jocor_by_hand(lam, want, S):
    l,gs,w = run(JoCoR(.5, lam))
    assert abs(l.item()-want) < 1e-6 and kept(w) == S
    for g in gs: assert g[[i for i in range(4) if i not in S]].abs().sum() == 0 and (g[S].abs().sum(1) > 0).all()

def test_kl_parts_by_hand():
    got = symmetric_kl(Z1, Z2)
    want = np.array([.080329, .364175, .102886, .003331]) + [.066493, .364175, .154835, .003325]
    assert np.allclose(got, want, atol=2e-6)
    assert torch.isfinite(symmetric_kl(Z1.half()*2e4, Z2.half())).all()

@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([0., .3, .65, .9, 1.]), st.sampled_from([0., .25, .5, .8]))
def test_jocor_against_a_loop_in_float64(seed, lam, tau):
    g = np.random.default_rng(seed)
    a,b,y = g.normal(size=(9, 4))*3,g.normal(size=(9, 4))*3,g.integers(0, 4, 9)
    def soft(z): e = np.exp(z-z.max()); return e/e.sum()
    joint = []
    for i in range(9):
        p,q = soft(a[i]),soft(b[i])
        kl = sum(p[k]*np.log(p[k]/q[k]) + q[k]*np.log(q[k]/p[k]) for k in range(4))
        joint.append((1-lam)*(-np.log(p[y[i]])-np.log(q[y[i]])) + lam*kl)
    k = max(1, int((1-tau)*9 + 1e-8))
    want = np.mean(sorted(joint)[:k])
    t = lambda v: torch.tensor(v)
    l,gs,_ = run(JoCoR(tau, lam), (t(a), t(b)), t(y))
    assert abs(l.item()-want) < 1e-6*max(1, want)
    swapped = run(JoCoR(tau, lam), (t(b), t(a)), t(y))
    assert abs(swapped[0]-l) < 1e-9 and torch.allclose(swapped[1][0], gs[1])
    moved = run(JoCoR(tau, lam), (t(a)+5, t(b)-3), t(y))[0]
    assert abs(moved-l) < 1e-6*max(1, want)

def test_equal_networks_have_no_divergence(): assert symmetric_kl(Z1, Z1).abs().max() < 1e-7

def test_bad_lam():
    for bad in (-.1, 1.1, float('nan')):
        with pytest.raises(ValueError, match='`lam`'): JoCoR(.3, bad)
    with pytest.raises(TypeError, match='`lam`'): JoCoR(.3, '.9')

# --- Co-teaching (specification, check 7) ----------------------------------------------------------------------------
def test_coteaching_exchanges_by_hand():
    l,gs,(wa,wb) = run(CoTeaching(.5))
    assert kept(wb) == [0, 1] and kept(wa) == [0, 3]        # network a chose 0, 1: b trains on them, and the reverse
    la,lb = F.cross_entropy(Z1, Y, reduction='none'),F.cross_entropy(Z2, Y, reduction='none')
    assert abs(la[[0, 3]].mean()-.685894) < 2e-6 and abs(l.item() - (la[[0, 3]].mean()+lb[[0, 1]].mean()).item()) < 1e-6
    ga = torch.zeros(4, 3); p = Z1.softmax(1)
    for i in (0, 3): ga[i] = (p[i]-F.one_hot(Y[i], 3))/2
    assert torch.allclose(gs[0], ga, atol=1e-6) and gs[1][[2, 3]].abs().sum() == 0

def test_coteaching_with_another_base_loss():
    l,_,(wa,wb) = run(CoTeaching(.5), base=GCELoss())
    la,lb = (GCELoss(reduction='none')(z, Y) for z in (Z1, Z2))
    assert abs(l.item() - ((la*wa).sum()/2+(lb*wb).sum()/2).item()) < 1e-6

def test_all_kept_is_two_plain_runs_and_twins_choose_alike():
    l,gs,_ = run(CoTeaching(0.))
    assert abs(l.item() - (F.cross_entropy(Z1, Y)+F.cross_entropy(Z2, Y)).item()) < 1e-6
    _,_,(wa,wb) = run(CoTeaching(.5), (Z1, Z1))
    assert torch.equal(wa, wb)

def test_one_network_keeps_its_own():
    l,(g,),w = run(SmallLoss(.5), (Z1,))
    assert kept(w) == [0, 1] and abs(l.item() - F.cross_entropy(Z1[:2], Y[:2]).item()) < 1e-6 and g[2:].abs().sum() == 0

# --- disagreement ----------------------------------------------------------------------------------------------------
def test_coteaching_plus_maps_the_pool_back_to_the_batch():
    z1 = torch.tensor([[3., 0], [0, 3], [3, 0], [0, 1], [2, 0], [0, .2]])
    z2 = torch.tensor([[2., 0], [1, 0], [0, 2], [0, 2], [0, 1], [4, 0]])      # differ at 1, 2, 4, 5
    y = torch.tensor([0, 1, 1, 1, 0, 1])
    la,lb = (F.cross_entropy(z, y, reduction='none') for z in (z1, z2))
    t = CoTeachingPlus(.5, warmup=2)
    _,_,(wa,wb) = run(t, (z1, z2), y)
    pool = [1, 2, 4, 5]
    assert kept(wb) == sorted(sorted(pool, key=lambda i: la[i])[:2])
    assert kept(wa) == sorted(sorted(pool, key=lambda i: lb[i])[:2])
    t = CoTeachingPlus(.5, 1, warmup=5)         # ramp over, warm-up not: the whole batch
    _,_,(wa,_) = run(t, (z1, z2), y, epochs=3)
    assert wa.sum() == 3

def test_coteaching_plus_takes_one_softmax_and_one_mean():
    "Spec 4, defects (a) and double normalisation: neither is kept"
    g = torch.Generator().manual_seed(3)
    z1,z2 = torch.randn(2, 12, 3, generator=g)*2
    y = torch.randint(3, (12,), generator=g)
    l,_,(wa,wb) = run(CoTeachingPlus(.4, warmup=0), (z1, z2), y)
    def mean(a, b): return F.cross_entropy(a[wa > 0], y[wa > 0]) + F.cross_entropy(b[wb > 0], y[wb > 0])
    k = int(wa.sum())
    assert k == int(wb.sum()) > 1 and l.item() == pytest.approx(mean(z1, z2).item(), abs=1e-6)
    assert abs(l-mean(z1.softmax(1), z2.softmax(1))) > .05 and abs(l-mean(z1, z2)/k) > .05

@pytest.mark.parametrize('n_differ', [0, 1])
@pytest.mark.parametrize('t', [CoTeachingPlus(.5, warmup=0), Decoupling(0)], ids=['plus', 'decoupling'])
def test_few_disagreements_are_finite(t, n_differ):
    z2 = Z1.clone()
    if n_differ: z2[1] = torch.tensor([5., 0, 0])
    l,gs,w = run(t, (Z1, z2))
    assert torch.isfinite(l)
    if n_differ == 0: assert l.item() == 0 and all(g.abs().sum() == 0 for g in gs)
    if n_differ == 1 and isinstance(t, CoTeachingPlus): assert l.item() == 0    # half of one item is nobody

def test_decoupling_by_hand():
    l,gs,w = run(Decoupling(0))
    assert kept(w) == [1]
    la,lb = F.cross_entropy(Z1[1:2], Y[1:2]),F.cross_entropy(Z2[1:2], Y[1:2])
    assert abs(la.item()-.551445) < 1e-6 and abs(l.item()-(la+lb).item()) < 1e-6
    assert all(g[[0, 2, 3]].abs().sum() == 0 for g in gs)
    l,_,_ = run(Decoupling(3), epochs=2)        # in the warm-up: everything
    assert abs(l.item() - (F.cross_entropy(Z1, Y)+F.cross_entropy(Z2, Y)).item()) < 1e-6

def test_decouplings_floor():
    z1 = torch.zeros(40, 3); z1[:,0] = 1
    z2 = z1.clone(); z2[7] = torch.tensor([0., 2, 0])
    y = torch.zeros(40, dtype=torch.long)
    l,_,_ = run(Decoupling(0), (z1, z2), y)
    want = (F.cross_entropy(z1[7:8], y[7:8]) + F.cross_entropy(z2[7:8], y[7:8]))/4      # a tenth of 40
    assert abs(l.item()-want.item()) < 1e-6
