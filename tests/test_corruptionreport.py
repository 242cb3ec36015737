"corruption_report against fastai's own predictions on images corrupted beforehand; resumed, compared, refused"
import csv
import warnings
import numpy as np, pandas as pd, pytest, torch
from fastai.callback.core import Callback
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.progress import ProgressCallback
from fastai.data.load import DataLoader
from fastai.data.transforms import Normalize
from fastai.imports import noop
from fastai.torch_core import TensorImage, to_cpu
from fastai.vision.augment import Brightness, Hue, Saturation, aug_transforms
from fastrobust.basics import RobustWarning
from fastrobust.calibration.metrics import ece, rms_calibration_error
from fastrobust.images.corruptions.front import corrupt
from fastrobust.images.corruptions.tables import CORRUPTIONS, EXTRA_CORRUPTIONS, GROUPS
from fastrobust.shift.publishedarrays import CorruptedArrays
from fastrobust.shift import corruptionreport as module
from fastrobust.shift.corruptionreport import corruption_report
from fastrobust.reporting.report import Report
from fastrobust.inference import notes as notes_module
from fastrobust.shift.metrics import mce_alexnet, relative_mce
from fastrobust.inference.keys import files_key, model_key
from fastrobust.inference.passes import shifted_preds
from fastrobust.shift.result import CorruptionReport, compare_reports
from fastrobust.techniques.augloss import AugLoss
from fastrobust.techniques.augmix import AugMix, AugMixTransform
from fastrobust.techniques.corruption import CorruptionTransform
from fastrobust.techniques.lpnoise import LpNoise
from fastrobust.losses import GCELoss
from conftest import MiniAux, MiniTwin, tiny_arrays, tiny_dls, tiny_learner
from test_shifted import snapshot

FEW = ('shot_noise', 'defocus_blur', 'fog', 'contrast', 'saturate')

def learner(channels=3, size=16, seed=3, cbs=None, **kw):
    learn = tiny_learner(cbs, dls=tiny_dls(channels=channels, size=size, **kw), seed=seed)
    if cbs is None: spread(learn)
    return learn

def spread(learn):
    "Centre and widen the logits, so that a network of random weights predicts every class"
    z,last = shifted_preds(learn)[0],[m for m in learn.model.modules() if isinstance(m, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.bias.sub_(z.mean(0)); last.weight.div_(z.std(0)[:, None]); last.bias.div_(z.std(0))
    return learn

def by_hand(learn, name, s, seed=0, table='auto'):
    "Logits of fastai for a data set corrupted beforehand, image by image"
    it = learn.dls.valid_ds.items
    x = [corrupt(it.x[i:i+1], name, s, table=table, seed=seed, ids=torch.tensor([i]))[0] for i in range(len(it))]
    arrays = [o.permute(1, 2, 0).numpy() if len(o) == 3 else o[0].numpy() for o in x]
    dl = learn.dls.test_dl([(a, int(y)) for a,y in zip(arrays, it.y)], with_labels=True)
    return to_cpu(learn.get_preds(dl=dl, act=noop)[0]).as_subclass(torch.Tensor)

@pytest.fixture
def quick(monkeypatch):
    "A corruption in a line, and the calls to it: for what is about reports and not about corruptions"
    calls = []
    def fake(x, name, severity, table='auto', seed=0, ids=None):
        calls.append((name, severity, table, seed, tuple(ids.tolist())))
        g = torch.Generator().manual_seed(sum(map(ord, name))*100 + severity + 7*seed + (table == 'imagenet'))
        noise = torch.rand(64, *x.shape[1:], generator=g)[ids]
        return (x*(1-.15*severity) + .15*severity*noise).clamp(0, 1)
    monkeypatch.setattr(module, 'corrupt', fake)
    return calls

# --- right numbers ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('channels', [1, 3])
def test_errors_are_those_of_images_corrupted_beforehand(channels):
    learn = learner(channels)
    learn.fit(1); spread(learn)
    rep = corruption_report(learn, None, FEW, (2, 5), seed=4)
    y = learn.dls.valid_ds.items.y
    assert rep.clean == pytest.approx(1-learn.validate()[1])
    for name in FEW:
        for i,s in enumerate((2, 5)):
            z = by_hand(learn, name, s, seed=4)
            wrong = z.argmax(1) != y
            assert rep.errors[name][i] == pytest.approx(wrong.double().mean().item())
            assert rep.wrong[name, s].tolist() == wrong.tolist() and rep.table[s][name] == rep.errors[name][i]
        p = [by_hand(learn, name, s, 4).softmax(1) for s in (2, 5)]
        assert rep.table.ece[name] == pytest.approx(np.mean([ece(o, y) for o in p]), abs=1e-6)
        assert rep.table.rms_ce[name] == pytest.approx(np.mean([rms_calibration_error(o, y) for o in p]), abs=1e-6)
    p = to_cpu(learn.get_preds()[0])
    assert rep.summary.clean_ece == pytest.approx(ece(p, y), abs=1e-6)
    assert rep.summary.clean_rms_ce == pytest.approx(rms_calibration_error(p, y), abs=1e-6)
    assert rep.table['mean'].nunique() > 1 and rep.summary.image_size == '16 x 16' and rep.summary.table == 'cifar'

@pytest.mark.usefixtures('quick')
def test_summary_and_table_by_hand():
    learn = learner()
    learn.fit(1)
    names = CORRUPTIONS[2:]+EXTRA_CORRUPTIONS
    rep = corruption_report(learn, names=names, severities=[5, 1, 3, 1])
    t,s,w = rep.table,rep.summary,rep.wrong
    assert list(t.index) == list(names) and list(t.columns) == ['group', 1, 3, 5, 'mean', 'se', 'ece', 'rms_ce']
    assert w.shape == (24, 17*3) and all(t.group[k] == next(g for g in GROUPS if k in GROUPS[g]) for k in names)
    for k in names:
        v = w[k].mean(axis=1)
        assert t['mean'][k] == pytest.approx(v.mean()) == pytest.approx(rep.errors[k].mean())
        assert t.se[k] == pytest.approx(v.std()/24**.5)
    core = [k for k in names if k in CORRUPTIONS]
    image = np.array([np.mean([w[k, v][i] for k in core for v in (1, 3, 5)]) for i in range(24)])
    assert s.mean_corruption_error == pytest.approx(image.mean()) == pytest.approx(t['mean'][core].mean())
    assert s.mean_corruption_error_se == pytest.approx(image.std(ddof=1)/24**.5)
    d = image-rep.clean_wrong
    assert s['accuracy_drop'] == pytest.approx(d.mean()) and s.accuracy_drop_se == pytest.approx(d.std(ddof=1)/24**.5)
    for g in GROUPS: assert s[g] == pytest.approx(np.mean([t['mean'][k] for k in GROUPS[g] if k in names]))
    assert s.worst_error == t[5].max() == t[5][s.worst] and s.mean_of == '13 of the 15 corruptions' and s.images == 24
    assert s.corrupted_ece == pytest.approx(t.ece[core].mean()) and s.clean_error == rep.clean
    assert 'not gaussian_noise, shot_noise' in rep.notes[0] and 'mce_alexnet' not in s

@pytest.mark.usefixtures('quick')
def test_only_extra_ones():
    rep = corruption_report(learner(), names='spatter', severities=2)
    assert rep.summary.mean_of == '1 named corruptions' and list(rep.summary.index).count('noise') == 0
    assert rep.summary.mean_corruption_error == rep.errors['spatter'][0] and not any('tune on' in n for n in rep.notes)

@pytest.mark.parametrize('cbs', [MiniTwin, MiniAux, lambda: MixedPrecision('bf16')])
def test_techniques_and_mixed_precision(cbs):
    learn = learner(cbs=cbs())
    rep = corruption_report(learn, names=('contrast',), severities=[3])
    assert rep.errors['contrast'][0] == pytest.approx((by_hand(learn, 'contrast', 3).argmax(1) !=
                                                       learn.dls.valid_ds.items.y).double().mean().item())

@pytest.mark.usefixtures('quick')
def test_the_batch_size_is_no_matter_and_loaders_may_be_given():
    learn = learner()
    a = corruption_report(learn, names=FEW)
    b = corruption_report(learn, learn.dls.valid.new(bs=7, shuffle=True), names=FEW)
    pd.testing.assert_frame_equal(a.wrong, b.wrong)
    X,y = tiny_arrays(30, channels=3, size=16, seed=9)
    c = corruption_report(learn, learn.dls.test_dl([(x, int(k)) for x,k in zip(X, y)], with_labels=True), names=FEW)
    assert c.summary.images == 30 and len(c.wrong) == 30
    assert corruption_report(learn, learn.dls.train, names=FEW).summary.images == 48

def test_every_image_gets_its_own_id_name_severity_table_and_seed(quick):
    learn = learner()
    corruption_report(learn, names=('fog', 'snow'), severities=(1, 4), table='imagenet', seed=9)
    ids = {k: [i for o in quick if o[:2] == k for i in o[4]] for k in {o[:2] for o in quick}}
    assert set(ids) == {(n, s) for n in ('fog', 'snow') for s in (1, 4)}
    assert all(v == list(range(24)) for v in ids.values()) and {o[2:4] for o in quick} == {('imagenet', 9)}

@pytest.mark.parametrize('size,table', [((45, 70), 'cifar'), ((46, 66), 'tiny'), ((150, 119), 'tiny'),
                                        ((120, 121), 'imagenet')])
def test_auto_table(quick, size, table):
    X = np.random.default_rng(0).integers(0, 256, (4, *size), dtype=np.uint8)
    learn = learner(1)
    with pytest.warns(RobustWarning, match='used as they are'):
        dl = learn.dls.test_dl([(x, 0) for x in X], with_labels=True)
    rep = corruption_report(learn, dl, names='fog', severities=1)
    assert rep.summary.table == table and quick[0][2] == table

@pytest.mark.usefixtures('quick')
def test_mce_only_where_it_is_defined():
    learn = learner()
    rep = corruption_report(learn, table='imagenet')
    s = rep.summary
    assert s.mce_alexnet == pytest.approx(mce_alexnet(rep.errors)) and 0 < s.mce_alexnet
    assert s.relative_mce == pytest.approx(relative_mce({k: v.mean() for k,v in rep.errors.items()}, rep.clean))
    assert any(n.startswith('mCE against AlexNet') and 'these of 3' in n for n in rep.notes)
    for kw in (dict(), dict(table='imagenet', names=CORRUPTIONS[1:]), dict(table='imagenet', severities=(1, 2))):
        assert not {'mce_alexnet', 'relative_mce'} & set(corruption_report(learn, **kw).summary.index)

def test_it_is_named_as_what_it_is():
    rep = corruption_report(learner(), names='fog', severities=1)
    text = repr(rep)+rep._repr_html_()+str(rep.summary)
    assert 'CIFAR-10-C' not in text and 'ImageNet-C' not in text and 'in memory' in rep.title
    note = next(n for n in rep.notes if n.startswith('Computed in memory by fastrobust'))
    assert 'procedural' in note and "'cifar' table" in note
    assert f'clean {rep.clean:.3f}' in rep.title and isinstance(rep, Report)

@pytest.mark.usefixtures('quick')
def test_plots_and_files(tmp_path):
    rep = corruption_report(learner(), names=FEW)
    (ax,) = rep.plot().axes
    black = [ln for ln in ax.lines if ln.get_label() == 'mean of 4'][0]
    assert black.get_ydata()[0] == pytest.approx(1-rep.clean) and ax.get_xlabel().startswith('severity')
    assert black.get_ydata()[3] == pytest.approx(1-rep.table[3][list(FEW[:4])].mean())
    files = {p.name for p in rep.save(tmp_path/'out')}
    assert files == {'corruption.csv', 'corruption_summary.csv', 'corruption.png'}
    back = pd.read_csv(tmp_path/'out'/'corruption.csv', index_col=0)
    assert back['mean'].tolist() == pytest.approx(rep.table['mean'].tolist())

# --- nothing moves, and the bar --------------------------------------------------------------------------------------
@pytest.mark.parametrize('error', [None, KeyboardInterrupt])
@pytest.mark.usefixtures('quick')
def test_the_learner_stays_as_it_was(monkeypatch, error):
    learn = learner(batch_tfms=aug_transforms(max_lighting=0))
    learn.fit(1)
    learn.model.train()
    before = snapshot(learn)
    if error is None: corruption_report(learn, names=FEW)
    else:
        def stop(*_a, **_k): raise error
        monkeypatch.setattr(module, 'corrupt', stop)
        with pytest.raises(error): corruption_report(learn, names=FEW)
    after = snapshot(learn)
    for k in before: assert before[k] == after[k], k

@pytest.mark.usefixtures('quick')
def test_progress_bar_where_the_learner_has_one(monkeypatch):
    bars = []
    class Bar:
        comment = ''
        def __init__(self, gen, leave): self.total,self.seen = len(gen),[]; bars.append(self)
        def update(self, i): self.seen.append((i, self.comment))
    monkeypatch.setattr(notes_module, 'progress_bar', Bar)
    learn = learner()
    corruption_report(learn, names=('fog', 'snow'), severities=(1, 2, 3))
    assert not bars                                                         # tiny_learner has no progress callback
    learn.add_cb(ProgressCallback())
    with learn.no_bar(): corruption_report(learn, names='fog', severities=1)
    assert not bars
    corruption_report(learn, names=('fog', 'snow'), severities=(1, 2, 3))
    assert bars[0].total == 2*3*2 and [i for i,_ in bars[0].seen] == list(range(13))       # two batches
    assert bars[0].seen[1][1] == 'fog' and bars[0].seen[-1][1] == 'snow'

@pytest.mark.usefixtures('quick')
def test_the_real_bar(capsys):
    learn = learner()
    corruption_report(learn, names='fog', severities=(1, 2))
    assert capsys.readouterr().out == ''
    learn.add_cb(ProgressCallback())
    corruption_report(learn, names='fog', severities=(1, 2))
    assert '4/4' in capsys.readouterr().out

# --- resume ----------------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures('quick')
def test_a_stopped_report_goes_on(monkeypatch, tmp_path):
    learn = learner()
    want = corruption_report(learn, names=FEW)
    fake,done = module.corrupt,[]
    def stops(x, name, *a, **k):
        if name == 'fog': raise KeyboardInterrupt
        return fake(x, name, *a, **k)
    monkeypatch.setattr(module, 'corrupt', stops)
    with pytest.raises(KeyboardInterrupt): corruption_report(learn, names=FEW, resume=tmp_path/'new'/'folder')
    rows = list(csv.reader((tmp_path/'new'/'folder'/'corruption_cells.csv').open()))
    assert [(o[1], int(o[2])) for o in rows[1:]] == [(k, s) for k in FEW[:2] for s in range(1, 6)]
    def counts(x, name, *a, **k): done.append(name); return fake(x, name, *a, **k)
    monkeypatch.setattr(module, 'corrupt', counts)
    got = corruption_report(learn, names=FEW, resume=tmp_path/'new'/'folder')
    assert set(done) == set(FEW[2:]) and any(n.startswith('10 finished cells were read') for n in got.notes)
    pd.testing.assert_frame_equal(got.wrong, want.wrong)
    pd.testing.assert_frame_equal(got.table, want.table)
    done.clear()
    again = corruption_report(learn, names=FEW[::-1], severities=(3, 4), resume=tmp_path/'new'/'folder')
    assert not done and list(again.table.index) == list(FEW[::-1]) and again.severities == [3, 4]
    assert again.errors['fog'].tolist() == want.errors['fog'][2:4].tolist()

def test_another_model_or_other_data_reuse_nothing(quick, tmp_path):
    learn = learner()
    run = lambda learn, dl=None, **kw: corruption_report(learn, dl, 'fog', (1, 2), resume=tmp_path, **kw)
    run(learn)
    def fresh(**kw):
        quick.clear()
        rep = run(**{'learn': learn, **kw})
        assert quick and any('cells on disk are of another model' in n for n in rep.notes)
    p = next(learn.model.parameters())
    with torch.no_grad(): p.view(-1)[0] += 1e-6
    fresh()
    quick.clear(); run(learn); assert not quick
    fresh(seed=1); fresh(table='imagenet'); fresh(learn=learner().to_bf16())
    same = learner()
    same.dls = tiny_dls(channels=3, size=16, batch_tfms=[Normalize.from_stats([.5]*3, [.25]*3, cuda=False)])
    same.model = learn.model
    fresh(learn=same)
    X,y = tiny_arrays(24, channels=3, size=16, seed=1)
    y[:3] = np.arange(3)
    items = [(x, int(k)) for x,k in zip(X, y)]
    quick.clear(); run(learn, learn.dls.test_dl(items, with_labels=True)); assert not quick     # the same as valid
    fresh(dl=learn.dls.test_dl(items[:-1], with_labels=True))
    fresh(dl=learn.dls.test_dl([(x, (k+1)%3) for x,k in items], with_labels=True))
    X[5, 0, 0, 0] ^= 1
    fresh(dl=learn.dls.test_dl([(x, int(k)) for x,k in zip(X, y)], with_labels=True))
    at = next(i for i,m in enumerate(learn.model) if isinstance(m, torch.nn.ReLU))
    learn.model[at] = torch.nn.ELU()
    fresh()
    assert model_key(learn) == model_key(learn) and len(model_key(learn)) == 24

def test_a_model_that_prints_its_address_has_the_same_key_in_the_next_session():
    class Odd(torch.nn.Module):
        def __init__(self): super().__init__(); self.o = object()
        def extra_repr(self): return repr(self.o)
    a,b = learner(),learner()
    a.model,b.model = Odd(),Odd()
    assert repr(a.model) != repr(b.model) and model_key(a) == model_key(b)

def test_damaged_lines_are_measured_again(quick, tmp_path):
    learn,path = learner(),tmp_path/'corruption_cells.csv'
    want = corruption_report(learn, names=('fog', 'snow'), resume=tmp_path)
    lines = path.read_text().splitlines()
    for damage in (lines[:-1]+[lines[-1][:-9]], lines[:-1]+[lines[-1][:20]], lines[:4]+['nonsense', *lines[5:]],
                   lines[:2]+[lines[2].replace(',24,', ',23,'), *lines[3:]]):
        path.write_text('\n'.join(damage))
        quick.clear()
        got = corruption_report(learn, names=('fog', 'snow'), resume=tmp_path)
        assert len({o[:2] for o in quick}) == 1
        pd.testing.assert_frame_equal(got.wrong, want.wrong)
    rows = list(csv.reader(path.open()))
    assert len(rows[-1]) == 8 and rows[0][0] == 'key'

def test_a_folder_that_cannot_be_written_is_named_before_anything_runs(quick, tmp_path):
    (tmp_path/'file').write_text('x')
    with pytest.raises(OSError, match='could not write to .*file.*Choose a folder'):
        corruption_report(learner(), names='fog', resume=tmp_path/'file')
    assert not quick

# --- overlap ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('tfms,want', [
    (lambda: aug_transforms(), 'brightness, contrast'), (lambda: [Brightness()], 'brightness'),
    (lambda: [Saturation(), Hue()], 'saturate'),
    (lambda: [AugMixTransform(all_ops=True)], 'brightness, contrast, saturate'),
    (lambda: [CorruptionTransform(['fog', 'spatter'])], 'fog, spatter'),
    (lambda: [LpNoise(preset='C1')], 'gaussian_noise, impulse_noise, shot_noise, speckle_noise')])
@pytest.mark.usefixtures('quick')
def test_overlapping_transforms(tfms, want):
    learn = learner(batch_tfms=tfms())
    with pytest.warns(RobustWarning, match=f'overlap with {want} '):
        rep = corruption_report(learn, names=CORRUPTIONS+EXTRA_CORRUPTIONS, severities=1)
    assert rep.summary.overlap == want and any(want in n and n.startswith('Training used') for n in rep.notes)

class Own(Callback): overlaps = {'snow'}

@pytest.mark.parametrize('cbs,want', [
    (lambda: AugMix(all_ops=True), 'brightness, contrast'), (Own, 'snow'),
    (lambda: AugLoss(GCELoss(), all_ops=True), 'brightness, contrast')])
@pytest.mark.usefixtures('quick')
def test_overlapping_callbacks(cbs, want):
    with pytest.warns(RobustWarning, match=f'overlap with {want} .*leave these names out'):
        assert corruption_report(learner(cbs=cbs()), severities=1).summary.overlap == want

@pytest.mark.usefixtures('quick')
def test_no_overlap_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter('error', RobustWarning)
        tfms = [*aug_transforms(max_lighting=0), CorruptionTransform(['spatter'])]
        for cbs,more in ((AugMix(), []), (None, [AugMixTransform()])):
            rep = corruption_report(learner(cbs=cbs, batch_tfms=tfms+more), severities=1)
            assert rep.summary.overlap == ''
        corruption_report(learner(batch_tfms=aug_transforms()), names=('fog', 'snow'), severities=1)

# --- published files -------------------------------------------------------------------------------------------------
@pytest.fixture
def published(tmp_path):
    "A folder laid out like CIFAR-10-C, of the validation set of `learner()`, and the report in memory"
    learn,folder = learner(),tmp_path/'TINY-C'
    folder.mkdir()
    it = learn.dls.valid_ds.items
    for name in FEW:
        x = torch.cat([corrupt(it.x, name, s, ids=torch.arange(24)) for s in range(1, 6)])
        np.save(folder/f'{name}.npy', x.permute(0, 2, 3, 1).numpy())
    np.save(folder/'labels.npy', np.tile(it.y.numpy(), 5))
    return learn,folder

def test_published_files_give_the_same_numbers(published):
    learn,folder = published
    learn.fit(1)
    before = snapshot(learn)
    want = corruption_report(learn, names=FEW)
    rep = corruption_report(learn, names=FEW, source=CorruptedArrays(folder))
    after = snapshot(learn)
    for k in before: assert before[k] == after[k], k
    pd.testing.assert_frame_equal(rep.table, want.table)
    pd.testing.assert_frame_equal(rep.wrong, want.wrong)
    assert 'TINY-C' in rep.title and rep.summary.table == 'published'
    assert rep.summary.accuracy_drop_se == want.summary.accuracy_drop_se > 0
    assert not any('in memory' in n for n in rep.notes) and any(n.startswith('Read from') for n in rep.notes)
    assert 'mce_alexnet' not in rep.summary and rep.summary.image_size == '16 x 16'

def test_published_files_by_default_those_of_the_15(published):
    learn,folder = published
    rep = corruption_report(learn, source=CorruptedArrays(folder), severities=(1, 5))
    assert list(rep.table.index) == list(FEW[:4])
    with pytest.raises(ValueError, match="got 'snow'. .*Known: "):
        corruption_report(learn, names='snow', source=CorruptedArrays(folder))

def test_published_files_beside_other_clean_images(published):
    learn,folder = published
    rep = corruption_report(learn, learn.dls.train, names='fog', source=CorruptedArrays(folder))
    assert np.isnan(rep.summary.accuracy_drop_se) and any('not known to be the same' in n for n in rep.notes)
    assert rep.summary.images == 24 and len(rep.clean_wrong) == 48 and ' ± ' not in rep.notes[1]

def test_published_files_are_resumed_by_their_folder(published, monkeypatch, tmp_path):
    learn,folder = published
    source,loads = CorruptedArrays(folder),[]
    a = corruption_report(learn, names=FEW, source=source, resume=tmp_path)
    monkeypatch.setattr(CorruptedArrays, 'as_dl', lambda *a: loads.append(a))
    b = corruption_report(learn, names=FEW, source=source, resume=tmp_path)
    assert not loads
    pd.testing.assert_frame_equal(a.wrong, b.wrong)

def test_published_files_with_other_labels_in_a_cell(published, monkeypatch):
    learn,folder = published
    good = CorruptedArrays.as_dl
    def bad(self, learn, name, s):
        if (name, s) == ('fog', 2): return learn.dls.train
        return good(self, learn, name, s)
    monkeypatch.setattr(CorruptedArrays, 'as_dl', bad)
    with pytest.raises(ValueError, match='the same 24 labels in every cell, got others in fog severity 2'):
        corruption_report(learn, names='fog', source=CorruptedArrays(folder))

# --- several learners ------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures('quick')
def test_comparison_by_hand():
    a,b,c = (corruption_report(learner(seed=s), names=FEW, severities=(1, 3)) for s in (3, 4, 5))
    rep = compare_reports(dict(a=a, b=b, c=c), baseline='b')
    t = rep.table
    rows = ['clean', *FEW, 'all noise', 'all blur', 'all weather', 'all digital', 'all extra', 'mean']
    assert list(t.index) == rows and list(t.columns) == ['a', 'b', 'c', 'a - b', 'a - b se', 'c - b', 'c - b se']
    for k in FEW:
        d = [sum(a.wrong[k, s][i]*1.-b.wrong[k, s][i] for s in (1, 3))/2 for i in range(24)]
        assert t['a'][k] == pytest.approx(a.table['mean'][k]) and t['a - b'][k] == pytest.approx(np.mean(d))
        assert t['a - b se'][k] == pytest.approx(np.std(d, ddof=1)/24**.5)
    d = [np.mean([c.wrong[k, s][i]*1.-b.wrong[k, s][i] for s in (1, 3) for k in FEW[:4]]) for i in range(24)]
    assert t['c']['mean'] == pytest.approx(c.summary.mean_corruption_error)
    assert t['c - b se']['mean'] == pytest.approx(np.std(d, ddof=1)/24**.5) and np.std(d) > 0
    d = a.clean_wrong*1.-b.clean_wrong
    assert t['a - b']['clean'] == pytest.approx(a.clean-b.clean)
    assert t['a - b se']['clean'] == pytest.approx(d.std(ddof=1)/24**.5)
    assert list(compare_reports(dict(x=a, y=b)).table.columns) == ['x', 'y', 'y - x', 'y - x se']
    assert len(rep.plot().axes[0].patches) == 3*(len(rep.reports['b'].names)+1) and rep.summary.baseline == 'b'
    same = compare_reports(dict(x=a, y=a)).table
    assert (same['y - x'] == 0).all() and (same['y - x se'] == 0).all()

@pytest.mark.usefixtures('quick')
def test_comparisons_that_are_refused():
    learn = learner()
    a = corruption_report(learn, names=FEW)
    for other,what in ((corruption_report(learn, names=FEW, seed=1), 'seed'),
                       (corruption_report(learn, names=FEW, table='imagenet'), 'table'),
                       (corruption_report(learn, names=FEW[:-1]), 'corruptions or severities'),
                       (corruption_report(learn, learn.dls.train, names=FEW), 'labels')):
        with pytest.raises(ValueError, match=f"got other {what} in 'y' than in 'x'"):
            compare_reports(dict(x=a, y=other))
    for bad in ({'x': a}, {'x': a, 'y': 3}):
        with pytest.raises(TypeError, match='at least two results of corruption_report'): compare_reports(bad)
    with pytest.raises(TypeError, match='expected a dict of reports, got a list'): compare_reports([a, a])
    with pytest.raises(ValueError, match="`baseline` as the name of a report, got 'z'"):
        compare_reports(dict(x=a, y=a), 'z')

@pytest.mark.usefixtures('quick')
def test_a_comparison_of_different_crops_says_so():
    learn = learner()
    it = learn.dls.valid_ds.items
    with pytest.warns(RobustWarning, match='are .15, 16. pixels'):
        small = learn.dls.test_dl([(np.ascontiguousarray(x[1:]), y) for x,y in it], with_labels=True)
    a,b = corruption_report(learn, names=FEW),corruption_report(learn, small, names=FEW)
    assert any('different sizes or crops' in n for n in compare_reports(dict(x=a, y=b)).notes)
    assert not any('sizes or crops' in n for n in compare_reports(dict(x=a, y=a)).notes)

# --- refused ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('kw,match', [
    (dict(names='gausian_noise'), "got 'gausian_noise'. Did you mean 'gaussian_noise'"),
    (dict(names=()), 'at least one corruption in `names`, got none'),
    (dict(severities=0), '`severities` must be a whole number from 1 to 5, got 0'), (dict(severities=[1, 6]), 'got 6'),
    (dict(severities=2.5), 'got 2.5'), (dict(severities=[True]), 'got True'), (dict(severities=[]), 'got none'),
    (dict(table='cifr'), "severity table, got 'cifr'. Did you mean 'cifar'")])
def test_settings_that_are_refused(quick, kw, match):
    with pytest.raises(ValueError, match=match): corruption_report(learner(), **kw)
    assert not quick

@pytest.mark.parametrize('seed', [1.5, None, 'a', True])
def test_seeds_that_are_refused(seed):
    with pytest.raises(TypeError, match='`seed` must be a whole number'): corruption_report(learner(), seed=seed)

def test_data_that_are_refused(quick):
    learn = learner()
    with pytest.raises(ValueError, match='corruption_report expected a loader with images, got an empty one'):
        corruption_report(learn, learn.dls.valid.new([]))
    with pytest.raises(ValueError, match='loader with labels'):
        corruption_report(learn, learn.dls.test_dl(list(tiny_arrays(5, channels=3, size=16)[0])))
    with pytest.raises(ValueError, match=r'corruption_report expected images with pixels in \[0,1\] before Normalize'):
        corruption_report(learn, DataLoader([(TensorImage(torch.randn(3, 16, 16)), 0)]*4, bs=2))
    with pytest.raises(TypeError, match='corruption_report expected one input of images'):
        corruption_report(learn, DataLoader([(torch.rand(5), 0)]*4, bs=2))
    with pytest.raises(ValueError, match=r'whole class number per image'):
        corruption_report(learn, DataLoader([(TensorImage(torch.rand(3, 16, 16)), torch.rand(3))]*4, bs=2))
    with pytest.raises(ValueError, match=r'labels in 0..2, one output of the model each, got 0 to 7'):
        corruption_report(learn, DataLoader([(TensorImage(torch.rand(3, 16, 16)), i) for i in (0, 7)], bs=2))
    with torch.no_grad(): next(learn.model.parameters()).fill_(float('nan'))
    with pytest.raises(ValueError, match='finite logits, got NaN or inf for 16 of 16 images'): corruption_report(learn)
    assert not quick

def test_a_learner_for_tables_is_refused():
    from fastai.tabular.all import TabularDataLoaders, tabular_learner
    df = pd.DataFrame(dict(a=np.random.rand(40), y=['u', 'v']*20))
    dls = TabularDataLoaders.from_df(df, cont_names=['a'], y_names='y', bs=8, device='cpu')
    with pytest.raises(TypeError, match='corruption_report expected one input of images'):
        corruption_report(tabular_learner(dls, layers=[4]))

@pytest.mark.usefixtures('quick')
def test_probabilities_are_those_of_the_loss():
    "A loss without activation: the softmax; one with: its own"
    learn = learner()
    a = corruption_report(learn, names='fog', severities=1)
    learn.loss_func = torch.nn.functional.cross_entropy
    b = corruption_report(learn, names='fog', severities=1)
    assert a.summary.clean_ece == pytest.approx(b.summary.clean_ece, abs=1e-6)
    class Sharp(torch.nn.CrossEntropyLoss):
        def activation(self, z): return (9*z).softmax(1)
    learn.loss_func = Sharp()
    c = corruption_report(learn, names='fog', severities=1)
    assert c.summary.clean_ece != a.summary.clean_ece and c.clean == a.clean
    p = (9*to_cpu(learn.get_preds(act=noop)[0])).softmax(1)
    assert c.summary.clean_ece == pytest.approx(ece(p, learn.dls.valid_ds.items.y), abs=1e-6)

@pytest.mark.usefixtures('quick')
def test_one_image():
    learn = learner()
    dl = learn.dls.test_dl([learn.dls.valid_ds.items[0]], with_labels=True)
    s = corruption_report(learn, dl, 'fog', 1).summary
    assert s.images == 1 and np.isnan(s.mean_corruption_error_se) and isinstance(s, pd.Series)
    assert CorruptionReport.group('unheard of') == 'other'

# --- what a fresh reader found ---------------------------------------------------------------------------------------
@pytest.mark.usefixtures('quick')
def test_noisy_validation_labels_are_named():
    from fastrobust.noise.laws import NoisyLabels
    from fastrobust.noise.block import add_label_noise
    learn = tiny_learner(dls=add_label_noise(tiny_dls(), NoisyLabels('symmetric', .25, noisy_valid=True)))
    with pytest.warns(RobustWarning, match='validation labels are wrong on purpose'):
        rep = corruption_report(learn, names='fog', severities=1)
    assert any('noisy_valid' in o for o in rep.notes)

def test_another_activation_or_other_files_are_measured_anew(tmp_path):
    learn = learner()
    a = corruption_report(learn, names='fog', severities=3, resume=tmp_path)
    learn.loss_func.activation = lambda z: (z*50).softmax(-1)
    b = corruption_report(learn, names='fog', severities=3, resume=tmp_path)
    assert b.table['mean'].tolist() == a.table['mean'].tolist() and b.table.ece.tolist() != a.table.ece.tolist()
    f = tmp_path/'x.npy'
    f.write_bytes(b'1'); one = files_key(tmp_path)
    f.write_bytes(b'12')
    assert files_key(tmp_path) != one

def test_names_none_is_the_fifteen_and_a_folder_is_no_source():
    assert module._names(None, None) == list(CORRUPTIONS)
    with pytest.raises(TypeError, match='Pass CorruptedArrays'): corruption_report(learner(), source='folder')
