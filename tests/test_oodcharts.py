"Charts of known against unknown: what is drawn is what the metrics say"
import io
from types import SimpleNamespace
import numpy as np, pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from matplotlib.colors import to_hex
from PIL import Image
from fastrobust.ood.charts import _SETS, plot_ood, plot_roc, plot_score_hist, roc_points
from fastrobust.ood.heatmaps import metric_blocks, plot_ood_heatmap
from fastrobust.ood.metrics import aupr, auroc, fpr_at_tpr, threshold_at_tpr

# the example of the specification, section 6
KNOWN = np.array([.99, .95, .9, .85, .8, .7, .65, .6, .55, .5, .97, .93, .88, .83, .78, .73, .68, .63, .58, .4])
OOD = np.array([.96, .75, .45, .35, .3, .2, .6, .1])

def legend(ax): return [t.get_text() for t in ax.get_legend().get_texts()]
def verticals(ax): return [ln.get_xdata()[0] for ln in ax.get_lines() if len(set(ln.get_xdata())) == 1]
def steps(ax): return {p.get_label(): p for p in ax.patches if p.get_label()[:1] not in ('', '_')}
def texts(ax): return [t.get_text() for t in ax.texts]
def ticks(ax, axis): return [t.get_text() for t in getattr(ax, f'get_{axis}ticklabels')()]

def fake_report(sets=3, positive='id', scores=('msp', 'energy', 'knn'), near=(), seed=0, known=400):
    "What ood_report hands over: normal scores, the sets ever further away"
    r,S,rows = np.random.RandomState(seed),{},[]
    names = [f'set {i}' for i in range(sets)]
    for j,s in enumerate(scores):
        S[s] = {'id': r.normal(5, 1, known), **{k: r.normal(4-i-.3*j, 1, 200) for i,k in enumerate(names)}}
        for k in names:
            a,b = S[s]['id'],S[s][k]
            rows.append(dict(score=s, set=k, group='near' if k in near else 'far', AUPR=aupr(a, b, positive),
                             FPR95=fpr_at_tpr(a, b, .95, positive), AUROC=auroc(a, b)))
        rows.append(dict(score=s, set='mean', group='far', FPR95=.5, AUROC=.5, AUPR=.5))
    return SimpleNamespace(scores=S, positive=positive, near=list(near), table=pd.DataFrame(rows))

def nothing_lies_on_anything(fig):
    "Legends, titles, tick and axis labels stay inside the page, and off each other"
    fig.draw_without_rendering()
    boxes = []
    for ax in fig.axes:
        boxes += [ax.xaxis.label, ax.yaxis.label, ax.title, *([ax.get_legend()] if ax.get_legend() else [])]
        lo,hi = sorted(ax.get_xlim())
        boxes += [t for t in ax.get_xticklabels() if lo <= t.get_position()[0] <= hi]
    boxes = [(b, b.get_window_extent()) for b in boxes if getattr(b, 'get_text', lambda: 'x')()]
    if fig._suptitle is not None: boxes.append((fig._suptitle, fig._suptitle.get_window_extent()))
    for i,(a,x) in enumerate(boxes):
        assert fig.bbox.x0-1 <= x.x0 and x.x1 <= fig.bbox.x1+1 and fig.bbox.y0-1 <= x.y0, a
        for b,y in boxes[i+1:]:
            assert not x.shrunk(.97, .8).overlaps(y.shrunk(.97, .8)), (a, b)

# --- histograms ------------------------------------------------------------------------------------------------------
def test_histogram_of_the_specifications_example():
    ax = plot_score_hist(KNOWN, OOD).axes[0]
    assert legend(ax) == ['known (20)', 'unknown (8): FPR95 0.500', 'FPR95 line: 95 % of the known are above']
    assert verticals(ax) == [threshold_at_tpr(KNOWN, OOD)]
    t = verticals(ax)[0]
    assert (KNOWN >= t).mean() == .95 and (OOD >= t).mean() == .5
    ax = plot_score_hist(KNOWN, {'a': OOD}, positive='ood').axes[0]
    assert legend(ax)[1:] == ['a (8): FPR95 0.900', 'FPR95 lines: 95 % of a set are below']
    assert verticals(ax) == [threshold_at_tpr(KNOWN, OOD, positive='ood')]

@pytest.mark.parametrize('sets', [1, 3, 8])
@pytest.mark.parametrize('positive', ['id', 'ood'])
def test_one_outline_per_set_in_its_colour_and_lines_at_the_thresholds(sets, positive):
    r = fake_report(sets, positive)
    S = dict(r.scores['msp'])
    a = S.pop('id')
    ax = plot_score_hist(a, S, positive=positive).axes[0]
    drawn = steps(ax)
    assert len(ax.patches) == sets+2                                # the known are filled and outlined
    assert [to_hex(drawn[k].get_edgecolor()) for k in drawn][1:] == [o.lower() for o in _SETS[:sets]]
    for p in drawn.values():
        d = p.get_data()
        assert (d.values*np.diff(d.edges)).sum() == pytest.approx(1) and len(d.values) == 28    # 2 sqrt(200)
    for (k,v),lab in zip(S.items(), legend(ax)[1:]):
        assert lab == f'{k} (200): FPR95 {fpr_at_tpr(a, v, .95, positive):.3f}'
    want = [threshold_at_tpr(a, v, .95, positive) for v in S.values()]
    assert verticals(ax) == (want[:1] if positive == 'id' else want)
    if positive == 'ood': assert [ln.get_color() for ln in ax.get_lines()] == _SETS[:sets]

def test_heights_are_the_counts():
    a,b = np.repeat([0., 1., 2.], [10, 20, 10]),np.repeat([0., 2.], [30, 10])
    d = steps(plot_score_hist(a, {'b': b}, bins=3).axes[0])
    w = np.diff(d['known (40)'].get_data().edges)
    assert (d['known (40)'].get_data().values*w*40).round(6).tolist() == [10, 20, 10]
    assert (next(p for k,p in d.items() if k[0] == 'b').get_data().values*w*40).round(6).tolist() == [30, 0, 10]

def test_huge_norms_do_not_squeeze_the_known():
    r = np.random.RandomState(0)
    a = r.normal(0, 1, 1000)
    far = {'near': r.normal(-2, 1, 500), 'huge': r.normal(-1e7, 1e5, 500)}
    ax = plot_score_hist(a, far).axes[0]
    lo,hi = ax.get_xlim()
    assert hi-lo < 25 and lo < -4 and hi > 2 and 'everything beyond' in ax.get_xlabel()
    v = next(p for k,p in steps(ax).items() if k.startswith('huge')).get_data().values
    assert v[0] > 0 and (v[1:] == 0).all()                          # all of them in the outermost bar
    known = steps(ax)['known (1,000)'].get_data().values.max()
    assert known <= ax.get_ylim()[1] <= 3*known                     # which does not set the scale
    assert 'everything beyond' not in plot_score_hist(a, far['near']).axes[0].get_xlabel()
    lo,hi = plot_score_hist(a, -far['huge']).axes[0].get_xlim()         # surer of the unknown than of any known
    assert hi-lo < 25 and lo < -2
    lo,hi = plot_score_hist(a, far['huge'], positive='ood').axes[0].get_xlim()      # nor does a line far away
    assert hi-lo < 25 and hi > 2
    b = np.concatenate([np.arange(1000.), [-300.]])                     # a line beyond the bulk, but near, is shown
    ax = plot_score_hist(b, b, tpr=1.).axes[0]
    assert verticals(ax) == [-300] and ax.get_xlim()[0] < -300

def test_one_outlier_among_the_known_is_left_at_the_edge():
    a = np.concatenate([np.random.RandomState(0).normal(0, 1, 999), [1e12]])
    assert plot_score_hist(a, a-1).axes[0].get_xlim()[1] < 20

def test_equal_scores_and_single_images_are_drawn():
    for a,b in (([1.], [1.]), ([3.]*5, [3.]*5), ([0.], [1e9])):
        fig = plot_score_hist(np.array(a), np.array(b))
        lo,hi = fig.axes[0].get_xlim()
        assert lo < hi and lo <= a[0] <= hi
        nothing_lies_on_anything(fig)

def test_tensors_of_half_precision_lists_and_axes_are_taken():
    import matplotlib.pyplot as plt
    one = plot_score_hist(KNOWN, OOD).axes[0]
    two = plot_score_hist(torch.tensor(KNOWN), OOD.tolist()).axes[0]
    assert legend(one) == legend(two) and verticals(one) == verticals(two)
    plot_score_hist(torch.tensor(KNOWN).bfloat16(), torch.tensor(OOD).half())
    fig,axs = plt.subplots(1, 2)
    assert plot_score_hist(KNOWN, OOD, ax=axs[0], title='T') is fig and axs[0].get_title() == 'T'
    assert plot_roc(KNOWN, OOD, ax=axs[1]) is fig and axs[1].get_title()

# --- ROC -------------------------------------------------------------------------------------------------------------
def area(x, y): return float(((x[1:]-x[:-1])*(y[1:]+y[:-1])/2).sum())

@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.lists(st.integers(0, 6), min_size=1, max_size=30))
def test_the_area_under_the_curve_is_the_auroc_ties_included(a, b):
    a,b = np.array(a, float),np.array(b, float)
    for positive in ('id', 'ood'):
        x,y = roc_points(a, b, positive)
        assert x[0] == y[0] == 0 and x[-1] == y[-1] == 1 and (np.diff(x) >= 0).all() and (np.diff(y) >= 0).all()
        assert area(x, y) == pytest.approx(auroc(a, b), abs=1e-12)
        assert len(x) == len({*a, *b})+1

def test_curve_point_by_point():
    x,y = roc_points(np.array([3., 2., 2.]), np.array([2., 1.]))
    assert x.tolist() == [0, 0, .5, 1] and y.tolist() == pytest.approx([0, 1/3, 1, 1])
    x,y = roc_points(np.array([3., 2., 2.]), np.array([2., 1.]), 'ood')
    assert x.tolist() == pytest.approx([0, 0, 2/3, 1]) and y.tolist() == [0, .5, 1, 1]

@pytest.mark.parametrize('positive', ['id', 'ood'])
def test_roc_has_its_auroc_in_the_legend_and_a_dot_at_fpr95(positive):
    S = dict(fake_report(4).scores['energy'])
    a = S.pop('id')
    ax = plot_roc(a, S, positive=positive, near=['set 0']).axes[0]
    assert legend(ax) == [f"{k}{' (near)'*(k == 'set 0')}: AUROC {auroc(a, v):.3f}" for k,v in S.items()] + \
        ['chance: AUROC 0.500; dots: FPR95']
    curves = [ln for ln in ax.get_lines() if len(ln.get_xdata()) > 10]
    dots = [ln for ln in ax.get_lines() if ln.get_marker() == 'o']
    assert [c.get_color() for c in curves] == [c.get_color() for c in dots] == _SETS[:4]
    for v,c,d in zip(S.values(), curves, dots):
        assert np.array_equal(c.get_xydata().T, roc_points(a, v, positive))
        x,y = d.get_xdata()[0],d.get_ydata()[0]
        assert x == pytest.approx(fpr_at_tpr(a, v, .95, positive)) and y == pytest.approx(.95, abs=.006)
        assert (np.abs(c.get_xydata()-[x, y]).sum(1) < 1e-9).any()     # on the curve
    assert ax.get_ylabel().startswith('known') == (positive == 'id') and 'FPR' in ax.get_xlabel()

# --- of a report -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('sets', [1, 3, 8])
def test_a_report_as_histograms_and_curves(sets):
    r = fake_report(sets, near=['set 0'])
    fig = plot_ood(r, 'energy')
    a,b = fig.axes
    S = dict(r.scores['energy'])
    known = S.pop('id')
    assert 'energy' in fig._suptitle.get_text() and 'positive: the known' in fig._suptitle.get_text()
    assert verticals(a) == [threshold_at_tpr(known, S['set 0'])]
    t = r.table.set_index(['score', 'set']).loc['energy']
    assert [o.rsplit(' ', 1)[1] for o in legend(a)[1:-1]] == [f'{t.FPR95[k]:.3f}' for k in S]
    assert [o.rsplit(' ', 1)[1] for o in legend(b)[:-1]] == [f'{t.AUROC[k]:.3f}' for k in S]
    assert ['(near)' in o for o in legend(b)[:-1]] == [k == 'set 0' for k in S]
    nothing_lies_on_anything(fig)

def test_the_first_score_by_default_the_side_said_and_size_and_title_kept():
    fig = plot_ood(fake_report(2, 'ood'), figsize=(9, 5), title='Mine')
    assert fig._suptitle.get_text() == 'Mine' and fig.get_size_inches().tolist() == [9, 5]
    assert 'msp' in fig.axes[0].get_xlabel() and len(verticals(fig.axes[0])) == 2
    fig = plot_ood(fake_report(2, 'ood'))
    assert 'positive: the unknown' in fig._suptitle.get_text()
    assert fig.axes[1].get_ylabel() == 'unknown images found (TPR)'

# --- the map of all scores -------------------------------------------------------------------------------------------
def test_map_has_the_tables_numbers_near_and_far_apart_and_their_means():
    r = fake_report(4, near=['set 1'])
    fig = plot_ood_heatmap(r)
    near,far,mean = fig.axes[:3]
    assert [ax.get_title() for ax in (near, far, mean)] == ['near sets', 'far sets', 'mean']
    assert ticks(near, 'x') == ['set 1'] and ticks(far, 'x') == ['set 0', 'set 2', 'set 3']
    assert ticks(mean, 'x') == ['near', 'far'] and ticks(near, 'y') == ['msp', 'energy', 'knn']
    t = r.table.pivot(index='score', columns='set', values='AUROC').loc[['msp', 'energy', 'knn']]
    assert texts(near) == [f'{v:.3f}' for v in t['set 1']]
    assert texts(far) == [f'{v:.3f}' for v in t[['set 0', 'set 2', 'set 3']].to_numpy().ravel()]
    both = np.stack([t['set 1'], t[['set 0', 'set 2', 'set 3']].mean(axis=1)], 1)
    assert texts(mean) == [f'{v:.3f}' for v in both.ravel()]
    for ax,v in ((near, t[['set 1']].to_numpy()), (mean, both)):
        assert np.allclose(ax.images[0].get_array(), v, atol=5e-4)
        bold = np.array([x.get_weight() == 'bold' for x in ax.texts]).reshape(v.shape)
        assert (bold == (v.round(3) == v.round(3).max(0))).all()
    nothing_lies_on_anything(fig)

def test_of_fpr95_the_lowest_is_best_and_one_group_has_one_mean():
    r = fake_report(2)
    far,mean = plot_ood_heatmap(r, 'FPR95').axes[:2]
    v = far.images[0].get_array()
    bold = np.array([x.get_weight() == 'bold' for x in far.texts]).reshape(v.shape)
    assert (bold == (v == v.min(0))).all() and ticks(mean, 'x') == ['far']
    nothing_lies_on_anything(plot_ood_heatmap(r, 'FPR95'))
    one = plot_ood_heatmap(fake_report(1, scores=['msp']), 'AUPR', title='T')
    nothing_lies_on_anything(plot_ood_heatmap(fake_report(1, scores=['msp'])))
    assert len(one.axes) == 2 and one._suptitle.get_text() == 'T'           # a block and the colours
    assert not any(x.get_weight() == 'bold' for x in one.axes[0].texts)     # best of one is nothing
    assert list(metric_blocks(fake_report(3, near=['set 0', 'set 1', 'set 2']))) == ['near sets', 'mean']

def test_a_notebook_shows_them():
    r = fake_report(2)
    for fig in (plot_score_hist(KNOWN, OOD), plot_roc(KNOWN, OOD), plot_ood(r), plot_ood_heatmap(r)):
        with Image.open(io.BytesIO(fig._repr_png_())) as im: assert np.asarray(im.convert('L')).std() > 5

def test_errors_say_what_to_do():
    for f in (plot_score_hist, plot_roc):
        with pytest.raises(ValueError, match='known ones, got shape .0,.'): f([], OOD)
        with pytest.raises(ValueError, match="'b' ones, got shape .0,."): f(KNOWN, {'a': OOD, 'b': []})
        with pytest.raises(ValueError, match=r'got shape \(2, 2\)'): f(KNOWN, np.zeros((2, 2)))
        with pytest.raises(ValueError, match='at least one set'): f(KNOWN, {})
        with pytest.raises(ValueError, match="infinity in 1 of 2"): f(KNOWN, [1., np.nan])
        with pytest.raises(ValueError, match="infinity in 3 of 20"): f(np.where(KNOWN > .94, np.inf, KNOWN), OOD)
        with pytest.raises(ValueError, match='positive'): f(KNOWN, OOD, positive='both')
    with pytest.raises(TypeError, match='ood_report'): plot_ood(KNOWN)
    with pytest.raises(ValueError, match="Did you mean 'energy'"): plot_ood(fake_report(), 'enrgy')
    with pytest.raises(ValueError, match="Did you mean 'FPR95'"): plot_ood_heatmap(fake_report(), 'FPR')
