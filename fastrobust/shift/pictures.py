"Pictures of distribution shift: one image broken in every way, and noise of equal strength in every norm"
import math
from numbers import Integral
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from fastrobust.pixels import PixelSpace
from fastrobust.basics import need_number
from fastrobust.images.corruptions.front import corrupt
from fastrobust.images.corruptions.tables import CORRUPTIONS, EXTRA_CORRUPTIONS
from fastrobust.images.lpballs import lp_noise
from fastrobust.shift.augmixpicture import one_image
from fastrobust.reporting.style import bare, new_figure
from fastrobust.shift.charts import GROUP_COLORS, GROUP_OF, spoken

__all__ = ['show_corruptions', 'show_lp_balls']

def _uint8(img, who):
    "One image as uint8 (1,c,h,w)"
    x = img if isinstance(img, Tensor) else torch.from_numpy(np.array(img))
    if not isinstance(img, Tensor) and x.ndim == 3: x = x.permute(2, 0, 1)
    return one_image(PixelSpace().to_uint8(x.as_subclass(Tensor), who) if x.is_floating_point() else x)

def _array(x): return x[0].permute(1, 2, 0).numpy()
def _gray(a): return a[..., 0] if a.shape[-1] == 1 else a

def show_corruptions(
    img,                # One image: PIL, array (h,w[,c]) or tensor (c,h,w); uint8, or float in [0,1]
    names=None,         # Corruptions, one row each; None: all 19
    severities=range(1, 6), # 1 to 5, one column each
    *,
    table:str='auto',   # Severities of 'cifar' (32 px) or 'imagenet' (224 px); 'auto': by the size of the image
    seed:int=0,         # Of the random corruptions
    figsize=None        # Size in inches; None: a notebook's width
)->Figure:
    "One image under every corruption (rows) at every severity (columns), the clean one at the left"
    x = _uint8(img, 'show_corruptions')
    names = [names] if isinstance(names, str) else list(names or CORRUPTIONS + EXTRA_CORRUPTIONS)
    severities = [severities] if isinstance(severities, Integral) else list(severities)
    if not severities:
        raise ValueError("expected `severities` from 1 to 5, got none. Leave it out for all five.")
    rows = [[x, *(corrupt(x, name, s, table=table, seed=seed) for s in severities)] for name in names]
    (c,h,w),n = x.shape[1:],len(names)
    gap = max(1, round(.04*w))
    groups = [GROUP_OF[o] for o in names]
    tops,at = [],0
    for i in range(n):
        at += 0 if i == 0 else h + gap*(1 if groups[i] == groups[i-1] else 4)
        tops.append(at)
    lefts = [j*(w+gap) + (gap if j else 0) for j in range(len(severities)+1)]
    page = np.full((tops[-1]+h, lefts[-1]+w, c), 255, np.uint8)
    for t,row in zip(tops, rows):
        for l,im in zip(lefts, row): page[t:t+h, l:l+w] = _array(im)
    if figsize is None:
        cell = min(1.1, 6.2/len(lefts))                                     # inches
        figsize = (cell*page.shape[1]/w + 2.1, cell*page.shape[0]/w + .5)
    fig = new_figure(figsize)
    fig.get_layout_engine().set(w_pad=.1)
    ax = fig.add_subplot()
    ax.imshow(_gray(page), cmap='gray', vmin=0, vmax=255)
    ax.set_xticks([l + (w-1)/2 for l in lefts], ['clean', *severities], fontsize=10)
    ax.set_yticks([t + (h-1)/2 for t in tops], [spoken(o) for o in names], fontsize=10)
    ax.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    ax.spines[:].set_visible(False)
    for label,group in zip(ax.get_yticklabels(), groups): label.set_color(GROUP_COLORS[group])
    for i in range(n):
        if i and groups[i] == groups[i-1]: continue
        last = max(j for j in range(i, n) if groups[i:j+1] == [groups[i]]*(j+1-i))
        ax.text(page.shape[1]+2*gap, (tops[i]+tops[last]+h)/2, groups[i], rotation=270, va='center', ha='left',
                fontsize=10, color=GROUP_COLORS[groups[i]])
    return fig

# --- Lp balls -------------------------------------------------------------------------------------
def equal_strength_eps(
    p:float,        # Norm, in (0,inf], or 0: values replaced by black or white, `eps` a share of them
    d:int,          # Values of an image, c*h*w
    target:float,   # What a value changes on average, pixels in [0,1], before clipping to [0,1]
    moment:str='mean' # 'mean' of the size of the change, or 'rms', its root mean square
)->float:
    "Radius at which noise from the Lp ball changes a value by `target` on average: from the ball's moments"
    if moment not in ('mean', 'rms'):
        raise ValueError(f"expected `moment` as 'mean' or 'rms', got {moment!r}. Choose one of them.")
    for name,v in dict(p=p, d=d, target=target).items(): need_number(name, v)
    if not (p >= 0 and d >= 1 and 0 < target < 1):
        raise ValueError(f"expected p >= 0, d >= 1 and target in (0,1), got p={p}, d={d}, "
                         f"target={target}. `target` is a difference of pixels in [0,1], such as "
                         ".05.")
    # a pixel x becomes 0 or 1: |change| is x or 1-x, .5 on average; its square depends on x
    if p == 0:
        if moment == 'mean': return 2*target
        raise ValueError("expected `moment='mean'` for p=0, got 'rms', which depends on the image there. Use 'mean'.")
    k = 1 if moment == 'mean' else 2
    if p == math.inf: return target*(k+1)**(1/k)
    # E|delta_1|^k = eps^k G((k+1)/p)/G(1/p) G(d/p+1)/G((d+k)/p+1),
    # G the gamma function (Barthe et al. 2005)
    log = math.lgamma((k+1)/p) - math.lgamma(1/p) + math.lgamma(d/p+1) - math.lgamma((d+k)/p+1)
    return target*math.exp(-log/k)

def _at_strength(x, p, strength, seed):
    "Noisy `x`, its change and eps: the ball's own radius, then corrected for what clipping to [0,1] takes off"
    eps,kind = equal_strength_eps(p, x[0].numel(), strength),'sphere' if p == 0 else 'ball'
    for _ in range(20):
        new = lp_noise(x, p, eps, kind=kind, generator=torch.Generator().manual_seed(seed))
        got = (new-x).abs().mean().item()
        if abs(got/strength-1) < .002 or got == 0: break
        eps *= strength/got
    return new,new-x,eps

def _norm(p): return 'L∞' if p == math.inf else f'L{p:g}'

def show_lp_balls(
    img,                # One image: PIL, array (h,w[,c]) or tensor (c,h,w); uint8, or float in [0,1]
    ps=(0, .5, 1, 2, 5, math.inf), # Norms; 0: values replaced by black or white
    *,
    strength:float=.05, # What a value changes on average, in every picture the same, pixels in [0,1]
    seed:int=0,         # Of the noise
    figsize=None        # Size in inches; None: a notebook's width
)->Figure:
    "Random noise of equal visible strength from the ball of each norm (above), and the noise itself (below)"
    need_number('strength', strength)
    if not 0 < strength <= .2:
        raise ValueError(f"expected `strength` in (0,.2], got {strength}. It is the mean change of pixels in [0,1].")
    ps = [ps] if isinstance(ps, (int, float)) else list(ps)
    x = _uint8(img, 'show_lp_balls').float()/255
    h,w = x.shape[-2:]
    n = len(ps)+1
    if figsize is None: figsize = (1.5*n, 1.5*2*h/w + .75)
    fig = new_figure(figsize)
    axs = fig.subplots(2, n, squeeze=False)
    for ax in axs.flat: bare(ax).spines[:].set_visible(False)
    paint = lambda ax, a: ax.imshow(_gray(a), cmap='gray', vmin=0, vmax=1)
    paint(axs[0, 0], _array(x)), axs[0, 0].set_title('clean', fontsize=10)
    axs[1, 0].text(.5, .5, f'the noise δ\ngrey: unchanged\n\nmean |δ| = {strength:g}\nin each', ha='center',
                   va='center', fontsize=9, transform=axs[1, 0].transAxes)
    for i,p in enumerate(ps, 1):
        new,delta,eps = _at_strength(x, p, strength, seed)
        radius = f'{100*eps:.3g} % of values' if p == 0 else f'ε = {float(format(eps, ".3g")):,.7g}'
        paint(axs[0, i], _array(new)), axs[0, i].set_title(f'{_norm(p)}\n{radius}', fontsize=10)
        paint(axs[1, i], _array(.5 + delta/(8*strength)).clip(0, 1))
        axs[1, i].set_title(f'largest {delta.abs().max():.2f}', fontsize=10)
    return fig
