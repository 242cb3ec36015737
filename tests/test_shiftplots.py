"Pictures of distribution shift show the images and numbers they were given, where their labels say"
import io, math
from types import SimpleNamespace
import numpy as np, pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from PIL import Image
from conftest import tiny_learner
from fastrobust.images.corruptions.front import corrupt
from fastrobust.images.corruptions.tables import CORRUPTIONS, EXTRA_CORRUPTIONS, GROUPS
from fastrobust.shift.corruptionreport import corruption_report
from fastrobust.interpret import RobustInterpretation
from fastrobust.images.lpballs import lp_delta, lp_noise, lp_std
from fastrobust.reporting.style import Picture
from fastrobust.shift.charts import _apart, plot_corruption_bars, plot_corruption_fan
from fastrobust.shift.heatmaps import plot_shift_heatmap
from fastrobust.shift.pictures import GROUP_COLORS, equal_strength_eps, show_corruptions, show_lp_balls

def picture(c=3, h=32, w=32):
    return torch.from_numpy(np.random.default_rng(0).integers(30, 226, (c, h, w), dtype=np.uint8))
def ticks(ax, axis): return [t.get_text() for t in getattr(ax, f'get_{axis}ticklabels')()]
def texts(ax): return [t.get_text() for t in ax.texts]
def drawn(ax):
    a = np.asarray(ax.images[0].get_array())
    return a[..., None] if a.ndim == 2 else a

def no_overlap(labels, fig):
    "The texts do not lie on each other"
    fig.draw_without_rendering()
    boxes = [t.get_window_extent() for t in labels if t.get_text()]
    for i,a in enumerate(boxes):
        for b in boxes[i+1:]: assert not (a.shrunk(.95, .8)).overlaps(b.shrunk(.95, .8))

# --- the gallery of corruptions --------------------------------------------------------------------------------------
@pytest.mark.parametrize('c,h,w', [(3, 32, 32), (1, 28, 28), (3, 40, 52)])
def test_gallery_has_each_corruption_and_severity_in_its_place(c, h, w):
    x = picture(c, h, w)
    names,sev = ['impulse_noise', 'brightness', 'contrast'],[1, 4]
    fig = show_corruptions(x, names, sev, seed=3)
    (ax,) = fig.axes
    assert ticks(ax, 'x') == ['clean', '1', '4'] and ticks(ax, 'y') == ['impulse noise', 'brightness', 'contrast']
    page = drawn(ax)
    for j,s in enumerate([0, *sev]):
        for i,name in enumerate(names):
            top,left = round(ax.get_yticks()[i]-(h-1)/2),round(ax.get_xticks()[j]-(w-1)/2)
            want = x[None] if s == 0 else corrupt(x[None], name, s, seed=3)
            assert (page[top:top+h, left:left+w] == want[0].permute(1, 2, 0).numpy()).all(), (name, s)
    assert [to_hex(t.get_color()) for t in ax.get_yticklabels()] == [GROUP_COLORS[g].lower() for g in
                                                                     ('noise', 'weather', 'digital')]
    assert texts(ax) == ['noise', 'weather', 'digital']

def test_gallery_of_all_19_names_its_groups_and_fits_the_page():
    fig = show_corruptions(picture(1, 28, 28))
    (ax,) = fig.axes
    assert ticks(ax, 'y') == [o.replace('_', ' ') for o in CORRUPTIONS + EXTRA_CORRUPTIONS]
    assert ticks(ax, 'x') == ['clean', '1', '2', '3', '4', '5'] and texts(ax) == list(GROUPS)
    no_overlap([*ax.get_yticklabels(), *ax.get_xticklabels(), *ax.texts], fig)
    full = fig.bbox
    for t in [*ax.get_yticklabels(), *ax.texts]:
        b = t.get_window_extent()
        assert full.x0 <= b.x0 and b.x1 <= full.x1, t.get_text()
    assert fig.get_size_inches()[0] <= 9 and isinstance(fig, Picture)

def test_gallery_takes_images_of_every_form():
    a = picture().permute(1, 2, 0).numpy()
    pages = [drawn(show_corruptions(im, 'fog', 2).axes[0]) for im in
             (a, Image.fromarray(a), picture(), picture()[None], picture().float()/255, (a/255).astype(np.float32))]
    for p in pages[1:]: assert (p == pages[0]).all()
    assert drawn(show_corruptions(a[..., 0], 'fog', [2]).axes[0]).shape[2] == 1
    cifar,imagenet = (drawn(show_corruptions(a, 'contrast', [1], table=t).axes[0]) for t in ('cifar', 'imagenet'))
    assert (cifar != imagenet).any()
    assert show_corruptions(a, 'fog', figsize=(4, 2)).get_size_inches().tolist() == [4, 2]

def test_a_notebook_shows_pictures_without_pyplot():
    t = pd.DataFrame([[1.]])
    for fig in (show_corruptions(picture(), 'fog', 1), show_lp_balls(picture(), 2), plot_shift_heatmap(t),
                plot_corruption_fan(report(['fog'])), plot_corruption_bars(report(['fog']))):
        with Image.open(io.BytesIO(fig._repr_png_())) as im: assert np.asarray(im.convert('L')).std() > 5

def test_gallery_refuses_what_it_cannot_show():
    with pytest.raises(ValueError, match="Did you mean 'fog'"): show_corruptions(picture(), ['frog'])
    with pytest.raises(ValueError, match='severity'): show_corruptions(picture(), 'fog', [6])
    with pytest.raises(ValueError, match='`severities` from 1 to 5, got none'): show_corruptions(picture(), 'fog', [])
    with pytest.raises(ValueError, match='show_corruptions expected images with pixels in'):
        show_corruptions(picture().float(), 'fog')
    with pytest.raises(ValueError, match='one image, got a batch of 2'): show_corruptions(torch.stack([picture()]*2))

# --- equal strength --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('p,eps,std,mean', [
    (.5, 25000, .007249, None), (1, 25, .011503, .008135), (2, .5, .009018, .007196), (5, .1, .015767, None),
    (10, .03, .009486, None), (50, .02, .010524, None), (200, .05, .028392, .024587), (math.inf, .01, .005774, .005)])
def test_eps_inverts_the_values_of_the_specification(p, eps, std, mean):
    assert equal_strength_eps(p, 3072, std, 'rms') == pytest.approx(eps, rel=1e-3)
    if mean: assert equal_strength_eps(p, 3072, mean) == pytest.approx(eps, rel=1e-3)

@settings(derandomize=True, deadline=None, max_examples=60)
@given(p=st.floats(.2, 300), d=st.integers(1, 200_000), target=st.floats(.001, .3))
def test_rms_agrees_with_the_standard_deviation_of_the_sampler(p, d, target):
    eps = equal_strength_eps(p, d, target, 'rms')
    assert lp_std(p, eps, d) == pytest.approx(target, rel=1e-6)
    assert equal_strength_eps(p, d, target/2, 'rms') == pytest.approx(eps/2)

@pytest.mark.parametrize('p', [.5, 1, 1.7, 2, 5, 50, math.inf])
@pytest.mark.parametrize('d', [(1, 2, 2), (3, 16, 16)])
def test_sampled_noise_has_the_strength_asked_for(p, d):
    x = torch.full((4000 if d[0] == 1 else 60, *d), .5, dtype=torch.float64)
    for moment in ('mean', 'rms'):
        eps = equal_strength_eps(p, x[0].numel(), .02, moment)
        delta = lp_delta(x, p, eps, generator=torch.Generator().manual_seed(0))
        got = delta.abs().mean() if moment == 'mean' else delta.pow(2).mean().sqrt()
        assert got.item() == pytest.approx(.02, rel=.04 if p >= 1 else .08)

def test_l0_of_half_as_many_values_as_twice_the_strength():
    x = torch.rand(50, 3, 20, 20, generator=torch.Generator().manual_seed(1))
    new = lp_noise(x, 0, equal_strength_eps(0, 1200, .05), kind='sphere', generator=torch.Generator().manual_seed(0))
    assert (new-x).abs().mean().item() == pytest.approx(.05, rel=.03)

def test_strength_refuses_what_makes_no_sense():
    with pytest.raises(ValueError, match="`moment` as 'mean' or 'rms', got 'max'"): equal_strength_eps(2, 9, .1, 'max')
    with pytest.raises(ValueError, match="'mean'` for p=0, got 'rms'"): equal_strength_eps(0, 9, .1, 'rms')
    for bad in ((-1, 9, .1), (2, 0, .1), (2, 9, 0), (2, 9, 1), (math.nan, 9, .1)):
        with pytest.raises(ValueError, match='target in .0,1.'): equal_strength_eps(*bad)
    with pytest.raises(TypeError, match='`p` must be a number'): equal_strength_eps('2', 9, .1)

# --- the gallery of Lp balls -----------------------------------------------------------------------------------------
@pytest.mark.parametrize('c,h,w', [(3, 32, 32), (1, 28, 24)])
def test_lp_gallery_is_of_equal_strength_after_clipping(c, h, w):
    x = picture(c, h, w)
    x[:, :h//2] = 0     # black: half of all noise there is clipped
    fig = show_lp_balls(x, strength=.04, seed=1)
    axs = np.array(fig.axes).reshape(2, 7)
    clean = drawn(axs[0, 0])
    assert axs[0, 0].get_title() == 'clean' and 'mean |δ| = 0.04' in texts(axs[1, 0])[0]
    titles = [ax.get_title() for ax in axs[0, 1:]]
    assert [t.split('\n')[0] for t in titles] == ['L0', 'L0.5', 'L1', 'L2', 'L5', 'L∞']
    for i,(p,t) in enumerate(zip((0, .5, 1, 2, 5, math.inf), titles), 1):
        delta = drawn(axs[0, i])-clean
        assert np.abs(delta).mean() == pytest.approx(.04, rel=.02 if p == 0 else .003), p
        assert np.allclose(drawn(axs[1, i]), np.clip(.5+delta/.32, 0, 1), atol=1e-5)
        assert float(axs[1, i].get_title().split()[1]) == pytest.approx(np.abs(delta).max(), abs=.0051)
        said = float(t.split('\n')[1].replace('ε = ', '').replace(',', '').split()[0])
        if p == 0: assert (delta != 0).mean() <= said/100 + 1/delta.size and t.endswith('% of values')
        elif p == math.inf: assert np.abs(delta).max() <= said*1.01
        else: assert (np.abs(delta)**p).sum()**(1/p) <= said*1.01
        if p == 2: assert said > equal_strength_eps(2, x.numel(), .04)*1.1        # more, for what black swallows
    no_overlap([ax.title for ax in fig.axes], fig)

def test_lp_gallery_repeats_itself_and_refuses():
    x = picture(1, 9, 9)
    state = torch.get_rng_state()
    a,b = (drawn(show_lp_balls(x, 2, seed=s).axes[1]) for s in (0, 0))
    assert (a == b).all() and (a != drawn(show_lp_balls(x, 2, seed=1).axes[1])).any()
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match=r'`strength` in \(0,.2\], got 0.5'): show_lp_balls(x, strength=.5)
    with pytest.raises(ValueError, match='p >= 0'): show_lp_balls(x, [-1])
    with pytest.raises(ValueError, match='show_lp_balls expected images'): show_lp_balls(x.float())

# --- charts of reports -----------------------------------------------------------------------------------------------
def report(names=CORRUPTIONS + EXTRA_CORRUPTIONS, scale=1., seed=0, severities=(1, 2, 3, 4, 5), se=True):
    "A stand-in with what the charts read of a `CorruptionReport`"
    g,of = np.random.default_rng(seed),{n: k for k,v in GROUPS.items() for n in v}
    t = pd.DataFrame(scale*g.uniform(.1, .6, (len(names), len(severities))), list(names), list(severities))
    t['mean'] = t.mean(axis=1)
    t['group'] = [of[o] for o in names]
    if se: t['se'] = g.uniform(.005, .02, len(names))
    return SimpleNamespace(table=t, clean=.08*scale, summary=pd.Series({'mean_corruption_error_se': .004}))

def test_fan_has_a_line_per_corruption_from_the_clean_accuracy():
    r = report()
    fig = plot_corruption_fan(r)
    (ax,) = fig.axes
    lines = {ln.get_label(): ln for ln in ax.get_lines() if not ln.get_label().startswith('_')}
    assert list(lines) == [*r.table.index, 'mean of 15']
    for name in r.table.index:
        assert lines[name].get_xdata().tolist() == [0, 1, 2, 3, 4, 5]
        assert np.allclose(lines[name].get_ydata(), [.92, *1-r.table.loc[name, [1, 2, 3, 4, 5]].astype(float)])
        assert to_hex(lines[name].get_color()) == GROUP_COLORS[r.table.group[name]].lower()
    mean = 1-r.table.loc[list(CORRUPTIONS), [1, 2, 3, 4, 5]].mean()         # the four extra ones are not in it
    assert np.allclose(lines['mean of 15'].get_ydata(), [.92, *mean]) and lines['mean of 15'].get_linewidth() > 3
    said = texts(ax)
    want = [f"{o.replace('_', ' ')} {1-r.table.loc[o, 5]:.2f}" for o in r.table.index]
    assert said == [*want, f'mean of 15 {mean[5]:.2f}']
    assert [t.get_text() for t in ax.get_legend().get_texts()] == list(GROUPS)
    assert ax.get_xlabel() and ax.get_ylabel() == 'accuracy' and ax.get_title()
    no_overlap(ax.texts, fig)
    inside = fig.bbox
    for t in ax.texts: assert t.get_window_extent().x1 <= inside.x1 + 1
    assert isinstance(fig, Picture)

def test_fan_of_few_severities_and_of_extra_corruptions_only():
    ax = plot_corruption_fan(report(EXTRA_CORRUPTIONS, severities=(1, 3)), title='T').axes[0]
    assert ticks(ax, 'x') == ['0', '1', '3'] and ax.get_title() == 'T'
    assert any(t.startswith('mean of 4 ') for t in texts(ax))
    plot_corruption_fan(report(['fog'], severities=(5,))).draw_without_rendering()
    for bad in (None, 3, SimpleNamespace(table=pd.DataFrame({'a': [1]})), SimpleNamespace(table=report().table[:0])):
        with pytest.raises(TypeError, match='from corruption_report, got'): plot_corruption_fan(bad)

@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_labels_are_moved_apart_and_keep_their_order(ys):
    at = _apart(ys, .05)
    assert (np.diff(np.sort(at)) >= .045).all()
    for i in range(len(ys)):
        for j in range(len(ys)):
            if ys[i] < ys[j]: assert at[i] < at[j]
    if len(ys) == 1: assert at[0] == ys[0]

def bars(ax): return [[p.get_height() for p in c.patches] for c in ax.containers if hasattr(c, 'patches')]

def test_bars_show_each_learner_by_corruption_and_its_mean():
    rs = {'plain': report(), 'AugMix': report(scale=.7, seed=1)}
    rs['AugMix'].table = rs['AugMix'].table.iloc[::-1]      # another order of rows is no other report
    fig = plot_corruption_bars(rs)
    (ax,) = fig.axes
    order = list(CORRUPTIONS + EXTRA_CORRUPTIONS)
    assert ticks(ax, 'x') == [o.replace('_', ' ') for o in order] + ['mean of 15']
    got,means = bars(ax),[]
    for (name,r),(each,(mean,)) in zip(rs.items(), zip(got[::2], got[1::2])):
        assert np.allclose(each, r.table.loc[order, 'mean']), name
        assert mean == pytest.approx(r.table.loc[list(CORRUPTIONS), 'mean'].mean())
        means.append(f'{mean:.3f}'.lstrip('0'))
    assert texts(ax) == means + list(GROUPS)
    assert [t.get_text() for t in fig.legends[0].get_texts()] == ['plain', 'AugMix']
    segments = [c.lines[2][0].get_segments() for c in ax.containers if hasattr(c, 'has_yerr')]
    for k,s,(mean,) in zip(rs, segments, got[1::2]):
        lo,hi = np.array(s)[:, :, 1].T
        assert np.allclose((hi-lo)/2, [*rs[k].table.loc[order, 'se'], .004]), k
        assert np.allclose((hi+lo)/2, [*rs[k].table.loc[order, 'mean'], mean]), k
    assert ax.get_ylabel() == 'error, mean of severities 1 to 5' and ax.get_title() and isinstance(fig, Picture)
    at = sorted((p.get_x(), p.get_x()+p.get_width()) for c in ax.containers if hasattr(c, 'patches') for p in c.patches)
    assert len(at) == 40 and all(a[1] <= b[0]+1e-9 for a,b in zip(at, at[1:]))      # no bar on another
    fig.draw_without_rendering()

def test_bars_of_many_learners_look_different():
    fig = plot_corruption_bars({str(k): report(['fog'], se=False) for k in range(8)})
    first = [c.patches[0] for c in fig.axes[0].containers[::2]]
    assert len({(p.get_facecolor(), p.get_hatch()) for p in first}) == len(first) == 8

def test_bars_of_one_report_without_errors_and_of_reports_that_differ():
    fig = plot_corruption_bars(report(['fog', 'snow'], severities=(2, 5), se=False))
    (ax,) = fig.axes
    assert not fig.legends and ticks(ax, 'x') == ['snow', 'fog', 'mean of 2'] and ax.get_ylabel().endswith('2, 5')
    assert not any(hasattr(c, 'has_yerr') for c in ax.containers)
    with pytest.raises(ValueError, match=r"same corruptions and severities, got 2 x \[1, 2, 3, 4, 5\] for 'b'"):
        plot_corruption_bars({'a': report(), 'b': report(['fog', 'snow'])})
    with pytest.raises(ValueError, match='same corruptions and severities'):
        plot_corruption_bars({'a': report(['fog']), 'b': report(['fog'], severities=(1, 2))})
    with pytest.raises(TypeError, match=r"`reports\['x'\]` from corruption_report, got int"):
        plot_corruption_bars({'x': 1})
    with pytest.raises(ValueError, match='at least one report'): plot_corruption_bars({})
    ours,files = report(),report()
    ours.facts,files.facts = dict(source=None, table='cifar'),dict(source='CIFAR-10-C', table='published')
    with pytest.raises(ValueError, match="got different 'source'. Published"):
        plot_corruption_bars(dict(a=ours, b=files))
    own = report(['fog'])
    own.table.loc['lines'] = {**own.table.loc['fog'], 'group': 'other'}
    assert 'mean of 1' in ticks(plot_corruption_bars(own).axes[0], 'x')
    assert len(plot_corruption_fan(own).axes[0].texts) == 3

# --- heat maps -------------------------------------------------------------------------------------------------------
def table(v): return pd.DataFrame(v, pd.Index([0., .2], name='noise_rate'), ['noise', 'jpeg_compression', 'fog'])

def bold(ax): return [t.get_text() for t in ax.texts if t.get_weight() == 'bold']

def test_heat_map_writes_each_number_in_its_cell():
    t = table([[.1, .2, .3], [.41, .05, np.nan]])
    fig = plot_shift_heatmap(t, best='min', title='T', what='mean error')
    ax,bar = fig.axes
    assert ticks(ax, 'y') == ['0', '0.2'] and ticks(ax, 'x') == ['noise', 'jpeg compression', 'fog']
    assert {(*o.get_position(), o.get_text()) for o in ax.texts} == {
        (0, 0, '0.10'), (1, 0, '0.20'), (2, 0, '0.30'), (0, 1, '0.41'), (1, 1, '0.05'), (2, 1, '–')}
    assert bold(ax) == ['0.10', '0.30', '0.05'] and ax.get_ylabel() == 'noise rate' and bar.get_ylabel() == 'mean error'
    assert fig._suptitle.get_text() == 'T' and np.allclose(ax.images[0].get_array().filled(np.nan), t, equal_nan=True)
    dark = {o.get_text(): to_hex(o.get_color()) for o in ax.texts}
    assert dark['0.41'] == '#ffffff' and dark['0.05'] == '#000000' and isinstance(fig, Picture)
    assert bold(plot_shift_heatmap(t, best='max').axes[0]) == ['0.20', '0.30', '0.41']
    assert bold(plot_shift_heatmap(t, fmt='.0%').axes[0]) == []
    assert texts(plot_shift_heatmap(t, fmt='.0%').axes[0])[0] == '10%'

def test_heat_maps_of_several_methods_share_one_scale():
    plain,augloss = table([[.1, .2, .3], [.4, .5, .6]]),table([[.2, .1, .2], [.3, .3, .7]])
    fig = plot_shift_heatmap({'plain': plain, 'AugLoss': augloss}, best='min')
    a,b = fig.axes[:2]
    assert [ax.get_title(loc='left') for ax in (a, b)] == ['plain', 'AugLoss']
    assert a.images[0].get_clim() == b.images[0].get_clim() == (.1, .7) and len(fig.axes) == 3
    assert bold(a) == ['0.10', '0.60'] and bold(b) == ['0.10', '0.20', '0.30', '0.30']
    no_overlap([a.title, b.title, *a.get_yticklabels(), *b.get_yticklabels()], fig)
    rows = pd.MultiIndex.from_tuples([('sym', .2), ('sym', .4)])
    wide = pd.DataFrame(np.ones((2, 19)), index=rows, columns=CORRUPTIONS + EXTRA_CORRUPTIONS)
    assert ticks(plot_shift_heatmap(wide).axes[0], 'y') == ['sym · 0.2', 'sym · 0.4']

def test_heat_maps_refuse_what_is_no_table():
    for bad in ([[1]], {}, {'a': 1}, pd.DataFrame()):
        with pytest.raises(TypeError, match='`table` as a DataFrame'): plot_shift_heatmap(bad)
    t = table(np.ones((2, 3)))
    with pytest.raises(ValueError, match="`best` as 'min', 'max' or None"): plot_shift_heatmap(t, best='low')
    with pytest.raises(ValueError, match="got others in 'b'"): plot_shift_heatmap({'a': t, 'b': t.T})

# --- with a learner --------------------------------------------------------------------------------------------------
def test_interpretation_makes_a_report_or_takes_one():
    learn = tiny_learner()
    interp = RobustInterpretation.from_learner(learn)
    names = ['fog', 'contrast']
    rep = corruption_report(learn, names=names, severities=[1, 5], seed=2)
    made = interp.plot_corruptions(names=names, severities=[1, 5], seed=2, title='T')
    taken = interp.plot_corruptions(rep)
    for fig in (made, taken):
        lines = {ln.get_label(): ln.get_ydata() for ln in fig.axes[0].get_lines()}
        for name in names: assert np.allclose(lines[name], [1-rep.clean, *(1-rep.errors[name])])
        assert np.allclose(lines['mean of 2'], [1-rep.clean, *1-np.mean([rep.errors[k] for k in names], axis=0)])
    assert made.axes[0].get_title() == 'T' != taken.axes[0].get_title()
    with pytest.raises(TypeError, match='got both .names'): interp.plot_corruptions(rep, names=names)

def test_bars_of_real_reports():
    rs = {k: corruption_report(tiny_learner(seed=i), names=['fog', 'speckle_noise'], severities=[2])
          for i,k in enumerate('ab')}
    (ax,) = plot_corruption_bars(rs).axes
    for r,(heights,(mean,)) in zip(rs.values(), zip(bars(ax)[::2], bars(ax)[1::2])):
        assert np.allclose(heights, [r.errors['fog'][0], r.errors['speckle_noise'][0]])
        assert mean == pytest.approx(r.summary.mean_corruption_error) == r.errors['fog'][0]     # speckle is an extra
