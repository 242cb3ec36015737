"The cure: loaders without the labels a report suspects, or with better ones; nothing is changed in place"
import numpy as np, pandas as pd
from fastai.data.core import DataLoaders
from fastrobust.basics import nearest, need_number, robust_warn
from fastrobust.data.editing import given_labels, take_items, with_labels
from fastrobust.data.weighting import weighted_dls
from fastrobust.labels.reviewing import by_position, class_names, need_columns, read_review
from fastrobust.reporting.report import saving

__all__ = ['fix_labels']

_HOW = ['drop', 'relabel', 'weight']

class Fixes:
    "What `fix_labels` did: `table` (item, name, old, new, how), `weights` (n,) of the items before it, `undo()`"
    def __init__(self,
        dls,    # The loaders before
        table,  # DataFrame, one row per item that was changed
        weights,# (n,) by position in the old training set: 0 dropped, 1 as ever
        notes=() # What the report says beside its numbers
    ):
        self._dls,self.table,self.weights = dls,table,weights
        self.notes = list(notes)

    def undo(self):
        "The loaders as they were"
        return self._dls

    def save(self,
        fname   # CSV to write
    ):
        "Write `table`; returns the path"
        with saving(fname): self.table.to_csv(fname, index=False)
        return fname

    def __len__(self): return len(self.table)
    def __repr__(self):
        k = self.table.how.value_counts()
        words = dict(drop='dropped', relabel='relabelled', weight='weighted down')
        what = ', '.join(f'{k[o]} {s}' for o,s in words.items() if o in k)
        return f"Fixes: of {len(self.weights)} training items {what or 'none changed'}"

# --- which rows -----------------------------------------------------------------------------------
def _count(top, n):
    need_number('top', top)
    if isinstance(top, (int, np.integer)) and 1 <= top <= n: return int(top)
    if isinstance(top, (float, np.floating)) and 0 < top < 1: return round(top*n)
    raise ValueError(f"`top` must be an int from 1 to {n} (items) or a share in (0,1), got "
                     f"{top!r}. For example top={n} for all of them, top=.05 for one in twenty; to "
                     "change none, leave out fix_labels.")

def _rank(t):
    "Place of each row, 0 the most suspicious, whatever the table is sorted by; its own order where no number tells"
    by = []     # the last counts first
    if 'margin' in t: by.append(t.margin)
    for k in ('suspicion', 'wrong'):
        if k in t and not t[k].isna().any():
            by.append(-t[k])
            break
    return np.argsort(np.lexsort(by)) if by else np.arange(len(t))

def _selected(t, n, top, threshold):
    "Rows to act on (bool), and whether somebody asked for them"
    if top is not None and threshold is not None:
        raise ValueError(f"expected `top` or `threshold`, got both ({top}, {threshold}). Give one.")
    if top is not None: return _rank(t) < _count(top, n), True
    if threshold is not None:
        need_number('threshold', threshold)
        if not 0 < threshold <= 1:
            raise ValueError("`threshold` must lie in (0,1], the range of `margin` (low = "
                             f"doubtful), got {threshold}.")
        need_columns(t, 'margin', 'to select by `threshold`')
        return t.margin.to_numpy() < threshold, True
    if 'flagged' not in t and 'decision' in t and (t.decision != '').any():
        return np.zeros(len(t), bool), False
    need_columns(t, 'flagged', 'to select without `top` and `threshold`')
    return t.flagged.to_numpy(bool), False

def _need_judged(t, chosen, asked, how, force):
    "`chosen` without rows of classes that nobody can judge; of a report that cannot judge nothing is relabelled"
    if force or 'judged' not in t: return chosen
    judged = t.judged.to_numpy(bool)
    unseen = chosen.copy()
    if 'decision' in t and (t.decision != '').any(): unseen &= (t.decision == '').to_numpy() & asked
    if not judged.any():
        if unseen.any() and (how == 'relabel' or not asked):
            raise ValueError("expected a report that can judge, got one whose judge is too weak: what it "
                             "flags and suggests are mostly guesses. Look first (decisions in a CSV are "
                             "taken), or force=True.")
        if unseen.any():
            robust_warn("this report's judge is too weak to say how many of these labels are wrong. "
                        "Look before you train without them.")
        return chosen
    if (unseen & ~judged).any():
        robust_warn(f"{int((unseen & ~judged).sum())} selected rows are of classes that the report "
                    "could not judge: they stay as they are. Look at them, or force=True.")
    return chosen & judged

def _actions(t, n, how, top, threshold, keep, force):
    "What becomes of each row: 'drop', 'weight', a class, or '' (nothing)"
    chosen,asked = _selected(t, n, top, threshold)
    chosen = _need_judged(t, chosen, asked, how, force)
    act = np.full(len(t), '', object)
    if chosen.any():
        if how == 'relabel': need_columns(t, 'suggested', "for how='relabel'")
        if how == 'weight' and 'wrong' not in t:
            need_columns(t, 'margin', "(or `wrong`) for how='weight'")
        act[chosen] = t.suggested.to_numpy()[chosen] if how == 'relabel' else how
    if 'decision' in t: _review(act, t.decision.to_numpy(object), chosen, asked)
    if keep is not None: act[np.isin(t.item, _positions(keep, n))] = ''
    return act

def _review(act, said, chosen, asked):
    "Write what the reviewer `said` into `act`"
    given = said != ''
    if given.any() and not asked:
        if k := int((chosen & ~given).sum()):
            robust_warn(f"the reviewer decided {given.sum()} rows; {k} flagged ones without a "
                        "decision stay as they are. To treat these by `how` as well, give `top` or "
                        "`threshold`.")
        act[~given] = ''
    act[given] = said[given]
    act[given & (said == 'keep')] = ''

def _positions(keep, n):
    if np.asarray(keep).dtype == bool: keep = np.flatnonzero(keep)
    else: keep = np.asarray(keep, dtype=np.int64)
    if len(keep) and not (keep.min() >= 0 and keep.max() < n):
        raise ValueError(f"expected `keep` as positions in [0,{n}), got {keep.min()} to "
                         f"{keep.max()}.")
    return keep

# --- the cure -------------------------------------------------------------------------------------
def _need_all_classes(old, y, stay, names, how):
    gone = [names[k] for k in np.unique(old) if not (y[stay] == k).any()]
    if not gone: return
    msg = (f"all training items of {', '.join(map(repr, gone[:5]))} would be gone. Keep the surest "
           "of them (`keep=` positions), select fewer (`top=`), or weigh them down (how='weight').")
    if how == 'drop' or not stay.any():
        raise ValueError(f"expected every class to keep an item, but {msg}")
    robust_warn(msg)

def _trust(t):
    "Chance that a given label is right (rows,), 1 where the table does not tell"
    trust = t.margin if 'margin' in t else pd.Series(np.ones(len(t)))
    if 'wrong' in t: trust = (1-t.wrong).fillna(trust)
    return trust.to_numpy().clip(0, 1)

def _gain(report, act, t):
    "What to know of a report whose flagged labels are treated unseen, if more right labels than wrong ones may be lost"
    lo,hi = (getattr(report, k, np.nan) for k in ('precision_lo', 'precision_hi'))
    unseen = int((act != '').sum())
    if np.isnan(lo) or not unseen or lo >= .5 or 'decision' in t: return None
    return (f"of the {unseen:,} labels that are treated unseen, between {lo:.0%} and {hi:.0%} are wrong: it "
            "cannot be told that more wrong labels go than right ones. See what a sample says first: "
            "`report.review_sample()`.")

def _done(t, act, drop, weigh):
    "What became of the rows, as a table"
    how = np.where(drop, 'drop', np.where(weigh, 'weight', 'relabel'))
    new = np.where(drop, '', np.where(weigh, t.given, act))
    done = dict(item=t.item.to_numpy(), name=t.name_.to_numpy(), old=t.given.to_numpy(),
                new=new, how=how)
    return pd.DataFrame(done).reset_index(drop=True)

def fix_labels(
    dls,            # DataLoaders the report was made of; they stay as they are
    report,         # `noise_report(..)`, its table, or a CSV of that table, edited by a reviewer or not
    # Of the selected items: 'drop', 'relabel' (as suggested), 'weight' (draw by 1-`wrong`, times
    # the weights that the training loader draws by already)
    how='drop',
    # Select so many of the most suspicious, by `suspicion`, `wrong` or `margin`, else the first rows:
    # an int, or a share of the training set in (0,1)
    top=None,
    threshold=None, # Select the items with a smaller margin, in (0,1]; neither: the flagged ones
    keep=None,      # Positions in `dls.train_ds` never to be touched, or a mask (n,)
    force=False     # Also on a report that is too weak to judge, and on classes that it does not judge
) -> DataLoaders:
    "New dls after the cure, validation the same; `.fixes` tells what was done and undoes it"
    if how not in _HOW:
        raise ValueError(f"expected `how` to be one of {_HOW}, got {how!r}. {nearest(how, _HOW)}")
    y,names = given_labels(dls),class_names(dls)
    t = by_position(read_review(report, names), dls, y, names)
    act = _actions(t, len(y), how, top, threshold, keep, force)
    gain = _gain(report, act, t)
    if gain: robust_warn(gain)
    trust = _trust(t)
    same = (act == t.given.to_numpy()) | (act == 'weight') & (trust == 1)
    act[same] = ''
    acted = act != ''
    t,trust,act = t[acted],trust[acted],act[acted]
    if not len(t): robust_warn("nothing selected, nothing changed: the labels go on as they are.")

    item = t.item.to_numpy()
    drop,weigh = act == 'drop',act == 'weight'
    w = np.ones(len(y))
    w[item[drop]] = 0
    w[item[weigh]] = trust[weigh]
    edit = ~drop & ~weigh
    new = y.copy()
    code = {o: i for i,o in enumerate(names)}
    new[item[edit]] = [code[o] for o in act[edit]]
    stay = np.ones(len(y), bool)
    stay[item[drop]] = False
    _need_all_classes(y, new, stay, names, 'drop' if drop.any() else how)

    res = with_labels(dls, new)
    if drop.any(): res = take_items(res, stay)
    if weigh.any(): res = weighted_dls(res, w[stay]*getattr(res.train, 'wgts', 1))
    caveats = getattr(report, 'caveats', [])
    res.fixes = Fixes(dls, _done(t, act, drop, weigh), w, [gain, *caveats] if gain else caveats)
    return res
