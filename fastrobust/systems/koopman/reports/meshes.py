"Meshes that are every so manyth node of a finest one"
import math
from dataclasses import dataclass
from fastrobust.basics import is_whole

__all__ = []

@dataclass(frozen=True)
class Mesh:
    "Every so manyth node of a finest mesh"
    sizes: tuple
    steps: tuple    # Along each side

    @property
    def name(self):
        "128, or 64x128 where sides differ"
        if len(set(self.sizes)) == 1: return self.sizes[0]
        return 'x'.join(map(str, self.sizes))

    def of(self, x):
        "Fields (..,*grid) of the finest mesh on this one"
        here = ...,*(slice(None, None, k) for k in self.steps)
        return x[here].contiguous()

def _step(S, s, wraps):
    "Nodes from one to the next of a side that keeps `s` of its `S`, or None"
    if S % s == 0: return S//s
    if not wraps and s > 1 and (S-1) % (s-1) == 0: return (S-1)//(s-1)   # both ends are nodes
    return None

def _mesh(sizes, grid, wraps):
    "The mesh of so many nodes along each side, None where they are none of the finest's"
    steps = tuple(_step(*o) for o in zip(grid, sizes, wraps))
    return None if None in steps else Mesh(tuple(sizes), steps)

def _half(s, wraps):
    "Every second node of a side, None where that is no mesh or too small a one"
    if s < 4: return None
    if s % 2 == 0: return s//2
    return None if wraps else (s+1)//2

def halvings(
    grid,   # Nodes along each side of the finest
    wraps   # For each side whether it is periodic
):
    "Meshes from the finest down, each with every second node of the last"
    out = [tuple(grid)]
    while True:
        halves = tuple(_half(*o) for o in zip(out[-1], wraps))
        if None in halves: break
        out.append(halves)
    return [_mesh(o, grid, wraps) for o in out]

def _sizes(o, grid, wraps):
    "Nodes along each side of a mesh as it was asked for, None where that is no mesh"
    if is_whole(o):
        step = _step(grid[0], o, wraps[0]) if o > 0 else None
        return None if step is None else tuple(len(range(0, s, step)) for s in grid)
    if not isinstance(o, (tuple, list)) or len(o) != len(grid): return None
    return tuple(map(int, o)) if all(is_whole(s) and s > 0 for s in o) else None

def asked(
    meshes, # Sizes of the first side, the others in proportion, or (nx,ny)
    name,   # Of the data set
    grid,   # Nodes along each side of the finest
    wraps   # For each side whether it is periodic
):
    "The meshes asked for, the finest first"
    out = set()
    for o in meshes:
        sizes = _sizes(o, grid, wraps)
        mesh = None if sizes is None else _mesh(sizes, grid, wraps)
        if mesh is None:
            known = ', '.join(str(m.name) for m in halvings(grid, wraps))
            raise ValueError(f"expected `meshes` that divide the finest one of {name!r}, "
                             f"{tuple(grid)}, got {o!r}. For example {known}.")
        out.add(mesh)
    return sorted(out, key=lambda o: o.sizes, reverse=True)

def shared_nodes(a, b):
    "Which of their nodes two meshes of one finest mesh have in common, as slices of each"
    both = [math.lcm(i, j) for i,j in zip(a.steps, b.steps)]
    def of(mesh): return ...,*(slice(None, None, k//i) for k,i in zip(both, mesh.steps))
    return of(a),of(b)
