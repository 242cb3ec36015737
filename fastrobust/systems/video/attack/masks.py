"Where in a clip an attack may change pixels: everywhere, boxes at random, the middle, what moves"
import torch
from torch import Tensor
from fastrobust.basics import need_number, need_whole

__all__ = []

def need_share(name, v, fix):
    "Refuse what is no number in (0,1]"
    need_number(name, v)
    if 0 < v <= 1: return float(v)
    raise ValueError(f"`{name}` must be in (0,1], got {v}. {fix}")

def box_side(
    n,      # Side of the frame, pixels
    patch   # Side of the box by it
):
    "Pixels along a side of a box: 65 of 112"
    return max(1, round(patch*n))

def corners(
    n,      # Side of the frame, pixels
    patch,  # Side of the box by it
    grid    # Boxes along it
):
    "First pixels of boxes that go evenly from border to border, rounded down; one alone is in the middle"
    room = n - box_side(n, patch)
    if grid == 1: return [room//2]
    return [i*room//(grid-1) for i in range(grid)]

def _span(first, side, n):
    at = torch.arange(n)
    return (at >= first) & (at < first+side)

def grid_boxes(
    h,      # Height of a frame
    w,      # Width of it
    grid,   # Boxes along each side
    patch   # Side of a box by that of the frame, in (0,1]
)->Tensor:  # bool (grid*grid,h,w), row by row
    "All boxes of a grid"
    rows = torch.stack([_span(o, box_side(h, patch), h) for o in corners(h, patch, grid)])
    cols = torch.stack([_span(o, box_side(w, patch), w) for o in corners(w, patch, grid)])
    return (rows[:, None, :, None] & cols[None, :, None, :]).flatten(0, 1)

class Masks:
    "Says where the next step of an attack may change a clip; learns from what came of it, or not"
    def begin(self,
        clip,   # (c,t,h,w) in [0,1]
        gen     # torch.Generator on the CPU of this clip: all chance comes from it
    ):
        "Forget the last clip, and look at this one"
        self.shape,self.gen = tuple(clip.shape[1:]),gen

    def draw(self)->Tensor:     # bool (t,h,w)
        "Where the next step may change pixels"
        raise NotImplementedError

    def told(self,
        before,     # Probabilities (k,) before the step
        after,      # And after it
        y,          # Class of the clip
        target=None # Class that it shall be taken for; None: any other
    ): "What came of the step within the last mask"

class DenseMasks(Masks):
    "The whole clip, in every step"
    def draw(self): return torch.ones(self.shape, dtype=torch.bool)

class RandomMasks(Masks):
    "Boxes at random in frames at random, anew in every step: what AstFocus chooses, chosen by chance"
    def __init__(self,
        grid=7,     # Boxes along each side; AstFocus'
        patch=.58,  # Side of a box by that of a frame, in (0,1]; AstFocus' 65 of 112
        frames=.6   # Share of the frames, in (0,1], two at least; AstFocus' 10 of 16
    ):
        self.grid = need_whole('grid', grid, 1, what='boxes along each side')
        self.patch = need_share('patch', patch, "AstFocus' boxes have .58 of a side.")
        self.frames = need_share('frames', frames, "AstFocus takes .6 of them.")

    def begin(self, clip, gen):
        super().begin(clip, gen)
        t,h,w = self.shape
        self.k = min(t, max(2, round(self.frames*t)))
        self.boxes = grid_boxes(h, w, self.grid, self.patch)

    def draw(self):
        t = self.shape[0]
        mask = torch.zeros(self.shape, dtype=torch.bool)
        chosen = torch.randperm(t, generator=self.gen)[:self.k]
        mask[chosen] = self.boxes[torch.randint(len(self.boxes), (self.k,), generator=self.gen)]
        return mask

class CentreBox(Masks):
    "The same box in the middle of every frame, in every step"
    def __init__(self,
        patch=.58   # Side of the box by that of a frame, in (0,1]
    ): self.patch = need_share('patch', patch, "AstFocus' boxes have .58 of a side.")

    def draw(self):
        t,h,w = self.shape
        return grid_boxes(h, w, 1, self.patch).expand(t, -1, -1).clone()

class MotionMask(Masks):
    "The pixels that change most from a frame to the next, the same in every step"
    def __init__(self,
        area=.2     # Share of the pixels of a clip, in (0,1]; about that of AstFocus' boxes
    ): self.area = need_share('area', area, "AstFocus' boxes cover about .2 of a clip.")

    def begin(self, clip, gen):
        super().begin(clip, gen)
        step = clip.detach().float().cpu().diff(dim=1).abs().mean(0)
        moved = torch.zeros(self.shape)
        # of a change from one frame to the next both take part
        moved[1:] = step
        moved[:-1] = torch.maximum(moved[:-1], step)
        self.mask = self._largest(moved.flatten()).view(self.shape)

    def _largest(self, v):
        "Exactly so many of the largest; chance decides between equals"
        mixed = torch.randperm(len(v), generator=self.gen)
        order = mixed[v[mixed].argsort(descending=True, stable=True)]
        mask = torch.zeros(len(v), dtype=torch.bool)
        mask[order[:max(1, round(self.area*len(v)))]] = True
        return mask

    def draw(self): return self.mask.clone()

def need_masks(masks):
    "Refuse what is no object that chooses"
    methods = [getattr(masks, k, None) for k in ('begin', 'draw', 'told')]
    if not isinstance(masks, type) and all(map(callable, methods)): return masks
    raise TypeError("`masks` must say where a clip may be changed (`begin`, `draw`, `told`), got "
                    f"{masks!r}. Give e.g. RandomMasks() or DenseMasks().")

def need_mask(mask, shape):
    "Refuse a mask that is none of this clip"
    is_mask = isinstance(mask, Tensor) and mask.dtype == torch.bool
    if is_mask and tuple(mask.shape) == tuple(shape): return mask
    got = f'{mask.dtype} {tuple(mask.shape)}' if isinstance(mask, Tensor) else type(mask).__name__
    raise ValueError(f"expected a mask of True and False in the shape of the clip {tuple(shape)}, "
                     f"got {got}. `draw` returns one for (t,h,w).")
