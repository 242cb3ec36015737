"What `corruption_report` found: errors by corruption and severity, one learner or several beside each other"
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
    return float(np.std(v, ddof=1)/np.sqrt(len(v))) if len(v) > 1 else float('nan')

class CorruptionReport(Report):
    "Result of `corruption_report`: `table`, `summary`, `clean`, `errors`, and which images were wrong where (`wrong`)"
    def __init__(self,
        clean,      # `ShiftCell` of the clean images
        cells,      # (name, severity) -> `ShiftCell` of the same n images
        facts,      # Dict: what was measured on what: title, table, seed, size, classes, overlap, keys of the images
        *,
        notes=(),   # Sentences a reader must know
        paired=True # Whether the clean images are those of the cells, in the same order
    ):
        self.facts,self.clean,self.clean_wrong = facts,clean.error,clean.wrong
        self.names = list(dict.fromkeys(k for k,_ in cells))
        self.severities = sorted({s for _,s in cells})
        self.errors = {k: np.array([cells[k, s].error for s in self.severities]) for k in self.names}
        self.wrong = pd.DataFrame({k: cells[k].wrong for k in cells})
        self.wrong.columns.names = ['corruption', 'severity']
        self.per_image = pd.DataFrame({k: np.mean([cells[k, s].wrong for s in self.severities], axis=0)
                                       for k in self.names})    # share of the severities at which an image is wrong
        mean = lambda what: [np.mean([getattr(cells[k, s], what) for s in self.severities]) for k in self.names]
        table = pd.DataFrame(dict(group=[self.group(k) for k in self.names]), pd.Index(self.names, name='corruption'))
        for i,s in enumerate(self.severities): table[s] = [self.errors[k][i] for k in self.names]
        table['mean'],table['se'] = mean('error'),[_se(self.per_image[k]) for k in self.names]
        table['ece'],table['rms_ce'] = mean('ece'),mean('rms')
        self.core = [k for k in self.names if k in CORRUPTIONS] or self.names
        super().__init__(table, self._facts(table, clean, paired), _fan, name='corruption')
        s = self.summary
        self.title = (f"{facts['title']}: mean corruption error {s.mean_corruption_error:.3f} ± "
                      f"{s.mean_corruption_error_se:.3f}, clean {self.clean:.3f}")
        self.notes = [*self._explain(), *notes]

    @staticmethod
    def group(name): return GROUP_OF.get(name, 'other')

    def _facts(self, t, clean, paired):
        m,f = self.per_image[self.core].mean(axis=1).to_numpy(),self.facts
        all15 = [k for k in self.core if k in CORRUPTIONS]
        s = dict(clean_error=self.clean, clean_error_se=_se(clean.wrong),
                 mean_corruption_error=mean_corruption_error(self.errors, self.core), mean_corruption_error_se=_se(m),
                 mean_of=f'{len(all15)} of the 15 corruptions' if all15 else f'{len(self.core)} named corruptions')
        s['accuracy_drop'] = s['mean_corruption_error']-self.clean
        s['accuracy_drop_se'] = _se(m-clean.wrong) if paired else float('nan')
        s.update({g: t['mean'][t.group == g].mean() for g in GROUP_COLORS if (t.group == g).any()})
        last,core = t[self.severities[-1]],t.loc[self.core]
        s.update(worst=last.idxmax(), worst_error=last.max(), clean_ece=clean.ece, corrupted_ece=core.ece.mean(),
                 clean_rms_ce=clean.rms, corrupted_rms_ce=core.rms_ce.mean())
        if f['alexnet'] and len(all15) == 15 and self.severities == [1, 2, 3, 4, 5]:
            s.update(mce_alexnet=mce_alexnet(self.errors), relative_mce=relative_mce(self.errors, self.clean))
        return dict(s, overlap=', '.join(f['overlap']), **{k: f[k] for k in ('table', 'seed', 'images', 'image_size')})

    def _explain(self):
        s,sev = self.summary,', '.join(map(str, self.severities))
        lost = [k for k in CORRUPTIONS if k not in self.names]
        but = f" (not {', '.join(lost)})" if 0 < len(lost) < 15 else ''
        yield (f"Errors are shares of {s.images} images; mean, se, ece and rms_ce are over "
               f"severities {sev}. The mean corruption error is the plain mean over "
               f"{s.mean_of}{but}, no AlexNet in it. ±, se: one standard error over images.")
        se = f" ± {s.accuracy_drop_se:.3f}, image by image" if s.accuracy_drop_se == s.accuracy_drop_se else ''
        yield (f"Above the clean error by {s.accuracy_drop:.3f}{se}. Worst at severity "
               f"{self.severities[-1]}: {s.worst}, {s.worst_error:.3f}.")
        yield ("Calibration of the predicted class, clean / corrupted: ECE (15 bins) "
               f"{s.clean_ece:.3f} / {s.corrupted_ece:.3f}, RMS (100 bins) {s.clean_rms_ce:.3f} / "
               f"{s.corrupted_rms_ce:.3f}.")
        if 'mce_alexnet' in s:
            c = self.facts['classes']
            yield f"mCE against AlexNet {s.mce_alexnet:.1f} %, relative mCE {s.relative_mce:.1f} %." + (
                '' if c == 1000 else " AlexNet's errors are of ImageNet's 1000 classes, these of "
                f"{c}: here they are weights, not a comparison.")
        if self.core[0] in CORRUPTIONS:
            yield "Choose nothing by these numbers, neither settings nor epochs: tune on EXTRA_CORRUPTIONS."

    def formatted(self):
        t = self.table.copy()
        for k in t.columns.drop('group'): t[k] = t[k].map('{:.3f}'.format)
        return t

def _fan(rep, figsize=(9, 6), title=None):
    return draw_fan(new_figure(figsize), rep, title)

# --- several learners -----------------------------------------------------------------------------
def _same(reports):
    "Refuse reports that are not of the same images under the same corruptions"
    if len(reports) < 2 or not all(isinstance(r, CorruptionReport) for r in reports.values()):
        raise TypeError("expected at least two results of corruption_report by name, got "
                        f"{ {k: type(r).__name__ for k,r in reports.items()} }. Pass {{'plain': "
                        "r1, 'robust': r2}.")
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
    rows = {k: [k] for k in a.names}
    rows.update({f'all {g}': [k for k in a.names if a.group(k) == g] for g in GROUP_COLORS})
    rows = {k: v for k,v in {**rows, 'mean': a.core}.items() if v}
    wrong = {n: pd.DataFrame({k: r.per_image[v].mean(axis=1) for k,v in rows.items()}) for n,r in reports.items()}
    if all(len(r.clean_wrong) == len(r.per_image) for r in reports.values()):
        for n,r in reports.items(): wrong[n].insert(0, 'clean', r.clean_wrong.astype(float))
    t = pd.DataFrame({n: w.mean() for n,w in wrong.items()}).rename_axis('corruption')
    for n in reports:
        if n == baseline: continue
        d = wrong[n]-wrong[baseline]
        t[f'{n} - {baseline}'],t[f'{n} - {baseline} se'] = d.mean(),[_se(d[k]) for k in d]
    notes = [f"Errors, and differences to {baseline!r} with one standard error over the "
             f"{len(a.wrong)} images, paired: below 0 is better. Another training of the same kind "
             "would differ too: repeat with other seeds.",
             f"mean: plain mean over {a.summary.mean_of}."]
    seen = {n: r.summary.overlap for n,r in reports.items() if r.summary.overlap}
    if seen:
        notes.append("Trained on operations that overlap with corruptions here, so no fair race there: "
                     + '; '.join(f'{n} ({v})' for n,v in seen.items()) + '.')
    if len({r.facts['pixels'] for r in reports.values()}) > 1:
        notes.append("The learners see the images in different sizes or crops: paired by position, corrupted apart.")
    rep = Report(t, dict(baseline=baseline, images=len(a.wrong), mean_of=a.summary.mean_of), _bars,
                 title='Error under corruption', notes=notes, name='corruption_compare')
    rep.reports,rep.learners = dict(reports),list(reports)
    return rep
