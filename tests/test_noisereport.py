"The report on noise: what it reads from arrays, end to end on embedded images, what it refuses, and its picture"
import warnings
import matplotlib
matplotlib.use('Agg')
import numpy as np, pandas as pd
import pytest
import torch
from fastai.data.block import CategoryBlock, DataBlock, MultiCategoryBlock, RegressionBlock, TransformBlock
from fastai.data.transforms import ColReader, IndexSplitter
from fastai.learner import Learner
from fastai.tabular.data import TabularDataLoaders
from fastrobust.basics import RobustWarning
from fastrobust.data.fromarrays import array_dls
from fastrobust.data.editing import given_labels, with_labels
from fastrobust.noise.laws import NoisyLabels
from fastrobust.samples import sample_data
from fastrobust.labels.crossval import cross_val_preds
from fastrobust.labels.result import Tau
from fastrobust.labels.report import estimate_tau, noise_report
from fastrobust.labels.channel import wrong_if_given
from fastrobust.labels.planting import plant_labels
from fastrobust.labels.result import NoiseReport
from fastrobust.labels.history import SampleHistory
from fastrobust.losses import GCELoss
from fastrobust.nets import small_cnn
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
    assert list(t.columns) == ['item', 'name', 'given', 'suggested', 'confidence', 'margin', 'suspicion', 'wrong',
                               'flagged', 'judged']
    assert list(t.index) == list(range(1500)) and sorted(t['item']) == list(range(1500))
    assert (np.diff(t.suspicion) <= 0).all() and (np.diff(t.wrong) <= 0).all()
    assert t.flagged.dtype == bool and t.judged.all()
    k = int(t.flagged.sum())
    assert t.flagged[:k].all() and not t.flagged[k:].any()                      # the flagged come first
    assert (t.given == np.array(VOCAB)[g[t['item']]]).all()
    assert (t.suggested != t.given)[:k].all() and t.confidence.between(0, 1).all()
    own = p[np.arange(1500), g]
    rest = np.where(np.arange(5) == g[:, None], -1, p).max(1)
    assert np.allclose(t.margin, ((own-rest+1)/2)[t['item']])
    assert (rep.issues[t['item']] == t.flagged).all() and rep.T.shape == (5, 5) and np.allclose(rep.T.sum(1), 1)

def t_mean(v, n): return v[:n].mean()

def test_its_numbers_hold_against_the_truth():
    y,g,p = world(6000)
    rep,wrong = NoiseReport(g, p, VOCAB),g != y
    assert rep.lo <= .25 <= rep.hi and abs(rep.rate-.25) < .03
    precision,recall = wrong[rep.issues].mean(),rep.issues[wrong].mean()
    assert rep.precision_lo <= precision <= rep.precision_hi and abs(rep.precision-precision) < .12
    assert rep.recall_lo <= recall <= rep.recall_hi and abs(rep.recall-recall) < .12
    assert abs(t_mean(rep.table.wrong, 200)-wrong[rep.table['item'][:200]].mean()) < .15
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

def test_where_hardly_any_label_is_called_wrong_the_order_is_judged():
    y,g,p = world(1500, rate=0.)
    new,mask = plant_labels(g, 5, .05, 1)
    rep,bare = NoiseReport(g, p, VOCAB, planted=(new, mask)),NoiseReport(g, p, VOCAB)
    assert not rep.issues.any() and rep.few and rep.recall < .5 < .6 < rep.by_rank
    assert rep.notes[0].startswith('no label is called wrong (0 of 1,500); of 75 planted errors, ')
    assert 'planted' not in bare.notes[0] and 'among the 75 most suspicious' in bare.notes[0]
    assert abs(bare.by_rank-rep.by_rank) < .1                   # what to expect of plants, and what they did
    # the share by hand: the planted ones among the 75 highest chances to be wrong, of labels as the networks saw them
    s = wrong_if_given(rep.channel, p)[np.arange(1500), new]
    assert rep.by_rank == pytest.approx(mask[np.argsort(-s)[:75]].mean()) == rep.summary['recall by rank']
    some = NoiseReport(*world(1500, rate=.01)[1:], VOCAB)
    assert some.issues.any() and 'hardly any label' in some.notes[0] and 'of the flagged' in some.notes[0]
    many = NoiseReport(*world(1500, rate=.25)[1:], VOCAB)
    assert not many.few and 'of the wrong labels are flagged' in many.notes[0] and 'planted' not in many.notes[0]

def test_flagged_too_few_for_the_rate():
    rep = NoiseReport(*world(1500, rate=.03, sure=1.)[1:], VOCAB)
    assert 0 < rep.issues.mean() < .05/3 and rep.few and 'by its order' not in rep.notes[0]
    assert 'hardly any label' in rep.notes[0]
    rep = NoiseReport(*world(1500, rate=.025, sure=9.)[1:], VOCAB)
    assert rep.issues.any() and rep.rate < .02 and rep.few              # all that the rate asks for, but little

def test_a_sure_network_leaves_ties_to_chance():
    y = np.arange(1000)%5
    p = np.eye(5)[y]                                            # all right labels alike, all plants alike
    p[:100] = np.eye(5)[(y[:100]+1)%5]                          # 100 wrong ones tie with them
    rep = NoiseReport(y, p, VOCAB)
    assert rep.first == 50 and .2 < rep.by_rank < .5            # of 50+95 that tie 50 come first, plants as any

def test_easy_clean_data_from_folds_warn_of_nothing():
    y = np.arange(500)%5
    p = np.full((500, 5), .01)
    p[np.arange(500), y] = .96
    dls = images(500, labels=y)
    oof = OutOfFold(p, y, np.arange(500)%3, dls.vocab, [1.]*3)
    class Other:                                                # of elsewhere, without folds, but says what it is
        out_of_sample = True
        def __array__(self, dtype=None, copy=None): return p
    with warnings.catch_warnings():
        warnings.simplefilter('error', RobustWarning)
        for o in (oof, Other()): assert noise_report(dls=dls, probs=o).rate < .01
        NoiseReport(y, p, VOCAB, folds=np.arange(500)%3)
    with pytest.warns(RobustWarning, match='trained on these items'): NoiseReport(y, p, VOCAB)

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
    axs = rep.plot().axes
    assert axs[0].get_xlabel() and axs[1].get_title() and len(axs[1].get_yticklabels()) == len(rep.estimates)
    plt.close('all')

# --- probabilities from elsewhere ------------------------------------------------------------------------------------
def test_given_probabilities_train_nothing_and_the_rate_is_that_of_the_report(capsys):
    y,g,p = world(600)
    dls = images(600, labels=g)
    oof = OutOfFold(p, g, np.arange(600)%3, dls.vocab, [.7]*3)
    rep = noise_report(None, dls, probs=oof)
    assert len(rep.fold_acc) == 3 and any('nothing was planted' in o for o in rep.notes)
    tau = estimate_tau(None, dls, probs=oof)
    assert tau == (rep.rate, rep.lo, rep.hi)
    said = capsys.readouterr().out.splitlines()         # the number, and what belongs beside it
    assert said[0] == str(tau) and [o.strip() for o in said[1:]] == rep.caveats and rep.caveats
    assert estimate_tau(None, dls, probs=oof, verbose=False) == tau and not capsys.readouterr().out
    with pytest.raises(TypeError, match='make_learner'): estimate_tau(None, dls)        # nothing is remembered

def test_nothing_is_left_on_the_loaders(monkeypatch):
    y,g,p = world(600)
    dls,ran = images(600, labels=g),[]
    def train(maker, dls, *_args, **_kwargs):
        ran.append(maker(None))
        return OutOfFold(p, given_labels(dls), np.arange(600)%3, dls.vocab, [.7]*3)
    monkeypatch.setattr('fastrobust.labels.report.cross_val_preds', train)
    monkeypatch.setattr('fastrobust.labels.report._warmed_up', lambda maker, dls, epochs: Tau(.6, .5, .7))
    before = set(vars(dls))
    for _ in range(2): estimate_tau(lambda dls: 1, dls, verbose=False)
    assert ran == [1, 1] and estimate_tau(lambda dls: 1, dls, method='gmm', verbose=False) == (.6, .5, .7)
    noise_report(lambda dls: 2, dls)
    noise_report(dls=dls, probs=p)
    assert set(vars(dls)) == before

def test_with_a_path_the_same_estimate_is_free(fashion, tmp_path):
    "What is kept is kept where the user says, and by whom it was made is checked there"
    y,g,dls = fashion
    class Made:
        n = 0
        def __len__(self): return self.n
    made = Made()       # a list would be a setting that changes
    def counted(dls):
        made.n += 1
        return make(dls)
    kw = dict(n_folds=2, epochs=1, verbose=False, path=tmp_path)
    call = lambda maker=counted, **more: estimate_tau(maker, dls, **{**kw, **more, 'verbose': False})
    kw.pop('verbose')
    tau = call()
    assert len(made) == 2 and call() == tau and len(made) == 2
    with pytest.raises(ValueError, match='of other learner'): call(lambda dls: make(dls))
    for more in (dict(epochs=2), dict(lr=slice(1e-4, 1e-2)), dict(lr=.1)):
        with pytest.raises(ValueError, match='of other training'): call(**more)
    for more in (dict(seed=1), dict(plant=.1), dict(n_folds=3), dict(tag='wide')):
        with pytest.raises(ValueError, match='of other'): call(**more)
    other = with_labels(dls, np.roll(g, 1))
    with pytest.raises(ValueError, match='of other labels'): estimate_tau(counted, other, **kw, verbose=False)
    assert len(made) == 2

def test_area_under_the_margin_beside_the_rest():
    y,g,p = world(300)
    dls = images(300, labels=g)
    aum = np.random.default_rng(0).normal(size=300)
    t = noise_report(dls=dls, probs=p, history=aum).table
    assert t.columns[-1] == 'aum' and np.array_equal(t.aum, aum[t['item']])
    assert 'aum' not in noise_report(dls=dls, probs=p).table
    learn = Learner(dls, small_cnn(5), loss_func=torch.nn.CrossEntropyLoss(), cbs=SampleHistory(), lr=.01)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    seen = learn.sample_history
    t = noise_report(dls=dls, probs=p, history=seen).table
    assert np.allclose(t.aum, seen.aum()[t['item']], equal_nan=True) and np.isfinite(t.aum).mean() > .9
    for bad in (aum[:299], aum[:, None], np.array(['a']*300)):
        with pytest.raises(ValueError, match='SampleHistory or AUM'): noise_report(dls=dls, probs=p, history=bad)
    with pytest.raises(ValueError, match='other labels for 288'):     # the last batch was left out
        noise_report(dls=with_labels(dls, (g+1)%5), probs=p, history=seen)
    with pytest.raises(ValueError, match='at least one recorded'):
        noise_report(dls=dls, probs=p, history=SampleHistory())

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
    for bad in (np.full((600, 4), .25), np.full((600, 6), 1/6)):
        with pytest.raises(ValueError, match=r'(?s)\(n,c\) of shape \(600,5\).*got shape'):
            noise_report(None, dls, probs=OutOfFold(bad, g, np.zeros(600), dls.vocab, [.7]))
    with pytest.raises(ValueError, match='vocab'): NoiseReport(g, np.full((600, 6), 1/6), VOCAB)
    with pytest.raises(TypeError, match='(?s)`dls`, got None.*probs=p'): noise_report(probs=p)
    with pytest.raises(TypeError, match='(?s)`dls`, got None.*probs=p'): estimate_tau(probs=p)
    with pytest.raises(TypeError, match='make_learner` or `probs`, got neither'): noise_report(dls=dls)
    with pytest.raises(ValueError, match='plant_kind'): noise_report(None, dls, probs=p, plant_kind='odd')
    with pytest.raises(ValueError, match="'planted' or 'gmm'"): estimate_tau(None, dls, method='em')
    with pytest.raises(ValueError, match='gmm'): estimate_tau(None, dls, probs=p, method='gmm')

def test_a_learner_is_refused_with_both_remedies():
    dls = images()
    learn = Learner(dls, small_cnn(5), loss_func=torch.nn.CrossEntropyLoss())
    for f in (noise_report, estimate_tau):
        with pytest.raises(TypeError, match='(?s)noise_report.*probs='): f(learn, dls)

FRAME = pd.DataFrame(dict(u=np.arange(20.), w=np.arange(20) % 3, label=list('abcd'*5), two=['a b', 'b']*10))
KW = dict(bs=4, num_workers=0, device=torch.device('cpu'))
def block(b, get_y):
    return DataBlock((TransformBlock, b), get_x=lambda r: torch.zeros(1, 4, 4), get_y=get_y,
                     splitter=IndexSplitter([0, 1])).dataloaders(FRAME, **KW)
def table(df, y, **kw): return TabularDataLoaders.from_df(df, cont_names=['u'], y_names=y, valid_idx=[0, 1], **kw, **KW)

@pytest.mark.parametrize('dls,got', [
    (lambda: block(MultiCategoryBlock, ColReader('two', label_delim=' ')), 'made by OneHotEncode'),
    (lambda: block(MultiCategoryBlock(True, list('ab')), lambda r: [1, 0]), 'made by EncodedMultiCategorize'),
    (lambda: block(RegressionBlock, ColReader('w')), 'made by RegressionSetup'),
    (lambda: table(FRAME, 'u'), r"\['u'\] of dtype float32.*CategoryBlock"),
    (lambda: table(FRAME, 'w'), r"\['w'\] of dtype int8.*CategoryBlock"),
    (lambda: table(FRAME, ['label', 'two']), r"\['label', 'two'\].*one name in y_names")])
def test_what_has_no_single_label_is_refused(dls, got):
    dls = dls()
    for f in (lambda: noise_report(make, dls), lambda: noise_report(dls=dls, probs=np.full((18, 3), 1/3)),
              lambda: estimate_tau(make, dls, method='gmm'), lambda: cross_val_preds(make, dls, epochs=1)):
        with pytest.raises(ValueError, match=f'one single-label target.* in the training set, got .*{got}'): f()

def test_missing_labels_are_named_with_the_remedy():
    df = FRAME.assign(label=FRAME.label.where(~FRAME.index.isin([3, 8, 11])))
    dls = table(df, 'label', y_block=CategoryBlock())
    match = r"got 3 of 18 without one.*rows \[3, 8, 11\].*dropna\(subset=\['label'\]\)"
    for f in (lambda: noise_report(make, dls), lambda: cross_val_preds(make, dls, epochs=1)):
        with pytest.raises(ValueError, match=match): f()

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
    assert rep.lo <= .3 <= rep.hi and abs(rep.rate-.3) < .08
    assert rep.planted.sum() == 70 and rep.check.n == 70 and rep.check.p > .001 and len(rep.fold_acc) == 2
    wrong = g != y
    assert wrong[rep.issues].mean() > .8 and rep.issues[wrong].mean() > .7
    assert rep.estimates.index[0] == 'planted tail'
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

def test_a_network_that_errs_often_is_said_to():
    "Clean labels, a network right on three in five of them: its errors are not all wrong labels, and the note says so"
    from fastrobust.labels.result import NoiseReport
    g = np.random.default_rng(0)
    y = g.integers(0, 4, 900)
    z = g.normal(size=(900, 4)); z[np.arange(900), y] += 1.1
    p = np.exp(z); p /= p.sum(1, keepdims=True)
    rep = NoiseReport(y, p, list('abcd'), folds=np.arange(900) % 3)
    assert .5 < rep.acc < .7 and rep.rate < 1-rep.acc-.2
    assert any('the judge contradicts' in o and 'rough' in o for o in rep.caveats)
    z[np.arange(900), y] += 3
    q = np.exp(z); q /= q.sum(1, keepdims=True)
    rep = NoiseReport(y, q, list('abcd'), folds=np.arange(900) % 3)
    assert not any('the judge contradicts' in o for o in rep.notes)
