"The last layer in one pass: scikit-learn's ridge, leave-one-out temperature, where it goes, what goes on, refusals"
import copy
import numpy as np
import pytest, torch
from sklearn.linear_model import Ridge
from torch import nn
from fastai.callback.schedule import fine_tune, fit_one_cycle    # noqa: F401 (patch Learner)
from fastai.learner import Learner, load_learner
from fastai.metrics import accuracy
from fastai.torch_core import set_seed
from torchvision.models import resnet18
from fastrobust.basics import RobustWarning
from fastrobust.inference.fitting import fit_temperature
from fastrobust.data.editing import take_items
from fastrobust.data.fromarrays import array_dls
from fastrobust.learner import robust_learner
from fastrobust.nets import small_cnn
from fastrobust.noise.block import add_label_noise
from fastrobust.noise.laws import NoisyLabels
from fastrobust.stripping import strip
from fastrobust.systems import closedform as module
from fastrobust.systems.closedform import closed_form_head
from fastrobust.training.surgery import looks_trained
from conftest import TwinNet
from test_acil import NAMES, blob_dls, blobs, quiet

def cnn_learner(dls=None, **kw):
    return quiet(robust_learner(dls or blob_dls(), small_cnn(7, 3, 16, depth=2), metrics=accuracy, **kw))

def inputs(learn, layer, dl):
    "What a layer is given, by a hook of the test's own"
    found = []
    h = layer.register_forward_pre_hook(lambda m, a: found.append(a[0].detach()))
    with torch.no_grad():
        learn.model.eval()
        for b in dl.new(shuffle=False, drop_last=False): learn.model(b[0])
    h.remove()
    return torch.cat(found).as_subclass(torch.Tensor)

@pytest.mark.parametrize('gamma', ['auto', 3.])
def test_scikit_learns_ridge_over_the_temperature(gamma, capsys):
    learn = cnn_learner()
    learn.fit(1)
    layer = learn.model[-1]
    f,y = inputs(learn, layer, learn.dls.train).double(),learn.dls.train_ds.items.y
    std = f.std(0, unbiased=False)
    std[std == 0] = 1
    closed_form_head(learn, gamma)
    got = learn.closed_form
    Z,Y = ((f-f.mean(0))/std).numpy(),np.eye(7)[y]
    r = Ridge(alpha=got.gamma).fit(Z, Y)
    np.testing.assert_allclose(layer(f.float()).detach()*got.T, r.predict(Z), atol=2e-5)
    loo = []        # refitted without each of some items
    for i in range(0, 210, 15):
        keep = np.arange(210) != i
        loo.append(Ridge(alpha=got.gamma).fit(Z[keep], Y[keep]).predict(Z[i:i+1])[0])
    H = np.c_[Z, np.ones(210)]
    P = H @ np.linalg.solve(H.T@H + got.gamma*np.diag([1.]*16+[0.]), H.T)
    all_loo = Y - (Y - r.predict(Z))/(1-np.diag(P))[:, None]
    np.testing.assert_allclose(all_loo[::15], loo, atol=1e-8)
    assert got.T == pytest.approx(fit_temperature(all_loo, y), rel=1e-4)
    assert got.accuracy == pytest.approx((all_loo.argmax(1) == y.numpy()).mean())
    assert got.n == 210 and got.d == 16 and not got.fresh and (gamma == 'auto' or got.gamma == 3)
    assert 'the layers below may know the items' in capsys.readouterr().out

def test_an_untrained_head_of_fastais_is_replaced(capsys):
    dls = blob_dls(12, n_valid=4)
    learn = quiet(robust_learner(dls, resnet18, pretrained=False, metrics=accuracy))
    body = copy.deepcopy(learn.model[0].state_dict())
    learn.create_opt()
    with pytest.warns(RobustWarning, match='features are random'): closed_form_head(learn)
    assert [type(m).__name__ for m in learn.model[1]] == ['AdaptiveAvgPool2d', 'Flatten', 'Linear']
    assert learn.closed_form.fresh and learn.closed_form.d == 512 and 'may know' not in capsys.readouterr().out
    assert all(torch.equal(v, body[k]) for k,v in learn.model[0].state_dict().items())
    assert learn.validate()[1] > .5
    optimized = [id(p) for g in learn.opt.param_lists for p in g]
    assert sorted(optimized) == sorted(id(p) for p in learn.model.parameters())

def test_the_replaced_head_stays_frozen_or_not():
    for pretrained in (True, False):
        learn = quiet(robust_learner(blob_dls(8, n_valid=3), resnet18, pretrained=False))
        if pretrained: learn.freeze()
        with pytest.warns(RobustWarning): closed_form_head(learn, verbose=False)
        frozen = learn.opt is not None and learn.opt.frozen_idx
        assert bool(frozen) == pretrained
        conv = learn.model[0][0].weight
        assert conv.requires_grad != pretrained and learn.model[1][-1].weight.requires_grad
        learn.fit(1, 1e-5)

def test_a_trained_head_is_kept():
    learn = quiet(robust_learner(blob_dls(8, n_valid=3), resnet18, pretrained=False))
    learn.fit(1, 1e-4)
    assert looks_trained(learn.model[1])
    closed_form_head(learn, verbose=False)
    assert len(learn.model[1]) > 5 and not learn.closed_form.fresh and learn.closed_form.d == 512
    closed_form_head(learn, head='pool', verbose=False)
    assert len(learn.model[1]) == 3

def test_it_predicts_and_goes_everywhere(tmp_path):
    learn = cnn_learner()
    learn.path = tmp_path
    learn.fit(1)
    before = learn.validate()
    closed_form_head(learn, verbose=False)
    after = learn.validate()
    assert after[1] >= before[1] and after[0] < before[0]
    X,_ = blobs(1)
    name,_,p = learn.predict(X[2])
    assert name in NAMES and p.sum() == pytest.approx(1, abs=1e-5)
    learn.export('it.pkl')
    torch.testing.assert_close(load_learner(tmp_path/'it.pkl').predict(X[2])[2], p)
    plain = strip(learn)
    torch.testing.assert_close(plain.get_preds()[0], learn.get_preds()[0])
    learn.fit(1, 1e-4)
    assert learn.validate()[1] > .6     # goes on from there, not from chance

def test_no_bias_and_missing_classes():
    learn = cnn_learner()
    learn.model[-1] = nn.Linear(16, 7, bias=False)
    f,y = inputs(learn, learn.model[-1], learn.dls.train).double(),learn.dls.train_ds.items.y
    closed_form_head(learn, 2., verbose=False)
    std = f.std(0, unbiased=False)
    std[std == 0] = 1
    r = Ridge(alpha=2., fit_intercept=False).fit(f/std, np.eye(7)[y])
    np.testing.assert_allclose(learn.model[-1](f.float()).detach()*learn.closed_form.T, r.predict(f/std), atol=2e-5)
    learn = cnn_learner(take_items(blob_dls(), np.flatnonzero(y < 5)))
    closed_form_head(learn, verbose=False)
    p = learn.get_preds()[0]
    assert not np.isin([5, 6], p.argmax(1)).any() and p[:, 5:].max() < .05

def test_balance_and_noise(capsys):
    "Balanced: the mean accuracy of classes rises on a long tail. Noisy labels are learned as given"
    X,y = blobs(60)
    g = np.random.default_rng(0)
    X = np.where(g.random(X.shape) < .5, 60, X).astype(np.uint8)
    keep = (y < 3) | (g.random(len(y)) < .04)
    names = np.array(NAMES)
    Xv,yv = blobs(30, seed=1)
    found = {}
    for b in (False, True):
        set_seed(0)
        dls = array_dls(X[keep], names[y[keep]], valid=(Xv, names[yv]), vocab=NAMES, bs=16)
        learn = quiet(Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(192, 7))))
        closed_form_head(learn, 100., balance=b, verbose=False)
        z,t = learn.get_preds()
        hit = z.argmax(1) == t
        found[b] = np.mean([hit[t == k].double().mean() for k in range(7)])
    assert found[True] > found[False] + .02
    dls = add_label_noise(blob_dls(), NoisyLabels('symmetric', .4))
    learn = quiet(Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(192, 7)), metrics=accuracy))
    closed_form_head(learn)
    assert learn.closed_form.accuracy < .75 < learn.validate()[1]      # at most .6 of the given labels can be right
    assert 'on the given labels' in capsys.readouterr().out

def test_nothing_changes_where_it_fails(monkeypatch):
    learn = cnn_learner()
    before,state = copy.deepcopy(learn.model.state_dict()),torch.get_rng_state()
    monkeypatch.setattr(module, 'left_out', lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt): closed_form_head(learn)
    assert all(torch.equal(v, before[k]) for k,v in learn.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state) and not any(m._forward_pre_hooks for m in learn.model.modules())
    monkeypatch.undo()
    modes = [m.training for m in learn.model.modules()]
    closed_form_head(learn, verbose=False)
    assert [m.training for m in learn.model.modules()] == modes and torch.equal(torch.get_rng_state(), state)

def test_refused():
    learn = cnn_learner()
    for kw,err,says in [(dict(gamma=0), ValueError, '`gamma`'), (dict(gamma='best'), TypeError, '`gamma`'),
                        (dict(head='new'), ValueError, '`head`')]:
        with pytest.raises(err, match=says): closed_form_head(learn, **kw)
    with pytest.raises(TypeError, match='expected a fastai Learner'): closed_form_head(learn.model)
    with pytest.raises(ValueError, match="Take head='last'"): closed_form_head(learn, head='pool')
    twin = cnn_learner()
    twin.model = TwinNet(twin.model, copy.deepcopy(twin.model))
    with pytest.raises(ValueError, match='a technique has changed'): closed_form_head(twin)
    soft = cnn_learner()
    soft.model = nn.Sequential(soft.model, nn.Softmax(1))
    with pytest.raises(ValueError, match='no layer to solve for'): closed_form_head(soft, head='last')
    wide = cnn_learner()
    wide.model[-1] = nn.Linear(16, 9)
    with pytest.raises(ValueError, match='7 outputs, one for each class of the dls, got 9'): closed_form_head(wide)
    normed = cnn_learner()
    normed.model[-1] = nn.utils.parametrizations.weight_norm(normed.model[-1])
    with pytest.raises(ValueError, match='plain nn.Linear'): closed_form_head(normed)

def test_an_exported_learner_has_no_items(tmp_path):
    learn = cnn_learner()
    learn.path = tmp_path
    learn.export('it.pkl')
    with pytest.raises(ValueError, match='training items, got none'): closed_form_head(load_learner(tmp_path/'it.pkl'))
