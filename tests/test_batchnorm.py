"BatchNorm by the batch: a slow loop over the same batches, in passes and as a column of corruption_report"
import copy, csv
import numpy as np, pandas as pd
import pytest, torch
from torch import nn
from fastai.callback.fp16 import MixedPrecision
from fastai.data.load import DataLoader
from fastai.torch_core import TensorImage
from conftest import MiniAux, MiniTwin, tiny_arrays, tiny_learner
from fastrobust.data.fromarrays import array_dls
from fastrobust.inference.batchnorm import batch_passes, batch_statistics, even_batches, norm_layers
from fastrobust.inference.passes import passes, shifted_preds
from fastrobust.shift import corruptionreport as module
from fastrobust.shift.charts import BY_BATCH, plot_corruption_bars
from fastrobust.shift.corruptionreport import corruption_report
from fastrobust.shift.publishedarrays import CorruptedArrays
from fastrobust.shift.result import compare_reports
from test_shifted import snapshot

NAMES = ('shot_noise', 'fog', 'saturate')

class Head(nn.Module):
    "Features, batch norm in one dimension, dropout, classes: as fastai's heads"
    def __init__(self, c=3):
        super().__init__()
        self.conv,self.bn = nn.Conv2d(3, 6, 3, stride=2),nn.BatchNorm2d(6)
        pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.end = nn.Sequential(*pool, nn.BatchNorm1d(6), nn.Dropout(.5), nn.Linear(6, c))
    def forward(self, x): return self.end(self.bn(self.conv(x)).relu())

def learner(n=150, bs=16, net=None, cbs=None, **kw):
    X,y = tiny_arrays(n, channels=3, seed=1)
    y[:3] = range(3)
    dls = array_dls(X, y, valid=(X, y), bs=bs, vocab=[0, 1, 2], device='cpu', **kw)
    learn = tiny_learner(cbs, dls=dls, norm='bn')
    if net is not None: learn.model = net
    with learn.no_bar(): learn.fit(1, 1e-2)
    return learn

def reference(learn, change, batches):
    "Logits, batch by batch, of a copy whose BatchNorm layers alone are in training mode"
    net,it = copy.deepcopy(learn.model).eval(),learn.dls.valid_ds.items
    for m in net.modules():
        if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)): m.train()
    t = next(t for t in learn.dls.valid.after_batch.fs if hasattr(t, 'mean'))
    z = torch.zeros(len(it.y), 3)
    for b in batches:
        x = it.x[b].float()/255
        if change: x = change(x, b)
        with torch.no_grad(): z[b] = net((x.as_subclass(torch.Tensor)-t.mean)/t.std).as_subclass(torch.Tensor)
    return z

def darker(x, ids): return (x*(1-ids.view(-1, 1, 1, 1)/400)).clamp(0, 1)

def fake(x, name, severity, ids, **_kw):
    "A corruption in a line: another brightness and contrast, and noise of each image's own"
    g = torch.Generator().manual_seed(sum(map(ord, name))*10 + severity)
    noise = torch.rand(400, *x.shape[1:], generator=g)[ids]
    return (.1*severity + x*(1-.18*severity) + .1*noise).clamp(0, 1)

@pytest.fixture
def quick(monkeypatch):
    calls = []
    def counted(x, name, severity, **kw):
        calls.append((name, severity, len(x)))
        return fake(x, name, severity, **kw)
    monkeypatch.setattr(module, 'corrupt', counted)
    return calls

# --- passes ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('bs', [7, 64, 200])
@pytest.mark.parametrize('net', [None, Head])
def test_passes_are_a_loop_over_the_batches(bs, net):
    learn = learner(bs=bs, net=net and net())
    batches,ticks = even_batches(150),[]
    (a,b),y = batch_passes(learn, None, [None, darker], batches, 'me', lambda: ticks.append(1))
    assert [len(o) for o in batches] == [75, 75] and len(ticks) == 2*2
    torch.testing.assert_close(a, reference(learn, None, batches), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(b, reference(learn, darker, batches), atol=1e-5, rtol=1e-5)
    plain,t = passes(learn, None, [None, darker], 'me')
    assert torch.equal(y, t) and not torch.allclose(a, plain[0]) and not torch.allclose(b, plain[1])

def test_batches_are_even_fixed_and_shuffled():
    for n,bs,want in ((64, 64, [64]), (127, 64, [127]), (128, 64, [64, 64]), (1000, 64, [67]*10+[66]*5)):
        state = torch.get_rng_state()
        got = even_batches(n, bs)
        assert [len(o) for o in got] == want and sorted(torch.cat(got).tolist()) == list(range(n))
        assert torch.equal(torch.get_rng_state(), state)
        for a,b in zip(got, even_batches(n, bs)): assert torch.equal(a, b)
    assert (torch.cat(even_batches(1000))[:500] < 500).float().mean().sub(.5).abs() < .1

def test_layers_of_others_take_part_and_come_back():
    timm = pytest.importorskip('timm')
    act = timm.layers.BatchNormAct2d(4)
    off = nn.BatchNorm2d(4, track_running_stats=False)
    net = nn.Sequential(act, off, nn.InstanceNorm2d(4, track_running_stats=True), nn.Dropout()).eval()
    assert norm_layers(net) == [act]
    x = torch.randn(70, 4, 5, 5)*3 + 1
    with batch_statistics(net):
        want = (x-x.mean((0, 2, 3), keepdim=True))/x.var((0, 2, 3), unbiased=False, keepdim=True).add(act.eps).sqrt()
        torch.testing.assert_close(act(x), want.relu(), atol=1e-5, rtol=1e-5)
        assert not net[2].training and not net[3].training
    assert not any(m.training for m in net.modules()) and act.track_running_stats
    assert act.running_mean.eq(0).all() and act.num_batches_tracked == 0

@pytest.mark.parametrize('cbs', [MiniTwin, MiniAux, lambda: MixedPrecision('bf16')])
def test_techniques_and_mixed_precision(cbs):
    learn = learner(cbs=cbs())
    batches = even_batches(150)
    (z,),_ = batch_passes(learn, None, [darker], batches, 'me')
    torch.testing.assert_close(z, reference(learn, darker, batches), atol=1e-5, rtol=1e-5)

class Stop(Exception): pass

def flags(learn):
    return [(m.training, m.track_running_stats, m.momentum, len(m._forward_hooks), len(m._forward_pre_hooks))
            for m in norm_layers(learn.model)]

@pytest.mark.parametrize('error', [None, KeyboardInterrupt, Stop])
def test_everything_is_left_as_it_was(error):
    learn = learner(net=Head())
    learn.model.train()
    learn.model.bn.eval()
    def change(x, ids):
        if error is not None: raise error('stop')
        return darker(x, ids)
    before,old = snapshot(learn),flags(learn)
    if error is None: batch_passes(learn, None, [change], even_batches(150), 'me')
    else:
        with pytest.raises(error): batch_passes(learn, None, [change], even_batches(150), 'me')
    after = snapshot(learn)
    for k in before: assert before[k] == after[k], k
    assert flags(learn) == old

def test_a_loader_of_some_items_and_one_that_streams():
    learn = learner()
    some = list(range(140, 70, -1))
    part = learn.dls.valid.new(get_idxs=lambda: some, n=70)
    (z,),y = batch_passes(learn, part, [None], even_batches(70), 'me')
    assert torch.equal(y, learn.dls.valid_ds.items.y[some].long())
    (plain,),t = passes(learn, part, [None], 'me')
    assert torch.equal(t, y) and z.shape == plain.shape
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self): return iter([(TensorImage(torch.rand(3, 8, 8)), 0)]*70)
    with pytest.raises(ValueError, match='me expected a loader whose items have positions'):
        batch_passes(learn, DataLoader(Stream(), bs=8), [None], even_batches(70), 'me')
    sizes = DataLoader([(TensorImage(torch.rand(3, 8, 8+i%2)), 0) for i in range(70)], bs=1)
    with pytest.raises(ValueError, match='me expected images of one size'):
        batch_passes(learn, sizes, [None], even_batches(70), 'me')

# --- the report ------------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures('quick')
def test_the_column_and_the_summary_by_hand():
    learn = learner(net=Head())
    plain = corruption_report(learn, names=NAMES, severities=(1, 4))
    rep = corruption_report(learn, names=NAMES, severities=(1, 4), bn_batch=64)
    assert list(rep.table.columns) == ['group', 1, 4, 'mean', 'se', 'error_bn', 'ece', 'rms_ce']
    pd.testing.assert_frame_equal(rep.table.drop(columns='error_bn'), plain.table)
    pd.testing.assert_frame_equal(rep.wrong, plain.wrong)
    assert plain.errors_bn is None and not [k for k in plain.summary.index if 'bn' in k]
    y,batches = learn.dls.valid_ds.items.y,even_batches(150)
    wrong = {}
    for name in NAMES:
        for i,s in enumerate((1, 4)):
            z = reference(learn, lambda x, ids, name=name, s=s: fake(x, name, s, ids=ids), batches)
            w = wrong[name, s] = (z.argmax(1) != y).double().numpy()
            assert rep.errors_bn[name][i] == pytest.approx(w.mean())
        assert rep.table.error_bn[name] == pytest.approx(np.mean(rep.errors_bn[name]))
    core = [k for k in wrong if k[0] != 'saturate']
    each,s = np.mean([wrong[k] for k in core], 0),rep.summary
    change = each - rep.wrong[core].mean(axis=1).to_numpy()
    assert s.mean_corruption_error_bn == pytest.approx(each.mean())
    assert s.mean_corruption_error_bn_se == pytest.approx(each.std(ddof=1)/150**.5)
    assert s.bn_change == pytest.approx(change.mean()) and s.bn_change_se == pytest.approx(change.std(ddof=1)/150**.5)
    clean = (reference(learn, None, batches).argmax(1) != y).double().mean().item()
    assert rep.clean_bn == s.clean_error_bn == pytest.approx(clean) and s.bn_batch == 64 and change.std() > 0
    note = next(n for n in rep.notes if n.startswith('error_bn'))
    assert f'{s.bn_change:+.3f}' in note and 'at least 64' in note and 'sorted by class' in note
    assert set(plain.summary.index) < set(s.index)
    assert s.mean_corruption_error == plain.summary.mean_corruption_error

@pytest.mark.usefixtures('quick')
def test_the_loaders_batches_are_no_matter():
    learn = learner()
    a = corruption_report(learn, names='fog', bn_batch=70)
    b = corruption_report(learn, learn.dls.valid.new(bs=7, shuffle=True, drop_last=True), names='fog', bn_batch=70)
    assert a.errors_bn['fog'].tolist() == b.errors_bn['fog'].tolist() and a.clean_bn == b.clean_bn

def test_images_sorted_by_class():
    "Dark and bright ones: within one class brightness says nothing, in a mixture everything"
    X = np.random.default_rng(0).integers(0, 100, (128, 8, 8), dtype=np.uint8)
    X[64:] += 120
    y = np.repeat([0, 1], 64)
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(1), nn.Linear(1, 2))
    learn = tiny_learner(dls=array_dls(X, y, valid=(X, y), bs=64, vocab=[0, 1], device='cpu'))
    learn.model = net
    with torch.no_grad():
        net[3].weight.copy_(torch.tensor([[-1.], [1.]]))
        net[3].bias.zero_()
    rep = corruption_report(learn, names='brightness', severities=1, bn_batch=64)
    assert rep.clean_bn == 0 and rep.errors_bn['brightness'][0] == 0
    apart = torch.arange(128).tensor_split(2)
    (z,),_ = batch_passes(learn, None, [None], apart, 'me')
    assert .3 < (z.argmax(1) != torch.tensor(y)).float().mean() < .7

@pytest.mark.parametrize('error', [None, KeyboardInterrupt])
@pytest.mark.usefixtures('quick')
def test_the_report_leaves_no_trace(monkeypatch, error):
    learn = learner(net=Head())
    learn.model.train()
    before,old = snapshot(learn),flags(learn)
    def stop(x, name, severity, **kw):
        if len(x) == 75 and severity == 3: raise error      # a batch of the second way
        return fake(x, name, severity, **kw)
    if error is None: corruption_report(learn, names=NAMES, bn_batch=64)
    else:
        monkeypatch.setattr(module, 'corrupt', stop)
        with pytest.raises(error): corruption_report(learn, names=NAMES, bn_batch=64)
    after = snapshot(learn)
    for k in before: assert before[k] == after[k], k
    assert flags(learn) == old

# --- resume ----------------------------------------------------------------------------------------------------------
def test_cells_of_both_ways_are_kept_apart(quick, tmp_path):
    learn = learner()
    run = lambda **kw: corruption_report(learn, names=NAMES[:2], severities=(1, 2), resume=tmp_path, **kw)
    plain = run()
    old = (tmp_path/'corruption_cells.csv').read_text()
    quick.clear()
    both = run(bn_batch=64)                     # the file of an older run: only what is new is measured
    assert {n for *_,n in quick} == {75} and any(o.startswith('4 finished cells') for o in both.notes)
    assert (tmp_path/'corruption_cells.csv').read_text().startswith(old)
    pd.testing.assert_frame_equal(both.wrong, plain.wrong)
    quick.clear()
    again = run(bn_batch=64)
    assert not quick and any(o.startswith('8 finished cells') for o in again.notes)
    assert again.errors_bn['fog'].tolist() == both.errors_bn['fog'].tolist() != plain.errors['fog'].tolist()
    assert not any('of another model' in o for o in [*again.notes, *run().notes]) and not quick
    run(bn_batch=150)
    assert {n for *_,n in quick} == {150}
    keys = [o[0] for o in csv.reader((tmp_path/'corruption_cells.csv').open())][1:]
    assert len(set(keys)) == 3 and len({k.split('-')[0] for k in keys}) == 1

# --- published files, pictures ---------------------------------------------------------------------------------------
def test_published_files(tmp_path):
    learn = learner()
    it = learn.dls.valid_ds.items
    for name in NAMES:
        x = torch.cat([fake(it.x.float()/255, name, s, ids=torch.arange(150)) for s in range(1, 6)])
        np.save(tmp_path/f'{name}.npy', x.mul(255).round().byte().permute(0, 2, 3, 1).numpy())
    np.save(tmp_path/'labels.npy', np.tile(it.y.numpy(), 5))
    rep = corruption_report(learn, names=NAMES, severities=(2, 5), source=CorruptedArrays(tmp_path), bn_batch=64)
    batches = even_batches(150)
    def rounded(x, ids): return fake(x, 'fog', 5, ids=ids).mul(255).round()/255
    wrong = reference(learn, rounded, batches).argmax(1) != it.y
    assert rep.errors_bn['fog'][1] == pytest.approx(wrong.double().mean().item())
    few = learn.dls.test_dl([it[i] for i in range(40)], with_labels=True)
    with pytest.raises(ValueError, match='at least 64 clean images.*got 40'):
        corruption_report(learn, few, names=NAMES, source=CorruptedArrays(tmp_path), bn_batch=64)

@pytest.mark.usefixtures('quick')
def test_pictures():
    learn = learner()
    rep,plain = (corruption_report(learn, names=NAMES, severities=(1, 3), bn_batch=b) for b in (64, None))
    (ax,) = rep.plot().axes
    line = next(o for o in ax.lines if o.get_label() == BY_BATCH)
    want = [1-rep.clean_bn, *(1-(rep.errors_bn['shot_noise']+rep.errors_bn['fog'])/2)]
    assert line.get_ydata() == pytest.approx(want)
    lo,hi = ax.get_ylim()
    assert lo < min(want) and max(want) < hi and any(BY_BATCH in t.get_text() for t in ax.texts)
    assert BY_BATCH not in [o.get_label() for o in plain.plot().axes[0].lines]
    ax = plot_corruption_bars({'a': rep, 'b': plain}).axes[0]
    marks = [o for o in ax.lines if o.get_marker() == 'D' and len(o.get_xdata())]
    assert len(marks) == 1 and sorted(marks[0].get_ydata()[:-1]) == pytest.approx(sorted(rep.table.error_bn))
    fig = plot_corruption_bars(rep)
    assert [t.get_text() for t in fig.legends[0].get_texts()] == ['BatchNorm by the batch']
    assert not plot_corruption_bars(plain).legends

@pytest.mark.usefixtures('quick')
def test_beside_each_other():
    "Each report that has the errors by the batch shows them beside its own, as means over the same corruptions"
    run = lambda learn, bn=None: corruption_report(learn, names=NAMES, severities=(1, 3), bn_batch=bn)
    one,two = learner(net=Head()),learner(net=Head())
    a,b = run(one, 64),run(two, 100)
    rep = compare_reports({'a': a, 'x': run(two), 'b': b})
    old = compare_reports({'a': run(one), 'x': run(two), 'b': run(two)})
    assert list(rep.table.columns) == ['a', 'a error_bn', 'x', 'b', 'b error_bn', 'x - a', 'x - a se', 'b - a',
                                       'b - a se']
    pd.testing.assert_frame_equal(rep.table[list(old.table.columns)], old.table)
    for r,col in ((a, 'a error_bn'), (b, 'b error_bn')):
        got,e = rep.table[col],r.errors_bn
        assert got['clean'] == r.clean_bn and got['mean'] == pytest.approx(r.summary.mean_corruption_error_bn)
        for k in NAMES: assert got[k] == pytest.approx(e[k].mean())
        assert got['all extra'] == pytest.approx(np.mean(e['saturate'])) and not got.isna().any()
    assert not np.allclose(rep.table['a'], rep.table['a error_bn'])
    note, = (o for o in rep.notes if o.startswith('error_bn'))
    assert '64 (a), 100 (b)' in note and not any('error_bn' in o for o in old.notes)
    assert repr(rep).count('error_bn') == 3 and len(rep.plot().axes) == 1

# --- refused ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('bn_batch', [63, 0, True, 64., 'all'])
def test_batch_sizes_that_are_refused(quick, bn_batch):
    with pytest.raises(ValueError, match='`bn_batch` must be a whole number from 64 on'):
        corruption_report(learner(), bn_batch=bn_batch)
    assert not quick

def test_too_few_images(quick):
    with pytest.raises(ValueError, match=r'at least 64 clean images.*64 are the least\), got 63. Give more'):
        corruption_report(learner(63), bn_batch=64)
    with pytest.raises(ValueError, match='at least 100 clean images.*got 80. Give more images, or bn_batch=64'):
        corruption_report(learner(80), bn_batch=100)
    assert not quick

def test_no_batchnorm(quick):
    learn = learner(net=nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 3)))
    with pytest.raises(ValueError, match='BatchNorm layers.*got a Sequential without. Leave `bn_batch` out'):
        corruption_report(learn, names='fog', bn_batch=64)
    assert not quick and len(shifted_preds(learn)[0]) == 150
