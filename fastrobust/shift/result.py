"What `corruption_report` found: errors by corruption and severity, one learner or several beside each other"
from typing import NamedTuple
import numpy as np, pandas as pd
from fastrobust.basics import nearest
from fastrobust.images.corruptions.tables import CORRUPTIONS
from fastrobust.reporting.report import Report
from fastrobust.reporting.style import new_figure
from fastrobust.shift.charts import GROUP_COLORS, GROUP_OF, draw_bars, draw_fan
from fastrobust.shift.metrics import mce_alexnet, mean_corruption_error, relative_mce

__all__ = ['compare_reports']

def _se(v):
    "Standard error of the mean of one value per image"
    n = len(v)
    return float(np.std(v, ddof=1)/np.sqrt(n)) if n > 1 else float('nan')

def _per_image(cells, names, severities):
    "Share of the severities at which each image is wrong (n,names)"
    return pd.DataFrame({k: np.mean([cells[k, s].wrong for s in severities], axis=0) for k in names})

class ByBatch(NamedTuple):
    "What a network gets wrong that normalises by the statistics of each batch"
    clean:object    # `ShiftCell` of the clean images
    cells:dict      # (name, severity) -> `ShiftCell`
    size:int        # Images of a batch, at least

class CorruptionReport(Report):
    """Result of `corruption_report`: `table`, `summary`, `clean`, `errors`, which images were wrong where (`wrong`);
    with BatchNorm by the batch `clean_bn`, `errors_bn`"""
    clean_bn:float
    errors_bn:dict|None = None
    def __init__(self,
        clean,      # `ShiftCell` of the clean images
        cells,      # (name, severity) -> `ShiftCell` of the same n images
        facts,      # Dict: what was measured on what: title, table, seed, size, classes, overlap, keys of the images
        *,
        notes=(),   # Sentences a reader must know
        paired=True,# Whether the clean images are those of the cells, in the same order
        by_batch=None # `ByBatch`; None: not measured
    ):
        self.facts = facts
        self.clean,self.clean_wrong = clean.error,clean.wrong
        self.names = list(dict.fromkeys(k for k,_ in cells))
        self.severities = sorted({s for _,s in cells})
        self.core = [k for k in self.names if k in CORRUPTIONS] or self.names
        def by_severity(name, what):
            return [getattr(cells[name, s], what) for s in self.severities]

        self.errors = {k: np.array(by_severity(k, 'error')) for k in self.names}
        self.wrong = pd.DataFrame({k: cell.wrong for k,cell in cells.items()})
        self.wrong.columns.names = ['corruption', 'severity']
        self.per_image = _per_image(cells, self.names, self.severities)

        groups = [self.group(k) for k in self.names]
        index = pd.Index(self.names, name='corruption')
        table = pd.DataFrame(dict(group=groups), index)
        for i,s in enumerate(self.severities):
            table[s] = [self.errors[k][i] for k in self.names]
        table['mean'] = [np.mean(by_severity(k, 'error')) for k in self.names]
        table['se'] = [_se(self.per_image[k]) for k in self.names]
        if by_batch is not None: table['error_bn'] = self._by_batch(by_batch)
        table['ece'] = [np.mean(by_severity(k, 'ece')) for k in self.names]
        table['rms_ce'] = [np.mean(by_severity(k, 'rms')) for k in self.names]

        summary = self._facts(table, clean, paired)
        if by_batch is not None: summary.update(self._facts_by_batch(by_batch))
        super().__init__(table, summary, _fan, name='corruption')
        s = self.summary
        self.title = (f"{facts['title']}: mean corruption error {s.mean_corruption_error:.3f} ± "
                      f"{s.mean_corruption_error_se:.3f}, clean {self.clean:.3f}")
        self.notes = [*self._explain(), *notes]

    @staticmethod
    def group(name): return GROUP_OF.get(name, 'other')

    def _by_batch(self, b):
        "Keep the errors of `ByBatch`; their means over severities"
        self.clean_bn = b.clean.error
        def errors(name): return [b.cells[name, s].error for s in self.severities]
        self.errors_bn = {k: np.array(errors(k)) for k in self.names}
        return [v.mean() for v in self.errors_bn.values()]

    def _facts_by_batch(self, b):
        mine = _per_image(b.cells, self.core, self.severities).mean(axis=1).to_numpy()
        change = mine - self.per_image[self.core].mean(axis=1).to_numpy()
        cells = [b.cells[k, s] for k in self.core for s in self.severities]
        return dict(bn_batch=b.size, clean_error_bn=b.clean.error,
                    mean_corruption_error_bn=mine.mean(), mean_corruption_error_bn_se=_se(mine),
                    bn_change=change.mean(), bn_change_se=_se(change), clean_ece_bn=b.clean.ece,
                    corrupted_ece_bn=np.mean([c.ece for c in cells]))

    def _facts(self, t, clean, paired):
        per_image = self.per_image[self.core].mean(axis=1).to_numpy()
        all15 = [k for k in self.core if k in CORRUPTIONS]
        error = mean_corruption_error(self.errors, self.core)
        mean_of = f'{len(self.core)} named corruptions'
        if all15: mean_of = f'{len(all15)} of the 15 corruptions'
        s = dict(clean_error=self.clean, clean_error_se=_se(clean.wrong),
                 mean_corruption_error=error, mean_corruption_error_se=_se(per_image),
                 mean_of=mean_of, accuracy_drop=error-self.clean)
        s['accuracy_drop_se'] = _se(per_image-clean.wrong) if paired else float('nan')
        for g in GROUP_COLORS:
            mine = t.group == g
            if mine.any(): s[g] = t['mean'][mine].mean()
        last = t[self.severities[-1]]
        s.update(worst=last.idxmax(), worst_error=last.max())
        core = t.loc[self.core]
        s.update(clean_ece=clean.ece, corrupted_ece=core.ece.mean(),
                 clean_rms_ce=clean.rms, corrupted_rms_ce=core.rms_ce.mean())
        if self.facts['alexnet'] and len(all15) == 15 and self.severities == [1, 2, 3, 4, 5]:
            s['mce_alexnet'] = mce_alexnet(self.errors)
            s['relative_mce'] = relative_mce(self.errors, self.clean)
        s['overlap'] = ', '.join(self.facts['overlap'])
        for k in ('table', 'seed', 'images', 'image_size'): s[k] = self.facts[k]
        return s

    def _explain(self):
        s = self.summary
        sev = ', '.join(map(str, self.severities))
        lost = [k for k in CORRUPTIONS if k not in self.names]
        but = f" (not {', '.join(lost)})" if 0 < len(lost) < 15 else ''
        what = self.facts.get('what', 'images')
        yield (f"Errors are shares of {s.images} {what}; mean, se, ece and rms_ce are over "
               f"severities {sev}. The mean corruption error is the plain mean over "
               f"{s.mean_of}{but}, no AlexNet in it. ±, se: one standard error over {what}.")
        known = not np.isnan(s.accuracy_drop_se)
        se = f" ± {s.accuracy_drop_se:.3f}, image by image" if known else ''
        yield (f"Above the clean error by {s.accuracy_drop:.3f}{se}. Worst at severity "
               f"{self.severities[-1]}: {s.worst}, {s.worst_error:.3f}.")
        yield ("Calibration of the predicted class, clean / corrupted: ECE (15 bins) "
               f"{s.clean_ece:.3f} / {s.corrupted_ece:.3f}, RMS (100 bins) {s.clean_rms_ce:.3f} / "
               f"{s.corrupted_rms_ce:.3f}.")
        if 'bn_batch' in s:
            yield ("error_bn: every BatchNorm layer normalises by the images at hand, in batches of at "
                   f"least {s.bn_batch} that are shuffled once, in place of the statistics of training "
                   f"(arXiv:2006.10963). Mean corruption error {s.mean_corruption_error_bn:.3f}, "
                   f"{s.bn_change:+.3f} ± {s.bn_change_se:.3f} image by image; clean error "
                   f"{s.clean_error_bn:.3f}; ECE clean / corrupted {s.clean_ece_bn:.3f} / "
                   f"{s.corrupted_ece_bn:.3f}. Smaller batches, or images that come sorted by class, "
                   "do worse.")
        if 'mce_alexnet' in s:
            c = self.facts['classes']
            caution = (f" AlexNet's errors are of ImageNet's 1000 classes, these of {c}: here they "
                       "are weights, not a comparison.")
            if c == 1000: caution = ''
            yield (f"mCE against AlexNet {s.mce_alexnet:.1f} %, relative mCE "
                   f"{s.relative_mce:.1f} %.{caution}")
        if self.core[0] in CORRUPTIONS:
            yield ("Choose nothing by these numbers, neither settings nor epochs: tune on "
                   "EXTRA_CORRUPTIONS.")

    def formatted(self):
        t = self.table.copy()
        for k in t.columns.drop('group'): t[k] = t[k].map('{:.3f}'.format)
        return t

def _fan(rep, figsize=(9, 6), title=None):
    return draw_fan(new_figure(figsize), rep, title)

# --- several learners -----------------------------------------------------------------------------
def _same(reports):
    "Refuse reports that are not of the same images under the same corruptions"
    kinds = {k: type(r).__name__ for k,r in reports.items()}
    if len(reports) < 2 or not all(isinstance(r, CorruptionReport) for r in reports.values()):
        raise TypeError("expected at least two results of corruption_report by name, got "
                        f"{kinds}. Pass {{'plain': r1, 'robust': r2}}.")
    (first,a),*others = reports.items()
    for name,b in others:
        differ = [k for k in ('table', 'seed', 'labels', 'source') if a.facts[k] != b.facts[k]]
        if list(a.wrong.columns) != list(b.wrong.columns):
            differ.append('corruptions or severities')
        if differ:
            raise ValueError("expected reports of the same images, corruptions, table and seed, "
                             f"got other {', '.join(differ)} in {name!r} than in {first!r}. Run "
                             "corruption_report alike for all.")

def _bars(rep, figsize=(10, 4.6), title=None):
    return draw_bars(new_figure(figsize), rep.reports, title)

def _rows(report):
    "Row of the table -> the corruptions that it is a mean of"
    rows = {k: [k] for k in report.names}
    for g in GROUP_COLORS:
        mine = [k for k in report.names if report.group(k) == g]
        if mine: rows[f'all {g}'] = mine
    rows['mean'] = report.core
    return rows

def _shares(reports, rows):
    "Learner -> share of the severities at which each image is wrong, by row of the table"
    wrong = {}
    for n,r in reports.items():
        means = {k: r.per_image[v].mean(axis=1) for k,v in rows.items()}
        wrong[n] = pd.DataFrame(means)
    if all(len(r.clean_wrong) == len(r.per_image) for r in reports.values()):
        for n,r in reports.items():
            wrong[n].insert(0, 'clean', r.clean_wrong.astype(float))
    return wrong

def _notes(reports, baseline):
    a = reports[baseline]
    notes = [f"Errors, and differences to {baseline!r} with one standard error over the "
             f"{len(a.wrong)} images, paired: below 0 is better. Another training of the same kind "
             "would differ too: repeat with other seeds.",
             f"mean: plain mean over {a.summary.mean_of}."]
    sizes = [f'{r.summary.bn_batch} ({n})' for n,r in reports.items() if r.errors_bn is not None]
    if sizes:
        notes.append("error_bn: with BatchNorm by the batch, of at least so many images: "
                     f"{', '.join(sizes)}. No part of the differences.")
    seen = [f'{n} ({r.summary.overlap})' for n,r in reports.items() if r.summary.overlap]
    if seen:
        notes.append("Trained on operations that overlap with corruptions here, so no fair race "
                     f"there: {'; '.join(seen)}.")
    if len({r.facts['pixels'] for r in reports.values()}) > 1:
        notes.append("The learners see the images in different sizes or crops: paired by position, "
                     "corrupted apart.")
    return notes

def compare_reports(
    reports,        # Dict from name of a learner to its `corruption_report`, all alike
    baseline=None   # Name of the one the others are compared to; None: the first
)->Report:
    "Mean errors beside each other, and their paired differences: the same images, corrupted alike"
    if not isinstance(reports, dict):
        raise TypeError(f"expected a dict of reports, got a {type(reports).__name__}. Pass "
                        "{'plain': r1, 'new': r2}.")
    _same(reports)
    baseline = next(iter(reports)) if baseline is None else baseline
    if baseline not in reports:
        raise ValueError(f"expected `baseline` as the name of a report, got {baseline!r}. "
                         f"{nearest(baseline, reports)}")
    a = reports[baseline]
    rows = _rows(a)
    wrong = _shares(reports, rows)
    t = pd.DataFrame({n: w.mean() for n,w in wrong.items()}).rename_axis('corruption')
    for n,r in reports.items():
        if r.errors_bn is None: continue
        means = {k: r.table.error_bn[v].mean() for k,v in rows.items()}
        t.insert(t.columns.get_loc(n)+1, f'{n} error_bn', pd.Series({'clean': r.clean_bn, **means}))
    for n in reports:
        if n == baseline: continue
        d = wrong[n]-wrong[baseline]
        t[f'{n} - {baseline}'] = d.mean()
        t[f'{n} - {baseline} se'] = [_se(d[k]) for k in d]
    facts = dict(baseline=baseline, images=len(a.wrong), mean_of=a.summary.mean_of)
    rep = Report(t, facts, _bars, title='Error under corruption', notes=_notes(reports, baseline),
                 name='corruption_compare')
    rep.reports,rep.learners = dict(reports),list(reports)
    return rep
