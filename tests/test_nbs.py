"Every notebook runs on the embedded data, is kept small, and runs without Jupyter too"
import ast, contextlib, importlib.util, io, json, re, sys, warnings
from pathlib import Path
import pytest

NBS = sorted((Path(__file__).parents[1]/'nbs').glob('*.ipynb'))
MAX_KB = 300    # outputs are kept, so that a reader on the web sees them
JUPYTER = all(importlib.util.find_spec(o) for o in ('nbclient', 'nbformat', 'ipykernel'))
if JUPYTER:
    import nbformat
    sys.path.insert(0, str(Path(__file__).parents[1]/'nbs'))
    import refresh

each_notebook = pytest.mark.parametrize('nb', NBS, ids=lambda o: o.stem)

def read(nb): return json.loads(nb.read_text(encoding='utf-8'))
def source(cell): return ''.join(cell['source'])
def code_cells(nb):
    "Sources of the cells to run, with their positions"
    cells = [(i, source(c)) for i,c in enumerate(nb['cells']) if c['cell_type'] == 'code']
    return [(i, s) for i,s in cells if not s.startswith('#| slow')]

def run_plain(nb, name='notebook'):
    "Execute the code cells in one namespace, without Jupyter; an error names its cell"
    import matplotlib.pyplot as plt
    env = {'__name__': '__main__', 'display': lambda *objs: None}
    for i,s in code_cells(nb):
        with contextlib.redirect_stdout(io.StringIO()):
            try: exec(compile(s, f'{name}, cell {i}', 'exec'), env)
            except Exception as e: raise AssertionError(f'{name}, cell {i}: {type(e).__name__}: {e}\n{s}') from e
        plt.close('all')
    return env

def test_there_are_notebooks(): assert [o.name[:2] for o in NBS][:3] == ['00', '01', '02']

@pytest.mark.slow       # half a minute each on a quiet core
@pytest.mark.timeout(900)
@each_notebook
def test_runs_and_shows_what_is_stored(nb, monkeypatch):
    if JUPYTER:
        new,was = refresh.execute(nb),read(nb)['metadata']['made_with']
        if was != refresh.made_with(): pytest.skip(f'it runs; what is stored is of {was}, so it is not compared')
        assert not list(refresh.stale(nbformat.read(nb, as_version=4), new)), f'python nbs/refresh.py {nb.stem[:2]}'
    else:
        monkeypatch.chdir(nb.parent)
        with warnings.catch_warnings(): run_plain(read(nb), nb.name)

@each_notebook
def test_is_small_and_was_run_without_error(nb):
    assert nb.stat().st_size <= MAX_KB*1000
    for c in read(nb)['cells']:
        for o in c.get('outputs', []):
            assert o['output_type'] != 'error', source(c)
            assert len(o.get('data', {}).get('image/png', ''))*3/4 <= 60_000, source(c)
            assert 'Warning' not in ''.join(o.get('text', '')), source(c)
    assert any('image/png' in o.get('data', {}) for c in read(nb)['cells'] for o in c.get('outputs', []))

@each_notebook
def test_form(nb):
    cells = read(nb)['cells']
    assert cells[0]['cell_type'] == 'markdown'
    assert source(cells[0]).startswith('# ') and '\n> ' in source(cells[0])
    first = source(next(c for c in cells if c['cell_type'] == 'code')).splitlines()
    assert first[:2] == ['from fastai.vision.all import *', 'from fastrobust.all import *']
    lines = [l for c in cells if c['cell_type'] == 'markdown' for l in source(c).splitlines()]
    heads = ' '.join(l for l in lines if l.startswith('## '))
    for word in ('Problem', 'Idea', 'ten numbers', 'same seed', 'combines', 'Exercise', 'Paper'): assert word in heads
    for i,s in code_cells(read(nb)):
        ast.parse(s)        # no magics, no shell lines
        assert len(s.splitlines()) < 12, f'cell {i} is long:\n{s}'
        assert max(map(len, s.splitlines())) <= 120, f'cell {i} is wide:\n{s}'

@each_notebook
def test_links_lead_somewhere(nb):
    for c in read(nb)['cells']:
        for to in re.findall(r'\]\(([^)#]+\.ipynb)\)', source(c)): assert (nb.parent/to).exists(), to

# --- the runner itself -----------------------------------------------------------------------------------------------
def cell(s, kind='code'): return dict(cell_type=kind, source=[s])

def test_runner_keeps_one_namespace_and_skips_slow_cells():
    nb = dict(cells=[cell('a = 1'), cell('# a = 5', 'markdown'), cell('#| slow\na = 7'), cell('b = a+1')])
    env = run_plain(nb)
    assert (env['a'], env['b']) == (1, 2)

def test_runner_names_the_failing_cell():
    nb = dict(cells=[cell('a = 0'), cell('1/a')])
    with pytest.raises(AssertionError, match='demo, cell 1: ZeroDivisionError'): run_plain(nb, 'demo')

# --- what counts as stale --------------------------------------------------------------------------------------------
@pytest.mark.skipif(not JUPYTER, reason='needs nbclient and ipykernel: pip install -e ".[dev]"')
@pytest.mark.parametrize('was,now,why', [
    ('accuracy 0.812', 'accuracy 0.824', None), ('accuracy 0.81', 'accuracy 0.61', '0.81, now 0.61'),
    ('one recipe', 'six recipes', "'one recipe'"), ('  a   b\n1  2', 'a b\n1 2', None),
    ('20 images', '40 images', '20, now 40'), ('epoch 4', 'epoch 5', None), ('1.0', '0.0', '1.0, now 0.0'),
    ('1 recipe', '6 recipe', '1, now 6'),
    ('at 0x7fd2', 'at 0x8a', None), ('00:03', '00:19', None),
    ('took 3 s', 'took 21 s', None), ('row seconds\nplain 3.3', 'row seconds\nplain 9.1', None),
    ('4,000', '4,100', None), ('-0.5', '0.5', '-0.5, now 0.5')])
def test_stale(was, now, why):
    def nb(text, **kw):
        out = nbformat.v4.new_output('stream', text=text)
        return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell('f()', outputs=[out], **kw)])
    found = list(refresh.stale(nb(was), nb(now)))
    assert found == [] if why is None else why in found[0][1]
    assert not list(refresh.stale(nb(was, metadata=dict(varies=True)), nb(now)))

@pytest.mark.skipif(not JUPYTER, reason='needs nbclient and ipykernel: pip install -e ".[dev]"')
def test_pictures_and_tables_are_compared():
    def nb(**data):
        out = nbformat.v4.new_output('display_data', data=data)
        return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell('f()', outputs=[out])])
    a,b = nb(**{'image/png': 'aa', 'text/plain': 'Figure 1'}),nb(**{'image/png': 'bb', 'text/plain': 'Figure 2'})
    assert not list(refresh.stale(a, b)) and list(refresh.stale(a, nb(**{'text/plain': 'Figure 1'})))
    old,new = nb(**{'text/html': '<table><td>plain</td></table>'}),nb(**{'text/html': '<table><td>GCE</td></table>'})
    assert list(refresh.stale(old, new)) and not list(refresh.stale(old, old))
