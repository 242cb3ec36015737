"ALASCA against loops in float64, the numbers of the specification, and everything a learner does with it"
import copy, math, pickle, warnings
from types import SimpleNamespace
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torchvision.models import mobilenet_v2, resnet18
from torch.nn import functional as F
from fastai.callback.core import Callback
from fastai.callback.data import WeightedDL
from fastai.callback.schedule import fine_tune, lr_find     # noqa: F401  (patch Learner)
from fastai.data.core import DataLoaders
from fastai.data.transforms import ToTensor
from fastai.learner import Learner, load_learner
from fastai.optimizer import SGD
from fastai.tabular.model import TabularModel
from fastai.torch_core import set_seed
from fastai.vision.learner import vision_learner
from conftest import MiniTwin, TwinNet, tiny_arrays, tiny_dls, tiny_learner
from fastrobust.training.auxheads import AuxHeads
from fastrobust.basics import RobustWarning
from fastrobust.data.fromarrays import array_dls
from fastrobust.noise.laws import NoisyLabels
from fastrobust.noise.block import add_label_noise
from fastrobust.samples import sample_data
from fastrobust.losses import CrossEntropy, GCELoss
from fastrobust.nets import small_cnn
from fastrobust.stripping import strip
from fastrobust.training.stages import head_of
from fastrobust.techniques.alasca import ALASCA, label_trust, smooth_targets
from fastrobust.techniques.logitclip import LogitClip

# what test_contract.py runs every technique through
CONTRACT = {ALASCA: dict(make=lambda **kw: ALASCA(**{'warmup': .5, **kw}), weight='lam',
                         plain=lambda: ALASCA(predict='main'))}

# --- equations -------------------------------------------------------------------------------------------------------
def stub(t, n, zs, y, ids, pct=0.):
    "Technique `t` in the middle of a batch with logits `zs`, one a network"
    b = SimpleNamespace(heads=zs, ids=torch.tensor(ids), h=0)
    t.__dict__['_learn'] = SimpleNamespace(y=torch.tensor(y), dls=SimpleNamespace(train_ds=range(n)), pct_train=pct,
                                           objective=SimpleNamespace(batch=b, map=lambda z: z))
    return b

@pytest.mark.parametrize('label,want', [(0, [.610415, .785512, .861279, .898016, .917816]),
                                        (1, [.247953, .169831, .119755, .091671, .075468])])
def test_trust_grows_with_the_visits(label, want):
    "spec 14.9"
    t = ALASCA(t=.333, warmup=0)
    for w in want:
        t.update(stub(t, 1, [torch.tensor([[2., 1, 0, -1]])], [label], [0]))
        assert abs(t.score(0) - w) < 2e-6 and abs(t.alpha[0] - w) < 2e-6

@given(st.lists(st.floats(-20, 20), min_size=2, max_size=6), st.integers(1, 12), st.floats(0, .99))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_the_average_of_a_constant(z, k, w):
    t = ALASCA(w=w, warmup=0)
    for _ in range(k): t.update(stub(t, 3, [torch.tensor([z])], [1], [1]))
    rows = t._memory[0]['rows']
    assert np.allclose(rows[1], (1-w**k)*np.array(z), atol=1e-4) and not rows[[0, 2]].any()
    assert np.isnan(t.score()).tolist() == [True, False, True]

@pytest.mark.parametrize('alpha,want', [(1., .746567), (.9, .863234), (.5, 1.329901), (.25, 1.621567), (.1, 1.796567),
                                        (0., 1.913234)])
def test_smoothed_cross_entropy(alpha, want):
    "spec 14.10"
    z,y = torch.tensor([[1., 0, -1, .5]], requires_grad=True),torch.tensor([0])
    l = F.cross_entropy(z, smooth_targets(y, torch.tensor([alpha]), 4))
    assert abs(l.item() - want) < 1e-6
    eps = (1-alpha)*4/3
    if eps <= 1: assert torch.allclose(l, F.cross_entropy(z, y, label_smoothing=eps))
    if alpha == .1:
        g = torch.autograd.grad(l, z)[0][0]
        assert torch.allclose(g, torch.tensor([.373991, -.125629, -.235852, -.012510]), atol=1e-6)

@given(st.lists(st.floats(0, 1), min_size=1, max_size=5), st.integers(2, 7), st.sampled_from(['others', 'all']))
@settings(derandomize=True, deadline=None)
def test_targets_are_probabilities(alpha, c, spread):
    y = torch.arange(len(alpha)) % c
    q = smooth_targets(y, torch.tensor(alpha), c, spread)
    for i,a in enumerate(alpha):
        rest = (1-a)/(c-1) if spread == 'others' else (1-a)/c
        want = [(a if spread == 'others' else a+rest) if k == i%c else rest for k in range(c)]
        assert np.allclose(q[i], want, atol=1e-6) and abs(q[i].sum() - 1) < 1e-5
    assert torch.allclose(smooth_targets(y, torch.full((len(y),), 1/c), c), torch.tensor(1/c))

class Spy(Callback):
    "Logits, labels, ids and the term of every training batch"
    order = 4.5         # before the objective forgets the batch
    def __init__(self): self.seen = []
    def after_loss(self):
        if not self.training: return
        b,keep = self.learn.objective.batch,lambda z: z.detach().double().clone()
        nets = [(keep(h.main), [keep(a) for a in h.aux]) for h in b.heads]
        y,epoch = self.learn.y.tolist(),len(self.seen)//3
        self.seen.append([nets, y, b.ids.tolist(), self.pct_train, epoch, self.loss.item()])
class SpyAfter(Callback):
    order = 5.5
    def after_loss(self):
        if self.training: self.learn.spy.seen[-1][-1] = self.loss.item() - self.learn.spy.seen[-1][-1]

def soft(v): e = [math.exp(o-max(v)) for o in v]; return [o/sum(e) for o in e]

def replay(seen, c, lam=2., w=.7, t=1/3, ramp=lambda e, pct: 1., memory='logits', spread='others'):
    "The equations once more, item by item; yields the term of every batch"
    E = {}
    for nets,y,ids,pct,epoch,_ in seen:
        total = 0.
        for h,(z,aux) in enumerate(nets):
            for i,(k,yi) in enumerate(zip(ids, y)):
                zi = z[i].tolist()
                if memory == 'logits':
                    E[h,k] = [w*a + (1-w)*b for a,b in zip(E.get((h,k), [0.]*c), zi)]
                    a = soft([o/t for o in E[h,k]])[yi]
                elif memory == 'label': a = E[h,k] = w*E.get((h,k), 1/c) + (1-w)*soft([o/t for o in zi])[yi]
                else: a = soft(zi)[yi]
                g = ramp(epoch, pct)
                al = g*a + 1-g
                for x in aux:
                    p,rest = soft(x[i].tolist()),(1-al)/(c-1 if spread == 'others' else c)
                    q = [rest + (j == yi)*(al-rest if spread == 'others' else al) for j in range(c)]
                    total -= sum(qj*math.log(pj) for qj,pj in zip(q, p))/len(ids)
        yield lam*total

CASES = [dict(warmup=0), dict(warmup=2), dict(warmup=.4, lam=.7, w=.5, t=2.), dict(warmup=0, memory='label'),
         dict(warmup=2, memory=None), dict(warmup=1, spread='all')]

@pytest.mark.parametrize('two', [False, True], ids=['one', 'two'])
@pytest.mark.parametrize('kw', CASES, ids=str)
def test_against_loops(kw, two):
    learn = tiny_learner([ALASCA(**kw)] + ([MiniTwin()] if two else []), opt_func=SGD)
    spy = Spy()
    learn.add_cbs([spy, SpyAfter()])
    learn.fit(1, .1); learn.fit(2, .1)      # the warm-up in epochs goes on, a share starts again
    n = kw['warmup']
    ramp = (lambda e, pct: min(1., pct/n)) if isinstance(n, float) else lambda e, pct: min(1., e/n) if n else 1.
    want = list(replay(spy.seen, 3, ramp=ramp, **{k: v for k,v in kw.items() if k != 'warmup'}))
    assert len(want) == 9 and np.allclose([o[-1] for o in spy.seen], want, rtol=1e-4)
    assert len(learn.alasca._memory) == (0 if kw.get('memory', 1) is None else 1+two)

def test_each_network_has_its_own_memory_even_if_one_stands_still():
    t = ALASCA(w=.5, warmup=0)
    t.update(stub(t, 2, [torch.tensor([[2., 0.]]), torch.tensor([[0., 4.]])], [0], [0]))
    t.update(stub(t, 2, [torch.tensor([[2., 0.]]), torch.tensor([[0., 4.]])], [0], [0]))
    assert [m['rows'][0].tolist() for m in t._memory] == [[1.5, 0.], [0., 3.]]
    a = [1/(1+math.exp(-4.5)), 1/(1+math.exp(9))]
    assert abs(t.score(0) - sum(a)/2) < 1e-6

def test_no_gradient_through_the_trust_but_through_the_heads():
    learn = tiny_learner(ALASCA(warmup=0))
    got = []
    class Look(Callback):
        order = 4.5
        def after_loss(self):
            if not self.training: return
            b = self.learn.objective.batch
            z,trunk = b.heads[0].main,self.learn.model.net[0].weight
            p = self.learn.alasca.penalty_of(head_of(0, b.heads[0]))
            got.append([torch.autograd.grad(p, o, retain_graph=True, allow_unused=True)[0] for o in (z, trunk)])
            assert self.learn.alasca._memory == () or len(got) > 1      # asking wrote nothing
    learn.fit(1, cbs=Look())
    assert all(a is None and b.abs().sum() > 0 for a,b in got)

def test_a_warm_up_starts_with_plain_cross_entropy_and_stacks_on_any_loss():
    "spec 13: epoch 0 is lam sum_b CE; the base loss is the learner's own"
    learn = tiny_learner(ALASCA(1.5, warmup=1), loss_func=GCELoss())
    got = []
    class Look(Callback):
        order = 4.5
        def after_loss(self):
            if not self.training: return
            h,y = self.learn.objective.batch.heads[0],self.learn.y.as_subclass(torch.Tensor).long()
            base = GCELoss()(h.main, y)
            assert torch.allclose(self.loss_grad, base, atol=1e-6)
            got.append((base + 1.5*sum(F.cross_entropy(a, y) for a in h.aux)).item())
    class After(Callback):
        order = 5.5
        def after_loss(self): assert not self.training or abs(self.loss_grad.item() - got[-1]) < 1e-5
    with pytest.warns(RobustWarning, match='inside the 1 epochs of `warmup`'): learn.fit(1, cbs=[Look(), After()])
    assert np.allclose(learn.alasca.alpha, 1.) and learn.alasca.score().max() < 1

def test_the_memory_has_mapped_logits():
    learn = tiny_learner([LogitClip(.05), ALASCA(w=0., warmup=0)])
    learn.fit(2, .1)
    norms = learn.alasca._memory[0]['rows'].norm(dim=1)
    assert norms.max() < .0501 and norms.min() > 0
    free = tiny_learner(ALASCA(w=0., warmup=0)); free.fit(2, .1)
    assert free.alasca._memory[0]['rows'].norm(dim=1).max() > .06

def test_auxiliary_logits_are_mapped_too():
    learn = tiny_learner([LogitClip(.05), ALASCA(warmup=10)])
    got = []
    class Look(Callback):
        order = 4.5
        def after_loss(self):
            if not self.training: return
            h,y = self.learn.objective.batch.heads[0],self.learn.y.as_subclass(torch.Tensor).long()
            clipped = [F.cross_entropy(a*(.05/a.norm(dim=1, keepdim=True)).clamp(max=1), y) for a in h.aux]
            got.append((self.learn.alasca.penalty_of(head_of(0, h)) - sum(clipped)).item())
            assert min(a.norm(dim=1).max() for a in h.aux) > .06
    with pytest.warns(RobustWarning): learn.fit(1, cbs=Look())
    assert len(got) == 3 and np.allclose(got, 0, atol=1e-5)

def test_items_that_come_twice_or_never():
    dls = tiny_dls()
    w = np.ones(48); w[:6] = 0
    dls = DataLoaders(WeightedDL(dls.train_ds, wgts=w, bs=16, num_workers=0, shuffle=True, device='cpu',
                                 after_item=[ToTensor()], after_batch=list(dls.train.after_batch.fs)), dls.valid)
    learn = tiny_learner(ALASCA(warmup=0), dls=dls)
    learn.fit(2)
    s = learn.alasca.score()
    assert np.isnan(s[:6]).all() and np.isfinite(s).sum() > 20 and not learn.alasca._memory[0]['rows'][:6].any()

# --- the learner -----------------------------------------------------------------------------------------------------
def test_predictions_are_those_of_main_and_last_head():
    for predict in ('main+aux', 'main'):
        learn = tiny_learner(ALASCA(warmup=0, predict=predict))
        learn.fit(1)
        x,y = (torch.cat([b[i].as_subclass(torch.Tensor) for b in learn.dls.valid]) for i in range(2))
        m = learn.model.eval()
        z = m.net(x)
        if predict == 'main+aux': z = (z + m.heads[-1](m.net[:2](x)))/2
        p = learn.get_preds()[0]
        assert torch.allclose(p, z.softmax(1), atol=1e-5)
        loss,acc = learn.validate()
        assert abs(loss - F.cross_entropy(z, y.long()).item()) < 1e-5
        assert abs(acc - (z.argmax(1) == y).float().mean()) < 1e-6

def test_strip_gives_the_network_that_predicts_alone():
    learn = tiny_learner(ALASCA(warmup=0)); learn.fit(1)
    with pytest.raises(ValueError, match=r'AuxHeads: auxiliary heads take part.*`learn.export\(\)`.*predict=.main.'):
        strip(learn)
    learn = tiny_learner(ALASCA(warmup=0, predict='main')); learn.fit(1)
    s = strip(learn)
    assert type(s.model) is nn.Sequential and torch.allclose(s.get_preds()[0], learn.get_preds()[0], atol=1e-6)
    both = tiny_learner([MiniTwin(), ALASCA(warmup=0)]); both.fit(1)
    with pytest.raises(ValueError, match='AuxHeads'): strip(both, 'b')

def test_an_export_predicts_alike_and_has_no_memory(tmp_path):
    learn = tiny_learner(ALASCA(warmup=0), path=tmp_path); learn.fit(1)
    learn.export('m.pkl')
    x = tiny_arrays()[0][:6]
    want = learn.get_preds(dl=learn.dls.test_dl(x))[0]
    back = load_learner(tmp_path/'m.pkl')
    assert isinstance(back.model, AuxHeads)
    with back.no_bar(): assert torch.allclose(back.get_preds(dl=back.dls.test_dl(x))[0], want, atol=1e-6)
    with pytest.raises(ValueError, match='ALASCA to have a memory of a training'): back.alasca.score()
    assert back.alasca.epochs == 0 and learn.alasca.epochs == 1 and np.isfinite(learn.alasca.score()).all()
    n = {k: len(pickle.dumps(o)) for k,o in dict(a=learn.alasca.clone()).items()}
    assert n['a'] < 2000
    twin = copy.deepcopy(learn)
    assert np.array_equal(twin.alasca.score(), learn.alasca.score())
    twin.fit(1)
    assert not np.array_equal(twin.alasca.score(), learn.alasca.score())

def test_a_training_resumes_where_it_was(tmp_path):
    def run(split):
        learn = tiny_learner(ALASCA(warmup=3), opt_func=SGD, path=tmp_path)
        learn.fit(2, .1)
        if split:
            learn.save('half'); torch.save(learn.alasca.state_dict(), tmp_path/'memory.pt')
            states,rng = torch.get_rng_state(),learn.dls.train.rng
            learn = tiny_learner(ALASCA(warmup=3), opt_func=SGD, path=tmp_path)
            learn.load('half'); learn.alasca.load_state_dict(torch.load(tmp_path/'memory.pt'))
            torch.set_rng_state(states); learn.dls.train.rng = rng
        learn.fit(2, .1)
        return learn
    a,b = run(False),run(True)
    assert all(torch.equal(v, b.model.state_dict()[k]) for k,v in a.model.state_dict().items())
    assert np.array_equal(a.alasca.alpha, b.alasca.alpha) and a.alasca.epochs == b.alasca.epochs == 4
    other = tiny_learner(ALASCA(), dls=tiny_dls(n=32))
    with pytest.raises(ValueError, match=r'memory of the 32 training items, got one of \[48\]'):
        other.alasca.load_state_dict(a.alasca.state_dict())
    a.dls = tiny_dls(n=32)
    with pytest.warns(RobustWarning, match='remembers 48 training items, now there are 32'): a.fit(1)
    assert len(a.alasca.score()) == 32 and a.alasca.epochs == 1
    a.alasca.forget()
    with pytest.raises(ValueError, match='memory'): _ = a.alasca.alpha

def test_lr_find_leaves_memory_and_warm_up_alone(tmp_path):
    learn = tiny_learner(ALASCA(warmup=5), path=tmp_path)
    learn.lr_find(num_it=12, show_plot=False)
    assert learn.alasca._memory == () and learn.alasca.epochs == 0
    with pytest.warns(RobustWarning): learn.fit(1)
    m = copy.deepcopy(learn.alasca.state_dict())
    learn.lr_find(num_it=12, show_plot=False)
    now = learn.alasca.state_dict()
    assert torch.equal(now['memory'][0]['rows'], m['memory'][0]['rows']) and now['epochs'] == 1 and now['g'] == m['g']

def test_removal_gives_the_model_back():
    learn = tiny_learner(norm='bn')
    keys,net = list(learn.model.state_dict()),learn.model
    learn.fit(1, cbs=ALASCA(warmup=0))
    assert learn.model is net and list(net.state_dict()) == keys
    z = learn.get_preds()[0]
    learn.add_cb(ALASCA()); assert isinstance(learn.model, AuxHeads)
    learn.remove_cb(ALASCA)
    assert learn.model is net and torch.equal(learn.get_preds()[0], z)
    assert not any(m._forward_hooks for m in net.modules())
    learn.fit(1)

def test_freezing_leaves_both_kinds_of_heads_trainable():
    dls = tiny_dls(n=8, size=32, channels=3, bs=4)
    learn = vision_learner(dls, resnet18, pretrained=False, normalize=False, wd_bn_bias=False)
    learn.freeze()                              # an optimizer exists before the surgery (T15)
    learn.add_cb(ALASCA(warmup=0))
    learn.remove_cb(learn.progress); learn.logger = lambda *a: None
    before = copy.deepcopy(learn.model.state_dict())
    learn.fit(1, 1e-2)
    moved = {k for k,v in learn.model.state_dict().items() if k.endswith('weight') and not torch.equal(v, before[k])}
    assert any(k.startswith('AuxHeads of ALASCA.heads.0') for k in moved) and any(k.startswith('1.') for k in moved)
    assert not [k for k in moved if k.startswith('0.') and before[k].ndim == 4]
    learn.unfreeze(); learn.fit(1, 1e-2)
    assert not torch.equal(learn.model.state_dict()['0.0.weight'], before['0.0.weight'])
    n = sum(map(len, learn.opt.param_lists))
    assert len(learn.model.heads) == 3 and n == len(list(learn.model.parameters()))     # each once
    for h in learn.model.heads:     # fastai's rule for norms and biases reaches the heads
        assert learn.opt.state[h[1].weight]['do_wd'] is False and 'do_wd' not in learn.opt.state[h[0].weight]

@pytest.mark.parametrize('arch', ['mobilenet_v2', 'timm'])
def test_other_architectures(arch):
    dls = tiny_dls(n=8, size=32, channels=3, bs=4)
    if arch == 'timm': net = pytest.importorskip('timm').create_model('resnet10t', pretrained=False, num_classes=3)
    else: net = mobilenet_v2(num_classes=3)
    learn = Learner(dls, net, loss_func=CrossEntropy(), cbs=ALASCA(warmup=0))
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert np.isfinite(learn.recorder.values[-1]).all() and len(learn.model.heads) == 3
    assert np.isfinite(learn.alasca.score()).all()

def test_nets_without_a_shrinking_grid_are_refused():
    for net in (TabularModel([], 8, 3, [16]), nn.Sequential(nn.Flatten(), nn.Linear(64, 3))):
        learn = tiny_learner()
        learn.model = net
        with pytest.raises(ValueError, match='expected a convolutional net whose grid shrinks.*such as ELR'):
            learn.add_cb(ALASCA())
        assert not learn.cbs.filter(lambda o: isinstance(o, ALASCA)) and learn.model is net
    t = ALASCA()
    with pytest.raises(ValueError, match='whose grid shrinks'): learn.add_cb(t)
    assert t.learn is None

def test_a_replaced_model_is_noticed():
    learn = tiny_learner(ALASCA(warmup=0))
    learn.model = learn.model.net
    with pytest.raises(ValueError, match='got one without: it was replaced'): learn.fit(1)

@pytest.mark.parametrize('kw,err,match', [
    (dict(lam=0), ValueError, '`lam` must be positive'), (dict(w=1.), ValueError, r'`w` must be in \[0,1\), got 1.0'),
    (dict(w=-.1), ValueError, '`w`'), (dict(w='a'), TypeError, '`w` must be a number'),
    (dict(t=0), ValueError, '`t` must be positive, got 0'), (dict(warmup=-1), ValueError, '`warmup`'),
    (dict(warmup=30.), ValueError, '`warmup` must be an int'), (dict(warmup=True), TypeError, '`warmup`'),
    (dict(predict='aux'), ValueError, "`predict` must be one of 'main\\+aux', 'main', got 'aux'"),
    (dict(memory='probs'), ValueError, '`memory` must be one of'), (dict(spread='some'), ValueError, '`spread`')])
def test_bad_settings(kw, err, match):
    with pytest.raises(err, match=match): ALASCA(**kw)

def test_warm_ups_say_when_a_fit_ends_inside():
    learn = tiny_learner(ALASCA(warmup=2))
    with pytest.warns(RobustWarning, match='epoch 2, inside the 2 epochs of `warmup` of alasca'): learn.fit(2)
    with warnings.catch_warnings():
        warnings.simplefilter('error', RobustWarning)
        learn.fit(1)        # the third of its life
        assert learn.alasca.epochs == 3 and learn.alasca.ramp == 1.
        tiny_learner(ALASCA(warmup=.5)).fit(1)

def test_untouched_loaders_shuffle_as_without():
    orders = []
    class Ids(Callback):
        order = 4.5
        def after_loss(self):
            if self.training: orders[-1] += self.learn.objective.batch.ids.tolist()
    for t in (ALASCA(warmup=0), LogitClip(100.)):
        set_seed(5); dls = tiny_dls()
        orders.append([])
        tiny_learner(t, dls=dls).fit(2, cbs=Ids())
    assert orders[0] == orders[1] and len(orders[0]) == 96

def test_twins_average_main_and_last_heads():
    learn = tiny_learner([MiniTwin(), ALASCA(warmup=0)]); learn.fit(1)
    assert isinstance(learn.model, TwinNet) and all(isinstance(n, AuxHeads) for n in learn.model.nets)
    x = learn.dls.valid.one_batch()[0]
    m = learn.model.eval()
    z = [o for n in m.nets for o in (n.net(x), n.heads[-1](n.net[:2](x)))]
    assert torch.allclose(m(x), sum(z)/4, atol=1e-6)
    learn.remove_cb(ALASCA)
    assert not any(isinstance(o, AuxHeads) for o in learn.model.modules())

@pytest.mark.slow
def test_trust_tells_right_labels_from_wrong_ones_early():
    "spec 15: clean minus noisy > .6 at epochs 5-10 on images with 40 % wrong labels"
    set_seed(0, reproducible=True)
    X,y,Xv,yv,vocab = sample_data()
    dls = array_dls(X[:2000], y[:2000], valid=(Xv[:50], yv[:50]), vocab=vocab, bs=32)
    dls = add_label_noise(dls, NoisyLabels('symmetric', .4, seed=0))
    learn = Learner(dls, small_cnn(10), loss_func=CrossEntropy(), cbs=ALASCA(warmup=2))
    with learn.no_bar(), learn.no_logging(): learn.fit(6, 3e-3)
    noisy = dls.noise.is_noisy
    gap = np.nanmean(learn.alasca.score()[~noisy]) - np.nanmean(learn.alasca.score()[noisy])
    assert gap > .6, gap
    assert np.allclose(learn.alasca.alpha, learn.alasca.score(), atol=1e-6, equal_nan=True)     # the warm-up is over

def test_label_trust_by_hand():
    z,y = torch.tensor([[0., math.log(2.)]]),torch.tensor([1])
    assert abs(label_trust(z, y, 1.) - 2/3) < 1e-6 and abs(label_trust(z, y, .5) - 4/5) < 1e-6
    assert label_trust(z.half(), y, 1.).dtype is torch.float32
