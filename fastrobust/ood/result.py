"What `ood_report` found: how well each score tells each unknown set from the known images; several learners compared"
import pandas as pd
from fastrobust.basics import nearest
from fastrobust.ood.metrics import ood_metrics
from fastrobust.ood.scores import RECOMMENDED
from fastrobust.reporting.report import Report

__all__ = ['compare_ood']

_METRICS = ('AUROC', 'FPR95', 'AUPR')
_SIDES = dict(id=('known', 'unknown images taken for known', 'the known are recognised'),
              ood=('unknown', 'known images taken for unknown', 'the unknown are found'))

def _picture(rep, score=None, **kwargs):
    from fastrobust.ood.charts import plot_ood
    return plot_ood(rep, score, **kwargs)

class OODReport(Report):
    "Result of `ood_report`: `table`, `summary`; `scores`, name -> 'id' and sets -> (n,), higher for what looks known"
    def __init__(self,
        scores,     # Name of a score -> {'id': (n,), set: (m,), ..}
        positive,   # Side the metrics call positive, 'id' or 'ood'
        near,       # Names of the sets that count as near
        # Dict: `settings` of the scores, digests of `known`, `sets` and `fit` as (n, digest),
        # `accuracy`
        facts,
        notes=()    # Sentences a reader must know
    ):
        self.scores,self.positive,self.facts = scores,positive,facts
        self.sets = [k for k in next(iter(scores.values())) if k != 'id']
        self.near = tuple(k for k in self.sets if k in near)
        side,n = _SIDES[positive][0],facts['known'][0]
        title = f"Known ({n:,} images) or unknown? Positive: the {side} ({positive!r})"
        table = pd.DataFrame(list(self._rows()))
        super().__init__(table, self._facts(), _picture, title=title, name='ood')
        self.notes = [*self._explain(), *notes]

    @property
    def groups(self):
        "Sets whose mean is in the table, by name of the group"
        far = [k for k in self.sets if k not in self.near]
        if not self.near or not far: return {'all': self.sets}
        return dict(near=list(self.near), far=far, all=self.sets)

    @property
    def recommended(self):
        "Name of the score to use where nothing else is known, of those that were asked for; None: none of these"
        return next((k for k in RECOMMENDED if k in self.scores), None)

    def _measures(self, known, unknown):
        m = ood_metrics(known, unknown, positive=self.positive)
        return dict(FPR95=m['fpr95'], AUROC=m['auroc'], AUPR=m['aupr'],
                    n_id=len(known), n_ood=len(unknown))

    def _rows(self):
        for name,s in self.scores.items():
            rows = {}
            for k in self.sets:
                group = 'near' if k in self.near else 'far'
                found = self._measures(s['id'], s[k])
                rows[k] = dict(score=name, set=k, group=group, **found)
            for group,ks in self.groups.items():
                r = dict(score=name, set='mean', group=group)
                for m in _METRICS:
                    r[m] = sum(rows[k][m] for k in ks)/len(ks)
                r['n_id'] = len(s['id'])
                r['n_ood'] = sum(rows[k]['n_ood'] for k in ks)
                rows[f'mean {group}'] = r
            for r in rows.values():
                yield dict(r, positive=self.positive)

    def _facts(self):
        f = self.facts
        s = dict(positive=self.positive)
        s['scores'] = ', '.join(f['settings'].values())
        s['near'] = ', '.join(self.near)
        s['recommended'] = self.recommended
        images = {'known': f['known'], **f['sets'], 'fit': f['fit']}
        for k,v in images.items():
            if v is not None: s[f'{k} images'],s[f'{k} digest'] = v
        if f['accuracy'] is not None: s['accuracy'] = f['accuracy']
        return s

    def _explain(self):
        f = self.facts
        side,wrong,right = _SIDES[self.positive]
        yield (f"Positive is the {side} side ({self.positive!r}): FPR95 is the share of {wrong} "
               f"where 95 % of {right}; AUPR is that of finding the {side}, where guessing gets "
               "their share. AUROC is the same either way. Do not compare with tables of the other "
               "kind.")
        yield ("FPR95 is taken at the threshold whose recall is nearest to .95, of two equally "
               "near at the lower, the pessimistic one.")
        acc = ''
        if f['accuracy'] is not None: acc = f", accuracy {f['accuracy']:.3f} by their labels"
        sets = ', '.join(f'{k} {v[0]:,}' for k,v in f['sets'].items())
        yield (f"Known: {f['known'][0]:,} images{acc}. Unknown: {sets}. Every score is higher for "
               "what looks more known. By the digests in the summary another report is known to be "
               "of the same images.")
        if self.recommended and len(self.scores) > 1:
            yield (f"Recommended of these: {self.recommended}, chosen with networks of Fashion-MNIST and "
                   "CIFAR-10, not on the images here. The highest number of this table is chosen on "
                   "them, and flatters.")
        if len(self.sets) > 1:
            yield "Means are plain means over sets, however many images they have."

    def formatted(self):
        "AUROC and FPR95 with a row per score and a column per set; the long form is `table`"
        far = [k for k in self.sets if k not in self.near]
        cols = []
        for g,ks in dict(near=self.near, far=far, all=[]).items():
            cols += [(g, k) for k in ks]
            averaged = self.groups.get(g, [])
            if len(averaged) > 1: cols.append((g, 'mean'))

        wide = {}
        for m in ('AUROC', 'FPR95'):
            t = self.table.pivot(index='score', columns=['group', 'set'], values=m)
            wide[m] = t.loc[list(self.scores), cols]
        out = pd.concat(wide).apply(lambda c: c.map('{:.3f}'.format))
        if self.near: out.columns.names = [None, None]
        else: out.columns = [k for _,k in cols]
        out.index.names = [None, None]
        return out

# --- several learners -----------------------------------------------------------------------------
def _alike(reports):
    "Refuse reports that are not of the same images, scored and counted alike"
    got,alike = type(reports).__name__,False
    if isinstance(reports, dict):
        got = {k: type(r).__name__ for k,r in reports.items()}
        alike = len(reports) > 1 and all(isinstance(r, OODReport) for r in reports.values())
    if not alike:
        raise TypeError(f"expected at least two results of ood_report by name, got {got}. "
                        "Pass {'plain': r1, 'new': r2}.")
    (first,a),*others = reports.items()
    words = dict(known='known images', sets='unknown images', settings='scores')
    for name,b in others:
        differ = [word for k,word in words.items() if a.facts[k] != b.facts[k]]
        if a.positive != b.positive: differ.append('positive')
        if a.near != b.near: differ.append('near')
        if differ:
            raise ValueError("expected reports of the same images and scores, got other "
                             f"{', '.join(differ)} in {name!r} than in {first!r}. Run ood_report "
                             "alike for all; the summaries have digests of the images.")

class _Compared(Report):
    def formatted(self):
        rows = ['score', 'set']
        # near, far and all
        if len(set(self.table.group)) > 2: rows.append('group')
        t = self.table.set_index(rows)
        t = t[[c for c in t.columns if c not in ('group', 'positive')]]
        return t.apply(lambda c: c.map('{:.3f}'.format))

def compare_ood(
    reports,        # Dict from name of a learner to its `ood_report`, all of the same images, scores and `positive`
    metrics=('AUROC', 'FPR95')  # Columns of the reports: 'AUROC', 'FPR95', 'AUPR'
)->Report:
    "AUROC and FPR95 of several learners beside each other: a row for each score and set, a column for each learner"
    _alike(reports)
    metrics = [metrics] if isinstance(metrics, str) else list(metrics)
    for m in metrics:
        if m not in _METRICS:
            raise ValueError(f"expected `metrics` of a report, got {m!r}. {nearest(m, _METRICS)}")
    a = next(iter(reports.values()))
    t = a.table[['score', 'set', 'group']].copy()
    for m in metrics:
        for name,r in reports.items():
            t[f'{m} {name}'] = r.table[m].to_numpy()
    t['positive'] = a.positive
    notes = [n for n in a._explain() if not n.startswith('Known: ')]
    notes.append("The same images and scores for all. Another training of the same kind would "
                 "differ too: repeat with other seeds before you prefer one.")
    acc = {n: r.facts['accuracy'] for n,r in reports.items()}
    told = [f'{n} {v:.3f}' for n,v in acc.items() if v is not None]
    if told: notes.append(f"Accuracy on the known: {', '.join(told)}.")
    facts = dict(a.summary.drop(['accuracy'], errors='ignore'))
    facts['learners'] = ', '.join(map(str, reports))
    side = _SIDES[a.positive][0]
    title = f"Known or unknown? Positive: the {side} ({a.positive!r})"
    rep = _Compared(t, facts, title=title, notes=notes, name='ood_compare')
    rep.reports = dict(reports)
    return rep
