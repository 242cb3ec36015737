"500 random configurations of fuzz.py: each trains and leaves the learner whole, or is refused by who refuses it"
import pytest
import torch
import fuzz
from fuzz import check_whole, config, judge, outcome, state_of
from conftest import tiny_learner
import fastrobust.all as fr
from fastrobust.training.callback import ObjectiveCallback
from fastrobust.training.technique import Technique

def each_is_right(numbers):
    ends = {i: outcome(i) for i in numbers}
    for i,end in ends.items():
        assert end in ('trained', 'stopped') or end.startswith('refused by '), f'configuration {i}: {end}'
    return ends

@pytest.mark.parametrize('first', range(0, 60, 5))
def test_each_trains_or_is_refused_by_name(first): each_is_right(range(first, first+5))

@pytest.mark.slow
@pytest.mark.parametrize('first', range(60, 500, 20))
def test_more_of_them(first): each_is_right(range(first, first+20))

# --- the fuzz itself -------------------------------------------------------------------------------------------------
def test_a_number_says_all():
    assert config(7) == config(7) and config(7) != config(8)
    drawn = [config(i) for i in range(500)]
    for k in fuzz.TECHNIQUES: assert sum(k in o['techniques'] for o in drawn) > 20, k
    for k in fuzz.CALLBACKS: assert sum(k in o['callbacks'] for o in drawn) > 9, k
    for k in fuzz.AFTER: assert sum(k in o['after'] for o in drawn) > 15, k
    for k in fuzz.LOSSES: assert any(o['loss'] == k for o in drawn), k
    assert {o['recipe'] for o in drawn} == {None, *fr.RECIPES} and {o['stop'] for o in drawn} == {None, *fuzz.STOPS}
    assert sum(o['turned'] for o in drawn) > 40

def find(**want):
    "The first number of a configuration that trains with all techniques given to `fit`"
    def fits(c):
        if c['recipe'] or c['callbacks'] or c['stop'] or c['net'] == 'linear': return False
        if set(c['doors']) != {'fit'}: return False
        return list(c['techniques']) == want['techniques'] and set(want.get('after', [])) <= set(c['after'])
    return next(i for i in range(20000) if fits(config(i)))

def test_it_sees_what_is_left_behind(monkeypatch):
    "A technique that forgets its surgery, its loss or its callbacks"
    alasca,clip = find(techniques=['ALASCA']),find(techniques=['LogitClip'])
    for name in (alasca, clip): assert outcome(name) == 'trained'
    with monkeypatch.context() as m:
        m.setattr('fastrobust.training.technique.unwrap', lambda model, *a: model)
        with pytest.raises(AssertionError, match=f'configuration {alasca}'): outcome(alasca)
    with monkeypatch.context() as m:
        m.setattr('fastrobust.training.technique.remove_objective', lambda learn: None)
        with pytest.raises(AssertionError, match='loss was'): outcome(clip)
    with monkeypatch.context() as m:
        def hook(self, z): self.learn.model.register_forward_hook(lambda *a: None); return z
        m.setattr(fr.LogitClip, 'logits', hook)
        with pytest.raises(AssertionError, match='hooks on'): outcome(clip)
    with monkeypatch.context() as m:
        m.setattr(fr.LogitClip, 'logits', lambda self, z: z@torch.ones(1, 99))
        with pytest.raises(AssertionError, match='mat1 and mat2'): outcome(clip)
    with monkeypatch.context() as m:
        def refuse(*_): raise ValueError('expected something else, got this.')
        m.setattr(fr.LogitClip, 'check', refuse)
        with pytest.raises(AssertionError, match='in words of another'): outcome(clip)

def test_it_sees_that_order_matters(monkeypatch):
    "Techniques in the order in which they came: one clips what the other has normalised"
    def fits(c):
        if c['recipe'] or c['stop'] or c['callbacks'] or not c['turned']: return False
        return set(c['techniques']) == {'LogitClip', 'LogitNorm'} and c['techniques']['LogitNorm']['tau'] == .04
    i = next(i for i in range(50000) if fits(config(i)))
    assert outcome(i) == 'trained'
    monkeypatch.setattr(ObjectiveCallback, 'techniques',
                        lambda self: [t for t in self.learn.cbs.sorted('order') if isinstance(t, Technique)])
    with pytest.raises(AssertionError, match='turned'): outcome(i)

def test_whole_and_named():
    learn = tiny_learner()
    before = state_of(learn)
    check_whole(learn, before, None, 'here')
    learn.extra = 1
    with pytest.raises(AssertionError, match='here: names'): check_whole(learn, before, None, 'here')
    del learn.extra
    learn.model[0].weight.requires_grad_(False)
    with pytest.raises(AssertionError, match='requires_grad'): check_whole(learn, before, [True]*6, 'here')
    conf = dict(config(0), techniques={'JoCoR': {}}, callbacks=[])
    assert judge(conf, ValueError('jocor expected two networks')) == 'refused by JoCoR'
    for says in ('expected two networks', 'Exception occured in `JoCoR` when calling event `before_fit`:\n\ttoo bad',
                 "jocor: 'NoneType' object has no attribute 'x'"):
        with pytest.raises(AssertionError, match='in words of another'): judge(conf, ValueError(says))
