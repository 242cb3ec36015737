"ELR against loops in float64, hand-computed numbers, and its memory through everything a learner does"
import copy, math
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from fastai.callback.core import Callback
from fastai.callback.schedule import lr_find    # noqa: F401  (patches Learner)
from fastai.learner import load_learner
from fastai.optimizer import SGD
from conftest import MiniAux, MiniTwin, tiny_arrays, tiny_learner
from fastrobust.losses import GCELoss
from fastrobust.training.stages import head_of
from fastrobust.techniques.elr import ELR, elr_loss, elr_targets
from fastrobust.techniques.logitclip import LogitClip

# what test_contract.py runs every technique through
CONTRACT = {ELR: dict(make=lambda **kw: ELR(**kw), weight='lam', deterministic=True)}

# --- functions -------------------------------------------------------------------------------------------------------
def test_by_hand():
    z = torch.tensor([[math.log(3.), 0.]])                          # p = (3/4, 1/4)
    t = elr_targets(torch.zeros(1, 2), z, .7)
    assert torch.allclose(t, torch.tensor([[.225, .075]]))
    assert abs(elr_loss(z, t) - math.log(1 - (.75*.225 + .25*.075))) < 1e-6
    assert torch.allclose(elr_targets(t, z, .7), 1.7*t)

@given(st.lists(st.lists(st.floats(-30, 30), min_size=3, max_size=3), min_size=1, max_size=6), st.floats(0, .99))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_targets_stay_probabilities_and_the_loss_finite(zs, beta):
    t = torch.zeros(1, 3)
    for k,z in enumerate(zs):
        z = torch.tensor([z], requires_grad=True)
        t = elr_targets(t, z, beta)
        assert not t.requires_grad and (t >= 0).all() and abs(t.sum() - (1-beta**(k+1))) < 1e-5
        l = elr_loss(z, t)
        g, = torch.autograd.grad(l, z)
        assert math.log(1e-4) - 1e-3 <= l <= 0 and torch.isfinite(g).all()

def test_certain_predictions_are_finite_in_any_precision():
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        z = torch.tensor([[300., -300.], [-300., 300.]], dtype=dtype, requires_grad=True)
        t = torch.eye(2)
        for _ in range(40): t = elr_targets(t, z, .7)
        l = elr_loss(z, t)
        assert l.dtype is torch.float32 and abs(l - math.log(1 - (1-1e-4)**2)) < .05
        l.backward()
        assert torch.isfinite(z.grad).all()

def test_the_gradient_is_that_of_the_formula():
    "d/dz_j ln(1 - <p,t>) = -p_j (t_j - <p,t>)/(1 - <p,t>): towards the target, the more the nearer"
    z = torch.tensor([[1., 0, -1], [.3, .2, .1]], dtype=torch.float64, requires_grad=True)
    t = torch.tensor([[.1, .6, .1], [.2, .2, .3]], dtype=torch.float64)
    g, = torch.autograd.grad(elr_loss(z, t), z)
    p = z.detach().softmax(1)
    pt = (p*t).sum(1, keepdim=True)
    assert torch.allclose(g, -p*(t-pt)/(1-pt)/2)
    assert torch.autograd.gradcheck(lambda o: elr_loss(o, t), (z,))

# --- training --------------------------------------------------------------------------------------------------------
class Spy(Callback):
    order = 4.5
    def __init__(self): self.seen = []
    def after_loss(self):
        if not self.training: return
        b = self.learn.objective.batch
        zs = [self.learn.objective.map(getattr(h, 'main', h)).detach().double().tolist() for h in b.heads]
        self.seen.append([zs, b.ids.tolist(), self.learn.y.tolist(), self.loss.item()])
class SpyAfter(Callback):
    order = 5.5
    def after_loss(self):
        if self.training: self.learn.spy.seen[-1][-1] = self.loss.item() - self.learn.spy.seen[-1][-1]

def replay(seen, lam, beta):
    "Term of each batch, and the scores at the end, item by item"
    T,score = {},{}
    terms = []
    for zs,ids,y,_ in seen:
        total = 0.
        for h,z in enumerate(zs):
            for i,k in enumerate(ids):
                e = [math.exp(o-max(z[i])) for o in z[i]]
                p = [min(max(o/sum(e), 1e-4), 1-1e-4) for o in e]
                t = T[h,k] = [beta*a + (1-beta)*b/sum(p) for a,b in zip(T.get((h,k), [0.]*len(p)), p)]
                total += math.log(1 - sum(a*b for a,b in zip(p, t)))/len(ids)
                score[h,k] = t[y[i]]/sum(t)
        terms.append(lam*total)
    return terms,score

@pytest.mark.parametrize('more', [[], [MiniTwin], [lambda: LogitClip(.3)], [MiniTwin, MiniAux]], ids=len)
@pytest.mark.parametrize('kw', [{}, dict(lam=1., beta=.9)], ids=str)
def test_against_loops(more, kw):
    learn = tiny_learner([ELR(**kw)] + [m() for m in more], opt_func=SGD, loss_func=GCELoss())
    spy = Spy()
    learn.add_cbs([spy, SpyAfter()])
    learn.remove_cb(MiniAux)        # whose term is none of ELR's
    learn.fit(1, .3); learn.fit(2, .3)
    want,score = replay(spy.seen, kw.get('lam', 3.), kw.get('beta', .7))
    assert len(want) == 9 and np.allclose([o[-1] for o in spy.seen], want, atol=2e-5)
    nets = 1 + (MiniTwin in more)
    mean = [sum(score[h,i] for h in range(nets))/nets for i in range(48)]
    assert len(learn.elr._memory) == nets and np.allclose(learn.elr.score(), mean, atol=1e-5)
    assert abs(learn.elr.score(7) - mean[7]) < 1e-5 and learn.elr.score([1, 2]).shape == (2,)
    col = list(learn.recorder.metric_names).index('elr')
    assert abs(learn.recorder.values[-1][col-1] - np.mean(want[-3:])/kw.get('lam', 3.)/nets) < 1e-5

def test_asking_writes_nothing_and_absent_items_stay():
    learn = tiny_learner(ELR()); learn.fit(1)
    before = copy.deepcopy(learn.elr._memory[0])
    class Ask(Callback):
        order = 4.5
        def after_loss(self):
            if not self.training: return
            for _ in range(3): self.learn.elr.penalty_of(head_of(0, self.learn.objective.batch.heads[0]))
            if self.iter == 0:
                assert torch.equal(self.learn.elr._memory[0]['rows'], before['rows'])
                self.ids = self.learn.objective.batch.ids
            if self.iter == 1:
                same = (self.learn.elr._memory[0]['rows'] == before['rows']).all(1)
                assert same.sum() == 32 and not same[self.ids].any()
    learn.fit(1, cbs=Ask())

def test_lr_find_copy_and_export(tmp_path):
    learn = tiny_learner(ELR(), path=tmp_path)
    learn.fit(1)
    s = learn.elr.score().copy()
    assert np.array_equal(copy.deepcopy(learn).elr.score(), s)
    learn.lr_find(num_it=12, show_plot=False)
    assert np.array_equal(learn.elr.score(), s)
    learn.export('m.pkl')
    back = load_learner(tmp_path/'m.pkl')
    assert back.elr.beta == .7 and back.elr._memory == ()
    with pytest.raises(ValueError, match='ELR to have a memory'): back.elr.score()
    new = tiny_learner(ELR())
    torch.save(learn.elr.state_dict(), tmp_path/'t.pt')
    new.elr.load_state_dict(torch.load(tmp_path/'t.pt'))
    assert np.array_equal(new.elr.score(), s)
    loose = ELR(); loose.load_state_dict(learn.elr.state_dict())        # before it has a learner
    assert np.array_equal(loose.score(), s)
    bad = learn.elr.state_dict(); bad['memory'][0]['score'] = torch.zeros(3)
    with pytest.raises(ValueError, match='Load it for the items'): ELR().load_state_dict(bad)

def test_it_holds_the_early_predictions():
    "On random labels the training accuracy that plain cross-entropy reaches stays away"
    acc = {}
    for name,cbs in dict(plain=None, elr=ELR(10.)).items():
        learn = tiny_learner(cbs)
        learn.fit(25, 1e-2)
        p,y = learn.get_preds(ds_idx=0)[:2]
        acc[name] = (p.argmax(1) == torch.as_tensor(tiny_arrays()[1])).float().mean().item()
    assert acc['elr'] < acc['plain'] - .1, acc

@pytest.mark.parametrize('kw,err', [(dict(lam=0), ValueError), (dict(lam='a'), TypeError), (dict(beta=1.), ValueError),
                                    (dict(beta=-.1), ValueError), (dict(beta='a'), TypeError)])
def test_bad_settings(kw, err):
    with pytest.raises(err, match=f'`{next(iter(kw))}` must'): ELR(**kw)
