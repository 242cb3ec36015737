"The rate and its interval on simulated worlds, what a list is worth, judges that cannot judge, and the memory it takes"
import tracemalloc
import numpy as np
import pytest
from fastrobust.labels import channel as channel_module
from fastrobust.labels.channel import label_channel, row_slices, some_rows
from fastrobust.labels.listed import judged_classes, listed
from fastrobust.labels.planting import CONFUSION, SYMMETRIC, PlantLaw, plant_labels, virtual_plants
from fastrobust.labels.rates import errors_spread, noise_rate
from fastrobust.labels.result import NoiseReport
from test_planting import world

def confusable(n=2000, rate=.2, seed=0, **kw):
    "As `world`, but a wrong label goes where the network would confuse its item"
    y,_,p = world(n, rate=0, seed=seed, **kw)
    g = np.random.default_rng(seed+99)
    q = p.copy()
    q[np.arange(n), y] = 0
    new = (g.random((n, 1))*q.sum(1, keepdims=True) < q.cumsum(1)).argmax(1)
    wrong = np.zeros(n, bool)
    wrong[g.permutation(n)[:round(rate*n)]] = True
    return y,np.where(wrong, new, y),p

def report(g, p):
    names = [f'c{k}' for k in range(p.shape[1])]
    return NoiseReport(g, p, names, folds=np.zeros(len(g), int))

# --- the rate --------------------------------------------------------------------------------------------------------
WORLDS = [(r, s, acc, make) for r in (0., .05, .2, .4) for s,acc in enumerate((.85, .5)) for make in ('even', 'alike')]

def test_the_interval_holds_the_truth():
    held,widths = [],[]
    for r,s,acc,make in WORLDS:
        if make == 'even': _,g,p = world(2000, rate=r, acc=acc, seed=s)
        else: _,g,p = confusable(rate=r, acc=acc, seed=s)
        e = noise_rate(g, p)
        assert 0 <= e.lo <= e.rate <= e.hi <= 1
        held.append(e.lo <= r <= e.hi)
        widths.append(e.hi-e.lo)
    assert np.mean(held) >= .9 and np.mean(widths) < .2

def test_more_items_make_it_narrower():
    widths = [np.subtract(*noise_rate(*world(n, rate=.2)[1:])[2:0:-1]) for n in (200, 1000, 8000)]
    assert widths == sorted(widths, reverse=True) and widths[-1] > .04     # a tenth of the rate is for the model

@pytest.mark.parametrize('seed', [0, 1])
def test_errors_that_are_spread_and_errors_between_look_alikes(seed):
    _,g,p = world(2000, rate=.2, seed=seed)
    assert errors_spread(g, p, label_channel(g, p)) > .85
    _,g,p = confusable(seed=seed)
    assert errors_spread(g, p, label_channel(g, p)) < .35
    assert noise_rate(g, p).law.spread < .35
    _,g,p = world(500, 2, seed=seed)
    assert errors_spread(g, p, label_channel(g, p)) == 1

def test_it_is_in_the_range_where_nothing_is_wrong_or_said():
    g = np.arange(300)%3
    for p in (np.eye(3)[g], np.full((300, 3), 1/3), np.eye(3)[(g+1)%3]):
        e = noise_rate(g, p)
        assert np.isfinite(e[:3]).all() and 0 <= e.lo <= e.rate <= e.hi <= 1
        assert 0 <= errors_spread(g, p, e.channel) <= 1
    assert noise_rate(g, np.eye(3)[g]).rate < .01

def test_labels_that_were_planted_over_are_not_counted():
    _,g,p = world(3000, rate=.1)
    new,mask = plant_labels(g, 10, .3, 0)
    e = noise_rate(new, p, ~mask)
    assert abs(noise_rate(g, p).tail.rate-e.tail.rate) < .04 < noise_rate(new, p).tail.rate-e.tail.rate

# --- the plants that are like the errors -----------------------------------------------------------------------------
@pytest.mark.parametrize('law', [SYMMETRIC, CONFUSION, PlantLaw(.4, 2.)])
def test_labels_are_planted_by_their_law(law):
    p = np.tile([.5, .3, .2, 0.], (30000, 1))
    y = np.full(30000, 1)
    w = law.weights(y[:1], p[:1])[0]
    v = p[0]**(1/law.temperature)
    v[1] = 0
    assert np.allclose(w, law.spread*np.array([1, 0, 1, 1])/3 + (1-law.spread)*v/v.sum(), atol=1e-4)
    new,mask = plant_labels(y, 4, .5, kind=law, probs=None if law.spread >= 1 else p)
    assert np.allclose(np.bincount(new[mask], minlength=4)/mask.sum(), w, atol=.01)

def test_only_some_labels_may_be_planted_on():
    _,g,p = world(400)
    use = np.arange(400) >= 200
    for kw in ({}, dict(kind='confusion', probs=p)):
        new,mask = plant_labels(g, 10, .1, use=use, **kw)
        assert mask.sum() == 20 and not mask[:200].any() and (new[~mask] == g[~mask]).all()
    few = np.isin(np.arange(400), [7, 8, 300])
    v = virtual_plants(g, p, SYMMETRIC, few)
    assert len(v.items) == v.draws == 5 and few[v.items].all() and len(set(v.items)) > 1
    assert (v.labels != g[v.items]).all() and np.array_equal(v.probs, p[v.items])
    assert [len(o[0]) for o in v.each()] == [1]*5 and v.joined([v, v]).draws == 15

# --- the list --------------------------------------------------------------------------------------------------------
def test_precision_and_recall_lie_in_their_intervals():
    held = []
    for r,s,acc,make in WORLDS:
        if r == 0: continue
        y,g,p = world(2000, rate=r, acc=acc, seed=s) if make == 'even' else confusable(rate=r, acc=acc, seed=s)
        of = listed(g, p, noise_rate(g, p), np.ones(len(g), bool))
        wrong = g != y
        for share,truth in ((of.recall, of.flagged[wrong].mean()), (of.precision, wrong[of.flagged].mean())):
            if not of.flagged.any(): continue
            assert 0 <= share.lo <= share.value <= share.hi <= 1
            held.append(share.lo <= truth <= share.hi)
    assert len(held) > 18 and np.mean(held) >= .85

def test_no_more_is_flagged_than_the_rate():
    for r,acc in ((.05, .5), (.3, .5), (.3, .85)):
        _,g,p = world(2000, rate=r, acc=acc)
        e = noise_rate(g, p)
        of = listed(g, p, e, np.ones(2000, bool))
        assert of.flagged.mean() <= e.rate+1/2000 and of.cut >= .5

def test_nothing_flagged_has_no_precision():
    rep = report(*world(2000, rate=0.)[1:])
    assert not rep.issues.any() and np.isnan([rep.precision, rep.precision_lo, rep.precision_hi]).all()
    assert any('no label is called wrong' in o for o in rep.notes)

def test_chances_are_told_where_the_low_end_says_so():
    y,g,p = world(3000, rate=.3)
    rep = report(g, p)
    sure,told = rep.chances > .8,np.isfinite(rep.chances)
    assert told.all() and rep.chances.max() <= 1 and (g != y)[sure].mean() > .7
    assert rep.chances.mean() == pytest.approx(.3, abs=.06)
    _,g,p = world(1000, rate=.01, acc=.5)
    rep = report(g, p)
    assert rep.lo < rep.rate/4 and np.isnan(rep.chances).all() and np.isfinite(rep.table.suspicion).all()
    assert not rep.issues.any() or any('cannot be told from wrong labels one by one' in o for o in rep.notes)

# --- judges that cannot judge ----------------------------------------------------------------------------------------
def never_says(k, n=2000, c=5, **kw):
    y,g,p = world(n, c, rate=.1, **kw)
    p[:, k] = 1e-9
    return y,g,p/p.sum(1, keepdims=True)

def test_a_class_that_is_never_predicted_is_not_judged():
    y,g,p = never_says(4)
    rep = report(g, p)
    out = g == 4
    assert rep.judged.tolist() == [True]*4+[False] and rep.trusted and not rep.issues[out].any()
    assert not rep.suspicion[out].any() and np.isnan(rep.chances[out]).all() and (rep.suggested[out] == 4).all()
    assert rep.lo <= (g != y)[~out].mean() <= rep.hi
    assert not rep.table.judged[-out.sum():].any() and rep.table.judged[:-out.sum()].all()
    assert 'not judged: c4' in rep.title and any(f'not judged: c4 ({out.sum():,} items)' in o for o in rep.caveats)
    assert rep.summary['classes judged'] == 4

def test_which_classes_can_be_judged():
    y = np.repeat([0, 1, 2, 3], [50, 50, 50, 1])
    p = np.eye(5)[np.r_[np.zeros(50, int), np.full(50, 1), np.zeros(46, int), [2]*4, 3]]
    assert judged_classes(y, p).tolist() == [True, True, False, False, False]   # of 50 only 4, one item, none
    p[96] = np.eye(5)[2]
    p[95] = np.eye(5)[2]
    assert judged_classes(y, p).tolist() == [True, True, True, False, False]

def test_a_weak_judge_tells_no_share():
    _,g,_ = world(1000, rate=.1)
    p = np.random.default_rng(0).dirichlet(np.ones(10), 1000)
    p[np.arange(1000), g] += .08                        # right somewhat more often than by chance
    p /= p.sum(1, keepdims=True)
    rep = report(g, p)
    assert .12 < rep.acc < .45 and not rep.trusted and rep.why.startswith('model too weak: it predicts only')
    assert np.isnan([rep.rate, rep.precision, rep.recall, *rep.chances]).all() and (rep.lo, rep.hi) == (0, 1)
    assert '% of the labels are wrong' not in rep.title and rep.title.startswith('No share of wrong labels')
    assert 'review_sample' in rep.why and rep.caveats[0] == rep.why and str(rep.tau) == 'tau cannot be told'
    assert not rep.table.judged.any() and len(rep.table) == 1000
    assert not [k for k in rep.summary.keys() if k.startswith('rate by')]

def test_a_judge_of_few_classes_is_weak_too():
    _,g,p = world(1000, 4, rate=.1)
    g = np.where(g > 1, np.random.default_rng(0).integers(0, 2, 1000), g)
    g[:520] = 2
    p = np.where(np.arange(4) == 2, 1e-9, p)
    rep = report(g, p/p.sum(1, keepdims=True))
    assert not rep.trusted and 'model too weak' in rep.why and len(rep.table) == 1000

# --- many ------------------------------------------------------------------------------------------------------------
def test_slices_and_a_part_of_the_rows(monkeypatch):
    assert np.array_equal(some_rows(1000, 10), np.arange(1000))
    monkeypatch.setattr(channel_module, 'FIT', 1000)
    i = some_rows(1000, 10)
    assert len(i) == 100 and (np.diff(i) > 0).all() and np.array_equal(i, some_rows(1000, 10)) and i[-1] > 900
    assert len(some_rows(5, 10**6)) == 1
    monkeypatch.setattr(channel_module, '_BLOCK', 100)
    at = np.concatenate([np.arange(95)[s] for s in row_slices(95, 9)])
    assert np.array_equal(at, np.arange(95))

def test_a_part_of_the_rows_tells_as_much(monkeypatch):
    y,g,p = world(6000, rate=.2)
    whole = noise_rate(g, p)
    monkeypatch.setattr(channel_module, 'FIT', 20_000)
    monkeypatch.setattr(channel_module, '_BLOCK', 3000)
    some = noise_rate(g, p)
    assert some.rate == pytest.approx(whole.rate, abs=.02) and len(some.channel.wrong) == 6000
    assert np.corrcoef(some.channel.wrong, whole.channel.wrong)[0, 1] > .97

def test_the_memory_it_takes(monkeypatch):
    "A tenth of 20,000 x 1,000 with limits of a tenth: 10 float64 copies of the numbers that are worked on at once"
    monkeypatch.setattr(channel_module, 'FIT', 2**20)
    monkeypatch.setattr(channel_module, '_BLOCK', 2**17)
    n,c = 10_000,200
    rng = np.random.default_rng(0)
    y = rng.integers(0, c, n)
    p = rng.random((n, c), np.float32)
    p[np.arange(n), y] += 300
    p /= p.sum(1, keepdims=True)
    g = np.where(rng.random(n) < .1, rng.integers(0, c, n), y)
    tracemalloc.start()
    try:
        rep = report(g, p)
        peak = tracemalloc.get_traced_memory()[1]
    finally: tracemalloc.stop()
    assert rep.lo < (g != y).mean() < rep.hi and len(rep.table) == n
    assert peak < 10*8*2**20 + 400*n
