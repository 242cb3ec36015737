"python -m fastrobust audit: what it reads, what it writes, what it says when it cannot"
import io, os, re, signal, subprocess, sys, time, types, warnings
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
import numpy as np
import pandas as pd
import pytest
import torch
import torchvision.models as tm
from PIL import Image, ImageDraw
from fastai.data.transforms import Normalize
from fastai.vision.data import ImageDataLoaders
from conftest import tiny_dls
from fastrobust.audit import command as auditing, network, progress
from fastrobust.audit.judges import FrozenJudge, sizes, train_settings
from fastrobust.audit.loading import Loading, loaders
from fastrobust.audit.network import learner_maker
from fastrobust.__main__ import main
from fastrobust.audit.files import read_source
from fastrobust.audit.command import audit
from fastrobust.basics import RobustWarning
from fastrobust.data.editing import given_labels
from fastrobust.inference.keptrows import KeptRows
from fastrobust.labels.fixing import fix_labels
from fastrobust.labels.report import noise_report
from fastrobust.samples import sample_data

ROOT = Path(__file__).parent.parent
KINDS = [1, 5, 8]       # Trouser, Sandal, Bag: nobody confuses them
SHAPES = dict(disc=(220, 60, 50), square=(60, 160, 80), bar=(50, 90, 210), cross=(230, 190, 40))

# --- images ----------------------------------------------------------------------------------------------------------
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

def shape(kind, rng, px=32):
    "A coloured shape somewhere on noise"
    im = Image.fromarray(rng.integers(90, 166, (px, px, 3)).astype('uint8'))
    d = ImageDraw.Draw(im)
    (x,y),r,c = rng.integers(10, px-10, 2).tolist(),int(rng.integers(5, 9)),SHAPES[kind]
    if kind == 'disc': d.ellipse((x-r, y-r, x+r, y+r), fill=c)
    elif kind == 'square': d.rectangle((x-r, y-r, x+r, y+r), fill=c)
    elif kind == 'bar': d.rectangle((x-r, y-2, x+r, y+2), fill=c)
    else: d.line((x-r, y-r, x+r, y+r), fill=c, width=3); d.line((x-r, y+r, x+r, y-r), fill=c, width=3)
    return im

def shapes(d, n, wrong):
    "Class folders of drawn shapes, the first `wrong` in the wrong one; returns the names of these"
    rng,kinds,bad = np.random.default_rng(0),list(SHAPES),[]
    for i in range(n):
        true = kinds[i % 4]
        k = kinds[(i+1+i//4 % 3) % 4] if i < wrong else true
        (d/k).mkdir(parents=True, exist_ok=True)
        shape(true, rng).save(d/k/f'{i:04d}.png')
        if i < wrong: bad.append(f'{k}/{i:04d}.png')
    return bad

def noise(d, counts, seed=0):
    "Class folders of images without anything in them"
    rng = np.random.default_rng(seed)
    for k,n in counts.items():
        (d/k).mkdir(parents=True, exist_ok=True)
        for i in range(n): Image.fromarray(rng.integers(0, 256, (32, 32, 3)).astype('uint8')).save(d/k/f'{i:03d}.png')

@pytest.fixture(scope='session')
def random_weights(tmp_path_factory):
    "A state dict of mobilenet_v2 that has learned nothing"
    f = tmp_path_factory.mktemp('weights')/'random.pth'
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(tm.mobilenet_v2(weights=None).state_dict(), f)
    return f

# --- what it wrote ---------------------------------------------------------------------------------------------------
def page_code(f):
    "The lines a report gives to paste"
    return unescape(re.search(r'<pre><code>(.*?)</code>', f.read_text(encoding='utf-8'), re.S)[1])

def page_text(f):
    "What a reader of the page reads, from the top"
    html = re.sub(r'<style>.*?</style>|<img[^>]*>', '', f.read_text(encoding='utf-8'), flags=re.S)
    return ' '.join(unescape(re.sub('<[^>]*>', ' ', html)).split())

def top(f):
    "The page down to its images"
    return page_text(f).split('The worst first')[0].split('To look at')[0].split('No suspects:')[0]

def cards_of(f):
    "The images on the page and what stands below them"
    html = f.read_text(encoding='utf-8')
    return re.findall(r'<div class="card">.*?</div><i>|<div class="card">.*?</b><i>', html, re.S)

def issues(out): return pd.read_csv(out/'issues.csv', index_col=0)

def ran_code(f):
    "Names after the printed code ran as it is"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        exec(page_code(f), got := {})
    return got

def edit(out, **columns):
    "Change columns of issues.csv as a reviewer does, by functions of the table"
    t = pd.read_csv(out/'issues.csv', index_col=0, keep_default_na=False, dtype=str)
    t.assign(**{k: f(t) for k,f in columns.items()}).to_csv(out/'issues.csv')

def of_training(dls): return dict(zip([Path(o).name for o in dls.train_ds.items],
                                      [dls.vocab[k] for k in given_labels(dls)]))

# --- a run from the outside ------------------------------------------------------------------------------------------
@pytest.fixture(scope='module')
def ran(tmp_path_factory):
    "The command, from the outside, on a folder with errors, a broken image and its own output inside"
    d = tmp_path_factory.mktemp('audit')
    bad = images(d/'my images', 600, 90)
    (d/'my images'/'Bag'/'broken <b>.png').write_text('no image')
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'PYTHONIOENCODING': 'ascii'}
    r = subprocess.run([sys.executable, '-m', 'fastrobust', 'audit', '.', '--arch', 'plain', '--out', 'report'],
                       capture_output=True, text=True, cwd=d/'my images', env=env, timeout=280)
    return r,d/'my images',bad

def test_finds_the_errors_and_says_so(ran):
    r,d,bad = ran
    assert r.returncode == 0 and not r.stderr, r.stderr
    assert '600 images, 3 classes; 1 left out' in r.stdout and '28 pixels' in r.stdout
    assert re.search(r'About \d+% of the 600 labels are wrong', r.stdout) and 'report.html' in r.stdout
    assert 'Warning' not in r.stdout and max(map(len, r.stdout.splitlines())) <= 122
    assert '\r' not in r.stdout and len(r.stdout.splitlines()) < 45         # no bar in a log
    t = issues(d/'report')
    assert list(t.columns[:4]) == ['item', 'name', 'given', 'suggested'] and 'decision' in t and len(t) == 600
    assert len(set(t.name[:90]) & set(bad)) >= 70 and not t.decision.notna().any()

def test_files(ran):
    d = ran[1]
    assert {o.name for o in (d/'report').iterdir()} == {
        'report.html', 'issues.csv', 'fixed.csv', 'rate.png', 'matrix.png'}
    for out in ('report', 'another'):       # its own pictures are no class, and those of an earlier audit neither
        assert set(read_source(d, d/out).labels) == {'Trouser', 'Sandal', 'Bag'}
    f,t = pd.read_csv(d/'report'/'fixed.csv'),issues(d/'report')
    assert list(f.columns) == ['path', 'label', 'action', 'given', 'wrong']
    assert [Path(p).parent.name for p in f.path] == list(f.given) and all((d/p).is_file() for p in f.path)
    assert ((f.action == 'relabel') == (f.label != f.given)).all()
    assert (f.action == 'relabel').sum() == t.flagged.sum() > 30
    dls = ImageDataLoaders.from_df(f, d, fn_col='path', label_col='label', valid_pct=.2, bs=8, num_workers=0)
    assert len(dls.vocab) == 3

def test_page_stands_alone(ran):
    d = ran[1]
    html = (d/'report'/'report.html').read_text(encoding='utf-8')
    t = issues(d/'report')
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
    for o in (t.name[0], t.suggested[0], 'How to go on', 'What this cannot know', 'without a pretrained network'):
        assert str(o) in html
    assert 'class="banner"' not in html and 'the 1 left out are not in it' in page_code(d/'report'/'report.html')

def test_the_page_and_the_terminal_say_the_same(ran):
    r,d,_ = ran
    said = ' '.join(r.stdout.split())
    above = top(d/'report'/'report.html')
    for o in re.findall(r'<li>(.*?)</li>', (d/'report'/'report.html').read_text().split('The worst first')[0]):
        assert unescape(o) in said and unescape(o) in above
    assert 'About' in above and 'gradients and colours' in above.split('Judge: ')[1]
    for o in ('Planted errors are easier to see', '--weights', 'wrong labels are flagged'):
        assert o in above and o in said

def test_the_csv_goes_back_into_fix_labels(ran):
    _,d,bad = ran
    dls = ImageDataLoaders.from_folder(d, valid_pct=.2, seed=1, bs=8, num_workers=0)
    t = issues(d/'report')
    with pytest.warns(RobustWarning, match='not in the training set'): new = fix_labels(dls, d/'report'/'issues.csv')
    assert len(dls.train_ds)-len(new.train_ds) == t.name[t.flagged].isin(
        [o.relative_to(d).as_posix() for o in dls.train_ds.items]).sum() > 15

# --- numbers only where they hold ------------------------------------------------------------------------------------
@pytest.fixture(scope='module')
def strong(tmp_path_factory):
    "A report that holds: drawn shapes, 15 % of them in a wrong folder; and two classes that are none of their own"
    d = tmp_path_factory.mktemp('strong')
    bad = shapes(d/'i', 1000, 150)
    (d/'i'/'odd').mkdir()
    rng = np.random.default_rng(1)
    for i in range(4): shape('disc', rng).save(d/'i'/'odd'/f'odd{i}.png')
    (d/'i'/'lone').mkdir()
    shape('bar', rng).save(d/'i'/'lone'/'lone.png')
    with pytest.warns(RobustWarning, match='a single image: lone'): rep = audit(d/'i', d/'o', arch='plain')
    return rep,d,bad

def test_a_report_that_holds(strong):
    rep,d,bad = strong
    assert rep.trusted and rep.lo > .005 and .05 < rep.rate < .25
    above = top(d/'o'/'report.html')
    assert re.search(r'About [\d.]+% of the 1,000 labels that can be judged are wrong', above)
    assert 'Not judged: lone: 1 image odd: 4 images' in above and 'of them are wrong' in above
    assert 'Not judged: lone, odd (5 items)' in above
    cards = cards_of(d/'o'/'report.html')
    assert len(cards) == 60 and all(re.search(r'<s>\w+</s></div><b>\w+</b>', o) for o in cards)
    assert all(bool(re.search(r'</b><div>\d+% wrong', o)) == rep.table.wrong.notna().any() for o in cards)
    assert not (d/'o'/'features').exists()

def test_suggestions_for_judged_classes_alone(strong):
    rep,d,bad = strong
    f = pd.read_csv(d/'o'/'fixed.csv')
    odd = f[f.given == 'odd']
    assert len(odd) == 4 and (odd.label == 'odd').all() and odd.wrong.isna().all()
    swapped = f[f.action == 'relabel']
    assert len(set(swapped.path) & set(bad)) >= .9*len(swapped) and len(swapped) == rep.issues.sum() > 60
    assert not issues(d/'o').set_index('given').judged['odd'].any()
    table = page_text(d/'o'/'report.html').split('Where the suspects are')[1]
    assert 'odd 4 not judged' in table

@pytest.fixture(scope='module')
def sure(tmp_path_factory):
    "A report with chances beside its labels, which are put there: few images have none"
    d = tmp_path_factory.mktemp('sure')
    shapes(d/'i', 240, 40)
    def report(_self, dls, _plant, _seed):
        p = np.random.default_rng(0).uniform(.005, .015, (240, 4))
        names = list(dls.vocab)
        for i,f in enumerate(read_source(d/'i').paths):
            p[i, names.index(list(SHAPES)[int(Path(f).stem) % 4])] = .97
        rep = noise_report(dls=dls, probs=p/p.sum(1, keepdims=True))
        rep.table['wrong'] = .93*rep.table.suspicion
        return rep
    with pytest.MonkeyPatch.context() as m:
        m.setattr(FrozenJudge, 'report', report)
        m.setattr(FrozenJudge, 'clean', lambda _self: None)
        rep = audit(d/'i', d/'o', arch='plain')
    return rep,d

def test_chances_where_they_can_be_told(sure, capsys):
    rep,d = sure
    assert rep.trusted and rep.table.wrong.notna().all() and rep.issues.sum() > 15
    cards = cards_of(d/'o'/'report.html')
    what = r'<s>\w+</s></div><b>\w+</b><div>(> )?\d+% wrong'
    assert len(cards) == rep.issues.sum() and all(re.search(what, unescape(o)) for o in cards)
    assert 'the chance that the given label is wrong' in page_text(d/'o'/'report.html')
    assert pd.read_csv(d/'o'/'issues.csv').wrong.notna().all()
    auditing._tell(rep, [], d/'o', ['issues.csv'])
    out = capsys.readouterr().out
    assert len(re.findall(r'looks like \w+ \((> )?\d+% wrong\)', out)) == 8 and 'fixed.csv' not in out

@pytest.fixture(scope='module')
def weak(tmp_path_factory, random_weights):
    "A report that cannot be trusted: nothing to see, by a network that has learned nothing"
    d = tmp_path_factory.mktemp('weak')
    noise(d/'i', dict(a=14, b=12, c=10, d=8))
    (d/'o').mkdir()
    for o in ('fixed.csv', 'rate.png', 'matrix.png', 'mine.txt'): (d/'o'/o).write_text('of an earlier run')
    old = sys.stdout
    sys.stdout = log = io.StringIO()
    try: rep = audit(d/'i', d/'o', arch='mobilenet_v2', weights=random_weights)
    finally: sys.stdout = old
    return rep,d,log.getvalue()

def test_a_report_that_does_not_hold(weak):
    rep,d,said = weak
    assert not rep.trusted and np.isnan(rep.rate)
    html = (d/'o'/'report.html').read_text()
    above,banner = top(d/'o'/'report.html'),re.search('<div class="banner".*?</div>', html, re.S)[0]
    assert 'cannot be told' in banner and 'too weak' in banner and '--weights' in banner
    numbers = re.findall(r'[\d.]+ ?%', above.replace(page_of(rep.why), ''))
    assert not numbers and 'class="tile"' not in html, numbers
    assert 'To look at' in html and '<s>' not in html and 'suspects;' not in html and '% wrong' not in html
    assert html.count('class="card"') == 44 and 'mobilenet_v2, frozen' in above
    assert page_of(rep.why) in ' '.join(said.split()) and 'suspect' not in said and '% wrong' not in said

def page_of(why): return why[0].upper()+why[1:]

def test_nothing_to_copy_from_a_report_that_does_not_hold(weak):
    rep,d,said = weak
    assert {o.name for o in (d/'o').iterdir()} == {'report.html', 'issues.csv', 'mine.txt'}
    assert 'fixed.csv' not in said and 'fixed.csv' not in (d/'o'/'report.html').read_text()
    assert len(issues(d/'o')) == 44 and 'decision' in issues(d/'o')

def test_force_writes_it_and_warns(weak, random_weights, capsys):
    rep,d,_ = weak
    again = audit(d/'i', d/'forced', arch='mobilenet_v2', weights=random_weights, force=True)
    out = ' '.join(capsys.readouterr().out.split())
    assert not again.trusted and '--force' in out and 'fixed.csv' in out
    assert '--force' in top(d/'forced'/'report.html') and again.table.equals(rep.table)
    f = pd.read_csv(d/'forced'/'fixed.csv')
    judged = again.judged[[again.vocab.index(k) for k in f.given]]
    assert (f.label == f.given)[~judged].all() and len(f) == 44

def test_no_errors_are_no_errors(tmp_path, capsys):
    images(tmp_path/'i', 150, 0)
    rep = audit(tmp_path/'i', tmp_path/'o', arch='plain')
    out = capsys.readouterr().out
    assert rep.trusted and rep.lo == 0
    for said in (out, top(tmp_path/'o'/'report.html')):
        assert 'Nothing shows that any of the 150 labels is wrong: at most about' in said
        assert 'that is' not in said and 'About 0' not in said
    assert not (tmp_path/'o'/'matrix.png').exists()

# --- the printed code ------------------------------------------------------------------------------------------------
def test_the_code_changes_nothing_that_nobody_looked_at(strong, sure, weak):
    for d in (strong[1], sure[1], weak[1]):
        got = ran_code(d/'o'/'report.html')
        dls,t = got['dls'],issues(d/'o')
        assert len(dls.train_ds)+len(dls.valid_ds) == len(t) and of_training(got['dls_reviewed']) == of_training(dls)
        assert set(of_training(dls).values()) <= set(t.given) and dls.train.one_batch() and dls.valid.one_batch()
    code = page_code(d/'o'/'report.html')
    for o in ("how=", 'suggested', 'fixed'): assert o not in code

def test_the_code_draws_suspects_less_often(sure):
    got = ran_code(sure[1]/'o'/'report.html')
    new = got['dls_weighted']
    assert of_training(new) == of_training(got['dls'])
    w = dict(zip([Path(o).name for o in new.train_ds.items], new.train.wgts))
    t = issues(sure[1]/'o')
    flagged = {Path(o).name for o in t.name[t.flagged]}
    assert max(w[k] for k in w if k in flagged) < .6*min(w[k] for k in w if k not in flagged)

def test_the_code_where_all_of_a_class_are_suspects(sure):
    d = sure[1]
    keep = (d/'o'/'issues.csv').read_bytes()
    try:
        all_of = lambda t: t.given == 'cross'
        edit(d/'o', flagged=lambda t: (t.flagged == 'True') | all_of(t),
             wrong=lambda t: t.wrong.where(~all_of(t), '0.97'))
        got = ran_code(d/'o'/'report.html')
        assert 'cross' in of_training(got['dls_weighted']).values()
        assert of_training(got['dls_reviewed']) == of_training(got['dls'])
        edit(d/'o', decision=lambda t: ['drop' if i == 0 else 'disc' if i == 1 else 'keep' if i == 2 else ''
                                        for i in range(len(t))])
        got = ran_code(d/'o'/'report.html')
        before,after = of_training(got['dls']),of_training(got['dls_reviewed'])
        first = [Path(o).name for o in issues(d/'o').name[:3]]
        expected = {k: 'disc' if k == first[1] else v for k,v in before.items() if k != first[0]}
        assert after == expected
    finally: (d/'o'/'issues.csv').write_bytes(keep)

def table_of(d, f):
    rows = [(p.relative_to(f.parent).as_posix(), p.parent.name) for p in sorted(d.rglob('*.png'))]
    pd.DataFrame(rows, columns=['path', 'label']).to_csv(f, index=False)
    return rows

def test_the_code_of_a_table_with_single_images(tmp_path):
    noise(tmp_path/'i', dict(a=5, b=4, None_=1, NA=1))
    table_of(tmp_path/'i', tmp_path/'t.csv')
    with pytest.warns(RobustWarning, match='a single image: NA, None_'):
        audit(tmp_path/'t.csv', tmp_path/'o', arch='plain')
    got = ran_code(tmp_path/'o'/'report.html')
    assert list(got['dls'].vocab) == ['NA', 'None_', 'a', 'b'] and len(got['df']) == 11
    assert got['dls'].train.one_batch() and 'is_valid' not in page_code(tmp_path/'o'/'report.html')

def test_the_code_of_a_split_keeps_it(tmp_path):
    images(tmp_path/'i', 60, 3, split=True)
    images(tmp_path/'s', 36, 3)
    (tmp_path/'s').rename(tmp_path/'i'/'test')
    audit(tmp_path/'i', tmp_path/'o', arch='plain')
    got = ran_code(tmp_path/'o'/'report.html')
    at = lambda ds: {o.relative_to(tmp_path/'i').parts[0] for o in ds.items}
    assert at(got['dls'].train_ds) == at(got['dls_reviewed'].train_ds) == {'train'}
    assert at(got['dls'].valid_ds) == {'valid'}
    assert got['dls'].train.one_batch()

def test_a_class_called_drop(tmp_path):
    noise(tmp_path/'i', dict(drop=6, b=6))
    with pytest.warns(RobustWarning, match="called 'drop'"): audit(tmp_path/'i', tmp_path/'o', arch='plain')
    got = ran_code(tmp_path/'o'/'report.html')
    assert 'dls_reviewed' not in got and list(got['dls'].vocab) == ['b', 'drop']

def test_paths_as_people_write_them(tmp_path, monkeypatch):
    images(tmp_path/'i', 36, 3)
    (tmp_path/'t').mkdir()
    fs = sorted((tmp_path/'i').rglob('*.png'))
    ways = [str, lambda f: f'../i/./{f.parent.name}/{f.name}', lambda f: f'./../i/{f.parent.name}/{f.name}']
    rows = [(ways[i % 3](f), f.parent.name) for i,f in enumerate(fs)]
    pd.DataFrame(rows+[(str(fs[1]), 'Bag')], columns=['path', 'label']).to_csv(tmp_path/'t'/'t.csv', index=False)
    monkeypatch.chdir(tmp_path/'t')
    rep = audit('t.csv', 'o', arch='plain', size=32)
    assert sorted(rep.table.name) == sorted(o[0] for o in rows)
    edit(Path('o'), decision=lambda t: ['drop' if i < 6 else '' for i in range(len(t))])
    got = ran_code(Path('o/report.html'))
    left = {str(o.resolve()) for o in [*got['dls_reviewed'].train_ds.items, *got['dls'].valid_ds.items]}
    bad = {str((tmp_path/'t'/o).resolve()) for o in rep.table.name[:6]}
    fixes = got['dls_reviewed'].fixes
    assert len(left) == 36-len(fixes) and len(bad-left) == len(fixes) > 0 and got['dls'].valid.one_batch()

# --- features, kept meanwhile ----------------------------------------------------------------------------------------
def test_a_stopped_audit_goes_on(tmp_path, monkeypatch, capsys):
    images(tmp_path/'i', 60, 6)
    args = ['audit', str(tmp_path/'i'), '--arch', 'plain', '--bs', '16', '--out', str(tmp_path/'o')]
    put,seen = KeptRows.put,[]
    def stops(self, f, y, x):
        if len(seen) == 2: raise KeyboardInterrupt
        seen.append(len(f))
        put(self, f, y, x)
    with monkeypatch.context() as m, warnings.catch_warnings():
        m.setattr(KeptRows, 'put', stops)
        assert main(args) == 130
    err = capsys.readouterr().err
    assert f"Features of 32 of 60 images are in {tmp_path/'o'/'features'}: the same command goes on" in err
    assert [o.name for o in (tmp_path/'o').iterdir()] == ['features']
    with monkeypatch.context() as m, warnings.catch_warnings():
        m.setattr(KeptRows, 'put', lambda self, f, y, x: (seen.append(len(f)), put(self, f, y, x)))
        assert main(args) == 0
    assert seen == [16, 16, 16, 12]
    whole = issues(tmp_path/'o')
    assert 'features' not in {o.name for o in (tmp_path/'o').iterdir()}
    audit(tmp_path/'i', tmp_path/'o2', arch='plain')
    assert whole.equals(issues(tmp_path/'o2'))

def test_stopped_while_the_page_is_written(tmp_path, monkeypatch, capsys):
    images(tmp_path/'i')
    def stop(*_a, **_k): raise KeyboardInterrupt
    monkeypatch.setattr(auditing, 'audit_page', stop)
    with warnings.catch_warnings():
        assert main(['audit', str(tmp_path/'i'), '--arch', 'plain', '--out', str(tmp_path/'o')]) == 130
    assert 'Features of 60 of 60 images' in capsys.readouterr().err
    assert [o.name for o in (tmp_path/'o').iterdir()] == ['features']

@pytest.mark.slow
def test_features_of_other_images_are_not_taken(tmp_path, monkeypatch):
    images(tmp_path/'i')
    images(tmp_path/'i2', 66, 6)
    with monkeypatch.context() as m:
        def stop(*_a, **_k): raise KeyboardInterrupt
        m.setattr(auditing, 'audit_page', stop)
        with pytest.raises(KeyboardInterrupt, match='60 of 60'): audit(tmp_path/'i', tmp_path/'o', arch='plain')
    (tmp_path/'o'/'features'/'mine.txt').write_text('')
    with pytest.warns(RobustWarning, match='holds other files'): audit(tmp_path/'i2', tmp_path/'o', arch='plain')
    audit(tmp_path/'i2', tmp_path/'o2', arch='plain')
    assert issues(tmp_path/'o').equals(issues(tmp_path/'o2'))
    assert [o.name for o in (tmp_path/'o'/'features').iterdir()] == ['mine.txt']

def test_lines_for_a_log(tmp_path, capsys, monkeypatch):
    lines = progress.Lines(tmp_path, 1000, every=.05)
    lines.start()
    for i in range(1, 11):
        (tmp_path/'features.u64').write_bytes(bytes(8*100*i))
        time.sleep(.06)
    lines.halt.set()
    lines.join()
    out = capsys.readouterr().out.splitlines()
    assert 1 < len(out) <= 12 and all(re.fullmatch(r'features: [\d,]+ of 1,000 images, \d+ s left', o) for o in out)
    assert [progress.in_words(s) for s in (.1, 59, 600, 9000)] == ['1 s', '59 s', '10 min', '2.5 h']
    assert progress.images_done(tmp_path/'none') == 0
    with progress.watched(tmp_path, 10) as bar: assert not bar
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True)
    with progress.watched(tmp_path, 10) as bar: assert bar

# --- seeds and plants ------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_seeds_and_draws(tmp_path):
    images(tmp_path/'i', 60, 6)
    run = lambda **kw: audit(tmp_path/'i', tmp_path/'o', arch='plain', **kw)
    a,b,c,d = run(), run(seed=1), run(draws=2, plant=.1), run(plant=0)
    assert a.check.n == 5*3 and b.check.n == 5*3 and c.check.n == 2*6 and d.check is None
    assert a.table.equals(b.table) and a.by_rank == run().by_rank
    assert 'changed 5 times' in page_text(tmp_path/'o'/'report.html')
    assert a.check.distance != b.check.distance

# --- trained in folds ------------------------------------------------------------------------------------------------
@pytest.fixture
def stopped(tmp_path, monkeypatch):
    "An audit with folds, stopped after them, and the call that goes on"
    images(tmp_path/'i', 36, 3)
    def go(stop=False, **kw):
        with monkeypatch.context() as m:
            def end(*_a, **_k): raise KeyboardInterrupt
            if stop: m.setattr(auditing, 'audit_page', end)
            try: return audit(tmp_path/'i', tmp_path/'o', **{**dict(arch='small', epochs=1, folds=2, bs=8), **kw})
            except KeyboardInterrupt as e: assert stop and 'Finished folds are in' in str(e)
    go(stop=True)
    assert len(list((tmp_path/'o'/'folds'/'planted').iterdir())) == 2
    return go

def test_again_takes_the_finished_folds(stopped, capsys, tmp_path):
    capsys.readouterr()
    rep = stopped()
    assert capsys.readouterr().out.count(', from ') == 2 and 'networks trained in 2 folds' in rep.judge
    assert (tmp_path/'o'/'report.html').exists() and not (tmp_path/'o'/'folds').exists()
    assert 'networks trained in 2 folds' in top(tmp_path/'o'/'report.html')
    stopped()
    assert ', from ' not in capsys.readouterr().out

@pytest.mark.slow
@pytest.mark.parametrize('kw', [dict(), dict(bs=4), pytest.param(dict(size=16), marks=pytest.mark.slow),
                                pytest.param(dict(arch='squeezenet1_1'), marks=pytest.mark.slow)], ids=str)
def test_folds_of_other_settings_are_deleted(stopped, capsys, tmp_path, kw):
    (tmp_path/'o'/'folds'/'mine.txt').write_text('')
    if not kw:      # a label was mended
        f = next((tmp_path/'i'/'Bag').iterdir())
        f.rename(tmp_path/'i'/'Sandal'/f.name)
    if 'arch' in kw:
        torch.save(tm.squeezenet1_1(weights=None).state_dict(), tmp_path/'w.pth')
        kw = dict(kw, weights=tmp_path/'w.pth', size=32, train=True)
    capsys.readouterr()
    stopped(**kw)
    out = capsys.readouterr().out
    assert 'folds of other labels or settings in' in out and ', from ' not in out
    assert [o.name for o in (tmp_path/'o'/'folds').iterdir()] == ['mine.txt']

@pytest.mark.slow
def test_folds_of_other_weights_are_deleted(stopped, capsys, tmp_path):
    def weights(): torch.save(tm.squeezenet1_1(weights=None).state_dict(), tmp_path/'w.pth')
    kw = dict(arch='squeezenet1_1', weights=tmp_path/'w.pth', size=32, train=True)
    weights()
    stopped(stop=True, **kw)
    weights()
    stopped(**kw)
    out = capsys.readouterr().out
    assert out.count('folds of other labels or settings in') == 2 and ', from ' not in out

@pytest.mark.slow
def test_a_pretrained_body_fine_tuned_from_a_table(tmp_path):
    images(tmp_path/'i', 36, 3)
    rows = table_of(tmp_path/'i', tmp_path/'t.csv')
    torch.save(tm.squeezenet1_1(weights=None).state_dict(), tmp_path/'w.pth')
    rep = audit(tmp_path/'t.csv', tmp_path/'o', arch='squeezenet1_1', weights=tmp_path/'w.pth', train=True, size=32,
                epochs=1, folds=2)
    assert sorted(rep.table.name) == [o[0] for o in rows]
    assert 'squeezenet1_1 with the weights of w.pth, fine-tuned' in page_text(tmp_path/'o'/'report.html')

# --- what it reads ---------------------------------------------------------------------------------------------------
def test_train_and_valid_inside(tmp_path):
    bad = images(tmp_path, split=True)
    l = read_source(tmp_path)
    assert len(l.paths) == 60 and set(l.labels) == {'Trouser', 'Sandal', 'Bag'} and set(bad) <= set(l.paths)
    assert l.split == ('train', 'valid') and l.grey and l.side == 28 and not l.skipped

def test_out_anywhere_is_no_part_of_the_images(tmp_path):
    images(tmp_path/'i')
    own = tmp_path/'i'/'Bag'/'report'
    own.mkdir()
    Image.new('L', (8, 8)).save(own/'rate.png')
    assert len(read_source(tmp_path/'i', own).paths) == 60 and len(read_source(tmp_path/'i', tmp_path).paths) == 61
    for o in ('report.html', 'issues.csv'): (tmp_path/'i'/o).write_text('')     # of an audit that wrote no fixed.csv
    (tmp_path/'all').mkdir()
    (tmp_path/'i').rename(tmp_path/'all'/'i')
    noise(tmp_path/'all', dict(a=2, b=2))
    assert set(read_source(tmp_path/'all').labels) == {'a', 'b'}

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

def refused(src, out, capsys, what, *args):
    "The command says `what`, and leaves nothing"
    with warnings.catch_warnings(): assert main(['audit', str(src), '--out', str(out), *args]) == 1
    err = capsys.readouterr().err
    assert re.search(what, err) and 'Traceback' not in err and not list(out.iterdir())
    assert err.startswith('fastrobust: '), err

@pytest.mark.parametrize('make,what', [
    (lambda d: None, 'a sub-folder of images per class'),
    (lambda d: Image.new('L', (8, 8)).save(d/'a.png'), '1 images of its own'),
    (lambda d: noise(d, dict(a=1)), "two classes or more, got 'a' alone"),
    (lambda d: noise(d, dict(a=30)), "two classes or more, got 'a' alone"),
    (lambda d: noise(d, dict(a=1, b=1)), 'two images or more of two classes, got 1 of a, 1 of b'),
    (lambda d: noise(d, dict(a=30, b=1)), 'two images or more of two classes, got 30 of a, 1 of b'),
    (lambda d: ((d/'a').mkdir(), (d/'a'/'a.png').write_text('x')), 'got none of 1')])
def test_folders_it_cannot_read(tmp_path, make, what, capsys):
    (tmp_path/'x').mkdir()
    make(tmp_path/'x')
    with pytest.raises(ValueError, match=what): read_source(tmp_path/'x')
    refused(tmp_path/'x', tmp_path/'o', capsys, 'expected .*'+what)

@pytest.mark.parametrize('counts', [dict(a=2, b=2), dict(a=3, b=2, c=1), dict(a=20, b=2, c=1)], ids=str)
@pytest.mark.parametrize('arch', ['plain', 'mobilenet_v2'])
def test_few_images(tmp_path, counts, arch, random_weights):
    noise(tmp_path/'i', counts)
    weights = None if arch == 'plain' else random_weights
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        rep = audit(tmp_path/'i', tmp_path/'o', arch=arch, weights=weights)
    assert len(issues(tmp_path/'o')) == sum(counts.values()) and (rep.lo == 0 or not rep.trusted)
    got = ran_code(tmp_path/'o'/'report.html')
    assert len(got['dls_reviewed'].train_ds)+len(got['dls'].valid_ds) == sum(counts.values())

@pytest.mark.parametrize('text,what', [
    ('a,b\n1,2\n', 'a column for the image files'), ('path,b\n1,2\n', 'for the labels'),
    ('path,label\n', 'got none of 0'), ('', 'with a line of column names')])
def test_tables_it_cannot_read(tmp_path, text, what):
    (tmp_path/'t.csv').write_text(text)
    with pytest.raises(ValueError, match=what): read_source(tmp_path/'t.csv')
    with pytest.raises(FileNotFoundError, match='does not exist'): read_source(tmp_path/'none')

# --- the network -----------------------------------------------------------------------------------------------------
@pytest.fixture
def offline(monkeypatch):
    def fail(_net): raise OSError('offline')
    monkeypatch.setattr(network, '_pretrained', fail)

@pytest.mark.usefixtures('offline')
def test_without_weights_gradients_and_colours_judge(tmp_path, capsys):
    images(tmp_path/'i')
    with warnings.catch_warnings(): assert main(['audit', str(tmp_path/'i'), '--out', str(tmp_path/'o')]) == 0
    out = ' '.join(capsys.readouterr().out.split())
    says = 'weights of resnet18 could not be had (OSError: no network?), so gradients and colours judge'
    assert 'note: the '+says in out and 'The '+says in out and '--weights resnet18.pth' in out
    above = top(tmp_path/'o'/'report.html')
    assert 'The '+says in above and '--weights resnet18.pth' in above and above.count('see less') == 1

@pytest.mark.usefixtures('offline')
def test_a_network_that_was_named_is_not_replaced(tmp_path, capsys):
    images(tmp_path/'i')
    refused(tmp_path/'i', tmp_path/'o', capsys,
            'resnet34 could not be had.*--weights resnet34.pth, or use --arch plain', '--arch', 'resnet34')

@pytest.mark.usefixtures('offline')
def test_without_weights_the_small_network_is_trained():
    with pytest.warns(RobustWarning, match='resnet18 could not be had.*--weights'):
        make,what,small = learner_maker(None, None)
    assert small and 'would see more' in what and 'Conv2d' in repr(make(tiny_dls()).model)
    with pytest.raises(OSError, match='--arch small'): learner_maker('resnet34', None)

@pytest.mark.parametrize('args,what', [
    (['--weights', 'x.pth'], 'saved by torch.save'), (['--weights', 'l.pth'], 'name -> tensor'),
    (['--weights', 'none.pth'], 'none.pth.*does not exist'), (['--arch', 'resnet1'], 'got .resnet1.. Did you mean'),
    (['--arch', 'list_models'], 'got .list_models.'), (['--arch', 'plain', '--weights', 'x.pth'], 'got --arch plain'),
    (['--arch', 'plain', '--train'], 'nothing to train'), (['--folds', '3'], 'no --folds .*Add --train'),
    (['--epochs', '3', '--folds', '2'], 'no --folds or --epochs .*Add --train'),
    (['--train', '--draws', '3'], 'no --draws'), (['--arch', 'small', '--draws', '3'], 'no --draws')], ids=str)
def test_refused_before_any_image_is_read(tmp_path, monkeypatch, capsys, args, what):
    def never(*_a): raise AssertionError('read')
    monkeypatch.setattr(auditing, 'read_source', never)
    (tmp_path/'x.pth').write_text('x')
    torch.save([1], tmp_path/'l.pth')
    refused('i', tmp_path/'o', capsys, what, *[str(tmp_path/o) if o.endswith('.pth') else o for o in args])

def test_refused_before_the_pass(tmp_path, monkeypatch, capsys, random_weights):
    images(tmp_path/'i')
    def never(*_a): raise AssertionError('a pass')
    monkeypatch.setattr(FrozenJudge, 'report', never)
    go = lambda what, *args: refused(tmp_path/'i', tmp_path/'o', capsys, what, '--weights', str(random_weights), *args)
    go("weights of resnet18.*the architecture that .*random.pth' is of: --arch")
    go('weights of squeezenet1_1.*--arch', '--arch', 'squeezenet1_1')
    go('It takes 224x224 pixels alone.*than these 96: --size', '--arch', 'vit_b_32')

def test_pretrained_is_frozen(monkeypatch, tmp_path):
    monkeypatch.setattr(network, '_pretrained', lambda net: None)
    net = tm.squeezenet1_1(weights=None)
    torch.save(net.state_dict(), tmp_path/'w.pth')
    make,what,small = learner_maker('squeezenet1_1', tmp_path/'w.pth')
    learn = make(tiny_dls(channels=3, size=32))
    assert not small and 'w.pth' in what and learn.opt.frozen_idx > 0
    assert torch.equal(learn.model[0][0][0].weight, net.features[0].weight)
    with pytest.raises(ValueError, match='weights of resnet18.*--arch'): learner_maker('resnet18', tmp_path/'w.pth')

def test_timm_weights(tmp_path):
    timm = pytest.importorskip('timm')
    net = timm.create_model('resnet10t', pretrained=False, num_classes=7)
    torch.save(net.state_dict(), tmp_path/'w.pth')
    learn = learner_maker('resnet10t', tmp_path/'w.pth')[0](tiny_dls(channels=3, size=32))
    assert torch.equal(learn.model[0].model.conv1[0].weight, net.conv1[0].weight)
    images(tmp_path/'i', 36, 3)
    rep = audit(tmp_path/'i', tmp_path/'o', arch='resnet10t', weights=tmp_path/'w.pth', size=32)
    assert rep.judge.startswith('resnet10t, frozen: 512 features')

# --- how images are loaded -------------------------------------------------------------------------------------------
def test_loaders_of_files(tmp_path):
    images(tmp_path)
    l = read_source(tmp_path)
    names = sorted(set(l.labels))
    for small in (False, True):
        for norm in (False, True):
            dls = loaders(l, names, Loading(32, 8, small, norm))
            assert [names[k] for k in given_labels(dls)] == l.labels and len(dls.train_ds) == 60
            x = dls.train.one_batch()[0]
            assert tuple(x.shape) == (8, 1 if small else 3, 32, 32)
            assert any(isinstance(t, Normalize) for t in dls.train.after_batch.fs) == norm == bool(x.min() < 0)
            assert all(getattr(t, 'split_idx', None) != 0 for t in dls.train.after_batch.fs)    # none in training alone

def test_sizes():
    assert sizes(28, False, None) == (28, 96) and sizes(28, True, None) == (28, 28) and sizes(1, True, None) == (8, 8)
    assert sizes(500, False, None) == (224, 224) and sizes(500, True, None) == (128, 128)
    assert sizes(28, False, 64) == (64, 64) == sizes(500, True, 64)
    f = train_settings
    assert f(60, True, 28, None, None, None) == (28, 20, 8) and f(4000, True, 500, None, None, None) == (64, 8, 64)
    assert f(4000, False, 500, None, None, None) == (128, 4, 64) and f(60, True, 28, 40, 3, 16) == (40, 3, 16)

@pytest.mark.parametrize('size,grey,seen', [(None, True, 96), (48, True, 48), (None, False, 96), (48, False, 48)])
def test_what_the_body_sees(tmp_path, random_weights, monkeypatch, size, grey, seen):
    if grey: images(tmp_path/'i', 12, 2)
    else: noise(tmp_path/'i', dict(a=6, b=6))
    shapes = []
    def forward(_self, x):
        shapes.append((tuple(x.shape[1:]), float(x.mean())))
        return torch.nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)
    l = read_source(tmp_path/'i')
    judge = FrozenJudge(l, 'mobilenet_v2', random_weights, size, None, 4, tmp_path/'o')
    monkeypatch.setattr(type(judge.judge.body), 'forward', forward)
    judge.report(loaders(l, sorted(set(l.labels)), judge.loading), .2, 0)
    assert {o for o,_ in shapes} == {(3, seen, seen)}
    if not grey: assert all(-.2 < m < .5 for _,m in shapes)     # ImageNet's statistics, once
    judge.clean()
    assert not (tmp_path/'o').exists() or not list((tmp_path/'o').iterdir())

# --- nothing half-written --------------------------------------------------------------------------------------------
@pytest.mark.parametrize('e,rc,say', [
    (KeyboardInterrupt(), 130, 'nothing was written'), (OSError(28, 'disk full'), 1, 'disk full'),
    (ValueError('too few'), 1, 'too few')])
def test_what_stops_it(tmp_path, monkeypatch, capsys, e, rc, say):
    images(tmp_path/'i')
    def stop(*_a, **_k): raise e
    for where in ('loaders', '_write'):
        with monkeypatch.context() as m, warnings.catch_warnings():
            m.setattr(FrozenJudge, 'report', lambda *a, **k: types.SimpleNamespace(
                table=pd.DataFrame(dict(item=range(60))), notes=[], trusted=False))
            m.setattr(auditing, where, stop)
            assert main(['audit', str(tmp_path/'i'), '--arch', 'plain', '--out', str(tmp_path/'o')]) == rc
        err = capsys.readouterr().err
        assert say in err and 'Traceback' not in err and not list((tmp_path/'o').iterdir())

@pytest.mark.slow
def test_a_page_that_fails_leaves_the_old_report(tmp_path, monkeypatch):
    images(tmp_path/'i')
    audit(tmp_path/'i', tmp_path/'o', arch='plain')
    before = {o.name: o.read_bytes() for o in (tmp_path/'o').iterdir()}
    def stop(*_a, **_k): raise ValueError('no page')
    monkeypatch.setattr(auditing, 'audit_page', stop)
    with pytest.raises(ValueError, match='no page'): audit(tmp_path/'i', tmp_path/'o', arch='plain', seed=3)
    assert before == {o.name: o.read_bytes() for o in (tmp_path/'o').iterdir() if o.name != 'features'}

@pytest.mark.parametrize('args,match', [([], 'DIR|CSV'), (['x', '--folds', '1'], 'a whole number from 2 on'),
    (['x', '--plant', '5'], 'a share'), (['x', '--fast'], 'unrecognized'), (['x', '--draws', '0'], 'from 1 on'),
    (['x', '--size', 'big'], "got 'big'")])
def test_bad_arguments(args, match, capsys, tmp_path):
    with pytest.raises(SystemExit) as e: main(['audit', *args, '--out', str(tmp_path/'o')])
    assert e.value.code == 2 and match in capsys.readouterr().err and not (tmp_path/'o').exists()

def test_help_and_a_folder_one_cannot_write_to(capsys, tmp_path):
    with pytest.raises(SystemExit) as e: main(['audit', '--help'])
    out = capsys.readouterr().out
    assert e.value.code == 0
    options = '--out --arch --weights --train --size --epochs --folds --plant --draws --seed --bs --force issues.csv'
    for o in options.split(): assert o in out
    assert main(['audit', str(tmp_path), '--out', '/proc/fastrobust']) == 1
    assert 'cannot write to' in capsys.readouterr().err

@pytest.mark.slow
@pytest.mark.skipif(sys.platform == 'win32', reason='signals')
def test_a_signal_from_the_outside(tmp_path, random_weights):
    noise(tmp_path/'i', dict(a=150, b=150))
    args = [sys.executable, '-m', 'fastrobust', 'audit', 'i', '--arch', 'mobilenet_v2', '--weights',
            str(random_weights), '--bs', '16', '--size', '128', '--out', 'o']
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    p = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=env,
                         start_new_session=True)
    end = time.monotonic()+120
    while progress.images_done(tmp_path/'o'/'features') < 32 and time.monotonic() < end: time.sleep(.05)
    os.killpg(p.pid, signal.SIGINT)         # as a terminal sends it, to the workers too
    _,err = p.communicate(timeout=60)
    assert p.returncode == 130 and re.search(r'Features of \d+ of 300 images', err) and 'Traceback' not in err
    r = subprocess.run(args, capture_output=True, text=True, cwd=tmp_path, env=env, timeout=200)
    assert r.returncode == 0 and not (tmp_path/'o'/'features').exists()

def test_decisions_of_an_earlier_audit_are_put_aside(tmp_path):
    from fastrobust.audit.command import keep_decisions
    t = pd.DataFrame(dict(item=[0, 1], given=['a', 'b'], decision=['', '']))
    keep_decisions(tmp_path)                                    # there is none
    t.to_csv(tmp_path/'issues.csv')
    keep_decisions(tmp_path)                                    # nobody has decided anything
    assert [o.name for o in tmp_path.iterdir()] == ['issues.csv']
    for i in (1, 2):
        t.assign(decision=['drop', '']).to_csv(tmp_path/'issues.csv')
        with pytest.warns(RobustWarning, match=f'issues-reviewed-{i}.csv now'): keep_decisions(tmp_path)
        assert (tmp_path/f'issues-reviewed-{i}.csv').exists() and not (tmp_path/'issues.csv').exists()
