"The checks that every door shares say what was expected, what came, what to do; and take what they should"
import copy, inspect, warnings
import numpy as np, pandas as pd
import pytest
import torch
from fastai.losses import CrossEntropyLossFlat
from conftest import tiny_dls, tiny_learner
from fastrobust.basics import RobustWarning, is_whole, need_whole
from fastrobust.inference.fitting import fit_temperature
from fastrobust.compare.tuning import find_tau
from fastrobust.data.longtail import class_counts
from fastrobust.images.corruptions.front import corrupt
from fastrobust.labels.memorisation import plot_memorisation
from fastrobust.labels.pictures import plot_loss_split, plot_noise_matrices
from fastrobust.learner import robust_learner
from fastrobust.nets import small_cnn
from fastrobust.ood.metrics import auroc, fpr_at_tpr
from fastrobust.predictions import LABELS_FIRST, as_array, need_distributions, need_logits, need_probs, need_rows
from fastrobust.shift.corruptionreport import corruption_report
from fastrobust.shift.lpreport import lp_report
from fastrobust.techniques.elr import ELR
from fastrobust.techniques.logitadjust import LogitAdjust
from fastrobust.techniques.logitnorm import LogitNorm
from fastrobust.training.technique import Technique

# --- whole numbers ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('v', [3, np.int64(3), np.uint8(3)])
def test_whole_numbers_of_any_kind(v):
    got = need_whole('n', v, 1, 5)
    assert got == 3 and type(got) is int and is_whole(v)

@pytest.mark.parametrize('v', [True, np.True_, 3., np.float32(3), '3', None, [3]])
def test_what_is_no_whole_number(v):
    assert not is_whole(v)
    with pytest.raises(TypeError, match='`seed` must be a whole number, got .*Give e.g. 0'): need_whole('seed', v)
    with pytest.raises(ValueError, match='`n` must be a whole number from 2 on.*e.g. 2'): need_whole('n', v, 2)

def test_ranges():
    assert need_whole('seed', -7) == -7 and need_whole('n', 0, 0) == 0 and need_whole('n', 5, 1, 5) == 5
    for v in (0, 6):
        with pytest.raises(ValueError, match=r'from 1 to 5 \(votes\), got \d. Ask'):
            need_whole('n', v, 1, 5, what='votes', fix='Ask.')

# --- predictions and labels ------------------------------------------------------------------------------------------
Y,P = np.array([0, 1, 1]),np.array([[.9, .1], [.2, .8], [.6, .4]])

@pytest.mark.parametrize('dtype,kept', [(torch.float16, np.float32), (torch.bfloat16, np.float32),
                                        (torch.float32, np.float32), (torch.float64, np.float64)])
def test_precisions_round_as_they_may(dtype, kept):
    many = torch.rand(200, 30, generator=torch.Generator().manual_seed(0)).softmax(1).to(dtype)
    y,p = need_probs(torch.zeros(200, dtype=torch.uint8), many)
    assert p.dtype == kept and y.dtype == np.int64 and np.allclose(p, many.float().numpy())
    with pytest.raises(ValueError, match=r'that sum to 1, got 0\.[89]'): need_probs(y, many.float()*.9)

@pytest.mark.parametrize('dtype,slack', [(torch.float16, .01), (torch.bfloat16, .05), (torch.float32, .002),
                                         (torch.float64, .002)])
def test_sums_may_be_off_by_rounding_and_no_more(dtype, slack):
    p = torch.tensor([[.5, .5]]*2, dtype=torch.float64)
    near,far = (p*(1+.6*slack)).to(dtype),(p*(1+2*slack)).to(dtype)
    need_probs([0, 1], near)
    with pytest.raises(ValueError, match=r'that sum to 1, got 1\.'): need_probs([0, 1], far)

def test_kinds_of_containers():
    for y,p in ((Y.tolist(), P.tolist()), (pd.Series(Y), pd.DataFrame(P)), (torch.tensor(Y), torch.tensor(P))):
        got = need_probs(y, p)
        assert (got[0] == Y).all() and (got[1] == P).all()
    assert (as_array(torch.tensor(P, requires_grad=True)) == P).all()

def test_the_order_is_said_by_name():
    for first,call in (('labels first, as in cleanlab', lambda: need_probs(P, Y)),
                       ('predictions first, as in the metrics', lambda: need_logits(Y, P))):
        with pytest.raises(ValueError, match=f'the other way round: .*{first}'): call()
    with pytest.raises(ValueError, match='Of one-hot labels'): need_rows(P, np.eye(2)[Y], order=LABELS_FIRST)

def test_logits_are_those_that_came():
    z = torch.randn(3, 2).to(torch.bfloat16)
    got,y = need_logits(z, Y)
    assert got.dtype == torch.float64 and y.dtype == torch.int64 and torch.equal(got, z.double())
    with pytest.raises(ValueError, match='NaN or inf in 1 of 3 rows'): need_logits(np.where(P == .8, np.inf, P), Y)

def test_columns_are_counted_where_their_number_is_known():
    assert need_probs(Y, P, 2)[1] is not None
    with pytest.raises(ValueError, match=r'of shape \(3,4\), one column per class'): need_probs(Y, P, 4)

def test_one_distribution_that_is_none_is_found_among_many():
    p = np.full((1000, 4), .25)
    need_distributions(p)
    p[707] = .2
    with pytest.raises(ValueError, match='got 0.8 in row 707'): need_distributions(p)

def test_a_warning_names_the_users_line():
    class Idle(Technique): pass
    learn = tiny_learner(Idle())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        learn.fit(1); here = inspect.currentframe().f_lineno
        fit_temperature(torch.zeros(12, 3), torch.arange(12)%3); there = inspect.currentframe().f_lineno
    ours = [o for o in said if issubclass(o.category, RobustWarning)]
    assert [(o.filename, o.lineno) for o in ours] == [(__file__, here), (__file__, there)]

def test_a_warning_of_the_company_is_said_once_by_a_learner():
    "When it is made, not again by its fits; another text, another learner and a copy say theirs"
    def said(f):
        with warnings.catch_warnings(record=True) as w:
            warnings.simplefilter('always')
            out = f()
        return out,[str(o.message)[:20] for o in w if issubclass(o.category, RobustWarning)]
    def fits(learn):
        with learn.no_bar(), learn.no_logging():
            learn.lr_find(num_it=2, show_plot=False, suggest_funcs=None)
            learn.fine_tune(1)
            learn.fit(1)
    dls = tiny_dls()
    rare = torch.from_numpy(48/class_counts(dls)).float()
    make = lambda: robust_learner(dls, small_cnn(3, 1, 8, norm=None, depth=2), LogitAdjust(),
                                  loss_func=CrossEntropyLossFlat(weight=rare))
    for _ in range(2):
        learn,a = said(make)
        assert a == ['LogitAdjust expected'] and said(lambda learn=learn: fits(learn))[1] == []
    learn.add_cb(LogitNorm(1.))
    assert said(lambda: fits(learn))[1] == ['LogitNorm(tau=1.0) w']
    assert sorted(said(lambda: fits(copy.deepcopy(learn)))[1]) == ['LogitAdjust expected', 'LogitNorm(tau=1.0) w']
    _,b = said(lambda: fits(tiny_learner(LogitNorm(1.), dls=dls)))
    assert b == ['LogitNorm(tau=1.0) w']
    with warnings.catch_warnings():     # raised, it is not yet said
        warnings.simplefilter('error', RobustWarning)
        t = tiny_learner(LogitNorm(1.), dls=dls)
        for _ in range(2):
            with pytest.raises(RobustWarning): t.fit(1)

# --- the first argument is another -----------------------------------------------------------------------------------
X,Z = torch.zeros(2, 1, 8, 8, dtype=torch.uint8),torch.rand(6)
@pytest.mark.parametrize('call,err,msg', [
    (lambda dls: corruption_report(dls), TypeError, 'a fastai Learner, got a DataLoaders'),
    (lambda dls: lp_report(dls), TypeError, 'a fastai Learner, got a DataLoaders'),
    (lambda dls: find_tau(dls), TypeError, 'a fastai Learner, got a DataLoaders'),
    (lambda dls: robust_learner(small_cnn(3, 1), dls), TypeError, 'expected DataLoaders, got a .*The data come first'),
    (lambda dls: robust_learner(dls, small_cnn(3, 1), 'noisy_labels'), TypeError, "write recipe='noisy_labels'"),
    (lambda dls: robust_learner(dls, small_cnn(3, 1), ['LogitClip']), TypeError, r'Write LogitClip\(\.\.\.\)'),
    (lambda dls: robust_learner(dls, small_cnn(3, 1), 'Logitclop'), TypeError, "Did you mean 'LogitClip'"),
    (lambda dls: corrupt('fog', X), TypeError, "got a Tensor. The images come first"),
    (lambda dls: plot_noise_matrices(np.eye(3)), TypeError, 'a dict from name to T, got a ndarray'),
    (lambda dls: plot_memorisation(3), TypeError, 'a table of epochs, got a int'),
    (lambda dls: plot_loss_split(Z > .5, Z), TypeError, 'The losses come first'),
    (lambda dls: auroc(torch.arange(6)%2, Z), ValueError, 'as scikit-learn takes them.*y==1'),
    (lambda dls: fpr_at_tpr(torch.arange(6)%2 > 0, Z), ValueError, 'as scikit-learn takes them')])
def test_a_first_argument_that_is_another(call, err, msg):
    with pytest.raises(err, match=msg): call(tiny_dls())

def test_techniques_that_are_suggested_are_no_bases():
    with pytest.raises(TypeError) as e: robust_learner(tiny_dls(), small_cnn(3, 1), 'xyz')
    assert 'LogitClip' in str(e.value) and 'TwoNetworks' not in str(e.value) and 'Selection' not in str(e.value)

def test_whole_scores_are_no_labels():
    assert auroc(torch.tensor([3, 4, 1]), torch.tensor([0., 1., 0.])) > .8 and auroc([1, 0], [0, 1]) == .5

def test_a_penalty_that_would_never_be_asked():
    class Own(Technique):
        def penalty(self, z, part): return z.sum()
    class Later(Own):
        def penalty_of(self, head): return head.z.sum()
    with pytest.raises(TypeError, match=r'Mine.penalty would never be asked: Later has `penalty_of'):
        class Mine(Later):
            def penalty(self, z, part): return z.mean()
    with pytest.raises(TypeError, match='ELR has `penalty_of'):
        class MyELR(ELR):
            def penalty(self, z, part): return z.mean()
    class Both(Later):
        def penalty(self, z, part): return z.mean()
        def penalty_of(self, head): return self.penalty(head.z, head.part)
