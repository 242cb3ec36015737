"Pictures of label noise: losses in two groups, what was selected, where networks disagree, who was taken for whom"
import math
import numpy as np, pandas as pd
from matplotlib.figure import Figure
from fastrobust.labels.metrics import label_precision_recall
from fastrobust.labels.mixtures import SmallLossSplit, small_loss_split
from fastrobust.reporting.style import (GREEN, GREY, INK, PURPLE, RIGHT, WRONG, axes_on,
                                        legend_below, new_figure, tidy, whole_numbers)

__all__ = ['plot_loss_split', 'plot_selection', 'plot_noise_matrices']

def _right_and_wrong(ax, show, seen, edges, is_noisy):
    wrong = np.asarray(is_noisy, dtype=bool)
    if wrong.shape != show.shape:
        raise ValueError(f"expected `is_noisy` for each of {len(show)} items, got {wrong.shape}. "
                         "Select both alike.")
    parts = [show[seen & ~wrong], show[seen & wrong]]
    labels = [f'right label ({len(parts[0])})', f'wrong label ({len(parts[1])})']
    _,_,(_,b) = ax.hist(parts, edges, stacked=True, color=[RIGHT, WRONG], alpha=.75, label=labels)
    for bar in b: bar.set(hatch='///', edgecolor='white', linewidth=0)

def plot_loss_split(
    losses,         # `SampleHistory` (its mean losses), or the loss of each item (n,)
    is_noisy=None,  # Which labels are wrong (n,), where that is known
    *,
    split=None,     # `SmallLossSplit` of these losses; None: made here
    ax=None,        # Axes to draw on
    figsize=(8, 4.5), # Size in inches
    title=None,     # Above the picture
    bins:int=60     # Bars
)->Figure:
    "Histogram of the losses, of right and wrong labels apart where known, under the two fitted groups"
    if hasattr(losses, 'mean_loss'): losses = losses.mean_loss()
    if np.asarray(losses).dtype.kind == 'b':
        raise TypeError("expected the loss of each item (n,), got true and false. The losses come "
                        "first: plot_loss_split(losses, is_noisy).")
    l = np.asarray(losses, dtype=float)
    s = small_loss_split(l) if split is None else split
    if not isinstance(s, SmallLossSplit) or len(s.posterior) != len(l):
        raise ValueError(f"expected `split` as the SmallLossSplit of these {len(l)} losses, got "
                         f"{type(s).__name__} of {len(getattr(s, 'posterior', []))} items. Leave "
                         "it out, or pass `history.split()`.")
    ax = tidy(axes_on(ax, figsize))
    seen = ~np.isnan(l)
    lo = l[seen].min()
    hi = max(np.quantile(l[seen], .999), lo+1e-6)
    edges = np.linspace(lo, hi, bins+1)
    show = np.clip(l, lo, hi)
    if is_noisy is None: ax.hist(show[seen], edges, color=GREY, label='items')
    else: _right_and_wrong(ax, show, seen, edges, is_noisy)
    top = ax.get_ylim()[1]
    if s.stds.all():
        x = np.linspace(lo, hi, 400)
        small,large = (seen.sum()*(edges[1]-edges[0])*s.density(x)).T
        ax.plot(x, small, color=INK, lw=2, ls='--', label=f'small losses, share {s.weights[0]:.2f}')
        ax.plot(x, large, color=INK, lw=2, ls='-', label=f'large losses, share {s.weights[1]:.2f}')
    if not math.isnan(s.threshold):
        ax.axvline(s.threshold, color=INK, lw=1.5, ls=':', label=f'threshold {s.threshold:.2f}')
    note = '' if s.separated else ' (no separation)'
    ax.set(xlabel='cross-entropy of the given label', ylabel='items', ylim=(0, top), xlim=(lo, hi),
           title=title or 'Small losses, large losses' + note)
    legend_below(ax, 3)
    return ax.figure

def _dots(x): return dict(marker='o', ms=4, clip_on=False) if len(x) <= 25 else {}

def _epochs(ax, x):
    ax.set_xlim(x[0]-.5*(len(x) == 1), x[-1]+.5*(len(x) == 1))
    whole_numbers(ax.xaxis)
    ax.set_xlabel('epoch')

def _curves(obj, keys, what):
    "Columns `keys` by epoch of a table, or of the `history` that a technique kept"
    name = None if isinstance(obj, pd.DataFrame) else type(obj).__name__
    t = obj if name is None else pd.DataFrame(obj.history)
    if not len(t) or set(keys) - set(t.columns):
        raise ValueError(f"expected at least one epoch with {', '.join(keys)}, got {len(t)} with "
                         f"{list(t.columns)}. Train first; {what}.")
    if 'epoch' in t: x = t['epoch'].to_numpy() + (t['epoch'].iloc[0] == 0)
    else: x = np.arange(1, len(t)+1)
    return t,x,name

def plot_selection(
    selected,       # A technique that selects, a table of its history, or masks (epochs,n) of what was selected
    is_noisy=None,  # Which labels are wrong (n,), for masks only
    *,
    ax=None,        # Axes to draw on
    figsize=(8, 4.5), # Size in inches
    title=None      # Above the picture
)->Figure:
    "How clean a selection is and how much of the clean it keeps, epoch by epoch"
    name = None
    if isinstance(selected, pd.DataFrame) or hasattr(selected, 'history'):
        keys = 'kept', 'label_precision', 'label_recall'
        what = 'precision and recall need dls that know the true labels (`dls.noise`)'
        t,x,name = _curves(selected, keys, what)
        kept,precision,recall = (t[k].to_numpy(dtype=float) for k in keys)
    else:
        masks = np.asarray([np.asarray(m) for m in selected], dtype=bool)
        if masks.ndim != 2 or not len(masks) or np.shape(is_noisy) != masks.shape[1:]:
            raise ValueError(f"expected masks (epochs,n) and `is_noisy` (n,), got {masks.shape} "
                             f"and {np.shape(is_noisy)}. Without true labels there is no quality "
                             "of a selection to draw.")
        precision,recall = np.array([label_precision_recall(m, is_noisy) for m in masks]).T
        kept,x = masks.mean(1),np.arange(1, len(masks)+1)

    ax = tidy(axes_on(ax, figsize))
    line = dict(lw=2, **_dots(x))
    ax.plot(x, precision, color=RIGHT, label='precision: selected labels that are right', **line)
    ax.plot(x, recall, color=GREEN, ls='--', label='recall: right labels that are selected', **line)
    ax.plot(x, kept, color='#777777', lw=1.5, ls='-.', label='share selected')
    if name is None and is_noisy is not None:
        right = 1-np.mean(is_noisy)
        ax.axhline(right, color=INK, lw=1, ls=':',
                   label=f'right labels of all ({right:.2f}): precision of chance')
    _epochs(ax, x)
    ax.set(ylim=(0, 1.02), ylabel='share', title=title or f'What {name or "it"} selects')
    legend_below(ax, 2)
    return ax.figure

def _disagreement(o):
    "Shares by epoch (E,) as given, or from the history of a technique"
    if isinstance(o, pd.DataFrame) or hasattr(o, 'history'):
        o = _curves(o, ['disagree'], 'only two networks disagree')[0]['disagree']
    return np.asarray(o, dtype=float)

def plot_disagreement(
    values,         # Share of items on which two networks disagree (E,), or the technique; a dict: one line each
    *,
    ax=None,        # Axes to draw on
    figsize=(8, 4.2), # Size in inches
    title=None      # Above the picture
)->Figure:
    "How often two networks predict different classes, epoch by epoch"
    lines = values if isinstance(values, dict) else {'': values}
    lines = {k: _disagreement(v) for k,v in lines.items()}
    if not lines or any(v.ndim != 1 or not len(v) for v in lines.values()):
        raise ValueError("expected shares by epoch (E,), at least one, got shapes "
                         f"{[v.shape for v in lines.values()]}. Train first.")
    ax = tidy(axes_on(ax, figsize))
    colors,dashes = [RIGHT, WRONG, GREEN, INK, PURPLE],['-', '--', '-.', ':']
    for i,(k,v) in enumerate(lines.items()):
        x = np.arange(1, len(v)+1)
        ax.plot(x, v, color=colors[i%5], ls=dashes[i%4], lw=2, label=k, **_dots(v))
    _epochs(ax, np.arange(1, max(map(len, lines.values()))+1))
    top = max([0, *(o for v in lines.values() for o in v[~np.isnan(v)])])
    ax.set(ylim=(0, min(1.02, max(.05, 1.15*top))), ylabel='share of items',
           title=title or 'Where two networks disagree')
    if list(lines) != ['']: legend_below(ax, 3)
    return ax.figure

def _matrix(ax, m, names):
    c = len(m)
    im = ax.imshow(m, cmap='Blues', vmin=0, vmax=1)
    cells = np.argwhere(np.nan_to_num(m) >= .005) if c <= 20 else ()
    for i,j in cells:
        color = 'white' if m[i,j] > .55 else 'black'
        text = f'{m[i,j]:.2f}'.lstrip('0')
        ax.text(j, i, text, ha='center', va='center', fontsize=8, color=color)
    if c <= 40:
        ax.set_xticks(range(c), names, rotation=90)
        ax.set_yticks(range(c), names)
    return im

def plot_noise_matrices(
    matrices,       # Name -> T (c,c), rows = true class, rows sum to 1 (NaN: no item of that class)
    vocab=None,     # Class names
    *,
    figsize=None,   # Size in inches; None: grows with classes and matrices
    title=None      # Above all of them
)->Figure:
    "Noise matrices side by side on one scale: given, estimated, true"
    if not isinstance(matrices, dict):
        raise TypeError("expected `matrices` as a dict from name to T, got a "
                        f"{type(matrices).__name__}. Pass {{'true': T}}.")
    ms = {k: np.asarray(v, dtype=float) for k,v in matrices.items()}
    c = len(next(iter(ms.values()))) if ms else 0
    if not c or any(m.shape != (c, c) for m in ms.values()):
        raise ValueError("expected square matrices of one size, got shapes "
                         f"{ {k: m.shape for k,m in ms.items()} }. Give each as (classes,classes).")
    names = [str(v) for v in (range(c) if vocab is None else vocab)]
    if len(names) != c:
        raise ValueError(f"expected {c} names in `vocab`, got {len(names)}. One for each class.")
    side = min(6.5, max(3.4, .42*c+1))
    fig = new_figure(figsize or (side*len(ms)+1.6, side+1.1), 'compressed')
    axs = fig.subplots(1, len(ms), squeeze=False, sharey=True)
    for ax,(k,m) in zip(axs[0], ms.items()):
        im = _matrix(ax, m, names)
        ax.set(xlabel='given label', title=k)
    axs[0,0].set_ylabel('true label')
    fig.colorbar(im, ax=axs, label='share of the true class', shrink=.8, pad=.01)
    if title: fig.suptitle(title)
    return fig
