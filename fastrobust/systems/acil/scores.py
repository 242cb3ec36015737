"Accuracies of a sequence of phases, from what was recognised after each: by class, old and new, forgetting"
import numpy as np, pandas as pd

__all__ = []

def class_accuracies(past):
    "DataFrame of accuracies, a row a phase, a column a class in the order of their coming; NaN before"
    order = list(dict.fromkeys(k for p in past for k in p.new))
    rows = [[_share(p.hits.get(k)) for k in order] for p in past]
    names = pd.Index([p.name for p in past], name='after phase')
    return pd.DataFrame(rows, names, order, dtype=float)

def _share(hit):
    if hit is None or not hit[1]: return np.nan
    return hit[0]/hit[1]

def accuracy(hits, codes=None):
    "Share of the validation items of the classes `codes` that was recognised"
    codes = hits if codes is None else codes
    pairs = [hits[k] for k in codes if k in hits]
    n = sum(b for _,b in pairs)
    return sum(a for a,_ in pairs)/n if n else np.nan

def hits(head, valid):
    "(recognised, all) of each class that `head` knows, of validation items in several `Rows`"
    found:dict = {}
    for rows in valid:
        for f,y in rows.blocks():
            hit = head.predict(f) == y
            for k in set(y.unique().tolist()) & set(head.classes):
                a,b = found.get(k, (0, 0))
                found[k] = a+int(hit[y == k].sum()),b+int((y == k).sum())
    return found

def said(p):
    "A line about a `Phase`"
    line = f'{p.name}: {abs(p.n)} items, {len(p.new)} new classes, {p.known} in all'
    if not p.hits: return f'{line}, gamma {p.gamma:.3g}'
    old,new = [k for k in p.hits if k not in p.new],[k for k in p.new if k in p.hits]
    line = f'{line}: accuracy {accuracy(p.hits):.3f}'
    if len(p.hits) < p.known: line += f' on the {len(p.hits)} with validation items'
    if old and new: line += f' (old {accuracy(p.hits, old):.3f}, new {accuracy(p.hits, new):.3f})'
    return f'{line}, gamma {p.gamma:.3g}'

def forgetting(by_class):
    "After each phase, of the classes that came before it: their best accuracy so far less today's, averaged"
    v = by_class.to_numpy()
    found = [np.nan]
    for k in range(1, len(v)):
        was = ~np.isnan(v[:k]).all(0) & ~np.isnan(v[k])
        found.append(np.mean(np.nanmax(v[:k, was], 0) - v[k, was]) if was.any() else np.nan)
    return np.array(found)

def group_matrix(past):
    "DataFrame of accuracies: a row a phase, a column the classes that came with each"
    came = [p for p in past if p.new]
    found = [[accuracy(q.hits, p.new) for p in came] for q in past]
    # a list of names: two phases may have one
    return pd.DataFrame(found, pd.Index([p.name for p in past], name='after phase'), [p.name for p in came])

def phase_numbers(past):
    "DataFrame of the numbers of each phase"
    by_class = class_accuracies(past)
    rows,seen = [],set()
    for p in past:
        old = [k for k in p.hits if k in seen]
        seen |= set(p.new)
        rows.append(dict(classes=p.known, items=p.n, accuracy=accuracy(p.hits), old=accuracy(p.hits, old),
                         new=accuracy(p.hits, p.new)))
    table = pd.DataFrame(rows, pd.Index([p.name for p in past], name='phase'))
    with np.errstate(invalid='ignore'):
        table['balanced'] = [r[~np.isnan(r)].mean() if (~np.isnan(r)).any() else np.nan for r in by_class.to_numpy()]
    table['average'] = table.accuracy.expanding().mean()
    table['forgetting'] = forgetting(by_class)
    return table
