"tail_report, its metrics and its charts against loops and fastai's own numbers"
import warnings
import numpy as np, pandas as pd
import pytest
import torch
from fastai.metrics import BalancedAccuracy, accuracy
from fastai.torch_core import to_cpu
from hypothesis import given, settings, strategies as st
from matplotlib.figure import Figure
from conftest import tiny_arrays, tiny_dls, tiny_learner
from fastrobust.basics import RobustWarning
from fastrobust.tails.charts import plot_tails
from fastrobust.tails.accuracy import TailAccuracy, class_accuracy, group_accuracy, tail_accuracy
from fastrobust.metrics import wilson_interval
from fastrobust.data.fromarrays import array_dls
from fastrobust.data.longtail import class_counts, head_mid_tail
from fastrobust.noise.laws import NoisyLabels
from fastrobust.noise.block import add_label_noise
from fastrobust.tails.report import TailReport, compare_tails, tail_report
from test_shifted import snapshot

N = [30, 16, 8, 4, 2]

def tail_dls(names='abcde', valid=8, drop=()):
    X,_ = tiny_arrays(sum(N), 5)
    Xv,_ = tiny_arrays(5*valid, 5, seed=1)
    yv = np.arange(5*valid) % 5
    keep = ~np.isin(yv, drop)
    return array_dls(X, np.repeat(np.arange(5), N), valid=(Xv[keep], yv[keep]), bs=16, vocab=list(names), device='cpu')

def learner(seed=3, **kw):
    "Random weights, logits centred and widened so that every class is predicted"
    learn = tiny_learner(dls=tail_dls(**kw), seed=seed)
    z = torch.cat([learn.model.eval()(b[0]) for b in learn.dls.valid]).detach().as_subclass(torch.Tensor)
    last = [m for m in learn.model.modules() if isinstance(m, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.bias.sub_(z.mean(0)); last.weight.div_(z.std(0)[:, None]); last.bias.div_(z.std(0))
    learn.model.train()
    return learn

# --- pure functions --------------------------------------------------------------------------------------------------
def loops(pred, y, c):
    acc,se,n = [],[],[]
    for k in range(c):
        v = [float(p == t) for p,t in zip(pred, y) if t == k]
        n.append(len(v))
        acc.append(np.mean(v) if v else np.nan)
        se.append(np.std(v, ddof=1)/len(v)**.5 if len(v) > 1 else np.nan)
    return acc,se,n

@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(2, 6), st.integers(1, 60), st.integers(0, 999))
def test_class_accuracy_against_loops(c, n, seed):
    g = np.random.default_rng(seed)
    y,pred = g.integers(0, c, n),g.integers(0, c, n)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        got = class_accuracy(torch.from_numpy(pred), y, c)
    for a,b in zip(got, loops(pred, y, c)): assert np.allclose(a, b, equal_nan=True)
    z = np.eye(c)[pred]
    for a,b in zip(got, class_accuracy(z, torch.from_numpy(y), c)): assert np.array_equal(a, b, equal_nan=True)

def test_group_accuracy_by_hand():
    acc,se = np.array([1., .5, np.nan, .2]),np.array([0., .3, np.nan, .4])
    assert group_accuracy(acc, se, [1, 3]) == pytest.approx((.35, .25))
    assert group_accuracy(acc, se, [0, 2]) == (1., 0.) and np.isnan(group_accuracy(acc, se, [2])).all()

def test_wilson_interval():
    "10 of 10 and 0 of 10: (.7225, 1), (0, .2775); 5 of 10: (.2366, .7634)"
    lo,hi = wilson_interval([1, 0, .5, np.nan], [10, 10, 10, 0], 1.959964)
    assert np.allclose(lo, [.722467, 0, .236593, np.nan], atol=1e-6, equal_nan=True)
    assert np.allclose(hi, [1, .277533, .763407, np.nan], atol=1e-6, equal_nan=True)
    n = np.arange(1, 400)
    assert wilson_interval(0*n, n)[0].min() == 0 and wilson_interval(n/n, n)[1].max() == 1      # not by 1e-17

@pytest.mark.parametrize('pred,y,match', [
    ([1, 2], [1], r'labels \(n,\), n >= 1'), ([], [], 'n >= 1'), ([.5, 1.], [0, 1], 'ints, positions'),
    ([0, 1], [0., 1.], 'ints'), ([0, 5], [0, 1], r'classes in 0..2, got 0 to 5'), ([0, 1], [-1, 1], 'got -1 to 1')])
def test_predictions_that_are_refused(pred, y, match):
    with pytest.raises(ValueError, match=match): class_accuracy(np.array(pred), np.array(y), 3)

# --- in the progress table -------------------------------------------------------------------------------------------
def test_metrics_in_the_progress_table():
    dls = tail_dls()
    ms = tail_accuracy(dls)
    learn = tiny_learner(dls=dls)
    learn.metrics = [accuracy, *ms, BalancedAccuracy()]
    learn.fit(2, 1e-2)
    assert list(learn.recorder.metric_names[3:8]) == ['accuracy', 'head_acc', 'mid_acc', 'tail_acc',
                                                      'balanced_accuracy_score']
    s = tail_report(learn).summary
    last,keys = list(learn.recorder.values[-1])[2:],('', 'head_', 'mid_', 'tail_', 'balanced_')
    assert last == pytest.approx([s[f'{k}accuracy'] for k in keys])
    assert list(learn.validate())[1:] == pytest.approx(last), 'nothing is carried over'

def test_metrics_weigh_classes_alike_over_all_batches():
    class Fake: pass
    m = TailAccuracy([0, 2], 'x')
    for pred,y in (([0, 1, 1], [0, 0, 1]), ([2, 0], [2, 0]), ([1], [1])):
        f = Fake()
        f.pred,f.y = torch.eye(3)[pred],torch.tensor(y)
        m.accumulate(f)
    assert m.value == pytest.approx((2/3+1)/2) and m.name == 'x'
    m.reset()
    assert m.value is None

def test_metrics_of_groups_without_classes_are_left_out():
    assert [m.name for m in tail_accuracy(tail_dls(), (5, 1))] == ['head_acc', 'mid_acc']
    with pytest.raises(ValueError, match="at least one class for 'x', got none"): TailAccuracy([], 'x')

# --- the report ------------------------------------------------------------------------------------------------------
def test_numbers_are_those_of_fastai():
    learn = learner()
    rep = tail_report(learn)
    p,y = (to_cpu(o).numpy() for o in learn.get_preds())
    pred,t,s = p.argmax(1),rep.table,rep.summary
    acc,se,n = loops(pred, y, 5)
    assert isinstance(rep, TailReport) and list(t.index) == list('abcde') and t.training.tolist() == N
    assert list(t.columns) == ['training', 'group', 'images', 'accuracy', 'se', 'share', 'predicted']
    assert t.group.tolist() == ['head', 'mid', 'mid', 'mid', 'tail'] and t.images.tolist() == n == [8]*5
    assert np.allclose(t.accuracy, acc) and np.allclose(t.se, se) and (t.share == .2).all()
    assert np.allclose(t.predicted, np.bincount(pred, minlength=5)/40) and t.predicted.nunique() > 1
    assert s.head_accuracy == pytest.approx(acc[0]) and s.tail_accuracy == pytest.approx(acc[4])
    assert s.mid_accuracy == pytest.approx(np.mean(acc[1:4]))
    assert s.mid_accuracy_se == pytest.approx(np.sqrt(np.sum(np.square(se[1:4])))/3)
    assert s.balanced_accuracy == pytest.approx(np.mean(acc)) and s.accuracy == pytest.approx(learn.validate()[1])
    assert s.accuracy_se == pytest.approx(np.std(pred == y, ddof=1)/40**.5)
    assert (s.imbalance, s.training, s.largest, s.smallest, s.images, s.classes) == (15, 60, 30, 2, 40, 5)
    assert (rep.right == (pred == y)).all() and 'balanced' in rep.title and 'tail' in repr(rep)

def test_classes_are_shown_by_frequency():
    learn = learner()
    rep = tail_report(learn, counts=torch.tensor([2, 30, 8, 16, 4]))
    base = tail_report(learn)
    assert list(rep.table.index) == list('bdcea') and rep.table.training.tolist() == [30, 16, 8, 4, 2]
    for k in 'abcde': assert rep.table.accuracy[k] == base.table.accuracy[k]
    assert rep.summary.head_accuracy == base.table.accuracy['b']
    by = tail_report(learn, groups=(10, 4))
    assert by.table.group.tolist() == ['head', 'head', 'mid', 'mid', 'tail']
    assert 'head 2 classes of 16 to 30 training items' in by.notes[0]
    none = tail_report(learn, groups=(5, 1))
    assert 'tail_accuracy' not in none.summary and set(none.table.group) == {'head', 'mid'}

def test_of_another_loader_and_unequal_validation_classes():
    learn = learner()
    X,y = tiny_arrays(37, 5, seed=5)
    dl = learn.dls.test_dl([(x, 'abcde'[k]) for x,k in zip(X, y)], with_labels=True)
    rep = tail_report(learn, dl)
    acc,_,n = loops(to_cpu(learn.get_preds(dl=dl)[0]).numpy().argmax(1), y, 5)
    assert rep.table.images.tolist() == n and np.allclose(rep.table.accuracy, acc) and len(set(n)) > 1
    assert rep.summary.balanced_accuracy != pytest.approx(rep.summary.accuracy)

def test_a_class_nobody_validates():
    learn = learner(drop=[1])
    rep = tail_report(learn)
    assert np.isnan(rep.table.accuracy['b']) and rep.table.images['b'] == 0
    assert rep.summary.mid_accuracy == pytest.approx(np.mean([rep.table.accuracy[k] for k in 'cd']))
    assert any(n.startswith('No images of 1 classes (b)') for n in rep.notes)
    rep.plot()

def test_classes_of_one_size_have_no_tail():
    with pytest.warns(RobustWarning, match='of one size'): rep = tail_report(tiny_learner(), counts=[9, 9, 9])
    assert 'All classes have as many training items, so head, mid and tail mean nothing.' in rep.notes
    assert not any('mean nothing' in o for o in tail_report(tiny_learner(), counts=[9, 8, 7]).notes)

def test_the_learner_stays_as_it_was():
    learn = tiny_learner(dls=tail_dls(), cbs=None)
    learn.fit(1)
    before = snapshot(learn)
    tail_report(learn); tail_report(learn, learn.dls.train)
    after = snapshot(learn)
    for k in before: assert before[k] == after[k], k

def test_what_a_reader_must_know():
    noisy = add_label_noise(tail_dls(), NoisyLabels('symmetric', .2, noisy_valid=True))
    with pytest.warns(RobustWarning, match='validation labels are wrong'): rep = tail_report(tiny_learner(dls=noisy))
    assert any('counted by their given labels, of which 20.0% are wrong' in n for n in rep.notes)
    assert rep.table.training.sum() == 60 and sorted(rep.counts) == sorted(class_counts(noisy))
    rep = tail_report(learner())
    assert len(rep.notes) == 2 and 'The tail is 20.0% of these images and ' in rep.notes[1]
    with pytest.warns(RobustWarning, match='of one size'): tail_report(learner(), counts=[3]*5)

def test_an_exported_learner_needs_counts(tmp_path):
    from fastai.learner import load_learner
    learn = learner()
    learn.path = tmp_path
    learn.export('m.pkl')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        new = load_learner(tmp_path/'m.pkl')
    dl = new.dls.test_dl([(x, 'abcde'[k]) for x,k in zip(*tiny_arrays(20, 5, seed=5))], with_labels=True)
    with pytest.raises(ValueError, match='training items to count, got none.*Give `counts='): tail_report(new, dl)
    assert tail_report(new, dl, counts=N).table.accuracy.equals(tail_report(learn, dl).table.accuracy)

def test_what_is_refused():
    learn = learner()
    with pytest.raises(ValueError, match=r'of the 5 classes, got shape \(3,\)'): tail_report(learn, counts=N[:3])
    with pytest.raises(ValueError, match="`groups` as 'thirds' or a pair"): tail_report(learn, groups='halves')
    with pytest.raises(TypeError, match='expected a fastai loader, got a list'): tail_report(learn, [1])
    with torch.no_grad(): next(learn.model.parameters())[:] = float('nan')
    with pytest.raises(ValueError, match='expected finite logits'): tail_report(learn)

# --- several learners ------------------------------------------------------------------------------------------------
def test_paired_differences_by_hand():
    a,b,c = (tail_report(learner(s)) for s in (3, 4, 5))
    rep = compare_tails(dict(a=a, b=b, c=c), 'b')
    t = rep.table
    assert list(t.index) == ['head', 'mid', 'tail', 'balanced', 'plain']
    assert list(t.columns) == ['a', 'b', 'c', 'a - b', 'a - b se', 'c - b', 'c - b se']
    d = a.right*1.-b.right
    m = [d[a.y == k].mean() for k in range(5)]
    se = [d[a.y == k].std(ddof=1)/8**.5 for k in range(5)]
    for row,ids in dict(head=[0], mid=[1, 2, 3], tail=[4], balanced=range(5)).items():
        assert t['a - b'][row] == pytest.approx(np.mean([m[i] for i in ids])) == pytest.approx(t.a[row]-t.b[row])
        assert t['a - b se'][row] == pytest.approx(np.sqrt(sum(se[i]**2 for i in ids))/len(ids))
    assert t['a - b']['plain'] == pytest.approx(d.mean())
    assert t['a - b se']['plain'] == pytest.approx(d.std(ddof=1)/40**.5)
    assert np.abs(d).sum() > 0 and rep.summary.baseline == 'b'
    same = compare_tails(dict(x=a, y=a)).table
    assert (same['y - x'] == 0).all() and (same['y - x se'] == 0).all()

def test_comparisons_that_are_refused():
    learn = learner()
    a = tail_report(learn)
    X,y = tiny_arrays(37, 5, seed=5)
    dl = learn.dls.test_dl([(x, 'abcde'[k]) for x,k in zip(X, y)], with_labels=True)
    for other,what in ((tail_report(learn, dl), 'labels, images'), (tail_report(learn, groups=(10, 4)), 'groups'),
                       (tail_report(learn, counts=[31, 16, 8, 4, 2]), 'training counts')):
        with pytest.raises(ValueError, match=f"got other {what} in 'y' than in 'x'"): compare_tails(dict(x=a, y=other))
    for bad in ({'x': a}, {'x': a, 'y': 3}, [a, a]):
        with pytest.raises(TypeError, match='at least two results of tail_report'): compare_tails(bad)
    with pytest.raises(ValueError, match="the name of a report, got 'z'"): compare_tails(dict(x=a, y=a), 'z')

# --- pictures --------------------------------------------------------------------------------------------------------
def test_picture_shows_the_numbers(tmp_path):
    rep = tail_report(learner())
    fig = plot_tails(rep, title='A title')
    up,ax = fig.axes
    assert isinstance(fig, Figure) and [b.get_height() for b in up.patches[:5]] == N and up.get_yscale() == 'log'
    assert np.allclose(ax.collections[-1].get_offsets()[:, 1], rep.table.accuracy)
    lo,hi = wilson_interval(rep.table.accuracy, rep.table.images)
    bars = [s for c in ax.collections for s in getattr(c, 'get_segments', list)() if s[0][0] == s[1][0]]
    assert np.allclose([(s[0][1], s[1][1]) for s in bars], np.c_[lo, hi])
    assert [t.get_text() for t in ax.get_xticklabels()] == list('abcde') and '95 %' in ax.get_ylabel()
    assert f'head {rep.summary.head_accuracy:.2f}' in [t.get_text() for t in ax.texts]
    files = rep.save(tmp_path)
    assert {f.name for f in files} == {'tail.csv', 'tail_summary.csv', 'tail.png'}
    assert pd.read_csv(tmp_path/'tail.csv').accuracy.tolist() == pytest.approx(rep.table.accuracy.tolist())

def test_picture_of_several_and_of_many_classes(tmp_path):
    a,b = (tail_report(learner(s)) for s in (3, 4))
    fig = plot_tails({'plain': a, 'new': b})
    assert [t.get_text() for t in fig.legends[0].get_texts()] == ['plain', 'new']
    xs = [c.get_offsets()[:, 0] for c in fig.axes[1].collections if c.get_label() in ('plain', 'new')]
    assert (xs[0] < xs[1]).all()
    compare_tails({'plain': a, 'new': b}).save(tmp_path)
    assert (tmp_path/'tail_compare.png').exists()
    g = np.random.default_rng(0)
    n,y = (500*.01**(np.arange(100)/99)).astype(int),np.repeat(np.arange(100), 10)
    many = TailReport(g.integers(0, 100, 1000), y, n, head_mid_tail(n), [f'c{k}' for k in range(100)])
    plot_tails(many).savefig(tmp_path/'many.png')
    with pytest.raises(TypeError, match='expected a result of tail_report'): plot_tails({})
    with pytest.raises(TypeError, match='expected a result of tail_report'): plot_tails(3)
    with pytest.raises(ValueError, match="same classes and counts, got others in 'y'"): plot_tails(dict(x=a, y=many))

def test_on_two_learners_of_ordinary_data():
    learn = tiny_learner(dls=tiny_dls())
    assert tail_report(learn).summary.classes == 3
