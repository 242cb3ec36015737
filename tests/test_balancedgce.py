"GCE whose belief in a label does not depend on how common its class is: values and gradients by hand, life in a fit"
import copy, pickle
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from fastai.callback.mixup import MixUp
from fastai.learner import load_learner
from fastrobust.data.fromarrays import array_dls
from fastrobust.learner import robust_learner
from fastrobust.losses import BalancedGCELoss, GCELoss
from fastrobust.nets import small_cnn
from fastrobust.techniques.logitadjust import LogitAdjust

COUNTS = [40, 10, 2]
fast = settings(derandomize=True, deadline=None, max_examples=25)

def logits(n=6, c=3, seed=0): return torch.randn(n, c, generator=torch.Generator().manual_seed(seed)).double()*2

def slow(z, k, counts, q):
    "Loss and gradient of one item, written out in float64"
    z,n = np.asarray(z, float),np.asarray(counts, float)
    p = np.exp(z-z.max())
    even = p/n
    p,even = p/p.sum(),even/even.sum()
    return (1-even[k]**q)/q, even[k]**q*(p - np.eye(len(z))[k])

@pytest.mark.parametrize('q', [.1, .7, 1.])
def test_value_and_gradient_are_those_written_out(q):
    z,y = logits().requires_grad_(),torch.tensor([0, 1, 2, 2, 1, 0])
    l = BalancedGCELoss(COUNTS, q, 'none')(z, y)
    g = torch.autograd.grad(l.sum(), z)[0]
    want = [slow(a, k, COUNTS, q) for a,k in zip(z.tolist(), y.tolist())]
    assert np.allclose(l.detach(), [o[0] for o in want], atol=1e-12)
    assert np.allclose(g, np.stack([o[1] for o in want]), atol=1e-12)

@given(st.integers(2, 9), st.floats(.05, 1.), st.integers(0, 99), st.booleans())
@fast
def test_where_all_classes_are_alike_it_is_gce(c, q, seed, soft):
    z = logits(8, c, seed).requires_grad_()
    y = logits(8, c, seed+1).softmax(1) if soft else torch.arange(8)%c
    ours,gce = BalancedGCELoss([7]*c, q),GCELoss(q)
    assert torch.allclose(ours(z, y), gce(z, y), atol=1e-12)
    assert torch.allclose(*(torch.autograd.grad(f(z, y), z)[0] for f in (ours, gce)), atol=1e-12)

def test_soft_labels_are_mixtures_and_constants_do_not_matter():
    f = BalancedGCELoss(COUNTS, reduction='none')
    z,y = logits(),logits(seed=1).softmax(1)
    each = torch.stack([f(z, torch.full((6,), k)) for k in range(3)], 1)
    assert torch.allclose(f(z, y), (y*each).sum(1))
    assert torch.allclose(f(z+100, y), f(z, y))
    assert torch.isfinite(f(z*1e4, torch.zeros(6).long())).all()

def test_a_network_that_knows_nothing_believes_all_labels_alike():
    z,y = torch.tensor(COUNTS).double().log().repeat(3, 1),torch.arange(3)   # it has learned how many there are
    assert BalancedGCELoss(COUNTS, reduction='none')(z, y).std() < 1e-12
    assert (GCELoss(reduction='none')(z, y).diff() > .2).all()  # GCE takes the rare for noise

def trained(**kw):
    g = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], COUNTS)
    X = (g.random((len(y), 8, 8))*80 + 60*y[:, None, None]).astype(np.uint8)
    torch.manual_seed(0)
    dls = array_dls(X, y, valid=(X, y), bs=16)
    learn = robust_learner(dls, small_cnn(3, 1), loss_func=BalancedGCELoss(COUNTS), **kw)
    with learn.no_bar(), learn.no_logging(): learn.fit(2, 1e-2)
    return learn

@pytest.mark.parametrize('kw', [{}, dict(cbs=MixUp()), dict(techniques=[LogitAdjust()])], ids=lambda kw: ' '.join(kw))
def test_it_trains_and_travels(tmp_path, kw):
    learn = trained(**kw)
    p,_ = learn.get_preds()
    assert np.isfinite(learn.recorder.values[-1]).all() and torch.allclose(p.sum(1), torch.ones(len(p)))
    learn.path = tmp_path
    learn.export('l.pkl')
    assert torch.equal(load_learner(tmp_path/'l.pkl').get_preds(dl=learn.dls.valid)[0], p)

def test_copies_count_the_same_and_it_says_so():
    f = BalancedGCELoss(torch.tensor(COUNTS), .5)
    for o in (pickle.loads(pickle.dumps(f)), copy.deepcopy(f)):
        y = torch.zeros(6).long()
        assert o.counts == COUNTS and o.q == .5 and o(logits(), y) == f(logits(), y)
    assert repr(f) == "BalancedGCELoss(q=0.5, 3 classes of 2 to 40 items, reduction='mean')"
    assert not f.state_dict() and f.bounded
    with pytest.raises(AttributeError): f.counts = [1, 2, 3]    # what it counts with would stay the old

@pytest.mark.parametrize('counts', [[3], [], [[1, 2]], [0, 4], [-1, 4], [float('nan'), 2], [float('inf'), 2],
                                    None, {0: 5}, 'many'], ids=str)
def test_counts_that_cannot_be_are_refused(counts):
    with pytest.raises(ValueError, match='class_counts'): BalancedGCELoss(counts)

def test_other_numbers_of_classes_and_bad_q_are_refused():
    with pytest.raises(ValueError, match='3 classes'): BalancedGCELoss(COUNTS)(logits(c=4), torch.zeros(6).long())
    with pytest.raises(ValueError, match='q'): BalancedGCELoss(COUNTS, 0)
    with pytest.raises(ValueError, match='reduction'): BalancedGCELoss(COUNTS, reduction='most')
