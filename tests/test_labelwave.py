"LabelWave: curves by hand, then fits whose predictions are known, so that the epoch to stop at is known too"
import copy, pickle
import numpy as np
import pytest
import torch
from torch import nn
from fastai.callback.core import Callback, CancelEpochException
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.mixup import MixUp
from fastai.callback.schedule import ParamScheduler, SchedNo
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from fastai.callback.training import GradientAccumulation
from fastai.imports import noop
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.optimizer import OptimWrapper
from fastai.torch_core import set_seed
from fastai.vision.augment import aug_transforms
from conftest import MiniTwin, tiny_dls, tiny_learner
from fastrobust.basics import RobustWarning
from fastrobust.data.fromarrays import array_dls
from fastrobust.labels.history import SampleHistory
from fastrobust.labels.labelwave import LabelWave, changed_share, first_minimum, moving_average
from fastrobust.techniques.augmix import AugMix

nan = np.nan

# --- the curve -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('values,patience,want', [
    ([5, 4, 3, 4, 5, 6], 1, (2, True)),             # a valley
    ([5, 4, 3, 4, 5, 6], 3, (2, True)),
    ([5, 4, 3, 4, 5], 3, (2, False)),               # one short of the patience
    ([5, 4, 3, 2, 1], 1, (4, False)),               # still falling
    ([5, 3, 4, 2, 3, 4, 1], 1, (1, True)),          # the first of several, though others are lower
    ([5, 3, 4, 2, 3, 4, 1], 2, (3, True)),
    ([5, 3, 4, 2, 3, 4, 1], 3, (6, False)),
    ([5, 3, 3, 3], 2, (1, True)),                   # a plateau: its first epoch
    ([5, 3, 3, 2, 2, 2], 2, (3, True)),             # a step, then a plateau
    ([0, 0, 0], 2, (0, True)),
    ([1, 2, 3], 2, (0, True)),                      # rising from the start
    ([nan, nan, 5, 3, 4, 4], 2, (3, True)),         # as a curve begins
    ([nan, 3, nan, 4, nan, 4], 2, (1, True)),       # gaps neither confirm nor break
    ([nan, 3, nan, nan], 1, (1, False)),
    ([nan, nan], 1, (None, False)),
    ([], 1, (None, False)),
])
def test_first_minimum_by_hand(values, patience, want): assert first_minimum(np.array(values, float), patience) == want

def test_the_average_looks_back():
    v = [nan, 6, 3, 0, 3, 9]
    assert moving_average(v, 1) == pytest.approx(v, nan_ok=True)
    assert moving_average(v, 2) == pytest.approx([nan, nan, 4.5, 1.5, 1.5, 6], nan_ok=True)
    assert moving_average(v, 3) == pytest.approx([nan, nan, nan, 3, 2, 4], nan_ok=True)
    assert np.isnan(moving_average(v, 6)).all() and len(moving_average([], 3)) == 0 and len(moving_average(v, 9)) == 6
    assert moving_average([4, 2, 2], 2) == pytest.approx([nan, 3, 2], nan_ok=True)
    assert moving_average([4, nan, 2, 2], 2) == pytest.approx([nan, nan, nan, 2], nan_ok=True)

def test_changes_are_counted_among_items_seen_both_times():
    a,b = np.array([0, 1, 2, -1, 1, 0]),np.array([0, 2, 2, 1, -1, 1])
    assert changed_share(a, b) == 2/4 and changed_share(a, a) == 0
    assert np.isnan(changed_share(np.array([-1, 1]), np.array([0, -1])))

# --- a fit whose predictions are known -------------------------------------------------------------------------------
N = 40
class Table(nn.Module):
    "Predicts what a table says of each item in each epoch, more or less surely: it trains, and changes no prediction"
    def __init__(self, preds):
        super().__init__()
        self.register_buffer('Z', nn.functional.one_hot(torch.as_tensor(preds), 2).float())
        self.w,self.e = nn.Parameter(torch.zeros(3)),0
    def forward(self, x):
        return self.Z[self.e % len(self.Z)][(x[:,0,0,0]*255).round().long()]*self.w.sum().exp()

class Tick(Callback):
    order = 90
    def before_fit(self):
        if not self.learn.lock.locked(): self.learn.model.e = 0
    def before_epoch(self): self.learn.model.e = self.epoch

class Keep(Callback):
    "Weights and optimizer of each epoch"
    order = 59
    def before_fit(self):
        if not self.learn.lock.locked(): self.seen = []
    def after_epoch(self):
        if not self.learn.lock.locked(): self.seen.append(copy.deepcopy(state(self.learn)))

def flips(counts):
    "Predictions of which so many change from each epoch to the next"
    p = [np.arange(N)%2]
    for c in counts: p.append(np.where(np.arange(N) < c, 1-p[-1], p[-1]))
    return np.array(p)

VALLEY = [20, 12, 8, 6, 9, 10, 12, 12, 3, 1]    # from epoch 1 on: fewest first in epoch 4; means of 3 in epoch 5
MEANS = [nan]*3 + [40/3, 26/3, 23/3, 25/3, 31/3, 34/3, 9, 16/3]

def waved(counts, cbs, path=None, **kw):
    X = np.zeros((N, 4, 4), np.uint8)
    X[:,0,0] = np.arange(N)
    set_seed(1)
    dls = array_dls(X, np.arange(N)//2%2, valid=(X, np.arange(N)%2), bs=8, normalize=False, vocab=list('ab'),
                    shuffle=False, drop_last=False, device='cpu')
    learn = Learner(dls, Table(flips(counts)), loss_func=CrossEntropyLossFlat(), metrics=accuracy,
                    cbs=[Tick(), *cbs], lr=1e-2, **kw)
    if path: learn.path = path
    learn.remove_cb(learn.progress)
    learn.logger = noop
    return learn

def same(a, b):
    "Are two nested states equal, bit by bit?"
    if isinstance(a, torch.Tensor): return torch.equal(a, b)
    if isinstance(a, dict): return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if hasattr(a, '__len__') and not isinstance(a, str): return len(a) == len(b) and all(map(same, a, b))
    return a == b

def state(learn): return learn.model.state_dict(),learn.opt.state_dict()

@pytest.mark.parametrize('source', ['train', 'eval'])
@pytest.mark.parametrize('k,patience,chosen,last', [(1, 1, 4, 5), (1, 3, 4, 7), (3, 1, 5, 6), (3, 3, 5, 8)])
def test_stops_where_it_should_and_gives_that_epoch_back(k, patience, chosen, last, source):
    learn = waved(VALLEY, [lw := LabelWave(k, patience, source=source), keep := Keep()])
    learn.fit(11)
    assert learn.epoch == last and len(learn.recorder.values) == last+1 and lw.epoch == chosen and lw.sure
    assert lw.changes == pytest.approx(([nan]+[c/N for c in VALLEY])[:last+1], nan_ok=True)
    if k == 3: assert lw.smoothed == pytest.approx([v/N for v in MEANS[:last+1]], nan_ok=True)
    assert same(state(learn), keep.seen[chosen]) and not same(state(learn), keep.seen[chosen+1])
    assert not torch.equal(learn.model.w, torch.zeros(3))
    assert lw.kept is None and lw.before is None and not lw.active
    assert all(p.grad is None or not p.grad.any() for p in learn.model.parameters())

def test_training_goes_on_as_if_it_had_stopped_there():
    a,b = waved(VALLEY, [LabelWave(1, 2)]),waved(VALLEY, [])
    a.fit(11); b.fit(5)
    assert same(state(a), state(b))
    with pytest.warns(RobustWarning, match='saw no minimum'): a.fit(2)
    b.fit(2)
    assert same(state(a), state(b)) and len(a.label_wave.changes) == 2      # each fit has a curve of its own

def test_optimizers_of_torch_come_back_too():
    def adam(params, lr, **_): return OptimWrapper(params, torch.optim.Adam, lr=lr)
    learn = waved(VALLEY, [LabelWave(1, 2), keep := Keep()], opt_func=adam)
    learn.fit(11)
    assert same(state(learn), keep.seen[4]) and not same(state(learn), keep.seen[6])
    with pytest.warns(RobustWarning, match='chose no epoch'): learn.fit(1)

def test_no_gradient_of_a_later_epoch_is_left():
    learn = waved(VALLEY, [LabelWave(1, 2), GradientAccumulation(24), keep := Keep()])     # 7 epochs are 11 2/3 steps
    learn.fit(11)
    assert learn.model.w.grad is not None and not learn.model.w.grad.any() and same(state(learn), keep.seen[4])

def test_to_the_end_the_choice_is_the_same():
    learn = waved(VALLEY, [lw := LabelWave(stop=False), keep := Keep()])
    learn.fit(11)
    assert len(learn.recorder.values) == 11 and lw.epoch == 5 and lw.sure       # epochs 9 and 10 are lower, and later
    assert lw.smoothed == pytest.approx([v/N for v in MEANS], nan_ok=True)
    assert same(state(learn), keep.seen[5])

def test_nothing_is_kept_where_nothing_is_put_back():
    learn = waved(VALLEY, [lw := LabelWave(restore=False), keep := Keep()])
    learn.fit(11)
    assert lw.epoch == 5 and learn.epoch == 8 and same(state(learn), keep.seen[8])

def test_what_is_said(capsys):
    for restore,says in ((True, 'whose weights are back'), (False, 'the weights are those of the last')):
        learn = waved(VALLEY, [LabelWave(restore=restore)])
        learn.fit(11)
        assert not capsys.readouterr().out
        learn.logger = print
        learn.fit(11)
        assert f'first minimum in epoch 5, {says}' in capsys.readouterr().out

def test_no_minimum_is_said_and_the_last_epoch_stays():
    learn = waved([20, 16, 12, 8, 4, 2], [lw := LabelWave(1), keep := Keep()])
    with pytest.warns(RobustWarning, match='saw no minimum in 7 epochs.*Train longer; where few labels'): learn.fit(7)
    assert lw.epoch == 6 and not lw.sure and same(state(learn), keep.seen[6])

def test_a_minimum_too_late_to_be_confirmed_is_put_back_and_doubted():
    learn = waved([20, 16, 4, 8, 8], [lw := LabelWave(1), keep := Keep()])
    with pytest.warns(RobustWarning, match='in epoch 3, whose weights are back, and only 2 of 3 epochs'): learn.fit(6)
    assert lw.epoch == 3 and not lw.sure and same(state(learn), keep.seen[3])

def test_a_fit_too_short_is_left_as_it_is():
    learn = waved(VALLEY, [lw := LabelWave(), keep := Keep()])
    with pytest.warns(RobustWarning, match='mean of 3 changes takes 4 epochs, and this fit had 3'): learn.fit(3)
    assert lw.epoch is None and same(state(learn), keep.seen[2])

# --- beside others ---------------------------------------------------------------------------------------------------
class Raise(Callback):
    order = -60
    def __init__(self, ex, at): self.ex,self.at = ex,at
    def before_batch(self):
        if self.training and (self.epoch, self.iter) == self.at: raise self.ex()

def test_ctrl_c_leaves_a_whole_learner(tmp_path):
    learn = waved(VALLEY, [lw := LabelWave(1, 2), keep := Keep()], path=tmp_path)
    with pytest.raises(KeyboardInterrupt): learn.fit(11, cbs=Raise(KeyboardInterrupt, (3, 2)))
    assert len(lw.changes) == 3
    learn.validate(); learn.get_preds(); learn.export('m.pkl')
    assert len(lw.changes) == 3 and lw.active and lw.kept       # nobody said that the fit is over
    back = load_learner(tmp_path/'m.pkl').label_wave
    assert not back.active and back.kept is None and back.before is None and len(back.changes) == 3
    learn.fit(11)
    assert lw.epoch == 4 and learn.epoch == 6 and same(state(learn), keep.seen[4])
    with pytest.raises(KeyboardInterrupt): learn.fit(11, cbs=Raise(KeyboardInterrupt, (1, 0)))
    learn.dls = tiny_dls(c=2, normalize=False)              # other items: its own history begins anew
    learn.model.Z = learn.model.Z[:, torch.zeros(256).long()]
    with pytest.warns(RobustWarning, match='chose no epoch'): learn.fit(1)

def test_other_epochs_are_skipped():
    learn = waved(VALLEY, [lw := LabelWave(1, 2), keep := Keep()])
    learn.fit(11, start_epoch=2)
    assert lw.changes == pytest.approx([nan]*3 + [c/N for c in VALLEY[2:6]], nan_ok=True)
    assert lw.epoch == 4 and learn.epoch == 6 and same(state(learn), keep.seen[4])
    learn.fit(11, cbs=Raise(CancelEpochException, (2, 0)))      # what it had predicted before it does in the next
    assert lw.changes[:5] == pytest.approx([nan, 20/N, nan, lw.changes[3], 6/N], nan_ok=True)

def test_neither_lr_find_nor_preds_inside_a_fit_disturb(tmp_path):
    class Look(Callback):
        order = 61
        def after_epoch(self):
            if not self.learn.lock.locked(): self.learn.get_preds()
    learn = waved(VALLEY, [lw := LabelWave(1, 2), keep := Keep()], path=tmp_path)
    learn.fit(11, cbs=Look())
    assert lw.epoch == 4 and len(lw.changes) == 7 and same(state(learn), keep.seen[4])
    curve = lw.changes
    learn.lr_find(num_it=8, show_plot=False)
    learn.validate()
    assert np.array_equal(lw.changes, curve, equal_nan=True) and not lw.active

def test_the_learners_own_history_is_used():
    learn = waved(VALLEY, [h := SampleHistory('eval'), lw := LabelWave(1, 2), keep := Keep()])
    learn.fit(11)
    assert lw.history is h and len(h.rows) == 7 and lw.own.rows == [] and same(state(learn), keep.seen[4])
    with pytest.warns(RobustWarning, match='saw no minimum'): learn.fit(4)      # it goes on, the curve does not
    assert len(h.rows) == 11 and len(lw.changes) == 4
    learn.remove_cb(h)
    learn.fit(11)
    assert lw.history is lw.own and len(lw.own.rows) == 7 and lw.epoch == 4
    assert lw.history.preds == pytest.approx(flips(VALLEY)[:7]) and len(lw.history.table(warn=False)) == N
    learn.add_cb(SampleHistory(every=2))
    with pytest.raises(ValueError, match=r'every=1.*got every=2'): learn.fit(1)

@pytest.mark.parametrize('at_end', [False, True])
def test_saving_the_best_by_validation_beside_it(tmp_path, at_end):
    "Its weights are the last to be put back, and are there before a model is saved at the end"
    for cbs in ([LabelWave(), SaveModelCallback('accuracy', at_end=at_end)],
                [SaveModelCallback('accuracy', at_end=at_end), LabelWave()]):
        learn = waved(VALLEY, [*cbs, keep := Keep()], path=tmp_path)
        learn.fit(11)
        assert learn.label_wave.epoch == 5 and same(state(learn), keep.seen[5])
        saved = torch.load(tmp_path/'models/model.pth', weights_only=False)
        best = max(range(9), key=lambda e: learn.recorder.values[e][2])
        assert best != 5 and same(saved, keep.seen[5 if at_end else best][0])
        learn.label_wave.stop = False
        learn.fit(11)
        assert same(state(learn), keep.seen[5])
        if at_end: assert same(torch.load(tmp_path/'models/model.pth', weights_only=False), keep.seen[5][0])

def test_another_callback_that_stops():
    stop = EarlyStoppingCallback('valid_loss', min_delta=9., patience=6)
    learn = waved(VALLEY, [LabelWave(1), keep := Keep(), stop])
    with pytest.warns(RobustWarning, match='in epoch 4, whose weights are back, and only 1 of 3'): learn.fit(11)
    assert learn.epoch == 6 and same(state(learn), keep.seen[4])

def schedule_warnings(learn, fit):
    with pytest.warns(RobustWarning) as found: fit(learn)
    said = [str(o.message) for o in found]
    assert sum('schedule' not in o for o in said) <= 1      # a fit says one thing at its end
    return [o for o in said if 'schedule' in o]

def test_a_schedule_that_anneals_is_warned_of_at_the_door():
    def flat(learn): learn.fit(2, cbs=ParamScheduler(dict(lr=SchedNo(1e-3, 1e-3))))
    def mom(learn): learn.fit(2, cbs=ParamScheduler(dict(mom=SchedNo(.9, .1))))
    for fit,left in ((lambda l: l.fit_one_cycle(2), '1e-05'), (lambda l: l.fit_flat_cos(2), '1e-05'),
                     (lambda l: l.fit(2), None), (flat, None), (mom, None)):
        found = schedule_warnings(tiny_learner(LabelWave()), fit)
        assert len(found) == (left is not None)
        if left: assert f'ends at {left}' in found[0] and 'Train at a constant rate' in found[0]

def test_fine_tune_is_two_fits():
    learn = tiny_learner(lw := LabelWave(1, 1), splitter=lambda m: [list(m[:2].parameters()), list(m[2:].parameters())])
    found = schedule_warnings(learn, lambda l: l.fine_tune(1))
    assert len(found) == 1
    found = schedule_warnings(learn, lambda l: l.fine_tune(3))
    assert len(found) == 1 and 1 < len(lw.changes) <= 3     # the frozen epoch before it: not a word
    learn.freeze()
    with pytest.warns(RobustWarning, match='LabelWave'): learn.fit(2)   # a long frozen fit is one like others

def small(*cbs):
    set_seed(3)
    dls = tiny_dls(batch_tfms=aug_transforms(size=8))
    net = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(.3),
                        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    learn = Learner(dls, net, metrics=accuracy, loss_func=CrossEntropyLossFlat(), cbs=list(cbs))
    learn.remove_cb(learn.progress)
    learn.logger = noop
    return learn

@pytest.mark.filterwarnings('ignore:LabelWave')
@pytest.mark.parametrize('source', ['train', 'eval'])
def test_training_is_bitwise_the_same_with_and_without(source):
    def run(*cbs):
        learn = small(*cbs)
        set_seed(0)
        learn.fit(4, 1e-2)
        return learn,torch.rand(1),np.random.rand()
    (a,ta,na),(b,tb,nb) = run(),run(LabelWave(1, 1, restore=False, stop=False, source=source))
    assert same(state(a), state(b)) and torch.equal(ta, tb) and na == nb and a.recorder.losses == b.recorder.losses
    (c,tc,nc),e = run(lw := LabelWave(1, 4, source=source), keep := Keep()),lw.epoch
    assert same(state(c), keep.seen[e]) and torch.equal(ta, tc) and na == nc       # putting back draws nothing either

@pytest.mark.filterwarnings('ignore:LabelWave', 'ignore:mix_up', 'ignore:.*CUDA', 'ignore:.*cuda')
@pytest.mark.parametrize('make', [MiniTwin, AugMix, MixUp, lambda: GradientAccumulation(24),
                                  lambda: MixedPrecision('bf16')], ids='twin augmix mixup accumulation bf16'.split())
def test_company(make):
    learn = tiny_learner([make(), lw := LabelWave(1, 1), keep := Keep()])
    learn.fit(6, 1e-2)
    assert np.isnan(lw.changes).tolist() == [True] + [False]*(len(lw.changes)-1)
    assert same(state(learn)[0], keep.seen[lw.epoch][0])
    assert {p.dtype for p in learn.model.parameters()} == {torch.float32}
    learn.fit(1)

def test_pickle_deepcopy_export_remove(tmp_path):
    learn = waved(VALLEY, [lw := LabelWave(1, 2)], path=tmp_path)
    learn.fit(11)
    assert np.array_equal(pickle.loads(pickle.dumps(lw)).changes, lw.changes, equal_nan=True)
    twin = copy.deepcopy(learn)
    assert twin.label_wave.own.learn is twin
    twin.fit(9)
    assert twin.label_wave.epoch == 4 and twin.label_wave.own is not lw.own
    given = lw.history.given.tobytes()
    learn.export('m.pkl')
    back = load_learner(tmp_path/'m.pkl').label_wave
    assert back.epoch == 4 and back.own.rows == [] and given not in (tmp_path/'m.pkl').read_bytes()
    assert len(lw.own.rows) == 7                                # ours stays
    learn.remove_cb(lw)
    assert lw.learn is None and lw.own.learn is None and not hasattr(learn, 'label_wave') and lw.epoch == 4
    learn.fit(1)
    learn.fit(11, cbs=(once := LabelWave(1, 2)))
    assert once.epoch == 4 and not hasattr(learn, 'label_wave')

TWO_RANKS = '''
import torch.distributed as dist
import numpy as np
from fastrobust.labels.labelwave import _of_all_ranks
dist.init_process_group('gloo')
mine = np.array([[0, -1, 2, -1, -1], [-1, 1, -1, 0, -1]], np.int32)[dist.get_rank()]
seen = mine.copy()
assert _of_all_ranks(mine).tolist() == [0, 1, 2, 0, -1] and (mine == seen).all()
dist.destroy_process_group()
'''

@pytest.mark.slow
def test_two_processes_know_all_items(tmp_path):
    from test_distributed import run_ranks
    run_ranks(TWO_RANKS, tmp_path)

def test_what_the_other_process_saw_decides_too(monkeypatch):
    learn = waved([20, 20, 20, 20], [lw := LabelWave(1, 9, stop=False)])
    def other(t, _op): t[:30] = 1       # sees always the same
    monkeypatch.setattr('fastrobust.labels.labelwave.num_distrib', lambda: 2)
    monkeypatch.setattr('fastrobust.labels.labelwave.dist.get_backend', lambda: 'gloo')
    monkeypatch.setattr('fastrobust.labels.labelwave.dist.all_reduce', other)
    with pytest.warns(RobustWarning): learn.fit(3)
    assert lw.changes == pytest.approx([nan, 0, 0], nan_ok=True) and (lw.history.preds == flips([20, 20])).all()

# --- the picture, and what is refused --------------------------------------------------------------------------------
def test_picture():
    learn = waved(VALLEY, [lw := LabelWave()])
    with pytest.raises(ValueError, match='at least two epochs to plot, got 0'): lw.plot()
    learn.fit(11)
    ax = lw.plot().axes[0]
    by_label = {o.get_label(): o.get_ydata() for o in ax.get_lines()}
    assert by_label['from one epoch to the next'] == pytest.approx(100*lw.changes, nan_ok=True)
    assert by_label['mean of 3'] == pytest.approx(100*lw.smoothed, nan_ok=True)
    assert by_label['first minimum: epoch 5'] == pytest.approx([100*23/3/N])
    assert lw.plot(ax, title='here') is ax.figure and ax.get_title() == 'here'
    with pytest.warns(RobustWarning, match='chose no epoch'): learn.fit(2)
    assert not any('epoch 1' in str(o.get_label()) for o in lw.plot().axes[0].get_lines())

def test_bad_settings():
    for bad in (0, -1, 1.5, True, None):
        with pytest.raises(ValueError, match=r'`k` must be a whole number from 1 on .epochs., got'): LabelWave(k=bad)
        with pytest.raises(ValueError, match=r'`patience` must be a whole number from 1 on .epochs., got'):
            LabelWave(patience=bad)
    with pytest.raises(ValueError, match="'train' .free. or 'eval'"): LabelWave(source='valid')
