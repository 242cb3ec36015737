"Corruption errors by hand, in their own units"
import math
import numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st
from fastrobust.images.corruptions.tables import CORRUPTIONS, EXTRA_CORRUPTIONS
from fastrobust.shift.metrics import (ALEXNET, ALEXNET_CLEAN, ice, mce_alexnet, mean_corruption_error,
                                     relative_mce)

FLAT = {k: .3 for k in CORRUPTIONS}

# --- corruption errors -----------------------------------------------------------------------------------------------
def test_alexnet_table():
    assert set(ALEXNET) == set(CORRUPTIONS+EXTRA_CORRUPTIONS) and all(.5 < v < .95 for v in ALEXNET.values())
    assert mean_corruption_error(ALEXNET) == pytest.approx(.788993, abs=5e-7) and ALEXNET_CLEAN == .435
    assert mce_alexnet(ALEXNET) == pytest.approx(100) and relative_mce(ALEXNET, ALEXNET_CLEAN) == pytest.approx(100)

def test_mean_by_hand():
    errors = {k: i/20 for i,k in enumerate(CORRUPTIONS)}
    assert mean_corruption_error(errors) == pytest.approx(7/20)
    five = {k: [v+d for d in (0, .01, .02, .03, .04)] for k,v in errors.items()}
    assert mean_corruption_error(five) == pytest.approx(.37)
    assert mean_corruption_error({**errors, 'saturate': 1.}) == pytest.approx(.35)      # an extra one is none of 15
    assert mean_corruption_error({**errors, 'saturate': 1.}, None) == pytest.approx((.35*15+1)/16)
    assert mean_corruption_error(errors, ('shot_noise', 'fog')) == pytest.approx((1/20+9/20)/2)
    assert mean_corruption_error(pd.Series(errors)) == pytest.approx(.35)
    assert mean_corruption_error({'my own': [0, 1, 1]}, None) == pytest.approx(2/3)

def test_mce_by_hand():
    "A mean of ratios, not a ratio of means"
    assert mce_alexnet({k: v/2 for k,v in ALEXNET.items()}) == pytest.approx(50)
    one = dict(ALEXNET, brightness=0.)
    assert mce_alexnet(one) == pytest.approx(100*14/15)
    assert mce_alexnet(FLAT) == pytest.approx(np.mean([.3/ALEXNET[k] for k in CORRUPTIONS])*100)
    assert mce_alexnet(FLAT) != pytest.approx(.3/.788993*100, abs=.1)
    assert mce_alexnet({k: [.1, .2, .3, .4, .5] for k in CORRUPTIONS}) == pytest.approx(mce_alexnet(FLAT))

def test_relative_mce_by_hand():
    want = np.mean([(.3-.2)/(ALEXNET[k]-.435) for k in CORRUPTIONS])*100
    assert relative_mce(FLAT, .2) == pytest.approx(want)
    one = {k: .3+(.886428-.435 if k == 'gaussian_noise' else 0) for k in CORRUPTIONS}
    assert relative_mce(one, .3) == pytest.approx(100/15)
    assert relative_mce(FLAT, .3) == pytest.approx(0) and relative_mce(FLAT, .4) < 0

def test_ice_of_the_specification():
    "Clean accuracy 94.33; 94.17 94.01 93.42 93.87 93.67 93.53 under the six: 9.7296 %"
    accs = [.9417, .9401, .9342, .9387, .9367, .9353]
    assert ice(1-.9433, [1-a for a in accs]) == pytest.approx(.097296, abs=5e-7)
    assert ice(.1, dict(a=.1, b=.2)) == pytest.approx(.5) and ice(.2, np.array([.1])) == pytest.approx(-.5)
    assert math.isnan(ice(0., [0., 0.])) and ice(0, [.1]) == math.inf
    assert ice(.1, [.1]*6) == pytest.approx(0, abs=1e-12)

@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=15, max_size=15), st.floats(0, 1), st.permutations(range(15)))
def test_properties(e, clean, order):
    errors = dict(zip(CORRUPTIONS, e))
    mixed = {CORRUPTIONS[i]: e[i] for i in order}
    assert mean_corruption_error(mixed) == pytest.approx(np.mean(e)) and 0 <= mean_corruption_error(mixed) <= 1
    assert mce_alexnet(errors) == mce_alexnet(mixed) >= 100*np.mean(e)*.999        # AlexNet errs less than always
    assert relative_mce({k: clean for k in CORRUPTIONS}, clean) == pytest.approx(0, abs=1e-9)
    assert ice(.5, e) == pytest.approx(2*np.mean(e)-1)

@pytest.mark.parametrize('f', [mean_corruption_error, mce_alexnet, lambda e: relative_mce(e, .2)])
def test_refused_errors(f):
    lost = {k: .3 for k in CORRUPTIONS if k not in ('fog', 'snow')}
    with pytest.raises(ValueError, match='expected errors of 15 corruptions, got none of snow, fog'): f(lost)
    with pytest.raises(ValueError, match=r'fractions in \[0,1\], got 22.3 to 22.3. Divide'): f(dict(FLAT, fog=22.3))
    with pytest.raises(ValueError, match=r"errors\['fog'\]` must be errors as.*got -0.1"): f(dict(FLAT, fog=-.1))
    with pytest.raises(ValueError, match='must be finite errors, got nan'): f(dict(FLAT, fog=float('nan')))
    with pytest.raises(ValueError, match='must be finite errors'): f(dict(FLAT, fog=[]))
    with pytest.raises(ValueError, match=r'got shape \(2, 5\)'): f(dict(FLAT, fog=np.full((2, 5), .1)))
    for bad in ([.3]*15, pd.DataFrame([FLAT]), .3, np.full(15, .3)):
        with pytest.raises(TypeError, match='expected `errors` as a dict'): f(bad)

def test_alexnet_wants_all_five_severities():
    for f in (mce_alexnet, lambda e: relative_mce(e, .2)):
        with pytest.raises(ValueError, match=r"errors\['fog'\]` must be a mean over severities or 5 values.*\(3,\)"):
            f(dict(FLAT, fog=[.1, .2, .3]))
    assert mean_corruption_error(dict(FLAT, fog=[.1, .2, .3])) == pytest.approx((.3*14+.2)/15)

def test_refused_clean_error():
    for f in (lambda c: relative_mce(FLAT, c), lambda c: ice(c, [.1])):
        with pytest.raises(ValueError, match='`clean` must be errors as fractions.*Divide percentages'): f(5.7)
        with pytest.raises(ValueError, match='`clean` must be finite'): f(float('nan'))
        with pytest.raises(TypeError, match='`clean` must be a number'): f('.1')
    with pytest.raises(ValueError, match='`errors` must be errors as fractions'): ice(.05, [5.8, 6.1])
    with pytest.raises(ValueError, match='`errors` must be finite'): ice(.05, [])
    with pytest.raises(ValueError, match='expected `names`, got none'): mean_corruption_error(FLAT, ())
