"Local exchanges of pixels: the published loop, compiled where numba is installed, and the same in torch"
# The published loop walks backwards through the image and gives each pixel the present value of a
# random neighbour, -d to d-1 rows and columns away. It is written as a swap, but NumPy hands out
# colour pixels as views, so the neighbour keeps its value: the files have it so, and so have we.
import torch
from fastrobust.images.corruptions.engine import in_threads, loops_for

__all__ = []

def _steps(w, d, device):
    "How far each of the 4d^2 neighbours lies, in pixels of the flattened image"
    k = torch.arange(4*d*d, device=device)
    return (k//(2*d) - d)*w + k % (2*d) - d

def _drawn(h, w, d, r):
    "Which neighbour each inner pixel takes: (b,h-2d,w-2d)"
    return r.randint(0, 4*d*d, h-2*d, w-2*d)

def exchanged(x, d, rounds, r):
    "`x` (b,c,h,w), used up, after `rounds` of local exchanges up to `d` px wide"
    b,c,h,w = x.shape
    if min(h, w) <= 2*d: return x       # the loop leaves a margin of d: nothing is inside
    loops = loops_for(x.device)
    if loops is None: return _exchanged_at_once(x, d, rounds, r)
    x = x.contiguous()
    px = x.view(b, c, h*w).numpy()
    steps = _steps(w, d, x.device).numpy()
    for _ in range(rounds):
        draws = _drawn(h, w, d, r).view(b, -1).numpy()
        def one(i, draws=draws): loops.exchange(px[i], draws[i], steps, h, w, d)
        in_threads(one, b, px.size >= 2**17)
    return x

# --- all pixels at once ---------------------------------------------------------------------------
def _exchanged_at_once(x, d, rounds, r):
    b,c,h,w = x.shape
    src = shuffle_map(b, h, w, d, rounds, r)
    px = x.permute(0, 2, 3, 1).reshape(-1, c)
    px = px.index_select(0, src).view(b, h, w, c)
    return px.permute(0, 3, 1, 2).contiguous()

def shuffle_map(b, h, w, d, rounds, r):
    "Which pixel of the batch, flattened, each one comes from after the exchanges: int64 (b*h*w,)"
    # A neighbour that the loop has passed (it lies later in the image) holds what it was given, any
    # other one its old value. That is a forest of references; all pixels climb to their roots at
    # once, doubling their steps.
    n = b*h*w
    at = torch.arange(n, device=r.device).view(b, h, w)
    src = at.flatten()
    if min(h, w) <= 2*d: return src
    inside = slice(None),slice(d+1, h-d+1),slice(d+1, w-d+1)
    inner = at[inside]
    steps = _steps(w, d, r.device)
    for i in range(rounds):
        step = steps[_drawn(h, w, d, r)]
        ref = at + n                            # n and more: an old value, a root
        ref[inside] = inner + torch.where(step > 0, step, step+n)
        root = _roots(ref.flatten(), n) - n
        src = root if i == 0 else src.index_select(0, root)
    return src

def _roots(ref, n):
    "Where the references `ref`, in place, end: at `n` and more"
    todo = (ref < n).nonzero()[:, 0]
    while len(todo):
        up = ref.index_select(0, todo)
        up = ref.index_select(0, up)
        ref[todo] = up
        todo = todo[up < n]
    return ref
