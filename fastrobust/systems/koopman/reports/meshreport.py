"`mesh_report`: does an operator that was trained on one mesh compute the same on coarser and finer ones?"
# Neural operators are to be functions of the field, not of its nodes: https://arxiv.org/abs/2010.08895
import math
from dataclasses import dataclass
import numpy as np
from fastrobust.basics import is_whole, need_whole, shown
from fastrobust.systems.koopman.reports.meshes import asked, halvings, shared_nodes
from fastrobust.systems.koopman.reports.meshresult import MeshReport
from fastrobust.systems.koopman.reports.operands import (
    errors_of, mean_se, need_sizes, need_time, start_frames, true_frames)
from fastrobust.systems.koopman.reports.operating import bar_of, given_weights, operators, resting

__all__ = ['mesh_report']

# --- the data ------------------------------------------------------------------------------------------
@dataclass
class _Fields:
    "A data set on its finest mesh"
    name: str
    u: object       # (n,t_in*c,*grid)
    y: object       # (n,k,*grid)
    t: object       # (n,) or None
    weights: object # Of the places, or None
    @property
    def grid(self): return tuple(self.u.shape[2:])

def _fields(name, data, ops, weights):
    "A data set, checked"
    if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
        raise TypeError("mesh_report expected `data` as (u, y), or a dict from name to such pairs, "
                        f"got {shown(data)}. Give fields and what they become, both on the finest "
                        "mesh; (u, t, y) where the model takes a time.")
    u,*t,y = data
    u = start_frames(u, ops[0])
    grid = tuple(u.shape[2:])
    # those that give all frames at once may give other variables
    c = min(o.out_vars for o in ops)
    y = true_frames(y, u, c)
    for op in ops: op.need_frames(y)
    y = y.flatten(1, 2)
    need_sizes(y[:, None])
    t = need_time(t[0] if t else None, len(u), ops, '(u, t, y)')
    return _Fields(name, u, y, t, given_weights(ops, weights, grid))

def _sets(data, ops, weights):
    if not isinstance(data, dict): data = {'fields': data}
    if not data:
        raise ValueError("expected at least one data set, got an empty dict. Give "
                         "{'name': (u, y)}.")
    return [_fields(str(k), o, ops, weights) for k,o in data.items()]

# --- the numbers ----------------------------------------------------------------------------------
def _refusal(op, fields, mesh):
    "What an operator says of a mesh that it does not take, else None"
    try: k = op.try_one(mesh.of(fields.u[:1]), fields.t)
    except ValueError as e: return str(e)
    want = fields.y.shape[1]
    if op.at_once and k != want:
        raise ValueError(f"expected `y` of the {k} channels that {op.name} gives, got {want}. Give the "
                         "frames that it was trained to give.")
    return None

def _errors(op, fields, meshes, bs, tick):
    "Relative L2 error of each field on each mesh, and the difference to the finest at shared nodes: (meshes,n) each"
    n = len(fields.u)
    k = fields.y.shape[1]//op.out_vars
    err,diff = np.zeros((2, len(meshes), n))
    for i in range(0, n, bs):
        here = slice(i, i+bs)
        t = None if fields.t is None else fields.t[here]
        finest = None
        for j,mesh in enumerate(meshes):
            p = op.frames(mesh.of(fields.u[here]), t, k)
            w = None if fields.weights is None else mesh.of(fields.weights)
            err[j,here] = errors_of(p, mesh.of(fields.y[here]), w, op.units)
            if finest is None: finest = p
            mine,its = shared_nodes(mesh, meshes[0])
            if w is not None: w = w[mine]
            diff[j,here] = errors_of(p[mine], finest[its], w, op.units)
            tick()
    return err,diff

def _rows(op, fields, refused, bs, tick):
    "A row for each mesh of an operator and a data set"
    taken = [mesh for mesh,text in refused.items() if text is None]
    err,diff = _errors(op, fields, taken, bs, tick)
    rows = []
    for mesh in refused:
        row = dict(data=fields.name, mesh=mesh.name, learner=op.name)
        row |= dict(error=np.nan, se=np.nan, difference=np.nan)
        row |= dict(training=mesh.sizes == op.grid, said='', sizes=mesh.sizes)
        if mesh not in taken: row['said'] = 'refused'
        else:
            j = taken.index(mesh)
            row['error'],row['se'] = map(float, mean_se(err[j]))
            row['difference'] = float(mean_se(diff[j])[0])
            bad = int((~np.isfinite(err[j])).sum())
            if bad: row['said'] = f'NaN or infinity in {bad} of {len(err[j])}'
        rows.append(row)
    return rows

def _tried(ops, fields, meshes, down):
    "What each operator says of each mesh: name -> mesh -> text or None; `down`: to the first that none takes"
    said = {op.name: {} for op in ops}
    for mesh in meshes:
        for op in ops: said[op.name][mesh] = _refusal(op, fields, mesh)
        refused = [o[mesh] is not None for o in said.values()]
        taken = [None in o.values() for o in said.values()]
        if down and all(refused) and any(taken): break
    for name,o in said.items():
        if None in o.values(): continue
        known = ', '.join(str(m.name) for m in o)
        raise ValueError(f"expected a mesh of {fields.name!r} that {name} takes, got {known}. It "
                         f"says: {next(iter(o.values()))}")
    return said

# --- the report -----------------------------------------------------------------------------------
def _refused(op, said):
    "The finest mesh that an operator refused of each data set, and why"
    first = {}
    for (name,mesh),text in said.items():
        if text is not None: first.setdefault(name, (mesh, text))
    whose = {}
    for name,(mesh,text) in first.items():
        whose.setdefault((mesh.name, text), []).append(name)
    for (mesh,text),names in whose.items():
        yield f"{op.name} refuses the mesh {mesh} of {', '.join(names)}: {text}"

def _notes(ops, rows, said, weighted):
    "Meshes that are not in the table, or that were refused; and how places count"
    for op in ops:
        if not any(r['training'] for r in rows if r['learner'] == op.name):
            grid = 'x'.join(map(str, op.grid))
            yield f"{op.name} was trained on a mesh of {grid}, which is not among these."
        yield from _refused(op, said[op.name])
    if weighted: yield "Places count by the weights of the loader, or by those given."
    elif any(op.weights is not None for op in ops):
        yield ("All places count alike, though the loader has weights: those are of another mesh. "
               "Give `weights` of the finest.")

def mesh_report(
    learn,          # A Learner, or a dict from name to Learner; they stay as they are
    # Fields on the finest mesh and what they become, (u, y), each (n,frames,*grid) or (n,*grid),
    # with c variables (n,frames,c,*grid); (u, t, y) where the model takes a time; or a dict from
    # name to such, as of smooth and rough fields
    data,
    # Sizes that divide the finest one, of the first side or (nx,ny); None: halvings of the finest,
    # down to what the models take
    meshes=None,
    *,
    weights=None,   # Of the places of the finest mesh; None: `dls.weights` if that is its mesh, else all alike
    bs=32           # Fields at a time
)->MeshReport:
    "Error of trained operators on coarser and finer meshes than theirs, and whether they compute the same on each"
    ops = operators(learn, 'mesh_report')
    bs = need_whole('bs', bs, 1, what='fields')
    if is_whole(meshes): meshes = [meshes]
    if meshes is not None and not len(meshes):
        raise ValueError("expected at least one size in `meshes`, got none. Leave it out for "
                         "halvings of the finest.")
    sets = _sets(data, ops, weights)
    wraps = ops[0].wraps
    rows,jobs = [],[]
    said:dict = {op.name: {} for op in ops}
    with resting(ops):
        for fields in sets:
            if meshes is None: at = halvings(fields.grid, wraps)
            else: at = asked(meshes, fields.name, fields.grid, wraps)
            for name,o in _tried(ops, fields, at, meshes is None).items():
                said[name] |= {(fields.name, mesh): text for mesh,text in o.items()}
                jobs.append((next(op for op in ops if op.name == name), fields, o))
        total = 0
        for _,fields,o in jobs:
            batches = math.ceil(len(fields.u)/bs)
            total += batches*list(o.values()).count(None)
        bar = bar_of(ops, total)
        for op,fields,o in jobs: rows += _rows(op, fields, o, bs, bar.tick)
    names = [f.name for f in sets]
    def place(row): return names.index(row['data']), [-s for s in row['sizes']]
    rows.sort(key=place)

    weighted = any(f.weights is not None for f in sets)
    notes = _notes(ops, rows, said, weighted)
    grids = {op.name: op.grid for op in ops}
    return MeshReport(rows, grids, {f.name: len(f.u) for f in sets}, notes)
