"The images whose labels look most wrong, side by side with what they are called and should be"
import math
import numpy as np, pandas as pd
from PIL import Image
from matplotlib.figure import Figure
from fastai.torch_core import TensorImageBase
from fastrobust.reporting.style import RIGHT, WRONG, bare, new_figure

__all__ = ['plot_label_issues']

def _image(ds, i):
    "Image of item `i` as an array, before any item transform; None where items are no images"
    tls = getattr(ds, 'tls', None)
    o = tls[0][int(i)] if tls is not None else None
    if isinstance(o, TensorImageBase): return o.permute(1, 2, 0).cpu().numpy().squeeze()
    return np.asarray(o) if isinstance(o, Image.Image) else None

def _true_name(rec, i):
    if rec.is_open[i]: return 'none of the classes'
    return rec.y_clean[i] if rec.vocab is None else rec.vocab[rec.y_clean[i]]

def _issue(ax, ds, row, rec, bad):
    bare(ax).set_axis_on()
    ax.imshow(_image(ds, row.item), cmap='gray')
    text = f'given: {row.given}\nsuggested: {row.suggested}'
    if rec is not None:
        if bad[row.item]: color,dash,say = WRONG,'-',f'✓ wrong, true: {_true_name(rec, row.item)}'
        else: color,dash,say = RIGHT,':','✗ the given label is right'
        text += f'\n{say}'
        ax.spines[:].set(color=color, linewidth=3, linestyle=dash)
    ax.set_title(text, fontsize=9, loc='left')
    ax.set_xlabel(f'item {row.item}', fontsize=8)

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
    head,ds = table[:n],dls.train_ds
    rec = getattr(dls, 'noise', None)
    if not len(head) or n < 1:
        raise ValueError(f"expected at least one row to show, got {len(table)} and n={n}.")
    if _image(ds, head.item.iloc[0]) is None:
        print('plot_label_issues: these items are no images, so here are the rows instead of a '
              'picture.')
        return head
    bad = None if rec is None else rec.is_noisy | rec.is_open
    cols = min(ncols, len(head))
    rows = math.ceil(len(head)/cols)
    height = 2.6 if rec is None else 2.8
    fig = new_figure(figsize or (2.1*cols, height*rows + .4))
    axs = fig.subplots(rows, cols, squeeze=False)
    fig.set_layout_engine('constrained', h_pad=.12, w_pad=.06)
    for ax in axs.flat: ax.set_axis_off()
    for ax,row in zip(axs.flat, head.itertuples()): _issue(ax, ds, row, rec, bad)
    found = '' if bad is None else f': {int(bad[head.item].sum())} of {len(head)} labels are wrong'
    fig.suptitle(title or f'The {len(head)} most suspicious labels{found}')
    return fig
