"Planted labels: what is planted, what the bounds promise, the channel against simulated noise, and the check on itself"
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from fastrobust.labels.channel import label_channel, pairs, wrong_if_given
from fastrobust.labels.planting import Plants, plant_labels
from fastrobust.labels.rates import noise_rate
from fastrobust.labels.tails import plant_check, planted_tail, rival_margins

fast = settings(derandomize=True, deadline=None, max_examples=15)

def world(n=4000, c=10, acc=.85, rate=.2, kind='symmetric', seed=0):
    "True labels, given labels and calibrated probabilities of a network of about that accuracy, close pairs of classes"
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 1, (n, c)) + 2.2*rng.normal(0, 1, (n, 1))*(np.arange(c) == rng.integers(0, c, (n, 1)))
    top = rng.integers(0, c, n)
    z[np.arange(n), top] += rng.gamma(3., 2.2 if acc > .7 else .9, n)
    p = np.exp(z-z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    y = (rng.random((n, 1)) < p.cumsum(1)).argmax(1)            # the truth follows the probabilities
    wrong = np.zeros(n, bool)
    wrong[rng.permutation(n)[:round(rate*n)]] = True
    new = (y+rng.integers(1, c, n))%c if kind == 'symmetric' else (y+1)%c
    return y,np.where(wrong, new, y),p

# --- planting --------------------------------------------------------------------------------------------------------
@fast
@given(st.integers(2, 12), st.integers(20, 300), st.floats(.05, .5), st.integers(0, 99),
       st.sampled_from(['symmetric', 'confusion']))
def test_plants_are_counted_and_always_another_label(c, n, share, seed, kind):
    rng = np.random.default_rng(seed)
    y,p = rng.integers(0, c, n),rng.dirichlet(np.ones(c)*.3, n)
    before = y.copy()
    kw = dict(kind=kind, probs=p) if kind == 'confusion' else {}
    new,mask = plant_labels(y, c, share, seed, **kw)
    assert mask.sum() == round(share*n) and (y == before).all()
    assert (new[mask] != y[mask]).all() and (new[~mask] == y[~mask]).all() and 0 <= new.min() and new.max() < c
    again = plant_labels(y, c, share, seed, **kw)
    assert (again[0] == new).all() and (again[1] == mask).all()

def test_other_seeds_plant_elsewhere_and_the_global_stream_stays():
    y = np.arange(1000)%10
    state = np.random.get_state()[1].copy()
    a,b = (plant_labels(y, 10, .1, s)[1] for s in (0, 1))
    assert 60 < (a & ~b).sum() < 100                            # 90 expected of two independent tenths
    assert (np.random.get_state()[1] == state).all()

def test_symmetric_plants_are_even_and_confused_ones_follow_the_probabilities():
    y,p = np.zeros(40000, int),np.tile([.6, .3, .1, 0.], (40000, 1))
    share = lambda new, mask: np.bincount(new[mask], minlength=4)/mask.sum()
    assert np.allclose(share(*plant_labels(y, 4, .5)), [0, 1/3, 1/3, 1/3], atol=.01)
    assert np.allclose(share(*plant_labels(y, 4, .5, kind='confusion', probs=p)), [0, .75, .25, 0], atol=.01)

@pytest.mark.parametrize('kw,msg', [
    (dict(share=0), 'share.*in \\(0,.5\\]'), (dict(share=.6), 'share'), (dict(share=.0001), 'at least one'),
    (dict(seed=-1), 'seed'), (dict(kind='pair'), "'symmetric' or 'confusion'"), (dict(kind='confusion'), 'probs'),
    (dict(probs=np.full((100, 4), .25)), 'leave both out'), (dict(n_classes=3), 'ints in 0..2')])
def test_planting_refuses(kw, msg):
    kw = dict(dict(n_classes=4), **kw)
    with pytest.raises(ValueError, match=msg): plant_labels(np.arange(100)%4, **kw)

def test_planting_refuses_a_share_that_is_no_number():
    with pytest.raises(TypeError, match='share'): plant_labels(np.arange(100)%4, 4, '5 %')

# --- margins ---------------------------------------------------------------------------------------------------------
def test_rival_margins_against_a_loop():
    rng = np.random.default_rng(0)
    y,p = rng.integers(0, 5, 60),rng.dirichlet(np.ones(5), 60)
    p[0] = [.4, .4, .1, .1, 0]                                  # a tie at the top
    own,riv = rival_margins(y, p)
    for i in range(60):
        for k in range(5):
            want = (p[i, k] - max(p[i, j] for j in range(5) if j != k) + 1)/2
            if k == y[i]:
                assert own[i] == pytest.approx(want) and np.isnan(riv[i, k])
            else: assert riv[i, k] == pytest.approx(want)

# --- the tail --------------------------------------------------------------------------------------------------------
def test_a_tail_by_hand():
    # 4 items, 2 classes: plants have margins 1-m of the given ones. Half of the plants: .1 and .2; given there: .1
    p = np.array([[.1, .9], [.9, .1], [.8, .2], [.7, .3]])
    y = np.array([0, 0, 0, 0])                                  # margins .1 .9 .8 .7, plants .9 .1 .2 .3
    t = planted_tail(y, p, q=.5)
    assert t.threshold == pytest.approx(.2) and t.given == .25 and t.planted == .5
    assert t.rate == pytest.approx(.5/(1+.5))                   # a plant is right as often as a label was wrong

def test_the_tail_bounds_the_rate_and_finds_it_where_the_network_is_good():
    for rate in (0., .1, .3, .5):
        y,g,p = world(rate=rate)
        t = planted_tail(g, p)
        assert rate-3*t.se-.01 < t.rate < rate+.06, rate
        assert .39 < t.planted < .41

def test_a_shorter_tail_meets_fewer_hard_items():
    y,g,p = world(rate=0., acc=.5)
    r = [planted_tail(g, p, q).rate for q in (.05, .2, .4, .7, 1.)]
    assert r == sorted(r) and r[0] < .1 < r[-1]

def test_a_tail_of_some_labels_and_confused_plants():
    y,g,p = world(rate=.3)
    use = g == y
    assert planted_tail(g, p, use=use).rate < .05 < planted_tail(g, p, use=~use).rate
    assert planted_tail(g, p, kind='confusion').rate > planted_tail(g, p).rate

def test_the_tail_refuses():
    y,g,p = world(200)
    with pytest.raises(ValueError, match='share of plants'): planted_tail(g, p, 0)
    with pytest.raises(ValueError, match='symmetric'): planted_tail(g, p, kind='odd')
    with pytest.raises(ValueError, match='sum to 1'): planted_tail(g, p*2/3)

# --- the channel -----------------------------------------------------------------------------------------------------
def slow_channel(y, p, steps, temp=1.):
    "The same EM in loops, at a fixed temperature"
    n,c = p.shape
    T = [[.8 if a == b else .2/(c-1) for b in range(c)] for a in range(c)]
    for _ in range(steps):
        N,post = np.zeros((c, c)),[]
        for i in range(n):
            w = np.array([p[i, t]**(1/temp)*T[t][y[i]] for t in range(c)])
            post.append(w/w.sum())
            N[:, y[i]] += post[-1]
        r = 1-sum(N[k, k] for k in range(c))/n
        T = [[N[a, b] + .3*N[a].sum()*((1-r) if a == b else r/(c-1)) for b in range(c)] for a in range(c)]
        T = [[v/sum(row) for v in row] for row in T]
    return r,np.array(T),np.array([1-post[i][y[i]] for i in range(n)])

def test_the_channel_against_loops():
    y,g,p = world(300, 4, rate=.25)
    a = label_channel(g, p)
    r,T,wrong = slow_channel(g, p, 150, a.temperature)
    assert a.rate == pytest.approx(r, abs=2e-3) and np.abs(a.T-T).max() < .01 and np.abs(a.wrong-wrong).max() < .2
    for i in range(0, 300, 7):                                  # single labels are judged by M
        w = np.array([p[i, t]**(1/a.temperature)*a.M[t, g[i]] for t in range(4)])
        assert a.wrong[i] == pytest.approx(1-w[g[i]]/w.sum()) and a.likely[i] == w.argmax()
        assert a.chance[i] == pytest.approx(w.max()/w.sum())
        assert a.chance_other[i] == pytest.approx(np.delete(w, g[i]).max()/w.sum())

@pytest.mark.parametrize('kind', ['symmetric', 'pair'])
@pytest.mark.parametrize('rate', [0., .2, .4])
def test_the_channel_finds_rate_and_matrix(kind, rate):
    y,g,p = world(rate=rate, kind=kind)
    a = label_channel(g, p)
    real = np.zeros((10, 10))
    np.add.at(real, (y, g), 1)
    real /= real.sum(1, keepdims=True)
    assert abs(a.rate-rate) < .04 and np.abs(a.T-real).mean() < .035      # drawn towards symmetric noise
    assert np.allclose(a.T.sum(1), 1) and .8 < a.temperature < 1.25
    assert a.rate == pytest.approx(a.wrong.mean(), abs=.03) and a.mass.sum() == pytest.approx(len(g))
    assert (a.other != g).all() and np.allclose(a.M.sum(1), 1)
    assert rate == 0 or (pairs(a.T, a.mass) > .4) == (kind == 'pair')

@fast
@given(st.floats(.4, 2.5))
def test_the_channel_undoes_a_temperature(t):
    y,g,p = world(800, rate=.2)
    q = p**t
    a,b = label_channel(g, p),label_channel(g, q/q.sum(1, keepdims=True))
    assert b.temperature == pytest.approx(t*a.temperature, rel=.02) and b.rate == pytest.approx(a.rate, abs=.005)

def test_its_chances_are_calibrated():
    y,g,p = world(8000, rate=.3)
    w = label_channel(g, p).wrong
    for lo,hi in ((0, .1), (.1, .4), (.4, .7), (.7, .95), (.95, 1.01)):
        i = (w >= lo) & (w < hi)
        assert abs(w[i].mean()-(g != y)[i].mean()) < .08, (lo, hi)

def test_wrong_if_given_is_wrong_at_the_given_labels():
    y,g,p = world(500, 5)
    a = label_channel(g, p)
    all_ = wrong_if_given(a, p)
    assert np.abs(all_[np.arange(500), g]-a.wrong).max() < .02  # the last step of EM moved T a little
    assert all_[np.arange(500), p.argmax(1)].mean() < .2 < .8 < all_[np.arange(500), p.argmin(1)].mean()

# --- the rate --------------------------------------------------------------------------------------------------------
def test_the_interval_covers():
    runs = [(r, acc, k, s) for r in (0., .1, .25, .4) for acc in (.85, .5)
            for s,k in enumerate(('symmetric', 'pair'))]
    res = [(r, noise_rate(*world(2000, rate=r, acc=a, kind=k, seed=s)[1:])) for r,a,k,s in runs]
    inside = np.mean([e.lo <= r <= e.hi for r,e in res])
    assert inside >= .8 and np.mean([e.hi-e.lo for _,e in res]) < .18
    assert all(0 <= e.lo <= e.rate <= e.hi <= 1 for _,e in res)

def test_the_rate_grows_with_the_noise():
    r = [noise_rate(*world(3000, rate=v)[1:]).rate for v in (0., .1, .2, .3, .4, .5)]
    assert r == sorted(r) and r[0] < .02

def test_two_classes():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 3000)
    s = 1/(1+np.exp(-rng.normal(3, 1.5, 3000)))
    p = np.where(np.arange(2) == y[:, None], s[:, None], 1-s[:, None])
    g = np.where(rng.random(3000) < .2, 1-y, y)
    assert abs(noise_rate(g, p).rate-(g != y).mean()) < .05

# --- the audit of the audit ------------------------------------------------------------------------------------------
def test_honest_plants_pass_and_memorised_ones_do_not():
    y,g,p = world()
    new,mask = plant_labels(g, 10, .05, 3)
    plants = lambda p: Plants(np.flatnonzero(mask), new[mask], p[mask])
    ok = plant_check(g, p, plants(p))
    assert ok.n == 200 and ok.p > .05 and ok.distance < .1
    leak = p.copy()
    leak[mask] = .5*p[mask] + .5*np.eye(10)[new[mask]]          # the network has seen these labels
    assert plant_check(g, p, plants(leak)).p < 1e-6
    with pytest.raises(ValueError, match="'symmetric' or 'confusion', got 'pair'"): plant_check(g, p, plants(p), 'pair')
    none = Plants(np.zeros(0, int), np.zeros(0, int), p[:0])
    with pytest.raises(ValueError, match='at least one planted'): plant_check(g, p, none)

def test_point_and_low_end_by_their_formula():
    seen = set()
    for rate,acc in ((0., .85), (.02, .6), (.2, .6), (.35, .85)):
        y,g,p = world(1500, rate=rate, acc=acc, seed=3)
        if not rate: p = p**2/(p**2).sum(1, keepdims=True)*.9 + .1*np.eye(10)[g]    # hardly a doubtful one
        e = noise_rate(g, p)
        shows = e.far.rate > e.far.se
        off = e.tail.se/2 if shows else e.tail.se
        assert e.rate == pytest.approx(max(min(e.tail.rate, e.channel.rate)-off, 0))
        assert e.lo <= max(e.far.rate-e.far.se, 0)+1e-9 and e.lo <= max(e.rate-1.96*e.tail.se, 0)+1e-9
        seen.add(bool(shows))
    assert seen == {True, False}
