"Guides: every command and every block of code runs, in order, on a small folder of drawn images"
import importlib.util, os, re, shlex, subprocess, sys, warnings
from pathlib import Path
import numpy as np, pandas as pd
import pytest, torch
import torchvision.models as tm
from PIL import Image, ImageDraw
from fastrobust.__main__ import _audit_parser, main
from fastrobust.labels.verifying import verified

ROOT = Path(__file__).parents[1]
GUIDES = sorted((ROOT/'nbs/guides').glob('*.md'))
FOLDER = ROOT/'nbs/guides/audit_your_folder.md'
# what a test cannot do: install, fetch weights, train at full size
INSTEAD = {'pip install .': 'python -c "import fastrobust"',
           'Resize(224)': 'Resize(32)', 'fine_tune(3)': 'fine_tune(1)',
           'vision_learner(dls_reviewed, resnet18,': 'vision_learner(dls_reviewed, resnet18, pretrained=False,'}

def blocks(file):
    "(language, code) of each fenced block, as a test can run it"
    for kind,code in re.findall(r'^```(\w*)\n(.*?)^```$', file.read_text(encoding='utf-8'), re.M | re.S):
        for old,new in INSTEAD.items(): code = code.replace(old, new)
        yield kind,code

def photos(d, n=72, wrong=8, px=40):
    "Class folders of coloured bars, discs and squares on noise, the first `wrong` in the wrong one; true class by name"
    rng,kinds,true = np.random.default_rng(0),['bar', 'disc', 'square'],{}
    for i in range(n):
        im = Image.fromarray(rng.integers(90, 166, (px, px, 3)).astype('uint8'))
        draw,k,(x,y) = ImageDraw.Draw(im),i % 3,rng.integers(12, px-12, 2).tolist()
        if k == 0: draw.rectangle((x-11, y-3, x+11, y+3), fill=(50, 90, 210))
        elif k == 1: draw.ellipse((x-9, y-9, x+9, y+9), fill=(220, 60, 50))
        else: draw.rectangle((x-9, y-9, x+9, y+9), fill=(60, 160, 80))
        name = f'{kinds[(k+1+i//3 % 2) % 3 if i < wrong else k]}/{i:03}.png'
        (d/name).parent.mkdir(parents=True, exist_ok=True)
        im.save(d/name)
        true[name] = kinds[k]
    return true

def decide(file, true, n=None):
    "A person writes the true class beside the first `n` rows"
    t = pd.read_csv(file, dtype=str, keep_default_na=False)
    t.loc[t.index[:n], 'decision'] = [true[o] for o in t.name[:n]]
    t.to_csv(file, index=False)

def command(line):
    words = shlex.split(line)
    assert words[0] == 'python'
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    done = subprocess.run([sys.executable, *words[1:]], env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout+done.stderr
    print(done.stdout)

def again(line):
    "The same door without another start of Python"
    words = shlex.split(line)
    assert words[:3] == ['python', '-m', 'fastrobust']
    with warnings.catch_warnings(): assert main(words[3:]) == 0

def paste(code):
    "A block in a new Python, as far as names go"
    env = {'__name__': '__main__'}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        exec(compile(code, 'guide', 'exec'), env)
    return env

@pytest.fixture
def offline(tmp_path, monkeypatch):
    "No weights in a cache, and none to be had"
    monkeypatch.setenv('TORCH_HOME', str(tmp_path/'torch'))
    for k in ('http_proxy', 'https_proxy'):
        for o in (k, k.upper()): monkeypatch.setenv(o, 'http://127.0.0.1:9')
    for o in ('no_proxy', 'NO_PROXY'): monkeypatch.delenv(o, raising=False)

@pytest.mark.slow
def test_the_example_of_fields(tmp_path):
    path = ROOT/'nbs/examples/fields_from_a_file.py'
    spec = importlib.util.spec_from_file_location('fields_from_a_file', path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    example.main(['--out', str(tmp_path), '--epochs', '2'])
    made = {o.name for o in tmp_path.rglob('*')}
    assert {'operator.pkl', 'results.png', 'rollout.png', 'field_stress.png'} <= made

@pytest.mark.slow
def test_fields_from_your_own_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env = {}
    for kind,code in blocks(FOLDER.with_name('fields_from_your_own_files.md')):
        if kind == 'python': exec(compile(code, 'guide', 'exec'), env)

@pytest.mark.slow
def test_tinymim(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kinds,codes = zip(*blocks(FOLDER.with_name('tinymim.md')))
    assert kinds == ('python',)
    env = paste(codes[0])
    with env['clf'].no_bar(), env['clf'].no_logging(): env['clf'].fit_one_cycle(1, 1e-3)
    assert env['learn'].trained_to == 1 and len(env['clf'].heads) == 2

@pytest.mark.slow
@pytest.mark.usefixtures('offline')
def test_audit_your_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    true = photos(Path('my_photos'))
    url = tm.ResNet18_Weights.DEFAULT.url
    assert url in FOLDER.read_text(encoding='utf-8')
    torch.save(tm.resnet18(weights=None).state_dict(), url.split('/')[-1])

    steps = iter(blocks(FOLDER))
    def step(of, sign):
        "The next block, of this language, with these characters in it"
        kind,code = next(steps)
        assert kind == of and sign in code, code
        return code
    step('', 'my_photos/')
    command(step('bash', 'import fastrobust'))
    command(step('bash', 'audit my_photos\n'))
    said = capsys.readouterr().out
    assert 'gradients and colours judge in its place' in said and '72 images, 3 classes' in said

    again(step('bash', '--weights'))
    assert 'resnet18 with the weights of' in capsys.readouterr().out
    again(step('bash', '--arch plain'))
    decide('fastrobust-audit/issues.csv', true, 20)

    paste(step('python', 'review_sample('))
    assert len(list(Path('sample').iterdir())) == 60 and len(list(Path('sample').glob('000 *.png'))) == 1
    decide('sample.csv', true)
    paste(step('python', 'print(verified('))
    assert '60 labels looked at' in capsys.readouterr().out
    lo,hi = verified('sample.csv', 'fastrobust-audit/issues.csv')[1:3]
    assert lo <= 8/72 <= hi

    paste(step('python', 'labels.csv'))
    t = pd.read_csv('my_photos/labels.csv')
    assert len(t) == 72 and (t.label != [true[o] for o in t.path]).sum() < 8
    again(step('bash', 'my_photos/labels.csv --out second-audit'))
    assert Path('second-audit/report.html').exists()

    dls = paste(step('python', 'fine_tune('))['dls_reviewed']
    done = dict(zip(dls.fixes.table.name, dls.fixes.table.new))
    assert done and all(true[o] == k for o,k in done.items())
    assert next(steps, None) is None

# --- what it says ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('file', GUIDES, ids=lambda o: o.stem)
def test_form(file):
    text = file.read_text(encoding='utf-8')
    lines = text.splitlines()
    assert lines[0].startswith('# ') and len(lines) <= 165 and max(map(len, lines)) <= 120
    for to in re.findall(r'\]\(([^)#:]+)\)', text): assert (file.parent/to).exists(), to
    known = {o for a in _audit_parser()._actions for o in a.option_strings}
    assert set(re.findall(r'(?<![-\w])--[a-z]+', text)) <= known
