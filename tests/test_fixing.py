"The cure: which items, what becomes of them, what stays as it was; tables that come back from a reviewer"
import sys, types, warnings
from pathlib import Path
import numpy as np
import pandas as pd
import pytest
from hypothesis import given as draw, settings, strategies as st
from PIL import Image
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.core import Datasets, TfmdLists
from fastai.data.transforms import ColReader, IndexSplitter, RandomSplitter, get_image_files, parent_label
from fastai.tabular.core import Categorify
from fastai.tabular.data import TabularDataLoaders
from fastai.tabular.learner import tabular_learner
from fastai.vision.data import ImageBlock, ImageDataLoaders
from conftest import tiny_arrays, tiny_dls, tiny_learner
from fastrobust.basics import RobustWarning
from fastrobust.data.editing import given_labels
from fastrobust.noise.laws import NoisyLabels
from fastrobust.noise.block import add_label_noise
from fastrobust.data.weighting import weighted_dls
from fastrobust.labels.cleaner import to_cleaner
from fastrobust.labels.fixing import fix_labels
from fastrobust.reporting.report import Report
from fastrobust.labels.reviewing import item_names, read_review

VOCAB = ['ant', 'bee', 'cat']

def report(dls, n_flag=8, seed=0, names=None):
    "A report as `noise_report` gives it, on made-up probabilities"
    y,g = given_labels(dls),np.random.default_rng(seed)
    vocab = [str(o) for o in dls.vocab]
    p = g.dirichlet(np.ones(len(vocab)), len(y))
    own = p[np.arange(len(y)), y]
    other = np.where(np.arange(len(vocab))[None] == y[:,None], -1, p)
    margin = (own-other.max(1)+1)/2
    order = np.argsort(margin, kind='stable')
    t = pd.DataFrame(dict(item=order, name=order.astype(str) if names is None else [names[i] for i in order],
                          given=[vocab[k] for k in y[order]], suggested=[vocab[k] for k in other.argmax(1)[order]],
                          confidence=other.max(1)[order], margin=margin[order], flagged=np.arange(len(y)) < n_flag))
    return Report(t, name='noise')

@pytest.fixture
def dls(): return tiny_dls(vocab=VOCAB)

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    d = tmp_path_factory.mktemp('imgs')
    X,y = tiny_arrays(40)
    for i,(x,k) in enumerate(zip(X, y)):
        (d/VOCAB[k]).mkdir(exist_ok=True)
        Image.fromarray(x).save(d/VOCAB[k]/f'{i:02d}.png')
    return d

def files(d, seed=1):
    return DataBlock((ImageBlock, CategoryBlock), get_items=get_image_files, get_y=parent_label,
                     splitter=RandomSplitter(.2, seed=seed)).dataloaders(d, bs=8, num_workers=0, device='cpu')

# --- drop, relabel, weight -------------------------------------------------------------------------------------------
def test_drop_takes_the_flagged_out_and_nothing_else(dls):
    rep,y = report(dls),given_labels(dls)
    new = fix_labels(dls, rep)
    gone = rep.table.item[:8].to_numpy()
    stay = np.setdiff1d(np.arange(48), gone)
    assert (given_labels(new) == y[stay]).all() and (new.train_ds.items.x == dls.train_ds.items.x[stay]).all()
    assert (given_labels(dls) == y).all() and len(dls.train_ds) == 48 and new.valid_ds is dls.valid_ds
    assert new.fixes.undo() is dls and list(new.fixes.table['item']) == list(gone)
    assert (new.fixes.weights == np.isin(np.arange(48), stay)).all()
    assert repr(new.fixes) == 'Fixes: of 48 training items 8 dropped'
    tiny_learner(dls=new).fit(1)

def test_relabel_uses_the_suggestions(dls, tmp_path):
    rep,y = report(dls),given_labels(dls)
    new = fix_labels(dls, rep, 'relabel', top=5)
    want = y.copy()
    for r in rep.table[:5].itertuples(): want[r.item] = VOCAB.index(r.suggested)
    assert (given_labels(new) == want).all() and (want != y).sum() == 5 and (given_labels(dls) == y).all()
    t = new.fixes.table
    assert (t.old.map(VOCAB.index) == y[t['item']]).all() and (t.new.map(VOCAB.index) == want[t['item']]).all()
    back = pd.read_csv(new.fixes.save(tmp_path/'fixes.csv'))
    assert list(back.columns) == ['item', 'name', 'old', 'new', 'how'] and len(back) == 5

def test_weights_are_the_margins_and_stay_in_the_loader(dls):
    rep = report(dls)
    new = fix_labels(dls, rep, how='weight', top=20)
    w = np.ones(48)
    w[rep.table.item[:20]] = rep.table.margin[:20]
    assert np.allclose(new.fixes.weights, w) and np.allclose(new.train.wgts, w/w.sum())
    n = sum(np.bincount(new.train.get_idxs(), minlength=48) for _ in range(300))/300
    assert np.allclose(n, 48*w/w.sum(), atol=.15)
    assert (given_labels(new) == given_labels(dls)).all() and not hasattr(dls.train, 'wgts')
    learn = tiny_learner(dls=new)
    learn.fit(1)
    assert np.isfinite(learn.recorder.values[0]).all()

def test_weights_that_were_there_stay(dls):
    own = np.random.default_rng(3).uniform(.1, 5, 48)
    rep,old = report(dls),weighted_dls(dls, own)
    new = fix_labels(old, rep, how='weight', top=20)
    w = own.copy()
    w[rep.table.item[:20]] *= rep.table.margin[:20]
    assert np.allclose(new.train.wgts, w/w.sum()) and np.allclose(old.train.wgts, own/own.sum())
    assert new.fixes.weights.max() == 1
    t = rep.table.assign(decision='')
    t.loc[3, 'decision'] = 'drop'
    both,stay = fix_labels(old, t, how='weight', top=20),np.arange(48) != t['item'][3]
    assert np.allclose(both.train.wgts, w[stay]/w[stay].sum())

def test_weights_by_the_probability_of_error_where_it_is_known(dls):
    rep = report(dls)
    rep.table['wrong'] = np.linspace(1, 0, 48)
    new = fix_labels(dls, rep, how='weight', top=48)
    w = np.ones(48)
    w[rep.table['item']] = 1-np.linspace(1, 0, 48)
    assert np.allclose(new.fixes.weights, w) and len(new.fixes) == 47     # the last has all our trust
    assert len(fix_labels(dls, rep.table.drop(columns='margin'), 'weight').fixes) == 8

def test_top_threshold_keep(dls):
    rep = report(dls)
    t = rep.table
    n = lambda **kw: len(fix_labels(dls, rep, **kw).train_ds)
    assert n(top=3) == 45 and n(top=.25) == 36 and n(threshold=.2) == 48-(t.margin < .2).sum()
    assert n(top=3, keep=t.item[:2].to_numpy()) == 47 and n(keep=list(t.item[6:30])) == 42
    mask = np.zeros(48, bool); mask[t.item[0]] = True
    assert n(top=3, keep=mask) == 46 and n(top=3, keep=[]) == 45
    for bad in (0, 49, 1., -.1, 0.):
        with pytest.raises(ValueError, match=r'share in \(0,1\), got .* top=48 for all of them'): n(top=bad)
    for bad in (True, '3'): pytest.raises(TypeError, n, top=bad)
    for bad in (0, 1.5): pytest.raises(ValueError, n, threshold=bad)
    with pytest.raises(ValueError, match='both'): n(top=3, threshold=.3)
    with pytest.raises(ValueError, match='`keep` as positions'): n(keep=[48])

def test_nothing_flagged_says_so(dls):
    rep = report(dls, n_flag=0)
    with pytest.warns(RobustWarning, match='nothing selected'): new = fix_labels(dls, rep)
    assert len(new.train_ds) == 48 and len(new.fixes) == 0 and repr(new.fixes).endswith('none changed')

def test_a_class_may_not_vanish(dls):
    rep,y = report(dls),given_labels(dls)
    rep.table['flagged'] = (rep.table.given == 'bee').to_numpy()
    with pytest.raises(ValueError, match="all training items of 'bee' would be gone.*how='weight'"):
        fix_labels(dls, rep)
    some = np.flatnonzero(y == 1)[:2]
    assert (given_labels(fix_labels(dls, rep, keep=some)) == 1).sum() == 2
    rep.table['suggested'] = 'cat'
    with pytest.warns(RobustWarning, match="'bee'"): new = fix_labels(dls, rep, 'relabel')
    assert not (given_labels(new) == 1).any()
    assert len(fix_labels(dls, rep, 'weight').train_ds) == 48

def test_the_noise_record_follows(dls):
    noisy = add_label_noise(dls, NoisyLabels('symmetric', .4, seed=1))
    rec,rep = noisy.noise,report(noisy)
    rep.table['suggested'] = [VOCAB[k] for k in rec.y_clean[rep.table['item']]]
    rep.table['flagged'] = rec.is_noisy[rep.table['item']]
    assert fix_labels(noisy, rep, 'relabel').noise.realised_rate == 0
    less = fix_labels(noisy, rep)
    assert less.noise.realised_rate == 0 and len(less.noise) == len(less.train_ds) == 48-rec.is_noisy.sum()
    assert noisy.noise.realised_rate == rec.realised_rate > .3

def test_twice(dls):
    a = fix_labels(dls, report(dls), top=4)
    b = fix_labels(a, report(a, seed=1), 'relabel', top=4)
    assert b.fixes.undo() is a and b.fixes.undo().fixes.undo() is dls and len(b.train_ds) == 44

@settings(derandomize=True, deadline=None, max_examples=25)
@draw(st.integers(0, 10**6), st.sampled_from(['drop', 'relabel', 'weight']), st.integers(1, 12))
def test_what_is_not_selected_is_not_touched(seed, how, k):
    dls = tiny_dls(vocab=VOCAB)
    rep,y = report(dls, seed=seed),given_labels(dls)
    new = fix_labels(dls, rep, how, top=k)
    rest = np.setdiff1d(np.arange(48), rep.table['item'][:k])
    assert (new.fixes.weights[rest] == 1).all() and set(new.fixes.table['item']) <= set(rep.table['item'][:k])
    if how == 'drop': assert (given_labels(new) == y[rest]).all()
    else: assert (given_labels(new)[rest] == y[rest]).all() and len(new.train_ds) == 48
    assert (given_labels(dls) == y).all()

@pytest.mark.parametrize('by', ['wrong', 'margin', 'neither'])
def test_the_most_suspicious_whatever_the_file_is_sorted_by(dls, tmp_path, by):
    "A spreadsheet sorted it by class and left the index out"
    rep = report(dls)
    rep.table['wrong'] = np.repeat(np.linspace(1, 0, 8), 6)     # ties, in which the margin decides
    drop = dict(wrong=[], margin=['wrong'], neither=['wrong', 'margin'])[by]
    t = rep.table.drop(columns=drop).sort_values(['given', 'item'])
    t.to_csv(tmp_path/'sorted.csv', index=False)
    first = t if by == 'neither' else rep.table
    for k in (3, 8, 20):
        new = fix_labels(dls, tmp_path/'sorted.csv', 'relabel', top=k)
        assert set(new.fixes.table['item']) == set(first['item'][:k])

# --- the wrong report ------------------------------------------------------------------------------------------------
def test_reports_of_other_dls_are_refused(dls):
    rep = report(dls)
    for other,what in ((tiny_dls(n=40, vocab=VOCAB), 'positions in a training set of 40'),
                       (fix_labels(dls, rep, 'relabel'), 'got 8 others')):
        with pytest.raises(ValueError, match=what): fix_labels(other, rep)
    with pytest.raises(ValueError, match="'vote'.*Known: drop, relabel, weight"): fix_labels(dls, rep, how='vote')
    with pytest.raises(TypeError, match='got int'): fix_labels(dls, 3)
    for k,kw in (('item', {}), ('given', {}), ('flagged', {}), ('suggested', dict(how='relabel')),
                 ('margin', dict(how='weight')), ('margin', dict(threshold=.5))):
        t = rep.table.drop(columns=k)
        with pytest.raises(ValueError, match=f'expected a column `{k}`'): fix_labels(dls, t, **kw)
    for col,v,what in (('item', 'x', "got 'x' in row 0"), ('item', 1.5, 'fractions'), ('flagged', 'maybe', "'maybe'"),
                       ('suggested', 'bees', "Did you mean 'bee'"), ('margin', '', "numbers in column `margin`")):
        t = rep.table.astype(object)
        t.loc[0, col] = v
        with pytest.raises(ValueError, match=what): fix_labels(dls, t, 'relabel')
    with pytest.raises(ValueError, match='got item .* twice'): fix_labels(dls, pd.concat([rep.table]*2))

# --- a reviewer's CSV ------------------------------------------------------------------------------------------------
def test_the_csv_is_the_report(dls, tmp_path):
    rep = report(dls)
    csv = rep.save(tmp_path)[0]
    for kw in ({}, dict(how='relabel', top=7), dict(how='weight', threshold=.3)):
        a,b = fix_labels(dls, rep, **kw),fix_labels(dls, csv, **kw)
        assert (given_labels(a) == given_labels(b)).all() and (a.fixes.table == b.fixes.table).all(None)
    t = pd.read_csv(csv).sample(frac=1, random_state=0)     # shuffled in a spreadsheet: the index still tells the rank
    t.to_csv(tmp_path/'shuffled.csv', index=False)
    assert set(fix_labels(dls, tmp_path/'shuffled.csv', top=5).fixes.table['item']) == set(rep.table['item'][:5])
    t[t.flagged].to_csv(tmp_path/'part.csv', index=False, sep=';', encoding='utf-8-sig')
    assert len(fix_labels(dls, str(tmp_path/'part.csv')).train_ds) == 40
    with pytest.raises(FileNotFoundError, match='no file'): fix_labels(dls, tmp_path/'none.csv')

def test_decisions_rule(dls, tmp_path):
    rep,y = report(dls),given_labels(dls)
    t = rep.table.assign(decision='', comment='?')
    t.loc[0, 'decision'],t.loc[1, 'decision'],t.loc[2, 'decision'],t.loc[30, 'decision'] = 'keep',' Drop ','cat','bee'
    t.to_csv(tmp_path/'r.csv')
    with pytest.warns(RobustWarning, match='decided 4 rows; 5 flagged ones without'):
        new = fix_labels(dls, tmp_path/'r.csv')
    want = y.copy()
    want[t['item'][2]],want[t['item'][30]] = 2,1
    assert (given_labels(new) == np.delete(want, t['item'][1])).all()
    new = fix_labels(dls, tmp_path/'r.csv', top=4)      # asked for: the undecided of the first four as well
    assert len(new.train_ds) == 46 and t['item'][0] not in set(new.fixes.table['item'])
    t.loc[0, 'decision'] = 'dog'
    with pytest.raises(ValueError, match="column `decision`, got 'dog' in row 0"): fix_labels(dls, t)
    t.loc[0, 'decision'] = 'drop'
    assert len(fix_labels(dls, t, keep=[t['item'][0], t['item'][1]], top=1).train_ds) == 48

def test_decisions_alone_are_enough(dls, tmp_path):
    rep,y = report(dls),given_labels(dls)
    t = rep.table[['item', 'name', 'given']].assign(decision='keep')
    t.loc[0, 'decision'],t.loc[5, 'decision'] = 'drop','bee'
    t.to_csv(tmp_path/'r.csv', index=False)
    want = y.copy()
    want[t['item'][5]] = 1
    for how in ('drop', 'relabel', 'weight'):
        new = fix_labels(dls, tmp_path/'r.csv', how)
        assert (given_labels(new) == np.delete(want, t['item'][0])).all()
    with pytest.raises(ValueError, match='a column `flagged`'): fix_labels(dls, t.assign(decision=''))
    with pytest.raises(ValueError, match='a column `suggested`'): fix_labels(dls, t, 'relabel', top=3)

def test_class_names_that_pandas_would_eat(tmp_path):
    vocab = ['NA', 'None', '007']
    dls = tiny_dls(vocab=vocab)
    csv = report(dls).save(tmp_path)[0]
    assert set(read_review(csv, vocab).given) == set(vocab)
    assert (given_labels(fix_labels(dls, csv, 'relabel', top=9)) != given_labels(dls)).sum() == 9
    dls = tiny_dls(vocab=['keep', 'b', 'c'])
    assert len(fix_labels(dls, report(dls)).train_ds) == 40
    t = report(dls).table.assign(decision='')
    with pytest.raises(ValueError, match="class is called 'keep'"): fix_labels(dls, t)

def test_ints_as_classes(tmp_path):
    dls = tiny_dls()
    assert list(dls.vocab) == [0, 1, 2]
    csv = report(dls).save(tmp_path)[0]
    assert len(fix_labels(dls, csv).train_ds) == 40 and len(read_review(csv)) == 48

# --- files and tables ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('how', ['drop', 'relabel', 'weight'])
def test_files(folder, how):
    dls = files(folder)
    rep = report(dls, 6, names=[str(o) for o in dls.train_ds.items])
    new = fix_labels(dls, rep, how)
    assert len(new.train_ds) == (26 if how == 'drop' else 32) and new.valid_ds is dls.valid_ds
    assert list(new.fixes.table.name) == [str(dls.train_ds.items[i]) for i in rep.table['item'][:6]]
    new.train.one_batch()

def test_files_are_found_by_name_under_another_split(folder):
    dls,other = files(folder),files(folder, 5)
    names = [str(o.relative_to(folder)) for o in dls.train_ds.items]
    rep = report(dls, 10, names=names)
    with pytest.warns(RobustWarning, match='not in the training set'): new = fix_labels(other, rep)
    bad = {folder/names[i] for i in rep.table['item'][:10]}
    assert set(new.train_ds.items) == set(other.train_ds.items)-bad and len(bad & set(other.train_ds.items)) > 4
    rep.table['name'] = [f'x/{o}' for o in rep.table.name]
    with pytest.raises(ValueError, match='on other files'): fix_labels(dls, rep)

def test_a_name_that_fits_two_files_fits_none():
    from fastrobust.labels.reviewing import _find
    names = ['/d/train/ant/1.png', '/d/valid/ant/1.png', '/d/train/bee/2.png']
    got = _find(['ant/1.png', 'train/ant/1.png', 'bee/2.png', names[1], 'cat/3.png'], names)
    assert got.tolist() == [-1, 0, 2, 1, -1]

@pytest.mark.parametrize('full', [True, False])
def test_files_listed_twice(folder, full):
    fs = sorted(get_image_files(folder))
    fs += fs[:10]
    dls = DataBlock((ImageBlock, CategoryBlock), get_y=parent_label, splitter=IndexSplitter([])).dataloaders(
        fs, bs=8, num_workers=0, device='cpu')
    rep,y = report(dls, names=[str(o if full else o.relative_to(folder)) for o in fs]),given_labels(dls)
    new = fix_labels(dls, rep, 'relabel', top=45)
    want = y.copy()
    for r in rep.table[:45].itertuples(): want[r.item] = VOCAB.index(r.suggested)
    assert (given_labels(new) == want).all() and new.fixes.table['item'].is_unique and len(new.fixes) == 45

def test_rows_that_name_files(folder):
    fs = get_image_files(folder)
    df = pd.DataFrame(dict(path=[str(o.relative_to(folder)) for o in fs], label=[o.parent.name for o in fs]))
    dls = ImageDataLoaders.from_df(df, folder, fn_col='path', label_col='label', valid_pct=.2, seed=2, bs=8,
                                   num_workers=0, device='cpu')
    rows = dls.train_ds.items
    new = fix_labels(dls, report(dls, 5, names=rows.path.tolist()), 'relabel')
    assert len(new.fixes) == 5 and (given_labels(new) != given_labels(dls)).sum() == 5

@pytest.fixture(scope='module')
def numbered(tmp_path_factory):
    "Image i is of grey i, and a table of them whose index says nothing"
    d = tmp_path_factory.mktemp('numbered')
    for i in range(30): Image.fromarray(np.full((4, 4), i, np.uint8)).save(d/f'im_{i}.png')
    i = np.random.default_rng(0).permutation(30)
    return d,pd.DataFrame(dict(file=[f'im_{k}.png' for k in i], stem=[f'im_{k}' for k in i], no=i, size=i/2,
                               label=[VOCAB[k%3] for k in i]), index=(i+11)%30)

def opened(dls): return [f'im_{np.array(x).max()}.png' for x,_ in dls.train_ds]

@pytest.mark.parametrize('cols,kw', [
    (['file', 'label'], {}), (['label', 'file'], dict(fn_col=1, label_col=0)), (['file', 'label'], dict(fn_col='file')),
    (['label', 'file'], dict(fn_col=-1, label_col='label')), (['size', 'label', 'stem'], dict(fn_col=2)),
    (['no', 'stem', 'label'], dict(fn_col='stem', label_col=2))], ids=str)
def test_names_are_the_files_that_fastai_opens(numbered, cols, kw):
    d,df = numbered
    for t in (df[cols], df[cols][df.no > 5], df[cols].set_index('label', drop=False)):
        dls = ImageDataLoaders.from_df(t, d, suff='.png' if 'stem' in cols else '', seed=1, bs=4, num_workers=0,
                                       device='cpu', **kw)
        assert item_names(dls.train_ds) == [str(d/o) for o in opened(dls)]

@pytest.mark.parametrize('reader', [ColReader('no', pref='im_', suff='.png'), ColReader(0, suff='.png'),
                                    ColReader('file', pref=Path('a')), ColReader('size', suff='.png'), ColReader(2)])
def test_names_are_read_as_fastai_reads_rows(numbered, reader):
    d,df = numbered
    for t in (df, df[['no', 'size', 'size']].set_axis(['no', 'size', 'file'], axis=1), df[:0]):
        tl = TfmdLists(t, reader, do_setup=False)
        assert item_names(Datasets(tls=[tl])) == [str(reader(t.iloc[i])) for i in range(len(t))]

def test_a_reviewed_csv_drops_the_right_rows(numbered, tmp_path):
    d,df = numbered
    df[['file', 'label']].to_csv(d/'labels.csv', index=False)
    dls = ImageDataLoaders.from_csv(d, delimiter=',', seed=1, bs=4, num_workers=0, device='cpu')
    t = report(dls, names=item_names(dls.train_ds)).table.drop(columns='item').sort_values('name')
    t['item'],t['decision'] = np.arange(len(t)),''              # sorted and numbered anew: the names hold
    bad = [f'im_{i}.png' for i in (3, 8, 17) if f'im_{i}.png' in opened(dls)]
    t.loc[t.name.isin([str(d/o) for o in bad]), 'decision'] = 'drop'
    t.to_csv(tmp_path/'r.csv', index=False)
    with pytest.warns(RobustWarning, match='flagged ones without'): new = fix_labels(dls, tmp_path/'r.csv', how='drop')
    assert bad and set(opened(dls))-set(opened(new)) == set(bad) and len(new.train_ds) == len(dls.train_ds)-len(bad)
    assert set(new.fixes.table.name) == {str(d/o) for o in bad}

@pytest.mark.parametrize('how', ['drop', 'relabel', 'weight'])
def test_tables(how):
    g = np.random.default_rng(0)
    df = pd.DataFrame(dict(u=g.normal(size=60), v=g.integers(0, 4, 60).astype(str),
                           y=np.array(VOCAB)[np.arange(60) % 3]))
    dls = TabularDataLoaders.from_df(df, procs=[Categorify], cat_names=['v'], cont_names=['u'], y_names='y',
                                     valid_idx=list(range(12)), bs=8)
    new = fix_labels(dls, report(dls, 6), how)
    assert len(new.train_ds) == (42 if how == 'drop' else 48)
    assert (how == 'relabel') == bool(len(new.train_ds) == 48 and (given_labels(new) != given_labels(dls)).any())
    learn = tabular_learner(new, layers=[8])
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert new.fixes.undo() is dls

# --- fastai's widget -------------------------------------------------------------------------------------------------
@pytest.fixture
def stub(monkeypatch):
    "As much of ipywidgets as fastai's cleaner uses"
    class W:
        def __init__(self, children=(), options=(), layout=None, **kw):
            self.children,self.options,self.layout,self.seen = list(children),list(options),layout,[]
            if self.options: self.value = self.options[0]
        index = property(lambda self: self.options.index(self.value))
        def observe(self, f, names=None): self.seen.append(f)
        def __enter__(self): return self
        def __exit__(self, *a): return False
    m = types.ModuleType('ipywidgets')
    m.Box = type('Box', (W,), {})
    for k in ('HBox', 'VBox'): setattr(m, k, type(k, (m.Box,), {}))
    for k in 'Button Checkbox Dropdown Layout Output Label FileUpload'.split(): setattr(m, k, type(k, (W,), {}))
    m.widgets = m
    monkeypatch.setitem(sys.modules, 'ipywidgets', m)
    monkeypatch.delitem(sys.modules, 'fastai.vision.widgets', raising=False)
    import fastai.vision.widgets as fw
    monkeypatch.setattr(fw, 'display', lambda *a: None, raising=False)
    yield
    sys.modules.pop('fastai.vision.widgets', None)

@pytest.mark.usefixtures('stub')
def test_cleaner_shows_the_suspicious_first_and_forgets_nothing(folder):
    dls = files(folder)
    rep = report(dls, names=[str(o) for o in dls.train_ds.items])
    cl = to_cleaner(dls, rep, max_n=4)
    t,items = rep.table,dls.train_ds.items
    assert list(cl.fns) == [items[i] for i in t.item[t.given == 'ant']][:4]
    bad,keep = cl.fns[0],cl.fns[1]
    cl.widget.children[2].children[0].children[1].value = '<Delete>'
    def show(k): cl.dd_cats.value = k; cl.on_change_ds()
    show('bee')
    assert list(cl.fns) == [items[i] for i in t.item[t.given == 'bee']][:4] and list(cl.delete()) == []
    cl.widget.children[2].children[1].children[1].value = 'cat'
    moved = cl.fns[1]
    show('ant')
    assert list(cl.delete()) == [0] and cl.fns[0] == bad
    r = cl.review()
    said = {items[i]: o for i,o in zip(r['item'], r.decision) if o}
    assert said == {bad: 'drop', moved: 'cat'} and keep not in said
    with pytest.warns(RobustWarning, match='decided 2 rows'): new = fix_labels(dls, r)
    assert len(new.train_ds) == len(dls.train_ds)-1 and set(new.fixes.table.how) == {'drop', 'relabel'}
    with pytest.raises(TypeError, match='image files'): to_cleaner(tiny_dls(vocab=VOCAB), report(tiny_dls(vocab=VOCAB)))

def test_cleaner_without_widgets(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, 'ipywidgets', None)
    monkeypatch.delitem(sys.modules, 'fastai.vision.widgets', raising=False)
    with pytest.raises(ImportError, match='ipywidgets.*plot_label_issues.*fix_labels'): to_cleaner(files(folder), None)

# --- what the report could not judge ----------------------------------------------------------------------------------
def _suspects(dls, judged, n=6):
    "A report's table with the first `n` items flagged, judged as told"
    y,vocab = given_labels(dls),[str(o) for o in dls.vocab]
    other = [vocab[(k+1)%len(vocab)] for k in y]
    t = pd.DataFrame(dict(item=np.arange(len(y)), given=[vocab[k] for k in y], suggested=other, margin=.4,
                          suspicion=np.linspace(1, 0, len(y)), wrong=np.nan, flagged=np.arange(len(y)) < n))
    return t.assign(judged=judged)

def test_a_report_that_cannot_judge_relabels_nothing():
    dls = tiny_dls(n=40)
    weak = _suspects(dls, False)
    with pytest.raises(ValueError, match='judge is too weak.*force=True'): fix_labels(dls, weak, 'relabel')
    for how in ('drop', 'weight'):
        with pytest.raises(ValueError, match='judge is too weak'): fix_labels(dls, weak, how)
    with pytest.warns(RobustWarning, match='too weak to say'): assert len(fix_labels(dls, weak, top=6).fixes) == 6
    assert (fix_labels(dls, weak, 'relabel', force=True).fixes.table.how == 'relabel').all()
    seen = weak.assign(decision=['drop', *['']*39])            # a person has looked: that counts
    warnings.simplefilter('error', RobustWarning)
    assert fix_labels(dls, seen[seen.decision != '']).fixes.table['item'].tolist() == [0]

def test_classes_that_are_not_judged_are_left_alone():
    dls = tiny_dls(n=40)
    t = _suspects(dls, True)
    t.loc[[0, 2], 'judged'] = False
    with pytest.warns(RobustWarning, match='2 selected rows.*could not judge'): new = fix_labels(dls, t, top=4)
    assert sorted(new.fixes.table['item']) == [1, 3]
    assert len(fix_labels(dls, t, top=4, force=True).fixes) == 4

def test_it_says_where_more_right_labels_may_go_than_wrong_ones():
    dls = tiny_dls(n=40)
    class Rep:
        table,precision_lo,precision_hi,caveats = _suspects(dls, True),.1,.9,['a caveat']
    says = 'of the 6 labels .* between 10% and 90% are wrong.*review_sample'
    with pytest.warns(RobustWarning, match=says): new = fix_labels(dls, Rep())
    assert new.fixes.notes[1:] == ['a caveat']
    Rep.precision_lo = .6
    with warnings.catch_warnings():
        warnings.simplefilter('error', RobustWarning)
        assert fix_labels(dls, Rep()).fixes.notes == ['a caveat']

def test_without_chances_the_margin_weighs():
    dls = tiny_dls(n=40)
    w = fix_labels(dls, _suspects(dls, True), 'weight').fixes.weights
    assert np.allclose(w[:6], .4) and (w[6:] == 1).all()

# --- names that mean two things ---------------------------------------------------------------------------------------
@pytest.mark.parametrize('word', ['keep', 'Keep', ' DROP'])
def test_a_class_called_as_a_decision_is_refused_in_capitals_too(word):
    t = pd.DataFrame(dict(item=[0], given=[word], decision=['keep']))
    with pytest.raises(ValueError, match=f'class is called .{word}.*two meanings.*Rename'): read_review(t, [word, 'b'])

def test_names_that_pandas_takes_for_missing():
    dls = tiny_dls(n=40, vocab=['nan', 'b', 'c'])
    t = _suspects(dls, True).replace(dict(given={'nan': np.nan}))
    with pytest.raises(ValueError, match='keep_default_na=False'): fix_labels(dls, t)
