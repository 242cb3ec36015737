"linear_probe against numpy's ridge on tokens taken block by block, and that a look changes nothing"
import random
import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer, resnet18
from fastai.data.transforms import Normalize
from fastai.learner import Learner
from fastai.torch_core import TensorImageBW
from fastai.vision.augment import RandTransform
from conftest import tiny_dls
from fastrobust.data.fromarrays import array_dls
from fastrobust.nets import small_cnn
from fastrobust.systems.tinymim.inside import Unlabelled
from fastrobust.systems.tinymim.learner import tinymim_learner
from fastrobust.systems.tinymim.mae import MAEPretrain
from fastrobust.systems.tinymim.mimdata import mim_dls
from fastrobust.systems.tinymim.mimic import TinyMIM
from fastrobust.systems.tinymim.probe import linear_probe
from fastrobust.systems.tinymim.tinyvit import tiny_vit

def blobs(n, seed):
    "Images of three kinds that one can nearly tell"
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    x = rng.integers(0, 120, (n, 8, 8))
    x[y == 1, :4] += 40
    x[y == 2, :, 4:] += 40
    return x.astype(np.uint8),y

def data(n=90, m=70, **kw): return array_dls(*blobs(n, 0), valid=blobs(m, 1), bs=32, device='cpu', **kw)

def net(**kw):
    torch.manual_seed(0)
    return tiny_vit(8, 2, 16, 3, 2, 1, **kw)

def probe(*args, **kw): return linear_probe(*args, verbose=False, **kw)

# --- the oracle ------------------------------------------------------------------------------------------------------
def batch_of(dl):
    "All images of a loader as the network gets them, in order, and the labels"
    x = dl.dataset.items.x.float()/255
    norm = dl.after_batch.fs[-1]
    return (x - norm.mean)/norm.std,dl.dataset.items.y.numpy()

@torch.no_grad()
def tokens(model, x, layer):
    "Tokens (n,17,16), by going through the blocks of a `tiny_vit` one after the other"
    t = model.patch_embed(x).flatten(2).transpose(1, 2) + model.pos_embed
    t = torch.cat([model.cls_token.expand(len(x), -1, -1), t], 1)
    for i,block in enumerate(model.blocks):
        if i == layer: return t
        t = block(t)
    return model.norm(t)

def ridge(model, dls, layer, pool, gamma):
    "(accuracy, rows, labels) in numpy: standardised, a constant without penalty"
    fs = []
    for dl in dls.loaders:
        x,y = batch_of(dl)
        t = tokens(model, x, layer).double().numpy()
        fs.append((t[:, 0] if pool == 'class' else t[:, 1:].mean(1), y))
    (a,ya),(b,yb) = fs
    mean,std = a.mean(0),a.std(0)
    a,b = (a-mean)/std,(b-mean)/std
    Y = np.eye(3)[ya]
    centre = Y.mean(0)
    W = np.linalg.solve(a.T@a + gamma*np.eye(a.shape[1]), a.T@(Y-centre))
    return float(((b@W+centre).argmax(1) == yb).mean()),a,Y-centre

@pytest.mark.parametrize('layer, at, pool', [('last', 2, 'mean'), ('norm', 3, 'mean'), (1, 1, 'mean'), (-3, 0, 'mean'),
                                             (-2, 1, 'class'), ('last', 2, 'class'), ('norm', 3, 'class')])
def test_accuracy_is_that_of_numpys_ridge_on_the_same_tokens(layer, at, pool):
    dls,model = data(),net().eval()
    got = probe(model, dls, layer=layer, pool=pool, gamma=3.)
    want,*_ = ridge(model, dls, at, pool, 3.)
    assert float(got) == got.accuracy == pytest.approx(want, abs=1e-12)
    assert (got.n, got.n_valid, got.d, got.gamma) == (90, 70, 16, 3.)

def test_layers_are_told_apart():
    "Else the test above would pass with any of them"
    dls,model = data(),net().eval()
    found = {ridge(model, dls, at, pool, 3.)[0] for at in range(1, 4) for pool in ('mean', 'class')}
    assert len(found) > 3

def test_the_penalty_is_the_best_of_its_neighbours_by_generalised_cross_validation():
    dls,model = data(),net().eval()
    gamma = probe(model, dls).gamma
    _,Z,Y = ridge(model, dls, 2, 'mean', 1.)
    def gcv(g):
        H = Z@np.linalg.solve(Z.T@Z + g*np.eye(16), Z.T)
        dof = np.trace(H) + 1       # and the constant
        return ((Y - H@Y)**2).sum()/(1-dof/len(Y))**2
    assert gcv(gamma) <= min(gcv(gamma*3), gcv(gamma/3)) + 1e-12

def test_wrong_labels_of_validation_count_against_it():
    X,y = blobs(90, 0)
    model = net()
    right = probe(model, array_dls(X, y, valid=(X, y), bs=32, device='cpu'))
    wrong = probe(model, array_dls(X, y, valid=(X, (y+1) % 3), bs=32, device='cpu'))
    assert right.accuracy > .6 and wrong.accuracy <= 1-right.accuracy + 1e-9

# --- what it says ----------------------------------------------------------------------------------------------------
def test_the_result_in_a_line():
    got = probe(net(), data(), gamma=2.)
    n,p,z = 70,got.accuracy,1.96
    half = z*np.sqrt(p*(1-p)/n + z*z/(4*n*n))/(1+z*z/n)
    mid = (p + z*z/(2*n))/(1+z*z/n)
    assert got.low == pytest.approx(mid-half) and got.high == pytest.approx(mid+half)
    assert '\n' not in repr(got) and f'{p:.3f}' in repr(got) and 'gamma=2' in repr(got)
    assert 'goes into block 2 of 3' in repr(got)

def test_a_bar_only_where_it_is_wanted(capsys):
    probe(net(), data())
    assert capsys.readouterr().out == ''

# --- nothing changes -------------------------------------------------------------------------------------------------
def hooks(model): return sum(len(m._forward_hooks)+len(m._forward_pre_hooks) for m in model.modules())

def states(): return random.getstate(),np.random.get_state()[1].tolist(),torch.get_rng_state().tolist()

@pytest.mark.parametrize('layer', ['last', 'norm', 0])
def test_network_streams_and_loaders_stay_as_they_are(layer):
    dls,model = data(),net(drop_path=.5)
    model.train()
    model.blocks[0].eval()
    modes = [m.training for m in model.modules()]
    weights = {k: v.clone() for k,v in model.state_dict().items()}
    before,rng = states(),dls.train.rng.getstate()
    got = probe(model, dls, layer=layer)
    assert states() == before and dls.train.rng.getstate() == rng
    assert [m.training for m in model.modules()] == modes and not hooks(model)
    assert all(torch.equal(v, weights[k]) for k,v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert probe(model, dls, layer=layer) == got        # at rest: no block is skipped

class _Break(nn.Module):
    def forward(self, x): raise RuntimeError('broken')

def test_no_hook_stays_where_the_network_fails():
    dls,model = data(),net()
    model.blocks[0].mlp = _Break()
    with pytest.raises(RuntimeError, match='broken'): probe(model, dls)
    assert not hooks(model)

@pytest.mark.parametrize('cbs', [[], lambda: TinyMIM(tiny_vit(8, 2, 32, 2, 4, 1)), lambda: MAEPretrain()])
def test_a_learner_is_its_plain_network(cbs):
    dls,model = data(),net()
    want = probe(model, dls)
    learn = Learner(dls, model, Unlabelled(), cbs=cbs() if callable(cbs) else cbs)
    around = learn.model
    assert probe(learn, dls) == want
    assert learn.model is around and not hooks(model)

class _Never(RandTransform):
    "Must not be run"
    split_idx = 0
    def encodes(self, x:TensorImageBW): raise AssertionError('augmented')

def test_training_images_are_read_without_augmentation():
    dls = data(batch_tfms=[_Never()])
    assert probe(net(), dls) == probe(net(), data())

# --- pixels ----------------------------------------------------------------------------------------------------------
STATS = [.9],[.05]

def normed(stats=None):
    "Loaders that normalise by `stats`, or do not"
    tfms = [Normalize.from_stats(*stats, cuda=False)] if stats else []
    return data(normalize=False, batch_tfms=tfms)

@pytest.mark.parametrize('its', [STATS, None])
@pytest.mark.parametrize('here', [STATS, None, ([.2], [.3])])
@pytest.mark.parametrize('of', [Learner, None])
def test_a_learners_images_are_normalised_as_its_own_loaders_do_it(its, here, of):
    "Whatever the dls do, which stay as they are; those of a bare network are as they come"
    dls,model,seen = normed(here),net(),[]
    model.patch_embed.register_forward_pre_hook(lambda _m, x: seen.append(x[0].clone()))
    fs = [list(dl.after_batch.fs) for dl in dls.loaders]
    probe(Learner(normed(its), model, Unlabelled()) if of else model, dls)
    stats = its if of else here
    (mean,),(std,) = stats or ([0.], [1.])
    pixels = np.concatenate([blobs(90, 0)[0], blobs(70, 1)[0]])/255
    np.testing.assert_allclose(torch.cat(seen)[:, 0], (pixels-mean)/std, atol=1e-4)
    assert [list(dl.after_batch.fs) for dl in dls.loaders] == fs

def test_the_probe_is_that_on_the_loaders_of_a_classifier():
    X,_ = blobs(90, 0)
    learn = tinymim_learner(mim_dls(X, size=8, bs=16, stats=STATS, device='cpu'), net(), technique='mae')
    dls = normed()
    before = probe(learn, dls)
    clf = learn.to_classifier(dls)
    assert any(isinstance(t, Normalize) for t in clf.dls.train.after_batch.fs)
    assert probe(learn, clf.dls) == probe(learn, dls) == before == probe(learn.student, clf.dls)

def test_loaders_may_keep_the_name_of_their_device():
    dls,model = data(),net()
    want = probe(model, dls)
    dls._device = 'cpu'     # as ImageDataLoaders(.., device='cpu') have it
    assert dls.device == 'cpu' and not isinstance(dls.device, torch.device)
    assert probe(model, dls) == want

# --- other people's networks -----------------------------------------------------------------------------------------
def colour(size=32): return tiny_dls(n=24, size=size, channels=3)

def test_torchvision():
    torch.manual_seed(0)
    model = VisionTransformer(image_size=32, patch_size=8, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=64)
    for kw in (dict(), dict(layer='norm'), dict(pool='class'), dict(layer=0)):
        got = probe(model, colour(), **kw)
        assert got.d == 32 and 0 <= got.accuracy <= 1

@pytest.mark.parametrize('name, width', [('vit_tiny_patch16_224', 192), ('deit_tiny_distilled_patch16_224', 192),
                                         ('vit_medium_patch16_reg4_gap_256', 512)])
def test_timm(name, width):
    timm = pytest.importorskip('timm')
    model = timm.create_model(name, img_size=32, num_classes=0, depth=2)
    got = probe(model, colour(), layer='last')
    assert got.d == width
    assert probe(model, colour(), layer='norm').d == width

def test_timm_pools_before_its_norm_as_we_do():
    timm = pytest.importorskip('timm')
    torch.manual_seed(0)
    model = timm.create_model('vit_tiny_patch16_224', img_size=32, num_classes=0, depth=2, global_pool='avg').eval()
    dls = colour()
    got = probe(model, dls, layer='norm', gamma=5.)
    assert got.d == 192 and 'after the last norm' in got.layer
    with pytest.raises(ValueError, match="pool='class'|layer='last'"): probe(model, dls, layer='norm', pool='class')

# --- bad input -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('kw, says', [
    (dict(layer='first'), "'last'"), (dict(layer=3), "-3 to 2"), (dict(layer=True), '`layer`'),
    (dict(layer=1.5), '`layer`'),
    (dict(pool='max'), "'mean'"), (dict(gamma=-1.), 'gamma'), (dict(gamma='best'), 'gamma')])
def test_bad_settings_are_named(kw, says):
    with pytest.raises((ValueError, TypeError), match=says): probe(net(), data(), **kw)

def test_bad_networks_and_data_are_named():
    dls = data()
    with pytest.raises(ValueError, match='attention'): probe(small_cnn(3, 1), dls)
    with pytest.raises(ValueError, match='attention'): probe(resnet18(), colour())
    with pytest.raises(TypeError, match='`model`'): probe('vit_tiny_patch16_224', dls)
    with pytest.raises(TypeError, match='`dls`'): probe(net(), dls.train)
    model = net()
    model.norm = nn.Identity()
    with pytest.raises(ValueError, match="layer='last'"): probe(model, dls, layer='norm')
    empty = array_dls(*blobs(90, 0), valid=blobs(70, 1), bs=32, device='cpu')
    empty.loaders = empty.loaders[:1]
    with pytest.raises(ValueError, match='validation'): probe(net(), empty)
    timm = pytest.importorskip('timm')
    gap = timm.create_model('vit_medium_patch16_reg4_gap_256', img_size=32, num_classes=0, depth=2)
    with pytest.raises(ValueError, match='class token'): probe(gap, colour(), pool='class')

def test_images_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="1 channel.*got one for 3.*ImageBlock"):
        probe(tiny_vit(8, 2, 16, 2, 2, 3), data())
    # a Learner's three means would make three channels of one
    colours = Learner(tiny_dls(n=24, size=8, channels=3), tiny_vit(8, 2, 16, 2, 2, 3), Unlabelled())
    with pytest.raises(ValueError, match="1 channel"): probe(colours, data())
    model = VisionTransformer(image_size=32, patch_size=8, num_layers=1, num_heads=4, hidden_dim=32, mlp_dim=64)
    with pytest.raises(ValueError, match='32x32.*got 16x16.*Resize'): probe(model, colour(16))
    timm = pytest.importorskip('timm')
    model = timm.create_model('vit_tiny_patch16_224', img_size=32, num_classes=0, depth=1)
    with pytest.raises(ValueError, match='32x32.*got 64x64.*Resize'): probe(model, colour(64))

def test_labels_are_needed():
    with pytest.raises(ValueError, match='vocab'): probe(net(), mim_dls(blobs(90, 0)[0], size=8, bs=16))
