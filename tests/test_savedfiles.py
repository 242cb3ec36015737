"Files of a network under surgery: they load where they were written, and after the technique has left"
import copy
import pytest
import torch
from torch import nn
from fastai.callback.tracker import SaveModelCallback
from conftest import MiniAux, MiniTwin, Raise, params, tiny_learner
import fastrobust.all as fr
from fastrobust.nets import small_cnn
from fastrobust.training.surgery import Surgery, unwrap

MAKE = dict(jocor=lambda: fr.JoCoR(.3, gradual=1), coteaching=lambda: fr.CoTeaching(.3, gradual=1),
            decoupling=lambda: fr.Decoupling(1), alasca=lambda: fr.ALASCA(warmup=1),
            alasca_main=lambda: fr.ALASCA(warmup=1, predict='main'),
            both=lambda: [fr.ALASCA(warmup=1), fr.CoTeachingPlus(.3, gradual=1, warmup=1)],
            twin=MiniTwin, aux=MiniAux)
def weights(m): return {k: v.clone() for k,v in m.state_dict().items()}
def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)

@pytest.fixture(params=MAKE)
def make(request): return MAKE[request.param]

@pytest.fixture(autouse=True)
def quiet(capsys):
    yield
    capsys.readouterr()

@pytest.mark.parametrize('norm', [None, 'bn'])
def test_names_of_the_network_that_stays_are_its_own(make, norm):
    learn = tiny_learner(make(), norm=norm)
    with torch.no_grad():
        for i,p in enumerate(learn.model.parameters()): p.copy_(torch.randn_like(p)+i)
    state = weights(learn.model)
    plain = tiny_learner(norm=norm).model
    theirs = set(plain.state_dict())
    inner = unwrap(copy.deepcopy(learn.model))
    assert theirs < set(state) and all(torch.equal(state[k], v) for k,v in inner.state_dict().items())
    n = len([*learn.model.parameters(), *learn.model.buffers()])
    assert sum(v.numel() > 0 for v in state.values()) == n
    again = tiny_learner(make(), norm=norm).model       # all of it comes back
    again.load_state_dict(state)
    assert same(weights(again), state)
    assert all(torch.equal(a, b) for a,b in zip(again.parameters(), learn.model.parameters()))
    missing,more = plain.load_state_dict(state, strict=False)
    assert not missing and set(more) == set(state)-theirs and same(weights(plain), weights(inner))

def test_torch_says_who_added_what_and_what_to_do(make):
    learn,plain = tiny_learner(make()),tiny_learner()
    who = [type(t).__name__ for t in learn.objective.techniques()]
    for model,state in ((plain.model, learn.model.state_dict()), (learn.model, plain.model.state_dict())):
        with pytest.raises(RuntimeError) as e: model.load_state_dict(state)
        for k in who: assert f' of {k}: load with strict=False to go without it' in str(e.value)
    learn.model.load_state_dict(tiny_learner().model.state_dict(), strict=False)

def test_a_file_of_one_technique_serves_another(tmp_path):
    a,b = tiny_learner(fr.JoCoR(.3), path=tmp_path),tiny_learner(fr.CoTeaching(.3), path=tmp_path, seed=5)
    a.save('m')
    assert not torch.equal(params(a), params(b))
    b.load('m')
    assert torch.equal(params(a), params(b))
    with pytest.raises(RuntimeError, match='AuxHeads of ALASCA: load with strict=False'):
        tiny_learner([fr.CoTeaching(.3), fr.ALASCA()], path=tmp_path).load('m')

@pytest.mark.parametrize('at', ['learner', 'first', 'last'])
@pytest.mark.parametrize('with_opt', [False, True])
@pytest.mark.parametrize('kind', ['best', 'at_end', 'every_epoch'])
def test_savemodel_around_a_fit_under_surgery(kind, with_opt, at, make, tmp_path):
    "The file of the fit loads into the learner that is left, by fastai's callback and by hand"
    more = {} if kind == 'best' else {kind: True}
    save,t = SaveModelCallback(with_opt=with_opt, **more),make()
    cbs = {'learner': [t], 'first': [save, t], 'last': [t, save]}[at]
    learn = tiny_learner(save if at == 'learner' else None, path=tmp_path)
    with learn.no_bar():
        learn.fit(2, .01, cbs=sum([o if isinstance(o, list) else [o] for o in cbs], []))
        assert not any(isinstance(m, Surgery) for m in learn.model.modules())
        after = weights(learn.model)
        learn.tta()
        learn.validate()
        assert same(weights(learn.model), after)
        for k in (['model_0', 'model_1'] if kind == 'every_epoch' else ['model']):
            with torch.no_grad():
                for p in learn.model.parameters(): p.zero_()
            learn.load(k, with_opt=False)
            # a callback that stays writes epoch 0 anew when it sees `validate`
            assert same(weights(learn.model), after) == (k != 'model_0' or at == 'learner')
            tiny_learner(path=tmp_path).load(k, with_opt=False)     # and in another session
        learn.fit(1, .01)

def test_savemodel_stays_when_the_technique_is_removed_by_hand(make, tmp_path):
    ts = make()
    learn = tiny_learner(ts, path=tmp_path)
    learn.add_cb(SaveModelCallback())
    with learn.no_bar():
        learn.fit(2, .01)
        whole = weights(learn.model)
        learn.tta()
        assert same(weights(learn.model), whole)
        learn.load('model')
        assert same(weights(learn.model), whole)
        for t in list(learn.objective.techniques()):
            learn.remove_cb(t)
            learn.tta()
        assert same(weights(learn.model), {k: whole[k] for k in learn.model.state_dict()})
        learn.fit(1)

def test_ctrl_c_and_a_lost_file(make, tmp_path):
    "The best epoch is loaded by the next look, as in fastai"
    learn = tiny_learner(SaveModelCallback(), path=tmp_path)
    class Stop(Raise):
        def go(self):
            if self.training and self.epoch == 1: raise self.ex
    with learn.no_bar():
        with pytest.raises(KeyboardInterrupt): learn.fit(2, .01, cbs=[*make_list(make()), Stop(KeyboardInterrupt())])
        learn.tta()
        assert same(weights(learn.model), torch.load(tmp_path/'models'/'model.pth'))
        class Lose(Raise):
            def go(self): (tmp_path/'models'/'model.pth').unlink(missing_ok=True)
        learn.fit(1, cbs=[*make_list(make()), SaveModelCallback(fname='other', at_end=True)])
        (tmp_path/'models'/'other.pth').unlink()
        learn.fit(1)

def make_list(ts): return ts if isinstance(ts, list) else [ts]

def test_by_hand(make, tmp_path):
    "`learn.save` under a technique keeps all of it; what is left says so and loads with strict=False"
    learn = tiny_learner(make(), path=tmp_path)
    learn.save('mine')
    whole = weights(learn.model)
    for t in list(learn.objective.techniques()): learn.remove_cb(t)
    with pytest.raises(RuntimeError, match='load with strict=False'): learn.load('mine')
    learn.load('mine', strict=False)
    assert same(weights(learn.model), {k: whole[k] for k in learn.model.state_dict()})
    assert same(torch.load(tmp_path/'models'/'mine.pth'), whole)

def test_files_of_others_are_left_alone(tmp_path):
    "Only what the last fit wrote, only what came off"
    learn = tiny_learner(fr.JoCoR(.3), path=tmp_path)
    with learn.no_bar():
        learn.fit(1, cbs=SaveModelCallback(fname='old'))
        learn.fit(1, cbs=[SaveModelCallback(fname='new'), fr.ALASCA(warmup=1)])
    old,new = (torch.load(tmp_path/'models'/f'{k}.pth') for k in ('old', 'new'))
    assert set(old) == set(new) == set(learn.model.state_dict())
    learn.remove_cb(fr.JoCoR)
    assert same(torch.load(tmp_path/'models'/'old.pth'), old)
    assert set(torch.load(tmp_path/'models'/'new.pth')) == set(learn.model.state_dict())

def test_no_path_in_copies_and_exports(tmp_path):
    learn = tiny_learner(fr.JoCoR(.3), path=tmp_path)
    with learn.no_bar(): learn.fit(1, cbs=SaveModelCallback())
    assert learn.saved_files.paths and not copy.deepcopy(learn).saved_files.paths

def test_a_wrapper_that_adds_nothing():
    class Doubled(Surgery):
        def __init__(self, net):
            super().__init__()
            self.net = net
        def forward(self, x): return 2*self.net(x)
    net = small_cnn(3, 1, 8)
    m = nn.Sequential(Doubled(net), nn.Flatten())
    assert set(m.state_dict()) == {f'0.{k}' for k in net.state_dict()}
    m.load_state_dict(m.state_dict())
