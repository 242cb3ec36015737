"What is made from the code is as the code is now; the README's blocks run as printed"
import contextlib, io, re
from types import SimpleNamespace
import numpy as np
import pytest
import torch
from PIL import Image
import made
from conftest import Technique

TEXT = made.README.read_text(encoding='utf-8')

@pytest.mark.parametrize('path', [made.DOOR, made.README, made.NBS/'NAMES.md'], ids=lambda p: p.name)
def test_is_as_the_code_is_now(path):
    assert path.read_text(encoding='utf-8') == made.all_made()[path], 'run `python tests/made.py`'

def test_a_new_module_finds_its_place():
    text = made.DOOR.read_text()
    gone = 'from fastrobust.techniques.elr import *\n'
    assert gone in text and made.door(text.replace(gone, '')) == text
    first = 'from fastrobust.techniques.alasca import *\n'
    assert made.door(text.replace(first, '')) == text
    assert made.door(text+'from fastrobust.techniques.gone import *\n') == text
    with pytest.raises(SystemExit, match='tails.charts: a new room'):
        made.door(''.join(l+'\n' for l in text.splitlines() if '.tails.' not in l))

def test_a_line_of_the_table():
    class One(Technique):
        def __init__(self, tau, aux, lam=1., *, w, deep=True): pass
    class None_(Technique): pass
    assert made.call(One) == '`One(tau, aux, w=..)`' and made.call(None_) == '`None_()`'
    assert made.papers('arXiv:2206.08802, https://arxiv.org/abs/1911.00068, arxiv.org/abs/2206.08802') == (
        '[2206.08802](https://arxiv.org/abs/2206.08802), [1911.00068](https://arxiv.org/abs/1911.00068)')

@pytest.mark.parametrize('doc', [None, '', 'No name in front', 'One: a | b'])
def test_a_docstring_that_makes_no_line(doc):
    mod = SimpleNamespace(__doc__=doc, __name__='pkg.one')
    with pytest.raises(SystemExit, match='pkg.one: expected a docstring'): made.plain_words(mod)

def test_a_docstring_of_two_paragraphs_makes_one_line():
    assert made.plain_words(SimpleNamespace(__doc__='One: this\n\nand that', __name__='pkg.one')) == 'This and that'

def test_the_readme_is_short_and_complete():
    from fastrobust.recipes import RECIPES
    # a screen or two; a new wing has a few lines of its own
    assert len(TEXT.splitlines())-len(made.methods().splitlines()) <= 177    # with operators, transformers, video
    for k in RECIPES: assert f'`{k}`' in TEXT, k
    for to in re.findall(r'\]\((?!https?://)([^)#]+)\)', TEXT): assert (made.ROOT/to).exists(), to
    minutes = re.search(r'# the demo: (.*?) on 2 idle CPU cores', TEXT).group(1)
    from fastrobust.__main__ import _EPILOG
    assert f'{minutes} on two idle' in ' '.join(_EPILOG.split()), 'README and --help say how long the demo takes'

# --- the blocks, in order, in one namespace --------------------------------------------------------------------------
def blocks():
    "(code, what is printed below it or None) of every Python block"
    found = re.findall(r'```python\n(.*?)```\n(?:```\n(.*?)```\n)?', TEXT, re.S)
    assert len(found) == TEXT.count('```python')
    return found

def screen(text):
    "What a terminal shows of `text`: progress bars overwrite themselves, and leave nothing"
    lines = [l.split('\r')[-1].strip('█ ') for l in text.split('\n')]
    return [l for l in lines if l]

def masked(line):
    "`line` without its digits; a row of a table, which depends on what was trained, is just that"
    if re.match(r'\d+ {2}', line): return 'row'
    return re.sub(r'\d+', '0', ' '.join(line.split()))

def fits(printed, came):
    "Whether the lines are the same but for digits; '...' stands for any"
    wanted = '\n'.join('.*' if masked(l) == '...' else re.escape(masked(l)) for l in screen(printed))
    return re.fullmatch(wanted, '\n'.join(map(masked, came)), re.S) is not None

def test_screen_and_fits():
    assert screen('ab\r  1%\rcd  \n█\rx\n\n') == ['cd', 'x']
    assert fits('a 1.5\n...\nb\n', ['a 2.7', 'x', 'y', 'b']) and not fits('a 1\n', ['b 1'])
    assert not fits('a 1\n', ['a 1', 'b']) and not fits('a 1\n', [])
    assert fits('n  x\n0  a\n', ['n  x', '0  b']) and not fits('n  x\n0  a\n', ['n  x'])

@pytest.fixture
def a_user(tmp_path, monkeypatch):
    "Folders `my_images` (three classes in colour) and `new_images`, and resnet18's weights where torch looks for them"
    from torchvision.models import resnet18, ResNet18_Weights
    rng = np.random.default_rng(0)
    for k in ('my_images/cat', 'my_images/cow', 'my_images/dog', 'new_images/fox'):
        (tmp_path/k).mkdir(parents=True)
        for i in range(8):
            im = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(im).save(tmp_path/k/f'{i}.jpg')
    hub = tmp_path/'hub'/'checkpoints'
    hub.mkdir(parents=True)
    torch.save(resnet18().state_dict(), hub/ResNet18_Weights.DEFAULT.url.rsplit('/', 1)[1])
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.chdir(tmp_path)

@pytest.mark.slow       # a minute: every block trains
@pytest.mark.timeout(600)
@pytest.mark.usefixtures('a_user')
def test_every_block_runs_as_printed():
    env,shown = {},{}
    for i,(code,printed) in enumerate(blocks()):
        out = io.StringIO()
        with contextlib.redirect_stdout(out): exec(compile(code, f'README, block {i}', 'exec'), env)
        shown[i] = screen(out.getvalue())
        if printed: assert fits(printed, shown[i]), '\n'.join(shown[i])
        if i == 0: last = env['learn'].recorder.values[-1]
    # the numbers themselves: other versions and machines round otherwise
    says = [float(o) for o in re.findall(r'(?m)^7 .*$', TEXT)[0].split()[1:-1]]
    assert np.allclose(says[2:], last[2:], atol=.03), (says, last)
    rate = float(re.search(r'(?m)^(\S+)% of the labels are wrong', TEXT).group(1))
    assert env['rep'].summary['rate']*100 == pytest.approx(rate, abs=3)
    flagged = int(re.search(r'([\d,]+) of 4,000 flagged', TEXT).group(1))
    assert env['rep'].table['flagged'].sum() == pytest.approx(flagged, abs=120)
    assert len(env['new'].train_ds) == 4000-env['rep'].table['flagged'].sum()
