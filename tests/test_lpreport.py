"lp_report: its numbers by hand, noise that depends on nothing but seed and image, the learner as it was, errors"
import math
import numpy as np, pandas as pd, pytest, torch
from torch import nn
from torch.utils.data import Subset
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastrobust.data.fromarrays import array_dls
from fastrobust.shift.lpreport import lp_change, lp_report
from fastrobust.images.lpballs import lp_noise
from fastrobust.images.lpsets import lp_sets
from fastrobust.inference.passes import shifted_preds
from fastrobust.techniques.lpnoise import LpNoise
from conftest import params, tiny_dls, tiny_learner

inf = math.inf
SETS = [(2, .5), (2, 2.), (inf, .2), (0, .2), (0, .2, 'sphere'), (.5, 20.)]

def many(n=150, bs=16):
    g = np.random.default_rng(0)
    X,y = g.integers(0, 256, (n, 6, 6), dtype=np.uint8),g.integers(0, 3, n)
    y[:3] = range(3)
    return array_dls(X[:50], y[:50], valid=(X, y), vocab=[0, 1, 2], bs=bs, device='cpu')

# --- the noise -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('p,eps,kind', [(2, 1., 'ball'), (5, .4, 'ball'), (inf, .1, 'sphere'), (0, .3, 'sphere'),
                                        (.5, 9., 'ball')])
def test_noise_depends_on_seed_set_and_image_alone(p, eps, kind):
    x = torch.rand(150, 1, 6, 5)
    ids,f = torch.arange(150),lp_change(p, eps, kind)
    whole = f(x, ids)
    for bs in (1, 7, 64, 100):
        parts = torch.cat([f(x[i:i+bs], ids[i:i+bs]) for i in range(0, 150, bs)])
        assert torch.equal(parts, whole)
    some = torch.tensor([149, 3, 64, 63])
    assert torch.equal(f(x[some], some), whole[some])
    state = torch.get_rng_state()
    assert torch.equal(lp_change(p, eps, kind)(x, ids), whole) and torch.equal(torch.get_rng_state(), state)
    for other in (lp_change(p, eps, kind, seed=1), lp_change(p, eps*.9, kind)):
        assert not torch.equal(other(x, ids), whole)
    d = (f(torch.full_like(x, .5), ids)-.5).flatten(1).numpy()
    if p >= 1: assert np.abs(np.corrcoef(d) - np.eye(150)).max() < .8               # each image its own
    if p == 2: assert np.linalg.norm(d, axis=1).max() <= 1+1e-5

# --- the numbers -----------------------------------------------------------------------------------------------------
def test_numbers_by_hand():
    learn = tiny_learner(dls=many())
    learn.fit(1)
    rep = lp_report(learn, sets=SETS, seed=4)
    wrong = lambda change: (lambda z, y: (z.argmax(1) != y).double().numpy())(*shifted_preds(learn, None, change))
    clean = wrong(None)
    errs = [wrong(lp_change(*s, seed=4)) for s in SETS]
    assert np.allclose(rep.table.error, [e.mean() for e in errs]) and len(rep.table) == 6
    assert np.allclose(rep.table.se, [e.std(ddof=1)/math.sqrt(150) for e in errs])
    s = rep.summary
    assert s.clean_error == pytest.approx(clean.mean()) and s.images == 150
    assert s.mCE_Lp == pytest.approx(np.mean(errs))
    assert s.mCE_Lp_se == pytest.approx(np.mean(errs, 0).std(ddof=1)/150**.5)
    six = np.stack([wrong(lp_change(*o, seed=4)) for o in lp_sets('imperceptible', (1, 6, 6))])
    assert s.iCE == pytest.approx((six.mean()-clean.mean())/clean.mean())
    assert s.rise == pytest.approx(six.mean()-clean.mean())
    assert s.rise_se == pytest.approx((six.mean(0)-clean).std(ddof=1)/150**.5)
    assert list(rep.table.index) == ['L2 0.5', 'L2 2', 'Linf 0.2', 'L0 0.2 ball', 'L0 0.2', 'L0.5 20']

def test_the_standard_error_of_ice_by_bootstrap():
    from fastrobust.shift.lpreport import _summary
    g = torch.Generator().manual_seed(0)
    clean = (torch.rand(400, generator=g) < .2).double()
    flip = torch.rand(6, 400, generator=g) < .04
    six = torch.where(flip, 1-clean, clean)
    s = _summary(clean, six, six)
    boot = []
    for _ in range(2000):
        i = torch.randint(400, (400,), generator=g)
        boot.append((six[:, i].mean()/clean[i].mean()).item()-1)
    assert s.iCE_se == pytest.approx(np.std(boot), rel=.15)
    alone = math.hypot(*[clean.std().item()/20]*2)/clean.mean().item()
    assert s.iCE_se < .5*alone                                      # unpaired it would be much larger

class Mean(nn.Module):
    "Class 1 where the image is bright: small noise cannot flip it"
    def __init__(self): super().__init__(); self.w = nn.Parameter(torch.zeros(1))
    def forward(self, x): return torch.stack([-x.mean((1, 2, 3)), x.mean((1, 2, 3))], 1) + self.w

def bright(flip=0):
    X = np.repeat(np.array([51, 204], np.uint8), 40)[:, None, None].repeat(8, 1).repeat(8, 2)
    y = np.repeat([0, 1], 40)
    y[:flip] = 1
    dls = array_dls(X, y, valid=(X, y), bs=16, device='cpu')
    learn = Learner(dls, Mean(), loss_func=CrossEntropyLossFlat())
    learn.remove_cb(learn.progress)
    return learn

def test_a_model_that_no_small_noise_fools():
    rep = lp_report(bright(), sets=[(2, .5), (inf, .1)])
    assert (rep.table.error == 0).all() and rep.summary.clean_error == 0 and math.isnan(rep.summary.iCE)
    assert any('no error' in o for o in rep.notes)
    rep = lp_report(bright(8), sets=[(2, .5)])
    assert rep.summary.iCE == pytest.approx(0, abs=1e-9) and rep.summary.rise == 0
    assert rep.table.error.item() == rep.summary.clean_error == .1
    assert any('within 2 standard errors' in o for o in rep.notes)

@pytest.mark.filterwarnings('ignore:L0 noise')
def test_presets_at_the_size_of_the_images():
    learn = tiny_learner(dls=many(60))
    rep = lp_report(learn, preset='C2')
    t = rep.table
    assert len(t) == 30 and set(t.norm) == {'L0', 'L2', 'Linf'} and any('Sizes adapted' in o for o in rep.notes)
    assert t.loc['L2 5', 'eps'] == 5 and t.loc['L2 5', 'applied'] == pytest.approx(5*math.sqrt(36/3072))
    assert t.loc['L0 0.12', 'kind'] == 'sphere' and t.loc['L0 0.12', 'applied'] == .12
    rep = lp_report(learn, preset='C2', scale=None)
    assert (rep.table.eps == rep.table.applied).all() and not any('adapted' in o for o in rep.notes)

def test_logits_of_many_sets_are_not_all_kept(monkeypatch):
    from fastrobust.shift import lpreport
    learn,sizes = tiny_learner(dls=many(60)),[]
    a = lp_report(learn, sets=SETS)
    real = lpreport.passes
    def spy(learn, dl, changes, *args): sizes.append(len(changes)); return real(learn, dl, changes, *args)
    monkeypatch.setattr(lpreport, 'passes', spy)
    monkeypatch.setattr(lpreport, '_ROOM', 60*2)
    b = lp_report(learn, sets=SETS)
    assert max(sizes) == 2 and a.table.equals(b.table)

# --- the learner stays as it is --------------------------------------------------------------------------------------
def test_learner_recorder_and_streams_are_untouched(tmp_path):
    learn = tiny_learner(dls=many(60))
    learn.fit(1)
    before,values,log = params(learn),list(learn.recorder.values),list(learn.recorder.losses)
    state = torch.get_rng_state()
    learn.model.train()
    rep = lp_report(learn, sets=SETS)
    assert torch.equal(params(learn), before) and learn.recorder.values == values and learn.recorder.losses == log
    assert torch.equal(torch.get_rng_state(), state) and learn.model.training
    assert [p.name for p in rep.save(tmp_path)] == ['lp_report.csv', 'lp_report_summary.csv', 'lp_report.png']
    assert np.allclose(pd.read_csv(tmp_path/'lp_report.csv').error, rep.table.error)

def test_the_training_set_without_its_noise_and_what_it_was_trained_on():
    learn = tiny_learner(dls=tiny_dls(batch_tfms=[LpNoise([(2, 1.), (0, .1)])]))
    a,b = (lp_report(learn, learn.dls.train, sets=[(2, .5)]) for _ in range(2))
    assert a.table.equals(b.table) and a.summary.images == 48
    assert any('Trained with noise of L2, L0' in o for o in a.notes)
    assert not any('Trained' in o for o in lp_report(tiny_learner(), sets=[(2, .5)]).notes)

@pytest.mark.filterwarnings('ignore:L0 noise')
def test_picture():
    rep = lp_report(tiny_learner(dls=many(60)), preset='C2')
    axs = rep.plot().axes
    assert [ax.get_title() for ax in axs] == ['L0', 'L2', 'Linf']
    t = rep.table[rep.table.norm == 'L2']
    ax = next(o for o in axs if o.get_title() == 'L2')
    assert np.allclose(ax.lines[1].get_ydata(), t.error) and np.allclose(ax.lines[1].get_xdata(), t.eps)
    assert np.allclose(ax.lines[0].get_ydata(), rep.summary.clean_error)
    one = lp_report(tiny_learner(dls=many(60)), sets=[(2, 1.)])
    assert len(one.plot().axes) == 1 and 'mCE_Lp' in repr(one)

# --- errors ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('kw,err,match', [
    (dict(preset='C9'), ValueError, "Did you mean 'C"), (dict(preset='modern'), ValueError, 'fixed sizes'),
    (dict(sets=[(2, (0, 1))]), ValueError, 'fixed sizes'), (dict(sets=[]), ValueError, 'fixed sizes'),
    (dict(sets=[(-2, 1)]), ValueError, '`p` must'), (dict(sets=[2]), TypeError, r'\(p, eps\)'),
    (dict(table='cifra'), ValueError, "Did you mean 'cifar'"), (dict(seed='a'), TypeError, '`seed`')])
def test_bad_input(kw, err, match):
    with pytest.raises(err, match=match): lp_report(tiny_learner(), **kw)

def test_an_empty_loader():
    learn = tiny_learner()
    dl = learn.dls.valid.new(Subset(learn.dls.valid_ds, []))
    with pytest.raises(ValueError, match='empty'): lp_report(learn, dl, sets=[(2, 1.)])

def test_lp_change_is_lp_noise_with_a_generator():
    x = torch.rand(64, 1, 4, 4)
    y = lp_change(2, 1.)(x, torch.arange(64))
    assert torch.linalg.vector_norm((y-x).flatten(1), dim=1).max() < 1.001 and not torch.equal(y, lp_noise(x, 2, 1.))

def test_what_cannot_be_counted_is_refused():
    learn = tiny_learner()
    for p in learn.model.parameters(): p.data.fill_(float('nan'))
    with pytest.raises(ValueError, match='finite logits, got NaN'): lp_report(learn, sets=[(2, 1.)])
