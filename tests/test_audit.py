"python -m fastrobust audit: what it reads, what it writes, what it says when it cannot"
import os, re, subprocess, sys, types, warnings
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from fastai.vision.data import ImageDataLoaders
from conftest import tiny_dls
from fastrobust.audit import command as auditing, network
from fastrobust.audit.network import learner_maker
from fastrobust.__main__ import main
from fastrobust.audit.files import read_source
from fastrobust.audit.command import audit
from fastrobust.basics import RobustWarning
from fastrobust.data.editing import given_labels
from fastrobust.samples import sample_data
from fastrobust.labels.fixing import fix_labels

ROOT = Path(__file__).parent.parent
KINDS = [1, 5, 8]       # Trouser, Sandal, Bag: nobody confuses them

def images(d, n=60, wrong=6, split=False):
    "Class folders of `n` images, `wrong` of them in the wrong one; returns the names of these"
    X,y,_,_,vocab = sample_data('fashion')
    idx = np.concatenate([np.flatnonzero(y == k)[:n//3] for k in KINDS])
    bad,names = set(np.random.default_rng(0).choice(len(idx), wrong, replace=False).tolist()),[]
    for j,i in enumerate(idx):
        k = KINDS[(KINDS.index(y[i])+1+j % 2) % 3] if j in bad else y[i]
        p = d/(('valid' if j % 5 == 0 else 'train') if split else '')/vocab[k]
        p.mkdir(parents=True, exist_ok=True)
        Image.fromarray(X[i]).save(p/f'{i:04d}.png')
        if j in bad: names.append((p/f'{i:04d}.png').relative_to(d).as_posix())
    return names

def page_code(f):
    "The lines a report gives to paste"
    return unescape(re.search(r'<pre><code>(.*?)</code>', f.read_text(encoding='utf-8'), re.S)[1])

def few_suspects(out):
    "No more than six, as networks of one epoch may suspect a whole class"
    t = pd.read_csv(out/'issues.csv', index_col=0)
    t.assign(flagged=np.arange(len(t)) < 6).to_csv(out/'issues.csv')

@pytest.fixture(scope='module')
def ran(tmp_path_factory):
    "The command, from the outside, on a folder with errors, a broken image and its own output inside"
    d = tmp_path_factory.mktemp('audit')
    bad = images(d/'my images', 150, 15)
    (d/'my images'/'Bag'/'broken <b>.png').write_text('no image')
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'PYTHONIOENCODING': 'ascii'}
    r = subprocess.run([sys.executable, '-m', 'fastrobust', 'audit', '.', '--arch', 'small', '--out', 'report',
                        '--epochs', '12'], capture_output=True, text=True, cwd=d/'my images', env=env, timeout=280)
    return r,d/'my images',bad

def test_finds_the_errors_and_says_so(ran):
    r,d,bad = ran
    assert r.returncode == 0 and not r.stderr, r.stderr
    assert '150 images, 3 classes; 1 left out' in r.stdout and 'fold 3 of 3' in r.stdout
    assert re.search(r'About \d+% of the 150 labels are wrong', r.stdout) and 'report.html' in r.stdout
    assert 'Warning' not in r.stdout and max(map(len, r.stdout.splitlines())) <= 122
    t = pd.read_csv(d/'report'/'issues.csv', index_col=0)
    assert list(t.columns[:4]) == ['item', 'name', 'given', 'suggested'] and 'decision' in t and len(t) == 150
    assert len(set(t.name[:15]) & set(bad)) >= 12 and not t.decision.notna().any()

def test_files(ran):
    d = ran[1]
    assert {o.name for o in (d/'report').iterdir()} == {
        'report.html', 'issues.csv', 'fixed.csv', 'rate.png', 'matrix.png'}
    for out in ('report', 'another'):       # its own pictures are no class, and those of an earlier audit neither
        assert set(read_source(d, d/out).labels) == {'Trouser', 'Sandal', 'Bag'}
    f,t = pd.read_csv(d/'report'/'fixed.csv'),pd.read_csv(d/'report'/'issues.csv', index_col=0)
    assert list(f.columns) == ['path', 'label', 'action', 'given', 'confidence']
    assert [Path(p).parent.name for p in f.path] == list(f.given) and all((d/p).is_file() for p in f.path)
    assert ((f.action == 'relabel') == (f.label != f.given)).all()
    assert (f.action == 'relabel').sum() == t.flagged.sum() > 9
    dls = ImageDataLoaders.from_df(f, d, fn_col='path', label_col='label', valid_pct=.2, bs=8, num_workers=0)
    assert len(dls.vocab) == 3

def test_page_stands_alone(ran):
    d = ran[1]
    html = (d/'report'/'report.html').read_text(encoding='utf-8')
    t = pd.read_csv(d/'report'/'issues.csv', index_col=0)
    src = re.findall(r'<img src="([^"]{30})', html)
    assert len(src) == min(t.flagged.sum(), 60)+2 and all(o.startswith('data:image/png;base64,iVBORw0') for o in src)
    text = re.sub(r'base64,[^"]*', '', html)
    assert 'http' not in text and '<script' not in text and '<link' not in text
    class Balanced(HTMLParser):
        stack = []
        def handle_starttag(self, tag, attrs):
            if tag not in ('img', 'meta', '!doctype'): self.stack.append(tag)
        def handle_endtag(self, tag): assert self.stack.pop() == tag
    p = Balanced()
    p.feed(html)
    assert not p.stack and 'broken &lt;b&gt;.png: cannot be read' in html
    for o in (t.name[0], t.suggested[0], 'How to go on', 'What this cannot know', 'planted errors are flagged'):
        assert str(o) in html
    code = page_code(d/'report'/'report.html')
    compile(code, 'page', 'exec')
    assert "fix_labels(dls, " in code and 'from_folder' not in code and 'the 1 left out are not in it' in code

def test_the_code_on_the_page_runs(ran):
    d = ran[1]
    names = page_code(d/'report'/'report.html')
    with pytest.warns(RobustWarning, match='not in the training set'): exec(names, got := {})
    assert list(got['dls'].vocab) == ['Bag', 'Sandal', 'Trouser'] and len(got['df']) == 150    # nothing broken
    t = pd.read_csv(d/'report'/'issues.csv')
    assert len(got['dls'].train_ds)+len(got['dls'].valid_ds) == 150 and t.flagged.sum() > 9
    got['dls'].valid.one_batch()

def test_the_csv_goes_back_into_fix_labels(ran):
    _,d,bad = ran
    dls = ImageDataLoaders.from_folder(d, valid_pct=.2, seed=1, bs=8, num_workers=0)
    t = pd.read_csv(d/'report'/'issues.csv', index_col=0)
    with pytest.warns(RobustWarning, match='not in the training set'): new = fix_labels(dls, d/'report'/'issues.csv')
    assert len(dls.train_ds)-len(new.train_ds) == t.name[t.flagged].isin(
        [o.relative_to(d).as_posix() for o in dls.train_ds.items]).sum() > 5

@pytest.fixture
def stopped(tmp_path, monkeypatch):
    "An audit stopped after its folds, and the call that goes on"
    images(tmp_path/'i', 36, 3)
    def go(stop=False, **kw):
        with monkeypatch.context() as m:
            def end(*_a, **_k): raise KeyboardInterrupt
            if stop: m.setattr(auditing, 'audit_page', end)
            try: return audit(tmp_path/'i', tmp_path/'o', **{**dict(arch='small', epochs=1, folds=2, bs=8), **kw})
            except KeyboardInterrupt: assert stop
    go(stop=True)
    assert len(list((tmp_path/'o'/'folds'/'planted').iterdir())) == 2
    return go

def test_again_takes_the_finished_folds(stopped, capsys, tmp_path):
    capsys.readouterr()
    stopped()
    assert capsys.readouterr().out.count(', from ') == 2
    assert (tmp_path/'o'/'report.html').exists() and not (tmp_path/'o'/'folds').exists()
    stopped()
    assert ', from ' not in capsys.readouterr().out

@pytest.mark.parametrize('kw', [dict(), dict(bs=4), pytest.param(dict(size=16), marks=pytest.mark.slow),
                                pytest.param(dict(arch='squeezenet1_1'), marks=pytest.mark.slow)], ids=str)
def test_folds_of_other_settings_are_deleted(stopped, capsys, tmp_path, kw):
    (tmp_path/'o'/'folds'/'mine.txt').write_text('')
    if not kw:      # a label was mended
        f = next((tmp_path/'i'/'Bag').iterdir())
        f.rename(tmp_path/'i'/'Sandal'/f.name)
    if 'arch' in kw:
        import torchvision.models as tm
        torch.save(tm.squeezenet1_1(weights=None).state_dict(), tmp_path/'w.pth')
        kw = dict(kw, weights=tmp_path/'w.pth', size=32)
    capsys.readouterr()
    stopped(**kw)
    out = capsys.readouterr().out
    assert 'folds of other labels or settings in' in out and ', from ' not in out
    assert [o.name for o in (tmp_path/'o'/'folds').iterdir()] == ['mine.txt']

@pytest.mark.slow
def test_folds_of_other_weights_are_deleted(stopped, capsys, tmp_path):
    import torchvision.models as tm
    def weights(): torch.save(tm.squeezenet1_1(weights=None).state_dict(), tmp_path/'w.pth')
    kw = dict(arch='squeezenet1_1', weights=tmp_path/'w.pth', size=32)
    weights()
    stopped(stop=True, **kw)
    weights()
    stopped(**kw)
    out = capsys.readouterr().out
    assert out.count('folds of other labels or settings in') == 2 and ', from ' not in out

# --- what it reads ---------------------------------------------------------------------------------------------------
def test_train_and_valid_inside(tmp_path):
    bad = images(tmp_path, split=True)
    l = read_source(tmp_path)
    assert len(l.paths) == 60 and set(l.labels) == {'Trouser', 'Sandal', 'Bag'} and set(bad) <= set(l.paths)
    assert l.split == ('train', 'valid') and l.grey and l.side == 28 and not l.skipped

def test_the_code_of_a_split_keeps_it(stopped, tmp_path):
    images(tmp_path/'s', 36, 3, split=True)
    (tmp_path/'i').rename(tmp_path/'s'/'test')
    (tmp_path/'s').rename(tmp_path/'i')
    stopped()
    few_suspects(tmp_path/'o')
    exec(page_code(tmp_path/'o'/'report.html'), got := {})
    at = lambda ds: {str(o).split('/')[0] for o in ds.items.path}
    assert at(got['dls'].train_ds) == {'train'} and at(got['dls'].valid_ds) == {'valid'}

def test_out_anywhere_is_no_part_of_the_images(tmp_path):
    images(tmp_path/'i')
    own = tmp_path/'i'/'Bag'/'report'
    own.mkdir()
    Image.new('L', (8, 8)).save(own/'rate.png')
    assert len(read_source(tmp_path/'i', own).paths) == 60 and len(read_source(tmp_path/'i', tmp_path).paths) == 61

@pytest.mark.parametrize('cols,sep', [(('path', 'label'), ','), (('Image ', 'CLASS'), ';'), (('fname', 'y'), '\t')])
def test_tables(tmp_path, cols, sep):
    images(tmp_path/'a, b')
    fs = sorted((tmp_path/'a, b').rglob('*.png'))
    rows = [(f.relative_to(tmp_path).as_posix(), f.parent.name) for f in fs]
    rows += [rows[0], (rows[1][0], 'NA'), ('gone.png', 'Bag'), ('', 'Bag'), (rows[2][0]+'x', '')]
    pd.DataFrame(rows, columns=list(cols)).assign(more=1).to_csv(tmp_path/'t.csv', index=False, sep=sep)
    l = read_source(tmp_path/'t.csv')
    assert len(l.paths) == 60 and l.labels == [o[1] for o in rows[:60]]
    assert [o for _,o in l.skipped] == [
        'listed twice', 'listed twice, also as NA', 'no path', 'no label', 'no such file']
    assert l.split is None

@pytest.mark.parametrize('make,what', [
    (lambda d: None, 'a sub-folder of images per class'),
    (lambda d: Image.new('L', (8, 8)).save(d/'a.png'), '1 images of its own'),
    (lambda d: ((d/'a').mkdir(), Image.new('L', (8, 8)).save(d/'a'/'a.png')), "two classes or more, got 'a' alone"),
    (lambda d: ((d/'a').mkdir(), (d/'a'/'a.png').write_text('x')), 'got none of 1')])
def test_folders_it_cannot_read(tmp_path, make, what, capsys):
    (tmp_path/'x').mkdir()
    make(tmp_path/'x')
    with pytest.raises(ValueError, match=what): read_source(tmp_path/'x')
    with warnings.catch_warnings(): assert main(['audit', str(tmp_path/'x'), '--out', str(tmp_path/'o')]) == 1
    err = capsys.readouterr().err
    assert err.startswith('fastrobust: expected') and 'Traceback' not in err and not list((tmp_path/'o').iterdir())

@pytest.mark.parametrize('text,what', [
    ('a,b\n1,2\n', 'a column for the image files'), ('path,b\n1,2\n', 'for the labels'),
    ('path,label\n', 'got none of 0'), ('', 'with a line of column names')])
def test_tables_it_cannot_read(tmp_path, text, what):
    (tmp_path/'t.csv').write_text(text)
    with pytest.raises(ValueError, match=what): read_source(tmp_path/'t.csv')
    with pytest.raises(FileNotFoundError, match='does not exist'): read_source(tmp_path/'none')

# --- the network -----------------------------------------------------------------------------------------------------
def test_without_weights_the_small_network_takes_over(monkeypatch):
    def fail(_net): raise OSError('offline')
    monkeypatch.setattr(network, '_pretrained', fail)
    with pytest.warns(RobustWarning, match='resnet18 could not be had.*--weights'):
        make,what,small = learner_maker(None, None)
    assert small and 'would see more' in what and 'Conv2d' in repr(make(tiny_dls()).model)
    with pytest.raises(OSError, match='--arch small'): learner_maker('resnet34', None)

def test_pretrained_is_frozen(monkeypatch, tmp_path):
    monkeypatch.setattr(network, '_pretrained', lambda net: None)
    import torchvision.models as tm
    net = tm.squeezenet1_1(weights=None)
    torch.save(net.state_dict(), tmp_path/'w.pth')
    make,what,small = learner_maker('squeezenet1_1', tmp_path/'w.pth')
    learn = make(tiny_dls(channels=3, size=32))
    assert not small and 'w.pth' in what and learn.opt.frozen_idx > 0
    assert torch.equal(learn.model[0][0][0].weight, net.features[0].weight)
    with pytest.raises(ValueError, match='weights of resnet18.*--arch'): learner_maker('resnet18', tmp_path/'w.pth')
    (tmp_path/'x.pth').write_text('x')
    with pytest.raises(ValueError, match='saved by torch.save'): learner_maker('resnet18', tmp_path/'x.pth')
    torch.save([1], tmp_path/'l.pth')
    with pytest.raises(ValueError, match='name -> tensor'): learner_maker('resnet18', tmp_path/'l.pth')
    with pytest.raises(FileNotFoundError, match='does not exist'): learner_maker('resnet18', tmp_path/'none')
    with pytest.raises(ValueError, match='resnet18.*For example'): learner_maker('resnet1', None)

def test_a_pretrained_body_from_a_table(tmp_path):
    import torchvision.models as tm
    images(tmp_path/'i', 36, 3)
    fs = sorted((tmp_path/'i').rglob('*.png'))
    rows = [(f.relative_to(tmp_path).as_posix(), f.parent.name) for f in fs]
    pd.DataFrame(rows, columns=['path', 'label']).to_csv(tmp_path/'t.csv', index=False)
    torch.save(tm.squeezenet1_1(weights=None).state_dict(), tmp_path/'w.pth')
    rep = audit(tmp_path/'t.csv', tmp_path/'o', arch='squeezenet1_1', weights=tmp_path/'w.pth', size=32, epochs=1,
                folds=2)
    assert sorted(rep.table.name) == [o[0] for o in rows] and 0 <= rep.lo <= rep.rate <= rep.hi <= 1
    html = (tmp_path/'o'/'report.html').read_text(encoding='utf-8')
    assert 'squeezenet1_1 with the weights of w.pth' in html

@pytest.mark.parametrize('arch', [pytest.param('squeezenet1_1', marks=pytest.mark.slow), 'small'])
def test_paths_as_people_write_them(arch, tmp_path, monkeypatch):
    import torchvision.models as tm
    images(tmp_path/'i', 36, 3)
    (tmp_path/'t').mkdir()
    fs = sorted((tmp_path/'i').rglob('*.png'))
    ways = [str, lambda f: f'../i/./{f.parent.name}/{f.name}', lambda f: f'./../i/{f.parent.name}/{f.name}']
    rows = [(ways[i % 3](f), f.parent.name) for i,f in enumerate(fs)]
    pd.DataFrame(rows+[(str(fs[1]), 'Bag')], columns=['path', 'label']).to_csv(tmp_path/'t'/'t.csv', index=False)
    w = None
    if arch != 'small':
        w = tmp_path/'w.pth'
        torch.save(tm.squeezenet1_1(weights=None).state_dict(), w)
    monkeypatch.chdir(tmp_path/'t')
    rep = audit('t.csv', 'o', arch=arch, weights=w, size=32, epochs=1, folds=2)
    assert sorted(rep.table.name) == sorted(o[0] for o in rows)
    few_suspects(Path('o'))
    code = page_code(Path('o/report.html'))
    with pytest.warns(RobustWarning, match='not in the training set'): exec(code.split('# or the')[0], got := {})
    left = {str(o.resolve()) for o in [*got['dls'].train_ds.items, *got['dls'].valid_ds.items]}
    bad = {str((tmp_path/'t'/o).resolve()) for o in rep.table.name[:6]}
    assert len(left) == 36-len(got['dls'].fixes) and len(bad-left) == len(got['dls'].fixes) > 0
    exec(code, got := {})
    assert len(got['dls'].train_ds)+len(got['dls'].valid_ds) == 36 and got['dls'].valid.one_batch()

def test_timm_weights(tmp_path):
    timm = pytest.importorskip('timm')
    net = timm.create_model('resnet10t', pretrained=False, num_classes=7)
    torch.save(net.state_dict(), tmp_path/'w.pth')
    learn = learner_maker('resnet10t', tmp_path/'w.pth')[0](tiny_dls(channels=3, size=32))
    assert torch.equal(learn.model[0].model.conv1[0].weight, net.conv1[0].weight)

def test_loaders_of_files(tmp_path):
    images(tmp_path)
    l = read_source(tmp_path)
    names = sorted(set(l.labels))
    for small in (False, True):
        dls = auditing._loaders(l, names, small, 32, 8)
        assert [names[k] for k in given_labels(dls)] == l.labels
        x = dls.train.one_batch()[0]
        assert tuple(x.shape) == (8, 1 if small else 3, 32, 32)

def test_defaults_by_size():
    f = auditing._settings
    assert f(60, True, 28, None, None, None) == (28, 20, 8) and f(4000, True, 500, None, None, None) == (64, 8, 64)
    assert f(4000, False, 500, None, None, None) == (128, 4, 64) and f(60, True, 28, 40, 3, 16) == (40, 3, 16)

# --- nothing half-written --------------------------------------------------------------------------------------------
@pytest.mark.parametrize('e,rc,say', [
    (KeyboardInterrupt(), 130, 'nothing was written'), (OSError(28, 'disk full'), 1, 'disk full'),
    (ValueError('too few'), 1, 'too few')])
def test_what_stops_it(tmp_path, monkeypatch, capsys, e, rc, say):
    images(tmp_path/'i')
    def stop(*_a, **_k): raise e
    t = pd.DataFrame(dict(item=range(60), given='Bag', suggested='Bag', flagged=False, confidence=.5))
    fake = types.SimpleNamespace(table=t, draw=None, T=np.eye(3), vocab=KINDS)
    for where in ('noise_report', 'audit_page'):
        monkeypatch.setattr(auditing, 'noise_report', lambda *a, **k: fake)
        monkeypatch.setattr(auditing, where, stop)
        with warnings.catch_warnings():
            assert main(['audit', str(tmp_path/'i'), '--arch', 'small', '--out', str(tmp_path/'o')]) == rc
        err = capsys.readouterr().err
        assert say in err and 'Traceback' not in err and not list((tmp_path/'o').iterdir())

@pytest.mark.parametrize('args,match', [([], 'DIR|CSV'), (['x', '--folds', '1'], 'a whole number from 2 on'),
    (['x', '--plant', '5'], 'a share'), (['x', '--fast'], 'unrecognized'),
    (['x', '--size', 'big'], "got 'big'")])
def test_bad_arguments(args, match, capsys, tmp_path):
    with pytest.raises(SystemExit) as e: main(['audit', *args, '--out', str(tmp_path/'o')])
    assert e.value.code == 2 and match in capsys.readouterr().err and not (tmp_path/'o').exists()

def test_arguments_that_do_not_go_together(tmp_path):
    images(tmp_path)
    with pytest.raises(ValueError, match='--arch small'): audit(tmp_path, tmp_path/'o', arch='small', weights='w.pth')

def test_help_and_a_folder_one_cannot_write_to(capsys, tmp_path):
    with pytest.raises(SystemExit) as e: main(['audit', '--help'])
    out = capsys.readouterr().out
    assert e.value.code == 0
    for o in '--out --arch --weights --size --epochs --folds --plant --seed --bs issues.csv'.split(): assert o in out
    assert main(['audit', str(tmp_path), '--out', '/proc/fastrobust']) == 1
    assert 'cannot write to' in capsys.readouterr().err

def test_a_stopped_audit_says_where_its_folds_are(tmp_path, monkeypatch, capsys):
    images(tmp_path/'i')
    def stop(*_a, **_k):
        (tmp_path/'o'/'folds').mkdir(parents=True); (tmp_path/'o'/'folds'/'fold_0.npz').write_bytes(b'')
        raise KeyboardInterrupt
    monkeypatch.setattr(auditing, 'noise_report', stop)
    assert main(['audit', str(tmp_path/'i'), '--arch', 'small', '--out', str(tmp_path/'o')]) == 130
    assert 'goes on from there' in capsys.readouterr().err
