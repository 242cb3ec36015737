"calibration_report against the functions of test_calibration, item by item; who fitted T on what; refused loaders"
import math, re, warnings
import numpy as np, pytest, torch
from fastai.data.load import DataLoader
from fastai.imports import noop
from fastai.losses import MSELossFlat
from conftest import tiny_arrays, tiny_dls, tiny_learner
from fastrobust.basics import RobustWarning
from fastrobust.calibration.charts import plot_reliability
from fastrobust.calibration.few import temperature_interval
from fastrobust.calibration.metrics import brier, classwise_ece, ece, ece_mass, nll, reliability_bins
from fastrobust.inference.fitting import cross_fit, fit_temperature
from fastrobust.calibration.temperature import temper, temperature_scale
from fastrobust.noise.laws import NoisyLabels
from fastrobust.noise.block import add_label_noise
from fastrobust.calibration import report as module
from fastrobust.calibration.report import CalibrationReport, calibration_report
from fastrobust.tails.report import tail_report
from fastrobust.reporting.report import Report
from fastrobust.inference.passes import shifted_preds
from fastrobust.techniques.logitnorm import norm_floor
from test_shifted import snapshot

COLUMNS = ['accuracy', 'ece', 'ece_mass', 'classwise_ece', 'brier', 'nll', 'confidence', 'T']

def drawn(learn, n, T=2., seed=0):
    "A loader of `n` new images with labels drawn from softmax(z/T), z of spread 2"
    X = tiny_arrays(n, seed=seed+10)[0]
    z = shifted_preds(learn, learn.dls.test_dl([(x, 0) for x in X], with_labels=True))[0]
    y = torch.multinomial((z/T).softmax(1), 1, generator=torch.Generator().manual_seed(seed))[:, 0]
    return learn.dls.test_dl([(x, int(k)) for x,k in zip(X, y)], with_labels=True)

def widened():
    learn = tiny_learner()
    z,last = shifted_preds(learn)[0],[m for m in learn.model.modules() if isinstance(m, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.weight.mul_(2/z.std(0)[:, None])
        last.bias.sub_(z.mean(0)).mul_(2/z.std(0))
    return learn

@pytest.fixture(scope='module')
def learn(): return widened()
@pytest.fixture(scope='module')
def dl(learn): return drawn(learn, 300)

def numbers(p, z, y, n_bins, T):
    return [(p.argmax(1) == y).double().mean().item(), ece(p, y, n_bins), ece_mass(p, y, n_bins),
            classwise_ece(p, y, n_bins), brier(p, y), nll(z, y), p.amax(1).mean().item(), T]

@pytest.mark.parametrize('n_bins,n_folds,seed', [(15, 2, 0), (7, 3, 5)])
def test_table_against_the_functions(learn, dl, n_bins, n_folds, seed):
    rep = calibration_report(learn, dl, n_bins, n_folds=n_folds, seed=seed)
    z,y = shifted_preds(learn, dl)
    T,p = cross_fit(z, y, n_folds, seed=seed)
    assert list(rep.table.columns) == COLUMNS and list(rep.table.index) == ['as trained', 'temperature-scaled']
    z = z.double()
    assert rep.table.loc['as trained'].tolist() == pytest.approx(numbers(z.softmax(1), z, y, n_bins, 1.))
    gm = math.exp(np.log(T).mean())
    assert rep.table.loc['temperature-scaled'].tolist() == pytest.approx(numbers(p, p.log(), y, n_bins, gm))
    assert rep.table.accuracy.nunique() == 1 and rep.table.ece.iloc[1] < rep.table.ece.iloc[0]
    for k,probs in (('as trained', z.softmax(1)), ('temperature-scaled', p)):
        assert np.allclose(rep.bins.loc[k], reliability_bins(probs, y, n_bins), equal_nan=True)
    s = rep.summary
    assert s.temperature == pytest.approx(gm) and s.images == 300 and s.n_bins == n_bins
    assert f'{n_folds}-fold cross-fitting' in rep.notes[0] and all(f'{t:.4g}' in rep.notes[0] for t in T)
    assert f'300 images, {n_bins} bins' in rep.notes[1]

def test_differences_and_their_errors(learn, dl):
    s = calibration_report(learn, dl).summary
    z,y = shifted_preds(learn, dl)
    z = z.double()
    T,p = cross_fit(z, y)
    q = z.softmax(1)
    rows = lambda o: [-math.log(o[i, k]) for i,k in enumerate(y)]
    d = np.array(rows(p))-np.array(rows(q))
    assert (s.nll_change, s.nll_change_se) == pytest.approx((d.mean(), d.std(ddof=1)/math.sqrt(300)))
    hot = torch.eye(3)[y]
    d = (((p-hot)**2).sum(1)-((q-hot)**2).sum(1)).numpy()
    assert (s.brier_change, s.brier_change_se) == pytest.approx((d.mean(), d.std(ddof=1)/math.sqrt(300)))
    assert s.ece_change == pytest.approx(ece(p, y)-ece(q, y)) and s.nll_change < 0
    draws = np.random.default_rng(0).integers(0, 300, (module._DRAWS, 300))
    boot = np.array([[ece(o[i], y[i]) for o in (q, p)] for i in draws])
    assert s.ece_se == pytest.approx(boot[:, 0].std(ddof=1))
    assert s.ece_scaled_se == pytest.approx(boot[:, 1].std(ddof=1))
    assert s.ece_change_se == pytest.approx((boot[:, 1]-boot[:, 0]).std(ddof=1))
    chance = [ece(p, torch.where(torch.rand(300) < p.amax(1), p.argmax(1), (p.argmax(1)+1) % 3)) for _ in range(150)]
    assert s.ece_by_chance == pytest.approx(np.mean(chance), rel=.1)
    assert s.ece_by_chance_sd == pytest.approx(np.std(chance), rel=.35)

def test_calibrated_labels_leave_nothing_to_scale():
    learn = widened()
    s = calibration_report(learn, drawn(learn, 1500, T=1.)).summary
    assert s.temperature == pytest.approx(1, abs=.15) and abs(s.ece-s.ece_by_chance) < 4*s.ece_by_chance_sd
    bad = calibration_report(learn, drawn(learn, 1500, T=3.)).summary
    assert bad.temperature == pytest.approx(3, rel=.2) and bad.ece > bad.ece_by_chance+8*bad.ece_by_chance_sd
    assert bad.ece_change < -4*bad.ece_change_se

def test_fit_dl_of_other_images(learn, dl):
    other = drawn(learn, 120, seed=7)
    rep = calibration_report(learn, dl, fit_dl=other)
    T = fit_temperature(*shifted_preds(learn, other))
    z,y = shifted_preds(learn, dl)
    assert rep.table['T'].iloc[1] == pytest.approx(T) and rep.table.nll.iloc[1] == pytest.approx(nll(z, y, T))
    assert rep.notes[0].startswith(f'T: fitted on the 120 images of `fit_dl`; T = {T:.4g}')
    with pytest.warns(RobustWarning, match='fitted on the images it is scored on'):
        rep = calibration_report(learn, dl, fit_dl=dl)
    assert any('its row flatters it. Leave `fit_dl` out' in o for o in rep.notes)
    with pytest.warns(RobustWarning, match='fitted on the training set'):
        rep = calibration_report(learn, dl, fit_dl=learn.dls.train)
    assert any('T will be too small' in o for o in rep.notes)

def test_an_installed_temperature_has_its_row():
    learn = widened()
    dl = drawn(learn, 100)
    before = calibration_report(learn, dl).table
    temper(learn, 5.)
    rep = calibration_report(learn, dl)
    assert rep.table.iloc[:2].equals(before) and list(rep.table.index)[2] == 'installed T'
    z,y = shifted_preds(learn, dl)
    assert rep.table.loc['installed T'].tolist() == pytest.approx(numbers((z/5).double().softmax(1), z/5, y, 15, 5.),
                                                                  abs=1e-6)
    assert ece(learn.get_preds(dl=dl)[0], y) == pytest.approx(rep.table.ece['installed T'], abs=1e-6)
    assert any('T = 5: row' in o for o in rep.notes) and set(rep.bins.index.unique(0)) == set(rep.table.index)

def test_the_learner_stays_as_it_was():
    learn = widened()
    learn.fit(1)
    learn.model.train()
    dl = drawn(learn, 60)
    before = snapshot(learn)
    a = calibration_report(learn, dl)
    assert snapshot(learn) == before
    b = calibration_report(learn, dl)
    assert a.table.equals(b.table) and a.summary.equals(b.summary)

def test_the_validation_set_is_the_default(learn):
    a,b = calibration_report(learn),calibration_report(learn, learn.dls.valid)
    p,y = learn.get_preds()
    assert a.table.equals(b.table) and a.table.ece.iloc[0] == pytest.approx(ece(p, y), abs=1e-6)
    assert a.summary.images == 24

def test_few_images_are_said_with_their_intervals(learn):
    few = drawn(learn, 49, seed=3)
    with pytest.warns(RobustWarning, match='49 images say little about calibration'):
        rep = calibration_report(learn, few)
    z,y = shifted_preds(learn, few)
    p = z.double().softmax(1)
    note = next(o for o in rep.notes if 'say little' in o)
    low,high = wilson(49, int((p.argmax(1) == y).sum()))
    assert f'mean confidence is {p.amax(1).mean():.2f} and the accuracy between {low:.2f} and {high:.2f} (95 %' in note
    # the bound of chance, from draws of another generator
    g = torch.Generator().manual_seed(5)
    chance = []
    for _ in range(1500):
        right = torch.rand(49, generator=g) < p.amax(1)
        chance.append(ece(p, torch.where(right, p.argmax(1), (p.argmax(1)+1) % 3)))
    said = float(re.search(r'an ECE up to (\S+) would be chance', note)[1])
    assert said == pytest.approx(np.quantile(chance, .95), abs=.012) and said > np.quantile(chance, .88)+.005
    low,high = temperature_interval(z, y)
    open_ = f'49 image(s) leave T open: their labels go with any T from {low:.3g} to {high:.3g} (95 %'
    assert any(o.startswith(open_) for o in rep.notes)
    assert calibration_report(learn, few).notes == rep.notes

def wilson(n, k, z=1.96):
    "Shares whose standard error reaches the observed one, on a grid"
    p = np.linspace(0, 1, 200_001)
    ok = p[np.abs(k/n-p) <= z*np.sqrt(p*(1-p)/n)]
    return ok[0],ok[-1]

def test_enough_images_are_not_called_few(learn):
    fifty,few = drawn(learn, 50, seed=3),drawn(learn, 20, seed=4)
    said = lambda rep, what: [o for o in rep.notes if what in o]
    with warnings.catch_warnings():
        warnings.simplefilter('error', RobustWarning)
        rep = calibration_report(learn, fifty)
    assert not said(rep, 'say little') and not said(rep, 'leave T open')
    # T is fitted on few, scored on enough; and the other way round
    with pytest.warns(RobustWarning, match='20 image.s. leave T open'):
        rep = calibration_report(learn, fifty, fit_dl=few)
    assert said(rep, 'leave T open') and not said(rep, 'say little')
    with pytest.warns(RobustWarning, match='20 images say little'):
        rep = calibration_report(learn, few, fit_dl=fifty)
    assert said(rep, 'say little') and not said(rep, 'leave T open')

def test_every_image_right():
    learn = widened()
    X = tiny_arrays(40, seed=3)[0]
    z = learn.get_preds(dl=learn.dls.test_dl(X), act=noop)[0]
    dl = learn.dls.test_dl([(x, int(k)) for x,k in zip(X, z.argmax(1))], with_labels=True)
    with pytest.warns(RobustWarning, match='all 20 labels have the largest logit'): rep = calibration_report(learn, dl)
    assert any(o.startswith('Every image is right') for o in rep.notes) and rep.summary.accuracy == 1

def test_noisy_validation_labels_are_named():
    dls = add_label_noise(tiny_dls(), NoisyLabels('symmetric', .5, noisy_valid=True))
    with pytest.warns(RobustWarning, match='wrong on purpose'):
        rep = calibration_report(tiny_learner(dls=dls))
    assert any('wrong on purpose' in o for o in rep.notes)

def test_saved_shown_and_drawn(learn, dl, tmp_path):
    rep = calibration_report(learn, dl)
    assert isinstance(rep, CalibrationReport) and isinstance(rep, Report)
    names = {p.name for p in rep.save(tmp_path)}
    assert names == {'calibration.csv', 'calibration_summary.csv', 'calibration_bins.csv', 'calibration.png'}
    assert 'ECE' in rep.title and '2-fold' in repr(rep) and '<table' in rep._repr_html_()
    drawn = rep.plot(title='mine')
    first = drawn.axes[0]
    assert first.get_gridspec().get_geometry() == (2, 2) and drawn._suptitle.get_text() == 'mine'
    fig = plot_reliability(rep)
    z,y = shifted_preds(learn, dl)
    alone = plot_reliability(z.double().softmax(1), y)
    heights = lambda ax: [p.get_height() for p in ax.patches]
    for ax in (alone.axes[0], first): assert heights(fig.axes[0]) == pytest.approx(heights(ax))
    assert fig.axes[0].get_title().startswith('as trained\nECE 0.')
    with pytest.raises(TypeError, match='calibration_report alone'): plot_reliability(rep, y)

def test_refused(learn, dl):
    for bad in (1, 0, 2.5, True):
        with pytest.raises(ValueError, match='`n_bins` must be a whole number from 2 on'):
            calibration_report(learn, dl, bad)
    with pytest.raises(ValueError, match='`n_folds` must be'): calibration_report(learn, dl, n_folds=1)
    with pytest.raises(TypeError, match='expected a fastai Learner, got a Sequential'): calibration_report(learn.model)
    with pytest.raises(ValueError, match='got one of images alone'):
        calibration_report(learn, learn.dls.test_dl(tiny_arrays()[0]))
    with pytest.raises(TypeError, match='calibration_report expected a fastai loader'): calibration_report(learn, [1])
    for k in (1., torch.ones(3)):           # a regression, several labels
        items = DataLoader([(torch.rand(1, 8, 8), torch.as_tensor(k))]*4, bs=2)
        with pytest.raises(ValueError, match='one whole class number per image'): calibration_report(learn, items)
    one = tiny_learner(loss_func=MSELossFlat())
    one.model[-1] = torch.nn.Linear(8, 1)
    with pytest.raises(ValueError, match='at least two logits per image'): calibration_report(one)

def test_the_scale_of_the_installed_temperature():
    learn = widened()
    dl = drawn(learn, 200)
    T = temperature_scale(learn, dl)
    rep = calibration_report(learn, dl)
    assert rep.table.nll['installed T'] <= rep.table.nll.min()+1e-9 and rep.table['T']['installed T'] == T

def test_training_images_and_old_temperatures_are_named():
    learn = tiny_learner()
    learn.fit(1)
    with pytest.warns(RobustWarning, match='images of the training set'):
        rep = calibration_report(learn, learn.dls.train, n_bins=5)
    assert any('images of the training set' in n for n in rep.notes)
    temper(learn, 2.)
    said = lambda: [n for n in calibration_report(learn, n_bins=5).notes if 'has changed since' in n]
    assert not said()
    learn.fit(1)
    with pytest.warns(RobustWarning, match='T = 2 was fitted, so this T is out of date'): assert said()
    temper(learn, 2.)
    assert not said()
    for f in (calibration_report, tail_report):
        with pytest.raises(TypeError, match='Learner, got'): f(learn.model)
    with pytest.warns(RobustWarning, match='images of the training set'): tail_report(learn, learn.dls.train)
    with pytest.raises(ValueError, match='`T` must be positive'): nll(torch.randn(4, 3), torch.arange(4) % 3, 0)
    with pytest.raises(ValueError, match='at least 2'): norm_floor(1, .04)
