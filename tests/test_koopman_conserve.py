"The mean that `conserve=True` keeps, in the units of the data: pairs, sides that do not wrap, variables, globes"
import pickle
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from fastrobust.systems.koopman.data.fields import field_dls
from fastrobust.systems.koopman.learner import koopman_learner
from fastrobust.systems.koopman.networks.fno import FNO1d, FNO2d
from fastrobust.systems.koopman.networks.kno import KNO1d
from fastrobust.systems.koopman.networks.semigroup import SemigroupKNO
from fastrobust.systems.koopman.rolling import Scaled, roll

def fields(n, *shape, seed=0):
    "Smooth fields with means of their own"
    g = torch.Generator().manual_seed(seed)
    f = torch.fft.rfft(torch.randn(n, *shape, generator=g))
    f[..., 4:] = 0
    mean = torch.randn(n, *shape[:-2], *[1]*min(len(shape), 2), generator=g)
    return (2*torch.fft.irfft(f, n=shape[-1]) + mean).numpy()

def trained(data, y, net, **kw):
    learn = koopman_learner(field_dls(data, y, bs=8, device='cpu', **kw), net)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    return learn.model.eval()

def rolled(net, u, steps, c=1):
    with torch.no_grad(): return roll(net, u, steps, c)

NETS = [lambda t: FNO1d(t, width=4, m=4, t_out=t, conserve=True), lambda t: KNO1d(t, o=4, m=4, conserve=True),
        lambda t: SemigroupKNO(t_in=t, o=4, m=4, conserve=True)]

@pytest.mark.parametrize('make', NETS)
@pytest.mark.parametrize('periodic', [True, False])
def test_pairs_with_scales_of_their_own(make, periodic):
    u = fields(40, 32)
    mean = u.mean(1, keepdims=True)
    y = .3*(np.roll(u, 3, 1)-mean) + mean       # what decays about a mean that stays
    net = trained(u, y, make(1), periodic=periodic)
    assert not torch.allclose(net.std, net.out_std, rtol=.1)
    v = torch.as_tensor(fields(9, 32, seed=1))[:, None]
    for steps in (1, 8):
        p = rolled(net, v, steps)
        assert (p.double().mean(2) - v.double().mean(2)).abs().max() < 1e-6
    assert (p[:, -1]-v[:, 0]).abs().max() > .1

@pytest.mark.parametrize('make', NETS)
def test_several_variables_of_pairs(make):
    u = fields(40, 2, 32)
    mean = u.mean(2, keepdims=True)
    y = np.array([[.5], [.1]], np.float32)*(u-mean) + mean
    net = trained(u, y, make(2), periodic=False, axes='n c x')
    v = torch.as_tensor(fields(9, 2, 32, seed=1))
    p = rolled(net, v, 3, 2)
    assert (p.double().unflatten(1, (3, 2)).mean(3) - v.double().mean(2)[:, None]).abs().max() < 1e-6

@pytest.mark.parametrize('step', [1, 2])
def test_a_globe_keeps_its_weighted_mean(step):
    "On the training mesh, and on every second row of it"
    h,lat = fields(20, 3, 16, 32),np.linspace(-80, 80, 16)
    net = trained(h, None, FNO2d(1, width=4, m=3, hidden=8, conserve=True), latitude=lat, t_out=2)
    w = torch.as_tensor(np.cos(np.deg2rad(lat)))[::step, None]
    v = torch.as_tensor(fields(5, 1, 16, 32, seed=1))[..., ::step, ::step]
    p = rolled(net, v, 4)
    of = lambda x: (w*x.double()).mean((2, 3))/w.mean()
    assert (of(p)-of(v)).abs().max() < 1e-6 and (p.mean((2, 3))-v.mean((2, 3))).abs().max() > 1e-4
    with pytest.raises(ValueError, match=r'16 rows .* or every so manyth of them, .* got 24'):
        net(torch.randn(1, 1, 24, 32))
    for n,rows,k in ((17, 3, 8), (17, 5, 4), (9, 3, 3), (8, 8, 1)):     # as `mesh_report` takes them
        w = torch.rand(n, 1)
        net.weights = w
        assert torch.allclose(net._rows(rows), w[::k]/w[::k].mean()) and len(w[::k]) == rows
    assert 'weights' not in net.state_dict()        # files of weights stay as they were

def test_the_mean_of_data_is_no_worse_for_it():
    "A decay about a mean that stays, learned: with the mean kept the error is smaller than without"
    u = fields(60, 32)
    mean = u.mean(1, keepdims=True)
    y = .3*(u-mean) + mean
    off = []
    for conserve in (False, True):
        torch.manual_seed(0)
        learn = koopman_learner(field_dls(u, y, bs=12, device='cpu'), FNO1d(width=4, m=4, conserve=conserve))
        with learn.no_bar(), learn.no_logging():
            learn.fit_one_cycle(15, 5e-3)
            off.append(learn.validate()[1])
    assert off[1] < off[0]

def test_what_has_no_mean_to_keep():
    u = fields(30, 16)
    two = np.stack([u, 2*u], 1)
    for a,b,net in ((u, two, FNO1d(2, m=3, conserve=True)), (two, u, FNO1d(2, m=3, conserve=True))):
        with pytest.raises(ValueError, match='`conserve` as many variables .* got [12] and [12]'):
            koopman_learner(field_dls(a, b, bs=8), net)
    class Two(nn.Module):
        conserve = True
        def forward(self, u): return torch.cat([u, u], 1)
    with pytest.raises(ValueError, match='up to 1 channels, .* got 2'): Scaled(Two())(torch.zeros(1, 1, 8))

def test_networks_alone_keep_their_own():
    u = torch.as_tensor(fields(3, 1, 32))
    for make in NETS:
        p = rolled(make(1), u, 3)
        assert (p.double().mean(2)-u.double().mean(2)).abs().max() < 1e-6
        assert 'conserve=True' in repr(make(1))
    for make in (FNO1d, KNO1d, SemigroupKNO):
        with pytest.raises(TypeError, match="`conserve` must be True or False, got 'no'"): make(conserve='no')

def test_learners_of_earlier_versions():
    "Without a kind of padding, or a mean to keep: zeros behind the ends, as they were trained"
    class Look(nn.Module):
        def forward(self, u): return u,u
    u = torch.randn(2, 1, 10)
    net = Scaled(Look(), [1.], [2.], (False,))
    z = net._wrapped(u)
    assert z.shape == (2, 1, 12) and (z[..., 10:] != 0).all()
    for k in ('pad', 'conserve'): del net.__dict__[k]
    del net._buffers['weights']
    old = pickle.loads(pickle.dumps(net.state_dict())),net
    assert torch.equal(old[1]._wrapped(u), F.pad(u, (0, 2))) and torch.allclose(net(u)[0], u, atol=1e-6)
    net.periodic = (False, True)
    assert torch.equal(net._wrapped(u[..., None]), F.pad(u[..., None], (0, 0, 0, 2)))
    net.load_state_dict(old[0])
