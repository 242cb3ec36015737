"Tables of suspected labels, from a report or as a reviewer gives them back, and whose items they speak of"
from pathlib import Path, PurePath
import numpy as np, pandas as pd
from fastcore.foundation import L
from fastai.data.core import Datasets
from fastai.data.transforms import ColReader
from fastrobust.basics import nearest, robust_warn, target_vocab

__all__ = []

_WORDS = {'true': True, '1': True, 'yes': True, 'false': False, '0': False, 'no': False, '': False}

def class_names(
    dls     # DataLoaders with one single-label target
) -> list:
    "Classes of the target as strings, in the order of the codes"
    return [str(o) for o in target_vocab(dls)]

def item_names(
    ds      # A training set
) -> list|None: # of str; None where items are no files
    "File of each item, also where the items are rows that name files"
    items = getattr(ds, 'items', None)
    if isinstance(items, pd.DataFrame) and isinstance(ds, Datasets):
        readers = [f for f in ds.tls[0].tfms.fs if isinstance(f, ColReader)]
        return _read_rows(readers[0], ds.tls[0].items) if readers else None
    if not isinstance(items, (list, L)) or not len(items): return None
    return [str(o) for o in items] if isinstance(items[0], PurePath) else None

def _read_rows(reader, df):
    "What `reader` makes of each row `df.iloc[i]`, as strings, read column by column, which is much faster"
    if not len(df): return []
    cols = list(reader.cols)
    # a row has one dtype: beside floats ints become floats
    one = df.iloc[0].dtype
    cells = [(df.iloc[:, c] if isinstance(c, int) else df[c]).astype(one) for c in cols]
    return [str(reader(dict(zip(cols, row)))) for row in zip(*cells)]

# --- the table ------------------------------------------------------------------------------------
def need_columns(t, k, why):
    if k in t: return
    raise ValueError(f"expected a column `{k}` {why}, got {[o.rstrip('_') for o in t.columns]}. "
                     "Give the whole table of the report.")

def read_cells(fname):
    "All cells of a CSV as text ('None' may be a class), whichever of , ; tab a spreadsheet wrote between them"
    if not Path(fname).is_file():
        raise FileNotFoundError(f"expected a CSV, got no file {str(fname)!r}.")
    try:
        with open(fname, encoding='utf-8-sig') as f: first = f.readline()
        return pd.read_csv(fname, dtype=str, keep_default_na=False, encoding='utf-8-sig',
                           sep=max(',;\t', key=first.count))
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as e:
        raise ValueError(f"expected a CSV in UTF-8 with a line of column names, got {str(fname)!r} "
                         f"({e}). Save it as 'CSV UTF-8'.") from e

def _read_csv(fname):
    "A written report, in the order of its first column if that is the index"
    t = read_cells(fname)
    first = t.columns[0] if len(t.columns) else ''
    if first in ('', 'Unnamed: 0'):
        rank = pd.to_numeric(t[first], errors='coerce')
        t = t.iloc[np.argsort(rank.to_numpy(), kind='stable')].drop(columns=first)
    return t.reset_index(drop=True)

def _classes(t, k, names, words=()):
    "Column `k` as class names or `words`; an unknown one is refused with the nearest known"
    s = pd.Series(['' if o is None or o != o else str(o) for o in t[k]], dtype=object)
    known = names or ()
    res = s.where(s.isin(known), s.str.strip())
    low = res.str.lower()
    res = res.where(res.isin(known), low.where(low.isin(words), res))
    if names is None: return res
    bad = np.flatnonzero(~res.isin([*names, *words, '']))
    if len(bad):
        i = bad[0]
        raise ValueError(f"expected classes of the vocab in column `{k}`, got {res[i]!r} in row "
                         f"{i}. {nearest(res[i], [*words, *names])}")
    return res

def clashing(names):
    "Classes that are called as decisions are, in capitals or not"
    return sorted(o for o in names if o.strip().lower() in ('keep', 'drop'))

_MAY_BE_EMPTY = 'confidence','wrong'    # where none can be told

def _numbers(s, k):
    v = pd.to_numeric(s, errors='coerce')
    empty = s.isna() | (s.astype(str).str.strip().str.lower().isin(['', 'nan']))
    bad = np.flatnonzero(v.isna() & ~(empty & (k in _MAY_BE_EMPTY)))
    if len(bad):
        raise ValueError(f"expected numbers in column `{k}`, got {s.iloc[bad[0]]!r} in row "
                         f"{bad[0]}. Leave that column as it was written.")
    return v.to_numpy()

def _flags(s, k):
    low = [str(o).strip().lower() for o in s]
    bad = [o for o in low if o not in _WORDS]
    if bad:
        raise ValueError(f"expected True or False in column `{k}`, got {bad[0]!r}. Write True "
                         "or False.")
    return np.array([_WORDS[o] for o in low], bool)

def _items(t):
    "Column `item` as positions, each of them once"
    item = _numbers(t['item'], 'item')
    if (item != np.floor(item)).any() or (item < 0).any():
        raise ValueError("expected positions in the training set in column `item`, got fractions "
                         "or negative numbers. Leave that column as it was written.")
    if len(np.unique(item)) < len(item):
        again = pd.Series(item).duplicated()
        twice = pd.Series(item.astype(int))[again].iloc[0]
        raise ValueError(f"expected every item once, got item {twice} twice. Delete one of the two "
                         "rows.")
    return item.astype(np.int64)

def read_review(
    report,     # `noise_report(..)`, its table, or a CSV of it: rows may be missing or in another order
    vocab=None  # Classes, as `dls.vocab`; None: names are not checked
) -> pd.DataFrame:
    """The table with clean columns: item, given, and of suggested, confidence, margin, suspicion, wrong, flagged,
    judged, decision those it has. `decision`, of a reviewer: 'keep', 'drop', a class, or nothing (undecided)"""
    t = getattr(report, 'table', report)
    if isinstance(t, (str, Path)): t = _read_csv(t)
    if not isinstance(t, pd.DataFrame):
        raise TypeError("expected a report, its table (DataFrame) or a CSV file of it, got "
                        f"{type(report).__name__}. Pass what `noise_report` returned.")
    names = None if vocab is None else [str(o) for o in vocab]
    t = t.rename(columns=lambda o: str(o).strip()).reset_index(drop=True)
    for k in ('item', 'given'): need_columns(t, k, 'in the table')

    item = _items(t)
    res = pd.DataFrame(dict(item=item))
    if 'name' in t: res['name_'] = [str(o) for o in t['name']]
    else: res['name_'] = item.astype(str)
    res['given'] = _classes(t, 'given', names)
    if 'suggested' in t: res['suggested'] = _classes(t, 'suggested', names)
    for k in ('confidence', 'margin', 'suspicion', 'wrong'):
        if k in t: res[k] = _numbers(t[k], k)
    for k in ('flagged', 'judged'):
        if k in t: res[k] = _flags(t[k], k)
    if 'decision' in t:
        clash = clashing(names or ())
        if clash:
            raise ValueError(f"a class is called {clash[0]!r}, so a decision of that name has "
                             "two meanings. Rename the class, or edit the column `suggested` and use "
                             "how='relabel'.")
        res['decision'] = _classes(t, 'decision', names, ('keep', 'drop'))
    return res

# --- whose items ----------------------------------------------------------------------------------
def _tails(parts, n):
    "Last `n` parts of a path -> its position in `parts`"
    res = {}
    # two fit: none does, unless they are one file listed twice
    for i,q in enumerate(parts):
        tail = q[-n:]
        old = res.get(tail, i)
        res[tail] = i if old >= 0 and parts[old] == q else -1
    return res

def _find(wanted, names):
    "Position of each file in `names`, -1: not there; a relative name fits the one file that ends with it"
    known = {o: i for i,o in enumerate(names)}
    parts = [PurePath(o).parts for o in names]
    tails = {}      # by the number of parts
    res = []
    for w in wanted:
        p = PurePath(w).parts
        n = len(p)
        if w in known or not p: pos = known.get(w, -1)
        else:
            if n not in tails: tails[n] = _tails(parts, n)
            pos = tails[n].get(p, -1)
        res.append(pos)
    return np.array(res, np.int64)

def _by_file(t, files):
    "Table `t` with the positions of its names in `files`, without the rows of others"
    pos = _find(t.name_, files)
    if not (pos >= 0).any():
        raise ValueError("expected a report on these training items, got one on other files, "
                         f"e.g. {t.name_.iloc[0]!r} (here: {files[0]!r}). Pass the dls it was "
                         "made of.")
    if (pos < 0).any():
        robust_warn(f"{(pos < 0).sum()} of {len(pos)} rows of the report are of files that are "
                    "not in the training set (of the validation set, deleted): left out.")
    own = t['item'].to_numpy()
    # listed twice: this one
    same = [p >= 0 and i < len(files) and files[i] == files[p] for i,p in zip(own, pos)]
    pos = np.where(same, own, pos)
    return t.assign(item=pos)[pos >= 0].reset_index(drop=True)

def _eaten(have, given):
    "What else it may be where names are missing that pandas takes for missing values"
    lost = (given == '').to_numpy() & (have != '')
    if not lost.any(): return ''
    return " pandas reads names such as nan or None as missing: give the file itself, or keep_default_na=False."

def by_position(t, dls, y, names):
    "Table `t` with `item` as positions in `dls.train_ds`: by file name where both have them; refused if labels differ"
    files = item_names(dls.train_ds)
    named = files is not None and not (t.name_ == t['item'].astype(str)).all()
    if named: t = _by_file(t, files)
    elif len(t) and t['item'].max() >= len(y):
        raise ValueError(f"expected positions in a training set of {len(y)} items, got "
                         f"{t['item'].max()}. Pass the dls the report was made of.")

    have = np.array(names, object)[y[t['item'].to_numpy()]]
    bad = np.flatnonzero(have != t.given.to_numpy())
    if len(bad):
        i = bad[0]
        raise ValueError("expected the report's `given` labels to be those of these dls, got "
                         f"{len(bad)} others: item {t['item'][i]} has {have[i]!r}, the report says "
                         f"{t.given[i]!r}. It is of other dls, or of these before they were fixed: "
                         f"pass the dls it was made of.{_eaten(have, t.given)}")
    return t
