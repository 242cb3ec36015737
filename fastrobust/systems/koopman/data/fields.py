"`field_dls`: fastai loaders of fields, from arrays or files, from histories or pairs"
import inspect
from functools import partial
from pathlib import Path
import torch
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.torch_core import default_device
from fastrobust.basics import nearest, need_whole, shown
from fastrobust.systems.koopman.data.fieldchecks import sides
from fastrobust.systems.koopman.data.fieldloader import FieldDL, FieldLoaders
from fastrobust.systems.koopman.data.fieldscale import (
    Facts, Ranges, frame_times, given_scale, latitude_weights, latitudes, lead_frames, running_stats, warn_flat)
from fastrobust.systems.koopman.data.fieldsource import OnDisk, as_source
from fastrobust.systems.koopman.data.fieldsplit import split_histories, split_pairs, used_frames
from fastrobust.systems.koopman.files.readers import FieldFile

__all__ = ['field_dls']

def _facts(x, y, t_in, t_out, lead, times, periodic, latitude, globe):
    "`Facts` of fields from the source `x` to those of `y`, None for histories"
    pair,dim = y is not None,len(x.grid)
    if pair: t_in,t_out = x.frames,y.frames
    f = Facts(t_in, t_out, x.c, x.grid, sides(periodic, dim, globe), pair)
    f.timed = times is not None
    if not pair:
        f.leads = tuple(lead_frames(lead, times))
        if times is not None: f.times = frame_times(times, x.frames, pair)
    if globe:
        lat = latitudes(latitude, x.full[0], x.picks[0], x.coords)
        f.weights = latitude_weights(lat)
    return f

def _set_scale(f, train, scale):
    "Mean and deviation of the frames that train, or those given; targets that are constant are told of"
    x,y = train.x,train.y or train.x
    rows = train.index[:, 0].tolist()
    whole = lambda src: [(row, 0, src.frames) for row in rows]
    ranges = Ranges(y)
    fields = ranges.watch(y.placed(whole(y) if f.pair else used_frames(train.index, f)))
    if scale is not None: f.scale = given_scale(scale, f.n_vars)
    elif f.pair: f.scale = running_stats(x.parts(whole(x)))
    known = scale is not None and y.c == f.n_vars
    if known and isinstance(y, OnDisk):     # nothing is read
        f.y_scale = f.scale
        return
    f.y_scale = f.scale if known else running_stats(fields)
    if f.scale is None: f.scale = f.y_scale
    for _ in fields: pass   # where no mean has read them
    flat = ranges.flat(train.target[:, None] + torch.arange(f.t_out), f.y_scale)
    if not known: flat[:, flat.all(0)] = False      # `running_stats` has told
    warn_flat(flat, train.index[:, 0])

def _need_known(kwargs):
    "Refuse what no loader takes, which fastai drops without a word"
    known = set(inspect.signature(DataLoader.__init__).parameters) | set(DataLoader._methods)
    for k in kwargs.keys() - known:
        raise TypeError(f"field_dls got an unknown {k!r}. {nearest(k, inspect.signature(field_dls).parameters)}")

# --- the factory ----------------------------------------------------------------------------------
def field_dls(
    # Histories (n,t,*grid) or (n,t,c,*grid) of n items, t frames, c variables, on one or two sides:
    # array, tensor, path or `open_fields(path)`. With `y` or as a pair (u0, uT): fields (n,*grid),
    # (n,c,*grid). Arrays are copied
    data,
    y=None,         # Targets of pairs, of such a kind
    *,
    key=None,       # Variable of a file; several become variables c. See `open_fields`
    y_key=None,     # Variable of the targets, in the file of `data` unless `y` is another
    axes=None,      # Order of the axes, such as 'n y x t'; None: as above, or see `open_fields`
    y_axes=None,    # Order of the axes of the targets; None: `axes`
    t_in=1,         # Frames a model sees
    t_out=1,        # Frames it shall give
    lead=1,         # Frames from the last seen to the first target; several: an item for each, beside `times`
    every=None,     # Steps between starts of windows, 1 for all; None: one item a history, at its start
    sub=1,          # Every so many-th point of the sides, one number or one a side
    # Held out: a share of the histories, of one history its last frames; or positions; or fields of
    # their own, for pairs (x, y), beside times (x, y, times)
    valid=.2,
    # Time of the targets, the model's second input: that between two frames, or of each frame (t,);
    # of pairs that of every target, or of each (n,)
    times=None,
    latitude=False, # Of the rows y, in degrees; True: of the file, or of a global grid
    periodic=None,  # Sides that wrap: True, False, or each (y, x); None: all, with `latitude` only x
    scale=None,     # (mean, std) of each variable; None: of the frames that train, read once
    lazy=None,      # Leave a file where it is, and read items as they come? None: from 512 MiB on
    bs=20,          # Batch size, FNO's
    val_bs=None,    # Validation batch size; None: `bs`
    seed=0,         # Of the share held out; the shuffling follows `set_seed` as in any fastai loader
    shuffle=True,   # Shuffle the training items every epoch
    drop_last=None, # Drop an incomplete last training batch; None: if `shuffle` and a full one exists
    # Of batches *and* arrays, 'cuda' keeps them there; None: arrays on CPU, batches on fastai's default
    device=None,
    path='.',       # Where a learner saves
    **kwargs        # More for `FieldDL`, such as num_workers
)->DataLoaders:
    """fastai loaders of fields x (b,t_in*c,*grid) and y (b,t_out*c,*grid), float32 in the units of the
    data; no history is on both sides of the split. `dls.scale`, `n_vars`, `grid`, .. say what they are"""
    if isinstance(data, (tuple, list)) and len(data) == 2 and y is None: data,y = data
    if y_key is not None and y is None: y = data
    _need_known(kwargs)
    in_file = isinstance(data, (str, Path))
    if not in_file and (key is not None or isinstance(data, FieldFile) and axes is not None):
        raise ValueError("expected `key`, and `axes` of a file, beside its path, got one beside "
                         f"{shown(data)}. For a file: open_fields(path, key, axes).")
    counts = dict(bs=bs, val_bs=val_bs, t_in=t_in, t_out=t_out, every=every)
    for name,v in counts.items():
        if v is not None: need_whole(name, v, 1)
    pair = y is not None
    if pair and (lead != 1 or every is not None):
        raise ValueError("expected `lead` and `every` with histories alone, got one with pairs of "
                         "fields. Leave it out.")
    globe = latitude is not False and latitude is not None
    make = partial(as_source, pair=pair, sub=sub, periodic=periodic, globe=globe, lazy=lazy,
                   device=device)
    names = (key, axes),(y_key or key, y_axes or axes)

    def get(o, what, side=0):
        src = make(o, what, key=names[side][0], axes=names[side][1])
        if pair: src.regroup(*((t_in, 't_in'), (t_out, 't_out'))[side])
        return src
    x = get(data, 'data')
    y = get(y, 'y', 1) if pair else None
    facts = _facts(x, y, t_in, t_out, lead, times, periodic, latitude, globe)
    if pair: train,val = split_pairs(x, y, valid, seed, times, facts, get)
    else: train,val = split_histories(x, valid, seed, every, facts, get)
    _set_scale(facts, train, scale)

    if drop_last is None: drop_last = shuffle and len(train) >= bs
    if drop_last and len(train) < bs:
        raise ValueError(f"expected at least one batch of {bs} training items, got {len(train)} "
                         "items. Use a smaller `bs`, or `drop_last=False`.")
    device = default_device() if device is None else torch.device(device)
    dl = FieldDL(train, bs=bs, shuffle=shuffle, drop_last=drop_last, device=device, **kwargs)
    dl_v = dl.new(val, bs=val_bs or bs, shuffle=False, drop_last=False)
    return FieldLoaders(dl, dl_v, path=path, device=device)
