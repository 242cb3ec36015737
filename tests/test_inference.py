"One way to run a network at rest: whoever asks, whatever the network returns, in whatever precision, and no trace"
import numpy as np, pandas as pd, pytest, torch
from torch import nn
from fastai.callback.core import Callback
from fastai.imports import noop
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.tabular.core import Categorify, TabularPandas
from fastai.tabular.learner import tabular_learner
from fastai.data.block import CategoryBlock
from fastai.data.core import DataLoaders
from fastai.torch_core import set_seed
from fastcore.basics import fastuple
from fastrobust.basics import RobustWarning
from fastrobust.calibration.report import calibration_report
from fastrobust.inference.passes import AtRest, by_position, shifted_preds, training_probs
from fastrobust.labels.crossval import cross_val_preds
from fastrobust.labels.history import SampleHistory
from fastrobust.labels.memorisation import measure_memorisation
from fastrobust.labels.report import noise_report
from fastrobust.nets import small_cnn
from fastrobust.noise.block import add_label_noise
from fastrobust.noise.averaging import AverageProbs
from fastrobust.noise.laws import NoisyLabels
from fastrobust.ood.report import ood_report
from fastrobust.resting import at_rest, keep_random
from fastrobust.shift.corruptionreport import corruption_report
from fastrobust.tails.report import tail_report
from conftest import tiny_dls
from test_shifted import snapshot

pytestmark = pytest.mark.filterwarnings('ignore::fastrobust.basics.RobustWarning')

class AndMore(nn.Module):
    "Logits, and something beside them"
    def __init__(self, net): super().__init__(); self.net = net
    def forward(self, x): return self.net(x),x.mean()

class First(Callback):
    "What a user of such a network writes for training"
    def after_pred(self):
        if isinstance(self.pred, tuple): self.learn.pred = self.pred[0]

class InPrecision(Callback):
    "Images in the precision of the weights, logits back in single"
    def before_batch(self): self.learn.xb = (self.x.to(next(self.model.parameters()).dtype),)
    def after_pred(self): self.learn.pred = self.pred.float()

def plain(net): return net,[]
def a_tuple(net): return AndMore(net),[First()]
def bfloat16(net): return net.to(torch.bfloat16),[InPrecision()]
KINDS = [plain, a_tuple, bfloat16]

def make(kind, dls, cbs=()):
    set_seed(3, reproducible=True)
    net,own = kind(small_cnn(len(dls.vocab), 1, width=8, norm=None, depth=2))
    learn = Learner(dls, net, loss_func=CrossEntropyLossFlat(), cbs=[*own, *cbs])
    learn.remove_cb(learn.progress)
    learn.logger = noop
    return learn

def noisy(): return add_label_noise(tiny_dls(n=90, bs=16), NoisyLabels('symmetric', .3))

def logits_of(kind, learn, x):
    "By hand"
    with at_rest(learn.model):
        z = learn.model(x.to(next(learn.model.parameters()).dtype))
    return (z[0] if kind is a_tuple else z).float()

# --- every asker, every kind of network ------------------------------------------------------------------------------
@pytest.mark.parametrize('kind', KINDS)
def test_one_network_whoever_asks(kind):
    learn = make(kind, noisy(), [SampleHistory('eval'), AverageProbs()])
    learn.fit(1)
    x,y = map(torch.cat, zip(*learn.dls.valid))
    z = logits_of(kind, learn, x)
    acc,p = (z.argmax(1) == y).float().mean().item(),z.softmax(1)
    tol = dict(abs=2e-2 if kind is bfloat16 else 1e-6)      # batches of other sizes round otherwise in bfloat16
    torch.testing.assert_close(shifted_preds(learn)[0], z, atol=tol['abs'], rtol=1e-2 if kind is bfloat16 else 1e-5)
    assert corruption_report(learn, names='fog', severities=1).clean == pytest.approx(1-acc)
    rep = calibration_report(learn)
    assert rep.table.accuracy.iloc[0] == pytest.approx(acc)
    assert rep.table.confidence.iloc[0] == pytest.approx(p.max(1).values.mean().item(), **tol)
    unknown = np.random.default_rng(5).integers(0, 256, (20, 8, 8), dtype=np.uint8)
    ood = ood_report(learn, {'noise': unknown}, scores=('msp', 'maxlogit', 'mahalanobis', 'odin'))
    assert ood.summary.accuracy == pytest.approx(acc)
    tops = z.max(1).values.numpy()
    assert ood.scores['maxlogit']['id'] == pytest.approx(tops, abs=5e-2 if kind is bfloat16 else 1e-5)
    assert tail_report(learn).summary.accuracy == pytest.approx(acc)
    train = logits_of(kind, learn, torch.cat([b[0] for b in learn.dls.train.new(shuffle=False, drop_last=False)]))
    nll = nn.functional.cross_entropy(train, torch.as_tensor(learn.dls.noise.y_noisy), reduction='none')
    assert learn.sample_history.losses[0] == pytest.approx(nll.numpy(), abs=2e-2 if kind is bfloat16 else 1e-5)
    assert learn.average_probs.probs == pytest.approx(train.softmax(1).numpy(), **tol)
    assert measure_memorisation(learn).clean_fit == pytest.approx(
        (train.argmax(1).numpy() == learn.dls.noise.y_clean)[~learn.dls.noise.is_noisy].mean())

@pytest.mark.parametrize('kind', KINDS)
def test_the_audit_of_labels_too(kind):
    dls = noisy()
    rep = noise_report(lambda d: make(kind, d), dls, n_folds=2, epochs=1, verbose=False, plant=.1)
    assert len(rep.table) == 90 and rep.probs.sum(1) == pytest.approx(1) and 0 <= rep.estimate.rate <= 1

@pytest.mark.parametrize('kind', KINDS)
def test_callbacks_that_look_leave_no_trace(kind):
    "A fit with lookers is the fit without, parameter by parameter"
    alone,watched = (make(kind, noisy(), cbs) for cbs in ([], [SampleHistory('eval'), AverageProbs()]))
    for learn in (alone, watched):
        set_seed(4)
        learn.dls.train.rng.seed(4)
        learn.fit(2)
    for p,q in zip(alone.model.parameters(), watched.model.parameters()): assert torch.equal(p, q)

# --- the object ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('error', [None, KeyboardInterrupt, RuntimeError])
def test_at_rest_puts_everything_back(error):
    learn = make(plain, tiny_dls())
    learn.fit(1)
    learn.model.train(); list(learn.model.modules())[1].eval()
    before,hooks = snapshot(learn),[len(m._forward_hooks) for m in learn.model.modules()]
    def look():
        with AtRest(learn, 'test') as rest:
            assert not torch.is_grad_enabled() and not any(m.training for m in learn.model.modules())
            for dl in (learn.dls.train, learn.dls.valid, learn.dls.train):      # opened within each other
                for xb,yb in rest.read(dl):
                    torch.rand(3), np.random.rand(3)
                    z = rest.logits(*xb)
                    assert z.dtype == torch.float32 and len(z) == len(yb[0])
            if error: raise error('stop')
    if error is None: look()
    else:
        with pytest.raises(error): look()
    after = snapshot(learn)
    for k in before: assert before[k] == after[k], k
    assert hooks == [len(m._forward_hooks) for m in learn.model.modules()]

def test_the_training_set_is_read_whole_in_order_and_not_augmented():
    from fastai.vision.augment import aug_transforms
    dls = tiny_dls(n=50, bs=16, batch_tfms=aug_transforms(max_rotate=90, p_affine=1.))
    learn = make(plain, dls)
    def read(rest): return map(torch.cat, zip(*((xb[0], yb[0]) for xb,yb in rest.read(dls.train))))
    with AtRest(learn, 'test') as rest: (x,y),(again,_) = read(rest),read(rest)
    assert torch.equal(x, again) and torch.equal(y, dls.train_ds.items.y)
    norm = dls.train.after_batch.fs[-1]
    want = (dls.train_ds.items.x.float()/255 - norm.mean)/norm.std
    torch.testing.assert_close(x.as_subclass(torch.Tensor), want.as_subclass(torch.Tensor))

def test_tables_go_the_same_way():
    g = np.random.default_rng(0)
    df = pd.DataFrame(dict(a=g.normal(size=60), k=g.choice(list('xyz'), 60), y=g.choice(['no', 'yes'], 60)))
    splits = [*range(45)],[*range(45, 60)]
    dls = TabularPandas(df, [Categorify], 'k', 'a', 'y', CategoryBlock(), splits).dataloaders(bs=8)
    learn = tabular_learner(dls, layers=[4])
    p = training_probs(learn, 'test')
    want = learn.get_preds(dl=dls.train.new(shuffle=False, drop_last=False))[0]
    assert p == pytest.approx(want.numpy(), abs=1e-6) and len(p) == 45

class Pair(fastuple): pass
def two_of_them(xs): return Pair(xs, 1-xs)
def by_name(xs): return dict(a=xs, b=1-xs)

@pytest.mark.parametrize('bundle', [two_of_them, by_name])
def test_inputs_of_several_tensors(bundle):
    class Both(nn.Module):
        def __init__(self): super().__init__(); self.net = nn.Linear(4, 3)
        def forward(self, x):
            a,b = x.values() if isinstance(x, dict) else x
            return self.net(a) + 2*self.net(b)
    set_seed(1)
    X,y = torch.rand(30, 4),torch.arange(30)%3
    dls = DataLoaders.from_dsets(*[[(bundle(a), b) for a,b in zip(X, y)]]*2, bs=8)
    dls.vocab,dls.c = list('abc'),3
    learn = Learner(dls, Both(), loss_func=CrossEntropyLossFlat())
    z,targs = by_position(learn, dls.train, 'test')
    with torch.no_grad(): want = learn.model(bundle(X))
    torch.testing.assert_close(z, want)
    assert torch.equal(targs, y)
    half = Learner(dls, Both().bfloat16(), loss_func=CrossEntropyLossFlat())
    assert by_position(half, dls.valid, 'test')[0].dtype == torch.float32
    with AtRest(learn, 'test') as rest, pytest.raises(ValueError, match=r'per image, \(30,c\)'):
        learn.model.net = nn.Linear(4, 1)
        rest.logits(bundle(X))

def test_without_a_validation_set():
    dls = tiny_dls()
    learn = make(plain, DataLoaders(dls.train))
    for f in (calibration_report, tail_report, shifted_preds):
        with pytest.raises(ValueError, match='with a validation loader, got 1 loaders. Give `dl`'): f(learn)

def test_callbacks_of_the_users_own_are_named():
    class Flip(Callback):
        def before_batch(self):
            if not self.training: self.learn.xb = (1-self.x,)
    with pytest.warns(RobustWarning, match='cross_val_preds runs the model without callbacks, but Flip') as said:
        cross_val_preds(lambda dls: make(plain, dls, [Flip()]), tiny_dls(), n_folds=3, epochs=1, verbose=False)
    assert sum('Flip' in str(o.message) for o in said) == 1

def test_by_position_undoes_a_loader_that_sorts():
    dls = tiny_dls(n=40, bs=8)
    learn = make(plain, dls)
    z,y = by_position(learn, dls.train, 'test')
    class Backwards(type(dls.train)):
        def get_idxs(self): return list(range(self.n))[::-1]
    turned = dls.train.new(cls=Backwards)
    z2,y2 = by_position(learn, turned, 'test')
    torch.testing.assert_close(z, z2)
    assert torch.equal(y, y2)

# --- the ground below it ---------------------------------------------------------------------------------------------
def test_keep_random_and_at_rest_alone():
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(.5)).train()
    net[1].eval()
    set_seed(1)
    want = torch.rand(3)
    set_seed(1)
    with pytest.raises(ZeroDivisionError), keep_random():
        torch.rand(7)
        raise ZeroDivisionError
    assert torch.equal(torch.rand(3), want)
    with at_rest(net): assert not net[0].training and not net(torch.ones(1, 2)).requires_grad
    assert net.training and net[0].training and not net[1].training and torch.is_grad_enabled()
