"The surest unknown images and the most doubted known ones are those of the score; the interpretation finds its reports"
import io
import numpy as np
import pytest
import torch
from PIL import Image
from conftest import tiny_arrays, tiny_dls, tiny_learner
from fastrobust.ood.featurescores import KNN, ReAct
from fastrobust.ood.logitscores import Energy
from fastrobust.ood.pictures import show_unknowns
from fastrobust.data.auxrows import OpenSet
from fastrobust.data.openset import aux_images
from fastrobust.calibration.report import calibration_report
from fastrobust.calibration.temperature import temperature_scale
from fastrobust.ood.report import ood_report
from fastrobust.tails.report import tail_report
from fastrobust.interpret import RobustInterpretation
from fastrobust.ood.logitnorms import LogitNorms

BLOBS = aux_images('blob', 30, 8, 1, seed=4)

def trained(cbs=None, dls=None, epochs=2, **kw):
    learn = tiny_learner(cbs, dls, norm='bn', **kw)
    learn.fit(epochs, 1e-2)
    return learn

def panels(fig):
    "Axes with an image, of the left and of the right panel"
    return [[ax for ax in s.axes if ax.images] for s in fig.subfigs]
def image(ax): return np.asarray(ax.images[0].get_array())
def title(ax): return ax.get_title(loc='left')
def probs(learn, X):
    "Softmax one image at a time"
    with torch.no_grad():
        zs = [learn.model.eval()(b[0]) for b in learn.dls.test_dl(list(X), bs=1)]
        return torch.cat(zs).double().softmax(1).numpy()

# --- show_unknowns ---------------------------------------------------------------------------------------------------
def test_the_surest_unknown_and_the_most_doubted_known_images_in_order():
    learn,(Xv,yv) = trained(),tiny_arrays(24, seed=1)
    yv[:3] = range(3)
    fig = show_unknowns(learn, BLOBS)
    p,q = probs(learn, BLOBS),probs(learn, Xv)
    left,right = panels(fig)
    assert len(left) == len(right) == 8
    vocab = learn.dls.vocab
    for ax,i in zip(left, (-p.max(1)).argsort(kind='stable')):
        assert np.allclose(image(ax), BLOBS[i]/255, atol=1e-6)
        assert title(ax) == f'taken for\n{vocab[p[i].argmax()]}'
        odds = np.log(p[i].max()/(1-p[i].max()))
        share,score = ax.get_xlabel().split(' %, msp ')
        assert float(share) == pytest.approx(100*p[i].max(), abs=.06) and float(score) == pytest.approx(odds, rel=.01)
    marks = []
    for ax,i in zip(right, q.max(1).argsort(kind='stable')):
        assert np.allclose(image(ax), Xv[i]/255, atol=1e-6)
        k = q[i].argmax()
        marks.append(k == yv[i])
        assert title(ax) == (f'{vocab[k]} ✓\n ' if k == yv[i] else f'{vocab[k]} ✗\nis {vocab[yv[i]]}')
        assert ax.get_xlabel().startswith(f'{100*q[i].max():.1f} %, msp ')
    assert 0 < sum(marks) < 8                   # right and wrong ones are both there
    heads = [s._suptitle.get_text() for s in fig.subfigs]
    assert heads == ['Unknown: the surest 8 of 30', 'Known: the most doubted 8 of 24']
    t = ood_report(learn, {'unknown': BLOBS}, 'msp').table.iloc[0]
    assert f'FPR95 {t.FPR95:.3f}, AUROC {t.AUROC:.3f}' in fig._suptitle.get_text()

@pytest.mark.parametrize('score', ['energy', 'react', KNN(k=3), Energy(T=2.)], ids=str)
def test_other_scores_rank_as_the_report_does(score):
    learn = trained()
    left,right = panels(show_unknowns(learn, BLOBS, score, n=3))
    (s,) = ood_report(learn, {'u': BLOBS}, (score,)).scores.values()
    for ax,i in zip(left, (-s['u']).argsort(kind='stable')): assert np.allclose(image(ax), BLOBS[i]/255, atol=1e-6)
    Xv = tiny_arrays(24, seed=1)[0]
    for ax,i in zip(right, s['id'].argsort(kind='stable')): assert np.allclose(image(ax), Xv[i]/255, atol=1e-6)
    assert float(left[0].get_xlabel().rsplit(' ', 1)[1]) == pytest.approx(s['u'].max(), rel=.01)

def test_loaders_open_sets_colour_other_known_images_and_few():
    learn = trained()
    one = panels(show_unknowns(learn, BLOBS, n=2))
    for other in (learn.dls.test_dl(list(BLOBS)), OpenSet(BLOBS), torch.tensor(BLOBS)[:, None], BLOBS/np.float32(255)):
        two = panels(show_unknowns(learn, other, n=2))
        for a,b in zip(sum(one, []), sum(two, [])):
            assert np.allclose(image(a), image(b), atol=1e-6) and title(a) == title(b)
    few = panels(show_unknowns(learn, BLOBS[:3], n=50, dl=tiny_arrays(5, seed=9)[0]))
    assert [len(o) for o in few] == [3, 5] and not any('✓' in title(ax) or '✗' in title(ax) for ax in few[1])
    color = trained(dls=tiny_dls(channels=3))
    ax = panels(show_unknowns(color, aux_images('blob', 9, 8, 3), n=1))[0][0]
    assert image(ax).shape == (8, 8, 3)

def test_text_stays_inside_and_off_the_neighbours():
    learn = trained(dls=tiny_dls(vocab=['T-shirt/top', 'Ankle boot', 'a name that nobody can read at once']))
    for n in (1, 3, 8):
        fig = show_unknowns(learn, BLOBS, n=n)
        fig.draw_without_rendering()
        shown = [t for ax in sum(panels(fig), []) for t in (ax._left_title, ax.xaxis.label)]
        boxes = [t.get_window_extent() for t in [*shown, fig._suptitle, *[s._suptitle for s in fig.subfigs]]]
        for i,a in enumerate(boxes):
            assert fig.bbox.x0 <= a.x0 and a.x1 <= fig.bbox.x1+2 and fig.bbox.y0 <= a.y0
            for b in boxes[i+1:]: assert not a.shrunk(.98, .8).overlaps(b.shrunk(.98, .8))
    with Image.open(io.BytesIO(fig._repr_png_())) as im: assert np.asarray(im.convert('L')).std() > 5
    fig = show_unknowns(learn, BLOBS, figsize=(9, 4), title='T')
    assert fig._suptitle.get_text() == 'T' and fig.get_size_inches().tolist() == [9, 4]

def test_nothing_of_the_learner_changes():
    learn = trained()
    learn.model.train()
    before = ({k: v.clone() for k,v in learn.model.state_dict().items()}, torch.get_rng_state(),
              np.random.get_state()[1], list(learn.recorder.losses), [m.training for m in learn.model.modules()],
              learn.dls.train.rng.getstate())
    show_unknowns(learn, BLOBS, 'mahalanobis')
    assert all(torch.equal(v, before[0][k]) for k,v in learn.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), before[1]) and (np.random.get_state()[1] == before[2]).all()
    assert learn.recorder.losses == before[3] and [m.training for m in learn.model.modules()] == before[4]
    assert learn.dls.train.rng.getstate() == before[5]

def test_errors_say_what_to_do():
    learn = tiny_learner()
    for n in (0, -2, 2.5, True):
        with pytest.raises(ValueError, match='`n` must be'): show_unknowns(learn, BLOBS, n=n)
    with pytest.raises(TypeError, match='a dict of 1. Give one'): show_unknowns(learn, {'blobs': BLOBS})
    with pytest.raises(ValueError, match="Did you mean 'energy'"): show_unknowns(learn, BLOBS, 'enrgy')
    with pytest.raises(ValueError, match='expected images'): show_unknowns(learn, BLOBS[:0])

# --- interpretation --------------------------------------------------------------------------------------------------
def interp(learn):
    with learn.no_bar(): return RobustInterpretation.from_learner(learn)
def legend(ax): return [t.get_text() for t in ax.get_legend().get_texts()]

def test_unknown_images_by_array_dict_or_report():
    learn = trained()
    i,sets = interp(learn),dict(blobs=BLOBS, noise=aux_images('gaussian', 20, 8, 1))
    rep = ood_report(learn, sets, ('energy', 'react'), near=['noise'])
    t = rep.table[rep.table.set != 'mean'].set_index(['score', 'set'])
    for fig in (i.plot_ood(rep, 'react'), i.plot_ood(sets, ReAct(), near=['noise']), i.plot_ood(rep, ReAct)):
        assert legend(fig.axes[1])[:2] == [f"blobs: AUROC {t.AUROC['react', 'blobs']:.3f}",
                                           f"noise (near): AUROC {t.AUROC['react', 'noise']:.3f}"]
        assert legend(fig.axes[0])[1] == f"blobs (30): FPR95 {t.FPR95['react', 'blobs']:.3f}"
    assert 'energy' in i.plot_ood(rep).axes[0].get_xlabel()                 # a report's first
    one = i.plot_ood(BLOBS, positive='ood', title='T')
    assert 'msp' in one.axes[0].get_xlabel() and one._suptitle.get_text() == 'T'
    assert legend(one.axes[1])[0].startswith('unknown: AUROC') and 'of a set are below' in legend(one.axes[0])[-1]
    assert 'gen' in i.plot_ood(BLOBS, 'gen', scores=['msp', 'gen']).axes[0].get_xlabel()
    with pytest.raises(TypeError, match=r'got both \(near\)'): i.plot_ood(rep, near=['noise'])
    with pytest.raises(ValueError, match='one of the report'): i.plot_ood(rep, 'msp')

def test_reliability_of_a_report_or_of_the_learner():
    learn = trained()
    i,rep = interp(learn),calibration_report(learn, n_bins=5)
    heights = lambda fig: [p.get_height() for p in fig.axes[0].patches]
    assert heights(i.plot_reliability(rep)) == pytest.approx(heights(i.plot_reliability(n_bins=5)))
    assert f'ECE {rep.summary.ece:.3f}' in i.plot_reliability(n_bins=5, title='T').axes[0].get_title()
    with pytest.raises(TypeError, match=r'got both \(n_bins\)'): i.plot_reliability(rep, n_bins=5)

def test_class_accuracy_of_a_report_several_or_of_the_learner():
    learn = trained()
    i,rep = interp(learn),tail_report(learn)
    offsets = lambda fig: fig.axes[1].collections[-1].get_offsets()
    made = i.plot_class_accuracy(title='T')
    assert np.allclose(offsets(made), offsets(i.plot_class_accuracy(rep))) and made._suptitle.get_text() == 'T'
    assert sorted(offsets(made)[:, 1]) == pytest.approx(sorted(rep.table.accuracy))
    both = i.plot_class_accuracy(dict(a=rep, b=rep))
    assert [t.get_text() for t in both.legends[0].get_texts()] == ['a', 'b']
    with pytest.raises(TypeError, match=r'got both \(counts\)'): i.plot_class_accuracy(rep, counts=[1, 2, 3])

def test_logit_norms_are_found_or_asked_for():
    learn = trained(LogitNorms(BLOBS))
    ax = interp(learn).plot_logit_norms(title='T').axes[0]
    assert ax.get_title() == 'T'
    t = learn.logit_norms.table.xs('unknown', level='set')
    assert ax.get_lines()[1].get_ydata().tolist() == t['median'].tolist()
    with pytest.raises(ValueError, match=r'after each epoch is not known.*cbs=LogitNorms\(\)'):
        interp(tiny_learner()).plot_logit_norms()

def test_a_report_is_made_once_until_something_changes(monkeypatch):
    import fastrobust.interpret as module
    made = []
    for k in ('ood_report', 'calibration_report', 'tail_report', 'corruption_report'):
        real = getattr(module, k)
        def count(*args, make=real, k=k, **kw):
            made.append(k)
            return make(*args, **kw)
        monkeypatch.setattr(module, k, count)
    def news(): return made.copy(),made.clear()
    learn = trained()
    i,other = interp(learn),aux_images('gaussian', 20, 8, 1)
    i.plot_ood(BLOBS), i.plot_ood(BLOBS, title='T'), i.plot_ood(dict(unknown=BLOBS), 'msp')
    i.plot_reliability(), i.plot_reliability(figsize=(5, 5)), i.plot_class_accuracy(), i.plot_class_accuracy()
    assert news()[0] == ['ood_report', 'calibration_report', 'tail_report']
    i.plot_ood(other), i.plot_ood(BLOBS, 'energy'), i.plot_ood(BLOBS, near=['unknown']), i.plot_reliability(n_bins=9)
    assert news()[0] == ['ood_report']*3 + ['calibration_report']
    changed = BLOBS.clone() if isinstance(BLOBS, torch.Tensor) else BLOBS.copy()
    i.plot_ood(changed)
    changed[:] = 255
    i.plot_ood(changed), i.plot_ood(changed)
    assert news()[0] == ['ood_report']*2
    for again in ((1, 5), [1, 5]): i.plot_corruptions(names='fog', severities=again)
    i.plot_corruptions(names='fog', severities=[1]), i.plot_reliability()
    assert news()[0] == ['corruption_report']*2
    temperature_scale(learn)
    i.plot_reliability(), i.plot_reliability()
    assert news()[0] == ['calibration_report']
    with torch.no_grad(): next(learn.model.parameters()).add_(.1)
    i.plot_reliability(), i.plot_class_accuracy(), i.plot_ood(BLOBS)
    assert news()[0] == ['calibration_report', 'tail_report', 'ood_report']
