"How does a learner treat rare classes? `tail_report`: accuracy by class and by head, mid and tail; learners compared"
import numpy as np, pandas as pd
from fastrobust.basics import n_classes, nearest, need_learner, target_vocab
from fastrobust.data.longtail import class_counts, head_mid_tail
from fastrobust.inference.keys import Peek
from fastrobust.inference.notes import noisy_labels_note, trained_note
from fastrobust.inference.passes import passes, wrong
from fastrobust.reporting.report import Report
from fastrobust.reporting.style import new_figure
from fastrobust.tails.accuracy import class_accuracy, class_means, group_accuracy
from fastrobust.tails.charts import draw_tails

__all__ = ['tail_report', 'compare_tails']

_ME = 'tail_report'

def _mean_se(v):
    "Mean of one value per image, and its standard error"
    mean = float(np.mean(v))
    if len(v) < 2: return mean,float('nan')
    return mean,float(np.std(v, ddof=1)/len(v)**.5)

class TailReport(Report):
    "Result of `tail_report`: `table` by class, `summary`, `groups`, and which images were recognised (`right`)"
    def __init__(self,
        pred,       # Predicted classes int64 (n,)
        y,          # Labels int64 (n,)
        counts,     # Training items per class int64 (c,)
        groups,     # 'head', 'mid', 'tail' -> positions of classes
        vocab,      # Names of the classes (c,)
        *,
        pixels='',  # Digest of the images
        notes=()    # Sentences a reader must know
    ):
        c = len(vocab)
        acc,se,n = class_accuracy(pred, y, c)
        self.y,self.right = y,pred == y
        self.counts,self.groups,self.pixels = counts,groups,pixels

        predicted = np.bincount(pred, minlength=c)
        columns = dict(training=counts, group='', images=n, accuracy=acc, se=se, share=n/len(y),
                       predicted=predicted/len(y))
        table = pd.DataFrame(columns, pd.Index(vocab, name='class'))
        for k,ids in groups.items(): table.iloc[ids, 1] = k
        order = np.concatenate([groups[k] for k in groups]).astype(int)
        super().__init__(table.iloc[order], None, _draw, name='tail')

        s = pd.Series(self._facts(acc, se, counts), dtype=object)
        self.summary = s
        self.title = (f"Class accuracy by frequency: {self._said()}; balanced "
                      f"{s.balanced_accuracy:.3f} ± {s.balanced_accuracy_se:.3f}, plain "
                      f"{s.accuracy:.3f} ± {s.accuracy_se:.3f}")
        self.notes = [*self._explain(), *notes]

    def _facts(self, acc, se, counts):
        s = {}
        groups = {**self.groups, 'balanced': np.arange(len(acc))}
        for k,ids in groups.items():
            if not len(ids): continue
            s[f'{k}_accuracy'],s[f'{k}_accuracy_se'] = group_accuracy(acc, se, ids)
        s['accuracy'],s['accuracy_se'] = _mean_se(self.right)

        lo,hi = int(counts.min()),int(counts.max())
        imbalance = float(counts.max()/lo) if lo else float('inf')
        return dict(s, images=len(self.y), classes=len(acc), training=int(counts.sum()),
                    largest=hi, smallest=lo, imbalance=imbalance)

    def _said(self):
        "Groups in a line"
        s = self.summary
        said = []
        for k in self.groups:
            if f'{k}_accuracy' not in s: continue
            said.append(f"{k} {s[f'{k}_accuracy']:.3f} ± {s[f'{k}_accuracy_se']:.3f}")
        return ', '.join(said)

    def _explain(self):
        t = self.table
        sized = {k: self.counts[o] for k,o in self.groups.items() if len(o)}
        groups = [f"{k} {len(n)} classes of {n.min()} to {n.max()} training items"
                  for k,n in sized.items()]
        yield (f"Groups: {', '.join(groups)}. Their accuracies are means over classes, each "
               "counted alike; ±, se: one standard error over images.")

        rare = t[t.group == 'tail']
        if len(rare):
            share,predicted = rare.share.sum(),rare.predicted.sum()
            yield f"The tail is {share:.1%} of these images and {predicted:.1%} of the predictions."
        gone = t.index[t.images == 0]
        if len(gone):
            names = ', '.join(map(str, gone[:5]))
            yield f"No images of {len(gone)} classes ({names}): left out of all means."

    def formatted(self):
        t = self.table.copy()
        for k in ('accuracy', 'se', 'share', 'predicted'):
            t[k] = t[k].map('{:.3f}'.format)
        return t

def _draw(rep, figsize=(9, 5.5), title=None):
    return draw_tails(new_figure(figsize), getattr(rep, 'reports', rep), title)

def _counts(learn, counts, c):
    "Training items per class, checked, and a note where the labels counted are noisy"
    if counts is not None:
        counts = np.asarray(counts.detach().cpu() if hasattr(counts, 'detach') else counts)
        if counts.shape != (c,):
            raise ValueError(f"expected `counts` of the {c} classes, got shape {counts.shape}. "
                             "Take `class_counts(dls)` of the dls it was trained on.")
        return counts,[]
    if not len(learn.dls.loaders) or not len(learn.dls.train_ds):
        raise ValueError(f"{_ME} expected training items to count, got none (an exported learner "
                         "has none). Give `counts=class_counts(dls)` of the dls it was trained on.")
    notes = []
    rec = getattr(learn.dls, 'noise', None)
    if rec is not None and rec.is_noisy.any():
        notes.append("Training items are counted by their given labels, of which "
                     f"{rec.realised_rate:.1%} are wrong.")
    return class_counts(learn.dls),notes

def tail_report(
    learn,          # A Learner that classifies images; it stays as it is, its recorder and random streams too
    # Loader of images with labels, such as `learn.dls.test_dl(items, with_labels=True)`; None: the
    # validation set
    dl=None,
    *,
    groups='thirds', # Head, mid and tail as in `head_mid_tail`: 'thirds', or sizes such as (100, 20)
    counts=None     # Training items per class (c,); None: of `learn.dls`, by given labels
)->TailReport:
    "Accuracy of each class beside how often training has it, and of head, mid and tail, with standard errors"
    need_learner(learn)
    c = n_classes(learn.dls)
    counts,notes = _counts(learn, counts, c)
    if counts.min() == counts.max():
        notes.append("All classes have as many training items, so head, mid and tail mean nothing.")
    groups = head_mid_tail(counts, groups)
    peek = Peek()
    def keep(z, y):
        wrong(z, y)     # refuses what cannot be counted
        return z.argmax(1)

    (pred,),y = passes(learn, dl, [peek], _ME, keep=keep)
    notes = noisy_labels_note(learn, dl, _ME) + trained_note(learn, dl, _ME) + notes
    vocab = target_vocab(learn.dls)
    return TailReport(pred.numpy(), y.numpy(), counts.astype(np.int64), groups, vocab,
                      pixels=peek.key, notes=notes)

# --- several learners -----------------------------------------------------------------------------
def _groups(rep): return {k: o.tolist() for k,o in rep.groups.items()}

def _same(reports, baseline):
    named = isinstance(reports, dict)
    given = list(reports.values()) if named else []
    if len(given) < 2 or not all(isinstance(r, TailReport) for r in given):
        got = type(reports).__name__
        if named: got = {k: type(r).__name__ for k,r in reports.items()}
        raise TypeError(f"expected a dict of at least two results of tail_report, got {got}. Pass "
                        "{'plain': r1, 'adjusted': r2}.")
    if baseline not in reports:
        raise ValueError(f"expected `baseline` as the name of a report, got {baseline!r}. "
                         f"{nearest(baseline, reports)}")
    a = reports[baseline]
    for name,b in reports.items():
        same = {'labels': np.array_equal(a.y, b.y),
                'images': a.pixels == b.pixels,
                'groups': _groups(a) == _groups(b),
                'training counts': np.array_equal(a.counts, b.counts)}
        differ = [k for k,v in same.items() if not v]
        if differ:
            raise ValueError("expected reports of the same images, training counts and groups, got "
                             f"other {', '.join(differ)} in {name!r} than in {baseline!r}. Run "
                             "tail_report alike for all.")

def compare_tails(
    reports,        # Dict from name of a learner to its `tail_report`, on the same images
    baseline=None   # Name of the one the others are compared to; None: the first
)->Report:
    "Accuracies of head, mid and tail beside each other, and their paired differences over the same images"
    if baseline is None and isinstance(reports, dict): baseline = next(iter(reports), None)
    _same(reports, baseline)
    a = reports[baseline]
    c = len(a.counts)
    rows = {k: o for k,o in a.groups.items() if len(o)}
    rows['balanced'] = np.arange(c)

    columns = {}
    for n,r in reports.items():
        columns[n] = {k: r.summary[f'{k}_accuracy'] for k in rows}
        columns[n]['plain'] = r.summary.accuracy
    t = pd.DataFrame(columns).rename_axis('classes')

    for n,r in reports.items():
        if n == baseline: continue
        d = r.right.astype(float)-a.right
        m,se,_ = class_means(d, a.y, c)
        change = {k: group_accuracy(m, se, o) for k,o in rows.items()}
        change['plain'] = _mean_se(d)
        t[f'{n} - {baseline}'] = pd.Series({k: v[0] for k,v in change.items()})
        t[f'{n} - {baseline} se'] = pd.Series({k: v[1] for k,v in change.items()})

    notes = [f"Accuracies, and differences to {baseline!r} with one standard error over the "
             f"{len(a.y)} images, paired: above 0 is better. Another training of the same kind "
             "would differ too: repeat with other seeds.",
             'head, mid, tail and balanced are means over classes, plain is over images.']
    facts = dict(baseline=baseline, images=len(a.y))
    rep = Report(t, facts, _draw, title='Accuracy of head, mid and tail', notes=notes,
                 name='tail_compare')
    rep.reports = dict(reports)
    return rep
