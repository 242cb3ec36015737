"The house, measured: rooms, who imports whom, private imports, public names, how dense the lines are"
# python tests/house.py [FOLDER] prints it of any package folder; test_house.py holds this one to its plan.
import ast, io, sys, tokenize
from pathlib import Path
import numpy as np

PACKAGE = Path(__file__).parent.parent/'fastrobust'

# --- modules and imports ---------------------------------------------------------------------------------------------
def modules(root=PACKAGE):
    "Dotted name below the package -> path; folders by their `__init__`, if anything is in it"
    paths = [p for p in sorted(root.rglob('*.py')) if p.read_text().strip()]
    name = lambda p: '.'.join(p.relative_to(root).with_suffix('').parts).removesuffix('.__init__')
    return {name(p): p for p in paths}

def _at_once(tree):
    "Nodes that run when the module is imported: all that are in no function"
    todo = list(ast.iter_child_nodes(tree))
    while todo:
        n = todo.pop()
        yield n
        if not isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)): todo += ast.iter_child_nodes(n)

def imports(tree, top_only=False):
    "(module, names, node) of every import, a relative one with its dots; inside functions too, unless `top_only`"
    for n in _at_once(tree) if top_only else ast.walk(tree):
        if isinstance(n, ast.ImportFrom): yield '.'*n.level + (n.module or ''),[a.name for a in n.names],n
        if isinstance(n, ast.Import):
            for a in n.names: yield a.name,[],n

def arrows(root=PACKAGE):
    "(importing module, imported module, names) of all imports inside the package, without its name in front"
    known,pkg = modules(root),root.name
    for me,p in known.items():
        for mod,names,_ in imports(ast.parse(p.read_text())):
            if mod.split('.')[0] != pkg: continue
            dep = mod[len(pkg)+1:]
            for k in names or ['']:
                inner = f'{dep}.{k}'.strip('.')
                yield me,inner if inner in known else dep or '__init__',[] if inner in known else [k]

def room(module):
    "The folder a module lives in, or the module itself at the top"
    return module.split('.')[0] if '.' in module else module

def circles(pairs):
    "Groups of rooms that import each other, directly or around"
    goes = {}
    for a,b in pairs: goes.setdefault(a, set()).add(b)
    def reach(a):
        seen,todo = set(),[a]
        while todo:
            new = goes.get(todo.pop(), set())-seen
            seen |= new
            todo += new
        return seen
    far = {a: reach(a) for a in goes}
    found = {frozenset(b for b in far if b in far[a] and a in far[b]) for a in far}
    return sorted(sorted(o) for o in found if len(o) > 1)

def private_imports(root=PACKAGE):
    "Names with an underscore that one module takes from another"
    hidden = lambda k: k.startswith('_') and not k.startswith('__')
    found = [(a, b, k) for a,b,ks in arrows(root) for k in ks if hidden(k)]
    there = modules(root)
    for me,p in there.items():      # and as attributes of a module
        tree,known = ast.parse(p.read_text()),{}
        for mod,names,n in imports(tree):
            if mod.split('.')[0] != root.name: continue
            for a in n.names:
                full = f'{mod}.{a.name}' if names else mod
                dep = full[len(root.name)+1:]
                if dep in there and (names or a.asname): known[a.asname or a.name] = dep
        for n in ast.walk(tree):
            if not isinstance(n, ast.Attribute) or not isinstance(n.value, ast.Name): continue
            if n.value.id in known and hidden(n.attr): found.append((me, known[n.value.id], n.attr))
    return found

# --- public names ----------------------------------------------------------------------------------------------------
def listed(path):
    "`__all__` of a module as written, None where it has none"
    for n in ast.parse(path.read_text()).body:
        if isinstance(n, ast.Assign) and getattr(n.targets[0], 'id', '') == '__all__': return ast.literal_eval(n.value)
    return None

# --- what stands beside the parameters -------------------------------------------------------------------------------
def lost_docments(root=PACKAGE):
    "(module, line) of comment lines of a signature that reach no parameter"
    # fastcore reads the comment at the end of a parameter's line or, where there is none, the lines
    # above it; a second line below is dropped without a word
    out = []
    for me,p in modules(root).items():
        text = p.read_text().splitlines()
        code = ['', *(o.partition('# ')[0].strip() for o in text)]      # by line number, from 1 on
        for f in ast.walk(ast.parse(p.read_text())):
            if not isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef)): continue
            a = f.args
            args = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
            lines = {o.lineno for o in args}
            last = max((o.end_lineno for o in args), default=f.lineno)
            end = next(i for i in range(last, f.body[0].lineno+1) if code[i].endswith(':') or i == f.body[0].lineno)
            for i in range(f.lineno+1, end):
                if code[i]: continue
                below = next(j for j in range(i, end+1) if code[j])
                if below not in lines or '# ' in text[below-1]: out.append((me, i))
    return out

# --- how dense the lines are -----------------------------------------------------------------------------------------
_SPACE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
          tokenize.ENCODING}

def code_tokens(src):
    "Tokens of `src`; an f-string is one, as Python to 3.11 reads it"
    starts,ends = getattr(tokenize, 'FSTRING_START', None),getattr(tokenize, 'FSTRING_END', None)
    depth = 0
    for t in tokenize.generate_tokens(io.StringIO(src).readline):
        if t.type == ends: depth -= 1
        elif depth == 0: yield t
        if t.type == starts: depth += 1

def _docstring_lines(tree):
    out,kinds = set(),(ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for n in ast.walk(tree):
        if isinstance(n, kinds) and ast.get_docstring(n, clean=False) is not None:
            out |= set(range(n.body[0].lineno, n.body[0].end_lineno+1))
    return out

def density(root=PACKAGE):
    "Tokens a code line (mean, 95 %), ternaries per 1,000 code lines, shares of lines over 100 columns, semicolons"
    per_line,ternaries,semicolons,lines,wide_code,wide = [],0,0,0,0,0
    for p in sorted(root.rglob('*.py')):
        src = p.read_text()
        tree,text,count = ast.parse(src),src.splitlines(),{}
        docs = _docstring_lines(tree)
        for t in code_tokens(src):
            if t.type in _SPACE or (t.type == tokenize.STRING and t.start[0] in docs): continue
            count[t.start[0]] = count.get(t.start[0], 0)+1
            semicolons += t.type == tokenize.OP and t.string == ';'
        ternaries += sum(isinstance(n, ast.IfExp) for n in ast.walk(tree))
        per_line += count.values()
        lines += len(text)
        wide += sum(len(o) > 100 for o in text)
        wide_code += sum(len(text[i-1]) > 100 for i in count)
    n = len(per_line)
    return {'lines': lines, 'code lines': n,
            'tokens a code line': np.mean(per_line), '95 %': np.percentile(per_line, 95),
            'ternaries per 1,000': 1000*ternaries/n, 'code lines over 100 columns': wide_code/n,
            'lines over 100 columns': wide/lines, 'semicolons': semicolons}

def main(root):
    known = modules(root)
    pairs = {(room(a), room(b)) for a,b,_ in arrows(root) if room(a) != room(b) and room(a) != 'all'}
    rows = {'modules': len(known), 'rooms': len({room(m) for m in known}), 'arrows between rooms': len(pairs),
            'circles of rooms': circles(pairs) or 0, 'private imports': len(private_imports(root)),
            'names of modules': sum(len(listed(p) or ()) for m,p in known.items() if m != 'all'),
            'longest module': max(len(p.read_text().splitlines()) for p in known.values()), **density(root)}
    for k,v in rows.items(): print(f'{k:28} {v:.4g}' if isinstance(v, (int, float)) else f'{k:28} {v}')

if __name__ == '__main__': main(Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGE)
