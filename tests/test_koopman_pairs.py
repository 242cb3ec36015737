"Pairs whose sides differ, in variables or frames, through every report: what the learner predicts, or a refusal"
import numpy as np
import pytest
import torch
from fastai.learner import Learner
from fastrobust.systems.koopman.data.fields import field_dls
from fastrobust.systems.koopman.fieldmetrics import RelL2Loss
from fastrobust.systems.koopman.learner import koopman_learner
from fastrobust.systems.koopman.networks.fno import FNO1d
from fastrobust.systems.koopman.networks.kno import KNO1d
from fastrobust.systems.koopman.reports.bands import conformal_bands
from fastrobust.systems.koopman.reports.meshreport import mesh_report
from fastrobust.systems.koopman.reports.rolloutreport import rollout_report
from fastrobust.systems.koopman.reports.spectrum import operator_spectrum
from fastrobust.systems.koopman.reports.spectrumreport import spectrum_report
from fastrobust.systems.koopman.reports.stress import field_stress_report

def sides(n, kind, seed=0):
    "Fields and what they become: of one variable or two, of one frame or two"
    g = np.random.default_rng(seed)
    f = np.fft.rfft(g.normal(size=(n, 16)))
    f[:, 4:] = 0
    one = np.fft.irfft(f, n=16).astype(np.float32)
    two = np.stack([one, 5*np.roll(one, 3, 1)], 1)
    return dict(widen=(one, two), narrow=(two, one), frames=(two, two[:, ::-1].copy()))[kind]

NETS = dict(widen=lambda: FNO1d(1, width=4, m=4, t_out=2), narrow=lambda: FNO1d(2, width=4, m=4),
            frames=lambda: KNO1d(2, o=4, m=4))

@pytest.fixture(scope='module', params=NETS)
def told(request):
    "A learner, new fields, what they become, and what `Learner` makes of them"
    kind = request.param
    kw = dict(t_in=2, t_out=2) if kind == 'frames' else {}
    if kind != 'frames': kw['axes'],kw['y_axes'] = (('n x', 'n c x'), ('n c x', 'n x'))[kind == 'narrow']
    else: kw['axes'] = 'n c x'
    torch.manual_seed(0)
    learn = koopman_learner(field_dls(*sides(40, kind), bs=8, device='cpu', **kw), NETS[kind]())
    u,y = sides(30, kind, 1)
    with learn.no_bar(), learn.no_logging():
        learn.fit(2)
        dl = learn.dls.test_dl(list(zip(u, y)), with_labels=True)
        pred,want = learn.get_preds(dl=dl)
        error = learn.validate(dl=dl)[1]
    return kind,learn,u,y,pred,want,error

def test_bands_are_about_what_it_predicts(told):
    kind,learn,u,y,pred,want,_ = told
    frames = 2 if kind == 'frames' else 1
    b = conformal_bands(learn, (u, y), scaled=False, by_frame=False)
    assert b.steps == frames and torch.allclose(b.radius(u)[0], pred, atol=1e-5)
    assert np.allclose(b.calibration, np.sort((pred-want).abs().flatten(1).amax(1)), rtol=1e-4)
    held = conformal_bands(learn, learn.dls.valid, .5, by_frame=False)
    assert held.steps == frames and b.report(u, y).frames.index.tolist() == list(range(1, frames+1))

def test_errors_of_meshes_and_under_stress_are_those_of_the_learner(told):
    _,learn,u,y,_,_,error = told
    with learn.no_bar():
        mesh = mesh_report(learn, (u, y), 16).table
        stress = field_stress_report(learn, u, y, noise=.1, dropped=None, coarser=None).table
    assert mesh['error'].iloc[0] == pytest.approx(error, rel=1e-4)
    assert stress.iloc[0, 1] == pytest.approx(error, rel=1e-4)

def test_what_needs_the_same_kind_of_field_is_refused(told):
    kind,learn,u,y,*_ = told
    sort = dict(widen='1 frame of 1 variable to 1 frame of 2 variables', frames='2 frames of 1 variable to 2 frames',
                narrow='1 frame of 2 variables to 1 frame of 1 variable')[kind]
    for f in (lambda: rollout_report(learn, u, y), lambda: spectrum_report(learn), lambda: operator_spectrum(learn)):
        with pytest.raises(ValueError, match=f'next frame .* got a learner of pairs, {sort}'): f()
    if kind == 'frames': return
    more = np.concatenate([y.reshape(30, -1, 16)]*2, 1).reshape(30, 2, -1, 16)
    for f in (lambda: conformal_bands(learn, (u, more)), lambda: mesh_report(learn, (u, more)),
              lambda: field_stress_report(learn, u, more)):
        with pytest.raises(ValueError, match='expected 1 frame .* got 2'): f()

def test_learners_side_by_side():
    "One that gives all frames at once beside one that was made by koopman_learner; and two of other pairs"
    u,y = sides(40, 'frames')
    dls = field_dls(u, y, bs=8, device='cpu', t_in=2, t_out=2, axes='n c x')
    rolls = koopman_learner(dls, KNO1d(2, o=4, m=4))
    at_once = Learner(dls, FNO1d(2, width=4, m=4, t_out=2), RelL2Loss())
    names = {'a': rolls, 'b': at_once}
    both = mesh_report(names, (u, y), 16).table
    alone = [mesh_report(o, (u, y), 16).table['error'].iloc[0] for o in names.values()]
    assert np.allclose(both['error'], alone)
    stress = field_stress_report(names, u, y, noise=.1, dropped=None, coarser=None).table
    assert np.allclose([stress[k].iloc[0] for k in names], alone)
    wide = koopman_learner(field_dls(*sides(40, 'widen'), bs=8, axes='n x', y_axes='n c x'), NETS['widen']())
    plain = koopman_learner(field_dls(u[:, 0], u[:, 1], bs=8, axes='n x'), FNO1d(width=4, m=4))
    with pytest.raises(ValueError, match=r'take the same fields.*1 frame of 1 variable to 1 frame of 2 variables'):
        mesh_report({'a': wide, 'b': plain}, sides(5, 'widen'))

def test_pairs_of_one_kind_still_roll():
    u = sides(40, 'widen')[0]
    learn = koopman_learner(field_dls(u, np.roll(u, 1, 1), bs=8, device='cpu'), FNO1d(width=4, m=4))
    y = np.stack([np.roll(u, i, 1) for i in (1, 2, 3)], 1)
    assert conformal_bands(learn, (1.1*u, y), by_frame=False).steps == 3
    assert len(rollout_report(learn, u, y).table) == 3
