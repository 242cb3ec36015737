"Pictures of distribution shift: one image broken in every way, and noise of equal strength in every norm"
import itertools, math
from numbers import Integral
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from fastrobust.basics import need_number
from fastrobust.images.corruptions.front import corrupt
from fastrobust.images.corruptions.tables import CORRUPTIONS, EXTRA_CORRUPTIONS, listed
from fastrobust.images.lpballs import lp_noise
from fastrobust.pixels import PixelSpace
from fastrobust.reporting.style import bare, new_figure
from fastrobust.shift.augmixpicture import one_image
from fastrobust.shift.charts import GROUP_COLORS, GROUP_OF, spoken

__all__ = ['show_corruptions', 'show_lp_balls']

def _uint8(img, who):
    "One image as uint8 (1,c,h,w)"
    if not isinstance(img, Tensor):
        img = torch.from_numpy(np.array(img))
        if img.ndim == 3: img = img.permute(2, 0, 1)
    if img.is_floating_point():
        img = PixelSpace().to_uint8(img.as_subclass(Tensor), who)
    return one_image(img)

def _array(x): return x[0].permute(1, 2, 0).numpy()
def _gray(a): return a[..., 0] if a.shape[-1] == 1 else a

# --- one image, broken in every way ---------------------------------------------------------------
def _tops(groups, h, gap):
    "Upper ends of the rows of a page: further apart where a group ends"
    tops,at = [],0
    for i,group in enumerate(groups):
        if i: at += h + gap*(1 if group == groups[i-1] else 4)
        tops.append(at)
    return tops

def _page(rows, tops, lefts):
    "All images on one white page (h,w,c)"
    c,h,w = rows[0][0].shape[1:]
    size = tops[-1]+h,lefts[-1]+w,c
    page = np.full(size, 255, np.uint8)
    for t,row in zip(tops, rows):
        for l,im in zip(lefts, row):
            page[t:t+h, l:l+w] = _array(im)
    return page

def _name_groups(ax, groups, tops, h, x):
    "Names of the groups at the right of their rows"
    first = 0
    for group,run in itertools.groupby(groups):
        last = first+len(list(run))-1
        middle = (tops[first]+tops[last]+h)/2
        ax.text(x, middle, group, rotation=270, va='center', ha='left', fontsize=10,
                color=GROUP_COLORS[group])
        first = last+1

def show_corruptions(
    img,                # One image: PIL, array (h,w[,c]) or tensor (c,h,w); uint8, or float in [0,1]
    names=None,         # Corruptions, one row each; None: all 19
    severities=range(1, 6), # 1 to 5, one column each
    *,
    # Severities made for 32 px ('cifar'), 64 px ('tiny') or 224 px ('imagenet'); 'auto': by the
    # size of the image
    table:str='auto',
    seed:int=0,         # Of the random corruptions
    figsize=None        # Size in inches; None: a notebook's width
)->Figure:
    "One image under every corruption (rows) at every severity (columns), the clean one at the left"
    x = _uint8(img, 'show_corruptions')
    names = listed(names or CORRUPTIONS + EXTRA_CORRUPTIONS)
    severities = [severities] if isinstance(severities, Integral) else list(severities)
    if not severities:
        raise ValueError("expected `severities` from 1 to 5, got none. Leave it out for all five.")
    def row(name):
        return [x] + [corrupt(x, name, s, table=table, seed=seed) for s in severities]
    rows = [row(name) for name in names]

    h,w = x.shape[2:]
    gap = max(1, round(.04*w))
    groups = [GROUP_OF[o] for o in names]
    tops = _tops(groups, h, gap)
    lefts = [0] + [j*(w+gap)+gap for j in range(1, len(severities)+1)]
    page = _page(rows, tops, lefts)
    if figsize is None:
        cell = min(1.1, 6.2/len(lefts))     # inches
        high,wide = page.shape[:2]
        figsize = (cell*wide/w + 2.1, cell*high/w + .5)

    fig = new_figure(figsize)
    fig.set_layout_engine('constrained', w_pad=.1)
    ax = fig.add_subplot()
    ax.imshow(_gray(page), cmap='gray', vmin=0, vmax=255)
    xs = [l + (w-1)/2 for l in lefts]
    ys = [t + (h-1)/2 for t in tops]
    ax.set_xticks(xs, ['clean', *severities], fontsize=10)
    ax.set_yticks(ys, [spoken(o) for o in names], fontsize=10)
    ax.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    ax.spines[:].set_visible(False)
    for label,group in zip(ax.get_yticklabels(), groups):
        label.set_color(GROUP_COLORS[group])
    _name_groups(ax, groups, tops, h, page.shape[1]+2*gap)
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
        raise ValueError(f"expected `moment` as 'mean' or 'rms', got {moment!r}. Choose one of "
                         "them.")
    need_number('p', p)
    need_number('d', d)
    need_number('target', target)
    if not (p >= 0 and d >= 1 and 0 < target < 1):
        raise ValueError(f"expected p >= 0, d >= 1 and target in (0,1), got p={p}, d={d}, "
                         f"target={target}. `target` is a difference of pixels in [0,1], such as "
                         ".05.")
    # a pixel x becomes 0 or 1: |change| is x or 1-x, .5 on average; its square depends on x
    if p == 0:
        if moment == 'mean': return 2*target
        raise ValueError("expected `moment='mean'` for p=0, got 'rms', which depends on the image "
                         "there. Use 'mean'.")
    k = 1 if moment == 'mean' else 2
    if p == math.inf: return target*(k+1)**(1/k)
    # E|delta_1|^k = eps^k G((k+1)/p)/G(1/p) G(d/p+1)/G((d+k)/p+1),
    # G the gamma function (Barthe et al. 2005)
    lg = math.lgamma
    log = lg((k+1)/p) - lg(1/p) + lg(d/p+1) - lg((d+k)/p+1)
    return target*math.exp(-log/k)

def _at_strength(x, p, strength, seed):
    "Noisy `x`, its change and eps: the ball's own radius, then corrected for what clipping to [0,1] takes off"
    eps = equal_strength_eps(p, x[0].numel(), strength)
    kind = 'sphere' if p == 0 else 'ball'
    for _ in range(20):
        g = torch.Generator().manual_seed(seed)
        new = lp_noise(x, p, eps, kind=kind, generator=g)
        got = (new-x).abs().mean().item()
        if abs(got/strength-1) < .002 or got == 0: break
        eps *= strength/got
    return new,new-x,eps

def _norm(p): return 'L∞' if p == math.inf else f'L{p:g}'

def _radius(p, eps):
    if p == 0: return f'{100*eps:.3g} % of values'
    rounded = float(format(eps, '.3g'))
    return f'ε = {rounded:,.7g}'

def _paint(ax, a):
    ax.imshow(_gray(a), cmap='gray', vmin=0, vmax=1)

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
        raise ValueError(f"expected `strength` in (0,.2], got {strength}. It is the mean change of "
                         "pixels in [0,1].")
    ps = [ps] if isinstance(ps, (int, float)) else list(ps)
    x = _uint8(img, 'show_lp_balls').float()/255
    h,w = x.shape[-2:]
    n = len(ps)+1
    if figsize is None: figsize = (1.5*n, 1.5*2*h/w + .75)
    fig = new_figure(figsize)
    axs = fig.subplots(2, n, squeeze=False)
    for ax in axs.flat: bare(ax).spines[:].set_visible(False)

    clean,legend = axs[:, 0]
    _paint(clean, _array(x))
    clean.set_title('clean', fontsize=10)
    text = f'the noise δ\ngrey: unchanged\n\nmean |δ| = {strength:g}\nin each'
    legend.text(.5, .5, text, ha='center', va='center', fontsize=9, transform=legend.transAxes)
    for (above,below),p in zip(axs[:, 1:].T, ps):
        new,delta,eps = _at_strength(x, p, strength, seed)
        _paint(above, _array(new))
        above.set_title(f'{_norm(p)}\n{_radius(p, eps)}', fontsize=10)
        shown = _array(.5 + delta/(8*strength))
        _paint(below, shown.clip(0, 1))
        below.set_title(f'largest {delta.abs().max():.2f}', fontsize=10)
    return fig
