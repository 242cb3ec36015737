"Memorisation: the counts against hand and loops, the callback on plain learners, and that it disturbs nothing"
import pickle
import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np, pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from fastai.callback.core import Callback
from fastai.callback.mixup import MixUp
from fastai.callback import schedule     # noqa: F401 (Learner.fit_one_cycle, lr_find)
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.torch_core import set_seed
from fastai.vision.augment import aug_transforms
from fastrobust.basics import RobustWarning
from fastrobust.data.fromarrays import array_dls
from fastrobust.noise.laws import NoisyLabels
from fastrobust.noise.block import add_label_noise
from fastrobust.labels.memorisation import Memorisation, lower_is_better, measure_memorisation, plot_memorisation
from fastrobust.labels.metrics import memorisation, memorisation_counts, memorised_shares
from fastrobust.reporting.report import Report

# --- the metric ------------------------------------------------------------------------------------------------------
def test_hand_case_21():
    m = memorisation(torch.tensor([0, 2, 2, 0, 2]), torch.tensor([0, 2, 2, 1, 0]), torch.tensor([0, 1, 2, 0, 1]))
    assert m.clean_fit == 1 and m[1:] == pytest.approx([1/3]*3)

@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_against_a_loop_and_sums_to_one(rows):
    right = [(p, g) for p,g,t in rows if g == t]
    wrong = [(p, g, t) for p,g,t in rows if g != t]
    m = memorisation(*(torch.tensor(o) for o in zip(*rows)))
    if right: assert m.clean_fit == sum(p == g for p,g in right)/len(right)
    else: assert np.isnan(m.clean_fit)
    if not wrong: assert np.isnan(m[1:]).all(); return
    want = [sum(p == g for p,g,t in wrong), sum(p == t for p,g,t in wrong), sum(p not in (g, t) for p,g,t in wrong)]
    assert list(m[1:]) == pytest.approx([o/len(wrong) for o in want]) and sum(m[1:]) == pytest.approx(1)

def test_counts_of_batches_add_up_where_their_ratios_would_not():
    pred,given,true = torch.tensor([1, 1, 0, 0, 2]),torch.tensor([1, 1, 1, 0, 0]),torch.tensor([0, 1, 0, 0, 1])
    parts = sum(memorisation_counts(pred[s], given[s], true[s]) for s in (slice(0, 1), slice(1, 5)))
    assert memorised_shares(parts) == memorisation(pred, given, true)
    assert memorisation(pred, given, true).memorised == pytest.approx(1/3)  # the mean of 1/1 and 0/2 is 1/2

def test_logits_and_arrays_are_taken_and_lengths_checked():
    z = torch.eye(3)[[0, 2, 1]]
    assert memorisation(z, np.array([0, 2, 0]), [0, 1, 1]) == (1, .5, .5, 0)
    with pytest.raises(ValueError, match='Select all three alike'):
        memorisation(torch.zeros(3), torch.zeros(2), torch.zeros(3))

# --- the callback ----------------------------------------------------------------------------------------------------
class Lookup(nn.Module):
    "Answers by the image's own number, so its predictions are known; its weight has no say"
    def __init__(self, answers):
        super().__init__()
        self.register_buffer('answers', torch.as_tensor(answers))
        self.w = nn.Parameter(torch.zeros(1))
    def forward(self, x):
        ids = (x[:, 0, 0, 0]*255).round().long()*256 + (x[:, 0, 0, 1]*255).round().long()
        return nn.functional.one_hot(self.answers[ids], 4).float() + 0*self.w

def numbered(n=150, sz=4):
    X = np.zeros((n, sz, sz), np.uint8)
    X[:, 0, 0],X[:, 0, 1] = np.arange(n)//256,np.arange(n)%256
    return X

def noisy_dls(n=150, bs=32, rate=.4, seed=0, **kw):
    y = np.arange(n)%4
    return add_label_noise(array_dls(numbered(n), y, valid=(numbered(40), np.arange(40)%4), bs=bs, normalize=False,
                                     vocab=list('abcd'), **kw), NoisyLabels('symmetric', rate, seed=seed))

def lookup_learner(dls, answers=None, **kw):
    rng = np.random.RandomState(1)
    ans = rng.randint(4, size=400) if answers is None else answers
    return Learner(dls, Lookup(ans), loss_func=CrossEntropyLossFlat(), metrics=accuracy, **kw),ans

def want(dls, ans, ids=None):
    rec = dls.noise
    ids = np.arange(len(rec)) if ids is None else ids
    return memorisation(torch.as_tensor(ans[ids]), rec.y_noisy[ids], rec.y_clean[ids])

def col(learn, name): return [v[learn.recorder.metric_names.index(name)-1] for v in learn.recorder.values]

@pytest.mark.parametrize('source', ['train', 'eval'])
@pytest.mark.parametrize('workers', [0, 2])
def test_exact_on_a_shuffled_loader_of_a_plain_learner(source, workers):
    dls = noisy_dls(drop_last=False, num_workers=workers)
    learn,ans = lookup_learner(dls, cbs=Memorisation(source))
    with learn.no_bar(), learn.no_logging(): learn.fit(2)
    w = want(dls, ans)
    cols = 'epoch train_loss valid_loss accuracy clean_fit memorised recovered time'
    assert list(learn.recorder.metric_names) == cols.split()
    for k in ('clean_fit', 'memorised', 'recovered'): assert col(learn, k) == pytest.approx([getattr(w, k)]*2)
    assert measure_memorisation(learn) == w and 0 < w.memorised < 1

def test_drop_last_counts_what_was_trained_on():
    class Ids(Callback):
        order = 80
        def before_epoch(self): self.seen = []
        def after_pred(self):
            if self.training: self.seen += (self.x[:, 0, 0, 1]*255).round().long().tolist()
    dls = noisy_dls(drop_last=True)
    learn,ans = lookup_learner(dls, cbs=[Memorisation(), ids := Ids()])
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert len(ids.seen) == 128
    w = want(dls, ans, np.array(ids.seen))
    assert learn.memorisation.history[0]['memorised'] == pytest.approx(w.memorised)
    assert w != want(dls, ans)

def small(dls, *cbs):
    set_seed(3)
    net = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(.3),
                        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    return Learner(dls, net, metrics=accuracy, cbs=list(cbs))

@pytest.mark.parametrize('source', ['train', 'eval'])
def test_training_is_bitwise_the_same_with_and_without(source):
    def run(*cbs):
        set_seed(0)
        dls = noisy_dls(batch_tfms=aug_transforms(size=4), shuffle=True)
        learn = small(dls, *cbs)
        with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(3, 1e-2)
        return learn,torch.rand(1),np.random.rand()
    (a,ta,na),(b,tb,nb) = run(),run(Memorisation(source))
    for k,v in a.model.state_dict().items(): assert torch.equal(v, b.model.state_dict()[k]), k
    assert torch.equal(ta, tb) and na == nb and a.recorder.losses == b.recorder.losses
    assert col(a, 'valid_loss') == col(b, 'valid_loss')

def test_a_pass_over_the_training_set_changes_nothing_of_the_learner():
    dls = noisy_dls()
    learn = small(dls, Memorisation())
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    learn.model[3].train(); learn.model[1].eval()
    modes,losses,state = [m.training for m in learn.model.modules()],list(learn.recorder.losses),torch.get_rng_state()
    order = dls.train.rng.getstate()
    measure_memorisation(learn)
    assert modes == [m.training for m in learn.model.modules()] and losses == learn.recorder.losses and losses
    assert torch.equal(state, torch.get_rng_state()) and order == dls.train.rng.getstate()
    assert dls.train_ds.split_idx == 0

def test_the_pass_sees_validation_transforms():
    "a random flip would change what the lookup answers"
    dls = noisy_dls(batch_tfms=aug_transforms(size=4, min_zoom=1.2, max_zoom=1.5))
    learn,ans = lookup_learner(dls)
    a = measure_memorisation(learn)
    assert all(measure_memorisation(learn) == a for _ in range(3)) and a == want(dls, ans)

def test_mixup_is_measured_by_a_pass_and_says_so():
    dls = noisy_dls()
    learn,ans = lookup_learner(dls, cbs=[Memorisation(), MixUp()])
    with learn.no_bar(), learn.no_logging(), pytest.warns(RobustWarning, match='mixed images'): learn.fit(1)
    assert learn.memorisation.history[0]['memorised'] == pytest.approx(want(dls, ans).memorised)
    assert learn.memorisation.seconds > 0

def test_a_second_look_at_the_loader_inside_an_epoch_does_not_mix_up_the_ids():
    class Peek(Callback):
        order = 90
        def before_batch(self):
            if self.training and self.iter == 0: self.learn.dls.train.one_batch()
    dls = noisy_dls(drop_last=False)
    learn,ans = lookup_learner(dls, cbs=[Memorisation(), Peek()])
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert learn.memorisation.history[0]['memorised'] == pytest.approx(want(dls, ans).memorised)

def test_rate_zero_gives_nan_and_open_images_are_left_out():
    dls = noisy_dls(rate=0., drop_last=False)
    learn,ans = lookup_learner(dls, cbs=Memorisation())
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    h = learn.memorisation.history[0]
    assert np.isnan(h['memorised']) and np.isnan(h['recovered'])
    assert h['clean_fit'] == pytest.approx(want(dls, ans).clean_fit)
    dls.noise.is_open[:50] = True
    assert measure_memorisation(learn) == pytest.approx(want(dls, ans, np.arange(50, 150)), nan_ok=True)

def test_fits_add_up_and_lr_find_validate_preds_leave_no_trace(tmp_path):
    dls = noisy_dls(path=tmp_path)
    learn = small(dls, Memorisation())
    with learn.no_bar(), learn.no_logging():
        learn.fit(2); learn.lr_find(num_it=6, show_plot=False)
        learn.validate(); learn.get_preds(); learn.fit(1)
    plt.close('all')
    t = learn.memorisation.table
    assert len(t) == 3 and list(t.index) == [1, 2, 3] and t.notna().all().all()
    state = pickle.loads(pickle.dumps(learn.memorisation))
    assert len(state.history) == 3 and state.labels is None and state.idxs is None
    learn.export('m.pkl')
    assert dls.noise.y_clean.tobytes() not in (tmp_path/'m.pkl').read_bytes()

def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match="'train' .free. or 'eval'"): Memorisation('test')
    clean = array_dls(numbered(64), np.arange(64)%4, valid_pct=.3, bs=16)
    learn = small(clean, Memorisation())
    with learn.no_bar(), pytest.raises(ValueError, match='add_label_noise or NoisyDataBlock'): learn.fit(1)
    with pytest.raises(ValueError, match='add_label_noise'): measure_memorisation(learn)
    with pytest.raises(ValueError, match='got none'): learn.memorisation.plot()
    learn.remove_cb(learn.memorisation)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    dls = noisy_dls()
    learn = small(dls, Memorisation())
    dls.noise.y_noisy = (dls.noise.y_noisy+1)%4
    with learn.no_bar(), learn.no_logging(), pytest.raises(ValueError, match='relabels or reorders'): learn.fit(1)
    dls.noise.y_noisy,dls.noise.y_clean = dls.noise.y_noisy[:9],dls.noise.y_clean[:9]
    dls.noise.is_open = dls.noise.is_open[:9]
    with learn.no_bar(), learn.no_logging(), pytest.raises(ValueError, match='got one of 9'): learn.fit(1)

def test_segmentation_like_predictions_are_refused():
    dls = noisy_dls()
    learn = Learner(dls, nn.Conv2d(1, 4, 1), loss_func=lambda p, y: p.mean(), cbs=Memorisation())
    with learn.no_bar(), learn.no_logging(), pytest.raises(ValueError, match='single-label'): learn.fit(1)

# --- the picture -----------------------------------------------------------------------------------------------------
def test_plot_marks_best_and_last():
    t = dict(clean_fit=[.5, .8, .9], memorised=[.1, .2, .6], recovered=[.4, .6, .3], accuracy=[.5, .8, .6])
    (ax,) = plot_memorisation(pd.DataFrame(t)).axes
    lines = {ln.get_label(): ln for ln in ax.get_lines()}
    assert lines['best epoch (known to an oracle only)'].get_xydata().tolist() == [[2, .8]]
    assert lines['last epoch'].get_xydata().tolist() == [[3, .6]]
    assert {t.get_text() for t in ax.texts} == {'0.800', '0.600'}
    assert lines['wrong labels memorised'].get_ydata() == pytest.approx([.1, .2, .6])
    assert ax.get_title() and ax.get_xlabel() == 'epoch' and ax.get_ylabel()
    plt.close('all')

def test_callback_plots_what_it_recorded():
    learn = small(noisy_dls(), Memorisation())
    with learn.no_bar(), learn.no_logging(): learn.fit(2)
    learn.validate()                                       # wipes the recorder, not our copy
    (ax,) = learn.memorisation.plot().axes
    assert any('last epoch' in ln.get_label() for ln in ax.get_lines())
    plt.close('all')
    assert lower_is_better('error_rate') and not lower_is_better('accuracy')

# --- Report ----------------------------------------------------------------------------------------------------------
def frame():
    return pd.DataFrame({'a': [1., 2.]}, index=pd.Index(['x', 'y'], name='row'))

def draw(rep, **_kw):
    _,ax = plt.subplots()
    ax.plot(rep.table.a)
    return ax

def test_report_saves_tables_and_picture(tmp_path):
    r = Report(frame(), dict(n=2), draw, title='A <title>', notes=['a note'], name='mine')
    out = r.save(tmp_path/'new'/'dir')
    assert [o.name for o in out] == ['mine.csv', 'mine_summary.csv', 'mine.png'] and all(o.stat().st_size for o in out)
    assert pd.read_csv(out[0], index_col=0).equals(frame()) and out[2].read_bytes()[:4] == b'\x89PNG'
    assert 'A &lt;title&gt;' in r._repr_html_() and 'a note' in r._repr_html_()
    assert 'a note' in repr(r) and 'x' in repr(r)
    assert not plt.get_fignums() and r.summary['n'] == 2

def test_report_errors(tmp_path):
    r = Report(frame())
    with pytest.raises(ValueError, match='Look at `.table`'): r.plot()
    (tmp_path/'file').write_text('')
    with pytest.raises(OSError, match='Choose a folder'): r.save(tmp_path/'file')
    with pytest.raises(OSError, match='Choose a folder'): r.save('/proc/no/such')
    (tmp_path/'report.csv').symlink_to('/dev/full')
    with pytest.raises(OSError, match='free space'): r.save(tmp_path)

def test_loader_without_positions_is_refused():
    dls = noisy_dls()
    learn = small(dls, Memorisation())
    with learn.no_bar(), learn.no_logging(), pytest.MonkeyPatch.context() as mp:
        mp.setattr('fastrobust.labels.memorisation.epoch_idxs', lambda dl: None)
        mp.setattr('fastrobust.labels.memorisation.batch_idxs', lambda *a: None)
        with pytest.raises(ValueError, match='iterable one'): learn.fit(1)
        mp.setattr('fastrobust.inference.passes.batch_idxs', lambda *a: None)
        with pytest.raises(ValueError, match='iterable one'): measure_memorisation(learn)
