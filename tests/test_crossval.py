"Cross-validated predictions: nobody predicts what he trained on, order and columns, interrupts, refusals"
import gc, os, random, subprocess, sys, warnings, weakref
from functools import partial
from pathlib import Path
from types import SimpleNamespace
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from fastai.callback.core import Callback
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.transforms import IndexSplitter, Normalize, parent_label
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import SGD
from fastai.vision.data import ImageBlock
from conftest import tiny_arrays, tiny_dls, tiny_learner
from fastrobust.basics import RobustWarning
from fastrobust.labels.codemarks import code_mark
from fastrobust.labels.issues import find_label_issues
from fastrobust.labels.crossval import cross_val_preds, need_maker
from fastrobust.data.editing import stratified_folds
from fastrobust.data.fromarrays import array_dls
from fastrobust.data.editing import given_labels
from fastrobust.noise.laws import NoisyLabels
from fastrobust.noise.block import add_label_noise
from fastrobust.labels.outoffold import OutOfFold, cleanlab_issues, run_marks, to_cleanlab
from fastrobust.losses import BalancedGCELoss, GCELoss
from fastrobust.techniques.augloss import AugLoss
from fastrobust.techniques.logitclip import LogitClip

skip_fit = lambda learn: None
make = lambda d: tiny_learner(dls=d)

class Look(nn.Module):
    "Logits are the first pixels: what it predicts is known beforehand"
    def __init__(self, c=3): super().__init__(); self.c,self.w = c,nn.Parameter(torch.ones(1))
    def forward(self, x): return self.w*x.flatten(1)[:, :self.c]

def looker(d): return Learner(d, Look(), loss_func=CrossEntropyLossFlat())
def looks(dls):
    xs = torch.cat([x for x,_ in dls.train.new(shuffle=False, drop_last=False)])
    return torch.Tensor(xs.as_subclass(torch.Tensor)).flatten(1)[:, :3].softmax(1).numpy()

@pytest.mark.parametrize('loss,says,wrapped', [(GCELoss(), True, True), (GCELoss(.5), False, False),
                                               (BalancedGCELoss([2]*30), True, False)], ids=['gce', 'less', 'sizes'])
def test_it_warns_of_a_loss_that_is_too_slow_for_many_classes(loss, says, wrapped):
    X,y = np.zeros((60, 8, 8), np.uint8),np.arange(60)%30
    dls = array_dls(X, y, valid=(X[:4], y[:4]), bs=8, vocab=range(30))
    def make(d):
        if wrapped: return Learner(d, Look(30), cbs=AugLoss(loss))
        return Learner(d, Look(30), loss_func=loss)
    with warnings.catch_warnings(record=True) as got:
        warnings.simplefilter('always')
        cross_val_preds(make, dls, 2, fit=skip_fit, verbose=False)
    assert any('too slowly on 30 classes' in str(o.message) for o in got) == says

# --- folds -----------------------------------------------------------------------------------------------------------
@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 6), min_size=2, max_size=90), st.integers(2, 9), st.integers(0, 99))
def test_folds_are_balanced(y, n, seed):
    y,n = np.array(y),min(n, len(y))
    f = stratified_folds(y, n, seed)
    sizes = np.bincount(f, minlength=n)
    assert sizes.sum() == len(y) and sizes.max()-sizes.min() <= 1 and sizes.min() > 0
    for k in set(y):
        own = np.bincount(f[y == k], minlength=n)
        assert own.max()-own.min() <= 1
    assert (f == stratified_folds(y, n, seed)).all()

def test_folds_follow_the_seed_and_leave_the_streams_alone():
    y,state = np.arange(200)%4,np.random.get_state()[1].copy()
    a,b = stratified_folds(y, 5, 0),stratified_folds(y, 5, 1)
    assert (a != b).any() and (np.random.get_state()[1] == state).all()
    assert len(set(map(tuple, np.stack([y, a], 1)))) == 20
    for bad in (1, 201, 2.5, True, '3'):
        match = "whole number from 2 to 200 .at most one an item., got"
        with pytest.raises(ValueError, match=match): stratified_folds(y, bad)

# --- what comes out --------------------------------------------------------------------------------------------------
def test_order_and_columns():
    dls = tiny_dls(n=50)
    oof = cross_val_preds(looker, dls, 4, fit=skip_fit, verbose=False)
    np.testing.assert_allclose(oof.probs, looks(dls), atol=1e-6)
    assert oof.shape == (50, 3) and oof.probs.dtype == np.float32 and len(oof.fold_acc) == 4
    assert (oof.y == given_labels(dls)).all() and oof.vocab == list(dls.vocab)
    for k in range(4):
        own = oof.folds == k
        assert oof.fold_acc[k] == pytest.approx((oof.probs[own].argmax(1) == oof.y[own]).mean())

class Saw(Callback):
    "Keeps the images a network trained on"
    def __init__(self, log): self.log = log
    def before_batch(self):
        if self.training: self.log[-1] |= {o.numpy().tobytes() for o in self.x.as_subclass(torch.Tensor)}
    def after_pred(self):
        if self.training: return
        new = {o.numpy().tobytes() for o in self.x.as_subclass(torch.Tensor)}
        assert not new & self.log[-1]
        self.log[0] |= new

def test_every_item_is_predicted_once_by_a_network_that_did_not_see_it():
    dls,log = tiny_dls(n=50, bs=8),[set()]
    def mk(d):
        log.append(set())
        return tiny_learner(dls=d, cbs=Saw(log))
    cross_val_preds(mk, dls, 3, epochs=3, verbose=False)
    assert len(log[0]) == 50 and len(log) == 4
    for seen in log[1:]: assert 24 <= len(seen) <= 34        # the last short batch may be dropped, another each epoch

@pytest.mark.slow
def test_same_seed_same_numbers_and_streams_put_back():
    dls = tiny_dls()
    own = dls.train.rng.getstate()
    def go(seed, world):
        random.seed(world); np.random.seed(5); torch.manual_seed(world)
        before = random.getstate(),np.random.get_state()[1].copy(),torch.get_rng_state()
        plain = lambda d: Learner(d, nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), loss_func=CrossEntropyLossFlat())
        res = cross_val_preds(plain, dls, 2, seed, epochs=2, lr=.1, verbose=False)
        after = random.getstate(),np.random.get_state()[1],torch.get_rng_state()
        assert before[0] == after[0] and (before[1] == after[1]).all() and torch.equal(before[2], after[2])
        return res.probs
    a,b,c = go(3, 0),go(3, 1),go(4, 1)
    assert (a == b).all() and (a != c).any(1).all()
    assert dls.train.rng.getstate() == own

def test_the_users_loaders_stay_as_they_are():
    dls = tiny_dls()
    before = len(dls.train.after_batch.fs),len(dls.train_ds),given_labels(dls),dls.train_ds.items.x.clone()
    def mk(d):
        d.add_tfms([Normalize.from_stats([.1], [.2], cuda=False)], 'after_batch')
        return tiny_learner(dls=d)
    cross_val_preds(mk, dls, 2, fit=skip_fit, verbose=False)
    assert len(dls.train.after_batch.fs) == before[0] and len(dls.train_ds) == before[1]
    assert (given_labels(dls) == before[2]).all() and torch.equal(dls.train_ds.items.x, before[3])

def test_it_learns_and_finds_wrong_labels():
    g = np.random.default_rng(0)
    y = g.integers(0, 3, 240)
    X = np.clip(g.normal(40 + 80*y[:, None, None], 15, (240, 8, 8)), 0, 255).astype(np.uint8)
    dls = add_label_noise(array_dls(X, y, valid=.1, bs=16, device='cpu'), NoisyLabels('symmetric', .2, seed=1))
    mk = lambda d: tiny_learner(dls=d, norm='bn', cbs=LogitClip(1.))
    oof = cross_val_preds(mk, dls, 3, epochs=6, lr=1e-2, verbose=False)
    wrong,mask = dls.noise.is_noisy,find_label_issues(oof.y, oof)
    assert (oof.y == dls.noise.y_noisy).all()
    assert mask[wrong].mean() > .8 and wrong[mask].mean() > .8

def test_other_labels_than_the_folds_are_refused():
    def spoil(learn):
        items = learn.dls.valid_ds.tls[1].items
        items.y = items.y.flip(0)
    with pytest.raises(ValueError, match="the fold's items in their order, got predictions of other labels"):
        cross_val_preds(lambda d: tiny_learner(dls=d), tiny_dls(), 2, fit=spoil, verbose=False)

@pytest.mark.slow
def test_quiet_but_for_a_line_per_fold(capsys):
    dls = tiny_dls()
    loud = lambda d: Learner(d, Look(), loss_func=CrossEntropyLossFlat())
    cross_val_preds(loud, dls, 3, epochs=1)
    lines = capsys.readouterr().out.splitlines()
    assert [o[:37] for o in lines] == [f'fold {k} of 3: accuracy on given labels' for k in (1, 2, 3)]
    cross_val_preds(loud, dls, 3, epochs=1, verbose=False)
    assert capsys.readouterr().out == ''

def test_networks_are_freed_between_folds():
    dls,nets = tiny_dls(),[]
    def mk(d):
        assert all(o() is None for o in nets)
        learn = make(d)
        nets.append(weakref.ref(learn.model))
        return learn
    cross_val_preds(mk, dls, 3, epochs=1, verbose=False)
    gc.collect()
    assert len(nets) == 3

# --- how it trains ---------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_fine_tune_for_frozen_bodies_one_cycle_for_others(monkeypatch):
    calls = []
    monkeypatch.setattr(Learner, 'fine_tune', lambda self, n, **kw: calls.append(('fine_tune', n, kw)))
    monkeypatch.setattr(Learner, 'fit_one_cycle', lambda self, n, **kw: calls.append(('one_cycle', n, kw)))
    def frozen(d):
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 3))
        learn = Learner(d, net, loss_func=CrossEntropyLossFlat(), opt_func=SGD,
                        splitter=lambda m: [list(m[1].parameters()), list(m[2].parameters())])
        learn.freeze()
        return learn
    dls = tiny_dls()
    for kw in ({}, dict(epochs=2), dict(epochs=2, lr=.1)): cross_val_preds(frozen, dls, 2, verbose=False, **kw)
    assert calls[::2] == [('fine_tune', 4, {}), ('fine_tune', 2, {}), ('fine_tune', 2, dict(base_lr=.1))]
    calls.clear()
    for kw in ({}, dict(epochs=2, lr=.1)): cross_val_preds(make, dls, 2, verbose=False, **kw)
    assert calls[::2] == [('one_cycle', 20, dict(lr_max=None)), ('one_cycle', 2, dict(lr_max=.1))]

def test_how_it_may_not_be_asked():
    dls = tiny_dls()
    with pytest.raises(ValueError, match='either `fit` or `epochs`'):
        cross_val_preds(make, dls, epochs=2, fit=skip_fit)
    for bad in (0, 2.5, True):
        with pytest.raises(ValueError, match='whole number from 1 on, got'): cross_val_preds(make, dls, epochs=bad)
    with pytest.raises(TypeError, match='DataLoaders'): cross_val_preds(make, dls.train_ds)

# --- interrupts ------------------------------------------------------------------------------------------------------
class Calls:
    "Counts the networks made; an object of its own kind, so it is no setting of the run"
    def __init__(self, stop, error): self.n,self.stop,self.error = 0,stop,error
    def __len__(self): return self.n
    def one(self):
        self.n += 1
        if self.n == self.stop: raise self.error

def counted(stop=None, error=KeyboardInterrupt):
    made = Calls(stop, error)
    def mk(d):
        made.one()
        return tiny_learner(dls=d)
    return mk,made

@pytest.mark.slow
def test_goes_on_after_an_interrupt(tmp_path, capsys):
    dls = tiny_dls()
    want = cross_val_preds(counted()[0], dls, 4, epochs=1, verbose=False)
    state = torch.get_rng_state()
    mk,made = counted(3)
    with pytest.warns(RobustWarning, match='2 of 4 folds finished. They are in .*call again'), \
         pytest.raises(KeyboardInterrupt): cross_val_preds(mk, dls, 4, epochs=1, path=tmp_path/'f')
    assert torch.equal(state, torch.get_rng_state())
    assert sorted(o.name for o in (tmp_path/'f').iterdir()) == ['fold_0.npz', 'fold_1.npz']
    mk,made = counted()
    got = cross_val_preds(mk, dls, 4, epochs=1, path=tmp_path/'f')
    assert len(made) == 2 and (got.probs == want.probs).all() and got.fold_acc == want.fold_acc
    assert capsys.readouterr().out.count(f", from {tmp_path/'f'}") == 2
    again = cross_val_preds(counted(1)[0], dls, 4, epochs=1, path=str(tmp_path/'f'))
    assert again.seconds == pytest.approx(got.seconds)

def test_an_error_keeps_finished_folds_too(tmp_path):
    dls = tiny_dls()
    with pytest.raises(RuntimeError, match='boom'):
        cross_val_preds(counted(2, RuntimeError('boom'))[0], dls, 3, epochs=1, path=tmp_path, verbose=False)
    mk,made = counted()
    cross_val_preds(mk, dls, 3, epochs=1, path=tmp_path, verbose=False)
    assert len(made) == 2

@pytest.mark.parametrize('path', [True, False])
def test_stopped_in_the_first_fold(tmp_path, path):
    with pytest.warns(RobustWarning, match='0 of 3 folds finished. Nothing was kept: the next call begins anew'), \
         pytest.raises(KeyboardInterrupt):
        cross_val_preds(counted(1)[0], tiny_dls(), 3, epochs=1, path=tmp_path/'f' if path else None, verbose=False)
    assert not (tmp_path/'f').exists()

def test_without_a_path_it_says_so():
    with pytest.warns(RobustWarning, match='1 of 3 folds finished. They are gone: give `path='), \
         pytest.raises(KeyboardInterrupt): cross_val_preds(counted(2)[0], tiny_dls(), 3, epochs=1, verbose=False)

def test_folds_of_another_run_are_refused(tmp_path):
    def go(mk=make, dls=None, n=3, epochs=1, seed=0, **kw):
        cross_val_preds(mk, dls or tiny_dls(), n, seed, epochs=epochs, path=tmp_path, verbose=False, **kw)
    go()
    files = {o.name: o.read_bytes() for o in tmp_path.iterdir()}
    for what,kw in (('training', dict(epochs=2)), ('learner', dict(mk=lambda d: tiny_learner(dls=d, seed=4))),
                    ('seed', dict(seed=1)), ('folds', dict(n=4)), ('items', dict(dls=tiny_dls(size=4))),
                    ('labels', dict(dls=add_label_noise(tiny_dls(), NoisyLabels('symmetric', .5, seed=0)))),
                    ('tag', dict(tag='resnet18')), ('batch', dict(dls=tiny_dls(bs=4))),
                    ('vocab', dict(dls=tiny_dls(vocab=['a', 'b', 'c'])))):
        with pytest.raises(ValueError, match=f'of this very run in .* other .*{what}.*another `path`'): go(**kw)
    assert files == {o.name: o.read_bytes() for o in tmp_path.iterdir()}
    (tmp_path/'fold_1.npz').write_bytes(files['fold_1.npz'][:200])
    with pytest.warns(RobustWarning, match='cannot be read.*fold 2 is trained again'): go()
    assert (tmp_path/'fold_1.npz').stat().st_size > 200

def test_other_files_and_other_functions_are_other_runs():
    def marks(items=('a.png', 'b.png'), fit=skip_fit, mk=make):
        dls = SimpleNamespace(train_ds=SimpleNamespace(items=[Path(o) for o in items]))
        return run_marks(dls, np.array([0, 1]), np.array([0, 1]), 0, ['x', 'y'], fit, mk)
    diff = lambda **kw: [k for k,v in marks(**kw).items() if v != marks()[k]]
    assert not diff() and not diff(fit=lambda learn: None)
    assert diff(items=('b.png', 'a.png')) == ['items'] and diff(items=('a.png', 'c.png')) == ['items']
    assert diff(fit=lambda learn: learn.fit(2)) == ['training']
    three,four = (lambda learn: [learn.fit(o) for o in (1, 3)]),(lambda learn: [learn.fit(o) for o in (1, 4)])
    assert marks(fit=three) != marks(fit=four)
    assert marks(mk=partial(Learner, n=2)) != marks(mk=partial(Learner, n=3)) != marks(mk=partial(Learner, m=3))

SCRIPT = """
import argparse, enum, sys
from dataclasses import dataclass
from functools import cache, partial
from types import SimpleNamespace
import numpy as np, torch
from torch import nn
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastrobust.losses import GCELoss
from fastrobust.nets import small_cnn
from torchvision.models import resnet18, resnet34
import fastrobust.nets as other_nets

W,deep,names,weights = 8,dict(a=[1, (2, None)], b=.5),{'x', 'yy', 'zzz', ('u', 1)},torch.tensor([1., 2.])
loss,flat,arch,cfg,args = GCELoss(.7),CrossEntropyLossFlat(),resnet18,SimpleNamespace(w=1),argparse.Namespace(w=1)
class Net(nn.Module):
    width = 3
    def __init__(self): super().__init__(); self.l = nn.Linear(3, W)
    def forward(self, x): return self.l(x) if x in {'p', 'q', 'r'} else head(x)
@dataclass
class Conf: w: int = 1
class Kind(enum.Enum): a = 1; b = 2
class Maker:
    def __init__(self, w): self.w = w
    def __call__(self, d): return Learner(d, small_cnn(3, self.w))
    def make(self, d): return self(d)
conf,kind = Conf(),Kind.a
def head(x): return even(x, W)
def even(x, w): return head(x-1) if x else [even, w]
@cache
def kept(x): return x+1
def outer(k, step=1):
    def mk(d, p=.1, *, q=slice(.1, None)): return Learner(d, small_cnn(3, k), lr=step)
    return mk
def far(d): return lambda: [o*W for o in d]

MAKERS = dict(
    scalar=lambda d: small_cnn(3, W), nested=lambda d: [[W for _ in d] for _ in d], deep=lambda d: deep,
    names=lambda d: (names, d in {'a', 'b', 'c'}), tensor=lambda d: CrossEntropyLossFlat(weight=weights),
    loss=lambda d: Learner(d, Net(), loss_func=loss), flat=lambda d: flat, arch=lambda d: arch, cfg=lambda d: cfg.w,
    args=lambda d: args.w, conf=lambda d: conf.w, kind=lambda d: kind, net=lambda d: Net(), helper=lambda d: head(d),
    far=far, closure=outer(4), method=Maker(4).make, called=Maker(4), part=partial(outer(4), p=.2, q=.3),
    slices=partial(outer(4), q=slice(1e-3, 1e-2)), module=lambda d: other_nets.small_cnn, kept=lambda d: kept(d))
"""

def script(**new):
    "The makers of SCRIPT; `new`: old text=new text"
    text = SCRIPT
    for old,after in new.items():
        assert old in text
        text = text.replace(old, after)
    exec(compile(text, '<cell>', 'exec'), cell := {'__name__': 'cell'})
    return {k: code_mark(f) for k,f in cell['MAKERS'].items()}

def test_marks_tell_what_a_function_reads():
    first = script()
    def other(old, new): return {k for k,v in script(**{old: new}).items() if v != first[k]}
    net,outer = {'net', 'loss'},{'closure', 'part', 'slices'}
    assert script() == first == script(**{'import argparse': '# a comment\n\nimport argparse'})
    for old,new,which in [
        ('weights = 8,', 'weights = 16,', {'scalar', 'nested', 'far', 'helper', *net}),
        ('(2, None)', '(2, 0)', {'deep'}), ('b=.5', 'b=.25', {'deep'}), ('dict(a=', 'dict(c=', {'deep'}),
        ("'zzz'", "'z'", {'names'}), ("{'a', 'b', 'c'}", "{'a', 'b', 'd'}", {'names'}),
        ('([1., 2.])', '([1., 3.])', {'tensor'}), ('GCELoss(.7)', 'GCELoss(.6)', {'loss'}),
        ('Flat(),', 'Flat(axis=1),', {'flat'}), ('(),resnet18,', '(),resnet34,', {'arch'}),
        ('SimpleNamespace(w=1)', 'SimpleNamespace(w=2)', {'cfg'}),
        ('argparse.Namespace(w=1)', 'argparse.Namespace(w=2)', {'args'}), ('Conf(),', 'Conf(2),', {'conf'}),
        ('Kind.a\n', 'Kind.b\n', {'kind'}), ('width = 3', 'width = 4', net), ("'q', 'r'}", "'q', 's'}", net),
        ('head(x-1)', 'head(x-2)', {'helper', *net}), ('outer(4),', 'outer(5),', outer), ('step=1', 'step=2', outer),
        ('p=.1', 'p=.3', outer), ('q=slice(.1', 'q=slice(.2', outer), ('Maker(4).make', 'Maker(5).make', {'method'}),
        ('called=Maker(4)', 'called=Maker(5)', {'called'}), ('p=.2', 'p=.4', {'part'}),
        ('slice(1e-3', 'slice(1e-4', {'slices'}), ('nets as other_nets', 'losses as other_nets', {'module'}),
        ('return x+1', 'return x+2', {'kept'})]: assert other(old, new) == which, (old, new)

@pytest.mark.slow
def test_marks_are_the_same_in_every_process(tmp_path):
    (tmp_path/'cell.py').write_text(SCRIPT)
    code = ("import cell; from fastrobust.labels.codemarks import code_mark\n"
            "print({k: code_mark(f) for k,f in cell.MAKERS.items()})")
    # the second time it is read from its .pyc
    said = [subprocess.run([sys.executable, '-W', 'ignore', '-c', code], cwd=tmp_path, check=True, capture_output=True,
                           text=True, env={**os.environ, 'PYTHONHASHSEED': str(i)}).stdout for i in (1, 2)]
    assert said[0] == said[1] and set(eval(said[0])) == set(script())

def test_marks_end_where_values_hold_themselves():
    loop,sure = [1],dict(a=1)
    loop.append(loop)
    sure['me'] = sure
    mark = lambda: code_mark(lambda d: (loop, sure))
    a = mark()
    assert a == mark()
    loop[0] = 2
    assert a != mark()
    def late(): return unset
    assert code_mark(late)                                      # neither the global nor the cell is set
    if loop is None: unset = 1

def test_what_is_no_setting_leaves_the_marks_alone():
    dls,log = tiny_dls(),Calls(3, None)
    net = nn.Linear(64, 3)
    mark = lambda: code_mark(lambda d: Learner(d, net, lr=log.n, cbs=dls))
    a = mark()
    log.one(); net.eval(); dls.train.one_batch()
    assert a == mark()

def test_a_global_that_changed_is_another_run(tmp_path):
    world = dict(tiny_learner=tiny_learner, W=4)
    exec("mk = lambda d: tiny_learner(dls=d, seed=W)\nfit = lambda learn, n=1: learn.fit(n, W)", world)
    go = lambda **kw: cross_val_preds(world['mk'], tiny_dls(), 2, path=tmp_path, verbose=False, **kw)
    go(epochs=1)
    assert go(epochs=1).seconds
    for kw in (dict(epochs=2), dict(epochs=1, lr=slice(1e-3, 1e-2)), dict(fit=world['fit'])):
        with pytest.raises(ValueError, match='of other training'): go(**kw)
    world['W'] = 5
    with pytest.raises(ValueError, match=r'of other learner .its code or a value it reads.\.'): go(epochs=1)

def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path/'file').write_text('')
    with pytest.raises(OSError, match='could not write to .*Choose a folder'):
        cross_val_preds(make, tiny_dls(), 2, epochs=1, path=tmp_path/'file'/'sub', verbose=False)

# --- rare classes ----------------------------------------------------------------------------------------------------
def test_rare_and_missing_classes():
    X,y = tiny_arrays(40, 2)
    y[0],y[1:3] = 2,3
    dls = array_dls(X, y, valid=.1, bs=8, vocab=['a', 'b', 'c', 'd', 'e'], device='cpu')
    own = given_labels(dls)
    assert (own == 2).sum() == 1 and not (own == 4).any()
    seen = []
    def mk(d):
        seen.append(set(given_labels(d)))
        assert list(d.vocab) == ['a', 'b', 'c', 'd', 'e']
        return tiny_learner(dls=d)
    with pytest.warns(RobustWarning, match=r'fewer items than the 4 folds: c \(1\), d \(2\)\. .*never saw the class'):
        oof = cross_val_preds(mk, dls, 4, epochs=1, verbose=False)
    assert oof.shape == (36, 5) and np.isfinite(oof.probs).all()
    k = oof.folds[np.flatnonzero(own == 2)[0]]
    assert [2 in o for o in seen] == [i != k for i in range(4)] and all(3 in o for o in seen)
    with pytest.warns(RobustWarning, match='single item'): assert not find_label_issues(oof.y, oof)[own == 2].any()

# --- refusals --------------------------------------------------------------------------------------------------------
def test_a_learner_is_no_maker():
    learn = tiny_learner()
    for f in (lambda: need_maker(learn), lambda: cross_val_preds(learn, learn.dls)):
        with pytest.raises(TypeError, match=r'(?s)in-sample probabilities.*noise_report\(lambda dls: vision_learner'
                                            r'\(dls, resnet18\), dls\), or .*probs='): f()
    with pytest.raises(TypeError, match="function of dls, got 'resnet18'"): need_maker('resnet18')
    need_maker(make)

def test_makers_that_leak():
    dls = tiny_dls()
    go = lambda mk, fit=skip_fit: cross_val_preds(mk, dls, 2, fit=fit, verbose=False)
    with pytest.raises(ValueError, match='loaders of this fold.*`dls` that the function is given'):
        go(lambda d: tiny_learner(dls=dls))
    learn,net = tiny_learner(dls=dls),Look()
    with pytest.raises(ValueError, match='loaders of this fold'): go(lambda d: learn)
    with pytest.raises(ValueError, match='new network for each fold'):
        go(lambda d: Learner(d, net, loss_func=CrossEntropyLossFlat()))
    with pytest.raises(ValueError, match='loaders of this fold'): go(make, fit=lambda o: setattr(o, 'dls', dls))
    with pytest.raises(TypeError, match='to return a Learner, got NoneType'): go(lambda d: None)

def test_a_frozen_body_may_be_shared():
    body = nn.Sequential(nn.Flatten(), nn.Linear(64, 8))
    for p in body.parameters(): p.requires_grad_(False)
    go = lambda d: Learner(d, nn.Sequential(body, nn.Linear(8, 3)), loss_func=CrossEntropyLossFlat())
    assert cross_val_preds(go, tiny_dls(), 2, fit=skip_fit, verbose=False).shape == (48, 3)

class Const(nn.Module):
    def __init__(self, v): super().__init__(); self.v,self.w = torch.tensor(v),nn.Parameter(torch.zeros(1))
    def forward(self, x): return self.v.expand(len(x), -1) + self.w

@pytest.mark.parametrize('v,match', [([1.]*4, r'shape \(24,3\), one column per class.*got \(24, 4\)'),
                                     ([0., np.nan, 1.], 'training diverged')])
def test_predictions_that_cannot_be_used(v, match):
    with pytest.raises(ValueError, match=match):
        cross_val_preds(lambda d: Learner(d, Const(v), loss_func=CrossEntropyLossFlat()), tiny_dls(), 2, fit=skip_fit,
                        verbose=False)

def test_logits_get_their_softmax_and_half_its_rest():
    v = [0., 1., 3.]
    mk = lambda d, v=v: Learner(d, Const(v), loss_func=nn.CrossEntropyLoss())
    with pytest.warns(RobustWarning, match='predicts logits'):
        oof = cross_val_preds(mk, tiny_dls(), 2, fit=skip_fit, verbose=False)
    np.testing.assert_allclose(oof.probs[0], torch.tensor(v).softmax(0), atol=1e-6)
    oof = cross_val_preds(lambda d: mk(d, [.5, .3, .21]), tiny_dls(), 2, fit=skip_fit, verbose=False)
    np.testing.assert_allclose(oof.probs[0], np.array([.5, .3, .21])/1.01, atol=1e-6)

# --- all kinds of data -----------------------------------------------------------------------------------------------
def test_image_files(tmp_path):
    from PIL import Image
    for i in range(24):
        f = tmp_path/'ab'[i%2]/f'{i}.png'
        f.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 60+120*(i%2)+i, np.uint8)).save(f)
    files = lambda p: sorted(p.rglob('*.png'), key=lambda o: int(o.stem))
    block = DataBlock((ImageBlock, CategoryBlock), get_items=files, get_y=parent_label, splitter=IndexSplitter([0, 1]))
    dls = block.dataloaders(tmp_path, bs=4, num_workers=0, device='cpu')
    mk = lambda d: Learner(d, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)),
                           loss_func=CrossEntropyLossFlat())
    oof = cross_val_preds(mk, dls, 3, epochs=20, lr=.3, verbose=False)
    assert oof.shape == (22, 2) and oof.y.tolist() == [0, 1]*11 and oof.acc > .9

def test_tables():
    from fastai.tabular.all import Categorify, TabularDataLoaders, tabular_learner
    g = np.random.default_rng(0)
    df = pd.DataFrame(g.normal(size=(160, 3)), columns=list('xyz')).assign(k=g.integers(0, 3, 160).astype(str))
    df['label'] = np.array(['no', 'yes'])[(df.x + df.y > 0).astype(int)]
    dls = TabularDataLoaders.from_df(df, procs=[Categorify], cat_names=['k'], cont_names=list('xyz'), y_names='label',
                                     y_block=CategoryBlock(), bs=16, valid_idx=list(range(0, 160, 8)))
    oof = cross_val_preds(lambda d: tabular_learner(d, layers=[16]), dls, 3, epochs=5, lr=3e-2, verbose=False)
    assert oof.shape == (140, 2) and oof.vocab == ['no', 'yes'] and oof.acc > .8
    kept = np.setdiff1d(np.arange(160), np.arange(0, 160, 8))
    assert (oof.y == (df.label[kept] == 'yes')).all()

@pytest.mark.slow
def test_texts():
    from fastai.text.data import TextDataLoaders
    g = np.random.default_rng(0)
    words = [['good', 'nice', 'fine'], ['bad', 'poor', 'sad']]
    rows = [(' '.join(g.choice(words[k]+['film', 'the'], size=g.integers(5, 12))), ['pos', 'neg'][k])
            for k in g.integers(0, 2, 80)]
    dls = TextDataLoaders.from_df(pd.DataFrame(rows, columns=['text', 'label']), text_col='text', label_col='label',
                                  valid_pct=.1, bs=8, seed=1)
    class Bag(nn.Module):
        def __init__(self, n): super().__init__(); self.e,self.l = nn.Embedding(n, 8),nn.Linear(8, 2)
        def forward(self, x): return self.l(self.e(x).mean(1))
    mk = lambda d: Learner(d, Bag(len(d.vocab[0])), loss_func=CrossEntropyLossFlat())
    oof = cross_val_preds(mk, dls, 2, epochs=4, lr=5e-2, verbose=False)
    assert oof.shape == (72, 2) and oof.vocab == ['neg', 'pos'] and oof.acc > .85

# --- the result, and cleanlab ----------------------------------------------------------------------------------------
def oof_of(seed=0, n=60):
    g = np.random.default_rng(seed)
    y = g.integers(0, 3, n)
    z = g.normal(size=(n, 3)); z[np.arange(n), y] += 1
    p = np.exp(z)/np.exp(z).sum(1, keepdims=True)
    return OutOfFold(p, y, stratified_folds(y, 3), ['a', 'b', 'c'], [.5, .6, .7], 9.)

def test_result_is_an_array():
    oof = oof_of()
    assert np.asarray(oof).dtype == np.float32 and np.asarray(oof, dtype=np.float64).dtype == np.float64
    assert np.shares_memory(np.asarray(oof), oof.probs) and not np.shares_memory(np.array(oof), oof.probs)
    assert np.argmax(oof, axis=1).shape == (60,) and len(oof) == 60 and (oof[3] == oof.probs[3]).all()
    assert repr(oof).startswith('OutOfFold: 60 items, 3 classes, 3 folds; accuracy') and '0.500 to 0.700' in repr(oof)
    assert (find_label_issues(oof.y, oof) == find_label_issues(oof.y, oof.probs)).all()

def test_save_and_load(tmp_path):
    oof = oof_of()
    path = oof.save(tmp_path/'new'/'preds')
    assert path == tmp_path/'new'/'preds.npz' and [o.name for o in path.parent.iterdir()] == ['preds.npz']
    new = OutOfFold.load(tmp_path/'new'/'preds')
    for k in ('probs', 'y', 'folds'): assert (getattr(new, k) == getattr(oof, k)).all()
    assert (new.vocab, new.fold_acc, new.seconds) == (oof.vocab, oof.fold_acc, oof.seconds) and repr(new) == repr(oof)

def test_bridge_to_cleanlab():
    pytest.importorskip('cleanlab')
    from cleanlab.filter import find_label_issues as theirs
    oof = oof_of()
    mask = cleanlab_issues(oof)
    assert mask.any() and (mask == theirs(**to_cleanlab(oof), n_jobs=1)).all()
    assert (mask == find_label_issues(oof.y, oof, collision='cleanlab')).all()
    assert set(cleanlab_issues(oof, return_indices_ranked_by='self_confidence')) == set(np.flatnonzero(mask))

def test_without_cleanlab(monkeypatch):
    monkeypatch.setitem(sys.modules, 'cleanlab.filter', None)
    with pytest.raises(ImportError, match=r'fastrobust\[label\]'): cleanlab_issues(oof_of())
