"Strips of frames: a clip, the masks of its attack drawn in, the changed clip, the change itself"
import torch
from matplotlib.colors import to_rgb
from fastrobust.reporting.style import VERMILION, bare, new_figure

__all__ = []

_MOST = .55     # how strongly a pixel in every mask is coloured

def spread_frames(
    t,      # Frames of a clip
    n       # How many are shown
):          # Their positions
    "Frames from first to last, evenly"
    return torch.linspace(0, t-1, min(t, n)).round().long().tolist()

def rgb(frame):
    "A frame (c,h,w) in [0,1] as (h,w,3)"
    if len(frame) < 3: frame = frame[:1].expand(3, -1, -1)
    return frame[:3].permute(1, 2, 0)

def with_mask(
    frame,  # (h,w,3) in [0,1]
    share   # How often each pixel was in the mask, as a share of the most (h,w)
):
    "The frame in grey, coloured where the attack was allowed to change it"
    grey = frame.mean(-1, keepdim=True).expand(-1, -1, 3)
    a = _MOST*share[..., None]
    return grey*(1-a) + a*torch.tensor(to_rgb(VERMILION))

def _share(masks):
    "Shares of steps (t,h,w) as shares of the most"
    return masks/masks.max().clamp(min=1e-9)

def _row(axes, images, label):
    for ax,image in zip(axes, images):
        px = image.clamp(0, 1).numpy()
        bare(ax).imshow(px, interpolation='nearest')
    axes[0].set_ylabel(label, fontsize=8)

def draw_strips(
    clips,      # Clips (n,c,t,h,w) in [0,1]
    adv,        # The same, changed
    masks,      # Share of steps in which each pixel was in the mask (n,t,h,w)
    titles,     # A line each
    eps,        # Largest change, which is drawn as black and white
    frames=8    # Frames of a clip that are shown
):
    "Four strips a clip"
    n,t = len(clips),clips.shape[2]
    at = spread_frames(t, frames)
    fig = new_figure((1.15*len(at) + .5, 5*n + .2))
    parts = fig.subfigures(n, 1, squeeze=False)[:, 0]
    for part,x,new,mask,title in zip(parts, clips, adv, masks, titles):
        axes = part.subplots(4, len(at), squeeze=False)
        share = _share(mask)
        change = (new-x)/(2*max(eps, 1e-9)) + .5
        _row(axes[0], [rgb(x[:, i]) for i in at], 'clip')
        where = [with_mask(rgb(x[:, i]), share[i]) for i in at]
        _row(axes[1], where, 'where')
        _row(axes[2], [rgb(new[:, i]) for i in at], 'changed')
        _row(axes[3], [rgb(change[:, i]) for i in at], 'change')
        for ax,i in zip(axes[0], at): ax.set_title(f'frame {i+1}', fontsize=8)
        part.suptitle(title, fontsize=10)
    return fig
