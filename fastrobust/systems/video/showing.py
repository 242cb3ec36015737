"How batches and answers look: a strip of frames for each clip, in one column"
from matplotlib import pyplot as plt
from fastai.torch_basics import dispatch
from fastai.torch_core import TensorCategory
from fastrobust.reporting.style import RIGHT, WRONG
from fastrobust.systems.video.clip import TensorVideo, strip_of

__all__ = []

_WIDE = 9   # inches of a strip

def _axes(samples, n, frames, figsize, ncols):
    "`n` axes for strips, as high as they are"
    h,w = strip_of(samples[0][0], frames).shape[:2]
    rows = -(-n//ncols)
    if figsize is None: figsize = (_WIDE, rows*(_WIDE*h/(w*ncols) + .35))
    axes = plt.subplots(rows, ncols, figsize=figsize, squeeze=False)[1].flatten()
    for ax in axes[n:]: ax.set_axis_off()
    return list(axes[:n])

@dispatch
def show_batch(x:TensorVideo, y, samples, ctxs=None, max_n=6, nrows=None, ncols=1, figsize=None,    # noqa: ARG001
               frames=8, **kwargs):
    "Strips of `frames` frames, titled by their target"
    n = min(len(samples), max_n)
    if ctxs is None: ctxs = _axes(samples, n, frames, figsize, ncols)
    for s,ax in zip(samples[:n], ctxs):
        s[0].show(ctx=ax, n=frames)
        for o in s[1:]: o.show(ctx=ax, **kwargs)
    return ctxs

@dispatch
def show_results(x:TensorVideo, y:TensorCategory, samples, outs, ctxs=None, max_n=6,    # noqa: ARG001
                 nrows=None, ncols=1, figsize=None, frames=8, **kwargs):    # noqa: ARG001
    "Strips titled by class and answer, in the house's two colours for right and wrong"
    n = min(len(samples), max_n)
    if ctxs is None: ctxs = _axes(samples, n, frames, figsize, ncols)
    for (clip,want,*_),(got,*_),ax in zip(samples[:n], outs, ctxs):
        clip.show(ctx=ax, n=frames)
        colour = RIGHT if str(want) == str(got) else WRONG
        ax.set_title(f'{want} → {got}', color=colour, **kwargs)
    return ctxs
