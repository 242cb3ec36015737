"The forget rate, small losses, two networks, and the memory of who was chosen"
import copy, math, pickle, pydoc
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from fastai.callback.core import Callback
from fastai.callback.fp16 import to_bf16  # noqa: F401
from fastai.callback.schedule import fine_tune, lr_find  # noqa: F401
from fastai.learner import load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import SGD
from fastai.torch_core import set_seed
from fastai.vision.learner import vision_learner
from torchvision.models import resnet18
from conftest import params, tiny_dls, tiny_learner
from fastrobust.basics import RobustWarning, check_length, progress
from fastrobust.data.editing import with_labels
from fastrobust.noise.laws import NoisyLabels
from fastrobust.noise.block import add_label_noise
from fastrobust.learner import robust_learner
from fastrobust.training.surgery import Twin, fresh_copy, looks_trained
from fastrobust.nets import small_cnn
from fastrobust.techniques.bases.twonetworks import TwoNetworks
from fastrobust.techniques.bases.selection import forget_rate, n_keep, small_loss
from fastrobust.stripping import strip
from fastrobust.techniques.alasca import ALASCA
from fastrobust.techniques.coteaching import CoTeaching, CoTeachingPlus
from fastrobust.techniques.decoupling import Decoupling
from fastrobust.techniques.elr import ELR
from fastrobust.techniques.jocor import JoCoR
from fastrobust.techniques.smallloss import SmallLoss

# what test_contract.py runs every technique through
CONTRACT = {SmallLoss: dict(make=lambda: SmallLoss(.3, .5)),
            CoTeaching: dict(make=lambda: CoTeaching(.3, .5)),
            CoTeachingPlus: dict(make=lambda: CoTeachingPlus(.3, .5, warmup=.5)),
            Decoupling: dict(make=lambda: Decoupling(.5))}

quick = settings(derandomize=True, deadline=None, max_examples=60)

# --- schedule --------------------------------------------------------------------------------------------------------
def test_forget_rate_of_paper_and_code():
    "Specification, check 4: tau .5, ten epochs"
    assert np.allclose([forget_rate(.5, e) for e in range(12)], [*np.arange(11)*.05, .5])
    got = [forget_rate(.5, e, form='official') for e in range(12)]
    assert np.allclose(got, [*np.linspace(0, .5, 10), .5, .5]) and abs(got[1]-.055556) < 1e-6
    assert abs(forget_rate(.5, 9, exponent=.5, form='official')-.707107) < 1e-6
    assert forget_rate(.5, 10, exponent=.5, form='official') == .5
    assert forget_rate(.4, 0, 0) == .4 and forget_rate(.4, 0, 0, form='official') == .4
    assert [n_keep(128, forget_rate(.5, e, form='official')) for e in range(11)] == \
           [128, 120, 113, 106, 99, 92, 85, 78, 71, 64, 64]
    with pytest.raises(ValueError, match='paper'): forget_rate(.5, 1, form='code')

@quick
@given(st.floats(0, .95), st.integers(1, 30), st.floats(.3, 3))
def test_paper_form_rises_from_zero_to_tau(tau, gradual, c):
    R = [forget_rate(tau, e, gradual, c) for e in range(200)]
    assert R[0] == 0 and all(a <= b + 1e-12 for a,b in zip(R, R[1:]))
    assert abs(R[-1]-tau) < 1e-12 or 200**c < gradual
    ks = [n_keep(50, r) for r in R]
    assert all(1 <= k <= 50 for k in ks) and all(a >= b for a,b in zip(ks, ks[1:]))

@pytest.mark.parametrize('bs,tau,k', [(10, .8, 2), (10, .9, 1), (50, .8, 10), (100, .9, 10), (1, .99, 1), (7, 0., 7)])
def test_rounding_loses_no_item(bs, tau, k): assert n_keep(bs, tau) == k

def test_warm_up_lengths():
    assert progress(10, 4, .9) == .4 and progress(.5, 100, .25) == .5 and progress(0, 0, 0.) == 1
    assert progress(3, 7, 0.) == 1 and progress(1., 0, 1.) == 1
    for bad in (-1, 1.5, 0., float('nan')):
        with pytest.raises(ValueError, match='int >= 0'): check_length('warmup', bad)
    for bad in (True, '3', None):
        with pytest.raises(TypeError, match='`warmup`'): check_length('warmup', bad)

def test_small_losses_in_a_pool_with_ties():
    l = torch.tensor([3., 1., 1., 0., 1., float('inf')])
    assert small_loss(l, 3).tolist() == [False, True, True, True, False, False]
    pool = torch.tensor([5, 4, 0])
    assert small_loss(l, 1, pool).nonzero().flatten().tolist() == [4]
    assert small_loss(l, 0, pool).sum() == 0 and small_loss(l, 9).all()
    assert small_loss(l, 2, torch.tensor([], dtype=torch.long)).sum() == 0

# --- two networks ----------------------------------------------------------------------------------------------------
def test_a_fresh_copy_is_another_draw_of_the_same_numbers():
    net = small_cnn(5, 3, 16)
    new = fresh_copy(net)
    for p,q in zip(net.parameters(), new.parameters()):
        assert torch.equal(p.flatten().sort()[0], q.flatten().sort()[0])
        if p.ndim > 1: assert abs(np.corrcoef(p.detach().flatten(), q.detach().flatten())[0,1]) < .35
    assert torch.equal(params(type('L', (), {'model': fresh_copy(net)})), params(type('L', (), {'model': new})))
    head = list(net[-1].parameters())
    part = fresh_copy(net, head)
    assert torch.equal(part[0].weight, net[0].weight) and not torch.equal(part[-1].weight, net[-1].weight)

def test_a_network_knows_that_it_was_trained():
    net = small_cnn(3, 1, 8)
    assert not looks_trained(net)
    net(torch.randn(4, 1, 8, 8))
    assert looks_trained(net)
    gn = small_cnn(3, 1, 8, norm='gn')
    gn(torch.randn(4, 1, 8, 8))
    assert not looks_trained(gn)
    with torch.no_grad(): gn[1].weight[0] += .1
    assert looks_trained(gn)

@pytest.mark.parametrize('mk', [lambda: JoCoR(.3, gradual=1), lambda: CoTeaching(.3, 1),
                                lambda: CoTeachingPlus(.3, 1, warmup=1), lambda: Decoupling(1)])
def test_evaluation_is_the_mean_of_the_logits(tmp_path, mk):
    learn = tiny_learner(mk(), path=tmp_path)
    learn.fit(2)
    x = next(iter(learn.dls.valid))[0]
    a,b = (n.eval()(x) for n in learn.model.nets)
    assert torch.allclose(learn.model.eval()(x), (a+b)/2, atol=1e-6) and not torch.allclose(a, b, atol=1e-3)
    assert torch.allclose(learn.get_preds()[0][:len(x)], ((a+b)/2).softmax(1), atol=1e-5)
    for w,n in (('a', 0), ('b', 1)):
        assert torch.allclose(strip(learn, w).model.eval()(x), (a, b)[n], atol=1e-6)
    learn.export('t.pkl')
    assert torch.allclose(load_learner(tmp_path/'t.pkl').model(x), (a+b)/2, atol=1e-6)

def test_every_parameter_is_trained_once_and_both_networks_freeze():
    learn = tiny_learner(CoTeaching(.3, 1), splitter=lambda m: [list(m[:3].parameters()), list(m[3:].parameters())])
    learn.create_opt()
    ids = [id(p) for g in learn.opt.param_lists for p in g]
    assert sorted(ids) == sorted(id(p) for p in learn.model.parameters()) and len(learn.opt.param_lists) == 2
    learn.freeze()
    for net in learn.model.nets:
        assert not any(p.requires_grad for p in net[0].parameters())
        assert all(p.requires_grad for p in net[-1].parameters())
    learn.unfreeze()
    assert all(p.requires_grad for p in learn.model.parameters())

def test_a_pretrained_shaped_body_is_shared_and_its_head_is_not():
    dls = tiny_dls(channels=3, size=32)
    learn = vision_learner(dls, resnet18, pretrained=False, n_out=3, loss_func=CrossEntropyLossFlat())
    learn.freeze()      # as vision_learner leaves a pretrained one
    with pytest.warns(RobustWarning, match='shares its start except for the head'): learn.add_cb(JoCoR(.3, gradual=1))
    a,b = learn.model.nets
    assert torch.equal(a[0][0].weight, b[0][0].weight) and not torch.equal(a[1][-1].weight, b[1][-1].weight)
    assert not a[0][0].weight.requires_grad and b[1][-1].weight.requires_grad and learn.opt.frozen_idx > 0
    with learn.no_bar(), learn.no_logging(): learn.fine_tune(1)
    assert a[0][0].weight.requires_grad and not torch.equal(a[0][0].weight, b[0][0].weight)
    learn.remove_cb(JoCoR)
    assert learn.model is a
    with learn.no_bar(), learn.no_logging(): learn.fit(1)

@pytest.mark.parametrize('lam,trained,told', [(.9, True, True), (.5, True, False), (.9, False, False)])
def test_jocor_says_where_agreement_keeps_a_new_head_from_learning(lam, trained, told):
    import warnings
    dls = tiny_dls(channels=3, size=32)
    learn = vision_learner(dls, resnet18, pretrained=False, n_out=3, loss_func=CrossEntropyLossFlat())
    if trained: learn.freeze()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        learn.add_cb(JoCoR(.3, lam))
    assert any('Take lam=.5' in str(o.message) for o in said) == told

def test_a_rate_that_nobody_could_tell():
    with pytest.raises(ValueError, match='got nan, which is what estimate_tau returns where its judge cannot'):
        JoCoR((math.nan,)*3)

def test_a_second_network_of_your_own():
    set_seed(5)
    other = small_cnn(3, 1, 16, norm=None, depth=2)
    learn = tiny_learner(CoTeaching(.3, 1, second=lambda: other))
    assert learn.model.nets[1] is other
    learn.fit(1)
    pickle.dumps(learn.objective.techniques()[0].clone())
    with pytest.raises(TypeError, match='function'): JoCoR(.3, second=other)
    learn = tiny_learner()
    with pytest.raises(ValueError, match='parameters of its own'): learn.add_cb(JoCoR(.3, second=lambda: learn.model))
    with pytest.raises(ValueError, match='two equal ones'):
        learn.add_cb(JoCoR(.3, second=lambda: copy.deepcopy(learn.model)))
    assert not isinstance(learn.model, Twin)
    learn.fit(1)

def test_a_tuple_of_a_recurrent_network_goes_through():
    class Rnn(nn.Module):
        def __init__(self): super().__init__(); self.l,self.n = nn.Linear(4, 3),0
        def forward(self, x): return self.l(x), x, [x]
        def reset(self): self.n += 1
    t,x = Twin(Rnn(), Rnn()),torch.randn(2, 4)
    z,raw,out = t.train()(x)
    assert len(list(z)) == 2 and raw is x and not isinstance(z, (tuple, list))
    assert torch.allclose(t.eval()(x)[0], sum(n.l(x) for n in t.nets)/2)
    t.reset()
    assert [n.n for n in t.nets] == [1, 1]

# --- who was chosen --------------------------------------------------------------------------------------------------
def noisy(**kw): return add_label_noise(tiny_dls(**kw), NoisyLabels('symmetric', .4))

@pytest.mark.parametrize('mk', [lambda: SmallLoss(.4, 1), lambda: JoCoR(.4, gradual=1), lambda: CoTeaching(.4, 1),
                                lambda: CoTeachingPlus(.4, 1, warmup=1), lambda: Decoupling(1)])
def test_selection_is_recorded_by_position(mk):
    dls = noisy()
    t = mk()
    learn = tiny_learner(t, dls=dls)
    seen = {}
    class Spy(Callback):
        order = 20
        def after_loss(self):
            if not self.training: return
            b = self.learn.objective.batch
            ws = b.w if isinstance(b.w, list) else [b.w]
            for j,i in enumerate(b.ids.tolist()): seen[i] = [float(w[j] > 0) for w in ws]
    learn.fit(2, cbs=Spy())     # batches of 16 of 48: everything is seen in the last epoch
    want = np.array([max(seen[i]) for i in range(48)]) > 0
    assert (t.selected == want).all() and t.epochs == 2 and len(t.history) == 2
    clean = ~dls.noise.is_noisy
    picks = np.array([seen[i] for i in range(48)])
    if picks.sum():
        assert abs(t.history[-1]['label_precision'] - (picks*clean[:,None]).sum()/picks.sum()) < 1e-6
    assert abs(t.history[-1]['label_recall'] - (picks*clean[:,None]).mean(1).sum()/clean.sum()) < 1e-6
    assert abs(t.history[-1]['kept'] - picks.mean()) < 1e-6
    names = list(learn.recorder.metric_names)
    assert 'kept' in names and 'label_precision' in names
    assert abs(learn.recorder.values[-1][names.index('kept')-1] - t.history[-1]['kept']) < 1e-6

def test_scores_and_noisy_ids():
    t = SmallLoss(.5, 0)
    learn = tiny_learner(t, dls=noisy())
    with pytest.raises(ValueError, match='no epoch was finished'): _ = t.selected
    learn.fit(3)
    s = t.score()
    assert s.shape == (48,) and s.min() >= 0 and s.max() <= 1 and abs(s.mean()-.5) < .05
    ids = t.noisy_ids()
    assert (s[ids] < .5).all() and len(ids) == (s < .5).sum() and len(t.noisy_ids(5)) == 5
    assert t.score(int(ids[0])) == s.min() and (np.diff(s[t.noisy_ids(48)]) >= 0).all()
    t2 = Decoupling(1)
    tiny_learner(t2).fit(1)
    with pytest.raises(ValueError, match='says nothing about their labels'): t2.noisy_ids(3)

def test_the_ramp_goes_on_over_fits_and_stops_for_nothing_else(tmp_path):
    t = SmallLoss(.4, 4)
    learn = tiny_learner(t, path=tmp_path)
    learn.fit(2)
    learn.lr_find(num_it=8, show_plot=False); learn.validate(); learn.get_preds()
    assert t.epochs == 2 and t.rate == .2
    learn.fit(3)
    assert t.epochs == 5 and t.rate == .4 and len(t.history) == 5
    class Stop(Exception): pass
    from conftest import Raise
    with pytest.raises(Stop): learn.fit(1, cbs=Raise(Stop('now')))
    assert t.epochs == 5
    learn.fit(1)
    assert t.epochs == 6

@pytest.mark.parametrize('mk', [lambda: CoTeaching(.4, 3), lambda: CoTeachingPlus(.4, 3, warmup=0),
                                lambda: JoCoR(.4, gradual=3), lambda: SmallLoss(.4, 3)])
def test_the_rate_is_tau_an_epoch_later_than_in_the_authors_code(mk):
    class Rates(Callback):
        def __init__(self): self.seen = []
        def before_train(self): self.seen.append(self.learn.objective.techniques()[0].rate)
    spy = Rates()
    tiny_learner(mk()).fit(5, cbs=spy)
    assert np.allclose(spy.seen, [0, .4/3, .8/3, .4, .4])
    assert np.allclose([forget_rate(.4, e, 3, form='official') for e in range(5)], [0, .2, .4, .4, .4])

def test_help_says_what_differs_from_the_authors_code():
    "One line each; what is said is held by the tests named beside it"
    says = {
        CoTeaching: ['divides that mean by their number once more',     # test_coteaching_exchanges_by_hand
                     'theirs is an epoch sooner',       # test_the_rate_is_tau_an_epoch_later_than_in_the_authors_code
                     'by the mean of their logits'],    # test_evaluation_is_the_mean_of_the_logits
        CoTeachingPlus: ['theirs takes the softmax twice',  # test_coteaching_plus_takes_one_softmax_and_one_mean
                         'divides that mean by their number once more', 'theirs is an epoch sooner',
                         'the step has no loss',            # test_few_disagreements_are_finite
                         'by the mean of their logits'],
        JoCoR: ["`lam` is .9, their README's for CIFAR-10 up to 50 % noise; the code's own default is .1",
                'theirs is an epoch sooner', 'by the mean of their logits'],
        Decoupling: ['theirs counts steps', 'by the mean of their logits'],
        ALASCA: ['each of two networks has a memory of its own'],   # test_each_network_has_its_own_memory_even_..
        ELR: ['Each of two networks has targets of its own']}       # test_against_loops
    for T,lines in says.items():
        text = pydoc.plain(pydoc.render_doc(T)).split('Method resolution order')[0]
        for o in lines: assert sum(o in l for l in text.splitlines()) == 1, (T, o)
    assert JoCoR(.3).lam == .9

def test_warnings_where_nothing_would_happen(recwarn):
    learn = robust_learner(tiny_dls(), small_cnn(3, 1, 8, norm=None, depth=2), [SmallLoss(.3)])
    learn.validate()
    assert not [w for w in recwarn if issubclass(w.category, RobustWarning)]     # no fit, no warning
    with pytest.warns(RobustWarning, match='inside the 10 epochs of `gradual`'): tiny_learner(SmallLoss(.3)).fit(2)
    with pytest.warns(RobustWarning, match='inside the 5 epochs of `warmup`'):
        tiny_learner(CoTeachingPlus(.3, .5, warmup=5)).fit(1)
    with pytest.warns(RobustWarning, match='keeps 3 of 16 items'): tiny_learner(SmallLoss(.8, .5)).fit(1)

@pytest.mark.parametrize('bad,ex', [(1., ValueError), (-.1, ValueError), (float('nan'), ValueError), ('.4', TypeError),
                                    (None, TypeError), (True, TypeError), ((1.2, 0, 1), ValueError)])
def test_bad_rates(bad, ex):
    for T in (SmallLoss, JoCoR, CoTeaching, CoTeachingPlus):
        with pytest.raises(ex, match='`tau`'): T(bad)

def test_tau_may_be_the_result_of_an_estimate(): assert SmallLoss((.25, .2, .3)).tau == .25

def test_two_ways_to_choose_are_refused():
    with pytest.raises(ValueError, match='both choose the items'): tiny_learner([SmallLoss(.3), Decoupling()]).fit(1)

def test_a_trained_plain_learner_gets_a_second_head():
    learn = tiny_learner(norm='bn')
    learn.fit(1)
    with pytest.warns(RobustWarning, match='shares its start except for the head'): learn.add_cb(JoCoR(.3, gradual=1))
    a,b = learn.model.nets
    assert torch.equal(a[0].weight, b[0].weight) and not torch.equal(a[-1].weight, b[-1].weight)
    learn.fit(1)

@pytest.mark.parametrize('mk', [lambda: SmallLoss(.3, 0), lambda: CoTeaching(.3, 0), lambda: JoCoR(.3, gradual=0)])
def test_class_weights_do_not_choose(mk):
    "A class that counts ten times is not taken for wrong ten times as often; the mean is torch's weighted one"
    picks = []
    for w in (None, torch.tensor([10., 1, 1])):
        learn = tiny_learner(mk(), loss_func=CrossEntropyLossFlat(weight=w), dls=tiny_dls(n=192, bs=64))
        t = learn.objective.techniques()[0]
        set_seed(5); learn.fit(1, 0.)
        picks.append(t.selected)
    assert (picks[0] == picks[1]).all()

def test_selection_resumes():
    t = CoTeaching(.4, 4)
    learn = tiny_learner(t)
    learn.fit(2)
    new = CoTeaching(.4, 4)
    new.load_state_dict(t.state_dict())
    assert new.epochs == 2 and (new.selected == t.selected).all() and new.history == t.history
    fresh = CoTeaching(.4, 4)
    tiny_learner(fresh).fit(4, start_epoch=2)
    assert fresh.epochs == 4 and [h['epoch'] for h in fresh.history] == [2, 3]
    with pytest.raises(ValueError, match='masks behind'): _ = copy.deepcopy(learn).objective.techniques()[0].selected

def test_loaders_without_positions_train_and_say_so():
    learn = tiny_learner(SmallLoss(.3, .5))
    from fastrobust.training import callback
    old = callback.epoch_idxs
    try:
        callback.epoch_idxs = lambda dl: None
        learn.fit(1)
    finally: callback.epoch_idxs = old
    t = learn.objective.techniques()[0]
    assert abs(t.history[0]['kept']-.85) < .16
    with pytest.raises(ValueError, match='did not say which items'): _ = t.selected

def test_the_base_is_no_technique_to_use(): assert TwoNetworks.surgery is Twin

def test_mismatched_relabelling_keeps_the_truth():
    dls = noisy()
    new = with_labels(dls, dls.noise.y_clean)
    assert new.noise.realised_rate == 0 and dls.noise.realised_rate > .3
    t = SmallLoss(.2, 0)
    tiny_learner(t, dls=new).fit(1)
    assert t.history[0]['label_precision'] == 1

def test_sgd_trains_each_network_at_the_full_rate():
    "tau 0: two independent plain runs"
    learn = tiny_learner(opt_func=SGD, wd=0.)
    solo = [copy.deepcopy(learn.model)]
    learn.add_cb(CoTeaching(0., 1))
    solo.append(copy.deepcopy(learn.model.nets[1]))
    set_seed(9); learn.fit(1, .1)
    for net,twin in zip(solo, learn.model.nets):
        one = tiny_learner(opt_func=SGD, wd=0.); one.model = net
        set_seed(9); one.fit(1, .1)
        assert torch.allclose(params(one), torch.cat([p.flatten() for p in twin.parameters()]), atol=1e-6)

# --- at the edges ----------------------------------------------------------------------------------------------------
def test_half_of_the_epochs_is_not_less_than_half():
    t = tiny_learner(SmallLoss(.3, .5)).smallloss
    seen = np.ones(4, bool)
    chosen = np.array([[1, 1, 0, 0], [1, 0, 1, 0]], bool)
    t._masks = [np.stack([o, o, seen]) for o in chosen]
    assert t.score().tolist() == [1., .5, .5, 0.]
    assert t.noisy_ids().tolist() == [3] and t.noisy_ids(3).tolist() == [3, 1, 2]

def test_the_window_is_ten_epochs():
    learn = tiny_learner(SmallLoss(.3, 1))
    learn.fit(12)
    assert len(learn.smallloss._masks) == 10 == SmallLoss.window and learn.smallloss.epochs == 12
