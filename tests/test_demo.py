"python -m fastrobust: a small run from the outside, what it writes, and what it says when it cannot"
import os, re, subprocess, sys
from html.parser import HTMLParser
from pathlib import Path
import pandas as pd
import pytest
from fastrobust.__main__ import main

ROOT = Path(__file__).parent.parent

def run(*args, cwd=None, **env):
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', **env}
    env.pop('DISPLAY', None)
    cmd = [sys.executable, '-m', 'fastrobust', *map(str, args)]
    return subprocess.run(cmd, capture_output=True, text=True, cwd=cwd, env=env, timeout=280)

@pytest.fixture(scope='module')
def small(tmp_path_factory):
    dir = tmp_path_factory.mktemp('demo')
    return run('--epochs', 1, '--seed', 3, '--noise', .3, cwd=dir, PYTHONIOENCODING='ascii', MPLBACKEND='TkAgg'), dir

@pytest.mark.slow
def test_runs_clean_and_prints_the_table(small):
    r,_ = small
    assert r.returncode == 0, r.stderr
    assert not r.stderr and 'Warning' not in r.stdout and '\r' not in r.stdout
    assert 'nominal rate 0.300, realised 0.3000' in r.stdout and 'chosen on the test images' in r.stdout
    assert 'Stopping early is the first robust method' in r.stdout and 'fastrobust-demo' in r.stdout
    for o in ('oracle best', 'memorised', 'seconds', 'plain fastai, 1 epoch', "recipe 'noisy_labels', 1 epoch"):
        assert o in r.stdout
    assert max(map(len, r.stdout.splitlines())) <= 122

@pytest.mark.slow
def test_writes_figures_tables_and_a_page_that_needs_nothing_else(small):
    out = small[1]/'fastrobust-demo'
    files = ('report.html samples.png memorisation.png augmix.png compare.png compare.csv compare_summary.csv '
             'compare_runs.csv compare_curves.csv')
    assert {o.name for o in out.iterdir()} == set(files.split())
    html = (out/'report.html').read_text(encoding='utf-8')
    src = re.findall(r'<img src="([^"]{30})', html)
    assert len(src) == 4 and all(o.startswith('data:image/png;base64,iVBORw0') for o in src)
    text = re.sub(r'base64,[^"]*', '', html)
    assert 'http' not in text and '<script' not in text and '<link' not in text
    class Balanced(HTMLParser):
        stack = []
        def handle_starttag(self, tag, attrs):
            if tag not in ('img', 'meta', '!doctype'): self.stack.append(tag)
        def handle_endtag(self, tag): assert self.stack.pop() == tag
    p = Balanced()
    p.feed(html)
    assert not p.stack and 'nominal rate 0.3' in html and "recipe=&#x27;noisy_labels&#x27;" in html
    t = pd.read_csv(out/'compare.csv', index_col=0)
    assert len(t) == 3 and f"{t['last'].iloc[0]:.3f}" in html and f"{t['last'].iloc[0]:.3f}" in small[0].stdout

def test_the_code_it_shows_runs():
    from fastrobust import demo
    for code in (demo._NEXT, demo._COMPARE): compile(code, 'page', 'exec')
    import fastrobust.all as al
    assert all(hasattr(al, o) for o in ('robust_learner', 'compare', 'LogitClip'))

def test_sample_figure_shows_right_and_wrong_labels():
    "with the noise's own random stream the first images would all be wrong ones"
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    from fastrobust import demo
    from fastrobust.noise.laws import NoisyLabels
    from fastrobust.samples import sample_data
    _,y,*_,vocab = sample_data('fashion')
    rec = NoisyLabels('symmetric', .4).apply(y, vocab=vocab)
    axs = demo._samples(rec, 0).axes
    wrong = [ax for ax in axs if ax.get_title().startswith('✗')]
    assert 3 <= len(wrong) <= 15 and f'{len(wrong)} of these 21' in axs[0].figure.get_suptitle()
    plt.close('all')

def test_every_row_of_all_is_there():
    from fastrobust import demo
    rows,story = demo._rows(20, True, 0)
    for o in ('label smoothing', 'MixUp', 'LogitClip', 'GCE', 'AugLoss', 'ODNL'):
        assert any(k.startswith(o) for k in rows), o
    assert story == list(rows)[:3] and rows[story[0]]['epochs'] == 20 and rows[story[1]]['epochs'] == 5
    assert all(v['epochs'] == 1 for v in demo._rows(1, True, 0)[0].values())

@pytest.mark.parametrize('args,match', [
    (['--epochs', '0'], 'a whole number from 1 on'), (['--epochs', 'x'], "got 'x'"), (['--fast'], 'unrecognized'),
    (['--noise', '40'], 'a rate from 0 to 0.9'), (['--noise', 'nan'], 'a rate'), (['--seed', '-1'], 'from 0 on')])
def test_bad_arguments(args, match, capsys, tmp_path):
    with pytest.raises(SystemExit) as e: main([*args, '--out', str(tmp_path/'o')])
    assert e.value.code == 2 and match in capsys.readouterr().err and not (tmp_path/'o').exists()

def test_help_is_quick_and_says_it_all(capsys):
    with pytest.raises(SystemExit) as e: main(['--help'])
    out = capsys.readouterr().out
    assert e.value.code == 0
    for o in ('--out', '--epochs', '--seed', '--noise', '--all', 'report.html'): assert o in out

def test_a_folder_one_cannot_write_to(capsys, tmp_path):
    (tmp_path/'file').write_text('keep me')
    for out in (tmp_path/'file', '/proc/fastrobust'):
        assert main(['--out', str(out)]) == 1
        err = capsys.readouterr().err
        assert 'cannot write to' in err and '--out' in err and 'Traceback' not in err
    assert (tmp_path/'file').read_text() == 'keep me'

def test_a_disk_that_fills_up_later(monkeypatch, capsys, tmp_path):
    from fastrobust import demo
    import warnings
    def full(*_a, **_k): raise OSError(28, 'could not write: disk full')
    monkeypatch.setattr(demo, 'compare', full)
    with warnings.catch_warnings(): assert main(['--out', str(tmp_path)]) == 1
    assert 'disk full' in capsys.readouterr().err

def test_ctrl_c_before_anything_is_finished(monkeypatch, capsys, tmp_path):
    from fastrobust import demo
    import warnings
    def stop(*_a, **_k): raise KeyboardInterrupt
    monkeypatch.setattr(demo, 'compare', stop)
    with warnings.catch_warnings(): assert main(['--out', str(tmp_path)]) == 130
    assert 'nothing was written' in capsys.readouterr().err
