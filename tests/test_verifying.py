"A person looks at a few labels: the estimate is unbiased and its interval covers, whatever the network thinks"
import numpy as np
import pandas as pd
import pytest
from hypothesis import given as draw, settings, strategies as st
from fastrobust.basics import RobustWarning
from fastrobust.labels.stratified import FEWEST, drawn, ratio_of, share_of, strata_of, turns
from fastrobust.labels.verifying import Verified, estimates, population, review_sample, verified, widths
from fastrobust.metrics import wilson_interval

VOCAB = ['ant', 'bee', 'cat']

def made(n=2000, rate=.09, how='good', seed=0):
    "A report's table and which labels are wrong; how good the network is"
    g = np.random.default_rng(seed)
    bad = np.zeros(n, bool)
    bad[g.permutation(n)[:round(rate*n)]] = True
    z = g.normal(size=n) + np.where(bad, 1, -2) - 1
    if how == 'useless': z = g.normal(size=n)-2
    if how == 'reversed': z = -z-3
    wrong = 1/(1+np.exp(-2*z))
    if how == 'overconfident': wrong = np.where(wrong > .5, 1, 0.)
    y = g.integers(0, 3, n)
    t = pd.DataFrame(dict(item=np.arange(n), name=[f'{i}.png' for i in range(n)], given=np.array(VOCAB)[y],
                          suggested=np.array(VOCAB)[(y+1)%3], confidence=wrong, margin=1-wrong, wrong=wrong,
                          flagged=wrong > .5))
    return t.iloc[np.argsort(-wrong, kind='stable')].reset_index(drop=True),bad

def decide(s, bad):
    "The sample as one who knows decides it, in all the words there are"
    right = np.where(s['item']%2, 'keep', s.given)
    wrong = np.where(s['item']%3, s.suggested, 'drop')
    return s.assign(decision=np.where(bad[s['item']], wrong, right))

def counts(strata, bad, n, seed):
    "Wrong and decided labels of each stratum in a sample"
    i = drawn(strata, n, seed)
    of,h = strata.of[i],len(strata.size)
    return np.bincount(of, weights=bad[i], minlength=h).astype(int),np.bincount(of, minlength=h)

def many(t, bad, n, draws=200):
    strata = population(t)[1]
    return strata,[counts(strata, bad, n, seed) for seed in range(draws)]

# --- what it is worth ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('how', ['good', 'useless', 'reversed'])
def test_the_estimates_are_unbiased(how):
    t,bad = made(how=how)
    strata,seen = many(t, bad, 60, 400)
    flagged = np.zeros(len(bad), bool)
    flagged[t['item']] = t.flagged
    res = [estimates(x, m, strata) for x,m in seen]
    for got,true in (([o.rate for o in res], bad.mean()), ([o.precision for o in res], bad[flagged].mean())):
        assert abs(np.mean(got)-true) < 3*np.std(got)/np.sqrt(len(got)) + 1e-9
    if how == 'useless': return
    plain = [x.sum()/m.sum() for x,m in seen]      # the weights matter
    assert abs(np.mean(plain)-bad.mean()) > 6*np.std(plain)/np.sqrt(len(plain))

SETTINGS = [dict(), dict(rate=.01), dict(rate=0), dict(rate=.4), dict(n=300, rate=.1), dict(how='useless'),
            dict(how='reversed', rate=.03), dict(how='overconfident')]

@pytest.mark.parametrize('kw', SETTINGS, ids=str)
def test_the_intervals_cover(kw):
    t,bad = made(**kw)
    strata,seen = many(t, bad, 60)
    flagged = np.zeros(len(bad), bool)
    flagged[t['item']] = t.flagged
    res = [estimates(x, m, strata) for x,m in seen]
    inside = lambda true, lo, hi: np.mean([getattr(o, lo) <= true <= getattr(o, hi) for o in res])
    # 95 % of 200 draws: .915 is two standard errors below
    assert inside(bad.mean(), 'lo', 'hi') >= .915
    if flagged.any(): assert inside(bad[flagged].mean(), 'precision_lo', 'precision_hi') >= .915
    if bad.any(): assert inside(flagged[bad].mean(), 'recall_lo', 'recall_hi') >= .915
    width = np.mean([o.hi-o.lo for o in res])
    lo,hi = wilson_interval(bad.mean(), 60)
    assert width < (hi-lo)*(1.1 if kw.get('how') else .98)

def test_few_left_to_see():
    "Of 300 items 240 are seen: the truth is one of few numbers, and a bare limit falls between them"
    t,bad = made(300, .1)
    strata,seen = many(t, bad, 240)
    res = [estimates(x, m, strata) for x,m in seen]
    assert np.mean([o.lo <= bad.mean() <= o.hi for o in res]) >= .93
    assert min(o.lo for o in res) < .1 and max(o.hi-o.lo for o in res) < .05

def test_a_broken_formula_would_not_pass():
    t,bad = made()
    strata,seen = many(t, bad, 60)
    covers = lambda weights: np.mean([lo <= bad.mean() <= hi for _,lo,hi in (share_of(x, m, weights) for x,m in seen)])
    assert covers(strata.size) >= .915
    assert covers(np.full(len(strata.size), len(bad)//len(strata.size))) < .7      # as if all weighed alike
    spread = [np.sqrt(((strata.size/len(bad))**2*x/m*(1-x/m)/m).sum()) for x,m in seen]
    point = [(strata.size/len(bad)*x/m).sum() for x,m in seen]
    wald = np.abs(np.array(point)-bad.mean()) <= 1.96*np.array(spread)
    assert wald.mean() < .9                                                         # 0 of 12 is not surely 0

def test_better_than_as_many_at_random():
    t,bad = made(20000)
    strata,seen = many(t, bad, 120, 60)
    width = np.mean([o.hi-o.lo for o in (estimates(x, m, strata) for x,m in seen)])
    lo,hi = wilson_interval(.09, 120)
    assert width < .75*(hi-lo)

# --- the limits ------------------------------------------------------------------------------------------------------
def slow_limits(x, m, size):
    "Two strata: every pair of shares on a grid"
    w,left = size/size.sum(),(size-m)/(size-1)
    p = np.linspace(0, 1, 2001)
    loglik = lambda h: (x[h]*np.log(np.maximum(p, 1e-300)) + (m-x)[h]*np.log(np.maximum(1-p, 1e-300)))/left[h]
    first,second = loglik(0),loglik(1)
    point,passed = (w*x/m).sum(),[]
    loss = m.sum()/(m.sum()-((x > 0) & (x < m)).sum())
    for t in np.linspace(.002, .998, 499):
        q = (t-w[0]*p)/w[1]
        ok = (q >= 0) & (q <= 1)
        k = np.where(ok, first+np.interp(q, p, second), -np.inf).argmax()
        a = np.array([p[k], q[k]])
        v = loss*(w*w*a*(1-a)*left/m).sum()
        skew = (w**3*a*(1-a)*(1-2*a)*left*(size-2*m)/(size-2)/m**2).sum()/v**1.5
        side = np.sign(t-point)
        bend = side*skew*(1.96**2-1)/6
        if abs(t-point) <= (1.96-(bend/2 if bend > 0 else bend))*np.sqrt(v): passed.append(t)
    return passed[0],passed[-1]

@pytest.mark.parametrize('x,m,size', [((5, 2), (10, 30), (100, 900)), ((0, 0), (10, 30), (100, 900)),
                                      ((10, 1), (10, 20), (400, 100)), ((3, 0), (6, 40), (60, 5000)),
                                      ((1, 0), (2, 28), (80, 3920)), ((9, 40), (10, 45), (90, 90))])
def test_the_limits_by_hand(x, m, size):
    x,m,size = map(np.array, (x, m, size))
    point,lo,hi = share_of(x, m, size)
    slow_lo,slow_hi = slow_limits(x, m, size)
    half = .5/size.sum()
    assert point == pytest.approx((size*x/m).sum()/size.sum())
    if x.any(): assert lo == pytest.approx(max(slow_lo-half, x.sum()/size.sum()), abs=.004)
    else: assert lo == 0
    assert hi == pytest.approx(slow_hi+half, abs=.004)

def test_one_stratum_is_nearly_wilsons():
    for k in (20, 50, 80):
        _,lo,hi = share_of(np.array([k]), np.array([100]), np.array([10**6]))
        assert np.allclose((lo, hi), wilson_interval(k/100, 100), atol=.012)
    assert 3 < 1000*share_of(np.array([0]), np.array([1000]), np.array([10**7]))[2] < 3.84

counted = st.integers(1, 5).flatmap(lambda h: st.lists(
    st.integers(2, 40).flatmap(lambda m: st.tuples(st.integers(0, m), st.just(m), st.integers(m, 3000))),
    min_size=h, max_size=h))

@settings(max_examples=60, deadline=None)
@draw(counted)
def test_limits_hold_what_is_known(rows):
    x,m,size = np.array(rows).T
    point,lo,hi = share_of(x, m, size)
    seen,total = x.sum(),size.sum()
    assert seen/total-1e-12 <= lo <= point+1e-12 and point-1e-12 <= hi <= 1-(m-x).sum()/total+1e-12
    mirror = share_of(m-x, m, size)
    assert np.allclose((1-point, 1-hi, 1-lo), mirror, atol=2e-3)
    if (m == size).all(): assert lo == point == hi == seen/total

def test_what_was_found_is_there():
    x,m,size = np.array([20, 1]),np.array([40, 30]),np.array([41, 31])
    assert share_of(x, m, size)[1:] == (21/72, 23/72)

def test_ratio():
    assert np.allclose(ratio_of((.1, .1, .1), (.3, .3, .3), 50), .25)
    assert np.allclose(ratio_of((.1, .1, .1), (.3, .3, .30001), 10**6), .25, atol=1e-3)
    r,lo,hi = ratio_of((.06, .05, .07), (.0, .0, .05), 1000)
    assert r == 1 == hi and .5 < lo < .06/.11+.05
    assert ratio_of((0, 0, .1), (0, 0, .1), 100)[1:] == (0, 1)

# --- the sample ------------------------------------------------------------------------------------------------------
def test_the_sample_as_it_is_handed_out():
    t,_ = made()
    s = review_sample(t, 60)
    assert list(s) == ['item', 'name', 'given', 'suggested', 'wrong', 'flagged', 'stratum', 'chance', 'decision']
    assert len(s) == 60 and s['item'].is_unique and (s.decision == '').all()
    own = t.set_index('item').loc[s['item']].reset_index()
    for k in ('name', 'given', 'suggested', 'wrong', 'flagged'): assert (own[k] == s[k]).all()
    strata = population(t)[1]
    size,drew = strata.size,np.bincount(s.stratum, minlength=6)
    assert len(size) == 6 and size.sum() == 2000 and drew.min() >= FEWEST
    assert np.allclose(s.chance, (drew/size)[s.stratum])
    assert s.groupby('stratum').flagged.nunique().max() == 1
    assert s.flagged.mean() >= .2 > t.flagged.mean()
    ranks = [t.wrong[np.isin(t['item'], o)] for o in strata.members]
    for a,b in zip(ranks, ranks[1:]): assert a.min() >= b.max()
    assert (review_sample(t.sample(frac=1, random_state=0), 60) == s).all().all()      # whatever the order of the table
    assert set(review_sample(t, 60, seed=1)['item']) != set(s['item'])

def test_every_beginning_is_a_sample_and_a_longer_one_begins_alike():
    t,bad = made()
    strata = population(t)[1]
    s = review_sample(t, 240, seed=3)
    for n in (13, 37, 60, 120):
        short = review_sample(t, n, seed=3)
        assert (short['item'] == s['item'][:n]).all()
        assert (np.abs(np.bincount(s.stratum[:n], minlength=6)-n*strata.share) < 1.5).all()
    part = decide(s, bad)
    part.loc[37:, 'decision'] = ''
    v = verified(part, t)
    assert v.n == 37 and v == verified(part[:37], t) and v.lo <= .09 <= v.hi

def test_all_alike_within_a_stratum():
    t,_ = made(300)
    strata = population(t)[1]
    hits = sum(np.bincount(drawn(strata, 60, seed), minlength=300) for seed in range(400))/400
    chance = (np.bincount(turns(strata, 60))/strata.size)[strata.of]
    assert np.abs(hits-chance).max() < 5*np.sqrt(.25/400)
    some = chance < 1
    assert (hits[~some] == 1).all()
    assert abs(((hits-chance)**2/np.maximum(chance*(1-chance)/400, 1e-9))[some].mean()-1) < .25

def test_small_strata_get_two_and_rounding_changes_nothing():
    t,_ = made()
    few = t.assign(flagged=np.arange(2000) < 1995)           # a list of nearly all
    assert (np.bincount(review_sample(few, 12).stratum) >= FEWEST).all()
    near = t.assign(wrong=t.wrong*(1+1e-13*np.random.default_rng(0).random(2000)))
    assert (review_sample(near)['item'] == review_sample(t)['item']).all()

def test_lists_of_any_kind():
    t,bad = made(100, .2)
    for flagged in (np.zeros(100, bool), np.ones(100, bool), np.arange(100) < 1):
        u = t.assign(flagged=flagged)
        v = verified(decide(review_sample(u, 40), bad), u)
        assert v.flagged == flagged.sum() and v.lo <= .2 <= v.hi
        assert np.isnan(v.precision) == (not flagged.any()) == np.isnan(v.recall)
        assert ('flagged' in str(v)) == flagged.any()
    v = verified(decide(review_sample(t, 100), bad), t)
    assert v.rate == v.lo == v.hi == .2 and v.precision == v.precision_lo == v.precision_hi
    assert v.recall == v.recall_lo == v.recall_hi == bad[t['item'][t.flagged]].sum()/20

def test_a_network_that_cannot_judge():
    t,bad = made(600)
    none = t.rename(columns=dict(wrong='suspicion')).assign(wrong=np.nan, judged=False)
    strata = population(none)[1]
    assert len(strata.size) == 6 and np.ptp(strata.size[2:]) <= 1                           # its order alone is used
    ranks = [none.suspicion[np.isin(none['item'], o)] for o in strata.members]
    for a,b in zip(ranks, ranks[1:]): assert a.min() >= b.max()
    some = t.assign(judged=t.given != 'ant')
    some.loc[~some.judged, ['wrong', 'flagged']] = np.nan,False
    strata = population(some)[1]
    assert len(strata.size) == 8
    for o in strata.members: assert len({some.judged[some['item'] == i].item() for i in o}) == 1 or strata.flagged.any()
    s = decide(review_sample(some, 60), bad)
    v = verified(s, some)
    assert v.lo <= bad.mean() <= v.hi

# --- there and back --------------------------------------------------------------------------------------------------
def test_csv_there_and_back_through_a_spreadsheet(tmp_path):
    t,bad = made()
    s = decide(review_sample(t, 60), bad)
    want = verified(s, t)
    assert isinstance(want, Verified) and want.n == 60 and want.items == 2000
    s.to_csv(tmp_path/'a.csv', index=False)
    assert verified(tmp_path/'a.csv', t) == want == verified(pd.read_csv(tmp_path/'a.csv'), t)
    s.to_csv(tmp_path/'index.csv')
    assert verified(str(tmp_path/'index.csv'), t) == want
    mixed = s.sample(frac=1, random_state=1).assign(flagged=np.where(s.flagged, 'WAHR', 'FALSCH'), note='seen')
    mixed['decision'] = [f' {o.upper()} ' if o in ('keep', 'drop') else o for o in mixed.decision]
    mixed.to_csv(tmp_path/'b.csv', index=False, sep=';', decimal=',', encoding='utf-8-sig')
    assert verified(tmp_path/'b.csv', t) == want
    t.to_csv(tmp_path/'table.csv')
    assert verified(s, tmp_path/'table.csv') == want

def test_class_numbers():
    t,bad = made(400)
    code = {o: i for i,o in enumerate(VOCAB)}
    u = t.assign(given=t.given.map(code), suggested=t.suggested.map(code))
    s = decide(review_sample(t, 60), bad)
    said = [float(code[o]) if o in code else np.nan for o in s.decision]       # as pandas reads ints and gaps
    got = verified(review_sample(u, 60).assign(decision=said), u)
    assert got == verified(s.assign(decision=s.decision.where(s.decision.isin(VOCAB), '')), t) and got.n < 60

def test_what_it_says():
    t,bad = made()
    v = verified(decide(review_sample(t, 60), bad), t)
    assert str(v).startswith(f'60 labels looked at: {v.rate:.1%} of all 2,000 are wrong ({v.lo:.1%} to {v.hi:.1%}).')
    assert f'Of the {t.flagged.sum()} flagged, {v.precision:.0%} are wrong' in str(v)
    assert 'of all wrong labels' in str(v)
    none = verified(review_sample(t, 60).assign(decision='keep'), t)
    assert none.rate == none.lo == 0 < none.hi < .08
    assert np.isnan(none.recall) and (none.recall_lo, none.recall_hi) == (0, 1)
    assert str(none).endswith('%).') and 'all wrong' not in str(none)

def test_what_was_not_looked_at():
    t,bad = made()
    s = decide(review_sample(t, 120), bad)
    late = s.assign(decision=np.where(s.stratum == 4, '', s.decision))
    with pytest.warns(RobustWarning, match='1 of 6 strata have no decision'): v = verified(late, t)
    assert v.n == (s.stratum != 4).sum() and v.lo <= .09 <= v.hi
    one = s[(s.stratum != 4) | ~s.stratum.duplicated()]
    assert verified(one, t).n == v.n+1
    strata = population(t)[1]
    size,m = strata.size,np.array([6, 6, 12, 12, 1, 12])
    x = np.array([5, 3, 4, 1, 1, 0])
    joined = 4/12*size[2] + 2/13*(size[3]+size[4])                                 # one alone has no variance
    assert estimates(x, m, strata).rate == pytest.approx((5/6*size[0] + 3/6*size[1] + joined)/2000)
    for flagged in (True, False):                                                  # a whole list: it may hold anything
        part = s.assign(decision=np.where(s.flagged == flagged, '', s.decision))
        with pytest.warns(RobustWarning, match='to be anything'): v = verified(part, t)
        unseen = (t.flagged == flagged).mean()
        assert v.lo <= .09 <= v.hi and unseen < v.hi-v.lo and v.hi > unseen
        assert np.isnan(v.precision) == flagged and np.isnan(v.recall) and (v.recall_lo, v.recall_hi) == (0, 1)
        assert ('flagged' in str(v)) != flagged

# --- what another hour buys ------------------------------------------------------------------------------------------
def test_widths():
    t,bad = made()
    w = widths(t)
    assert list(w) == ['n', 'rate', 'precision'] and list(w.n) == [30, 60, 120, 240]
    assert (np.diff(w.rate) < 0).all() and (np.diff(w.precision) < 0).all()
    strata,seen = many(t, bad, 60, 100)
    real = np.mean([o.hi-o.lo for o in (estimates(x, m, strata) for x,m in seen)])
    s = decide(review_sample(t, 120), bad)
    assert widths(t, (60,), s).rate[0] == pytest.approx(real, rel=.25)
    shy = t.assign(wrong=.3+.3*t.wrong)         # said to be unsure of all: the same ranks
    assert widths(shy, (60,)).rate[0] > 1.5*real
    assert widths(shy, (60,), decide(review_sample(shy, 120), bad)).rate[0] < 1.35*real
    assert list(widths(made(100)[0]).n) == [30, 60]

# --- at the door -----------------------------------------------------------------------------------------------------
def test_bad_samples():
    t,bad = made(300)
    for n in (5, 11, 301, 2.5, True):
        with pytest.raises(ValueError, match=f'from 12 to 300.*got {n}'): review_sample(t, n)
    with pytest.raises(ValueError, match='`seed`'): review_sample(t, 20, seed=-1)
    with pytest.raises(ValueError, match='column `wrong` to draw by'): review_sample(t.drop(columns='wrong'))
    with pytest.raises(ValueError, match=r'chances in \[0,1\].*got -1 to'): review_sample(t.assign(wrong=-1))
    with pytest.raises(ValueError, match='empty'): review_sample(t[:0])
    with pytest.raises(TypeError, match='report'): review_sample(7)

def test_bad_decisions(tmp_path):
    t,bad = made(300)
    blank = review_sample(t, 40)
    s = decide(blank, bad)
    with pytest.raises(ValueError, match="got 'antt' in row 3. Did you mean 'ant'"):
        verified(s.assign(decision=np.where(s.index == 3, 'antt', s.decision)), t)
    assert verified(s.assign(decision=np.where(s.index == 3, 'dog', s.decision)), t, [*VOCAB, 'dog']).n == 40
    with pytest.raises(ValueError, match="decisions, got none. Write 'keep'"): verified(blank, t)
    with pytest.raises(ValueError, match='of these 250 items, got item'):
        verified(s, t[t['item'] < 250])
    other = made(300, seed=1)[0]
    with pytest.raises(ValueError, match=r'`given` of item \d+ to be .* rows differ.*older report'): verified(s, other)
    anew = t.assign(wrong=1-t.wrong)
    with pytest.raises(ValueError, match=r'`stratum` of item \d+ to be \d, as in the table, got'): verified(s, anew)
    with pytest.raises(ValueError, match="none called 'stratum'. Give the"): verified(t.assign(decision='keep'), t)
    with pytest.raises(ValueError, match='item .* twice'): verified(pd.concat([s, s[:1]]), t)
    with pytest.raises(FileNotFoundError): verified(tmp_path/'none.csv', t)
    with pytest.raises(TypeError, match='CSV file or a DataFrame, got list'): verified([1], t)

def test_strata_of_odd_tables():
    for n in (1, 2, 7, 30):
        g = np.random.default_rng(n)
        strata = strata_of(g.random(n), g.random(n) < .3, np.ones(n, bool))
        assert np.array_equal(np.sort(np.concatenate(strata.members)), np.arange(n))
        assert strata.share.sum() == pytest.approx(1) and sorted(drawn(strata, n, 0)) == list(range(n))
    same = strata_of(np.zeros(100), np.zeros(100, bool), np.ones(100, bool))
    assert list(same.size) == [25]*4

def test_names_of_classes_with_spaces_outside():
    from fastrobust.labels.result import NoiseReport
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 300)
    p = .1 + .7*np.eye(3)[y]
    rep = NoiseReport(y, p, ['a ', ' b', 'c\n'], folds=np.zeros(300, int))
    assert rep.verify(rep.review_sample(30).assign(decision='keep')).rate == 0
    assert rep.verify(rep.review_sample(30).assign(decision='a ')).rate > .3
