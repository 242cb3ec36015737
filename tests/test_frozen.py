"A frozen judge: wrong labels found without training, whatever names the body and holds the images; what it refuses"
import shutil
from pathlib import Path
from urllib.error import URLError
import numpy as np, pandas as pd
import pytest, torch
import torchvision
from PIL import Image
from sklearn.linear_model import Ridge
from torch import nn
from torchvision.models import mobilenet_v2
from fastai.data.block import CategoryBlock, DataBlock, RegressionBlock
from fastai.data.transforms import Normalize, RandomSplitter, get_image_files
from fastai.learner import Learner, load_learner
from fastai.tabular.all import TabularDataLoaders
from fastai.text.all import TextDataLoaders
from fastai.torch_core import get_random_states
from fastai.vision.augment import Resize, aug_transforms
from fastai.vision.core import imagenet_stats
from fastai.vision.data import ImageBlock, ImageDataLoaders
from fastrobust.advice import advise
from fastrobust.basics import RobustWarning
from fastrobust.data.editing import given_labels, with_labels
from fastrobust.data.fromarrays import array_dls
from fastrobust.inference.bodies import body_of
from fastrobust.labels.frozen import LEAST, Frozen, frozen
from fastrobust.labels.frozenitems import files_of
from fastrobust.labels.report import estimate_tau, noise_report
from conftest import tiny_learner

N,C = 120,3
TRUE = np.arange(N)%C
WRONG = np.arange(5, N, 12)
GIVEN = np.where(np.isin(np.arange(N), WRONG), (TRUE+1)%C, TRUE)

def squares(n=N, seed=0, grey=False, size=16):
    "Noise with a square in the colour (or grey: at the place) of its class"
    g = np.random.default_rng(seed)
    X = g.integers(60, 120, (n, size, size, 3))
    for i in range(n):
        if grey: X[i, :, 5*(i%C):5*(i%C)+5] += 60
        else: X[i, 2:-2, 2:-2, i%C] += 60
    X = X.astype(np.uint8)
    return X[..., 0] if grey else X

def dls_of(X=None, y=None, n=N, bs=16, grey=False, **kw):
    X = squares(n, grey=grey) if X is None else X
    y = GIVEN[:len(X)] if y is None else np.asarray(y)
    vocab = kw.pop('vocab', list(range(C)))
    return array_dls(X, y, valid=(X[:C], TRUE[:len(X[:C])]), bs=bs, vocab=vocab, device='cpu', **kw)

class Pool(nn.Module):
    "A body: means of 4x4 parts; counts the images and keeps what it sees"
    def __init__(self):
        super().__init__()
        self.pool,self.bn = nn.AdaptiveAvgPool2d(4),nn.BatchNorm1d(48, affine=False)
    n,seen = 0,[]
    def forward(self, x):
        Pool.n += len(x)
        Pool.seen.append(x.clone())
        return self.pool(x).flatten(1)

@pytest.fixture(autouse=True)
def _none_seen(): Pool.n,Pool.seen = 0,[]

def tiny_arch(pretrained=True):
    "A function that returns a network, as torchvision's do; always the same weights"
    g = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(72, 10))
    for p in net.parameters(): p.data = torch.randn(p.shape, generator=g)/5
    return net if pretrained else net

def report(body, dls=None, **kw):
    judge = body if isinstance(body, Frozen) else frozen(body)
    return noise_report(judge, dls or dls_of(), verbose=False, **kw)

def features(body, dls, **kw): return frozen(body, **kw).features(dls, verbose=False).f

def read_once(dls):
    "fastai leaves its own marks on a loader that has been read"
    dls.valid.one_batch()
    return dls

def trace(dls):
    s = get_random_states()
    return dict(random=s['random_state'], numpy=s['numpy_state'][1].tolist(), torch=s['torch_state'].tolist(),
                rngs=[dl.rng.getstate() for dl in dls], attrs=[sorted(vars(dl)) for dl in dls], own=sorted(vars(dls)),
                split=[(dl.dataset.split_idx, dl.after_batch.split_idx) for dl in dls], y=given_labels(dls).tolist())

# --- end to end ------------------------------------------------------------------------------------------------------
def test_wrong_labels_are_found_and_nothing_is_left_behind():
    net,dls = nn.Sequential(Pool(), nn.Linear(48, 7)),read_once(dls_of())
    net.train()
    before,state = trace(dls),{k: v.clone() for k,v in net.state_dict().items()}
    rep = report(net, dls)
    assert trace(dls) == before and net.training and all(m.training for m in net.modules())
    assert all(torch.equal(v, state[k]) for k,v in net.state_dict().items()) and type(net[1]) is nn.Linear
    assert set(rep.table.item[:10]) == set(WRONG)
    assert set(np.flatnonzero(rep.issues)) <= set(WRONG) and rep.issues.sum() > 2
    assert rep.lo <= 10/120 <= rep.hi and rep.trusted and rep.check.n == 30
    assert (rep.suggested[rep.issues] == TRUE[rep.issues]).all() and (rep.given == GIVEN).all()
    assert 'Sequential, frozen: 48 features' in rep.judge

def test_each_item_is_judged_by_a_refit_without_it():
    judge,dls = frozen(Pool()),dls_of(n=40)
    rep = report(judge, dls)
    out = judge.left_out(dls, GIVEN[:40], C, verbose=False)
    f = out.f.double().numpy()
    Z = (f-f.mean(0))/f.std(0)
    for i in range(20):
        rest = np.arange(40) != i
        z = Ridge(out.gamma).fit(Z[rest], np.eye(C)[GIVEN[:40][rest]]).predict(Z[i:i+1])[0][out.head.classes]
        p = torch.tensor(z/out.T + out.b.numpy()).softmax(0).numpy()
        np.testing.assert_allclose(rep.probs[i, out.head.classes], p, atol=1e-5)

def test_copies_are_left_out_together_and_it_is_said():
    X = squares()
    X[[20, 50]] = X[10]
    rep = report(Pool(), dls_of(X))
    assert 'items of which there are copies, or nearly so, left out together' in rep.judge
    assert np.ptp(rep.probs[[10, 20, 50]], 0).max() < 1e-5

def test_gradients_and_colours_need_no_weights():
    X = squares(60)
    X[:, :, 8:] //= 4
    X[::3] = X[::3, ::-1].transpose(0, 2, 1, 3)
    rep = report('plain', dls_of(X))
    assert set(rep.table.item[:5]) == set(WRONG[:5]) and 'no weights' in rep.judge
    assert any('without a pretrained network' in o for o in rep.notes)

# --- what names a body -----------------------------------------------------------------------------------------------
@pytest.fixture(scope='module')
def mobile(tmp_path_factory):
    file = tmp_path_factory.mktemp('w')/'mobile.pth'
    torch.manual_seed(0)
    torch.save(mobilenet_v2(weights=None).state_dict(), file)
    return file

def test_a_function_of_torchvision_with_a_file(mobile):
    dls = read_once(dls_of(n=16, bs=8))
    before = trace(dls)
    judge = frozen(mobilenet_v2, weights=mobile)
    assert repr(judge) == 'frozen(mobilenet_v2)'
    f = judge.features(dls, verbose=False).f
    assert trace(dls) == before and f.shape == (16, 1280)
    net = mobilenet_v2(weights=None)
    net.load_state_dict(torch.load(mobile, weights_only=True))
    x = torch.tensor(squares(16)).permute(0, 3, 1, 2).float()/255
    x = nn.functional.interpolate(x, size=(LEAST, LEAST), mode='bilinear', antialias=True)
    mean,std = (torch.tensor(o)[:, None, None] for o in imagenet_stats)
    with torch.no_grad(): want = net.eval().features((x-mean)/std).mean((2, 3))
    torch.testing.assert_close(f, want, atol=1e-4, rtol=1e-3)

def test_a_timm_name_with_a_file(tmp_path):
    timm = pytest.importorskip('timm')
    file = tmp_path/'t.pth'
    torch.save(timm.create_model('test_resnet', pretrained=False).state_dict(), file)
    f = features('test_resnet', dls_of(n=16), weights=file)
    assert len(f) == 16 and f.std() > 0 and repr(frozen('test_resnet')) == 'frozen(test_resnet)'

def refuse_to_load(*_, **__): raise URLError('Name or service not known')

def test_weights_of_timm_that_cannot_be_had(monkeypatch):
    timm = pytest.importorskip('timm')
    monkeypatch.setattr(timm, 'create_model', refuse_to_load)
    with pytest.raises(OSError, match=r"weights of test_resnet, got URLError.*weights='test_resnet.pth'.*'plain'"):
        report('test_resnet')

def test_weights_of_torchvision_that_cannot_be_had(monkeypatch, tmp_path):
    monkeypatch.setattr(torchvision.models._api, 'load_state_dict_from_url', refuse_to_load)
    with pytest.raises(OSError, match=r"weights of mobilenet_v2, got URLError.*mobilenet_v2.pth.*'plain'"):
        report(mobilenet_v2)
    with pytest.raises(FileNotFoundError, match='none.pth'): report(frozen(mobilenet_v2, weights=tmp_path/'none.pth'))

def test_a_function_without_weights_is_told():
    def arch(): return tiny_arch()
    with pytest.warns(RobustWarning, match='arch comes without pretrained weights: its features are random'):
        report(arch, dls_of(n=40))

@pytest.mark.parametrize('body', [None, 42, 'no_such_net', dls_of])
def test_what_is_no_body_is_refused(body):
    if isinstance(body, str): pytest.importorskip('timm')
    with pytest.raises((TypeError, ValueError), match='expected|missing'): report(body)

@pytest.mark.parametrize('kw,error,msg', [
    (dict(body=Frozen('plain', None, None, None)), TypeError, 'as it is'), (dict(weights='x.pth'), ValueError, 'plain'),
    (dict(size=0), ValueError, 'size'), (dict(size=7.5), ValueError, 'whole number')])
def test_settings_that_make_no_sense(kw, error, msg):
    with pytest.raises(error, match=msg): frozen(**dict(dict(body='plain'), **kw))

# --- learners --------------------------------------------------------------------------------------------------------
def learner(dls, fit=True, norm='bn'):
    learn = tiny_learner(dls=dls, norm=norm)
    if fit: learn.fit(1)
    return learn

REMEDIES = r'trained on {} of these.*frozen\(resnet18\).*other images.*noise_report\(make_learner, dls\)'

def test_a_learner_of_other_items_judges():
    learn = learner(dls_of(squares(seed=5)))
    steps,mode = len(learn.recorder.losses),[m.training for m in learn.model.modules()]
    rep = report(learn)
    assert rep.judge.startswith('Sequential, frozen: 8 features') and len(learn.recorder.losses) == steps
    assert [m.training for m in learn.model.modules()] == mode

def test_a_learner_of_these_items_is_refused():
    dls = dls_of()
    learn = learner(dls, norm=None)
    for other in (dls, dls_of(), with_labels(dls, TRUE), dls_of(normalize=False)):
        with pytest.raises(ValueError, match=REMEDIES.format(120)): report(learn, other)
    X = squares(seed=6)
    X[7] = squares()[3]
    with pytest.raises(ValueError, match=REMEDIES.format(1)): report(learn, dls_of(X))

def test_an_unfitted_learner_may_judge_its_own_items_until_it_is_fitted():
    dls = dls_of()
    learn = learner(dls, fit=False)
    judge = frozen(learn)
    assert report(judge, dls).judge.startswith('Sequential')
    learn.fit(1)
    with pytest.raises(ValueError, match='trained on 120'): report(judge, dls)

def test_an_exported_learner_is_taken_with_a_warning(tmp_path):
    learn = learner(dls_of(squares(seed=5)))
    learn.export(tmp_path/'x.pkl')
    with pytest.warns(RobustWarning, match='does not tell what it was trained on'):
        report(load_learner(tmp_path/'x.pkl'), dls_of(n=40))

@pytest.mark.parametrize('own,theirs', [(True, False), (False, True), (True, True)])
def test_a_learner_sees_images_as_it_has_learned_them(own, theirs):
    "normalised by its own statistics, or not at all; never enlarged"
    learn = learner(dls_of(squares(40, seed=5), normalize=own), fit=False)
    learn.model = nn.Sequential(Pool(), nn.Linear(48, C))
    features(learn, dls_of(n=16, normalize=theirs))
    x = torch.tensor(squares(16)).permute(0, 3, 1, 2).float()/255
    if own:
        t = learn.dls.train.after_batch.fs[-1]
        x = (x-t.mean)/t.std
    torch.testing.assert_close(Pool.seen[-1].as_subclass(torch.Tensor), x.as_subclass(torch.Tensor), atol=1e-4, rtol=0)

# --- images ----------------------------------------------------------------------------------------------------------
def test_normalised_once_whatever_the_dls_do():
    want = features(tiny_arch, dls_of(n=24, normalize=False))
    for kw in ({}, dict(normalize=False, batch_tfms=[Normalize.from_stats(*imagenet_stats, cuda=False)])):
        torch.testing.assert_close(features(tiny_arch, dls_of(n=24, **kw)), want, atol=1e-4, rtol=1e-4)
    a,b = (features(Pool(), dls_of(n=24, normalize=o)) for o in (True, False))
    assert not torch.allclose(a, b, atol=.1)            # one's own network gets what the dls give

def test_grey_images_and_a_network_for_colours():
    dls = dls_of(grey=True)
    f = features(tiny_arch, dls)
    three = dls_of(np.repeat(squares(grey=True)[..., None], 3, 3))
    torch.testing.assert_close(f, features(tiny_arch, three), atol=1e-4, rtol=1e-4)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten())
    assert set(report(net, dls).table.item[:5]) <= set(WRONG)
    one = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten())
    assert features(one, dls).shape == (120, 36)
    with pytest.raises(ValueError, match='images that Sequential can take'): features(one, three)

@pytest.mark.parametrize('size,shape', [(None, (16, 16)), (32, (32, 32)), (8, (8, 8)), (16, (16, 16))])
def test_the_size_that_a_network_gets(size, shape):
    features(Pool(), dls_of(n=8, bs=8), size=size)
    assert Pool.seen[-1].shape[2:] == shape

def test_small_images_are_enlarged_for_named_architectures_alone():
    seen = []
    def arch(pretrained=True): # noqa: ARG001
        net = tiny_arch()
        net[0].register_forward_pre_hook(lambda m, x: seen.append(tuple(x[0].shape[2:])))
        return net
    for have,want in (((16, 16), (96, 96)), ((100, 120), (100, 120)), ((48, 60), (96, 120))):
        features(arch, dls_of(np.zeros((8, *have, 3), np.uint8), bs=8))
        assert set(seen) == {want}                      # also while its last layer is looked for
        seen.clear()

@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    "60 JPEG files of different sizes, in a folder for each class"
    root = tmp_path_factory.mktemp('photos')
    X = squares(60, size=20)
    for i in range(60):
        (root/str(i%C)).mkdir(exist_ok=True)
        Image.fromarray(X[i][:, :16+i%5]).save(root/str(i%C)/f'{i:03d}.jpg', quality=95)
    return root

def table(root):
    names = [str(o.relative_to(root)) for o in sorted(root.rglob('*.jpg'))]
    return pd.DataFrame(dict(name=names, label=[o[0] for o in names]))

def block(root, **kw):
    b = DataBlock((ImageBlock, CategoryBlock), get_x=lambda r: root/r['name'], get_y=lambda r: r['label'],
                  splitter=RandomSplitter(.2, seed=0), item_tfms=kw.pop('item_tfms'))
    kw = {k: v for k,v in kw.items() if k not in ('valid_pct', 'seed')}
    return b.dataloaders(table(root), **kw)

WAYS = dict(folder=ImageDataLoaders.from_folder, block=block,
            df=lambda root, **kw: ImageDataLoaders.from_df(table(root), root, **kw),
            lists=lambda root, **kw: ImageDataLoaders.from_lists(root, [root/o for o in table(root).name],
                                                                 list(table(root).label), **kw),
            func=lambda root, **kw: ImageDataLoaders.from_path_func(root, sorted(get_image_files(root)),
                                                                    lambda o: o.parent.name, **kw))

def files_dls(root, way='folder', **kw):
    kw = dict(dict(valid_pct=.2, seed=0, item_tfms=Resize(16), bs=8, num_workers=0, device='cpu'), **kw)
    return WAYS[way](root, **kw)

@pytest.mark.parametrize('way', WAYS)
def test_files_by_every_way_and_no_feature_twice(photos, way):
    dls,judge = files_dls(photos, way),frozen(Pool())
    rep = report(judge, dls)
    assert rep.acc > .95 and Pool.n == 48+2             # two are looked at to find the last layer
    report(judge, dls)
    y = rep.given.copy()
    y[:3] = (y[:3]+1)%C
    wrong = report(judge, with_labels(dls, y))
    assert {0, 1, 2} == set(wrong.table.item[:3]) and (wrong.given == y).all()
    judge.features(files_dls(photos, way), verbose=False)
    assert Pool.n == 50
    other = judge.features(files_dls(photos, way, item_tfms=Resize(12)), verbose=False)
    assert Pool.n == 100 and torch.equal(other.f, features(Pool(), files_dls(photos, way, item_tfms=Resize(12))))

@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('at', [0, 30])
def test_a_file_that_cannot_be_read_is_named_and_nothing_is_lost(photos, tmp_path, way, at):
    root = tmp_path/'photos'
    shutil.copytree(photos, root)
    dls,judge = files_dls(root, way),frozen(Pool())
    file = Path(files_of(dls.train_ds)[at])
    good = file.read_bytes()
    file.write_bytes(good[:100])
    with pytest.raises(ValueError, match=f'got 1 of 48 that cannot, first .*{file.name}'): report(judge, dls)
    file.write_bytes(good)
    assert report(judge, dls).acc > .95
    file.unlink()
    with pytest.raises((FileNotFoundError, ValueError), match=file.name): report(judge, dls)

@pytest.mark.parametrize('way', WAYS)
def test_a_learner_of_these_files_is_refused(photos, way):
    dls = files_dls(photos, way)
    net = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, C))
    learn = Learner(dls, net, loss_func=nn.CrossEntropyLoss())
    learn.recorder.losses = [1.]                        # as after a fit
    for other in (dls, files_dls(photos), with_labels(dls, 1-np.minimum(given_labels(dls), 1))):
        with pytest.raises(ValueError, match=REMEDIES.format(r'\d\d')): report(learn, other)

def test_other_images_are_not_taken_for_known_ones():
    judge = frozen(Pool())
    a,b = dls_of(n=40),dls_of(squares(40, seed=9), GIVEN[:40])
    f = judge.features(a, verbose=False).f
    assert torch.equal(judge.features(b, verbose=False).f, features(Pool(), b))
    assert torch.equal(judge.features(a, verbose=False).f, f)
    plain = judge.features(dls_of(n=40, normalize=False), verbose=False).f
    assert not torch.allclose(plain, f, atol=.1)

def test_a_network_that_has_changed_is_another():
    net,dls = nn.Sequential(nn.Flatten(), nn.Linear(768, 6), nn.ReLU()),dls_of(n=40)
    judge = frozen(net)
    f = judge.features(dls, verbose=False).f
    with torch.no_grad(): net[1].weight.mul_(2)
    assert not torch.allclose(judge.features(dls, verbose=False).f, f)

@pytest.mark.parametrize('kw', [dict(shuffle=False), dict(drop_last=True, bs=32), dict(bs=7), dict(val_bs=2)])
def test_the_order_is_that_of_the_items(kw):
    want = features(Pool(), dls_of(n=60, bs=60, shuffle=False))
    torch.testing.assert_close(features(Pool(), dls_of(n=60, **kw)), want, atol=1e-5, rtol=0)

def test_weighted_loaders_keep_the_order(photos):
    b = DataBlock((ImageBlock, CategoryBlock), get_items=lambda p: sorted(get_image_files(p)), item_tfms=Resize(16),
                  get_y=lambda o: o.parent.name, splitter=RandomSplitter(.2, seed=0))
    kw = dict(bs=8, num_workers=0, device='cpu')
    a = b.dataloaders(photos, **kw)
    w = b.weighted_dataloaders(photos, np.linspace(1, 9, 60), **kw)
    assert list(a.train_ds.items) == list(w.train_ds.items)
    assert torch.equal(features(Pool(), w), features(Pool(), a))

def test_nothing_is_augmented(photos):
    want = features(Pool(), files_dls(photos))
    got = features(Pool(), files_dls(photos, batch_tfms=aug_transforms()))
    torch.testing.assert_close(got, want, atol=1e-6, rtol=0)

def test_worker_processes_see_the_same(photos):
    assert torch.equal(features(Pool(), files_dls(photos, num_workers=2)), features(Pool(), files_dls(photos)))

# --- few, odd, refused -----------------------------------------------------------------------------------------------
def test_two_images():
    rep = report(Pool(), dls_of(n=2, y=[0, 1], bs=2), plant=0)
    assert not rep.trusted and np.isnan(rep.rate) and len(rep.table) == 2 and rep.title.startswith('No share')

def test_a_class_of_one_item_is_not_judged():
    y = np.where(TRUE == 2, 0, TRUE)
    y[50] = 2
    rep = report(Pool(), dls_of(y=y))
    assert rep.judged.tolist() == [True, True, False] and not rep.issues[50] and rep.table.item.iloc[-1] == 50

@pytest.mark.parametrize('n', [1, 40])
def test_one_class_is_refused(n):
    with pytest.raises(ValueError, match="two classes or more, got .* of '0' alone"):
        report(Pool(), dls_of(n=n, y=np.zeros(n, int), bs=1))
    assert not Pool.n

@pytest.mark.parametrize('way', [dict(label_delim=' '), dict(y_block=RegressionBlock)])
def test_other_targets_are_refused_before_the_pass(photos, way):
    df = table(photos).assign(label=np.arange(60.) if 'y_block' in way else '0 1')
    dls = ImageDataLoaders.from_df(df, photos, item_tfms=Resize(16), bs=8, num_workers=0, **way)
    with pytest.raises(ValueError, match='single-label'): report(Pool(), dls)
    assert not Pool.n

def test_tables_and_texts_are_refused():
    df = pd.DataFrame(dict(a=np.arange(40.), text='a b c', y=['u', 'v']*20))
    for dls in (TabularDataLoaders.from_df(df, y_names='y', cont_names=['a'], y_block=CategoryBlock(), bs=8),
                TextDataLoaders.from_df(df, text_col='text', label_col='y', bs=8, seq_len=4)):
        for body in ('plain', Pool()):
            with pytest.raises(TypeError, match=r'images \(b,c,h,w\).*noise_report\(make_learner, dls\)'):
                report(body, dls)

class Diverged(Pool):
    def forward(self, x):
        f = super().forward(x)
        return f*float('nan') if Pool.n > 40 else f

def test_features_that_are_not_finite_are_refused_with_their_place():
    with pytest.raises(ValueError, match='NaN or inf among items 32 to 47.*diverged'): report(Diverged())

def test_a_body_of_maps_is_refused_with_a_remedy():
    with pytest.raises(ValueError, match='AdaptiveAvgPool2d'): report(nn.Conv2d(3, 5, 3))

@pytest.mark.parametrize('kw', [dict(epochs=3), dict(lr=.1), dict(path='x')])
def test_settings_of_a_training_are_refused(kw):
    with pytest.raises(ValueError, match=f'no {next(iter(kw))} with a frozen judge'): report(Pool(), **kw)
    assert not Pool.n

# --- the audit around it ---------------------------------------------------------------------------------------------
def test_seeds_draws_and_no_plants():
    judge,dls = frozen(Pool()),dls_of()
    a,b,c = (report(judge, dls, seed=s) for s in (0, 0, 1))
    none,one = report(judge, dls, plant=0),report(judge, dls, draws=1, plant=.1)
    pd.testing.assert_frame_equal(a.table, b.table)
    assert a.check == b.check != c.check and a.check.n == 30 and one.check.n == 12 and none.check is None
    for o in (c, none, one):                            # planting measures, it changes nothing
        assert (o.rate, o.lo, o.hi) == (a.rate, a.lo, a.hi) and np.array_equal(o.probs, a.probs)
        pd.testing.assert_frame_equal(o.table, a.table)
    assert Pool.n == 122
    with pytest.raises(ValueError, match='draws'): report(judge, dls, draws=0)

def test_the_rate_alone_and_advice():
    judge,dls = frozen(Pool()),dls_of()
    tau = estimate_tau(judge, dls)
    assert tau.lo <= 10/120 <= tau.hi and 0 < tau.tau < .2
    facts = advise(dls, make_learner=judge).facts
    assert facts['wrong labels'].startswith(f'{tau.tau:.1%}')

def test_features_are_kept_in_a_folder(tmp_path):
    dls = dls_of()
    a = report(frozen(Pool(), path=tmp_path), dls)
    n = Pool.n
    b = report(frozen(Pool(), path=str(tmp_path)), dls)
    assert Pool.n == n+2 and np.array_equal(a.probs, b.probs)
    pd.testing.assert_frame_equal(a.table, b.table)

def test_a_body_that_is_cut_already():
    x = torch.rand(4, 3, 16, 16)
    body = body_of(tiny_arch, x)
    torch.testing.assert_close(features(body, dls_of(n=16), size=96), features(tiny_arch, dls_of(n=16)))

@pytest.mark.parametrize('kw', [dict(n_folds=7), dict(plant_kind='confusion')], ids=str)
def test_settings_of_folds_are_not_for_a_frozen_judge(kw):
    says = f'no {[*kw][0]}=.*with a frozen judge'
    with pytest.raises(ValueError, match=says): report(Pool(), dls_of(squares()), **kw)

@pytest.mark.parametrize('kw,msg', [(dict(plant=-1), r'share in \[0,.5\]'), (dict(plant=.9), r'share in \[0,.5\]'),
                                    (dict(seed=1.5), 'seed')], ids=str)
def test_a_wrong_share_or_seed_is_refused_at_the_door(kw, msg):
    with pytest.raises((ValueError, TypeError), match=msg): report(Pool(), dls_of(squares()), **kw)

def test_draws_are_not_for_folds():
    with pytest.raises(ValueError, match='no draws=9.*folds'): noise_report(lambda d: None, dls_of(squares()), draws=9)
