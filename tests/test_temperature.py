"The fitted T against scipy and a grid; in a learner it changes confidence and nothing else, wherever the learner goes"
import copy, math, pickle, subprocess, sys, warnings
import numpy as np, pytest, torch, torch.nn.functional as F
from fastai.callback.mixup import MixUp
from fastai.data.core import DataLoaders
from fastai.imports import noop
from fastai.interpret import Interpretation
from fastai.learner import Learner, load_learner
from fastai.losses import BCEWithLogitsLossFlat, BaseLoss, CrossEntropyLossFlat, LabelSmoothingCrossEntropyFlat
from fastai.torch_core import set_seed
from hypothesis import given, settings, strategies as st
from scipy.optimize import minimize_scalar
from torch import nn
from conftest import MiniTwin, Raise, params, tiny_arrays, tiny_dls, tiny_learner
from fastrobust.basics import RobustWarning
from fastrobust.inference import fitting as module
from fastrobust.calibration.few import temperature_interval
from fastrobust.calibration.metrics import nll
from fastrobust.calibration.temperature import (Tempered, temper, temperature_of,
                                                temperature_scale, untemper)
from fastrobust.inference.fitting import cross_fit, fit_temperature
from fastrobust.noise.laws import NoisyLabels
from fastrobust.noise.block import add_label_noise
from fastrobust.losses import FuncLoss, GCELoss
from fastrobust.inference.passes import shifted_preds
from fastrobust.training.objective import Objective
from fastrobust.stripping import strip
from fastrobust.techniques.logitclip import LogitClip
from test_shifted import snapshot

def some(seed=0, n=300, c=4, T=2., scale=1.):
    "Logits and labels drawn from their softmax at temperature T"
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, c, generator=g, dtype=torch.float64)*3
    return z*scale,torch.multinomial((z/T).softmax(1), 1, generator=g)[:, 0]

# --- the fit ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('n,c,T,scale', [(300, 4, 2., 1.), (40, 2, .5, 1.), (300, 10, 1.5, 1e4), (300, 10, .7, 1e-4),
                                         (200, 1000, 1., 1.), (2000, 3, 6., 1.)])
def test_against_scipy_and_a_grid(n, c, T, scale):
    z,y = some(n, n, c, T, scale)
    got = fit_temperature(z, y)
    loss = lambda t: nll(z, y, math.exp(t))
    best = minimize_scalar(loss, bounds=(math.log(scale)-4, math.log(scale)+4), method='bounded',
                           options=dict(xatol=1e-10))
    assert got == pytest.approx(math.exp(best.x), rel=1e-5) and nll(z, y, got) <= best.fun+1e-12
    assert nll(z, y, got) <= min(loss(t) for t in np.linspace(-12, 12, 200)) + 1e-12
    assert fit_temperature(3*z, y) == pytest.approx(3*got, rel=1e-9)
    assert fit_temperature(z+torch.randn(n, 1), y) == pytest.approx(got, rel=1e-9)

def test_by_hand():
    "Two classes, margin 1, right 3 times in 4: sigmoid(1/T) = 3/4"
    z,y = torch.tensor([[1., 0.]]*4),[0, 0, 0, 1]
    assert fit_temperature(z, y) == pytest.approx(1/math.log(3), rel=1e-12)

def test_finds_the_temperature_of_the_data():
    for T in (.4, 1., 3.): assert fit_temperature(*some(1, 40_000, 5, T)) == pytest.approx(T, rel=.03)

def test_rows_in_parts_give_the_same(monkeypatch):
    z,y = some()
    want = fit_temperature(z, y)
    monkeypatch.setattr(module, '_ROWS', 7*4)
    assert fit_temperature(z, y) == pytest.approx(want, rel=1e-12)

@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(2, 40), st.integers(2, 6), st.floats(-5, 5))
@pytest.mark.filterwarnings('ignore::fastrobust.basics.RobustWarning')
def test_never_worse_than_before_and_accuracy_stays(seed, n, c, e):
    rng = np.random.default_rng(seed)
    z = torch.from_numpy(rng.normal(size=(n, c)))*10**e
    y = torch.from_numpy(rng.integers(0, c, n)) if seed % 3 else z.argmax(1)
    T = fit_temperature(z, y)
    assert 0 < T < math.inf and nll(z, y, T) <= nll(z, y)+1e-12
    assert ((z/T).argmax(1) == z.argmax(1)).all()
    assert fit_temperature(z.flip(0), y.flip(0)) == pytest.approx(T, rel=1e-6)

def test_half_precision_is_taken_as_it_is():
    z,y = some()
    for dtype in (torch.float16, torch.bfloat16):
        assert fit_temperature(z.to(dtype), y) == fit_temperature(z.to(dtype).double(), y)
    assert fit_temperature(z.float(), y) == pytest.approx(fit_temperature(z, y), rel=1e-5)
    assert fit_temperature(z.numpy(), y.tolist()) == fit_temperature(z, y)

def test_separable_data_has_no_best_temperature():
    z,y = some()
    with pytest.warns(RobustWarning, match='all 300 labels have the largest logit.*more items'):
        T = fit_temperature(z/10, (z/10).argmax(1))
    assert T < 1 and (z/10/T).softmax(1).amax(1).mean() == pytest.approx(301/302, abs=1e-9)
    with pytest.warns(RobustWarning, match='T = 1,'): assert fit_temperature(z*1e4, z.argmax(1)) == 1
    tied = torch.tensor([[1., 1., 0.]]*3)
    with pytest.warns(RobustWarning, match='all 3 labels'): assert 0 < fit_temperature(tied, [0, 1, 0]) < 1

def test_useless_logits_are_bounded():
    z,y = some()
    with pytest.warns(RobustWarning, match='the wrong thing, about these 300 labels.*order of the training'):
        T = fit_temperature(z, z.argmin(1))
    assert T == pytest.approx(1000*(z.amax(1)-z.amin(1)).pow(2).mean().sqrt())
    with pytest.warns(RobustWarning, match='all the same.*T = 1'):
        assert fit_temperature(z[:, :1].expand(-1, 3), y % 3) == 1
    nearly = torch.tensor([[.1, 0.]]*50 + [[1e9, 0.], [1e-12, 0.]])
    with pytest.warns(RobustWarning, match='best T is below 1,'): assert fit_temperature(nearly, [0]*51+[1]) == 1

def test_the_fit_refuses():
    with pytest.raises(ValueError, match='finite logits, got NaN or inf in 1 of 2'):
        fit_temperature(torch.tensor([[1., float('inf')], [0., 1.]]), [0, 1])
    with pytest.raises(ValueError, match='labels in 0..1'): fit_temperature(torch.zeros(2, 2), [0, 2])

# --- of few items ----------------------------------------------------------------------------------------------------
def grid_interval(z, y, drop=1.9207):
    "Temperatures of a fine grid whose likelihood is within `drop` of the best on it"
    ts = np.exp(np.linspace(-12, 12, 48_001))
    d = z-z.gather(1, y[:, None])
    l = np.array([-(d/t).logsumexp(1).sum().item() for t in ts])
    ok = ts[l >= l.max()-drop]
    return ok[0],ok[-1]

@pytest.mark.parametrize('n,c,T', [(8, 3, 1.), (24, 2, 2.), (49, 10, .5)])
def test_interval_against_a_grid(n, c, T):
    z,y = some(n, n, c, T)
    low,high = temperature_interval(z, y)
    assert low < fit_temperature(z, y) < high
    assert (low, high) == pytest.approx(grid_interval(z, y), rel=1.5e-3)
    assert temperature_interval(3*z, y) == pytest.approx((3*low, 3*high), rel=1e-6)
    narrow = temperature_interval(z, y, drop=.5)        # 68 %
    assert low < narrow[0] < narrow[1] < high

def test_interval_by_hand():
    "Two classes, margin 1, right k times in n: the likelihood ratio interval of a binomial share"
    n,k = 20,15
    z,y = torch.tensor([[1., 0.]]*n),torch.tensor([0]*k + [1]*(n-k))
    p = np.linspace(.5, .9999, 200_001)[1:]
    l = k*np.log(p) + (n-k)*np.log(1-p)
    ok = p[l >= l.max()-1.92]
    want = [1/math.log(o/(1-o)) for o in (ok[-1], ok[0])]
    assert temperature_interval(z, y) == pytest.approx(want, rel=1e-3)

def test_interval_without_an_end():
    z,y = some(n=30)
    low,high = temperature_interval(z, z.argmax(1))             # all right: no T is too low
    assert low == 0 and 0 < high < math.inf
    assert nll(z, z.argmax(1), high)*30 == pytest.approx(1.92, rel=1e-3)
    low,high = temperature_interval(z, z.argmin(1))             # all wrong: none is too high
    assert low > 0 and high == math.inf
    assert temperature_interval(z*0, y) == (0., math.inf)       # nothing is said
    one_doubt = torch.tensor([[50., 0.]]*9 + [[.1, 0.]])    # right, and the lowest T far likelier than the fitted
    low,high = temperature_interval(one_doubt, [0]*10)
    assert low == 0 and high > 1

def test_interval_holds_the_temperature_nineteen_times_in_twenty():
    hits = 0
    for seed in range(200):
        low,high = temperature_interval(*some(seed, 25, 4, 1.7))
        hits += low <= 1.7 <= high
    assert .9 <= hits/200 <= .985

def test_few_items_leave_the_temperature_open():
    learn = tiny_learner()
    def loader(n):
        X,y = tiny_arrays(n, seed=7)
        return learn.dls.test_dl([(x, int(k)) for x,k in zip(X, y)], with_labels=True)
    few,enough = loader(48),loader(51)
    match = f'^{len(few.dataset)} image.s. leave T open: their labels go with any T'
    with pytest.warns(RobustWarning, match=match) as said:
        T = temperature_scale(learn, few)
    bounds = temperature_interval(*shifted_preds(learn, few))
    text = next(str(o.message) for o in said if 'leave T open' in str(o.message))
    assert bounds[0] < T < bounds[1] and f'{bounds[0]:.3g}' in text
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always', RobustWarning)
        temperature_scale(learn, enough)
    assert not [o for o in said if 'leave T open' in str(o.message)]

@pytest.mark.parametrize('z,y,error,match', [
    (torch.zeros(3), [0, 0, 0], ValueError, 'expected logits'),
    (torch.zeros(2, 2), [0, 2], ValueError, 'labels in 0..1'),
    (torch.full((2, 2), math.nan), [0, 1], ValueError, 'finite logits')])
def test_the_interval_refuses(z, y, error, match):
    with pytest.raises(error, match=match): temperature_interval(z, y)

# --- cross-fitting ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('n_folds', [2, 3, 5])
def test_every_item_is_scored_with_the_others_temperature(n_folds):
    z,y = some(n=91)
    T,p = cross_fit(z, y, n_folds, seed=4)
    assert T.shape == (n_folds,) and p.shape == z.shape and p.dtype == torch.float64
    used = torch.stack([(p - (z/t).softmax(1)).abs().amax(1) for t in T]).argmin(0)
    for k in range(n_folds):
        mine = used == k
        assert torch.allclose(p[mine], (z[mine]/T[k]).softmax(1))
        assert T[k] == pytest.approx(fit_temperature(z[~mine], y[~mine]))
        for c in range(4): assert abs((y[mine] == c).sum() - (y == c).sum()/n_folds) < 1
    assert len(set(T)) == n_folds

def test_an_item_does_not_reach_its_own_temperature():
    z,y = some(n=60)
    T,p = cross_fit(z, y)
    z2 = z.clone(); z2[7] *= 50
    T2,_ = cross_fit(z2, y)
    assert (T == T2).sum() == 1         # only the T of the other half has seen it
    assert torch.allclose(p[7], (z[7]/T[T == T2][0]).softmax(0))

def test_folds_have_a_stream_of_their_own():
    z,y = some(n=60)
    torch.manual_seed(3); np.random.seed(3)
    a,_ = cross_fit(z, y, seed=1)
    t,n = torch.rand(1),np.random.rand()
    torch.manual_seed(3); np.random.seed(3)
    assert t == torch.rand(1) and n == np.random.rand()
    assert (a == cross_fit(z, y, seed=1)[0]).all() and not (a == cross_fit(z, y, seed=2)[0]).any()
    for bad in (1, 61, 2.):
        with pytest.raises(ValueError, match='`n_folds` must be'): cross_fit(z, y, bad)

# --- in a learner ----------------------------------------------------------------------------------------------------
def taught(cbs=None, T=2., **kw):
    "A learner whose logits have spread 2, on validation labels drawn at temperature `T`"
    learn = tiny_learner(cbs, **kw)
    z,last = shifted_preds(learn)[0],[m for m in learn.model.modules() if isinstance(m, nn.Linear)][-1]
    with torch.no_grad():
        last.weight.mul_(2/z.std(0)[:, None])
        last.bias.sub_(z.mean(0)).mul_(2/z.std(0))
    relabel(learn, T)
    return learn

def relabel(learn, T=2., seed=0):
    p = (shifted_preds(learn)[0]/T).softmax(1)
    y = torch.multinomial(p, 1, generator=torch.Generator().manual_seed(seed))[:, 0]
    learn.dls.valid_ds.items.y[:] = y

def raw(learn): return learn.get_preds(act=noop)[0]
def same(a, b): return torch.allclose(a, b, atol=1e-6)
def calibrated(learn, T): return same(learn.get_preds()[0], (raw(learn).float()/T).softmax(1))

def test_predictions_become_calibrated_and_nothing_else_changes():
    learn = taught()
    learn.fit(1)
    before,val = learn.get_preds(with_loss=True, with_decoded=True),learn.validate()
    shot = snapshot(learn)
    T = temperature_scale(learn)
    assert {k: v for k,v in snapshot(learn).items() if k != 'loss'} == {k: v for k,v in shot.items() if k != 'loss'}
    assert T == fit_temperature(*shifted_preds(learn)) == temperature_of(learn) and abs(T-1) > .01
    after = learn.get_preds(with_loss=True, with_decoded=True)
    assert calibrated(learn, T) and not same(before[0], after[0])
    assert torch.equal(before[2], after[2]) and torch.equal(before[3], after[3]) and list(learn.validate()) == list(val)
    x = tiny_arrays()[0][0]
    want = (learn.model.eval()(learn.dls.test_dl([x]).one_batch()[0])/T).softmax(1)[0]
    assert same(learn.predict(x)[2], want.detach())
    i = Interpretation.from_learner(learn)
    assert same(i[[0, 5]][1], after[0][[0, 5]]) and same(i.losses, before[3])

def test_the_default_loss_is_not_touched():
    dls = tiny_dls()
    shared = dls.train_ds.loss_func = CrossEntropyLossFlat()
    a = Learner(dls, tiny_learner(dls=dls).model)
    b = Learner(dls, a.model)
    assert a.loss_func is b.loss_func is shared
    temper(a, 3.)
    assert b.loss_func is shared and 'activation' not in vars(shared) and a.loss_func is not shared
    assert temperature_of(b) is None and temperature_of(a) == 3.

def test_a_new_temperature_replaces_the_old():
    learn = taught()
    T = temperature_scale(learn)
    assert temperature_scale(learn) == T and calibrated(learn, T)
    temper(learn, 5)
    assert temperature_of(learn) == 5. and calibrated(learn, 5.)
    assert temperature_scale(learn) == T
    untemper(learn)
    assert temperature_of(learn) is None and calibrated(learn, 1.) and 'activation' not in vars(learn.loss_func)
    with pytest.warns(RobustWarning, match='found no temperature'): untemper(learn)

@pytest.mark.parametrize('make', [CrossEntropyLossFlat, LabelSmoothingCrossEntropyFlat, GCELoss, nn.CrossEntropyLoss,
                                  lambda: F.cross_entropy, lambda: FuncLoss(F.cross_entropy),
                                  lambda: CrossEntropyLossFlat(weight=torch.tensor([1., 2., 0.]))])
def test_losses_of_all_kinds(make, tmp_path):
    learn = tiny_learner(loss_func=make(), path=tmp_path)
    learn.fit(1)
    before = learn.loss_func
    temper(learn, 2.)
    assert calibrated(learn, 2.) and learn.loss_func is not before
    p,y,d,l = learn.get_preds(with_decoded=True, with_loss=True)
    assert torch.equal(d, p.argmax(1)) and len(l) == len(y)
    assert learn.predict(tiny_arrays()[0][0])[2].sum() == pytest.approx(1)
    learn.fit(1)
    learn.export('m.pkl')
    assert temperature_of(load_learner(tmp_path/'m.pkl')) == 2.
    untemper(learn)
    assert type(learn.loss_func) is type(before) and vars(learn.loss_func).keys() == vars(before).keys()
    if before is F.cross_entropy: assert learn.loss_func is F.cross_entropy

def test_training_is_the_same_with_it():
    ends = []
    for T in (None, 4.):
        learn = tiny_learner(MixUp())
        if T: temper(learn, T)
        set_seed(5); learn.fit(2)
        ends.append(params(learn))
        assert temperature_of(learn) == T
    assert torch.equal(*ends)

@pytest.mark.parametrize('first', [True, False])
def test_techniques_come_and_go(first):
    learn = taught(LogitClip(1.) if first else None)
    learn.fit(1)
    temper(learn, 3.)
    if not first: learn.add_cb(LogitClip(1.))
    assert isinstance(learn.loss_func, Objective) and calibrated(learn, 3.) and temperature_of(learn) == 3.
    learn.fit(1)
    assert calibrated(learn, 3.)
    T = temperature_scale(learn)
    learn.remove_cb(learn.logitclip)
    assert not isinstance(learn.loss_func, Objective) and temperature_of(learn) == T and calibrated(learn, T)
    learn.fit(1, cbs=[LogitClip(2.), MixUp()])
    assert temperature_of(learn) == T and calibrated(learn, T)
    untemper(learn)
    assert temperature_of(learn) is None and calibrated(learn, 1.)

def test_after_a_ctrl_c_under_mixup():
    learn = taught()
    with pytest.raises(KeyboardInterrupt): learn.fit(1, cbs=[MixUp(), Raise(KeyboardInterrupt)])
    T = temperature_scale(learn)
    assert calibrated(learn, T) and temperature_of(learn) == T
    learn.fit(1)

def test_copies_and_pickles():
    learn = taught(LogitClip(1.))
    T = temperature_scale(learn)
    twin = copy.deepcopy(learn)
    assert temperature_of(twin) == T
    temper(twin, 9.)
    assert temperature_of(learn) == T and temperature_of(twin) == 9.
    loss,z = pickle.loads(pickle.dumps(learn.loss_func.base)),torch.randn(3, 3)
    assert same(loss.activation(z), (z/T).softmax(1))
    assert Tempered(1e-4)(torch.tensor([[60000., 0.]]).half()).tolist() == [[1., 0.]]
    assert repr(Tempered(2)) == 'Tempered(2)'

def test_export_and_load(tmp_path):
    learn = taught(LogitClip(1.), path=tmp_path)
    learn.fit(1)
    T = temperature_scale(learn)
    learn.export('m.pkl')
    new = load_learner(tmp_path/'m.pkl')
    x = tiny_arrays()[0][:5]
    got = [l.get_preds(dl=l.dls.test_dl(x))[0] for l in (new, learn)]
    assert same(*got) and temperature_of(new) == T

@pytest.mark.slow
def test_strip_folds_it_into_the_last_layer(tmp_path):
    learn = taught(LogitClip(1.), loss_func=GCELoss(), path=tmp_path, norm='bn')
    learn.fit(1)
    T = temperature_scale(learn)
    was = params(learn)
    s = strip(learn)
    assert same(s.get_preds()[0], learn.get_preds()[0]) and same(raw(s), raw(learn)/T) and temperature_of(s) is None
    assert torch.equal(params(learn), was) and temperature_of(learn) == T
    s.export('s.pkl')
    x = tiny_arrays()[0][:5]
    torch.save(learn.get_preds(dl=learn.dls.test_dl(x))[0], tmp_path/'p.pt')
    code = f'''
import sys, torch, numpy as np
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] == 'fastrobust': raise ImportError('fastrobust is blocked')
sys.meta_path.insert(0, Block())
from fastai.vision.all import load_learner
learn,want = load_learner({str(tmp_path/'s.pkl')!r}),torch.load({str(tmp_path/'p.pt')!r})
x = np.random.default_rng(0).integers(0, 256, (48, 8, 8), dtype=np.uint8)[:5]
assert torch.allclose(torch.stack([learn.predict(o)[2] for o in x]), want, atol=1e-5)
'''
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert r.returncode == 0, r.stderr[-2000:]

class Odd(nn.Module):
    "A network with a linear layer that is registered last and not its end"
    def __init__(self, scale=False):
        super().__init__()
        self.end,self.body,self.scale = nn.Linear(5, 3),nn.Linear(64, 5),scale
    def forward(self, x):
        z = self.end(self.body(x.flatten(1)).relu())
        return z/z.norm(dim=1, keepdim=True) if self.scale else z

def test_strip_finds_the_layer_or_refuses(tmp_path):
    learn = Learner(tiny_dls(), Odd(), loss_func=CrossEntropyLossFlat(), path=tmp_path)
    with learn.no_bar():
        temper(learn, 3.)
        s = strip(learn)
        with s.no_bar(): assert same(s.get_preds()[0], learn.get_preds()[0])
        assert torch.equal(s.model.body.weight, learn.model.body.weight)
        learn.export('m.pkl')
        loaded = load_learner(tmp_path/'m.pkl')
        with pytest.raises(ValueError, match='ends in a linear layer'): strip(loaded)   # no images to see it by
        bad = Learner(tiny_dls(), Odd(True), loss_func=CrossEntropyLossFlat())
        temper(bad, 3.)
        with pytest.raises(ValueError, match='ends in a linear layer.*temperature 3, got a Odd that.*untemper'):
            strip(bad)
        untemper(bad)
        strip(bad)

def test_a_loaded_sequential_can_be_stripped(tmp_path):
    learn = tiny_learner(path=tmp_path)
    temper(learn, 3.)
    learn.export('m.pkl')
    s,x = strip(load_learner(tmp_path/'m.pkl')),learn.dls.valid.one_batch()[0]
    with torch.no_grad(): assert same(s.model.eval()(x)*3, learn.model.eval()(x))

def test_one_of_two_networks_is_calibrated_otherwise():
    learn = tiny_learner(MiniTwin())
    relabel(learn, .05)
    T = temperature_scale(learn)
    assert T == fit_temperature(*shifted_preds(learn))
    with pytest.warns(RobustWarning, match='mean of two networks.*temperature_scale.strip'): s = strip(learn, 'b')
    x = s.dls.valid.one_batch()[0]
    with torch.no_grad(): assert same(s.model.eval()(x)*T, learn.model.nets[1].eval()(x))

# --- where it is fitted ----------------------------------------------------------------------------------------------
def test_fit_dl():
    learn = taught()
    X,y = tiny_arrays(40, seed=5)
    dl = learn.dls.test_dl([(x, int(k)) for x,k in zip(X, y)], with_labels=True)
    T = temperature_scale(learn, dl)
    assert T == fit_temperature(*shifted_preds(learn, dl)) != fit_temperature(*shifted_preds(learn))

def test_warns_of_labels_and_items_that_mislead():
    learn = taught()
    with pytest.warns(RobustWarning, match='fitted on the training set.*too small'):
        temperature_scale(learn, learn.dls.train)
    noisy = add_label_noise(tiny_dls(), NoisyLabels('symmetric', .5, noisy_valid=True))
    with pytest.warns(RobustWarning, match='% of the labels T is fitted on are wrong on purpose'):
        temperature_scale(tiny_learner(dls=noisy))

class Own(BaseLoss):
    "A loss that computes with its own activation"
    def __init__(self): super().__init__(nn.NLLLoss)
    def activation(self, z): return z.softmax(-1)
    def __call__(self, z, y): return self.func(self.activation(z).log(), y)

def test_refused():
    learn = tiny_learner()
    with pytest.raises(TypeError, match='expected a fastai Learner, got a Sequential'): temperature_scale(learn.model)
    with pytest.raises(TypeError, match='`T` must be a number, got None'): temper(learn, None)
    for bad in (0, -1., float('inf'), float('nan')):
        with pytest.raises(ValueError, match='`T` must be positive and finite'): temper(learn, bad)
    with pytest.raises(ValueError, match='does not use its own `activation`'): temper(tiny_learner(loss_func=Own()), 2.)
    with pytest.raises(ValueError, match='activation is the softmax'):
        temper(tiny_learner(loss_func=BCEWithLogitsLossFlat()), 2.)
    with pytest.raises(ValueError, match='with labels, got one of images alone'):
        temperature_scale(learn, learn.dls.test_dl(tiny_arrays()[0]))
    with pytest.raises(TypeError, match='temperature_scale expected a fastai loader'): temperature_scale(learn, [1])
    probs = tiny_learner()
    probs.model = nn.Sequential(probs.model, nn.Softmax(1))
    with pytest.raises(ValueError, match='expected logits from the model, got probabilities'): temperature_scale(probs)
    assert temperature_of(learn) is None and temperature_of(probs) is None

def test_a_failing_fit_leaves_the_old_temperature():
    learn = tiny_learner()
    temper(learn, 2.)
    with torch.no_grad(): next(learn.model.parameters()).fill_(float('nan'))
    with pytest.raises(ValueError, match='finite logits'): temperature_scale(learn)
    assert temperature_of(learn) == 2.

def test_loaders_of_two_kinds():
    "A copy of the loaders with other images is not the training set"
    learn = taught()
    other = DataLoaders(learn.dls.train, tiny_dls().valid)
    assert temperature_scale(learn, other.valid) == fit_temperature(*shifted_preds(learn, other.valid))
