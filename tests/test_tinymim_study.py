"tinymim_study: the table against numpy, pairs that are pairs, and nothing lost on Ctrl-C or a failing row"
import copy, pickle, random, warnings
import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet18
from hypothesis import given, settings, strategies as st
from torchvision.ops import StochasticDepth
from fastai.callback.core import Callback
from fastai.data.transforms import Normalize
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.torch_core import set_seed
from conftest import tiny_dls
from fastrobust.basics import RobustWarning
from fastrobust.compare import mimrows, mimruns
from fastrobust.compare.mimnets import maker_of, smaller
from fastrobust.compare.mimrows import mim_rows
from fastrobust.compare.mimruns import few_dls, few_of
from fastrobust.compare.mimstudy import tinymim_study
from fastrobust.compare.result import Comparison
from fastrobust.data.fromarrays import array_dls
from fastrobust.losses import GCELoss
from fastrobust.noise.block import add_label_noise
from fastrobust.noise.laws import NoisyLabels
from fastrobust.systems.closedform import closed_form_head
from fastrobust.systems.tinymim.features import ClassDistill, FeatureDistill
from fastrobust.systems.tinymim.inside import Unlabelled
from fastrobust.systems.tinymim.mae import MAEPretrain
from fastrobust.systems.tinymim.masking import MaskedInput
from fastrobust.systems.tinymim.mimic import TinyMIM
from fastrobust.systems.tinymim.probe import linear_probe
from fastrobust.systems.tinymim.tinyvit import tiny_vit

pytestmark = pytest.mark.slow     # half a minute of small studies

# --- small things ----------------------------------------------------------------------------------------------------
def images(n, seed):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    return (rng.integers(0, 150, (n, 8, 8)) + 50*y[:, None, None]).astype(np.uint8),y

def data(n=48, **kw): return array_dls(*images(n, 0), valid=images(30, 1), bs=16, device='cpu', **kw)
def teacher(seed=5):
    torch.manual_seed(seed)
    return tiny_vit(8, 4, 16, 3, 4, 1)
def student(drop_path=0.): return tiny_vit(8, 4, 8, 2, 2, 1, drop_path=drop_path)

FAST = dict(student=student, epochs=2, labels=(12,), tune_epochs=2, verbose=False)
def study(rows=('scratch', 'relation'), dls=None, t=None, **kw):
    return tinymim_study(dls or data(), t or teacher(), rows, **{**FAST, **kw})

@pytest.fixture(scope='module')
def rep(): return study(('scratch', 'mae', 'feature', 'relation'), seeds=3, labels=(12, 24), layer=['last', 'norm'])

# --- the table -------------------------------------------------------------------------------------------------------
def test_means_and_paired_differences_are_numpys(rep):
    assert list(rep.table.index) == ['teacher', 'scratch', 'mae', 'feature', 'relation']
    assert rep.measures == ['probe last', 'probe norm', '12 labels', '24 labels']
    for m in rep.measures:
        for row in rep.table.index[1:]:
            v = rep.runs[rep.runs.row == row].sort_values('seed')[m].to_numpy()
            assert rep.table[m][row] == pytest.approx(v.mean())
            assert rep.table[f'{m}_se'][row] == pytest.approx(v.std(ddof=1)/3**.5)
            for base in ('scratch', 'mae'):
                apart = v - rep.runs[rep.runs.row == base].sort_values('seed')[m].to_numpy()
                want = [apart.mean(), apart.std(ddof=1)/3**.5] if row != base else [np.nan]*2
                got = rep.table.loc[row, [f'{m} - {base}', f'{m} - {base}_se']].astype(float)
                np.testing.assert_allclose(got, want, atol=1e-12)
                np.testing.assert_allclose(rep.difference(m, row, base), want, atol=1e-12)

def test_a_measure_is_a_result_of_compare(rep):
    got = rep.comparison('12 labels', 'mae')
    assert isinstance(got, Comparison) and got.metric == 'accuracy' and got.baseline == 'mae'
    assert len(got.curve('relation', 2)) == 2 and len(got.curve('teacher', 2)) == 1
    assert got.table['last']['relation'] == pytest.approx(rep.table['12 labels']['relation'])
    assert rep.comparison('probe last').table['last']['mae'] == pytest.approx(rep.table['probe last']['mae'])

def test_what_a_reader_sees(rep, tmp_path):
    text = repr(rep)
    for o in ('4 ways', '3 seeds', '12 labels - mae', '±', '→', 'paired by seed'): assert o in text
    shown = rep.formatted()
    assert shown['12 labels - scratch']['teacher'] == '' and shown['seconds']['teacher'] == ''
    assert shown['probe last - scratch']['scratch'] == '' and shown['probe last - scratch']['mae'][0] in '+-'
    assert len(rep.plot().axes) == 4
    files = {p.name for p in rep.save(tmp_path)}
    assert {'tinymim.csv', 'tinymim_runs.csv', 'tinymim_curves.csv', 'tinymim.png'} <= files

def test_the_pretraining_is_recorded(rep):
    assert set(rep.curves.row) == {'mae', 'feature', 'relation'}
    one = rep.curves[(rep.curves.row == 'relation') & (rep.curves.seed == 1)]
    assert one.epoch.tolist() == [1, 2] and {'qk', 'vv', 'valid_loss'} <= set(one.columns)
    run = rep.runs[(rep.runs.row == 'relation') & (rep.runs.seed == 1)].iloc[0]
    assert run.loss_after == one.valid_loss.iloc[-1] < run.loss_before
    assert run.parameters == sum(p.numel() for p in student().parameters())

def test_two_studies_are_one():
    a = study(('scratch', 'relation'), seeds=[0])
    b = study(('scratch', 'relation'), seeds=[1])
    both,whole = pickle.loads(pickle.dumps(a)) + b,study(('scratch', 'relation'), seeds=2)
    drop = [k for k in whole.table if k == 'seconds']
    np.testing.assert_allclose(both.table.drop(columns=drop), whole.table.drop(columns=drop), equal_nan=True)
    assert both.table.seeds.tolist() == [2, 2, 2] and "One seed" in repr(a) and "One seed" not in repr(both)
    with pytest.raises(ValueError, match="'teacher' with seed 0"): a + a
    with pytest.raises(TypeError): a + 1
    with pytest.raises(ValueError, match='12 labels'): a.comparison('10 labels')
    with pytest.raises(ValueError, match='scratch'): a.comparison('12 labels', 'mae')

# --- pairs -----------------------------------------------------------------------------------------------------------
class Note(Callback):
    "The start and the batches of each fit of a student"
    seen:list = []
    def before_fit(self):
        net = self.learn.model
        self.seen.append([torch.cat([p.detach().flatten() for p in net.parameters()])[:100].clone()])
    def before_batch(self):
        if self.training: self.seen[-1].append(self.xb[0].sum().item())

def test_rows_of_a_seed_share_start_and_batches_and_seeds_do_not(monkeypatch):
    Note.seen = []
    make = mimruns.tinymim_learner
    def noting(*args, cbs, **kw): return make(*args, cbs=[Note(), *cbs], **kw)
    monkeypatch.setattr(mimruns, 'tinymim_learner', noting)
    study(('relation', 'feature', 'mae'), seeds=2, labels=())
    fits = [o for o in Note.seen if len(o) > 1]     # the others only validate
    assert len(fits) == 6 and all(len(o) == 1+2*3 for o in fits)
    for a,b in ((0, 1), (0, 2), (3, 4), (3, 5)):
        assert fits[a][1:] == fits[b][1:] and torch.equal(fits[a][0], fits[b][0])
    assert fits[0][1:] != fits[3][1:] and not torch.equal(fits[0][0], fits[3][0])

def states(): return random.getstate(),np.random.get_state()[1].tolist(),torch.get_rng_state().tolist()

def test_twice_the_same_and_random_streams_go_on():
    a = study(seeds=[3])
    dls,t = data(),teacher()
    dls.train.one_batch(), random.random(), torch.rand(3)
    before = states()
    b = study(dls=dls, t=t, seeds=[3])
    assert states() == before
    cols = ['probe', '12 labels', 'loss_before', 'loss_after']
    np.testing.assert_array_equal(a.runs[cols], b.runs[cols])

def test_scratch_is_the_student_as_it_is_drawn():
    dls = data()
    got = study(('scratch',), dls=dls, seeds=[4]).runs.set_index('row')
    set_seed(4)
    net = student()
    assert got.probe['scratch'] == float(linear_probe(net, dls, verbose=False))
    assert got.probe['teacher'] == float(linear_probe(teacher(), dls, verbose=False))
    assert np.isnan(got.loss_before['scratch']) and got.seconds['scratch'] == 0

def test_the_teachers_numbers_are_those_of_a_head_in_closed_form():
    dls,t = data(),teacher()
    got = study(('scratch',), dls=dls, t=t, seeds=[4]).runs.set_index('row')
    few = few_dls(dls, 12, 4)
    learn = Learner(few, nn.Sequential(copy.deepcopy(t), nn.Linear(16, 3)), CrossEntropyLossFlat(), metrics=accuracy)
    closed_form_head(learn, head='last', verbose=False)     # its features: the mean of the patches after the norm
    assert got['12 labels']['teacher'] == pytest.approx(learn.validate()[1])

def test_a_teacher_without_blocks_has_no_numbers_and_the_study_goes_on():
    dls = tiny_dls(n=24, size=32, channels=3)
    small = lambda: tiny_vit(32, 8, 16, 2, 2, 3)
    got = study(('scratch', 'feature'), dls, resnet18(), student=small, seeds=2)
    assert got.table.seeds.to_dict() == {'teacher': 2, 'scratch': 2, 'feature': 2}
    assert got.table.loc['teacher', got.measures].isna().all() and got.table.loc['feature', got.measures].notna().all()
    assert got.table.parameters['teacher'] == sum(p.numel() for p in resnet18().parameters())
    said = repr(got)
    assert said.count('classifier of the teacher') == 1 and 'ResNet' in said and 'Distil its features' not in said
    got.plot()

def test_a_teacher_with_blocks_of_another_attention_is_probed_and_no_more():
    timm = pytest.importorskip('timm')
    t = timm.create_model('beit_base_patch16_224', num_classes=0, img_size=32, depth=1, embed_dim=48, num_heads=3)
    small = lambda: tiny_vit(32, 8, 16, 2, 2, 3)
    got = study(('feature',), tiny_dls(n=24, size=32, channels=3), t, student=small, seeds=1)
    assert got.table['probe'].notna().all() and np.isnan(got.table['12 labels']['teacher'])
    assert got.table['12 labels'].notna()['feature'] and 'a bias by position' in repr(got)

def test_a_learner_for_a_teacher_sees_images_as_its_own_loaders_normalise_them():
    "In the probe, under its head in closed form and as it teaches"
    stats,t,seen = ([.9], [.05]),teacher(),[]
    t.patch_embed.register_forward_pre_hook(lambda _m, x: seen.append(x[0].detach().clone()))
    raw = data(normalize=False)
    its = data(normalize=False, batch_tfms=Normalize.from_stats(*stats, cuda=False))
    rows = {'relation': 'relation', 'sequential': 'sequential', 'mine': lambda teacher: FeatureDistill(teacher)}
    middle = lambda: tiny_vit(8, 4, 16, 2, 4, 1)
    got = study(rows, raw, Learner(its, t, Unlabelled()), seeds=[4], middle=middle).runs.set_index('row')
    # two images are shown for the shape of the answer
    seen = [x for x in seen if len(x) > 2]
    assert len(seen) > 30
    for x in seen:
        bytes_ = (x*.05 + .9)*255
        assert (bytes_ - bytes_.round()).abs().max() < .01 and bytes_.min() > -.01 and bytes_.max() < 255.01
    want = study(('scratch',), its, t, seeds=[4]).runs.set_index('row')
    for m in ('probe', '12 labels'): assert got[m]['teacher'] == pytest.approx(want[m]['teacher'], abs=.04)

def test_teacher_and_data_stay_as_they_are_and_may_be_made_for_each_seed():
    t,calls = teacher(),[]
    before = {k: v.clone() for k,v in t.state_dict().items()}
    study(('relation', 'sequential'), t=t, seeds=1)
    assert all(torch.equal(v, before[k]) for k,v in t.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in t.modules())
    def made(kind, f): return lambda seed: calls.append((kind, seed)) or f(seed)
    rep = tinymim_study(made('dls', lambda seed: data(48+16*seed)), made('t', teacher), ('scratch',), seeds=2, **FAST)
    assert calls == [('dls', 0), ('t', 0), ('dls', 1), ('t', 1)] and rep.table.seeds['scratch'] == 2

def test_noisy_labels_do_not_disturb_the_pretraining():
    dls = add_label_noise(data(), NoisyLabels('symmetric', .2))
    assert study(('relation',), dls=dls, seeds=1).runs['12 labels'].notna().any()

# --- few labels ------------------------------------------------------------------------------------------------------
@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=60), st.integers(0, 5), st.data())
def test_as_many_of_each_class_as_can_be(y, seed, d):
    y = np.array(y)
    n = d.draw(st.integers(1, len(y)))
    got = few_of(y, n, seed)
    assert len(got) == n and (np.diff(got) > 0).all() and 0 <= got[0] and got[-1] < len(y)
    have,taken = np.bincount(y, minlength=5),np.bincount(y[got], minlength=5)
    # a class has fewer than another by more than one only where it has no more
    assert all(taken[k] == have[k] or taken[k] >= taken.max()-1 for k in range(5))
    if n < len(y): assert set(got) <= set(few_of(y, n+1, seed))

def test_loaders_of_few_labels():
    dls = data()
    small = few_dls(dls, 12, 0)
    assert len(small.train_ds) == 12 and small.train.bs == 3 and small.valid_ds is dls.valid_ds
    assert few_dls(dls, 48, 0).train.bs == 12 and len(dls.train_ds) == 48
    assert set(few_of(np.arange(48) % 3, 12, 0)) != set(few_of(np.arange(48) % 3, 12, 1))
    with pytest.raises(ValueError, match='at most 48'): few_dls(dls, 49, 0)

def test_fewer_labels_than_classes_are_told_once():
    with pytest.warns(RobustWarning, match=r'\(2,\) of 3 classes') as told: study(('scratch',), labels=(2, 12), seeds=2)
    assert sum('of 3 classes' in str(o.message) for o in told) == 1

# --- rows ------------------------------------------------------------------------------------------------------------
def made(name): return mim_rows([name])[name].make(teacher())

@pytest.mark.parametrize('name, kinds, block, tokens', [
    ('relation', ('qk', 'vv'), None, 'all'), ('relation:qq+kk+vv', ('qq', 'kk', 'vv'), None, 'all'),
    ('relation:vv', ('vv',), None, 'all'), ('relation:block=1', ('qk', 'vv'), 1, 'all'),
    ('relation:block=-2, qk,patch', ('qk',), -2, 'patch'), ('sequential:vv', ('vv',), None, 'all'),
    ('drop_path=.1', ('qk', 'vv'), None, 'all')])
def test_names_of_relations(name, kinds, block, tokens):
    t, = made(name)
    assert type(t) is TinyMIM and (t.kinds, t.teacher_block, t.tokens) == (kinds, block, tokens)
    assert mim_rows([name])[name].middle == name.startswith('seq')
    assert mim_rows([name])[name].drop_path == (.1 if 'drop' in name else None)

@pytest.mark.parametrize('name, kinds', [
    ('mae', [MAEPretrain]), ('feature', [FeatureDistill]), ('class', [ClassDistill]),
    ('feature:masked', [FeatureDistill, MaskedInput]),
    ('relation:masked', [TinyMIM, MaskedInput]), ('relation:masked+mae', [TinyMIM, MAEPretrain])])
def test_names_of_others(name, kinds):
    assert [type(t) for t in made(name)] == kinds
    assert made(name)[0] is not made(name)[0]

def test_rows_of_your_own():
    t = TinyMIM(teacher(), kinds='vv')
    rows = mim_rows({'plain': None, 'by name': 'relation:qk', 'one': t, 'two': lambda: [TinyMIM(teacher(), 1)],
                     'three': lambda teacher: TinyMIM(teacher, kinds=('kk',))})
    assert list(rows) == ['plain', 'by name', 'one', 'two', 'three'] and rows['plain'].make is None
    one, = rows['one'].make(None)
    assert one is not t and one.kinds == ('vv',)
    assert rows['two'].make(None)[0].teacher_block == 1 and rows['three'].make(teacher())[0].kinds == ('kk',)
    got = study({'plain': None, 'one': t, 'keys': lambda teacher: TinyMIM(teacher, kinds='kk')}, seeds=1)
    assert list(got.table.index) == ['teacher', 'plain', 'one', 'keys'] and 'kk' in got.curves

@pytest.mark.parametrize('rows, says', [
    (['relations'], "'relation'"), (['relation:xy'], "'xy' is no option"), (['relation:block=x'], "'x'"),
    ([], 'at least one'),
    (['mae:block=2'], "does not take 'block'"), (['scratch:masked'], 'does not take'), ({'teacher': None}, "'teacher'"),
    (['relation:drop_path=2'], r'\[0,1\), got 2'), (['mae:drop_path=nan'], r'\[0,1\)'),
    (['relation:masked,masked+mae'], 'got both'), (['relation:qk,vv'], r'once.*joined by \+'),
    (['feature:qk'], 'does not take'), ({'loss': 3}, 'got 3'), ({'loss': GCELoss()}, 'technique')])
def test_rows_that_are_none_are_named(rows, says):
    with pytest.raises((ValueError, TypeError), match=says): study(rows)

def test_a_function_that_makes_no_technique_is_named():
    with pytest.raises(TypeError, match="row 'odd'.*techniques"): mim_rows({'odd': lambda: 3})['odd'].make(None)

@pytest.mark.parametrize('name', ['relation:masked', 'relation:masked+mae', 'feature:masked', 'class', 'drop_path=.5',
                                  'relation:qq+kk,block=0,patch', 'mae:drop_path=.2', 'sequential:vv,drop_path=.1'])
def test_every_kind_of_row_trains(name):
    got = study([name], seeds=1, labels=())
    run = got.runs.set_index('row').loc[name]
    assert run.loss_after < run.loss_before and 0 <= run.probe <= 1

def test_sequential_goes_by_way_of_the_middle(monkeypatch):
    taught = []
    class Spy(TinyMIM):
        def __init__(self, teacher, *args, **kw):
            taught.append(teacher)
            super().__init__(teacher, *args, **kw)
    monkeypatch.setattr(mimrows, 'TinyMIM', Spy)
    t,middles = teacher(),[]
    def middle():
        middles.append(tiny_vit(8, 4, 12, 2, 2, 1))
        return middles[-1]
    got = study(['sequential'], t=t, middle=middle, seeds=1, labels=())
    assert taught == [t, middles[0]] and len(middles) == 1
    assert got.runs.parameters.iloc[1] == sum(p.numel() for p in student().parameters())

def test_students_of_a_tiny_teacher_and_by_function():
    t = tiny_vit(8, 2, 64, 4, 4, 1)
    for share,want in ((.5, (32, 2, 2)), (.75, (48, 3, 4))):
        s = smaller(t, share)
        assert (s.dim, len(s.blocks), s.blocks[0].attn.num_heads) == want
    assert smaller(t, .5, drop_path=.3).blocks[0].drop_path.p == .3
    with pytest.raises(ValueError, match="`student`.*Linear"): smaller(nn.Linear(2, 2), .5)
    with pytest.raises(ValueError, match='drop_path=drop_path'):
        maker_of(lambda: student(), 'student', data(), t, .1)()
    with pytest.raises(TypeError, match='new network each time'): maker_of(student(), 'student', data(), t)

def test_names_of_timm():
    pytest.importorskip('timm')
    dls = tiny_dls(n=24, size=32, channels=3)
    make = maker_of('vit_tiny_patch16_224', 'student', dls, None, .3)
    net = make()
    assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 192) and make() is not net
    assert {m.p for m in net.modules() if isinstance(m, StochasticDepth)} == {.3}
    with pytest.raises(ValueError, match='vit_b_32.*skip no'): maker_of('vit_b_32', 'student', dls, None, .3)()

# --- robustness ------------------------------------------------------------------------------------------------------
def test_other_images_are_in_the_same_table():
    noise = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)
    settings = dict(names=['contrast', 'brightness'], severities=[2])
    got = study(('scratch',), seeds=1, robustness=settings, unknown=noise)
    assert got.measures == ['probe', '12 labels', 'corrupted', 'calibration error', 'AUROC']
    v = got.runs[['corrupted', 'calibration error', 'AUROC']].to_numpy(float)
    assert v.shape == (2, 3) and ((v >= 0) & (v <= 1)).all()
    for o in ('MSP', 'ECE', 'corruptions'): assert o in repr(got)

def test_what_is_measured_is_the_house_s(monkeypatch):
    "On the classifier of most labels; errors become accuracies"
    asked = []
    class Told:
        summary = dict(mean_corruption_error=.25, ece=.125)
    monkeypatch.setattr(mimruns, 'corruption_report', lambda learn, **kw: asked.append((learn, kw)) or Told)
    monkeypatch.setattr(mimruns, 'calibration_report', lambda learn: asked.append((learn, {})) or Told)
    got = study(('scratch',), seeds=1, labels=(12, 24), robustness=dict(severities=[5]))
    assert got.table['corrupted'].tolist() == [.75, .75] and got.table['calibration error'].tolist() == [.125, .125]
    assert [kw for _,kw in asked[::2]] == [dict(severities=[5])]*2
    assert all(isinstance(learn, Learner) and len(learn.dls.train_ds) == 24 for learn,_ in asked)

def test_robustness_that_cannot_be_is_refused_before_a_student_trains():
    with pytest.raises(ValueError, match='labels'): study(robustness=True, labels=())
    with pytest.raises(ValueError, match='contrst'): study(robustness=dict(names=['contrst']))

# --- accidents -------------------------------------------------------------------------------------------------------
def breaking(error, at):
    "A row that breaks in its `at`-th run"
    runs = []
    def make(teacher):
        runs.append(1)
        if len(runs) == at: raise error
        return TinyMIM(teacher)
    return make

def test_ctrl_c_keeps_what_is_finished():
    rows = {'scratch': None, 'mine': breaking(KeyboardInterrupt(), 2), 'mae': 'mae'}
    with pytest.warns(RobustWarning, match='Interrupted'): got = study(rows, seeds=3, labels=())
    assert got.table.seeds.to_dict() == {'teacher': 2, 'scratch': 2, 'mine': 1, 'mae': 1}
    assert "'scratch' (seed 2); 'mine' (seed 1, 2); 'mae' (seed 1, 2)" in got.stopped
    assert got.stopped in repr(got)
    more = got + study({'mine': breaking(None, 9)}, seeds=[5], labels=())
    assert more.table.seeds['mine'] == 2 and more.stopped == got.stopped

def test_ctrl_c_before_the_first_student_is_ctrl_c():
    with pytest.raises(KeyboardInterrupt): study({'mine': breaking(KeyboardInterrupt(), 1)})

def test_a_failing_row_is_left_out_and_named():
    rows = {'scratch': None, 'mine': breaking(ValueError('too bad'), 2)}
    with pytest.warns(RobustWarning, match="'mine', seed 1 failed.*too bad"): got = study(rows, seeds=3, labels=())
    assert got.table.seeds.to_dict() == {'teacher': 3, 'scratch': 3, 'mine': 1} and 'too bad' in repr(got)
    rows = {'a': breaking(ValueError('too bad'), 1), 'b': breaking(ValueError('no better'), 1)}
    with pytest.raises(RuntimeError, match="first to fail was 'a'") as e, pytest.warns(RobustWarning): study(rows)
    assert 'too bad' in str(e.value.__cause__)

def test_lines_tell_how_far_it_is(capsys):
    study(('scratch', 'relation'), seeds=1, verbose=True)
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 3 and 'relation' in lines[2] and '12 labels 0.' in lines[2] and lines[2].endswith(' s')
    study(('scratch',), seeds=1)
    assert capsys.readouterr().out == ''

@pytest.mark.parametrize('kw, says', [
    (dict(dls='folder'), '`dls`'), (dict(t=3), '`teacher`'), (dict(epochs=0), '`epochs`'),
    (dict(tune_epochs=1.5), '`tune_epochs`'),
    (dict(labels=(1,)), '`labels`'), (dict(labels=(12, 12)), 'once'), (dict(labels=1000), 'at most 48'),
    (dict(student=student()), 'network each time, got a TinyViT. Say'), (dict(student=lambda: 3), 'that makes 3'),
    (dict(seeds=[0, 0]), 'twice'), (dict(seeds=[]), 'at least one seed'), (dict(student=4), 'new network'),
    (dict(layer='first'), "'norm'"), (dict(layer=['last', 1.5]), "'norm'"), (dict(cut='first'), '`cut`'),
    (dict(verbose='no'), '`verbose` must be True or False'), (dict(robustness='yes'), '`robustness` must be True or')])
def test_bad_settings_are_named(kw, says):
    with pytest.raises((ValueError, TypeError), match=says): study(('relation',), **kw)

@pytest.mark.parametrize('rows, kw, says', [
    (['scratch'], dict(layer=2), '`layer` must be a block of the student with 2'),
    (['scratch'], dict(layer=['last', -3]), '`layer` must be a block of the student with 2'),
    (['scratch'], dict(layer=[2], student=lambda: tiny_vit(8, 4, 8, 3, 2, 1), t='short'), 'of the teacher with 1'),
    (['scratch', 'relation:block=3'], {}, "row 'relation:block=3': `block` must be a block of the teacher with 3"),
    (['sequential:block=2'], dict(middle=lambda: tiny_vit(8, 4, 12, 2, 2, 1)), 'of the middle with 2')])
def test_what_is_too_deep_is_refused_before_anything_is_measured(rows, kw, says, monkeypatch):
    asked = []
    monkeypatch.setattr(mimruns, 'linear_probe', lambda *a, **k: asked.append(1))
    monkeypatch.setattr(mimruns, 'tinymim_learner', lambda *a, **k: asked.append(1))
    if kw.get('t'): kw = {**kw, 't': tiny_vit(8, 4, 16, 1, 4, 1)}
    with pytest.raises(ValueError, match=says): study(rows, **kw)
    assert not asked

def test_a_teacher_by_name_whose_weights_want_other_colours_is_told_once(monkeypatch):
    "As by tinymim_learner; with what to write"
    timm = pytest.importorskip('timm')
    from fastrobust.compare import mimnets
    from fastrobust.inference.archs import Arch
    stats = [.5, .4, .3],[.2, .2, .2]
    net = lambda: timm.models.VisionTransformer(32, 8, embed_dim=16, depth=2, num_heads=2, num_classes=0)
    monkeypatch.setattr(mimnets, 'vit_arch', lambda name, size, c: Arch(net(), name, stats))
    small = lambda: tiny_vit(32, 8, 16, 2, 2, 3)
    def run(dls): return study(['relation'], dls, 'vit_b.mae', student=small, seeds=2, labels=(), epochs=1)
    says = r'vit_b.mae want images normalised by mean .0.5, 0.4, 0.3. .*odd colours. Write batch_tfms=Normalize.from_'
    with pytest.warns(RobustWarning, match=says) as told: run(tiny_dls(n=24, size=32, channels=3))
    assert sum('odd colours' in str(o.message) for o in told) == 1
    rgb = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
    own = array_dls(rgb, np.arange(24) % 3, bs=8, device='cpu', batch_tfms=Normalize.from_stats(*stats, cuda=False))
    with warnings.catch_warnings():
        warnings.simplefilter('error', RobustWarning)
        run(own)

def test_a_study_without_a_teacher():
    got = tinymim_study(data(), None, ('scratch', 'mae'), seeds=1, **FAST)
    assert list(got.table.index) == ['scratch', 'mae']
    with pytest.raises(TypeError, match='`teacher`'): tinymim_study(data(), None, ('relation',), **FAST)
    learn = Learner(data(), teacher(), Unlabelled())
    assert 'teacher' in study(('scratch',), t=learn, seeds=1, labels=()).table.index
