"What conformal bands are worth on new fields: coverage by level"
from typing import Any
import numpy as np, pandas as pd
from scipy import stats
from fastrobust.reporting.report import Report
from fastrobust.systems.koopman.reports.bandcharts import draw_bands
from fastrobust.systems.koopman.reports.quantiles import (
    Coverage, HistoryCoverage, conformal_quantile, coverage_of, need_level, rank_of, worst_of)

__all__ = []

LEVELS = .5, .6, .7, .8, .9, .95

class BandReport(Report):
    "Result of `report` of conformal bands: `table`, `summary`, `frames`, `scores`"
    scores:np.ndarray       # Of the new fields, or histories (n,)
    frames:Any = None   # DataFrame of half width, error and share inside by frame; None in older files
    new:str = 'fields'  # What is new: 'fields' or 'histories'
    bands:object    # `ConformalBands`
    example:tuple   # (what came, prediction, how far off it may be) of one field
    def files(self):
        several = self.frames is not None and len(self.frames) > 1
        more = {f'{self.name}_frames': self.frames} if several else {}
        return super().files() | more

def _nodes(bands, u, t, y, qs):
    "Share of single nodes inside, for each q"
    inside = np.zeros(len(qs))
    for _,err,size in bands.errors(u, t, y):
        inside += [(err <= q*size).flatten(1).double().mean(1).sum().item() for q in qs]
    return inside/len(u)

def _notes(bands, which):
    new = 'fields' if which is None else 'histories'
    n = bands.n
    k = rank_of(n, bands.level)
    low,high = stats.beta.ppf([.025, .975], k, n+1-k)
    yield (f"low, high: 95 % interval of the coverage over new {new} (Wilson). The level is a "
           f"promise over draws of new {bands.what} and of the {n} calibrated on: with these alone, "
           f"coverage lies in [{low:.3f}, {high:.3f}] 95 times in 100.")
    what = 'largest error of a field' if bands.kind == 'sup' else 'root mean square error'
    unit = 'root mean squares of the predicted field' if bands.scaled else 'units of the data'
    if bands.growth is None: yield f"q: {what}, in {unit}."
    else:
        yield (f"q: {what} of any frame, in mean errors of that frame; `frames` has half widths, "
               f"in {unit}. A field is inside if all its frames are.")
    yield ("It holds for fields drawn as those calibrated on were; with other starts, constants or "
           "meshes it may not.")
    if which is None:
        yield ("New fields count one by one. Where several are of one history they are alike: give "
               "`histories`, or low, high are too narrow.")
    elif bands.what == 'fields' and which.max() < len(which)-1:
        yield (f"Calibrated on single fields, and reported by histories, which are inside only with all their fields: "
               f"the level {bands.level:g} is promised for one field alone, and fewer histories are to be expected "
               "inside. For a promise of whole histories calibrate with `histories`.")
    yield from bands.notes

def _frames(bands, errs):
    "Half width at the level of the bands, error and share inside of the new fields, by frame"
    unit = 1 if bands.growth is None else bands.growth
    t = pd.DataFrame({'half width': bands.widths}, pd.RangeIndex(1, bands.steps+1, name='frame'))
    for name,at in (('median error', .5), (f'error at {bands.level:g}', bands.level)):
        t[name] = np.quantile(errs*unit, at, axis=0, method='inverted_cdf')
    t['inside'] = (errs <= bands.q).mean(0)
    return t

def _example(bands, u, t, y, scores):
    "The field whose score is in the middle: last frame, first variable"
    i = int(np.argsort(scores)[len(scores)//2])
    if t is not None: t = t[i:i+1]
    (_,p),*_ = bands.predicted(u[i:i+1], t)
    r = float(bands.q*bands.size(p)[0, -1, 0].flatten()[0])
    return y[i, -1, 0].double().numpy(),p[0, -1, 0].numpy(),r

def band_report(
    bands,      # `ConformalBands`
    u,          # Fields (n,t_in*c,*grid)
    t,          # Times, or None
    y,          # Frames (n,steps,c,*grid)
    levels,     # Beside that of the bands
    which=None  # History of each field, 0, 1, .. (n,); None: each counts alone
)->BandReport:
    "Coverage by level, on new fields"
    given = sorted({need_level(o) for o in (*levels, bands.level)})
    levels = [o for o in given if rank_of(bands.n, o) <= bands.n]
    errs = bands.frame_errors(u, t, y)
    each = bands.score(errs)
    scores,kind = each,Coverage
    if which is not None: scores,kind = worst_of(each, which),HistoryCoverage
    qs = [conformal_quantile(bands.calibration, o) for o in levels]
    rows = [(o, q, *coverage_of(scores <= q)[:3]) for o,q in zip(levels, qs)]
    table = pd.DataFrame(rows, columns=['level', 'q', 'coverage', 'low', 'high']).set_index('level')
    if bands.kind == 'sup': table['nodes inside'] = _nodes(bands, u, t, y, qs)
    at = coverage_of(scores <= bands.q, kind)
    facts = dict(level=bands.level, q=bands.q, kind=bands.kind, scaled=bands.scaled,
                 calibration=bands.n, **at._asdict())
    what = 'wholly inside' if bands.kind == 'sup' else 'within the radius'
    new = 'Fields' if which is None else 'Histories'
    if bands.steps > 1 and bands.kind == 'sup': what += f' in all {bands.steps} frames'
    title = f'{new} {what} at level {bands.level:g}: {at!r}'
    rep = BandReport(table, facts, draw_bands, title=title, notes=_notes(bands, which), name='bands')
    rep.scores,rep.bands,rep.frames = scores,bands,_frames(bands, errs)
    rep.new = 'fields' if which is None else 'histories'
    rep.example = _example(bands, u, t, y, each)
    return rep
