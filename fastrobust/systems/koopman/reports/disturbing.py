"What can happen to fields that are measured: noise, sensors that fail, sensors far apart"
# Fields are (n,t,c,*grid) in float64: n items, t frames, c variables. A sensor is a node of the
# grid, for all frames and variables alike. With one seed the same is done to the same fields.
import math
import numpy as np
import torch
from scipy import spatial
from fastrobust.images.lpballs import lp_delta

__all__ = []

def _generator(seed, kind): return np.random.default_rng([seed, *kind.encode()])

def noisy(
    u,      # Fields (n,t,c,*grid)
    p,      # 2 or infinity
    eps,    # Radius of the ball, as a share of the norm of the field
    seed    # The noise of several radii has one shape
):
    "Noise uniform in an Lp ball whose radius is a share of the norm of each variable's frames"
    n,c = len(u),u.shape[2]
    v = u.transpose(1, 2).flatten(0, 1)     # (n*c,t,*grid): each variable has units of its own
    size = torch.linalg.vector_norm(v.flatten(1), p, dim=1)
    g = torch.Generator().manual_seed(int(_generator(seed, f'noise {p:g}').integers(2**62)))
    flat = torch.zeros(len(v), 1, 1, v[0].numel(), dtype=torch.float64)
    # the balls of `lpballs` are those of images: a field is one of a single row; 0 is a legal pixel
    noise = lp_delta(flat, p, torch.ones(len(v), dtype=torch.float64), 'ball', g).view(v.shape)
    v = v + eps*noise*size.view(-1, *[1]*(v.ndim-1))
    return v.unflatten(0, (n, c)).transpose(1, 2)

# --- sensors that fail ----------------------------------------------------------------------------
def _from_neighbours(grid, gone, periodic):
    "Nodes that are left (m,2), and their weights, of which each one that is gone is made"
    if len(grid) == 1: return _on_a_line(grid[0], gone, periodic[0])
    kept = np.flatnonzero(~gone)
    places = np.stack(np.unravel_index(np.arange(gone.size), grid), 1)/np.array(grid)
    # 0: a side that does not wrap
    tree = spatial.cKDTree(places[kept], boxsize=[1. if o else 0. for o in periodic])
    nearest = kept[tree.query(places[gone])[1]]
    at = np.stack([nearest, nearest], 1)
    return at,np.tile([1., 0.], (len(at), 1))

def _on_a_line(S, gone, wraps):
    "The next nodes on both sides, and weights of linear interpolation; beyond an end the last one"
    kept,at = np.flatnonzero(~gone),np.flatnonzero(gone)
    i = np.searchsorted(kept, at)
    low,high = kept[i-1],kept[i % len(kept)]
    if not wraps:
        low = np.where(i == 0, high, low)
        high = np.where(i == len(kept), low, high)
    span = (high-low) % S
    share = np.where(span > 0, (at-low) % S/np.maximum(span, 1), 0.)
    return np.stack([low, high], 1),np.stack([1-share, share], 1)

def dropped_out(
    u,          # Fields (n,t,c,*grid)
    share,      # Of the nodes whose sensors fail, drawn for each item; the same ones fail at a larger share
    seed,
    periodic    # For each side whether it wraps
):
    "Nodes filled from the nearest sensors left: linearly on a line, by the nearest one on a plane"
    grid = u.shape[3:]
    total = math.prod(grid)
    k = min(max(1, round(share*total)), total-1)
    rng = _generator(seed, 'dropped')
    out = u.clone().flatten(3)
    for i in range(len(u)):
        gone = np.zeros(total, bool)
        gone[rng.permutation(total)[:k]] = True
        at,w = _from_neighbours(grid, gone, periodic)
        new = out[i][..., torch.as_tensor(at)]*torch.as_tensor(w)
        out[i][..., torch.as_tensor(gone)] = new.sum(-1)
    return out.view(u.shape)

# --- sensors far apart ----------------------------------------------------------------------------
def _refined(x, S, k):
    "Every k-th node along the last, periodic axis, and the waves through them at all `S` nodes"
    n = x.shape[-1]
    y = torch.fft.rfft(x)
    if n % 2 == 0: y[..., -1] = y[..., -1]/2    # two waves look alike at these nodes: half of each
    return torch.fft.irfft(y, n=S)*k

def _between(x, S, k):
    "The same on an axis with ends: straight lines between the nodes, the last one beyond it"
    at = torch.arange(S, dtype=torch.float64)/k
    low = at.long().clamp_max(x.shape[-1]-1)
    high = (low+1).clamp_max(x.shape[-1]-1)
    share = (at-low).clamp(0, 1)
    return x[..., low]*(1-share) + x[..., high]*share

def coarsened(
    u,          # Fields (n,t,c,*grid)
    k,          # Every so manyth node along each side has a sensor
    periodic    # For each side whether it wraps
):
    "Fields seen at every k-th node, filled in by Fourier interpolation; on sides with ends by lines"
    for axis,wraps in zip(range(3, u.ndim), periodic):
        S = u.shape[axis]
        x = u.movedim(axis, -1)
        seen = x[..., ::k]
        x = _refined(seen, S, k) if wraps else _between(seen, S, k)
        u = x.movedim(-1, axis)
    return u

def need_divisor(k, grid, periodic):
    "Refuse a step that leaves nodes unevenly spaced where a side closes"
    for S,wraps in zip(grid, periodic):
        if (wraps and S % k) or S//k < 2:
            raise ValueError("expected `coarser` as steps that divide the nodes of the grid "
                             f"{tuple(grid)} and leave 2 or more, got {k}. Give e.g. "
                             "coarser=(2,).")
