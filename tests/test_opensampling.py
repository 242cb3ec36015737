"Open-sampling: the prior that fills up the tail, its weights and its floors, and what all open-set rows have in common"
import copy, math, pickle
from functools import partial
import numpy as np
import pytest
import torch
from torch import nn
from fastai.callback.core import Callback
from fastai.callback.data import WeightedDL
from fastai.callback.fp16 import to_bf16  # noqa: F401  (patches Learner)
from fastai.callback.mixup import MixUp
from fastai.callback.schedule import lr_find  # noqa: F401
from fastai.data.transforms import ToTensor
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import SGD
from fastai.torch_core import set_seed
from conftest import MiniAux, MiniTwin, params, tiny_arrays, tiny_dls, tiny_learner
from fastrobust.basics import RobustWarning
from fastrobust.data.fromarrays import array_dls
from fastrobust.data.editing import take_items
from fastrobust.data.openset import aux_images
from fastrobust.data.weighting import weighted_dls
from fastrobust.techniques.bases.openset import OpenSetRows
from fastrobust.techniques.odnl import ODNL
from fastrobust.techniques.opensampling import OpenSampling

AUX = aux_images('blob', 40, 8, 1)

# what test_contract.py runs every technique through
CONTRACT = {T: dict(make=lambda T=T, **kw: T(AUX, **kw), weight='lam',
                    colour=lambda T=T: T(aux_images('blob', 40, 8, 3))) for T in (OpenSampling, OpenSetRows)}
IR100 = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
GAMMA = [.001313, .053893, .085420, .104295, .115635, .122408, .126477, .128918, .130388, .131254]
Q = [.000015, .024978, .062750, .093545, .114993, .128858, .137567, .142929, .146207, .148157]
def names(learn): return list(learn.recorder.metric_names)
def column(learn, name): return [v[names(learn).index(name)-1] for v in learn.recorder.values]

def tail_dls(counts=IR100, size=2, **kw):
    y = np.repeat(np.arange(len(counts)), counts)
    X = np.zeros((len(y), size, size), np.uint8); X[:, 0, 0] = 255
    return array_dls(X, y, valid=(X[:2], y[:2]), device='cpu', normalize=False, vocab=list(range(len(counts))), **kw)

def ready(t, dls):
    "`t` as a fit on `dls` would have it at its start"
    learn = Learner(dls, nn.Linear(1, 1), loss_func=CrossEntropyLossFlat(), cbs=t)
    t.check(learn)
    return t
def tail(alpha=None, dls=None, aux=AUX, **kw): return ready(OpenSampling(aux, alpha=alpha, **kw), dls or tail_dls())

# --- the prior (spec 4.1, 9.13) --------------------------------------------------------------------------------------
def test_the_default_prior_of_cifar10_at_100_to_1():
    t = tail()
    assert t.labels.dtype == torch.float64 and t.labels.tolist() == pytest.approx(GAMMA, abs=1e-6)
    assert t.class_weight.tolist() == pytest.approx([10*g for g in t.labels.tolist()], abs=1e-12)
    beta = np.array(IR100)/sum(IR100)
    alpha = beta.max()+beta.min()
    assert beta[0] == pytest.approx(.403031, abs=1e-6) and alpha == pytest.approx(.4070611, abs=1e-7)
    assert t.labels.tolist() == pytest.approx([(alpha-b)/(10*alpha-1) for b in beta], abs=1e-12)
    assert 10*(t.labels**2).sum().item() == pytest.approx(1.162802, abs=1e-6)

@pytest.mark.parametrize('alpha,first,last', [('minimal', 0, .13167), (1, .06633, .110663), (10., .096939, None)])
def test_other_priors(alpha, first, last):
    g = tail(alpha).labels.tolist()
    assert g[0] == pytest.approx(first, abs=1e-6) and sum(g) == pytest.approx(1) and sorted(g) == g
    if last: assert g[-1] == pytest.approx(last, abs=1e-6)
    if alpha == 'minimal':
        assert g == pytest.approx([0, .05328, .085226, .104352, .115843, .122706, .126829, .129303, .130792, .13167],
                                  abs=1e-6)

def test_balanced_levels_what_an_epoch_shows():
    "100 steps of 500: 50,000 open-set images beside 12,406, alpha .5030308"
    t = tail('balanced', tail_dls(bs=124), bs=500)
    n,beta = sum(IR100),np.array(IR100)/sum(IR100)
    assert t.labels.numpy() == pytest.approx((.5030308-beta)/(5.030308-1), abs=1e-7)
    assert (n*beta+50_000*t.labels.numpy())/(n+50_000) == pytest.approx(np.full(10, .1), abs=1e-12)

def test_balanced_with_the_batches_own_size():
    t = tail('balanced', tail_dls([12, 10, 10], bs=5))      # 6 batches: 30 of 32 images an epoch
    assert t.labels.numpy()*30+[12, 10, 10] == pytest.approx(np.full(3, 62/3))
    t = tail('balanced', tail_dls([12, 10, 10], bs=5, drop_last=False))
    assert t.labels.numpy()*32+[12, 10, 10] == pytest.approx(np.full(3, 64/3))

def test_balanced_says_what_it_would_take():
    with pytest.raises(ValueError, match=r'at least 37594 open-set.*got 12400 in 100 steps. Give bs=376 or more'):
        tail('balanced', tail_dls(bs=124))
    tail('balanced', tail_dls(bs=124), bs=376)

def test_equal_classes_give_uniform_labels():
    for alpha in (None, 'minimal', 'balanced', .5): assert tail(alpha, tail_dls([4, 4, 4], bs=2)).labels.numpy() == \
        pytest.approx(np.full(3, 1/3))

def test_counts_are_those_of_the_training_split_and_of_the_fit():
    "Given labels of the loader that trains, whatever validation has; dls exchanged between two fits count anew"
    X,y = tiny_arrays(60)
    y[:] = 0; y[30:50] = 1; y[50:] = 2
    dls = array_dls(X, y, valid=(X[:9], np.full(9, 2)), bs=10, device='cpu', vocab=[0, 1, 2])
    learn = tiny_learner(OpenSampling(AUX, 2.), dls=dls)
    learn.fit(1)
    beta = np.array([30, 20, 10])/60
    assert learn.opensampling.labels.numpy() == pytest.approx((40/60-beta)/(3*40/60-1))
    learn.dls = take_items(dls, np.r_[0:20, 30:50, 50:60])
    learn.fit(1)
    assert learn.opensampling.labels.numpy() == pytest.approx((.6-np.array([.4, .4, .2]))/(3*.6-1))

@pytest.mark.parametrize('counts', [[4, 4, 4], [100, 95, 92]])
def test_equal_classes_are_warned_of(counts):
    with pytest.warns(RobustWarning, match=rf"got 3 of {counts[-1]} to {counts[0]} items: none is rare, .* ODNL's"):
        tail(dls=tail_dls(counts, bs=2))

def test_a_loader_that_draws_by_weight_is_warned_of():
    "fastai's own too"
    dls = tail_dls([30, 20, 10], bs=8)
    w = np.repeat([1/30, 1/20, 1/10], [30, 20, 10])
    drawn = copy.copy(dls)
    drawn.loaders = [WeightedDL(dls.train_ds, wgts=w, bs=8, shuffle=True, device='cpu', num_workers=0,
                                after_item=[ToTensor()]), dls.valid]
    for o in (weighted_dls(dls, 'balanced'), drawn):
        with pytest.warns(RobustWarning, match=r'OpenSampling with a loader that draws .* helped twice. Keep one'):
            tail(dls=o)

@pytest.mark.filterwarnings('error::fastrobust.basics.RobustWarning')
def test_a_tail_drawn_evenly_is_not_warned_of():
    tail(dls=tail_dls([30, 20, 10], bs=8))
    tail(math.inf, tail_dls([40, 35, 30], bs=8))        # uniform labels that were asked for

# --- the term --------------------------------------------------------------------------------------------------------
def test_labels_come_from_gamma_fresh_at_every_step():
    from scipy.stats import chisquare
    t = tail()
    torch.manual_seed(1)
    steps = np.bincount([t.draw(1, 10).item() for _ in range(3000)], minlength=10)     # one image, 3000 steps
    many = np.bincount(t.draw(200_000, 10), minlength=10)
    for o in (steps[1:], many): assert chisquare(o, t.labels.numpy()[10-len(o):]/t.labels[10-len(o):].sum()*o.sum()
                                                 ).pvalue > 1e-3
    assert not torch.equal(t.draw(64, 10), t.draw(64, 10))

@pytest.mark.parametrize('weighted', [True, False])
def test_the_weighted_mean_is_torchs(weighted, monkeypatch):
    "sum w l/sum w, which differs from the mean of w l, against a loop in float64"
    t = tail(weighted=weighted)
    z,u = torch.randn(64, 10, dtype=torch.float64),torch.multinomial(t.labels, 64, replacement=True)
    monkeypatch.setattr(t, 'draw', lambda n, c: u)
    got,num,den = t.penalty(z, z).item(),0., 0.
    for row,k in zip(z.tolist(), u.tolist()):
        w = 10*GAMMA[k] if weighted else 1.
        num += w*(math.log(sum(map(math.exp, row)))-row[k]); den += w
    assert got == pytest.approx(num/den, rel=1e-5)
    if weighted: assert abs(got-num/64) > .05*got
    assert t.penalty(z, torch.zeros(64, 10)).item() == pytest.approx(math.log(10), abs=1e-6)      # whatever the labels

@pytest.mark.parametrize('k,ir,h,hq', [(10, 10, 2.196031, 2.071657), (10, 50, 2.176020, 2.099489),
    (10, 100, 2.176368, 2.115407), (10, 200, 2.178227, 2.129034), (100, 10, 4.529656, 4.415480),
    (100, 50, 4.530843, 4.445575), (100, 100, 4.536489, 4.462068)])
def test_floors(k, ir, h, hq):
    "spec 4.2: entropy of Gamma^2 with class weights, of Gamma without, ln K of uniform labels; none of fixed ones"
    n = 50_000//k   # the counts of CIFAR
    dls = tail_dls([int(n*(1/ir)**(c/(k-1)) + 1e-9) for c in range(k)], 1)
    assert tail(dls=dls).floor == pytest.approx(hq, abs=2e-6)
    assert tail(dls=dls, weighted=False).floor == pytest.approx(h, abs=2e-6)
    assert ready(ODNL(AUX), dls).floor == pytest.approx(math.log(k)) == tail(math.inf, dls).floor
    assert tail(dls=dls, dynamic=False).floor is None

@pytest.mark.parametrize('weighted,want', [(True, Q), (False, GAMMA)])
def test_a_constant_model_converges_to_q(weighted, want):
    "Labels times weights, normed: q_j ~ Gamma_j^2; at its floor, and nowhere else"
    t = tail(weighted=weighted)
    torch.manual_seed(0)
    b = torch.zeros(10, requires_grad=True)
    opt = torch.optim.SGD([b], lr=4., momentum=.9)
    for i in range(250):
        opt.param_groups[0]['lr'] = 4. if i < 150 else .2
        l = t.penalty(b[None], b.expand(4000, 10))
        opt.zero_grad(); l.backward(); opt.step()
    assert b.softmax(0).tolist() == pytest.approx(want, abs=5e-3) and l.item() == pytest.approx(t.floor, abs=.02)

def test_known_cells_keep_their_bayes_posterior(monkeypatch):
    "spec 4.2, a discrete world with disjoint supports: the population minimiser on known cells ignores the term"
    g = torch.Generator().manual_seed(2)
    joint = torch.rand(6, 3, generator=g, dtype=torch.float64)      # P(cell, class) of six known cells
    joint /= joint.sum()
    counts = [50, 30, 20]
    t = tail(dls=tail_dls(counts))
    per = torch.tensor([20, 40, 50])        # max+min-n_j: a population of 110 that holds every label as often as Gamma
    assert t.labels.numpy() == pytest.approx(per.numpy()/110)
    monkeypatch.setattr(t, 'draw', lambda n, c: torch.arange(3).repeat_interleave(per).repeat(2))
    ends = []
    for lam in (0., 1., 50.):
        z = torch.zeros(8, 3, dtype=torch.float64, requires_grad=True)      # six known cells, two open ones
        opt = torch.optim.LBFGS([z], max_iter=2000, max_eval=4000, tolerance_grad=1e-10, tolerance_change=0,
                                line_search_fn='strong_wolfe')
        def risk(z=z, lam=lam, opt=opt):
            opt.zero_grad()
            l = -(joint*z[:6].log_softmax(1)).sum()
            if lam: l = l + lam*t.penalty(z[:6], z[6:].repeat_interleave(110, 0))
            l.backward()
            return l
        opt.step(risk)
        ends.append(z.detach().softmax(1))
    want = joint/joint.sum(1, keepdim=True)
    q = torch.tensor([20., 40, 50])**2
    for lam,p in zip((0, 1, 50), ends):
        assert torch.allclose(p[:6], want, atol=1e-5) and torch.equal(p[:6].argmax(1), want.argmax(1))
        if lam: assert torch.allclose(p[6:].float(), (q/q.sum()).expand(2, 3), atol=1e-5)

# --- the three floors, measured (spec 4.6, 9.15) ---------------------------------------------------------------------
@pytest.fixture(scope='module')
def digits():
    from sklearn.datasets import load_digits
    d = load_digits()
    X,y = (d.images/16*255).round().astype(np.uint8),d.target
    train = np.random.RandomState(0).permutation(len(X))[:1297]
    counts = [120, 77, 50, 32, 21, 13, 8, 5, 3, 2]
    idx = np.concatenate([train[y[train] == k][:n] for k,n in enumerate(counts)])
    aux = np.random.default_rng(0).permuted(X[train].reshape(-1, 64), axis=1).reshape(-1, 8, 8)
    return X[idx],y[idx],aux

@pytest.mark.parametrize('make,theory', [(OpenSampling, 2.0993), (partial(OpenSampling, weighted=False), 2.1744),
    (partial(ODNL, eta=1.), 2.3026)], ids=['weighted', 'unweighted', 'uniform'])
@pytest.mark.slow
def test_the_loss_on_open_set_images_tells_the_variant(make, theory, digits):
    X,y,aux = digits
    dls = array_dls(X, y, valid=(X[:32], y[:32]), bs=32, device='cpu', vocab=list(range(10)))
    set_seed(0)
    layers = [o for i in (64, 128) for o in (nn.Linear(i, 128), nn.BatchNorm1d(128), nn.ReLU())]
    learn = Learner(dls, nn.Sequential(nn.Flatten(), *layers, nn.Linear(128, 10)), loss_func=CrossEntropyLossFlat(),
                    opt_func=partial(SGD, mom=.9, decouple_wd=False), wd=2e-4, wd_bn_bias=True,
                    cbs=make(aux, bs=128))
    with learn.no_bar(), learn.no_logging():
        learn.fit(18, .2)
        learn.fit(6, .002)
    name = learn.cbs.filter(lambda c: isinstance(c, OpenSetRows))[0].name
    assert column(learn, f'{name}_floor')[-1] == pytest.approx(theory, abs=1e-4)
    assert abs(np.mean(column(learn, name)[-3:])-theory) < .03

# --- as any technique, with every switch -----------------------------------------------------------------------------
SWITCHES = [dict(), dict(joint_bn=False), dict(dynamic=False), dict(joint_bn=False, dynamic=False, bs=7),
            dict(weighted=False, alpha='minimal')]
switch = pytest.mark.parametrize('kw', SWITCHES, ids=lambda k: '-'.join(map(str, k)) or 'default')

@switch
def test_company(kw):
    for cbs in ([], [MiniTwin()], [MiniAux()], [MiniTwin(), MiniAux()], [MixUp()]):
        learn = tiny_learner([OpenSampling(AUX, **kw), *cbs], norm='bn')
        learn.fit(1)
        assert torch.isfinite(params(learn)).all() and np.isfinite(column(learn, 'opensampling')).all()
    learn = tiny_learner(OpenSampling(AUX, **kw)).to_bf16()
    learn.fit(1)
    assert torch.isfinite(params(learn)).all() and not torch.is_autocast_enabled('cpu')

@switch
def test_same_seed_same_numbers_lr_find_and_export(kw, tmp_path):
    ends = []
    for find in (False, False, True):
        learn = tiny_learner(OpenSampling(AUX, **kw), path=tmp_path)
        learn.fit(1)
        t = learn.opensampling
        fixed = {h: u.clone() for h,u in t._fixed.items()}
        if find:
            ids,g,left = t.aux.ids,t.aux.g,t.aux._buf.clone()
            learn.lr_find(num_it=6, show_plot=False)
            assert t.aux.ids is ids and t.aux._g is g and torch.equal(t.aux._buf, left)
            assert all(torch.equal(t._fixed[h], u) for h,u in fixed.items())
        set_seed(8); learn.dls = tiny_dls(); set_seed(8); learn.fit(1)
        ends.append(params(learn))
    assert all(torch.equal(e, ends[0]) for e in ends)
    learn.export()
    back = load_learner(tmp_path/'export.pkl')
    assert back.opensampling.aux.imgs is None and back.opensampling._fixed == {}
    x = tiny_arrays()[0][:3]
    assert torch.allclose(back.get_preds(dl=back.dls.test_dl(x))[0], learn.get_preds(dl=learn.dls.test_dl(x))[0],
                          atol=1e-6)

@pytest.mark.parametrize('joint', [True, False])
def test_both_networks_of_a_twin_get_a_gradient_from_labels_of_their_own(joint):
    drawn = []
    class Spied(OpenSampling):
        def draw(self, n, c): drawn.append(super().draw(n, c)); return drawn[-1]
    learn = tiny_learner([MiniTwin(), Spied(AUX, joint_bn=joint)])
    grads = {}
    class Spy(Callback):
        order = 5.5
        def after_loss(self):
            if not self.training or grads: return
            term = self.learn.loss_grad - self.start
            for i,net in enumerate(self.model.nets):
                gs = torch.autograd.grad(term, list(net.parameters()), retain_graph=True)
                grads[i] = sum(g.abs().sum().item() for g in gs)
    class Before(Callback):
        order = 4.5
        def after_loss(self): self.learn.start = self.learn.loss_grad
    learn.add_cbs([Spy(), Before()])
    learn.fit(1)
    assert grads[0] > 0 and grads[1] > 0 and len(drawn) == 6 and not torch.equal(drawn[0], drawn[1])

def test_apart_equals_common_without_batch_norm():
    "Where nothing couples the rows, one pass or two are the same training"
    ends = []
    for joint in (True, False):
        learn = tiny_learner(OpenSampling(AUX, 3., joint_bn=joint), opt_func=SGD)
        set_seed(2); learn.fit(2, .1)
        ends.append((params(learn), column(learn, 'opensampling')))
    assert torch.allclose(ends[0][0], ends[1][0], atol=1e-5) and ends[0][1] == pytest.approx(ends[1][1], abs=1e-5)

@pytest.mark.parametrize('joint', [True, False])
def test_the_term_is_on_raw_logits(joint):
    from fastrobust.techniques.logitclip import LogitClip
    ends = []
    for cbs in ([], [LogitClip(1e-6)]):
        learn = tiny_learner([OpenSampling(AUX, joint_bn=joint), *cbs])
        with torch.no_grad(): learn.model[-1].weight.mul_(30)
        set_seed(1); learn.fit(1, 0.)
        ends.append(column(learn, 'opensampling')[0])
    assert ends[0] == pytest.approx(ends[1], rel=1e-6) and abs(ends[0]-math.log(3)) > .1

def test_the_general_form_takes_any_prior():
    p,w = [.5, .3, .2],[1., 2., 3.]
    t = OpenSetRows(AUX, .5, labels=p, class_weight=w)
    learn = tiny_learner(t)
    learn.fit(1)
    q = np.array(p)*w/np.dot(p, w)
    assert column(learn, 'opensetrows_floor') == [pytest.approx(-(q*np.log(q)).sum())]
    assert t.weight == .5 and np.bincount(t.draw(100_000, 3))/1e5 == pytest.approx(p, abs=.006)
    assert OpenSetRows(AUX, class_weight=torch.tensor([1., 0, 0])).floor == 0
    assert len(pickle.dumps(t.aux)) < 1000 and 'OpenSetRows(lam=0.5' in repr(t)

# --- refusals --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('kw,err,msg', [
    (dict(lam=0), ValueError, '`lam` must be positive'), (dict(lam='1'), TypeError, '`lam` must be a number'),
    (dict(alpha='balance'), ValueError, "got 'balance'. Did you mean 'balanced'"),
    (dict(bs=0), ValueError, '`bs` must'),
    (dict(alpha=True), TypeError, '`alpha` must be None'), (dict(alpha=[1]), TypeError, '`alpha` must be None')])
def test_bad_settings(kw, err, msg):
    with pytest.raises(err, match=msg): OpenSampling(AUX, **kw)

@pytest.mark.parametrize('kw,msg', [
    (dict(labels=[.5, .4]), 'sum to 1 in `labels`, got 0.9'), (dict(labels=[1.5, -.5]), '`labels` as one number >= 0'),
    (dict(labels=[[.5, .5]]), '`labels` as one'), (dict(class_weight=[0., 0]), '`class_weight` as one number'),
    (dict(labels=[float('nan'), 1]), '`labels` as one')])
def test_bad_priors(kw, msg):
    with pytest.raises(ValueError, match=msg): OpenSetRows(AUX, **kw)

@pytest.mark.parametrize('kw', [dict(labels=[.5, .5]), dict(class_weight=[1., 1])])
def test_a_prior_for_other_classes_is_refused_before_a_step(kw):
    learn = tiny_learner(OpenSetRows(AUX, **kw))
    before = params(learn)
    with pytest.raises(ValueError, match=f'`{list(kw)[0]}` for the 3 outputs of the network, got 2'): learn.fit(1)
    assert torch.equal(params(learn), before)

def test_a_number_below_the_largest_frequency_is_refused():
    with pytest.raises(ValueError, match='at least the largest class frequency 0.403031, got 0.4'): tail(.4)
    assert tail(IR100[0]/sum(IR100)).labels[0] == 0

def test_a_class_without_training_items_is_refused():
    X,y = tiny_arrays(20)
    y = y % 2
    dls = array_dls(X, y, valid=(X[:4], [0, 1, 2, 2]), bs=5, device='cpu', vocab=['cat', 'dog', 'cow'])
    learn = tiny_learner(OpenSampling(AUX), dls=dls)
    with pytest.raises(ValueError, match='training items of every class, got none of cow. Leave such classes out'):
        learn.fit(1)
    learn.remove_cb(OpenSampling)
    learn.fit(1, cbs=ODNL(AUX))

@pytest.mark.parametrize('a,b', [(ODNL, OpenSampling), (OpenSampling, OpenSetRows)])
def test_two_ways_to_label_are_refused(a, b):
    learn = tiny_learner([a(AUX), b(AUX)])
    with pytest.raises(ValueError, match='both label open-set images.*remove the other'): learn.fit(1)

def test_wrong_images_name_the_technique():
    for aux,msg in ((aux_images('blob', 9, 8, 3), r'OpenSampling expected open-set images of 1 channel\(s\)'),
                    (aux_images('blob', 9, 9, 1), r'OpenSampling expected open-set images of size \(8, 8\)')):
        for joint in (True, False):
            with pytest.raises(ValueError, match=msg): tiny_learner(OpenSampling(aux, joint_bn=joint)).fit(1)
