"""Execute notebooks and store what they show: `python nbs/refresh.py` all of them, `.. refresh.py 00 07` some.
`--check` stores nothing and fails where a stored output is not what the code shows today."""
# One thread each, as in the tests, so that numbers come out again. Cells that begin with '#| slow' keep what they have.
# Words must be the same; numbers may differ as training on another machine makes them. A cell whose words depend on
# such numbers (which image is worst) has "varies": true in its metadata and is not compared. The tests compare where
# torch and the kind of CPU are those of the stored run (`made_with` in a notebook's metadata); elsewhere they only run.
import argparse, os, re, sys
from pathlib import Path
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

NBS = Path(__file__).parent

# --- execute ---------------------------------------------------------------------------------------------------------
def is_slow(cell): return cell.cell_type == 'code' and cell.source.startswith('#| slow')

def is_bar(o):
    "Whether an output is what a progress bar leaves behind"
    html = o.get('data', {}).get('text/html')
    return o.output_type == 'display_data' and html is not None and (not html.strip() or 'progress {' in html)

def execute(path):
    "The notebook after a run, in a kernel that sees the package beside it"
    nb = nbformat.read(path, as_version=4)
    cells = nb.cells
    nb.cells = [c for c in cells if not is_slow(c)]
    paths = os.pathsep.join(o for o in (str(NBS.parent.resolve()), os.environ.get('PYTHONPATH')) if o)
    env = {**os.environ, 'PYTHONPATH': paths, 'OMP_NUM_THREADS': '1'}
    env.pop('MPLBACKEND', None)     # the kernel draws into its cells, as a student's does
    where = {'metadata': {'path': str(path.parent)}}
    NotebookClient(nb, timeout=600, kernel_name='python3', resources=where, record_timing=False).execute(env=env)
    nb.cells = cells
    for c in cells:     # what libraries say of their own future differs from one installation to the next
        if 'outputs' in c: c.outputs = [o for o in c.outputs if o.get('name') != 'stderr' and not is_bar(o)]
    return nb

def joined(outputs):
    "Outputs with what was printed in pieces in one piece"
    out = []
    for o in outputs:
        if out and o.output_type == 'stream' and out[-1].get('name') == o.name: out[-1].text += o.text
        else: out.append(o)
    return out

def made_with():
    "What decides how trained numbers round"
    import torch
    return {'torch': '.'.join(torch.__version__.split('.')[:2]), 'cpu': torch.backends.cpu.get_cpu_capability()}

def store(nb, path):
    kernel = {'display_name': 'Python 3 (ipykernel)', 'language': 'python', 'name': 'python3'}
    nb.metadata = dict(kernelspec=kernel, language_info={'name': 'python'}, made_with=made_with())
    for i,c in enumerate(o for o in nb.cells if o.cell_type == 'code'): c.execution_count = i+1
    for c in nb.cells:
        if 'outputs' in c: c.outputs = joined(c.outputs)
        for o in c.get('outputs', []):
            if 'execution_count' in o: o.execution_count = c.execution_count
    nbformat.write(nb, path)

# --- compare ---------------------------------------------------------------------------------------------------------
CLOCK = r'\d+:\d\d(?::\d\d)?|\b[\d.]+ ?(?:s|ms|µs|seconds)\b|0x[0-9a-f]+'
NUMBER = r'(?<![\w.])[-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?'

def shown(cell):
    "Everything a reader sees below a cell, pictures as their kind"
    seen = []
    for o in cell.get('outputs', []):
        data = o.get('data', {})
        kinds = [k for k in data if k.startswith('image/')]
        text = o.get('text') or data.get('text/plain', '')
        if 'text/html' in data: text = re.sub(r'<style.*?</style>|<[^>]*>', ' ', data['text/html'], flags=re.S)
        seen += [f'[{k}]' for k in kinds] or [text]
    return ' '.join(seen)

def words(text):
    "`text` without its numbers, times and the width of its columns"
    text = re.sub(NUMBER, '0', re.sub(CLOCK, '0', text))
    return ' '.join(re.sub(r'[-─=]{2,}', ' ', text).split())

def numbers(text):
    if 'seconds' in text: return []     # a table with a column of them: the words alone
    return [o for o in re.findall(NUMBER, re.sub(CLOCK, '', text)) if o.strip('+-,')]

def near(a, b):
    "Whether other threads may print `b` for `a`; whole numbers above 1 (an epoch, a count) may be one off"
    x,y = (float(o.replace(',', '')) for o in (a, b))
    slack = 1. if '.' not in a+b and min(x, y) > 1 else .06
    return abs(x-y) <= slack+.15*max(abs(x), abs(y))

def stale(old, new):
    "(position of a cell, what is wrong with what is stored) for each that a run now shows otherwise"
    for i,(was,now) in enumerate(zip(old.cells, new.cells)):
        if was.cell_type != 'code' or is_slow(was) or was.metadata.get('varies'): continue
        a,b = shown(was),shown(now)
        if words(a) != words(b): yield i,f'stored {words(a)[:300]!r}, now {words(b)[:300]!r}'
        else:
            far = [f'stored {x}, now {y}' for x,y in zip(numbers(a), numbers(b)) if not near(x, y)]
            if far: yield i,'; '.join(far[:5])

# --- from the command line -------------------------------------------------------------------------------------------
def main(args=None):
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('which', nargs='*', help='first two digits of notebooks (all)')
    p.add_argument('--check', action='store_true', help='store nothing; exit 1 where a stored output is stale')
    o = p.parse_args(args)
    there = {p.stem[:2]: p for p in sorted(NBS.glob('*.ipynb'))}
    unknown = [k for k in o.which if k not in there]
    if unknown: p.error(f'no notebook begins with {", ".join(unknown)}')
    bad = 0
    for path in [there[k] for k in o.which] or there.values():
        try: new = execute(path)
        except CellExecutionError as e:
            print(f'{path.name} fails, and stays as it was: {e}')
            bad += 1
            continue
        found = list(stale(nbformat.read(path, as_version=4), new))
        for i,why in found: print(f'{path.name}, cell {i}: {why}')
        if o.check: bad += len(found)
        else: store(new, path)
        print(path.name, 'stored anew' if not o.check else 'is stale' if found else 'is as stored', flush=True)
    return bool(bad)

if __name__ == '__main__': sys.exit(main())
