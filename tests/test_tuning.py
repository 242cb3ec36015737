"find_tau: picks on held-out noisy labels, leaves everything as it was"
import copy, random
from functools import partial
import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.optimizer import SGD, OptimWrapper
from fastai.torch_core import set_seed
from conftest import MiniTwin, tiny_dls, tiny_learner
from fastrobust.basics import RobustWarning
from fastrobust.noise.laws import NoisyLabels
from fastrobust.noise.block import add_label_noise
from fastrobust.data.openset import aux_images
from fastrobust.losses import GCELoss
from fastrobust.training.objective import Objective
from fastrobust.techniques.logitclip import LogitClip
from fastrobust.techniques.odnl import ODNL
import fastrobust.compare.tuning as tuning
from fastrobust.compare.tuning import GRID, find_tau, plot_tau

find = partial(find_tau, grid=[.5, 4.], epochs=1, plot=False)
flat = lambda learn, n: learn.fit(n)

def test_the_papers_grid():
    assert sorted(1/t for t in GRID) == pytest.approx([.1, .5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5])

@pytest.mark.parametrize('cbs', [None, lambda: LogitClip(1.)], ids=['without', 'with'])
def test_leaves_the_learner_and_the_streams_as_they_were(cbs, capsys):
    learn = tiny_learner(cbs and cbs(), opt_func=SGD)
    learn.create_opt()
    model,loss,opt,dls,n = learn.model,learn.loss_func,learn.opt,learn.dls,list(learn.cbs)
    before,rng = copy.deepcopy(model.state_dict()),dls.train.rng.getstate()
    hypers = copy.deepcopy(list(opt.hypers))
    state = torch.get_rng_state(),np.random.get_state()[1].copy(),random.getstate()
    tau = find(learn)
    assert tau in (.5, 4.) and list(learn.cbs) == n
    assert learn.model is model and learn.loss_func is loss and learn.opt is opt and learn.dls is dls
    assert all(torch.equal(v, before[k]) for k,v in model.state_dict().items()) and list(opt.hypers) == hypers
    assert not any('grad_avg' in o for o in opt.state.values())
    assert dls.train.rng.getstate() == rng and len(dls.train_ds) == 48
    assert torch.equal(torch.get_rng_state(), state[0]) and (np.random.get_state()[1] == state[1]).all()
    assert random.getstate() == state[2]
    assert isinstance(learn.loss_func, Objective) == (cbs is not None) and not learn.recorder.__dict__.get('values')
    assert capsys.readouterr().out.count('accuracy on held-out noisy labels') == 2
    learn.fit(1)

def test_picks_the_tau_that_does_best_on_the_held_out_given_labels():
    "Whatever the trials do, the largest last accuracy wins; it is measured on 10 % with their noisy labels"
    dls = add_label_noise(tiny_dls(), NoisyLabels('symmetric', .5, seed=1))
    learn,seen = tiny_learner(dls=dls),[]
    class Rig(Callback):
        "Sets the network so that it predicts one class, int(tau) after the last epoch, the next one before"
        def before_validate(self):
            k = torch.tensor(int(self.logitclip.tau) + (self.epoch == 0)) % 3
            self.model[-1].weight.data.zero_()
            self.model[-1].bias.data = torch.nn.functional.one_hot(k, 3).float()
    def fit(trial, n):
        seen.append(trial)
        trial.fit(n, cbs=Rig())
    tau = find_tau(learn, grid=[1., 2., .5], epochs=2, pct=.25, fit=fit, plot=False)
    held = seen[0].dls.valid_ds
    y = np.array([int(o[1]) for o in held])
    want = {t: (y == int(t)).mean() for t in (.5, 1., 2.)}
    got = dict(zip(tau.curve.tau, tau.curve.accuracy))
    assert got == pytest.approx(want) and tau == max(got, key=got.get) and list(tau.curve.tau) == [.5, 1., 2.]
    assert len(held) == 12 and len(seen[0].dls.train_ds) == 36
    assert len({tuple(o.dls.valid_ds.items.rows.tolist()) for o in seen}) == 1
    rows = held.items.rows
    assert (y == dls.noise.y_noisy[rows]).all() and (y != dls.noise.y_clean[rows]).any()

def test_trials_start_from_the_learners_weights_and_are_like_it():
    learn = tiny_learner(ODNL(aux_images('blob', 20, 8, 1)), loss_func=GCELoss(.4), opt_func=SGD, lr=.07, wd=.3,
                         moms=(.9, .8, .9), train_bn=False)
    start,seen = copy.deepcopy(learn.model.state_dict()),[]
    def fit(trial, n):
        seen.append({k: v.clone() for k,v in trial.model.state_dict().items()})
        trial.fit(n, .0)
        assert trial.loss_func.base.q == .4 and trial.loss_func.base is not learn.loss_func.base
        assert trial.opt_func is SGD
        assert (trial.lr, trial.wd, trial.moms, trial.train_bn) == (.07, .3, (.9, .8, .9), False)
        names = [t.name for t in trial.objective.techniques()]
        assert sorted(names) == ['logitclip', 'odnl'] and trial.odnl is not learn.odnl
    find(learn, fit=fit)
    assert len(seen) == 2 and all(torch.equal(v, start[k]) for o in seen for k,v in o.items())
    assert learn.odnl.learn is learn

def test_a_frozen_learner_has_frozen_trials():
    learn = tiny_learner(splitter=lambda m: [list(m[:3].parameters()), list(m[3:].parameters())])
    learn.freeze()
    start,ends = copy.deepcopy(learn.model.state_dict()),[]
    def fit(trial, n): trial.fit(n, .1); ends.append(trial.model)
    find(learn, fit=fit)
    for m in ends:
        same = [torch.equal(v, start[k]) for k,v in m.state_dict().items()]
        assert all(same[:1]) and not any(same[-2:])

def test_same_seed_same_answer_and_the_grid_is_paired():
    curves = []
    for seed in (0, 0, 1):
        set_seed(seed+17)       # whatever the streams were
        learn = tiny_learner()
        learn.dls.train.rng = random.Random(seed+33)
        curves.append(find_tau(learn, grid=[3., 3.], epochs=2, seed=seed, plot=False).curve)
    assert curves[0].equals(curves[1])
    assert all(len(set(c.accuracy)) == 1 for c in curves), 'the same tau twice is the same trial twice'

def test_streams_come_back_after_ctrl_c():
    def fit(_trial, _n): raise KeyboardInterrupt
    learn = tiny_learner()
    state = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt): find(learn, fit=fit)
    assert torch.equal(torch.get_rng_state(), state)
    learn.fit(1)

@pytest.mark.parametrize('kw,msg', [
    (dict(grid=[]), r'expected positive values of tau in `grid`, got \[\]'),
    (dict(grid=[1., 0.]), r'positive values of tau.*got \[0.0, 1.0\]'), (dict(grid=[-1.]), 'positive values of tau'),
    (dict(grid=[float('nan')]), 'positive values of tau'), (dict(epochs=0), 'at least one epoch, got 0'),
    (dict(pct=0.), 'expected `pct`'), (dict(pct=1.), 'expected `pct`')])
def test_bad_arguments(kw, msg):
    learn = tiny_learner()
    before = copy.deepcopy(learn.model.state_dict())
    with pytest.raises(ValueError, match=msg): find_tau(learn, **{**dict(grid=[1.], epochs=1, plot=False), **kw})
    assert all(torch.equal(v, before[k]) for k,v in learn.model.state_dict().items())

def test_learners_it_cannot_copy():
    with pytest.raises(ValueError, match='got one under surgery'): find(tiny_learner(MiniTwin()))
    learn = tiny_learner()
    learn.opt_func = OptimWrapper(list(learn.model.parameters()), torch.optim.SGD, lr=.1)
    with pytest.raises(ValueError, match='partial.OptimWrapper'): find(learn)

def test_a_trained_learner_is_warned_of():
    learn = tiny_learner()
    learn.fit(1)
    with pytest.warns(RobustWarning, match='trained already'): find(learn)

def test_defaults(monkeypatch):
    "The whole grid, ten epochs, one-cycle at the learner's rate, a plot"
    monkeypatch.setattr(tuning, 'GRID', (1., 2.))
    drawn,fits = [],[]
    monkeypatch.setattr(tuning, 'plot_tau', drawn.append)
    import fastai.callback.schedule  # noqa: F401
    from fastai.learner import Learner
    monkeypatch.setattr(Learner, 'fit_one_cycle', lambda self, n, lr: (fits.append((n, lr)), self.fit(1)))
    find_tau(tiny_learner(lr=.02))
    assert fits == [(10, .02)]*2 and len(drawn) == 1 and list(drawn[0].tau) == [1., 2.]

def test_plot_shows_the_curve_and_its_best():
    import pandas as pd
    c = pd.DataFrame(dict(tau=[2., .5, 1.], accuracy=[.3, .6, .5]))
    (ax,) = plot_tau(c).axes
    line,best = ax.lines[0],ax.lines[1]
    assert line.get_xdata().tolist() == [.5, 1., 2.] and line.get_ydata().tolist() == [.6, .5, .3]
    assert (best.get_xdata()[0], best.get_ydata()[0]) == (.5, .6) and ax.get_xscale() == 'log'
    assert 'tau = 0.5' in [t.get_text() for t in ax.get_legend().get_texts()] and 'noisy' in ax.get_ylabel()
    assert plot_tau(c, ax) is ax.figure
