"What `mesh_report` returns"
import numpy as np, pandas as pd
from fastrobust.reporting.report import Report
from fastrobust.systems.koopman.reports.fieldcharts import draw_meshes
from fastrobust.systems.koopman.reports.operands import plus_minus

__all__ = []

def _spread(errors):
    "(max-min)/min"
    v = np.asarray(errors, float)
    v = v[~np.isnan(v)]
    if len(v) < 2: return np.nan
    lo,hi = v.min(), v.max()
    if np.isinf(hi): return np.inf
    if lo == hi: return 0.
    return (hi-lo)/lo if lo > 0 else np.inf

class MeshReport(Report):
    "Result of `mesh_report`: `table` by data, mesh and learner, `spread` by data and learner, `summary`"
    def __init__(self,
        rows,       # Dicts, one a row of the table
        grids,      # Name of a learner -> mesh it was trained on
        fields,     # Number of fields by data set
        notes=()    # More sentences a reader must know
    ):
        t = pd.DataFrame(rows)
        self.sizes = t.pop('sizes').tolist()
        self.grids = grids
        t = t.set_index(['data', 'mesh', 'learner'])
        super().__init__(t, None, draw_meshes, name='mesh')
        self.spread = self._spreads()
        facts = {}
        several = len(self.spread) > 1
        for at,row in self.spread.iterrows():
            lead = f"{' '.join(map(str, at))} " if several else ''
            facts |= {f'{lead}{k}': v for k,v in row.items()}
        facts |= {f'{k} fields': n for k,n in fields.items()}
        self.summary = pd.Series(facts, dtype=object)
        n = ' + '.join(f'{v:,}' for v in fields.values())
        self.title = f'Error by mesh: relative L2, {n} fields'
        self.notes = [*self._explain(), *notes]

    def _spreads(self):
        rows = {}
        t = self.table.assign(sizes=self.sizes)
        for at,part in t.groupby(['data', 'learner'], sort=False):
            grid = self.grids[at[1]]
            finer = [all(s >= g for s,g in zip(o, grid)) for o in part.sizes]
            trained = part.error[part.training.to_numpy()]
            rows[at] = dict(training_error=float(trained.iloc[0]) if len(trained) else np.nan,
                            spread_finer=_spread(part.error[finer]),
                            spread_all=_spread(part.error),
                            largest_difference=part.difference.max())
        out = pd.DataFrame.from_dict(rows, orient='index')
        return out.rename_axis(['data', 'learner'])

    def _explain(self):
        yield ("error: relative L2, mean ± one standard error over fields. difference: relative L2 "
               "between what the network gives on this mesh and on the finest it takes, at the nodes "
               "they share; 0 for one function on every mesh.")
        for at,s in self.spread.iterrows():
            who = f'{at[1]} on {at[0]}' if len(self.spread) > 1 else at[1]
            each = {'from the training mesh on': s.spread_finer, 'over all meshes': s.spread_all}
            told = [f'{v:.2%} {k}' for k,v in each.items() if not np.isnan(v)]
            if told: yield f"{who}: spread (max - min)/min of the errors {', '.join(told)}."
        yield ("A coarser mesh has every so manyth node of the finest, without a filter: what it "
               "cannot carry is folded into longer waves, as by a coarser array of sensors.")

    def files(self): return super().files() | {f'{self.name}_spread': self.spread}

    def formatted(self):
        t = self.table
        error = [plus_minus(a, b) for a,b in zip(t.error, t.se)]
        difference = ['' if np.isnan(v) else f'{v:.2g}' for v in t.difference]
        said = t.said.mask(t.training & (t.said == ''), 'training mesh')
        said = said.mask(t.training & (t.said != ''), 'training mesh, '+t.said)
        return pd.DataFrame(dict(error=error, difference=difference, said=said), t.index)
