"The mechanism: one loss object, one owner, stages in a fixed order, surgery that comes off"
import copy
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from fastai.callback.core import Callback, CancelBatchException
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.schedule import fine_tune, fit_one_cycle, lr_find  # noqa: F401  (patch Learner)
from fastai.callback.training import GradientAccumulation
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat, LabelSmoothingCrossEntropyFlat
from fastai.optimizer import SGD
from fastai.torch_core import set_seed
from conftest import CANCELS, AuxNet, MiniAux, MiniTwin, Raise, TwinNet, live, params, tiny_dls, tiny_learner
from fastrobust.basics import RobustWarning, batch_idxs
from fastrobust.losses import CrossEntropy, FuncLoss, GCELoss
from fastrobust.training.stages import head_of, main_logits
from fastrobust.training.surgery import AuxOut, Surgery, SurgeonSplit
from fastrobust.training.callback import ObjectiveCallback, ensure_objective
from fastrobust.training.objective import TechniqueColumns
from fastrobust.training.technique import Technique
from fastrobust.training.objective import Objective

class Nothing(Technique):
    def update(self, batch): pass
class NoWeights(Technique):
    def weights(self, ls, zs, *yb): return None

class Half(Technique):
    "Keeps every second sample of a batch"
    def weights(self, ls, zs, *yb): return (torch.arange(len(ls[0]), device=ls[0].device) % 2 == 0).float()

class Rows(Technique):
    "Appends `k` copies of the first image times `scale`, and remembers what came back"
    def __init__(self, k=4, scale=2., lam=1., name='rows1'):
        self.k,self.scale,self.lam,self._name,self.seen = k,scale,lam,name,[]
    @property
    def name(self): return self._name
    def rows(self, x): return x[:1].repeat(self.k, 1, 1, 1)*self.scale
    def penalty(self, z, part):
        self.seen.append((len(z), part.detach()))
        return (part**2).mean()

LOSSES = dict(ce=lambda: CrossEntropyLossFlat(), weight=lambda: CrossEntropyLossFlat(weight=torch.tensor([1., 5., .2])),
              ignore=lambda: CrossEntropyLossFlat(ignore_index=1), smooth=lambda: LabelSmoothingCrossEntropyFlat(),
              torch=lambda: nn.CrossEntropyLoss(weight=torch.tensor([1., 5., .2])), own=lambda: CrossEntropy(),
              gce=lambda: GCELoss(), func=lambda: F.cross_entropy)

@pytest.mark.parametrize('t', [Nothing, NoWeights])
@pytest.mark.parametrize('loss', LOSSES)
def test_do_nothing_is_bitwise_plain_fastai_C13(loss, t):
    a,b = tiny_learner(loss_func=LOSSES[loss]()),tiny_learner(t(), loss_func=LOSSES[loss]())
    for learn in (a, b): set_seed(5); learn.fit(2, 1e-2)
    assert torch.equal(params(a), params(b))
    assert [o for v in a.recorder.values for o in v] == [o for v in b.recorder.values for o in v]

class Ones(Technique):
    def weights(self, ls, zs, *yb): return torch.ones(len(ls[0]))

@pytest.mark.parametrize('loss', ['ce', 'weight', 'ignore', 'own', 'torch', 'func'])
def test_weights_of_one_give_torchs_own_mean(loss):
    z,y = torch.randn(32, 3),torch.randint(0, 3, (32,))
    learn = tiny_learner(Ones(), loss_func=LOSSES[loss]())
    obj = live(learn.loss_func, learn.ones)
    assert torch.allclose(obj(z, y), obj.eval()(z, y), atol=1e-6)

def test_weighted_mean_by_hand_with_class_weights():
    v = torch.tensor([1., 5., .2])
    z,y,w = torch.randn(6, 3),torch.tensor([0, 1, 2, 1, 0, 2]),torch.tensor([1., 0, 2, 1, 0, 3])
    class W(Technique):
        def weights(self, ls, zs, *yb): return w
    learn = tiny_learner(W(), loss_func=CrossEntropyLossFlat(weight=v))
    got = live(learn.loss_func, learn.w)(z, y)
    num = sum(float(w[i]*v[y[i]])*-float(z[i].double().log_softmax(0)[y[i]]) for i in range(6))
    assert abs(got.item() - num/sum(float(w[i]*v[y[i]]) for i in range(6))) < 1e-5

def test_zero_weights_give_zero_and_silence_infinite_losses():
    class W(Technique):
        w = torch.zeros(3)
        def weights(self, ls, zs, *yb): return self.w
    learn = tiny_learner(W())
    obj = live(learn.loss_func, learn.w)
    z = torch.randn(3, 3, requires_grad=True)
    l = obj(z, torch.tensor([0, 1, 2])); l.backward()
    assert l == 0 and torch.equal(z.grad, torch.zeros_like(z))
    W.w = torch.tensor([1., 0., 1.])
    bad = torch.tensor([[0., 0, 0], [float('inf'), 0, 0], [0, 0, 0]])
    assert torch.isclose(obj(bad, torch.tensor([0, 1, 2])), torch.tensor(np.log(3.)).float())

def test_weights_multiply_and_are_normalised_once():
    ws = [torch.tensor([1., 2, 0, 1]), torch.tensor([3., 1, 1, 0])]
    class A(Technique):
        def weights(self, ls, zs, *yb): return ws[0]
    class B(Technique):
        def weights(self, ls, zs, *yb): return ws[1]
    learn = tiny_learner([A(), B()])
    obj = live(learn.loss_func, *learn.objective.techniques())
    z,y = torch.randn(4, 3),torch.tensor([0, 1, 2, 0])
    l = F.cross_entropy(z, y, reduction='none')
    assert torch.isclose(obj(z, y), (l*torch.tensor([3., 2, 0, 0])).sum()/5)

def test_lists_of_weights_multiply_head_by_head():
    ws = [[torch.tensor([1., 2, 0, 1]), torch.tensor([0., 1, 1, 4])],
          [torch.tensor([3., 1, 1, 0]), torch.tensor([2., 2, 0, 1])]]
    one = torch.tensor([1., 0, 2, 3])
    class A(Technique):
        def weights(self, ls, zs, *yb): return ws[0]
    class B(Technique):
        def weights(self, ls, zs, *yb): return ws[1]
    class C(Technique):
        def weights(self, ls, zs, *yb): return one
    z,y = torch.randn(2, 4, 3),torch.tensor([0, 1, 2, 0])
    def alone(i, w): return (F.cross_entropy(z[i], y, reduction='none')*w).sum()/w.sum()
    for ts,want in (([A(), B()], [ws[0][i]*ws[1][i] for i in (0, 1)]), ([A(), C()], [ws[0][i]*one for i in (0, 1)]),
                    ([C(), B()], [one*ws[1][i] for i in (0, 1)])):
        learn = tiny_learner(ts)
        obj = live(learn.loss_func, *learn.objective.techniques())
        obj.batch.heads = list(z)
        assert torch.isclose(obj(z.mean(0), y), alone(0, want[0])+alone(1, want[1]))

def test_outside_training_stages_are_silent_whatever_the_batch_says():
    z,y = torch.randn(4, 3),torch.tensor([0, 1, 2, 0])
    learn = tiny_learner(Half())
    obj = live(learn.loss_func, learn.half)
    seen = obj(z, y)
    assert obj.batch.live and torch.equal(obj.eval()(z, y), F.cross_entropy(z, y)) and seen != F.cross_entropy(z, y)

def test_the_column_of_a_penalty_is_the_mean_over_both_networks():
    class Const(Technique):
        def penalty_of(self, head): return head.z.sum()*0 + 1+2*head.i
    learn = tiny_learner([MiniTwin(), Const()])
    learn.fit(1)
    at = list(learn.recorder.metric_names).index('const')-1
    assert learn.recorder.values[0][at] == pytest.approx(2)      # of 1 and 3, not their sum

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32])
def test_penalties_see_single_precision_whatever_the_weights(dtype):
    z = torch.randn(2, 3).to(dtype)
    for out in (z, AuxOut(z, (z,))):
        head = head_of(0, out, None)
        assert head.z.dtype == torch.float32 and all(a.dtype == torch.float32 for a in head.aux)
        assert torch.equal(head.z, z.float()) and main_logits(out).dtype == torch.float32

def test_a_penalty_of_weight_zero_is_not_asked():
    class Broken(Technique):
        lam = staticmethod(lambda pct: 0.)
        def penalty(self, z, part): return z.sum()*float('nan')
    learn = tiny_learner(Broken())
    learn.fit(1)
    assert torch.isfinite(params(learn)).all() and np.isfinite(learn.recorder.values[0][0])

def test_own_normaliser():
    class Floor(Half):
        def norm(self, w): return torch.clamp(w.sum(), min=100.)
    learn = tiny_learner(Floor())
    obj = live(learn.loss_func, learn.floor)
    z,y = torch.randn(8, 3),torch.randint(0, 3, (8,))
    assert torch.isclose(obj(z, y), F.cross_entropy(z, y, reduction='none')[::2].sum()/100)

def test_validation_is_the_base_loss_on_raw_logits():
    learn = tiny_learner([Half(), Rows()])
    learn.fit(1)
    p,y,l = learn.get_preds(with_loss=True)
    assert l.shape == (24,) and torch.allclose(l.mean(), torch.tensor(learn.validate()[0]), atol=1e-6)
    assert torch.allclose(p.sum(1), torch.ones(24), atol=1e-5) and torch.allclose(l, -p[range(24), y].log(), atol=1e-5)

# --- rows: one owner (T4) ---------------------------------------------------------------------------------------------
def test_rows_go_back_to_their_owner_T4():
    a,b = Rows(4, 2.),Rows(6, 3., name='rows2')
    learn = tiny_learner([a, b])
    seen = {}
    class Spy(Callback):
        order = 20
        def before_batch(self): self.shape = self.x.shape if self.training else None
        def after_pred(self):
            if self.training: seen['pred'],seen['x'] = len(self.pred),self.shape[0]
    learn.fit(1, cbs=Spy())
    assert seen == dict(pred=16, x=26)
    for t,k in ((a, 4), (b, 6)):
        assert all(n == 16 and len(p) == k for n,p in t.seen) and len(t.seen) == 3
        assert all(torch.allclose(p[0], p[-1], atol=1e-5) for _,p in t.seen)
    assert not torch.allclose(a.seen[0][1][0], b.seen[0][1][0])

def test_rows_of_another_shape_are_refused():
    class Wrong(Technique):
        def rows(self, x): return x[:, :, :4]
        def penalty(self, z, part): return part.sum()
    with pytest.raises(ValueError, match='rows of wrong: expected images of shape'): tiny_learner(Wrong()).fit(1)

def test_many_rows_warn():
    with pytest.warns(RobustWarning, match='rows to batches of 16'): tiny_learner(Rows(80)).fit(1)

def test_penalty_is_trained_recorded_and_seen_T7():
    learn = tiny_learner(Rows(lam=.5))
    rec = []
    class Spy(Callback):
        order = 45
        def after_loss(self):
            if self.training: rec.append((self.loss.item(), self.loss_grad.item()))
    learn.fit(1, cbs=Spy())
    base = tiny_learner(); base.fit(1)
    assert all(abs(a-b) < 1e-6 for a,b in rec)
    mean = float(np.mean([(p**2).mean() for _,p in learn.rows1.seen]))
    names = list(learn.recorder.metric_names)
    assert names == ['epoch', 'train_loss', 'valid_loss', 'accuracy', 'rows1', 'time']
    assert abs(learn.recorder.values[0][3] - mean) < 1e-5      # unweighted mean of the epoch
    assert not torch.equal(params(learn), params(base))
    assert len(learn.validate()) == 2                           # and validate() has no extra column

def test_gradient_accumulation_divides_penalties_T8():
    for n_acc in (16, 64):
        got = []
        class Spy(Callback):
            order = 7
            def after_loss(self, got=got):
                if self.training: got.append((self.loss_grad/self.loss).item())
        tiny_learner(Rows()).fit(1, cbs=[GradientAccumulation(n_acc), Spy()])
        assert np.allclose(got, 16/n_acc, atol=1e-5)

# --- nothing swapped, so nothing to restore ---------------------------------------------------------------------------
@pytest.mark.parametrize('event', ['before_batch', 'after_pred', 'after_loss', 'before_step'])
@pytest.mark.parametrize('mix', [None, MixUp])
def test_ctrl_c_with_and_without_mixup_T1(event, mix):
    learn = tiny_learner(Rows())
    obj = learn.loss_func
    cbs = [Raise(KeyboardInterrupt(), event), *([mix()] if mix else [])]
    with pytest.raises(KeyboardInterrupt): learn.fit(1, cbs=cbs)
    p,_ = learn.get_preds()
    assert learn.loss_func is obj and torch.allclose(p.sum(1), torch.ones(24), atol=1e-5)
    learn.fit(1)
    assert learn.loss_func is obj and len(learn.recorder.values) == 1

@pytest.mark.parametrize('ex', CANCELS)
def test_cancel_exceptions_T1(ex):
    learn = tiny_learner(Rows())
    obj = learn.loss_func
    learn.fit(1, cbs=[Raise(ex()), MixUp()])
    learn.fit(1)
    assert learn.loss_func is obj and not obj.training

def test_two_fits_keep_one_loss_T2():
    learn = tiny_learner([Nothing(), Half()])
    obj = learn.loss_func
    for _ in range(3): learn.fit(1)
    assert learn.loss_func is obj and isinstance(obj.base, CrossEntropyLossFlat)

@pytest.mark.parametrize('mix', [MixUp, CutMix])
def test_mixup_calls_twice_but_state_is_written_once(mix):
    class Count(Technique):
        n,calls = 0,0
        def logits(self, z): Count.calls += 1; return z
        def update(self, batch): Count.n += 1
    Count.n = Count.calls = 0
    tiny_learner(Count()).fit(1, cbs=mix())
    assert Count.n == 3 and Count.calls == 6

def test_mixup_with_a_do_nothing_technique_is_plain_mixup():
    a,b = tiny_learner(),tiny_learner(Nothing())
    for learn in (a, b): set_seed(1); learn.fit(2, cbs=MixUp())
    assert torch.equal(params(a), params(b))

def test_mixup_is_refused_where_samples_are_judged():
    with pytest.raises(ValueError, match='judges each item by its one label'): tiny_learner(Half()).fit(1, cbs=MixUp())

def test_a_new_loss_is_adopted_and_stays_after_removal():
    learn = tiny_learner(Nothing())
    obj,new = learn.loss_func,GCELoss()
    learn.loss_func = new
    learn.fit(1)
    assert learn.loss_func is obj and obj.base is new
    learn.loss_func = nn.CrossEntropyLoss()
    learn.fit(1)
    learn.loss_func = CrossEntropyLossFlat()
    assert torch.isfinite(learn.get_preds(with_loss=True)[2]).all()
    learn.remove_cb(learn.nothing)
    assert isinstance(learn.loss_func, CrossEntropyLossFlat)

def test_shared_default_loss_is_copied_T17():
    dls = tiny_dls()
    shared = dls.train_ds.loss_func
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), cbs=Nothing())
    assert learn.loss_func.base is not shared
    learn.loss_func.reduction = 'sum'
    assert shared.reduction == 'mean'
    learn.loss_func = shared                    # assigned by hand it is no more ours than before
    learn.validate()
    learn.loss_func.reduction = 'sum'
    assert learn.loss_func.base is not shared and shared.reduction == 'mean'
    learn.remove_cb(learn.nothing)
    assert learn.loss_func is shared

def test_function_losses_get_a_reduction_T5():
    before = dict(vars(F.cross_entropy))
    learn = tiny_learner(Nothing(), loss_func=F.cross_entropy)
    assert isinstance(learn.loss_func.base, FuncLoss)
    learn.fit(1)
    p,_,l = learn.get_preds(with_loss=True)
    assert l.shape == (24,) and torch.allclose(p.sum(1), torch.ones(24), atol=1e-5) and vars(F.cross_entropy) == before

def test_a_prediction_never_stays_behind():
    learn = tiny_learner([Rows(), Half()])
    learn.fit(1)
    new = copy.deepcopy(learn)
    new.fit(1)
    learn2 = tiny_learner(Rows())
    with pytest.raises(KeyboardInterrupt): learn2.fit(1, cbs=Raise(KeyboardInterrupt(), 'after_pred'))
    assert learn2.loss_func.batch.heads[0].requires_grad
    assert copy.deepcopy(learn2.loss_func).batch is None        # (fastai's own learn.pred stays until the next fit)

# --- sample ids -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('shuffle,drop_last,bs', [(True, True, 16), (True, False, 10), (False, False, 7)])
def test_ids_are_positions_in_train_ds(shuffle, drop_last, bs):
    got = []
    class Ids(Technique):
        def update(self, batch): got.append((batch.ids.clone(), self.learn.y.clone()))
    learn = tiny_learner(Ids(), dls=tiny_dls(bs=bs, shuffle=shuffle, drop_last=drop_last))
    class Peek(Callback):
        order = 30
        def after_batch(self):
            if self.training: self.learn.dls.train.one_batch()      # replaces the loader's own list mid-epoch
    learn.fit(2, cbs=Peek())
    y = learn.dls.train.dataset.items.y
    assert all(torch.equal(y[i], l.as_subclass(torch.Tensor)) for i,l in got)
    first = torch.cat([i for i,_ in got[:len(got)//2]])
    assert len(set(first.tolist())) == len(first) and (drop_last or len(first) == 48)

def test_batch_idxs_says_when_items_were_skipped():
    class DL: bs = 4
    assert batch_idxs(object(), 0, 4) is None
    with pytest.raises(ValueError, match='skipped items'): batch_idxs(DL(), 1, 4, idxs=[0, 1, 2, 3, 4])

# --- doors ------------------------------------------------------------------------------------------------------------
def test_all_doors_and_back():
    for door in ('cbs', 'add_cb', 'fit'):
        t = Rows()
        learn = tiny_learner(t if door == 'cbs' else None)
        plain = None if door == 'cbs' else learn.loss_func
        if door == 'add_cb': learn.add_cb(t)
        if door == 'fit': learn.fit(1, cbs=t)
        else:
            learn.fit(1)
            assert isinstance(learn.loss_func, Objective)
            learn.remove_cb(t)
        assert t.seen and not isinstance(learn.loss_func, Objective) and (plain is None or learn.loss_func is plain)
        assert not [cb for cb in learn.cbs if isinstance(cb, (ObjectiveCallback, TechniqueColumns, Technique))]
        assert not hasattr(learn, 'objective')
        learn.fit(1)

def test_removal_gives_back_plain_training():
    a,b = tiny_learner(),tiny_learner([Rows(), Half()])
    b.remove_cbs([b.rows1, b.half])
    for learn in (a, b): set_seed(2); learn.fit(1)
    assert torch.equal(params(a), params(b))

def test_one_technique_one_learner():
    t = Nothing()
    a = tiny_learner(t)
    with pytest.raises(ValueError, match='already belongs to a learner'): tiny_learner(t)
    with pytest.raises(ValueError, match='already has Nothing'): a.add_cb(Nothing())
    a.remove_cb(t)
    b = tiny_learner(t)
    assert b.nothing is t and not hasattr(a, 'nothing')

def test_names_of_the_learner_are_not_overwritten_T12():
    class Loss(Technique): pass
    class Model(Technique): pass
    class Fit(Technique): pass
    for t in (Loss, Model, Fit):
        learn = tiny_learner()
        with pytest.raises(ValueError, match='is taken'): learn.add_cb(t())
        assert not hasattr(learn, 'objective')
    with pytest.warns(RobustWarning, match='parameters of its own'):                                   # T14
        class Scaled(CrossEntropy):
            def __init__(self): super().__init__(); self.s = nn.Parameter(torch.ones(1))
        tiny_learner(Nothing(), loss_func=Scaled()).fit(1)

def test_class_weights_of_a_base_a_technique_brings():
    v = torch.tensor([1., 5., .2])
    class Weighted(Technique):
        base_loss = CrossEntropy(weight=v)
        def base(self, z, y): return F.cross_entropy(z, y, weight=v, reduction='none')
    obj = live(tiny_learner(Weighted()).loss_func, Weighted())
    z,y = torch.randn(9, 3),torch.randint(0, 3, (9,))
    assert torch.isclose(obj(z, y), F.cross_entropy(z, y, weight=v))

def test_failed_preparation_leaves_the_learner_as_it_was():
    class Fails(Technique):
        def prepare(self, learn): raise RuntimeError('no')
    learn = tiny_learner()
    loss,n = learn.loss_func,len(learn.cbs)
    with pytest.raises(RuntimeError): learn.add_cb(Fails())
    assert learn.loss_func is loss and len(learn.cbs) == n and not hasattr(learn, 'objective')

def test_lr_find_works_on_a_copy_of_the_state_T16(tmp_path):
    class Counts(Technique):
        def __init__(self): self.n,self.mem = 0,torch.zeros(3)
        def update(self, batch): self.n += 1; self.mem += 1
    learn = tiny_learner(Counts(), path=tmp_path)
    learn.fit(1)
    sd = {k: v.clone() for k,v in learn.model.state_dict().items()}
    mem = learn.counts.mem
    learn.lr_find(num_it=12, show_plot=False)
    assert learn.counts.n == 3 and learn.counts.mem is mem and mem.tolist() == [3., 3., 3.]
    assert all(torch.equal(v, sd[k]) for k,v in learn.model.state_dict().items())
    class Stop(Callback):
        order = 70
        def after_batch(self):
            if self.training and self.iter == 1: raise KeyboardInterrupt
    learn.add_cb(Stop())
    with pytest.raises(KeyboardInterrupt): learn.lr_find(num_it=12, show_plot=False)
    learn.remove_cbs([learn.stop] + [cb for cb in learn.cbs if type(cb).__name__ == 'LRFinder'])
    learn.validate()
    assert learn.counts.n == 3 and learn.counts.mem is mem

def test_announces_itself_once_per_fit(capsys):
    learn = tiny_learner([Half(), Rows()])
    learn.logger = print
    learn.fit(1)
    out = capsys.readouterr().out
    assert out.count('fastrobust: CrossEntropyLossFlat + Half() + Rows(k=4, scale=2.0, lam=1.0)\n') == 1
    learn.validate(); learn.get_preds()
    with learn.no_logging(): learn.fit(1)
    assert 'fastrobust: ' not in capsys.readouterr().out

# --- surgery ----------------------------------------------------------------------------------------------------------
def n_params(learn): return sum(p.numel() for g in learn.opt.param_lists for p in g)

@pytest.mark.parametrize('make', [MiniTwin, MiniAux])
@pytest.mark.parametrize('door', ['cbs', 'add_cb', 'add_cb_late', 'fit'])
def test_surgery_trains_all_its_parameters_through_every_door_T15_T24(make, door):
    t = make()
    learn = tiny_learner(t if door == 'cbs' else None)
    if door == 'add_cb_late': learn.fit(1)
    if door.startswith('add'): learn.add_cb(t)
    if door != 'fit':
        before = {k: v.clone() for k,v in learn.model.named_parameters()}
        learn.fit(1, 1e-2)
        assert n_params(learn) == sum(p.numel() for p in learn.model.parameters())
        assert all(not torch.equal(v, before[k]) for k,v in learn.model.named_parameters() if v.numel() > 1)
        plain = learn.model.nets[0] if make is MiniTwin else learn.model.net
        learn.remove_cb(t)
        assert learn.model is plain
    else:
        net = learn.model
        learn.fit(1, 1e-2, cbs=t)
        assert learn.model is net
    assert not isinstance(learn.splitter, SurgeonSplit)
    learn.fit(1)
    assert n_params(learn) == sum(p.numel() for p in learn.model.parameters())

@pytest.mark.parametrize('first', [MiniTwin, MiniAux])
@pytest.mark.parametrize('gone', [MiniTwin, MiniAux])
def test_two_surgeries_come_off_in_any_order(first, gone):
    other = MiniAux if first is MiniTwin else MiniTwin
    learn = tiny_learner()
    net = learn.model
    learn.add_cbs([first(), other()])
    learn.fit(1)
    learn.remove_cb(gone)
    left = [type(m) for m in learn.model.modules() if isinstance(m, Surgery)]
    assert left == ([AuxNet] if gone is MiniTwin else [TwinNet])
    learn.fit(1)
    assert n_params(learn) == sum(p.numel() for p in learn.model.parameters())
    learn.remove_cbs([cb for cb in learn.cbs if isinstance(cb, Technique)])
    assert learn.model is net and not isinstance(learn.splitter, SurgeonSplit)
    learn.fit(1)

def test_frozen_stays_frozen_under_surgery():
    split = lambda m: [list(m[:3].parameters()), list(m[3:].parameters())]
    learn = tiny_learner(splitter=split)
    learn.freeze()
    learn.add_cb(MiniTwin())
    assert learn.opt.frozen_idx == 1 and len(learn.opt.param_lists) == 2
    before = {k: v.clone() for k,v in learn.model.named_parameters()}
    learn.fit_one_cycle(1, 1e-2)
    moved = {k for k,v in learn.model.named_parameters() if not torch.equal(v, before[k])}
    assert moved == {k for k in before if k.split('.')[2] == '6'}
    learn.fine_tune(1)
    learn.remove_cb(learn.minitwin)
    learn.fit(1)

def test_twin_equals_two_learners():
    learn = tiny_learner(opt_func=SGD, wd=0., moms=None)
    solo = [copy.deepcopy(learn.model)]
    learn.add_cb(MiniTwin())
    solo.append(copy.deepcopy(learn.model.nets[1]))
    set_seed(9); learn.fit(1, .1)
    for net,twin in zip(solo, learn.model.nets):
        one = tiny_learner(opt_func=SGD, wd=0.); one.model = net
        set_seed(9); one.fit(1, .1)
        assert torch.allclose(params(one), torch.cat([p.flatten() for p in twin.parameters()]), atol=1e-6)

@pytest.mark.parametrize('mk', [lambda: Rows(), lambda: MiniAux()])
def test_penalties_reach_both_networks_C14(mk):
    learn = tiny_learner([MiniTwin(), mk()], loss_func=CrossEntropyLossFlat())
    grads = {}
    class Spy(Callback):
        order = 45
        def after_loss(self):
            if self.training and self.iter == 0:
                pen = self.loss_grad - self.learn.loss_func(self.pred, *self.yb).detach()
                ps = list(self.model.parameters())
                grads['g'] = torch.autograd.grad(pen, ps, retain_graph=True, allow_unused=True)
                grads['n'] = [k for k,_ in self.model.named_parameters()]
    base = tiny_learner(MiniTwin())
    class SpyBase(Callback):
        order = 45
        def after_loss(self):
            if self.training and self.iter == 0:
                ps = list(self.model.parameters())
                grads['b'] = torch.autograd.grad(self.loss_grad, ps, retain_graph=True, allow_unused=True)
    set_seed(1); base.fit(1, cbs=SpyBase())
    set_seed(1); learn.fit(1, cbs=Spy())
    plain = dict(zip([k for k,_ in base.model.named_parameters()], grads['b']))
    for i in (0, 1):
        own = [(k, g) for k,g in zip(grads['n'], grads['g']) if k.startswith(f'nets.{i}.')]
        new = lambda k, g: k not in plain or not torch.allclose(g, plain[k], atol=1e-7)
        assert any(g is not None and new(k, g) and g.abs().sum() > 0 for k,g in own)

def test_two_twins_and_two_bases_raise():
    class Twin2(MiniTwin): surgery = None
    class Twin3(MiniTwin): pass
    class B1(Technique):
        def base(self, z, y): return F.cross_entropy(z, y, reduction='none')
    class B2(B1): pass
    with pytest.raises(ValueError, match='both train two networks'):
        learn = tiny_learner(MiniTwin()); learn.add_cb(Twin2()); learn.fit(1)
    learn = tiny_learner(MiniTwin())
    with pytest.raises(ValueError, match='both wrap the network in TwinNet'): learn.add_cb(Twin3())
    assert len(learn.model.nets) == 2       # the first one's surgery is untouched
    with pytest.raises(ValueError, match='both bring their own base loss'): tiny_learner([B1(), B2()]).fit(1)

def test_two_logit_maps_warn():
    class M1(Technique):
        def logits(self, z): return z*.5
    class M2(M1): pass
    with pytest.warns(RobustWarning, match='both change the logits'): tiny_learner([M1(), M2()]).fit(1)

def test_targets_stage_needs_a_loss_that_takes_probabilities():
    class Smooth(Technique):
        def targets(self, q, z): return .9*q + .1/q.shape[1]
    with pytest.raises(ValueError, match='turn labels into probabilities'): tiny_learner(Smooth()).fit(1)
    learn = tiny_learner(Smooth(), loss_func=CrossEntropy())
    learn.fit(1)
    obj = live(learn.loss_func, learn.smooth)
    z,y = torch.randn(5, 3),torch.tensor([0, 1, 2, 0, 1])
    assert torch.isclose(obj(z, y), F.cross_entropy(z, y, label_smoothing=.1), atol=1e-6)

def test_other_tasks_are_refused_early():
    learn = tiny_learner(Half(), loss_func=nn.BCEWithLogitsLoss())
    class Multi(Callback):
        order = -1
        def before_batch(self): self.learn.yb = (F.one_hot(self.y.long(), 3).float(),)
    with pytest.raises(ValueError, match='single-label classification'): learn.fit(1, cbs=Multi())

# --- found by a reviewer ----------------------------------------------------------------------------------------------
def test_another_learners_loss_leaves_its_techniques_there():
    class Big(Technique):
        def logits(self, z): return z*100
    a = tiny_learner(Big())
    b = tiny_learner(Nothing(), loss_func=a.loss_func)
    assert isinstance(b.loss_func.base, CrossEntropyLossFlat) and b.loss_func is not a.loss_func
    with pytest.raises(KeyboardInterrupt): a.fit(1, cbs=Raise(KeyboardInterrupt(), 'before_backward'))
    c = tiny_learner(Nothing())
    c.loss_func = a.loss_func                                        # assigned later, it is the same
    c.validate(); c.remove_cb(c.nothing)
    assert c.loss_func is a.loss_func.base
    z,y = torch.randn(4, 3),torch.tensor([0, 1, 2, 0])
    assert torch.equal(a.loss_func(z, y), F.cross_entropy(z, y))     # an interrupted fit leaves nothing behind

def test_ids_after_a_cancelled_first_batch():
    got = []
    class Ids(Technique):
        def update(self, batch): got.append((batch.ids, self.learn.y.clone()))
    class Skip(Callback):
        def before_batch(self):
            if self.training and self.iter == 0: raise CancelBatchException
    learn = tiny_learner(Ids())
    learn.fit(2, cbs=Skip())
    y = learn.dls.train.dataset.items.y
    assert len(got) == 4 and all(torch.equal(y[i], o.as_subclass(torch.Tensor)) for i,o in got)

def test_settings_changed_after_an_interrupted_lr_find_stay(tmp_path):
    class Stop(Callback):
        order = 70
        def after_batch(self):
            if self.training and self.iter == 1: raise KeyboardInterrupt
    learn = tiny_learner(Rows(), path=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        with learn.added_cbs(Stop()): learn.lr_find(num_it=12, show_plot=False)
    learn.remove_cbs([cb for cb in learn.cbs if type(cb).__name__ == 'LRFinder'])
    learn.rows1.scale = 7.
    learn.fit(1)
    assert learn.rows1.scale == 7. and len(learn.rows1.seen) == 3

def test_loaders_that_do_not_tell_their_items_work_until_someone_asks():
    class Asks(Technique):
        def update(self, batch): _ = batch.ids
    for t in (Half(), Asks()):
        learn = tiny_learner(t)
        dl = learn.dls.train
        dl.get_idxs = lambda: iter(range(48))       # as text's SortedDL
        if isinstance(t, Half): learn.fit(1)
        else:
            with pytest.raises(ValueError, match='says which items'): learn.fit(1)

def test_tuple_inputs_and_tuple_outputs():
    class Pair(Callback):
        order = -5
        def before_batch(self): self.learn.xb = ((self.x, self.x),)
    class Net(nn.Module):
        def __init__(self, net): super().__init__(); self.net = net
        def forward(self, xs): return self.net(xs[0])
    learn = tiny_learner(Half())
    learn.model = Net(learn.model)
    learn.fit(1, cbs=Pair())
    class Both(nn.Module):
        def __init__(self, net): super().__init__(); self.net = net
        def forward(self, x): return self.net(x),x
    learn = tiny_learner(Half())
    learn.model = Both(learn.model)
    with pytest.raises(ValueError, match='expected logits .bs,c. from the model, got a tuple'): learn.fit(1)

def test_silent_no_ops_speak():
    class Typo(Technique):
        def penalties(self, z, part): return z.sum()
    with pytest.warns(RobustWarning, match='overrides no stage'): tiny_learner(Typo()).fit(1)
    learn = tiny_learner(Rows())
    learn.rows1.lam = 0
    with pytest.raises(ValueError, match='rows1.weight` must be positive'): learn.fit(1)
    class Vector(Technique):
        def penalty(self, z, part): return z.sum(1)
    with pytest.raises(ValueError, match='scalar penalty'): tiny_learner(Vector()).fit(1)
    with pytest.raises(ValueError, match='both add the term `jsd`'):
        class A(Rows): column = 'jsd'
        tiny_learner([A(), type('B', (A,), {})(name='b')]).fit(1)

def test_callbacks_that_wrap_the_loss_do_not_recurse():
    class Wrap(Callback):
        order = -3
        def before_fit(self): self.old,self.learn.loss_func = self.learn.loss_func,self.lf
        def after_fit(self): self.learn.loss_func = self.old
        def lf(self, *args): return self.old(*args)*2
    learn = tiny_learner(Half())
    obj = learn.loss_func
    learn.fit(1, cbs=Wrap())
    assert learn.loss_func is obj

def test_attributes_of_the_loss_inside_are_those_of_the_objective():
    base = LabelSmoothingCrossEntropyFlat(eps=.2)
    obj = tiny_learner(Nothing(), loss_func=base).loss_func
    assert obj.func is base.func and obj.axis == base.axis and obj.y_int == base.y_int
    for k in ('nothing_of_the_sort', '__nothing__'): assert not hasattr(obj, k)
    assert copy.deepcopy(obj).func.eps == .2

def test_ensure_objective_twice_is_once():
    learn = tiny_learner()
    assert ensure_objective(learn) is ensure_objective(learn)
