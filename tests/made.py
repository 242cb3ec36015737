"What is made from the code: `python tests/made.py` writes it, test_made.py compares"
# The line of a module in fastrobust/all.py, the README's table and its list of notebooks, nbs/NAMES.md
import importlib, inspect, json, re, sys
from pathlib import Path
from house import PACKAGE, listed, modules, room

ROOT = PACKAGE.parent
sys.path.insert(0, str(ROOT))       # this package and not one that is installed
README,NBS,DOOR = ROOT/'README.md',ROOT/'nbs',PACKAGE/'all.py'
APART = ('all', '__main__', '__init__')

def module(me): return importlib.import_module(f'fastrobust.{me}')
def handing_on():
    "Modules that list names for `fastrobust.all`"
    return [me for me,p in modules().items() if me not in APART and listed(p)]

# --- fastrobust/all.py -----------------------------------------------------------------------------------------------
def line(me): return f'from fastrobust.{me} import *'

def door(text):
    "`fastrobust/all.py` with a line for every module that lists names, beside those of its room"
    wanted = handing_on()
    lines = [l for l in text.splitlines() if not l.startswith('from ') or l in map(line, wanted)]
    for me in wanted:
        if line(me) in lines: continue
        near = [i for i,l in enumerate(lines) if l.startswith(f'from fastrobust.{room(me)}.')]
        if not near: raise SystemExit(f'{me}: a new room; write {line(me)!r} in all.py under a heading of its own')
        before = [i for i in near if lines[i] < line(me)]
        lines.insert(before[-1]+1 if before else near[0], line(me))
    return '\n'.join(lines)+'\n'

# --- the README's table ----------------------------------------------------------------------------------------------
def row(*cells): return f"| {' | '.join(cells)} |"

def call(cls):
    "How one is made: the class with the parameters that have no default"
    takes = inspect.signature(cls.__init__).parameters.values()
    needed = [p.name for p in takes if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    named = [f'{p.name}=..' for p in takes if p.default is p.empty and p.kind is p.KEYWORD_ONLY]
    return f"`{cls.__name__}({', '.join(needed[1:]+named)})`"

def papers(text):
    "Links to the papers that a module names, the first named first"
    ids = re.findall(r'(?i)(?:arxiv\.org/(?:abs|pdf)/|arxiv[: ] ?)(\d{4}\.\d{4,5})', text)
    return ', '.join(f'[{o}](https://arxiv.org/abs/{o})' for o in dict.fromkeys(ids))

def plain_words(mod):
    "A module's docstring without the name in front"
    name,_,words = ' '.join((mod.__doc__ or '').split()).partition(': ')
    if not words or '|' in words:
        wanted = "expected a docstring such as 'ELR: what it does', without |"
        raise SystemExit(f'{mod.__name__}: {wanted}, got {mod.__doc__!r}')
    return words[0].upper()+words[1:]

def technique_row(me):
    "(what it is against, the line) of a module of techniques"
    mod = module(me)
    classes = [c for c in (getattr(mod, k) for k in mod.__all__) if getattr(c, 'against', None)]
    if not classes: raise SystemExit(f'{me}: say with `against` on the class what it is a remedy for')
    against,links = classes[0].against,papers(Path(mod.__file__).read_text())
    if not links: raise SystemExit(f'{me}: name the paper, as arxiv.org/abs/1234.56789')
    return against,row(', '.join(map(call, classes)), against, plain_words(mod), links)

def methods():
    "A line for every module of the room of techniques, by what they are against"
    mine = [me for me in modules() if re.fullmatch(r'techniques\.\w+', me)]
    silent = [me for me in mine if not listed(modules()[me])]
    if silent: raise SystemExit(f"{', '.join(silent)}: name the class in `__all__ = [..]`")
    lines = [l for _,l in sorted(map(technique_row, mine), key=lambda o: o[0])]
    return '\n'.join([row('technique', 'against', 'in one line', 'paper'), '|---|---|---|---|', *lines])

# --- the notebooks ---------------------------------------------------------------------------------------------------
def title(nb):
    cells = json.loads(nb.read_text(encoding='utf-8'))['cells']
    return ''.join(cells[0]['source']).splitlines()[0].removeprefix('# ')

def notebooks():
    "A link to each, under its own title"
    return ' · '.join(f'[{p.stem[:2]} {title(p)}](nbs/{p.name})' for p in sorted(NBS.glob('*.ipynb')))

# --- nbs/NAMES.md ----------------------------------------------------------------------------------------------------
def said_of(o):
    "What the docstring of `o` says first; of a constant, what it is"
    if not (inspect.isclass(o) or callable(o)): return f'{type(o).__name__} of {len(o)}'
    return ' '.join(inspect.getdoc(o).split('\n\n')[0].split())

def names():
    "Every name of `fastrobust.all` in one line, by room"
    lines = ['# Every name of `from fastrobust.all import *`', '',
             'Made by `python tests/made.py` from the docstrings; `doc(name)` in a notebook says the rest.']
    before = None
    for me in handing_on():
        if room(me) != before: lines += ['', f'## {room(me)}', '']
        before,mod = room(me),module(me)
        lines += [f'- `{k}` ({me}): {said_of(getattr(mod, k))}' for k in mod.__all__]
    return '\n'.join(lines)+'\n'

# --- between the marks -----------------------------------------------------------------------------------------------
def readme(text):
    "`text` with every part that is made, made anew: it goes from its mark to the next empty line"
    for part in (methods, notebooks):
        mark = f'<!-- {part.__name__}: python tests/made.py -->\n'
        assert text.count(mark) == 1, f'the README has no {mark}'
        head,rest = text.split(mark)
        text = f'{head}{mark}{part()}\n\n' + rest.split('\n\n', 1)[1].lstrip('\n')
    return text

def all_made():
    "path -> its text as it should be"
    read = lambda p: p.read_text(encoding='utf-8')
    return {DOOR: door(read(DOOR)), README: readme(read(README)), NBS/'NAMES.md': names()}

if __name__ == '__main__':
    for p,text in all_made().items():
        if p.exists() and p.read_text(encoding='utf-8') == text: continue
        p.write_text(text, encoding='utf-8')
        print('wrote', p.relative_to(ROOT))
