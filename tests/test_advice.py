"advise: what it sees, what follows, and that looking changes nothing"
import random
import sys
import types
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.tabular.data import TabularDataLoaders
from conftest import tiny_dls
from fastrobust.advice import advise
from fastrobust.data.fromarrays import array_dls
from fastrobust.data.editing import given_labels, take_items
from fastrobust.noise.laws import NoisyLabels
from fastrobust.noise.block import add_label_noise
from fastrobust.labels.result import Tau

def rep(dls, rate, lo=None, hi=None):
    return types.SimpleNamespace(rate=rate, lo=rate if lo is None else lo, hi=rate if hi is None else hi,
                                 given=given_labels(dls))
def words(a): return ' '.join(a.reasons)

def test_facts_and_unknown_noise():
    dls = tiny_dls()
    a = advise(dls)
    n = np.bincount(given_labels(dls))
    assert a.facts['training items'] == '48' and a.facts['classes'] == 3 and a.facts['images'] == '8 x 8, grey'
    assert a.facts['class sizes'].startswith(f'{n.min()} to {n.max()} ') and a.facts['wrong labels'] == 'unknown'
    assert a.recipe == 'noisy_labels' and 'noise_report(' in a.code
    assert 'noise_report(frozen(resnet18), dls)' in words(a)
    assert all(o in repr(a) for o in a.reasons[0].split()) and a.code in repr(a)
    assert '<pre>' in a._repr_html_() and '<lambda' not in a._repr_html_()

@pytest.mark.parametrize('rate,recipe,say', [
    (.01, None, 'plain training'), (.02, None, 'plain'), (.2, 'noisy_labels', 'tau=0.2'),
    (.55, 'noisy_labels', 'labelled again')])
def test_the_rate_decides(rate, recipe, say):
    dls = tiny_dls()
    a = advise(dls, rep(dls, rate, rate-.01, rate+.02))
    assert a.recipe == recipe and say in words(a) and a.learner_kwargs.get('recipe') == recipe
    assert ('recipe=' in a.code) == (recipe is not None) and 'noise_report' not in a.code
    assert f'{rate:.1%}, interval {rate-.01:.1%} to {rate+.02:.1%}' in a.facts['wrong labels']
    assert ('labelled again' in words(a)) == (rate >= .5) and ('fix_labels' in words(a)) == (rate > .02)

@pytest.mark.parametrize('c,recipe', [(21, 'noisy_labels'), (60, 'noisy_labels'), (61, None)])
def test_the_recipe_is_named_for_as_many_classes_as_it_was_tried_on(c, recipe):
    n = 20*c
    dls = array_dls(np.zeros((n, 8, 8), np.uint8), np.arange(n)%c, valid_pct=.1, bs=16)
    a = advise(dls)
    assert a.recipe == recipe and (f'on up to 60 classes, these are {c}' in words(a)) == (recipe is None)

@pytest.mark.parametrize('n', [600, 1200])
def test_on_few_images_it_names_what_was_steadier(n):
    dls = array_dls(np.zeros((n, 8, 8), np.uint8), np.arange(n)%3, valid_pct=.1, bs=16)
    assert ("'open_world', the same beside generated textures" in words(advise(dls))) == (n == 600)

def test_where_the_rate_comes_from():
    noisy = add_label_noise(tiny_dls(), NoisyLabels('symmetric', .4))
    assert '40' not in advise(tiny_dls()).facts['wrong labels']
    a = advise(noisy)
    assert 'known' in a.facts['wrong labels'] and a.recipe == 'noisy_labels' and 'fix_labels' not in words(a)
    assert '10.0%' in advise(noisy, rep(noisy, .1)).facts['wrong labels']
    assert '30.0%' in advise(noisy, .3).facts['wrong labels']
    assert '25.0%, interval 20.0% to 30.0%' in advise(noisy, Tau(.25, .2, .3)).facts['wrong labels']
    assert '1.0%' in advise(noisy, rep(noisy, .01)).facts['wrong labels']
    for bad in ('much', types.SimpleNamespace(rate=3)):
        with pytest.raises(TypeError, match='Pass what'): advise(noisy, bad)
    with pytest.raises(ValueError, match='report of these dls'): advise(tiny_dls(), rep(noisy, .1))
    with pytest.raises(ValueError, match='report of these dls'): advise(tiny_dls(n=40), rep(tiny_dls(), .1))

def colour(size, n=60):
    g = np.random.default_rng(0)
    X = g.integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    return array_dls(X, np.arange(n) % 3, valid_pct=.2, device='cpu', bs=8)

def test_pretrained_or_not():
    a = advise(colour(100))
    assert a.learner_kwargs['pretrained'] is True and 'resnet18' in a.code and 'fine_tune(5)' in a.code
    assert 'rule of thumb' in words(a) and 'Resize' not in words(a) and a.facts['images'] == '100 x 100, colour'
    assert 'Resize(128)' in words(advise(colour(32)))
    g = advise(tiny_dls())
    assert 'pretrained' not in g.learner_kwargs and 'small_cnn(3, 1)' in g.code and 'fit_one_cycle' in g.code
    assert advise(tiny_dls(size=70)).learner_kwargs['pretrained'] is False

def test_many_colour_images(monkeypatch):
    from fastrobust import advice
    monkeypatch.setattr(advice, 'FEW', 40)
    assert 'small_cnn(3, 3)' in advise(colour(32)).code and 'from scratch' in words(advise(colour(32)))

def test_imbalance_and_rare_classes():
    dls = tiny_dls(n=120)
    y = given_labels(dls)
    assert 'balanced' not in words(advise(dls))
    a = advise(take_items(dls, np.r_[np.flatnonzero(y > 0), np.flatnonzero(y == 0)[:3]]))
    assert 'weighted_dls' not in a.code and 'BalancedAccuracy()' in a.code and 'rule of thumb' in words(a)
    assert 'with it leave both out' in words(a) and 'fit_one_cycle(12)' in a.code   # the recipe knows the sizes
    clean = advise(take_items(dls, np.r_[np.flatnonzero(y > 0), np.flatnonzero(y == 0)[:3]]), 0.)
    assert "weighted_dls(dls, 'balanced')" in clean.code and clean.recipe is None
    assert 'Fewer than 20 items: 0.' in words(a)
    assert 'No training item: 0.' in words(advise(take_items(dls, y > 0)))

def test_tables_and_other_things():
    g = np.random.default_rng(0)
    df = pd.DataFrame(dict(u=g.normal(size=60), y=np.array(list('abc'))[np.arange(60) % 3]))
    a = advise(TabularDataLoaders.from_df(df, cont_names=['u'], y_names='y', valid_idx=list(range(12)), bs=8))
    assert 'learner_func=tabular_learner' in a.code and 'images' not in a.facts and 'tabular.all' in a.code

def test_the_code_runs():
    from fastai.vision.all import BalancedAccuracy, accuracy  # noqa: F401
    from fastrobust.data.weighting import weighted_dls  # noqa: F401
    from fastrobust.learner import robust_learner  # noqa: F401
    from fastrobust.nets import small_cnn  # noqa: F401
    dls = tiny_dls()
    for o in (dls, take_items(dls, np.r_[np.flatnonzero(given_labels(dls) > 0), [0]])):
        ns = dict(globals(), **locals())
        ns['dls'] = o
        lines = advise(o).code.replace('(12)', '(1)').split('\n')
        exec('\n'.join(k for k in lines if 'import' not in k), ns)
        assert len(ns['learn'].recorder.values) == 1

def test_looking_moves_no_random_stream():
    dls = tiny_dls()
    a = random.getstate(),np.random.get_state()[1].tolist(),torch.get_rng_state().tolist()
    advise(dls)
    assert a == (random.getstate(),np.random.get_state()[1].tolist(),torch.get_rng_state().tolist())

def test_a_maker_makes_the_report(monkeypatch):
    dls,seen = tiny_dls(),[]
    fake = types.ModuleType('noisereport')
    fake.noise_report = lambda make, d: (seen.append((make, d)), rep(d, .33))[1]
    monkeypatch.setitem(sys.modules, 'fastrobust.labels.report', fake)
    a = advise(dls, make_learner=len)
    assert seen == [(len, dls)] and '33.0%' in a.facts['wrong labels']
    assert '10.0%' in advise(dls, rep(dls, .1), make_learner=len).facts['wrong labels'] and len(seen) == 1
