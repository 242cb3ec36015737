"Pictures of label noise: losses in two groups, what was selected, where networks disagree, who was taken for whom"
import math
import numpy as np, pandas as pd
from PIL import Image
from matplotlib.figure import Figure
from fastai.torch_core import TensorImageBase
from fastrobust.labels.metrics import label_precision_recall
from fastrobust.labels.mixtures import SmallLossSplit, small_loss_split
from fastrobust.reporting.style import (GREEN, GREY, INK, PURPLE, RIGHT, WRONG, axes_on, bare, legend_below, new_figure,
                                        tidy, whole_numbers)

__all__ = ['plot_loss_split', 'plot_selection', 'plot_noise_matrices', 'plot_label_issues']

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
    l = np.asarray(losses, dtype=float)
    s = small_loss_split(l) if split is None else split
    if not isinstance(s, SmallLossSplit) or len(s.posterior) != len(l):
        raise ValueError(f"expected `split` as the SmallLossSplit of these {len(l)} losses, got "
                         f"{type(s).__name__} of {len(getattr(s, 'posterior', []))} items. Leave "
                         "it out, or pass `history.split()`.")
    ax,seen = tidy(axes_on(ax, figsize)),~np.isnan(l)
    lo,hi = l[seen].min(),max(np.quantile(l[seen], .999), l[seen].min()+1e-6)
    edges = np.linspace(lo, hi, bins+1)
    show = np.clip(l, lo, hi)
    if is_noisy is None: ax.hist(show[seen], edges, color=GREY, label='items')
    else:
        wrong = np.asarray(is_noisy, dtype=bool)
        if wrong.shape != l.shape:
            raise ValueError(f"expected `is_noisy` for each of {len(l)} items, got {wrong.shape}. Select both alike.")
        parts = [show[seen & ~wrong], show[seen & wrong]]
        _,_,(a,b) = ax.hist(parts, edges, stacked=True, color=[RIGHT, WRONG], alpha=.75,
                            label=[f'right label ({len(parts[0])})', f'wrong label ({len(parts[1])})'])
        for bar in b: bar.set(hatch='///', edgecolor='white', linewidth=0)
    x,k = np.linspace(lo, hi, 400),seen.sum()*(edges[1]-edges[0])
    top = ax.get_ylim()[1]
    if s.stds.all():
        d = k*s.density(x)
        ax.plot(x, d[:,0], color=INK, lw=2, ls='--', label=f'small losses, share {s.weights[0]:.2f}')
        ax.plot(x, d[:,1], color=INK, lw=2, ls='-', label=f'large losses, share {s.weights[1]:.2f}')
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
    return t,(t['epoch'].to_numpy() + (t['epoch'].iloc[0] == 0) if 'epoch' in t else np.arange(1, len(t)+1)),name

def plot_selection(
    selected,       # A technique that selects, a table of its history, or masks (epochs,n) of what was selected
    is_noisy=None,  # Which labels are wrong (n,), for masks only
    *,
    ax=None,        # Axes to draw on
    figsize=(8, 4.5), # Size in inches
    title=None      # Above the picture
)->Figure:
    "How clean a selection is and how much of the clean it keeps, epoch by epoch"
    keys,name = ('kept', 'label_precision', 'label_recall'),None
    if isinstance(selected, pd.DataFrame) or hasattr(selected, 'history'):
        t,x,name = _curves(selected, keys, 'precision and recall need dls that know the true labels (`dls.noise`)')
        kept,precision,recall = (t[k].to_numpy(dtype=float) for k in keys)
    else:
        masks = np.asarray([np.asarray(m) for m in selected], dtype=bool)
        if masks.ndim != 2 or not len(masks) or np.shape(is_noisy) != masks.shape[1:]:
            raise ValueError(f"expected masks (epochs,n) and `is_noisy` (n,), got {masks.shape} "
                             f"and {np.shape(is_noisy)}. Without true labels there is no quality "
                             "of a selection to draw.")
        precision,recall = np.array([label_precision_recall(m, is_noisy) for m in masks]).T
        kept,x = masks.mean(1),np.arange(1, len(masks)+1)
    ax,dot = tidy(axes_on(ax, figsize)),_dots(x)
    ax.plot(x, precision, color=RIGHT, lw=2, label='precision: selected labels that are right', **dot)
    ax.plot(x, recall, color=GREEN, lw=2, ls='--', label='recall: right labels that are selected', **dot)
    ax.plot(x, kept, color='#777777', lw=1.5, ls='-.', label='share selected')
    if name is None and is_noisy is not None:
        right = 1-np.mean(is_noisy)
        ax.axhline(right, color=INK, lw=1, ls=':', label=f'right labels of all ({right:.2f}): precision of chance')
    _epochs(ax, x)
    ax.set(ylim=(0, 1.02), ylabel='share', title=title or f'What {name or "it"} selects')
    legend_below(ax, 2)
    return ax.figure

def plot_disagreement(
    values,         # Share of items on which two networks disagree (E,), or the technique; a dict: one line each
    *,
    ax=None,        # Axes to draw on
    figsize=(8, 4.2), # Size in inches
    title=None      # Above the picture
)->Figure:
    "How often two networks predict different classes, epoch by epoch"
    lines = values if isinstance(values, dict) else {'': values}
    read = lambda o: (_curves(o, ['disagree'], 'only two networks disagree')[0]['disagree']
                      if isinstance(o, pd.DataFrame) or hasattr(o, 'history') else o)
    lines = {k: np.asarray(read(v), dtype=float) for k,v in lines.items()}
    if not lines or any(v.ndim != 1 or not len(v) for v in lines.values()):
        raise ValueError("expected shares by epoch (E,), at least one, got shapes "
                         f"{[v.shape for v in lines.values()]}. Train first.")
    ax = tidy(axes_on(ax, figsize))
    colors,dashes = [RIGHT, WRONG, GREEN, INK, PURPLE],['-', '--', '-.', ':']
    for i,(k,v) in enumerate(lines.items()):
        ax.plot(np.arange(1, len(v)+1), v, color=colors[i%5], ls=dashes[i%4], lw=2, label=k, **_dots(v))
    _epochs(ax, np.arange(1, max(map(len, lines.values()))+1))
    top = max([0, *(o for v in lines.values() for o in v[~np.isnan(v)])])
    ax.set(ylim=(0, min(1.02, max(.05, 1.15*top))), ylabel='share of items',
           title=title or 'Where two networks disagree')
    if list(lines) != ['']: legend_below(ax, 3)
    return ax.figure

def plot_noise_matrices(
    matrices,       # Name -> T (c,c), rows = true class, rows sum to 1 (NaN: no item of that class)
    vocab=None,     # Class names
    *,
    figsize=None,   # Size in inches; None: grows with classes and matrices
    title=None      # Above all of them
)->Figure:
    "Noise matrices side by side on one scale: given, estimated, true"
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
        im = ax.imshow(m, cmap='Blues', vmin=0, vmax=1)
        for i,j in np.argwhere(np.nan_to_num(m) >= .005) if c <= 20 else ():
            ax.text(j, i, f'{m[i,j]:.2f}'.lstrip('0'), ha='center', va='center', fontsize=8,
                    color='white' if m[i,j] > .55 else 'black')
        if c <= 40: ax.set_xticks(range(c), names, rotation=90)
        if c <= 40: ax.set_yticks(range(c), names)
        ax.set(xlabel='given label', title=k)
    axs[0,0].set_ylabel('true label')
    fig.colorbar(im, ax=axs, label='share of the true class', shrink=.8, pad=.01)
    if title: fig.suptitle(title)
    return fig

# --- the worst images -----------------------------------------------------------------------------
def _image(ds, i):
    "Image of item `i` as an array, before any item transform; None where items are no images"
    tls = getattr(ds, 'tls', None)
    o = tls[0][int(i)] if tls is not None else None
    if isinstance(o, TensorImageBase): return o.permute(1, 2, 0).cpu().numpy().squeeze()
    return np.asarray(o) if isinstance(o, Image.Image) else None

def plot_label_issues(
    table,          # DataFrame, most suspicious first: `item`, `given`, `suggested` (of `noise_report` or `.table()`)
    dls,            # The DataLoaders it was made of; where their `noise` is known, the true label is written too
    n:int=12,       # How many
    *,
    ncols:int=6,    # Pictures in a row
    figsize=None,   # Size in inches; None: grows with `n`
    title=None      # Above all of them
)->Figure:
    "The most suspicious images, their given and suggested labels; of tables and texts the first rows of `table`"
    table = getattr(table, 'table', table)
    if not isinstance(table, pd.DataFrame) or {'item', 'given', 'suggested'} - set(table.columns):
        raise ValueError("expected a DataFrame with columns item, given, suggested, got "
                         f"{list(getattr(table, 'columns', [type(table).__name__]))}. Pass "
                         "`noise_report(..)` or `history.table()`.")
    head,ds,rec = table[:n],dls.train_ds,getattr(dls, 'noise', None)
    if not len(head) or n < 1:
        raise ValueError(f"expected at least one row to show, got {len(table)} and n={n}.")
    if _image(ds, head.item.iloc[0]) is None:
        print('plot_label_issues: these items are no images, so here are the rows instead of a picture.')
        return head
    cols = min(ncols, len(head))
    rows = math.ceil(len(head)/cols)
    fig = new_figure(figsize or (2.1*cols, (2.6 if rec is None else 2.8)*rows + .4))
    axs = fig.subplots(rows, cols, squeeze=False)
    fig.get_layout_engine().set(h_pad=.12, w_pad=.06)
    bad = None if rec is None else rec.is_noisy | rec.is_open
    for ax in axs.flat: ax.set_axis_off()
    for ax,r in zip(axs.flat, head.itertuples()):
        bare(ax).set_axis_on()
        ax.imshow(_image(ds, r.item), cmap='gray')
        text = f'given: {r.given}\nsuggested: {r.suggested}'
        if rec is not None:
            wrong,true = bool(bad[r.item]),rec.y_clean[r.item]
            true = 'none of the classes' if rec.is_open[r.item] else true if rec.vocab is None else rec.vocab[true]
            text += f'\n✓ wrong, true: {true}' if wrong else '\n✗ the given label is right'
            ax.spines[:].set(color=WRONG if wrong else RIGHT, linewidth=3, linestyle='-' if wrong else ':')
        ax.set_title(text, fontsize=9, loc='left')
        ax.set_xlabel(f'item {r.item}', fontsize=8)
    found = '' if rec is None else f': {int(bad[head.item].sum())} of {len(head)} labels are wrong'
    fig.suptitle(title or f'The {len(head)} most suspicious labels{found}')
    return fig
