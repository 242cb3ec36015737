"Data of an equation: random starts, solved, thinned to the mesh asked for, kept in a file"
import json, os, zipfile
from pathlib import Path
import numpy as np
from fastrobust.basics import need_whole, shown
from fastrobust.systems.koopman.equations.gaussian import GaussianField
from fastrobust.systems.koopman.equations.given import need_positive

__all__ = []

VERSION = 1     # Of the schemes: raise it where the same settings give other numbers

def make_data(
    name,           # Of the equation, for the file
    solve,          # Function of fields and times -> (n, t, ..)
    field,          # GaussianField
    n, size, T, seed, frames, step, start, fine, path, # As in `burgers_data`
    begin=None,     # Function of the fields drawn -> those to begin with; None: as they are
    **physics       # Constants of the equation, by which a file is known
):                  # A pair of arrays; with `frames` one
    "Pairs or trajectories of `solve`, from a file if `path` has them"
    dim = 2 if name == 'navier_stokes' else 1
    fix = (f"Give e.g. GaussianField({dim}, {size}, 2.5, 7.); for fields of your own call "
           f"solve_{name}.")
    if not isinstance(field, GaussianField):
        raise TypeError(f"`field` must be a GaussianField, got {shown(field)}. {fix}")
    if field.dim != dim: raise ValueError(f"`field` must be of dim={dim}, got {field}. {fix}")
    n = need_whole('n', n, 1, what='fields')
    size = need_whole('size', size, 8, what='points of an axis')
    fine = need_whole('fine', fine, 1, what='times finer')
    seed = need_whole('seed', seed, 0)
    if frames is None: times = [0., need_positive('T', T)]
    else:
        frames = need_whole('frames', frames, 2, what='frames', fix="Give e.g. 20; None: pairs.")
        start = need_positive('start', start, zero=True)
        times = start + need_positive('step', step)*np.arange(frames)
    field = field.at(size*fine)
    def make():
        u0 = field(n, seed)
        if begin is not None: u0 = begin(u0)
        u = solve(u0, times)
        thin = (..., *(slice(None, None, fine),)*dim)
        return u[thin]
    settings = dict(equation=name, version=VERSION, n=n, size=size, seed=seed, fine=fine,
                    times=list(map(float, times)), field=field.settings(), **physics)
    u = kept(path, settings, make)
    return u if frames is not None else (u[:, 0], u[:, 1])

# --- files ----------------------------------------------------------------------------------------
def kept(
    path,       # File (.npz), or None: only make
    settings,   # Plain values by name: what the array depends on
    make        # Function without arguments -> array
):
    "The array `u` of a file of these very settings, made and written if the file is not there"
    if path is None: return make()
    path = Path(path)
    if path.suffix != '.npz':
        raise ValueError(f"`path` must end in .npz, got {str(path)!r}. Give e.g. "
                         f"{path.stem + '.npz'!r}.")
    # numbers as they read after a trip through a file
    settings = json.loads(json.dumps(settings, default=float))
    if path.exists(): return _read(path, settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    u = make()
    write_whole(path, u=u, settings=json.dumps(settings))
    return u

def _read(path, settings):
    "The array of the file at `path`, if it is one of these settings"
    try:
        with np.load(path, allow_pickle=False) as f: u,found = f['u'],json.loads(str(f['settings']))
    except (KeyError, ValueError, EOFError, OSError, zipfile.BadZipFile) as e:
        raise ValueError(f"expected data that this function wrote in {str(path)!r}, got another or "
                         f"a damaged file ({e}). Give another `path`, or delete it.") from None
    other = [f'{k}={found.get(k)!r} for {v!r}' for k,v in settings.items() if found.get(k) != v]
    if other:
        raise ValueError(f"expected data of these settings in {str(path)!r}, got others: "
                         f"{', '.join(other)}. Give another `path`, or delete the file to make it "
                         "anew.")
    return u

def write_whole(path, **arrays):
    "An .npz that is there whole or not at all, whatever comes in between"
    part = path.with_name(f'{path.name}.{os.getpid()}.part')
    try:
        with open(part, 'wb') as f: np.savez(f, **arrays)
        os.replace(part, path)
    finally: part.unlink(missing_ok=True)
