"The pictures of the wing show the numbers they were given, are labelled, and say what is missing"
import matplotlib.pyplot as plt
import numpy as np, pandas as pd
import pytest
import torch
from torch import nn

from fastai.interpret import ClassificationInterpretation
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from conftest import tiny_dls, tiny_learner
from fastrobust.basics import RobustWarning
from fastrobust.noise.laws import NoisyLabels
from fastrobust.noise.block import add_label_noise
from fastrobust.labels.history import SampleHistory
from fastrobust.interpret import RobustInterpretation
from fastrobust.labels.memorisation import Memorisation
from fastrobust.labels.mixtures import small_loss_split
from fastrobust.labels.pictures import (plot_disagreement, plot_loss_split, plot_noise_matrices,
                                        plot_selection)
from fastrobust.labels.sheets import plot_label_issues
from fastrobust.reporting.report import Report

def labelled(ax): return bool(ax.get_title() and ax.get_xlabel() and ax.get_ylabel())
def only(fig):
    (ax,) = fig.axes
    return ax
def legend(ax): return [t.get_text() for t in ax.get_legend().get_texts()]

def losses():
    r = np.random.RandomState(0)
    return np.concatenate([r.normal(.3, .1, 300), r.normal(2, .3, 200)]),np.arange(500) >= 300

# --- losses ----------------------------------------------------------------------------------------------------------
def test_loss_split_shows_every_item_once_and_the_fit():
    l,wrong = losses()
    s = small_loss_split(l)
    ax = only(plot_loss_split(l, wrong))
    heights = np.array([p.get_height() for p in ax.patches]).reshape(2, -1).sum(1)
    assert heights.tolist() == [300, 200] and labelled(ax) and 'no separation' not in ax.get_title()
    assert legend(ax) == ['right label (300)', 'wrong label (200)', f'small losses, share {s.weights[0]:.2f}',
                          f'large losses, share {s.weights[1]:.2f}', f'threshold {s.threshold:.2f}']
    curve = ax.get_lines()[0].get_xydata()
    assert curve[curve[:,1].argmax(),0] == pytest.approx(s.means[0], abs=.02)
    k = np.diff(curve[:,0]).mean()/(ax.patches[0].get_width())      # areas: the curves cover as many items as the bars
    assert sum(ln.get_ydata().sum() for ln in ax.get_lines()[:2])*k == pytest.approx(500, rel=.05)
    ax.figure.canvas.draw()

def test_loss_split_without_truth_with_nan_and_without_separation():
    l,_ = losses()
    ax = only(plot_loss_split(np.append(l, np.nan)))
    assert sum(p.get_height() for p in ax.patches) == 500 and legend(ax)[0] == 'items'
    one = np.random.RandomState(0).rayleigh(size=900)
    with pytest.warns(RobustWarning, match='no separation'): ax = only(plot_loss_split(one))
    assert 'no separation' in ax.get_title()
    with pytest.warns(RobustWarning): assert labelled(only(plot_loss_split(np.ones(30))))
    fig,mine = plt.subplots()
    assert plot_loss_split(l, ax=mine, title='T') is fig and mine.get_title() == 'T'
    with pytest.raises(ValueError, match='Leave it out, or pass `history.split'): plot_loss_split(l, split='x')
    with pytest.raises(ValueError, match='`is_noisy` for each of 500 items'): plot_loss_split(l, [True])

# --- selection and disagreement --------------------------------------------------------------------------------------
class Tech:
    def __init__(self, history): self.history = history

def test_selection_of_masks_and_of_a_technique():
    noisy = np.array([0, 0, 1, 1], dtype=bool)
    masks = [[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]]
    ax = only(plot_selection(masks, noisy))
    y = [ln.get_ydata() for ln in ax.get_lines()]
    assert y[0] == pytest.approx([.5, 2/3, 1]) and y[1] == pytest.approx([1, 1, 1]) and labelled(ax)
    assert y[2] == pytest.approx([1, .75, .5]) and 'precision of chance' in legend(ax)[3]
    rows = [dict(epoch=e, kept=k, label_precision=p, label_recall=r, disagree=.1)
            for e,(k,p,r) in enumerate(zip(y[2], y[0], y[1]))]
    ax = only(plot_selection(Tech(rows)))
    assert 'Tech' in ax.get_title() and ax.get_lines()[0].get_xydata().tolist() == [[1, .5], [2, 2/3], [3, 1]]
    assert only(plot_selection(pd.DataFrame(rows))).get_lines()[1].get_ydata().tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match='need dls that know the true labels'): plot_selection(Tech([dict(kept=1)]))
    with pytest.raises(ValueError, match='at least one epoch'): plot_selection(Tech([]))
    for m,n in ((masks, None), (masks[0], noisy), ([], noisy), (masks, noisy[:2])):
        with pytest.raises(ValueError, match='expected masks'): plot_selection(m, n)

def test_disagreement():
    ax = only(plot_disagreement([.5, .3, .2]))
    assert ax.get_lines()[0].get_xydata().tolist() == [[1, .5], [2, .3], [3, .2]] and ax.get_legend() is None
    assert labelled(ax) and ax.get_ylim()[0] == 0
    ax = only(plot_disagreement({'a': Tech([dict(disagree=.4), dict(disagree=.2)]), 'b': [np.nan, .1]}))
    assert legend(ax) == ['a', 'b'] and ax.get_lines()[0].get_ydata().tolist() == [.4, .2]
    assert len({ln.get_linestyle() for ln in ax.get_lines()}) == 2      # told apart in grey as well
    for bad in ([], {}, [[.1]]):
        with pytest.raises(ValueError, match='shares by epoch'): plot_disagreement(bad)
    with pytest.raises(ValueError, match='only two networks disagree'): plot_disagreement(Tech([dict(kept=1)]))

# --- matrices --------------------------------------------------------------------------------------------------------
def test_matrices_side_by_side():
    T = np.array([[.9, .1], [np.nan, np.nan]])
    fig = plot_noise_matrices({'true': T, 'estimated': np.eye(2)}, ['cat', 'dog'], title='Noise')
    axs = fig.axes[:2]      # the third is the scale
    assert [a.get_title() for a in axs] == ['true', 'estimated'] and all(a.get_xlabel() for a in axs)
    assert [t.get_text() for t in axs[0].texts] == ['.90', '.10'] and axs[0].get_ylabel()
    assert [t.get_text() for t in axs[0].get_xticklabels()] == ['cat', 'dog']
    fig.canvas.draw()
    box = axs[0].xaxis.get_label().get_window_extent()
    assert box.y0 >= 0 and box.x0 >= 0                                  # nothing is cut off
    with pytest.raises(ValueError, match='square matrices of one size'): plot_noise_matrices({'a': T, 'b': np.eye(3)})
    with pytest.raises(ValueError, match='square matrices'): plot_noise_matrices({})
    with pytest.raises(ValueError, match='expected 2 names'): plot_noise_matrices({'a': T}, ['cat'])
    assert not plot_noise_matrices({'a': np.eye(50)}).axes[0].texts

# --- the worst images ------------------------------------------------------------------------------------------------
def noisy(**kw): return add_label_noise(tiny_dls(**kw), NoisyLabels('symmetric', .4, seed=0))

def issues(ids):
    return pd.DataFrame(dict(item=ids, given=[f'g{i}' for i in ids], suggested=[f's{i}' for i in ids]))

@pytest.mark.parametrize('channels', [1, 3])
def test_sheet_of_array_images_with_truth(channels):
    dls = noisy(channels=channels)
    rec = dls.noise
    bad,good = np.flatnonzero(rec.is_noisy)[0],np.flatnonzero(~rec.is_noisy)[0]
    opened = np.flatnonzero(~rec.is_noisy)[1]
    rec.is_open[opened] = True
    fig = plot_label_issues(issues([bad, good, opened]), dls, ncols=2)
    ts = [a.get_title(loc='left') for a in fig.axes]
    assert ts[0] == f'given: g{bad}\nsuggested: s{bad}\n✓ wrong, true: {rec.vocab[rec.y_clean[bad]]}'
    assert ts[1].endswith('✗ the given label is right') and ts[2].endswith('none of the classes') and not ts[3]
    want = dls.train_ds.items.x[bad].permute(1, 2, 0).numpy().squeeze()
    assert (fig.axes[0].get_images()[0].get_array() == want).all()
    assert fig.axes[0].get_gridspec().get_geometry() == (2, 2)
    assert '2 of 3 labels are wrong' in fig.get_suptitle()
    fig.canvas.draw()

def test_sheet_without_truth_and_of_a_report():
    dls = tiny_dls()
    fig = plot_label_issues(Report(issues([3, 1, 2])), dls, n=2)
    assert [a.get_title(loc='left') for a in fig.axes] == ['given: g3\nsuggested: s3', 'given: g1\nsuggested: s1']
    assert '2 most suspicious' in fig.get_suptitle()
    with pytest.raises(ValueError, match='columns item, given, suggested'): plot_label_issues(pd.DataFrame(), dls)
    with pytest.raises(ValueError, match='at least one row'): plot_label_issues(issues([]), dls)

def test_sheet_of_files_shows_the_file(tmp_path):
    from PIL import Image
    from fastai.data.block import CategoryBlock, DataBlock
    from fastai.data.transforms import parent_label
    from fastai.vision.augment import RandomResizedCrop
    from fastai.vision.data import ImageBlock
    for i in range(12):
        (tmp_path/'ab'[i%2]).mkdir(exist_ok=True)
        Image.fromarray(np.random.RandomState(i).randint(0, 255, (6, 5, 3), dtype=np.uint8)).save(
            tmp_path/'ab'[i%2]/f'{i}.png')
    dls = DataBlock((ImageBlock, CategoryBlock), get_items=lambda p: sorted(p.rglob('*.png')), get_y=parent_label,
                    item_tfms=RandomResizedCrop(4), splitter=lambda o: (list(range(8)), list(range(8, 12)))
                    ).dataloaders(tmp_path, bs=4, num_workers=0)
    fig = plot_label_issues(issues([5, 2]), dls)
    assert (fig.axes[0].get_images()[0].get_array() == np.asarray(Image.open(dls.train_ds.items[5]))).all()

def test_tables_get_their_rows_and_a_sentence(capsys):
    from fastai.tabular.all import Categorify, TabularDataLoaders
    df = pd.DataFrame(dict(a=range(20), b=list('xy')*10))
    from fastai.data.block import CategoryBlock
    dls = TabularDataLoaders.from_df(df, procs=[Categorify], cat_names=['a'], y_names='b', y_block=CategoryBlock(),
                                     bs=4)
    t = plot_label_issues(issues([1, 2, 3]), dls, n=2)
    assert list(t.item) == [1, 2] and 'no images' in capsys.readouterr().out

# --- interpretation --------------------------------------------------------------------------------------------------
@pytest.mark.filterwarnings('ignore:no separation')
def test_interpretation_finds_what_the_learner_has():
    learn = tiny_learner([SampleHistory(), Memorisation()], dls=noisy())
    learn.fit(2)
    with learn.no_bar(): interp = RobustInterpretation.from_learner(learn)
    assert isinstance(interp, RobustInterpretation) and isinstance(interp, ClassificationInterpretation)
    with learn.no_bar(): assert interp.confusion_matrix().sum() == 24
    assert [ln.get_ydata()[-1] for ln in only(interp.plot_memorisation()).get_lines()[:1]] == \
           pytest.approx([learn.memorisation.table.clean_fit.iloc[-1]])
    learn.remove_cb(Memorisation)
    ax = only(interp.plot_memorisation(title='of the history'))
    assert ax.get_lines()[1].get_ydata() == pytest.approx(learn.sample_history.memorisation().memorised)
    ax = only(interp.plot_loss_split(last=1))
    wrong = f'wrong label ({int(learn.dls.noise.is_noisy.sum())})'
    assert ax.get_legend() and wrong in legend(ax)
    assert len(interp.plot_label_issues(n=4).axes) == 4
    assert interp.plot_label_issues(Report(issues([7])), n=4).axes[0].get_xlabel() == 'item 7'
    true,est,_ = interp.plot_noise_matrix(np.eye(3)).axes     # the last one is the scale
    assert (true.get_title(), est.get_title()) == ('true', 'estimated')
    got = true.get_images()[0].get_array()
    assert np.allclose(got, learn.dls.noise.T_empirical)
    rep = Report(issues([7]))
    rep.T = np.full((3, 3), 1/3)
    for T in (rep, rep.T, torch.tensor(rep.T)):
        assert np.allclose(interp.plot_noise_matrix(T).axes[1].get_images()[0].get_array(), 1/3)
    skew = np.array([[.8, .2, 0], [0, 1, 0], [0, 0, 1]])
    assert np.allclose(interp.plot_noise_matrix(torch.tensor(skew)).axes[1].get_images()[0].get_array(), skew)

def test_interpretation_says_what_is_missing():
    learn = tiny_learner()
    learn.fit(1)
    with learn.no_bar(): interp = RobustInterpretation.from_learner(learn)
    with pytest.raises(ValueError, match=r'cbs=Memorisation\(\)'): interp.plot_memorisation()
    with pytest.raises(ValueError, match=r'cbs=SampleHistory\(\)'): interp.plot_loss_split()
    with pytest.raises(ValueError, match=r'cbs=SampleHistory\(\)'): interp.plot_label_issues()
    with pytest.raises(ValueError, match='known noise'): interp.plot_noise_matrix()
    assert len(interp.plot_noise_matrix(np.eye(3)).axes) == 2

@pytest.mark.filterwarnings('ignore:no separation')
def test_a_plain_learner_on_clean_labels_has_its_loss_split():
    dls = tiny_dls()
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    learn = Learner(dls, net, loss_func=CrossEntropyLossFlat(), metrics=accuracy, cbs=SampleHistory('eval'))
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
        interp = RobustInterpretation.from_learner(learn)
    assert legend(only(interp.plot_loss_split()))[0] == 'items'
