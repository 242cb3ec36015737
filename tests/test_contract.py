"Every technique through the same gauntlet (design C1-C14); one without an entry here fails"
import copy, importlib, itertools, subprocess, sys
from pathlib import Path
import pytest
import torch
from fastai.learner import Learner
import fastrobust.all as fr
from conftest import MiniAux, MiniTwin, params, tiny_arrays, tiny_dls, tiny_learner
from fastrobust.losses import GCELoss
from fastrobust.nets import small_cnn
from fastrobust.stripping import strip
from fastrobust.techniques.bases.openset import OpenSetRows
from fastrobust.techniques.bases.memory import SampleMemory
from fastrobust.techniques.bases.selection import Selection
from fastrobust.techniques.bases.twonetworks import TwoNetworks
from fastrobust.testing import CLAUSES
from fastrobust.systems.tinymim.distilling import Distil, InsideTechnique
from fastrobust.testing.case import Case
from fastrobust.training.objective import Objective
from fastrobust.training.stages import has_penalty, own
from fastrobust.training.technique import Technique

# Each technique's own test file has its CONTRACT: class -> what `fastrobust.testing.Case` takes
def collected():
    found = {}
    for p in sorted(Path(__file__).parent.glob('test_*.py')):
        if '\nCONTRACT = ' in p.read_text(): found.update(importlib.import_module(p.stem).CONTRACT)
    return found
SETTINGS = collected()

BASES = {Selection, TwoNetworks, SampleMemory, InsideTechnique, Distil}     # nothing to use by themselves
def subclasses(c): return {s for d in c.__subclasses__() for s in {d, *subclasses(d)}}
ALL = sorted((t for t in subclasses(Technique)-BASES if t.__module__.split('.')[0] == 'fastrobust'),
             key=lambda t: t.__name__)

def test_every_technique_has_an_entry(): assert set(ALL) == set(SETTINGS), set(ALL) ^ set(SETTINGS)
def make(T, **kw): return SETTINGS[T]['make'](**kw)
def net_for(*Ts):
    "A network that all of them are for, None for a `small_cnn`"
    return next((SETTINGS[T]['net'] for T in Ts if 'net' in SETTINGS[T]), None)

# Of the techniques for transformers TinyMIM stands for all in the fast suite
INSIDE = [T for T in ALL if issubclass(T, InsideTechnique)]
def timed(*Ts, fast):
    "A case for pytest, slow unless it is `fast`"
    return pytest.param(*Ts, id='-'.join(T.__name__ for T in Ts), marks=[] if fast else pytest.mark.slow)
PAIRS = [timed(A, B, fast=not {A, B} & set(INSIDE))
         for A,B in itertools.combinations(ALL, 2)]

@pytest.mark.parametrize('T', [timed(T, fast=T not in INSIDE or T.__name__ == 'TinyMIM') for T in ALL])
@pytest.mark.parametrize('clause', CLAUSES, ids=lambda f: f.__name__)
def test_clause(T, clause, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clause(Case(T, **SETTINGS[T]))

@pytest.mark.parametrize('T', [T for T in ALL if SETTINGS[T].get('weight')], ids=lambda t: t.__name__)
@pytest.mark.parametrize('bad', [0, -1., float('nan')])
def test_a_weight_is_refused_in_our_words(T, bad):
    w = SETTINGS[T]['weight']
    with pytest.raises(ValueError, match=f'`{w}` must be positive'): make(T, **{w: bad})

@pytest.mark.slow       # 15 seconds on a quiet machine
def test_C8_export_load_strip(tmp_path):
    "All techniques exported, and stripped; one process loads the first, one without fastrobust the second"
    sizes = {}
    plain = tiny_learner(path=tmp_path); plain.fit(1); plain.export('plain.pkl')
    for T in ALL:
        dls = tiny_dls(batch_tfms=[fr.AugMixTransform()])
        t = SETTINGS[T].get('plain', SETTINGS[T]['make'])()
        learn = tiny_learner(t, path=tmp_path, loss_func=GCELoss(), dls=dls, net=net_for(T))
        learn.fit(1)
        learn.export(f'{T.__name__}.pkl')
        x = tiny_arrays()[0][:5]
        torch.save(learn.get_preds(dl=learn.dls.test_dl(x))[0], tmp_path/f'{T.__name__}.pt')
        if net_for(T): continue     # fastrobust's own, which load with it alone; no teacher is in them
        sizes[T] = (tmp_path/f'{T.__name__}.pkl').stat().st_size
        s = strip(learn)
        assert type(s) is Learner and s.model is not learn.model and isinstance(learn.loss_func, Objective)
        s.fit(1) if T is ALL[0] else None
        s = strip(learn)
        s.export(f'{T.__name__}_stripped.pkl')
        torch.save(s.get_preds(dl=s.dls.test_dl(x))[0], tmp_path/f'{T.__name__}_stripped.pt')
    n = (tmp_path/'plain.pkl').stat().st_size
    assert all(v < n*(2.2 if T.surgery else 1.2) + 20_000 for T,v in sizes.items()), sizes
    code = f'''
import sys, warnings; warnings.simplefilter('ignore')
import torch, numpy as np
from pathlib import Path
if sys.argv[1] == '_stripped':
    class Block:
        def find_spec(self, name, path=None, target=None):
            if name.split('.')[0] == 'fastrobust': raise ImportError('fastrobust is blocked')
    sys.meta_path.insert(0, Block())
from fastai.vision.all import load_learner, PILImageBW
d = Path({str(tmp_path)!r})
x = np.random.default_rng(0).integers(0, 256, (48, 8, 8), dtype=np.uint8)[:5]
names = {[T.__name__ for T in ALL]}
if sys.argv[1]: names = {[T.__name__ for T in sizes]}
for n in names:
    learn = load_learner(d/f'{{n}}{{sys.argv[1]}}.pkl')
    want = torch.load(d/f'{{n}}{{sys.argv[1]}}.pt')
    if sys.argv[1]: got = torch.stack([learn.predict(o)[2] for o in x])
    else: got = learn.get_preds(dl=learn.dls.test_dl(x))[0]
    assert torch.allclose(got, want, atol=1e-5), n
assert ('fastrobust' in sys.modules) == (sys.argv[1] == '')
'''
    run = lambda kind: subprocess.Popen([sys.executable, '-c', code, kind], stderr=subprocess.PIPE, text=True)
    for r in [run(''), run('_stripped')]:
        err = r.communicate()[1]
        assert r.returncode == 0, err[-3000:]

def test_strip_refuses_what_it_cannot_write():
    learn = tiny_learner(MiniTwin())
    learn.fit(1)
    with pytest.raises(ValueError, match='learn.export'): strip(learn, 'ensemble')
    for w,i in (('a', 0), ('b', 1)):
        s = strip(learn, w)
        assert torch.equal(params(s), torch.cat([p.flatten() for p in learn.model.nets[i].parameters()]))
    with pytest.raises(ValueError, match='two networks'): strip(tiny_learner(fr.LogitClip(1.)), 'b')

@pytest.mark.parametrize('A,B', PAIRS)
def test_pairs_train_or_say_why(A, B, recwarn):
    "They combine, or one says why not; what only one can do, its class declares"
    a,b = make(A),make(B)
    why = None
    if A.surgery is B.surgery is not None: why = f'both wrap the network in {A.surgery.__name__}'
    elif A.exclusive and A.exclusive == B.exclusive: why = f'both {A.exclusive}'
    elif has_penalty(a) and has_penalty(b) and a.column == b.column: why = f'both add the term `{a.column}`'
    one,two = outcome(A, B),outcome(B, A)
    if fr.ALASCA in (A, B) and net_for(A, B):
        assert all('ALASCA expected a convolutional net' in o for o in (one, two))
        return
    if why:
        assert isinstance(one, str) and why in one and one == two
        return
    assert not isinstance(one, str), one
    losses,weights = one
    assert losses == two[0] and torch.equal(weights, two[1]) and torch.isfinite(weights).all()
    said = [w for w in recwarn if issubclass(w.category, fr.RobustWarning) and 'both change' in str(w.message)]
    sizes = all(own(t, 'logits') and t.scales for t in (a, b))
    assert bool(said) == sizes

def outcome(*Ts):
    "What a refusal says, or losses and weights after a fit"
    try:
        learn = tiny_learner([make(T) for T in Ts], net=net_for(*Ts))
        learn.fit(1)
    except ValueError as e: return str(e)
    return [o.item() for o in learn.recorder.losses] + list(learn.recorder.values[0]),params(learn)

@pytest.mark.parametrize('second', [None, lambda: small_cnn(3, 1, 8, depth=2)], ids=['copy', 'second'])
@pytest.mark.parametrize('A,B', [(MiniAux, MiniTwin), (fr.ALASCA, fr.JoCoR), (fr.ALASCA, fr.CoTeaching)],
                         ids=lambda t: getattr(t, '__name__', None))
def test_surgery_in_any_order_and_by_any_door(A, B, second):
    "Two networks, each with its own auxiliary heads: the same ones, and those that learned something stay"
    if B is MiniTwin and second: return
    new = {MiniAux: MiniAux, MiniTwin: MiniTwin, fr.ALASCA: lambda: fr.ALASCA(warmup=1)}
    kw = {} if B is MiniTwin else dict(second=second)
    two = new.get(B) or (lambda: B(.3, gradual=1, **kw))
    aux,ends = new[A],[]
    for door in ('list', 'turned', 'add', 'fit', 'both'):
        cbs = dict(list=[aux(), two()], turned=[two(), aux()], add=aux(), fit=two(), both=None)[door]
        learn = tiny_learner(cbs)
        if door == 'add': learn.add_cb(two())
        late = dict(fit=aux(), both=[aux(), two()]).get(door)
        with learn.added_cbs(late):
            nets = learn.model.nets
            assert [type(m) for m in nets] == [A.surgery]*2
            start = params(learn)
            learn.fit(2, .01)
            ends.append((start, params(learn), [o.item() for o in learn.recorder.losses]))
    for start,end,losses in ends[1:]:
        assert torch.equal(start, ends[0][0]) and torch.equal(end, ends[0][1]) and losses == ends[0][2]

    learn = tiny_learner(aux())
    learn.fit(1, .1)
    was,before = learn.model,params(learn)
    learn.add_cb(two())
    assert learn.model.nets[0] is was and torch.equal(torch.cat([p.flatten() for p in was.parameters()]), before)
    assert type(learn.model.nets[1]) is A.surgery
    learn.fit(1)
    learn.remove_cb(A)
    learn.remove_cb(B)
    assert learn.model is was.net and learn.opt is None

def test_refused_surgery_leaves_what_was_there():
    learn = tiny_learner(fr.ALASCA(warmup=1))
    was,state = learn.model,copy.deepcopy(learn.model.state_dict())
    for second in (lambda: was.net, lambda: 1/0, lambda: copy.deepcopy(was.net)):
        with pytest.raises((ValueError, ZeroDivisionError)): learn.add_cb(fr.JoCoR(.3, second=second))
        assert learn.model is was and list(learn.cbs.map(type)).count(fr.JoCoR) == 0
    assert all(torch.equal(v, state[k]) for k,v in was.state_dict().items())
    learn.fit(1)

def test_who_refuses_whom():
    "What the classes declare is what it was before they did: only these pairs are refused, one is warned of"
    choose = [fr.SmallLoss, fr.JoCoR, fr.CoTeaching, fr.CoTeachingPlus, fr.Decoupling]
    label = [fr.ODNL, fr.OpenSampling, OpenSetRows]
    want = {frozenset(o) for ts in (choose, label) for o in itertools.combinations(ts, 2)}
    # those that were there when this was written: a new technique answers for itself in its own file
    those = [*choose, *label, fr.ALASCA, fr.AugLoss, fr.AugMix, fr.ELR, fr.LogitAdjust, fr.LogitClip, fr.LogitNorm,
             fr.SampleWeights]
    pairs = list(itertools.combinations(those, 2))
    assert {frozenset((a, b)) for a,b in pairs if a.exclusive and a.exclusive == b.exclusive} == want
    wrap = {frozenset((a, b)) for a,b in pairs if a.surgery is b.surgery is not None}
    assert wrap == {frozenset(o) for o in itertools.combinations([t for t in choose if t is not fr.SmallLoss], 2)}
    penal = [t for t in those if has_penalty(make(t))]
    same = {frozenset(o) for o in itertools.combinations(penal, 2) if make(o[0]).column == make(o[1]).column}
    assert same == {frozenset((fr.AugMix, fr.AugLoss))}
    size = [t for t in those if own(make(t), 'logits') and t.scales]
    assert set(size) == {fr.LogitClip, fr.LogitNorm}
