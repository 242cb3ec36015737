"collect and ood_report against fastai's own predictions and slow metrics; every refusal; nothing moves"
import warnings
import numpy as np, pandas as pd, pytest, torch
from PIL import Image
from torch import nn
from scipy.stats import mannwhitneyu
from fastai.callback.schedule import lr_find    # noqa: F401  (patches Learner)
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.data.transforms import (FuncSplitter, GrandparentSplitter, Normalize, RandomSplitter, get_image_files,
                                    parent_label)
from fastai.imports import noop
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.torch_core import set_seed
from fastai.vision.augment import Resize, aug_transforms
from fastai.vision.core import PILImageBW
from fastai.vision.data import ImageBlock, ImageDataLoaders
from fastrobust.basics import RobustWarning
from fastrobust.inference.collect import collect
from fastrobust.ood.result import OODReport, compare_ood
from fastrobust.inference.tap import Outputs
from fastrobust.ood.logitscores import ODIN, Energy, OODScore, energy_score, msp_score
from fastrobust.ood.scores import DEFAULT_SCORES
from fastrobust.ood.featurescores import KNN
from fastrobust.inference.tap import feature_tap
from fastrobust.data.fromarrays import array_dls
from fastrobust.data.auxrows import OpenSet
from fastrobust.learner import robust_learner
from fastrobust.noise.laws import NoisyLabels
from fastrobust.noise.block import add_label_noise
from fastrobust.data.openset import aux_images
from fastrobust.samples import sample_data, sample_dls
from fastrobust.ood.report import ood_report
from fastrobust.training.surgery import Twin
from fastrobust.nets import small_cnn
from fastrobust.stripping import strip
from fastrobust.techniques.logitnorm import LogitNorm
from fastrobust.techniques.odnl import ODNL
from conftest import MiniTwin, tiny_arrays, tiny_dls, tiny_learner
from test_shifted import snapshot

LOGITS = ('msp', 'maxlogit', 'energy', 'odin', 'gen')

def images(n=20, seed=50, **kw): return tiny_arrays(n, seed=seed, **kw)[0]

def logits(learn, dl=None): return torch.as_tensor(learn.get_preds(dl=dl, act=noop)[0]).as_subclass(torch.Tensor)

def of_images(learn, X): return logits(learn, learn.dls.test_dl(list(X)))

def calls(learn):
    "Counts the images of every forward pass"
    seen = []
    learn.model.register_forward_hook(lambda m, args, out: seen.append(len(args[0])))
    return seen

@pytest.fixture
def learn():
    learn = tiny_learner(norm='bn')
    learn.fit(1, .01)
    with torch.no_grad(): learn.model[-1].bias.add_(1)      # ViM wants positive logits; no probability changes
    return learn

@pytest.fixture(scope='module')
def trained():
    set_seed(0)
    learn = Learner(sample_dls(device='cpu'), small_cnn(10, width=16), loss_func=CrossEntropyLossFlat())
    learn.remove_cb(learn.progress)
    learn.logger = noop
    learn.fit(1, 3e-3)
    return learn

@pytest.fixture(scope='module')
def drawings():
    _,_,Xv,_,vocab = sample_data('quickdraw')
    return OpenSet(Xv, vocab[5:])

# --- collect ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('channels', [1, 3])
def test_images_in_every_form_pass_the_validation_pipeline(channels):
    learn = tiny_learner(dls=tiny_dls(channels=channels, batch_tfms=aug_transforms()))
    X = images(channels=channels)
    want = of_images(learn, X)
    last = X if channels == 3 else X[..., None]
    first = np.ascontiguousarray(last.transpose(0, 3, 1, 2))
    forms = [X, last, first, torch.from_numpy(first), torch.from_numpy(X), (first/255).astype(np.float32),
             torch.from_numpy(last/255), OpenSet(X)]
    for data in forms:
        out = collect(learn, data)
        assert isinstance(out, Outputs) and out.f is None and out.y is None and out.z.dtype == torch.float32
        torch.testing.assert_close(out.z, want)
    assert want.std() > 0

def test_loaders_are_read_as_in_validation():
    learn = tiny_learner(dls=tiny_dls(batch_tfms=aug_transforms()))
    out = collect(learn, learn.dls.train, labels=True)
    it = learn.dls.train_ds.items
    torch.testing.assert_close(out.z, of_images(learn, it.x[:, 0].numpy()))
    assert torch.equal(out.y, it.y) and len(out.z) == 48
    out = collect(learn, learn.dls.valid.new(bs=7, shuffle=True, drop_last=True), labels=None)
    torch.testing.assert_close(out.z, logits(learn))
    assert torch.equal(out.y, learn.dls.valid_ds.items.y)
    both = collect(learn, OpenSet([learn.dls.valid, learn.dls.train]))
    assert len(both.z) == 72 and both.y is None

@pytest.mark.parametrize('workers', [0, 2])
def test_files_with_item_transforms(tmp_path, workers):
    rng = np.random.default_rng(0)
    for i in range(16):
        d = tmp_path/('train', 'valid')[i % 2]/'ab'[i//2 % 2]
        d.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).save(d/f'{i}.png')
    block = DataBlock((ImageBlock, CategoryBlock), get_items=get_image_files, get_y=parent_label, item_tfms=Resize(10),
                      splitter=GrandparentSplitter(), batch_tfms=[Normalize.from_stats([.5]*3, [.2]*3, cuda=False)])
    dls = block.dataloaders(tmp_path, bs=4, num_workers=workers, device='cpu')
    learn = Learner(dls, small_cnn(2, 3, width=8, depth=2), loss_func=CrossEntropyLossFlat())
    learn.remove_cb(learn.progress)
    torch.testing.assert_close(collect(learn, dls.valid).z, logits(learn))
    X = rng.integers(0, 256, (9, 12, 16, 3), dtype=np.uint8)                # resized as the files are
    want = of_images(learn, [Image.fromarray(x) for x in X])
    torch.testing.assert_close(collect(learn, X).z, want)
    rep = ood_report(learn, {'noise': X}, ['msp', KNN(3)])
    torch.testing.assert_close(torch.from_numpy(rep.scores['msp']['noise']), msp_score(want))

def test_features_and_steps(learn):
    tap = feature_tap(learn)
    out = collect(learn, images(), tap=tap)
    torch.testing.assert_close(out.f @ tap.head.W.T + tap.head.b, out.z)
    step = collect(learn, images(), tap=tap, input_step=lambda model, x: x*0)
    # equal images: the same to rounding, which is not the same in every lane of a vectorised kernel
    for o in (step.z, step.f): torch.testing.assert_close(o, o[:1].expand_as(o), rtol=1e-6, atol=1e-6)
    assert torch.equal(collect(learn, images(), input_step=lambda model, x: None).z, out.z)
    odin = ODIN(T=10., eps=.05)
    x = torch.cat([b[0] for b in learn.dls.test_dl(list(images()))])
    with torch.no_grad(): want = learn.model.eval()(odin.input_step(learn.model, x.as_subclass(torch.Tensor)))
    torch.testing.assert_close(collect(learn, images(), input_step=odin.input_step).z, want, atol=1e-4, rtol=1e-4)

@pytest.mark.parametrize('to', ['to_fp16', 'to_bf16'])
def test_mixed_precision(learn, to):
    want = collect(learn, images()).z
    assert torch.equal(collect(getattr(learn, to)(), images()).z, want)

def test_another_normalize_is_said(learn):
    X,y = tiny_arrays(30, seed=9)
    other = array_dls(X//2, y, bs=10, device='cpu')
    with pytest.warns(RobustWarning, match=r'collect got a loader that normalises otherwise .*0\.2.*against'):
        collect(learn, other.valid)
    with pytest.warns(RobustWarning, match='not at all against'):
        collect(learn, array_dls(X, y, bs=10, device='cpu', normalize=False).valid)
    with warnings.catch_warnings():
        warnings.simplefilter('error', RobustWarning)
        for data in (learn.dls.train, learn.dls.test_dl(list(X)), learn.dls.valid.new(bs=3), X): collect(learn, data)

def test_what_collect_refuses(learn):
    X = images()
    for data in (learn.dls, [1], 'folder', None):
        with pytest.raises(TypeError, match='collect expected (one|a fastai) loader.*got'): collect(learn, data)
    with pytest.raises(TypeError, match='nobody knows where that normalises'):
        collect(learn, torch.utils.data.DataLoader(torch.rand(4, 1, 8, 8)))
    for data in (X[:0], DataLoader([], bs=4), learn.dls.valid.new([]), torch.tensor(1.)):
        with pytest.raises(ValueError, match='collect expected images, got'): collect(learn, data)
    with pytest.raises(ValueError, match=r'\(1, 8, 8\), as the network gets.*got \(1, 9, 9\).*resize'):
        collect(learn, images(size=9))
    with pytest.raises(ValueError, match='collect: expected images of one channel, as in training, got 3'):
        collect(learn, images(channels=3))
    with pytest.raises(ValueError, match=r'got shape \(20, 2, 8, 8\)'): collect(learn, np.zeros((20, 2, 8, 8)))
    with pytest.raises(TypeError, match='collect: expected .* got torch.int64'): collect(learn, X.astype(np.int64))
    with pytest.raises(ValueError, match=r'in \[0,1\], got \[nan'): collect(learn, np.full((4, 8, 8), np.nan))
    with pytest.raises(ValueError, match='finite pixels, got NaN or inf'):
        collect(learn, DataLoader([(torch.full((1, 8, 8), float('nan')), 0)]*4, bs=2))
    with pytest.raises(ValueError, match='loader with labels, got images alone'): collect(learn, X, labels=True)
    with pytest.raises(ValueError, match='loader with labels, got images alone'):
        collect(learn, learn.dls.test_dl(list(X)), labels=True)
    with torch.no_grad(): learn.model[-1].bias[0] = float('nan')
    with pytest.raises(ValueError, match='finite logits, got NaN or inf for 20 of 20'): collect(learn, X)

def test_exported(tmp_path):
    learn = tiny_learner(path=tmp_path)
    learn.fit(1)
    learn.export('l.pkl')
    new,it,X = load_learner(tmp_path/'l.pkl'),learn.dls.valid_ds.items,images()
    assert torch.equal(collect(new, X).z, collect(learn, X).z)
    with pytest.raises(ValueError, match='expected known images, got a learner without a validation set.*`dl`'):
        ood_report(new, {'a': X})
    dl,fit = new.dls.test_dl([x for x,_ in it]),new.dls.test_dl(list(learn.dls.train_ds.items), with_labels=True)
    with pytest.warns(RobustWarning, match='leaves out mahalanobis, knn, .*, mahalanobis.*: there are no training'):
        rep = ood_report(new, {'a': X}, dl=dl)
    assert tuple(rep.scores) == LOGITS and any('Give some as `fit_dl`' in n for n in rep.notes)
    with pytest.raises(ValueError, match='images to fit vim on, but there are no training images'):
        ood_report(new, {'a': X}, 'vim', dl=dl)
    full,want = ood_report(new, {'a': X}, 'mahalanobis', dl=dl, fit_dl=fit),ood_report(learn, {'a': X}, 'mahalanobis')
    pd.testing.assert_frame_equal(full.table, want.table)
    assert full.facts['known'] == want.facts['known'] and full.facts['fit'] == want.facts['fit']

# --- the numbers -----------------------------------------------------------------------------------------------------
ID = [.99, .95, .9, .85, .8, .7, .65, .6, .55, .5, .97, .93, .88, .83, .78, .73, .68, .63, .58, .4]
OOD = [.96, .75, .45, .35, .3, .2, .6, .1]

class Given(OODScore):
    "Says what it was told, by the number of images"
    name = 'given'
    def __init__(self, *lists): self.by_n = {len(o): torch.tensor(o, dtype=torch.float64) for o in lists}
    def __call__(self, out): return self.by_n[len(out.z)]

@pytest.mark.parametrize('positive,fpr,aupr', [('id', .5, .8693495), ('ood', .9, .7622806)])
def test_the_example_of_the_specification(positive, fpr, aupr):
    X,y = tiny_arrays(30, seed=4)
    learn = tiny_learner()
    dl = learn.dls.test_dl([(x, int(k)) for x,k in zip(X[:20], y)], with_labels=True)
    rep = ood_report(learn, {'x': images(8)}, Given(ID, OOD), positive, dl=dl)
    row = rep.table[rep.table.set == 'x'].iloc[0]
    assert row.FPR95 == pytest.approx(fpr) and row.AUROC == pytest.approx(.790625)
    assert row.AUPR == pytest.approx(aupr, abs=1e-6) and (row.n_id, row.n_ood, row.positive) == (20, 8, positive)
    assert f"({positive!r})" in rep.title and rep.notes[0].startswith('Positive is the ' + ('un'*(positive == 'ood')))
    assert rep.positive == positive == rep.summary.positive
    assert rep.scores['given']['id'].tolist() == ID and rep.scores['given']['x'].dtype == np.float64

def test_scores_are_those_of_fastais_logits_and_means_are_of_sets(learn):
    sets = dict(a=images(20), b=images(10, 51), c=images(30, 52))
    rep = ood_report(learn, sets, ['msp', Energy(2.), KNN(5)], near=['b', 'c'])
    z = logits(learn)
    for name,f in (('msp', msp_score), ('energy', lambda z: energy_score(z, 2.))):
        np.testing.assert_allclose(rep.scores[name]['id'], f(z), atol=1e-5)
        for k,X in sets.items(): np.testing.assert_allclose(rep.scores[name][k], f(of_images(learn, X)), atol=1e-5)
    t = rep.table
    assert list(t.columns) == ['score', 'set', 'group', 'FPR95', 'AUROC', 'AUPR', 'n_id', 'n_ood', 'positive']
    assert len(t) == 3*6 and rep.near == ('b', 'c')
    for name,s in rep.scores.items():
        auc = {k: np.mean([(u < v) + .5*(u == v) for u in s[k] for v in s['id']]) for k in sets}
        rows = t[t.score == name].set_index(['set', 'group']).AUROC
        want = {('a', 'far'): auc['a'], ('b', 'near'): auc['b'], ('c', 'near'): auc['c'], ('mean', 'far'): auc['a'],
                ('mean', 'near'): (auc['b']+auc['c'])/2, ('mean', 'all'): sum(auc.values())/3}
        assert dict(rows) == pytest.approx(want)
    tap = feature_tap(learn)
    train,known = (nn.functional.normalize(collect(learn, dl, tap=tap).f) for dl in (learn.dls.train, learn.dls.valid))
    d = torch.cdist(known.double(), train.double()).sort(1).values[:, 4]
    np.testing.assert_allclose(rep.scores['knn']['id'], -d, atol=1e-5)

def test_known_and_unknown_swapped_turn_the_auroc_round(learn):
    X = images(24)
    a = ood_report(learn, {'x': X}, LOGITS)
    b = ood_report(learn, {'x': learn.dls.valid_ds.items.x}, LOGITS, dl=X)
    np.testing.assert_allclose(a.table.AUROC, 1-b.table.AUROC)
    assert a.facts['sets']['x'] == b.facts['known'] and a.facts['known'] == b.facts['sets']['x']

@pytest.mark.parametrize('aux,told', [(None, True), (aux_images('blob', 40, 8, 1), False)])
def test_a_network_trained_beside_textures_says_so(aux, told):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', RobustWarning)
        learn = robust_learner(tiny_dls(), small_cnn(3, 1, 8, norm=None, depth=2), recipe='ood', aux=aux)
        with learn.no_bar(), learn.no_logging(): learn.fit(1)
        rep = ood_report(learn, {'x': images(24)}, 'msp')
    assert any('trained beside generated textures' in o for o in rep.notes) == told

@pytest.mark.parametrize('scores,want', [(['msp', 'knn', 'maxlogit'], 'knn'), (['msp', 'maxlogit'], 'maxlogit'),
                                         (['msp', 'energy'], None), (['maxlogit'], 'maxlogit')])
def test_which_score_is_recommended_of_those_asked_for(learn, scores, want):
    rep = ood_report(learn, {'x': images(24)}, [KNN(5) if o == 'knn' else o for o in scores])
    assert rep.recommended == want == rep.summary['recommended']
    assert any('Recommended of these' in o for o in rep.notes) == (want is not None and len(scores) > 1)

def test_eleven_scores_on_real_images(trained, drawings, tmp_path):
    noise = aux_images('gaussian', 200, 28, 1)
    rep = ood_report(trained, {'drawings': drawings, 'noise': noise}, near='drawings')
    assert isinstance(rep, OODReport) and tuple(rep.scores) == DEFAULT_SCORES and len(DEFAULT_SCORES) == 11
    auc = rep.table.set_index(['score', 'set', 'group']).AUROC
    assert (auc.xs('noise', level='set') > .6).all() and auc['mahalanobis', 'drawings', 'near'] > .8
    for name,s in rep.scores.items():
        u = mannwhitneyu(s['id'], s['drawings']).statistic         # counts the pairs
        assert auc[name, 'drawings', 'near'] == pytest.approx(u/(1000*500))
    assert rep.recommended == rep.summary['recommended'] == 'mahalanobis++'
    assert any('Recommended of these: mahalanobis++, chosen' in o and 'not on the images here' in o for o in rep.notes)
    assert rep.summary['known images'] == 1000 and rep.summary['fit images'] == 4000
    assert rep.summary['drawings images'] == 500 and len(rep.summary['drawings digest']) == 16
    wide = rep.formatted()
    assert list(wide.columns) == [('near', 'drawings'), ('far', 'noise'), ('all', 'mean')] and len(wide) == 22
    assert wide.loc[('AUROC', 'knn'), ('far', 'noise')] == f"{auc['knn', 'noise', 'far']:.3f}"
    assert {p.name for p in rep.save(tmp_path)} == {'ood.csv', 'ood_summary.csv', 'ood.png'}
    assert (pd.read_csv(tmp_path/'ood.csv').positive == 'id').all()
    assert 'AUROC' in repr(rep) and 'drawings' in rep._repr_html_()
    assert any('4,000 images with their given labels' in n for n in rep.notes)
    assert any('energy T=1, odin T=1000' in n for n in rep.notes)

# --- one pass --------------------------------------------------------------------------------------------------------
def test_one_forward_pass_however_many_scores(learn):
    seen = calls(learn)
    sets = dict(a=images(20), b=images(10, 51))
    ood_report(learn, sets, [o for o in DEFAULT_SCORES if o != 'knn'] + [KNN(5)])
    assert sorted(seen) == sorted([8, 16, 8, 16, 4, 10, 16, 16, 16])       # the tap's 8, known, a, b, training set
    seen.clear()
    ood_report(learn, sets, LOGITS)
    assert sorted(seen) == sorted([16, 8, 16, 4, 10])                       # nothing to fit, no tap
    seen.clear()
    rep = ood_report(learn, sets, ['msp', ODIN(eps=.01)])
    assert sorted(seen) == sorted(3*[16, 8, 16, 4, 10])                     # a gradient and another pass
    assert any('odin 0.01. To be chosen on images that are not reported' in n for n in rep.notes)
    np.testing.assert_allclose(rep.scores['msp']['a'], msp_score(of_images(learn, sets['a'])), atol=1e-5)
    want = ODIN(eps=.01)
    want = want(collect(learn, sets['a'], input_step=want.input_step))
    np.testing.assert_allclose(rep.scores['odin']['a'], want, atol=1e-6)

# --- networks without a tap ------------------------------------------------------------------------------------------
def test_without_a_last_linear_layer_scores_of_logits_are_left():
    learn = tiny_learner()
    learn.model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 3, 1), nn.Flatten())
    with pytest.warns(RobustWarning, match='leaves out mahalanobis, knn, .* fdbd, mahalanobis.*: the logits of this'):
        rep = ood_report(learn, {'a': images()})
    assert tuple(rep.scores) == LOGITS and any('Left out: mahalanobis' in n for n in rep.notes)
    assert rep.facts['fit'] is None
    for scores in ('vim', ['msp', 'vim'], tuple(list(DEFAULT_SCORES))):
        with pytest.raises(ValueError, match='ends in a linear layer for .*vim.*Take scores of logits alone'):
            ood_report(learn, {'a': images()}, scores)

def test_a_default_score_that_cannot_be_fitted_is_left_out_and_said(learn):
    with pytest.warns(RobustWarning, match='leaves out knn: expected at least k=50'):
        rep = ood_report(learn, {'a': images()})
    assert tuple(rep.scores) == tuple(o for o in DEFAULT_SCORES if o != 'knn')
    assert any('Left out: knn' in n for n in rep.notes)
    with pytest.raises(ValueError, match='at least k=50'): ood_report(learn, {'a': images()}, ['msp', 'knn'])

def test_two_networks():
    learn = tiny_learner(MiniTwin())
    learn.fit(1)
    rep = ood_report(learn, {'a': images()}, ['msp', 'vim', KNN(3), 'react', 'mahalanobis'])
    np.testing.assert_allclose(rep.scores['msp']['a'], msp_score(of_images(learn, images())), atol=1e-5)
    a,b = tiny_learner(seed=1),tiny_learner(seed=2)
    tap = {id(l): feature_tap(l) for l in (a, b)}
    f = torch.cat([collect(l, images(), tap=tap[id(l)]).f for l in (a, b)], 1)
    a.model = Twin(a.model, b.model)
    assert torch.equal(collect(a, images(), tap=feature_tap(a)).f, f)

# --- refusals --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('kw,error,match', [
    (dict(unknown={}), ValueError, 'at least one unknown set, got an empty dict'),
    (dict(unknown='images'), TypeError, 'as a dict of sets, got a str'),
    (dict(unknown={'id': images()}), ValueError, "got 'id'. Give a string other"),
    (dict(unknown={'mean far': images()}), ValueError, "got 'mean far'. Give a string other"),
    (dict(unknown={3: images()}), ValueError, 'names of unknown sets, got 3'),
    (dict(unknown={'a': images()[:0]}), ValueError, r"set 'a'\) expected images, got shape \(0, 8, 8\)"),
    (dict(unknown={'a': DataLoader([], bs=4)}), ValueError, r"set 'a'\) expected images, got an empty loader"),
    (dict(unknown={'a': images(size=9)}), ValueError, r"set 'a'\) expected images of .*\(1, 8, 8\).*got \(1, 9, 9\)"),
    (dict(unknown={'a': images(channels=3)}), ValueError, r"set 'a'\): expected images of one channel"),
    (dict(unknown={'a': np.full((3, 8, 8), np.nan)}), ValueError, r"set 'a'\): .*got \[nan"),
    (dict(unknown={'a': 'folder'}), TypeError, r"set 'a'\) expected a fastai loader, images.*got a str"),
    (dict(positive='OOD'), ValueError, "must be 'id'.*'ood'.*got 'OOD'"),
    (dict(near=['b']), ValueError, "`near` of unknown sets, got 'b'"),
    (dict(scores=[]), ValueError, 'at least one score, got none'),
    (dict(scores='mps'), ValueError, "Did you mean 'msp'"),
    (dict(scores=['energy', Energy(.1)]), ValueError, r"two called 'energy': Energy\(T=1.0\) and Energy\(T=0.1\)"),
    (dict(scores=Given([0.]*24, [float('nan')]*20)), ValueError, "score 'given', got NaN or infinity in 20"),
    (dict(scores=Given([0.]*24, [[1., 2.]]*20)), ValueError, r"score 'given', got shape \(20, 2\)"),
    (dict(learn=nn.Linear(2, 2)), TypeError, 'a fastai Learner, got a Linear')])
def test_what_ood_report_refuses(learn, kw, error, match):
    with pytest.raises(error, match=match): ood_report(**{**dict(learn=learn, unknown={'a': images()}), **kw})

def test_known_images_are_needed(learn):
    learn.dls = DataLoaders(learn.dls.train)
    with pytest.raises(ValueError, match='unknown images alone tell nothing'): ood_report(learn, {'a': learn.dls.train})

def test_unknown_images_that_are_known(learn):
    X,it = images(),learn.dls.valid_ds.items
    mixed = np.concatenate([X, it.x[3:5, 0].numpy()])
    with pytest.raises(ValueError, match=r"got 2 of 22 in set 'a' that are equal .*delete\(images, \[20, 21\], 0\)"):
        ood_report(learn, {'a': mixed}, 'msp')
    mixed = np.concatenate([learn.dls.train_ds.items.x[:1, 0].numpy(), X])
    with pytest.raises(ValueError, match=r"got 1 of 21 in set 'a' that are equal"):
        ood_report(learn, {'a': mixed}, 'mahalanobis')
    with pytest.raises(ValueError, match=r"got 1 of 21 in set 'a' that are equal"):     # compared without a pass
        ood_report(learn, {'a': mixed}, 'msp')
    many = np.concatenate([it.x[:21, 0].numpy(), X])
    with pytest.raises(ValueError, match=r"got 21 of 41 .*the first at \[0, 1, .* 19\]"):
        ood_report(learn, {'a': many}, 'msp')
    with pytest.warns(RobustWarning, match='24 known images are among those the scores of features were fitted on'):
        rep = ood_report(learn, {'a': X}, 'mahalanobis', fit_dl=learn.dls.valid)
    assert rep.facts['fit'] == rep.facts['known'] and any('24 known images' in n for n in rep.notes)

def files_learner(path, paths):
    "A learner on files, half of them for validation, and its loaders"
    block = DataBlock((ImageBlock(PILImageBW), CategoryBlock), get_y=parent_label,
                      splitter=FuncSplitter(lambda f: int(f.stem) % 2 == 1))
    learn = Learner(block.dataloaders(paths, path=path, bs=4, num_workers=0, device='cpu'),
                    small_cnn(2, 1, width=8, depth=2), loss_func=CrossEntropyLossFlat())
    learn.remove_cb(learn.progress)
    return learn

def png_folder(path, n, seed):
    "Files of `n` images, no two alike, in folders a and b"
    X = np.random.default_rng(seed).integers(0, 256, (n, 8, 8), dtype=np.uint8)
    paths = [path/'ab'[i//2 % 2]/f'{i}.png' for i in range(n)]
    for p,x in zip(paths, X):
        p.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x).save(p)
    return paths

def test_training_files_are_not_unknown(tmp_path):
    "Where only logits are scored the training files are not read: they are known by their paths"
    paths = png_folder(tmp_path/'all', 16, 9)
    learn = files_learner(tmp_path, paths)
    train,valid = paths[::2],paths[1::2]
    other = png_folder(tmp_path/'other', 6, 10)
    files = lambda fs: learn.dls.test_dl(fs)
    for fs,n in ((train, 8), (valid, 8), (train[:3], 3), ([*other, train[2]], 1)):
        for data in (files(fs), OpenSet([files(fs[:1]), files(fs[1:])]) if len(fs) > 1 else files(fs)):
            with pytest.raises(ValueError, match=f"got {n} of {len(fs)} files in set 'x' that are known or training "
                               f"images, the first {min(map(str, {*fs} & {*paths}))}. Leave"):
                ood_report(learn, {'fine': files(other), 'x': data}, scores=('msp',))
    relative = [str(o.relative_to(tmp_path)) for o in train]
    with pytest.MonkeyPatch.context() as m:
        m.chdir(tmp_path)
        with pytest.raises(ValueError, match="got 8 of 8 files in set 'x'"):
            ood_report(learn, {'x': files(relative)}, scores=('msp',))
    known = files(other)
    with pytest.raises(ValueError, match="got 6 of 6 files in set 'x'"):       # those given as known are, too
        ood_report(learn, {'x': files(other)}, ('msp',), dl=known)
    with pytest.raises(ValueError, match="got 6 of 6 files in set 'x'"):
        ood_report(learn, {'x': files(other)}, KNN(2), fit_dl=files(other))

    said = lambda rep: [o for o in rep.notes if 'by path alone' in o]
    copies = png_folder(tmp_path/'copies', 16, 9)
    assert said(ood_report(learn, {'x': files(copies[::2])}, scores=('msp',)))       # cannot be seen, which is said
    with pytest.raises(ValueError, match="got 8 of 8 in set 'x' that are equal to known or training"):
        ood_report(learn, {'x': files(copies[::2])}, KNN(2))                          # but where the files are read
    with pytest.raises(ValueError, match="got 8 of 8 in set 'x' that are equal"):    # as those of validation always are
        ood_report(learn, {'x': files(copies[1::2])}, scores=('msp',))
    rep = ood_report(learn, {'x': files(other)}, scores=('msp', KNN(2)))
    assert rep.facts['sets']['x'][0] == 6 and not said(rep)

def test_training_files_of_a_table_are_not_unknown(tmp_path):
    paths = png_folder(tmp_path/'all', 16, 9)
    names,labels = [str(o.relative_to(tmp_path)) for o in paths],[o.parent.name for o in paths]
    df = pd.DataFrame({'my file': names, 'label': labels})
    dls = ImageDataLoaders.from_df(df, tmp_path, fn_col='my file', label_col='label', bs=4, num_workers=0, device='cpu',
                                   seed=0)
    learn = Learner(dls, small_cnn(2, 3, width=8, depth=2), loss_func=CrossEntropyLossFlat())
    learn.remove_cb(learn.progress)
    train = [tmp_path/o for o in dls.train.items['my file']]
    files = files_learner(tmp_path, paths).dls      # another learner's loaders, on the same files
    with pytest.raises(ValueError, match="got 2 of 2 files in set 'x'"):
        ood_report(learn, {'x': files.test_dl(train[:2])}, 'msp')
    with pytest.raises(ValueError, match="got 3 of 3 files in set 'x'"):
        ood_report(learn, {'x': dls.test_dl(df.loc[dls.train.items.index[:3]])}, 'msp')

def test_training_images_count_beside_another_fit_set(learn):
    X,it = images(),learn.dls.train_ds.items
    mixed = np.concatenate([it.x[:1, 0].numpy(), X])
    other = learn.dls.test_dl([(x, i % 3) for i,x in enumerate(images(30, 91))], with_labels=True)
    assert ood_report(learn, {'a': X}, 'mahalanobis', fit_dl=other).facts['fit'][0] == 30
    with pytest.raises(ValueError, match=r"got 1 of 21 in set 'a' that are equal"):
        ood_report(learn, {'a': mixed}, 'mahalanobis', fit_dl=other)

def test_auxiliary_files_are_remembered(tmp_path):
    aux = png_folder(tmp_path/'aux', 12, 70)
    learn = files_learner(tmp_path, png_folder(tmp_path/'all', 16, 9))
    loader = DataBlock(ImageBlock(PILImageBW), splitter=RandomSplitter(0)).dataloaders(aux, bs=4, num_workers=0,
                                                                                         device='cpu').train
    with learn.no_logging(): learn.fit(1, cbs=ODNL(loader))
    assert not any(isinstance(t, ODNL) for t in learn.cbs)
    with pytest.raises(ValueError, match='trained on as auxiliary images: 2 of the files are in both'):
        ood_report(learn, {'x': learn.dls.test_dl(aux[3:5])}, 'msp')

def test_classes_of_the_learner_are_not_unknown(trained):
    X,y,Xv,yv,vocab = sample_data('quickdraw')
    with pytest.raises(ValueError, match="classes of the learner in set 'a': Bag"):
        ood_report(trained, {'a': OpenSet(Xv, ['apple', 'Bag'])}, 'msp')
    fashion = sample_data('fashion')[-1]
    other = array_dls(Xv, yv, vocab=[*fashion[:4], 'x', *vocab[5:]], device='cpu', bs=50)   # of these none occurs
    with pytest.warns(RobustWarning, match='normalises otherwise'): ood_report(trained, {'a': other.valid}, 'msp')
    named = array_dls(Xv, yv-5, vocab=['Dress', *vocab[6:]], device='cpu', bs=50)
    with pytest.raises(ValueError, match="classes of the learner in set 'a': Dress"):
        ood_report(trained, {'a': named.valid}, 'msp')
    with pytest.raises(ValueError, match="classes of the learner in set 'valid'"):
        ood_report(trained, {'valid': trained.dls.valid}, 'msp')

def test_numbers_name_no_classes(learn):
    X,y = tiny_arrays(30, seed=9)
    other = array_dls(X, y, bs=10, device='cpu')
    with pytest.warns(RobustWarning, match='normalises otherwise'): ood_report(learn, {'a': other.valid}, 'msp')
    assert ood_report(learn, {'a': OpenSet(images(), [0, 1])}, 'msp').sets == ['a']

def test_auxiliary_images_are_not_unknown():
    X,names = images(40, 60),['cup', 'key']
    learn = tiny_learner(ODNL(OpenSet(X, names)))
    for data,match in ((X, 'same object'), (X[:9], 'same memory'), (X[5:9].copy(), '4 of the images'),
                       (OpenSet(images(), ['key']), 'both show')):
        with pytest.raises(ValueError, match=f"in set 'a' what odnl trains on as auxiliary images: .*{match}"):
            ood_report(learn, {'fine': images(), 'a': data}, 'msp')
    assert ood_report(learn, {'fine': OpenSet(images(), ['pot'])}, 'msp').sets == ['fine']

def test_auxiliary_images_are_remembered(tmp_path):
    "After the technique is gone, after export, after strip: the network still knows them"
    X = images(40, 60)
    def refused(learn, data, match, **kw):
        with pytest.raises(ValueError, match=f"in set 'a' what this learner was trained on as .*{match}"):
            ood_report(learn, {'a': data}, 'msp', **kw)
    learn = tiny_learner(path=tmp_path)
    learn.fit(1, cbs=ODNL(OpenSet(X, ['cup', 'key'])))
    refused(learn, X[5:9].copy(), '4 of the images')
    refused(learn, OpenSet(images(), ['Key']), 'both show Key')
    learn.fit(1, cbs=ODNL(images(10, 61)))
    refused(learn, X[:1].copy(), '1 of the images'); refused(learn, images(10, 61), '10 of the images')
    valid = learn.dls.valid
    assert ood_report(learn, images(), 'msp').sets == ['unknown']       # a bare set
    assert any('What unknown show is not known' in n for n in ood_report(learn, images(), 'msp').notes)
    refused(strip(learn), X, 'of the images')
    learn.add_cb(ODNL(array_dls(images(20, 62), np.zeros(20, int), vocab=['0', '1'], bs=8, device='cpu').train))
    learn.fit(1); learn.remove_cb(ODNL)
    refused(learn, images(20, 62)[:3], '3 of the images')       # a loader over an array
    learn.export('seen.pkl')
    refused(load_learner(tmp_path/'seen.pkl'), X, 'of the images', dl=valid)

def test_lr_find_is_no_training():
    learn = tiny_learner(ODNL(images(40, 60)))
    learn.lr_find(num_it=5, show_plot=False)
    assert not hasattr(learn, 'trained_open_sets')

def test_probabilities_are_no_logits():
    learn = tiny_learner()
    learn.model = torch.nn.Sequential(learn.model, torch.nn.Softmax(1))
    with pytest.raises(ValueError, match='expected logits from the model, got probabilities'):
        ood_report(learn, images(), ['energy'])

# --- notes -----------------------------------------------------------------------------------------------------------
def test_notes_on_logitnorm_and_label_noise():
    dls = add_label_noise(tiny_dls(), NoisyLabels('symmetric', .4))
    learn = tiny_learner(LogitNorm(.04), dls=dls)
    rep = ood_report(learn, {'a': images()}, ['msp', 'energy', 'vim'])
    said = lambda rep, what: [n for n in rep.notes if what in n]
    assert len(said(rep, 'Trained with LogitNorm: scores that are energies (energy, vim) can break')) == 1
    assert said(rep, "wrong on purpose") and said(rep, "LogitNorm's tau belongs to its training loss")
    assert not said(ood_report(learn, {'a': images()}, 'msp'), 'LogitNorm')
    plain = ood_report(tiny_learner(), {'a': images()}, ['msp', 'energy', 'vim'])
    assert not said(plain, 'Trained with') and not said(plain, 'on purpose') and said(plain, 'recall is nearest to .95')
    assert said(plain, 'Known: 24 images, accuracy') and said(plain, 'Unknown: a 20')

# --- compared --------------------------------------------------------------------------------------------------------
def test_learners_compared():
    a,b = tiny_learner(seed=1),tiny_learner(seed=2)
    sets = dict(x=images(), y=images(10, 51))
    reps = {'plain': ood_report(a, sets, LOGITS, near='x'), 'new': ood_report(b, sets, LOGITS, near='x')}
    cmp = compare_ood(reps)
    assert list(cmp.table.columns) == ['score', 'set', 'group', 'AUROC plain', 'AUROC new', 'FPR95 plain',
                                       'FPR95 new', 'positive']
    for k,r in reps.items():
        for m in ('AUROC', 'FPR95'): assert cmp.table[f'{m} {k}'].tolist() == r.table[m].tolist()
    assert cmp.summary['x digest'] == reps['new'].summary['x digest'] and 'plain' in repr(cmp)
    assert list(compare_ood(reps, 'AUPR').table.columns)[3:5] == ['AUPR plain', 'AUPR new']
    for what,kw in [('unknown images', dict(unknown=dict(x=images(seed=99), y=images(10, 51)))),
                    ('near', dict(near=())), ('known images', dict(dl=images(24, 3))),
                    ('positive', dict(positive='ood')), ('scores', dict(scores=['msp'])),
                    ('unknown images', dict(unknown=dict(x=images())))]:
        other = ood_report(b, **{**dict(unknown=sets, scores=LOGITS, near='x'), **kw})
        with pytest.raises(ValueError, match=f"got other .*{what}.* in 'new' than in 'plain'"):
            compare_ood({'plain': reps['plain'], 'new': other})
    for bad in (reps['new'], {'a': reps['new']}, {'a': reps['new'], 'b': cmp}):
        with pytest.raises(TypeError, match='at least two results of ood_report'): compare_ood(bad)
    with pytest.raises(ValueError, match="Did you mean 'AUROC'"): compare_ood(reps, 'auROC')

def test_the_digest_is_of_the_images_before_normalize(learn):
    X = images()
    rep = lambda l, data: ood_report(l, {'a': data}, 'msp').facts['sets']['a']
    other = tiny_learner(dls=tiny_dls(normalize=False), seed=8)
    assert rep(learn, X) == rep(other, X) == rep(learn, learn.dls.test_dl(list(X))) == rep(learn, X/255)
    assert rep(learn, X[::-1].copy()) != rep(learn, X)

# --- nothing moves ---------------------------------------------------------------------------------------------------
class Breaks(list):
    def __getitem__(self, i):
        if i == 13: raise self.ex('stop')
        return super().__getitem__(i)

@pytest.mark.parametrize('ex', [None, KeyboardInterrupt, ZeroDivisionError])
@pytest.mark.parametrize('which', ['unknown', 'dl', 'fit_dl'])
def test_everything_is_left_as_it_was(learn, ex, which):
    learn.model.train(); list(learn.model.modules())[1].eval()
    items = Breaks([(torch.from_numpy(x[None]/255).float(), 0) for x in images(20, 77)])
    items.ex = ex
    dl = DataLoader(items, bs=4) if ex else learn.dls.train
    kw = {'unknown': {'a': dl if ex and which == 'unknown' else images()}}
    if which != 'unknown': kw[which] = dl
    scores = ['msp', 'mahalanobis', ODIN(eps=.1)]
    before,hooks = snapshot(learn),lambda: sum(len(m._forward_pre_hooks) for m in learn.model.modules())
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', RobustWarning)
        if ex is None: ood_report(learn, scores=scores, **kw)
        else:
            with pytest.raises(ex): ood_report(learn, scores=scores, **kw)
    after = snapshot(learn)
    for k in before: assert before[k] == after[k], k
    assert hooks() == 0 and all(p.requires_grad for p in learn.model.parameters())

def test_what_was_given_stays_as_it_was(learn):
    knn,sets = KNN(5),dict(a=images())
    ood_report(learn, sets, [knn])
    assert vars(knn) == {'k': 5} and list(sets) == ['a']
