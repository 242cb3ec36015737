"A sample for a person to look at and what it says of all labels, whatever the network thinks"
from pathlib import Path
from typing import NamedTuple
import numpy as np, pandas as pd
from fastrobust.basics import need_whole, robust_warn
from fastrobust.labels.reviewing import need_columns, read_cells, read_review
from fastrobust.labels.stratified import FEWEST, drawn, ratio_of, share_of, strata_of, turns

__all__ = []

_TRIES = 40     # Samples imagined to predict a width
_VAGUE = .8     # A recall with a wider interval is not worth a sentence
_ASK = 'Give the table that `review_sample` wrote, with all its columns.'

# --- the sample -----------------------------------------------------------------------------------
def population(table):
    "The table in the order of its items, as read, with a column `p`, and its strata"
    t = read_review(table, getattr(table, 'vocab', None))
    if not len(t): raise ValueError("expected a table with items, got an empty one.")
    for k in ('wrong', 'flagged'): need_columns(t, k, 'to draw by')
    # a report keeps the order where it does not believe the chances
    order = t.get('suspicion', t.wrong).fillna(0)
    if order.min() < 0 or order.max() > 1:
        raise ValueError(f"expected chances in [0,1] in column `wrong`, got {order.min():.4g} to "
                         f"{order.max():.4g}. Leave that column as it was written.")
    t = t.assign(order=order, p=t.wrong.fillna(order)).sort_values('item').reset_index(drop=True)
    judged = t.get('judged', pd.Series(True, index=t.index))
    return t,strata_of(*[o.to_numpy() for o in (t.order, t.flagged, judged)])

def _need_n(n, strata):
    total = int(strata.size.sum())
    least = int(np.minimum(strata.size, FEWEST).sum())
    return need_whole('n', n, least, total, what='labels to look at',
                      fix=f'{FEWEST} are needed of each of {len(strata.size)} strata.')

def review_sample(
    table,  # `noise_report(..)`, or its table of all items
    n=60,   # Labels to look at, from about 12 on (two of each stratum)
    seed=0  # Of the draw; a larger `n` of the same seed begins with the same rows
)->pd.DataFrame:
    """Items to look at, in this order, as far as time allows: every beginning is a sample stratified by suspicion.
    Write into `decision` 'keep' (the label is right), the class that is right, or 'drop' (none is); nothing: not looked
    at. `chance`: of the item to be among all n. When to stop must not depend on what was found"""
    t,strata = population(table)
    n = _need_n(n, strata)
    need_whole('seed', seed, 0)
    res = t.iloc[drawn(strata, n, seed)].rename(columns=dict(name_='name'))
    h = strata.of[res.index]
    chance = np.bincount(h, minlength=len(strata.size))/strata.size
    res = res.assign(stratum=h, chance=chance[h], decision='')
    columns = ['item', 'name', 'given', 'suggested', 'wrong', 'flagged', 'stratum', 'chance',
               'decision']
    return res[[k for k in columns if k in res]].reset_index(drop=True)

# --- what the person said -------------------------------------------------------------------------
def _text(v):
    "A class number as pandas reads it beside empty cells, 3.0, as the text it was"
    return str(int(v)) if isinstance(v, float) and v.is_integer() else v

def _answers(sample, vocab):
    "Items, given labels, strata and decisions of a sample as it comes back"
    if isinstance(sample, (str, Path)): sample = read_cells(sample)
    if not isinstance(sample, pd.DataFrame):
        raise TypeError("expected the sample as a CSV file or a DataFrame, got "
                        f"{type(sample).__name__}. {_ASK}")
    sample = sample.rename(columns=lambda o: str(o).strip())
    keys = ['item', 'given', 'stratum', 'decision']
    if lost := [k for k in keys if k not in sample]:
        raise ValueError(f"expected the columns {', '.join(keys)}, got none called {lost[0]!r}. "
                         f"{_ASK}")
    said = sample.decision.astype(object).map(_text)
    t = read_review(sample[['item', 'given']].assign(decision=said), vocab)
    return t.assign(stratum=pd.to_numeric(sample.stratum, errors='coerce').to_numpy())

def _decided(sample, t, strata, vocab):
    "Wrong and decided labels of each stratum; refused where the sample is of another table"
    if vocab is None: vocab = sorted({*t.given, *t.get('suggested', [])})
    a = _answers(sample, vocab)
    pos = pd.Series(np.arange(len(t)), index=t['item']).reindex(a['item']).to_numpy()
    if np.isnan(pos).any():
        raise ValueError(f"expected a sample of these {len(t)} items, got item "
                         f"{a['item'][np.isnan(pos)].iloc[0]}. Pass the table it was drawn from.")
    pos = pos.astype(int)
    for k,own in (('given', t.given.to_numpy()[pos]), ('stratum', strata.of[pos])):
        other = np.flatnonzero(a[k].to_numpy() != own)
        if not len(other): continue
        i = other[0]
        raise ValueError(f"expected `{k}` of item {a['item'][i]} to be {own[i]}, as in the table, "
                         f"got {a[k][i]} ({len(other)} of {len(a)} rows differ). The sample is of "
                         "other data or of an older report: pass the table it was drawn from.")

    done = (a.decision != '').to_numpy()
    if not done.any():
        raise ValueError("expected decisions, got none. Write 'keep', a class or 'drop' into the "
                         "column `decision`.")
    right = a.decision.isin(['keep']) | (a.decision == a.given)
    count = lambda of: np.bincount(strata.of[pos[of]], minlength=len(strata.size))
    return count(done & ~right.to_numpy()),count(done)

def _filled(x, m, strata):
    "(wrong, decided, items) of the strata of each list; thin ones with their neighbours"
    for kind in (True, False):
        rows = np.stack([x, m, strata.size], 1)[strata.flagged == kind]
        i = 0
        while i < len(rows):
            if len(rows) == 1 or rows[i, 1] >= min(FEWEST, rows[i, 2]): i += 1
            else:
                near = i-1 if i else 1
                rows[near] += rows[i]
                rows,i = np.delete(rows, i, 0),0
        yield rows[rows[:, 1] > 0]

# --- what follows ---------------------------------------------------------------------------------
class Verified(NamedTuple):
    "What a person's decisions say of all labels, with 95 % intervals; NaN where there is nothing to say"
    rate:float          # Share of wrong labels
    lo:float
    hi:float
    precision:float     # Share of the flagged labels that are wrong
    precision_lo:float
    precision_hi:float
    recall:float        # Share of the wrong labels that are flagged
    recall_lo:float
    recall_hi:float
    n:int               # Labels decided
    items:int           # Labels in all
    flagged:int         # Flagged ones

    def __str__(self):
        res = (f"{self.n} labels looked at: {self.rate:.1%} of all {self.items:,} are wrong "
               f"({self.lo:.1%} to {self.hi:.1%}).")
        if np.isnan(self.precision): return res
        res += (f" Of the {self.flagged:,} flagged, {self.precision:.0%} are wrong "
                f"({self.precision_lo:.0%} to {self.precision_hi:.0%})")
        if np.isnan(self.recall) or self.recall_hi-self.recall_lo > _VAGUE: return res + '.'
        return (f"{res}; they are {self.recall:.0%} of all wrong labels ({self.recall_lo:.0%} to "
                f"{self.recall_hi:.0%}).")

def _parts(first, rest, total):
    "Precision and recall, from the strata of the flagged list and of the rest"
    precision = share_of(*first.T)
    missed = share_of(*rest.T) if len(rest) else (0., 0., 0.)
    n = first[:, 2].sum()
    found = [o*n/total for o in precision]
    return precision,ratio_of(found, [o*(total-n)/total for o in missed], total)

def estimates(x, m, strata):
    "`Verified` from the wrong and the decided labels of each stratum"
    first,rest = _filled(x, m, strata)
    seen = np.concatenate([first, rest])
    total,n = int(strata.size.sum()),int(strata.size[strata.flagged].sum())
    rate,lo,hi = share_of(*seen.T)
    # a list without a decision may hold anything
    known = float(seen[:, 2].sum()/total)
    rate = rate,lo*known,hi*known + (1-known)
    nothing = np.nan,0.,1.
    precision,recall = nothing,nothing
    if not n: precision,recall = (np.nan,)*3,(np.nan,)*3
    elif len(first) and (len(rest) or n == total): precision,recall = _parts(first, rest, total)
    elif len(first): precision = share_of(*first.T)
    return Verified(*rate, *precision, *recall, int(m.sum()), total, n)

def verified(
    sample,     # What `review_sample` gave, with decisions, or a CSV of it; rows in any order
    table,      # `noise_report(..)`, or its table of all items that the sample was drawn from
    vocab=None  # Classes a decision may name; None: those in the table
)->Verified:
    """Rate of wrong labels, precision and recall of the flagged list from the decided rows. A stratum of N_h of N items
    with x_h wrong of m_h adds N_h/N x_h/m_h: unbiased for any suspicion (Horvitz and Thompson 1952), if what was left
    out does not depend on what is wrong. The intervals: stratified.py"""
    t,strata = population(table)
    x,m = _decided(sample, t, strata, vocab)
    if k := int((m == 0).sum()):
        robust_warn(f"{k} of {len(m)} strata have no decision: taken to be like their neighbours or, "
                    "where all flagged labels or all others have none, to be anything. Decide the "
                    "rows in the order of the sample.")
    return estimates(x, m, strata)

def widths(
    table,      # `noise_report(..)`, or its table of all items
    ns=(30, 60, 120, 240), # Numbers of decisions; those above the number of items are left out
    sample=None, # Decisions at hand, as for `verified`: then predicted from these
    vocab=None  # As for `verified`
)->pd.DataFrame:
    """Expected widths of the intervals of rate and precision after n decisions: what another hour buys. Without a
    sample it is the network's word: too narrow where it misses errors, too wide where it is unsure of all"""
    t,strata = population(table)
    size = strata.size
    p = np.array([t.p[o].mean() for o in strata.members])
    if sample is not None:
        x,m = _decided(sample, t, strata, vocab)
        p = (x+p)/(m+1)     # the network counts as one decision
    bad = np.round(p*size).astype(int)
    rng = np.random.default_rng(0)
    rows = []
    for n in np.atleast_1d(ns):
        if n > size.sum(): continue
        m = np.bincount(turns(strata, _need_n(n, strata)), minlength=len(size))
        found = rng.hypergeometric(bad, size-bad, m, (_TRIES, len(m)))
        seen = [estimates(x, m, strata) for x in found]
        rows.append((n, np.mean([o.hi-o.lo for o in seen]),
                     np.mean([o.precision_hi-o.precision_lo for o in seen])))
    return pd.DataFrame(rows, columns=['n', 'rate', 'precision'])
