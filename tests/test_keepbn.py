"A body's statistics stay, a new head's are learned; weights train; nothing is left behind"
import copy
import torch
from torch import nn
from fastai.callback.fp16 import MixedPrecision    # noqa: F401 (fastai.callback.all's order)
from fastrobust.nets import small_cnn
from fastrobust.training.keepbn import KeepBN, has_statistics
from conftest import tiny_dls, tiny_learner

def learner(cbs=None):
    "A body with statistics of its own, and a head whose batch norm is new"
    learn = tiny_learner(cbs, dls=tiny_dls())
    body = small_cnn(8, width=8, depth=2)
    body(torch.rand(40, 1, 8, 8)*3)
    learn.model = nn.Sequential(body, nn.BatchNorm1d(8), nn.Linear(8, 3))
    return learn

def norms(model): return [m for m in model.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]

def test_statistics_of_the_body_stay_and_those_of_the_head_are_learned():
    learn = learner(KeepBN())
    before = copy.deepcopy(norms(learn.model))
    assert [has_statistics(m) for m in before] == [True, True, False]
    learn.fit(2, 1e-2)
    for i,(a,b) in enumerate(zip(before, norms(learn.model))):
        assert torch.equal(a.running_mean, b.running_mean) == (i < 2)
        assert torch.equal(a.running_var, b.running_var) == (i < 2)
        assert not torch.equal(a.weight, b.weight)
    assert norms(learn.model)[2].num_batches_tracked == 2*3
    plain = learner()
    plain.fit(2, 1e-2)
    assert all(m.num_batches_tracked > 2 for m in norms(plain.model))

def test_a_step_of_no_size_changes_nothing():
    "What a closed-form head stands on: without it, training at a rate of 0 changes the predictions"
    for cbs,same in ((KeepBN(), True), (None, False)):
        learn = learner(cbs)
        learn.model = nn.Sequential(learn.model[0], nn.Linear(8, 3))
        with learn.no_bar(): before = learn.get_preds()[0]
        learn.fit(1, 0.)
        with learn.no_bar(): assert torch.equal(learn.get_preds()[0], before) == same

def test_it_acts_in_training_and_leaves_nothing():
    seen = []
    class Look(nn.Module):
        def forward(self, x):
            seen.append((self.training, norms(learn.model)[0].training))
            return x
    learn = learner()
    learn.model = nn.Sequential(Look(), *learn.model)
    learn.fit(1, 1e-3, cbs=KeepBN())
    assert seen[:3] == [(True, False)]*3 and seen[-1] == (False, False)
    learn.fit(1, 1e-3)
    assert (True, True) in seen and not any(isinstance(cb, KeepBN) for cb in learn.cbs)
    cb = KeepBN()
    learn.fit(1, 1e-3, cbs=cb)
    assert cb.kept == ()
