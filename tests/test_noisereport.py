"The report on noise: what it reads from arrays, end to end on embedded images, what it refuses, and its picture"
import matplotlib
matplotlib.use('Agg')
import numpy as np, pandas as pd
import pytest
import torch
from fastai.learner import Learner
from fastrobust.basics import RobustWarning
from fastrobust.data.arrays import array_dls
from fastrobust.data.editing import given_labels, with_labels
from fastrobust.data.noise import NoisyLabels
from fastrobust.data.samples import sample_data
from fastrobust.evaluate.noisereport import Tau, estimate_tau, noise_report
from fastrobust.labels.report import NoiseReport
from fastrobust.losses import GCELoss
from fastrobust.models import small_cnn
from fastrobust.labels.outoffold import OutOfFold

VOCAB = [f'class {k}' for k in range(5)]

def world(n=1500, rate=.25, kind='symmetric', c=5, seed=0, sure=2.5):
    "True labels, given labels, probabilities that the truth follows"
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 1, (n, c))
    z[np.arange(n), rng.integers(0, c, n)] += rng.gamma(3., sure, n)
    p = np.exp(z-z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    y = (rng.random((n, 1)) < p.cumsum(1)).argmax(1)
    i,g = rng.permutation(n)[:round(rate*n)],y.copy()
    g[i] = (y[i] + (rng.integers(1, c, len(i)) if kind == 'symmetric' else 1))%c
    return y,g,p

def images(n=60, c=5, labels=None):
    X = np.random.default_rng(0).integers(0, 256, (n, 8, 8), dtype=np.uint8)
    return array_dls(X, np.arange(n)%c if labels is None else labels, valid=(X[:10], np.arange(10)%c), bs=16,
                     vocab=[f'class {k}' for k in range(c)])

# --- from arrays -----------------------------------------------------------------------------------------------------
def test_the_table():
    y,g,p = world()
    rep = NoiseReport(g, p, VOCAB)
    t = rep.table
    assert list(t.columns) == ['item', 'name', 'given', 'suggested', 'confidence', 'margin', 'wrong', 'flagged']
    assert list(t.index) == list(range(1500)) and sorted(t['item']) == list(range(1500))
    assert (np.diff(t.wrong) <= 0).all() and t.flagged.dtype == bool
    k = int(t.flagged.sum())
    assert t.flagged[:k].all() and not t.flagged[k:].any()                      # the flagged come first
    assert (t.given == np.array(VOCAB)[g[t['item']]]).all()
    assert (t.suggested != t.given)[:k].all() and t.confidence.between(0, 1).all()
    own = p[np.arange(1500), g]
    rest = np.where(np.arange(5) == g[:, None], -1, p).max(1)
    assert np.allclose(t.margin, ((own-rest+1)/2)[t['item']])
    assert (rep.issues[t['item']] == t.flagged).all() and rep.T.shape == (5, 5) and np.allclose(rep.T.sum(1), 1)

def test_its_numbers_hold_against_the_truth():
    y,g,p = world(6000)
    rep,wrong = NoiseReport(g, p, VOCAB),g != y
    assert rep.lo <= .25 <= rep.hi and abs(rep.rate-.25) < .03
    precision,recall = wrong[rep.issues].mean(),rep.issues[wrong].mean()
    assert rep.precision_lo-.03 <= precision <= rep.precision_hi+.03 and abs(rep.precision-precision) < .08
    assert abs(rep.recall-recall) < .06
    t = rep.table
    right = t.suggested.to_numpy() == np.array(VOCAB)[y[t['item']]]
    assert right[t.flagged.to_numpy() & wrong[t['item']]].mean() > .75
    assert rep.estimates.loc['flagged by PBNR', 'rate'] >= rep.lo
    assert rep.summary['fold accuracy'] == pytest.approx((p.argmax(1) == g).mean())

def test_clean_labels_are_left_alone():
    rep = NoiseReport(*world(3000, rate=0.)[1:], VOCAB)
    assert rep.rate < .02 and rep.lo == 0 and rep.issues.mean() <= rep.rate+1e-9
    none = NoiseReport(*world(3000, rate=0., sure=9.)[1:], VOCAB)       # not even a doubtful one
    assert not none.issues.any() and np.isnan(none.precision) and 'of the flagged' not in ' '.join(none.notes)

def test_what_it_says():
    say = lambda **kw: ' '.join(NoiseReport(*world(3000, **kw)[1:], VOCAB).notes)
    assert 'planted errors are easier to see' in say() and 'model too weak' not in say()
    assert 'confusable errors hide' in say(kind='pair') and 'lower bound' in say(kind='pair')
    assert 'model too weak' in say(rate=.6)

def test_copies_across_folds_show():
    y,g,p = world(4000)
    mask = np.random.default_rng(1).permutation(4000) < 200
    new = np.where(mask, (g+1+np.random.default_rng(2).integers(0, 4, 4000))%5, g)
    fair = NoiseReport(g, p, VOCAB, planted=(new, mask))
    assert fair.check.p > .001 and fair.planted.sum() == 200 and not np.isnan(fair.recall_lo)
    assert fair.recall_lo <= fair.recall <= fair.recall_hi
    seen = p.copy()
    seen[mask] = .4*p[mask] + .6*np.eye(5)[new[mask]]
    assert 'planted labels do not look as they should' in NoiseReport(g, seen, VOCAB, planted=(new, mask)).notes[0]

def test_it_prints_little_saves_all_and_draws(tmp_path):
    import matplotlib.pyplot as plt
    y,g,p = world(kind='pair')
    rep = NoiseReport(g, p, VOCAB, names=[f'img/{i}.png' for i in range(1500)])
    assert len(str(rep).splitlines()) < 20 and 'most suspicious first' in str(rep) and len(rep.table) == 1500
    files = {o.name for o in rep.save(tmp_path)}
    assert files == {'noise.csv', 'noise_summary.csv', 'noise_estimates.csv', 'noise.png'}
    assert len(pd.read_csv(tmp_path/'noise.csv')) == 1500
    axs = rep.plot()
    assert axs[0].get_xlabel() and axs[1].get_title() and len(axs[1].get_yticklabels()) == len(rep.estimates)
    plt.close('all')

# --- probabilities from elsewhere ------------------------------------------------------------------------------------
def test_given_probabilities_train_nothing_and_the_rate_is_kept_for_these_labels(capsys):
    y,g,p = world(600)
    dls = images(600, labels=g)
    rep = noise_report(None, dls, probs=OutOfFold(p, g, np.arange(600)%3, dls.vocab, [.7]*3))
    assert len(rep.fold_acc) == 3 and any('nothing was planted' in o for o in rep.notes)
    tau = estimate_tau(None, dls)                               # no maker needed: it is there
    assert tau == (rep.rate, rep.lo, rep.hi) and 'tau 0.' in capsys.readouterr().out
    assert dls.noise_estimate.tau == rep.rate
    other = with_labels(dls, (g+1)%5)
    with pytest.raises(TypeError, match='make_learner'): estimate_tau(None, other)      # not of those labels
    assert estimate_tau(None, dls, probs=p, verbose=False).tau == rep.rate

def test_names_of_files_and_a_weak_model():
    y,g,p = world(600, rate=.6)
    dls = images(600, labels=g)
    with pytest.warns(RobustWarning, match='model too weak'): estimate_tau(None, dls, probs=p, verbose=False)

def test_in_sample_probabilities_and_other_mistakes_are_refused():
    y,g,p = world(600)
    dls = images(600, labels=g)
    sure = np.full((600, 5), .01)
    sure[np.arange(600), g] = .96
    with pytest.warns(RobustWarning), pytest.raises(ValueError, match='cross_val_preds'):
        noise_report(None, dls, probs=sure)
    with pytest.raises(ValueError, match='sum to 1'): noise_report(None, dls, probs=p/2)
    with pytest.raises(ValueError, match='as many labels'): noise_report(None, dls, probs=p[:500])
    with pytest.raises(ValueError, match='another order'):
        noise_report(None, dls, probs=OutOfFold(p[::-1], g[::-1], np.zeros(600), dls.vocab, [.7]))
    with pytest.raises(ValueError, match='nothing is trained'): noise_report(None, dls, probs=p, epochs=3)
    with pytest.raises(ValueError, match='plant_kind'): noise_report(None, dls, probs=p, plant_kind='odd')
    with pytest.raises(ValueError, match="'planted' or 'gmm'"): estimate_tau(None, dls, method='em')
    with pytest.raises(ValueError, match='gmm'): estimate_tau(None, dls, probs=p, method='gmm')

def test_a_learner_is_refused_with_both_remedies():
    dls = images()
    learn = Learner(dls, small_cnn(5), loss_func=torch.nn.CrossEntropyLoss())
    for f in (noise_report, estimate_tau):
        with pytest.raises(TypeError, match='(?s)noise_report.*probs='): f(learn, dls)

# --- end to end ------------------------------------------------------------------------------------------------------
@pytest.fixture(scope='module')
def fashion():
    X,y,Xv,yv,vocab = sample_data()
    i = np.flatnonzero(np.isin(y, [1, 5, 8]))[:700]             # trousers, sandals, bags: learned in seconds
    code = np.searchsorted([1, 5, 8], y[i])
    g = NoisyLabels('symmetric', .3, seed=0).apply(code, 3).y_noisy
    return code,g,array_dls(X[i], g, valid=(X[i][:50], code[:50]), bs=32, vocab=['trouser', 'sandal', 'bag'])

def make(dls): return Learner(dls, small_cnn(3, width=16), loss_func=GCELoss(), lr=.01)

def test_end_to_end(fashion, tmp_path):
    y,g,dls = fashion
    before,state = given_labels(dls).copy(),torch.get_rng_state()
    kw = dict(n_folds=2, epochs=6, verbose=False, path=tmp_path)
    rep = noise_report(make, dls, plant=.1, **kw)
    assert (given_labels(dls) == before).all() and torch.equal(torch.get_rng_state(), state)
    assert rep.lo <= .3 <= rep.hi and abs(rep.rate-.3) < .06
    assert rep.planted.sum() == 70 and rep.check.n == 70 and rep.check.p > .001 and len(rep.fold_acc) == 2
    wrong = g != y
    assert wrong[rep.issues].mean() > .8 and rep.issues[wrong].mean() > .7
    assert rep.estimates.index[0] == 'planted tail' and dls.noise_estimate == (rep.rate, rep.lo, rep.hi)
    again = noise_report(make, dls, plant=.1, **kw)             # the folds are read from disk
    assert np.array_equal(again.probs, rep.probs) and again.rate == rep.rate

def test_confused_plants_and_none(fashion):
    y,g,dls = fashion
    kw = dict(n_folds=2, epochs=1, verbose=False)
    rep = noise_report(make, dls, plant_kind='confusion', **kw)
    assert rep.planted.sum() == 35
    rep = noise_report(make, dls, plant=0, **kw)
    assert not rep.planted.any() and rep.check is None and 0 <= rep.lo <= rep.rate <= rep.hi <= 1

def test_the_small_loss_mixture(fashion, capsys):
    y,g,dls = fashion
    state = torch.get_rng_state()
    tau = estimate_tau(make, dls, method='gmm', warmup=6)
    assert isinstance(tau, Tau) and 0 <= tau.lo <= tau.tau <= tau.hi < 1 and abs(tau.tau-.3) < .2
    assert 'tau' in capsys.readouterr().out and torch.equal(torch.get_rng_state(), state)
