"LogitNorms: the norms against a loop, in a plain fit and under every technique, and that it disturbs nothing"
import copy, io, pickle
import numpy as np, pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from torch import nn
from fastcore.basics import noop
from fastai.callback.core import Callback, CancelEpochException
from fastai.callback.schedule import fit_one_cycle, lr_find  # noqa: F401
from fastai.learner import Learner, load_learner
from fastai.metrics import accuracy
from fastai.torch_core import set_seed
from fastai.vision.augment import aug_transforms
import fastrobust.all as fr
from conftest import params, tiny_arrays, tiny_dls, tiny_learner
from fastrobust.basics import RobustWarning
from fastrobust.data.fromarrays import array_dls
from fastrobust.data.openset import aux_images
from fastrobust.ood.logitnorms import LogitNorms, logit_norm_quantiles, plot_logit_norms

QS = ['q5', 'q25', 'median', 'q75', 'q95']
BLOBS,NOISE = aux_images('blob', 21, 8, 1),aux_images('gaussian', 13, 8, 1)

def by_hand(learn, X=None):
    "Quantiles in a loop: images one at a time, plain Python norms, NumPy's quantiles of the sorted list"
    learn.model.eval()
    if X is None: x = torch.cat([b[0] for b in learn.dls.valid])
    else: x = torch.cat([b[0] for b in learn.dls.test_dl(list(X))])
    with torch.no_grad(): zs = [learn.model(o[None])[0].tolist() for o in x]
    norms = sorted(sum(v*v for v in z)**.5 for z in zs)
    return [np.percentile(norms, q) for q in (5, 25, 50, 75, 95)]

def col(learn, name): return [v[list(learn.recorder.metric_names).index(name)-1] for v in learn.recorder.values]

# --- the numbers -----------------------------------------------------------------------------------------------------
def test_quantiles_of_known_norms_also_where_half_precision_overflows():
    n = torch.arange(101.)
    z = torch.stack([n*.6, n*.8], 1)
    assert [logit_norm_quantiles(z)[k] for k in QS] == pytest.approx([5, 25, 50, 75, 95])
    assert logit_norm_quantiles(torch.full((3, 10), 6e4).half())['median'] == pytest.approx(6e4*10**.5, rel=1e-3)
    assert logit_norm_quantiles(torch.full((3, 2), 1e30))['q95'] == pytest.approx(2**.5*1e30)
    assert logit_norm_quantiles(torch.zeros(4, 3)) == dict.fromkeys(QS, 0.)
    with pytest.raises(ValueError, match=r'got shape \(0, 3\)'): logit_norm_quantiles(torch.zeros(0, 3))
    with pytest.raises(ValueError, match=r'got shape \(3,\)'): logit_norm_quantiles(torch.zeros(3))

@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.lists(st.lists(st.floats(-50, 50), min_size=3, max_size=3), min_size=1, max_size=20), st.floats(.1, 10))
def test_quantiles_are_in_order_and_scale_with_the_logits(rows, k):
    z = torch.tensor(rows, dtype=torch.float64)
    a,b = logit_norm_quantiles(z),logit_norm_quantiles(k*z)
    v = [a[o] for o in QS]
    assert v == sorted(v) and [b[o] for o in QS] == pytest.approx([k*o for o in v])
    assert logit_norm_quantiles(z.flip(0)) == pytest.approx(a)

@pytest.mark.parametrize('norm', [None, 'bn'])
def test_columns_and_table_are_those_of_a_loop(norm):
    learn = tiny_learner(LogitNorms(dict(blobs=BLOBS, noise=NOISE)), norm=norm)
    learn.fit(3)
    t = learn.logit_norms.table
    assert list(learn.recorder.metric_names)[3:] == ['accuracy', 'norm_known', 'norm_blobs', 'norm_noise', 'time']
    assert list(t.columns) == QS and t.index.names == ['epoch', 'set']
    assert list(t.index) == [(e, k) for e in (1, 2, 3) for k in ('known', 'blobs', 'noise')]
    for k,X in dict(known=None, blobs=BLOBS, noise=NOISE).items():
        assert t.loc[3, k].tolist() == pytest.approx(by_hand(learn, X), rel=1e-5)
        assert col(learn, f'norm_{k}') == pytest.approx(t.xs(k, level='set')['median'].tolist())
    assert len(set(t['median'])) == 9

def test_loaders_tensors_and_colour_images_are_taken():
    dls = tiny_dls()
    set_seed(0)
    loader = dls.test_dl(list(BLOBS))
    learn = tiny_learner(LogitNorms(dict(a=BLOBS, b=loader, c=torch.tensor(BLOBS)[:, None], d=BLOBS/np.float32(255))),
                         dls)
    learn.fit(1)
    t = learn.logit_norms.table.loc[1]
    for k in 'bcd': assert t.loc[k].tolist() == pytest.approx(t.loc['a'].tolist(), rel=1e-5)
    X = aux_images('blob', 9, 8, 3)
    learn = tiny_learner(LogitNorms(X), tiny_dls(channels=3))
    learn.fit(1)
    assert learn.logit_norms.table.loc[1, 'unknown'].tolist() == pytest.approx(by_hand(learn, X), rel=1e-5)

def test_without_unknown_images_and_every_second_epoch():
    learn = tiny_learner(LogitNorms(every=2))
    learn.fit(3)
    assert learn.logit_norms.table.index.tolist() == [(2, 'known')]
    assert np.isnan(col(learn, 'norm_known')).tolist() == [True, False, True]
    learn.fit(1)                                # the fourth epoch of all fits
    assert learn.logit_norms.table.index.tolist() == [(2, 'known'), (4, 'known')]

# --- techniques and callbacks ----------------------------------------------------------------------------------------
@pytest.mark.parametrize('make', [lambda: fr.LogitNorm(.04), lambda: fr.LogitClip(.05), lambda: fr.ODNL(BLOBS),
                                  lambda: fr.CoTeaching(.3, .5), lambda: fr.ALASCA(warmup=.5)],
                         ids=['LogitNorm', 'LogitClip', 'ODNL', 'CoTeaching', 'ALASCA'])
def test_the_norms_are_those_of_raw_logits(make):
    learn = tiny_learner([make(), LogitNorms(NOISE)])
    learn.fit(2)
    t = learn.logit_norms.table
    assert t.loc[2, 'known'].tolist() == pytest.approx(by_hand(learn), rel=1e-4)
    assert t.loc[2, 'unknown'].tolist() == pytest.approx(by_hand(learn, NOISE), rel=1e-4)
    assert t.loc[2, 'known'].q5 < t.loc[2, 'known'].q95         # not all 1/tau

def test_bfloat16_training():
    learn = tiny_learner(LogitNorms(NOISE)).to_bf16()
    learn.fit(1)
    assert np.isfinite(learn.logit_norms.table.to_numpy()).all()

# --- nothing else moves ----------------------------------------------------------------------------------------------
def small(dls, *cbs):
    set_seed(3)
    net = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(.3),
                        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    return Learner(dls, net, metrics=accuracy, cbs=list(cbs))

def augmented():
    X,y = tiny_arrays()
    return array_dls(X, y, valid=(X[:20], y[:20]), bs=16, device='cpu', batch_tfms=aug_transforms(size=8))

def test_training_is_bitwise_the_same_with_and_without():
    def run(*cbs):
        set_seed(0)
        learn = small(augmented(), *cbs)
        with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(3, 1e-2)
        return learn,torch.rand(1),np.random.rand()
    loader = tiny_dls().test_dl(list(NOISE))
    (a,ta,na),(b,tb,nb) = run(),run(LogitNorms(dict(a=BLOBS, b=loader)))
    for k,v in a.model.state_dict().items(): assert torch.equal(v, b.model.state_dict()[k]), k
    assert torch.equal(ta, tb) and na == nb and a.recorder.losses == b.recorder.losses
    for k in ('valid_loss', 'accuracy'): assert col(a, k) == col(b, k)

def test_only_fits_are_recorded(tmp_path):
    learn = small(tiny_dls(path=tmp_path), LogitNorms(NOISE))
    with learn.no_bar(), learn.no_logging():
        learn.lr_find(num_it=6, show_plot=False)
        assert not len(learn.logit_norms.table) and list(learn.logit_norms.table.columns) == QS
        learn.fit(1); learn.validate(); learn.get_preds(); learn.lr_find(num_it=6, show_plot=False)
        assert len(learn.logit_norms.table) == 2
        learn.fit(1)
    assert learn.logit_norms.table.index.get_level_values(0).tolist() == [1, 1, 2, 2]

class Stops(nn.Module):
    "A network that is interrupted in its `at`-th look at the unknown images"
    def __init__(self, net, at): super().__init__(); self.net,self.at,self.seen = net,at,0
    def forward(self, x):
        self.seen += len(x) == 13
        if self.seen == self.at: self.at = -1; raise KeyboardInterrupt
        return self.net(x)

def test_ctrl_c_in_the_pass_leaves_the_learner_whole():
    learn = small(tiny_dls(bs=24), LogitNorms(NOISE))
    learn.model = Stops(learn.model, 2)                 # in epoch 2; the check before the fit takes two images
    with learn.no_bar(), learn.no_logging():
        with pytest.raises(KeyboardInterrupt): learn.fit(3)
        assert len(learn.logit_norms.table) == 2 and learn.dls.valid_ds.split_idx == 1
        learn.validate()
        learn.fit(1)
    t = learn.logit_norms.table
    assert len(t) == 4 and t.iloc[-2].tolist() == pytest.approx(by_hand(learn), rel=1e-5)
    assert np.isfinite(params(learn)).all()

def test_an_epoch_without_validation_has_no_row():
    class Skip(Callback):
        def after_train(self):
            if self.epoch == 1: raise CancelEpochException
    learn = tiny_learner([LogitNorms(), Skip()])
    learn.fit(3)
    assert learn.logit_norms.table.index.get_level_values(0).tolist() == [1, 3]

def test_a_network_that_diverged_gets_nan_and_training_goes_on():
    class Blow(Callback):
        def after_train(self):
            if self.epoch == 1: self.learn.model[0].weight.data.fill_(float('nan'))
    learn = tiny_learner([LogitNorms(NOISE), Blow()])
    learn.fit(3)
    t = learn.logit_norms.table
    assert len(t) == 6 and t.loc[1].notna().all().all() and t.loc[2:].isna().all().all()
    assert learn.logit_norms.plot().axes[0].get_lines()

def test_export_leaves_the_images_out_and_says_so_a_copy_keeps_them(tmp_path):
    learn = small(tiny_dls(path=tmp_path), LogitNorms(dict(noise=NOISE)))
    learn.remove_cb(learn.progress)
    learn.logger = noop
    learn.fit(1)
    new = copy.deepcopy(learn)
    assert new.logit_norms.unknown['noise'] is NOISE and new.logit_norms.history is not learn.logit_norms.history
    new.fit(1)
    assert len(new.logit_norms.table) == 4 and len(learn.logit_norms.table) == 2
    one = pickle.loads(pickle.dumps(learn.logit_norms))
    assert one.unknown == {} and not one.active and len(one.table) == 2
    learn.export('m.pkl')
    assert NOISE.tobytes() not in (tmp_path/'m.pkl').read_bytes()
    back = load_learner(tmp_path/'m.pkl')
    back.dls = tiny_dls()
    with pytest.warns(RobustWarning, match=r'lost its unknown images \(noise\)'): back.fit(1)
    assert back.logit_norms.table.loc[2].index.tolist() == ['known'] and np.isnan(col(back, 'norm_noise')).all()

def test_its_name_is_free_on_learner():
    assert not hasattr(tiny_learner(), 'logit_norms') and LogitNorms().name == 'logit_norms'

# --- the picture -----------------------------------------------------------------------------------------------------
def table(sets=('known', 'unknown'), epochs=4, k=1.):
    rows = [dict(epoch=e, set=s, **{q: (i+1)*(e+j)*(k if i else 1) for j,q in enumerate(QS)})
            for e in range(1, epochs+1) for i,s in enumerate(sets)]
    return pd.DataFrame(rows).set_index(['epoch', 'set'])

def test_lines_are_the_medians_and_bands_the_quantiles():
    t = table()
    ax = plot_logit_norms(t).axes[0]
    known,unknown = ax.get_lines()
    assert known.get_ydata().tolist() == t.xs('known', level='set')['median'].tolist()
    assert unknown.get_ydata().tolist() == t.xs('unknown', level='set')['median'].tolist()
    assert known.get_xdata().tolist() == [1, 2, 3, 4] and ax.get_xlim() == (1, 4) and ax.get_ylim()[0] == 0
    assert len(ax.collections) == 4                                     # two bands each
    for c,(lo,hi) in zip(ax.collections, [('q5', 'q95'), ('q25', 'q75')]):
        v,rows = c.get_paths()[0].vertices,t.xs('known', level='set')
        assert {tuple(o) for o in v} == {*zip([1, 2, 3, 4], rows[lo]), *zip([1, 2, 3, 4], rows[hi])}
    assert [o.get_text() for o in ax.get_legend().get_texts()] == ['known', 'unknown']
    assert ax.get_legend().get_title().get_text() == 'median, middle 50 % and 90 %'
    assert ax.get_xlabel() == 'epoch' and ax.get_ylabel() and ax.get_title()

def test_of_many_sets_the_middle_half_alone_and_colours_apart():
    ax = plot_logit_norms(table(['known', *'abcde'])).axes[0]
    assert len(ax.collections) == 6 and len({ln.get_color() for ln in ax.get_lines()}) == 6
    assert ax.get_legend().get_title().get_text() == 'median, middle 50 %'

def test_a_log_axis_where_norms_differ_much_and_only_there():
    scale = lambda t, **kw: plot_logit_norms(t, **kw).axes[0].get_yscale()
    assert scale(table()) == 'linear' and scale(table(k=1e4)) == 'log'
    assert scale(table(), log=True) == 'log' and scale(table(k=1e4), log=False) == 'linear'
    assert scale(table()*0) == 'linear' and scale(table()*np.nan) == 'linear'

def test_one_epoch_many_epochs_given_axes_and_the_callback_itself():
    import matplotlib.pyplot as plt
    one = plot_logit_norms(table(epochs=1)).axes[0]
    assert one.get_xlim() == (.5, 1.5) and one.get_xticks().tolist() == [1]
    assert len(one.collections) == 4 and [ln.get_marker() for ln in one.get_lines()] == ['o', 'o']
    assert [s[:, 1].tolist() for s in one.collections[0].get_segments()] == [[1, 5]]
    assert plot_logit_norms(table(epochs=40)).axes[0].get_lines()[0].get_marker() in (None, 'None')
    fig,ax = plt.subplots()
    assert plot_logit_norms(table(), ax=ax, title='T') is fig and ax.get_title() == 'T'
    learn = tiny_learner(LogitNorms(NOISE))
    learn.fit(2)
    a,b = plot_logit_norms(learn.logit_norms),learn.logit_norms.plot(figsize=(6, 3))
    assert a.axes[0].get_lines()[1].get_ydata().tolist() == b.axes[0].get_lines()[1].get_ydata().tolist() == \
        col(learn, 'norm_unknown') and b.get_size_inches().tolist() == [6, 3]
    with Image.open(io.BytesIO(a._repr_png_())) as im: assert np.asarray(im.convert('L')).std() > 5

# --- errors ----------------------------------------------------------------------------------------------------------
def test_errors_say_what_to_do_and_come_before_the_first_epoch():
    for v in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match='every'): LogitNorms(every=v)
    with pytest.raises(ValueError, match="other than 'known'"): LogitNorms(dict(known=NOISE))
    with pytest.raises(ValueError, match='got 3'): LogitNorms({3: NOISE})
    def refused(unknown, err, match):
        learn = tiny_learner(LogitNorms(unknown))
        with pytest.raises(err, match=match): learn.fit(1)
        assert not len(learn.logit_norms.table) and not learn.recorder.losses
    refused(NOISE[:0], ValueError, 'LogitNorms expected images')
    refused(aux_images('gaussian', 5, 10, 1), ValueError, r'\(1, 8, 8\).*got \(1, 10, 10\)')
    refused(aux_images('gaussian', 5, 8, 3), ValueError, 'one channel')
    refused('folder', TypeError, 'LogitNorms expected a fastai loader')
    with pytest.raises(ValueError, match='at least one recorded epoch'): LogitNorms().plot()
    with pytest.raises(TypeError, match='Pass the callback'): plot_logit_norms(pd.DataFrame(dict(median=[1.])))
    with pytest.raises(TypeError, match='Pass the callback'): plot_logit_norms([1, 2])
    X,y = tiny_arrays()
    with pytest.raises(ValueError, match='validation set, got none'):
        dls = array_dls(X, y, valid_pct=.2, bs=16, device='cpu')
        dls.loaders = dls.loaders[:1]
        tiny_learner(LogitNorms(), dls).fit(1)
