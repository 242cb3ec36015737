"compare: paired and repeatable runs, numbers against numpy, and nothing lost when a row fails or a hand presses Ctrl-C"
import gc, random
import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np, pandas as pd
import pytest
import torch
from torch import nn

from fastai.callback.core import Callback
from fastai.callback.mixup import MixUp
from fastai.learner import Learner
from fastai.losses import LabelSmoothingCrossEntropyFlat
from fastai.metrics import accuracy, error_rate
from fastai.torch_core import set_seed
from fastrobust.basics import RobustWarning
from fastrobust.compare.result import Comparison
from fastrobust.data.fromarrays import array_dls
from fastrobust.noise.laws import NoisyLabels
from fastrobust.noise.block import add_label_noise
from fastrobust.compare.compare import compare
from fastrobust.losses import GCELoss
from fastrobust.labels.memorisation import measure_memorisation
from fastrobust.techniques.logitclip import LogitClip

def images(n=120, seed=0):
    rng = np.random.RandomState(seed)
    y = np.arange(n)%4
    return (rng.rand(n, 6, 6)*80 + y[:, None, None]*40).astype(np.uint8),y

def noisy(noisy_valid=False, **kw):
    dls = array_dls(*images(), valid=images(60, 1), bs=32)
    return add_label_noise(dls, NoisyLabels('symmetric', .4, noisy_valid=noisy_valid, **kw))

def net(): return nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Dropout(.2), nn.Linear(16, 4))

def maker(dls, **fixed):
    def make(techniques=None, loss_func=None, recipe=None, **kw):
        if recipe: loss_func = {'gce': GCELoss()}[recipe]
        learn = Learner(dls, net(), loss_func=loss_func, **{'metrics': accuracy, 'lr': 3e-2, **fixed, **kw})
        if techniques: learn.add_cbs(techniques)
        return learn
    return make

quiet = dict(verbose=False)
ROWS = {'plain': None, 'clip': LogitClip(1.), 'both': [LogitClip(1.)], 'smooth': LabelSmoothingCrossEntropyFlat(),
        'recipe': 'gce', 'dict': dict(loss_func=GCELoss(), epochs=1, lr=1e-2), 'mix': MixUp(),
        'made': lambda: [LogitClip(1.)]}

@pytest.fixture(scope='module', autouse=True)
def quick_gc():
    "compare collects garbage before each run; spare it the objects that were there before"
    gc.freeze()
    yield
    gc.unfreeze()

@pytest.fixture(scope='module')
def rep(): return compare(maker(noisy()), ROWS, 3, seeds=2, last_k=2, **quiet)

# --- what comes out --------------------------------------------------------------------------------------------------
def test_twice_the_same_whatever_the_random_state_and_the_loader_were(rep):
    dls = noisy()
    dls.train.one_batch(); torch.rand(7); random.random()
    again = compare(maker(dls), ROWS, 3, seeds=2, last_k=2, **quiet)
    drop = ['seconds', 'peak_MB']
    pd.testing.assert_frame_equal(rep.runs.drop(columns=drop), again.runs.drop(columns=drop))
    pd.testing.assert_frame_equal(rep.curves, again.curves)

def test_rows_are_paired_and_independent_of_their_company(rep):
    alone = compare(maker(noisy()), {'clip': ROWS['clip']}, 3, seeds=[1], **quiet)
    assert alone.runs['last'].item() == rep.runs.query("row == 'clip' and seed == 1")['last'].item()
    vals = lambda o: rep.curves[rep.curves.row == o].drop(columns=['row']).reset_index(drop=True)
    pd.testing.assert_frame_equal(vals('clip'), vals('both'))     # the same thing under three names
    pd.testing.assert_frame_equal(vals('clip'), vals('made'))
    assert not vals('plain').equals(vals('clip'))
    assert rep.curve('plain', 0).train_loss.tolist() != rep.curve('plain', 1).train_loss.tolist()

def test_same_start_and_same_batches_in_every_row():
    seen = {}
    class Spy(Callback):
        def __init__(self, name): self.tag = name
        def before_fit(self): seen[self.tag] = [next(self.model.parameters()).detach().clone()]
        def after_pred(self):
            if self.training: seen[self.tag].append(self.x.clone())
    def greedy(): torch.rand(3); np.random.rand(); return dict(cbs=Spy('b'))        # consumes random numbers
    compare(maker(noisy()), {'a': dict(cbs=Spy('a')), 'b': greedy}, 2, seeds=[5], **quiet)
    assert len(seen['a']) == len(seen['b']) == 1 + 2*3 and all(torch.equal(p, q) for p,q in zip(seen['a'], seen['b']))

def test_means_errors_and_differences_against_numpy(rep):
    for name in ROWS:
        last = np.array([rep.curve(name, s).accuracy.iloc[-1] for s in (0, 1)])
        base = np.array([rep.curve('plain', s).accuracy.iloc[-1] for s in (0, 1)])
        t = rep.table.loc[name]
        assert t['last'] == pytest.approx(last.mean()) and t.last_se == pytest.approx(np.std(last, ddof=1)/2**.5)
        best = [rep.curve(name, s).accuracy.max() for s in (0, 1)]
        assert t.oracle_best == pytest.approx(np.mean(best)) and t.oracle_best >= t['last']
        k = min(2, len(rep.curve(name, 0)))
        assert t.late_mean == pytest.approx(np.mean([rep.curve(name, s).accuracy.iloc[-k:].mean() for s in (0, 1)]))
        if name == 'plain': assert np.isnan(t.difference); continue
        assert t.difference == pytest.approx((last-base).mean())
        assert t.difference_se == pytest.approx(np.std(last-base, ddof=1)/2**.5)

def test_table_of_known_runs():
    def run(row, seed, vals):
        r = dict(row=row, seed=seed, epochs=len(vals), seconds=2., acts='', metric='accuracy', peak_MB=5., given=None)
        return r, pd.DataFrame(dict(accuracy=vals, row=row, seed=seed, epoch=range(1, len(vals)+1)))
    data = [run('a', 0, [.5, .9, .6, .5]), run('a', 1, [.4, .7, .7, .7]), run('b', 0, [.6, .8]),
            run('b', 1, [.7, .9]), run('a', 2, [1., 1.])]
    t = Comparison(*zip(*data), baseline='a').table
    assert t['last'].tolist() == pytest.approx([2.2/3, .85]) and t.oracle_best.tolist() == pytest.approx([2.6/3, .85])
    assert t.difference['b'] == pytest.approx((.3+.2)/2)    # seed 2 has no partner
    assert t.difference_se['b'] == pytest.approx(.05)
    assert t.seeds.tolist() == [3, 2]

def test_epochs_memorised_seconds_memory_and_what_acts(rep):
    assert rep.table.epochs.tolist() == [3, 3, 3, 3, 3, 1, 3, 3]
    assert (rep.table.seconds > 0).all() and (rep.table.peak_MB > 0).all()
    assert rep.table.memorised.between(0, 1).all() and 'clean_fit' in rep.curves
    acts = rep.runs.drop_duplicates('row').set_index('row').acts
    assert 'LogitClip' in acts['clip'] and 'GCE' in acts['recipe'] and 'Clip' not in acts['plain']
    assert rep.summary.realised_rate == pytest.approx(.4, abs=.01) and rep.summary.nominal_rate == .4
    assert rep.summary.baseline == 'plain'
    assert rep.curve('dict', 0).epoch.tolist() == [1]

def test_memorised_share_is_that_of_the_trained_model():
    dls,kept = noisy(),[]
    class Keep(Callback):
        def after_fit(self): kept.append(self.learn)
    r = compare(maker(dls), {'plain': dict(cbs=Keep())}, 2, seeds=1, **quiet)
    assert r.table.memorised.item() == measure_memorisation(kept[-1]).memorised == r.runs.memorised[0]

def test_text_html_picture_and_files(rep, tmp_path):
    for text in (repr(rep), rep._repr_html_()):
        for o in ('oracle best', 'chosen on the very images', 'nominal rate 0.4', '2 seeds', 'plain'): assert o in text
    ax = rep.plot().axes
    assert len(ax[0].get_lines()) == 2*len(ROWS)
    assert [o.get_text() for o in ax[1].get_yticklabels()] == list(ROWS)
    plt.close('all')
    out = rep.save(tmp_path/'r')
    assert [o.name for o in out] == ['compare.csv', 'compare_summary.csv', 'compare_runs.csv', 'compare_curves.csv',
                                     'compare.png']
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path/'r'/'compare.csv', index_col=0), rep.table)

def test_one_seed_has_no_errors_and_says_so():
    r = compare(maker(noisy()), {'a': None, 'b': LogitClip(1.)}, 1, seeds=1, **quiet)
    assert r.table.last_se.isna().all() and '±' not in r.formatted().to_string() and 'One seed only' in repr(r)
    r.plot(); plt.close('all')

def test_noisy_validation_is_judged_by_true_labels_and_picked_by_given_ones():
    r = compare(maker(noisy(noisy_valid='both')), {'a': None, 'b': LogitClip(1.)}, 4, seeds=2, **quiet)
    assert r.metric == 'acc_true' and {'accuracy', 'acc_true'} <= set(r.curves) and 'honest pick' in repr(r)
    for row in r.runs.itertuples():
        c = r.curve(row.row, row.seed)
        assert row.last == c.acc_true.iloc[-1] and row.picked == c.acc_true.iloc[c.accuracy.argmax()] <= row.oracle_best

def test_clean_data_other_metric_low_is_good_own_fit_and_seed_for_the_maker():
    got = []
    def make(seed, **kw):
        got.append((seed, torch.initial_seed()))
        return maker(array_dls(*images(), valid=images(60, 1), bs=32))(**kw)
    rows = {'a': None, 'b': dict(fit=lambda learn, n: learn.fit(n, 1e-3))}
    r = compare(make, rows, 2, seeds=[3, 8], metrics=error_rate, baseline='b', **quiet)
    assert got == [(3, 3), (3, 3), (8, 8), (8, 8)] and r.metric == 'error_rate' and 'memorised' not in r.table
    assert (r.table.oracle_best <= r.table['last']).all() and np.isnan(r.table.difference['b'])
    r.plot(); plt.close('all')

def test_leaves_the_users_things_alone():
    dls,tech,loss = noisy(),LogitClip(1.),GCELoss()
    set_seed(4)
    want = torch.rand(1),np.random.rand()
    set_seed(4)
    compare(maker(dls), {'a': tech, 'b': dict(techniques=tech, loss_func=loss)}, 1, seeds=2, **quiet)
    assert (torch.rand(1), np.random.rand()) == want and tech.learn is None and loss.reduction == 'mean'

def test_prints_one_line_a_run(capsys):
    compare(maker(noisy()), {'a': None, 'longer': None}, 1, seeds=1)
    out = capsys.readouterr().out.strip().split('\n')
    assert len(out) == 2 and 'longer seed 0' in out[1] and 'accuracy' in out[1]
    compare(maker(noisy()), {'a': None}, 1, seeds=1, **quiet)
    assert capsys.readouterr().out == ''

# --- what goes wrong -------------------------------------------------------------------------------------------------
class Break(Callback):
    def __init__(self, e, seed=None): self.e,self.seed = e,seed
    def after_pred(self):
        if self.seed is None or torch.initial_seed() == self.seed: raise self.e

def test_a_failing_row_is_named_and_the_others_stay():
    rows = {'a': None, 'bad': dict(cbs=Break(ArithmeticError('boom'), 1)), 'c': None}
    with pytest.warns(RobustWarning, match="row 'bad', seed 1 failed.*boom"):
        r = compare(maker(noisy()), rows, 1, seeds=3, **quiet)
    assert r.table.seeds.to_dict() == {'a': 3, 'bad': 1, 'c': 3} and "'bad' failed" in repr(r)
    assert r.table.difference.to_dict()['c'] == 0

def test_a_failing_baseline_leaves_differences_empty():
    with pytest.warns(RobustWarning):
        r = compare(maker(noisy()), {'a': dict(cbs=Break(ArithmeticError('boom'))), 'c': None}, 1, seeds=2, **quiet)
    assert list(r.table.index) == ['c'] and np.isnan(r.table.difference['c']) and r.summary.baseline == 'a'

def test_nothing_trained_raises_with_the_cause():
    with pytest.warns(RobustWarning), pytest.raises(RuntimeError, match="to fail was 'a'") as e:
        compare(maker(noisy()), {'a': dict(cbs=Break(ArithmeticError('boom')))}, 1, **quiet)
    assert 'boom' in str(e.value.__cause__)

def test_ctrl_c_keeps_the_finished_runs():
    rows = {'a': None, 'b': dict(cbs=Break(KeyboardInterrupt(), 1))}
    with pytest.warns(RobustWarning, match='Interrupted.*3 finished runs of 6'):
        r = compare(maker(noisy()), rows, 1, **quiet)
    assert r.table.seeds.to_dict() == {'a': 2, 'b': 1} and 'Interrupted' in repr(r)
    with pytest.raises(KeyboardInterrupt):
        compare(maker(noisy()), {'b': dict(cbs=Break(KeyboardInterrupt()))}, 1, **quiet)

def test_a_model_built_once_is_refused():
    dls,model = noisy(),net()
    with pytest.warns(RobustWarning, match='build a new model each time'):
        compare(lambda: Learner(dls, model, metrics=accuracy), {'a': None}, 1, seeds=2, **quiet)

@pytest.mark.parametrize('rows,kw,typ,match', [
    ({'a': None}, {}, ValueError, "`epochs` must be .*in the row 'a'"),
    ({'a': dict(epochs=0)}, dict(epochs=3), ValueError, 'got 0'),
    ({'a': 3}, dict(epochs=1), TypeError, "row 'a': expected None, a technique"),
    ([1], dict(epochs=1), TypeError, 'expected rows'),
    ({}, dict(epochs=1), TypeError, 'expected rows'),
    ({'a': None}, dict(epochs=1, seeds=0), ValueError, 'at least one seed'),
    ({'a': None}, dict(epochs=1, seeds=[1, 1]), ValueError, 'none twice'),
    ({'plain': None}, dict(epochs=1, baseline='plane'), ValueError, "Did you mean 'plain'"),
    ({'a': [LogitClip(1.), 5]}, dict(epochs=1), TypeError, "row 'a'")])
def test_bad_input_is_refused_before_anything_trains(rows, kw, typ, match):
    def never(**_kw): raise AssertionError('built a learner')
    with pytest.raises(typ, match=match): compare(never, rows, **kw, **quiet)

def test_makers_that_cannot_work_are_refused():
    with pytest.raises(TypeError, match='robust_learner'): compare(3, {'a': None}, 1)
    with pytest.raises(TypeError, match='take techniques.*Hand them on'): compare(lambda: None, {'a': LogitClip(1.)}, 1)
    with pytest.warns(RobustWarning, match='return a Learner'), pytest.raises(RuntimeError):
        compare(lambda **kw: 3, {'a': None}, 1, **quiet)
