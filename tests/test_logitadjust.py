"LogitAdjust: the balanced softmax in the loss of training, raw logits everywhere else"
import math, pickle, warnings
from functools import partial
import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.learner import load_learner
from fastai.losses import CrossEntropyLossFlat, FocalLossFlat, LabelSmoothingCrossEntropy
from fastai.optimizer import SGD
from torch import nn
from torch.nn import functional as F
from conftest import params, tiny_arrays, tiny_dls, tiny_learner
from fastrobust.basics import RobustWarning
from fastrobust.data.fromarrays import array_dls
from fastrobust.data.longtail import class_counts
from fastrobust.data.openset import aux_images
from fastrobust.data.weighting import weighted_dls
from fastrobust.losses import CrossEntropy, GCELoss
from fastrobust.techniques.augloss import AugLoss
from fastrobust.techniques.logitadjust import LogitAdjust, adjust_logits
from fastrobust.techniques.logitclip import LogitClip, clip_logits
from fastrobust.techniques.logitnorm import LogitNorm
from fastrobust.techniques.odnl import ODNL

# what test_contract.py runs every technique through
CONTRACT = {LogitAdjust: dict(make=lambda: LogitAdjust(1.), deterministic=True)}

N = np.array([50, 30, 15, 5])

def by_hand(z, prior, tau):
    "Loops in float64"
    p = [float(o) for o in prior]
    return [[v + tau*math.log(p[j]/sum(p)) for j,v in enumerate(row)] for row in z.double().tolist()]

# --- the function ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('tau', [1., .5, 2., -1.])
def test_against_loops(tau):
    z = torch.randn(6, 4)
    assert np.allclose(adjust_logits(z, N, tau), by_hand(z, N, tau), atol=1e-6)
    assert torch.equal(adjust_logits(z, N, tau), adjust_logits(z, torch.from_numpy(N), tau))
    assert torch.allclose(adjust_logits(z, N/100, tau), adjust_logits(z, N.tolist(), tau))
    assert torch.allclose(adjust_logits(adjust_logits(z, N, tau), N, -tau), z, atol=1e-6)

def test_tau_1_is_the_balanced_softmax():
    "exp(z_y) n_y / sum_j n_j exp(z_j) (arXiv 2007.10740)"
    z,y = torch.randn(8, 4, dtype=torch.float64),torch.randint(4, (8,))
    e = lambda row, k: N[k]*math.exp(row[k])
    want = [-math.log(e(row, k)/sum(e(row, j) for j in range(4))) for row,k in zip(z.tolist(), y)]
    assert np.allclose(F.cross_entropy(adjust_logits(z, N), y, reduction='none'), want)
    zero = F.cross_entropy(adjust_logits(torch.zeros(1, 4), N), torch.tensor([3])).item()
    assert zero == pytest.approx(math.log(20), abs=1e-6), 'of no opinion: -log of the frequency'

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_logits_are_adjusted_in_float32(dtype):
    z = torch.tensor([[1e4, -1e4, 3., 0.]], dtype=dtype, requires_grad=True)
    out = adjust_logits(z, N)
    assert out.dtype == torch.float32 and np.allclose(out.detach(), by_hand(z, N, 1.), rtol=1e-6)
    out.sum().backward()
    assert z.grad.tolist() == [[1.]*4]

def test_a_thousand_classes_and_extreme_counts():
    n = np.r_[[10**9], np.ones(999)]
    out = adjust_logits(torch.zeros(2, 1000), n)
    assert torch.isfinite(out).all() and out[0, 1].item() == pytest.approx(-math.log(10**9+999), abs=1e-4)

@pytest.mark.parametrize('prior,match', [([1, 2, 3], r'one number per class, \(4,\), got \(3,\)'),
                                         ([1, 2, 0, 3], 'above 0, got 0 to 3.*out of the vocab'),
                                         ([1, 2, float('nan'), 3], 'finite class frequencies')])
def test_priors_that_are_refused(prior, match):
    with pytest.raises(ValueError, match=match): adjust_logits(torch.zeros(1, 4), prior)
    with pytest.raises(TypeError, match='`tau` must be a number'): adjust_logits(torch.zeros(1, 4), N, None)

@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
def test_on_a_gpu():
    z = torch.randn(5, 4)
    out = adjust_logits(z.cuda(), N)
    assert out.is_cuda and torch.allclose(out.cpu(), adjust_logits(z, N))

# --- in training -----------------------------------------------------------------------------------------------------
class Seen(Callback):
    "The loss of each batch beside its logits and labels"
    order = 45
    def before_fit(self): self.rows = []
    def after_loss(self): self.rows.append((self.training, self.pred.detach().clone(), self.y, self.loss.item()))

@pytest.mark.parametrize('tau,loss', [(1., CrossEntropyLossFlat()), (.5, CrossEntropyLossFlat()), (1., GCELoss())])
def test_training_sees_the_prior_and_validation_does_not(tau, loss):
    seen = Seen()
    learn = tiny_learner([LogitAdjust(tau), seen], loss_func=loss)
    n = class_counts(learn.dls)
    learn.fit(1)
    assert len(set(n)) > 1 and {t for t,*_ in seen.rows} == {True, False}
    for training,z,y,l in seen.rows:
        z = z.as_subclass(torch.Tensor)
        want = loss(torch.tensor(by_hand(z, n, tau)) if training else z, y.as_subclass(torch.Tensor))
        assert l == pytest.approx(want.item(), abs=1e-5)

def test_the_prior_is_of_the_training_split_of_each_fit():
    learn = tiny_learner(LogitAdjust())
    t = learn.logitadjust
    learn.fit(1)
    assert t._counts.tolist() == class_counts(learn.dls).tolist()
    learn.dls = tiny_dls(n=64, c=3)
    learn.fit(1)
    assert t._counts.tolist() == class_counts(learn.dls).tolist() and t._counts.sum() == 64

def test_a_network_that_cannot_see_predicts_all_classes_alike():
    "On images without content the bias learns the prior under CE, and nothing under LogitAdjust"
    X,y = np.zeros((100, 4, 4), np.uint8),np.repeat(np.arange(4), N)
    for cbs,want in ((None, N/100), (LogitAdjust(), np.full(4, .25))):
        dls = array_dls(X, y, valid=(X[:4], np.arange(4)), bs=100, normalize=False, device='cpu')
        learn = tiny_learner(cbs, dls=dls, opt_func=SGD)
        learn.fit(60, .5)
        assert np.allclose(learn.get_preds()[0][0], want, atol=.02)

def test_it_acts_last_on_the_logits():
    "Clipped logits get the whole head start, in whichever order the two were given"
    for cbs in ([LogitAdjust(), LogitClip(.1)], [LogitClip(.1), LogitAdjust()]):
        learn = tiny_learner(cbs)
        learn.fit(1)
        z = torch.randn(5, 3)
        obj = learn.loss_func
        obj.stages = tuple(learn.objective.techniques())
        assert torch.allclose(obj.map(z), adjust_logits(clip_logits(z, .1), class_counts(learn.dls)))

def test_open_set_rows_keep_raw_logits():
    cbs = [LogitAdjust(), ODNL(aux_images('blob', 40, 8, 1))]
    learn = tiny_learner(cbs)
    learn.fit(1, 0.)
    a = learn.recorder.values[-1][list(learn.recorder.metric_names).index('odnl')-1]
    plain = tiny_learner(ODNL(aux_images('blob', 40, 8, 1)))
    plain.fit(1, 0.)
    assert a == pytest.approx(plain.recorder.values[-1][list(plain.recorder.metric_names).index('odnl')-1], abs=1e-6)

def test_export(tmp_path):
    learn = tiny_learner(LogitAdjust(), path=tmp_path)
    learn.fit(1)
    t = pickle.loads(pickle.dumps(learn.logitadjust.clone()))
    assert t.tau == 1. and t._counts.tolist() == class_counts(learn.dls).tolist() and repr(t) == 'LogitAdjust(tau=1.0)'
    learn.export('m.pkl')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        new = load_learner(tmp_path/'m.pkl')
    x = tiny_arrays()[0][:5]
    assert torch.equal(*(o.get_preds(dl=o.dls.test_dl(x))[0] for o in (learn, new)))

# --- refused and warned of -------------------------------------------------------------------------------------------
@pytest.mark.parametrize('tau', [0, -1., float('inf'), float('nan')])
def test_strengths_that_are_refused(tau):
    with pytest.raises(ValueError, match='`tau` must be positive and finite, got .*balanced softmax'): LogitAdjust(tau)
    with pytest.raises(TypeError, match='`tau` must be a number'): LogitAdjust('1')

def test_a_class_without_training_items():
    X,y = tiny_arrays()
    dls = array_dls(X, np.where(y == 1, 0, y), valid=(X[:3], [0, 1, 2]), vocab=[0, 1, 2], bs=16, device='cpu')
    with pytest.raises(ValueError, match='LogitAdjust expected training items of every class, got none of 1, first cl'):
        tiny_learner(LogitAdjust(), dls=dls).fit(1)

def test_equal_classes_and_a_weighted_loader_are_warned_of():
    X,y = tiny_arrays()
    dls = array_dls(X, np.arange(48) % 3, valid=(X[:3], [0, 1, 2]), bs=16, device='cpu')
    with pytest.warns(RobustWarning, match='equally frequent, so it changes nothing'):
        a = tiny_learner(LogitAdjust(), dls=dls)
        a.fit(1)
    with pytest.warns(RobustWarning, match='helped twice. Keep one'):
        tiny_learner(LogitAdjust(), dls=weighted_dls(tiny_dls(), 'balanced')).fit(1)
    with warnings.catch_warnings():
        warnings.simplefilter('error', RobustWarning)
        tiny_learner(LogitAdjust()).fit(1)

RARE = torch.from_numpy(48/class_counts(tiny_dls())).float()     # the balanced weights of the tiny loaders

@pytest.mark.parametrize('loss,cbs', [
    (CrossEntropyLossFlat(weight=RARE), []), (nn.CrossEntropyLoss(weight=RARE), []), (CrossEntropy(RARE), []),
    (FocalLossFlat(weight=RARE), []), (LabelSmoothingCrossEntropy(weight=RARE), []),
    (partial(F.cross_entropy, weight=RARE), []), (CrossEntropyLossFlat(), [AugLoss(CrossEntropy(RARE))])])
def test_class_weights_that_help_rare_classes_too_are_warned_of(loss, cbs):
    learn = tiny_learner([LogitAdjust(), *cbs], loss_func=loss)
    with pytest.warns(RobustWarning, match=r'weights \(\S+ to \S+\) favour the rare: they are helped twice. Keep'):
        learn.fit(1)

@pytest.mark.filterwarnings('error::fastrobust.basics.RobustWarning')
@pytest.mark.parametrize('loss', [CrossEntropyLossFlat(weight=torch.ones(3)), CrossEntropyLossFlat(weight=1/RARE),
                                  CrossEntropy(label_smoothing=.1), F.cross_entropy, GCELoss()])
def test_other_losses_are_not(loss): tiny_learner(LogitAdjust(), loss_func=loss).fit(1)

def test_loaders_that_cannot_be_counted():
    learn = tiny_learner(LogitAdjust())
    items = [(x, y) for x,y in zip(torch.rand(32, 1, 8, 8), torch.arange(32) % 3)]
    learn.dls = DataLoaders.from_dsets(items, items, bs=16, device='cpu', num_workers=0)
    with pytest.raises(TypeError, match='expected dls over a fastai `Datasets`.*got list'): learn.fit(1)

@pytest.mark.filterwarnings('error::fastrobust.basics.RobustWarning')
def test_beside_logitnorm_and_logitclip_without_a_warning():
    for t in (LogitNorm(.04), LogitClip(.5)):
        learn = tiny_learner([t, LogitAdjust()])
        learn.fit(1)
        assert torch.isfinite(params(learn)).all()
