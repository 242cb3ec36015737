"Weights of items: in the loss against a loop in float64, in the loader against the counts they promise"
import random, warnings
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from fastai.callback.mixup import MixUp
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.transforms import ToTensor
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import SGD
from fastai.tabular.data import TabularDataLoaders
from fastai.text.data import SortedDL
from conftest import params, tiny_dls, tiny_learner
from fastrobust.basics import RobustWarning, batch_idxs
from fastrobust.data.editing import given_labels, take_items, with_labels
from fastrobust.data.weighting import DrawArrayDL, DrawDL, DrawTabDL, draw_by_weight, item_weights, weighted_dls
from fastrobust.data.fromarrays import array_dls
from fastrobust.losses import BalancedGCELoss, GCELoss
from fastrobust.training.technique import Technique
from fastrobust.stripping import strip
from fastrobust.techniques.augloss import AugLoss
from fastrobust.techniques.sampleweights import SampleWeights

# what test_contract.py runs every technique through
CONTRACT = {SampleWeights: dict(make=lambda: SampleWeights('balanced'))}

W = np.linspace(0, 2, 48)

# --- in the loss -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('loss', [CrossEntropyLossFlat, GCELoss])
def test_loss_is_the_weighted_mean_by_position(loss):
    learn,got = tiny_learner(SampleWeights(W), loss_func=loss()),[]
    class Spy(Technique):
        def update(self, batch):
            l,w,i = batch.l[0].double().tolist(),W,batch.ids.tolist()
            got.append((self.learn.loss.item(), sum(a*w[k] for a,k in zip(l, i))/sum(w[k] for k in i)))
    learn.fit(1, cbs=Spy())
    assert len(got) == 3 and np.allclose(*zip(*got), rtol=1e-5)

def test_weights_of_zero_and_one_are_a_selection():
    "same network whether the items are silenced or never there (one batch, no batch norm)"
    idxs,dls = np.arange(0, 48, 3),tiny_dls(bs=48, shuffle=False)
    w = np.zeros(48); w[idxs] = 3.
    kw = dict(opt_func=SGD, wd=0.)
    a,b = tiny_learner(SampleWeights(w), dls=dls, **kw),tiny_learner(dls=take_items(dls, idxs), **kw)
    for o in (a, b): o.fit(3, .1)
    assert torch.allclose(params(a), params(b), atol=1e-6)

def test_balanced_counts_classes_alike():
    dls = tiny_dls()
    y = given_labels(dls)
    w = item_weights(dls, 'balanced')
    assert np.allclose([w[y == k].sum() for k in range(3)], 1)
    t = SampleWeights('balanced')
    learn = tiny_learner(t, dls=dls)
    learn.fit(1)
    assert np.allclose(t._w.numpy(), w/w.mean()) and repr(t) == "SampleWeights('balanced')"
    learn.validate()
    part = tiny_dls(n=30)
    learn.dls = part
    learn.fit(1)
    assert len(t._w) == 30

@pytest.mark.parametrize('w', [W, W.astype(np.float32), list(W), torch.tensor(W), pd.Series(W), np.arange(48)])
def test_kinds_of_weights(w):
    learn = tiny_learner(SampleWeights(w))
    learn.fit(1)
    assert np.isfinite(learn.recorder.values[0]).all() and '48 weights' in repr(learn.sampleweights)

@pytest.mark.parametrize('w,what', [(W[:47], 'for each of the 48'), (np.r_[W[:47], np.nan], 'got nan at 47'),
    (np.r_[-1., W[1:]], 'got -1.0 at 0'), (np.r_[W[:3], np.inf, W[4:]], 'inf at 3'), (np.zeros(48), 'at least one'),
    (W.reshape(6, 8), r'shape \(6, 8\)'), (['a']*48, 'expected weights'), ('even', "got 'even'")])
def test_bad_weights(w, what):
    for f in (lambda: tiny_learner(SampleWeights(w)).fit(1), lambda: weighted_dls(tiny_dls(), w)):
        with pytest.raises(ValueError, match=what): f()

def test_no_weights():
    for w in (None, lambda dls: W):
        with pytest.raises(TypeError, match='fixes.weights'): SampleWeights(w)

def test_what_it_warns_of_and_refuses():
    with pytest.warns(RobustWarning, match='all 48 weights are equal'): tiny_learner(SampleWeights(np.ones(48))).fit(1)
    with pytest.warns(RobustWarning, match='both act'):
        tiny_learner(SampleWeights(W), dls=weighted_dls(tiny_dls(), W)).fit(1)
    with pytest.warns(RobustWarning, match='batches of one'):
        tiny_learner(SampleWeights(W), dls=tiny_dls(bs=1)).fit(1)
    with pytest.raises(ValueError, match='one label'): tiny_learner(SampleWeights(W)).fit(1, cbs=MixUp())

@pytest.mark.parametrize('loss,says', [(BalancedGCELoss([30, 10, 8]), 'helped twice'),
    (CrossEntropyLossFlat(weight=torch.tensor([1., 2., 3.])), 'they multiply'), (GCELoss(), None)], ids='swn')
@pytest.mark.parametrize('wrapped', [False, True])
def test_it_says_where_rare_classes_are_helped_twice(loss, says, wrapped):
    y = np.repeat([0, 1, 2], [30, 10, 8])
    dls = array_dls(np.zeros((48, 8, 8), np.uint8), y, valid=(np.zeros((3, 8, 8), np.uint8), [0, 1, 2]), bs=8)
    if wrapped and not hasattr(loss, 'per_sample'): return
    def make(w):
        if wrapped: return tiny_learner([SampleWeights(w), AugLoss(loss)], dls=dls)
        return tiny_learner(SampleWeights(w), dls=dls, loss_func=loss)
    def said(w):
        with warnings.catch_warnings(record=True) as got:
            warnings.simplefilter('always')
            learn = make(w)
            with learn.no_bar(), learn.no_logging(): learn.fit(1)
        return [str(o.message) for o in got if "SampleWeights('balanced')" in str(o.message)]
    assert (says in said('balanced')[0]) if says else not said('balanced')
    assert not said(W)

# --- in the loader ---------------------------------------------------------------------------------------------------
@settings(derandomize=True, deadline=None)
@given(st.lists(st.floats(0, 10), min_size=1, max_size=60).filter(lambda w: sum(w) > .1), st.integers(0, 99))
def test_draws_are_within_one_of_what_is_due(w, seed):
    w = np.array(w)
    idxs = draw_by_weight(w, random.Random(seed))
    due = len(w)*w/w.sum()
    n = np.bincount(idxs, minlength=len(w))
    assert len(idxs) == len(w) and (np.abs(n-due) < 1+1e-6).all() and not n[w == 0].any()

def test_draws_are_fair_and_equal_weights_draw_each_once():
    w = np.array([.1, .1, .3, 1.5])
    n = sum(np.bincount(draw_by_weight(w, random.Random(s)), minlength=4) for s in range(4000))/4000
    assert np.allclose(n, 4*w/2, atol=.03)
    for c in (.1, 1/3, 7.): assert sorted(draw_by_weight(np.full(1000, c), random.Random(1))) == list(range(1000))
    assert draw_by_weight(np.ones(50), random.Random(1)) != draw_by_weight(np.ones(50), random.Random(2))

def table():
    g = np.random.default_rng(0)
    df = pd.DataFrame(dict(u=g.normal(size=60), y=np.array(list('abc'))[np.arange(60) % 3]))
    return TabularDataLoaders.from_df(df, cont_names=['u'], y_names='y', valid_idx=list(range(12)), bs=8)

def plain():
    base = tiny_dls()
    return DataLoaders(*(TfmdDL(dl.dataset, bs=16, shuffle=dl is base.train, after_item=[ToTensor()], num_workers=0,
                                after_batch=list(base.train.after_batch.fs), device='cpu') for dl in base.loaders))

@pytest.mark.parametrize('make,cls', [(tiny_dls, DrawArrayDL), (plain, DrawDL), (table, DrawTabDL)])
def test_loaders(make, cls):
    dls = make()
    w = np.where(np.arange(48) < 24, 0, 1.)
    new = weighted_dls(dls, w)
    assert type(new.train) is cls and new.valid is dls.valid and new.train.bs == dls.train.bs
    assert len(new.train) == len(dls.train) and type(dls.train) is not cls
    seen = []
    for i,b in enumerate(new.train): seen += batch_idxs(new.train, i, len(b[-1])).tolist()
    assert min(seen) >= 24 and np.bincount(seen).max() <= 2
    assert (given_labels(new) == given_labels(dls)).all()
    part = take_items(new, np.arange(20, 48))       # the weights go with their items, and through an edit of labels
    assert np.allclose(part.train.wgts, w[20:]/w.sum()) and min(part.train.get_idxs()) >= 4
    edit = with_labels(new, given_labels(dls)[::-1])
    assert np.allclose(edit.train.wgts, w/w.sum()) and np.allclose(new.train.new(bs=4).wgts, w/w.sum())
    assert sorted(new.train.new(shuffle=False).get_idxs()) == list(range(48))
    assert new.train.new(dls.valid_ds).wgts.std() == 0

def test_making_one_leaves_the_random_streams():
    dls = tiny_dls()
    a,b = random.getstate(),np.random.get_state()[1].tolist()
    weighted_dls(dls, W)
    assert random.getstate() == a and np.random.get_state()[1].tolist() == b

def test_a_learner_on_drawn_items_strips_and_exports(tmp_path):
    learn = tiny_learner(dls=weighted_dls(tiny_dls(), W), path=tmp_path)
    learn.fit(1)
    learn.export('a.pkl')
    with pytest.warns(RobustWarning, match='weights stay behind'): strip(learn).export('b.pkl')
    assert (tmp_path/'a.pkl').exists()

def test_loaders_that_cannot_draw():
    with pytest.raises(ValueError, match='shuffle=True'): weighted_dls(tiny_dls(shuffle=False), W)
    base = plain()
    base.loaders[0] = SortedDL(base.train_ds, sort_func=lambda o: 0, bs=8, shuffle=True, num_workers=0)
    with pytest.raises(TypeError, match='SortedDL.*take_items'): weighted_dls(base, W)
    with pytest.warns(RobustWarning, match='change nothing'): weighted_dls(tiny_dls(), np.ones(48))
