"Every notebook runs on the embedded data, is kept small, and runs without Jupyter too"
import ast, contextlib, importlib.util, io, json, os, re, warnings
from pathlib import Path
import pytest
import fastrobust

NBS = sorted((Path(__file__).parents[1]/'nbs').glob('*.ipynb'))
MAX_KB = 300    # outputs are kept, so that a reader on the web sees them
JUPYTER = all(importlib.util.find_spec(o) for o in ('nbclient', 'nbformat', 'ipykernel'))

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

def run_jupyter(path):
    "Execute the notebook in a kernel that sees the same fastrobust as this test"
    import nbformat
    from nbclient import NotebookClient
    nb = nbformat.read(path, as_version=4)
    nb.cells = [c for c in nb.cells if not (c.cell_type == 'code' and c.source.startswith('#| slow'))]
    here = str(Path(fastrobust.__file__).parents[1])
    path_env = os.pathsep.join(o for o in (here, os.environ.get('PYTHONPATH')) if o)
    # on a busy machine, threads that wait for each other cost minutes
    env = {**os.environ, 'PYTHONPATH': path_env, 'OMP_NUM_THREADS': '1'}
    env.pop('MPLBACKEND', None)     # the kernel draws into its cells, as a student's does
    where = {'metadata': {'path': str(path.parent)}}
    NotebookClient(nb, timeout=600, kernel_name='python3', resources=where).execute(env=env)
    return nb

def test_there_are_notebooks(): assert [o.name[:2] for o in NBS][:3] == ['00', '01', '02']

@pytest.mark.slow       # half a minute each on a quiet core
@pytest.mark.timeout(900)
@each_notebook
def test_runs(nb, monkeypatch, tmp_path):
    if JUPYTER: run_jupyter(nb)
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
