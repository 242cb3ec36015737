"A table of errors as a heat map, each number in its cell"
import numpy as np, pandas as pd
from matplotlib.colors import Normalize as Scale
from matplotlib.figure import Figure
from fastrobust.reporting.style import new_figure
from fastrobust.shift.charts import spoken

__all__ = ['plot_shift_heatmap']

def _label(o):
    if isinstance(o, tuple): return ' · '.join(map(_label, o))
    return f'{o:g}' if isinstance(o, float) else spoken(o)

def _best(v, best):
    "Where the best of a column is, of a cell if there are several tables (k,r,c)"
    if best is None: return np.zeros(v.shape, bool)
    pick = np.nanmin if best == 'min' else np.nanmax
    return v == pick(v, axis=0 if len(v) > 1 else 1, keepdims=True)

def _write(ax, v, bold, fmt, scale):
    "The numbers of a table (r,c) in its cells"
    for (a,b),x in np.ndenumerate(v):
        dark = not np.isnan(x) and scale(x) > .62
        ax.text(b, a, '–' if np.isnan(x) else format(x, fmt), ha='center', va='center', fontsize=9,
                weight='bold' if bold[a, b] else 'normal', color='#ffffff' if dark else '#000000')

def plot_shift_heatmap(
    # DataFrame of numbers: rows such as noise rates or methods, columns such as corruptions; or a
    # dict from name to such tables, all with the same rows and columns: one panel each
    table,
    *,
    fmt:str='.2f',      # Format of the numbers
    what:str='error',   # What the numbers are, under the colours
    best=None,          # 'min' or 'max': in bold, the best of each column; of each cell where there are several tables
    figsize=None,       # Size in inches; None: by the size of the table
    title=None          # Above the picture
)->Figure:
    "Tables as heat maps on one scale of colours, with the numbers in the cells"
    tables = table if isinstance(table, dict) else {'': table}
    if not tables or not all(isinstance(t, pd.DataFrame) and t.size for t in tables.values()):
        raise TypeError("expected `table` as a DataFrame with rows and columns, or a dict of them, "
                        f"got {table!r:.80}. Put the numbers in a pandas DataFrame.")
    if best not in (None, 'min', 'max'):
        raise ValueError(f"expected `best` as 'min', 'max' or None, got {best!r}. Of errors the "
                         "best is the 'min'.")
    first = next(iter(tables.values()))
    for k,t in tables.items():
        if not (t.index.equals(first.index) and t.columns.equals(first.columns)):
            raise ValueError("expected the same rows and columns in every table, got others in "
                             f"{k!r}. Reindex them.")
    v = np.stack([t.to_numpy(dtype=float) for t in tables.values()])
    k,r,c = v.shape     # tables, rows, columns
    bold = _best(v, best)
    if figsize is None:
        side = min(max(.62, 8/c), 1.1)
        figsize = (side*c + 2.2, k*(.42*r + .9) + .9)

    lo,hi = np.nanmin(v),np.nanmax(v)
    scale = Scale(lo, hi if hi > lo else lo+1)
    fig = new_figure(figsize)
    axs = fig.subplots(k, 1, squeeze=False, sharex=True)[:, 0]
    for i,(ax,name) in enumerate(zip(axs, tables)):
        im = ax.imshow(v[i], cmap='YlOrBr', norm=scale, aspect='auto')
        _write(ax, v[i], bold[i], fmt, scale)
        ax.set_yticks(range(r), [_label(o) for o in first.index], fontsize=9)
        ax.set_ylabel(_label(first.index.name) if first.index.name else '')
        ax.set_title(name, fontsize=10, loc='left')
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
    look = dict(rotation=0, ha='center', rotation_mode='default')
    if c > 5: look = dict(rotation=35, ha='right', rotation_mode='anchor')
    axs[-1].set_xticks(range(c), [_label(o) for o in first.columns], fontsize=9, **look)
    if first.columns.name: axs[-1].set_xlabel(_label(first.columns.name))
    fig.colorbar(im, ax=list(axs), label=what, shrink=.8, aspect=30)
    if title: fig.suptitle(title)
    return fig
